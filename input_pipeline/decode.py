"""Exact frames from video files: index i is the i-th frame that decodes.

Frames are counted as they leave the decoder. Where `probe` has proven that a
frame is known by its time, or by the packet that releases it, what is not asked
for is not decoded; the frames are the same, bit by bit.

Of several video streams FFmpeg's best is taken, as its own tools do.
"""

import bisect
import collections
import contextlib
import dataclasses
import io
import itertools
import threading

from av.video import reformatter as av_reformatter
import numpy as np
from PIL import Image

from input_pipeline import containers
from input_pipeline import probing
from input_pipeline import resizing
from input_pipeline import storage
from input_pipeline import yuv
from input_pipeline import zips

# What others need to know of videos and their failures.
IndexEntry = probing.IndexEntry
Limits = containers.Limits
VideoError = containers.VideoError
probe_folder = probing.probe_folder

# Decoders that leave out frames to which nothing refers, bit-exactly: B-frames
# by definition, and in H.264 what its packets mark as such.
_SKIPPING = ('h264', 'mpeg4', 'mpeg1video', 'mpeg2video')
# Containers with an index. In others a place is searched for, and often
# missed: there, packets up to the next key frame are read and passed over.
_INDEXED = ('mov', 'matroska', 'avi')


class _Local(threading.local):
  """What each thread keeps from clip to clip."""

  def __init__(self):
    super().__init__()
    # A new one would set up its tables anew; it notices other formats itself.
    self.reformatter = av_reformatter.VideoReformatter()


_LOCAL = _Local()


