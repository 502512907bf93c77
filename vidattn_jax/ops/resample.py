"""Zooms images to where a saliency map is large.

Recasens et al., "Learning to Zoom: a Saliency-Based Sampling Layer for Neural
Networks", ECCV 2018. Their convolution with a wide Gaussian is separable, and
so are the repeated edges around it: products with two small matrices compute
the same, hundreds of times as fast.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from vidattn_jax.ops import resizing

# Full width at half maximum of the Gaussian, in parts of the map's extent.
_WIDTH = 13 / 30


def resample(images: jax.Array, saliency: jax.Array) -> jax.Array:
  """Draws images anew, so that salient regions take more room.

      images = jnp.asarray(frames, jnp.float32)        # [N, H, W, 3]
      saliency = jnp.full((len(frames), 31, 31), 0.1)
      saliency = saliency.at[:, 8, 20].set(5.)         # row, column
      zoomed = resample(images, saliency)              # [N, H, W, 3]

  Args:
    images: [N, H, W, C] of any type; no gradient goes there. Whole numbers are
      rounded in the end.
    saliency: [N, G, G], G at least 2 (31 in the papers), of rows and columns,
      over the whole image whatever its shape. Only proportions matter. What is
      below 0 or no number counts as 0; a map of one value, or of zeros, leaves
      its image as it is.

  Returns:
    [N, H, W, C] of the images' type.

  Raises:
    ValueError: the shapes do not fit.
  """
  if (images.ndim != 4 or saliency.ndim != 3
      or saliency.shape[1] != saliency.shape[2] or saliency.shape[1] < 2
      or len(images) != len(saliency)):
    raise ValueError(
        f'The images have the shape {images.shape} and the saliency '
        f'{saliency.shape}; give [N, H, W, C] and [N, G, G] with the same N '
        'and G at least 2.')
  return sample(images, sampling_grid(saliency))


@functools.cache
def _kernels(size):
  """Returns the two matrices [2 * G, G] that make grids, one on the other.

  T is the convolution with a Gaussian cut to 2 * (G - 1) + 1 cells, E repeats
  the edge G - 1 times on each side, p are the coordinates of the cells, 0 to 1
  inside. The matrices are T E and T diag(p) E.
  """
  reach = size - 1
  cells = np.arange(-reach, size + reach)
  inner = np.arange(size)
  sigma = _WIDTH * reach / (2 * np.sqrt(2 * np.log(2)))
  distance = cells - inner[:, None]
  gaussian = np.where(np.abs(distance) <= reach,
                      np.exp(-distance**2 / (2 * sigma**2)), 0)
  repeat = np.clip(cells, 0, reach)[:, None] == inner
  return np.concatenate(
      [gaussian @ repeat, (gaussian * (cells / reach)) @ repeat])


def sampling_grid(saliency: jax.Array) -> jax.Array:
  """Computes where to sample: salient regions attract the grid.

  Each point of the grid is the mean of the coordinates around it, weighted by
  the saliency and a Gaussian whose full width at half maximum is 13/30 of the
  map, in a window as wide as the map on every side. Around the map, its edge
  goes on.

  Args:
    saliency: see `resample`.

  Returns:
    [N, G, G, 2]: (x, y) in [-1, 1]; -1 and 1 are the centres of the first and
    the last pixel. float32 or wider.
  """
  q = saliency.astype(jnp.promote_types(saliency.dtype, jnp.float32))
  q = jnp.where(q > 0, q, 0)
  # The scale does not matter, but must not make sums vanish or overflow.
  largest = lax.stop_gradient(q.max((1, 2), keepdims=True))
  q = jnp.where(largest > 0, q / jnp.where(largest > 0, largest, 1), 1)
  kernels = jnp.asarray(_kernels(q.shape[-1]), q.dtype)
  size = q.shape[-1]
  sums = jnp.einsum('ar,nrc,bc->nab', kernels, q, kernels,
                    precision='highest')
  mass = sums[:, :size, :size]
  points = jnp.stack([sums[:, :size, size:], sums[:, size:, :size]], -1)
  return jnp.clip(2 * points / mass[..., None] - 1, -1, 1)


def sample(images: jax.Array, grid: jax.Array) -> jax.Array:
  """Reads images at the points of a coarse grid and between them.

  Args:
    images: [N, H, W, C]; no gradient goes there.
    grid: as `sampling_grid` returns it; brought to [N, H, W, 2] linearly.

  Returns:
    [N, H, W, C] of the images' type, interpolated linearly.
  """
  height, width = images.shape[1:3]
  x, y = (resizing.resize_aligned(grid[..., i], {2: width, 1: height})
          for i in range(2))
  left, x = _place(x, width)
  top, y = _place(y, height)
  flat = lax.stop_gradient(images).reshape(
      len(images), -1, images.shape[-1]).astype(grid.dtype)
  first = top * width + left
  right, down = min(width - 1, 1), width * min(height - 1, 1)

  def pixels(offset):
    index = (first + offset).reshape(len(images), -1)
    seen = jax.vmap(lambda image, i: image.at[i].get(
        mode='promise_in_bounds'))(flat, index)
    return seen.reshape(images.shape)

  x, y = x[..., None], y[..., None]
  above, below = (pixels(d) + x * (pixels(d + right) - pixels(d))
                  for d in (0, down))
  values = above + y * (below - above)
  if jnp.issubdtype(images.dtype, jnp.integer):
    values = jnp.round(values)
  return values.astype(images.dtype)


def _place(points, size):
  """Returns the pixel before points in [-1, 1], and how far behind it."""
  points = (points + 1) * ((size - 1) / 2)
  before = jnp.clip(jnp.floor(lax.stop_gradient(points)), 0, max(size - 2, 0))
  return before.astype(jnp.int32), points - before
