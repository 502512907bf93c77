"""Two streams on ordered motions, the flow computed in the training step.

python -m input_pipeline.synthetic runs/two_stream/data --train 160 --eval 80
python main.py --config=configs/two_stream_demo.py:rgb \\
    --workdir=runs/two_stream/rgb
python main.py --config=configs/two_stream_demo.py:flow \\
    --workdir=runs/two_stream/flow
vidattn fuse runs/two_stream/rgb/eval/step*.npz \\
    runs/two_stream/flow/eval/step*.npz

A narrow T-STAM from scratch. It weighs frames and forgets their order, so that
the RGB stream guesses directions, which flow shows in every frame. Two CPU
cores, some minutes. Results: docs/benchmarks.md.
"""

from configs import common
from configs import demo
from configs import two_stream_weizmann


def get_config(stream='flow'):
  """Returns the configuration.

  Args:
    stream: 'rgb' or 'flow'.

  Raises:
    ValueError: `stream` is another word.
  """
  if stream not in ('rgb', 'flow'):
    raise ValueError(f'configs/two_stream_demo.py:{stream} is unknown; write '
                     ':rgb or :flow behind the file name.')
  config = common.get_config()
  two_stream_weizmann.set_narrow(config, stream)
  config.model.num_frames = 3
  config.model.crop_size = (56, 56)
  config.data.name = 'ordered motions'
  config.data.root = 'runs/two_stream/data'
  config.data.resize = (60, 80)
  config.data.flip_pairs = demo.FLIP_PAIRS
  # Frames of 80 pixels move little.
  config.data.flow_bound = 5.0
  config.batch_size = 16
  config.num_epochs = 16.0
  config.schedule.learning_rate = 0.02
  config.schedule.warmup_epochs = 1.0
  config.eval.every_epochs = config.num_epochs
  config.checkpoint.every_epochs = config.num_epochs
  config.eval.num_frames = 6
  config.eval.batch_size = 8
  return config
