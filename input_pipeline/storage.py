"""Where bytes lie: files, object stores, members of record files.

A place is a path of this machine, a URL of an object store (`gs://`, `s3://`,
or another that fsspec knows), or a record of an ArrayRecord file, written
`FILE#NUMBER`. Only this file knows the difference.
"""

import contextlib
import fcntl
import functools
import hashlib
import io
import os
import re
import uuid

import fsspec

from input_pipeline import shards

# Name of the encoded video in a record.
VIDEO = 'video'

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')
_RECORD = re.compile(r'(.+\.array_record[^/#]*)#(\d+)')


def is_url(path):
  """Tells whether a place is in an object store."""
  return _URL.match(os.fspath(path)) is not None


def record_path(shard, number):
  """Returns the place of a record.

  Args:
    shard: place of an ArrayRecord file.
    number: position of the record in it, from 0.
  """
  return f'{shard}#{number}'


def split_record(path):
  """Returns (shard, number) of a record's place, None if it is no record's."""
  match = _RECORD.fullmatch(os.fspath(path))
  return (match[1], int(match[2])) if match else None


def join(folder, *names):
  """Joins parts of a place; an absolute part replaces those before it."""
  for name in names:
    if is_url(folder) and not is_url(name):
      folder = f'{folder.rstrip("/")}/{name}'
    else:
      folder = name if is_url(name) else os.path.join(folder, name)
  return folder


def exists(path):
  """Tells whether there is a file or folder; of a record, its shard."""
  path = _file_of(path)
  if not is_url(path):
    return os.path.exists(path)
  files, path = _store(path)
  return files.exists(path)


def is_dir(path):
  """Tells whether there is a folder."""
  if not is_url(path):
    return os.path.isdir(path)
  files, path = _store(path)
  return files.isdir(path)


def list_dir(path):
  """Returns the names in a folder, sorted, without hidden ones.

  Raises:
    OSError: it is missing or cannot be read.
  """
  return [name for name, _ in entries(path)]


def entries(path):
  """Returns (name, whether it is a folder) of what is in a folder, sorted.

  Hidden files are left out. An object store is asked once.

  Raises:
    OSError: it is missing or cannot be read.
  """
  if is_url(path):
    files, path = _store(path)
    found = [(item['name'].rstrip('/').rpartition('/')[2],
              item['type'] == 'directory')
             for item in files.ls(path, detail=True)]
  else:
    with os.scandir(path) as items:
      found = [(item.name, item.is_dir()) for item in items]
  return sorted(item for item in found if item[0] and item[0][0] != '.')


def status(path):
  """Returns (bytes, stamp) of a file or folder; the stamp changes with it.

  Of a record, those of its shard.

  Raises:
    OSError: it is missing or cannot be read.
  """
  path = _file_of(path)
  if not is_url(path):
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns
  files, path = _store(path)
  found = files.info(path)
  stamp = next((found[key] for key in ('etag', 'ETag', 'generation', 'mtime',
                                       'LastModified', 'updated', 'created')
                if found.get(key)), '')
  return found.get('size') or 0, str(stamp)


def read_bytes(path):
  """Reads a whole file, or the encoded video in a record.

  Raises:
    OSError: it is missing or cannot be read.
  """
  record = split_record(path)
  if record:
    shard, number = record
    example = shards.read(local_copy(shard), number)
    try:
      return bytes(shards.bytes_of_example(example, VIDEO))
    except ValueError as error:
      raise shards.ShardError(f'{path}: {error}') from error
  if not is_url(path):
    with open(path, 'rb') as file:
      return file.read()
  files, path = _store(path)
  return files.cat_file(path)


def write_bytes(path, data):
  """Writes a whole file, so that no reader sees half of it.

  Folders above it are made if need be.

  Raises:
    OSError: it cannot be written.
  """
  if is_url(path):
    files, path = _store_with_folder(path)
    files.pipe_file(path, data)
    return
  folder, name = os.path.split(os.path.abspath(path))
  os.makedirs(folder, exist_ok=True)
  temporary = os.path.join(folder, f'.{name}.{uuid.uuid4().hex}.tmp')
  try:
    with open(temporary, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError:
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise


def make_dirs(path):
  """Makes a folder and those above it."""
  if not is_url(path):
    os.makedirs(path, exist_ok=True)
    return
  files, path = _store(path)
  files.makedirs(path, exist_ok=True)


def remove(path):
  """Removes a file or a whole folder."""
  files, path = _store(path)
  files.rm(path, recursive=True)


def media(path):
  """Returns what a decoder opens: the path of a local file, else its bytes.

  Args:
    path: place of a file or record.

  Returns:
    str, or `io.BytesIO`.

  Raises:
    OSError: it is missing or cannot be read.
  """
  in_memory = is_url(path) or split_record(path)
  return io.BytesIO(read_bytes(path)) if in_memory else os.fspath(path)


def put_file(local, path):
  """Moves a whole file of this machine to a place, where it appears whole.

  Folders above it are made if need be.

  Raises:
    OSError: it cannot be written.
  """
  if is_url(path):
    files, path = _store_with_folder(path)
    files.put_file(local, path)
    os.unlink(local)
    return
  handle = os.open(local, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
  os.replace(local, path)


def local_copy(path):
  """Returns a file of this machine with the bytes of a file.

  Files of an object store are copied once, whole, to `VIDATTN_CACHE` (default:
  ~/.cache/vidattn_jax/shards); a changed one is copied anew.

  Raises:
    OSError: it is missing, or cannot be read or copied.
  """
  return _local_copy_of_url(path) if is_url(path) else os.fspath(path)


# A shard is asked for with every clip: the store is asked once a process.
@functools.lru_cache(maxsize=4096)
def _local_copy_of_url(path):
  size, stamp = status(path)
  folder = os.environ.get('VIDATTN_CACHE') or os.path.expanduser(
      '~/.cache/vidattn_jax/shards')
  name = hashlib.sha256(f'{path} {size} {stamp}'.encode()).hexdigest()
  target = os.path.join(folder, name)
  os.makedirs(folder, exist_ok=True)
  with open(target + '.lock', 'wb') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not os.path.exists(target):
      part = f'{target}.part'
      files, remote = _store(path)
      files.get_file(remote, part)
      os.replace(part, target)
  return target


@contextlib.contextmanager
def only_user(folder, program):
  """Keeps a second run of a program away from a folder, which is made.

  Nothing is kept away from a folder of an object store.

  Raises:
    ValueError: the folder is in use, or cannot be made.
  """
  if is_url(folder):
    yield
    return
  try:
    os.makedirs(folder, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
  except OSError as error:
    raise ValueError(f'{folder} cannot be written: {error}.') from error
  try:
    try:
      # It ends with the process, however that ends.
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f'{folder} is in use by another {program}.') from None
    yield
  finally:
    os.close(handle)


def _file_of(path):
  record = split_record(path)
  return record[0] if record else path


def _store_with_folder(path):
  """Returns what `_store` does; the folder of the file is made."""
  files, path = _store(path)
  files.makedirs(path.rpartition('/')[0], exist_ok=True)
  return files, path


def _store(path):
  return fsspec.core.url_to_fs(os.fspath(path))
