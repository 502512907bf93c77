"""Networks as a command line names them: by model or by configuration."""

import importlib.util
import os
import sys

from absl import flags
from ml_collections import config_flags

from vidattn_jax import errors
from vidattn_jax import models
from vidattn_jax.training import state


def load_config(path: str, overrides=()):
  """Runs a configuration file.

  Args:
    path: the file, with its argument behind a colon where it takes one, as
      `--config` of main.py has it: 'configs/aia_something.py:tsm,v2,8'.
    overrides: flags of main.py that change keys, '--config.data.root=DIR'.

  Returns:
    The configuration.

  Raises:
    ValueError: there is no such file, or it is none of a configuration.
    SystemExit: an override is of no key or has no fitting value.
  """
  config = _run(path)
  if overrides:
    values, argv = flags.FlagValues(), ['vidattn', *overrides]
    with errors.of_flags():
      config_flags.DEFINE_config_dict(
          'config', config, flag_values=values, lock_config=True, sys_argv=argv)
      values(argv)
  return config


def _run(path):
  """Returns what a configuration file's `get_config` does."""
  file, _, argument = path.partition(':')
  if not os.path.isfile(file):
    raise ValueError(f'There is no configuration {file}.')
  # Configurations import their neighbours as `configs.common`.
  home = os.path.dirname(os.path.dirname(os.path.abspath(file)))
  sys.path.insert(0, home)
  try:
    spec = importlib.util.spec_from_file_location('_config', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*([argument] if argument else []))
  except (AttributeError, SyntaxError, ImportError) as error:
    raise ValueError(f'{file} is no configuration: {error}.') from error
  finally:
    sys.path.remove(home)


def arguments_of_config(config, num_classes: int = 400) -> dict:
  """Returns the arguments of `get_model` of a configuration, as plain data.

  Args:
    config: the configuration.
    num_classes: number of classes where it leaves them to the data.
  """
  return state.model_arguments(config.copy_and_resolve_references(),
                               num_classes)


def check_classifies(path, description: dict):
  """Raises a ValueError if a checkpoint is of a network that finds segments.

  Args:
    path: where it lies, for the message.
    description: what the checkpoint carries beside the weights.
  """
  name = description['model']['name']
  if name in models.DETECTORS:
    raise ValueError(f'{path} is a checkpoint of {name}, which finds segments; '
                     'use vidattn detect.')


def build(arguments: dict, **changes):
  """Builds a network from arguments and what a user wants to differ.

  Args:
    arguments: as `state.model_arguments` returns them; or only the `name`.
    **changes: overrides; None leaves what `arguments` say. `attention` ''
      takes the unit away.

  Returns:
    (the network, its arguments as plain data).

  Raises:
    ValueError: a name or a value is unknown.
  """
  arguments = {k: v for k, v in (*arguments.items(), *changes.items())
               if v is not None}
  if not arguments.get('attention'):
    arguments.pop('attention', None)
  arguments.setdefault('dtype', 'float32')
  return state.build_model(arguments), arguments
