"""Units that are faded into a network."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
import small

from vidattn_jax import attention
from vidattn_jax import models
from vidattn_jax.training import optim


@pytest.mark.parametrize('name', attention.ATTENTION)
def test_a_faded_unit_starts_as_nothing(name):
  x = jnp.asarray(seeded.clip((2, 3, 6, 6, 16)))
  plain = attention.get_attention(name)()
  unit = attention.get_attention(name, near_identity=True)()
  variables = seeded.variables(plain, x.shape)
  params = variables.get('params', {})
  shapes = jax.eval_shape(unit.init, jax.random.key(0), x)['params']
  assert traverse_util.flatten_dict(shapes).keys() == (
      traverse_util.flatten_dict(params).keys() | {('alpha',)})

  def apply(alpha):
    return unit.apply({**variables, 'params': {**params, 'alpha': alpha}}, x,
                      mutable=['intermediates'])

  y, sown = apply(jnp.zeros(()))
  np.testing.assert_array_equal(y, x)
  wanted, gates_of_plain = plain.apply(variables, x,
                                       mutable=['intermediates'])
  jax.tree.map(np.testing.assert_array_equal, sown, gates_of_plain)
  y, _ = apply(jnp.full((), 0.25))
  np.testing.assert_allclose(y, 0.75 * x + 0.25 * wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['ST', 'GE3D-DW133', 'STA'])
def test_a_network_takes_in_a_faded_unit_unharmed(name):
  build = {'width': 1 / 16, 'num_classes': 3, 'num_frames': 2,
           'crop_size': 36, 'dropout': 0.0}
  shape = (2, 2, 36, 36, 3)
  plain = models.get_model('tsn_r18', **build)
  model = models.get_model('tsn_r18', attention=name, stages=(4,), **build,
                           attention_options={'near_identity': True})
  x = jnp.asarray(seeded.clip(shape))
  variables = seeded.variables(model, shape)
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  alphas = {path for path in params if path.endswith('/alpha')}
  assert len(alphas) == 2
  params.update(dict.fromkeys(alphas, jnp.zeros(())))
  params = traverse_util.unflatten_dict(params, sep='/')
  variables = {**variables, 'params': params}
  wanted = plain.apply(seeded.variables(plain, shape), x)['logits']
  np.testing.assert_array_equal(model.apply(variables, x)['logits'], wanted)

  # One step: only then the unit's own weights have a gradient.
  def loss(params):
    outputs, _ = model.apply({**variables, 'params': params}, x, train=True,
                             mutable=['batch_stats'])
    return (outputs['logits'] ** 2).sum()

  grad = jax.jit(jax.grad(loss))
  optimizer = optim.make_optimizer(params, small.config())
  updates, _ = optimizer.update(grad(params), optimizer.init(params), params)
  stepped = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
  moved = traverse_util.flatten_dict(stepped, sep='/')
  assert all(np.abs(moved[path]) > 1e-6 for path in alphas)
  for path, g in traverse_util.flatten_dict(grad(stepped), sep='/').items():
    assert '/attention/' not in path or np.abs(g).max() > 0, path


def test_alpha_is_a_parameter_that_starts_at_zero():
  unit = attention.get_attention('GE3D-G', near_identity=True)()
  params = unit.init(jax.random.key(0), jnp.ones((1, 2, 3, 3, 4)))['params']
  assert params == {'alpha': 0}
  assert params['alpha'].dtype == jnp.float32


def test_what_fades_a_unit_in_does_not_decay():
  params = {'backbone': {'attention': {
      'alpha': jnp.zeros(()), 'conv1': {'kernel': jnp.zeros((2, 2)),
                                        'bias': jnp.zeros(2)}}}}
  assert optim.parameter_groups(params) == {'backbone': {'attention': {
      'alpha': 'norm', 'conv1': {'kernel': 'weight', 'bias': 'bias'}}}}
