"""Ordered motions: the demo data set, where only order tells the class.

python -m input_pipeline.synthetic runs/demo/data --train 640 --eval 160
python main.py --config=configs/demo.py:plain --workdir=runs/demo/plain
python main.py --config=configs/demo.py:attention --workdir=runs/demo/att

Two CPU cores, about a minute each. A TSN averages the scores of single frames:
it learns which pair of mirrored motions it sees, and guesses the direction. The
same network with attention over time learns both. (AIA, Table I, shows this on
Something-Something V1: TSN 19.7 %, with attention 48.5 %.)
"""

from configs import common

# Classes of the ordered motions that a flip turns into each other.
FLIP_PAIRS = (('slide_left', 'slide_right'),
              ('turn_clockwise', 'turn_anticlockwise'))


def get_config(network='attention'):
  """Returns the configuration.

  Args:
    network: 'plain', or 'attention' for the pair CinST->STinC.

  Raises:
    ValueError: `network` is another word.
  """
  if network not in ('plain', 'attention'):
    raise ValueError(f'configs/demo.py:{network} is unknown; write :plain or '
                     ':attention behind the file name.')
  config = common.get_config()
  config.model.name = 'tsn_r18'
  config.model.width = 0.25
  # Four frames: few enough that a direction shows from one to the next.
  config.model.num_frames = 4
  config.model.crop_size = (56, 56)
  config.model.attention = 'CinST->STinC' if network == 'attention' else ''
  config.model.dropout = 0.0
  config.data.name = 'ordered motions'
  config.data.root = 'runs/demo/data'
  config.data.resize = (60, 80)
  config.data.crop = 'random'
  config.data.flip_pairs = FLIP_PAIRS
  config.data.cache_frames = True
  config.batch_size = 16
  config.num_epochs = 10.0
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.05
  # A gate has 54 weights, whose gradients are small beside a layer's.
  config.optimizer.attention_lr = 5.0
  config.schedule.warmup_epochs = 1.0
  config.eval.every_epochs = 10.0
  config.checkpoint.every_epochs = 10.0
  config.eval.batch_size = 16
  return config
