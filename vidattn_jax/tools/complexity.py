"""Parameters and operations of a network, counted without running it."""

import csv
import dataclasses
import io
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from vidattn_jax.attention import aia
from vidattn_jax.backbones import layers


@dataclasses.dataclass(frozen=True)
class Complexity:
  """Counts for one clip in evaluation.

  Attributes:
    params: trainable numbers, weights and biases.
    macs: multiply-adds of convolutions and linear layers, without biases.
    bn_elements: numbers that enter BatchNorm layers.
    pool_elements: numbers that enter and leave global average pooling layers.
  """
  params: int
  macs: int
  bn_elements: int
  pool_elements: int

  @property
  def flops(self) -> int:
    """The FLOPs of table I of "Attention in Attention".

    The counter that the paper used adds two operations for each number that
    enters a BatchNorm and one for each that a global average pooling layer
    touches to the multiply-adds. Pooling inside the attention units, ReLU,
    sigmoid and products count nothing.
    """
    return self.macs + 2 * self.bn_elements + self.pool_elements


def complexity(model: nn.Module, image_shape=None) -> Complexity:
  """Counts parameters and operations of a network.

  Args:
    model: a network of `get_model`.
    image_shape: (T, H, W, C) of one clip; that which the model is meant for
      unless given.

  Returns:
    The counts, exact.
  """
  counts = dict.fromkeys(('macs', 'bn_elements', 'pool_elements'), 0)

  def count(call, args, kwargs, context):
    y = call(*args, **kwargs)
    module = context.module
    if context.method_name != '__call__':
      return y
    if isinstance(module, (nn.Conv, nn.Dense, aia.PlaneConv)):
      counts['macs'] += _macs(module, y)
    elif isinstance(module, nn.BatchNorm):
      counts['bn_elements'] += args[0].size
    elif isinstance(module, layers.GlobalAveragePool):
      counts['pool_elements'] += args[0].size + y.size
    return y

  video = jax.ShapeDtypeStruct((1, *(image_shape or model.image_shape)),
                               jnp.float32)
  with nn.intercept_methods(count):
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
  params = sum(x.size for x in jax.tree.leaves(variables['params']))
  return Complexity(params, **counts)


def _macs(module, y):
  """Returns outputs times inputs of each: the kernel without its last axis."""
  kernel = module.get_variable('params', 'kernel')
  return y.size * math.prod(kernel.shape[:-1])


def table(rows: dict[str, Complexity], style: str = 'text') -> str:
  """Writes counts as a table.

  Args:
    rows: {name of the network: counts}.
    style: 'text' and 'markdown' round to millions and billions; 'csv' has the
      exact numbers.

  Returns:
    The table, with a line of headings.

  Raises:
    ValueError: `style` is none of these.
  """
  if style == 'csv':
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['model', 'params', 'macs', 'bn_elements',
                     'pool_elements', 'table1_flops'])
    writer.writerows([name, *dataclasses.astuple(c), c.flops]
                     for name, c in rows.items())
    return text.getvalue()
  if style not in ('text', 'markdown'):
    raise ValueError(f'There is no table style {style!r}; choose text, '
                     'markdown or csv.')
  cells = [['model', 'params (M)', 'GMACs', 'Table I GFLOPs']]
  cells += [[name, f'{c.params / 1e6:.2f}', f'{c.macs / 1e9:.2f}',
             f'{c.flops / 1e9:.2f}'] for name, c in rows.items()]
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = [[cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))]
           for row in cells]
  if style == 'text':
    return ''.join('  '.join(line).rstrip() + '\n' for line in lines)
  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  lines.insert(1, rule)
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
