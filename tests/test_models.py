"""Whole networks: against the published code, and as a user builds them."""

import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.models import frozen
from vidattn_jax.ops import temporal_shift

TOLERANCE = 1e-4
_SLOW = pytest.mark.slow
PAIR = 'aia_tsn_r50_CinST2STinC'
# Key of the reference, model, unit, layout of its weights.
CASES = [
    ('tsn_r50', 'tsn_r50', None, 'tsn_r50'),
    ('tsm_r50', 'tsm_r50', None, 'tsm_r50'),
    ('aia_tsm_r50_CinST2STinC', 'tsm_r50', 'CinST->STinC', PAIR),
    pytest.param(PAIR, 'tsn_r50', 'CinST->STinC', PAIR, marks=_SLOW),
    *(pytest.param(f'aia_tsn_r50_{unit}', 'tsn_r50', unit,
                   f'aia_tsn_r50_{unit}', marks=_SLOW)
      for unit in ('C', 'ST', 'CinST', 'STinC'))]


@pytest.fixture(scope='module')
def golden(data_dir):
  return np.load(data_dir / 'aia_models.npz')


@functools.cache
def _published_clip():
  return jnp.asarray(
      seeded.clip((1, 8, 3, 112, 112)).transpose(0, 1, 3, 4, 2))


@functools.cache
def _run(name, unit, layout):
  """Returns the network, its weights and its outputs for the seeded clip."""
  model = models.get_model(name, num_classes=174, attention=unit)
  variables = convert.from_torch(model, seeded.state_dict(layout),
                                 (8, 112, 112, 3))
  with jax.default_matmul_precision('highest'):
    apply = jax.jit(lambda v, x: model.apply(v, x, capture=True))
    return apply, variables, apply(variables, _published_clip())


@pytest.mark.parametrize('key, name, unit, layout', CASES)
def test_network_equals_the_published_code(golden, key, name, unit, layout):
  _, _, outputs = _run(name, unit, layout)

  def check(ours, what):
    assert seeded.difference(ours, golden[f'{key}/{what}']) < TOLERANCE, what

  check(outputs['logits'], 'logits')
  if f'{key}/frame_logits' in golden:
    check(outputs['frame_logits'], 'frame_logits')
  stages = [np.asarray(s, np.float64) for s in outputs['stages']]
  for i, stage in enumerate(stages, 1):
    check([stage.mean(), stage.std()], f'layer{i}_mean_std')
  check(stages[1].mean((0, 1, 2, 3)), 'layer2_channel_mean')
  check(stages[1].std((0, 1, 2, 3)), 'layer2_channel_std')
  check(stages[3].mean((0, 1, 2, 3)), 'layer4_pooled')


def _change_kernels(variables, gate, change):
  leaves = traverse_util.flatten_dict(variables, sep='/')
  return traverse_util.unflatten_dict(
      {path: change(leaf) if path.endswith(f'/{gate}/conv/kernel') else leaf
       for path, leaf in leaves.items()}, sep='/')


@pytest.mark.parametrize('gate, change', [
    ('W', lambda k: k.transpose(1, 0, 2, 3, 4)),
    ('H', lambda k: k.transpose(0, 2, 1, 3, 4)),
    ('T', lambda k: k[:, :, ::-1]),
    ('C', lambda k: k[..., ::-1, :])])
def test_a_mutant_of_a_gate_is_caught_in_the_logits(golden, gate, change):
  apply, variables, _ = _run('tsm_r50', 'CinST->STinC', PAIR)
  with jax.default_matmul_precision('highest'):
    outputs = apply(_change_kernels(variables, gate, change),
                    _published_clip())
  wanted = golden['aia_tsm_r50_CinST2STinC/logits']
  assert seeded.difference(outputs['logits'], wanted) > TOLERANCE


