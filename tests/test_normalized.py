"""The sigmoid of BatchNorm as one function."""

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
    y = layers.norm(dtype=x.dtype, name='bn')(x, use_running_average)
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
