"""ST-ABN and its baselines on Something-Something V2, 32 frames.

python main.py --config=configs/st_abn_ssv2.py:st_abn_r50,32 --workdir=DIR \\
    --config.data.root=VIDEOS --config.init_from=resnet50.pth

VIDEOS is where `vidattn datasets something_v2 FOLDER` wrote its lists. The
argument names the network (slow_r50, slow_r101, the 3D ResNets alone;
st_abn_r50, st_abn_r101) and the frames: 32, one of each of 32 pieces of the
video, or 32x2, every second of a window of 64. A person's knowledge is put back
like this:
python main.py --mode=evaluate --config.eval.collect_attention=True \\
    --config=configs/st_abn_ssv2.py:st_abn_r50,32 --workdir=DIR ...
vidattn edit --workdir=DIR
python main.py --config=configs/st_abn_ssv2.py:st_abn_r50,32,edited ... \\
    --workdir=DIR2 --config.init_from=DIR \\
    --config.data.edits=DIR/attention/edits.jsonl
vidattn compare DIR/eval/BEFORE.npz DIR2/eval/AFTER.npz --edits=DIR

Hardware: eight GPUs, eight clips each. Top-1 / top-5 of the paper (its figures,
not ours):
                32           32x2
  slow_r50      51.4 / 80.1  63.8 / 89.2
  st_abn_r50    58.6 / 85.5  64.1 / 89.6
  slow_r101     57.7 / 82.8  65.3 / 90.1
  st_abn_r101   58.0 / 83.2  65.8 / 90.4
After fine-tuning on edits st_abn_r50, 32: 58.6 to 60.7, the eight edited
classes 20.5 to 26.3, the others 59.8 to 61.7.
"""

from configs import aia_something
from configs import common

_NETWORKS = ('slow_r50', 'slow_r101', 'st_abn_r50', 'st_abn_r101')


def get_config(arguments='st_abn_r50,32'):
  """Returns the configuration.

  Args:
    arguments: 'NETWORK,FRAMES' or 'NETWORK,FRAMES,edited', see above.

  Raises:
    ValueError: an argument is unknown.
  """
  network, frames, *edited = [*arguments.split(','), '']
  if (network not in _NETWORKS or frames not in ('32', '32x2')
      or edited not in ([''], ['edited', ''])
      or (len(edited) > 1 and not network.startswith('st_abn'))):
    raise ValueError(
        f'configs/st_abn_ssv2.py:{arguments} is unknown; write NETWORK,FRAMES, '
        f'such as :st_abn_r50,32 ({", ".join(_NETWORKS)}; 32 or 32x2), and '
        ',edited behind that of an ST-ABN to fine-tune it on edits.')
  config = common.get_config()
  config.model.name = network
  config.model.num_classes = 174
  config.model.num_frames = 32
  config.data.name = 'Something-Something V2'
  config.data.root = 'data/something-v2'
  config.data.train_list = 'train.txt'
  config.data.eval_list = 'val.txt'
  config.data.classes = 'classes.txt'
  config.data.frame_template = '{:06d}.jpg'
  config.data.resize = 256
  config.data.crop = 'random'
  config.data.flip_pairs = aia_something.MIRRORED
  config.data.color_jitter = 0.4
  config.data.workers = 8
  if frames == '32x2':
    config.data.sampling = 'dense'
    config.data.dense_span = 64
    config.eval.sampling = 'dense'
    config.eval.clips = 2
  config.batch_size = 64
  config.num_epochs = 150.0
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4
  config.optimizer.bias_lr = 1.0
  config.schedule.learning_rate = 0.01
  config.schedule.milestones = (75.0, 125.0)
  config.eval.every_epochs = 5.0
  if len(edited) > 1:
    # The extractor stays as it is, its statistics, too. How long the paper
    # fine-tunes is not said.
    config.freeze = ('backbone',)
    config.num_epochs = 10.0
    config.schedule.learning_rate = 1e-4
    config.schedule.milestones = ()
    config.eval.every_epochs = 1.0
  return config
