"""Clips of optical flow: stored, or computed on the device."""

import dataclasses
import functools
import json
import os
import types

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import decode
from input_pipeline import flow
from input_pipeline import resizing
from input_pipeline import sampling
from input_pipeline import sources
from input_pipeline import stacks
from input_pipeline import stored_flow
from input_pipeline import synthetic
from input_pipeline import transforms
from tests import seeded
from tests import small
from vidattn_jax.models import recognizer
from vidattn_jax.ops import flow as flow_ops
from vidattn_jax.tools import flow as methods
from vidattn_jax.training import state

SIZE = (20, 24)
_LENGTHS = (13, 9, 6, 17, 8, 12)
_MEAN, _STD = (128 / 255,), (1 / 255,)


@pytest.fixture(scope='module')
def golden(data_dir):
  return json.loads((data_dir / 'tstam_sampling.json').read_text())


def test_places_of_stacks_equal_published_ones(golden):
  assert len(golden['test_indices']) == 28
  for n, segments, stack, expected in golden['test_indices']:
    places = sampling.segment_eval(n, segments, stack=stack)[0] + 1
    assert places.tolist() == expected, (n, segments, stack)


def test_validation_places_are_those_of_the_test_if_there_are_enough(golden):
  spread = 0
  for n, segments, stack, expected in golden['val_indices']:
    places = sampling.segment_eval(n, segments, stack=stack)[0] + 1
    # Of too short videos the published loader repeats the first stack.
    enough = n > segments + stack - 1
    assert expected == (places.tolist() if enough else [1] * segments)
    spread += enough
  assert 0 < spread < 28


def test_drawn_places_keep_whole_stacks_inside():
  rng = np.random.default_rng(0)
  drawn = np.stack([sampling.segment_train(rng, 34, 6, stack=5)
                    for _ in range(500)])
  assert drawn.min(0).tolist() == [0, 5, 10, 15, 20, 25]
  assert drawn.max(0).tolist() == [4, 9, 14, 19, 24, 29]
  # Fewer starts than places, but more fields: sorted draws.
  drawn = np.stack([sampling.segment_train(rng, 9, 6, stack=5)
                    for _ in range(200)])
  assert (np.diff(drawn) >= 0).all() and set(drawn.flat) == set(range(5))
  assert not sampling.segment_train(rng, 6, 6, stack=5).any()
  clips = sampling.dense_eval(40, 4, 3, span=16, stack=5)
  assert clips[:, 0].tolist() == [0, 10, 20] and clips.max() == 32


def test_crops_equal_published_ones(golden):
  for case in golden['crops']:
    image = case['height'], case['width']
    sizes = transforms.multiscale_sizes(image, (224, 224), case['scales'])
    assert sorted(set(sizes)) == sorted(map(tuple, case['size_pairs_wh']))
    boxes = {(w, h, *place) for w, h in sizes
             for place in transforms.fixed_offsets(image, (h, w))}
    assert boxes == set(map(tuple, case['boxes_wh_xy']))
  for size, offsets in golden['ten_crop_offsets'].items():
    width, height = map(int, size.split('x'))
    y, x = np.mgrid[:height, :width]
    views = transforms.crops(np.stack([x, y, y], -1)[None], (224, 224), 10)
    assert views[:5, 0, 0, 0, :2].tolist() == offsets


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('videos')
  for i, length in enumerate(_LENGTHS):
    path = root / 'ab'[i % 2] / f'{i}.mp4'
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(i).integers(0, 256, (8, 10, 3), np.uint8)
    image = resizing.resize(image[None], (40, 50))[0]
    synthetic.encode(str(path), np.stack([
        np.roll(image, (i % 3 - 1) * t, 1)[8:28, 8:32] for t in range(length)]))
  (root / 'all.txt').write_text(''.join(
      f'{"ab"[i % 2]}/{i}.mp4 {i % 2}\n' for i in range(len(_LENGTHS))))
  return root


@pytest.fixture(scope='module')
def tvl1():
  return flow.Method(**methods.get_method('tvl1'))


@pytest.fixture(scope='module')
def stored(root, tvl1, tmp_path_factory):
  out = tmp_path_factory.mktemp('flow')
  flow.extract(sources.gather_videos([str(root)]), str(out), tvl1)
  return out


