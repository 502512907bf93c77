"""Weights and inputs from a seed: the same on every machine.

Reference outputs are stored without their weights. Each tensor has its own
random stream, chosen by seed and name, so its numbers depend on nothing else.
"""

import gzip
import hashlib
import json
import math
import pathlib

import numpy as np

_SHAPES = pathlib.Path(__file__).parent / 'data' / 'shapes.json.gz'


def _stream(seed, name):
  digest = hashlib.sha256(f'{seed}:{name}'.encode()).digest()
  return np.random.Generator(
      np.random.PCG64(int.from_bytes(digest[:8], 'little')))


def shapes(layout: str) -> dict:
  """Returns {name: shape} of a published checkpoint, such as 'tsn_r50'."""
  return json.loads(gzip.decompress(_SHAPES.read_bytes()))[layout]


def tensor(name: str, shape, seed: int = 0) -> np.ndarray:
  """Returns a weight in PyTorch's layout; name and rank say of what kind."""
  shape = tuple(shape)
  rng = _stream(seed, name)
  kind = name.rpartition('.')[2]
  if kind == 'num_batches_tracked':
    return np.zeros(shape, np.int64)
  if kind == 'running_var':
    values = 0.5 + rng.random(shape)
  elif kind in ('running_mean', 'bias'):
    values = 0.1 * rng.standard_normal(shape)
  elif len(shape) <= 1:  # A normalisation's scale.
    values = 0.3 + 0.4 * rng.random(shape)
  else:
    values = (math.sqrt(2.0 / math.prod(shape[1:]))
              * rng.standard_normal(shape))
  return values.astype(np.float32)


def state_dict(layout: str, seed: int = 0) -> dict:
  """Returns {name: array} of a published checkpoint."""
  return {name: tensor(name, shape, seed)
          for name, shape in shapes(layout).items()}


def clip(shape, seed: int = 0) -> np.ndarray:
  """Returns a standard normal float32 array."""
  rng = _stream(seed, f'input{tuple(shape)}')
  return rng.standard_normal(shape).astype(np.float32)


def variables(model, video_shape, seed: int = 0) -> dict:
  """Returns variables of a Flax model without running its initialisers."""
  import flax  # Only here: the rest needs NumPy alone.
  import jax
  tree = jax.eval_shape(model.init, jax.random.key(0),
                        jax.ShapeDtypeStruct(video_shape, np.float32))
  leaves = flax.traverse_util.flatten_dict(tree, sep='/')
  names = {'kernel': 'weight', 'scale': 'weight', 'var': 'running_var',
           'mean': 'running_mean'}

  def leaf(path, shape):
    stem, _, kind = path.rpartition('/')
    values = tensor(f'{stem}.{names.get(kind, kind)}', shape[::-1], seed)
    return values.transpose()

  return flax.traverse_util.unflatten_dict(
      {path: leaf(path, x.shape) for path, x in leaves.items()}, sep='/')


def difference(ours, reference) -> float:
  """Returns the largest difference over the largest reference value."""
  ours, reference = np.asarray(ours, np.float64), np.asarray(reference)
  assert ours.shape == reference.shape, (ours.shape, reference.shape)
  return float(np.abs(ours - reference).max() / np.abs(reference).max())


def from_published(module, input_shape, state, below, layout) -> dict:
  """Returns variables of a part of a model from published weights.

  Args:
    module: the part.
    input_shape: of what it is called with.
    state: {name: array} of weights in that layout.
    below: the part's path in the model.
    layout: one of `convert.layouts.LAYOUTS`.
  """
  import flax
  import jax

  from vidattn_jax.convert import layouts
  tree = jax.eval_shape(module.init, jax.random.key(0),
                        jax.ShapeDtypeStruct(input_shape, np.float32))
  leaves = {}
  for path, shape in flax.traverse_util.flatten_dict(tree, sep='/').items():
    inside = f'{below}/{path.partition("/")[2]}'.lstrip('/')
    name = layouts.torch_name(inside, layouts.LAYOUTS[layout])
    value = state[name]
    leaves[path] = value.transpose(layouts.axes(inside, value.ndim))
    assert leaves[path].shape == shape.shape, path
  return flax.traverse_util.unflatten_dict(leaves, sep='/')
