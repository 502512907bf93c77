"""Convolutions: every form of the CPU against the plain one."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from vidattn_jax.ops import convolution

# Form on the CPU, input, kernel, outputs, strides, padding, dilation, groups.
CASES = {
    'dots_1x1x1': ('_as_dots', (2, 4, 17, 17, 5), (1, 1, 1), 6, (1, 2, 2),
                   ((0, 0),) * 3, None, 1),
    'dots_1x1': ('_as_dots', (4, 20, 20, 5), (1, 1), 6, (2, 2),
                 ((0, 0),) * 2, None, 1),
    'dots_1x1_padded': ('_as_dots', (2, 17, 18, 5), (1, 1), 6, (1, 1),
                        ((1, 0), (0, 2)), None, 1),
    'dots_1x1_strided': ('_as_dots', (4, 21, 28, 5), (1, 1), 6, (2, 2),
                         ((0, 0),) * 2, None, 1),
    'dots_3x1': ('_as_dots', (2, 22, 20, 5), (3, 1), 6, (1, 1),
                 ((2, 2), (0, 0)), (2, 1), 1),
    'dots_over_time': ('_as_dots', (2, 5, 12, 12, 4), (3, 1, 1), 6, (1, 1, 1),
                       ((2, 2), (0, 0), (0, 0)), (2, 1, 1), 1),
    'dots_few_places': ('_as_dots', (2, 4, 7, 6, 4), (3, 3, 3), 6, (2, 2, 2),
                        ((1, 1), (1, 0), (0, 2)), None, 1),
    'dots_whole_image': ('_as_dots', (2, 4, 4, 4, 6), (1, 4, 4), 1, (1, 1, 1),
                         ((0, 0),) * 3, None, 1),
    'dots_by_group': ('_grouped_dots', (1, 3, 5, 6, 8), (3, 3, 3), 16,
                      (2, 2, 2), ((1, 1),) * 3, None, 4),
    'sums': ('_as_sums', (2, 4, 9, 8, 6), (3, 3, 3), 6, (1, 2, 2),
             ((1, 1),) * 3, None, 6),
    'frames': ('_as_frames', (1, 6, 19, 20, 4), (3, 3, 3), 6, (2, 1, 2),
               ((1, 1),) * 3, None, 1),
    'frames_dilated': ('_as_frames', (1, 8, 17, 18, 3), (3, 3, 2), 4,
                       (1, 1, 1), ((2, 2), (1, 1), (0, 1)), (2, 1, 2), 1),
    'frames_alone': ('_as_frames', (2, 4, 18, 18, 3), (1, 7, 7), 4, (1, 2, 2),
                     ((0, 0), (3, 3), (3, 3)), None, 1),
    'blocks': ('_as_blocks', (1, 4, 13, 14, 48), (3, 3, 3), 96, (1, 1, 1),
               ((1, 1),) * 3, None, 12),
    'blocks_2d': ('_as_blocks', (4, 16, 16, 6), (3, 3), 4, (1, 1),
                  ((1, 1),) * 2, None, 2),
    'plain_2d': (None, (4, 16, 16, 5), (3, 3), 6, (1, 1), ((1, 1),) * 2, None,
                 1),
}


def _arguments(case):
  _, shape, kernel, out, strides, padding, dilation, groups = CASES[case]
  spec = ('NDHWC', 'DHWIO', 'NDHWC') if len(kernel) == 3 else (
      'NHWC', 'HWIO', 'NHWC')
  kernel_shape = (*kernel, shape[-1] // groups, out)
  numbers = lax.conv_dimension_numbers(shape, kernel_shape, spec)
  return (seeded.clip(shape), 0.1 * seeded.clip(kernel_shape, 1), dict(
      window_strides=strides, padding=padding, rhs_dilation=dilation,
      dimension_numbers=numbers, feature_group_count=groups))


# What is to be summed.
_SUMMED = functools.partial(convolution.conv_general_dilated, summed=True)


@functools.cache
def _compiled(convolve, case):
  options = _arguments(case)[2]

  @jax.jit
  def run(x, kernel):
    y, pullback = jax.vjp(lambda *a: convolve(*a, **options), x, kernel)
    g = jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)
    return y, *pullback(g)

  return run


def _run(convolve, case, dtype):
  x, kernel, _ = _arguments(case)
  return _compiled(convolve, case)(jnp.asarray(x, dtype),
                                   jnp.asarray(kernel, dtype))


@pytest.mark.parametrize('case', CASES)
def test_every_form_and_its_gradients(case):
  form, shape, kernel, out, strides, padding, dilation, groups = CASES[case]
  window = convolution._Window(kernel, strides, padding,
                               dilation or (1,) * len(kernel), groups, None)
  chosen = convolution._form(shape, (*kernel, shape[-1] // groups, out), window)
  assert getattr(chosen, '__name__', None) == form
  with jax.enable_x64(True):
    ours = _run(convolution.conv_general_dilated, case, jnp.float64)
    plain = _run(lax.conv_general_dilated, case, jnp.float64)
  for a, b in zip(ours, plain):
    assert a.dtype == jnp.float64
    assert seeded.difference(a, b) < 1e-10
  # In single precision, against the double one.
  for a, b in zip(_run(convolution.conv_general_dilated, case, jnp.float32),
                  plain):
    assert a.dtype == jnp.float32
    assert seeded.difference(a, b) < 1e-5


@pytest.mark.parametrize('case', ['dots_few_places', 'dots_by_group', 'sums',
                                  'frames', 'blocks'])
def test_bfloat16(case):
  ours = _run(convolution.conv_general_dilated, case, jnp.bfloat16)
  wanted = _run(lax.conv_general_dilated, case, jnp.float32)
  for a, b in zip(ours, wanted):
    assert a.dtype == jnp.bfloat16
    assert seeded.difference(a.astype(jnp.float32), b) < 3e-2


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
def test_padding_by_name(padding):
  x, kernel, options = _arguments('dots_few_places')
  options['padding'] = padding
  np.testing.assert_allclose(
      convolution.conv_general_dilated(x, kernel, **options),
      lax.conv_general_dilated(x, kernel, **options), atol=1e-5)


def test_other_layouts_are_plain():
  x, kernel = seeded.clip((1, 3, 4, 5)), seeded.clip((2, 3, 1, 1))
  np.testing.assert_array_equal(
      convolution.conv_general_dilated(x, kernel, (1, 1), 'VALID'),
      lax.conv_general_dilated(x, kernel, (1, 1), 'VALID'))


def _operations(text):
  """Counts convolutions and matrix products."""
  return {op: text.count(f'stablehlo.{op}')
          for op in ('convolution', 'dot_general')}


@pytest.mark.parametrize('case', ['dots_1x1_padded', 'dots_1x1_strided'])
def test_what_is_to_be_summed(case):
  with jax.enable_x64(True):
    ours, plain = (_run(convolve, case, jnp.float64)
                   for convolve in (_SUMMED, lax.conv_general_dilated))
  for a, b, single in zip(ours, plain, _run(_SUMMED, case, jnp.float32)):
    assert seeded.difference(a, b) < 1e-10
    assert seeded.difference(single, b) < 1e-5


@pytest.mark.parametrize('case', CASES)
def test_sums_differ_for_kernels_of_one_tap_and_many_places(case):
  x, kernel, _ = _arguments(case)
  with_sum, without = (
      _operations(_compiled(convolve, case).lower(x, kernel).as_text())
      for convolve in (_SUMMED, convolution.conv_general_dilated))
  if case in ('dots_1x1_padded', 'dots_1x1_strided'):
    assert (without['convolution'], with_sum['convolution']) == (0, 1)
    assert with_sum['dot_general'] == without['dot_general'] - 1
  else:
    assert with_sum == without


@pytest.mark.parametrize('convolve', [convolution.conv_general_dilated,
                                      _SUMMED])
@pytest.mark.parametrize('platform', ['tpu', 'cuda', 'cpu'])
@pytest.mark.parametrize('case', ['dots_1x1x1', 'dots_1x1_padded',
                                  'dots_by_group', 'sums', 'frames', 'blocks'])
def test_other_platforms_get_the_plain_form(case, platform, convolve,
                                            compile_for):
  compile_for('cuda')
  x, kernel, _ = _arguments(case)
  ours, plain = (
      _operations(_compiled(convolve, case).trace(x, kernel).lower(
          lowering_platforms=(platform,)).as_text())
      for convolve in (convolve, lax.conv_general_dilated))
  assert plain == {'convolution': 3, 'dot_general': 0}
  if platform == 'cpu':
    assert ours != plain or case == 'frames'
  else:
    assert ours == plain


@pytest.mark.parametrize('case', ['dots_few_places', 'dots_1x1_strided',
                                  'dots_by_group', 'sums', 'frames', 'blocks'])
def test_eight_devices_compute_the_same(case):
  x, kernel, _ = _arguments(case)
  x = np.concatenate([x] * (8 // len(x)))
  x = x * np.arange(1, 9, dtype=np.float32).reshape(-1, *[1] * (x.ndim - 1))
  alone = _compiled(_SUMMED, case)(x, kernel)
  mesh = jax.make_mesh((8,), ('data',),
                       axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.NamedSharding(mesh, jax.P('data'))
  whole = jax.NamedSharding(mesh, jax.P())
  run = jax.jit(_compiled(_SUMMED, case), in_shardings=(split, whole),
                out_shardings=(split, split, whole))
  compiled = run.lower(x, kernel).compile()
  for a, b in zip(compiled(x, kernel), alone):
    assert seeded.difference(a, b) < 1e-5
  # Nobody gathers the batch: only the kernel's gradient crosses devices.
  text = compiled.as_text()
  assert 'all-reduce' in text
  assert 'all-gather' not in text and 'all-to-all' not in text


def test_a_gradient_that_nobody_wants_is_not_computed():
  x, kernel, options = _arguments('frames')

  def loss(kernel):
    return convolution.conv_general_dilated(x, kernel, **options).sum()

  text = jax.jit(jax.grad(loss)).lower(kernel).compile().as_text()
  assert text.count(' convolution(') <= 1
  assert math.isfinite(float(jax.jit(jax.grad(loss))(kernel).sum()))
