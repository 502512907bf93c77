"""Optical flow as colours: the wheel of the field, and its legend.

Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV
2011: the direction is the hue, the length the saturation; no motion is white.
"""

import numpy as np
from PIL import Image
from PIL import ImageDraw

# Steps of the wheel from each colour to the next, from red on. The eye tells
# reds finer than greens.
_STEPS = ((15, (1, 0, 0)), (6, (1, 1, 0)), (4, (0, 1, 0)), (11, (0, 1, 1)),
          (13, (0, 0, 1)), (6, (1, 0, 1)))


def wheel() -> np.ndarray:
  """Returns the 55 pure colours, float [55, 3] in [0, 1], from red on."""
  corners = [np.asarray(color, float) for _, color in _STEPS]
  parts = [a + (b - a) * (np.arange(count) / count)[:, None]
           for (count, _), a, b in zip(_STEPS, corners,
                                       corners[1:] + corners[:1])]
  return np.concatenate(parts)


def colors(flow, largest: float) -> np.ndarray:
  """Colours flow.

  Args:
    flow: [..., H, W, 2], x to the right and y down, pixels.
    largest: length that has the pure colour; what is longer is darker.

  Returns:
    uint8 [..., H, W, 3]: rightward is red, downward yellow, leftward cyan and
    upward violet.
  """
  flow = np.asarray(flow, np.float64)
  length = np.hypot(flow[..., 0], flow[..., 1]) / largest
  table = wheel()
  # From 0, rightward, clockwise as one sees it: y points down.
  turn = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
  place = turn * len(table)
  first = place.astype(int) % len(table)
  share = (place - np.floor(place))[..., None]
  pure = table[first] * (1 - share) + table[(first + 1) % len(table)] * share
  length = length[..., None]
  shade = np.where(length <= 1, 1 - length * (1 - pure), 0.75 * pure)
  return np.rint(255 * shade).astype(np.uint8)


def legend(size: int, largest: float, paper='#ffffff') -> Image.Image:
  """Draws the wheel.

  Args:
    size: of the image, pixels.
    largest: see `colors`; the radius of the wheel.
    paper: colour around it.

  Returns:
    The image, `size` x `size`: the colour at a place is that of a motion from
    the centre to it.
  """
  places = (np.arange(size) + 0.5 - size / 2) / (size / 2)
  x, y = np.meshgrid(places, places)
  drawn = colors(np.stack([x, y], -1) * largest, largest)
  disk = Image.new('L', (4 * size, 4 * size))
  ImageDraw.Draw(disk).ellipse((0, 0, 4 * size - 1, 4 * size - 1), fill=255)
  image = Image.new('RGB', (size, size), paper)
  image.paste(Image.fromarray(drawn), (0, 0), disk.reduce(4))
  return image
