"""How clips, and what is left of them without an axis, lie in a TPU's memory.

XLA's convolutions keep a clip of many channels as [H, W, N, T, C], where a
register holds eight frames of 128 channels, and one of few channels as
[H, W, C, N * T], where a register holds eight channels of 128 frames. Either
way, what reduces height or width is an operation on whole registers.
"""

import dataclasses

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from vidattn_jax.ops import per_device

LANES, SUBLANES = per_device.LANES, per_device.SUBLANES
# How [N, T, H, W, C] lies (None), and what is left of it without one axis.
_WIDE = {None: (2, 3, 0, 1, 4), 1: (2, 3, 0, 4), 2: (3, 0, 1, 4),
         3: (2, 0, 1, 4), 4: (2, 0, 1, 3)}
# Where N and T come last, they are one axis.
_NARROW = {None: (2, 3, 4, 0, 1), 1: (2, 3, 0, 4), 2: (3, 4, 0, 1),
           3: (2, 4, 0, 1), 4: (2, 3, 0, 1)}


@dataclasses.dataclass(frozen=True)
class Array:
  """A clip, or what is left of it without an axis.

  Attributes:
    axis: the axis of the clip that it does not have; None for a clip.
    planes: there are two of them, [N, 2, ...].
  """
  axis: int | None = None
  planes: bool = False


# Other kinds of arrays: what all clips share for each channel, [3, C], an
# argument; and what a kernel finds for each channel in the clips that it sees
# at a time, [pieces, 2, C], a result.
CHANNELS, OF_CHANNELS = 'channels', 'of channels'


@dataclasses.dataclass(frozen=True)
class Layout:
  """How clips lie, and what a kernel sees of them at a time: rows.

  Attributes:
    lengths: those of [N, T, H, W, C].
    all_channels: a kernel wants all channels at a time.
  """
  lengths: tuple[int, ...]
  all_channels: bool

  @property
  def wide(self) -> bool:
    """Whether a row of a register is channels, not frames."""
    n, t, *_, c = self.lengths
    if c % LANES == 0 or LANES % t or n * t % LANES:
      return True
    # Planes without time have clips in rows: whole registers, or all of them.
    clips = LANES // t
    return clips % SUBLANES > 0 and clips != n

  @property
  def clips(self) -> int:
    """Number of clips that are seen at a time."""
    n, t = self.lengths[:2]
    return per_device.clips_at_a_time(n) if self.wide else LANES // t

  @property
  def channels(self) -> int:
    """Number of channels that are seen at a time."""
    c = self.lengths[4]
    part = self.wide and not self.all_channels and c % LANES == 0
    return LANES if part else c

  @property
  def tile(self) -> tuple[int, ...]:
    """What one place of these clips is: [clips, T, C] or [C, frames]."""
    if self.wide:
      return self.clips, self.lengths[1], self.channels
    return self.channels, LANES

  @property
  def grid(self) -> tuple[int, int, int]:
    """How often a kernel is called: for clips, channels, and rows."""
    n, _, h, _, c = self.lengths
    return n // self.clips, c // self.channels, h

  def along(self, axis: int) -> int:
    """Returns the axis of a tile that is time, or channels."""
    return {1: 1, 4: 2 if self.wide else 0}[axis]

  @property
  def but_channels(self) -> tuple[int, ...]:
    """Returns the axes of a tile that are not the channels."""
    return (0, 1) if self.wide else (1,)

  def _lies(self, kind):
    """Returns an array's axes, -1 for [2], and whether frames are the last."""
    axes = (_WIDE if self.wide else _NARROW)[kind.axis]
    return (-1,) * kind.planes + axes, not self.wide and kind.axis != 1

  def lay(self, array: jax.Array, kind: Array | str) -> jax.Array:
    """Turns an argument to how it lies."""
    if kind == CHANNELS:
      # To be spread over a tile.
      return jnp.expand_dims(array, 1 if self.wide else 2)
    axes, merged = self._lies(kind)
    if merged:
      # First of all [N * T, ...], as convolutions have it: what lies so already
      # is not moved.
      if kind.planes:
        array = array.swapaxes(0, 1)
      array = array.reshape(*array.shape[:kind.planes], -1,
                            *array.shape[kind.planes + 2:])
      return jnp.moveaxis(array, kind.planes, -1)
    # Planes are [N, 2, ...].
    usual = sorted(axes, key=lambda a: 0.5 if a < 0 else a)
    return array.transpose([usual.index(a) for a in axes])

  def back(self, array: jax.Array, kind: Array | str) -> jax.Array:
    """Turns a result that lies so to its usual axes."""
    if kind == OF_CHANNELS:
      return array.reshape(*array.shape[:2], -1)
    axes, merged = self._lies(kind)
    if merged:
      array = jnp.moveaxis(array, -1, kind.planes)
      array = array.reshape(*array.shape[:kind.planes], *self.lengths[:2],
                            *array.shape[kind.planes + 1:])
      return array.swapaxes(0, 1) if kind.planes else array
    return array.transpose(sorted(
        range(len(axes)), key=lambda i: 0.5 if axes[i] < 0 else axes[i]))

  def block(self, kind: Array | str) -> pl.BlockSpec:
    """Returns how a kernel sees an array: a row of some clips and channels."""
    if isinstance(kind, str):
      one = (1, self.channels) if self.wide else (self.channels, 1)
      if kind == CHANNELS:
        return pl.BlockSpec((3, *one), lambda i, j, k: (
            (0, 0, j) if self.wide else (0, j, 0)))
      return pl.BlockSpec((1, 2, *one), lambda i, j, k: (
          (i, 0, 0, j) if self.wide else (i, 0, j, 0)))
    axes, merged = self._lies(kind)
    seen = {-1: 2, 0: self.clips, 1: self.lengths[1], 2: 1, 3: self.lengths[3],
            4: self.channels}
    shape = [seen[a] for a in axes]
    if merged:
      axes, shape = axes[:-1], [*shape[:-2], LANES]
    return pl.BlockSpec(tuple(shape), lambda i, j, k: tuple(
        {0: i, 4: j, 2: k}.get(a, 0) for a in axes))

  def shape(self, kind: Array | str, dtype) -> jax.ShapeDtypeStruct:
    """Returns what a result is as it lies."""
    if kind == OF_CHANNELS:
      c = self.lengths[4]
      return jax.ShapeDtypeStruct(
          (self.grid[0], 2, *((1, c) if self.wide else (c, 1))), dtype)
    axes, merged = self._lies(kind)
    shape = [2 if a < 0 else self.lengths[a] for a in axes]
    if merged:
      shape[-2:] = [shape[-2] * shape[-1]]
    return jax.ShapeDtypeStruct(tuple(shape), dtype)
