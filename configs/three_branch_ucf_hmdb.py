"""T-CNN and sparse attention in three branches, on UCF101 and HMDB51.

python main.py --config=configs/three_branch_ucf_hmdb.py:ucf101,1 \\
    --config.data.root=VIDEOS --config.init_from=KINETICS --workdir=DIR/1
python main.py --mode=evaluate --config.data.resize=224 --config=... (as above)

The argument names the data (ucf101, hmdb51) and the split (1, 2, 3), whose
lists `vidattn datasets ucf101 FOLDER` writes from the owners' files;
`vidattn fuse` takes the weighted mean of the splits. KINETICS is the workdir
of configs/tcnn_kinetics.py. Every evaluation tells the accuracy of each branch
beside that of all; the second command is the paper's test, with a short side of
224.

Ablations of table 4: --config.model.options.branches=O (or O+D, O+C, C+D).
How peaks are parted: --config.model.options.evaluation_phi=extremes (or fixed,
random, all). Another backbone: --config.model.options.backbone=tsm_r50.

Top-1 in the paper (its figures, not ours; hardware not told), UCF101 / HMDB51:
T-CNN alone 95.3 / 73.3, three branches 96.7 / 75.2. Branches of the latter on
UCF101: original 96.2, discriminative 95.6, complementary 94.8. Together without
C 96.3, without D 95.8, without O 96.2.
"""

from configs import common
from configs import tcnn_kinetics

_DATA = {'ucf101': ('UCF101', 101), 'hmdb51': ('HMDB51', 51)}


def get_config(arguments='ucf101,1'):
  """Returns the configuration.

  Args:
    arguments: 'DATA,SPLIT', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  data, _, split = arguments.partition(',')
  if data not in _DATA or split not in ('1', '2', '3'):
    raise ValueError(
        f'configs/three_branch_ucf_hmdb.py:{arguments} is unknown; write '
        'DATA,SPLIT, such as :ucf101,1 (ucf101 or hmdb51; 1, 2 or 3).')
  config = common.get_config()
  name, config.model.num_classes = _DATA[data]
  set_branches(config)
  tcnn_kinetics.set_recipe(config)
  config.data.name = f'{name}, split {split}'
  config.data.root = f'data/{data}'
  config.data.train_list = f'train{split}.txt'
  config.data.eval_list = f'test{split}.txt'
  config.data.classes = 'classes.txt'
  config.data.workers = 8
  return config


def set_branches(config):
  """Chooses the network, and writes its options down for flags to change."""
  config.model.name = 'three_branch'
  with config.unlocked():
    config.model.options.branches = 'O+C+D'
    config.model.options.backbone = 'tcnn'
    config.model.options.training_phi = 'random'
    config.model.options.evaluation_phi = 'fixed'
    config.model.options.delta = 0.2
  # Widths of Gaussians are in cells: their gradient is large, and they are
  # nearly right at the start.
  config.optimizer.width_lr = 1e-3
