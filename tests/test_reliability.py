"""Machines that fail: full disks, killed runs, no memory, odd places."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from input_pipeline import decode
from input_pipeline import index
from input_pipeline import synthetic


def _video(path, count=5):
  frames = np.zeros((count, 32, 48, 3), np.uint8)
  frames += np.arange(count, dtype=np.uint8)[:, None, None, None] * 20
  synthetic.encode(str(path), frames)
  return str(path)


def test_full_disk_keeps_the_old_index(tmp_path):
  folder = tmp_path / 'kept'
  file = folder / 'index.json'
  index.build([_video(tmp_path / '0.mp4')], index_file=str(file))
  before = file.read_bytes()
  more = [_video(tmp_path / f'{i}.mp4') for i in range(1, 4)]
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
  try:
    entries = index.build(more, index_file=str(file))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert [e.num_frames for e in entries.values()] == [5, 5, 5]
  assert file.read_bytes() == before
  assert os.listdir(folder) == ['index.json']


_SLOW_INDEX = """
import sys, time
from input_pipeline import decode, index
original = decode.probe
def probe(*args):
  time.sleep(0.05)
  return original(*args)
decode.probe, index._SAVE_SECONDS = probe, 0
index.build(sys.argv[2:], index_file=sys.argv[1], threads=1)
"""


def test_killed_index_goes_on_where_it_was(tmp_path, monkeypatch):
  videos = [_video(tmp_path / f'{i:02}.mp4', 3) for i in range(30)]
  file = tmp_path / 'index.json'
  child = subprocess.Popen([sys.executable, '-c', _SLOW_INDEX, str(file),
                            *videos])
  deadline = time.monotonic() + 60
  while not file.exists() and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.2)
  child.send_signal(signal.SIGKILL)
  child.wait()
  done = json.loads(file.read_text())['videos']  # whole, not half written
  assert 0 < len(done) < 30
  asked, original = [], index.decode.probe
  monkeypatch.setattr(index.decode, 'probe', lambda path, *args: (
      asked.append(path), original(path, *args))[1])
  entries = index.build(videos, index_file=str(file))
  assert all(e.num_frames == 3 for e in entries.values())
  assert len(asked) == 30 - len(done)
  assert not set(asked) & set(done)


def test_links_that_lead_nowhere(tmp_path):
  (tmp_path / 'broken.mp4').symlink_to(tmp_path / 'gone.mp4')
  (tmp_path / 'loop.mp4').symlink_to(tmp_path / 'loop.mp4')
  assert decode.probe(tmp_path / 'broken.mp4').error == 'no such file'
  assert 'cannot be read' in decode.probe(tmp_path / 'loop.mp4').error
  entries = index.build([str(tmp_path / n) for n in ('broken.mp4', 'loop.mp4')])
  assert all(e.error and not e.num_frames for e in entries.values())


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_files_that_may_not_be_read(tmp_path):
  path = _video(tmp_path / 'video.mp4')
  os.chmod(path, 0)
  assert decode.probe(path).error == 'no permission to read it'


def test_too_little_memory_is_told(tmp_path):
  path = _video(tmp_path / 'video.mp4')
  code = (
      'import resource, sys\n'
      'from input_pipeline import decode\n'
      'decode.decode_frames(sys.argv[1], [0])\n'
      'size = int(open("/proc/self/statm").read().split()[0]) * 4096\n'
      'resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, size + 2**26))\n'
      'try:\n'
      '  decode.decode_frames(sys.argv[1], [0, 1, 2, 3] * 10**5)\n'
      'except decode.VideoError as error:\n'
      '  print(error)\n'
      'print(decode.decode_frames(sys.argv[1], [4]).shape)\n')
  shown = subprocess.run([sys.executable, '-c', code, path], check=True,
                         capture_output=True, text=True).stdout.splitlines()
  assert shown == [f'{path}: there is not enough memory to decode it',
                   '(1, 32, 48, 3)']


def test_a_file_cut_off_after_it_was_indexed(tmp_path):
  path = _video(tmp_path / 'video.mp4', 40)
  entry = decode.probe(path)
  os.truncate(path, os.path.getsize(path) // 2)
  with pytest.raises(decode.VideoError) as caught:
    decode.decode_frames(path, [39], entry)
  assert caught.value.path == path


def test_another_video_in_its_place(tmp_path):
  """Its own frames come, or an error; never a mixture."""
  path = _video(tmp_path / 'video.mp4', 40)
  entry = decode.probe(path)
  for count in (10, 60):
    _video(path, count)
    if count < 40:
      with pytest.raises(decode.VideoError, match='10 frames'):
        decode.decode_frames(path, [5, 39], entry)
    else:
      np.testing.assert_array_equal(
          decode.decode_frames(path, [5, 39], entry),
          decode.decode_frames(path, [5, 39]))
