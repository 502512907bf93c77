"""STA, TA, SA, STC and SENet-3D against a reference; what all units share."""

import functools
import math
import re

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import attention
from vidattn_jax import models
from vidattn_jax.attention import gates
from vidattn_jax.attention import sta
from vidattn_jax.backbones import layers
from vidattn_jax.convert import layouts
from vidattn_jax.ops import resizing

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


# --- What must not pass -------------------------------------------------------


def _do_nothing(monkeypatch):
  apply = gates.apply_gate
  monkeypatch.setattr(gates, 'apply_gate', lambda unit, x, gate: apply(
      unit, x, gate) * 0 + x)


def _drop_relu(monkeypatch):
  monkeypatch.setattr(nn, 'relu', lambda x: x)


def _flip_taps(monkeypatch):
  transposed = nn.ConvTranspose
  monkeypatch.setattr(nn, 'ConvTranspose', lambda *args, **kwargs: transposed(
      *args, **{**kwargs, 'transpose_kernel': False}))


def _swap_height_and_width(monkeypatch):
  contract = sta._contract
  monkeypatch.setattr(sta, '_contract', lambda lhs, *args, **kwargs: contract(
      lhs.swapaxes(2, 3), *args, **kwargs))


def _pool_by_maximum(monkeypatch):
  monkeypatch.setattr(layers.GlobalAveragePool, '__call__',
                      lambda self, x, train=False: x.max(self.axes))


def _error_of_the_output(golden, case):
  return max(_errors(golden, case)[name] for name in ('weights', 'y_sample'))


@pytest.mark.parametrize('mutate, cases', [
    (_do_nothing, ('sta_{}', 'ta_{}', 'sa_{}', 'se_{}_r4')),
    (_drop_relu, ('sta_{}', 'sta_{}_deconv0', 'se_{}_r4', 'stc_{}_r4')),
    (_flip_taps, ('sta_{}', 'sta_{}_s2', 'ta_{}', 'sa_{}')),
    (_swap_height_and_width, ('sta_{}', 'ta_{}', 'sa_{}')),
    (_pool_by_maximum, ('se_{}_r4', 'stc_{}_r4'))])
def test_a_mutant_of_the_code_is_caught(golden, monkeypatch, mutate, cases):
  mutate(monkeypatch)
  for case in cases:
    assert _error_of_the_output(golden, case.format('c16_l2_h7_w7')) > 10, case


# --- Options ------------------------------------------------------------------


@pytest.mark.parametrize('name, size, count', [
    ('STA', (2048, 4, 4, 4), 40_965), ('TA', (2048, 4, 4, 4), 32_777),
    ('SA', (2048, 4, 4, 4), 139_269), ('STC', (2048, 4, 4, 4), 5_767_168),
    ('SENet-3D', (2048, 4, 4, 4), 526_464),
    ('STA', (1024, 8, 7, 7), 54_277), ('TA', (1024, 8, 7, 7), 50_185),
    ('SA', (1024, 8, 7, 7), 405_509), ('STC', (1024, 8, 7, 7), 4_849_664),
    ('SENet-3D', (1024, 8, 7, 7), 132_160),
    ('STA', (512, 2, 7, 7), 27_141), ('TA', (512, 2, 7, 7), 25_097),
    ('SA', (512, 2, 7, 7), 52_229), ('STC', (512, 2, 7, 7), 131_072),
    ('SENet-3D', (512, 2, 7, 7), 33_312)])
