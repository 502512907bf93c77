"""Optical flow of whole data sets, computed once.

What computes it is an argument: nothing here knows JAX or OpenCV.
"""

from collections.abc import Callable
import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import threading
import time

from absl import logging
import numpy as np

from input_pipeline import decode
from input_pipeline import resizing
from input_pipeline import stacks
from input_pipeline import storage
from input_pipeline import stored_flow

# What must be the same in all of a data set's flow.
_SETTINGS = ('bound', 'method', 'parameters', 'format', 'size')


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


def extract(videos, out, method, *, bound=20.0, size=0,
            encoding='array_record', workers=1, frame_template='{:05d}.jpg',
            first_frame=1, begin=None, report=None):
  """Computes the flow of all videos whose flow is not there yet.

  A file gets its name when it is whole. What a killed run has half written is
  removed and done again, so that the result does not depend on interruptions.

  Args:
    videos: {name: path} of video files and folders of frames.
    out: directory of the flow.
    method: `Method`.
    bound: displacement in pixels that becomes 255.
    size: that to which frames are brought before, see `stacks.flow_size`.
    encoding: one of `stored_flow.FORMATS`.
    workers: videos at the same time.
    frame_template: file name by frame number, for folders of frames.
    first_frame: number of the first frame in those names.
    begin: function called with the number of videos whose flow is there, before
      the others.
    report: function called with (name, reason or '') after each of the others.

  Returns:
    Summary. Unusable videos are in `dropped`.

  Raises:
    ValueError: an argument cannot be, `out` holds flow of other settings, is in
      use or cannot be written.
  """
  if encoding not in stored_flow.FORMATS:
    raise ValueError(f'The format {encoding!r} is unknown; choose '
                     f'{" or ".join(stored_flow.FORMATS)}.')
  if not bound > 0 or workers < 1:
    raise ValueError(f'bound={bound:g} and workers={workers} must be above 0.')
  size = stacks.flow_size(size)
  header = {'bound': float(bound), 'method': method.name,
            'parameters': method.parameters, 'library': method.library,
            'format': encoding, **({'size': size} if size else {})}
  start = time.monotonic()
  summary = Summary()
  with storage.only_user(out, 'vidattn flow'):
    stored_flow.remove_parts(out)
    missing, libraries = [], set()
    for name in videos:
      found = _header_of(out, name, header)
      if found:
        summary.kept.append(name)
        libraries.add(str(found.get('library')))
      else:
        missing.append(name)
    if missing and libraries - {method.library}:
      logging.warning(
          '%s holds flow that was computed by %s, and what is missing is '
          'computed by %s; choose another --out if all must be of one version.',
          out, ' and by '.join(sorted(libraries)), method.library)
    if begin:
      begin(len(summary.kept))
    work = functools.partial(_extract_one, out, header=header, method=method,
                             naming=(frame_template, first_frame))
    with _pool(method, workers) as pool:
      running = {pool.submit(work, name, videos[name]): name
                 for name in missing}
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
      except concurrent.futures.BrokenExecutor:
        raise ValueError(
            'A worker process has died, perhaps for want of memory. Run the '
            'same command again, with fewer --workers.') from None
      except OSError as error:
        raise ValueError(f'{out} cannot be written: {error}.') from error
      finally:
        pool.shutdown(cancel_futures=True)
  for names in (summary.written, summary.dropped):
    names.sort()
  summary.seconds = time.monotonic() - start
  return summary


def _header_of(out, name, wanted):
  """Returns the header of whole flow, or None; raises if settings differ."""
  try:
    path = stored_flow.locate(out, name)
    header = stored_flow.read_header(path)
  except decode.VideoError:
    return None
  for key in _SETTINGS:
    # The size stands there only where it is not the videos' own, 0.
    found, asked = header.get(key, 0), wanted.get(key, 0)
    if found != asked:
      raise ValueError(f'{path}: it was made with {key}={found!r}, not '
                       f'{asked!r}; choose another --out, or remove it.')
  return header


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


def _extract_one(out, name, path, *, header, method, naming):
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
              for field in method.compute(
                  _resized(chunk, header.get('size', 0)), header['bound']))
    stored_flow.write(out, name, header, entry.num_frames, fields)
    return entry.num_frames - 1, ''
  except decode.VideoError as error:
    return 0, error.reason


def _folder_frames(path, num_frames, naming):
  for i in range(num_frames):
    yield decode.decode_folder(path, [i], *naming)[0]


def _resized(frames, size):
  return resizing.resize(frames, size) if size else frames


def fields(read, indices, method, bound, size=0):
  """Computes fields of a video, the same as would be stored without loss.

  Args:
    read: function of sorted, distinct numbers of frames that returns them as
      uint8 [n, H, W, 3].
    indices: sorted, distinct numbers of fields; number i lies between the
      frames i and i + 1.
    method: `Method`.
    bound: displacement in pixels that becomes 255.
    size: that to which frames are brought before, see `stacks.flow_size`.

  Returns:
    uint8 [n, H, W, 2].
  """
  indices = np.asarray(indices)
  ends = np.flatnonzero(np.diff(indices) > 1) + 1
  found = []
  for run in np.split(indices, ends):
    for start in range(0, len(run), method.pairs):
      part = run[start:start + method.pairs]
      frames = _resized(read(np.append(part, part[-1] + 1)), size)
      found.append(method.compute(frames, bound))
  return np.concatenate(found)


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
