"""Untrimmed videos and the actions in them, checked before training.

What cannot be meant is one error; what can be counted is counted and named.
"""

import dataclasses
import math
import os

from absl import logging

from input_pipeline import annotations
from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import index
from input_pipeline import sources
from input_pipeline import storage
from input_pipeline import timing

# Seconds, and share, by which an annotated duration may differ from a video's.
_TOLERANCE = 1.0, 0.02
# Names that a note lists before it only counts.
_MOST_NAMES = 3


@dataclasses.dataclass(frozen=True)
class Video:
  """One usable untrimmed video.

  Attributes:
    name: its name in the annotations.
    path: where it is: a video file or a folder of frames.
    num_frames: frames that can be asked for, as `timing.grid` numbers them.
    rate: of these, in a second.
    segments: (start s, end s, class) of actions that lie in the video; what
      reaches past its end is cut there.
    truth: what the annotations say, with the video's own duration.
    entry: what the index knows.
    start: 0; the video's frame that is frame 0 here.
    video: its name.
  """

  name: str
  path: str
  num_frames: int
  rate: float
  segments: tuple[tuple[float, float, int], ...]
  truth: dict
  entry: decode.IndexEntry
  start: int = 0
  video: str = ''


@dataclasses.dataclass(frozen=True)
class UntrimmedSet:
  """The usable untrimmed videos of one split.

  Attributes:
    split: 'train' or 'eval'.
    records: the videos, sorted by name.
    classes: names of the classes of actions.
    notes: what is odd, in words.
    dropped: (name, reason) of each video that is not used.
    fingerprint: hash of the names, segments and contents of `records`.
  """

  split: str
  records: tuple[Video, ...]
  classes: tuple[str, ...]
  notes: tuple[str, ...]
  dropped: tuple[tuple[str, str], ...]
  fingerprint: str

  def summary(self):
    """Returns what a report should say of the set, as plain values."""
    return {
        'split': self.split,
        'videos': len(self.records),
        'seconds': round(sum(v.num_frames / v.rate for v in self.records), 1),
        'frames': sum(v.num_frames for v in self.records),
        'segments': sum(len(v.segments) for v in self.records),
        'classes': len(self.classes),
        'notes': list(self.notes),
        'sha256': self.fingerprint,
        'dropped': [list(item) for item in self.dropped],
    }


def read_annotations(config, split, more=True):
  """Reads the true segments of a split.

  Args:
    config: the whole configuration.
    split: 'train' or 'eval'.
    more: those of `detection.more_annotations` to train on, too.

  Returns:
    `annotations.Annotations`.

  Raises:
    ValueError: they cannot be read, there is no such subset, or a segment ends
      before it starts; one sentence.
  """
  subset = config.detection[f'{split}_subset']
  found = _read(config, config.detection.annotations, subset)
  for path in _more(config, split) if more else ():
    found = _with(found, path, _read(config, path, subset, or_all=True))
  return found


def _more(config, split):
  """Returns the further files of a split."""
  return config.detection.more_annotations if split == 'train' else ()


def _read(config, path, subset, or_all=False):
  """Reads one of the files, and checks its segments."""
  below = storage.join(config.data.root, path)
  if not os.path.isabs(path) and os.path.exists(below):
    path = below
  found = annotations.read(path, subset, or_all)
  reversed_ = [(name, row) for name, video in found.videos.items()
               for row in (*video['segments'], *video['ambiguous'])
               if row[0] >= row[1]]
  if reversed_:
    name, row = reversed_[0]
    raise ValueError(
        f'{path}: {name} has a segment from {row[0]:g} to {row[1]:g} s, which '
        f'does not end after it starts ({len(reversed_)} such); mend the '
        'annotations')
  return found


def _with(found, path, more):
  """Returns annotations with the videos of a further file.

  Args:
    found: what is known.
    path: name of the file, for messages.
    more: what it holds; its classes are some of those that are known.
  """
  annotations.check_classes(path, more.classes, found.classes)
  double = sorted(set(found.videos) & set(more.videos))
  if double:
    raise ValueError(f'{path}: {double[0]} is annotated in another file, too '
                     f'({len(double)} such); leave it out of one')
  places = [found.classes.index(name) for name in more.classes]
  videos = {name: {**video, 'segments': [
      (*row[:2], places[row[2]]) for row in video['segments']]}
            for name, video in more.videos.items()}
  return dataclasses.replace(found, videos={**found.videos, **videos})


