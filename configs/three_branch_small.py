"""A narrow three-branch network from scratch, on small data and a CPU.

python main.py --config=configs/three_branch_small.py:demo,O+C+D \\
    --config.data.root=runs/demo/data --workdir=runs/three
python main.py --config=configs/three_branch_small.py:ut,O \\
    --config.data.root=DIR --workdir=runs/ut

The argument names the data and the branches: demo (ordered motions, see
configs/demo.py) or ut (UT-Interaction, segmented set 1, whose DIR holds videos
and `annotations.csv` with path, label and split); O, O+D, O+C, C+D or O+C+D.
`python -m benchmarks.three_branch` trains all that docs/benchmarks.md compares.
(Not in the paper.)
"""

from configs import common
from configs import demo
from configs import three_branch_ucf_hmdb

BRANCHES = ('O', 'O+D', 'O+C', 'C+D', 'O+C+D')


def get_config(arguments='demo,O+C+D'):
  """Returns the configuration.

  Args:
    arguments: 'DATA,BRANCHES', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  data, _, branches = arguments.partition(',')
  if data not in ('demo', 'ut') or branches not in BRANCHES:
    raise ValueError(
        f'configs/three_branch_small.py:{arguments} is unknown; write '
        f'DATA,BRANCHES: demo or ut, and one of {", ".join(BRANCHES)}.')
  config = common.get_config()
  three_branch_ucf_hmdb.set_branches(config)
  config.model.options.branches = branches
  with config.unlocked():
    # Maps of 4x4 cells or more from small frames.
    config.model.options.strides = (2, 1, 2, 2, 2, 1, 1, 1)
  config.model.width = 0.125
  config.model.dropout = 0.2
  config.data.crop = 'random'
  config.data.cache_frames = True
  config.batch_size = 8
  config.optimizer.bias_lr = 1.0
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.02
  config.schedule.warmup_epochs = 1.0
  if data == 'demo':
    config.model.num_frames = 4
    config.model.crop_size = (56, 56)
    config.data.name = 'ordered motions'
    config.data.root = 'runs/demo/data'
    config.data.resize = (60, 80)
    config.data.flip_pairs = demo.FLIP_PAIRS
    config.num_epochs = 12.0
  else:
    config.model.num_frames = 8
    config.model.crop_size = (64, 80)
    config.data.name = 'UT-Interaction, set 1'
    config.data.root = 'data/ut_interaction_set1'
    config.data.train_list = 'annotations.csv'
    config.data.csv_split = 'split'
    config.data.csv_train = 'train,val'
    config.data.csv_eval = 'test'
    config.data.resize = (72, 90)
    config.num_epochs = 40.0
  config.eval.every_epochs = config.num_epochs / 8
  config.checkpoint.every_epochs = config.num_epochs
  config.eval.batch_size = 8
  return config
