"""Clips of videos that are too short: every policy, with indices by hand."""

import json
import types

import numpy as np
import pytest

from configs import common
from input_pipeline import lengths
from input_pipeline import sampling
from input_pipeline import stacks
from input_pipeline import transforms


def rng():
  return np.random.default_rng(0)


def test_segments_of_a_short_video():
  # Five frames, clips of eight.
  train = {short: sampling.segment_train(rng(), 5, 8, short=short).tolist()
           for short in sampling.SHORT[:3]}
  assert train == {'published': [0] * 8, 'loop': [0, 1, 2, 3, 4, 0, 1, 2],
                   'hold': [0, 1, 2, 3, 4, 4, 4, 4]}
  held = {short: sampling.segment_eval(5, 8, 2, short=short).tolist()
          for short in sampling.SHORT[:3]}
  assert held == {
      # Pieces of 0.625 frames: their centres, then their starts.
      'published': [[0, 0, 1, 2, 2, 3, 4, 4], [0, 0, 1, 1, 2, 3, 3, 4]],
      'loop': [[0, 1, 2, 3, 4, 0, 1, 2]] * 2,
      'hold': [[0, 1, 2, 3, 4, 4, 4, 4]] * 2}


@pytest.mark.parametrize('short', sampling.SHORT)
def test_segments_of_a_long_enough_video_do_not_depend_on_it(short):
  for n in (8, 9, 30):
    np.testing.assert_array_equal(
        sampling.segment_train(rng(), n, 8, short=short),
        sampling.segment_train(rng(), n, 8))
    np.testing.assert_array_equal(sampling.segment_eval(n, 8, 3, short=short),
                                  sampling.segment_eval(n, 8, 3))
  for n in (57, 64, 100):
    np.testing.assert_array_equal(
        sampling.dense_train(rng(), n, 8, short=short),
        sampling.dense_train(rng(), n, 8))
    np.testing.assert_array_equal(sampling.dense_eval(n, 8, short=short),
                                  sampling.dense_eval(n, 8))


def test_dense_clips_of_a_short_video():
  # Stride 8: places 0, 8, ..., 56 of 20 frames.
  want = {'published': [0, 8, 16, 4, 12, 0, 8, 16],
          'loop': [0, 8, 16, 4, 12, 0, 8, 16],
          'hold': [0, 8, 16, 19, 19, 19, 19, 19]}
  for short, places in want.items():
    assert sampling.dense_train(rng(), 20, 8, short=short).tolist() == places
    assert sampling.dense_eval(20, 8, 3, short=short).tolist() == [places] * 3


def test_dense_clips_of_more_frames_than_the_span():
  # As published, a clip of 8 frames in a span of 4 runs over the end of 10.
  assert sampling.dense_eval(10, 8, 1, span=4)[0].tolist() == [
      3, 4, 5, 6, 7, 8, 9, 0]
  for short in ('hold', 'fail'):
    assert sampling.dense_eval(10, 8, 2, span=4, short=short).tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7, 8, 9]]


def test_too_short_videos_are_refused():
  assert sampling.places_needed('segment', 8) == 8
  assert sampling.places_needed('dense', 8, 64) == 57
  assert sampling.places_needed('dense', 16, 8) == 16
  assert sampling.places_needed('consecutive', 8, 64) == 8
  for take in (sampling.segment_eval, sampling.dense_eval):
    with pytest.raises(ValueError, match="of a video that has 7 .*'fail'"):
      take(7, 8, short='fail')
  for take in (sampling.segment_train, sampling.dense_train):
    with pytest.raises(ValueError, match='a video that has 7'):
      take(rng(), 7, 8, short='fail')
  with pytest.raises(ValueError, match='needs 57 frames of .* has 56'):
    sampling.dense_eval(56, 8, short='fail')
  # Stacks: 12 fields have 8 places for 5 of them.
  assert len(sampling.segment_train(rng(), 12, 8, 5, 'fail')) == 8
  with pytest.raises(ValueError, match='needs 12 frames of .* has 11'):
    sampling.segment_train(rng(), 11, 8, 5, 'fail')
  # One place, but no whole stack.
  with pytest.raises(ValueError, match='needs 5 frames of .* has 4'):
    sampling.segment_eval(4, 1, stack=5, short='fail')


def test_stacks_of_a_short_video():
  # Six fields have two places for stacks of five, the clip wants three.
  places = {short: sampling.segment_eval(6, 3, stack=5, short=short)[0].tolist()
            for short in sampling.SHORT[:3]}
  # Pieces of 2 / 3: centres 1/3, 1, 5/3.
  assert places == {'published': [0, 1, 1], 'loop': [0, 1, 0],
                    'hold': [0, 1, 1]}
  train = {short: sampling.segment_train(rng(), 3, 4, 2, short).tolist()
           for short in sampling.SHORT[:3]}
  # Three fields, places 0 and 1.
  assert train == {'published': [0] * 4, 'loop': [0, 1, 0, 1],
                   'hold': [0, 1, 1, 1]}


