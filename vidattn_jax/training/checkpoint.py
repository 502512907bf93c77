"""Checkpoints: written in the background, restored by name, self-describing."""

import json
import os

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from vidattn_jax.training import optim
from vidattn_jax.training import remote

_DIRECTORY = 'checkpoints'
# What the best checkpoint is best in: the first of these that was measured, of
# one class a video, of several heads (all right), of any number of classes.
FIGURES = ('top1', 'action', 'map')


class CheckpointError(ValueError):
  """A checkpoint cannot be used, and why."""


def figure(metrics: dict) -> float | None:
  """Returns the figure that checkpoints are compared by, None if there is none.

  Args:
    metrics: what an evaluation found.
  """
  return next((metrics[key] for key in FIGURES if key in metrics), None)


def _best_and_latest(keep: int):
  policies = ocp.training.preservation_policies
  return policies.AnyPreservationPolicy([
      policies.LatestN(max(keep, 1)),
      policies.BestN(get_metric_fn=figure, n=1,
                     keep_checkpoints_without_metrics=False)])


class Checkpoints:
  """The checkpoints of one workdir.

  A thin wrapper of orbax that adds: the model's description beside the
  weights, names of leaves that do not fit, and the way back to an older
  checkpoint where the newest is damaged.
  """

  def __init__(self, workdir, keep: int = 2, cleanup: bool = False):
    """Opens, and creates if need be, the checkpoints below a directory.

    Args:
      workdir: the directory.
      keep: number of newest ones to keep beside the best one.
      cleanup: remove what an interrupted save left; only for the run that
        writes here.
    """
    self.directory = epath.Path(os.path.abspath(workdir)
                                if '://' not in str(workdir)
                                else workdir) / _DIRECTORY
    self.directory.mkdir(parents=True, exist_ok=True)
    self._orbax = ocp.training.Checkpointer(
        self.directory, preservation_policy=_best_and_latest(keep),
        cleanup_tmp_directories=cleanup)

  def steps(self) -> list[int]:
    """Returns the steps of the finished checkpoints, in order."""
    return sorted(c.step for c in self._orbax.checkpoints)

  def best_step(self) -> int | None:
    """Returns the step of the best evaluated checkpoint; None for none."""
    scored = [(figure(c.metrics), c.step) for c in self._orbax.checkpoints
              if isinstance(c.metrics, dict) and figure(c.metrics) is not None]
    return max(scored)[1] if scored else None

  def save(self, state, description: dict, metrics: dict | None = None):
    """Starts to write a checkpoint and returns at once.

    Args:
      state: the training state; its buffers may be reused after the return.
      description: plain data that rebuilds the model.
      metrics: results of an evaluation at this step, with one of `FIGURES`.
    """
    tree = _to_tree(state)
    self._orbax.save_async(
        int(state.step), tree, force=True, overwrite=True, metrics=metrics,
        custom_metadata={**description, 'checksums': _checksums(tree)})

  def wait(self):
    """Waits until every started save is on disk."""
    self._orbax.wait()

  def close(self):
    """Waits for the saves and frees the resources."""
    self._orbax.close()

  def description(self, step: int) -> dict:
    """Returns what was saved beside the weights of a step.

    Args:
      step: which checkpoint.

    Raises:
      CheckpointError: it cannot be read.
    """
    where = f'{self.directory / str(step)}'
    try:
      description = self._orbax.metadata(step).custom_metadata
    except Exception as error:
      raise DamagedError(where, error) from error
    if not isinstance(description, dict) or 'checksums' not in description:
      raise DamagedError(where, 'its description cannot be read')
    return description

  def _check_sums(self, step, restored):
    """Raises an error if restored leaves are not those that were saved."""
    wanted = self.description(step)['checksums']
    bad = [name for name, value in _checksums(restored).items()
           if wanted.get(name) != value]
    if bad:
      raise DamagedError(f'{self.directory / str(step)}',
                         f'{len(bad)} arrays changed on disk: {bad[0]}')

  def restore(self, step: int, shapes, shardings):
    """Restores the whole state of a step.

    Args:
      step: which checkpoint.
      shapes: the state as shapes; its leaves must be those of the checkpoint.
      shardings: tree of shardings of the same form.

    Returns:
      The state.

    Raises:
      CheckpointError: a leaf is missing, unexpected or of another shape (all
        are named), or the files are damaged.
    """
    where = f'{self.directory / str(step)}'
    abstract = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(
            s.shape, s.dtype, sharding=sharding), shapes, shardings)
    tree = _to_tree(abstract)
    compare_leaves(_leaf_shapes(self._stored(step)), _leaf_shapes(tree), where)
    try:
      restored = self._orbax.load(step, tree)
    except Exception as error:
      raise DamagedError(where, error) from error
    self._check_sums(step, restored)
    leaves = {optim.path_name(path): leaf for path, leaf
              in jax.tree_util.tree_leaves_with_path(restored)}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: leaves[optim.path_name(path)], abstract)

  def restore_latest(self, shapes, shardings, report=print):
    """Restores the newest checkpoint that is whole.

    A damaged one is reported, and removed, so that the run can write that
    step anew.

    Args:
      shapes: the state as shapes.
      shardings: tree of shardings of the same form.
      report: function that takes a sentence.

    Returns:
      The state, or None when there is no checkpoint.

    Raises:
      CheckpointError: a leaf does not fit, or every checkpoint is damaged.
    """
    damaged = []
    for step in reversed(self.steps()):
      try:
        state = self.restore(step, shapes, shardings)
      except DamagedError as error:
        report(f'{error} Going back to the one before.')
        damaged.append(step)
        continue
      for bad in damaged:
        self._orbax.delete(bad)
      return state
    if damaged:
      raise CheckpointError(
          f'All checkpoints in {self.directory} are damaged; start again in '
          'another --workdir.')
    return None

  def restore_variables(self, step: int):
    """Restores the weights that evaluation uses.

    Args:
      step: which checkpoint.

    Returns:
      Dict of `params` (the moving average where there is one) and
      `batch_stats`, NumPy arrays.

    Raises:
      CheckpointError: the files are damaged.
    """
    stored = self._stored(step)
    key = 'ema' if jax.tree.leaves(stored.get('ema', {})) else 'params'
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(path, leaf):
      # Only what is wanted is read.
      if path[0].key not in (key, 'batch_stats'):
        return ocp.PLACEHOLDER
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

    tree = jax.tree_util.tree_map_with_path(abstract, stored)
    try:
      restored = self._orbax.load(step, tree)
    except Exception as error:
      raise DamagedError(f'{self.directory / str(step)}', error) from error
    restored = {name: restored[name] for name in (key, 'batch_stats')
                if name in restored}
    self._check_sums(step, restored)
    restored = jax.tree.map(np.asarray, restored)
    return {'params': restored[key],
            'batch_stats': restored.get('batch_stats', {})}

  def _stored(self, step):
    where = f'{self.directory / str(step)}'
    try:
      stored = self._orbax.metadata(step).metadata
    except Exception as error:
      raise DamagedError(where, error) from error
    if stored is None:  # orbax logs the reason and goes on
      raise DamagedError(where, 'its list of arrays cannot be read')
    return stored


