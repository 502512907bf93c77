"""Sparse attention: a Gaussian around every peak."""

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
    peaks: bool [N, G, G].
    beta: width in cells, a scalar.
    base: what every cell has; without peaks, all that it has.
    inverse: the height of a Gaussian is 1 / R, not R (complementary peaks).

  Returns:
    [N, G, G], of the response's type, at least `base`.
  """
  response = jax.lax.stop_gradient(response)
  peaks &= response > 0
  # Every cell is a candidate, so that shapes are fixed; 1 keeps the gradient
  # of those that do not count a number.
  strength = jnp.where(peaks, response, 1)
  height = jnp.where(peaks, 1 / strength if inverse else strength, 0)
  cells = jnp.arange(response.shape[-1], dtype=response.dtype)
  squares = (cells[:, None] - cells) ** 2
  spread = (strength * beta.astype(response.dtype) ** 2)[:, None]
  # A Gaussian is a product of one of the rows and one of the columns: the sum
  # over peaks (r, c) is a matrix product.
  rows = jnp.exp(-squares[:, :, None] / spread)
  columns = jnp.exp(-squares[:, None, :] / spread)
  return base + jnp.einsum('nyrc,nxrc->nyx', rows * height[:, None], columns,
                           precision='highest')
