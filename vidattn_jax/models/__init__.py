"""Networks by name."""

import dataclasses
import functools

from flax import linen as nn
import jax.numpy as jnp

from vidattn_jax import attention as attention_units
from vidattn_jax import names
from vidattn_jax.backbones import resnet
from vidattn_jax.models import recognizer

# Fields of the backbone that a name decides.
_RESNETS = {
    'tsn_r18': {'depth': 18}, 'tsn_r50': {'depth': 50},
    'tsn_r101': {'depth': 101},
    'tsm_r18': {'depth': 18, 'shift': True},
    'tsm_r50': {'depth': 50, 'shift': True},
    'tsm_r101': {'depth': 101, 'shift': True},
}
# Every name that `get_model` knows.
MODELS = tuple(_RESNETS)


def get_model(name: str, **overrides) -> nn.Module:
  """Builds a network.

  Args:
    name: one of `MODELS`.
    **overrides: fields of `Recognizer` and of `ResNet`: `num_classes` (int, or
      {head name: int}; 400 unless given), `num_frames`, `crop_size` (int or
      (H, W)), `modality` ('rgb', 'flow'), `dropout`, `freeze`, `partial_bn`,
      `position`, `stages`, `placement`, `width`, `dtype`; and `attention` (a
      unit in its paper's spelling, or None) with `attention_options`.

  Returns:
    A Flax module: `apply(variables, video [N, T, H, W, C], train=False)`
    returns a dict with `logits` [N, K].

  Raises:
    ValueError: a name or a value is unknown; the message has the nearest.
  """
  names.check_name('model', name, MODELS)
  decided = _RESNETS[name]
  fields = {
      cls: [f.name for f in dataclasses.fields(cls)
            if f.name not in ('parent', 'name', 'backbone', *decided, 'shift')]
      for cls in (resnet.ResNet, recognizer.Recognizer)}
  known = [*fields[resnet.ResNet], *fields[recognizer.Recognizer],
           'attention_options']
  for override in overrides:
    names.check_name(f'override of {name}', override, known)

  unit = overrides.pop('attention', None)
  options = overrides.pop('attention_options', None) or {}
  if unit is not None:
    overrides['attention'] = attention_units.get_attention(unit, **options)
  elif options:
    raise ValueError(f'attention_options are {options}, but no attention unit '
                     'is chosen; set attention, or leave them out.')
  if isinstance(overrides.get('crop_size'), int):
    overrides['crop_size'] = (overrides['crop_size'],) * 2
  if 'dtype' in overrides:
    overrides['dtype'] = jnp.dtype(overrides['dtype'])
  names.check_name('modality', overrides.get('modality', 'rgb'),
                   recognizer.CHANNELS)
  overrides.setdefault('num_classes', 400)

  inner = {k: v for k, v in overrides.items() if k in fields[resnet.ResNet]}
  outer = {k: v for k, v in overrides.items() if k not in inner}
  backbone = functools.partial(resnet.ResNet, **decided, **inner)
  return recognizer.Recognizer(backbone, **outer)
