"""3D residual networks: 3D-ResNets, 3D-ResNeXt and the slow pathway.

Hara et al., "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and
ImageNet?", CVPR 2018; Feichtenhofer et al., "SlowFast Networks for Video
Recognition", ICCV 2019. The stride of a bottleneck is in its 3x3x3
convolution.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import layers
from vidattn_jax.backbones import resnet

# Blocks of each stage.
DEPTHS = {**resnet.DEPTHS, 152: (3, 8, 36, 3)}
SHORTCUTS = ('A', 'B')
# The first stage in which the slow pathway convolves over time.
_SLOW_FROM = 3


class ResNet3D(nn.Module):
  """3D residual network.

  Attributes:
    depth: 18, 34, 50, 101 or 152 layers.
    width: multiplier of every layer's width.
    groups: 1; more make a ResNeXt, whose bottlenecks are twice as wide inside
      and end as those of a ResNet do.
    slow: never stride in time, and convolve over it only in the first
      convolutions of the blocks of stages 3 and 4 (the slow pathway);
      otherwise all kernels but 1x1x1 are as long as wide, and time is strided
      as space is.
    shortcut: 'A' or 'B', see `resnet.Block`.
    attention: makes the attention unit from its name and type, or None.
    position: where in a block it stands, see `resnet.Block`.
    stages: stages, of 1 to 4, that have units.
    blocks: which of their blocks have, see `layers.attended`.
    num_stages: stages that it ends after, of four.
    dtype: type of the computation; parameters and statistics are float32.
  """
  depth: int = 50
  width: float = 1.0
  groups: int = 1
  slow: bool = False
  shortcut: str = 'B'
  attention: Callable[..., nn.Module] | None = None
  position: str = 'bn2'
  stages: tuple[int, ...] = (1, 2, 3, 4)
  blocks: tuple[int, ...] | None = None
  num_stages: int = 4
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def check_fields(self):
    """Raises a ValueError if a field is not one of those above."""
    names.check_name('depth', self.depth, DEPTHS)
    names.check_name('shortcut', self.shortcut, SHORTCUTS)
    layers.check_placement(self.width, self.attention, self.stages,
                           self.blocks, DEPTHS[self.depth], self.position,
                           resnet.POSITIONS)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False):
    """Computes the features of every stage.

    Args:
      x: [N, T, H, W, C], normalised.
      train: use, and update, the statistics of this batch.

    Returns:
      List of the stages' outputs [N, t, h, w, C'], at 1/4, 1/8, 1/16 and
      1/32 of H and W; of T, at 1/2, 1/4, 1/8 and 1/16, or all of it if `slow`.

    Raises:
      ValueError: a field is not one of those above.
    """
    self.check_fields()
    stem = (1 if self.slow else 7, 7, 7)
    x = layers.conv(
        layers.widened(64, self.width), stem, (1, 2, 2), layers.centered(stem),
        dtype=self.dtype, name='conv1')(x.astype(self.dtype))
    x = nn.relu(layers.norm(dtype=self.dtype, name='bn1')(
        x, use_running_average=not train))
    window = (1 if self.slow else 3, 3, 3)
    x = layers.MaxPool(window, (1 if self.slow else 2, 2, 2),
                       layers.centered(window), name='maxpool')(x)
    outputs = []
    for stage in range(1, self.num_stages + 1):
      x = self.make_stage(stage, f'layer{stage}')(x, train)
      outputs.append(x)
    return outputs

  @property
  def base(self) -> int:
    """Channels of the inner convolutions of the first stage."""
    wider = 1 if self.groups == 1 else 2
    return layers.widened(64 * wider, self.width, self.groups)

  @nn.nowrap
  def make_stage(self, stage: int, name: str, plain: bool = False) -> nn.Module:
    """Makes a stage; a part of the module in whose call it is made.

    Args:
      stage: which, from 1.
      name: its name there.
      plain: without strides and attention units.
    """
    bottleneck = self.depth >= resnet.BOTTLENECK_FROM
    if self.slow:
      temporal = (3 if stage >= _SLOW_FROM else 1, 1, 1)
    else:
      temporal = (1, 3, 1) if bottleneck else (3, 3)
    block = functools.partial(
        resnet.Block, self.base * 2 ** (stage - 1), bottleneck=bottleneck,
        temporal=temporal, groups=self.groups,
        expansion=4 if self.groups == 1 else 2, shortcut=self.shortcut,
        position=self.position, dtype=self.dtype)
    depth = DEPTHS[self.depth][stage - 1]
    blocks = []
    for i in range(depth):
      stride = 2 if stage > 1 and i == 0 and not plain else 1
      blocks.append(functools.partial(
          block, stride=stride, temporal_stride=1 if self.slow else stride,
          attention=None if plain else layers.attended(
              self.attention, self.stages, self.blocks, stage, i, depth)))
    return resnet.Stage(tuple(blocks), name=name)
