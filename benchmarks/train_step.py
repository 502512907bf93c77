"""What attention costs on the CPU, beside the same formulas in PyTorch.

python -m benchmarks.train_step --attention='CinST->STinC' --rounds 9

A network with and without attention units, here and in PyTorch, with the same
weights and clips, float32; forward passes and train steps (SGD with momentum)
take turns in one process. That logits and gradients are equal is checked in
the same run. The floor is the network with attention whose gates' convolutions
are left out: it reads and writes what the units read and write. Times are
medians; ratios are of single turns, with the smallest and the largest.

With --threads 1 the time of the processor is taken, not of the clock, also for
compiling.
"""

import argparse
import os
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import backbones
from vidattn_jax.convert import to_torch
from vidattn_jax.models import get_model
from vidattn_jax.ops import plane_convolution
from vidattn_jax.tools import check_conversion

_CLASSES = 174
# Of gradients in float64.
_TOLERANCE = 1e-6


def _without_convolution(pooled, kernel):
  """Stands in for `convolve_planes`; reads and writes the same."""
  return kernel[0, 0, 0, 0, 0] * pooled[:, 0] + kernel[
      0, 0, 0, 1, 0] * pooled[:, 1]


def _forward_of_jax(model, variables, video, clock):
  """Returns a forward pass without arguments, and its compile time in s."""
  variables, video = jax.tree.map(jnp.asarray, (variables, video))
  start = clock()
  compiled = jax.jit(lambda v, x: model.apply(v, x)['logits']).lower(
      variables, video).compile()
  return (lambda: jax.block_until_ready(compiled(variables, video)),
          clock() - start)


def _forward_of_torch(network, video, compiled):
  """Returns a forward pass without arguments."""
  run_network = torch.compile(network) if compiled else network
  video = backbones.channels_first(video)

  def run():
    network.eval()
    with torch.no_grad():
      return run_network(video)

  return run


def _gradient_difference(arguments, options):
  """Compares the gradients of a train step with PyTorch's, in float64.

  In float32, rounding decides which of two nearly equal numbers is a maximum,
  and gradients of deep networks differ by a percent whoever computes them.

  Args:
    arguments: those of `get_model`.
    options: the flags.

  Returns:
    Norm of the difference, in parts of the norm of PyTorch's gradient.
  """
  with jax.enable_x64(True):
    model = get_model(**arguments, dtype='float64')
    video, labels = _clips(model, options)
    video = video.astype(np.float64)
    variables = backbones.random_variables(model, video)
    variables = jax.tree.map(lambda v: v.astype(np.float64), variables)
    network, layout = check_conversion.twin(arguments, model)
    network.double()
    backbones.load(network, layout, model, variables)
    backbones.step_of_torch(network, video, labels)()
    state = backbones.step_of_jax(model, variables, video, labels)[0]()
    # All momentum after the first step.
    trace = jax.tree.map(np.asarray, state['optimizer'][0].trace)
  prefix = backbones.LAYOUTS[layout].prefix
  ours = {name.removeprefix(prefix): value for name, value in to_torch(
      model, {**variables, 'params': trace}, layout).items()}
  gap = size = 0.0
  for name, parameter in network.named_parameters():
    theirs = parameter.grad.numpy()
    gap += float(((ours[name] - theirs) ** 2).sum())
    size += float((theirs ** 2).sum())
  return (gap / size) ** 0.5


def _clips(model, options):
  """Returns (video float32 [N, T, H, W, C], labels [N])."""
  rng = np.random.default_rng(1)
  return (rng.standard_normal((options.batch, *model.image_shape)).astype(
      np.float32), np.arange(options.batch))


