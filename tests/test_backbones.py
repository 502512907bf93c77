"""The backbones for video: sizes, counts, and what tells them apart."""

import functools
import time

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import models
from vidattn_jax.backbones import bn_inception
from vidattn_jax.backbones import c3d
from vidattn_jax.backbones import layers
from vidattn_jax.backbones import p3d
from vidattn_jax.backbones import resnet
from vidattn_jax.models import recognizer
from vidattn_jax.tools import complexity

_SLOW = pytest.mark.slow


# --- Counts ------------------------------------------------------------------

# Of 400 classes, unless published for others: parameters, and multiply-adds
# of one clip; those marked are published.
COUNTS = [
    ('tsn_r18', {}, 11_381_712, 14_510_129_152),
    pytest.param('tsn_r50', {}, 24_327_632, 32_703_643_648, marks=_SLOW),
    pytest.param('tsn_r101', {}, 43_319_760, 62_401_413_120, marks=_SLOW),
    pytest.param('tsm_r18', {}, 11_381_712, 14_510_129_152, marks=_SLOW),
    pytest.param('tsm_r50', {}, 24_327_632, 32_703_643_648, marks=_SLOW),
    pytest.param('tsm_r101', {}, 43_319_760, 62_401_413_120, marks=_SLOW),
    ('r3d_18', {}, 33_235_280, 8_296_275_968),  # Published.
    # Its parameters are published.
    ('r3d_18', {'shortcut': 'B'}, 33_409_104, 8_308_006_912),
    pytest.param('r3d_34', {}, 63_544_912, 12_684_566_528, marks=_SLOW),
    pytest.param('r3d_50', {}, 47_018_576, 10_069_311_488, marks=_SLOW),
    pytest.param('r3d_101', {}, 86_064_720, 13_890_715_648, marks=_SLOW),
    # The next two are published.
    pytest.param('r3d_152', {}, 118_223_440, 18_611_273_728, marks=_SLOW),
    ('resnext3d_101', {}, 48_340_816, 9_567_715_328),
    ('slow_r50', {}, 32_454_096, 41_740_828_672),
    pytest.param('slow_r101', {}, 60_359_120, 85_414_019_072, marks=_SLOW),
    # The next two are published.
    ('c3d', {'num_classes': 101}, 78_409_573, 38_547_378_176),
    pytest.param('p3d_199', {}, 66_492_240, 18_403_328_000, marks=_SLOW),
    ('tsn_bninception', {'num_classes': 1000}, 11_295_240, 16_260_800_512),
    pytest.param('tsn_se_bninception', {'num_classes': 1000}, 11_941_638,
                 16_265_915_392, marks=_SLOW)]


@pytest.mark.parametrize('name, build, params, macs', COUNTS)
def test_counts(name, build, params, macs):
  counts = complexity.complexity(models.get_model(name, **build))
  assert (counts.params, counts.macs) == (params, macs)


def test_building_takes_no_time():
  for name in models.MODELS:
    seconds = []
    for _ in range(3):
      start = time.perf_counter()
      models.get_model(name)
      seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1, name


# --- Sizes -------------------------------------------------------------------

# Shape of a clip, and of every stage, at an eighth of the width.
STAGES = {
    'r3d_18': ((16, 112, 112), [(8, 28, 28, 8), (4, 14, 14, 16), (2, 7, 7, 32),
                                (1, 4, 4, 64)]),
    'resnext3d_101': ((64, 112, 112), [
        (32, 28, 28, 64), (16, 14, 14, 128), (8, 7, 7, 256), (4, 4, 4, 512)]),
    'slow_r50': ((5, 75, 101), [(5, 19, 26, 32), (5, 10, 13, 64),
                                (5, 5, 7, 128), (5, 3, 4, 256)]),
    'c3d': ((19, 100, 112), [(19, 100, 112, 8), (19, 50, 56, 16),
                             (9, 25, 28, 32), (4, 12, 14, 64), (2, 6, 7, 64)]),
    'p3d_199': ((32, 97, 160), [(16, 25, 40, 32), (8, 13, 20, 64),
                                (4, 7, 10, 128), (2, 4, 5, 256)]),
    'tsn_bninception': ((2, 96, 160), [
        (2, 24, 40, 24), (2, 12, 20, 40), (2, 6, 10, 76), (2, 3, 5, 128)])}


