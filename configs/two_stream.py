"""T-STAM, and TSN without attention, in two streams on UCF101 and HMDB51.

python main.py --config=configs/two_stream.py:tstam,hmdb51,rgb,1 \\
    --config.data.root=VIDEOS --config.init_from=IMAGENET --workdir=DIR/rgb1
vidattn flow VIDEOS --out=FLOW
python main.py --config=configs/two_stream.py:tstam,hmdb51,flow,1 \\
    --config.data.root=VIDEOS --config.data.flow_root=FLOW \\
    --config.init_from=IMAGENET --workdir=DIR/flow1
vidattn fuse DIR/rgb1/eval/SCORES.npz DIR/flow1/eval/SCORES.npz

The argument names the network (tstam; tsn, the baseline; tsn_se, the baseline
with channel attention), the data (ucf101, hmdb51), the stream (rgb, flow) and
the split (1, 2, 3), whose lists `vidattn datasets hmdb51 FOLDER` writes from
the owners' files. IMAGENET is what `vidattn convert bninception.pth
--model=tsn_bninception --out=IMAGENET` wrote; the flow stream takes the mean of
its first kernels over RGB. Without `flow_root` the flow is computed on the
device, in every step.

Ablations of the paper are one key each: `--config.model.num_frames=3` (to 6),
`--config.model.options.num_spatial=1` (to 5),
`--config.model.options.backbone=tsn_bninception` (no channel attention), and
the weights of `vidattn fuse`.

The paper trains on several GPUs, 32 clips a step. It prints differences only
(its figures, not ours): to TSN +0.8 on UCF101 and +2.5 on HMDB51, channel
attention alone +0.2 and +1.3; from other papers' figures T-STAM's accuracies
would be about 95.7 and 71.9. Where it is silent, the recipe is that of TSN.
"""

from configs import common

_NETWORKS = {'tstam': 'tstam', 'tsn': 'tsn_bninception',
             'tsn_se': 'tsn_se_bninception'}
_NUM_CLASSES = {'ucf101': 101, 'hmdb51': 51}
_NAMES = {'ucf101': 'UCF101', 'hmdb51': 'HMDB51'}


def get_config(arguments='tstam,hmdb51,rgb,1'):
  """Returns the configuration.

  Args:
    arguments: 'NETWORK,DATA,STREAM,SPLIT', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  parts = arguments.split(',')
  if (len(parts) != 4 or parts[0] not in _NETWORKS
      or parts[1] not in _NUM_CLASSES or parts[2] not in ('rgb', 'flow')
      or parts[3] not in ('1', '2', '3')):
    raise ValueError(
        f'configs/two_stream.py:{arguments} is unknown; write '
        'NETWORK,DATA,STREAM,SPLIT, such as :tstam,hmdb51,rgb,1 (tstam, tsn or '
        'tsn_se; ucf101 or hmdb51; rgb or flow; 1, 2 or 3).')
  network, data, stream, split = parts
  config = common.get_config()
  config.model.name = _NETWORKS[network]
  config.model.num_classes = _NUM_CLASSES[data]
  # TSN's own number is 3; the paper compares both with equal parameters.
  config.model.num_frames = 6
  with config.unlocked():
    if network == 'tstam':
      set_tstam_options(config)
  config.data.name = f'{_NAMES[data]}, split {split}'
  config.data.root = f'data/{data}'
  config.data.train_list = f'train{split}.txt'
  config.data.eval_list = f'test{split}.txt'
  config.data.classes = 'classes.txt'
  config.data.resize = (240, 320)
  config.data.workers = 8
  config.partial_bn = True
  config.optimizer.weight_decay = 5e-4
  config.schedule.learning_rate = 0.001
  set_stream(config, stream)
  config.num_epochs, config.schedule.milestones = {
      'rgb': (80.0, (30.0, 60.0)), 'flow': (340.0, (190.0, 300.0))}[stream]
  config.eval.every_epochs = 10.0
  # Tests: 25 frames, ten crops. T-STAM averages probabilities, TSN scores.
  config.eval.num_frames = 25
  config.eval.crops = 10
  config.eval.average = 'probabilities' if network == 'tstam' else 'logits'
  config.eval.batch_size = 4
  config.eval.views_per_pass = 2
  return config


def set_tstam_options(config):
  """Writes T-STAM's own options down, so that flags can change them."""
  config.model.options.backbone = 'tsn_se_bninception'
  config.model.options.embed_dim = 256
  config.model.options.num_spatial = 4
  config.model.options.frame_sum = 'invariant'


def set_stream(config, stream):
  """Sets what RGB and flow differ in, but for the schedule.

  Args:
    config: is changed.
    stream: 'rgb' or 'flow'.
  """
  config.data.modality = stream
  if stream == 'rgb':
    # The backbone's weights expect 0 to 255 less a mean, undivided.
    config.data.mean = (128 / 255, 117 / 255, 104 / 255)
    config.data.std = (1 / 255,)
    config.model.dropout = 0.8
    return
  config.data.mean = (128 / 255,)
  config.data.std = (1 / 255,)
  config.data.crop_scales = (1.0, 0.875, 0.75)
  config.model.dropout = 0.7
  config.optimizer.lr_multipliers = (('backbone/conv1_7x7_s2/conv', 5.0),)
