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
             data.add_datasets, data.add_prepare, data.add_check_data,
             flow.add_flow, editing.add_edit, editing.add_edits,
             detection.add_evaluate_detections)


def main(argv=None):
  """Runs the command line."""
  parser = argparse.ArgumentParser(
      prog='vidattn', description='Attention for video action recognition.')
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  for add in _COMMANDS:
    add(commands)
  arguments = parser.parse_args(argv)
  try:
    return arguments.run(arguments)
  except ValueError as error:
    return errors.exit_with_sentence(error)


if __name__ == '__main__':
  sys.exit(main())
