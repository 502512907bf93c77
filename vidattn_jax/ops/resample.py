"""Zooms images to where a saliency map is large.

Recasens et al., "Learning to Zoom: a Saliency-Based Sampling Layer for Neural
Networks", ECCV 2018. Their convolution with a wide Gaussian is separable, and
so are the repeated edges around it: products with two small matrices compute
the same, hundreds of times as fast.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from vidattn_jax.ops import platform
from vidattn_jax.ops import resizing

# Full width at half maximum of the Gaussian, in parts of the map's extent.
_WIDTH = 13 / 30
# Most parts in which the CPU samples an image, one after the other; for the
# gradient to a grid, all images.
_BANDS = 8
_PIECES = 32


def resample(images: jax.Array, saliency: jax.Array,
             out: jax.Array | None = None) -> jax.Array:
  """Draws images anew, so that salient regions take more room.

      images = jnp.asarray(frames, jnp.float32)        # [N, H, W, 3]
      saliency = jnp.full((len(frames), 31, 31), 0.1)
      saliency = saliency.at[:, 8, 20].set(5.)         # row, column
      zoomed = resample(images, saliency)              # [N, H, W, 3]

  Args:
    images: [N, H, W, C] of any type; no gradient goes there. Whole numbers are
      rounded in the end.
    saliency: [N, G, G], G at least 2 (31 in the papers), of rows and columns,
      over the whole image whatever its shape. Only proportions matter. What is
      below 0 or not finite counts as 0; a map of one value, or of zeros, leaves
      its image as it is.
    out: see `sample`.

  Returns:
    [N, H, W, C] of the images' type.

  Raises:
    ValueError: the shapes do not fit, or the type of `out`.
  """
  if (images.ndim != 4 or saliency.ndim != 3
      or saliency.shape[1] != saliency.shape[2] or saliency.shape[1] < 2
      or len(images) != len(saliency)):
    raise ValueError(
        f'The images have the shape {images.shape} and the saliency '
        f'{saliency.shape}; give [N, H, W, C] and [N, G, G] with the same N '
        'and G at least 2.')
  return sample(images, sampling_grid(saliency), out)


@functools.cache
def _kernels(size):
  """Returns the two matrices [2 * G, G] that make grids, one on the other.

  T is the convolution with a Gaussian cut to 2 * (G - 1) + 1 cells, E repeats
  the edge G - 1 times on each side, p are the coordinates of the cells, 0 to 1
  inside. The matrices are T E and T diag(p) E.
  """
  reach = size - 1
  cells = np.arange(-reach, size + reach)
  inner = np.arange(size)
  sigma = _WIDTH * reach / (2 * np.sqrt(2 * np.log(2)))
  distance = cells - inner[:, None]
  gaussian = np.where(np.abs(distance) <= reach,
                      np.exp(-distance**2 / (2 * sigma**2)), 0)
  repeat = np.clip(cells, 0, reach)[:, None] == inner
  return np.concatenate(
      [gaussian @ repeat, (gaussian * (cells / reach)) @ repeat])


def sampling_grid(saliency: jax.Array) -> jax.Array:
  """Computes where to sample: salient regions attract the grid.

  Each point of the grid is the mean of the coordinates around it, weighted by
  the saliency and a Gaussian whose full width at half maximum is 13/30 of the
  map, in a window as wide as the map on every side. Around the map, its edge
  goes on.

  Args:
    saliency: see `resample`.

  Returns:
    [N, G, G, 2]: (x, y) in [-1, 1]; -1 and 1 are the centres of the first and
    the last pixel. float32 or wider.
  """
  q = saliency.astype(jnp.promote_types(saliency.dtype, jnp.float32))
  q = jnp.where((q > 0) & jnp.isfinite(q), q, 0)
  # The scale does not matter, but must not make sums vanish or overflow.
  largest = lax.stop_gradient(q.max((1, 2), keepdims=True))
  q = jnp.where(largest > 0, q / jnp.where(largest > 0, largest, 1), 1)
  kernels = jnp.asarray(_kernels(q.shape[-1]), q.dtype)
  size = q.shape[-1]
  sums = jnp.einsum('ar,nrc,bc->nab', kernels, q, kernels,
                    precision='highest')
  mass = sums[:, :size, :size]
  points = jnp.stack([sums[:, :size, size:], sums[:, size:, :size]], -1)
  return jnp.clip(2 * points / mass[..., None] - 1, -1, 1)


def sample(images: jax.Array, grid: jax.Array,
           out: jax.Array | None = None) -> jax.Array:
  """Reads images at the points of a coarse grid and between them.

  Args:
    images: [N, H, W, C]; no gradient goes there.
    grid: as `sampling_grid` returns it; brought to [N, H, W, 2] linearly.
    out: array of the images' shape and the grid's type whose values do not
      matter, such as the last result. Donated to the jitted function around
      this, its memory takes the result, which on a CPU saves asking the system
      for it and filling it.

  Returns:
    [N, H, W, C] of the images' type, interpolated linearly.

  Raises:
    ValueError: `out` has another shape or type.
  """
  values = _sample(lax.stop_gradient(images).astype(grid.dtype), grid, out)
  return _of_type(values, images.dtype)


def resample_along(
    images: jax.Array, saliency: jax.Array, tangent: jax.Array,
    out: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Resamples, and derives the result along one direction, in one pass.

  Args:
    images: see `resample`.
    saliency: see `resample`.
    tangent: change of the saliency, of its shape.
    out: see `sample`.

  Returns:
    (what `resample` returns, its derivative [N, H, W, C], float32 or wider).

  Raises:
    ValueError: see `sample`.
  """
  points, moved = jax.jvp(
      lambda q: _along_rows(images, sampling_grid(q)), (saliency,), (tangent,))
  wide = lax.stop_gradient(images).astype(points[0].dtype)
  values, change = _read_all(_read_both, _both_on_cpu, wide, points, moved,
                             rooms=_rooms(out, wide, moved))
  return _of_type(values, images.dtype), change


