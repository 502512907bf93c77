"""STA in 3D networks on UCF101 and HMDB51.

python main.py --config=configs/sta.py:resnext101_64f,hmdb51,1 \\
    --config.data.root=VIDEOS --config.init_from=PUBLISHED.pth --workdir=DIR/1
vidattn fuse DIR/1/eval/SCORES.npz --split DIR/2/eval/SCORES.npz \\
    --split DIR/3/eval/SCORES.npz
vidattn compare NONE/1/eval/SCORES.npz DIR/1/eval/SCORES.npz \\
    --lengths=lengths.png

SCORES is the file that the last evaluation printed.

The argument names the network (resnext101_64f, resnext101_16f, resnet18,
resnet152, c3d, p3d199), the data (ucf101, hmdb51), the split (1, 2, 3), whose
lists `vidattn datasets hmdb51 FOLDER` writes from the owners' files, and, if it
is not STA, the unit: none, SA, TA, STC or SENet-3D. PUBLISHED.pth is what the
network's authors published, of Kinetics or Sports-1M; the unit is new then. The
second command takes the mean over the splits, the third draws figure 8.

Ablations of the paper are one key each: the unit, as above (table 7);
`--config.model.stages='(1,)'` (early layers, table 8);
`--config.model.attention_options.deconv=False` (table 9);
`--config.model.num_frames=16` (window, table 10; or resnext101_16f);
`--config.model.attention_options.step_size=2` (figure 7). Where the unit stands
is not told: `--config.model.options.position=after_sum` is the other reading.

Fine-tuning: all is trained. The code of MARS trains the last stage and the
classifier alone:
--config.freeze=backbone/conv1,backbone/bn1,backbone/layer1,backbone/layer2,\\
backbone/layer3
With units in those layers, write `,-attention` behind it, which trains them.
(BatchNorm's statistics stay with what is frozen; in that code they move.)
P3D-199's last stage is two-dimensional, with one frame left, so that STA weighs
channels alone there; `--config.model.stages='(3,)'` is where two are left.
MARS: a network of flow is trained first (`--config.data.modality=flow
--config.data.flow_stack=1 --config.data.mean='(0.5,)'
--config.data.std='(0.00392,)'`, and data.flow_root where flow is stored), then
that of frames with `--config.distill.teacher=DIR_OF_FLOW`; MERS with
`--config.distill.how=mers`, too. The code of MARS takes the mean of the logits
of all streams alike: `vidattn fuse RGB.npz FLOW.npz MARS.npz --logits
--weights 1 1 1`, of evaluations with eval.average=logits.
Tests take all clips that do not overlap, and the mean of probabilities, as
3D-ResNets do; `--config.eval.sampling=consecutive_whole
--config.eval.average=logits` is the test of MARS.

The paper's top-1 (its figures, not ours; hardware not told), UCF101 / HMDB51,
mean of three splits: ResNeXt-101 64f 94.5 / 70.2, with STA 95.5 / 74.1. Split
1: 16f 90.1 / 64.1, with STA 90.7 / 64.6; 64f 94.0 / 71.2, SENet 94.2 / 74.0, SA
94.3 / 74.2, TA 95.0 / 73.9, STA 95.0 / 75.0, in early layers 94.5 / 73.0,
without deconvolution 94.5 / 74.4; C3D 77.4 / 46.7, with STA 78.2 / 48.1;
P3D-199 89.2 / 62.9, with STA 89.8 / 64.3. Its recipe is not told; this is that
of 3D-ResNets and of MARS, and of C3D's authors.
"""

from configs import common

_NETWORKS = {'resnext101_64f': ('resnext3d_101', 64),
             'resnext101_16f': ('resnext3d_101', 16),
             'resnet18': ('r3d_18', 16), 'resnet152': ('r3d_152', 16),
             'c3d': ('c3d', 16), 'p3d199': ('p3d_199', 16)}
_DATA = {'ucf101': ('UCF101', 101), 'hmdb51': ('HMDB51', 51)}
UNITS = ('none', 'STA', 'SA', 'TA', 'STC', 'SENet-3D')


