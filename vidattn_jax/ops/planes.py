"""Planes: a clip pooled along one axis; convolving them; gating with them.

Each of the three operations has a plain form, which says what it computes, and
a form for the CPU, the first two another for accelerators, where XLA makes slow
code of the plain one: on the CPU, a convolution from two channels to one takes
100 times as long as it should, a sum over frames 30 times; on a GPU the
gradient of that convolution to its kernel takes 100 times, on a TPU two
channels are padded to 128. TPUs have kernels for all three (`clip_kernels`,
`plane_kernels`), where those take the shape. `platform.by_platform` chooses; of
finite numbers, results agree to rounding. The gradients are written out, so
that each is one pass over the clip.
"""

import functools
import operator

import jax
from jax import lax
import jax.numpy as jnp

from vidattn_jax.ops import clip_kernels
from vidattn_jax.ops import plane_kernels
from vidattn_jax.ops import platform

# Outputs that one row of the banded kernel computes at a time, on the CPU.
_BLOCK = 8
# An axis so long is the channels of a convolution as it is, on the CPU.
_SHORT = range(4, 17)
# The longest axis whose matrix is made on accelerators, if another is shorter.
_LONG = 512
# A reduction so long is unrolled by the CPU's compiler.
_UNROLLED = 14


def _wide(x):
  """Returns the type of sums over `x`: float32, or wider if `x` is."""
  return jnp.promote_types(x.dtype, jnp.float32)


# --- Pooling -----------------------------------------------------------------


def pool_planes(x: jax.Array, axis: int) -> jax.Array:
  """Pools one axis away, by maximum and by mean.

  The gradient of a maximum that occurs more than once goes to the first of
  them, as in the authors' `torch.max(dim)`, while `jnp.max` splits it.

  Args:
    x: [N, T, H, W, C].
    axis: 1 to 4, the axis to pool.

  Returns:
    [N, 2, ...], the maximum first, then the three axes that are left, in
    their order.
  """
  return _pool_alone(x, axis, x.shape[axis])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _pool_alone(x, axis, length):
  del length  # The gradient wants to know it.
  return _pool(x, {}, (axis,))[axis][0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pool_gated(x: jax.Array, gates: dict[int, jax.Array],
               axes: tuple[int, ...]):
  """Pools a gated clip along some axes, each alone; see `pool_planes`.

  Args:
    x: [N, T, H, W, C].
    gates: as `apply_gates` takes them; {} for none.
    axes: of 1 to 4, the axes to pool.

  Returns:
    ({axis: planes [N, 2, ...]}, `x`: what uses the clip after this is to use
    that, so that all its gradients are added up where they are made.)
  """
  return {axis: planes
          for axis, (planes, _) in _pool(x, gates, axes).items()}, x


@functools.partial(jax.jit, static_argnums=2)
def _pool(x, gates, axes):
  """Returns {axis: the planes, and where along the axis each maximum is}."""
  def each(form):
    def pool(x, gates):
      z = _apply(x, gates) if gates else x
      found = {}
      for axis in axes:
        largest, index, total = form(z, axis)
        mean = (total / z.shape[axis]).astype(z.dtype)
        # As small as may be: places are read as often as planes.
        small = jnp.uint8 if z.shape[axis] <= 256 else jnp.int32
        found[axis] = (jnp.stack([largest, mean], axis=1),
                       index.astype(small))
      return found
    return pool

  return platform.by_platform(
      each(_pool_one_pass), each(_pool_plain), x, gates,
      on_accelerator=each(_pool_on_accelerator),
      on_tpu=(functools.partial(clip_kernels.pool, axes=axes)
              if clip_kernels.takes(x) else None))


def _pool_on_accelerator(x, axis):
  # A number and its place have room in 32 bits.
  small = (x.dtype in (jnp.bfloat16, jnp.float16)
           and x.shape[axis] <= 1 << 16)
  return (_pool_packed if small else _pool_plain)(x, axis)


def _pool_plain(x, axis):
  return (x.max(axis), lax.argmax(x, axis, jnp.int32),
          x.sum(axis, dtype=_wide(x)))


def _pool_one_pass(x, axis):
  def combine(a, b):
    # A number that is none wins, so that it is not lost.
    first = (a[0] > b[0]) | (a[0] != a[0]) | (
        (a[0] == b[0]) & (a[1] < b[1]))
    return (jnp.where(first, a[0], b[0]), jnp.where(first, a[1], b[1]),
            a[2] + b[2])

  y = x.astype(_wide(x))
  index = lax.broadcasted_iota(jnp.int32, x.shape, axis)
  found = y, index, y
  start = (jnp.array(-jnp.inf, y.dtype), jnp.int32(x.shape[axis]),
           jnp.array(0.0, y.dtype))
  # Short reductions are unrolled, and those of an axis before another one are
  # vectors: a long axis, and the last one, is reduced in steps.
  while (part := _part(found[0].shape[axis])) > 1:
    found = tuple(
        f.reshape(*f.shape[:axis], part, f.shape[axis] // part,
                  *f.shape[axis + 1:]) for f in found)
    found = lax.reduce(found, start, combine, (axis,))
  largest, index, total = lax.reduce(found, start, combine, (axis,))
  return largest.astype(x.dtype), index, total


def _part(length):
  """Returns how many parts of an axis are reduced to one first; 1 for none."""
  if length <= _UNROLLED:
    return 1
  return max(n for n in range(1, _UNROLLED + 1) if length % n == 0)


def _pool_packed(x, axis):
  # Of 16 bits: the number and its place make one whole number of 32 bits, whose
  # maximum is a reduction of one array. XLA joins that with the sum to one pass
  # over the clip; searching the place is a pass of its own, and a slower one.
  length, sign = x.shape[axis], jnp.uint32(0x8000)
  bits = lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32)
  # In the order of the numbers; the two zeros are one, and what is no number
  # comes last.
  key = jnp.where(bits & sign, bits ^ 0xffff, bits | sign)
  key = jnp.where(x == 0, sign, jnp.where(x != x, jnp.uint32(0xffff), key))
  back = length - 1 - lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  best = (key << 16 | back).max(axis)
  key = best >> 16
  bits = jnp.where(key & sign, key ^ sign, key ^ 0xffff).astype(jnp.uint16)
  return (lax.bitcast_convert_type(bits, x.dtype),
          length - 1 - (best & 0xffff).astype(jnp.int32),
          x.sum(axis, dtype=_wide(x)))


