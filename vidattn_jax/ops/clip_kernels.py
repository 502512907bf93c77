"""Pooling and gating clips on TPUs, by one kernel that reads a clip once.

One read of a clip is enough for time, height and width together, and for
whatever gates it is multiplied by on the way: see `clip_layout`. The kernel
goes along rows; what is pooled over height is kept until the last.
"""

import functools
import operator

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from vidattn_jax.ops import clip_layout
from vidattn_jax.ops import clip_plan
from vidattn_jax.ops import per_device

_LANES, _SUBLANES = clip_layout.LANES, clip_layout.SUBLANES
_F32 = jnp.float32
# What terms of `gradients` may begin with.
GIVEN = clip_plan.GIVEN


def _f32(x):
  if jnp.issubdtype(x.dtype, jnp.integer):
    x = x.astype(jnp.int32)
  return x.astype(_F32)


def _iota(shape, axis):
  return lax.broadcasted_iota(jnp.int32, shape, axis)


def _place(plan, axis):
  """Returns where along time or channels each number of a tile stands."""
  place = _iota(plan.layout.tile, plan.layout.along(axis))
  if axis == 1 and not plan.layout.wide:
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
  shape, length = (plan.layout.clips, _LANES), plan.lengths[1]
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
    if plan.layout.wide:
      return part[:, None]
    return _dot(part, _frames(plan), ((0,), (0,)))
  row = _f32(ref[(*plane, 0)])
  return row if axis == 3 else _pick(row, w, plan.layout.along(4))


def _gate(plan, refs, w, dtype):
  """Returns the mean of a group of gates."""
  total = functools.reduce(
      operator.add, [_at(plan, ref, axis, w) for axis, ref in refs.items()])
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


def _add_terms(terms, sources, gates, without=None):
  """Adds up terms, those with one group of gates if it is named, without it."""
  total = None
  for source, groups in terms:
    if without is not None and without not in groups:
      continue
    term = functools.reduce(
        operator.mul, [gates[k] for k in groups if k != without],
        sources[source])
    total = term if total is None else total + term
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
  if axis == 1 and not plan.layout.wide:
    high, low, total = (functools.partial(_among_frames, plan, join=f)
                        for f in (jnp.maximum, jnp.minimum, jnp.add))
  else:
    high, low, total = (
        functools.partial(f, axis=plan.layout.along(axis), keepdims=True)
        for f in (jnp.max, jnp.min, jnp.sum))
  if not plan.pools:
    return (total(x),)
  largest = high(x)
  return largest, total(x), low(jnp.where(
      x == largest, _place(plan, axis).astype(_F32),
      float(plan.lengths[axis])))


def _of_clips(plan, x):
  """Turns what `_within` found in time to [clips, C]."""
  if plan.layout.wide:
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


