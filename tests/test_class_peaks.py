"""Class peaks, sparse attention and resampling against reference numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidattn_jax.attention import sparse
from vidattn_jax.ops import gaussian
from vidattn_jax.ops import peaks
from vidattn_jax.ops import platform
from vidattn_jax.ops import resample

# Largest differences from the float64 reference, by what a name begins with.
_TOLERANCES = {'class_maps': 1e-4, 'logits': 1e-5, 'entropy': 1e-5,
               'response_raw': 1e-4, 'response': 1e-5, 'q_': 2e-5,
               'grid': 1e-5, 'v_': 1e-4}
_INPUTS = ('features', 'fc_kernel', 'fc_bias', 'phi', 'image', 'beta1',
           'beta2')


@functools.cache
def _reference(data_dir, name):
  """Returns arrays of a file, images and frames on [0, 1]."""
  arrays = dict(np.load(data_dir / 'sparse_attention' / f'{name}.npz'))
  largest = {'image': 255, 'v_dis': 65535, 'v_com': 65535, 'resampled': 65535}
  return {key: (x / largest[key]).astype(np.float32) if key in largest else x
          for key, x in arrays.items()}


@pytest.fixture(params=['cpu', pytest.param('plain', marks=pytest.mark.slow)])
def form(request, monkeypatch):
  """Takes the CPU's form of operations, or that of other platforms."""
  if request.param == 'plain':
    monkeypatch.setattr(platform, 'by_platform',
                        lambda on_cpu, plain, *args, **_: plain(*args))
  return request.param


def _chain(features, kernel, bias, phi, image, beta1, beta2):
  """Computes all that a reference file holds, step by step."""
  raw, logits, entropy = peaks.chosen_map(features, kernel, bias)
  response = peaks.normalized_response(raw)
  found = peaks.find_peaks(response)
  dis, com = peaks.split(found, response, phi)
  strongest, weakest = peaks.extremes(found, response)
  outputs = {'class_maps': peaks.class_maps(features, kernel),
             'response_raw': raw, 'logits': logits, 'entropy': entropy,
             'response': response, 'peak_mask': found, 'dis_mask': dis,
             'com_mask': com, 'strongest_mask': strongest,
             'weakest_mask': weakest}
  for kind, part, beta in (('dis', dis, beta1), ('com', com, beta2)):
    q = gaussian.saliency(response, part, beta, inverse=kind == 'com')
    outputs |= {f'q_{kind}': q, f'grid_{kind}': resample.sampling_grid(q),
                f'v_{kind}': resample.resample(image, q)}
  return outputs


def _arguments(reference):
  return [np.asarray(reference[key], np.float32) for key in _INPUTS]


_AXES = (0, None, None, 0, 0, None, None)


def _by_vmap(*args):
  return jax.tree.map(lambda x: x[:, 0], jax.vmap(_chain, _AXES)(*[
      x[:, None] if axis == 0 else x for x, axis in zip(args, _AXES)]))


def _devices():
  """Returns how eight devices have a part of an array each, or all of it."""
  mesh = jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Auto,))
  return [jax.NamedSharding(mesh, jax.P(*names)) for names in (('data',), ())]


def _on_eight_devices(*args):
  """Runs eight frames on eight devices; those behind the last come again."""
  over, whole = _devices()
  count = len(args[0])
  outputs = jax.jit(_chain)(*[
      jax.device_put(x[np.arange(8) % count], over) if axis == 0
      else jax.device_put(x, whole) for x, axis in zip(args, _AXES)])
  for key, x in outputs.items():
    # The CPU's loop over images takes them from all devices.
    split = not key.startswith('v_')
    assert x.sharding.is_equivalent_to(over if split else whole, x.ndim), key
  return jax.tree.map(lambda x: x[:count], outputs)


_RUNS = {'jit': jax.jit(_chain), 'vmap': jax.jit(_by_vmap),
         'sharded': _on_eight_devices}


def _check_every_step(data_dir, name, run):
  reference = _reference(data_dir, name)
  for key, ours in run(*_arguments(reference)).items():
    if ours.dtype == bool:
      np.testing.assert_array_equal(ours, reference[key], err_msg=key)
      continue
    tolerance = next(t for start, t in _TOLERANCES.items()
                     if key.startswith(start))
    np.testing.assert_allclose(ours, reference[key], 0, tolerance, err_msg=key)
  entropy = peaks.chosen_map(*_arguments(reference)[:3])[2]
  np.testing.assert_array_equal(np.asarray(entropy) < 0.2,
                                reference['use_top1'])


