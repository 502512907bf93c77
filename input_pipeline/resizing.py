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

from input_pipeline import yuv

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
    frames: uint8 [T, H, W, C], or `yuv.Planes`; the motion in flow is not
      rescaled.
    size: length of the short side, the other in proportion; or (height, width).
    resampler: one of `RESAMPLERS`.

  Returns:
    As `frames`, [T, h, w, C]; not always contiguous.
  """
  new = resized(frames.shape[1:3], size)
  if new == frames.shape[1:3]:
    return frames
  if isinstance(frames, yuv.Planes):
    return frames.resized(
        new, lambda plane, size: resize(plane, size, resampler))
  if resampler == 'swscale' and min(*frames.shape[1:3], *new) >= _LEAST:
    return _by_swscale(frames, new)
  if frames.shape[-1] != 3:
    return np.stack([_by_pillow(plane, new)
                     for plane in np.moveaxis(frames, -1, 0)], axis=-1)
  return _by_pillow(frames, new)


def contiguous(frames):
  """Returns [..., W, C] as one piece of memory; a copy where it is not."""
  if frames.flags.c_contiguous:
    return frames
  new = np.empty(frames.shape, frames.dtype)
  copy(frames, new)
  return new


def copy(frames, target):
  """Copies [..., W, C] into an array of its shape."""
  if frames.strides[-2:] == (frames.shape[-1], 1):
    target[:] = frames
    return
  # Of planes, and of turned or mirrored pictures, NumPy would copy one pixel
  # at a time: that takes about four times as long.
  for channel in range(frames.shape[-1]):
    target[..., channel] = frames[..., channel]


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
  # Three at a time, which swscale takes for Y, U and V and does not mix.
  together = 3 if channels == 3 else 1
  image = av.VideoFrame(width, height, 'yuv444p' if together == 3 else 'gray')
  rooms = yuv.views(image)
  reformatter = av_reformatter.VideoReformatter()
  for number, first in np.ndindex(count, channels // together):
    for i, room in enumerate(rooms):
      room[:] = frames[number, :, :, first + i]
    resized_image = reformatter.reformat(
        image, width=size[1], height=size[0], threads=1,
        interpolation=av_reformatter.Interpolation.BILINEAR)
    for i, plane in enumerate(yuv.views(resized_image)):
      planes[number, first + i] = plane
  return np.moveaxis(planes, 1, -1)
