"""The units of Attention in Attention, and those it compares itself with.

The first are checked against the authors' code; the others, of which there is
none, against a reference in PyTorch that has the counts of the paper's table.
"""

import functools
import re

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import attention
from vidattn_jax.attention import aia
from vidattn_jax.attention import gates
from vidattn_jax.backbones import layers
from vidattn_jax.convert import layouts
from vidattn_jax.ops import planes
from vidattn_jax.ops import resizing

TOLERANCE = 2e-5
SPELLED = {'C': 'C', 'ST': 'ST', 'CinST': 'CinST', 'STinC': 'STinC',
           'C2ST': 'C->ST', 'ST2C': 'ST->C', 'CplusST': 'C+ST',
           'CinST2STinC': 'CinST->STinC', 'STinC2CinST': 'STinC->CinST',
           'STinCplusCinST': 'CinST+STinC'}
COMPARED = ('SE3D', 'GE3D-G', 'GE3D-DW133', 'GE3D-DW333', 'S3D-G',
            'CBAM3D177', 'CBAM3D377')
TRAINED = ('C', 'ST', 'CinST', 'STinC', 'CinST2STinC', 'GE3D-DW333',
           'CBAM3D377')
CASES = {'a': ((8, 16, 14, 12), np.s_[::2, ::3, ::2, ::2]),
         'b': ((16, 64, 14, 14), np.s_[::3, ::9, ::4, ::4])}
# Axes of our gates in the order of theirs.
GATE_AXES = {'C': (0, 1, 2, 3), 'T': (0, 3, 1, 2), 'H': (0, 1, 3, 2),
             'W': (0, 1, 2, 3)}
BLOCK = 'backbone/layer1/block0/attention/'


@pytest.fixture(scope='module')
def golden(data_dir):
  return np.load(data_dir / 'aia_modules.npz')


@pytest.fixture(scope='module', autouse=True)
def precise():
  with jax.default_matmul_precision('highest'):
    yield


def _clip(case):
  """Returns [N, T, H, W, C], and the way back to the published order."""
  shape, _ = CASES[case]
  x = seeded.clip(shape).transpose(0, 2, 3, 1)
  return jnp.asarray(x.reshape(-1, 8, *x.shape[1:]))


def _published_order(y):
  return np.asarray(y).reshape(-1, *y.shape[2:]).transpose(0, 3, 1, 2)


def _published_name(path):
  """Returns 'eft1.C_conv.weight' for 'eft1/C/conv/kernel'."""
  name = layouts.torch_name(BLOCK + path, layouts.LAYOUTS['aia'])
  return re.sub(r'^base_model\.layer1\.0\.((eft|gate)\.)?', '', name)


@functools.cache
def _unit(name, case='a'):
  """Returns the unit and the seeded weights of the reference."""
  unit = attention.get_attention(SPELLED.get(name, name))()
  shapes = traverse_util.flatten_dict(
      jax.eval_shape(unit.init, jax.random.key(0), _clip(case)), sep='/')

  def leaf(path, shape):
    path = path.partition('/')[2]
    axes = layouts.axes(BLOCK + path, len(shape))
    inverse = np.argsort(axes)
    published = tuple(shape[i] for i in inverse)
    return seeded.tensor(f'{name}.{_published_name(path)}', published
                         ).transpose(axes)

  return unit, traverse_util.unflatten_dict(
      {path: leaf(path, x.shape) for path, x in shapes.items()}, sep='/')


def _apply(name, case, variables=None, **kwargs):
  unit, seeds = _unit(name, case)
  return unit.apply(variables or seeds, _clip(case), **kwargs)


def _error(golden, name, case, variables=None):
  y = _published_order(_apply(name, case, variables))
  key = f'{name}/{case}/y'
  if key in golden:
    return seeded.difference(y, golden[key])
  return seeded.difference(y[CASES[case][1]], golden[f'{key}_sub'])


