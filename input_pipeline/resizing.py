"""Resizes uint8 frames: as the published codes do, or as closely and faster.

Resizers differ by many grey levels where only some of them filter, so the name
and the version of the one used belong to a recipe. Both here are bilinear and
filter when they shrink (antialiasing). Inside, they differ by one level at
most; within a filter's reach of an edge, Pillow leaves out what lies beyond,
and swscale repeats the edge.
"""

import av
from av.video import reformatter as av_reformatter
import numpy as np
import PIL
from PIL import Image

# What `data.resampler` may be, and what a recipe says of it.
RESAMPLERS = {
    'pillow': f'Pillow {PIL.__version__} bilinear, antialiased',
    'swscale': 'swscale {}.{}.{} bilinear, antialiased'.format(
        *av.library_versions['libswscale']),
}
# Shorter sides are left to Pillow: there, swscale returns something else.
_LEAST = 16


def check(name):
  """Raises a ValueError if there is no such resampler."""
  if name not in RESAMPLERS:
    raise ValueError(f'data.resampler must be one of {", ".join(RESAMPLERS)}, '
                     f'not {name!r}')


def of_recipe(recipe):
  """Returns the key of `RESAMPLERS` that a recipe's text is of."""
  return recipe['resampler'].split()[0].lower()


def resized(image_size, size):
  """Returns the (height, width) that `resize` brings frames to."""
  if not isinstance(size, int):
    return tuple(size)
  return tuple(int(side * size / min(image_size)) for side in image_size)


def resize(frames, size, resampler='pillow'):
  """Resizes frames, bilinear with antialiasing.

  Args:
    frames: uint8 [T, H, W, C]; the motion in flow is not rescaled.
    size: length of the short side, the other in proportion; or (height, width).
    resampler: one of `RESAMPLERS`.

  Returns:
    uint8 [T, h, w, C]; not always contiguous.
  """
  new = resized(frames.shape[1:3], size)
  if new == frames.shape[1:3]:
    return frames
  if resampler == 'swscale' and min(*frames.shape[1:3], *new) >= _LEAST:
    return _by_swscale(frames, new)
  if frames.shape[-1] != 3:
    return np.stack([_by_pillow(plane, new)
                     for plane in np.moveaxis(frames, -1, 0)], axis=-1)
  return _by_pillow(frames, new)


def _by_pillow(images, size):
  bilinear = Image.Resampling.BILINEAR
  return np.stack([np.asarray(Image.fromarray(image).resize(
      size[::-1], bilinear)) for image in images])


def _by_swscale(frames, size):
  """Resizes plane by plane: as a colour, swscale would lose some of it.

  The planes stay apart in memory, so that cutting and resizing again copies
  rows and not single bytes.
  """
  count, height, width, channels = frames.shape
  planes = np.empty((count, channels, *size), np.uint8)
  image = av.VideoFrame(width, height, 'gray')
  room = _pixels(image, height, width)
  reformatter = av_reformatter.VideoReformatter()
  for number, channel in np.ndindex(planes.shape[:2]):
    room[:] = frames[number, :, :, channel]
    planes[number, channel] = _pixels(reformatter.reformat(
        image, width=size[1], height=size[0], threads=1,
        interpolation=av_reformatter.Interpolation.BILINEAR), *size)
  return np.moveaxis(planes, 1, -1)


def _pixels(image, height, width):
  """Returns the memory of a grey image, uint8 [H, W]."""
  plane = image.planes[0]
  return np.frombuffer(plane, np.uint8).reshape(
      -1, plane.line_size)[:height, :width]
