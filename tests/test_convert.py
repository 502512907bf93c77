"""Published layouts, and starting from other weights."""


import jax
import numpy as np
import pytest
import seeded

from vidattn_jax import convert
from vidattn_jax import models

SHAPE = (8, 64, 64, 3)
_SLOW = pytest.mark.slow
# Published file, model, unit, classes, layout.
LAYOUTS = [
    ('torchvision_resnet18', 'tsn_r18', None, 1000, 'torchvision'),
    ('torchvision_resnet50', 'tsn_r50', None, 1000, 'torchvision'),
    ('tsn_r50', 'tsn_r50', None, 174, 'tsn'),
    ('tsm_r50', 'tsm_r50', None, 174, 'tsm'),
    ('mmaction2_tsn_r50', 'tsn_r50', None, 400, 'mmaction2'),
    ('mmaction2_tsm_r50', 'tsm_r50', None, 400, 'mmaction2'),
    ('aia_tsn_r50_C', 'tsm_r50', 'C', 174, 'aia'),
    ('aia_tsn_r50_ST', 'tsn_r50', 'ST', 174, 'aia'),
    ('aia_tsn_r50_C2ST', 'tsn_r50', 'C->ST', 174, 'aia'),
    ('aia_tsn_r50_ST2C', 'tsn_r50', 'ST->C', 174, 'aia'),
    ('aia_tsn_r50_CplusST', 'tsn_r50', 'C+ST', 174, 'aia'),
    ('aia_tsn_r50_CinST', 'tsn_r50', 'CinST', 174, 'aia'),
    ('aia_tsn_r50_STinC', 'tsn_r50', 'STinC', 174, 'aia'),
    ('aia_tsn_r50_CinST2STinC', 'tsn_r50', 'CinST->STinC', 174, 'aia'),
    ('aia_tsn_r50_STinC2CinST', 'tsn_r50', 'STinC->CinST', 174, 'aia'),
    ('aia_tsn_r50_STinCplusCinST', 'tsn_r50', 'CinST+STinC', 174, 'aia')]
# Published file, layout, model and what it is built with.
VIDEO_LAYOUTS = [
    ('r3d_resnet18a_kinetics', 'r3d', 'r3d_18', {}),
    ('r3d_resnet18b_kinetics', 'r3d', 'r3d_18', {'shortcut': 'B'}),
    pytest.param('r3d_resnet152_kinetics', 'r3d', 'r3d_152', {}, marks=_SLOW),
    pytest.param('r3d_resnext101_kinetics', 'r3d', 'resnext3d_101', {},
                 marks=_SLOW),
    pytest.param('r3d_resnext101_ucf101', 'r3d', 'resnext3d_101',
                 {'num_classes': 101}, marks=_SLOW),
    pytest.param('r3d_resnext101_hmdb51', 'r3d', 'resnext3d_101',
                 {'num_classes': 51}, marks=_SLOW),
    pytest.param('mars_rgb_hmdb51', 'mars', 'resnext3d_101',
                 {'num_classes': 51}, marks=_SLOW),
    pytest.param('mars_flow_hmdb51', 'mars', 'resnext3d_101',
                 {'num_classes': 51, 'modality': 'flow'}, marks=_SLOW),
    ('slow_r50_pytorchvideo', 'pytorchvideo', 'slow_r50', {}),
    ('slow_r50_slowfast', 'slowfast', 'slow_r50', {}),
    pytest.param('c3d_ucf101', 'c3d', 'c3d', {'num_classes': 101},
                 marks=_SLOW),
    pytest.param('c3d_sports1m', 'c3d_sports1m', 'c3d', {'num_classes': 487},
                 marks=_SLOW),
    pytest.param('p3d199_kinetics400', 'p3d', 'p3d_199', {},
                 marks=_SLOW),
    pytest.param('p3d199_flow_kinetics400', 'p3d', 'p3d_199',
                 {'modality': 'flow'}, marks=_SLOW),
    ('bninception', 'bninception', 'tsn_bninception', {'num_classes': 1000}),
    ('se_bninception', 'bninception', 'tsn_se_bninception',
     {'num_classes': 1000}),
    ('bninception_flow_tsn101', 'tsn_bninception', 'tsn_bninception',
     {'num_classes': 101, 'modality': 'flow'}),
    pytest.param('sta_resnext101_kinetics', 'r3d', 'resnext3d_101',
                 {'attention': 'STA'}, marks=_SLOW),
    *((f'baseline_tsn_r50_{unit}', 'aia', 'tsn_r50',
       {'num_classes': 174, 'attention': unit})
      for unit in ('SE3D', 'GE3D-G', 'GE3D-DW133', 'GE3D-DW333', 'S3D-G',
                   'CBAM3D177', 'CBAM3D377'))]


