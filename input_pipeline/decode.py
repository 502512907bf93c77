"""Exact frames from video files: index i is the i-th frame that decodes.

Presentation times do not number frames (MPEG-4 in AVI with packed B-frames has
them out of order), container headers do not count them, and seeking is safe
only where output times are known to equal the sorted packet times. So frames
are counted as they leave the decoder; `probe` finds out once per file, by a
full decode, whether counting can be shortened by seeking.

Of several video streams the first is taken.
"""

import contextlib
import dataclasses
import io
import os

import av
from av.video import reformatter as av_reformatter
import numpy as np
from PIL import Image

from input_pipeline import storage
from input_pipeline import zips

# A file whose header promises more frames than this multiple of what decodes
# has lost its end. Headers that are off by one or two frames are common.
_TRUNCATED = 0.9


class VideoError(ValueError):
  """A video that cannot give the frames asked of it.

  Attributes:
    path: the file.
    reason: why, as a phrase that can follow the path.
  """

  def __init__(self, path, reason):
    super().__init__(os.fspath(path), reason)
    self.path = os.fspath(path)
    self.reason = reason

  def __str__(self):
    return f'{self.path}: {self.reason}'


@dataclasses.dataclass(frozen=True)
class IndexEntry:
  """What is known of a video before training.

  Attributes:
    num_frames: frames that decode (mode 'decode') or packets (mode 'header').
    height: rows of a frame as stored, before rotation.
    width: columns of a frame as stored, before rotation.
    rotation: degrees, counter-clockwise positive, that bring frames upright.
    codec: FFmpeg's name of the decoder; 'folder' for a folder of images.
    header_frames: frame count that the container claims; 0 if it says nothing.
    rate: frames per second on average, as the container claims; 0 if it says
      nothing.
    pts: presentation times of the frames, in order, as runs (first, step,
      count). Empty if they do not prove that seeking is safe.
    keyframes: frame indices at which decoding can start; empty like `pts`.
    size: bytes of the file.
    mtime_ns: its modification time.
    digest: SHA-256 of its size, head and tail; '' before `index.build`.
    error: why the file is bad, '' if it is good.
  """

  num_frames: int = 0
  height: int = 0
  width: int = 0
  rotation: int = 0
  codec: str = ''
  header_frames: int = 0
  rate: float = 0.0
  pts: tuple[tuple[int, int, int], ...] = ()
  keyframes: tuple[int, ...] = ()
  size: int = 0
  mtime_ns: int = 0
  digest: str = ''
  error: str = ''


def decode_frames(path, indices, index_entry=None, rotate=True):
  """Decodes frames of a video by their ordinal.

  Args:
    path: video file.
    indices: frame numbers from 0, in any order, repeats allowed.
    index_entry: what `probe` found; allows seeking where it proved it safe.
      None decodes from the start.
    rotate: apply the rotation that the file asks for.

  Returns:
    uint8 [len(indices), H, W, 3], RGB, 0 to 255, in the order of `indices`.

  Raises:
    VideoError: the file is missing, unreadable, no video, damaged before the
      last index, or shorter than that.
  """
  indices = [int(i) for i in indices]
  if not indices or min(indices) < 0:
    raise ValueError(f'indices must be frame numbers from 0, not {indices}')
  targets = sorted(set(indices))
  frames = None
  if index_entry is not None and index_entry.pts:
    frames = _decode_seeking(path, targets, index_entry, rotate)
  if frames is None:
    frames = _decode_through(path, targets, rotate)
  _check_one_size(path, frames.values())
  return np.stack([frames[i] for i in indices])


def decode_all(path, rotate=True):
  """Decodes every frame of a video.

  Args:
    path: video file.
    rotate: apply the rotation that the file asks for.

  Returns:
    uint8 [n, H, W, 3], RGB, 0 to 255.

  Raises:
    VideoError: as `decode_frames`; a file damaged at its end raises too.
  """
  frames = list(iterate(path, rotate))
  _check_one_size(path, frames)
  return np.stack(frames)