def _config(root, flow_root='', **values):
  config = common.get_config()
  with config.unlocked():
    config.update_from_flattened_dict({
        'data.root': str(root), 'data.train_list': str(root / 'all.txt'),
        'data.eval_list': str(root / 'all.txt'), 'data.modality': 'flow',
        'data.flow_root': str(flow_root), 'data.mean': _MEAN,
        'data.std': _STD, 'data.resize': SIZE, 'model.crop_size': SIZE,
        'data.crop': 'center', 'data.flip': 0.0,
        'model.num_frames': 2, 'batch_size': 2, 'eval.batch_size': 2,
        **{k.replace('__', '.'): v for k, v in values.items()}})
  return config


def _train(config, num_steps=6, **kwargs):
  dataset = sources.load(config.data, 'train')
  return list(batches.train_batches(dataset, config, num_steps=num_steps,
                                    **kwargs))


def _fields(stored, index):
  name = f'{"ab"[index % 2]}/{index}.mp4'
  path = stored_flow.locate(str(stored), name)
  return stored_flow.read(path, range(_LENGTHS[index] - 1))


def test_channels_are_x_and_y_of_consecutive_fields(root, stored):
  seen = set()
  for batch in _train(_config(root, stored)):
    assert batch['video'].shape == (2, 2, *SIZE, 10)
    assert batch['video'].dtype == np.uint8 and batch['mask'].all()
    for index, clip in zip(batch['index'], batch['video'], strict=True):
      fields = _fields(stored, index)
      for place in clip:
        starts = [s for s in range(len(fields) - 4)
                  if (fields[s:s + 5, ..., 0] == np.moveaxis(
                      place[..., ::2], -1, 0)).all()]
        assert starts
        np.testing.assert_array_equal(
            np.moveaxis(place[..., 1::2], -1, 0),
            fields[starts[0]:starts[0] + 5, ..., 1])
        seen.add((int(index), starts[0]))
  assert len(seen) > 6


def test_flip_mirrors_and_inverts_x(root, stored):
  plain = _train(_config(root, stored))
  flipped = _train(_config(root, stored, data__flip=1.0))
  for a, b in zip(plain, flipped, strict=True):
    np.testing.assert_array_equal(
        b['video'][..., ::2], 255 - a['video'][..., ::-1, ::2])
    np.testing.assert_array_equal(
        b['video'][..., 1::2], a['video'][..., ::-1, 1::2])


def test_evaluation_views(root, stored):
  config = _config(root, stored, eval__crops=10, eval__num_frames=3,
                   eval__crop_size=(16, 16), data__resize=(24, 30))
  dataset = sources.load(config.data, 'eval')
  [batch, *_] = batches.eval_batches(dataset, config)
  views = batch['video'][0]
  assert views.shape == (10, 3, 16, 16, 10)
  np.testing.assert_array_equal(views[5:, ..., ::2],
                                255 - views[:5, ..., ::-1, ::2])
  np.testing.assert_array_equal(views[5:, ..., 1::2],
                                views[:5, ..., ::-1, 1::2])
  # By hand: place 1 of the lower right corner, field 3, y.
  place = sampling.segment_eval(_LENGTHS[0] - 1, 3, stack=5)[0][1]
  y = _fields(stored, 0)[place + 3, ..., 1]
  rgb = resizing.resize(np.repeat(y[None, ..., None], 3, -1), (24, 30))
  np.testing.assert_array_equal(views[3, 1, ..., 7], rgb[0, 8:, 14:, 0])


def test_last_field_is_repeated_in_short_videos():
  stored = {'stack': 5, 'stored': True}
  on_device = {'stack': 2, 'stored': False}
  assert stacks.frames_of(stored, np.array([0, 1]), 5).tolist() == [
      0, 1, 2, 3, 3, 1, 2, 3, 3, 3]
  assert stacks.frames_of(on_device, np.array([[0], [4]]), 8).tolist() == [
      [0, 1, 2], [4, 5, 6]]


