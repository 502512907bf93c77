"""Pixels against the published code's."""

import json

import numpy as np
import pytest

from configs import common
from input_pipeline import labels
from input_pipeline import resizing
from input_pipeline import sampling
from input_pipeline import transforms


@pytest.fixture(scope='module')
def golden(data_dir):
  return json.loads((data_dir / 'aia_sampling.json').read_text())


def _map(height, width):
  """A frame whose pixels tell where they come from: (y, x, 0)."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y, x, 0 * x], -1)[None].astype(np.uint16)


def _corners(views):
  """The (x, y) of the upper left corner of each view of a `_map`."""
  return [(int(v[0, 0, 0, 1]), int(v[0, 0, 0, 0])) for v in views]


def test_resize_and_centre_crop_equal_published_pixels(data_dir):
  with np.load(data_dir / 'aia_preprocess.npz') as golden:
    resized = resizing.resize(golden['image'][None], (30, 40))
    np.testing.assert_array_equal(resized[0], golden['resized'])
    cut = transforms.center_crop(resized, (28, 28))[0] / 255
    config = common.get_config()
    normalised = (cut - config.data.mean) / config.data.std
    np.testing.assert_allclose(normalised, golden['crop_normalised'], atol=1e-6)


def test_short_side_keeps_the_shape():
  frames = np.zeros((1, 240, 320, 3), np.uint8)
  assert resizing.resize(frames, 60).shape == (1, 60, 80, 3)
  upright = np.zeros((1, 320, 240, 3), np.uint8)
  assert resizing.resize(upright, 60).shape == (1, 80, 60, 3)


def test_multiscale_sizes_and_offsets_equal_published_ones(golden):
  for key, expected in golden['multiscale_crop'].items():
    image, crop = key.split('->')
    width, height = map(int, image.split('x'))
    sizes = transforms.multiscale_sizes((height, width), (int(crop),) * 2)
    assert [list(s) for s in sizes] == expected['pairs_wh']
    for w, h in sizes:
      places = transforms.fixed_offsets((height, width), (h, w))
      assert [list(p) for p in places] == expected['offsets_xy'][f'{w}x{h}']


def test_multiscale_side_near_the_crop_becomes_it():
  # 0.875 of 255 and 258 is 223 and 225; of 260 it is 227.
  for short, side in ((255, 224), (258, 224), (260, 227)):
    sizes = transforms.multiscale_sizes((short, 300), (224, 224))
    assert (side, side) in sizes


def test_multiscale_crop_draws_every_size_and_place_alike():
  rng = np.random.default_rng(0)
  frames = np.random.default_rng(1).integers(
      0, 256, (2, 24, 32, 3), dtype=np.uint8)
  expected = {
      resizing.resize(frames[:, y:y + h, x:x + w], (16, 20)).tobytes()
      for w, h in transforms.multiscale_sizes((24, 32), (16, 20))
      for x, y in transforms.fixed_offsets((24, 32), (h, w))}
  drawn = {transforms.multiscale_crop(rng, frames, (16, 20)).tobytes()
           for _ in range(1500)}
  assert drawn == expected


def test_corner_crop_draws_every_scale_at_every_corner_alike(monkeypatch):
  rng = np.random.default_rng(0)
  frames = _map(60, 100).astype(np.float32)
  seen = {}
  with monkeypatch.context() as plain:
    plain.setattr(resizing, 'resize', lambda cut, size, resampler: cut)
    for _ in range(1000):
      cut = transforms.corner_crop(rng, frames, (30, 30), (1.0, 0.5))
      key = (cut.shape[1:3], *_corners(cut[None]))
      seen[key] = seen.get(key, 0) + 1
  # The short side, or half of it; corners and the centre, (x, y).
  assert set(seen) == {((60, 60), (x, 0)) for x in (0, 40, 20)} | {
      ((30, 30), place) for place in (
          (0, 0), (70, 0), (0, 30), (70, 30), (35, 15))}
  assert min(v for (size, _), v in seen.items() if size == (30, 30)) > 60
  assert transforms.corner_crop(rng, np.zeros((2, 60, 100, 3), np.uint8),
                                (16, 32), (1.0, 0.5)).shape == (2, 16, 32, 3)


def test_three_crops_in_published_order(golden):
  for key, expected in golden['three_crop_xy'].items():
    image, crop = key.split(',')
    width, height = map(int, image.split('x'))
    views = transforms.crops(_map(height, width), (int(crop),) * 2, 3)
    assert [list(c) for c in _corners(views)] == expected


def test_five_and_ten_crops():
  frames = _map(12, 18)
  five = transforms.crops(frames, (8, 10), 5)
  assert _corners(five) == [(0, 0), (8, 0), (0, 4), (8, 4), (4, 2)]
  # Steps are quarters, rounded down: the last column is left out.
  odd = transforms.crops(_map(12, 19), (8, 10), 5)
  assert _corners(odd) == _corners(five)
  ten = transforms.crops(frames, (8, 10), 10)
  np.testing.assert_array_equal(ten[:5], five)
  np.testing.assert_array_equal(ten[5:], five[:, :, :, ::-1])
  upright = transforms.crops(_map(16, 12), (8, 8), 3)
  assert _corners(upright) == [(2, 0), (2, 8), (2, 4)]


def test_crop_larger_than_frame_is_refused():
  with pytest.raises(ValueError, match=r'crop of \(9, 8\) is larger'):
    transforms.crops(_map(8, 8), (9, 8), 1)


def test_flip_swaps_labels_by_name():
  classes = ('push left', 'wave', 'push right')
  flipped = labels.flips([('push right', 'push left')], classes)
  assert flipped.tolist() == [2, 1, 0]
  with pytest.raises(ValueError, match="'push up' is no class"):
    labels.flips([('push up', 'wave')], classes)
  with pytest.raises(ValueError, match="'wave' stands in two pairs"):
    labels.flips(
        [('wave', 'push left'), ('push right', 'wave')], classes)


@pytest.mark.parametrize('flip', [0.0, 0.5, 1.0])
def test_flipped_clips_have_flipped_labels(flip):
  data = common.get_config().data
  data.crop, data.flip = 'center', flip
  frames = _map(8, 8)
  rng = np.random.default_rng(0)
  flips = 0
  for _ in range(200):
    clip, label = transforms.train_clip(
        rng, frames, 0, data, (8, 8), np.array([2, 1, 0]))
    flipped = clip[0, 0, 0, 1] == 7
    np.testing.assert_array_equal(
        clip, frames[:, :, ::-1] if flipped else frames)
    assert label == (2 if flipped else 0)
    flips += flipped
  assert flips == 200 * flip if flip != 0.5 else 70 < flips < 130


def _config(**values):
  config = common.get_config()
  with config.unlocked():
    config.update_from_flattened_dict(
        {k.replace('__', '.'): v for k, v in values.items()})
  return config


def test_views_order_is_crop_then_clip():
  config = _config(eval__clips=2, eval__crops=3, model__num_frames=4,
                   data__resize=(8, 16), model__crop_size=(8, 8))
  recipe = transforms.pixel_recipe(config)
  asked = []

  def read(indices):
    asked.append(list(indices))
    frames = np.repeat(_map(8, 16), len(indices), 0).astype(np.uint8)
    frames[..., 2] = np.asarray(indices)[:, None, None]
    return frames

  views = transforms.views_from_recipe(recipe, 20, read)
  assert views.shape == (6, 4, 8, 8, 3)
  clips = sampling.segment_eval(20, 4, 2)
  assert asked == [sorted(set(clips.ravel().tolist()))]  # one decode
  for view in range(6):
    crop, clip = divmod(view, 2)
    assert views[view, :, 0, 0, 2].tolist() == clips[clip].tolist()
    assert views[view, 0, 0, 0, 1] == (0, 8, 4)[crop]


def test_dense_views_follow_the_dense_rule():
  config = _config(eval__clips=3, eval__sampling='dense', model__num_frames=4,
                   data__dense_span=16, data__resize=(8, 8),
                   model__crop_size=(8, 8))
  views = transforms.views_from_recipe(
      transforms.pixel_recipe(config), 40,
      lambda i: np.broadcast_to(
          i[:, None, None, None], (len(i), 8, 8, 3)).astype(np.uint8))
  np.testing.assert_array_equal(
      views[:, :, 0, 0, 0], sampling.dense_eval(40, 4, 3, 16))


def test_recipe_is_plain_and_complete():
  recipe = transforms.pixel_recipe(_config(eval__num_frames=25))
  assert json.loads(json.dumps(recipe)) == recipe
  assert recipe['num_frames'] == 25
  assert recipe['crop_size'] == [224, 224]
  for key in ('resize', 'mean', 'std', 'resampler', 'decoder', 'ffmpeg',
              'rotate', 'sampling', 'clips', 'crops', 'dense_span'):
    assert key in recipe


@pytest.mark.parametrize('values, message', [
    ({'eval__crops': 4}, r'eval\.crops must be one of .*, not 4'),
    ({'eval__sampling': 'sparse'}, r'eval\.sampling .* not .sparse'),
    ({'eval__crop_size': (300, 300)}, r'\(300, 300\).*data\.resize=256'),
    ({'data__resize': (240, 320), 'eval__crop_size': (240, 330)},
     r'crop of \(240, 330\)'),
])
def test_recipe_refuses(values, message):
  with pytest.raises(ValueError, match=message):
    transforms.pixel_recipe(_config(**values))


@pytest.mark.parametrize('values, message', [
    ({'data__crop': 'five'}, r"data\.crop .* not 'five'"),
    ({'data__sampling': 'all'}, r"data\.sampling .* not 'all'"),
    ({'data__flip': 1.5}, r'data\.flip=1\.5'),
    ({'data__crop': 'random', 'data__resize': 200}, r'model\.crop_size'),
])
def test_training_keys_refused(values, message):
  with pytest.raises(ValueError, match=message):
    transforms.check_train(_config(**values))


def test_random_crop_reaches_every_place():
  rng = np.random.default_rng(0)
  places = set(_corners(
      transforms.random_crop(rng, _map(4, 5), (3, 3)) for _ in range(200)))
  assert places == {(x, y) for x in range(3) for y in range(2)}
