"""A unit that starts as nothing, so that a trained network may take it in."""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp


class NearIdentity(nn.Module):
  """A unit that is faded in: x + alpha * (unit(x) - x), alpha 0 at the start.

  Bachlechner et al., "ReZero is All You Need", UAI 2021. The unit's
  parameters and gates are called as they are without it; `alpha` is beside
  them.

  Attributes:
    unit: makes the attention unit from its type.
    dtype: type of the computation.
  """
  unit: Callable[..., nn.Module]
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    """Makes the unit and alpha."""
    self.inner = self.unit(dtype=self.dtype)
    nn.share_scope(self, self.inner)
    self.alpha = self.param('alpha', nn.initializers.zeros, (), jnp.float32)

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    return x + self.alpha.astype(x.dtype) * (self.inner(x, train) - x)
