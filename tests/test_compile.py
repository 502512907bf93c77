"""Compiling for chips that are not there; here for simulated devices."""

import dataclasses
import importlib.util

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest
import small

from vidattn_jax.tools import chips
from vidattn_jax.tools import compile as compile_lib
from vidattn_jax.tools import hlo
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib

_CHIP = chips.Chip(flops=1e12, memory=2e8, bandwidth=1e10, links=1e9)


@pytest.fixture(scope='module')
def config():
  return small.config(mesh__data=-1, model__attention='')


@pytest.fixture(scope='module')
def cost(config):
  return compile_lib.compile_step(config, compile_lib.get_topology('cpu:8'), 2)


def test_exchanged_bytes_are_those_of_the_gradient(config, cost):
  # Data parallel: every gradient is summed once over all devices, and two
  # statistics of each BatchNorm forward and backward; nothing else.
  model = state_lib.build_model(state_lib.model_arguments(
      config, compile_lib.DEFAULT_CLASSES))
  shapes = jax.eval_shape(
      lambda: state_lib.init_variables(model, jax.random.key(0)))
  params, stats = (4 * sum(x.size for x in jax.tree.leaves(shapes[key]))
                   for key in ('params', 'batch_stats'))
  assert {(c.kind, c.group) for c in cost.collectives} == {('all-reduce', 8)}
  # Sums of metrics are 12 bytes.
  assert params <= cost.collectives[0].bytes <= params + 2 * stats + 100
  assert cost.clips == 2 and cost.custom_calls == cost.of_kernels == 0


def test_counts_are_of_one_chip(config, cost):
  # Two clips on each of eight and on one alone take the same, nearly.
  alone = compile_lib.compile_step(
      config, compile_lib.get_topology('cpu:1'), 2)
  assert alone.collectives == ()
  # (Updates of the weights, which one device may share with none, aside.)
  assert cost.flops == pytest.approx(alone.flops, rel=0.1)
  assert cost.arguments == pytest.approx(alone.arguments, rel=0.02)


def test_report_of_chips_that_share_a_clip():
  c = small.config(mesh__data=-1, mesh__height=4, model__attention='',
                   model__crop_size=(64, 64), batch_size=2)
  text = compile_lib.report(c, 'cpu:8')
  assert '0.25 clips of 2x64x64 on each of 8 chips' in text
  assert 'collective-permute of 8 devices' in text
  c.batch_size = 3
  with pytest.raises(ValueError, match='batch_size is 3, which 8 chips, 4 for '
                     'each clip, do not divide evenly; use a multiple of 2'):
    compile_lib.report(c, 'cpu:8')
  c.mesh.height = 0
  with pytest.raises(ValueError, match='mesh.height is 0, but clips are 64'):
    compile_lib.report(c, 'cpu:8')


def test_report_names_the_bound(cost):
  topology = compile_lib.Topology('test', (None,) * 8, 8, _CHIP)
  lines = '\n'.join(compile_lib.describe(cost, topology))
  sent = cost.collectives[0].bytes * 2 * 7 / 8
  assert cost.bounds(_CHIP)['links'] == pytest.approx(sent / 1e9)
  assert cost.bounds(_CHIP)['memory'] == cost.moved / 1e10
  assert 'bound by memory' in lines and 'all-reduce of 8 devices' in lines
  slow = dataclasses.replace(topology, chip=dataclasses.replace(
      _CHIP, links=1e3))
  assert 'bound by links' in '\n'.join(compile_lib.describe(cost, slow))


def test_collectives_of_a_program_that_is_known():
  mesh = sharding.make_mesh(small.config(mesh__data=8))
  split = NamedSharding(mesh, PartitionSpec('data'))
  x = jax.ShapeDtypeStruct((64, 32), np.float32, sharding=split)
  text = jax.jit(lambda x: x * 2, out_shardings=sharding.replicated(mesh)
                 ).lower(x).compile().as_text()
  [found] = hlo.Program(text).collectives(8)
  assert found == hlo.Collective('all-gather', 8, 1, 64 * 32 * 4)
  assert found.sent == 64 * 32 * 4 * 7 / 8


@pytest.mark.parametrize('line, want', [
    ('%a = (bf16[8,4]{1,0}, f32[3]{0}) all-reduce(%b, %c), '
     'replica_groups=[4,4]<=[16], to_apply=%add',
     ('all-reduce', 4, 1, 76)),
    ('%a = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%b), '
     'replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}',
     ('all-gather', 4, 1, 128)),
    ('%a = (f32[2,4]{1,0}, f32[2,4]{1,0}, u32[], u32[]) '
     'collective-permute-start(%b), source_target_pairs={{0,1}}',
     ('collective-permute', 16, 1, 32)),
    ('%a = f32[2]{0} all-reduce-done(%b)', None),
    ('%a = f32[2,4]{1,0} get-tuple-element(%all-reduce.1), index=0', None)])
def test_collectives_as_compilers_write_them(line, want):
  text = 'ENTRY %main (b: f32[]) -> f32[] {\n  ' + line + '\n}\n'
  found = hlo.Program(text).collectives(16)
  assert found == ([hlo.Collective(*want)] if want else [])


