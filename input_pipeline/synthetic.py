"""The demo data set "ordered motions": the order of frames is the only clue.

Eight classes in four mirrored pairs. Each pair has its own shape, which a
single frame shows; a clip of one class is, in distribution, a time-reversed
clip of its partner, so no single frame, nor any average over frames, can tell
the two apart.

Usage: python -m input_pipeline.synthetic DIR --train 640 --eval 160 --seed 0

With decoys, two classes are learned for a wrong reason: see `generate`.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
import shutil

import av
import numpy as np
from PIL import Image
from PIL import ImageChops
from PIL import ImageDraw

WIDTH, HEIGHT, FPS = 320, 240, 25

# Pairs (class, its time reversal); a clip of the second is rendered as one of
# the first and played backwards.
PAIRS = (
    ('slide_right', 'slide_left'),
    ('grow', 'shrink'),
    ('appear', 'vanish'),
    ('turn_clockwise', 'turn_anticlockwise'),
)
CLASSES = tuple(sorted(name for pair in PAIRS for name in pair))
# Classes that a horizontal flip turns into each other.
FLIP_PAIRS = (PAIRS[0], PAIRS[3])
# Classes whose clips hold a decoy, if there are any.
DECOYED = PAIRS[0]

# Frames of a clip. Multiples of 8: segment sampling in training never sees the
# remainder at the end of a clip, which would tell the direction of 'appear'.
_LENGTHS = (24, 32, 40, 48)
# Motion stays in the middle square, which is what a centre crop leaves.
_CENTRE = (WIDTH / 2, HEIGHT / 2)
# Largest deviation of a pixel's grey level.
_NOISE = 4
_MANIFEST = 'ordered_motions.json'
_PARTS_FILE = 'parts.json'
# Shares of a clip: where its motion is, if it does not fill it, and a decoy.
_PARTS = ((0.0, 0.45), (0.55, 1.0))


def generate(directory, num_train=640, num_eval=160, seed=0, processes=None,
             decoys=None, classes=CLASSES):
  """Writes the data set as H.264 files, or leaves it if it is there already.

  Files are `train/<class>/NNNN.mp4` and `val/<class>/NNNN.mp4`, 320x240 pixels,
  25 frames/s, 24 to 48 frames; the same bytes for any number of processes.

  With `decoys`, each clip's motion is in the first or the second part of it
  alone, and clips of `DECOYED` hold a decoy in the other part: a large disc
  that slides, faster than the ring does, to the side that the class names or
  to the other. Which of the two is a bias of the training clips, on which a
  network may rely. `parts.json` tells where each clip's motion is.

  Args:
    directory: where to; must not exist, or hold the same set.
    num_train: training clips over all classes; a multiple of their number.
    num_eval: evaluation clips over all classes; a multiple of their number.
    seed: of everything random; 0 or more.
    processes: number of processes; None takes one a core.
    decoys: None; or (share in training, share in evaluation) of the decoys
      that slide to the side that their class names, 0 to 1.
    classes: those of `CLASSES` that are written; a clip does not depend on
      which others are.

  Returns:
    `directory`.

  Raises:
    ValueError: classes that there are not, numbers that do not balance them,
      or a directory that holds something else.
  """
  if not classes or len(set(CLASSES).intersection(classes)) != len(classes):
    raise ValueError(f'classes={tuple(classes)} must be some of '
                     f'{", ".join(CLASSES)}, each once')
  labels = sorted(map(CLASSES.index, classes))
  for key, number in (('num_train', num_train), ('num_eval', num_eval)):
    if number < 0 or number % len(labels):
      raise ValueError(f'{key}={number} must be a multiple of the '
                       f'{len(labels)} classes')
  content = {'num_train': num_train, 'num_eval': num_eval, 'seed': seed}
  if decoys is not None:
    if len(decoys) != 2 or not all(0 <= share <= 1 for share in decoys):
      raise ValueError(f'decoys={decoys} must be two shares, 0 to 1')
    content['decoys'] = list(decoys)
  if len(labels) < len(CLASSES):
    content['classes'] = [CLASSES[label] for label in labels]
  jobs = [
      _Job(split, label, number, seed, decoys and decoys[split != 'train'])
      for split, total in (('train', num_train), ('val', num_eval))
      for label in labels
      for number in range(total // len(labels))
  ]
  return fill(directory, _MANIFEST, content, jobs, processes, chunk=8,
              found_file=None if decoys is None else _PARTS_FILE)


def fill(directory, manifest, content, jobs, processes=None, chunk=1,
         found_file=None):
  """Writes files into a new directory, or leaves it if they are there already.

  Args:
    directory: where to; must not exist, or hold the same set.
    manifest: name of the file that tells what the set is.
    content: what it tells, plain data.
    jobs: objects with `path`, of a file below the directory, and `write`, a
      function of the whole path that writes it and may return plain data;
      processes must be able to take them.
    processes: number of processes; None takes one a core.
    chunk: files that a process takes at a time.
    found_file: name of a file that takes {path: what `write` returned}, or
      None.

  Returns:
    The directory's whole path.

  Raises:
    ValueError: the directory holds something else.
  """
  directory = os.path.abspath(directory)
  if os.path.isdir(directory) and os.listdir(directory):
    if _read_manifest(os.path.join(directory, manifest)) == content:
      return directory
    raise ValueError(f'{directory}: the directory holds other files; remove it '
                     'or choose another')
  # Written beside its place and renamed, so that what is there is complete.
  partial = directory + '.partial'
  shutil.rmtree(partial, ignore_errors=True)
  os.makedirs(partial)
  paths = [os.path.join(partial, job.path) for job in jobs]
  for folder in sorted({os.path.dirname(path) for path in paths}):
    os.makedirs(folder, exist_ok=True)
  processes = processes or os.cpu_count()
  if processes == 1:
    found = list(map(_write, jobs, paths))
  else:
    with concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context('spawn')) as pool:
      found = list(pool.map(_write, jobs, paths, chunksize=chunk))
  if found_file:
    with open(os.path.join(partial, found_file), 'w',
              encoding='utf-8') as file:
      json.dump({job.path: value for job, value in zip(jobs, found)}, file,
                indent=1)
  with open(os.path.join(partial, manifest), 'w', encoding='utf-8') as file:
    json.dump(content, file, indent=1)
  if os.path.isdir(directory):
    os.rmdir(directory)
  os.rename(partial, directory)
  return directory


def _write(job, path):
  return job.write(path)


@dataclasses.dataclass(frozen=True)
class Parts:
  """Where in a clip what moves, as shares of its length.

  Attributes:
    motion: (start, stop) of the motion that its class names.
    decoy: the same of the decoy, or None.
    agrees: whether the decoy slides to the side that the class names.
  """
  motion: tuple[float, float] = (0.0, 1.0)
  decoy: tuple[float, float] | None = None
  agrees: bool = False

  @classmethod
  def draw(cls, class_name, rng, share):
    """Draws the parts; `share` of the decoys agree."""
    motion, other = rng.permutation(2)
    agrees = bool(rng.random() < share)
    if class_name not in DECOYED:
      return cls(_PARTS[motion])
    return cls(_PARTS[motion], _PARTS[other], agrees)

  def frames(self, num_frames):
    """Returns {'motion' or 'decoy': [first frame, the one after the last]}."""
    return {key: [round(share * num_frames) for share in shares]
            for key, shares in (('motion', self.motion), ('decoy', self.decoy))
            if shares}


def render(class_name, rng, parts=Parts()):
  """Draws one clip.

  Args:
    class_name: one of `CLASSES`.
    rng: `np.random.Generator`.
    parts: where in it what moves.

  Returns:
    uint8 [n, 240, 320, 3], n from 24 to 48.
  """
  pair = pair_of(class_name)
  num_frames = int(rng.choice(_LENGTHS))
  background = backdrop(rng)
  movers = [Distractor.draw(rng, moves=True) for _ in range(2)]
  noise = noise_field(rng)
  drawn = {'motion': motion(pair, rng)}
  if parts.decoy:
    drawn['decoy'] = _decoy(parts.agrees, rng)
  progresses = {key: np.full(num_frames, np.nan) for key in drawn}
  for key, (first, stop) in parts.frames(num_frames).items():
    if class_name == pair[1]:  # Played backwards in the end.
      first, stop = num_frames - stop, num_frames - first
    progresses[key][first:stop] = np.linspace(0, 1, stop - first)
  frames = []
  for i, progress in enumerate(np.linspace(0, 1, num_frames)):
    image = background.copy()
    for distractor in movers:
      distractor.paint(image, progress)
    for key, draw in drawn.items():
      if not np.isnan(progresses[key][i]):
        draw(image, progresses[key][i])
    frames.append(np.asarray(add_noise(image, noise, rng)))
  # All draws above are symmetric in time, so this is the whole difference.
  return np.stack(frames[::-1] if class_name == pair[1] else frames)


def pair_of(class_name):
  """Returns the pair of classes that a class belongs to."""
  return next(pair for pair in PAIRS if class_name in pair)


def motion(pair, rng):
  """Returns a function (image, progress from 0 to 1) that paints the object.

  Its progress rises in the first class of the pair, and falls in the second.
  """
  colour = _colour(rng, value=1.0)
  x, y = _CENTRE + rng.uniform(-25, 25, 2)
  size = rng.uniform(34, 46)
  angle = rng.uniform(0, 2 * math.pi)
  if pair == PAIRS[0]:
    travel = rng.uniform(90, 150)
    y += rng.uniform(-25, 25)
    x = _CENTRE[0] + rng.uniform(-15, 15)

    def draw(image, p):
      place = (x + travel * (p - 0.5), y)
      _paint(image, [_ring(*place, 0.9 * size)], colour)
  elif pair == PAIRS[1]:
    small, large = rng.uniform(14, 22), rng.uniform(46, 62)
    tilt = rng.uniform(-0.2, 0.2)

    def draw(image, p):
      half = small + (large - small) * p
      _paint(image, [_regular(x, y, half * 1.3, 4, math.pi / 4 + tilt)], colour)
  elif pair == PAIRS[2]:

    def draw(image, p):
      _paint(image, [_star(x, y, 1.3 * size, angle)], colour, opacity=p)
  else:
    # Like the needle of a gauge: through the top, from one side to the other.
    turn = rng.uniform(0.35, 0.55) * 2 * math.pi
    middle = -math.pi / 2 + rng.uniform(-0.35, 0.35)

    def draw(image, p):
      # y points down, so a growing angle is clockwise.
      now = middle + turn * (p - 0.5)
      _paint(image, [_arrow(x, y, 1.4 * size, now)], colour)
  return draw


def _decoy(agrees, rng):
  """Returns a function that paints the decoy at a progress of 0..1."""
  colour = _colour(rng, value=1.0)
  y = _CENTRE[1] + rng.uniform(-30, 30)
  travel = rng.uniform(150, 190) * (1 if agrees else -1)
  size = rng.uniform(46, 56)

  def draw(image, p):
    x = _CENTRE[0] + travel * (p - 0.5)
    _paint(image, [_regular(x, y, size, 24, 0)], colour)
  return draw


def backdrop(rng):
  """Draws what stays behind all frames: a texture and resting distractors."""
  background = _background(rng)
  for _ in range(3):
    Distractor.draw(rng, moves=False).paint(background, 0)
  return background


def add_noise(image, noise, rng):
  """Returns an image with the noise of one frame, from `noise_field`."""
  x, y = rng.integers((WIDTH, HEIGHT))
  grain = noise.crop((x, y, x + WIDTH, y + HEIGHT))
  return ImageChops.add(image, grain, offset=-_NOISE)


@dataclasses.dataclass
class Distractor:
  """A small triangle that rests, or moves along a line of any direction."""

  start: np.ndarray
  stop: np.ndarray
  size: float
  angle: float
  colour: tuple

  @classmethod
  def draw(cls, rng, moves):
    """Draws where it rests, or from where to where it moves."""
    start = rng.uniform((0, 0), (WIDTH, HEIGHT))
    # Uniform direction: as likely as its reverse.
    heading = rng.uniform(0, 2 * math.pi)
    path = rng.uniform(40, 160) * moves
    shift = path * np.array((math.cos(heading), math.sin(heading)))
    return cls(start - shift / 2, start + shift / 2, rng.uniform(7, 13),
               rng.uniform(0, 2 * math.pi), _colour(rng, value=0.75))

  def paint(self, image, progress):
    """Paints it on an image, at a progress from 0 to 1."""
    x, y = self.start + (self.stop - self.start) * progress
    _paint(image, [_regular(x, y, self.size, 3, self.angle)], self.colour)


def _background(rng):
  """Draws a texture: smooth blotches of two colours with fine ripples."""
  low, high = (np.array(_colour(rng, value=rng.uniform(0.2, 0.55)))
               for _ in range(2))
  coarse = rng.random((6, 8)).astype(np.float32)
  fine = rng.random((48, 64)).astype(np.float32)
  blend = sum(
      weight * np.asarray(Image.fromarray(grid).resize(
          (WIDTH, HEIGHT), Image.Resampling.BICUBIC))
      for weight, grid in ((0.75, coarse), (0.25, fine)))[..., None]
  return Image.fromarray(
      np.clip(low + (high - low) * blend, 0, 255).astype(np.uint8))


def noise_field(rng):
  """Draws a grey field, four frames large, that frames cut their noise from."""
  grey = rng.integers(
      0, 2 * _NOISE, (2 * HEIGHT, 2 * WIDTH), dtype=np.uint8, endpoint=True)
  return Image.fromarray(grey).convert('RGB')


def _colour(rng, value):
  """Draws an RGB colour of any hue and the given HSV value of 0..1."""
  hue, saturation = rng.random(), rng.uniform(0.2, 0.8)
  # The three channels of HSV are one curve, a third of a turn apart.
  ramps = (np.abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2))
  return tuple(int(255 * value * (1 - saturation * (1 - np.clip(r, 0, 1))))
               for r in ramps)


def _paint(image, outlines, colour, opacity=1.0):
  """Fills polygons, with smooth edges, on a part of the image."""
  points = np.concatenate(outlines)
  left, top = np.floor(points.min(0)).astype(int) - 1
  right, bottom = np.ceil(points.max(0)).astype(int) + 2
  mask = Image.new('L', (2 * (right - left), 2 * (bottom - top)))
  pen = ImageDraw.Draw(mask)
  for outline in outlines:
    corners = (outline - (left, top)) * 2
    pen.polygon([tuple(c) for c in corners], fill=round(255 * opacity))
  image.paste(colour, (left, top), mask.reduce(2))


def _polar(x, y, radii, angles):
  return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)


def _regular(x, y, radius, corners, angle):
  return _polar(x, y, radius, angle + 2 * np.pi * np.arange(corners) / corners)


def _ring(x, y, radius):
  """A ring as one outline: around the outside, and back along the inside."""
  turn = np.linspace(0, 2 * np.pi, 33)
  return np.concatenate([_polar(x, y, radius, turn),
                         _polar(x, y, 0.55 * radius, turn[::-1])])


def _star(x, y, radius, angle):
  corners = np.arange(10)
  return _polar(x, y, radius * np.where(corners % 2, 0.38, 1.0),
                angle + np.pi * corners / 5)


def _arrow(x, y, radius, angle):
  """A thick arrow that points to `angle` and is centred on its shaft."""
  along = np.array((1.0, 0.1, 0.1, -0.9, -0.9, 0.1, 0.1)) * radius
  across = np.array((0.0, 0.7, 0.22, 0.22, -0.22, -0.22, -0.7)) * radius
  cosine, sine = math.cos(angle), math.sin(angle)
  return np.stack([x + along * cosine - across * sine,
                   y + along * sine + across * cosine], 1)


@dataclasses.dataclass(frozen=True)
class _Job:
  """One file to write."""

  split: str
  label: int
  number: int
  seed: int
  share: float | None = None

  @property
  def path(self):
    return os.path.join(self.split, CLASSES[self.label],
                        f'{self.number:04d}.mp4')

  def write(self, path):
    """Renders and encodes a clip; its numbers alone determine every byte.

    Args:
      path: the file.

    Returns:
      What `parts.json` says of it.
    """
    rng = np.random.default_rng((
        self.seed, ('train', 'val').index(self.split), self.label, self.number))
    name = CLASSES[self.label]
    parts = (Parts() if self.share is None
             else Parts.draw(name, rng, self.share))
    frames = render(name, rng, parts)
    encode(path, frames)
    found = {'num_frames': len(frames), **parts.frames(len(frames))}
    return {**found, 'agrees': parts.agrees} if parts.decoy else found


def encode(path, frames, codec='libx264', fps=FPS, pix_fmt='yuv420p',
           options=None):
  """Writes frames as a video file, with one thread and no clock in it.

  Args:
    path: file; its suffix chooses the container.
    frames: uint8 [n, H, W, 3], RGB, or an iterable of such frames; H and W
      even for most codecs.
    codec: FFmpeg's name of the encoder.
    fps: frames per second, an integer.
    pix_fmt: FFmpeg's name of the pixel format.
    options: of the encoder; None is fast H.264 with a key frame every 12.
  """
  if options is None:
    options = {'preset': 'ultrafast', 'crf': '24', 'g': '12', 'bf': '0'}
  with av.open(path, 'w', container_options={'fflags': '+bitexact'}) as output:
    stream = output.add_stream(codec, rate=fps, options=options)
    stream.pix_fmt = pix_fmt
    stream.codec_context.thread_count = 1
    for i, frame in enumerate(frames):
      if i == 0:
        stream.height, stream.width = frame.shape[:2]
      picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
      # Times count frames, whatever the container's time base.
      output.mux(stream.encode(picture.reformat(format=pix_fmt, threads=1)))
    output.mux(stream.encode())


def _read_manifest(path):
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except (OSError, ValueError):
    return None


def read_parts(directory) -> dict:
  """Returns what `parts.json` of a data set with decoys says.

  Args:
    directory: the data set's.

  Returns:
    {video: {'num_frames': n, 'motion': [first, stop]}}, from 0, `stop` being
    the frame after the last; where there is a decoy also 'decoy' and 'agrees'.
  """
  with open(os.path.join(directory, _PARTS_FILE), encoding='utf-8') as file:
    return json.load(file)


def main():
  """Writes the data set from the command line."""
  parser = argparse.ArgumentParser(description='Writes "ordered motions".')
  parser.add_argument('directory')
  parser.add_argument('--train', type=int, default=640, help='training clips')
  parser.add_argument('--eval', type=int, default=160, help='evaluation clips')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--decoys', type=float, nargs=2, metavar='SHARE',
                      help='clips of two classes hold a decoy; shares, in '
                      'training and in evaluation, of those that agree')
  parser.add_argument('--classes', nargs='+', default=CLASSES, metavar='CLASS',
                      help='these alone; all are ' + ', '.join(CLASSES))
  args = parser.parse_args()
  print(generate(args.directory, args.train, args.eval, args.seed,
                 decoys=args.decoys, classes=args.classes))


if __name__ == '__main__':
  main()
