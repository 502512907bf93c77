"""What the kernel for clips does in one call, and what it needs for that."""

import dataclasses
import functools

import jax.numpy as jnp

from vidattn_jax.ops import clip_layout
from vidattn_jax.ops import per_device

_F32 = jnp.float32
# What terms begin with: the gradient of the gated clip, and the clip itself.
GIVEN, CLIP = None, -1
# What is summed where the clip is pooled.
POOLED = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the kernel does with each place of a row.

  Groups of gates, and of planes whose gradients are spread, have numbers.

  Attributes:
    lengths: those of [N, T, H, W, C].
    groups: the axes of each group of gates.
    spread: the axes of each group of planes.
    seen: the groups of gates that the clip is multiplied by, to be pooled.
    pools: the axes to pool, each alone.
    terms: pairs of what each begins with, `GIVEN`, `CLIP` or the gradients of
      a group of planes, and the groups of gates that it is multiplied by.
    targets: the groups of gates whose gradients are summed, each without its
      own factor.
    writes: the sum of the terms is written.
    normalized: each channel of the clip is to be shifted and scaled first.
    to_norm: what is written is brought back through that, and what its own
      gradients consist of is summed.
  """
  lengths: tuple[int, ...]
  groups: tuple[tuple[int, tuple[int, ...]], ...] = ()
  spread: tuple[tuple[int, tuple[int, ...]], ...] = ()
  seen: tuple[int, ...] = ()
  pools: tuple[int, ...] = ()
  terms: tuple[tuple[int | None, tuple[int, ...]], ...] = ()
  targets: tuple[int, ...] = ()
  writes: bool = False
  normalized: bool = False
  to_norm: bool = False

  @property
  def reads(self):
    """Whether the clip is read."""
    return (bool(self.sums) or self.to_norm
            or any(source == CLIP for source, _ in self.terms))

  @property
  def sums(self):
    """Pairs of a target, or `POOLED`, and the axis to sum along."""
    axes = dict(self.groups)
    return (*((POOLED, axis) for axis in self.pools),
            *((k, axis) for k in self.targets for axis in axes[k]))

  @property
  def given(self):
    """Whether there is a gradient of the clip's size."""
    return any(source is GIVEN for source, _ in self.terms)

  @property
  def parts(self):
    """Number of running values of each reduction."""
    return 3 if self.pools else 1

  @functools.cached_property
  def layout(self):
    """How the clips lie."""
    axes = {axis for _, axes in (*self.groups, *self.spread) for axis in axes}
    return clip_layout.Layout(self.lengths, 4 in axes.union(self.pools))


def _place_type(plan, axis):
  return jnp.uint8 if plan.lengths[axis] <= 256 else jnp.int32


def arguments(plan, dtype):
  """Returns what the kernel's arguments are, with their types, in their order.

  Gates may have another type.
  """
  clip = clip_layout.Array(), dtype
  found = [clip] * plan.reads
  found += [(clip_layout.CHANNELS, _F32)] * (plan.reads and plan.normalized)
  found += [clip] * plan.given
  found += [(clip_layout.Array(axis), dtype)
            for _, axes in plan.groups for axis in axes]
  for _, axes in plan.spread:
    for axis in axes:
      found += [(clip_layout.Array(axis, True), dtype),
                (clip_layout.Array(axis), _place_type(plan, axis))]
  return found


def results(plan, dtype, gate_types):
  """Returns what the kernel's results are, with their types."""
  found = []
  for target, axis in plan.sums:
    if target is POOLED:
      found += [(clip_layout.Array(axis, True), dtype),
                (clip_layout.Array(axis), _place_type(plan, axis))]
    else:
      found.append((clip_layout.Array(axis), gate_types[target][axis]))
  if plan.writes:
    found.append((clip_layout.Array(), dtype))
  if plan.to_norm:
    found.append((clip_layout.OF_CHANNELS, _F32))
  return found


def scratch(plan):
  """Returns the shapes and types of what is kept from row to row."""
  over_height = sum(axis == 2 for _, axis in plan.sums)
  return [((plan.lengths[3], *plan.layout.tile), _F32)] * (
      plan.parts * over_height)


def memory(plan, seen, found):
  """Returns how many bytes of the fast memory the kernel needs."""
  return per_device.memory(
      [(plan.layout.block(kind).block_shape, dtype)
       for kind, dtype in (*seen, *found)], scratch(plan))
