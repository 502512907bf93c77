"""What STA adds to a trained host that stays as it is.

python -m benchmarks.sta --out=runs/sta [--seeds 0 1 2] [--units STA SA TA]

For each seed, on data of its own: a narrow 3D network learns two classes of
ordered motions, and is then fine-tuned to all eight, its classifier alone and
with a unit (`configs/sta_demo.py`). Every command is printed before it runs;
what was killed goes on when started again.
"""

import argparse
import json
import pathlib
import time

from benchmarks import accuracies
from benchmarks import commands
from configs import sta

# Clips (training, held out) of the host's two classes, and of all.
_HOST, _ALL = (80, 80), (96, 240)


def main(argv=None):
  """Runs the comparison."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
  parser.add_argument('--units', nargs='+', default=['STA'],
                      choices=sta.UNITS[1:])
  parser.add_argument('--flags', nargs='*', default=[], metavar='KEY=VALUE',
                      help='keys of all configurations, num_epochs=2')
  arguments = parser.parse_args(argv)
  out, start = pathlib.Path(arguments.out).absolute(), time.monotonic()
  for seed in arguments.seeds:
    # Other clips, of other seeds, for the host.
    for name, number, counts, more in (
        ('host', 100 + seed, _HOST, ('--classes', 'grow', 'shrink')),
        ('all', seed, _ALL, ())):
      commands.run('-m', 'input_pipeline.synthetic', _data(out, name, seed),
                   '--train', counts[0], '--eval', counts[1],
                   '--seed', number, *more)

  def train(job, core):
    seed, kind = job
    workdir = out / f'{kind}_{seed}'
    name = 'host' if kind == 'host' else 'all'
    more = [f'--config.{flag}' for flag in arguments.flags]
    if name == 'all':
      more.append(f'--config.init_from={out / "host"}_{seed}')
    commands.run(
        'main.py', f'--config=configs/sta_demo.py:{kind}',
        f'--config.data.root={_data(out, name, seed)}',
        f'--config.data.index_file={out}/index_{name}_{seed}.json',
        f'--config.seed={seed}', *more, f'--workdir={workdir}', core=core,
        log=f'{workdir}.log')
    return accuracies.newest(workdir).summary()['top1']

  rows = {}
  for kinds in (('host',), ('none', *arguments.units)):
    jobs = [(seed, kind) for kind in kinds for seed in arguments.seeds]
    for (_, kind), top1 in zip(
        jobs, commands.on_cores(train, jobs), strict=True):
      rows.setdefault(kind, []).append(top1)
  (out / 'summary.json').write_text(json.dumps(rows, indent=1) + '\n')
  hosts = ', '.join(f'{top1:.1%}' for top1 in rows.pop('host'))
  print(f'\nThe hosts, on their two classes: {hosts}\n')
  print(accuracies.table(rows, 'none'))
  print(f'{(time.monotonic() - start) / 60:.1f} minutes. Figures: '
        f'{out / "summary.json"}')


def _data(out, name, seed):
  return out / f'data_{name}_{seed}'


if __name__ == '__main__':
  main()
