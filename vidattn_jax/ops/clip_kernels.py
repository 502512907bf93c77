"""Pooling and gating clips on TPUs, by kernels that read a clip once.

The kernels see a clip as XLA's convolutions keep it there. With many channels
it lies as [H, W, N, T, C], and a register holds eight frames of 128 channels;
with few of them as [H, W, C, N * T], and a register holds eight channels of 128
frames. Either way, what reduces height or width is an operation on whole
registers, and one read of a clip is enough for time, height and width together.
The kernels go along rows; what is pooled over height is kept until the last.
"""

import dataclasses
import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from vidattn_jax.ops import per_device

_LANES, _SUBLANES = per_device.LANES, per_device.SUBLANES
_F32 = jnp.float32
# How [N, T, H, W, C] lies (None), and what is left of it without one axis.
_WIDE = {None: (2, 3, 0, 1, 4), 1: (2, 3, 0, 4), 2: (3, 0, 1, 4),
         3: (2, 0, 1, 4), 4: (2, 0, 1, 3)}
# Where N and T come last, they are one axis.
_NARROW = {None: (2, 3, 4, 0, 1), 1: (2, 3, 0, 4), 2: (3, 4, 0, 1),
           3: (2, 4, 0, 1), 4: (2, 3, 0, 1)}


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What a kernel does with each place of a row.

  Attributes:
    lengths: those of [N, T, H, W, C].
    pools: pool the clip, times gates if there are; else sum products of it.
    axes: the axes that are pooled or summed, each alone.
    gates: axes of the gates.
    spread: axes along which gradients of planes are spread.
    added: there is a gradient of the clip's size.
    writes: a gradient of the clip's size is written.
  """
  lengths: tuple[int, ...]
  pools: bool = False
  axes: tuple[int, ...] = ()
  gates: tuple[int, ...] = ()
  spread: tuple[int, ...] = ()
  added: bool = False
  writes: bool = False

  @property
  def parts(self):
    """Number of running values of each reduction."""
    return 3 if self.pools else 1

  @property
  def wide(self):
    """Whether a row of a register is channels, not frames."""
    return _is_wide(self.lengths)

  @property
  def clips(self):
    """Number of clips that are seen at a time."""
    n, t = self.lengths[:2]
    if not self.wide:
      return _LANES // t
    return per_device.clips_at_a_time(n)

  @property
  def channels(self):
    """Number of channels that are seen at a time."""
    c = self.lengths[4]
    alone = 4 not in (*self.axes, *self.gates, *self.spread)
    return _LANES if self.wide and alone and c % _LANES == 0 else c

  @property
  def tile(self):
    """What one place of these clips is: [clips, T, C] or [C, frames]."""
    if self.wide:
      return self.clips, self.lengths[1], self.channels
    return self.channels, _LANES

  def along(self, axis):
    """Returns the axis of a tile that is time, or channels."""
    if self.wide:
      return {1: 1, 4: 2}[axis]
    return {1: 1, 4: 0}[axis]


def _is_wide(lengths):
  n, t, *_, c = lengths
  if c % _LANES == 0 or _LANES % t or n * t % _LANES:
    return True
  # Planes without time have clips in rows: whole registers, or all of them.
  clips = _LANES // t
  return clips % _SUBLANES > 0 and clips != n


def _f32(x):
  if jnp.issubdtype(x.dtype, jnp.integer):
    x = x.astype(jnp.int32)
  return x.astype(_F32)


def _iota(shape, axis):
  return lax.broadcasted_iota(jnp.int32, shape, axis)


def _place(plan, axis):
  """Returns where along time or channels each number of a tile stands."""
  place = _iota(plan.tile, plan.along(axis))
  if axis == 1 and not plan.wide:
    place = lax.rem(place, plan.lengths[1])
  return place


def _dot(a, b, dimensions):
  # Exact where one of the factors is 1 or 0; but what is no number in one clip
  # is none in all clips that are seen at a time.
  return lax.dot_general(a, b, (dimensions, ((), ())),
                         precision=lax.Precision.HIGHEST,
                         preferred_element_type=_F32)


def _frames(plan, first=False):
  """Returns [clips, frames]: 1 where a frame is a clip's, or its first."""
  shape, length = (plan.clips, _LANES), plan.lengths[1]
  clip, frame = _iota(shape, 0), _iota(shape, 1)
  mine = (frame == clip * length if first
          else lax.div(frame, length) == clip)
  return mine.astype(_F32)


