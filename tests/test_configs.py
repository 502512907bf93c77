"""Every shipped configuration trains one step when it is shrunk."""

import ast
import functools
import importlib
import itertools
import math
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from vidattn_jax.models import three_branch
from vidattn_jax.training import checkpoint
from vidattn_jax.training import optim
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train
from vidattn_jax.training import writer

_CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
# Arguments of the configurations that take one.
_ARGUMENTS = {
    'aia_diving48': ('tsn,12x3x2',),
    'aia_egocentric': ('tsm,egtea3,8', 'tsn,epic55,8x1x2'),
    'aia_something': ('tsn,v1,8', 'tsm,v2,12x3x2', 'tsm,v1,16x1x2'),
    'demo': ('plain', 'attention'),
    'detection': ('rc3d,10', 'rc3d,28,none', 'scnn', 'scnn,TA'),
    'detection_small': ('scnn,demo', 'rc3d,own,none', 'scnn,trimmed',
                        'rc3d,trimmed,none'),
    'mars_demo': ('rgb', 'sta', 'flow', 'mars'),
    'sta': ('resnet18,ucf101,2', 'resnet18,hmdb51,1,none', 'c3d,hmdb51,3,SA',
            'resnext101_64f,hmdb51,1', 'p3d199,ucf101,1'),
    'sta_demo': ('host', 'none', 'STA', 'SENet-3D'),
    'st_abn_demo': ('', 'edited'),
    'st_abn_ssv2': ('slow_r50,32', 'st_abn_r50,32x2', 'st_abn_r101,32,edited'),
    'three_branch_small': ('demo,O+C+D', 'ut,O'),
    'three_branch_ucf_hmdb': ('ucf101,1', 'hmdb51,3'),
    'two_stream': ('tstam,hmdb51,rgb,1', 'tstam,ucf101,flow,3',
                   'tsn,ucf101,flow,2', 'tsn_se,hmdb51,rgb,3'),
    'two_stream_demo': ('rgb', 'flow'),
    'two_stream_weizmann': ('rgb,eli', 'flow,shahar'),
    'weizmann': ('plain', 'attention'),
}
_NAMES = sorted(p.stem for p in _CONFIGS.glob('*.py')
                if p.stem not in ('__init__', 'common'))
# Networks that find segments have other tests (`test_detectors`).
_CASES = [(name, argument) for name in _NAMES
          if not name.startswith('detection')
          for argument in _ARGUMENTS.get(name, (None,))]
# Those that take long to compile.
_LONG = ('mars_demo', 'sta', 'sta_demo', 'st_abn_demo', 'st_abn_ssv2',
         'tcnn_kinetics', 'three_branch_small', 'three_branch_ucf_hmdb',
         'two_stream', 'two_stream_demo', 'two_stream_weizmann', 'weizmann')
_STEPS = [pytest.param(*case, marks=pytest.mark.slow) if case[0] in _LONG
          else case for case in _CASES
          # A teacher must be trained before.
          if case not in (('two_stream_demo', 'rgb'), ('mars_demo', 'mars'))
          and not str(case[1]).startswith(('c3d', 'p3d', 'resnext'))]


def _load(name, argument):
  module = importlib.import_module(f'configs.{name}')
  return module.get_config(*(() if argument is None else (argument,)))


@pytest.mark.parametrize('name,argument', _STEPS)
def test_trains_one_step_when_shrunk(name, argument, tmp_path):
  c = small.shrink(_load(name, argument))
  inputs = small.inputs(c, count=2, eval_count=2)
  result = train.train_and_evaluate(c, tmp_path, inputs)
  assert len(result.names) == 2
  lines = writer.read_metrics(tmp_path)
  assert [line['step'] for line in lines if 'train/loss' in line] == [1]
  # Two clips of a few classes: a fresh network is near to guessing.
  loss = next(li['train/loss'] for li in lines if 'train/loss' in li)
  # With branches, it is the sum of as many losses.
  names = three_branch.BRANCHES[c.model.options.get('branches', 'O')]
  count = len(names) + (len(names) > 1)
  assert 0.3 < loss / count < 3 * math.log(len(small.CLASSES))
  if count > 1:
    [tested] = [line for line in lines if 'eval/top1' in line]
    assert {key for key in tested if key.startswith('eval/top1_')} == {
        f'eval/top1_{branch}' for branch in names}