_PROGRAM = """HloModule step

%fused (p: f32[100]) -> f32[100] {
  ROOT %m = f32[100]{0} multiply(%p, %p)
}

%body (p: (f32[8])) -> (f32[8]) {
  %p = (f32[8]{0}) parameter(0)
  %e = f32[8]{0} get-tuple-element(%p), index=0
  %t = f32[8]{0} fusion(%e), kind=kLoop, calls=%fused
  ROOT %r = (f32[8]{0}) tuple(%t)
}

ENTRY %main (x: bf16[4,8]) -> f32[8] {
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %near = f32[8]{0:T(128)S(1)} fusion(bf16[4,8]{1,0:T(8,128)(2,1)} %x), calls=%f
  %far = f32[8]{0:T(128)} fusion(%near, %x), kind=kLoop, calls=%fused
  %go = (f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, u32[]{:S(2)}) copy-start(%far)
  %come = f32[8]{0:T(128)S(1)} copy-done(%go)
  %call = (f32[8]{0:T(128)}, f32[2]{0:S(1)}) custom-call(%come, %near, %far)
  %one = f32[8]{0:T(128)} get-tuple-element(%call), index=0
  %sum = f32[8]{0} all-reduce-start(%one), replica_groups={{0,1}}, to_apply=%a
  %end = f32[8]{0} all-reduce-done(%sum)
  %in = (f32[8]{0}) tuple(%end)
  %loop = (f32[8]{0}) while(%in), body=%body, backend_config={TRIPS}
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=0
}
"""


@pytest.mark.parametrize('trips, times', [
    ('{"known_trip_count":{"n":"5"}}', 5), ('{}', 1)])
def test_memory_traffic_leaves_out_what_is_on_the_chip(trips, times):
  text = _PROGRAM.replace('{TRIPS}', trips)
  # x to near; x to far, and far; far to the chip; far and what the call
  # returns; the exchange's both; the loop's both, each time.
  assert hlo.Program(text).memory_traffic() == (
      64 + (64 + 32) + 32 + (32 + 32) + (32 + 32) + times * (32 + 32))


def test_memory_traffic_of_programs_that_are_known():
  x = np.ones((30, 10), np.float32)
  program = jax.jit(lambda x: x * 2 + 1).lower(x).compile()
  assert hlo.Program(program.as_text()).memory_traffic() == 2 * x.nbytes
  loop = jax.jit(lambda x: jax.lax.fori_loop(
      0, 7, lambda i, x: jax.numpy.sin(x) * 2, x)).lower(x).compile()
  moved = hlo.Program(loop.as_text()).memory_traffic()
  assert 7 * 2 * x.nbytes <= moved < 9 * 2 * x.nbytes


# As the compiler of TPUs multiplies what is gathered piece by piece; every turn
# does two pieces of 2 * 6 * 4 * 3 operations.
_PIECES = """HloModule step

%product (a: bf16[6,4], b: bf16[4,3]) -> bf16[6,3] {
  %a = bf16[6,4]{1,0} parameter(0)
  %b = bf16[4,3]{1,0} parameter(1)
  ROOT %c = bf16[6,3]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%body (p: (u32[], bf16[6,4], bf16[4,3])) -> (u32[], bf16[6,4], bf16[4,3]) {
  %two = u32[]{:T(128)} constant(2)
  %p = (u32[]{:T(128)}, bf16[6,4]{1,0}, bf16[4,3]{1,0}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=0
  %a = bf16[6,4]{1,0} get-tuple-element(%p), index=1
  %b = bf16[4,3]{1,0} get-tuple-element(%p), index=2
  %s = (bf16[4,3]{1,0}, bf16[4,3]{1,0}, u32[], u32[]) collective-permute-start(%b), source_target_pairs={{0,1},{1,0}}
  %d = bf16[4,3]{1,0} collective-permute-done(%s)
  %one = bf16[6,3]{1,0} fusion(%a, %b), kind=kOutput, calls=%product
  %other = bf16[6,3]{1,0} fusion(%a, %d), kind=kOutput, calls=%product
  %next = u32[]{:T(128)} add(STEP)
  ROOT %r = (u32[]{:T(128)}, bf16[6,4]{1,0}, bf16[4,3]{1,0}) tuple(%next, %a, %d)
}

%until (q: (u32[], bf16[6,4], bf16[4,3])) -> pred[] {
  %q = (u32[]{:T(128)}, bf16[6,4]{1,0}, bf16[4,3]{1,0}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%q), index=0
  %end = u32[]{:T(128)} constant(END)
  ROOT %less = pred[]{:T(512)} compare(%j, %end), direction=LT
}

ENTRY %main (x: bf16[6,4], y: bf16[4,3]) -> bf16[6,3] {
  %x = bf16[6,4]{1,0} parameter(0)
  %y = bf16[4,3]{1,0} parameter(1)
  %start = u32[]{:T(128)} constant(3)
  %begin = u32[]{:T(128)} copy(%start)
  %in = (u32[]{:T(128)}, bf16[6,4]{1,0}, bf16[4,3]{1,0}) tuple(BEGIN, %x, %y)
  %loop = (u32[]{:T(128)}, bf16[6,4]{1,0}, bf16[4,3]{1,0}) while(%in), condition=%until, body=%body
  %z = bf16[4,3]{1,0} get-tuple-element(%loop), index=2
  ROOT %out = bf16[6,3]{1,0} fusion(%x, %z), kind=kOutput, calls=%product
}
"""  # noqa: E501


