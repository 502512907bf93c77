"""Where actions are in untrimmed videos: files of true and detected segments.

A video's truth is a dict of `segments` [(start s, end s, class number)],
`ambiguous` [(start s, end s)] (of no certain class) and `duration` in seconds,
None where the file does not tell it.
"""

import csv
import dataclasses
import json
import math
import os
import re
import zipfile

from absl import logging
import numpy as np

from input_pipeline import folders
from input_pipeline import lists
from input_pipeline.layouts import listing

# Classes of THUMOS'14's detection task, and their numbers in its files, which
# are those of UCF101.
THUMOS14 = {
    'BaseballPitch': 7, 'BasketballDunk': 9, 'Billiards': 12,
    'CleanAndJerk': 21, 'CliffDiving': 22, 'CricketBowling': 23,
    'CricketShot': 24, 'Diving': 26, 'FrisbeeCatch': 31, 'GolfSwing': 33,
    'HammerThrow': 36, 'HighJump': 40, 'JavelinThrow': 45, 'LongJump': 51,
    'PoleVault': 68, 'Shotput': 79, 'SoccerPenalty': 85, 'TennisSwing': 92,
    'ThrowDiscus': 93, 'VolleyballSpiking': 97}
# Its subsets: how videos are named, and the end of the annotations' names.
THUMOS14_SUBSETS = {'train': ('validation', 'val'), 'test': ('test', 'test')}
# What columns of a table may be called; the first is the usual name.
_COLUMNS = {'video': ('video', 'path', 'name'),
            'start': ('start', 'start_s', 't_start'),
            'end': ('end', 'end_s', 't_end'),
            'label': ('label', 'class'), 'score': ('score',),
            'subset': ('subset', 'split'), 'duration': ('duration',)}
# What THUMOS'14 calls a segment of no certain class.
_AMBIGUOUS = 'Ambiguous'


@dataclasses.dataclass(frozen=True)
class Annotations:
  """True segments of a subset.

  Attributes:
    classes: class names of all subsets; segments have their places here.
    videos: {name: truth, see above}.
    subset: name of the subset; '' where the file has none.
  """
  classes: tuple
  videos: dict
  subset: str = ''


def read(path, subset=None, or_all=False) -> Annotations:
  """Reads true segments.

  Args:
    path: JSON in the layout of ActivityNet (`database`) or with `classes` and
      `subsets`; a CSV table with the columns video, start, end, label and
      perhaps subset and duration; or a folder of THUMOS'14, of files
      Class_test.txt and Class_val.txt in it or below. A row of a table without
      times is an action as long as its video (its end is infinity, if there is
      no duration), a row without a label, too, a video without actions; the
      label Ambiguous is that of no class.
    subset: which videos; may be left out if there is one subset only. Of
      THUMOS'14 val or test.
    or_all: take all videos of a file that tells no subsets.

  Returns:
    The annotations, classes in alphabetical order unless the file has its own.

  Raises:
    ValueError: a file is missing or none of these, a class is unknown, or the
      subset is; one sentence.
  """
  if os.path.isdir(path):
    subsets, classes = _read_thumos14(path), tuple(THUMOS14)
  elif str(path).endswith('.csv'):
    subsets, classes = _read_table(path)
  else:
    subsets, classes = _read_json(path)
  if not subsets:
    raise ValueError(f'{path}: it annotates no video')
  if len(subsets) == 1 and (subset is None or (or_all and '' in subsets)):
    subset = next(iter(subsets))
  if subset not in subsets:
    asked = f'no subset {subset!r}' if subset else 'several subsets'
    raise ValueError(f'{path}: it has {asked}; choose '
                     f'{" or ".join(sorted(map(repr, subsets)))}')
  return Annotations(classes, subsets[subset], subset)


def _truth(duration=None):
  return {'segments': [], 'ambiguous': [], 'duration': duration}


