"""The networks in PyTorch, to check conversions and to measure beside them.

Written from the published layers; parameters have the published names. After a
call, `stages` are the outputs of the network's stages, channels first.
"""

import torch
from torch import nn
import torch.nn.functional as F  # noqa: N812

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
          101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 199: (3, 8, 36, 3)}


def _conv3d(cin, cout, size, stride=1, groups=1):
  size = (size,) * 3 if isinstance(size, int) else size
  return nn.Conv3d(cin, cout, size, stride, tuple(k // 2 for k in size),
                   groups=groups, bias=False)


def _conv2d(cin, cout, size, stride=1):
  return nn.Conv2d(cin, cout, size, stride, size // 2, bias=False)


def _shift(x, frames):
  """Shifts an eighth of the channels of [N * T, C, H, W] each way in time."""
  x = x.view(-1, frames, *x.shape[1:])
  fold = x.shape[2] // 8
  left = F.pad(x[:, 1:, :fold], (0, 0) * 3 + (0, 1))
  right = F.pad(x[:, :-1, fold:2 * fold], (0, 0) * 3 + (1, 0))
  return torch.cat([left, right, x[:, :, 2 * fold:]], 2).flatten(0, 1)


class Block(nn.Module):
  """Residual block, basic or bottleneck, of 2D or 3D convolutions."""

  def __init__(self, conv, norm, cin, width, out, stride, groups=1,
               shortcut='B', shift=0):
    super().__init__()
    self.shift, self.stride, self.out = shift, stride, out
    self.units, self.position = (), ''
    self.parallel, self.frames = False, 0
    self.bottleneck = out != width
    grouped = {'groups': groups} if groups > 1 else {}
    if self.bottleneck:
      self.conv1, self.bn1 = conv(cin, width, 1), norm(width)
      self.conv2 = conv(width, width, 3, stride, **grouped)
      self.bn2 = norm(width)
      self.conv3, self.bn3 = conv(width, out, 1), norm(out)
    else:
      self.conv1, self.bn1 = conv(cin, width, 3, stride), norm(width)
      self.conv2, self.bn2 = conv(width, out, 3), norm(out)
    changed = stride != 1 or cin != out
    self.pad = changed and shortcut == 'A'
    if changed and shortcut == 'B':
      self.downsample = nn.Sequential(conv(cin, out, 1, stride), norm(out))

  def attend(self, x, position):
    """Applies the attention units that stand at a position."""
    if not self.units or position != self.position:
      return x
    return attend(x, [getattr(self, name) for name in self.units],
                  self.parallel, self.frames)

  def forward(self, x):
    y = _shift(x, self.shift) if self.shift else x
    y = F.relu(self.bn1(self.conv1(y)))
    y = self.attend(self.bn2(self.conv2(y)), 'bn2')
    if self.bottleneck:
      y = self.bn3(self.conv3(F.relu(y)))
    y = self.attend(y, 'before_sum')
    if hasattr(self, 'downsample'):
      x = self.downsample(x)
    elif self.pad:
      x = F.avg_pool3d(x, 1, self.stride)
      x = F.pad(x, (0, 0) * 3 + (0, self.out - x.shape[1]))
    return self.attend(F.relu(x + y), 'after_sum')


def attend(x, units, parallel, frames):
  """Applies attention units to [N, C, T, H, W], or to frames of clips.

  Args:
    x: features; frames as a batch, [N * T, C, H, W], where `frames` is set.
    units: modules, one after the other.
    parallel: take the mean of theirs instead.
    frames: T, or 0.
  """
  if frames:
    x = x.unflatten(0, (-1, frames)).transpose(1, 2)
  if parallel:
    x = sum(unit(x) for unit in units) / len(units)
  else:
    for unit in units:
      x = unit(x)
  return x.transpose(1, 2).flatten(0, 1) if frames else x


def _run(module, x):
  """Runs the four stages of a network, and notes what each returns."""
  module.stages = []
  for i in range(1, 5):
    x = getattr(module, f'layer{i}')(x)
    module.stages.append(x)
  return x


def _stages(module, block, depths):
  for i, depth in enumerate(depths):
    setattr(module, f'layer{i + 1}',
            nn.Sequential(*[block(i, j) for j in range(depth)]))


class FrameResNet(nn.Module):
  """2D ResNet over frames (TSN), with shift (TSM); logits averaged."""

  def __init__(self, depth, classes, shifted_frames=0):
    super().__init__()
    expansion = 4 if depth >= 50 else 1
    every = 2 if depth == 101 else 1
    self.conv1, self.bn1 = _conv2d(3, 64, 7, 2), nn.BatchNorm2d(64)
    cin = 64

    def block(i, j):
      nonlocal cin
      width = 64 * 2 ** i
      made = Block(_conv2d, nn.BatchNorm2d, cin, width, expansion * width,
                   2 if i and not j else 1,
                   shift=shifted_frames if j % every == 0 else 0)
      cin = expansion * width
      return made

    _stages(self, block, DEPTHS[depth])
    self.fc = nn.Linear(cin, classes)

  def forward(self, x):
    n = x.shape[0]
    x = F.relu(self.bn1(self.conv1(x.transpose(1, 2).flatten(0, 1))))
    x = F.max_pool2d(x, 3, 2, 1)
    x = _run(self, x)
    return self.fc(x.mean((2, 3))).unflatten(0, (n, -1)).mean(1)


class ResNet3D(nn.Module):
  """3D ResNet and ResNeXt of Hara et al."""

  def __init__(self, depth, classes, groups=1, shortcut='B'):
    super().__init__()
    expansion = 2 if groups > 1 else 4 if depth >= 50 else 1
    self.conv1 = _conv3d(3, 64, 7, (1, 2, 2))
    self.bn1 = nn.BatchNorm3d(64)
    cin = 64

    def block(i, j):
      nonlocal cin
      width = (128 if groups > 1 else 64) * 2 ** i
      made = Block(_conv3d, nn.BatchNorm3d, cin, width, expansion * width,
                   2 if i and not j else 1, groups, shortcut)
      cin = expansion * width
      return made

    _stages(self, block, DEPTHS[depth])
    self.fc = nn.Linear(cin, classes)

  def forward(self, x):
    x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    x = _run(self, x)
    return self.fc(x.mean((2, 3, 4)))


class _SlowBlock(nn.Module):

  def __init__(self, cin, width, stride, frames):
    super().__init__()
    out = 4 * width
    if cin != out or stride != 1:
      self.branch1 = _conv3d(cin, out, 1, (1, stride, stride))
      self.branch1_bn = nn.BatchNorm3d(out)
    self.branch2 = nn.ModuleDict({
        'a': _conv3d(cin, width, (frames, 1, 1)),
        'a_bn': nn.BatchNorm3d(width),
        'b': _conv3d(width, width, (1, 3, 3), (1, stride, stride)),
        'b_bn': nn.BatchNorm3d(width),
        'c': _conv3d(width, out, 1),
        'c_bn': nn.BatchNorm3d(out)})

  def forward(self, x):
    m = self.branch2
    y = F.relu(m['a_bn'](m['a'](x)))
    y = m['c_bn'](m['c'](F.relu(m['b_bn'](m['b'](y)))))
    if hasattr(self, 'branch1'):
      x = self.branch1_bn(self.branch1(x))
    return F.relu(x + y)


class Slow(nn.Module):
  """Slow pathway of SlowFast, with the names of its authors' code."""

  def __init__(self, depth, classes):
    super().__init__()
    self.s1 = nn.ModuleDict({'pathway0_stem': nn.ModuleDict({
        'conv': _conv3d(3, 64, (1, 7, 7), (1, 2, 2)),
        'bn': nn.BatchNorm3d(64)})})
    cin = 64
    for i, blocks in enumerate(DEPTHS[depth]):
      stage, width = nn.Sequential(), 64 * 2 ** i
      for j in range(blocks):
        stage.add_module(f'pathway0_res{j}', _SlowBlock(
            cin, width, 2 if i and not j else 1, 3 if i > 1 else 1))
        cin = 4 * width
      setattr(self, f's{i + 2}', stage)
    self.head = nn.ModuleDict({'projection': nn.Linear(cin, classes)})

  def forward(self, x):
    stem = self.s1['pathway0_stem']
    x = F.relu(stem['bn'](stem['conv'](x)))
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    self.stages = []
    for stage in (self.s2, self.s3, self.s4, self.s5):
      x = stage(x)
      self.stages.append(x)
    return self.head['projection'](x.mean((2, 3, 4)))


class C3D(nn.Module):
  """C3D of Tran et al."""

  CONVS = (('1', 3, 64), ('2', 64, 128), ('3a', 128, 256), ('3b', 256, 256),
           ('4a', 256, 512), ('4b', 512, 512), ('5a', 512, 512),
           ('5b', 512, 512))

  def __init__(self, classes):
    super().__init__()
    for name, cin, cout in self.CONVS:
      setattr(self, f'conv{name}', nn.Conv3d(cin, cout, 3, padding=1))
    self.fc6 = nn.Linear(8192, 4096)
    self.fc7 = nn.Linear(4096, 4096)
    self.fc8 = nn.Linear(4096, classes)

  def forward(self, x):
    self.stages = []
    for name, _, _ in self.CONVS:
      x = F.relu(getattr(self, f'conv{name}')(x))
      if not name.endswith('a'):
        self.stages.append(x)
      if name == '1':
        x = F.max_pool3d(x, (1, 2, 2), (1, 2, 2))
      elif name == '5b':
        x = F.max_pool3d(x, 2, 2, (0, 1, 1))
      elif not name.endswith('a'):
        x = F.max_pool3d(x, 2, 2)
    return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x.flatten(1))))))