@pytest.mark.parametrize('is_stored', [True, False])
def test_workers_processes_and_memory_change_nothing(root, stored, is_stored):
  more = {'data__flip': 0.5, 'data__crop': 'multiscale',
          'model__crop_size': (16, 16)}
  place = stored if is_stored else ''
  config = _config(root, place, **more)
  want = _train(config)
  kinds = [_train(_config(root, place, **more, **values)) for values in (
      {'data__workers': 2}, {'data__cache_frames': True})]
  shards = [_train(config, shard_index=i, shard_count=2) for i in range(2)]
  kinds.append([{k: np.concatenate([a[k], b[k]]) for k in a}
                for a, b in zip(*shards, strict=True)])
  kinds.append([*_train(config, 4), *_train(config, 2, start_step=4)])
  for got in kinds:
    for a, b in zip(got, want, strict=True):
      for key in b:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def _network(num_frames):
  """A network whose logits are what it sees."""
  return types.SimpleNamespace(
      modality='flow', image_shape=(num_frames, *SIZE, 10),
      apply=lambda variables, video, train: {
          'logits': video.reshape(len(video), -1)})


@pytest.fixture(scope='module')
def see():
  """The compiled evaluation step."""
  return jax.jit(state.make_eval_step(_network(2), _MEAN, _STD, 'float32'))


def test_flow_of_the_device_is_the_stored_flow(root, stored, see):
  for theirs, ours in zip(_train(_config(root, stored), 3),
                          _train(_config(root), 3), strict=True):
    np.testing.assert_array_equal(ours['index'], theirs['index'])
    assert ours['video'].shape == (2, 12, *SIZE, 3)
    want = theirs['video'].astype(np.float32) - 128
    assert np.abs(want).max() > 5
    for video in (ours['video'], theirs['video']):
      got = np.asarray(see({}, video[:, None]))[:, 0]
      np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-4)


def test_flip_gives_the_flow_of_the_flipped_frames(root, tvl1, see):
  [batch] = _train(_config(root, data__flip=1.0), 1)
  [plain] = _train(_config(root), 1)
  got = np.asarray(see({}, batch['video'][:, None])).reshape(2, 2, *SIZE, 5, 2)
  mirrored = plain['video'][:, :, :, ::-1].reshape(2, 2, 6, *SIZE, 3)
  for i, k in np.ndindex(2, 2):
    want = tvl1.compute(np.ascontiguousarray(mirrored[i, k]), 20.0)
    np.testing.assert_allclose(np.moveaxis(got[i, k], -2, 0) + 128, want,
                               atol=1e-3)


@pytest.mark.parametrize('name, stack', [
    ('tsn_r18', 5), ('tstam', 3), ('r3d_18', 2)])
def test_a_training_step_takes_both(root, name, stack):
  c = small.config(data__modality='flow', data__mean=_MEAN, data__std=_STD,
                   data__flow_stack=stack, model__attention='',
                   model__stages=(), model__name=name,
                   model__crop_size=(64, 64))
  model = state.build_model(state.model_arguments(c, 3))
  assert model.image_shape == (2, 64, 64, 2 * stack)
  start = jax.eval_shape(lambda: state.create_state(
      state.init_variables(model, jax.random.key(0)), c))
  step = functools.partial(state.make_train_step(model, c, 3),
                           key=state.key_data(0), learning_rate=0.05)
  for shape in ((8, 2, 64, 64, 2 * stack), (8, 2 * (stack + 1), 64, 64, 3)):
    batch = {'video': jax.ShapeDtypeStruct(shape, np.uint8),
             'label': jax.ShapeDtypeStruct((8,), np.int32),
             'mask': jax.ShapeDtypeStruct((8,), np.float32)}
    after, metrics = jax.eval_shape(step, start, batch)
    assert jax.tree.structure(after) == jax.tree.structure(start)
    assert metrics['loss'].shape == ()
  batch['video'] = jax.ShapeDtypeStruct((8, 2, 64, 64, 14), np.uint8)
  with pytest.raises(ValueError,
                     match=rf'takes \(clips.*, {2 * stack}\) for flow'):
    jax.eval_shape(step, start, batch)


class _Convolution(nn.Module):
  """The smallest backbone."""

  @nn.compact
  def __call__(self, x, train):
    del train
    return [nn.Conv(3, (1, 3, 3), name='conv1')(x)]


