"""The temporal shift of TSM."""

import jax
import jax.numpy as jnp


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
  edge = ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0))
  following = jnp.pad(x[:, 1:, ..., :fold], edge)
  previous = jnp.pad(x[:, :-1, ..., fold:2 * fold], [e[::-1] for e in edge])
  return jnp.concatenate([following, previous, x[..., 2 * fold:]], axis=-1)
