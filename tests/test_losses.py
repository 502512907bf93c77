"""Losses, and the blending of clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidattn_jax.training import losses


def test_cross_entropy_by_hand_and_over_heads():
  logits = np.asarray([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], np.float32)
  labels = np.asarray([0, 2], np.int32)
  targets = losses.one_hot_targets(labels, 3)
  got = losses.cross_entropy({'logits': logits}, {'targets': targets})
  want = [np.log(np.exp([2, 0, -1]).sum()) - 2, np.log(3)]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  both = losses.cross_entropy({'logits': {'verb': logits, 'noun': logits}},
                              {'targets': {'verb': targets, 'noun': targets}})
  np.testing.assert_allclose(both, 2 * np.asarray(want), rtol=1e-6)


def test_label_smoothing_equals_torch():
  logits = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
  labels = np.asarray([0, 4, 2, 2], np.int32)
  got = losses.cross_entropy(
      {'logits': logits}, {'targets': losses.one_hot_targets(labels, 5, 0.1)})
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  want = -(0.9 * log_p[np.arange(4), labels] + 0.1 * log_p.mean(1))
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('seed', range(4))
def test_mixup_blends_pixels_and_targets_with_one_share(seed):
  video = jnp.asarray(np.random.default_rng(0).random((4, 2, 6, 8, 3)),
                      jnp.float32)
  targets = jnp.eye(4)
  got, mixed = losses.mix_clips(jax.random.key(seed), video, targets, 0.8, 0.0)
  share = float(mixed[0, 0])
  assert 0 <= share <= 1
  np.testing.assert_allclose(
      got, share * video + (1 - share) * video[::-1], atol=1e-6)
  np.testing.assert_allclose(
      mixed, share * targets + (1 - share) * targets[::-1], atol=1e-6)


@pytest.mark.parametrize('seed', range(6))
def test_cutmix_pastes_one_box_and_counts_its_area(seed):
  first, second = np.zeros((1, 3, 12, 16, 1)), np.ones((1, 3, 12, 16, 1))
  video = jnp.asarray(np.concatenate([first, second]), jnp.float32)
  got, mixed = losses.mix_clips(jax.random.key(seed), video, jnp.eye(2), 0.0,
                                1.0)
  pasted = np.asarray(got[0, 0, ..., 0])
  assert set(np.unique(pasted)) <= {0.0, 1.0}
  rows, columns = np.nonzero(pasted)
  if len(rows):  # a full rectangle
    assert pasted[rows.min():rows.max() + 1,
                  columns.min():columns.max() + 1].all()
  assert np.array_equal(got[0], np.broadcast_to(got[0, :1], got[0].shape))
  assert float(mixed[0, 1]) == pytest.approx(pasted.mean(), abs=1e-6)
  np.testing.assert_allclose(mixed.sum(1), 1.0, rtol=1e-6)


def test_without_mixing_nothing_changes():
  video, targets = jnp.ones((2, 1, 2, 2, 1)), jnp.eye(2)
  got = losses.mix_clips(jax.random.key(0), video, targets, 0.0, 0.0)
  assert got[0] is video and got[1] is targets