class _P3DBlock(nn.Module):

  def __init__(self, cin, width, stride, kind):
    super().__init__()
    self.kind = kind
    flat = kind is None
    conv = _conv2d if flat else _conv3d
    norm = nn.BatchNorm2d if flat else nn.BatchNorm3d
    strides = stride if flat else (1, stride, stride)
    self.conv1, self.bn1 = conv(cin, width, 1, strides), norm(width)
    if flat:
      self.conv_normal, self.bn_normal = conv(width, width, 3), norm(width)
    else:
      self.conv2, self.bn2 = _conv3d(width, width, (1, 3, 3)), norm(width)
      self.conv3, self.bn3 = _conv3d(width, width, (3, 1, 1)), norm(width)
    self.conv4, self.bn4 = conv(width, 4 * width, 1), norm(4 * width)
    if cin != 4 * width:
      self.downsample = nn.Sequential(conv(cin, 4 * width, 1, strides),
                                      norm(4 * width))

  def forward(self, x):
    y = F.relu(self.bn1(self.conv1(x)))
    if self.kind is None:
      y = F.relu(self.bn_normal(self.conv_normal(y)))
    else:
      s = F.relu(self.bn2(self.conv2(y)))
      t = F.relu(self.bn3(self.conv3(y if self.kind == 'B' else s)))
      y = t if self.kind == 'A' else s + t
    y = self.bn4(self.conv4(y))
    if hasattr(self, 'downsample'):
      x = self.downsample(x)
    return F.relu(x + y)


