"""Truth and detections as arrays, and what is wrong with them.

What cannot be meant raises an error; what can be counted is counted, and named.
"""

import dataclasses

import numpy as np

from vidattn_jax import names

# Names that a note lists before it only counts.
_MOST_NAMES = 3
_FIELDS = ('video', 'start', 'end', 'label', 'score')


@dataclasses.dataclass(frozen=True)
class Truth:
  """True segments of several videos, in the order that they were given in.

  Attributes:
    videos: names of the videos that count, sorted.
    video: int [G], where in `videos`.
    segments: float64 [G, 2], seconds.
    label: int [G], class numbers.
    ambiguous_video: int [A].
    ambiguous: float64 [A, 2], segments of no certain class.
  """
  videos: tuple
  video: np.ndarray
  segments: np.ndarray
  label: np.ndarray
  ambiguous_video: np.ndarray
  ambiguous: np.ndarray


@dataclasses.dataclass(frozen=True)
class Found:
  """Detected segments.

  Attributes:
    video: int [N], where in `Truth.videos`.
    segments: float64 [N, 2], seconds.
    label: int [N], class numbers.
    score: float64 [N].
  """
  video: np.ndarray
  segments: np.ndarray
  label: np.ndarray
  score: np.ndarray

  def take(self, rows):
    """Returns some of the rows, or all in another order."""
    return Found(*(getattr(self, f.name)[rows]
                   for f in dataclasses.fields(self)))


def check_thresholds(thresholds, nms_margin=None):
  """Raises a ValueError if overlaps to judge at cannot be."""
  if not thresholds or not all(0 < t <= 1 for t in thresholds):
    raise ValueError(f'The thresholds are {list(thresholds)}; they must be '
                     'overlaps above 0 and up to 1, one or more.')
  if nms_margin is not None and not 0 <= nms_margin < 1:
    raise ValueError(f'The margin of NMS is {nms_margin}; it must be at least '
                     '0 and below 1, such as 0.1.')


def check(ground_truth, detections, classes, videos=None):
  """Turns plain data into arrays, and looks for what is odd with it.

  Args:
    ground_truth: see `evaluation.evaluate`.
    detections: see there.
    classes: class names.
    videos: names of the videos that count; None for all.

  Returns:
    (`Truth`, `Found`, tuple of notes). Detections of other videos are left
    out, and counted.

  Raises:
    ValueError: a video that counts is unknown, no true segment is left, a
      class is unknown, a true segment does not end after it starts, a number
      is none, or all detections are of unknown videos.
  """
  notes = []
  truth = _truth(ground_truth, classes, videos, notes)
  found = _found(ground_truth, truth.videos, detections, classes, notes)
  return truth, found, tuple(notes)


def _truth(ground_truth, classes, videos, notes):
  """Returns `Truth`; adds to the notes."""
  if videos is None:
    videos = ground_truth
  videos = tuple(sorted(set(videos)))
  for name in videos:
    names.check_name('annotated video', name, ground_truth)
  video, rows, ambiguous_video, ambiguous = [], [], [], []
  for number, name in enumerate(videos):
    for row in ground_truth[name].get('segments', ()):
      check_segment(name, row, len(classes))
      video.append(number)
      rows.append(tuple(row))
    for row in ground_truth[name].get('ambiguous', ()):
      check_segment(name, (*row, 0), 1)
      ambiguous_video.append(number)
      ambiguous.append(tuple(row))
  if not rows:
    raise ValueError(f'There are {len(videos)} videos to judge, but not one '
                     'true segment in them; nothing can be judged.')
  values = np.asarray(rows, np.float64)
  truth = Truth(videos, np.asarray(video, int), values[:, :2],
                values[:, 2].astype(int), np.asarray(ambiguous_video, int),
                np.asarray(ambiguous, np.float64).reshape(-1, 2))
  _note_truth(ground_truth, truth, classes, notes)
  return truth


def check_segment(video, row, num_classes):
  """Raises a ValueError if an annotated segment cannot be.

  Args:
    video: its name.
    row: (start s, end s, class number).
    num_classes: number of classes.
  """
  start, end, label = row
  if not (np.isfinite(start) and np.isfinite(end)):
    raise ValueError(f'{video} has a segment from {start} to {end}; both must '
                     'be numbers, or the duration of the video be known.')
  if end <= start:
    raise ValueError(f'{video} has a segment from {start:g} to {end:g} s; it '
                     'must end after it starts.')
  if label != int(label) or not 0 <= label < num_classes:
    raise ValueError(f'{video} has a segment of class {label}; there are '
                     f'classes 0 to {num_classes - 1}.')