@pytest.mark.parametrize('name, run', [
    ('64x80', 'jit'), ('112x112', 'jit'), ('64x80', 'vmap'),
    ('64x80', 'sharded'),
    pytest.param('112x112', 'vmap', marks=pytest.mark.slow),
    pytest.param('112x112', 'sharded', marks=pytest.mark.slow)])
def test_every_step_equals_the_reference(data_dir, name, run):
  _check_every_step(data_dir, name, _RUNS[run])


@pytest.mark.slow
@pytest.mark.parametrize('run', list(_RUNS))
def test_every_step_equals_the_reference_when_optimized(data_dir, run):
  """As XLA compiles outside of tests."""
  jax.config.update('jax_disable_most_optimizations', False)
  jax.clear_caches()
  try:
    _check_every_step(data_dir, '64x80', _RUNS[run])
  finally:
    jax.config.update('jax_disable_most_optimizations', True)
    jax.clear_caches()


def test_resampled_images_stay_on_their_devices(monkeypatch):
  """In the form for accelerators."""
  monkeypatch.setattr(platform, 'by_platform',
                      lambda on_cpu, plain, *args, **_: plain(*args))
  over, _ = _devices()
  images, q = _smooth((8, 6, 7, 2), np.float32), 0.1 + np.eye(5)[None]
  zoomed = jax.jit(lambda *args: resample.resample(*args))(*[
      jax.device_put(x, over) for x in (images, np.tile(q, (8, 1, 1)))])
  assert zoomed.sharding.is_equivalent_to(over, 4)


@pytest.mark.parametrize('key, options', [
    ('mask_mean', {}), ('mask_median', {'threshold': 'median'}),
    ('mask_nofilter', {'threshold': 'none'}),
    ('mask_mean_win5', {'window': 5})])
def test_peaks_of_ties_ridges_and_borders(data_dir, key, options):
  reference = _reference(data_dir, 'peaks')
  found = peaks.find_peaks(jnp.asarray(reference['response']), **options)
  np.testing.assert_array_equal(found, reference[key])


def test_there_is_no_other_threshold():
  with pytest.raises(ValueError, match='did you mean mean'):
    peaks.find_peaks(jnp.zeros((1, 3, 3)), threshold='meam')


def test_resampling_equals_the_reference(data_dir, form):
  reference = _reference(data_dir, 'sampler')
  q = jnp.asarray(reference['q'])
  image = jnp.asarray(reference['image'])
  grid = resample.sampling_grid(q)
  np.testing.assert_allclose(grid, reference['grid'], 0, 1e-5)
  images = jnp.broadcast_to(image, (len(q), *image.shape))
  ours = resample.resample(images, q)
  np.testing.assert_allclose(ours, reference['resampled'], 0, 1e-4)
  # The first saliency is constant.
  np.testing.assert_allclose(ours[0], image, 0, 1e-5)
  # Where each pixel comes from: an image of its own coordinates.
  height, width = image.shape[:2]
  places = jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, width),
                                  jnp.linspace(-1, 1, height)), -1)
  np.testing.assert_allclose(
      resample.sample(places[None], grid[1:2])[0],
      reference['full_grid_center'], 0, 1e-5)


@pytest.mark.parametrize('size', [6, 7])
def test_saliency_is_the_sum_over_its_peaks(size):
  """One by one, at every cell; and as many as there can be at once."""
  rng = np.random.default_rng(0)
  response = rng.uniform(0.1, 1, (size * size + 1, size, size)).astype(
      np.float32)
  found = np.zeros_like(response, bool)
  found[:-1].reshape(size * size, -1)[np.diag_indices(size * size)] = True
  found[-1, ::2, ::2] = True
  y, x = np.mgrid[:size, :size]
  for inverse in (False, True):
    ours = gaussian.saliency(response, found, jnp.float32(2.5), 0.1, inverse)
    for n, (strong, cells) in enumerate(zip(response, found)):
      expected = 0.1 + sum(
          strong[p] ** (-1 if inverse else 1)
          * np.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / (strong[p] * 6.25))
          for p in map(tuple, np.argwhere(cells)))
      np.testing.assert_allclose(ours[n], expected, 1e-5, err_msg=str(n))


# --- Gradients ---------------------------------------------------------------


def _energy(reference, through):
  """Returns a function of both betas."""
  features, kernel, bias, phi, image, *betas = map(jnp.asarray,
                                                   _arguments(reference))
  raw, _, _ = peaks.chosen_map(features, kernel, bias)
  response = peaks.normalized_response(raw)
  parts = peaks.split(peaks.find_peaks(response), response, phi)

  def energy(*betas):
    return sum(jnp.mean(through(image, response, part, beta, 0.09,
                                inverse) ** 2)
               for part, beta, inverse in zip(parts, betas, (False, True)))

  return energy, betas


