"""Kernels for TPUs: the same numbers as the plain forms, interpreted here."""

import functools
import importlib.util
import os
import re

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest
import small

from vidattn_jax.attention import aia
from vidattn_jax.backbones import resnet
from vidattn_jax.ops import chains
from vidattn_jax.ops import clip_kernels
from vidattn_jax.ops import normalized
from vidattn_jax.ops import per_device
from vidattn_jax.ops import plane_convolution
from vidattn_jax.ops import plane_kernels
from vidattn_jax.ops import planes
from vidattn_jax.ops import platform
from vidattn_jax.training import programs
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib

# In the rows of registers: channels, some or all of them at a time; frames.
WIDE, WHOLE, NARROW = (8, 3, 2, 4, 256), (3, 4, 5, 3, 24), (64, 4, 3, 5, 6)
THW, GIVEN = (1, 2, 3), clip_kernels.GIVEN
SHAPES = pytest.mark.parametrize('shape', [WIDE, WHOLE, NARROW])
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def _random(shape, seed=0, decimals=None):
  x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
  return jnp.asarray(x if decimals is None else x.round(decimals))


def _error(found, wanted):
  """Returns the largest difference, in parts of the largest value wanted."""
  found, wanted = (np.asarray(a, np.float64) for a in (found, wanted))
  return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.fixture
def interpreted(monkeypatch, compile_for):
  """Has the kernels chosen, and interpreted; notes which were."""
  chosen, by_platform = [], platform.by_platform

  def choose(on_cpu, plain, *args, on_accelerator=None, on_tpu=None):
    if on_tpu is None:
      return by_platform(on_cpu, plain, *args, on_accelerator=on_accelerator)
    function = getattr(on_tpu, 'func', on_tpu)
    chosen.append(function.__module__.split('.')[-1] + '.' + function.__name__)
    if function == clip_kernels.apply and args[1] is not None:
      chosen.append('norm')
    return functools.partial(on_tpu, interpret=True)(*args)

  monkeypatch.setattr(platform, 'by_platform', choose)
  compile_for('tpu')
  return chosen


def _gates(shape, axes, seed=0):
  return {axis: jax.nn.sigmoid(_random(np.delete(shape, axis),
                                       10 + seed + axis))
          for axis in axes}


@SHAPES
@pytest.mark.parametrize('axes, gated, dtype', [
    ((4,), [(1, 2, 3)], jnp.float32), ((1, 2, 3), [(4,)], jnp.bfloat16),
    ((4,), [(1, 2, 3), (1, 2, 3)], jnp.float32),
    slow((4,), [], jnp.bfloat16), slow((1, 2, 3), [], jnp.float32),
    slow((4,), [(1, 2, 3)], jnp.bfloat16),
    slow((1, 2, 3), [(4,)], jnp.float32), slow((2,), [(1,)], jnp.float32),
    slow((1, 2, 3), [(4,), (1, 2, 3)], jnp.bfloat16)])
def test_pool(shape, axes, gated, dtype):
  # With one decimal, many numbers are equal: the first of them counts.
  x = _random(shape, decimals=1).astype(dtype)
  # Numbers that are exact, so that equal ones stay equal.
  norm = _random((3, shape[4]), 7).round() if len(gated) > 1 else None
  groups = [{axis: gate.astype(dtype) for axis, gate in
             _gates(shape, of, 10 * i).items()} for i, of in enumerate(gated)]
  found = clip_kernels.pool(x, norm, groups, axes, interpret=True)
  z = functools.reduce(planes.times_mean, groups, normalized.value(x, norm))
  for axis in axes:
    largest, place, total = planes._pool_plain(z, axis)
    pooled, places = found[axis]
    # In bfloat16 three gates may be added up in more than one way.
    exact = all(len(of) < 2 for of in gated)
    bound = 0 if exact else 2e-6 if dtype == jnp.float32 else 2e-2
    assert _error(pooled[:, 0], largest) <= bound
    assert (places == place).mean() >= (1 if exact else 0.9)
    assert _error(pooled[:, 1], total / shape[axis]) < (
        2e-6 if dtype == jnp.float32 else 2e-2)


