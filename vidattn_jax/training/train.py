"""The training run: start or resume, step, evaluate, save."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import math
from typing import Any

from etils import epath
import jax
import numpy as np

import vidattn_jax
from vidattn_jax import models
from vidattn_jax import names
from vidattn_jax.models import st_abn
from vidattn_jax.ops import per_device
from vidattn_jax.training import ahead
from vidattn_jax.training import attention
from vidattn_jax.training import checkpoint
from vidattn_jax.training import detections
from vidattn_jax.training import distill
from vidattn_jax.training import evaluate as evaluation
from vidattn_jax.training import heads
from vidattn_jax.training import initialize
from vidattn_jax.training import optim
from vidattn_jax.training import profiling
from vidattn_jax.training import programs
from vidattn_jax.training import report
from vidattn_jax.training import sharding
from vidattn_jax.training import startup as startup_lib
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import stop_signal
from vidattn_jax.training import workdir as workdir_lib
from vidattn_jax.training import writer as writer_lib

# Keys whose values must be above 0.
_POSITIVE = ('batch_size', 'accumulate_steps', 'num_epochs', 'log_every_steps',
             'model.num_frames', 'model.width', 'eval.batch_size',
             'eval.views_per_pass', 'eval.clips', 'eval.every_epochs',
             'checkpoint.every_epochs')
_DTYPES = ('float32', 'bfloat16', 'float64')


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a run takes from the data, as callables and plain values.

  Attributes:
    classes: class names, or {head: class names}.
    steps_per_epoch: steps in one pass over the training videos.
    train_batches: function (start_step, num_steps) -> iterator of this
      process's batches.
    eval_batches: function () -> iterator of this process's batches.
    train_names: names of the training videos, by index.
    eval_names: names of the evaluation videos, by index.
    eval_lengths: their numbers of frames; () if not known.
    truth: {video: truth} of the evaluation videos, as `detection.evaluation`
      takes it, of networks that find segments.
    pixels: how a video becomes views, as plain data (the pixel recipe).
    card: counts, fingerprints and dropped videos, as plain data.
  """
  classes: tuple | dict
  steps_per_epoch: int
  train_batches: Callable[[int, int], Iterator[dict]]
  eval_batches: Callable[[], Iterator[dict]]
  train_names: tuple
  eval_names: tuple
  pixels: dict
  card: dict
  eval_lengths: tuple = ()
  truth: dict | None = None


class TrainingError(ValueError):
  """A run cannot go on, and why."""


def train_and_evaluate(config, workdir, inputs: Inputs,
                       startup: startup_lib.Startup | None = None,
                       profile_steps: int = 0):
  """Trains from the start, or from where an earlier run of this workdir ended.

  Args:
    config: the run's configuration.
    workdir: directory of checkpoints, logs and results.
    inputs: the data.
    startup: the clock that runs since the program started; None for a new one.
    profile_steps: steps of which a trace is written to `profile/` in the
      workdir, from the third one on.

  Returns:
    `evaluate.Result` of the last step, or None when a signal ended the run
    early (all is saved then, and the same call goes on).

  Raises:
    ValueError: the configuration, the workdir or the data do not fit, or the
      loss is no longer a number.
  """
  startup = startup or startup_lib.Startup()
  config = config.copy_and_resolve_references()
  mesh = check(config)
  check_classes(config, inputs)
  workdir_lib.claim(workdir, config, inputs.card['train']['sha256'])

  arguments = state_lib.model_arguments(config, heads.counts(inputs.classes))
  model = state_lib.build_model(arguments, freeze=tuple(config.freeze),
                                partial_bn=config.partial_bn)
  checkpoints = checkpoint.Checkpoints(workdir, config.checkpoint.keep,
                                       cleanup=True)
  run = _Run(config, workdir, inputs, mesh, model, arguments, checkpoints)
  batches = ahead.Ahead(inputs.train_batches, run.total_steps,
                        max(checkpoints.steps(), default=0))
  try:
    state, shardings = _start(config, mesh, model, checkpoints)
    startup.mark('weights')
    return run.loop(state, shardings, batches, startup, profile_steps)
  finally:
    batches.close()
    checkpoints.close()


