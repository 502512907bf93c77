"""Attention units: modules from [N, T, H, W, C] to the same shape."""

from collections.abc import Callable
import functools
import inspect

from flax import linen as nn

from vidattn_jax import names
from vidattn_jax.attention import aia
from vidattn_jax.attention import gates
from vidattn_jax.attention import near_identity as fading
from vidattn_jax.attention import sta
from vidattn_jax.backbones import layers

# From a paper's own spelling to what makes the unit from its options.
ATTENTION = {**aia.UNITS, **gates.UNITS, **sta.UNITS}

# Where a unit stands in a residual block unless `position` says otherwise.
POSITIONS = {**dict.fromkeys(ATTENTION, 'before_sum'),
             **dict.fromkeys((*aia.UNITS, 'S3D-G'), 'bn2')}
# Units that their papers put into the last stage alone, not into all.
IN_LAST_STAGE = (*sta.UNITS, 'SENet-3D')
# Axes of a clip (frames, height, width) whose lengths a unit's weights fix.
# The option `pool` lets the trained unit see others, but its weights are made
# for these all the same.
TIED = {'STA': (1, 2), 'TA': (1, 2), 'SA': (0, 1, 2), 'STC': (0,)}


def get_attention(name: str, near_identity: bool = False,
                  **options) -> Callable[..., nn.Module]:
  """Returns the factory of an attention unit.

  Args:
    name: the paper's spelling, such as 'CinST->STinC'.
    near_identity: start as the identity, and learn how far to leave it.
    **options: options of that unit, by name.

  Returns:
    Function of `name` and `dtype` that returns a Flax module; the module
    takes (x [N, T, H, W, C], train) and returns the shape of `x`.

  Raises:
    ValueError: there is no such unit or option, the message has the nearest;
      or an option's value is wrong.
  """
  names.check_name('attention unit', name, ATTENTION)
  factory = ATTENTION[name]
  known = inspect.signature(factory).parameters
  for option in options:
    names.check_name(f'option of the attention unit {name}', option,
                     ['near_identity',
                      *(k for k in known if k not in _SET_ELSEWHERE)])
    if option in _WHOLE:
      layers.check_whole(option, options[option])
  factory = functools.partial(factory, **options)
  return functools.partial(fading.NearIdentity, factory) if (
      near_identity) else factory


# The network sets the first three; the others make the unit what it is called.
_SET_ELSEWHERE = ('name', 'parent', 'dtype', 'first', 'second', 'parallel',
                  'kernel_size', 'use_bias', 'by_frame', 'by_channel')
# Options that are whole numbers from 1 on.
_WHOLE = ('reduction', 'step_size')
