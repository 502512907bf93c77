"""Every attention unit in every backbone."""

import contextlib
import functools

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import attention
from vidattn_jax import models

pytestmark = pytest.mark.usefixtures('plain_forms')
SMALL = {'width': 1 / 8, 'num_classes': 5, 'num_frames': 32,
         'crop_size': (64, 96), 'dropout': 0.0}
# Networks of the same blocks as another one, only more or fewer of them.
ALIKE = ('tsn_r18', 'tsn_r50', 'tsn_r101', 'tsm_r50', 'tsm_r101', 'r3d_34',
         'r3d_50', 'r3d_101', 'r3d_152', 'slow_r18', 'slow_r50', 'slow_r101',
         'tsn_se_bninception', 'tstam', 'st_abn_r50', 'st_abn_r101', 'st_abn',
         'three_branch', 'scnn', 'rc3d')
SHALLOW = ('tsm_r18', 'r3d_18')
DEEP = tuple(name for name in models.MODELS if name not in (*ALIKE, *SHALLOW))
TRAINED = [('tsm_r18', 'CinST->STinC'), ('tsn_r50', 'S3D-G'),
           ('r3d_18', 'STA'), ('tsn_bninception', 'CBAM3D377'),
           *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (
               ('resnext3d_101', 'STA'), ('p3d_199', 'SA'), ('c3d', 'STC'),
               ('slow_r50', 'GE3D-DW333'),
               ('tsn_se_bninception', 'TA')))]


def _slow(slow, names=models.MODELS):
  return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name
          for name in names]


def _se(c):
  hidden = max(1, c // 16)
  return 2 * c * hidden, hidden + c


def _stc(c, t):
  hidden = max(1, c * t // 16)
  return _se(c)[0] + c * t * hidden + hidden * c


# Parameters of each unit in a place with C channels, T frames, H and W.
COUNTS = {
    **{unit: lambda c, t, h, w, gates=gates: 56 * gates for unit, gates in {
        'C': 1, 'ST': 3, 'C->ST': 4, 'ST->C': 4, 'C+ST': 4, 'CinST': 4,
        'STinC': 4, 'CinST->STinC': 8, 'STinC->CinST': 8,
        'CinST+STinC': 8}.items()},
    'SE3D': lambda c, t, h, w: _se(c)[0],
    'SENet-3D': lambda c, t, h, w: sum(_se(c)),
    'GE3D-G': lambda c, t, h, w: 0,
    'GE3D-DW133': lambda c, t, h, w: 3 * 9 * c + 6 * c,
    'GE3D-DW333': lambda c, t, h, w: 3 * 27 * c + 6 * c,
    'S3D-G': lambda c, t, h, w: c * c + c,
    'CBAM3D177': lambda c, t, h, w: sum(_se(c)) + 2 * 49 + 2,
    'CBAM3D377': lambda c, t, h, w: sum(_se(c)) + 2 * 3 * 49 + 2,
    'STA': lambda c, t, h, w: c * (h * w + 4) + 5,
    'TA': lambda c, t, h, w: c * h * w + 9,
    'SA': lambda c, t, h, w: c * (t * h * w + 4) + 5,
    'STC': lambda c, t, h, w: _stc(c, t),
}


def test_every_unit_has_its_formula():
  assert COUNTS.keys() == attention.ATTENTION.keys()


@functools.cache
def _last_stage(name):
  return models.get_model(name, attention='STA').backbone.keywords['stages']


def _build(name, unit, **kwargs):
  if unit and 'stages' not in kwargs:
    kwargs = {'stages': _last_stage(name), 'blocks': (-1,), **kwargs}
  return models.get_model(name, attention=unit, **SMALL, **kwargs)


@contextlib.contextmanager
def _watched():
  """Notes {path: shape of the clip} of the units that are called."""
  places = {}

  def note(call, args, kwargs, context):
    path = context.module.path
    if path[-1:] == ('attention',) and context.method_name == '__call__':
      places[path] = args[0].shape[1:]
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    yield places


def _shapes(model):
  """Returns ({place of a unit: shape}, {path: shape}), without running."""
  video = jax.ShapeDtypeStruct((1, *model.image_shape), np.float32)
  with _watched() as places:
    tree = jax.eval_shape(model.init, jax.random.key(0), video)
  leaves = traverse_util.flatten_dict(tree['params'])
  return places, {path: leaf.shape for path, leaf in leaves.items()}


def _check_counts(unit, places, with_unit, plain):
  """Checks that a network has plain's parameters and the unit's, no others."""
  assert places
  theirs = {path: shape for path, shape in with_unit.items()
            if 'attention' in path}
  assert {path: shape for path, shape in with_unit.items()
          if path not in theirs} == plain
  for place, (t, h, w, c) in places.items():
    count = sum(np.prod(shape, dtype=int) for path, shape in theirs.items()
                if path[:len(place)] == place)
    assert count == COUNTS[unit](c, t, h, w), place
  assert {path[:path.index('attention') + 1] for path in theirs} <= set(places)


@functools.cache
def _plain(name):
  return _shapes(_build(name, None))[1]


@pytest.mark.parametrize('unit', attention.ATTENTION)
@pytest.mark.parametrize('name', _slow(DEEP, (*SHALLOW, *DEEP)))
def test_where_its_paper_puts_it(name, unit):
  """Counts the whole network, with the unit in all blocks that it is for."""
  places, shapes = _shapes(_build(name, unit, stages=None))
  assert all('attention' in path or path in _plain(name) for path in shapes)
  _check_counts(unit, places, shapes, _plain(name))


# --- The last stage alone, for all pairs -------------------------------------


@functools.cache
def _trunk(name):
  """Returns {path: shape} of what the parts of the backbone return."""
  model, shapes = _build(name, None), {}

  def note(call, args, kwargs, context):
    y = call(*args, **kwargs)
    path = context.module.path
    if len(path) == 2 and path[0] == 'backbone':
      shapes[path] = y.shape
    return y

  with nn.intercept_methods(note):
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(
        (1, *model.image_shape), np.float32))
  return shapes


@functools.cache
def _features(shape):
  return seeded.clip(shape)


@contextlib.contextmanager
def _only(name, part):
  """Puts seeded features in the place of all parts of a backbone but one."""
  shapes = _trunk(name)

  def replace(call, args, kwargs, context):
    path = context.module.path
    if path in shapes and path != part:
      # Three branches pass two clips at once where they do not train.
      return _features((len(args[0]), *shapes[path][1:]))
    return call(*args, **kwargs)

  with nn.intercept_methods(replace):
    yield


def _run(name, unit, part):
  """Returns the logits, and what `_shapes` does, of a network's last part."""
  model = _build(name, unit)
  shape = (1, *model.image_shape)
  with _only(name, part), _watched() as places:
    variables = seeded.variables(model, shape)
    assert all(path[:2] == part for path in places)
    logits = model.apply(variables, jnp.zeros(shape))['logits']
  return np.asarray(logits), places, {
      path: leaf.shape for path, leaf in traverse_util.flatten_dict(
          variables['params']).items()}


@functools.cache
def _part(name):
  """Returns the path of the part of the backbone that gets the unit."""
  with _watched() as places:
    model = _build(name, 'GE3D-G')
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(
        (1, *model.image_shape), np.float32))
  (place,) = places
  return place[:2]


