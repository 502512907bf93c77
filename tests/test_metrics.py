"""Figures of merit, with ties, unlabelled videos and absent classes."""

import numpy as np

from vidattn_jax.training import metrics


def test_top_k_counts_ties_once():
  scores = np.asarray([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
  labels = np.asarray([0, 1, 2])
  assert metrics.top_k_correct(scores, labels, 1).tolist() == [
      True, False, False]
  assert metrics.top_k_correct(scores, labels, 2).tolist() == [
      True, True, False]
  assert metrics.top_k_correct(scores, labels, 5).all()


def test_scores_that_are_not_numbers_are_wrong():
  scores = np.asarray([[np.nan, 1.0], [0.0, 1.0]])
  assert metrics.top_k_correct(scores, np.asarray([1, 1]), 1).tolist() == [
      False, True]


def test_summary_by_hand():
  scores = np.asarray([[3.0, 1, 0], [0, 2, 1], [2, 1, 0], [9, 9, 9]])
  labels = np.asarray([0, 1, 1, -1])
  clips = np.stack([scores, scores[:, ::-1]], axis=1)
  got = metrics.summarize(scores, clips, labels)
  assert got['videos'] == 3
  assert got['top1'] == 2 / 3
  assert got['top5'] == 1.0
  # Class 0: 1 of 1; class 1: 1 of 2; class 2 has no video.
  assert got['mean_class'] == 0.75
  # First clips as the videos; mirrored ones: only the second is right.
  assert got['clip_top1'] == 3 / 6
  log_p = scores[:3] - np.log(np.exp(scores[:3]).sum(1, keepdims=True))
  np.testing.assert_allclose(
      got['loss'], -log_p[[0, 1, 2], [0, 1, 1]].mean(), rtol=1e-6)
  matrix = metrics.confusion_matrix(scores[:3], labels[:3])
  assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_without_labels_there_are_no_figures():
  scores = np.zeros((2, 3))
  assert metrics.summarize(scores, scores[:, None], np.asarray([-1, -1])) == {
      'videos': 0}


def test_videos_may_have_different_numbers_of_clips():
  scores = np.asarray([[1.0, 0], [0, 1.0]])
  clips = np.asarray([[[1.0, 0], [1.0, 0], [0, 1.0]],
                      [[0, 1.0], [0, 0], [0, 0]]])
  labels = np.asarray([0, 1])
  # Of four clips three are right; zeros that fill up do not count.
  assert metrics.summarize(scores, clips, labels, [3, 1])['clip_top1'] == 0.75
  assert metrics.summarize(scores, clips, labels)['clip_top1'] == 0.5
