"""Makes a shard of a prepared data set: its videos, checked, and their rows."""

import dataclasses
import hashlib
import io
import os
import shutil
import tempfile
import threading
import time
import uuid

from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import index
from input_pipeline import records
from input_pipeline import reencode
from input_pipeline import shards
from input_pipeline import sources
from input_pipeline import storage
from input_pipeline import zips

# Folder, in that of the set, of what is not whole yet.
PARTS = '.parts'
# Ends the name of a file that tells how many videos a part holds.
COUNT = '.count'
_SUFFIX_OF_FRAMES = '.zip'


@dataclasses.dataclass(frozen=True)
class Job:
  """One shard to make.

  Attributes:
    root: the prepared folder.
    shard: its file name.
    groups: (place, ((number in the split, `lists.Item`), ...)) of each file.
    labels: {name of a video: class numbers}.
    recipe: what `make_recipe` returned.
    naming: see `DataSet`.
    owner: process whose end ends the work; None on other machines.
  """

  root: str
  shard: str
  groups: tuple
  labels: dict
  recipe: dict
  naming: tuple[str, int]
  owner: int | None = None


def make_shard(job):
  """Makes a shard and its file of rows, unless both are there, whole.

  Args:
    job: Job.

  Returns:
    The content of its file of rows.

  Raises:
    OSError: something cannot be written.
  """
  place = storage.join(job.root, job.shard)
  content = finished(job)
  if content:
    return content
  _end_with(job.owner)
  local = not storage.is_url(job.root)
  folder = (os.path.join(job.root, PARTS) if local
            else tempfile.mkdtemp(prefix='vidattn-'))
  part = os.path.join(folder, f'{job.shard}.{uuid.uuid4().hex}')
  rows, source_bytes, number, done = [], 0, 0, 0
  try:
    os.makedirs(folder, exist_ok=True)
    with shards.writing(part) as write:
      for path, items in job.groups:
        found, size = _records_of(path, items, job)
        source_bytes += size
        for example, of_record in found:
          if example is not None:
            write(shards.encode_example(example))
          rows += [(n, row if row.entry.error else
                    dataclasses.replace(row, record=number))
                   for n, row in of_record]
          number += example is not None
        done += len(items)
        if local:
          _tell_progress(f'{part}{COUNT}', done)
    digest, size = _digest_of_file(part)
    storage.put_file(part, place)
  finally:
    if not local:
      shutil.rmtree(folder, ignore_errors=True)
    for leftover in (part, f'{part}{COUNT}'):
      if os.path.exists(leftover):
        os.unlink(leftover)
  content = {
      'shard': job.shard, 'records': number, 'bytes': size, 'sha256': digest,
      'source_bytes': source_bytes, 'sources': _sizes_of(job),
      'recipe': job.recipe,
      'rows': [{'number': n, **row.to_json()} for n, row in sorted(
          rows, key=lambda pair: pair[0])]}
  records.write_json(records.rows_file(place), dict(content))
  return content


def _sizes_of(job):
  """Returns a hash of the sizes of the sources; '' if some are not there.

  Not of those in an object store, which would be asked for each, or of folders.
  """
  total = hashlib.sha256()
  for path, _ in job.groups:
    if not storage.is_url(path):
      try:
        size = '' if storage.is_dir(path) else os.path.getsize(path)
      except OSError:
        return ''
      total.update(os.fsencode(f'{os.path.basename(path)} {size}\n'))
  return total.hexdigest()


def finished(job, check_digest=True):
  """Returns the content of a shard's file of rows if both are there, whole.

  It is made anew if its sources have other sizes than when it was made; sources
  that are no longer there are no reason.

  Args:
    job: Job.
    check_digest: read the whole shard; not in an object store, which shows
      whole files only and would send it.

  Returns:
    dict, or None.
  """
  place = storage.join(job.root, job.shard)
  try:
    content = records.read_json(records.rows_file(place))
    sizes = content.get('sources')
    if content['recipe'] == job.recipe and (
        storage.status(place)[0] == content['bytes']) and (
            not sizes or _sizes_of(job) in ('', sizes)):
      known = not check_digest or storage.is_url(place) or (
          _digest_of_file(place)[0] == content['sha256'])
      return content if known else None
  except (OSError, ValueError, KeyError):
    pass
  return None


def _records_of(path, items, job):
  """Makes the records of one source.

  Returns:
    ([(example or None, [(number, Row)])], bytes of the source).
  """
  try:
    with containers.naming(path, containers.LIMITS, 'it cannot be read'):
      source = _Source(path, job.naming)
    if job.recipe['profile'] != 'copy':
      made = _made_anew(source, items, job)
    elif source.blob is None:
      made = [_copied_images(source, *item, job) for item in items]
    else:
      made = [_copied(source, items, job)]
    return made, source.size
  except decode.VideoError as error:
    return [(None, [(n, _dropped(item, error.reason)) for n, item in items])], 0


