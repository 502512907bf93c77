"""Published checkpoint layouts: what each calls the parameters.

A layout is a list of rewrites, applied in order to a parameter's path with
dots for slashes. One direction is written; the other is its inverse over the
parameters that a model has.
"""

import dataclasses
import re

from vidattn_jax.convert import units

# Parts of the names that all layouts share.
_COMMON = (
    (r'\.(kernel|scale)$', '.weight'),
    (r'\.mean$', '.running_mean'),
    (r'\.var$', '.running_var'),
    (r'^(backbone|neck)\.', ''),
    # The last stage of a network with an attention branch.
    (r'^perception\.(?=block)', 'layer4.'),
    (r'^perception\.', ''),
    (r'\.block(\d+)\.', r'.\1.'),
    *units.RULES,
)
_TORCHVISION = (
    *_COMMON,
    (r'\.downsample_conv\.', '.downsample.0.'),
    (r'\.downsample_bn\.', '.downsample.1.'),
    (r'^head', 'fc'),
)
_TSN = (*_TORCHVISION, (r'^(?!fc)', 'base_model.'), (r'^fc', 'new_fc'))
_MMACTION2 = (
    *_COMMON,
    (r'^(?!head)', 'backbone.'),
    (r'\.conv(\d)\.', r'.conv\1.conv.'),
    (r'\.bn(\d)\.', r'.conv\1.bn.'),
    (r'\.downsample_(conv|bn)\.', r'.downsample.\1.'),
    (r'^head', 'cls_head.fc_cls'),
)
_PYTORCHVIDEO = (
    *_COMMON,
    (r'^conv1\.', 'blocks.0.conv.'),
    (r'^bn1\.', 'blocks.0.norm.'),
    *((rf'^(layer\d\.\d+)\.{ours}{number}\.', rf'\1.branch2.{name}_{letter}.')
      for number, letter in enumerate('abc', 1)
      for ours, name in (('conv', 'conv'), ('bn', 'norm'))),
    (r'\.downsample_conv\.', '.branch1_conv.'),
    (r'\.downsample_bn\.', '.branch1_norm.'),
    (r'^layer(\d)\.', r'blocks.\1.res_blocks.'),
    (r'^head', 'blocks.5.proj'),
)
_SLOWFAST = (
    *_COMMON,
    (r'^(conv|bn)1\.', r's1.pathway0_stem.\1.'),
    *((rf'^(layer\d\.\d+)\.{ours}{number}\.', rf'\1.branch2.{letter}{name}.')
      for number, letter in enumerate('abc', 1)
      for ours, name in (('conv', ''), ('bn', '_bn'))),
    (r'\.downsample_conv\.', '.branch1.'),
    (r'\.downsample_bn\.', '.branch1_bn.'),
    *((rf'^layer{stage}\.', f's{stage + 1}.pathway0_res')
      for stage in range(1, 5)),
    (r'^head', 'head.projection'),
)
# R-C3D starts from C3D's first linear layer, too.
_C3D = (*_COMMON, (r'\.conv\.', '.'), (r'^head', 'fc8'), (r'^roi\.fc6', 'fc6'))
# Numbers in a sequence that counts pools and ReLUs, too.
_C3D_NUMBERS = {
    'conv1': 'features.0', 'conv2': 'features.3', 'conv3a': 'features.6',
    'conv3b': 'features.8', 'conv4a': 'features.11', 'conv4b': 'features.13',
    'conv5a': 'features.16', 'conv5b': 'features.18', 'fc6': 'classifier.0',
    'fc7': 'classifier.3', 'fc8': 'classifier.6'}
_C3D_SEQUENCE = (*_C3D, *((rf'^{name}\.', f'{number}.')
                          for name, number in _C3D_NUMBERS.items()))
