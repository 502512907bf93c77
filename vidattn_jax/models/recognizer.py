"""Action recognition from a clip, with 2D and with 3D backbones."""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax

from vidattn_jax.backbones import layers
from vidattn_jax.models import frozen
from vidattn_jax.ops import per_device

MODALITIES = ('rgb', 'flow')
CONSENSUS = ('frames', 'clip')


class Recognizer(nn.Module):
  """Classifies clips, by each frame or as a whole.

  Wang et al., "Temporal Segment Networks", ECCV 2016; with a shifting
  backbone, Lin et al., "TSM", ICCV 2019; with a 3D backbone, Hara et al.,
  "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?",
  CVPR 2018.

  Attributes:
    backbone: makes the backbone from its name; it returns the stages.
    num_classes: number of classes, or {head name: number}.
    num_frames: frames of a clip it is meant for; other numbers work, too,
      unless `tied` or the backbone says otherwise.
    crop_size: height and width it is meant for; the same holds.
    modality: 'rgb' or 'flow'.
    flow_stack: fields of flow that a frame stacks, of two channels each; five
      in a 2D network and one in a 3D network, unless given.
    consensus: 'frames', every frame is classified and the logits averaged;
      'clip', the features are averaged over time, too, and classified once.
    neck: makes what turns the last stage into features, [N, T, H, W, C] to
      [N, T, D] or [N, D], or to a dict of `features` and of maps that the
      network returns, too; None for the mean that `consensus` asks for.
    dropout: share of features zeroed before the classifier.
    tied: axes of `image_shape` that the weights of attention units or of a
      neck fix.
    freeze: whose BatchNorm keeps its statistics, see `frozen.is_frozen`.
    partial_bn: so does all BatchNorm of the backbone but the first and that
      of attention units.
  """
  backbone: Callable[..., nn.Module]
  num_classes: int | dict[str, int]
  num_frames: int = 8
  crop_size: tuple[int, int] = (224, 224)
  modality: str = 'rgb'
  flow_stack: int = 5
  consensus: str = 'frames'
  neck: Callable[..., nn.Module] | None = None
  dropout: float = 0.5
  tied: tuple[int, ...] = ()
  freeze: tuple[str, ...] = ()
  partial_bn: bool = False

  @property
  def image_shape(self) -> tuple[int, int, int, int]:
    """(T, H, W, C) of the clips that it is meant for."""
    channels = 3 if self.modality == 'rgb' else 2 * self.flow_stack
    return (self.num_frames, *self.crop_size, channels)

  @property
  def branch_names(self) -> tuple[str, ...]:
    """Names of `branch_logits`, if the network returns these."""
    return ()

  def check_video(self, video):
    """Raises a ValueError if a video is none that the network can take."""
    channels = self.image_shape[-1]
    if video.ndim != 5 or video.shape[-1] != channels:
      raise ValueError(
          f'The video has the shape {video.shape}; the network takes (clips, '
          f'frames, height, width, {channels}) for {self.modality}.')
    if self.is_initializing() and any(
        video.shape[1 + axis] != self.image_shape[axis] for axis in self.tied):
      raise ValueError(
          f'The video has the shape {video.shape}, but weights of the network '
          f'are made for clips of {self.image_shape[:3]} (frames, height, '
          'width); set num_frames and crop_size to those of the video.')

  @nn.compact
  def __call__(self, video: jax.Array, train: bool = False,
               capture: bool = False) -> dict:
    """Classifies clips.

    Args:
      video: [N, T, H, W, C], normalised; any T, and H and W from 33 on,
        unless the backbone or the attention units say otherwise.
      train: drop features out, use and update statistics of the batch.
      capture: return what the network sees inside, too.

    Returns:
      Dict of float32 `logits` [N, K], if frames are classified
      `frame_logits` [N, T, K], and the maps of the neck; with several heads
      both logits are dicts of them.
      With `capture`, `stages`: list of [N, t, h, w, C'], and (from `apply`)
      `gates`: {path of the block: {name of the gate: [N, ...]}}, over the
      axes that are not pooled away.

    Raises:
      ValueError: `video` has another number of axes or channels, or, where
        weights depend on it, another size.
    """
    self.check_video(video)
    with frozen.frozen_statistics(self.freeze, self.partial_bn):
      stages = self.backbone(name='backbone')(video, train)
    by_frame = self.consensus == 'frames'
    neck = self.neck or functools.partial(
        layers.GlobalAveragePool, (-3, -2) if by_frame else (-4, -3, -2))
    with per_device.laid_out(stages[-1], whole=True) as x:
      seen = neck(name='neck')(x, train)
    if not isinstance(seen, dict):
      seen = {'features': seen}
    features = seen.pop('features')
    features = nn.Dropout(self.dropout, deterministic=not train,
                          name='dropout')(features)
    heads = self.num_classes
    several = not isinstance(heads, int)
    scores = {
        head: nn.Dense(classes, kernel_init=nn.initializers.normal(0.001),
                       name=f'head_{head}' if several else 'head')(features)
        for head, classes in (heads.items() if several else [('', heads)])}
    kinds = {'frame_logits': scores} if by_frame else {}
    kinds['logits'] = {
        head: x.mean(1) if by_frame else x for head, x in scores.items()}
    outputs = {**seen, **{kind: x if several else x['']
                          for kind, x in kinds.items()}}
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
      capture: see `__call__`; without gates where something is mutable.
      mutable: collections that may change.
      **kwargs: see `__call__`; and `rngs`.

    Returns:
      What `__call__` returns; with `mutable`, a pair of it and the changed
      collections.
    """
    if mutable:
      return super().apply(variables, *args, capture=capture, mutable=mutable,
                           **kwargs)
    if not capture:
      return super().apply(variables, *args, **kwargs)
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
