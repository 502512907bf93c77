"""Narrow detectors on a small untrimmed set, and windows without a network.

python -m benchmarks.detection --out=runs/detection
python -m benchmarks.detection --data=FOLDER --networks=rc3d --pretrain \\
    --out=DIR

Without --data, the demo set of untrimmed motions. The backbones learn trimmed
clips of these motions before, as those of the paper do; with --pretrain they do
so for other videos, too. The baseline takes every window as a detection of
every class, the surest where actions of the class are as long as the window in
the training set. Every command is printed before it runs; what was killed goes
on when started again.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from benchmarks import commands
from configs import detection_small
from input_pipeline import untrimmed
from vidattn_jax.detection import evaluation
from vidattn_jax.detection import windows

# As R-C3D's authors do with weights of Sports-1M; where the backbone has seen
# the same kind of videos.
_FROZEN = ("--config.freeze=('backbone/conv1','backbone/conv2')",)


def main(argv=None):
  """Trains and judges every network, with every unit and seed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--data', metavar='FOLDER', help='videos and '
                      'annotations.json (default: the demo set is made)')
  parser.add_argument('--pretrain', action='store_true', help='with --data: '
                      'backbones learn the clips of the demo before')
  parser.add_argument('--train', type=int, default=24, metavar='VIDEOS',
                      help='of the demo set')
  parser.add_argument('--networks', nargs='+', default=['scnn', 'rc3d'],
                      choices=('scnn', 'rc3d'))
  parser.add_argument('--units', nargs='+', default=['STA', 'none'])
  parser.add_argument('--seeds', nargs='+', type=int, default=[0])
  parser.add_argument('--flags', nargs='*', default=[], metavar='KEY=VALUE',
                      help='keys of the configuration, num_epochs=2')
  arguments = parser.parse_args(argv)
  out = pathlib.Path(arguments.out).absolute()
  out.mkdir(parents=True, exist_ok=True)
  start = time.monotonic()
  data, kind, clips = arguments.data, 'own', None
  if not data:
    data, kind = out / 'data', 'demo'
    commands.run('-m', 'input_pipeline.untrimmed_demo', data, '--train',
                 arguments.train)
  if kind == 'demo' or arguments.pretrain:
    clips = out / 'clips'
    commands.run('-m', 'input_pipeline.synthetic', clips, '--train', 640,
                 '--eval', 80)
  flags = [f'--config.{flag}' for flag in arguments.flags]
  figures = {'all windows': _baseline(data, kind)}

  def train(job, core):
    network, unit, seed = job
    name = f'{network}_{unit}_{seed}'
    before = time.monotonic()

    def run(what, root, workdir, *more):
      commands.run(
          'main.py', f'--config=configs/detection_small.py:{network},{what},'
          f'{unit}', f'--config.data.root={root}', f'--config.seed={seed}',
          f'--config.data.index_file={out / what}.json', *more,
          f'--workdir={workdir}', core=core, log=f'{workdir}.log')

    if clips:
      run('trimmed', clips, out / f'{name}_clips')
      run(kind, data, out / name, f'--config.init_from={out / name}_clips',
          *(_FROZEN if network == 'rc3d' and kind == 'demo' else ()), *flags)
    else:
      run(kind, data, out / name, *flags)
    card = json.loads(max(
        (out / name / 'eval').glob('*.card.json'),
        key=lambda path: path.stat().st_mtime).read_text())
    return name, {**card['result'], 'protocol': card['judged']['protocol'],
                  'minutes': round((time.monotonic() - before) / 60, 1)}

  figures |= dict(commands.on_cores(train, [
      (network, unit, seed) for seed in arguments.seeds
      for network in arguments.networks for unit in arguments.units]))
  print()
  for name, row in figures.items():
    print(f'{name:<16} ' + '  '.join(
        f'{key[4:]}: {value:6.2%}' for key, value in row.items()
        if key.startswith('map_')) + f'  {row["protocol"]}')
  (out / 'summary.json').write_text(json.dumps(figures, indent=1) + '\n')
  print(f'{(time.monotonic() - start) / 60:.1f} minutes. Figures: '
        f'{out / "summary.json"}')


def _baseline(data, kind):
  """Judges all windows of the evaluation videos, whatever they show."""
  c = detection_small.get_config(f'scnn,{kind}')
  c.data.root = str(data)
  train, judged = (untrimmed.read_annotations(c, s) for s in ('train', 'eval'))
  rows = [row for video in train.videos.values() for row in video['segments']]
  lengths, rate = c.detection.windows, c.data.frame_rate
  count = len(train.classes)
  prior = windows.length_prior(
      [end - start for start, end, _ in rows], [row[2] for row in rows], count,
      lengths, rate)
  parts = []
  for name, video in judged.videos.items():
    starts, chosen = windows.slide(int(video['duration'] * rate), lengths)
    scores = prior[np.searchsorted(lengths, chosen)]
    times = windows.to_seconds(starts, chosen, rate)
    parts.append({
        'video': np.repeat(name, scores.size),
        'start': np.repeat(times[:, 0], count),
        'end': np.repeat(times[:, 1], count),
        'label': np.tile(np.arange(count), len(starts)),
        'score': scores.ravel()})
  found = {key: np.concatenate([part[key] for part in parts])
           for key in parts[0]}
  result = evaluation.evaluate(judged.videos, found, judged.classes,
                               nms_margin=c.eval.nms_margin)
  return {'protocol': result.protocol, **{
      f'map_{t:g}': value for t, value in zip(
          result.thresholds, result.mean.tolist(), strict=True)}}


if __name__ == '__main__':
  main()