def load(config, split, index_file=''):
  """Finds, checks and indexes the untrimmed videos of a split.

  Args:
    config: the whole configuration.
    split: 'train' or 'eval'.
    index_file: JSON file that keeps the index; `data.index_file` goes before
      it. '' keeps none.

  Returns:
    UntrimmedSet. Bad videos are in `dropped`, with the reason.

  Raises:
    ValueError: the data cannot be used as configured; one sentence names the
      file or the key.
  """
  data = config.data
  timing.check(data)
  if data.bad_videos not in ('skip', 'fail'):
    raise ValueError("data.bad_videos must be 'skip' or 'fail', not "
                     f'{data.bad_videos!r}')
  found = read_annotations(config, split)
  places = _places(data, found.videos)
  entries = index.build(
      places.values(), data.index, data.index_file or index_file,
      frame_template=data.frame_template, first_frame=data.first_frame,
      limits=containers.limits_of(data))
  records, bad, odd = [], [], {}
  for name in sorted(found.videos):
    entry = entries[places[name]] if name in places else None
    if entry is None:
      bad.append((name, f'there is no such video below {data.root}'))
    elif entry.error:
      bad.append((name, entry.error))
    elif not (data.frame_rate or entry.rate):
      bad.append((name, 'its frames have no times; set data.frames_by and '
                  'data.frame_rate'))
    else:
      records.append(_video(name, places[name], entry, found.videos[name],
                            data, odd))
  told_by = ', '.join((config.detection.annotations, *_more(config, split)))
  sources.check_bad(data, bad, len(found.videos), told_by)
  if not any(video.segments for video in records):
    raise ValueError(
        f'{told_by}: not one segment of the subset '
        f'{found.subset!r} lies in its {len(records)} videos; there is nothing '
        f'to {"train" if split == "train" else "judge"}')
  notes = tuple(count_and_name(what, names) for what, names in odd.items())
  for note in notes:
    logging.warning('%s (%s): %s', told_by, split, note)
  for name, reason in bad:
    logging.warning('Dropped %s: %s', name, reason)
  fingerprint = index.fingerprint(
      (v.name, v.segments, v.entry.digest) for v in records)
  return UntrimmedSet(split, tuple(records), found.classes, notes, tuple(bad),
                      fingerprint)


def _places(data, names):
  """Returns {name: path} of the videos that are below the root."""
  found = {}
  for name, path in sources.gather_videos(
      [data.root], frame_template=data.frame_template,
      first_frame=data.first_frame).items():
    stem = os.path.splitext(name)[0]
    for known in {name, stem, os.path.basename(name), os.path.basename(stem)}:
      found.setdefault(known, []).append(path)
  # ActivityNet's annotations leave out how its files begin.
  found = {name: found.get(name) or found.get(f'v_{name}', ())
           for name in names}
  double = next((name for name, paths in found.items() if len(paths) > 1), None)
  if double:
    raise ValueError(f'{data.root}: {double} may be {found[double][0]} or '
                     f'{found[double][1]}; leave one of them there')
  places = {name: paths[0] for name, paths in found.items() if paths}
  first = {path: name for name, path in reversed(places.items())}
  again = next((n for n, path in places.items() if first[path] != n), None)
  if again:
    raise ValueError(f'{places[again]} is annotated as {first[places[again]]} '
                     f'and as {again}; leave one of them there')
  return places


def _video(name, path, entry, truth, data, odd):
  """Returns a `Video`; adds to {what is odd: names}."""
  numbers = timing.grid(entry, data.frames_by, data.frame_rate)
  rate = (data.frames_by == 'time' and data.frame_rate) or entry.rate
  seconds = len(numbers) / rate

  def note(what):
    odd.setdefault(what, []).append(name)

  told = truth['duration']
  if told is None:
    note('videos whose duration is not annotated; that of the file counts')
  elif abs(told - seconds) > max(_TOLERANCE[0], _TOLERANCE[1] * seconds):
    note('videos whose annotated duration is not that of the file, which '
         'counts')
  kept = []
  for start, end, label in truth['segments']:
    if start >= seconds or end <= 0:
      note('segments outside of their video, left out')
      continue
    if seconds + 1 / rate < end < math.inf or start < 0:
      note('segments that reach past an end of their video, cut there')
    row = max(float(start), 0.0), min(float(end), seconds), int(label)
    if row in kept:
      note('segments that stand twice, left out once')
      continue
    if any(other[2] == label and max(other[0], row[0]) < min(other[1], row[1])
           for other in kept):
      note('segments that overlap another of their class, kept')
    kept.append(row)
  if not truth['segments']:
    note('videos without a segment, all background')
  return Video(name, path, len(numbers), rate, tuple(kept),
               annotations.ended(truth, seconds), entry, video=name)


def count_and_name(what, names):
  """Returns a sentence that counts what is odd, and names the first videos."""
  known = list(dict.fromkeys(names))
  more = (f' and {len(known) - _MOST_NAMES} more'
          if len(known) > _MOST_NAMES else '')
  return f'{len(names)} {what}: {", ".join(known[:_MOST_NAMES])}{more}'