def _note_truth(ground_truth, truth, classes, notes):
  """Notes what is odd with true segments."""
  with_segments = set(truth.video.tolist())
  _note(notes, 'videos without a segment', [
      name for i, name in enumerate(truth.videos) if i not in with_segments])
  durations = [ground_truth[name].get('duration') for name in truth.videos]
  _note(notes, 'videos whose duration is unknown, so that none of their '
        'segments could be found to lie past the end',
        [name for name, duration in zip(truth.videos, durations)
         if duration is None])
  length = np.asarray([np.inf if d is None else d for d in durations])
  outside = (truth.segments[:, 0] < 0) | (
      truth.segments[:, 1] > length[truth.video])
  _note(notes, 'true segments that lie outside of their video, kept', [
      truth.videos[i] for i in truth.video[outside]])
  ends, overlapping = {}, []  # of each video and class, the last end
  for i in np.lexsort(truth.segments.T[::-1]).tolist():
    kind = truth.video[i], truth.label[i]
    start, end = truth.segments[i]
    if start < ends.get(kind, -np.inf):
      overlapping.append(truth.videos[kind[0]])
    ends[kind] = max(end, ends.get(kind, -np.inf))
  _note(notes, 'true segments that overlap another of their class, kept',
        sorted(overlapping))
  missing = set(range(len(classes))) - set(truth.label.tolist())
  _note(notes, 'classes without a true segment, left out of the mean', [
      classes[k] for k in sorted(missing)])


def _found(ground_truth, videos, detections, classes, notes):
  """Returns `Found`; adds to the notes."""
  missing = [key for key in _FIELDS if key not in detections]
  if missing:
    raise ValueError(f'The detections have no {missing[0]!r}; they need '
                     f'{", ".join(_FIELDS)}.')
  columns = {key: np.asarray(detections[key]) for key in _FIELDS}
  if len({len(column) for column in columns.values()}) > 1:
    lengths = ', '.join(f'{key} {len(c)}' for key, c in columns.items())
    raise ValueError(f'The detections are not equally many: {lengths}.')
  _check_numbers(columns, len(classes))
  places = {name: i for i, name in enumerate(videos)}
  who = columns['video'].tolist()
  video = np.asarray([places.get(name, -1) for name in who], int)
  left_out = {name for name, place in zip(who, video) if place < 0}
  strange = sorted(name for name in left_out if name not in ground_truth)
  if who and len(strange) == len(set(who)):
    raise ValueError(
        f'Not one of the {len(strange)} videos of the detections is '
        f'annotated; the first is {strange[0]!r}, but annotated are '
        f'{next(iter(ground_truth))!r} and others.')
  known = video >= 0
  counts = dict(zip(*np.unique(columns['video'][~known], return_counts=True)))
  for what, group in (
      ('detections of videos that are not annotated, left out', strange),
      ('detections of videos that do not count here, left out',
       sorted(left_out - set(strange)))):
    _note(notes, what, group, sum(int(counts[name]) for name in group))
  found = Found(
      video[known], np.column_stack(
          [columns['start'], columns['end']]).astype(np.float64)[known],
      columns['label'].astype(int)[known],
      columns['score'].astype(np.float64)[known])
  _note_found(ground_truth, videos, found, notes)
  return found


def _check_numbers(columns, num_classes):
  """Raises an error if a detection's number or class cannot be."""
  for key in ('start', 'end', 'score'):
    bad = np.flatnonzero(~np.isfinite(columns[key].astype(np.float64)))
    if len(bad):
      raise ValueError(f'Detection {bad[0]} ({columns["video"][bad[0]]}) has '
                       f'the {key} {columns[key][bad[0]]}; it must be a '
                       f'number ({len(bad)} such).')
  label = columns['label']
  bad = np.flatnonzero((label != label.astype(int)) | (label < 0)
                       | (label >= num_classes))
  if len(bad):
    raise ValueError(
        f'Detection {bad[0]} ({columns["video"][bad[0]]}) is of class '
        f'{label[bad[0]]}; there are classes 0 to {num_classes - 1} '
        f'({len(bad)} such).')


def _note_found(ground_truth, videos, found, notes):
  """Notes what is odd with detections."""
  start, end = found.segments.T
  names_of = [videos[i] for i in found.video]
  _note(notes, 'detections that end before they start', [
      names_of[i] for i in np.flatnonzero(end < start)])
  _note(notes, 'detections without length', [
      names_of[i] for i in np.flatnonzero(end == start)])
  length = np.asarray([ground_truth[name].get('duration') or np.inf
                       for name in videos])
  outside = (np.maximum(start, end) < 0) | (
      np.minimum(start, end) > length[found.video])
  _note(notes, 'detections that lie outside of their video', [
      names_of[i] for i in np.flatnonzero(outside)])
  rows = np.column_stack([found.video, found.segments, found.label])
  _, first = np.unique(rows, axis=0, return_index=True)
  again = np.setdiff1d(np.arange(len(rows)), first)
  _note(notes, 'detections that stand twice with the same class and times',
        [names_of[i] for i in again])
  none = sorted(set(range(len(videos))) - set(found.video.tolist()))
  _note(notes, 'videos without a detection', [videos[i] for i in none])


def _note(notes, what, who, count=None):
  """Adds a sentence that counts and names; none if there are none."""
  count = len(who) if count is None else count
  if count:
    who = list(dict.fromkeys(who))
    more = f' and {len(who) - _MOST_NAMES} more' if len(
        who) > _MOST_NAMES else ''
    notes.append(f'{count} {what}: {", ".join(who[:_MOST_NAMES])}{more}')