@pytest.mark.slow
def test_sta_learns_in_a_host_that_stays(tmp_path):
  params = {}
  for kind in ('host', 'none', 'STA'):
    c = small.shrink(_load('sta_demo', kind))
    c.optimizer.weight_decay = 0.1
    if kind != 'host':
      c.init_from = str(tmp_path / 'host')
    train.train_and_evaluate(c, tmp_path / kind, small.inputs(c, count=4))
    params[kind] = traverse_util.flatten_dict(
        checkpoint.load(str(tmp_path / kind), 'latest')[0], sep='/')
  assert any(path.endswith('/attention/alpha') for path in params['STA'])
  for kind in ('none', 'STA'):
    for path, value in params[kind].items():
      if '/attention/' in path:
        # So far the units are as far from nothing as one step takes them.
        assert not path.endswith('alpha') or np.any(value), path
      elif '/backbone/' in path:
        np.testing.assert_array_equal(value, params['host'][path], err_msg=path)
      else:
        assert np.any(value != params['host'][path]), path


@pytest.mark.parametrize('name,argument', [
    pytest.param(*case, marks=pytest.mark.slow)
    if str(case[1]).startswith(('p3d', 'resnext')) else case
    for case in _CASES])
def test_whole_network_can_be_built(name, argument):
  c = _load(name, argument)
  model = state_lib.build_model(state_lib.model_arguments(c, 10))
  shapes = jax.eval_shape(
      lambda: state_lib.init_variables(model, jax.random.key(0)))
  classes = c.model.num_classes or 10
  heads = {'head': classes} if isinstance(classes, int) else {
      f'head_{head}': number for head, number in classes.items()}
  if '+' in c.model.options.get('branches', ''):
    heads['head_total'] = classes
  assert {name: value['kernel'].shape[-1]
          for name, value in shapes['params'].items()
          if name.startswith('head')} == heads
  has_unit = any("'attention'" in jax.tree_util.keystr(path) for path, _ in
                 jax.tree_util.tree_leaves_with_path(shapes['params']))
  assert has_unit == bool(c.model.attention)


# What the papers, and the codes that they build on, train and test with.
_CLASSES = {'ucf101': 101, 'hmdb51': 51, 'kinetics400': 400}
_TWO_STREAM = {
    'batch_size': 32, 'partial_bn': True, 'optimizer.momentum': 0.9,
    'optimizer.nesterov': False, 'optimizer.weight_decay': 5e-4,
    'optimizer.bias_lr': 2.0, 'optimizer.clip_norm': 20.0,
    'model.num_frames': 6, 'model.crop_size': (224, 224),
    'data.sampling': 'segment', 'data.resize': (240, 320),
    'data.crop': 'multiscale', 'data.flip': 0.5, 'eval.sampling': 'segment',
    'eval.num_frames': 25, 'eval.clips': 1, 'eval.crops': 10}
_RGB = {
    'num_epochs': 80.0, 'schedule.milestones': (30.0, 60.0),
    'model.dropout': 0.8, 'data.modality': 'rgb',
    'data.crop_scales': (1.0, 0.875, 0.75, 0.66),
    'data.mean': (128 / 255, 117 / 255, 104 / 255), 'data.std': (1 / 255,),
    'optimizer.lr_multipliers': ()}
_FLOW = {
    'num_epochs': 340.0, 'schedule.milestones': (190.0, 300.0),
    'model.dropout': 0.7, 'data.modality': 'flow',
    'data.crop_scales': (1.0, 0.875, 0.75), 'data.mean': (128 / 255,),
    'data.std': (1 / 255,), 'data.flow_stack': 5, 'data.flow_bound': 20.0}
_TCNN = {
    'num_epochs': 150.0, 'batch_size': 16, 'optimizer.momentum': 0.9,
    'optimizer.nesterov': False, 'optimizer.weight_decay': 4e-5,
    'schedule.name': 'cosine', 'schedule.warmup_epochs': 0.0,
    'model.dropout': 0.5, 'model.num_frames': 16,
    'model.crop_size': (224, 224), 'data.sampling': 'dense',
    'data.dense_span': 16, 'data.resize': (256, 342), 'data.crop': 'random',
    'label_smoothing': 0.0, 'eval.sampling': 'dense', 'eval.clips': 10,
    'eval.crops': 3, 'eval.average': 'probabilities'}