def _of_type(values, dtype):
  if jnp.issubdtype(dtype, jnp.integer):
    values = jnp.round(values)
  return values.astype(dtype)


@jax.custom_vjp
def _sample(images, grid, out):
  def on_cpu(*args):
    return [_read(_neighbours_of_one, *args)]

  [values] = _read_all(lambda *args: [_read(*args)], on_cpu, images,
                       _along_rows(images, grid),
                       rooms=_rooms(out, images))
  return values


def _sample_fwd(images, grid, out):
  return _sample(images, grid, out), (images, grid)


def _sample_bwd(residuals, g):
  images, grid = residuals
  points, enlarge = jax.vjp(lambda grid: _along_rows(images, grid), grid)

  def spread(rows, images, points, g, products):
    place, x, y = _places(images, points, rows)
    here, right, below, across = products(g, images, place)
    cross = across - below - right + here
    to_places = [right - here + y * cross, below - here + x * cross]
    _, back = jax.vjp(lambda points: _between(points, rows), points)
    return back(to_places)[0]

  def product(g, images, place, offset):
    # Written out: XLA's sum over so short an axis is slow.
    seen = _pixels(images, place + offset)
    return sum(g[..., c] * seen[..., c] for c in range(g.shape[-1]))

  def plain(images, points, g):
    return spread(rows, images, points, g, lambda *args: [
        product(*args, offset) for offset in _offsets(images)])

  def on_cpu(images, points, g):
    def add(i, total):
      part_g = lax.dynamic_slice_in_dim(g, i * step, step, 1)
      return jax.tree.map(jnp.add, total, spread(
          _part(rows, i * step, step), images, points, part_g,
          lambda *args: lax.map(functools.partial(product, *args),
                                jnp.asarray(_offsets(images)))))

    step = _step(images.shape[1], _PIECES)
    return lax.fori_loop(0, images.shape[1] // step, add,
                         [jnp.zeros_like(p) for p in points])

  rows = _row_places(grid.shape[1], images.shape[1], grid.dtype)
  moved = platform.by_platform(on_cpu, plain, images, points, g)
  return None, *enlarge(moved), None


_sample.defvjp(_sample_fwd, _sample_bwd)