def test_shift_is_what_tells_tsm_from_tsn(golden, monkeypatch):
  monkeypatch.setattr(temporal_shift, 'temporal_shift', lambda x: x)
  model = models.get_model('tsm_r50', num_classes=174)
  _, variables, _ = _run('tsm_r50', None, 'tsm_r50')
  logits = jax.jit(model.apply)(variables, _published_clip())['logits']
  assert seeded.difference(logits, golden['tsm_r50/logits']) > 1e-3


# --- As a user builds them ---------------------------------------------------


@pytest.fixture(scope='module')
def small():
  """A slim network with a unit, its seeded weights, and a clip."""
  model = models.get_model('tsm_r18', num_classes=5, width=1 / 8, num_frames=4,
                           crop_size=40, attention='C', stages=(1, 4))
  x = jnp.asarray(seeded.clip((2, 4, 40, 40, 3)))
  return model, seeded.variables(model, x.shape), x


def test_outputs_and_consensus(small):
  model, variables, x = small
  outputs = model.apply(variables, x)
  assert sorted(outputs) == ['frame_logits', 'logits']
  assert outputs['frame_logits'].shape == (2, 4, 5)
  np.testing.assert_allclose(outputs['logits'],
                             outputs['frame_logits'].mean(1), rtol=1e-5)
  assert np.ptp(outputs['frame_logits'], axis=1).min() > 1e-4


def test_capture_adds_stages_and_gates_and_changes_nothing(small):
  model, variables, x = small
  plain = model.apply(variables, x)
  outputs = model.apply(variables, x, capture=True)
  np.testing.assert_array_equal(outputs['logits'], plain['logits'])
  assert [s.shape[-1] for s in outputs['stages']] == [8, 16, 32, 64]
  features = outputs['stages'][-1].mean((2, 3))
  head = variables['params']['head']
  np.testing.assert_allclose(features @ head['kernel'] + head['bias'],
                             outputs['frame_logits'], rtol=1e-4, atol=1e-5)
  assert sorted(outputs['gates']) == [
      f'backbone/layer{s}/block{b}' for s in (1, 4) for b in (0, 1)]
  gate, = outputs['gates']['backbone/layer1/block0'].values()
  assert gate.shape == (2, 4, 10, 10)
  assert 0 < gate.min() < gate.max() < 1


@pytest.mark.slow
def test_any_number_of_frames_and_any_size(small):
  model, variables, x = small
  for clip in (x[:, :1], jnp.concatenate([x, x], 1), x[:, :, :33, :36]):
    outputs = model.apply(variables, clip)
    assert outputs['frame_logits'].shape[1] == clip.shape[1]
    assert np.isfinite(outputs['logits']).all()


def test_wrong_video_is_answered_with_the_right_shape(small):
  model, variables, x = small
  with pytest.raises(ValueError, match=r'\(4, 40, 40, 3\); the network takes'):
    model.apply(variables, x[0])
  flow = models.get_model('tsn_r18', modality='flow', crop_size=64)
  assert flow.image_shape == (8, 64, 64, 10)
  with pytest.raises(ValueError, match='width, 10\\) for flow'):
    flow.apply(variables, x)


def test_several_heads(small):
  model, _, x = small
  heads = {'verb': 3, 'noun': 6}
  several = model.clone(num_classes=heads)
  v = seeded.variables(several, x.shape)
  outputs = several.apply(v, x)
  for kind, shape in (('logits', (2,)), ('frame_logits', (2, 4))):
    assert {h: y.shape for h, y in outputs[kind].items()} == {
        h: (*shape, n) for h, n in heads.items()}
  one = model.clone(num_classes=6)
  params = {'backbone': v['params']['backbone'],
            'head': v['params']['head_noun']}
  alone = one.apply({**v, 'params': params}, x)
  np.testing.assert_allclose(alone['logits'], outputs['logits']['noun'],
                             rtol=1e-5)


