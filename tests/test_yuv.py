"""Frames that come as YUV are those that come as RGB, as near as can be."""

import itertools

import av
from av.video import reformatter
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import small

from configs import common
from input_pipeline import batches
from input_pipeline import decode
from input_pipeline import pieces
from input_pipeline import resizing
from input_pipeline import sources
from input_pipeline import synthetic
from input_pipeline import transforms
from input_pipeline import yuv
from vidattn_jax import wiring
from vidattn_jax.ops import pixels
from vidattn_jax.training import programs
from vidattn_jax.training import sharding
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train

# Levels by which FFmpeg's own conversion rounds.
ROUNDED = 3
HEIGHT, WIDTH = 60, 82


def _pictures(count=6, height=HEIGHT, width=WIDTH):
  """Returns smooth coloured frames, none like the other or its mirror."""
  t, y, x = np.meshgrid(np.arange(count), np.linspace(0, 1, height),
                        np.linspace(0, 1, width), indexing='ij')
  waves = [np.sin(5 * x + t / 3), np.cos(4 * y - 3 * x), np.sin(2 * y + 2 * x)]
  return np.rint(120 + 60 * np.stack(waves, -1)).astype(np.uint8)


def _rgb(planes):
  """Returns what the device makes of planes with even sides."""
  return _shown(jax.tree.map(
      lambda x: x[None], batches.video_arrays(planes)))[0]


def _shown(batch):
  """Returns the clips of a batch in RGB, uint8."""
  return np.asarray(pixels.from_yuv(*(
      jnp.asarray(batch[name]) for name in ('video', 'chroma', 'color'))))


def _difference(a, b):
  return np.abs(a.astype(int) - b)


@pytest.fixture
def evenly(monkeypatch):
  """Has frames of RGB, too, cut and resized by even numbers."""
  def even(pair):
    return tuple(side // 2 * 2 for side in pair)

  cut, resize = transforms._cut, resizing.resize
  monkeypatch.setattr(transforms, '_cut', lambda frames, place, size: cut(
      frames, even(place), even(size)))
  monkeypatch.setattr(resizing, 'resize', lambda frames, size, *how: resize(
      frames, even(resizing.resized(frames.shape[1:3], size))
      if isinstance(frames, np.ndarray) and frames.shape[-1] == 3 else size,
      *how))


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('yuv') / 'clip.mp4')
  synthetic.encode(path, _pictures(), options={'crf': '4', 'bf': '2'})
  return path


@pytest.mark.parametrize('form', ['yuv420p', 'yuvj420p'])
@pytest.mark.parametrize('space', [0, 1, 2, 4, 5, 6, 7, 9])
@pytest.mark.parametrize('full', [False, True])
def test_colours_are_those_of_ffmpeg(form, space, full):
  frame = av.VideoFrame(64, 48, form)
  rng = np.random.default_rng(space)
  for plane in frame.planes:
    view = np.frombuffer(plane, np.uint8)
    view[:] = rng.integers(30, 225, view.size)
  frame.colorspace, frame.color_range = space, 1 + full
  kept = reformatter.VideoReformatter()
  views, color = yuv.of_frame(kept, frame)
  planes = yuv.Planes(tuple(v[None, ..., None] for v in views), color)
  wanted = decode._to_rgb(kept, frame, False)
  assert _difference(_rgb(planes)[0], wanted).max() <= ROUNDED
  assert np.ptp(wanted) == 255


@pytest.mark.parametrize('space', [1, 2, 9])
@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('form', ['yuv444p', 'yuv422p10le', 'yuv420p10le',
                                  'yuvj422p', 'gray', 'rgb24', 'gbrp'])
def test_other_forms_become_it(form, space, full):
  picture, = _pictures(1)
  frame = av.VideoFrame.from_ndarray(picture, 'rgb24').reformat(format=form)
  frame.colorspace, frame.color_range = space, 1 + full
  kept = reformatter.VideoReformatter()
  views, color = yuv.of_frame(kept, frame)
  planes = yuv.Planes(tuple(v[None, ..., None].copy() for v in views), color)
  # Colour is that of four pixels, which differ a little.
  found = _difference(_rgb(planes)[0], decode._to_rgb(kept, frame, False))
  assert found.max() < 14 and found.mean() < 2.2


def test_an_odd_edge_is_left_out():
  frame = av.VideoFrame.from_ndarray(_pictures(1, 49, 63)[0], 'rgb24').reformat(
      format='yuv420p')
  views, _ = yuv.of_frame(reformatter.VideoReformatter(), frame)
  assert [v.shape for v in views] == [(48, 62), (24, 31), (24, 31)]
  np.testing.assert_array_equal(views[1], yuv.views(frame)[1][:24, :31])


