"""Real processes: killed at random moments, and two that train as one."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from input_pipeline import synthetic
from vidattn_jax.editor import collected
from vidattn_jax.training import checkpoint

_ROOT = pathlib.Path(__file__).parents[1]
_COMMON = (
    '--config=configs/demo.py:attention', '--config.model.width=0.0625',
    '--config.model.crop_size=36', '--config.model.num_frames=4',
    '--config.model.stages=(4,)', '--config.model.dropout=0.5',
    '--config.data.resize=40', '--config.data.crop=multiscale',
    '--config.data.cache_frames=False', '--config.batch_size=8',
    '--config.eval.batch_size=8', '--config.eval.every_epochs=1.5',
    '--config.num_epochs=4')


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  directory = tmp_path_factory.mktemp('clips') / 'data'
  synthetic.generate(str(directory), num_train=64, num_eval=8, seed=1)
  return directory


def _start(clips, workdir, *more, devices=1, log=None, common=_COMMON):
  flags = (os.environ.get('XLA_FLAGS', '')
           + f' --xla_force_host_platform_device_count={devices}')
  return subprocess.Popen(
      [sys.executable, 'main.py', *common, f'--config.data.root={clips}',
       f'--workdir={workdir}', *more], cwd=_ROOT, stderr=log, stdout=log,
      start_new_session=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags})


def _finish(process, log=None, timeout=400):
  if process.wait(timeout) != 0:
    said = pathlib.Path(log.name).read_text()[-3000:] if log else ''
    pytest.fail(f'the process ended with {process.returncode}: {said}')


def _parameters(workdir, step=None):
  checkpoints = checkpoint.Checkpoints(workdir)
  step = step or checkpoints.steps()[-1]
  variables = checkpoints.restore_variables(step)
  checkpoints.close()
  return step, {name: np.asarray(value)
                for name, value in _flat(variables).items()}


def _flat(tree, prefix=''):
  flat = {}
  for key, value in tree.items():
    flat.update(_flat(value, f'{prefix}{key}/') if isinstance(value, dict)
                else {prefix + key: value})
  return flat


def _kill(process):
  """Kills the process and its loader workers at once, as an eviction does."""
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()


@pytest.mark.slow
def test_killed_at_random_moments_ends_bitwise_the_same(clips, tmp_path):
  # A checkpoint after every second step, so that kills meet saves.
  often = ('--config.checkpoint.every_epochs=0.25',
           '--config.data.workers=2', '--config.log_every_steps=1')
  with open(tmp_path / 'log', 'w') as log:
    _finish(_start(clips, tmp_path / 'whole', *often, log=log))
    want_step, want = _parameters(tmp_path / 'whole')
    assert want_step == 32

    rng = random.Random(5)
    workdir = tmp_path / 'killed'
    kills, during_save, reached = 0, 0, []
    while kills < 5:
      process = _start(clips, workdir, *often, log=log)
      saves = workdir / 'checkpoints'
      before = len(_steps_seen(workdir))
      # Two kills wait for an unfinished save, the others for a step.
      aim_at_save = kills in (1, 3)
      patience = rng.randint(2, 5)
      deadline = time.monotonic() + 200
      while process.poll() is None and time.monotonic() < deadline:
        moved = len(_steps_seen(workdir)) - before
        unfinished = list(saves.glob('*.orbax-checkpoint-tmp*'))
        if moved >= patience and (unfinished or not aim_at_save):
          break
        time.sleep(0.002)
      assert process.poll() is None, 'the run ended before it was killed'
      if not aim_at_save:
        time.sleep(rng.random() * 0.3)
      during_save += bool(list(saves.glob('*.orbax-checkpoint-tmp*')))
      _kill(process)
      kills += 1
      reached.append(max(_steps_seen(workdir), default=0))
    _finish(_start(clips, workdir, *often, log=log))
  # Over at least an epoch of 8 steps, with kills while a save was under way.
  assert max(reached) - min(reached) >= 8
  assert during_save >= 2
  step, got = _parameters(workdir)
  assert step == want_step and got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)


def _steps_seen(workdir):
  """Returns the steps of the training log so far."""
  path = workdir / 'metrics.jsonl'
  steps = []
  if path.exists():
    for line in path.read_text().splitlines():
      with contextlib.suppress(json.JSONDecodeError):  # a torn line
        steps.append(json.loads(line)['step'])
  return steps


@pytest.mark.slow
def test_sigterm_ends_cleanly_and_says_so(clips, tmp_path):
  with open(tmp_path / 'log', 'w') as log:
    process = _start(clips, tmp_path / 'run', '--config.log_every_steps=1',
                     log=log)
    while not _steps_seen(tmp_path / 'run'):
      time.sleep(0.05)
      assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _finish(process)
  assert 'Stopped by a signal after step' in (tmp_path / 'log').read_text()
  step, _ = _parameters(tmp_path / 'run')
  assert 0 < step < 32


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(clips, tmp_path):
  with open(tmp_path / 'log', 'w') as log:
    both = _start_two(clips, tmp_path / 'run', '--config.log_every_steps=1',
                      '--config.num_epochs=40', logs=[log, log])
    while not _steps_seen(tmp_path / 'run'):
      time.sleep(0.05)
      assert all(process.poll() is None for process in both)
    both[1].send_signal(signal.SIGTERM)
    for process in both:
      _finish(process, log)
    assert 'Stopped by a signal after step' in (tmp_path / 'log').read_text()
    # The other tools of several processes: evaluation, and weights to start
    # from.
    for more in (('--mode=evaluate', f'--workdir={tmp_path / "run"}'),
                 (f'--config.init_from={tmp_path / "run"}',
                  '--config.num_epochs=0.25')):
      for process in _start_two(clips, tmp_path / 'more', *more,
                                logs=[log, log]):
        _finish(process, log)


def _start_two(clips, workdir, *flags, logs, **kwargs):
  """Starts two processes that train as one; see `_start`."""
  port = _free_port()
  return [_start(clips, workdir, *flags, f'--coordinator=localhost:{port}',
                 '--num_processes=2', f'--process_id={i}', log=log, **kwargs)
          for i, log in enumerate(logs)]


def _free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def _check_equal(folder, names, steps, atol):
  """Checks that two runs have the same weights after `steps`."""
  (first, one), (second, two) = (_parameters(folder / name) for name in names)
  assert first == second == steps
  for name, value in one.items():
    np.testing.assert_allclose(two[name], value, atol=atol, err_msg=name)


@pytest.mark.slow
def test_two_processes_agree_with_one(clips, tmp_path):
  short = ('--config.num_epochs=0.25', '--config.eval.every_epochs=0.25',
           '--config.model.dropout=0.0')
  with open(tmp_path / 'log', 'w') as log:
    _finish(_start(clips, tmp_path / 'one', *short, log=log), log)
    for process in _start_two(clips, tmp_path / 'two', *short,
                              logs=[log, log], devices=2):
      _finish(process, log)
  _check_equal(tmp_path, ('one', 'two'), 2, atol=2e-6)
  scores = [np.load(next((tmp_path / name / 'eval').glob('*.npz')))
            for name in ('one', 'two')]
  assert scores[0]['names'].tolist() == scores[1]['names'].tolist()
  np.testing.assert_allclose(scores[0]['scores'], scores[1]['scores'],
                             atol=1e-4)
  losses = [[json.loads(line)['eval/loss'] for line in
             (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
             if 'eval/loss' in line] for name in ('one', 'two')]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
  # The checkpoint of two processes and four devices goes on in one.
  with open(tmp_path / 'log', 'w') as log:
    _finish(_start(clips, tmp_path / 'two', *short, log=log), log)
  assert 'is finished: step 2' in (tmp_path / 'log').read_text()


@pytest.mark.slow
def test_two_processes_with_sharded_parameters_equal_one(clips, tmp_path):
  # Eight devices in all; every leaf above a mebibyte is split over them.
  keys = ('--config.num_epochs=0.125', '--config.eval.every_epochs=0.125',
          '--config.model.width=0.5', '--config.mesh.shard_parameters=True')
  with open(tmp_path / 'log', 'w') as log:
    _finish(_start(clips, tmp_path / 'one', *keys, devices=8, log=log), log)
    for process in _start_two(clips, tmp_path / 'two', *keys,
                              logs=[log, log], devices=4):
      _finish(process, log)
  _check_equal(tmp_path, ('one', 'two'), 1, atol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_goes_on_in_two_processes(
    clips, tmp_path):
  keys = ('--config.num_epochs=0.25', '--config.eval.every_epochs=0.25',
          '--config.checkpoint.every_epochs=0.125',
          '--config.mesh.shard_parameters=True', '--config.model.width=0.5')
  with open(tmp_path / 'log', 'w') as log:
    _finish(_start(clips, tmp_path / 'one', *keys, devices=8, log=log), log)
    shutil.copytree(tmp_path / 'one', tmp_path / 'two')
    # As if it had been killed after its first step.
    [last] = (tmp_path / 'two' / 'checkpoints').glob('2*')
    shutil.rmtree(last)
    for process in _start_two(clips, tmp_path / 'two', *keys,
                              logs=[log, log], devices=4):
      _finish(process, log)
  assert 'step 1' in (tmp_path / 'log').read_text()
  _check_equal(tmp_path, ('one', 'two'), 2, atol=2e-6)


@pytest.mark.slow
def test_two_processes_equal_one_after_twenty_steps_in_float64(tmp_path):
  def run(count):
    out, port = tmp_path / f'{count}.npz', _free_port()
    flags = (os.environ.get('XLA_FLAGS', '') +
             f' --xla_force_host_platform_device_count={8 // count}')
    with open(tmp_path / 'log', 'w') as log:
      started = [subprocess.Popen(
          [sys.executable, _ROOT / 'tests' / 'steps_of_processes.py',
           str(port), str(count), str(i), out], stdout=log, stderr=log,
          env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags,
               'PYTHONPATH': str(_ROOT)}) for i in range(count)]
      for process in started:
        _finish(process, log)
    return dict(np.load(out))

  one, two = run(1), run(2)
  assert one['params/head/kernel'].dtype == np.float64
  assert one.keys() == two.keys()
  for name, value in one.items():
    np.testing.assert_allclose(two[name], value, rtol=0, atol=1e-9,
                               err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('killed', [0, 1])
def test_when_a_process_is_killed_the_other_ends_and_both_resume(
    clips, tmp_path, killed):
  keys = ('--config.log_every_steps=1', '--config.checkpoint.every_epochs=0.25',
          '--config.num_epochs=2')

  def start(name):
    return _start_two(clips, tmp_path / name, *keys, logs=logs)

  with (open(tmp_path / 'log0', 'w') as log0,
        open(tmp_path / 'log1', 'w') as log1):
    logs = [log0, log1]
    for process in start('whole'):
      _finish(process)
    both = start('killed')
    while len(_steps_seen(tmp_path / 'killed')) < 5:
      time.sleep(0.01)
      assert all(process.poll() is None for process in both)
    _kill(both[killed])
    # In under a minute, and not as if all were well.
    assert both[1 - killed].wait(60) != 0
    said = (tmp_path / f'log{1 - killed}').read_text()
    # Of ours, or of JAX's own watch.
    assert ('another one is gone' in said
            or 'distributed service detected fatal errors' in said)
    for process in start('killed'):
      _finish(process)
  (step, whole), (last, resumed) = (_parameters(tmp_path / name)
                                    for name in ('whole', 'killed'))
  assert step == last == 16
  for name, value in whole.items():
    np.testing.assert_array_equal(resumed[name], value, err_msg=name)


# A network with an attention branch that compiles quickly.
_BRANCH = """from configs import demo

