"""A fuzzer of video files: thousands of damaged ones, the same for a seed.

Usage: python -m tests.fuzzing [--count=5000] [--seed=0] [--clips=DIR]

Files are made of a small corpus (one of each format, 64x48, 12 frames, and the
clips of a folder) by bit flips, truncation, zeroed, repeated, moved and deleted
blocks, headers of other files and rewritten sizes. Each is probed and decoded
in a child process, so that a crash is a finding that names the file.
"""

import argparse
import collections
import ctypes
import faulthandler
import gc
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time

import av
import numpy as np
from PIL import Image

from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import synthetic

_ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 10.0  # a file that takes longer is a hang
_START = 60.0  # until a child begins
_LIMITS = containers.Limits(seconds=5.0)
# Published clips are used up to this size, to stay within minutes.
_LARGEST = 200_000
# x264's macroblock tree reads memory that nobody wrote (see `reencode.H264`).
_STEADY = {'x264-params': 'mbtree=0'}
# File name, encoder, its pixel format and options.
_FORMATS = (
    ('h264.mp4', 'libx264', 'yuv420p', {'g': '6', 'bf': '2', **_STEADY}),
    ('h264.mkv', 'libx264', 'yuv420p', {'g': '6', **_STEADY}),
    ('h264.ts', 'libx264', 'yuv420p', {
        'g': '6', 'bf': '2', 'x264-params': 'open-gop=1:mbtree=0'}),
    ('h264_10.mov', 'libx264', 'yuv420p10le', {'g': '6', **_STEADY}),
    ('h264.flv', 'libx264', 'yuv420p', {'g': '6', **_STEADY}),
    ('hevc.mp4', 'libx265', 'yuv420p', {
        'g': '6', 'x265-params': 'log-level=none'}),
    ('hevc_10.mkv', 'libx265', 'yuv420p10le', {
        'g': '6', 'x265-params': 'log-level=none'}),
    ('mpeg4.avi', 'mpeg4', 'yuv420p', {'g': '6'}),
    ('bframes.avi', 'mpeg4', 'yuv420p', {'g': '6', 'bf': '2'}),
    ('mpeg4.mp4', 'mpeg4', 'yuv420p', {'g': '6', 'bf': '2'}),
    ('msmpeg4.avi', 'msmpeg4', 'yuv420p', {'g': '6'}),
    ('wmv2.wmv', 'wmv2', 'yuv420p', {'g': '6'}),
    ('flv1.flv', 'flv', 'yuv420p', {'g': '6'}),
    ('mpeg1.mpg', 'mpeg1video', 'yuv420p', {'g': '6', 'bf': '2'}),
    ('mpeg2.ts', 'mpeg2video', 'yuv420p', {'g': '6'}),
    ('vp8.webm', 'libvpx', 'yuv420p', {'g': '6', 'deadline': 'good'}),
    ('vp9.webm', 'libvpx-vp9', 'yuv420p', {'g': '6', 'deadline': 'good'}),
    ('av1.mkv', 'libsvtav1', 'yuv420p', {'g': '6', 'preset': '12'}),
    ('mjpeg.avi', 'mjpeg', 'yuvj420p', {}),
    ('prores.mov', 'prores', 'yuv422p10le', {}),
    ('ffv1.mkv', 'ffv1', 'yuv420p', {}),
    ('anim.gif', 'gif', 'rgb8', {}),
)
_SIZES = (0, 1, 255, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
          0xffffffff)


def corpus(folder, clips=None):
  """Writes the files that are damaged later.

  Args:
    folder: where to.
    clips: folder of more of them; None takes none.

  Returns:
    [(suffix, bytes)], in a fixed order.
  """
  os.environ.setdefault('SVT_LOG', '0')  # the AV1 encoder's own chatter
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 40, (12, 48, 64, 3), dtype=np.uint8)
  for i, frame in enumerate(frames):
    frame[8:32, 4 * i:4 * i + 16] += np.uint8(120)
  for name, codec, pix_fmt, options in _FORMATS:
    if codec in av.codecs_available:
      synthetic.encode(os.path.join(folder, name), frames, codec,
                       pix_fmt=pix_fmt, options=options)
  for name in ('frame.jpg', 'frame.png'):
    Image.fromarray(frames[0]).save(os.path.join(folder, name))
  files = sorted(pathlib.Path(folder).iterdir())
  if clips:
    files += sorted(f for f in pathlib.Path(clips).iterdir()
                    if f.suffix != '.json' and f.suffix != '.md'
                    and 0 < f.stat().st_size <= _LARGEST)
  return [(f.suffix, f.read_bytes()) for f in files]


