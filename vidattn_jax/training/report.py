"""What a run leaves behind: scores, result cards, and its own description."""

import json
import subprocess

from etils import epath
import jax

import vidattn_jax
from vidattn_jax.training import checkpoint
from vidattn_jax.training import writer


def report(config, workdir, inputs, result, step):
  """Writes scores, their card and picture, and prints the figures.

  Args:
    config: the run's configuration.
    workdir: the run's directory; `eval` in it takes the files.
    inputs: the data.
    result: an `evaluate.Result`.
    step: the weights' step.
  """
  if jax.process_index():
    return
  directory = epath.Path(workdir) / 'eval'
  directory.mkdir(parents=True, exist_ok=True)
  views = {'frames': config.eval.num_frames or config.model.num_frames,
           'clips': result.clip_scores.shape[1], 'crops': config.eval.crops}
  path = directory / (f'step{step}_' + 'x'.join(map(str, views.values()))
                      + '.npz')
  result.save(path)
  figures = result.summary()
  checkpoint.write_json(path.with_suffix('.json'), {
      'result': figures, 'step': step, 'views': views,
      'unreadable': list(result.unreadable), 'data': inputs.card,
      'pixels': inputs.pixels, 'config': plain(config),
      'version': vidattn_jax.__version__, 'revision': revision()})
  writer.plot_run(workdir, result, path.with_suffix('.png'))
  data = inputs.card['eval']
  dropped = data.get('dropped', [])
  text = (f'step {step}, {views["frames"]} frames x {views["clips"]} clips x '
          f'{views["crops"]} crops, {len(result.names)} videos')
  if figures['videos']:
    text += (f': top-1 {figures["top1"]:.2%}, top-5 {figures["top5"]:.2%}, '
             f'mean of classes {figures["mean_class"]:.2%}, single clips '
             f'{figures["clip_top1"]:.2%}')
  print(text)
  for names, what in ((result.unreadable, 'could not be read and did not '
                       'count'), ([d[0] for d in dropped], 'were dropped '
                                  'before the start')):
    if names:
      print(f'{len(names)} videos {what}: {", ".join(names[:10])}')
  print(f'scores {path}, card {path.with_suffix(".json")}, picture '
        f'{path.with_suffix(".png")}')


def plain(config) -> dict:
  """Returns a configuration as plain data."""
  return json.loads(config.to_json())


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
