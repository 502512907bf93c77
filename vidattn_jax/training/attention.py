"""Collects the attention of a network while it is evaluated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vidattn_jax.ops import per_device
from vidattn_jax.training import sharding
from vidattn_jax.training import state

KINDS = ('temporal_attention', 'spatial_attention')
# Which of the crops is the centre, by their number.
_CENTRE = {1: 0, 3: 2, 5: 4, 10: 4}


class Collector:
  """Keeps where and when a network looks, in the centre crop of each clip.

  Attributes:
    found: {index of the video: {kind: [clips, T, ...]}}, on process 0; empty
      on the others. Spatial attention is uint8, 255 for 1.
  """

  def __init__(self, model, config, mesh):
    """Compiles what looks.

    Args:
      model: a network whose outputs have both kinds of attention.
      config: the run's configuration.
      mesh: the mesh.
    """
    self.found = {}
    self._mesh = mesh
    # Views are ordered crop, then clip.
    first = _CENTRE[config.eval.crops] * config.eval.clips
    self._views = range(first, first + config.eval.clips)
    mean, std = tuple(config.data.mean), tuple(config.data.std)

    @functools.partial(jax.jit, out_shardings=sharding.batch_sharding(mesh))
    @functools.partial(per_device.on_mesh, mesh)
    def look(variables, clips):
      video = state.network_input(model, clips, mean, std, jnp.dtype(
          config.model.dtype), config.data.flow_bound)
      outputs = model.apply(variables, video, train=False)
      temporal, spatial = (outputs[k].astype(jnp.float32) for k in KINDS)
      return {'temporal_attention': temporal,
              'spatial_attention': jnp.rint(255 * spatial).astype(jnp.uint8)}

    self._look = look

  def __call__(self, variables, views, indices):
    """Looks at a batch; see `observe` of `evaluate.evaluate`."""
    seen = []
    for view in self._views:
      attention = self._look(variables, sharding.to_devices(
          self._mesh, np.ascontiguousarray(views[:, view])))
      seen.append({kind: sharding.to_hosts(x) for kind, x in attention.items()})
    indices = sharding.to_hosts(np.asarray(indices))
    if jax.process_index() > 0:
      return  # Process 0 writes all; it alone needs the memory.
    for row, index in enumerate(indices):
      if index >= 0:
        self.found[int(index)] = {
            kind: np.stack([clip[kind][row] for clip in seen])
            for kind in KINDS}

  def arrays(self) -> dict:
    """Returns {kind: [N, clips, T, ...]} in the order of the indices.

    On process 0; on the others an empty dict.
    """
    order = sorted(self.found)
    if jax.process_index() > 0:
      return {}
    return {kind: np.stack([self.found[i][kind] for i in order])
            for kind in KINDS}
