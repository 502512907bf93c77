"""What a data set says of itself, and how its files are found."""

import csv
import dataclasses
import json
import re

from input_pipeline import lists
from input_pipeline import storage

# Folders with more entries than this hold videos or frames, no annotations.
_MANY = 1000
# Folders below the one named in which files are looked for.
_DEPTH = 4
# Videos that are asked for when their folder is looked for.
_SAMPLE = 20
_NOWHERE = ('neither itself nor in a folder below; unpack what the owners hand '
            'out (docs/data.md tells what)')
# Ends of names that are no folders', so that no one is asked.
_FILES = ('.avi', '.csv', '.jpg', '.json', '.mp4', '.pkl', '.png', '.rar',
          '.tar', '.tgz', '.txt', '.webm', '.zip')


@dataclasses.dataclass(frozen=True)
class Row:
  """A video, or a segment of one.

  Attributes:
    path: the video relative to the folder of videos, with /.
    label: class number; of several heads a tuple, in the order of
      `Listing.classes`; None if unlabelled.
    segment: (start, stop) in the unit of the listing, as it will be written;
      None for the whole video.
  """

  path: str
  label: int | tuple[int, ...] | None
  segment: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
  """A data set as its owners hand it out.

  Attributes:
    name: its title.
    root: the folder that holds the videos.
    classes: class names in the order of the labels, or {head: names}.
    splits: {name of the list: rows}, such as 'train1'.
    expected: {name of the list: number of rows}, as published; the number of
      classes is called 'classes', of a head 'classes_HEAD'.
    rule: how it is split.
    unit: 'frames' (from 0, the stop is not in it) or 'seconds', if there are
      segments.
    settings: {key of a configuration's `data`: value} that the files ask for.
    digests: {name of the list: SHA-256}, see `datasets.digest`.
  """

  name: str
  root: str
  classes: tuple[str, ...] | dict[str, tuple[str, ...]]
  splits: dict[str, tuple[Row, ...]]
  expected: dict[str, int]
  rule: str
  unit: str = ''
  settings: dict[str, str] = dataclasses.field(default_factory=dict)
  digests: dict[str, str] = dataclasses.field(default_factory=dict)


def walk(folder):
  """Yields (folder, set of its names), the nearest first.

  Folders of very many entries are not gone into.

  Raises:
    ValueError: the folder cannot be read.
  """
  level = [folder]
  for depth in range(_DEPTH + 1):
    below = []
    for place in level:
      try:
        names = storage.list_dir(place)
      except OSError as error:
        if place == folder:
          raise ValueError(f'{folder}: {error.strerror or error}; name the '
                           'folder that holds the data set') from error
        continue
      yield place, set(names)
      if len(names) <= _MANY and depth < _DEPTH:
        below += [storage.join(place, name) for name in names
                  if not name.lower().endswith(_FILES)
                  and storage.is_dir(storage.join(place, name))]
    level = below


def find(folder, *names, optional=False):
  """Finds a file of the owners, in the folder or below.

  Args:
    folder: where to look.
    *names: what it may be called, with / for folders above it.
    optional: return '' if there is none.

  Returns:
    its path.

  Raises:
    ValueError: there is none.
  """
  for place, found in walk(folder):
    for name in names:
      if name.partition('/')[0] in found and (
          storage.exists(storage.join(place, name))):
        return storage.join(place, name)
  if optional:
    return ''
  raise ValueError(f'{folder} holds no {" or ".join(names)}, {_NOWHERE}')


def find_ending(folder, end):
  """Finds the folder that holds files whose names end alike.

  Args:
    folder: where to look, itself or below.
    end: how they end.

  Returns:
    (the folder, sorted names without their end).

  Raises:
    ValueError: there is none.
  """
  for place, names in walk(folder):
    stems = sorted(n.removesuffix(end) for n in names if n.endswith(end))
    if stems:
      return place, stems
  raise ValueError(f'{folder} holds no *{end}, {_NOWHERE}')


def find_root(folder, paths):
  """Finds the folder to which the paths of videos are relative.

  Args:
    folder: where to look, itself or below.
    paths: the paths; some may be missing.

  Returns:
    (the folder, how many of a sample of the paths are there); `folder` itself
    and 0 if none is anywhere.
  """
  step = max(len(paths) // _SAMPLE, 1)
  sample = list(paths)[::step]
  best = folder, 0
  for place, names in walk(folder):
    there = sum(path.partition('/')[0] in names
                and storage.exists(storage.join(place, path))
                for path in sample)
    if there > best[1]:
      best = place, there
    if there == len(sample):
      break
  return best


def rows_of(path, columns=None):
  """Yields ('file, line N', words) of the lines that are not empty.

  Args:
    path: text file.
    columns: number of words that a line must have; None takes any.

  Raises:
    ValueError: a line has another number of words.
  """
  for number, line in enumerate(lists.read_lines(path, 'a list'), 1):
    words = line.split()
    where = f'{path}, line {number}'
    if words and columns and len(words) != columns:
      raise ValueError(f'{where}: {line.strip()!r} has {len(words)} words, not '
                       f'{columns}')
    if words:
      yield where, words


def semicolons(path):
  """Yields ('file, line N', fields) of lines parted by semicolons."""
  for number, line in enumerate(lists.read_lines(path, 'a list'), 1):
    if line.strip():
      yield f'{path}, line {number}', [f.strip() for f in line.split(';')]


def csv_rows(path, columns):
  """Yields ('file, line N', dict) of a CSV file with a header.

  Args:
    path: the file.
    columns: names that the header must have.

  Raises:
    ValueError: a column is missing, or a line is too short.
  """
  reader = csv.DictReader(lists.read_lines(path, 'a list', keepends=True))
  missing = [c for c in columns if c not in (reader.fieldnames or ())]
  if missing:
    raise ValueError(f'{path}: it has no column {missing[0]!r}; its columns '
                     f'are {", ".join(reader.fieldnames or ())}')
  for row in reader:
    where = f'{path}, line {reader.line_num}'
    if any(row[c] is None for c in columns):
      raise ValueError(f'{where}: it has too few columns')
    yield where, row


def read_json(path, kind):
  """Reads a JSON file.

  Args:
    path: the file.
    kind: list or dict, what it must hold.

  Raises:
    ValueError: it is no JSON, or holds something else.
  """
  try:
    content = json.loads('\n'.join(lists.read_lines(path, 'a list')))
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}: it is no JSON ({error})') from error
  if not isinstance(content, kind):
    raise ValueError(f'{path}: it holds no {kind.__name__}')
  return content


def number(text, count, where, first=0):
  """Reads a class number.

  Args:
    text: the number as written, text or int.
    count: number of classes.
    where: what to name in an error.
    first: what the owners' numbers count from.

  Returns:
    int from 0.

  Raises:
    ValueError: it is none of the classes.
  """
  if not re.fullmatch(r'\d+', str(text)) or not (
      first <= int(text) < count + first):
    raise ValueError(f'{where}: {text!r} is no class number from {first} to '
                     f'{count + first - 1}')
  return int(text) - first
