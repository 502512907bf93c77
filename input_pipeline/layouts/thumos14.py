"""THUMOS'14: segments of actions in untrimmed videos."""

from input_pipeline import annotations
from input_pipeline import storage
from input_pipeline.layouts import listing


def read(folder):
  """Reads the temporal annotations, `CLASS_val.txt` and `CLASS_test.txt`.

  The twenty classes are sorted by name. Ambiguous segments make lists of their
  own, without labels. Background videos are listed if there are any.

  Args:
    folder: holds the annotations, and the videos, whose places below it do not
      matter if those of one set lie together.

  Returns:
    listing.Listing; segments are in seconds.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  folder = folder.rstrip('/')
  splits, names = {}, {}
  for split, (_, end) in annotations.THUMOS14_SUBSETS.items():
    place, found = listing.find_ending(folder, f'_{end}.txt')
    names[split] = sorted(set(found) - {'Ambiguous'})
    if names[split] != names['train']:
      raise ValueError(f'{place} is of other classes than the annotations of '
                       'the validation set')
    for name in (*names[split], 'Ambiguous'):
      key = split if name != 'Ambiguous' else f'{split}_ambiguous'
      label = names['train'].index(name) if key == split else None
      rows = splits.setdefault(key, [])
      if name in found:
        rows += _rows(storage.join(place, f'{name}_{end}.txt'), split, label)
  places = _places(folder)
  splits = {key: tuple(
      listing.Row(places.get(row.path, row.path), row.label, row.segment)
      for row in rows) for key, rows in splits.items()}
  background = sorted(path for name, path in places.items()
                      if name.startswith('video_background_'))
  if background:
    splits['background'] = tuple(listing.Row(p, None) for p in background)
  return listing.Listing(
      "THUMOS'14", folder, tuple(names['train']), splits,
      {'train': 3007, 'test': 3358, 'train_ambiguous': 89,
       'test_ambiguous': 99, 'classes': 20}
      | ({'background': 2500} if background else {}),
      'segments of the validation videos train, those of the test videos '
      'evaluate', unit='seconds')


def _rows(path, split, label):
  for video, *times in annotations.thumos14_rows(path, split):
    yield listing.Row(f'{video}.mp4', label, tuple(times))


def _places(folder):
  """Returns {file name: path relative to the folder} of the videos."""
  found = {}
  for place, names in listing.walk(folder):
    below = place[len(folder):].lstrip('/')
    for name in names:
      if name.startswith('video_') and name.endswith('.mp4'):
        found.setdefault(name, '/'.join(filter(None, (below, name))))
  return found
