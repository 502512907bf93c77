"""Weights of images for video: 2D kernels in 3D networks, RGB for flow."""

import numpy as np

from vidattn_jax import names

INFLATIONS = ('mean', 'centre')
_RGB = 3


def inflate(kernel: np.ndarray, length: int, inflation: str = 'mean'):
  """Makes a 3D kernel of a 2D one; on a still clip both give the same.

  Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, section
  2.4.1, for 'mean'.

  Args:
    kernel: [h, w, I, O].
    length: frames of the result.
    inflation: 'mean', every frame has the kernel divided by `length`;
      'centre', the middle frame has it, and the others are zero.

  Returns:
    [length, h, w, I, O].

  Raises:
    ValueError: there is no such inflation.
  """
  names.check_name('inflation', inflation, INFLATIONS)
  if inflation == 'mean':
    return np.repeat(kernel[None] / np.float32(length), length, 0)
  inflated = np.zeros((length, *kernel.shape), kernel.dtype)
  inflated[length // 2] = kernel
  return inflated


def for_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
  """Makes a kernel for other channels, such as flow, of one for RGB.

  Wang et al., "Temporal Segment Networks", ECCV 2016, section 3.2
  ("cross-modality pre-training"): the mean over RGB, repeated, not rescaled.

  Args:
    kernel: [..., 3, O].
    channels: those of the result.

  Returns:
    [..., channels, O].
  """
  return np.repeat(kernel.mean(-2, keepdims=True), channels, -2)


def adapt(expected: dict, given: dict, inflation: str = 'mean'):
  """Adapts kernels of images to a network for video, or for flow.

  Args:
    expected: {path: array or description} of the network.
    given: {path: array}.
    inflation: see `inflate`.

  Returns:
    ({path: array}, {path: what was done}): kernels that still do not fit are
    left as they are.

  Raises:
    ValueError: there is no such inflation.
  """
  names.check_name('inflation', inflation, INFLATIONS)
  adapted, done = dict(given), {}
  for path, array in given.items():
    shape = tuple(expected[path].shape)
    if array.ndim < 4 or '/attention/' in path:
      continue
    channels = shape[-2]
    steps = []
    if array.shape[-2] == _RGB != channels:
      array = for_channels(array, channels)
      steps.append(f'the mean over RGB for each of {channels} channels')
    if array.shape == shape[1:]:
      array = inflate(array, shape[0], inflation)
      steps.append(f'{inflation} over {shape[0]} frames')
    if steps and array.shape == shape:
      adapted[path] = array
      done[path] = ', '.join(steps)
  return adapted, done
