"""A train step of every network on the CPU, beside the same in PyTorch.

python -m benchmarks.backbones --names tsn_r50 c3d --rounds 9

Both have the same weights, clip, loss (cross entropy) and optimizer (SGD with
momentum), float32, two threads, batch 1, and take their steps turn by turn in
one process. The logits of the first step are compared, too. Ratios are of
single turns: median, smallest and largest.
"""

import argparse
import gc
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks import torch_networks
from vidattn_jax.convert import to_torch
from vidattn_jax.models import get_model

_CLASSES, _RATE, _MOMENTUM = 101, 1e-4, 0.9
# Largest difference of logits, in parts of the largest, that is not reported.
_TOLERANCE = 1e-3


def _cases():
  """Returns {name: (PyTorch's network, layout, frames, crop)}."""
  n = torch_networks
  cases = {}
  for depth in (18, 50, 101):
    for kind, shifted in (('tsn', 0), ('tsm', 8)):
      cases[f'{kind}_r{depth}'] = (
          lambda d=depth, s=shifted: n.FrameResNet(d, _CLASSES, s),
          'torchvision', 8, 112)
  for depth in (18, 34, 50, 101, 152):
    # The released networks of 18 and 34 layers have no projections.
    shortcut = 'A' if depth < 50 else 'B'
    cases[f'r3d_{depth}'] = (
        lambda d=depth, s=shortcut: n.ResNet3D(d, _CLASSES, shortcut=s),
        'r3d', 16, 112)
  cases['resnext3d_101'] = (
      lambda: n.ResNet3D(101, _CLASSES, groups=32), 'r3d', 16, 112)
  for depth in (50, 101):
    cases[f'slow_r{depth}'] = (
        lambda d=depth: n.Slow(d, _CLASSES), 'slowfast', 8, 112)
  cases['c3d'] = (lambda: n.C3D(_CLASSES), 'c3d', 16, 112)
  cases['p3d_199'] = (lambda: n.P3D(_CLASSES), 'p3d', 16, 160)
  for gated in (False, True):
    cases['tsn_se_bninception' if gated else 'tsn_bninception'] = (
        lambda g=gated: n.BNInception(_CLASSES, g), 'bninception', 8, 128)
  return cases


def _random_variables(model, video):
  """Returns variables of He's size without running the initialisation."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key
    if name in ('scale', 'var'):
      return np.ones(leaf.shape, leaf.dtype)
    if name in ('bias', 'mean'):
      return np.zeros(leaf.shape, leaf.dtype)
    fan_in = np.prod(leaf.shape[:-1])
    return np.asarray(rng.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5,
                      leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _step_of_jax(model, variables, video, label):
  """Returns a step without arguments, which returns logits; and seconds."""
  optimizer = optax.sgd(_RATE, _MOMENTUM)

  def step(state, video):
    def loss(params):
      outputs, updated = model.apply(
          {**state['variables'], 'params': params}, video, train=True,
          mutable=['batch_stats'])
      logits = outputs['logits']
      return -jax.nn.log_softmax(logits)[0, label], (logits, updated)

    params = state['variables']['params']
    grads, (logits, updated) = jax.grad(loss, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(grads, state['optimizer'])
    params = optax.apply_updates(params, updates)
    return {'variables': {**updated, 'params': params},
            'optimizer': optimizer_state}, logits

  state = jax.tree.map(jnp.array, {
      'variables': variables, 'optimizer': optimizer.init(variables['params'])})
  video = jnp.asarray(video)
  start = time.perf_counter()
  compiled = jax.jit(step, donate_argnums=0).lower(state, video).compile()
  seconds = time.perf_counter() - start

  def run():
    nonlocal state
    state, logits = compiled(state, video)
    jax.block_until_ready(state)
    return np.asarray(logits)

  return run, seconds


def _step_of_torch(network, weights, video, label):
  """Returns a step without arguments, which returns logits."""
  network.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
  network.train()
  optimizer = torch.optim.SGD(network.parameters(), _RATE, _MOMENTUM)
  video = torch.tensor(np.moveaxis(video, -1, 1).copy())
  label = torch.tensor([label])

  def run():
    optimizer.zero_grad()
    logits = network(video)
    torch.nn.functional.cross_entropy(logits, label).backward()
    optimizer.step()
    return logits.detach().numpy()

  return run


def _measure(name, case, rounds):
  build, layout, frames, crop = case
  model = get_model(name, num_classes=_CLASSES, num_frames=frames,
                    crop_size=crop, dropout=0.0)
  video = np.random.default_rng(1).standard_normal(
      (1, *model.image_shape)).astype(np.float32)
  variables = _random_variables(model, video)
  network = build()
  known = network.state_dict()
  weights = {k.removeprefix('module.'): v
             for k, v in to_torch(model, variables, layout).items()}
  theirs = _step_of_torch(
      network, {k: weights.get(k, v) for k, v in known.items()} | weights,
      video, 7)
  ours, compile_seconds = _step_of_jax(model, variables, video, 7)
  del variables, weights, known
  wanted, got = theirs(), ours()
  difference = np.abs(got - wanted).max() / np.abs(wanted).max()
  ours(), theirs()
  times = np.asarray([[_seconds(ours), _seconds(theirs)]
                      for _ in range(rounds)])
  ratios = times[:, 0] / times[:, 1]
  ours_ms, theirs_ms = 1e3 * np.median(times, axis=0)
  verdict = '' if difference <= _TOLERANCE else ' DIFFERS'
  print(f'| `{name}` | {frames}x{crop}x{crop} | {ours_ms:.0f} ms | '
        f'{theirs_ms:.0f} ms | {np.median(ratios):.2f} ({ratios.min():.2f} to '
        f'{ratios.max():.2f}) | {compile_seconds:.0f} s | '
        f'{difference:.0e}{verdict} |', flush=True)


def _seconds(step):
  start = time.perf_counter()
  step()
  return time.perf_counter() - start


def main(argv=None):
  """Runs the benchmark and prints one row for every network."""
  cases = _cases()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--names', nargs='+', choices=cases, default=list(cases),
                      metavar='NAME', help=', '.join(cases))
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args(argv)
  # Two threads on both sides, whatever the machine has.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
  torch.set_num_threads(2)
  print('| network | clip | JAX | PyTorch | ratio | compile | logits differ |')
  print('|---|---|---|---|---|---|---|')
  for name in arguments.names:
    _measure(name, cases[name], arguments.rounds)
    jax.clear_caches()
    gc.collect()


if __name__ == '__main__':
  main()
