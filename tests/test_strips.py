"""The same clips' attention in two networks, chosen and drawn."""

import numpy as np
from PIL import Image
import pytest

from input_pipeline import synthetic
from vidattn_jax import cli
from vidattn_jax.editor import collected
from vidattn_jax.tools import strips
from vidattn_jax.training import evaluate

_LABELS = (0, 0, 0, 1, 1)
_NAMES = tuple(f'val/{"ab"[k]}/{i}.mp4' for i, k in enumerate(_LABELS))


def _found(right, weight, root='', indices=(0, 2, 5)):
  """Makes up what a network made of five videos of six frames."""
  scores = np.full((5, 2), -1.0, np.float32)
  for row, (label, hit) in enumerate(zip(_LABELS, right, strict=True)):
    scores[row, label if hit else 1 - label] = 1
  count = len(indices)
  return collected.Collected(
      split='eval', names=_NAMES,
      paths=tuple(f'{root}/{name}' for name in _NAMES),
      labels=np.asarray(_LABELS, np.int32),
      num_frames=np.full(5, 6, np.int32),
      frame_indices=np.tile(np.asarray(indices, np.int32), (5, 1, 1)),
      temporal_attention=np.full((5, 1, count), weight, np.float32),
      spatial_attention=np.full((5, 1, count, 2, 2), 255, np.uint8),
      scores=scores, classes=('a', 'b'),
      pixels={'crop_size': [32, 32], 'resize': 36, 'rotate': True})


def test_what_changed_comes_first_and_classes_take_turns():
  before = _found((1, 0, 0, 1, 0), 0.5)
  after = _found((0, 1, 1, 1, 1), 0.5)
  assert strips.choose(before, after, count=9) == [
      _NAMES[i] for i in (1, 4, 2, 0, 3)]
  assert strips.choose(before, after, {1}, 1) == [_NAMES[4]]
  with pytest.raises(ValueError, match='no labelled video in common'):
    strips.choose(before, after, {7})


def test_weights_and_maps_are_drawn_as_they_are():
  before, after = _found((1,) * 5, 0.25), _found((1,) * 5, 0.75)
  frames = np.zeros((3, 32, 32, 3), np.uint8)

  def draw(before, after):
    return np.asarray(strips.draw(
        before, after, ('first', 'second'), _NAMES[:1],
        lambda name, indices: frames)).astype(int)

  def bars(picture):
    return (np.abs(picture - (0x31, 0x68, 0x8e)).max(-1) < 3).sum()

  both, low, high = (bars(draw(*pair)) for pair in (
      (before, after), (before, before), (after, after)))
  assert abs(high / low - 3) < 0.15 and abs(2 * both - low - high) < 5
  with pytest.raises(ValueError, match='saw other frames of val/a/0.mp4'):
    draw(before, _found((1,) * 5, 0.5, indices=(0, 1, 5)))


def test_compare_draws_clips_of_edited_classes(tmp_path, capsys):
  for i, name in enumerate(_NAMES):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    synthetic.encode(str(path), np.full((6, 40, 48, 3), 30 * i, np.uint8))
  runs = [_found((1, 0, 1, 1, 0), 0.2, tmp_path),
          _found((1, 1, 1, 1, 1), 0.8, tmp_path)]
  for number, found in enumerate(runs):
    collected.write(tmp_path / str(number), found)
    evaluate.Result(
        names=found.names, labels=found.labels, scores=found.scores,
        clip_scores=found.scores[:, None], classes=found.classes).save(
            tmp_path / f'{number}.npz')
  cli.main(['compare', *(str(tmp_path / f'{i}.npz') for i in (0, 1)),
            '--out', str(tmp_path / 'gains.png'), '--names', 'before', 'after',
            '--attention', *(str(tmp_path / str(i)) for i in (0, 1)),
            '--clips', '2', '--strips', str(tmp_path / 'strips.png')])
  assert (f'Attention in {_NAMES[1]}, {_NAMES[4]} drawn to'
          in capsys.readouterr().out)
  picture = np.asarray(Image.open(tmp_path / 'strips.png'))
  # Two clips, each with its frames and two rows for each of two networks.
  assert picture.shape[0] > 2 * 400 and np.ptp(picture) > 100
