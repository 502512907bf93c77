"""The paper's headline in miniature: what attention over time adds to a TSN.

python -m benchmarks.demo --out=runs/demo

Makes the data set "ordered motions", trains a plain TSN and the same network
with CinST->STinC, evaluates both from their restored checkpoints, and writes
`summary.json` and pictures. Every step is a command that a user could type; it
is printed before it runs.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from benchmarks import commands
from input_pipeline import decode
from input_pipeline import resizing
from input_pipeline import sampling
from input_pipeline import synthetic
from vidattn_jax.tools import fuse
from vidattn_jax.training import evaluate
from vidattn_jax.training import metrics


def main(argv=None):
  """Runs the demo."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', default='runs/demo', metavar='DIR')
  parser.add_argument('--train', type=int, default=640, metavar='CLIPS')
  parser.add_argument('--eval', type=int, default=160, metavar='CLIPS')
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args(argv)
  out = pathlib.Path(arguments.out).absolute()
  start = time.monotonic()

  data = out / 'data'
  commands.run('-m', 'input_pipeline.synthetic', data, '--train',
               arguments.train, '--eval', arguments.eval, '--seed',
               arguments.seed)
  results, pictures = {}, []
  for name in ('plain', 'attention'):
    workdir = out / name
    command = ('main.py', f'--config=configs/demo.py:{name}',
               f'--config.data.root={data}', f'--config.seed={arguments.seed}',
               f'--config.data.index_file={data}/index.json',
               f'--workdir={workdir}')
    commands.run(*command)
    commands.run(command[0], '--mode=evaluate', *command[1:])
    scores = max((workdir / 'eval').glob('*.npz'),
                 key=lambda p: p.stat().st_mtime)
    results[name] = evaluate.load_result(scores)
    pictures.append(scores.with_suffix('.png'))

  fuse.compare(results['plain'], results['attention'], tuple(results),
               out / 'gains.png')
  draw(data, results, out / 'demo.png')
  pictures += [out / 'gains.png', out / 'demo.png']
  summary = {name: r.summary()['top1'] for name, r in results.items()}
  summary['plain_pairs'] = pair_accuracy(results['plain'])
  summary['seconds'] = round(time.monotonic() - start, 1)
  (out / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')

  print('\nOrdered motions, held-out clips: the pair found, the class found')
  print('network                 pair    class (chance within a pair: 50 %)')
  for name, title in (('plain', 'TSN'), ('attention', 'TSN + CinST->STinC')):
    print(f'{title:<22}  {pair_accuracy(results[name]):5.1%}   '
          f'{summary[name]:5.1%}')
  print(f'\n{summary["seconds"]:.0f} s in all. Pictures:')
  for picture in pictures:
    print(f'  {picture}')
  print(f'Figures for machines: {out / "summary.json"}')


def pair_accuracy(result) -> float:
  """Returns the share of clips whose pair of motions is right.

  Args:
    result: `evaluate.Result` on the ordered motions.
  """
  pair_of = {name: i for i, pair in enumerate(synthetic.PAIRS) for name in pair}
  pairs = np.asarray([pair_of[name] for name in result.classes])
  return float(np.mean(
      pairs[np.argmax(result.scores, axis=1)] == pairs[result.labels]))


def draw(data, results, path):
  """Draws a clip of each pair, and the confusion matrices beside each other.

  Args:
    data: directory of the data set.
    results: {name: `evaluate.Result`}.
    path: the PNG file to write.
  """
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  figure = plt.figure(figsize=(13, 5.2))
  grid = figure.add_gridspec(4, 3, width_ratios=(1.25, 1, 1))
  for row, (name, reversed_name) in enumerate(synthetic.PAIRS):
    clip = str(next((pathlib.Path(data) / 'val' / name).glob('*.mp4')))
    entry = decode.probe(clip)
    indices = sampling.segment_eval(entry.num_frames, 6)[0]
    frames = resizing.resize(decode.decode_frames(clip, indices, entry),
                               (120, 160))
    axis = figure.add_subplot(grid[row, 0])
    axis.imshow(np.concatenate(list(frames[:, :, 20:140]), axis=1))
    axis.set_title(f'{name} \u2192   (\u2190 {reversed_name})', fontsize=9)
    axis.axis('off')
  titles = {'plain': 'TSN', 'attention': 'TSN with CinST\u2192STinC'}
  for column, (name, result) in enumerate(results.items(), start=1):
    # Classes of a pair beside each other.
    order = [result.classes.index(c) for pair in synthetic.PAIRS for c in pair]
    matrix = metrics.confusion_matrix(result.scores, result.labels)
    matrix = matrix[order][:, order]
    axis = figure.add_subplot(grid[:, column])
    axis.imshow(matrix, cmap='cividis')
    for (i, j), count in np.ndenumerate(matrix):
      if count:
        axis.text(j, i, count, ha='center', va='center', fontsize=9,
                  color='white' if count < matrix.max() / 2 else 'black')
    labels = [result.classes[k] for k in order]
    axis.set_xticks(range(8), labels, rotation=60, ha='right', fontsize=8)
    axis.set_yticks(range(8), labels if column == 1 else [''] * 8, fontsize=8)
    axis.set_title(f'{titles[name]}: {result.summary()["top1"]:.1%}')
    axis.set_xlabel('predicted')
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  plt.close(figure)


if __name__ == '__main__':
  main()
