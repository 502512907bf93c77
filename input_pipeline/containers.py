"""Opens video files, and gives every failure in them a sentence and a file.

Whatever fails in a container, a codec, the file system or for want of memory
leaves this file as `VideoError`. FFmpeg works in C and cannot be stopped inside
one call; so that no call lasts long, frames have a largest area, which FFmpeg
knows before it allocates one, and the time is looked at after each packet.
"""

import contextlib
import dataclasses
import errno
import io
import os
import stat
import time

import av
from av import stream as av_stream

from input_pipeline import storage

# What the file system says when a second try may succeed.
_PASSING = (errno.EACCES, errno.EAGAIN, errno.EINTR, errno.EIO, errno.EMFILE,
            errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)
# Faults of this program; they are not blamed on a file.
_FAULTS = (AssertionError, AttributeError, NameError, TypeError)

# The last is for the decoder that looks at the streams, which would decode the
# first frame for its format; the one that is used later has options of its own.
_QUICK = {'probesize': '32', 'analyzeduration': '0', 'skip_frame': 'all'}
# Containers whose header tells the streams, and whose packets tell their times.
_TELLING = ('mov', 'matroska', 'gif')
# Decoders that make up what is damaged without a word are told to fail.
_STRICT = {'mjpeg': {'err_detect': 'explode'}}


class VideoError(ValueError):
  """A video that cannot give the frames asked of it.

  Attributes:
    path: the file.
    reason: why, as a phrase that can follow the path.
    passing: whether a second try may succeed, the file being as it is.
  """

  def __init__(self, path, reason, passing=False):
    # Names of files need not be text; sentences about them must be.
    path = os.fsencode(path).decode('utf-8', 'backslashreplace')
    super().__init__(path, reason)
    self.path = path
    self.reason = reason
    self.passing = passing

  def __str__(self):
    return f'{self.path}: {self.reason}'


@dataclasses.dataclass(frozen=True)
class Limits:
  """What decoding may take before a video counts as bad.

  Attributes:
    seconds: for the frames of one clip; when every frame is decoded, for each.
    max_pixels: height times width of a frame.
  """

  seconds: float = 60.0
  max_pixels: int = 36_000_000


LIMITS = Limits()


def limits_of(config_data):
  """Returns the limits of the section `data` of a configuration.

  Raises:
    ValueError: a limit that nothing can keep.
  """
  limits = Limits(float(config_data.decode_seconds), config_data.max_pixels)
  if limits.seconds <= 0:
    raise ValueError(
        f'data.decode_seconds={limits.seconds:g} must be more than 0')
  if limits.max_pixels < 1:
    raise ValueError(f'data.max_pixels={limits.max_pixels} must be at least 1')
  return limits


class Video:
  """An open file and the one stream of it that is decoded.

  Attributes:
    path: the file.
    container: PyAV's.
    stream: PyAV's.
    size: bytes of the file.
  """

  def __init__(self, path, container, stream, limits, size):
    self.path = path
    self.size = size
    self.container = container
    self.stream = stream
    self._limits = limits
    self.restart_clock()

  def restart_clock(self):
    """Starts to count the seconds of `Limits` anew."""
    self._deadline = time.monotonic() + self._limits.seconds

  def check_clock(self):
    """Raises VideoError if the seconds are over."""
    if time.monotonic() > self._deadline:
      raise _too_slow(self.path, self._limits)

  def packets(self):
    """Yields the stream's packets, the last of them empty (flushing)."""
    # One that is left before its end frees nothing unless it is closed; the
    # little that stays keeps large pieces of memory from being used again.
    with contextlib.closing(self.container.demux(self.stream)) as packets:
      for packet in packets:
        yield packet
        self.check_clock()

  def frames(self):
    """Yields the frames in the order of the decoder; each has its seconds."""
    for packet in self.packets():
      for frame in packet.decode():
        yield frame
        self.restart_clock()


