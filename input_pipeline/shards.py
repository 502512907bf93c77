"""ArrayRecord files of this machine, and the tf.train.Example in each record.

Both are written and read as TensorFlow Datasets does, without it: the message
is small, and equal features give equal bytes (keys are sorted).
"""

import collections
import contextlib
import os
import threading

from array_record.python import array_record_module

# One record a chunk, so that one can be read without its neighbours; videos do
# not get smaller.
_WRITER_OPTIONS = 'group_size:1,uncompressed'
# Records are read here and there: what follows one is of no use.
_READER_OPTIONS = 'readahead_buffer_size:0'
# Open files of a process.
_MOST_READERS = 64

_readers = collections.OrderedDict()
_lock = threading.Lock()


class ShardError(OSError):
  """A file of records that is missing, damaged or shorter than thought."""


def _forget_readers():
  # A forked process has the readers, but not their threads.
  global _lock
  _readers.clear()
  _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_readers)


@contextlib.contextmanager
def writing(path):
  """Yields a function that appends a record, bytes, to a new file.

  Args:
    path: the file; it is whole when the block is left without an error.

  Raises:
    OSError: it cannot be written.
  """
  writer = _checked(path, array_record_module.ArrayRecordWriter, path,
                    _WRITER_OPTIONS)
  try:
    yield lambda record: _checked(path, writer.write, record)
  finally:
    _checked(path, writer.close)


@contextlib.contextmanager
def reading(path):
  """Yields the reader of a file (`num_records()`, `read([numbers])`)."""
  reader = array_record_module.ArrayRecordReader(
      os.fspath(path), _READER_OPTIONS)
  try:
    yield reader
  finally:
    reader.close()


def read(path, number):
  """Reads a record; keeps a bounded number of files open for the next.

  Threads may call it at the same time, and worker processes after forking.

  Args:
    path: file of this machine.
    number: position of the record in it, from 0.

  Returns:
    bytes.

  Raises:
    ShardError: the file or the record is missing or damaged.
  """
  with _lock:
    slot = _readers.setdefault(path, _Slot())
    _readers.move_to_end(path)
    while len(_readers) > _MOST_READERS:
      _readers.popitem(last=False)  # closes when no thread reads from it
  with slot.lock:
    if slot.reader is None:
      slot.reader = _open(path)
    reader = slot.reader
    if not 0 <= number < reader.num_records():
      raise ShardError(f'{path} holds {reader.num_records()} records; number '
                       f'{number} (from 0) was asked for')
    try:
      return reader.read([number])[0]
    except (RuntimeError, ValueError, IndexError) as error:
      raise ShardError(f'{path}: record {number} is damaged') from error


class _Slot:
  """An open file, or one that is about to be opened."""

  def __init__(self):
    self.lock = threading.Lock()
    self.reader = None


def _open(path):
  if not os.path.exists(path):
    raise ShardError(f'{path}: no such file of records')
  try:
    return array_record_module.ArrayRecordReader(path, _READER_OPTIONS)
  except RuntimeError as error:
    raise ShardError(f'{path} is no ArrayRecord file, or it is cut off'
                    ) from error


def _checked(path, call, *args):
  try:
    return call(*args)
  except RuntimeError as error:
    raise OSError(f'{path}: {error}') from error


def encode_example(features):
  """Encodes a tf.train.Example.

  Args:
    features: {name: value}; a value is one text (str), blob (bytes) or integer,
      a tuple of texts, or a list of integers.

  Returns:
    bytes.
  """
  entries = []
  for key in sorted(features):
    entry = _field(1, key.encode()) + _field(2, _feature(features[key]))
    entries.append(_field(1, entry))
  return _field(1, b''.join(entries))


def _feature(value):
  """Encodes a Feature: a list of bytes (1) or of integers (3)."""
  if isinstance(value, int):
    value = [value]
  if isinstance(value, list):
    packed = b''.join(_varint(v & (1 << 64) - 1) for v in value)
    return _field(3, _field(1, packed) if packed else b'')
  texts = value if isinstance(value, tuple) else (value,)
  return _field(1, b''.join(
      _field(1, t.encode() if isinstance(t, str) else t) for t in texts))


def _field(number, content):
  """Encodes a field of bytes, or a message in a message."""
  return b''.join((_varint(number << 3 | 2), _varint(len(content)), content))


def _varint(value):
  groups = bytearray()
  while value > 127:
    groups.append(value & 127 | 128)
    value >>= 7
  groups.append(value)
  return bytes(groups)


def bytes_of_example(record, key):
  """Returns the bytes of a feature that holds one text or blob.

  Args:
    record: a serialized tf.train.Example.
    key: name of the feature.

  Returns:
    memoryview, part of `record`.

  Raises:
    ValueError: it has no such feature, or is no tf.train.Example.
  """
  wanted = key.encode()
  try:
    for features in _messages(memoryview(record), 1):
      for entry in _messages(features, 1):
        if next(_messages(entry, 1)) == wanted:
          feature = next(_messages(entry, 2))
          return next(_messages(next(_messages(feature, 1)), 1))
  except (IndexError, StopIteration):
    pass
  raise ValueError(f'the record has no feature {key!r}')


def _messages(view, wanted):
  """Yields the contents of a field, which stand one behind the other."""
  place = 0
  while place < len(view):
    tag, place = _read_varint(view, place)
    if tag & 7 != 2:
      raise ValueError('the record is no tf.train.Example')
    size, place = _read_varint(view, place)
    if place + size > len(view):
      raise ValueError('the record is cut off')
    if tag >> 3 == wanted:
      yield view[place:place + size]
    place += size


def _read_varint(view, place):
  value = shift = 0
  while True:
    byte = view[place]
    place += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, place
    shift += 7