def test_counts_of_the_paper(name, size, count):
  c, *clip = size
  shapes = jax.eval_shape(attention.get_attention(name)().init,
                          jax.random.key(0), jnp.zeros((1, *clip, c)))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def _bins(x, size):
  """Averages along the first axis in torch's bins, one after the other."""
  n = len(x)
  return np.stack([x[i * n // size:math.ceil((i + 1) * n / size)].mean(0)
                   for i in range(size)])


@pytest.mark.parametrize('old, new', [
    (6, 6), (6, 3), (7, 3), (5, 4), (3, 7), (1, 4), (4, 1), (9, 2)])
def test_adaptive_average_pool_has_the_bins_of_torch(old, new):
  x = seeded.clip((old, 2, old, 3))
  np.testing.assert_allclose(resizing.adaptive_average_pool(x, {0: new}),
                             _bins(x, new), rtol=1e-5, atol=1e-6)
  both = _bins(_bins(x, new).transpose(2, 1, 0, 3), 2).transpose(2, 1, 0, 3)
  np.testing.assert_allclose(
      resizing.adaptive_average_pool(x, {0: new, 2: 2}), both, rtol=1e-5,
      atol=1e-6)


@pytest.mark.parametrize('old, new', [(2, 14), (3, 7), (4, 4), (1, 5), (5, 9)])
def test_upsampling_takes_the_nearest_from_below(old, new):
  x = seeded.clip((2, old, 3))
  wanted = x[:, [math.floor(i * old / new) for i in range(new)]]
  np.testing.assert_array_equal(resizing.upsample_nearest(x, {1: new}), wanted)


TIED = {'STA': ((3, 6, 6), (7, 6, 6), (3, 9, 5), 'crop_size'),
        'TA': ((3, 6, 6), (7, 6, 6), (3, 9, 5), 'crop_size'),
        'SA': ((3, 6, 6), None, (4, 6, 6), 'num_frames and crop_size'),
        'STC': ((3, 6, 6), (3, 9, 5), (6, 6, 6), 'num_frames')}


@pytest.mark.parametrize('name', TIED)
def test_a_unit_tied_to_a_size_says_so_at_another(name):
  made, free, other, mend = TIED[name]
  unit = attention.get_attention(name, pool=False)()
  variables = _seed(unit, _clip((1, 8, *made)))
  if free:
    assert unit.apply(variables, jnp.ones((1, *free, 8))).shape[1:4] == free
  axes = [axis for axis in (0, 1, 2) if axis in attention.TIED[name]]
  built, met = (re.escape(str(tuple(size[axis] for axis in axes)))
                for size in (made, other))
  with pytest.raises(ValueError, match=(
      f'attention unit {name} .*{built} .*meets {met}; set {mend} to .*pool')):
    unit.apply(variables, jnp.ones((1, *other, 8)))


@pytest.mark.parametrize('name', TIED)
def test_pooling_makes_any_size_do(name):
  made, _, other, _ = TIED[name]
  unit = attention.get_attention(name, pool=True)()
  x = _clip((2, 8, *made))
  variables = _seed(unit, x)
  plain = attention.get_attention(name)()
  np.testing.assert_array_equal(unit.apply(variables, x),
                                plain.apply(variables, x))
  # The gate is that of the clip in bins; the clip keeps its size.
  larger = _clip((2, 8, *other))
  pooled = np.asarray(larger)
  for axis in attention.TIED[name]:
    pooled = np.moveaxis(_bins(np.moveaxis(pooled, axis + 1, 0), made[axis]),
                         0, axis + 1)

  def gate(unit, x):
    y, sown = unit.apply(variables, x, mutable=['intermediates'])
    gates = [g[0] for g in jax.tree.leaves(
        sown['intermediates'], is_leaf=lambda g: isinstance(g, tuple))]
    return y, sum(gates) / len(gates)

  y, found = gate(unit, larger)
  _, wanted = gate(plain, jnp.asarray(pooled))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  np.testing.assert_allclose(y, larger * wanted, rtol=1e-5)


def test_networks_with_a_tied_unit_are_made_for_their_crop():
  model = models.get_model('tsn_r18', width=1 / 16, num_classes=3,
                           attention='STA', num_frames=2, crop_size=64)
  shape = (1, 2, 64, 64, 3)
  variables = seeded.variables(model, shape)
  blocks = {path[:3] for path in traverse_util.flatten_dict(
      variables['params']) if 'attention' in path}
  assert blocks == {('backbone', 'layer4', f'block{i}') for i in (0, 1)}
  assert model.apply(variables, jnp.ones((1, 5, 64, 64, 3)))['logits'].shape
  with pytest.raises(ValueError, match=(
      r'STA at backbone/layer4/block0/attention .*\(2, 2\) \(height, width\) '
      r'and meets \(3, 3\); set crop_size')):
    model.apply(variables, jnp.ones((1, 2, 96, 96, 3)))
  with pytest.raises(ValueError, match='made for clips of .*set num_frames'):
    jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 2, 96, 96, 3)))
  pooling = model.clone(backbone=functools.partial(
      model.backbone, attention=attention.get_attention('STA', pool=True)))
  assert pooling.apply(variables, jnp.ones((1, 2, 96, 96, 3)))['logits'].shape


@pytest.mark.parametrize('first, second', [
    ((0, 1, 0, 1), (0, 1, 2, 2)), ((0, 0, 2, 1), (0, 1, 0, 0)),
    ((0, 1, 0, 2), (0, 1, 2, 1))])
def test_the_gradient_of_the_largest_goes_to_the_first_of_equals(first, second):
  unit = gates.ChannelGate(reduction=1)
  x = jnp.zeros((1, 2, 3, 3, 8)).at[first].set(1).at[second].set(1)
  variables = _seed(unit, x)

  def gate(x):
    _, sown = unit.apply(variables, x, mutable=['intermediates'])
    return sown['intermediates']['gate'][0].sum()

  # Means pass the same gradient to all; the largest adds to one place.
  gradient = jax.grad(gate)(x)
  excess = gradient - gradient[0, 0, 0, 0]
  assert (np.abs(excess[first]) > 1e-3).all()
  np.testing.assert_allclose(excess.at[first].set(0), 0, atol=1e-7)


def test_step_size_must_be_positive():
  with pytest.raises(ValueError, match='step_size is 0; it must be 1'):
    attention.get_attention('STA', step_size=0)().init(
        jax.random.key(0), jnp.ones((1, 2, 3, 3, 4)))


def test_unknown_options_are_answered_with_the_nearest():
  for name, option, hint in (('STA', 'stepsize', 'step_size'),
                             ('STC', 'reducton', 'reduction'),
                             ('GE3D-G', 'near_identiy', 'near_identity')):
    with pytest.raises(ValueError, match=f'of the attention unit {name} .*'
                                         f'did you mean {hint}'):
      attention.get_attention(name, **{option: 1})
  # What makes the unit what it is called is no option.
  with pytest.raises(ValueError, match='there are near_identity, reduction'):
    attention.get_attention('SE3D', use_bias=True)


@pytest.mark.parametrize('name', attention.ATTENTION)
def test_computes_in_bfloat16(name):
  x = _clip((2, 16, 3, 6, 6))
  unit = attention.get_attention(name)()
  variables = _seed(unit, x)
  half = unit.clone(dtype=jnp.bfloat16)
  y = half.apply(variables, x.astype(jnp.bfloat16))
  assert y.dtype == jnp.bfloat16
  error = seeded.difference(y.astype(jnp.float32), unit.apply(variables, x))
  assert 1e-5 < error < 2e-2
