"""Attention in Attention on Something-Something V1 and V2 (AIA, Tables I, II).

python main.py --config=configs/aia_something.py:tsm,v2,8 --workdir=DIR \\
    --config.data.root=VIDEOS --config.init_from=resnet50.pth
python main.py --mode=evaluate --workdir=DIR \\
    --config=configs/aia_something.py:tsm,v2,8x3x2 --config.data.root=VIDEOS
vidattn fuse DIR8/eval/stepN_8x2x3.npz DIR12/eval/stepN_12x2x3.npz \\
    DIR16/eval/stepN_16x2x3.npz

Files of scores are named frames x clips x crops, N being the step.

The argument names the network (tsn, tsm), the version of the data (v1, v2) and
the test as the table does, frames x crops x clips: 8, 12 or 16 frames, 1 or 3
crops, 1 or 2 clips (8 alone is 8x1x1; training takes the frames alone). VIDEOS
is where `vidattn datasets something_v2 FOLDER` wrote its lists. Without
attention: --config.model.attention=''.

Hardware of the paper: 4 GPUs, 8 clips each. Top-1 of CinST->STinC in the paper
(its figures, not ours), V1 / V2:
           x1x1         x1x2         x3x2
  TSN  8   48.5 / 60.3  49.5 / 61.3  49.8 / 61.9
  TSN 12   49.0 / 61.2  49.9 / 61.8  50.3 / 62.4
  TSN 16   49.2 / 61.4  50.0 / 62.2  50.5 / 62.7
  TSM  8   49.2 / 61.7  50.2 / 62.7  50.4 / 63.4
  TSM 12   50.9 / 62.5  51.5 / 63.4  52.0 / 64.0
  TSM 16   50.4 / 63.0  51.1 / 64.0  51.6 / 64.3
Fused, x3x2: TSN 8+16 52.9 / 65.0, 8+12+16 53.8 / 65.9; TSM 53.9 / 66.7 and 55.0
/ 67.2. Without attention, 8x1x1: TSN 19.7 / 30.0, TSM 45.6 on V1.
Here 32 clips a step at learning rate 0.01. The paper trains on the centre crop
(--config.data.crop=center), its code on crops of several scales, as here; and
its code swaps left and right in labels when it flips, as here.
"""

from configs import common

MIRRORED = (
    ('Pulling something from left to right',
     'Pulling something from right to left'),
    ('Pushing something from left to right',
     'Pushing something from right to left'),
    ('Turning the camera left while filming something',
     'Turning the camera right while filming something'),
)


def get_config(arguments='tsm,v2,8'):
  """Returns the configuration.

  Args:
    arguments: 'NETWORK,VERSION,TEST', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  network, _, rest = arguments.partition(',')
  version, _, test = rest.partition(',')
  config = common.get_config()
  if not set_recipe(config, network, test) or version not in ('v1', 'v2'):
    raise ValueError(
        f'configs/aia_something.py:{arguments} is unknown; write '
        'NETWORK,VERSION,TEST, such as :tsm,v2,8x3x2 (tsn or tsm; v1 or v2; 8, '
        '12 or 16 frames, x 1 or 3 crops, x 1 or 2 clips).')
  config.model.num_classes = 174
  config.data.name = f'Something-Something {version.upper()}'
  config.data.root = f'data/something-{version}'
  config.data.train_list = 'train.txt'
  config.data.eval_list = 'val.txt'
  config.data.classes = 'classes.txt'
  config.data.frame_template = '{:05d}.jpg' if version == 'v1' else '{:06d}.jpg'
  config.data.resize = (240, 320)
  config.data.flip_pairs = MIRRORED
  return config


def set_recipe(config, network, test):
  """Sets what AIA has on all its data sets.

  Args:
    config: is changed; SGD, rate, epochs and crops of common.py are AIA's.
    network: 'tsn' or 'tsm'.
    test: frames, or frames x crops x clips, such as '8x3x2'.

  Returns:
    whether both are known.
  """
  frames, *views = test.split('x')
  crops, clips = views if len(views) == 2 else ('1', '1')
  if (network not in ('tsn', 'tsm') or frames not in ('8', '12', '16')
      or crops not in ('1', '3') or clips not in ('1', '2')
      or len(views) not in (0, 2)):
    return False
  config.model.name = f'{network}_r50'
  config.model.num_frames = int(frames)
  config.model.attention = 'CinST->STinC'
  config.eval.crops = int(crops)
  config.eval.clips = int(clips)
  config.data.workers = 8
  return True