# Axes of groups, and of planes; terms; targets; whether their sum is written.
TERMS = {
    'gates': ([THW], [], [(GIVEN, (0,))], (), True),
    'two groups': ([THW, (4,)], [], [(GIVEN, (0, 1))], (0, 1), False),
    'planes': ([(4,)], [THW], [(0, (0,))], (0,), False),
    'of one group': ([THW, THW], [THW, (4,)], [(0, (0,)), (1, (1, 0))], (0,),
                     False),
    'all': ([(4,), THW, THW, (4,)], [(4,), THW, THW, (4,)],
            [(GIVEN, (1, 3)), (3, (1, 2)), (2, (1,)), (1, (0,)), (0, ())], (),
            True),
    'some': ([(1,), (3, 4)], [(2,)], [(0, (0,)), (GIVEN, (0, 1))], (0, 1),
             True),
}


@SHAPES
@pytest.mark.parametrize('name, normed', [
    ('two groups', True), ('all', True), slow('all', False),
    *(slow(n, normed) for normed in (True, False) for n in (
        'gates', 'planes', 'of one group', 'some'))])
def test_gradients(shape, name, normed):
  x, given = _random(shape), _random(shape, 1)
  gated, pooled, terms, targets, writes = TERMS[name]
  groups = {i: _gates(shape, of, 10 * i) for i, of in enumerate(gated)}
  spread = {}
  for i, of in enumerate(pooled):
    found = clip_kernels.pool(_random(shape, 100 + i), None, [], of,
                              interpret=True)
    spread[i] = {axis: (_random(p.shape, 100 * i + axis), place)
                 for axis, (p, place) in found.items()}
  clip = normalized.Clip(x, _random((3, shape[4]), 7) if normed else None)
  wanted = chains._gradients(clip, given, groups, spread, tuple(terms), targets,
                             writes)
  found = clip_kernels.gradients(*clip, given, groups, spread, tuple(terms),
                                 targets, writes, interpret=True)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for ours, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted),
                         strict=True):
    assert _error(ours, other) < 1e-5


@SHAPES
def test_gating(shape):
  clip = normalized.Clip(_random(shape), _random((3, shape[4]), 7))
  groups = [_gates(shape, THW), _gates(shape, (4,), 10)]
  found = clip_kernels.apply(*clip, groups, interpret=True)
  assert _error(found, chains._apply(clip, groups)) < 1e-6


@pytest.mark.parametrize('shape', [
    (8, 4, 5, 64), (3, 2, 3, 128), slow((16, 3, 2, 7)), slow((1, 1, 1, 130))])
def test_convolution_and_its_gradients(shape):
  n, *axes = shape
  x, g = _random((n, 2, *axes)), _random(shape, 1)
  kernel = _random((3, 3, 3, 2, 1), 2)
  wanted, pullback = jax.vjp(
      lambda x, k: plane_convolution._convolve_plain(x, k)[:, 0], x, kernel)
  assert _error(plane_kernels.convolve(x, kernel, interpret=True)[:, 0],
                wanted) < 2e-6
  for ours, other in zip(
      plane_kernels.gradients(x, kernel, g, interpret=True), pullback(g),
      strict=True):
    assert _error(ours, other) < 5e-6


def _value_and_gradients(unit, variables, x, g, train=True):
  def loss(params, x):
    y, updated = unit.apply({**variables, 'params': params}, x, train=train,
                            mutable=['batch_stats'])
    return (y * g).sum(), (y, updated)

  (_, (y, updated)), grads = jax.value_and_grad(
      loss, (0, 1), has_aux=True)(variables['params'], x)
  return y, updated, grads


def _unit(name, shape):
  unit, x = aia.UNITS[name](), _random(shape)
  return unit, unit.init(jax.random.key(0), x), x, _random(shape, 1)


def _compare(found, wanted):
  """Outputs and statistics at 2e-5, gradients at 2e-4 of the largest."""
  for ours, other in zip(jax.tree.leaves(found[:2]),
                         jax.tree.leaves(wanted[:2]), strict=True):
    assert _error(ours, other) < 2e-5
  for ours, other in zip(found[2], wanted[2], strict=True):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(other),
                    strict=True):
      assert np.abs(a - b).max() < 2e-4 * largest


