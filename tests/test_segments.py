"""Segments of longer videos, from lists to batches and scores."""

import json

import numpy as np
from PIL import Image
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import decode
from input_pipeline import sources
from input_pipeline import stored_flow
from input_pipeline import synthetic
from input_pipeline import timing

FRAMES = 40
_COLUMNS = {'data.csv_start': 'start', 'data.csv_stop': 'stop'}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A video and a folder whose frames show their number as a grey level."""
  root = tmp_path_factory.mktemp('long')
  frames = np.stack([np.full((24, 32, 3), 20 + 5 * i, np.uint8)
                     for i in range(FRAMES)])
  synthetic.encode(str(root / 'long.mp4'), frames, fps=20)
  (root / 'folder').mkdir()
  for i, frame in enumerate(frames, 1):
    Image.fromarray(frame).save(root / 'folder' / f'{i:05d}.png')
  return root


def make_config(root, text, **values):
  path = root / 'list.csv'
  path.write_text(text)
  config = common.get_config()
  with config.unlocked():
    config.update_from_flattened_dict({
        'data.root': str(root), 'data.train_list': str(path),
        'data.eval_list': str(path), 'data.frame_template': '{:05d}.png',
        'data.resize': 24, 'data.crop': 'center', 'data.flip': 0.0,
        'data.flip_pairs': (), 'model.crop_size': (16, 16),
        'model.num_frames': 4, 'batch_size': 2, 'eval.batch_size': 2,
        **_COLUMNS, **values})
  return config


def load(root, text, split='train', **values):
  return sources.load(make_config(root, text, **values).data, split)


def shown(video):
  """Returns the numbers of the frames in a clip."""
  return np.round((video.mean((-1, -2, -3)) - 20) / 5).astype(int).tolist()


TWO = ('path,start,stop,label\n'
       'long.mp4,8,16,0\nfolder,20,24,1\nlong.mp4,36,40,1\n')


def test_segments_have_names_of_their_own_and_one_index_entry(root, tmp_path):
  config = make_config(root, TWO, **{'data.index_file': str(tmp_path / 'i')})
  dataset = sources.load(config.data, 'train')
  assert [(r.name, r.label, r.start, r.num_frames, r.video)
          for r in dataset.records] == [
              ('long.mp4@8-16', 0, 8, 8, 'long.mp4'),
              ('folder@20-24', 1, 20, 4, 'folder'),
              ('long.mp4@36-40', 1, 36, 4, 'long.mp4')]
  assert dataset.records[0].entry is dataset.records[2].entry
  assert dataset.records[0].entry.num_frames == FRAMES
  assert len(json.loads((tmp_path / 'i').read_text())['videos']) == 2


@pytest.mark.parametrize('cached', [False, True, 'little by little'])
def test_batches_show_the_frames_of_the_segment(root, cached, monkeypatch):
  if cached == 'little by little':
    cached = True
    monkeypatch.setattr(batches, '_CACHED_BYTES', 5 * 24 * 32 * 3)
  config = make_config(root, TWO, **{'data.cache_frames': cached})
  dataset = sources.load(config.data, 'eval')
  held = list(batches.eval_batches(dataset, config))
  videos = [v for b in held for v, m in zip(b['video'], b['mask']) if m]
  assert [shown(v[0]) for v in videos] == [
      [9, 11, 13, 15], [20, 21, 22, 23], [36, 37, 38, 39]]
  seen = {}
  for batch in batches.train_batches(dataset, config, num_steps=12):
    for video, index, mask in zip(batch['video'], batch['index'],
                                  batch['mask']):
      assert mask == 1
      seen.setdefault(int(index), set()).update(shown(video))
  assert seen == {0: set(range(8, 16)), 1: {20, 21, 22, 23},
                  2: {36, 37, 38, 39}}


def test_stored_flow_is_that_of_the_whole_video(root, tmp_path):
  fields = np.stack([np.full((24, 32, 2), 3 * i, np.uint8)
                     for i in range(FRAMES - 1)])
  header = {'bound': 20.0, 'method': 'tvl1', 'parameters': {},
            'library': 'x', 'format': 'array_record'}
  stored_flow.write(str(tmp_path), 'long.mp4', header, FRAMES, iter(fields))
  config = make_config(
      root, 'path,start,stop,label\nlong.mp4,8,16,0\n', **{
          'data.modality': 'flow', 'data.flow_root': str(tmp_path),
          'data.flow_stack': 1, 'data.mean': (0.5,), 'data.std': (0.5,)})
  dataset = sources.load(config.data, 'eval')
  (batch,) = batches.eval_batches(dataset, config)
  # Eight frames have seven fields, 8 to 14.
  numbers = batch['video'][0, 0, :, 0, 0, 0] / 3
  assert numbers.tolist() == [8, 10, 12, 14]


def test_seconds_count_from_the_first_frame(root):
  text = 'path,start,stop,label\nlong.mp4,0.4,0.8,0\nlong.mp4,1.5,9.75,0\n'
  dataset = load(root, text, **{'data.csv_unit': 'seconds'})
  assert [(r.name, r.start, r.num_frames) for r in dataset.records] == [
      ('long.mp4@0.4-0.8', 8, 8), ('long.mp4@1.5-9.75', 30, 10)]
  text += 'folder,0.1,0.2,0\n'
  dataset = load(root, text, **{'data.csv_unit': 'seconds',
                                'data.max_bad_fraction': 0.5})
  assert dataset.dropped == (('folder@0.1-0.2', 'its segments are in seconds, '
                              'but its frames have no times'),)


def test_seconds_follow_the_times_of_a_variable_rate():
  # Frames at 0, 0.1, 0.2, 0.3, 1.3, 2.3 seconds, in ticks of 1/20 from 40.
  entry = decode.IndexEntry(
      num_frames=6, rate=2.6, pts=((40, 2, 4), (66, 20, 2)),
      time_base=(1, 20))
  assert timing.nearest(entry, (0.0, 0.2, 0.34, 0.9, 1.3, 2.3)) == [
      0, 2, 3, 4, 4, 5]
  # Past the end they go on, 0.46 seconds each.
  assert timing.nearest(entry, (2.75, 3.3)) == [6, 7]
  unknown = decode.IndexEntry(num_frames=6, rate=10.0)
  assert timing.nearest(unknown, (0.31, 2.0)) == [3, 20]
  assert timing.nearest(decode.IndexEntry(num_frames=6), (0.1,)) is None


def test_what_lies_outside_is_cut_or_dropped_and_said(root, caplog):
  text = ('path,start,stop,label\nlong.mp4,30,44,0\nlong.mp4,40,44,0\n'
          'long.mp4,0,9,0\n')
  dataset = load(root, text, **{'data.max_bad_fraction': 0.5})
  assert [(r.start, r.num_frames) for r in dataset.records] == [
      (30, 10), (0, 9)]
  assert 'long.mp4@30-44 (4 frames)' in caplog.text
  assert dataset.dropped == ((
      'long.mp4@40-44', 'the segment starts at frame 40, the video has 40'),)


def test_whole_videos_may_stand_beside_segments(root):
  dataset = load(root, 'path,start,stop,label\nlong.mp4,,,0\nlong.mp4,1,3,1\n')
  assert [(r.name, r.start, r.num_frames) for r in dataset.records] == [
      ('long.mp4', 0, FRAMES), ('long.mp4@1-3', 1, 2)]


def test_one_segment_with_two_labels_is_two_records(root, caplog):
  text = 'path,start,stop,label\nlong.mp4,1,3,0\nlong.mp4,1,3,1\n'
  dataset = load(root, text)
  assert [(r.name, r.label, r.video) for r in dataset.records] == [
      ('long.mp4@1-3', 0, 'long.mp4'), ('long.mp4@1-3.2', 1, 'long.mp4')]
  assert 'stand twice' not in caplog.text
  dataset = load(root, text + 'long.mp4,1,3,0\n')
  assert dataset.records[2].name == 'long.mp4@1-3.3'
  assert '1 segments stand twice with the same label' in caplog.text
  assert 'list.csv, line 4: long.mp4@1-3' in caplog.text


def test_fingerprint_follows_the_segments(root):
  head = 'path,start,stop,label\nlong.mp4,'
  first = load(root, head + '1,3,0\n').fingerprint
  assert load(root, head + '1,4,0\n').fingerprint != first
  assert load(root, head + '1,3,0\n').fingerprint == first


@pytest.mark.parametrize('row, message', [
    ('long.mp4,5,5,0', r"list\.csv, line 2: '5' to '5' is no segment in frame"),
    ('long.mp4,-1,5,0', "'-1' to '5' is no segment"),
    ('long.mp4,1.5,5,0', r"'1\.5' to '5' is no segment"),
    ('long.mp4,3,,0', "'3' to '' is no segment"),
    ('long.mp4,5,5,0\nlong.mp4,1,3,0\n,1,3,0',
     r"line 2: '5' to '5' is .*; these lines cannot be read either: 4$"),
])
def test_bad_segments_are_named(root, row, message):
  with pytest.raises(ValueError, match=message):
    load(root, f'path,start,stop,label\n{row}\n')


def test_bad_keys_are_named(root):
  text = 'path,start,stop,label\nlong.mp4,1,3,0\n'
  with pytest.raises(ValueError, match='data.csv_start and data.csv_stop go'):
    load(root, text, **{'data.csv_stop': ''})
  with pytest.raises(ValueError, match=r"no column 'end' \(data\.csv_stop\)"):
    load(root, text, **{'data.csv_stop': 'end'})
  with pytest.raises(ValueError, match="'frames' or 'seconds', not 'minutes'"):
    load(root, text, **{'data.csv_unit': 'minutes'})
