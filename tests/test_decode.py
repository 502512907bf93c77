"""Exact frames, whatever the codec, and clear words for what is no video."""

import contextlib
import dataclasses
import json
import os
import wave

import av
import numpy as np
from PIL import Image
import pytest

from benchmarks import packed_avi
from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import probing
from input_pipeline import synthetic

FRAMES = 48

# File name, encoder and its options: constant and open groups of pictures,
# B-frames in and out of order, formats that are not 8-bit 4:2:0.
CODECS = {
    'gop12.mp4': ('libx264', 'yuv420p', {
        'g': '12', 'bf': '0', 'sc_threshold': '0'}),
    'gop250.mp4': ('libx264', 'yuv420p', {
        'g': '250', 'bf': '3', 'sc_threshold': '0'}),
    'open_gop.mp4': ('libx264', 'yuv420p', {
        'g': '12', 'bf': '3', 'sc_threshold': '0',
        'x264-params': 'open-gop=1:b-pyramid=normal'}),
    'refresh.mp4': ('libx264', 'yuv420p', {
        'g': '12', 'x264-params': 'intra-refresh=1'}),
    'deep.mp4': ('libx264', 'yuv420p10le', {'g': '12'}),
    'hevc.mp4': ('libx265', 'yuv420p', {
        'g': '12', 'x265-params': 'log-level=none:bframes=3'}),
    'bframes.avi': ('mpeg4', 'yuv420p', {'g': '12', 'bf': '2'}),
    'packed.avi': ('mpeg4', 'yuv420p', {'g': '48', 'bf': '2', 'q': '3'}),
    'plain.avi': ('mpeg4', 'yuv420p', {'g': '12'}),
    'vp9.webm': ('libvpx-vp9', 'yuv420p', {
        'g': '12', 'deadline': 'realtime', 'cpu-used': '8'}),
    'layers.mp4': ('libx265', 'yuv420p', {
        'g': '24',
        'x265-params': 'log-level=none:bframes=7:temporal-layers=3'}),
    'deep_hevc.mkv': ('libx265', 'yuv420p10le', {
        'g': '12', 'x265-params': 'log-level=none'}),
    'mpeg1.mpg': ('mpeg1video', 'yuv420p', {'g': '12', 'bf': '2'}),
    'mpeg2.ts': ('mpeg2video', 'yuv420p', {'g': '12', 'bf': '2'}),
    'mpeg4.mp4': ('mpeg4', 'yuv420p', {'g': '12', 'bf': '2'}),
    'vp8.webm': ('libvpx', 'yuv420p', {
        'g': '12', 'deadline': 'realtime', 'cpu-used': '8', 'b': '1M'}),
    'av1.mkv': ('libsvtav1', 'yuv420p', {
        'g': '12', 'preset': '12', 'crf': '20'}),
    'full_range.avi': ('mjpeg', 'yuvj420p', {}),
    'still.gif': ('gif', 'rgb8', {}),
}


def numbered_frames(count=FRAMES, height=64, width=80):
  """Frames that show their number as six black or white blocks."""
  rng = np.random.default_rng(0)
  frames = rng.integers(80, 160, (height, width, 3), dtype=np.uint8) + (
      rng.integers(0, 30, (count, height, width, 3), dtype=np.uint8))
  for i in range(count):
    for bit in range(6):
      frames[i, 16:32, 12 * bit:12 * bit + 12] = 255 * (i >> bit & 1)
  return frames


def numbers(frames):
  """Reads the numbers back."""
  bits = frames[:, 20:28, :72].mean((1, 3)).reshape(len(frames), 6, 12)
  return ((bits.mean(2) > 128) << np.arange(6)).sum(1)


def plain(path, stream=0):
  """Decodes a file the simplest way."""
  with av.open(str(path)) as container:
    return np.stack([f.to_ndarray(format='rgb24') for f in container.decode(
        container.streams[stream])])


@pytest.fixture(scope='module')
def library(tmp_path_factory):
  """A folder with one file for each of `CODECS`."""
  folder = tmp_path_factory.mktemp('videos')
  for name, (codec, pix_fmt, options) in CODECS.items():
    if codec not in av.codecs_available:
      continue
    synthetic.encode(str(folder / name), numbered_frames(), codec,
                     pix_fmt=pix_fmt, options=options)
    if name == 'packed.avi':
      os.rename(folder / name, folder / 'unpacked')
      packed_avi.pack(folder / 'unpacked', folder / name)
  return folder