def _pick(row, w, axis):
  """Returns what stands at `w` of an axis, which stays."""
  here = _iota(row.shape, axis) == w
  return jnp.sum(jnp.where(here, row, 0.0), axis, keepdims=True)


def _at(plan, ref, axis, w, plane=()):
  """Loads what a plane without an axis has for column w of a row."""
  if axis == 2:
    return _f32(ref[(*plane, w)])
  if axis == 1:
    part = _f32(ref[(*plane, 0, w)])
    if plan.wide:
      return part[:, None]
    return _dot(part, _frames(plan), ((0,), (0,)))
  row = _f32(ref[(*plane, 0)])
  return row if axis == 3 else _pick(row, w, plan.along(4))


def _gate(plan, refs, w, dtype):
  total = functools.reduce(
      lambda a, b: a + b,
      [_at(plan, ref, axis, w) for axis, ref in refs.items()])
  return (total / len(refs)).astype(dtype).astype(_F32)


def _spread(plan, refs, w, h):
  """Brings the gradients of planes to where they come from."""
  total = 0.0
  for axis, (planes, places) in refs.items():
    to_largest, to_each = (_at(plan, planes, axis, w, (i,)) for i in (0, 1))
    here = {2: h, 3: w}[axis] if axis in (2, 3) else _place(plan, axis)
    total = (total + to_each / plan.lengths[axis] + jnp.where(
        _at(plan, places, axis, w) == here.astype(_F32), to_largest, 0.0))
  return total


def _among_frames(plan, x, join):
  """Reduces the frames of each clip, which lie side by side; each gets it."""
  length, place, step = plan.lengths[1], _place(plan, 1), 1
  while step < length:
    x = join(x, jnp.where(place >= step, pltpu.roll(x, step, 1),
                          pltpu.roll(x, _LANES + step - length, 1)))
    step *= 2
  return x


def _within(plan, x, axis):
  """Reduces time or channels of a tile."""
  if axis == 1 and not plan.wide:
    high, low, total = (functools.partial(_among_frames, plan, join=f)
                        for f in (jnp.maximum, jnp.minimum, jnp.add))
  else:
    high, low, total = (
        functools.partial(f, axis=plan.along(axis), keepdims=True)
        for f in (jnp.max, jnp.min, jnp.sum))
  if not plan.pools:
    return (total(x),)
  largest = high(x)
  return largest, total(x), low(jnp.where(
      x == largest, _place(plan, axis).astype(_F32),
      float(plan.lengths[axis])))


def _of_clips(plan, x):
  """Turns what `_within` found in time to [clips, C]."""
  if plan.wide:
    return x[:, 0]
  return _dot(_frames(plan, first=True), x, ((1,), (1,)))


def _join(plan, found, x, place):
  """Joins running values with those of another place."""
  if not plan.pools:
    return (found[0] + x,)
  largest, total, index = found
  higher = x > largest
  return (jnp.where(higher, x, largest), total + x,
          jnp.where(higher, place.astype(_F32), index))


def _write(plan, axis, refs, index, found):
  """Writes what was found along an axis."""
  if not plan.pools:
    sums, = refs
    # A gate's share in the mean of all of them.
    sums[index] = (found[0] / len(plan.gates)).astype(sums.dtype)
    return
  planes, places = refs
  largest, total, place = found
  planes[(0, *index)] = largest.astype(planes.dtype)
  planes[(1, *index)] = (total / plan.lengths[axis]).astype(planes.dtype)
  places[index] = place.astype(jnp.int32).astype(places.dtype)


