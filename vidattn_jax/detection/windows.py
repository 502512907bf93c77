"""Windows and buffers, and what S-CNN makes of the scores of windows.

Shou et al., "Temporal Action Localization in Untrimmed Videos via Multi-stage
CNNs", CVPR 2016. Times are frame / rate with frames counted from 1, as in its
code.
"""

import numpy as np

from vidattn_jax.detection import segments as segments_lib

LENGTHS = (16, 32, 64, 128, 256, 512)
# Frames of each second of the videos that it looks at.
RATE = 25.0


def slide(num_frames: int, lengths=LENGTHS, overlap: float = 0.75):
  """Lays windows of several lengths over a video.

  Args:
    num_frames: frames of the video.
    lengths: of the windows, in frames.
    overlap: share that two neighbours of one length have in common.

  Returns:
    (first frames int [W], from 1; lengths int [W]); of each length as many as
    fit. A video shorter than the shortest has none.
  """
  found = [(start, length) for length in lengths
           for start in range(1, num_frames - length + 2,
                              max(round(length * (1 - overlap)), 1))]
  starts, chosen = np.asarray(found, int).reshape(-1, 2).T
  return starts, chosen


def to_seconds(starts, lengths, rate: float = RATE) -> np.ndarray:
  """Returns the times of windows, float64 [W, 2], of first and last frame."""
  starts, lengths = np.asarray(starts, int), np.asarray(lengths, int)
  return np.stack([starts, starts + lengths - 1], -1) / rate


def lay_buffers(num_frames: int, length: int, step: int,
                backwards: bool = False) -> np.ndarray:
  """Lays the buffers of R-C3D over a video.

  Args:
    num_frames: frames of the video.
    length: of a buffer.
    step: frames from one to the next.
    backwards: go from the end to the start, too, as its training does; without,
      one buffer at the end of the video ends it.

  Returns:
    First frames, int [B], from 0, rising; one buffer, which holds more than the
    video, where that is shorter.
  """
  last = max(num_frames - length, 0)
  more = range(last, -1, -step) if backwards else [last]
  return np.unique([*range(0, last + 1, step), *more])


def lay(num_frames: int, detection, length: int, train: bool = False):
  """Lays the pieces that a detector looks at over a video.

  Args:
    num_frames: frames of the video.
    detection: of the recipe: `kind` ('windows' or 'buffers'), and `windows` and
      `window_overlap`, or `buffer_step`.
    length: of a buffer.
    train: as for training.

  Returns:
    (first frames, from 0; lengths), int [P] both.
  """
  if detection['kind'] == 'windows':
    starts, lengths = slide(num_frames, detection['windows'],
                            detection['window_overlap'])
    return starts - 1, lengths
  starts = lay_buffers(num_frames, length, detection['buffer_step'], train)
  return starts, np.full(len(starts), length)


def judge(action, chances, starts, lengths, windows=LENGTHS, least: float = 0.7,
          prior=None, rate: float = RATE, weigh_action: bool = False) -> dict:
  """Turns what S-CNN's networks say of windows into detections.

  Args:
    action: float [N], the proposal network's probability of an action.
    chances: float [N, K + 1], the localisation network's probabilities.
    starts: int [N], first frames, from 1.
    lengths: int [N], in frames.
    windows: the lengths that there are, S of them.
    least: windows whose `action` is lower are no proposals.
    prior: float [S, K], see `length_prior`; None for none.
    rate: frames of each second.
    weigh_action: multiply scores by `action`, too.

  Returns:
    Dict of arrays: `row` (which window), `start`, `end` (seconds), `label` and
    `score`, of the windows that are of a class and no background.
  """
  chances = np.asarray(chances)
  best = chances.argmax(1)
  rows = np.flatnonzero((np.asarray(action) >= least) & (best > 0))
  label, score = best[rows] - 1, chances[rows, best[rows]].astype(np.float64)
  if weigh_action:
    score = score * np.asarray(action, np.float64)[rows]
  lengths = np.asarray(lengths)[rows]
  if prior is not None:
    window = np.searchsorted(windows, lengths)
    score = score * np.asarray(prior)[window, label]
  start, end = to_seconds(np.asarray(starts)[rows], lengths, rate).T
  return {'row': rows, 'start': start, 'end': end, 'label': label,
          'score': score}


def length_prior(seconds, labels, num_classes: int, lengths=LENGTHS,
                 rate: float = RATE) -> np.ndarray:
  """Counts how often actions of each class are about as long as a window.

  Args:
    seconds: lengths of training segments, float [G].
    labels: their classes, int [G].
    num_classes: number of classes, K.
    lengths: of the windows, in frames, S of them; or in seconds if `rate` is
      None.
    rate: frames of each second.

  Returns:
    float64 [S, K]: of a class, the share of segments whose length is within a
    factor of two of each window's; columns sum to 1, or are 0 without any.
  """
  seconds, labels = np.asarray(seconds, float), np.asarray(labels, int)
  window = np.asarray(lengths, float)
  if rate is not None:
    window = (window - 1) / rate
  near = (seconds >= window[:, None] / 2) & (seconds <= window[:, None] * 2)
  counts = np.stack([np.bincount(labels[row], minlength=num_classes)
                     for row in near]).astype(float)
  return counts / np.maximum(counts.sum(0), 1)


def rank(detections, prior=None, threshold: float = 0.4) -> dict:
  """Turns scores of windows into detections, as S-CNN does.

  Scores are multiplied by the prior, what overlaps a better window of its
  class and video is suppressed, of equals the later one is better, and times
  and scores are rounded as in its files.

  Args:
    detections: dict of arrays of N rows: `video`, `start`, `end` (seconds),
      `label` (class numbers, without background), `score` and, with a prior,
      `window` (which length).
    prior: float [S, K], see `length_prior`; None for none.
    threshold: overlap above which is suppressed: the threshold of the
      evaluation less 0.1.

  Returns:
    Dict of arrays `video`, `start`, `end`, `label` and `score`, best first.
  """
  video, label = (np.asarray(detections[key]) for key in ('video', 'label'))
  times = np.stack([np.asarray(detections[key], np.float64)
                    for key in ('start', 'end')], -1)
  scores = np.asarray(detections['score'], np.float64)
  if prior is not None:
    scores = scores * np.asarray(prior)[detections['window'], label]
  which = np.unique(video, return_inverse=True)[1]
  groups = which * (int(label.max(initial=0)) + 1) + label
  kept = np.flatnonzero(segments_lib.nms_of_groups(
      times, scores, groups, threshold, later_first=True))
  kept = kept[np.lexsort((-kept, -scores[kept]))]
  times = np.round(times[kept], 1)
  return {'video': video[kept], 'start': times[:, 0], 'end': times[:, 1],
          'label': label[kept],
          'score': np.asarray([float(f'{s:.5g}') for s in scores[kept]])}
