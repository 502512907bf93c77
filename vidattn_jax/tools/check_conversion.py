"""Compares a converted network with the same in PyTorch."""

import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidattn_jax import convert

# Largest difference, in parts of the largest value, that counts as equal.
TOLERANCE = 1e-4
_COUNTER = 'num_batches_tracked'


# What published names begin with, and those of the networks here do not.
_BEGINNINGS = r'^(module\.)?(base_model\.)?'


def twin(arguments: dict, model: nn.Module):
  """Builds the network in PyTorch.

  Args:
    arguments: those of `get_model`.
    model: the network.

  Returns:
    (PyTorch's network, the layout that its names follow).

  Raises:
    ValueError: torch is not installed, or there is no such network in PyTorch
      here.
  """
  try:
    import torch  # noqa: F401
  except ImportError as error:
    raise ValueError('--check takes torch, which is not installed; install '
                     'it, or leave --check out.') from error
  from vidattn_jax.convert import torch_networks
  frames, *_, channels = model.image_shape
  if arguments.get('width', 1.0) != 1.0:
    raise ValueError('--check knows networks of full width only; leave it out.')
  if 'backbone' in arguments:
    raise ValueError('--check knows tstam on its own backbone only; leave it '
                     'out.')
  try:
    network, layout = torch_networks.build(
        arguments['name'], model.num_classes, frames, channels,
        arguments.get('shortcut'))
  except KeyError as error:
    raise ValueError(f'--check knows no {error} in PyTorch; leave it '
                     'out.') from error
  _place_units(network, arguments, model)
  return network, layout


def check(arguments: dict, model: nn.Module, variables: dict,
          file: dict | None = None, seed: int = 0) -> dict[str, float]:
  """Runs a network here and in PyTorch, on the same weights and clip.

  Args:
    arguments: those of `get_model`.
    model: the network.
    variables: dict of `params` and `batch_stats`.
    file: {name: array}, the published weights that the variables are from.
      Where a name is that of the network in PyTorch, the array goes there as
      it is, so that the check covers names and axes of the conversion. Other
      weights come from `variables`, and their names are taken on trust.
    seed: of the clip's standard normal numbers.

  Returns:
    {'stage 1', ..., 'logits': largest difference in parts of the largest value
    of PyTorch's}.

  Raises:
    ValueError: see `twin`.
  """
  network, layout = twin(arguments, model)
  import torch
  known = network.state_dict()
  prefix = convert.LAYOUTS[layout].prefix
  arrays = {name.removeprefix(prefix): array for name, array in
            convert.to_torch(model, variables, layout).items()}
  head = 'last_linear.' if 'last_linear.bias' in known else 'fc.'
  for name, array in (file or {}).items():
    name = re.sub(_BEGINNINGS, '', name).replace('.net.', '.')
    name = re.sub(r'^new_fc\.', head, name)
    if name in known and known[name].shape == array.shape:
      arrays[name] = array
  network.load_state_dict({
      **{name: value for name, value in known.items()
         if name.endswith(_COUNTER)},
      **{name: torch.from_numpy(np.array(array))
         for name, array in arrays.items()}})
  network.eval()
  frames, height, width, channels = model.image_shape
  video = np.random.default_rng(seed).standard_normal(
      (1, frames, height, width, channels)).astype(np.float32)
  with torch.no_grad():
    logits = network(torch.from_numpy(np.moveaxis(video, -1, 1).copy()))
  theirs = [*(_channels_last(stage.numpy(), frames)
              for stage in network.stages), logits.numpy()]
  with jax.default_matmul_precision('highest'):
    outputs = jax.jit(lambda v, x: model.apply(v, x, capture=True))(
        variables, jnp.asarray(video))
  ours = [*outputs['stages'], outputs['logits']]
  names = [*(f'stage {i}' for i in range(1, len(ours))), 'logits']
  return {name: float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())
          for name, a, b in zip(names, ours, theirs, strict=True)}


def _channels_last(x, frames):
  """Turns [N, C, t, h, w], or frames [N * T, C, h, w], to [N, T, h, w, C]."""
  if x.ndim == 4:
    return np.moveaxis(x.reshape(-1, frames, *x.shape[1:]), 2, -1)
  return np.moveaxis(x, 1, -1)


def _place_units(network, arguments, model):
  """Puts PyTorch's attention units where the model has them."""
  name = arguments.get('attention')
  if not name:
    return
  from vidattn_jax.convert import torch_networks
  options = dict(arguments.get('attention_options') or {})
  if options.pop('near_identity', False) or options.pop('pool', False):
    raise ValueError('--check knows no units with near_identity or pool; '
                     'leave it out.')
  met = {}

  def note(call, args, kwargs, context):
    module = context.module
    if module.path and module.path[-1] == 'attention' and (
        context.method_name == '__call__'):
      met[module.path] = args[0].shape
    return call(*args, **kwargs)

  video = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
  with nn.intercept_methods(note):
    jax.eval_shape(model.init, jax.random.key(0), video)
  for path, (_, t, h, w, c) in met.items():
    block = network
    for part in path[1:-1]:  # 'layer1', 'block0'
      block = getattr(block, part.removeprefix('block'), None)
    if not isinstance(block, torch_networks.Block):
      raise ValueError('--check knows units in residual blocks of tsn_, tsm_, '
                       'r3d_ and resnext3d_ only; leave it out.')
    units = _units(name, (c, t, h, w), options)
    for key, unit in units.items():
      setattr(block, key, unit)
    block.units = tuple(units)
    block.position = model.backbone.keywords['position']
    block.parallel = '+' in name
    block.frames = t if isinstance(network, torch_networks.FrameResNet) else 0


def _units(name, shape, options):
  """Returns {attribute: module} of a unit in PyTorch."""
  from vidattn_jax.convert import torch_units
  channels, frames = shape[:2]
  if name in ('STA', 'TA', 'SA'):
    return {'sta': torch_units.STA(name, shape, **options)}
  if name == 'STC':
    return {'sta': torch_units.STC(channels, frames, **options)}
  if name.startswith(('SE', 'GE', 'S3D', 'CBAM')):
    return {'gate': torch_units.Gate(name, channels, **options)}
  kinds = name.replace('->', '+').split('+')
  if name == 'CinST+STinC':
    kinds.reverse()  # STinC has the first name.
  if len(kinds) == 1:
    return {'eft': torch_units.AIA(name)}
  return {f'eft{i}': torch_units.AIA(kind)
          for i, kind in enumerate(kinds, 1)}


def table(differences: dict[str, float]) -> str:
  """Writes differences as a table, a line each.

  Args:
    differences: as `check` returns them.
  """
  lines = ['largest difference to PyTorch, in parts of the largest value']
  lines += [f'{name:8}  {value:.1e}' for name, value in differences.items()]
  return '\n'.join(lines) + '\n'


def confirm(differences: dict[str, float]):
  """Raises a ValueError if differences are too large to be rounding.

  Args:
    differences: as `check` returns them.
  """
  name, worst = max(differences.items(), key=lambda item: item[1])
  if not worst < TOLERANCE:
    raise ValueError(
        f'The networks differ by {worst:.1e} in {name}, which is more than '
        f'rounding ({TOLERANCE:g}): the weights are of another network.')
