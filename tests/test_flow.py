"""Optical flow of data sets: extracted, stored, read, stacked."""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from input_pipeline import decode
from input_pipeline import flow
from input_pipeline import resizing
from input_pipeline import sources
from input_pipeline import stored_flow
from input_pipeline import synthetic
from vidattn_jax import cli
from vidattn_jax.tools import flow as methods

_ROOT = pathlib.Path(__file__).parents[1]
_LENGTHS = {'a/00.mp4': 8, 'a/02.mp4': 14, 'b/01.mp4': 11, 'b/03.mp4': 6}


def _moving(num_frames, seed, size=(20, 24)):
  """Texture that moves by two pixels to the right in each frame."""
  image = np.asarray(PIL.Image.fromarray(
      np.random.default_rng(seed).integers(0, 256, (9, 16, 3), np.uint8)
      ).resize((80, 40), PIL.Image.Resampling.BICUBIC))
  return np.stack([np.roll(image, 2 * t, 1)[8:8 + size[0], 20:20 + size[1]]
                   for t in range(num_frames)])


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('videos')
  for seed, (name, length) in enumerate(_LENGTHS.items()):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    synthetic.encode(str(path), _moving(length, seed))
  folder = root / 'b' / 'frames'
  folder.mkdir()
  for i, frame in enumerate(_moving(7, 9), 1):
    PIL.Image.fromarray(frame).save(folder / f'{i:05d}.jpg')
  return root


def _differences(frames, bound):
  """A flow that is quick, and that tells which frames it is of."""
  means = frames.astype(np.float64).mean(-1)
  fields = np.stack([means[1:] - means[:-1], means[1:] * 0.3], -1)
  return np.clip(fields * 20 / bound + 128, 0, 255).astype(np.uint8)


def _method(compute=_differences, pairs=5, **values):
  return flow.Method('quick', {'gain': 0.3}, 'numpy', compute, pairs, **values)


def _extract(root, out, method=None, **values):
  return flow.extract(sources.gather_videos([str(root)]), str(out),
                      method or _method(), **values)


