"""What the time from the command to the first step is spent on."""

import time


class Startup:
  """Times of the parts of a start, one after the other.

  Attributes:
    parts: {part: seconds}, in order.
  """

  def __init__(self, start: float | None = None):
    """Starts the clock.

    Args:
      start: when the program started, by `time.perf_counter`; None for now.
    """
    self._start = self._last = time.perf_counter() if start is None else start
    self.parts = {}

  def mark(self, part: str):
    """Notes that a part has ended, and the next one begins."""
    now = time.perf_counter()
    self.parts[part] = self.parts.get(part, 0.0) + now - self._last
    self._last = now

  def sentence(self) -> str:
    """Returns the whole and its parts."""
    parts = ', '.join(f'{part} {seconds:.1f}'
                      for part, seconds in self.parts.items())
    return f'First step after {self._last - self._start:.1f} s: {parts}.'
