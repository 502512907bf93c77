"""What a start is spent on, traces of steps, and processes that end."""

import subprocess
import sys
import threading
import time

import jax
import pytest

from vidattn_jax.training import ahead
from vidattn_jax.training import hosts
from vidattn_jax.training import profiling
from vidattn_jax.training import startup


def test_parts_of_a_start_add_up(monkeypatch):
  times = iter((3.0, 3.5, 7.5))
  monkeypatch.setattr(time, 'perf_counter', lambda: next(times))
  clock = startup.Startup(1.0)
  for part in ('imports', 'data', 'imports'):
    clock.mark(part)
  assert clock.parts == {'imports': 6.0, 'data': 0.5}
  assert clock.sentence() == 'First step after 6.5 s: imports 6.0, data 0.5.'


@pytest.mark.parametrize('begin, begun', [(4, [4]), (2, [4, 2])])
def test_the_first_batch_is_made_before_it_is_asked_for(begin, begun):
  made, ended, first = [], [], threading.Event()

  def train_batches(step, num_steps):
    made.append(step)
    try:
      for i in range(step, step + num_steps):
        first.set()
        yield i
    finally:
      ended.append(step)

  batches = ahead.Ahead(train_batches, 6, 4)
  assert first.wait(10)
  batches.begin(begin)
  assert [next(batches) for _ in range(begin, 6)] == list(range(begin, 6))
  assert made == begun
  with pytest.raises(StopIteration):
    next(batches)
  batches.close()
  assert ended == begun


def test_batches_fail_where_they_are_asked_for():
  def train_batches(step, num_steps):
    if step:
      raise ValueError(f'no batch {step}')
    yield from range(num_steps)

  batches = ahead.Ahead(train_batches, 3, 2)
  with pytest.raises(ValueError, match='no batch 2'):
    next(batches)
  batches.close()
  # What fails for a step from which nothing begins is of no matter.
  batches = ahead.Ahead(train_batches, 3, 2)
  batches.begin(0)
  assert list(batches) == [0, 1, 2]
  batches.close()
  # A finished run fetches nothing.
  ahead.Ahead(lambda *_: 1 / 0, 3, 3).close()


@pytest.mark.parametrize('count, end, calls', [
    (2, 20, [('start', 7), ('stop', 9)]), (2, 8, [('start', 7), ('stop', 8)]),
    (0, 20, []), (2, 6, [])])
def test_a_trace_has_the_steps_that_were_asked_for(tmp_path, monkeypatch, count,
                                                   end, calls):
  seen, step = [], 5
  monkeypatch.setattr(jax.profiler, 'start_trace',
                      lambda where: seen.append(('start', step)))
  monkeypatch.setattr(jax.profiler, 'stop_trace',
                      lambda: seen.append(('stop', step)))
  with profiling.Trace(tmp_path, step, count) as trace:
    while step < end:
      trace.before(step, {})
      step += 1
  assert seen == calls


def test_a_process_that_lost_another_ends_at_once_and_says_so():
  code = """import jax
from vidattn_jax.training import hosts
jax.process_count, jax.process_index = lambda: 2, lambda: 1
with hosts.ending_together():
  raise RuntimeError('Connection closed by peer')
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                        text=True, check=False)
  assert done.returncode == 1
  assert 'Process 1 of 2 cannot go on' in done.stderr
  assert 'Connection closed by peer' in done.stderr
  assert 'Traceback' not in done.stderr


def test_errors_of_one_process_alone_stay_what_they_are():
  with pytest.raises(RuntimeError, match='mine'), hosts.ending_together():
    raise RuntimeError('mine')
