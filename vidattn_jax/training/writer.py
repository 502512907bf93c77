"""What a run tells: log file, TensorBoard events, progress, pictures."""

import json
import sys
import time

from etils import epath
import jax
import numpy as np
import tqdm


class Writer:
  """Writes metrics to `metrics.jsonl` and to TensorBoard event files.

  Does nothing on processes other than the first.
  """

  def __init__(self, workdir, start_step: int = 0):
    """Opens the files.

    Args:
      workdir: the directory.
      start_step: lines of later steps, left by a run that was killed, are
        dropped.
    """
    self._active = jax.process_index() == 0
    if not self._active:
      return
    # Imported late: it takes a while and most commands do not need it.
    import tensorboardX
    workdir = epath.Path(workdir)
    self._path = workdir / 'metrics.jsonl'
    kept = [line for line in read_metrics(workdir)
            if line['step'] <= start_step]
    self._file = self._path.open('w')
    for line in kept:
      self._write_line(line)
    self._events = tensorboardX.SummaryWriter(
        str(workdir / 'tensorboard'), purge_step=start_step + 1)

  def _write_line(self, line):
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()

  def write(self, step: int, epoch: float, prefix: str, values: dict):
    """Writes scalars of a step.

    Args:
      step: number of finished steps.
      epoch: the same in passes over the training data.
      prefix: 'train' or 'eval'.
      values: {name: number}.
    """
    if not self._active:
      return
    values = {f'{prefix}/{name}': float(v) for name, v in values.items()}
    self._write_line({'step': int(step), 'epoch': round(epoch, 4), **values})
    for name, value in values.items():
      self._events.add_scalar(name, value, int(step))
    self._events.flush()

  def close(self):
    """Closes the files."""
    if self._active:
      self._file.close()
      self._events.close()


def read_metrics(workdir) -> list[dict]:
  """Returns the lines of a run's `metrics.jsonl`; a torn last one is left out.

  Args:
    workdir: the directory.
  """
  path = epath.Path(workdir) / 'metrics.jsonl'
  lines = []
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        lines.append(json.loads(line))
      except json.JSONDecodeError:
        break
  return lines


class Progress:
  """A progress bar in clips, with the share of time spent waiting for data."""

  def __init__(self, title: str, total: int, done: int = 0):
    """Starts the clock.

    Args:
      title: what is counted.
      total: number of clips in all.
      done: how many of them are done.
    """
    self._bar = tqdm.tqdm(
        total=total, initial=done, desc=title, unit=' clips',
        file=sys.stderr, disable=jax.process_index() != 0, mininterval=1.0,
        dynamic_ncols=True, smoothing=0.05)
    self._start = time.monotonic()
    self._waited = 0.0

  def wait_for(self, iterator):
    """Returns the iterator's next item and counts the time that it took."""
    begin = time.monotonic()
    try:
      return next(iterator)
    finally:
      self._waited += time.monotonic() - begin

  def waiting_share(self) -> float:
    """Returns the share of time spent waiting for data, in [0, 1]."""
    return self._waited / max(time.monotonic() - self._start, 1e-9)

  def advance(self, clips: int, **figures):
    """Moves the bar.

    Args:
      clips: newly finished.
      **figures: shown behind the bar.
    """
    shown = {name: f'{value:.4g}' for name, value in figures.items()}
    shown['waiting'] = f'{self.waiting_share():.0%}'
    self._bar.set_postfix(shown, refresh=False)
    self._bar.update(clips)

  def close(self):
    """Ends the bar."""
    self._bar.close()


def say(text: str):
  """Prints a line on the first process, beside a progress bar."""
  if jax.process_index() == 0:
    tqdm.tqdm.write(text, file=sys.stderr)


