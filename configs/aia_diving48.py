"""Attention in Attention on Diving48 V2 (AIA, Table III).

python main.py --config=configs/aia_diving48.py:tsm,8 --workdir=DIR \\
    --config.data.root=VIDEOS --config.init_from=resnet50.pth

The argument names the network (tsn, tsm) and the test, frames or frames x crops
x clips, as in configs/aia_something.py. VIDEOS is where `vidattn datasets
diving48 FOLDER` wrote its lists. Without attention:
--config.model.attention=''.

Hardware of the paper: 4 GPUs, 8 clips each; crops and clips of this test are
not told. Top-1 / top-5 in the paper (its figures, not ours), 8 frames: TSN 72.4
/ 96.8, TSM 77.6 / 97.7, with CinST->STinC 79.3 / 97.5 and 79.4 / 97.5.
"""

from configs import aia_something
from configs import common


def get_config(arguments='tsm,8'):
  """Returns the configuration.

  Args:
    arguments: 'NETWORK,TEST', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  network, _, test = arguments.partition(',')
  config = common.get_config()
  if not aia_something.set_recipe(config, network, test):
    raise ValueError(
        f'configs/aia_diving48.py:{arguments} is unknown; write NETWORK,TEST, '
        'such as :tsm,8 or :tsn,16x3x2 (tsn or tsm; 8, 12 or 16 frames, x 1 or '
        '3 crops, x 1 or 2 clips).')
  config.model.num_classes = 48
  config.data.name = 'Diving48 V2'
  config.data.root = 'data/diving48'
  config.data.train_list = 'train.txt'
  config.data.eval_list = 'test.txt'
  config.data.classes = 'classes.txt'
  return config
