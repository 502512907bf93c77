"""Layers that the backbones share."""

from collections.abc import Callable
import functools
import numbers

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import remat
from vidattn_jax.ops import convolution
from vidattn_jax.ops import normalized
from vidattn_jax.ops import platform
from vidattn_jax.ops import pooling

# He et al.'s initialisation, by the outputs, as the published codes use it.
HE_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def _conv_general_dilated(*args, **kwargs):
  return remat.convolved(convolution.conv_general_dilated(*args, **kwargs))


conv = functools.partial(
    nn.Conv, use_bias=False, kernel_init=HE_INIT,
    conv_general_dilated=_conv_general_dilated)
# Where what becomes of the result is a summand that is not wanted after that.
conv_to_sum = functools.partial(conv, conv_general_dilated=functools.partial(
    _conv_general_dilated, summed=True))
_NORM = dict(momentum=0.9, epsilon=1e-5)


def widened(width: int, factor: float, divisor: int = 1) -> int:
  """Returns a width times a factor, rounded to a multiple of `divisor`."""
  return divisor * max(1, round(width * factor / divisor))


def centered(kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
  """Returns the padding that keeps an odd kernel on its centre."""
  return tuple((length // 2, length // 2) for length in kernel)


class GlobalAveragePool(nn.Module):
  """Mean over some axes, in float32 or wider.

  Attributes:
    axes: the axes; height and width unless given.
  """
  axes: tuple[int, ...] = (-3, -2)

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns `x` [..., C] without the axes."""
    del train  # The same in training.
    return x.mean(self.axes, dtype=jnp.promote_types(x.dtype, jnp.float32))


class MaxPool(nn.Module):
  """Maximum in a sliding window.

  Attributes:
    window: its lengths along the axes before the last.
    strides: its steps along them.
    padding: (before, after) along each; what is padded is never the maximum.
  """
  window: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, t, h, w, C] from [N, T, H, W, C]."""
    return pooling.max_pool(x, self.window, self.strides, self.padding)


class AveragePool(nn.Module):
  """Mean in a sliding window; padded zeros count.

  Attributes:
    window: see `MaxPool`.
    strides: see `MaxPool`.
    padding: see `MaxPool`.
  """
  window: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, t, h, w, C] from [N, T, H, W, C]."""
    return pooling.average_pool(x, self.window, self.strides, self.padding)


@jax.custom_jvp
@jax.jit
def relu(x):
  """Returns the ReLU of `x`, as a selection.

  Where operations are counted, it is known by its name, as Flax's is.
  """
  return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


relu.defjvps(lambda g, y, x: jnp.where(y > 0, g, jnp.zeros((), g.dtype)))


def relu_of_sum(x: jax.Array) -> jax.Array:
  """Computes the ReLU at the end of a residual block.

  To the CPU's compiler a maximum is so cheap that each of its readers computes
  it anew, and the sum before it, from block to block: the parts of all sums of
  a stage are read again and again. A selection is computed once.

  Args:
    x: the sum, of any shape.

  Returns:
    As `x`.
  """
  return (relu if platform.for_cpu_alone() else nn.relu)(x)


class ConvBlock(nn.Module):
  """Convolution with bias, BatchNorm, ReLU, attention unit.

  Attributes:
    width: channels of the result.
    kernel: lengths of the kernel, over the last axes before the channels.
    stride: stride along all of them.
    normalized: whether there is a BatchNorm.
    attention: makes the attention unit, or None.
    dtype: type of the computation.
  """
  width: int
  kernel: tuple[int, ...]
  stride: int = 1
  normalized: bool = True
  attention: Callable[..., nn.Module] | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, t, h, w, C'] from [N, T, H, W, C]."""
    x = conv(self.width, self.kernel, (self.stride,) * len(self.kernel),
             centered(self.kernel), use_bias=True, dtype=self.dtype,
             name='conv')(x)
    if self.normalized:
      x = norm(dtype=self.dtype, name='bn')(x, use_running_average=not train)
    x = nn.relu(x)
    if self.attention is not None:
      x = remat.unit(self.attention(dtype=self.dtype, name='attention'), x,
                     train)
    return x


def unit_at(block: nn.Module, position: str) -> nn.Module | None:
  """Makes a block's attention unit if it stands here; for a compact method.

  Args:
    block: the block, with `attention`, `position` and `dtype`.
    position: the place in the block.
  """
  if block.attention is None or block.position != position:
    return None
  return block.attention(dtype=block.dtype, name='attention')


def attend(block: nn.Module, x: jax.Array, position: str,
           train: bool) -> jax.Array:
  """Applies a block's attention unit if it stands here; see `unit_at`.

  Args:
    block: see `unit_at`.
    x: [N, T, H, W, C].
    position: see `unit_at`.
    train: see the unit.

  Returns:
    [N, T, H, W, C].
  """
  unit = unit_at(block, position)
  return x if unit is None else remat.unit(unit, x, train)


def leaves_norm(block: nn.Module, unit: nn.Module, x: jax.Array) -> bool:
  """Tells whether a clip is not normalised before a unit.

  The unit does that on the way then, see `coefficients`.

  Args:
    block: the unit's block.
    unit: the unit.
    x: [N, T, H, W, C], yet to be normalised.
  """
  # Where gates are looked at, units are called step by step.
  return (hasattr(unit, 'takes_clip') and unit.takes_clip(x)
          and not block.is_mutable_collection('intermediates'))


def parameter(module: nn.Module, name: str, init: Callable,
              shape: tuple[int, ...]) -> jax.Array:
  """Returns a float32 parameter, as `module.param`, but sooner.

  That traces `init` each time to compare shapes; of networks with hundreds of
  small units it takes a sixth of the time to trace a step.

  Args:
    module: the module, in its compact method.
    name: see `nn.Module.param`.
    init: see `nn.Module.param`.
    shape: its shape.
  """
  value = module.get_variable('params', name)
  if value is None or value.shape != shape:
    return module.param(name, init, shape, jnp.float32)
  return value


class _Norm(nn.BatchNorm):
  """BatchNorm of our own.

  Its variables, their beginnings, `momentum`, `epsilon` and `dtype` are those
  of `nn.BatchNorm`, whose other attributes are not looked at.
  """

  @nn.nowrap
  def _variables(self, shape):
    """Returns scale, bias, and the variables of mean and variance."""
    return *(parameter(self, name, init, shape) for name, init in
             (('scale', self.scale_init), ('bias', self.bias_init))), [
                 self.variable('batch_stats', name, init, shape, jnp.float32)
                 for name, init in (('mean', jnp.zeros), ('var', jnp.ones))]

  @nn.nowrap
  def _keep(self, variables, values):
    """Sets mean and variance."""
    if not self.is_initializing():
      for variable, value in zip(variables, values, strict=True):
        variable.value = value

  @nn.nowrap
  def _move(self, variables, batch):
    """Moves mean and variance towards those of the batch."""
    self._keep(variables, [
        normalized.moved(of.value, now, self.momentum)
        for of, now in zip(variables, batch, strict=True)])


class _BatchNorm(_Norm):
  """BatchNorm with the gradient of `normalized.channels_of_batch`."""

  @nn.compact
  def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
    """Returns [..., C] from [..., C]."""
    scale, bias, kept = self._variables(x.shape[-1:])
    if use_running_average:
      y = normalized.channels(x, scale, bias, *(of.value for of in kept),
                              self.epsilon)
    else:
      y, *now = normalized.channels_of_batch(x, scale, bias, self.epsilon)
      self._move(kept, now)
    return y if self.dtype is None else y.astype(self.dtype)


def norm(**kwargs) -> nn.BatchNorm:
  """Makes a BatchNorm.

  Args:
    **kwargs: `dtype` of the computation, and `name`.
  """
  # Other platforms have Flax's, with which they were measured.
  return (_BatchNorm if platform.for_cpu_alone() else nn.BatchNorm)(
      **_NORM, **kwargs)


class _Coefficients(_Norm):
  """What BatchNorm does to each channel, for `normalized.Clip`."""

  @nn.compact
  def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
    """Returns [3, C] from [..., C]: mean, factor and bias."""
    scale, bias, kept = self._variables(x.shape[-1:])
    mean, var = (of.value for of in kept)
    if not use_running_average:
      mean, var = normalized.statistics(x)
      self._move(kept, (mean, var))
    return jnp.stack([mean, jax.lax.rsqrt(var + self.epsilon) * scale, bias])


class _NormSigmoid(_Norm):
  """The sigmoid of BatchNorm of one channel, see `normalized.sigmoid`."""

  @nn.compact
  def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
    """Returns [...], in (0, 1), from [..., 1], in its type."""
    scale, bias, kept = self._variables(x.shape[-1:])
    arguments = x, scale, bias, *(of.value for of in kept)
    if use_running_average:
      return normalized.sigmoid(*arguments, self.epsilon)
    y, *moved = normalized.sigmoid_of_batch(*arguments, self.momentum,
                                            self.epsilon)
    self._keep(kept, moved)
    return y


coefficients = functools.partial(_Coefficients, **_NORM)
norm_sigmoid = functools.partial(_NormSigmoid, **_NORM)


def attended(attention: Callable[..., nn.Module] | None,
             stages: tuple[int, ...], blocks: tuple[int, ...] | None,
             stage: int, block: int, depth: int):
  """Returns the factory of a block's attention unit, or None.

  Args:
    attention: the factory of all units, or None.
    stages: stages with units, from 1.
    blocks: blocks with units in each of those, from 0, or counted from the
      end with -1, -2, ...; None for all.
    stage: the block's stage.
    block: its place in the stage.
    depth: number of blocks in the stage.
  """
  chosen = blocks is None or block in blocks or block - depth in blocks
  return attention if chosen and stage in stages else None


def is_whole(value) -> bool:
  """Tells whether a value is a whole number; truth values are none."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_whole(key: str, value):
  """Checks a whole number from 1 on.

  Args:
    key: what it is called.
    value: what was given for it.

  Raises:
    ValueError: `value` is no whole number from 1 on.
  """
  if not is_whole(value) or value < 1:
    raise ValueError(f'{key} is {value!r}; it must be 1 or more, a whole '
                     'number.')


def check_placement(width: float, attention: Callable[..., nn.Module] | None,
                    stages: tuple[int, ...], blocks: tuple[int, ...] | None,
                    depths: tuple[int, ...], position: str = '',
                    positions: tuple[str, ...] = ('',)):
  """Checks what places the units in a backbone.

  Args:
    width: multiplier of widths.
    attention: the factory of all units, or None.
    stages: stages with units.
    blocks: blocks with units in each of those, see `attended`.
    depths: number of blocks of each stage that there is.
    position: where in a block the unit stands.
    positions: what it may be.

  Raises:
    ValueError: one of them is not what it may be, or a unit would stand
      nowhere; it is named.
  """
  for stage in stages:
    names.check_name('stage', stage, tuple(range(1, len(depths) + 1)))
  names.check_name('position', position, positions)
  if width <= 0:
    raise ValueError(f'width is {width}; it must be above 0.')
  if attention is None:
    return
  if not stages:
    raise ValueError(
        'stages is (), so that the attention unit stands nowhere; name stages '
        f'of 1 to {len(depths)}, or leave stages or attention out.')
  if blocks is None:
    return
  if not blocks:
    raise ValueError(
        'blocks is (), so that the attention unit stands nowhere; name '
        'blocks from 0, or leave blocks or attention out.')
  deepest = max(depths[stage - 1] for stage in stages)
  for block in blocks:
    if not -deepest <= block < deepest:
      raise ValueError(
          f'blocks has {block}, but the longest of the stages {stages} has '
          f'{deepest} block{"s" * (deepest > 1)}; name blocks from '
          f'{-deepest} (from the end) to {deepest - 1}.')
