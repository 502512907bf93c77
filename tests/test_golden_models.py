"""Video networks against the numbers of the codes that their papers used."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models

TOLERANCE = 1e-4
_SLOW = pytest.mark.slow


@functools.cache
def _golden(data_dir, key):
  return dict(np.load(data_dir / 'golden' / f'{key}.npz'))


def _state_dict(layout, gain=1):
  """Returns seeded weights, the scales of normalisations times `gain`."""
  return {name: array * np.float32(gain)
          if name.endswith('.weight') and array.ndim == 1 else array
          for name, array in seeded.state_dict(layout).items()}


def _channels_last(x):
  return np.moveaxis(x, 1, -1)


def _input(golden):
  """Returns the clip or the images of a reference, channels first."""
  shape, block = golden['input_shape'].tolist(), int(golden['input_block'])
  x = seeded.clip((*shape[:-2], shape[-2] // block, shape[-1] // block),
                  int(golden['seed']))
  return x.repeat(block, -2).repeat(block, -1)


def _run(model, weights, x, paths=()):
  """Returns outputs, and those of the modules at `paths`, by path."""
  variables = convert.from_torch(model, weights, x.shape[1:])

  def apply(variables, x):
    seen = {}

    def note(call, args, kwargs, context):
      y = call(*args, **kwargs)
      path = '/'.join(context.module.path)
      if path in paths and context.method_name == '__call__':
        seen[path] = y
      return y

    with nn.intercept_methods(note):
      outputs = model.apply(variables, x, capture=True)
    return outputs, seen

  with jax.default_matmul_precision('highest'):
    outputs, seen = jax.jit(apply)(variables, jnp.asarray(x))
  assert seen.keys() == set(paths)
  return outputs, seen


def _check(ours, golden, name):
  difference = seeded.difference(ours, golden[name])
  assert difference < TOLERANCE, f'{name} differs by {difference:.1e}'


def _check_summary(ours, golden, name):
  """Compares a channels-last array with what is kept of the reference."""
  ours = np.moveaxis(np.asarray(ours, np.float64), -1, 1)
  assert ours.shape == tuple(golden[f'{name}_shape'])
  _check([ours.mean(), ours.std(), ours.max()], golden, f'{name}_stats')
  flat = ours.ravel()
  _check(flat[::max(1, flat.size // 512)][:512], golden, f'{name}_sample')


# Key of the reference, layout of its weights, model, what it is built with.
RESIDUAL = [
    ('r3d_resnet18a_seed0', 'r3d_resnet18a_kinetics', 'r3d_18', {}),
    pytest.param('r3d_resnet18b_seed0', 'r3d_resnet18b_kinetics', 'r3d_18',
                 {'shortcut': 'B'}, marks=_SLOW),
    pytest.param('r3d_resnext101_16f_seed0', 'r3d_resnext101_kinetics',
                 'resnext3d_101', {}, marks=_SLOW),
    pytest.param('sta_resnext101_16f_pre_seed0', 'sta_resnext101_kinetics',
                 'resnext3d_101', {'attention': 'STA'}, marks=_SLOW),
    pytest.param('sta_resnext101_16f_post_seed0', 'sta_resnext101_kinetics',
                 'resnext3d_101',
                 {'attention': 'STA', 'position': 'after_sum'}, marks=_SLOW)]


@pytest.mark.parametrize('key, layout, name, build', RESIDUAL)
def test_3d_residual_networks(data_dir, key, layout, name, build):
  golden = _golden(data_dir, key)
  x = _channels_last(seeded.clip((1, 3, 16, 112, 112)))
  outputs, seen = _run(models.get_model(name, **build),
                       _state_dict(layout), x, ('backbone/maxpool', 'neck'))
  _check_summary(seen['backbone/maxpool'], golden, 'maxpool')
  for i, stage in enumerate(outputs['stages'], 1):
    _check_summary(stage, golden, f'layer{i}')
  _check_summary(seen['neck'][:, None, None, None], golden, 'avgpool')
  _check(outputs['logits'], golden, 'logits')


def test_slow_pathway(data_dir):
  golden = _golden(data_dir, 'slow_r50_8x112')
  x = _channels_last(_input(golden))
  outputs, seen = _run(
      models.get_model('slow_r50'),
      _state_dict('slow_r50_pytorchvideo', golden['norm_gain']), x,
      ('backbone/maxpool',))
  for i, stage in enumerate([seen['backbone/maxpool'], *outputs['stages']]):
    stage = np.moveaxis(np.asarray(stage), -1, 1)
    _check(stage.mean((2, 3, 4)), golden, f'mean_blocks_{i}')
    _check(stage[:, :8, :, -2:, -2:], golden, f'corner_blocks_{i}')
  _check(outputs['logits'], golden, 'logits')


@_SLOW
def test_c3d(data_dir):
  golden = _golden(data_dir, 'c3d_seed0')
  x = _channels_last(seeded.clip((1, 3, 16, 112, 112)))
  pools = [f'backbone/pool{i}' for i in range(1, 5)] + ['neck/pool5']
  linear = ['backbone/conv5b/conv', 'neck/fc6', 'neck/fc7']
  outputs, seen = _run(models.get_model('c3d', num_classes=101),
                       _state_dict('c3d_ucf101'), x, (*pools, *linear))
  for path in pools:
    _check_summary(seen[path], golden, path.rpartition('/')[2])
  for path, name in zip(linear, ('conv5b', 'fc6', 'fc7')):
    _check_summary(seen[path], golden, name)
  np.testing.assert_array_equal(
      outputs['stages'][-1], np.maximum(seen['backbone/conv5b/conv'], 0))
  _check(outputs['logits'], golden, 'logits')


@_SLOW
def test_p3d(data_dir):
  golden = _golden(data_dir, 'p3d199_seed0')
  x = _channels_last(seeded.clip((1, 3, 16, 160, 160)))
  outputs, seen = _run(models.get_model('p3d_199'),
                       _state_dict('p3d199_kinetics400'), x,
                       ('backbone/maxpool', 'neck'))
  _check_summary(seen['backbone/maxpool'], golden, 'maxpool')
  for i, stage in enumerate(outputs['stages'], 1):
    _check_summary(stage[:, 0] if i == 4 else stage, golden, f'layer{i}')
  _check_summary(seen['neck'][:, None, None], golden, 'avgpool')
  _check(outputs['logits'], golden, 'logits')


# Key of the reference, model, layout of its weights, channels of the input.
INCEPTION = [
    ('bninception_224', 'tsn_bninception', 'bninception', 'rgb'),
    pytest.param('bninception_flow_224', 'tsn_bninception', 'bninception',
                 'flow', marks=_SLOW),
    ('bninception_se_224', 'tsn_se_bninception', 'se_bninception', 'rgb')]
_POOLS = ('pool1', 'pool2')
_MODULES = tuple(f'inception_{name}' for name in (
    '3a', '3b', '3c', '4a', '4b', '4c', '4d', '4e', '5a', '5b'))


@pytest.mark.parametrize('key, name, layout, modality', INCEPTION)
def test_bn_inception(data_dir, key, name, layout, modality):
  golden = _golden(data_dir, key)
  weights = _state_dict(layout, golden['norm_gain'])
  if modality == 'flow':
    first = 'conv1_7x7_s2.weight'
    weights[first] = weights[first].mean(1, keepdims=True).repeat(10, 1)
  # Every image is a clip of one frame.
  x = _channels_last(_input(golden))[:, None]
  outputs, seen = _run(
      models.get_model(name, num_classes=1000, modality=modality), weights, x,
      tuple(f'backbone/{part}' for part in (*_POOLS, *_MODULES)) + ('neck',))
  for part in (*_POOLS, *_MODULES):
    ours = np.moveaxis(np.asarray(seen[f'backbone/{part}'])[:, 0], -1, 1)
    _check(ours.mean((2, 3)), golden, f'mean_{part}')
    if f'corner_{part}' in golden:
      _check(ours[:, :8, -4:, -4:], golden, f'corner_{part}')
  for stage, part in zip(outputs['stages'][1:], ('3b', '4d', '5b')):
    np.testing.assert_array_equal(stage, seen[f'backbone/inception_{part}'])
  if 'features' in golden:
    _check(np.moveaxis(np.asarray(outputs['stages'][-1][:, 0]), -1, 1), golden,
           'features')
  _check(seen['neck'][:, 0], golden, 'pooled')
  _check(outputs['logits'], golden, 'logits')
