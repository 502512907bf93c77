"""The training state, and the two compiled steps."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax

from vidattn_jax import models
from vidattn_jax.backbones import remat
from vidattn_jax.ops import flow
from vidattn_jax.ops import pixels
from vidattn_jax.training import heads
from vidattn_jax.training import objectives
from vidattn_jax.training import optim


@struct.dataclass
class TrainState:
  """All that a step changes, and all that a checkpoint stores.

  Attributes:
    step: int32, number of finished steps.
    params: float32 tree.
    batch_stats: float32 tree of running means and variances.
    opt_state: the optimiser's state.
    ema: moving average of `params`, or {} without one.
    plateau: state of the plateau schedule, or {} with another schedule.
  """
  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any
  plateau: Any

  def variables(self):
    """Returns what evaluation runs on: averaged weights where there are."""
    return {'params': self.ema or self.params, 'batch_stats': self.batch_stats}


def model_arguments(config, num_classes) -> dict:
  """Returns the arguments of `get_model` as plain data.

  Args:
    config: the run's configuration.
    num_classes: number of classes of the data set, or {head: number}.

  Returns:
    Dict with `name` and the overrides; it can be written as JSON.
  """
  m = config.model
  return dict(
      name=m.name, num_classes=(
          {head: m.num_classes[head] for head in sorted(m.num_classes)}
          if hasattr(m.num_classes, 'keys') else m.num_classes or num_classes),
      num_frames=m.num_frames, crop_size=list(m.crop_size),
      attention=m.attention or None,
      attention_options=m.attention_options.to_dict(),
      stages=list(m.stages) or None,
      width=m.width, dtype=m.dtype, dropout=m.dropout,
      **({'modality': 'flow', 'flow_stack': config.data.flow_stack}
         if config.data.modality == 'flow' else {}),
      **{key: list(value) if isinstance(value, tuple) else value
         for key, value in m.options.to_dict().items()})


def build_model(arguments: dict, **training):
  """Builds the network that `model_arguments` describes.

  Args:
    arguments: as `model_arguments` returns them.
    **training: further fields that matter in training only.

  Returns:
    A Flax module.
  """
  arguments = {key: tuple(value) if isinstance(value, list) else value
               for key, value in arguments.items()}
  return models.get_model(arguments.pop('name'), **arguments, **training)


def key_data(seed: int) -> np.ndarray:
  """Returns the random key of a seed as an array, which every process has."""
  return np.asarray(jax.random.key_data(jax.random.key(seed)))


def init_variables(model, rng):
  """Draws initial weights.

  Args:
    model: the network.
    rng: key.

  Returns:
    Dict of `params` and `batch_stats`.
  """
  video = jnp.zeros((1, *model.image_shape), jnp.float32)
  variables = model.init({'params': rng}, video, train=False)
  return {'params': variables['params'],
          'batch_stats': variables.get('batch_stats', {})}


def create_state(variables, config) -> TrainState:
  """Makes the state before the first step.

  Args:
    variables: dict of `params` and `batch_stats`.
    config: the run's configuration.

  Returns:
    The state; a pure function of its arguments.
  """
  params = variables['params']
  plateau = optim.make_plateau(config)
  return TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      batch_stats=variables['batch_stats'],
      opt_state=optim.make_optimizer(params, config).init(params),
      ema=jax.tree.map(jnp.copy, params) if config.ema_decay else {},
      plateau=plateau.init(params) if plateau else {})


def network_input(model, video, mean, std, dtype, flow_bound=20.0):
  """Makes pixels as they leave the pipeline ready for a network.

  Args:
    model: the network.
    video: uint8 [N, T, H, W, C]; for a network that sees flow also frames, [N,
      T * (stack + 1), H, W, 3], from which the flow is computed here.
    mean: of the channels, on [0, 1].
    std: their standard deviation.
    dtype: type of the network's activations.
    flow_bound: displacement in pixels that becomes 255.

  Returns:
    `dtype` [N, T, H, W, C'].
  """
  if getattr(model, 'modality', 'rgb') == 'flow' and video.shape[-1] == 3:
    video = flow.of_clips(video, model.image_shape[-1] // 2, flow_bound)
  return pixels.normalize(video, mean, std, dtype)


def make_train_step(model, config, num_classes, see=None, mesh=None):
  """Builds one training step: a pure function to be compiled.

  What the seed and the length of the data set decide comes as arguments, so
  that runs which differ in these alone share one compiled program.

  Args:
    model: the network.
    config: the run's configuration; `seed` and `schedule.learning_rate` are
      not looked at.
    num_classes: number of classes, or {head: number}.
    see: function of a teacher's weights and frames that returns its features,
      see `distill.Teacher`; None without a teacher.
    mesh: the mesh of devices, where each has its own BatchNorm.

  Returns:
    Function (state, batch, key, learning_rate) -> (state, metrics), which takes
    the teacher's weights, too, if there is one. `batch`
    has `video` uint8 [N, T, H, W, C] (or what `network_input` takes; or with
    `chroma` and `color`, as `pixels.from_yuv` takes the three), `mask`
    float32 [N], 0 for clips that do not count, and `label` int32 [N] (see
    `losses.one_hot_targets`), with edited attention what
    `losses.mean_temporal_loss` takes, too; of S-CNN also `overlap` float32 [N],
    class 0 being background; of R-C3D `segments` [N, S, 3] in their place, as
    the network takes them. `key` is what `key_data` returns, the same at every
    step; `learning_rate` float32, that of the step. `metrics` are float32
    scalars: sums over the clips (`loss`, `correct` as `objectives.of` tells,
    `count`), `learning_rate` and `grad_norm`.
  """
  mean, std = tuple(config.data.mean), tuple(config.data.std)
  dtype = jnp.dtype(config.model.dtype)
  parts = config.accumulate_steps
  objective = objectives.of(model)

  def loss_sum(params, batch_stats, batch, key, teacher):
    video = batch['video']
    if 'chroma' in batch:
      video = pixels.from_yuv(video, batch['chroma'], batch['color'])
    if see:
      batch = batch | {'features': see(teacher, video)}
    if config.data.color_jitter:
      video = pixels.jitter(jax.random.fold_in(key, 2), video,
                            config.data.color_jitter)
    video = network_input(model, video, mean, std, dtype,
                          config.data.flow_bound)

    def apply(video, head_only=False, **options):
      mine = _head_only(params) if head_only else params
      with remat.computing_again(config.remat):
        return model.apply({'params': mine, 'batch_stats': batch_stats}, video,
                           train=True, mutable=['batch_stats'], **options)

    total, right, updated = objective(apply, video, batch, key, config,
                                      num_classes)
    sums = {'loss': total, 'correct': jnp.sum(right * batch['mask']),
            'count': jnp.sum(batch['mask'])}
    return sums['loss'], (updated.get('batch_stats', {}), sums)

  def train_step(state, batch, key, learning_rate, teacher=None):
    key = jax.random.fold_in(jax.random.wrap_key_data(key), state.step)
    gradient = jax.grad(loss_sum, has_aux=True)
    if config.batch_norm == 'replica':
      gradient = _by_replica(gradient, mesh)
    if parts == 1:
      grads, (batch_stats, sums) = gradient(
          state.params, state.batch_stats, batch, key, teacher)
    else:
      # Every part takes every `parts`-th clip, so that no clip leaves its
      # device.
      split = jax.tree.map(
          lambda x: x.reshape((-1, parts) + x.shape[1:]).swapaxes(0, 1), batch)

      def accumulate(carry, inputs):
        grads, batch_stats, sums = carry
        part, index = inputs
        new_grads, (batch_stats, new_sums) = gradient(
            state.params, batch_stats, part, jax.random.fold_in(key, index),
            teacher)
        grads, sums = jax.tree.map(
            jnp.add, (grads, sums), (new_grads, new_sums))
        return (grads, batch_stats, sums), None

      zeros = jax.tree.map(jnp.zeros_like, state.params)
      sums = dict.fromkeys(('loss', 'correct', 'count'), jnp.zeros(()))
      (grads, batch_stats, sums), _ = jax.lax.scan(
          accumulate, (zeros, state.batch_stats, sums),
          (split, jnp.arange(parts)))

    count = jnp.maximum(sums['count'], 1.0)
    grads = jax.tree.map(lambda g: g / count, grads)
    if config.schedule.name == 'plateau':
      learning_rate = learning_rate * state.plateau.scale
    optimizer = optim.make_optimizer(state.params, config)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - learning_rate * u,
                          state.params, updates)
    ema = state.ema
    if config.ema_decay:
      ema = optax.incremental_update(params, ema, 1.0 - config.ema_decay)
    metrics = dict(sums, learning_rate=jnp.asarray(learning_rate, jnp.float32),
                   grad_norm=optax.tree.norm(grads))
    return state.replace(
        step=state.step + 1, params=params, batch_stats=batch_stats,
        opt_state=opt_state, ema=ema), metrics

  return train_step


def _head_only(params):
  """Returns parameters of which only those of the classifier are trained."""
  return jax.tree_util.tree_map_with_path(
      lambda path, x: x if optim.path_name(path).startswith('head')
      else jax.lax.stop_gradient(x), params)


def _by_replica(gradient, mesh):
  """Returns the function that every device computes on its clips alone.

  Args:
    gradient: function (params, batch_stats, batch, key, teacher) ->
      (gradients, (new batch_stats, sums)).
    mesh: the mesh.

  Returns:
    The same function, of the whole batch; gradients and sums are added up, and
    statistics averaged. Dropout draws anew on each device.
  """

  def of_one(params, batch_stats, batch, key, teacher):
    key = jax.random.fold_in(key, jax.lax.axis_index('data'))
    grads, (batch_stats, sums) = gradient(params, batch_stats, batch, key,
                                          teacher)
    return (jax.lax.psum(grads, 'data'),
            (jax.lax.pmean(batch_stats, 'data'), jax.lax.psum(sums, 'data')))

  whole, split = PartitionSpec(), PartitionSpec('data')
  return jax.shard_map(
      of_one, mesh=mesh, in_specs=(whole, whole, split, whole, whole),
      out_specs=whole, check_vma=False)


def make_eval_step(model, mean, std, dtype, flow_bound=20.0, branches=(),
                   invert_spatial=False):
  """Builds one pass of evaluation: a pure function to be compiled.

  Args:
    model: the network.
    mean: the pixels' mean by channel, on [0, 1].
    std: their standard deviation.
    dtype: type of the network's activations.
    flow_bound: see `network_input`.
    branches: names of `branch_logits` that are wanted, too.
    invert_spatial: ST-ABN looks where it would not.

  Returns:
    Function (variables, views uint8 [N, V, T, H, W, C]) -> logits float32
    [N, V, K], those of several heads side by side (`heads.join`); with branches
    [N, V, 1 + B, K], of all together, then of each.
  """

  def eval_step(variables, views):
    video = network_input(model, views.reshape((-1,) + views.shape[2:]), mean,
                          std, jnp.dtype(dtype), flow_bound)
    outputs = model.apply(
        variables, video, train=False,
        **({'invert_spatial': True} if invert_spatial else {}))
    logits = heads.join(outputs['logits'])
    if branches:
      logits = jnp.stack([logits, *(outputs['branch_logits'][branch]
                                    for branch in branches)], 1)
    return logits.reshape(views.shape[:2] + logits.shape[1:])

  return eval_step
