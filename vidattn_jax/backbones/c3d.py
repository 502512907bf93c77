"""C3D: eight 3x3x3 convolutions, then two wide linear layers.

Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks",
ICCV 2015.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.backbones import layers

# Convolutions of each stage, and their channels.
_STAGES = ((('conv1',), 64), (('conv2',), 128), (('conv3a', 'conv3b'), 256),
           (('conv4a', 'conv4b'), 512), (('conv5a', 'conv5b'), 512))
# The least of the frames, height and width that leaves anything to pool.
_LEAST = 16


class C3D(nn.Module):
  """The convolutions of C3D.

  Attributes:
    width: multiplier of every layer's width.
    attention: makes the attention unit from its name and type, or None; it
      stands after a convolution's ReLU.
    stages: stages, of 1 to 5, that have units.
    blocks: which of a stage's convolutions have: see `layers.attended`.
    dtype: type of the computation; parameters are float32.
  """
  width: float = 1.0
  attention: Callable[..., nn.Module] | None = None
  stages: tuple[int, ...] = (1, 2, 3, 4, 5)
  blocks: tuple[int, ...] | None = (-1,)
  dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def check_fields(self):
    """Raises a ValueError if a field is not one of those above."""
    layers.check_placement(
        self.width, self.attention, self.stages, self.blocks,
        tuple(len(convolutions) for convolutions, _ in _STAGES))

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False):
    """Computes the features of every stage.

    Args:
      x: [N, T, H, W, C], normalised; T, H and W from 16 on.
      train: passed on to the units.

    Returns:
      List of the five stages' outputs [N, t, h, w, C'], before their pooling:
      at 1, 1, 1/2, 1/4 and 1/8 of T, and 1, 1/2, 1/4, 1/8 and 1/16 of H and W.

    Raises:
      ValueError: a field is not one of those above, or the clip is too small.
    """
    self.check_fields()
    if min(x.shape[1:4]) < _LEAST:
      raise ValueError(
          f'The video has the shape {x.shape}; C3D takes clips of at least '
          f'{_LEAST} frames, {_LEAST} pixels high and wide.')
    x = x.astype(self.dtype)
    outputs = []
    for i, (convolutions, width) in enumerate(_STAGES):
      if i > 0:
        window = (1 if i == 1 else 2, 2, 2)
        x = layers.MaxPool(window, window, ((0, 0),) * 3, name=f'pool{i}')(x)
      for j, name in enumerate(convolutions):
        unit = layers.attended(self.attention, self.stages, self.blocks, i + 1,
                               j, len(convolutions))
        x = layers.ConvBlock(
            layers.widened(width, self.width), (3, 3, 3), normalized=False,
            attention=unit, dtype=self.dtype, name=name)(x, train)
      outputs.append(x)
    return outputs


class FullyConnected(nn.Module):
  """The last pooling of C3D and its linear layers but the classifier.

  Attributes:
    width: multiplier of the layers' width.
    dropout: share of features zeroed between them.
    dtype: type of the computation.
  """
  width: float = 1.0
  dropout: float = 0.5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Turns the last stage into features.

    Args:
      x: [N, T, H, W, C].
      train: drop features out.

    Returns:
      [N, D].

    Raises:
      ValueError: the clip is of another size than the weights are for.
    """
    pooled = layers.MaxPool((2, 2, 2), (2, 2, 2), ((0, 0), (1, 1), (1, 1)),
                            name='pool5')(x)
    # Channels first, as the published weights have them.
    y = pooled.transpose(0, 4, 1, 2, 3).reshape(len(x), -1)
    if self.has_variable('params', 'fc6'):
      size = self.get_variable('params', 'fc6')['kernel'].shape[0]
      if size != y.shape[1]:
        raise ValueError(
            f'fc6 of C3D is made for {size} features, but the clip gives '
            f'{y.shape[1]} ({" x ".join(map(str, pooled.shape[1:]))}); set '
            'num_frames and crop_size to those that the weights are for, 16 '
            'and 112 if they are published ones.')
    width = layers.widened(4096, self.width)
    y = nn.relu(nn.Dense(width, dtype=self.dtype, name='fc6')(y))
    y = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(y)
    return nn.relu(nn.Dense(width, dtype=self.dtype, name='fc7')(y))
