"""From a file to eight frames of 224x224 pixels, beside decord, cv2 and NumPy.

All take the same frames and the same crop of the frames whose short side is
256 pixels: here as training does (`batches`, `transforms`), there with
`decord.VideoReader.get_batch` and `cv2.resize`: with the threads that decord
takes by itself, on all cores, and with one thread, which is its quickest. Time
is that of the processor, of all threads, clip by clip in turn; all but the
first rival keep to one core. Before that the pixels are compared. Beside it,
the time of the decoder alone, for the frames that have to be decoded: what no
reader of the same decoder falls below. Then the same with what `vidattn
prepare` makes of the files, and what it costs in quality.

Usage: python -m benchmarks.input [--data=DIR] [--rounds=15]
"""

import argparse
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import cv2
import decord
import numpy as np

from benchmarks import decode as decoding
from configs import common
from input_pipeline import decode
from input_pipeline import prepare
from input_pipeline import records
from input_pipeline import resizing
from input_pipeline import storage
from input_pipeline import synthetic
from input_pipeline import transforms

HEIGHT, WIDTH = 256, 340
RESIZE, CROP = 256, (224, 224)
RESAMPLER = common.get_config().data.resampler
# File name, encoder, options: about the bits that such clips have on the web.
MADE = (
    ('h264_gop250.mp4', 'libx264', {
        'g': '250', 'sc_threshold': '0', 'crf': '17'}),
    ('h264_gop12.mp4', 'libx264', {
        'g': '12', 'sc_threshold': '0', 'crf': '19'}),
    ('mpeg4_gop12.avi', 'mpeg4', {'g': '12', 'b': '600k'}),
    ('mpeg4_bframes.avi', 'mpeg4', {'g': '12', 'bf': '2', 'b': '600k'}),
)
PROFILES = ('fast', 'jpeg')
RIVALS = ('decord and cv2', 'decord on one thread')
_CORES = os.sched_getaffinity(0)
# Mean difference in levels up to which frames are the same.
_SAME = 6.0


class Draw:
  """The frames of a clip and where it is cropped, as in training."""

  def __init__(self, rng, entry, size):
    edges = np.linspace(0, entry.num_frames, 9).astype(int)
    self.indices = [int(rng.integers(a, max(b, a + 1)))
                    for a, b in itertools.pairwise(edges)]
    sizes = transforms.multiscale_sizes(size, CROP)
    self.width, self.height = sizes[rng.integers(len(sizes))]
    places = transforms.fixed_offsets(size, (self.height, self.width))
    self.x, self.y = places[rng.integers(len(places))]

  def cut(self, frames):
    return frames[:, self.y:self.y + self.height, self.x:self.x + self.width]


def here(place, entry, draw):
  """Reads a clip as training does."""
  if entry.codec == 'folder':
    frames = decode.decode_folder(place, draw.indices)
  else:
    frames = decode.decode_frames(place, draw.indices, entry)
  frames = resizing.resize(frames, RESIZE, RESAMPLER)
  return resizing.contiguous(
      resizing.resize(draw.cut(frames), CROP, RESAMPLER))


def rival(path, size, draw, threads=1):
  """Reads a clip with decord, 0 threads are its choice, and OpenCV."""
  frames = decord.VideoReader(path, num_threads=threads).get_batch(
      draw.indices).asnumpy()
  if frames.shape[1:3] != size:
    frames = np.stack([cv2.resize(frame, size[::-1]) for frame in frames])
  return np.stack([cv2.resize(frame, CROP[::-1]) for frame in draw.cut(frames)])


def compare(ours, path, entry, rounds):
  """Times both in turn.

  Args:
    ours: (place, entry) of what is read here.
    path: the original, which the rival reads.
    entry: of the original.
    rounds: number of clips.

  Returns:
    ({reader: median ms}, {rival: (median, least, largest) of its time / here},
    mean and largest difference in levels).
  """
  rng = np.random.default_rng(0)
  scale = RESIZE / min(entry.height, entry.width)
  size = (int(entry.height * scale), int(entry.width * scale))
  draws = [Draw(rng, entry, size) for _ in range(rounds)]
  apart = [np.abs(here(*ours, d).astype(int) - rival(path, size, d))
           for d in draws[:3]]
  readers = {'here': lambda draw: here(*ours, draw),
             RIVALS[0]: lambda draw: _on_all_cores(rival, path, size, draw, 0),
             RIVALS[1]: lambda draw: rival(path, size, draw),
             'alone': lambda draw: _decode_alone(*ours, draw)}
  times = {name: [] for name in readers}
  for number, draw in enumerate(draws):
    names = list(readers)
    for name in names[number % 4:] + names[:number % 4]:
      spent = []
      for _ in range(3):
        start = time.process_time()
        readers[name](draw)
        spent.append(time.process_time() - start)
      times[name].append(1000 * min(spent))
  ratios = {name: [b / a for a, b in zip(times['here'], times[name],
                                         strict=True)] for name in RIVALS}
  return ({name: statistics.median(t) for name, t in times.items()},
          {name: (statistics.median(r), min(r), max(r))
           for name, r in ratios.items()},
          (np.mean([a.mean() for a in apart]), max(a.max() for a in apart)))


