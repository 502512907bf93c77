"""BatchNorm with gradients of our own, beside Flax's."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax.backbones import layers


class _Two(nn.Module):
  """What is one function elsewhere, as Flax's layers."""

  @nn.compact
  def __call__(self, x, use_running_average):
    y = nn.BatchNorm(use_running_average, **layers._NORM, dtype=x.dtype,
                     name='bn')(x)
    return nn.sigmoid(y)[..., 0]


class _One(nn.Module):

  @nn.compact
  def __call__(self, x, use_running_average):
    return layers.norm_sigmoid(name='bn')(x, use_running_average)


# Running statistics are near those of the batch.
VARIABLES = {'params': {'bn': {'scale': 1.3, 'bias': -0.4}},
             'batch_stats': {'bn': {'mean': 0.6, 'var': 4.0}}}


def _run(module, dtype, frozen, wide):
  """Returns gate, statistics after it, and all gradients."""
  x = jnp.asarray(2 * seeded.clip((2, 3, 4, 5, 1)) + 0.5, dtype).astype(wide)
  g = jnp.asarray(seeded.clip((2, 3, 4, 5)), dtype).astype(wide)
  weights = jnp.promote_types(wide, jnp.float32)
  variables = jax.tree.map(lambda v: jnp.asarray([v], weights), VARIABLES)

  def apply(x, params):
    return module.apply({**variables, 'params': params}, x, frozen,
                        mutable=['batch_stats'])

  gate, pull, stats = jax.vjp(apply, x, variables['params'], has_aux=True)
  return gate, stats, pull(g)


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('dtype, tolerance', [
    ('float32', 2e-6), ('float64', 1e-14), ('bfloat16', 6e-3)])
def test_it_is_what_two_layers_are(dtype, tolerance, frozen):
  with jax.enable_x64(dtype == 'float64'):
    # Of bfloat16, two layers lose a tenth of the scale's gradient.
    two = _run(_Two(), dtype, frozen,
               'float32' if dtype == 'bfloat16' else dtype)
    one = _run(_One(), dtype, frozen, dtype)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
      assert a.shape == b.shape
      assert a.dtype == dtype or a.dtype == b.dtype
      assert seeded.difference(*(np.asarray(v, np.float64)
                                 for v in (a, b))) < tolerance


def test_it_begins_as_batch_norm_does():
  x = jnp.ones((2, 3, 4, 5, 1))
  one, two = (module().init(jax.random.key(0), x, False)
              for module in (_One, _Two))
  jax.tree.map(np.testing.assert_array_equal, one, two)


class _Norm(nn.Module):
  """BatchNorm alone."""
  ours: bool

  @nn.compact
  def __call__(self, x, frozen):
    if self.ours:
      return layers.norm(dtype=x.dtype, name='bn')(
          x, use_running_average=frozen)
    return nn.BatchNorm(frozen, **layers._NORM, dtype=x.dtype, name='bn')(x)


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('dtype, tolerance', [
    ('float32', 4e-6), ('float64', 1e-14), ('bfloat16', 1e-2)])
def test_batch_norm_is_that_of_flax(dtype, tolerance, frozen):
  with jax.enable_x64(dtype == 'float64'):
    weights = jnp.promote_types(dtype, jnp.float32)
    x, g = (jnp.asarray(seeded.clip((4, 3, 4, 5, 6), seed), dtype)
            for seed in (0, 1))
    x = 2 * x + jnp.arange(6, dtype=dtype)  # means of up to three deviations
    rng = np.random.default_rng(2)
    variables = {
        'params': {'bn': {key: jnp.asarray(rng.normal(1, 0.3, 6), weights)
                          for key in ('scale', 'bias')}},
        'batch_stats': {'bn': {key: jnp.asarray(rng.uniform(1, 4, 6), weights)
                               for key in ('mean', 'var')}}}

    def run(ours):
      def apply(x, params):
        return _Norm(ours).apply({**variables, 'params': params}, x, frozen,
                                 mutable=['batch_stats'])

      y, pull, stats = jax.vjp(apply, x, variables['params'], has_aux=True)
      return y, stats, pull(g)

    for a, b in zip(*(jax.tree.leaves(run(ours)) for ours in (True, False)),
                    strict=True):
      assert a.dtype == b.dtype
      assert seeded.difference(*(np.asarray(v, np.float64)
                                 for v in (a, b))) < tolerance


def test_batch_norm_begins_and_is_named_as_that_of_flax():
  x = jnp.ones((2, 3, 4, 5, 6))
  ours, theirs = (_Norm(ours).init(jax.random.key(0), x, False)
                  for ours in (True, False))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_batch_norm_keeps_one_array_less():
  class Rows(nn.Module):
    ours: bool

    @nn.compact
    def __call__(self, x):
      for i in range(3):
        x = layers.conv(16, (3, 3), name=f'conv{i}')(x)
        x = nn.relu(_Norm(self.ours, name=f'norm{i}')(x, False))
      return x.sum()

  x = jnp.ones((4, 32, 32, 16))

  def kept(ours):
    model = Rows(ours)
    variables = model.init(jax.random.key(0), x)
    compiled = jax.jit(jax.grad(lambda v: model.apply(
        v, x, mutable=['batch_stats'])[0])).lower(variables).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert kept(False) - kept(True) >= 2 * x.nbytes


def test_other_platforms_have_that_of_flax(compile_for):
  assert isinstance(layers.norm(), layers._BatchNorm)
  compile_for('tpu')
  assert type(layers.norm()) is nn.BatchNorm