def test_fields_of_a_video_shorter_than_a_stack():
  stored = {'stack': 5, 'bound': 20.0, 'stored': True}
  # Four frames, three fields.
  want = {'published': [0, 1, 2, 2, 2], 'hold': [0, 1, 2, 2, 2],
          'loop': [0, 1, 2, 0, 1]}
  for short, fields in want.items():
    assert stacks.frames_of(
        stored, np.asarray([0]), 4, short).tolist() == fields
  # From field 2 on.
  assert stacks.frames_of(stored, np.asarray([2]), 4, 'loop').tolist() == [
      2, 0, 1, 2, 0]
  # Frames are never looped: the device would see motion back to the first.
  computed = {**stored, 'stored': False}
  assert stacks.frames_of(computed, np.asarray([0]), 4, 'loop').tolist() == [
      0, 1, 2, 3, 3, 3]


def make_config(**values):
  c = common.get_config()
  with c.unlocked():
    c.update_from_flattened_dict({k.replace('__', '.'): v
                                  for k, v in values.items()})
  return c


def test_recipes_carry_the_policy():
  recipe = transforms.pixel_recipe(make_config(data__short_clips='hold'))
  assert json.loads(json.dumps(recipe))['short_clips'] == 'hold'
  assert transforms.recipe_indices(recipe, 3).tolist() == [
      [0, 1, 2, 2, 2, 2, 2, 2]]
  # Checkpoints from before there was a choice.
  del recipe['short_clips']
  assert transforms.recipe_indices(recipe, 3).tolist() == [
      [0, 0, 0, 1, 1, 2, 2, 2]]
  with pytest.raises(ValueError, match=r"short_clips must be one of .*'loop'"):
    transforms.pixel_recipe(make_config(data__short_clips='cut'))
  with pytest.raises(ValueError, match=r'short_clips must be one of'):
    transforms.check_train(make_config(data__short_clips='cut'))


def test_a_run_names_the_videos_that_are_too_short():
  records = [types.SimpleNamespace(name=f'{n}.mp4', num_frames=n)
             for n in (7, 8, 56, 57, 5)]
  c = make_config(data__short_clips='fail', eval__sampling='dense')
  recipe = transforms.pixel_recipe(c)
  with pytest.raises(ValueError, match=r'2 of 5 videos for train are shorter '
                     r'than the 8 frames .*7\.mp4 with 7'):
    lengths.check_lengths(records, c, recipe, 'train')
  with pytest.raises(ValueError, match='4 of 5 videos for eval .* the 57 '):
    lengths.check_lengths(records, c, recipe, 'eval')
  c.data.short_clips = 'loop'
  recipe = transforms.pixel_recipe(c)
  assert lengths.fewest_frames(recipe) == 1
  # They are counted; stride 8, so a clip reaches from frame 0 to 56.
  assert lengths.check_lengths(records, c, recipe, 'eval') == 4
  assert lengths.check_lengths(records, c, recipe, 'train') == 2
  assert lengths.check_lengths(records[3:4], c, recipe, 'eval') == 0
  flow = make_config(
      data__short_clips='fail', data__modality='flow', data__mean=(0.5,),
      data__std=(1.0,), data__flow_root='x')
  # Twelve fields lie between thirteen frames: eight places of five fields.
  assert lengths.fewest_frames(transforms.pixel_recipe(flow)) == 13
  # Stacks are filled up, but a field takes two frames.
  flow.data.short_clips = 'hold'
  assert lengths.fewest_frames(transforms.pixel_recipe(flow)) == 2


def test_training_clips_follow_the_policy(monkeypatch):
  from input_pipeline import batches
  seen = []
  monkeypatch.setattr(
      batches.Frames, 'read',
      lambda self, index, indices: seen.append([*map(int, indices)])
      or np.zeros((len(indices), 20, 20, 3), np.uint8))
  record = types.SimpleNamespace(label=0, num_frames=3, name='a')
  dataset = types.SimpleNamespace(records=(record,), classes=('x',),
                                  multi=False)
  for short, want in (('published', [0] * 5), ('loop', [0, 1, 2, 0, 1]),
                      ('hold', [0, 1, 2, 2, 2])):
    c = make_config(data__short_clips=short, model__num_frames=5,
                    model__crop_size=(16, 16), data__resize=20)
    batches.TrainClip(dataset, c)(0, rng())
    assert seen[-1] == want
