"""Stored optical flow: what a file holds, read and written.

x and y are stored in 8 bits, 0 and 255 for a bound, as two-stream networks
expect them; n - 1 fields of a video of n frames. Each video has one file or
folder, by its name in the data set:
  NAME.array_record: the header, then a PNG of each field, x above y. Lossless,
    so that a network sees what was computed.
  NAME/: the header `flow.json`, and flow_x_00001.jpg, flow_y_00001.jpg, ... in
    the quality of published flow. Lossy, for other programs.
"""

import io
import itertools
import json
import os
import shutil

import numpy as np
from PIL import Image

from input_pipeline import decode
from input_pipeline import shards

FORMATS = ('array_record', 'jpeg')
VERSION = 1
# Ends the names of what is not whole yet.
PART = '.part'
_SUFFIX = '.array_record'
_HEADER = 'flow.json'
_JPEG = 'flow_{}_{:05d}.jpg'
# OpenCV's default, in which published flow is.
_JPEG_QUALITY = 95


def read_header(path):
  """Reads what stored flow says of itself.

  Args:
    path: what `locate` returned.

  Returns:
    dict: `bound` (pixels), `method`, `parameters`, `library`, `format`,
    `frames` (of the video), `count` (of fields), `height`, `width`; and `size`,
    as `stacks.flow_size` has it, if the frames were resized before.

  Raises:
    decode.VideoError: it is missing, damaged or half written.
  """
  try:
    if os.path.isdir(path):
      with open(os.path.join(path, _HEADER), encoding='utf-8') as file:
        header = json.load(file)
      with os.scandir(path) as entries:
        there = {e.name for e in entries if e.is_file() and e.stat().st_size}
      whole = all(_JPEG.format(axis, number) in there for axis in 'xy'
                  for number in range(1, header['count'] + 1))
    else:
      with shards.reading(path) as reader:
        header = json.loads(reader.read([0])[0])
        whole = reader.num_records() == header['count'] + 1
    if whole and header['version'] == VERSION:
      return header
  except FileNotFoundError:
    raise decode.VideoError(path, f'it holds no {_HEADER}, so that its bound '
                            'is unknown') from None
  except (OSError, RuntimeError, ValueError, KeyError, TypeError,
          IndexError) as error:
    raise _damaged(path) from error
  raise _damaged(path)


def locate(root, name):
  """Returns where the flow of a video is.

  Args:
    root: directory of the flow.
    name: the video's name in the data set.

  Raises:
    decode.VideoError: it is nowhere.
  """
  path = _place(root, name)
  for found in (path + _SUFFIX, path):
    if os.path.exists(found):
      return found
  raise decode.VideoError(path, 'its flow is missing; run vidattn flow')


def check(root, name, num_frames, bound, size=0):
  """Checks that the flow of a video is there, whole and what is wanted.

  Args:
    root: directory of the flow.
    name: the video's name in the data set.
    num_frames: frames of the video.
    bound: displacement in pixels that should be 255.
    size: that to which frames should have been brought before, see
      `stacks.flow_size`.

  Returns:
    The header, see `read_header`.

  Raises:
    decode.VideoError: the flow is missing, damaged or half written.
    ValueError: it is of another bound, of another size or of another video.
  """
  path = locate(root, name)
  header = read_header(path)
  if header['bound'] != bound:
    raise ValueError(
        f'{path}: its bound is {header["bound"]:g} pixels, data.flow_bound is '
        f'{bound:g}; set data.flow_bound, or extract the flow anew.')
  if header.get('size', 0) != size:
    raise ValueError(
        f'{path}: it is the flow of frames of size {header.get("size", 0)} (0: '
        f'their own), data.flow_size is {size}; set data.flow_size, or extract '
        'the flow anew.')
  if header['frames'] != num_frames:
    raise ValueError(
        f'{path}: it is the flow of {header["frames"]} frames, but {name} has '
        f'{num_frames}; remove it and run vidattn flow again.')
  return header