@pytest.mark.parametrize('name', STAGES)
def test_stages_have_the_published_sizes(name):
  clip, wanted = STAGES[name]
  net = models.get_model(name, width=1 / 8).backbone()
  stages = jax.eval_shape(
      lambda x: net.init_with_output(jax.random.key(0), x)[0],
      jnp.zeros((2, *clip, 3)))
  assert [s.shape for s in stages] == [(2, *shape) for shape in wanted]


def test_slim_groups_stay_whole():
  net = models.get_model('resnext3d_101', width=1 / 64).backbone()
  shapes = jax.eval_shape(net.init, jax.random.key(0),
                          jnp.zeros((1, 4, 33, 33, 3)))['params']
  assert shapes['layer1']['block0']['conv2']['kernel'].shape == (
      3, 3, 3, 1, 32)
  assert shapes['layer4']['block0']['conv2']['kernel'].shape == (
      3, 3, 3, 8, 256)


@pytest.mark.parametrize('name, clip, message', [
    ('c3d', (15, 112, 112), 'at least 16 frames'),
    ('c3d', (16, 112, 15), 'at least 16 frames, 16 pixels'),
    ('p3d_199', (15, 64, 64), 'has 15 frames; P3D takes at least 16'),
    ('tsn_bninception', (1, 224, 112 + 16), None),
    ('tsn_bninception', (1, 224, 112), 'multiples of 32: set crop_size')])
def test_clips_that_are_too_small_are_named(name, clip, message):
  model = models.get_model(name, width=1 / 16, num_frames=clip[0],
                           crop_size=clip[1:])
  init = functools.partial(jax.eval_shape, model.init, jax.random.key(0),
                           jnp.zeros((1, *clip, 3)))
  if message is None:
    init()
    return
  with pytest.raises(ValueError, match=message):
    init()


def test_linear_layers_of_c3d_are_tied_to_the_clip():
  model = models.get_model('c3d', width=1 / 16, num_classes=5)
  with pytest.raises(ValueError, match=r'made for clips of \(16, 112, 112\)'):
    jax.eval_shape(model.init, jax.random.key(0),
                   jnp.zeros((1, 16, 64, 64, 3)))
  small = models.get_model('c3d', width=1 / 16, num_classes=5, crop_size=64)
  variables = seeded.variables(small, (1, 16, 64, 64, 3))
  x = jnp.zeros((1, 16, 112, 112, 3))
  with pytest.raises(ValueError, match=(
      r'made for 288 features, but the clip gives 512 \(1 x 4 x 4 x 32\); set '
      'num_frames and crop_size')):
    jax.eval_shape(small.apply, variables, x)


# --- What the blocks compute -------------------------------------------------


def _dead(variables, *modules):
  """Sets scale and bias of some normalisations to zero."""
  leaves = traverse_util.flatten_dict(variables, sep='/')
  return traverse_util.unflatten_dict(
      {path: np.zeros_like(leaf) if any(
          path.startswith(f'params/{m}/') for m in modules) else leaf
       for path, leaf in leaves.items()}, sep='/')


@pytest.mark.parametrize('strides', [(2, 2), (1, 2)])
def test_shortcut_without_parameters(strides):
  x = jnp.asarray(seeded.clip((2, 5, 6, 7, 4)))
  block = resnet.Block(6, stride=strides[1], bottleneck=False,
                       temporal=(3, 3), temporal_stride=strides[0],
                       shortcut='A')
  variables = _dead(seeded.variables(block, x.shape), 'bn2')
  assert sorted(variables['params']) == ['bn1', 'bn2', 'conv1', 'conv2']
  y = block.apply(variables, x)
  wanted = np.maximum(x[:, ::strides[0], ::strides[1], ::strides[1]], 0)
  np.testing.assert_array_equal(y[..., :4], wanted)
  assert y.shape[-1] == 6 and not y[..., 4:].any()


def _calls(module, variables, x):
  """Returns {name of the layer: (input, output)}."""

  def apply(variables, x):
    seen = {}

    def note(call, args, kwargs, context):
      y = call(*args, **kwargs)
      seen['/'.join(context.module.path)] = (args[0], y)
      return y

    with nn.intercept_methods(note):
      module.apply(variables, x)
    return seen

  return jax.tree.map(np.asarray, jax.jit(apply)(variables, x))