def _write(plan, key, refs, index, found):
  """Writes what was found of one of the plan's sums."""
  target, axis = key
  if target is not clip_plan.POOLED:
    sums, = refs
    # A gate's share in the mean of all of its group.
    sums[index] = (found[0] / len(dict(plan.groups)[target])).astype(sums.dtype)
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

  def along(axis):
    return [key for key in plan.sums if key[1] == axis]

  x_ref, = take() if plan.reads else (None,)
  norm_ref, = take() if plan.reads and plan.normalized else (None,)
  given_ref, = take() if plan.given else (None,)
  gate_refs = {k: {axis: take()[0] for axis in axes}
               for k, axes in plan.groups}
  spread_refs = {k: {axis: take(2) for axis in axes}
                 for k, axes in plan.spread}
  results = {key: take(2 if plan.pools else 1) for key in plan.sums}
  written_ref, = take() if plan.writes else (None,)
  to_norm_ref, = take() if plan.to_norm else (None,)
  over_height = {key: take(plan.parts) for key in along(2)}
  clip_ref = next(r for r in (x_ref, given_ref, written_ref) if r is not None)

  layout, dtype, h = plan.layout, clip_ref.dtype, pl.program_id(2)
  width = plan.lengths[3]
  start = (-jnp.inf, 0.0, 0.0) if plan.pools else (0.0,)
  # What is found over channels, in whole registers.
  row = ((*layout.tile[:2], per_device.rounded_up(width, _LANES))
         if layout.wide else
         (per_device.rounded_up(width, _SUBLANES), _LANES))

  if over_height:
    @pl.when(h == 0)
    def _():
      for kept in over_height.values():
        for ref, value in zip(kept, start):
          ref[...] = jnp.full(ref.shape, value, _F32)

  def column(w, carry):
    over_width, over_channels, over_all = carry
    gates = {k: _gate(plan, of, w, dtype) for k, of in gate_refs.items()}
    sources = {k: _spread(plan, of, w, h) for k, of in spread_refs.items()}
    if plan.given:
      sources[GIVEN] = _f32(given_ref[0, w])
    x = _f32(x_ref[0, w]) if plan.reads else None
    if norm_ref is not None:
      mean, factor, bias = (norm_ref[i] for i in range(3))
      shifted = x - mean
      x = (shifted * factor + bias).astype(dtype).astype(_F32)
    sources[clip_plan.CLIP] = x
    if plan.writes:
      written = _add_terms(plan.terms, sources, gates)
      if plan.to_norm:
        over_all = over_all[0] + written, over_all[1] + written * shifted
        written = written * factor
      written_ref[0, w] = written.astype(dtype)
    if not plan.sums:
      return over_width, over_channels, over_all
    if plan.pools:
      for k in plan.seen:
        x = (x * gates[k]).astype(dtype).astype(_F32)
      summed = {clip_plan.POOLED: x}
    else:
      summed = {k: x * _add_terms(plan.terms, sources, gates, k)
                for k in plan.targets}
    for key in along(1):
      _write(plan, key, results[key], (0, w),
             [_of_clips(plan, f) for f in _within(plan, summed[key[0]], 1)])
    for key, kept in over_height.items():
      found = _join(plan, [ref[w] for ref in kept], summed[key[0]], h)
      for ref, value in zip(kept, found):
        ref[w] = value
    over_width = {key: _join(plan, found, summed[key[0]], w)
                  for key, found in over_width.items()}
    if over_channels:
      here = _iota(row, layout.along(4)) == w
      over_channels = {
          key: tuple(
              jnp.where(here, found, kept)
              for found, kept in zip(_within(plan, summed[key[0]], 4), before))
          for key, before in over_channels.items()}
    return over_width, over_channels, over_all

  over_width, over_channels, over_all = lax.fori_loop(0, width, column, (
      {key: tuple(jnp.full(layout.tile, s, _F32) for s in start)
       for key in along(3)},
      {key: tuple(jnp.zeros(row, _F32) for _ in start) for key in along(4)},
      (jnp.zeros(layout.tile, _F32),) * 2 * plan.to_norm))
  for key, found in over_width.items():
    _write(plan, key, results[key], (0,), found)
  for key, found in over_channels.items():
    _write(plan, key, results[key], (0,), [
        f[:, :, :width] if layout.wide else f[:width] for f in found])
  for i, total in enumerate(over_all):
    total = jnp.sum(total, layout.but_channels, keepdims=True)
    total = total.reshape(to_norm_ref.shape[2:])

    @pl.when(h == 0)
    def _(i=i, total=total):
      to_norm_ref[0, i] = total

    @pl.when(h > 0)
    def _(i=i, total=total):
      to_norm_ref[0, i] += total
  if over_height:
    @pl.when(h == plan.lengths[2] - 1)
    def _():
      def write(w, _):
        for key, kept in over_height.items():
          _write(plan, key, results[key], (w,), [ref[w] for ref in kept])
        return 0

      lax.fori_loop(0, width, write, 0)


def takes(x: jax.Array, *groups: tuple[int, ...]) -> bool:
  """Tells whether the kernel takes a clip and all it is to do with it.

  Args:
    x: [N, T, H, W, C].
    *groups: the axes that the clip is pooled along, each time with gates of the
      same axes after it.
  """
  if x.dtype not in (jnp.bfloat16, _F32) or not per_device.divides(len(x)):
    return False
  # What needs most is the gradient of the clip, from everything.
  named = tuple(enumerate(groups))
  plan = clip_plan.Plan(
      (per_device.own(len(x)), *x.shape[1:]), groups=named, spread=named,
      terms=((GIVEN, tuple(range(len(groups)))),), writes=True, normalized=True,
      to_norm=True)
  return clip_plan.memory(
      plan, clip_plan.arguments(plan, x.dtype),
      clip_plan.results(plan, x.dtype, {})) <= per_device.capacity()


