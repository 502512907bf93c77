"""P3D-199: residual blocks whose convolutions are split in space and time.

Qiu et al., "Learning Spatio-Temporal Representation with Pseudo-3D Residual
Networks", ICCV 2017.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.backbones import layers
from vidattn_jax.backbones import resnet

_DEPTHS = (3, 8, 36, 3)
_EXPANSION = 4
# What a block does with time; blocks take turns over the whole network.
KINDS = ('A', 'B', 'C')
# The stem and each of the first three stages halve the number of frames.
_LEAST_FRAMES = 16


class Block(nn.Module):
  """Bottleneck whose middle is a spatial and a temporal convolution.

  Attributes:
    width: channels of the inner convolutions.
    kind: 'A', space then time; 'B', both of the same input, summed; 'C', space
      plus time of it; None, space alone, and frames are a batch.
    stride: stride in space, of the first convolution.
    attention: makes the attention unit, or None.
    position: 'bn2', after the normalisation of the spatial convolution and
      before its ReLU; 'before_sum', after the last normalisation;
      'after_sum', after the sum and its ReLU.
    dtype: type of the computation.
  """
  width: int
  kind: str | None
  stride: int = 1
  attention: Callable[..., nn.Module] | None = None
  position: str = 'bn2'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, h, w, C'] from [N, T, H, W, C]."""

    def conv(y, name, width, kernel, stride=1):
      strides = (1, stride, stride)
      if self.kind is None:
        kernel, strides = kernel[1:], strides[1:]
      return layers.conv(width, kernel, strides, layers.centered(kernel),
                         dtype=self.dtype, name=name)(y)

    def norm(y, name):
      return layers.norm(dtype=self.dtype, name=name)(
          y, use_running_average=not train)

    def attend(y, position):
      return layers.attend(self, y, position, train)

    def temporal(y):
      return nn.relu(norm(conv(y, 'conv3', self.width, (3, 1, 1)), 'bn3'))

    point, plane = (1, 1, 1), (1, 3, 3)
    out = self.width * _EXPANSION
    shortcut = x
    if self.stride != 1 or x.shape[-1] != out:
      shortcut = norm(conv(x, 'downsample_conv', out, point, self.stride),
                      'downsample_bn')
    x = nn.relu(norm(conv(x, 'conv1', self.width, point, self.stride), 'bn1'))
    # The published names.
    second = 'conv_normal' if self.kind is None else 'conv2'
    y = norm(conv(x, second, self.width, plane), second.replace('conv', 'bn'))
    y = nn.relu(attend(y, 'bn2'))
    if self.kind == 'A':
      y = temporal(y)
    elif self.kind == 'B':
      y = y + temporal(x)
    elif self.kind == 'C':
      y = y + temporal(y)
    y = attend(norm(conv(y, 'conv4', out, point), 'bn4'), 'before_sum')
    return attend(layers.relu_of_sum(y + shortcut), 'after_sum')


class P3D(nn.Module):
  """P3D-199; the last stage is two-dimensional.

  Attributes:
    width: multiplier of every layer's width.
    attention: makes the attention unit from its name and type, or None.
    position: where in a block it stands, see `Block`.
    stages: stages, of 1 to 4, that have units.
    blocks: which of their blocks have, see `layers.attended`.
    dtype: type of the computation; parameters and statistics are float32.
  """
  width: float = 1.0
  attention: Callable[..., nn.Module] | None = None
  position: str = 'bn2'
  stages: tuple[int, ...] = (1, 2, 3, 4)
  blocks: tuple[int, ...] | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def check_fields(self):
    """Raises a ValueError if a field is not one of those above."""
    layers.check_placement(self.width, self.attention, self.stages,
                           self.blocks, _DEPTHS, self.position,
                           resnet.POSITIONS)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False):
    """Computes the features of every stage.

    Args:
      x: [N, T, H, W, C], normalised; T from 16 on.
      train: use, and update, the statistics of this batch.

    Returns:
      List of the four stages' outputs [N, t, h, w, C'], before their pooling
      over time: at 1/2, 1/4, 1/8 and 1/16 of T, and 1/4, 1/8, 1/16 and 1/32
      of H and W.

    Raises:
      ValueError: a field is not one of those above, or the clip is too short.
    """
    self.check_fields()
    if x.shape[1] < _LEAST_FRAMES:
      raise ValueError(f'The video has {x.shape[1]} frames; P3D takes at least '
                       f'{_LEAST_FRAMES}: set num_frames to that or more.')
    base = layers.widened(64, self.width)
    stem = (1, 7, 7)
    x = layers.conv(base, stem, (1, 2, 2), layers.centered(stem),
                    dtype=self.dtype, name='conv1')(x.astype(self.dtype))
    x = nn.relu(layers.norm(dtype=self.dtype, name='bn1')(
        x, use_running_average=not train))
    x = layers.MaxPool((2, 3, 3), (2, 2, 2), ((0, 0), (1, 1), (1, 1)),
                       name='maxpool')(x)
    outputs = []
    for i, depth in enumerate(_DEPTHS):
      blocks = []
      for j in range(depth):
        flat = i == len(_DEPTHS) - 1
        blocks.append(functools.partial(
            Block, base * 2 ** i,
            None if flat else KINDS[(sum(_DEPTHS[:i]) + j) % len(KINDS)],
            stride=2 if i > 0 and j == 0 else 1,
            attention=layers.attended(self.attention, self.stages, self.blocks,
                                      i + 1, j, depth),
            position=self.position, dtype=self.dtype))
      x = resnet.Stage(tuple(blocks), name=f'layer{i + 1}')(x, train)
      outputs.append(x)
      if i < len(_DEPTHS) - 1:
        x = layers.MaxPool((2, 1, 1), (2, 1, 1), ((0, 0),) * 3,
                           name=f'pool{i + 1}')(x)
    return outputs