@pytest.mark.parametrize('kind', p3d.KINDS)
def test_kinds_of_p3d(kind):
  x = jnp.asarray(seeded.clip((1, 3, 4, 4, 8)))
  block = p3d.Block(4, kind)
  calls = _calls(block, seeded.variables(block, x.shape), x)
  relu = functools.partial(np.maximum, 0)
  first, space, time = (relu(calls[f'bn{i}'][1]) for i in (1, 2, 3))
  np.testing.assert_array_equal(calls['conv2'][0], first)
  np.testing.assert_array_equal(calls['conv3'][0],
                                first if kind == 'B' else space)
  np.testing.assert_array_equal(calls['conv4'][0],
                                time if kind == 'A' else space + time)


def test_kinds_take_turns_and_the_last_stage_is_flat():
  kinds = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, p3d.Block):
      kinds.append(context.module.kind)
    return call(*args, **kwargs)

  net = p3d.P3D(width=1 / 32)
  with nn.intercept_methods(note):
    shapes = jax.eval_shape(net.init, jax.random.key(0),
                            jnp.zeros((1, 16, 32, 32, 3)))['params']
  assert kinds == [*'ABC' * 15, *'AB', None, None, None]
  for name, leaf in shapes['layer4']['block0'].items():
    assert len(leaf.get('kernel', np.zeros((1,) * 4)).shape) == 4, name


def test_gates_of_squeeze_and_excitation():
  x = jnp.asarray(seeded.clip((1, 2, 4, 4, 8)))
  widths = bn_inception.STAGES[0]['3a']
  module = bn_inception.Inception(widths, width=1 / 4, se=True)
  calls = _calls(module, seeded.variables(module, x.shape), x)
  branches = np.concatenate([calls[name][1] for name in (
      '1x1', '3x3', 'double_3x3_2', 'pool_proj')], -1)
  np.testing.assert_allclose(calls['se_down'][0],
                             branches.mean((2, 3), keepdims=True), rtol=1e-5)
  hidden = calls['se_down'][1]
  assert hidden.shape == (1, 2, 1, 1, 64 // 16)
  np.testing.assert_array_equal(calls['se_up'][0], np.maximum(hidden, 0))
  gate = 1 / (1 + np.exp(-calls['se_up'][1]))
  np.testing.assert_allclose(calls[''][1], branches * gate, rtol=1e-4,
                             atol=1e-6)


def test_linear_layers_of_c3d():
  x = seeded.clip((2, 2, 3, 3, 4))
  neck = c3d.FullyConnected(width=1 / 512)
  variables = seeded.variables(neck, x.shape)
  y = np.asarray(jax.jit(neck.apply)(variables, x))
  # Pairs of rows and columns, of which the outer ones hang over the edges.
  halves = (slice(0, 1), slice(1, 3))
  rows = np.stack([x[:, :, half].max((1, 2)) for half in halves], 1)
  pooled = np.stack([rows[:, :, half].max(2) for half in halves], 2)
  features = pooled.transpose(0, 3, 1, 2).reshape(2, -1)  # Channels first.
  for name in ('fc6', 'fc7'):
    layer = variables['params'][name]
    features = np.maximum(features @ layer['kernel'] + layer['bias'], 0)
  assert features.max() > 0.1
  np.testing.assert_allclose(y, features, rtol=1e-4, atol=1e-5)


# --- Units, and statistics ---------------------------------------------------


class _Ten(nn.Module):
  """Stands in for a unit: y = 10 x."""
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train):
    return 10 * x


def _places(name, **kwargs):
  net = models.get_model(name, width=1 / 32).backbone(
      attention=_Ten, **kwargs)
  met = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, _Ten):
      met.append('/'.join(context.module.path[:-1]))
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 32, 32, 3)))
  return met


def test_units_stand_in_the_chosen_places():
  assert _places('c3d') == ['conv1', 'conv2', 'conv3b', 'conv4b', 'conv5b']
  assert _places('c3d', stages=(3, 5), blocks=None) == [
      'conv3a', 'conv3b', 'conv5a', 'conv5b']
  assert _places('tsn_bninception', stages=(1, 2, 3), blocks=(0, -1)) == [
      'conv2_3x3', 'inception_3a', 'inception_3b', 'inception_3c',
      'inception_4d']


def test_unit_of_a_convolution_follows_its_relu():
  x = jnp.asarray(seeded.clip((1, 2, 4, 4, 3)))
  block = layers.ConvBlock(4, (3, 3, 3))
  variables = seeded.variables(block, x.shape)
  plain = block.apply(variables, x)
  assert plain.min() == 0 < plain.max()
  np.testing.assert_array_equal(
      block.clone(attention=_Ten).apply(variables, x), 10 * plain)