# The PyTorch code of R-C3D numbers C3D's convolutions as the above.
_RC3D = (
    *_COMMON,
    (r'\.conv\.', '.'),
    *((rf'^{name}\.', number.replace('features', 'RCNN_base') + '.')
      for name, number in _C3D_NUMBERS.items() if name.startswith('conv')),
    (r'^rpn\.conv(\d)', r'RCNN_rpn.RPN_Conv\1'),
    (r'^rpn\.', 'RCNN_rpn.RPN_'),
    (r'^roi\.fc6', 'RCNN_top.0'),
    (r'^roi\.', 'RCNN_'),
)
_P3D = (*_TORCHVISION, (r'^conv1\.', 'conv1_custom.'))
_INCEPTION = (
    *_COMMON,
    (r'^(inception_\w\w)\.(?=\w*(3x3|1x1|pool_proj|se_))', r'\1_'),
    (r'^(\w+)\.conv\.', r'\1.'),
    (r'^(\w+)\.bn\.', r'\1_bn.'),
)
_BNINCEPTION = (*_INCEPTION, (r'^head', 'last_linear'))
_TSN_BNINCEPTION = (*_INCEPTION, (r'^(?!head)', 'base_model.'),
                    (r'^head', 'new_fc'))
# T-STAM was not published; the names are ours.
_TSTAM = (*_INCEPTION, (r'^spatial(\d+)\.', r'spatial.\1.'), (r'^head', 'fc'))
# The published code of ST-ABN.
_ST_ABN_PARTS = {
    'trunk': 'layer_att_common', 'trunk_bn': 'conv_att_common.0',
    'maps_conv': 'conv_att_common.1', 'maps_bn': 'conv_att_common.2',
    'out_conv': 'conv_att_out.0', 'out_fc': 'fc_att_out',
    'spatial_conv': 'conv_spatial_att.0', 'spatial_bn': 'conv_spatial_att.1',
    'temporal_conv': 'conv_temp_att1.0', 'temporal_bn': 'conv_temp_att1.1',
    'temporal_mix': 'conv_temp_att2.0', 'temporal_fc1': 'conv_temp_att3.0',
    'temporal_fc2': 'conv_temp_att3.2'}
_ST_ABN = (
    *_TORCHVISION,
    *((rf'^branch\.{ours}\.', f'{theirs}.')
      for ours, theirs in _ST_ABN_PARTS.items()),
    (r'^mechanism\.conv\.', 'conv_att_mechanism.0.'),
    (r'^mechanism\.bn\.', 'conv_att_mechanism.1.'),
)
# T-CNN and the three branches were not published, either.
_TCNN = (
    *_COMMON,
    (r'^stage1\.0\.', 'stage1.'),
    *((rf'^(stage\d)\.{i}\.', rf'\1.block{i + 1}.') for i in range(7)),
    (r'\.downsample_conv\.', '.proj.'),
    (r'\.downsample_bn\.', '.proj_bn.'),
    (r'^head\.', 'fc.'),
    (r'^head_total\.', 'con_fc.'),
    (r'^sparse\.', ''),
)


@dataclasses.dataclass(frozen=True)
class Layout:
  """One layout.

  Attributes:
    rules: rewrites of a path: (pattern, replacement).
    backbone: class of the backbone whose weights have it.
    prefix: what the published files put before every name.
    net: the first convolution of a shifted block is called `conv1.net`.
    counters: the published files count the batches of every BatchNorm.
    rank: number of axes of the first convolution's kernel.
    bgr: the published weights take blue, green, red.
  """
  rules: tuple[tuple[str, str], ...]
  backbone: str
  prefix: str = ''
  net: bool = False
  counters: bool = True
  rank: int = 4
  bgr: bool = False

  def fits(self, backbone: str) -> bool:
    """Tells whether a backbone takes such weights, or their inflation."""
    return backbone in (self.backbone, _INFLATED.get(self.backbone))


# What a 2D backbone's weights can be inflated for.
_INFLATED = {'ResNet': 'ResNet3D'}

