"""Attention units: modules from [N, T, H, W, C] to the same shape."""

from collections.abc import Callable
import functools
import inspect

from flax import linen as nn

from vidattn_jax import names
from vidattn_jax.attention import aia

# From a paper's own spelling to what makes the unit from its options.
ATTENTION = {**aia.UNITS}

# Where a unit stands in a residual block unless `position` says otherwise.
POSITIONS = {**dict.fromkeys(aia.UNITS, 'bn2')}
# Units that their papers put into the last stage alone, not into all.
IN_LAST_STAGE = ()
# Axes of a clip (frames, height, width) whose lengths a unit's weights fix.
TIED = {}


def get_attention(name: str, **options) -> Callable[..., nn.Module]:
  """Returns the factory of an attention unit.

  Args:
    name: the paper's spelling, such as 'CinST->STinC'.
    **options: options of that unit, by name.

  Returns:
    Function of `name` and `dtype` that returns a Flax module; the module
    takes (x [N, T, H, W, C], train) and returns the shape of `x`.

  Raises:
    ValueError: there is no such unit or option; the message has the nearest.
  """
  names.check_name('attention unit', name, ATTENTION)
  factory = ATTENTION[name]
  known = inspect.signature(factory).parameters
  for option in options:
    names.check_name(f'option of the attention unit {name}', option,
                     [k for k in known if k not in _SET_ELSEWHERE])
  return functools.partial(factory, **options)


# The network sets these; the others of a pair make the name.
_SET_ELSEWHERE = ('name', 'parent', 'dtype', 'first', 'second', 'parallel')
