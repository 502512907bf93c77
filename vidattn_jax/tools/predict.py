"""Say what is in a video, from a checkpoint alone."""

from collections.abc import Callable
import dataclasses

import jax
import numpy as np

from vidattn_jax.training import checkpoint as checkpoint_lib
from vidattn_jax.training import metrics
from vidattn_jax.training import state


@dataclasses.dataclass(frozen=True)
class Predictor:
  """A restored network and what it needs to see a video.

  Attributes:
    classes: class names.
    pixels: the pixel recipe of the checkpoint, for the decoder.
    scores: function of views, uint8 [V, T, H, W, C], to probabilities float
      [K], averaged over the views as in the checkpoint's evaluation.
  """
  classes: tuple
  pixels: dict
  scores: Callable[[np.ndarray], np.ndarray]


def load_predictor(path, which='best') -> Predictor:
  """Restores a checkpoint for prediction.

  Args:
    path: a workdir or a checkpoint's folder.
    which: 'best', 'latest' or a step.

  Returns:
    The predictor.

  Raises:
    ValueError: there is no such checkpoint, or it is damaged.
  """
  checkpoints, step = checkpoint_lib.find(path, which)
  description = checkpoints.description(step)
  variables = checkpoints.restore_variables(step)
  checkpoints.close()
  pixels = description['pixels']
  model = state.build_model(description['model'])
  step_fn = jax.jit(state.make_eval_step(
      model, tuple(pixels['mean']), tuple(pixels['std']),
      description['model']['dtype']))
  average = description['config']['eval']['average']

  def scores(views):
    # One view at a time: a fixed shape, and no more memory for more views.
    logits = np.concatenate([np.asarray(step_fn(variables, view[None, None]))[0]
                             for view in views])
    if average == 'probabilities':
      return metrics.softmax(logits).mean(axis=0)
    return metrics.softmax(logits.mean(axis=0))

  return Predictor(tuple(description['classes']), pixels, scores)


def top_classes(predictor: Predictor, scores, count=5) -> list:
  """Returns the likeliest classes.

  Args:
    predictor: as `load_predictor` returns it.
    scores: probabilities [K].
    count: how many at most.

  Returns:
    List of (class name, probability), the likeliest first.
  """
  order = np.argsort(-scores, kind='stable')[:count]
  return [(predictor.classes[k], float(scores[k])) for k in order]
