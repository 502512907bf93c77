"""One branch against three: the original clip alone, and with sparse attention.

python -m benchmarks.three_branch demo --out=runs/three_branch
python -m benchmarks.three_branch ut --data=DIR --out=runs/three_branch_ut

On ordered motions or on UT-Interaction (DIR, segmented set 1), as in the paper:
T-CNN learns first, from the original clips alone; then
configs/three_branch_small.py goes on from its weights with O and with O+C+D,
for the same epochs, which the learning curves show. Every command is printed
before it runs; what was killed goes on when started again.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from benchmarks import commands
from vidattn_jax.training import writer

_BRANCHES = ('O', 'O+C+D')
# Peaks of the response mean something by then; a smaller rate keeps them.
_JOINT_RATE = 0.005
_TITLES = {'demo': 'Ordered motions', 'ut': 'UT-Interaction, set 1'}


def main(argv=None):
  """Runs the comparison."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('what', choices=tuple(_TITLES))
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--data', metavar='DIR', help='the videos of ut')
  parser.add_argument('--seeds', type=int, default=3, metavar='N')
  parser.add_argument('--epochs', type=float, metavar='N',
                      help='(default: of the configuration)')
  parser.add_argument('--train', type=int, default=160, metavar='CLIPS',
                      help='of demo')
  arguments = parser.parse_args(argv)
  if arguments.what == 'ut' and not arguments.data:
    parser.error('ut takes --data=DIR, the folder of its videos')
  out = pathlib.Path(arguments.out).absolute()
  start = time.monotonic()
  data = arguments.data
  if arguments.what == 'demo':
    data = str(out / 'data')
    commands.run('-m', 'input_pipeline.synthetic', data, '--train',
                 arguments.train, '--eval', arguments.train // 2)
  more = []
  if arguments.epochs:
    more = [f'--config.num_epochs={arguments.epochs}',
            f'--config.eval.every_epochs={arguments.epochs / 6}']

  def run(branches, seed, workdir, core, *flags):
    commands.run('main.py', '--config=configs/three_branch_small.py:'
                 f'{arguments.what},{branches}', f'--config.data.root={data}',
                 f'--config.data.index_file={out / "index.json"}',
                 f'--config.seed={seed}', *more, *flags,
                 f'--workdir={workdir}', core=core, log=f'{workdir}.log')

  def train(job, core):
    seed, branches = job
    workdir = out / f'{branches}_seed{seed}'
    before = time.monotonic()
    run(branches, seed, workdir, core,
        f'--config.init_from={out / f"tcnn_seed{seed}"}',
        f'--config.schedule.learning_rate={_JOINT_RATE}')
    curve = [line for line in writer.read_metrics(workdir)
             if 'eval/top1' in line]
    return {'seed': seed, 'seconds': round(time.monotonic() - before),
            'epochs': [line['epoch'] for line in curve],
            'top1': [line['eval/top1'] for line in curve],
            'last': {key.partition('/')[2]: value for key, value
                     in curve[-1].items() if key.startswith('eval/')}}

  seeds = range(arguments.seeds)
  commands.on_cores(
      lambda seed, core: run('O', seed, out / f'tcnn_seed{seed}', core), seeds)
  jobs = [(seed, branches) for seed in seeds for branches in _BRANCHES]
  runs = {branches: [] for branches in _BRANCHES}
  for (_, branches), figures in zip(
      jobs, commands.on_cores(train, jobs), strict=True):
    runs[branches].append(figures)
  draw(runs, _TITLES[arguments.what], out / 'curves.png')
  (out / 'summary.json').write_text(json.dumps(runs, indent=1) + '\n')
  print(f'\n{_TITLES[arguments.what]}: top-1 after the last epoch, seeds '
        f'0 to {arguments.seeds - 1}\n\n' + table(runs))
  print(f'{(time.monotonic() - start) / 60:.1f} minutes. Curves: '
        f'{out / "curves.png"}, figures: {out / "summary.json"}')


def table(runs: dict) -> str:
  """Writes accuracies as a Markdown table.

  Args:
    runs: {branches: one dict for each seed, with the figures `last` and
      `seconds`}.
  """
  lines = ['| branches | all together, by seed | mean | O alone | D alone | '
           'C alone | seconds |', '|---|---|---|---|---|---|---|']
  for branches, seeds in runs.items():
    figures = [seed['last'] for seed in seeds]
    alone = [_mean([f.get(f'top1_{kind}') for f in figures]) for kind in (
        'original', 'discriminative', 'complementary')]
    top1 = [f['top1'] for f in figures]
    lines.append(' | '.join([
        f'| {branches}', ', '.join(f'{x:.1%}' for x in top1), _mean(top1),
        *alone, f'{np.mean([seed["seconds"] for seed in seeds]):.0f} |']))
  return '\n'.join(lines) + '\n'


def _mean(values):
  return '-' if None in values else f'{np.mean(values):.1%}'


def draw(runs: dict, title: str, path):
  """Draws accuracy over epochs: each seed, and the mean of the seeds.

  Args:
    runs: {branches: one dict for each seed, with `epochs` and `top1`}.
    title: of the picture.
    path: the PNG file to write.
  """
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  figure, axis = plt.subplots(figsize=(7, 4.2))
  for (branches, seeds), color in zip(runs.items(), ('#8c510a', '#01665e'),
                                      strict=True):
    curves = np.asarray([seed['top1'] for seed in seeds])
    for curve in curves:
      axis.plot(seeds[0]['epochs'], curve, color=color, alpha=0.3, lw=1)
    axis.plot(seeds[0]['epochs'], curves.mean(0), color=color, marker='o',
              label=f'{branches}, mean of {len(seeds)} seeds')
  axis.set(title=title, xlabel='epoch', ylabel='top-1, held-out clips',
           ylim=(-0.02, 1.02))
  axis.grid(alpha=0.3)
  axis.legend()
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  plt.close(figure)


if __name__ == '__main__':
  main()
