"""Networks by name."""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from vidattn_jax import attention as attention_units
from vidattn_jax import names
from vidattn_jax.attention import tstam
from vidattn_jax.backbones import bn_inception
from vidattn_jax.backbones import c3d
from vidattn_jax.backbones import p3d
from vidattn_jax.backbones import resnet
from vidattn_jax.backbones import resnet3d
from vidattn_jax.models import recognizer
from vidattn_jax.models import st_abn


@dataclasses.dataclass(frozen=True)
class _Network:
  """What a name stands for.

  Attributes:
    backbone: class of the backbone.
    decided: fields of the backbone that the name decides.
    defaults: fields of backbone and recognizer that it suggests.
    num_stages: stages of the backbone.
    fixed: fields of the recognizer that the name decides.
    neck: class of the neck, if it is not a mean; those of its fields that
      the network has, too, are the network's.
    hosts: names of the networks whose backbone may take the place of this.
    network: class of the whole.
  """
  backbone: type[nn.Module]
  decided: dict[str, Any]
  defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
  num_stages: int = 4
  fixed: dict[str, Any] = dataclasses.field(default_factory=dict)
  neck: type[nn.Module] | None = None
  hosts: tuple[str, ...] = ()
  network: type[nn.Module] = recognizer.Recognizer


# A clip is classified once; flow has its two components.
_3D = {'consensus': 'clip', 'flow_channels': 2}


def _resnet(depth, shift):
  return _Network(resnet.ResNet, {'depth': depth, 'shift': shift})


def _resnet3d(depth, groups=1, **defaults):
  return _Network(
      resnet3d.ResNet3D, {'depth': depth, 'groups': groups, 'slow': False},
      {'num_frames': 16, 'crop_size': 112, 'dropout': 0.0, **defaults},
      fixed=_3D)


def _slow(depth):
  return _Network(
      resnet3d.ResNet3D,
      {'depth': depth, 'groups': 1, 'slow': True, 'shortcut': 'B'}, fixed=_3D)


_NETWORKS = {
    'tsn_r18': _resnet(18, shift=False),
    'tsn_r50': _resnet(50, shift=False),
    'tsn_r101': _resnet(101, shift=False),
    'tsm_r18': _resnet(18, shift=True),
    'tsm_r50': _resnet(50, shift=True),
    'tsm_r101': _resnet(101, shift=True),
    'r3d_18': _resnet3d(18, shortcut='A'),
    'r3d_34': _resnet3d(34, shortcut='A'),
    'r3d_50': _resnet3d(50),
    'r3d_101': _resnet3d(101),
    'r3d_152': _resnet3d(152),
    'resnext3d_101': _resnet3d(101, groups=32),
    'slow_r50': _slow(50),
    'slow_r101': _slow(101),
    'c3d': _Network(c3d.C3D, {}, {'num_frames': 16, 'crop_size': 112},
                    num_stages=5, fixed={**_3D, 'tied': (0, 1, 2)},
                    neck=c3d.FullyConnected),
    'p3d_199': _Network(p3d.P3D, {}, {'num_frames': 16, 'crop_size': 160},
                        fixed=_3D),
    'tsn_bninception': _Network(bn_inception.BNInception, {'se': False}),
    'tsn_se_bninception': _Network(bn_inception.BNInception, {'se': True}),
}
# T-STAM sees frames one by one, as TSN does.
_NETWORKS['tstam'] = _Network(
    bn_inception.BNInception, {'se': True}, {'num_frames': 6, 'dropout': 0.8},
    fixed={'consensus': 'clip'}, neck=tstam.TSTAM,
    hosts=tuple(name for name in _NETWORKS if name.startswith('ts')))
for _depth in (50, 101):
  _NETWORKS[f'st_abn_r{_depth}'] = dataclasses.replace(
      _slow(_depth), network=st_abn.STABN, defaults={'num_frames': 32},
      fixed={**_3D, 'tied': (0,)})
