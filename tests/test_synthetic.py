"""The demo data: balanced, reproducible, and told by order alone."""

import hashlib
import pathlib

import numpy as np
import pytest

from input_pipeline import decode
from input_pipeline import synthetic


def _hashes(folder):
  return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
          for p in sorted(pathlib.Path(folder).rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('synthetic') / 'data'
  synthetic.generate(folder, 16, 8, seed=3, processes=1)
  return folder


def test_files_are_balanced_h264_of_varied_length(made):
  lengths = set()
  for split, count in (('train', 2), ('val', 1)):
    for name in synthetic.CLASSES:
      files = sorted((made / split / name).iterdir())
      assert [f.name for f in files] == [f'{i:04d}.mp4' for i in range(count)]
      for file in files:
        entry = decode.probe(file)
        assert entry.error == '' and entry.codec == 'h264'
        assert (entry.height, entry.width) == (240, 320)
        assert entry.keyframes == tuple(range(0, entry.num_frames, 12))
        lengths.add(entry.num_frames)
  assert lengths <= {24, 32, 40, 48} and len(lengths) > 2


def test_same_bytes_for_any_number_of_processes(made, tmp_path):
  synthetic.generate(tmp_path / 'again', 16, 8, seed=3, processes=2)
  hashes = _hashes(made)
  assert _hashes(tmp_path / 'again') == hashes
  assert len(set(hashes.values())) == 16 + 8 + 1
  synthetic.generate(tmp_path / 'other', 8, 0, seed=4, processes=1)
  assert not set(_hashes(tmp_path / 'other').values()) & set(hashes.values())


def test_what_is_there_is_kept_and_never_mixed(made, tmp_path):
  before = _hashes(made)
  assert synthetic.generate(made, 16, 8, seed=3) == str(made)
  with pytest.raises(ValueError, match='holds other files'):
    synthetic.generate(made, 24, 8, seed=3)
  assert _hashes(made) == before
  with pytest.raises(ValueError, match='num_eval=9 must be a multiple'):
    synthetic.generate(tmp_path / 'x', 8, 9)


def test_some_classes_alone_are_the_same_clips(made, tmp_path):
  synthetic.generate(tmp_path / 'two', 4, 2, seed=3, processes=1,
                     classes=('shrink', 'grow'))
  two = _hashes(tmp_path / 'two')
  whole = _hashes(made)
  videos = {name for name in two if str(name).endswith('.mp4')}
  assert len(videos) == 6
  assert {name: two[name] for name in videos} == {
      name: whole[name] for name in whole if name in videos}
  with pytest.raises(ValueError, match='holds other files'):
    synthetic.generate(tmp_path / 'two', 4, 2, seed=3,
                       classes=('appear', 'grow'))
  for wrong in ((), ('grow', 'grow'), ('grow', 'jump')):
    with pytest.raises(ValueError, match='must be some of appear, grow'):
      synthetic.generate(tmp_path / 'x', 4, 2, classes=wrong)
  with pytest.raises(ValueError, match='must be a multiple of the 2 classes'):
    synthetic.generate(tmp_path / 'x', 3, 2, classes=('grow', 'shrink'))


@pytest.mark.parametrize('pair', synthetic.PAIRS)
def test_partner_is_the_reversal(pair):
  # With the same draws, exactly; clips differ in their draws alone.
  forward, backward = (
      synthetic.render(name, np.random.default_rng(7)) for name in pair)
  np.testing.assert_array_equal(forward, backward[::-1])
  assert not np.array_equal(forward, backward)


def _object(name, seed):
  """Returns, for each frame, where it differs from the clip's median."""
  frames = synthetic.render(name, np.random.default_rng(seed)).astype(int)
  return frames, np.abs(frames - np.median(frames, 0)).max(-1) > 40


@pytest.mark.parametrize('seed', range(3))
def test_motions_are_what_their_names_say(seed):
  frames, moving = _object('slide_right', seed)
  columns = np.arange(320)
  first, last = ((m.sum(0) * columns).sum() / m.sum()
                 for m in (moving[1], moving[-2]))
  assert last - first > 50
  frames = synthetic.render('grow', np.random.default_rng(seed)).astype(int)
  # What changes between neighbours is the growing rim, at every step.
  change = np.abs(np.diff(frames, axis=0)).max(-1) > 40
  rim = np.array([c.sum() for c in change])
  assert rim[-4:].sum() > rim[:4].sum()
  frames = synthetic.render('appear', np.random.default_rng(seed)).astype(int)
  centre = np.abs(frames - frames[0]).max(-1).mean((1, 2))
  assert centre[-1] > centre[len(centre) // 2] > centre[1]


def test_turn_is_clockwise_on_the_screen():
  for seed in range(3):
    frames = synthetic.render(
        'turn_clockwise', np.random.default_rng(seed)).astype(int)
    # The arrow has one saturated colour: brighter than all else.
    arrow = frames.max(-1) > 230
    y, x = np.mgrid[:240, :320]
    # The direction of the longest extent, which is known up to half a turn.
    angles = []
    for mask in arrow:
      (xx, xy), (_, yy) = np.cov(x[mask], y[mask])
      angles.append(np.arctan2(2 * xy, xx - yy) / 2)
    # y points down, so growing angles turn clockwise.
    steps = (np.diff(angles) + np.pi / 2) % np.pi - np.pi / 2
    assert np.median(steps) > 0.04


# --- With decoys -------------------------------------------------------------


def test_parts_are_told_of_every_clip(tmp_path):
  folder = tmp_path / 'decoys'
  synthetic.generate(folder, 16, 8, seed=3, processes=1, decoys=(1, 0))
  parts = synthetic.read_parts(folder)
  files = [str(p.relative_to(folder)) for p in folder.rglob('*.mp4')]
  assert parts.keys() == set(files)
  for name, part in parts.items():
    split, class_name, _ = name.split('/')
    assert part['num_frames'] == decode.probe(folder / name).num_frames
    first, stop = part['motion']
    assert 0 <= first < stop <= part['num_frames']
    assert ('decoy' in part) == (class_name in synthetic.DECOYED)
    if 'decoy' in part:
      assert part['agrees'] == (split == 'train')
      assert part['decoy'][1] <= first or part['decoy'][0] >= stop
  # Both orders are met.
  assert {part['motion'][0] == 0 for part in parts.values()} == {True, False}
  assert synthetic.generate(folder, 16, 8, seed=3, decoys=(1, 0)) == str(folder)
  for other in (None, (1, 1)):
    with pytest.raises(ValueError, match='holds other files'):
      synthetic.generate(folder, 16, 8, seed=3, decoys=other)
  with pytest.raises(ValueError, match='must be two shares'):
    synthetic.generate(tmp_path / 'x', 8, 8, decoys=(1, 2))


def _bright(frames):
  """Returns where the motion's object or the decoy is, [n, 240, 320]."""
  return frames.max(-1) > 232


@pytest.mark.parametrize('name', synthetic.CLASSES)
@pytest.mark.parametrize('seed, agrees', [(1, True), (2, False)])
def test_motion_and_decoy_are_in_their_parts_alone(name, seed, agrees):
  rng = np.random.default_rng(seed)
  parts = synthetic.Parts.draw(name, rng, float(agrees))
  frames = synthetic.render(name, rng, parts)
  areas = _bright(frames).sum((1, 2))
  where = parts.frames(len(frames))
  inside = np.zeros(len(frames), bool)
  for first, stop in where.values():
    inside[first:stop] = True
    # 'appear' and 'vanish' are faint at one end.
    assert np.median(areas[first:stop]) > 400 or name in ('appear', 'vanish')
  assert areas[~inside].max() < 60
  if name in synthetic.DECOYED:
    columns = np.arange(320)
    for key, (first, stop) in where.items():
      one, other = ((mask.sum(0) * columns).sum() / mask.sum() for mask in
                    _bright(frames)[[first + 2, stop - 3]])
      rightwards = (name == 'slide_right') == (key == 'motion' or agrees)
      assert (other - one > 30) if rightwards else (one - other > 30)
