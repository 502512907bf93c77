"""One HTML page that shows a clip and what networks see in it.

Everything is inside: no other file and no network is asked for.
"""

import base64
from collections.abc import Sequence
import html
import io
import json

import numpy as np
from PIL import Image

from vidattn_jax.tools import pictures

# Height of a frame in pixels; lower for clips with more frames than this.
_TALL, _LOW, _MANY = 192, 112, 16

_STYLE = '''
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem;
  max-width: 90rem; color: #1a1a1a; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.control { position: sticky; top: 0; z-index: 1; padding: .6rem 0;
  background: #fff; border-bottom: 1px solid #bbb; display: flex;
  flex-wrap: wrap; gap: .4rem 1rem; align-items: center; }
.control input { flex: 1; min-width: 12rem; }
:focus-visible { outline: 3px solid #0b57d0; outline-offset: 2px; }
.panels { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: start; }
figure { margin: 0; } figcaption { font-size: .85rem; max-width: 20rem; }
.view { display: flex; gap: .4rem; }
.window { overflow: hidden; flex: none; }
.window img { display: block; max-width: none;
  transform: translateX(calc(var(--frame, 0) * -100% / var(--frames))); }
.strip { overflow-x: auto; } .strip img { display: block; }
table { border-collapse: collapse; font-size: .85rem; }
caption { font-weight: bold; } thead th, tbody th { font-weight: normal; }
caption, th, td { padding: .1rem .7rem .1rem 0; text-align: left; }
thead { border-bottom: 1px solid #bbb; }
td { font-variant-numeric: tabular-nums; }
'''

_SCRIPT = '''
const slider = document.getElementById('frame');
const said = document.getElementById('said');
const labels = JSON.parse(slider.dataset.labels);
function show() {
  const t = Number(slider.value) - 1;
  document.documentElement.style.setProperty('--frame', t);
  said.textContent = `${t + 1} of ${labels.length}: ${labels[t]}`;
  slider.setAttribute('aria-valuetext', said.textContent);
}
slider.addEventListener('input', show);
show();
'''


def page(clip: pictures.Clip, rows: Sequence[pictures.Row], colormap: str,
         strip: Image.Image) -> str:
  """Writes the page.

  Args:
    clip: the clip.
    rows: the networks.
    colormap: Matplotlib's name of the colour map.
    strip: the picture of all frames.

  Returns:
    HTML. A slider, which the arrow keys move, chooses the frame of all
    pictures; without scripts they show the first. Weights stand in a table,
    too.
  """
  count = len(clip.frames)
  frames = pictures.resize(clip.frames, _TALL if count <= _MANY else _LOW)
  labels = [clip.label(t) for t in range(count)]
  title = f'What the network sees in {clip.name}'
  if len(rows) > 1:
    title = f'What {len(rows)} networks see in {clip.name}'
  parts = [
      f'<h1>{_text(title)}</h1>',
      '<div class="control"><label for="frame">Frame</label>'
      f'<input type="range" id="frame" min="1" max="{count}" value="1" '
      f'data-labels="{_text(json.dumps(labels))}">'
      f'<output id="said" for="frame">1 of {count}: {_text(labels[0])}'
      '</output></div>',
      '<main><h2>The clip</h2><div class="panels"><figure>',
      _view(frames, 'The frame without a map', ''),
      '</figure></div>']
  for row in rows:
    parts += [
        f'<section><h2>{_text(row.title)}</h2><div class="panels">',
        *(_figure(panel, frames, colormap, labels) for panel in row.panels),
        _table('Likeliest classes', ('class', 'probability'),
               [(name, f'{share:.1%}') for name, share in row.top]),
        _weights(row, labels), '</div></section>']
  parts += [
      '<section><h2>Side by side</h2><div class="strip" tabindex="0" '
      'role="region" aria-label="Frames side by side, scrolls sideways">',
      _image(strip, 'JPEG', 'Frames side by side, and below them each panel '
             'named above, with its scale'),
      '</div></section></main>']
  return (
      '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      '<meta http-equiv="Content-Security-Policy" content="default-src '
      "'none'; img-src data:; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\">"
      f'<title>{_text(title)}</title><style>{_STYLE}\n'
      f':root {{ --frames: {count}; }}</style></head>\n<body>\n'
      + '\n'.join(parts) + f'\n<script>{_SCRIPT}</script>\n</body></html>\n')


def _text(value):
  return html.escape(str(value))



def _figure(panel, frames, colormap, labels):
  """A panel as a picture with scale and caption."""
  drawn = pictures.cells(panel, frames, colormap)
  alt = (f'{panel.name}: {panel.range}, largest in frame {panel.peak + 1} of '
         f'{len(labels)} ({labels[panel.peak]})'
         if panel.kind != 'frames' else f'{panel.name}, {panel.range}')
  scale = pictures.color_bar(panel, drawn.shape[1], colormap)
  notes = ''.join(f'<br>{_text(note)}' for note in panel.notes)
  return (
      '<figure>' + _view(drawn, alt, _image(
          scale, 'PNG', f'scale from {panel.low:.3g} to {panel.high:.3g}'
          if panel.kind != 'frames' else ''))
      + f'<figcaption><b>{_text(panel.name)}</b><br>{_text(panel.range)}{notes}'
      '</figcaption></figure>')


def _view(drawn, alt, scale):
  """A window on cells that lie side by side, and a scale beside it."""
  side_by_side = Image.fromarray(np.concatenate(list(drawn), axis=1))
  return (f'<div class="view"><div class="window" '
          f'style="width: {drawn.shape[2]}px">'
          + _image(side_by_side, 'JPEG', alt) + f'</div>{scale}</div>')


def _image(image, kind, alt):
  data = io.BytesIO()
  image.save(data, kind, **({'quality': 90} if kind == 'JPEG' else {}))
  return (f'<img alt="{_text(alt)}" width="{image.width}" '
          f'height="{image.height}" src="data:image/{kind.lower()};base64,'
          f'{base64.b64encode(data.getvalue()).decode()}">')


def _weights(row, labels):
  """The weights of frames as numbers."""
  shown = [panel for panel in row.panels if panel.kind == 'weight']
  if not shown:
    return ''
  return '<details><summary>Weights as numbers</summary>' + _table(
      'Weights of frames', ('frame', *(p.name for p in shown)), [
          (label, *(f'{p.values[t]:.3g}' for p in shown))
          for t, label in enumerate(labels)]) + '</details>'


def _table(caption, head, lines):
  """A table; the first cell of each line is its heading."""
  return (
      f'<table><caption>{_text(caption)}</caption><thead><tr>'
      + ''.join(f'<th scope="col">{_text(h)}</th>' for h in head)
      + '</tr></thead><tbody>' + ''.join(
          f'<tr><th scope="row">{_text(first)}</th>'
          + ''.join(f'<td>{_text(cell)}</td>' for cell in rest) + '</tr>'
          for first, *rest in lines) + '</tbody></table>')
