"""Places: files of this machine, an object store, records."""

import io
import os

import fsspec
import pytest

from input_pipeline import storage


@pytest.fixture(params=['file', 'memory'])
def root(request, tmp_path):
  """An empty folder of each kind."""
  if request.param == 'file':
    yield str(tmp_path)
    return
  files = fsspec.filesystem('memory')
  files.store.clear()
  yield 'memory://bucket/data'
  files.store.clear()


def test_a_file_is_written_read_listed_and_removed(root):
  place = storage.join(root, 'a', 'b.bin')
  assert not storage.exists(place)
  storage.write_bytes(place, b'one')
  storage.write_bytes(place, b'two')
  storage.write_bytes(storage.join(root, 'a', '.hidden'), b'')
  assert storage.read_bytes(place) == b'two'
  assert storage.exists(place) and not storage.is_dir(place)
  assert storage.is_dir(storage.join(root, 'a'))
  assert storage.list_dir(storage.join(root, 'a')) == ['b.bin']
  assert storage.status(place)[0] == 3
  medium = storage.media(place)
  if isinstance(medium, io.BytesIO):
    assert medium.read() == b'two'
  else:
    assert medium == place
  storage.remove(storage.join(root, 'a'))
  assert not storage.exists(place)


def test_the_stamp_changes_with_the_file(root):
  place = storage.join(root, 'a')
  storage.write_bytes(place, b'one')
  before = storage.status(place)
  storage.write_bytes(place, b'another')
  assert storage.status(place) != before


def test_a_missing_file_is_an_error_of_the_system(root):
  for act in (storage.read_bytes, storage.status, storage.list_dir):
    with pytest.raises(FileNotFoundError):
      act(storage.join(root, 'none'))


def test_a_failed_write_leaves_nothing(tmp_path):
  (tmp_path / 'folder').mkdir()
  with pytest.raises(OSError):
    storage.write_bytes(str(tmp_path / 'folder'), b'')
  assert os.listdir(tmp_path) == ['folder']


def test_places_of_records():
  place = storage.record_path('/d/x-train.array_record-00000-of-00002', 7)
  assert storage.split_record(place) == (
      '/d/x-train.array_record-00000-of-00002', 7)
  assert storage.split_record('gs://b/x.array_record#0') == (
      'gs://b/x.array_record', 0)
  for other in ('/d/x.array_record', '/d/clip#7', 'x.array_record#a'):
    assert storage.split_record(other) is None


def test_join():
  assert storage.join('gs://b/d/', 'c', 'v.avi') == 'gs://b/d/c/v.avi'
  assert storage.join('gs://b/d', 's3://o/v.avi') == 's3://o/v.avi'
  assert storage.join('d', '/v.avi') == '/v.avi'
  assert storage.join('d', 'v.avi') == 'd/v.avi'


def _fill(root, folder, names):
  for name in names:
    storage.write_bytes(storage.join(root, folder, name), b'')


def test_entries_tell_folders(root):
  _fill(root, 'a', ['x', 'b/y', '.hidden'])
  assert storage.entries(storage.join(root, 'a')) == [('b', True), ('x', False)]
