"""T-STAM's attention against reference outputs, and the network around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax import models
from vidattn_jax.attention import tstam


@pytest.fixture(scope='module')
def golden(data_dir):
  return np.load(data_dir / 'tstam_head.npz')


@pytest.fixture(scope='module')
def head(golden):
  """The attention with its weights, the classifier's weights, and features."""
  module = tstam.TSTAM(embed_dim=16, num_spatial=4, num_segments=6)
  state = seeded.state_dict('tstam_head_c32_d16_l4_k10')
  for name, value in state.items():
    if name.endswith('.weight') and value.ndim == 1:
      value *= golden['norm_gain']
  x = seeded.clip(tuple(map(int, golden['input_shape'])))
  x = jnp.asarray(x.transpose(0, 1, 3, 4, 2))
  variables = seeded.from_published(module, x.shape, state, 'neck', 'tstam')
  return module, variables, state, x


def test_equals_the_reference(golden, head):
  module, variables, state, x = head
  with jax.default_matmul_precision('highest'):
    outputs = jax.jit(module.apply)(variables, x)
  ours = {'fused': outputs['features'],
          'temporal_attention': outputs['temporal_attention'],
          'spatial_attention': outputs['spatial_attention'].swapaxes(1, 2),
          'logits': outputs['features'] @ state['fc.weight'].T
                    + state['fc.bias']}
  for name, value in ours.items():
    assert seeded.difference(value, golden[name]) < 2e-5, name


@pytest.mark.parametrize('change', [
    lambda p: p['spatial0']['conv2'].update(
        kernel=p['spatial0']['conv2']['kernel'].swapaxes(0, 1)),
    lambda p: p['spatial1']['bn1'].update(
        scale=1 + 0 * p['spatial1']['bn1']['scale']),
    lambda p: p['temporal_score'].update(
        kernel=-p['temporal_score']['kernel']),
    lambda p: p.update(spatial2=p['spatial3']),
    lambda p: p['embed'].update(bias=0 * p['embed']['bias'])])
def test_a_mutant_is_caught(golden, head, change):
  module, variables, _, x = head
  params = jax.tree.map(lambda leaf: leaf, variables['params'])
  change(params)
  outputs = jax.jit(module.apply)({**variables, 'params': params}, x)
  assert seeded.difference(outputs['features'], golden['fused']) > 1e-3


def test_longer_clips_change_nothing_but_to_the_letter(head):
  module, variables, _, x = head
  twice = jnp.concatenate([x, x], 1)
  outputs = {kind: [module.clone(frame_sum=kind).apply(variables, clip)
                    ['features'] for clip in (x, twice)]
             for kind in tstam.SUMS}
  np.testing.assert_allclose(*outputs['invariant'], rtol=1e-4, atol=1e-5)
  assert seeded.difference(*outputs['literal']) > 0.1
  # At the clip's own length they are one.
  np.testing.assert_allclose(outputs['literal'][0], outputs['invariant'][0])
  with pytest.raises(ValueError, match='no frame_sum'):
    module.clone(frame_sum='sum').apply(variables, x)


@pytest.mark.parametrize('host', [None, 'tsm_r18'])
def test_network(host):
  overrides = {'backbone': host} if host else {}
  model = models.get_model(
      'tstam', num_classes=5, width=1 / 8, num_frames=2, crop_size=64,
      embed_dim=8, num_spatial=3, **overrides)
  shape = (2, 2, 64, 64, 3)
  variables = seeded.variables(model, shape)
  x = jnp.asarray(seeded.clip(shape))
  outputs = jax.jit(model.apply)(variables, x)
  assert outputs['spatial_attention'].shape == (2, 2, 3, 2, 2)
  np.testing.assert_allclose(outputs['spatial_attention'].sum((-1, -2)), 1,
                             rtol=1e-5)
  np.testing.assert_allclose(outputs['temporal_attention'].sum(-1), 1,
                             rtol=1e-5)
  # The frames' order means nothing to it, unless the backbone shifts them.
  turned = jax.jit(model.apply)(variables, x[:, ::-1])
  same = seeded.difference(turned['logits'], outputs['logits']) < 1e-5
  assert same == (host is None)
  with pytest.raises(ValueError, match='no backbone of tstam'):
    models.get_model('tstam', backbone='c3d')


@pytest.mark.slow
@pytest.mark.parametrize('host', [
    name for name in models.MODELS if name.startswith(('tsn', 'tsm'))])
def test_any_2d_backbone_takes_the_place(host):
  model = models.get_model('tstam', backbone=host, width=1 / 16, num_classes=6,
                           embed_dim=24, num_spatial=3)
  assert (model.num_frames, model.dropout) == (6, 0.8)
  params = jax.eval_shape(model.init, jax.random.key(0),
                          jnp.zeros((1, *model.image_shape)))['params']
  assert set(params) == {'backbone', 'neck', 'head'}
  assert params['head']['kernel'].shape == (3 * 24, 6)