@pytest.mark.parametrize('kind', ['B', None])
def test_positions_of_a_unit_in_a_block_of_p3d(kind):
  x = jnp.asarray(seeded.clip((1, 3, 4, 4, 16)))
  block = p3d.Block(4, kind)
  variables = seeded.variables(block, x.shape)
  plain = _calls(block, variables, x)

  def run(position):
    return _calls(block.clone(attention=_Ten, position=position), variables, x)

  name = 'bn_normal' if kind is None else 'bn2'
  inner = run('bn2')
  np.testing.assert_array_equal(inner['attention'][0], plain[name][1])
  before = run('before_sum')
  np.testing.assert_array_equal(before['attention'][0], plain['bn4'][1])
  np.testing.assert_allclose(
      before[''][1], np.maximum(x + 10 * plain['bn4'][1], 0), rtol=1e-5)
  after = run('after_sum')
  np.testing.assert_array_equal(after[''][1], 10 * plain[''][1])


class _Two(nn.Module):
  """Stands in for a backbone: two convolutions, the second with a unit."""

  @nn.compact
  def __call__(self, x, train):
    x = layers.ConvBlock(2, (1, 1), name='stem')(x, train)
    unit = functools.partial(layers.ConvBlock, 2, (1, 1))
    x = layers.ConvBlock(2, (1, 1), attention=unit, name='next')(x, train)
    return [x]


def test_the_first_statistics_go_on_whatever_their_name():
  model = recognizer.Recognizer(_Two, 3, dropout=0.0, partial_bn=True)
  x = jnp.asarray(seeded.clip((2, 1, 4, 4, 3)))
  variables = seeded.variables(model, x.shape)

  def changed(model):
    _, updated = jax.jit(functools.partial(
        model.apply, train=True, mutable=['batch_stats']))(variables, x)
    before, after = (
        traverse_util.flatten_dict(v['batch_stats'], sep='/')
        for v in (variables, updated))
    assert before.keys() == after.keys() and len(before) == 6
    return {path.rpartition('/')[0] for path in before
            if np.abs(after[path] - before[path]).max() > 0}

  unit = 'backbone/next/attention/bn'
  assert changed(model) == {'backbone/stem/bn', unit}
  assert changed(model.clone(partial_bn=False)) == {
      'backbone/stem/bn', 'backbone/next/bn', unit}
  # Frozen by name, it does not pass its place on to the next.
  assert changed(model.clone(freeze=('backbone/stem',))) == {unit}
  assert not changed(model.clone(freeze=('backbone',)))
  assert changed(model.clone(freeze=('backbone', '-attention'))) == {unit}


@pytest.mark.parametrize('name, wrong, message', [
    ('r3d_18', {'shortcut': 'C'}, 'no shortcut'),
    ('r3d_18', {'groups': 2}, "no override of r3d_18 'groups'"),
    ('slow_r50', {'shortcut': 'A'}, "no override of slow_r50 'shortcut'"),
    ('c3d', {'position': 'bn2'}, "no override of c3d 'position'"),
    ('c3d', {'stages': (6,)}, 'no stage 6'),
    ('tsn_bninception', {'stages': (5,)}, 'no stage 5'),
    ('p3d_199', {'position': 'bn3'}, 'did you mean bn2'),
    ('p3d_199', {'width': -1.0}, 'width is -1.0; it must be above 0')])
def test_wrong_fields_are_named(name, wrong, message):
  with pytest.raises(ValueError, match=message):
    model = models.get_model(name, **wrong)
    jax.eval_shape(model.init, jax.random.key(0),
                   jnp.zeros((1, *model.image_shape)))


@pytest.mark.parametrize('name', ['r3d_18', 'c3d', 'tsn_se_bninception'])
def test_half_precision_stays_inside(name):
  model = models.get_model(name, num_classes=5, width=1 / 16, num_frames=16,
                           crop_size=32, dtype='bfloat16')
  video = jnp.zeros((1, *model.image_shape))
  variables = jax.eval_shape(model.init, jax.random.key(0), video)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')}
  outputs = jax.eval_shape(functools.partial(model.apply, capture=True),
                           variables, video)
  assert {x.dtype for x in outputs['stages']} == {jnp.dtype('bfloat16')}
  assert outputs['logits'].dtype == jnp.float32


def test_flow_has_the_channels_of_its_network():
  for name in ('r3d_18', 'slow_r50', 'c3d', 'p3d_199'):
    assert models.get_model(name, modality='flow').image_shape[-1] == 2
  for name in ('tsn_r50', 'tsn_bninception'):
    assert models.get_model(name, modality='flow').image_shape[-1] == 10