class P3D(nn.Module):
  """P3D-199 of Qiu et al.; the last stage is 2D."""

  def __init__(self, classes):
    super().__init__()
    self.conv1_custom = _conv3d(3, 64, (1, 7, 7), (1, 2, 2))
    self.bn1 = nn.BatchNorm3d(64)
    cin, count = 64, 0

    def block(i, j):
      nonlocal cin, count
      made = _P3DBlock(cin, 64 * 2 ** i, 2 if i and not j else 1,
                       None if i == 3 else 'ABC'[count % 3])
      cin, count = 256 * 2 ** i, count + 1
      return made

    _stages(self, block, DEPTHS[199])
    self.fc = nn.Linear(cin, classes)

  def forward(self, x):
    x = F.relu(self.bn1(self.conv1_custom(x)))
    x = F.max_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
    self.stages = []
    for stage in (self.layer1, self.layer2, self.layer3):
      x = stage(x)
      self.stages.append(x)
      x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
    x = self.layer4(x.squeeze(2))
    self.stages.append(x.unsqueeze(2))
    return self.fc(x.mean((2, 3)))


# Channels of each inception module: 1x1; reduced, 3x3; reduced, twice 3x3;
# the pool's projection. None: no such branch, and stride 2.
_INCEPTION = {
    '3a': (64, 64, 64, 64, 96, 32), '3b': (64, 64, 96, 64, 96, 64),
    '3c': (None, 128, 160, 64, 96, None),
    '4a': (224, 64, 96, 96, 128, 128), '4b': (192, 96, 128, 96, 128, 128),
    '4c': (160, 128, 160, 128, 160, 128), '4d': (96, 128, 192, 160, 192, 128),
    '4e': (None, 128, 192, 192, 256, None),
    '5a': (352, 192, 320, 160, 224, 128), '5b': (352, 192, 320, 192, 224, 128)}


