"""The demo keeps what it promises, and the package works outside a checkout."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from input_pipeline import synthetic

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_attention_tells_what_single_frames_cannot(tmp_path):
  out = tmp_path / 'demo'
  subprocess.run(
      [sys.executable, '-m', 'benchmarks.demo', f'--out={out}'], cwd=_ROOT,
      check=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  summary = json.loads((out / 'summary.json').read_text())
  assert summary.keys() == {'plain', 'attention', 'plain_pairs', 'seconds'}
  assert summary['plain_pairs'] >= 0.85
  assert summary['plain'] <= 0.56
  assert summary['attention'] > 0.90
  for name in ('demo.png', 'gains.png'):
    assert (out / name).stat().st_size > 10_000

  # From an install that is no checkout, in an empty folder.
  site, empty = tmp_path / 'site', tmp_path / 'empty'
  empty.mkdir()
  copy = tmp_path / 'source'
  subprocess.run(['git', 'clone', '-q', str(_ROOT), str(copy)], check=True)
  subprocess.run(
      [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index',
       '--no-build-isolation', '--target', str(site), str(copy)], check=True)
  video = next((out / 'data' / 'val' / 'grow').glob('*.mp4'))
  done = subprocess.run(
      [sys.executable, '-m', 'vidattn_jax.cli', 'predict', str(video), '--json',
       f'--checkpoint={out.resolve() / "attention"}'], cwd=empty, check=True,
      capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(site), 'JAX_PLATFORMS': 'cpu'})
  [found] = json.loads(done.stdout)
  assert len(found['classes']) == 5
  assert found['classes'][0]['class'] in synthetic.CLASSES
  assert not list(empty.iterdir())
