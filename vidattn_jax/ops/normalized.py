"""Normalisation as a part of what reads its result.

What BatchNorm gives is no more than its input with every channel shifted and
scaled: whatever reads it can do that on the way. So can kernels that read a
clip (`Clip`), and so does the sigmoid that makes a gate.
"""

import functools
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


def wide(x: jax.Array) -> jax.Array:
  """Returns `x` in float32, or wider if it is."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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
  return jnp.stack([(wide(g) * by).sum((0, 1, 2, 3))
                    for by in (1.0, x - norm[0])])


def gradient_of_norm(norm: jax.Array | None,
                     found: jax.Array | None) -> jax.Array | None:
  """Returns the gradient of the norm, from what `sums` returned."""
  if norm is None:
    return None
  return jnp.stack([-found[0] * norm[1], found[1], found[0]])


def sigmoid(x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array,
            var: jax.Array, epsilon: float) -> jax.Array:
  """Computes the sigmoid of what is normalised by given statistics.

  Args:
    x: [..., 1].
    scale: [1] in float32, as all that follow.
    bias: [1].
    mean: [1].
    var: [1].
    epsilon: added to `var`.

  Returns:
    [...], in the type of `x`.
  """
  factor = jax.lax.rsqrt(var + epsilon) * scale
  return _sigmoid(_squeezed(x), *map(_squeezed, (mean, factor, bias)))


def _sigmoid(x, mean, factor, bias):
  return jax.nn.sigmoid((x - mean) * factor + bias).astype(x.dtype)


def _squeezed(x):
  return jax.lax.reshape(x, x.shape[:-1])


def moved(kept: jax.Array, now: jax.Array, momentum: float) -> jax.Array:
  """Returns a running statistic, moved towards that of a batch."""
  return (momentum * kept + (1 - momentum) * now).astype(kept.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def sigmoid_of_batch(x: jax.Array, scale: jax.Array, bias: jax.Array,
                     mean: jax.Array, var: jax.Array, momentum: float,
                     epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the sigmoid of what is normalised by its own statistics.

  Its gradient is written out, and statistics are moved here, so that there are
  few operations: networks have hundreds of gates, and compiling takes time.

  Args:
    x: see `sigmoid`.
    scale: see `sigmoid`.
    bias: see `sigmoid`.
    mean: running mean, [1].
    var: running variance, [1].
    momentum: how much of those is kept.
    epsilon: see `sigmoid`.

  Returns:
    (what `sigmoid` returns; mean and variance, moved towards those of `x`,
    which have no gradient).
  """
  return _sigmoid_of_batch_fwd(x, scale, bias, mean, var, momentum, epsilon)[0]


def _sigmoid_of_batch_fwd(x, scale, bias, mean, var, momentum, epsilon):
  x = _squeezed(x)
  mean_now = wide(x).sum() * (1 / x.size)
  var_now = jnp.maximum((wide(x) * wide(x)).sum() * (1 / x.size)
                        - mean_now * mean_now, 0.0)
  inverse = jax.lax.rsqrt(var_now + epsilon)
  factor = inverse * _squeezed(scale)
  gate = _sigmoid(x, mean_now, factor, _squeezed(bias))
  mean, var = (moved(kept, now, momentum) for kept, now in (
      (mean, mean_now), (var, var_now)))
  return (gate, mean, var), (x, gate, mean_now, inverse, factor, scale)


def _sigmoid_of_batch_bwd(momentum, epsilon, residuals, g):
  del momentum, epsilon
  x, gate, mean, inverse, factor, scale = residuals
  g, *_ = g
  to_y = g * (wide(gate) * (1 - wide(gate)))
  centered = x - mean
  to_bias = to_y.sum()
  to_scale = (to_y * centered).sum() * inverse
  along = inverse * to_scale * (1 / x.size)
  to_x = factor * (to_y - (to_bias * (1 / x.size) + centered * along))
  return (jax.lax.reshape(to_x.astype(x.dtype), (*x.shape, 1)),
          *(jax.lax.reshape(p.astype(scale.dtype), scale.shape)
            for p in (to_scale, to_bias)), None, None)


sigmoid_of_batch.defvjp(_sigmoid_of_batch_fwd, _sigmoid_of_batch_bwd)
