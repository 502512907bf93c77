"""vidattn prepare as a user runs it: killed, crowded out, in any number."""

import hashlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from input_pipeline import beam_runs
from input_pipeline import shard_jobs
from input_pipeline import synthetic
from vidattn_jax import cli

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Sixteen videos of two classes, and a bad one."""
  root = tmp_path_factory.mktemp('corpus')
  rng = np.random.default_rng(0)
  for name in ('jump', 'run'):
    (root / name).mkdir()
    for i in range(8):
      frames = rng.integers(0, 255, (40, 12, 16, 3), dtype=np.uint8)
      synthetic.encode(str(root / name / f'{i}.mp4'),
                       frames.repeat(12, 1).repeat(12, 2))
  (root / 'run' / 'broken.mp4').write_bytes(b'no video')
  return root


def command(corpus, out, *options):
  return [sys.executable, '-m', 'vidattn_jax.cli', 'prepare', str(corpus),
          f'--out={out}', '--name=clips', '--max-bad-fraction=0.1', *options]


def run(corpus, out, *options, **keywords):
  return subprocess.run(
      command(corpus, out, *options), capture_output=True, text=True,
      check=False, cwd=ROOT, **keywords)


def contents(out):
  """Returns {name: hash} of all files of a folder but the report."""
  return {str(path.relative_to(out)):
          hashlib.sha256(path.read_bytes()).hexdigest()
          for path in sorted(pathlib.Path(out).rglob('*'))
          if path.is_file() and path.name != 'report.json'}


def kill_in_the_middle(corpus, out, options, shards, delay):
  """Kills a run some time after it works on its n-th shard.

  Returns the session of the run and its workers.
  """
  folder = out / 'clips' / '1.0.0'
  process = subprocess.Popen(
      command(corpus, out, *options), cwd=ROOT, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL, start_new_session=True)
  deadline = time.monotonic() + 300
  while process.poll() is None and time.monotonic() < deadline:
    done = list(folder.glob('clips-*.json'))
    if len(done) >= shards and list(folder.glob('.parts/*')):
      break
    time.sleep(0.01)
  time.sleep(delay)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  return process.pid


def alive(group):
  """Tells whether a process of a session still runs."""
  for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdecimal():
      try:
        fields = (entry / 'stat').read_text().rpartition(')')[2].split()
      except OSError:
        continue
      if int(fields[3]) == group and fields[0] != 'Z':
        return True
  return False


@pytest.mark.slow
def test_killed_runs_one_process_and_two_give_the_same_bytes(corpus, tmp_path):
  options = ('--profile=fast', '--shards=8', '--short-side=96')
  one = run(corpus, tmp_path / 'one', '--workers=1', *options)
  assert one.returncode == 0, one.stderr
  assert 'Dropped run/broken.mp4' in one.stdout
  expected = contents(tmp_path / 'one')
  assert len(expected) == 8 + 8 + 5  # shards, rows; plan, catalog, classes, ...
  two = run(corpus, tmp_path / 'two', '--workers=2', *options)
  assert two.returncode == 0, two.stderr
  assert contents(tmp_path / 'two') == expected
  rng = np.random.default_rng(0)
  out = tmp_path / 'killed'
  for shards in (0, 1, 2, 4, 6):
    group = kill_in_the_middle(corpus, out, ('--workers=2', *options), shards,
                               rng.uniform(0, 0.4))
    assert not (out / 'clips/1.0.0/catalog.json').exists()
    deadline = time.monotonic() + 30
    while alive(group) and time.monotonic() < deadline:
      time.sleep(0.1)
    assert not alive(group), 'workers go on without the run that started them'
  last = run(corpus, out, '--workers=2', *options)
  assert last.returncode == 0, last.stderr
  assert ' were there' in last.stdout
  assert contents(out) == expected
  # A damaged shard is found and made anew, and only that.
  shard = out / 'clips/1.0.0/clips-videos.array_record-00003-of-00008'
  content = bytearray(shard.read_bytes())
  content[len(content) // 3] ^= 1
  shard.write_bytes(content)
  again = run(corpus, out, '--workers=2', *options)
  assert again.returncode == 0 and ', 7 were there' in again.stdout
  assert contents(out) == expected


def limit_files():
  resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))


@pytest.mark.slow
@pytest.mark.parametrize('workers', [1, 2])
def test_a_full_disk_leaves_no_half_shard(corpus, tmp_path, workers):
  options = (f'--workers={workers}', '--shards=2')
  done = run(corpus, tmp_path, *options, preexec_fn=limit_files)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith('ERROR: ')
  assert 'cannot be written' in done.stderr.splitlines()[-1]
  assert 'Traceback' not in done.stderr.splitlines()[-1]
  names = [name for name in contents(tmp_path) if 'plan.json' not in name]
  assert names == []
  assert run(corpus, tmp_path, *options).returncode == 0


def test_a_worker_that_is_stopped_since_another_failed_leaves_nothing(
    corpus, tmp_path, monkeypatch):
  def stopped(jobs, workers, options):
    del workers, options
    folder = pathlib.Path(jobs[0].root) / shard_jobs.PARTS
    folder.mkdir()
    (folder / f'{jobs[0].shard}.0').write_bytes(b'half')
    raise ValueError('another cannot be written')

  monkeypatch.setattr(beam_runs, 'run', stopped)
  with pytest.raises(ValueError, match='another cannot be written'):
    cli.main(command(corpus, tmp_path)[3:])
  assert list(contents(tmp_path)) == ['clips/1.0.0/plan.json']


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(corpus, tmp_path):
  first = subprocess.Popen(
      command(corpus, tmp_path, '--workers=1'), cwd=ROOT,
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    plan = tmp_path / 'clips' / '1.0.0' / 'plan.json'
    while not plan.exists():
      time.sleep(0.05)
    second = run(corpus, tmp_path, '--workers=1')
    assert second.returncode == 1
    assert 'is in use by another vidattn prepare' in second.stderr
  finally:
    first.kill()
    first.wait()
