"""Convolution, in the form that suits the platform.

On the CPU, XLA is quick at 2D convolutions and at matrix products, and slow,
up to hundreds of times, at most other convolutions and their gradients. There,
each kind is written as one of those two; results agree to rounding. `_form` is
the rule. Any other platform gets the plain convolution and its gradients.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import math

import jax
from jax import lax
import jax.numpy as jnp

from vidattn_jax.ops import per_device
from vidattn_jax.ops import platform

# A kernel with no more taps than this is a matrix product over its taps:
# 1x1x1, and 3x1x1 over time.
_FEW_TAPS = 3
# So is any kernel with no more places to stand: weights are then larger than
# features, and a 2D convolution spends its time on transposing them.
_FEW_PLACES = 512
# Frames whose kernel gradient is computed at once, and the most parts that this
# makes.
_FRAMES, _PIECES = 4, 8
# Narrow groups are joined until they have so many channels.
_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class _Window:
  """What a convolution is beside its arrays.

  Attributes:
    kernel: lengths of the kernel.
    strides: steps along the same axes.
    padding: (before, after) along them.
    dilation: distances of the kernel's taps.
    groups: number of groups of channels.
    precision: of the products.
  """
  kernel: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  dilation: tuple[int, ...]
  groups: int
  precision: lax.PrecisionLike

  def places(self, shape):
    """Returns the output's lengths, given the input's [N, ..., C]."""
    return tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(shape[1:-1], self.padding, self.dilation,
                                 self.kernel, self.strides))


def conv_general_dilated(lhs, rhs, window_strides, padding,
                         lhs_dilation=None, rhs_dilation=None,
                         dimension_numbers=None, feature_group_count=1,
                         batch_group_count=1, precision=None,
                         preferred_element_type=None, summed=False):
  """Convolves as `jax.lax.conv_general_dilated`, but fast on the CPU, too.

  Args:
    lhs: input; channels last, or the plain form is used everywhere.
    rhs: kernel.
    window_strides: see `jax.lax.conv_general_dilated`, as for all that follow.
    padding: the same.
    lhs_dilation: the same.
    rhs_dilation: the same.
    dimension_numbers: the same.
    feature_group_count: the same.
    batch_group_count: the same.
    precision: the same.
    preferred_element_type: the same.
    summed: whether the result is added to an array that is not wanted any more
      after that, so that the CPU may write the sum over it.

  Returns:
    What `jax.lax.conv_general_dilated` returns. It has gradients of the first
    order in reverse mode.
  """
  plain = functools.partial(
      lax.conv_general_dilated, window_strides=window_strides, padding=padding,
      lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation,
      dimension_numbers=dimension_numbers,
      feature_group_count=feature_group_count,
      batch_group_count=batch_group_count, precision=precision,
      preferred_element_type=preferred_element_type)
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  rank = lhs.ndim - 2
  if (numbers != _channels_last(lhs.ndim)
      or rank not in (2, 3) or batch_group_count != 1
      or any(d != 1 for d in lhs_dilation or ())
      or preferred_element_type not in (None, lhs.dtype)):
    return plain(lhs, rhs)
  dilation = tuple(rhs_dilation or (1,) * rank)
  kernel = rhs.shape[:rank]
  if isinstance(padding, str):
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    padding = lax.padtype_to_pads(lhs.shape[1:-1], extent, window_strides,
                                  padding)
  window = _Window(kernel, tuple(window_strides),
                   tuple((int(a), int(b)) for a, b in padding), dilation,
                   feature_group_count, precision)
  cut = _of_cut_clips(lhs, rhs, window)
  if cut is not None:
    return cut
  lhs = per_device.gathered(lhs)
  form = _form(lhs.shape, rhs.shape, window)
  if form is None:
    return plain(lhs, rhs)
  form = functools.partial(form, window=window)
  # XLA flattens what a matrix product gives, and writes no sum over that; and
  # what a convolution reads is computed before it, not by each of its readers.
  as_it_is = (summed and rank == 2 and window.groups == math.prod(kernel) == 1
              and _number_of_places(lhs.shape, window) > _FEW_PLACES)
  return _convolve(plain if as_it_is else form, form, plain, lhs, rhs)


def _of_cut_clips(x, kernel, window):
  """Convolves pieces of clips on several devices; None if they are whole."""
  def along(axis):
    i = axis - 1
    return (window.dilation[i] * (window.kernel[i] - 1) + 1, window.strides[i],
            window.padding[i])

  def convolve(axis, x, kernel):
    padding = list(window.padding)
    padding[axis - 1] = 0, 0
    return conv_general_dilated(
        x, kernel, window.strides, padding, None, window.dilation,
        lax.ConvDimensionNumbers(*_channels_last(x.ndim)), window.groups,
        precision=window.precision)

  return per_device.neighbours(convolve, x, along, (kernel,))


def _channels_last(ndim):
  """Returns the dimension numbers of input, kernel and output."""
  rank = ndim - 2
  last = (0, rank + 1, *range(1, rank + 1))
  return last, (rank + 1, rank, *range(rank)), last


def _number_of_places(shape, window):
  return shape[0] * math.prod(window.places(shape))


def _form(shape, kernel_shape, window) -> Callable[..., jax.Array] | None:
  """Returns how the CPU computes a convolution; None is the plain form."""
  channels = shape[-1]
  if 1 < window.groups == channels == kernel_shape[-1]:
    return _as_sums
  few = (math.prod(window.kernel) <= _FEW_TAPS
         or _number_of_places(shape, window) <= _FEW_PLACES)
  if window.groups > 1:
    return _grouped_dots if few else _as_blocks
  if few:
    return _as_dots
  return _as_frames if len(window.kernel) == 3 else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(ahead, on_cpu, plain, x, kernel):
  """Convolves by `ahead` on CPUs, with the gradients of `on_cpu`."""
  return platform.by_platform(ahead, plain, x, kernel)


def _convolve_fwd(ahead, on_cpu, plain, x, kernel):
  return _convolve(ahead, on_cpu, plain, x, kernel), (x, kernel)


def _convolve_bwd(ahead, on_cpu, plain, residuals, g):
  del ahead
  # Two calls, so that a gradient that nobody wants costs nothing.
  x, kernel = residuals

  def to_input(form):
    return lambda x, kernel, g: jax.vjp(lambda x: form(x, kernel), x)[1](g)[0]

  def to_kernel(form):
    return lambda x, kernel, g: jax.vjp(
        lambda kernel: form(x, kernel), kernel)[1](g)[0]

  return tuple(platform.by_platform(to(on_cpu), to(plain), x, kernel, g)
               for to in (to_input, to_kernel))


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _taps(x, window):
  """Returns what each tap of the kernel sees: list of [N, places, C]."""
  places = window.places(x.shape)
  x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
  seen = []
  for tap in itertools.product(*map(range, window.kernel)):
    start = [i * d for i, d in zip(tap, window.dilation)]
    stop = [i + (n - 1) * s + 1
            for i, n, s in zip(start, places, window.strides)]
    seen.append(lax.slice(x, (0, *start, 0), (len(x), *stop, x.shape[-1]),
                          (1, *window.strides, 1)))
  return seen


def _as_dots(x, kernel, window):
  """One matrix product with all that the taps see, side by side."""
  return _product(jnp.concatenate(_taps(x, window), axis=-1),
                  kernel.reshape(-1, kernel.shape[-1]), window.precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(a, b, precision):
  return jnp.dot(a, b, precision=precision)


def _product_fwd(a, b, precision):
  return _product(a, b, precision), (a, b)


def _product_bwd(precision, residuals, g):
  # Written out, as otherwise the second one is computed as its transpose, and
  # transposing takes as long as computing.
  a, b = residuals
  rows, g_rows = (m.reshape(-1, m.shape[-1]) for m in (a, g))
  return (jnp.dot(g, b.T, precision=precision),
          jnp.dot(rows.T, g_rows, precision=precision))


_product.defvjp(_product_fwd, _product_bwd)


def _grouped_dots(x, kernel, window):
  """A matrix product for each group."""
  x, kernel = (jnp.moveaxis(a.reshape(*a.shape[:-1], window.groups, -1), -2, 0)
               for a in (x, kernel))
  y = jax.vmap(functools.partial(_as_dots, window=window))(x, kernel)
  return jnp.moveaxis(y, 0, -2).reshape(*y.shape[1:-1], -1)


def _as_sums(x, kernel, window):
  """Groups of one channel: a weighted sum of what the taps see."""
  weights = kernel.reshape(-1, kernel.shape[-1])
  # As a convolution does, add up in float32 at least.
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return sum(seen.astype(wide) * weight.astype(wide) for seen, weight in zip(
      _taps(x, window), weights)).astype(x.dtype)


def _as_frames(x, kernel, window):
  """A 2D convolution of frames, with the taps over time as channels."""
  if len(window.kernel) == 2:
    return _convolve_frames(x[:, None], kernel, window)[:, 0]
  still = (0, 0)
  time = _Window((window.kernel[0], 1, 1), (window.strides[0], 1, 1),
                 (window.padding[0], still, still), (window.dilation[0], 1, 1),
                 1, None)
  kernel = jnp.moveaxis(kernel, 0, 2)
  return _convolve_frames(
      jnp.concatenate(_taps(x, time), axis=-1),
      kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1]), window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_frames(x, kernel, window):
  """Convolves [N, T, H, W, C] with [h, w, C, D]."""
  return _convolve_frames_plain(x, kernel, window)


def _convolve_frames_plain(x, kernel, window):
  y = lax.conv_general_dilated(
      x.reshape(-1, *x.shape[2:]), kernel, window.strides[-2:],
      window.padding[-2:], rhs_dilation=window.dilation[-2:],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision=window.precision)
  return y.reshape(*x.shape[:2], *y.shape[1:])


def _convolve_frames_fwd(x, kernel, window):
  return _convolve_frames(x, kernel, window), (x, kernel)


def _convolve_frames_bwd(window, residuals, g):
  x, kernel = residuals
  convolve = functools.partial(_convolve_frames_plain, window=window)
  to_x, = jax.linear_transpose(lambda x: convolve(x, kernel), x)(g)
  # Of few frames at a time: of many, XLA's is three times as slow. By time, as
  # the batch may be on several devices.
  n, t = x.shape[:2]
  step = max(_FRAMES // n, -(-t // _PIECES), 1)
  to_kernel = sum(
      jax.linear_transpose(
          lambda kernel, part=x[:, i:i + step]: convolve(part, kernel),
          kernel)(g[:, i:i + step])[0]
      for i in range(0, t, step))
  return to_x, to_kernel


_convolve_frames.defvjp(_convolve_frames_fwd, _convolve_frames_bwd)


def _as_blocks(x, kernel, window):
  """Several groups at a time, with zeros between them."""
  groups, (width, out) = window.groups, kernel.shape[-2:]
  joined = next(n for n in range(1, groups + 1)
                if groups % n == 0 and (n * width >= _BLOCK or n == groups))
  blocks = groups // joined
  kernel = kernel.reshape(*window.kernel, width, blocks, joined, -1)
  # Axes: taps, width, blocks, joined, out to blocks, taps, joined, width,
  # joined, out; only what joins a group to itself is not zero.
  kernel = jnp.einsum('...ibjo,jk->b...kijo', kernel,
                      jnp.eye(joined, dtype=kernel.dtype))
  kernel = kernel.reshape(blocks, *window.kernel, joined * width,
                          out // blocks)
  inputs = jnp.split(x, blocks, axis=-1)
  return jnp.concatenate([_as_frames(*block, window)
                          for block in zip(inputs, kernel)], axis=-1)