def iterate(path, rotate=True):
  """Decodes every frame of a video, one after the other.

  Args:
    path: video file.
    rotate: apply the rotation that the file asks for.

  Yields:
    uint8 [H, W, 3], RGB, 0 to 255; of one size unless the file changes it.

  Raises:
    VideoError: as `decode_all`, when the damage is reached.
  """
  reformatter = av_reformatter.VideoReformatter()
  empty = True
  with _open(path) as (container, stream):
    for frame in container.decode(stream):
      yield _to_rgb(reformatter, frame, rotate)
      empty = False
  if empty:
    raise VideoError(path, 'its video stream holds no frame')


def decode_folder(path, indices, template='{:05d}.jpg', first_frame=1):
  """Reads frames of a video stored as one image file per frame.

  Args:
    path: folder of the images, or a record with an archive of them, whose order
      tells the frames' numbers, whatever their names.
    indices: frame numbers from 0, in any order, repeats allowed.
    template: file name by frame number.
    first_frame: number of the first frame in the file names.

  Returns:
    uint8 [len(indices), H, W, 3], RGB, 0 to 255.

  Raises:
    VideoError: an image is missing or unreadable, or sizes differ.
  """
  frames = {}
  if storage.split_record(path):
    frames = _decode_archive(path, {int(i) for i in indices})
  for i in sorted({int(i) for i in indices} - set(frames)):
    name = template.format(i + first_frame)
    try:
      with Image.open(os.path.join(path, name)) as image:
        frames[i] = np.asarray(image.convert('RGB'))
    except OSError as error:
      raise VideoError(
          path, f'frame {name} is missing or unreadable') from error
  _check_one_size(path, frames.values())
  return np.stack([frames[int(i)] for i in indices])


def _decode_archive(path, indices):
  """Returns {number: frame} of an archive of images."""
  try:
    blob = storage.media(path).getbuffer()
    spans = zips.members(blob)
  except (OSError, ValueError) as error:
    raise VideoError(path, f'its archive of images cannot be read ({error})'
                    ) from error
  frames = {}
  for i in sorted(indices):
    if i >= len(spans):
      raise _too_short(path, len(spans), i)
    try:
      with Image.open(io.BytesIO(blob[slice(*spans[i])])) as image:
        frames[i] = np.asarray(image.convert('RGB'))
    except OSError as error:
      raise VideoError(path, f'frame {i} (from 0) is unreadable') from error
  return frames


def probe(path, mode='decode', medium=None):
  """Finds the true length of a video, its damage, and whether it can seek.

  Args:
    path: video file.
    mode: 'decode' decodes every frame (no colour conversion); 'header' counts
      packets, which trusts the container and never allows seeking.
    medium: `io.BytesIO` of the file, if it is not at its place yet.

  Returns:
    IndexEntry. A bad file has `error` set, and `num_frames` tells how many
    frames decode before the damage.
  """
  if mode not in ('decode', 'header'):
    raise ValueError(f"data.index must be 'decode' or 'header', not {mode!r}")
  scan = _Scan()
  error = ''
  try:
    with _open(path, medium) as (container, stream):
      _scan(container, stream, mode, scan)
      error = scan.damage(container, stream)
  except VideoError as failure:
    error = failure.reason
    if scan.packets:
      error += f' after {len(scan.pts)} frames'
  num_frames = len(scan.pts) if mode == 'decode' else len(scan.packets)
  if not error and not num_frames:
    error = 'its video stream holds no frame'
  seekable = not error and scan.is_seekable()
  return IndexEntry(
      num_frames=num_frames,
      height=scan.height,
      width=scan.width,
      rotation=scan.rotation,
      codec=scan.codec,
      header_frames=scan.header_frames,
      rate=scan.rate,
      pts=_to_runs(scan.pts) if seekable else (),
      keyframes=tuple(scan.keyframes()) if seekable else (),
      error=error,
  )


def probe_folder(path, template='{:05d}.jpg', first_frame=1):
  """Counts the frames of a video stored as one image file per frame.

  Args:
    path: folder of the images.
    template: file name by frame number.
    first_frame: number of the first frame in the file names.

  Returns:
    IndexEntry; frames count up to the first missing number.
  """
  try:
    names = set(os.listdir(path))
    num_frames = 0
    while template.format(first_frame + num_frames) in names:
      num_frames += 1
    first = template.format(first_frame)
    if not num_frames:
      return IndexEntry(codec='folder', error=f'it holds no frame {first}')
    with Image.open(os.path.join(path, first)) as image:
      width, height = image.size
  except OSError as error:
    return IndexEntry(codec='folder', error=f'unreadable folder ({error})')
  return IndexEntry(num_frames, height, width, codec='folder')


