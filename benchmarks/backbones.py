"""A train step of networks on the CPU, beside the same in PyTorch.

python -m benchmarks.backbones --names tsn_r50 c3d --rounds 9

Both have the same weights, clip, loss (cross entropy) and optimizer (SGD with
momentum), float32, two threads, batch 1, and take their steps turn by turn in
one process. Their stages and logits in evaluation are compared, too. Ratios are
of single turns: median, smallest and largest.

With --threads 1, the time of the processor is taken, not of the clock. It does
not grow with what else the machine does; that of two threads does, most of all
PyTorch's, whose threads wait for each other.
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

from vidattn_jax.convert import LAYOUTS
from vidattn_jax.convert import to_torch
from vidattn_jax.convert import torch_networks
from vidattn_jax.models import get_model
from vidattn_jax.models import MODELS
from vidattn_jax.tools import check_conversion

_CLASSES, _RATE, _MOMENTUM = 101, 1e-4, 0.9
# Largest difference, in parts of the largest value, that is not reported.
_TOLERANCE = 1e-3
# Frames and crop, by how a name begins; the crop is as small as the network
# takes.
_CLIPS = {'p3d': (16, 160), 'c3d': (16, 112), 'r3d': (16, 112),
          'resnext3d': (16, 112), 'tsn_bn': (8, 96), 'tsn_se': (8, 96),
          'tstam': (8, 96),
          '': (8, 112)}


def random_variables(model, video):
  """Returns variables of He's size without running the initialisation.

  Args:
    model: the network.
    video: a clip, or its shape and type.
  """
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


def make_step(model, optimizer):
  """Returns a train step: (state, video, labels) -> state after it.

  Args:
    model: the network.
    optimizer: what optax makes.
  """

  def step(state, video, labels):
    def loss(params):
      outputs, updated = model.apply(
          {**state['variables'], 'params': params}, video, train=True,
          mutable=['batch_stats'])
      return optax.softmax_cross_entropy_with_integer_labels(
          outputs['logits'], labels).mean(), updated

    params = state['variables']['params']
    grads, updated = jax.grad(loss, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(grads, state['optimizer'])
    params = optax.apply_updates(params, updates)
    return {'variables': {**updated, 'params': params},
            'optimizer': optimizer_state}

  return step


def step_of_jax(model, variables, video, labels, clock=time.perf_counter):
  """Compiles a train step.

  Args:
    model: the network.
    variables: its weights and statistics.
    video: [N, T, H, W, C].
    labels: N classes.
    clock: what tells the time that compiling takes.

  Returns:
    (a step without arguments, which returns the state after it; its compile
    time in s).
  """
  optimizer = optax.sgd(_RATE, _MOMENTUM)
  state = jax.tree.map(jnp.array, {
      'variables': variables, 'optimizer': optimizer.init(variables['params'])})
  batch = jnp.asarray(video), jnp.asarray(labels)
  start = clock()
  compiled = jax.jit(make_step(model, optimizer), donate_argnums=0).lower(
      state, *batch).compile()
  taken = clock() - start

  def run():
    nonlocal state
    state = jax.block_until_ready(compiled(state, *batch))
    return state

  return run, taken


def load(network, layout, model, variables):
  """Gives the network in PyTorch the same weights.

  Args:
    network: that in PyTorch.
    layout: the layout that its names follow.
    model: the network here.
    variables: its weights and statistics.
  """
  prefix = LAYOUTS[layout].prefix
  weights = {key.removeprefix(prefix): torch.tensor(value) for key, value
             in to_torch(model, variables, layout).items()}
  # Some published files do not count batches.
  counters = {key: value for key, value in network.state_dict().items()
              if key.endswith('num_batches_tracked')}
  network.load_state_dict({**counters, **weights})


def channels_first(video):
  """Returns [N, C, T, H, W] for PyTorch from [N, T, H, W, C]."""
  return torch.tensor(np.moveaxis(video, -1, 1).copy())


def step_of_torch(network, video, labels, compiled=False):
  """Makes a train step in PyTorch.

  Args:
    network: the network.
    video: [N, T, H, W, C].
    labels: N classes.
    compiled: whether PyTorch compiles the network.

  Returns:
    A step without arguments.
  """
  network.train()
  run_network = torch.compile(network) if compiled else network
  optimizer = torch.optim.SGD(network.parameters(), _RATE, _MOMENTUM)
  video, labels = channels_first(video), torch.tensor(labels)

  def run():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(run_network(video), labels).backward()
    optimizer.step()

  return run


def _measure(name, rounds, clock):
  frames, crop = next(clip for begin, clip in _CLIPS.items()
                      if name.startswith(begin))
  try:
    network, layout = torch_networks.build(name, _CLASSES, frames)
  except KeyError:
    print(f'| `{name}` | is not written in PyTorch here | | | | | |')
    return
  model = get_model(name, num_classes=_CLASSES, num_frames=frames,
                    crop_size=crop, dropout=0.0)
  video = np.random.default_rng(1).standard_normal(
      (1, *model.image_shape)).astype(np.float32)
  variables = random_variables(model, video)
  load(network, layout, model, variables)
  difference = max(check_conversion.check(
      {'name': name}, model, variables).values())
  theirs = step_of_torch(network, video, np.asarray([7]))
  ours, compile_seconds = step_of_jax(model, variables, video, np.asarray([7]))
  del variables
  for step in (ours, theirs):
    step()
    step()
  times = np.asarray([[seconds(ours, clock), seconds(theirs, clock)]
                      for _ in range(rounds)])
  ratios = times[:, 0] / times[:, 1]
  ours_ms, theirs_ms = 1e3 * np.median(times, axis=0)
  verdict = '' if difference <= _TOLERANCE else ' DIFFERS'
  print(f'| `{name}` | {frames}x{crop}x{crop} | {ours_ms:.0f} ms | '
        f'{theirs_ms:.0f} ms | {np.median(ratios):.2f} ({ratios.min():.2f} to '
        f'{ratios.max():.2f}) | {compile_seconds:.0f} s | '
        f'{difference:.0e}{verdict} |', flush=True)


def seconds(step, clock):
  """Returns how long a step takes by a clock."""
  start = clock()
  step()
  return clock() - start


def main(argv=None):
  """Runs the benchmark and prints one row for every network."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--names', nargs='+', choices=MODELS, default=MODELS,
                      metavar='NAME', help=', '.join(MODELS))
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--threads', type=int, default=2)
  arguments = parser.parse_args(argv)
  threads = arguments.threads
  # XLA has as many threads as the process has cores.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
  torch.set_num_threads(threads)
  clock = time.process_time if threads == 1 else time.perf_counter
  print('| network | clip | JAX | PyTorch | ratio | compile | differ |')
  print('|---|---|---|---|---|---|---|')
  for name in arguments.names:
    _measure(name, arguments.rounds, clock)
    jax.clear_caches()
    gc.collect()


if __name__ == '__main__':
  main()
