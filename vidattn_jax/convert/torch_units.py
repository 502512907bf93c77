"""The attention units in PyTorch, for checking a conversion.

Written from the papers' formulas; parameters have the published names where
there are any. Each takes and returns [N, C, T, H, W].
"""

import torch
from torch import nn
import torch.nn.functional as F  # noqa: N812

# The axis of [N, C, T, H, W] that a gate of "Attention in Attention" pools
# away, and the order of the others that its convolution sees.
_POOLED = {'C': (1, (2, 3, 4)), 'T': (2, (1, 3, 4)), 'H': (3, (2, 1, 4)),
           'W': (4, (2, 3, 1))}


class AIA(nn.Module):
  """C, ST, CinST and STinC."""

  def __init__(self, kind):
    super().__init__()
    self.kind = kind
    gates = {'C': 'C', 'ST': 'THW'}.get(kind, 'CTHW')
    for gate in gates:
      setattr(self, f'{gate}_conv', nn.Conv3d(2, 1, 3, padding=1, bias=False))
      setattr(self, f'{gate}_bn', nn.BatchNorm3d(1))

  def _gate(self, name, x):
    axis, order = _POOLED[name]
    x = x.permute(0, axis, *order)
    # Not `amax`, whose gradient goes to all that are equal.
    planes = torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], 1)
    gate = torch.sigmoid(getattr(self, f'{name}_bn')(
        getattr(self, f'{name}_conv')(planes)))
    back = [0] * 5
    for place, a in enumerate((0, axis, *order)):
      back[a] = place
    return gate.permute(back)

  def _gates(self, names, x):
    return sum(self._gate(name, x) for name in names) / len(names)

  def forward(self, x):
    if self.kind == 'C':
      return x * self._gates('C', x)
    if self.kind == 'ST':
      return x * self._gates('THW', x)
    first, last = ('C', 'THW') if self.kind == 'CinST' else ('THW', 'C')
    return x * self._gates(last, x * self._gates(first, x))


class Gate(nn.Module):
  """SE3D, SENet-3D, GE3D, S3D-G and CBAM3D."""

  def __init__(self, kind, width, reduction=16):
    super().__init__()
    self.kind = kind
    biased = kind in ('SENet-3D', 'CBAM3D177', 'CBAM3D377')
    if biased or kind == 'SE3D':
      self.fc1 = nn.Linear(width, width // reduction, bias=biased)
      self.fc2 = nn.Linear(width // reduction, width, bias=biased)
    if kind.startswith('GE3D-DW'):
      time = int(kind[-3])
      for i in (1, 2, 3):
        setattr(self, f'conv{i}', nn.Conv3d(
            width, width, (time, 3, 3), (1, 2, 2), (time // 2, 1, 1),
            groups=width, bias=False))
        setattr(self, f'bn{i}', nn.BatchNorm3d(width))
    if kind == 'S3D-G':
      self.fc = nn.Linear(width, width)
    if kind.startswith('CBAM3D'):
      size = tuple(map(int, kind[-3:]))
      self.conv = nn.Conv3d(2, 1, size, padding=tuple(k // 2 for k in size),
                            bias=False)
      self.bn = nn.BatchNorm3d(1)

  def _excite(self, pooled):
    return self.fc2(F.relu(self.fc1(pooled)))

  def forward(self, x):
    mean = x.mean((2, 3, 4))
    if self.kind.startswith('GE3D-DW'):
      y = F.relu(self.bn1(self.conv1(x)))
      y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
      return x * torch.sigmoid(F.interpolate(y, x.shape[2:]))
    if self.kind.startswith('CBAM3D'):
      gate = self._excite(mean) + self._excite(x.flatten(2).max(2)[0])
      x = x * torch.sigmoid(gate)[:, :, None, None, None]
      planes = torch.cat([x.max(1, True)[0], x.mean(1, True)], 1)
      return x * torch.sigmoid(self.bn(self.conv(planes)))
    gate = {'GE3D-G': lambda m: m, 'S3D-G': getattr(self, 'fc', None)}.get(
        self.kind, self._excite)(mean)
    return x * torch.sigmoid(gate)[:, :, None, None, None]


class STA(nn.Module):
  """STA and its temporal (TA) and channel (SA) halves."""

  def __init__(self, kind, shape, step_size=1, deconv=True):
    super().__init__()
    width, frames, height, columns = shape
    self.step = step_size
    self.conv1 = nn.Conv3d(
        width, 1, (frames if kind == 'SA' else 1, height, columns))
    if deconv:
      self.deconv = nn.ConvTranspose3d(1, 1, (3, 1, 1), (step_size, 1, 1))
    self.conv2 = nn.Conv3d(
        1, 1 if kind == 'TA' else width, (3, 1, 1), (step_size, 1, 1),
        (0 if deconv else 1, 0, 0))

  def forward(self, x):
    y = self.conv1(x)
    if hasattr(self, 'deconv'):
      y = self.deconv(y)
    return x * torch.sigmoid(self.conv2(F.relu(y)))


class STC(nn.Module):
  """Channels gated by a clip's mean and by its frames' means, averaged."""

  def __init__(self, width, frames, reduction=16):
    super().__init__()

    def branch(inputs):
      hidden = inputs // reduction
      return nn.ModuleDict({'fc1': nn.Linear(inputs, hidden, bias=False),
                            'fc2': nn.Linear(hidden, width, bias=False)})

    self.scb, self.tcb = branch(width), branch(width * frames)

  def forward(self, x):
    gates = [
        torch.sigmoid(b['fc2'](F.relu(b['fc1'](pooled)))) for b, pooled in (
            (self.scb, x.mean((2, 3, 4))),
            (self.tcb, x.mean((3, 4)).flatten(1)))]
    return x * (sum(gates) / 2)[:, :, None, None, None]
