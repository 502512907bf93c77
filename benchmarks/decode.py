"""Processor time of one clip of eight frames, beside three rivals.

Each round draws one frame of each eighth of a video, as training does, and lets
every reader fetch them in turn: this one, decord, OpenCV, and PyAV as its
documentation shows it. Time is that of the processor, of all threads. Before
that all frames that are fetched are compared with a full decode: a reader that
returns others is marked, and is no rival on that file.

Usage: python -m benchmarks.decode [--data=DIR] [--rounds=9]
"""

import argparse
import dataclasses
import itertools
import pathlib
import statistics
import tempfile
import time

import av
import cv2
import decord
import numpy as np
from PIL import Image

from benchmarks import packed_avi
from input_pipeline import decode
from input_pipeline import synthetic

FRAMES, HEIGHT, WIDTH = 250, 240, 320
# File name, encoder, options.
_MADE = (
    ('h264_gop12.mp4', 'libx264', {'g': '12', 'sc_threshold': '0'}),
    ('h264_gop250.mp4', 'libx264', {'g': '250', 'sc_threshold': '0'}),
    ('mpeg4_gop12.avi', 'mpeg4', {'g': '12', 'q': '4'}),
    ('mpeg4_bframes.avi', 'mpeg4', {'g': '250', 'bf': '2', 'q': '4'}),
    ('vp9_gop100.webm', 'libvpx-vp9', {
        'g': '100', 'deadline': 'realtime', 'cpu-used': '8', 'b': '600k'}),
)
# Mean difference in levels up to which a frame is the same: readers convert
# colours differently.
_SAME = 3.0


def movie(height=HEIGHT, width=WIDTH, cell=4, seed=0):
  """Returns a texture that moves, and noise, uint8 [FRAMES, H, W, 3].

  Args:
    height: of a frame.
    width: of a frame.
    cell: pixels from one point of the texture to the next.
    seed: of texture and noise.
  """
  rng = np.random.default_rng(seed)
  grain = rng.integers(0, 256, (height // cell, width // cell, 3), np.uint8)
  scene = np.asarray(Image.fromarray(grain).resize(
      (2 * width, 2 * height), Image.Resampling.BICUBIC))
  frames = np.empty((FRAMES, height, width, 3), np.uint8)
  for i in range(FRAMES):
    y = round(height / 2 + height / 3 * np.sin(i / 20))
    x = round(width / 2 + width / 3 * np.cos(i / 17))
    part = scene[y:y + height, x:x + width].astype(np.int16)
    frames[i] = np.clip(part + rng.integers(-6, 7, part.shape), 0, 255)
  return frames


def here(path, indices, entry):
  """Reads with the index that training has."""
  return decode.decode_frames(path, indices, entry)


def with_decord(path, indices, entry):
  """Reads with decord, on one thread, which is its quickest."""
  del entry
  reader = decord.VideoReader(path, num_threads=1)
  return reader.get_batch(indices).asnumpy()


def with_opencv(path, indices, entry):
  """Reads with OpenCV, passing over what is not wanted."""
  del entry
  capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG,
                             [cv2.CAP_PROP_N_THREADS, 1])
  wanted, frames = set(indices), {}
  for i in range(indices[-1] + 1):
    if not capture.grab():
      raise ValueError('too short')
    if i in wanted:
      frames[i] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
  capture.release()
  return np.stack([frames[i] for i in indices])


def with_opencv_seek(path, indices, entry):
  """Reads with OpenCV, setting the position of each frame."""
  del entry
  capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG,
                             [cv2.CAP_PROP_N_THREADS, 1])
  frames = []
  for i in indices:
    capture.set(cv2.CAP_PROP_POS_FRAMES, i)
    frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
  capture.release()
  return np.stack(frames)


def with_pyav(path, indices, entry):
  """Reads with PyAV as its documentation does: default threads."""
  del entry
  wanted, frames = set(indices), {}
  with av.open(path) as container:
    for i, frame in enumerate(container.decode(video=0)):
      if i in wanted:
        frames[i] = frame.to_ndarray(format='rgb24')
        if i == indices[-1]:
          break
  return np.stack([frames[i] for i in indices])


RIVALS = {'decord': with_decord, 'OpenCV': with_opencv,
          'OpenCV, set': with_opencv_seek, 'PyAV': with_pyav}


@dataclasses.dataclass(frozen=True)
class Row:
  """What was measured of one file: milliseconds of each correct reader.

  Attributes:
    name: of the file.
    codec: with how frames are found.
    times: {reader: median milliseconds of a clip}.
    ratio: (median, least, largest) over the rounds of best rival / here.
    best: the rival with the least median.
    wrong: {reader: what it returned}.
  """

  name: str
  codec: str
  times: dict
  ratio: tuple
  best: str
  wrong: dict


