"""Several heads and independent classes: losses and figures, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidattn_jax import convert
from vidattn_jax.tools import convert as convert_lib
from vidattn_jax.training import checkpoint
from vidattn_jax.training import evaluate
from vidattn_jax.training import heads
from vidattn_jax.training import losses
from vidattn_jax.training import metrics
from vidattn_jax.training import report

CLASSES = {'verb': ('open', 'take'), 'noun': ('cup', 'door', 'hand')}
COUNTS = {'verb': 2, 'noun': 3}


def test_scores_lie_side_by_side_in_the_order_of_the_names():
  logits = {'verb': jnp.asarray([[1.0, 2]]), 'noun': jnp.asarray([[3.0, 4, 5]])}
  joined = heads.join(logits)
  assert joined.tolist() == [[3, 4, 5, 1, 2]]
  parts = heads.split(joined, COUNTS)
  assert list(parts) == ['noun', 'verb']
  assert parts['noun'].tolist() == [[3, 4, 5]]
  assert parts['verb'].tolist() == [[1, 2]]
  assert heads.counts(CLASSES) == COUNTS and heads.counts('abc') == 3
  assert list(heads.plain(CLASSES)) == ['noun', 'verb']
  shares = heads.probabilities(np.asarray(joined), COUNTS)[0]
  assert shares[:3].sum() == pytest.approx(1)
  assert shares[3:].sum() == pytest.approx(1)
  assert shares[4] == pytest.approx(1 / (1 + np.exp(-1)))
  both = heads.probabilities(np.asarray([[0.0, 2.0]]), 2, multi=True)
  assert both[0].tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-2))])


def test_loss_of_heads_is_the_sum_of_theirs():
  labels = jnp.asarray([[2, 0], [0, 1]])  # noun, verb
  targets = losses.one_hot_targets(labels, COUNTS, 0.0)
  assert targets['noun'].tolist() == [[0, 0, 1], [1, 0, 0]]
  assert targets['verb'].tolist() == [[1, 0], [0, 1]]
  logits = {'noun': jnp.zeros((2, 3)), 'verb': jnp.asarray([[0.0, 0], [0, 1]])}
  got = losses.cross_entropy({'logits': logits}, {'targets': targets})
  np.testing.assert_allclose(
      got, [np.log(3) + np.log(2), np.log(3) + np.log1p(np.exp(-1))], rtol=1e-6)
  smooth = losses.one_hot_targets(labels, COUNTS, 0.3)
  np.testing.assert_allclose(smooth['noun'][0], [0.1, 0.1, 0.8], rtol=1e-6)
  np.testing.assert_allclose(smooth['verb'][0], [0.85, 0.15], rtol=1e-6)


def test_binary_loss_by_hand():
  labels = jnp.asarray([[1, 0, 1], [0, 0, 0]])
  targets = losses.one_hot_targets(labels, 3, multi=True)
  np.testing.assert_array_equal(targets, labels)
  logits = jnp.asarray([[2.0, -1, 0], [0, 0, 3]])
  got = losses.cross_entropy({'logits': logits}, {'targets': targets}, True)
  softplus = np.log1p(np.exp(np.asarray([-2.0, -1, 0])))
  np.testing.assert_allclose(got, [
      softplus.mean(), (2 * np.log(2) + np.log1p(np.exp(3))) / 3], rtol=1e-6)
  smooth = losses.one_hot_targets(labels, 3, 0.2, multi=True)
  np.testing.assert_allclose(smooth[0], [0.9, 0.1, 0.9], rtol=1e-6)
  # A branch has the same loss.
  both = losses.cross_entropy({'logits': logits, 'attention_logits': logits},
                              {'targets': targets}, True)
  np.testing.assert_allclose(both, 2 * got, rtol=1e-6)


def test_mixing_mixes_the_targets_of_all_heads():
  video = jnp.stack([jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))])
  targets = losses.one_hot_targets(jnp.asarray([[2, 0], [0, 1]]), COUNTS)
  mixed, got = losses.mix_clips(jax.random.key(1), video, targets, 1.0, 0.0)
  share = 1 - float(mixed[0, 0, 0, 0, 0])
  assert 0.01 < share < 0.99
  np.testing.assert_allclose(got['noun'][0], [1 - share, 0, share], atol=1e-6)
  np.testing.assert_allclose(got['verb'][1], [1 - share, share], atol=1e-6)
  labels = jnp.asarray([[1, 1], [0, 1]])
  _, got = losses.mix_clips(
      jax.random.key(1), video, losses.one_hot_targets(labels, 2, multi=True),
      1.0, 0.0)
  np.testing.assert_allclose(got, [[share, 1], [1 - share, 1]], atol=1e-6)


def test_what_is_right_in_training():
  logits = {'noun': jnp.asarray([[0.0, 1, 0], [2, 1, 0], [2, 1, 0]]),
            'verb': jnp.asarray([[1.0, 0], [0, 1], [1, 0]])}
  labels = jnp.asarray([[1, 0], [0, 0], [0, 0]])
  assert heads.are_right(logits, labels).tolist() == [True, False, True]
  scores = jnp.asarray([[1.0, -1], [1, -1], [-1, -1]])
  hot = jnp.asarray([[1, 0], [1, 1], [0, 0]])
  assert heads.are_right(scores, hot, True).tolist() == [True, False, True]
  assert heads.are_right(scores, jnp.asarray([0, 1, 0])).tolist() == [
      True, False, True]
  assert [heads.training_figure(n, m) for n, m in (
      (3, False), (COUNTS, False), (3, True))] == ['top1', 'action', 'exact']


def test_average_precision_by_hand():
  # Ranks 1, 3 and 4 of five are positive: (1/1 + 2/3 + 3/4) / 3.
  scores, known = [5.0, 4, 3, 2, 1], [1, 0, 1, 1, 0]
  assert metrics.average_precision(scores, known) == pytest.approx(
      (1 + 2 / 3 + 3 / 4) / 3)
  # Equal scores are one threshold: 2 of 3 found at 2 of 4, then 3 of 5.
  assert metrics.average_precision([2.0, 2, 2, 2, 1], [1, 1, 0, 0, 1]) == (
      pytest.approx(2 / 3 * 2 / 4 + 1 / 3 * 3 / 5))
  assert metrics.average_precision([1.0, 2, 3], [0, 0, 1]) == 1.0
  assert metrics.average_precision([3.0, 2, 1], [0, 0, 1]) == pytest.approx(
      1 / 3)
  assert metrics.average_precision([np.nan, 2.0, 1], [1, 0, 0]) == (
      pytest.approx(1 / 3))
  assert np.isnan(metrics.average_precision([1.0, 2], [0, 0]))


def test_average_precision_is_the_area_under_all_thresholds():
  rng = np.random.default_rng(0)
  for _ in range(20):
    scores = rng.integers(0, 8, 30).astype(float)
    known = rng.random(30) < 0.3
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
      chosen = scores >= threshold
      hits = (chosen & known).sum()
      area += (hits / known.sum() - recall) * hits / chosen.sum()
      recall = hits / known.sum()
    assert metrics.average_precision(scores, known) == pytest.approx(area)


def multi_result(**changes):
  scores = np.asarray([[3.0, -2, 1, 0], [1, 4, 2, 0], [2, -1, 0, 0],
                       [9, 9, 9, 9]], np.float32)
  labels = np.asarray([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0],
                       [-1, -1, -1, -1]], np.int32)
  clips = np.stack([scores, scores[::-1]], 1)
  return evaluate.Result(**{**dict(
      names=('a', 'b', 'c', 'd'), labels=labels, scores=scores,
      clip_scores=clips, classes=('w', 'x', 'y', 'z'), multi=True), **changes})


def test_figures_of_independent_classes():
  result = multi_result()
  got = result.summary()
  # Class w: ranks 1 and 2 of 3; x and y: rank 1; z has no positives.
  assert got['map'] == 1.0
  assert (got['classes'], got['without_positives'], got['videos']) == (3, 1, 3)
  scores = result.scores[:3].astype(float)
  labels = result.labels[:3]
  chance = 1 / (1 + np.exp(-scores))
  want = -np.where(labels > 0, np.log(chance), np.log(1 - chance)).mean()
  assert got['loss'] == pytest.approx(want)
  # Clips of w: a 3, 9; b 1, 2; c 2, 1. Positives at ranks 1, 2, and of four
  # equal or higher scores 2 and 2, 1 and 1 in pairs.
  flat = [3.0, 9, 1, 2, 2, 1]
  assert metrics.average_precision(flat, [1, 1, 0, 0, 1, 1]) == pytest.approx(
      1 / 4 + 1 / 4 + 1 / 4 * 3 / 4 + 1 / 4 * 4 / 6)
  assert 0.5 < got['clip_map'] < 1
  worse = multi_result(scores=np.asarray(
      [[1.0, 0, 0, 0], [3, 1, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0]], np.float32))
  # w: positives at ranks 2 and 3.
  assert worse.summary()['map'] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 2) / 3)


def test_sets_without_positives_or_labels():
  empty = multi_result(labels=np.zeros((4, 4), np.int32)).summary()
  assert 'map' not in empty and empty['without_positives'] == 4
  assert empty['videos'] == 4 and checkpoint.figure(empty) is None
  assert multi_result(labels=np.full((4, 4), -1)).summary() == {'videos': 0}


def heads_result(**changes):
  # noun: cup, door, hand; verb: open, take.
  scores = np.asarray([[3.0, 1, 0, 5, 1], [0, 2, 1, 1, 2], [1, 0, 0, 2, 1],
                       [0, 0, 7, 0, 3], [1, 2, 3, 4, 5]], np.float32)
  labels = np.asarray([[0, 0], [1, 0], [1, 0], [2, -1], [-1, -1]], np.int32)
  return evaluate.Result(**{**dict(
      names=tuple('abcde'), labels=labels, scores=scores,
      clip_scores=np.stack([scores, scores[::-1]], 1),
      classes=heads.from_plain(CLASSES)), **changes})


def test_figures_of_several_heads():
  result = heads_result()
  got = result.summary()
  assert got['videos'] == 4
  assert (got['videos_noun'], got['videos_verb']) == (4, 3)
  # noun: a, b, d right; verb: a, c right, b wrong.
  assert got['top1_noun'] == 3 / 4 and got['top1_verb'] == pytest.approx(2 / 3)
  assert got['top5_noun'] == got['top5_verb'] == 1.0
  # cup 1 of 1, door 1 of 2, hand 1 of 1; open 2 of 3, take has no video.
  assert got['mean_class_noun'] == pytest.approx((1 + 0.5 + 1) / 3)
  assert got['mean_class_verb'] == pytest.approx(2 / 3)
  # Both of a, b, c: a alone.
  assert got['action'] == pytest.approx(1 / 3)
  # Clips of a: a, e (hand, take); of b: b, d (hand, take); of c: c, c.
  assert got['clip_action'] == pytest.approx(1 / 6)
  noun = metrics.summarize(result.scores[:, :3], result.clip_scores[..., :3],
                           result.labels[:, 0])
  verb = metrics.summarize(result.scores[:, 3:], result.clip_scores[..., 3:],
                           result.labels[:, 1])
  assert got['loss'] == pytest.approx(noun['loss'] + verb['loss'])
  assert checkpoint.figure(got) == got['action']
  assert heads_result(labels=np.full((5, 2), -1)).summary() == {'videos': 0}


@pytest.mark.parametrize('make', [heads_result, multi_result])
def test_results_come_back_from_their_file(make, tmp_path):
  result = make(average='probabilities')
  result.save(tmp_path / 'r.npz')
  back = evaluate.load_result(tmp_path / 'r.npz')
  assert back.classes == result.classes and back.multi == result.multi
  np.testing.assert_array_equal(back.labels, result.labels)
  assert list(back.heads()) == list(result.heads())


def test_figures_do_not_depend_on_what_the_scores_are():
  for make in (heads_result, multi_result):
    logits = make()
    chances = make(average='probabilities', **{
        key: heads.probabilities(getattr(logits, key),
                                 heads.counts(logits.classes), logits.multi)
        for key in ('scores', 'clip_scores')})
    want, got = logits.summary(), chances.summary()
    assert want.keys() == got.keys()
    for key, value in want.items():
      assert got[key] == pytest.approx(value, rel=1e-6), key


def test_evaluation_leaves_out_what_is_masked():
  labels = np.asarray([[0, 1], [2, 0], [1, 1]], np.int32)
  scores = np.arange(15, dtype=np.float32).reshape(3, 1, 5)
  batches = [
      {'video': scores[:2], 'label': labels[:2],
       'mask': np.ones(2, np.float32), 'index': np.asarray([0, 1], np.int32)},
      {'video': scores[[2, 0]], 'label': labels[[2, 0]],
       'mask': np.asarray([0, 0], np.float32),
       'index': np.asarray([2, 0], np.int32)}]
  got = evaluate.evaluate({}, batches, lambda variables, video: video, 'abc',
                          CLASSES)
  assert got.names == ('a', 'b') and got.unreadable == ('c',)
  np.testing.assert_array_equal(got.labels, labels[:2])
  assert got.scores.shape == (2, 5)
  for classes, multi, shape in (
      (CLASSES, False, (0, 2)), ('wxyz', True, (0, 4)), ('wxyz', False, (0,))):
    none = evaluate.evaluate({}, batches[1:], lambda variables, video: video,
                             'abc', classes, multi=multi)
    assert none.labels.shape == shape
    assert none.summary() == {'videos': 0}


def test_sentences_of_an_evaluation():
  result = heads_result()
  text = report._sentence(result, result.summary())
  assert text.startswith('all heads 33.33%, noun top-1 75.00%, top-5 100.00%')
  assert '; verb top-1 66.67%' in text
  result = multi_result()
  assert report._sentence(result, result.summary()).startswith(
      'mAP 100.00%, mean of 3 classes (1 without positives do not count), '
      'single clips ')


def test_heads_come_over_or_are_fresh():
  def head(classes, value):
    return {'kernel': np.full((4, classes), value, np.float32),
            'bias': np.full(classes, value, np.float32)}

  layer = {'conv1': {'kernel': np.ones((1, 4), np.float32)}}
  fresh = {'params': {'backbone': layer, 'head_noun': head(3, 0.0),
                      'head_verb': head(2, 0.0)}, 'batch_stats': {}}
  other = {'params': {'backbone': layer, 'head_noun': head(3, 7.0),
                      'head_verb': head(5, 7.0)}, 'batch_stats': {}}
  got, told = convert.merge(fresh, other)
  assert got['params']['head_noun']['bias'].tolist() == [7, 7, 7]
  assert got['params']['head_verb']['bias'].tolist() == [0, 0]
  assert told.fresh == {f'params/head_verb/{leaf}': '2 classes here, 5 there'
                        for leaf in ('kernel', 'bias')}
  one = {'params': {'backbone': layer, 'head': head(3, 7.0)}, 'batch_stats': {}}
  got, told = convert.merge(fresh, one)
  assert len(told.fresh) == 4 and set(told.unused) == {
      'params/head/kernel', 'params/head/bias'}
  assert not got['params']['head_noun']['kernel'].any()


def test_published_weights_do_not_become_several_heads(tmp_path):
  with pytest.raises(ValueError, match='have one head, the network has 2'):
    convert_lib.to_checkpoint(
        'x.pth', {'name': 'tsn_r18', 'num_classes': COUNTS}, tmp_path / 'out',
        lambda config: {})
