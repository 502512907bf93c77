"""A trace of some training steps, for TensorBoard or Perfetto."""

import jax

from vidattn_jax.training import writer

# Steps before the first one that is traced: they compile, and fill pipelines.
_AFTER = 2


class Trace:
  """Traces some steps; a context manager, which ends it in any case."""

  def __init__(self, workdir, step: int, count: int):
    """Plans a trace.

    Args:
      workdir: directory of the run; the trace goes to `profile/` there.
      step: the first step of this start of the run.
      count: steps to trace; 0 for none.
    """
    self._directory = workdir / 'profile'
    self._first, self._count = step + _AFTER, count
    self._running = False

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._stop()

  def before(self, step: int, state):
    """Starts or ends the trace if it is time.

    Args:
      step: the step that comes next.
      state: the state after the last one, which is waited for.
    """
    if not self._count or step not in (self._first, self._first + self._count):
      return
    jax.block_until_ready(state)
    if step == self._first:
      jax.profiler.start_trace(str(self._directory))
      self._running = True
    else:
      self._stop()

  def _stop(self):
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
      writer.say(f'Trace of {self._count} steps from {self._first} on: '
                 f'{self._directory} (tensorboard --logdir, or Perfetto).')
