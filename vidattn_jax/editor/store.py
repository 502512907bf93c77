"""Edits of temporal attention: a file of JSON lines that only grows.

One line for each save; the last line of a video and an annotator counts.
docs/editing.md describes the fields.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import datetime
import fcntl
import os
import threading

import numpy as np

from vidattn_jax.editor import edit as edit_lib

Edit = edit_lib.Edit
EditError = edit_lib.EditError
STATUSES = edit_lib.STATUSES


class StorageError(EditError):
  """An edit could not be written; the file is as it was before."""


class ConflictError(EditError):
  """An edit is of an older revision than the stored one.

  Attributes:
    current: the stored `Edit`; None if there is none.
  """

  def __init__(self, current):
    super().__init__(
        'It was saved elsewhere meanwhile.' if current else
        'It is not stored, though an earlier revision was named.')
    self.current = current


def read(path) -> tuple[list[Edit], str]:
  """Reads every save of a file, in order.

  Args:
    path: the file; one that does not exist yet is empty.

  Returns:
    (edits, a torn last line, '' if there is none).

  Raises:
    EditError: a line is no edit; names file and line.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
  except FileNotFoundError:
    return [], ''
  except OSError as error:
    raise EditError(f'{path} cannot be read ({error.strerror}).') from None
  return _parse_lines(data, path, 1)


def _parse_lines(data: bytes, path, first):
  *lines, last = data.split(b'\n')
  edits = []
  for number, line in enumerate(lines, first):
    try:
      edits.append(edit_lib.parse(line.decode()))
    except (EditError, UnicodeDecodeError) as error:
      raise EditError(
          f'{path}, line {number}: {error}. Nothing was changed; put the line '
          'right or remove it.') from None
  return edits, last.decode(errors='replace')


def latest(edits: Iterable[Edit]) -> dict[tuple[str, str], Edit]:
  """Returns {(video, annotator): the last edit}, in order of first saves."""
  return {(edit.video, edit.annotator): edit for edit in edits}


def load(path, report=None) -> dict[tuple[str, str], Edit]:
  """Returns the edits of a file that count.

  Args:
    path: the file; it must exist.
    report: function that takes a sentence about a torn last line.

  Returns:
    {(video, annotator): edit}.

  Raises:
    EditError: the file is missing, or a line is no edit.
  """
  if not os.path.exists(path):
    raise EditError(f'{path} does not exist; vidattn edit writes it.')
  edits, torn = read(path)
  if torn and report:
    report(f'{path}: the last line is torn and was left out '
           f'({len(torn)} characters).')
  return latest(edits)


def by_video(edits: Mapping[tuple[str, str], Edit],
             statuses=('submitted',)) -> dict[str, tuple[Edit, ...]]:
  """Groups edits by video.

  Args:
    edits: as `load` returns them.
    statuses: those that count.

  Returns:
    {video: one edit for each annotator}.
  """
  found = {}
  for edit in edits.values():
    if edit.status in statuses:
      found.setdefault(edit.video, []).append(edit)
  return {video: tuple(group) for video, group in found.items()}


def split_known(edits: Mapping[tuple[str, str], Edit],
                num_frames: Mapping[str, int]) -> tuple[dict, list[str]]:
  """Tells the edits of a data set from others.

  Args:
    edits: as `load` returns them.
    num_frames: {video: its frames} of the data set.

  Returns:
    (the edits of its videos, one sentence for each other one).
  """
  known, problems = {}, []
  for key, edit in edits.items():
    if edit.video not in num_frames:
      problems.append(f'{edit.video} ({edit.annotator}): no such video.')
    elif edit.num_frames != num_frames[edit.video]:
      problems.append(
          f'{edit.video} ({edit.annotator}): the edit is of '
          f'{edit.num_frames} frames, the video has '
          f'{num_frames[edit.video]}.')
    else:
      known[key] = edit
  return known, problems


def attention_targets(
    edits: Mapping[str, Sequence[Edit]], video: str,
    frame_indices) -> tuple[np.ndarray, np.ndarray]:
  """Returns what people say of the frames of a clip.

  For the loss of equation 6, `attention.abn.temporal_loss`.

  Args:
    edits: as `by_video` returns them.
    video: the video's id.
    frame_indices: int [T], frames of the clip, from 0.

  Returns:
    (float32 [T], weights in [0, 1]; float32 [T], 1 for frames that count).
    Of several annotators, the mean over those for whom a frame counts. Both 0
    where no edit counts.

  Raises:
    EditError: the clip has a frame that the edited video does not have.
  """
  frame_indices = np.asarray(frame_indices)
  total = np.zeros(frame_indices.shape)
  count = np.zeros(frame_indices.shape)
  for edit in edits.get(video, ()):
    if frame_indices.min() < 0 or frame_indices.max() >= edit.num_frames:
      raise EditError(f'{video}: the clip takes frame {frame_indices.max()}; '
                      f'the edit is of {edit.num_frames} frames.')
    mask = np.asarray(edit.mask, np.float64)[frame_indices]
    total += mask * np.asarray(edit.edited)[frame_indices]
    count += mask
  return ((total / np.maximum(count, 1)).astype(np.float32),
          (count > 0).astype(np.float32))


