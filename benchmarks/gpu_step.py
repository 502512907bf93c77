"""A train step on a GPU in bfloat16, beside the same in PyTorch.

python -m benchmarks.gpu_step [--cases tsm_r50 'tsm_r50:CinST->STinC']

Both have the same layers, loss (cross entropy) and optimizer (SGD with
momentum), parameters in float32, and clips of bfloat16 that are on the GPU.
PyTorch has channels last, autocast, cuDNN's own search, and is compiled
(--eager: as it is, too). Each runs in a process of its own, which tries the
batches and keeps the one with the most clips per second; then all take turns.
Those of --together cases compile and search at the same time; 1 is quietest.
Figures are medians of the turns, ratios those of single turns, with the
smallest and the largest. Memory is the most that a process had in use.

The roofline is what a step would take if nothing but the slower of two took
time: the layers' operations (XLA does not count cuDNN's) and XLA's own count of
bytes of the program, over the chip's published rates.

Without a GPU, everything is tiny, and says only that it runs. Imports jax,
flax, optax, numpy and torch alone.
"""

import argparse
import concurrent.futures
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks import backbones
from vidattn_jax.models import get_model
from vidattn_jax.tools import check_conversion
from vidattn_jax.tools import chips
from vidattn_jax.tools import complexity

CASES = ('tsm_r50', 'tsm_r50:CinST->STinC', 'resnext3d_101',
         'resnext3d_101:STA')
_CLASSES, _STEPS = 174, 10
# Frames, crop and batches, by how a name begins.
_CLIPS = {'tsm': (8, 224, (16, 32, 64)), 'resnext3d': (64, 112, (8, 16, 32))}
_TINY = {'tsm': (8, 32, (1, 2)), 'resnext3d': (16, 64, (2,))}


def _arguments(case, options):
  """Returns the arguments of `get_model`, and the batches to try."""
  case, _, batch = case.partition('@')
  name, _, attention = case.partition(':')
  frames, crop, batches = next(
      clip for begin, clip in (_TINY if options.tiny else _CLIPS).items()
      if name.startswith(begin))
  return {'name': name, 'attention': attention or None, 'dropout': 0.0,
          'num_classes': _CLASSES, 'num_frames': frames,
          'crop_size': crop, 'dtype': 'bfloat16'}, (
              [int(batch)] if batch else batches)


def _of_jax(case, options):
  """Yields (batch, step, facts) for each batch; a step runs `_STEPS` steps."""
  arguments, batches = _arguments(case, options)
  model = get_model(**arguments)
  # A step is three passes, and a multiply-add two operations.
  flops = 6 * complexity.complexity(model).macs
  optimizer = optax.sgd(1e-3, 0.9)
  step = backbones.make_step(model, optimizer)
  device = jax.devices()[0]
  for batch in batches:
    video = jax.random.normal(
        jax.random.key(1), (batch, *model.image_shape), jnp.bfloat16)
    labels = jnp.arange(batch) % _CLASSES
    variables = backbones.random_variables(model, video)
    state = jax.device_put({'variables': variables,
                            'optimizer': optimizer.init(variables['params'])})
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(
        state, video, labels).compile()
    seconds = time.perf_counter() - start
    costs = compiled.cost_analysis()
    state = jax.block_until_ready(compiled(state, video, labels))
    run = _repeated(compiled, state, video, labels)
    del state, variables

    def memory():
      return (device.memory_stats() or {}).get('peak_bytes_in_use', 0)

    yield batch, run, {
        'compile': seconds, 'flops': batch * flops,
        'bytes': costs.get('bytes accessed', 0), 'memory': memory,
        'free': lambda: None}


def _repeated(compiled, state, *batch):
  """Returns a function that takes `_STEPS` steps from where the last ended."""

  def run():
    nonlocal state
    for _ in range(_STEPS):
      state = compiled(state, *batch)
    jax.block_until_ready(state)

  return run