_WIDTHS = {'optimizer.width_lr': 1e-3, 'model.options.delta': 0.2,
           'model.options.branches': 'O+C+D',
           'model.options.training_phi': 'random'}
_STEPPED = {0: 1e-3, 29: 1e-3, 30: 1e-4, 59: 1e-4, 60: 1e-5, 79: 1e-5}
_STEPPED_FLOW = {0: 1e-3, 189: 1e-3, 190: 1e-4, 299: 1e-4, 300: 1e-5,
                 339: 1e-5}
_COSINE = {0: 0.1, 75: (0.1 + 1e-4) / 2, 149.9: 1e-4}


@pytest.mark.parametrize('name, argument, values, rates', [
    ('two_stream', 'tstam,hmdb51,rgb,1', {
        **_TWO_STREAM, **_RGB, 'eval.average': 'probabilities'}, _STEPPED),
    ('two_stream', 'tstam,ucf101,flow,3', {
        **_TWO_STREAM, **_FLOW, 'eval.average': 'probabilities'},
     _STEPPED_FLOW),
    ('two_stream', 'tsn,ucf101,rgb,2', {**_TWO_STREAM, **_RGB}, _STEPPED),
    ('two_stream', 'tsn_se,hmdb51,flow,2', {**_TWO_STREAM, **_FLOW},
     _STEPPED_FLOW),
    ('tcnn_kinetics', None, _TCNN, _COSINE),
    ('three_branch_ucf_hmdb', 'ucf101,1', {**_TCNN, **_WIDTHS}, _COSINE),
    ('three_branch_ucf_hmdb', 'hmdb51,3', {**_TCNN, **_WIDTHS}, _COSINE)])
def test_recipe_is_that_of_the_paper(name, argument, values, rates):
  c = _load(name, argument)
  assert {key: functools.reduce(getattr, key.split('.'), c)
          for key in values} == values
  data = next(d for d in _CLASSES if d in (argument or 'kinetics400'))
  assert c.model.num_classes == _CLASSES[data]
  found = optim.learning_rates(c, steps_per_epoch=10)
  assert len(found) == 10 * c.num_epochs
  # The last step of a cosine is just before its end.
  np.testing.assert_allclose([found[round(10 * epoch)] for epoch in rates],
                             list(rates.values()), 2e-3)


@pytest.mark.parametrize('stream, factor', [('rgb', 1.0), ('flow', 5.0)])
def test_first_convolution_of_flow_learns_faster(stream, factor):
  c = small.shrink(_load('two_stream', f'tstam,hmdb51,{stream},1'))
  model = state_lib.build_model(state_lib.model_arguments(c, 51))
  params = jax.eval_shape(
      lambda: state_lib.init_variables(model, jax.random.key(0)))['params']
  found = {optim.path_name(path): value
           for path, value in jax.tree_util.tree_leaves_with_path(
               optim.learning_rate_multipliers(params, c))}
  first = 'backbone/conv1_7x7_s2/conv/'
  assert found.pop(first + 'kernel') == factor
  assert found.pop(first + 'bias') == 2 * factor
  groups = {optim.path_name(path): group
            for path, group in jax.tree_util.tree_leaves_with_path(
                optim.parameter_groups(params))}
  assert found == {path: 2.0 if groups[path] == 'bias' else 1.0
                   for path in found}


# The ablations of T-STAM, each by one key: frames, maps, channel attention.
_ABLATIONS = [
    *[('model.num_frames', n, (n, 4, True)) for n in (3, 4, 5, 6)],
    *[('model.options.num_spatial', n, (6, n, True)) for n in range(1, 6)],
    ('model.options.backbone', 'tsn_bninception', (6, 4, False))]


@pytest.mark.parametrize('key,value,seen', _ABLATIONS)
def test_ablations_of_tstam_are_one_key(key, value, seen):
  whole = _load('two_stream', 'tstam,hmdb51,rgb,1')
  c = small.shrink(whole)
  c.model.num_frames = whole.model.num_frames  # a shrunk clip has two
  c.update_from_flattened_dict({key: value})
  frames, maps, gated = seen
  model = state_lib.build_model(state_lib.model_arguments(c, 51))
  outputs, variables = jax.eval_shape(
      lambda: model.init_with_output(jax.random.key(0), jnp.zeros(
          (2, *model.image_shape))))
  assert outputs['temporal_attention'].shape == (2, frames)
  assert outputs['spatial_attention'].shape == (2, frames, maps, 1, 1)
  # The fused features have one part for each map.
  embed = c.model.options.embed_dim
  assert variables['params']['head']['kernel'].shape == (maps * embed, 51)
  names = {optim.path_name(path) for path, _ in
           jax.tree_util.tree_leaves_with_path(variables['params'])}
  assert any('se_down' in name for name in names) == gated


