"""Draws panels over the frames of a clip: cells, a strip, a movie."""

from collections.abc import Sequence
import dataclasses
import functools
import math
import os

import av
import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from vidattn_jax.tools import flow_colors
from vidattn_jax.tools import panels as panels_lib

# Share of the heat map over the frame, as ST-ABN's authors draw it.
_HEAT = 0.4
_INK, _PAPER, _BAND, _BAR = '#1a1a1a', '#ffffff', '#e8ecf1', '#31688e'
# Pixels: a frame's height in the strip and in the movie; the heights of
# weights of frames and of channels; the label on the left of the strip; a
# colour bar with its numbers; gaps; lines of text.
_STRIP, _MOVIE = 112, 160
_HEIGHTS = {'weight': 64, 'channels': 48}
_LABEL, _SCALE, _GAP, _LINE = 250, 96, 6, 15
# Radius of a dot.
_DOT = 3
# Frames in a strip; of a longer clip, some are left out.
_MOST = 16
_FRAMES_PER_SECOND = 4


@dataclasses.dataclass(frozen=True)
class Clip:
  """What the networks saw.

  Attributes:
    name: name of the video.
    frames: uint8 [T, H, W, 3]; of a network that sees flow, the frames that
      its stacks begin with.
    indices: number of each frame in the video, from 0.
    seconds: time of each frame; empty if it is not known.
    flow: uint8 [T, H, W, 2 * stack], x and y of the first field and so on; None
      for networks that see the frames.
  """
  name: str
  frames: np.ndarray
  indices: tuple[int, ...]
  seconds: tuple[float, ...] = ()
  flow: np.ndarray | None = None

  def label(self, t: int) -> str:
    """Says which frame of the video is number `t` of the clip."""
    at = f', {self.seconds[t]:.2f} s' if self.seconds else ''
    return f'frame {self.indices[t]}{at}'


@dataclasses.dataclass(frozen=True)
class Row:
  """What one network shows of a clip.

  Attributes:
    name: what to call the network.
    title: its name, what it predicts and which class is explained.
    top: its likeliest classes, (name, probability).
    panels: its panels.
  """
  name: str
  title: str
  top: tuple[tuple[str, float], ...]
  panels: tuple[panels_lib.Panel, ...]


def colors(values, low: float, high: float, colormap: str) -> np.ndarray:
  """Colours numbers.

  Args:
    values: [...].
    low: value of the map's first colour; what is below has it, too.
    high: value of its last colour.
    colormap: Matplotlib's name of the map.

  Returns:
    uint8 [..., 3].
  """
  table = matplotlib.colormaps[colormap](np.arange(256))[:, :3]
  share = (np.asarray(values, np.float32) - low) / (high - low)
  level = np.clip(np.rint(share * 255), 0, 255).astype(int)
  return np.rint(table * 255).astype(np.uint8)[level]


def resize(frames, height: int) -> np.ndarray:
  """Brings frames, uint8 [T, H, W, 3], to a height, and a width to match."""
  width = round(frames.shape[2] * height / frames.shape[1])
  return np.stack([np.asarray(Image.fromarray(f).resize(
      (width, height), Image.Resampling.BILINEAR)) for f in frames])


def cells(panel: panels_lib.Panel, frames, colormap: str) -> np.ndarray:
  """Draws a panel, one picture for each frame.

  Args:
    panel: a map lies over the frames, 0.4 over 0.6; a frame's weight is
      a bar from the lower end of its scale to the upper; weights of channels
      are coloured lines, several to a pixel averaged; flow has the colours of
      the wheel; frames stand alone.
    frames: uint8 [T, H, W, 3], as large as they shall be drawn.
    colormap: Matplotlib's name of the colour map.

  Returns:
    uint8 [T, h, W, 3]; h is H for maps.
  """
  _, height, width, _ = frames.shape
  if panel.kind == 'weight':
    return np.stack([_bar(panel, float(value), width)
                     for value in panel.values])
  if panel.kind == 'channels':
    lines = np.stack([_fold(row, width) for row in panel.values])
    heat = colors(lines, panel.low, panel.high, colormap)
    return np.repeat(heat[:, None], _HEIGHTS['channels'], axis=1)
  if panel.kind == 'flow':
    return resize(flow_colors.colors(panel.values, panel.high), height)
  if panel.kind == 'frames':
    return resize(panel.values, height)
  values = np.stack([np.asarray(Image.fromarray(v).resize(
      (width, height), Image.Resampling.BILINEAR)) for v in panel.values])
  heat = colors(values, panel.low, panel.high, colormap)
  drawn = np.rint(_HEAT * heat + (1 - _HEAT) * frames).astype(np.uint8)
  return _dotted(drawn, panel.marks) if panel.marks else drawn


