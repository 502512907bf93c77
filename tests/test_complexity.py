"""Counted parameters and operations against the published ones."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from vidattn_jax import cli
from vidattn_jax import models
from vidattn_jax.tools import complexity

TABLE_1 = json.loads((pathlib.Path(__file__).parent / 'data'
                      / 'aia_table1.json').read_text())['rows']


@pytest.mark.parametrize('row', TABLE_1,
                         ids=lambda row: f'{row["backbone"]}-{row["block"]}')
def test_equals_table_1_to_the_integer(row):
  unit = row['block'] if row['block'] != 'None' else None
  model = models.get_model(f'{row["backbone"].lower()}_r50', num_classes=174,
                           attention=unit)
  counts = complexity.complexity(model)
  assert counts.params == row['params']
  assert counts.macs == row['conv_linear_macs']
  assert counts.bn_elements == row['bn_elements']
  assert counts.pool_elements == row['adaptive_avg_pool_ops']
  assert counts.flops == row['flops_table1_convention']


@pytest.mark.slow
def test_time_gate_does_not_grow_with_frames():
  model = models.get_model('tsm_r50', num_classes=174,
                           attention='CinST->STinC')
  flops = complexity.complexity(model, (16, 224, 224, 3)).flops
  # Table II prints twice the value of 8 frames, 66.3; counted it is less.
  assert f'{flops / 1e9:.3f}' == '66.142'
  assert flops < 2 * complexity.complexity(model).flops


def test_type_and_classes():
  build = {'width': 1 / 4, 'attention': 'ST', 'crop_size': 64}
  counts = complexity.complexity(models.get_model('tsn_r18', **build))
  half = models.get_model('tsn_r18', dtype='bfloat16', **build)
  assert complexity.complexity(half) == counts
  more = complexity.complexity(
      models.get_model('tsn_r18', num_classes=401, **build))
  assert more.params - counts.params == 128 + 1
  assert more.macs - counts.macs == 8 * 128
  params = jax.eval_shape(half.init, jax.random.key(0),
                          jnp.zeros((1, 1, 64, 64, 3)))['params']
  assert counts.params == sum(x.size for x in jax.tree.leaves(params))


def test_tables():
  rows = {'TSN': complexity.Complexity(23_864_558, 32_699_940_864, 88_911_872,
                                       819_200),
          'a long name': complexity.Complexity(1, 2, 3, 4)}
  assert complexity.table(rows) == (
      'model        parameters    GMACs  Table I GFLOPs  weights (MB)'
      '  checkpoint (MB)\n'
      'TSN          23,864,558  32.6999         32.8786          95.5'
      '            190.9\n'
      'a long name           1   0.0000          0.0000           0.0'
      '              0.0\n')
  lines = complexity.table(rows, 'markdown', ('aia', 'sta')).splitlines()
  assert lines[1].startswith('| ----------- | ---------: | ------: | -----')
  assert 'Table III GFLOPs' in lines[0]
  assert {line.count('|') for line in lines} == {8}
  assert complexity.table(rows, 'csv').splitlines()[1:] == [
      'TSN,23864558,32699940864,88911872,819200,0,0,0,95458232,190916464,'
      '32878583808,32788852736',
      'a long name,1,2,3,4,0,0,0,4,8,12,5']
  with pytest.raises(ValueError, match='no table style'):
    complexity.table(rows, 'html')
  with pytest.raises(ValueError, match='no FLOP convention'):
    complexity.table(rows, conventions=('ai',))


def test_stages_add_up_and_the_unit_is_apart():
  plain, unit = (complexity.by_stage(models.get_model(
      'tsm_r18', width=1 / 8, crop_size=64, attention=name, stages=(2,)))
                 for name in (None, 'C'))
  assert list(plain) == ['stem', 'layer1', 'layer2', 'layer3', 'layer4',
                         'neck', 'head']
  attention_counts = unit.pop('attention')
  assert unit == plain
  # Two blocks: 54 weights, scale and bias; mean and variance.
  assert (attention_counts.params, attention_counts.statistics) == (112, 4)
  assert attention_counts.macs == 2 * 54 * 8 * 8 * 8
  assert plain['stem'].params == 7 * 7 * 3 * 8 + 16
  assert plain['stem'].relu_elements == 8 * 32 * 32 * 8
  assert plain['stem'].window_elements == 9 * 8 * 16 * 16 * 8
  # Two blocks of two ReLUs each.
  assert plain['layer4'].relu_elements == 4 * 8 * 2 * 2 * 64
  assert plain['head'].bias_outputs == 8 * 400


def test_command_counts_configurations_and_models(capsys):
  demo = 'configs/demo.py'
  cli.main(['complexity', '--config', demo, '--model', 'tsn_r18',
            '--num-classes', '8', '--attention', 'none', 'C', '--style',
            'csv'])
  header, *rows = [line.split(',')
                   for line in capsys.readouterr().out.splitlines()]
  at = header.index('params')
  assert [row[0] for row in rows] == [f'{demo} none', f'{demo} C',
                                      'tsn_r18 none', 'tsn_r18 C']
  counts = [int(row[at]) for row in rows]
  # 54 weights, scale and bias in each of 8 blocks.
  assert counts[1] - counts[0] == counts[3] - counts[2] == 8 * 56
  cli.main(['complexity', '--model', 'tsn_r18', '--crop-size', '64',
            '--num-frames', '2', '--stages'])
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in lines[1:]] == [
      'stem', 'layer1', 'layer2', 'layer3', 'layer4', 'neck', 'head', 'total']


@pytest.mark.parametrize('flags, message', [
    ([], 'Give --config'),
    (['--config', 'nix.py'], 'no configuration nix.py'),
    (['--config', 'setup.cfg'], 'setup.cfg is no configuration'),
    (['--model', 'tsn_r5'], 'did you mean tsn_r50'),
    (['--model', 'tsn_r50', '--crop-size', '1', '2', '3'], 'one number or two'),
    (['--model', 'tsn_r50', '--flops', 'stta'], 'did you mean sta')])
def test_command_answers_with_a_sentence(flags, message):
  with pytest.raises(SystemExit, match=f'ERROR: .*{message}'):
    cli.main(['complexity', *flags])


@pytest.mark.parametrize('unit, operations, params', [
    (None, 38_501_406_771, 47_625_715), ('STA', 38_501_898_321, 47_748_610)])
def test_equals_table_3_of_sta_to_the_integer(unit, operations, params):
  model = models.get_model('resnext3d_101', num_frames=64, num_classes=51,
                           attention=unit)
  counts = complexity.complexity(model)
  assert counts.sta_flops == operations
  assert counts.params == params
  # With momentum, in units of 2^20: 364 and 365, as printed for the first.
  assert round(counts.checkpoint_bytes / 2 ** 20) in (364, 365)


@pytest.mark.parametrize('name, overrides, params, macs', [
    ('r3d_18', {}, 33_235_280, 8_296_275_968),
    ('r3d_152', {}, 118_223_440, 18_611_273_728),
    ('resnext3d_101', {}, 48_340_816, 9_567_715_328),
    ('c3d', {'num_classes': 101}, 78_409_573, 38_547_378_176),
    ('p3d_199', {}, 66_492_240, 18_403_328_000)])
def test_hosts_cost_what_the_published_networks_do(name, overrides, params,
                                                   macs):
  counts = complexity.complexity(models.get_model(name, **overrides))
  assert (counts.params, counts.macs) == (params, macs)
