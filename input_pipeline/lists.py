"""Readers of the text files that name a data set's videos and classes."""

import csv
import dataclasses
import re

from absl import logging

from input_pipeline import decode
from input_pipeline import storage


@dataclasses.dataclass(frozen=True)
class Item:
  """A video as a list or folder names it, not yet looked at.

  Attributes:
    name: its path relative to the data's root; of a segment of a longer video
      PATH@START-STOP.
    path: where it should be.
    label: label as written, a number or a class name; None if there is none.
      With several heads a tuple of those, in the order of the heads' names; of
      a set with any number of labels a tuple of the texts there are.
    num_frames: frame count as written, or None.
    where: what to name in an error: the folder, or the file and line.
    segment: (start, stop) as written, stop being the first that is not in it;
      None takes the whole video.
    unit: of `segment`: 'frames', from 0, or 'seconds' from the first frame.
    entry: what is known of the whole video without looking at it, or None.
  """

  name: str
  path: str
  label: str | tuple[str | None, ...] | None
  num_frames: int | None
  where: str
  segment: tuple[float, float] | None = None
  unit: str = 'frames'
  entry: decode.IndexEntry | None = None

  @property
  def video(self):
    """Name of the whole video."""
    return self.name if self.segment is None else (
        self.name.rpartition('@')[0])


def is_integer(text):
  """Tells whether a label is written as a number."""
  return re.fullmatch(r'-?\d+', text) is not None


def split_labels(text, separator):
  """Parts the labels of a video; there may be none."""
  return tuple(part for part in map(str.strip, text.split(separator)) if part)


def read_classes(path, key='data.classes'):
  """Reads class names, one a line.

  Args:
    path: text file; its line order is the order of the labels.
    key: what to call it in errors.

  Returns:
    tuple of names.

  Raises:
    ValueError: missing file, empty line or a name that stands twice.
  """
  lines = read_lines(path, key)
  while lines and not lines[-1].strip():
    lines.pop()
  names = {}
  for number, line in enumerate(lines, 1):
    name = line.strip()
    if not name:
      raise ValueError(f'{path}, line {number}: an empty class name')
    if name in names:
      raise ValueError(f'{path}, line {number}: class {name!r} stands twice, '
                       f'before in line {names[name]}')
    names[name] = number
  if not names:
    raise ValueError(f'{path}: it names no class')
  return tuple(names)


