"""Workdirs in an object store: worked on here, brought there while it runs.

Checkpoints need files that appear whole or not at all; object stores have no
such thing. So a run works in a folder of this machine, and a thread copies what
is new. A list of the files, `contents.json`, is written last: who starts from
the store takes what the list names, and nothing that was half copied.
"""

import contextlib
import json
import os
import re
import tempfile
import threading

from absl import logging
import fsspec
import jax

from vidattn_jax.training import writer

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://')
# Seconds between looks at the folder; what a killed run may lose.
_SECONDS = 10.0
_CONTENTS = 'contents.json'
_STEP = re.compile(r'(?:.*/)?checkpoints/\d+(?=/)')
# Parts of names of files that are being written.
_UNFINISHED = ('.orbax-checkpoint-tmp', '.part', '.tmp')


def is_url(path) -> bool:
  """Tells whether a path is a URL of an object store."""
  return _URL.match(os.fspath(path)) is not None


@contextlib.contextmanager
def local_workdir(workdir, seconds: float = _SECONDS):
  """Yields a folder of this machine that stands for a workdir.

  A workdir on this machine stands for itself. Of several processes each sees
  the store itself: their checkpoints are written by orbax, which knows `gs://`.

  Args:
    workdir: path or URL.
    seconds: between two looks for what is new.

  Yields:
    str, the folder. What is in it is in the store at the end, also after an
    error.

  Raises:
    ValueError: the store cannot be used; one sentence.
  """
  if not is_url(workdir) or jax.process_count() > 1:
    yield os.fspath(workdir)
    return
  with _store_errors(workdir):
    files, root = fsspec.core.url_to_fs(os.fspath(workdir).rstrip('/'))
  with tempfile.TemporaryDirectory(prefix='vidattn_') as folder:
    with _store_errors(workdir):
      known = _pull(files, root, folder)
    writer.say(f'{workdir} is worked on in {folder}, and brought up to date '
               f'every {seconds:g} seconds and at the end.')
    mirror = _Mirror(files, root, folder, known)
    stop = threading.Event()
    thread = threading.Thread(
        target=mirror.watch, args=(stop, seconds), daemon=True)
    thread.start()
    try:
      yield folder
    finally:
      stop.set()
      thread.join()
      try:
        mirror.push()
      except Exception as error:
        # The results must outlive the temporary folder.
        kept = tempfile.mkdtemp(prefix='vidattn_kept_')
        os.rmdir(kept)
        os.rename(folder, kept)
        os.mkdir(folder)
        raise ValueError(
            f'{workdir} cannot be written ({_brief(error)}); what the run made '
            f'is kept in {kept}.') from error


@contextlib.contextmanager
def local_copy(path):
  """Yields a local copy of a workdir, or of a folder below it, to read from.

  Args:
    path: path or URL of a workdir, its `checkpoints` or one step's folder.

  Yields:
    str, the same place on this machine.

  Raises:
    ValueError: the store cannot be read or holds no workdir there.
  """
  path = os.fspath(path).rstrip('/')
  if not is_url(path):
    yield path
    return
  with _store_errors(path):
    files, place = fsspec.core.url_to_fs(path)
    root = re.sub(r'/checkpoints(/\d+)?$', '', place)
    if not files.exists(f'{root}/{_CONTENTS}'):
      raise ValueError(f'{path} holds no checkpoints; give the --workdir of a '
                       'run.')
  with tempfile.TemporaryDirectory(prefix='vidattn_') as folder:
    with _store_errors(path):
      _pull(files, root, folder, 'checkpoints/')
    yield folder + place[len(root):]


@contextlib.contextmanager
def local_file(path):
  """Yields a local copy of a file.

  Args:
    path: path or URL.

  Yields:
    str, a path with the same name.

  Raises:
    ValueError: the store cannot be read.
  """
  path = os.fspath(path)
  if not is_url(path):
    yield path
    return
  with tempfile.TemporaryDirectory(prefix='vidattn_') as folder:
    local = os.path.join(folder, path.rpartition('/')[2])
    with _store_errors(path):
      files, place = fsspec.core.url_to_fs(path)
      files.get_file(place, local)
    yield local


