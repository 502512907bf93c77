"""Real videos through vidattn prepare: the same frames, true counts."""

import csv
import json

import numpy as np
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import decode
from input_pipeline import prepare
from input_pipeline import records
from input_pipeline import resizing
from input_pipeline import sources

pytestmark = pytest.mark.slow


def data(root, **values):
  section = common.get_config().data
  section.root = str(root)
  section.max_bad_fraction = 0.5
  with section.unlocked():
    section.update(values)
  return section


def make(section, out, name, profile='copy', **recipe):
  return prepare.run(
      prepare.find(name, section), str(out),
      prepare.make_recipe(profile, **recipe), num_shards=3,
      max_bad_fraction=0.5)


def test_all_clips_give_the_same_frames_three_ways(shared, tmp_path):
  clips = shared / 'data' / 'clips'
  manifest = {clip['file']: clip for clip in json.loads(
      (clips / 'MANIFEST.json').read_text())['clips']}
  table = tmp_path / 'train.txt'
  table.write_text(''.join(f'{file} clip\n' for file in manifest))
  section = data(clips, train_list=str(table))
  report = make(section, tmp_path / 'out', 'clips')
  bad = {file for file, clip in manifest.items() if clip['expected'] != 'ok'}
  assert {name for name, _ in report.dropped} == bad
  folder = sources.load(section, 'train')
  prepared = sources.load(data(report.root), 'train')
  assert folder.fingerprint == prepared.fingerprint
  assert {name for name, _ in folder.dropped} == bad
  import tensorflow_datasets as tfds
  by_tfds = {row['name'].decode(): row for row in tfds.data_source(
      'clips', data_dir=str(tmp_path / 'out'), split='train')}
  assert by_tfds.keys() == {r.name for r in folder.records}
  rng = np.random.default_rng(0)
  for a, b in zip(folder.records, prepared.records, strict=True):
    row = by_tfds[a.name]
    assert a.num_frames == b.num_frames == row['num_frames']
    if a.name != 'nasa_two_video_streams.mp4':  # the list tells of the first
      assert a.num_frames == manifest[a.name]['frames']
    assert row['video'] == (clips / a.name).read_bytes()
    # All frames of one file must fit the memory; every tenth of them does.
    indices = [*range(0, a.num_frames, 10), a.num_frames - 1,
               *rng.integers(a.num_frames, size=3)]
    frames = batches.read_frames(a, indices, section)
    np.testing.assert_array_equal(
        frames, batches.read_frames(b, indices, section))
    stored = tmp_path / f'video{row["suffix"].decode()}'
    stored.write_bytes(row['video'])
    np.testing.assert_array_equal(
        frames, decode.decode_frames(stored, indices))


def rows_of(path):
  with open(path, encoding='utf-8') as file:
    return {row['path']: row for row in csv.DictReader(file)}


@pytest.mark.parametrize('profile', ['copy', 'fast'])
@pytest.mark.parametrize('name', ['weizmann', 'ut_interaction_set1'])
def test_annotated_counts_are_found(shared, tmp_path, name, profile):
  root = shared / 'data' / name
  rows = rows_of(root / 'annotations.csv')
  report = make(data(root), tmp_path, name, profile, **(
      {'preset': 'ultrafast', 'short_side': 64} if profile == 'fast' else {}))
  assert not report.dropped
  catalog = records.read_catalog(report.root)
  assert {key: entry.entry.num_frames for key, entry in catalog.items()} == {
      key: int(row['frames']) for key, row in rows.items()}
  assert {key: entry.label for key, entry in catalog.items()} == {
      key: row['label'] for key, row in rows.items()}
  assert report.frames == {'weizmann': 5855, 'ut_interaction_set1': 7160}[name]
  if 'declared_frames' in next(iter(rows.values())) and profile == 'copy':
    lies = sum(int(row['declared_frames']) != int(row['frames'])
               for row in rows.values())
    assert lies == sum(entry.entry.header_frames != entry.entry.num_frames
                       for entry in catalog.values())


@pytest.mark.parametrize('profile', ['copy', 'fast'])
def test_segments_of_untrimmed_recordings(shared, tmp_path, profile):
  root = shared / 'data' / 'ceiling_untrimmed'
  section = data(root, train_list='segments.csv', csv_split='subset',
                 csv_train='train', csv_eval='val', csv_start='start_s',
                 csv_stop='end_s', csv_unit='seconds')
  report = make(section, tmp_path, 'ceiling', profile, **(
      {'preset': 'ultrafast', 'short_side': 64} if profile == 'fast' else {}))
  assert report.videos == {'train': 165, 'eval': 47}  # as its README tells
  assert not report.dropped
  for split, count in report.videos.items():
    folder = sources.load(section, split)
    prepared = sources.load(data(report.root), split)
    assert len(folder.records) == count
    assert [(r.name, r.label, r.num_frames) for r in folder.records] == [
        (r.name, r.label, r.num_frames) for r in prepared.records]
    if profile == 'copy':
      assert folder.fingerprint == prepared.fingerprint
    assert len({r.path for r in prepared.records}) == (
        {'train': 12, 'eval': 4}[split] if profile == 'copy' else count)
    for i in range(0, count, 20):
      a, b = folder.records[i], prepared.records[i]
      indices = [0, a.num_frames - 1, a.num_frames // 2]
      wanted = batches.read_frames(a, indices, section)
      found = batches.read_frames(b, indices, data(report.root))
      if profile == 'copy':
        np.testing.assert_array_equal(found, wanted)
      else:
        wanted = resizing.resize(wanted, found.shape[1:3])
        assert np.abs(found.astype(int) - wanted).mean() < 6
