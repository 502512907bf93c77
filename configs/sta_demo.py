"""STA fine-tuned in a trained narrow 3D network, on ordered motions.

python -m input_pipeline.synthetic DATA/host --train 80 --eval 80 --seed 100 \\
    --classes grow shrink
python -m input_pipeline.synthetic DATA/all --train 96 --eval 240
python main.py --config=configs/sta_demo.py:host --config.data.root=DATA/host \\
    --workdir=DIR/host
python main.py --config=configs/sta_demo.py:STA --config.data.root=DATA/all \\
    --config.init_from=DIR/host --workdir=DIR/sta
python main.py --config=configs/sta_demo.py:none --config.data.root=DATA/all \\
    --config.init_from=DIR/host --workdir=DIR/none

The paper puts STA into networks that are trained already. Here the host learns
two classes; then all of it but its classifier stays as it is, and one of the
units that the paper compares, by name, learns all eight classes in it, or none
does. `python -m benchmarks.sta` compares them; results: docs/benchmarks.md. A
core, four minutes for each. (Not in the papers.)
"""

from configs import mars_demo
from configs import sta


def get_config(kind='STA'):
  """Returns the configuration.

  Args:
    kind: 'host'; or how it is fine-tuned, one of `sta.UNITS`.

  Raises:
    ValueError: `kind` is another word.
  """
  if kind not in ('host', *sta.UNITS):
    raise ValueError(f'configs/sta_demo.py:{kind} is unknown; write one of '
                     f'host, {", ".join(sta.UNITS)} behind the file name.')
  config = mars_demo.get_config('rgb')
  if kind == 'host':
    config.data.root = 'runs/sta/data/host'
    config.data.flip_pairs = ()
    config.num_epochs = 25.0
  else:
    config.data.root = 'runs/sta/data/all'
    config.init_from = 'runs/sta/host'
    config.freeze = ('backbone',)
    config.num_epochs = 120.0
    config.schedule.warmup_epochs = 1.0
  if kind not in ('host', 'none'):
    sta.set_unit(config, kind, sums=True)
    config.freeze += ('-attention',)
    # One frame is left in the last stage.
    config.model.stages = (1, 2, 3)
    with config.unlocked():
      config.model.options.position = 'after_sum'
      # Sigmoids near a half, one after the other, would silence the host.
      config.model.attention_options.near_identity = True
  config.eval.every_epochs = config.num_epochs
  config.checkpoint.every_epochs = config.num_epochs
  return config
