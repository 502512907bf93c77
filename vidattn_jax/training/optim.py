"""Stochastic gradient descent with the rules of the papers' codes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidattn_jax.models import frozen


def path_name(path) -> str:
  """Returns a tree path as 'backbone/layer1_0/conv1/kernel'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def parameter_groups(params) -> dict:
  """Sorts parameters into the groups that the papers treat differently.

  Args:
    params: tree of arrays.

  Returns:
    Tree of the same form with one of 'weight', 'bias' or 'norm' at each leaf.
    'norm' is scale and bias of a normalisation layer, the `alpha` that fades
    an attention unit in, and the `beta_` that are widths of Gaussians.
  """
  names = {path_name(path)
           for path, _ in jax.tree_util.tree_leaves_with_path(params)}

  def group(path, _):
    parent, _, leaf = path_name(path).rpartition('/')
    if (f'{parent}/scale' in names or leaf == 'alpha'
        or leaf.startswith('beta_')):
      return 'norm'
    return 'bias' if leaf == 'bias' else 'weight'

  return jax.tree_util.tree_map_with_path(group, params)


def momentum(decay: float, dampening: float, nesterov: bool):
  """Returns torch's momentum: the first gradient enters undamped.

  Args:
    decay: share of the old direction that is kept, in [0, 1).
    dampening: share of the new gradient that is left out, in [0, 1].
    nesterov: look one step ahead.

  Returns:
    An optax gradient transformation.
  """

  def init(params):
    return {'count': jnp.zeros((), jnp.int32),
            'trace': jax.tree.map(jnp.zeros_like, params)}

  def update(grads, state, params=None):
    del params
    share = jnp.where(state['count'] == 0, 1.0, 1.0 - dampening)
    trace = jax.tree.map(lambda m, g: decay * m + share * g,
                         state['trace'], grads)
    if nesterov:
      direction = jax.tree.map(lambda g, m: g + decay * m, grads, trace)
    else:
      direction = trace
    return direction, {'count': state['count'] + 1, 'trace': trace}

  return optax.GradientTransformation(init, update)


