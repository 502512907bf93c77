"""Your own clips, from a folder with one folder of videos for each class.

python main.py --config=configs/own_videos.py --config.data.root=DIR \\
    --workdir=runs/own

DIR holds `<class>/<video>`; a fifth of each class is held out. Or it holds
`train/<class>/<video>` and `val/<class>/<video>`. For lists and CSV files see
`data` in configs/common.py.

A small TSM that trains from scratch on a CPU. On a GPU take
--config.model.name=tsm_r50 --config.model.width=1 --config.data.resize=256
--config.model.crop_size=224,224, and start from published weights with
--config.init_from=FILE.pth.
"""

from configs import common


def get_config():
  """Returns the configuration."""
  config = common.get_config()
  config.model.name = 'tsm_r18'
  config.model.width = 0.5
  config.model.crop_size = (112, 112)
  config.model.attention = 'C'
  config.data.name = 'own videos'
  config.data.resize = 128
  config.batch_size = 8
  config.num_epochs = 30.0
  config.schedule.name = 'cosine'
  config.schedule.warmup_epochs = 1.0
  config.eval.every_epochs = 5.0
  config.checkpoint.every_epochs = 1.0
  return config
