"""The index asks each file once, and notices what changes."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import index
from input_pipeline import synthetic


@pytest.fixture
def videos(tmp_path):
  """Three small videos and a text file with a video's name."""
  paths = []
  for i in range(3):
    paths.append(str(tmp_path / f'{i}.mp4'))
    frames = np.full((4 + i, 32, 32, 3), 40 * i, np.uint8)
    synthetic.encode(paths[-1], frames)
  paths.append(str(tmp_path / 'text.mp4'))
  (tmp_path / 'text.mp4').write_text('no video')
  return paths


@pytest.fixture
def probed(monkeypatch):
  """A list that grows by each file that is opened."""
  opened, original = [], decode.probe

  def probe(path, *args):
    opened.append(os.path.basename(path))
    return original(path, *args)

  monkeypatch.setattr(decode, 'probe', probe)
  return opened


def test_tells_lengths_and_damage(videos):
  entries = index.build(videos)
  assert list(entries) == videos
  assert [e.num_frames for e in entries.values()] == [4, 5, 6, 0]
  assert [bool(e.error) for e in entries.values()] == [False] * 3 + [True]
  assert index.build(videos, threads=1) == entries
  missing = index.build([videos[0] + 'x'])
  assert missing[videos[0] + 'x'].error == 'no such file'


def test_asks_only_new_and_changed_files(videos, probed, tmp_path):
  file = str(tmp_path / 'kept' / 'index.json')
  first = index.build(videos[:3], index_file=file)
  assert sorted(probed) == ['0.mp4', '1.mp4', '2.mp4']
  probed.clear()
  assert index.build(videos[:3], index_file=file) == first
  assert probed == []
  index.build(videos, index_file=file)
  assert probed == ['text.mp4']
  probed.clear()
  synthetic.encode(videos[1], np.zeros((9, 32, 32, 3), np.uint8))
  assert index.build(videos, index_file=file)[videos[1]].num_frames == 9
  assert probed == ['1.mp4']
  assert os.listdir(tmp_path / 'kept') == ['index.json']
  # Either of time and size tells a change.
  probed.clear()
  status = os.stat(videos[0])
  os.utime(videos[0], ns=(0, status.st_mtime_ns + 1))
  index.build(videos, index_file=file)
  assert probed == ['0.mp4']
  probed.clear()
  with open(videos[0], 'ab') as video:
    video.write(b'more')
  os.utime(videos[0], ns=(0, status.st_mtime_ns + 1))
  index.build(videos, index_file=file)
  assert probed == ['0.mp4']


def test_what_was_bad_is_asked_again_when_what_judges_changes(
    videos, probed, tmp_path, monkeypatch):
  file = str(tmp_path / 'index.json')
  small = containers.Limits(max_pixels=100)
  bad = index.build(videos[:1], index_file=file, limits=small)
  assert 'data.max_pixels=100 allows' in bad[videos[0]].error
  probed.clear()
  assert index.build(videos[:1], index_file=file, limits=small) == bad
  assert probed == []
  good = index.build(videos[:1], index_file=file)
  assert good[videos[0]].num_frames == 4 and probed == ['0.mp4']
  probed.clear()
  index.build([videos[3]], index_file=file)
  index.build([videos[3]], index_file=file)
  assert probed == ['text.mp4']
  monkeypatch.setattr(index.av, 'ffmpeg_version_info', 'another')
  index.build([videos[0], videos[3]], index_file=file)
  assert probed == ['text.mp4'] * 2


def test_full_decode_serves_both_modes(videos, probed, tmp_path):
  file = str(tmp_path / 'index.json')
  index.build(videos[:1], 'header', file)
  entry = index.build(videos[:1], 'decode', file)[videos[0]]
  assert entry.keyframes == (0,)
  assert len(probed) == 2
  assert index.build(videos[:1], 'header', file)[videos[0]] == entry
  assert len(probed) == 2
  with pytest.raises(ValueError, match=r"data\.index .* not 'guess'"):
    index.build(videos[:1], 'guess', file)


@pytest.mark.parametrize('content', [
    '{"version": 1, "videos": {', '[]', json.dumps({'version': 1})])
def test_unreadable_index_is_built_anew(videos, tmp_path, content):
  file = tmp_path / 'index.json'
  file.write_text(content)
  entries = index.build(videos[:1], index_file=str(file))
  assert entries[videos[0]].num_frames == 4
  assert json.loads(file.read_text())['version'] == 2


def test_index_that_cannot_be_written_stops_nothing(videos):
  # Its directory would lie below a file.
  entries = index.build(videos[:1], index_file=videos[0] + '/index.json')
  assert entries[videos[0]].num_frames == 4


def test_digest_follows_content_not_time(videos):
  before = [e.digest for e in index.build(videos[:3]).values()]
  assert len(set(before)) == 3
  os.utime(videos[0], (1, 1))
  video = pathlib.Path(videos[1])
  content = bytearray(video.read_bytes())
  content[-1] ^= 1
  video.write_bytes(content)
  after = [e.digest for e in index.build(videos[:3]).values()]
  assert [a == b for a, b in zip(after, before)] == [True, False, True]


def test_digest_covers_head_and_tail(tmp_path):
  content = bytearray(1_000_000)
  file = tmp_path / 'large'
  digests = set()
  for place in (None, 0, 65535, -65536, -1):
    changed = bytearray(content)
    if place is not None:
      changed[place] = 1
    file.write_bytes(changed)
    digests.add(index.hash_ends([str(file)], 1))
  file.write_bytes(bytes(1_000_001))
  assert len(digests | {index.hash_ends([str(file)], 1)}) == 6


def test_fingerprint_is_of_the_set():
  rows = [('a', 0, 'x'), ('b', None, 'y'), ('c', 1, 'z')]
  whole = index.fingerprint(rows)
  assert index.fingerprint(reversed(rows)) == whole
  for changed in (
      ('d', 1, 'z'), ('c', 0, 'z'), ('c', 1, 'w'), ('c', None, 'z')):
    assert index.fingerprint([*rows[:2], changed]) != whole


def test_entry_survives_the_file(videos, tmp_path):
  file = str(tmp_path / 'index.json')
  entry = index.build(videos[2:3], index_file=file)[videos[2]]
  again = index.build(videos[2:3], index_file=file)[videos[2]]
  assert dataclasses.asdict(again) == dataclasses.asdict(entry)
  np.testing.assert_array_equal(
      decode.decode_frames(videos[2], [5, 1], again),
      decode.decode_frames(videos[2], [5, 1]))
