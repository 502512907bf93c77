"""MARS, MERS and STA in a narrow 3D network, on few ordered motions.

python -m input_pipeline.synthetic DATA --train 40 --eval 240
python main.py --config=configs/mars_demo.py:flow --config.data.root=DATA \\
    --workdir=DIR/flow
python main.py --config=configs/mars_demo.py:mars --config.data.root=DATA \\
    --config.distill.teacher=DIR/flow --workdir=DIR/mars
python main.py --config=configs/mars_demo.py:rgb --config.data.root=DATA \\
    --workdir=DIR/rgb

The argument is rgb (the plain network), sta (with STA), flow (the teacher,
whose flow is computed in the step), or mars or mers (the plain network and a
teacher). Clips are 16 frames that follow each other. `python -m
benchmarks.mars` compares them; results: docs/benchmarks.md. A CPU, some minutes
for each. (Not in the papers.)
"""

from configs import common
from configs import demo

KINDS = ('rgb', 'sta', 'flow', 'mars', 'mers')


def get_config(kind='rgb'):
  """Returns the configuration.

  Args:
    kind: one of `KINDS`.

  Raises:
    ValueError: `kind` is another word.
  """
  if kind not in KINDS:
    raise ValueError(f'configs/mars_demo.py:{kind} is unknown; write one of '
                     f'{", ".join(KINDS)} behind the file name.')
  config = common.get_config()
  config.model.name = 'r3d_18'
  config.model.width = 0.125
  config.model.num_frames = 16
  config.model.crop_size = (40, 40)
  config.model.dropout = 0.2
  config.data.name = 'ordered motions'
  config.data.root = 'runs/mars/data'
  config.data.sampling = 'dense'
  config.data.dense_span = config.model.num_frames
  config.data.resize = (42, 56)
  config.data.crop = 'random'
  config.data.cache_frames = True
  config.data.flip_pairs = demo.FLIP_PAIRS
  config.data.mean = (0.5,)
  config.data.std = (0.25,)
  if kind == 'flow':
    config.data.modality = 'flow'
    config.data.flow_stack = 1
    # Frames of 56 pixels move by fractions of one.
    config.data.flow_bound = 1.0
  if kind == 'sta':
    # In the last stage one frame is left.
    config.model.attention = 'STA'
    config.model.stages = (2, 3)
  if kind in ('mars', 'mers'):
    config.distill.teacher = 'runs/mars/flow'
    config.distill.how = kind
    # The paper's pull on each feature: there a mean over 2048, here over 64.
    config.distill.weight = 50.0 * 64 / 2048
  config.batch_size = 16
  # Long enough to know the few clips by heart. The teacher learns longer.
  config.num_epochs = 90.0 if kind == 'flow' else 60.0
  config.optimizer.bias_lr = 1.0
  config.optimizer.weight_decay = 5e-4
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.02
  config.schedule.warmup_epochs = 3.0
  config.eval.sampling = 'dense'
  config.eval.clips = 3
  config.eval.batch_size = 8
  config.eval.every_epochs = config.num_epochs
  config.checkpoint.every_epochs = config.num_epochs
  return config
