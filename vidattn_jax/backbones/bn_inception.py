"""BN-Inception over the frames of a clip, also with squeeze-and-excitation.

Ioffe & Szegedy, "Batch Normalization", ICML 2015; Hu et al.,
"Squeeze-and-Excitation Networks", CVPR 2018. As the published weights have
it: every convolution has a bias and a BatchNorm, and the pools with stride 2
hang over the lower and the right edge.
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.backbones import layers
from vidattn_jax.backbones import remat

# H and W must be multiples of this.
_DIVISOR = 32
_SE_REDUCTION = 16


@dataclasses.dataclass(frozen=True)
class _Widths:
  """Channels of one module: a module without `one` has stride 2.

  Attributes:
    one: of the 1x1 convolution; 0 for none, and then no `projection` either.
    three: of the 3x3 convolution and of the reduction before it.
    double: of two 3x3 convolutions and of the reduction before them.
    projection: of the 1x1 convolution after the pool.
    pool: 'average' or 'max'.
  """
  one: int
  three: tuple[int, int]
  double: tuple[int, int]
  projection: int
  pool: str = 'average'


# Modules of the stages after the first.
STAGES = (
    {'3a': _Widths(64, (64, 64), (64, 96), 32),
     '3b': _Widths(64, (64, 96), (64, 96), 64)},
    {'3c': _Widths(0, (128, 160), (64, 96), 0, 'max'),
     '4a': _Widths(224, (64, 96), (96, 128), 128),
     '4b': _Widths(192, (96, 128), (96, 128), 128),
     '4c': _Widths(160, (128, 160), (128, 160), 128),
     '4d': _Widths(96, (128, 192), (160, 192), 128)},
    {'4e': _Widths(0, (128, 192), (192, 256), 0, 'max'),
     '5a': _Widths(352, (192, 320), (160, 224), 128),
     '5b': _Widths(352, (192, 320), (192, 224), 128, 'max')})


def _halved(x, name):
  """Pools 3x3 with stride 2; the last window hangs over the edge."""
  return layers.MaxPool((1, 3, 3), (1, 2, 2), ((0, 0), (0, 1), (0, 1)),
                        name=name)(x)


class Inception(nn.Module):
  """One inception module.

  Attributes:
    widths: see `_Widths`.
    width: multiplier of them.
    se: gate the channels by squeeze and excitation.
    attention: makes the attention unit after all, or None.
    dtype: type of the computation.
  """
  widths: _Widths
  width: float = 1.0
  se: bool = False
  attention: Callable[..., nn.Module] | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, h, w, C'] from [N, T, H, W, C]."""
    widths = self.widths
    stride = 1 if widths.one else 2

    def conv(y, name, width, size, stride=1):
      return layers.ConvBlock(layers.widened(width, self.width), (size, size),
                              stride, dtype=self.dtype, name=name)(y, train)

    branches = [conv(x, '1x1', widths.one, 1)] if widths.one else []
    y = conv(x, '3x3_reduce', widths.three[0], 1)
    branches.append(conv(y, '3x3', widths.three[1], 3, stride))
    y = conv(x, 'double_3x3_reduce', widths.double[0], 1)
    y = conv(y, 'double_3x3_1', widths.double[1], 3)
    branches.append(conv(y, 'double_3x3_2', widths.double[1], 3, stride))
    if stride == 2:
      branches.append(_halved(x, 'pool'))
    else:
      window = (1, 3, 3)
      pool = layers.MaxPool if widths.pool == 'max' else layers.AveragePool
      y = pool(window, (1, 1, 1), layers.centered(window), name='pool')(x)
      branches.append(conv(y, 'pool_proj', widths.projection, 1))
    y = jnp.concatenate(branches, axis=-1)
    if self.se:
      y = self._gated(y)
    if self.attention is not None:
      y = remat.unit(self.attention(dtype=self.dtype, name='attention'), y,
                     train)
    return y

  def _gated(self, y):
    conv = functools.partial(layers.conv, kernel_size=(1, 1), use_bias=True,
                             dtype=self.dtype)
    channels = y.shape[-1]
    gate = layers.GlobalAveragePool(name='se_pool')(y)[:, :, None, None]
    gate = nn.relu(conv(max(1, channels // _SE_REDUCTION),
                        name='se_down')(gate))
    return y * nn.sigmoid(conv(channels, name='se_up')(gate)).astype(y.dtype)


class BNInception(nn.Module):
  """BN-Inception over the frames of a clip.

  Attributes:
    width: multiplier of every layer's width.
    se: gate the channels after every inception module.
    attention: makes the attention unit from its name and type, or None.
    stages: stages, of 1 to 4, that have units.
    blocks: which of a stage's modules have, see `layers.attended`. Stage 1 is
      one module, the convolutions; stage 2 is 3a and 3b; 3 is 3c to 4d; 4 is
      4e to 5b.
    dtype: type of the computation; parameters and statistics are float32.
  """
  width: float = 1.0
  se: bool = False
  attention: Callable[..., nn.Module] | None = None
  stages: tuple[int, ...] = (1, 2, 3, 4)
  blocks: tuple[int, ...] | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def check_fields(self):
    """Raises a ValueError if a field is not one of those above."""
    layers.check_placement(
        self.width, self.attention, self.stages, self.blocks,
        (1, *(len(modules) for modules in STAGES)))

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False):
    """Computes the features of every stage.

    Args:
      x: [N, T, H, W, C], normalised; H and W multiples of 32.
      train: use, and update, the statistics of this batch.

    Returns:
      List of the four stages' outputs [N, T, h, w, C'], at 1/4, 1/8, 1/16 and
      1/32 of H and W.

    Raises:
      ValueError: a field is not one of those above, or H or W is no multiple
        of 32.
    """
    self.check_fields()
    if x.shape[2] % _DIVISOR or x.shape[3] % _DIVISOR:
      raise ValueError(
          f'The video has the shape {x.shape}; BN-Inception takes heights and '
          f'widths that are multiples of {_DIVISOR}: set crop_size so.')
    unit = functools.partial(layers.attended, self.attention, self.stages,
                             self.blocks)

    def conv(y, name, width, size, stride=1, attention=None):
      return layers.ConvBlock(
          layers.widened(width, self.width), (size, size), stride,
          attention=attention, dtype=self.dtype, name=name)(y, train)

    x = _halved(conv(x.astype(self.dtype), 'conv1_7x7_s2', 64, 7, 2), 'pool1')
    x = conv(x, 'conv2_3x3_reduce', 64, 1)
    x = conv(x, 'conv2_3x3', 192, 3, attention=unit(1, 0, 1))
    outputs = [x]
    x = _halved(x, 'pool2')
    for i, modules in enumerate(STAGES, 2):
      for j, (name, widths) in enumerate(modules.items()):
        x = remat.block(Inception(
            widths, self.width, self.se, unit(i, j, len(modules)), self.dtype,
            name=f'inception_{name}'), x, train)
      outputs.append(x)
    return outputs
