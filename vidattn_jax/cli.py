"""The `vidattn` command: one subcommand for each tool, nothing but wiring."""

import argparse
import sys

from vidattn_jax import errors
from vidattn_jax.commands import data
from vidattn_jax.commands import detection
from vidattn_jax.commands import editing
from vidattn_jax.commands import flow
from vidattn_jax.commands import networks
from vidattn_jax.commands import scores
from vidattn_jax.commands import videos

_COMMANDS = (videos.add_predict, videos.add_explain, scores.add_fuse,
             scores.add_compare, networks.add_complexity, networks.add_convert,
             data.add_datasets, data.add_check_data, data.add_prepare,
             data.add_benchmark_input, flow.add_flow, editing.add_edit,
             editing.add_edits, detection.add_detect,
             detection.add_evaluate_detections)


def main(argv=None):
  """Runs the command line."""
  parser = argparse.ArgumentParser(
      prog='vidattn', description='Attention for video action recognition.')
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  for add in _COMMANDS:
    add(commands)
  argv = sys.argv[1:] if argv is None else argv
  # Keys of a configuration change as on main.py's command line.
  overrides = [word for word in argv if word.startswith('--config.')]
  arguments = parser.parse_args([w for w in argv if w not in overrides])
  arguments.overrides = overrides
  try:
    if overrides and not getattr(arguments, 'config', None):
      raise ValueError(f'{overrides[0]} goes with --config=FILE.')
    return arguments.run(arguments)
  except ValueError as error:
    return errors.exit_with_sentence(error)


if __name__ == '__main__':
  sys.exit(main())
