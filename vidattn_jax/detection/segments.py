"""Segments of time: overlap, suppression, anchors, targets and pooling.

A segment is (start, end). In seconds its length is end - start; in frames, as
published detection codes count, end - start + 1: `extra` is 0 or 1. What runs
on the device has static shapes: sets are padded, and a mask tells which
members exist.

Ren et al., "Faster R-CNN", NIPS 2015, in one dimension: Xu et al., "R-C3D:
Region Convolutional 3D Network for Temporal Activity Detection", ICCV 2017;
Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code",
ICCV 2017.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


def temporal_iou(first, second, extra: float = 0.0):
  """Computes the overlap of segments: intersection over union.

  Args:
    first: [..., 2], NumPy or JAX.
    second: [..., 2]; their leading shapes broadcast.
    extra: what is added to every length, 1 where ends are the last frames.

  Returns:
    [...], in [0, 1] for segments that do not end before they start; 0 where
    both are empty.
  """
  xp = jnp if isinstance(first, jax.Array) or isinstance(
      second, jax.Array) else np
  first, second = xp.asarray(first), xp.asarray(second)
  shared = xp.maximum(
      xp.minimum(first[..., 1], second[..., 1])
      - xp.maximum(first[..., 0], second[..., 0]) + extra, 0)
  union = (first[..., 1] - first[..., 0] + second[..., 1] - second[..., 0]
           + 2 * extra - shared)
  return shared / xp.where(union == 0, 1, union)


@functools.partial(jax.jit, static_argnames=('most', 'keep_equal'))
def nms(segments: jax.Array, scores: jax.Array, threshold: float,
        most: int, mask: jax.Array | None = None, extra: float = 0.0,
        keep_equal: bool = True):
  """Keeps the best of segments that overlap: non-maximum suppression.

  Args:
    segments: [N, 2].
    scores: [N]; of equal ones the first counts as the best.
    threshold: what overlaps a better one by more is dropped.
    most: how many are kept at most, K.
    mask: bool [N], which segments exist; None for all.
    extra: see `temporal_iou`.
    keep_equal: an overlap of exactly `threshold` is allowed (the rule of
      Matlab and CUDA codes); else it is too much (that of CPU codes).

  Returns:
    (indices int32 [K], best first; bool [K], which of them exist).
  """
  alive = jnp.ones(len(segments), bool) if mask is None else mask

  def keep_best(alive, _):
    best = jnp.argmax(jnp.where(alive, scores, -jnp.inf))
    exists = alive[best]
    overlap = temporal_iou(segments[best], segments, extra)
    near = overlap > threshold if keep_equal else overlap >= threshold
    alive &= ~(near & exists)
    return alive.at[best].set(False), (best.astype(jnp.int32), exists)

  return lax.scan(keep_best, alive, None, length=most)[1]


@functools.partial(jax.jit, static_argnames=('most', 'method'))
def soft_nms(segments: jax.Array, scores: jax.Array, most: int,
             mask: jax.Array | None = None, extra: float = 0.0,
             method: str = 'gaussian', sigma: float = 0.5,
             threshold: float = 0.3):
  """Lowers the scores of segments that overlap a better one: soft-NMS.

  Args:
    segments: [N, 2].
    scores: [N], above 0.
    most: how many are returned, K.
    mask: bool [N], which segments exist; None for all.
    extra: see `temporal_iou`.
    method: 'gaussian', scores are multiplied by exp(-overlap^2 / sigma), or
      'linear', by 1 - overlap where that is above `threshold`.
    sigma: of the Gaussian.
    threshold: of the linear form.

  Returns:
    (indices int32 [K], best first; their lowered scores [K]; bool [K], which
    of them exist).

  Raises:
    ValueError: the method is unknown.
  """
  if method not in ('gaussian', 'linear'):
    raise ValueError(f'Soft-NMS has no method {method!r}; choose gaussian or '
                     'linear.')
  exists = jnp.ones(len(segments), bool) if mask is None else mask

  def keep_best(scores, _):
    best = jnp.argmax(scores)
    found = scores[best]
    overlap = temporal_iou(segments[best], segments, extra)
    if method == 'gaussian':
      factor = jnp.exp(-overlap ** 2 / sigma)
    else:
      factor = jnp.where(overlap > threshold, 1 - overlap, 1)
    # What is gone stays below everything that is left.
    scores = jnp.where(jnp.isneginf(scores), scores, scores * factor)
    scores = scores.at[best].set(-jnp.inf)
    return scores, (best.astype(jnp.int32), found, ~jnp.isneginf(found))

  scores = jnp.where(exists, scores, -jnp.inf)
  indices, found, exists = lax.scan(keep_best, scores, None, length=most)[1]
  return indices, jnp.where(exists, found, 0), exists


def nms_of_groups(segments, scores, groups, threshold, later_first=False):
  """Does `nms` in many groups at once, on the host and of any size.

  Lengths are end - start, and an overlap of exactly `threshold` is allowed.

  Args:
    segments: float [N, 2].
    scores: float [N].
    groups: int [N]; segments of one group only drop each other.
    threshold: what overlaps a better one by more is dropped.
    later_first: of equal scores the last counts as the best, as in Matlab
      codes that sort upwards and take from the end.

  Returns:
    bool [N], which are kept.
  """
  segments, scores = (np.asarray(v, np.float64) for v in (segments, scores))
  groups = np.asarray(groups)
  places = np.arange(len(scores))
  order = np.lexsort((-places if later_first else places, -scores, groups))
  kept = np.zeros(len(scores), bool)
  while order.size:
    # In each round every group keeps the best that it has left.
    starts = np.diff(groups[order], prepend=groups[order[0]] - 1) != 0
    first, which = np.flatnonzero(starts), np.cumsum(starts) - 1
    best = order[first]
    kept[best] = True
    overlap = temporal_iou(segments[best][which], segments[order])
    left = overlap <= threshold
    left[first] = False
    order = order[left]
  return kept


def make_anchors(scales, stride: int, positions: int) -> np.ndarray:
  """Makes the segments that proposals start from.

  Args:
    scales: lengths of the anchors at a place, in strides; A of them.
    stride: frames between two places.
    positions: number of places, P.

  Returns:
    float32 [P * A, 2] in frames, ends included, place after place; those of
    one place have the centre of its frames.
  """
  half = (np.asarray(scales, np.float64) * stride - 1) / 2
  centres = (stride - 1) / 2 + stride * np.arange(positions)
  ends = centres[:, None, None] + half[:, None] * np.asarray([-1, 1])
  return ends.reshape(-1, 2).astype(np.float32)


def encode(anchors: jax.Array, segments: jax.Array) -> jax.Array:
  """Tells how anchors must move and grow to become segments.

  Args:
    anchors: [..., 2] in frames, ends included.
    segments: [..., 2].

  Returns:
    [..., 2]: shift of the centre in lengths of the anchor, and the logarithm
    of the growth.
  """
  length = anchors[..., 1] - anchors[..., 0] + 1
  wanted = segments[..., 1] - segments[..., 0] + 1
  shift = (segments[..., 0] + wanted / 2 - anchors[..., 0] - length / 2)
  return jnp.stack([shift / length, jnp.log(wanted / length)], -1)


def decode(anchors: jax.Array, deltas: jax.Array) -> jax.Array:
  """Moves and grows anchors; undoes `encode`.

  Args:
    anchors: [..., 2] in frames, ends included.
    deltas: [..., 2].

  Returns:
    [..., 2]. As in published codes the end is centre + length / 2, one frame
    behind what `encode` was given.
  """
  length = anchors[..., 1] - anchors[..., 0] + 1
  centre = anchors[..., 0] + length / 2 + deltas[..., 0] * length
  half = jnp.exp(deltas[..., 1]) * length / 2
  return jnp.stack([centre - half, centre + half], -1)


def match_anchors(anchors, truth, truth_mask, num_frames, positive=0.7,
                  negative=0.3):
  """Tells which anchors are actions, and which (Faster R-CNN's rule).

  An anchor is positive if it overlaps a true segment enough, or if no anchor
  overlaps that segment more; anchors that reach out of the clip do not count.

  Args:
    anchors: [A, 2] in frames, ends included.
    truth: [G, 2], padded.
    truth_mask: bool [G], which of them exist.
    num_frames: frames of the clip.
    positive: least overlap of a positive anchor.
    negative: overlap below which an anchor is negative.

  Returns:
    (labels int32 [A]: 1, 0, or -1 for neither; int32 [A], the true segment
    that each overlaps most).
  """
  overlap = jnp.where(truth_mask, temporal_iou(
      anchors[:, None], truth, extra=1), 0)
  inside = (anchors[:, 0] >= 0) & (anchors[:, 1] < num_frames)
  overlap = jnp.where(inside[:, None], overlap, 0)
  best = overlap.max(1)
  # A segment that no anchor meets has no best anchor.
  most = overlap.max(0)
  is_best = ((overlap == most) & (most > 0)).any(1)
  labels = jnp.where(best < negative, 0, -1)
  labels = jnp.where(is_best | (best >= positive), 1, labels)
  return (jnp.where(inside, labels, -1).astype(jnp.int32),
          overlap.argmax(1).astype(jnp.int32))


def match_proposals(proposals, mask, truth, truth_mask, positive=0.5,
                    negative=(0.1, 0.5)):
  """Tells which proposals are actions, which are background, and which not.

  Args:
    proposals: [R, 2] in frames, ends included, padded.
    mask: bool [R], which of them exist.
    truth: [G, 2], padded.
    truth_mask: bool [G].
    positive: least overlap of an action.
    negative: (least, below) overlap of background.

  Returns:
    (labels int32 [R]: 1, 0, or -1 for neither; int32 [R], the true segment
    that each overlaps most).
  """
  overlap = jnp.where(truth_mask, temporal_iou(
      proposals[:, None], truth, extra=1), 0)
  best = overlap.max(1)
  is_background = (best >= negative[0]) & (best < negative[1])
  labels = jnp.where(best >= positive, 1, jnp.where(is_background, 0, -1))
  return (jnp.where(mask, labels, -1).astype(jnp.int32),
          overlap.argmax(1).astype(jnp.int32))


def sample(key, labels: jax.Array, number: int, positives: int):
  """Draws positives and negatives to train on.

  Args:
    key: of the draw.
    labels: int32 [A]: 1, 0, or -1 for those that are not drawn.
    number: how many are drawn at most, S.
    positives: how many of them are positive at most; negatives fill up.

  Returns:
    (indices int32 [S]; bool [S], which of them exist).
  """
  number = min(number, len(labels))
  chance = jax.random.uniform(key, labels.shape)
  # Two orders: positives by chance; then all that may be drawn, the chosen
  # positives first.
  is_positive = labels == 1
  rank = jnp.argsort(jnp.argsort(jnp.where(is_positive, chance, 2.0)))
  chosen = is_positive & (rank < positives)
  place = jnp.where(chosen, chance - 1,
                    jnp.where(labels == 0, chance, 2.0))
  indices = jnp.argsort(place)[:number].astype(jnp.int32)
  return indices, place[indices] < 2


def soi_pool(features: jax.Array, segments: jax.Array, size=(4, 2, 2),
             scale: float = 1 / 8) -> jax.Array:
  """Takes maxima in equal parts of segments of interest.

  Height and width are parted, too; parts may share places. The gradient of a
  maximum goes to the first place that has it.

  Args:
    features: [T, H, W, C].
    segments: [R, 2] in frames, ends included.
    size: parts along time, height and width.
    scale: places along time in a frame.

  Returns:
    [R, *size, C]; 0 in parts that lie outside the features.
  """
  frames = features.shape[0]
  spans = [[_part(i, n, features.shape[axis]) for i in range(n)]
           for axis, n in ((1, size[1]), (2, size[2]))]
  flat = features.reshape(-1, features.shape[-1])
  rows = jnp.arange(flat.shape[0], dtype=jnp.int32).reshape(
      features.shape[:3])
  start, stop = _time_parts(segments, size[0], scale, frames)
  parts = []
  for top, bottom in spans[0]:
    for left, right in spans[1]:
      region = (slice(None), slice(top, bottom), slice(left, right))
      values = lax.stop_gradient(features[region])
      values = values.reshape(frames, -1, values.shape[-1])
      best = values.argmax(1)
      index = jnp.take_along_axis(
          rows[region].reshape(frames, -1), best, axis=1)
      parts.append(_largest_between(values.max(1), index, start, stop))
  index = jnp.stack(parts, 2)  # [R, t, h * w, C]
  pooled = jnp.take_along_axis(
      flat, index.reshape(-1, flat.shape[-1]), axis=0).reshape(index.shape)
  pooled = jnp.where((start < stop)[:, :, None, None], pooled, 0)
  return pooled.reshape(len(segments), *size, -1)


def _part(i, parts, length):
  """Returns (start, stop) of a part of an axis; neighbours may overlap."""
  return i * length // parts, -(-(i + 1) * length // parts)


def _time_parts(segments, parts, scale, frames):
  """Returns int32 starts and stops [R, parts] of the parts of segments."""
  # Halves are rounded up, as C does.
  first, last = (jnp.floor(segments[:, i] * scale + 0.5).astype(jnp.int32)
                 for i in (0, 1))
  length = jnp.maximum(last - first + 1, 1)[:, None]
  i = jnp.arange(parts, dtype=jnp.int32)
  start = first[:, None] + i * length // parts
  stop = first[:, None] - (-(i + 1) * length // parts)
  return jnp.clip(start, 0, frames), jnp.clip(stop, 0, frames)


def _largest_between(values, index, start, stop):
  """Finds the largest value in many ranges of time.

  Of each power of two, the largest of as many values from every time on is
  found once; two of these cover any range.

  Args:
    values: [T, C].
    index: int32 [T, C], what is returned of the largest.
    start: int32 [...], first of each range.
    stop: int32 [...], one past its last.

  Returns:
    int32 [..., C]: `index` of the first of the largest.
  """
  frames = len(values)
  levels = [(values, index)]
  for k in range(1, max(frames.bit_length(), 1)):
    half = 1 << (k - 1)
    v, i = levels[-1]
    levels.append(_larger((v, i), (
        jnp.concatenate([v[half:], v[-1:].repeat(half, 0)]),
        jnp.concatenate([i[half:], i[-1:].repeat(half, 0)]))))
  table = [jnp.stack(parts) for parts in zip(*levels, strict=True)]
  length = jnp.maximum(stop - start, 1)
  level = 31 - lax.clz(length)
  start = jnp.minimum(start, frames - 1)
  second = jnp.maximum(start, stop - (1 << level))
  return _larger(*(tuple(part[level, place] for part in table)
                   for place in (start, second)))[1]


def _larger(first, second):
  """Returns, of pairs (value, index), those with the larger value."""
  higher = second[0] > first[0]
  return tuple(jnp.where(higher, b, a)
               for a, b in zip(first, second, strict=True))