def _prepare(options, attention, clock):
  """Compiles and checks one network, here and in PyTorch.

  Args:
    options: the flags.
    attention: name of the units, or None.
    clock: what tells the time.

  Returns:
    {(kind, who): step without arguments}, and {the same: compile time in s}.
  """
  arguments = {'name': options.model, 'attention': attention, 'dropout': 0.0,
               'num_classes': _CLASSES, 'num_frames': options.frames,
               'crop_size': options.crop}
  model = get_model(**arguments)
  video, labels = _clips(model, options)
  variables = backbones.random_variables(model, video)
  name = attention or 'plain'
  network, layout = check_conversion.twin(arguments, model)
  backbones.load(network, layout, model, variables)
  logits = check_conversion.check(arguments, model, variables)['logits']
  gradients = (0.0 if options.no_gradients
               else _gradient_difference(arguments, options))
  print(f'{name}: logits differ by {logits:.0e} of the largest'
        + ('' if options.no_gradients else ', gradients (in float64) by '
           f'{gradients:.0e} of their norm'), flush=True)
  if logits > check_conversion.TOLERANCE or gradients > _TOLERANCE:
    raise SystemExit('The networks are not the same; nothing was measured.')

  steps, compile_seconds = {}, {}

  def add(kind, who, made):
    steps[kind, who], compile_seconds[kind, who] = made

  add('train', f'ours {name}', backbones.step_of_jax(
      model, variables, video, labels, clock))
  add('forward', f'ours {name}', _forward_of_jax(
      model, variables, video, clock))
  if attention and not options.no_floor:
    with mock.patch.object(plane_convolution, 'convolve_planes',
                           _without_convolution):
      add('train', 'ours floor', backbones.step_of_jax(
          model, variables, video, labels, clock))
      add('forward', 'ours floor', _forward_of_jax(
      model, variables, video, clock))
  for compiled in (False, True)[:1 + options.compiled]:
    who = f'torch {name}' + ' compiled' * compiled
    add('train', who, (backbones.step_of_torch(
        network, video, labels, compiled), 0.0))
    add('forward', who, (_forward_of_torch(network, video, compiled), 0.0))
    compile_seconds['train', who] = backbones.seconds(
        steps['train', who], clock)
  return steps, compile_seconds


def _ratio(times, a, b):
  ratios = times[a] / times[b]
  return (f'{np.median(ratios):.2f} ({ratios.min():.2f} to '
          f'{ratios.max():.2f})')


def main(argv=None):
  """Runs the benchmark and prints two tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', default='tsm_r50')
  parser.add_argument('--attention', default='CinST->STinC')
  parser.add_argument('--frames', type=int, default=8)
  parser.add_argument('--crop', type=int, default=112)
  parser.add_argument('--batch', type=int, default=2)
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--compiled', action='store_true',
                      help='measure what PyTorch compiles, too')
  parser.add_argument('--no_floor', action='store_true')
  parser.add_argument('--no_gradients', action='store_true',
                      help='compare logits alone')
  options = parser.parse_args(argv)
  # XLA has as many threads as the process has cores.
  os.sched_setaffinity(
      0, sorted(os.sched_getaffinity(0))[-options.threads:])
  torch.set_num_threads(options.threads)
  clock = time.process_time if options.threads == 1 else time.perf_counter

  steps, compile_seconds = {}, {}
  for attention in (None, options.attention):
    made, took = _prepare(options, attention, clock)
    steps |= made
    compile_seconds |= took
  for step in steps.values():
    step()
    step()
  times = {key: np.zeros(options.rounds) for key in steps}
  for turn in range(options.rounds):
    for key, step in steps.items():
      times[key][turn] = backbones.seconds(step, clock)

  print('| network | forward | train step | compile (train) |')
  print('|---|---|---|---|')
  for who in dict.fromkeys(who for _, who in steps):
    forward, train = (1e3 * np.median(times[kind, who])
                      for kind in ('forward', 'train'))
    took = (f'{compile_seconds["train", who]:.0f} s'
            if who.startswith('ours') or who.endswith('compiled') else '')
    print(f'| {who} | {forward:.0f} ms | {train:.0f} ms | {took} |')
  name = options.attention
  pairs = [(f'ours {name}', 'ours plain'), (f'torch {name}', 'torch plain'),
           ('ours plain', 'torch plain'), (f'ours {name}', f'torch {name}'),
           ('ours floor', 'ours plain'),
           ('ours plain', 'torch plain compiled'),
           (f'ours {name}', f'torch {name} compiled')]
  print('| ratio | forward | train step |')
  print('|---|---|---|')
  for a, b in pairs:
    if ('train', a) in steps and ('train', b) in steps:
      print(f'| {a} / {b} | {_ratio(times, ("forward", a), ("forward", b))} | '
            f'{_ratio(times, ("train", a), ("train", b))} |')
  with_units, plain = (compile_seconds['train', f'ours {name}']
                       for name in (options.attention, 'plain'))
  print(f'Compiling our train step takes {with_units:.1f} s with attention, '
        f'{plain:.1f} s without: {with_units / plain:.2f} times.')


if __name__ == '__main__':
  main()
