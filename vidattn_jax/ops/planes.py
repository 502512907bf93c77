"""Pooling a clip along one axis, and convolving the planes that result."""

import jax
from jax import lax
import jax.numpy as jnp


def pool_planes(x: jax.Array, axis: int) -> jax.Array:
  """Pools one axis away, by maximum and by mean.

  The gradient of a maximum that occurs more than once is split evenly.

  Args:
    x: [N, T, H, W, C].
    axis: 1 to 4, the axis to pool.

  Returns:
    [N, 2, ...], the maximum first, then the three axes that are left, in
    their order.
  """
  return jnp.stack([x.max(axis), x.mean(axis)], axis=1)


def convolve_planes(planes: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves two planes into one, zero padded, stride 1.

  Args:
    planes: [N, 2, A, B, C].
    kernel: [3, 3, 3, 2, 1]; the axes A, B, C, then the planes.

  Returns:
    [N, A, B, C].
  """
  return lax.conv_general_dilated(
      planes, kernel, (1, 1, 1), ((1, 1),) * 3,
      dimension_numbers=('NCDHW', 'DHWIO', 'NCDHW'))[:, 0]
