"""Named data sets: lists from the files that their owners hand out.

`read` finds and parses what the owners wrote, `differences` compares it with
what was published, and `write` makes lists that `sources` reads. Anyone's own
folders and lists need none of this: `sources` takes them as they are.
"""

import csv
import dataclasses
import hashlib
import io
import shlex

from input_pipeline import storage
from input_pipeline.layouts import diving48
from input_pipeline.layouts import egocentric
from input_pipeline.layouts import kinetics
from input_pipeline.layouts import listing
from input_pipeline.layouts import something
from input_pipeline.layouts import thumos14
from input_pipeline.layouts import ucf_hmdb

READERS = {
    'diving48': diving48.read,
    'egtea': egocentric.read_egtea,
    'epic55': egocentric.read_epic55,
    'hmdb51': ucf_hmdb.read_hmdb51,
    'kinetics400': kinetics.read,
    'something_v1': something.read_v1,
    'something_v2': something.read_v2,
    'thumos14': thumos14.read,
    'ucf101': ucf_hmdb.read_ucf101,
}


def read(name, folder):
  """Reads a data set as its owners lay it out.

  Args:
    name: one of `READERS`.
    folder: holds annotations and videos, unpacked, in folders of any name.

  Returns:
    listing.Listing.

  Raises:
    ValueError: an unknown name, a file is missing, or a line is none of the
      format; names the file and the line.
  """
  if name not in READERS:
    raise ValueError(f'{name!r} is no data set that has a reader; there are '
                     f'{", ".join(sorted(READERS))}')
  found = READERS[name](str(folder))
  empty = [key for key in ('train', 'train1') if key in found.splits
           and not found.splits[key]]
  if empty:
    raise ValueError(f'{folder}: the list {empty[0]} of {found.name} is empty')
  for key, rows in found.splits.items():
    seen = set()
    for row in rows:
      if row in seen and row.segment is None:
        raise ValueError(f'{found.name}: {row.path} stands twice in {key}')
      seen.add(row)
  return found


def heads_of(found):
  """Returns {head: class names}; one head is called ''."""
  return found.classes if isinstance(found.classes, dict) else {
      '': found.classes}


def counts(found):
  """Returns {name of the list, or 'classes': number}, as `expected`."""
  names = {f'classes_{head}' if head else 'classes': len(names)
           for head, names in heads_of(found).items()}
  return {key: len(rows) for key, rows in found.splits.items()} | names


def digest(rows):
  """Hashes a list, whatever its order and wherever the videos lie.

  Args:
    rows: of listing.Row.

  Returns:
    SHA-256 of the sorted lines `path label`, and of segments their ends.
  """
  lines = sorted(' '.join(map(str, (row.path, row.label, *(row.segment or ()))))
                 for row in rows)
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def differences(found):
  """Compares annotations with what was published.

  Args:
    found: listing.Listing.

  Returns:
    sentences, one for each difference; none if all is as published.
  """
  wrong = []
  ours = counts(found)
  for key, number in found.expected.items():
    if ours[key] != number:
      wrong.append(f'{key}: {ours[key]} found, {number} were published')
    elif key in found.digests and (
        digest(found.splits[key]) != found.digests[key]):
      wrong.append(f'{key}: as many as were published, but not the same videos '
                   'or labels')
  return wrong


def missing(found):
  """Finds which videos are not there.

  Args:
    found: listing.Listing.

  Returns:
    sorted paths, relative to its root.
  """
  names = {}
  absent = set()
  for path in {row.path for rows in found.splits.values() for row in rows}:
    folder, _, name = path.rpartition('/')
    if folder not in names:
      try:
        names[folder] = set(storage.list_dir(
            storage.join(found.root, folder) if folder else found.root))
      except OSError:
        names[folder] = set()
    if name not in names[folder]:
      absent.add(path)
  return sorted(absent)


def without(found, paths):
  """Returns a listing that leaves videos out."""
  paths = set(paths)
  return dataclasses.replace(found, splits={
      key: tuple(row for row in rows if row.path not in paths)
      for key, rows in found.splits.items()})


def read_checked(name, folder, partial=False):
  """Reads a data set and insists that it is what was published.

  Args:
    name: see `read`.
    folder: see there.
    partial: take what is there.

  Returns:
    (listing.Listing, sentences of what differs); videos that are not there are
    left out.

  Raises:
    ValueError: it differs and `partial` is not set, nothing is there, or as
      `read`.
  """
  found = read(name, folder)
  wrong = differences(found)
  absent = missing(found)
  if absent:
    videos = {row.path for rows in found.splits.values() for row in rows}
    wrong.append(f'{len(absent)} of {len(videos)} videos are not below '
                 f'{found.root}: {", ".join(absent[:5])}'
                 f'{" ..." * (len(absent) > 5)}')
  if wrong and not partial:
    raise ValueError(f'{found.name} in {folder} is not what was published; '
                     '--partial takes what is there:\n  '
                     + '\n  '.join(wrong))
  found = without(found, absent)
  if not any(found.splits.values()):
    raise ValueError(f'{folder} holds no video of {found.name}')
  return found, wrong


def write(found, folder=''):
  """Writes lists and class names.

  Args:
    found: listing.Listing.
    folder: where to; '' takes its root.

  Returns:
    {name of a list: its file}, with the class names' called as in `expected`.
    Lists of segments and of several heads are CSV files, the others text.

  Raises:
    OSError: a file cannot be written.
  """
  heads = heads_of(found)
  files = {}
  for head, names in heads.items():
    key = f'classes_{head}' if head else 'classes'
    files[key] = f'{key}.txt', '\n'.join(names) + '\n'
  for key, rows in found.splits.items():
    if found.unit or '' not in heads:
      files[key] = f'{key}.csv', _as_csv(rows, [*heads])
    else:
      files[key] = f'{key}.txt', ''.join(
          row.path + ('' if row.label is None else f' {row.label}') + '\n'
          for row in rows)
  places = {}
  for key, (name, text) in files.items():
    places[key] = storage.join(folder or found.root, name)
    storage.write_bytes(places[key], text.encode())
  return places


def _as_csv(rows, heads):
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['path', *(head or 'label' for head in heads), 'start',
                   'stop'])
  for row in rows:
    label = row.label if isinstance(row.label, tuple) else (row.label,)
    writer.writerow([row.path, *label, *(row.segment or ('', ''))])
  return text.getvalue()


def keys(found, places):
  """Returns what a configuration needs to read written lists.

  Args:
    found: listing.Listing.
    places: what `write` returned.

  Returns:
    {key of the configuration: text}, such as {'data.root': 'VIDEOS'}; the
    first list trains, and the first other for validation or test evaluates.
  """
  names = list(found.splits)
  train = names[0]
  held = next((n for n in names if n.startswith(('val', 'test'))), train)
  values = {'root': found.root, 'train_list': places[train],
            'eval_list': places[held]}
  if 'classes' in places:
    values['classes'] = places['classes']
  else:
    for head in found.classes:
      values[f'csv_labels.{head}'] = head
      values[f'head_classes.{head}'] = places[f'classes_{head}']
  if found.unit:
    values |= {'csv_start': 'start', 'csv_stop': 'stop',
               'csv_unit': found.unit}
  return {f'data.{key}': value
          for key, value in (values | found.settings).items()}


def flags(found, places):
  """Returns `keys` as flags of main.py, such as '--config.data.root=VIDEOS'."""
  return [f'--config.{key}={shlex.quote(value)}'
          for key, value in keys(found, places).items()]


Listing = listing.Listing
Row = listing.Row
