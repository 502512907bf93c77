"""Figures of merit from scores, in NumPy."""

import numpy as np


def top_k_correct(scores, labels, k: int):
  """Tells for each row whether its label is among the k highest scores.

  Args:
    scores: float [N, K].
    labels: int [N].
    k: how many scores count.

  Returns:
    bool [N]. Of equal scores the smaller class number goes first; a row with
    a score that is not a number is wrong.
  """
  scores = np.asarray(scores)
  own = np.take_along_axis(scores, np.asarray(labels)[:, None], axis=1)
  higher = np.sum(scores > own, axis=1)
  classes = np.arange(scores.shape[1])
  before = np.sum((scores == own) & (classes < np.asarray(labels)[:, None]),
                  axis=1)
  return (higher + before < k) & ~np.isnan(scores).any(axis=1)


def confusion_matrix(scores, labels):
  """Counts predictions by class.

  Args:
    scores: float [N, K].
    labels: int [N].

  Returns:
    int [K, K]: rows are labels, columns are predictions.
  """
  num_classes = np.shape(scores)[1]
  matrix = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(matrix, (np.asarray(labels), np.argmax(scores, axis=1)), 1)
  return matrix


def per_class_accuracy(confusion):
  """Returns the share of right predictions by class.

  Args:
    confusion: int [K, K], as `confusion_matrix` returns it.

  Returns:
    float [K]; NaN for classes without videos.
  """
  counts = confusion.sum(axis=1)
  with np.errstate(invalid='ignore'):
    return np.where(counts > 0, np.diag(confusion) / counts, np.nan)


def softmax(scores, axis=-1):
  """Returns the softmax of float scores along an axis."""
  scores = np.asarray(scores, np.float64)
  scores = np.exp(scores - scores.max(axis=axis, keepdims=True))
  return scores / scores.sum(axis=axis, keepdims=True)


def summarize(scores, clip_scores, labels, clip_counts=()) -> dict:
  """Computes the figures that an evaluation reports.

  Args:
    scores: float [N, K], one row a video.
    clip_scores: float [N, clips, K].
    labels: int [N]; -1 marks videos without a label, which do not count.
    clip_counts: int [N], how many clips each video has; empty if all have as
      many.

  Returns:
    Dict of floats in [0, 1] (`top1`, `top5`, `mean_class`, `clip_top1`),
    `loss` (nats) and the number of labelled `videos`; without labelled videos
    only that number, 0.
  """
  labels = np.asarray(labels)
  known = labels >= 0
  if not known.any():
    return {'videos': 0}
  scores, clip_scores = scores[known], clip_scores[known]
  labels = labels[known]
  clips = clip_scores.shape[1]
  log_probability = np.log(np.maximum(softmax(scores), 1e-30))
  there = np.ones((len(labels), clips), bool)
  if len(clip_counts):
    there = np.arange(clips) < np.asarray(clip_counts)[known, None]
  flat = clip_scores[there]
  return {
      'top1': float(np.mean(top_k_correct(scores, labels, 1))),
      'top5': float(np.mean(top_k_correct(scores, labels, 5))),
      'mean_class': float(np.nanmean(
          per_class_accuracy(confusion_matrix(scores, labels)))),
      'clip_top1': float(np.mean(
          top_k_correct(flat, np.repeat(labels, there.sum(axis=1)), 1))),
      'loss': float(-np.mean(log_probability[np.arange(len(labels)), labels])),
      'videos': int(known.sum()),
  }
