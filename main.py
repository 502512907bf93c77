"""Trains or evaluates one configuration: what runs on a GPU box or a pod.

python main.py --config=configs/aia_tsm_r50_ssv2.py --workdir=DIR
python main.py --mode=evaluate --config=... --workdir=DIR
"""

import os
import sys
import traceback

from absl import app
from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File of the configuration; its keys can be set by '
    '--config.KEY=VALUE.', lock_config=True)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Directory of checkpoints, logs and results. A run that '
    'was stopped goes on when started with the same directory.')
_MODE = flags.DEFINE_enum(
    'mode', 'train', ['train', 'evaluate'], 'What to do.')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Start as one of several processes, found by the '
    'cluster (TPU pod, Slurm).')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of process 0, to start several processes '
    'by hand, with --num_processes and --process_id.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which one this is.')


def run(config, workdir, mode='train'):
  """Wires the data to the trainer.

  Args:
    config: a configuration (`configs/common.py` names its keys).
    workdir: directory of checkpoints, logs and results.
    mode: 'train' or 'evaluate'.

  Returns:
    `evaluate.Result` of the last evaluation; None if a signal ended the run.

  Raises:
    ValueError: the configuration or the data do not fit; one sentence.
  """
  import jax
  from vidattn_jax.training import train
  if config.compile_cache:
    jax.config.update('jax_compilation_cache_dir',
                      os.path.expanduser(config.compile_cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  inputs = make_inputs(config, workdir, mode)
  if mode == 'train':
    return train.train_and_evaluate(config, workdir, inputs)
  result, step, path = train.evaluate_checkpoint(config, workdir, inputs)
  train.print_result(result, step, path)
  return result


def make_inputs(config, workdir, mode):
  """Reads what there is to train on, and makes it the trainer's inputs."""
  import jax
  from jax.experimental import multihost_utils
  from input_pipeline import batches, sources, transforms
  from vidattn_jax.training import train
  index_file = config.data.index_file or os.path.join(workdir, 'index.json')

  def load(split):
    return sources.load(config.data, split, index_file=index_file)

  # One process looks through the files; the others read what it found.
  first = jax.process_index() == 0
  loaded = [load(s) for s in ('train', 'eval')] if first else None
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('data index')
    loaded = loaded or [load(s) for s in ('train', 'eval')]
  train_set, eval_set = loaded
  shard = {'shard_index': jax.process_index(),
           'shard_count': jax.process_count()}
  return train.Inputs(
      classes=train_set.classes,
      steps_per_epoch=batches.steps_per_epoch(train_set, config),
      train_batches=lambda start, num: batches.train_batches(
          train_set, config, start_step=start, num_steps=num, **shard),
      eval_batches=lambda: batches.eval_batches(eval_set, config, **shard),
      train_names=tuple(r.name for r in train_set.records),
      eval_names=tuple(r.name for r in eval_set.records),
      pixels=transforms.pixel_recipe(config),
      card={'name': config.data.name, 'train': train_set.summary(),
            'eval': eval_set.summary()})


def main(argv):
  if len(argv) > 1:
    raise ValueError(f'{argv[1]!r} is no flag; flags start with --.')
  for name, flag in (('config', _CONFIG), ('workdir', _WORKDIR)):
    if flag.value is None:
      raise ValueError(f'--{name} is missing.')
  import jax
  if _DISTRIBUTED.value or _COORDINATOR.value:
    jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value,
                               _PROCESS_ID.value)
  run(_CONFIG.value, os.path.expanduser(_WORKDIR.value), _MODE.value)


def parse_flags(argv):
  """Reads the flags; a wrong configuration key gets one sentence."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as error:
    sentence = ' '.join(str(error.args[0]).replace('\\n', ' ').split())
    sys.exit(f'ERROR: The configuration has no key {sentence} All keys stand '
             'in configs/common.py.')
  except (OSError, TypeError) as error:
    sys.exit('ERROR: ' + ' '.join(str(error).split()))


def is_ours(error) -> bool:
  """Tells whether an error was raised by this project, as a sentence."""
  here = os.path.dirname(os.path.abspath(__file__))
  raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
  return raised_in.startswith(here) and '.venv' not in raised_in


if __name__ == '__main__':
  try:
    app.run(main, flags_parser=parse_flags)
  except ValueError as error:
    if not is_ours(error):
      raise
    sys.exit(f'ERROR: {error}')
