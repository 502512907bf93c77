"""Spatio-temporal attention: the unit STA, its parts TA and SA, and STC.

Li et al., "Spatio-Temporal Attention Networks for Action Recognition and
Detection", IEEE Transactions on Multimedia 2020, equations 1 to 6 and Figure
7; STC, which it compares itself with: Diba et al., "Spatio-temporal Channel
Correlation Networks for Action Classification", ECCV 2018. No code was
published for either: order, biases and widths are those that give the counts
of tables III and IV.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.attention import gates
from vidattn_jax.backbones import layers
from vidattn_jax.ops import convolution
from vidattn_jax.ops import resizing

# Axes of [N, T, H, W, C], and what of a model sets their lengths.
_AXES = {1: ('frames', 'num_frames'), 2: ('height', 'crop_size'),
         3: ('width', 'crop_size')}


def _fit(kind, unit, x, built, pool):
  """Brings a clip to the size that a unit's weights are for.

  Args:
    kind: the unit's name in its paper.
    unit: the module.
    x: [N, T, H, W, C].
    built: {axis: length that the weights are for}; {} where they are made.
    pool: average in bins if the clip has another size.

  Returns:
    [N, T', H', W', C].

  Raises:
    ValueError: the clip has another size, and `pool` is False.
  """
  if pool:
    return resizing.adaptive_average_pool(x, built)
  if any(x.shape[axis] != length for axis, length in built.items()):
    names = ', '.join(_AXES[axis][0] for axis in built)
    fields = ' and '.join(sorted({_AXES[axis][1] for axis in built},
                                 reverse=True))
    raise ValueError(
        f'The attention unit {kind} at {"/".join(unit.path)} was built for '
        f'features of the size {tuple(built.values())} ({names}) and meets '
        f'{tuple(x.shape[axis] for axis in built)}; set {fields} to what its '
        "weights are for, or attention_options={'pool': True}.")
  return x


def _contract(lhs, rhs, *_, precision=None, **__):
  """Convolves with a kernel that is as large as the clip: a contraction.

  It stands in for `jax.lax.conv_general_dilated`, which is slow at this.

  Args:
    lhs: [N, T, H, W, C].
    rhs: [1 or T, H, W, C, O].
    precision: of the products.

  Returns:
    [N, T or 1, 1, 1, O].
  """
  n, _, *frame = lhs.shape
  windows = lhs.reshape(n, -1, rhs.shape[0], *frame)
  y = jnp.einsum('ntahwc,ahwco->nto', windows, rhs, precision=precision)
  return y[:, :, None, None]


class STA(nn.Module):
  """Spatio-temporal attention: a weight for each frame and channel.

  A convolution sees all of a frame at once and makes one number of it; over
  these a transposed convolution along time, a ReLU, and a convolution that
  makes a weight for each channel: sigmoid(conv2(relu(deconv(conv1(x))))).

  Attributes:
    step_size: stride of `deconv` and of `conv2`, so that the frames keep
      their number.
    deconv: whether there is the transposed convolution; without, `conv2` is
      padded.
    pool: accept clips of other sizes than that at initialisation: `conv1`
      sees them averaged in as many bins.
    by_frame: a weight for each frame; else `conv1` sees all frames at once
      (SA).
    by_channel: a weight for each channel; else one for all (TA).
    dtype: type of the computation.
  """
  step_size: int = 1
  deconv: bool = True
  pool: bool = False
  by_frame: bool = True
  by_channel: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`.

    Raises:
      ValueError: `x` has another height and width (SA: or number of frames)
        than at initialisation, without `pool`.
    """
    tied = (2, 3) if self.by_frame else (1, 2, 3)
    built = {}
    if self.has_variable('params', 'conv1'):
      kernel = self.get_variable('params', 'conv1')['kernel']
      built = {axis: kernel.shape[axis - 1] for axis in tied}
    kind = 'SA' if not self.by_frame else 'STA' if self.by_channel else 'TA'
    y = _fit(kind, self, x, built, self.pool)
    y = nn.Conv(1, [y.shape[axis] if axis in tied else 1 for axis in _AXES],
                padding='VALID', dtype=self.dtype,
                conv_general_dilated=_contract, name='conv1')(y)
    step = self.step_size if self.deconv else 1
    if self.deconv:
      # As torch orders the taps.
      y = nn.ConvTranspose(1, (3, 1, 1), (step, 1, 1), 'VALID',
                           dtype=self.dtype, transpose_kernel=True,
                           name='deconv')(y)
    edge = 0 if self.deconv else 1
    y = nn.Conv(x.shape[-1] if self.by_channel else 1, (3, 1, 1), (step, 1, 1),
                ((edge, edge), (0, 0), (0, 0)), dtype=self.dtype,
                conv_general_dilated=convolution.conv_general_dilated,
                name='conv2')(nn.relu(y))
    return gates.apply_gate(self, x, nn.sigmoid(y))


class Branch(nn.Module):
  """Two linear layers without biases and a sigmoid, from means to a gate."""
  features: int
  hidden: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, means: jax.Array) -> jax.Array:
    """Returns the gate [N, 1, 1, 1, features] from means [N, M]."""
    excite = gates.excitation(self.features, self.hidden, False, self.dtype)
    gate = nn.sigmoid(excite(means))[:, None, None, None]
    self.sow('intermediates', 'gate', gate)
    return gate


class STC(nn.Module):
  """Spatio-temporal channel correlation: the mean of two gates by channel.

  One is made of the channels' means over the clip (`scb`), the other of
  their means over each frame (`tcb`), channel by channel.

  Attributes:
    reduction: how much narrower either gets between its two layers.
    pool: accept clips of another length than that at initialisation: `tcb`
      sees them averaged in as many bins.
    dtype: type of the computation.
  """
  reduction: int = 16
  pool: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`.

    Raises:
      ValueError: `x` has another number of frames than at initialisation,
        without `pool`.
    """
    n, *_, c = x.shape
    built = {}
    if self.has_variable('params', 'tcb'):
      kernel = self.get_variable('params', 'tcb')['fc1']['kernel']
      built = {1: kernel.shape[0] // c}
    by_frame = _fit('STC', self, layers.GlobalAveragePool(
        name='pool_frames')(x)[:, :, None, None], built, self.pool)
    by_frame = by_frame[:, :, 0, 0].swapaxes(1, 2).reshape(n, -1)
    of_clip = layers.GlobalAveragePool((1, 2, 3), name='pool_clip')(x)
    gate = sum(
        Branch(c, means.shape[-1] // self.reduction, self.dtype, name=name)(
            means)
        for name, means in (('scb', of_clip), ('tcb', by_frame))) / 2
    return x * gate.astype(x.dtype)


UNITS = {
    'STA': STA,
    'TA': functools.partial(STA, by_channel=False),
    'SA': functools.partial(STA, by_frame=False),
    'STC': STC,
}