def annotate(edits: Mapping[str, Sequence[Edit]], video: str,
             frame_indices) -> dict[str, np.ndarray]:
  """Returns `attention_targets` as arrays of a training batch, by name."""
  target, mask = attention_targets(edits, video, frame_indices)
  return {'temporal_target': target, 'temporal_mask': mask}


def now() -> str:
  """Returns the time, RFC 3339, UTC, in milliseconds."""
  time = datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')
  return time.replace('+00:00', 'Z')


class Store:
  """A file of edits that several threads and processes append to."""

  def __init__(self, path, report=print):
    """Opens the file, and creates it if need be.

    Args:
      path: the file.
      report: function that takes a sentence about a torn last line.

    Raises:
      EditError: it cannot be opened, or a line is no edit.
    """
    self.path = os.fspath(path)
    self._report = report
    self._mutex = threading.Lock()
    self._edits = {}
    # Bytes and lines that `_edits` holds.
    self._seen = 0
    self._lines = 0
    try:
      os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
      self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
      # The name of a new file must survive, too.
      folder = os.open(os.path.dirname(os.path.abspath(self.path)), os.O_RDONLY)
      os.fsync(folder)
      os.close(folder)
    except OSError as error:
      raise EditError(f'{self.path} cannot be written ({error.strerror}); '
                      'choose another --edits.') from None
    with self._locked():
      self._mend()

  def close(self):
    """Closes the file."""
    os.close(self._file)

  def edits(self) -> dict[tuple[str, str], Edit]:
    """Returns {(video, annotator): edit}, those of other processes, too."""
    with self._locked():
      self._refresh()
      return dict(self._edits)

  def save(self, edit: Edit, revision: int) -> Edit:
    """Appends an edit; it is on the disk when this returns.

    The same edit again, whose answer may have been lost, changes nothing.

    Args:
      edit: what to store; its revision and times are set here.
      revision: that on which the edit is based; 0 if there was none.

    Returns:
      The edit as stored.

    Raises:
      ConflictError: the stored edit has another revision.
      StorageError: it could not be written.
      EditError: a field cannot be.
    """
    with self._locked():
      self._refresh()
      current = self._edits.get((edit.video, edit.annotator))
      time = now()
      edit = dataclasses.replace(
          edit, revision=(current.revision if current else 0) + 1,
          created=current.created if current else time, updated=time)
      edit_lib.check(edit)
      if current and revision == current.revision - 1 and _says_same(
          edit, current):
        return current
      if revision != (current.revision if current else 0):
        raise ConflictError(current)
      self._append(edit)
      return edit

  def _append(self, edit):
    line = (edit.to_line() + '\n').encode()
    try:
      os.lseek(self._file, self._seen, os.SEEK_SET)
      rest = memoryview(line)
      while rest:
        rest = rest[os.write(self._file, rest):]
      os.fsync(self._file)
    except OSError as error:
      with contextlib.suppress(OSError):
        os.ftruncate(self._file, self._seen)
      raise StorageError(f'{self.path} could not be written '
                         f'({error.strerror}); make room and save again.'
                         ) from None
    self._seen += len(line)
    self._lines += 1
    self._edits[edit.video, edit.annotator] = edit

  @contextlib.contextmanager
  def _locked(self):
    with self._mutex:
      fcntl.flock(self._file, fcntl.LOCK_EX)
      try:
        yield
      finally:
        fcntl.flock(self._file, fcntl.LOCK_UN)

  def _refresh(self):
    """Reads what other processes have appended."""
    size = os.fstat(self._file).st_size
    if size < self._seen:
      raise StorageError(f'{self.path} has become shorter; start again.')
    if size > self._seen:
      self._mend()

  def _mend(self):
    """Reads on; a torn last line, of a killed writer, is put aside."""
    size = os.fstat(self._file).st_size
    data = os.pread(self._file, size - self._seen, self._seen)
    edits, torn = _parse_lines(data, self.path, self._lines + 1)
    whole = data.rfind(b'\n') + 1
    if torn:
      aside = self.path + '.torn'
      with open(aside, 'ab') as file:
        file.write(data[whole:] + b'\n')
        file.flush()
        os.fsync(file.fileno())
      os.ftruncate(self._file, self._seen + whole)
      self._report(f'{self.path}: the last line is torn; it was moved to '
                   f'{aside}.')
    self._edits |= latest(edits)
    self._seen += whole
    self._lines += len(edits)


def _says_same(one: Edit, other: Edit) -> bool:
  """Tells whether two edits differ in their times and revision only."""
  same = dict(created='', updated='', revision=1)
  return (dataclasses.replace(one, **same)
          == dataclasses.replace(other, **same))
