"""Optical flow of frames as they leave the pipeline."""

import jax
import jax.numpy as jnp

from vidattn_jax.ops import tvl1


def between(frames: jax.Array, bound: float = 20.0) -> jax.Array:
  """Computes the flow from each frame to the next.

  Args:
    frames: uint8 [..., n, H, W, 3], RGB.
    bound: displacement in pixels that becomes 255.

  Returns:
    uint8 [..., n - 1, H, W, 2], x and y, as it would be stored without loss.
  """
  grey = tvl1.grayscale(frames)
  flow = tvl1.tvl1(grey[..., :-1, :, :], grey[..., 1:, :, :])
  return tvl1.quantize(flow, bound)


def of_clips(video: jax.Array, stack: int, bound: float = 20.0) -> jax.Array:
  """Turns clips of frames into clips of stacked flow.

  Args:
    video: uint8 [..., T * (stack + 1), H, W, 3]: for each step of the clip the
      frames between which its fields lie.
    stack: fields of a step.
    bound: displacement in pixels that becomes 255.

  Returns:
    uint8 [..., T, H, W, 2 * stack], x and y of the first field, and so on.
  """
  frames = video.reshape(*video.shape[:-4], -1, stack + 1, *video.shape[-3:])
  fields = between(frames, bound)
  fields = jnp.moveaxis(fields, -4, -2)
  return fields.reshape(*fields.shape[:-2], 2 * stack)
