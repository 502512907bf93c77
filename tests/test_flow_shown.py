"""Flow as colours, and what networks of flow say and show of a video."""

import json

import jax
import numpy as np
import pictured
from PIL import Image
import pytest
import seeded
import small

from input_pipeline import decode
from input_pipeline import flow
from input_pipeline import resizing
from input_pipeline import sources
from input_pipeline import stored_flow
from input_pipeline import synthetic
from input_pipeline import transforms
from vidattn_jax import cli
from vidattn_jax.tools import flow as methods
from vidattn_jax.tools import flow_colors
from vidattn_jax.tools import panels
from vidattn_jax.tools import pictures
from vidattn_jax.tools import predict
from vidattn_jax.training import checkpoint
from vidattn_jax.training import metrics
from vidattn_jax.training import report
from vidattn_jax.training import state


def test_wheel_has_the_colours_of_the_field():
  right, down, left, up = flow_colors.colors(
      [[1, 0], [0, 1], [-1, 0], [0, -1]], 1.0).tolist()
  assert right == [255, 0, 0] and len(flow_colors.wheel()) == 55
  # Down is just before yellow, left past cyan, up between blue and magenta.
  assert down[0] == 255 and 200 < down[1] < 255 and down[2] == 0
  assert left[0] == 0 and 180 < left[1] < 255 and left[2] == 255
  assert 50 < up[0] < 120 and up[1] == 0 and up[2] == 255
  still, half, beyond = flow_colors.colors(
      [[0, 0], [0.5, 0], [1.5, 0]], 1.0).tolist()
  assert still == [255] * 3
  assert half == [255, 128, 128] and beyond == [191, 0, 0]
  # The last colour leads back to the first.
  turns = np.linspace(0, 2 * np.pi, 721)
  ring = flow_colors.colors(np.stack([np.cos(turns), np.sin(turns)], -1), 1.01)
  assert np.abs(np.diff(ring.astype(int), axis=0)).max() < 12


def test_legend_is_the_colour_of_a_motion_from_its_centre():
  drawn = np.asarray(flow_colors.legend(61, 3.0))
  x, y = 50, 20
  motion = (np.array([x, y]) + 0.5 - 30.5) / 30.5 * 3.0
  np.testing.assert_array_equal(drawn[y, x], flow_colors.colors(motion, 3.0))
  assert drawn[0, 0].tolist() == [255] * 3 == drawn[30, 30].tolist()


def test_panel_of_flow_is_the_middle_field_in_pixels():
  stack = np.full((2, 3, 4, 6), 128, np.uint8)
  stack[1, ..., 2] = 128 + 51     # x of the middle field: 0.2 of 255
  stack[1, ..., 5] = 0            # y of the last field, not shown
  panel = panels.flow_panel(stack, bound=10.0)
  assert panel.kind == 'flow' and panel.values.shape == (2, 3, 4, 2)
  np.testing.assert_allclose(panel.values[1, ..., 0], 4.0)
  assert not panel.values[0].any() and not panel.values[..., 1].any()
  assert (panel.peak, panel.high) == (1, 4.0)
  assert panel.range == '0 to 4 pixels a frame'
  assert panel.notes == ('field 2 of 3 of each stack',)
  drawn = pictures.cells(panel, np.zeros((2, 6, 8, 3), np.uint8), 'viridis')
  assert (drawn[0] == 255).all() and (drawn[1] == (255, 0, 0)).all()
  # Nothing moves: white, not noise blown up.
  still = panels.flow_panel(stack[:1], bound=10.0)
  assert still.high > 0 and (pictures.cells(
      still, np.zeros((1, 6, 8, 3), np.uint8), 'viridis') == 255).all()


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  path = tmp_path_factory.mktemp('flow_shown') / 'slide_right.mp4'
  frames = synthetic.render('slide_right', np.random.default_rng(3))
  synthetic.encode(str(path), resizing.resize(frames[:14], (60, 80)))
  return path


