"""C3D: eight 3x3x3 convolutions, then two wide linear layers.

Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks",
ICCV 2015.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.backbones import layers
from vidattn_jax.backbones import remat

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
    num_stages: stages that it ends after, of five.
    dtype: type of the computation; parameters are float32.
  """
  width: float = 1.0
  attention: Callable[..., nn.Module] | None = None
  stages: tuple[int, ...] = (1, 2, 3, 4, 5)
  blocks: tuple[int, ...] | None = (-1,)
  num_stages: int = 5
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
      List of the stages' outputs [N, t, h, w, C'], before their pooling: at
      1, 1, 1/2, 1/4 and 1/8 of T, and 1, 1/2, 1/4, 1/8 and 1/16 of H and W.

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
    for stage in range(1, self.num_stages + 1):
      x = _run(*self._parts(stage), x, train)
      outputs.append(x)
    return outputs

  @nn.nowrap
  def make_stage(self, stage: int, name: str, plain: bool = False) -> nn.Module:
    """Makes a stage; a part of the module in whose call it is made.

    Args:
      stage: which, from 1.
      name: its name there.
      plain: without the pooling before it and without attention units.
    """
    return Stage(*self._parts(stage, plain), name=name)

  @nn.nowrap
  def _parts(self, stage, plain=False):
    """Returns what makes a stage's pooling, or None, and its convolutions."""
    window = (1 if stage == 2 else 2, 2, 2)
    pool = functools.partial(layers.MaxPool, window, window, ((0, 0),) * 3,
                             name=f'pool{stage - 1}')
    convolutions, width = _STAGES[stage - 1]
    return None if plain or stage == 1 else pool, tuple(
        functools.partial(
            layers.ConvBlock, layers.widened(width, self.width), (3, 3, 3),
            normalized=False, attention=None if plain else layers.attended(
                self.attention, self.stages, self.blocks, stage, i,
                len(convolutions)),
            dtype=self.dtype, name=name)
        for i, name in enumerate(convolutions))


class Stage(nn.Module):
  """A pooling and convolutions in a row.

  Attributes:
    pool: makes the pooling, or None.
    convolutions: makes each convolution.
  """
  pool: Callable[..., nn.Module] | None
  convolutions: tuple[Callable[..., nn.Module], ...]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, t, h, w, C'] from [N, T, H, W, C]."""
    return _run(self.pool, self.convolutions, x, train)


def _run(pool, convolutions, x, train):
  """Applies a stage; its layers are parts of the module that calls this."""
  if pool is not None:
    x = pool()(x)
  for convolution in convolutions:
    x = remat.block(convolution(), x, train)
  return x


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
