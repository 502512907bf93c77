"""Clients that save at once while their server is killed again and again."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2 as httpx
import pytest

from benchmarks import editor as benchmark
from vidattn_jax.editor import collected
from vidattn_jax.editor import store

_ROOT = pathlib.Path(__file__).parents[1]
CLIENTS, KILLS, LENGTH = 20, 10, 30
_SERVER = '''
import sys
from vidattn_jax.editor import app, collected, serve, store
workdir, port = sys.argv[1:]
splits = [collected.read(workdir, 'train')]
edits = store.Store(workdir + '/edits.jsonl')
serve.serve(app.make_app(splits, edits, None), '127.0.0.1', int(port))
'''


def _start(workdir, port):
  process = subprocess.Popen(
      [sys.executable, '-c', _SERVER, str(workdir), str(port)], cwd=_ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  assert 'The editor is at' in process.stdout.readline()
  return process


class _Client(threading.Thread):
  """Saves again and again; knows what was acknowledged."""

  def __init__(self, number, address, video, stop):
    super().__init__(daemon=True)
    self.name_ = f'client{number}'
    self.address, self.video, self.stop = address, video, stop
    self.acknowledged = {}
    self.revision = 0
    self.turn = 0
    self.faults = []

  def run(self):
    with httpx.Client(base_url=self.address, timeout=20) as client:
      while not self.stop.is_set():
        self.turn += 1
        self.save(client)

  def save(self, client):
    body = {'video': self.video, 'annotator': self.name_,
            'edited': [self.turn / 10000] * LENGTH, 'mask': [1] * LENGTH,
            'status': 'draft', 'seconds': 0, 'note': f'turn {self.turn}'}
    # As the page does: the same again until it is acknowledged.
    while True:
      try:
        answer = client.put('/api/edit', json=body, headers={
            'If-Match': f'"{self.revision}"'})
      except httpx.HTTPError:
        if self.stop.is_set():
          return
        time.sleep(0.02)
        continue
      if answer.status_code != 200:
        self.faults.append(answer.text)
        self.stop.set()
        return
      edit = answer.json()['edit']
      self.revision = edit['revision']
      self.acknowledged[edit['revision']] = edit
      return


@pytest.mark.slow
def test_every_acknowledged_save_outlives_the_server(tmp_path):
  found, _, _ = benchmark.pretend(CLIENTS, LENGTH)
  collected.write(tmp_path, found)
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  stop = threading.Event()
  # Half of the clients share a video with another one.
  clients = [_Client(i, f'http://127.0.0.1:{port}', found.names[i // 2], stop)
             for i in range(CLIENTS)]
  rng = random.Random(0)
  server = _start(tmp_path, port)
  for client in clients:
    client.start()
  try:
    for _ in range(KILLS):
      time.sleep(rng.uniform(0.3, 1.2))
      assert server.poll() is None and not stop.is_set()
      os.kill(server.pid, signal.SIGKILL)
      server.wait()
      server = _start(tmp_path, port)
    time.sleep(0.5)
  finally:
    stop.set()
    for client in clients:
      client.join(30)
    server.kill()
    server.wait()
  assert [c.faults for c in clients if c.faults] == []
  saves, torn = store.read(tmp_path / 'edits.jsonl')
  stored = {(e.annotator, e.revision): json.loads(e.to_line()) for e in saves}
  assert len(stored) == len(saves) and not torn
  lines = 0
  for client in clients:
    for revision, edit in client.acknowledged.items():
      assert stored[client.name_, revision] == edit
      lines += 1
    # Each client got somewhere between the kills.
    assert len(client.acknowledged) > KILLS
  assert len(saves) - lines <= CLIENTS * (KILLS + 1)