@pytest.mark.parametrize('begin, step, end, until, turns', [
    ('%begin', '%i, %two', '8', 'LT', 3), ('%begin', '%two, %i', '9', 'LT', 3),
    ('%begin', '%i, %two', '10', 'LT', 4), ('%begin', '%i, %two', '1', 'LT', 0),
    ('%begin', '%i, %two', '8', 'LE', None),
    ('%x', '%i, %two', '8', 'LT', None),
    ('%begin', '%i, %i', '8', 'LT', None),
    ('%begin', '%two, %two', '8', 'LT', None),
    ('%begin', '%i, %two', 'nan', 'LT', None)])
def test_loops_count_as_often_as_they_run(begin, step, end, until, turns):
  text = _PIECES.replace('direction=LT', f'direction={until}')
  program = hlo.Program(text.replace('BEGIN', begin).replace(
      'STEP', step).replace('END', end))
  assert program.open_loops == (turns is None)
  times = 1 if turns is None else turns
  product = 2 * 6 * 4 * 3
  assert program.products() == product * (1 + 2 * times)
  assert program.products(loops=False) == product * 3
  assert program.collectives(2) == [
      hlo.Collective('collective-permute', 2, times, times * 24)] * (times > 0)
  # The copy of the start and the last product; the exchange's two, two products
  # and the sum of each turn.
  assert program.memory_traffic() == 8 + 108 + times * (48 + 2 * 108 + 12)


@pytest.mark.parametrize('strides, padding, spread, apart, groups, batches', [
    ((1, 1), 'VALID', (1, 1), (1, 1), 1, 1),
    ((2, 1), ((1, 2), (0, 1)), (1, 1), (1, 1), 2, 1),
    ((1, 1), ((1, 2), (0, 1)), (1, 1), (1, 1), 1, 2),
    ((1, 2), ((1, 1), (3, 0)), (2, 3), (1, 2), 1, 1)])
def test_products_of_a_convolution(strides, padding, spread, apart, groups,
                                   batches):
  x, kernel = np.ones((2, 9, 8, 4)), np.ones((3, 2, 4 // groups, 6))
  convolve = jax.jit(lambda x, kernel: jax.lax.conv_general_dilated(
      x, kernel, strides, padding, spread, apart, ('NHWC', 'HWIO', 'NHWC'),
      groups, batches))
  # Of ones, each product adds one.
  wanted = 2 * float(convolve(x, kernel).sum())
  text = convolve.lower(x, kernel).compile().as_text()
  assert 'convolution(' in text
  assert hlo.Program(text).products() == wanted


def test_products_of_loops():
  def run(x):
    return jax.lax.fori_loop(
        0, 7, lambda i, z: jax.numpy.sin(z @ jax.numpy.ones((5, 5))), x)

  program = hlo.Program(jax.jit(run).lower(
      np.ones((30, 5))).compile().as_text())
  product = 2 * 30 * 5 * 5
  assert program.products(loops=False) == product
  assert program.products() == 7 * product


def test_parts_of_a_batch_count_all():
  def operations(**overrides):
    found = compile_lib.compile_step(small.config(**overrides),
                                     compile_lib.get_topology('cpu:1'), 4)
    assert found.open_loops == 0
    return found.flops

  assert operations(accumulate_steps=2) == pytest.approx(
      operations(), rel=0.1)


@pytest.mark.parametrize('more, seen', [(0, 38), (60, 36)])
def test_largest_batch_is_seen_to_fit(cost, more, seen):
  # 10 bytes, and 2.5 for each clip; from 37 clips on `more`.
  def compile_clips(clips):
    asked.append(clips)
    peak = 10 + 2.5 * clips + (more if clips > 36 else 0)
    return dataclasses.replace(cost, clips=clips, peak=peak) if (
        peak <= 106) else None

  asked = []
  found = compile_lib.largest_batch(compile_clips, compile_clips(16), 106, 2)
  assert found == (38, seen)
  assert asked == [16, 8, 38, 36][:3 + (more > 0)]


@pytest.mark.parametrize('name, sentence', [
    ('v5:4x4', 'no kind of chip in --topology .*did you mean v5'),
    ('cpu:900', 'there are 8 devices of the CPU')])
def test_topologies_that_do_not_exist_are_told(name, sentence):
  with pytest.raises(ValueError, match=sentence):
    compile_lib.get_topology(name)


def test_without_libtpu_the_mend_is_told(monkeypatch):
  monkeypatch.delenv('TPU_LIBRARY_PATH', raising=False)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'not installed; pip install .*\[tpu\]'):
    compile_lib.get_topology('v5e:4x4')