def _network(path, flow_root):
  """Saves a seeded T-STAM for flow; returns its model and weights."""
  c = small.config(
      model__name='tstam', model__attention='', model__stages=(),
      model__num_frames=2, model__crop_size=(48, 56), data__modality='flow',
      data__flow_root=str(flow_root),
      data__mean=(128 / 255,), data__std=(1 / 255,), data__resize=(50, 60),
      eval__crops=10, eval__average='probabilities')
  with c.unlocked():
    c.model.options.update(backbone='tsn_r18', embed_dim=8, num_spatial=2)
  arguments = state.model_arguments(c, 3)
  model = state.build_model(arguments)
  weights = seeded.variables(model, (1, *model.image_shape))
  checkpoints = checkpoint.Checkpoints(path)
  checkpoints.save(
      state.TrainState(step=np.asarray(1, np.int32), params=weights['params'],
                       batch_stats=weights['batch_stats'], opt_state={},
                       ema={}, plateau={}),
      {'model': arguments, 'classes': list(small.CLASSES),
       'pixels': transforms.pixel_recipe(c), 'config': report.plain(c)},
      {'top1': 0.5})
  checkpoints.close()
  return model, weights, transforms.pixel_recipe(c)


@pytest.fixture(scope='module')
def stored(video):
  """The flow of the video, stored; a network for it."""
  root = video.parent / 'flow'
  flow.extract(sources.gather_videos([str(video)]), str(root),
               flow.Method(**methods.get_method('tvl1')))
  return root, *_network(video.parent / 'stored', root)


def _expected(model, weights, recipe, views):
  step = jax.jit(state.make_eval_step(model, recipe['mean'], recipe['std'],
                                      'float32', recipe['flow']['bound']))
  logits = np.asarray(step(weights, views[None]))[0]
  return metrics.softmax(logits).mean(0)


def _predicted(video, net, capsys):
  cli.main(['predict', str(video), f'--checkpoint={net}', '--json'])
  [found] = json.loads(capsys.readouterr().out)
  return {row['class']: row['score'] for row in found['classes']}


def test_fields_of_a_video_are_the_stored_ones(video, stored):
  root, *_ = stored
  entry = decode.probe(str(video))
  method = flow.Method(**methods.get_method('tvl1'))

  def read(indices):
    return decode.decode_frames(str(video), indices, entry)

  wanted = [0, 1, 2, 7, 8, 12]
  got = flow.fields(read, wanted, method, 20.0)
  want = stored_flow.read(stored_flow.locate(str(root), video.name), wanted)
  np.testing.assert_array_equal(got, want)
  assert np.abs(want.astype(int) - 128).max() > 5


def test_prediction_is_that_of_the_stored_flow(video, stored, capsys):
  root, model, weights, recipe = stored
  path = stored_flow.locate(str(root), video.name)
  views = transforms.views_from_recipe(
      recipe, 14, lambda indices: stored_flow.read(path, indices))
  want = _expected(model, weights, recipe, views)
  got = _predicted(video, video.parent / 'stored', capsys)
  np.testing.assert_allclose([got[c] for c in small.CLASSES], want, rtol=1e-5)
  assert np.ptp(want) > 1e-3


def test_a_video_of_one_frame_is_named_and_the_others_go_on(
    video, stored, tmp_path, capsys):
  one, net = tmp_path / 'one.mp4', f'--checkpoint={video.parent / "stored"}'
  synthetic.encode(str(one), np.zeros((1, 60, 80, 3), np.uint8))
  told = ('the network takes 2 frames or more (it sees flow, which lies '
          'between frames), ')
  assert cli.main(['predict', str(one), str(video), net, '--json']) == 1
  said = capsys.readouterr()
  first, second = json.loads(said.out)
  assert first['error'] == told + 'the video has 1; give a longer video'
  assert f'{one}: {first["error"]}' in said.err
  assert len(second['classes']) == len(small.CLASSES)
  # The fourteenth frame is left over.
  args = ['predict', str(one), str(video), net, '--stride=13']
  assert cli.main([*args, '--window=13']) == 1
  said = capsys.readouterr()
  assert [row.split(',')[1:3] for row in said.out.splitlines()[1:]] == [
      ['0', '13']]
  assert f'{one}: {told}' in said.err
  assert f'{video}: the last 1 of 14 frames are too few' in said.err
  assert cli.main([*args, '--window=1']) == 1
  assert f'{told}a window has 1; raise --window' in capsys.readouterr().err
  with pytest.raises(SystemExit, match=r'one\.mp4: the network takes 2 frames'):
    cli.main(['explain', str(one), net, f'--out={tmp_path / "out"}'])


