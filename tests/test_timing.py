"""Frames by time: what a viewer would see at a constant rate."""

import dataclasses
import fractions

import av
import numpy as np
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import decode
from input_pipeline import display
from input_pipeline import probing
from input_pipeline import sources
from input_pipeline import timing
from input_pipeline import transforms


def _entry(times, time_base=(1, 1000)):
  return decode.IndexEntry(num_frames=len(times), pts=probing.to_runs(times),
                           time_base=time_base)


def test_constant_rate_gives_each_frame_once():
  # Milliseconds round 30 frames per second, as Matroska does.
  times = [round(i * 1000 / 30) for i in range(300)]
  entry = _entry(times)
  for rate in (0.0, 30.0):
    np.testing.assert_array_equal(timing.grid(entry, 'time', rate),
                                  np.arange(300))
  np.testing.assert_array_equal(timing.grid(entry, 'time', 15.0),
                                np.arange(0, 300, 2))
  doubled = timing.grid(entry, 'time', 60.0)
  np.testing.assert_array_equal(doubled, np.repeat(np.arange(300), 2))


def test_variable_rate_shows_what_is_seen():
  # Four frames of 0.1 s each, one of 0.4 s, then 0.1 s again.
  entry = _entry([0, 100, 200, 300, 700, 800])
  assert timing.grid(entry, 'ordinal').tolist() == [0, 1, 2, 3, 4, 5]
  assert timing.grid(entry, 'time', 10.0).tolist() == [
      0, 1, 2, 3, 3, 3, 3, 4, 5, 5]
  # The average: six frames in 0.96 s.
  assert timing.grid(entry, 'time').tolist() == [0, 2, 3, 3, 4, 5]
  shifted = dataclasses.replace(entry, pts=probing.to_runs(
      [t + 5000 for t in entry.times()]))
  np.testing.assert_array_equal(timing.grid(shifted, 'time', 10.0),
                                timing.grid(entry, 'time', 10.0))


@pytest.mark.parametrize('entry', [
    decode.IndexEntry(num_frames=4), _entry([7]), _entry([3, 3, 3])])
def test_without_times_each_frame_once(entry):
  assert timing.grid(entry, 'time', 10.0).tolist() == list(
      range(entry.num_frames))


def test_parts_of_a_video():
  data = common.get_config().data
  entry = _entry([0, 100, 200, 300, 700, 800])
  assert timing.extent(entry, 2, 3, data) == (2, 3)
  data.frames_by, data.frame_rate = 'time', 10.0
  assert timing.extent(entry, 2, 3, data) == (2, 6)
  assert timing.extent(entry, 0, 6, data) == (0, 10)
  data.frame_rate = 1.0
  assert timing.extent(entry, 5, 1, data) == (0, 1)


@pytest.mark.parametrize('values, message', [
    ({'frames_by': 'pts'}, r"data\.frames_by must be 'ordinal' or 'time'"),
    ({'frame_rate': 5.0}, r"data\.frame_rate=5 has a meaning with"),
    ({'frame_rate': -1.0, 'frames_by': 'time'}, 'must not be negative'),
    ({'frames_by': 'time', 'flow_root': 'x'}, 'stored flow'),
])
def test_keys_that_cannot_be(values, message):
  data = common.get_config().data
  data.update(values)
  with pytest.raises(ValueError, match=message):
    timing.check(data)


@pytest.fixture
def variable(tmp_path):
  """A file whose frame i has grey level 40 i and the times of above."""
  path = tmp_path / 'class' / 'variable.mkv'
  path.parent.mkdir()
  with av.open(str(path), 'w') as output:
    stream = output.add_stream('libx264', 10, options={'crf': '0'})
    stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
    stream.codec_context.time_base = stream.time_base = (
        fractions.Fraction(1, 1000))
    for i, time in enumerate([0, 100, 200, 300, 700, 800]):
      frame = av.VideoFrame.from_ndarray(
          np.full((32, 32, 3), 40 * i, np.uint8))
      frame.pts = time
      output.mux(stream.encode(frame))
    output.mux(stream.encode())
  return path


def test_from_file_to_clip(variable):
  config = common.get_config()
  config.data.root = str(variable.parents[1])
  config.data.resize = (32, 32)
  config.model.crop_size = (32, 32)
  for frames_by, rate, greys in (
      ('ordinal', 0.0, [0, 1, 2, 3, 4, 5]),
      ('time', 10.0, [0, 1, 2, 3, 3, 3, 3, 4, 5, 5])):
    config.data.frames_by, config.data.frame_rate = frames_by, rate
    [record] = sources.load(config.data, 'train').records
    assert record.num_frames == len(greys)
    frames = batches.read_frames(record, range(len(greys)), config.data)
    read = np.round(frames.mean((1, 2, 3)) / 40)
    assert read.tolist() == greys
    recipe = transforms.pixel_recipe(config)
    assert (recipe['frames_by'], recipe['frame_rate']) == (frames_by, rate)
    entry, numbers = timing.renumber(record.entry, recipe)
    assert (entry.num_frames, numbers.tolist()) == (len(greys), greys)
    shown = [round(f.mean() / 40) for f in display.frames(variable, recipe)]
    assert shown == greys


def test_phone_video_by_time(shared):
  path = shared / 'data' / 'clips' / 'vfr_rotated_180_audio.mp4'
  entry = decode.probe(path)
  numbers = timing.grid(entry, 'time')
  assert len(numbers) == entry.num_frames
  # Some frames are seen for longer than others.
  assert 0 < len(set(numbers.tolist())) < entry.num_frames
  assert (np.diff(numbers) >= 0).all()
