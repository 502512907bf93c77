"""Tells errors that are sentences for the user from faults of the program."""

import contextlib
import os
import sys
import traceback

from absl import flags

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


@contextlib.contextmanager
def of_flags():
  """Turns what is wrong with flags of a configuration into one sentence.

  Raises:
    SystemExit: with the sentence.
  """
  try:
    yield
    return
  except flags.Error as error:
    # The last line is the cause; a trace may stand before it.
    sentence = str(error).strip().splitlines()[-1].strip()
    sentence = sentence.removeprefix('ValueError: ')
  except (AttributeError, KeyError) as error:
    text = str(error.args[0]).replace('\\n', ' ').replace('\\', '')
    key = ' '.join(text.replace("'", '').split())
    sentence = (f'The configuration has no key {key} All keys stand in '
                'configs/common.py.')
  except (OSError, TypeError) as error:
    sentence = ' '.join(str(error).split())
  sys.exit(f'ERROR: {sentence}')
