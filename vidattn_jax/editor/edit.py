"""One edit of a video's temporal attention, and what it must be.

docs/editing.md describes the fields.
"""

import dataclasses
import json
import math
import re

SCHEMA = 1
STATUSES = ('draft', 'submitted', 'skipped')
MAX_NOTE = 2000
# Decimals of stored weights.
DECIMALS = 4
_ANNOTATOR = re.compile(r'[\w.@+-]+( [\w.@+-]+)*')


class EditError(ValueError):
  """An edit or a file of edits cannot be used, and why."""


@dataclasses.dataclass(frozen=True)
class Edit:
  """One person's temporal attention of one video, as one line of the file.

  Attributes:
    video: the video's id.
    num_frames: its frames, n.
    frame_indices: frames that the network saw, rising, from 0.
    original: the network's weights [n], 0 to 1.
    edited: the person's weights [n], 0 to 1.
    mask: [n], 1 for frames that count in training, else 0.
    label: the video's class; -1 if unknown.
    predicted: class that the network predicted.
    annotator: who.
    created: time of the first save, RFC 3339, UTC.
    updated: time of this one.
    revision: number of this save, from 1.
    status: 'draft', 'submitted' or 'skipped'.
    seconds: time that the person spent on it so far.
    checkpoint: the weights that were seen.
    note: what the person wrote.
    schema: version of these fields.
  """
  video: str
  num_frames: int
  frame_indices: tuple[int, ...]
  original: tuple[float, ...]
  edited: tuple[float, ...]
  mask: tuple[int, ...]
  label: int
  predicted: int
  annotator: str
  created: str
  updated: str
  revision: int
  status: str
  seconds: float = 0.0
  checkpoint: str = ''
  note: str = ''
  schema: int = SCHEMA

  def to_line(self) -> str:
    """Returns the edit as one line of JSON, without its end."""
    return json.dumps(dataclasses.asdict(self), ensure_ascii=False,
                      allow_nan=False)


_FIELDS = {field.name for field in dataclasses.fields(Edit)}


def parse(text: str) -> Edit:
  """Reads one line.

  Args:
    text: JSON.

  Returns:
    The edit.

  Raises:
    EditError: it is no edit, or a field cannot be; names the field.
  """
  values = parse_json(text)
  _demand(isinstance(values, dict), 'it is no JSON object')
  _demand(values.get('schema') == SCHEMA, f'schema is {values.get("schema")!r}'
          f'; this version reads {SCHEMA}')
  optional = {'seconds', 'checkpoint', 'note'}
  missing = sorted(_FIELDS - values.keys() - optional)
  _demand(not missing, f'{", ".join(missing)} is missing')
  values = {name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items() if name in _FIELDS}
  edit = Edit(**values)
  check(edit)
  return edit


def parse_json(text: str | bytes):
  """Reads JSON, strictly: NaN and Infinity are none.

  Raises:
    EditError: it is no JSON.
  """

  def refuse(name):
    raise EditError(f'{name} is no number')

  try:
    return json.loads(text, parse_constant=refuse)
  except EditError:
    raise
  except (ValueError, RecursionError) as error:
    raise EditError(f'it is no JSON ({str(error)[:60]})') from None


def check(edit: Edit):
  """Raises an EditError that names the field of an edit that cannot be."""
  for name in ('video', 'annotator', 'created', 'updated', 'status',
               'checkpoint', 'note'):
    _demand(isinstance(getattr(edit, name), str), f'{name} is no text')
  check_annotator(edit.annotator)
  _demand(edit.video != '', 'video is empty')
  _demand(edit.status in STATUSES, f'status is {edit.status!r}; it must be '
          f'one of {", ".join(STATUSES)}')
  _demand(len(edit.note) <= MAX_NOTE,
          f'note has {len(edit.note)} characters; {MAX_NOTE} are the most')
  for name, least in (('num_frames', 1), ('label', -1), ('predicted', -1),
                      ('revision', 1)):
    value = getattr(edit, name)
    _demand(_is_whole(value) and value >= least,
            f'{name} is {value!r}; it must be a whole number from {least}')
  _demand(_is_number(edit.seconds) and edit.seconds >= 0,
          f'seconds is {edit.seconds!r}; it must be a number from 0')
  for name in ('original', 'edited'):
    check_weights(name, getattr(edit, name), edit.num_frames)
  _demand(isinstance(edit.mask, tuple) and len(edit.mask) == edit.num_frames
          and all(_is_whole(m) and m in (0, 1) for m in edit.mask),
          f'mask must be {edit.num_frames} times 0 or 1')
  indices = edit.frame_indices
  _demand(isinstance(indices, tuple) and all(map(_is_whole, indices))
          and list(indices) == sorted(set(indices))
          and all(0 <= i < edit.num_frames for i in indices),
          'frame_indices must be rising frame numbers below num_frames')


def check_weights(name: str, weights, num_frames: int):
  """Raises an EditError unless weights are one number in [0, 1] a frame.

  Args:
    name: what to call them.
    weights: tuple or list of numbers.
    num_frames: how many there must be.
  """
  _demand(isinstance(weights, tuple | list), f'{name} is no list')
  _demand(len(weights) == num_frames, f'{name} has {len(weights)} weights; '
          f'the video has {num_frames} frames')
  for i, weight in enumerate(weights):
    _demand(_is_number(weight) and 0 <= weight <= 1,
            f'{name} of frame {i} is {str(weight)[:20]}; it must be a number '
            'from 0 to 1')


def check_annotator(name):
  """Raises an EditError unless a name is one an annotator can have."""
  _demand(isinstance(name, str) and len(name) <= 64
          and _ANNOTATOR.fullmatch(name) is not None,
          'the name of an annotator must be 1 to 64 letters, digits, single '
          f'spaces and . _ - @ +, not {str(name)[:70]!r}')


def _demand(holds, reason):
  if not holds:
    raise EditError(reason)


def _is_whole(value):
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
  return (isinstance(value, int | float) and not isinstance(value, bool)
          and math.isfinite(value))
