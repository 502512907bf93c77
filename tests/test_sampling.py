"""Frame indices against the published code's."""

import json

import numpy as np
import pytest

from input_pipeline import sampling


@pytest.fixture(scope='module')
def golden(data_dir):
  return json.loads((data_dir / 'aia_sampling.json').read_text())


@pytest.mark.parametrize('rule, take', [
    ('test', lambda n, t: sampling.segment_eval(n, t)),
    ('twice', lambda n, t: sampling.segment_eval(n, t, 2)),
    ('dense_test', lambda n, t: sampling.dense_eval(n, t)),
])
def test_equal_to_published_indices(golden, rule, take):
  assert len(golden['indices']) == 48
  for key, expected in golden['indices'].items():
    n, t = map(int, key.split(','))
    # The published numbers count from 1.
    assert (take(n, t).ravel() + 1).tolist() == expected[rule], (rule, key)


def test_segment_train_has_the_published_bounds(golden):
  rng = np.random.default_rng(0)
  for key, bounds in golden['train_bounds'].items():
    n, t = map(int, key.split(','))
    drawn = np.stack(
        [sampling.segment_train(rng, n, t) for _ in range(400)]) + 1
    assert drawn.min(0).tolist() == bounds['min'], key
    assert drawn.max(0).tolist() == bounds['max'], key


def test_segment_train_draws_pieces_independently():
  rng = np.random.default_rng(0)
  drawn = np.stack([sampling.segment_train(rng, 80, 8) for _ in range(2000)])
  within = drawn - 10 * np.arange(8)
  counts = np.bincount(within[:, 3], minlength=10)
  assert counts.min() > 130  # 200 expected
  correlation = np.corrcoef(within.T) - np.eye(8)
  assert np.abs(correlation).max() < 0.1


def test_many_clips_lie_between_two_starts():
  clips = sampling.segment_eval(80, 8, 5)
  np.testing.assert_array_equal(
      clips, 10 * np.arange(8) + 2 * np.arange(5)[:, None])


def test_dense_train_never_leaves_the_video():
  rng = np.random.default_rng(0)
  starts = set()
  for _ in range(500):
    clip = sampling.dense_train(rng, 70, 8)
    assert (np.diff(clip) == 8).all()
    starts.add(int(clip[0]))
  # 70 - 64 = 6 starts are drawn; the published code leaves the last one out.
  assert starts == set(range(6))
  short = sampling.dense_train(rng, 20, 8)
  assert short.tolist() == [0, 8, 16, 4, 12, 0, 8, 16]


@pytest.mark.parametrize('whole', [False, True])
def test_consecutive_clips_are_those_of_the_published_tests(whole):
  def published(n, t):
    """3D-ResNets' loop over starts from 1; MARS takes whole clips alone."""
    if whole:
      starts = range(1, max(n // t, 1) * t, t)
    else:
      starts = list(range(1, n, t)) or [1]
    clips = []
    for start in starts:
      clip = list(range(start, min(n + 1, start + t)))
      for index in clip:
        if len(clip) >= t:
          break
        clip.append(index)
      clips.append(clip)
    return clips

  for n in (1, 2, 5, 15, 16, 17, 18, 31, 32, 33, 100):
    for t in (4, 16):
      got = sampling.consecutive(n, t, whole)
      assert (got + 1).tolist() == published(n, t), (n, t)
  assert sampling.consecutive(6, 4, short='hold').tolist() == [
      [0, 1, 2, 3], [4, 5, 5, 5]]
  with pytest.raises(ValueError, match='a clip needs 4 frames'):
    sampling.consecutive(3, 4, whole, short='fail')
  # Stacks of five fields: 36 frames have 32 starts.
  assert sampling.consecutive(36, 16, True, stack=5).tolist() == [
      list(range(16)), list(range(16, 32))]


def test_one_dense_clip_lies_in_the_middle():
  clip = sampling.dense_eval(100, 8, clips=1, span=32)[0]
  assert clip.tolist() == list(range(34, 66, 4))


def test_no_frames_is_refused():
  with pytest.raises(ValueError, match='a video of 0'):
    sampling.segment_eval(0, 8)