@contextlib.contextmanager
def _open(path, medium=None):
  """Yields (container, first video stream); failures become VideoError."""
  path = os.fspath(path)
  try:
    medium = medium or storage.media(path)
    size = (len(medium.getbuffer()) if isinstance(medium, io.BytesIO)
            else os.path.getsize(medium))
    if size == 0:
      raise VideoError(path, 'the file is empty (0 bytes)')
    container = av.open(medium)
  except (av.FFmpegError, OSError, ValueError) as error:
    raise VideoError(path, _open_reason(error)) from error
  try:
    if not container.streams.video:
      raise VideoError(path, 'it has no video stream')
    stream = container.streams.video[0]
    # One clip per worker is faster than several threads on one clip, and
    # frame threads delay errors and skipping.
    stream.codec_context.thread_type = 'NONE'
    stream.codec_context.thread_count = 1
    yield container, stream
  except av.FFmpegError as error:
    raise VideoError(
        path, f'damaged: FFmpeg stops decoding ({_brief(error)})') from error
  finally:
    container.close()


def _open_reason(error):
  if isinstance(error, VideoError):
    return error.reason
  if isinstance(error, FileNotFoundError):
    return 'no such file'
  if isinstance(error, PermissionError):
    return 'no permission to read it'
  if isinstance(error, IsADirectoryError):
    return 'it is a directory, not a video file'
  return ('not a video that FFmpeg can read, or cut off before its index '
          f'({_brief(error)})')


def _brief(error):
  """FFmpeg's message without the errno and the repeated path."""
  return (getattr(error, 'strerror', None) or str(error) or
          type(error).__name__)


def _to_rgb(reformatter, frame, rotate):
  # threads=1: swscale's own threads cost more than they bring.
  rgb = reformatter.reformat(frame, format='rgb24', threads=1).to_ndarray()
  turns = round(frame.rotation / 90) % 4 if rotate else 0
  return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def _too_short(path, num_frames, index):
  return VideoError(path, f'it has {num_frames} frames; frame number {index} '
                    '(from 0) was asked for')


def _check_one_size(path, frames):
  sizes = sorted({f.shape[:2] for f in frames})
  if len(sizes) > 1:
    raise VideoError(path, f'its frames change size: {sizes[0]}, {sizes[1]}')


def _decode_through(path, targets, rotate):
  """Returns {ordinal: frame}, decoding from the start."""
  reformatter = av_reformatter.VideoReformatter()
  wanted = set(targets)
  found = {}
  ordinal = 0
  with _open(path) as (container, stream):
    for frame in container.decode(stream):
      if ordinal in wanted:
        found[ordinal] = _to_rgb(reformatter, frame, rotate)
        if ordinal == targets[-1]:
          return found
      ordinal += 1
  raise _too_short(path, ordinal, targets[-1])


def _decode_seeking(path, targets, entry, rotate):
  """Returns {ordinal: frame} by seeking, or None if a seek went astray."""
  pts = _from_runs(entry.pts)
  if targets[-1] >= len(pts):
    raise _too_short(path, len(pts), targets[-1])
  keyframes = np.asarray(entry.keyframes)
  key_of = {pts[k]: k for k in entry.keyframes}
  wanted = {pts[i]: i for i in targets}
  reformatter = av_reformatter.VideoReformatter()
  found = {}
  # Last keyframe whose packet the decoder has had; the file starts at frame 0.
  reached = 0
  with _open(path) as (container, stream):
    packets = container.demux(stream)
    # Frames that nothing refers to can be left out, bit-exactly; measured
    # for H.264 only, and only frames known by their time survive the gaps.
    skips = entry.codec == 'h264'
    for target in targets:
      key = int(keyframes[np.searchsorted(keyframes, target, 'right') - 1])
      landed = True
      if key > reached:
        container.seek(pts[key], stream=stream)
        packets = container.demux(stream)
        landed = False
      while target not in found:
        packet = next(packets, None)
        if packet is None:
          return None
        passed = key_of.get(packet.pts)
        if not landed and (passed is None or passed > key):
          return None
        landed = True
        if passed is not None:
          reached = max(reached, passed)
        if skips:
          needed = packet.pts is None or packet.pts in wanted
          stream.codec_context.skip_frame = 'DEFAULT' if needed else 'NONREF'
        for frame in packet.decode():
          i = wanted.get(frame.pts)
          if i is not None and i not in found:
            found[i] = _to_rgb(reformatter, frame, rotate)
  return found


