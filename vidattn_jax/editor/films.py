"""Frames of videos as pictures for the browser, decoded once and kept."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import io
import threading

import numpy as np
from PIL import Image

# Frames in a row of a sheet, and rows: few requests, and exact frames.
COLUMNS = ROWS = 5
PER_SHEET = COLUMNS * ROWS
_QUALITY = 85


class FilmError(ValueError):
  """Frames of a video cannot be shown, and why."""


class _Film:
  """The sheets of one video, as far as it is decoded."""

  def __init__(self):
    self.sheets = []
    self.done = False
    self.error = ''
    self.changed = threading.Condition()

  def add(self, frames):
    """Makes a sheet of frames, if there are any."""
    if not frames:
      return
    sheet = _encode(frames)
    with self.changed:
      self.sheets.append(sheet)
      self.changed.notify_all()


class Films:
  """Sheets of frames of the videos that were asked for last."""

  def __init__(self, decode: Callable[[str], Iterator[np.ndarray]],
               capacity: int = 24):
    """Starts empty.

    Args:
      decode: function of a video's id that yields its frames in order, uint8
        [H, W, 3] of one size; may raise a ValueError.
      capacity: videos that are kept.
    """
    self._decode = decode
    self._capacity = capacity
    self._films = collections.OrderedDict()
    self._lock = threading.Lock()

  def sheet(self, video: str, number: int) -> bytes:
    """Returns one sheet of a video, which waits until it is decoded.

    Args:
      video: its id.
      number: which sheet, from 0; frame i stands on sheet i // `PER_SHEET`,
        row by row.

    Returns:
      A JPEG file of `COLUMNS` x `ROWS` frames; the last sheet has fewer.

    Raises:
      FilmError: the video cannot be decoded so far.
    """
    with self._lock:
      film = self._films.get(video)
      # A damaged video is tried again when it is opened again.
      if film is None or (film.error and not number):
        film = self._films[video] = _Film()
        threading.Thread(target=self._fill, args=(film, video),
                         daemon=True).start()
      self._films.move_to_end(video)
      while len(self._films) > self._capacity:
        self._films.popitem(last=False)
    with film.changed:
      film.changed.wait_for(lambda: film.done or len(film.sheets) > number)
      if number < len(film.sheets):
        return film.sheets[number]
    raise FilmError(film.error or f'{video} has no frames for sheet {number}.')

  def _fill(self, film, video):
    error, group = '', []
    try:
      for frame in self._decode(video):
        group.append(frame)
        if len(group) == PER_SHEET:
          film.add(group)
          group = []
    except (ValueError, OSError) as failure:
      error = str(failure) or type(failure).__name__
    finally:
      # What decodes before the damage is shown.
      film.add(group)
      with film.changed:
        film.done, film.error = True, error
        film.changed.notify_all()


def _encode(frames):
  height, width, _ = frames[0].shape
  rows = -(-len(frames) // COLUMNS)
  sheet = np.zeros((rows, COLUMNS, height, width, 3), np.uint8)
  for i, frame in enumerate(frames):
    sheet[i // COLUMNS, i % COLUMNS] = frame
  sheet = sheet.swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
  file = io.BytesIO()
  Image.fromarray(sheet).save(file, 'JPEG', quality=_QUALITY)
  return file.getvalue()
