"""Untrimmed sets: what is odd in them, and the pieces that are made of them."""

import dataclasses
import gzip
import json
import weakref

import numpy as np
import pytest
import untrimmed as small

from configs import common
from configs import detection
from input_pipeline import annotations
from input_pipeline import batches
from input_pipeline import pieces
from input_pipeline import resizing
from input_pipeline import transforms
from input_pipeline import untrimmed
from tests import owners
from vidattn_jax import wiring
from vidattn_jax.detection import windows

VIDEOS = {
    'a': ('training', [(16, 32, 'red'), (60, 76, 'blue')]),
    'b': ('training', [(0, 32, 'blue')]),
    'c': ('validation', [(40, 56, 'red')]),
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Three videos of 96 frames."""
  root = tmp_path_factory.mktemp('untrimmed')
  small.write(root, VIDEOS)
  return root


def _config(root, **overrides):
  return small.config(common.get_config(), root, **overrides)


def _load(root, split='train', **overrides):
  config = _config(root, **overrides)
  return config, untrimmed.load(config, split)


def _changed(root, tmp_path, change):
  """Returns a folder with the same videos and changed annotations."""
  content = json.loads((root / 'annotations.json').read_text())
  change(content['database'])
  (tmp_path / 'annotations.json').write_text(json.dumps(content))
  return str(tmp_path / 'annotations.json')


def test_sets_are_read_with_their_times(root):
  _, found = _load(root)
  assert [v.name for v in found.records] == ['a', 'b']
  assert found.classes == small.CLASSES
  video = found.records[0]
  assert (video.num_frames, video.rate) == (96, 25.0)
  assert video.segments == ((0.64, 1.28, 1), (2.4, 3.04, 0))
  assert found.notes == found.dropped == ()
  # At half the rate there are half the frames.
  _, slower = _load(root, data__frames_by='time', data__frame_rate=12.5)
  assert (slower.records[0].num_frames, slower.records[0].rate) == (48, 12.5)


def test_thumos14_is_read_where_it_lies(tmp_path):
  owners.thumos14(tmp_path, owners.touch)
  c = common.get_config()
  c.data.root, c.detection.annotations = str(tmp_path), '.'
  c.detection.train_subset, c.detection.eval_subset = 'val', 'test'
  with pytest.raises(ValueError, match='BasketballDunk_val.txt is missing'):
    untrimmed.read_annotations(c, 'train')
  for end in ('val', 'test'):
    [known] = tmp_path.rglob(f'Diving_{end}.txt')
    for kind in annotations.THUMOS14:
      (known.parent / f'{kind}_{end}.txt').touch()
  found = untrimmed.read_annotations(c, 'eval')
  truth = found.videos['video_test_0000364']
  pitch, cliff, diving = (found.classes.index(name) for name in (
      'BaseballPitch', 'CliffDiving', 'Diving'))
  assert truth['segments'] == [(.9, 1.2, pitch), (.2, .6, cliff),
                               (.2, .6, diving)]
  assert found.videos['video_test_0000051']['ambiguous'] == [(.6, .7)]


def test_every_buffer_of_thumos14_has_room_for_its_actions(data_dir):
  content = json.loads(gzip.decompress(
      (data_dir / 'thumos14/ground_truth.json.gz').read_bytes()))
  c = detection.get_config('rc3d,10')
  records = tuple(
      untrimmed.Video(name, '', round(25 * video['duration']), 25.0, tuple(
          map(tuple, video['segments'])), {}, None)
      for name, video in content['subsets']['validation'].items())
  dataset = untrimmed.UntrimmedSet('train', records, (), (), (), '')

  def lay(num_frames):
    return windows.lay(num_frames, {'kind': 'buffers', 'buffer_step': 192},
                       c.model.num_frames, train=True)

  drawn = pieces.Buffers(dataset, c, lay)
  most = max(len(drawn.draw(i, None)[3]) for i in range(len(drawn)))
  assert len(drawn) == 6854 and most == 27
  c.detection.max_segments = 20
  with pytest.raises(ValueError, match='segments in the buffer .* raise it'):
    pieces.Buffers(dataset, c, lay)


def test_what_is_odd_is_counted_and_named(root, tmp_path):
  def change(database):
    a, b = database['a'], database['b']
    del a['duration']
    b['duration'] = 9.0
    a['annotations'] += [
        {'segment': [4.0, 5.0], 'label': 'red'},     # behind the end
        {'segment': [3.5, 4.5], 'label': 'red'},     # over the end
        {'segment': [0.64, 1.28], 'label': 'red'},   # once more
        {'segment': [1.0, 1.5], 'label': 'red'}]     # over the first
    b['annotations'] = []
    database['lost'] = {'subset': 'training', 'annotations': []}

  _, found = _load(root, detection__annotations=_changed(root, tmp_path,
                                                         change),
                   data__max_bad_fraction=0.5)
  assert found.dropped == (
      ('lost', f'there is no such video below {root}'),)
  assert set(found.notes) == {
      '1 videos whose duration is not annotated; that of the file counts: a',
      '1 videos whose annotated duration is not that of the file, which '
      'counts: b',
      '1 segments outside of their video, left out: a',
      '1 segments that reach past an end of their video, cut there: a',
      '1 segments that stand twice, left out once: a',
      '1 segments that overlap another of their class, kept: a',
      '1 videos without a segment, all background: b'}
  assert found.records[0].segments[2:] == ((3.5, 3.84, 1), (1.0, 1.5, 1))
  # What judges sees all that is annotated.
  assert len(found.records[0].truth['segments']) == 6
  assert found.records[0].truth['duration'] == 3.84
  assert found.summary()['notes'] == list(found.notes)


@pytest.mark.parametrize('change,overrides,message', [
    (lambda d: d['a']['annotations'][0].update(segment=[2, 1]), {},
     r'a has a segment from 2 to 1 s, which does not end after it starts \(1'),
    (lambda d: d['a']['annotations'][0].update(label='green'), {},
     "no class 'green'"),
    (lambda d: d.update(lost={'subset': 'training', 'annotations': []}), {},
     r'1 of 3 videos of .* are unusable, .* lost: there is no such video'),
    (lambda d: None, {'detection__train_subset': 'train'},
     "no subset 'train'; choose 'training' or 'validation'"),
    (lambda d: [v.update(annotations=[]) for v in d.values()], {},
     'not one segment of the subset'),
])
def test_what_cannot_be_meant_is_one_error(root, tmp_path, change, overrides,
                                           message):
  with pytest.raises(ValueError, match=message):
    _load(root, detection__annotations=_changed(root, tmp_path, change),
          **overrides)


def test_further_files_annotate_further_videos_to_train_on(root, tmp_path):
  (tmp_path / 'more.csv').write_text(
      'video,start,end,label\nc,,,red\n')
  more = {'detection__more_annotations': (str(tmp_path / 'more.csv'),)}
  _, found = _load(root, **more)
  assert [v.name for v in found.records] == ['a', 'b', 'c']
  # All of it, as a trimmed video is.
  assert found.records[2].segments == ((0.0, 3.84, 1),)
  assert found.records[2].truth['segments'] == [(0.0, 3.84, 1)]
  assert found.notes == (
      '1 videos whose duration is not annotated; that of the file counts: c',)
  _, judged = _load(root, 'eval', **more)
  assert [v.segments for v in judged.records] == [((1.6, 2.24, 1),)]
  for row, message in (('c,,,green,training', "no class 'green'"),
                       ('a,,,red,training', 'a is annotated in another file'),
                       ('a.mp4,,,red,training', 'a.mp4 is annotated as a and')):
    (tmp_path / 'more.csv').write_text(
        f'video,start,end,label,subset\n{row}\n')
    with pytest.raises(ValueError, match=message):
      _load(root, **more)


def test_trimmed_videos_do_not_tell_how_long_actions_are(root, tmp_path):
  (tmp_path / 'more.csv').write_text('video,start,end,label\nc,,,red\n')
  config = _config(root, model__name='scnn', detection__more_annotations=(
      f'{tmp_path / "more.csv"},',))
  config = wiring.resolve(config)
  assert config.detection.more_annotations == (str(tmp_path / 'more.csv'),)
  prior = wiring._detection_recipe(config, 25.0)['prior']
  config.detection.more_annotations = ()
  assert prior == wiring._detection_recipe(config, 25.0)['prior']
  assert np.asarray(prior).any() and np.isfinite(prior).all()


def test_files_may_begin_with_what_activitynet_leaves_out(root, tmp_path):
  for path in (root / 'videos').iterdir():
    (tmp_path / f'v_{path.name}').symlink_to(path)
  annotated = _changed(root, tmp_path, lambda database: None)
  _, found = _load(tmp_path, detection__annotations=annotated)
  assert [(v.name, v.path.rsplit('/')[-1]) for v in found.records] == [
      ('a', 'v_a.mp4'), ('b', 'v_b.mp4')]


def _windows(num_frames):
  starts, lengths = windows.slide(num_frames, (8, 16, 32))
  return starts - 1, lengths


def test_windows_have_the_class_and_overlap_of_their_action(root):
  config, found = _load(root, detection__background=2.0,
                        data__flip_pairs=(('red', 'blue'),), data__flip=0.5)
  drawn = pieces.Windows(found, config, _windows)
  rng = np.random.default_rng(0)
  rows = [drawn.draw(i, rng) for i in range(len(drawn))]
  actions = [row for row in rows if row[3][0]]
  # By hand: lengths of 16 at distances of 0 and 4 from actions of 16, of 32 at
  # 0 and 8 from that of 32; 16 / 32 is not more than a half.
  assert sorted(row[:3] for row in actions) == [
      (0, 12, 16), (0, 16, 16), (0, 20, 16), (0, 56, 16), (0, 60, 16),
      (0, 64, 16), (1, 0, 32), (1, 8, 32)]
  assert len(rows) == 3 * len(actions)
  by_place = {row[:3]: row[3] for row in actions}
  assert by_place[0, 16, 16] == (2, 1.0) and by_place[1, 0, 32] == (1, 1.0)
  assert by_place[0, 12, 16] == (2, pytest.approx(12 / 20))
  near = 0
  for video, start, length, (label, overlap) in rows:
    if label:
      continue
    best = max((min(start + length, b * 25) - max(start, a * 25))
               / (max(start + length, b * 25) - min(start, a * 25))
               for a, b, _ in found.records[video].segments)
    assert best < 0.3 and overlap == 0
    near += best > 0
  assert 0.2 < near / (2 * len(actions)) < 0.8
  flip = np.asarray([1, 0])
  assert drawn.targets((2, 0.5), flip) == {'label': 1, 'overlap': 0.5}
  assert drawn.targets((0, 0.0), flip) == {'label': 0, 'overlap': 0}


def test_ambiguous_segments_are_no_background(root):
  config, found = _load(root, detection__background=20.0)
  a, b = found.records
  a = dataclasses.replace(a, truth={**a.truth, 'ambiguous': [(0.0, 2.0)]})
  drawn = pieces.Windows(dataclasses.replace(found, records=(a, b)), config,
                         _windows)
  rng = np.random.default_rng(0)
  rows = [drawn.draw(i, rng) for i in range(len(drawn))]
  starts = [start for video, start, _, (label, _) in rows
            if video == 0 and not label]
  assert len(starts) > 20 and min(starts) >= 50


def test_pieces_of_a_trimmed_video_are_no_background(root, tmp_path):
  (tmp_path / 'more.csv').write_text('video,start,end,label\nc,,,red\n')
  config, found = _load(root, detection__background=20.0,
                        detection__more_annotations=(
                            str(tmp_path / 'more.csv'),))
  trimmed = found.records[2]
  assert trimmed.name == 'c' and len(trimmed.segments) == 1
  # It has windows of a twelfth of it, which overlap its action that little.
  assert len(_windows(trimmed.num_frames)[0]) > 10
  drawn = pieces.Windows(found, config, _windows)
  rng = np.random.default_rng(0)
  rows = [drawn.draw(i, rng) for i in range(len(drawn))]
  background = [video for video, _, _, (label, _) in rows if not label]
  assert len(background) > 100 and set(background) == {0, 1}


def test_windows_of_actions_move_by_up_to_their_step(root):
  config, found = _load(root, detection__shift=1.0)
  drawn = pieces.Windows(found, config, _windows)
  for number, begin in ((0, 12), (1, 16)):
    rows = [drawn.draw(number, np.random.default_rng(i)) for i in range(60)]
    # 16 / 32 is not more than a half: they stay where they overlap enough.
    assert {row[1] for row in rows} == set(
        range(max(begin - 4, 11), min(begin + 4, 21) + 1))
    for _, start, _, (label, overlap) in rows:
      assert label == 2 and overlap > 0.5
      assert overlap == pytest.approx((16 - abs(start - 16))
                                      / (16 + abs(start - 16)))


@pytest.mark.parametrize('content, message', [
    ({'database': []}, r"database is '\[\]', not a JSON object"),
    ({'database': {'a': None}}, r'the video a is .*not a JSON object'),
    ({'database': {'a': {'annotations': {}, 'duration': 'long'}}},
     r"duration of a: 'long' is no number"),
    ({'database': {'a': {'annotations': 3}}}, r'annotations of a is .* a list'),
    ({'database': {'a': {'annotations': [{'segment': [0, 1]}]}}},
     'an annotation of a has no label'),
    ({'database': {'a': {'annotations': [
        {'label': 'x', 'segment': ['0', 'end']}]}}},
     r"segment of a: 'end' is no number"),
    ({'classes': ['x'], 'subsets': {'test': {'a': {'segments': [[0, 1]]}}}},
     r'a has the row \[0, 1\] in segments; it must be 3 numbers'),
    ({'classes': ['x'], 'subsets': {'test': {'a': {
        'segments': [[0, 1, 'x']]}}}}, r"a segment of class 'x'; there are 1"),
    ({'classes': 5, 'subsets': {}}, r"classes is '5', not a list"),
])
def test_malformed_annotations_are_one_sentence(tmp_path, content, message):
  file = tmp_path / 'annotations.json'
  file.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message) as error:
    annotations.read(str(file))
  assert str(error.value).startswith(str(file))


def test_rows_of_a_table_name_a_video_and_a_class(tmp_path):
  file = tmp_path / 'segments.csv'
  for row, column in ((',0,1,x', 'video'), ('a,0,1,', 'label')):
    file.write_text(f'video,start,end,label\nb,0,1,x\n{row}\n')
    with pytest.raises(ValueError, match=f'line 3: its {column} is empty'):
      annotations.read(str(file))


def test_actions_that_no_piece_takes_are_named(root):
  config, found = _load(root)
  drawn = pieces.Windows(found, config, lambda n: tuple(
      part[windows.slide(n, (8, 16))[1] == 16]
      for part in (np.subtract(windows.slide(n, (8, 16))[0], 1),
                   windows.slide(n, (8, 16))[1])))
  assert drawn.notes == (
      '1 segments that no window of detection.windows overlaps enough, not '
      'trained on: b',)
  config.model.num_frames = 16
  lay = {'kind': 'buffers', 'buffer_step': 8}
  drawn = pieces.Buffers(found, config, lambda n: windows.lay(n, lay, 16))
  assert drawn.notes == (
      '1 segments too long for a buffer of model.num_frames, not trained on: '
      'b',)


def test_as_many_empty_buffers_as_asked_for(root):
  config, found = _load(root, model__num_frames=8, detection__buffer_step=8,
                        detection__least_inside=0.2,
                        detection__empty_buffers=2.0, detection__shift=1.0)
  lay = {'kind': 'buffers', 'buffer_step': 8}
  drawn = pieces.Buffers(found, config, lambda n: windows.lay(n, lay, 8, True))
  rng = np.random.default_rng(0)
  counts = [len(drawn.draw(i, rng)[3]) for i in range(len(drawn))]
  full = len(drawn) // 3
  assert len(drawn) == 3 * full and all(counts[:full])
  # Those that move to an action have it.
  assert 0 < sum(count > 0 for count in counts[full:]) < full
  places = {drawn.draw(full, np.random.default_rng(i))[:2] for i in range(30)}
  assert len(places) > 15


def test_buffers_are_padded_and_have_what_is_inside(root):
  config, found = _load(root, model__num_frames=32, detection__buffer_step=16,
                        detection__max_segments=3)
  lay = {'kind': 'buffers', 'buffer_step': 16}
  drawn = pieces.Buffers(found, config, lambda n: windows.lay(n, lay, 32, True))
  rng = np.random.default_rng(0)
  rows = [drawn.draw(i, rng) for i in range(len(drawn))]
  inside = {row[:2]: row[3].tolist() for row in rows}
  assert inside == {
      (0, 0): [[16, 31, 1]], (0, 16): [[0, 15, 1]],
      # 12 of 16 frames are inside: more than seven tenths.
      (0, 48): [[12, 27, 0]], (0, 64): [[0, 11, 0]], (1, 0): [[0, 31, 0]]}
  padded = drawn.targets(rows[0][3], np.asarray([1, 0]))['segments']
  assert padded.tolist() == [[16, 31, 0], [-1] * 3, [-1] * 3]
  config.detection.max_segments = 1
  config.model.num_frames = 88
  with pytest.raises(ValueError, match='a has 2 segments in the buffer from'):
    pieces.Buffers(found, config, lambda n: windows.lay(n, lay, 88))
  config.model.num_frames = 8
  with pytest.raises(ValueError, match='raise model.num_frames'):
    pieces.Buffers(found, config, lambda n: windows.lay(n, lay, 8))


def test_batches_are_the_same_for_any_number_of_processes(root):
  config, found = _load(root, detection__shift=0.5)
  drawn = pieces.Windows(found, config, _windows)

  def make(**shard):
    return list(pieces.train_batches(found, config, drawn, num_steps=5,
                                     **shard))

  whole = make()
  halves = [make(shard_index=i, shard_count=2) for i in range(2)]
  assert whole[0]['video'].shape == (4, 8, 32, 32, 3)
  for step, batch in enumerate(whole):
    for key, value in batch.items():
      np.testing.assert_array_equal(value, np.concatenate(
          [half[step][key] for half in halves]))
  [last] = pieces.train_batches(found, config, drawn, start_step=4, num_steps=1)
  np.testing.assert_array_equal(last['video'], whole[4]['video'])


@pytest.mark.parametrize('rate', [0.0, 10.0])
def test_videos_stream_by_as_they_are_decoded(root, rate):
  config, found = _load(root, 'eval', **(
      {'data__frames_by': 'time', 'data__frame_rate': rate} if rate else {}))
  recipe = transforms.pixel_recipe(config)
  got = {}
  for shard in range(2):
    for batch in pieces.eval_batches(found, config, recipe, _windows,
                                     shard_index=shard, shard_count=2):
      assert batch['video'].shape == (2, 8, 32, 32, 3)
      for row in np.flatnonzero(batch['mask']):
        assert batch['index'][row] == 0
        assert batch['rate'][row] == (rate or 25)
        got[int(batch['start'][row]), int(batch['length'][row])] = (
            batch['video'][row])
  video = found.records[0]
  starts, lengths = _windows(video.num_frames)
  assert got.keys() == set(zip(starts.tolist(), lengths.tolist()))
  for (start, length), clip in got.items():
    frames = batches.read_frames(
        video, pieces.places(start, length, 8), config.data)
    frames = transforms.center_crop(
        resizing.resize(frames, (36, 36), 'swscale'), (32, 32))
    np.testing.assert_array_equal(clip, frames)


def test_videos_too_short_to_find_anything_in_are_named(root, caplog):
  config, found = _load(root, 'eval')
  [video] = found.records
  recipe = transforms.pixel_recipe(config)
  list(pieces.eval_batches(found, config, recipe, _windows))
  assert 'shorter' not in caplog.text
  short = dataclasses.replace(found, records=(
      dataclasses.replace(video, num_frames=7), video))
  batches_ = list(pieces.eval_batches(short, config, recipe, _windows))
  assert f'1 videos shorter than any window, so that nothing is found in ' \
      f'them: {video.name}' in caplog.text
  assert {i for batch in batches_ for i in batch['index']} == {-1, 1}


def test_no_more_frames_are_kept_than_a_piece_is_long():
  alive, most = weakref.WeakSet(), []

  class Frame(np.ndarray):
    """An array that can be counted."""
    __hash__ = object.__hash__
    __eq__ = object.__eq__

  def frames():
    for i in range(400):
      frame = np.full((1, 1, 3), i % 256, np.uint8).view(Frame)
      alive.add(frame)
      yield frame
      del frame
      most.append(len(alive))

  starts, lengths = _windows(400)
  seen = {n: clip[:, 0, 0, 0].tolist() for n, clip in pieces.cut(
      frames(), starts, lengths, 4)}
  assert len(seen) == len(starts) and max(most) <= 34
  for number, values in seen.items():
    start, length = starts[number], lengths[number]
    assert values == [(start + i * length // 4) % 256 for i in range(4)]
  # Where frames end too early, the last one stays.
  [(_, last)] = pieces.cut(list(np.arange(5)), [2], [8], 4)
  assert last.tolist() == [2, 4, 4, 4]


def test_a_video_that_breaks_masks_what_is_left(root, tmp_path):
  small.write(tmp_path, VIDEOS)
  config, found = _load(tmp_path, 'eval')
  path = tmp_path / 'videos' / 'c.mp4'
  path.write_bytes(path.read_bytes()[:3000])
  rows = [(int(i), float(m)) for batch in pieces.eval_batches(
      found, config, transforms.pixel_recipe(config), _windows)
          for i, m in zip(batch['index'], batch['mask'])]
  assert (0, 0.0) in rows
  assert sum(i == 0 for i, _ in rows) == len(_windows(96)[0])
