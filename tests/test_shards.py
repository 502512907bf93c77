"""Records of ArrayRecord files, and archives of images in them."""

import concurrent.futures
import io
import os
import zipfile

import fsspec
import numpy as np
from PIL import Image
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from input_pipeline import decode
from input_pipeline import shards
from input_pipeline import storage
from input_pipeline import synthetic
from input_pipeline import zips

VALUES = {'name': 'a/ü.avi', 'video': bytes(range(256)) * 3 + b'\0',
          'labels': ('run', 'jump'), 'none': (), 'numbers': [3, 0, 300, -1],
          'empty': [], 'count': 70000}


def write(path, blobs):
  with shards.writing(str(path)) as add:
    for blob in blobs:
      add(shards.encode_example({**VALUES, 'video': blob}))
  return str(path)


def test_examples_are_what_tensorflow_writes():
  example = tf_example_pb2.Example.FromString(shards.encode_example(VALUES))
  found = example.features.feature
  assert found['name'].bytes_list.value == ['a/ü.avi'.encode()]
  assert found['video'].bytes_list.value == [VALUES['video']]
  assert found['labels'].bytes_list.value == [b'run', b'jump']
  assert found['numbers'].int64_list.value == [3, 0, 300, -1]
  assert found['count'].int64_list.value == [70000]
  for name, kind in (('none', 'bytes_list'), ('empty', 'int64_list')):
    assert found[name].WhichOneof('kind') == kind
    assert not getattr(found[name], kind).value
  # What others have written in another order is read as well.
  for deterministic in (True, False):
    record = example.SerializeToString(deterministic=deterministic)
    assert shards.bytes_of_example(record, 'video') == VALUES['video']
  assert example.SerializeToString(deterministic=True) == (
      shards.encode_example(VALUES))


def test_a_record_without_the_feature_or_cut_off_is_named():
  record = shards.encode_example(VALUES)
  with pytest.raises(ValueError, match="no feature 'audio'"):
    shards.bytes_of_example(record, 'audio')
  for damaged in (record[:-900], b'\x09' + record, b'\xff' * 40):
    with pytest.raises(ValueError):
      shards.bytes_of_example(damaged, 'video')


def test_threads_read_many_shards_through_few_open_files(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, '_MOST_READERS', 3)
  paths = [write(tmp_path / f'x.array_record-{i:05d}-of-00008',
                 [bytes([i, j]) * 999 for j in range(5)]) for i in range(8)]
  rng = np.random.default_rng(0)

  def read(draw):
    i, j = draw
    blob = storage.media(storage.record_path(paths[i], j)).getvalue()
    return blob == bytes([i, j]) * 999

  before = len(os.listdir('/proc/self/fd'))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    draws = zip(rng.integers(8, size=600), rng.integers(5, size=600))
    assert all(pool.map(read, draws))
  assert len(shards._readers) == 3
  assert len(os.listdir('/proc/self/fd')) <= before + 3


def test_a_forked_process_opens_its_own_files(tmp_path):
  path = write(tmp_path / 'x.array_record', [b'one', b'two'])
  assert storage.read_bytes(f'{path}#0') == b'one'
  child = os.fork()
  if not child:
    os._exit(not (not shards._readers and
                  storage.read_bytes(f'{path}#1') == b'two'))
  assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_damage_is_named(tmp_path):
  path = write(tmp_path / 'x.array_record', [b'one', b'two'])
  for place, words in ((f'{path}#2', 'holds 2 records; number 2'),
                       (f'{tmp_path}/y.array_record#0', 'no such file')):
    with pytest.raises(OSError, match=words):
      storage.read_bytes(place)
  whole = (tmp_path / 'x.array_record').read_bytes()
  (tmp_path / 'cut.array_record').write_bytes(whole[:len(whole) // 2])
  with pytest.raises(decode.VideoError, match='cut.array_record#0'):
    decode.decode_frames(f'{tmp_path}/cut.array_record#0', [0])
  with pytest.raises(decode.VideoError, match='x.array_record#0'):
    decode.decode_frames(f'{path}#0', [0])  # 'one' is no video


@pytest.fixture
def store(tmp_path, monkeypatch):
  monkeypatch.setenv('VIDATTN_CACHE', str(tmp_path / 'cache'))
  files = fsspec.filesystem('memory')
  files.store.clear()
  storage._local_copy_of_url.cache_clear()
  yield files
  files.store.clear()
  storage._local_copy_of_url.cache_clear()


def test_a_shard_of_an_object_store_is_copied_once(tmp_path, store):
  local = write(tmp_path / 'x.array_record', [b'one', b'two'])
  place = 'memory://bucket/set/x.array_record'
  storage.put_file(local, place)
  assert not os.path.exists(local)
  assert storage.read_bytes(f'{place}#1') == b'two'
  assert storage.exists(f'{place}#1')
  assert storage.status(f'{place}#1') == storage.status(place)
  copy, = [path for path in (tmp_path / 'cache').iterdir() if not path.suffix]
  before = copy.stat().st_ino
  storage._local_copy_of_url.cache_clear()  # as another process would begin
  assert storage.read_bytes(f'{place}#0') == b'one'
  assert copy.stat().st_ino == before
  # Within a process the store is asked once.
  store.store.clear()
  assert storage.read_bytes(f'{place}#0') == b'one'


def test_frames_of_a_video_in_a_record(tmp_path):
  frames = np.random.default_rng(0).integers(
      0, 255, (30, 48, 64, 3), dtype=np.uint8)
  video = tmp_path / 'v.mp4'
  synthetic.encode(str(video), frames)
  place = write(tmp_path / 'x.array_record', [b'', video.read_bytes()]) + '#1'
  entry = decode.probe(place)
  assert entry == decode.probe(video) and entry.pts
  indices = [29, 3, 3, 17]
  for known in (entry, None):
    np.testing.assert_array_equal(
        decode.decode_frames(place, indices, known),
        decode.decode_frames(video, indices, known))


def _images(count):
  rng = np.random.default_rng(1)
  for i in range(count):
    blob = io.BytesIO()
    image = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(image).save(blob, 'PNG')
    yield f'img_{count - i}.png', blob.getvalue(), image


def test_frames_of_an_archive_are_counted_not_named(tmp_path):
  names, blobs, images = zip(*_images(5))
  archive = zips.pack(zip(names, blobs))
  assert archive == zips.pack(zip(names, blobs))
  with zipfile.ZipFile(io.BytesIO(archive)) as opened:
    assert opened.namelist() == list(names)
    assert [opened.read(name) for name in names] == list(blobs)
  place = write(tmp_path / 'x.array_record', [archive, archive[:-9]]) + '#0'
  np.testing.assert_array_equal(
      decode.decode_folder(place, [4, 0, 4]), np.stack(images)[[4, 0, 4]])
  with pytest.raises(decode.VideoError, match='5 frames; frame number 5'):
    decode.decode_folder(place, [5])
  with pytest.raises(decode.VideoError, match='cut off'):
    decode.decode_folder(place[:-1] + '1', [0])


@pytest.mark.slow
def test_archives_of_more_files_than_two_bytes_count():
  count = 70000
  archive = zips.pack((str(i), b'%d' % i) for i in range(count))
  spans = zips.members(archive)
  assert len(spans) == count
  assert archive[slice(*spans[-1])] == b'69999'
