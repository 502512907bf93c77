"""The demo set of untrimmed videos: what its file says is what they show."""

import hashlib
import json

import numpy as np
import pytest

from input_pipeline import annotations
from input_pipeline import decode
from input_pipeline import synthetic
from input_pipeline import untrimmed_demo

# The shortest that six actions fit in.
SHORT = (38.0, 39.0)


def test_plans_leave_pauses_and_use_all_classes():
  counts, labels, rests, lengths = [], set(), 0, []
  for seed in range(200):
    frames, events = untrimmed_demo.plan(np.random.default_rng(seed), (60, 180))
    assert 60 * 25 <= frames <= 180 * 25
    actions = [e for e in events if not e.rests]
    counts.append(len(actions))
    rests += len(events) - len(actions)
    edges = [0, *(x for e in events for x in (e.start, e.stop)), frames]
    assert min(np.diff(edges)) >= 24
    labels |= {e.label for e in actions}
    lengths += [e.stop - e.start for e in actions]
  assert set(counts) == {2, 3, 4, 5, 6}
  assert labels == set(synthetic.CLASSES)
  assert 32 <= min(lengths) < 36 and 115 < max(lengths) <= 128
  assert rests > 200


def test_frames_show_what_is_planned():
  # Objects alone are bright: the rest has three quarters of the light at most.
  events = (untrimmed_demo.Event(10, 50, 'slide_left'),
            untrimmed_demo.Event(60, 90, 'grow', rests=True))
  frames = np.stack(list(untrimmed_demo.render(
      np.random.default_rng(0), 100, events))).astype(int)
  assert frames.shape == (100, 120, 160, 3)
  bright = frames.max(-1) > 225
  seen = bright.sum((1, 2)) > 20
  wanted = np.zeros(100, bool)
  wanted[10:50] = wanted[60:90] = True
  np.testing.assert_array_equal(seen, wanted)
  columns = [np.nonzero(bright[i])[1].mean() for i in (10, 30, 49)]
  # To the left; and then at rest.
  assert columns[0] > columns[1] + 15 > columns[2] + 30
  sizes = bright[60:90].sum((1, 2))
  assert sizes.max() < 1.1 * sizes.min()


@pytest.mark.slow
def test_files_are_as_annotated_and_the_same_again(tmp_path):
  hashes = []
  for processes, name in ((1, 'a'), (2, 'b')):
    folder = tmp_path / name
    untrimmed_demo.generate(folder, 1, 1, seed=5, seconds=SHORT,
                            processes=processes)
    hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in
                   sorted(folder.rglob('*')) if path.is_file()])
  assert hashes[0] == hashes[1] and len(set(hashes[0])) == 3
  truth = annotations.read(folder / 'annotations.json', 'validation')
  assert truth.classes == synthetic.CLASSES
  [(name, video)] = truth.videos.items()
  entry = decode.probe(folder / 'videos' / f'{name}.mp4')
  assert (entry.height, entry.width) == (120, 160)
  assert entry.num_frames == round(video['duration'] * 25)
  frames = decode.decode_frames(str(folder / 'videos' / f'{name}.mp4'),
                                range(entry.num_frames), entry)
  bright = (frames.max(-1) > 225).sum((1, 2)) > 20
  for start, end, _ in video['segments']:
    first, stop = round(start * 25), round(end * 25)
    assert bright[first:stop].mean() > 0.2  # some appear slowly
    assert not bright[first - 20:first].any()
    assert not bright[stop:stop + 20].any()
  content = json.loads((folder / 'annotations.json').read_text())
  assert {v['path'] for v in content['database'].values()} == {
      'videos/train_000.mp4', 'videos/val_000.mp4'}
  assert untrimmed_demo.generate(folder, 1, 1, seed=5, seconds=SHORT) == str(
      folder)
  with pytest.raises(ValueError, match='holds other files'):
    untrimmed_demo.generate(folder, 1, 1, seed=6, seconds=SHORT)


def test_numbers_that_cannot_be_are_told(tmp_path):
  with pytest.raises(ValueError, match=r'at least 37.4'):
    untrimmed_demo.generate(tmp_path / 'x', seconds=(10, 20))
  with pytest.raises(ValueError, match='nor both 0'):
    untrimmed_demo.generate(tmp_path / 'x', 0, 0)
  assert not (tmp_path / 'x').exists()
