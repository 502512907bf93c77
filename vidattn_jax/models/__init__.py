"""Networks by name."""

import contextlib
import dataclasses
import functools
import math
import numbers
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from vidattn_jax import attention as attention_units
from vidattn_jax import names
from vidattn_jax.attention import tstam
from vidattn_jax.backbones import bn_inception
from vidattn_jax.backbones import c3d
from vidattn_jax.backbones import layers
from vidattn_jax.backbones import p3d
from vidattn_jax.backbones import resnet
from vidattn_jax.backbones import resnet3d
from vidattn_jax.backbones import tcnn
from vidattn_jax.models import rc3d
from vidattn_jax.models import recognizer
from vidattn_jax.models import scnn
from vidattn_jax.models import st_abn
from vidattn_jax.models import three_branch


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
_3D = {'consensus': 'clip', 'flow_stack': 1}


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
    'slow_r18': _slow(18),
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
_NETWORKS['st_abn'] = dataclasses.replace(
    _NETWORKS['st_abn_r50'], hosts=tuple(
        name for name, network in _NETWORKS.items()
        if network.backbone in (resnet3d.ResNet3D, c3d.C3D)
        and network.network is recognizer.Recognizer))
_NETWORKS['tcnn'] = _Network(
    tcnn.TCNN, {}, {'num_frames': 16}, num_stages=len(tcnn.DEPTHS), fixed=_3D)
# Backbones whose classifier sees the mean of their features.
_NETWORKS['three_branch'] = dataclasses.replace(
    _NETWORKS['tcnn'], network=three_branch.ThreeBranch,
    defaults={'num_frames': 16, 'dropout': 0.5},
    hosts=tuple(name for name, network in _NETWORKS.items()
                if network.neck is None
                and network.network is recognizer.Recognizer))
# These find segments; the others classify clips.
_NETWORKS['scnn'] = dataclasses.replace(
    _NETWORKS['r3d_18'], network=scnn.SCNN, hosts=tuple(
        name for name, network in _NETWORKS.items()
        if network.fixed.get('consensus') == 'clip' and name != 'tstam'
        and network.network is recognizer.Recognizer))
_NETWORKS['rc3d'] = dataclasses.replace(
    _NETWORKS['c3d'], network=rc3d.RC3D, neck=None, fixed=_3D,
    defaults={'num_frames': 768, 'crop_size': 112, 'dropout': 0.5})
# Names of those that find segments.
DETECTORS = ('scnn', 'rc3d')
# Every name that `get_model` knows.
MODELS = tuple(_NETWORKS)
# Fields that are not for users: the network's name decides them.
_INNER = ('parent', 'name', 'backbone', 'neck', 'consensus', 'tied',
          'num_stages')
# What the network or the unit decides where it is None.
_LEFT_OPEN = ('position', 'stages', 'blocks', 'shortcut')
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')


def get_model(name: str, **overrides) -> nn.Module:
  """Builds a network.

  Args:
    name: one of `MODELS`.
    **overrides: fields of `Recognizer` and of the backbone: `num_classes`
      (int, or {head name: int} but for st_abn* and three_branch; 400 unless
      given),
      `num_frames`, `crop_size` (int or (H, W)), `modality` ('rgb', 'flow';
      `flow_stack` fields of it a frame),
      `dropout` (from 0, below 1), `freeze`, `partial_bn`, `width` (above 0),
      `dtype` (one of `DTYPES`, or its type), and what the backbone takes
      beside; and `attention` (a unit in its paper's spelling, or None) with
      `attention_options`, `position`, `stages` and `blocks`. `position` and
      `stages` are the unit's paper's unless given; `stages` and `blocks` are
      whole numbers or tuples of them. None for these three or for `shortcut`
      is as if left out. `tstam` takes the fields of
      `attention.tstam.TSTAM`, too, and `backbone`, the name of a tsn_ or tsm_
      network (tsn_se_bninception unless given); so does `three_branch`, any
      but c3d, tstam and st_abn* (tcnn unless given), and `st_abn`, c3d or any
      3D ResNet (slow_r50 unless given), and `scnn`, any 3D network that
      classifies clips (r3d_18 unless given).

  Returns:
    A Flax module: `apply(variables, video [N, T, H, W, C], train=False)`
    returns a dict with `logits` [N, K]; of scnn and rc3d, what `models.scnn`
    and `models.rc3d` tell.

  Raises:
    ValueError: a name is unknown, the message has the nearest; or a value is
      wrong, or an attention unit would stand nowhere.
  """
  names.check_name('model', name, _NETWORKS)
  network = _NETWORKS[name]
  if network.hosts and 'backbone' in overrides:
    host = overrides.pop('backbone')
    names.check_name(f'backbone of {name}', host, network.hosts)
    network = _on_backbone(network, _NETWORKS[host])
  hidden = {*_INNER, *network.decided}
  inner, outer, of_neck = (
      [f.name for f in dataclasses.fields(cls) if f.name not in hidden]
      if cls else [] for cls in (network.backbone, network.network,
                                 network.neck))
  overrides = {k: v for k, v in overrides.items()
               if not (v is None and k in _LEFT_OPEN)}
  _check_overrides(name, overrides,
                   [*inner, *outer, *of_neck, 'attention_options'])
  values = {'num_classes': 400, **network.fixed, **network.defaults,
            **overrides}
  if network.network is not recognizer.Recognizer and hasattr(
      values['num_classes'], 'keys'):
    raise ValueError(f'{name} takes one number of classes, but num_classes is '
                     f'{values["num_classes"]!r}; set it to an int.')
  _check_values(values)
  _place_attention(network, values)
  backbone = functools.partial(
      network.backbone, **network.decided,
      **{k: v for k, v in values.items() if k in inner})
  backbone(parent=None).check_fields()
  if network.neck:
    if 'num_segments' in of_neck:
      values.setdefault('num_segments', values['num_frames'])
    values['neck'] = functools.partial(
        network.neck, **{k: v for k, v in values.items() if k in of_neck})
  kept = {*outer, *network.fixed, 'neck', 'tied'}
  model = network.network(
      backbone, **{k: v for k, v in values.items() if k in kept})
  if isinstance(model, three_branch.ThreeBranch):
    model.check_fields()
  return model


