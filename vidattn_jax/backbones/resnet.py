"""2D residual networks over the frames of a clip, with shift and attention.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, as
torchvision builds it: the stride of a bottleneck is in its 3x3 convolution.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import layers
from vidattn_jax.backbones import remat
from vidattn_jax.ops import normalized
from vidattn_jax.ops import temporal_shift

# Blocks of each stage.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
          101: (3, 4, 23, 3)}
# From this depth on blocks are bottlenecks.
BOTTLENECK_FROM = 50
# Where a unit may stand in a block.
POSITIONS = ('bn2', 'before_sum', 'after_sum')
PLACEMENTS = ('tsm', 'aia')
# With a stage this long, only every second block is shifted.
_LONG_STAGE = 23


class Block(nn.Module):
  """Residual block, in two or three dimensions.

  Attributes:
    width: channels of the inner convolutions.
    stride: stride in space.
    bottleneck: 1x1, 3x3, 1x1 and wider at the end, or twice 3x3.
    shift: shift the input of the first convolution in time (not the
      shortcut).
    temporal: lengths in time of the kernels of the convolutions; None if
      frames are a batch to them.
    temporal_stride: stride in time, of the convolution that has `stride`.
    groups: groups of a bottleneck's 3x3 convolution.
    expansion: how many times `width` a bottleneck ends with.
    shortcut: what leads past where stride or width change: 'B', a 1x1
      convolution and its BatchNorm; 'A', every `stride`-th place, and zeros
      for the new channels.
    attention: makes the attention unit, or None.
    position: 'bn2', after the second normalisation and before what follows
      it (a ReLU in a bottleneck, the sum in a basic block); 'before_sum',
      after the last normalisation; 'after_sum', after the sum and its ReLU.
    dtype: type of the computation.
  """
  width: int
  stride: int = 1
  bottleneck: bool = True
  shift: bool = False
  temporal: tuple[int, ...] | None = None
  temporal_stride: int = 1
  groups: int = 1
  expansion: int = 4
  shortcut: str = 'B'
  attention: Callable[..., nn.Module] | None = None
  position: str = 'bn2'
  dtype: jnp.dtype = jnp.float32

  @property
  def halves(self) -> bool:
    """Whether the result is shorter, or smaller, than the clip."""
    return max(self.stride, self.temporal_stride) > 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, t, h, w, C'] from [N, T, H, W, C]."""
    deep = self.temporal is not None
    lengths = self.temporal if deep else (1, 1, 1)
    strides = (self.temporal_stride, self.stride, self.stride)

    def conv(y, name, width, length, size, strided=False, groups=1,
             make=layers.conv):
      kernel = (length, size, size)
      steps = strides if strided else (1, 1, 1)
      if not deep:
        kernel, steps = kernel[1:], steps[1:]
      return make(
          width, kernel, steps, layers.centered(kernel), dtype=self.dtype,
          feature_group_count=groups, name=name)(y)

    def norm(y, name):
      return layers.norm(dtype=self.dtype, name=name)(
          y, use_running_average=not train)

    clips = x.shape[:2]

    def merged(y):
      # Frames are a batch to all but attention and shift. As one axis, they
      # may lie where the compiler likes them.
      return y if deep else y.reshape(-1, *y.shape[2:])

    def split(y):
      return y if deep else y.reshape(*clips, *y.shape[1:])

    def attend(y, position):
      if self.attention is None or position != self.position:
        return y
      return merged(layers.attend(self, split(y), position, train))

    def norm_and_attend(y, name, position):
      unit = layers.unit_at(self, position)
      if unit is None:
        return norm(y, name)
      if layers.leaves_norm(self, unit, split(y)):
        clip = normalized.Clip(split(y), layers.coefficients(name=name)(
            y, use_running_average=not train))
      else:
        clip = split(norm(y, name))
      return merged(remat.unit(unit, clip, train))

    out = self.width * (self.expansion if self.bottleneck else 1)
    y = merged(temporal_shift.temporal_shift(x) if self.shift else x)
    x = merged(x)
    if self.bottleneck:
      y = nn.relu(norm(conv(y, 'conv1', self.width, lengths[0], 1), 'bn1'))
      y = conv(y, 'conv2', self.width, lengths[1], 3, strided=True,
               groups=self.groups)
      y = nn.relu(norm_and_attend(y, 'bn2', 'bn2'))
      y = norm(conv(y, 'conv3', out, lengths[2], 1), 'bn3')
    else:
      y = nn.relu(norm(conv(y, 'conv1', self.width, lengths[0], 3,
                            strided=True), 'bn1'))
      y = norm_and_attend(conv(y, 'conv2', self.width, lengths[1], 3), 'bn2',
                          'bn2')
    y = attend(y, 'before_sum')
    if x.shape[-1] != out or max(strides) > 1:
      if self.shortcut == 'A':
        x = split(x)[:, ::strides[0], ::strides[1], ::strides[2]]
        x = jnp.pad(x, ((0, 0),) * 4 + ((0, out - x.shape[-1]),))
        x = merged(x)
      else:
        # In training, what the sum reads is kept for the gradients.
        make = layers.conv if train else layers.conv_to_sum
        x = norm(conv(x, 'downsample_conv', out, 1, 1, strided=True, make=make),
                 'downsample_bn')
    return split(attend(layers.relu_of_sum(x + y), 'after_sum'))


