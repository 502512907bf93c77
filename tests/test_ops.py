"""Temporal shift, and pooling, convolving and gating with planes."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax.backbones import layers
from vidattn_jax.backbones import resnet
from vidattn_jax.models import get_model
from vidattn_jax.ops import plane_convolution as plane_conv
from vidattn_jax.ops import planes
from vidattn_jax.ops import temporal_shift

SHAPES = [(2, 8, 7, 6, 16), (1, 1, 5, 9, 3), (3, 4, 2, 1, 24)]


@pytest.fixture(scope='module')
def golden(data_dir):
  return np.load(data_dir / 'aia_modules.npz')


def _clip(shape, scale=1.0):
  return jnp.asarray(scale * seeded.clip(shape))


@pytest.mark.parametrize('case, shape, subset', [
    ('a', (8, 16, 14, 12), np.s_[::2, ::3, ::2, ::2]),
    ('b', (16, 64, 14, 14), np.s_[::3, ::9, ::4, ::4])])
def test_temporal_shift_equals_the_published_code(golden, case, shape, subset):
  frames = seeded.clip(shape).transpose(0, 2, 3, 1)
  x = frames.reshape(-1, 8, *frames.shape[1:])
  y = temporal_shift.temporal_shift(jnp.asarray(x)).reshape(frames.shape)
  y = np.asarray(y).transpose(0, 3, 1, 2)[subset]
  np.testing.assert_array_equal(y, golden[f'shift/{case}/y_sub'])


def test_temporal_shift_of_one_frame_and_of_few_channels():
  one = jnp.ones((1, 1, 2, 2, 16))
  y = temporal_shift.temporal_shift(one)
  assert not y[..., :4].any()
  assert y[..., 4:].all()
  few = _clip((1, 3, 2, 2, 7))
  np.testing.assert_array_equal(temporal_shift.temporal_shift(few), few)


@pytest.mark.parametrize('shape', [(2, 5, 3, 4, 16), (1, 1, 2, 2, 8),
                                   (2, 2, 1, 3, 11)])
def test_temporal_shift_of_both_forms(shape):
  x, g = _clip(shape), _clip(shape, 2.0)
  found = []
  for form in (temporal_shift._select, temporal_shift._join):
    y, pull = jax.vjp(lambda x, form=form: form(x, shape[-1] // 8), x)
    found.append((y, *pull(g)))
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_relu_of_a_sum():
  x = jnp.asarray([-2.0, -0.0, 0.0, 0.5, 3.0, jnp.inf, -jnp.inf, jnp.nan])
  (y, pull), (wanted, its) = (jax.vjp(f, x) for f in (
      layers.relu_of_sum, jax.nn.relu))
  np.testing.assert_array_equal(y, wanted)
  np.testing.assert_array_equal(pull(jnp.ones(8)), its(jnp.ones(8)))
  assert layers.relu_of_sum(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_other_platforms_have_the_plain_forms(compile_for, monkeypatch):
  compile_for('tpu')
  monkeypatch.setattr(temporal_shift, '_select', None)
  monkeypatch.setattr(layers, 'relu', None)
  x = _clip((1, 2, 2, 2, 8))
  np.testing.assert_array_equal(
      temporal_shift.temporal_shift(x), temporal_shift._join(x, 1))
  np.testing.assert_array_equal(layers.relu_of_sum(x), jax.nn.relu(x))


def _memory(model, x):
  """Returns the bytes that evaluation takes beside arguments and results."""
  jax.clear_caches()
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  return jax.jit(lambda v, x: model.apply(v, x)).lower(
      variables, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('name, plain', [
    ('relu_of_sum', jax.nn.relu), ('conv_to_sum', layers.conv)])
def test_sums_of_a_stage_are_computed_once(name, plain, monkeypatch):
  model = get_model(name='tsm_r50', width=0.25, num_frames=16, crop_size=64,
                    num_classes=5)
  video = jnp.ones((1, *model.image_shape))
  ours = _memory(model, video)
  monkeypatch.setattr(layers, name, plain)
  assert ours < 0.85 * _memory(model, video)


def test_sums_are_written_over_what_they_add():
  block = functools.partial(resnet.Block, 16, shift=True)
  x = jnp.ones((1, 8, 16, 16, 16))
  # What conv3 gives and the shortcut, and inputs of a quarter of that.
  assert _memory(nn.Sequential([resnet.Stage((block, block)),
                                layers.GlobalAveragePool()]),
                 x) < 2.5 * 4 * x.size * 4


def _pool_by_hand(x, axis):
  first = jnp.take_along_axis(
      x, jnp.expand_dims(x.argmax(axis), axis), axis).squeeze(axis)
  return jnp.stack([first, x.mean(axis)], axis=1)


@pytest.mark.parametrize('axis', [1, 2, 3, 4])
@pytest.mark.parametrize('shape', SHAPES)
def test_pool_planes_and_its_gradient(shape, axis):
  # Whole numbers make ties, whose gradient goes to the first.
  for x in (_clip(shape), jnp.round(_clip(shape))):
    ours, pullback = jax.vjp(lambda x: planes.pool_planes(x, axis), x)
    wanted, wanted_pullback = jax.vjp(lambda x: _pool_by_hand(x, axis), x)
    np.testing.assert_allclose(ours, wanted, rtol=2e-6, atol=1e-6)
    g = jnp.cos(jnp.arange(ours.size, dtype=jnp.float32)).reshape(ours.shape)
    np.testing.assert_allclose(pullback(g)[0], wanted_pullback(g)[0],
                               rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('axis', [1, 2, 3, 4])
def test_gradient_of_the_maximum_survives_recomputation(axis):
  # The clip is a sum that compilers may compute twice, in different ways:
  # whatever they do, every maximum must pass its gradient on, once.
  x = _clip((4, 4, 10, 10, 16))

  # Moving all of y by one moves each maximum by one.
  moved = jax.jit(jax.grad(lambda offset, x: planes.pool_planes(
      jnp.sin(x * 1.37) / (1 + jnp.exp(x)) + 1.37 * x ** 3 + offset,
      axis)[:, 0].sum()))(0.0, x)
  assert float(moved) == x.size // x.shape[axis]


def test_a_number_that_is_none_is_not_lost():
  x = _clip((1, 3, 4, 5, 6)).at[0, 1, 2, 3, 4].set(jnp.nan)
  for axis in (1, 2, 3, 4):
    assert int(jnp.isnan(planes.pool_planes(x, axis)[:, 0]).sum()) == 1


def test_both_forms_of_pooling_agree():
  # Axes so long that they are reduced in steps, one of a prime length too.
  for axis, shape in enumerate(
      [(2, 112, 2, 3, 4), (2, 3, 28, 2, 4), (2, 3, 2, 19, 4),
       (2, 2, 3, 3, 64)], 1):
    x = jnp.round(_clip(shape))
    for ours, plain in zip(planes._pool_one_pass(x, axis),
                           planes._pool_plain(x, axis), strict=True):
      np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('axis', [1, 2, 3, 4])
def test_pooling_of_numbers_packed_with_their_places(axis, dtype):
  x = np.round(2 * seeded.clip((3, 4, 5, 6, 7))) / 2
  # Zeros of both signs beside smaller numbers, infinities, none of a number.
  x[0, 0] = -np.abs(x[0, 0])
  x[0, 1] = -0.0
  x[1, :, 1], x[1, 2, 3] = -np.inf, np.inf
  x[2, 0, 1, 2, 3], x[2, 1, 2, 2] = np.nan, -np.nan
  x = jnp.asarray(x, dtype)
  for ours, plain in zip(planes._pool_packed(x, axis),
                         planes._pool_plain(x, axis), strict=True):
    assert ours.dtype == plain.dtype
    # Two bfloat16 that are no numbers are different to NumPy.
    np.testing.assert_array_equal(ours.astype(np.float32),
                                  plain.astype(np.float32))


@pytest.mark.parametrize('length', [1 << 16, (1 << 16) + 1])
def test_places_of_long_axes_are_kept(length, monkeypatch):
  monkeypatch.setattr(
      planes.platform, 'by_platform',
      lambda on_cpu, plain, *args, on_accelerator=None, on_tpu=None: (
          on_accelerator or plain)(*args))
  x = jnp.zeros((1, length, 1, 1, 2), jnp.bfloat16)
  x = x.at[0, -1, 0, 0, 0].set(1).at[0, 0, 0, 0, 1].set(1)
  g = jax.grad(lambda x: planes.pool_planes(x, 1)[:, 0].sum().astype(
      jnp.float32))(x)
  assert g[0, -1, 0, 0, 0] == g[0, 0, 0, 0, 1] == 1
  assert jnp.count_nonzero(g) == 2


def _convolve_by_hand(x, kernel):
  """Shifted sums in float64."""
  size, (a, b, c) = kernel.shape[:3], x.shape[2:]
  x = np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), *(
      (length // 2, length // 2) for length in size)))
  return sum(x[:, p, i:i + a, j:j + b, k:k + c] * float(kernel[i, j, k, p, 0])
             for i, j, k, p in np.ndindex(*size, 2))


# The first and the last are cut into blocks on the CPU.
@pytest.mark.parametrize('shape', [(2, 2, 17, 6, 19), (2, 2, 5, 6, 19),
                                   (1, 2, 1, 3, 8), (2, 2, 8, 7, 4),
                                   (1, 2, 2, 2, 1), (1, 2, 18, 1, 8)])
@pytest.mark.parametrize('size', [(3, 3, 3), (3, 7, 7), (1, 7, 7)])
def test_convolve_planes_and_its_gradient(shape, size):
  x, kernel = _clip(shape), _clip((*size, 2, 1))
  ours, pullback = jax.vjp(plane_conv.convolve_planes, x, kernel)
  assert seeded.difference(ours, _convolve_by_hand(x, kernel)) < 2e-6
  plain, plain_pullback = jax.vjp(
      lambda x, k: plane_conv._convolve_plain(x, k)[:, 0], x, kernel)
  assert seeded.difference(ours, plain) < 2e-6
  g = _clip(ours.shape)
  for gradient, wanted in zip(pullback(g), plain_pullback(g)):
    assert seeded.difference(gradient, wanted) < 1e-5
  assert seeded.difference(plane_conv._kernel_gradient_plain(x, g, size),
                           plain_pullback(g)[1]) < 1e-5


@pytest.mark.parametrize('length', [255, 256, 257])
def test_gradient_of_the_last_of_many_places(length):
  x = jnp.zeros((1, 1, 1, 2, length)).at[0, 0, 0, 1, -1].set(1)
  g = jax.grad(lambda x: planes.pool_planes(x, 4)[:, 0].sum())(x)
  np.testing.assert_array_equal(
      jnp.argwhere(g)[:, 3:], [[0, 0], [1, length - 1]])


def test_gradients_of_bfloat16_kernels_are_near_those_of_float32():
  shape = (4, 2, 8, 16, 24)
  x, g = (jnp.asarray(seeded.clip(s), jnp.bfloat16)
          for s in (shape, (4, 8, 16, 24)))
  wanted = plane_conv._kernel_gradient_plain(*(a.astype(jnp.float32)
                                               for a in (x, g)), (3, 3, 3))
  for form in (plane_conv._kernel_gradient_dense,
               plane_conv._kernel_gradient_banded):
    y = form(x, g, (3, 3, 3))
    assert y.dtype == jnp.bfloat16
    assert seeded.difference(y.astype(jnp.float32), wanted) < 6e-3


# The second and the last have their first axis as channels.
@pytest.mark.parametrize('shape', [(2, 2, 3, 5, 8), (2, 2, 8, 5, 7),
                                   (1, 2, 5, 4, 3), (1, 2, 3, 2, 520)])
@pytest.mark.parametrize('size', [(3, 3, 3), (3, 7, 7), (1, 7, 7)])
def test_convolution_of_planes_as_channels(shape, size):
  x, kernel = _clip(shape), _clip((*size, 2, 1))
  y = plane_conv._convolve_dense(x, kernel)
  assert seeded.difference(y[:, 0], _convolve_by_hand(x, kernel)) < 2e-6
  back = kernel.swapaxes(3, 4)  # One plane to two, as in the gradient.
  assert seeded.difference(plane_conv._convolve_dense(y, back),
                           plane_conv._convolve_plain(y, back)) < 2e-6
  assert seeded.difference(
      plane_conv._kernel_gradient_dense(x, y[:, 0], size),
      plane_conv._kernel_gradient_plain(x, y[:, 0], size)) < 1e-5


def test_the_form_is_chosen_by_the_platform_that_is_compiled_for(
    compile_for):
  compile_for('cuda')
  x, kernel = _clip((1, 2, 4, 4, 8)), _clip((3, 3, 3, 2, 1))
  traced = jax.jit(jax.grad(lambda x, k: plane_conv.convolve_planes(x, k).sum(),
                            argnums=(0, 1))).trace(x, kernel)
  texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text()
           for platform in ('cpu', 'cuda', 'rocm', 'tpu')}
  for text in texts.values():  # Two spatial axes, not three.
    assert 'b, 0, 1, f' in text
    assert 'b, f, 0, 1, 2' not in text
  # The CPU's channels are eight and two neighbours of both planes, those of
  # accelerators are all of both.
  assert '3x3x20x8' in texts['cpu']
  for platform in ('cuda', 'rocm', 'tpu'):
    assert '3x3x16x8' in texts[platform]


def test_maxima_are_packed_with_their_places_on_accelerators(compile_for):
  compile_for('cuda')
  for dtype, packed in (('bfloat16', True), ('float32', False)):
    traced = jax.jit(lambda x: planes.pool_planes(x, 1)).trace(
        jnp.zeros((1, 4, 2, 2, 8), dtype))
    for platform in ('cpu', 'cuda', 'rocm', 'tpu'):
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      assert ('shift_left' in text) == (packed and platform != 'cpu')


@pytest.mark.parametrize('axes', [(4,), (1, 2, 3)])
@pytest.mark.parametrize('shape', SHAPES)
def test_apply_gates_and_its_gradient(shape, axes):
  x = _clip(shape)
  gates = {axis: _clip(np.delete(shape, axis)) for axis in axes}

  def by_hand(x, gates):
    return x * sum(jnp.expand_dims(g, a) for a, g in gates.items()) / len(axes)

  ours, pullback = jax.vjp(planes.apply_gates, x, gates)
  wanted, wanted_pullback = jax.vjp(by_hand, x, gates)
  np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
  g = _clip(shape, 0.5)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      pullback(g), wanted_pullback(g))


def test_thirds_and_parts_of_an_axis_are_not_rounded_to_bfloat16():
  # A third in bfloat16 is 0.2 % too much, which no element shows, but all do.
  def slope(ours, exact):
    ours, exact = (np.asarray(a, np.float64).ravel() for a in (ours, exact))
    return (ours @ exact) / (exact @ exact)

  def mean_gradient(dtype):
    return jax.grad(lambda p: (g.astype(dtype) * planes.pool_planes(p, 2)
                               ).astype(jnp.float32).sum())(x.astype(dtype))

  x, g = _clip((2, 8, 7, 6, 32)), _clip((2, 2, 8, 6, 32))
  gates = {axis: _clip(np.delete(x.shape, axis)) for axis in (1, 2, 3)}
  arguments = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, g, gates))
  x, g, gates = jax.tree.map(lambda a: a.astype(jnp.float32), arguments)
  for found, exact in (
      (planes.apply_gates(arguments[0], arguments[2]),
       planes.apply_gates(x, gates)),
      (mean_gradient(jnp.bfloat16), mean_gradient(jnp.float32))):
    assert found.dtype == jnp.bfloat16
    assert abs(slope(found, exact) - 1) < 7e-4


def test_bfloat16_keeps_its_type_and_its_sums_are_float32():
  x = (1 + jnp.abs(_clip((1, 2, 3, 2, 4096), 0.01))).astype(jnp.bfloat16)
  pooled = planes.pool_planes(x, 4)
  assert pooled.dtype == jnp.bfloat16
  # A sum in bfloat16 would stop growing at 256.
  np.testing.assert_allclose(pooled[:, 1].astype(np.float32),
                             x.astype(np.float32).mean(4), rtol=1e-2)
  gates = {4: pooled[:, 1]}
  y, pullback = jax.vjp(planes.apply_gates, x, gates)
  to_x, to_gates = pullback(jnp.ones_like(y))
  assert {y.dtype, to_x.dtype, to_gates[4].dtype} == {jnp.dtype('bfloat16')}
  np.testing.assert_allclose(to_gates[4].astype(np.float32),
                             x.astype(np.float32).sum(4), rtol=1e-2)


def test_where_only_cpus_are_nothing_is_chosen_later():
  x, kernel = _clip((1, 2, 4, 4, 8)), _clip((3, 3, 3, 2, 1))
  text = jax.jit(plane_conv.convolve_planes).trace(x, kernel).lower(
      lowering_platforms=('cuda',)).as_text()
  assert 'stablehlo.case' not in text
  assert '3x3x20x8' in text  # The CPU's form, as was said.
