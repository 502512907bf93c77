"""Pixels as they leave the pipeline, made ready for a network."""

import jax.numpy as jnp
import numpy as np


def normalize(video, mean, std, dtype=jnp.float32):
  """Brings uint8 pixels to the networks' range.

  Args:
    video: uint8 [..., C], RGB.
    mean: C numbers on [0, 1].
    std: C positive numbers on [0, 1].
    dtype: type of the result; the arithmetic is float32.

  Returns:
    (video / 255 - mean) / std, of the same shape.
  """
  mean = np.asarray(mean, np.float32)
  std = np.asarray(std, np.float32)
  return ((video.astype(jnp.float32) / 255.0 - mean) / std).astype(dtype)
