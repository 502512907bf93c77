"""What is known of every video, kept in one JSON file between runs."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import tempfile
import time

from absl import logging

from input_pipeline import decode

# Of the file's layout; a file of another version is built anew.
_VERSION = 1
# Bytes of a file's head and tail that its digest covers.
_DIGEST_BYTES = 65536
# Seconds between saves, so that a killed run loses little of a long index.
_SAVE_SECONDS = 60


def build(paths, mode='decode', index_file='', threads=None,
          frame_template='{:05d}.jpg', first_frame=1):
  """Probes videos, asking only those that are new or changed.

  Probing runs in threads: FFmpeg works without the interpreter's lock, so they
  use all cores as processes would, and start at once.

  Args:
    paths: video files or frame folders.
    mode: 'decode' or 'header', see `decode.probe`.
    index_file: JSON file that keeps the result; '' keeps nothing. A file that
      cannot be parsed is built anew.
    threads: videos probed at the same time; None takes one a core.
    frame_template: file name by frame number, for frame folders.
    first_frame: number of the first frame in those names.

  Returns:
    dict from path to `decode.IndexEntry`, in the order of `paths`.

  Raises:
    ValueError: unknown mode.
  """
  if mode not in ('decode', 'header'):
    raise ValueError(f"data.index must be 'decode' or 'header', not {mode!r}")
  paths = list(dict.fromkeys(os.path.abspath(p) for p in paths))
  known = _load(index_file)
  # What a folder of frames holds depends on how its files are named.
  how = f'{frame_template}@{first_frame}'
  entries, stale = {}, []
  for path in paths:
    row = known.get(path)
    if row and _is_current(path, row, mode, how):
      entries[path] = _from_row(row)
    else:
      stale.append(path)
  if stale:
    logging.info('Indexing %d of %d videos.', len(stale), len(paths))
  last_save = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
    probes = {
        pool.submit(_probe, p, mode, frame_template, first_frame): p
        for p in stale
    }
    for done in concurrent.futures.as_completed(probes):
      path = probes[done]
      entries[path] = done.result()
      known[path] = dict(
          dataclasses.asdict(entries[path]), mode=mode, how=how)
      if time.monotonic() - last_save > _SAVE_SECONDS:
        _save(index_file, known)
        last_save = time.monotonic()
  if stale:
    _save(index_file, known)
  return {path: entries[path] for path in paths}


def fingerprint(items):
  """Hashes a set of videos, whatever its order and place on the disk.

  Args:
    items: (name, label, digest) of each video; label may be None.

  Returns:
    64 hexadecimal digits.
  """
  total = hashlib.sha256()
  for name, label, digest in sorted(items, key=str):
    total.update(json.dumps([name, label, digest]).encode())
  return total.hexdigest()


def _probe(path, mode, frame_template, first_frame):
  try:
    status = os.stat(path)
    if os.path.isdir(path):
      entry = decode.probe_folder(path, frame_template, first_frame)
      last = first_frame + max(entry.num_frames - 1, 0)
      files = [os.path.join(path, frame_template.format(n))
               for n in (first_frame, last)]
    else:
      entry = decode.probe(path, mode)
      files = [path]
    digest = '' if entry.error else _digest(files, entry.num_frames)
    return dataclasses.replace(
        entry, size=status.st_size, mtime_ns=status.st_mtime_ns, digest=digest)
  except FileNotFoundError:
    return decode.IndexEntry(error='no such file')
  except OSError as error:
    return decode.IndexEntry(error=f'unreadable ({error.strerror})')


def _digest(files, num_frames):
  digest = hashlib.sha256(str(num_frames).encode())
  for name in files:
    with open(name, 'rb') as file:
      size = file.seek(0, os.SEEK_END)
      digest.update(str(size).encode())
      for start in (0, max(size - _DIGEST_BYTES, 0)):
        file.seek(start)
        digest.update(file.read(_DIGEST_BYTES))
  return digest.hexdigest()


def _is_current(path, row, mode, how):
  try:
    status = os.stat(path)
  except OSError:
    return False
  return (row.get('size') == status.st_size and
          row.get('mtime_ns') == status.st_mtime_ns and
          row.get('mode') in ('decode', mode) and
          (row.get('codec') != 'folder' or row.get('how') == how))


def _from_row(row):
  fields = {f.name for f in dataclasses.fields(decode.IndexEntry)}
  values = {k: v for k, v in row.items() if k in fields}
  values['pts'] = tuple(tuple(run) for run in values['pts'])
  values['keyframes'] = tuple(values['keyframes'])
  return decode.IndexEntry(**values)


def _load(index_file):
  if not index_file or not os.path.exists(index_file):
    return {}
  try:
    with open(index_file, encoding='utf-8') as file:
      content = json.load(file)
    if content['version'] == _VERSION:
      return content['videos']
    logging.warning('%s has another layout: indexing anew.', index_file)
  except (OSError, ValueError, KeyError, TypeError) as error:
    logging.warning('%s cannot be read (%s): indexing anew.', index_file, error)
  return {}


def _save(index_file, known):
  """Writes by rename, so that a reader never sees half a file."""
  if not index_file:
    return
  directory = os.path.dirname(os.path.abspath(index_file))
  try:
    os.makedirs(directory, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory, suffix='.tmp')
    with os.fdopen(handle, 'w', encoding='utf-8') as file:
      json.dump({'version': _VERSION, 'videos': known}, file)
    os.replace(temporary, index_file)
  except OSError as error:
    logging.warning('%s cannot be written (%s): the next run indexes anew.',
                    index_file, error.strerror)
