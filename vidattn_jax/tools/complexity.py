"""Parameters and operations of a network, counted without running it."""

import csv
import dataclasses
import io
import math

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from vidattn_jax import names
from vidattn_jax.attention import gates
from vidattn_jax.attention import sparse
from vidattn_jax.backbones import layers


@dataclasses.dataclass(frozen=True)
class Complexity:
  """Counts for one clip in evaluation.

  Attributes:
    params: trainable numbers, weights and biases.
    macs: multiply-adds of convolutions and linear layers, without biases.
    bn_elements: numbers that enter BatchNorm layers.
    pool_elements: numbers that enter and leave global average pooling layers.
    bias_outputs: outputs of convolutions and linear layers that have a bias.
    relu_elements: numbers that pass a ReLU.
    window_elements: for each output of a pooling layer, the numbers that it
      looks at.
    statistics: running means and variances.
  """
  params: int = 0
  macs: int = 0
  bn_elements: int = 0
  pool_elements: int = 0
  bias_outputs: int = 0
  relu_elements: int = 0
  window_elements: int = 0
  statistics: int = 0

  def __add__(self, other):
    """Returns the sum of every count."""
    return Complexity(*(a + b for a, b in zip(
        dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

  @property
  def flops(self) -> int:
    """The FLOPs of table I of "Attention in Attention".

    The counter that the paper used adds two operations for each number that
    enters a BatchNorm and one for each that a global average pooling layer
    touches to the multiply-adds. Pooling inside the attention units, ReLU,
    sigmoid and products count nothing.
    """
    return self.macs + 2 * self.bn_elements + self.pool_elements

  @property
  def sta_flops(self) -> int:
    """The FLOPs of table III of "STA".

    One operation for each multiply-add, each bias, each number that enters a
    BatchNorm or a ReLU, and each that a pooling layer looks at. Sigmoid,
    transposed convolutions, sums of branches and products count nothing.
    """
    return (self.macs + self.bias_outputs + self.bn_elements
            + self.relu_elements + self.window_elements)

  @property
  def weight_bytes(self) -> int:
    """Size of weights and statistics in float32."""
    return 4 * (self.params + self.statistics)

  @property
  def checkpoint_bytes(self) -> int:
    """Size of a checkpoint of training: weights, statistics and momentum."""
    return 4 * (2 * self.params + self.statistics)


# Conventions by the name that a user gives, and what the table calls them.
CONVENTIONS = {'aia': ('flops', 'Table I GFLOPs'),
               'sta': ('sta_flops', 'Table III GFLOPs')}


def complexity(model: nn.Module, image_shape=None) -> Complexity:
  """Counts parameters and operations of a network.

  Args:
    model: a network of `get_model`.
    image_shape: (T, H, W, C) of one clip; that which the model is meant for
      unless given.

  Returns:
    The counts, exact.
  """
  return sum(by_stage(model, image_shape).values(), Complexity())


def by_stage(model: nn.Module, image_shape=None) -> dict[str, Complexity]:
  """Counts parameters and operations of each part of a network.

  Args:
    model: a network of `get_model`.
    image_shape: see `complexity`.

  Returns:
    {part: counts} in the order of the computation: `stem` for the backbone's
    own layers, its modules by name, then what follows it; and `attention` for
    all units, which are not counted with the modules that they stand in.
  """
  stages = {}
  sums = set()  # Paths of modules whose products stand in no layer.

  def add(path, **counts):
    if path[0] == 'backbone':
      path = path[1:] if len(path) > 2 else ('stem',)
    part = 'attention' if 'attention' in path else path[0]
    stages[part] = stages.get(part, Complexity()) + Complexity(**counts)

  def count(call, args, kwargs, context):
    y = call(*args, **kwargs)
    module = context.module
    if context.method_name != '__call__' or not module.path:
      return y
    if isinstance(module, sparse.SparseAttention):
      sums.add(module.path)
    elif isinstance(module, (nn.Conv, nn.Dense, gates.PlaneConv)):
      biased = module.has_variable('params', 'bias')
      add(module.path, macs=_macs(module, y),
          bias_outputs=y.size if biased else 0)
    elif isinstance(module, nn.BatchNorm):
      add(module.path, bn_elements=args[0].size)
    elif isinstance(module, layers.GlobalAveragePool):
      add(module.path, pool_elements=args[0].size + y.size,
          window_elements=args[0].size)
    elif isinstance(module, (layers.MaxPool, layers.AveragePool)):
      add(module.path, window_elements=y.size * math.prod(module.window))
    return y

  video = jax.ShapeDtypeStruct((1, *(image_shape or model.image_shape)),
                               jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), video)
  with nn.intercept_methods(count):
    jaxpr = jax.make_jaxpr(model.apply)(variables, video)
  if sums:
    for path, macs in _products(jaxpr.jaxpr):
      if path[1:2] in sums:
        add(path[1:], macs=macs)
  for path, size in _relus(jaxpr.jaxpr):
    add(path, relu_elements=size)
  for collection, kind in (('params', 'params'), ('batch_stats', 'statistics')):
    for path, leaf in traverse_util.flatten_dict(
        variables.get(collection, {})).items():
      add(path[:-1], **{kind: leaf.size})
  return stages


def _relus(jaxpr):
  """Yields (path of the module, size) of each ReLU of a traced function."""
  for equation in jaxpr.eqns:
    inner = [p for p in jax.tree.leaves(
        equation.params, is_leaf=lambda p: hasattr(p, 'eqns'))
             if hasattr(p, 'eqns')]
    if any(e.params.get('name') == 'relu' for p in inner for e in p.eqns):
      # 'Recognizer/backbone/layer1/block0', and the function stands for a leaf.
      _, *path = str(equation.source_info.name_stack).split('/')
      yield (*path, 'relu'), equation.outvars[0].aval.size
    else:
      for p in inner:
        yield from _relus(p)


def _products(jaxpr, above=()):
  """Yields (path of the module, multiply-adds) of each product of matrices."""
  for equation in jaxpr.eqns:
    path = (*above, *filter(None, str(
        equation.source_info.name_stack).split('/')))
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      lengths = equation.invars[0].aval.shape
      yield path, equation.outvars[0].aval.size * math.prod(
          lengths[axis] for axis in contracted)
    for part in jax.tree.leaves(equation.params,
                                is_leaf=lambda p: hasattr(p, 'eqns')):
      if hasattr(part, 'eqns'):
        yield from _products(part, path)


def _macs(module, y):
  """Returns outputs times inputs of each: the kernel without its last axis."""
  kernel = module.get_variable('params', 'kernel')
  return y.size * math.prod(kernel.shape[:-1])


def table(rows: dict[str, Complexity], style: str = 'text',
          conventions: tuple[str, ...] = ('aia',)) -> str:
  """Writes counts as a table.

  Args:
    rows: {name of the network or stage: counts}.
    style: 'text' and 'markdown' round operations to billions, as the papers
      do; 'csv' has the exact numbers.
    conventions: keys of `CONVENTIONS`, a column each.

  Returns:
    The table, with a line of headings.

  Raises:
    ValueError: `style` or a convention is none of these.
  """
  names.check_name('table style', style, ('text', 'markdown', 'csv'))
  for convention in conventions:
    names.check_name('FLOP convention', convention, CONVENTIONS)
  columns = [CONVENTIONS[convention] for convention in conventions]
  if style == 'csv':
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    fields = ('params', 'macs', 'bn_elements', 'pool_elements', 'bias_outputs',
              'relu_elements', 'window_elements', 'weight_bytes',
              'checkpoint_bytes', 'flops', 'sta_flops')
    writer.writerow(['model', *fields[:-2], 'table1_flops', 'table3_flops'])
    writer.writerows([name, *(getattr(c, field) for field in fields)]
                     for name, c in rows.items())
    return text.getvalue()
  cells = [['model', 'parameters', 'GMACs', *(head for _, head in columns),
            'weights (MB)', 'checkpoint (MB)']]
  cells += [[name, f'{c.params:,}', f'{c.macs / 1e9:.4f}',
             *(f'{getattr(c, field) / 1e9:.4f}' for field, _ in columns),
             f'{c.weight_bytes / 1e6:.1f}', f'{c.checkpoint_bytes / 1e6:.1f}']
            for name, c in rows.items()]
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = [[cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))]
           for row in cells]
  if style == 'text':
    return ''.join('  '.join(line).rstrip() + '\n' for line in lines)
  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  lines.insert(1, rule)
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
