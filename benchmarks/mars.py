"""What a teacher of flow, and what STA, add to a narrow 3D network.

python -m benchmarks.mars --out=runs/mars [--seeds 0 1 2]

On so few ordered motions that the plain network of frames learns them by heart;
for each seed, on data of its own: the plain network, the same with STA, a
network of flow, and the plain network taught by that (MARS). Fusions weigh all
alike. Every command is printed before it runs; what was killed goes on when
started again.
"""

import argparse
import json
import pathlib
import time

from benchmarks import accuracies
from benchmarks import commands
from vidattn_jax.tools import fuse

# The second part wants the teacher of the first.
_FIRST, _SECOND = ('rgb', 'sta', 'flow'), ('mars',)
_FUSIONS = (('rgb', 'flow'), ('rgb', 'mars'), ('rgb', 'mars', 'flow'))


def main(argv=None):
  """Runs the comparison."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
  parser.add_argument('--train', type=int, default=40, metavar='CLIPS')
  parser.add_argument('--eval', type=int, default=240, metavar='CLIPS')
  parser.add_argument('--flags', nargs='*', default=[], metavar='KEY=VALUE',
                      help='keys of all configurations, num_epochs=2')
  arguments = parser.parse_args(argv)
  out, start = pathlib.Path(arguments.out).absolute(), time.monotonic()
  for seed in arguments.seeds:
    commands.run('-m', 'input_pipeline.synthetic', out / f'data{seed}',
                 '--train', arguments.train, '--eval', arguments.eval,
                 '--seed', seed)

  def train(job, core):
    seed, kind = job
    workdir = out / f'{kind}_{seed}'
    more = [f'--config.{flag}' for flag in arguments.flags]
    if kind in _SECOND:
      more.append(f'--config.distill.teacher={out / "flow"}_{seed}')
    commands.run(
        'main.py', f'--config=configs/mars_demo.py:{kind}',
        f'--config.data.root={out / "data"}{seed}', f'--config.seed={seed}',
        f'--config.data.index_file={out / "index"}{seed}.json', *more,
        f'--workdir={workdir}', core=core, log=f'{workdir}.log')
    return (seed, kind), accuracies.newest(workdir)

  results = {}
  for kinds in (_FIRST, _SECOND):
    results |= dict(commands.on_cores(train, [
        (seed, kind) for seed in arguments.seeds for kind in kinds]))
  rows = {kind: [results[seed, kind].summary()['top1']
                 for seed in arguments.seeds] for kind in _FIRST + _SECOND}
  for kinds in _FUSIONS:
    rows[' + '.join(kinds)] = [
        fuse.fuse([results[seed, kind] for kind in kinds],
                  [1] * len(kinds)).summary()['top1']
        for seed in arguments.seeds]
  print('\n' + accuracies.table(rows, 'rgb'))
  (out / 'summary.json').write_text(json.dumps(rows, indent=1) + '\n')
  print(f'{(time.monotonic() - start) / 60:.1f} minutes. Figures: '
        f'{out / "summary.json"}')


if __name__ == '__main__':
  main()
