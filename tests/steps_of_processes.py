"""Trains twenty steps in float64, alone or as one of several processes.

Run by `test_kill`: PORT COUNT INDEX OUT.
"""

import sys

import jax
from jax.experimental import multihost_utils
import numpy as np
import small

from vidattn_jax.training import optim
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib

STEPS = 20


def main(port, count, index, out):
  """Writes the parameters and statistics after the last step."""
  jax.config.update('jax_enable_x64', True)
  if count > 1:
    jax.distributed.initialize(f'localhost:{port}', count, index)
  c = small.config(mesh__data=-1, model__dtype='float64', model__dropout=0.5,
                   num_epochs=STEPS / 3)
  mesh = sharding.make_mesh(c)
  assert mesh.shape['data'] == 8, mesh
  sharding.connect(mesh)
  model = state_lib.build_model(
      state_lib.model_arguments(c, len(small.CLASSES)))
  state = jax.tree.map(
      lambda x: np.asarray(x, np.float64 if x.dtype == np.float32 else x.dtype),
      state_lib.create_state(
          state_lib.init_variables(model, jax.random.key(0)), c))
  shardings = sharding.state_sharding(mesh, state, True, min_bytes=1)
  state = jax.tree.map(
      lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]),
      state, shardings)
  step = jax.jit(state_lib.make_train_step(model, c, len(small.CLASSES)),
                 out_shardings=(shardings, sharding.replicated(mesh)))
  rows = slice(*(c.batch_size * i // count for i in (index, index + 1)))
  for batch, rate in zip(small.inputs(c).train_batches(0, STEPS),
                         optim.learning_rates(c, 3), strict=True):
    batch = {k: batch[k][rows] for k in ('video', 'label', 'mask')}
    state, _ = step(state, sharding.to_devices(mesh, batch),
                    state_lib.key_data(0), rate)
  whole = jax.tree.map(
      lambda x: multihost_utils.process_allgather(x, tiled=True),
      {'params': state.params, 'batch_stats': state.batch_stats})
  if index == 0:
    np.savez(out, **{optim.path_name(path): np.asarray(leaf) for path, leaf in
                     jax.tree_util.tree_leaves_with_path(whole)})


if __name__ == '__main__':
  main(*map(int, sys.argv[1:4]), sys.argv[4])
