"""What every device of a mesh does with its clips, or its pieces of clips."""

from collections.abc import Callable
import contextlib
import contextvars
import functools
import math

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import PartitionSpec

# Axes of a mesh along which clips themselves are cut, and which axis of a clip
# [..., T, H, W, C] each cuts.
CUTS = {'time': -4, 'height': -3}
# Whether each device of a clip has all of it at this place of a network.
_whole = contextvars.ContextVar('whole', default=False)
# A register of a TPU.
SUBLANES, LANES = 8, 128
# The fast memory of a TPU where its kind is not known, and the part of it that
# a kernel may take.
_CAPACITY, _PART = 128 * 2 ** 20, 0.47


def on_mesh(mesh: jax.sharding.Mesh, function: Callable) -> Callable:
  """Lets a function's kernels know the mesh of its arrays while it is traced.

  XLA cannot cut a kernel into parts: a program for several devices that has
  kernels must be one of these. Not to be used inside `jax.shard_map`, where
  every device has its own clips already.

  Args:
    mesh: the mesh. Where it has one axis, clips are spread over that.
    function: what is to be compiled.

  Returns:
    The same function.
  """

  @functools.wraps(function)
  def known(*args, **kwargs):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  return known


def _mesh():
  """Returns the mesh whose devices are yet to get their own clips, or None."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def cut_clips() -> bool:
  """Tells whether clips lie on several devices each."""
  mesh = _mesh()
  return mesh is not None and len(mesh.axis_names) > 1


def clip_spec(mesh, shape: tuple[int, ...], least: int = 1) -> PartitionSpec:
  """Returns how clips lie on a mesh that may cut them.

  Args:
    mesh: the mesh; its axes are `data` and some of `CUTS`.
    shape: [N, ..., T, H, W, C]. What does not divide is not cut.
    least: of this many pieces, each device has to get as many.
  """
  axes = ['data'] + [None] * (len(shape) - 1)
  for name, axis in CUTS.items():
    if name in mesh.axis_names and shape[axis] % (
        mesh.shape[name] * least) == 0:
      axes[axis] = name
  return PartitionSpec(*axes)


@contextlib.contextmanager
def laid_out(x: jax.Array, halves: bool = True, whole: bool = False):
  """Says how the clips that a part of a network sees lie on the devices.

  They stay cut where its results are cut evenly, too. Else every device of a
  clip has all of it, from there on.

  Args:
    x: [N, T, H, W, C].
    halves: the results are half as long or high.
    whole: every device of a clip has all of it.

  Yields:
    The same; inside, `neighbours` knows.
  """
  if not cut_clips():
    yield x
    return
  spec = (PartitionSpec('data') if whole
          else clip_spec(_mesh(), x.shape, 1 + halves))
  token = _whole.set(not set(spec) & CUTS.keys())
  try:
    yield jax.lax.with_sharding_constraint(x, spec)
  finally:
    _whole.reset(token)


def neighbours(function: Callable, x: jax.Array, window: Callable, shared=(),
               beyond: float = 0.0):
  """Slides a window over clips that are cut: each piece sees its neighbours.

  XLA does that by itself for some convolutions; for others it gathers clips,
  and some of its gradients were found to be wrong.

  Args:
    function: takes the cut axis, pieces of `x`, each with as much of those
      beside it as the window needs, and `*shared`; it pads the other axes only.
    x: [N, ..., C], clips, or frames as one axis.
    window: function from an axis of `x` to the window's length, step and
      (before, after), its padding.
    shared: arrays that all devices have.
    beyond: what lies beyond the ends of a clip.

  Returns:
    What the function returns, as `x` is cut; None where it is not cut.
  """
  if not cut_clips() or _whole.get():
    return None
  mesh = _mesh()
  name, axis = _cut_axis(x)
  pieces = mesh.shape[name]
  if axis < 1 or x.shape[axis] % pieces or x.shape[0] % mesh.shape['data']:
    return None
  length, step, (before, after) = window(axis)
  size, places = x.shape[axis], x.shape[axis] + before + after - length
  after = max(length - step - before, 0)
  if (places // step + 1) * step != size or size // pieces % step or (
      max(before, after) > size // pieces):
    return None

  def beside(x, start, stop, by, end):
    # Nothing is sent beyond the ends.
    found = jax.lax.ppermute(
        jax.lax.slice_in_dim(x, start, stop, axis=axis), name,
        [(i, i + by) for i in range(pieces) if 0 <= i + by < pieces])
    if not beyond:
      return found
    return jnp.where(jax.lax.axis_index(name) == end,
                     jnp.asarray(beyond, x.dtype), found)

  def of_piece(x, *shared):
    parts, size = [x], x.shape[axis]
    if before:
      parts.insert(0, beside(x, size - before, size, 1, 0))
    if after:
      parts.append(beside(x, 0, after, -1, pieces - 1))
    return function(axis, jnp.concatenate(parts, axis), *shared)

  spec = PartitionSpec('data', *(None,) * (axis - 1), name)
  return jax.shard_map(
      of_piece, mesh=mesh, in_specs=(spec,) + (PartitionSpec(),) * len(shared),
      out_specs=spec, check_vma=False)(x, *shared)


def gathered(x: jax.Array) -> jax.Array:
  """Says that every device has whole clips, where `neighbours` cannot help."""
  if not cut_clips() or _whole.get() or _cut_axis(x)[1] < 1:
    return x
  divided = x.shape[0] % _mesh().shape['data'] == 0
  return jax.lax.with_sharding_constraint(
      x, PartitionSpec('data') if divided else PartitionSpec())


def _cut_axis(x):
  """Returns the name of the mesh's axis that cuts, and which of `x` it cuts.

  The second is below 1 where frames are one axis with the clips.
  """
  name, = _mesh().axis_names[1:]
  return name, x.ndim + CUTS[name]


def divides(clips: int) -> bool:
  """Tells whether every device gets the same number of whole clips."""
  mesh = _mesh()
  return mesh is None or (not cut_clips() and clips % mesh.size == 0)


def own(clips: int) -> int:
  """Returns how many clips a device gets."""
  mesh = _mesh()
  return clips if mesh is None else clips // mesh.size


def by_clips(function: Callable, arguments, shared=()):
  """Calls a function on every device, for the clips that are there.

  Args:
    function: takes `*arguments, *shared`; what it returns for a clip depends
      on no other one.
    arguments: pytrees of arrays whose first axis is the clips.
    shared: arrays that all clips share.

  Returns:
    What the function returns; pytree of arrays whose first axis is the clips,
    or parts of them, of which each device has as many.
  """
  mesh = _mesh()
  if mesh is None:
    return function(*arguments, *shared)
  clips, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
  return jax.shard_map(
      function, mesh=mesh,
      in_specs=(clips,) * len(arguments) + (whole,) * len(shared),
      out_specs=clips, check_vma=False)(*arguments, *shared)


def rounded_up(length: int, unit: int) -> int:
  """Rounds a length up to whole units."""
  return -(-length // unit) * unit


def memory(blocks, scratch, buffers: int = 2) -> int:
  """Returns how many bytes of a TPU's fast memory a kernel needs.

  Args:
    blocks: (shape, type) of what the kernel sees of each argument and result.
    scratch: the same of what it keeps.
    buffers: how many there are of each block; with 2 the next one is read
      while one is used.
  """
  def size(shape, dtype):
    *before, rows, lanes = shape
    return (math.prod(before) * rounded_up(rows, SUBLANES)
            * rounded_up(lanes, LANES) * jnp.dtype(dtype).itemsize)

  return (buffers * sum(size(*block) for block in blocks)
          + sum(size(*array) for array in scratch))


def _fast_memory() -> int:
  try:
    return pltpu.get_tpu_info().vmem_capacity_bytes
  except ValueError:  # Where kernels are interpreted, there is no TPU.
    return _CAPACITY


def capacity() -> int:
  """Returns the bytes of a TPU's fast memory that one kernel may need."""
  return int(_PART * _fast_memory())


def memory_limit(need: int) -> int:
  """Returns the limit to set for a kernel that needs so many bytes.

  Not more, as XLA keeps arrays in the rest.
  """
  return min(max(16 * 2 ** 20, need * 5 // 4 + 4 * 2 ** 20), _fast_memory())


def clips_at_a_time(clips: int) -> int:
  """Returns how many clips a kernel sees that has them in rows of registers.

  Blocks have whole registers of rows, or all rows that there are.
  """
  return SUBLANES if clips % SUBLANES == 0 else clips
