"""Starting weights from elsewhere."""

import os

import jax
import numpy as np

from vidattn_jax import convert
from vidattn_jax.models import frozen
from vidattn_jax.models import scnn
from vidattn_jax.training import checkpoint
from vidattn_jax.training import remote
from vidattn_jax.training import state


def load_weights(source: str, model, rng, freeze=()):
  """Takes starting weights from a file or a checkpoint.

  Weights that the source lacks (a head for other classes, attention units)
  are fresh. Both networks of S-CNN may start from the same recognizer.

  Args:
    source: a `.pth`, `.pt` or `.safetensors` file in a published layout, a
      workdir, or a checkpoint's folder; a path or a URL.
    model: the network.
    rng: key of the fresh weights.
    freeze: what is not trained, see `frozen.is_frozen`.

  Returns:
    (dict of `params` and `batch_stats`, text that says what was used, unused,
    fresh, and fresh but not trained).

  Raises:
    ValueError: the source is missing or damaged, or nothing in it fits.
  """
  fresh = state.init_variables(model, rng)
  is_file = source.endswith(('.pth', '.pt', '.safetensors'))
  if os.path.isdir(source) or (
      remote.is_url(source) and not is_file):
    weights, _, _ = checkpoint.load(source)

    def merge(unused_model, fresh):
      return *convert.merge(fresh, weights), ''

    # Its own weights stand under the names of its networks.
    parts = {} if 'backbone' not in weights['params'] else _parts(model)
    merged, text, drawn = _in_parts(merge, model, parts, fresh)
  else:
    with remote.local_file(source) as file:
      def load(part, fresh):
        variables, report = convert.load_into(part, fresh, file)
        # The pipeline's clips are in RGB.
        variables, turned = convert.to_rgb(part, variables, report)
        return variables, report, f' {convert.TURNED}' if turned else ''

      merged, text, drawn = _in_parts(load, model, _parts(model), fresh)
  # As plain arrays, so that every process can place them.
  merged = jax.tree.map(np.asarray, merged)
  stuck = [path for path in drawn if frozen.is_frozen(path, freeze)]
  if stuck:
    text += (f'\n{len(stuck)} fresh parameters are frozen, and stay as they '
             f'were drawn: {", ".join(stuck[:3])}'
             + (' and others' if stuck[3:] else ''))
  return merged, f'Weights from {source}: {text}'


def _parts(model):
  """Returns {name: network} of those of which a network is made."""
  if not isinstance(model, scnn.SCNN):
    return {}
  return {name: make() for name, make in model.parts().items()}


def _in_parts(load, model, parts, fresh):
  """Loads into each part, or, if there are none, into the model.

  Args:
    load: function (network, its fresh variables) -> (variables, report, more
      text).
    model: the network.
    parts: {name: network}.
    fresh: its variables.

  Returns:
    (variables, report as text, paths of fresh parameters).
  """

  def drawn(report):
    return [path.removeprefix('params/') for path in report.fresh
            if path.startswith('params/')]

  if not parts:
    merged, report, more = load(model, fresh)
    return merged, f'{report}{more}', drawn(report)
  merged, texts, paths = {collection: {} for collection in fresh}, [], []
  for name, part in parts.items():
    own, report, more = load(part, {c: fresh[c].get(name, {}) for c in fresh})
    for collection, tree in own.items():
      merged[collection][name] = tree
    texts.append(f'{name}: {report}{more}')
    paths += [f'{name}/{path}' for path in drawn(report)]
  return merged, '\n'.join(texts), paths
