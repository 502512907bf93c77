"""Class peaks: where single frames answer for a class, and the strongest spots.

Zhou et al., "Integrating Temporal and Spatial Attention for Video Action
Recognition", section 2.1 and equation 5; Zhou et al., "Weakly Supervised
Instance Segmentation using Class Peak Response", CVPR 2018. Nothing here has a
gradient: which cells are peaks is no smooth function of features.
"""

import itertools

import jax
from jax import lax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.ops import resizing

THRESHOLDS = ('mean', 'median', 'none')
# Classes whose maps an unsure frame adds up.
_MOST = 5
# A map whose range is no larger a share of its values than this is flat.
_FLAT = 1e-6


def _wide(x):
  """Returns `x` in float32 or wider, without a gradient."""
  return lax.stop_gradient(
      x.astype(jnp.promote_types(x.dtype, jnp.float32)))


def class_maps(features: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes where each class is answered for; equation 1.

  Args:
    features: [..., h, w, C].
    kernel: weights of the classifier [C, S].

  Returns:
    float32 [..., h, w, S]; its mean over the places, plus the bias, are the
    logits.
  """
  return jnp.tensordot(_wide(features), _wide(kernel), 1, precision='highest')


def chosen_map(features: jax.Array, kernel: jax.Array, bias: jax.Array,
               delta: float = 0.2):
  """Adds up the maps of the likeliest classes; equations 2 and 3.

  Args:
    features: of frames [N, h, w, C].
    kernel: weights of the classifier [C, S].
    bias: its biases [S].
    delta: entropy in nats below which a frame is sure.

  Returns:
    (map float32 [N, h, w]: of the likeliest class where a frame is sure, else
    the sum of those of the five likeliest; logits of the frames [N, S]; their
    entropies [N], of the five probabilities as they are.)
  """
  features, kernel, bias = map(_wide, (features, kernel, bias))
  logits = jnp.dot(features.mean((1, 2)), kernel, precision='highest') + bias
  likely, index = lax.top_k(jax.nn.softmax(logits),
                            min(_MOST, logits.shape[-1]))
  entropy = jax.scipy.special.entr(likely).sum(-1)
  first = jnp.arange(index.shape[-1]) == 0
  counted = first | (entropy >= delta)[:, None]
  # The maps are linear in the weights: one map of the sum of weights.
  weights = jnp.where(counted[..., None], kernel.T[index], 0).sum(1)
  response = jnp.einsum('nhwc,nc->nhw', features, weights, precision='highest')
  return response, logits, entropy


def normalized_response(response: jax.Array, size: int = 31) -> jax.Array:
  """Enlarges maps and brings each to [0, 1]; equation 4.

  Args:
    response: [N, h, w].
    size: G.

  Returns:
    float32 [N, G, G], interpolated linearly between corners that stay in
    place. Flat maps, and those with values that are no numbers, are 0.
  """
  x = resizing.resize_aligned(_wide(response), {1: size, 2: size})
  low, high = (f(x, (1, 2), keepdims=True) for f in (jnp.min, jnp.max))
  varies = _varies(low, high)
  x = jnp.where(varies, (x - low) / jnp.where(varies, high - low, 1), 0)
  # Computed once, so that all that compares its cells sees the same bits.
  return lax.optimization_barrier(x)


def _varies(low, high):
  # Also false where either is no number.
  return high - low > _FLAT * jnp.maximum(jnp.abs(low), jnp.abs(high))


def find_peaks(response: jax.Array, window: int = 3,
               threshold: str = 'mean') -> jax.Array:
  """Finds local maxima.

  Args:
    response: maps [N, G, G'].
    window: odd side of the square in which a peak is the largest. Of equal
      cells the first in raster order is.
    threshold: a peak is at least as large as the 'mean' or the 'median' of
      its map; or 'none'.

  Returns:
    bool [N, G, G']. Flat maps have no peaks.

  Raises:
    ValueError: `threshold` is none of these.
  """
  names.check_name('threshold of peaks', threshold, THRESHOLDS)
  x = _wide(response)
  low, high = (f(x, (1, 2), keepdims=True) for f in (jnp.min, jnp.max))
  found = jnp.broadcast_to(_varies(low, high), x.shape)
  if threshold != 'none':
    f = jnp.mean if threshold == 'mean' else jnp.median
    found &= x >= f(x, (1, 2), keepdims=True)
  reach = window // 2
  rows, columns = x.shape[1:]
  edge = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach)),
                 constant_values=-jnp.inf)
  for i, j in itertools.product(range(window), repeat=2):
    if (i, j) == (reach, reach):
      continue
    other = edge[:, i:i + rows, j:j + columns]
    found &= x > other if (i, j) < (reach, reach) else x >= other
  return found


def split(peaks: jax.Array, response: jax.Array, phi: jax.Array):
  """Parts peaks into discriminative and complementary ones; equation 5.

  Args:
    peaks: bool [N, G, G].
    response: [N, G, G] in [0, 1].
    phi: thresholds, of shape [N, G, G] or one that broadcasts.

  Returns:
    (bool [N, G, G] of those with a response of at least phi, and of the rest).
  """
  strong = response >= phi
  return peaks & strong, peaks & ~strong


def extremes(peaks: jax.Array, response: jax.Array):
  """Returns each map's strongest peak alone, and its weakest.

  Args:
    peaks: bool [N, G, G].
    response: [N, G, G].

  Returns:
    (bool [N, G, G], the same). Of equal peaks it is the first in raster order.
  """
  def only(values):
    flat = values.reshape(len(values), -1)
    first = jax.nn.one_hot(flat.argmax(-1), flat.shape[-1], dtype=bool)
    return first.reshape(peaks.shape) & peaks

  return (only(jnp.where(peaks, response, -jnp.inf)),
          only(jnp.where(peaks, -response, -jnp.inf)))
