"""Data in an object store: folders, lists, frames, indices and shards."""

import fsspec
import ml_collections
import numpy as np
import pytest
import small

from configs import demo
from input_pipeline import batches
from input_pipeline import prepare
from input_pipeline import sources
from input_pipeline import storage
from input_pipeline import synthetic

URL = 'memory://bucket/clips'


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """The same eight clips in a folder and in an object store."""
  root = tmp_path_factory.mktemp('clips') / 'data'
  synthetic.generate(str(root), num_train=8, num_eval=8, seed=3, processes=1)
  files = fsspec.filesystem('memory')
  files.store.clear()
  for path in sorted(root.rglob('*.mp4')):
    storage.write_bytes(storage.join(URL, str(path.relative_to(root))),
                        path.read_bytes())
  yield str(root)
  files.store.clear()


def _config(root, **keys):
  c = small.shrink(demo.get_config('plain'))
  with c.unlocked():
    c.data.update(root=root, resize=(40, 40), threads=1, **keys)
    c.batch_size = 4
  return c


def _stream(config):
  dataset = sources.load(config.data, 'train', config.data.index_file)
  batch = next(iter(batches.train_batches(dataset, config, num_steps=1)))
  return dataset, batch


def test_folders_give_the_same_videos_and_clips(clips):
  dataset, batch = _stream(_config(clips))
  there, other = _stream(_config(URL))
  assert [r.name for r in there.records] == [r.name for r in dataset.records]
  assert there.records[0].path.startswith(URL)
  assert there.classes == dataset.classes
  assert there.fingerprint == dataset.fingerprint
  for key, value in batch.items():
    np.testing.assert_array_equal(other[key], value)


def test_lists_classes_and_index_are_read_there(clips):
  dataset, batch = _stream(_config(clips))
  lines = [f'{r.name} {r.label}\n' for r in dataset.records]
  storage.write_bytes(f'{URL}/train.txt', ''.join(lines).encode())
  storage.write_bytes(f'{URL}/classes.txt', '\n'.join(dataset.classes).encode())
  config = _config(URL, train_list='train.txt', classes=f'{URL}/classes.txt',
                   index_file='memory://bucket/index.json')
  there, other = _stream(config)
  assert there.fingerprint == dataset.fingerprint
  np.testing.assert_array_equal(other['video'], batch['video'])
  assert storage.exists('memory://bucket/index.json')
  # What the index knows is not asked again.
  blob = storage.read_bytes('memory://bucket/index.json')
  sources.load(config.data, 'train', config.data.index_file)
  assert storage.read_bytes('memory://bucket/index.json') == blob
  config.data.train_list = 'none.txt'
  with pytest.raises(ValueError, match=r'clips/none.txt: no such file'):
    sources.load(config.data, 'train')


def test_all_below_a_root_is_gathered(clips):
  here, there = (sources.gather_videos([root]) for root in (clips, URL))
  assert list(here) == list(there) and len(here) == 16
  assert all(path.startswith(URL) for path in there.values())


def test_a_missing_root_is_named():
  with pytest.raises(ValueError, match='memory://bucket/none: no such dir'):
    sources.load(_config('memory://bucket/none').data, 'train')


@pytest.mark.slow
def test_shards_are_written_and_read_there(clips):
  data = ml_collections.ConfigDict(_config(URL).data.to_dict())
  found = prepare.find('motions', data)
  prepare.run(found, 'memory://bucket/prepared', prepare.make_recipe('copy'),
              num_shards=2)
  _, batch = _stream(_config(clips))
  there, other = _stream(_config('memory://bucket/prepared/motions/1.0.0'))
  assert storage.split_record(there.records[0].path)
  np.testing.assert_array_equal(other['video'], batch['video'])