def test_dropout_is_random_in_training_alone(small):
  model, variables, x = small

  def logits(key):
    # With running statistics, dropout is all that differs.
    frozen_model = model.clone(freeze=('backbone',))
    outputs, _ = frozen_model.apply(
        variables, x, train=True, rngs={'dropout': jax.random.key(key)},
        mutable=['batch_stats'])
    return outputs['logits']

  np.testing.assert_array_equal(logits(0), logits(0))
  assert np.abs(logits(0) - logits(1)).max() > 1e-3
  none = model.clone(freeze=('backbone',), dropout=0.0)
  outputs, _ = none.apply(variables, x, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(outputs['logits'],
                             model.apply(variables, x)['logits'], rtol=1e-5)


def test_classifier_starts_small(small):
  model, _, x = small
  params = jax.jit(model.clone(num_classes=400).init)(
      jax.random.key(0), x)['params']
  assert abs(np.std(params['head']['kernel']) / 0.001 - 1) < 0.03
  assert not params['head']['bias'].any()
  # He initialisation, fan out.
  kernel = params['backbone']['layer4']['block1']['conv2']['kernel']
  assert abs(np.std(kernel) / (2 / (9 * 64)) ** 0.5 - 1) < 0.03


def test_logits_are_float32_in_a_bfloat16_network(small):
  model, variables, x = small
  half = models.get_model('tsm_r18', num_classes=5, width=1 / 8, attention='C',
                          stages=(1, 4), dtype='bfloat16')
  logits = half.apply(variables, x)['logits']
  assert logits.dtype == jnp.float32
  exact = model.apply(variables, x)['logits']
  assert 1e-4 < seeded.difference(logits, exact) < 0.05


@pytest.mark.slow
def test_float64_is_float64_throughout():
  with jax.enable_x64(True):
    double = models.get_model(
        'tsm_r18', num_classes=5, width=1 / 8, attention='CinST->STinC',
        dtype='float64', dropout=0.0, stages=(1,))
    shape = (1, 2, 40, 40, 3)
    v = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64),
                     seeded.variables(double, shape))

    def loss(params, clip):
      outputs, _ = double.apply({**v, 'params': params}, clip, train=True,
                                mutable=['batch_stats'])
      return (outputs['logits'] ** 2).sum()

    clip = jnp.asarray(seeded.clip(shape), jnp.float64)
    value, grads = jax.jit(jax.value_and_grad(loss))(v['params'], clip)
    assert value.dtype == jnp.float64
    # Along one direction, against a difference of two values.
    direction = jax.tree.map(
        lambda p: jnp.asarray(seeded.tensor(f'd{p.shape}', p.shape, 1)),
        v['params'])
    slope = sum(jax.tree.leaves(jax.tree.map(
        lambda g, d: (g * d).sum(), grads, direction)))
    ends = [jax.jit(loss)(jax.tree.map(
        lambda p, d, step=step: p + step * d, v['params'], direction), clip)
            for step in (1e-6, -1e-6)]
    assert abs((ends[0] - ends[1]) / 2e-6 / slope - 1) < 1e-5


def _changed_statistics(model, variables, x):
  _, changed = model.clone(dropout=0.0).apply(
      variables, x, train=True, mutable=['batch_stats'])
  before = traverse_util.flatten_dict(variables['batch_stats'], sep='/')
  after = traverse_util.flatten_dict(changed['batch_stats'], sep='/')
  assert before.keys() == after.keys()
  return {p.rpartition('/')[0] for p in before
          if np.abs(after[p] - before[p]).max() > 0}


def test_frozen_statistics(small):
  model, variables, x = small
  everything = _changed_statistics(model, variables, x)
  assert len(everything) == 20 + 4
  frozen_model = model.clone(freeze=('backbone/bn1', 'backbone/layer1'))
  assert _changed_statistics(frozen_model, variables, x) == {
      p for p in everything
      if p != 'backbone/bn1' and 'backbone/layer1/' not in p}
  partial = model.clone(partial_bn=True)
  assert _changed_statistics(partial, variables, x) == {
      p for p in everything if p == 'backbone/bn1' or '/attention/' in p}
  assert frozen.is_below('a/b/c', ('a/b',))
  assert not frozen.is_below('a/bc', ('a/b',))