class BNInception(nn.Module):
  """BN-Inception over frames, optionally with gates; logits averaged."""

  def __init__(self, classes, gated=False):
    super().__init__()
    self.gated = gated
    self._add('conv1_7x7_s2', 3, 64, 7)
    self._add('conv2_3x3_reduce', 64, 64, 1)
    self._add('conv2_3x3', 64, 192, 3)
    cin = 192
    for name, (one, r3, three, rd, double, pool) in _INCEPTION.items():
      part = f'inception_{name}_'
      if one:
        self._add(part + '1x1', cin, one, 1)
        self._add(part + 'pool_proj', cin, pool, 1)
      self._add(part + '3x3_reduce', cin, r3, 1)
      self._add(part + '3x3', r3, three, 3)
      self._add(part + 'double_3x3_reduce', cin, rd, 1)
      self._add(part + 'double_3x3_1', rd, double, 3)
      self._add(part + 'double_3x3_2', double, double, 3)
      cin = (one or 0) + three + double + (pool or cin)
      if gated:
        setattr(self, part + 'se_down', nn.Conv2d(cin, cin // 16, 1))
        setattr(self, part + 'se_up', nn.Conv2d(cin // 16, cin, 1))
    self.last_linear = nn.Linear(cin, classes)

  def _add(self, name, cin, cout, size):
    setattr(self, name, nn.Conv2d(cin, cout, size, padding=size // 2))
    setattr(self, name + '_bn', nn.BatchNorm2d(cout))

  def _run(self, name, x, stride=1):
    conv = getattr(self, name)
    x = F.conv2d(x, conv.weight, conv.bias, stride, conv.padding)
    return F.relu(getattr(self, name + '_bn')(x))

  def _module(self, name, x):
    part, stride = f'inception_{name}_', 1 if _INCEPTION[name][0] else 2
    y = self._run(part + '3x3', self._run(part + '3x3_reduce', x), stride)
    z = self._run(part + 'double_3x3_reduce', x)
    z = self._run(part + 'double_3x3_1', z)
    z = self._run(part + 'double_3x3_2', z, stride)
    if stride == 2:
      x = torch.cat([y, z, F.max_pool2d(x, 3, 2, ceil_mode=True)], 1)
    else:
      pooled = (F.max_pool2d if name == '5b' else F.avg_pool2d)(x, 3, 1, 1)
      x = torch.cat([self._run(part + '1x1', x), y, z,
                     self._run(part + 'pool_proj', pooled)], 1)
    if self.gated:
      gate = F.relu(getattr(self, part + 'se_down')(
          x.mean((2, 3), keepdim=True)))
      x = x * torch.sigmoid(getattr(self, part + 'se_up')(gate))
    return x

  def forward(self, x):
    n = x.shape[0]
    x = self._run('conv1_7x7_s2', x.transpose(1, 2).flatten(0, 1), 2)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    x = self._run('conv2_3x3', self._run('conv2_3x3_reduce', x))
    self.stages = [x]
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for name in _INCEPTION:
      x = self._module(name, x)
      if name in ('3b', '4d', '5b'):
        self.stages.append(x)
    return self.classify(x.unflatten(0, (n, -1)))

  def classify(self, x):
    """Returns logits of the features [N, T, C, h, w] of the frames."""
    return self.last_linear(x.mean((3, 4))).mean(1)


class _SpatialAttention(nn.Module):

  def __init__(self, width):
    super().__init__()
    self.conv1 = nn.Conv2d(width, width // 2, 1)
    self.bn1 = nn.BatchNorm2d(width // 2)
    self.conv2 = nn.Conv2d(width // 2, 1, 5, padding=2)
    self.bn2 = nn.BatchNorm2d(1)

  def forward(self, x):
    y = self.bn2(self.conv2(torch.tanh(self.bn1(self.conv1(x)))))
    return torch.softmax(y.flatten(1), 1).view_as(y)


class TSTAM(BNInception):
  """T-STAM on BN-Inception with gates; for clips as long as in training."""

  def __init__(self, classes, embed=256, branches=4):
    super().__init__(classes, gated=True)
    width = self.last_linear.in_features
    del self.last_linear
    self.embed = nn.Conv2d(width, embed, 1)
    self.temporal_score = nn.Linear(embed, 1)
    self.spatial = nn.ModuleList(
        [_SpatialAttention(width) for _ in range(branches)])
    self.fc = nn.Linear(embed * branches, classes)

  def classify(self, x):
    n, frames = x.shape[0], x.flatten(0, 1)
    places = self.embed(frames)
    of_frames = places.mean((2, 3)).unflatten(0, (n, -1))
    weights = torch.softmax(self.temporal_score(of_frames), 1)
    temporal = (weights * of_frames).sum(1)
    spatial = [(attend(frames) * places).sum((2, 3)).unflatten(
        0, (n, -1)).sum(1) for attend in self.spatial]
    return self.fc(torch.cat([temporal + s for s in spatial], 1))


def _slow_block(cin, width, stride, frames):
  """Makes a block of the slow pathway with the names of 3D-ResNets."""
  block = Block(_conv3d, nn.BatchNorm3d, cin, width, 4 * width,
                (1, stride, stride))
  if stride == 1 and cin == 4 * width:
    del block.downsample
  block.conv1 = _conv3d(cin, width, (frames, 1, 1))
  block.conv2 = _conv3d(width, width, (1, 3, 3), (1, stride, stride))
  return block


class STABN(nn.Module):
  """ST-ABN on the slow pathway, with the names of the public code."""

  def __init__(self, depth, classes, frames):
    super().__init__()
    self.conv1 = _conv3d(3, 64, (1, 7, 7), (1, 2, 2))
    self.bn1 = nn.BatchNorm3d(64)
    cin = 64
    for i, blocks in enumerate(DEPTHS[depth]):
      stage, width = [], 64 * 2 ** i
      for j in range(blocks):
        stage.append(_slow_block(cin, width, 2 if i and not j else 1,
                                 3 if i > 1 else 1))
        cin = 4 * width
      setattr(self, f'layer{i + 1}', nn.Sequential(*stage))
    self.fc = nn.Linear(cin, classes)
    self.layer_att_common = nn.Sequential(
        *[_slow_block(c, 512, 1, 3) for c in (1024, 2048, 2048)])
    norm = nn.BatchNorm3d
    self.conv_att_common = nn.Sequential(
        norm(2048), _conv3d(2048, classes, 1), norm(classes), nn.ReLU())
    self.conv_att_out = nn.Sequential(_conv3d(classes, classes, 1))
    self.fc_att_out = nn.Linear(classes * frames, classes)
    self.conv_spatial_att = nn.Sequential(_conv3d(classes, 1, 1), norm(1),
                                          nn.Sigmoid())
    self.conv_temp_att1 = nn.Sequential(_conv3d(classes, 1, 3), norm(1),
                                        nn.ReLU())
    self.conv_temp_att2 = nn.Sequential(_conv2d(frames, frames, 1), nn.ReLU())
    self.conv_temp_att3 = nn.Sequential(
        nn.Linear(frames, frames), nn.ReLU(), nn.Linear(frames, frames),
        nn.Sigmoid())
    self.conv_att_mechanism = nn.Sequential(_conv3d(2048, 1024, 1), norm(1024))

  def forward(self, x):
    x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), (1, 3, 3), (1, 2, 2),
                     (0, 1, 1))
    self.stages = []
    for stage in (self.layer1, self.layer2, self.layer3):
      x = stage(x)
      self.stages.append(x)
    maps = self.conv_att_common(self.layer_att_common(x))
    self.attention_logits = self.fc_att_out(
        self.conv_att_out(maps).mean((3, 4)).flatten(1))
    spatial = self.conv_spatial_att(maps)
    temporal = self.conv_temp_att3(self.conv_temp_att2(
        self.conv_temp_att1(maps)[:, 0]).mean((2, 3)))
    x = self.conv_att_mechanism(torch.cat(
        [(1 + spatial) * x, temporal[:, None, :, None, None] * x], 1))
    x = self.layer4(x)
    self.stages.append(x)
    return self.fc(x.mean((2, 3, 4)))


def build(name, num_classes, num_frames=8, channels=3, shortcut=None):
  """Builds the network that a name of `get_model` stands for.

  Args:
    name: the name.
    num_classes: number of classes.
    num_frames: frames of a clip, which a shift has to know.
    channels: of a frame.
    shortcut: of 3D-ResNets, 'A' or 'B'; as released unless given.

  Returns:
    (the network, the layout of `convert.LAYOUTS` that its names follow).

  Raises:
    KeyError: there is none by that name here.
  """
  family, _, depth = name.rpartition('_')
  depth = depth.removeprefix('r')
  if family in ('tsn', 'tsm') and depth.isdigit():
    network = FrameResNet(int(depth), num_classes,
                          num_frames if family == 'tsm' else 0)
    layout = 'torchvision'
  elif family in ('r3d', 'resnext3d'):
    # The released networks of 18 and 34 layers have no projections.
    shortcut = shortcut or ('A' if int(depth) < 50 else 'B')
    network = ResNet3D(int(depth), num_classes,
                       32 if family == 'resnext3d' else 1, shortcut)
    layout = 'r3d'
  elif family == 'slow':
    network, layout = Slow(int(depth), num_classes), 'slowfast'
  elif family == 'st_abn':
    network, layout = STABN(int(depth), num_classes, num_frames), 'st_abn'
  elif name == 'tstam':
    network, layout = TSTAM(num_classes), 'tstam'
  elif name in ('tsn_bninception', 'tsn_se_bninception'):
    network, layout = BNInception(num_classes, '_se_' in name), 'bninception'
  else:
    network, layout = {'c3d': (C3D, 'c3d'), 'p3d_199': (P3D, 'p3d')}[name]
    network = network(num_classes)
  if channels != 3:
    path, first = next((p, m) for p, m in network.named_modules()
                       if isinstance(m, (nn.Conv2d, nn.Conv3d)))
    parent, _, leaf = path.rpartition('.')
    other = type(first)(channels, first.out_channels, first.kernel_size,
                        first.stride, first.padding,
                        bias=first.bias is not None)
    setattr(network.get_submodule(parent), leaf, other)
  return network, layout
