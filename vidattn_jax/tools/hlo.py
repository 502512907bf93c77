"""Reads compiled programs: what they exchange, move and multiply.

The compiler's own counts have what stands in a loop once. Here it counts as
often as the loop runs, where the program says so or counts up to a constant.
"""

import collections
import dataclasses
import functools
import math
import re

import numpy as np

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
          's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
_KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
          'collective-permute')
_COMPUTATION = re.compile(
    r'^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \([^\n]*\{$'
    r'(?P<body>.*?)^\}',
    re.MULTILINE | re.DOTALL)
_INSTRUCTION = re.compile(
    r'\s+(?P<root>ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) '
    r'(?P<kind>[\w\-]+)\((?P<rest>.*)')
_OPERAND = re.compile(r'%([\w.\-]+)')
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?')
_GROUPS = re.compile(r'replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])')
# Where operands end: what follows are attributes.
_ATTRIBUTES = re.compile(r'\)(?:, [\w\-]+=|$)')
_CALLED = re.compile(r'(?:body|calls|to_apply)=%([\w.\-]+)')
_CONDITION = re.compile(r'condition=%([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}|'
                       r'(?:true|false)_computation=%([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INDEX = re.compile(r'index=(\d+)')
_WINDOW = re.compile(r'window=\{([^}]*)\}')
_LABELS = re.compile(r'dim_labels=(\w+)_(\w+)->(\w+)')
_CONTRACTED = re.compile(r'lhs_contracting_dims=\{([\d,]*)\}')
# What a kernel says of itself, see `pallas.CostEstimate`.
_OF_KERNEL = re.compile(
    r'"cost_estimate":\{[^}]*"bytes_accessed":"(\d+)"')
# What moves nothing.
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast')
# What a number is the same after.
_SAME = ('copy', 'bitcast', 'convert', 'copy-done', 'copy-start')
_ON_CHIP = 'S(1)'


@dataclasses.dataclass(frozen=True)
class Collective:
  """One kind of exchange between devices.

  Attributes:
    kind: such as 'all-reduce'.
    group: how many devices take part in each.
    count: how many there are in a run of the program.
    bytes: of their results, in all.
  """
  kind: str
  group: int
  count: int
  bytes: int

  @property
  def sent(self) -> float:
    """Bytes that each device sends, by the ring's algorithm."""
    n = max(self.group, 1)
    return self.bytes * {
        'all-reduce': 2 * (n - 1) / n, 'all-gather': (n - 1) / n,
        'reduce-scatter': n - 1, 'all-to-all': (n - 1) / n,
        'collective-permute': 1}[self.kind]


@dataclasses.dataclass(frozen=True)
class _Instruction:
  """One line of a program.

  Attributes:
    name: of its result.
    kind: what it does, such as 'fusion'.
    arrays: (type, lengths, layout) of its results.
    operands: names of what it reads.
    rest: all that follows its kind.
    root: whether it gives the result of its computation.
  """
  name: str
  kind: str
  arrays: tuple
  operands: tuple[str, ...]
  rest: str
  root: bool

  @functools.cached_property
  def called(self) -> list[str]:
    """Names of the computations that it calls."""
    found = _CALLED.findall(self.rest)
    for branches in _BRANCHES.findall(self.rest):
      found += re.findall(r'[\w.\-]+', ' '.join(branches))
    return found


class Program:
  """A compiled program.

  Attributes:
    text: as `compiled.as_text()` returns it.
  """

  def __init__(self, text: str):
    """Reads a program.

    Args:
      text: see the attribute.
    """
    self.text = text
    self._entry, self._computations = None, {}
    for match in _COMPUTATION.finditer(text):
      self._computations[match['name']] = _instructions(match['body'])
      if match['entry']:
        self._entry = match['name']

  def collectives(self, num_devices: int) -> list[Collective]:
    """Returns the exchanges between devices.

    Args:
      num_devices: number of devices, where a line does not name its groups.

    Returns:
      One entry for each kind and size of group, largest first.
    """
    found = collections.defaultdict(lambda: [0, 0])
    for name, times in self._times(True).items():
      for line in self._computations[name]:
        group, size = _exchanged(line, num_devices)
        if group and times:
          sums = found[line.kind.removesuffix('-start'), group]
          sums[0] += times
          sums[1] += times * size
    return sorted((Collective(kind, group, *sums)
                   for (kind, group), sums in found.items()),
                  key=lambda c: -c.bytes)

  def memory_traffic(self, loops: bool = True) -> int:
    """Counts the bytes that are moved to and from a chip's memory.

    The compiler's count of `bytes accessed` also has what is read and written
    in the fast memory on the chip, where that of TPUs keeps arrays that fit.
    Here every instruction reads its operands and writes its results once,
    kernels too, where they are not there; a move from one memory to the other
    counts once; of branches the dearest counts.

    Args:
      loops: False to count loops once.
    """
    return self._traffic(self._entry, loops)

  def products(self, loops: bool = True) -> int:
    """Counts operations of convolutions and matrix products.

    Args:
      loops: False to count loops once.
    """
    return sum(times * _products(self._computations[name])
               for name, times in self._times(loops).items())

  def of_kernels(self) -> float:
    """Returns the bytes that our own kernels say they read and write."""
    return sum(times * float(said)
               for name, times in self._times(True).items()
               for line in self._computations[name]
               for said in _OF_KERNEL.findall(line.rest))

  @property
  def open_loops(self) -> int:
    """How many loops there are of which it is not known how often they run."""
    return sum(
        line.kind == 'while' and self._trips(name, line) is None
        for name in self._times(True) for line in self._computations[name])

  def _times(self, loops):
    """Returns how often each computation runs: {name: times}."""
    times = collections.Counter()

    def visit(name, number):
      times[name] += number
      for line in self._computations[name]:
        inner = number
        if loops and line.kind == 'while':
          inner *= self._turns(name, line)
        for called in line.called:
          if called in self._computations:
            visit(called, inner)

    if self._entry:
      visit(self._entry, 1)
    return times

  def _turns(self, name, loop):
    """Returns how often a loop counts."""
    trips = self._trips(name, loop)
    return 1 if trips is None else trips

  def _trips(self, name, loop):
    """Returns how often a loop in a computation runs; None if not known."""
    known = _TRIPS.search(loop.rest)
    if known:
      return int(known[1])
    # Of the form: i = start; while i < end: i += step.
    until = _CONDITION.search(loop.rest)
    body, condition, here = (
        {line.name: line for line in self._computations.get(computation, ())}
        for computation in (loop.called[0], until and until[1], name))
    compared, ended = (
        next((line for line in lines.values() if line.root), None)
        for lines in (condition, body))
    begun = here.get(loop.operands[0])
    if (compared is None or compared.kind != 'compare'
        or 'direction=LT' not in compared.rest or ended is None
        or begun is None or not ended.kind == begun.kind == 'tuple'):
      return None
    place = _place(condition, compared.operands[0])
    end = _constant(condition, compared.operands[1])
    if place is None or end is None:
      return None
    start = _constant(here, begun.operands[place])
    added = body.get(ended.operands[place])
    if start is None or added is None or added.kind != 'add':
      return None
    step = next((_constant(body, by) for count, by in (
        added.operands, added.operands[::-1])
                 if _place(body, count) == place), None)
    return max(0, -(-(end - start) // step)) if step else None

  def _traffic(self, name, loops):
    """Returns the bytes that one computation moves."""
    places, total = {}, 0
    for line in self._computations[name]:
      kind = line.kind
      results = [(_size(dtype, lengths), _ON_CHIP in layout)
                 for dtype, lengths, layout in line.arrays]
      read = [array for operand in line.operands
              for array in places.get(operand, [])]
      # What has begun reads, and writes, where it ends.
      begins = kind.endswith('-start')
      places[line.name] = read if begins else results
      if kind in _FREE or begins:
        continue
      if kind in ('copy-done', 'slice-done'):
        total += sum(size for size, _ in results)
      elif kind in ('while', 'call'):
        turns = self._turns(name, line) if loops and kind == 'while' else 1
        total += turns * self._traffic(line.called[0], loops)
      elif kind == 'conditional':
        total += max(self._traffic(branch, loops) for branch in line.called)
      else:
        total += sum(size for size, on_chip in results + read if not on_chip)
    return total


def _instructions(body):
  """Returns the lines of a computation."""
  found = []
  for match in map(_INSTRUCTION.match, body.splitlines()):
    if match is not None:
      operands = _ATTRIBUTES.split(match['rest'], maxsplit=1)[0]
      found.append(_Instruction(
          match['name'], match['kind'], tuple(_ARRAY.findall(match['shape'])),
          tuple(_OPERAND.findall(operands)), match['rest'],
          bool(match['root'])))
  return found


def _origin(lines, name, kind):
  """Returns the line of a kind that a name is a copy of; None if it is none."""
  line = lines.get(name)
  while line is not None and line.kind in _SAME:
    line = lines.get(line.operands[0])
  return line if line is not None and line.kind == kind else None


def _place(lines, name):
  """Returns which part of the loop's values a name is; None if it is none."""
  line = _origin(lines, name, 'get-tuple-element')
  return line and int(_INDEX.search(line.rest)[1])


def _constant(lines, name):
  """Returns the whole number that a name stands for; None if it is none."""
  line = _origin(lines, name, 'constant')
  number = line.rest.partition(')')[0] if line else ''
  return int(number) if re.fullmatch(r'-?\d+', number) else None


def _exchanged(line, num_devices):
  """Returns (devices that take part, bytes of the result); 0 if none do."""
  kind = line.kind.removesuffix('-start')
  if kind not in _KINDS:
    return 0, 0
  starts = kind != line.kind
  groups = _GROUPS.search(line.rest)
  group = num_devices
  if groups:
    group = (int(groups[2]) if groups[2]
             else len(groups[1].split(',')) if groups[1] else num_devices)
  # Counters of an exchange under way have no axes.
  size = sum(_size(dtype, lengths) for dtype, lengths, _ in line.arrays
             if not (starts and not lengths and dtype in ('u32', 's32')))
  if starts and kind == 'all-gather':  # operands and results
    size = size * group // (group + 1)
  elif starts and kind == 'collective-permute':
    size //= 2
  return group, size


def _products(lines):
  """Returns the operations of a computation's convolutions and products."""
  shapes, total = {}, 0
  for line in lines:
    lengths = [[int(n) for n in lengths.split(',') if n]
               for _, lengths, _ in line.arrays]
    shape = shapes[line.name] = lengths[0] if lengths else []
    operands = [shapes.get(operand) for operand in line.operands]
    if line.kind == 'convolution':
      total += 2 * _of_convolution(line.rest, shape, *operands)
    elif line.kind == 'dot':
      axes = _CONTRACTED.search(line.rest)[1]
      total += 2 * math.prod(shape) * math.prod(
          operands[0][int(axis)] for axis in axes.split(',') if axis)
  return total


def _of_convolution(rest, shape, x, kernel):
  """Returns the multiplications of a convolution that meet no padding."""
  of_x, of_kernel, of_y = _LABELS.search(rest).groups()
  window = _WINDOW.search(rest)
  window = dict(part.split('=') for part in window[1].split()) if window else {}
  total = (shape[of_y.index('b')] * shape[of_y.index('f')]
           * kernel[of_kernel.index('i')])
  for axis in filter(str.isdigit, of_y):
    def at(key, default, axis=axis):
      parts = window.get(key, '').split('x')
      return parts[int(axis)] if parts[0] else default

    stride, apart, spread = (
        int(at(key, 1)) for key in ('stride', 'rhs_dilate', 'lhs_dilate'))
    before = int(str(at('pad', '0_0')).split('_')[0])
    taps, places = kernel[of_kernel.index(axis)], shape[of_y.index(axis)]
    seen = (np.arange(places)[:, None] * stride + np.arange(taps) * apart
            - before)
    end = (x[of_x.index(axis)] - 1) * spread + 1
    total *= int(((seen >= 0) & (seen < end) & (seen % spread == 0)).sum())
  return total


def _size(dtype, lengths):
  """Returns the bytes of an array, given its type and '2,3' for its axes."""
  return _BYTES.get(dtype, 4) * math.prod(
      int(n) for n in lengths.split(',') if n)
