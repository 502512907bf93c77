"""Segments of a video as bars under a film strip: one SVG file."""

import base64
from collections.abc import Sequence
import dataclasses
import html
import io

import numpy as np
from PIL import Image

# Okabe and Ito's colours, which the colour-blind can tell apart; more classes
# begin again, dashed.
_COLORS = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00',
           '#f0e442', '#999999')
_INK, _LINE, _BAND = '#1a1a1a', '#bbbbbb', '#f2f4f7'
# Pixels: the whole, the names on the left, a bar, gaps, a line of text.
_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TEXT = 1200, 150, 20, 20, 4, 18
# Width of a letter, about.
_LETTER = 7
# Distances of marks on the axis, seconds, and how many there are at most.
_STEPS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_MARKS = 12


@dataclasses.dataclass(frozen=True)
class Row:
  """Segments of one origin.

  Attributes:
    name: what it is called: the truth, a network.
    segments: (start s, end s, class name, score or None) of each.
  """
  name: str
  segments: Sequence[tuple[float, float, str, float | None]]


def lanes(segments) -> list[int]:
  """Puts segments that overlap below each other.

  Args:
    segments: (start, end, ...) of each.

  Returns:
    The lane of each, from 0; the first come first.
  """
  ends, chosen = [], [0] * len(segments)
  for i in sorted(range(len(segments)), key=lambda i: segments[i][:2]):
    start, end = segments[i][:2]
    lane = next((k for k, last in enumerate(ends) if last <= start), len(ends))
    ends[lane:lane + 1] = [end]
    chosen[i] = lane
  return chosen


def clock(seconds: float) -> str:
  """Returns a time as 1:02:03, 2:03 or, below a minute, 3.5 s."""
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (f'{hours}:{minutes:02d}:{rest:02d}' if hours
          else f'{minutes}:{rest:02d}')


def draw(title: str, duration: float, rows: Sequence[Row], classes,
         frames=()) -> str:
  """Draws a timeline (Li et al., 2020, Fig. 6).

  Args:
    title: name of the video.
    duration: seconds.
    rows: what to show, from above.
    classes: class names, in the order of their colours.
    frames: uint8 [H, W, 3] of a film strip, evenly over the video.

  Returns:
    The SVG file; nothing outside of it is asked for.
  """
  inner = _WIDTH - _LEFT - _RIGHT
  place = lambda s: _LEFT + inner * min(max(s / duration, 0), 1)  # noqa: E731
  used = [name for name in classes if any(
      s[2] == name for row in rows for s in row.segments)]
  y, body = _TEXT + 10, [
      f'<text x="10" y="{_TEXT}" font-weight="bold">{html.escape(title)}, '
      f'{clock(duration)}</text>']
  if len(frames):
    each = inner / len(frames)
    height = round(each * frames[0].shape[0] / frames[0].shape[1])
    body += [f'<image x="{_LEFT + i * each:.1f}" y="{y}" width="{each:.1f}" '
             f'height="{height}" href="{_data(frame)}"/>'
             for i, frame in enumerate(frames)]
    y += height + _GAP
  top = y
  body += _axis(duration, place, y)
  y += _TEXT + _GAP
  for number, row in enumerate(rows):
    chosen = lanes(row.segments)
    height = (max(chosen, default=0) + 1) * (_BAR + _GAP) + 2 * _GAP
    if number % 2 == 0:
      body.append(f'<rect x="0" y="{y}" width="{_WIDTH}" height="{height}" '
                  f'fill="{_BAND}"/>')
    body.append(f'<text x="10" y="{y + _GAP + 15}">'
                f'{html.escape(_short(row.name))}</text>')
    for segment, lane in zip(row.segments, chosen, strict=True):
      body += _bar(segment, place, y + _GAP + lane * (_BAR + _GAP), classes)
    y += height
  marks = f'<path d="M{_LEFT} {top}V{y}M{_WIDTH - _RIGHT} {top}V{y}" ' \
      f'stroke="{_LINE}"/>'
  y += _GAP
  x = _LEFT
  for name in used:
    width = 24 + _LETTER * len(name) + 14
    if x + width > _WIDTH and x > _LEFT:
      x, y = _LEFT, y + _TEXT
    body.append(f'<rect x="{x}" y="{y + 4}" width="14" height="12" '
                f'{_look(name, classes)}/>'
                f'<text x="{x + 20}" y="{y + 15}">{html.escape(name)}</text>')
    x += width
  y += _TEXT + 8
  told = '; '.join(f'{row.name}: {len(row.segments)} segments' for row in rows)
  return (
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" '
      f'width="{_WIDTH}" height="{y}" role="img" font-family="sans-serif" '
      f'font-size="13" fill="{_INK}"><title>{html.escape(title)}</title>'
      f'<desc>{html.escape(told)}</desc>'
      f'<rect width="{_WIDTH}" height="{y}" fill="#fff"/>'
      + '\n'.join([*body, marks]) + '</svg>\n')


def _axis(duration, place, y):
  step = next((s for s in _STEPS if duration / s <= _MARKS), _STEPS[-1])
  parts = []
  for seconds in np.arange(0, duration + 1e-9, step):
    x = place(seconds)
    # The last one stands before its mark if it would be cut.
    side = ('text-anchor="end" ' if x + 5 * _LETTER > _WIDTH else '')
    parts.append(f'<path d="M{x:.1f} {y}v5" stroke="{_INK}"/>'
                 f'<text x="{x + (-2 if side else 2):.1f}" y="{y + 15}" {side}'
                 f'font-size="11">{clock(float(seconds))}</text>')
  return parts


def _bar(segment, place, y, classes):
  start, end, name, score = segment
  x, width = place(start), max(place(end) - place(start), 2)
  text = name if score is None else f'{name} {score:.2f}'
  told = f'{text}, {clock(start)} to {clock(end)}'
  parts = [f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" '
           f'rx="2" {_look(name, classes)}><title>{html.escape(told)}</title>'
           '</rect>']
  # A light halo: text is read on any colour.
  if width > _LETTER * len(text):
    parts.append(f'<text x="{x + 4:.1f}" y="{y + 14}" font-size="12" '
                 'stroke="#fff" stroke-width="3" paint-order="stroke" '
                 f'pointer-events="none">{html.escape(text)}</text>')
  return parts


def _look(name, classes):
  number = list(classes).index(name)
  dashes = number // len(_COLORS)
  more = f' stroke-dasharray="{2 + 2 * dashes} 2"' if dashes else ''
  return (f'fill="{_COLORS[number % len(_COLORS)]}" stroke="{_INK}" '
          f'stroke-width="{1 + (dashes > 0)}"{more}')


def _short(name):
  most = (_LEFT - 20) // _LETTER
  return name if len(name) <= most else name[:most - 2] + '..'


def _data(frame):
  """Returns a frame as a picture inside of a file."""
  file = io.BytesIO()
  Image.fromarray(frame).save(file, 'JPEG', quality=80)
  return ('data:image/jpeg;base64,'
          + base64.b64encode(file.getvalue()).decode())