@pytest.mark.parametrize('name', CODECS)
def test_index_is_the_ordinal(library, name, monkeypatch):
  path = library / name
  if not path.exists():
    pytest.skip(f'this FFmpeg has no {CODECS[name][0]}')
  entry = decode.probe(path)
  assert entry.error == ''
  assert (entry.num_frames, entry.height, entry.width) == (FRAMES, 64, 80)
  reference = plain(path)
  np.testing.assert_array_equal(numbers(reference), np.arange(FRAMES))
  rng = np.random.default_rng(0)
  draws = [rng.integers(0, FRAMES, rng.integers(1, 9)) for _ in range(12)]
  for indices in [*draws, [47], [12], [46, 47, 11, 11, 0], range(FRAMES)]:
    for known in (entry, None):
      frames = decode.decode_frames(path, indices, known)
      np.testing.assert_array_equal(frames, reference[list(indices)])
  if entry.seekability() != 'from start':
    # A proven entry needs no second try from the start.
    with monkeypatch.context() as patch:
      patch.setattr(decode, '_decode_through', None)
      for indices in draws:
        decode.decode_frames(path, indices, entry)
  np.testing.assert_array_equal(decode.decode_all(path), reference)


def _count_seeks(monkeypatch):
  """Returns a list that grows by the time of each seek."""
  seeks, original = [], containers.open_video

  class Spy:
    def __init__(self, container):
      self._container = container

    def __getattr__(self, name):
      return getattr(self._container, name)

    def seek(self, time, **kwargs):
      seeks.append(time)
      self._container.seek(time, **kwargs)

  @contextlib.contextmanager
  def opened(*args, **kwargs):
    with original(*args, **kwargs) as video:
      video.container = Spy(video.container)
      yield video

  monkeypatch.setattr(containers, 'open_video', opened)
  return seeks


def test_seeks_only_forward_and_where_proven(library, monkeypatch):
  entries = {n: decode.probe(library / n) for n in CODECS
             if (library / n).exists()}
  assert entries['gop12.mp4'].keyframes == (0, 12, 24, 36)
  # Refreshed pictures are marked as key, but are none.
  assert entries['refresh.mp4'].keyframes == (0,)
  seeks = _count_seeks(monkeypatch)

  def count(name, indices):
    seeks.clear()
    decode.decode_frames(library / name, indices, entries[name])
    return len(seeks)

  assert count('gop12.mp4', [47]) == 1
  assert count('gop12.mp4', [0, 1, 11]) == 0
  assert count('gop12.mp4', [0, 24, 25, 36]) == 2
  # What comes next is not sought.
  assert count('gop12.mp4', [10, 12]) == 1
  assert count('gop12.mp4', [11, 12]) == 0
  assert count('gop250.mp4', [0, 47]) == 0
  # What has no index is read and passed over.
  assert count('mpeg1.mpg', [0, 47]) == 0
  assert decode.probe(library / 'gop12.mp4', 'header').keyframes == ()


@pytest.mark.parametrize('name', ['gop250.mp4', 'hevc.mp4', 'open_gop.mp4',
                                  'mpeg1.mpg', 'mpeg4.mp4', 'deep_hevc.mkv'])
def test_no_packet_is_read_after_the_one_of_the_last_frame(
    library, name, monkeypatch):
  path = library / name
  if not path.exists():
    pytest.skip(f'this FFmpeg has no {CODECS[name][0]}')
  entry = decode.probe(path)
  read, original = [], containers.Video.packets

  def packets(video):
    for packet in original(video):
      read.append(packet.pts)
      yield packet

  monkeypatch.setattr(containers.Video, 'packets', packets)
  for i, time in enumerate(entry.times()):
    read.clear()
    assert numbers(decode.decode_frames(path, [i], entry)) == [i]
    assert read[-1] == time


