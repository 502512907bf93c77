"""Sparse attention beside PyTorch's grid_sample, on the same single core.

python -m benchmarks.resample --rounds 15

From features of 16 frames to both resampled clips (peaks, Gaussians, grids,
224x224 pixels), forward, and forward and backward to both betas. Both compute
the same, which is checked in the run, and take turns; the time is the
processor's. On a GPU, where PyTorch's is compiled, it is the clock's, and the
share of the memory's bandwidth is that of reading and writing every pixel once.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from vidattn_jax.attention import sparse
from vidattn_jax.models import get_model
from vidattn_jax.ops import peaks
from vidattn_jax.ops import resample

_FRAMES, _SIZE, _PLACES, _CHANNELS, _CLASSES, _GRID = 16, 224, 7, 512, 101, 31
_BASE, _DELTA, _PHI = 0.09, 0.2, 0.5
_BETAS = (3.9457, 13.152)


def make_inputs(seed=0) -> dict:
  """Makes features, a classifier and smooth frames, as float32 arrays."""
  rng = np.random.default_rng(seed)
  coarse = rng.random((_FRAMES, 14, 14, 3))
  weights = np.maximum(1 - np.abs(
      np.linspace(0, 13, _SIZE)[:, None] - np.arange(14)), 0)
  arrays = {
      'features': rng.random((_FRAMES, _PLACES, _PLACES, _CHANNELS)),
      'kernel': rng.standard_normal((_CHANNELS, _CLASSES)) / 4,
      'bias': rng.standard_normal(_CLASSES) / 4,
      'images': np.einsum('hi,wj,nijc->nhwc', weights, weights, coarse),
      'weights': rng.standard_normal((2, _FRAMES, _SIZE, _SIZE, 3))}
  return {k: np.asarray(v, np.float32) for k, v in arrays.items()}


def ours(betas, features, kernel, bias, images, out=(None, None)):
  """Returns the two resampled clips [N, H, W, C], in JAX.

  Args:
    betas: see `theirs`, as for all that follow.
    features: the same.
    kernel: the same.
    bias: the same.
    images: [N, H, W, C].
    out: see `resample.sample`, for each clip.
  """
  raw, _, _ = peaks.chosen_map(features, kernel, bias, _DELTA)
  response = peaks.normalized_response(raw, _GRID)
  parts = peaks.split(peaks.find_peaks(response), response, _PHI)
  return [sparse.zoom(images, response, part, beta, _BASE, inverse, room)
          for part, beta, inverse, room in zip(
              parts, betas, (False, True), out)]


def _torch_saliency(response, part, beta, inverse):
  strength = torch.where(part, response, 1.0)
  height = torch.where(part, 1 / strength if inverse else strength, 0.0)
  cells = torch.arange(_GRID, dtype=torch.float32, device=response.device)
  squares = (cells[:, None] - cells) ** 2
  spread = (strength * beta**2)[:, None]
  rows = torch.exp(-squares[:, :, None] / spread) * height[:, None]
  columns = torch.exp(-squares[:, None] / spread)
  return _BASE + rows.flatten(2) @ columns.flatten(2).transpose(1, 2)


def theirs(betas, features, kernel, bias, images, grids):
  """Returns the two clips [N, C, H, W], in PyTorch.

  Args:
    betas: two scalars.
    features: [N, h, w, C].
    kernel: [C, S].
    bias: [S].
    images: [N, C, H, W].
    grids: the matrices of `resample._kernels`, which are quicker than the
      published code's convolution.
  """
  with torch.no_grad():
    logits = features.mean((1, 2)) @ kernel + bias
    likely, index = logits.softmax(-1).topk(5)
    entropy = -(likely * likely.log()).sum(-1)
    maps = torch.einsum('nhwc,nck->nkhw', features,
                        kernel.T[index].transpose(1, 2))
    raw = torch.where((entropy < _DELTA)[:, None, None], maps[:, 0],
                      maps.sum(1))
    x = functional.interpolate(raw[:, None], (_GRID, _GRID), mode='bilinear',
                               align_corners=True)
    low, high = x.amin((2, 3), True), x.amax((2, 3), True)
    x = (x - low) / (high - low)
    _, place = functional.max_pool2d(x, 3, 1, 1, return_indices=True)
    own = torch.arange(_GRID**2, device=x.device).view(_GRID, _GRID)
    found = ((place == own) & (x >= x.mean((2, 3), True)))[:, 0]
    response = x[:, 0]
    strong = response >= _PHI
  clips = []
  for part, beta, inverse in zip((found & strong, found & ~strong), betas,
                                 (False, True)):
    q = _torch_saliency(response, part, beta, inverse)
    sums = grids @ q @ grids.T
    mass = sums[:, :_GRID, :_GRID]
    points = torch.stack([sums[:, :_GRID, _GRID:], sums[:, _GRID:, :_GRID]], 1)
    grid = (2 * points / mass[:, None] - 1).clamp(-1, 1)
    grid = functional.interpolate(grid, images.shape[2:], mode='bilinear',
                                  align_corners=True)
    clips.append(functional.grid_sample(
        images, grid.permute(0, 2, 3, 1), mode='bilinear', align_corners=True))
  return clips


def _programs(inputs, device, finish):
  """Returns {what: (ours, theirs)}: functions that return arrays."""
  arrays = [inputs[k] for k in ('features', 'kernel', 'bias', 'images')]
  here = jax.device_put(arrays)
  betas = jnp.asarray(_BETAS)
  weights = jax.device_put(list(inputs['weights']))
  there = [torch.tensor(a, device=device) for a in arrays]
  there[3] = there[3].permute(0, 3, 1, 2).contiguous()
  grids = torch.tensor(resample._kernels(_GRID), dtype=torch.float32,
                       device=device)
  their_weights = [torch.tensor(w, device=device).permute(
      0, 3, 1, 2).contiguous() for w in inputs['weights']]
  their_betas = torch.tensor(_BETAS, device=device, requires_grad=True)
  # The memory of a clip that is done with takes the next, as PyTorch's does by
  # itself.
  clips = jax.jit(ours, donate_argnums=5)
  last = [jnp.copy(here[3]) for _ in betas]

  def our_clips():
    nonlocal last
    last = jax.block_until_ready(clips(betas, *here, last))
    return last

  def loss(betas, weights, *args):
    y = ours(betas, *args)
    return sum(map(jnp.vdot, y, weights)), y

  # Both give the clips away, too, to be used again.
  gradient = jax.jit(jax.grad(loss, has_aux=True), donate_argnums=6)

  def our_gradient():
    nonlocal last
    grads, last = jax.block_until_ready(
        gradient(betas, weights, *here, last))
    return grads, last

  run = torch.compile(theirs) if device == 'cuda' else theirs

  def their_clips():
    with torch.no_grad():
      y = run(their_betas, *there, grids)
    finish()
    return y

  def their_gradient():
    their_betas.grad = None
    y = run(their_betas, *there, grids)
    sum((y * w).sum() for y, w in zip(y, their_weights)).backward()
    finish()
    return their_betas.grad, y

  return {
      'forward': (our_clips, their_clips),
      'forward and backward': (our_gradient, their_gradient)}


def _check(programs):
  """Says how far apart the two are; raises an error if it is too far."""
  ours_clips, their_clips = (f() for f in programs['forward'])
  reference = np.stack([y.permute(0, 2, 3, 1).cpu() for y in their_clips])
  apart = np.abs(np.asarray(ours_clips) - reference).max()
  (ours_grad, _), (their_grad, _) = (
      f() for f in programs['forward and backward'])
  their_grad = their_grad.cpu().numpy()
  grads = np.abs(np.asarray(ours_grad) - their_grad).max() / np.abs(
      their_grad).max()
  moved = np.abs(reference[0] - reference[1]).max()
  print(f'differ: pixels {apart:.1e} (the two clips from each other '
        f'{moved:.2f}), gradients {grads:.1e} of the largest')
  assert apart < 1e-4 < moved, apart
  assert grads < 2e-3, grads


def _share_of_network(images, milliseconds, clock, rounds):
  """Says how long one pass of T-CNN takes, and what share attention has."""
  model = get_model('tcnn', num_classes=_CLASSES)
  rng = np.random.default_rng(0)
  video = jnp.asarray(images[None])
  variables = jax.tree.map(
      lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape) + (
          x.ndim == 1), x.dtype),
      jax.eval_shape(model.init, jax.random.key(0), video))
  run = jax.jit(model.apply)
  jax.block_until_ready(run(variables, video))
  times = []
  for _ in range(rounds):
    start = clock()
    jax.block_until_ready(run(variables, video))
    times.append(clock() - start)
  once = 1e3 * np.median(times)
  print(f'T-CNN, one pass: {once:.4g} ms; sparse attention is '
        f'{milliseconds / (3 * once):.1%} of three')


def _copied_per_second(clock, rounds):
  """Returns GB/s that are read and written when an array is negated."""
  array = jnp.zeros(1 << 28, jnp.float32)
  negate = jax.jit(jnp.negative, donate_argnums=0)
  array = jax.block_until_ready(negate(array))
  times = []
  for _ in range(rounds):
    start = clock()
    array = jax.block_until_ready(negate(array))
    times.append(clock() - start)
  return 2 * array.nbytes / np.median(times) / 1e9


def main(argv=None):
  """Runs the benchmark."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=15)
  arguments = parser.parse_args(argv)
  on_cpu = not torch.cuda.is_available()
  if on_cpu:
    # Before JAX counts the cores: it would start a thread for each.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
  clock = time.process_time if on_cpu else time.perf_counter
  inputs = make_inputs()
  programs = _programs(inputs, 'cpu' if on_cpu else 'cuda',
                       (lambda: None) if on_cpu else torch.cuda.synchronize)
  _check(programs)
  print('| what | JAX | PyTorch | PyTorch / JAX |\n|---|---|---|---|')
  for what, pair in programs.items():
    times = []
    for _ in range(arguments.rounds):
      start = clock()
      pair[0]()
      middle = clock()
      pair[1]()
      times.append((middle - start, clock() - middle))
    times = np.asarray(times)
    ratios = times[:, 1] / times[:, 0]
    here, there = 1e3 * np.median(times, 0)
    print(f'| {what} | {here:.3g} ms | {there:.3g} ms | '
          f'{np.median(ratios):.2f} ({ratios.min():.2f} to '
          f'{ratios.max():.2f}) |', flush=True)
    if what == 'forward':
      _share_of_network(inputs['images'], here, clock, 5)
    if what == 'forward' and not on_cpu:
      # One clip is read and two are written, float32.
      rate = 3 * _FRAMES * _SIZE**2 * 3 * 4 / here / 1e6
      limit = _copied_per_second(clock, arguments.rounds)
      print(f'{jax.devices()[0].device_kind}: {rate:.0f} GB/s of pixels, each '
            f'read and written once, {rate / limit:.0%} of the {limit:.0f} '
            'GB/s at which an array is negated')


if __name__ == '__main__':
  main()