def _read_all(plain, on_cpu, images, *points, rooms=()):
  """Samples images; on the CPU, frame by frame and some rows after the others.

  There, without a loop, XLA joins reading pixels to whatever uses them, and
  reads them anew for each number that it computes; and what lies between would
  not fit into the caches.

  Args:
    plain: function (neighbours, images, *points, rows) -> arrays [N, h, W, C].
    on_cpu: function (images, *points, rows) that returns the same, for one
      image.
    images: [N, H, W, C].
    *points: what `_along_rows` returns.
    rooms: an array for each result, of its shape, which may take it.

  Returns:
    Arrays [N, H, W, C].
  """
  rows = _row_places(points[0][0].shape[1], images.shape[1], images.dtype)
  step = _step(images.shape[1], _BANDS)

  def by_frames(rooms, images, *points):
    def add_frame(n, results):
      frame, *own = jax.tree.map(
          lambda a: lax.dynamic_slice_in_dim(a, n, 1), [images, *points])

      def add(i, results):
        values = on_cpu(frame, *own, _part(rows, i * step, step))
        return [lax.dynamic_update_slice(all_, x, (n, i * step, 0, 0))
                for all_, x in zip(results, values)]

      return lax.fori_loop(0, images.shape[1] // step, add, results)

    return lax.fori_loop(
        0, len(images), add_frame,
        rooms or [_room(images, along) for along, _ in points])

  return platform.by_platform(
      by_frames, lambda _, *args: plain(_neighbours, *args, rows), list(rooms),
      images, *points)


def _part(rows, first, count):
  return [lax.dynamic_slice_in_dim(a, first, count) for a in rows]


def _step(rows, parts):
  """Returns how many rows the CPU samples at once, in at most so many parts."""
  return rows // next(k for k in range(parts, 0, -1) if rows % k == 0)


def _row_places(size, height, dtype):
  """Returns the row of the grid before each row of pixels, and how far."""
  place = np.linspace(0, size - 1, height)
  before = np.clip(np.floor(place), 0, size - 2)
  return (jnp.asarray(before, jnp.int32),
          jnp.asarray(place - before, dtype)[:, None])


def _along_rows(images, grid):
  """Brings a grid [N, G, G, 2] to x and y [N, G, W], in pixels."""
  return [resizing.resize_aligned((grid[..., i] + 1) * ((size - 1) / 2),
                                  {2: images.shape[2]})
          for i, size in enumerate(images.shape[2:0:-1])]


def _between(points, rows):
  """Returns x and y in pixels, [N, h, W], of what `_along_rows` returns."""
  before, share = rows
  return [p[:, before] + share * (p[:, before + 1] - p[:, before])
          for p in points]


def _places(images, points, rows):
  """Returns indices of pixels and what is beyond them, x and y, [N, h, W].

  Args:
    images: [N, H, W, C].
    points: what `_along_rows` returns.
    rows: a part of `_row_places`.
  """
  index, beyond = [], []
  for place, size in zip(_between(points, rows), images.shape[2:0:-1]):
    first = jnp.clip(place.astype(jnp.int32), 0, max(size - 2, 0))
    index.append(first)
    beyond.append(place - first.astype(place.dtype))
  return index[1] * images.shape[2] + index[0], *beyond


def _offsets(images):
  """Returns offsets: of the pixel, its right, its lower, and of both."""
  height, width = images.shape[1:3]
  right, down = min(width - 1, 1), width * min(height - 1, 1)
  return 0, right, down, down + right


def _pixels(images, place):
  """Returns [N, h, W, C] at the indices `place` [N, h, W]."""
  flat = images.reshape(len(images), -1, images.shape[-1])
  return jax.vmap(lambda image, i: image.at[i].get(
      mode='promise_in_bounds'))(flat, place)


def _neighbours(images, place):
  """Returns the pixels at `place`, on the right, below, and beyond both."""
  return [_pixels(images, place + offset) for offset in _offsets(images)]


def _neighbours_of_one(image, place):
  """Does so for one image [1, H, W, C], of which the CPU makes faster code.

  Views that begin later take the same index: it is limited and brought from a
  vector to an address once, not four times.
  """
  flat = image.reshape(-1, image.shape[-1])
  *_, last = offsets = _offsets(image)
  return [flat[offset:len(flat) - last + offset].at[place].get(
      mode='promise_in_bounds', wrap_negative_indices=False)
          for offset in offsets]


def _read(neighbours, images, points, rows):
  place, *beyond = _places(images, points, rows)
  x, y = (b[..., None] for b in beyond)
  here, right, below, across = neighbours(images, place)
  above, below = here + x * (right - here), below + x * (across - below)
  return above + y * (below - above)


def _read_both(neighbours, images, points, moved, rows):
  """Returns what `_read` does, and its derivative when the points move."""
  place, *beyond = _places(images, points, rows)
  to_right, down = (m[..., None] for m in _between(moved, rows))
  x, y = (b[..., None] for b in beyond)
  here, right, below, across = neighbours(images, place)
  first, second = right - here, across - below
  above = here + x * first
  step = below + x * second - above
  return [above + y * step,
          to_right * (first + y * (second - first)) + down * step]


def _both_on_cpu(image, points, moved, rows):
  """Computes `_read_both` of one image.

  XLA would read the pixels for each of the two results: as one complex number,
  they are computed together, and the loop keeps them so.
  """
  count = len(rows[0])
  step = _step(count, 2)

  def add(i, pairs):
    pair = lax.complex(*_read_both(_neighbours_of_one, image, points, moved,
                                   _part(rows, i * step, step)))
    return lax.dynamic_update_slice_in_dim(pairs, pair, i * step, 1)

  zeros = jnp.zeros((1, count, *image.shape[2:]), image.dtype)
  pairs = lax.fori_loop(0, count // step, add, lax.complex(zeros, zeros))
  return pairs.real, pairs.imag


def _rooms(out, images, *others):
  """Returns `out`, and an array for each of the others; [] without `out`."""
  if out is None:
    return []
  if (out.shape, out.dtype) != (images.shape, images.dtype):
    raise ValueError(f'out is {out.dtype} {out.shape}; the result is '
                     f'{images.dtype} {images.shape}.')
  return [out, *(_room(images, along) for along, _ in others)]


def _room(images, points):
  """Returns an array like `images`, whose values do not matter.

  Of zeros, XLA makes one array for all and copies it for each.
  """
  return jnp.broadcast_to(points[:1, :1, :1, None], images.shape)
