"""How much processor time the clips of a training take, and what would help."""

import dataclasses
import os
import tempfile
import time

import numpy as np

from input_pipeline import batches
from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import index
from input_pipeline import reencode
from input_pipeline import sources

# Clips that are made before anything is timed: imports, first opens.
_WARM_UP = 2
# A smaller gain is not worth a second copy of the data.
_WORTH_IT = 1.1


@dataclasses.dataclass(frozen=True)
class Cost:
  """Processor time of training clips, on one core.

  Attributes:
    decode: seconds for the frames of a clip, of each clip measured.
    total: seconds for the whole clip, with resizing, crop and flip.
    bytes: size of the files that they come from, on average.
  """

  decode: np.ndarray
  total: np.ndarray
  bytes: float

  @property
  def mean(self) -> float:
    """Seconds of a clip on average: what cores must be paid for."""
    return float(self.total.mean())

  @property
  def clips_per_second(self) -> float:
    """Clips that a core makes."""
    return 1 / self.mean


def measure(dataset, config, clips=64, seed=0):
  """Measures what clips of a training cost.

  Videos are drawn by chance, the files being in the system's cache; what a
  slow disk takes is not in it.

  Args:
    dataset: `sources.Dataset`.
    config: the whole configuration.
    clips: number of clips.
    seed: of the draws.

  Returns:
    Cost.

  Raises:
    decode.VideoError: a clip cannot be had.
  """
  maker = batches.TrainClip(dataset, config)
  rng = np.random.default_rng(seed)
  drawn = rng.integers(len(dataset.records), size=clips + _WARM_UP)
  decoding, total = [], []
  for number, record in enumerate(drawn):
    # The first of the two also brings the file into the system's cache.
    maker.frames(int(record), np.random.default_rng((seed, number)))
    start = time.process_time()
    maker.frames(int(record), np.random.default_rng((seed, number)))
    middle = time.process_time()
    slot = maker(int(record), np.random.default_rng((seed, number)))
    total.append(time.process_time() - middle)
    decoding.append(middle - start)
    if not slot['mask']:
      raise decode.VideoError(dataset.records[record].path,
                              'it could not be read')
  sizes = [dataset.records[record].entry.size for record in set(drawn)]
  return Cost(np.asarray(decoding[_WARM_UP:]), np.asarray(total[_WARM_UP:]),
              float(np.mean(sizes)))


def reencoded(dataset, config, recipe, folder, videos=6, seed=0):
  """Makes a few videos anew, as `vidattn prepare` would.

  Args:
    dataset: `sources.Dataset`.
    config: the whole configuration.
    recipe: as `prepare.make_recipe` returns it, with profile `fast`.
    folder: where to write them.
    videos: how many.
    seed: of the draws.

  Returns:
    (`sources.Dataset` of the videos as they are, that of the new ones).

  Raises:
    decode.VideoError: a video cannot be read.
  """
  files = [i for i, r in enumerate(dataset.records)
           if r.entry.codec != 'folder']
  chosen = np.random.default_rng(seed).permutation(files)[:videos]
  before = [dataset.records[i] for i in sorted(chosen)]
  paths = []
  for number, record in enumerate(before):
    entry = record.entry
    encoder = reencode.H264(
        recipe, reencode.times_of(entry, 0, entry.num_frames))
    for frame in decode.iterate(
        record.path, config.data.rotate, containers.limits_of(config.data)):
      encoder.add(frame)
    paths.append(os.path.join(folder, f'{number}{encoder.suffix}'))
    with open(paths[-1], 'wb') as file:
      file.write(encoder.finish())
  entries = index.build(paths)
  after = [dataclasses.replace(record, path=path, entry=entries[path])
           for record, path in zip(before, paths)]
  return tuple(dataclasses.replace(dataset, records=tuple(records))
               for records in (before, after))


def rate(dataset, config, seconds=10.0):
  """Runs the input as a training does, and counts.

  Args:
    dataset: `sources.Dataset`.
    config: the whole configuration; `data.threads`, `data.workers` count.
    seconds: how long, after the first batch.

  Returns:
    Clips per second.
  """
  stream = batches.train_batches(dataset, config, num_steps=10 ** 9)
  try:
    next(stream)
    start, clips = time.monotonic(), 0
    while time.monotonic() - start < seconds or not clips:
      clips += len(next(stream)['label'])
    return clips / (time.monotonic() - start)
  finally:
    stream.close()


