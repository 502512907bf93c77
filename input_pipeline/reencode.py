"""Videos made anew for training: small H.264 that seeks fast, or JPEG frames.

Frame i of the result is frame i of the source. Frames are taken as the decoder
of the pipeline gives them (upright, in RGB) and resized by Pillow, so that only
that and the loss of the new encoding lie between the two.
"""

import fractions
import io

import av
import numpy as np
from PIL import Image

from input_pipeline import decode
from input_pipeline import resizing
from input_pipeline import zips

# x264's macroblock tree reads memory that nobody has written: the same frames
# gave other bytes now and then.
_PARAMS = 'mbtree=0'
# Frames a second of a source that tells nothing.
_RATE = 25


def small_size(height, width, short_side):
  """Returns the (height, width) that frames are resized to, never larger.

  Args:
    height: of a frame.
    width: of a frame.
    short_side: length of the short side; 0 keeps the size. H.264 takes even
      numbers only, so that a side may become one pixel shorter.
  """
  short = min(height, width)
  scale = min(short_side / short, 1) if short_side else 1
  return tuple(max(round(side * scale) // 2 * 2, 2) for side in (height, width))


class H264:
  """One video: frames go in, the bytes of an MP4 file come out.

  Equal frames give equal bytes: one thread, no clock.
  """

  suffix = '.mp4'

  def __init__(self, recipe, times):
    """Opens the file.

    Args:
      recipe: dict with `short_side`, `gop`, `crf` and `preset`.
      times: (rising integers, seconds of one unit as a Fraction) of the frames.
    """
    self._recipe = recipe
    self._times, self._unit = times
    self._blob = io.BytesIO()
    self._output = None
    self._count = 0

  def add(self, frame):
    """Appends a frame, uint8 [H, W, 3]."""
    height, width = frame.shape[:2]
    size = small_size(height, width, self._recipe['short_side'])
    if max(height - size[0], width - size[1]) > 1:
      frame = resizing.resize(frame[None], size)[0]
    frame = np.ascontiguousarray(frame[:size[0], :size[1]])
    if self._output is None:
      self._open(*size)
    picture = av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(
        format='yuv420p', threads=1)
    picture.pts = self._times[self._count]
    picture.time_base = self._unit
    self._count += 1
    self._output.mux(self._stream.encode(picture))

  def _open(self, height, width):
    self._output = av.open(self._blob, 'w', format='mp4',
                           container_options={'fflags': '+bitexact'})
    self._stream = self._output.add_stream('libx264', rate=_RATE, options={
        'preset': self._recipe['preset'], 'tune': 'fastdecode',
        'crf': str(self._recipe['crf']), 'g': str(self._recipe['gop']),
        'bf': '0', 'x264-params': _PARAMS})
    self._stream.height, self._stream.width = height, width
    self._stream.pix_fmt = 'yuv420p'
    self._stream.time_base = self._unit
    self._stream.codec_context.time_base = self._unit
    self._stream.codec_context.thread_count = 1

  def finish(self):
    """Returns the bytes of the file."""
    if self._output is not None:
      self._output.mux(self._stream.encode())
      self._output.close()
    return self._blob.getvalue()


class Jpegs:
  """One video: frames go in, a ZIP archive of JPEG files comes out."""

  suffix = '.zip'

  def __init__(self, recipe, times):
    """Starts an archive; `recipe` has `short_side` and `quality`."""
    del times  # an archive of images has none
    self._recipe = recipe
    self._files = []

  def add(self, frame):
    """Appends a frame, uint8 [H, W, 3]."""
    height, width = frame.shape[:2]
    short = self._recipe['short_side']
    if short and short < min(height, width):
      frame = resizing.resize(frame[None], short)[0]
    blob = io.BytesIO()
    Image.fromarray(frame).save(blob, 'JPEG', quality=self._recipe['quality'])
    self._files.append((f'{len(self._files) + 1:05d}.jpg', blob.getvalue()))

  def finish(self):
    """Returns the bytes of the archive."""
    return zips.pack(self._files)


ENCODERS = {'fast': H264, 'jpeg': Jpegs}


def times_of(entry, start, length):
  """Returns what `H264` takes as times of a piece of a video.

  An encoder would merge frames whose times are equal: where times are unknown,
  or do not rise, frames are counted at the average rate.

  Args:
    entry: `decode.IndexEntry` of the whole video.
    start: first frame.
    length: number of frames.

  Returns:
    (times from 0, seconds of one unit as a Fraction).
  """
  times = np.asarray(entry.times()[start:start + length], np.int64)
  if len(times) == length and entry.time_base[0] and (np.diff(times) > 0).all():
    return (times - times[0]).tolist(), fractions.Fraction(*entry.time_base)
  rate = fractions.Fraction(entry.rate).limit_denominator(1001) or _RATE
  return list(range(length)), 1 / fractions.Fraction(rate)


def probe_archive(blob):
  """Counts the frames of an archive of images; all of one size."""
  spans = zips.members(blob)
  with Image.open(io.BytesIO(blob[slice(*spans[0])])) as image:
    width, height = image.size
  return decode.IndexEntry(len(spans), height, width, codec='folder')
