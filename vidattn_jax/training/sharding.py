"""Device meshes, and how arrays lie on them."""

import math

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np

from vidattn_jax.ops import per_device

# What networks divide the size of clips by before their first block; until then
# pieces have to be of one size.
_HALVED = 4
# Smaller arrays stay whole on every device: gathering them costs more time
# than keeping them costs memory.
_MIN_SHARDED_BYTES = 2 ** 20


def make_mesh(config, devices=None):
  """Builds the mesh of devices: the axis `data`, and one that cuts clips.

  Args:
    config: the run's configuration (`mesh`, and the size of its clips).
    devices: the devices; None for all.

  Returns:
    A mesh whose axes are Auto (Linen modules fail on Explicit ones): `data`,
    then that of `per_device.CUTS` which is longer than 1.

  Raises:
    ValueError: a length does not fit the devices or the clips.
  """
  devices = jax.devices() if devices is None else devices
  cuts = {axis: config.mesh[axis] for axis in per_device.CUTS
          if config.mesh[axis] != 1}
  processes = {device.process_index for device in devices}
  _check_cuts(config, cuts, len(devices) // len(processes))
  each = math.prod(cuts.values())
  most = len(devices) // each
  count = most if config.mesh.data == -1 else config.mesh.data
  if not 1 <= count <= most:
    raise ValueError(f'config.mesh.data is {config.mesh.data}, but there are '
                     f'{len(devices)} devices{_for(cuts)}; use -1 for all.')
  if count * each != len(devices) and len(processes) > 1:
    raise ValueError(f'config.mesh.data is {config.mesh.data}, but with '
                     f'several processes all {len(devices)} devices must take '
                     'part; use -1.')
  if not cuts:
    return jax.make_mesh((count,), ('data',), devices=devices[:count],
                         axis_types=(AxisType.Auto,))
  return jax.sharding.Mesh(
      np.array(_in_groups(devices)[:count * each]).reshape(count, each),
      ('data', *cuts), axis_types=(AxisType.Auto,) * 2)


def _in_groups(devices):
  """Returns the devices, those of a process one after the other.

  `jax.make_mesh` orders them by where they are, so that those of a clip might
  belong to two processes, which have different clips.
  """
  return sorted(devices, key=lambda device: (device.process_index, device.id))


def _check_cuts(config, cuts, devices):
  """Raises a ValueError if clips cannot be cut so, on a process's devices."""
  if len(cuts) > 1:
    # The gradients that XLA then makes were found to be wrong.
    raise ValueError(f'{" and ".join(f"config.mesh.{a}" for a in cuts)} are '
                     'both above 1; cut clips along one of them.')
  lengths = {'time': (config.model.num_frames, 'frames long'),
             'height': (config.model.crop_size[0], 'pixels high')}
  for axis, pieces in cuts.items():
    length, unit = lengths[axis]
    if pieces < 1 or length % (_HALVED * pieces):
      raise ValueError(
          f'config.mesh.{axis} is {pieces}, but clips are {length} {unit}; '
          f'use a number that {length} is a multiple of {_HALVED} times of, or '
          '1.')
  if devices % math.prod(cuts.values()):
    raise ValueError(
        f'A process has {devices} devices{_for(cuts)}, which do not divide '
        'them evenly; a clip lies on devices of one process.')
  if cuts and config.batch_norm == 'replica':
    raise ValueError(f"config.batch_norm is 'replica', but config.mesh.{axis} "
                     "puts a clip on several devices; use 'global'.")


def _for(cuts):
  return ''.join(f', {n} for each clip\'s {axis}' for axis, n in cuts.items())


def connect(mesh):
  """Lets the devices of several processes meet before any long work.

  On the CPU a group of devices must find each other within 30 s of the first
  one's asking; processes that first ask after compiling, or after one of them
  has looked through a data set, may be further apart than that.

  Args:
    mesh: the mesh.
  """
  if jax.process_count() == 1:
    return
  multihost_utils.sync_global_devices('connect')
  ones = np.ones(jax.local_device_count(), np.float32)
  jax.block_until_ready(jax.jit(jnp.sum, out_shardings=replicated(mesh))(
      to_devices(mesh, ones)))


def replicated(mesh) -> NamedSharding:
  """Returns the sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh) -> NamedSharding:
  """Returns the sharding of an array whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec('data'))


def clip_sharding(mesh, shape: tuple[int, ...]) -> NamedSharding:
  """Returns the sharding of clips, which the mesh may cut.

  Args:
    mesh: the mesh.
    shape: [N, ..., T, H, W, C]. What does not divide, as the size of clips in
      evaluation may not, is not cut.
  """
  return NamedSharding(mesh, per_device.clip_spec(mesh, shape))


def state_sharding(mesh, shapes, shard_parameters: bool,
                   min_bytes: int = _MIN_SHARDED_BYTES):
  """Returns how each leaf of the training state lies on the mesh.

  Args:
    mesh: the mesh.
    shapes: tree of arrays or shapes.
    shard_parameters: split large leaves over `data` along the longest axis
      that the number of devices divides; else every device holds all.
    min_bytes: leaves below this size stay whole.

  Returns:
    Tree of shardings.
  """
  devices = mesh.shape['data']

  def leaf_sharding(leaf):
    size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
    axes = [axis for axis, length in enumerate(leaf.shape)
            if length % devices == 0]
    if not shard_parameters or devices == 1 or size < min_bytes or not axes:
      return replicated(mesh)
    axis = max(axes, key=lambda a: leaf.shape[a])
    return NamedSharding(mesh, PartitionSpec(*([None] * axis + ['data'])))

  return jax.tree.map(leaf_sharding, shapes)


def check_batch_size(name: str, batch_size: int, mesh, parts: int = 1):
  """Raises a ValueError when a batch does not split evenly over the devices.

  Args:
    name: the configuration key, for the message.
    batch_size: clips or videos per step.
    mesh: the mesh.
    parts: parts into which each device's share is split further.

  Raises:
    ValueError: it does not divide.
  """
  unit = mesh.shape['data'] * parts
  if batch_size % unit:
    low = max(unit, batch_size // unit * unit)
    pieces = f'{mesh.shape["data"]} devices'
    if parts > 1:
      pieces += f' times {parts} accumulated parts'
    raise ValueError(f'config.{name} is {batch_size}, which {pieces} do not '
                     f'divide evenly; use a multiple of {unit}, such as {low}.')


def to_devices(mesh, batch):
  """Puts this process's part of a batch on its devices.

  Args:
    mesh: the mesh.
    batch: tree of NumPy arrays [b, ...], this process's rows. Those of five
      axes and more are clips.

  Returns:
    Tree of global arrays [B, ...].
  """
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
          clip_sharding(mesh, x.shape) if x.ndim >= 5
          else batch_sharding(mesh), x), batch)


def to_hosts(array) -> np.ndarray:
  """Brings rows that lie with several processes to every host.

  Args:
    array: [B, ...] on the devices, or this process's rows [b, ...] of it.

  Returns:
    [B, ...].
  """
  if jax.process_count() == 1:
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)


def replicate(mesh, tree):
  """Puts host arrays, the same on every process, on all devices.

  Args:
    mesh: the mesh.
    tree: tree of NumPy arrays.

  Returns:
    Tree of global arrays that are whole on every device.
  """
  return jax.tree.map(
      lambda x: jax.make_array_from_callback(
          x.shape, replicated(mesh), lambda index: x[index]), tree)
