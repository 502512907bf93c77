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


def channels(x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array,
             var: jax.Array, epsilon: float) -> jax.Array:
  """Normalises each channel by given statistics.

  Args:
    x: [..., C].
    scale: [C] in float32, as all that follow.
    bias: [C].
    mean: [C].
    var: [C].
    epsilon: added to `var`.

  Returns:
    [..., C], in float32, or wider if `x` is.
  """
  return (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias


def statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns mean and variance of each channel of [..., C], at least float32."""
  x, axes = wide(x), tuple(range(x.ndim - 1))
  mean = x.mean(axes)
  return mean, jnp.maximum(0.0, (x * x).mean(axes) - mean * mean)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def channels_of_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array,
    epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises each channel by its own statistics.

  The gradient is written out so that it reads what comes back and `x`, and
  nothing else of that size: from Flax's BatchNorm, XLA keeps x - mean as well
  on the CPU.

  Args:
    x: see `channels`.
    scale: see `channels`.
    bias: see `channels`.
    epsilon: see `channels`.

  Returns:
    (what `channels` returns; mean and variance, which have no gradient).
  """
  return _channels_of_batch_fwd(x, scale, bias, epsilon)[0]


def _channels_of_batch_fwd(x, scale, bias, epsilon):
  mean, var = statistics(x)
  return ((channels(x, scale, bias, mean, var, epsilon), mean, var),
          (x, mean, jax.lax.rsqrt(var + epsilon), scale))


def _channels_of_batch_bwd(epsilon, residuals, g):
  del epsilon
  x, mean, inverse, scale = residuals
  g, *_ = g
  axes, share = tuple(range(x.ndim - 1)), x.shape[-1] / x.size
  to_bias = g.sum(axes)
  # Not of (x - mean), which would be computed beforehand, and kept.
  to_scale = ((g * x).sum(axes) - mean * to_bias) * inverse
  to_x = inverse * scale * (
      g - share * to_bias - (x - mean) * (share * inverse * to_scale))
  return (to_x.astype(x.dtype), to_scale.astype(scale.dtype),
          to_bias.astype(scale.dtype))


channels_of_batch.defvjp(_channels_of_batch_fwd, _channels_of_batch_bwd)


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
