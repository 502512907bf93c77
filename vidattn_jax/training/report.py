"""What a run leaves behind: scores, result cards, and its own description."""

from collections.abc import Mapping
import functools
import itertools
import json
import subprocess

from etils import epath
import jax

import vidattn_jax
from vidattn_jax.training import checkpoint
from vidattn_jax.training import detections
from vidattn_jax.training import writer


def write_result(config, workdir, inputs, result, step):
  """Writes scores and their card; never over those of another evaluation.

  Args:
    config: the run's configuration.
    workdir: the run's directory; `eval` in it takes the files.
    inputs: the data.
    result: an `evaluate.Result`, or a `detections.Result`.
    step: the weights' step.

  Returns:
    Path of the scores; None on processes other than the first.
  """
  if jax.process_index():
    return None
  directory = epath.Path(workdir) / 'eval'
  directory.mkdir(parents=True, exist_ok=True)
  found = isinstance(result, detections.Result)
  views = {'frames': config.eval.num_frames or config.model.num_frames}
  if not found:
    views |= {'clips': result.clip_scores.shape[1], 'crops': config.eval.crops}
  card = {
      'result': result.summary(), 'step': step, 'views': views,
      'unreadable': list(result.unreadable), 'data': inputs.card,
      'pixels': inputs.pixels, 'config': plain(config),
      'version': vidattn_jax.__version__, 'revision': revision()}
  if found and result.judged is not None:
    card['judged'] = result.judged.to_json()
  stem, kind = (f'step{step}_detections', '.json') if found else (
      f'step{step}_' + 'x'.join(map(str, views.values())), '.npz')
  for number in itertools.count(1):
    path = directory / (stem + (f'_{number}' if number > 1 else '') + kind)
    if not path.exists() or _same_evaluation(path, card):
      break
  result.save(path)
  checkpoint.write_json(_card_of(path), card)
  return path


def _card_of(path):
  """Returns where the card of scores, or of detections, lies."""
  return path.with_suffix('.json' if path.suffix == '.npz' else '.card.json')


def _same_evaluation(path, card):
  """Tells whether scores on disk are of the same videos, seen the same way."""
  try:
    old = json.loads(_card_of(path).read_text())
    return (old['data']['eval'] == card['data']['eval']
            and old['pixels'] == card['pixels']
            and old['config']['eval'] == card['config']['eval'])
  except (OSError, ValueError, KeyError):
    return False


def report(config, workdir, inputs, result, step):
  """Writes scores, their card and a picture, and prints the figures.

  Args:
    config: the run's configuration.
    workdir: the run's directory.
    inputs: the data.
    result: an `evaluate.Result`, or a `detections.Result`.
    step: the weights' step.
  """
  path = write_result(config, workdir, inputs, result, step)
  if path is None:
    return
  figures = result.summary()
  if isinstance(result, detections.Result):
    writer.plot_run(workdir, None, path.with_suffix('.png'))
    print(f'step {step}, {figures["detections"]} detections in '
          f'{len(result.names)} videos')
    print(detections.sentence(result))
  else:
    writer.plot_run(workdir, result, path.with_suffix('.png'))
    text = (f'step {step}, {path.stem.partition("_")[2]} (frames x clips x '
            f'crops), {len(result.names)} videos')
    if figures['videos']:
      text += f': {_sentence(result, figures)}'
    print(text)
  dropped = [name for name, _ in inputs.card['eval'].get('dropped', [])]
  for names, what in ((result.unreadable, 'could not be read and did not '
                       'count'), (dropped, 'were dropped before the start')):
    if names:
      print(f'{len(names)} videos {what}: {", ".join(names[:10])}')
  print(f'{"scores" if path.suffix == ".npz" else "detections"} {path}, card '
        f'{_card_of(path)}, picture {path.with_suffix(".png")}')


def main_figure(figures: dict) -> str:
  """Says what checkpoints are compared by, with a comma behind, or ''."""
  value = checkpoint.figure(figures)
  name = {'top1': 'top-1', 'action': 'all heads', 'map': 'mAP'}[next(
      (key for key in checkpoint.FIGURES if key in figures), 'top1')]
  return '' if value is None else f'{name} {value:.2%}, '


def how_judged(result) -> str:
  """Says how the main figure of a detector was found; '' of others."""
  judged = getattr(result, 'judged', None)
  return '' if judged is None else f' at t = {result.main:g}, {judged.protocol}'


def _sentence(result, figures):
  """Says how good an evaluation was."""
  if result.multi:
    text = f'{main_figure(figures)}mean of {figures["classes"]} classes'
    if figures['without_positives']:
      text += (f' ({figures["without_positives"]} without positives do not '
               'count)')
    if 'clip_map' in figures:
      text += f', single clips {figures["clip_map"]:.2%}'
    key, name = 'map', 'mAP'
  elif isinstance(result.classes, Mapping):
    parts = [f'{head} {_of_one_head(figures, f"_{head}")}'
             for head in result.classes if figures[f'videos_{head}']]
    return main_figure(figures) + '; '.join(parts)
  else:
    text = _of_one_head(figures, '')
    key, name = 'top1', 'top-1'
  alone = [f'{branch} {figures[f"{key}_{branch}"]:.2%}'
           for branch in result.branches if f'{key}_{branch}' in figures]
  return text + (
      f'; {name} of each branch: {", ".join(alone)}' if alone else '')


def _of_one_head(figures, suffix):
  return ', '.join(f'{name} {figures[key + suffix]:.2%}' for name, key in (
      ('top-1', 'top1'), ('top-5', 'top5'), ('mean of classes', 'mean_class'),
      ('single clips', 'clip_top1')))


def plain(config) -> dict:
  """Returns a configuration as plain data."""
  return json.loads(config.to_json())


@functools.cache
def revision() -> str:
  """Returns the code's git revision, or '' outside a checkout."""
  root = epath.Path(__file__).parent.parent.parent
  if not (root / '.git').exists():
    return ''
  try:
    done = subprocess.run(
        ['git', '-C', str(root), 'describe', '--always', '--dirty'],
        capture_output=True, text=True, timeout=10, check=False)
  except (OSError, subprocess.TimeoutExpired):
    return ''
  return done.stdout.strip()
