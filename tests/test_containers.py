"""Whatever is wrong with a file: a sentence that names it, and no harm."""

import contextlib
import dataclasses
import gc
import io
import os
import socket
import subprocess
import sys
import time
import types

import av
import numpy as np
import pytest

from configs import common
from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import index
from input_pipeline import storage
from input_pipeline import synthetic


def _write(path, count=6, size=(32, 48), codec='libx264', pix_fmt='yuv420p',
           **options):
  frames = np.zeros((count, *size, 3), np.uint8)
  frames += np.arange(count, dtype=np.uint8)[:, None, None, None] * 20
  synthetic.encode(str(path), frames, codec, pix_fmt=pix_fmt, options=options)
  return path


@pytest.fixture
def video(tmp_path):
  return _write(tmp_path / 'video.mp4')


@pytest.mark.parametrize('failure, reason, passing', [
    (MemoryError(), 'not enough memory', True),
    (av.error.MemoryError(12, 'Cannot allocate memory'), 'enough memory', True),
    (OverflowError('too large'), 'too large', False),
    (UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'bad'), 'utf-8', False),
    (RuntimeError('of PyAV'), 'of PyAV', False),
    (NotImplementedError('no such format'), 'no such format', False),
    (av.error.InvalidDataError(1, 'Invalid data'), r'damaged.*Invalid', False),
    (OSError(5, 'Input/output error'), 'cannot be read now', True),
    (OSError(24, 'Too many open files'), 'Too many open files', True),
])
def test_failures_of_a_codec_name_the_file(video, monkeypatch, failure, reason,
                                           passing):
  def fail(*_):
    raise failure

  monkeypatch.setattr(decode, '_to_rgb', fail)
  for run in (lambda: decode.decode_frames(video, [0]),
              lambda: decode.decode_all(video)):
    with pytest.raises(decode.VideoError, match=reason) as caught:
      run()
    assert caught.value.path == str(video)
    assert caught.value.passing == passing


def test_faults_of_the_program_are_no_bad_video(video, monkeypatch):
  monkeypatch.setattr(decode, '_to_rgb', lambda *_: undefined)  # noqa: F821
  with pytest.raises(NameError):
    decode.decode_frames(video, [0])


def test_failures_that_may_pass_are_not_kept(video, tmp_path, monkeypatch):
  file = str(tmp_path / 'index.json')
  with monkeypatch.context() as patch:
    patch.setattr(av, 'open', lambda *_, **__: (_ for _ in ()).throw(
        OSError(24, 'Too many open files')))
    [entry] = index.build([str(video)], index_file=file).values()
    assert 'Too many open files' in entry.error
  [entry] = index.build([str(video)], index_file=file).values()
  assert (entry.error, entry.num_frames) == ('', 6)


def test_time_limit(video, monkeypatch):
  slow = containers.Limits(seconds=0.05)
  original = decode._to_rgb

  def late(*args):
    time.sleep(0.03)
    return original(*args)

  monkeypatch.setattr(decode, '_to_rgb', late)
  with pytest.raises(decode.VideoError, match=r'longer than 0\.05 s.*seconds'):
    decode.decode_frames(video, [0, 3, 5], limits=slow)
  # Where all frames are wanted, the time is for each.
  assert len(decode.decode_all(video, limits=slow)) == 6
  assert len(decode.decode_frames(video, range(6))) == 6


def test_time_limit_of_a_file_without_frames(video, monkeypatch):
  """Packets that decode to nothing cannot go on for ever."""
  with containers.open_video(video) as opened:
    packets = list(opened.packets())[:1]

  def endless(self):
    while True:
      yield packets[0]
      self.check_clock()

  monkeypatch.setattr(containers.Video, 'packets', endless)
  monkeypatch.setattr(containers.Video, 'restart_clock',
                      lambda self: setattr(self, '_deadline', started + 0.2))
  started = time.monotonic()
  entry = decode.probe(video, limits=containers.Limits(seconds=0.2))
  assert 'longer than 0.2 s' in entry.error
  assert entry.passing
  assert time.monotonic() - started < 5


def test_largest_frame(tmp_path):
  path = _write(tmp_path / 'large.mp4', 2, (64, 96))
  fits = containers.Limits(max_pixels=64 * 96)
  assert decode.decode_all(path, limits=fits).shape == (2, 64, 96, 3)
  for run in (lambda limits: decode.decode_all(path, limits=limits),
              lambda limits: decode.decode_frames(path, [1], limits=limits)):
    with pytest.raises(decode.VideoError, match=r'96x64.*data\.max_pixels='):
      run(containers.Limits(max_pixels=64 * 96 - 1))