def test_seeded_weights_are_those_of_the_reference(golden):
  _, variables = _unit('ST')
  for gate in 'THW':
    axes = layouts.axes(f'{BLOCK}{gate}/conv/kernel', 5)
    np.testing.assert_array_equal(
        variables['params'][gate]['conv']['kernel'],
        golden[f'ST/state/{gate}_conv.weight'].transpose(axes))
  _, variables = _unit('CBAM3D377', 'b')
  np.testing.assert_array_equal(
      variables['params']['spatial']['conv']['kernel'],
      golden['CBAM3D377/b/state/conv.weight'].transpose(2, 3, 4, 1, 0))


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('name', [*SPELLED, *COMPARED])
def test_output_equals_the_published_code(golden, name, case):
  assert _error(golden, name, case) < TOLERANCE


@pytest.mark.parametrize('name', ['C', 'ST', 'CinST', 'STinC'])
def test_gates_equal_the_published_code(golden, name):
  _, sown = _apply(name, 'a', mutable=['intermediates'])
  assert sorted(sown['intermediates']) == sorted(
      'C' if name == 'C' else 'THW' if name == 'ST' else 'CTHW')
  for gate, leaf in sown['intermediates'].items():
    ours = leaf['gate'][0].transpose(GATE_AXES[gate])
    assert seeded.difference(ours, golden[f'{name}/a/gate_{gate}']) < TOLERANCE


@pytest.mark.parametrize('name', ['SE3D', 'GE3D-G', 'S3D-G', 'CBAM3D177',
                                  'CBAM3D377'])
def test_gates_of_the_compared_units_equal_the_reference(golden, name):
  _, sown = _apply(name, 'a', mutable=['intermediates'])
  sown = traverse_util.flatten_dict(sown['intermediates'], sep='/')
  assert len(sown) == (2 if name.startswith('CBAM') else 1)
  for path, (gate,) in sown.items():
    # 'channel/gate' is called gate_channel.
    kind = '_'.join(reversed(path.split('/')))
    wanted = golden[f'{name}/a/{kind}']
    ours = gate[..., 0] if 'spatial' in kind else gate[:, 0, 0, 0]
    assert seeded.difference(ours, wanted) < TOLERANCE


@pytest.mark.parametrize('name', TRAINED)
def test_training_equals_the_published_code(golden, name):
  _, variables = _unit(name, 'b')
  counts = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm):
      path = '/'.join(context.module.path)
      counts[path] = args[0].size // args[0].shape[-1]
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    y, changed = _apply(name, 'b', train=True, mutable=['batch_stats'])
  y = _published_order(y)[CASES['b'][1]]
  assert seeded.difference(y, golden[f'{name}/b/train_y_sub']) < TOLERANCE

  before = traverse_util.flatten_dict(variables['batch_stats'], sep='/')
  after = traverse_util.flatten_dict(changed['batch_stats'], sep='/')
  assert after
  for path, value in after.items():
    if path.endswith('/var'):
      # Flax keeps the biased variance, torch the unbiased one.
      count = counts[path.removesuffix('/var')]
      old = 0.9 * before[path]
      value = old + (value - old) * count / (count - 1)
    wanted = golden[f'{name}/b/train_state/{_published_name(path)}']
    assert seeded.difference(value, wanted) < TOLERANCE, path


# --- What must not pass ------------------------------------------------------


def _swap_pools(monkeypatch):
  pool, pool_gated = planes.pool_planes, planes.pool_gated

  def swapped(x, gates, axes):
    found, x = pool_gated(x, gates, axes)
    return {axis: pooled[:, ::-1] for axis, pooled in found.items()}, x

  monkeypatch.setattr(planes, 'pool_planes', lambda x, a: pool(x, a)[:, ::-1])
  monkeypatch.setattr(planes, 'pool_gated', swapped)


def _drop_norm(monkeypatch):
  class Identity(nn.Module):
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: object = None

    def __call__(self, x, use_running_average):
      return x

  class Sigmoid(Identity):

    def __call__(self, x, use_running_average):
      return nn.sigmoid(x[..., 0])

  monkeypatch.setattr(nn, 'BatchNorm', Identity)
  monkeypatch.setattr(layers, 'norm', Identity)
  monkeypatch.setattr(layers, 'norm_sigmoid', Sigmoid)


