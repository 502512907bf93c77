"""Planes: a clip pooled along one axis, and gated by what was made of that.

Each operation has a plain form, which says what it computes, and a form for the
CPU, pooling another for accelerators, where XLA makes slow code of the plain
one: on the CPU, a sum over frames takes 30 times as long as it should.
`platform.by_platform` chooses; of finite numbers, results agree to rounding.
The gradients are written out, so that each is one pass over the clip. On TPUs,
clips are gated and pooled by a kernel instead: see `chains`.
"""

import functools
import operator

import jax
from jax import lax
import jax.numpy as jnp

from vidattn_jax.ops import normalized
from vidattn_jax.ops import platform

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
  return pool(x, {}, (axis,))[axis][0]


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
          for axis, (planes, _) in pool(x, gates, axes).items()}, x


@functools.partial(jax.jit, static_argnums=2)
def pool(x, gates, axes):
  """Pools a clip times the mean of its gates, see `pool_gated`.

  Args:
    x: [N, T, H, W, C].
    gates: {axis: gate}; {} for none.
    axes: the axes to pool.

  Returns:
    {axis: (planes [N, 2, ...], where along the axis each maximum is [N, ...])}.
  """
  def each(form):
    def of_axes(x, gates):
      z = times_mean(x, gates) if gates else x
      found = {}
      for axis in axes:
        largest, index, total = form(z, axis)
        mean = (total * (1 / z.shape[axis])).astype(z.dtype)
        # As small as may be: places are read as often as planes.
        small = jnp.uint8 if z.shape[axis] <= 256 else jnp.int32
        found[axis] = (jnp.stack([largest, mean], axis=1),
                       index.astype(small))
      return found
    return of_axes

  return platform.by_platform(
      each(_pool_one_pass), each(_pool_plain), x, gates,
      on_accelerator=each(_pool_on_accelerator))


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
    return (lax.select(first, a[0], b[0]), lax.select(first, a[1], b[1]),
            a[2] + b[2])

  y = normalized.wide(x)
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
  found = pool(x, {}, (axis,))
  return found[axis][0], _places(found)


def _pool_gated_fwd(x, gates, axes):
  found = pool(x, gates, axes)
  planes = {axis: planes for axis, (planes, _) in found.items()}
  return (planes, x), (_places(found), gates, x if gates else None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def spread(axis, length, index, g):
  """Brings the gradients of planes to where along an axis they come from."""
  to_each = (normalized.wide(g[:, 1]) * (1 / length)).astype(g.dtype)
  to_largest, to_each, index = (
      jnp.expand_dims(p, axis) for p in (g[:, 0], to_each, index))
  shape = [length if i == axis else n for i, n in enumerate(index.shape)]
  here = lax.broadcasted_iota(index.dtype, shape, axis) == index
  return jnp.where(here, to_largest + to_each, to_each)


@functools.partial(jax.jit, static_argnums=5)
def _pool_gradients(x, gates, places, to_planes, added, shape):
  """Returns (gradient of the clip, plus what is added; those of the gates)."""
  def form(sum_frames):
    def gradients(x, gates, places, to_planes, added):
      of_planes = functools.reduce(operator.add, [
          spread(axis, shape[axis], places[axis], g)
          for axis, g in to_planes.items()])
      to_x = times_mean(of_planes, gates) if gates else of_planes
      return (to_x if added is None else to_x + added,
              sum_products(x, of_planes, gates, sum_frames))
    return gradients

  return platform.by_platform(
      form(_sum_frames), form(_sum_plainly), x, gates, places, to_planes, added)


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
  return times_mean(x, gates)


@jax.jit
def times_mean(x, gates):
  """Multiplies a clip by the mean of gates, see `apply_gates`."""
  # Left to fusion: a gate of the clip's size never exists.
  total = functools.reduce(operator.add, [
      jnp.expand_dims(g, axis) for axis, g in gates.items()])
  return x * _part_of(total, gates).astype(x.dtype)


def _part_of(total, gates):
  # In float32, as a third is not the same in bfloat16.
  return normalized.wide(total) * (1 / len(gates)) if len(gates) > 1 else total


def _sum_frames(x):
  return functools.reduce(operator.add, jnp.split(x, x.shape[1], 1))[:, 0]


def _sum_plainly(x):
  return x.sum(1)


def sum_products(x, y, gates, sum_frames=_sum_plainly):
  """Returns the gradients of gates whose mean `x` is multiplied by.

  Args:
    x: [N, T, H, W, C].
    y: gradient of the product.
    gates: see `apply_gates`.
    sum_frames: function that sums along time.
  """
  def gradient(axis, gate):
    product = normalized.wide(x) * y
    total = sum_frames(product) if axis == 1 else product.sum(axis)
    return _part_of(total, gates).astype(gate.dtype)

  return {axis: gradient(axis, gate) for axis, gate in gates.items()}


def _apply_fwd(x, gates):
  return times_mean(x, gates), (x, gates)


@jax.jit
def _apply_bwd(residuals, g):
  def form(sum_frames):
    return lambda x, gates, g: (times_mean(g, gates),
                                sum_products(x, g, gates, sum_frames))

  return platform.by_platform(
      form(_sum_frames), form(_sum_plainly), *residuals, g)


apply_gates.defvjp(_apply_fwd, _apply_bwd)
