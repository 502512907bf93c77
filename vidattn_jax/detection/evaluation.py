"""Average precision of detected segments, by two rules that differ.

'thumos14' is the rule of the THUMOS'14 challenge's Matlab code (Jiang et al.,
"THUMOS Challenge", 2014): true segments, in the order of the file, take the
free detection that overlaps them most. 'activitynet' is that of the ActivityNet
challenge (Caba Heilbron et al., CVPR 2015): detections, the surest first, take
the free true segment. They give different figures for the same detections.
"""

import dataclasses

import numpy as np

from vidattn_jax import names
from vidattn_jax.detection import checks
from vidattn_jax.detection import segments as segments_lib

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# What each rule does, for people.
_TOLD = {'thumos14': "THUMOS'14 rule (IoU > t, precision as it is)",
         'activitynet': 'ActivityNet rule (IoU >= t, interpolated precision)'}
RULES = tuple(_TOLD)
# Test videos of THUMOS'14 that some leave out: none of a class; many segments
# past the end, and wrong ones.
_WITHOUT_CLASS = ('video_test_0001292',)
_FAULTY = ('video_test_0000270', 'video_test_0001496')
_LEFT_OUT = {213: (), 212: _WITHOUT_CLASS, 210: _WITHOUT_CLASS + _FAULTY}


@dataclasses.dataclass(frozen=True)
class Result:
  """Figures of an evaluation.

  Attributes:
    classes: names of the K classes.
    thresholds: S overlaps at which a detection counts as right.
    average_precision: float64 [S, K] in [0, 1]; NaN of a class without true
      segments.
    protocol: how it was judged, in words.
    counts: true segments of each class, int [K].
    notes: what is odd with the annotations or the detections, in words.
  """
  classes: tuple
  thresholds: tuple
  average_precision: np.ndarray
  protocol: str
  counts: np.ndarray
  notes: tuple = ()

  @property
  def mean(self) -> np.ndarray:
    """Mean of the classes that have true segments, float64 [S]."""
    return np.nanmean(self.average_precision, axis=1)

  def to_json(self) -> dict:
    """Returns all fields as plain data; NaN becomes None."""
    known = np.isfinite(self.average_precision)
    return {
        'protocol': self.protocol, 'thresholds': list(self.thresholds),
        'mAP': self.mean.tolist(), 'classes': list(self.classes),
        'segments': self.counts.tolist(),
        'average_precision': [
            [value if there else None for value, there in zip(*row)]
            for row in zip(self.average_precision.tolist(), known.tolist())],
        'notes': list(self.notes)}


def evaluate(ground_truth, detections, classes, rule='thumos14',
             thresholds=THRESHOLDS, videos=None, ambiguous=True,
             nms_margin=None) -> Result:
  """Judges detections of actions in untrimmed videos.

  Args:
    ground_truth: {video: {'segments': [(start s, end s, class number)],
      'ambiguous': [(start s, end s)], 'duration': s}}; the last two may be
      absent.
    detections: dict of arrays of N rows: `video` (names), `start`, `end`
      (seconds), `label` (class numbers) and `score`. Of equal scores the
      earlier row counts as the surer, videos in the order of their names.
    classes: class names.
    rule: 'thumos14' or 'activitynet', see above.
    thresholds: overlaps at which a detection counts as right.
    videos: names of those that count; None for all of `ground_truth`.
    ambiguous: detections that touch an ambiguous segment, and are not right,
      are left out; by the rule 'thumos14' only.
    nms_margin: suppress detections that overlap a surer one of the same class
      and video by more than the threshold less this; None for no suppression.
      The Matlab codes have 0.1.

  Returns:
    The figures. What is odd, yet can be counted, stands in `notes`.

  Raises:
    ValueError: what is judged, or the truth, cannot be meant so.
  """
  names.check_name('rule', rule, RULES)
  classes, thresholds = tuple(classes), tuple(map(float, thresholds))
  checks.check_thresholds(thresholds, nms_margin)
  truth, found, notes = checks.check(ground_truth, detections, classes, videos)
  order = np.argsort(found.video, kind='stable')
  found = found.take(order)
  pairs = _overlapping(truth, found, sort=rule == 'thumos14')
  ignored = np.zeros(len(found.score), bool)
  if rule == 'thumos14' and ambiguous:
    ignored = _touched(truth, found)
  match = _thumos14 if rule == 'thumos14' else _activitynet
  precision = _mean_at_hits if rule == 'thumos14' else _interpolated
  counts = np.bincount(truth.label, minlength=len(classes))
  figures = np.full((len(thresholds), len(classes)), np.nan)
  by_class = [np.flatnonzero(found.label == k) for k in range(len(classes))]
  for row, threshold in enumerate(thresholds):
    kept = np.ones(len(found.score), bool)
    if nms_margin is not None:
      kept = segments_lib.nms_of_groups(
          found.segments, found.score,
          found.video * len(classes) + found.label,
          max(round(threshold - nms_margin, 9), 0.0))
    hits = match(pairs, found.score, kept, threshold)
    counted = kept & (hits | ~ignored)
    for k in np.flatnonzero(counts):
      rows = by_class[k][counted[by_class[k]]]
      rows = rows[np.argsort(-found.score[rows], kind='stable')]
      figures[row, k] = precision(hits[rows], counts[k])
  return Result(classes, thresholds, figures,
                _protocol(rule, truth, ambiguous, nms_margin), counts, notes)


