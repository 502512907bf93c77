"""Device meshes, and how arrays lie on them."""

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np

# Smaller arrays stay whole on every device: gathering them costs more time
# than keeping them costs memory.
_MIN_SHARDED_BYTES = 2 ** 20


def make_mesh(config, devices=None):
  """Builds the mesh of devices with the axis `data`.

  Args:
    config: the run's configuration (`mesh.data` is read).
    devices: the devices; None for all.

  Returns:
    A mesh whose axes are Auto (Linen modules fail on Explicit ones).

  Raises:
    ValueError: `mesh.data` does not fit the devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices) if config.mesh.data == -1 else config.mesh.data
  if not 1 <= count <= len(devices):
    raise ValueError(f'config.mesh.data is {config.mesh.data}, but there are '
                     f'{len(devices)} devices; use -1 for all.')
  if count != len(devices) and jax.process_count() > 1:
    raise ValueError(f'config.mesh.data is {config.mesh.data}, but with '
                     f'several processes all {len(devices)} devices must take '
                     'part; use -1.')
  return jax.make_mesh((count,), ('data',), devices=devices[:count],
                       axis_types=(AxisType.Auto,))


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
    batch: tree of NumPy arrays [b, ...], this process's rows.

  Returns:
    Tree of global arrays [B, ...].
  """
  return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


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
