"""What is known of every video, kept in one JSON file between runs."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import time

from absl import logging
import av

from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import probing
from input_pipeline import storage

# Of the file's layout; a file of another version is built anew.
_VERSION = 2
# Bytes of a file's head and tail that its digest covers.
_DIGEST_BYTES = 65536
# Seconds between saves, so that a killed run loses little of a long index.
_SAVE_SECONDS = 60


def build(paths, mode='decode', index_file='', threads=None,
          frame_template='{:05d}.jpg', first_frame=1,
          limits=containers.LIMITS, contents=False, report=None):
  """Probes videos, asking only those that are new or changed.

  Probing runs in threads: FFmpeg works without the interpreter's lock, so they
  use all cores as processes would, and start at once.

  Args:
    paths: places of video files or frame folders.
    mode: 'decode' or 'header', see `decode.probe`.
    index_file: JSON file that keeps the result; '' keeps nothing. A file that
      cannot be parsed is built anew.
    threads: videos probed at the same time; None takes one a core.
    frame_template: file name by frame number, for frame folders.
    first_frame: number of the first frame in those names.
    limits: `containers.Limits`.
    contents: whether to hash whole files as well (`IndexEntry.content`).
    report: function of (path, `IndexEntry`), called for each video once.

  Returns:
    dict from path, as given, to `decode.IndexEntry`, in the order of `paths`.

  Raises:
    ValueError: unknown mode.
  """
  if mode not in ('decode', 'header'):
    raise ValueError(f"data.index must be 'decode' or 'header', not {mode!r}")
  paths = list(dict.fromkeys(paths))
  known = _load(index_file)
  # What a folder of frames holds depends on how its files are named.
  how = f'{frame_template}@{first_frame}'
  # Whether a file is bad depends on these.
  judge = f'FFmpeg {av.ffmpeg_version_info}, {limits.max_pixels} pixels'
  entries, stale = {}, []
  for path in paths:
    row = known.get(_key(path))
    if row and _is_current(path, row, mode, how, judge, contents):
      entries[path] = entry_from_row(row)
      if report:
        report(path, entries[path])
    else:
      stale.append(path)
  if stale:
    logging.info('Indexing %d of %d videos.', len(stale), len(paths))
  last_save = time.monotonic()
  pool = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count())
  try:
    probes = {
        pool.submit(_probe, p, mode, frame_template, first_frame, limits,
                    contents): p
        for p in stale
    }
    for done in concurrent.futures.as_completed(probes):
      path = probes[done]
      entries[path] = done.result()
      if not entries[path].passing:
        known[_key(path)] = dict(
            dataclasses.asdict(entries[path]), mode=mode, how=how, judge=judge)
      if report:
        report(path, entries[path])
      if time.monotonic() - last_save > _SAVE_SECONDS:
        _save(index_file, known)
        last_save = time.monotonic()
  finally:
    # Also when interrupted: what is known is kept, what waits is let go.
    pool.shutdown(cancel_futures=True)
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


def _probe(path, mode, frame_template, first_frame, limits, contents):
  try:
    with containers.naming(path, limits, 'it cannot be read'):
      size, stamp = storage.status(path)
      if storage.is_dir(path):
        entry = probing.probe_folder(path, frame_template, first_frame, limits)
        numbers = range(first_frame, first_frame + entry.num_frames)
        files = [storage.join(path, frame_template.format(n)) for n in numbers]
      else:
        medium = storage.media(path)
        entry = decode.probe(path, mode, medium, limits)
        files = [path if isinstance(medium, str) else medium]
      if contents and entry.codec == 'folder' and not entry.error:
        decode.check_images(path, entry, frame_template, first_frame, limits)
      digest = content = ''
      if not entry.error:
        digest = hash_ends(files, entry.num_frames)
      if contents:
        content = hash_all(files)
      return dataclasses.replace(entry, size=size, mtime_ns=stamp,
                                 digest=digest, content=content)
  except containers.VideoError as error:
    return probing.IndexEntry(error=error.reason, passing=error.passing)


def hash_ends(files, num_frames):
  """Returns `IndexEntry.digest`: of size, head and tail of the ends.

  Args:
    files: places or `io.BytesIO`: the video, or all images of a folder.
    num_frames: of the video.
  """
  digest = hashlib.sha256(str(num_frames).encode())
  files = [files[0], files[-1]] if len(files) > 1 else files
  for name in files:
    with _opened(name) as file:
      size = file.seek(0, os.SEEK_END)
      digest.update(str(size).encode())
      for start in (0, max(size - _DIGEST_BYTES, 0)):
        file.seek(start)
        digest.update(file.read(_DIGEST_BYTES))
  return digest.hexdigest()


def hash_all(files):
  """Returns `IndexEntry.content`; see `hash_ends`."""
  digest = hashlib.sha256()
  for name in files:
    with _opened(name) as file:
      file.seek(0)
      while block := file.read(1 << 20):
        digest.update(block)
  return digest.hexdigest()


def _opened(name):
  if isinstance(name, io.BytesIO):
    return contextlib.nullcontext(name)
  medium = storage.media(name)
  return medium if isinstance(medium, io.BytesIO) else open(medium, 'rb')


def _key(path):
  """Returns a video's name in the index file."""
  return path if storage.is_url(path) else os.path.abspath(path)


def _is_current(path, row, mode, how, judge, contents):
  try:
    size, stamp = storage.status(path)
  except OSError:
    return False
  return (row.get('size') == size and
          row.get('mtime_ns') == stamp and
          row.get('mode') in ('decode', mode) and
          (row.get('content') or not contents) and
          (not row.get('error') or row.get('judge') == judge) and
          (row.get('codec') != 'folder' or row.get('how') == how))


def entry_from_row(row):
  """Reads an `IndexEntry` back from JSON; what is left out is as usual."""
  fields = {f.name for f in dataclasses.fields(probing.IndexEntry)}
  return probing.IndexEntry(
      **{key: _to_tuples(value) for key, value in row.items() if key in fields})


def _to_tuples(value):
  return tuple(map(_to_tuples, value)) if isinstance(value, list) else value


def _load(index_file):
  if not index_file or not storage.exists(index_file):
    return {}
  try:
    content = json.loads(storage.read_bytes(index_file))
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
  try:
    storage.write_bytes(index_file, json.dumps(
        {'version': _VERSION, 'videos': known}).encode())
  except OSError as error:
    logging.warning('%s cannot be written (%s): the next run indexes anew.',
                    index_file, error.strerror or error)