def thumos14_videos(ground_truth, number: int) -> tuple:
  """Names the test videos of THUMOS'14, of which papers count more or fewer.

  Args:
    ground_truth: see `evaluate`, of all test videos.
    number: 213, all; 212, those with a segment of a class; 210, of these
      those whose annotation is not known to be wrong.

  Returns:
    Names.

  Raises:
    ValueError: another number, or other videos.
  """
  if number not in _LEFT_OUT:
    raise ValueError(f"THUMOS'14 has no test set of {number} videos; choose "
                     '213, 212 or 210.')
  chosen = tuple(name for name in ground_truth
                 if name not in _LEFT_OUT[number])
  if len(chosen) != number:
    raise ValueError(
        f"{number} test videos of THUMOS'14 were asked for, but the truth has "
        f'{len(ground_truth)} videos, of which {len(chosen)} would remain.')
  return chosen


def table(result: Result, per_class: bool = False) -> str:
  """Lays out figures, the protocol beside each.

  Args:
    result: of an evaluation.
    per_class: add a line for each class.

  Returns:
    Lines of text.
  """
  lines = [f'  mAP {100 * mean:6.2f} at t = {threshold:<4g}  '
           f'{result.protocol}'
           for threshold, mean in zip(result.thresholds, result.mean,
                                      strict=True)]
  if len(result.thresholds) > 1:
    lines.append(f'  mAP {100 * result.mean.mean():6.2f} on average'
                 f'  {result.protocol}')
  if per_class:
    width = max(map(len, ('class', *result.classes)))
    heads = ''.join(f'{threshold:>8g}' for threshold in result.thresholds)
    lines.append(f'  {"class":<{width}}{heads}  segments')
    for k, name in enumerate(result.classes):
      cells = ''.join('       -' if np.isnan(v) else f'{100 * v:8.2f}'
                      for v in result.average_precision[:, k])
      lines.append(f'  {name:<{width}}{cells}  {result.counts[k]}')
  return '\n'.join(lines)


def _protocol(rule, truth, ambiguous, nms_margin):
  """Tells in words how detections were judged."""
  parts = [_TOLD[rule], f'{len(truth.videos)} videos',
           f'{len(truth.label)} segments']
  if rule == 'thumos14':
    parts.append(f'{len(truth.ambiguous)} ambiguous segments '
                 f'{"ignored" if ambiguous else "not ignored"}')
  parts.append('no NMS' if nms_margin is None
               else f'NMS at t - {nms_margin:g}')
  return ', '.join(parts)


def _overlapping(truth, found, sort):
  """Finds which detections and true segments overlap.

  Args:
    truth: `checks.Truth`.
    found: `checks.Found`, sorted by video.
    sort: segments that end before they start are turned around first.

  Returns:
    (int [M], row of the true segment; int [M], row of the detection; float
    [M], their overlap), of one video and class each, true segments in order,
    detections of each in order; overlaps above 0.
  """
  detected = np.sort(found.segments, 1) if sort else found.segments
  # Rows of a video and class lie between two places of a sorted list.
  width = max(found.label.max(initial=0), truth.label.max(initial=0)) + 1
  keys = found.video * width + found.label
  order = np.argsort(keys, kind='stable')
  wanted = truth.video * width + truth.label
  start, stop = (np.searchsorted(keys[order], wanted, side)
                 for side in ('left', 'right'))
  which = np.repeat(np.arange(len(wanted)), stop - start)
  first = np.repeat(start - np.cumsum(stop - start) + (stop - start),
                    stop - start)
  rows = order[np.arange(len(which)) + first]
  iou = segments_lib.temporal_iou(truth.segments[which], detected[rows])
  meets = iou > 0
  return which[meets], rows[meets], iou[meets]


def _touched(truth, found):
  """Tells which detections overlap an ambiguous segment, bool [N]."""
  touched = np.zeros(len(found.score), bool)
  segments = np.sort(found.segments, 1)
  for video, segment in zip(truth.ambiguous_video, truth.ambiguous,
                            strict=True):
    rows = slice(*np.searchsorted(found.video, [video, video + 1]))
    touched[rows] |= segments_lib.temporal_iou(segment, segments[rows]) > 0
  return touched


def _thumos14(pairs, _, kept, threshold):
  """Lets every true segment take a detection; returns bool [N], the taken."""
  which, rows, iou = pairs
  good = kept[rows] & (iou > threshold)
  taken = np.zeros(len(kept), bool)
  which, rows, iou = which[good], rows[good], iou[good]
  starts = np.flatnonzero(np.diff(which, prepend=-1))
  for start, stop in zip(starts, [*starts[1:], len(which)]):
    mine = rows[start:stop]
    overlap = np.where(taken[mine], -1.0, iou[start:stop])
    best = overlap.argmax()
    if overlap[best] > 0:
      taken[mine[best]] = True
  return taken


def _activitynet(pairs, scores, kept, threshold):
  """Lets every detection take a true segment; returns bool [N], who did."""
  which, rows, iou = pairs
  good = kept[rows] & (iou >= threshold)
  which, rows, iou = which[good], rows[good], iou[good]
  # The surest first; of its true segments, that which it overlaps most.
  order = np.lexsort((-iou, rows, -scores[rows]))
  hits = np.zeros(len(kept), bool)
  gone = set()
  for row, true in zip(rows[order].tolist(), which[order].tolist()):
    if not hits[row] and true not in gone:
      hits[row] = True
      gone.add(true)
  return hits


def _mean_at_hits(hits, count):
  """Averages the precision at the hits, best first, over all that there are."""
  precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
  return precision[hits].sum() / count


def _interpolated(hits, count):
  """Finds the area under the precision that never rises with recall."""
  precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
  precision = np.maximum.accumulate(precision[::-1])[::-1]
  return precision[hits].sum() / count