@dataclasses.dataclass(frozen=True)
class Advice:
  """What was measured.

  Attributes:
    now: Cost of the data as they are.
    before: Cost of a few videos as they are; None if none was made anew.
    after: Cost of the same videos made anew.
    rate: clips per second of the whole input on this machine.
    cores: cores of this machine that this process may use.
    wanted: clips per second that a chip takes; 0 if unknown.
    wanted_by: where that figure is from.
  """

  now: Cost
  before: Cost | None
  after: Cost | None
  rate: float
  cores: int
  wanted: float = 0.0
  wanted_by: str = ''

  @property
  def gain(self) -> float:
    """How many times as many clips a core makes of videos made anew."""
    return self.before.mean / self.after.mean if self.after else 1.0

  @property
  def cores_needed(self) -> tuple[float, float]:
    """Cores that keep a chip busy: with data as they are; at best."""
    cores = self.wanted * self.now.mean
    return cores, cores / max(self.gain, 1.0)

  def to_json(self) -> dict:
    """Returns the figures as plain values; times in milliseconds."""
    def figures(cost):
      return cost and {
          'decode_ms': float(1e3 * cost.decode.mean()),
          'total_ms': 1e3 * cost.mean,
          'p90_ms': float(1e3 * np.percentile(cost.total, 90)),
          'clips_per_second_and_core': cost.clips_per_second,
          'clips': len(cost.total), 'bytes': cost.bytes}
    found = {name: figures(getattr(self, name))
             for name in ('now', 'before', 'after')}
    found |= {'clips_per_second': self.rate, 'cores': self.cores,
              'gain': self.gain}
    if self.wanted:
      found |= {'wanted_clips_per_second': self.wanted,
                'cores_needed': self.cores_needed[0],
                'cores_needed_reencoded': self.cores_needed[1]}
    return found

  def __str__(self):
    """Returns the figures as text."""
    def line(name, cost):
      return (f'{name:<28}{1e3 * cost.decode.mean():8.1f}'
              f'{1e3 * cost.mean:8.1f}'
              f'{1e3 * np.percentile(cost.total, 90):8.1f}'
              f'{cost.clips_per_second:14.1f}')
    lines = [
        'Processor time of a training clip on one core, in ms',
        f'{"":<28}{"decode":>8}{"all":>8}{"90 %":>8}{"clips/s, core":>14}',
        line(f'as it is ({len(self.now.total)} clips)', self.now)]
    if self.after:
      lines += [line('a few videos as they are', self.before),
                line('the same, made anew', self.after)]
    lines.append(
        f'The whole input on this machine: {self.rate:.0f} clips/s with '
        f'{self.cores} core{"s" * (self.cores > 1)}.')
    if self.after:
      size = self.after.bytes / self.before.bytes
      lines.append(
          f'`vidattn prepare --profile=fast` makes {self.gain:.1f} times as '
          f'many clips of a core, in {size:.1f} times the bytes.'
          if self.gain > _WORTH_IT else
          '`vidattn prepare --profile=fast` would gain nothing: these files '
          'already decode fast.')
    if self.wanted:
      cores, fewer = self.cores_needed
      line = (f'One chip takes {self.wanted:.0f} clips/s ({self.wanted_by}): '
              f'{cores:.1f} cores keep it busy')
      lines.append(line + (f', {fewer:.1f} with data made anew.'
                           if self.gain > _WORTH_IT else '.'))
    return '\n'.join(lines)


def advise(config, *, clips=64, seconds=10.0, recipe=None, wanted=0.0,
           wanted_by='', index_file=''):
  """Measures the input of a training.

  Args:
    config: the whole configuration.
    clips: clips whose processor time is measured.
    seconds: how long the whole input runs.
    recipe: of videos made anew, see `reencoded`; None makes none.
    wanted: clips per second that a chip takes; 0 if unknown.
    wanted_by: where that figure is from.
    index_file: keeps what is known of the videos.

  Returns:
    Advice.

  Raises:
    ValueError: the data cannot be used as configured.
  """
  dataset = sources.load(config.data, 'train', index_file=index_file)
  now = measure(dataset, config, clips)
  before = after = None
  if recipe and any(r.entry.codec != 'folder' for r in dataset.records):
    with tempfile.TemporaryDirectory(prefix='vidattn_') as folder:
      before, after = (measure(part, config, clips) for part in reencoded(
          dataset, config, recipe, folder))
  return Advice(now, before, after, rate(dataset, config, seconds),
                len(os.sched_getaffinity(0)), wanted, wanted_by)