def test_frames_larger_than_the_header_claims(tmp_path):
  """The decoder itself knows the limit, whatever the header says."""
  small = _write(tmp_path / 'small.avi', 2, (32, 48), 'mjpeg', 'yuvj420p')
  large = _write(tmp_path / 'large.avi', 2, (480, 640), 'mjpeg', 'yuvj420p')
  packets = []
  for path in (small, large):
    with av.open(str(path)) as source:
      packets += [bytes(p) for p in source.demux(video=0) if p.size][:1]
  with av.open(str(tmp_path / 'lies.avi'), 'w') as target, av.open(
      str(small)) as header:
    stream = target.add_stream_from_template(header.streams.video[0])
    for i, content in enumerate(packets):
      packet = av.Packet(content)
      packet.stream, packet.pts, packet.dts = stream, i, i
      target.mux(packet)
  assert 'its frames change size' in decode.probe(tmp_path / 'lies.avi').error
  # The second is not even decoded: it would be 30 times as large.
  limits = containers.Limits(max_pixels=100 * 100)
  entry = decode.probe(tmp_path / 'lies.avi', limits=limits)
  assert 'damaged: FFmpeg stops' in entry.error
  with pytest.raises(decode.VideoError, match='damaged: FFmpeg stops'):
    decode.decode_frames(tmp_path / 'lies.avi', [1], limits=limits)


def test_header_of_a_giant_allocates_nothing(shared):
  """A claim of 12336x12336 pixels: 456 MB a frame in RGB."""
  path = shared / 'data' / 'clips' / 'vp9_invalid_bitstream.webm'
  code = (
      'import resource, sys\n'
      'from input_pipeline import decode\n'
      'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
      'entry = decode.probe(sys.argv[1])\n'
      'after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
      'print(after - before, entry.error)')
  shown = subprocess.run([sys.executable, '-c', code, str(path)], check=True,
                         capture_output=True, text=True).stdout
  grown, error = shown.split(maxsplit=1)
  assert '12336x12336' in error
  assert 'data.max_pixels' in error
  assert int(grown) < 20_000  # kB


def test_pipes_are_not_opened(tmp_path):
  os.mkfifo(tmp_path / 'pipe.mp4')
  with pytest.raises(decode.VideoError, match='a pipe or device'):
    decode.decode_frames(tmp_path / 'pipe.mp4', [0])
  assert 'pipe or device' in decode.probe('/dev/zero').error


@pytest.mark.parametrize('text', [
    '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n'
    '#EXT-X-ENDLIST\n',
    'ffconcat version 1.0\nfile {url}/a.mp4\n'])
def test_playlists_reach_nothing(tmp_path, text):
  """A text file with a video's name must not make FFmpeg fetch."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    server.settimeout(0.2)
    url = f'http://127.0.0.1:{server.getsockname()[1]}'
    for name in ('playlist.mp4', 'playlist.m3u8'):
      (tmp_path / name).write_text(text.format(url=url))
      entry = decode.probe(tmp_path / name,
                           limits=containers.Limits(seconds=1))
      assert entry.error and not entry.num_frames
      # In memory, FFmpeg itself would take any protocol.
      medium = io.BytesIO((tmp_path / name).read_bytes())
      assert decode.probe(name, medium=medium,
                          limits=containers.Limits(seconds=1)).error
    with pytest.raises(TimeoutError):
      server.accept()


@pytest.mark.parametrize('name', [
    'a:b.mp4', 'http:video.mp4', '100%.mp4', 'x%03d.mp4', 'ä ö.mp4', "'\".mp4",
    b'\xff\xfe.mp4'])
def test_any_name_of_a_file(video, tmp_path, name, monkeypatch):
  monkeypatch.chdir(tmp_path)
  name = os.fsdecode(name)
  os.rename(video, name)
  assert decode.decode_frames(name, [5]).shape == (1, 32, 48, 3)
  [entry] = index.build([name], index_file='index.json').values()
  assert entry.num_frames == 6
  os.truncate(name, 100)
  with pytest.raises(decode.VideoError) as caught:
    decode.decode_frames(name, [5])
  str(caught.value).encode()  # can be printed


def test_from_memory_as_from_disk(video):
  content = video.read_bytes()
  storage.write_bytes('memory://folder/video.mp4', content)
  place = 'memory://folder/video.mp4'
  entry, local = decode.probe(place), decode.probe(video)
  assert entry == local
  for indices in ([4], [0, 5, 2]):
    np.testing.assert_array_equal(decode.decode_frames(place, indices, entry),
                                  decode.decode_frames(video, indices, local))
  assert decode.probe('nowhere', medium=io.BytesIO(content)) == local
  built = index.build([place, str(video)], contents=True)
  assert built[place].digest == built[str(video)].digest != ''
  assert built[place].content == built[str(video)].content != ''
  storage.write_bytes('memory://folder/empty.mp4', b'')
  assert 'empty' in decode.probe('memory://folder/empty.mp4').error
  assert 'no such file' in decode.probe('memory://folder/none.mp4').error


def _two_streams(path, sizes):
  frames = [np.full((3, *size, 3), 80 * i, np.uint8)
            for i, size in enumerate(sizes, 1)]
  with av.open(str(path), 'w') as output:
    streams = []
    for part in frames:
      stream = output.add_stream('libx264', 25, options={'crf': '0'})
      stream.height, stream.width = part.shape[1:3]
      stream.pix_fmt = 'yuv420p'
      streams.append(stream)
    for stream, part in zip(streams, frames, strict=True):
      for image in part:
        output.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
      output.mux(stream.encode())


def test_the_best_of_several_streams(tmp_path):
  path = tmp_path / 'two.mkv'
  _two_streams(path, [(32, 48), (64, 96)])
  with av.open(str(path)) as container:
    best = container.streams.best('video').index
  entry = decode.probe(path)
  assert entry.stream == best
  assert (entry.height, entry.width) == [(32, 48), (64, 96)][best]
  for known in (entry, None):
    frames = decode.decode_frames(path, [2], known)
    assert frames.shape[1:3] == (entry.height, entry.width)
  with containers.open_video(path) as video:  # others' packets are passed over
    assert [s.index for s in video.container.streams
            if s.discard != av.stream.Discard.all] == [best]
  # What was indexed is taken, and another file is noticed.
  other = dataclasses.replace(entry, stream=1 - best)
  assert decode.decode_frames(path, [2], other).shape != frames.shape
  with pytest.raises(decode.VideoError, match='other streams'):
    decode.decode_frames(path, [2], dataclasses.replace(entry, stream=7))


def test_published_file_with_two_streams(shared):
  """FFmpeg's best is the larger one; the manifest's figures are the first's."""
  path = shared / 'data' / 'clips' / 'nasa_two_video_streams.mp4'
  entry = decode.probe(path)
  assert (entry.stream, entry.num_frames) == (3, 390)
  assert (entry.height, entry.width) == (270, 480)
  assert entry.quick
  np.testing.assert_array_equal(decode.decode_frames(path, [0, 200], entry),
                                decode.decode_frames(path, [0, 200]))
  with containers.open_video(path, stream=0) as video:
    assert sum(1 for _ in video.frames()) == 325