@pytest.mark.parametrize('kwargs, message', [
    ({'name': 'tsm_r500'}, 'did you mean tsm_r50 or '),
    ({'name': 'tsn_r50', 'num_clases': 5}, 'did you mean num_classes'),
    ({'name': 'tsn_r50', 'shift': True}, "no override of tsn_r50 'shift'"),
    ({'name': 'tsn_r50', 'attention': 'CinST>STinC'},
     'did you mean CinST->STinC'),
    ({'name': 'tsn_r50', 'attention_options': {'r': 2}}, 'no attention unit'),
    ({'name': 'tsn_r50', 'modality': 'rbg'}, 'did you mean rgb')])
def test_wrong_names_are_answered_with_the_nearest(kwargs, message):
  with pytest.raises(ValueError, match=message):
    models.get_model(**kwargs)


def test_every_name_builds_what_it_says():
  frames = ('tsn_r18', 'tsn_r50', 'tsn_r101', 'tsm_r18', 'tsm_r50', 'tsm_r101')
  assert models.MODELS[:6] == frames
  for name in frames:
    model = models.get_model(name, num_classes=7)
    assert model.image_shape == (8, 224, 224, 3)
    net = model.backbone()
    assert net.shift == name.startswith('tsm')
    assert name.endswith(f'_r{net.depth}')


@pytest.mark.parametrize('wrong, message', [
    ({'stages': 'last'}, "stages is 'last'; it must be a whole number or a"),
    ({'stages': (1.5,)}, r'stages is \(1.5,\); it must be'),
    ({'blocks': True}, 'blocks is True; it must be a whole number or a'),
    ({'dtype': 'bf16'}, "no dtype 'bf16'; did you mean bfloat16"),
    ({'dtype': 'int8'}, "no dtype 'int8'; "),
    ({'dtype': jnp.int8}, "no dtype 'int8'; "),
    ({'dtype': None}, 'no dtype None; '),
    ({'crop_size': 64.0}, 'crop_size is 64.0; it must be'),
    ({'crop_size': (64,)}, r'crop_size is \(64,\); .* two of them'),
    ({'crop_size': (64, 0)}, r'crop_size is \(64, 0\); it must be'),
    ({'num_frames': 0}, 'num_frames is 0; it must be 1 or more'),
    ({'num_frames': 8.0}, 'num_frames is 8.0; it must be 1 or more'),
    ({'num_classes': 0}, 'num_classes is 0; it must be 1 or more'),
    ({'num_classes': {}}, 'num_classes is {}; give it a number, or {head'),
    ({'num_classes': {'verb': 0}}, r"num_classes\['verb'\] is 0; it must be 1"),
    ({'dropout': 2.0}, 'dropout is 2.0; it must be a number from 0 on'),
    ({'dropout': 1}, 'dropout is 1; .* below 1'),
    ({'dropout': float('nan')}, 'dropout is nan; '),
    ({'width': 'a'}, "width is 'a'; it must be above 0"),
    ({'width': 0}, 'width is 0; it must be above 0'),
    ({'attention': 'STA', 'attention_options': 'pool'},
     "attention_options is 'pool'; it must be a dict"),
    ({'attention_options': 'pool'}, 'it must be a dict')])
def test_wrong_values_are_named(wrong, message):
  with pytest.raises(ValueError, match=message):
    models.get_model('tsn_r18', **wrong)


@pytest.mark.parametrize('near_identity', [False, True])
@pytest.mark.parametrize('unit, option', [
    ('SE3D', {'reduction': 0}), ('SENet-3D', {'reduction': 1.5}),
    ('CBAM3D377', {'reduction': 0}), ('STC', {'reduction': True}),
    ('STA', {'step_size': 2.5}), ('TA', {'step_size': 0})])
