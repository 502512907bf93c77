"""Runs the commands of an experiment; several at a time, each on one core."""

import concurrent.futures
import contextlib
import os
import pathlib
import queue
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments, core=None, log=None):
  """Runs one Python command in the checkout, printed as one would type it.

  Args:
    *arguments: of Python.
    core: number of the core it runs on; None takes what there is.
    log: file that takes what it prints; None prints it here.

  Raises:
    SystemExit: it failed.
  """
  arguments = [str(a) for a in arguments]
  print('\n$ python ' + ' '.join(arguments), flush=True)
  command = [sys.executable, *arguments]
  if core is not None:
    command = ['taskset', '-c', str(core), *command]
  with contextlib.ExitStack() as stack:
    file = None
    if log:
      pathlib.Path(log).parent.mkdir(parents=True, exist_ok=True)
      file = stack.enter_context(open(log, 'a', encoding='utf-8'))
    done = subprocess.run(
        command, check=False, cwd=_ROOT, stdout=file, stderr=file,
        env={**os.environ, 'PYTHONPATH': str(_ROOT)})
  if done.returncode:
    sys.exit(f'python {" ".join(arguments)} ended with code {done.returncode}'
             + (f'; see {log}.' if log else '.'))


def on_cores(function, jobs) -> list:
  """Calls a function for each job, as many at a time as there are cores.

  On a CPU, two trainings on a core each are done sooner than one after the
  other on both.

  Args:
    function: called with (job, number of a core that no other job has).
    jobs: what to call it with.

  Returns:
    Its results, in the order of the jobs.
  """
  cores = queue.SimpleQueue()
  for core in sorted(os.sched_getaffinity(0)):
    cores.put(core)

  def call(job):
    core = cores.get()
    try:
      return function(job, core)
    finally:
      cores.put(core)

  with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
    return list(pool.map(call, jobs))