class _Demuxed:
  """Packets, and a note of whether they were closed."""

  def __init__(self, packets, note):
    self._packets, self._note = packets, note

  def __iter__(self):
    return self._packets

  def close(self):
    self._packets.close()
    self._note.closed = True


def test_packets_that_are_left_are_freed(video):
  with containers.open_video(video) as opened:
    # PyAV's own frees nothing when it is merely forgotten.
    given = types.SimpleNamespace(demux=lambda stream: demuxed, closed=False)
    demuxed = _Demuxed(opened.container.demux(opened.stream), given)
    opened.container = given
    for packet in opened.packets():
      assert packet.size
      break
  assert given.closed


def test_bad_limits():
  data = common.get_config().data
  assert containers.limits_of(data) == containers.LIMITS
  data.max_pixels = 0
  with pytest.raises(ValueError, match=r'data\.max_pixels=0 must'):
    containers.limits_of(data)
  data.decode_seconds = 0.0
  with pytest.raises(ValueError, match=r'data\.decode_seconds=0 must'):
    containers.limits_of(data)


def _resident():
  with open('/proc/self/statm', encoding='ascii') as file:
    return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='no /proc')
def test_memory_is_flat_over_ten_thousand_opens(tmp_path):
  """Good files, cut and damaged ones, text, pixels past the limit."""
  good = _write(tmp_path / 'good.mp4')
  entry = decode.probe(good)
  packed = _write(tmp_path / 'other.avi', codec='mpeg4', bf='2')
  content = good.read_bytes()
  (tmp_path / 'cut.mp4').write_bytes(content[:len(content) // 2])
  (tmp_path / 'text.mp4').write_text('no video')
  (tmp_path / 'empty.mp4').write_bytes(b'')
  broken = bytearray(packed.read_bytes())
  broken[len(broken) // 2:len(broken) // 2 + 200] = bytes(200)
  (tmp_path / 'broken.avi').write_bytes(broken)
  small = containers.Limits(max_pixels=100)
  work = [
      lambda: decode.decode_frames(good, [0, 5], entry),
      lambda: decode.decode_frames(good, [5], limits=small),
      lambda: decode.decode_frames(good, [99]),
      lambda: decode.probe(packed),
      lambda: decode.probe('nowhere', medium=io.BytesIO(content)),
      *(lambda name=name: decode.decode_all(tmp_path / name)
        for name in ('cut.mp4', 'text.mp4', 'empty.mp4', 'broken.avi',
                     'none.mp4'))]
  sizes = []
  for i in range(10_000):
    with contextlib.suppress(decode.VideoError):
      work[i % len(work)]()
    if i % 1000 == 999:
      gc.collect()
      sizes.append(_resident())
  # The first thousand fill what stays.
  assert sizes[-1] - sizes[0] < 4e6, sizes