def test_explanation_shows_flow_attention_and_frames(video, stored, tmp_path,
                                                     capsys):
  cli.main(['explain', str(video), f'--checkpoint={video.parent / "stored"}',
            f'--out={tmp_path}'])
  text = capsys.readouterr().out
  names = [line.strip().partition(':')[0] for line in text.splitlines()[1:-1]]
  assert names == ['optical flow', f'Grad-CAM of {_best(text)}, last stage',
                   'spatial attention 1 of 2', 'spatial attention 2 of 2',
                   'temporal attention']
  assert 'pixels a frame; field 3 of 5 of each stack' in text
  page = (tmp_path / 'index.html').read_text()
  assert 'optical flow' in page
  # Flow is drawn: the cells of its middle field, and the wheel beside them.
  root, _, _, recipe = stored
  path = stored_flow.locate(str(root), video.name)
  [view] = transforms.views_from_recipe(
      {**recipe, 'crops': 1}, 14, lambda i: stored_flow.read(path, i))
  panel = panels.flow_panel(view, recipe['flow']['bound'])
  frames = pictures.resize(np.zeros((2, 48, 56, 3), np.uint8), 112)
  cells = pictures.cells(panel, frames, 'viridis')
  strip = np.asarray(Image.open(tmp_path / 'strip.png'))
  step = frames.shape[2] + 6
  found = [pictured.lines(strip, np.asarray(part), 250 + i * step)
           for i, part in enumerate([*cells, flow_colors.legend(
               82, panel.high)])]
  assert len(found[0]) == 1 and found == [found[0]] * 3
  assert np.ptp(cells[0].astype(int), (0, 1)).max() > 50


def _best(text):
  return text.splitlines()[0].partition('predicts ')[2].partition(',')[0]


class _Seen:
  """A network whose logits are the mean of what it sees."""
  modality, image_shape, num_classes = 'flow', (2, 20, 24, 2), 2

  def __call__(self, video, temporal_attention=None):
    return {'logits': video.mean((1, 2, 3))}

  def apply(self, variables, video, train=False, temporal_attention=None):
    return self(video, temporal_attention)


def test_edited_attention_sees_flow_of_the_same_bound(monkeypatch):
  # In place of TV-L1, which takes long to compile: x is the bound.
  monkeypatch.setattr(state.flow, 'of_clips', lambda video, stack, bound: (
      video[:, ::2, ..., :2] * 0 + np.asarray([bound, 0], np.uint8)))
  monkeypatch.setattr(predict.state, 'build_model', lambda _: _Seen())
  recipe = {'stack': 1, 'stored': False}
  description = {
      'model': {'name': 'st_abn_r50', 'dtype': 'float32'},
      'classes': ['x', 'y'],
      'config': {'eval': {'average': 'logits'},
                 'data': {'frame_template': '', 'first_frame': 1}},
      'pixels': {'mean': [0.0], 'std': [0.1], 'flow': recipe}}
  monkeypatch.setattr(predict.checkpoint_lib, 'load',
                      lambda *args: ({}, description, 0))
  views = np.ones((1, 4, 20, 24, 3), np.uint8)
  seen = {}
  for bound in (20.0, 40.0):
    recipe['bound'] = bound
    predictor = predict.load_predictor('net')
    seen[bound] = predictor.scores(views, np.full((1, 2), -1.0))
    np.testing.assert_allclose(seen[bound], predictor.scores(views), rtol=1e-6)
  assert seen[40.0][0] > seen[20.0][0] + 0.1


@pytest.mark.slow
def test_flow_of_the_device_is_shown_alike(video, tmp_path, capsys):
  net = tmp_path / 'device'
  model, weights, recipe = _network(net, '')
  assert not recipe['flow']['stored']
  entry = decode.probe(str(video))
  views = transforms.views_from_recipe(
      recipe, 14, lambda i: decode.decode_frames(str(video), i, entry))
  got = _predicted(video, net, capsys)
  np.testing.assert_allclose(
      [got[c] for c in small.CLASSES],
      _expected(model, weights, recipe, views), rtol=1e-4)
  cli.main(['explain', str(video), f'--checkpoint={net}',
            f'--out={tmp_path / "out"}'])
  text = capsys.readouterr().out
  assert text.splitlines()[1].startswith('  optical flow: 0 to ')