def learning_rate_multipliers(params, config):
  """Returns the learning-rate multiplier of every parameter.

  Args:
    params: tree of arrays.
    config: the run's configuration (`optimizer` and `freeze` are read).

  Returns:
    Tree of floats; 0 for frozen parameters.

  Raises:
    ValueError: an entry of `freeze` or of `optimizer.lr_multipliers` names no
      parameter, or one that is left out of `freeze` none that would be frozen.
  """
  names = [path_name(path)
           for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  options = config.optimizer
  named = {'freeze': [p for p in config.freeze if not p.startswith('-')],
           'optimizer.lr_multipliers': [p for p, _ in options.lr_multipliers]}
  for key, prefixes in named.items():
    for prefix in prefixes:
      if not any(frozen.is_below(name, (prefix,)) for name in names):
        heads = sorted({'/'.join(name.split('/')[:2]) for name in names})
        raise ValueError(
            f'config.{key} names {prefix!r}, but no parameter lies below it; '
            f'there are {", ".join(heads)}.')
  below = [name for name in names if frozen.is_below(name, named['freeze'])]
  for left_out in set(config.freeze) - set(named['freeze']):
    if not any(left_out[1:] in name.split('/') for name in below):
      raise ValueError(f'config.freeze leaves out {left_out!r}, but nothing '
                       'that is frozen has a part of that name.')

  def multiplier(path, group):
    name = path_name(path)
    if frozen.is_frozen(name, config.freeze):
      return 0.0
    value = options.bias_lr if group == 'bias' else 1.0
    # S-CNN has two classifiers, each below the network's name.
    if any(part.startswith('head') for part in name.split('/')):
      value *= options.head_lr
    if '/attention' in name:
      value *= options.attention_lr
    if frozen.is_below(name, ('sparse',)):
      value *= options.width_lr
    for prefix, factor in options.lr_multipliers:
      if frozen.is_below(name, (prefix,)):
        value *= factor
    return value

  return jax.tree_util.tree_map_with_path(multiplier, parameter_groups(params))


def make_optimizer(params, config) -> optax.GradientTransformation:
  """Builds the optimiser, all but the learning rate.

  The order is torch's: the gradient is clipped, weight decay enters it, then
  momentum. The train step multiplies by minus the learning rate.

  Args:
    params: tree of arrays or shapes.
    config: the run's configuration.

  Returns:
    An optax gradient transformation.
  """
  options = config.optimizer
  multipliers = learning_rate_multipliers(params, config)
  fixed = jax.tree.map(lambda m: m == 0.0, multipliers)
  decayed = jax.tree.map(lambda g: g == 'weight', parameter_groups(params))
  parts = [optax.masked(optax.set_to_zero(), fixed)]
  if options.clip_norm:
    parts.append(optax.clip_by_global_norm(options.clip_norm))
  if options.weight_decay:
    parts.append(optax.add_decayed_weights(options.weight_decay, decayed))
  parts.append(momentum(options.momentum, options.dampening, options.nesterov))
  parts.append(optax.stateless(lambda updates, _: jax.tree.map(
      lambda u, m: u * m, updates, multipliers)))
  return optax.chain(*parts)


def make_schedule(config, steps_per_epoch: int):
  """Builds the learning rate as a function of the step.

  Args:
    config: the run's configuration.
    steps_per_epoch: steps in one pass over the data.

  Returns:
    Function from a step (int or int32 array) to the learning rate.

  Raises:
    ValueError: the schedule's name is unknown.
  """
  options = config.schedule
  peak = options.learning_rate
  if options.base_batch_size:
    peak *= config.batch_size / options.base_batch_size
  total = num_steps(config, steps_per_epoch)
  warmup = round(options.warmup_epochs * steps_per_epoch)
  if options.name == 'step':
    drops = {}
    for epoch in options.milestones:
      step = round(epoch * steps_per_epoch) - warmup
      drops[step] = drops.get(step, 1.0) * options.factor
    main = optax.piecewise_constant_schedule(peak, drops)
  elif options.name == 'cosine':
    main = optax.cosine_decay_schedule(
        peak, max(total - warmup, 1),
        alpha=options.final_learning_rate / peak if peak else 0.0)
  elif options.name == 'plateau':
    main = optax.constant_schedule(peak)
  else:
    raise ValueError(f'config.schedule.name is {options.name!r}; choose step, '
                     'cosine or plateau.')
  if not warmup:
    return main
  return optax.join_schedules(
      [optax.linear_schedule(0.0, peak, warmup), main], [warmup])


def learning_rates(config, steps_per_epoch: int) -> np.ndarray:
  """Returns the learning rate of every step of a run.

  Args:
    config: the run's configuration.
    steps_per_epoch: steps in one pass over the data.

  Returns:
    float32 [steps], without what the plateau schedule multiplies.
  """
  steps = np.arange(num_steps(config, steps_per_epoch), dtype=np.int32)
  rates = make_schedule(config, steps_per_epoch)(steps)
  return np.broadcast_to(np.asarray(rates, np.float32), steps.shape)


def make_plateau(config):
  """Builds what lowers the learning rate when the loss stops falling.

  Args:
    config: the run's configuration.

  Returns:
    An optax transformation whose state holds `scale`, or None when the
    schedule is another.
  """
  if config.schedule.name != 'plateau':
    return None
  # torch waits for more than `patience` bad evaluations, optax for as many.
  return optax.contrib.reduce_on_plateau(
      factor=config.schedule.factor, patience=config.schedule.patience + 1,
      rtol=1e-4)


def num_steps(config, steps_per_epoch: int) -> int:
  """Returns the number of training steps of the whole run."""
  return max(1, round(config.num_epochs * steps_per_epoch))