@pytest.mark.parametrize('name, shape', [
    ('ST', WIDE), ('CinST', NARROW),
    slow('C', NARROW), slow('CinST->STinC', WIDE), slow('STinC->CinST', NARROW),
    slow('CinST+STinC', WHOLE)])
def test_units_have_the_same_numbers(name, shape, request):
  unit, variables, x, g = _unit(name, shape)
  wanted = jax.jit(functools.partial(_value_and_gradients, unit))(
      variables, x, g)
  chosen = request.getfixturevalue('interpreted')
  found = jax.jit(functools.partial(_value_and_gradients, unit))(
      variables, x, g)
  assert {'clip_kernels.pool', 'clip_kernels.apply', 'clip_kernels.gradients',
          'plane_kernels.convolve', 'plane_kernels.gradients'} == set(chosen)
  _compare(found, wanted)


@pytest.mark.parametrize('bottleneck, name, shape', [
    (True, 'CinST->STinC', NARROW), slow(False, 'CinST', NARROW),
    slow(True, 'STinC->CinST', (8, 3, 2, 4, 128))])
def test_a_block_that_leaves_its_norm_to_the_unit(bottleneck, name, shape,
                                                  request):
  block = resnet.Block(width=shape[4], expansion=1, bottleneck=bottleneck,
                       attention=aia.UNITS[name], temporal=(1, 1, 1))
  x = _random(shape)
  variables = block.init(jax.random.key(0), x)
  # Other than what BatchNorm begins with.
  variables = jax.tree.map(
      lambda a: a + 0.3 * jnp.abs(_random(a.shape, a.size)), variables)
  calls = [jax.jit(functools.partial(_value_and_gradients, block, train=train))
           for train in (True, False)]
  g = _random(shape, 1)
  wanted = [call(variables, x, g) for call in calls]
  chosen = request.getfixturevalue('interpreted')
  for call, other in zip(calls, wanted):
    _compare(call(variables, x, g), other)
  assert 'norm' in chosen


@pytest.mark.parametrize('name, shape', [
    ('ST', (128, 4, 2, 3, 6)), slow('CinST->STinC', (16, 2, 3, 4, 128))])
def test_units_on_a_mesh(name, shape, request):
  unit, variables, x, g = _unit(name, shape)
  wanted = jax.jit(functools.partial(_value_and_gradients, unit))(
      variables, x, g)
  request.getfixturevalue('interpreted')
  mesh = jax.make_mesh((4,), ('data',), devices=jax.devices()[:4],
                       axis_types=(jax.sharding.AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec('data'))
  step = jax.jit(per_device.on_mesh(
      mesh, functools.partial(_value_and_gradients, unit)))
  arguments = variables, *(jax.device_put(a, split) for a in (x, g))
  _compare(step(*arguments), wanted)
  text = step.lower(*arguments).compile().as_text()
  # Clips stay where they are; only sums of gradients and statistics travel.
  assert 'all-reduce' in text
  assert not re.search('all-gather|all-to-all|collective-permute', text)


def _train_step(**overrides):
  """Returns a function that trains four devices for a step."""
  c = small.config(
      model__attention='ST', model__stages=(4,), model__dropout=0.0,
      model__num_frames=2, batch_size=16, mesh__data=4,
      **overrides).copy_and_resolve_references()
  mesh = sharding.make_mesh(c, jax.devices()[:4])
  classes = len(small.CLASSES)

  def step():
    model = state_lib.build_model(state_lib.model_arguments(c, classes),
                                  partial_bn=c.partial_bn)
    init, _, shardings = programs.initializer(c, mesh, model)
    batch = next(iter(small.inputs(c).train_batches(0, 1)))
    batch = sharding.to_devices(
        mesh, {k: batch[k] for k in ('video', 'label', 'mask')})
    key = state_lib.key_data(0)
    state, metrics = programs.train_step(c, mesh, model, classes, shardings)(
        init(key), batch, key, np.float32(0.05))
    return jax.device_get((state.params, state.batch_stats, metrics))

  return step


def _compare_steps(found, wanted):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4,
                                 atol=2e-6), found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize('overrides', [
    {'accumulate_steps': 2}, {'batch_norm': 'replica'}])