@pytest.mark.parametrize('file, name, unit, classes, layout', LAYOUTS)
def test_round_trip_is_bit_equal(file, name, unit, classes, layout):
  weights = seeded.state_dict(file)
  model = models.get_model(name, num_classes=classes, attention=unit)
  variables = convert.from_torch(model, weights, SHAPE)
  back = convert.to_torch(model, variables, layout)
  assert back.keys() == weights.keys()
  for key, array in weights.items():
    assert back[key].dtype == array.dtype
    np.testing.assert_array_equal(back[key], array, err_msg=key)


def _numbered(shapes):
  """Returns arrays whose numbers all differ; much quicker than random ones."""
  return {name: np.full(shape, i, np.int64) if name.endswith('tracked')
          else (np.arange(np.prod(shape, dtype=int)) + i).astype(
              np.float32).reshape(shape)
          for i, (name, shape) in enumerate(shapes.items(), 1)}


@pytest.mark.parametrize('file, layout, name, build', VIDEO_LAYOUTS)
def test_round_trip_of_video_networks_is_bit_equal(file, layout, name, build):
  weights = _numbered(seeded.shapes(file))
  model = models.get_model(name, **build)
  variables = convert.from_torch(model, weights, model.image_shape)
  back = convert.to_torch(model, variables, layout)
  assert back.keys() == weights.keys()
  # Shortcuts come first in those two, and before the units everywhere.
  if layout not in ('pytorchvideo', 'slowfast') and 'attention' not in build:
    assert list(back) == list(weights)
  for key, array in weights.items():
    assert back[key].dtype == array.dtype
    wanted = np.zeros_like(array) if key.endswith('tracked') else array
    np.testing.assert_array_equal(back[key], wanted, err_msg=key)


@pytest.mark.parametrize('file, layout, name, build', [
    ('mars_flow_hmdb51', 'mars', 'resnext3d_101', {'modality': 'flow'}),
    ('c3d_ucf101', 'c3d', 'c3d', {'crop_size': 32}),
    ('c3d_sports1m', 'c3d_sports1m', 'c3d', {'crop_size': 32}),
    ('p3d199_kinetics400', 'p3d', 'p3d_199', {'crop_size': 32})])
def test_slim_networks_have_the_published_names(file, layout, name, build):
  model = models.get_model(name, num_classes=5, width=1 / 32, **build)
  variables = seeded.variables(model, (1, *model.image_shape))
  weights = convert.to_torch(model, variables, layout)
  assert list(weights) == list(seeded.shapes(file))
  back = convert.from_torch(model, weights, model.image_shape)
  _assert_equal(back, {'batch_stats': {}, **variables})


def test_result_is_like_the_file_that_it_came_from():
  weights = _numbered(seeded.shapes('slow_r50_slowfast'))
  weights = {f'module.{name}': weights[name] for name in sorted(weights)}
  del weights['module.s1.pathway0_stem.bn.num_batches_tracked']
  model = models.get_model('slow_r50')
  variables = convert.from_torch(model, weights, model.image_shape)
  like = convert.to_torch(model, variables, 'slowfast', like=weights)
  assert list(like) == list(weights)
  for key, array in weights.items():
    assert like[key].dtype == array.dtype
    np.testing.assert_array_equal(like[key], array, err_msg=key)
  with pytest.raises(ValueError, match='torchvision is of weights of ResNet,'):
    convert.to_torch(model, variables, 'torchvision')


# --- A slim network, of which every detail can be changed --------------------


@pytest.fixture(scope='module')
def slim():
  """Returns a network, its variables, and those in the layout of TSM."""
  model = models.get_model('tsm_r18', num_classes=5, width=1 / 8,
                           attention='C', crop_size=40)
  variables = seeded.variables(model, (1, 2, 40, 40, 3))
  return model, variables, convert.to_torch(model, variables, 'tsm')


