"""2D residual networks over the frames of a clip, with shift and attention.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, as
torchvision builds it: the stride of a bottleneck is in its 3x3 convolution.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import layers
from vidattn_jax.ops import temporal_shift

# Blocks of each stage.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
          101: (3, 4, 23, 3)}
# Depths that are made of bottlenecks, and how much wider they end.
BOTTLENECK_FROM, EXPANSION = 50, 4
# Where a unit may stand in a block.
POSITIONS = ('bn2', 'before_sum', 'after_sum')
PLACEMENTS = ('tsm', 'aia')
# With a stage this long, only every second block is shifted.
_LONG_STAGE = 23


class Block(nn.Module):
  """Residual block; frames are a batch to its convolutions.

  Attributes:
    width: channels of the inner convolutions.
    stride: stride in space.
    bottleneck: 1x1, 3x3, 1x1 and four times wider at the end, or twice 3x3.
    shift: shift the input of the first convolution in time (not the
      shortcut).
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
  attention: Callable[..., nn.Module] | None = None
  position: str = 'bn2'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, h, w, C'] from [N, T, H, W, C]."""

    def conv(y, name, width, size, stride=1):
      edge = (size - 1) // 2
      return layers.conv(width, (size, size), (stride, stride),
                   ((edge, edge), (edge, edge)), dtype=self.dtype,
                   name=name)(y)

    def norm(y, name):
      return layers.norm(dtype=self.dtype, name=name)(
          y, use_running_average=not train)

    def attend(y, position):
      if self.attention is None or self.position != position:
        return y
      return self.attention(dtype=self.dtype, name='attention')(y, train)

    out = self.width * (EXPANSION if self.bottleneck else 1)
    y = temporal_shift.temporal_shift(x) if self.shift else x
    if self.bottleneck:
      y = nn.relu(norm(conv(y, 'conv1', self.width, 1), 'bn1'))
      y = norm(conv(y, 'conv2', self.width, 3, self.stride), 'bn2')
      y = nn.relu(attend(y, 'bn2'))
      y = norm(conv(y, 'conv3', out, 1), 'bn3')
    else:
      y = nn.relu(norm(conv(y, 'conv1', self.width, 3, self.stride), 'bn1'))
      y = attend(norm(conv(y, 'conv2', self.width, 3), 'bn2'), 'bn2')
    y = attend(y, 'before_sum')
    if self.stride != 1 or x.shape[-1] != out:
      x = norm(conv(x, 'downsample_conv', out, 1, self.stride),
               'downsample_bn')
    return attend(nn.relu(x + y), 'after_sum')


class Stage(nn.Module):
  """Residual blocks of one width.

  Attributes:
    depth: number of blocks.
    width: see `Block`.
    stride: stride of the first block.
    bottleneck: see `Block`.
    shift_every: shift every block (1), every second (2), or none (0).
    attention: makes the attention unit of each block, or None.
    position: see `Block`.
    dtype: type of the computation.
  """
  depth: int
  width: int
  stride: int
  bottleneck: bool
  shift_every: int = 0
  attention: tuple[Callable[..., nn.Module] | None, ...] = ()
  position: str = 'bn2'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, h, w, C'] from [N, T, H, W, C]."""
    for i in range(self.depth):
      x = Block(
          self.width, self.stride if i == 0 else 1, self.bottleneck,
          shift=self.shift_every > 0 and i % self.shift_every == 0,
          attention=self.attention[i],
          position=self.position, dtype=self.dtype, name=f'block{i}')(x, train)
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
    names.check_name('depth', self.depth, DEPTHS)
    names.check_name('placement', self.placement, PLACEMENTS)
    layers.check_placement(self.width, self.position, POSITIONS, self.stages,
                           len(DEPTHS[self.depth]))
    base = max(1, round(64 * self.width))
    x = layers.conv(base, (7, 7), (2, 2), ((3, 3), (3, 3)), dtype=self.dtype,
              name='conv1')(x.astype(self.dtype))
    x = nn.relu(layers.norm(dtype=self.dtype, name='bn1')(
        x, use_running_average=not train))
    x = layers.MaxPool((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)),
                       name='maxpool')(x)
    depths = DEPTHS[self.depth]
    outputs = []
    for i, depth in enumerate(depths):
      long = depth if self.placement == 'aia' else max(depths)
      every = 2 if long >= _LONG_STAGE else 1
      units = tuple(
          layers.attended(self.attention, self.stages, self.blocks, i + 1, j,
                          depth)
          if self.placement != 'aia' or j % every == 0 else None
          for j in range(depth))
      x = Stage(
          depth, base * 2 ** i, stride=1 if i == 0 else 2,
          bottleneck=self.depth >= BOTTLENECK_FROM,
          shift_every=every if self.shift else 0, attention=units,
          position=self.position, dtype=self.dtype,
          name=f'layer{i + 1}')(x, train)
      outputs.append(x)
    return outputs
