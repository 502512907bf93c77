"""R-C3D and S-CNN on THUMOS'14, with and without STA.

python main.py --config=configs/detection.py:rc3d,10 \\
    --config.data.root=THUMOS14 --config.init_from=C3D.pth --workdir=DIR
vidattn detect VIDEO --checkpoint=DIR

The argument names the network and, if it is not STA, the unit: `rc3d,10` or
`rc3d,28` (scales of the anchors: those of the public PyTorch code and of the
authors' Caffe code), `scnn`; behind them `none` and so on. THUMOS14 holds the
annotations of both subsets and the videos, as `vidattn datasets thumos14` wants
them. The videos train that have `validation` in their names, the others
evaluate: 213, or with `--config.eval.thumos14_videos=210` those that count in
many papers.

R-C3D is that of the PyTorch code that the paper cites: C3D pretrained on
Sports-1M, buffers of 768 frames at 25 a second, 171x128, crops of 112. S-CNN
stands on 3D-ResNet-18. It is trained in one run here, both networks at once on
the same windows. In the steps of its paper (30,000, 30,000 and 20,000
iterations) they are three runs, each but the first with `--config.init_from` of
the one before: the proposal network (`--config.freeze=localization
--config.detection.action_above=0.7`), the classification network
(`--config.freeze=proposal --config.detection.overlap_weight=0`) and the
localisation network (`--config.freeze=proposal`). The trimmed videos of UCF101,
which train as well, lie anywhere below THUMOS14, too, and
`--config.detection.more_annotations=ucf101.csv` names a table of them there:

video,start,end,label
v_Billiards_g01_c01,,,Billiards

(no times: all of the video, which gives no background then). Every CliffDiving
segment of THUMOS'14 is a Diving segment, too; windows and proposals of both are
trained as CliffDiving.

The paper's mAP at IoU 0.1 to 0.5 (its figures, not ours; protocol and hardware
not told): S-CNN 45.7 42.9 37.8 27.5 18.4, with STA 46.8 43.9 38.2 28.2 18.7;
R-C3D 55.2 55.1 52.8 45.9 34.8, with STA 56.6 56.4 53.4 47.5 36.8. How S-CNN
draws background, and with what STA's authors fine-tune, is not told: here as
many windows as of actions, half of them at the edge of one.
"""

from configs import common
from configs import sta

_SCALES = {'10': (2, 4, 5, 6, 8, 9, 10, 12, 14, 16),
           '28': tuple(range(2, 57, 2))}


def get_config(arguments='rc3d,10'):
  """Returns the configuration.

  Args:
    arguments: 'rc3d,SCALES' or 'scnn', and perhaps ',UNIT', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  name, *rest = arguments.split(',')
  scales = rest.pop(0) if name == 'rc3d' and rest else ''
  unit = rest.pop(0) if rest else 'STA'
  if rest or unit not in sta.UNITS or (name, scales) not in (
      ('rc3d', '10'), ('rc3d', '28'), ('scnn', '')):
    raise ValueError(
        f'configs/detection.py:{arguments} is unknown; write rc3d,10, rc3d,28 '
        f'or scnn, and perhaps ,UNIT ({", ".join(sta.UNITS)}).')
  config = common.get_config()
  config.model.name = name
  config.data.name = "THUMOS'14"
  config.data.root = 'data/thumos14'
  config.detection.annotations = '.'
  config.detection.train_subset = 'val'
  config.detection.eval_subset = 'test'
  config.data.frames_by = 'time'
  config.data.frame_rate = 25.0
  config.data.resize = (128, 171)
  config.data.crop = 'random'
  config.data.workers = 8
  config.model.crop_size = (112, 112)
  sta.set_unit(config, unit, sums=name == 'scnn')
  config.optimizer.weight_decay = 5e-4
  config.optimizer.clip_norm = 0.0
  config.schedule.learning_rate = 1e-4
  if name == 'rc3d':
    _set_rc3d_recipe(config, _SCALES[scales])
  else:
    _set_scnn_recipe(config)
  return config


def _set_rc3d_recipe(config, scales):
  """Sets what the public PyTorch code trains with."""
  config.model.num_frames = 768
  with config.unlocked():
    config.model.options.scales = scales
    # Proposals that are kept in training and in tests, the overlap at which one
    # suppresses another, and that with an action of those trained as none.
    config.model.options.proposals = (2000, 300)
    config.model.options.proposal_overlap = (0.8, 0.9)
    config.model.options.background = (0.1, 0.5)
  # THUMOS'14 has buffers with 27 actions.
  config.detection.max_segments = 32
  config.freeze = ('backbone/conv1', 'backbone/conv2')
  # C3D's mean; nothing is divided.
  config.data.mean = (102 / 255, 98 / 255, 90 / 255)
  config.data.std = (1 / 255,)
  config.batch_size = 2
  config.num_epochs = 5.0
  config.schedule.milestones = (3.0,)
  config.eval.batch_size = 2
  config.eval.every_epochs = 5.0


def _set_scnn_recipe(config):
  """Sets S-CNN's windows, and its rates and steps."""
  config.model.num_frames = 16
  config.model.dropout = 0.5
  config.data.mean = (114.7748 / 255, 107.7354 / 255, 99.4750 / 255)
  config.data.std = (1 / 255,)
  config.optimizer.head_lr = 100.0
  config.batch_size = 32
  config.num_epochs = 10.0
  config.schedule.milestones = (4.0, 7.0)
  config.eval.batch_size = 128
  config.eval.every_epochs = 10.0
