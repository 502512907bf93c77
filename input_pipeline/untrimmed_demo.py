"""The demo data set of untrimmed videos: motions to find, and their times.

Minutes of texture and small wandering triangles, in which a few of the ordered
motions of `synthetic` happen, and at times one of their objects only rests.

Usage: python -m input_pipeline.untrimmed_demo DIR --train 24 --eval 8 --seed 0
"""

import argparse
import dataclasses

import numpy as np

from input_pipeline import synthetic

FPS = synthetic.FPS
# Shortest and longest action, and least pause between two, in frames.
_ACTION = (32, 128)
_PAUSE = 24
# Frames after which other distractors wander.
_WANDER = 150


@dataclasses.dataclass(frozen=True)
class Event:
  """What happens in a part of a video.

  Attributes:
    start: first frame.
    stop: one past the last.
    label: class name.
    rests: the object only rests there: no action.
  """
  start: int
  stop: int
  label: str
  rests: bool = False


def generate(directory, num_train=24, num_eval=8, seed=0, seconds=(60, 180),
             processes=None):
  """Writes the data set, or leaves it if it is there already.

  Files are `videos/train_NNN.mp4` and `videos/val_NNN.mp4`, 160x120 pixels, 25
  frames/s, H.264, and `annotations.json` in the layout of ActivityNet, with the
  subsets training and validation; the same bytes for any number of processes.

  Args:
    directory: where to; must not exist, or hold the same set.
    num_train: training videos.
    num_eval: evaluation videos.
    seed: of everything random; 0 or more.
    seconds: length of the shortest and of the longest video.
    processes: number of processes; None takes one a core.

  Returns:
    `directory`.

  Raises:
    ValueError: numbers that cannot be, or a directory that holds something
      else.
  """
  least = (6 * _ACTION[1] + 7 * _PAUSE) / FPS
  if min(num_train, num_eval) < 0 or num_train + num_eval < 1:
    raise ValueError(f'num_train={num_train} and num_eval={num_eval} must not '
                     'be negative, nor both 0')
  if not least <= seconds[0] <= seconds[1]:
    raise ValueError(f'seconds={tuple(seconds)} must rise, and be at least '
                     f'{least:.1f}, so that six actions find a place')
  jobs = [_Job(split, number, seed, tuple(seconds))
          for split, total in (('train', num_train), ('val', num_eval))
          for number in range(total)]
  return synthetic.fill(directory, 'annotations.json', {
      'version': f'untrimmed motions, seed {seed}',
      'taxonomy': list(synthetic.CLASSES),
      'database': dict(job.annotation() for job in jobs)}, jobs, processes)


def plan(rng, seconds):
  """Draws what happens in a video.

  Args:
    rng: `np.random.Generator`.
    seconds: length of the shortest and of the longest video.

  Returns:
    (number of frames, tuple of `Event` in order, none of which overlap).
  """
  num_frames = round(rng.uniform(*seconds) * FPS)
  count = int(rng.integers(2, 7))
  low, high = np.log(_ACTION)
  lengths = np.exp(rng.uniform(low, high, count)).astype(int)
  # What is left beside actions and pauses is shared out at random.
  left = num_frames - lengths.sum() - (count + 1) * _PAUSE
  shares = np.diff([0, *np.sort(rng.integers(0, left + 1, count)), left])
  events, place = [], 0
  for i, share in enumerate(shares):
    gap = int(share) + _PAUSE
    # In about half of the long pauses an object rests.
    rest = int(rng.integers(24, 72))
    if gap > rest + 2 * _PAUSE and rng.random() < 0.5:
      start = place + int(rng.integers(_PAUSE, gap - rest - _PAUSE + 1))
      events.append(Event(start, start + rest,
                          str(rng.choice(synthetic.CLASSES)), rests=True))
    place += gap
    if i < count:
      stop = place + int(lengths[i])
      events.append(Event(place, stop, str(rng.choice(synthetic.CLASSES))))
      place = stop
  return num_frames, tuple(events)


def render(rng, num_frames, events):
  """Draws a video, frame by frame.

  Args:
    rng: `np.random.Generator`.
    num_frames: number of frames.
    events: what happens.

  Yields:
    uint8 [120, 160, 3].
  """
  background, noise = synthetic.backdrop(rng), synthetic.noise_field(rng)
  happening, wanderers = list(events), []
  draw = event = None
  for i in range(num_frames):
    if i % _WANDER == 0:
      wanderers = [synthetic.Distractor.draw(rng, moves=True)
                   for _ in range(2)]
    if event and i == event.stop:
      event = None
    if happening and i == happening[0].start:
      event = happening.pop(0)
      pair = synthetic.pair_of(event.label)
      draw = synthetic.motion(pair, rng)
      backwards = event.label == pair[1]
      rest = rng.uniform(0.4, 1.0)
    image = background.copy()
    for wanderer in wanderers:
      wanderer.paint(image, i % _WANDER / _WANDER)
    if event:
      progress = (i - event.start) / (event.stop - event.start - 1)
      progress = 1 - progress if backwards else progress
      draw(image, rest if event.rests else progress)
    yield np.asarray(synthetic.add_noise(image, noise, rng).reduce(2))


@dataclasses.dataclass(frozen=True)
class _Job:
  """One video to write."""

  split: str
  number: int
  seed: int
  seconds: tuple

  @property
  def path(self):
    return f'videos/{self.split}_{self.number:03d}.mp4'

  def _plan(self):
    """Returns a generator, and what it planned first."""
    rng = np.random.default_rng(
        (self.seed, 2 + ('train', 'val').index(self.split), self.number))
    return rng, *plan(rng, self.seconds)

  def annotation(self):
    """Returns (name, its entry in `database`)."""
    _, num_frames, events = self._plan()
    return f'{self.split}_{self.number:03d}', {
        'subset': {'train': 'training', 'val': 'validation'}[self.split],
        'duration': num_frames / FPS, 'path': self.path,
        'annotations': [{'segment': [e.start / FPS, e.stop / FPS],
                         'label': e.label} for e in events if not e.rests]}

  def write(self, path):
    """Renders and encodes the video; its numbers alone determine every byte."""
    rng, num_frames, events = self._plan()
    synthetic.encode(path, render(rng, num_frames, events))


def main():
  """Writes the data set from the command line."""
  parser = argparse.ArgumentParser(
      description='Writes untrimmed videos of ordered motions.')
  parser.add_argument('directory')
  parser.add_argument('--train', type=int, default=24, help='training videos')
  parser.add_argument('--eval', type=int, default=8, help='evaluation videos')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  print(generate(args.directory, args.train, args.eval, args.seed))


if __name__ == '__main__':
  main()
