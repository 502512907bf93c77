"""Between published weights and the variables of a model."""

import dataclasses

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from vidattn_jax import names
from vidattn_jax.backbones import resnet
from vidattn_jax.convert import files
from vidattn_jax.convert import inflate
from vidattn_jax.convert import layouts

_COLLECTIONS = ('params', 'batch_stats')
_COUNTER = 'num_batches_tracked'
# Leaves of a layer in the order in which published files have them.
_LEAVES = ('kernel', 'scale', 'bias', 'mean', 'var')


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of every name.

  Attributes:
    used: names of the source that were taken over.
    unused: names of the source that the model has no place for.
    fresh: {path in the model: why it was not taken from the source}.
    layout: the recognised layout; '' for a tree of variables.
    adapted: {path in the model: what was done to fit it}, see `inflate`.
  """
  used: tuple[str, ...]
  unused: tuple[str, ...]
  fresh: dict[str, str]
  layout: str = ''
  adapted: dict[str, str] = dataclasses.field(default_factory=dict)

  def __str__(self):
    lines = [f'{len(self.used)} used'
             + (f' (layout {self.layout})' if self.layout else '')]
    if self.adapted:
      lines.append(_listed(f'{len(self.adapted)} of them adapted', [
          f'{path} ({how})' for path, how in self.adapted.items()], limit=3))
    lines.append(_listed(f'{len(self.unused)} unused', self.unused))
    lines.append(_listed(f'{len(self.fresh)} fresh', [
        path + (f' ({why})' if why else '')
        for path, why in self.fresh.items()]))
    return '\n'.join(lines)


def _listed(head, items, limit=12):
  more = [f'... and {len(items) - limit} more'] if len(items) > limit else []
  return '\n  '.join([head, *items[:limit], *more])


def from_torch(model: nn.Module, state_dict: dict, image_shape) -> dict:
  """Turns published weights into the variables of a model.

  The layout is recognised by its names; `module.` and `num_batches_tracked`
  may be there or not.

  Args:
    model: the network, as the weights' authors built it.
    state_dict: {name: array} in PyTorch's layout of axes.
    image_shape: (T, H, W, C) of one clip.

  Returns:
    Dict of `params` and `batch_stats`, float32 NumPy arrays.

  Raises:
    ValueError: the layout is unknown, or a name is unused or missing, or a
      shape differs, or a weight is not finite; each is named.
  """
  description = _describe(model, image_shape)
  converted, report = _convert(description, state_dict)
  if report.unused or report.fresh:
    raise ValueError(
        'The weights do not fit the model. ' + str(report) + '\nBuild the '
        'model with the attention, depth and classes of the weights, or start '
        'from the file with --config.init_from, which keeps what fits.')
  _check_shapes(description.shapes, converted)
  return _unflatten(converted)


def to_torch(model: nn.Module, variables: dict, layout: str,
             like: dict | None = None) -> dict:
  """Turns the variables of a model into published names and axes.

  Args:
    model: the network.
    variables: dict of `params` and `batch_stats`.
    layout: one of `LAYOUTS`.
    like: weights in that layout that the variables come from. If given, the
      result has their names (with `module.` or without), their order, and
      what they have of `num_batches_tracked`.

  Returns:
    {name: float32 array}, with `num_batches_tracked` 0 if the published files
    have it.

  Raises:
    ValueError: there is no such layout, or it is that of another network.
  """
  names.check_name('layout', layout, layouts.LAYOUTS)
  table = layouts.LAYOUTS[layout]
  description = _describe(model, model.image_shape)
  fitting = _fitting(description)
  if layout not in fitting:
    raise ValueError(
        f'The layout {layout} is of weights of {table.backbone}, the model is '
        f'a {description.backbone}; choose {" or ".join(fitting)}.')
  state_dict = {}
  for path, array in sorted(_flatten(variables).items(),
                            key=lambda item: description.place(item[0])):
    name = layouts.torch_name(_below(path), table)
    shifted = _below(path).removesuffix('/conv1/kernel') in description.shifted
    if table.net and shifted:
      name = name.removesuffix('.weight') + '.net.weight'
    if not model.dropout:
      name = name.replace('new_fc.', 'base_model.fc.')
    inverse = np.argsort(layouts.axes(path, array.ndim))
    name = table.prefix + name
    state_dict[name] = _contiguous(np.asarray(array).transpose(inverse))
    if table.counters and name.endswith('.running_var'):
      counter = name.removesuffix('running_var') + _COUNTER
      state_dict[counter] = np.zeros((), np.int64)
  return state_dict if like is None else _named_like(like, state_dict)


def layouts_of(model: nn.Module) -> list[str]:
  """Returns the layouts in which weights of a model were published.

  Args:
    model: the network.
  """
  return _fitting(_describe(model, model.image_shape))


def _fitting(description):
  return [name for name, layout in layouts.LAYOUTS.items()
          if layout.backbone == description.backbone]


def _named_like(like, state_dict):
  """Returns the weights under the names, and in the order, of `like`."""
  ours = {layouts.plain_name(name): array
          for name, array in state_dict.items()}
  return {name: np.asarray(array) if name.endswith(_COUNTER)
          else ours[layouts.plain_name(name)]
          for name, array in like.items()
          if name.endswith(_COUNTER) or layouts.plain_name(name) in ours}


def load_into(model: nn.Module, fresh: dict, source,
              inflation: str = 'mean') -> tuple[dict, Report]:
  """Starts a model from weights in a published layout.

  Kernels of a 2D network become those of a 3D network with the same names,
  those of RGB those of flow; the report says so.

  Args:
    model: the network.
    fresh: its initial variables; what the file lacks stays as it is there.
    source: a file, see `load_file`, or {name: array}.
    inflation: how 2D kernels become 3D, see `inflate.inflate`.

  Returns:
    (variables, report), as `merge`.

  Raises:
    ValueError: the file cannot be used, or nothing in it fits, or a shape
      other than the head's differs, or a weight is not finite.
  """
  description = _describe(model, model.image_shape)
  if not isinstance(source, dict):
    source = files.load_file(source)
  converted, found = _convert(description, source)
  converted, adapted = inflate.adapt(description.shapes, converted, inflation)
  merged, report = merge(fresh, _unflatten(converted))
  return merged, dataclasses.replace(
      report, unused=found.unused, layout=found.layout, adapted=adapted)


def num_classes(model: nn.Module, state_dict: dict) -> int | None:
  """Returns the number of classes that weights in a published layout are for.

  Args:
    model: the network, with any number of classes.
    state_dict: {name: array}.

  Returns:
    The number; None if there is no classifier among the weights.

  Raises:
    ValueError: the layout is unknown, or that of another network.
  """
  converted, _ = _convert(_describe(model, model.image_shape), state_dict)
  head = converted.get('params/head/bias')
  return None if head is None else len(head)


# What is said of weights that `to_rgb` has turned.
TURNED = ('The weights are for blue, green, red; their first layer was turned '
          'to take RGB.')


def to_rgb(model: nn.Module, variables: dict,
           report: Report) -> tuple[dict, bool]:
  """Turns weights that were published for blue, green, red to take RGB.

  Args:
    model: the network.
    variables: what `load_into` returned, which takes what the file's does.
    report: the same.

  Returns:
    (the variables, whether they were turned.)
  """
  description = _describe(model, model.image_shape)
  first = description.first
  turned = (bool(report.layout) and layouts.LAYOUTS[report.layout].bgr
            and first not in report.fresh
            and description.shapes[first].shape[-2] == 3)
  return swap_colours(model, variables) if turned else variables, turned


def swap_colours(model: nn.Module, variables: dict) -> dict:
  """Turns weights for blue, green, red into weights for RGB, and back.

  Args:
    model: the network.
    variables: dict of `params` and `batch_stats`.

  Returns:
    The variables, with the input channels of the first convolution reversed.
  """
  first = _describe(model, model.image_shape).first
  leaves = _flatten(variables)
  leaves[first] = _contiguous(leaves[first][..., ::-1, :])
  return _unflatten(leaves)


def merge(fresh: dict, weights: dict) -> tuple[dict, Report]:
  """Takes over the weights that a model has a place for.

  Args:
    fresh: initial variables of the model: dict of `params` and `batch_stats`.
    weights: variables of another model, or part of them.

  Returns:
    (variables, report): leaves of `weights` where there are, 2D kernels
    inflated and those of RGB made fit for flow as `inflate.adapt` does it; of
    `fresh` elsewhere and in a head for another number of classes.

  Raises:
    ValueError: nothing fits, or a shape other than the head's differs, or a
      weight is not finite; the leaves are named.
  """
  ours, theirs = _flatten(fresh), _flatten(weights)
  other_head = {
      _module(path): f'{shape[-1]} classes here, {theirs[path].shape[-1]} there'
      for path, shape in ((p, tuple(x.shape)) for p, x in ours.items())
      if _is_head(path) and path in theirs
      and tuple(theirs[path].shape) != shape}
  taken = {path: leaf for path, leaf in theirs.items()
           if path in ours and _module(path) not in other_head}
  taken, adapted = inflate.adapt(ours, taken)
  _check_shapes(ours, taken)
  _check_finite(taken)
  if not any(path.startswith('params/') for path in taken):
    raise ValueError(
        'Nothing in the weights fits the model: they have '
        f'{", ".join(sorted(theirs)[:3])}, it has '
        f'{", ".join(sorted(ours)[:3])}. Give weights of the same backbone.')
  merged = {path: taken.get(path, leaf) for path, leaf in ours.items()}
  return _unflatten(merged), Report(
      used=tuple(taken),
      unused=tuple(path for path in theirs if path not in ours),
      fresh={path: other_head.get(_module(path), '') for path in sorted(
          ours, key=lambda p: (not _is_head(p), p)) if path not in taken},
      adapted=adapted)


@dataclasses.dataclass(frozen=True)
class _Description:
  """What converting needs to know of a model.

  Attributes:
    shapes: {path of the leaf: its shape and type}.
    order: paths of the modules, in the order in which they are called.
    shifted: paths of the blocks that shift.
    backbone: name of the backbone's class.
  """
  shapes: dict[str, jax.ShapeDtypeStruct]
  order: dict[str, int]
  shifted: frozenset[str]
  backbone: str

  @property
  def first(self):
    """The path of the first convolution's kernel."""
    return min((path for path, leaf in self.shapes.items()
                if path.endswith('/kernel') and len(leaf.shape) >= 4),
               key=lambda path: self.order[_module(_below(path))])

  def place(self, path):
    """Returns the key that sorts leaves as published files do."""
    module, _, leaf = _below(path).rpartition('/')
    return (self.order.get(module, len(self.order)),
            _LEAVES.index(leaf) if leaf in _LEAVES else -1)


