"""Training batches, of which the first is made while the weights are."""

from collections.abc import Callable
from collections.abc import Iterator
import concurrent.futures


class Ahead:
  """Iterates over training batches; fetches the first at once, in a thread."""

  def __init__(self, train_batches: Callable[[int, int], Iterator[dict]],
               total_steps: int, step: int):
    """Begins to fetch, unless there are no steps left.

    Args:
      train_batches: see `train.Inputs`.
      total_steps: where the run ends.
      step: where it will probably begin.
    """
    self._train_batches = train_batches
    self._total_steps = total_steps
    self._pool = concurrent.futures.ThreadPoolExecutor(1, 'first_batch')
    self._step = self._first = self._iterator = None
    self.begin(step)

  def begin(self, step: int):
    """Begins at a step; what was fetched for another is thrown away."""
    if step == self._step or step >= self._total_steps:
      return
    self._leave()
    self._step = step
    self._first = self._pool.submit(self._fetch)

  def __iter__(self):
    return self

  def __next__(self) -> dict:
    if self._first:
      first, self._first = self._first, None
      return first.result()
    return next(self._iterator)

  def close(self):
    """Ends the iterator, and what works for it."""
    self._leave()
    self._pool.shutdown()

  def _fetch(self):
    self._iterator = iter(self._train_batches(
        self._step, self._total_steps - self._step))
    return next(self._iterator)

  def _leave(self):
    if self._first:
      # Its error, if any, is of no matter now.
      concurrent.futures.wait([self._first])
    close = getattr(self._iterator, 'close', None)
    if close:
      close()
    self._first = self._iterator = None
