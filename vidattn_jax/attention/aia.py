"""Attention in Attention: the units C, ST, CinST, STinC and their pairs.

Hao et al., "Attention in Attention: Modeling Context Correlation for
Efficient Video Classification", 2022. Where text and published code differ,
the code is followed: the maximum precedes the mean, the last product is with
the unit's input, and a pair in parallel is averaged.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from vidattn_jax.attention import gates
from vidattn_jax.backbones import layers
from vidattn_jax.ops import chains
from vidattn_jax.ops import normalized
from vidattn_jax.ops import planes

# The collections that are arguments of a unit's own gradient.
_DIFFERENTIATED = 'params', 'batch_stats'
# What each gate pools away, as an axis of [N, T, H, W, C].
AXES = {'T': 1, 'H': 2, 'W': 3, 'C': 4}

_KAIMING = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_XAVIER = nn.initializers.xavier_normal()


class Gate(nn.Module):
  """Gate over three axes, from maximum and mean along the fourth.

  The convolution slides over channels as over the other axes.

  Attributes:
    kernel_init: initialiser of the convolution.
    dtype: type of the computation; statistics are float32.
  """
  kernel_init: Callable = _KAIMING
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, pooled: jax.Array, train: bool = False) -> jax.Array:
    """Returns the gate [N, A, B, C], in (0, 1), from planes [N, 2, A, B, C]."""
    z = gates.PlaneConv(kernel_init=self.kernel_init, dtype=self.dtype,
                        name='conv')(pooled)
    gate = layers.norm_sigmoid(name='bn')(z, use_running_average=not train)
    self.sow('intermediates', 'gate', gate)
    return gate


class _Row(nn.Module):
  """Units one after the other, which may be called as one function."""

  @nn.nowrap
  def units(self):
    """Returns {path: what has the `steps` of a unit}, in order, or {}."""
    return {}

  @nn.nowrap
  def takes_clip(self, x: jax.Array) -> bool:
    """Tells whether clips like `x` may come as a `normalized.Clip`."""
    units = self.units()
    return bool(units) and chains.suits(_chain(units)[0], x)

  @nn.nowrap
  def goes_as_one(self, x: jax.Array | normalized.Clip) -> bool:
    """Tells whether to call `as_one`.

    Where gates are looked at, they may be differentiated, too; the gradient of
    `as_one` is that of its result alone.
    """
    return isinstance(x, normalized.Clip) or (
        self.takes_clip(x) and not self.is_mutable_collection('intermediates'))

  @nn.nowrap
  def as_one(self, x: jax.Array | normalized.Clip, train: bool) -> jax.Array:
    """Returns what the units return, by a function with its own gradient."""
    chain, paths = _chain(self.units())
    clip = x if isinstance(x, normalized.Clip) else normalized.Clip(x)

    def run(module, clip, call):
      def gates_of(k, pooled):
        return {axis: call(k, axis, functools.reduce(getattr, path, module),
                           pooled[axis])
                for axis, path in paths[k].items()}

      return chains.forward(chain, clip, gates_of)

    def plainly(module, clip):
      y, *_ = run(module, clip, lambda k, axis, gate, pooled: gate(
          pooled, train))
      return y

    def forward(module, clip):
      pulls = [{} for _ in paths]
      variables = {name: dict(module.variables.get(name, {}))
                   for name in _DIFFERENTIATED}

      def call(k, axis, gate, pooled):
        found, pulls[k][axis] = nn.vjp(
            lambda gate, pooled: gate(pooled, train), gate, pooled)
        return found

      y, groups, places = run(module, clip, call)
      return y, (clip, groups, places, pulls,
                 jax.tree.map(jnp.zeros_like, variables))

    def backward(residuals, g):
      clip, groups, places, pulls, zeros = residuals
      to_variables = traverse_util.flatten_dict(zeros, keep_empty_nodes=True)

      def pull(k, to_gates):
        to_planes = {}
        for axis, path in paths[k].items():
          found, to_planes[axis] = pulls[k][axis](to_gates[axis])
          to_variables.update({
              ('params', *path, *rest): leaf for rest, leaf in (
                  traverse_util.flatten_dict(found['params']).items())})
        return to_planes

      to_clip = chains.backward(chain, clip, groups, places, g, pull)
      return traverse_util.unflatten_dict(to_variables), to_clip

    # Statistics have no gradient, but what is not named here is not known where
    # the gradient is taken in another trace, as when parts are computed again.
    return nn.custom_vjp(plainly, forward, backward,
                         grad_vars=list(_DIFFERENTIATED))(self, clip)


def _chain(units):
  """Returns the chain of {path: unit}, and each step's {axis: path of gate}."""
  paths = [[{AXES[name]: (*path, name) for name in pooled}
            for pooled, _ in unit.steps] for path, unit in units.items()]
  return chains.of_units(paths), [step for unit in paths for step in unit]