def _assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('rename', [
    lambda name: name.removeprefix('module.'),
    lambda name: None if name.endswith('num_batches_tracked') else name,
    lambda name: name.replace('.net.', '.'),
    lambda name: name.replace('new_fc', 'base_model.fc')])
def test_names_may_vary(slim, rename):
  model, variables, weights = slim
  renamed = {rename(name): array for name, array in weights.items()}
  renamed.pop(None, None)
  assert renamed.keys() != weights.keys()
  _assert_equal(convert.from_torch(model, renamed, (2, 40, 40, 3)), variables)


def test_classifier_without_dropout_is_called_fc(slim):
  model, variables, _ = slim
  without = convert.to_torch(model.clone(dropout=0.0), variables, 'aia')
  assert {name for name in without if 'fc' in name} == {
      'module.base_model.fc.weight', 'module.base_model.fc.bias'}


def _refused(model, weights):
  with pytest.raises(ValueError) as caught:
    convert.from_torch(model, weights, model.image_shape)
  return str(caught.value)


def test_every_name_is_used_or_reported(slim):
  model, _, weights = slim
  message = _refused(model, {**weights, 'module.base_model.odd': np.ones(3)})
  assert '1 unused\n  module.base_model.odd' in message
  name = 'module.base_model.layer2.0.bn1.running_mean'
  message = _refused(model, {k: v for k, v in weights.items() if k != name})
  assert ('1 fresh\n  batch_stats/backbone/layer2/block0/bn1/mean (there is no '
          'base_model.layer2.0.bn1.running_mean)') in message
  assert 'attention, depth and classes' in message


def test_wrong_weights_are_named_with_the_mend(slim):
  model, _, weights = slim
  name = 'module.base_model.conv1.weight'
  message = _refused(model, {**weights, name: np.ones((8, 10, 7, 7))})
  assert ('params/backbone/conv1/kernel: (7, 7, 3, 8) in the model, '
          '(7, 7, 10, 8) in the weights') in message
  assert 'width, depth, modality' in message
  message = _refused(model.clone(num_classes=9), weights)
  assert 'head/kernel: (64, 9) in the model, (64, 5)' in message
  assert 'num_classes' in message
  message = _refused(model, {**weights, name: weights[name] * np.nan})
  assert 'not all numbers are finite in\n  params/backbone/conv1' in message
  assert 'no known layout: a, b.' in _refused(model, {'a': 1, 'b': 2})
  message = _refused(models.get_model(
      'tsn_r18', num_classes=5, width=1 / 8, attention='C'), weights)
  assert 'shifts 8 blocks in time, the model shifts 0' in message


def test_unknown_layout_is_answered_with_the_nearest(slim):
  model, variables, _ = slim
  with pytest.raises(ValueError, match='did you mean mmaction2'):
    convert.to_torch(model, variables, 'mmaction')


@pytest.mark.parametrize('file, named', [
    ('rc3d_c3d_thumos14', 'R-C3D'), ('stabn_r50_k174_t8', 'ST-ABN'),
    ('stabn_branch_c24_t8_p8_k7', 'ST-ABN'),
    ('tstam_head_c32_d16_l4_k10', 'T-STAM'), ('c3d_sports1m', 'c3d'),
    ('p3d199_kinetics400', 'P3D'), ('bninception', 'tsn_bninception'),
    ('slow_r50_slowfast', 'ResNet3D'), ('r3d_resnet18b_kinetics', 'ResNet3D')])
def test_weights_of_other_models_are_recognised(slim, file, named):
  weights = {name: np.zeros((1,) * len(shape))
             for name, shape in seeded.shapes(file).items()}
  message = _refused(slim[0], weights)
  assert f'the weights are of {named}' in message
  assert 'the model is a ResNet;' in message


def test_weights_for_another_crop_are_named_with_the_mend():
  model = models.get_model('c3d', num_classes=5, width=1 / 32, crop_size=64)
  variables = seeded.variables(model, (1, *model.image_shape))
  weights = convert.to_torch(model, variables, 'c3d')
  larger = models.get_model('c3d', num_classes=5, width=1 / 32)
  message = _refused(larger, weights)
  assert ('params/neck/fc6/kernel: (256, 128) in the model, (144, 128) in the '
          'weights') in message
  assert 'clip length and crop size of the weights.' in message


