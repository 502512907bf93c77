"""Starting weights from elsewhere."""

import os

import jax
import numpy as np

from vidattn_jax import convert
from vidattn_jax.training import checkpoint
from vidattn_jax.training import remote
from vidattn_jax.training import state


def load_weights(source: str, model, rng):
  """Takes starting weights from a file or a checkpoint.

  Weights that the source lacks (a head for other classes, attention units)
  are fresh.

  Args:
    source: a `.pth`, `.pt` or `.safetensors` file in a published layout, a
      workdir, or a checkpoint's folder; a path or a URL.
    model: the network.
    rng: key of the fresh weights.

  Returns:
    (dict of `params` and `batch_stats`, text that says what was used, unused
    and fresh).

  Raises:
    ValueError: the source is missing or damaged, or nothing in it fits.
  """
  fresh = state.init_variables(model, rng)
  is_file = source.endswith(('.pth', '.pt', '.safetensors'))
  if os.path.isdir(source) or (
      remote.is_url(source) and not is_file):
    weights, _, _ = checkpoint.load(source)
    merged, report = convert.merge(fresh, weights)
  else:
    with remote.local_file(source) as file:
      merged, report = convert.load_into(model, fresh, file)
  # As plain arrays, so that every process can place them.
  merged = jax.tree.map(np.asarray, merged)
  return merged, f'Weights from {source}: {report}'
