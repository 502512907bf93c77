"""From published weight files to checkpoints, and back."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import ml_collections

import vidattn_jax
from vidattn_jax import convert
from vidattn_jax.tools import check_conversion
from vidattn_jax.tools import networks
from vidattn_jax.training import checkpoint
from vidattn_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Pixels:
  """What published weights expect to see.

  Attributes:
    resize: short side, or height and width, before cropping; None for the
      crop size.
    mean: of the channels R, G, B on [0, 255].
    std: the same.
    consecutive: a clip is of frames in a row, not spread over the video.
    average: what is averaged over the clips of a video.
    flow_mean: of flow in 8 bits.
  """
  resize: int | tuple[int, int] | None = 256
  mean: tuple[float, ...] = (123.675, 116.28, 103.53)
  std: tuple[float, ...] = (58.395, 57.12, 57.375)
  consecutive: bool = False
  average: str = 'logits'
  flow_mean: float = 128.0


_IMAGENET = Pixels()
_KINETICS = Pixels(None, (114.7748, 107.7354, 99.475), (1.0,) * 3,
                   consecutive=True, average='probabilities')
_SPORTS = Pixels((128, 171), (102.0, 98.0, 90.0), (1.0,) * 3,
                 consecutive=True)
_CAFFE = Pixels(256, (128.0, 117.0, 104.0), (1.0,) * 3)
_SLOW = Pixels(256, (114.75,) * 3, (57.375,) * 3, consecutive=True)
# By layout; as the codes that the weights come from prepare their clips.
PIXELS = {
    'torchvision': _IMAGENET, 'tsn': _IMAGENET, 'tsm': _IMAGENET,
    'aia': _IMAGENET, 'mmaction2': _IMAGENET, 'r3d': _KINETICS,
    'mars': dataclasses.replace(_KINETICS, average='logits', flow_mean=127.5),
    'pytorchvideo': _SLOW, 'slowfast': _SLOW, 'c3d': _SPORTS,
    'c3d_sports1m': _SPORTS,
    'p3d': dataclasses.replace(_IMAGENET, resize=182, consecutive=True),
    'bninception': _CAFFE, 'tsn_bninception': _CAFFE, 'tstam': _CAFFE,
    'st_abn': _IMAGENET,
}


def settings(arguments: dict, pixels: Pixels) -> ml_collections.ConfigDict:
  """Returns the part of a configuration that describes a clip.

  Args:
    arguments: those of the network.
    pixels: what its weights expect.
  """
  model = state_lib.build_model(arguments)
  frames, height, width, channels = model.image_shape
  mean, std = pixels.mean, pixels.std
  if model.modality == 'flow':
    # As stored: no motion is the middle of 8 bits, and nothing is divided.
    mean, std = (pixels.flow_mean,), (1.0,)
  return ml_collections.ConfigDict({
      'model': {'num_frames': frames, 'crop_size': (height, width)},
      'data': {
          'resize': _enlarged(pixels.resize, height, width),
          'resampler': 'pillow',  # as the published codes
          'dense_span': frames, 'rotate': True, 'short_clips': 'published',
          'frames_by': 'ordinal', 'frame_rate': 0.0,
          'mean': tuple(m / 255 for m in mean),
          'std': tuple(s / 255 for s in std),
          'modality': model.modality, 'flow_root': '', 'flow_bound': 20.0,
          'flow_stack': channels // 2, 'flow_size': 0,
          'frame_template': '{:05d}.jpg', 'first_frame': 1},
      'eval': {
          'num_frames': 0, 'crop_size': (0, 0), 'resize': 0, 'crops': 1,
          'clips': 10 if pixels.consecutive else 1,
          'sampling': 'dense' if pixels.consecutive else 'segment',
          'average': pixels.average}})


def _enlarged(resize, height, width):
  """Returns the size before cropping, not below that of the crop."""
  if isinstance(resize, tuple):
    return max(resize[0], height), max(resize[1], width)
  return max(resize or 0, height, width)


def to_checkpoint(path, arguments: dict, out, pixel_recipe, *,
                  classes=None, partial: bool = False,
                  inflation: str = 'mean', check: bool = False,
                  report=print):
  """Writes the weights of a file as a checkpoint that describes itself.

  Args:
    path: a `.pth`, `.pt` or `.safetensors` file in a published layout.
    arguments: those of `get_model`; `num_classes` may be left out for that of
      the file, and another one leaves the head fresh.
    out: directory for the checkpoint; it must hold none.
    pixel_recipe: function that makes the recipe of a configuration.
    classes: class names; their numbers unless given.
    partial: write it even if the file lacks weights of the network beside
      its head (they are fresh), or has others (they are dropped).
    inflation: see `convert.inflate.inflate`.
    check: compare with the same network in PyTorch before writing.
    report: function that takes a sentence.

  Returns:
    (the network, its variables).

  Raises:
    ValueError: the file cannot be used, does not fit, `out` is taken, or the
      check fails or cannot be made; nothing is written then.
  """
  if os.path.isfile(out):
    raise ValueError(f'{out} is a file; give a directory.')
  if checkpoint.exists(out):
    raise ValueError(f'{out} holds a checkpoint; give another directory.')
  if hasattr(arguments.get('num_classes'), 'keys'):
    raise ValueError(
        'Published weights have one head, the network has '
        f'{len(arguments["num_classes"])}; convert them with one number of '
        'classes, or start from the file with --config.init_from, which leaves '
        'the heads fresh.')
  model, arguments = networks.build(arguments)
  if check:
    check_conversion.twin(arguments, model)
  weights = convert.load_file(path)
  if 'num_classes' not in arguments:
    found = convert.num_classes(model, weights)
    model, arguments = networks.build(arguments, num_classes=found)
  count = model.num_classes
  classes = list(classes or map(str, range(count)))
  if len(classes) != count:
    raise ValueError(f'There are {len(classes)} class names for the {count} '
                     'classes of the weights.')
  init = functools.partial(state_lib.init_variables, model, jax.random.key(0))
  variables, found = convert.load_into(model, jax.eval_shape(init), weights,
                                       inflation)
  report(f'{path}: {found}')
  missing = [name for name, why in found.fresh.items() if 'classes' not in why]
  if (missing or found.unused) and not partial:
    raise ValueError(
        f'{len(missing)} weights of the network are not in {path} and '
        f'{len(found.unused)} of the file are not in the network; name the '
        'network that the weights are of (--model, --attention), or take what '
        'fits with --partial.')
  if found.fresh:
    # Drawn all at once: layer by layer takes a minute.
    variables, _ = convert.load_into(model, jax.jit(init)(), weights, inflation)
  if check:
    differences = check_conversion.check(arguments, model, variables, weights)
    report(check_conversion.table(differences))
    check_conversion.confirm(differences)
  variables, turned = convert.to_rgb(model, variables, found)
  if turned:
    report(convert.TURNED)
  config = settings(arguments, PIXELS[found.layout])
  _write(out, variables, {
      'format': 1, 'step': 0, 'model': arguments, 'classes': classes,
      'pixels': pixel_recipe(config), 'config': config.to_dict(),
      'data': {'source': os.path.basename(str(path)), 'layout': found.layout},
      'version': vidattn_jax.__version__})
  return model, variables


def _write(out, variables, description):
  variables = jax.tree.map(jnp.asarray, variables)
  try:
    checkpoints = checkpoint.Checkpoints(out)
  except OSError as error:
    raise ValueError(f'{out} cannot be written: {error}.') from error
  checkpoints.save(state_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=variables['params'],
      batch_stats=variables['batch_stats'], opt_state={}, ema={}, plateau={}),
                   description)
  checkpoints.close()


def to_file(path, out, layout: str | None = None, which='best', report=print):
  """Writes a checkpoint as a weight file in a published layout.

  Args:
    path: a workdir or a checkpoint's folder.
    out: ends in `.safetensors`, or in `.pth` or `.pt`, which take torch.
    layout: one of `convert.LAYOUTS`; that from which the checkpoint came
      unless given. The first layer takes blue, green, red where the layout's
      does.
    which: 'best', 'latest' or a step.
    report: function that takes a sentence.

  Raises:
    ValueError: there is no such checkpoint or layout, or the file cannot be
      written.
  """
  variables, description, step = checkpoint.load(path, which, report)
  model = state_lib.build_model(description['model'])
  layout = layout or description['data'].get('layout')
  if layout is None:
    fitting = convert.layouts_of(model)
    raise ValueError(f'Say in which layout with --layout: '
                     f'{" or ".join(fitting)}.')
  # `to_torch` refuses layouts that there are not.
  known = convert.LAYOUTS.get(layout)
  if known and known.bgr and model.modality == 'rgb':
    variables = convert.swap_colours(model, variables)
  weights = convert.to_torch(model, variables, layout)
  convert.save_file(out, weights)
  report(f'{len(weights)} tensors of step {step} in the layout {layout} '
         f'written to {out}.')
