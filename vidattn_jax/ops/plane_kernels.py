"""Convolving planes on TPUs, by kernels that read and write each once.

Three axes of a plane and the clips lie as [A, B, N, C]. Clips and the last axis
make up a TPU's registers, so that moving along the first two costs nothing, and
along the last one a rotation.
"""

import itertools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from vidattn_jax.ops import per_device

_TAPS = tuple(itertools.product(range(3), repeat=2))


def _pad(x_ref, padded_ref):
  """Copies [P, A, B, n, C] into the middle of zeros."""
  planes, a, b, _, c = x_ref.shape
  edge = jnp.zeros(padded_ref.shape[2:], padded_ref.dtype)
  side = edge[0]

  def row(index, _):
    p, i = lax.div(index, a), lax.rem(index, a) + 1
    padded_ref[p, i, 0] = side
    padded_ref[p, i, b + 1] = side
    if c < padded_ref.shape[-1]:
      padded_ref[p, i] = edge
    padded_ref[p, i, pl.ds(1, b), :, pl.ds(0, c)] = x_ref[p, i - 1]
    return 0

  for p in range(planes):
    padded_ref[p, 0] = edge
    padded_ref[p, a + 1] = edge
  lax.fori_loop(0, planes * a, row, 0)


def _shifted(x, step, length):
  """Returns what stands `step` lanes before; zeros come in."""
  lanes = x.shape[-1]
  y = pltpu.roll(x, step % lanes, 1)
  if lanes > length:
    return y  # What comes in is zero already.
  lane = lax.broadcasted_iota(jnp.int32, x.shape, 1)
  return jnp.where(lane == (0 if step > 0 else lanes - 1), 0.0, y)


def _convolve_into(w_ref, padded_ref, y_ref):
  """Convolves padded planes; w_ref has [3, 3, 3, P, Q], flat."""
  planes, *_, lanes = padded_ref.shape
  results, a, b, n, c = y_ref.shape

  def place(index, _):
    i, j = lax.div(index, b), lax.rem(index, b)
    sums = [[jnp.zeros((n, lanes), jnp.float32) for _ in range(3)]
            for _ in range(results)]
    for (di, dj), p in itertools.product(_TAPS, range(planes)):
      x = padded_ref[p, i + di, j + dj].astype(jnp.float32)
      for k, q in itertools.product(range(3), range(results)):
        w = w_ref[(((di * 3 + dj) * 3 + k) * planes + p) * results + q]
        sums[q][k] += w * x
    for q, (before, here, after) in enumerate(sums):
      y = here + _shifted(before, 1, c) + _shifted(after, -1, c)
      y_ref[q, i, j] = y[:, :c].astype(y_ref.dtype)
    return 0

  lax.fori_loop(0, a * b, place, 0)


def _forward_kernel(w_ref, x_ref, y_ref, padded_ref):
  _pad(x_ref, padded_ref)
  _convolve_into(w_ref, padded_ref, y_ref)


def _backward_kernel(w_ref, x_ref, g_ref, to_x_ref, to_w_ref, padded_x_ref,
                     padded_g_ref):
  _pad(x_ref, padded_x_ref)
  _pad(g_ref, padded_g_ref)
  _convolve_into(w_ref, padded_g_ref, to_x_ref)
  planes, a, b, n, c = x_ref.shape
  lanes = padded_x_ref.shape[-1]

  def tap(index, _):
    di, dj, p = (lax.div(index, 3 * planes), lax.rem(lax.div(index, planes), 3),
                 lax.rem(index, planes))

    def place(index, sums):
      i, j = lax.div(index, b), lax.rem(index, b)
      x = padded_x_ref[p, i + di, j + dj].astype(jnp.float32)
      g = padded_g_ref[0, i + 1, j + 1].astype(jnp.float32)
      return tuple(s + x * y for s, y in zip(sums, (
          _shifted(g, -1, c), g, _shifted(g, 1, c))))

    zero = jnp.zeros((n, lanes), jnp.float32)
    sums = lax.fori_loop(0, a * b, place, (zero,) * 3)
    for k in range(3):
      to_w_ref[((di * 3 + dj) * 3 + k) * planes + p] = sums[k]
    return 0

  lax.fori_loop(0, 9 * planes, tap, 0)


def _lanes(length):
  return per_device.rounded_up(length, per_device.LANES)


def _needs(arrays, padded, dtype):
  """Returns (blocks, scratch) of a kernel, as `per_device.memory` has them."""
  some = per_device.clips_at_a_time
  blocks = [((*a.shape[:-2], some(a.shape[-2]), a.shape[-1]), a.dtype)
            for a in arrays]
  scratch = [((p, a + 2, b + 2, some(n), _lanes(c)), dtype)
             for p, a, b, n, c in padded]
  return blocks, scratch


