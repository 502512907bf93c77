"""T-STAM: attention over the frames of a clip and over places in them.

Equations 1 to 9 of "Two-Stream Spatio-Temporal Attention" (T-STAM). Read to
the letter, equation 7 sums one vector a frame with weights that sum to one, so
that spatial attention would cancel; its features are taken at each place, as
equation 1 makes them.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.backbones import layers

# How equation 7 sums over frames.
SUMS = ('invariant', 'literal')


class SpatialAttention(nn.Module):
  """Weights of the places of each frame, equations 4 to 6.

  Attributes:
    dtype: type of the convolutions; the weights are float32 or wider.
  """
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, h, w], which sums to 1 over each frame of `x`."""
    y = layers.conv(x.shape[-1] // 2, (1, 1), use_bias=True, dtype=self.dtype,
                    name='conv1')(x)
    y = nn.tanh(layers.norm(dtype=self.dtype, name='bn1')(
        y, use_running_average=not train))
    y = layers.conv(1, (5, 5), padding=((2, 2), (2, 2)), use_bias=True,
                    dtype=self.dtype, name='conv2')(y)
    y = layers.norm(dtype=self.dtype, name='bn2')(
        y, use_running_average=not train)[..., 0]
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    return nn.softmax(y, axis=(-2, -1))


class TSTAM(nn.Module):
  """Temporal and several spatial attentions, fused.

  Attributes:
    embed_dim: D, length of the vector that stands for a place.
    num_spatial: l, number of spatial attentions.
    num_segments: frames of a training clip.
    frame_sum: 'invariant', equation 7 is `num_segments` times the mean over
      frames, which is its sum in training and does not grow with the frames
      of a longer clip in testing; 'literal', the sum.
    dtype: type of the computation; attention and features are float32 or
      wider.
  """
  embed_dim: int = 256
  num_spatial: int = 4
  num_segments: int = 6
  frame_sum: str = 'invariant'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> dict:
    """Attends to the frames of clips.

    Args:
      x: [N, T, h, w, C], the last features of a 2D backbone.
      train: use, and update, the statistics of this batch.

    Returns:
      Dict of `features` [N, l * D], `temporal_attention` [N, T], which sums
      to 1 over T, and `spatial_attention` [N, T, l, h, w], which sums to 1
      over each frame.

    Raises:
      ValueError: `frame_sum` is none of the two.
    """
    names.check_name('frame_sum', self.frame_sum, SUMS)
    embedding = layers.conv(self.embed_dim, (1, 1), use_bias=True,
                            dtype=self.dtype, name='embed')(x)
    wide = jnp.promote_types(embedding.dtype, jnp.float32)
    embedding = embedding.astype(wide)
    frames = embedding.mean((2, 3))
    scores = nn.Dense(1, dtype=wide, name='temporal_score')(frames)[..., 0]
    temporal = nn.softmax(scores, axis=1)
    of_frames = jnp.einsum('nt,ntd->nd', temporal, frames)

    spatial = jnp.stack([
        SpatialAttention(self.dtype, name=f'spatial{j}')(x, train)
        for j in range(self.num_spatial)], axis=2)
    of_places = jnp.einsum('ntlhw,nthwd->nld', spatial, embedding)
    if self.frame_sum == 'invariant':
      of_places = of_places * (self.num_segments / x.shape[1])
    fused = of_frames[:, None] + of_places
    return {'features': fused.reshape(len(x), -1),
            'temporal_attention': temporal, 'spatial_attention': spatial}
