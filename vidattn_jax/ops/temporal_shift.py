"""The temporal shift of TSM."""

import jax
from jax import lax
import jax.numpy as jnp

from vidattn_jax.ops import platform


def temporal_shift(x: jax.Array, fold_div: int = 8) -> jax.Array:
  """Moves some channels by one frame, so that frames see their neighbours.

  Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding",
  ICCV 2019, figure 1(b); the offline (bidirectional) form.

  Args:
    x: [N, T, H, W, C].
    fold_div: the first C // fold_div channels come from the next frame, as
      many after them from the previous one.

  Returns:
    [N, T, H, W, C]; zeros where there is no such frame.
  """
  fold = x.shape[-1] // fold_div
  return (_select if platform.for_cpu_alone() else _join)(x, fold)


def _join(x, fold):
  edge = ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0))
  following = jnp.pad(x[:, 1:, ..., :fold], edge)
  previous = jnp.pad(x[:, :-1, ..., fold:2 * fold], [e[::-1] for e in edge])
  return jnp.concatenate([following, previous, x[..., 2 * fold:]], axis=-1)


def _select(x, fold):
  # One pass over the clip; the CPU's compiler makes each part of a
  # concatenation an array first.
  zero = jnp.zeros((), x.dtype)
  following, previous = (
      lax.pad(x, zero, [(0, 0, 0), edge] + [(0, 0, 0)] * 3)
      for edge in ((-1, 1, 0), (1, -1, 0)))
  channel = lax.broadcasted_iota(jnp.int32, (x.shape[-1],), 0)
  return jnp.where(channel < fold, following,
                   jnp.where(channel < 2 * fold, previous, x))