def draw(rng, count, clip=8):
  """Draws a frame of each of `clip` equal pieces."""
  edges = np.linspace(0, count, clip + 1).astype(int)
  return [int(rng.integers(a, max(b, a + 1)))
          for a, b in itertools.pairwise(edges)]


def _mistake(read, path, entry, draws, references):
  """Tells what is wrong with what a reader returns, '' if nothing."""
  worst = 0
  for indices in draws:
    try:
      frames = read(path, indices, entry)
    except Exception as error:  # whatever it is, it is no clip
      return f'fails ({type(error).__name__})'
    fits = [r for r in references if r.shape[1:] == frames.shape[1:]]
    if not fits:
      return 'frames of another size'
    apart = np.abs(frames.astype(np.int16) - fits[0][indices]).mean((1, 2, 3))
    worst += int((apart > _SAME).sum())
  total = sum(map(len, draws))
  return f'{worst} of {total} frames are others' if worst else ''


def measure(path, rounds):
  """Compares the readers on one file; returns a Row."""
  path = str(path)
  entry = decode.probe(path)
  rng = np.random.default_rng(0)
  references = [decode.decode_all(path)]
  if entry.rotation:  # not every reader turns frames
    references.append(decode.decode_all(path, rotate=False))
  draws = [draw(rng, entry.num_frames) for _ in range(rounds)]
  wrong, readers = {}, {'here': here}
  for name, read in RIVALS.items():
    mistake = _mistake(read, path, entry, draws[:3], references)
    if mistake:
      wrong[name] = mistake
    else:
      readers[name] = read
  for indices in draws:  # ours to the bit
    np.testing.assert_array_equal(here(path, indices, entry),
                                  references[0][indices])
  del references
  times = {name: [] for name in readers}
  for number, indices in enumerate(draws):
    names = list(readers)
    names = names[number % len(names):] + names[:number % len(names)]
    for name in names:
      spent = []
      for _ in range(2):
        start = time.process_time()
        readers[name](path, indices, entry)
        spent.append(time.process_time() - start)
      times[name].append(1000 * min(spent))
  medians = {name: statistics.median(t) for name, t in times.items()}
  best = min((n for n in medians if n != 'here'), key=medians.get)
  ratios = [a / b for a, b in zip(times[best], times['here'], strict=True)]
  return Row(pathlib.Path(path).name, f'{entry.codec}, {entry.seekability()}',
             medians, (statistics.median(ratios), min(ratios), max(ratios)),
             best, wrong)


def files(folder, data):
  """Makes files; returns their paths and those of good ones below `data`."""
  frames = movie()
  paths = []
  for name, codec, options in _MADE:
    if codec in av.codecs_available:
      paths.append(pathlib.Path(folder) / name)
      synthetic.encode(str(paths[-1]), frames, codec, options=options)
      if options.get('bf'):
        paths.append(paths[-1].with_stem('mpeg4_packed'))
        packed_avi.pack(paths[-2], paths[-1])
  if data:
    for path in sorted(pathlib.Path(data).rglob('*')):
      if path.is_file() and path.suffix not in ('.json', '.md', '.csv'):
        entry = decode.probe(path)
        if not entry.error and entry.num_frames >= 16:
          paths.append(path)
  return paths


def main():
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', help='folder of more videos')
  parser.add_argument('--rounds', type=int, default=9)
  args = parser.parse_args()
  cv2.setNumThreads(1)
  decord.logging.set_level(decord.logging.QUIET)
  names = ['here', *RIVALS]
  print('| file | frames are found by | ' + ' | '.join(names) +
        ' | best correct rival / here |')
  print('|---|---|' + '---|' * len(names) + '---|')
  ratios = []
  with tempfile.TemporaryDirectory() as folder:
    for path in files(folder, args.data):
      row = measure(path, args.rounds)
      ratios.append(row.ratio[0])
      cells = [f'{row.times[name]:.1f}' if name in row.times
               else f'wrong: {row.wrong[name]}' for name in names]
      print(f'| {row.name} | {row.codec} | {" | ".join(cells)} | '
            f'{row.ratio[0]:.2f} ({row.ratio[1]:.2f} to {row.ratio[2]:.2f}) '
            f'{row.best} |', flush=True)
  print(f'\nBest correct rival / here: median {statistics.median(ratios):.2f}, '
        f'least {min(ratios):.2f}')


if __name__ == '__main__':
  main()