def _dotted(drawn, marks):
  """Draws a dot on each marked cell; the outer ones lie on the border."""
  dotted = []
  for t, cell in enumerate(drawn):
    image = Image.fromarray(cell)
    draw = ImageDraw.Draw(image)
    for color, cells in marks:
      last = np.asarray(cells.shape[1:]) - 1
      for y, x in np.argwhere(cells[t]) / last * (
          np.asarray(cell.shape[:2]) - 1):
        draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=color,
                     outline=_PAPER)
    dotted.append(np.asarray(image))
  return np.stack(dotted)


def _fold(row, width):
  """Brings weights of channels to `width` numbers: means, or repeats."""
  edges = np.arange(width + 1) * len(row) / width
  first = edges[:-1].astype(int)
  last = np.maximum(np.ceil(edges[1:]).astype(int), first + 1)
  return np.asarray([row[a:b].mean() for a, b in zip(first, last)])


def _bar(panel, value, width):
  height = _HEIGHTS['weight']
  image = Image.new('RGB', (width, height), _PAPER)
  draw = ImageDraw.Draw(image)
  room = height - _LINE - 2

  def level(v):
    return height - 1 - round(room * (v - panel.low) / (panel.high - panel.low))

  zero = level(min(max(0.0, panel.low), panel.high))
  ends = sorted((zero, level(value)))
  draw.rectangle((width // 4, ends[0], width - width // 4, ends[1]), fill=_BAR)
  draw.line((0, zero, width, zero), fill=_INK)
  draw.text((width / 2, ends[0] - 2), f'{value:.3g}', font=font(12),
            fill=_INK, anchor='mb')
  return np.asarray(image)


def color_bar(panel: panels_lib.Panel, height: int, colormap: str):
  """Draws a panel's scale with its numbers, as an image [height, ...]."""
  image = Image.new('RGB', (_SCALE, height), _PAPER)
  draw = ImageDraw.Draw(image)
  if panel.kind == 'frames':
    return image
  if panel.kind == 'flow':
    size = min(_SCALE - _GAP, height - 2 * _LINE)
    image.paste(flow_colors.legend(size, panel.high, _PAPER), (0, 0))
    draw.text((0, size + 2), f'rim: {panel.high:.2g} px', font=font(12),
              fill=_INK)
    return image
  if panel.kind == 'weight':
    draw.line((4, _LINE + 1, 4, height - 1), fill=_INK)
    top, left = _LINE + 1, 10
  else:
    ramp = colors(np.linspace(1, 0, height), 0, 1, colormap)
    image.paste(Image.fromarray(np.repeat(ramp[:, None], 12, axis=1)), (0, 0))
    top, left = 0, 18
  for y, value, anchor in ((top, panel.high, 'la'),
                           (height - 1, panel.low, 'ls')):
    draw.text((left, y), f'{value:.3g}', font=font(12), fill=_INK,
              anchor=anchor)
  return image


@functools.cache
def font(size, bold=False):
  """Returns the typeface of pictures, in pixels."""
  name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
  return ImageFont.truetype(
      os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', name), size)


def _wrap(text, width, typeface):
  """Breaks text into lines of at most `width` pixels, long words, too."""
  lines = ['']
  for word in text.split():
    joined = f'{lines[-1]} {word}'.strip()
    if typeface.getlength(joined) <= width:
      lines[-1] = joined
      continue
    lines.append('')
    for letter in word:
      if lines[-1] and typeface.getlength(lines[-1] + letter) > width:
        lines.append('')
      lines[-1] += letter
  return [line for line in lines if line]


def _label(panel, width, prefix=''):
  """Returns a panel's label in lines, and how many of them are its name."""
  name = _wrap(prefix + panel.name, width, font(12, bold=True))
  rest = [line for text in (panel.range, *panel.notes)
          for line in _wrap(text, width, font(12))]
  return name + rest, len(name)


def _write(draw, place, lines, bold):
  """Writes lines, the first `bold` of them in bold type."""
  for i, line in enumerate(lines):
    draw.text((place[0], place[1] + i * _LINE), line, fill=_INK,
              font=font(12, bold=i < bold))


def strip(clip: Clip, rows: Sequence[Row], colormap: str) -> Image.Image:
  """Draws frames side by side, and below them each network's panels.

  Args:
    clip: the clip; of more than 16 frames, 16 evenly spaced ones are shown.
    rows: the networks.
    colormap: Matplotlib's name of the colour map.

  Returns:
    The image.
  """
  count = len(clip.frames)
  shown = (np.arange(count) if count <= _MOST else
           ((np.arange(_MOST) + 0.5) * count / _MOST).astype(int))
  frames = resize(clip.frames, _STRIP)
  step = frames.shape[2] + _GAP
  total = _LABEL + len(shown) * step + _SCALE

  def band(lines, size, fill):
    part = Image.new('RGB', (total, len(lines) * (size + 5) + _GAP), fill)
    ImageDraw.Draw(part).multiline_text(
        (_GAP, _GAP // 2), '\n'.join(lines), fill=_INK,
        font=font(size, bold=True), spacing=2)
    return part

  def times():
    part = Image.new('RGB', (total, 2 * _LINE), _PAPER)
    draw = ImageDraw.Draw(part)
    for i, t in enumerate(shown):
      draw.multiline_text(
          (_LABEL + i * step + step / 2, 0), clip.label(t).replace(', ', '\n'),
          fill=_INK, font=font(11), anchor='ma', align='center')
    return part

  def line(label, drawn, scale=None):
    lines, bold = label
    part = Image.new(
        'RGB', (total, max(drawn.shape[1], len(lines) * _LINE) + _GAP), _PAPER)
    _write(ImageDraw.Draw(part), (_GAP, 0), lines, bold)
    for i, t in enumerate(shown):
      part.paste(Image.fromarray(drawn[t]), (_LABEL + i * step, 0))
    if scale:
      part.paste(scale, (_LABEL + len(shown) * step, 0))
    return part

  title = _wrap(clip.name, _LABEL - 2 * _GAP, font(12, True))
  left_out = [f'{_MOST} of {count} frames'] if len(shown) < count else []
  parts = [times(), line((title + left_out, len(title)), frames)]
  for row in rows:
    parts.append(band(_wrap(row.title, total - 2 * _GAP, font(13, True)), 13,
                      _BAND))
    for panel in row.panels:
      drawn = cells(panel, frames, colormap)
      parts.append(line(_label(panel, _LABEL - 2 * _GAP), drawn,
                        color_bar(panel, drawn.shape[1], colormap)))
  image = Image.new('RGB', (total, sum(p.height for p in parts)), _PAPER)
  y = 0
  for part in parts:
    image.paste(part, (0, y))
    y += part.height
  return image


def movie(path, clip: Clip, rows: Sequence[Row], colormap: str):
  """Writes a film, H.264, of the frame and all panels side by side.

  Args:
    path: file to write, '.mp4'.
    clip: the clip; each frame is shown for a quarter of a second.
    rows: the networks.
    colormap: Matplotlib's name of the colour map.
  """
  frames = resize(clip.frames, _MOVIE)
  width = _GAP + frames.shape[2] + _GAP + _SCALE
  tiles = [((_wrap(clip.name, width - 2 * _GAP, font(12, True)), 9), frames,
            None)]
  for row in rows:
    prefix = f'{row.name}: ' if len(rows) > 1 else ''
    for panel in row.panels:
      drawn = cells(panel, frames, colormap)
      tiles.append((_label(panel, width - 2 * _GAP, prefix), drawn,
                    color_bar(panel, drawn.shape[1], colormap)))
  head = max(len(lines) for (lines, _), *_ in tiles) * _LINE + _GAP
  height = head + _MOVIE + _GAP
  columns = min(len(tiles), math.ceil(math.sqrt(
      len(tiles) * 16 / 9 * height / width)))
  lines = math.ceil(len(tiles) / columns)
  # The codec takes even sizes only.
  size = [n + n % 2 for n in (columns * width, 20 + lines * height)]
  base = Image.new('RGB', size, _PAPER)
  draw = ImageDraw.Draw(base)
  places = [(_GAP + i % columns * width, 20 + i // columns * height)
            for i in range(len(tiles))]
  for (x, y), (label, drawn, scale) in zip(places, tiles, strict=True):
    _write(draw, (x, y), *label)
    if scale:
      base.paste(scale, (x + drawn.shape[2] + _GAP, y + head))
  with av.open(os.fspath(path), 'w', options={'movflags': 'faststart'}) as out:
    stream = out.add_stream('libx264', rate=_FRAMES_PER_SECOND,
                            options={'crf': '16'})
    stream.width, stream.height = size
    stream.pix_fmt = 'yuv420p'
    for t in range(len(frames)):
      image = base.copy()
      ImageDraw.Draw(image).text((_GAP, 2), clip.label(t), fill=_INK,
                                 font=font(13, bold=True))
      for (x, y), (_, drawn, _) in zip(places, tiles, strict=True):
        image.paste(Image.fromarray(drawn[t]), (x, y + head))
      out.mux(stream.encode(av.VideoFrame.from_image(image)))
    out.mux(stream.encode())
