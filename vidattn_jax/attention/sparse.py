"""Sparse attention: two clips that look closer at a clip's class peaks.

Zhou et al., "Integrating Temporal and Spatial Attention for Video Action
Recognition", 2022, sections 2.1 and 2.2.
"""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.ops import gaussian
from vidattn_jax.ops import peaks as peaks_lib
from vidattn_jax.ops import resample

# How peaks are parted: by a random threshold for each cell, by a fixed one; the
# strongest alone and the weakest alone; or all of them into both.
PHI = ('random', 'fixed', 'extremes', 'all')
_FIXED = 0.5
# Initial widths of the Gaussians, in parts of the map: those of the published
# code of "Selective Sparse Sampling", ICCV 2019.
_WIDTHS = {'discriminative': 0.09, 'complementary': 0.3}
KINDS = tuple(_WIDTHS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def zoom(images: jax.Array, response: jax.Array, peaks: jax.Array,
         beta: jax.Array, base: float, inverse: bool,
         out: jax.Array | None = None) -> jax.Array:
  """Resamples images around peaks.

  Args:
    images: [N, H, W, C]; as for response and peaks, no gradient goes there.
    response: see `gaussian.saliency`, as for all that follow.
    peaks: the same.
    beta: the same.
    base: the same.
    inverse: the same.
    out: see `resample.sample`.

  Returns:
    [N, H, W, C] of the images' type.
  """
  return resample.resample(
      images, gaussian.saliency(response, peaks, beta, base, inverse), out)


def _zoom_fwd(images, response, peaks, beta, base, inverse, out):
  # One number moves all pixels: what it does to each is found together with
  # the pixel, where backward every pixel's neighbours would be read again.
  q, tangent = jax.jvp(
      lambda beta: gaussian.saliency(response, peaks, beta, base, inverse),
      (beta,), (jnp.ones_like(beta),))
  return resample.resample_along(images, q, tangent, out)


def _zoom_bwd(base, inverse, change, g):
  del base, inverse
  return None, None, None, jnp.vdot(change, g.astype(change.dtype),
                                    precision='highest'), None


zoom.defvjp(_zoom_fwd, _zoom_bwd)


class SparseAttention(nn.Module):
  """Finds class peaks in every frame, and resamples the frames around them.

  All is computed in float32 or wider at the highest precision of products,
  whatever the network's type: less can move pixels and change the peaks.

  Attributes:
    kinds: clips to make, of `KINDS`.
    grid_size: G, cells of a map along each side.
    delta: entropy in nats below which a frame's likeliest class alone counts.
    base: see `gaussian.saliency`.
    threshold: see `peaks.find_peaks`.
    training_phi: one of `PHI`, how peaks are parted in training.
    evaluation_phi: one of `PHI`, in evaluation; 'random' is the same for all
      clips there.
  """
  kinds: tuple[str, ...] = KINDS
  grid_size: int = 31
  delta: float = 0.2
  base: float = 0.09
  threshold: str = 'mean'
  training_phi: str = 'random'
  evaluation_phi: str = 'fixed'

  @nn.compact
  def __call__(self, features: jax.Array, kernel: jax.Array, bias: jax.Array,
               video: jax.Array, train: bool = False,
               phi: jax.Array | None = None, capture: bool = False) -> dict:
    """Makes the clips.

    Args:
      features: last of the backbone [N, T, h, w, C]; no gradient goes there.
      kernel: weights of the classifier [C, S].
      bias: its biases [S].
      video: [N, T, H, W, C'].
      train: part peaks as in training; takes the random stream 'dropout'.
      phi: thresholds of the cells [N, T, G, G]; drawn unless given.
      capture: return the saliency, too.

    Returns:
      Dict of `frame_logits` [N, T, S], `response` [N, T, G, G], and for each
      kind a dict of `peaks`, bool [N, T, G, G], and of `video`
      [N, T, H, W, C']; with `capture`, `saliency` [N, T, G, G].
    """
    clips = video.shape[:2]
    features, frames = (x.reshape(-1, *x.shape[2:]) for x in (features, video))
    raw, logits, _ = peaks_lib.chosen_map(features, kernel, bias, self.delta)
    response = peaks_lib.normalized_response(raw, self.grid_size)
    found = peaks_lib.find_peaks(response, threshold=self.threshold)
    parts = dict(zip(KINDS, self._part(found, response, train, phi, clips),
                     strict=True))
    outputs = {'frame_logits': logits, 'response': response}
    for kind in self.kinds:
      beta = self.param(f'beta_{kind}', nn.initializers.constant(
          math.sqrt(2) * self.grid_size * _WIDTHS[kind]), ())
      inverse = kind == 'complementary'
      outputs[kind] = {
          'peaks': parts[kind],
          'video': zoom(frames, response, parts[kind], beta, self.base,
                        inverse)}
      if capture:
        outputs[kind]['saliency'] = gaussian.saliency(
            response, parts[kind], beta, self.base, inverse)
    return jax.tree.map(lambda x: x.reshape(*clips, *x.shape[1:]), outputs)

  def _part(self, found, response, train, phi, clips):
    """Returns discriminative and complementary peaks."""
    mode = self.training_phi if train else self.evaluation_phi
    names.check_name('phi', mode, PHI)
    shape = (*clips, *response.shape[1:])
    if phi is not None:
      if phi.shape != shape:
        raise ValueError(f'phi has the shape {phi.shape}; the maps of the '
                         f'video have {shape}.')
      phi = phi.reshape(response.shape)
    elif mode == 'all':
      return found, found
    elif mode == 'extremes':
      return peaks_lib.extremes(found, response)
    elif mode == 'fixed':
      phi = _FIXED
    elif train:
      phi = jax.random.uniform(self.make_rng('dropout'), response.shape)
    else:
      # Of a clip, and the same for all: the batch does not matter.
      phi = jnp.tile(jax.random.uniform(jax.random.key(0), shape[1:]),
                     (clips[0], 1, 1))
    return peaks_lib.split(found, response, phi)