def test_packed_frames_are_known_by_their_packets(library, monkeypatch):
  path = library / 'packed.avi'
  with av.open(str(path)) as container:
    times = [f.pts for f in container.decode(video=0)]
  assert times[:7] == [1, 2, 4, 3, 5, 7, 6]  # as XviD's come
  entry = decode.probe(path)
  assert (entry.keyframes, entry.seekability()) == ((), 'packets')
  assert entry.anchors == ((0, 3, 16), (47, 0, 1))
  for i in range(FRAMES):
    assert numbers(decode.decode_frames(path, [i], entry)) == [i]
  # Others of one name may not be so: it is tried.
  monkeypatch.setattr(decode, '_decode_by_packet', lambda video, *args: (
      decode._decode_through(video, [t + 1 for t in args[0]], *args[1:])))
  assert decode.probe(path).seekability() == 'from start'
  monkeypatch.undo()
  # A file of another size is another file.
  late = dataclasses.replace(entry, packets=((2, 1, 48),), size=1)
  assert numbers(decode.decode_frames(path, [5], late)) == [5]


def test_a_fast_way_that_fails_starts_over(library, monkeypatch):
  def fail(video, *_):
    raise decode.VideoError(video.path, 'damaged here')

  path = library / 'gop12.mp4'
  entry = decode.probe(path)
  monkeypatch.setattr(decode, '_decode_by_time', fail)
  assert numbers(decode.decode_frames(path, [40, 3], entry)).tolist() == [40, 3]


@pytest.mark.parametrize('change', [
    {'pts': [0, 2, 1, 3]},  # Packed B-frames: in order, times are not.
    {'pts': [0, 1, 2]},  # A packet that gives no frame.
    {'pts': [0, 1, 1, 2], 'packets': [0, 1, 1, 2]},  # Times that repeat.
    {'pts': [None, 1, 2, 3]},  # No time.
    {'key_packets': set()},  # No key frame.
    {'key_frames': {2}},  # The first frame is none.
])
def test_times_that_prove_nothing(change):
  scan = probing._Scan([0, 3, 1, 2], {0}, [0, 1, 2, 3], {0})
  assert scan.is_seekable()
  assert not dataclasses.replace(scan, **change).is_seekable()


def test_containers_are_not_guessed_where_they_are_known(library, monkeypatch):
  path = library / 'gop12.mp4'
  entry = decode.probe(path)
  demuxers = [decode.probe(library / name).demuxer
              for name in ('gop12.mp4', 'plain.avi', 'vp8.webm', 'mpeg1.mpg')]
  assert demuxers == ['mov', 'avi', 'matroska', 'mpeg']
  opened, original = [], av.open
  monkeypatch.setattr(av, 'open', lambda *args, **kwargs: (
      opened.append(kwargs['format']), original(*args, **kwargs))[1])
  # Indices made earlier do not know them; others may be wrong.
  for demuxer, asked in (('mov', ['mov']), ('', [None]), ('avi', ['avi', None]),
                         ('no such', ['no such', None])):
    opened.clear()
    known = dataclasses.replace(entry, demuxer=demuxer)
    assert numbers(decode.decode_frames(path, [30, 3], known)).tolist() == (
        [30, 3])
    assert opened == asked


def test_one_thread_converts_what_differs(library):
  # One size, but full range, 10 bits and a palette beside the usual.
  names = ('gop12.mp4', 'full_range.avi', 'deep.mp4', 'still.gif')
  want = {name: plain(library / name) for name in names}
  for i in range(3):
    for name in names:
      np.testing.assert_array_equal(
          decode.decode_frames(library / name, [i]), want[name][[i]])


def test_stale_entry_falls_back_to_decoding_through(library):
  # The entry promises a key frame where the file has none.
  entry = decode.probe(library / 'gop12.mp4')
  path = library / 'gop250.mp4'
  np.testing.assert_array_equal(
      numbers(decode.decode_frames(path, [30, 5, 47], entry)), [30, 5, 47])


def test_seek_that_lands_at_an_unproven_frame_is_not_used(library):
  path = library / 'gop12.mp4'
  # The file has a key frame at 12, of which this entry knows nothing.
  entry = dataclasses.replace(decode.probe(path), keyframes=(0, 18))
  frames = decode._Frames(path, [20], True)
  with containers.open_video(path) as video:
    decode._decode_by_time(video, [20], entry, frames)
  assert frames.count == 0
  np.testing.assert_array_equal(
      numbers(decode.decode_frames(path, [20], entry)), [20])


