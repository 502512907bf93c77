"""Losses: functions of a model's outputs and the batch."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from vidattn_jax.attention import abn


def one_hot_targets(labels, num_classes, smoothing: float = 0.0,
                    multi: bool = False):
  """Turns labels into target distributions.

  Args:
    labels: int32 [N]; with several heads [N, heads], in the order of their
      names; with `multi` [N, K], 1 for the classes of a clip and 0 for others.
    num_classes: number of classes K, or {head: K}.
    smoothing: probability mass spread over all classes, in [0, 1); with `multi`
      over a class and its absence.
    multi: classes are independent.

  Returns:
    float32 [N, K], or {head: [N, K]}; rows sum to 1 unless `multi`.
  """
  if isinstance(num_classes, Mapping):
    return {head: one_hot_targets(labels[:, i], num_classes[head], smoothing)
            for i, head in enumerate(sorted(num_classes))}
  if multi:
    return labels.astype(jnp.float32) * (1 - smoothing) + smoothing / 2
  targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
  return optax.smooth_labels(targets, smoothing) if smoothing else targets


def cross_entropy(outputs, batch, multi: bool = False):
  """Computes the cross-entropy of each clip's consensus logits.

  Args:
    outputs: a model's outputs; `logits` is float32 [N, K], or a dict of them.
      `branch_logits`, {branch: [N, K]}, and `attention_logits` [N, K] may be
      there, too.
    batch: `targets`, float32 [N, K], or a dict of them with the same keys.
    multi: classes are independent: the binary cross-entropy, its mean over the
      classes.

  Returns:
    [N], of the logits' type; with several heads, the sum over heads; with
    branches, the sum of theirs and that of all together (equation 8 of
    "Integrating Temporal and Spatial Attention"); with an attention branch,
    its loss and that of the perception branch (ST-ABN, equation 4).
  """
  def loss(logits, targets):
    targets = targets.astype(logits.dtype)
    if multi:
      return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)
    return optax.softmax_cross_entropy(logits, targets)

  losses = jax.tree.map(loss, outputs['logits'], batch['targets'])
  total = sum(jax.tree.leaves(losses))
  more = [*outputs.get('branch_logits', {}).values()]
  if 'attention_logits' in outputs:
    more.append(outputs['attention_logits'])
  for logits in more:
    total += cross_entropy({'logits': logits}, batch, multi)
  return total


def mean_temporal_loss(outputs, batch, gamma: float):
  """Computes how far temporal attention is from what people drew.

  ST-ABN, equation 6, over the clips that people edited.

  Args:
    outputs: `temporal_attention` [N, T].
    batch: `temporal_target` [N, T], what people drew, `temporal_mask` [N, T],
      1 for frames that count, and `mask` [N], 0 for clips that do not.
    gamma: factor of the loss.

  Returns:
    Scalar: the mean over the edited clips; 0 if there are none.
  """
  mask = batch['temporal_mask'] * batch['mask'][:, None]
  values = abn.temporal_loss(
      batch['temporal_target'], outputs['temporal_attention'], mask, gamma)
  return values.sum() / jnp.maximum((mask.sum(1) > 0).sum(), 1)


def pooled(stage):
  """Returns the mean of a stage [N, T, H, W, D] over a clip, float32 [N, D]."""
  return stage.mean((1, 2, 3), dtype=jnp.promote_types(stage.dtype,
                                                       jnp.float32))


def feature_gap(stage, features):
  """Computes how far features are from a teacher's, as MARS does.

  Args:
    stage: the student's last, [N, T, H, W, D].
    features: the teacher's, [N, D].

  Returns:
    [N], the mean squared error of the pooled features.

  Raises:
    ValueError: they have other numbers of features.
  """
  mine = pooled(stage)
  if mine.shape != features.shape:
    raise ValueError(
        f'The network has {mine.shape[-1]} features, its teacher '
        f'{features.shape[-1]}; choose model.name and model.width alike.')
  return jnp.square(mine - features).mean(-1)


def overlap_loss(logits, labels, overlaps, weight: float = 1.0):
  """Computes the loss of S-CNN's localisation network.

  Shou et al., "Temporal Action Localization in Untrimmed Videos via
  Multi-stage CNNs", CVPR 2016, section 3.3: beside the cross-entropy, windows
  that overlap an action little get less of their class's probability.

  Args:
    logits: [N, K], class 0 is background.
    labels: int32 [N].
    overlaps: [N], of the window with its action, in (0, 1]; not used of
      background.
    weight: factor of the second part.

  Returns:
    (cross-entropy [N], overlap loss [N]); the loss is the mean of the sum.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  chance = jnp.exp(-entropy)
  is_action = labels > 0
  # Background has no overlap; its root must not become infinite.
  overlaps = jnp.where(is_action, overlaps, 1.0)
  overlap = 0.5 * (chance ** 2 / overlaps ** 0.25 - 1)
  return entropy, weight * jnp.where(is_action, overlap, 0.0)


