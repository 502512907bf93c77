"""ST-ABN: a branch that classifies, and whose maps say where and when to look.

Noguchi et al., "Embedding Human Knowledge into Spatio-Temporal Attention
Branch Network in Video Recognition via Temporal Attention", section 3. Order
and sizes of the layers are those of the published code.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import layers

# What makes the branch's logits of its maps.
HEADS = ('fc', 'gap')


class AttentionBranch(nn.Module):
  """Class maps of a clip; from these, logits and two attentions.

  Attributes:
    num_classes: K.
    trunk: makes what the branch begins with from its name: a fresh copy of the
      network's last stage, without strides.
    head: 'fc', a linear layer sees the maps' means of every frame (the
      published code); 'gap', the maps' means over all frames (the paper).
    dropout: share of the means zeroed before that layer.
    dtype: type of the computation; logits and attentions are float32 or
      wider.
  """
  num_classes: int
  trunk: Callable[..., nn.Module]
  head: str = 'fc'
  dropout: float = 0.5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> dict:
    """Looks at features.

    Args:
      x: [N, T, h, w, C]; T as at initialisation.
      train: use, and update, the statistics of this batch; drop out.

    Returns:
      Dict of `class_maps` [N, T, h, w, K], `attention_logits` [N, K],
      `spatial_attention` [N, T, h, w] and `temporal_attention` [N, T], both
      in (0, 1).

    Raises:
      ValueError: `head` is neither, or T is another.
    """
    names.check_name('attention head', self.head, HEADS)
    self._check_frames(x.shape[1])

    def conv(y, features, kernel, name):
      return layers.conv(features, kernel, padding=layers.centered(kernel),
                         dtype=self.dtype, name=name)(y)

    def norm(y, name):
      return layers.norm(dtype=self.dtype, name=name)(
          y, use_running_average=not train)

    y = self.trunk(name='trunk')(x, train)
    maps = nn.relu(norm(conv(norm(y, 'trunk_bn'), self.num_classes, (1, 1, 1),
                             'maps_conv'), 'maps_bn'))
    wide = jnp.promote_types(maps.dtype, jnp.float32)
    spatial = norm(conv(maps, 1, (1, 1, 1), 'spatial_conv'), 'spatial_bn')
    return {'class_maps': maps,
            'attention_logits': self._classify(
                conv(maps, self.num_classes, (1, 1, 1), 'out_conv'), train),
            'spatial_attention': nn.sigmoid(spatial[..., 0].astype(wide)),
            'temporal_attention': self._weigh_frames(
                nn.relu(norm(conv(maps, 1, (3, 3, 3), 'temporal_conv'),
                             'temporal_bn'))[..., 0], wide)}

  def _check_frames(self, frames):
    if self.has_variable('params', 'temporal_fc1'):
      built = self.get_variable('params', 'temporal_fc1')['kernel'].shape[0]
      if built != frames:
        raise ValueError(
            f'The temporal attention was built for features of {built} frames '
            f'and meets {frames}; set num_frames to what its weights are for.')

  def _classify(self, y, train):
    """Returns logits [N, K] of [N, T, h, w, K]."""
    means = layers.GlobalAveragePool(name='out_pool')(y)
    if self.head == 'gap':
      return means.mean(1)
    # Class by class, as published.
    means = means.swapaxes(1, 2).reshape(len(y), -1)
    means = nn.Dropout(self.dropout, deterministic=not train)(means)
    return nn.Dense(self.num_classes, dtype=means.dtype, name='out_fc')(means)

  def _weigh_frames(self, y, wide):
    """Returns weights [N, T] of one map for each frame, [N, T, h, w]."""
    frames = y.shape[1]
    y = layers.conv(frames, (1, 1), dtype=self.dtype, name='temporal_mix')(
        y.transpose(0, 2, 3, 1))
    y = layers.GlobalAveragePool(name='temporal_pool')(nn.relu(y))
    y = nn.relu(nn.Dense(frames, dtype=wide, name='temporal_fc1')(y))
    return nn.sigmoid(nn.Dense(frames, dtype=wide, name='temporal_fc2')(y))


class Mechanism(nn.Module):
  """Features weighted by both attentions, mixed; equation 3.

  Attributes:
    relu: a ReLU at the end, as the first of the published codes has it.
    dtype: type of the computation.
  """
  relu: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, spatial: jax.Array, temporal: jax.Array,
               train: bool = False) -> jax.Array:
    """Returns [N, T, h, w, C].

    Args:
      x: features [N, T, h, w, C].
      spatial: [N, T, h, w]; the features are weighted by 1 plus it.
      temporal: [N, T].
      train: use, and update, the statistics of this batch.
    """
    by_place = x * (1 + spatial[..., None]).astype(x.dtype)
    by_frame = x * temporal[:, :, None, None, None].astype(x.dtype)
    y = layers.conv(x.shape[-1], (1, 1, 1), dtype=self.dtype, name='conv')(
        jnp.concatenate([by_place, by_frame], -1))
    y = layers.norm(dtype=self.dtype, name='bn')(
        y, use_running_average=not train)
    return nn.relu(y) if self.relu else y


def temporal_loss(edited: jax.Array, attention: jax.Array,
                  mask: jax.Array | None = None, gamma: float = 10.0):
  """Measures how far a temporal attention is from what a person drew.

  Equation 6.

  Args:
    edited: the person's weights [N, T], 0 to 1.
    attention: the network's [N, T].
    mask: 1 for the frames [N, T] that count; None for all.
    gamma: factor of the loss.

  Returns:
    [N]: `gamma` times the mean over the frames that count of the squared
    difference; 0 where none counts.
  """
  mask = jnp.ones_like(attention) if mask is None else mask
  total = (mask * (edited - attention) ** 2).sum(1)
  return gamma * total / jnp.maximum(mask.sum(1), 1)