def _load_json(path):
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except FileNotFoundError:
    raise ValueError(f'{path}: no such file') from None
  except (ValueError, OSError) as error:
    raise ValueError(f'{path}: it cannot be read as JSON ({error})') from error
  if not isinstance(content, dict):
    raise ValueError(f'{path}: it holds no JSON object')
  return content


def _read_json(path):
  """Returns ({subset: {video: truth}}, classes)."""
  content = _load_json(path)
  if 'database' in content:
    return _read_activitynet(path, content)
  if 'classes' not in content or 'subsets' not in content:
    raise ValueError(f'{path}: it has neither database, as ActivityNet has, '
                     'nor classes and subsets')
  _check_is(dict, content['subsets'], path, 'subsets')
  _check_is(list, content['classes'], path, 'classes')
  subsets = {}
  for subset, videos in content['subsets'].items():
    _check_is(dict, videos, path, f'the subset {subset}')
    subsets[subset] = {name: {
        **_truth(_duration(path, name, video)),
        'segments': _times(path, name, video, 'segments', 3),
        'ambiguous': _times(path, name, video, 'ambiguous', 2)}
                       for name, video in videos.items()}
  classes = tuple(content['classes'])
  for videos in subsets.values():
    for name, video in videos.items():
      for row in video['segments']:
        if row[2] not in range(len(classes)):
          raise ValueError(f'{path}: {name} has a segment of class {row[2]!r}; '
                           f'there are {len(classes)} classes, from 0')
  return subsets, classes


def _check_is(kind, value, path, what):
  """Raises a ValueError if a value of a file has another type."""
  if not isinstance(value, kind):
    raise ValueError(f'{path}: {what} is {str(value)[:40]!r}, not '
                     f'{"a JSON object" if kind is dict else "a list"}')


def _duration(path, name, video):
  """Returns the seconds of a video, or None."""
  _check_is(dict, video, path, f'the video {name}')
  duration = video.get('duration')
  return None if duration is None else _seconds(
      duration, f'{path}, duration of {name}')


def _seconds(value, where):
  """Returns how long a video is."""
  number = _number(value, where)
  if number <= 0:
    raise ValueError(f'{where}: a video is not {value} s long; mend it, or '
                     'leave it out')
  return number


def _times(path, name, video, key, size):
  """Returns rows of numbers of a video."""
  rows = video.get(key) or []
  _check_is(list, rows, path, f'{key} of {name}')
  for row in rows:
    if not isinstance(row, list) or len(row) != size:
      raise ValueError(f'{path}: {name} has the row {row!r} in {key}; it must '
                       f'be {size} numbers')
  return [tuple(_number(x, f'{path}, {key} of {name}') for x in row[:2])
          + tuple(row[2:]) for row in rows]


def _read_activitynet(path, content):
  """Returns ({subset: {video: truth}}, classes) of `database`."""
  database = content['database']
  _check_is(dict, database, path, 'database')
  used = set()
  for name, video in database.items():
    _check_is(dict, video, path, f'the video {name}')
    found = video.get('annotations') or []
    _check_is(list, found, path, f'annotations of {name}')
    for annotation in found:
      _check_is(dict, annotation, path, f'an annotation of {name}')
      label = annotation.get('label')
      if not isinstance(label, str) or not label:
        raise ValueError(f'{path}: an annotation of {name} has no label')
      used.add(label)
  taxonomy = content.get('taxonomy') or []
  # ActivityNet's is a tree; names alone are the classes themselves.
  named = [name for name in taxonomy if isinstance(name, str)]
  classes = tuple(named or sorted(used))
  check_classes(path, used, classes)
  subsets = {}
  for name, video in database.items():
    truth = _truth(_duration(path, name, video))
    for annotation in video.get('annotations') or ():
      segment = annotation.get('segment')
      if not isinstance(segment, list) or len(segment) != 2:
        raise ValueError(f'{path}: {name} has the segment {segment!r}; it '
                         'must be two times in seconds')
      truth['segments'].append((
          *(_number(x, f'{path}, segment of {name}') for x in segment),
          classes.index(annotation['label'])))
    subsets.setdefault(video.get('subset', ''), {})[name] = truth
  return subsets, classes