def test_rows_of_old_files_become_vectors(slim):
  model, variables, weights = slim
  old = {name: array[None] if array.ndim == 1 else array
         for name, array in weights.items()}
  _assert_equal(convert.from_torch(model, old, (2, 40, 40, 3)), variables)


# --- Starting from other weights ---------------------------------------------


def test_merge_replaces_a_head_of_other_classes(slim):
  model, variables, _ = slim
  more = model.clone(num_classes=9)
  fresh = seeded.variables(more, (1, 2, 40, 40, 3), seed=1)
  merged, report = convert.merge(fresh, variables)
  _assert_equal(merged['params']['head'], fresh['params']['head'])
  _assert_equal(merged['params']['backbone'], variables['params']['backbone'])
  _assert_equal(merged['batch_stats'], variables['batch_stats'])
  assert report.fresh == {f'params/head/{leaf}': '9 classes here, 5 there'
                          for leaf in ('kernel', 'bias')}
  assert not report.unused
  same, report = convert.merge(
      seeded.variables(model, (1, 2, 40, 40, 3), seed=1), variables)
  _assert_equal(same, variables)
  assert not report.fresh
  assert f'{len(report.used)} used' in str(report)


def test_merge_starts_units_afresh_and_names_what_is_left(slim):
  _, variables, _ = slim
  plain = models.get_model('tsm_r18', num_classes=5, width=1 / 8)
  fresh = seeded.variables(plain, (1, 2, 40, 40, 3), seed=1)
  _, report = convert.merge(fresh, variables)
  assert all('/attention/' in path for path in report.unused)
  assert len(report.unused) == 8 * 5
  _, report = convert.merge(variables, fresh)
  assert all('/attention/' in path for path in report.fresh)
  assert len(report.fresh) == 8 * 5


def test_merge_refuses_what_cannot_work(slim):
  _, variables, _ = slim
  wide = models.get_model('tsm_r18', num_classes=5, width=1 / 4)
  with pytest.raises(ValueError, match=r'shapes differ:\n  params/backbone'):
    convert.merge(seeded.variables(wide, (1, 2, 40, 40, 3)), variables)
  with pytest.raises(ValueError, match='Nothing in the weights fits'):
    convert.merge(variables, {'params': {'other': np.ones(3)}})


def test_load_into_starts_from_a_file(slim, tmp_path):
  model, variables, weights = slim
  path = tmp_path / 'weights.safetensors'
  convert.save_file(path, {**weights, 'module.extra': np.ones(2)})
  more = model.clone(num_classes=9)
  fresh = seeded.variables(more, (1, 2, 40, 40, 3), seed=1)
  merged, report = convert.load_into(more, fresh, path)
  _assert_equal(merged['params']['backbone'], variables['params']['backbone'])
  _assert_equal(merged['params']['head'], fresh['params']['head'])
  assert report.unused == ('module.extra',)
  assert report.layout == 'tsm'
  assert sorted(report.fresh) == ['params/head/bias', 'params/head/kernel']


@pytest.mark.parametrize('unit', ['STA', 'CinST->STinC', 'GE3D-G'])
def test_a_unit_that_fades_in_goes_and_comes_back(unit):
  model = models.get_model(
      'tsn_r18', width=1 / 16, num_classes=3, attention=unit, num_frames=2,
      crop_size=40, stages=(4,), attention_options={'near_identity': True})
  variables = seeded.variables(model, (1, *model.image_shape))
  state = convert.to_torch(model, variables, 'torchvision')
  assert state['layer4.0.gate.alpha'].shape == ()
  back = convert.from_torch(model, state, model.image_shape)
  jax.tree.map(np.testing.assert_array_equal, dict(variables), back)


@pytest.mark.parametrize('name, overrides', [
    ('r3d_18', {'attention': 'STA', 'shortcut': 'B'}),
    ('st_abn_r50', {})])
def test_the_shape_that_is_given_decides(name, overrides):
  shape, width = (8, 48, 64, 3), {'width': 1 / 16, 'num_classes': 3}
  meant = models.get_model(name, num_frames=8, crop_size=(48, 64), **width,
                           **overrides)
  variables = seeded.variables(meant, (1, *shape))
  state = convert.to_torch(meant, variables,
                           'st_abn' if name == 'st_abn_r50' else 'r3d')
  other = models.get_model(name, **width, **overrides)
  back = convert.from_torch(other, state, shape)
  jax.tree.map(np.testing.assert_array_equal, dict(variables), back)
