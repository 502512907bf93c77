"""Published layouts, weight files, and starting from other weights."""

import io
import json
import os
import pickle
import re
import struct
import zipfile

import jax
import ml_dtypes
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
    ('mars_flow_hmdb51', 'mars', 'resnext3d_101',
     {'num_classes': 51, 'modality': 'flow'}),
    ('slow_r50_pytorchvideo', 'pytorchvideo', 'slow_r50', {}),
    ('slow_r50_slowfast', 'slowfast', 'slow_r50', {}),
    pytest.param('c3d_ucf101', 'c3d', 'c3d', {'num_classes': 101},
                 marks=_SLOW),
    ('c3d_sports1m', 'c3d_sports1m', 'c3d', {'num_classes': 487}),
    ('p3d199_kinetics400', 'p3d', 'p3d_199', {}),
    pytest.param('p3d199_flow_kinetics400', 'p3d', 'p3d_199',
                 {'modality': 'flow'}, marks=_SLOW),
    ('bninception', 'bninception', 'tsn_bninception', {'num_classes': 1000}),
    ('se_bninception', 'bninception', 'tsn_se_bninception',
     {'num_classes': 1000}),
    ('bninception_flow_tsn101', 'tsn_bninception', 'tsn_bninception',
     {'num_classes': 101, 'modality': 'flow'})]


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
  if layout not in ('pytorchvideo', 'slowfast'):  # Shortcuts come first there.
    assert list(back) == list(weights)
  for key, array in weights.items():
    assert back[key].dtype == array.dtype
    wanted = np.zeros_like(array) if key.endswith('tracked') else array
    np.testing.assert_array_equal(back[key], wanted, err_msg=key)


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
  _write_safetensors(path, {**weights, 'module.extra': np.ones(2)})
  more = model.clone(num_classes=9)
  fresh = seeded.variables(more, (1, 2, 40, 40, 3), seed=1)
  merged, report = convert.load_into(more, fresh, path)
  _assert_equal(merged['params']['backbone'], variables['params']['backbone'])
  _assert_equal(merged['params']['head'], fresh['params']['head'])
  assert report.unused == ('module.extra',)
  assert report.layout == 'tsm'
  assert sorted(report.fresh) == ['params/head/bias', 'params/head/kernel']


# --- Files -------------------------------------------------------------------


def _write_safetensors(path, arrays):
  types = {'float32': 'F32', 'int64': 'I64', 'float64': 'F64',
           'bfloat16': 'BF16'}
  header, body = {'__metadata__': {'format': 'pt'}}, b''
  for name, array in arrays.items():
    data = np.ascontiguousarray(array).tobytes()
    header[name] = {'dtype': types[str(array.dtype)],
                    'shape': list(array.shape),
                    'data_offsets': [len(body), len(body) + len(data)]}
    body += data
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + body)


def test_reads_safetensors(tmp_path):
  arrays = {'a': np.arange(6, dtype=np.float32).reshape(2, 3),
            'b': np.asarray(7, np.int64),
            'c': np.arange(4).astype(ml_dtypes.bfloat16)}
  path = tmp_path / 'x.safetensors'
  _write_safetensors(path, arrays)
  loaded = convert.load_file(path)
  assert loaded.keys() == arrays.keys()
  for name, array in arrays.items():
    assert loaded[name].dtype == array.dtype
    np.testing.assert_array_equal(loaded[name], array)


def _assert_small(loaded):
  base = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
  wanted = {
      'matrix': base, 'transposed': base.T, 'every_second': base[1::2, 1::2],
      'half': base.astype(np.float16), 'double': base.astype(np.float64),
      'bfloat16': base.astype(ml_dtypes.bfloat16),
      'num_batches_tracked': np.asarray(7, np.int64),
      'empty': np.zeros((0, 3), np.float32), 'flags': np.array([True, False])}
  assert loaded.keys() == wanted.keys()
  for name, array in wanted.items():
    assert loaded[name].dtype == array.dtype
    np.testing.assert_array_equal(loaded[name], array, err_msg=name)


@pytest.mark.parametrize('name', ['small.pth', 'small_legacy.pth'])
def test_reads_pth_without_torch(data_dir, name):
  _assert_small(convert.load_file(data_dir / name))


