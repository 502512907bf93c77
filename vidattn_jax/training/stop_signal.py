"""Stopping a run between two steps."""

import contextlib
import signal

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Turns SIGTERM and the first Ctrl-C into a wish to stop after a step."""

  def __init__(self):
    self._received = False
    self._previous = {}

  def __enter__(self):
    # With several processes JAX's own handler tells all of them.
    if jax.process_count() > 1:
      return self
    for number in (signal.SIGTERM, signal.SIGINT):
      # Only the main thread may set handlers.
      with contextlib.suppress(ValueError):
        self._previous[number] = signal.signal(number, self._receive)
    return self

  def __exit__(self, *unused):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _receive(self, number, frame):
    del frame
    self._received = True
    # A second one acts at once.
    signal.signal(number, self._previous[number])

  def requested(self, step: int) -> bool:
    """Tells whether to stop; the same answer on every process."""
    if jax.process_count() == 1:
      return self._received
    return multihost_utils.reached_preemption_sync_point(step)