def check(config):
  """Checks what can be checked before the data are looked at.

  Args:
    config: the run's configuration.

  Returns:
    The mesh of devices.

  Raises:
    ValueError: a value is wrong; one sentence names it.
  """
  for key in _POSITIVE:
    section, _, name = key.rpartition('.')
    value = (config[section] if section else config)[name]
    if not value > 0:
      raise ValueError(f'config.{key} is {value}; it must be above 0.')
  if config.model.dtype not in _DTYPES:
    raise ValueError(f'config.model.dtype is {config.model.dtype!r}; choose '
                     f'{" or ".join(_DTYPES)}.')
  names.check_name('value of config.batch_norm', config.batch_norm,
                   ('global', 'replica'))
  mesh = sharding.make_mesh(config)
  sharding.check_batch_size('batch_size', config.batch_size, mesh,
                            config.accumulate_steps)
  sharding.check_batch_size('eval.batch_size', config.eval.batch_size, mesh)
  optim.make_schedule(config, 1)
  evaluation.check_average(config.eval.average)
  model = state_lib.build_model(state_lib.model_arguments(
      config, dict.fromkeys(config.data.csv_labels, 1) or 1))
  programs.check(config, mesh, model)
  if config.data.labels == 'multi' and config.eval.collect_attention:
    raise ValueError('config.eval.collect_attention takes videos of one class '
                     "each; config.data.labels is 'multi'.")
  for key, value in (('data.edits', config.data.edits),
                     ('eval.collect_attention', config.eval.collect_attention),
                     ('eval.invert_spatial', config.eval.invert_spatial)):
    if value and not isinstance(model, st_abn.STABN):
      raise ValueError(
          f'config.{key} takes a network with an attention branch, such as '
          f'st_abn_r50; {config.model.name} has none.')
  if config.distill.teacher:
    distill.check(config, model)
  if config.model.name in models.DETECTORS:
    detections.check(config)
  elif config.detection.annotations:
    raise ValueError(
        f'config.model.name is {config.model.name}, which classifies clips, '
        'but config.detection.annotations is set; choose '
        f'{" or ".join(models.DETECTORS)}, or leave it empty.')
  if config.eval.collect_attention and config.eval.sampling.startswith(
      'consecutive'):
    raise ValueError('config.eval.collect_attention takes as many clips of '
                     'every video; set config.eval.sampling to segment or '
                     'dense.')
  return mesh


def check_classes(config, inputs: Inputs):
  """Raises a ValueError if the network has other classes than the data."""
  found = heads.counts(inputs.classes)
  wanted = state_lib.model_arguments(config, found)['num_classes']
  if wanted != found:
    raise ValueError(
        f'config.model.num_classes is {wanted}, but the data have {found} '
        'classes; leave it 0, or name all classes in data.classes '
        '(data.head_classes).')


def _start(config, mesh, model, checkpoints):
  """Returns the state to go on from, and its shardings.

  In this order: the newest checkpoint of the workdir, the weights that the
  configuration names, fresh weights.
  """
  create, shapes, shardings = programs.initializer(config, mesh, model)
  state = checkpoints.restore_latest(shapes, shardings, writer_lib.say)
  if state is not None:
    writer_lib.say(f'Resumed {checkpoints.directory.parent} at step '
                   f'{int(state.step)}.')
  elif config.init_from:
    variables, text = initialize.load_weights(
        config.init_from, model, jax.random.key(config.seed),
        tuple(config.freeze))
    writer_lib.say(text)
    state = jax.jit(lambda v: state_lib.create_state(v, config),
                    out_shardings=shardings)(variables)
  else:
    state = create(state_lib.key_data(config.seed))
  return state, shardings


