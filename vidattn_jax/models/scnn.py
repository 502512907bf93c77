"""S-CNN: windows of several lengths, judged by two networks."""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax

from vidattn_jax.models import frozen
from vidattn_jax.models import recognizer


class SCNN(recognizer.Recognizer):
  """Tells which windows of a video show an action, and which.

  Shou et al., "Temporal Action Localization in Untrimmed Videos via Multi-stage
  CNNs", CVPR 2016. Its proposal network tells actions from background. Its
  localisation network tells the classes, and learns that windows which overlap
  an action more are surer; before it learns that, and with the cross-entropy
  alone, it is what the paper calls the classification network. Li et al.,
  "Spatio-Temporal Attention Networks", 2020, put STA into the localisation
  network: an attention unit stands there, the proposal network has none.

  Attributes:
    num_classes: number of classes of actions, K; 0 is background in what the
      network counts itself.
  """

  @nn.compact
  def __call__(self, video: jax.Array, train: bool = False,
               capture: bool = False) -> dict:
    """Judges windows.

    Args:
      video: [N, T, H, W, C], normalised, frames taken evenly from each window.
      train: drop features out, use and update statistics of the batch.
      capture: see `recognizer.Recognizer`; of the localisation network.

    Returns:
      Dict of float32 `proposal_logits` [N, 2] (background, action) and `logits`
      [N, K + 1], class 0 being background; with `capture` the `stages`.

    Raises:
      ValueError: as `recognizer.Recognizer`.
    """
    self.check_video(video)
    proposal, localization = (
        make(name=name) for name, make in self.parts().items())
    with frozen.frozen_statistics(self.freeze):
      proposals = proposal(video, train)
      outputs = localization(video, train, capture)
    return {**outputs, 'proposal_logits': proposals['logits']}

  @nn.nowrap
  def parts(self) -> dict[str, Callable[..., recognizer.Recognizer]]:
    """Returns {name of a network: what makes it}.

    Weights of recognizers fit each of them.
    """
    make = functools.partial(
        recognizer.Recognizer, num_frames=self.num_frames,
        crop_size=self.crop_size, modality=self.modality,
        flow_stack=self.flow_stack, consensus='clip', neck=self.neck,
        dropout=self.dropout, tied=self.tied, partial_bn=self.partial_bn)
    return {
        'proposal': functools.partial(make, functools.partial(
            self.backbone, attention=None), 2),
        'localization': functools.partial(
            make, self.backbone, self.num_classes + 1)}
