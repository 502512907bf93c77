"""R-C3D: one network that proposes segments of a video and classifies them."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.backbones import layers
from vidattn_jax.detection import segments as segments_lib
from vidattn_jax.models import frozen
from vidattn_jax.models import recognizer

# Lengths of anchors in strides, for THUMOS'14.
SCALES = (2, 4, 5, 6, 8, 9, 10, 12, 14, 16)
# Frames between two places of the features.
_STRIDE = 8
# Spread of the targets of proposals: shift and growth.
_SPREAD = (0.1, 0.2)
# Proposals that are trained on, and how many of them may be actions; anchors.
_PROPOSALS, _ANCHORS = (128, 64), (64, 32)


class RC3D(recognizer.Recognizer):
  """Finds actions in a buffer of frames.

  Xu et al., "R-C3D: Region Convolutional 3D Network for Temporal Activity
  Detection", ICCV 2017, as its public PyTorch code has it. Sets are padded to
  fixed sizes, and masks tell which members exist.

  Attributes:
    num_classes: number of classes of actions, K; 0 is background in what the
      network counts itself.
    width: as the backbone's.
    dtype: as the backbone's.
    scales: lengths of the anchors at a place, in strides of 8 frames.
    proposals: proposals kept in training and in evaluation, after suppression.
    proposal_overlap: overlap above which proposals are suppressed, in training
      and in evaluation.
    detections: segments that are returned at most.
    least_score: scores below are no detections.
    class_overlap: overlap above which detections of a class are suppressed.
    background: least overlap of what is trained as background, and what it
      must stay below. With 0 the classifier sees what is far from any action;
      in the published code it does not.
  """
  width: float = 1.0
  dtype: jnp.dtype = jnp.float32
  scales: tuple[float, ...] = SCALES
  proposals: tuple[int, int] = (2000, 300)
  proposal_overlap: tuple[float, float] = (0.8, 0.9)
  detections: int = 200
  least_score: float = 0.005
  class_overlap: float = 0.4
  background: tuple[float, float] = (0.1, 0.5)

  @nn.compact
  def __call__(self, video: jax.Array, train: bool = False,
               capture: bool = False,
               segments: jax.Array | None = None) -> dict:
    """Finds segments, or computes what is trained.

    Args:
      video: [N, T, H, W, C], normalised; T a multiple of 8, H and W from 64 on.
      train: drop features out; sets need the random stream 'dropout' then.
      capture: return the backbone's stages, too.
      segments: [N, S, 3], true (first frame, last frame, class), class -1
        where there is none. With them the losses' parts are returned.

    Returns:
      Dict of `rpn_logits` [N, A, 2] (background, action) and `rpn_deltas`
      [N, A, 2] of all anchors; `proposals` [N, R, 2] in frames and
      `proposal_mask` bool [N, R]; and of these `logits` [N, R, K + 1] and
      `deltas` [N, R, K + 1, 2].
      Without `segments`, what is found, the surest first: `segments`
      [N, D, 2], in frames, ends included, `labels` int32 [N, D] from 0 to
      K - 1, `scores` [N, D] and `mask` bool [N, D].
      With `segments`, the targets of what was drawn to be trained on:
      `rpn_labels` int32 [N, A], -1 for others, `rpn_targets` [N, A, 2];
      `labels` int32 [N, R], 0 for background, `targets` [N, R, 2] (R is 128).

    Raises:
      ValueError: `video` or `segments` have another form.
    """
    self.check_video(video)
    frames = video.shape[1]
    if frames % _STRIDE or min(video.shape[2:4]) < 64:
      raise ValueError(
          f'The video has the shape {video.shape}; R-C3D takes a multiple of '
          f'{_STRIDE} frames, 64 pixels high and wide or more.')
    if segments is not None and (
        segments.ndim != 3 or segments.shape[::2] != (len(video), 3)):
      raise ValueError(f'The segments have the shape {segments.shape}; they '
                       f'must be ({len(video)}, S, 3).')
    with frozen.frozen_statistics(self.freeze, self.partial_bn):
      stages = self.backbone(name='backbone')(video, train)
    features = stages[-1]
    anchors = jnp.asarray(segments_lib.make_anchors(
        self.scales, _STRIDE, features.shape[1]))
    outputs = Proposals(len(self.scales), self.width, self.dtype,
                        name='rpn')(features)
    count = self.proposals[0 if train else 1]
    propose = functools.partial(
        self._propose, anchors=anchors, frames=frames,
        count=min(count, len(anchors)),
        overlap=self.proposal_overlap[0 if train else 1])
    proposals, mask = jax.vmap(propose)(
        outputs['rpn_logits'], outputs['rpn_deltas'])
    if segments is not None:
      keys = jax.random.split(self.make_rng('dropout'), 2 * len(video))
      keys = keys.reshape(2, len(video))
      labels, which = jax.vmap(functools.partial(
          _draw_anchors, anchors=anchors, frames=frames))(keys[0], segments)
      outputs['rpn_labels'] = labels
      outputs['rpn_targets'] = segments_lib.encode(
          anchors, _rows(segments[..., :2], which))
      (proposals, mask, outputs['labels'], outputs['targets']) = jax.vmap(
          functools.partial(_draw_proposals, background=self.background))(
              keys[1], proposals, mask, segments)
    outputs |= {'proposals': proposals, 'proposal_mask': mask}
    outputs['logits'], outputs['deltas'] = Head(
        self.num_classes, self.width, self.dropout, self.dtype, name='roi')(
            features, proposals, train)
    if segments is None:
      outputs |= jax.vmap(functools.partial(self._detect, frames=frames))(
          outputs['logits'], outputs['deltas'], proposals, mask)
    if capture:
      outputs['stages'] = stages
    return outputs

  @nn.nowrap
  def _propose(self, logits, deltas, *, anchors, frames, count, overlap):
    """Returns the best proposals [R, 2] of one buffer, and bool [R]."""
    logits, deltas = map(jax.lax.stop_gradient, (logits, deltas))
    moved = jnp.clip(segments_lib.decode(anchors, deltas), 0, frames - 1)
    kept, mask = segments_lib.nms(moved, jax.nn.softmax(logits)[:, 1], overlap,
                                  count, extra=1.0)
    return moved[kept], mask

  @nn.nowrap
  def _detect(self, logits, deltas, proposals, mask, *, frames):
    """Returns what is found in one buffer, see `__call__`."""
    scores = jax.nn.softmax(logits)[:, 1:]
    found = segments_lib.decode(
        proposals[:, None], deltas[:, 1:] * jnp.asarray(_SPREAD))
    found = jnp.clip(found, 0, frames - 1)
    sure = mask[:, None] & (scores > self.least_score)
    most = min(self.detections, len(proposals))
    suppress = functools.partial(
        segments_lib.nms, threshold=self.class_overlap, most=most, extra=1.0)
    kept, exist = jax.vmap(
        lambda s, v, m: suppress(s, v, mask=m), 1)(found, scores, sure)
    label = jnp.arange(len(kept), dtype=jnp.int32)[:, None]
    values = jnp.where(exist, scores[kept, label], -jnp.inf).ravel()
    best = jnp.argsort(-values, stable=True)[:self.detections]
    return {
        'segments': found[kept, label].reshape(-1, 2)[best],
        'labels': jnp.broadcast_to(label, kept.shape).ravel()[best],
        'scores': jnp.where(exist.ravel()[best], values[best], 0),
        'mask': exist.ravel()[best]}


class Proposals(nn.Module):
  """Tells which anchors are actions, and how they must move.

  Attributes:
    anchors: anchors at a place, A.
    width: multiplier of the layers' width.
    dtype: type of the computation.
  """
  anchors: int
  width: float = 1.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> dict:
    """Returns `rpn_logits` and `rpn_deltas`, both [N, t * A, 2].

    Args:
      x: [N, t, h, w, C].
    """
    # As published, at full width; narrow layers keep its scale of the outputs.
    conv = functools.partial(
        layers.conv, use_bias=True,
        kernel_init=nn.initializers.normal(0.01 / self.width ** 0.5))
    for name in ('conv1', 'conv2'):
      x = nn.relu(conv(layers.widened(512, self.width), (3, 3, 3), (1, 2, 2),
                       ((1, 1),) * 3, dtype=self.dtype, name=name)(x))
    x = layers.MaxPool((1, *x.shape[2:4]), (1, 1, 1), ((0, 0),) * 3,
                       name='pool')(x).astype(jnp.float32)
    n, t = x.shape[:2]
    score = functools.partial(conv, 2 * self.anchors, (1, 1, 1))
    # Published weights have the kind before the anchor, then the other way.
    logits = score(name='cls_score')(x).reshape(n, t, 2, self.anchors)
    deltas = score(name='twin_pred')(x).reshape(n, t * self.anchors, 2)
    return {'rpn_logits': logits.swapaxes(2, 3).reshape(deltas.shape),
            'rpn_deltas': deltas}


class Head(nn.Module):
  """Classifies proposals, and tells how they must move for each class.

  Attributes:
    num_classes: classes of actions, K.
    width: multiplier of the layer's width.
    dropout: share of features zeroed before the classifier.
    dtype: type of the computation.
  """
  num_classes: int
  width: float = 1.0
  dropout: float = 0.5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, features, proposals, train: bool = False):
    """Returns logits [N, R, K + 1] and deltas [N, R, K + 1, 2].

    Args:
      features: [N, t, h, w, C].
      proposals: [N, R, 2] in frames.
      train: drop features out.
    """
    pooled = jax.vmap(segments_lib.soi_pool)(features, proposals)
    # Channels first, as the published weights have them.
    pooled = jnp.moveaxis(pooled, -1, 2).reshape(*proposals.shape[:2], -1)
    y = nn.relu(nn.Dense(layers.widened(4096, self.width), dtype=self.dtype,
                         name='fc6')(pooled.astype(self.dtype)))
    y = nn.Dropout(self.dropout, deterministic=not train, name='dropout')(y)
    y = y.astype(jnp.float32)
    classes = self.num_classes + 1
    logits = nn.Dense(classes, kernel_init=nn.initializers.normal(0.01),
                      name='cls_score')(y)
    deltas = nn.Dense(2 * classes, kernel_init=nn.initializers.normal(0.001),
                      name='twin_pred')(y)
    return logits, deltas.reshape(*logits.shape, 2)


def _rows(table, indices):
  """Takes rows [N, R, ...] of tables [N, S, ...] by indices [N, R]."""
  return jax.vmap(lambda rows, index: rows[index])(table, indices)


def _draw_anchors(key, segments, *, anchors, frames):
  """Returns labels [A], -1 where nothing is trained, and what each matches."""
  labels, which = segments_lib.match_anchors(
      anchors, segments[:, :2], segments[:, 2] >= 0, frames)
  chosen, exist = segments_lib.sample(key, labels, *_ANCHORS)
  drawn = jnp.zeros(len(labels), bool).at[chosen].max(exist)
  return jnp.where(drawn, labels, -1), which


def _draw_proposals(key, proposals, mask, segments, *, background):
  """Returns proposals [R, 2], bool [R], classes [R] and targets [R, 2]."""
  truth, there = segments[:, :2], segments[:, 2] >= 0
  # The truth itself is proposed, too.
  proposals = jnp.concatenate([proposals, truth.astype(proposals.dtype)])
  labels, which = segments_lib.match_proposals(
      proposals, jnp.concatenate([mask, there]), truth, there,
      negative=background)
  chosen, exist = segments_lib.sample(key, labels, *_PROPOSALS)
  proposals, labels, which = proposals[chosen], labels[chosen], which[chosen]
  classes = jnp.where(labels == 1, segments[which, 2].astype(jnp.int32) + 1, 0)
  targets = segments_lib.encode(proposals, truth[which])
  # Where there is no truth, what is matched is padding.
  targets = jnp.where((classes > 0)[:, None], targets, 0)
  return proposals, exist, classes, targets / jnp.asarray(_SPREAD)