# Every name that `get_model` knows.
MODELS = tuple(_NETWORKS)
# Fields that are not for users: the network's name decides them.
_INNER = ('parent', 'name', 'backbone', 'neck', 'consensus', 'flow_channels',
          'tied', 'num_stages')


def get_model(name: str, **overrides) -> nn.Module:
  """Builds a network.

  Args:
    name: one of `MODELS`.
    **overrides: fields of `Recognizer` and of the backbone: `num_classes`
      (int, or {head name: int}; 400 unless given), `num_frames`, `crop_size`
      (int or (H, W)), `modality` ('rgb', 'flow'), `dropout`, `freeze`,
      `partial_bn`, `width`, `dtype`, and what the backbone takes beside; and
      `attention` (a unit in its paper's spelling, or None) with
      `attention_options`, `position`, `stages` and `blocks`. `position` and
      `stages` are the unit's paper's unless given. `tstam` takes the fields of
      `attention.tstam.TSTAM`, too, and `backbone`, the name of a tsn_ or tsm_
      network (tsn_se_bninception unless given).

  Returns:
    A Flax module: `apply(variables, video [N, T, H, W, C], train=False)`
    returns a dict with `logits` [N, K].

  Raises:
    ValueError: a name or a value is unknown; the message has the nearest.
  """
  names.check_name('model', name, _NETWORKS)
  network = _NETWORKS[name]
  if network.hosts and 'backbone' in overrides:
    host = overrides.pop('backbone')
    names.check_name(f'backbone of {name}', host, network.hosts)
    network = dataclasses.replace(network, backbone=_NETWORKS[host].backbone,
                                  decided=_NETWORKS[host].decided)
  hidden = {*_INNER, *network.decided}
  inner, outer, of_neck = (
      [f.name for f in dataclasses.fields(cls) if f.name not in hidden]
      if cls else [] for cls in (network.backbone, network.network,
                                 network.neck))
  for override in overrides:
    names.check_name(f'override of {name}', override,
                     [*inner, *outer, *of_neck, 'attention_options'])
  values = {'num_classes': 400, **network.fixed, **network.defaults,
            **overrides}
  if isinstance(values.get('crop_size'), int):
    values['crop_size'] = (values['crop_size'],) * 2
  if 'dtype' in values:
    values['dtype'] = jnp.dtype(values['dtype'])
  names.check_name('modality', values.get('modality', 'rgb'),
                   recognizer.MODALITIES)
  _place_attention(network, values)
  backbone = functools.partial(
      network.backbone, **network.decided,
      **{k: v for k, v in values.items() if k in inner})
  if network.neck:
    if 'num_segments' in of_neck:
      values.setdefault('num_segments', values['num_frames'])
    values['neck'] = functools.partial(
        network.neck, **{k: v for k, v in values.items() if k in of_neck})
  kept = {*outer, *network.fixed, 'neck', 'tied'}
  return network.network(
      backbone, **{k: v for k, v in values.items() if k in kept})


def _place_attention(network, values):
  """Makes the unit's factory of its name, and completes where it stands."""
  unit = values.pop('attention', None)
  options = values.pop('attention_options', None) or {}
  if unit is None:
    if options:
      raise ValueError(f'attention_options are {options}, but no attention '
                       'unit is chosen; set attention, or leave them out.')
    for key in ('position', 'stages'):
      if values.get(key, 0) is None:
        del values[key]
    return
  values['attention'] = attention_units.get_attention(unit, **options)
  values['tied'] = tuple(sorted({*values.get('tied', ()),
                                 *attention_units.TIED.get(unit, ())}))
  if values.get('position') is None:
    values['position'] = attention_units.POSITIONS[unit]
  if values.get('stages') is None:
    last = network.num_stages
    values['stages'] = ((last,) if unit in attention_units.IN_LAST_STAGE
                        else tuple(range(1, last + 1)))
