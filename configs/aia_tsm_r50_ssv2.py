"""TSM ResNet-50 with CinST->STinC on Something-Something V2, 8 frames.

python main.py --config=configs/aia_tsm_r50_ssv2.py --workdir=DIR \\
    --config.data.root=VIDEOS --config.init_from=resnet50.pth

The same as configs/aia_something.py:tsm,v2,8, where the data are told. Hardware
of the paper: 4 GPUs, 8 clips each; its top-1 with one centre clip is 61.7, with
3 crops x 2 clips 63.4.
"""

from configs import aia_something


def get_config():
  """Returns the configuration."""
  return aia_something.get_config('tsm,v2,8')
