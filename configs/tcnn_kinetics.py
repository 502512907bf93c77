"""T-CNN on Kinetics-400, from which the three branches start.

python main.py --config=configs/tcnn_kinetics.py --workdir=DIR \\
    --config.data.root=VIDEOS --config.data.train_list=train.txt \\
    --config.data.eval_list=val.txt

`vidattn datasets kinetics400 FOLDER --partial` writes the lists. Rate, decay,
crop and dropout are those that the paper ("Integrating Temporal and Spatial
Attention for Video Action Recognition") trains the whole with; of this step it
says no more than that it was done, and not on what hardware. Other readings of
its table 1:
--config.model.options.rows=40 (as printed), and kernels and strides, see
vidattn_jax/backbones/tcnn.py.
"""

from configs import common


def get_config():
  """Returns the configuration."""
  config = common.get_config()
  config.model.name = 'tcnn'
  config.model.num_classes = 400
  with config.unlocked():
    config.model.options.rows = 42
    config.model.options.kernel = (1, 3, 3)
    config.model.options.dilated_kernel = (3, 1, 1)
    config.model.options.strides = (2, 2, 2, 2, 2, 1, 1, 1)
  config.data.name = 'Kinetics-400'
  config.data.root = 'data/kinetics400'
  config.data.train_list = 'train.txt'
  config.data.eval_list = 'val.txt'
  config.data.classes = 'classes.txt'
  config.data.workers = 8
  set_recipe(config)
  return config


def set_recipe(config):
  """Sets what the paper says of training and testing, section 3.1."""
  config.model.num_frames = 16
  config.model.crop_size = (224, 224)
  config.model.dropout = 0.5
  # Sixteen consecutive frames.
  config.data.sampling = 'dense'
  config.data.dense_span = 16
  config.data.resize = (256, 342)
  config.data.crop = 'random'
  config.batch_size = 16
  config.num_epochs = 150.0
  config.optimizer.weight_decay = 4e-5
  config.optimizer.bias_lr = 1.0
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.1
  config.schedule.final_learning_rate = 1e-4
  # Ten clips, each cropped on the left, in the middle and on the right.
  config.eval.sampling = 'dense'
  config.eval.clips = 10
  config.eval.crops = 3
  config.eval.average = 'probabilities'
  config.eval.every_epochs = 10.0
  config.eval.batch_size = 4
  config.eval.views_per_pass = 2
