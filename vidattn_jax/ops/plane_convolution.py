"""The convolution of two planes into one: gates of AIA and CBAM3D have it.

XLA makes slow code of it: on the CPU it takes 100 times as long as it should,
on a GPU its gradient to the kernel does, and on a TPU two channels are padded
to 128. So there is a plain form, which says what it computes, one for the CPU,
one for accelerators, and a kernel for TPUs (`plane_kernels`) where that takes
the shape; `platform.by_platform` chooses.
"""

import jax
from jax import lax
import jax.numpy as jnp

from vidattn_jax.ops import plane_kernels
from vidattn_jax.ops import platform

# Outputs that one row of the banded kernel computes at a time, on the CPU.
_BLOCK = 8
# An axis so long is the channels of a convolution as it is, on the CPU.
_SHORT = range(4, 17)
# The longest axis whose matrix is made on accelerators, if another is shorter.
_LONG = 512


@jax.custom_vjp
def convolve_planes(planes: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves two planes into one, zero padded, stride 1.

  Args:
    planes: [N, 2, A, B, C].
    kernel: [a, b, c, 2, 1], odd lengths along A, B and C, the last at most 9;
      then the planes.

  Returns:
    [N, A, B, C].
  """
  return platform.settled(lax.squeeze(_convolve(planes, kernel), (1,)))


@jax.jit
def _convolve(planes, kernel):
  """Convolves [N, P, A, B, C] with [a, b, c, P, Q] to [N, Q, A, B, C]."""
  return platform.by_platform(
      _convolve_on_cpu, _convolve_plain, planes, kernel,
      on_accelerator=_convolve_dense,
      on_tpu=(plane_kernels.convolve if plane_kernels.takes(
          (len(planes), *planes.shape[2:]), planes.dtype, kernel.shape[:3])
              else None))


def _convolve_plain(planes, kernel):
  return lax.conv_general_dilated(
      planes, kernel, (1, 1, 1), _padding(kernel.shape[:3]),
      dimension_numbers=('NCDHW', 'DHWIO', 'NCDHW'))


def _padding(lengths):
  return [(length // 2, length // 2) for length in lengths]


def _convolve_on_cpu(planes, kernel):
  # From one plane to two, as gradients go, windows would have few channels.
  if planes.shape[1] == 1 and planes.shape[2] in _SHORT:
    # Of one plane, both bands are the same.
    return _convolve_first(planes, kernel, _band_of_line)
  return _convolve_banded(planes, kernel)


def _convolve_banded(planes, kernel):
  # The last axis is cut into blocks, which are the channels of a 2D
  # convolution: from each block and what is beside it to the block, by a banded
  # matrix. With three taps that is 3 times the arithmetic, and 100 times the
  # speed.
  extra = kernel.shape[2] - 1
  y = _convolve_windows(_blocks(planes, extra), _band_of_line(
      kernel, _BLOCK + extra, _BLOCK, 0))
  return _from_blocks(y, kernel.shape[-1], planes.shape)


def _convolve_windows(windows, banded):
  return lax.conv_general_dilated(
      windows, banded, (1, 1), _padding(banded.shape[:2]),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _convolve_dense(planes, kernel):
  # More arithmetic, but matrix units do it, and the planes are read as they
  # lie.
  if _turns(planes.shape):
    return _convolve_first(planes, kernel, _band)
  return _convolve_last(planes, kernel, _band)


def _turns(shape):
  """Tells whether the first axis is to be channels, not the last.

  Matrix units are quick at channels in eights; of many channels, most of the
  matrix is zeros.
  """
  first, last = shape[2], shape[4]
  return (first < last > _LONG) or (last % 8 != 0 and first % 8 == 0)


def _convolve_first(planes, kernel, band):
  """Convolves with the first axis as channels, see `_convolve_last`."""
  y = _convolve_last(planes.transpose(0, 1, 3, 4, 2),
                     kernel.transpose(1, 2, 0, 3, 4), band)
  return y.transpose(0, 1, 4, 2, 3)


def _convolve_last(planes, kernel, band):
  """Convolves in two dimensions, with the last axis as channels.

  From all of them to all, by a matrix with a band of taps in it, which `band`
  makes.
  """
  n, _, a, b, c = planes.shape
  y = _convolve_windows(_as_channels(planes), band(
      kernel, c, c, kernel.shape[2] // 2))
  return y.reshape(n, a, b, -1, c).transpose(0, 3, 1, 2, 4)


def _as_channels(planes):
  """Turns [N, P, A, B, C] into [N, A, B, P * C]."""
  n, _, a, b, _ = planes.shape
  return planes.transpose(0, 2, 3, 1, 4).reshape(n, a, b, -1)


def _band(kernel, rows, columns, offset):
  """Spreads [a, b, c, P, Q] to [a, b, P * rows, Q * columns].

  Row i has tap i - j + offset in column j, if there is such a tap, else zero.
  """
  a, b, _, p, q = kernel.shape
  # Axes: A, B, planes, rows, planes, columns.
  taps = jnp.moveaxis(kernel, 2, 0)[..., None, :, None]
  band = sum(jnp.where(here, tap, 0) for here, tap in zip(
      _diagonals(rows, columns, offset, len(taps)), taps, strict=True))
  return band.reshape(a, b, p * rows, q * columns)


def _taps(band, rows, columns, offset, number):
  """Adds up what `_band` spread: its transpose."""
  a, b, p, q = band.shape
  band = band.reshape(a, b, p // rows, rows, q // columns, columns)
  return jnp.stack([jnp.where(here, band, 0).sum((3, 5))
                    for here in _diagonals(rows, columns, offset, number)],
                   axis=2)


def _diagonals(rows, columns, offset, number):
  """Returns for each of some taps where it stands, [rows, 1, columns]."""
  distance = jnp.arange(rows)[:, None, None] - jnp.arange(columns)
  return [distance == tap - offset for tap in range(number)]


def _band_of_line(kernel, rows, columns, offset):
  """Spreads [a, b, c, P, Q] to [a, b, rows * P, Q * columns].

  As `_band`, but with the planes of a row side by side, and for the CPU: of few
  operations, as networks have hundreds of gates, and compiling takes time.
  """
  a, b, taps, p, q = kernel.shape
  # A line of the taps and zeros again and again, cut into columns of one less:
  # from one column to the next, the taps move down by one. It is so long that
  # the taps before and after are not in sight.
  period = max(rows + max(1, offset), taps + columns - offset - 1)
  line = lax.pad(kernel, jnp.zeros((), kernel.dtype), [
      (0, period - taps if axis == 2 else 0, 0) for axis in range(5)])
  again = columns + (offset > 0)
  line = lax.broadcast_in_dim(line, (a, b, again, period, p, q),
                              (0, 1, 3, 4, 5)).reshape(a, b, -1, p, q)
  band = line[:, :, offset:offset + columns * (period - 1)].reshape(
      a, b, columns, -1, p, q)[:, :, :, :rows]
  return band.transpose(0, 1, 3, 4, 5, 2).reshape(a, b, rows * p, q * columns)


def _taps_of_line(band, rows, columns, offset, number):
  """Adds up what `_band_of_line` spread: its transpose."""
  a, b, p, q = band.shape
  wide = jnp.promote_types(band.dtype, jnp.float32)
  kernel = jax.ShapeDtypeStruct((a, b, number, p // rows, q // columns), wide)
  taps, = jax.linear_transpose(
      lambda kernel: _band_of_line(kernel, rows, columns, offset), kernel)(
          band.astype(wide))
  return taps.astype(band.dtype)


def _blocks(x, extra=0):
  """Cuts [N, P, A, B, C] into [N * blocks, A, B, (_BLOCK + extra) * P].

  Each block comes with the half of `extra` to its left, and that to its right.
  """
  n, p, a, b, c = x.shape
  count = -(-c // _BLOCK)
  left, length = extra // 2, (count + (extra > 0)) * _BLOCK
  if length > c:
    x = lax.pad(x, jnp.zeros((), x.dtype),
                [(0, 0, 0)] * 4 + [(left, length - c - left, 0)])
  blocks = x.reshape(n, p, a, b, -1, _BLOCK)
  if extra:
    blocks = jnp.concatenate(
        [blocks[..., :-1, :], blocks[..., 1:, :extra]], axis=-1)
  return blocks.transpose(0, 4, 2, 3, 5, 1).reshape(n * count, a, b, -1)


def _from_blocks(y, p, shape):
  """Joins [N * blocks, A, B, P * _BLOCK] to [N, P, A, B, C]."""
  n, _, a, b, c = shape
  y = y.reshape(n, -1, a, b, p, _BLOCK).transpose(0, 4, 2, 3, 1, 5)
  return y.reshape(n, p, a, b, -1)[..., :c]


def _kernel_gradient_plain(planes, g, size):
  shape = jax.ShapeDtypeStruct((*size, planes.shape[1], 1), planes.dtype)
  return jax.linear_transpose(
      lambda k: _convolve_plain(planes, k), shape)(g[:, None])[0]


def _kernel_gradient_banded(planes, g, size):
  p, taps = planes.shape[1], size[2]
  rows = _BLOCK + taps - 1
  windows = _blocks(planes, taps - 1)
  band = jax.ShapeDtypeStruct((*size[:2], p * rows, _BLOCK), planes.dtype)
  band, = jax.linear_transpose(
      lambda t: _convolve_windows(windows, t), band)(_blocks(g[:, None]))
  return _taps_of_line(band, rows, _BLOCK, 0, taps)


def _kernel_gradient_dense(planes, g, size):
  if _turns(planes.shape):
    return _kernel_gradient_first(planes, g, size)
  return _kernel_gradient_last(planes, g, size)


def _kernel_gradient_first(planes, g, size):
  gradient = _kernel_gradient_last(
      planes.transpose(0, 1, 3, 4, 2), g.transpose(0, 2, 3, 1),
      (*size[1:], size[0]))
  return gradient.transpose(2, 0, 1, 3, 4)


def _kernel_gradient_last(planes, g, size):
  p, length, taps = planes.shape[1], planes.shape[4], size[2]
  x = _as_channels(planes)
  dense = jax.ShapeDtypeStruct((*size[:2], p * length, length), planes.dtype)
  dense, = jax.linear_transpose(
      lambda t: _convolve_windows(x, t), dense)(g)
  return _taps(dense, length, length, taps // 2, taps)


def _convolve_fwd(planes, kernel):
  return convolve_planes(planes, kernel), (planes, kernel)


@jax.jit
def _convolve_bwd(residuals, g):
  def by_kernel_gradient(kernel_gradient):
    def gradients(planes, kernel, g):
      back = _convolve(g[:, None], kernel[::-1, ::-1, ::-1].swapaxes(3, 4))
      return (platform.settled(back),
              kernel_gradient(planes, g, kernel.shape[:3]))
    return gradients

  return platform.by_platform(
      by_kernel_gradient(_kernel_gradient_banded),
      by_kernel_gradient(_kernel_gradient_plain), *residuals, g,
      on_accelerator=by_kernel_gradient(_kernel_gradient_dense),
      on_tpu=(plane_kernels.gradients if plane_kernels.takes(
          g.shape, g.dtype, residuals[1].shape[:3]) else None))


convolve_planes.defvjp(_convolve_fwd, _convolve_bwd)
