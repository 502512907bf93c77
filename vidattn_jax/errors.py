"""Tells errors that are sentences for the user from faults of the program."""

import os
import sys
import traceback

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(_HERE)
# Where errors for the user are raised.
_OURS = tuple(os.path.join(_ROOT, name) for name in (
    'vidattn_jax' + os.sep, 'input_pipeline' + os.sep, 'configs' + os.sep,
    'main.py'))


def exit_with_sentence(error: ValueError):
  """Ends the program with an error's sentence if this project raised it.

  With VIDATTN_DEBUG set in the environment, the trace is shown.

  Args:
    error: what was caught.

  Raises:
    ValueError: `error` itself, if another library raised it.
  """
  raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
  if os.environ.get('VIDATTN_DEBUG') or not raised_in.startswith(_OURS):
    raise error
  sys.exit(f'ERROR: {error}')