@pytest.mark.parametrize('indices', [[4, 0, 4, 2], [5]])
def test_decoding_gives_the_same_frames(path, indices):
  entry = decode.probe(path)
  for known in (entry, None):
    rgb = decode.decode_frames(path, indices, known)
    planes = decode.decode_frames(path, indices, known, planes=True)
    assert planes.shape == rgb.shape
    assert _difference(_rgb(planes), rgb).max() <= ROUNDED


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_planes_are_turned(path, turns, monkeypatch):
  monkeypatch.setattr(decode, '_turns', lambda frame, rotate: turns * rotate)
  rgb = decode.decode_frames(path, [1, 3])
  planes = decode.decode_frames(path, [1, 3], planes=True)
  # Turned, pixels still share their colour.
  assert _difference(_rgb(planes), rgb).max() <= ROUNDED


def test_a_change_of_colour_is_named(path, monkeypatch):
  colors = itertools.count()
  true = yuv.of_frame
  monkeypatch.setattr(yuv, 'of_frame', lambda *args: (
      true(*args)[0], next(colors)))
  with pytest.raises(decode.VideoError, match='kind of colour.*data.transfer'):
    decode.decode_frames(path, [0, 1], planes=True)


@pytest.mark.parametrize('crop', ['multiscale', 'corner', 'random', 'center'])
@pytest.mark.parametrize('size', [48, 41, (37, 51)])
@pytest.mark.parametrize('resampler', ['swscale', 'pillow'])
def test_crops_show_the_same(path, crop, size, resampler, evenly):
  data = common.get_config().data
  data.update(crop=crop, flip=0.5, resampler=resampler)
  frames = [decode.decode_frames(path, range(3), planes=planes)
            for planes in (False, True)]
  flips = 0
  for seed in range(6):
    rgb, planes = (transforms.train_clip(
        np.random.default_rng(seed), resizing.resize(f, size, resampler),
        np.array(0), data, (32, 36), np.array([1])) for f in frames)
    assert planes[1] == rgb[1]
    found = _difference(_rgb(planes[0]), rgb[0])
    assert found.mean() < 2 and found.max() < 16
    flips += rgb[1]
  assert 0 < flips < 6


def test_odd_numbers_become_even(path):
  planes = decode.decode_frames(path, [2], planes=True)
  cut = transforms._cut(planes, (7, 5), (33, 21))
  wanted = planes.planes[0][:, 4:36, 6:26], *(
      plane[:, 2:18, 3:13] for plane in planes.planes[1:])
  jax.tree.map(np.testing.assert_array_equal, cut.planes, wanted)
  assert resizing.resize(planes, (33, 21)).shape == (1, 32, 20, 3)


def test_a_mirrored_clip_is_the_mirror_of_the_clip(path):
  planes = decode.decode_frames(path, [0, 5], planes=True)
  np.testing.assert_array_equal(
      _rgb(planes.flipped()), _rgb(planes)[:, :, ::-1])


def _config(root, **values):
  config = common.get_config()
  with config.unlocked():
    config.update_from_flattened_dict({
        'data.root': str(root), 'data.resize': 40, 'data.eval_fraction': 0.4,
        'data.transfer': 'yuv', 'model.crop_size': (32, 32),
        'model.num_frames': 3, 'batch_size': 4, 'seed': 5,
        'data.index_file': str(root / 'index'),
        **{k.replace('__', '.'): v for k, v in values.items()}})
  return config


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('clips')
  for i in range(10):
    path = root / 'ab'[i % 2] / f'{i}.mp4'
    path.parent.mkdir(exist_ok=True)
    synthetic.encode(str(path), _pictures(2 * i + 4)[i:],
                     options={'crf': '4'})
  return root


def _batches(config, count=3, **kwargs):
  dataset = sources.load(config.data, 'train')
  return list(batches.train_batches(dataset, config, num_steps=count, **kwargs))


def test_batches_are_those_of_rgb(root, evenly):
  found, wanted = (_batches(_config(root, data__transfer=transfer))
                   for transfer in ('yuv', 'rgb'))
  for a, b in zip(found, wanted, strict=True):
    assert a['video'].shape == (4, 3, 32, 32, 1)
    assert 2 * (a['video'].nbytes + a['chroma'].nbytes) == b['video'].nbytes
    found = _difference(_shown(a), b.pop('video'))
    assert found.mean() < 2 and found.max() < 16
    for name in ('video', 'chroma', 'color'):
      del a[name]
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize('values', [
    {'data__cache_frames': True}, {'data__workers': 1}])