def plot_run(workdir, result, path):
  """Draws the curves of a run and what its last evaluation confused.

  The confusion matrix of each head; of independent classes their average
  precisions.

  Args:
    workdir: the run's directory, with `metrics.jsonl`.
    result: an `evaluate.Result`, or None.
    path: the PNG file to write.
  """
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  lines = read_metrics(workdir)
  heads = result.heads() if result is not None and np.any(
      result.known() if result.multi else result.labels >= 0) else {}
  right = _right_in(lines)
  columns = 2 + max(len(heads), 1)
  figure, axes = plt.subplots(1, columns, figsize=(6 * columns, 5.5),
                              gridspec_kw={'width_ratios': [1, 1] + [1.15] * (
                                  columns - 2)})
  for axis, title, names in (
      (axes[0], 'Loss (nats)', ('loss', 'loss')),
      (axes[1], *(_TITLES[right[0]], right))):
    for prefix, label, style, name in (
        ('train', 'training', {'lw': 1}, names[0]),
        ('eval', 'evaluation', {'marker': 'o'}, names[1])):
      points = [(line['epoch'], line[f'{prefix}/{name}'])
                for line in lines if f'{prefix}/{name}' in line]
      if points:
        axis.plot(*zip(*points, strict=True), label=label, **style)
    axis.set(title=title, xlabel='epoch')
    axis.grid(alpha=0.3)
    if axis.lines:
      axis.legend()
  axes[1].set_ylim(-0.02, 1.02)
  for axis, (head, (scores, _, labels, classes)) in zip(
      axes[2:], heads.items()):
    if result.multi:
      _draw_precisions(axis, scores, labels, classes)
    else:
      _draw_confusion(figure, axis, head, scores, labels, classes)
  if not heads:
    axes[2].axis('off')
  figure.tight_layout()
  # The layout forgets long ticks that are rotated.
  figure.savefig(path, dpi=110, bbox_inches='tight')
  plt.close(figure)


# By the figure of training.
_TITLES = {'top1': 'Top-1 accuracy', 'action': 'All heads right',
           'exact': 'Training: all classes right; evaluation: mAP',
           'right': 'Training: windows or proposals right; evaluation: mAP'}


def _right_in(lines):
  """Returns the names of what a run's lines tell of right answers."""
  kinds = {'action': 'action', 'exact': 'map', 'right': 'map', 'top1': 'top1'}
  return next(((mine, theirs) for mine, theirs in kinds.items() if any(
      f'train/{mine}' in line or f'eval/{theirs}' in line for line in lines)),
              ('top1', 'top1'))


def _draw_confusion(figure, axis, head, scores, labels, classes):
  """Draws the confusion matrix of a head."""
  from vidattn_jax.training import metrics
  seen = labels >= 0
  matrix = metrics.confusion_matrix(scores[seen], labels[seen])
  share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  image = axis.imshow(share, cmap='cividis', vmin=0, vmax=1)
  figure.colorbar(image, ax=axis, label='share of the class')
  top1 = metrics.top_k_correct(scores[seen], labels[seen], 1)
  name = f'Confusion of {head}' if head else 'Confusion'
  axis.set(title=f'{name}, top-1 {top1.mean():.1%} of {seen.sum()} videos'
           if seen.any() else f'{name}: no labels',
           xlabel='predicted', ylabel='label')
  if len(classes) > 30:
    return
  ticks = range(len(classes))
  axis.set_xticks(ticks, classes, rotation=60, ha='right')
  axis.set_yticks(ticks, classes)
  if len(classes) <= 12:
    for (row, column), count in np.ndenumerate(matrix):
      if count:
        axis.text(column, row, count, ha='center', va='center',
                  color='white' if share[row, column] < 0.6 else 'black')


def _draw_precisions(axis, scores, labels, classes, most=30):
  """Draws the average precision of each class; of many, both ends."""
  from vidattn_jax.training import metrics
  seen = (labels >= 0).all(-1)
  values = metrics.average_precisions(scores[seen], labels[seen])
  counts = labels[seen].sum(0)
  order = [k for k in np.argsort(-values, kind='stable') if counts[k]]
  title = f'mAP {np.mean(values[order]):.1%} of {len(order)} classes' if (
      order) else 'No class has a positive'
  if len(order) > most:
    order = order[:most // 2] + order[-most // 2:]
    title += f' (the {most // 2} best and worst)'
  axis.barh(range(len(order)), values[order], color='#31688e')
  axis.set_yticks(range(len(order)),
                  [f'{classes[k]} ({counts[k]})' for k in order])
  axis.set(title=title, xlabel='average precision (positives in brackets)',
           xlim=(0, 1))
  axis.invert_yaxis()
  axis.grid(axis='x', alpha=0.3)
