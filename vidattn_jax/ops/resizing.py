"""Clips brought to another size, along some of their axes."""

import jax
import jax.numpy as jnp
import numpy as np


def upsample_nearest(x: jax.Array, sizes: dict[int, int]) -> jax.Array:
  """Repeats elements until axes have the given lengths.

  Element i of an axis is element floor(i * old / new) of the old one.

  Args:
    x: any array.
    sizes: {axis: new length}.

  Returns:
    `x` with those lengths.
  """
  for axis, size in sizes.items():
    old = x.shape[axis]
    if size % old == 0:
      # The same, but its gradient is a sum and not a scatter.
      x = jnp.repeat(x, size // old, axis)
    else:
      x = jnp.take(x, np.arange(size) * old // size, axis)
  return x


def average_repeated(x: jax.Array, sizes: dict[int, int]) -> jax.Array:
  """Averages the elements that `upsample_nearest` would make of one.

  Args:
    x: any array.
    sizes: {axis: new length, at most the old one}.

  Returns:
    `x` with those lengths.
  """
  for axis, size in sizes.items():
    old = x.shape[axis]
    if old == size:
      continue
    alike = np.arange(old) * size // old == np.arange(size)[:, None]
    x = _weigh(x, axis, alike / alike.sum(1, keepdims=True))
  return x


def adaptive_average_pool(x: jax.Array, sizes: dict[int, int]) -> jax.Array:
  """Averages in bins, so that axes get the given lengths.

  Bin i of an axis reaches from floor(i * old / new) to before
  ceil((i + 1) * old / new), as in torch; bins may overlap, and there may be
  more of them than elements.

  Args:
    x: any array.
    sizes: {axis: new length}.

  Returns:
    `x` with those lengths.
  """
  for axis, size in sizes.items():
    old = x.shape[axis]
    if old == size:
      continue
    place, first = np.arange(old), np.arange(size)[:, None] * old
    bins = (place >= first // size) & (place < -(-(first + old) // size))
    x = _weigh(x, axis, bins / bins.sum(1, keepdims=True))
  return x


def resize_aligned(x: jax.Array, sizes: dict[int, int]) -> jax.Array:
  """Interpolates linearly; the first and the last element stay in place.

  Args:
    x: any array.
    sizes: {axis: new length}.

  Returns:
    `x` with those lengths.
  """
  for axis, size in sizes.items():
    old = x.shape[axis]
    if old == size:
      continue
    place = np.linspace(0, old - 1, size)[:, None]
    x = _weigh(x, axis, np.maximum(1 - np.abs(place - np.arange(old)), 0))
  return x


def _weigh(x, axis, weights):
  """Multiplies an axis of `x` by a matrix [new, old]."""
  weights = jnp.asarray(weights, x.dtype)
  return jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (1,)),
                                    precision='highest'), -1, axis)
