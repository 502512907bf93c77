"""Clips whose normalisation is left to whatever reads them.

What BatchNorm gives is no more than its input with every channel shifted and
scaled: a kernel that reads the input can do that on the way.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Clip(NamedTuple):
  """A clip that is yet to be normalised, or one as it is.

  Attributes:
    x: [N, T, H, W, C].
    norm: [3, C] in float32, such that the clip is (x - norm[0]) * norm[1] +
      norm[2]; None if it is x.
  """
  x: jax.Array
  norm: jax.Array | None = None

  @property
  def shape(self) -> tuple[int, ...]:
    """The clip's."""
    return self.x.shape

  @property
  def dtype(self):
    """The clip's."""
    return self.x.dtype


def value(x: jax.Array, norm: jax.Array | None) -> jax.Array:
  """Returns the clip [N, T, H, W, C], in the type of `x`."""
  if norm is None:
    return x
  mean, factor, bias = norm
  return ((x - mean) * factor + bias).astype(x.dtype)


def gradient_of_x(norm: jax.Array | None, g: jax.Array) -> jax.Array:
  """Returns the gradient of x, from that of the clip, where norm is given."""
  return g if norm is None else (g * norm[1]).astype(g.dtype)


def sums(x: jax.Array, norm: jax.Array | None,
         g: jax.Array) -> jax.Array | None:
  """Sums what the gradient of the norm consists of.

  Args:
    x: see `Clip`.
    norm: see `Clip`.
    g: gradient of the clip.

  Returns:
    [2, C], the sums of g and of g * (x - norm[0]); None if there is no norm.
  """
  if norm is None:
    return None
  wide = g.astype(jnp.promote_types(g.dtype, jnp.float32))
  return jnp.stack([(wide * by).sum((0, 1, 2, 3))
                    for by in (1.0, x - norm[0])])


def gradient_of_norm(norm: jax.Array | None,
                     found: jax.Array | None) -> jax.Array | None:
  """Returns the gradient of the norm, from what `sums` returned."""
  if norm is None:
    return None
  return jnp.stack([-found[0] * norm[1], found[1], found[0]])