class Stage(nn.Module):
  """Blocks in a row.

  Attributes:
    blocks: makes each block from its name.
  """
  blocks: tuple[Callable[..., nn.Module], ...]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, t, h, w, C'] from [N, T, H, W, C]."""
    for i, block in enumerate(self.blocks):
      x = remat.block(block(name=f'block{i}'), x, train)
    return x


class ResNet(nn.Module):
  """2D residual network over the frames of a clip.

  Attributes:
    depth: 18, 34, 50 or 101 layers.
    width: multiplier of every layer's width.
    shift: shift channels in time (TSM).
    placement: what happens in a network that has a stage of 23 blocks or
      more (ResNet-101). 'tsm': all stages shift every second block, and every
      block has a unit. 'aia': that stage shifts every second block and has
      units in those alone; the other stages in every block. These are the
      rules of the two papers' codes.
    attention: makes the attention unit from its name and type, or None.
    position: where in a block it stands, see `Block`.
    stages: stages, of 1 to 4, that have units.
    blocks: which of their blocks have, see `layers.attended`.
    dtype: type of the computation; parameters and statistics are float32.
  """
  depth: int = 50
  width: float = 1.0
  shift: bool = False
  placement: str = 'tsm'
  attention: Callable[..., nn.Module] | None = None
  position: str = 'bn2'
  stages: tuple[int, ...] = (1, 2, 3, 4)
  blocks: tuple[int, ...] | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def check_fields(self):
    """Raises a ValueError if a field is not one of those above."""
    names.check_name('depth', self.depth, DEPTHS)
    names.check_name('placement', self.placement, PLACEMENTS)
    depths = DEPTHS[self.depth]
    layers.check_placement(self.width, self.attention, self.stages,
                           self.blocks, depths, self.position, POSITIONS)
    if self.attention is not None and not any(
        self._unit(stage, block) for stage, depth in enumerate(depths, 1)
        for block in range(depth)):
      raise ValueError(
          f'blocks is {self.blocks}, but with placement \'aia\' stages of '
          f'{_LONG_STAGE} blocks have units in blocks 0, 2, 4, ... alone; name '
          'some of these, or set placement to \'tsm\'.')

  @nn.nowrap
  def _every(self, stage):
    """Returns 2 if every second block of a stage is shifted, else 1."""
    depths = DEPTHS[self.depth]
    long = depths[stage - 1] if self.placement == 'aia' else max(depths)
    return 2 if long >= _LONG_STAGE else 1

  @nn.nowrap
  def _unit(self, stage, block):
    """Returns the factory of a block's attention unit, or None."""
    if self.placement == 'aia' and block % self._every(stage):
      return None
    return layers.attended(self.attention, self.stages, self.blocks, stage,
                           block, DEPTHS[self.depth][stage - 1])

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False):
    """Computes the features of every stage.

    Args:
      x: [N, T, H, W, C], normalised.
      train: use, and update, the statistics of this batch.

    Returns:
      List of the four stages' outputs [N, T, h, w, C'], at 1/4, 1/8, 1/16 and
      1/32 of H and W.

    Raises:
      ValueError: a field is not one of those above.
    """
    self.check_fields()
    base = layers.widened(64, self.width)
    x = layers.conv(base, (7, 7), (2, 2), layers.centered((7, 7)),
                    dtype=self.dtype, name='conv1')(x.astype(self.dtype))
    x = nn.relu(layers.norm(dtype=self.dtype, name='bn1')(
        x, use_running_average=not train))
    x = layers.MaxPool((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)),
                       name='maxpool')(x)
    outputs = []
    for i, depth in enumerate(DEPTHS[self.depth]):
      every = self._every(i + 1)
      blocks = []
      for j in range(depth):
        blocks.append(functools.partial(
            Block, base * 2 ** i, stride=2 if i > 0 and j == 0 else 1,
            bottleneck=self.depth >= BOTTLENECK_FROM,
            shift=self.shift and j % every == 0,
            attention=self._unit(i + 1, j), position=self.position,
            dtype=self.dtype))
      x = Stage(tuple(blocks), name=f'layer{i + 1}')(x, train)
      outputs.append(x)
    return outputs
