"""A network that sees frames learns from one that sees flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from configs import common
from vidattn_jax.models import get_model
from vidattn_jax.ops import flow
from vidattn_jax.training import distill
from vidattn_jax.training import losses
from vidattn_jax.training import optim
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train

WEIGHT = 3.0


class Linear:
  """A network of two matrices."""

  def apply(self, variables, video, train, mutable, rngs, capture=False):
    del train, mutable, rngs
    params = variables['params']
    stage = video.mean((2, 3), keepdims=True) @ params['backbone']['kernel']
    logits = stage.mean((1, 2, 3)) @ params['head']['kernel']
    return {'logits': logits, **({'stages': [stage]} if capture else {})}, {}


def _moved(how, teacher):
  """Returns how far one step without momentum moves the parameters."""
  c = common.get_config()
  c.optimizer.update(momentum=0.0, weight_decay=0.0, clip_norm=0.0)
  c.distill.update(how=how, weight=WEIGHT)
  c.data.mean, c.data.std = (0.0,), (1 / 255,)
  rng = np.random.default_rng(0)
  params = {'backbone': {'kernel': rng.normal(size=(3, 4)).astype(np.float32)},
            'head': {'kernel': rng.normal(size=(4, 5)).astype(np.float32)}}
  batch = {'video': rng.integers(0, 9, (2, 3, 2, 2, 3)).astype(np.uint8),
           'label': np.asarray([1, 4]), 'mask': np.ones(2, np.float32)}
  state = state_lib.TrainState(
      jnp.zeros((), jnp.int32), params, {},
      optim.make_optimizer(params, c).init(params), {}, {})
  see = lambda weights, video: jnp.tile(weights, (len(video), 1))  # noqa: E731
  step = state_lib.make_train_step(Linear(), c, 5, teacher is not None and see)
  new, metrics = step(state, batch, state_lib.key_data(0), np.float32(1),
                      teacher)
  return (jax.tree.map(lambda a, b: a - b, params, new.params), metrics, params,
          batch)


def test_what_each_loss_trains():
  teacher = np.asarray([.5, -1, 2, 0], np.float32)
  plain, without, params, batch = _moved('mars', None)
  mars, metrics, _, _ = _moved('mars', teacher)
  mers, _, _, _ = _moved('mers', teacher)

  def error(params):
    video = batch['video'].astype(np.float32).mean((1, 2, 3))
    return jnp.square(video @ params['backbone']['kernel'] - teacher).mean()

  gap = jax.grad(error)(params)
  close = lambda a, b: np.testing.assert_allclose(  # noqa: E731
      a, b, rtol=1e-4, atol=1e-5)
  close(mars['head']['kernel'], plain['head']['kernel'])
  close(mers['head']['kernel'], plain['head']['kernel'])
  close(mars['backbone']['kernel'],
        plain['backbone']['kernel'] + WEIGHT * gap['backbone']['kernel'])
  close(mers['backbone']['kernel'], WEIGHT * gap['backbone']['kernel'])
  close(metrics['loss'], without['loss'] + 2 * WEIGHT * error(params))


def test_teachers_see_the_flow_of_the_clip():
  class Eyes:
    def apply(self, variables, video, train, capture):
      assert not train and capture
      return {'stages': [video * variables['factor']]}

  rng = np.random.default_rng(1)
  video = np.stack([np.roll(rng.integers(0, 255, (16, 16, 3)), i, 1)
                    for i in range(3)])[None].astype(np.uint8)
  teacher = distill.Teacher(Eyes(), {'factor': 2.0}, (0.0,), (1 / 255,), 20.0)
  got = teacher.features(teacher.variables, video)
  fields = np.asarray(flow.between(video, 20.0), np.float32)
  # Two fields between three frames; the last one counts twice.
  wanted = 2 * (fields[0, 0] + 2 * fields[0, 1]).mean((0, 1)) / 3
  np.testing.assert_allclose(got, [wanted], rtol=1e-5)


def test_other_widths_are_told():
  with pytest.raises(ValueError, match='has 4 features, its teacher 8'):
    losses.feature_gap(np.zeros((1, 2, 3, 3, 4)), np.zeros((1, 8)))


@pytest.mark.parametrize('overrides,message', [
    ({'distill.how': 'mors'}, 'choose mars or mers'),
    ({'distill.weight': 0.0}, 'must be above 0'),
    ({'model.name': 'tsn_r18'}, 'tsn_r18 is no 3D network'),
    ({'data.sampling': 'segment'}, "set data.sampling to 'dense'"),
    ({'data.dense_span': 32}, 'data.dense_span to model.num_frames, 16'),
    ({'mixup_alpha': 0.1}, 'config.mixup_alpha is 0.1')])
def test_keys_that_cannot_be_are_told(overrides, message):
  c = small.config(**{'model.name': 'r3d_18', 'model.num_frames': 16,
                      'model.attention': '', 'model.stages': (),
                      'data.sampling': 'dense', 'data.dense_span': 16,
                      'distill.teacher': 'somewhere', **overrides})
  with pytest.raises(ValueError, match=message):
    train.check(c)


def test_students_of_frames_capture_their_features_in_training():
  model = get_model('r3d_18', width=1 / 16, num_classes=3, num_frames=8,
                    crop_size=32)
  video = jax.ShapeDtypeStruct((2, 8, 32, 32, 3), np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), video)
  outputs, updated = jax.eval_shape(
      lambda v, x: model.apply(v, x, train=True, capture=True, rngs={
          'dropout': jax.random.key(0)}, mutable=['batch_stats']),
      variables, video)
  assert outputs['stages'][-1].shape == (2, 1, 1, 1, 32)
  assert updated['batch_stats'].keys() == {'backbone'}


@pytest.mark.slow
def test_a_student_learns_from_a_checkpoint(tmp_path):
  keys = {'model.name': 'r3d_18', 'model.num_frames': 4, 'model.attention': '',
          'model.stages': (), 'data.sampling': 'dense', 'data.dense_span': 4,
          'num_epochs': 1.0}
  c = small.config(**{**keys, 'data.modality': 'flow', 'data.flow_stack': 1,
                      'data.mean': (128 / 255,), 'data.std': (0.1,)})
  inputs = small.inputs(c)
  inputs.pixels['flow'] = {'stack': 1, 'bound': 20.0, 'stored': True}
  train.train_and_evaluate(c, tmp_path / 'flow', inputs)
  c = small.config(**{**keys, 'distill.teacher': str(tmp_path / 'flow')})
  result = train.train_and_evaluate(c, tmp_path / 'rgb', small.inputs(c))
  assert np.isfinite(result.scores).all()
  # Its clips here are not what it learned from, and that is said.
  said = []
  distill.load_teacher(str(tmp_path / 'flow'), said.append)
  assert len(said) == 1 and 'learned stored flow' in said[0]
  c = small.config(**{**keys, 'distill.teacher': str(tmp_path / 'rgb')})
  with pytest.raises(ValueError, match='must be of a 3D network that sees'):
    train.train_and_evaluate(c, tmp_path / 'other', small.inputs(c))