class _Mirror:
  """Brings what is new in a folder to a store."""

  def __init__(self, files, root, folder, known):
    self._files = files
    self._root = root
    self._folder = folder
    # {name: (size, time)} as it was when it was copied.
    self._known = known

  def watch(self, stop, seconds):
    """Copies again and again until it is stopped."""
    while not stop.wait(seconds):
      try:
        self.push()
      except Exception as error:  # the store may come back
        logging.warning('%s cannot be written (%s); trying again.',
                        self._root, _brief(error))

  def push(self):
    """Copies what is new, names it, and removes what is gone."""
    found = _look(self._folder)
    if found == self._known:
      return
    there = {}
    for name, stamp in found.items():
      if self._known.get(name) == stamp:
        there[name] = stamp
        continue
      local = os.path.join(self._folder, name)
      with contextlib.suppress(FileNotFoundError):
        with open(local, 'rb') as file:
          data = file.read()
        place = f'{self._root}/{name}'
        self._files.makedirs(place.rpartition('/')[0], exist_ok=True)
        self._files.pipe_file(place, data)
        there[name] = stamp
    # A checkpoint that went away meanwhile is not there in part.
    torn = {_step(name) for name in found.keys() - _look(self._folder).keys()}
    there = {name: stamp for name, stamp in there.items()
             if _step(name) is None or _step(name) not in torn}
    self._files.makedirs(self._root, exist_ok=True)
    self._files.pipe_file(
        f'{self._root}/{_CONTENTS}',
        json.dumps({name: size for name, (size, _) in sorted(there.items())},
                   indent=1).encode())
    for name in self._known.keys() - there.keys():
      with contextlib.suppress(FileNotFoundError):
        self._files.rm_file(f'{self._root}/{name}')
    self._known = there


def _pull(files, root, folder, below=''):
  """Copies a workdir's named files to a folder; returns {name: stamp}."""
  try:
    contents = json.loads(files.cat_file(f'{root}/{_CONTENTS}'))
  except FileNotFoundError:
    return {}
  for name in contents:
    if not name.startswith(below):
      continue
    local = os.path.realpath(os.path.join(folder, name))
    if not local.startswith(os.path.realpath(folder) + os.sep):
      raise ValueError(f'{root}/{_CONTENTS} names {name!r}, which lies outside')
    os.makedirs(os.path.dirname(local), exist_ok=True)
    with open(local, 'wb') as file:
      file.write(files.cat_file(f'{root}/{name}'))
  return _look(folder)


def _look(folder):
  """Returns {name: (size, time)} of the finished files of a folder."""
  found = {}
  for top, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(top, name)
      relative = os.path.relpath(path, folder).replace(os.sep, '/')
      if any(part in relative for part in _UNFINISHED):
        continue
      with contextlib.suppress(FileNotFoundError):
        status = os.stat(path)
        found[relative] = (status.st_size, status.st_mtime_ns)
  return found


def _step(name):
  """Returns the checkpoint that a file belongs to; None for no checkpoint."""
  match = _STEP.match(name)
  return match[0] if match else None


@contextlib.contextmanager
def _store_errors(url):
  """Turns what a store raises into one sentence."""
  try:
    yield
  except ImportError as error:
    raise ValueError(f'{url} needs another package ({_brief(error)}).'
                     ) from error
  except OSError as error:
    raise ValueError(f'{url} cannot be read ({_brief(error)}).') from error
  except ValueError as error:
    if 'Protocol not known' not in str(error):
      raise
    raise ValueError(f'{url} is of no store that fsspec knows; use gs://, '
                     's3:// or a path.') from error


def _brief(error):
  return f'{type(error).__name__}: {error}'.splitlines()[0][:160]
