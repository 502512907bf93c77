"""BatchNorm that keeps its running statistics in training."""

from flax import linen as nn


def is_below(path: str, prefixes) -> bool:
  """Tells whether a path, 'a/b/c', is one of the prefixes or lies below it."""
  return any(f'{path}/'.startswith(p.rstrip('/') + '/') for p in prefixes)


def is_frozen(path: str, freeze) -> bool:
  """Tells whether parameters, or a layer's statistics, stay as they are.

  Args:
    path: 'a/b/c'.
    freeze: prefixes of what is frozen, and, as '-name', names of modules in it
      that are not.
  """
  left_out = {p[1:] for p in freeze if p.startswith('-')}
  return is_below(path, [p for p in freeze if not p.startswith('-')]) and (
      not left_out.intersection(path.split('/')))


def frozen_statistics(freeze: tuple[str, ...] = (), partial_bn: bool = False):
  """Makes some BatchNorm layers use, and keep, their running statistics.

  Args:
    freeze: see `is_frozen`; such as ('backbone/bn1', 'backbone/layer1').
    partial_bn: freeze all of the backbone's layers but the first. Those of
      attention units go on learning.

  Returns:
    Context manager, for the call of the modules that hold the layers.
  """
  met = []

  def keeps(path):
    # S-CNN has two networks, each with a backbone.
    inside = 'backbone' in path[:2] and 'attention' not in path
    if inside:
      met.append(path)
    return is_frozen('/'.join(path), freeze) or (
        partial_bn and inside and path != met[0])

  def interceptor(call, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm) and (
        context.method_name == '__call__' and keeps(context.module.path)):
      kwargs = {**kwargs, 'use_running_average': True}
    return call(*args, **kwargs)

  return nn.intercept_methods(interceptor)