def scnn_losses(outputs, labels, overlaps, weight: float = 1.0,
                background: float = 1.0) -> dict:
  """Computes the losses of S-CNN's networks, whose sum is trained.

  Args:
    outputs: of `models.scnn.SCNN`.
    labels: int32 [N], class 0 is background.
    overlaps: see `overlap_loss`.
    weight: see there; with 0 the localisation network is the paper's
      classification network.
    background: factor of its cross-entropy for background.

  Returns:
    Dict of [N]: `proposal`, `class` and `overlap`.
  """
  proposal = optax.softmax_cross_entropy_with_integer_labels(
      outputs['proposal_logits'], (labels > 0).astype(labels.dtype))
  entropy, overlap = overlap_loss(outputs['logits'], labels, overlaps, weight)
  return {'proposal': proposal, 'overlap': overlap,
          'class': jnp.where(labels > 0, 1.0, background) * entropy}


def smooth_l1(differences, sigma: float = 1.0):
  """Returns the absolute value, less 0.5 / sigma^2, rounded off near 0."""
  size = jnp.abs(differences)
  return jnp.where(size < 1 / sigma ** 2, 0.5 * sigma ** 2 * size ** 2,
                   size - 0.5 / sigma ** 2)


def rc3d_losses(outputs) -> dict:
  """Computes the losses of R-C3D, whose sum is trained.

  Args:
    outputs: of `models.rc3d.RC3D` with `segments`.

  Returns:
    Dict of [N]: `rpn_class` and `rpn_twin`, of anchors, `class` and `twin`, of
    proposals; each the mean over what was drawn, twins over actions only.
  """
  entropy = optax.softmax_cross_entropy_with_integer_labels
  labels = outputs['rpn_labels']
  drawn = labels >= 0
  count = jnp.maximum(drawn.sum(1), 1)
  twin = smooth_l1(outputs['rpn_deltas'] - outputs['rpn_targets'], 3.0).sum(-1)
  found = {
      'rpn_class': (entropy(outputs['rpn_logits'], jnp.maximum(labels, 0))
                    * drawn).sum(1) / count,
      'rpn_twin': jnp.where(labels == 1, twin, 0).sum(1) / count}
  labels, drawn = outputs['labels'], outputs['proposal_mask']
  count = jnp.maximum(drawn.sum(1), 1)
  deltas = jnp.take_along_axis(
      outputs['deltas'], labels[..., None, None], axis=2)[:, :, 0]
  twin = smooth_l1(deltas - outputs['targets']).sum(-1)
  return found | {
      'class': (entropy(outputs['logits'], labels) * drawn).sum(1) / count,
      'twin': jnp.where(drawn & (labels > 0), twin, 0).sum(1) / count}


def mix_clips(rng, video, targets, mixup_alpha: float, cutmix_alpha: float):
  """Blends each clip with another one of the batch, as mixup or cutmix.

  The partner is the clip at the mirrored place in the batch. One share and
  one box serve the whole batch; the box is the same in every frame.

  Args:
    rng: key.
    video: float [N, T, H, W, C].
    targets: float32 [N, K], or a dict of them.
    mixup_alpha: parameter of the Beta distribution of the share; 0 for none.
    cutmix_alpha: the same for the area of the pasted box.

  Returns:
    video and targets of the same shapes.
  """
  if not mixup_alpha and not cutmix_alpha:
    return video, targets
  coin_key, share_key, place_key = jax.random.split(rng, 3)
  height, width = video.shape[2:4]
  if mixup_alpha and cutmix_alpha:
    use_box = jax.random.bernoulli(coin_key)
  else:
    use_box = jnp.asarray(bool(cutmix_alpha))
  alpha = jnp.where(use_box, cutmix_alpha or 1.0, mixup_alpha or 1.0)
  share = jax.random.beta(share_key, alpha, alpha)  # of the clip's own pixels

  side = jnp.sqrt(1.0 - share)
  centre = jax.random.uniform(place_key, (2,))
  rows, columns = jnp.arange(height), jnp.arange(width)
  top, bottom = _span(centre[0], side, height)
  left, right = _span(centre[1], side, width)
  box = (((rows >= top) & (rows < bottom))[:, None]
         & ((columns >= left) & (columns < right))[None, :])
  box_share = 1.0 - jnp.mean(box.astype(jnp.float32))
  share = jnp.where(use_box, box_share, share)
  weight = jnp.where(use_box, (~box).astype(jnp.float32), share)
  weight = jnp.broadcast_to(weight, (height, width))[None, None, :, :, None]
  weight = weight.astype(video.dtype)
  video = weight * video + (1 - weight) * video[::-1]
  return video, jax.tree.map(
      lambda t: share * t + (1 - share) * t[::-1], targets)


def _span(centre, side, length):
  """First and one past the last pixel of a box side that is clipped."""
  start = jnp.round((centre - side / 2) * length)
  stop = jnp.round((centre + side / 2) * length)
  return jnp.clip(start, 0, length), jnp.clip(stop, 0, length)
