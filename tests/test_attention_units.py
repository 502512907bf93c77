"""STA, TA, SA, STC and SENet-3D against a reference; what all units share."""

import functools
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import attention
from vidattn_jax.convert import layouts

TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 2e-4
BLOCK = 'backbone/layer1/block0/attention/'
SPELLED = {'sta': 'STA', 'ta': 'TA', 'sa': 'SA', 'se': 'SENet-3D',
           'stc': 'STC'}
SIZES = ('c8_l4_h3_w5', 'c16_l2_h7_w7', 'c32_l8_h5_w5', 'c64_l1_h4_w4')
CASES = [f'{kind}_{size}{suffix}' for size in SIZES for kind, suffix in (
    ('sta', ''), ('sta', '_s2'), ('sta', '_s3'), ('sta', '_deconv0'),
    ('ta', ''), ('sa', ''), ('se', '_r4'), ('stc', '_r4'))
         if not (kind in ('se', 'stc') and size.startswith('c64'))]


@pytest.fixture(scope='module')
def golden(data_dir):
  return np.load(data_dir / 'sta_modules_seed0.npz')


@pytest.fixture(scope='module', autouse=True)
def precise():
  with jax.default_matmul_precision('highest'):
    yield


def _clip(shape, seed=0):
  """Returns [N, T, H, W, C] of a shape (N, C, T, H, W)."""
  return jnp.asarray(seeded.clip(shape, seed).transpose(0, 2, 3, 4, 1))


def _published_order(y):
  return np.asarray(y).transpose(0, 4, 1, 2, 3)


def _published_name(path):
  """Returns 'conv1.weight' for 'params/conv1/kernel'."""
  name = layouts.torch_name(BLOCK + path.partition('/')[2],
                            layouts.LAYOUTS['aia'])
  return re.sub(r'^base_model\.layer1\.0\.(sta|gate)\.', '', name)


def _axes(path, ndim):
  return layouts.axes(BLOCK + path.partition('/')[2], ndim)


def _seed(unit, x):
  """Returns seeded weights, as the reference has them."""
  shapes = traverse_util.flatten_dict(
      jax.eval_shape(unit.init, jax.random.key(0), x), sep='/')

  def leaf(path, shape):
    axes = _axes(path, len(shape))
    published = tuple(shape[i] for i in np.argsort(axes))
    return seeded.tensor(_published_name(path), published).transpose(axes)

  return traverse_util.unflatten_dict(
      {path: leaf(path, x.shape) for path, x in shapes.items()}, sep='/')


def _build(case):
  """Returns the unit and its clip's shape of 'sta_c8_l4_h3_w5_s2'."""
  kind, *parts = case.split('_')
  sizes = {key: int(n) for key, n in (
      re.fullmatch(r'([a-z]+)(\d+)', part).groups() for part in parts)}
  options = {'s': 'step_size', 'r': 'reduction', 'deconv': 'deconv'}
  unit = attention.get_attention(SPELLED[kind], **{
      option: bool(sizes[key]) if key == 'deconv' else sizes[key]
      for key, option in options.items() if key in sizes})()
  return unit, (2, *(sizes[key] for key in 'clhw'))


def _sample(array, count):
  flat = np.asarray(array).reshape(-1)
  return flat[::max(1, flat.size // count)][:count]


def _run(case):
  """Returns {name of the reference: array}: values and gradients."""
  unit, shape = _build(case)
  x, g = _clip(shape), _clip(shape, 1000)
  variables = _seed(unit, x)

  def loss(variables, x):
    y, sown = unit.apply(variables, x, mutable=['intermediates'])
    return (y * g).sum(), (y, sown['intermediates'])

  (grads, dx), (y, sown) = jax.jit(
      jax.grad(loss, (0, 1), has_aux=True))(variables, x)
  gates = [gate[0] for gate in traverse_util.flatten_dict(sown).values()]
  gate = _published_order(sum(gates) / len(gates))
  results = {'weights': gate.reshape(gate.shape[:3]),
             'y_sample': _sample(_published_order(y), 256),
             'dx_sample': _sample(_published_order(dx), 256)}
  for path, d in traverse_util.flatten_dict(grads, sep='/').items():
    d = np.asarray(d).transpose(np.argsort(_axes(path, d.ndim)))
    results[f'd_{_published_name(path)}'] = (
        d if d.size <= 1024 else _sample(d, 512))
  return results


def _errors(golden, case):
  """Returns {name: error over what is allowed}."""
  results = _run(case)
  assert {f'{case}/{name}' for name in results} == {
      key for key in golden.files if key.startswith(f'{case}/')}
  return {name: seeded.difference(ours, golden[f'{case}/{name}'])
          / (GRADIENT_TOLERANCE if name.startswith('d') else TOLERANCE)
          for name, ours in results.items()}


def test_all_of_the_reference_is_checked(golden):
  assert {key.split('/')[0] for key in golden.files} == set(CASES)


@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients_equal_the_reference(golden, case):
  for name, error in _errors(golden, case).items():
    assert error < 1, name