def _of_sta(argument='resnet18,hmdb51,1', **keys):
  """Returns (configuration, network, {name of a parameter: shape})."""
  c = _load('sta', argument)
  c.update_from_flattened_dict({k.replace('__', '.'): v
                                for k, v in keys.items()})
  c = c.copy_and_resolve_references()
  model = state_lib.build_model(state_lib.model_arguments(c, 51))
  shapes = jax.eval_shape(
      lambda: state_lib.init_variables(model, jax.random.key(0)))['params']
  return c, model, {optim.path_name(path): x.shape for path, x in
                    jax.tree_util.tree_leaves_with_path(shapes)}


def _units(names, wanted='conv1/kernel'):
  """Returns {stage and block: shape of a weight of its unit}."""
  return {'/'.join(name.split('/')[1:3]): shape
          for name, shape in names.items()
          if name.endswith(f'attention/{wanted}')}


def test_ablations_of_sta_are_one_key():
  _, _, names = _of_sta()
  assert _units(names) == {f'layer4/block{i}': (1, 4, 4, 512, 1)
                           for i in (0, 1)}
  assert _units(names, 'conv2/kernel') == {f'layer4/block{i}': (3, 1, 1, 1, 512)
                                           for i in (0, 1)}
  # The unit (table 7).
  assert not _units(_of_sta('resnet18,hmdb51,1,none')[2])
  _, _, alone = _of_sta('resnet18,hmdb51,1,SA')
  assert set(_units(alone).values()) == {(1, 4, 4, 512, 1)}
  _, _, alone = _of_sta('resnet18,hmdb51,1,TA')
  assert set(_units(alone, 'conv2/kernel').values()) == {(3, 1, 1, 1, 1)}
  _, _, alone = _of_sta('resnet18,hmdb51,1,SENet-3D')
  assert set(_units(alone, 'fc1/kernel').values()) == {(512, 32)}
  # Stages (table 8), deconvolution (table 9), step size (figure 7).
  _, _, early = _of_sta(model__stages=(1,))
  assert _units(early) == {f'layer1/block{i}': (1, 28, 28, 64, 1)
                           for i in (0, 1)}
  _, _, plain = _of_sta(model__attention_options__deconv=False)
  assert _units(plain) and not _units(plain, 'deconv/kernel')
  assert set(_units(names, 'deconv/kernel').values()) == {(3, 1, 1, 1, 1)}
  _, model, same = _of_sta(model__attention_options__step_size=2)
  assert same == names and model.backbone().attention().step_size == 2
  # Window (table 10); frames follow each other.
  c, model, _ = _of_sta(model__num_frames=64)
  assert model.image_shape[0] == c.data.dense_span == 64
  # Where in a block.
  for position in ('before_sum', 'after_sum'):
    assert _of_sta(model__options__position=position)[
        1].backbone().position == position


@pytest.mark.parametrize('name', sorted(_ARGUMENTS))
def test_unknown_argument_is_told(name):
  with pytest.raises(ValueError, match=rf'configs/{name}.py:nonsense'):
    _load(name, 'nonsense')


@pytest.mark.parametrize('name', _NAMES)
def test_docstring_has_a_command_that_names_the_file(name):
  text = ast.get_docstring(ast.parse((_CONFIGS / f'{name}.py').read_text()))
  assert 'python main.py --config=' in text
  assert f'configs/{name}.py' in text


def test_every_key_has_a_comment():
  lines = (_CONFIGS / 'common.py').read_text().splitlines()
  bare = []
  for before, line in itertools.pairwise(lines):
    is_key = ' = ' in line and 'ConfigDict()' not in line and (
        not line.strip().startswith('#'))
    # Keys that one comment explains together follow each other.
    if is_key and not before.strip().startswith(('#',)) and ' = ' not in before:
      bare.append(line)
  assert not bare