class DamagedError(CheckpointError):
  """The files of a checkpoint cannot be read."""

  def __init__(self, where, error):
    reason = (str(error).strip().splitlines() or [''])[0][:120]
    if isinstance(error, Exception):
      reason = f'{type(error).__name__}: {reason}'
    super().__init__(f'The checkpoint {where} is damaged ({reason}).')


def _to_tree(state):
  """Turns dataclasses and tuples into nested dicts, which have plain names."""
  nested = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    parts = optim.path_name(path).split('/')
    node = nested
    for part in parts[:-1]:
      node = node.setdefault(part, {})
    node[parts[-1]] = leaf
  return nested


def _checksums(tree) -> dict:
  """Returns {name: sum of the leaf's bits as whole numbers}.

  Computed where the leaves lie, so that nothing is gathered.
  """
  leaves = {optim.path_name(path): leaf for path, leaf
            in jax.tree_util.tree_leaves_with_path(tree)}
  return {name: int(value) for name, value in
          jax.device_get(_sum_bits(leaves)).items()}


@jax.jit
def _sum_bits(leaves):
  def one(x):
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jnp.sum(jax.lax.bitcast_convert_type(x, kind), dtype=jnp.uint32)
  return {name: one(leaf) for name, leaf in leaves.items()}


def _leaf_shapes(tree):
  return {optim.path_name(path): tuple(leaf.shape)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def compare_leaves(stored: dict, wanted: dict, where: str):
  """Raises an error that names each leaf that does not fit.

  Args:
    stored: {name: shape} of the checkpoint.
    wanted: {name: shape} of the model.
    where: the checkpoint's path, for the message.

  Raises:
    CheckpointError: they differ.
  """
  # Parameters first: other leaves follow them.
  stored, wanted = (
      {name: d[name] for name in sorted(d, key=lambda n: (
          not n.startswith('params/'), n))} for d in (stored, wanted))
  lines = [f'{name}: {stored[name]} in the checkpoint, {wanted[name]} in the '
           'model' for name in wanted
           if name in stored and stored[name] != wanted[name]]
  lines += [f'{name}: missing in the checkpoint, {wanted[name]} in the model'
            for name in wanted if name not in stored]
  lines += [f'{name}: {stored[name]} in the checkpoint, unknown to the model'
            for name in stored if name not in wanted]
  if lines:
    more = f'\n  ... and {len(lines) - 10} more' if len(lines) > 10 else ''
    raise CheckpointError(
        f'The checkpoint {where} does not fit the model of this configuration '
        f'({len(lines)} leaves differ):\n  ' + '\n  '.join(lines[:10]) + more
        + '\nUse the configuration it was trained with, or start from its '
        'weights in another --workdir with --config.init_from.')


def exists(workdir) -> bool:
  """Tells whether a workdir holds a finished checkpoint."""
  directory = epath.Path(workdir) / _DIRECTORY
  return directory.exists() and any(
      p.name.isdigit() for p in directory.iterdir())


def load(path, which='best', report=print):
  """Restores weights and their description from what a user points at.

  Args:
    path: a workdir, its `checkpoints` folder, or one step's folder in it; a
      path or a URL.
    which: 'best' (the newest where none was evaluated), 'latest' or a step;
      ignored where `path` is one step's folder. Where the best or latest is
      damaged, the newest whole one is taken, and said so.
    report: function that takes a sentence.

  Returns:
    (variables: dict of `params` and `batch_stats`, description, step).

  Raises:
    CheckpointError: there is none, or it is damaged.
  """
  with remote.local_copy(path) as here:
    return _load(epath.Path(os.path.abspath(here)), which, report)


def _load(path, which, report):
  if path.name.isdigit() and path.parent.name == _DIRECTORY:
    path, which = path.parent.parent, path.name
  elif path.name == _DIRECTORY:
    path = path.parent
  if not (path / _DIRECTORY).exists():
    raise CheckpointError(f'{path} holds no checkpoints; give the --workdir of '
                          'a run, or a folder below its checkpoints/.')
  checkpoints = Checkpoints(path, keep=10 ** 6)
  steps = checkpoints.steps()[::-1]
  if not steps:
    raise CheckpointError(f'{path / _DIRECTORY} holds no finished checkpoint.')
  if which == 'best' and checkpoints.best_step() is not None:
    steps.sort(key=lambda step: step != checkpoints.best_step())
  elif which not in ('best', 'latest'):
    if str(which) not in map(str, steps):
      raise CheckpointError(
          f'{path / _DIRECTORY} holds no checkpoint {which!r}; choose best, '
          f'latest or a step of {", ".join(map(str, sorted(steps)))}.')
    steps = [int(which)]
  try:
    for step in steps:
      try:
        description = checkpoints.description(step)
        return checkpoints.restore_variables(step), description, step
      except DamagedError as error:
        if step == steps[-1]:
          raise
        report(f'{error} Taking another one.')
  finally:
    checkpoints.close()
  raise AssertionError('unreachable')


def write_json(path, value):
  """Writes plain data as JSON, whole or not at all."""
  path = epath.Path(path)
  part = path.parent / f'{path.name}.part{os.getpid()}'
  part.write_text(json.dumps(value, indent=1, sort_keys=True) + '\n')
  part.replace(path)
