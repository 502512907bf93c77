"""Videos in folders: a folder for each class, or anywhere below a root."""

import os

from input_pipeline import lists
from input_pipeline import storage

# Names of the evaluation folder of a root that is split.
EVAL_NAMES = ('val', 'test', 'validation')
_SUFFIXES = (
    '.3g2', '.3gp', '.asf', '.avi', '.divx', '.f4v', '.flv', '.gif', '.m2ts',
    '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.mxf', '.ogv',
    '.ts', '.vob', '.webm', '.wmv', '.y4m')


def names_of(path):
  """Returns the names of the folders in a folder, sorted.

  Raises:
    ValueError: it is missing or cannot be read.
  """
  return [name for name, is_dir in _entries(path) if is_dir]


def splits_of(root):
  """Returns {split: folder} of a root that is split, else {}.

  Raises:
    ValueError: the root is missing or cannot be read.
  """
  names = names_of(root)
  held_out = [name for name in EVAL_NAMES if name in names]
  if 'train' not in names or not held_out:
    return {}
  return {'train': 'train', 'eval': held_out[0]}


def of_classes(root, folder, first):
  """Finds the videos of a folder that has a folder for each class.

  Args:
    root: place of the data; names of videos are relative to it.
    folder: name of the folder in it; '' for the root itself.
    first: name of the first file in a folder of frames.

  Returns:
    ([lists.Item], [(name, reason)] of files that are no videos).

  Raises:
    ValueError: there is no class folder, or one without a video.
  """
  top = storage.join(root, folder) if folder else root
  class_names = names_of(top)
  if not class_names:
    raise ValueError(
        f'{top}: it holds no class folder (<class>/<video> is expected)')
  items, ignored = [], []
  for class_name in class_names:
    place = storage.join(top, class_name)
    videos = []
    for file, is_dir in _entries(place):
      path = storage.join(place, file)
      name = '/'.join(filter(None, (folder, class_name, file)))
      if is_dir and not storage.exists(storage.join(path, first)):
        ignored.append((name, f'a folder without {first}'))
      elif is_dir or is_video(file):
        videos.append(lists.Item(name, path, class_name, None, place))
      else:
        ignored.append((name, 'its name is not that of a video file'))
    if not videos:
      raise ValueError(
          f'{place}: the class folder holds no video; remove it or fill it')
    items += videos
  return items, ignored


def below(root, first, folder=''):
  """Finds all videos below a folder.

  Args:
    root: place of the data.
    first: name of the first file in a folder of frames.
    folder: where to look, relative to the root.

  Returns:
    (name, path) of each video, sorted by folder.

  Raises:
    ValueError: a folder cannot be read.
  """
  found = []
  for file, is_dir in _entries(storage.join(root, folder) if folder else root):
    name = f'{folder}/{file}' if folder else file
    path = storage.join(root, name)
    if is_dir and not storage.exists(storage.join(path, first)):
      found += below(root, first, name)
    elif is_dir or is_video(file):
      found.append((name, path))
  return found


def is_video(file):
  """Tells whether a name ends as those of video files do."""
  return os.path.splitext(file)[1].lower() in _SUFFIXES


def _entries(path):
  try:
    return storage.entries(path)
  except FileNotFoundError:
    raise ValueError(f'{path}: no such directory (data.root)') from None
  except OSError as error:
    raise ValueError(f'{path}: the directory cannot be read '
                     f'({error.strerror or error})') from error
