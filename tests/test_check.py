"""`vidattn check-data` finds what would spoil a training."""

import concurrent.futures
import dataclasses
import json
import shutil
import threading

import ml_collections
import numpy as np
from PIL import Image
import pytest

from configs import common
from input_pipeline import check
from input_pipeline import decode
from input_pipeline import sources
from input_pipeline import synthetic
from vidattn_jax import cli


def _video(path, grey, count=5, codec='libx264', **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  frames = np.full((count, 32, 32, 3), grey, np.uint8)
  frames += np.arange(count, dtype=np.uint8)[:, None, None, None]
  synthetic.encode(str(path), frames, codec, options=options)
  return path


@pytest.fixture
def root(tmp_path):
  """Two classes, three videos each in training, one in evaluation."""
  root = tmp_path / 'data'
  for i, name in enumerate(('jump', 'run')):
    for k in range(3):
      _video(root / 'train' / name / f'{k}.mp4', 40 + 60 * i + 10 * k, 5 + k)
    _video(root / 'val' / name / '9.mp4', 5 + 200 * i)
  return root


def _data(root, **values):
  data = common.get_config().data
  data.root = str(root)
  data.update(values)
  return data


def _check(root, index_file='', least=5, progress=None, **values):
  found = check.find(_data(root, **values))
  return check.run(found, str(index_file), 2, least=least, progress=progress)


def _names(videos):
  return sorted(v['name'] for v in videos)


def test_good_data(root):
  report = _check(root, least=3)
  assert report['ok']
  assert report['summary']['videos'] == {'train': 6, 'eval': 2}
  assert report['summary']['frames'] == 2 * (5 + 6 + 7) + 2 * 5
  assert report['summary']['codecs'] == {'h264': 8}
  assert report['summary']['found_by'] == {'seek': 8}
  for key in ('bad', 'mistakes', 'leaks', 'conflicts', 'duplicates', 'ignored',
              'empty_classes', 'small_classes', 'header_differs', 'repaired'):
    assert report[key] == [], key
  [video] = [v for v in report['videos'] if v['name'] == 'train/run/2.mp4']
  assert (video['frames'], video['header_frames']) == (7, 7)
  assert (video['width'], video['height'], video['rate']) == (32, 32, 25.0)
  assert (video['label'], video['rotation']) == ('run', 0)
  json.dumps(report)
  assert 'No problem.' in check.to_text(report)
  assert _check(root, least=4)['small_classes'] == [['jump', 3], ['run', 3]]


def test_duplicates_leaks_and_conflicts(root):
  shutil.copy(root / 'train/jump/0.mp4', root / 'train/jump/again.mp4')
  report = _check(root)
  assert report['ok']  # a repeated video harms nobody
  [twins] = report['duplicates']
  assert _names(twins) == ['train/jump/0.mp4', 'train/jump/again.mp4']
  shutil.copy(root / 'train/jump/0.mp4', root / 'val/jump/leak.mp4')
  report = _check(root)
  assert not report['ok']
  assert [_names(t) for t in report['leaks']] == [[
      'train/jump/0.mp4', 'train/jump/again.mp4', 'val/jump/leak.mp4']]
  assert report['conflicts'] == []
  shutil.copy(root / 'train/jump/1.mp4', root / 'train/run/both.mp4')
  report = _check(root)
  assert [_names(t) for t in report['conflicts']] == [[
      'train/jump/1.mp4', 'train/run/both.mp4']]
  text = check.to_text(report)
  assert 'PROBLEM: 1 contents stand in several splits' in text
  assert 'eval: val/jump/leak.mp4 (jump)' in text
  # One bit makes another file.
  content = bytearray((root / 'train/jump/1.mp4').read_bytes())
  content[-1] ^= 1
  (root / 'train/run/both.mp4').write_bytes(content)
  assert _check(root)['conflicts'] == []


def test_all_mistakes_of_lists_are_told(root):
  lines = ['train/jump/0.mp4 0', 'train/jump/1.mp4 7', 'train/run/0.mp4 -1',
           'train/jump/0.mp4 0', 'train/run/1.mp4 1', 'train/run/gone.mp4 1']
  (root / 'list.txt').write_text('\n'.join(lines))
  (root / 'classes.txt').write_text('jump\nrun\nwave\n')
  report = _check(root, train_list='list.txt', classes='classes.txt')
  assert not report['ok']
  first, second, twice = report['mistakes']
  assert 'line 2' in first and "'7'" in first
  assert 'line 3' in second and "'-1'" in second
  assert 'line 4' in twice and 'stands twice' in twice
  assert [(b['name'], b['reason']) for b in report['bad']] == [
      ('train/run/gone.mp4', 'no such file')]
  assert report['empty_classes'] == ['wave']
  assert report['small_classes'] == [['jump', 2], ['run', 1]]


def test_damage_and_wrong_headers(root):
  (root / 'train/run/empty.mp4').write_bytes(b'')
  (root / 'train/run/text.mp4').write_text('no video')
  (root / 'train/run/notes.txt').write_text('no video')
  lies = _video(root / 'train/run/lies.avi', 9, codec='mpeg4')
  content = bytearray(lies.read_bytes())
  place = content.index(b'strh') + 40
  assert content[place:place + 4] == (5).to_bytes(4, 'little')
  content[place:place + 4] = (6).to_bytes(4, 'little')
  lies.write_bytes(content)
  report = _check(root)
  assert _names(report['bad']) == ['train/run/empty.mp4', 'train/run/text.mp4']
  assert report['header_differs'] == [
      {'name': 'train/run/lies.avi', 'split': 'train', 'frames': 5,
       'header_frames': 6}]
  assert ['train/run/notes.txt', 'its name is not that of a video file'] in (
      report['ignored'])


def test_repaired_frames_are_told(root, monkeypatch):
  original = decode.probe
  monkeypatch.setattr(decode, 'probe', lambda path, *args: dataclasses.replace(
      original(path, *args), repaired=2 * path.endswith('run/1.mp4')))
  report = _check(root)
  assert report['ok']
  assert report['repaired'] == [
      {'name': 'train/run/1.mp4', 'split': 'train', 'repaired': 2}]
  assert 'train/run/1.mp4: in 2 frames' in check.to_text(report)


def test_segments_past_the_end_are_no_videos_of_their_class(root):
  (root / 'list.csv').write_text(
      'path,label,start,stop\ntrain/jump/0.mp4,jump,0,4\n'
      'train/run/0.mp4,run,90,95\n')
  report = _check(root, train_list='list.csv', csv_start='start',
                  csv_stop='stop')
  assert [b['name'] for b in report['bad']] == ['train/run/0.mp4@90-95']
  assert report['empty_classes'] == ['run']


def test_frame_folders_are_read_to_the_end(tmp_path):
  for video in ('a', 'b'):
    for i in range(1, 5):
      path = tmp_path / 'class' / video / f'{i:05d}.jpg'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.new('RGB', (16, 16), (60 * i, 0, 0)).save(path)
  assert _check(tmp_path)['duplicates']
  damaged = tmp_path / 'class/b/00003.jpg'
  damaged.write_bytes(damaged.read_bytes()[:300])
  [bad] = _check(tmp_path)['bad']
  assert bad['name'] == 'class/b'
  assert '00003.jpg' in bad['reason']


def test_training_takes_the_index(root, tmp_path, monkeypatch):
  file = tmp_path / 'index.json'
  _check(root, file)
  monkeypatch.setattr(decode, 'probe', None)
  for split, count in (('train', 6), ('eval', 2)):
    assert len(sources.load(_data(root, index_file=str(file)),
                            split).records) == count
  # And a second look decodes nothing again.
  assert _check(root, file)['ok']


def test_goes_on_where_it_was(root, tmp_path, monkeypatch):
  file = tmp_path / 'index.json'
  seen, probed, original = [], [], decode.probe
  stopped = threading.Event()

  def stop(path, _):
    seen.append(path)
    if len(seen) == 3:
      raise KeyboardInterrupt

  def probe(path, *args):
    probed.append(path)
    if len(probed) > 5:  # However busy the machine is, something is left to do.
      stopped.wait(60)
    return original(path, *args)

  def shutdown(pool, wait=True, **options):
    shut(pool, wait=False, **options)
    stopped.set()
    shut(pool, wait)

  shut = concurrent.futures.ThreadPoolExecutor.shutdown
  monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, 'shutdown',
                      shutdown)
  monkeypatch.setattr(decode, 'probe', probe)
  with pytest.raises(KeyboardInterrupt):
    _check(root, file, progress=stop)
  before = len(probed)
  assert 3 <= before < 8
  assert _check(root, file)['ok']
  assert len(probed) <= 8 + before - 3
  assert set(probed[before:]).isdisjoint(seen)


