"""Memory that is kept between runs of a program on the CPU."""

import os
import subprocess
import sys

import pytest

from vidattn_jax.training import memory

# Counts the pages that are mapped while a program runs that needs 128 MiB.
COUNT = '''
import resource, sys
from vidattn_jax.training import memory
if 'keep' in sys.argv and not memory.keep_on_cpu():
  sys.exit('no such library')
import jax
import jax.numpy as jnp
f = jax.jit(lambda x: jnp.sort(jnp.outer(x, x), axis=1).sum())
x = jnp.arange(4096.0)
f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
  f(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
'''


def _mapped(*arguments):
  done = subprocess.run(
      [sys.executable, '-c', COUNT, *arguments], capture_output=True,
      text=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, check=False)
  if 'no such library' in done.stderr:
    pytest.skip('This C library keeps memory in its own way.')
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


def test_memory_is_mapped_once():
  kept = _mapped('keep')
  assert kept < 1000
  # What would be if nothing were done; a page has 4 KiB or more.
  assert _mapped() > 5 * kept


@pytest.fixture
def asked(monkeypatch):
  """Notes the options that are set, and sets none; there is no accelerator."""
  found = []

  class Library:

    def __init__(self, name):
      assert name is None

    def mallopt(self, *option):
      found.append(option)
      return 1

  monkeypatch.setattr(memory.ctypes, 'CDLL', Library)
  for name in ('JAX_PLATFORMS', 'TPU_LIBRARY_PATH'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(memory.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(memory.importlib.metadata, 'entry_points',
                      lambda group: ())
  return found


def test_memory_is_kept_where_there_are_but_cpus(asked):
  assert memory.keep_on_cpu()
  assert len(asked) == 3


@pytest.mark.parametrize('name, value', [
    ('JAX_PLATFORMS', 'cuda'), ('JAX_PLATFORMS', 'tpu,cpu'),
    ('TPU_LIBRARY_PATH', '/lib/libtpu.so')])
def test_nothing_changes_where_others_are_asked_for(name, value, asked,
                                                    monkeypatch):
  monkeypatch.setenv(name, value)
  assert not memory.keep_on_cpu()
  assert not asked


@pytest.mark.parametrize('package', ['libtpu', 'jax_plugins'])
def test_nothing_changes_where_packages_of_others_are(package, asked,
                                                      monkeypatch):
  monkeypatch.setattr(memory.importlib.util, 'find_spec',
                      lambda name: name == package or None)
  assert not memory.keep_on_cpu()
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')  # They are not to be used.
  assert memory.keep_on_cpu()
  assert len(asked) == 3


def test_nothing_changes_where_a_plugin_is(asked, monkeypatch):
  monkeypatch.setattr(memory.importlib.metadata, 'entry_points',
                      lambda group: (group,))
  assert not memory.keep_on_cpu()
  assert not asked