def check_classes(where, used, classes):
  """Raises a ValueError if a class is not one of those that there are."""
  strange = sorted(set(used) - set(classes))
  if strange:
    raise ValueError(f'{where}: there is no class {strange[0]!r} '
                     f'({len(strange)} such); the classes are '
                     f'{", ".join(classes)}')


def _read_thumos14(folder):
  """Returns {subset: {video: truth}} of files such as Billiards_test.txt."""
  subsets = {}
  for subset, (_, end) in THUMOS14_SUBSETS.items():
    try:
      place, kinds = listing.find_ending(folder, f'_{end}.txt')
    except ValueError:
      continue
    # A class that is missing would only make its detections false.
    for kind in THUMOS14:
      if kind not in kinds:
        raise ValueError(f'{place}: {kind}_{end}.txt is missing')
    for kind in kinds:
      path = os.path.join(place, f'{kind}_{end}.txt')
      if kind != _AMBIGUOUS:
        check_classes(path, [kind], tuple(THUMOS14))
      for video, start, stop in thumos14_rows(path, subset):
        truth = subsets.setdefault(end, {}).setdefault(video, _truth())
        times = float(start), float(stop)
        if kind == _AMBIGUOUS:
          truth['ambiguous'].append(times)
        else:
          truth['segments'].append((*times, list(THUMOS14).index(kind)))
  if not subsets:
    raise ValueError(f'{folder}: it has no files such as Billiards_test.txt')
  return subsets


def thumos14_rows(path, subset):
  """Yields (video, start, stop), times as written, of a file of THUMOS'14.

  Segments that end before they start are turned round, as the published
  evaluation does, and named in a warning.

  Args:
    path: a file such as `Billiards_test.txt`.
    subset: one of `THUMOS14_SUBSETS`, whose name is in those of its videos.

  Raises:
    ValueError: a line is none of the format; names the file and the line.
  """
  named = THUMOS14_SUBSETS[subset][0]
  turned = []
  for where, words in listing.rows_of(path, 3):
    times = [_number(word, where) for word in words[1:]]
    if not words[0].startswith(f'video_{named}_') or times[0] == times[1]:
      raise ValueError(f"{where}: it is not 'video_{named}_NUMBER start "
                       "stop', in seconds")
    if times[0] > times[1]:
      turned.append(where)
      words[1:] = reversed(words[1:])
    yield tuple(words)
  if turned:
    logging.warning('%s: it ends before it starts (%d such in the file); '
                    'turned round', turned[0], len(turned))


def _number(text, where):
  try:
    number = float(text)
  except (TypeError, ValueError):
    number = math.nan
  if not math.isfinite(number):
    raise ValueError(f'{where}: {text!r} is no number')
  return number


def _rows(path, wanted):
  """Yields (where, {column: text}) of a CSV table."""
  lines = lists.read_lines(path, 'segments', keepends=True)
  rows = csv.DictReader(lines)
  header = rows.fieldnames or []
  found = {column: next((n for n in _COLUMNS[column] if n in header), None)
           for column in _COLUMNS}
  for column in wanted:
    if found[column] is None:
      raise ValueError(f'{path}: it has no column {column!r}; its columns are '
                       f'{", ".join(header) or "none"}')
  for row in rows:
    yield f'{path}, line {rows.line_num}', {
        column: (row[name] or '').strip()
        for column, name in found.items() if name}


