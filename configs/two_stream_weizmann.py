"""Two streams on Weizmann, in which one person is left out.

vidattn flow DIR --out=FLOW
python main.py --config=configs/two_stream_weizmann.py:rgb,moshe \\
    --config.data.root=DIR --workdir=runs/rgb
python main.py --config=configs/two_stream_weizmann.py:flow,moshe \\
    --config.data.root=DIR --config.data.flow_root=FLOW --workdir=runs/flow
vidattn fuse runs/rgb/eval/step*.npz runs/flow/eval/step*.npz

DIR holds the videos and `annotations.csv`, which you write: path, label,
person. A narrow T-STAM from scratch; `python -m benchmarks.two_stream weizmann`
does it for all nine persons. Results: docs/benchmarks.md. (Not in the papers.)
"""

from configs import common
from configs import two_stream

PERSONS = ('daria', 'denis', 'eli', 'ido', 'ira', 'lena', 'lyova', 'moshe',
            'shahar')


def get_config(arguments='flow,moshe'):
  """Returns the configuration.

  Args:
    arguments: 'STREAM,PERSON'.

  Raises:
    ValueError: an argument is unknown.
  """
  stream, _, person = arguments.partition(',')
  if stream not in ('rgb', 'flow') or person not in PERSONS:
    raise ValueError(
        f'configs/two_stream_weizmann.py:{arguments} is unknown; write '
        f'STREAM,PERSON: rgb or flow, and one of {", ".join(PERSONS)}.')
  config = common.get_config()
  set_narrow(config, stream)
  config.model.num_frames = 3
  config.model.crop_size = (64, 80)
  config.data.name = f'Weizmann without {person}'
  config.data.train_list = 'annotations.csv'
  config.data.csv_split = 'person'
  config.data.csv_train = ','.join(p for p in PERSONS if p != person)
  config.data.csv_eval = person
  config.data.resize = (72, 90)
  # 0.4 s of motion; a step of walking takes about that.
  config.data.flow_stack = 10
  config.batch_size = 8
  config.num_epochs = {'rgb': 150.0, 'flow': 200.0}[stream]
  config.schedule.warmup_epochs = 3.0
  config.eval.every_epochs = config.num_epochs
  config.checkpoint.every_epochs = config.num_epochs
  config.eval.num_frames = 25
  config.eval.crops = 10
  config.eval.batch_size = 2
  return config


def set_narrow(config, stream):
  """Sets a narrow T-STAM that learns small data from scratch.

  Args:
    config: is changed.
    stream: 'rgb' or 'flow'.
  """
  config.model.name = 'tstam'
  config.model.width = 0.25
  with config.unlocked():
    two_stream.set_tstam_options(config)
  # A residual network learns faster from few clips.
  config.model.options.backbone = 'tsn_r18'
  two_stream.set_stream(config, stream)
  config.model.dropout = 0.1
  config.data.crop = 'random'
  config.data.cache_frames = True
  # The head sums over all frames and has no BatchNorm at its end; the first
  # convolution is as fresh as the others.
  config.optimizer.lr_multipliers = (('neck', 0.2), ('head', 0.2))
  config.optimizer.weight_decay = 5e-4
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.05
  config.eval.average = 'probabilities'
