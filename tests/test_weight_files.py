"""Weight files: written, read, and refused."""

import io
import json
import os
import pickle
import re
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vidattn_jax import convert


@pytest.mark.parametrize('ending', ['safetensors', 'pth', 'pt'])
def test_what_is_saved_is_loaded(tmp_path, ending):
  if ending != 'safetensors':
    pytest.importorskip('torch')
  arrays = {'a': np.arange(6, dtype=np.float32).reshape(2, 3).T,
            'count': np.asarray(7, np.int64),
            'half': np.arange(4).astype(ml_dtypes.bfloat16),
            'none': np.zeros((0, 3), np.float64)}
  path = tmp_path / f'x.{ending}'
  convert.save_file(path, arrays)
  assert list(tmp_path.iterdir()) == [path]
  loaded = convert.load_file(path)
  assert list(loaded) == list(arrays)
  for name, array in arrays.items():
    assert loaded[name].dtype == array.dtype
    np.testing.assert_array_equal(loaded[name], array)


def test_torch_loads_what_is_saved(tmp_path):
  torch = pytest.importorskip('torch')
  path = tmp_path / 'x.pth'
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  convert.save_file(path, {'w': array, 'count': np.asarray(7, np.int64)})
  loaded = torch.load(path, weights_only=True)
  np.testing.assert_array_equal(loaded['w'].numpy(), array)
  assert loaded['count'].shape == () and loaded['count'].item() == 7


def test_saved_numbers_lie_where_the_format_wants_them(tmp_path):
  path = tmp_path / 'x.safetensors'
  convert.save_file(path, {'odd name': np.arange(3, dtype=np.float32),
                           'b': np.ones((2, 1), np.int64)})
  data = path.read_bytes()
  size, = struct.unpack('<Q', data[:8])
  header = json.loads(data[8:8 + size])
  assert size % 8 == 0
  assert header['odd name'] == {'dtype': 'F32', 'shape': [3],
                                'data_offsets': [0, 12]}
  assert header['b'] == {'dtype': 'I64', 'shape': [2, 1],
                         'data_offsets': [12, 28]}
  assert data[8 + size:] == (np.arange(3, dtype='<f4').tobytes()
                             + np.ones(2, '<i8').tobytes())


def test_what_cannot_be_saved_is_named(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"x.bin ends in '.bin'; end it in"):
    convert.save_file(tmp_path / 'x.bin', {'a': np.ones(1)})
  with pytest.raises(ValueError, match='^a is of the type complex128'):
    convert.save_file(tmp_path / 'x.pth', {'a': np.ones(1, complex)})
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(ValueError, match='Writing x.pth takes torch.*install it'):
    convert.save_file(tmp_path / 'x.pth', {'a': np.ones(1)})
  assert not list(tmp_path.iterdir())


def test_loads_what_published_codes_save_beside_the_weights(tmp_path):
  torch = pytest.importorskip('torch')
  net = torch.nn.Linear(3, 2)
  optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
  net(torch.ones(1, 3)).sum().backward()
  optimizer.step()
  path = tmp_path / 'x.pth'
  torch.save({'epoch': 7, 'arch': 'resnext-101',
              'state_dict': net.state_dict(),
              'optimizer': optimizer.state_dict()}, path)
  loaded = convert.load_file(path)
  assert loaded.keys() == {'weight', 'bias'}
  np.testing.assert_array_equal(loaded['weight'], net.weight.detach())


def test_reads_safetensors(tmp_path):
  arrays = {'a': np.arange(6, dtype=np.float32).reshape(2, 3),
            'b': np.asarray(7, np.int64),
            'c': np.arange(4).astype(ml_dtypes.bfloat16)}
  path = tmp_path / 'x.safetensors'
  convert.save_file(path, arrays)
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
def test_reads_what_the_installed_torch_writes(tmp_path, zipped):
  torch = pytest.importorskip('torch')
  net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  path = tmp_path / 'x.pth'
  torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
  loaded = convert.load_file(path)
  assert loaded.keys() == net.state_dict().keys()
  for name, tensor in net.state_dict().items():
    np.testing.assert_array_equal(loaded[name], tensor.numpy())
  tensors = {name: torch.nn.Parameter(tensor.clone(), requires_grad=False)
             for name, tensor in net.state_dict().items() if tensor.ndim}
  torch.save({'state_dict': tensors, 'epoch': 1}, path,
             _use_new_zipfile_serialization=zipped)
  loaded = convert.load_file(path)
  assert loaded.keys() == tensors.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(loaded[name], tensor.numpy())


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
  convert.save_file(path, {'a': np.ones(8, np.float32)})
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(ValueError, match='cut.safetensors is damaged'):
    convert.load_file(path)
  path = tmp_path / 'list.pth'
  _save(path, [1, 2], zipped=True)
  with pytest.raises(ValueError, match='holds no weights by name'):
    convert.load_file(path)