def _on_backbone(network, host):
  """Returns a network with the backbone of another."""
  return dataclasses.replace(
      network, backbone=host.backbone, decided=host.decided,
      defaults={**host.defaults, **network.defaults},
      num_stages=host.num_stages, neck=network.neck or host.neck,
      fixed={**network.fixed, 'flow_stack': host.fixed.get(
          'flow_stack', recognizer.Recognizer.flow_stack),
             'tied': tuple(sorted({*network.fixed.get('tied', ()),
                                   *host.fixed.get('tied', ())}))})


def _check_overrides(name, overrides, known):
  """Raises an error if an override is none of a network's."""
  parts = [part for network in _NETWORKS.values()
           for part in (network.backbone, network.network, network.neck)
           if part]
  elsewhere = {f.name for part in parts for f in dataclasses.fields(part)}
  for override in overrides:
    # What other networks have is no slip of the pen.
    if override in elsewhere and override not in known:
      raise ValueError(
          f'There is no override of {name} {override!r}; {name} has no '
          f'{override!r}, its overrides are {", ".join(dict.fromkeys(known))}.')
    names.check_name(f'override of {name}', override, dict.fromkeys(known))


def _check_values(values):
  """Checks what users set, and brings it to its type."""
  for key in ('stages', 'blocks'):
    if key in values:
      values[key] = _whole_numbers(key, values[key])
  for key in ('num_frames', 'flow_stack'):
    if key in values:
      layers.check_whole(key, values[key])
  if 'crop_size' in values:
    values['crop_size'] = _crop_size(values['crop_size'])
  values['num_classes'] = _num_classes(values['num_classes'])
  if 'dtype' in values:
    values['dtype'] = _dtype(values['dtype'])
  dropout = values.get('dropout', 0)
  if not (_is_number(dropout) and 0 <= dropout < 1):
    raise ValueError(
        f'dropout is {dropout!r}; it must be a number from 0 on and below 1.')
  width = values.get('width', 1)
  if not (_is_number(width) and 0 < width < math.inf):
    raise ValueError(f'width is {width!r}; it must be above 0, a factor of '
                     'all widths such as 0.5.')
  names.check_name('modality', values.get('modality', 'rgb'),
                   recognizer.MODALITIES)


def _is_number(value):
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole_numbers(key, value):
  """Returns a tuple of ints of one or several."""
  several = value if isinstance(value, list | tuple) else [value]
  if not all(map(layers.is_whole, several)):
    raise ValueError(f'{key} is {value!r}; it must be a whole number or a '
                     'tuple of them, such as (1, 2).')
  return tuple(map(int, several))


def _crop_size(value):
  """Returns (height, width) of one or two lengths."""
  two = (value if isinstance(value, list | tuple) and len(value) == 2
         else (value, value))
  if not all(layers.is_whole(length) and length >= 1 for length in two):
    raise ValueError(f'crop_size is {value!r}; it must be a whole number of '
                     'pixels, 1 or more, or two of them: (height, width).')
  return tuple(map(int, two))


def _num_classes(value):
  """Returns an int or {head name: int}."""
  if not hasattr(value, 'keys'):
    layers.check_whole('num_classes', value)
    return int(value)
  if not value:
    raise ValueError(f'num_classes is {value!r}; give it a number, or {{head '
                     'name: number}} with one head or more.')
  for head in value:
    layers.check_whole(f'num_classes[{head!r}]', value[head])
  return {head: int(value[head]) for head in value}


def _dtype(value):
  """Returns the type of a computation."""
  name = value
  if value is not None and not isinstance(value, str):
    with contextlib.suppress(TypeError):  # No type, and no name of one.
      name = jnp.dtype(value).name
  names.check_name('dtype', name, DTYPES)
  return jnp.dtype(name)


def _place_attention(network, values):
  """Makes the unit's factory of its name, and completes where it stands."""
  unit = values.pop('attention', None)
  options = values.pop('attention_options', None)
  if options is None:
    options = {}
  if not hasattr(options, 'keys'):
    raise ValueError(f'attention_options is {options!r}; it must be a dict of '
                     "options and their values, such as {'pool': True}.")
  if unit is None:
    if options:
      raise ValueError(f'attention_options are {options}, but no attention '
                       'unit is chosen; set attention, or leave them out.')
    return
  values['attention'] = attention_units.get_attention(unit, **options)
  values['tied'] = tuple(sorted({*values.get('tied', ()),
                                 *attention_units.TIED.get(unit, ())}))
  values.setdefault('position', attention_units.POSITIONS[unit])
  last = network.num_stages
  values.setdefault('stages', (
      (last,) if unit in attention_units.IN_LAST_STAGE
      else tuple(range(1, last + 1))))
