"""How a train step is split over devices."""

import jax
import numpy as np
import pytest
import small

from vidattn_jax.tools import compile as compile_lib
from vidattn_jax.training import programs
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train


def _after_a_step(c, **keys):
  """Returns the state and loss after a step from the same weights and clips."""
  c = c.copy_and_resolve_references()
  c.update_from_flattened_dict({k.replace('__', '.'): v
                                for k, v in keys.items()})
  mesh = train.check(c)
  model = state_lib.build_model(state_lib.model_arguments(
      c, len(small.CLASSES)))
  _, shapes, shardings = programs.initializer(c, mesh, model)
  rng = np.random.default_rng(0)
  state = jax.tree_util.tree_map_with_path(
      lambda path, s: _value(rng, path, s), shapes)
  state = jax.device_put(state, shardings)
  clips, labels = small.videos(c.batch_size, c.model.crop_size[0],
                               c.model.num_frames)
  batch = {'video': clips, 'label': labels,
           'mask': np.ones(len(labels), np.float32)}
  step = programs.train_step(c, mesh, model, len(small.CLASSES), shardings)
  state, metrics = step(state, sharding.to_devices(mesh, batch),
                        state_lib.key_data(0), np.float32(0.05))
  return jax.device_get(state), float(metrics['loss'])


def _value(rng, path, s):
  name = jax.tree_util.keystr(path)
  if 'opt_state' in name or s.dtype == np.int32:
    return np.zeros(s.shape, s.dtype)
  if 'var' in name or 'scale' in name:
    return np.ones(s.shape, s.dtype)
  fan_in = max(np.prod(s.shape[:-1]), 8)
  return np.asarray(rng.standard_normal(s.shape) * (2 / fan_in) ** 0.5,
                    s.dtype)


def _gap(a, b):
  return max(jax.tree.leaves(jax.tree.map(
      lambda x, y: float(np.max(np.abs(x - y), initial=0.0)), a, b)))


@pytest.fixture(scope='module')
def c():
  return small.config(model__dropout=0.0, model__num_frames=4,
                      model__crop_size=(32, 32), model__name='tsm_r18')


@pytest.mark.slow
def test_batch_norm_of_each_replica_is_that_of_its_clips_alone(c):
  # On one device, parts that are computed one after the other see the same:
  # part i has every fourth clip from i on.
  order = np.arange(c.batch_size).reshape(-1, 4).T.ravel()
  parts, loss = _after_a_step(c, accumulate_steps=4)
  videos = small.videos

  def ordered(*args):
    return tuple(x[order] for x in videos(*args))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(small, 'videos', ordered)
    replicas, loss_again = _after_a_step(c, mesh__data=4, batch_norm='replica')
  assert loss_again == pytest.approx(loss, rel=1e-5)
  assert _gap(parts.params, replicas.params) < 2e-6
  whole, _ = _after_a_step(c)
  assert _gap(whole.params, replicas.params) > 1e-4


def test_batch_norm_that_is_neither_is_told(c):
  c = c.copy_and_resolve_references()
  c.batch_norm = 'local'
  with pytest.raises(ValueError, match='no value of config.batch_norm'):
    train.check(c)


def test_sharded_parameters_are_gathered_and_no_clip_is(c, monkeypatch):
  # Every leaf of more than 16 KiB is split.
  rule = sharding.state_sharding
  monkeypatch.setattr(sharding, 'state_sharding',
                      lambda *args: rule(*args, min_bytes=2 ** 14))
  c = c.copy_and_resolve_references()
  c.mesh.update(data=-1, shard_parameters=True)
  model = state_lib.build_model(state_lib.model_arguments(
      c, compile_lib.DEFAULT_CLASSES))
  _, shapes, shardings = programs.initializer(c, train.check(c), model)
  split = [s.size * 4 for s, where in zip(
      *map(jax.tree.leaves, (shapes.params, shardings.params)))
           if not where.is_fully_replicated]
  assert split
  found = compile_lib.compile_step(c, compile_lib.get_topology('cpu:8'), 1)
  # Weights and momentum: an eighth of what is split, and all that is not.
  everything = 4 * sum(s.size for s in jax.tree.leaves(shapes))
  clips = np.prod(model.image_shape)
  assert found.arguments == pytest.approx(
      everything - 2 * 7 / 8 * sum(split) + clips, rel=0.01)
  gathered = {e.kind: e.bytes for e in found.collectives}
  assert set(gathered) <= {'all-gather', 'all-reduce', 'reduce-scatter',
                           'all-to-all'}
  # Forward and, at most, once more backward.
  assert sum(split) <= gathered['all-gather'] <= 2.1 * sum(split)
