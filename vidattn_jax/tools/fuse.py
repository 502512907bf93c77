"""Fuse the scores of several models, and compare two of them."""

from collections.abc import Mapping

import numpy as np

from vidattn_jax.training import evaluate
from vidattn_jax.training import metrics

# Weights of RGB and of flow in T-STAM, section 4.3.3.
STREAMS = {'rgb': 1.0, 'flow': 3.0}
# Pairs of weights that `sweep` tries.
SWEEP = ((1, 0), (3, 1), (2, 1), (1, 1), (1, 1.5), (1, 2), (1, 3), (1, 4),
         (1, 5), (0, 1))


def check_same_videos(results, names):
  """Checks that results are about the same videos and classes.

  Args:
    results: list of `evaluate.Result`.
    names: what to call them in messages, such as file names.

  Raises:
    ValueError: videos, labels or classes differ; the first is named.
  """
  first = results[0]
  for result, name in zip(results[1:], names[1:], strict=True):
    if result.classes != first.classes or result.multi != first.multi:
      raise ValueError(f'{name} and {names[0]} have different classes.')
    if result.names != first.names:
      odd = sorted(set(result.names) ^ set(first.names))
      what = f'{odd[0]} stands in one only' if odd else 'the order differs'
      raise ValueError(f'{name} and {names[0]} are not about the same videos: '
                       f'{what} ({len(odd)} in all).')
    if not np.array_equal(result.labels, first.labels):
      odd = int(np.argwhere(result.labels != first.labels)[0][0])
      raise ValueError(f'{name} and {names[0]} disagree on the label of '
                       f'{first.names[odd]}.')


def default_weights(results) -> list[float]:
  """Returns 1 for RGB and 3 for flow if there are both, else equal weights."""
  if {result.modality for result in results} == set(STREAMS):
    return [STREAMS[result.modality] for result in results]
  return [1.0] * len(results)


def fuse(results, weights=None, probabilities=None, names=None):
  """Averages the scores of several models, video by video.

  Args:
    results: list of `evaluate.Result` of the same videos.
    weights: a number for each; None for `default_weights`.
    probabilities: turn logits into probabilities first; None for this where
      one holds probabilities or there are both RGB and flow.
    names: what to call them in messages.

  Returns:
    `evaluate.Result` whose scores are the weighted mean.

  Raises:
    ValueError: the results are not about the same videos, the weights do not
      fit, or logits are wanted of probabilities.
  """
  names = names or [f'result {i + 1}' for i in range(len(results))]
  check_same_videos(results, names)
  weights = (default_weights(results) if weights is None else list(weights))
  if len(weights) != len(results):
    raise ValueError(f'{len(results)} files but {len(weights)} weights; give '
                     'one weight for each.')
  if min(weights) < 0 or sum(weights) <= 0:
    raise ValueError(f'Weights {weights} must not be negative, nor all zero.')
  averages = {result.average for result in results}
  modalities = sorted({m for r in results for m in r.modality.split('+')})
  if probabilities is None:
    probabilities = averages != {'logits'} or len(modalities) > 1
  if not probabilities and averages != {'logits'}:
    odd = next(name for name, result in zip(names, results, strict=True)
               if result.average != 'logits')
    raise ValueError(f'{odd} holds probabilities, of which no logits can be '
                     'averaged; evaluate with config.eval.average=logits.')

  def scores_of(result):
    return result.probabilities() if probabilities else result.scores

  scores = sum(w * scores_of(r) for w, r in zip(weights, results, strict=True))
  scores = np.asarray(scores / sum(weights), np.float32)
  return evaluate.Result(
      names=results[0].names, labels=results[0].labels, scores=scores,
      clip_scores=scores[:, None], classes=results[0].classes,
      average='probabilities' if probabilities else averages.pop(),
      modality='+'.join(modalities), num_frames=results[0].num_frames,
      multi=results[0].multi)


def sweep(first, second, weights=SWEEP, probabilities=None) -> list:
  """Fuses two models with several weights.

  The best of them on the videos of a test is tuned on that test.

  Args:
    first: `evaluate.Result`.
    second: `evaluate.Result` of the same videos.
    weights: pairs of numbers.
    probabilities: see `fuse`.

  Returns:
    List of ('first:second', `evaluate.Result`).

  Raises:
    ValueError: as `fuse`.
  """
  return [(f'{a:g}:{b:g}', fuse([first, second], (a, b), probabilities))
          for a, b in weights]