class _Run:
  """What stays the same over a run's steps."""

  def __init__(self, config, workdir, inputs, mesh, model, arguments,
               checkpoints):
    self.config = config
    self.workdir = epath.Path(workdir)
    self.inputs = inputs
    self.mesh = mesh
    self.model = model
    self.arguments = arguments
    self.checkpoints = checkpoints
    self.key = state_lib.key_data(config.seed)
    self.rates = optim.learning_rates(config, inputs.steps_per_epoch)
    self.total_steps = len(self.rates)
    self.evaluator = make_evaluator(config, mesh, model)
    self.plateau = optim.make_plateau(config)
    self.unreadable = set()  # names that this process knows
    self.slots = self.empty = 0  # of all processes

  def loop(self, state, shardings, batches, startup, profile_steps=0):
    """Runs the steps that are left; see `train_and_evaluate`."""
    config, inputs = self.config, self.inputs
    see, more = None, ()
    if config.distill.teacher:
      teacher = distill.load_teacher(config.distill.teacher, writer_lib.say)
      see = teacher.features
      more = (sharding.replicate(self.mesh, teacher.variables),)
    train_step = programs.train_step(
        config, self.mesh, self.model, self.arguments['num_classes'], shardings,
        see)
    eval_every = _interval(config.eval.every_epochs, inputs.steps_per_epoch)
    save_every = _interval(config.checkpoint.every_epochs,
                           inputs.steps_per_epoch)
    step = int(state.step)
    saved = step if step else None
    if step:
      self.unreadable.update(
          self.checkpoints.description(step).get('unreadable', ()))
    result = None
    if step >= self.total_steps:
      writer_lib.say(f'The run is finished: step {step} of '
                     f'{self.total_steps}.')
      result = self.evaluate(state)
      report.report(self.config, self.workdir, self.told(), result, step)
      return result

    writer = writer_lib.Writer(self.workdir, step)
    batches.begin(step)  # a damaged checkpoint means an earlier step
    progress = writer_lib.Progress(
        'train', self.total_steps * config.batch_size,
        step * config.batch_size)
    pending = None
    sums = {}
    try:
      with (stop_signal.StopSignal() as stop,
            profiling.Trace(self.workdir, step, profile_steps) as trace):
        batch = progress.wait_for(batches)
        startup.mark('first batch')
        while step < self.total_steps:
          trace.before(step, state)
          state, metrics = train_step(state, _on_devices(self.mesh, batch),
                                      self.key, self.rates[step], *more)
          step += 1
          if startup:
            # The call returns when the step is compiled and has begun.
            startup.mark('compiling the step')
            jax.block_until_ready(metrics)
            startup.mark('the step')
            writer_lib.say(startup.sentence())
            startup = None
          # The next batch is fetched, and the last step's figures are looked
          # at, while the device computes this one.
          current = (step, batch, metrics)
          if step < self.total_steps:
            batch = progress.wait_for(batches)
          if pending:
            self.check(*pending, sums, saved)
          pending = current
          stopping = stop.requested(step)
          event = (step % eval_every == 0 or step % save_every == 0
                   or step == self.total_steps or stopping)
          if event or step % config.log_every_steps == 0:
            self.check(*pending, sums, saved)
            pending = None
            self.log(writer, progress, step, sums)
          else:
            progress.advance(config.batch_size)
          if not event:
            continue
          summary = None
          if step % eval_every == 0 or step == self.total_steps:
            result = self.evaluate(state)
            summary = result.summary()
            if step < self.total_steps:
              report.write_result(config, self.workdir, self.told(), result,
                                  step)
            writer.write(step, step / inputs.steps_per_epoch, 'eval', summary)
            if summary.get('videos'):
              loss = (f'loss {summary["loss"]:.4f} on '
                      if 'loss' in summary else '')
              writer_lib.say(f'step {step}: {report.main_figure(summary)}'
                             f'{loss}{summary["videos"]} videos'
                             f'{report.how_judged(result)}')
              state = self.watch_plateau(state, summary.get('loss'))
          self.checkpoints.save(state, self.describe(step),
                                summary if checkpoint.figure(summary or {})
                                is not None else None)
          saved = step
          if stopping and step < self.total_steps:
            self.checkpoints.wait()
            writer_lib.say(f'Stopped by a signal after step {step} of '
                           f'{self.total_steps}; all is saved. The same '
                           'command goes on from there.')
            return None
    finally:
      progress.close()
      writer.close()
    self.checkpoints.wait()
    if self.unreadable:
      names = sorted(self.unreadable)
      writer_lib.say(f'{len(names)} training videos could not be read and did '
                     f'not count: {", ".join(names[:10])}'
                     + (' ...' if len(names) > 10 else ''))
    report.report(config, self.workdir, self.told(), result, step)
    return result

  def told(self) -> Inputs:
    """Returns the inputs; their card names what training could not read."""
    card = self.inputs.card
    return dataclasses.replace(self.inputs, card={**card, 'train': {
        **card['train'], 'unreadable': sorted(self.unreadable)}})

  def check(self, step, batch, metrics, sums, saved):
    """Adds a step's figures to the sums and stops at the first bad one."""
    metrics = {name: float(value) for name, value in metrics.items()}
    for row in np.flatnonzero(np.asarray(batch['mask']) == 0):
      self.unreadable.add(self.inputs.train_names[int(batch['index'][row])])
    # Counted from what all processes share, so that all of them stop.
    self.slots += self.config.batch_size
    if math.isfinite(metrics['count']):
      self.empty += self.config.batch_size - metrics['count']
    most, allowed = _most_bad(self.config.data, max(
        self.slots, len(self.inputs.train_names)))
    if self.empty > most:
      raise TrainingError(
          f'More training videos can no longer be read than {allowed} allows: '
          f'{", ".join(sorted(self.unreadable)[:5]) or "on other hosts"}.')
    if not (math.isfinite(metrics['loss'])
            and math.isfinite(metrics['grad_norm'])):
      what = 'loss' if not math.isfinite(metrics['loss']) else 'gradient'
      names = [self.inputs.train_names[int(i)] for i in batch['index']]
      last = (f'{self.checkpoints.directory / str(saved)}' if saved
              else 'none yet')
      raise TrainingError(
          f'The {what} is not a number at step {step}. Clips of that step: '
          f'{", ".join(names)}. Last good checkpoint: {last}. A lower '
          'schedule.learning_rate or a longer warm-up usually mends it.')
    for name in ('loss', 'correct', 'count'):
      sums[name] = sums.get(name, 0.0) + metrics[name]
    sums.update({name: metrics[name]
                 for name in ('learning_rate', 'grad_norm')})

  def log(self, writer, progress, step, sums):
    """Writes the means since the last line and starts new sums."""
    count = max(sums['count'], 1.0)
    right = 'right' if self.config.model.name in models.DETECTORS else (
        heads.training_figure(self.arguments['num_classes'],
                              self.config.data.labels == 'multi'))
    figures = {'loss': sums['loss'] / count, right: sums['correct'] / count}
    progress.advance(self.config.batch_size, **figures)
    writer.write(step, step / self.inputs.steps_per_epoch, 'train', {
        **figures, 'learning_rate': sums['learning_rate'],
        'grad_norm': sums['grad_norm'],
        'waiting_for_data': progress.waiting_share()})
    sums.clear()

  def evaluate(self, state):
    """Scores the evaluation videos with a state's weights."""
    return self.evaluator(state.variables(), self.inputs)

  def watch_plateau(self, state, loss):
    """Tells the plateau schedule how an evaluation went."""
    if not self.plateau:
      return state
    _, plateau = jax.jit(
        lambda s, p, v: self.plateau.update({}, s, p, value=v))(
            state.plateau, {}, np.float32(loss))
    plateau = jax.device_put(plateau, sharding.replicated(self.mesh))
    return state.replace(plateau=plateau)

  def describe(self, step) -> dict:
    """Returns what a checkpoint carries beside the weights."""
    return {
        'format': 1, 'step': step, 'model': self.arguments,
        'unreadable': sorted(self.unreadable), 'pixels': self.inputs.pixels,
        'classes': heads.plain(self.inputs.classes),
        'data': self.inputs.card, 'config': report.plain(self.config),
        'version': vidattn_jax.__version__, 'revision': report.revision()}


