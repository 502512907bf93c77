"""Three passes of one network: a clip, and two that look closer at it."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.attention import sparse
from vidattn_jax.backbones import layers
from vidattn_jax.models import frozen
from vidattn_jax.models import recognizer
from vidattn_jax.ops import peaks
from vidattn_jax.ops import resizing

# Branches that the prediction comes from, as table 4 of the paper has them.
BRANCHES = {
    'O': ('original',),
    'O+D': ('original', 'discriminative'),
    'O+C': ('original', 'complementary'),
    'C+D': ('discriminative', 'complementary'),
    'O+C+D': ('original', 'discriminative', 'complementary')}


class ThreeBranch(recognizer.Recognizer):
  """Classifies a clip together with clips resampled around its class peaks.

  Zhou et al., "Integrating Temporal and Spatial Attention for Video Action
  Recognition", 2022, section 2.3. All passes share the backbone and its
  classifier; every pass has its own statistics of the batch in training. In
  evaluation, one pass takes both resampled clips.

  Attributes:
    num_classes: number of classes; one number, not several heads.
    branches: a key of `BRANCHES`. Without O, the original pass makes the maps
      alone, and no loss.
    grid_size: see `sparse.SparseAttention`, as for all that follow.
    delta: the same.
    base: the same.
    threshold: the same.
    training_phi: the same.
    evaluation_phi: the same.
  """
  branches: str = 'O+C+D'
  grid_size: int = 31
  delta: float = 0.2
  base: float = 0.09
  threshold: str = 'mean'
  training_phi: str = 'random'
  evaluation_phi: str = 'fixed'

  @property
  def branch_names(self) -> tuple[str, ...]:
    """Names of `branch_logits`."""
    return () if self.branches == 'O' else BRANCHES[self.branches]

  @nn.nowrap
  def check_fields(self):
    """Raises a ValueError if a field is not one of those above."""
    names.check_name('branches', self.branches, BRANCHES)
    names.check_name('threshold', self.threshold, peaks.THRESHOLDS)
    for key in ('training_phi', 'evaluation_phi'):
      names.check_name(key, getattr(self, key), sparse.PHI)
    layers.check_whole('grid_size', self.grid_size)
    if self.grid_size < 2:
      raise ValueError('grid_size is 1; it must be 2 or more, 31 in the paper.')

  @nn.compact
  def __call__(self, video: jax.Array, train: bool = False,
               capture: bool = False,
               phi: jax.Array | None = None) -> dict:
    """Classifies clips.

    Args:
      video: [N, T, H, W, C], normalised.
      train: drop features out, part peaks as in training, use and update
        statistics of the batch.
      capture: return what the network sees inside, too.
      phi: thresholds that part the peaks [N, T, G, G]; see
        `sparse.SparseAttention`.

    Returns:
      Dict of float32 `logits` [N, K], of all branches together; unless there
      is only the original, `branch_logits`, {branch: [N, K]}, and
      `frame_logits` [N, T, K] of the original's frames, whose mean over T is
      the original's logits, and `response_attention` [N, T, G, G], which is
      where the peaks are found, in [0, 1]. With `capture`, for each resampled
      branch `<branch>_attention` [N, T, G, G], its saliency,
      `<branch>_peaks`, bool [N, T, G, G], and `<branch>_video` of the shape
      of `video`; `class_maps` [N, T, h, w, K]; `stages` of the original pass,
      and `gates`, see `Recognizer`.

    Raises:
      ValueError: `video` or `phi` has another shape, or a field is wrong.
    """
    self.check_fields()
    self.check_video(video)
    wanted = BRANCHES[self.branches]
    backbone = self.backbone(name='backbone')
    pool = layers.GlobalAveragePool((-4, -3, -2), name='neck')
    head = nn.Dense(self.num_classes, name='head',
                    kernel_init=nn.initializers.normal(0.001))

    def run(clip):
      with frozen.frozen_statistics(self.freeze, self.partial_bn):
        return backbone(clip, train)

    def last_of(clips):
      if train:
        return [run(clip)[-1] for clip in clips]
      # One pass: a smaller program. Each clip's are neighbours, so that a
      # batch over several devices stays where it is.
      last = run(jnp.stack(clips, 1).reshape(-1, *video.shape[1:]))[-1]
      last = last.reshape(len(video), len(clips), *last.shape[1:])
      return [last[:, i] for i in range(len(clips))]

    def pooled(last):
      return nn.Dropout(self.dropout, deterministic=not train)(pool(last))

    stages = run(video)
    features = ({'original': pooled(stages[-1])} if 'original' in wanted
                else {})
    if self.is_initializing() and not features:
      head(pooled(stages[-1]))  # The maps take its weights.
    outputs = {}
    kinds = tuple(b for b in wanted if b != 'original')
    if kinds:
      logits = {b: head(x) for b, x in features.items()}
      # A backbone that strides in time sees some frames at once.
      last = resizing.upsample_nearest(stages[-1], {1: video.shape[1]})
      seen = sparse.SparseAttention(
          kinds, self.grid_size, self.delta, self.base, self.threshold,
          self.training_phi, self.evaluation_phi, name='sparse')(
              last, head.variables['params']['kernel'],
              head.variables['params']['bias'], video, train, phi, capture)
      outputs = {'frame_logits': seen['frame_logits'],
                 'response_attention': seen['response']}
      for kind, resampled in zip(kinds, last_of(
          [seen[kind]['video'] for kind in kinds])):
        features[kind] = pooled(resampled)
        logits[kind] = head(features[kind])
        if capture:
          outputs |= {f'{kind}_attention': seen[kind]['saliency'],
                      f'{kind}_peaks': seen[kind]['peaks'],
                      f'{kind}_video': seen[kind]['video']}
      if capture:
        outputs['class_maps'] = peaks.class_maps(
            last, head.variables['params']['kernel'])
      outputs |= {'branch_logits': logits, 'logits': nn.Dense(
          self.num_classes, name='head_total',
          kernel_init=nn.initializers.normal(0.001))(
              jnp.concatenate([features[b] for b in wanted], -1))}
    else:
      outputs = {'logits': head(features['original'])}
    if capture:
      outputs['stages'] = stages
    return outputs
