"""The same batches, however many processes, workers and threads make them."""

import dataclasses
import os

import numpy as np
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import decode
from input_pipeline import resizing
from input_pipeline import sampling
from input_pipeline import sources
from input_pipeline import synthetic
from input_pipeline import transforms

CLIPS = 21


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Three classes of seven clips that show their number as a grey level."""
  root = tmp_path_factory.mktemp('clips')
  rng = np.random.default_rng(0)
  for i in range(CLIPS):
    path = root / 'abc'[i % 3] / f'{i:02d}.mp4'
    path.parent.mkdir(exist_ok=True)
    frames = rng.integers(
        0, 40, (6 + i % 4, 24, 32, 3), dtype=np.uint8) + np.uint8(10 * i)
    synthetic.encode(str(path), frames)
  (root / 'all.txt').write_text(''.join(
      f'{"abc"[i % 3]}/{i:02d}.mp4 {i % 3}\n' for i in range(CLIPS)))
  return root


def make_config(root, **values):
  config = common.get_config()
  flat = {
      'data.root': str(root), 'data.train_list': str(root / 'all.txt'),
      'data.eval_list': str(root / 'all.txt'), 'data.resize': 20,
      'data.flip_pairs': (('0', '2'),), 'model.crop_size': (16, 16),
      'model.num_frames': 3, 'batch_size': 4, 'eval.batch_size': 4,
      'eval.clips': 2, 'eval.crops': 3, 'seed': 5,
      **{k.replace('__', '.'): v for k, v in values.items()}}
  with config.unlocked():
    config.update_from_flattened_dict(flat)
  return config


@pytest.fixture(scope='module')
def dataset(root):
  return sources.load(make_config(root).data, 'train')


def train(dataset, config, **kwargs):
  return list(batches.train_batches(dataset, config, **kwargs))


def assert_same(ours, theirs):
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.fixture(scope='module')
def reference(dataset, root):
  """Twelve steps: more than two passes over the records."""
  return train(dataset, make_config(root), num_steps=12)


def test_batches_have_the_promised_form(reference):
  for batch in reference:
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        'video': ((4, 3, 16, 16, 3), 'uint8'), 'label': ((4,), 'int32'),
        'mask': ((4,), 'float32'), 'index': ((4,), 'int32')}
    assert batch['mask'].all()


def test_each_pass_sees_each_record_once_in_a_new_order(reference):
  seen = np.concatenate([b['index'] for b in reference])
  first, second = seen[:CLIPS], seen[CLIPS:2 * CLIPS]
  assert sorted(first) == sorted(second) == list(range(CLIPS))
  assert list(first) != list(second) and list(first) != list(range(CLIPS))


def test_pixels_and_labels_are_those_of_the_record(reference):
  flipped = 0
  for batch in reference:
    levels = batch['video'].mean((1, 2, 3, 4)) - 20
    assert np.abs(levels - 10 * batch['index']).max() < 4
    true = batch['index'] % 3
    swapped = np.array([2, 1, 0])[true]
    assert ((batch['label'] == true) | (batch['label'] == swapped)).all()
    flipped += ((batch['label'] != true).sum())
  assert 8 < flipped < 24  # Half of the two thirds whose label a flip swaps.


def test_restart_from_any_step_is_exact(reference, dataset, root):
  for start in (1, 5, 11):
    assert_same(train(dataset, make_config(root), start_step=start,
                      num_steps=12 - start), reference[start:])


@pytest.mark.parametrize('count', [2, 4])
def test_processes_share_each_batch_row_for_row(
    reference, dataset, root, count):
  shards = [train(dataset, make_config(root), num_steps=12, shard_index=i,
                  shard_count=count) for i in range(count)]
  whole = [{k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
           for parts in zip(*shards)]
  assert_same(whole, reference)


@pytest.mark.parametrize('values', [
    {'data__threads': 1, 'data__prefetch': 1}, {'data__threads': 5},
    {'data__cache_frames': True}])
def test_threads_and_memory_change_nothing(reference, dataset, root, values):
  assert_same(train(dataset, make_config(root, **values), num_steps=12),
              reference)


@pytest.mark.parametrize('workers', [1, 2])
def test_worker_processes_change_nothing(reference, dataset, root, workers):
  config = make_config(root, data__workers=workers)
  assert_same(train(dataset, config, start_step=3, num_steps=9), reference[3:])


def test_seed_changes_order_and_draws(reference, dataset, root):
  other = train(dataset, make_config(root, seed=6), num_steps=12)
  assert not np.array_equal(other[0]['index'], reference[0]['index'])


def test_draws_differ_between_passes(reference):
  clips = {}
  for batch in reference:
    for i, video in zip(batch['index'], batch['video']):
      clips.setdefault(int(i), []).append(video)
  repeats = [np.array_equal(c[0], c[1]) for c in clips.values()]
  assert sum(repeats) <= 1


def test_early_close_frees_the_loader(dataset, root):
  stream = batches.train_batches(
      dataset, make_config(root), num_steps=10_000)
  next(stream)
  stream.close()
  assert list(stream) == []


def test_set_smaller_than_a_batch(dataset, root):
  config = make_config(root, batch_size=30)
  assert batches.steps_per_epoch(dataset, config) == 1
  batch, = train(dataset, config, num_steps=1)
  assert np.bincount(batch['index'], minlength=CLIPS).tolist().count(2) == 9
  assert batches.steps_per_epoch(dataset, make_config(root)) == 5


def test_vanished_video_keeps_its_slot(dataset, root, tmp_path):
  records = list(dataset.records)
  gone = str(tmp_path / 'gone.mp4')
  records[4] = dataclasses.replace(records[4], path=gone)
  broken = dataclasses.replace(dataset, records=tuple(records))
  reference = train(dataset, make_config(root), num_steps=6)
  for ours, theirs in zip(
      train(broken, make_config(root), num_steps=6), reference):
    lost = ours['index'] == 4
    np.testing.assert_array_equal(ours['index'], theirs['index'])
    np.testing.assert_array_equal(ours['mask'], 1 - lost)
    assert (ours['video'][lost] == 128).all()
    np.testing.assert_array_equal(
        ours['video'][~lost], theirs['video'][~lost])
  rows = list(batches.eval_batches(broken, make_config(root)))
  masks = np.concatenate([b['mask'] for b in rows])[:CLIPS]
  assert masks.tolist() == [float(i != 4) for i in range(CLIPS)]


@pytest.fixture(scope='module')
def evaluated(dataset, root):
  return list(batches.eval_batches(dataset, make_config(root)))


def test_evaluation_covers_all_once_and_masks_the_padding(evaluated):
  assert len(evaluated) == 6  # 21 videos in batches of 4.
  index = np.concatenate([b['index'] for b in evaluated])
  mask = np.concatenate([b['mask'] for b in evaluated])
  assert index[:CLIPS].tolist() == list(range(CLIPS))
  assert mask.tolist() == [1.0] * CLIPS + [0.0] * 3
  assert evaluated[0]['video'].shape == (4, 6, 3, 16, 16, 3)
  assert evaluated[0]['label'].tolist() == [0, 1, 2, 0]


def test_evaluation_views_are_those_of_the_recipe(evaluated, dataset, root):
  config = make_config(root)
  recipe = transforms.pixel_recipe(config)
  record = dataset.records[9]
  frames = decode.decode_all(record.path)
  views = transforms.views_from_recipe(
      recipe, len(frames), lambda i: frames[i])
  np.testing.assert_array_equal(evaluated[2]['video'][1], views)
  # By hand: crop 2 (the centre) of clip 0, frame 1.
  frame = frames[sampling.segment_eval(len(frames), 3)[0][1]]
  resized = resizing.resize(frame[None], 20, 'swscale')[0]
  np.testing.assert_array_equal(views[4, 1], resized[2:18, 4:20])


def test_evaluation_shards_make_equal_steps(evaluated, dataset, root):
  shards = [list(batches.eval_batches(
      dataset, make_config(root), shard_index=i, shard_count=2))
            for i in range(2)]
  whole = [{k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
           for parts in zip(*shards, strict=True)]
  assert_same(whole, evaluated)


@pytest.mark.parametrize('shards', [1, 2])
def test_all_clips_of_a_video_in_rows_of_a_few(dataset, root, shards):
  config = make_config(root, eval__sampling='consecutive', eval__clips=2,
                       eval__resize=24)
  recipe = transforms.pixel_recipe(config)
  got = [row for steps in zip(*(
      batches.eval_batches(dataset, config, shard_index=i, shard_count=shards)
      for i in range(shards)), strict=True)
         for batch in steps
         for row in zip(*(batch[key] for key in (
             'index', 'mask', 'clips', 'all_clips', 'video')), strict=True)]
  place = 0
  for i, record in enumerate(dataset.records):
    frames = decode.decode_frames(record.path, range(record.num_frames),
                                  record.entry)
    clips = sampling.consecutive(record.num_frames, 3)
    assert len(clips) in (2, 3)
    for start in range(0, len(clips), 2):
      part = clips[start:start + 2]
      index, mask, count, total, video = got[place]
      assert (index, mask, count, total) == (i, 1, len(part), len(clips))
      cut = transforms.crops(
          resizing.resize(frames, 24, 'swscale'), (16, 16), 3)
      # Crops are outermost; what is missing repeats the clips that there are.
      wanted = cut[:, part[[0, -1 if len(part) > 1 else 0]]]
      np.testing.assert_array_equal(video, wanted.reshape(video.shape))
      place += 1
  assert all(row[1] == 0 for row in got[place:])
  assert len(got) % 4 == 0 and len(got) - place < 4
  assert recipe['resize'] == 24


def test_each_video_is_decoded_once_for_all_views(dataset, root, monkeypatch):
  opened, original = [], decode.decode_frames

  def counted(path, *args):
    opened.append(os.path.basename(path))
    return original(path, *args)

  monkeypatch.setattr(decode, 'decode_frames', counted)
  list(batches.eval_batches(dataset, make_config(root)))
  assert sorted(opened) == [f'{i:02d}.mp4' for i in range(CLIPS)]


def test_unlabelled_videos(dataset, root):
  records = tuple(dataclasses.replace(r, label=None)
                  for r in dataset.records)
  bare = dataclasses.replace(dataset, records=records)
  batch = next(batches.eval_batches(bare, make_config(root)))
  assert batch['label'].tolist() == [-1] * 4 and batch['mask'].all()
  with pytest.raises(ValueError, match=r'a/00\.mp4 has no label'):
    batches.train_batches(bare, make_config(root), num_steps=1)


def test_bad_keys_are_refused_before_the_first_batch(dataset, root):
  for values, message in (
      ({'data__crop': 'five'}, r"data\.crop .* 'five'"),
      ({'batch_size': 3}, r'batch_size=3 must be a positive multiple of the 2'),
      ({'data__flip_pairs': (('0', 'x'),)}, r"'x' is no class")):
    with pytest.raises(ValueError, match=message):
      batches.train_batches(dataset, make_config(root, **values), num_steps=1,
                            shard_count=2)
  with pytest.raises(ValueError, match=r'eval\.crops'):
    batches.eval_batches(dataset, make_config(root, eval__crops=2))