def mean_of_splits(results) -> dict:
  """Averages figures of several splits, weighted by their labelled videos.

  Args:
    results: list of `evaluate.Result`.

  Returns:
    Dict of `top1`, `top5`, `mean_class` in [0, 1], and `videos` in all; with
    several heads or independent classes of the figures that stand for these in
    `figure_names`.

  Raises:
    ValueError: a split has no labelled videos.
  """
  figures = [result.summary() for result in results]
  counts = [f['videos'] for f in figures]
  if not all(counts):
    raise ValueError(f'Split {counts.index(0) + 1} has no labelled videos; '
                     'it cannot be averaged.')
  mean = {key: float(np.average([f[key] for f in figures], weights=counts))
          for key in figure_names(results[0])
          if 'clip' not in key and all(key in f for f in figures)}
  return {**mean, 'videos': sum(counts)}


def figure_names(result) -> dict[str, str]:
  """Returns {figure of a result's summary: what tables call it}."""
  if result.multi:
    return {'map': 'mAP', 'clip_map': 'clip'}
  if isinstance(result.classes, Mapping):
    return {'action': 'all', **{
        f'{key}_{head}': f'{head} {name}' for head in result.classes
        for key, name in (('top1', 'top-1'), ('top5', 'top-5'))},
            'clip_action': 'clip'}
  return {'top1': 'top-1', 'top5': 'top-5', 'mean_class': 'class',
          'clip_top1': 'clip'}


def table(rows) -> str:
  """Lays out the figures of several results.

  Args:
    rows: list of (name, `evaluate.Result`).

  Returns:
    Lines of text, a header first.
  """
  width = max(len('model'), *(len(name) for name, _ in rows))
  columns = figure_names(rows[0][1])
  wide = {key: max(6, len(title)) for key, title in columns.items()}
  head = '  '.join(f'{title:<{wide[key]}}' for key, title in columns.items())
  lines = [f'{"model":<{width}}  {head}  videos']
  for name, result in rows:
    figures = result.summary()
    if not figures['videos']:
      lines.append(f'{name:<{width}}  no labels ({len(result.names)} videos)')
      continue
    cells = '  '.join(
        (f'{100 * figures[key]:5.2f}%' if key in figures else 'none').ljust(
            wide[key]) for key in columns)
    lines.append(f'{name:<{width}}  {cells}  {figures["videos"]}')
  return '\n'.join(lines)


def compare(before, after, names=('first', 'second'), path=None):
  """Compares two models class by class (AIA, Fig. 5).

  What is compared is the accuracy of each class, of each head; of independent
  classes the average precision.

  Args:
    before: `evaluate.Result`.
    after: `evaluate.Result` of the same videos.
    names: what to call them.
    path: PNG file to draw to; None for none.

  Returns:
    List of (class name, accuracy before, accuracy after, videos), the largest
    gain first; accuracies in [0, 1]. With several heads names are
    'head: class'; the videos of independent classes are their positives.

  Raises:
    ValueError: they are not about the same labelled videos.
  """
  check_same_videos([before, after], names)
  if not (before.known() if before.multi else before.labels >= 0).any():
    raise ValueError('These videos have no labels; nothing can be compared.')
  rows = []
  for head, (scores, _, labels, classes) in before.heads().items():
    first, counts = _by_class(scores, labels, before.multi)
    second, _ = _by_class(after.heads()[head][0], labels, before.multi)
    rows += [((f'{head}: ' if head else '') + classes[k], float(first[k]),
              float(second[k]), int(counts[k])) for k in np.flatnonzero(counts)]
  rows.sort(key=lambda row: (row[1] - row[2], row[0]))
  if path is not None:
    _draw_gains(rows, names, path)
  return rows


def _by_class(scores, labels, multi):
  """Returns (accuracy or average precision of each class, its videos)."""
  if multi:
    known = (labels >= 0).all(-1)
    return (metrics.average_precisions(scores[known], labels[known]),
            labels[known].sum(0))
  known = labels >= 0
  matrix = metrics.confusion_matrix(scores[known], labels[known])
  return metrics.per_class_accuracy(matrix), matrix.sum(axis=1)


def by_group(before, after, group, names=('first', 'second')) -> list:
  """Compares two models on some classes, on the others and on all.

  Args:
    before: `evaluate.Result`.
    after: `evaluate.Result` of the same videos.
    group: class numbers.
    names: what to call them.

  Returns:
    List of ('these classes', 'others' or 'all', accuracy before, accuracy
    after, videos) over the labelled videos; parts without videos are left out.

  Raises:
    ValueError: they are not about the same videos, or a video has more than
      one class.
  """
  check_same_videos([before, after], names)
  if before.labels.ndim > 1:
    raise ValueError('Groups of classes take videos of one class each.')
  known = before.labels >= 0
  inside = known & np.isin(before.labels, list(group))
  right = [metrics.top_k_correct(r.scores, np.maximum(r.labels, 0), 1)
           for r in (before, after)]
  return [(name, *(float(hits[part].mean()) for hits in right),
           int(part.sum()))
          for name, part in (('these classes', inside),
                             ('others', known & ~inside), ('all', known))
          if part.any()]


