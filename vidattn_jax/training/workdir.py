"""Whose a workdir is: one configuration's, and one data set's."""

import json

from etils import epath
import jax
from jax.experimental import multihost_utils

from vidattn_jax.training import checkpoint
from vidattn_jax.training import report

# Keys that may differ between the start of a run and its continuation: they
# change where and how fast it runs, and what is reported, not its result. (With
# another `remat`, units that draw random numbers in training draw others.)
_FREE_KEYS = ('eval.', 'checkpoint.', 'mesh.', 'remat', 'log_every_steps',
              'compile_cache', 'data.root', 'data.index_file',
              'data.cache_frames', 'data.workers', 'data.threads',
              'data.prefetch', 'data.bad_videos', 'data.max_bad_fraction',
              'data.decode_seconds', 'data.max_pixels')
# Keys that came after others' runs had begun, and what those did.
_LATER_KEYS = {'data.transfer': 'rgb'}


class WorkdirError(ValueError):
  """A directory cannot be this run's workdir, and why."""


def _flatten(config, prefix='') -> dict:
  """Returns {dotted key: value} of nested plain data."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat.update(_flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def claim(workdir, config, data: str):
  """Makes a workdir this run's own, or checks that it already is.

  Args:
    workdir: the directory.
    config: the run's configuration.
    data: hash of the training videos.

  Raises:
    WorkdirError: the directory belongs to a run with another configuration
      or other data; the message names what differs.
  """
  workdir = epath.Path(workdir)
  if workdir.exists() and not workdir.is_dir():
    raise WorkdirError(f'--workdir={workdir} is a file; name a directory.')
  path = workdir / 'config.json'
  mine = {'config': report.plain(config),
          'data': data}
  # Before the first checkpoint nothing is lost by another configuration.
  if path.exists() and checkpoint.exists(workdir):
    try:
      theirs = json.loads(path.read_text())
    except ValueError:
      raise WorkdirError(
          f'{path} is damaged, so it is unknown whether the checkpoints beside '
          'it are of this configuration. Remove the file if they are.'
      ) from None
    old = _LATER_KEYS | _flatten(theirs['config'])
    new = _flatten(mine['config'])
    free = tuple(key for key in _FREE_KEYS if key != 'eval.'
                 or config.schedule.name != 'plateau')
    for key in sorted(old.keys() | new.keys()):
      if not key.startswith(free) and old.get(key) != new.get(key):
        raise WorkdirError(
            f'{workdir} belongs to a run with {key}={old.get(key)!r}; this one '
            f'has {new.get(key)!r}. Choose another --workdir, or start there '
            'from its weights with --config.init_from.')
    if theirs['data'] != mine['data']:
      raise WorkdirError(
          f'The training videos are not those that {workdir} was started with '
          f'(hash {theirs["data"][:12]}, now {mine["data"][:12]}). '
          'Bring them back, or choose another --workdir.')
  elif jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(path, mine)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('workdir')
