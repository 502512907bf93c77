"""Optical flow of whole data sets: computed once, stored, read back.

Flow is stored as two-stream networks expect it: x and y in 8 bits, 0 and 255
for a bound, n - 1 fields of a video of n frames. What computes it is an
argument: nothing here knows JAX or OpenCV.

Each video has one file or folder, by its name in the data set:
  NAME.array_record: the header, then a PNG of each field, x above y. Lossless,
    so that a network sees what was computed.
  NAME/: the header `flow.json`, and flow_x_00001.jpg, flow_y_00001.jpg, ... in
    the quality of published flow. Lossy, for other programs.
"""

from collections.abc import Callable
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import io
import itertools
import json
import multiprocessing
import os
import shutil
import threading
import time

from array_record.python import array_record_module
import numpy as np
from PIL import Image

from input_pipeline import decode

FORMATS = ('array_record', 'jpeg')
_SUFFIX = '.array_record'
_HEADER = 'flow.json'
_JPEG = 'flow_{}_{:05d}.jpg'
# OpenCV's default, in which published flow is.
_JPEG_QUALITY = 95
_PART = '.part'
# What must be the same in all of a data set's flow.
_SETTINGS = ('bound', 'method', 'parameters')
_VERSION = 1


class FlowError(ValueError):
  """Flow that does not belong to the data or the configuration, and why."""


@dataclasses.dataclass(frozen=True)
class Method:
  """A way to compute flow.

  Attributes:
    name: 'tvl1' or 'opencv'.
    parameters: its constants, as plain values.
    library: what computes it, with versions.
    compute: function of frames uint8 [n, H, W, 3], RGB, 2 <= n <= `pairs` + 1,
      and of the bound; returns uint8 [n - 1, H, W, 2], x and y quantised.
      Several threads call it at the same time.
    pairs: most pairs in one call.
    processes: run it in worker processes, not in threads; it must be
      importable then.
  """

  name: str
  parameters: dict
  library: str
  compute: Callable[[np.ndarray, float], np.ndarray]
  pairs: int
  processes: bool = False


@dataclasses.dataclass
class Summary:
  """What an extraction did.

  Attributes:
    written: names of the videos whose flow was computed.
    kept: names of those whose flow was there.
    dropped: (name, reason) of those without flow.
    pairs: fields computed.
    seconds: how long it took.
  """

  written: list = dataclasses.field(default_factory=list)
  kept: list = dataclasses.field(default_factory=list)
  dropped: list = dataclasses.field(default_factory=list)
  pairs: int = 0
  seconds: float = 0.0

  def __str__(self):
    rate = self.pairs / max(self.seconds, 1e-9)
    lines = [f'{len(self.written)} videos written ({self.pairs} fields, '
             f'{self.seconds:.1f} s, {rate:.1f} a second), {len(self.kept)} '
             f'were there, {len(self.dropped)} dropped.']
    lines += [f'Dropped {name}: {reason}' for name, reason in self.dropped]
    return '\n'.join(lines)


def extract(videos, out, method, *, bound=20.0, encoding='array_record',
            workers=1, frame_template='{:05d}.jpg', first_frame=1, report=None):
  """Computes the flow of all videos whose flow is not there yet.

  A file gets its name when it is whole. What a killed run has half written is
  removed and done again, so that the result does not depend on interruptions.

  Args:
    videos: {name: path} of video files and folders of frames.
    out: directory of the flow.
    method: `Method`.
    bound: displacement in pixels that becomes 255.
    encoding: one of `FORMATS`.
    workers: videos at the same time.
    frame_template: file name by frame number, for folders of frames.
    first_frame: number of the first frame in those names.
    report: function called with (name, reason or '') after each video.

  Returns:
    Summary. Unusable videos are in `dropped`.

  Raises:
    ValueError: an argument cannot be, `out` holds flow of other settings, is in
      use or cannot be written.
  """
  if encoding not in FORMATS:
    raise FlowError(f'The format {encoding!r} is unknown; choose '
                    f'{" or ".join(FORMATS)}.')
  if not bound > 0 or workers < 1:
    raise FlowError(f'bound={bound:g} and workers={workers} must be above 0.')
  header = {'bound': float(bound), 'method': method.name,
            'parameters': method.parameters, 'library': method.library,
            'format': encoding, 'version': _VERSION}
  start = time.monotonic()
  summary = Summary()
  with _only_user(out):
    _remove_parts(out)
    targets = {}
    for name in videos:
      if _is_there(out, name, header):
        summary.kept.append(name)
        if report:
          report(name, '')
      else:
        targets[name] = _place(out, name) + (
            _SUFFIX if encoding == 'array_record' else '')
    work = functools.partial(_extract_one, header=header, method=method,
                             naming=(frame_template, first_frame))
    with _pool(method, workers) as pool:
      running = {pool.submit(work, videos[name], target): name
                 for name, target in targets.items()}
      try:
        for done in concurrent.futures.as_completed(running):
          name = running[done]
          pairs, reason = done.result()
          summary.pairs += pairs
          if reason:
            summary.dropped.append((name, reason))
          else:
            summary.written.append(name)
          if report:
            report(name, reason)
      except concurrent.futures.process.BrokenProcessPool:
        raise FlowError('A worker process has died, perhaps for want of '
                        'memory. Run the same command again, with fewer '
                        '--workers.') from None
      except OSError as error:
        raise FlowError(f'{out} cannot be written: {error}.') from error
      finally:
        pool.shutdown(cancel_futures=True)
  for names in (summary.written, summary.dropped):
    names.sort()
  summary.seconds = time.monotonic() - start
  return summary


