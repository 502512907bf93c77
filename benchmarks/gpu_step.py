"""A train step on a GPU in bfloat16, beside the same in PyTorch.

python -m benchmarks.gpu_step [--cases tsm_r50 'tsm_r50:CinST->STinC']

Both have the same layers, loss (cross entropy) and optimizer (SGD with
momentum), parameters in float32, and clips of bfloat16 that are on the GPU.
PyTorch has channels last, autocast, cuDNN's own search, and is compiled whole
(--also: block by block, which takes less time, or eager, too). Each batch runs
in a process of its own; of each network those with the most clips per second
stay, and take turns. Processes of --together cases compile and search at the
same time; 1 is quietest. Figures are medians of the turns, ratios those of
single turns, with the smallest and the largest. Memory is the most that a
process had in use.

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
import functools
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
from vidattn_jax.convert import torch_networks
from vidattn_jax.models import get_model
from vidattn_jax.tools import check_conversion
from vidattn_jax.tools import chips
from vidattn_jax.tools import complexity

CASES = ('tsm_r50', 'tsm_r50:CinST->STinC', 'resnext3d_101',
         'resnext3d_101:STA')
_CLASSES, _WARM, _STEPS = 174, 2, 10
# How often more memory is asked for, and the seconds between.
_TRIES, _PAUSE = 8, 10
_OTHERS = ('PyTorch by block', 'PyTorch eager')
# Frames, crop and batches, by how a name begins.
_CLIPS = {'tsm': (8, 224, (16, 32)), 'resnext3d': (64, 112, (8, 16))}
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


def _of_jax(arguments, batch):
  """Compiles a step; returns a function that runs steps, and facts."""
  model = get_model(**arguments)
  # A step is three passes, and a multiply-add two operations.
  flops = 6 * complexity.complexity(model).macs
  optimizer = optax.sgd(1e-3, 0.9)
  step = backbones.make_step(model, optimizer)
  device = jax.devices()[0]
  video = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.bfloat16)
  variables = backbones.random_variables(model, video)
  state = {'variables': variables,
           'optimizer': optimizer.init(variables['params'])}
  labels = jnp.arange(batch) % _CLASSES
  start = time.perf_counter()
  compiled = jax.jit(step, donate_argnums=0).lower(
      state, video, labels).compile()
  seconds = time.perf_counter() - start
  state = jax.device_put(state)
  video = jax.random.normal(jax.random.key(1), video.shape, video.dtype)

  def run(steps):
    nonlocal state
    for _ in range(steps):
      state = compiled(state, video, labels)
    jax.block_until_ready(state)

  return run, {
      'compile': seconds, 'flops': batch * flops,
      'bytes': compiled.cost_analysis().get('bytes accessed', 0),
      'memory': lambda: (device.memory_stats() or {}).get(
          'peak_bytes_in_use', 0),
      'free': lambda: None}


def _of_torch(arguments, batch, who):
  """As `_of_jax`; compiles at the first step."""
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
  if who == 'PyTorch':
    network.compile(dynamic=False)
  elif who == 'PyTorch by block':
    # Blocks of one form share their program.
    torch._dynamo.config.cache_size_limit = 64
    for module in network.modules():
      if isinstance(module, torch_networks.Block):
        module.compile(dynamic=False)
  video = torch.randn(batch, *model.image_shape, device=device,
                      dtype=torch.bfloat16).permute(0, 4, 1, 2, 3)
  labels = torch.arange(batch, device=device) % _CLASSES

  def run(steps):
    for _ in range(steps):
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast(device, torch.bfloat16):
        logits = network(video)
      torch.nn.functional.cross_entropy(logits.float(), labels).backward()
      optimizer.step()
    if gpu:
      torch.cuda.synchronize()

  start = time.perf_counter()
  run(1)
  return run, {
      'compile': time.perf_counter() - start, 'free': torch.cuda.empty_cache,
      'memory': lambda: torch.cuda.max_memory_allocated() if gpu else 0}


@contextlib.contextmanager
def _alone(path):
  """Keeps the GPU to one process of those that measure."""
  with open(path, 'w', encoding='utf-8') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _with_patience(function, *args):
  """Calls a function again while others have taken the GPU's memory."""
  for last in (*[False] * _TRIES, True):
    try:
      return function(*args)
    except Exception as error:
      text = str(error)
      if last or not ('out of memory' in text.lower()
                      or 'RESOURCE_EXHAUSTED' in text):
        raise
    torch.cuda.empty_cache()
    time.sleep(_PAUSE)


