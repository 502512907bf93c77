"""Weights of images for video: what becomes of 2D kernels and of RGB."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.convert import inflate


def test_numbers_of_inflated_kernels():
  kernel = seeded.clip((3, 3, 2, 4))
  mean = inflate.inflate(kernel, 3)
  assert mean.shape == (3, 3, 3, 2, 4)
  for frame in mean:
    np.testing.assert_allclose(frame, kernel / 3, rtol=1e-6)
  centre = inflate.inflate(kernel, 5, 'centre')
  np.testing.assert_array_equal(centre[2], kernel)
  assert not centre[[0, 1, 3, 4]].any()
  with pytest.raises(ValueError, match='did you mean centre'):
    inflate.inflate(kernel, 3, 'center')


def test_numbers_of_kernels_for_flow():
  kernel = seeded.clip((7, 7, 3, 4))
  flow = inflate.for_channels(kernel, 10)
  assert flow.shape == (7, 7, 10, 4)
  for channel in range(10):
    np.testing.assert_allclose(
        flow[:, :, channel],
        (kernel[:, :, 0] + kernel[:, :, 1] + kernel[:, :, 2]) / 3, rtol=1e-5,
        atol=1e-6)


SMALL = {'num_classes': 5, 'width': 1 / 8, 'crop_size': 33}


def _saved(path, name, layout, **build):
  """Returns a network, its variables, and the file that holds them."""
  model = models.get_model(name, **{**SMALL, **build})
  variables = seeded.variables(model, (1, *model.image_shape))
  file = path / f'{name}.safetensors'
  convert.save_file(file, convert.to_torch(model, variables, layout))
  return model, variables, file


def _load(name, file, seed=1, inflation='mean', **build):
  model = models.get_model(name, **{**SMALL, **build})
  fresh = seeded.variables(model, (1, *model.image_shape), seed=seed)
  return model, *convert.load_into(model, fresh, file, inflation)


def _still(frames):
  """Returns a clip of one image, [1, T, 33, 33, 3]."""
  return jnp.asarray(seeded.clip((1, 1, 33, 33, 3)).repeat(frames, 1))


def _equal(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
def test_still_clip_gives_the_slow_pathway_the_features_of_the_image(tmp_path):
  flat, variables, file = _saved(tmp_path, 'tsn_r50', 'torchvision',
                                 dropout=0.0)
  image = flat.apply(variables, _still(1), capture=True)
  # Nine convolutions over three frames: the middle of 21 sees no padding.
  build = {'num_frames': 21}
  model, centred, report = _load('slow_r50', file, inflation='centre', **build)
  apply = jax.jit(lambda v: model.apply(v, _still(21), capture=True))
  outputs = apply(centred)
  _equal(outputs['logits'], image['logits'])
  for ours, theirs in zip(outputs['stages'], image['stages']):
    _equal(ours, jnp.broadcast_to(theirs, ours.shape))
  assert not report.unused and not report.fresh
  assert report.layout == 'torchvision'
  assert report.adapted['params/backbone/layer3/block0/conv1/kernel'] == (
      'centre over 3 frames')
  assert '53 of them adapted' in str(report)

  _, mean, report = _load('slow_r50', file, **build)
  assert report.adapted['params/backbone/layer3/block0/conv1/kernel'] == (
      'mean over 3 frames')
  outputs = apply(mean)
  last, wanted = outputs['stages'][-1], image['stages'][-1]
  _equal(last[:, 9:-9], jnp.broadcast_to(wanted, last[:, 9:-9].shape))
  assert seeded.difference(last[:, :1], wanted) > 1e-2


def test_still_clip_gives_a_3d_resnet_the_features_of_the_image(tmp_path):
  flat, variables, file = _saved(tmp_path, 'tsn_r18', 'tsn')
  model, centred, report = _load('r3d_18', file, inflation='centre',
                                 shortcut='B')
  outputs = jax.jit(model.apply)(centred, _still(16))
  _equal(outputs['logits'], flat.apply(variables, _still(1))['logits'])
  assert not report.unused and not report.fresh
  _, _, report = _load('r3d_18', file)
  # Shortcuts without parameters have no place for those of the file.
  assert len(report.unused) == 3 * 5
  assert all('.downsample.' in name for name in report.unused)


@pytest.mark.parametrize('name, layout, size, channels, conv', [
    ('tsn_bninception', 'bninception', 32, 10, 'conv1_7x7_s2/conv'),
    ('tsn_r18', 'torchvision', 33, 10, 'conv1'),
    ('r3d_18', 'r3d', 33, 2, 'conv1')])
def test_flow_starts_from_rgb(tmp_path, name, layout, size, channels, conv):
  _, variables, file = _saved(tmp_path, name, layout, crop_size=size)
  _, merged, report = _load(name, file, crop_size=size, modality='flow')
  path = f'params/backbone/{conv}/kernel'
  assert report.adapted == {
      path: f'the mean over RGB for each of {channels} channels'}
  assert not report.unused and not report.fresh

  def at(tree):
    for key in path.split('/'):
      tree = tree[key]
    return tree

  assert at(merged).shape[-2] == channels
  _equal(at(merged)[..., channels - 1, :], at(variables).mean(-2))
  del merged['params']['backbone']['conv1_7x7_s2' if '/' in conv else conv]
  del variables['params']['backbone']['conv1_7x7_s2' if '/' in conv else conv]
  jax.tree.map(np.testing.assert_array_equal, merged, variables)


def test_image_weights_for_flow_in_3d_are_adapted_twice(tmp_path):
  _, variables, file = _saved(tmp_path, 'tsn_r18', 'torchvision')
  _, merged, report = _load('r3d_18', file, shortcut='B', modality='flow')
  assert report.adapted['params/backbone/conv1/kernel'] == (
      'the mean over RGB for each of 2 channels, mean over 7 frames')
  kernel = merged['params']['backbone']['conv1']['kernel']
  wanted = variables['params']['backbone']['conv1']['kernel'].mean(-2) / 7
  for frame in range(7):
    for channel in range(2):
      _equal(kernel[frame, :, :, channel], wanted)


def test_what_cannot_be_inflated_is_named_with_both_shapes(tmp_path):
  # Its groups are twice as wide as those of the 3D-ResNeXt.
  _, _, file = _saved(tmp_path, 'tsn_r101', 'torchvision', width=1 / 4)
  with pytest.raises(ValueError, match='shapes differ') as caught:
    _load('resnext3d_101', file, width=1 / 4)
  assert ('params/backbone/layer1/block0/conv2/kernel: (3, 3, 3, 1, 32) in the '
          'model, (3, 3, 16, 16) in the weights') in str(caught.value)
  _, _, file = _saved(tmp_path, 'tsn_r18', 'torchvision')
  model = models.get_model('r3d_18', **SMALL, shortcut='B')
  with pytest.raises(ValueError, match='init_from, which inflates 2D kernels'):
    convert.from_torch(model, convert.load_file(file), model.image_shape)


def test_flow_starts_from_a_trained_network_for_frames():
  rgb, flow = (models.get_model(
      'tstam', backbone='tsn_r18', width=1 / 16, num_classes=3, num_frames=2,
      crop_size=36, modality=modality) for modality in ('rgb', 'flow'))
  weights, fresh = (seeded.variables(m, (1, *m.image_shape))
                    for m in (rgb, flow))
  merged, report = convert.merge(fresh, weights)
  kernel = weights['params']['backbone']['conv1']['kernel']
  got = merged['params']['backbone']['conv1']['kernel']
  assert got.shape[-2] == 10
  np.testing.assert_allclose(
      got, np.repeat(kernel.mean(-2, keepdims=True), 10, -2), rtol=1e-6)
  assert list(report.adapted) == ['params/backbone/conv1/kernel']
  np.testing.assert_array_equal(merged['params']['head']['kernel'],
                                weights['params']['head']['kernel'])