def _on_all_cores(call, *args):
  """Calls a function on all cores that this process may use."""
  os.sched_setaffinity(0, _CORES)
  try:
    return call(*args)
  finally:
    os.sched_setaffinity(0, {min(_CORES)})


def _decode_alone(place, entry, draw):
  """Decodes what `here` does, and converts and keeps nothing of it."""
  if entry.codec == 'folder':
    return
  nothing = np.zeros((1, 1, 3), np.uint8)
  with mock.patch.object(decode, '_to_rgb', lambda *_: nothing):
    decode.decode_frames(place, draw.indices, entry)


def quality(path, place, entry):
  """Returns the PSNR, dB, of stored frames to the originals, resized alike."""
  errors = []
  for start in range(0, entry.num_frames, 25):
    indices = [start]
    stored = (decode.decode_folder(place, indices) if entry.codec == 'folder'
              else decode.decode_frames(place, indices, entry))
    frames = decode.decode_frames(path, indices)
    if max(np.subtract(frames.shape[1:3], stored.shape[1:3])) > 1:
      frames = resizing.resize(frames, stored.shape[1:3])
    frames = frames[:, :stored.shape[1], :stored.shape[2]]
    errors.append(((stored.astype(np.float64) - frames) ** 2).mean())
  return 10 * np.log10(255 ** 2 / np.mean(errors))


def prepared(paths, folder, profile):
  """Prepares files; returns {name: (place, entry)}."""
  root = pathlib.Path(folder) / 'in' / 'videos'
  root.mkdir(parents=True, exist_ok=True)
  for path in paths:
    link = root / path.name
    if not link.exists():
      link.symlink_to(path.resolve())
  report = prepare.run(
      prepare.find('videos', _data(root.parent)), os.path.join(folder, profile),
      prepare.make_recipe(profile), num_shards=1)
  return {os.path.basename(name): (found.place, found.entry) for name, found
          in records.read_catalog(report.root).items()}


def _data(root):
  section = common.get_config().data
  section.root = str(root)
  return section


def files(folder, data):
  """Makes files; returns their paths and those of good ones below `data`."""
  frames, paths = decoding.movie(HEIGHT, WIDTH, cell=8), []
  for name, codec, options in MADE:
    paths.append(pathlib.Path(folder) / name)
    synthetic.encode(str(paths[-1]), frames, codec, options=options)
  for path in sorted(pathlib.Path(data).rglob('*')) if data else ():
    if path.is_file() and path.suffix not in ('.json', '.md', '.csv'):
      entry = decode.probe(path)
      if not entry.error and entry.num_frames >= 48 and not entry.rotation:
        paths.append(path)
  return paths


def main():
  """Prints tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', help='folder of more videos')
  parser.add_argument('--rounds', type=int, default=15)
  args = parser.parse_args()
  os.sched_setaffinity(0, {min(_CORES)})
  cv2.setNumThreads(1)
  decord.logging.set_level(decord.logging.QUIET)
  print('| file | read here | here, ms | of it the decoder | '
        + ' | '.join(f'{name}, ms | ratio' for name in RIVALS)
        + ' | difference: mean, largest | PSNR | kB |\n' + '|---' * 11 + '|')
  ratios = {}
  with tempfile.TemporaryDirectory() as folder:
    paths = files(folder, args.data)
    stored = {profile: prepared(paths, folder, profile) for profile in PROFILES}
    for path in paths:
      name, entry = path.name, decode.probe(path)
      for kind in ('as it is', *PROFILES):
        ours = stored[kind][name] if kind in stored else (str(path), entry)
        try:
          times, ratio, apart = compare(ours, str(path), entry, args.rounds)
        except (decord.DECORDError, IndexError, ValueError) as error:
          print(f'| {name} | {kind} | the rival fails: {error} |', flush=True)
          break
        loss = quality(str(path), *ours) if kind in stored else None
        size = len(storage.read_bytes(ours[0]))
        wrong = apart[0] > _SAME and kind == 'as it is'
        if wrong:
          print(f'| {name} | the rival returns other frames |', flush=True)
          break
        cells = [name, kind, f'{times["here"]:.1f}', f'{times["alone"]:.1f}']
        for other in RIVALS:
          ratios.setdefault((kind, other), []).append(ratio[other][0])
          cells += [f'{times[other]:.1f}',
                    '{:.2f} ({:.2f} to {:.2f})'.format(*ratio[other])]
        cells += [f'{apart[0]:.2f}, {apart[1]}',
                  '' if loss is None else f'{loss:.1f} dB',
                  f'{size / 1000:.0f}']
        print(f'| {" | ".join(cells)} |', flush=True)
  for (kind, other), found in ratios.items():
    print(f'{kind}, {other}: ratio median {statistics.median(found):.2f}, '
          f'least {min(found):.2f}')


if __name__ == '__main__':
  main()
