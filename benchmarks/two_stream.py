"""Two streams and their fusion, on ordered motions and on Weizmann.

python -m benchmarks.two_stream demo --out=runs/two_stream
python -m benchmarks.two_stream weizmann --data=DIR --out=runs/weizmann2

The first trains both streams of the demo. The second leaves each of the nine
persons out once: eighteen trainings, as many at a time as there are cores, each
on one of them. Streams are fused 1:3, as in the paper; nothing is tuned on test
clips. Every command is printed before it runs; what was killed goes on when
started again.
"""

import argparse
import json
import pathlib
import time

from benchmarks import commands
from configs import two_stream_weizmann
from vidattn_jax.tools import fuse
from vidattn_jax.training import evaluate

STREAMS = ('rgb', 'flow')


def main(argv=None):
  """Runs one of the two."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('what', choices=('demo', 'weizmann'))
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--data', metavar='DIR', help='the videos of Weizmann')
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args(argv)
  if arguments.what == 'weizmann' and not arguments.data:
    parser.error('weizmann takes --data=DIR, the folder of its videos')
  out = pathlib.Path(arguments.out).absolute()
  start = time.monotonic()
  tables = {'demo': _demo, 'weizmann': _weizmann}[arguments.what](
      arguments, out)
  summary = {name: {key: round(value, 4) for key, value in row.items()}
             for name, row in tables.items()}
  summary['minutes'] = round((time.monotonic() - start) / 60, 1)
  (out / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')
  print(f'\n{summary["minutes"]:.1f} minutes. Figures: {out / "summary.json"}')


def _demo(arguments, out):
  data = out / 'data'
  commands.run('-m', 'input_pipeline.synthetic', data, '--train', 160,
               '--eval', 80, '--seed', arguments.seed)
  for stream in STREAMS:
    _train(f'two_stream_demo.py:{stream}', out / stream, data, arguments.seed)
  results = _results(out, STREAMS)
  results['fused 1:3'] = fuse.fuse(list(results.values()))
  print('\n' + fuse.table(results.items()))
  return {name: result.summary() for name, result in results.items()}


def _weizmann(arguments, out):
  flow = out / 'flow'
  commands.run('-m', 'vidattn_jax.cli', 'flow', arguments.data,
               f'--out={flow}')

  def train(job, core):
    person, stream = job
    _train(f'two_stream_weizmann.py:{stream},{person}',
           out / f'{person}_{stream}', arguments.data, arguments.seed,
           # Every video is looked through once, not once a fold.
           [f'--config.data.index_file={out / "index.json"}',
            *[f'--config.data.flow_root={flow}'] * (stream == 'flow')], core)

  commands.on_cores(train, [
      (person, stream) for person in two_stream_weizmann.PERSONS
      for stream in STREAMS])

  rows, folds = {}, {}
  for person in two_stream_weizmann.PERSONS:
    results = _results(out, STREAMS, f'{person}_')
    results['fused 1:3'] = fuse.fuse(list(results.values()))
    for name, result in results.items():
      rows.setdefault(name, []).append(result)
    folds[person] = {n: r.summary()['top1'] for n, r in results.items()}
  print('\nperson left out  ' + '  '.join(f'{name:>9}' for name in rows))
  for person, tops in folds.items():
    print(f'{person:<15}  ' + '  '.join(f'{t:9.1%}' for t in tops.values()))
  means = {name: fuse.mean_of_splits(each) for name, each in rows.items()}
  print(f'{"all":<15}  ' + '  '.join(
      f'{m["top1"]:9.1%}' for m in means.values()))
  return {**means, **folds}


def _results(out, streams, prefix=''):
  """Returns {stream: `evaluate.Result`} of the newest evaluations."""
  return {stream: evaluate.load_result(max(
      (out / f'{prefix}{stream}' / 'eval').glob('*.npz'),
      key=lambda path: path.stat().st_mtime)) for stream in streams}


def _train(config, workdir, data, seed, more=(), core=None):
  commands.run('main.py', f'--config=configs/{config}',
               f'--config.data.root={data}', f'--config.seed={seed}', *more,
               f'--workdir={workdir}', core=core,
               log=None if core is None else f'{workdir}.log')


if __name__ == '__main__':
  main()
