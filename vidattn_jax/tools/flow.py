"""The ways to compute optical flow of a data set."""

import functools
import itertools
import threading

import numpy as np

import vidattn_jax
from vidattn_jax import names

METHODS = ('tvl1', 'opencv')
# Pairs in one call: one after the other on a CPU, side by side elsewhere.
_CPU_PAIRS, _DEVICE_PAIRS = 16, 64


def get_method(name: str) -> dict:
  """Returns the fields of `input_pipeline.flow.Method`.

  Args:
    name: 'tvl1' (here, on the accelerator if there is one) or 'opencv'.

  Returns:
    Dict of `name`, `parameters`, `library`, `compute`, `pairs`, `processes`.

  Raises:
    ValueError: the name is unknown, or OpenCV is not installed.
  """
  names.check_name('method of flow', name, METHODS)
  return {'name': name, **(_tvl1() if name == 'tvl1' else _opencv())}


def tvl1(prev, next, method: str = 'tvl1') -> np.ndarray:  # pylint: disable=redefined-builtin
  """Estimates where each pixel goes, here or by OpenCV.

  Args:
    prev: grey frames [..., H, W], 0 to 255, of any type.
    next: the frames after them, of the same shape.
    method: 'tvl1' (here, on the accelerator if there is one; compiled once for
      each shape) or 'opencv' (pair by pair, on the CPU).

  Returns:
    float32 [..., H, W, 2]: pixels to the right and downwards from `prev` to
    `next`, not quantised.

  Raises:
    ValueError: the method is unknown, OpenCV is not installed, or the shapes
      differ or are none of frames.
  """
  from vidattn_jax.ops import tvl1 as ours
  names.check_name('method of flow', method, METHODS)
  prev, next = np.asarray(prev), np.asarray(next)
  ours.check_shapes(prev, next)
  if method == 'tvl1':
    return np.asarray(_compiled()(prev, next))
  dual = _dual_tvl1()
  # OpenCV takes 8 bits, or 0 to 1.
  pairs = [(x if x.dtype == np.uint8 else x.astype(np.float32) / 255).reshape(
      -1, *x.shape[-2:]) for x in (prev, next)]
  flow = [dual.calc(a, b, None) for a, b in zip(*pairs, strict=True)]
  return np.stack(flow).reshape(*prev.shape, 2)


@functools.cache
def _compiled():
  import jax

  from vidattn_jax.ops import tvl1 as ours
  return jax.jit(ours.tvl1)


def _tvl1():
  import jax

  from vidattn_jax.ops import flow
  from vidattn_jax.ops import tvl1
  pairs = _CPU_PAIRS if jax.default_backend() == 'cpu' else _DEVICE_PAIRS
  compiled, lock = {}, threading.Lock()

  def compute(frames, bound):
    count = len(frames) - 1
    # Equal frames cost next to nothing, another program costs seconds.
    frames = np.concatenate(
        [frames, np.repeat(frames[-1:], pairs - count, axis=0)])
    key = (frames.shape, bound)
    with lock:
      if key not in compiled:
        compiled[key] = jax.jit(
            lambda x: flow.between(x, bound)).lower(frames).compile()
    return np.asarray(compiled[key](frames))[:count]

  return {
      'parameters': tvl1.PARAMETERS, 'compute': compute, 'pairs': pairs,
      'processes': False,
      'library': f'vidattn_jax {vidattn_jax.__version__}, jax '
                 f'{jax.__version__}, {jax.default_backend()}'}


def _opencv():
  dual = _dual_tvl1()
  import cv2
  parameters = {
      'tau': dual.getTau(), 'lambda': dual.getLambda(),
      'theta': dual.getTheta(), 'gamma': dual.getGamma(),
      'scales': dual.getScalesNumber(), 'scale_step': dual.getScaleStep(),
      'warps': dual.getWarpingsNumber(), 'epsilon': dual.getEpsilon(),
      'inner_iterations': dual.getInnerIterations(),
      'outer_iterations': dual.getOuterIterations(),
      'median_filtering': dual.getMedianFiltering()}
  return {'parameters': parameters, 'library': f'OpenCV {cv2.__version__}',
          'compute': _opencv_flow, 'pairs': _CPU_PAIRS,
          'processes': True}


def _dual_tvl1():
  try:
    import cv2
    cv2.setNumThreads(1)
    return cv2.optflow.DualTVL1OpticalFlow_create()
  except (ImportError, AttributeError):
    raise ValueError(
        "OpenCV's TV-L1 is not installed; install the extra `flow` "
        '(opencv-contrib-python-headless), or take --method=tvl1.') from None


def _opencv_flow(frames, bound):
  """Computes the flow of worker processes."""
  import cv2
  dual = _dual_tvl1()
  grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
  flow = np.stack([dual.calc(*pair, None)
                   for pair in itertools.pairwise(grey)])
  # As `tvl1.quantize`, without JAX in every process.
  scaled = np.round(255 * (flow + bound) / (2 * bound))
  return np.clip(scaled, 0, 255).astype(np.uint8)
