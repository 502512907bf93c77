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
  """Draws the curves of a run and the confusion matrix of its last evaluation.

  Args:
    workdir: the run's directory, with `metrics.jsonl`.
    result: an `evaluate.Result`, or None.
    path: the PNG file to write.
  """
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  from vidattn_jax.training import metrics

  lines = read_metrics(workdir)
  figure, axes = plt.subplots(1, 3, figsize=(18, 5.5),
                              gridspec_kw={'width_ratios': [1, 1, 1.15]})
  for axis, name, title in ((axes[0], 'loss', 'Loss (nats)'),
                            (axes[1], 'top1', 'Top-1 accuracy')):
    for prefix, label, style in (('train', 'training', {'lw': 1}),
                                 ('eval', 'evaluation', {'marker': 'o'})):
      points = [(line['epoch'], line[f'{prefix}/{name}'])
                for line in lines if f'{prefix}/{name}' in line]
      if points:
        axis.plot(*zip(*points, strict=True), label=label, **style)
    axis.set(title=title, xlabel='epoch')
    axis.grid(alpha=0.3)
    if axis.lines:
      axis.legend()
  axes[1].set_ylim(-0.02, 1.02)
  known = result is not None and np.any(result.labels >= 0)
  if known:
    seen = result.labels >= 0
    matrix = metrics.confusion_matrix(result.scores[seen], result.labels[seen])
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes[2].imshow(share, cmap='cividis', vmin=0, vmax=1)
    figure.colorbar(image, ax=axes[2], label='share of the class')
    top1 = result.summary()['top1']
    axes[2].set(title=f'Confusion, top-1 {top1:.1%} of {seen.sum()} videos',
                xlabel='predicted', ylabel='label')
    if len(result.classes) <= 30:
      ticks = range(len(result.classes))
      axes[2].set_xticks(ticks, result.classes, rotation=60, ha='right')
      axes[2].set_yticks(ticks, result.classes)
      if len(result.classes) <= 12:
        for (row, column), count in np.ndenumerate(matrix):
          if count:
            axes[2].text(column, row, count, ha='center', va='center',
                         color='white' if share[row, column] < 0.6 else 'black')
  else:
    axes[2].axis('off')
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  plt.close(figure)
