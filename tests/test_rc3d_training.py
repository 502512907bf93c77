"""R-C3D learns, end to end, with STA."""

import jax
import numpy as np
import optax
import pytest
import seeded

from vidattn_jax import models
from vidattn_jax.training import losses


@pytest.mark.slow
def test_a_few_steps_lower_all_losses():
  model = models.get_model(
      'rc3d', num_classes=3, num_frames=64, crop_size=64, width=1 / 16,
      scales=(1, 2, 3), proposals=(20, 12), dropout=0.0, attention='STA')
  truth = np.full((2, 5, 3), -1, np.float32)
  truth[:, 0] = (16, 39, 0), (8, 31, 2)
  video = 0.1 * seeded.clip((2, *model.image_shape))
  video[0, 16:40, :, :, 0] += 2
  video[1, 8:32, :, :, 2] += 2
  optimizer = optax.adam(3e-3)

  def loss(variables, video, key):
    parts = losses.rc3d_losses(model.apply(
        variables, video, train=True, segments=truth, rngs={'dropout': key}))
    parts = {name: part.mean() for name, part in parts.items()}
    return sum(parts.values()), parts

  @jax.jit
  def step(variables, state, video, key):
    grads, parts = jax.grad(loss, has_aux=True)(variables, video, key)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(variables, updates), state, parts

  # Here it is the steps that take long.
  jax.config.update('jax_disable_most_optimizations', False)
  try:
    variables = jax.jit(model.init)(jax.random.key(0), video)
    assert 'attention' in variables['params']['backbone']['conv5b']
    state, seen = optimizer.init(variables), []
    for i in range(40):
      variables, state, parts = step(variables, state, video,
                                     jax.random.key(i))
      seen.append({name: float(part) for name, part in parts.items()})
  finally:
    jax.config.update('jax_disable_most_optimizations', True)
  first, last = (
      {name: np.mean([parts[name] for parts in some]) for name in seen[0]}
      for some in (seen[:4], seen[-10:]))
  assert last['rpn_class'] < 0.5 * first['rpn_class']
  assert last['class'] < 0.8 * first['class']
  assert sum(last.values()) < 0.8 * sum(first.values())