def read_header(path):
  """Reads what stored flow says of itself.

  Args:
    path: what `locate` returned.

  Returns:
    dict: `bound` (pixels), `method`, `parameters`, `library`, `format`,
    `frames` (of the video), `count` (of fields), `height`, `width`.

  Raises:
    decode.VideoError: it is missing, damaged or half written.
  """
  try:
    if os.path.isdir(path):
      with open(os.path.join(path, _HEADER), encoding='utf-8') as file:
        header = json.load(file)
      whole = all(os.path.exists(os.path.join(path, _JPEG.format(axis, number)))
                  for axis in 'xy' for number in (1, header['count']))
    else:
      with _records(path) as reader:
        header = json.loads(reader.read([0])[0])
        whole = reader.num_records() == header['count'] + 1
    if whole and header['version'] == _VERSION:
      return header
  except FileNotFoundError:
    raise decode.VideoError(path, f'it holds no {_HEADER}, so that its bound '
                            'is unknown') from None
  except (OSError, RuntimeError, ValueError, KeyError, TypeError,
          IndexError) as error:
    raise _damaged(path) from error
  raise _damaged(path)


def locate(root, name):
  """Returns where the flow of a video is.

  Args:
    root: directory of the flow.
    name: the video's name in the data set.

  Raises:
    decode.VideoError: it is nowhere.
  """
  path = _place(root, name)
  for found in (path + _SUFFIX, path):
    if os.path.exists(found):
      return found
  raise decode.VideoError(path, 'its flow is missing; run vidattn flow')


def check(root, name, num_frames, bound):
  """Checks that the flow of a video is there, whole and what is wanted.

  Args:
    root: directory of the flow.
    name: the video's name in the data set.
    num_frames: frames of the video.
    bound: displacement in pixels that should be 255.

  Returns:
    The header, see `read_header`.

  Raises:
    decode.VideoError: the flow is missing, damaged or half written.
    FlowError: it is of another bound or of another video.
  """
  path = locate(root, name)
  header = read_header(path)
  if header['bound'] != bound:
    raise FlowError(
        f'{path}: its bound is {header["bound"]:g} pixels, data.flow_bound is '
        f'{bound:g}; set data.flow_bound, or extract the flow anew.')
  if header['frames'] != num_frames:
    raise FlowError(
        f'{path}: it is the flow of {header["frames"]} frames, but {name} has '
        f'{num_frames}; remove it and run vidattn flow again.')
  return header


def read(path, indices):
  """Reads stored fields.

  Args:
    path: what `locate` returned.
    indices: numbers of the fields, from 0: field i leads from frame i to i + 1.

  Returns:
    uint8 [len(indices), H, W, 2], x and y.

  Raises:
    decode.VideoError: a field is missing or damaged.
  """
  indices = [int(i) for i in indices]
  distinct = sorted(set(indices))
  try:
    if os.path.isdir(path):
      fields = [np.stack([_to_array(os.path.join(path, _JPEG.format(a, i + 1)))
                          for a in 'xy'], axis=-1) for i in distinct]
    else:
      with _records(path) as reader:
        found = reader.read([i + 1 for i in distinct])
      fields = [np.stack(np.split(_to_array(io.BytesIO(png)), 2), axis=-1)
                for png in found]
    return np.stack(fields)[np.searchsorted(distinct, indices)]
  except (OSError, RuntimeError, ValueError, IndexError) as error:
    raise _damaged(path) from error


def _place(root, name):
  """Returns a path below `root`, also of names that lead out of it."""
  return os.path.join(root, os.path.normpath(os.path.join(os.sep, name))[1:])


def _damaged(path):
  return decode.VideoError(
      path, 'its flow is damaged or half written; remove it and run vidattn '
      'flow again')


def _to_array(file):
  with Image.open(file) as image:
    return np.asarray(image.convert('L'))


@contextlib.contextmanager
def _records(path):
  # Fields are read here and there: what follows them is of no use.
  reader = array_record_module.ArrayRecordReader(
      os.fspath(path), 'readahead_buffer_size:0')
  try:
    yield reader
  finally:
    reader.close()