def mutant(files, seed, number):
  """Returns (position in `files`, bytes, what was done) of a damaged file."""
  rng = np.random.default_rng([seed, number])
  source = int(rng.integers(len(files)))
  content, done = bytearray(files[source][1]), []
  for _ in range(rng.integers(1, 4)):
    if not content:
      break
    way = _WAYS[rng.integers(len(_WAYS))]
    content = way(rng, content, files)
    done.append(way.__name__.strip('_'))
  return source, bytes(content), '+'.join(done)


def _place(rng, content):
  """Returns a place; headers and indices get more than their share."""
  kind = rng.integers(3)
  near = min(len(content), 1500)
  if kind == 0:
    return int(rng.integers(near))
  if kind == 1:
    return len(content) - 1 - int(rng.integers(near))
  return int(rng.integers(len(content)))


def _flip_bits(rng, content, _):
  for _ in range(2 ** rng.integers(0, 7)):
    content[_place(rng, content)] ^= 1 << rng.integers(8)
  return content


def _truncate(rng, content, _):
  return content[:rng.integers(len(content))]


def _zero_block(rng, content, _):
  start = _place(rng, content)
  size = min(2 ** int(rng.integers(2, 13)), len(content) - start)
  content[start:start + size] = bytes(size)
  return content


def _repeat_block(rng, content, _):
  start, size = _place(rng, content), 2 ** int(rng.integers(2, 13))
  block = content[start:start + size] * int(rng.integers(1, 4))
  content[start:start] = block
  return content


def _delete_block(rng, content, _):
  start = _place(rng, content)
  del content[start:start + 2 ** int(rng.integers(0, 12))]
  return content


def _move_block(rng, content, _):
  start, size = _place(rng, content), 2 ** int(rng.integers(2, 12))
  block = content[start:start + size]
  del content[start:start + size]
  place = _place(rng, content) if content else 0
  content[place:place] = block
  return content


def _header_of_another(rng, content, files):
  _, other = files[rng.integers(len(files))]
  size = 2 ** int(rng.integers(3, 12))
  content[:size] = other[:size]
  return content


def _rewrite_size(rng, content, _):
  for _ in range(rng.integers(1, 4)):
    start = _place(rng, content)
    width = int(rng.choice([1, 2, 4]))
    value = int(_SIZES[rng.integers(len(_SIZES))]) % 256 ** width
    order = 'big' if rng.integers(2) else 'little'
    content[start:start + width] = value.to_bytes(width, order)
  return content


_WAYS = (_flip_bits, _truncate, _zero_block, _repeat_block, _delete_block,
         _move_block, _header_of_another, _rewrite_size)