@dataclasses.dataclass
class _Scan:
  """What one pass over a file saw."""

  # Times of the packets that hold data, in file order; those of keyframes.
  packets: list = dataclasses.field(default_factory=list)
  key_packets: set = dataclasses.field(default_factory=set)
  # Times of the decoded frames, in output order; those that are key pictures.
  pts: list = dataclasses.field(default_factory=list)
  key_frames: set = dataclasses.field(default_factory=set)
  height: int = 0
  width: int = 0
  rotation: int = 0
  codec: str = ''
  header_frames: int = 0
  rate: float = 0.0

  def keyframes(self):
    keys = self.key_packets & self.key_frames
    return [i for i, t in enumerate(self.pts) if t in keys]

  def is_seekable(self):
    """Tells whether output times are the sorted, distinct packet times."""
    if not self.pts or None in self.pts or None in self.packets:
      return False
    return (self.pts == sorted(self.packets) and
            len(set(self.pts)) == len(self.pts) and
            self.keyframes()[:1] == [0])

  def damage(self, container, stream):
    """Returns why a file that ended without an error is still cut off."""
    count = len(self.pts or self.packets)
    if count and count < _TRUNCATED * self.header_frames - 1:
      return (f'cut off: it holds {count} frames of the '
              f'{self.header_frames} that its header promises')
    # Matroska tells no count, but a duration; other containers guess it.
    if (self.pts and None not in self.pts and container.duration and
        'matroska' in container.format.name and len(container.streams) == 1):
      seconds = float((self.pts[-1] - self.pts[0]) * stream.time_base)
      promised = container.duration / av.time_base
      # Sparse frames (a slide show) may leave a long last one.
      step = seconds / max(len(self.pts) - 1, 1)
      if seconds + 2 * step < _TRUNCATED * promised:
        return (f'cut off: its frames end at {seconds:.1f} s of the '
                f'{promised:.1f} s that its header promises')
    return ''


def _scan(container, stream, mode, scan):
  """Fills `scan`; a failure leaves in it what was seen before."""
  scan.codec = stream.codec_context.name
  scan.header_frames = stream.frames
  scan.rate = float(stream.average_rate or 0)
  scan.height, scan.width = stream.height, stream.width
  path = container.name
  for packet in container.demux(stream):
    if packet.size:
      scan.packets.append(packet.pts)
      if packet.is_keyframe:
        scan.key_packets.add(packet.pts)
    if mode == 'header':
      continue
    for frame in packet.decode():
      if not scan.pts:
        # The header's size is a claim; the frame's is a fact.
        scan.height, scan.width = frame.height, frame.width
        scan.rotation = round(frame.rotation)
      elif (frame.height, frame.width) != (scan.height, scan.width):
        raise VideoError(path, 'its frames change size: '
                         f'{(scan.height, scan.width)}, '
                         f'{(frame.height, frame.width)}')
      # Packets of intra-refresh pictures are marked as key; the decoder knows
      # that they hold no whole image.
      if frame.key_frame:
        scan.key_frames.add(frame.pts)
      scan.pts.append(frame.pts)


def _to_runs(values):
  """Packs a sequence of integers into runs (first, step, count)."""
  runs = []
  for value in values:
    if runs:
      first, step, count = runs[-1]
      if count == 1:
        runs[-1] = (first, value - first, 2)
        continue
      if value == first + step * count:
        runs[-1] = (first, step, count + 1)
        continue
    runs.append((value, 0, 1))
  return tuple(runs)


def _from_runs(runs):
  """Unpacks what `_to_runs` packed."""
  return [first + step * i for first, step, count in runs
          for i in range(count)]