def read(path, indices):
  """Reads stored fields.

  Args:
    path: what `locate` returned.
    indices: numbers of the fields, from 0: field i leads from frame i to i + 1.

  Returns:
    uint8 [len(indices), H, W, 2], x and y.

  Raises:
    decode.VideoError: a field is missing or damaged.
  """
  indices = [int(i) for i in indices]
  distinct = sorted(set(indices))
  try:
    if os.path.isdir(path):
      fields = [np.stack([_to_array(os.path.join(path, _JPEG.format(a, i + 1)))
                          for a in 'xy'], axis=-1) for i in distinct]
    else:
      with shards.reading(path) as reader:
        found = reader.read([i + 1 for i in distinct])
      fields = [np.stack(np.split(_to_array(io.BytesIO(png)), 2), axis=-1)
                for png in found]
    return np.stack(fields)[np.searchsorted(distinct, indices)]
  except (OSError, RuntimeError, ValueError, IndexError) as error:
    raise _damaged(path) from error


def write(root, name, header, num_frames, fields):
  """Writes the flow of a video; it gets its name when it is whole.

  Args:
    root: directory of the flow.
    name: the video's name in the data set.
    header: dict, see `read_header`; what the video decides is filled in here.
    num_frames: frames of the video.
    fields: iterator of uint8 [H, W, 2], x and y.

  Raises:
    decode.VideoError: there are more or fewer fields than frames say.
    OSError: it cannot be written.
  """
  records = header['format'] == 'array_record'
  target = _place(root, name) + (_SUFFIX if records else '')
  part = f'{target}.{os.getpid()}{PART}'
  os.makedirs(os.path.dirname(target), exist_ok=True)
  try:
    first = next(fields)
    text = json.dumps(
        {**header, 'version': VERSION, 'frames': num_frames,
         'count': num_frames - 1, 'height': first.shape[0],
         'width': first.shape[1]}, sort_keys=True)
    count = (_write_records if records else _write_jpegs)(
        part, text, itertools.chain([first], fields))
    if count != num_frames - 1:
      raise decode.VideoError(
          target, f'{count + 1} frames decode, not {num_frames}')
    if os.path.isdir(target):  # damaged, or it would not be done again
      shutil.rmtree(target)
    os.replace(part, target)
  finally:
    _remove(part)


def remove_parts(root):
  """Removes what killed runs have half written below a directory."""
  for folder, folders, files in os.walk(root):
    for part in [n for n in (*folders, *files) if n.endswith(PART)]:
      _remove(os.path.join(folder, part))
    folders[:] = [n for n in folders if not n.endswith(PART)]


def _place(root, name):
  """Returns a path below `root`, also of names that lead out of it."""
  return os.path.join(root, os.path.normpath(os.path.join(os.sep, name))[1:])


def _damaged(path):
  return decode.VideoError(
      path, 'its flow is damaged or half written; remove it and run vidattn '
      'flow again')


def _to_array(file):
  with Image.open(file) as image:
    return np.asarray(image.convert('L'))


def _write_records(part, header, fields):
  count = 0
  with shards.writing(part) as write:
    write(header.encode())
    for field in fields:
      blob = io.BytesIO()
      Image.fromarray(np.concatenate(np.moveaxis(field, -1, 0))).save(
          blob, 'PNG')
      write(blob.getvalue())
      count += 1
  return count


def _write_jpegs(part, header, fields):
  os.mkdir(part)
  count = 0
  for count, field in enumerate(fields, 1):
    for axis, plane in zip('xy', np.moveaxis(field, -1, 0), strict=True):
      Image.fromarray(plane).save(
          os.path.join(part, _JPEG.format(axis, count)),
          quality=_JPEG_QUALITY)
  with open(os.path.join(part, _HEADER), 'w', encoding='utf-8') as file:
    file.write(header + '\n')
  return count


def _remove(part):
  if os.path.isdir(part):
    shutil.rmtree(part)
  elif os.path.exists(part):
    os.remove(part)