def make_evaluator(config, mesh, model):
  """Builds the function that evaluates weights on a run's videos.

  Args:
    config: the run's configuration.
    mesh: the mesh.
    model: the network.

  Returns:
    Function (variables, inputs, progress=None, observe=None) ->
    `evaluate.Result`, or `detections.Result` of networks that find segments.
  """
  look = (detections.make_evaluator if config.model.name in models.DETECTORS
          else _make_evaluator)(config, mesh, model)

  def run(variables, inputs, progress=None, observe=None):
    result = look(variables, inputs, progress, observe)
    bad = result.unreadable
    most, allowed = _most_bad(config.data, len(inputs.eval_names))
    if len(bad) > most:
      raise TrainingError(
          f'{len(bad)} of {len(inputs.eval_names)} evaluation videos can no '
          f'longer be read, more than {allowed} allows: {", ".join(bad[:5])}.')
    return result

  return run


def _make_evaluator(config, mesh, model):
  """Returns what evaluates networks that classify clips."""
  eval_step = state_lib.make_eval_step(
      model, tuple(config.data.mean), tuple(config.data.std),
      config.model.dtype, config.data.flow_bound, model.branch_names,
      config.eval.invert_spatial)
  eval_step = jax.jit(per_device.on_mesh(mesh, eval_step),
                      out_shardings=sharding.batch_sharding(mesh))
  multi = config.data.labels == 'multi'
  score = evaluation.make_scorer(
      eval_step, mesh, config.eval.crops, config.eval.views_per_pass,
      config.eval.average, lambda logits: heads.probabilities(
          logits, model.num_classes, multi))

  def run(variables, inputs, progress, observe):
    return evaluation.evaluate(
        variables, inputs.eval_batches(), score, inputs.eval_names,
        inputs.classes, config.eval.average, config.data.modality, progress,
        model.branch_names, observe, inputs.eval_lengths, multi)

  return run