def exercise(path, known=None):
  """Does to a file what the pipeline does; returns what came of it.

  Args:
    path: the file.
    known: `decode.IndexEntry` of the file before it was damaged.

  Returns:
    'good', 'bad' (named by `probe`) or 'differs' (good, but frames that were
    sought are others than those decoded from the start).

  Raises:
    Exception: whatever is no `decode.VideoError` that names the file.
  """
  if path.endswith(('.jpg', '.png')):
    return _exercise_image(path)
  entry = decode.probe(path, limits=_LIMITS)
  decode.probe(path, 'header', limits=_LIMITS)
  if known:  # damaged after it was indexed
    last = known.num_frames - 1
    _fails_by_name(path, lambda: decode.decode_frames(
        path, [last // 2, last], known, limits=_LIMITS))
  if entry.error:
    _fails_by_name(path, lambda: list(decode.iterate(path, limits=_LIMITS)))
    return 'bad'
  last = entry.num_frames - 1
  for indices in ([last], sorted({0, last // 3, last * 2 // 3})):
    sought = decode.decode_frames(path, indices, entry, limits=_LIMITS)
    through = decode.decode_frames(path, indices, None, limits=_LIMITS)
    if sought.shape != through.shape or (sought != through).any():
      return 'differs'
  return 'good'


def _exercise_image(path):
  folder, name = os.path.split(path)
  bad = _fails_by_name(folder, lambda: decode.decode_folder(
      folder, [0], name, limits=_LIMITS))
  return 'bad' if bad else 'good'


def _fails_by_name(path, run):
  """Tells whether it fails; an error must name the file and the reason."""
  try:
    run()
  except decode.VideoError as error:
    if error.path != path or not error.reason:
      raise RuntimeError(f'an error without a name: {error}') from error
    return True
  return False


def _child(folder, seed, start, count):
  """Works off numbers, telling before and after each."""
  faulthandler.enable()
  files, entries = [], []
  for file in sorted(pathlib.Path(folder).iterdir()):
    files.append((file.suffix, file.read_bytes()))
    entry = decode.probe(file)
    entries.append(None if entry.error else entry)
  for number in range(start, count):
    source, content, done = mutant(files, seed, number)
    suffix = files[source][0]
    path = os.path.join(tempfile.gettempdir(), f'fuzz-{os.getpid()}{suffix}')
    pathlib.Path(path).write_bytes(content)
    print(json.dumps({'start': number}), flush=True)
    began = time.monotonic()
    try:
      result, error = exercise(path, entries[source]), ''
    except Exception as failure:  # a finding, whatever it is
      result, error = 'unnamed', f'{type(failure).__name__}: {failure}'
    finally:
      os.unlink(path)
    row = {'number': number, 'result': result, 'how': done, 'error': error,
           'suffix': suffix, 'seconds': round(time.monotonic() - began, 3)}
    if number % 500 == 499:
      row['memory'] = _memory()
    print(json.dumps(row), flush=True)


def _memory():
  """Returns the bytes that this process holds, freed ones given back."""
  gc.collect()
  try:
    ctypes.CDLL(None).malloc_trim(0)
    with open('/proc/self/statm', encoding='ascii') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError):
    return 0


def run(count=5000, seed=0, clips=None):
  """Exercises damaged files.

  Args:
    count: how many.
    seed: of the damage.
    clips: folder of files for the corpus, beside the generated ones.

  Returns:
    list of dicts, one a file: number, result ('good', 'bad', 'differs',
    'unnamed', 'crash', 'hang'), how, seconds and so on.
  """
  rows = []
  with tempfile.TemporaryDirectory() as folder, (
      tempfile.TemporaryDirectory()) as made:
    for i, (suffix, content) in enumerate(corpus(made, clips)):
      pathlib.Path(folder, f'{i:03d}{suffix}').write_bytes(content)
    while len(rows) < count:
      rows += _watch([sys.executable, '-m', 'tests.fuzzing', '--child', folder,
                      '--seed', str(seed), '--start', str(len(rows)),
                      '--count', str(count)], len(rows))
  return rows


def _watch(command, start):
  """Runs a child to its end, its crash or a hang; returns its rows."""
  rows, lines = [], queue.SimpleQueue()
  patience = _START
  with tempfile.TemporaryFile('w+') as trace:
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=trace,
                             text=True, cwd=_ROOT)

    def read():
      for line in child.stdout:
        lines.put(json.loads(line))
      lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
      try:
        row = lines.get(timeout=patience)
      except queue.Empty:
        child.kill()
        child.wait()
        return [*rows, {'number': start + len(rows), 'result': 'hang'}]
      if row is None:
        break
      patience = SECONDS
      if 'result' in row:
        rows.append(row)
    if child.wait():
      trace.seek(0)
      rows.append({'number': start + len(rows), 'result': 'crash',
                   'error': trace.read()[-2000:]})
  return rows


def main():
  """Prints what came of it."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--count', type=int, default=5000)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--clips')
  parser.add_argument('--child')
  parser.add_argument('--start', type=int, default=0)
  args = parser.parse_args()
  if args.child:
    _child(args.child, args.seed, args.start, args.count)
    return
  began = time.monotonic()
  rows = run(args.count, args.seed, args.clips)
  print(dict(collections.Counter(row['result'] for row in rows)),
        f'{time.monotonic() - began:.0f} s')
  print('slowest:', sorted((row.get('seconds', 0), row['number'])
                           for row in rows)[-5:])
  print('memory, MB:', [row['memory'] // 1_000_000 for row in rows
                        if 'memory' in row])
  for row in rows:
    if row['result'] not in ('good', 'bad'):
      print(row)


if __name__ == '__main__':
  main()