def _places(found):
  # Where the maximum is, not what it is: the same sum, compiled twice, may
  # differ in its last bit, and then no element would equal its maximum.
  return {axis: index for axis, (_, index) in found.items()}


def _pool_alone_fwd(x, axis, length):
  del length
  found = _pool(x, {}, (axis,))
  return found[axis][0], _places(found)


def _pool_gated_fwd(x, gates, axes):
  found = _pool(x, gates, axes)
  planes = {axis: planes for axis, (planes, _) in found.items()}
  return (planes, x), (_places(found), gates, x if gates else None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _spread(axis, length, index, g):
  to_largest, to_each, index = (
      jnp.expand_dims(p, axis) for p in (g[:, 0], g[:, 1] / length, index))
  shape = [length if i == axis else n for i, n in enumerate(index.shape)]
  here = lax.broadcasted_iota(index.dtype, shape, axis) == index
  return jnp.where(here, to_largest + to_each, to_each)


@functools.partial(jax.jit, static_argnums=5)
def _pool_gradients(x, gates, places, to_planes, added, shape):
  """Returns (gradient of the clip, plus what is added; those of the gates)."""
  def form(sum_frames):
    def gradients(x, gates, places, to_planes, added):
      spread = functools.reduce(operator.add, [
          _spread(axis, shape[axis], places[axis], g)
          for axis, g in to_planes.items()])
      to_x = _apply(spread, gates) if gates else spread
      return (to_x if added is None else to_x + added,
              _sum_products(x, spread, gates, sum_frames))
    return gradients

  like = jax.ShapeDtypeStruct(shape, next(iter(to_planes.values())).dtype)
  return platform.by_platform(
      form(_sum_frames), form(lambda product: product.sum(1)),
      x, gates, places, to_planes, added,
      on_tpu=(functools.partial(clip_kernels.pool_gradients, shape=shape)
              if clip_kernels.takes(like) else None))


def _pool_alone_bwd(axis, length, places, g):
  shape = list(places[axis].shape)
  shape.insert(axis, length)
  return (_pool_gradients(None, {}, places, {axis: g}, None, tuple(shape))[0],)


def _pool_gated_bwd(axes, residuals, g):
  del axes
  places, gates, x = residuals
  to_planes, added = g
  return _pool_gradients(x, gates, places, to_planes, added, added.shape)


_pool_alone.defvjp(_pool_alone_fwd, _pool_alone_bwd)
pool_gated.defvjp(_pool_gated_fwd, _pool_gated_bwd)


# --- Convolution -------------------------------------------------------------


@jax.custom_vjp
def convolve_planes(planes: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves two planes into one, zero padded, stride 1.

  Args:
    planes: [N, 2, A, B, C].
    kernel: [3, 3, 3, 2, 1]; the axes A, B, C, then the planes.

  Returns:
    [N, A, B, C].
  """
  return _convolve(planes, kernel)[:, 0]


@jax.jit
def _convolve(planes, kernel):
  """Convolves [N, P, A, B, C] with [3, 3, 3, P, Q] to [N, Q, A, B, C]."""
  return platform.by_platform(
      _convolve_on_cpu, _convolve_plain, planes, kernel,
      on_accelerator=_convolve_dense,
      on_tpu=(plane_kernels.convolve if plane_kernels.takes(
          (len(planes), *planes.shape[2:]), planes.dtype) else None))


def _convolve_plain(planes, kernel):
  return lax.conv_general_dilated(
      planes, kernel, (1, 1, 1), ((1, 1),) * 3,
      dimension_numbers=('NCDHW', 'DHWIO', 'NCDHW'))


def _convolve_on_cpu(planes, kernel):
  # From one plane to two, as gradients go, windows would have few channels.
  if planes.shape[1] == 1 and planes.shape[2] in _SHORT:
    return _convolve_first(planes, kernel)
  return _convolve_banded(planes, kernel)


def _convolve_banded(planes, kernel):
  # The last axis is cut into blocks, which are the channels of a 2D
  # convolution: from each block and its two neighbours to the block, by a
  # banded matrix. That is 3 times the arithmetic and 100 times the speed.
  y = _convolve_windows(_windows(planes), _band(
      kernel, _BLOCK + 2, _BLOCK, 0))
  return _from_blocks(y, kernel.shape[-1], planes.shape)


def _convolve_windows(windows, banded):
  return lax.conv_general_dilated(
      windows, banded, (1, 1), ((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _convolve_dense(planes, kernel):
  # More arithmetic, but matrix units do it, and the planes are read as they
  # lie.
  if _turns(planes.shape):
    return _convolve_first(planes, kernel)
  return _convolve_last(planes, kernel)


def _turns(shape):
  """Tells whether the first axis is to be channels, not the last.

  Matrix units are quick at channels in eights; of many channels, most of the
  matrix is zeros.
  """
  first, last = shape[2], shape[4]
  return (first < last > _LONG) or (last % 8 != 0 and first % 8 == 0)


def _convolve_first(planes, kernel):
  """Convolves with the first axis as channels, see `_convolve_last`."""
  y = _convolve_last(planes.transpose(0, 1, 3, 4, 2),
                     kernel.transpose(1, 2, 0, 3, 4))
  return y.transpose(0, 1, 4, 2, 3)


def _convolve_last(planes, kernel):
  """Convolves in two dimensions, with the last axis as channels.

  From all of them to all, by a matrix with a band of three taps in it.
  """
  n, _, a, b, c = planes.shape
  y = _convolve_windows(_as_channels(planes), _band(kernel, c, c, 1))
  return y.reshape(n, a, b, -1, c).transpose(0, 3, 1, 2, 4)


def _as_channels(planes):
  """Turns [N, P, A, B, C] into [N, A, B, P * C]."""
  n, _, a, b, _ = planes.shape
  return planes.transpose(0, 2, 3, 1, 4).reshape(n, a, b, -1)


def _band(kernel, rows, columns, offset):
  """Spreads [3, 3, 3, P, Q] to [3, 3, P * rows, Q * columns].

  Row i has tap i - j + offset in column j, if there is such a tap, else zero.
  """
  a, b, _, p, q = kernel.shape
  # Axes: A, B, planes, rows, planes, columns.
  taps = jnp.moveaxis(kernel, 2, 0)[..., None, :, None]
  band = sum(jnp.where(here, tap, 0) for here, tap in zip(
      _diagonals(rows, columns, offset), taps, strict=True))
  return band.reshape(a, b, p * rows, q * columns)


def _taps(band, rows, columns, offset):
  """Adds up what `_band` spread: its transpose."""
  a, b, p, q = band.shape
  band = band.reshape(a, b, p // rows, rows, q // columns, columns)
  return jnp.stack([jnp.where(here, band, 0).sum((3, 5))
                    for here in _diagonals(rows, columns, offset)], axis=2)


def _diagonals(rows, columns, offset):
  """Returns for each of three taps where it stands, [rows, 1, columns]."""
  distance = jnp.arange(rows)[:, None, None] - jnp.arange(columns)
  return [distance == tap - offset for tap in range(3)]


def _blocks(x, extra=0):
  """Cuts [N, P, A, B, C] into [N * blocks, A, B, P * (_BLOCK + extra)].

  With `extra` 2, each block comes with its left and right neighbour.
  """
  n, p, a, b, c = x.shape
  count = -(-c // _BLOCK)
  left = extra // 2
  pad = ((0, 0),) * 4
  x = jnp.pad(x, (*pad, (left, count * _BLOCK + _BLOCK - c - left)))
  shape = (n, p, a, b, count, _BLOCK)
  blocks = x[..., :-_BLOCK].reshape(shape)
  if extra:
    following = x[..., _BLOCK:].reshape(shape)[..., :extra]
    blocks = jnp.concatenate([blocks, following], axis=-1)
  return blocks.transpose(0, 4, 2, 3, 1, 5).reshape(n * count, a, b, -1)


def _windows(x):
  return _blocks(x, extra=2)


def _from_blocks(y, p, shape):
  """Joins [N * blocks, A, B, P * _BLOCK] to [N, P, A, B, C]."""
  n, _, a, b, c = shape
  y = y.reshape(n, -1, a, b, p, _BLOCK).transpose(0, 4, 2, 3, 1, 5)
  return y.reshape(n, p, a, b, -1)[..., :c]


def _kernel_gradient_plain(planes, g):
  shape = jax.ShapeDtypeStruct((3, 3, 3, planes.shape[1], 1), planes.dtype)
  return jax.linear_transpose(
      lambda k: _convolve_plain(planes, k), shape)(g[:, None])[0]


def _kernel_gradient_banded(planes, g):
  p = planes.shape[1]
  windows = _windows(planes)
  band = jax.ShapeDtypeStruct((3, 3, p * (_BLOCK + 2), _BLOCK), planes.dtype)
  band, = jax.linear_transpose(
      lambda t: _convolve_windows(windows, t), band)(_blocks(g[:, None]))
  return _taps(band, _BLOCK + 2, _BLOCK, 0)


def _kernel_gradient_dense(planes, g):
  if _turns(planes.shape):
    return _kernel_gradient_first(planes, g)
  return _kernel_gradient_last(planes, g)


def _kernel_gradient_first(planes, g):
  gradient = _kernel_gradient_last(
      planes.transpose(0, 1, 3, 4, 2), g.transpose(0, 2, 3, 1))
  return gradient.transpose(2, 0, 1, 3, 4)


def _kernel_gradient_last(planes, g):
  p, length = planes.shape[1], planes.shape[4]
  x = _as_channels(planes)
  dense = jax.ShapeDtypeStruct((3, 3, p * length, length), planes.dtype)
  dense, = jax.linear_transpose(
      lambda t: _convolve_windows(x, t), dense)(g)
  return _taps(dense, length, length, 1)


def _convolve_fwd(planes, kernel):
  return convolve_planes(planes, kernel), (planes, kernel)


@jax.jit
def _convolve_bwd(residuals, g):
  def by_kernel_gradient(kernel_gradient):
    def gradients(planes, kernel, g):
      return (_convolve(g[:, None], kernel[::-1, ::-1, ::-1].swapaxes(3, 4)),
              kernel_gradient(planes, g))
    return gradients

  return platform.by_platform(
      by_kernel_gradient(_kernel_gradient_banded),
      by_kernel_gradient(_kernel_gradient_plain), *residuals, g,
      on_accelerator=by_kernel_gradient(_kernel_gradient_dense),
      on_tpu=(plane_kernels.gradients if plane_kernels.takes(g.shape, g.dtype)
              else None))


convolve_planes.defvjp(_convolve_fwd, _convolve_bwd)


# --- Gating ------------------------------------------------------------------


@jax.custom_vjp
def apply_gates(x: jax.Array, gates: dict[int, jax.Array]) -> jax.Array:
  """Multiplies a clip by the mean of gates over three of its axes each.

  Args:
    x: [N, T, H, W, C].
    gates: {axis that the gate does not have: gate}, such as {4: [N, T, H, W]}.

  Returns:
    [N, T, H, W, C].
  """
  # A gate that all channels share is left to fusion with what comes next.
  if len(gates) == 1 or not clip_kernels.takes(x):
    return _apply(x, gates)
  return platform.by_platform(_apply, _apply, x, gates,
                              on_tpu=clip_kernels.gate)


@jax.jit
def _apply(x, gates):
  # Left to fusion: a gate of the clip's size never exists.
  total = sum(jnp.expand_dims(g, axis) for axis, g in gates.items())
  return x * (total / len(gates)).astype(x.dtype)


def _sum_frames(x):
  return functools.reduce(operator.add, [x[:, i] for i in range(x.shape[1])])


def _apply_fwd(x, gates):
  return apply_gates(x, gates), (x, gates)


def _sum_products(x, y, gates, sum_frames):
  """Returns the gradients of gates whose mean `x` is multiplied by."""
  def gradient(axis, gate):
    product = x.astype(_wide(x)) * y
    total = sum_frames(product) if axis == 1 else product.sum(axis)
    return (total / len(gates)).astype(gate.dtype)

  return {axis: gradient(axis, gate) for axis, gate in gates.items()}


@jax.jit
def _apply_bwd(residuals, g):
  def form(sum_frames):
    return lambda x, gates, g: (_apply(g, gates),
                                _sum_products(x, g, gates, sum_frames))

  return platform.by_platform(
      form(_sum_frames), form(lambda product: product.sum(1)), *residuals, g,
      on_tpu=(clip_kernels.gate_gradients if clip_kernels.takes(g) else None))


apply_gates.defvjp(_apply_fwd, _apply_bwd)