def read_list(path, root, classes, split, is_video=None, separator='',
              may_lack=False):
  """Reads lines `path label` or `path num_frames label`.

  Paths, and class names where `classes` are given, may hold spaces: of the ways
  to read a line, one whose path exists is taken. In evaluation a line may be a
  path alone: an unlabelled video; or, of a set with any number of labels, one
  that has none of the classes.

  Args:
    path: the list.
    root: directory that the paths are relative to.
    classes: class names, () if not known.
    split: 'train' or 'eval'.
    is_video: function that tells whether there is a video of a name; None looks
      for its path.
    separator: what parts the labels of a video that may have any number; '' if
      it has one.
    may_lack: training lines may be a path alone, too.

  Returns:
    list of Item.

  Raises:
    ValueError: missing list, or lines that cannot be parsed; it names all.
  """
  if is_video is None:
    def is_video(name):
      return storage.exists(storage.join(root, name))
  items, mistakes = [], []
  path_alone = split == 'eval' or may_lack or bool(separator)
  for number, line in enumerate(read_lines(path, f'data.{split}_list'), 1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    readings = _readings(line.strip(), classes, path_alone, separator)
    if not readings:
      mistakes.append((number, f"{where}: {line.strip()!r} is neither 'path "
                       "label' nor 'path num_frames label'"))
      continue
    name, label, num_frames = next(
        (r for r in readings if is_video(r[0])), readings[0])
    if separator:
      label = split_labels(label or '', separator)
    items.append(
        Item(name, storage.join(root, name), label, num_frames, where))
  _check_lines(mistakes)
  return items


def _check_lines(mistakes):
  """Raises ValueError with the first of [(line, sentence)], and all lines."""
  if mistakes:
    (_, sentence), *others = mistakes
    lines = ', '.join(str(number) for number, _ in others)
    raise ValueError(sentence + (
        f'; these lines cannot be read either: {lines}' if others else ''))


def read_csv(path, config_data, split):
  """Reads a CSV file with a header.

  Args:
    path: the file.
    config_data: the section `data` of the configuration; its keys `csv_*` name
      the columns and the values of the split column.
    split: 'train' or 'eval'.

  Returns:
    list of Item. In evaluation, or with `missing_labels` 'skip', an empty label
    is an unlabelled video; of a set with any number of labels it is a video
    that has none of the classes. Segments that stand twice are told
    apart: the second is PATH@START-STOP.2.

  Raises:
    ValueError: missing file, column or value; lines that cannot be read are
      named, and those without a label counted.
  """
  rows = csv.DictReader(read_lines(path, f'data.{split}_list', keepends=True))
  header = rows.fieldnames or []
  if config_data.csv_unit not in ('frames', 'seconds'):
    raise ValueError("data.csv_unit must be 'frames' or 'seconds', not "
                     f'{config_data.csv_unit!r}')
  if bool(config_data.csv_start) != bool(config_data.csv_stop):
    raise ValueError('data.csv_start and data.csv_stop go together: name both '
                     'columns, or none')
  heads = {f'csv_labels.{head}': config_data.csv_labels[head]
           for head in sorted(config_data.csv_labels)}
  of_label = heads or {'csv_label': config_data.csv_label}
  columns = {key: config_data[key]
             for key in ('csv_path', 'csv_frames', 'csv_split', 'csv_start',
                         'csv_stop')}
  for key, column in {**columns, **of_label}.items():
    needed = split == 'train' if key in of_label else (
        column or key == 'csv_path')
    if needed and column not in header:
      raise ValueError(
          f'{path}: it has no column {column!r} (data.{key}); its columns are '
          f'{", ".join(header)}')
  values = {v.strip() for v in config_data[f'csv_{split}'].split(',')}
  items, lacking, mistakes = [], [], []
  for row in rows:
    number = rows.line_num
    where = f'{path}, line {number}'
    if config_data.csv_split and (
        (row[config_data.csv_split] or '').strip() not in values):
      continue
    name = (row[config_data.csv_path] or '').strip()
    texts = tuple((row.get(column) or '').strip() or None
                  for column in of_label.values())
    if not name:
      mistakes.append(
          (number, f'{where}: column {config_data.csv_path!r} is empty'))
      continue
    if config_data.labels == 'multi':
      label = (split_labels(texts[0] or '', config_data.label_separator)
               if config_data.csv_label in header else None)
    else:
      label = texts if heads else texts[0]
      lacking += [(where, column) for text, column in zip(
          texts, of_label.values(), strict=True) if text is None]
    frames = (row[config_data.csv_frames] or '').strip() if (
        config_data.csv_frames) else ''
    if frames and not (is_integer(frames) and int(frames) > 0):
      mistakes.append((number, f'{where}: {frames!r} is no frame count'))
      continue
    try:
      segment, suffix = _segment(row, config_data, where)
    except ValueError as error:
      mistakes.append((number, str(error)))
      continue
    items.append(Item(name + suffix, storage.join(config_data.root, name),
                      label, int(frames) if frames else None, where, segment,
                      config_data.csv_unit))
  _check_lines(mistakes)
  if lacking and split == 'train' and config_data.missing_labels == 'fail':
    where, column = lacking[0]
    more = len({line for line, _ in lacking}) - 1
    raise ValueError(
        f'{where}: column {column!r} is empty'
        + (f'; so it is in {more} more lines' if more else '')
        + ". Label these videos, or leave them out with "
        "data.missing_labels='skip'")
  if not items and config_data.csv_split:
    raise ValueError(
        f'{path}: no row has {" or ".join(sorted(values))} in column '
        f'{config_data.csv_split!r} (data.csv_{split})')
  return told_apart(items)


def _segment(row, config_data, where):
  """Returns a row's ((start, stop), '@START-STOP'), or (None, '')."""
  if not config_data.csv_start:
    return None, ''
  texts = [(row[config_data[key]] or '').strip()
           for key in ('csv_start', 'csv_stop')]
  if not any(texts):
    return None, ''
  kind = int if config_data.csv_unit == 'frames' else float
  try:
    start, stop = map(kind, texts)
    if not 0 <= start < stop < float('inf'):
      raise ValueError
  except ValueError:
    raise ValueError(
        f'{where}: {texts[0]!r} to {texts[1]!r} is no segment in '
        f'{config_data.csv_unit} (data.csv_start, data.csv_stop, '
        'data.csv_unit)') from None
  return (start, stop), f'@{texts[0]}-{texts[1]}'


def told_apart(items):
  """Numbers segments that stand twice; annotators overlap."""
  labels, again = {}, []
  for i, item in enumerate(items):
    if item.segment is None:
      continue
    seen = labels.setdefault(item.name, [])
    if item.label in seen:
      again.append(item)
    if seen:
      items[i] = dataclasses.replace(item, name=f'{item.name}.{len(seen) + 1}')
    seen.append(item.label)
  if again:
    logging.warning('%d segments stand twice with the same label, the first '
                    'at %s: %s', len(again), again[0].where, again[0].name)
  return items


def _readings(line, classes, path_alone, separator):
  """Returns the ways (path, label, num_frames) to read a line, best first."""
  words = [match.span() for match in re.finditer(r'\S+', line)]
  readings = []
  longest = len(words) if separator else (
      max((len(name.split()) for name in classes), default=1))
  for count in range(min(longest, len(words) - 1), 0, -1):
    label = line[words[-count][0]:]
    parts = split_labels(label, separator) if separator else (label,)
    if count > 1 and not all(part in classes or (separator and is_integer(part))
                             for part in parts):
      continue
    rest = words[:-count]
    last = line[slice(*rest[-1])]
    if len(rest) > 1 and last.isdecimal() and int(last) > 0:
      readings.append((line[:rest[-2][1]], label, int(last)))
    readings.append((line[:rest[-1][1]], label, None))
  if path_alone:
    # Last, as a list of `path label` may name missing files; first if the
    # line cannot be anything else.
    readings.append((line, None, None))
  return readings


def read_lines(path, key, keepends=False):
  """Reads the lines of a text file.

  Args:
    path: the file, in UTF-8.
    key: what to call it in errors.
    keepends: keep the lines' ends.

  Returns:
    list of str.

  Raises:
    ValueError: it is missing, no text file or not readable.
  """
  try:
    return storage.read_bytes(path).decode('utf-8-sig').splitlines(keepends)
  except FileNotFoundError:
    raise ValueError(f'{path}: no such file ({key})') from None
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: it is not a text file in UTF-8 ({key})'
                    ) from error
  except OSError as error:
    raise ValueError(f'{path}: it cannot be read, {error.strerror or error} '
                     f'({key})') from error