def test_skipping_in_hevc_needs_one_temporal_layer(library):
  for name, one in (('hevc.mp4', True), ('layers.mp4', False),
                    ('gop12.mp4', False)):
    if (library / name).exists():
      with containers.open_video(library / name) as video:
        assert decode._has_one_layer(video.stream.codec_context) == one


def test_quick_opening_is_proven(library, monkeypatch):
  path = library / 'gop12.mp4'
  assert decode.probe(path).quick
  assert not decode.probe(library / 'mpeg1.mpg').quick
  opened, original = [], av.open
  monkeypatch.setattr(av, 'open', lambda *args, **kwargs: (
      opened.append(kwargs['options']), original(*args, **kwargs))[1])
  decode.decode_frames(path, [3], decode.probe(path))
  assert opened[-1] == containers._QUICK
  with containers.open_video(path, quick=True) as video:
    # Nothing was decoded that would tell it.
    assert video.stream.codec_context.pix_fmt is None
  # One of the first frames is lost when the file is opened quickly.
  scan = probing._Scan(pts=[0, 7, *decode.probe(path).times()[1:]])
  assert not probing._is_quick(path, scan, None, containers.LIMITS, 'mov')


def test_odd_size(tmp_path):
  frames = np.random.default_rng(0).integers(
      0, 256, (3, 35, 47, 3), dtype=np.uint8)
  synthetic.encode(str(tmp_path / 'odd.mkv'), frames, 'ffv1', pix_fmt='bgr0',
                   options={})
  np.testing.assert_array_equal(
      decode.decode_all(tmp_path / 'odd.mkv'), frames)


def test_rotation_brings_frames_upright(library, tmp_path):
  # What a phone writes in portrait: rows right to left, columns downwards.
  content = bytearray((library / 'gop12.mp4').read_bytes())
  place = content.index(b'tkhd') + 44
  matrix = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], '>i4')
  content[place:place + 36] = matrix.tobytes()
  path = tmp_path / 'portrait.mp4'
  path.write_bytes(content)
  stored = plain(path)
  entry = decode.probe(path)
  assert entry.rotation == -90
  np.testing.assert_array_equal(
      decode.decode_frames(path, [3, 40], entry),
      np.rot90(stored[[3, 40]], -1, (1, 2)))
  np.testing.assert_array_equal(
      decode.decode_frames(path, [3], entry, rotate=False), stored[[3]])


