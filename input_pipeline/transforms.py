"""Sizes, crops, flips and views of uint8 frames; what a checkpoint keeps of it.

Frames have three channels, RGB, or two: the x and y of stored optical flow,
128 for no motion. Clips of stored flow stack its fields as channels at last.
"""

import av
import numpy as np

from input_pipeline import labels
from input_pipeline import lengths
from input_pipeline import resizing
from input_pipeline import sampling
from input_pipeline import stacks
from input_pipeline import yuv

CROPS = (1, 3, 5, 10)
# Evaluations of all clips of a video, and whether only of whole ones.
_CONSECUTIVE = {'consecutive': False, 'consecutive_whole': True}
_SAMPLING = ('segment', 'dense')
# Training crops of any size, resized to that wanted.
_RESIZED_CROPS = ('multiscale', 'corner')


def multiscale_sizes(image_size, crop_size, scales=(1, 0.875, 0.75, 0.66)):
  """Lists the sizes that a multi-scale crop is drawn from.

  Each side is the image's short side times one of `scales`; the two sides are
  at most one scale apart. A side within 2 pixels of the crop's becomes that.

  Args:
    image_size: (height, width) of the frames.
    crop_size: (height, width) that the crop is resized to.
    scales: falling factors.

  Returns:
    list of (width, height), in the order of the TSN code.
  """
  sides = [int(min(image_size) * scale) for scale in scales]
  heights, widths = (
      [wanted if abs(side - wanted) < 3 else side for side in sides]
      for wanted in crop_size)
  return [(w, h) for i, h in enumerate(heights) for j, w in enumerate(widths)
          if abs(i - j) <= 1]


