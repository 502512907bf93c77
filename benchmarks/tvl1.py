"""TV-L1 here against OpenCV's, interleaved, both on the same single core.

python -m benchmarks.tvl1 [--pairs=8] [--size=340x256]

Needs the extra `flow` (OpenCV). On a GPU or TPU it measures a batch of 64, and
compares it with OpenCV, where that is installed, without timing that.
"""

import argparse
import contextlib
import os
import statistics
import time

import numpy as np


def make_pairs(count, width, height, seed=0):
  """Makes pairs of textured frames whose parts move on their own.

  Args:
    count: number of pairs.
    width: of a frame, pixels.
    height: of a frame, pixels.
    seed: of the texture and the motion.

  Returns:
    (uint8 [count, H, W], uint8 [count, H, W]).
  """
  import PIL.Image
  rng = np.random.default_rng(seed)

  def texture(size):
    small = rng.integers(0, 256, (size[1] // 6, size[0] // 6), np.uint8)
    return PIL.Image.fromarray(small).resize(
        size, PIL.Image.Resampling.BICUBIC)

  firsts, seconds = [], []
  for _ in range(count):
    size = (width + 40, height + 40)
    ground, part = texture(size), texture((width // 3, height // 3))
    frames = []
    drift, step = rng.uniform(-2, 2, 2), rng.uniform(-4, 4, 2)
    for t in (0, 1):
      frame = ground.transform(
          size, PIL.Image.Transform.AFFINE,
          (1, 0.004 * t, -drift[0] * t, -0.004 * t, 1, -drift[1] * t),
          PIL.Image.Resampling.BICUBIC)
      moved = part.transform(
          part.size, PIL.Image.Transform.AFFINE,
          (1, 0, -step[0] * t, 0, 1, -step[1] * t),
          PIL.Image.Resampling.BICUBIC)
      frame.paste(moved, (width // 3, height // 3))
      frame = np.asarray(frame)[20:-20, 20:-20].astype(np.float32)
      noise = rng.normal(0, 2, frame.shape)
      frames.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
    firsts.append(frames[0])
    seconds.append(frames[1])
  return np.stack(firsts), np.stack(seconds)


def on_one_core(firsts, seconds):
  """Times both, pair by pair in turn, and says how far apart they are."""
  import cv2
  import jax

  from vidattn_jax.ops import tvl1
  cv2.setNumThreads(1)
  theirs = cv2.optflow.DualTVL1OpticalFlow_create()
  start = time.perf_counter()
  ours = jax.jit(tvl1.tvl1).lower(firsts[0], seconds[0]).compile()
  print(f'compiled in {time.perf_counter() - start:.1f} s')
  ratios, ours_all, theirs_all, distances = [], [], [], []
  for a, b in zip(firsts, seconds, strict=True):
    start = time.process_time()
    flow = np.asarray(ours(a, b))
    middle = time.process_time()
    reference = theirs.calc(a, b, None)
    end = time.process_time()
    ours_all.append(middle - start)
    theirs_all.append(end - middle)
    ratios.append(theirs_all[-1] / ours_all[-1])
    distances.append(np.linalg.norm(flow - reference, axis=-1))
  print(f'here   {statistics.median(ours_all):.2f} s of CPU a pair\n'
        f'OpenCV {statistics.median(theirs_all):.2f} s of CPU a pair\n'
        f'OpenCV / here: median {statistics.median(ratios):.2f}, '
        f'{min(ratios):.2f} to {max(ratios):.2f}')
  say_distances(distances)


def say_distances(distances):
  """Says how far two flows are apart, given [H, W] of each pair in pixels."""
  means = [distance.mean() for distance in distances]
  near = [(distance < 0.5).mean() for distance in distances]
  print(f'difference to OpenCV: median {statistics.median(means):.3f} px, '
        f'under 0.5 px: {statistics.median(near):.2%}')


def on_accelerator(firsts, seconds, batch=64):
  """Times one batch on a GPU or TPU, and says how far from OpenCV it is."""
  import jax

  from vidattn_jax.ops import tvl1
  from vidattn_jax.tools import flow as methods
  repeats = -(-batch // len(firsts))
  a, b = (jax.device_put(np.concatenate([x] * repeats)[:batch])
          for x in (firsts, seconds))
  compiled = jax.jit(tvl1.tvl1).lower(a, b).compile()
  compiled(a, b).block_until_ready()
  times = []
  for _ in range(5):
    start = time.perf_counter()
    compiled(a, b).block_until_ready()
    times.append(time.perf_counter() - start)
  print(f'{jax.devices()[0].device_kind}: '
        f'{batch / statistics.median(times):.0f} pairs/s at batch {batch}')
  try:
    reference = methods.tvl1(firsts, seconds, 'opencv')
  except ValueError as error:
    print(f'not compared with OpenCV: {error}')
    return
  ours = np.asarray(compiled(a, b))[:len(firsts)]
  say_distances(np.linalg.norm(ours - reference[:len(ours)], axis=-1))


def main():
  """Runs the benchmark."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--pairs', type=int, default=8)
  parser.add_argument('--size', default='340x256')
  arguments = parser.parse_args()
  cores = os.sched_getaffinity(0)
  # Before JAX starts its threads, which stay where they start.
  os.sched_setaffinity(0, {min(cores)})
  firsts, seconds = make_pairs(arguments.pairs,
                               *map(int, arguments.size.split('x')))
  import jax
  if jax.default_backend() == 'cpu':
    on_one_core(firsts, seconds)
  else:
    for thread in os.listdir('/proc/self/task'):
      with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(int(thread), cores)
    on_accelerator(firsts, seconds)


if __name__ == '__main__':
  main()
