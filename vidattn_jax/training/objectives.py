"""What is trained: of clips their classes, of untrimmed videos segments."""

import jax
import jax.numpy as jnp

from vidattn_jax.models import rc3d
from vidattn_jax.models import scnn
from vidattn_jax.training import heads
from vidattn_jax.training import losses


def of(model):
  """Returns what a network is trained for.

  Args:
    model: the network.

  Returns:
    Function (apply, video, batch, key, config, num_classes) -> (sum of the
    losses of the rows that count, float or bool [N]: how right each row is,
    changed statistics). `apply` runs the network in training on a video and
    keyword arguments, and returns outputs and changed collections; with
    `head_only` no gradient leaves its classifier. `batch` is that of
    `state.make_train_step`; what a teacher sees is its `features`.
  """
  return {scnn.SCNN: _find_in_windows, rc3d.RC3D: _find_in_buffers}.get(
      type(model), _classify)


def _classify(apply, video, batch, key, config, num_classes):
  mix_key, dropout_key = jax.random.split(key)
  multi = config.data.labels == 'multi'
  targets = losses.one_hot_targets(
      batch['label'], num_classes, config.label_smoothing, multi)
  video, targets = losses.mix_clips(
      mix_key, video, targets, config.mixup_alpha, config.cutmix_alpha)
  more = {'rngs': {'dropout': dropout_key}}
  if 'features' in batch:
    more['capture'] = True
  outputs, updated = apply(video, **more)
  judged = outputs
  if 'features' in batch and config.distill.how == 'mers':
    judged, _ = apply(video, head_only=True, **more)
  values = losses.cross_entropy(judged, {'targets': targets}, multi)
  if 'features' in batch:
    values += config.distill.weight * losses.feature_gap(
        outputs['stages'][-1], batch['features'])
  total = _sum(values, batch)
  if 'temporal_target' in batch:
    # What all is divided by later is the number of clips.
    total += jnp.sum(batch['mask']) * losses.mean_temporal_loss(
        outputs, batch, config.temporal_weight)
  return total, heads.are_right(outputs['logits'], batch['label'],
                                multi), updated


def _find_in_windows(apply, video, batch, key, config, _):
  outputs, updated = apply(video, rngs={'dropout': key})
  parts = losses.scnn_losses(outputs, batch['label'], batch['overlap'],
                             config.detection.overlap_weight,
                             config.detection.background_weight)
  right = outputs['logits'].argmax(-1) == batch['label']
  return _sum(sum(parts.values()), batch), right, updated


def _find_in_buffers(apply, video, batch, key, config, _):
  del config
  outputs, updated = apply(video, segments=batch['segments'],
                           rngs={'dropout': key})
  total = _sum(sum(losses.rc3d_losses(outputs).values()), batch)
  drawn = outputs['proposal_mask']
  right = (outputs['logits'].argmax(-1) == outputs['labels']) & drawn
  return total, right.sum(1) / jnp.maximum(drawn.sum(1), 1), updated


def _sum(values, batch):
  """Adds up the losses of the rows that count."""
  return jnp.sum(jnp.where(batch['mask'] > 0, values, 0.0))
