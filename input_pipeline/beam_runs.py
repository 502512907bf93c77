"""Runs the making of shards on Apache Beam, and watches it."""

import logging
import os
import re
import threading

from input_pipeline import records
from input_pipeline import shard_jobs
from input_pipeline import storage

# Stands before what a worker has to say.
_MARK = 'vidattn prepare: '


class Watching:
  """Calls `progress` every second while the block runs."""

  def __init__(self, root, jobs, missing, progress):
    self._root = root
    self._counts = {job.shard: len(job.labels) for job in jobs}
    self._missing = {job.shard for job in missing}
    self._progress = progress
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self):
    if self._progress:
      self._thread.start()

  def __exit__(self, kind, value, trace):
    self._over.set()
    if self._progress:
      self._thread.join()

  def _watch(self):
    while not self._over.wait(1):
      self._tell()
    self._tell()

  def _tell(self):
    done = sum(count for shard, count in self._counts.items()
               if shard not in self._missing or self._is_there(shard))
    parts = os.path.join(self._root, shard_jobs.PARTS)
    if os.path.isdir(parts):
      for name in os.listdir(parts):
        if name.endswith(shard_jobs.COUNT):
          try:
            with open(os.path.join(parts, name), encoding='ascii') as file:
              done += int(file.read() or 0)
          except (OSError, ValueError):
            pass  # it has just become a shard
    total = sum(self._counts.values())
    self._progress(min(done, total), total)

  def _is_there(self, shard):
    return storage.exists(
        records.rows_file(storage.join(self._root, shard)))


def run(jobs, workers, options):
  """Makes shards, one element each, on Apache Beam."""
  beam, pipeline_options = _import_beam()
  runner = None
  if not options:
    runner = _runner_of_this_machine()
    workers = min(workers, len(jobs))
    mode = 'multi_processing' if workers > 1 else 'in_memory'
    options = [f'--direct_running_mode={mode}',
               f'--direct_num_workers={workers}']
  try:
    with beam.Pipeline(runner=runner, options=pipeline_options.PipelineOptions(
        list(options))) as pipeline:
      _ = (pipeline | 'Shards' >> beam.Create(jobs) | beam.Reshuffle()
           | 'Make' >> beam.Map(_make_or_say))
  except Exception as error:
    said = re.search(f'{_MARK}(.*)', str(error))
    if said is None:
      raise
    raise ValueError(said[1].replace('\\n', ' ').rstrip("'\"")) from error


def _import_beam():
  logging.disable(logging.WARNING)  # it misses what nobody asked for
  try:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
    return beam, pipeline_options
  except ImportError:
    raise ValueError('vidattn prepare needs Apache Beam: pip install '
                     "'vidattn_jax[beam]'.") from None
  finally:
    logging.disable(logging.NOTSET)


def _runner_of_this_machine():
  """Returns Beam's runner in this process; `DirectRunner` may download one."""
  from apache_beam.portability.api import beam_provision_api_pb2
  from apache_beam.runners.portability.fn_api_runner import fn_runner
  info = beam_provision_api_pb2.ProvisionInfo(retrieval_token='none')
  # Else its workers tell of every channel that they open.
  info.pipeline_options['default_sdk_harness_log_level'] = 'ERROR'
  return fn_runner.FnApiRunner(
      provision_info=fn_runner.ExtendedProvisionInfo(info))


def _make_or_say(job):
  """Makes a shard; what the system refuses becomes a sentence."""
  try:
    shard_jobs.make_shard(job)
  except OSError as error:
    raise RuntimeError(f'{_MARK}{storage.join(job.root, job.shard)} cannot be '
                       f'written: {error}.') from error