def get_config(arguments='resnext101_64f,hmdb51,1'):
  """Returns the configuration.

  Args:
    arguments: 'NETWORK,DATA,SPLIT' or 'NETWORK,DATA,SPLIT,UNIT', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  network, data, split, unit = [*arguments.split(','), 'STA', '', '', ''][:4]
  if (network not in _NETWORKS or data not in _DATA or unit not in UNITS
      or split not in ('1', '2', '3') or arguments.count(',') > 3):
    raise ValueError(
        f'configs/sta.py:{arguments} is unknown; write NETWORK,DATA,SPLIT or '
        'NETWORK,DATA,SPLIT,UNIT, such as :resnext101_64f,hmdb51,1 '
        f'({", ".join(_NETWORKS)}; ucf101 or hmdb51; 1, 2 or 3; '
        f'{", ".join(UNITS)}).')
  config = common.get_config()
  config.model.name, config.model.num_frames = _NETWORKS[network]
  config.data.name, config.model.num_classes = _DATA[data]
  config.data.name += f', split {split}'
  config.data.root = f'data/{data}'
  config.data.train_list = f'train{split}.txt'
  config.data.eval_list = f'test{split}.txt'
  config.data.classes = 'classes.txt'
  config.data.workers = 8
  # Consecutive frames, as many as a clip has.
  config.data.sampling = 'dense'
  config.data.dense_span = config.model.get_ref('num_frames')
  # A chain of layers has no sums.
  set_unit(config, unit, sums=network != 'c3d')
  set_residual_recipe(config)
  if network == 'c3d':
    _set_c3d_recipe(config)
  elif network == 'p3d199':
    _set_p3d_recipe(config)
  return config


def set_unit(config, unit, sums):
  """Chooses the unit, and writes its options down for flags to change.

  Args:
    config: is changed.
    unit: one of `UNITS`.
    sums: the network adds up in its blocks.
  """
  config.model.attention = '' if unit == 'none' else unit
  with config.unlocked():
    if unit in ('STA', 'SA', 'TA'):
      config.model.attention_options.step_size = 1
      config.model.attention_options.deconv = True
      if sums:
        config.model.options.position = 'before_sum'


def set_residual_recipe(config):
  """Sets what 3D-ResNets and MARS fine-tune and test with."""
  config.model.crop_size = (112, 112)
  config.model.dropout = 0.0
  config.data.resize = 240
  config.data.crop = 'corner'
  config.data.crop_scales = tuple(2 ** (-k / 4) for k in range(5))
  # Kinetics' mean on 0 to 255, nothing divided.
  config.data.mean = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255)
  config.data.std = (1 / 255,)
  config.batch_size = 128
  config.num_epochs = 100.0
  config.optimizer.dampening = 0.9
  config.optimizer.weight_decay = 1e-5
  config.optimizer.bias_lr = 1.0
  config.optimizer.clip_norm = 0.0
  config.schedule.learning_rate = 0.001
  config.schedule.name = 'plateau'
  config.schedule.patience = 10
  config.eval.resize = 112
  config.eval.sampling = 'consecutive'
  config.eval.clips = 8
  config.eval.average = 'probabilities'


def _set_c3d_recipe(config):
  """Sets what C3D's authors fine-tune with."""
  config.model.dropout = 0.5
  config.data.resize = config.eval.resize = (128, 171)
  config.data.crop = 'random'
  config.data.mean = (102 / 255, 98 / 255, 90 / 255)
  config.batch_size = 32
  config.num_epochs = 40.0
  config.optimizer.dampening = 0.0
  config.optimizer.weight_decay = 5e-4
  config.optimizer.head_lr = 10.0
  config.schedule.name = 'step'
  config.schedule.milestones = (10.0, 20.0, 30.0)


def _set_p3d_recipe(config):
  """Sets the pixels that P3D-199 is published for."""
  config.model.crop_size = (160, 160)
  config.data.mean = (0.485, 0.456, 0.406)
  config.data.std = (0.229, 0.224, 0.225)
  # The size before the crop is not told.
  config.data.resize = config.eval.resize = (182, 242)
  config.data.crop = 'random'