@contextlib.contextmanager
def open_video(path, limits=LIMITS, stream=None, medium=None, quick=False,
               demuxer=''):
  """Opens a video; within the block, too, every failure becomes VideoError.

  Args:
    path: place of the file (see `storage`).
    limits: Limits.
    stream: number of the stream in the file; None takes the video stream that
      FFmpeg holds for the best.
    medium: what to open if it is not what `storage.media` says.
    quick: leave out what FFmpeg finds out by decoding the first frames; where
      the container's header has it all (see `tells_all`).
    demuxer: FFmpeg's name of what reads the container (see `demuxer_of`); ''
      lets it look for one, which takes longer than to open a short file.

  Yields:
    Video.

  Raises:
    VideoError: it is missing, unreadable, no video, too large or damaged.
  """
  path = os.fspath(path)
  with naming(path, limits, 'it cannot be read'):
    medium = storage.media(path) if medium is None else medium
    medium, size = _check_medium(path, medium)
  with naming(path, limits, 'not a video that FFmpeg can read, or cut off '
              'before its index'):
    # A playlist with the name of a video must fetch nothing from elsewhere.
    container = av.open(
        medium, format=demuxer or None,
        container_options={'protocol_whitelist': 'file'},
        options=_QUICK if quick else {}, timeout=limits.seconds)
  try:
    with naming(path, limits, 'damaged: FFmpeg stops decoding'):
      stream = _choose(path, container, stream)
      for other in container.streams:
        if other is not stream:  # its packets need not be read
          other.discard = av_stream.Discard.all
      context = stream.codec_context
      if context.width * context.height > limits.max_pixels:
        raise VideoError(
            path, f'its header claims frames of {context.width}x'
            f'{context.height}, more than data.max_pixels='
            f'{limits.max_pixels} allows')
      # The decoder refuses larger ones before it allocates them, whatever the
      # header says. Twice as many, as it counts the padding of rows, too.
      context.options = {'max_pixels': str(2 * limits.max_pixels + 65536)} | (
          _STRICT.get(context.name, {}))
      # One clip per worker is faster than several threads on one clip, and
      # frame threads delay errors and skipping.
      context.thread_type = 'NONE'
      context.thread_count = 1
      yield Video(path, container, stream, limits, size)
  finally:
    container.close()


def demuxer_of(video):
  """Returns FFmpeg's name of what reads a container; of several the first."""
  return video.container.format.name.partition(',')[0]


def tells_all(video):
  """Tells whether the header of a container has what decoding takes."""
  return any(name in video.container.format.name for name in _TELLING)


@contextlib.contextmanager
def naming(path, limits, otherwise):
  """Turns every failure within the block into VideoError.

  Args:
    path: the file to name.
    limits: Limits.
    otherwise: the reason, if the failure has no better one.
  """
  try:
    yield
  except (VideoError, *_FAULTS):
    raise
  except av.ExitError as error:
    raise _too_slow(path, limits) from error
  except MemoryError as error:
    raise VideoError(
        path, 'there is not enough memory to decode it', True) from error
  except FileNotFoundError as error:
    raise VideoError(path, 'no such file', True) from error
  except PermissionError as error:
    raise VideoError(path, 'no permission to read it', True) from error
  except IsADirectoryError as error:
    raise VideoError(path, 'it is a directory, not a video file') from error
  except Exception as error:
    code = getattr(error, 'errno', None)
    if code in _PASSING:
      reason = f'it cannot be read now ({_brief(error)})'
      raise VideoError(path, reason, True) from error
    raise VideoError(path, f'{otherwise} ({_brief(error)})') from error


def _brief(error):
  """FFmpeg's message without the errno and the repeated path."""
  return (getattr(error, 'strerror', None) or str(error) or
          type(error).__name__)


def _too_slow(path, limits):
  return VideoError(path, f'it takes longer than {limits.seconds:g} s '
                    '(data.decode_seconds)', True)


def _check_medium(path, medium):
  """Returns what av.open takes, and its size in bytes."""
  if isinstance(medium, io.BytesIO):
    size = medium.getbuffer().nbytes
    medium.seek(0)  # it may have been read before
  else:
    status = os.stat(medium)
    if stat.S_ISDIR(status.st_mode):
      raise IsADirectoryError(medium)
    if not stat.S_ISREG(status.st_mode):
      # Opening a pipe would wait for its writer for ever.
      raise VideoError(path, 'it is a pipe or device, not a file')
    size = status.st_size
    # Else `a:b.mp4` would be a protocol `a`.
    medium = f'file:{medium}'
  if size == 0:
    raise VideoError(path, 'the file is empty (0 bytes)')
  return medium, size


def _choose(path, container, number):
  if number is not None:
    if number >= len(container.streams):
      raise VideoError(path, 'it has other streams than when it was indexed')
    stream = container.streams[number]
  else:
    stream = container.streams.best('video')
  if stream is None or stream.type != 'video':
    raise VideoError(path, 'it has no video stream')
  if stream.disposition & av_stream.Disposition.attached_pic:
    raise VideoError(path, 'it has no video stream, only a cover picture')
  if stream.codec_context is None:
    raise VideoError(path, 'FFmpeg has no decoder for its video stream')
  return stream