def evaluate_checkpoint(config, workdir, inputs: Inputs):
  """Restores a checkpoint and evaluates it.

  Args:
    config: the run's configuration; `eval.checkpoint` says which one.
    workdir: the run's directory.
    inputs: the data.

  Returns:
    `evaluate.Result`.

  Raises:
    ValueError: there is no such checkpoint, or it does not fit.
  """
  mesh, model, variables, step = _restore(config, workdir, inputs)
  result = _evaluate(config, mesh, model, variables, inputs)
  report.report(config, workdir, inputs, result, step)
  return result


def evaluate_with_attention(config, workdir, inputs: Inputs, split: str):
  """Restores a checkpoint, evaluates it and collects its attention.

  Args:
    config: see `evaluate_checkpoint`.
    workdir: see there.
    inputs: the data.
    split: 'eval', whose result is written and told, too, or 'train'.

  Returns:
    (`evaluate.Result`, {kind of attention: [N, clips, T, ...]} of the same
    videos, on process 0, the weights' step).

  Raises:
    ValueError: as `evaluate_checkpoint`.
  """
  mesh, model, variables, step = _restore(config, workdir, inputs)
  collector = attention.Collector(model, config, mesh)
  result = _evaluate(config, mesh, model, variables, inputs, collector)
  if split == 'eval':
    report.report(config, workdir, inputs, result, step)
  return result, collector.arrays(), step


def _restore(config, workdir, inputs):
  """Returns the mesh, the network, its restored weights and their step."""
  mesh = sharding.make_mesh(config)
  sharding.check_batch_size('eval.batch_size', config.eval.batch_size, mesh)
  check_classes(config, inputs)
  variables, description, step = checkpoint.load(
      workdir, config.eval.checkpoint, writer_lib.say)
  where = f'The checkpoint of step {step} in {workdir}'
  known, found = map(heads.counts, (description['classes'], inputs.classes))
  if description['classes'] != heads.plain(inputs.classes):
    raise TrainingError(
        f'{where} knows {known} classes and the data {found}, or their names '
        'differ; evaluate it on the classes that it was trained on '
        '(data.classes, data.head_classes).')
  kind = description['config']['data'].get('labels', 'single')
  if kind != config.data.labels:
    raise TrainingError(f'{where} was trained with data.labels={kind!r}; the '
                        f'configuration says {config.data.labels!r}.')
  arguments = state_lib.model_arguments(config, found)
  for key, value in description['model'].items():
    if key not in ('num_frames', 'dtype', 'dropout') and (
        arguments.get(key) != value):
      raise TrainingError(
          f'{where} was trained with model.{key}={value!r}; the '
          f'configuration says {arguments.get(key)!r}. Evaluate it with its '
          'own configuration.')
  model = state_lib.build_model(arguments)
  return mesh, model, sharding.replicate(mesh, variables), step


def _evaluate(config, mesh, model, variables, inputs, observe=None):
  progress = writer_lib.Progress('evaluate', len(inputs.eval_names))
  result = make_evaluator(config, mesh, model)(
      variables, inputs, progress.advance, observe)
  progress.close()
  return result


def _most_bad(data, total):
  """Returns how many of the videos may be bad, and the key that says so."""
  if data.bad_videos == 'fail':
    return 0, "data.bad_videos='fail'"
  return (data.max_bad_fraction * total,
          f'data.max_bad_fraction={data.max_bad_fraction}')


def _interval(epochs: float, steps_per_epoch: int) -> int:
  return max(1, round(epochs * steps_per_epoch))


def _on_devices(mesh, batch: dict) -> Any:
  """Puts what a step needs on the devices; the names stay on the host."""
  return sharding.to_devices(
      mesh, {key: batch[key] for key in (
          'video', 'chroma', 'color', 'label', 'mask', 'temporal_target',
          'temporal_mask', 'overlap', 'segments') if key in batch})
