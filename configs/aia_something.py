"""Attention in Attention on Something-Something V1 and V2 (AIA, Tables I-IV).

python main.py --config=configs/aia_something.py:tsm,v2,8 --workdir=DIR \\
    --config.data.root=FRAMES --config.data.train_list=train.txt \\
    --config.data.eval_list=val.txt --config.data.classes=classes.txt \\
    --config.init_from=resnet50.pth

The argument names the network (tsn, tsm), the version of the data (v1, v2) and
the frames per clip (8, 12, 16). FRAMES holds one folder of JPEG files for each
video, the lists have lines `folder num_frames label`, and classes.txt has the
174 class names, sorted. Without attention: --config.model.attention=''.

Hardware of the paper: 4 GPUs, 8 clips each. Top-1 of CinST->STinC in the paper
(its figures, not ours), V1 / V2, frames x crops x clips:
          8x1x1        8x3x2        12x3x2       16x3x2       (8+12+16)x3x2
  TSN   48.5 / 60.3  49.8 / 61.9  50.3 / 62.4  50.5 / 62.7    53.8 / 65.9
  TSM   49.2 / 61.7  50.4 / 63.4  52.0 / 64.0  51.6 / 64.3    55.0 / 67.2
Without attention, V1, 8x1x1: TSN 19.7, TSM 45.6.
Here 32 clips a step at learning rate 0.01. Evaluate two clips and three crops
with --config.eval.clips=2 --config.eval.crops=3; fuse runs of 8, 12 and 16
frames with `vidattn fuse`.
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
    arguments: 'NETWORK,VERSION,FRAMES', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  parts = arguments.split(',')
  if (len(parts) != 3 or parts[0] not in ('tsn', 'tsm')
      or parts[1] not in ('v1', 'v2') or parts[2] not in ('8', '12', '16')):
    raise ValueError(
        f'configs/aia_something.py:{arguments} is unknown; write '
        'NETWORK,VERSION,FRAMES, such as :tsm,v2,8 (tsn or tsm; v1 or v2; 8, '
        '12 or 16).')
  network, version, frames = parts
  config = common.get_config()
  config.model.name = f'{network}_r50'
  config.model.num_classes = 174
  config.model.num_frames = int(frames)
  config.model.attention = 'CinST->STinC'
  config.data.name = f'Something-Something {version.upper()}'
  config.data.root = f'data/something-{version}'
  config.data.train_list = 'train.txt'
  config.data.eval_list = 'val.txt'
  config.data.classes = 'classes.txt'
  config.data.frame_template = '{:05d}.jpg' if version == 'v1' else '{:06d}.jpg'
  config.data.resize = (240, 320)
  config.data.flip_pairs = MIRRORED
  config.data.workers = 8
  return config