def _describe(model, image_shape):
  """Describes a model, for clips of a shape, without running it."""
  frames, height, width, _ = image_shape
  model = model.clone(num_frames=frames, crop_size=(height, width))
  modules = {}

  def note(call, args, kwargs, context):
    modules.setdefault('/'.join(context.module.path), context.module)
    return call(*args, **kwargs)

  video = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  with nn.intercept_methods(note):
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
  return _Description(
      _flatten(variables), {path: i for i, path in enumerate(modules)},
      frozenset(path for path, module in modules.items()
                if isinstance(module, resnet.Block) and module.shift),
      type(modules.get('backbone')).__name__)


def _convert(description, state_dict):
  """Returns ({path: array}, report) of all that has a place by its name."""
  shapes = description.shapes
  given = {layouts.plain_name(name): name for name in state_dict
           if not name.endswith(_COUNTER)}
  tables = {
      layout: {layouts.torch_name(_below(path), table): path
               for path in shapes}
      for layout, table in layouts.LAYOUTS.items()}

  counted = len(given) < len(state_dict)
  # The first convolution's; units may have others.
  rank = next((array.ndim for array in state_dict.values()
               if np.ndim(array) >= 4), 0)

  def likeness(layout):
    table = layouts.LAYOUTS[layout]
    return (len(given.keys() & tables[layout].keys()),
            table.net == _has_net(state_dict), table.rank == rank,
            table.counters == counted)

  layout = max(tables, key=likeness)
  table = tables[layout]
  fitting = given.keys() & table.keys()
  other = layouts.model_of(given.keys() - fitting)
  if fitting and not layouts.LAYOUTS[layout].fits(description.backbone):
    # A few names are common: what fits by accident says nothing.
    residual = 'layer1.0.conv1.weight' in given.keys() - fitting
    other = other or ('a residual network' if residual
                      else layouts.LAYOUTS[layout].backbone)
  if other:
    raise ValueError(
        f'By their names and axes the weights are of {other}, the model is a '
        f'{description.backbone}; build the model that they are of.')
  if not fitting:
    raise ValueError(
        'The names of the weights follow no known layout: '
        f'{", ".join(list(state_dict)[:3])}. Known are '
        f'{", ".join(layouts.LAYOUTS)}.')
  _check_shift(state_dict, table, description.shifted)
  converted = {}
  for plain, name in given.items():
    if plain in table:
      array = np.asarray(state_dict[name])
      path = table[plain]
      if len(shapes[path].shape) == 1 and array.ndim == 2 == 1 + len(array):
        array = array[0]  # Old files have rows, [1, C].
      axes = layouts.axes(path, array.ndim)
      if array.ndim == len(axes):
        array = array.transpose(axes)
      converted[path] = _contiguous(array)
  _check_finite(converted)
  return converted, Report(
      used=tuple(name for plain, name in given.items() if plain in table),
      unused=tuple(name for plain, name in given.items() if plain not in table),
      fresh={path: f'there is no {name}' for name, path in table.items()
             if path not in converted},
      layout=layout)


