"""See where and when networks look: maps, weights, gates and Grad-CAM."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from vidattn_jax import names
from vidattn_jax.ops import flow as flow_lib
from vidattn_jax.ops import pixels
from vidattn_jax.tools import gradcam
from vidattn_jax.tools import networks
from vidattn_jax.tools import page
from vidattn_jax.tools import panels
from vidattn_jax.tools import pictures
from vidattn_jax.training import checkpoint as checkpoint_lib
from vidattn_jax.training import heads
from vidattn_jax.training import metrics
from vidattn_jax.training import state

Clip = pictures.Clip
# Likeliest classes that are named.
_TOP = 5


@dataclasses.dataclass(frozen=True)
class Explainer:
  """A restored network and what it needs to see a clip.

  Attributes:
    name: what to call it.
    description: the network and its unit.
    classes: class names, or {head: class names}.
    pixels: the pixel recipe of the checkpoint, for one clip and one crop.
    run: function of frames or stacked flow, uint8 [1, T, H, W, C], class,
      negative for the predicted, stage, None for the last, and of several
      heads the one; returns the network's outputs and the class's map, float32
      [1, t, h, w], as `gradcam.outputs_and_map` does.
    frame_template: file names in folders of frames.
    first_frame: number of the first frame there.
    multi: classes are independent: a video has any number of them.
  """
  name: str
  description: str
  classes: tuple[str, ...] | dict[str, tuple[str, ...]]
  pixels: dict
  run: Callable
  frame_template: str
  first_frame: int
  multi: bool = False


def load_explainers(paths: Sequence[str], which='best',
                    report=print) -> list[Explainer]:
  """Restores checkpoints.

  Args:
    paths: workdirs or checkpoints' folders.
    which: 'best', 'latest' or a step.
    report: function that takes a sentence about a damaged checkpoint.

  Returns:
    One explainer for each, called by the last part of its path, or by the
    whole path where that is not unique.

  Raises:
    ValueError: there is no such checkpoint, or it is damaged.
  """
  short = [os.path.basename(os.path.abspath(path)) for path in paths]
  unique = len(set(short)) == len(short)
  return [_load(path, name if unique else str(path), which, report)
          for path, name in zip(paths, short)]


def _load(path, name, which, report):
  variables, description, _ = checkpoint_lib.load(path, which, report)
  networks.check_classifies(path, description)
  variables = jax.device_put(variables)
  model = state.build_model(description['model'])
  recipe = {**description['pixels'], 'clips': 1, 'crops': 1}
  if recipe['sampling'].startswith('consecutive'):
    # Of all clips, one in the middle.
    recipe |= {'sampling': 'dense', 'dense_span': recipe['num_frames']}

  @functools.partial(jax.jit, static_argnums=(3, 4))
  def run(variables, frames, class_index, stage, head=None):
    video = pixels.normalize(frames, tuple(recipe['mean']),
                             tuple(recipe['std']),
                             jnp.dtype(description['model']['dtype']))
    outputs, cam = gradcam.outputs_and_map(model, variables, video,
                                           class_index, stage, head)
    # Nothing draws the features, which are large, nor videos of flow.
    left_out = {'stages', *(k for k in outputs if k.endswith('_video') and
                            frames.shape[-1] != 3)}
    return {k: pixels.denormalize(v, tuple(recipe['mean']),
                                  tuple(recipe['std']))
            if k.endswith('_video') else v
            for k, v in outputs.items() if k not in left_out}, cam

  data = description['config']['data']
  unit = description['model'].get('attention')
  return Explainer(
      name, description['model']['name'] + (f' with {unit}' if unit else ''),
      heads.from_plain(description['classes']), recipe,
      functools.partial(run, variables), data['frame_template'],
      data['first_frame'], data.get('labels') == 'multi')


def flow_of(view, recipe: Mapping) -> np.ndarray:
  """Returns the flow that a network sees.

  Args:
    view: uint8 [T, H, W, 2 * stack], as it was stored, or frames [T * (stack +
      1), H, W, 3], from which the network's device would compute it.
    recipe: `flow` of the pixel recipe.

  Returns:
    uint8 [T, H, W, 2 * stack].
  """
  if recipe['stored']:
    return view
  return np.asarray(_flow_of_clips(view, recipe['stack'], recipe['bound']))


_flow_of_clips = jax.jit(flow_lib.of_clips, static_argnums=(1, 2))


def same_clip(explainers: Sequence[Explainer],
              look: Callable[[Explainer], Clip]) -> Clip:
  """Makes the clip that networks are compared on.

  Args:
    explainers: the networks.
    look: function that returns the clip that a network sees.

  Returns:
    The clip.

  Raises:
    ValueError: they do not all see the same frames, cropped alike.
  """
  clip = look(explainers[0])
  for other in explainers[1:]:
    seen = look(other)
    if seen.indices != clip.indices or not (
        np.array_equal(seen.frames, clip.frames)
        and (seen.flow is None) == (clip.flow is None)
        and (clip.flow is None or np.array_equal(seen.flow, clip.flow))):
      raise ValueError(
          f'{explainers[0].name} sees {_says(clip)} and {other.name} '
          f'{_says(seen)}; networks that do not see the same pixels cannot '
          'be compared on one clip: explain them one by one.')
  return clip


def _says(clip):
  count, height, width, _ = clip.frames.shape
  what = 'frames' if clip.flow is None else (
      f'stacks of {clip.flow.shape[-1] // 2} fields of flow')
  return f'{count} {what} of {height}x{width} from frame {clip.indices[0]} on'


def explain(explainer: Explainer, clip: pictures.Clip,
            class_name: str | None = None, stage: int | None = None,
            blocks: Sequence[str] | None = None,
            head: str | None = None) -> pictures.Row:
  """Runs a network on a clip and makes panels of all that it shows.

  Args:
    explainer: the network.
    clip: the clip.
    class_name: class that Grad-CAM and class maps explain; the predicted one
      unless given.
    stage: stage of Grad-CAM, from 1; the last unless given.
    blocks: blocks whose gates are shown, see `panels.gate_panels`.
    head: whose class it is, where there are several; unless given, the first
      that has the class.

  Returns:
    What is to be drawn.

  Raises:
    ValueError: the network has no such class, stage, block or head.
  """
  index = -1
  by_head = heads.by_head(explainer.classes)
  if head is not None and '' in by_head:
    raise ValueError(f'{explainer.name} has one head; leave out --head.')
  if head is None:
    head = next((h for h, known in by_head.items() if class_name in known),
                next(iter(by_head)))
  names.check_name(f'head of {explainer.name}', head, by_head)
  if class_name is not None:
    names.check_name(f'class of {explainer.name}', class_name, by_head[head])
    index = by_head[head].index(class_name)
  seen = clip.frames if clip.flow is None else clip.flow
  outputs, cam = jax.device_get(
      explainer.run(seen[None], index, stage, *([head] if head else ())))
  if head:
    # What is drawn of a head is that of the explained one.
    logits = {h: x[0] for h, x in outputs['logits'].items()}
    outputs = {**outputs, **{kind: outputs[kind][head] for kind in (
        'logits', 'frame_logits') if kind in outputs}}
  else:
    logits = {'': outputs['logits'][0]}
  chances = metrics.sigmoid if explainer.multi else metrics.softmax
  shares = {h: chances(x) for h, x in logits.items()}
  orders = {h: np.argsort(-x, kind='stable') for h, x in shares.items()}
  index = int(orders[head][0]) if index < 0 else index
  explained = by_head[head][index]
  count = len(clip.frames)

  where = 'last stage' if stage is None else f'stage {stage}'
  drawn = [] if clip.flow is None else [
      panels.flow_panel(clip.flow, explainer.pixels['flow']['bound'])]
  drawn += [_cam_panel(f'Grad-CAM of {explained}, {where}', cam,
                      clip.frames.shape[:3])]
  drawn += panels.output_panels(outputs, index, explained, count,
                                explainer.multi)
  drawn += panels.gate_panels(outputs['gates'], blocks, count)
  best = {h: by_head[h][order[0]] for h, order in orders.items()}
  title = (f'{explainer.name} ({explainer.description}): predicts ' + '; '.join(
      f'{h} {best[h]}'.lstrip() + f', {shares[h].max():.1%}' for h in best))
  if explained != best[head] or head:
    title += (f'; explained is {head} {explained}'.replace('  ', ' ')
              + f', {shares[head][index]:.1%}')
  top = tuple(((f'{h}: ' if h else '') + by_head[h][k], float(shares[h][k]))
              for h, order in orders.items() for k in order[:_TOP])
  return pictures.Row(explainer.name, title, top, tuple(drawn))


def _cam_panel(name, cam, shape):
  steps, cam = cam.shape[1], gradcam.enlarge(cam, shape)
  largest = float(cam.max())
  notes = [f'divided by the largest, {largest:.3g}' if largest > 0 else
           'nothing speaks for the class']
  if steps != shape[0]:
    notes.append(f'{steps} time steps, interpolated')
  return panels.make_panel(name, gradcam.normalize(cam)[0], shape[0],
                           scale=(0.0, 1.0), notes=notes)


def write(out, clip: pictures.Clip, rows: Sequence[pictures.Row],
          colormap: str = 'viridis') -> list[str]:
  """Draws networks' panels as a picture, a film and a page.

  Args:
    out: folder to write `strip.png`, `movie.mp4` and `index.html` to.
    clip: the clip.
    rows: what `explain` returned, for each network.
    colormap: Matplotlib's name of the colour map.

  Returns:
    Paths of the three files.
  """
  paths = [os.path.join(out, name)
           for name in ('strip.png', 'movie.mp4', 'index.html')]
  strip = pictures.strip(clip, rows, colormap)
  strip.save(paths[0])
  pictures.movie(paths[1], clip, rows, colormap)
  with open(paths[2], 'w', encoding='utf-8') as file:
    file.write(page.page(clip, rows, colormap, strip))
  return paths


def check(out, colormap: str):
  """Checks what can be checked before networks are restored.

  Args:
    out: folder to write to; it is made if need be.
    colormap: Matplotlib's name of a colour map.

  Raises:
    ValueError: there is no such colour map, or nothing can be written there.
  """
  names.check_name('colour map', colormap, matplotlib.colormaps)
  probe = os.path.join(out, '.write')
  try:
    os.makedirs(out, exist_ok=True)
    with open(probe, 'w'):
      pass
    os.remove(probe)
  except OSError as error:
    raise ValueError(f'Nothing can be written to --out={out} '
                     f'({error.strerror}); choose another folder.') from error