def test_any_folder_and_prepared_folders(root, tmp_path):
  flat = tmp_path / 'flat'
  flat.mkdir()
  for i, file in enumerate(sorted(root.rglob('*.mp4'))):
    shutil.copy(file, flat / f'{i}.mp4')
  report = _check(flat)
  assert report['ok']
  assert report['summary']['classes'] == 0
  assert len(report['videos']) == 8
  assert cli.main(['prepare', str(root), '--out', str(tmp_path / 'out'),
                   '--name=small', '--shards=2', '--workers=1']) == 0
  prepared = tmp_path / 'out' / 'small' / '1.0.0'
  found = check.find(ml_collections.ConfigDict(
      dict(_data(root)) | {'root': str(prepared)}))
  report = check.run(found)
  assert report['ok'], report
  assert _names(report['videos']) == sorted(
      str(f.relative_to(root)) for f in root.rglob('*.mp4'))
  # Lists on a prepared folder are looked at, too.
  (tmp_path / 'train.txt').write_text(
      'train/jump/0.mp4 jump\ntrain/run/0.mp4 run\ntrain/run/1.mp4 fly\n')
  (tmp_path / 'eval.txt').write_text('train/run/0.mp4 run\n')
  (tmp_path / 'classes.txt').write_text('jump\nrun\n')
  listed = check.run(check.find(_data(
      prepared, train_list=str(tmp_path / 'train.txt'),
      eval_list=str(tmp_path / 'eval.txt'),
      classes=str(tmp_path / 'classes.txt'))))
  assert [_names(group) for group in listed['leaks']] == [
      ['train/run/0.mp4'] * 2]
  assert "'fly'" in listed['mistakes'][0] and not listed['bad']
  # What a shard holds is decoded, not believed.
  [shard] = [f for f in prepared.glob('*train*00000-of*')
             if 'array_record' in f.name]
  content = shard.read_bytes()
  place = content.index(b'mdat')
  shard.write_bytes(content[:place] + bytes(60) + content[place + 60:])
  assert not check.run(found)['ok']


