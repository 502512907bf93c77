"""The benchmark of train steps on GPUs: tiny, as it runs without one."""

import argparse
import json
import pathlib
import subprocess

import pytest

pytest.importorskip('torch')

from benchmarks import gpu_step


def _process(answer, took=0.5):
  """Starts a process that says something, and takes one turn."""
  return subprocess.Popen(
      ['sh', '-c', f'{answer}; read line; echo TOOK {took}; read line'],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
      start_new_session=True)


def _ready(**facts):
  return f"echo noise; echo 'READY {json.dumps(facts)}'"


def test_the_best_batches_stay(capsys):
  processes = {
      ('a', 'JAX', 1): _process(_ready(rate=5.0)),
      ('a', 'JAX', 2): _process(_ready(rate=7.4)),
      ('a', 'PyTorch', 1): _process('exit 3'),
      ('b', 'JAX', 4): _process('true'),  # never ready
  }
  try:
    best = gpu_step._best(processes, patience=6)
    assert list(best) == [('a', 'JAX')]
    process, facts, tried = best['a', 'JAX']
    assert process is processes['a', 'JAX', 2]
    assert facts['rate'] == 7.4 and tried == {1: 5, 2: 7}
    assert gpu_step._turn(process) == 0.5
    for key in (('a', 'JAX', 1), ('b', 'JAX', 4)):
      assert processes[key].poll() is not None
    assert capsys.readouterr().err == 'b in JAX, 4 clips: not ready in 6 s\n'
  finally:
    for process in processes.values():
      gpu_step._end(process)
  assert gpu_step._turn(process) is None


def test_rows(capsys, monkeypatch):
  facts = dict(memory=3e9, compile=7.2, flops=1e12, bytes=2e9)
  answers = {'JAX': (_ready(rate=4.0, batch=2, **facts), 0.5),
             'PyTorch': (_ready(rate=1.0, batch=2, **facts), 2.5)}
  monkeypatch.setattr(gpu_step, '_start', lambda case, who, *_: _process(
      *answers[who]))
  options = argparse.Namespace(tiny=True, patience=60, rounds=1)
  chip = argparse.Namespace(flops=1e13, bandwidth=5e9)
  gpu_step._measure(['tsm_r50@2'], ('JAX', 'PyTorch'), options, chip)
  # 4 clips/s are 5 times as many as 0.8; 0.1 and 0.4 of 0.5 s.
  assert capsys.readouterr().out.splitlines() == [
      '| tsm_r50@2 | JAX | 2 (2: 4) | 4 | 5.00 (5.00 to 5.00) of PyTorch | '
      '3.0 GB | 80% (operations 20%, bytes 80%) | 7 s |',
      '| tsm_r50@2 | PyTorch | 2 (2: 1) | 1 |  | 3.0 GB |  | 7 s |']


@pytest.mark.slow
def test_measures_a_network_beside_pytorch(capfd, monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parents[1])
  options = argparse.Namespace(tiny=True, patience=300, rounds=2)
  gpu_step._measure(['tsm_r50@1'], ('JAX', 'PyTorch eager'), options, None)
  ours, theirs = ([cell.strip() for cell in row.split('|')[1:-1]]
                  for row in capfd.readouterr().out.splitlines())
  assert ours[:2] == ['tsm_r50@1', 'JAX']
  assert theirs[:2] == ['tsm_r50@1', 'PyTorch eager']
  assert int(ours[3]) >= 1 and float(ours[4].split()[0]) > 0
  assert ours[4].endswith('of PyTorch eager') and theirs[4] == ''