def get_config():
  config = demo.get_config('plain')
  config.model.name = 'st_abn'
  config.model.num_frames = 16
  with config.unlocked():
    config.model.options.backbone = 'c3d'
  config.eval.clips = 2
  return config
"""


@pytest.mark.slow
def test_two_processes_collect_the_attention_that_one_does(clips, tmp_path):
  (tmp_path / 'branch.py').write_text(_BRANCH)
  common = [f'--config={tmp_path / "branch.py"}', '--config.num_epochs=0.125',
            *(flag for flag in _COMMON if any(key in flag for key in (
                'width', 'crop', 'resize', 'batch_size')))]
  workdir = tmp_path / 'run'
  with open(tmp_path / 'log', 'w') as log:
    _finish(_start(clips, workdir, log=log, common=common), log)
    common += ['--mode=evaluate', '--config.eval.collect_attention=True']
    found = []
    for processes in (1, 2):
      args = {'devices': processes, 'common': common}
      running = ([_start(clips, workdir, log=log, **args)] if processes == 1
                 else _start_two(clips, workdir, logs=[log, log], **args))
      for process in running:
        _finish(process, log)
      found.append({split: collected.read(workdir, split)
                    for split in ('train', 'eval')})
  for split, count in (('train', 64), ('eval', 8)):
    one, two = (each[split] for each in found)
    assert one.names == two.names and len(one.names) == count
    for name in ('labels', 'num_frames', 'frame_indices'):
      np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name, far in (('temporal_attention', 1e-5), ('scores', 1e-4)):
      np.testing.assert_allclose(getattr(one, name), getattr(two, name),
                                 atol=far, err_msg=name)
    maps = [np.asarray(each.spatial_attention, int) for each in (one, two)]
    assert maps[0].shape == (count, 2, 16, 4, 4)
    assert np.abs(maps[0] - maps[1]).max() <= 1
    # Videos differ, so that a wrong order would show.
    assert np.ptp(one.scores, axis=0).max() > 1e-3
