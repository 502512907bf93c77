"""What a train step costs on chips that are not there: compiled for them.

The compiler of TPUs, `libtpu`, describes any topology and compiles for it on a
machine without a TPU. All figures are counts for the compiled program of a run,
the compiler's own but for `memory_traffic`, beside what the chip's maker
publishes; none is a measurement.
"""

import dataclasses
import importlib.util
import math
import os
import re
import time

import jax

from vidattn_jax import models
from vidattn_jax import names
from vidattn_jax.ops import platform
from vidattn_jax.tools import chips
from vidattn_jax.training import programs
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib

TPUS = ('v4', 'v5e', 'v5p', 'v6e')
# Classes where the configuration leaves their number to the data.
DEFAULT_CLASSES = 400
# The largest batch is predicted from the configuration's and from this part of
# it; if it does not fit, this part of it is tried, up to so many compiles.
_SMALLER, _STEP_DOWN, _TRIES = 0.5, 0.95, 3


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips that a program is compiled for.

  Attributes:
    name: such as 'v5e:4x4', or 'cpu:8' for simulated devices.
    devices: as JAX sees them.
    num_chips: number of chips; a chip may have two devices.
    chip: its published rates, or None for those of a CPU.
  """
  name: str
  devices: tuple
  num_chips: int
  chip: chips.Chip | None


def get_topology(name: str) -> Topology:
  """Describes a topology.

  Args:
    name: kind and shape of a TPU slice, such as 'v5e:4x4', or 'cpu:8'.

  Raises:
    ValueError: there is no such topology, or libtpu is not installed; one
      sentence.
  """
  kind, _, shape = name.partition(':')
  if kind == 'cpu':
    devices = jax.devices('cpu')
    if not shape.isdigit() or not 1 <= int(shape) <= len(devices):
      raise ValueError(
          f'--topology is {name!r}, but there are {len(devices)} devices of '
          'the CPU; name a number of them, such as cpu:1, or simulate more '
          'with XLA_FLAGS=--xla_force_host_platform_device_count=8.')
    return Topology(name, tuple(devices[:int(shape)]), int(shape), None)
  names.check_name('kind of chip in --topology', kind, (*TPUS, 'cpu'))
  if not (importlib.util.find_spec('libtpu')
          or os.environ.get('TPU_LIBRARY_PATH')):
    raise ValueError(
        f'Compiling for {name} takes the compiler of TPUs, which is not '
        "installed; pip install --constraint constraints.txt '.[tpu]' (no TPU "
        'is needed).')
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  from jax.experimental import topologies
  try:
    devices = topologies.get_topology_desc(name, 'tpu').devices
  except Exception as error:  # whatever libtpu raises
    raise ValueError(
        f'libtpu knows no topology {name!r}; name a kind of chip and a shape, '
        f'such as v5e:4x4 or v4:2x2x4 ({str(error).splitlines()[0]}).'
    ) from error
  places = {tuple(device.coords) for device in devices}
  return Topology(name, tuple(devices), len(places), chips.get_chip(kind))


def prepare(name: str):
  """Keeps JAX on the CPU, also where libtpu is installed.

  To be called before anything else asks for devices.

  Args:
    name: the topology's name; 'cpu:N' simulates N devices.
  """
  jax.config.update('jax_platforms', 'cpu')
  kind, _, count = name.partition(':')
  if kind != 'cpu':
    platform.compile_for('tpu')
  elif count.isdigit() and int(count) > 0:
    jax.config.update('jax_num_cpu_devices', int(count))


@dataclasses.dataclass(frozen=True)
class Collective:
  """One kind of exchange between devices.

  Attributes:
    kind: such as 'all-reduce'.
    group: how many devices take part in each.
    count: how many there are in the program.
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


_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
          's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
_COLLECTIVE = re.compile(
    r' = (?P<shape>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|'
    r'all-to-all|collective-permute)(?P<start>-start)?\((?P<rest>.*)')
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')
_GROUPS = re.compile(r'replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])')


