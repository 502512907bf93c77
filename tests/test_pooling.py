"""Maximum pooling: its gradient on the CPU, and its form elsewhere."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax.ops import pooling

# Window, strides, padding, shape between the batch and the channels: windows
# that overlap, that lie side by side, that leave something out, that hang over
# the edge, of one axis; 2D and 3D.
CASES = [
    ((3, 3, 3), (2, 2, 2), ((1, 1),) * 3, (5, 8, 7)),
    ((1, 2, 2), (1, 2, 2), ((0, 0),) * 3, (3, 7, 6)),
    ((2, 3, 3), (2, 2, 2), ((0, 0), (1, 1), (1, 1)), (5, 6, 9)),
    ((2, 2, 2), (2, 2, 2), ((0, 0), (1, 1), (1, 1)), (2, 7, 7)),
    ((1, 3, 3), (1, 2, 2), ((0, 0), (0, 1), (0, 1)), (2, 8, 8)),
    ((2, 1, 1), (2, 1, 1), ((0, 0),) * 3, (5, 3, 2)),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (6, 5)),
]


@functools.partial(jax.jit, static_argnums=(0, 2))
def _value_and_gradient(pool, x, case):
  window, strides, padding, _ = case
  y, pullback = jax.vjp(lambda x: pool(x, window, strides, padding), x)
  g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
  return y, pullback(g.astype(y.dtype))[0]


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_max_pool_and_its_gradient(case, dtype):
  # Few whole numbers: nearly every window has its maximum more than once.
  x = jnp.round(seeded.clip((2, *case[3], 4))).astype(dtype)
  ours = _value_and_gradient(pooling.max_pool, x, case)
  plain = _value_and_gradient(nn.max_pool, x, case)
  np.testing.assert_array_equal(ours[0], plain[0])
  assert ours[1].dtype == dtype
  tolerance = 1e-6 if dtype == jnp.float32 else 2e-2
  np.testing.assert_allclose(ours[1].astype(jnp.float32),
                             plain[1].astype(jnp.float32), atol=tolerance)


@pytest.mark.parametrize('platform, searches', [('cpu', False), ('tpu', True),
                                                ('cuda', True)])
def test_other_platforms_get_the_plain_gradient(platform, searches,
                                                compile_for):
  compile_for('cuda')
  x = jnp.ones((1, 4, 4, 4, 2))
  step = jax.jit(lambda x: _value_and_gradient(pooling.max_pool, x,
                                               CASES[0])[1])
  text = step.trace(x).lower(lowering_platforms=(platform,)).as_text()
  assert ('select_and_scatter' in text) == searches