class _Source:
  """A video file or folder of frames, looked at.

  Attributes:
    path: its place.
    blob: bytes of a file; None of a folder.
    size: bytes read.
    entry: what probing tells; good.
  """

  def __init__(self, path, naming):
    self.path = path
    self._naming = naming
    self.blob = None
    self.size = 0
    if storage.is_dir(path):
      entry = decode.probe_folder(path, *naming)
    else:
      self.blob = storage.read_bytes(path)
      self.size = len(self.blob)
      entry = decode.probe(path, medium=io.BytesIO(self.blob))
    if entry.error:
      raise decode.VideoError(path, entry.error)
    self.entry = entry if self.blob is None else _with_hashes(
        entry, [self.blob])

  def images(self, start, stop):
    """Returns (name, bytes) of the images of frames."""
    template, first = self._naming
    names = [template.format(first + i) for i in range(start, stop)]
    files = [(name, storage.read_bytes(storage.join(self.path, name)))
             for name in names]
    self.size += sum(len(content) for _, content in files)
    return files

  def frames(self, rotate, spans):
    """Yields (number, frame) of the frames in some (start, stop) of `spans`."""
    wanted = sorted({i for span in spans for i in range(*span)})
    if self.blob is None:
      for i in wanted:
        name = self._naming[0].format(self._naming[1] + i)
        self.size += storage.status(storage.join(self.path, name))[0]
        yield i, decode.decode_folder(self.path, [i], *self._naming)[0]
      return
    numbers = set(wanted)
    for i, frame in enumerate(decode.iterate(self.path, rotate)):
      if i in numbers:
        yield i, frame
      if i == wanted[-1]:
        break


def _copied(source, items, job):
  """Returns (example, [(number, Row)]) of a file's bytes."""
  rows, good = [], []
  for number, item in items:
    start, length, _, reason = sources.extent(item, source.entry)
    if reason:
      rows.append((number, _dropped(item, reason)))
      continue
    good.append(item)
    rows.append((number, records.Row(
        item.name, None, item.label, source.entry,
        item.segment and (start, start + length))))
  if not good:
    return None, rows
  suffix = os.path.splitext(source.path)[1].lower()
  return _example(good, job, suffix, source.entry.num_frames,
                  source.blob), rows


def _copied_images(source, number, item, job):
  """Returns (example, [(number, Row)]) of unchanged images.

  Each segment has its own archive: a folder may hold hours.
  """
  start, length, _, reason = sources.extent(item, source.entry)
  if reason:
    return None, [(number, _dropped(item, reason))]
  files = source.images(start, start + length)
  entry = _with_hashes(
      dataclasses.replace(source.entry, num_frames=length),
      [content for _, content in files])
  example = _example([item], job, _SUFFIX_OF_FRAMES, length, zips.pack(files))
  return example, [(number, records.Row(item.name, None, item.label, entry))]


def _made_anew(source, items, job):
  """Encodes what the items take of a source, in one pass over it."""
  encoder = reencode.ENCODERS[job.recipe['profile']]
  results, pieces = {}, []
  for number, item in items:
    start, length, _, reason = sources.extent(item, source.entry)
    if reason:
      results[number] = None, [(number, _dropped(item, reason))]
    else:
      times = reencode.times_of(source.entry, start, length)
      pieces.append((start, start + length, number, item,
                     encoder(job.recipe, times)))
  if pieces:
    spans = [(start, stop) for start, stop, *_ in pieces]
    for i, frame in source.frames(job.recipe['rotate'], spans):
      for start, stop, _, _, piece in pieces:
        if start <= i < stop:
          piece.add(frame)
  for start, stop, number, item, piece in pieces:
    results[number] = _piece(piece, stop - start, number, item, job)
  return [results[number] for number, _ in items]


def _piece(piece, length, number, item, job):
  """Returns (example, [(number, Row)]) of a video made anew, checked."""
  blob = piece.finish()
  if piece.suffix == _SUFFIX_OF_FRAMES:
    entry = reencode.probe_archive(blob)
  else:
    entry = decode.probe(item.name, medium=io.BytesIO(blob))
  if entry.error or entry.num_frames != length:
    # The promise of this file: frame i is the source's frame i.
    reason = entry.error or (f'{entry.num_frames} of its {length} frames are '
                             'left after encoding')
    return None, [(number, _dropped(item, reason))]
  entry = _with_hashes(entry, [blob])
  row = records.Row(item.name, None, item.label, entry)
  return _example([item], job, piece.suffix, length, blob), [(number, row)]


def _example(items, job, suffix, num_frames, blob):
  """Returns the features of a record; of segments, those of all of them."""
  labels, ids = {}, set()
  for item in items:
    of_item = item.label if isinstance(item.label, tuple) else (item.label,)
    labels.update((text, None) for text in of_item if text is not None)
    ids.update(job.labels[item.name])
  if len(items) == 1:  # in the order of the heads
    ids = job.labels[items[0].name]
  name = items[0].name if len(items) == 1 else items[0].video
  return {'name': name, 'labels': tuple(labels), 'label_ids': list(ids),
          'suffix': suffix, 'num_frames': num_frames, storage.VIDEO: blob}


def _dropped(item, reason):
  return records.Row(item.name, None, item.label,
                     decode.IndexEntry(error=reason))


def _with_hashes(entry, blobs):
  """Returns an entry with what `index.build` finds for the same bytes."""
  files = [io.BytesIO(blob) for blob in blobs]
  return dataclasses.replace(
      entry, size=sum(map(len, blobs)), mtime_ns=0,
      digest=index.hash_ends(files, entry.num_frames),
      content=index.hash_all(files))


def _digest_of_file(path):
  with open(path, 'rb') as file:
    total = hashlib.file_digest(file, 'sha256').hexdigest()
    return total, file.tell()


def _tell_progress(path, count):
  try:
    with open(path, 'w', encoding='ascii') as file:
      file.write(str(count))
  except OSError:
    pass  # it is only told; what matters fails aloud


_watched = set()


def _end_with(owner):
  """Ends this process when the one that gives it work is gone."""
  if owner in (None, os.getpid()) or owner in _watched:
    return
  _watched.add(owner)

  def watch():
    while True:
      try:
        os.kill(owner, 0)
      except OSError:
        os._exit(1)
      time.sleep(0.5)
  threading.Thread(target=watch, daemon=True).start()
