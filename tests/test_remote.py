"""Workdirs and weights in an object store, on fsspec's memory."""

import json
import os
import pathlib
import threading

import fsspec
import numpy as np
import pytest
import small

from vidattn_jax.training import checkpoint
from vidattn_jax.training import initialize
from vidattn_jax.training import remote
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train

URL = 'memory://bucket/run'


@pytest.fixture(autouse=True)
def store():
  """An empty object store."""
  files = fsspec.filesystem('memory')
  files.store.clear()
  yield files
  files.store.clear()


def _write(folder, name, text):
  path = os.path.join(folder, name)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, 'w') as file:
    file.write(text)


def _contents(store):
  return json.loads(store.cat_file('/bucket/run/contents.json'))


def test_what_is_made_is_brought_there_and_back(store):
  with remote.local_workdir(URL) as folder:
    _write(folder, 'config.json', 'a')
    _write(folder, 'checkpoints/4/data', 'weights')
    _write(folder, 'checkpoints/5.orbax-checkpoint-tmp-0/data', 'half')
  assert not os.path.exists(folder)
  assert set(_contents(store)) == {'config.json', 'checkpoints/4/data'}
  with remote.local_workdir(URL) as folder:
    path = pathlib.Path(folder, 'checkpoints/4/data')
    assert path.read_text() == 'weights'
    os.remove(os.path.join(folder, 'config.json'))
  assert set(_contents(store)) == {'checkpoints/4/data'}
  assert not store.exists('/bucket/run/config.json')


def test_a_thread_brings_it_there_meanwhile(store):
  with remote.local_workdir(URL, seconds=0.01) as folder:
    _write(folder, 'metrics.jsonl', 'one')
    wait = threading.Event()
    for _ in range(500):
      if store.exists('/bucket/run/contents.json'):
        break
      wait.wait(0.01)
    assert store.cat_file('/bucket/run/metrics.jsonl') == b'one'


def test_files_that_no_list_names_are_not_taken(store):
  store.pipe_file('/bucket/run/checkpoints/4/data', b'half copied')
  with remote.local_workdir(URL) as folder:
    assert os.listdir(folder) == []


def test_a_list_cannot_write_elsewhere(store, tmp_path):
  store.pipe_file('/bucket/run/contents.json', b'{"../../x": 1}')
  store.pipe_file('/bucket/x', b'')
  with pytest.raises(ValueError, match='lies outside'), (
      remote.local_workdir(URL)):
    pass


def test_a_torn_checkpoint_is_not_named(store, monkeypatch):
  with remote.local_workdir(URL) as folder:
    _write(folder, 'checkpoints/4/a', 'a')
    _write(folder, 'checkpoints/4/b', 'b')
    _write(folder, 'checkpoints/6/a', 'a')
    real = store.pipe_file
    def pipe(place, data):
      if place.endswith('4/a'):
        os.remove(os.path.join(folder, 'checkpoints/4/b'))
      real(place, data)
    monkeypatch.setattr(type(store), 'pipe_file',
                        lambda self, place, data: pipe(place, data))
    remote._Mirror(store, '/bucket/run', folder, {}).push()
    assert set(_contents(store)) == {'checkpoints/6/a'}


def test_results_outlive_a_store_that_fails(store, monkeypatch):
  def fail(*args):
    raise OSError('no quota')
  with pytest.raises(ValueError, match='no quota.*kept in') as caught, (
      remote.local_workdir(URL)) as folder:
    _write(folder, 'config.json', 'a')
    monkeypatch.setattr(type(store), 'pipe_file', fail)
  kept = str(caught.value).rpartition(' ')[2].rstrip('.')
  assert os.listdir(kept) == ['config.json']


@pytest.mark.parametrize('url, says', [
    ('nowhere://bucket/run', 'no store that fsspec knows'),
    ('s3://bucket/run', 'needs another package|cannot be read')])
def test_an_unknown_store_gets_one_sentence(url, says):
  with pytest.raises(ValueError, match=says), remote.local_workdir(url):
    pass


@pytest.mark.slow
def test_a_run_goes_on_from_a_store_to_the_same_bits(tmp_path, capsys):
  straight = small.config(checkpoint__every_epochs=1.0)
  train.train_and_evaluate(straight, str(tmp_path / 'here'),
                           small.inputs(straight))
  want, _, step = checkpoint.load(str(tmp_path / 'here'), 'latest')

  class KilledError(Exception):
    pass

  def dying(inputs):
    def batches(start, count):
      for i, batch in enumerate(inputs.train_batches(start, count)):
        if start + i == 5:
          raise KilledError
        yield batch
    return batches

  inputs = small.inputs(straight)
  broken = train.dataclasses.replace(inputs, train_batches=dying(inputs))
  with pytest.raises(KilledError), remote.local_workdir(URL) as folder:
    train.train_and_evaluate(straight, folder, broken)
  with remote.local_workdir(URL) as folder:
    train.train_and_evaluate(straight, folder, inputs)
  told = capsys.readouterr().err
  assert f'{URL} is worked on in' in told
  assert 'at step 3' in told
  found, description, there = checkpoint.load(URL, 'latest')
  assert there == step and description['classes'] == list(small.CLASSES)
  for a, b in zip(*map(train.jax.tree.leaves, (want, found)), strict=True):
    np.testing.assert_array_equal(a, b)

  # Another run starts from these weights.
  model = state_lib.build_model(state_lib.model_arguments(straight, 3))
  variables, text = initialize.load_weights(
      f'{URL}/checkpoints/{step}', model, train.jax.random.key(1))
  assert URL in text
  np.testing.assert_array_equal(
      variables['params']['head']['kernel'], want['params']['head']['kernel'])
  with pytest.raises(checkpoint.CheckpointError, match='no checkpoint 99'):
    checkpoint.load(URL, 99)
  with pytest.raises(ValueError, match='holds no checkpoints'):
    checkpoint.load('memory://bucket/other')