def test_wrong_options_of_units_are_named(unit, option, near_identity):
  (key, value), = option.items()
  with pytest.raises(ValueError, match=f'{key} is {value}; it must be 1 or'):
    models.get_model('slow_r50', attention=unit, attention_options={
        **option, 'near_identity': near_identity})


@pytest.mark.parametrize('name, wrong, message', [
    ('tsn_r18', {'stages': ()}, r'stages is \(\), so that .* of 1 to 4'),
    ('c3d', {'stages': []}, r'stages is \(\), so that .* of 1 to 5'),
    ('tsn_r18', {'stages': 0}, 'no stage 0'),
    ('r3d_18', {'blocks': ()}, r'blocks is \(\), so that'),
    ('tsn_r18', {'blocks': 2}, r'blocks has 2, .* 2 blocks; .*-2 .* to 1'),
    ('r3d_50', {'blocks': (0, -7)}, r'blocks has -7, .*-6 .* to 5'),
    ('slow_r50', {'blocks': 3, 'stages': (1, 4)}, 'blocks has 3, .* to 2'),
    ('c3d', {'blocks': 1, 'stages': 1}, r'blocks has 1, .* 1 block; .* to 0'),
    ('p3d_199', {'blocks': 36}, 'blocks has 36, .* to 35'),
    ('st_abn_r50', {'blocks': 6}, 'blocks has 6, .* to 5'),
    ('tstam', {'blocks': 5}, 'blocks has 5, .* to 4'),
    ('tsn_r101', {'placement': 'aia', 'stages': 3, 'blocks': (1, -2)},
     "placement 'aia' .* 0, 2, 4")])
def test_units_that_would_stand_nowhere_are_refused(name, wrong, message):
  with pytest.raises(ValueError, match=message):
    models.get_model(name, attention='SE3D', **wrong)


@pytest.mark.parametrize('name', models.MODELS)
def test_what_is_left_open_is_the_unit_s_own(name):
  build = {'attention': 'STA'}
  fields = models.get_model(name, **build).backbone.keywords
  opened = models.get_model(name, position=None, stages=None, blocks=None,
                            shortcut=None, **build)
  assert opened.backbone.keywords.keys() == fields.keys()
  assert opened.backbone.keywords['stages'] == fields['stages']


def test_values_are_brought_to_their_types():
  model = models.get_model(
      'tsn_r101', attention='SE3D', stages=3, blocks=[0, -1],
      dtype=jnp.bfloat16, num_classes={'verb': np.int64(3)}, placement='aia',
      num_frames=4, crop_size=[40, 48])
  net = model.backbone()
  assert (net.stages, net.blocks) == ((3,), (0, -1))
  assert net.dtype == jnp.bfloat16
  assert model.image_shape == (4, 40, 48, 3)
  assert dict(model.num_classes) == {'verb': 3}
  # A block that only the longest of the stages has stands somewhere.
  models.get_model('tsn_r50', attention='SE3D', blocks=5)
  # Without a unit, no stages are as good as any.
  assert models.get_model('tsn_r50', stages=()).backbone().stages == ()


def test_st_abn_takes_one_number_of_classes():
  with pytest.raises(ValueError, match='st_abn_r50 takes one number of class'):
    models.get_model('st_abn_r50', num_classes={'verb': 3})


@pytest.mark.parametrize('name, override', [
    ('c3d', 'position'), ('tsn_bninception', 'position'), ('c3d', 'shortcut'),
    ('tsn_r50', 'shortcut'), ('slow_r50', 'shortcut'), ('tsn_r50', 'depth'),
    ('tsm_r50', 'shift'), ('slow_r50', 'frame_sum'), ('r3d_18', 'backbone')])
def test_what_other_networks_have_is_answered_with_what_this_has(name,
                                                                 override):
  with pytest.raises(ValueError, match=(
      f"{name} has no '{override}', its overrides are width, .*num_classes")):
    models.get_model(name, **{override: 'B'})