def _call(plan, x, norm, given, groups, spread, dtype, interpret):
  """Calls the kernel on arrays that have their usual axes.

  Returns ({(target, axis): sums, or (planes, places)}, what is written, what is
  summed for the norm), the last two None where they are not wanted.
  """
  layout = plan.layout
  kinds = [kind for kind, _ in clip_plan.arguments(plan, dtype)]
  arrays = [*([x] * plan.reads), *([norm] * (plan.reads and plan.normalized)),
            *([given] * plan.given)]
  arrays += [groups[k][axis] for k, axes in plan.groups for axis in axes]
  arrays += [a for k, axes in plan.spread for axis in axes
             for a in spread[k][axis]]
  results = clip_plan.results(
      plan, dtype, jax.tree.map(lambda a: a.dtype, groups))
  n, t, h, w, c = plan.lengths
  arrays = [layout.lay(a, kind) for a, kind in zip(arrays, kinds, strict=True)]
  shapes = [layout.shape(*result) for result in results]
  found = pl.pallas_call(
      functools.partial(_kernel, plan=plan), grid=layout.grid,
      in_specs=[layout.block(kind) for kind in kinds],
      out_specs=[layout.block(kind) for kind, _ in results],
      out_shape=shapes,
      scratch_shapes=[pltpu.VMEM(*s) for s in clip_plan.scratch(plan)],
      compiler_params=pltpu.CompilerParams(
          vmem_limit_bytes=per_device.memory_limit(clip_plan.memory(
              plan, zip(kinds, (a.dtype for a in arrays)), results)),
          dimension_semantics=('parallel', 'parallel', 'arbitrary')),
      cost_estimate=pl.CostEstimate(
          flops=n * t * h * w * c * (
              plan.parts * len(plan.sums)
              + sum(len(axes) for _, axes in plan.groups)
              + 2 * sum(len(axes) for _, axes in plan.spread) + 1),
          transcendentals=0, bytes_accessed=sum(
              a.size * a.dtype.itemsize for a in (*arrays, *shapes))),
      interpret=interpret)(*arrays)
  found = [layout.back(f, kind) for f, (kind, _) in zip(found, results)]
  to_norm = found.pop() if plan.to_norm else None
  written = found.pop() if plan.writes else None
  if plan.pools:
    found = list(zip(found[::2], found[1::2]))
  return dict(zip(plan.sums, found, strict=True)), written, to_norm


def _axes(groups):
  return tuple((k, tuple(of)) for k, of in groups.items())


def pool(x, norm, groups, axes, interpret=False):
  """Pools a clip times its gates.

  Args:
    x: [N, T, H, W, C].
    norm: [3, C] in float32, to take (x - norm[0]) * norm[1] + norm[2] for the
      clip; None to take it as it is.
    groups: list of groups of gates, {axis: [N, ...]}; the clip is multiplied by
      the mean of each group, one after the other.
    axes: the axes to pool.
    interpret: do not compile.

  Returns:
    {axis: (planes [N, 2, ...], where each maximum is [N, ...])}.
  """
  groups = dict(enumerate(groups))

  def call(x, groups, norm):
    plan = clip_plan.Plan(
        x.shape, groups=_axes(groups), seen=tuple(groups), pools=axes,
        normalized=norm is not None)
    found, *_ = _call(plan, x, norm, None, groups, {}, x.dtype, interpret)
    return {axis: f for (_, axis), f in found.items()}

  return per_device.by_clips(call, (x, groups), (norm,))


def apply(x, norm, groups, interpret=False):
  """Multiplies a clip by its gates.

  Args:
    x: see `pool`.
    norm: see `pool`.
    groups: see `pool`.
    interpret: do not compile.

  Returns:
    [N, T, H, W, C].
  """
  groups = dict(enumerate(groups))

  def call(x, groups, norm):
    plan = clip_plan.Plan(
        x.shape, groups=_axes(groups),
        terms=((clip_plan.CLIP, tuple(groups)),), writes=True,
        normalized=norm is not None)
    return _call(plan, x, norm, None, groups, {}, x.dtype, interpret)[1]

  return per_device.by_clips(call, (x, groups), (norm,))


def gradients(x, norm, given, groups, spread, terms, targets=(), writes=False,
              interpret=False):
  """Adds up terms of a clip's gradient, and gives gates their part of them.

  A term begins with `given`, or with gradients of planes that are brought to
  where they come from, and is multiplied by groups of gates.

  Args:
    x: see `pool`.
    norm: see `pool`.
    given: [N, T, H, W, C]; not used if no term is of it.
    groups: {number: {axis: gate [N, ...]}}.
    spread: {number: {axis: (gradient of planes [N, 2, ...], places)}}; see
      `pool`.
    terms: pairs of what a term begins with, `GIVEN` or a number, and the
      numbers of its groups.
    targets: the numbers of groups whose gradients are wanted.
    writes: the gradient of x is wanted: the sum of all terms, times norm[1].
    interpret: do not compile.

  Returns:
    ({number: {axis: gradient of the gate}}, gradient of x or None, what
    `normalized.sums` returns of the sum of all terms, or None).
  """
  sources = {source for source, _ in terms}
  groups = {k: gates for k, gates in groups.items()
            if k in targets or any(k in of for _, of in terms)}
  spread = {k: of for k, of in spread.items() if k in sources}

  def call(x, given, groups, spread, norm):
    plan = clip_plan.Plan(
        x.shape, groups=_axes(groups), spread=_axes(spread), terms=terms,
        targets=targets, writes=writes, normalized=norm is not None,
        to_norm=writes and norm is not None)
    one = jax.tree.leaves((given, spread))[0]
    found, written, to_norm = _call(plan, x, norm, given, groups, spread,
                                    one.dtype, interpret)
    return {k: {axis: found[k, axis] for axis in groups[k]}
            for k in targets}, written, to_norm

  found, written, to_norm = per_device.by_clips(
      call, (x, given if GIVEN in sources else None, groups, spread), (norm,))
  return found, written, None if to_norm is None else to_norm.sum(0)