def test_units_in_the_train_step(overrides, request):
  # In a loop over parts of the batch, and inside of `shard_map`.
  step = _train_step(**overrides)
  wanted = step()
  chosen = request.getfixturevalue('interpreted')
  found = step()
  assert {'clip_kernels.pool', 'clip_kernels.gradients'} <= set(chosen)
  _compare_steps(found, wanted)


@pytest.mark.parametrize('overrides', [
    {'remat': 'units'}, slow({'remat': 'convolutions'}),
    slow({'remat': 'blocks'}), slow({'partial_bn': True}),
    slow({'model__attention_options': {'near_identity': True}})])
def test_chains_where_parts_are_computed_again_or_frozen(
    overrides, monkeypatch, compile_for):
  # Traced as for a TPU, with the forms for the CPU.
  step = _train_step(**overrides)
  wanted = step()
  calls, forward = [], chains.forward
  monkeypatch.setattr(chains, 'forward',
                      lambda *args: calls.append(1) or forward(*args))
  compile_for('tpu')
  found = step()
  assert calls
  _compare_steps(found, wanted)


def test_captured_gates_have_gradients(compile_for):
  unit, variables, x, _ = _unit('CinST->STinC', WHOLE)
  compile_for('tpu')

  def loss(params):
    _, sown = unit.apply({**variables, 'params': params}, x,
                         mutable=['intermediates'])
    return sum(gate.sum() for gate in jax.tree.leaves(sown))

  for path, leaf in jax.tree_util.tree_leaves_with_path(
      jax.grad(loss)(variables['params'])):
    assert np.abs(leaf).max() > 0, path


def test_what_no_kernel_takes():
  def takes(*shape, dtype=jnp.float32):
    return clip_kernels.takes(jax.ShapeDtypeStruct(shape, dtype),
                              (4,), THW, THW, (4,))

  assert takes(16, 8, 56, 56, 64) and takes(16, 8, 7, 7, 512)
  assert not takes(16, 8, 56, 56, 64, dtype=jnp.float16)
  assert not takes(16, 8, 14, 14, 2048)  # too much at a time
  mesh = jax.make_mesh((4,), ('data',), devices=jax.devices()[:4],
                       axis_types=(jax.sharding.AxisType.Auto,))
  # Clips that the devices cannot share evenly, as when weights are made.
  assert [per_device.on_mesh(mesh, takes)(n, 8, 7, 7, 512)
          for n in (1, 4, 6, 8)] == [False, True, False, True]
  assert plane_kernels.takes((8, 56, 56, 64), jnp.bfloat16)
  assert not plane_kernels.takes((8, 112, 112, 128), jnp.bfloat16)


def _too_much(right):
  def wrong(*args):
    found = right(*args)
    # Of running values the maximum alone.
    return ((found[0] * 1.01, *found[1:]) if isinstance(found, tuple)
            else found * 1.01)
  return wrong


def _last_of_equals(right):
  del right

  def wrong(plan, found, x, place):
    if not plan.pools:
      return (found[0] + x,)
    largest, total, index = found
    higher = x >= largest
    return (jnp.where(higher, x, largest), total + x,
            jnp.where(higher, place.astype(jnp.float32), index))
  return wrong


@pytest.mark.parametrize('broken, mutate, name', [
    ('_spread', _too_much, 'ST'), ('_join', _last_of_equals, 'ST'),
    slow('_join', _too_much, 'ST'), slow('_pick', _too_much, 'C'),
    slow('_gate', _too_much, 'C')])
def test_a_broken_kernel_is_caught(broken, mutate, name, request, monkeypatch):
  unit, variables, x, g = _unit(name, NARROW)
  x = x.round(1)
  wanted = jax.jit(functools.partial(_value_and_gradients, unit))(
      variables, x, g)
  request.getfixturevalue('interpreted')
  monkeypatch.setattr(clip_kernels, broken,
                      mutate(getattr(clip_kernels, broken)))
  with pytest.raises(AssertionError):
    _compare(jax.jit(functools.partial(_value_and_gradients, unit))(
        variables, x, g), wanted)