def _of_torch(case, options, compiled):
  """As `_of_jax`."""
  arguments, batches = _arguments(case, options)
  model = get_model(**arguments)
  network, _ = check_conversion.twin(arguments, model)
  gpu = torch.cuda.is_available()
  device = 'cuda' if gpu else 'cpu'
  network.to(device)
  for module in network.modules():
    if isinstance(module, torch.nn.Conv2d):
      module.to(memory_format=torch.channels_last)
    elif isinstance(module, torch.nn.Conv3d):
      module.to(memory_format=torch.channels_last_3d)
  network.train()
  optimizer = torch.optim.SGD(network.parameters(), 1e-3, 0.9, fused=gpu)
  torch.backends.cudnn.benchmark = True
  for batch in batches:
    run_network = torch.compile(network, dynamic=False) if compiled else network
    video = torch.randn(batch, *model.image_shape, device=device,
                        dtype=torch.bfloat16).permute(0, 4, 1, 2, 3)
    labels = torch.arange(batch, device=device) % _CLASSES

    def run(steps=_STEPS, run_network=run_network, video=video, labels=labels):
      for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
          logits = run_network(video)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
      if gpu:
        torch.cuda.synchronize()

    start = time.perf_counter()
    run(1)
    seconds = time.perf_counter() - start
    yield batch, run, {
        'compile': seconds, 'free': torch.cuda.empty_cache,
        'memory': lambda: torch.cuda.max_memory_allocated() if gpu else 0}


@contextlib.contextmanager
def _alone(path):
  """Keeps the GPU to one process of those that measure."""
  with open(path, 'w', encoding='utf-8') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _is_of_memory(error):
  """Tells whether an error says that the GPU's memory did not do."""
  return 'out of memory' in str(error).lower() or (
      'RESOURCE_EXHAUSTED' in str(error))


def _work(options):
  """Measures one network in this process; turns are asked for by lines."""
  case, who = options.work
  made = (_of_jax(case, options) if who == 'JAX' else
          _of_torch(case, options, who == 'PyTorch'))
  best, tried = None, {}

  def say(text):
    print(f'{case} in {who}: {text}', file=sys.stderr, flush=True)

  while True:
    batch = run = facts = None
    try:
      batch, run, facts = next(made)
      say(f'batch {batch} compiled in {facts["compile"]:.0f} s')
      with _alone(options.lock):
        run()
        start = time.perf_counter()
        run()
        rate = batch * _STEPS / (time.perf_counter() - start)
    except StopIteration:
      break
    except Exception as error:
      if best is None and not _is_of_memory(error):
        raise
      # What is known already is not lost.
      say(f'a larger batch failed: {str(error).splitlines()[0]}')
      break
    tried[batch] = f'{rate:.0f}'
    say(f'{rate:.0f} clips/s')
    if best and rate <= best[0]:
      break
    best = rate, batch, run, {**facts, 'memory': facts['memory']()}
  made.close()  # With what the last batch holds.
  if best is None:
    sys.exit(1)
  _, batch, run, facts = best
  facts['free']()
  print('READY ' + json.dumps({
      'batch': batch, 'tried': tried,
      **{k: v for k, v in facts.items() if not callable(v)}}), flush=True)
  for _ in sys.stdin:
    # What was freed is taken again.
    run()
    start = time.perf_counter()
    run()
    print(f'TOOK {(time.perf_counter() - start) / _STEPS}', flush=True)
    facts['free']()


def _answer(process, word):
  """Returns what follows a word at the beginning of a process's line.

  Returns None if the process has ended.
  """
  for line in process.stdout:
    if line.startswith(word):
      return line.removeprefix(word)
  return None


def _turn(process):
  """Returns the seconds of a step, or None if the process has ended."""
  try:
    process.stdin.write('\n')
    process.stdin.flush()
  except BrokenPipeError:
    return None
  took = _answer(process, 'TOOK ')
  return None if took is None else float(took)


def _start(case, who, lock, options):
  return subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.gpu_step', '--lock', lock,
       *['--tiny'] * options.tiny, '--work', case, who],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
      start_new_session=True,
      env={**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
           'TF_CPP_MIN_LOG_LEVEL': '3',
           'PYTORCH_CUDA_ALLOC_CONF': 'expandable_segments:True'})


