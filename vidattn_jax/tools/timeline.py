"""Segments of a video as bars under a film strip: an SVG file, a picture."""

import base64
from collections.abc import Sequence
import dataclasses
import html
import io

import numpy as np
from PIL import Image
from PIL import ImageDraw

from vidattn_jax.tools import pictures

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
# Pixels of a painted timeline for one of a drawn one.
_SCALE = 2


@dataclasses.dataclass(frozen=True)
class Row:
  """Segments of one origin.

  Attributes:
    name: what it is called: the truth, a network.
    segments: (start s, end s, class name, score or None) of each.
  """
  name: str
  segments: Sequence[tuple[float, float, str, float | None]]


@dataclasses.dataclass(frozen=True)
class _Box:
  """A rectangle; `dash` is a list of lengths, as SVG has it."""
  x: float
  y: float
  width: float
  height: float
  fill: str
  stroke: str = ''
  stroke_width: int = 1
  dash: str = ''
  title: str = ''


@dataclasses.dataclass(frozen=True)
class _Text:
  """A line of text, whose letters stand on `y`."""
  x: float
  y: float
  text: str
  size: int = 13
  bold: bool = False
  # It ends at x; it has a light halo, and is read on any colour.
  to_left: bool = False
  halo: bool = False


@dataclasses.dataclass(frozen=True)
class _Upright:
  """A vertical line."""
  x: float
  y: float
  bottom: float
  stroke: str


@dataclasses.dataclass(frozen=True)
class _Frame:
  """One of the film strip."""
  x: float
  y: float
  width: float
  height: float
  frame: np.ndarray


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
  height, shapes = _layout(title, duration, rows, classes, frames)
  told = '; '.join(f'{row.name}: {len(row.segments)} segments' for row in rows)
  return (
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
      f' width="{_WIDTH}" height="{height}" role="img" '
      f'font-family="sans-serif" fill="{_INK}">'
      f'<title>{html.escape(title)}</title><desc>{html.escape(told)}</desc>'
      + '\n'.join(map(_to_svg, shapes)) + '</svg>\n')


def paint(title: str, duration: float, rows: Sequence[Row], classes,
          frames=()) -> Image.Image:
  """Paints what `draw` draws, two pixels for one, for where SVG is not read."""
  height, shapes = _layout(title, duration, rows, classes, frames)
  image = Image.new('RGB', (_SCALE * _WIDTH, _SCALE * height))
  for shape in shapes:
    _paint(image, shape)
  return image


def _layout(title, duration, rows, classes, frames):
  """Returns the height and what is drawn, one above the other."""
  inner = _WIDTH - _LEFT - _RIGHT
  place = lambda s: _LEFT + inner * min(max(s / duration, 0), 1)  # noqa: E731
  used = [name for name in classes if any(
      s[2] == name for row in rows for s in row.segments)]
  y, shapes = _TEXT + 10, [
      _Text(10, _TEXT, f'{title}, {clock(duration)}', bold=True)]
  if len(frames):
    each = inner / len(frames)
    height = round(each * frames[0].shape[0] / frames[0].shape[1])
    shapes += [_Frame(_LEFT + i * each, y, each, height, frame)
               for i, frame in enumerate(frames)]
    y += height + _GAP
  top = y
  shapes += _axis(duration, place, y)
  y += _TEXT + _GAP
  for number, row in enumerate(rows):
    chosen = lanes(row.segments)
    height = (max(chosen, default=0) + 1) * (_BAR + _GAP) + 2 * _GAP
    if number % 2 == 0:
      shapes.append(_Box(0, y, _WIDTH, height, _BAND))
    shapes.append(_Text(10, y + _GAP + 15, _short(row.name)))
    for segment, lane in zip(row.segments, chosen, strict=True):
      shapes += _bar(segment, place, y + _GAP + lane * (_BAR + _GAP), classes)
    y += height
  shapes += [_Upright(x, top, y, _LINE) for x in (_LEFT, _WIDTH - _RIGHT)]
  y += _GAP
  x = _LEFT
  for name in used:
    width = 24 + _LETTER * len(name) + 14
    if x + width > _WIDTH and x > _LEFT:
      x, y = _LEFT, y + _TEXT
    shapes += [_Box(x, y + 4, 14, 12, **_look(name, classes)),
               _Text(x + 20, y + 15, name)]
    x += width
  y += _TEXT + 8
  return y, [_Box(0, 0, _WIDTH, y, '#ffffff'), *shapes]


