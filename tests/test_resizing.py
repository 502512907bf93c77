"""Resized frames: the published codes' pixels, and those that come faster."""

import numpy as np
import pytest

from configs import common
from input_pipeline import resizing
from input_pipeline import transforms


def _frames(height, width, channels=3):
  """Returns smooth and sharp frames: waves, a checkerboard, noise."""
  y, x = np.mgrid[:height, :width]
  waves = 127 + 100 * np.sin(x / 9) * np.cos(y / 7)
  checks = 255 * ((x // 5 + y // 5) % 2)
  noise = np.random.default_rng(0).integers(0, 256, (height, width))
  one = np.stack([waves, checks, noise]).astype(np.uint8)
  return np.stack([np.roll(one, i, 0) for i in range(channels)], -1)


@pytest.mark.parametrize('size', [(256, 341), (224, 224), (90, 110), (37, 53)])
@pytest.mark.parametrize('channels', [2, 3])
def test_swscale_is_pillow_but_for_a_level(size, channels):
  frames = _frames(120, 160, channels)
  published = resizing.resize(frames, size).astype(int)
  fast = resizing.resize(frames, size, 'swscale')
  assert fast.dtype == np.uint8 and fast.shape == published.shape
  apart = np.abs(fast - published)
  # Within the filter's reach of an edge, they treat what is beyond apart.
  reach = [int(np.ceil(max(new / old, 1))) for old, new in
           zip((120, 160), size, strict=True)]
  inner = apart[:, reach[0]:-reach[0], reach[1]:-reach[1]]
  assert inner.max() <= 1 and apart.mean() < 0.5
  # It is no copy of the other: both were asked.
  assert apart.any()


@pytest.mark.parametrize('level', [0, 1, 127, 254, 255])
def test_plain_frames_stay_plain(level):
  frames = np.full((2, 50, 70, 3), level, np.uint8)
  for size in (24, 80, (33, 91)):
    assert (resizing.resize(frames, size, 'swscale') == level).all()


@pytest.mark.parametrize('shape, size', [
    ((2, 3), (40, 40)), ((15, 200), (30, 30)), ((200, 200), (20, 15)),
    ((1, 1), (8, 8))])
def test_short_sides_are_left_to_pillow(shape, size):
  frames = _frames(*shape)
  np.testing.assert_array_equal(resizing.resize(frames, size, 'swscale'),
                                resizing.resize(frames, size))


def test_frames_of_the_size_are_left_alone():
  frames = _frames(32, 48)
  assert resizing.resize(frames, 32, 'swscale') is frames


def test_a_part_of_larger_frames_is_resized_as_its_copy():
  frames = _frames(120, 160)[:, 7:99, 11:120]
  np.testing.assert_array_equal(
      resizing.resize(frames, (64, 72), 'swscale'),
      resizing.resize(frames.copy(), (64, 72), 'swscale'))


@pytest.mark.parametrize('size', [(256, 341), (224, 224), (37, 53), (16, 90)])
def test_three_channels_are_resized_as_each_alone(size):
  frames = np.random.default_rng(0).integers(
      0, 256, (2, 120, 163, 3), np.uint8)[:, 1:, 2:]
  wanted = [resizing.resize(frames[..., i:i + 1], size, 'swscale')
            for i in range(3)]
  np.testing.assert_array_equal(resizing.resize(frames, size, 'swscale'),
                                np.concatenate(wanted, -1))


@pytest.mark.parametrize('cut', [
    np.s_[:], np.s_[:, 3:20, 5:30], np.s_[:, :, ::-1], np.s_[..., :2],
    np.s_[:, :, :1], np.s_[:, ::2], np.s_[..., ::-1]])
@pytest.mark.parametrize('resampler', resizing.RESAMPLERS)
def test_contiguous_keeps_the_pixels(cut, resampler):
  frames = resizing.resize(_frames(60, 80), (32, 48), resampler)[cut]
  new = resizing.contiguous(frames)
  assert new.flags.c_contiguous and new.dtype == np.uint8
  np.testing.assert_array_equal(new, frames)
  assert resizing.contiguous(new) is new


@pytest.mark.parametrize('name', resizing.RESAMPLERS)
def test_the_recipe_names_it_and_evaluation_obeys(name):
  config = common.get_config()
  config.data.resampler = name
  config.model.num_frames, config.model.crop_size = 3, (32, 32)
  config.data.resize, config.eval.crops = 36, 1
  recipe = transforms.pixel_recipe(config)
  assert resizing.of_recipe(recipe) == name
  assert any(c.isdigit() for c in recipe['resampler'])
  frames = _frames(60, 80)
  views = transforms.views_from_recipe(recipe, 3, lambda i: frames[i])
  wanted = resizing.resize(frames, 36, name)[:, 2:34, 8:40]
  np.testing.assert_array_equal(views.reshape(wanted.shape), wanted)
  other = {'pillow': 'swscale', 'swscale': 'pillow'}[name]
  assert (wanted != resizing.resize(frames, 36, other)[:, 2:34, 8:40]).any()


@pytest.mark.parametrize('crop', ['multiscale', 'corner'])
def test_training_obeys_the_configuration(crop):
  data = common.get_config().data
  data.crop, data.flip, frames = crop, 0.0, _frames(60, 80)
  clips = []
  for data.resampler in resizing.RESAMPLERS:
    clips.append(transforms.train_clip(
        np.random.default_rng(3), frames, 0, data, (40, 40), None)[0])
  apart = np.abs(np.subtract(*clips, dtype=int))
  assert 0 < apart.mean() < 0.5


def test_no_such_resampler():
  config = common.get_config()
  config.data.resampler = 'cubic'
  for check in (transforms.check_train, transforms.pixel_recipe):
    with pytest.raises(ValueError, match='data.resampler must be one of '
                       "pillow, swscale, not 'cubic'"):
      check(config)
