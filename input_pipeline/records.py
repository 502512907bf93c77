"""Prepared data sets: encoded videos in shards, and what is known of each.

A prepared folder is one of TensorFlow Datasets', `.../NAME/VERSION`:
  NAME-SPLIT.array_record-00000-of-00008: a tf.train.Example for each video:
    `name`, `labels` (texts), `label_ids`, `suffix`, `num_frames`, and `video`,
    the bytes of the encoded video, or of a ZIP archive of its frames.
  NAME-SPLIT-00000-of-00008.json: the rows of that shard, see `Row`.
  dataset_info.json, features.json: what TensorFlow Datasets knows of it.
  catalog.json: classes, splits and what was dropped; written last.
"""

import concurrent.futures
import dataclasses
import json
import os
import re
import tempfile

from input_pipeline import decode
from input_pipeline import index
from input_pipeline import labels
from input_pipeline import lists
from input_pipeline import storage

CATALOG = 'catalog.json'
VERSION = '1.0.0'
# Name of the only split of a set that is not split, or whose splits overlap.
WHOLE = 'videos'
# Of the layout of the JSON files.
_LAYOUT = 1
_NAME = re.compile(r'[a-z][a-z0-9_]*')


@dataclasses.dataclass(frozen=True)
class Row:
  """A video, or a segment of one, in a shard.

  Attributes:
    name: as in the data set that was prepared.
    record: number of the record that holds it; None if it was dropped.
    label: its label as text; texts for several heads or labels; None.
    entry: `decode.IndexEntry` of what the record holds, or why it was dropped.
    segment: first frame and first after it, if it is a part of that.
  """

  name: str
  record: int | None
  label: str | tuple[str, ...] | None
  entry: decode.IndexEntry
  segment: tuple[int, int] | None = None

  def to_json(self):
    """Returns plain values; what is usual is left out."""
    usual = decode.IndexEntry()
    entry = {field: value
             for field, value in dataclasses.asdict(self.entry).items()
             if value != getattr(usual, field)}
    return {'name': self.name, 'record': self.record, 'label': self.label,
            **({'segment': self.segment} if self.segment else {}),
            'entry': entry}

  @classmethod
  def from_json(cls, values):
    """Reads back what `to_json` returned."""
    label = values['label']
    segment = values.get('segment')
    return cls(values['name'], values['record'],
               tuple(label) if isinstance(label, list) else label,
               index.entry_from_row(values['entry']),
               tuple(segment) if segment else None)


@dataclasses.dataclass(frozen=True)
class Entry:
  """What a catalog knows of a video; see `Row`.

  Attributes:
    place: of its record (see `storage`); '' if it was dropped.
    split: of the prepared set.
  """

  name: str
  place: str
  split: str
  label: str | tuple[str, ...] | None
  entry: decode.IndexEntry
  segment: tuple[int, int] | None


def check_name(name):
  """Raises ValueError unless a data set may be called so."""
  if not _NAME.fullmatch(name):
    raise ValueError(f'{name!r} cannot name a data set: take small letters, '
                     'digits and _, a letter first')


def shard_file(name, split, number, count):
  """Returns the file name of a shard."""
  return f'{name}-{split}.array_record-{number:05d}-of-{count:05d}'


def rows_file(shard):
  """Returns the name of the file that holds a shard's rows."""
  return shard.replace('.array_record', '') + '.json'


def is_prepared(root):
  """Tells whether a folder is a prepared data set, complete."""
  return bool(root) and storage.exists(storage.join(root, CATALOG))


def read_header(root):
  """Reads what a prepared folder says of the whole set.

  Args:
    root: the folder.

  Returns:
    dict: `name`, `recipe`, `classes` (list of names, or {head: list}), `splits`
    ({name: [{'shard', 'records', 'sha256'}]}).

  Raises:
    ValueError: the folder is damaged, or of another version.
  """
  return read_json(storage.join(root, CATALOG))


def read_catalog(root):
  """Reads what is known of each video of a prepared folder.

  Args:
    root: the folder.

  Returns:
    {name: Entry}, in the order of the data set that was prepared.

  Raises:
    ValueError: the folder is damaged, or of another version.
  """
  shards = [(split, storage.join(root, part['shard']))
            for split, parts in read_header(root)['splits'].items()
            for part in parts]
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    files = pool.map(lambda shard: read_json(rows_file(shard[1])), shards)
  found = {}
  rows = [(split, shard, row) for (split, shard), content in zip(
      shards, files, strict=True) for row in content['rows']]
  order = {split: i for i, (split, _) in enumerate(shards)}
  # Segments of a file stand together, wherever they are in the list.
  rows.sort(key=lambda row: (order[row[0]], row[2]['number']))
  for split, shard, values in rows:
    row = Row.from_json(values)
    place = '' if row.record is None else (
        storage.record_path(shard, row.record))
    found[row.name] = Entry(
        row.name, place, split, row.label, row.entry, row.segment)
  return found


