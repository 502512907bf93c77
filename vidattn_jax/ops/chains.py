"""Chains of gates: a clip is gated, pooled, gated again; only x is ever kept.

Whatever a step of a chain sees is the clip times groups of gates, so that it
need not exist: each step reads the clip, and multiplies on the way. Going back,
too, the clip's gradient is written once, as a sum of terms: what came back, and
what the gradients of each step's planes give, each times gates. docs/scaling.md
counts the reads.

TPUs have a kernel for this. Elsewhere a product of the clip's size is cheaper
kept, and gates are better applied one after the other: see `planes`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import operator

import jax

from vidattn_jax.ops import clip_kernels
from vidattn_jax.ops import normalized
from vidattn_jax.ops import per_device
from vidattn_jax.ops import planes
from vidattn_jax.ops import platform

_GIVEN = clip_kernels.GIVEN


@dataclasses.dataclass(frozen=True)
class Chain:
  """Steps, each of which makes one group of gates.

  Attributes:
    steps: of each, the steps by whose gates the clip is multiplied before it is
      pooled, and the axes that it is pooled along, each for one gate.
    applied: the steps by whose gates the clip is multiplied in the end.
  """
  steps: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
  applied: tuple[int, ...]


def of_units(units: Sequence[Sequence[tuple[int, ...]]]) -> Chain:
  """Returns the chain of units in a row.

  Args:
    units: the axes that each step of each unit pools. A step sees the unit's
      input times the gates of the step before it; the last one's gates are
      those of the unit.
  """
  steps, applied = [], ()
  for unit in units:
    seen = applied
    for axes in unit:
      steps.append((seen, tuple(axes)))
      seen = *applied, len(steps) - 1
    applied = seen
  return Chain(tuple(steps), applied)


def suits(chain: Chain, x: jax.Array) -> bool:
  """Tells whether a chain is quicker for clips than one step after another."""
  return (platform.may_be_tpu() and not per_device.cut_clips()
          and clip_kernels.takes(x, *(axes for _, axes in chain.steps)))


def forward(chain: Chain, clip: normalized.Clip, gates_of: Callable):
  """Gates a clip.

  Args:
    chain: the steps.
    clip: [N, T, H, W, C].
    gates_of: function from a step's number and {axis: planes [N, 2, ...]} to
      {axis: gate [N, ...]}.

  Returns:
    ([N, T, H, W, C], the groups of gates, {axis: where each maximum is} of each
    step).
  """
  groups, places = [], []
  for k, (seen, axes) in enumerate(chain.steps):
    found = _pool(clip, [groups[j] for j in seen], axes)
    groups.append(gates_of(k, {axis: p for axis, (p, _) in found.items()}))
    places.append({axis: place for axis, (_, place) in found.items()})
  return _apply(clip, [groups[k] for k in chain.applied]), groups, places


def backward(chain: Chain, clip: normalized.Clip, groups, places, g: jax.Array,
             pull: Callable) -> normalized.Clip:
  """Computes the gradient of `forward`.

  Args:
    chain: see `forward`.
    clip: see `forward`.
    groups: what `forward` returned.
    places: what `forward` returned.
    g: gradient of the gated clip.
    pull: function from a step's number and {axis: gradient of its gate} to
      {axis: gradient of its planes}, called for the last step first.

  Returns:
    The gradient of the clip.
  """
  groups, spread = dict(enumerate(groups)), {}
  terms = [(_GIVEN, chain.applied)]
  # What came back is read once with the clip, for all gates between them.
  of_given, *_ = _gradients(clip, g, groups, {}, tuple(terms), chain.applied)
  for k, (seen, _) in reversed(list(enumerate(chain.steps))):
    # All terms with these gates are known by now: later steps made them.
    found = [of_given[k]] if k in of_given else []
    if later := tuple(term for term in terms[1:] if k in term[1]):
      found.append(_gradients(clip, g, groups, spread, later, (k,))[0][k])
    to_planes = pull(k, jax.tree.map(lambda *parts: sum(parts), *found))
    spread[k] = {axis: (to_planes[axis], place)
                 for axis, place in places[k].items()}
    terms.append((k, seen))
  _, to_x, sums = _gradients(clip, g, groups, spread, tuple(terms), writes=True)
  return normalized.Clip(to_x, normalized.gradient_of_norm(clip.norm, sums))


def _pool(clip, groups, axes):
  """Returns {axis: (planes, places)} of the clip times groups of gates."""
  def plain(x, norm, groups):
    return planes.pool(functools.reduce(
        planes.times_mean, groups, normalized.value(x, norm)), {}, axes)

  return platform.by_platform(
      plain, plain, *clip, groups,
      on_tpu=functools.partial(clip_kernels.pool, axes=axes))


def _apply(clip, groups):
  """Returns the clip times groups of gates."""
  def plain(x, norm, groups):
    return functools.reduce(planes.times_mean, groups,
                            normalized.value(x, norm))

  return platform.by_platform(plain, plain, *clip, groups,
                              on_tpu=clip_kernels.apply)


def _gradients(clip, given, groups, spread, terms, targets=(), writes=False):
  """Adds up terms of a clip's gradient, see `clip_kernels.gradients`."""
  def plain(x, norm, given, groups, spread):
    def times(source, by):
      start = given if source is _GIVEN else functools.reduce(operator.add, [
          planes.spread(axis, x.shape[axis], place, g)
          for axis, (g, place) in spread[source].items()])
      return functools.reduce(planes.times_mean, [groups[k] for k in by], start)

    def total(without=None):
      return functools.reduce(operator.add, [
          times(source, [k for k in by if k != without])
          for source, by in terms if without is None or without in by])

    to_gates = {k: planes.sum_products(normalized.value(x, norm), total(k),
                                       groups[k]) for k in targets}
    if not writes:
      return to_gates, None, None
    to_clip = total()
    return (to_gates, normalized.gradient_of_x(norm, to_clip),
            normalized.sums(x, norm, to_clip))

  return platform.by_platform(
      plain, plain, *clip, given, groups, spread,
      on_tpu=functools.partial(clip_kernels.gradients, terms=terms,
                               targets=targets, writes=writes))