def collectives(text: str, num_devices: int) -> list[Collective]:
  """Reads the exchanges between devices from a compiled program.

  Args:
    text: the program, as `compiled.as_text()` returns it. What stands in a
      loop counts once.
    num_devices: number of devices, where a line does not name its groups.

  Returns:
    One entry for each kind and size of group, largest first.
  """
  found = {}
  for match in map(_COLLECTIVE.search, text.splitlines()):
    if match is None:
      continue
    kind = match['kind']
    groups = _GROUPS.search(match['rest'])
    group = num_devices
    if groups:
      group = (int(groups[2]) if groups[2]
               else len(groups[1].split(',')) if groups[1] else num_devices)
    size = 0
    for dtype, shape in _ARRAY.findall(match['shape']):
      # Counters of an exchange under way have no axes.
      if not (match['start'] and not shape and dtype in ('u32', 's32')):
        size += _size(dtype, shape)
    if match['start'] and kind == 'all-gather':  # operands and results
      size = size * group // (group + 1)
    elif match['start'] and kind == 'collective-permute':
      size //= 2
    number, total = found.get((kind, group), (0, 0))
    found[kind, group] = number + 1, total + size
  return sorted((Collective(kind, group, *counts)
                 for (kind, group), counts in found.items()),
                key=lambda c: -c.bytes)


_COMPUTATION = re.compile(
    r'^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \([^\n]*\{$'
    r'(?P<body>.*?)^\}',
    re.MULTILINE | re.DOTALL)
_INSTRUCTION = re.compile(
    r'\s+(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) '
    r'(?P<kind>[\w\-]+)\((?P<rest>.*)')
