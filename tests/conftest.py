"""What all tests share."""

import os
import pathlib

# Eight simulated devices, before JAX starts.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import flags
import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_compilation_cache_dir',
                  os.path.expanduser('~/.cache/vidattn_jax/tests'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
# Networks here are tiny: compiling them is what takes time.
jax.config.update('jax_disable_most_optimizations', True)
# Worker processes of the pipeline want parsed flags.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope='session')
def shared():
  """The folder of published reference data, for those who have it."""
  place = os.environ.get('VIDATTN_SHARED')
  root = pathlib.Path(place) if place else (
      pathlib.Path(__file__).resolve().parents[2] / 'shared')
  if not (root / 'reference').is_dir():
    pytest.skip(f'SKIPPED FOR WANT OF DATA: {root} is absent; set '
                'VIDATTN_SHARED to the folder of references and videos')
  return root


@pytest.fixture(scope='session')
def data_dir():
  """The folder of small reference numbers that the project ships."""
  return pathlib.Path(__file__).parent / 'data'


@pytest.fixture
def compile_for(monkeypatch):
  """Has forms traced for a platform that is not here, by its name."""
  from vidattn_jax.ops import platform

  def compile_for(name):
    monkeypatch.setattr(platform, '_absent', {name})
    jax.clear_caches()

  yield compile_for
  monkeypatch.undo()
  jax.clear_caches()


@pytest.fixture(scope='module')
def plain_forms():
  """Takes the plain forms: quick to compile; the others have own tests."""
  from vidattn_jax.ops import platform
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(platform, 'by_platform',
                        lambda on_cpu, plain, *args, **_: plain(*args))
    jax.clear_caches()
    yield
  jax.clear_caches()