def _contiguous(array):
  """Returns a float32 copy of as many axes, 0 of them, too."""
  return np.array(array, np.float32, order='C')


def _has_net(state_dict):
  return any('.net.' in name for name in state_dict)


def _check_shift(state_dict, table, shifted):
  """Compares the blocks that weights and model shift, where they say it."""
  theirs = {_below(table[layouts.plain_name(name)]).removesuffix(
      '/conv1/kernel') for name in state_dict
            if '.net.' in name and layouts.plain_name(name) in table}
  if theirs and theirs != shifted:
    block = min(theirs ^ shifted)
    raise ValueError(
        f'The weights are of a network that shifts {len(theirs)} blocks in '
        f'time, the model shifts {len(shifted)}; they differ first at {block}. '
        'Take a tsm_ model of the same depth, and for ResNet-101 the same '
        'placement.')


def _check_shapes(expected, given):
  lines = [f'{path}: {tuple(expected[path].shape)} in the model, '
           f'{tuple(array.shape)} in the weights'
           for path, array in given.items()
           if tuple(array.shape) != tuple(expected[path].shape)]
  if lines:
    flat = any(array.ndim + 1 == len(expected[path].shape)
               for path, array in given.items())
    if all(_is_head(line.split(':')[0]) for line in lines):
      mend = ('Build the model with num_classes of the weights, or start from '
              'them with --config.init_from, which replaces the head.')
    else:
      mend = ('Build the model with the width, depth, modality, clip length '
              'and crop size of the weights'
              + (', or start a network with their widths from them with '
                 '--config.init_from, which inflates 2D kernels.' if flat
                 else '.'))
    raise ValueError(
        _listed(f'{len(lines)} shapes differ:', lines) + '\n' + mend)


def _check_finite(arrays):
  bad = [path for path, array in arrays.items()
         if not np.isfinite(np.asarray(array, np.float32)).all()]
  if bad:
    raise ValueError(_listed('The weights are damaged; not all numbers are '
                             'finite in', bad) + '\nTake another file.')


def _is_head(path):
  return _below(path).startswith('head')


def _below(path):
  """Returns the path below the collection."""
  return path.partition('/')[2]


def _module(path):
  return path.rpartition('/')[0]


def _flatten(variables):
  return traverse_util.flatten_dict(
      {c: variables[c] for c in _COLLECTIONS if c in variables}, sep='/')


def _unflatten(leaves):
  tree = traverse_util.unflatten_dict(leaves, sep='/')
  return {c: tree.get(c, {}) for c in _COLLECTIONS}