def _axis(duration, place, y):
  step = next((s for s in _STEPS if duration / s <= _MARKS), _STEPS[-1])
  shapes = []
  for seconds in np.arange(0, duration + 1e-9, step).tolist():
    x = place(seconds)
    # The last one stands before its mark if it would be cut.
    cut = x + 5 * _LETTER > _WIDTH
    shapes += [_Upright(x, y, y + 5, _INK),
               _Text(x + (-2 if cut else 2), y + 15, clock(seconds),
                     size=11, to_left=cut)]
  return shapes


def _bar(segment, place, y, classes):
  start, end, name, score = segment
  x, width = place(start), max(place(end) - place(start), 2)
  text = name if score is None else f'{name} {score:.2f}'
  shapes = [_Box(x, y, width, _BAR, **_look(name, classes),
                 title=f'{text}, {clock(start)} to {clock(end)}')]
  if width > _LETTER * len(text):
    shapes.append(_Text(x + 4, y + 14, text, size=12, halo=True))
  return shapes


def _look(name, classes):
  number = list(classes).index(name)
  dashes = number // len(_COLORS)
  return {'fill': _COLORS[number % len(_COLORS)], 'stroke': _INK,
          'stroke_width': 1 + (dashes > 0),
          'dash': f'{2 + 2 * dashes} 2' if dashes else ''}


def _to_svg(shape):
  if isinstance(shape, _Upright):
    return (f'<path d="M{shape.x:.1f} {shape.y}V{shape.bottom}" '
            f'stroke="{shape.stroke}"/>')
  if isinstance(shape, _Text):
    more = (' font-weight="bold"' * shape.bold
            + ' text-anchor="end"' * shape.to_left
            + (' stroke="#fff" stroke-width="3" paint-order="stroke" '
               'pointer-events="none"') * shape.halo)
    return (f'<text x="{shape.x:.1f}" y="{shape.y}" font-size="{shape.size}"'
            f'{more}>{html.escape(shape.text)}</text>')
  where = (f'x="{shape.x:.1f}" y="{shape.y}" width="{shape.width:.1f}" '
           f'height="{shape.height}"')
  if isinstance(shape, _Frame):
    return f'<image {where} href="{_data(shape.frame)}"/>'
  more = f' rx="2" stroke="{shape.stroke}" ' \
      f'stroke-width="{shape.stroke_width}"' if shape.stroke else ''
  more += f' stroke-dasharray="{shape.dash}"' if shape.dash else ''
  title = f'<title>{html.escape(shape.title)}</title>' if shape.title else ''
  return f'<rect {where} fill="{shape.fill}"{more}>{title}</rect>'


def _paint(image, shape):
  pen = ImageDraw.Draw(image)
  x, y = _SCALE * shape.x, _SCALE * shape.y
  if isinstance(shape, _Upright):
    pen.line((x, y, x, _SCALE * shape.bottom), shape.stroke, _SCALE)
  elif isinstance(shape, _Text):
    pen.text((x, y), ' '.join(shape.text.split()), _INK,
             pictures.font(_SCALE * shape.size, shape.bold),
             anchor='rs' if shape.to_left else 'ls',
             stroke_width=_SCALE * 3 // 2 if shape.halo else 0,
             stroke_fill='#ffffff')
  elif isinstance(shape, _Frame):
    left, top, right, bottom = (round(v) for v in (
        x, y, x + _SCALE * shape.width, y + _SCALE * shape.height))
    image.paste(Image.fromarray(shape.frame).resize(
        (right - left, bottom - top)), (left, top))
  else:
    _paint_box(pen, shape, x, y)


def _paint_box(pen, box, x, y):
  """Paints a rectangle, whose outline lies inside of it."""
  right, bottom = x + _SCALE * box.width, y + _SCALE * box.height
  # A narrow one shows its colour, too.
  outline = max(1, min(_SCALE * box.stroke_width, int(right - x) // 4))
  pen.rectangle((x, y, right - 1, bottom - 1), box.fill, box.stroke or None,
                outline)
  if box.dash:
    # The edges above and below have gaps, as the whole outline has in SVG.
    on, off = (_SCALE * int(length) for length in box.dash.split())
    for left in np.arange(x + on, right - off, on + off):
      for top in (y, bottom - outline):
        pen.rectangle((left, top, left + off - 1, top + outline - 1), box.fill)


def _short(name):
  most = (_LEFT - 20) // _LETTER
  return name if len(name) <= most else name[:most - 2] + '..'


def _data(frame):
  """Returns a frame as a picture inside of a file."""
  file = io.BytesIO()
  Image.fromarray(frame).save(file, 'JPEG', quality=80)
  return ('data:image/jpeg;base64,'
          + base64.b64encode(file.getvalue()).decode())
