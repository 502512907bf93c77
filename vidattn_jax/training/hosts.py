"""Processes that train as one: how they meet, and how they end."""

import contextlib
import os
import sys

import jax

# A process that is silent for so long is taken for dead, seconds.
HEARTBEAT = 20
# How long a process that ends waits for the others, seconds.
_SHUTDOWN = 30


def initialize(coordinator: str | None = None,
               num_processes: int | None = None,
               process_id: int | None = None):
  """Starts this process as one of several.

  Args:
    coordinator: HOST:PORT of process 0; with None all three are taken from the
      cluster (a TPU pod, Slurm).
    num_processes: how many there are.
    process_id: which one this is.
  """
  jax.distributed.initialize(
      coordinator, num_processes, process_id,
      heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=_SHUTDOWN)


@contextlib.contextmanager
def ending_together():
  """Ends this process at once, and says so, if it cannot go on.

  When another process is gone, the next exchange with it fails. Waiting for it
  in an orderly end would take minutes, so there is none; the checkpoints that
  are finished are whole. An error of this process is shown, and the others then
  learn of it in the same way.
  """
  if jax.process_count() == 1:
    yield
    return
  try:
    yield
  except ValueError:
    raise
  except Exception as error:
    last = str(error).strip().splitlines()[:1] or [type(error).__name__]
    print(f'ERROR: Process {jax.process_index()} of {jax.process_count()} '
          'cannot go on, most likely because another one is gone: '
          f'{last[0]}\nStart all again with the same --workdir; training goes '
          'on from the last checkpoint.', file=sys.stderr, flush=True)
    if os.environ.get('VIDATTN_DEBUG'):
      sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    os._exit(1)
