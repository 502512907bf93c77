"""Teaching a network that sees frames what one that sees flow sees.

Crasto et al., "MARS: Motion-Augmented RGB Stream for Action Recognition",
CVPR 2019. The teacher is frozen, and in evaluation; its flow is computed in the
step, from each frame of the clip to the next.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.models import recognizer
from vidattn_jax.ops import flow
from vidattn_jax.ops import pixels
from vidattn_jax.training import checkpoint
from vidattn_jax.training import losses
from vidattn_jax.training import state as state_lib

HOW = ('mars', 'mers')


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A network that sees flow.

  Attributes:
    model: the network.
    variables: its weights.
    mean: of its channels, on [0, 1].
    std: their standard deviation.
    bound: displacement in pixels that becomes 255.
  """
  model: nn.Module
  variables: dict
  mean: tuple
  std: tuple
  bound: float

  def features(self, variables, video):
    """Computes what the teacher sees in clips, pooled.

    Args:
      variables: its weights.
      video: uint8 [N, T, H, W, 3], frames that follow each other.

    Returns:
      float32 [N, D].
    """
    fields = flow.between(video, self.bound)
    # After the last frame none follows: its motion is that before it.
    fields = jnp.concatenate([fields, fields[:, -1:]], 1)
    outputs = self.model.apply(
        variables, pixels.normalize(fields, self.mean, self.std), train=False,
        capture=True)
    return jax.lax.stop_gradient(losses.pooled(outputs['stages'][-1]))


def check(config, model):
  """Raises a ValueError if a configuration cannot learn from a teacher."""
  keys = config.distill
  if keys.how not in HOW:
    raise ValueError(f'config.distill.how is {keys.how!r}; choose '
                     f'{" or ".join(HOW)}.')
  if not keys.weight > 0:
    raise ValueError(f'config.distill.weight is {keys.weight}; it must be '
                     'above 0.')
  if type(model) is not recognizer.Recognizer or model.neck or (
      model.consensus != 'clip' or model.modality != 'rgb'):
    raise ValueError(
        f'config.distill.teacher is set, but {config.model.name} is no 3D '
        'network that classifies frames from the mean of its features, such as '
        'r3d_18.')
  if config.data.sampling != 'dense' or (
      config.data.dense_span // config.model.num_frames != 1):
    raise ValueError(
        'config.distill.teacher takes clips of frames that follow each other: '
        "set data.sampling to 'dense' and data.dense_span to "
        f'model.num_frames, {config.model.num_frames}.')
  for key in ('mixup_alpha', 'cutmix_alpha'):
    if config[key]:
      raise ValueError(f'config.{key} is {config[key]}; a teacher takes clips '
                       'that are whole.')


def load_teacher(path, report=print) -> Teacher:
  """Restores a teacher.

  Args:
    path: a workdir, or a checkpoint's folder, of a 3D network that sees flow.
    report: function that takes a sentence about a damaged checkpoint.

  Returns:
    The teacher.

  Raises:
    ValueError: there is no such checkpoint, or it is of another network.
  """
  variables, description, _ = checkpoint.load(path, 'best', report)
  model = state_lib.build_model(description['model'])
  recipe = description['pixels']
  if type(model) is not recognizer.Recognizer or model.neck or (
      model.image_shape[-1] != 2 or model.consensus != 'clip'):
    raise ValueError(
        f'config.distill.teacher={path} is a checkpoint of '
        f'{description["model"]["name"]}; it must be of a 3D network that sees '
        'flow, one field at a time.')
  if recipe['flow']['stored']:
    report(f'config.distill.teacher={path} learned stored flow '
           '(data.flow_root), but here it sees flow of the cropped clips, '
           'which is smaller and found otherwise; better train it without '
           'data.flow_root.')
  return Teacher(model, variables, tuple(recipe['mean']), tuple(recipe['std']),
                 float(recipe['flow']['bound']))
