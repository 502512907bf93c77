"""Pixels as they leave the pipeline, made ready for a network."""

import jax
import jax.numpy as jnp
import numpy as np

# Share of red, green and blue in what the eye sees as grey (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)


def from_yuv(video, chroma, color):
  """Converts clips that came as brightness, and colour at half size, to RGB.

  Args:
    video: Y, uint8 [N, T, H, W, 1].
    chroma: U and V, uint8 [N, T, H / 2, W / 2, 2].
    color: float32 [N, 3, 4]: R, G and B from Y, U, V and 1, on 0 to 255.

  Returns:
    uint8 [N, T, H, W, 3]; pixels that share U and V have them alike.
  """
  for axis in (2, 3):
    chroma = jnp.repeat(chroma, 2, axis)
  color = color[:, None, None, None]
  y, u, v = (x.astype(jnp.float32) for x in (
      video, chroma[..., :1], chroma[..., 1:]))
  rgb = (color[..., 0] * y + color[..., 1] * u + color[..., 2] * v
         + color[..., 3])
  return jnp.clip(jnp.round(rgb), 0, 255).astype(jnp.uint8)


def jitter(key, video, strength: float):
  """Changes brightness, contrast and saturation of each clip, in this order.

  Args:
    key: random key.
    video: uint8 [N, T, H, W, 3].
    strength: each factor is drawn from 1 - strength to 1 + strength, one for
      all frames of a clip; in [0, 1].

  Returns:
    float32 of the same shape, in [0, 255].
  """
  factors = jax.random.uniform(key, (3, len(video), 1, 1, 1, 1), jnp.float32,
                               1 - strength, 1 + strength)
  brightness, contrast, saturation = factors

  def grey(x):
    return (x * np.asarray(_GREY, np.float32)).sum(-1, keepdims=True)

  def blend(x, other, factor):
    return jnp.clip(factor * x + (1 - factor) * other, 0, 255)

  x = blend(video.astype(jnp.float32), 0, brightness)
  x = blend(x, grey(x).mean((1, 2, 3, 4), keepdims=True), contrast)
  return blend(x, grey(x), saturation)


def normalize(video, mean, std, dtype=jnp.float32):
  """Brings uint8 pixels to the networks' range.

  Args:
    video: uint8 or float [..., C], RGB, 0 to 255.
    mean: C numbers on [0, 1].
    std: C positive numbers on [0, 1].
    dtype: type of the result; the arithmetic is float32.

  Returns:
    (video / 255 - mean) / std, of the same shape.
  """
  mean = np.asarray(mean, np.float32)
  std = np.asarray(std, np.float32)
  return ((video.astype(jnp.float32) / 255.0 - mean) / std).astype(dtype)


def denormalize(video, mean, std):
  """Brings what `normalize` returned back to uint8, rounded."""
  mean = np.asarray(mean, np.float32)
  std = np.asarray(std, np.float32)
  video = (video.astype(jnp.float32) * std + mean) * 255.0
  return jnp.clip(jnp.round(video), 0, 255).astype(jnp.uint8)
