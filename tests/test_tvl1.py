"""TV-L1 against OpenCV's, which made the flow of the two-stream literature."""

import functools
import json

import jax
import numpy as np
import PIL.Image
import pytest

from vidattn_jax.ops import tvl1
from vidattn_jax.tools import flow as methods


@functools.cache
def _compiled():
  return jax.jit(tvl1.tvl1)


@pytest.fixture(scope='module')
def published(data_dir):
  return np.load(data_dir / 'tstam_tvl1.npz')


@pytest.fixture(scope='module')
def flow(published):
  return np.asarray(_compiled()(published['image0'], published['image1']))


def _endpoint_difference(a, b):
  return np.linalg.norm(a.astype(np.float64) - b, axis=-1)


def test_equals_opencv(published, flow):
  # Never the maximum: at the edges of motion single pixels differ by pixels
  # between two versions of OpenCV.
  differences = _endpoint_difference(flow, published['flow'])
  assert differences.mean() < 0.03
  assert (differences < 0.5).mean() > 0.995
  ours = _endpoint_difference(flow, published['true_flow']).mean()
  theirs = _endpoint_difference(published['flow'],
                                published['true_flow']).mean()
  assert ours < theirs + 0.03
  stored = np.asarray(tvl1.quantize(flow), int)
  assert np.abs(stored - published['flow_u8']).mean() < 0.2


def test_both_methods_stand_behind_one_function(published, flow):
  pair = published['image0'], published['image1']
  np.testing.assert_array_equal(methods.tvl1(*pair), flow)
  with pytest.raises(ValueError, match="no method of flow 'tv1'"):
    methods.tvl1(*pair, method='tv1')
  _contrib()
  theirs = methods.tvl1(*(x[None, None] for x in pair), method='opencv')
  assert theirs.shape == (1, 1, *flow.shape) and theirs.dtype == np.float32
  differences = _endpoint_difference(flow, theirs[0, 0])
  assert differences.mean() < 0.03
  assert (differences < 0.5).mean() > 0.995
  # The same numbers of another type.
  np.testing.assert_allclose(
      methods.tvl1(*(x.astype(np.float64) for x in pair), method='opencv'),
      theirs[0, 0], atol=1e-2)
  with pytest.raises(ValueError, match='takes two of the same shape'):
    methods.tvl1(pair[0], pair[1][1:], method='opencv')


def _contrib():
  cv2 = pytest.importorskip(
      'cv2', reason='OpenCV is not installed (the extra `flow`): nothing was '
      'compared with it')
  if not hasattr(cv2, 'optflow'):
    pytest.skip('OpenCV has no contrib (the extra `flow`): nothing was '
                'compared with it')
  return cv2


@pytest.mark.parametrize('name, value', [
    ('_LAMBDA', 0.3), ('_THETA', 0.15), ('_TAU', 0.1), ('_WARPS', 2),
    ('_EPSILON', 0.1), ('_CUBIC', -0.25)])
def test_another_constant_is_caught(published, monkeypatch, name, value):
  # So small that there is one scale only, and little to compile.
  pair = [published[key][40:59, 60:79] for key in ('image0', 'image1')]
  monkeypatch.setattr(tvl1, name, value)
  changed = jax.jit(lambda a, b: tvl1.tvl1(a, b))(*pair)
  monkeypatch.undo()
  ours = _compiled()(*pair)
  # The whole test compares at 0.03.
  assert _endpoint_difference(np.asarray(changed), ours).mean() > 0.03


def test_a_pair_does_not_depend_on_its_batch(published):
  first, second = (published[key][40:59, 60:79]
                   for key in ('image0', 'image1'))
  a = np.stack([first, second, first])
  b = np.stack([second, first, first])
  together = np.asarray(_compiled()(a[:, None], b[:, None]))
  assert together.shape == (3, 1, 19, 19, 2)
  np.testing.assert_array_equal(together[0, 0], _compiled()(first, second))
  np.testing.assert_array_equal(together[1, 0], _compiled()(second, first))
  np.testing.assert_array_equal(together[2, 0], 0)
  # The form for accelerators runs all pairs until the last has converged.
  mapped = jax.jit(jax.vmap(tvl1._tvl1))(
      *(x.astype(np.float32) for x in (a, b)))
  assert _endpoint_difference(np.asarray(mapped), together[:, 0]).mean() < 5e-3


def test_right_and_down_are_positive():
  rng = np.random.default_rng(0)
  image = np.asarray(PIL.Image.fromarray(
      rng.integers(0, 256, (12, 14), np.uint8)).resize(
          (144, 112), PIL.Image.Resampling.BICUBIC))
  moved = np.roll(image, (1, 2), (0, 1))
  found = np.asarray(_compiled()(image, moved))[20:-20, 20:-20]
  np.testing.assert_allclose(np.median(found, (0, 1)), (2, 1), atol=0.05)


def test_median_equals_sorting():
  x = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
  windows = np.lib.stride_tricks.sliding_window_view(
      np.pad(x, ((0, 0), (2, 2), (2, 2)), mode='edge'), (5, 5), (1, 2))
  np.testing.assert_array_equal(jax.jit(tvl1._median)(x),
                                np.median(windows, (-1, -2)))


def test_grey_and_quantised_as_opencv_has_them():
  # OpenCV's answers.
  colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 30],
                      [1, 2, 3], [255, 255, 255]], np.uint8)
  np.testing.assert_array_equal(tvl1.grayscale(colours),
                                [76, 150, 29, 124, 2, 255])
  np.testing.assert_array_equal(
      tvl1.quantize(np.array([-30, -20, -0.04, 0, 0.04, 1, 20, 21])),
      [0, 0, 127, 128, 128, 134, 255, 255])


@pytest.mark.parametrize('shapes', [((4, 20, 20), (3, 20, 20)), ((9,), (9,)),
                                    ((20, 0), (20, 0))])
def test_frames_that_do_not_fit_are_refused(shapes):
  with pytest.raises(ValueError, match='takes two of the same shape'):
    tvl1.tvl1(*(np.zeros(shape) for shape in shapes))


def _ground_truth(path):
  data = path.read_bytes()
  width, height = np.frombuffer(data, '<i4', 2, 4)
  return np.frombuffer(data, '<f4', offset=12).reshape(height, width, 2)


def _grey_pair(folder, name):
  return [np.asarray(PIL.Image.open(folder / f'{name}_{i}.png').convert('L'))
          for i in (1, 2)]


@functools.cache
def _of_middlebury(folder, name):
  return np.asarray(_compiled()(*_grey_pair(folder, name)))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['rubberwhale', 'venus'])
def test_middlebury_is_near_to_opencv(shared, name):
  cv2 = _contrib()
  folder = shared / 'data' / 'flow'
  theirs = cv2.optflow.DualTVL1OpticalFlow_create().calc(
      *_grey_pair(folder, name), None)
  differences = _endpoint_difference(_of_middlebury(folder, name), theirs)
  assert differences.mean() < 0.1
  assert (differences < 0.5).mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize('name', ['rubberwhale', 'venus'])
def test_middlebury_is_as_good_as_opencv(shared, name):
  folder = shared / 'data' / 'flow'
  truth = _ground_truth(folder / f'{name}_gt.flo')
  known = np.abs(truth).max(-1) < 1e9
  found = _of_middlebury(folder, name)
  reference = json.loads((folder / 'REFERENCE.json').read_text())[name]
  theirs = reference['reference_errors']['TVL1 opencv default']['epe']
  assert _endpoint_difference(found, truth)[known].mean() < theirs + 0.03