def _end(process):
  """Ends a process and those that it has started, which hold the GPU, too."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def _ready(processes, patience):
  """Waits for processes, at most so many seconds.

  Args:
    processes: {key: process}.
    patience: in s; what is not ready then is killed.

  Returns:
    {key: its facts}, in the same order.
  """
  with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
    answers = {key: pool.submit(_answer, process, 'READY ')
               for key, process in processes.items()}
    concurrent.futures.wait(answers.values(), patience)
    for key, answer in answers.items():
      if not answer.done():
        print(f'{" in ".join(key)}: not ready in {patience:.0f} s',
              file=sys.stderr)
        _end(processes[key])
    return {key: json.loads(answer.result())
            for key, answer in answers.items() if answer.result()}


def _measure(cases, whos, options, chip):
  """Measures some networks turn by turn, and prints their rows."""
  with tempfile.TemporaryDirectory() as folder:
    processes = {(case, who): _start(case, who, os.path.join(folder, 'lock'),
                                     options) for case in cases for who in whos}
    times = {}
    try:
      facts = _ready(processes, options.patience)
      times = {key: [] for key in facts}
      for _ in range(options.rounds):
        for key in list(times):
          took = _turn(processes[key])
          if took is None:
            print(f'{" in ".join(key)} ended; see above', file=sys.stderr)
            del times[key]
          else:
            times[key].append(took)
    finally:
      for process in processes.values():
        _end(process)
  # Clips per second.
  speeds = {key: facts[key]['batch'] / np.asarray(took)
            for key, took in times.items()}
  for (case, who), speed in speeds.items():
    fact, reached = facts[case, who], ''
    if who == 'JAX' and chip:
      least = [fact['flops'] / chip.flops, fact['bytes'] / chip.bandwidth]
      step = np.median(times[case, who])
      reached = (f'{max(least) / step:.0%} (operations {least[0] / step:.0%}, '
                 f'bytes {least[1] / step:.0%})')
    others = [(other, speed / speeds[case, other])
              for other in whos if who == 'JAX' and other != 'JAX'
              and (case, other) in speeds]
    note = ', '.join(f'{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f}) '
                     f'of {other}' for other, r in others)
    tried = ', '.join(f'{b}: {r}' for b, r in fact['tried'].items())
    print(f'| {case} | {who} | {fact["batch"]} ({tried}) | '
          f'{np.median(speed):.0f} | {note} | {fact["memory"] / 1e9:.1f} GB | '
          f'{reached} | {fact["compile"]:.0f} s |', flush=True)


def main(argv=None):
  """Runs the benchmark and prints a row for each network."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', nargs='+', default=CASES, metavar='CASE',
                      help='NAME, NAME:ATTENTION or either with @BATCH; '
                      + ', '.join(CASES))
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--eager', action='store_true',
                      help='PyTorch without compiling, too')
  parser.add_argument('--together', type=int, default=2, metavar='CASES',
                      help='cases that take turns')
  parser.add_argument('--patience', type=float, default=1200, metavar='S',
                      help='what is not ready then is left out')
  parser.add_argument('--work', nargs=2, help=argparse.SUPPRESS)
  parser.add_argument('--lock', help=argparse.SUPPRESS)
  parser.add_argument('--tiny', action='store_true', help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  if options.work:
    _work(options)
    return
  gpu = torch.cuda.is_available()
  options.tiny |= not gpu
  device = torch.cuda.get_device_name() if gpu else 'CPU; sizes are tiny'
  chip = next((chip for name, chip in chips.CHIPS.items()
               if name.upper() in device and 'PCIe' not in device), None)
  print(f'{device}\n| network | in | batch (tried: clips/s) | clips/s | JAX is '
        'so many times as fast | memory | of the roofline | compile |\n'
        '|---|---|---|---|---|---|---|---|', flush=True)
  whos = ('JAX', 'PyTorch', 'PyTorch eager')[:2 + options.eager]
  cases = list(options.cases)
  while cases:
    _measure(cases[:options.together], whos, options, chip)
    cases = cases[options.together:]


if __name__ == '__main__':
  main()
