"""How the C library keeps memory for programs on the CPU."""

import ctypes
import importlib.metadata
import importlib.util
import os

# Options of the GNU C library, and what to set them to: nothing at the end of
# the memory goes back, nothing is mapped alone, and all threads share what can
# be of any size.
_OPTIONS = {'M_TRIM_THRESHOLD': (-1, -1), 'M_MMAP_MAX': (-4, 0),
            'M_ARENA_MAX': (-8, 1)}


def keep_on_cpu() -> bool:
  """Has the process keep memory that programs on the CPU will want again.

  XLA allocates what a program needs, hundreds of megabytes, anew each time it
  runs. By default the system takes that back in between, and each page of it
  is mapped and cleared again: a sixth of the time of a train step of TSM-R50,
  see docs/benchmarks.md. To be called before anything asks for devices, as
  threads that have allocated before keep to their own ways. Does nothing where
  there may be accelerators, or no such library.

  Returns:
    Whether anything was changed.
  """
  if not _is_cpu_alone():
    return False
  try:
    set_option = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False  # Not the GNU C library.
  return all([set_option(*option) for option in _OPTIONS.values()])


def _is_cpu_alone():
  """Tells whether there can be no accelerators, without asking for them."""
  platforms = os.environ.get('JAX_PLATFORMS')
  if platforms:
    return platforms == 'cpu'
  return (not os.environ.get('TPU_LIBRARY_PATH')
          and importlib.util.find_spec('libtpu') is None
          and importlib.util.find_spec('jax_plugins') is None
          and not importlib.metadata.entry_points(group='jax_plugins'))