def test_batches_are_the_same_however_they_are_made(root, values):
  found, wanted = _batches(_config(root, **values)), _batches(_config(root))
  for a, b in zip(found, wanted, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_frames_may_be_kept_in_parts(root, monkeypatch):
  wanted = _batches(_config(root))
  monkeypatch.setattr(batches, '_CACHED_BYTES', 2 * 3 * HEIGHT * WIDTH)
  found = _batches(_config(root, data__cache_frames=True))
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_kept_parts_of_other_colours_are_named(root, monkeypatch, caplog):
  kinds = itertools.count()
  true = yuv.of_frame
  monkeypatch.setattr(yuv, 'of_frame', lambda *args: (
      true(*args)[0], next(kinds) // 2 % 2))
  monkeypatch.setattr(batches, '_CACHED_BYTES', 2 * 3 * HEIGHT * WIDTH)
  batch, = _batches(_config(root, data__cache_frames=True), 1)
  assert not batch['mask'].any()
  assert yuv.CHANGING in caplog.text


def test_pictures_become_it(tmp_path):
  for name in 'ab':
    for number in range(3):
      folder = tmp_path / name / f'{number}'
      folder.mkdir(parents=True)
      for i, picture in enumerate(_pictures(5)[number:]):
        Image.fromarray(picture).save(
            folder / f'{i + 1:05d}.jpg', quality=98, subsampling=0)
  found, wanted = (_batches(_config(tmp_path, data__transfer=transfer), 1)[0]
                   for transfer in ('yuv', 'rgb'))
  assert wanted['mask'].all()
  assert _difference(_shown(found), wanted['video']).mean() < 6  # a pixel's way


def test_pieces_of_untrimmed_videos(root):
  config = _config(root)
  dataset = sources.load(config.data, 'train')

  class Pieces:
    def __len__(self):
      return len(dataset.records)

    def draw(self, number, rng):
      del rng
      return number, 0, 4, None

    def targets(self, more, classes):
      del more, classes
      return {}

  batch = next(pieces.train_batches(dataset, config, Pieces(), num_steps=1))
  assert batch['video'].shape == (4, 3, 32, 32, 1)
  assert batch['chroma'].shape == (4, 3, 16, 16, 2) and batch['mask'].all()


def test_a_run_takes_it(root, tmp_path):
  config = wiring.resolve(_config(
      root, model__name='tsn_r18', model__width=1 / 16, num_epochs=1.0,
      eval__batch_size=4, eval__clips=1, mesh__data=1, compile_cache=''))
  mesh = sharding.make_mesh(config)
  model = state_lib.build_model(state_lib.model_arguments(config, 2))
  _, shapes, shardings = programs.initializer(config, mesh, model)
  _, wanted, *_ = programs.train_step_arguments(
      config, mesh, model, 2, shapes, shardings)
  batch = train._on_devices(mesh, _batches(config, 1)[0])
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
      k: (v.shape, v.dtype) for k, v in wanted.items()}
  inputs = wiring.training_inputs(config, tmp_path)
  result = train.train_and_evaluate(config, tmp_path, inputs)
  assert np.isfinite(result.scores).all()


def test_a_video_that_fails_keeps_its_slot(root, monkeypatch):
  def fail(path, *_, **__):
    raise decode.VideoError(path, 'gone')

  config = _config(root)
  dataset = sources.load(config.data, 'train')
  monkeypatch.setattr(decode, 'decode_frames', fail)
  batch, = batches.train_batches(dataset, config, num_steps=1)
  assert not batch['mask'].any()
  rgb = _shown(batch)
  assert _difference(rgb, batches.grey(rgb.shape)).max() <= 1


def test_evaluation_sees_rgb(root):
  config = _config(root, **{'eval__batch_size': 4, 'eval__clips': 1})
  dataset = sources.load(config.data, 'eval')
  batch = next(batches.eval_batches(dataset, config))
  assert batch['video'].shape[2:] == (3, 32, 32, 3) and 'chroma' not in batch


@pytest.mark.parametrize('jitter', [0.0, 0.3])
def test_a_step_is_that_of_the_rgb_it_becomes(root, jitter):
  c = small.config(model__num_frames=3, model__crop_size=(32, 32),
                   data__color_jitter=jitter)
  model = state_lib.build_model(state_lib.model_arguments(c, 2))
  state = state_lib.create_state(
      state_lib.init_variables(model, jax.random.key(0)), c)
  batch, = _batches(_config(root), 1)
  del batch['index']
  shown = {key: batch[key] for key in ('label', 'mask')}
  shown['video'] = _shown(batch)
  step = jax.jit(state_lib.make_train_step(model, c, 2))
  found, wanted = (step(state, b, state_lib.key_data(0), np.float32(0.1))
                   for b in (batch, shown))
  assert wanted[1]['loss'] > 0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6),
               found, wanted)


@pytest.mark.parametrize('values, message', [
    ({'data__transfer': 'nv12'}, "data.transfer must be 'rgb' or 'yuv'"),
    ({'model__crop_size': (31, 32)}, r'even, not \(31, 32\)'),
    ({'data__modality': 'flow', 'data__flow_root': '/flow'}, 'flow_root'),
])
def test_what_cannot_be_is_named(root, values, message):
  with pytest.raises(ValueError, match=message):
    transforms.check_train(_config(root, **values))
  with pytest.raises(ValueError, match=message):
    wiring.resolve(_config(root, **values))
