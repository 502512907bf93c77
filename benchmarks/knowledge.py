"""A person's knowledge put back, where a network has learned a wrong reason.

python -m benchmarks.knowledge --out=DIR [--seeds 1 2 3]

Clips of two of eight classes hold a decoy (see `input_pipeline.synthetic`),
which in training slides to the side that the class names seven times of ten,
and in held-out clips three times. For each seed, on data of its own: a narrow
ST-ABN is trained, its attention collected, the attention of all training clips
of the two classes edited as a person would who sees where the motion is, and
the network fine-tuned on these edits with the paper's factor of the temporal
loss, 10, and with 0: all else is the same. Every command is printed before it
runs; what was killed goes on when started again.
"""

import argparse
import functools
import json
import pathlib
import time

import numpy as np

from benchmarks import commands
from input_pipeline import synthetic
from vidattn_jax.editor import collected
from vidattn_jax.editor import edit as edit_lib
from vidattn_jax.editor import files
from vidattn_jax.editor import store
from vidattn_jax.tools import fuse
from vidattn_jax.training import evaluate

# Shares of the decoys that agree with the class: in training, and held out.
DECOYS = (0.7, 0.3)
GAMMAS = (0, 10)
_GROUPS = ('these classes', 'others', 'all')


def main(argv=None):
  """Runs the experiment, or draws the edits of one run."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', metavar='DIR')
  parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
  parser.add_argument('--train', type=int, default=160, help='training clips')
  parser.add_argument('--eval', type=int, default=240, help='held-out clips')
  parser.add_argument('--decoys', type=float, nargs=2, default=DECOYS,
                      metavar='SHARE')
  parser.add_argument('--edit', nargs=2, metavar=('DATA', 'WORKDIR'),
                      help='only edit the attention collected in WORKDIR')
  parser.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE',
                      help='change the configuration of all runs')
  arguments = parser.parse_args(argv)
  if arguments.edit:
    count = edit_attention(*arguments.edit)
    print(f'{count} training clips are edited.')
    return
  if not arguments.out:
    parser.error('--out=DIR is missing')
  out, start = pathlib.Path(arguments.out).absolute(), time.monotonic()
  seeds = arguments.seeds
  commands.on_cores(
      lambda seed, core: _first(out, seed, core, arguments), seeds)
  commands.on_cores(
      lambda job, core: _edited(out, *job, core, arguments),
      [(seed, gamma) for seed in seeds for gamma in GAMMAS])
  rows = {seed: _figures(out / f'seed{seed}') for seed in seeds}
  summary = {'decoys': list(arguments.decoys), 'seeds': rows,
             'minutes': round((time.monotonic() - start) / 60, 1)}
  (out / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')
  print('\n' + table(rows))
  print(f'{summary["minutes"]} minutes. Figures: {out / "summary.json"}')


def _first(out, seed, core, arguments):
  """Makes the data of a seed, trains on it, and edits the attention."""
  out = out / f'seed{seed}'
  commands.run('-m', 'input_pipeline.synthetic', out / 'data', '--train',
               arguments.train, '--eval', arguments.eval, '--seed', seed,
               '--decoys', *arguments.decoys, core=core, log=out / 'first.log')
  _train(out, 'first', '', seed, core, arguments)
  commands.run('-m', 'benchmarks.knowledge', '--edit', out / 'data',
               out / 'first', core=core, log=out / 'first.log')


def _edited(out, seed, gamma, core, arguments):
  """Fine-tunes on the edited attention, with a factor of the temporal loss."""
  first = out / f'seed{seed}' / 'first'
  _train(first.parent, f'gamma{gamma}', ':edited', seed, core, arguments,
         f'--config.init_from={first}',
         f'--config.data.edits={files.default_path(first)}',
         f'--config.temporal_weight={gamma}.0')


def _train(out, name, what, seed, core, arguments, *more):
  """Trains, and collects the attention, if that is not done yet."""
  command = ['main.py', f'--config=configs/st_abn_demo.py{what}',
             f'--config.data.root={out / "data"}', f'--config.seed={seed}',
             f'--config.data.index_file={out / "index.json"}',
             *(f'--config.{change}' for change in arguments.set), *more,
             f'--workdir={out / name}']
  run = functools.partial(commands.run, core=core, log=out / f'{name}.log')
  if not _done(out / name):
    run(*command)
  if not collected.splits(out / name):
    run(command[0], '--mode=evaluate', *command[1:],
        '--config.eval.collect_attention=True')


def _figures(out):
  """Returns the figures of a seed."""
  data, runs = out / 'data', {'before': out / 'first'}
  runs |= {f'gamma {gamma}': out / f'gamma{gamma}' for gamma in GAMMAS}
  results = {name: evaluate.load_result(_scores(run))
             for name, run in runs.items()}
  group = [results['before'].classes.index(name) for name in synthetic.DECOYED]
  figures = {name: dict(zip(_GROUPS, (
      round(after, 4) for _, _, after, _ in fuse.by_group(
          results['before'], result, group, ('before', name))), strict=True))
             for name, result in results.items()}
  parts = synthetic.read_parts(data)
  for name, run in runs.items():
    figures[name] |= attention_of_parts(collected.read(run, 'eval'), parts)
  return figures


def _done(workdir):
  """Tells whether a run has written the scores of its last step."""
  return bool(list((workdir / 'eval').glob('*.npz')))


def _scores(workdir):
  return max((workdir / 'eval').glob('*.npz'),
             key=lambda path: path.stat().st_mtime)


def edit_attention(data, workdir) -> int:
  """Edits attention as a person would who knows where the motion is.

  Every frame of the motion that the class names gets 1, all others 0, in all
  training clips that hold a decoy.

  Args:
    data: the folder of the clips.
    workdir: of a run whose attention was collected.

  Returns:
    How many clips are edited.
  """
  found = collected.read(workdir, 'train')
  parts = synthetic.read_parts(data)
  edits = store.Store(files.default_path(workdir))
  have, predicted, count = edits.edits(), found.predicted(), 0
  for row, name in enumerate(found.names):
    if 'decoy' not in parts[name]:
      continue
    count += 1
    if (name, 'script') in have:
      continue
    n = int(found.num_frames[row])
    first, stop = parts[name]['motion']
    frames = np.arange(n)
    edits.save(store.Edit(
        video=name, num_frames=n,
        frame_indices=tuple(np.unique(found.frame_indices[row]).tolist()),
        original=tuple(np.round(found.frame_attention(row),
                                edit_lib.DECIMALS).tolist()),
        edited=tuple(((frames >= first) & (frames < stop)).astype(
            float).tolist()),
        mask=(1,) * n, label=int(found.labels[row]),
        predicted=int(predicted[row]), annotator='script', created='',
        updated='', revision=1, status='submitted',
        checkpoint=f'step {found.step}'), 0)
  edits.close()
  return count


def attention_of_parts(found, parts) -> dict:
  """Returns the mean attention in the motion and in the decoy of clips.

  Args:
    found: `collected.Collected`.
    parts: as `synthetic.read_parts` returns it.

  Returns:
    {'at motion': mean, 'at decoy': mean} over the clips that hold a decoy.
  """
  sums = {'motion': [], 'decoy': []}
  for row, name in enumerate(found.names):
    if 'decoy' in parts[name]:
      weights = found.frame_attention(row)
      for key, values in sums.items():
        first, stop = parts[name][key]
        values.append(weights[first:stop].mean())
  return {f'at {key}': round(float(np.mean(values)), 4)
          for key, values in sums.items()}


def table(rows: dict) -> str:
  """Writes accuracies as a Markdown table, and what editing gains.

  Args:
    rows: {seed: {run: {'these classes', 'others', 'all', 'at motion',
      'at decoy': figure}}}.
  """
  keys = (*_GROUPS, 'at motion', 'at decoy')
  lines = ['| seed | run | edited classes | others | all | attention at motion '
           '| at decoy |', '|---|---|---|---|---|---|---|']
  for seed, runs in rows.items():
    for name, row in runs.items():
      lines.append(f'| {seed} | {name} | ' + ' | '.join(
          f'{row[key]:.1%}' if key in _GROUPS else f'{row[key]:.2f}'
          for key in keys) + ' |')
  gains = {key: [100 * (runs['gamma 10'][key] - runs['gamma 0'][key])
                 for runs in rows.values()] for key in _GROUPS}
  lines.append('')
  for key, values in gains.items():
    lines.append(f'gamma 10 against 0, {key}: {np.mean(values):+.1f} points ('
                 + ', '.join(f'{v:+.1f}' for v in values) + ')')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  main()