def _bad_files(folder, library):
  """Writes files that are no good video; returns {name: reason}."""
  whole = (library / 'gop12.mp4').read_bytes()
  (folder / 'empty.mp4').write_bytes(b'')
  (folder / 'text.mp4').write_text('a text file with the name of a video\n' * 9)
  (folder / 'cut.mp4').write_bytes(whole[:len(whole) // 2])
  (folder / 'folder.mp4').mkdir()
  with wave.open(str(folder / 'sound.wav'), 'wb') as sound:
    sound.setparams((1, 2, 8000, 800, 'NONE', ''))
    sound.writeframes(bytes(1600))
  return {
      'empty.mp4': 'empty',
      'text.mp4': 'not a video that FFmpeg can read',
      'cut.mp4': 'cut off before its index',
      'folder.mp4': 'directory',
      'sound.wav': 'no video stream',
      'missing.mp4': 'no such file',
  }


def test_bad_files_have_a_path_and_a_reason(library, tmp_path):
  for name, reason in _bad_files(tmp_path, library).items():
    path = tmp_path / name
    with pytest.raises(decode.VideoError, match=reason) as caught:
      decode.decode_frames(path, [0])
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    for mode in ('decode', 'header'):
      entry = decode.probe(path, mode)
      assert reason in entry.error
      assert entry.num_frames == 0


def _faststart(source, target):
  """Copies an MP4 file with its index at the head."""
  with av.open(str(source)) as whole, av.open(
      str(target), 'w', options={'movflags': 'faststart'}) as output:
    stream = output.add_stream_from_template(whole.streams.video[0])
    for packet in whole.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        output.mux(packet)


@pytest.mark.parametrize('name, codec', [
    ('cut.avi', 'mpeg4'), ('cut.mkv', 'libx264'), ('cut.mp4', 'libx264')])
def test_cut_off_files_are_bad_but_their_head_decodes(
    library, tmp_path, name, codec):
  path, whole = tmp_path / name, tmp_path / f'whole_{name}'
  if name.endswith('mp4'):
    _faststart(library / 'gop12.mp4', whole)
  else:
    synthetic.encode(str(whole), numbered_frames(), codec,
                     options={'g': '12', 'b': '4M'})
  assert decode.probe(whole).error == ''
  content = whole.read_bytes()
  path.write_bytes(content[:int(len(content) * 0.75)])
  entry = decode.probe(path)
  assert 5 < entry.num_frames < FRAMES
  assert 'cut off' in entry.error or 'damaged' in entry.error
  np.testing.assert_array_equal(
      numbers(decode.decode_frames(path, [4, 0])), [4, 0])


def test_repaired_frames_are_counted_and_never_sought(library, tmp_path):
  """What FFmpeg makes up depends on what it decoded before."""
  content = (library / 'open_gop.mp4').read_bytes()
  assert decode.probe(library / 'open_gop.mp4').repaired == 0
  found, path = 0, tmp_path / 'damaged.mp4'
  for start in range(len(content) // 3, len(content) * 2 // 3, 331):
    path.write_bytes(content[:start] + bytes(30) + content[start + 30:])
    entry = decode.probe(path)
    if entry.error or not entry.repaired:
      continue
    found += 1
    assert entry.num_frames == FRAMES
    assert entry.keyframes == entry.packets == ()
    every = decode.decode_all(path)
    np.testing.assert_array_equal(
        decode.decode_frames(path, [47, 20], entry), every[[47, 20]])
  assert found


def test_short_video_says_how_short(library):
  for entry in (None, decode.probe(library / 'gop12.mp4')):
    with pytest.raises(decode.VideoError, match=r'has 48 frames.*number 48'):
      decode.decode_frames(library / 'gop12.mp4', [0, 48], entry)
  with pytest.raises(ValueError, match='frame numbers from 0'):
    decode.decode_frames(library / 'gop12.mp4', [-1])


def test_frame_folder(tmp_path):
  frames = numbered_frames(5)
  for i, frame in enumerate(frames):
    Image.fromarray(frame).save(tmp_path / f'img_{i + 1:03d}.png')
  template = 'img_{:03d}.png'
  assert decode.probe_folder(tmp_path, template).num_frames == 5
  np.testing.assert_array_equal(
      decode.decode_folder(tmp_path, [4, 0, 4], template), frames[[4, 0, 4]])
  with pytest.raises(decode.VideoError, match=r'img_006\.png is missing'):
    decode.decode_folder(tmp_path, [5], template)
  assert 'holds no frame' in decode.probe_folder(tmp_path, '{}.jpg').error


def test_published_clips_behave_as_their_manifest_says(shared):
  folder = shared / 'data' / 'clips'
  rng = np.random.default_rng(0)
  for clip in json.loads((folder / 'MANIFEST.json').read_text())['clips']:
    if clip['file'] == 'nasa_two_video_streams.mp4':
      # Its figures are those of the first stream; FFmpeg's best is larger.
      clip |= {'frames': 390, 'frames_declared': 390, 'height': 270,
               'width': 480}
    path, count = folder / clip['file'], clip['frames']
    entry = decode.probe(path)
    assert entry.num_frames == count, path
    assert bool(entry.error) == (clip['expected'] != 'ok'), path
    if count:
      assert (entry.height, entry.width, entry.rotation) == (
          clip['height'], clip['width'], clip['rotation_deg']), path
      assert entry.header_frames == clip['frames_declared'], path
      assert not (clip['pts_nonmonotone_steps'] and entry.keyframes), path
    if clip['expected'] == 'ok':
      reference = plain(path, entry.stream)
      for _ in range(4):
        indices = rng.integers(0, count, rng.integers(1, 9))
        for known in (entry, None):
          np.testing.assert_array_equal(
              decode.decode_frames(path, indices, known, rotate=False),
              reference[indices], err_msg=str(path))
    else:
      with pytest.raises(decode.VideoError):
        decode.decode_all(path)
