"""Action recognition from the frames of a clip: TSN and TSM."""

from collections.abc import Callable

from flax import linen as nn
import jax

from vidattn_jax.backbones import resnet
from vidattn_jax.models import frozen

# Channels of a frame; flow is five fields of two components.
CHANNELS = {'rgb': 3, 'flow': 10}


class Recognizer(nn.Module):
  """Classifies every frame and averages: the segment consensus of TSN.

  Wang et al., "Temporal Segment Networks", ECCV 2016; with a shifting
  backbone, Lin et al., "TSM", ICCV 2019.

  Attributes:
    backbone: makes the backbone from its name; it returns the stages.
    num_classes: number of classes, or {head name: number}.
    num_frames: frames of a clip it is meant for; any other number works.
    crop_size: height and width it is meant for; any other size works.
    modality: 'rgb' or 'flow': 3 or 10 channels a frame.
    dropout: share of features zeroed before the classifier.
    freeze: prefixes of parameters whose BatchNorm keeps its statistics.
    partial_bn: so does all BatchNorm of the backbone but the first and that
      of attention units.
  """
  backbone: Callable[..., nn.Module]
  num_classes: int | dict[str, int]
  num_frames: int = 8
  crop_size: tuple[int, int] = (224, 224)
  modality: str = 'rgb'
  dropout: float = 0.5
  freeze: tuple[str, ...] = ()
  partial_bn: bool = False

  @property
  def image_shape(self) -> tuple[int, int, int, int]:
    """(T, H, W, C) of the clips that it is meant for."""
    return (self.num_frames, *self.crop_size, CHANNELS[self.modality])

  @nn.compact
  def __call__(self, video: jax.Array, train: bool = False,
               capture: bool = False) -> dict:
    """Classifies clips.

    Args:
      video: [N, T, H, W, C], normalised; any T, and H and W from 33 on.
      train: drop features out, use and update statistics of the batch.
      capture: return what the network sees inside, too.

    Returns:
      Dict of float32 `logits` [N, K] and `frame_logits` [N, T, K]; with
      several heads both are dicts of them. With `capture`, `stages`: list of
      [N, T, h, w, C'], and (from `apply`) `gates`: {path of the block: {name
      of the gate: [N, ...]}}, over the axes that are not pooled away.

    Raises:
      ValueError: `video` has another number of axes or channels.
    """
    channels = self.image_shape[-1]
    if video.ndim != 5 or video.shape[-1] != channels:
      raise ValueError(
          f'The video has the shape {video.shape}; the network takes (clips, '
          f'frames, height, width, {channels}) for {self.modality}.')
    with frozen.frozen_statistics(self.freeze, self.partial_bn):
      stages = self.backbone(name='backbone')(video, train)
    features = resnet.GlobalAveragePool(name='avgpool')(stages[-1])
    features = nn.Dropout(self.dropout, deterministic=not train,
                          name='dropout')(features)
    heads = self.num_classes
    several = not isinstance(heads, int)
    frame_logits = {
        head: nn.Dense(classes, kernel_init=nn.initializers.normal(0.001),
                       name=f'head_{head}' if several else 'head')(features)
        for head, classes in (heads.items() if several else [('', heads)])}
    logits = {head: x.mean(1) for head, x in frame_logits.items()}
    outputs = {'logits': logits if several else logits[''],
               'frame_logits': frame_logits if several else frame_logits['']}
    if capture:
      outputs['stages'] = stages
    return outputs

  @nn.nowrap
  def apply(self, variables, *args, capture: bool = False, mutable=False,
            **kwargs):
    """Runs the network, as `flax.linen.Module.apply`.

    Args:
      variables: dict of `params` and `batch_stats`.
      *args: see `__call__`.
      capture: see `__call__`; in evaluation, where nothing is mutable.
      mutable: collections that may change.
      **kwargs: see `__call__`; and `rngs`.

    Returns:
      What `__call__` returns; with `mutable`, a pair of it and the changed
      collections.
    """
    if not capture:
      return super().apply(variables, *args, mutable=mutable, **kwargs)
    outputs, sown = super().apply(variables, *args, capture=True,
                                  mutable=['intermediates'], **kwargs)
    return {**outputs, 'gates': _gates(sown.get('intermediates', {}))}


def _gates(sown: dict) -> dict:
  """Turns {..., 'attention': {..., {'gate': (g,)}}} into {block: {name: g}}."""
  gates = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(
      sown, is_leaf=lambda x: isinstance(x, tuple)):
    *parts, _ = (entry.key for entry in path)
    at = parts.index('attention')
    gates.setdefault('/'.join(parts[:at]), {})[
        '/'.join(parts[at + 1:])] = leaf[0]
  return gates
