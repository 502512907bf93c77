"""Clips that lie on several devices, and what is computed again."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from vidattn_jax.backbones import remat
from vidattn_jax.ops import convolution
from vidattn_jax.ops import per_device
from vidattn_jax.ops import pooling
from vidattn_jax.tools import compile as compile_lib
from vidattn_jax.tools import hlo
from vidattn_jax.training import optim
from vidattn_jax.training import programs
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train


def _config(**overrides):
  return small.config(**{
      'model__dropout': 0.0, 'model__crop_size': (64, 64), 'batch_size': 2,
      'model__attention': '', 'model__stages': (), **overrides})


def _step(c, devices=1):
  """Runs a step; returns (state, loss, compiled step)."""
  c = c.copy_and_resolve_references()
  mesh = sharding.make_mesh(c, jax.devices()[:devices])
  classes = len(small.CLASSES)
  model = state_lib.build_model(state_lib.model_arguments(c, classes),
                                partial_bn=c.partial_bn)
  init, _, shardings = programs.initializer(c, mesh, model)
  key = state_lib.key_data(0)
  batch = next(iter(small.inputs(c).train_batches(0, 1)))
  batch = sharding.to_devices(
      mesh, {k: batch[k] for k in ('video', 'label', 'mask')})
  state = init(key)
  if c.model.dtype == 'float64':
    state = jax.tree.map(
        lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, state)
  arguments = state, batch, key, np.float32(0.05)
  step = programs.train_step(c, mesh, model, classes, shardings).lower(
      *arguments).compile()
  state, metrics = step(*arguments)
  return jax.device_get(state), float(metrics['loss']), step


def _check_same(a, b, tolerance):
  gaps = jax.tree.map(
      lambda x, y: float(np.max(np.abs(x - y), initial=0.0)
                         / np.max(np.abs(y), initial=1.0)),
      (a.params, a.batch_stats), (b.params, b.batch_stats))
  for path, gap in jax.tree_util.tree_leaves_with_path(gaps):
    assert gap < tolerance, optim.path_name(path)


@pytest.mark.parametrize('network, frames, attention', [
    ('tsm_r18', 8, ''), *(
        pytest.param(*network, marks=pytest.mark.slow) for network in (
            ('tsm_r18', 8, 'CinST->STinC'), ('tsm_r18', 8, 'CBAM3D377'),
            ('r3d_18', 16, 'STA'),
            ('c3d', 16, ''), ('tcnn', 16, '')))])
def test_a_clip_on_several_devices_equals_one_on_one(network, frames,
                                                     attention):
  c = dict(model__name=network, model__num_frames=frames,
           model__attention=attention)
  want, loss, _ = _step(_config(**c))
  for cut, pieces in (('time', 2), ('height', 4)):
    got, again, step = _step(
        _config(**c, mesh__data=2, **{f'mesh__{cut}': pieces}), 2 * pieces)
    assert again == pytest.approx(loss, abs=1e-6)
    _check_same(got, want, 2e-6)
    # Neighbours exchange rows, or frames. What is gathered is small: planes
    # that gates see, and the map from which on devices have whole clips.
    sent = {'all-gather': 0}
    for found in hlo.Program(step.as_text()).collectives(2 * pieces):
      sent[found.kind] = sent.get(found.kind, 0) + found.bytes
    first = 4 * frames * 16 * 16 * 4  # of one clip, in stage 1
    gated = attention in ('CinST->STinC', 'CBAM3D377')
    assert sent['all-gather'] < first * (8 if gated else 0.5)
    assert sent['collective-permute'] and 'all-to-all' not in sent


@pytest.mark.slow
def test_parts_of_a_batch_on_cut_clips():
  c = dict(model__name='tsm_r18', model__num_frames=8, accumulate_steps=2,
           batch_size=4)
  want, loss, _ = _step(_config(**c))
  got, again, _ = _step(_config(**c, mesh__data=2, mesh__time=2), 4)
  assert again == pytest.approx(loss, abs=1e-6)
  _check_same(got, want, 2e-6)


@pytest.mark.slow
def test_t_stam_on_cut_clips():
  # In float32 its gradients differ by more, whoever computes them.
  c = dict(model__name='tstam', model__num_frames=4, model__dtype='float64')
  with jax.enable_x64(True):
    want, _, _ = _step(_config(**c))
    got, _, _ = _step(_config(**c, mesh__data=2, mesh__height=2), 4)
  _check_same(got, want, 1e-7)


@pytest.mark.parametrize('shape, kernel, stride, padding, dilation, groups', [
    ((2, 8, 8, 5, 4), (3, 3, 3), (1, 2, 2), 1, 1, 2),
    ((2, 16, 16, 5, 4), (5, 7, 7), (2, 2, 2), (2, 3, 3), 1, 1),
    ((2, 8, 8, 5, 4), (1, 1, 1), (1, 2, 2), 0, 1, 1),
    ((2, 8, 16, 5, 4), (3, 3, 3), (1, 1, 1), (2, 2, 1), (2, 2, 1), 1),
    ((2, 8, 8, 5, 4), (5, 5, 1), (1, 1, 1), (8, 8, 0), (4, 4, 1), 1),
    ((4, 16, 5, 4), (7, 7), (2, 2), 3, 1, 1)])
def test_convolutions_see_their_neighbours(shape, kernel, stride, padding,
                                           dilation, groups):
  rank = len(kernel)
  padding, dilation = (
      (value,) * rank if isinstance(value, int) else value
      for value in (padding, dilation))
  rng = np.random.default_rng(0)
  x = rng.standard_normal(shape)
  taps = rng.standard_normal((*kernel, shape[-1] // groups, 6))
  numbers = ('NDHWC', 'DHWIO', 'NDHWC') if rank == 3 else (
      'NHWC', 'HWIO', 'NHWC')

  def run(convolution, x, taps):
    y, back = jax.vjp(functools.partial(
        convolution, window_strides=stride, padding=[(p, p) for p in padding],
        rhs_dilation=dilation, dimension_numbers=numbers,
        feature_group_count=groups), x, taps)
    return y, back(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

  with jax.enable_x64(True):
    want = run(jax.lax.conv_general_dilated, *map(jnp.asarray, (x, taps)))
    for cut in ('time', 'height')[rank == 2:]:
      mesh = sharding.make_mesh(_config(
          mesh__data=2, model__num_frames=8, **{f'mesh__{cut}': 2}))
      got = jax.jit(per_device.on_mesh(mesh, functools.partial(
          run, convolution.conv_general_dilated)))(
              jax.device_put(x, sharding.clip_sharding(mesh, x.shape)), taps)
      text = jax.jit(per_device.on_mesh(mesh, functools.partial(
          run, convolution.conv_general_dilated))).lower(x, taps).as_text()
      # What reaches further than the next piece sees the whole.
      assert ('collective_permute' in text) == (
          max(kernel) > 1 and padding[0] < 8)
      jax.tree.map(functools.partial(
          np.testing.assert_allclose, rtol=1e-10, atol=1e-12), got, want)


@pytest.mark.parametrize('padding', [((0, 0), (1, 1), (1, 1)),
                                     ((0, 0), (0, 1), (0, 1))])
def test_pooling_sees_its_neighbours(padding):
  x = -np.abs(np.random.default_rng(0).standard_normal(
      (2, 4, 16, 16, 3))).round(1)  # all below the zeros that are not sent

  def run(x):
    y, back = jax.vjp(lambda x: pooling.max_pool(
        x, (1, 3, 3), (1, 2, 2), padding), x)
    return y, back(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

  want = jax.jit(run)(x.astype(np.float32))
  mesh = sharding.make_mesh(_config(mesh__data=2, mesh__height=4))
  got = jax.jit(per_device.on_mesh(mesh, run))(
      sharding.to_devices(mesh, x.astype(np.float32)))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5,
                                 atol=1e-6), got, want)


def test_devices_hold_a_piece_of_each_clip():
  mesh = sharding.make_mesh(_config(mesh__data=2, mesh__height=4))
  clips = np.zeros((2, 3, 2, 64, 64, 3), np.uint8)
  on_devices = sharding.to_devices(mesh, {'video': clips, 'mask': clips[:, 0,
                                                                        0, 0]})
  assert {s.data.shape for s in on_devices['video'].addressable_shards} == {
      (1, 3, 2, 16, 64, 3)}
  assert {s.data.shape for s in on_devices['mask'].addressable_shards} == {
      (1, 64, 3)}
  # In evaluation crops may have another size.
  odd = sharding.to_devices(mesh, clips[..., :63, :, :])
  assert {s.data.shape for s in odd.addressable_shards} == {
      (1, 3, 2, 63, 64, 3)}


@pytest.mark.parametrize('overrides, text', [
    ({'mesh__time': 2, 'mesh__height': 2, 'model__num_frames': 8},
     'mesh.time and config.mesh.height are both above 1; cut clips along one'),
    ({'mesh__height': 3}, 'mesh.height is 3, but clips are 64 pixels high; use '
     'a number that 64 is a multiple of 4 times of, or 1'),
    ({'mesh__time': 0}, 'mesh.time is 0, but clips are 2 frames long'),
    ({'mesh__height': 16}, 'has 8 devices, 16 for each clip.s height, which'),
    ({'mesh__height': 4, 'mesh__data': 3},
     'mesh.data is 3, but there are 8 devices, 4 for each clip.s height; use '
     '-1'),
    ({'mesh__height': 2, 'mesh__data': 2, 'batch_norm': 'replica'},
     "batch_norm is 'replica', but config.mesh.height puts a clip on several")])
def test_clips_that_cannot_be_cut_are_told(overrides, text):
  with pytest.raises(ValueError, match=text):
    sharding.make_mesh(_config(**overrides))


def _remat(network, attention):
  return dict(model__name=network, model__attention=attention,
              model__num_frames=16 if network in ('c3d', 'p3d_199') else 2)


@pytest.mark.parametrize('network, attention, kinds', [
    ('tsn_r18', 'C', ('blocks',)),
    *(pytest.param(*network, remat.KINDS[1:], marks=pytest.mark.slow)
      for network in (('tsm_r50', 'STinC'), ('tsn_bninception', 'C'),
                      ('c3d', 'STA')))])
def test_what_is_computed_again_is_the_same(network, attention, kinds):
  # (Frozen statistics stay so.)
  c = _remat(network, attention) | {'partial_bn': network == 'tsn_r18'}
  want, loss, _ = _step(_config(**c))
  for kind in kinds:
    got, again, _ = _step(_config(**c, remat=kind))
    assert again == pytest.approx(loss, abs=1e-6)
    _check_same(got, want, 2e-6)


@pytest.mark.parametrize('network, attention', [
    ('tsn_r18', 'CinST'), ('tsm_r50', ''), ('tsn_bninception', 'C'),
    ('c3d', 'STA'), ('r3d_18', 'STA'), ('tcnn', '')])
def test_what_is_computed_again_is_not_kept(network, attention):
  c = _config(**_remat(network, attention)).copy_and_resolve_references()
  model = state_lib.build_model(state_lib.model_arguments(c, 3))
  video = jax.ShapeDtypeStruct((64, *model.image_shape), np.float32)
  variables = jax.eval_shape(
      lambda: state_lib.init_variables(model, jax.random.key(0)))

  def kept(kind):
    """Bytes between the forward and the backward pass."""
    def forward(variables, video):
      def logits(params):
        return model.apply(
            variables | {'params': params}, video, train=True,
            mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)})[0][
                'logits']
      with remat.computing_again(kind):
        return jax.vjp(logits, variables['params'])[1]
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(
        jax.eval_shape(forward, variables, video)))

  nothing, units, convolutions, blocks = map(kept, remat.KINDS)
  assert blocks < 0.95 * convolutions < 0.9 * nothing
  assert (units < nothing) == bool(attention)


@pytest.mark.parametrize('overrides', [
    {'model__name': 'st_abn_r50', 'model__num_frames': 32},
    {'data__modality': 'flow', 'data__mean': (0.5,), 'data__std': (1.0,)}])
def test_what_takes_whole_clips_alone_is_told(overrides, tmp_path):
  c = _config(mesh__height=2, mesh__data=1, **overrides)
  with pytest.raises(ValueError, match='mesh.height are for networks of one '
                     f'backbone, on .*; {c.model.name} on {c.data.modality} '
                     'takes whole clips here: leave them 1'):
    train.train_and_evaluate(c, tmp_path, small.inputs(small.config()))
  with pytest.raises(ValueError, match='takes whole clips'):
    compile_lib.lower(c, compile_lib.get_topology('cpu:8'), 1)


def test_a_clip_lies_with_one_process():
  devices = [types.SimpleNamespace(process_index=i // 2 % 2, id=i)
             for i in range(8)]  # as on a torus: two of one, two of the other
  assert [(d.process_index, d.id) for d in sharding._in_groups(devices)] == [
      (0, 0), (0, 1), (0, 4), (0, 5), (1, 2), (1, 3), (1, 6), (1, 7)]


def test_what_to_compute_again_is_checked(tmp_path):
  c = small.config(remat='block')
  text = "config.remat 'block'; did you mean blocks"
  with pytest.raises(ValueError, match=text):
    train.train_and_evaluate(c, tmp_path, small.inputs(small.config()))
  with pytest.raises(ValueError, match=text):
    compile_lib.lower(c, compile_lib.get_topology('cpu:1'), 8)
