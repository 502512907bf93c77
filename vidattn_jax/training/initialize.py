"""Starting weights from elsewhere."""

from etils import epath
import jax
import numpy as np

from vidattn_jax import convert
from vidattn_jax.training import checkpoint
from vidattn_jax.training import state


def load_weights(source: str, model, rng):
  """Takes starting weights from a file or a checkpoint.

  Weights that the source lacks (a head for other classes, attention units)
  are fresh.

  Args:
    source: a `.pth`, `.pt` or `.safetensors` file in a published layout, a
      workdir, or a checkpoint's folder.
    model: the network.
    rng: key of the fresh weights.

  Returns:
    (dict of `params` and `batch_stats`, text that says what was used, unused
    and fresh).

  Raises:
    ValueError: the source is missing or damaged, or nothing in it fits.
  """
  fresh = state.init_variables(model, rng)
  path = epath.Path(source)
  if path.is_dir():
    weights, _, _ = checkpoint.load(path)
    merged, report = convert.merge(fresh, weights)
  else:
    merged, report = convert.load_into(model, fresh, source)
  # As plain arrays, so that every process can place them.
  merged = jax.tree.map(np.asarray, merged)
  return merged, f'Weights from {source}: {report}'
