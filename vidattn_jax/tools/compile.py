"""What a train step costs on chips that are not there: compiled for them.

The compiler of TPUs, `libtpu`, describes any topology and compiles for it on a
machine without a TPU. All figures are counts for the compiled program of a run,
the compiler's own but for what `hlo` reads, beside what the chip's maker
publishes; none is a measurement.
"""

import dataclasses
import importlib.util
import os
import time

import jax

from vidattn_jax import models
from vidattn_jax import names
from vidattn_jax.ops import platform
from vidattn_jax.tools import chips
from vidattn_jax.tools import hlo
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
      `hlo.Program.memory_traffic`.
    collectives: exchanges between devices, see `hlo.Collective`; of one device.
    open_loops: loops of which it is not known how often they run; they count
      once in all of these.
    custom_calls: calls of our own kernels.
    of_kernels: bytes that these say they read and write, which the compiler's
      count has, too.
    seconds: how long compiling took.
  """
  clips: float
  arguments: float
  temporary: float
  peak: float
  flops: float
  bytes: float
  moved: float
  collectives: tuple[hlo.Collective, ...]
  open_loops: int
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
  program = hlo.Program(compiled.as_text())
  moved = program.memory_traffic()
  devices = len(topology.devices) / topology.num_chips
  peak = (memory.argument_size_in_bytes + memory.output_size_in_bytes
          - memory.alias_size_in_bytes + memory.temp_size_in_bytes)
  found = Cost(
      clips=clips, arguments=devices * memory.argument_size_in_bytes,
      temporary=devices * memory.temp_size_in_bytes, peak=devices * peak,
      # The compiler counts what stands in a loop once. Of its repeats, products
      # count, and what is moved.
      flops=devices * (counts['flops'] + program.products()
                       - program.products(loops=False)),
      bytes=devices * (counts['bytes accessed'] + moved
                       - program.memory_traffic(loops=False)),
      moved=devices * moved,
      collectives=tuple(program.collectives(len(topology.devices))),
      open_loops=program.open_loops,
      custom_calls=program.text.count('custom_call_target="tpu_custom_call"'),
      of_kernels=devices * program.of_kernels(),
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
  if found.open_loops:
    lines.append(f'                and more: {found.open_loops} loops count '
                 'once, as it is not known how often they run')
  if topology.chip:
    bounds = found.bounds(topology.chip)
    worst = max(bounds, key=bounds.get)
    lines.append(
        f'step            {1e3 * bounds[worst]:.1f} ms at least, bound by '
        f'{worst} ({", ".join(f"{k} {1e3 * v:.1f}" for k, v in bounds.items())}'
        f' ms at published rates); {found.clips / bounds[worst]:,.0f} clips/s '
        'at most')
  return [*lines, f'compiled in     {found.seconds:.0f} s']