def probe(path, mode='decode', medium=None, limits=containers.LIMITS):
  """Finds the true length of a video; see `probing.probe`.

  Where B-frames may be left out, it is tried whether the rest stays the same.
  """
  entry = probing.probe(path, mode, medium, limits)
  if not entry.packets:
    return entry
  # Every other run of B-frames is left out then.
  bframes = sorted(set(range(entry.num_frames)) - set(
      probing.from_runs(entry.anchors)))
  targets = bframes[::max(len(bframes) // 8, 1)] or [entry.num_frames - 1]
  try:
    one, other = (_decode(way, path, targets, entry, False, limits, medium)
                  for way in (_decode_by_packet, _decode_through))
    same = np.array_equal(one, other)
  except (VideoError, _AstrayError):
    same = False
  return entry if same else dataclasses.replace(entry, packets=(), anchors=())


def decode_frames(path, indices, index_entry=None, rotate=True,
                  limits=containers.LIMITS, planes=False):
  """Decodes frames of a video by their ordinal.

  Args:
    path: place of a video file.
    indices: frame numbers from 0, in any order, repeats allowed.
    index_entry: what `probe` found; allows leaving out what is not needed.
      None decodes from the start.
    rotate: apply the rotation that the file asks for.
    limits: `containers.Limits`; the seconds are for the whole call.
    planes: leave the frames in YUV.

  Returns:
    uint8 [len(indices), H, W, 3], RGB, 0 to 255, in the order of `indices`;
    with `planes`, those as `yuv.Planes`.

  Raises:
    VideoError: the file is missing, unreadable, no video, damaged before the
      last index, shorter than that, or past a limit.
  """
  indices = [int(i) for i in indices]
  if not indices or min(indices) < 0:
    raise ValueError(f'indices must be frame numbers from 0, not {indices}')
  if index_entry is not None and not index_entry.error:
    way = (_decode_by_time if index_entry.keyframes else
           _decode_by_packet if index_entry.packets else None)
    # A damaged file may fail where decoding begins, or stray: decoding from
    # the start tells what it is worth.
    with contextlib.suppress(_AstrayError):
      if way:
        return _decode(way, path, indices, index_entry, rotate, limits,
                       planes=planes)
  return _decode(_decode_through, path, indices, index_entry, rotate, limits,
                 planes=planes)


class _AstrayError(Exception):
  """A file is not what its entry says."""


def _decode(way, path, indices, entry, rotate, limits, medium=None,
            planes=False):
  """Decodes in one of the ways below."""
  frames = (_YuvFrames if planes else _Frames)(path, indices, rotate)
  try:
    known = entry or probing.IndexEntry(stream=None)
    sure = way is not _decode_through  # of the entry
    with containers.open_video(
        path, limits, known.stream, medium,
        known.quick and way is _decode_by_time,
        known.demuxer if sure else '') as video:
      if sure and entry.size not in (0, video.size):
        raise _AstrayError  # another file has taken its place
      way(video, sorted(set(indices)), entry, frames)
  except VideoError as error:
    if way is _decode_through or error.passing:
      raise
    raise _AstrayError from error
  if frames.arrays is None or frames.count < len(set(indices)):
    raise _AstrayError
  return frames.result()


def decode_all(path, rotate=True, limits=containers.LIMITS):
  """Decodes every frame of a video.

  Args:
    path: place of a video file.
    rotate: apply the rotation that the file asks for.
    limits: `containers.Limits`; the seconds are for each frame.

  Returns:
    uint8 [n, H, W, 3], RGB, 0 to 255.

  Raises:
    VideoError: as `decode_frames`; a file damaged at its end raises too.
  """
  frames = list(iterate(path, rotate, limits))
  _check_one_size(path, frames)
  return np.stack(frames)


def iterate(path, rotate=True, limits=containers.LIMITS):
  """Decodes every frame of a video, one after the other.

  Args:
    path: place of a video file.
    rotate: apply the rotation that the file asks for.
    limits: `containers.Limits`; the seconds are for each frame.

  Yields:
    uint8 [H, W, 3], RGB, 0 to 255; of one size unless the file changes it.

  Raises:
    VideoError: as `decode_all`, when the damage is reached.
  """
  reformatter = av_reformatter.VideoReformatter()
  empty = True
  with containers.open_video(path, limits) as video:
    for frame in video.frames():
      rgb = _to_rgb(reformatter, frame, rotate)
      picture = np.empty(rgb.shape, np.uint8)
      resizing.copy(rgb, picture)
      yield picture
      empty = False
      video.restart_clock()  # what the caller did meanwhile took its time
  if empty:
    raise VideoError(path, 'its video stream holds no frame')


def decode_folder(path, indices, template='{:05d}.jpg', first_frame=1,
                  limits=containers.LIMITS):
  """Reads frames of a video stored as one image file per frame.

  Args:
    path: place of the folder of the images, or of a record with an archive of
      them, whose order tells the frames' numbers, whatever their names.
    indices: frame numbers from 0, in any order, repeats allowed.
    template: file name by frame number.
    first_frame: number of the first frame in the file names.
    limits: `containers.Limits`.

  Returns:
    uint8 [len(indices), H, W, 3], RGB, 0 to 255.

  Raises:
    VideoError: an image is missing or unreadable, or sizes differ.
  """
  numbers = sorted({int(i) for i in indices})
  if storage.split_record(path):
    images = _in_archive(path, numbers, limits)
  else:
    names = [template.format(i + first_frame) for i in numbers]
    images = ((name, storage.join(path, name)) for name in names)
  frames = {}
  for i, (name, place) in zip(numbers, images, strict=True):
    try:
      with containers.naming(path, limits, 'no image, or damaged'):
        frames[i] = _read_image(path, place, limits)
    except VideoError as error:
      raise VideoError(path, f'frame {name} is missing or unreadable '
                       f'({error.reason})', error.passing) from error
  _check_one_size(path, frames.values())
  return np.stack([frames[int(i)] for i in indices])


def check_images(path, entry, template='{:05d}.jpg', first_frame=1,
                 limits=containers.LIMITS):
  """Reads all frames of a folder or archive of images, one after the other.

  Args:
    path: see `decode_folder`.
    entry: what `probe_folder` or `probe` told of it.
    template: file name by frame number.
    first_frame: number of the first frame in the file names.
    limits: `containers.Limits`.

  Raises:
    VideoError: an image is missing or unreadable, or sizes differ.
  """
  for i in range(entry.num_frames):
    size = decode_folder(path, [i], template, first_frame, limits).shape[1:3]
    if size != (entry.height, entry.width):
      raise _changing(path, {size, (entry.height, entry.width)})


def _in_archive(path, numbers, limits):
  """Yields (name, image in memory) of an archive of images."""
  with containers.naming(path, limits,
                         'its archive of images cannot be read'):
    blob = storage.media(path).getbuffer()
    spans = zips.members(blob)
  for i in numbers:
    if i >= len(spans):
      raise _too_short(path, len(spans), i)
    yield f'{i} (from 0)', io.BytesIO(blob[slice(*spans[i])])


def _read_image(path, image, limits):
  if not isinstance(image, io.BytesIO):
    image = storage.media(image)
  with Image.open(image) as picture:
    if picture.width * picture.height > limits.max_pixels:
      raise VideoError(path, f'{picture.width}x{picture.height} pixels are '
                       f'more than data.max_pixels={limits.max_pixels} allows')
    return np.asarray(picture.convert('RGB'))


class _Frames:
  """The frames asked for, as they are found, in RGB."""

  def __init__(self, path, indices, rotate):
    self._path = path
    self._count = len(indices)
    self._places = collections.defaultdict(list)
    for place, ordinal in enumerate(indices):
      self._places[ordinal].append(place)
    self._rotate = rotate
    self._reformatter = _LOCAL.reformatter
    self._found = set()
    self.arrays = None

  @property
  def count(self):
    return len(self._found)

  def __contains__(self, ordinal):
    return ordinal in self._found

  def put(self, ordinal, frame):
    """Converts a frame into its places."""
    views = self._views(frame)
    if self.arrays is None:
      # Only now: what a header says of the size is no reason to allocate.
      self.arrays = [np.empty((self._count, *view.shape), np.uint8)
                     for view in views]
    elif views[0].shape != self.arrays[0].shape[1:]:
      raise _changing(self._path,
                      {views[0].shape[:2], self.arrays[0].shape[1:3]})
    first, *others = self._places[ordinal]
    for view, array in zip(views, self.arrays, strict=True):
      resizing.copy(view, array[first])
      for place in others:
        array[place] = array[first]
    self._found.add(ordinal)

  def _views(self, frame):
    """Returns what is kept of a frame, uint8 [H, W, C] each."""
    return [_to_rgb(self._reformatter, frame, self._rotate)]

  def result(self):
    """Returns the frames."""
    return self.arrays[0]


class _YuvFrames(_Frames):
  """The frames asked for, in YUV."""

  _color = None

  def _views(self, frame):
    planes, color = yuv.of_frame(self._reformatter, frame)
    if self._color not in (None, color):
      raise VideoError(self._path, yuv.CHANGING)
    self._color = color
    turns = _turns(frame, self._rotate)
    return [np.rot90(plane, turns)[..., None] for plane in planes]

  def result(self):
    return yuv.Planes(tuple(self.arrays), self._color)


def _to_rgb(reformatter, frame, rotate):
  """Returns a view into a new picture, uint8 [H, W, 3], perhaps turned."""
  # threads=1: swscale's own threads cost more than they bring.
  rgb = reformatter.reformat(frame, format='rgb24', threads=1)
  plane = rgb.planes[0]
  view = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[
      :rgb.height, :3 * rgb.width].reshape(rgb.height, rgb.width, 3)
  turns = _turns(frame, rotate)
  return np.rot90(view, turns) if turns else view


def _turns(frame, rotate):
  """Returns the quarter turns that the file asks for."""
  return round(frame.rotation / 90) % 4 if rotate else 0


def _too_short(path, num_frames, index):
  return VideoError(path, f'it has {num_frames} frames; frame number {index} '
                    '(from 0) was asked for')


def _changing(path, sizes):
  first, second, *_ = sorted(sizes)
  return VideoError(path, f'its frames change size: {first}, {second}')


def _check_one_size(path, frames):
  sizes = {f.shape[:2] for f in frames}
  if len(sizes) > 1:
    raise _changing(path, sizes)


def _decode_through(video, targets, _, frames):
  """Counts frames from the start."""
  wanted = set(targets)
  ordinal = 0
  for packet in video.packets():
    for frame in packet.decode():
      if ordinal in wanted:
        frames.put(ordinal, frame)
        if ordinal == targets[-1]:
          return
      ordinal += 1
  raise _too_short(video.path, ordinal, targets[-1])


def _decode_by_packet(video, targets, entry, frames):
  """Knows frames by the packet that releases them; stops if one does not.

  Between two other frames either all B-frames are decoded or none: packed
  packets hold several, which the decoder hands on from one to the next.
  """
  released = np.asarray(probing.from_runs(entry.packets))
  if targets[-1] >= len(released):
    raise _too_short(video.path, len(released), targets[-1])
  anchors = np.asarray(probing.from_runs(entry.anchors))
  before = np.searchsorted(anchors, targets, 'right')
  edges = np.concatenate([[-1], anchors, [len(released)]])
  decoded = set()
  for target, k in zip(targets, before, strict=True):
    run = slice(edges[k] + 1, edges[k + 1])  # without its anchors
    decoded.update(released[target if edges[k] == target else run].ravel()
                   .tolist())
  ordinals = {}
  for ordinal in targets:
    ordinals[int(released[ordinal])] = ordinal
  context = video.stream.codec_context
  whole = True  # setting it anew for every packet would take its time
  for number, packet in enumerate(video.packets()):
    if whole != (number in decoded):
      whole = not whole
      context.skip_frame = 'DEFAULT' if whole else 'NONREF'
    found = packet.decode()
    if number not in ordinals:
      continue
    if len(found) != 1:
      return
    frames.put(ordinals[number], found[0])
    if frames.count == len(targets):
      return


def _has_one_layer(context):
  """Tells whether nothing refers to what HEVC marks as not referred to.

  With several temporal layers, higher ones may.
  """
  header = context.extradata or b''
  return context.name == 'hevc' and len(header) > 22 and (
      header[0] == 1 and header[21] >> 3 & 7 == 1)


def _leap(video, packets, time):
  """Leaps to the key frame of a time, or one before it, and clears the decoder.

  Returns:
    The packets after the key frame's, and that (None if none is found).
  """
  if any(name in video.container.format.name for name in _INDEXED):
    video.container.seek(time, stream=video.stream)
    packets = video.packets()
    return packets, next(packets, None)
  packet = next((p for p in packets if p.pts == time), None)
  video.stream.codec_context.flush_buffers()
  return packets, packet if packet and packet.is_keyframe else None


def _decode_by_time(video, targets, entry, frames):
  """Knows frames by their times; stops if the file is not as the entry says."""
  pts = entry.times()
  if targets[-1] >= len(pts):
    raise _too_short(video.path, len(pts), targets[-1])
  key_of = {pts[k]: k for k in entry.keyframes}
  wanted = {pts[i]: i for i in targets}
  context = video.stream.codec_context
  skips = entry.codec in _SKIPPING or _has_one_layer(context)
  # Of packets that the decoder has had: targets, last key frame, last time.
  # The file starts with a key frame.
  had, reached, latest, whole = set(), 0, pts[0] - 1, True

  def leap(target):
    """Returns the key frame to leap to, 0 to go on from here."""
    key = entry.keyframes[bisect.bisect(entry.keyframes, target) - 1]
    # Where it comes next, there is nothing to pass over.
    return key if key > reached and pts[key - 1] > latest else 0

  def keep(found):
    for frame in found:
      ordinal = wanted.get(frame.pts)
      if ordinal is not None and ordinal not in frames:
        frames.put(ordinal, frame)

  packets = video.packets()
  for target, following in itertools.pairwise([*targets, None]):
    key, packet = leap(target), None
    if key:
      packets, packet = _leap(video, packets, pts[key])
      if packet is None or key_of.get(packet.pts, key + 1) > key:
        return
    while target not in frames:
      if target in had and (following is None or leap(following)):
        # It waits for frames that may be shown before it; none is needed.
        keep(context.decode())
        if target not in frames:
          return
        break
      packet = packet or next(packets, None)
      if packet is None:
        return
      time = packet.pts  # None of the last, which is empty
      if time is not None:
        latest = max(latest, time)
        if time in key_of:
          reached = max(reached, key_of[time])
      asked = time is None or time in wanted
      if asked:
        had.add(wanted.get(time))
      if skips and whole != asked:
        whole = asked
        context.skip_frame = 'DEFAULT' if whole else 'NONREF'
      # A frame in use makes some decoders copy it before they go on: none is
      # held here.
      keep(packet.decode())
      packet = None
