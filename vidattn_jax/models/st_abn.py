"""ST-ABN: where and when a branch looks weighs what the rest sees."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.attention import abn
from vidattn_jax.backbones import layers
from vidattn_jax.models import frozen
from vidattn_jax.models import recognizer
from vidattn_jax.ops import resizing


class STABN(recognizer.Recognizer):
  """Spatio-temporal attention branch network.

  Noguchi et al., "Embedding Human Knowledge into Spatio-Temporal Attention
  Branch Network in Video Recognition via Temporal Attention". The backbone is
  a slow pathway (or another 3D ResNet, or C3D) without its last stage, which is
  the perception branch. Where it strides in time, several frames share what the
  attentions are for.

  Attributes:
    num_classes: number of classes; one number, not several heads.
    attention_head: see `abn.AttentionBranch.head`.
    mixing_relu: see `abn.Mechanism.relu`.
    dtype: type of the computation.
  """
  attention_head: str = 'fc'
  mixing_relu: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, video: jax.Array, train: bool = False,
               capture: bool = False,
               temporal_attention: jax.Array | None = None,
               invert_spatial: bool = False) -> dict:
    """Classifies clips, and says where and when it looked.

    Args:
      video: [N, T, H, W, C], normalised; T as at initialisation.
      train: drop features out, use and update statistics of the batch.
      capture: return what the network sees inside, too.
      temporal_attention: weights [N, T] to use in place of its own; those of
        negative entries are its own. Frames that share one weight get their
        mean.
      invert_spatial: look where it would not: 1 minus the spatial attention,
        equation 7.

    Returns:
      Dict of float32 `logits` [N, K], `attention_logits` [N, K] of the
      branch, its own `temporal_attention` [N, T] and `spatial_attention`
      [N, T, h, w], both in (0, 1). With `capture`, `class_maps`
      [N, T, h, w, K], `stages` and `gates`, see `Recognizer`. Where the
      backbone strides in time, these are repeated to T.

    Raises:
      ValueError: `video` or `temporal_attention` has another shape.
    """
    self.check_video(video)
    if temporal_attention is not None and (
        temporal_attention.shape != video.shape[:2]):
      raise ValueError(
          f'temporal_attention has the shape {temporal_attention.shape}; the '
          f'video has {video.shape[0]} clips of {video.shape[1]} frames.')
    with frozen.frozen_statistics(self.freeze, self.partial_bn):
      last = self.backbone(parent=None).num_stages
      backbone = self.backbone(num_stages=last - 1, name='backbone')
      stages = backbone(video, train)
      seen = abn.AttentionBranch(
          self.num_classes,
          functools.partial(backbone.make_stage, last, plain=True),
          head=self.attention_head, dropout=self.dropout, dtype=self.dtype,
          name='branch')(stages[-1], train)
      spatial, temporal = (seen[f'{kind}_attention']
                           for kind in ('spatial', 'temporal'))
      frames = {1: video.shape[1]}
      seen |= {kind: resizing.upsample_nearest(maps, frames)
               for kind, maps in seen.items() if kind != 'attention_logits'}
      if temporal_attention is not None:
        temporal = resizing.average_repeated(
            jnp.where(temporal_attention >= 0, temporal_attention,
                      seen['temporal_attention']), {1: temporal.shape[1]})
      x = abn.Mechanism(self.mixing_relu, self.dtype, name='mechanism')(
          stages[-1], 1 - spatial if invert_spatial else spatial, temporal,
          train)
      stages.append(backbone.make_stage(last, 'perception')(x, train))
    neck = self.neck or functools.partial(layers.GlobalAveragePool,
                                          (-4, -3, -2))
    features = neck(name='neck')(stages[-1], train)
    features = nn.Dropout(self.dropout, deterministic=not train,
                          name='dropout')(features)
    maps = seen.pop('class_maps')
    outputs = {**seen, 'logits': nn.Dense(
        self.num_classes, kernel_init=nn.initializers.normal(0.001),
        name='head')(features)}
    if capture:
      outputs |= {'stages': stages, 'class_maps': maps}
    return outputs
