"""The same clips' attention in two networks, as strips."""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vidattn_jax.tools import panels
from vidattn_jax.tools import pictures


def choose(before, after, group=None, count: int = 4) -> list[str]:
  """Chooses videos whose attention is worth a look.

  Args:
    before: attention that was collected of a network: `names`, `labels`,
      `predicted()`.
    after: the same of another one.
    group: class numbers that videos are taken from; None for all.
    count: how many videos.

  Returns:
    Names: first of those that the second network alone gets right, then of
    those that it alone gets wrong, then of others; classes take turns.

  Raises:
    ValueError: they have no labelled video in common.
  """
  rows = {name: row for row, name in enumerate(after.names)}
  predicted = [found.predicted() for found in (before, after)]
  seen, order = {}, []
  for row, name in enumerate(before.names):
    label = int(before.labels[row])
    if name not in rows or label < 0 or not (group is None or label in group):
      continue
    gain = (int(predicted[1][rows[name]] == label)
            - int(predicted[0][row] == label))
    kind = {1: 0, -1: 1, 0: 2}[gain]
    turn = seen[kind, label] = seen.get((kind, label), -1) + 1
    order.append((kind, turn, label, name))
  if not order:
    raise ValueError('The two collections of attention have no labelled video '
                     'in common that could be drawn.')
  return [name for *_, name in sorted(order)[:count]]


def draw(before, after, names: Sequence[str], videos: Sequence[str],
         frames_of: Callable[[str], np.ndarray],
         colormap: str = 'viridis') -> Image.Image:
  """Draws strips of clips, both networks' attention under the frames.

  Noguchi et al., Fig. 4; weights and maps on a scale from 0 to 1.

  Args:
    before: `editor.collected.Collected`, of the first clip of each video.
    after: the same of another network.
    names: what to call the two.
    videos: names of the videos.
    frames_of: function of a name and frames' numbers that returns them, uint8
      [T, H, W, 3].
    colormap: Matplotlib's name of the colour map.

  Returns:
    The strips, one below the other.

  Raises:
    ValueError: the two saw other frames of a video.
  """
  images = []
  for video in videos:
    rows, indices = [], None
    for found, name in ((before, names[0]), (after, names[1])):
      row = found.names.index(video)
      seen = np.asarray(found.frame_indices[row][0])
      if indices is not None and not np.array_equal(seen, indices):
        raise ValueError(f'The two networks saw other frames of {video}; '
                         'collect their attention with the same sampling.')
      indices = seen
      k = int(np.argmax(found.scores[row]))
      truth = found.classes[found.labels[row]]
      share = found.probabilities(row)[k]
      rows.append(pictures.Row(
          name, f'{name}: {found.classes[k]} ({share:.1%}); it is {truth}', (),
          tuple(panels.make_panel(kind.replace('_', ' '), values, len(seen),
                                  scale=(0.0, 1.0)) for kind, values in (
              ('temporal_attention', found.temporal_attention[row][0]),
              ('spatial_attention', found.spatial_attention[row][0] / 255)))))
    images.append(np.asarray(pictures.strip(
        pictures.Clip(video, frames_of(video, indices), tuple(
            indices.tolist())), rows, colormap)))
  width = max(image.shape[1] for image in images)
  return Image.fromarray(np.concatenate([
      np.pad(image, ((0, 12), (0, width - image.shape[1]), (0, 0)),
             constant_values=255) for image in images]))
