"""Trains or evaluates one configuration: what runs on a GPU box or a pod.

python main.py --config=configs/aia_tsm_r50_ssv2.py --workdir=DIR
python main.py --mode=evaluate --config=... --workdir=DIR
python main.py --mode=compile --config=... --topology=v5e:4x4
"""

import os
import time

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from vidattn_jax import errors

# When the program started: until here it has done nothing but compute.
_START = time.perf_counter() - time.process_time()

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File of the configuration; its keys can be set by '
    '--config.KEY=VALUE.', lock_config=True)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Directory of checkpoints, logs and results, or its URL '
    '(gs://, s3://). A run that was stopped goes on when started with the same '
    'directory.')
_MODE = flags.DEFINE_enum(
    'mode', 'train', ['train', 'evaluate', 'compile'],
    'What to do; compile says what a train step costs on the chips of '
    '--topology, which need not exist.')
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'Chips to compile for: v4, v5e, v5p or v6e and a shape, '
    'such as v5e:4x4; or cpu:8.')
_LARGEST_BATCH = flags.DEFINE_bool(
    'largest_batch', True, 'Also find the largest batch that fits, which '
    'compiles twice more at least.')
_PROFILE = flags.DEFINE_integer(
    'profile', 0, 'Steps of which a trace is written to WORKDIR/profile.')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Start as one of several processes, found by the '
    'cluster (TPU pod, Slurm).')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of process 0, to start several processes '
    'by hand, with --num_processes and --process_id.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which one this is.')


def run(config, workdir, mode='train', start=None, profile_steps=0):
  """Wires the data to the trainer.

  Args:
    config: a configuration (`configs/common.py` names its keys).
    workdir: directory of checkpoints, logs and results, or its URL.
    mode: 'train' or 'evaluate'.
    start: when the program started, by `time.perf_counter`; None for now.
    profile_steps: steps to trace in training.

  Returns:
    `evaluate.Result` of the last evaluation; None if a signal ended the run.

  Raises:
    ValueError: the configuration or the data do not fit; one sentence.
  """
  import jax

  from vidattn_jax import wiring
  from vidattn_jax.training import remote
  from vidattn_jax.training import sharding
  from vidattn_jax.training import startup as startup_lib
  from vidattn_jax.training import train
  startup = startup_lib.Startup(start)
  startup.mark('imports')
  if config.compile_cache:
    jax.config.update('jax_compilation_cache_dir',
                      os.path.expanduser(config.compile_cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  config = wiring.resolve(config)
  sharding.connect(train.check(config))
  with remote.local_workdir(workdir) as workdir:
    if mode == 'train':
      inputs = wiring.training_inputs(config, workdir)
      startup.mark('looking through the data')
      return train.train_and_evaluate(config, workdir, inputs, startup,
                                      profile_steps)
    if config.eval.collect_attention:
      return wiring.collect_attention(config, workdir)
    return train.evaluate_checkpoint(
        config, workdir, wiring.evaluation_inputs(config, workdir))


def main(argv):
  """Runs what the flags say."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise ValueError(f'{argv[1]!r} is no flag; flags start with --.')
  config = _CONFIG.value
  try:
    if config is not None:
      config.keys()  # a file that could not be read is told only now
  except OSError as error:
    raise ValueError(f'--config: {str(error).splitlines()[-1].strip()}'
                     ) from None
  compiling = _MODE.value == 'compile'
  for name, value in (
      ('config', config),
      ('topology', _TOPOLOGY.value if compiling else ''),
      ('workdir', '' if compiling else _WORKDIR.value)):
    if value is None:
      raise ValueError(f'--{name} is missing.')
  if compiling:
    from vidattn_jax import wiring
    from vidattn_jax.tools import compile as compile_lib
    compile_lib.prepare(_TOPOLOGY.value)
    print(compile_lib.report(wiring.resolve(config), _TOPOLOGY.value,
                             _LARGEST_BATCH.value))
    return
  from vidattn_jax.training import hosts
  if _DISTRIBUTED.value or _COORDINATOR.value:
    hosts.initialize(_COORDINATOR.value, _NUM_PROCESSES.value,
                     _PROCESS_ID.value)
  with hosts.ending_together():
    run(config, os.path.expanduser(_WORKDIR.value), _MODE.value, _START,
        _PROFILE.value)


def parse_flags(argv):
  """Reads the flags; whatever is wrong with them gets one sentence."""
  with errors.of_flags():
    return flags.FLAGS(argv)


if __name__ == '__main__':
  try:
    app.run(main, flags_parser=parse_flags)
  except ValueError as error:
    errors.exit_with_sentence(error)