def fixed_offsets(image_size, crop_size):
  """Lists the 13 places of a multi-scale crop.

  Args:
    image_size: (height, width) of the frames.
    crop_size: (height, width) of the crop.

  Returns:
    list of (x, y) of the upper left corner, in the order of the TSN code.
  """
  y, x = ((whole - part) // 4 for whole, part in zip(image_size, crop_size))
  return [(x * i, y * j) for i, j in (
      (0, 0), (4, 0), (0, 4), (4, 4), (2, 2),
      (0, 2), (4, 2), (2, 4), (2, 0),
      (1, 1), (3, 1), (1, 3), (3, 3))]


def multiscale_crop(rng, frames, crop_size, scales=(1, 0.875, 0.75, 0.66),
                    resampler='pillow'):
  """Cuts one random size at one of 13 places and resizes it.

  Args:
    rng: `np.random.Generator`.
    frames: uint8 [T, H, W, 3].
    crop_size: (height, width) of the result.
    scales: falling factors of the short side.
    resampler: see `resizing.resize`.

  Returns:
    uint8 [T, *crop_size, 3].
  """
  image_size = frames.shape[1:3]
  sizes = multiscale_sizes(image_size, crop_size, scales)
  width, height = sizes[rng.integers(len(sizes))]
  places = fixed_offsets(image_size, (height, width))
  place = places[rng.integers(len(places))]
  return resizing.resize(
      _cut(frames, place, (height, width)), crop_size, resampler)


def corner_crop(rng, frames, crop_size, scales, resampler='pillow'):
  """Cuts one random size at a corner or the centre and resizes it.

  The crop of 3D-ResNets (Hara et al., CVPR 2018).

  Args:
    rng: `np.random.Generator`.
    frames: uint8 [T, H, W, 3].
    crop_size: (height, width) of the result.
    scales: of both sides; at 1 the crop is as large as fits in.
    resampler: see `resizing.resize`.

  Returns:
    uint8 [T, *crop_size, 3].
  """
  image_size = frames.shape[1:3]
  scale = scales[rng.integers(len(scales))] * min(
      whole / part for whole, part in zip(image_size, crop_size))
  size = tuple(max(int(part * scale), 1) for part in crop_size)
  right, down = image_size[1] - size[1], image_size[0] - size[0]
  places = [(round(right / 2), round(down / 2)), (0, 0), (right, 0), (0, down),
            (right, down)]
  place = places[rng.integers(len(places))]
  return resizing.resize(_cut(frames, place, size), crop_size, resampler)


def random_crop(rng, frames, crop_size):
  """Cuts `crop_size` (height, width) at a random place of [T, H, W, 3]."""
  y, x = (int(rng.integers(max(whole - part, 0) + 1))
          for whole, part in zip(frames.shape[1:3], crop_size))
  return _cut(frames, (x, y), crop_size)


def center_crop(frames, crop_size):
  """Cuts `crop_size` (height, width) from the middle of [T, H, W, 3]."""
  return crops(frames, crop_size, 1)[0]


def crops(frames, crop_size, number):
  """Cuts the crops of an evaluation.

  Args:
    frames: uint8 [T, H, W, C].
    crop_size: (height, width).
    number: 1 (centre), 3 (left, right, centre; top, bottom, centre of an
      upright image), 5 (four corners, centre) or 10 (those, then their flips).

  Returns:
    uint8 [number, T, *crop_size, C].

  Raises:
    ValueError: another number, or a crop larger than the frames.
  """
  height, width = frames.shape[1:3]
  down, right = height - crop_size[0], width - crop_size[1]
  # The published steps of all but one are quarters, rounded down.
  if number == 1:
    places = [(round(right / 2), round(down / 2))]
  elif number == 3:
    x, y = right // 4, down // 4
    places = ([(0, 2 * y), (4 * x, 2 * y), (2 * x, 2 * y)] if right >= down else
              [(2 * x, 0), (2 * x, 4 * y), (2 * x, 2 * y)])
  elif number in (5, 10):
    places = fixed_offsets((height, width), crop_size)[:5]
  else:
    raise ValueError(f'eval.crops must be one of {CROPS}, not {number}')
  views = [_cut(frames, place, crop_size) for place in places]
  if number == 10:
    views += [flip(view) for view in views]
  return np.stack(views)


def flip(frames):
  """Mirrors frames left to right; in flow, right becomes left.

  Args:
    frames: uint8 [T, H, W, C], or `yuv.Planes`.

  Returns:
    As `frames`; of flow, x is 255 - x, as published: no motion, 128,
    becomes 127.
  """
  if isinstance(frames, yuv.Planes):
    return frames.flipped()
  frames = frames[:, :, ::-1]
  if frames.shape[-1] == 2:
    frames = np.stack([255 - frames[..., 0], frames[..., 1]], axis=-1)
  return frames


def train_clip(rng, frames, label, data, crop_size, flipped):
  """Crops and flips a training clip at random.

  Args:
    rng: `np.random.Generator`.
    frames: uint8 [T, H, W, C], or `yuv.Planes`, resized.
    label: as `labels.encode` makes it.
    data: the section `data` of the configuration.
    crop_size: (height, width).
    flipped: what `labels.flips` resolved.

  Returns:
    (as `frames`, [T, *crop_size, C]; label).
  """
  if data.crop == 'multiscale':
    frames = multiscale_crop(rng, frames, crop_size, data.crop_scales,
                             data.resampler)
  elif data.crop == 'corner':
    frames = corner_crop(rng, frames, crop_size, data.crop_scales,
                         data.resampler)
  elif data.crop == 'random':
    frames = random_crop(rng, frames, crop_size)
  else:
    frames = center_crop(frames, crop_size)
  if rng.random() < data.flip:
    frames = flip(frames)
    label = labels.flip(label, flipped)
  return frames, label


def check_train(config):
  """Checks the keys that training clips depend on.

  Args:
    config: the whole configuration.

  Raises:
    ValueError: a value that cannot be; names key and value.
  """
  data = config.data
  names = "'segment' or 'dense'"
  if data.sampling not in _SAMPLING:
    raise ValueError(f'data.sampling must be {names}, not {data.sampling!r}')
  _check_short(data.short_clips)
  resizing.check(data.resampler)
  if data.crop not in ('multiscale', 'corner', 'random', 'center'):
    raise ValueError("data.crop must be 'multiscale', 'corner', 'random' or "
                     f"'center', not {data.crop!r}")
  if data.crop not in _RESIZED_CROPS:
    _check_fits('model.crop_size', config.model.crop_size, data.resize)
  if not 0 <= data.flip <= 1:
    raise ValueError(f'data.flip={data.flip:g} must lie between 0 and 1')
  if not 0 <= data.color_jitter <= (data.modality == 'rgb'):
    raise ValueError(f'data.color_jitter={data.color_jitter:g} must lie '
                     'between 0 and 1, and be 0 for flow')
  check_transfer(config)
  stacks.flow_recipe(data)


def check_transfer(config):
  """Checks as what training clips are to go to the device.

  Args:
    config: the whole configuration.

  Raises:
    ValueError: they cannot; names key and value.
  """
  data = config.data
  if data.transfer not in ('rgb', 'yuv'):
    raise ValueError("data.transfer must be 'rgb' or 'yuv', not "
                     f'{data.transfer!r}')
  if data.transfer == 'yuv':
    if data.modality == 'flow' and data.flow_root:
      raise ValueError("data.transfer='yuv' is for frames; stored flow "
                       '(data.flow_root) has no colour: leave it out')
    if any(side % 2 for side in config.model.crop_size):
      raise ValueError(
          "data.transfer='yuv' has colour at half size, so that the crop's "
          f'sides must be even, not {tuple(config.model.crop_size)} '
          '(model.crop_size)')


def check_sizes(records, config, recipe, split):
  """Checks that crops fit the resized frames of every video.

  Args:
    records: `sources.Record`s.
    config: the whole configuration.
    recipe: what `pixel_recipe` returned.
    split: 'train' or 'eval'.

  Raises:
    ValueError: a crop is larger than a video's frames; names the video.
  """
  crop_size = tuple(recipe['crop_size'])
  if split == 'train':
    crop_size = tuple(config.model.crop_size)
    if config.data.crop in _RESIZED_CROPS:
      return  # it takes its size from the frames
  for record in records:
    entry = record.entry
    turned = config.data.rotate and entry.rotation % 180 == 90
    wanted = config.data.resize if split == 'train' else recipe['resize']
    size = resizing.resized(
        (entry.height, entry.width)[::-1 if turned else 1], wanted)
    if crop_size[0] > size[0] or crop_size[1] > size[1]:
      key = ('eval.resize' if split == 'eval' and config.eval.resize
             else 'data.resize')
      raise ValueError(
          f'{record.name}: a crop of {crop_size} is larger than its frames, '
          f'which are {size} after {key}={wanted}; raise {key} or lower the '
          'crop')


def pixel_recipe(config):
  """Describes how a video becomes the views that a model is evaluated on.

  Args:
    config: the whole configuration.

  Returns:
    dict of plain values (JSON), for the checkpoint and the result card.

  Raises:
    ValueError: a key of `data` or `eval` has a value that cannot be.
  """
  data, evaluation = config.data, config.eval
  crop_size = [n or m for n, m in
               zip(evaluation.crop_size, config.model.crop_size)]
  size = evaluation.resize or data.resize
  size = size if isinstance(size, int) else list(size)
  _check_fits('eval.crop_size, model.crop_size', crop_size, size)
  if evaluation.crops not in CROPS:
    raise ValueError(
        f'eval.crops must be one of {CROPS}, not {evaluation.crops}')
  _check_short(data.short_clips)
  resizing.check(data.resampler)
  known = (*_SAMPLING, *_CONSECUTIVE)
  if evaluation.sampling not in known:
    raise ValueError(f'eval.sampling must be {" or ".join(map(repr, known))}, '
                     f'not {evaluation.sampling!r}')
  flow = stacks.flow_recipe(data)
  return {
      **({'flow': flow} if flow else {}),
      'resize': size,
      'crop_size': crop_size,
      'crops': evaluation.crops,
      'sampling': evaluation.sampling,
      'clips': evaluation.clips,
      'num_frames': evaluation.num_frames or config.model.num_frames,
      'dense_span': data.dense_span,
      'short_clips': data.short_clips,
      'mean': list(data.mean),
      'std': list(data.std),
      'rotate': data.rotate,
      'frames_by': data.frames_by,
      'frame_rate': data.frame_rate,
      'video_stream': 'best',
      'resampler': resizing.RESAMPLERS[data.resampler],
      'decoder': f'PyAV {av.__version__}',
      'ffmpeg': av.ffmpeg_version_info,
  }


def is_consecutive(recipe):
  """Tells whether a recipe takes all clips of a video, however many."""
  return recipe['sampling'] in _CONSECUTIVE


def recipe_parts(recipe, num_frames):
  """Parts the clips of a video into those that are made at a time.

  Args:
    recipe: what `pixel_recipe` returned.
    num_frames: frames of the video.

  Returns:
    list of int64 [at most recipe['clips'], T].
  """
  places = recipe_indices(recipe, num_frames)
  return [places[i:i + recipe['clips']]
          for i in range(0, len(places), recipe['clips'])]


def recipe_indices(recipe, num_frames):
  """Tells which frames of a video a recipe takes.

  Args:
    recipe: what `pixel_recipe` returned.
    num_frames: frames of the video.

  Returns:
    int64 [clips, T], from 0; of flow, the first frame of each stack. Where
    `is_consecutive`, as many clips as the video has; else `recipe['clips']`.

  Raises:
    ValueError: the video is too short, and the recipe allows none that is.
  """
  length, stack = stacks.sampled_length(recipe.get('flow'), num_frames)
  if is_consecutive(recipe):
    return sampling.consecutive(
        length, recipe['num_frames'], _CONSECUTIVE[recipe['sampling']], stack,
        lengths.policy_of(recipe))
  args = length, recipe['num_frames'], recipe['clips']
  how = {'stack': stack, 'short': lengths.policy_of(recipe)}
  if recipe['sampling'] == 'dense':
    return sampling.dense_eval(*args, span=recipe['dense_span'], **how)
  return sampling.segment_eval(*args, **how)


def views_from_recipe(recipe, num_frames, read, places=None):
  """Makes all views of a video, or those of some clips, from one decode.

  Evaluation and prediction both use it, so they see the same pixels.

  Args:
    recipe: what `pixel_recipe` returned.
    num_frames: frames of the video.
    read: function of numbers (sorted, distinct) of frames, or of fields of
      stored flow, that returns them as uint8 [n, H, W, C].
    places: int [clips, T], one of `recipe_parts`; None for all clips.

  Returns:
    uint8 [V, *clip]; crops outermost: view = crop * clips + clip. A clip has
    the shape that `stacks.clip_shape` tells.

  Raises:
    ValueError: frames came where stored flow is wanted.
  """
  flow = recipe.get('flow')
  if places is None:
    places = recipe_indices(recipe, num_frames)
  indices = stacks.frames_of(
      flow, places, num_frames, lengths.policy_of(recipe))
  distinct, where = np.unique(indices, return_inverse=True)
  frames = read(distinct)
  if flow and flow['stored'] and frames.shape[-1] != 2:
    raise ValueError('the network sees stored flow, but frames were given; '
                     'compute their flow with flow.fields')
  frames = resizing.resize(
      frames, recipe['resize'], resizing.of_recipe(recipe))
  cut = crops(frames, recipe['crop_size'], recipe['crops'])
  views = stacks.stack_fields(flow, cut[:, where.reshape(indices.shape)])
  return views.reshape(-1, *views.shape[2:])


def first_view(recipe, indices, read):
  """Makes frames look as the first crop of a recipe shows them.

  Args:
    recipe: what `pixel_recipe` returned.
    indices: int [n], numbers of frames.
    read: as that of `views_from_recipe`.

  Returns:
    uint8 [n, H, W, C].
  """
  distinct, where = np.unique(indices, return_inverse=True)
  frames = resizing.resize(
      read(distinct), recipe['resize'], resizing.of_recipe(recipe))
  return crops(frames, recipe['crop_size'], 1)[0][where]


def _check_short(value):
  if value not in sampling.SHORT:
    raise ValueError('data.short_clips must be one of '
                     f'{", ".join(map(repr, sampling.SHORT))}, not {value!r}')


def _check_fits(key, crop_size, size):
  # Of a frame whose short side is fixed, the long side is not known yet.
  fits = (min(crop_size) <= size if isinstance(size, int) else
          crop_size[0] <= size[0] and crop_size[1] <= size[1])
  if not fits:
    raise ValueError(
        f'a crop of {tuple(crop_size)} ({key}) is larger than the frames '
        f'(data.resize={size})')


def _cut(frames, place, size):
  """Cuts (height, width) at (x, y)."""
  x, y = place
  height, width = size
  if y < 0 or x < 0 or y + height > frames.shape[1] or (
      x + width > frames.shape[2]):
    raise ValueError(
        f'a crop of {tuple(size)} is larger than the frame '
        f'{tuple(frames.shape[1:3])}; raise data.resize or lower the crop')
  if isinstance(frames, yuv.Planes):
    return frames.cut(place, size)
  return frames[:, y:y + height, x:x + width]
