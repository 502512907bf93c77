"""Kinetics-400."""

from input_pipeline import storage
from input_pipeline.layouts import listing

_FILES = {'train': ('train.csv', 'kinetics-400_train.csv',
                    'kinetics_train.csv'),
          'val': ('validate.csv', 'val.csv', 'kinetics-400_val.csv',
                  'kinetics_val.csv')}
_FOLDERS = {'train': ('train', 'train_256', ''),
            'val': ('val', 'validate', 'val_256', '')}


def read(folder):
  """Reads the CSV files of the training and validation set.

  Clips are YOUTUBEID_SSSSSS_EEEEEE.mp4, in the folder of their class (with
  spaces or _) or not, in train/ and val/ or not.

  Args:
    folder: holds the CSV files and the clips.

  Returns:
    listing.Listing; classes are sorted by name.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  found = {kind: list(listing.csv_rows(
      listing.find(folder, *_FILES[kind]),
      ('label', 'youtube_id', 'time_start', 'time_end'))) for kind in _FILES}
  classes = tuple(sorted(
      {row['label'].strip('"') for _, row in found['train']}))
  ids = {name: i for i, name in enumerate(classes)}
  root = _root(folder)
  names = _Names(root)
  splits = {}
  for kind, rows in found.items():
    splits[kind] = []
    for where, row in rows:
      label = row['label'].strip('"')
      if label not in ids:
        raise ValueError(f'{where}: {label!r} is no class of the training set')
      splits[kind].append(listing.Row(
          _place(names, kind, label, _file(row, where)), ids[label]))
  return listing.Listing(
      'Kinetics-400', root, classes,
      {key: tuple(rows) for key, rows in splits.items()},
      {'train': 246534, 'val': 19906, 'classes': 400},
      'that of the owners; the validation set evaluates')


def _file(row, where):
  try:
    start, stop = (int(float(row[key])) for key in ('time_start', 'time_end'))
  except ValueError:
    raise ValueError(f'{where}: {row["time_start"]!r} to {row["time_end"]!r} '
                     'are no seconds') from None
  return f'{row["youtube_id"]}_{start:06d}_{stop:06d}.mp4'


def _root(folder):
  """Returns the folder that holds train/ and val/, or all the clips."""
  for place, names in listing.walk(folder):
    if any(name in names for name in _FOLDERS['train'][:-1]) and any(
        name in names for name in _FOLDERS['val'][:-1]):
      return place
  return folder


class _Names:
  """The names in folders below a root, each listed once."""

  def __init__(self, root):
    self._root = root
    self._known = {}

  def __call__(self, folder):
    if folder not in self._known:
      try:
        self._known[folder] = set(storage.list_dir(
            storage.join(self._root, folder) if folder else self._root))
      except OSError:
        self._known[folder] = set()
    return self._known[folder]


def _place(names, kind, label, file):
  """Returns where a clip is, or where it would be in the first known folder."""
  tops = [top for top in _FOLDERS[kind] if not top or top in names('')]
  wanted = ''
  for top in tops:
    for name in (label, label.replace(' ', '_'), ''):
      folder = '/'.join(filter(None, (top, name)))
      path = '/'.join(filter(None, (folder, file)))
      if name and name not in names(top):
        continue
      if file in names(folder):
        return path
      wanted = wanted or path
  return wanted or f'{kind}/{label}/{file}'
