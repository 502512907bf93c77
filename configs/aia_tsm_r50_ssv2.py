"""TSM ResNet-50 with CinST->STinC on Something-Something V2, 8 frames.

python main.py --config=configs/aia_tsm_r50_ssv2.py --workdir=DIR \\
    --config.data.root=FRAMES --config.init_from=resnet50.pth

The same as configs/aia_something.py:tsm,v2,8, where data, hardware and the
paper's figures are told.
"""

from configs import aia_something


def get_config():
  """Returns the configuration."""
  return aia_something.get_config('tsm,v2,8')