LAYOUTS = {
    # Image classification.
    'torchvision': Layout(_TORCHVISION, 'ResNet'),
    # The authors of TSM; of Attention in Attention, who shift elsewhere.
    'tsn': Layout(_TSN, 'ResNet', 'module.'),
    'tsm': Layout(_TSN, 'ResNet', 'module.', net=True),
    'aia': Layout(_TSN, 'ResNet', 'module.'),
    'mmaction2': Layout(_MMACTION2, 'ResNet', net=True),
    # The authors of 3D-ResNets; of MARS.
    'r3d': Layout(_TORCHVISION, 'ResNet3D', 'module.', counters=False,
                  rank=5),
    'mars': Layout(_TORCHVISION, 'ResNet3D', 'module.', rank=5),
    'pytorchvideo': Layout(_PYTORCHVIDEO, 'ResNet3D', rank=5),
    'slowfast': Layout(_SLOWFAST, 'ResNet3D', rank=5),
    # By the names of the layers, and as a numbered sequence.
    'c3d': Layout(_C3D, 'C3D', rank=5, bgr=True),
    'c3d_sports1m': Layout(_C3D_SEQUENCE, 'C3D', rank=5, bgr=True),
    # The PyTorch code of R-C3D, which reads frames as OpenCV does.
    'rc3d': Layout(_RC3D, 'C3D', rank=5, bgr=True),
    'p3d': Layout(_P3D, 'P3D', counters=False, rank=5),
    # With and without gates; the authors of TSN.
    'bninception': Layout(_BNINCEPTION, 'BNInception', bgr=True),
    'tsn_bninception': Layout(_TSN_BNINCEPTION, 'BNInception', bgr=True),
    'tstam': Layout(_TSTAM, 'BNInception', bgr=True),
    'st_abn': Layout(_ST_ABN, 'ResNet3D', rank=5, bgr=True),
    'tcnn': Layout(_TCNN, 'TCNN', rank=5),
}

# How a name begins that only files of that model have.
_SIGNATURES = {
    'RCNN_': 'R-C3D',
    'layer_att_common.': 'ST-ABN',
    'temporal_score.': 'T-STAM',
    'stage7.block2.': 'tcnn',
    'conv5b.': 'c3d',
    'features.18.': 'c3d',
    'conv1_custom.': 'p3d_199',
    'conv1_7x7_s2.': 'tsn_bninception',
    'base_model.conv1_7x7_s2.': 'tsn_bninception',
    'blocks.5.proj.': 'slow_r50 or slow_r101',
    's1.pathway0_stem.': 'slow_r50 or slow_r101',
}

# Axes of a published weight in the order of ours.
_AXES = {2: (1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}


def torch_name(path: str, layout: Layout) -> str:
  """Returns what a layout calls a parameter, without the prefix and `.net`.

  Args:
    path: path of the leaf below its collection, 'backbone/conv1/kernel'.
    layout: the layout.
  """
  name = path.replace('/', '.')
  for pattern, replacement in layout.rules:
    name = re.sub(pattern, replacement, name)
  return name


def plain_name(name: str) -> str:
  """Strips a published name of what differs between equal files."""
  name = name.removeprefix('module.').replace('.net.', '.')
  return re.sub(r'^base_model\.fc\.', 'new_fc.', name)


def model_of(plain_names) -> str:
  """Returns the model that weights are of, if their names tell; or ''."""
  return next((model for start, model in _SIGNATURES.items()
               if any(name.startswith(start) for name in plain_names)), '')


def axes(path: str, ndim: int) -> tuple[int, ...]:
  """Returns the axes of the published weight in the order of ours.

  Args:
    path: path of the leaf.
    ndim: number of its axes.
  """
  if '/attention/' in path:
    order = units.axes(path)
    if order:
      return order
  return _AXES.get(ndim, tuple(range(ndim)))