def _step_by_step(image, response, part, beta, base, inverse):
  return resample.resample(image, gaussian.saliency(response, part, beta, base,
                                                    inverse))


@pytest.mark.parametrize('name, through', [
    ('64x80', sparse.zoom), ('64x80', _step_by_step),
    pytest.param('112x112', sparse.zoom, marks=pytest.mark.slow),
    pytest.param('112x112', _step_by_step, marks=pytest.mark.slow)])
def test_gradients_of_the_widths_equal_the_reference(data_dir, name, through,
                                                     form):
  reference = _reference(data_dir, name)
  energy, betas = _energy(reference, through)
  value, ours = jax.jit(jax.value_and_grad(energy, (0, 1)))(*betas)
  np.testing.assert_allclose(value, reference['energy'], 1e-5)
  np.testing.assert_allclose(
      ours, [reference['d_beta1'], reference['d_beta2']], 2e-3, 1e-6)


def _smooth(shape, dtype=np.float64):
  """Returns images that change slowly."""
  n, y, x, c = np.meshgrid(*map(np.arange, shape), indexing='ij')
  return np.asarray(np.sin(0.2 * y + 0.1 * n) * np.cos(0.15 * x + c), dtype)


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def test_gradients_agree_with_finite_differences(float64, form):
  """Of the widths, and of any saliency."""
  rng = np.random.default_rng(0)
  images = _smooth((2, 20, 26, 2))
  weights = rng.standard_normal(images.shape)
  response = rng.random((2, 9, 9))
  found = peaks.find_peaks(jnp.asarray(response))
  assert 3 < found.sum() < 60

  def of_beta(beta, inverse):
    return jnp.vdot(weights, sparse.zoom(images, response, found, beta, 0.1,
                                         inverse))

  def of_saliency(step):
    q = 0.3 + response + step * direction
    return jnp.vdot(weights, resample.resample(images, q))

  direction = rng.standard_normal(response.shape)
  for function, at in ((functools.partial(of_beta, inverse=False), 2.0),
                       (functools.partial(of_beta, inverse=True), 3.0),
                       (of_saliency, 0.0)):
    function = jax.jit(function)
    step = 1e-6
    expected = (function(at + step) - function(at - step)) / (2 * step)
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(jax.grad(function)(at), expected, 1e-5)


def test_derivative_forward_is_the_one_backward(float64, form):
  rng = np.random.default_rng(1)
  # Rows that the CPU computes in several parts.
  images, q = _smooth((2, 36, 15, 3)), 0.2 + rng.random((2, 7, 7))
  tangent, g = rng.standard_normal(q.shape), rng.standard_normal(images.shape)
  values, change = resample.resample_along(images, jnp.asarray(q),
                                           jnp.asarray(tangent))
  plain, back = jax.vjp(lambda q: resample.resample(images, q), jnp.asarray(q))
  np.testing.assert_allclose(values, plain, 1e-12)
  np.testing.assert_allclose(np.vdot(g, change), np.vdot(back(g)[0], tangent),
                             1e-9)


def test_memory_of_the_last_result_takes_the_next():
  images, saliency = _smooth((2, 24, 40, 3), np.float32), 1 + jnp.eye(7)[None]
  saliency = jnp.tile(saliency, (2, 1, 1))
  plain = resample.resample(images, saliency)
  again = jax.jit(resample.resample, donate_argnums=2)
  # Values of what is written over do not matter.
  last = again(images, saliency, jnp.full_like(plain, jnp.nan))
  np.testing.assert_allclose(last, plain, 0, 1e-6)
  address = last.unsafe_buffer_pointer()
  for _ in range(2):
    last = again(images, saliency, last)
    assert last.unsafe_buffer_pointer() == address
  along = jax.jit(resample.resample_along, donate_argnums=3)
  values, change = along(images, saliency, jnp.ones_like(saliency), last)
  assert values.unsafe_buffer_pointer() == address
  np.testing.assert_allclose(values, plain, 0, 1e-6)
  np.testing.assert_allclose(change, resample.resample_along(
      images, saliency, jnp.ones_like(saliency))[1], 0, 1e-5)
  for out in (plain[:1], plain.astype(jnp.bfloat16)):
    with pytest.raises(ValueError, match='out is .*the result is float32'):
      resample.resample(images, saliency, out)


