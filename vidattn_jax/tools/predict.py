"""Say what is in a video, from a checkpoint alone."""

from collections.abc import Callable
import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from vidattn_jax.tools import networks
from vidattn_jax.training import checkpoint as checkpoint_lib
from vidattn_jax.training import heads
from vidattn_jax.training import state


@dataclasses.dataclass(frozen=True)
class Predictor:
  """A restored network and what it needs to see a video.

  Attributes:
    classes: class names, or {head: class names}.
    pixels: the pixel recipe of the checkpoint, for the decoder.
    scores: function of views, uint8 [V, T, H, W, C] or an iterable of them, to
      probabilities float [K], averaged over the views as in the checkpoint's
      evaluation; those of several heads lie side by side. Networks that take a
      temporal attention take it here, too, as `attention=`, float [V, T],
      negative where their own counts.
    frame_template: file names in folders of frames.
    first_frame: number of the first frame there.
    takes_attention: whether the network takes a temporal attention.
    multi: classes are independent: a video has any number of them.
  """
  classes: tuple | dict
  pixels: dict
  scores: Callable[..., np.ndarray]
  frame_template: str
  first_frame: int
  takes_attention: bool = False
  multi: bool = False


def load_predictor(path, which='best', report=print) -> Predictor:
  """Restores a checkpoint for prediction.

  Args:
    path: a workdir or a checkpoint's folder.
    which: 'best', 'latest' or a step.
    report: function that takes a sentence about a damaged checkpoint.

  Returns:
    The predictor.

  Raises:
    ValueError: there is no such checkpoint, it is damaged, or of a network
      that finds segments.
  """
  variables, description, _ = checkpoint_lib.load(path, which, report)
  networks.check_classifies(path, description)
  variables = jax.device_put(variables)
  pixels = description['pixels']
  model = state.build_model(description['model'])
  of_flow = ({'flow_bound': pixels['flow']['bound']} if 'flow' in pixels
             else {})
  step_fn = jax.jit(state.make_eval_step(
      model, tuple(pixels['mean']), tuple(pixels['std']),
      description['model']['dtype'], **of_flow))
  average = description['config']['eval']['average']
  data = description['config']['data']
  probabilities = functools.partial(
      heads.probabilities, num_classes=model.num_classes,
      multi=data.get('labels') == 'multi')

  @jax.jit
  def attend(variables, views, attention):
    video = state.network_input(model, views, tuple(pixels['mean']),
                                tuple(pixels['std']),
                                jnp.dtype(description['model']['dtype']),
                                **of_flow)
    return model.apply(variables, video, temporal_attention=attention)['logits']

  def scores(views, attention=None):
    # One view at a time: a fixed shape, and no more memory for more views.
    if attention is None:
      logits = [step_fn(variables, view[None, None])[0] for view in views]
    else:
      logits = [attend(variables, view[None], jnp.float32(weights)[None])
                for view, weights in zip(views, attention, strict=True)]
    logits = np.concatenate([np.asarray(part) for part in logits])
    if average == 'probabilities':
      return probabilities(logits).mean(axis=0)
    return probabilities(logits.mean(axis=0))

  return Predictor(heads.from_plain(description['classes']), pixels, scores,
                   data['frame_template'], data['first_frame'],
                   'temporal_attention' in inspect.signature(
                       type(model).__call__).parameters,
                   data.get('labels') == 'multi')


def top_classes(predictor: Predictor, scores, count=5) -> dict:
  """Returns the likeliest classes of each head.

  Args:
    predictor: as `load_predictor` returns it.
    scores: probabilities [K].
    count: how many at most.

  Returns:
    {head: list of (class name, probability), the likeliest first}; the head ''
    if there is one.
  """
  found = {}
  parts = heads.split(scores, heads.counts(predictor.classes))
  for head, names in heads.by_head(predictor.classes).items():
    order = np.argsort(-parts[head], kind='stable')[:count]
    found[head] = [(names[k], float(parts[head][k])) for k in order]
  return found
