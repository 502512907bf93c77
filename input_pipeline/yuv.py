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
# Of 8 bits, at half size; the second has the full range.
_FORMATS = ('yuv420p', 'yuvj420p')
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
  """Frames of a clip.

  Attributes:
    planes: Y, U and V, uint8 [T, H, W, 1] and twice [T, h, w, 1], where h and w
      are the halves of H and W, rounded up.
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
    """Changes each plane by a function of it and how much smaller it is."""
    return Planes(tuple(change(plane, 1 + (i > 0))
                        for i, plane in enumerate(self.planes)), self.color)

  def resized(self, size: tuple[int, int], resize: Callable) -> 'Planes':
    """Resizes.

    Args:
      size: (height, width); odd sides become one less, so that colour stays
        where it is.
      resize: function of a plane and the (height, width) to bring it to.
    """
    half = _halves(size)
    return self._each(lambda plane, smaller: resize(
        plane, tuple(2 // smaller * side for side in half)))

  def cut(self, place: tuple[int, int], size: tuple[int, int]) -> 'Planes':
    """Cuts (height, width) at (x, y), all made even as `resized` does."""
    (x, y), (height, width) = (side // 2 for side in place), _halves(size)

    def part(plane, smaller):
      n = 2 // smaller
      return plane[:, n * y:n * (y + height), n * x:n * (x + width)]

    return self._each(part)

  def flipped(self) -> 'Planes':
    """Mirrors left to right; the width is to be even."""
    return self._each(lambda plane, _: plane[:, :, ::-1])

  def packed(self) -> np.ndarray:
    """Returns frames of even sides for the device.

    Returns:
      uint8 [T, H / 2, W / 2, 6]: Y of four pixels, row by row, U and V.
    """
    y, u, v = (plane[..., 0] for plane in self.planes)
    new = np.empty((*u.shape, 6), np.uint8)
    for i, part in enumerate((y[:, ::2, ::2], y[:, ::2, 1::2], y[:, 1::2, ::2],
                              y[:, 1::2, 1::2], u, v)):
      new[..., i] = part
    return new


def _halves(size):
  return [max(side // 2, 1) for side in size]


def concatenated(parts: Sequence[Planes]) -> Planes:
  """Joins clips of one kind of colour in time."""
  return Planes(tuple(map(np.concatenate, zip(
      *(part.planes for part in parts), strict=True))), parts[0].color)


def of_frame(reformatter: av_reformatter.VideoReformatter,
             frame: av.VideoFrame) -> tuple[list[np.ndarray], int]:
  """Takes a decoded frame apart.

  What is not of 8 bits at half size becomes so by way of RGB.

  Args:
    reformatter: what converts.
    frame: as the decoder gave it.

  Returns:
    (views of Y, U and V, uint8 [H, W] and twice half of that; kind of colour).
  """
  known = int(frame.colorspace)
  if frame.format.name not in _FORMATS or (
      known not in (*_SHARES, *_READ_AS_BT601)):
    frame = reformatter.reformat(frame, format='rgb24', threads=1)
    frame = reformatter.reformat(frame, format=_FORMATS[0], threads=1)
    known = None
  full = known is not None and (
      frame.format.name == _FORMATS[1] or frame.color_range == _FULL)
  planes = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[
      :plane.height, :plane.width] for plane in frame.planes]
  return planes, _KINDS.index((_SHARES.get(known, _BT601), full))


def of_pictures(pictures: np.ndarray) -> Planes:
  """Converts pictures, uint8 [T, H, W, 3], RGB."""
  reformatter = av_reformatter.VideoReformatter()
  parts = []
  for picture in pictures:
    views, color = of_frame(
        reformatter, av.VideoFrame.from_ndarray(picture, 'rgb24'))
    # A copy: the next conversion may take the memory.
    parts.append([view.copy() for view in views])
  return Planes(tuple(np.stack(plane)[..., None]
                      for plane in zip(*parts, strict=True)), color)