def _read_table(path):
  """Returns ({subset: {video: truth}}, classes)."""
  rows = list(_rows(path, ('video', 'start', 'end', 'label')))
  for where, row in rows:
    timed = bool(row['start']), bool(row['end'])
    if not row['video']:
      raise ValueError(f'{where}: its video is empty')
    if timed[0] != timed[1] or (timed[0] and not row['label']):
      missing = next(c for c in ('start', 'end', 'label') if not row[c])
      raise ValueError(f'{where}: its {missing} is empty')
  classes = tuple(sorted({row['label'] for _, row in rows}
                         - {'', _AMBIGUOUS}))
  subsets, empty = {}, set()
  for where, row in rows:
    videos = subsets.setdefault(row.get('subset', ''), {})
    bare = not row['label']  # no actions, says this row
    if (bare and row['video'] in videos) or row['video'] in empty:
      raise ValueError(f'{where}: {row["video"]} has a row without actions, '
                       'and another one; leave one of them there')
    if bare:
      empty.add(row['video'])
    truth = videos.setdefault(row['video'], _truth())
    if row.get('duration'):
      seconds = _seconds(row['duration'], where)
      if truth['duration'] not in (None, seconds):
        raise ValueError(f'{where}: {row["video"]} is {seconds:g} s long here, '
                         f'{truth["duration"]:g} s before')
      truth['duration'] = seconds
    times = (0.0, math.inf)
    if row['start']:
      times = _number(row['start'], where), _number(row['end'], where)
    if row['label'] == _AMBIGUOUS:
      truth['ambiguous'].append(times)
    elif row['label']:
      truth['segments'].append((*times, classes.index(row['label'])))
  for videos in subsets.values():
    for name, truth in videos.items():
      if truth['duration'] is not None:
        videos[name] = ended(truth, truth['duration'])
  return subsets, classes


def ended(truth, seconds) -> dict:
  """Returns the truth of a video whose length is known.

  Args:
    truth: see above; what is as long as its video ends at infinity.
    seconds: its length, at which that ends now.
  """
  return {'duration': seconds, **{key: [
      (row[0], seconds if row[1] == math.inf else row[1], *row[2:])
      for row in truth[key]] for key in ('segments', 'ambiguous')}}


def find_names(names, videos) -> dict:
  """Returns {name: what annotations call the video, or None}.

  Endings of video files do not count, nor folders that one of both leaves out,
  nor the `v_` with which ActivityNet's files begin and its annotations do not.

  Args:
    names: of videos.
    videos: names in the annotations.

  Raises:
    ValueError: a name may be that of two videos.
  """
  known = {}
  for video in videos:
    known.setdefault(_parts(video)[-1], []).append(video)
  found = {}
  for name in set(names):
    *place, stem = _parts(name)
    fits = [video for video in known.get(
        stem, known.get(stem.removeprefix('v_'), ()))
            if all(a == b for a, b in zip(
                reversed(place), reversed(_parts(video)[:-1])))]
    if name not in videos and len(fits) > 1:
      raise ValueError(f'{name} may be the video {fits[0]} or {fits[1]}; write '
                       'its whole name')
    found[name] = name if name in videos else fits[0] if fits else None
  return found


def _parts(name):
  """Returns folders and name of a video, without the ending of a file."""
  if folders.is_video(name):
    name = os.path.splitext(name)[0]
  return [part for part in name.split('/') if part not in ('', '.')] or [name]


