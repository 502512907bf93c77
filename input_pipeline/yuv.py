"""Frames as videos hold them: brightness at full size, colour at half (4:2:0).

`Planes` are cut, resized and mirrored as frames of RGB are. They go to the
device in half the bytes, and become RGB there (`vidattn_jax.ops.pixels`).
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import av
from av.video import reformatter as av_reformatter
import numpy as np

# Share of red and of blue in the brightness, by what files say of it (ITU-T
# H.273); all else is read as BT.601, as FFmpeg's conversion to RGB does.
_BT601 = 0.299, 0.114
_SHARES = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
_READ_AS_BT601 = (0, 2, 5, 6)
_FULL = av_reformatter.ColorRange.JPEG
# Of 8 bits, colour at half size; the second has the full range.
_FORMATS = ('yuv420p', 'yuvj420p')
CHANGING = "its frames change their kind of colour; set data.transfer='rgb'"
# All kinds of colour: the shares, and whether the range is full.
_KINDS = [(shares, full) for shares in (_BT601, *_SHARES.values())
          for full in (False, True)]


def to_rgb(color: int) -> np.ndarray:
  """Returns how a kind of colour becomes RGB.

  Args:
    color: see `Planes`.

  Returns:
    float32 [3, 4]: R, G and B from Y, U, V and 1; levels are 0 to 255.
  """
  (red, blue), full = _KINDS[color]
  green = 1 - red - blue
  y, chroma, black = ((1.0, 1.0, 0) if full else (255 / 219, 255 / 224, 16))
  of_v, of_u = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
  turn = np.array([[y, 0, of_v],
                   [y, -of_u * blue / green, -of_v * red / green],
                   [y, of_u, 0]])
  return np.column_stack([turn, -turn @ [black, 128, 128]]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Planes:
  """Frames of a clip, of even sides.

  Attributes:
    planes: Y, U and V, uint8 [T, H, W, 1] and twice [T, H / 2, W / 2, 1].
    color: their kind of colour, of `to_rgb`.
  """
  planes: tuple[np.ndarray, np.ndarray, np.ndarray]
  color: int

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """That of the frames in RGB, (T, H, W, 3)."""
    return *self.planes[0].shape[:3], 3

  def __getitem__(self, frames: Sequence[int]) -> 'Planes':
    """Returns some of the frames."""
    return self._each(lambda plane, _: plane[frames])

  def _each(self, change: Callable) -> 'Planes':
    """Changes each plane by a function of it and its pixels for two of Y."""
    return Planes(tuple(change(plane, 1 if i else 2)
                        for i, plane in enumerate(self.planes)), self.color)

  def resized(self, size: tuple[int, int], resize: Callable) -> 'Planes':
    """Resizes.

    Args:
      size: (height, width); odd sides become one less, so that colour stays
        where it is.
      resize: function of a plane and the (height, width) to bring it to.
    """
    half = _halves(size)
    return self._each(lambda plane, n: resize(
        plane, tuple(n * side for side in half)))

  def cut(self, place: tuple[int, int], size: tuple[int, int]) -> 'Planes':
    """Cuts (height, width) at (x, y), all made even as `resized` does."""
    (x, y), (height, width) = (side // 2 for side in place), _halves(size)
    return self._each(lambda plane, n: plane[
        :, n * y:n * (y + height), n * x:n * (x + width)])

  def flipped(self) -> 'Planes':
    """Mirrors left to right."""
    return self._each(lambda plane, _: plane[:, :, ::-1])


def _halves(size):
  return [max(side // 2, 1) for side in size]


def concatenated(parts: Sequence[Planes]) -> Planes:
  """Joins clips in time; a ValueError if their kinds of colour differ."""
  if len({part.color for part in parts}) > 1:
    raise ValueError(CHANGING)
  return Planes(tuple(map(np.concatenate, zip(
      *(part.planes for part in parts), strict=True))), parts[0].color)


def views(image: av.VideoFrame) -> list[np.ndarray]:
  """Returns the memory of each plane of an image, uint8 [H, W]."""
  return [np.frombuffer(plane, np.uint8).reshape(
      -1, plane.line_size)[:plane.height, :plane.width]
          for plane in image.planes]


def of_frame(reformatter: av_reformatter.VideoReformatter,
             frame: av.VideoFrame) -> tuple[list[np.ndarray], int]:
  """Takes a decoded frame apart.

  What is not of 8 bits with colour at half size is made so.

  Args:
    reformatter: what converts.
    frame: as the decoder gave it.

  Returns:
    (Y, U and V, uint8 [H, W] and twice half of that; kind of colour). An odd
    last row or column is left out.
  """
  known = int(frame.colorspace)
  full = frame.color_range == _FULL
  form = frame.format.name
  if form.startswith('yuv') and known in (*_SHARES, *_READ_AS_BT601):
    full = full or form.startswith('yuvj')
    if form not in _FORMATS:
      # Matrix and range stay.
      frame = reformatter.reformat(
          frame, format=_FORMATS[form.startswith('yuvj')], threads=1)
  else:
    # Of a matrix that FFmpeg does not convert, this fails as in RGB.
    frame = reformatter.reformat(frame, format='rgb24', threads=1)
    frame = reformatter.reformat(
        frame, format=_FORMATS[0], threads=1,
        dst_colorspace=av_reformatter.Colorspace.ITU601,
        dst_color_range=av_reformatter.ColorRange.MPEG)
    known, full = None, False
  y, u, v = views(frame)
  height, width = (side // 2 for side in y.shape)
  return ([y[:2 * height, :2 * width], u[:height, :width], v[:height, :width]],
          _KINDS.index((_SHARES.get(known, _BT601), full)))


def of_pictures(pictures: np.ndarray) -> Planes:
  """Converts pictures, uint8 [T, H, W, 3], RGB."""
  reformatter = av_reformatter.VideoReformatter()
  parts = []
  for picture in pictures:
    planes, color = of_frame(
        reformatter, av.VideoFrame.from_ndarray(picture, 'rgb24'))
    # A copy: the next conversion may take the memory.
    parts.append([plane.copy() for plane in planes])
  return Planes(tuple(np.stack(plane)[..., None]
                      for plane in zip(*parts, strict=True)), color)