def _sum_gates(monkeypatch):
  apply = planes.apply_gates
  monkeypatch.setattr(planes, 'apply_gates',
                      lambda x, gates: apply(x, gates) * len(gates))


def _gate_what_is_gated(monkeypatch):
  # The last product with z, the gated clip, instead of with x.
  pool, apply = planes.pool_gated, planes.apply_gates

  def mutant(x, gates, axes):
    return pool(apply(x, gates) if gates else x, {}, axes)

  monkeypatch.setattr(planes, 'pool_gated', mutant)


def _pool_what_is_not_gated(monkeypatch):
  pool = planes.pool_gated
  monkeypatch.setattr(planes, 'pool_gated',
                      lambda x, gates, axes: pool(x, {}, axes))


def _do_nothing(monkeypatch):
  monkeypatch.setattr(gates, 'apply_gate', lambda unit, x, gate: x)


def _drop_relu(monkeypatch):
  monkeypatch.setattr(nn, 'relu', lambda x: x)


def _pool_each_frame(monkeypatch):
  # Means over height and width; of these, the first frame's.
  monkeypatch.setattr(gates, '_mean', lambda x: x.mean((2, 3))[:, 0])


def _stride_time(monkeypatch):
  conv = nn.Conv
  monkeypatch.setattr(nn, 'Conv', lambda features, size, stride, *args, **kw:
                      conv(features, size, (2, *stride[1:]), *args, **kw))
  monkeypatch.setattr(
      resizing, 'upsample_nearest', lambda x, sizes: jnp.repeat(
          jnp.repeat(jnp.repeat(x, 8 // x.shape[1], 1),
                     -(-sizes[2] // x.shape[2]), 2)[:, :, :sizes[2]],
          -(-sizes[3] // x.shape[3]), 3)[:, :, :, :sizes[3]])


def _upsample_smoothly(monkeypatch):
  monkeypatch.setattr(
      resizing, 'upsample_nearest', lambda x, sizes: jax.image.resize(
          x, (*x.shape[:2], *sizes.values(), x.shape[4]), 'linear'))


@pytest.mark.parametrize('mutate, name', [
    (_swap_pools, 'C'), (_swap_pools, 'ST'), (_drop_norm, 'C'),
    (_drop_norm, 'STinC'), (_sum_gates, 'ST'), (_gate_what_is_gated, 'CinST'),
    (_gate_what_is_gated, 'STinC'), (_pool_what_is_not_gated, 'CinST'),
    (_pool_what_is_not_gated, 'STinC'),
    *((_do_nothing, name) for name in COMPARED), (_swap_pools, 'CBAM3D177'),
    (_drop_norm, 'GE3D-DW133'), (_drop_norm, 'CBAM3D377'),
    (_drop_relu, 'SE3D'), (_drop_relu, 'GE3D-DW133'),
    (_drop_relu, 'CBAM3D377'), (_pool_each_frame, 'SE3D'),
    (_pool_each_frame, 'GE3D-G'), (_pool_each_frame, 'S3D-G'),
    (_pool_each_frame, 'CBAM3D177'), (_stride_time, 'GE3D-DW333'),
    (_upsample_smoothly, 'GE3D-DW133')])
def test_a_mutant_of_the_code_is_caught(golden, monkeypatch, mutate, name):
  assert max(_error(golden, name, case) for case in CASES) < TOLERANCE
  mutate(monkeypatch)
  # The narrow case leaves one number between two layers, which may pass a
  # ReLU unharmed.
  assert max(_error(golden, name, case) for case in CASES) > 10 * TOLERANCE


@pytest.mark.parametrize('gate', 'CTHW')
@pytest.mark.parametrize('change', [
    lambda k: k.transpose(1, 0, 2, 3, 4), lambda k: k.transpose(0, 2, 1, 3, 4),
    lambda k: k[::-1], lambda k: k[:, ::-1], lambda k: k[:, :, ::-1]])
def test_a_wrong_kernel_axis_is_caught(golden, gate, change):
  name = 'C' if gate == 'C' else 'ST'
  _, variables = _unit(name)
  params = {g: leaf if g != gate else
            {**leaf, 'conv': {'kernel': change(leaf['conv']['kernel'])}}
            for g, leaf in variables['params'].items()}
  error = _error(golden, name, 'a', {**variables, 'params': params})
  assert error > 10 * TOLERANCE


@pytest.mark.parametrize('name, kernel', [
    ('CBAM3D377', ('spatial', 'conv')), ('GE3D-DW333', ('depthwise2',))])
@pytest.mark.parametrize('change', [
    lambda k: k.swapaxes(1, 2), lambda k: k[::-1], lambda k: k[:, ::-1],
    lambda k: k[:, :, ::-1]])
def test_a_wrong_axis_in_a_compared_unit_is_caught(golden, name, kernel,
                                                   change):
  _, variables = _unit(name)
  params = traverse_util.flatten_dict(variables['params'])
  params[(*kernel, 'kernel')] = change(params[(*kernel, 'kernel')])
  params = traverse_util.unflatten_dict(params)
  error = _error(golden, name, 'a', {**variables, 'params': params})
  assert error > 10 * TOLERANCE


# --- Initial weights, names --------------------------------------------------


@pytest.mark.parametrize('name, kaiming', [
    ('C', 'C'), ('ST', 'THW'), ('CinST', 'C'), ('STinC', 'THW')])
def test_guests_start_by_kaiming_and_hosts_by_xavier(name, kaiming):
  unit = attention.get_attention(name)()
  x = jnp.zeros((1, 2, 2, 2, 2))
  init = jax.jit(jax.vmap(lambda key: unit.init(key, x)['params']))
  params = init(jax.random.split(jax.random.key(0), 200))
  for gate, leaf in params.items():
    # Fan out 27: sqrt(2 / 27). Fans 54 and 27: sqrt(2 / 81).
    expected = (2 / (27 if gate in kaiming else 81)) ** 0.5
    std = float(np.std(leaf['conv']['kernel']))
    assert abs(std / expected - 1) < 0.03, gate
    assert (leaf['bn']['scale'] == 1).all()
    assert not leaf['bn']['bias'].any()


@pytest.mark.parametrize('name, count', [
    ('C', 56), ('ST', 168), ('CinST', 224), ('STinC', 224), ('C->ST', 224),
    ('ST->C', 224), ('C+ST', 224), ('CinST->STinC', 448),
    ('STinC->CinST', 448), ('CinST+STinC', 448)])
def test_number_of_parameters(name, count):
  assert set(aia.UNITS) == set(SPELLED.values())
  shapes = jax.eval_shape(attention.get_attention(name)().init,
                          jax.random.key(0), jnp.zeros((1, 2, 3, 4, 5)))
  assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == count


def test_unknown_names_are_answered_with_the_nearest():
  with pytest.raises(ValueError, match="'CinSTT'; did you mean CinST"):
    attention.get_attention('CinSTT')
  with pytest.raises(ValueError, match='no option of the attention unit C '):
    attention.get_attention('C', ratio=4)


def test_computes_in_bfloat16_with_float32_parameters_and_statistics():
  unit = attention.get_attention('CinST->STinC')(dtype=jnp.bfloat16)
  _, variables = _unit('CinST2STinC')
  x = _clip('a')
  y, changed = unit.apply(variables, x.astype(jnp.bfloat16), train=True,
                          mutable=['batch_stats'])
  assert y.dtype == jnp.bfloat16
  assert {s.dtype for s in jax.tree.leaves(changed)} == {jnp.dtype('float32')}
  exact, _ = unit.clone(dtype=jnp.float32).apply(
      variables, x, train=True, mutable=['batch_stats'])
  assert 1e-4 < seeded.difference(y.astype(jnp.float32), exact) < 3e-2