def test_no_gradient_goes_to_pixels_and_responses():
  images, response = _smooth((1, 8, 8, 1), np.float32), jnp.eye(5)[None]
  grads = jax.grad(lambda *args: sparse.zoom(
      *args, peaks.find_peaks(args[1]), jnp.float32(2), 0.1, False).sum(),
                   (0, 1))(images, response)
  assert not any(np.any(g) for g in grads)
  assert not np.any(jax.grad(lambda x: resample.resample(
      x, 1 + response).sum())(images))


# --- Properties --------------------------------------------------------------


def test_scale_of_saliency_does_not_matter():
  rng = np.random.default_rng(0)
  images, q = _smooth((3, 17, 23, 3), np.float32), rng.random((3, 31, 31))
  ours = resample.resample(images, jnp.asarray(q, jnp.float32))
  assert np.abs(ours - images).max() > 0.05
  for factor in (1e-33, 3.7, 1e37):
    again = resample.resample(images, jnp.asarray(q * factor, jnp.float32))
    np.testing.assert_allclose(again, ours, 0, 1e-5)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, -3.0])
def test_saliency_that_is_no_number_counts_as_none(bad):
  images = _smooth((1, 11, 14, 3), np.float32)
  q = np.ones((1, 6, 6), np.float32)
  q[0, 2, 3] = 0
  ours = resample.resample(images, jnp.asarray(q))
  assert np.abs(ours - images).max() > 0.01
  q[0, 2, 3] = bad
  np.testing.assert_array_equal(resample.resample(images, jnp.asarray(q)), ours)
  if bad == -3:
    whole = jnp.asarray(q, jnp.int32)
    np.testing.assert_array_equal(resample.resample(images, whole), ours)


@pytest.mark.parametrize('q', [0.0, 5.0, -1.0, np.nan, np.inf])
def test_saliency_of_one_value_leaves_images(q):
  images = _smooth((1, 11, 14, 3), np.float32)
  ours = resample.resample(images, jnp.full((1, 6, 6), q))
  np.testing.assert_allclose(ours, images, 0, 1e-5)


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 1), (2, 2)])
def test_smallest_images(size, form):
  images = _smooth((2, *size, 3), np.float32)
  q = jnp.zeros((2, 31, 31)).at[:, 3, 5].set(1)
  ours = resample.resample(images, q)
  assert ours.shape == images.shape
  low, high = images.min((1, 2)), images.max((1, 2))
  assert np.all((ours >= low[:, None, None] - 1e-6)
                & (ours <= high[:, None, None] + 1e-6))
  if size == (1, 1):
    np.testing.assert_array_equal(ours, images)


def test_what_is_salient_grows_where_it_is():
  """A square in the upper right is drawn larger, and stays there."""
  images = np.zeros((1, 60, 80, 1), np.uint8)
  images[:, 10:16, 60:66] = 200
  images[:, 44:50, 12:18] = 100
  q = jnp.full((1, 31, 31), 0.05).at[0, 6, 24].set(3.0)
  zoomed = np.asarray(resample.resample(images, q))
  assert zoomed.dtype == np.uint8
  grown, shrunk = zoomed > 100, (zoomed > 50) & (zoomed <= 100)
  assert grown.sum() > 1.3 * 36
  assert 0 < shrunk[:, 35:, :40].sum() <= 36
  y, x = np.argwhere(grown[0, ..., 0]).mean(0)
  assert y < 30 and x > 40


@pytest.mark.parametrize('images, q', [
    ((2, 4, 4, 3), (1, 5, 5)), ((4, 4, 3), (1, 5, 5)),
    ((1, 4, 4, 3), (1, 5, 6)), ((1, 4, 4, 3), (1, 1, 1))])
def test_wrong_shapes_are_told(images, q):
  with pytest.raises(ValueError, match=r'give \[N, H, W, C\] and \[N, G, G\]'):
    resample.resample(jnp.zeros(images), jnp.zeros(q))


@pytest.mark.parametrize('function', [
    lambda images, q: resample.resample(images, q),
    lambda images, q: jax.grad(
        lambda q: resample.resample(images, q).sum())(q),
    lambda images, q: jax.grad(lambda beta: sum(
        sparse.zoom(images, q, q > 0, beta, 0.1, inverse).sum()
        for inverse in (False, True)))(jnp.float32(2))],
                         ids=['forward', 'of saliency', 'of widths'])
def test_direct_convolution_stands_nowhere(function):
  program = str(jax.make_jaxpr(function)(
      jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 31, 31))))
  assert 'dot_general' in program and 'conv_general_dilated' not in program