def _files(folder):
  return {str(p.relative_to(folder)): p.read_bytes()
          for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def stored(root, tmp_path_factory):
  out = tmp_path_factory.mktemp('flow')
  summary = _extract(root, out)
  assert summary.dropped == [] and summary.kept == []
  assert summary.written == sorted([*_LENGTHS, 'b/frames'])
  assert summary.pairs == sum(_LENGTHS.values()) - len(_LENGTHS) + 6
  return out


def test_stored_fields_are_the_computed_ones(root, stored):
  for name in _LENGTHS:
    expected = _differences(decode.decode_all(str(root / name)), 20)
    path = stored_flow.locate(str(stored), name)
    np.testing.assert_array_equal(
        stored_flow.read(path, range(len(expected))), expected)
    np.testing.assert_array_equal(stored_flow.read(path, [3, 0, 3]),
                                  expected[[3, 0, 3]])
  frames = decode.decode_folder(str(root / 'b/frames'), range(7))
  np.testing.assert_array_equal(
      stored_flow.read(stored_flow.locate(str(stored), 'b/frames'), range(6)),
      _differences(frames, 20))


def test_header_tells_how_it_was_made(stored):
  header = stored_flow.read_header(stored_flow.locate(str(stored), 'a/02.mp4'))
  assert header == {
      'bound': 20.0, 'method': 'quick', 'parameters': {'gain': 0.3},
      'library': 'numpy', 'format': 'array_record', 'frames': 14, 'count': 13,
      'height': 20, 'width': 24, 'version': 1}


def test_jpeg_pairs_are_those_of_other_programs(root, stored, tmp_path):
  _extract(root, tmp_path, encoding='jpeg', workers=2)
  folder = tmp_path / 'a/00.mp4'
  assert sorted(p.name for p in folder.iterdir()) == sorted(
      ['flow.json', *(f'flow_{a}_{i:05d}.jpg' for a in 'xy'
                      for i in range(1, 8))])
  exact, found = (stored_flow.read(stored_flow.locate(str(out), 'a/00.mp4'),
                                   range(7)) for out in (stored, tmp_path))
  assert 0 < np.abs(found.astype(int) - exact).mean() < 2
  x = np.asarray(PIL.Image.open(folder / 'flow_x_00003.jpg'))
  np.testing.assert_array_equal(x, found[2, ..., 0])


@pytest.mark.parametrize('encoding', stored_flow.FORMATS)
def test_only_what_is_missing_is_done_again(root, tmp_path, encoding):
  _extract(root, tmp_path, encoding=encoding)
  whole = _files(tmp_path)
  lost = stored_flow.locate(str(tmp_path), 'a/02.mp4')
  half = stored_flow.locate(str(tmp_path), 'b/01.mp4')
  again = ['a/02.mp4', 'b/01.mp4']
  if encoding == 'jpeg':
    for name in os.listdir(lost):
      os.remove(os.path.join(lost, name))
    os.remove(os.path.join(half, 'flow_y_00010.jpg'))
    # In the middle of a video, too.
    (tmp_path / 'b/frames/flow_x_00005.jpg').unlink()
    (tmp_path / 'a/00.mp4/flow_x_00005.jpg').write_bytes(b'')
    again += ['a/00.mp4', 'b/frames']
    (tmp_path / 'a/00.mp4.123.part').mkdir()
    (tmp_path / 'a/00.mp4.123.part/flow_x_00001.jpg').write_bytes(b'x')
  else:
    os.remove(lost)
    with open(half, 'r+b') as file:
      file.truncate(40_000)
    (tmp_path / 'a/00.mp4.array_record.123.part').write_bytes(b'x')
  summary = _extract(root, tmp_path, encoding=encoding)
  assert summary.written == sorted(again)
  assert sorted(summary.kept) == sorted({*_LENGTHS, 'b/frames'} - {*again})
  assert _files(tmp_path) == whole


def test_flow_of_another_version_is_told(root, tmp_path, caplog):
  one = {'one.mp4': str(root / 'b/03.mp4')}
  two = {**one, 'two.mp4': str(root / 'b/03.mp4')}
  flow.extract(one, str(tmp_path), _method())
  newer = dataclasses.replace(_method(), library='numpy 9')
  flow.extract(one, str(tmp_path), newer)  # Nothing is missing.
  assert not caplog.messages
  told = []
  flow.extract(two, str(tmp_path), newer, begin=told.append)
  assert told == [1]
  [message] = caplog.messages
  assert message.startswith(str(tmp_path))
  assert ' holds flow that was computed by numpy, and' in message
  assert ' what is missing is computed by numpy 9;' in message


def test_workers_and_chunks_change_nothing(root, stored, tmp_path):
  _extract(root, tmp_path, _method(pairs=2), workers=3)
  assert _files(tmp_path) == _files(stored)


def test_unusable_videos_are_named(root, tmp_path):
  bad = tmp_path / 'bad'
  synthetic.encode(str(_make(bad / 'one.mp4')), _moving(1, 0))
  good = (root / 'a/02.mp4').read_bytes()
  (bad / 'cut.mp4').write_bytes(good[:len(good) // 2])
  (bad / 'good.mp4').write_bytes(good)
  for number, size in enumerate([(20, 24), (20, 24), (24, 20)], 1):
    PIL.Image.fromarray(_moving(1, 0, size)[0]).save(
        _make(bad / 'sizes' / f'{number:05d}.jpg'))
  told = []
  videos = {**sources.gather_videos([str(bad)]), 'gone.mp4': 'gone.mp4'}
  summary = flow.extract(videos, str(tmp_path / 'out'), _method(),
                         report=lambda *args: told.append(args))
  reasons = dict(summary.dropped)
  assert summary.written == ['good.mp4']
  assert list(reasons) == ['cut.mp4', 'gone.mp4', 'one.mp4', 'sizes']
  assert 'it has one frame' in reasons['one.mp4']
  assert 'no such file' in reasons['gone.mp4']
  assert 'change size: (20, 24), (24, 20)' in reasons['sizes']
  assert sorted(told) == sorted([('good.mp4', ''), *summary.dropped])
  assert '4 dropped' in str(summary)
  assert str(summary).endswith(f'Dropped sizes: {reasons["sizes"]}')
  assert list(_files(tmp_path / 'out')) == ['good.mp4.array_record']


def _make(path):
  path.parent.mkdir(exist_ok=True, parents=True)
  return path


@pytest.mark.parametrize('values, message', [
    ({'bound': 15.0}, r'a/00\.mp4.*was made with bound=20\.0, not 15\.0'),
    ({'encoding': 'jpeg'}, "format='array_record', not 'jpeg'"),
    ({'size': [10, 12]}, r'was made with size=0, not \[10, 12\]'),
    ({'size': -1}, 'size of flow is -1'),
    ({'encoding': 'gif'}, "format 'gif' is unknown"),
    ({'bound': 0.0}, 'must be above 0'), ({'workers': 0}, 'must be above 0')])
def test_settings_that_do_not_fit_are_refused(root, stored, values, message):
  before = _files(stored)
  with pytest.raises(ValueError, match=message):
    _extract(root, stored, **values)
  assert _files(stored) == before


def test_a_directory_has_one_run_at_a_time(root, tmp_path):
  def compute(frames, bound):
    with pytest.raises(ValueError, match='in use by another'):
      _extract(root, tmp_path)
    return _differences(frames, bound)

  _extract(root, tmp_path, _method(compute, pairs=100))


def test_names_that_lead_out_stay_inside(root, tmp_path):
  videos = {'../up.mp4': str(root / 'a/00.mp4'),
            str(root / 'b/03.mp4'): str(root / 'b/03.mp4')}
  before = _files(root)
  flow.extract(videos, str(tmp_path / 'out'), _method())
  assert _files(root) == before
  assert len(_files(tmp_path / 'out')) == 2 == len(_files(tmp_path))
  for name in videos:
    stored_flow.read(stored_flow.locate(str(tmp_path / 'out'), name), [0])


def test_videos_are_those_of_roots_lists_and_arguments(root, tmp_path):
  assert list(sources.gather_videos([str(root)])) == [
      'a/00.mp4', 'a/02.mp4', 'b/01.mp4', 'b/03.mp4', 'b/frames']
  listed = tmp_path / 'list.txt'
  listed.write_text('b/01.mp4 1\na/00.mp4 0\n')
  assert sources.gather_videos([str(root)], [str(listed)]) == {
      'b/01.mp4': str(root / 'b/01.mp4'), 'a/00.mp4': str(root / 'a/00.mp4')}
  single = str(root / 'b/frames')
  assert sources.gather_videos([single]) == {'frames': single}
  with pytest.raises(ValueError, match='00.mp4 is the name of 2 videos'):
    sources.gather_videos([str(root / 'a/00.mp4')] * 2)
  with pytest.raises(ValueError, match='holds no video'):
    sources.gather_videos([str(tmp_path)])


def test_damage_is_told_when_read(stored, tmp_path):
  path = stored_flow.locate(str(stored), 'a/02.mp4')
  content = pathlib.Path(path).read_bytes()
  for kept in (0, 10, len(content) // 2, len(content) - 10):
    damaged = tmp_path / 'half.array_record'
    damaged.write_bytes(content[:kept])
    for look in (stored_flow.read_header, lambda p: stored_flow.read(p, [0])):
      with pytest.raises(decode.VideoError, match='damaged or half written'):
        look(str(damaged))
  with pytest.raises(decode.VideoError, match='damaged or half written'):
    stored_flow.read(path, [13])
  with pytest.raises(decode.VideoError, match='flow is missing; run'):
    stored_flow.locate(str(tmp_path), 'a/02.mp4')
  (tmp_path / 'old').mkdir()
  with pytest.raises(decode.VideoError, match=r'no flow\.json, so that its b'):
    stored_flow.read_header(str(tmp_path / 'old'))


@pytest.mark.parametrize('size, shape', [(10, (10, 12)), ([12, 20], (12, 20))])
def test_frames_are_brought_to_a_size_before(root, tmp_path, size, shape):
  _extract(root, tmp_path, size=size)
  frames = resizing.resize(decode.decode_all(str(root / 'a/02.mp4')), size)
  path = stored_flow.locate(str(tmp_path), 'a/02.mp4')
  np.testing.assert_array_equal(stored_flow.read(path, range(13)),
                                _differences(frames, 20))
  header = stored_flow.read_header(path)
  assert (header['height'], header['width']) == shape == frames.shape[1:3]
  assert header['size'] == size
  assert stored_flow.check(str(tmp_path), 'a/02.mp4', 14, 20.0, size)
  for other in (0, 11, [12, 21]):
    with pytest.raises(ValueError, match=r'a/02\.mp4.*data\.flow_size is'):
      stored_flow.check(str(tmp_path), 'a/02.mp4', 14, 20.0, other)
    with pytest.raises(ValueError, match='was made with size='):
      _extract(root, tmp_path, size=other)

  def read(indices):
    return decode.decode_all(str(root / 'a/02.mp4'))[indices]

  np.testing.assert_array_equal(
      flow.fields(read, [1, 2, 7], _method(), 20.0, size),
      stored_flow.read(path, [1, 2, 7]))


def test_flow_of_other_bound_or_video_is_refused(stored):
  args = str(stored), 'a/02.mp4'
  assert stored_flow.check(*args, 14, 20.0)['count'] == 13
  with pytest.raises(ValueError, match='bound is 20 pixels, data.flow_bo'):
    stored_flow.check(*args, 14, 15.0)
  with pytest.raises(ValueError, match=r'flow of 14 frames, but a/02\.mp4'):
    stored_flow.check(*args, 15, 20.0)


@pytest.fixture(scope='module')
def tvl1():
  return flow.Method(**methods.get_method('tvl1'))


def test_tvl1_sees_motion_and_pads_alike(tvl1):
  frames = _moving(4, 3)
  fields = tvl1.compute(frames, 20.0)
  assert fields.shape == (3, 20, 24, 2)
  x, y = np.median(fields[:, 6:-6, 6:-6], (0, 1, 2))
  # Two pixels of 20: 128 + 12.75.
  assert abs(x - 140.25) < 2 and abs(y - 127.5) < 2
  np.testing.assert_array_equal(tvl1.compute(frames[1:3], 20.0), fields[1:2])
  finer = tvl1.compute(frames, 10.0)
  assert abs(np.median(finer[:, 6:-6, 6:-6, 0]) - 153) < 4


def test_opencv_agrees_with_tvl1(tvl1):
  pytest.importorskip('cv2')
  theirs = flow.Method(**methods.get_method('opencv'))
  assert theirs.parameters == pytest.approx(tvl1.parameters)
  assert theirs.processes and 'OpenCV' in theirs.library
  frames = _moving(4, 3)
  differences = np.abs(theirs.compute(frames, 20.0).astype(int) -
                       tvl1.compute(frames, 20.0))
  assert differences.mean() < 0.3


def test_command_in_worker_processes(root, tmp_path, capsys):
  pytest.importorskip('cv2')
  (tmp_path / 'bad.mp4').write_bytes(b'no video')
  out = tmp_path / 'out'
  videos = [str(root / 'a/00.mp4'), str(root / 'b/03.mp4')]
  args = ['flow', f'--out={out}', '--method=opencv', '--workers=2']
  assert cli.main([*args, *videos]) == 0
  said = capsys.readouterr()
  assert '2 videos written (12 fields' in said.out
  assert ' 0/2 [' in said.err and ' 2/2 [' in said.err
  with pytest.raises(SystemExit, match='made with size=0, not 12'):
    cli.main([*args, *videos, '--size=12'])
  assert cli.main([*args, *videos, str(tmp_path / 'bad.mp4')]) == 1
  said = capsys.readouterr()
  assert '0 videos written' in said.out and '2 were there' in said.out
  assert 'Dropped bad.mp4: not a video' in said.out
  # The rate is that of the third: what was there does not count.
  assert ' 2/3 [00:00<?' in said.err and ' 3/3 [' in said.err
  assert ' 0/3 [' not in said.err
  with pytest.raises(SystemExit, match="no method of flow 'tv1'"):
    cli.main([*args, '--method=tv1', *videos])


def _start(root, out, *more):
  return subprocess.Popen(
      [sys.executable, '-m', 'vidattn_jax.cli', 'flow', str(root),
       f'--out={out}', *more], cwd=_ROOT, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL, start_new_session=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu',
           'JAX_COMPILATION_CACHE_DIR': os.path.expanduser(
               '~/.cache/vidattn_jax/tests')})


@pytest.mark.slow
@pytest.mark.parametrize('more', [
    ('--workers=2',), ('--method=opencv', '--workers=2', '--format=jpeg')])
def test_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path, more):
  if '--method=opencv' in more:
    pytest.importorskip('cv2')
  root = tmp_path / 'root'
  for i in range(10):
    synthetic.encode(str(_make(root / 'ab'[i % 2] / f'{i}.mp4')),
                     _moving(40, i, (28, 40)))
  assert _start(root, tmp_path / 'whole', *more).wait(300) == 0
  want = _files(tmp_path / 'whole')
  out, rng = tmp_path / 'killed', random.Random(2)
  parts = []
  for kill in range(4):
    process = _start(root, out, *more)
    patience = len(_finished(out)) + rng.randint(0, 1)
    # Two kills wait until a file is half written.
    aim_at_part = kill in (1, 2)
    while process.poll() is None:
      if len(_finished(out)) >= patience and (
          not aim_at_part or _find(out, '*.part')):
        break
      time.sleep(0.002)
    assert process.poll() is None, 'the run ended before it was killed'
    # The process alone: those that it has started must notice.
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts.append(len(_find(out, '*.part')))
  assert sum(map(bool, parts)) >= 2
  assert 1 <= len(_finished(out)) < 10
  assert _start(root, out, *more).wait(300) == 0
  assert _files(out) == want


def _finished(out):
  return [p for pattern in ('*.array_record', 'flow.json')
          for p in _find(out, pattern) if '.part' not in str(p)]


def _find(out, pattern):
  """Lists files while a run writes them: again if a folder is renamed."""
  while True:
    try:
      return list(out.rglob(pattern))
    except FileNotFoundError:
      continue
