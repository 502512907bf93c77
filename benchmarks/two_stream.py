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
import concurrent.futures
import json
import os
import pathlib
import queue
import subprocess
import sys
import time

from configs import two_stream_weizmann
from vidattn_jax.tools import fuse
from vidattn_jax.training import evaluate

_ROOT = pathlib.Path(__file__).resolve().parents[1]
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
  out = pathlib.Path(arguments.out)
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
  _run(['-m', 'input_pipeline.synthetic', str(data), '--train', '160',
        '--eval', '80', '--seed', str(arguments.seed)])
  for stream in STREAMS:
    _train(f'two_stream_demo.py:{stream}', out / stream, data, arguments.seed)
  results = _results(out, STREAMS)
  results['fused 1:3'] = fuse.fuse(list(results.values()))
  print('\n' + fuse.table(results.items()))
  return {name: result.summary() for name, result in results.items()}


def _weizmann(arguments, out):
  flow = out / 'flow'
  _run(['-m', 'vidattn_jax.cli', 'flow', arguments.data, f'--out={flow}'])
  cores = queue.SimpleQueue()
  for core in sorted(os.sched_getaffinity(0)):
    cores.put(core)

  def train(job):
    person, stream = job
    core = cores.get()
    try:
      _train(f'two_stream_weizmann.py:{stream},{person}',
             out / f'{person}_{stream}', arguments.data, arguments.seed,
             # Every video is looked through once, not once a fold.
             [f'--config.data.index_file={out / "index.json"}',
              *[f'--config.data.flow_root={flow}'] * (stream == 'flow')], core)
    finally:
      cores.put(core)

  jobs = [(person, stream) for person in two_stream_weizmann.PERSONS
          for stream in STREAMS]
  with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
    list(pool.map(train, jobs))

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
  log = None if core is None else f'{workdir}.log'
  _run(['main.py', f'--config=configs/{config}', f'--config.data.root={data}',
        f'--config.seed={seed}', *more, f'--workdir={workdir}'], core, log)


def _run(arguments, core=None, log=None):
  """Runs one Python command in the checkout, printed as one would type it."""
  print('$ python ' + ' '.join(arguments), flush=True)
  arguments = [str(_ROOT / a) if a == 'main.py' else
               a.replace('--config=configs', f'--config={_ROOT}/configs')
               for a in arguments]
  command = [sys.executable, *arguments]
  if core is not None:
    command = ['taskset', '-c', str(core), *command]
  with open(log or os.devnull, 'w', encoding='utf-8') as file:
    done = subprocess.run(
        command, check=False, env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        **({'stdout': file, 'stderr': file} if log else {}))
  if done.returncode:
    sys.exit(f'{" ".join(arguments)} ended with code {done.returncode}'
             + (f'; see {log}.' if log else '.'))


if __name__ == '__main__':
  main()
