"""Gates from what a clip is on the whole: SE3D, GE3D, S3D-G and CBAM3D.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018; Hu et al.,
"Gather-Excite", NeurIPS 2018; Xie et al., "Rethinking Spatiotemporal Feature
Learning", ECCV 2018; Woo et al., "CBAM", ECCV 2018: in the 3D forms that
"Attention in Attention" compares itself with. There is no public code of
these forms; the widths are those that give the counts of its Table I.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.backbones import layers
from vidattn_jax.ops import convolution
from vidattn_jax.ops import per_device
from vidattn_jax.ops import plane_convolution
from vidattn_jax.ops import planes
from vidattn_jax.ops import resizing

_CLIP = (-4, -3, -2)


def apply_gate(unit: nn.Module, x: jax.Array, gate: jax.Array) -> jax.Array:
  """Multiplies a clip by a gate, and notes the gate for those who look at it.

  Args:
    unit: the module that has made the gate.
    x: [N, T, H, W, C].
    gate: the same axes, of length 1 where all elements share the gate.

  Returns:
    [N, T, H, W, C].
  """
  unit.sow('intermediates', 'gate', gate)
  return x * gate.astype(x.dtype)


def excitation(features: int, hidden: int, use_bias: bool,
               dtype: jnp.dtype) -> Callable[[jax.Array], jax.Array]:
  """Returns two linear layers with a ReLU between; for a compact method.

  Args:
    features: number of outputs.
    hidden: number between the layers, at least 1 whatever is given.
    use_bias: whether both have a bias.
    dtype: type of the computation.

  Returns:
    Function from [..., C] to [..., features]; calls share the weights.
  """
  fc1, fc2 = (nn.Dense(width, use_bias, dtype=dtype, name=name)
              for width, name in ((max(1, hidden), 'fc1'), (features, 'fc2')))
  return lambda x: fc2(nn.relu(fc1(x)))


def _mean(x):
  return layers.GlobalAveragePool(_CLIP, name='pool')(x)


def _to_clip(gate):
  """Turns [N, C] into [N, 1, 1, 1, C]."""
  return gate[:, None, None, None]


class SE3D(nn.Module):
  """A gate for each channel from the means of all: squeeze and excitation.

  x * sigmoid(fc2(relu(fc1(mean(x))))). With biases it is the SENet-3D of
  "Spatio-Temporal Attention Networks".

  Attributes:
    reduction: how much narrower the clip gets between the two layers.
    use_bias: whether the layers have a bias.
    dtype: type of the computation.
  """
  reduction: int = 16
  use_bias: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    c = x.shape[-1]
    excite = excitation(c, c // self.reduction, self.use_bias, self.dtype)
    return apply_gate(self, x, _to_clip(nn.sigmoid(excite(_mean(x)))))


class GE3DG(nn.Module):
  """A gate for each channel from its own mean: x * sigmoid(mean(x))."""
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    return apply_gate(self, x, _to_clip(nn.sigmoid(_mean(x))))


class GE3DDW(nn.Module):
  """A gate for each element, gathered from around it by channel.

  Three convolutions within each channel, which halve height and width and
  keep the frames; brought back to size by repetition.

  Attributes:
    kernel_size: frames, height and width of the three kernels; odd.
    dtype: type of the computation; statistics are float32.
  """
  kernel_size: tuple[int, int, int] = (1, 3, 3)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    y = x
    for i in (1, 2, 3):
      y = nn.Conv(
          x.shape[-1], self.kernel_size, (1, 2, 2),
          [(k // 2, k // 2) for k in self.kernel_size],
          feature_group_count=x.shape[-1], use_bias=False, dtype=self.dtype,
          conv_general_dilated=convolution.conv_general_dilated,
          name=f'depthwise{i}')(nn.relu(y) if i > 1 else y)
      y = layers.norm(dtype=self.dtype, name=f'bn{i}')(
          y, use_running_average=not train)
    gate = resizing.upsample_nearest(
        nn.sigmoid(y), {2: x.shape[2], 3: x.shape[3]})
    return apply_gate(self, x, gate)


class S3DG(nn.Module):
  """A gate for each channel from the means of all: x * sigmoid(fc(mean(x)))."""
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    y = nn.Dense(x.shape[-1], dtype=self.dtype, name='fc')(_mean(x))
    return apply_gate(self, x, _to_clip(nn.sigmoid(y)))


def _largest(x):
  """Returns the maximum of each channel, [N, C]."""
  # Axis by axis, as the clip lies; of equals, too, the first is taken then.
  for axis in (3, 2, 1):
    x = jnp.expand_dims(planes.pool_planes(x, axis)[:, 0], axis)
  return x[:, 0, 0, 0]


class ChannelGate(nn.Module):
  """The first half of CBAM3D: a gate for each channel, see there."""
  reduction: int = 16
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    c = x.shape[-1]
    excite = excitation(c, c // self.reduction, True, self.dtype)
    return apply_gate(self, x, _to_clip(
        nn.sigmoid(excite(_mean(x)) + excite(_largest(x)))))


class PlaneConv(nn.Module):
  """Convolution of two planes into one, without bias.

  Attributes:
    kernel_size: odd lengths of the kernel [a, b, c, 2, 1].
    kernel_init: initialiser of the kernel.
    dtype: type of the computation.
  """
  kernel_size: tuple[int, int, int] = (3, 3, 3)
  kernel_init: Callable = nn.initializers.lecun_normal()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, A, B, C, 1] from planes [N, 2, A, B, C]."""
    kernel = layers.parameter(self, 'kernel', self.kernel_init,
                              (*self.kernel_size, 2, 1))
    y = plane_convolution.convolve_planes(x.astype(self.dtype),
                                          kernel.astype(self.dtype))
    return y.reshape(*y.shape, 1)


class SpatialGate(nn.Module):
  """The second half of CBAM3D: a gate for each place, see there."""
  kernel_size: tuple[int, int, int] = (1, 7, 7)
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    # Where devices share a clip, the window reaches further than the next one.
    pooled = per_device.gathered(jnp.moveaxis(planes.pool_planes(x, 4), 1, -1))
    y = PlaneConv(self.kernel_size, dtype=self.dtype, name='conv')(
        jnp.moveaxis(pooled, -1, 1))
    gate = layers.norm_sigmoid(name='bn')(y, use_running_average=not train)
    return apply_gate(self, x, gate[..., None])


class CBAM3D(nn.Module):
  """A gate for each channel, then one for each place.

  z = x * sigmoid(fc(mean(x)) + fc(max(x))) over the clip, `fc` the same two
  layers; then z * sigmoid(bn(conv(max(z), mean(z)))) over the channels.

  Attributes:
    kernel_size: frames, height and width of the convolution; odd.
    reduction: how much narrower the clip gets between the two layers.
    dtype: type of the computation; statistics are float32.
  """
  kernel_size: tuple[int, int, int] = (1, 7, 7)
  reduction: int = 16
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    x = ChannelGate(self.reduction, self.dtype, name='channel')(x, train)
    return SpatialGate(self.kernel_size, self.dtype, name='spatial')(x, train)


UNITS = {
    'SE3D': SE3D,
    'GE3D-G': GE3DG,
    'GE3D-DW133': GE3DDW,
    'GE3D-DW333': functools.partial(GE3DDW, (3, 3, 3)),
    'S3D-G': S3DG,
    'CBAM3D177': CBAM3D,
    'CBAM3D377': functools.partial(CBAM3D, (3, 7, 7)),
    'SENet-3D': functools.partial(SE3D, use_bias=True),
}