_OPERAND = re.compile(r'%([\w.\-]+)')
_PLACED = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?')
# Where operands end: what follows are attributes.
_ATTRIBUTES = re.compile(r'\)(?:, [\w\-]+=|$)')
_CALLED = re.compile(r'(?:body|to_apply)=%([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}|'
                       r'(?:true|false)_computation=%([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# What a kernel says of itself, see `pallas.CostEstimate`.
_OF_KERNEL = re.compile(
    r'"cost_estimate":\{[^}]*"bytes_accessed":"(\d+)"')
# What moves nothing.
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast')
_ON_CHIP = 'S(1)'


def memory_traffic(text: str) -> int:
  """Counts the bytes that a compiled program moves to and from a chip's memory.

  The compiler's count of `bytes accessed` also has what is read and written in
  the fast memory on the chip, where that of TPUs keeps arrays that fit. Here
  every instruction reads its operands and writes its results once, kernels too,
  where they are not there; a move from one memory to the other counts once. A
  loop counts as often as it runs, or once if that is not known; of branches the
  dearest counts.

  Args:
    text: the program, as `compiled.as_text()` returns it.
  """
  bodies, entry = {}, None
  for match in _COMPUTATION.finditer(text):
    bodies[match['name']] = match['body']
    entry = match['name'] if match['entry'] else entry
  return _traffic(bodies, entry)


def _traffic(bodies, name):
  """Returns the bytes that one computation of a program moves."""
  places, total = {}, 0
  for match in map(_INSTRUCTION.match, bodies[name].splitlines()):
    if match is None:
      continue
    kind, rest = match['kind'], match['rest']
    operands = _ATTRIBUTES.split(rest, maxsplit=1)[0]
    results = [(_size(dtype, lengths), _ON_CHIP in layout)
               for dtype, lengths, layout in _PLACED.findall(match['shape'])]
    read = [array for operand in _OPERAND.findall(operands)
            for array in places.get(operand, [])]
    # What has begun reads, and writes, where it ends.
    begins = kind.endswith('-start')
    places[match['name']] = read if begins else results
    if kind in _FREE or begins:
      continue
    if kind in ('copy-done', 'slice-done'):
      total += sum(size for size, _ in results)
    elif kind in ('while', 'call'):
      trips = _TRIPS.search(rest)
      total += (int(trips[1]) if trips else 1) * _traffic(
          bodies, _CALLED.search(rest)[1])
    elif kind == 'conditional':
      total += max(_traffic(bodies, branch) for found in
                   _BRANCHES.findall(rest)
                   for branch in re.findall(r'[\w.\-]+', ' '.join(found)))
    else:
      total += sum(size for size, on_chip in results + read if not on_chip)
  return total


def _size(dtype, lengths):
  """Returns the bytes of an array, given its type and '2,3' for its axes."""
  return _BYTES.get(dtype, 4) * math.prod(
      int(n) for n in lengths.split(',') if n)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a compiled train step takes of one chip.

  Attributes:
    clips: clips per step; a part of one where chips share clips.
    arguments: bytes of its arguments.
    temporary: bytes of what it keeps in between.
    peak: bytes of its largest need, arguments and results included.
    flops: operations, a multiply-add being two.
    bytes: accessed, as the compiler counts, also in memory on the chip.
    moved: bytes read from and written to the chip's memory, see
      `memory_traffic`.
    collectives: exchanges between devices, see `Collective`; of one device.
    custom_calls: calls of our own kernels.
    of_kernels: bytes that these say they read and write, which the compiler's
      count has, too; like the calls, once for what stands in a loop.
    seconds: how long compiling took.
  """
  clips: float
  arguments: float
  temporary: float
  peak: float
  flops: float
  bytes: float
  moved: float
  collectives: tuple[Collective, ...]
  custom_calls: int
  of_kernels: float
  seconds: float

  def bounds(self, chip: chips.Chip) -> dict[str, float]:
    """Returns the seconds that each part of a chip needs at its full rate."""
    return {'compute': self.flops / chip.flops,
            'memory': self.moved / chip.bandwidth,
            'links': sum(c.sent for c in self.collectives) / chip.links}


def lower(config, topology: Topology, clips: float):
  """Lowers the train step of a configuration for a topology.

  Args:
    config: the run's configuration; its batch size is not looked at.
    topology: the chips.
    clips: clips per chip and step; a part of one where chips share clips.

  Returns:
    What `jax.jit(...).lower` returns.

  Raises:
    ValueError: the configuration does not fit the devices.
  """
  if config.model.name in models.DETECTORS:
    raise ValueError(f'config.model.name is {config.model.name!r}; --mode='
                     'compile knows networks that classify clips.')
  if config.distill.teacher:
    raise ValueError('config.distill.teacher is set; --mode=compile knows '
                     'networks without a teacher.')
  config = config.copy_and_resolve_references()
  config.batch_size = round(clips * topology.num_chips)
  mesh = sharding.make_mesh(config, topology.devices)
  sharding.check_batch_size('batch_size', config.batch_size, mesh,
                            config.accumulate_steps)
  arguments = state_lib.model_arguments(config, DEFAULT_CLASSES)
  classes = arguments['num_classes']
  model = state_lib.build_model(arguments, freeze=tuple(config.freeze),
                                partial_bn=config.partial_bn)
  programs.check(config, mesh, model)
  _, shapes, shardings = programs.initializer(config, mesh, model)
  step = programs.train_step(config, mesh, model, classes, shardings)
  shapes = programs.train_step_arguments(config, mesh, model, classes, shapes,
                                         shardings)
  platform = 'cpu' if topology.chip is None else 'tpu'
  return step.trace(*shapes).lower(lowering_platforms=(platform,))


def compile_step(config, topology: Topology, clips: float) -> Cost | None:
  """Compiles the train step of a configuration for a topology.

  Args:
    config: see `lower`.
    topology: the chips.
    clips: clips per chip and step; a part of one where chips share clips.

  Returns:
    What it costs; None if it does not fit the chip's memory.

  Raises:
    ValueError: see `lower`.
  """
  return cost(lower(config, topology, clips), topology, clips)


def cost(lowered, topology: Topology, clips: float) -> Cost | None:
  """Compiles what `lower` returned; see `compile_step`.

  Args:
    lowered: the lowered train step.
    topology: the chips.
    clips: clips per chip and step; a part of one where chips share clips.
  """
  start = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if ('RESOURCE_EXHAUSTED' not in str(error)
        or 'memory space vmem' in str(error)):
      raise
    return None
  seconds = time.perf_counter() - start
  counts, memory = compiled.cost_analysis(), compiled.memory_analysis()
  text = compiled.as_text()
  devices = len(topology.devices) / topology.num_chips
  peak = (memory.argument_size_in_bytes + memory.output_size_in_bytes
          - memory.alias_size_in_bytes + memory.temp_size_in_bytes)
  found = Cost(
      clips=clips, arguments=devices * memory.argument_size_in_bytes,
      temporary=devices * memory.temp_size_in_bytes, peak=devices * peak,
      flops=devices * counts['flops'], bytes=devices * counts['bytes accessed'],
      moved=devices * memory_traffic(text),
      collectives=tuple(collectives(text, len(topology.devices))),
      custom_calls=text.count('custom_call_target="tpu_custom_call"'),
      of_kernels=devices * sum(map(float, _OF_KERNEL.findall(text))),
      seconds=seconds)
  fits = topology.chip is None or found.peak <= topology.chip.memory
  return found if fits else None


def largest_batch(compile_clips, known: Cost, memory: float, unit: int = 1):
  """Finds the most clips per chip that fit its memory.

  Memory grows by the same amount for each clip. Two compiles tell how much; a
  third one tells whether the prediction holds.

  Args:
    compile_clips: function from clips per chip to `Cost`, or to None if they do
      not fit.
    known: the cost at some number of clips.
    memory: bytes of a chip's memory.
    unit: clips come in multiples of this.

  Returns:
    (clips per chip as predicted, clips per chip that were seen to fit).
  """
  smaller = max(unit, int(known.clips * _SMALLER) // unit * unit)
  other = (compile_clips(smaller) if smaller != known.clips
           else compile_clips(2 * known.clips))
  if other is None:
    return known.clips, known.clips
  slope = (known.peak - other.peak) / (known.clips - other.clips)
  room = (memory - known.peak) / slope if slope > 0 else 0
  predicted = max(unit, int(known.clips + room) // unit * unit)
  clips = predicted
  for _ in range(_TRIES):
    if clips <= max(known.clips, other.clips):
      break
    found = compile_clips(clips)
    if found is not None and found.peak <= memory:
      return predicted, clips
    clips = int(clips * _STEP_DOWN) // unit * unit
  return predicted, max(c.clips for c in (known, other) if c.peak <= memory)


def report(config, topology_name: str, find_batch: bool = True) -> str:
  """Compiles a configuration for a topology and says what it costs.

  Args:
    config: the run's configuration.
    topology_name: see `get_topology`.
    find_batch: also find the largest batch, by two or more further compiles.

  Returns:
    Some lines of text.

  Raises:
    ValueError: the configuration or the topology do not fit; one sentence.
  """
  topology = get_topology(topology_name)
  mesh = sharding.make_mesh(config, topology.devices)
  pieces = mesh.size // mesh.shape['data']
  unit = topology.num_chips if pieces == 1 else mesh.shape['data']
  if config.batch_size % unit or config.batch_size < 1:
    raise ValueError(
        f'config.batch_size is {config.batch_size}, which {topology.num_chips} '
        f'chips{f", {pieces} for each clip," if pieces > 1 else ""} do not '
        f'divide evenly; use a multiple of {unit}.')
  clips = (config.batch_size // unit if pieces == 1
           else config.batch_size / topology.num_chips)
  found = compile_step(config, topology, clips)
  if found is None:
    raise ValueError(
        f'A train step of {clips:g} clips per chip does not fit the memory of '
        f'{topology_name}; lower batch_size ({config.batch_size}), or set '
        'accumulate_steps, remat, mesh.shard_parameters, mesh.time or '
        'mesh.height.')
  network, size = config.model, map(str, config.model.crop_size)
  lines = [f'{network.name} {network.attention or "without attention"}, '
           f'{clips:g} clips of {network.num_frames}x{"x".join(size)} on each '
           f'of {topology.num_chips} chips of {topology_name}, '
           f'{network.dtype}; of one chip:', *describe(found, topology)]
  # How many more pieces of clips fit is not asked.
  if find_batch and topology.chip and pieces == 1:
    unit = len(topology.devices) // topology.num_chips
    predicted, seen = largest_batch(
        lambda clips: compile_step(config, topology, clips), found,
        topology.chip.memory, unit * config.accumulate_steps)
    lines.append(f'largest batch   {seen} clips per chip compile and fit '
                 f'({predicted} predicted)')
  return '\n'.join(lines)


def describe(found: Cost, topology: Topology) -> list[str]:
  """Returns the lines of a report on one compiled step.

  Args:
    found: its cost.
    topology: the chips.
  """
  gib = 2 ** 30
  of = (f' of {topology.chip.memory / gib:.0f} GiB' if topology.chip else '')
  lines = [
      f'memory          {found.peak / gib:.2f} GiB{of}: arguments '
      f'{found.arguments / gib:.2f}, temporary {found.temporary / gib:.2f}',
      f'operations      {found.flops / 1e9:,.0f} GFLOP',
      f'read, written   {found.moved / 1e9:,.1f} GB of memory '
      f'({found.bytes / 1e9:,.1f} GB as the compiler counts)']
  if found.custom_calls:
    lines.append(f'                {found.of_kernels / 1e9:,.1f} GB by '
                 f'{found.custom_calls} calls of kernels, as these say')
  lines += [f'exchanged       {c.count} {c.kind} of {c.group} devices, '
            f'{c.bytes / 1e6:,.1f} MB' for c in found.collectives]
  if topology.chip:
    bounds = found.bounds(topology.chip)
    worst = max(bounds, key=bounds.get)
    lines.append(
        f'step            {1e3 * bounds[worst]:.1f} ms at least, bound by '
        f'{worst} ({", ".join(f"{k} {1e3 * v:.1f}" for k, v in bounds.items())}'
        f' ms at published rates); {found.clips / bounds[worst]:,.0f} clips/s '
        'at most')
  return [*lines, f'compiled in     {found.seconds:.0f} s']