def open_prepared(root):
  """Returns the `Prepared` of a folder, None if it is no prepared one.

  Raises:
    ValueError: the folder is damaged, or of another version.
  """
  return Prepared(root) if is_prepared(root) else None


class Prepared:
  """A prepared folder, in which videos are found by their names.

  Attributes:
    classes: names of the classes, or {head: names}.
    splits: names of the splits.
    catalog: {name: Entry}.
  """

  def __init__(self, root):
    header = read_header(root)
    self.classes = labels.ordered(header['classes'])
    self.splits = tuple(header['splits'])
    self.catalog = read_catalog(root)
    self._root = root

  def items(self, split):
    """Returns the `lists.Item`s of a split, in the order of the set."""
    return [self.find(lists.Item(name, '', entry.label, None, self._root))
            for name, entry in self.catalog.items() if entry.split == split]

  def find(self, item):
    """Returns a `lists.Item` with its place and what is known of it."""
    own, whole = map(self.catalog.get, (item.name, item.video))
    if own:
      return dataclasses.replace(
          item, path=own.place, segment=own.segment, unit='frames',
          entry=own.entry)
    if whole:
      return dataclasses.replace(item, path=whole.place, entry=whole.entry)
    return dataclasses.replace(item, entry=decode.IndexEntry(
        error='the prepared folder does not hold it'))


def read_json(place):
  """Reads a file that `write_json` wrote.

  Raises:
    ValueError: it is missing, damaged or of another version.
  """
  try:
    content = json.loads(storage.read_bytes(place))
    layout = content.get('layout')
  except (OSError, ValueError, AttributeError) as error:
    raise ValueError(f'{place} cannot be read ({error}); run vidattn prepare '
                     'again') from error
  if layout != _LAYOUT:
    raise ValueError(f'{place} is of version {layout}, this program reads '
                     f'{_LAYOUT}; prepare the data set anew')
  return content


def write_json(place, content):
  """Writes a dict of plain values, one row of `rows` a line."""
  rows = content.pop('rows', None)
  text = json.dumps({'layout': _LAYOUT, **content}, indent=1, sort_keys=True,
                    ensure_ascii=False)
  if rows is not None:
    lines = ',\n  '.join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = f'{text[:-2]},\n "rows": [\n  {lines}\n ]\n}}'
  storage.write_bytes(place, (text + '\n').encode())


def write_catalog(root, name, classes, recipe, contents):
  """Writes what tells that a folder is a whole prepared set.

  Args:
    root: the folder, with all shards and their rows in it.
    name: of the data set.
    classes: as `read_header` returns them.
    recipe: plain values, how it was made.
    contents: {split: [content of the file of rows]} of its shards.
  """
  full = {split: [(part['records'], part['bytes']) for part in parts]
          for split, parts in contents.items()}
  _write_tfds_metadata(root, name, full)
  write_json(storage.join(root, CATALOG), {
      'name': name, 'classes': classes, 'recipe': recipe,
      'splits': {split: [
          {key: part[key] for key in ('shard', 'records', 'sha256')}
          for part in parts] for split, parts in contents.items()}})


def _write_tfds_metadata(root, name, splits):
  """Writes the files from which TensorFlow Datasets knows the folder."""
  # It takes half a second of the processor to import; readers need nothing
  # of it.
  import numpy as np
  import tensorflow_datasets as tfds
  features = tfds.features.FeaturesDict({
      'name': tfds.features.Text(),
      'labels': tfds.features.Sequence(tfds.features.Text()),
      'label_ids': tfds.features.Sequence(np.int64),
      'suffix': tfds.features.Text(),
      'num_frames': tfds.features.Scalar(np.int64),
      storage.VIDEO: tfds.features.Tensor(shape=(), dtype=np.object_),
  })
  with tempfile.TemporaryDirectory() as folder:
    # It knows fewer stores than we do, and asks for names of shards only.
    for split, shards in splits.items():
      for i in range(len(shards)):
        file = shard_file(name, split, i, len(shards))
        open(os.path.join(folder, file), 'wb').close()
    infos = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=[records for records, _ in shards],
            num_bytes=sum(size for _, size in shards),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=name, split=split,
                filetype_suffix='array_record'))
        for split, shards in splits.items()]
    # Its check of the data would need TensorFlow.
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos,
        version=VERSION, check_data=False,
        description='Encoded videos, prepared by vidattn_jax.')
    for file in sorted(os.listdir(folder)):
      if file.endswith('.json'):
        with open(os.path.join(folder, file), 'rb') as written:
          storage.write_bytes(storage.join(root, file), written.read())