def _work(options):
  """Measures one network in this process; turns are asked for by lines."""
  case, who, batch = options.work
  arguments, _ = _arguments(case, options)
  make = _of_jax if who == 'JAX' else functools.partial(_of_torch, who=who)
  run, facts = _with_patience(make, arguments, int(batch))

  def timed():
    # What was freed is taken again.
    _with_patience(run, _WARM)
    start = time.perf_counter()
    run(_STEPS)
    return (time.perf_counter() - start) / _STEPS

  with _alone(options.lock):
    step = timed()
  rate, memory = int(batch) / step, facts.pop('memory')()
  print(f'{case} in {who}: {batch} clips: compiled in {facts["compile"]:.0f} '
        f's, {rate:.0f} clips/s, {memory / 1e9:.1f} GB', file=sys.stderr,
        flush=True)
  free = facts.pop('free')
  free()
  print('READY ' + json.dumps({
      **facts, 'batch': int(batch), 'rate': rate, 'memory': memory}),
        flush=True)
  for _ in sys.stdin:
    print(f'TOOK {timed()}', flush=True)
    free()


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


def _start(case, who, batch, lock, options):
  return subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.gpu_step', '--lock', lock,
       *['--tiny'] * options.tiny, '--work', case, who, str(batch)],
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


def _best(processes, patience):
  """Waits for processes, and ends all but those with the best batches.

  Args:
    processes: {(case, who, batch): process}.
    patience: in s; what is not ready then is left out.

  Returns:
    {(case, who): (its process, facts, {batch: clips/s})}, in the same order.
  """
  found, tried = {}, {}
  with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
    answers = {pool.submit(_answer, process, 'READY '): key
               for key, process in processes.items()}
    try:
      for answer in concurrent.futures.as_completed(answers, patience):
        *key, batch = answers[answer]
        process, key = processes[answers[answer]], tuple(key)
        if not answer.result():
          continue  # It has said why.
        facts = json.loads(answer.result())
        tried.setdefault(key, {})[batch] = round(facts['rate'])
        if key in found and found[key][1]['rate'] >= facts['rate']:
          _end(process)
          continue
        if key in found:
          _end(found[key][0])
        found[key] = process, facts, tried[key]
    except concurrent.futures.TimeoutError:
      for answer, key in answers.items():
        if not answer.done():
          print(f'{" in ".join(key[:2])}, {key[2]} clips: not ready in '
                f'{patience:.0f} s', file=sys.stderr, flush=True)
          _end(processes[key])
  return {key[:2]: found[key[:2]] for key in processes if key[:2] in found}


def _measure(cases, whos, options, chip):
  """Measures some networks turn by turn, and prints their rows."""
  with tempfile.TemporaryDirectory() as folder:
    processes = {
        (case, who, batch): _start(case, who, batch,
                                   os.path.join(folder, 'lock'), options)
        for case in cases for who in whos
        for batch in _arguments(case, options)[1]}
    times = {}
    try:
      best = _best(processes, options.patience)
      times = {key: [] for key in best}
      for _ in range(options.rounds):
        for key in list(times):
          took = _turn(best[key][0])
          if took is None:
            print(f'{" in ".join(key)} ended; see above', file=sys.stderr)
            del times[key]
          else:
            times[key].append(took)
    finally:
      for process in processes.values():
        _end(process)
  # Clips per second.
  speeds = {key: best[key][1]['batch'] / np.asarray(took)
            for key, took in times.items()}
  for (case, who), speed in speeds.items():
    _, facts, tried = best[case, who]
    reached = ''
    if who == 'JAX' and chip:
      least = [facts['flops'] / chip.flops, facts['bytes'] / chip.bandwidth]
      step = np.median(times[case, who])
      reached = (f'{max(least) / step:.0%} (operations {least[0] / step:.0%}, '
                 f'bytes {least[1] / step:.0%})')
    others = [(other, speed / speeds[case, other])
              for other in whos if who == 'JAX' and other != 'JAX'
              and (case, other) in speeds]
    note = ', '.join(f'{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f}) '
                     f'of {other}' for other, r in others)
    tried = ', '.join(f'{b}: {r}' for b, r in sorted(tried.items()))
    print(f'| {case} | {who} | {facts["batch"]} ({tried}) | '
          f'{np.median(speed):.0f} | {note} | {facts["memory"] / 1e9:.1f} GB | '
          f'{reached} | {facts["compile"]:.0f} s |', flush=True)


def main(argv=None):
  """Runs the benchmark and prints a row for each network."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', nargs='+', default=CASES, metavar='CASE',
                      help='NAME, NAME:ATTENTION or either with @BATCH; '
                      + ', '.join(CASES))
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--also', nargs='*', default=(), choices=_OTHERS,
                      metavar='WHO', help=', '.join(_OTHERS))
  parser.add_argument('--together', type=int, default=2, metavar='CASES',
                      help='cases that take turns')
  parser.add_argument('--patience', type=float, default=1200, metavar='S',
                      help='what is not ready then is left out')
  parser.add_argument('--work', nargs=3, help=argparse.SUPPRESS)
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
  whos = ('JAX', 'PyTorch', *options.also)
  cases = list(options.cases)
  while cases:
    _measure(cases[:options.together], whos, options, chip)
    cases = cases[options.together:]


if __name__ == '__main__':
  main()