@contextlib.contextmanager
def _only_user(out):
  """Keeps a second run away from a directory, which is made if need be."""
  try:
    os.makedirs(out, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
  except OSError as error:
    raise FlowError(f'{out} cannot be written: {error}.') from error
  try:
    try:
      # It ends with the process, however that ends.
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise FlowError(f'{out} is in use by another vidattn flow.') from None
    yield
  finally:
    os.close(handle)


def _remove_parts(out):
  for folder, folders, files in os.walk(out):
    for name in [n for n in folders if n.endswith(_PART)]:
      shutil.rmtree(os.path.join(folder, name))
      folders.remove(name)
    for name in files:
      if name.endswith(_PART):
        os.remove(os.path.join(folder, name))


def _is_there(out, name, wanted):
  """Tells whether whole flow is there; raises if it is of other settings."""
  try:
    path = locate(out, name)
    header = read_header(path)
  except decode.VideoError:
    return False
  for key in (*_SETTINGS, 'format'):
    if header[key] != wanted[key]:
      raise FlowError(
          f'{path}: it was made with {key}={header[key]!r}, not '
          f'{wanted[key]!r}; choose another --out, or remove it.')
  return True


def _pool(method, workers):
  if not method.processes:
    return concurrent.futures.ThreadPoolExecutor(workers)
  return concurrent.futures.ProcessPoolExecutor(
      workers, multiprocessing.get_context('spawn'), _end_with_parent)


def _end_with_parent():
  """Ends a worker process when the one that started it is killed."""
  def wait():
    multiprocessing.parent_process().join()
    os._exit(1)
  threading.Thread(target=wait, daemon=True).start()


def _extract_one(path, target, *, header, method, naming):
  """Returns (fields written, why there is no flow or '')."""
  try:
    folder = os.path.isdir(path)
    entry = (decode.probe_folder(path, *naming) if folder
             else decode.probe(path))
    if entry.error:
      return 0, entry.error
    if entry.num_frames < 2:
      return 0, 'it has one frame; flow takes two'
    frames = (_folder_frames(path, entry.num_frames, naming) if folder
              else decode.iterate(path))
    fields = (field for chunk in _chunks(path, frames, method.pairs)
              for field in method.compute(chunk, header['bound']))
    _write(target, header, entry.num_frames, fields)
    return entry.num_frames - 1, ''
  except decode.VideoError as error:
    return 0, error.reason


def _folder_frames(path, num_frames, naming):
  for i in range(num_frames):
    yield decode.decode_folder(path, [i], *naming)[0]


def _chunks(path, frames, pairs):
  """Yields [n, H, W, 3]; the last frame of one is the first of the next."""
  held = []
  for frame in frames:
    if held and frame.shape != held[0].shape:
      raise decode.VideoError(path, 'its frames change size: '
                              f'{held[0].shape[:2]}, {frame.shape[:2]}')
    held.append(frame)
    if len(held) > pairs:
      yield np.stack(held)
      held = held[-1:]
  if len(held) > 1:
    yield np.stack(held)


def _write(target, header, num_frames, fields):
  """Writes fields [H, W, 2] beside `target`, and renames when all is there."""
  part = f'{target}.{os.getpid()}{_PART}'
  os.makedirs(os.path.dirname(target), exist_ok=True)
  first = next(fields)
  height, width = first.shape[:2]
  header = json.dumps(
      {**header, 'frames': num_frames, 'count': num_frames - 1,
       'height': height, 'width': width}, sort_keys=True)
  write = _write_jpegs if os.path.splitext(target)[1] != _SUFFIX else (
      _write_records)
  try:
    count = write(part, header, itertools.chain([first], fields))
    if count != num_frames - 1:
      raise decode.VideoError(target, f'{count + 1} frames decode, not '
                              f'{num_frames}')
    if os.path.isdir(target):  # damaged, or it would not be done again
      shutil.rmtree(target)
    os.replace(part, target)
  finally:
    _remove(part)


def _write_records(part, header, fields):
  writer = array_record_module.ArrayRecordWriter(
      part, 'group_size:1,uncompressed')
  count = 0
  try:
    _checked(part, writer.write, header.encode())
    for field in fields:
      blob = io.BytesIO()
      Image.fromarray(np.concatenate(np.moveaxis(field, -1, 0))).save(
          blob, 'PNG')
      _checked(part, writer.write, blob.getvalue())
      count += 1
  finally:
    _checked(part, writer.close)
  return count


def _checked(part, call, *args):
  try:
    call(*args)
  except RuntimeError as error:
    raise OSError(f'{part}: {error}') from error


def _write_jpegs(part, header, fields):
  os.mkdir(part)
  count = 0
  for count, field in enumerate(fields, 1):
    for axis, plane in zip('xy', np.moveaxis(field, -1, 0), strict=True):
      Image.fromarray(plane).save(
          os.path.join(part, _JPEG.format(axis, count)),
          quality=_JPEG_QUALITY)
  with open(os.path.join(part, _HEADER), 'w', encoding='utf-8') as file:
    file.write(header + '\n')
  return count


def _remove(part):
  if os.path.isdir(part):
    shutil.rmtree(part)
  elif os.path.exists(part):
    os.remove(part)
