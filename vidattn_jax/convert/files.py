"""Weight files: `.safetensors`, and `.pth` without running what is in it.

A `.pth` file is a pickle, which is a program. Here it may only build plain
containers and describe tensors; anything else it names is refused.
"""

import collections
import dataclasses
import json
import math
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950a86a20f9469cfc6c
# Keys below which published files keep the weights.
_WRAPPERS = ('state_dict', 'model_state', 'model')

_SAFETENSORS_TYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16,
    'BF16': ml_dtypes.bfloat16, 'I64': np.int64, 'I32': np.int32,
    'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_}
_TYPE_NAMES = {np.dtype(dtype): name
               for name, dtype in _SAFETENSORS_TYPES.items()}
_STORAGE_TYPES = {
    'DoubleStorage': np.float64, 'FloatStorage': np.float32,
    'HalfStorage': np.float16, 'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': np.int64, 'IntStorage': np.int32, 'ShortStorage': np.int16,
    'CharStorage': np.int8, 'ByteStorage': np.uint8, 'BoolStorage': np.bool_}


class WeightFileError(ValueError):
  """A weight file cannot be used, and why."""


def load_file(path) -> dict[str, np.ndarray]:
  """Reads the weights in a file, without torch and without running code.

  Args:
    path: a `.safetensors` file, or a `.pth`, `.pt` or `.tar` file that
      `torch.save` wrote (any version): a dict of tensors, or one that holds
      it under 'state_dict'.

  Returns:
    {name: array}, in the types of the file.

  Raises:
    WeightFileError: the file is missing, damaged, of another kind, or holds
      anything but weights; what that is is named.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise WeightFileError(f'There is no weight file {path}; check the path.')
  try:
    if path.suffix == '.safetensors':
      return _load_safetensors(path)
    tree = (_load_zip if zipfile.is_zipfile(path) else _load_legacy)(path)
  except WeightFileError:
    raise
  except Exception as error:  # Damage shows itself in many ways.
    raise WeightFileError(
        f'{path} is damaged or no weight file ({type(error).__name__}: '
        f'{str(error)[:80]}); fetch it again.') from error
  return _state_dict(tree, path)


def save_file(path, state_dict: dict[str, np.ndarray]):
  """Writes weights to a file that torch or safetensors can read.

  Args:
    path: ends in `.safetensors`, or in `.pth` or `.pt`, which take torch.
    state_dict: {name: array}, such as `to_torch` returns.

  Raises:
    WeightFileError: the ending is another one, or torch is not installed, or
      the type of an array is none that such files have.
  """
  path = pathlib.Path(path)
  if path.suffix not in ('.safetensors', '.pth', '.pt'):
    raise WeightFileError(f'{path} ends in {path.suffix!r}; end it in '
                          '.safetensors, .pth or .pt.')
  arrays = {name: np.asarray(array) for name, array in state_dict.items()}
  for name, array in arrays.items():
    if array.dtype not in _TYPE_NAMES:
      raise WeightFileError(f'{name} is of the type {array.dtype}, which '
                            'weight files do not have; make it float32.')
  # Under another name first, so that no half file is ever taken for a whole.
  unfinished = path.with_name(f'{path.name}.unfinished')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    save = (_save_safetensors if path.suffix == '.safetensors' else _save_torch)
    save(unfinished, arrays)
    unfinished.replace(path)
  except OSError as error:
    raise WeightFileError(f'{path} cannot be written: {error}.') from error
  finally:
    if unfinished.is_file():
      unfinished.unlink()


def _save_safetensors(path, arrays):
  header, offset = {'__metadata__': {'format': 'pt'}}, 0
  for name, array in arrays.items():
    header[name] = {'dtype': _TYPE_NAMES[array.dtype],
                    'shape': list(array.shape),
                    'data_offsets': [offset, offset + array.nbytes]}
    offset += array.nbytes
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)  # The numbers begin at a multiple of 8.
  with open(path, 'wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for array in arrays.values():
      file.write(array.tobytes())


def _save_torch(path, arrays):
  try:
    import torch  # Only here: all else goes without.
  except ImportError as error:
    raise WeightFileError(
        f'Writing {path.stem} takes torch, which is not installed; install it, '
        'or write a .safetensors file.') from error

  def tensor(array):
    if array.dtype == ml_dtypes.bfloat16:  # NumPy has no name for it.
      return tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))

  torch.save({name: tensor(array) for name, array in arrays.items()}, path)


def _state_dict(tree, path):
  for key in _WRAPPERS:
    if isinstance(tree, dict) and isinstance(tree.get(key), dict):
      tree = tree[key]
      break
  tensors = {}
  if isinstance(tree, dict):
    tensors = {str(k): v for k, v in tree.items() if isinstance(v, _Tensor)}
  if not tensors:
    raise WeightFileError(
        f'{path} holds no weights by name; save model.state_dict() in it.')
  return {name: tensor.array(f'{path}: {name}')
          for name, tensor in tensors.items()}


def _load_safetensors(path):
  data = path.read_bytes()
  size, = struct.unpack('<Q', data[:8])
  header = json.loads(data[8:8 + size])
  body = memoryview(data)[8 + size:]
  arrays = {}
  for name, entry in header.items():
    if name == '__metadata__':
      continue
    if entry['dtype'] not in _SAFETENSORS_TYPES:
      raise WeightFileError(f'{path}: {name} is of the type {entry["dtype"]}, '
                            'which is not supported; save it as float32.')
    start, end = entry['data_offsets']
    arrays[name] = np.frombuffer(
        body[start:end], _SAFETENSORS_TYPES[entry['dtype']]).reshape(
            entry['shape'])
  return arrays


# --- Pickles -----------------------------------------------------------------


@dataclasses.dataclass
class _Storage:
  """Numbers of one or more tensors; `data` comes when it has been read."""
  dtype: np.dtype
  size: int
  data: np.ndarray | tuple = ()


@dataclasses.dataclass
class _Tensor:
  """A view of a storage; offset and strides count elements."""
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def array(self, where):
    """Returns a copy of the view as an array."""
    data = self.storage.data
    last = self.offset + sum((n - 1) * s
                             for n, s in zip(self.shape, self.strides))
    inside = min(0, self.offset, *self.shape, *self.strides) == 0 and (
        not math.prod(self.shape) or last < len(data))
    if not inside:
      raise WeightFileError(f'{where} lies outside the data of the file, which '
                            'is damaged; fetch it again.')
    view = np.lib.stride_tricks.as_strided(
        data[self.offset:], self.shape,
        [s * data.itemsize for s in self.strides])
    return np.array(view)


def _rebuild_tensor(storage, offset, shape, strides, *_):
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
  return tensor


# All that a file may name, and what is called in its place.
_ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    ('torch', 'Size'): tuple,
    **{('torch', name): np.dtype(dtype)
       for name, dtype in _STORAGE_TYPES.items()},
}


class _Unpickler(pickle.Unpickler):
  """Builds plain containers and descriptions of tensors, nothing else."""

  def __init__(self, file, path, storages):
    super().__init__(file, encoding='utf-8')
    self._path = path
    self._storages = storages

  def find_class(self, module, name):
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise WeightFileError(
          f'{self._path} asks to run {module}.{name}, which has no business in '
          'a weight file; nothing was run. If you trust its source, load it '
          'in torch and save model.state_dict() alone.') from None

  def persistent_load(self, pid):
    kind, dtype, key, _, size, *view = pid
    if kind != 'storage' or any(view) or not isinstance(dtype, np.dtype):
      raise WeightFileError(f'{self._path} holds a {kind} of an unknown form; '
                            'save model.state_dict() again in torch.')
    return self._storages.setdefault(str(key), _Storage(dtype, size))


def _load_zip(path):
  """Reads what torch has written since 1.6: a zip of pickle and storages."""
  storages = {}
  with zipfile.ZipFile(path) as archive:
    pickled = [n for n in archive.namelist() if n.endswith('/data.pkl')]
    if len(pickled) != 1:
      raise WeightFileError(f'{path} is a zip file, but not of torch.save.')
    root = pickled[0].removesuffix('data.pkl')
    order = '<'
    if f'{root}byteorder' in archive.namelist():
      order = {b'little': '<', b'big': '>'}[archive.read(f'{root}byteorder')]
    with archive.open(pickled[0]) as file:
      tree = _Unpickler(file, path, storages).load()
    for key, storage in storages.items():
      storage.data = np.frombuffer(archive.read(f'{root}data/{key}'),
                                   storage.dtype.newbyteorder(order))
  return tree


def _load_legacy(path):
  """Reads what torch wrote before 1.6: pickles, then storages."""
  storages = {}
  with open(path, 'rb') as file:
    def load():
      return _Unpickler(file, path, storages).load()

    if load() != _LEGACY_MAGIC:
      raise WeightFileError(f'{path} is no file of torch.save.')
    load()  # Version of the protocol.
    load()  # The machine that wrote it.
    tree = load()
    for key in load():
      storage = storages[str(key)]
      size, = struct.unpack('<q', file.read(8))
      data = file.read(size * storage.dtype.itemsize)
      storage.data = np.frombuffer(data, storage.dtype)
  return tree
