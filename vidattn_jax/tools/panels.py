"""What a network shows of itself: its maps and weights, frame by frame."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import re

import numpy as np

from vidattn_jax import names
from vidattn_jax.training import metrics

# Colours of the peaks of each kind, and what they are called.
_PEAKS = {'discriminative': ('#ff8c1a', 'orange'),
          'complementary': ('#4db8ff', 'blue')}
# Attention that lies between 0 and 1 where a branch makes it.
_BOUNDED = ('temporal_attention', 'spatial_attention')
# Axes of a clip, as the gates' names call them.
_AXES = 'THWC'
# A scale spans this share of its largest value at least, so that a map that
# hardly varies looks like one.
_NARROWEST = 0.1


@dataclasses.dataclass(frozen=True)
class Panel:
  """One quantity over the frames of a clip.

  Attributes:
    name: what it is.
    values: float32, a map [T, h, w], where h or w is 1 if the quantity does
      not depend on it, weights of frames [T], or of channels [T, C]; or
      optical flow, [T, H, W, 2] in pixels; or frames, uint8 [T, H, W, 3].
    low: value at the lower end of the scale.
    high: value at its upper end, above `low`.
    notes: what else one should know, in a few words each.
    marks: of a map, (colour of a dot, the cells [T, g, g] that have one).
  """
  name: str
  values: np.ndarray
  low: float
  high: float
  notes: tuple[str, ...] = ()
  marks: tuple[tuple[str, np.ndarray], ...] = ()

  @property
  def kind(self) -> str:
    """'weight', 'channels', 'map', 'flow' or 'frames'."""
    if self.values.ndim == 4:
      return 'flow' if self.values.shape[-1] == 2 else 'frames'
    return {1: 'weight', 2: 'channels', 3: 'map'}[self.values.ndim]

  @property
  def range(self) -> str:
    """Smallest and largest value, of flow lengths; the size of frames."""
    if self.kind == 'frames':
      return f'{self.values.shape[1]} x {self.values.shape[2]} pixels'
    sizes = self._sizes()
    unit = ' pixels a frame' if self.kind == 'flow' else ''
    return f'{sizes.min():.3g} to {sizes.max():.3g}{unit}'

  @property
  def peak(self) -> int:
    """The frame of the largest value, from 0."""
    sizes = self._sizes()
    return int(sizes.reshape(len(sizes), -1).max(1).argmax())

  def _sizes(self):
    if self.kind != 'flow':
      return self.values
    return np.hypot(self.values[..., 0], self.values[..., 1])


def make_panel(name, values, num_frames, scale=None, notes=()) -> Panel:
  """Makes a panel, with a scale that fits.

  Args:
    name: what it shows.
    values: [t], [t, C] or [t, h, w]; fewer time steps than frames are
      interpolated linearly, one holds for all frames.
    num_frames: T.
    scale: (low, high); from the values unless given: from 0 for weights of
      frames, else from the smallest, to the largest; never narrower than a
      tenth of the largest size.
    notes: see `Panel`.

  Returns:
    The panel.

  Raises:
    ValueError: a value is not a number.
  """
  values = np.asarray(values, np.float32)
  if not np.isfinite(values).all():
    raise ValueError(f'{name} holds values that are not finite numbers; the '
                     'checkpoint or the clip is damaged.')
  if len(values) == 1 < num_frames:
    notes = (*notes, 'the same in all frames')
  elif len(values) != num_frames:
    notes = (*notes, f'{len(values)} time steps, interpolated')
  values = _over_time(values, num_frames)
  return Panel(name, values, *(scale or _scale(values)), tuple(notes))


def _over_time(values, num_frames):
  """Interpolates [t, ...] linearly to [T, ...], steps taken as intervals."""
  t = len(values)
  places = (np.arange(num_frames) + 0.5) * t / num_frames - 0.5
  places = np.clip(places, 0, t - 1)
  left = np.floor(places).astype(int)
  share = (places - left).reshape((-1,) + (1,) * (values.ndim - 1))
  right = np.minimum(left + 1, t - 1)
  return (values[left] * (1 - share) + values[right] * share).astype(
      np.float32)


def _scale(values):
  low, high = float(values.min()), float(values.max())
  if values.ndim == 1:
    low = min(low, 0.0)
  missing = _NARROWEST * max(abs(low), abs(high)) - (high - low)
  if missing > 0:
    low, high = low - missing / 2, high + missing / 2
  return (low, high) if high > low else (0.0, 1.0)


def flow_panel(flow, bound: float) -> Panel:
  """Makes a panel of the flow that a network sees.

  Args:
    flow: uint8 [T, H, W, 2 * stack], x and y of the first field and so on.
    bound: displacement in pixels that is 255.

  Returns:
    The panel, of the middle field of each stack. The pure colours are those of
    the length that one place in a hundred exceeds.
  """
  stack = flow.shape[-1] // 2
  middle = stack // 2
  field = flow[..., 2 * middle:2 * middle + 2].astype(np.float32)
  # Quantised, no motion is 128, the whole number next to the middle, 127.5.
  field = (field - 128) * np.float32(2 * bound / 255)
  lengths = np.hypot(field[..., 0], field[..., 1])
  high = max(float(np.quantile(lengths, 0.99)), 2 * bound / 255)
  notes = ((f'field {middle + 1} of {stack} of each stack',) if stack > 1
           else ())
  return Panel('optical flow', field, 0.0, high, notes)


def output_panels(outputs: Mapping, class_index: int, class_name: str,
                  num_frames: int, multi: bool = False) -> list[Panel]:
  """Makes a panel of every map and weight that a network's outputs name.

  Args:
    outputs: what `apply` returned. Shown are the scores of single frames,
      `frame_logits` [N, T, K], as probabilities; what ends in `_attention`:
      [N, T], [N, T, C], [N, T, h, w] or, one panel for each l,
      [N, T, l, h, w]; `class_maps` [N, T, h, w, K]; what ends in `_peaks`,
      bool [N, T, g, g], as dots on `response_attention`; and what ends in
      `_video`, uint8 [N, T, H, W, 3].
    class_index: class whose scores and class maps are shown.
    class_name: its name.
    num_frames: T.
    multi: classes are independent: each has a sigmoid of its own.

  Returns:
    The panels of the first clip.
  """
  panels = []
  if 'frame_logits' in outputs:
    as_shares = metrics.sigmoid if multi else metrics.softmax
    share = as_shares(outputs['frame_logits'][0])[:, class_index]
    panels.append(make_panel(f'score of {class_name} by frame', share,
                             num_frames, scale=(0.0, 1.0)))
  for key in sorted((k for k in outputs if k.endswith('_attention')),
                    key=_order):
    values, name = np.asarray(outputs[key][0]), key.replace('_', ' ')
    if values.ndim == 4:
      count = values.shape[1]
      panels += [make_panel(f'{name} {i + 1} of {count}', values[:, i],
                            num_frames) for i in range(count)]
    else:
      # Those of an attention branch mean the same in every clip.
      bounded = 'attention_logits' in outputs and key in _BOUNDED
      panels.append(make_panel(name, values, num_frames,
                               scale=(0.0, 1.0) if bounded else None))
      if key == 'response_attention':
        panels[-1] = _with_peaks(panels[-1], outputs)
  for key in sorted((k for k in outputs if k.endswith('_video')), key=_order):
    panels.append(Panel(f'{key.removesuffix("_video")} clip, resampled',
                        np.asarray(outputs[key][0]), 0.0, 255.0))
  if 'class_maps' in outputs:
    panels.append(make_panel(f'class map of {class_name}', np.asarray(
        outputs['class_maps'][0])[..., class_index], num_frames))
  return panels


def _order(key):
  """Sorts a response before what follows from it, and the rest by name."""
  kinds = ('response', *_PEAKS)
  kind = key.partition('_')[0]
  return kinds.index(kind) if kind in kinds else -1, key


def _with_peaks(panel, outputs):
  """Returns the panel of a response with the peaks found in it."""
  marks, notes = [], []
  for kind, (color, called) in _PEAKS.items():
    if f'{kind}_peaks' in outputs:
      cells = np.asarray(outputs[f'{kind}_peaks'][0])
      marks.append((color, cells))
      notes.append(f'{called}: {cells.sum()} {kind} peaks')
  return dataclasses.replace(panel, marks=tuple(marks),
                             notes=(*panel.notes, *notes))


def gate_panels(gates: Mapping, blocks: Sequence[str] | None,
                num_frames: int) -> list[Panel]:
  """Makes panels of the gates of attention units.

  A gate over height or width becomes a map, its mean over the channels.
  Others become weights of frames, their means over the channels, and weights
  of channels; each if there is more than one.

  Args:
    gates: {path of the block: {name: gate}}. A gate has the axes
      [N, T, H, W, C], of length 1 where it does not depend on one; or it
      lacks one, and its name ends in that axis's letter.
    blocks: paths of blocks, with or without `backbone/`, or one word, 'all'
      or 'none'; the last block of each stage unless given.
    num_frames: T.

  Returns:
    The panels of the first clip.

  Raises:
    ValueError: there is no such block with gates; names the nearest.
  """
  panels = []
  for block in _choose(gates, blocks):
    for name, gate in gates[block].items():
      values = np.asarray(gate[0], np.float32)
      if values.ndim == 3:
        values = np.expand_dims(values, _AXES.index(name[-1]))
      label = f'{_short(block)} gate {name}'.rstrip()
      mean, channels = values.mean(-1), values.shape[-1]
      notes = (f'mean of {channels} channels',) if channels > 1 else ()
      if mean[0].size > 1:
        panels.append(make_panel(label, mean, num_frames, notes=notes))
        continue
      if len(mean) > 1 or channels == 1:
        panels.append(make_panel(label, mean[:, 0, 0], num_frames,
                                 notes=notes))
      if channels > 1:
        panels.append(make_panel(f'{label}, channels', values[:, 0, 0],
                                 num_frames))
  return panels


def _choose(gates, blocks):
  """Returns the paths of the chosen blocks, in the network's order."""
  paths = sorted(gates, key=lambda path: [
      int(part) if part.isdigit() else part
      for part in re.split(r'(\d+)', path)])
  if blocks is None:
    last = {path.rpartition('/')[0]: path for path in paths}
    return list(last.values())
  if list(blocks) in (['all'], ['none']):
    return paths if blocks[0] == 'all' else []
  for block in blocks:
    names.check_name('block with gates', _short(block), map(_short, paths))
  wanted = {_short(block) for block in blocks}
  return [path for path in paths if _short(path) in wanted]


def _short(path):
  return path.removeprefix('backbone/')
