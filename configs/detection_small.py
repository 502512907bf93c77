"""Narrow R-C3D and S-CNN on small untrimmed sets, on a CPU.

python -m input_pipeline.untrimmed_demo DATA
python main.py --config=configs/detection_small.py:scnn,demo \\
    --config.data.root=DATA --workdir=DIR
vidattn detect DATA/videos/val_000.mp4 --checkpoint=DIR --out=FOLDER

Both learn sooner from the weights of their backbone, trained on short clips of
the same motions before:

python -m input_pipeline.synthetic CLIPS --train 640 --eval 80
python main.py --config=configs/detection_small.py:scnn,trimmed \\
    --config.data.root=CLIPS --workdir=DIR1

and `--config.init_from=DIR1` behind the second command above.

The argument names the network (scnn, rc3d), the data (demo: the set of
untrimmed motions; own: any videos below DATA with `annotations.json` in the
layout of ActivityNet, subsets training and validation; trimmed: the network's
backbone classifies the clips of configs/demo.py) and, if it is not STA, the
unit: none, SA, TA, STC or SENet-3D. Figures are in docs/benchmarks.md.
"""

from configs import common
from configs import demo
from configs import sta

_DATA = ('demo', 'own', 'trimmed')


def get_config(arguments='scnn,demo'):
  """Returns the configuration.

  Args:
    arguments: 'NETWORK,DATA' or 'NETWORK,DATA,UNIT', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  name, data, unit = [*arguments.split(','), 'STA', '', ''][:3]
  if (name not in ('scnn', 'rc3d') or data not in _DATA
      or unit not in sta.UNITS or arguments.count(',') > 2):
    raise ValueError(
        f'configs/detection_small.py:{arguments} is unknown; write '
        'NETWORK,DATA or NETWORK,DATA,UNIT (scnn or rc3d; '
        f'{" or ".join(_DATA)}; {", ".join(sta.UNITS)}).')
  config = common.get_config()
  config.data.cache_frames = True
  config.data.crop = 'random'
  config.data.mean = (0.5,)
  config.data.std = (0.25,)
  if data != 'own':
    config.data.flip_pairs = demo.FLIP_PAIRS
  sta.set_unit(config, unit, sums=name == 'scnn')
  config.model.width = 0.125
  config.model.dropout = 0.2
  config.schedule.name = 'cosine'
  config.optimizer.bias_lr = 1.0
  config.optimizer.weight_decay = 5e-4
  if name == 'scnn':
    config.model.num_frames = 8
    config.model.crop_size = (40, 40)
    config.data.resize = (42, 56)
  else:
    config.model.num_frames = 128
    config.model.crop_size = (64, 64)
    config.data.resize = (66, 88)
  if data == 'trimmed':
    _set_pretraining(config, name)
  else:
    _set_detection(config, name, data)
  return config


def _set_pretraining(config, name):
  """Sets how the backbone learns to tell trimmed clips apart."""
  config.model.name = {'scnn': 'r3d_18', 'rc3d': 'c3d'}[name]
  if name == 'rc3d':
    # A whole clip at the rate of the buffers.
    config.model.num_frames = 16
  config.data.name = 'ordered motions'
  config.data.root = 'runs/demo/data'
  config.batch_size = 16
  config.num_epochs = 10.0
  config.schedule.warmup_epochs = 1.0
  config.schedule.learning_rate = {'scnn': 0.02, 'rc3d': 0.01}[name]
  config.eval.every_epochs = config.get_ref('num_epochs')
  config.eval.batch_size = 16


def _set_detection(config, name, data):
  """Sets how a detector learns from untrimmed videos."""
  config.model.name = name
  config.data.name = 'untrimmed motions' if data == 'demo' else ''
  config.data.root = 'data/untrimmed'
  config.detection.annotations = 'annotations.json'
  config.detection.shift = 1.0
  config.data.frames_by = 'time'
  config.data.frame_rate = 12.5
  config.schedule.warmup_epochs = 0.5
  config.optimizer.clip_norm = 5.0
  if name == 'scnn':
    # As long as actions are: in the demo 1.3 to 5 seconds.
    config.detection.windows = (16, 24, 32, 48, 64) if data == 'demo' else (
        16, 32, 64, 128, 256)
    config.detection.background_below = 0.4
    config.detection.background = 3.0
    config.detection.near_background = 0.3
    # Of the localisation network's classes background is one.
    config.detection.background_weight = 0.1
    config.detection.weigh_action = True
    config.batch_size = 32
    config.num_epochs = 8.0
    config.schedule.learning_rate = 0.02
    config.eval.batch_size = 64
  else:
    with config.unlocked():
      config.model.options.scales = (
          (1.5, 2, 2.5, 3, 4, 5, 6, 8) if data == 'demo' else
          (2, 3, 4, 5.5, 8, 11, 16, 22))
      config.model.options.proposals = (200, 60)
      config.model.options.background = (0.0, 0.5)
    config.detection.empty_buffers = 0.5
    config.detection.buffer_step = 64
    config.batch_size = 2
    config.num_epochs = 4.0
    config.schedule.learning_rate = 0.005
    config.eval.batch_size = 4
  config.eval.every_epochs = config.get_ref('num_epochs')
