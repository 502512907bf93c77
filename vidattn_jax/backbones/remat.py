"""What the backward pass computes again instead of keeping it.

The networks do not know: they call their blocks and units through here, and
the train step says what to do with them.
"""

import contextlib
import contextvars

from flax import linen as nn
import jax
from jax import ad_checkpoint

from vidattn_jax.ops import normalized
from vidattn_jax.ops import per_device

# What is computed again: nothing; attention units, from their input; blocks,
# but for their convolutions, whose results are kept; whole blocks, from their
# input.
KINDS = ('', 'units', 'convolutions', 'blocks')
_CONVOLUTION = 'convolution'
_kind = contextvars.ContextVar('kind', default='')


@contextlib.contextmanager
def computing_again(kind: str):
  """Says what gradients of the networks called inside compute again.

  Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.

  Args:
    kind: one of `KINDS`.
  """
  token = _kind.set(kind)
  try:
    yield
  finally:
    _kind.reset(token)


def block(module: nn.Module, x: jax.Array, train: bool) -> jax.Array:
  """Calls a block of a backbone, whose parts may be computed again.

  Args:
    module: the block; it halves what it sees unless its `halves` is False.
    x: [N, T, H, W, C], which stays cut over devices if it may.
    train: see the block.

  Returns:
    [N, t, h, w, C'].
  """
  with per_device.laid_out(x, getattr(module, 'halves', True)) as x:
    if _kind.get() not in ('convolutions', 'blocks'):
      return module(x, train)
    policy = None
    if _kind.get() == 'convolutions':
      policy = jax.checkpoint_policies.save_only_these_names(_CONVOLUTION)
    return _again(module, x, train, policy)


def unit(module: nn.Module, x: jax.Array | normalized.Clip,
         train: bool) -> jax.Array:
  """Calls an attention unit, which may be computed again."""
  if _kind.get() != 'units':
    return module(x, train)
  return _again(module, x, train, None)


def convolved(x: jax.Array) -> jax.Array:
  """Returns a convolution's result, under the name by which it is kept."""
  if _kind.get() != 'convolutions':
    return x
  return ad_checkpoint.checkpoint_name(x, _CONVOLUTION)


def _again(module, x, train, policy):
  return nn.remat(lambda m, y: m(y, train), policy=policy)(module, x)