@pytest.mark.parametrize('method', [
    'difference', pytest.param('tvl1', marks=pytest.mark.slow)])
def test_steps_take_the_bound_of_the_configuration(root, monkeypatch, method):
  if method == 'difference':
    # As large as flow, and quicker to compile.
    monkeypatch.setattr(flow_ops.tvl1, 'tvl1', lambda a, b: jnp.stack(
        [(a - b) / 40, (b - a) / 80], -1))
  config = _config(root, data__flow_bound=5.0)
  [batch] = _train(config, 1)
  evaluate = state.make_eval_step(_network(2), _MEAN, _STD, 'float32', 5.0)

  @jax.jit
  def both(video):
    return flow_ops.of_clips(video, 5, 5.0), evaluate({}, video[:, None])

  stacks, seen = map(np.asarray, both(batch['video']))
  # A pixel a frame is 26 levels from the middle; twenty would leave it at 6.
  assert np.abs(stacks.astype(int) - 128).max() > 20
  np.testing.assert_allclose(seen.reshape(stacks.shape) + 128, stacks,
                             atol=1e-3)

  model = recognizer.Recognizer(_Convolution, 2, 2, SIZE, 'flow')
  start = state.create_state(
      {'batch_stats': {}, **seeded.variables(
          model, (1, *model.image_shape))}, config)
  step = jax.jit(state.make_train_step(model, config, 2))
  ours, theirs = (
      step(start, {**batch, 'video': video}, state.key_data(0), 1.0)[0].params
      for video in (batch['video'], stacks))
  assert jax.tree.all(jax.tree.map(
      lambda old, new: np.abs(old - new).max() > 1e-4, start.params, ours))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5),
               ours, theirs)


def _copy(stored, tmp_path):
  for path in stored.rglob('*.array_record'):
    target = tmp_path / path.relative_to(stored)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(path.read_bytes())
  return tmp_path


def test_missing_and_half_written_flow_is_counted_and_named(
    root, stored, tmp_path):
  place = _copy(stored, tmp_path)
  os.remove(place / 'a/0.mp4.array_record')
  half = place / 'b/3.mp4.array_record'
  half.write_bytes(half.read_bytes()[:50_000])
  config = _config(root, place, data__max_bad_fraction=0.5)
  dataset = sources.load(config.data, 'train')
  reasons = dict(dataset.dropped)
  assert list(reasons) == ['a/0.mp4', 'b/3.mp4'] and len(dataset.records) == 4
  assert 'its flow is missing; run vidattn flow' in reasons['a/0.mp4']
  assert 'damaged or half written' in reasons['b/3.mp4']
  config.data.max_bad_fraction = 0.1
  with pytest.raises(ValueError, match=r'2 of 6 videos.*a/0\.mp4: its flow is'):
    sources.load(config.data, 'train')


def test_videos_too_short_for_flow_are_named(root, stored, tmp_path):
  config = _config(root, stored, data__max_bad_fraction=0.5)
  whole = sources.load(config.data, 'train')
  assert not whole.dropped
  synthetic.encode(str(tmp_path / 'one.mp4'), np.zeros((1, *SIZE, 3), np.uint8))
  listed = tmp_path / 'list.txt'
  listed.write_text((root / 'all.txt').read_text() + f'{tmp_path}/one.mp4 0\n')
  config.data.train_list = str(listed)
  [(name, reason)] = sources.load(config.data, 'train').dropped
  assert name.endswith('one.mp4')
  assert reason == 'it has 1 frames, its flow takes 2'
  config.data.flow_root = ''
  config.data.flow_stack = 6  # clip 2 has six frames
  config.data.mean = config.data.std = (0.5,)
  reasons = dict(sources.load(config.data, 'train').dropped)
  assert reasons['a/2.mp4'] == 'it has 6 frames, its flow takes 7'


