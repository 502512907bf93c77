"""Segments: overlap, suppression, anchors, targets, pooling, windows."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax.detection import segments
from vidattn_jax.detection import windows
from vidattn_jax.training import losses

SCALES = (2, 4, 5, 6, 8, 9, 10, 12, 14, 16)


@pytest.fixture(scope='module')
def golden(data_dir):
  return dict(np.load(data_dir / 'sta_detection_seed0.npz'))


@pytest.fixture(scope='module')
def proposals(golden):
  anchors = segments.make_anchors(SCALES, 8, 96)
  deltas = seeded.clip((960, 2)) * np.asarray([0.1, 0.2], np.float32)
  return jnp.clip(segments.decode(anchors, deltas), 0, 767)


def _padded(truth, most=20):
  padded = np.zeros((most, 2))
  padded[:len(truth)] = truth
  return padded, np.arange(most) < len(truth)


def _random_segments(rng, count, longest=20.0):
  start = rng.uniform(0, 50, count)
  return np.stack([start, start + rng.uniform(0.1, longest, count)], 1)


def test_overlap_by_hand_in_seconds_and_in_frames():
  first = np.asarray([[0.0, 10.0], [0.0, 10.0], [0.0, 10.0], [3.0, 3.0]])
  second = np.asarray([[5.0, 15.0], [10.0, 20.0], [0.0, 10.0], [3.0, 3.0]])
  np.testing.assert_allclose(segments.temporal_iou(first, second),
                             [5 / 15, 0, 1, 0])
  np.testing.assert_allclose(segments.temporal_iou(first, second, extra=1),
                             [6 / 16, 1 / 21, 1, 1])
  np.testing.assert_allclose(
      segments.temporal_iou(jnp.asarray(first), second, extra=1),
      [6 / 16, 1 / 21, 1, 1], rtol=1e-6)


def test_anchors_equal_the_published_code(golden):
  anchors = segments.make_anchors(SCALES, 8, 96)
  np.testing.assert_array_equal(anchors[:10], golden['anchors'])
  np.testing.assert_array_equal(anchors[10 * 7:10 * 8],
                                golden['anchors'] + 56)


def test_labels_and_targets_equal_the_published_code(golden):
  # One anchor overlaps two segments equally but for rounding in float64.
  with jax.enable_x64(True):
    anchors = segments.make_anchors(SCALES, 8, 96).astype(np.float64)
    truth, mask = _padded(golden['gt'])
    labels, which = jax.jit(segments.match_anchors, static_argnums=3)(
        anchors, truth, mask, 768)
    np.testing.assert_array_equal(labels, golden['rpn_labels'])
    targets = segments.encode(anchors, truth[which])
  used = np.asarray(labels) >= 0
  np.testing.assert_allclose(targets[used], golden['rpn_targets_inside'],
                             atol=1e-5)


def test_no_anchor_is_positive_without_truth():
  anchors = segments.make_anchors(SCALES, 8, 96)
  labels, _ = segments.match_anchors(
      anchors, jnp.zeros((4, 2)), jnp.zeros(4, bool), 768)
  assert set(np.asarray(labels).tolist()) == {-1, 0}


@pytest.mark.parametrize('threshold', ['0.4', '0.8', '0.9'])
@pytest.mark.parametrize('keep_equal', [True, False])
def test_nms_equals_the_published_code(golden, proposals, threshold,
                                       keep_equal):
  scores = jax.nn.sigmoid(seeded.clip((960,)))
  indices, mask = segments.nms(proposals, scores, float(threshold), 960,
                               extra=1.0, keep_equal=keep_equal)
  wanted = golden[f'nms_{threshold}_keep']
  assert int(mask.sum()) == len(wanted)
  np.testing.assert_array_equal(np.asarray(indices)[:len(wanted)], wanted)
  assert not mask[len(wanted):].any()
  if threshold == '0.8':
    np.testing.assert_allclose(proposals[wanted[:50]],
                               golden['proposals_0.8_top50'], atol=1e-4)


def test_nms_conventions_differ_at_the_threshold_itself():
  # Both overlap the first by half.
  pair = jnp.asarray([[0.0, 10.0], [0.0, 5.0], [0.0, 5.0]])
  scores = jnp.asarray([0.9, 0.5, 0.8])
  kept, mask = segments.nms(pair, scores, 0.5, 3)
  assert (kept[:2].tolist(), mask.tolist()) == ([0, 2], [True, True, False])
  kept, mask = segments.nms(pair, scores, 0.5, 3, keep_equal=False)
  assert (kept[:1].tolist(), mask.tolist()) == ([0], [True, False, False])


def test_nms_leaves_out_what_is_padding():
  pair = jnp.asarray([[0.0, 10.0], [0.0, 9.0], [20.0, 30.0]])
  kept, mask = segments.nms(pair, jnp.asarray([0.9, 0.8, 0.7]), 0.5, 3,
                            jnp.asarray([False, True, True]))
  assert (kept[:2].tolist(), mask.tolist()) == ([1, 2], [True, True, False])


def _plain_nms(boxes, scores, threshold, later_first):
  order = sorted(range(len(scores)),
                 key=lambda i: (-scores[i], -i if later_first else i))
  kept = []
  for i in order:
    if all(segments.temporal_iou(boxes[i], boxes[j]) <= threshold
           for j in kept):
      kept.append(i)
  return sorted(kept)


@pytest.mark.parametrize('later_first', [False, True])
def test_nms_of_groups_is_that_of_each_group(later_first):
  rng = np.random.default_rng(0)
  boxes = _random_segments(rng, 300)
  scores = rng.integers(0, 12, 300) / 12  # Many are equal.
  groups = rng.integers(0, 7, 300)
  kept = segments.nms_of_groups(boxes, scores, groups, 0.3, later_first)
  for group in range(7):
    rows = np.flatnonzero(groups == group)
    wanted = _plain_nms(boxes[rows], scores[rows], 0.3, later_first)
    np.testing.assert_array_equal(np.flatnonzero(kept[rows]), wanted)
  if not later_first:
    rows = groups == 3
    indices, mask = segments.nms(jnp.asarray(boxes[rows]),
                                 jnp.asarray(scores[rows]), 0.3, rows.sum())
    assert sorted(indices[mask].tolist()) == np.flatnonzero(
        kept[rows]).tolist()


@pytest.mark.parametrize('method', ['gaussian', 'linear'])
def test_soft_nms_lowers_scores_step_by_step(method):
  rng = np.random.default_rng(1)
  boxes = _random_segments(rng, 40)
  scores = rng.uniform(0.1, 1, 40)
  left, wanted = dict(enumerate(scores)), []
  while left:
    best = max(left, key=left.get)
    wanted.append((best, left.pop(best)))
    for i in left:
      overlap = segments.temporal_iou(boxes[best], boxes[i])
      left[i] *= (np.exp(-overlap ** 2 / 0.5) if method == 'gaussian'
                  else 1 - overlap if overlap > 0.3 else 1)
  padded = np.concatenate([boxes, boxes[:5]])
  indices, found, mask = segments.soft_nms(
      jnp.asarray(padded), jnp.asarray([*scores, *[9.0] * 5]), 45,
      jnp.arange(45) < 40, method=method)
  assert mask.sum() == 40 and not mask[40:].any()
  assert indices[:40].tolist() == [i for i, _ in wanted]
  np.testing.assert_allclose(found[:40], [s for _, s in wanted], rtol=1e-4)
  with pytest.raises(ValueError, match='choose gaussian or linear'):
    segments.soft_nms(jnp.asarray(boxes), jnp.asarray(scores), 5,
                      method='cubic')


def test_encode_and_decode_undo_each_other_but_for_the_last_frame():
  rng = np.random.default_rng(2)
  anchors = segments.make_anchors(SCALES, 8, 4)
  wanted = jnp.asarray(_random_segments(rng, len(anchors)), jnp.float32)
  back = segments.decode(anchors, segments.encode(anchors, wanted))
  np.testing.assert_allclose(back, wanted + np.asarray([0, 1]), atol=1e-4)


def test_proposals_are_matched_by_hand():
  truth, mask = _padded([[0, 9], [50, 59]], 4)
  proposals = jnp.asarray(
      [[0, 9], [0, 19], [50, 69], [0, 89], [45, 94], [50, 50], [0, 9]],
      jnp.float32)
  labels, which = segments.match_proposals(
      proposals, jnp.arange(7) < 6, truth, mask)
  # Overlaps 1, 1/2, 1/2, 10/90, 10/50, 1/10; the last does not exist.
  assert labels.tolist() == [1, 1, 1, 0, 0, 0, -1]
  assert which[:5].tolist() == [0, 0, 1, 0, 1]


@pytest.mark.parametrize('positives,negatives', [(40, 100), (5, 100), (40, 3),
                                                 (0, 100), (5, 0)])
def test_sample_draws_at_most_half_positive(positives, negatives):
  labels = np.full(300, -1)
  labels[:positives], labels[-negatives or 300:] = 1, 0
  draws = []
  for seed in range(20):
    indices, mask = segments.sample(jax.random.key(seed), jnp.asarray(labels),
                                    64, 32)
    chosen = np.asarray(indices)[np.asarray(mask)]
    assert len(set(chosen.tolist())) == len(chosen)
    assert (labels[chosen] == 1).sum() == min(positives, 32)
    assert (labels[chosen] == 0).sum() == min(negatives,
                                              64 - min(positives, 32))
    assert (labels[chosen] >= 0).all()
    draws.append(frozenset(chosen.tolist()))
  assert len(set(draws)) > 1 or positives + negatives <= 43


def _features():
  return jnp.asarray(seeded.clip((8, 96, 7, 7)).transpose(1, 2, 3, 0))


def test_soi_pooling_equals_the_published_code(golden):
  pooled = segments.soi_pool(_features(), golden['soi_rois'].astype('f4'))
  np.testing.assert_array_equal(
      np.asarray(pooled).transpose(0, 4, 1, 2, 3), golden['soi_pool'])


def test_gradient_of_soi_pooling_goes_to_the_first_maximum():
  rng = np.random.default_rng(3)
  features = rng.integers(0, 3, (20, 5, 6, 2)).astype(np.float32)
  rois = np.asarray([[0, 159], [16, 60], [100, 100], [70, 400]], np.float32)
  g = rng.standard_normal((4, 3, 2, 2, 2)).astype(np.float32)
  wanted, value = np.zeros_like(features), np.zeros_like(g)
  for r, (start, end) in enumerate(np.floor(rois / 8 + 0.5).astype(int)):
    length = end - start + 1
    for t, y, x, c in np.ndindex(3, 2, 2, 2):
      spans = [(start + t * length // 3, start - (-(t + 1) * length // 3)),
               (y * 5 // 2, -(-(y + 1) * 5 // 2)), (x * 3, x * 3 + 3)]
      part = features[tuple(slice(*span) for span in spans)][..., c]
      if part.size:
        value[r, t, y, x, c] = part.max()
        place = np.unravel_index(part.argmax(), part.shape)
        wanted[(*(p + s[0] for p, s in zip(place, spans, strict=True)), c)] += (
            g[r, t, y, x, c])
  pooled, pullback = jax.vjp(
      lambda f: segments.soi_pool(f, rois, (3, 2, 2)), features)
  np.testing.assert_array_equal(pooled, value)
  np.testing.assert_allclose(pullback(g)[0], wanted, atol=1e-5)


def test_overlap_loss_and_its_gradient_equal_the_reference(golden):
  labels, overlaps = golden['scnn_labels'], golden['scnn_overlaps']

  def parts(logits):
    return [part.mean() for part in losses.overlap_loss(
        logits, labels, overlaps)]

  logits = seeded.clip((8, 21))
  first, second = parts(logits)
  np.testing.assert_allclose([first, second, first + second],
                             golden['scnn_losses'], rtol=1e-5)
  gradient = jax.grad(lambda x: sum(parts(x)))(logits)
  np.testing.assert_allclose(gradient, golden['scnn_grad'], atol=1e-6)
  # Background may have no overlap at all.
  gradient = jax.grad(lambda x: losses.overlap_loss(
      x, labels * 0, overlaps * 0)[1].sum())(logits)
  np.testing.assert_array_equal(gradient, 0)


def test_windows_slide_by_a_quarter_of_their_length():
  starts, lengths = windows.slide(40, (16, 32))
  assert starts.tolist() == [1, 5, 9, 13, 17, 21, 25, 1, 9]
  assert lengths.tolist() == [16] * 7 + [32] * 2
  np.testing.assert_allclose(windows.to_seconds(starts, lengths)[[0, 8]],
                             [[0.04, 0.64], [0.36, 1.6]])
  assert windows.slide(15)[0].shape == (0,)


def test_length_prior_equals_the_published_weights(data_dir):
  text = gzip.decompress(
      (data_dir / 'thumos14/ground_truth.json.gz').read_bytes())
  content = json.loads(text)
  rows = np.asarray([row for v in content['subsets']['validation'].values()
                     for row in v['segments']])
  wanted = json.loads(
      (data_dir / 'thumos14/scnn_window_weights.json').read_text())
  seconds, labels = rows[:, 1] - rows[:, 0], rows[:, 2]
  prior = windows.length_prior(seconds, labels, 20, wanted['window_seconds'],
                               rate=None)
  np.testing.assert_allclose(prior, wanted['weights'], atol=1e-8)
  # The last window is 20.44 s long: the published weights have a slip.
  ours = windows.length_prior(seconds, labels, 20)
  assert np.abs(ours - wanted['weights']).max() > 0.005


def test_ranking_weighs_suppresses_and_rounds():
  ranked = windows.rank(
      {'video': np.asarray(['v', 'v', 'v', 'w']),
       'start': [0.04, 0.2, 0.04, 0.04], 'end': [0.64, 0.8, 1.28, 0.64],
       'label': np.asarray([0, 0, 0, 0]), 'score': [0.9, 0.9, 1.0, 0.1234567],
       'window': np.asarray([0, 0, 1, 0])}, prior=[[1.0], [0.5]],
      threshold=0.4)
  # Of the two equal ones the later stays; the long one counts for half.
  assert ranked['video'].tolist() == ['v', 'w']
  assert ranked['start'].tolist() == [0.2, 0.0]
  assert ranked['end'].tolist() == [0.8, 0.6]
  assert ranked['score'].tolist() == [0.9, 0.12346]