@functools.cache
def _run_plain(name):
  logits, _, shapes = _run(name, None, _part(name))
  return logits, shapes


@pytest.mark.parametrize('unit', attention.ATTENTION)
@pytest.mark.parametrize('name', _slow((*ALIKE, 'resnext3d_101', 'p3d_199')))
def test_a_pair_is_more_than_its_backbone(name, unit):
  logits, places, shapes = _run(name, unit, _part(name))
  plain, plain_shapes = _run_plain(name)
  assert len(places) == 1
  _check_counts(unit, places, shapes, plain_shapes)
  assert np.isfinite(logits).all()
  assert seeded.difference(logits, plain) > 1e-3


@pytest.mark.parametrize('name, unit', TRAINED)
def test_a_pair_trains(name, unit):
  model = _build(name, unit)
  video = np.zeros((2, *model.image_shape), np.float32)

  def loss(params, statistics):
    outputs, _ = model.apply({'params': params, 'batch_stats': statistics},
                             video, train=True, mutable=['batch_stats'])
    return -jax.nn.log_softmax(outputs['logits'])[np.arange(2), [0, 3]].mean()

  with _only(name, _part(name)):
    variables = seeded.variables(model, video.shape)
    params = variables['params']
    step = jax.jit(jax.value_and_grad(loss))
    statistics = variables.get('batch_stats', {})
    before, grads = step(params, statistics)
    after, _ = step(jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads),
                    statistics)
  assert after < before
  theirs = {path: np.abs(g).max() for path, g in traverse_util.flatten_dict(
      grads, sep='/').items() if '/attention/' in path}
  assert theirs
  assert all(size > 0 for size in theirs.values()), theirs