def _kernel(*refs, plan):
  """Goes along one row of some clips."""
  refs = list(refs)

  def take(number=1):
    taken = refs[:number]
    del refs[:number]
    return taken

  x_ref, = take() if plan.axes else (None,)
  added_ref, = take() if plan.added else (None,)
  gates = {axis: take()[0] for axis in plan.gates}
  spread = {axis: take(2) for axis in plan.spread}
  results = {axis: take(2 if plan.pools else 1) for axis in plan.axes}
  written_ref, = take() if plan.writes else (None,)
  over_height = take(plan.parts if 2 in plan.axes else 0)
  clip_ref = next(r for r in (x_ref, added_ref, written_ref) if r is not None)

  dtype, width, h = clip_ref.dtype, plan.lengths[3], pl.program_id(2)
  start = (-jnp.inf, 0.0, 0.0) if plan.pools else (0.0,)
  # What is found over channels, in whole registers.
  row = ((*plan.tile[:2], per_device.rounded_up(width, _LANES))
         if plan.wide else
         (per_device.rounded_up(width, _SUBLANES), _LANES))

  if over_height:
    @pl.when(h == 0)
    def _():
      for ref, value in zip(over_height, start):
        ref[...] = jnp.full(ref.shape, value, _F32)

  def column(w, carry):
    over_width, over_channels = carry
    gate = _gate(plan, gates, w, dtype) if gates else None
    factor = _spread(plan, spread, w, h) if spread else None
    added = None if added_ref is None else _f32(added_ref[0, w])
    if factor is None:
      factor, added = added, None
    if written_ref is not None:
      written = factor if gate is None else factor * gate
      written_ref[0, w] = (
          written if added is None else written + added).astype(dtype)
    if not plan.axes:
      return carry
    x = _f32(x_ref[0, w])
    if not plan.pools:
      x = x * factor
    elif gate is not None:
      x = (x * gate).astype(dtype).astype(_F32)
    if 1 in plan.axes:
      _write(plan, 1, results[1], (0, w),
             [_of_clips(plan, f) for f in _within(plan, x, 1)])
    if 2 in plan.axes:
      found = _join(plan, [ref[w] for ref in over_height], x, h)
      for ref, value in zip(over_height, found):
        ref[w] = value
    if 3 in plan.axes:
      over_width = _join(plan, over_width, x, w)
    if 4 in plan.axes:
      here = _iota(row, plan.along(4)) == w
      over_channels = tuple(
          jnp.where(here, found, kept)
          for found, kept in zip(_within(plan, x, 4), over_channels))
    return over_width, over_channels

  over_width, over_channels = lax.fori_loop(0, width, column, (
      tuple(jnp.full(plan.tile, s, _F32) for s in start)
      if 3 in plan.axes else (),
      tuple(jnp.zeros(row, _F32) for _ in start) if 4 in plan.axes else ()))
  if 3 in plan.axes:
    _write(plan, 3, results[3], (0,), over_width)
  if 4 in plan.axes:
    _write(plan, 4, results[4], (0,), [
        f[:, :, :width] if plan.wide else f[:width] for f in over_channels])
  if over_height:
    @pl.when(h == plan.lengths[2] - 1)
    def _():
      def write(w, _):
        _write(plan, 2, results[2], (w,), [ref[w] for ref in over_height])
        return 0

      lax.fori_loop(0, width, write, 0)


def takes(x: jax.Array) -> bool:
  """Tells whether the kernels take a clip [N, T, H, W, C]."""
  n, *_, w, _ = x.shape
  if x.dtype not in (jnp.bfloat16, _F32) or not per_device.divides(n):
    return False
  # A plane over width, with all channels, is the largest block; the kernel
  # that needs most has as much as eight of them.
  plan = _Plan((per_device.own(n), *x.shape[1:]), axes=(4,))
  block = (w, *plan.tile)
  return per_device.memory(
      [(block, x.dtype)] * 8, [(block, _F32)] * 3) <= per_device.capacity()


