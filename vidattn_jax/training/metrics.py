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


def sigmoid(scores):
  """Returns the sigmoid of float scores."""
  return 0.5 * (1 + np.tanh(0.5 * np.asarray(scores, np.float64)))


def average_precision(scores, positives) -> float:
  """Computes the area under the curve of precision over recall, exactly.

  It is the sum over the thresholds of precision times what recall gains there;
  nothing is interpolated. Equal scores are one threshold; a score that is not
  a number ranks last.

  Args:
    scores: float [N].
    positives: bool [N].

  Returns:
    The average precision in [0, 1]; NaN without positives.
  """
  scores = np.asarray(scores, np.float64)
  scores = np.where(np.isnan(scores), -np.inf, scores)
  positives = np.asarray(positives, bool)
  if not positives.any():
    return float('nan')
  order = np.argsort(-scores, kind='stable')
  ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
  hits = np.cumsum(positives[order])[ends]
  gains = np.diff(hits, prepend=0) / hits[-1]
  return float(np.sum(gains * hits / (ends + 1)))


def average_precisions(scores, labels):
  """Computes the average precision of each class.

  Args:
    scores: float [N, K].
    labels: int [N, K], 1 for the classes of a video.

  Returns:
    float [K]; NaN for classes without positives.
  """
  return np.asarray([average_precision(own, known > 0) for own, known in zip(
      np.transpose(scores), np.transpose(labels), strict=True)])


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
  clips, of_clips = _single_clips(known, clip_scores, labels, clip_counts)
  scores, labels = scores[known], labels[known]
  log_probability = np.log(np.maximum(softmax(scores), 1e-30))
  return {
      'top1': float(np.mean(top_k_correct(scores, labels, 1))),
      'top5': float(np.mean(top_k_correct(scores, labels, 5))),
      'mean_class': float(np.nanmean(
          per_class_accuracy(confusion_matrix(scores, labels)))),
      'clip_top1': float(np.mean(top_k_correct(clips, of_clips, 1))),
      'loss': float(-np.mean(log_probability[np.arange(len(labels)), labels])),
      'videos': int(known.sum()),
  }


def _single_clips(known, clip_scores, labels, clip_counts):
  """Returns (scores, labels) of the single clips of known videos, in a row."""
  clip_scores, labels = clip_scores[known], np.asarray(labels)[known]
  clips = clip_scores.shape[1]
  there = np.ones((len(labels), clips), bool)
  if len(clip_counts):
    there = np.arange(clips) < np.asarray(clip_counts)[known, None]
  return clip_scores[there], np.repeat(labels, there.sum(axis=1), axis=0)


def summarize_heads(heads: dict, clip_counts=()) -> dict:
  """Computes the figures of an evaluation with several heads.

  Args:
    heads: {name: (scores [N, K], clip scores [N, clips, K], labels [N])}, as
      `summarize` takes them.
    clip_counts: see `summarize`.

  Returns:
    The figures of each head, `top1_<name>` and so on; `action` and
    `clip_action`, the shares of videos and of clips of which all heads are
    right, over the videos with a label of each; `loss`, the sum over the heads;
    and the number of `videos` with a label of any. Without labels only that, 0.
  """
  labels = np.stack([known for *_, known in heads.values()], -1)
  found = {'videos': int((labels >= 0).any(-1).sum())}
  if not found['videos']:
    return found
  for name, (scores, clip_scores, known) in heads.items():
    figures = summarize(scores, clip_scores, known, clip_counts)
    found['loss'] = found.get('loss', 0.0) + figures.pop('loss', 0.0)
    found |= {f'{key}_{name}': value for key, value in figures.items()}
  whole = (labels >= 0).all(-1)
  if whole.any():
    right = np.all([top_k_correct(scores[whole], known[whole], 1)
                    for scores, _, known in heads.values()], axis=0)
    clips = [top_k_correct(*_single_clips(
        whole, clip_scores, known, clip_counts), 1)
             for _, clip_scores, known in heads.values()]
    found |= {'action': float(np.mean(right)),
              'clip_action': float(np.mean(np.all(clips, axis=0)))}
  return found


def summarize_multi(scores, clip_scores, labels, clip_counts=()) -> dict:
  """Computes the figures of an evaluation of independent classes.

  Args:
    scores: logits, float [N, K].
    clip_scores: float [N, clips, K].
    labels: int [N, K], 1 for the classes of a video, 0 for others; -1 marks
      videos without labels, which do not count.
    clip_counts: see `summarize`.

  Returns:
    Dict of `map` and `clip_map`, the means of `average_precisions` over the
    classes with positives, in [0, 1]; the numbers of these `classes` and of
    those `without_positives`; `loss`, the mean binary cross-entropy (nats); and
    the number of labelled `videos`. Without a positive there is no mean,
    without labelled videos only their number, 0.
  """
  known = (np.asarray(labels) >= 0).all(-1)
  if not known.any():
    return {'videos': 0}
  clips = _single_clips(known, clip_scores, labels, clip_counts)
  scores = np.asarray(scores, np.float64)[known]
  labels = np.asarray(labels)[known]
  means = {}
  counted = labels.any(0)
  if counted.any():
    means = {
        'map': float(np.nanmean(average_precisions(scores, labels))),
        'clip_map': float(np.nanmean(average_precisions(*clips)))}
  loss = np.logaddexp(0, scores) - scores * labels
  return {**means, 'classes': int(counted.sum()),
          'without_positives': int((~counted).sum()),
          'loss': float(np.mean(loss)), 'videos': int(known.sum())}
