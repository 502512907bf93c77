"""Where parts stand in a picture."""

import numpy as np


def lines(picture, part, x):
  """Returns the lines y of a picture at which (y, x) holds a part exactly."""
  height, width, _ = part.shape
  return [y for y in range(picture.shape[0] - height + 1) if np.array_equal(
      picture[y:y + height, x:x + width], part)]
