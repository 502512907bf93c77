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


@pytest.mark.parametrize('platforms', ['cuda', 'tpu,cpu'])
def test_nothing_changes_where_there_may_be_accelerators(platforms,
                                                         monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  monkeypatch.setattr(memory.ctypes, 'CDLL', None)  # not to be asked
  assert not memory.keep_on_cpu()