@pytest.mark.parametrize('zipped', [True, False])
def test_reads_what_the_installed_torch_writes(tmp_path, slim, zipped):
  torch = pytest.importorskip('torch')
  model, variables, weights = slim
  net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  path = tmp_path / 'x.pth'
  torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
  loaded = convert.load_file(path)
  assert loaded.keys() == net.state_dict().keys()
  for name, tensor in net.state_dict().items():
    np.testing.assert_array_equal(loaded[name], tensor.numpy())
  tensors = {n: torch.nn.Parameter(torch.from_numpy(w), requires_grad=False)
             for n, w in weights.items()}
  torch.save({'state_dict': tensors, 'epoch': 1}, path,
             _use_new_zipfile_serialization=zipped)
  _assert_equal(convert.from_torch(model, convert.load_file(path),
                                   (2, 40, 40, 3)), variables)


class _Bomb:
  """A pickle that makes a folder when it is loaded as usual."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


def _save(path, value, zipped):
  """Writes what torch.save would, but of anything."""
  if zipped:
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('archive/data.pkl', pickle.dumps(value, 2))
      archive.writestr('archive/version', '3\n')
    return
  parts = (0x1950a86a20f9469cfc6c, 1001, {}, value, [])
  path.write_bytes(b''.join(pickle.dumps(part, 2) for part in parts))


@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_pth_is_refused_and_never_run(tmp_path, zipped):
  planted = tmp_path / 'planted'
  path = tmp_path / 'x.pth'
  bomb = {'state_dict': {'conv1.weight': _Bomb(planted)}}
  _save(path, bomb, zipped)
  with pytest.raises(ValueError, match=r'asks to run (posix|nt)\.mkdir'):
    convert.load_file(path)
  assert not planted.exists()
  # The bomb is live: loaded as usual, it goes off.
  pickle.load(io.BytesIO(pickle.dumps(bomb)))
  assert planted.exists()


@pytest.mark.parametrize('call', ['os.system', 'builtins.eval',
                                  'torch.load', 'torch._utils.os.system'])
def test_names_beyond_weights_are_refused(tmp_path, call):
  module, _, name = call.rpartition('.')
  path = tmp_path / 'x.pth'
  planted = tmp_path / 'planted'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', (
        f"c{module}\n{name}\n(S'touch {planted}'\ntR.").encode())
  with pytest.raises(ValueError, match=f'asks to run {re.escape(call)}'):
    convert.load_file(path)
  assert not planted.exists()


def test_a_tensor_may_not_reach_beyond_its_data(tmp_path):
  """A view out of bounds would read the memory of the process."""
  path = tmp_path / 'x.pth'
  for offset, shape, stride in ((0, 5, 1), (1, 4, 1), (0, 3, 2), (-1, 2, 1),
                                (3, 2, -1), (0, -1, 1)):
    tensor = (
        "}S'w'\nctorch._utils\n_rebuild_tensor_v2\n("
        "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
        f'I{offset}\n(I{shape}\nt(I{stride}\ntI00\n}}tRs.')
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('archive/data.pkl', tensor)
      archive.writestr('archive/data/0', np.arange(4, dtype='<f4').tobytes())
    with pytest.raises(ValueError, match='w lies outside the data'):
      convert.load_file(path)


def test_damaged_and_missing_files_are_named(tmp_path, data_dir):
  with pytest.raises(ValueError, match='no weight file .*absent.pth'):
    convert.load_file(tmp_path / 'absent.pth')
  for name in ('small.pth', 'small_legacy.pth'):
    whole = (data_dir / name).read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
      path = tmp_path / f'{size}{name}'
      path.write_bytes(whole[:size])
      with pytest.raises(ValueError, match=re.escape(str(path))):
        convert.load_file(path)
  path = tmp_path / 'cut.safetensors'
  _write_safetensors(path, {'a': np.ones(8, np.float32)})
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(ValueError, match='cut.safetensors is damaged'):
    convert.load_file(path)
  path = tmp_path / 'list.pth'
  _save(path, [1, 2], zipped=True)
  with pytest.raises(ValueError, match='holds no weights by name'):
    convert.load_file(path)
