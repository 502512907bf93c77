"""ST-ABN's branch, mechanism and network against reference outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models
from vidattn_jax.attention import abn
from vidattn_jax.backbones import resnet

MODULE = 2e-5


@pytest.fixture(scope='module')
def golden(data_dir):
  return np.load(data_dir / 'stabn_branch.npz')


def _published(layout, gain):
  state = seeded.state_dict(layout)
  for name, value in state.items():
    if name.endswith('.weight') and value.ndim == 1:
      value *= gain
  return state


@pytest.fixture(scope='module')
def branch(golden):
  """The branch and the mechanism, their weights, and features."""
  state = _published('stabn_branch_c24_t8_p8_k7', golden['norm_gain'])
  x = np.maximum(seeded.clip(tuple(map(int, golden['input_shape']))), 0)
  x = jnp.asarray(x.transpose(0, 2, 3, 4, 1))
  block = functools.partial(resnet.Block, 8, temporal=(3, 1, 1))
  module = abn.AttentionBranch(7, functools.partial(resnet.Stage, (block,) * 2))
  variables = seeded.from_published(module, x.shape, state, 'branch', 'st_abn')
  mechanism = _Mechanism()
  mixing = seeded.from_published(mechanism, x.shape, state, '', 'st_abn')
  return module, variables, mechanism, mixing, x


class _Mechanism(abn.nn.Module):
  """The mechanism with attentions that it makes itself, to be initialised."""
  relu: bool = False

  @abn.nn.compact
  def __call__(self, x, spatial=None, temporal=None):
    spatial = jnp.zeros(x.shape[:4]) if spatial is None else spatial
    temporal = jnp.zeros(x.shape[:2]) if temporal is None else temporal
    return abn.Mechanism(self.relu, name='mechanism')(x, spatial, temporal)


def _channels_first(x):
  return np.moveaxis(np.asarray(x), -1, 1)


def _differences(golden, outputs):
  ours = {'class_maps': _channels_first(outputs['class_maps']),
          'att_logits_fc': outputs['attention_logits'],
          'spatial_attention': outputs['spatial_attention'],
          'temporal_attention': outputs['temporal_attention']}
  return {name: seeded.difference(value, golden[name])
          for name, value in ours.items()}


def test_branch_equals_the_reference(golden, branch):
  module, variables, _, _, x = branch
  differences = _differences(golden, jax.jit(module.apply)(variables, x))
  assert max(differences.values()) < MODULE, differences
  params = {name: leaf for name, leaf in variables['params'].items()
            if name != 'out_fc'}
  outputs = jax.jit(module.clone(head='gap').apply)(
      {**variables, 'params': params}, x)
  assert seeded.difference(outputs['attention_logits'],
                           golden['att_logits_gap']) < MODULE
  with pytest.raises(ValueError, match='did you mean gap'):
    module.clone(head='gab').apply(variables, x)


@pytest.mark.parametrize('part, output', [
    ('trunk_bn', 'class_maps'), ('maps_bn', 'class_maps'),
    ('out_conv', 'att_logits_fc'), ('spatial_bn', 'spatial_attention'),
    ('temporal_bn', 'temporal_attention'),
    ('temporal_mix', 'temporal_attention'),
    ('temporal_fc2', 'temporal_attention')])
def test_a_part_left_out_is_caught(golden, branch, part, output):
  module, variables, _, _, x = branch
  params = {**variables['params'], part: jax.tree.map(
      jnp.zeros_like, variables['params'][part])}
  outputs = jax.jit(module.apply)({**variables, 'params': params}, x)
  assert _differences(golden, outputs)[output] > 100 * MODULE


def test_mechanism_equals_the_reference(golden, branch):
  _, _, mechanism, mixing, x = branch
  spatial, temporal, edited = (
      jnp.asarray(golden[name]) for name in (
          'spatial_attention', 'temporal_attention', 'edited'))
  for name, relu, *attentions in (
      ('mixed', False, spatial, temporal),
      ('mixed_relu', True, spatial, temporal),
      ('mixed_inverted_spatial', False, 1 - spatial, temporal),
      ('mixed_edited', False, spatial, edited)):
    y = jax.jit(mechanism.clone(relu=relu).apply)(mixing, x, *attentions)
    assert seeded.difference(_channels_first(y), golden[name]) < MODULE, name


def test_loss_equals_the_reference_and_counts_what_was_edited(golden):
  edited, attention = golden['edited'], golden['temporal_attention']
  assert seeded.difference(abn.temporal_loss(edited, attention),
                           golden['temporal_loss']) < MODULE
  mask = np.zeros_like(edited)
  assert not abn.temporal_loss(edited, attention, mask).any()
  mask[:, 3] = 1
  np.testing.assert_allclose(
      abn.temporal_loss(edited, attention, mask, gamma=2.0),
      2 * (edited - attention)[:, 3] ** 2, rtol=1e-5)


@pytest.fixture(scope='module')
def network(data_dir):
  """The network, its published weights, the clip and the reference."""
  golden = np.load(data_dir / 'stabn_r50_t8_64.npz')
  model = models.get_model('st_abn_r50', num_classes=174, num_frames=8,
                           crop_size=64)
  state = _published('stabn_r50_k174_t8', golden['norm_gain'])
  variables = convert.from_torch(model, state, (8, 64, 64, 3))
  block, shape = int(golden['input_block']), golden['input_shape'].tolist()
  x = seeded.clip((*shape[:-2], shape[-2] // block, shape[-1] // block))
  x = np.repeat(np.repeat(x, block, -2), block, -1).transpose(0, 2, 3, 4, 1)
  with jax.default_matmul_precision('highest'):
    apply = jax.jit(lambda edited: model.apply(
        variables, x, temporal_attention=edited))
    return model, state, variables, golden, apply


@pytest.mark.slow
def test_network_equals_the_published_code(network):
  *_, golden, apply = network
  own = jnp.full((1, 8), -1.0)  # Negative: the network's own.
  outputs = apply(own)
  for ours, theirs in (('logits', 'perception_logits'),
                       ('attention_logits',) * 2, ('spatial_attention',) * 2,
                       ('temporal_attention',) * 2):
    assert seeded.difference(outputs[ours], golden[theirs]) < 1e-4, ours
  edited = apply(jnp.asarray(golden['edited']))
  assert seeded.difference(edited['logits'],
                           golden['perception_logits_edited']) < 1e-4
  # Its own attention stays what it was, for the loss to compare.
  np.testing.assert_array_equal(edited['temporal_attention'],
                                outputs['temporal_attention'])
  loss = abn.temporal_loss(golden['edited'], outputs['temporal_attention'])
  assert abs(float(loss[0]) / golden['loss_temp'] - 1) < 1e-4


def test_weights_go_and_come_back_bit_equal(network):
  model, state, variables, *_ = network
  back = convert.to_torch(model, variables, 'st_abn')
  assert back.keys() == state.keys()
  for name, value in state.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_slim_network_answers_what_does_not_fit():
  model = models.get_model('st_abn_r50', num_classes=5, width=1 / 16,
                           num_frames=4, crop_size=48)
  shape = (2, 4, 48, 48, 3)
  variables = seeded.variables(model, shape)
  x = jnp.asarray(seeded.clip(shape))
  apply = jax.jit(model.apply, static_argnames='invert_spatial')
  plain = apply(variables, x)
  inverted = apply(variables, x, invert_spatial=True)
  assert seeded.difference(inverted['logits'], plain['logits']) > 1e-3
  np.testing.assert_array_equal(inverted['spatial_attention'],
                                plain['spatial_attention'])
  with pytest.raises(ValueError, match='for features of 4 frames and meets'):
    model.apply(variables, x[:, :3])
  with pytest.raises(ValueError, match='2 clips of 4 frames'):
    model.apply(variables, x, temporal_attention=jnp.ones((2, 3)))


# --- On other backbones ------------------------------------------------------

# Frames that share a weight; features between the branches at a clip of 32x64,
# and at the end, of a whole network.
HOSTS = {
    'r3d_18': (8, (4, 7, 7, 256), (2, 4, 4, 512)),
    'resnext3d_101': (8, (4, 7, 7, 1024), (2, 4, 4, 2048)),
    'c3d': (4, (8, 14, 14, 512), (4, 7, 7, 512)),
    'slow_r101': (1, (32, 7, 7, 1024), (32, 4, 4, 2048))}


@pytest.mark.parametrize('host', HOSTS)
def test_other_backbones_are_split_before_their_last_stage(host):
  _, middle, last = HOSTS[host]
  model = models.get_model('st_abn', backbone=host, num_classes=5,
                           crop_size=112)
  video = jax.ShapeDtypeStruct((2, 32, 112, 112, 3), np.float32)
  outputs, variables = jax.eval_shape(
      lambda key, x: model.init_with_output(key, x, capture=True),
      jax.random.key(0), video)
  shapes = {key: x.shape for key, x in outputs.items() if key != 'stages'}
  assert shapes == {
      'logits': (2, 5), 'attention_logits': (2, 5),
      'temporal_attention': (2, 32), 'class_maps': (2, 32, *middle[1:3], 5),
      'spatial_attention': (2, 32, *middle[1:3])}
  stages = [x.shape[1:] for x in outputs['stages']]
  assert stages[-2:] == [middle, last]
  params = variables['params']
  # A copy of the last stage, but for what its first layer is given.
  trunk, perception = (
      {jax.tree_util.keystr(path): x.shape for path, x in
       jax.tree_util.tree_leaves_with_path(params[a][b] if b else params[a])}
      for a, b in (('branch', 'trunk'), ('perception', '')))
  assert trunk == perception
  assert params['branch']['temporal_fc1']['kernel'].shape == (middle[0],) * 2
  plain = models.get_model(host, num_classes=5, crop_size=112, num_frames=32)
  theirs = jax.eval_shape(plain.init, jax.random.key(0), video)['params']
  for part, value in params['backbone'].items():
    assert value == theirs['backbone'][part]
  assert params.get('neck') == theirs.get('neck')


@pytest.mark.usefixtures('plain_forms')
@pytest.mark.parametrize('host', [
    'r3d_18', 'c3d', pytest.param('resnext3d_101', marks=pytest.mark.slow)])
def test_both_branches_work_on_other_backbones(host):
  shared = HOSTS[host][0]
  model = models.get_model('st_abn', backbone=host, num_classes=5,
                           width=1 / 16, num_frames=16, crop_size=32)
  x = jnp.asarray(seeded.clip((2, 16, 32, 32, 3)))
  variables = seeded.variables(model, x.shape)
  apply = jax.jit(lambda v, edited: model.apply(
      v, x, temporal_attention=edited))
  own = jnp.full((2, 16), -1.0)
  plain = apply(variables, own)
  weights = np.asarray(plain['temporal_attention'])
  by_place = weights.reshape(2, 16 // shared, shared)
  np.testing.assert_array_equal(by_place, by_place[..., :1] + 0 * by_place)
  # One clip is edited: it alone is judged anew, its own attention stays.
  edited = apply(variables, own.at[0].set(1.0))
  change = np.abs(edited['logits'] - plain['logits']).max(1)
  size = np.abs(plain['logits']).max()
  assert change[0] > 1e-3 * size and change[1] < 1e-6 * size
  np.testing.assert_array_equal(edited['temporal_attention'], weights)
  # Its own weights, said aloud, change nothing; those of frames that share one
  # are averaged.
  said = apply(variables, jnp.asarray(weights))
  np.testing.assert_allclose(said['logits'], plain['logits'], atol=1e-6 * size)
  ramp = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (2, 1))
  means = ramp.reshape(2, -1, shared).mean(2).repeat(shared, 1)
  a, b = (apply(variables, jnp.asarray(w))['logits'] for w in (ramp, means))
  np.testing.assert_allclose(a, b, atol=1e-6 * size)
  # Both parts lead to the logits of the branch, only one to its own.
  for part, changed in (('perception', 0), ('branch', 1)):
    other = {**variables, 'params': {
        **variables['params'], part: jax.tree.map(
            lambda leaf: 1.5 * leaf, variables['params'][part])}}
    after = apply(other, own)
    assert np.abs(after['logits'] - plain['logits']).max() > 1e-3 * size
    moved = np.abs(after['attention_logits'] - plain['attention_logits']).max()
    assert (moved > 1e-3) == bool(changed)


def test_backbones_without_a_place_for_the_branch_are_refused():
  with pytest.raises(ValueError, match='backbone of st_abn .*p3d_199'):
    models.get_model('st_abn', backbone='p3d_199')


@pytest.mark.parametrize('host, layout', [('slow_r50', 'slowfast'),
                                          ('c3d', 'c3d')])
def test_weights_of_the_plain_network_start_it(host, layout):
  build = {'width': 1 / 16, 'num_classes': 5, 'num_frames': 16, 'crop_size': 32}
  shape = (1, 16, 32, 32, 3)
  plain = models.get_model(host, **build)
  theirs = seeded.variables(plain, shape)
  model = models.get_model('st_abn', backbone=host, **build)
  fresh = seeded.variables(model, shape, seed=1)
  variables, report = convert.load_into(
      model, fresh, convert.to_torch(plain, theirs, layout))
  assert report.unused == ()
  assert {path.split('/')[1] for path in report.fresh} == {
      'branch', 'mechanism'}
  ours, theirs = variables['params'], theirs['params']
  last = ({'conv5a', 'conv5b'} if host == 'c3d' else {'layer4'})
  perception = (ours['perception'] if host == 'c3d'
                else {'layer4': ours['perception']})
  jax.tree.map(np.testing.assert_array_equal, perception,
               {part: theirs['backbone'][part] for part in last})
  jax.tree.map(np.testing.assert_array_equal, ours['head'], theirs['head'])
