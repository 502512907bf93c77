"""Grad-CAM: which places of a clip speak for a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017; by frame, as in figure 6 of
"Attention in Attention".
"""

import functools

from flax import linen as nn
import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from vidattn_jax import names


def grad_cam(model: nn.Module, variables, video, class_index,
             stage: int | None = None, head: str | None = None) -> jax.Array:
  """Computes where a stage of a network speaks for a class.

  Args:
    model: a network of `get_model`.
    variables: dict of `params` and `batch_stats`.
    video: [N, T, H, W, C], normalised.
    class_index: the class, or one for each clip; negative for the predicted.
    stage: which stage, from 1; the last unless given.
    head: whose class it is, of a network with several heads.

  Returns:
    float32 [N, T, H, W] in [0, 1]: each clip's largest value is 1, unless
    nothing speaks for the class; then all are 0. It is interpolated linearly
    from the stage's size, in space and, with a 3D backbone, in time.

  Raises:
    ValueError: the network has no such stage, class or head.
  """
  several = not isinstance(model.num_classes, int)
  if several:
    names.check_name('head', head, model.num_classes)
  count = model.num_classes[head] if several else model.num_classes
  if np.max(class_index) >= count:
    raise ValueError(f'There is no class {np.max(class_index)}; the network '
                     f'has {count}, counted from 0.')
  _, cam = jax.jit(functools.partial(
      outputs_and_map, model, stage=stage, head=head))(
          variables, video, class_index)
  return normalize(enlarge(cam, video.shape[1:4]))


def enlarge(cam, shape: tuple[int, int, int]) -> jax.Array:
  """Interpolates maps [N, t, h, w] linearly to `shape`, (T, H, W)."""
  return jax.image.resize(cam, (len(cam), *shape), 'linear', antialias=False)


def normalize(cam) -> jax.Array:
  """Divides maps [N, T, H, W], 0 or more, by the largest value of a clip."""
  largest = jnp.max(cam, (1, 2, 3), keepdims=True)
  return jnp.where(largest > 0, cam / jnp.where(largest > 0, largest, 1), 0)


def outputs_and_map(model: nn.Module, variables, video, class_index,
                    stage: int | None = None, head: str | None = None):
  """Runs a network forth and back, for its outputs and a class's map.

  At each time, the gradient of the clip's logit with respect to the stage's
  output, averaged over the places, weighs the channels; their sum, where it
  is positive, is the map.

  Args:
    model: see `grad_cam`.
    variables: see `grad_cam`.
    video: see `grad_cam`.
    class_index: see `grad_cam`.
    stage: see `grad_cam`.
    head: see `grad_cam`.

  Returns:
    (What `apply` returns with `capture`; float32 [N, t, h, w], 0 or more, of
    the stage's size.)

  Raises:
    ValueError: the network has no such stage.
  """
  program, shapes = jax.make_jaxpr(
      functools.partial(model.apply, capture=True), return_shape=True)(
          variables, video)
  stages = len(shapes['stages'])
  stage = stages if stage is None else stage
  names.check_name('stage', stage, range(1, stages + 1))
  leaves, tree = jax.tree.flatten(shapes)
  # Where among the outputs the stage's is.
  wanted = shapes['stages'][stage - 1]
  before, after = _cut(program, next(
      i for i, leaf in enumerate(leaves) if leaf is wanted))

  features, *carried = before(*jax.tree.leaves((variables, video)))

  def logit(features):
    outputs = tree.unflatten(after(features, *carried))
    scores = outputs['logits'] if head is None else outputs['logits'][head]
    index = jnp.where(jnp.asarray(class_index) < 0, scores.argmax(-1),
                      class_index)
    # A clip's score depends on that clip alone: a sum keeps them apart.
    return jnp.take_along_axis(scores, index[:, None], -1).sum(), outputs

  gradient, outputs = jax.grad(logit, has_aux=True)(features)
  weights = gradient.astype(jnp.float32).mean((2, 3), keepdims=True)
  return outputs, jax.nn.relu((weights * features).sum(-1))


def _cut(program, output):
  """Cuts a traced function in two, right behind where an output is made.

  So any network can be differentiated with respect to what it computes
  inside, without its help.

  Args:
    program: the traced function.
    output: which of its outputs, by number.

  Returns:
    Two functions of arrays: from the function's inputs to that output and
    what else the second needs; from those to all outputs.
  """
  jaxpr = program.jaxpr
  variable = jaxpr.outvars[output]
  place = 1 + next(i for i, equation in enumerate(jaxpr.eqns)
                   if any(v is variable for v in equation.outvars))
  later = jaxpr.eqns[place:]
  used = [v for equation in later for v in equation.invars]
  if not any(v is variable for v in used):
    raise ValueError('The scores do not come from the array that the backbone '
                     'returns as its stage; it must go on from that very one.')
  made = {v for equation in later for v in equation.outvars}
  carried = dict.fromkeys(
      v for v in (variable, *used, *jaxpr.outvars)
      if not isinstance(v, core.Literal) and v not in made)
  before = jaxpr.replace(eqns=jaxpr.eqns[:place], outvars=[*carried])
  after = jaxpr.replace(eqns=later, invars=[*carried], constvars=[])
  return (core.jaxpr_as_fun(core.ClosedJaxpr(before, program.consts)),
          core.jaxpr_as_fun(core.ClosedJaxpr(after, [])))
