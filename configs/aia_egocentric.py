"""AIA on EGTEA Gaze+ and EPIC-KITCHENS-55 (AIA, Tables IV and V).

python main.py --config=configs/aia_egocentric.py:tsm,egtea1,8 --workdir=DIR \\
    --config.data.root=VIDEOS --config.init_from=resnet50.pth
python main.py --config=configs/aia_egocentric.py:tsm,epic55,8 --workdir=DIR \\
    --config.data.root=VIDEOS --config.init_from=resnet50.pth

The argument names the network (tsn, tsm), the data (egtea1, egtea2, egtea3: its
three splits; epic55) and the test, frames or frames x crops x clips, as in
configs/aia_something.py. VIDEOS is where `vidattn datasets egtea FOLDER` or
`vidattn datasets epic55 FOLDER` wrote its lists. Without attention:
--config.model.attention=''.

EPIC-KITCHENS-55 has two heads, verb and noun, on one network; the sum of both
losses is trained. Its lists are for frames at 60 a second; of MP4 files add
--config.data.csv_unit=seconds. The paper's split is not published; that of
docs/data.md is by participant.

Hardware of the paper: 4 GPUs, 8 clips each; crops and clips of these tests are
not told. Top-1 in the paper (its figures, not ours), 8 frames:
               EGTEA, splits 1 / 2 / 3   EPIC, verb / noun
  TSN          61.6 / 58.5 / 55.2        37.4 / 23.1
  TSM          63.5 / 62.8 / 59.5        48.2 / 22.9
  TSN, AIA     63.7 / 62.1 / 61.5        49.5 / 23.5
  TSM, AIA     64.7 / 63.3 / 62.2        50.2 / 24.3
"""

from configs import aia_something
from configs import common


def get_config(arguments='tsm,egtea1,8'):
  """Returns the configuration.

  Args:
    arguments: 'NETWORK,DATA,TEST', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  network, _, rest = arguments.partition(',')
  data, _, test = rest.partition(',')
  config = common.get_config()
  if not aia_something.set_recipe(config, network, test) or (
      data not in ('egtea1', 'egtea2', 'egtea3', 'epic55')):
    raise ValueError(
        f'configs/aia_egocentric.py:{arguments} is unknown; write '
        'NETWORK,DATA,TEST, such as :tsm,egtea1,8 or :tsn,epic55,8x3x2 (tsn or '
        'tsm; egtea1, egtea2, egtea3 or epic55; 8, 12 or 16 frames, x 1 or 3 '
        'crops, x 1 or 2 clips).')
  if data == 'epic55':
    _set_epic55(config)
    return config
  split = data[-1]
  config.model.num_classes = 106
  config.data.name = f'EGTEA Gaze+, split {split}'
  config.data.root = 'data/egtea'
  config.data.train_list = f'train{split}.txt'
  config.data.eval_list = f'test{split}.txt'
  config.data.classes = 'classes.txt'
  return config


def _set_epic55(config):
  with config.ignore_type():
    config.model.num_classes = {'noun': 352, 'verb': 125}
  with config.unlocked():
    config.data.csv_labels = {'noun': 'noun', 'verb': 'verb'}
    config.data.head_classes = {'noun': 'classes_noun.txt',
                                'verb': 'classes_verb.txt'}
  config.data.name = 'EPIC-KITCHENS-55'
  config.data.root = 'data/epic55'
  config.data.train_list = 'train.csv'
  config.data.eval_list = 'val.csv'
  config.data.csv_start = 'start'
  config.data.csv_stop = 'stop'
  config.data.frame_template = 'frame_{:010d}.jpg'
