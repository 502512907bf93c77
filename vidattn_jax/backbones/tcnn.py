"""T-CNN: convolutions in space, and dilated ones over time.

Zhou et al., "Integrating Temporal and Spatial Attention for Video Action
Recognition", 2022, table 1; found by architecture search in Zhou et al.,
"Video Action Recognition with Neural Architecture Search", ACML 2021. The
table names widths and dilations alone. With kernels 1x3x3, and 3x1x1 where
dilated, two rows added where its blocks of two would lack one, and these
strides, one clip takes 15.92 GMACs; the paper says 15.78.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import layers
from vidattn_jax.backbones import resnet

# Width of each stage, and the dilation over time of the second convolution of
# each of its blocks; 0 for a plain one.
_STAGES = ((32, (0,)), (64, (0,)), (96, (0,)), (160, (0, 4, 4, 4, 0, 0, 4)),
           (224, (0, 2, 4, 4)), (288, (0, 2, 2, 2, 0)), (512, (0, 2)))
DEPTHS = tuple(len(dilations) for _, dilations in _STAGES)
# (stage, block) whose first convolution the printed table lacks.
_NOT_PRINTED = ((4, 3), (6, 1))
# Rows of the table: with those two, and as printed.
ROWS = (42, 40)
_NUM_STRIDES = 1 + len(_STAGES)


class Block(nn.Module):
  """Two convolutions, and a shortcut past them.

  Attributes:
    width: channels.
    strides: steps in space of the first convolution and of the second.
    dilation: over time, of the second; 0 if it is a plain one.
    kernel: of a plain convolution.
    dilated_kernel: of a dilated one.
    single: there is no first convolution.
    shortcut: add the input, through a 1x1x1 convolution where its shape
      differs.
    attention: makes the attention unit, or None.
    position: see `resnet.Block`.
    dtype: type of the computation.
  """
  width: int
  strides: tuple[int, int] = (1, 1)
  dilation: int = 0
  kernel: tuple[int, int, int] = (1, 3, 3)
  dilated_kernel: tuple[int, int, int] = (3, 1, 1)
  single: bool = False
  shortcut: bool = True
  attention: Callable[..., nn.Module] | None = None
  position: str = 'before_sum'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, h, w, C'] from [N, T, H, W, C]."""
    def conv(y, name, bn, kernel, stride, dilation=1):
      padding = list(layers.centered(kernel))
      padding[0] = (dilation * (kernel[0] // 2),) * 2
      y = layers.conv(self.width, kernel, (1, stride, stride), padding,
                      kernel_dilation=(dilation, 1, 1), dtype=self.dtype,
                      name=name)(y)
      return layers.norm(dtype=self.dtype, name=bn)(
          y, use_running_average=not train)

    def attend(y, position):
      return layers.attend(self, y, position, train)

    y = x
    if not self.single:
      y = nn.relu(conv(y, 'conv1', 'bn1', self.kernel, self.strides[0]))
    kernel = self.dilated_kernel if self.dilation else self.kernel
    y = conv(y, 'conv2', 'bn2', kernel, self.strides[1],
             max(self.dilation, 1))
    y = attend(attend(y, 'bn2'), 'before_sum')
    if self.shortcut:
      if x.shape != y.shape:
        x = conv(x, 'downsample_conv', 'downsample_bn', (1, 1, 1),
                 self.strides[0] * self.strides[1])
      y = x + y
    return attend(layers.relu_of_sum(y), 'after_sum')


class TCNN(nn.Module):
  """The convolutions of T-CNN.

  Attributes:
    width: multiplier of every layer's width.
    rows: 42, or 40 for the table as printed, two of whose blocks have one
      convolution.
    kernel: (t, h, w) of plain convolutions.
    dilated_kernel: of dilated ones; (3, 3, 3) here and above is the reading
      in which all frames see each other.
    strides: steps in space of the two convolutions of stage 1, then of the
      other stages.
    attention: makes the attention unit from its name and type, or None.
    position: where in a block it stands, see `resnet.Block`; stage 1 is a
      block without a sum.
    stages: stages, of 1 to 7, that have units.
    blocks: which of their blocks have, see `layers.attended`.
    dtype: type of the computation; parameters and statistics are float32.
  """
  width: float = 1.0
  rows: int = 42
  kernel: tuple[int, int, int] = (1, 3, 3)
  dilated_kernel: tuple[int, int, int] = (3, 1, 1)
  strides: tuple[int, ...] = (2, 2, 2, 2, 2, 1, 1, 1)
  attention: Callable[..., nn.Module] | None = None
  position: str = 'before_sum'
  stages: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
  blocks: tuple[int, ...] | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def check_fields(self):
    """Raises a ValueError if a field is not one of those above."""
    names.check_name('number of rows', self.rows, ROWS)
    for key, count in (('kernel', 3), ('dilated_kernel', 3),
                       ('strides', _NUM_STRIDES)):
      value = getattr(self, key)
      odd = key != 'strides'
      if (not isinstance(value, list | tuple) or len(value) != count
          or not all(layers.is_whole(n) and n >= 1 for n in value)
          or (odd and any(n % 2 == 0 for n in value))):
        raise ValueError(f'{key} is {value!r}; it must be {count} '
                         f'{"odd " if odd else ""}whole numbers from 1 on.')
    layers.check_placement(self.width, self.attention, self.stages,
                           self.blocks, DEPTHS, self.position,
                           resnet.POSITIONS)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False):
    """Computes the features of every stage.

    Args:
      x: [N, T, H, W, C], normalised.
      train: use, and update, the statistics of this batch.

    Returns:
      List of the seven stages' outputs [N, T, h, w, C'], at 1/4, 1/8, 1/16 and
      then 1/32 of H and W.

    Raises:
      ValueError: a field is not one of those above.
    """
    self.check_fields()
    x = x.astype(self.dtype)
    outputs = []
    for stage, (width, dilations) in enumerate(_STAGES, 1):
      blocks = []
      for i, dilation in enumerate(dilations):
        first = self.strides[stage] if i == 0 else 1
        blocks.append(functools.partial(
            Block, layers.widened(width, self.width),
            strides=tuple(self.strides[:2]) if stage == 1 else (first, 1),
            dilation=dilation, kernel=tuple(self.kernel),
            dilated_kernel=tuple(self.dilated_kernel),
            single=self.rows == 40 and (stage, i) in _NOT_PRINTED,
            shortcut=stage > 1,
            attention=layers.attended(self.attention, self.stages, self.blocks,
                                      stage, i, len(dilations)),
            position=self.position, dtype=self.dtype))
      x = resnet.Stage(tuple(blocks), name=f'stage{stage}')(x, train)
      outputs.append(x)
    return outputs
