"""Sparse attention: a Gaussian around every peak."""

import functools

import jax
import jax.numpy as jnp


def saliency(response: jax.Array, peaks: jax.Array, beta: jax.Array,
             base: float = 0.09, inverse: bool = False) -> jax.Array:
  """Adds up a Gaussian for every peak; equations 6 and 7.

  Zhou et al., "Integrating Temporal and Spatial Attention for Video Action
  Recognition". A peak with response R adds, at a distance of d cells,
  R * exp(-d^2 / (R * beta^2)); read as printed, equation 6 would grow with the
  distance along one axis. `base`, which keeps what lies around in sight, is
  that of the published code of "Selective Sparse Sampling", ICCV 2019.

  Args:
    response: [N, G, G] in [0, 1]; no gradient goes there.
    peaks: bool [N, G, G], of which no two touch, as `peaks.find_peaks` has
      them.
    beta: width in cells, a scalar.
    base: what every cell has; without peaks, all that it has.
    inverse: the height of a Gaussian is 1 / R, not R (complementary peaks).

  Returns:
    [N, G, G], of the response's type, at least `base`.
  """
  response = jax.lax.stop_gradient(response)
  size, dtype = response.shape[-1], response.dtype
  side = -(-size // 2)
  # Every square of two by two cells has one peak at most: so many candidates
  # are enough, and their number is fixed.
  squares = jnp.pad(jnp.where(peaks & (response > 0), response, 0),
                    ((0, 0), *((0, 2 * side - size),) * 2))
  (here, right), (below, across) = (
      [squares[:, i::2, j::2] for j in range(2)] for i in range(2))
  cells = 2 * jnp.arange(side, dtype=dtype)
  row = cells[:, None] + (jnp.maximum(below, across) > 0)
  column = cells + (jnp.maximum(right, across) > 0)
  strength = functools.reduce(jnp.maximum, (here, right, below, across))
  row, column, strength = (
      x.reshape(-1, side * side) for x in (row, column, strength))
  found = strength > 0
  # 1 keeps the gradient of those that do not count a number.
  strength = jnp.where(found, strength, 1)
  height = jnp.where(found, 1 / strength if inverse else strength, 0)
  spread = strength * beta.astype(dtype) ** 2

  # A Gaussian is a product of one of the rows and one of the columns: the sum
  # over peaks is a matrix product.
  def along(place):
    away = jnp.arange(size, dtype=dtype)[:, None] - place[:, None]
    return jnp.exp(-away**2 / spread[:, None])

  return base + jnp.einsum('nyp,nxp->nyx', along(row) * height[:, None],
                           along(column), precision='highest')
