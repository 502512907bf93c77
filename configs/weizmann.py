"""Weizmann human actions: 10 classes, person-independent, from scratch.

python main.py --config=configs/weizmann.py:attention \\
    --config.data.root=DIR --workdir=runs/weizmann

DIR holds the videos and `annotations.csv`, which you write: path, label, split
(train: daria, denis, eli, ido, ira, lena; test: moshe, shahar). 60 clips train,
20 test. Two CPU cores, a few minutes.
Results and seeds: docs/benchmarks.md. (Not in the papers.)
"""

from configs import common


def get_config(network='attention'):
  """Returns the configuration.

  Args:
    network: 'plain' or 'attention'.

  Raises:
    ValueError: `network` is another word.
  """
  if network not in ('plain', 'attention'):
    raise ValueError(f'configs/weizmann.py:{network} is unknown; write :plain '
                     'or :attention behind the file name.')
  config = common.get_config()
  config.model.name = 'tsn_r18'
  config.model.width = 0.25
  config.model.num_frames = 8
  config.model.crop_size = (64, 80)
  # Gates have few weights, whose gradients are small beside a layer's.
  config.optimizer.attention_lr = 5.0
  config.model.attention = 'CinST->STinC' if network == 'attention' else ''
  config.data.name = 'Weizmann'
  config.data.train_list = 'annotations.csv'
  config.data.csv_split = 'split'
  config.data.csv_train = 'train'
  config.data.csv_eval = 'test'
  config.data.resize = (72, 90)
  config.data.crop_scales = (1.0, 0.875)
  config.data.cache_frames = True
  config.data.sampling = 'dense'
  config.data.dense_span = 32
  config.eval.sampling = 'dense'
  config.eval.clips = 4
  config.batch_size = 12
  config.num_epochs = 60.0
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.05
  config.schedule.warmup_epochs = 3.0
  config.eval.every_epochs = 60.0
  config.checkpoint.every_epochs = 60.0
  config.eval.batch_size = 4
  return config