def _lies(plan, axis, planes):
  """Returns how an array lies: its axes, -1 for [2], and what they hold."""
  axes = (_WIDE if plan.wide else _NARROW)[axis]
  merged = not plan.wide and axis != 1
  return (-1,) * planes + axes, merged


def _lie(plan, array, axis=None, planes=False):
  """Turns [N, T, H, W, C], or what is left of it, to how it lies."""
  axes, merged = _lies(plan, axis, planes)
  if merged:
    # First of all [N * T, ...], as convolutions have it: what lies so already
    # is not moved.
    if planes:
      array = array.swapaxes(0, 1)
    array = array.reshape(*array.shape[:planes], -1, *array.shape[planes + 2:])
    return jnp.moveaxis(array, planes, -1)
  # Planes are [N, 2, ...].
  usual = sorted(axes, key=lambda a: 0.5 if a < 0 else a)
  return array.transpose([usual.index(a) for a in axes])


def _back(plan, array, axis=None, planes=False):
  """Undoes `_lie`."""
  axes, merged = _lies(plan, axis, planes)
  if merged:
    array = jnp.moveaxis(array, -1, planes)
    array = array.reshape(*array.shape[:planes], *plan.lengths[:2],
                          *array.shape[planes + 1:])
    return array.swapaxes(0, 1) if planes else array
  return array.transpose(sorted(
      range(len(axes)), key=lambda i: 0.5 if axes[i] < 0 else axes[i]))


def _block(plan, axis=None, planes=False):
  """Returns how a kernel sees an array: a row of some clips and channels."""
  axes, merged = _lies(plan, axis, planes)
  seen = {-1: 2, 0: plan.clips, 1: plan.lengths[1], 2: 1, 3: plan.lengths[3],
          4: plan.channels}
  shape = [seen[a] for a in axes]
  if merged:
    axes, shape = axes[:-1], [*shape[:-2], _LANES]
  return pl.BlockSpec(tuple(shape), lambda i, j, k: tuple(
      {0: i, 4: j, 2: k}.get(a, 0) for a in axes))


def _result(plan, dtype, axis=None, planes=False):
  axes, merged = _lies(plan, axis, planes)
  shape = [2 if a < 0 else plan.lengths[a] for a in axes]
  if merged:
    shape[-2:] = [shape[-2] * shape[-1]]
  return jax.ShapeDtypeStruct(tuple(shape), dtype)


