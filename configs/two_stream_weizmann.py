"""Two streams on Weizmann, in which one person is left out.

vidattn flow DIR --out=FLOW
python main.py --config=configs/two_stream_weizmann.py:rgb,moshe \\
    --config.data.root=DIR --workdir=runs/rgb
python main.py --config=configs/two_stream_weizmann.py:flow,moshe \\
    --config.data.root=DIR --config.data.flow_root=FLOW --workdir=runs/flow
vidattn fuse runs/rgb/eval/step*.npz runs/flow/eval/step*.npz

DIR holds the videos and `annotations.csv` (path, label, person). A narrow
T-STAM from scratch; `python -m benchmarks.two_stream weizmann` does it for all
nine persons. Results: docs/benchmarks.md. (Not in the papers.)
"""

from configs import common
from configs import two_stream

_PERSONS = ('daria', 'denis', 'eli', 'ido', 'ira', 'lena', 'lyova', 'moshe',
            'shahar')


def get_config(arguments='flow,moshe'):
  """Returns the configuration.

  Args:
    arguments: 'STREAM,PERSON'.

  Raises:
    ValueError: an argument is unknown.
  """
  stream, _, person = arguments.partition(',')
  if stream not in ('rgb', 'flow') or person not in _PERSONS:
    raise ValueError(
        f'configs/two_stream_weizmann.py:{arguments} is unknown; write '
        f'STREAM,PERSON: rgb or flow, and one of {", ".join(_PERSONS)}.')
  config = common.get_config()
  config.model.name = 'tstam'
  config.model.width = 0.25
  config.model.num_frames = 6
  config.model.crop_size = (64, 64)
  with config.unlocked():
    two_stream.set_tstam_options(config)
  config.data.name = f'Weizmann without {person}'
  config.data.train_list = 'annotations.csv'
  config.data.csv_split = 'person'
  config.data.csv_train = ','.join(p for p in _PERSONS if p != person)
  config.data.csv_eval = person
  config.data.resize = (72, 90)
  config.data.cache_frames = True
  two_stream.set_stream(config, stream)
  config.data.flow_bound = 20.0
  config.data.crop_scales = (1.0, 0.875)
  config.model.dropout = 0.5
  # From scratch there is nothing to be careful of.
  config.optimizer.lr_multipliers = ()
  config.optimizer.weight_decay = 5e-4
  config.batch_size = 16
  config.num_epochs = 60.0
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.05
  config.schedule.warmup_epochs = 3.0
  config.eval.every_epochs = config.num_epochs
  config.checkpoint.every_epochs = config.num_epochs
  config.eval.num_frames = 25
  config.eval.crops = 10
  config.eval.average = 'probabilities'
  config.eval.batch_size = 2
  config.log_every_steps = 25
  return config
