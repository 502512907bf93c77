"""What a full decode tells of a video: length, damage, and how to find frames.

Presentation times do not number frames (MPEG-4 in AVI with packed B-frames has
them out of order) and container headers do not count them. So each file is
decoded once, and what that proves is kept: that output times are the sorted
packet times, which makes seeking safe, or which packet releases which frame,
which makes leaving out B-frames safe.
"""

import dataclasses
import io
import itertools

import av
from av.video import frame as av_frame
from PIL import Image

from input_pipeline import containers
from input_pipeline import storage
from input_pipeline import zips

# A file whose header promises more frames than this multiple of what decodes
# has lost its end. Headers that are off by one or two frames are common.
_TRUNCATED = 0.9
# Codecs without reordering by content: the packet alone tells when a frame
# comes out, whether or not B-frames are decoded.
_STEADY = ('mpeg4',)
# Frames by which it is seen whether a file may be opened quickly.
_FIRST = 20


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
    pts: presentation times, sorted, as runs (first, step, count); empty if
      some are unknown.
    time_base: seconds of one unit of `pts`, as a fraction.
    keyframes: frame numbers at which decoding can start; empty if it is not
      proven that frames are known by their times.
    packets: number of the packet that releases each frame, as runs; empty if
      one releases several, or `keyframes` are known.
    anchors: numbers of the frames that are no B-frames, as runs; empty like
      `packets`.
    stream: number of the stream in the file.
    quick: whether `containers.open_video` may be quick.
    demuxer: FFmpeg's name of what reads the container; '' if not known.
    repaired: frames that FFmpeg made up in part, as their data is damaged.
    size: bytes of the file.
    mtime_ns: its modification time, or another stamp that changes with it.
    digest: SHA-256 of its size, head and tail; '' before `index.build`.
    content: SHA-256 of all its bytes; '' before `vidattn check-data`.
    error: why the file is bad, '' if it is good.
    passing: whether a second try may find it good.
  """

  num_frames: int = 0
  height: int = 0
  width: int = 0
  rotation: int = 0
  codec: str = ''
  header_frames: int = 0
  rate: float = 0.0
  pts: tuple[tuple[int, int, int], ...] = ()
  time_base: tuple[int, int] = (0, 1)
  keyframes: tuple[int, ...] = ()
  packets: tuple[tuple[int, int, int], ...] = ()
  anchors: tuple[tuple[int, int, int], ...] = ()
  stream: int = 0
  quick: bool = False
  demuxer: str = ''
  repaired: int = 0
  size: int = 0
  mtime_ns: int | str = 0
  digest: str = ''
  content: str = ''
  error: str = ''
  passing: bool = False

  def times(self):
    """Returns the presentation times as a list."""
    return from_runs(self.pts)

  def seekability(self):
    """Tells how frames are found: a word for reports."""
    if self.codec == 'folder':
      return 'images'
    if self.keyframes:
      return 'seek'
    return 'packets' if self.packets else 'from start'


def probe(path, mode='decode', medium=None, limits=containers.LIMITS):
  """Finds the true length of a video, its damage, and whether it can seek.

  Args:
    path: place of the file.
    mode: 'decode' decodes every frame (no colour conversion); 'header' counts
      packets, which trusts the container and never allows seeking.
    medium: `io.BytesIO` of the file, if it is not at its place yet.
    limits: `containers.Limits`.

  Returns:
    IndexEntry. A bad file has `error` set, and `num_frames` tells how many
    frames decode before the damage.
  """
  if mode not in ('decode', 'header'):
    raise ValueError(f"data.index must be 'decode' or 'header', not {mode!r}")
  if zips.is_archive(medium):
    return _probe_archive(path, medium, limits)
  scan = _Scan()
  error, passing, telling, demuxer = '', False, False, ''
  try:
    with containers.open_video(path, limits, medium=medium) as video:
      _scan(video, mode, scan)
      error = scan.damage(video.container, video.stream)
      telling = containers.tells_all(video)
      demuxer = containers.demuxer_of(video)
  except containers.VideoError as failure:
    error, passing = failure.reason, failure.passing
    if scan.packets:
      error += f' after {len(scan.pts)} frames'
  times = scan.pts if mode == 'decode' else scan.packets
  if not error and not times:
    error = 'its video stream holds no frame'
  # What FFmpeg makes up depends on what it decoded before.
  sound = not error and not scan.repaired
  seekable = sound and scan.is_seekable()
  steady = sound and not seekable and scan.is_steady()
  return IndexEntry(
      num_frames=len(times),
      height=scan.height,
      width=scan.width,
      rotation=scan.rotation,
      codec=scan.codec,
      header_frames=scan.header_frames,
      rate=scan.rate,
      pts=() if None in times else to_runs(sorted(times)),
      time_base=scan.time_base,
      keyframes=tuple(scan.keyframes()) if seekable else (),
      packets=to_runs(scan.released) if steady else (),
      anchors=to_runs(scan.anchors) if steady else (),
      stream=scan.stream,
      quick=seekable and telling and _is_quick(
          path, scan, medium, limits, demuxer),
      demuxer=demuxer,
      repaired=scan.repaired,
      error=error,
      passing=passing,
  )


def _is_quick(path, scan, medium, limits, demuxer):
  """Tells whether a file opened quickly gives the same first frames.

  Without a look at them a decoder may not know how far frames are reordered,
  and lose some.
  """
  try:
    with containers.open_video(
        path, limits, scan.stream, medium, True, demuxer) as video:
      frames = itertools.islice(video.frames(), _FIRST)
      return [f.pts for f in frames] == scan.pts[:_FIRST]
  except containers.VideoError:
    return False


def probe_folder(path, template='{:05d}.jpg', first_frame=1,
                 limits=containers.LIMITS):
  """Counts the frames of a video stored as one image file per frame.

  Args:
    path: folder of the images.
    template: file name by frame number.
    first_frame: number of the first frame in the file names.
    limits: `containers.Limits`.

  Returns:
    IndexEntry; frames count up to the first missing number.
  """
  first = template.format(first_frame)
  try:
    with containers.naming(path, limits, 'it cannot be read'):
      names = set(storage.list_dir(path))
      num_frames = 0
      while template.format(first_frame + num_frames) in names:
        num_frames += 1
      if not num_frames:
        raise containers.VideoError(path, f'it holds no frame {first}')
      with Image.open(storage.media(storage.join(path, first))) as image:
        width, height = image.size
  except containers.VideoError as error:
    return IndexEntry(codec='folder', error=error.reason, passing=error.passing)
  return IndexEntry(num_frames, height, width, codec='folder')


def _probe_archive(path, medium, limits):
  """Counts the images of an archive in memory."""
  try:
    with containers.naming(path, limits, 'damaged archive of images'):
      blob = medium.getbuffer()
      spans = zips.members(blob)
      if not spans:
        raise containers.VideoError(path, 'it holds no frame')
      with Image.open(io.BytesIO(blob[slice(*spans[0])])) as image:
        width, height = image.size
  except containers.VideoError as error:
    return IndexEntry(codec='folder', error=error.reason)
  return IndexEntry(len(spans), height, width, codec='folder')


@dataclasses.dataclass
class _Scan:
  """What one pass over a file saw."""

  # Times of the packets that hold data, in file order; those of keyframes.
  packets: list = dataclasses.field(default_factory=list)
  key_packets: set = dataclasses.field(default_factory=set)
  # Times of the decoded frames, in output order; those that are key pictures.
  pts: list = dataclasses.field(default_factory=list)
  key_frames: set = dataclasses.field(default_factory=set)
  # Number of the packet, the last empty one included, that released each.
  released: list = dataclasses.field(default_factory=list)
  anchors: list = dataclasses.field(default_factory=list)
  height: int = 0
  width: int = 0
  rotation: int = 0
  codec: str = ''
  header_frames: int = 0
  rate: float = 0.0
  time_base: tuple = (0, 1)
  stream: int = 0
  repaired: int = 0

  def keyframes(self):
    keys = self.key_packets & self.key_frames
    return [i for i, t in enumerate(self.pts) if t in keys]

  def is_seekable(self):
    """Tells whether output times are the sorted, distinct packet times."""
    if not self.pts or None in self.pts or None in self.packets:
      return False
    shown = sorted(self.packets)
    if self.codec in _STEADY and len(self.pts) < len(shown):
      # Packets of pictures that are not coded give no frame.
      shown = sorted(set(shown) & set(self.pts))
    return (self.pts == shown and len(set(self.pts)) == len(self.pts) and
            self.keyframes()[:1] == [0])

  def is_steady(self):
    """Tells whether each frame has a packet of its own that releases it."""
    return (self.codec in _STEADY and bool(self.anchors) and
            len(set(self.released)) == len(self.released))

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


def _scan(video, mode, scan):
  """Fills `scan`; a failure leaves in it what was seen before."""
  stream = video.stream
  scan.codec = stream.codec_context.name
  scan.header_frames = stream.frames
  scan.rate = float(stream.average_rate or 0)
  scan.time_base = stream.time_base.as_integer_ratio()
  scan.stream = stream.index
  scan.height, scan.width = stream.height, stream.width
  for number, packet in enumerate(video.packets()):
    if packet.size:
      scan.packets.append(packet.pts)
      if packet.is_keyframe:
        scan.key_packets.add(packet.pts)
    if mode == 'header':
      video.restart_clock()
      continue
    for frame in packet.decode():
      video.restart_clock()
      if not scan.pts:
        # The header's size is a claim; the frame's is a fact.
        scan.height, scan.width = frame.height, frame.width
        scan.rotation = round(frame.rotation)
      elif (frame.height, frame.width) != (scan.height, scan.width):
        raise containers.VideoError(
            video.path, 'its frames change size: '
            f'{(scan.height, scan.width)}, {(frame.height, frame.width)}')
      # Packets of intra-refresh pictures are marked as key; the decoder knows
      # that they hold no whole image.
      if frame.key_frame:
        scan.key_frames.add(frame.pts)
      scan.repaired += frame.is_corrupt
      if frame.pict_type != av_frame.PictureType.B:
        scan.anchors.append(len(scan.pts))
      scan.pts.append(frame.pts)
      scan.released.append(number)


def to_runs(values):
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


def from_runs(runs):
  """Unpacks what `to_runs` packed."""
  return [first + step * i for first, step, count in runs
          for i in range(count)]