def _call(plan, x, added, gates, spread, dtype, interpret):
  """Calls the kernel on arrays that have their usual axes.

  Returns ({axis: result, or (planes, places)}, what is written, or None).
  """
  operands = [(a, None, False) for a in (x, added) if a is not None]
  operands += [(gate, axis, False) for axis, gate in gates.items()]
  for axis, (planes, places) in spread.items():
    operands += [(planes, axis, True), (places, axis, False)]
  # Types and what `_lie` wants to know of each.
  results = []
  for axis in plan.axes:
    results.append((dtype if plan.pools else gates[axis].dtype, axis,
                    plan.pools))
    if plan.pools:
      results.append((jnp.uint8 if plan.lengths[axis] <= 256 else jnp.int32,
                      axis, False))
  if plan.writes:
    results.append((dtype, None, False))
  n, *_, h, w, c = plan.lengths
  shapes = [_result(plan, *r) for r in results]
  arrays = [_lie(plan, *operand) for operand in operands]
  in_specs = [_block(plan, *operand[1:]) for operand in operands]
  out_specs = [_block(plan, *r[1:]) for r in results]
  scratch = [((w, *plan.tile), _F32)] * (plan.parts if 2 in plan.axes else 0)
  found = pl.pallas_call(
      functools.partial(_kernel, plan=plan),
      grid=(n // plan.clips, c // plan.channels, h), in_specs=in_specs,
      out_specs=out_specs, out_shape=shapes,
      scratch_shapes=[pltpu.VMEM(*s) for s in scratch],
      compiler_params=pltpu.CompilerParams(
          vmem_limit_bytes=per_device.memory_limit(per_device.memory(
              [(spec.block_shape, a.dtype) for spec, a in zip(
                  (*in_specs, *out_specs), (*arrays, *shapes))], scratch)),
          dimension_semantics=('parallel', 'parallel', 'arbitrary')),
      cost_estimate=pl.CostEstimate(
          flops=n * plan.lengths[1] * h * w * c * (
              plan.parts * len(plan.axes) + 2 * len(plan.spread)
              + len(plan.gates) + 1), transcendentals=0,
          bytes_accessed=sum(a.size * a.dtype.itemsize
                             for a in (*arrays, *shapes))),
      interpret=interpret)(*arrays)
  found = [_back(plan, f, *r[1:]) for f, r in zip(found, results)]
  written = found.pop() if plan.writes else None
  if plan.pools:
    found = list(zip(found[::2], found[1::2]))
  return dict(zip(plan.axes, found)), written


def pool(x, gates, axes, interpret=False):
  """Pools a clip times its gates.

  Args:
    x: [N, T, H, W, C].
    gates: {axis: [N, ...]}, or {}.
    axes: the axes to pool.
    interpret: do not compile.

  Returns:
    {axis: (planes [N, 2, ...], where each maximum is [N, ...])}.
  """
  def call(x, gates):
    plan = _Plan(x.shape, pools=True, axes=axes, gates=tuple(gates))
    return _call(plan, x, None, gates, {}, x.dtype, interpret)[0]

  return per_device.by_clips(call, (x, gates))


def pool_gradients(x, gates, places, to_planes, added, shape,
                   interpret=False):
  """Computes the gradients of `pool`.

  Args:
    x: see `pool`; None if there are no gates.
    gates: see `pool`.
    places: {axis: where each maximum is}.
    to_planes: {axis: gradient of its planes}.
    added: a gradient of the clip to be added to its own, or None.
    shape: the clip's.
    interpret: do not compile.

  Returns:
    (gradient of the clip, {axis: that of a gate}).
  """
  def call(x, gates, places, to_planes, added):
    first = next(iter(to_planes.values()))
    plan = _Plan((len(first), *shape[1:]), axes=tuple(gates),
                 gates=tuple(gates), spread=tuple(to_planes),
                 added=added is not None, writes=True)
    spread = {axis: (g, places[axis]) for axis, g in to_planes.items()}
    to_gates, to_x = _call(plan, x, added, gates, spread, first.dtype,
                           interpret)
    return to_x, to_gates

  return per_device.by_clips(
      call, (x if gates else None, gates, places, to_planes, added))


def gate(x, gates, interpret=False):
  """Multiplies a clip by the mean of its gates.

  Args:
    x: see `pool`.
    gates: see `pool`; at least one.
    interpret: do not compile.

  Returns:
    [N, T, H, W, C].
  """
  def call(x, gates):
    plan = _Plan(x.shape, gates=tuple(gates), added=True, writes=True)
    return _call(plan, None, x, gates, {}, x.dtype, interpret)[1]

  return per_device.by_clips(call, (x, gates))


def gate_gradients(x, gates, g, interpret=False):
  """Computes the gradients of gating.

  Args:
    x: see `pool`.
    gates: see `pool`; at least one.
    g: gradient of the gated clip.
    interpret: do not compile.

  Returns:
    (gradient of the clip, {axis: that of a gate}).
  """
  def call(x, gates, g):
    plan = _Plan(x.shape, axes=tuple(gates), gates=tuple(gates), added=True,
                 writes=True)
    to_gates, to_x = _call(plan, x, g, gates, {}, x.dtype, interpret)
    return to_x, to_gates

  return per_device.by_clips(call, (x, gates, g))