def test_flow_of_another_bound_or_video_stops_the_run(root, stored, tmp_path):
  with pytest.raises(ValueError, match=r'0\.mp4.*its bound is 20 pixels'):
    sources.load(_config(root, stored, data__flow_bound=15.0).data, 'train')
  place = _copy(stored, tmp_path)
  os.replace(place / 'a/0.mp4.array_record', place / 'b/1.mp4.array_record')
  os.replace(place / 'a/2.mp4.array_record', place / 'a/0.mp4.array_record')
  with pytest.raises(ValueError, match=r'of 6 frames, but a/0\.mp4 has 13'):
    sources.load(_config(root, place).data, 'train')


def test_flow_of_another_size_stops_the_run(root, tvl1, tmp_path):
  flow.extract(sources.gather_videos([str(root)]), str(tmp_path), tvl1,
               size=[10, 12])
  config = _config(root, tmp_path, data__flow_size=(10, 12),
                   data__resize=(10, 12), model__crop_size=(10, 12))
  records = sources.load(config.data, 'train').records
  [batch] = _train(config, 1)
  for video, i in zip(batch['video'], batch['index'], strict=True):
    fields = stored_flow.read(
        stored_flow.locate(str(tmp_path), records[i].name),
        range(records[i].num_frames - 1))
    for place in video:
      assert any(np.array_equal(place[..., :2], field) for field in fields)
  assert transforms.pixel_recipe(config)['flow'] == {
      'stack': 5, 'bound': 20.0, 'stored': True, 'size': [10, 12]}
  for size in (0, 10):
    with pytest.raises(ValueError, match=rf'size \[10, 12\].*size is {size}'):
      sources.load(_config(root, tmp_path, data__flow_size=size).data, 'train')
  with pytest.raises(ValueError, match=r'data\.flow_root is empty'):
    transforms.pixel_recipe(_config(root, data__flow_size=10))


def test_other_flow_is_other_data(root, stored, tvl1, tmp_path):
  other = dataclasses.replace(tvl1, library='another version')
  flow.extract(sources.gather_videos([str(root)]), str(tmp_path), other)
  prints = {sources.load(_config(root, place).data, 'train').fingerprint
            for place in (stored, tmp_path, '')}
  assert len(prints) == 3


def test_flow_that_vanishes_keeps_its_slot(root, stored, tmp_path):
  place = _copy(stored, tmp_path)
  config = _config(root, place)
  dataset = sources.load(config.data, 'train')
  os.remove(place / 'a/0.mp4.array_record')
  for batch in batches.train_batches(dataset, config, num_steps=3):
    lost = batch['index'] == 0
    np.testing.assert_array_equal(batch['mask'], 1 - lost)
    assert (batch['video'][lost] == 128).all()
  rows = next(batches.eval_batches(dataset, config))
  assert rows['mask'].tolist() == [0, 1]
  assert rows['video'].shape == (2, 1, 2, *SIZE, 10)


def test_recipe_carries_the_flow(root, stored):
  recipe = transforms.pixel_recipe(_config(root, stored))
  assert json.loads(json.dumps(recipe)) == recipe
  assert recipe['flow'] == {'stack': 5, 'bound': 20.0, 'stored': True}
  assert recipe['mean'] == list(_MEAN)
  assert 'flow' not in transforms.pixel_recipe(common.get_config())
  frames = decode.decode_all(str(root / 'a/0.mp4'))
  with pytest.raises(ValueError, match='sees stored flow, but frames'):
    transforms.views_from_recipe(recipe, len(frames), lambda i: frames[i])
  views = transforms.views_from_recipe(
      transforms.pixel_recipe(_config(root)), len(frames), lambda i: frames[i])
  places = sampling.segment_eval(12, 2, stack=5)[0]
  np.testing.assert_array_equal(
      views[0], frames[(places[:, None] + np.arange(6)).ravel()])


@pytest.mark.parametrize('values, message', [
    ({'data__modality': 'depth'}, "'rgb' or 'flow', not 'depth'"),
    ({'data__flow_stack': 0}, 'data.flow_stack=0'),
    ({'data__flow_bound': -1.0}, 'data.flow_bound=-1'),
    ({'data__mean': (0.4, 0.5, 0.6)}, r'data.mean has 3 numbers.*10 channels')])
def test_keys_that_cannot_be_are_refused(root, values, message):
  with pytest.raises(ValueError, match=message):
    transforms.check_train(_config(root, **values))