def _sums(p, n, c):
  """Returns what the kernel's gradient is summed up from."""
  return jax.ShapeDtypeStruct((27 * p, n, _lanes(c)), jnp.float32)


def takes(shape: tuple[int, ...], dtype, size=(3, 3, 3)) -> bool:
  """Tells whether the kernels take planes.

  Args:
    shape: that of one plane, [N, A, B, C]; there may be two.
    dtype: its type.
    size: lengths of the convolution's kernel.
  """
  n, *axes, c = shape
  if size != (3, 3, 3):
    return False
  if dtype not in (jnp.bfloat16, jnp.float32) or not per_device.divides(n):
    return False
  n = per_device.own(n)
  # The gradients' kernel needs most.
  pair, plane = (jax.ShapeDtypeStruct((p, *axes, n, c), dtype) for p in (2, 1))
  return per_device.memory(
      *_needs([pair, pair, plane, _sums(2, n, c)], [pair.shape, plane.shape],
              dtype), buffers=1) <= per_device.capacity()


def _call(kernel, weights, arrays, results, padded, multiply_adds, interpret):
  """Calls a kernel on weights and on arrays [P, A, B, N, C].

  Args:
    kernel: the kernel; it sees some clips at a time.
    weights: array of any shape; the kernel gets it flat.
    arrays: the other arguments.
    results: shapes and types of the results; clips are the last axis but one.
    padded: shapes of arrays of which the kernel keeps one with a margin.
    multiply_adds: their number.
    interpret: do not compile.
  """
  n, dtype = arrays[0].shape[3], arrays[0].dtype
  blocks, scratch = _needs((*arrays, *results), padded, dtype)
  # Where there is no room for two of each, nothing is read ahead.
  roomy = per_device.memory(blocks, scratch) <= per_device.capacity() * 2 // 3
  buffers = 2 if roomy else 1

  def specs(some):
    return [pl.BlockSpec(
        (*before, per_device.clips_at_a_time(n), c),
        lambda i, before=before: (*(0 for _ in before), i, 0),
        **({} if buffers == 2 else {'pipeline_mode': pl.Buffered(buffers)}))
        for *before, n, c in (a.shape for a in some)]

  return pl.pallas_call(
      kernel, grid=(n // per_device.clips_at_a_time(n),),
      in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *specs(arrays)],
      out_specs=specs(results), out_shape=results,
      scratch_shapes=[pltpu.VMEM(*s) for s in scratch],
      compiler_params=pltpu.CompilerParams(
          vmem_limit_bytes=per_device.memory_limit(
              per_device.memory(blocks, scratch, buffers)),
          dimension_semantics=('parallel',)),
      cost_estimate=pl.CostEstimate(
          flops=2 * multiply_adds, transcendentals=0,
          bytes_accessed=sum(a.size * a.dtype.itemsize
                             for a in (*arrays, *results))),
      interpret=interpret)(weights.reshape(-1).astype(jnp.float32), *arrays)


def convolve(planes, kernel, interpret=False):
  """Convolves planes.

  Args:
    planes: [N, P, A, B, C].
    kernel: [3, 3, 3, P, Q].
    interpret: do not compile.

  Returns:
    [N, Q, A, B, C].
  """
  def call(planes, kernel):
    x = planes.transpose(1, 2, 3, 0, 4)
    shape = (kernel.shape[-1], *x.shape[1:])
    y, = _call(_forward_kernel, kernel, [x],
               [jax.ShapeDtypeStruct(shape, x.dtype)], [x.shape],
               27 * x.size * kernel.shape[-1], interpret)
    return y.transpose(3, 0, 1, 2, 4)

  return per_device.by_clips(call, (planes,), (kernel,))


def gradients(planes, kernel, g, interpret=False):
  """Computes the gradients of `convolve` to one plane.

  Args:
    planes: see `convolve`.
    kernel: see `convolve`; [3, 3, 3, P, 1].
    g: gradient of the result [N, A, B, C].
    interpret: do not compile.

  Returns:
    (gradient of the planes, that of the kernel.)
  """
  def call(planes, g, kernel):
    x = planes.transpose(1, 2, 3, 0, 4)
    p, *_, n, c = x.shape
    to_x, to_kernel = _call(
        _backward_kernel, kernel[::-1, ::-1, ::-1].swapaxes(3, 4),
        [x, g.transpose(1, 2, 0, 3)[None]],
        [jax.ShapeDtypeStruct(x.shape, x.dtype), _sums(p, n, c)],
        [x.shape, (1, *x.shape[1:])], 2 * 27 * x.size, interpret)
    return to_x.transpose(3, 0, 1, 2, 4), to_kernel.sum(2).T

  to_planes, to_kernel = per_device.by_clips(call, (planes, g), (kernel,))
  return to_planes, to_kernel.sum(0).reshape(kernel.shape).astype(kernel.dtype)
