"""Frames of a video for people: what a network sees, but sharper."""

from collections.abc import Iterator
import os

import numpy as np

from input_pipeline import decode
from input_pipeline import resizing
from input_pipeline import timing
from input_pipeline import transforms

# Longer side of a shown frame, pixels.
SIZE = 224


def frames(path, recipe, frame_template='{:05d}.jpg',
           first_frame=1) -> Iterator[np.ndarray]:
  """Decodes every frame, cut as the centre crop that a network sees.

  Args:
    path: video file or folder of frames.
    recipe: what `transforms.pixel_recipe` returned.
    frame_template: file names in folders of frames.
    first_frame: number of the first frame there.

  Yields:
    uint8 [H, W, 3], the longer side `SIZE`.

  Raises:
    VideoError: as `decode.decode_frames`, when the damage is reached.
  """
  factor = SIZE / max(recipe['crop_size'])
  size = recipe['resize']
  size = (round(size * factor) if isinstance(size, int)
          else [round(side * factor) for side in size])
  crop_size = [round(side * factor) for side in recipe['crop_size']]
  if os.path.isdir(path):
    source = _folder(path, frame_template, first_frame)
  else:
    source = _by_number(path, recipe)
  for frame in source:
    [view] = transforms.center_crop(
        resizing.resize(frame[None], size), crop_size)
    yield view


def _by_number(path, recipe):
  """Yields the frames that a recipe numbers; some may be missing or twice."""
  frames = decode.iterate(path, recipe['rotate'])
  if recipe.get('frames_by', 'ordinal') == 'ordinal':
    yield from frames
    return
  entry = decode.probe(path)
  _, numbers = timing.renumber(entry, recipe)
  times = np.bincount(numbers, minlength=entry.num_frames)
  for frame, count in zip(frames, times, strict=True):
    for _ in range(count):
      yield frame


def _folder(path, *naming):
  entry = decode.probe_folder(path, *naming)
  if entry.error:
    raise decode.VideoError(path, entry.error)
  for i in range(entry.num_frames):
    yield decode.decode_folder(path, [i], *naming)[0]
