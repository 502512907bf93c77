"""Optical flow by total variation and L1: TV-L1, as OpenCV computes it.

Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical
Flow", 2007; Sanchez, Meinhardt-Llopis, Facciolo, "TV-L1 Optical Flow
Estimation", IPOL 2013. Constants and order are those of OpenCV's DualTVL1, by
which the flow of the two-stream literature was made.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from vidattn_jax.ops import platform

# OpenCV's defaults.
_TAU, _LAMBDA, _THETA = 0.25, 0.15, 0.3
_SCALES, _SCALE_STEP, _MIN_SIZE = 5, 0.8, 16
_WARPS, _OUTER, _INNER, _EPSILON = 5, 10, 30, 0.01
# Below this squared gradient a pixel says nothing about motion.
_FLAT = float(np.finfo(np.float32).eps)
_CUBIC = -0.75
# OpenCV interpolates at multiples of 1/32 pixel.
_SUBPIXEL_BITS = 5
# What stored flow says of how it was made, in OpenCV's words.
PARAMETERS = {
    'tau': _TAU, 'lambda': _LAMBDA, 'theta': _THETA, 'gamma': 0.0,
    'scales': _SCALES, 'scale_step': _SCALE_STEP, 'warps': _WARPS,
    'epsilon': _EPSILON, 'inner_iterations': _INNER,
    'outer_iterations': _OUTER, 'median_filtering': 5}


def tvl1(prev: jax.Array, next: jax.Array) -> jax.Array:  # pylint: disable=redefined-builtin
  """Estimates where each pixel goes.

  Each pair is computed on its own: the result does not depend on what else is
  in the batch. To be called under `jax.jit`, once for each size of frame.

  Args:
    prev: grey frames [..., H, W], 0 to 255, of any type (see `grayscale`).
    next: the frames after them, of the same shape.

  Returns:
    float32 [..., H, W, 2]: pixels to the right and downwards from `prev` to
    `next`.

  Raises:
    ValueError: the shapes differ or are none of frames.
  """
  check_shapes(prev, next)
  pairs = [x.reshape(-1, *prev.shape[-2:]).astype(jnp.float32)
           for x in (prev, next)]
  # One after the other stays in a CPU's cache; together they fill a GPU.
  flow = platform.by_platform(
      lambda a, b: lax.map(lambda pair: _tvl1(*pair), (a, b)),
      jax.vmap(_tvl1), *pairs)
  return flow.reshape(*prev.shape, 2)


def check_shapes(prev, next):  # pylint: disable=redefined-builtin
  """Checks that there are two grey frames, or two stacks of them.

  Args:
    prev: see `tvl1`.
    next: see there.

  Raises:
    ValueError: the shapes differ or are none of frames.
  """
  if prev.shape != next.shape or len(prev.shape) < 2 or 0 in prev.shape:
    raise ValueError(
        f'The frames have the shapes {prev.shape} and {next.shape}; TV-L1 '
        'takes two of the same shape [..., H, W], in grey.')


def grayscale(frames: jax.Array) -> jax.Array:
  """Turns RGB into what TV-L1 sees.

  Args:
    frames: [..., H, W, 3], 0 to 255.

  Returns:
    float32 [..., H, W], whole numbers, as OpenCV's 8-bit conversion.
  """
  r, g, b = jnp.moveaxis(frames.astype(jnp.int32), -1, 0)
  return ((9798 * r + 19235 * g + 3735 * b + 2 ** 14) >> 15).astype(
      jnp.float32)


def quantize(flow: jax.Array, bound: float = 20.0) -> jax.Array:
  """Turns flow into the 8 bits in which two-stream networks store it.

  Args:
    flow: any shape, pixels.
    bound: the displacement that becomes 255; its negative becomes 0.

  Returns:
    uint8, the same shape; no motion is 128.
  """
  scaled = jnp.round(255 * (flow + bound) / (2 * bound))
  return jnp.clip(scaled, 0, 255).astype(jnp.uint8)


def _tvl1(prev, next):  # pylint: disable=redefined-builtin
  """Computes [H, W, 2] of one pair, from the coarsest scale to the finest."""
  pyramid = [(prev, next)]
  while len(pyramid) < _SCALES:
    size = [int(np.rint(n * _SCALE_STEP)) for n in pyramid[-1][0].shape]
    if min(size) < _MIN_SIZE:
      break
    pyramid.append(tuple(_resize(x, size, 1 / _SCALE_STEP)
                         for x in pyramid[-1]))
  u = v = jnp.zeros_like(pyramid[-1][0])
  for i, (first, second) in reversed(list(enumerate(pyramid))):
    u, v = _refine(first, second, u, v)
    if i:
      u, v = (_resize(x, pyramid[i - 1][0].shape) / _SCALE_STEP for x in (u, v))
  return jnp.stack([u, v], axis=-1)


def _refine(first, second, u, v):
  """Improves a flow at one scale."""
  images = jnp.stack([second, *_centered_gradient(second)], axis=-1)
  enough = _EPSILON ** 2 * first.size

  def warp_once(_, state):
    u, v, *duals = state
    warped, gx, gy = jnp.moveaxis(_warp(images, u, v), -1, 0)
    constant = warped - gx * u - gy * v - first
    step = functools.partial(_step, gx, gy, constant)

    def inner(carry):
      count, _, *state = carry
      return (count + 1, *step(*state))

    def outer(carry):
      count, change, u, v, *duals = carry
      _, *state = lax.while_loop(
          lambda c: (c[0] < _INNER) & (c[1] > enough), inner,
          (0, change, *_median(jnp.stack([u, v])), *duals))
      return (count + 1, *state)

    _, _, *state = lax.while_loop(
        lambda c: (c[0] < _OUTER) & (c[1] > enough), outer,
        (0, jnp.float32(jnp.inf), u, v, *duals))
    return tuple(state)

  zeros = (jnp.zeros_like(u),) * 4
  return lax.fori_loop(0, _WARPS, warp_once, (u, v, *zeros))[:2]


def _step(gx, gy, constant, u, v, ux, uy, vx, vy):
  """Does one iteration of both flow and dual variables.

  Args:
    gx: gradient of the warped second frame, along the row; [H, W].
    gy: along the column.
    constant: what the brightness changes without any further motion.
    u: flow along the row.
    v: along the column.
    ux: dual variables of u and v, along both axes.
    uy: see `ux`.
    vx: see `ux`.
    vy: see `ux`.

  Returns:
    (sum of the squared changes of the flow, u, v, ux, uy, vx, vy).
  """
  squared = gx * gx + gy * gy
  residual = constant + (gx * u + gy * v)
  most = _LAMBDA * _THETA
  exact = -residual / jnp.where(squared > _FLAT, squared, 1.0)
  along = jnp.where(squared > _FLAT, jnp.clip(exact, -most, most),
                    -most * jnp.sign(residual) * (
                        jnp.abs(residual) > most * squared))
  new_u = u + along * gx + _THETA * _divergence(ux, uy)
  new_v = v + along * gy + _THETA * _divergence(vx, vy)
  change = ((new_u - u) ** 2 + (new_v - v) ** 2).sum()
  # Else they are computed anew for each of their differences.
  new_u, new_v = lax.optimization_barrier((new_u, new_v))
  duals = [dual for x, pair in ((new_u, (ux, uy)), (new_v, (vx, vy)))
           for dual in _dual_step(x, *pair)]
  return (change, new_u, new_v, *duals)


def _dual_step(x, along_row, along_column):
  rate = _TAU / _THETA
  dx = jnp.pad(x[:, 1:] - x[:, :-1], ((0, 0), (0, 1)))
  dy = jnp.pad(x[1:] - x[:-1], ((0, 1), (0, 0)))
  norm = 1 + rate * jnp.sqrt(dx * dx + dy * dy)
  return (along_row + rate * dx) / norm, (along_column + rate * dy) / norm


def _divergence(along_row, along_column):
  left = jnp.pad(along_row[:, :-1], ((0, 0), (1, 0)))
  above = jnp.pad(along_column[:-1], ((1, 0), (0, 0)))
  return (along_row - left) + (along_column - above)


def _centered_gradient(x):
  """Returns the gradients along row and column, one-sided at the borders."""
  def along_row(x):
    return 0.5 * jnp.concatenate([x[:, 1:2] - x[:, :1], x[:, 2:] - x[:, :-2],
                                  x[:, -1:] - x[:, -2:-1]], axis=1)
  return along_row(x), along_row(x.T).T


def _resize(x, size, ratio=None):
  """Resizes bilinearly around pixel centres, without antialiasing."""
  rows, columns = (
      _resize_matrix(old, new, ratio or old / new)
      for old, new in zip(x.shape, size, strict=True))
  with jax.default_matmul_precision('highest'):
    return rows @ x @ columns.T


def _resize_matrix(old, new, ratio):
  place = (np.arange(new) + 0.5) * ratio - 0.5
  low = np.floor(place).astype(int)
  share = (place - low).astype(np.float32)
  matrix = np.zeros((new, old), np.float32)
  for at, weight in ((low, 1 - share), (low + 1, share)):
    np.add.at(matrix, (np.arange(new), at.clip(0, old - 1)), weight)
  return matrix


def _warp(images, u, v):
  """Samples images [H, W, K] where a flow points to; 0 outside."""
  height, width, channels = images.shape
  border = 2
  flat = jnp.pad(images, ((border, border),) * 2 + ((0, 0),))
  row_length = width + 2 * border
  flat = flat.reshape(-1, channels)

  def taps(place, length):
    fine = jnp.round(place * 2 ** _SUBPIXEL_BITS).astype(jnp.int32)
    share = (fine & (2 ** _SUBPIXEL_BITS - 1)) / 2 ** _SUBPIXEL_BITS
    first = (fine >> _SUBPIXEL_BITS) - 1
    # What is outside is clipped into the border of zeros.
    return [(jnp.clip(first + i, -1, length) + border, weight)
            for i, weight in enumerate(_cubic_weights(share))]

  columns = taps(jnp.arange(width, dtype=u.dtype) + u, width)
  rows = taps(jnp.arange(height, dtype=v.dtype)[:, None] + v, height)
  return sum(flat[y * row_length + x] * (wx * wy)[..., None]
             for y, wy in rows for x, wx in columns)


def _cubic_weights(t):
  """Returns the weights of the pixels at -1, 0, 1, 2 for a place in [0, 1)."""
  a, s = _CUBIC, 1 - t
  before = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
  here = ((a + 2) * t - (a + 3)) * t * t + 1
  after = ((a + 2) * s - (a + 3)) * s * s + 1
  return before, here, after, 1 - before - here - after


def _median(x):
  """Returns medians of 5x5 pixels of [N, H, W]; the border is repeated."""
  _, height, width = x.shape
  padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2)), mode='edge')
  values = [padded[:, i:i + height, j:j + width]
            for i in range(5) for j in range(5)]
  for low, high in _EXCHANGES:
    a, b = values[low], values[high]
    values[low], values[high] = jnp.minimum(a, b), jnp.maximum(a, b)
  return values[12]


def _median_exchanges(count):
  """Returns comparisons that bring the median of `count` values to the middle.

  Those of Batcher's sorting network that reach the middle. Comparing planes is
  far quicker than sorting each pixel's neighbours.
  """
  pairs = []
  p = 1
  while p < count:
    k = p
    while k:
      pairs += [(i + j, i + j + k)
                for j in range(k % p, count - k, 2 * k)
                for i in range(min(k, count - j - k))
                if (i + j) // (2 * p) == (i + j + k) // (2 * p)]
      k //= 2
    p *= 2
  wanted, kept = {count // 2}, []
  for low, high in reversed(pairs):
    if low in wanted or high in wanted:
      wanted |= {low, high}
      kept.append((low, high))
  return tuple(reversed(kept))


_EXCHANGES = _median_exchanges(25)