def test_gradients_of_gates_have_their_type():
  x = _random(NARROW).astype(jnp.bfloat16)
  gates = _gates(NARROW, (4,))
  to_gates, to_x, _ = clip_kernels.gradients(
      x, None, x, {0: gates}, {}, ((GIVEN, (0,)),), (0,), True, interpret=True)
  assert to_x.dtype == jnp.bfloat16 and to_gates[0][4].dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize('shape', [
    (128, 1, 2, 3, 6), (8, 16, 3, 2, 6), (1, 128, 2, 2, 6), (4, 32, 2, 3, 6),
    (2, 3, 2, 130, 8), (2, 3, 256, 2, 8)])
@pytest.mark.parametrize('axes', [(4,), (1, 2, 3)])
def test_corners_of_pooling(shape, axes):
  x = _random(shape, decimals=1)
  if shape[4] == 8:  # Clips that share a register must be finite.
    x = x.at[0].set(-jnp.inf)
  found = clip_kernels.pool(x, None, [], axes, interpret=True)
  for axis in axes:
    largest, place, total = planes._pool_plain(x, axis)
    pooled, places = found[axis]
    np.testing.assert_array_equal(pooled[:, 0], largest)
    np.testing.assert_array_equal(places[1:], place[1:])
    np.testing.assert_allclose(pooled[1:, 1], total[1:] / shape[axis], 1e-5,
                               1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('chip, shape, kernels', [
    *(('v5e:2x2', shape, 26) for shape in (
        (4, 8, 28, 28, 128), (64, 8, 56, 56, 64), (8, 12, 7, 7, 512),
        (4, 5, 9, 11, 96), (32, 32, 8, 8, 64))),
    # With large maps, the fast memory of v4 has room for each unit by itself,
    # but not for the pair, nor for planes; that of v5p not for the planes of a
    # gate over height, width and channels.
    *((chip, (32, 8, 56, 56, 64), kernels) for chip, kernels in (
        ('v4:2x2x1', 12), ('v5p:2x2x1', 22), ('v6e:2x2', 26))),
    *((chip, (32, 8, 14, 14, 256), 26) for chip in (
        'v4:2x2x1', 'v5p:2x2x1', 'v6e:2x2'))])
def test_kernels_compile_for_a_tpu(chip, shape, kernels, monkeypatch,
                                   compile_for):
  if not (importlib.util.find_spec('libtpu')
          or os.environ.get('TPU_LIBRARY_PATH')):
    pytest.skip('SKIPPED FOR WANT OF A COMPILER: libtpu is not installed')
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  compile_for('tpu')
  devices = topologies.get_topology_desc(chip, 'tpu').devices
  mesh = jax.sharding.Mesh(np.array(devices), ('data',))
  whole, split = (NamedSharding(mesh, PartitionSpec(*axes))
                  for axes in ((), ('data',)))
  unit = aia.UNITS['CinST->STinC'](dtype=jnp.bfloat16)
  x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=split)
  variables = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole),
      jax.eval_shape(unit.init, jax.random.key(0), x))
  norm = jax.ShapeDtypeStruct((3, shape[4]), jnp.float32, sharding=whole)

  def of_block(variables, x, norm, g):
    clip = normalized.Clip(x, norm) if unit.takes_clip(x) else x
    return _value_and_gradients(unit, variables, clip, g)

  step = jax.jit(per_device.on_mesh(mesh, of_block))
  text = step.trace(variables, x, norm, x).lower(
      lowering_platforms=('tpu',)).compile().as_text()
  # For the gates of each of four steps: one that pools, one that sums their
  # gradients; one for what came back, one for the result, one for its gradient,
  # less one, as the last step's gates have that of what came back alone. And
  # eight convolutions with their gradients.
  assert text.count('"tpu_custom_call"') == kernels
  assert not re.search('all-gather|all-to-all|collective-permute', text)