def test_command(root, tmp_path, capsys):
  out = tmp_path / 'checked'
  assert cli.main(['check-data', str(root), '--out', str(out)]) == 0
  shown = capsys.readouterr().out
  assert 'No problem.' in shown
  assert f'--config.data.index_file={out}/index.json' in shown
  assert json.loads((out / 'report.json').read_text())['ok']
  assert (out / 'report.txt').read_text() in shown
  (root / 'train/run/text.mp4').write_text('no video')
  assert cli.main(['check-data', str(root), '--out', str(out)]) == 1
  assert 'PROBLEM: 1 videos cannot be used' in capsys.readouterr().out
  config = tmp_path / 'config.py'
  config.write_text('from configs import common\n'
                    'def get_config():\n'
                    '  config = common.get_config()\n'
                    f'  config.data.root = {str(root)!r}\n'
                    '  return config\n')
  assert cli.main(['check-data', f'--config={config}', '--out', str(out)]) == 1
  with pytest.raises(SystemExit, match='give the ROOT'):
    cli.main(['check-data'])


@pytest.mark.slow
@pytest.mark.parametrize('name, videos, frames, lies', [
    ('weizmann', 90, 5855, 0),
    ('ut_interaction_set1', 60, 7160, 60),
    ('ceiling_untrimmed', 16, 26909, 0),
])
def test_published_sets(shared, tmp_path, name, videos, frames, lies):
  file = tmp_path / 'index.json'
  report = _check(shared / 'data' / name, file)
  assert report['ok']
  assert len(report['videos']) == videos
  assert report['summary']['frames'] == frames
  assert len(report['header_differs']) == lies
  for row in report['header_differs']:
    assert 1 <= row['header_frames'] - row['frames'] <= 2


@pytest.mark.slow
def test_true_lengths_of_published_lists(shared):
  """The counts that stand in the sets' own tables, by their full decode."""
  for name in ('weizmann', 'ut_interaction_set1'):
    root = shared / 'data' / name
    rows = [line.split(',') for line in (
        root / 'annotations.csv').read_text().splitlines()]
    column = rows[0].index('frames')
    expected = {row[0]: int(row[column]) for row in rows[1:]}
    report = _check(root)
    assert {v['name']: v['frames'] for v in report['videos']} == expected
