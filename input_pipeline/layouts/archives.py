"""Unpacks what owners hand out packed: zip, tar, and tar cut into parts."""

import contextlib
import io
import os
import re
import tarfile
import zipfile

from input_pipeline import storage
from input_pipeline.layouts import listing

_TARS = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz')
_IMAGES = ('.jpg', '.jpeg', '.png', '.bmp')
# Such as 20bn-something-something-v2-00, the first of one tar's parts.
_FIRST_PART = re.compile(r'(.+[-_.])(0+)')
# An archive may hold archives: so many times.
_ROUNDS = 3


def unpack(folder):
  """Unpacks the archives in a folder and those below, each once.

  What an archive holds comes to lie beside it, but for bare images, which get
  a folder of the archive's name. A hidden file beside it says that it is done.

  Args:
    folder: a folder of this machine.

  Yields:
    (archive, what became of it): how many files were unpacked, or why not.

  Raises:
    ValueError: an archive is damaged, or asks for a password.
  """
  if storage.is_url(folder):
    raise ValueError(f'{folder}: archives are unpacked on a disk; copy them '
                     'there first')
  for _ in range(_ROUNDS):
    found = _archives(folder)
    for parts in found:
      if parts[0].lower().endswith('.rar'):
        if not os.path.exists(_mark(parts[0])):
          yield parts[0], ('left packed, as it is RAR: unpack it with unrar x '
                           'or 7z x')
          _write_mark(parts[0])
        continue
      count = _unpack(parts)
      yield parts[0], f'{count} files unpacked'
      _write_mark(parts[0])
    if not any(not p[0].lower().endswith('.rar') for p in found):
      return


def _archives(folder):
  """Returns the archives that are not unpacked, each a list of its parts."""
  found = []
  for place, names in list(listing.walk(folder)):
    for name in sorted(names):
      path = os.path.join(place, name)
      if name.lower().endswith(('.zip', '.rar', *_TARS)):
        parts = [path]
      elif match := _FIRST_PART.fullmatch(name):
        parts = _parts(place, names, match[1], len(match[2]))
        if not _is_tar(parts):
          continue
      else:
        continue
      if not os.path.exists(_mark(path)):
        found.append(parts)
  return found


def _parts(place, names, stem, digits):
  parts = []
  while f'{stem}{len(parts):0{digits}d}' in names:
    parts.append(os.path.join(place, f'{stem}{len(parts):0{digits}d}'))
  return parts


def _is_tar(parts):
  """Tells whether the first of some parts begins a packed or plain tar."""
  if not os.path.isfile(parts[0]):
    return False
  with open(parts[0], 'rb') as file:
    head = file.read(265)
  return head[:2] == b'\x1f\x8b' or head[257:262] == b'ustar'


def _mark(path):
  folder, name = os.path.split(path)
  return os.path.join(folder, f'.{name}.unpacked')


def _write_mark(path):
  with open(_mark(path), 'w', encoding='utf-8'):
    pass


def _unpack(parts):
  """Unpacks one archive and returns the number of its files."""
  path = parts[0]
  try:
    if path.lower().endswith('.zip'):
      with zipfile.ZipFile(path) as archive:
        files = [m for m in archive.infolist() if not m.is_dir()]
        target = _target(path, files[0].filename if files else '')
        archive.extractall(target)
        return len(files)
    count = 0
    with contextlib.ExitStack() as stack:
      file = stack.enter_context(
          io.BufferedReader(_Joined(parts), buffer_size=1 << 20))
      archive = stack.enter_context(tarfile.open(fileobj=file, mode='r|*'))
      target = ''
      for member in archive:
        if member.isfile():
          target = target or _target(path, member.name)
          archive.extract(member, target, filter='data')
          count += 1
    return count
  except RuntimeError as error:  # how zipfile tells it
    raise ValueError(f'{path}: {error}; unzip it by hand, with the password '
                     'that the owners give') from error
  except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
    raise ValueError(f'{path}: it cannot be unpacked ({error}); fetch it '
                     'again') from error


def _target(path, first):
  """Returns where an archive's files go, from the name of the first."""
  folder, name = os.path.split(path)
  bare = '/' not in first.removeprefix('./')
  if not bare or not first.lower().endswith(_IMAGES):
    return folder
  return os.path.join(folder, re.sub(r'\.(zip|tar.*|tgz)$', '', name))


class _Joined(io.RawIOBase):
  """Files read one after the other, as if they were one."""

  def __init__(self, paths):
    super().__init__()
    self._paths = list(paths)
    self._file = None

  def readable(self):
    return True

  def readinto(self, buffer):
    while True:
      if self._file is None:
        if not self._paths:
          return 0
        self._file = open(self._paths.pop(0), 'rb')  # noqa: SIM115
      count = self._file.readinto(buffer)
      if count:
        return count
      self._file.close()
      self._file = None

  def close(self):
    if self._file is not None:
      self._file.close()
    super().close()