def read_detections(path, annotations) -> dict:
  """Reads detected segments.

  Args:
    path: JSON in the layout of ActivityNet (`results`), a CSV table with the
      columns video, start, end, label and score, a text file of THUMOS'14
      (lines `video start end class-number score`), or an `.npz` file of arrays
      of these names.
    annotations: what the detections are about. Classes are names or, in
      `.npz` files, numbers from 0. Videos that are numbers, as in `.npz` files
      of THUMOS'14, are those whose names end in them.

  Returns:
    Dict of arrays of N rows, in the order of the file: `video` (names),
    `start`, `end` (seconds), `label` (class numbers) and `score`.

  Raises:
    ValueError: the file is missing or none of these, or a class is unknown;
      one sentence.
  """
  kind = os.path.splitext(path)[1]
  if kind == '.npz':
    return _read_arrays(path, annotations)
  if kind == '.csv':
    columns = ('video', 'start', 'end', 'label', 'score')
    rows = [(where, *(row[c] for c in columns))
            for where, row in _rows(path, columns)]
  elif kind == '.txt':
    rows = list(_thumos14_rows(path))
  else:
    rows = list(_result_rows(path))
  places = {name: i for i, name in enumerate(annotations.classes)}
  check_classes(path, {row[4] for row in rows}, annotations.classes)
  return {'video': _known_as([row[1] for row in rows], annotations),
          **{key: np.asarray([_number(row[i], row[0]) for row in rows], float)
             for key, i in (('start', 2), ('end', 3), ('score', 5))},
          'label': np.asarray([places[row[4]] for row in rows], int)}


def _known_as(names, annotations):
  """Returns names of videos as the annotations have them, if they do."""
  known = find_names(names, annotations.videos)
  return np.asarray([known[name] or name for name in names], str)


def _thumos14_rows(path):
  """Yields (where, video, start, end, class, score)."""
  classes = {str(number): name for name, number in THUMOS14.items()}
  for number, line in enumerate(lists.read_lines(path, 'detections'), 1):
    words = line.split()
    where = f'{path}, line {number}'
    if not words:
      continue
    if len(words) != 5:
      raise ValueError(f"{where}: it is not 'video start end class score'")
    yield where, *words[:3], classes.get(words[3], words[3]), words[4]


def _result_rows(path):
  """Yields (where, video, start, end, class, score)."""
  results = _load_json(path).get('results')
  if not isinstance(results, dict):
    raise ValueError(f'{path}: it has no results, as ActivityNet has')
  for video, found in results.items():
    _check_is(list, found, path, f'what is found in {video}')
    for i, one in enumerate(found):
      where = f'{path}, detection {i} of {video}'
      try:
        yield (where, video, *one['segment'][:2], str(one['label']),
               one['score'])
      except (KeyError, IndexError, TypeError):
        raise ValueError(f'{where}: it is not {{label, score, segment}}'
                        ) from None


def _read_arrays(path, annotations):
  keys = ('video', 'start', 'end', 'label', 'score')
  try:
    with np.load(path, allow_pickle=False) as data:
      columns = {key: data[key] for key in keys}
  except FileNotFoundError:
    raise ValueError(f'{path}: no such file') from None
  except (KeyError, ValueError, OSError, EOFError,
          zipfile.BadZipFile) as error:
    raise ValueError(f'{path}: it holds no detections '
                     f'({str(error)[:80]})') from None
  for key in ('start', 'end', 'score'):
    if columns[key].dtype.kind not in 'fiu':
      raise ValueError(f'{path}: {key} holds '
                       f'{str(columns[key].ravel()[:1])[:40]}; it must be '
                       'numbers')
  if columns['video'].dtype.kind in 'iu':
    by_number = {}
    for name in annotations.videos:
      digits = re.search(r'\d+$', name)
      if digits:
        by_number.setdefault(int(digits[0]), []).append(name)
    double = next((v for v in by_number.values() if len(v) > 1), None)
    if double:
      raise ValueError(f'{path}: its videos are numbers, but {double[0]} and '
                       f'{double[1]} end in the same; write names')
    columns['video'] = np.asarray([
        by_number.get(number, [str(number)])[0]
        for number in columns['video'].tolist()])
  else:
    columns['video'] = _known_as(list(map(str, columns['video'])), annotations)
  if columns['label'].dtype.kind not in 'iu':
    labels = [str(label) for label in columns['label']]
    check_classes(path, labels, annotations.classes)
    columns['label'] = np.asarray(
        [annotations.classes.index(label) for label in labels], int)
  return columns
