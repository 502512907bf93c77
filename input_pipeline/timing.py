"""Frames by time: a constant rate out of a variable one."""

import dataclasses

import numpy as np

FRAMES_BY = ('ordinal', 'time')


def check(config_data):
  """Checks the keys that say which frames a number means.

  Args:
    config_data: the section `data` of the configuration.

  Raises:
    ValueError: keys that cannot be.
  """
  if config_data.frames_by not in FRAMES_BY:
    raise ValueError("data.frames_by must be 'ordinal' or 'time', not "
                     f'{config_data.frames_by!r}')
  if config_data.frame_rate < 0:
    raise ValueError(
        f'data.frame_rate={config_data.frame_rate:g} must not be negative')
  if config_data.frames_by == 'ordinal' and config_data.frame_rate:
    raise ValueError(f'data.frame_rate={config_data.frame_rate:g} has a '
                     "meaning with data.frames_by='time' only")
  if config_data.frames_by == 'time' and config_data.flow_root:
    raise ValueError("data.frames_by='time' cannot be had with stored flow "
                     '(data.flow_root), which is of all frames in turn')


def grid(entry, frames_by='ordinal', rate=0.0):
  """Tells which frames of a video are numbered, and how.

  By time, frame k is the one that is seen k / rate seconds after the first
  appears. A video of constant rate gives, at that rate, each of its frames
  once. The last frame is seen for as long as the others on average.

  Args:
    entry: `decode.IndexEntry`.
    frames_by: 'ordinal' or 'time'.
    rate: frames per second; 0 takes the video's average.

  Returns:
    int64 [n], the ordinal of each frame, never falling. Without times (folders
    of frames, some damaged files) each frame once.
  """
  count = entry.num_frames
  ticks = np.asarray(entry.times(), np.float64)
  if frames_by == 'ordinal' or len(ticks) != count or count < 2 or (
      ticks[-1] <= ticks[0]):
    return np.arange(count)
  ticks -= ticks[0]
  duration = ticks[-1] * count / (count - 1)
  step = duration / count
  if rate:
    seconds, ticks_in_them = entry.time_base
    step = ticks_in_them / (seconds * rate)
  number = max(round(duration / step), 1)
  # Half a frame later, so that rounded times do not matter.
  moments = np.arange(number) * step + min(step, duration / count) / 2
  return np.searchsorted(ticks, moments, 'right') - 1


def nearest(entry, seconds):
  """Finds the frames that appear nearest to some times.

  Args:
    entry: `decode.IndexEntry`.
    seconds: float [n], after the first frame appears.

  Returns:
    list of n ordinals; past the end they go on at the average rate. None if
    nothing is known of the frames' times.
  """
  count = entry.num_frames
  ticks = np.asarray(entry.times(), np.float64)
  over, under = entry.time_base
  if not over or len(ticks) != count or count < 2 or ticks[-1] <= ticks[0]:
    return [round(s * entry.rate) for s in seconds] if entry.rate else None
  times = (ticks - ticks[0]) * over / under
  step = times[-1] / (count - 1)
  middles = (times[1:] + times[:-1]) / 2
  return [int(np.searchsorted(middles, s, 'right'))
          if s < times[-1] else count - 1 + round((s - times[-1]) / step)
          for s in seconds]


def extent(entry, start, count, config_data):
  """Numbers a part of a video as a configuration wants it.

  Args:
    entry: `decode.IndexEntry` of the whole video.
    start: ordinal of the first frame of the part.
    count: frames of the part.
    config_data: the section `data` of the configuration.

  Returns:
    (number of the first frame, how many there are), at least one.
  """
  if config_data.frames_by == 'ordinal':
    return start, count
  numbered = grid(entry, config_data.frames_by, config_data.frame_rate)
  first, stop = np.searchsorted(numbered, [start, start + count]).tolist()
  # A short part may lie between two moments of a low rate.
  first = min(first, len(numbered) - 1)
  return first, max(stop - first, 1)


def renumber(entry, recipe):
  """Numbers the frames of a video as a recipe says.

  Args:
    entry: `decode.IndexEntry`.
    recipe: what `transforms.pixel_recipe` returned; those of old checkpoints do
      not speak of time.

  Returns:
    (the entry with the number of frames and the rate of these numbers, int64
    [n], the ordinal of each frame).
  """
  rate = recipe.get('frame_rate') or 0.0
  numbers = grid(entry, recipe.get('frames_by', 'ordinal'), rate)
  return dataclasses.replace(entry, num_frames=len(numbers),
                             rate=rate or entry.rate), numbers