def compare_lengths(results, names, path=None, bins=8) -> list:
  """Compares models on videos of different lengths (STA, Fig. 8).

  Args:
    results: list of `evaluate.Result` of the same videos.
    names: what to call them.
    path: PNG file to draw to; None for none.
    bins: groups of about as many videos each, from the shortest on.

  Returns:
    List of (fewest frames, most frames, videos, [accuracy of each model in
    [0, 1]]), of the groups that have videos.

  Raises:
    ValueError: they are not about the same labelled videos, or the lengths of
      these are not known.
  """
  check_same_videos(results, names)
  first = results[0]
  if first.labels.ndim > 1:
    raise ValueError('Accuracy by length takes videos of one class each.')
  known = first.labels >= 0
  if not known.any() or len(first.num_frames) != len(first.labels):
    raise ValueError(f'{names[0]} does not tell the lengths of labelled '
                     'videos; evaluate the checkpoint anew.')
  lengths, labels = first.num_frames[known], first.labels[known]
  hits = [metrics.top_k_correct(r.scores[known], labels, 1) for r in results]
  edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1),
                                method='nearest'))
  group = np.searchsorted(edges[1:-1], lengths, 'left')
  rows = []
  for number in np.unique(group):
    chosen = group == number
    rows.append((int(lengths[chosen].min()), int(lengths[chosen].max()),
                 int(chosen.sum()), [float(h[chosen].mean()) for h in hits]))
  if path is not None:
    _draw_lengths(rows, lengths, names, path)
  return rows


def _draw_lengths(rows, lengths, names, path):
  """Draws accuracies over lengths, and how many videos have them."""
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  figure, axis = plt.subplots(figsize=(8, 4.5))
  counts = axis.twinx()
  counts.hist(lengths, bins=40, color='#dddddd')
  counts.set_ylabel('videos', color='#888888')
  # The curves stand before the bars.
  axis.set_zorder(counts.get_zorder() + 1)
  axis.patch.set_visible(False)
  centres = [(low + high) / 2 for low, high, *_ in rows]
  for i, (name, marker) in enumerate(zip(names, 'os^Dv*' * len(names))):
    axis.plot(centres, [100 * row[3][i] for row in rows], marker=marker,
              label=name)
  axis.set_xlabel('frames of a video')
  axis.set_ylabel('top-1, %')
  axis.set_title('Accuracy by length; points are groups of about '
                 f'{rows[0][2]} videos', fontsize=11)
  axis.legend(loc='best', framealpha=0.9)
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  plt.close(figure)


def _draw_gains(rows, names, path, most=30):
  """Draws bars of the gains; of many classes, both ends."""
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  title = f'{names[1]} against {names[0]}, by class'
  if len(rows) > most:
    rows = rows[:most // 2] + rows[-most // 2:]
    title += f' (the {most // 2} largest gains and losses)'
  gains = np.asarray([after - before for _, before, after, _ in rows])
  figure, axis = plt.subplots(figsize=(9, 1.2 + 0.3 * len(rows)))
  places = np.arange(len(rows))
  axis.barh(places, 100 * gains,
            color=np.where(gains >= 0, '#2166ac', '#b35806'))
  span = max(10.0, 100 * np.abs(gains).max())
  for place, gain, (_, before, after, _) in zip(places, gains, rows,
                                                strict=True):
    axis.annotate(f'{before:.0%} to {after:.0%}', (100 * gain, place),
                  xytext=(4 if gain >= 0 else -4, 0), fontsize=8, va='center',
                  textcoords='offset points',
                  ha='left' if gain >= 0 else 'right')
  axis.set_yticks(places, [name for name, *_ in rows])
  axis.set_xlim(min(0.0, 100 * gains.min()) - 0.35 * span,
                max(0.0, 100 * gains.max()) + 0.35 * span)
  axis.axvline(0, color='black', lw=0.8)
  axis.invert_yaxis()
  axis.grid(axis='x', alpha=0.3)
  axis.set(title=title, xlabel='gain in accuracy (percentage points)')
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  plt.close(figure)