class _Unit(_Row):
  """Gates in a row, each of them seeing what the ones before have weighted.

  Attributes:
    dtype: type of the computation.
  """
  dtype: jnp.dtype = jnp.float32

  # What is pooled for the gates of each step, and how their kernels begin.
  steps = ()

  def setup(self):
    for pooled, kernel_init in self.steps:
      for name in pooled:
        setattr(self, name, Gate(kernel_init, self.dtype))

  @nn.nowrap
  def units(self):
    """See the base class."""
    return {(): self}

  def __call__(self, x: jax.Array | normalized.Clip,
               train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    if self.goes_as_one(x):
      return self.as_one(x, train)
    group = {}
    for pooled, _ in self.steps:
      found, x = planes.pool_gated(
          x, group, tuple(AXES[name] for name in pooled))
      group = {AXES[name]: getattr(self, name)(found[AXES[name]], train)
               for name in pooled}
    return planes.apply_gates(x, group)


class C(_Unit):
  """The channel context gates time and space: x * gC(x)."""
  steps = (('C', _KAIMING),)


class ST(_Unit):
  """Time, height and width gate together: x * (gT + gH + gW)(x) / 3."""
  steps = (('THW', _KAIMING),)


class CinST(_Unit):
  """The gates of ST see what the gate of C has weighted.

  z = x * gC(x), then x * (gT + gH + gW)(z) / 3.
  """
  steps = ('C', _KAIMING), ('THW', _XAVIER)


class STinC(_Unit):
  """The gate of C sees what the gates of ST have weighted.

  z = x * (gT + gH + gW)(x) / 3, then x * gC(z).
  """
  steps = ('THW', _KAIMING), ('C', _XAVIER)


class Pair(_Row):
  """Two units, one after the other or side by side.

  Attributes:
    first: class of the first unit.
    second: class of the second.
    parallel: True for the mean of both; False for second(first(x)).
    dtype: type of the computation.
  """
  first: type[_Unit]
  second: type[_Unit]
  parallel: bool = False
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.eft1 = self.first(dtype=self.dtype)
    self.eft2 = self.second(dtype=self.dtype)

  @nn.nowrap
  def units(self):
    """See the base class."""
    return {} if self.parallel else {('eft1',): self.first,
                                     ('eft2',): self.second}

  def __call__(self, x: jax.Array | normalized.Clip,
               train: bool = False) -> jax.Array:
    """Returns [N, T, H, W, C], as `x`."""
    if self.parallel:
      return (self.eft1(x, train) + self.eft2(x, train)) / 2
    if self.goes_as_one(x):
      return self.as_one(x, train)
    return self.eft2(self.eft1(x, train), train)


UNITS = {
    'C': C,
    'ST': ST,
    'C->ST': functools.partial(Pair, C, ST),
    'ST->C': functools.partial(Pair, ST, C),
    'C+ST': functools.partial(Pair, C, ST, parallel=True),
    'CinST': CinST,
    'STinC': STinC,
    'CinST->STinC': functools.partial(Pair, CinST, STinC),
    'STinC->CinST': functools.partial(Pair, STinC, CinST),
    'CinST+STinC': functools.partial(Pair, STinC, CinST, parallel=True),
}
