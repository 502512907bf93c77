"""Maps and weights of networks: computed, drawn, written."""

import base64
import dataclasses
import functools
from html import parser
import io
import re
import shutil

import av
from flax import linen as nn
import jax
import matplotlib
import numpy as np
import pictured
from PIL import Image
import pytest
import seeded
import small

from input_pipeline import synthetic
from input_pipeline import transforms
from vidattn_jax import cli
from vidattn_jax import models
from vidattn_jax.models import recognizer
from vidattn_jax.tools import explain
from vidattn_jax.tools import gradcam
from vidattn_jax.tools import page
from vidattn_jax.tools import panels
from vidattn_jax.tools import pictures
from vidattn_jax.tools import predict
from vidattn_jax.training import checkpoint
from vidattn_jax.training import report
from vidattn_jax.training import state

# --- Grad-CAM ----------------------------------------------------------------


class _Backbone(nn.Module):
  """Two stages; the first halves time and space."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.relu(nn.Conv(4, (3, 3, 3), (2, 2, 2), name='conv1')(x))
    y = nn.relu(nn.Conv(5, (1, 1, 1), name='conv2')(x))
    return [x, y]


@pytest.fixture(scope='module')
def tiny():
  model = recognizer.Recognizer(_Backbone, num_classes=3, consensus='clip')
  video = seeded.clip((2, 4, 6, 8, 3))
  return model, seeded.variables(model, video.shape), video


@pytest.fixture(scope='module')
def shifted():
  """A 2D network with shift and attention."""
  model = models.get_model('tsm_r18', num_classes=5, num_frames=3,
                           crop_size=(48, 40), width=1 / 16, attention='C',
                           stages=(4,))
  video = seeded.clip((2, 3, 48, 40, 3))
  return model, seeded.variables(model, video.shape), video


def _enlarge(values, shape):
  """Interpolates [N, t, h, w] to (T, H, W) axis by axis, edges held."""
  for axis, length in enumerate(shape, start=1):
    old = values.shape[axis]
    places = (np.arange(length) + 0.5) * old / length - 0.5
    values = np.apply_along_axis(
        lambda line, p=places, n=old: np.interp(p, np.arange(n), line), axis,
        values)
  return values


def _expected(features, gradient, shape):
  """Grad-CAM from its definition."""
  weights = gradient.mean((2, 3))
  cam = np.einsum('ntc,nthwc->nthw', weights, features)
  cam = _enlarge(np.maximum(cam, 0), shape)
  assert (cam.max((1, 2, 3)) > 0).all()
  return cam / cam.max((1, 2, 3), keepdims=True)


@pytest.mark.parametrize('stage,k', [(1, 0), (1, 2), (2, 0)])
def test_grad_cam_equals_finite_differences(tiny, stage, k):
  model, variables, video = tiny
  params = jax.tree.map(lambda x: np.asarray(x, np.float64),
                        variables['params'])
  head, conv2 = params['head'], params['backbone']['conv2']

  def logit(features):
    if stage == 1:
      kernel = conv2['kernel'][0, 0, 0]
      features = np.maximum(features @ kernel + conv2['bias'], 0)
    return (features.mean((1, 2, 3)) @ head['kernel'] + head['bias'])[:, k]

  stages = model.apply(variables, video, capture=True)['stages']
  features = np.asarray(stages[stage - 1], np.float64)
  gradient = np.zeros_like(features)
  for place in np.ndindex(features.shape):
    step = np.zeros_like(features)
    step[place] = 1e-6
    gradient[place] = ((logit(features + step) - logit(features - step)).sum()
                       / 2e-6)
  want = _expected(features, gradient, video.shape[1:4])
  got = gradcam.grad_cam(model, variables, video, k, stage)
  assert seeded.difference(got, want) < 1e-5
  # Frames, clips, places all differ: an exchanged axis would show.
  assert want.std() > 0.05 and 0 < want.mean() < 1


@pytest.mark.parametrize('stage', [1, 3, 4])
def test_grad_cam_of_a_residual_network(shifted, stage):
  model, variables, video = shifted
  outputs = jax.jit(functools.partial(model.apply, capture=True))(
      variables, video)
  features = outputs['stages'][stage - 1]
  index = np.asarray(outputs['logits'].argmax(-1))

  @jax.jit
  @jax.grad
  def gradient(features):
    def replace(call, args, kwargs, context):
      there = context.module.path == ('backbone', f'layer{stage}')
      return features if there else call(*args, **kwargs)
    with nn.intercept_methods(replace):
      logits = model.apply(variables, video)['logits']
    return logits[np.arange(2), index].sum()

  want = _expected(np.asarray(features), np.asarray(gradient(features)),
                   video.shape[1:4])
  got = gradcam.grad_cam(model, variables, video, -1, stage)
  assert seeded.difference(got, want) < 1e-4
  if stage == 4:
    np.testing.assert_array_equal(
        got, gradcam.grad_cam(model, variables, video, index))


def test_class_and_stage_change_the_map(shifted):
  model, variables, video = shifted
  run = functools.partial(gradcam.grad_cam, model, variables, video)
  plain = np.asarray(run(1))
  assert np.abs(plain - run(2)).max() > 0.1
  assert np.abs(plain - run(1, 3)).max() > 0.1
  # Each clip is explained by its own class, alone.
  np.testing.assert_allclose(run(np.asarray([1, 2]))[0], plain[0], atol=1e-6)
  np.testing.assert_allclose(
      gradcam.grad_cam(model, variables, video[:1], 1)[0], plain[0], atol=1e-5)


def test_grad_cam_refuses_what_is_not_there(tiny):
  model, variables, video = tiny
  with pytest.raises(ValueError, match='no stage 3; there are 1, 2'):
    gradcam.grad_cam(model, variables, video, 0, 3)
  with pytest.raises(ValueError, match='no class 3; the network has 3'):
    gradcam.grad_cam(model, variables, video, 3)


def test_nothing_speaks_for_a_class(tiny):
  model, variables, video = tiny
  head = variables['params']['head']
  against = {**variables, 'params': {**variables['params'], 'head': {
      **head, 'kernel': -np.abs(head['kernel'])}}}
  assert not gradcam.grad_cam(model, against, video, 1).any()


def _one_of_each_backbone():
  found = {}
  for name in models.MODELS:
    found.setdefault(models.get_model(name).backbone.func, name)
  return list(found.values())


@pytest.mark.parametrize('name', _one_of_each_backbone())
def test_every_stage_of_every_backbone_leads_to_the_scores(name):
  model = models.get_model(name, width=1 / 16, num_classes=4)
  video = jax.ShapeDtypeStruct((1, *model.image_shape), np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), video)
  program, shapes = jax.make_jaxpr(
      functools.partial(model.apply, capture=True), return_shape=True)(
          variables, video)
  leaves = jax.tree.leaves(shapes)
  assert len(shapes['stages']) >= 4
  for stage in shapes['stages']:
    gradcam._cut(program, next(
        i for i, leaf in enumerate(leaves) if leaf is stage))


# --- Panels ------------------------------------------------------------------


def test_gates_become_maps_channels_and_weights():
  rng = np.random.default_rng(0)
  t, h, w, c = 4, 3, 5, 6
  gate = {name: rng.random((2, *shape)).astype(np.float32) for name, shape in {
      'eft1/C': (t, h, w), 'eft1/T': (h, w, c), 'eft1/H': (t, w, c),
      'eft1/W': (t, h, c)}.items()}
  gate['full'] = rng.random((2, t, h, w, c))
  gate['frames'] = rng.random((2, t, 1, 1, 1))
  gate['channels'] = rng.random((2, 1, 1, 1, c))
  gate['both'] = rng.random((2, t, 1, 1, c))
  gate['place'] = rng.random((2, 1, h, w, 1))
  found = {p.name: p for p in panels.gate_panels(
      {'backbone/layer4/block1': gate}, None, t)}
  want = {
      'eft1/C': gate['eft1/C'][0],
      'eft1/T': np.tile(gate['eft1/T'][0].mean(-1), (t, 1, 1)),
      'eft1/H': gate['eft1/H'][0].mean(-1)[:, None, :],
      'eft1/W': gate['eft1/W'][0].mean(-1)[:, :, None],
      'full': gate['full'][0].mean(-1),
      'frames': gate['frames'][0, :, 0, 0, 0],
      'channels, channels': np.tile(gate['channels'][0, :, 0, 0], (t, 1)),
      'both': gate['both'][0, :, 0, 0].mean(-1),
      'both, channels': gate['both'][0, :, 0, 0],
      'place': np.tile(gate['place'][0, ..., 0], (t, 1, 1))}
  assert len(found) == len(want)
  for name, values in want.items():
    panel = found[f'layer4/block1 gate {name}']
    np.testing.assert_allclose(panel.values, values, rtol=1e-6)
    assert ('the same in all frames' in panel.notes) == (
        name in ('eft1/T', 'channels, channels', 'place'))
    assert any('mean of 6' in note for note in panel.notes) == (
        name in ('eft1/T', 'eft1/H', 'eft1/W', 'full', 'both'))
  assert found['layer4/block1 gate frames'].kind == 'weight'
  assert found['layer4/block1 gate both'].kind == 'weight'
  assert found['layer4/block1 gate both, channels'].kind == 'channels'
  assert found['layer4/block1 gate eft1/H'].kind == 'map'


def test_blocks_are_chosen():
  gate = {'C': np.ones((1, 2, 3, 3), np.float32)}
  gates = {f'backbone/{path}': gate for path in (
      'layer1/block0', 'layer1/block2', 'layer1/block10', 'layer2/block0',
      'layer2/block1')}

  def chosen(blocks):
    return [p.name.split()[0] for p in panels.gate_panels(gates, blocks, 2)]

  assert chosen(None) == ['layer1/block10', 'layer2/block1']
  assert chosen(['all']) == ['layer1/block0', 'layer1/block2',
                             'layer1/block10', 'layer2/block0',
                             'layer2/block1']
  assert chosen(['none']) == []
  assert chosen(['layer2/block0', 'backbone/layer1/block2']) == [
      'layer1/block2', 'layer2/block0']
  with pytest.raises(ValueError, match=r'layer2/block3.*did you mean layer2'):
    chosen(['layer2/block3'])


def test_outputs_become_panels():
  rng = np.random.default_rng(1)
  outputs = {
      'logits': rng.random((1, 5)), 'attention_logits': rng.random((1, 5)),
      'frame_logits': np.log(np.asarray([[[1, 3.0], [4, 1]]])),
      'temporal_attention': np.asarray([[0.75, 0.25]]),
      'channel_attention': rng.random((1, 2, 7)),
      'spatial_attention': rng.random((1, 2, 3, 4, 5)),
      'class_maps': rng.random((1, 2, 4, 5, 2))}
  found = {p.name: p for p in panels.output_panels(outputs, 1, 'run', 2)}
  assert list(found) == [
      'score of run by frame', 'channel attention',
      'spatial attention 1 of 3', 'spatial attention 2 of 3',
      'spatial attention 3 of 3', 'temporal attention', 'class map of run']
  np.testing.assert_allclose(found['score of run by frame'].values,
                             [0.75, 0.2], rtol=1e-6)
  np.testing.assert_allclose(found['spatial attention 2 of 3'].values,
                             outputs['spatial_attention'][0, :, 1], rtol=1e-6)
  np.testing.assert_allclose(found['class map of run'].values,
                             outputs['class_maps'][0, ..., 1], rtol=1e-6)
  weight = found['temporal attention']
  # A branch's attention is shown raw; what sums to 1 would be too small.
  assert (weight.low, weight.high) == (0, 1) and weight.peak == 0
  outputs['spatial_attention'] = outputs['spatial_attention'][:, :, 0]
  for branch, high in ((True, 1), (False, 0.75)):
    if not branch:
      outputs.pop('attention_logits')
    plain = {p.name: p for p in panels.output_panels(outputs, 1, 'run', 2)}
    assert plain['temporal attention'].high == high
    assert (plain['spatial attention'].high == 1) == branch


def test_fewer_time_steps_are_interpolated_and_said_so():
  panel = panels.make_panel('gate', np.asarray([0.0, 1.0]), 4)
  np.testing.assert_allclose(panel.values, [0, 0.25, 0.75, 1])
  assert panel.notes == ('2 time steps, interpolated',)


@pytest.mark.parametrize('values,low,high', [
    ([[0.2, 0.9]], 0.2, 0.9),
    ([[0.5, 0.5]], 0.475, 0.525),
    ([[0.499, 0.501]], 0.47495, 0.52505),
    ([[0.0, 0.0]], 0, 1),
    ([[-2.0, -2.0]], -2.1, -1.9),
    ([0.2, 0.9], 0, 0.9),
    ([-0.2, 0.9], -0.2, 0.9),
])
def test_scale_is_never_narrow(values, low, high):
  panel = panels.make_panel('x', np.asarray(values), len(values))
  np.testing.assert_allclose((panel.low, panel.high), (low, high), rtol=1e-5)


def test_a_value_that_is_no_number_is_refused():
  with pytest.raises(ValueError, match='gate C holds values'):
    panels.make_panel('gate C', np.asarray([[0.1, np.nan]]), 1)


# --- Pictures ----------------------------------------------------------------


@pytest.fixture(scope='module')
def clip():
  frames = np.random.default_rng(2).integers(
      0, 256, (3, 8, 12, 3)).repeat(14, 1).repeat(14, 2).astype(np.uint8)
  return pictures.Clip('a <clip>.mp4', frames, (2, 7, 12), (0.08, 0.28, 0.48))


@pytest.fixture(scope='module')
def row():
  heat = np.zeros((3, 4, 6), np.float32)
  heat[0, 0, 0] = heat[1, 0, -1] = heat[2, -1, 0] = 1
  return pictures.Row(
      'net', 'net: predicts <b>run</b> & "hide"', (('<b>run</b>', 0.75),), (
          panels.make_panel('heat', heat, 3),
          panels.make_panel('weights', np.asarray([0.5, 1.0, 0.25]), 3),
          panels.make_panel('channels', np.linspace(0, 1, 30).reshape(3, 10),
                            3)))


def test_maps_lie_upright_over_frames(row):
  frames = np.full((3, 40, 60, 3), 100, np.uint8)
  frames[:, -1], frames[:, :, -1] = 140, 180
  drawn = pictures.cells(row.panels[0], frames, 'jet').astype(int)
  table = np.rint(255 * np.asarray(matplotlib.colormaps['jet']([0, 255])))
  cold, hot = table[:, :3]
  corners = {0: (0, 0), 1: (0, -1), 2: (-1, 0)}
  for t, (y, x) in corners.items():
    for v in (0, -1):
      for u in (0, -1):
        # As the paper has it.
        want = (0.4 * (hot if (v, u) == (y, x) else cold)
                + 0.6 * frames[t, v, u])
        assert np.abs(drawn[t, v, u] - want).max() <= 1, (t, v, u)


def test_a_constant_map_has_one_middle_colour():
  panel = panels.make_panel('gate', np.full((1, 3, 3), 0.5), 1)
  drawn = pictures.cells(panel, np.zeros((1, 9, 9, 3), np.uint8), 'viridis')
  middle = np.asarray(matplotlib.colormaps['viridis'](128)[:3]) * 255 * 0.4
  assert np.abs(drawn - middle).max() <= 2


def test_bars_are_as_high_as_their_weights(row):
  drawn = pictures.cells(row.panels[1], np.zeros((3, 112, 112, 3), np.uint8),
                         'viridis')
  blue = (drawn == (0x31, 0x68, 0x8e)).all(-1)
  heights = blue.any(2).sum(1)
  assert heights[1] == 47
  np.testing.assert_allclose(heights / heights[1], [0.5, 1, 0.25], atol=0.04)
  # They stand on the ground.
  assert blue[:, -3:].any((1, 2)).all()


def test_channels_are_folded_to_the_width():
  values = np.arange(8.0)[None]
  panel = panels.make_panel('c', values, 1)

  def line(width):
    drawn = pictures.cells(panel, np.zeros((1, 9, width, 3), np.uint8), 'gray')
    return drawn[0, 5, :, 0] / 255 * 7

  np.testing.assert_allclose(line(4), [0.5, 2.5, 4.5, 6.5], atol=0.02)
  np.testing.assert_allclose(line(16), np.repeat(np.arange(8), 2), atol=0.02)


def test_strip_holds_every_cell_in_order(clip, row):
  picture = np.asarray(pictures.strip(clip, [row, row], 'viridis'))
  frames = pictures.resize(clip.frames, 112)
  step = frames.shape[2] + 6
  columns = [250 + i * step for i in range(3)]
  above = [-1, -1]
  for drawn in (frames, *(pictures.cells(panel, frames, 'viridis')
                          for panel in row.panels)):
    found = [pictured.lines(picture, cell, x)
             for cell, x in zip(drawn, columns, strict=True)]
    # Frames stand once, each panel in both rows; cells side by side.
    assert len(found[0]) == (1 if drawn is frames else 2)
    assert found == [found[0]] * 3
    assert all(y > last for y, last in zip(found[0], above))
    above = found[0] * (2 if drawn is frames else 1)


def test_strip_of_a_long_clip_shows_sixteen_frames(clip):
  frames = np.repeat(clip.frames, 11, axis=0)
  frames[:, :, :20] = (7 * np.arange(33, dtype=np.uint8))[:, None, None, None]
  long = pictures.Clip('long', frames, tuple(range(33)))
  picture = np.asarray(pictures.strip(long, [], 'viridis'))
  resized = pictures.resize(frames, 112)
  columns = range(250, picture.shape[1] - 96, resized.shape[2] + 6)
  shown = [t for x in columns for t, frame in enumerate(resized)
           if np.array_equal(picture[30:142, x:x + frame.shape[1]], frame)]
  assert len(columns) == len(shown) == 16 and shown == sorted(shown)
  assert set(np.diff(shown)) <= {2, 3} and shown[0] <= 1 and shown[-1] >= 31


def test_movie_plays_the_panels(clip, row, tmp_path):
  path = tmp_path / 'movie.mp4'
  pictures.movie(path, clip, [row], 'viridis')
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == 'h264'
    assert stream.codec_context.pix_fmt == 'yuv420p'
    shown = [f.to_ndarray(format='rgb24') for f in container.decode(stream)]
  assert len(shown) == 3
  frames = pictures.resize(clip.frames, 160)
  heat = pictures.cells(row.panels[0], frames, 'viridis')
  step = frames.shape[2] + 12 + 96
  y, x = shown[0].shape[0] - 160 - 6, 6
  if shown[0].shape[1] < 4 * step:  # In two lines.
    y -= (shown[0].shape[0] - 20) // 2
  for t in range(3):
    for want, left in ((frames[t], x), (heat[t], x + step)):
      got = shown[t][y:y + 160, left:left + want.shape[1]].astype(int)
      assert np.abs(got - want).mean() < 12, t


# --- The page ----------------------------------------------------------------


class _Reader(parser.HTMLParser):
  """Collects a page's tags and texts."""

  def __init__(self):
    super().__init__()
    self.tags, self.texts = [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.texts.append(data.strip())

  def all(self, name):
    return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope='module')
def read_page(clip, row):
  reader = _Reader()
  text = page.page(clip, [row], 'viridis', pictures.strip(clip, [row],
                                                          'viridis'))
  reader.feed(text)
  return text, reader


def test_page_is_whole_and_asks_for_nothing(read_page):
  text, reader = read_page
  assert not re.search(r'https?:|//[a-z]|@import|url\(', re.sub(
      r'base64,[^"]*', '', text))
  assert not reader.all('link') and not reader.all('iframe')
  assert all('src' not in attrs for attrs in reader.all('script'))
  images = reader.all('img')
  # The clip, three panels with a scale each, the strip.
  assert len(images) == 8
  for attrs in images:
    kind, data = attrs['src'].removeprefix('data:image/').split(';base64,')
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    assert image.size == (int(attrs['width']), int(attrs['height']))


def test_page_can_be_read_without_seeing_it(read_page):
  _, reader = read_page
  assert reader.all('html') == [{'lang': 'en'}]
  assert all(attrs['alt'].strip() for attrs in reader.all('img'))
  alts = [attrs['alt'] for attrs in reader.all('img')]
  assert ('weights: 0.25 to 1, largest in frame 2 of 3 (frame 7, 0.28 s)'
          in alts)
  levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch('h[1-6]',
                                                                  tag)]
  assert levels[0] == 1 and set(levels[1:]) == {2}
  [slider] = [a for a in reader.all('input') if a['type'] == 'range']
  assert (slider['min'], slider['max']) == ('1', '3')
  assert {'for': slider['id']} in reader.all('label')
  # Weights as numbers.
  for value in ('0.5', '1', '0.25', '75.0%'):
    assert value in reader.texts


def test_page_escapes_names(read_page):
  text, reader = read_page
  assert 'net: predicts <b>run</b> & "hide"' in reader.texts
  assert '<b>run' not in text and '<clip>' not in text


# --- The command -------------------------------------------------------------


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  """A workdir with a checkpoint of seeded weights, and a video."""
  root = tmp_path_factory.mktemp('explain')
  c = small.config(model__num_frames=3, model__crop_size=(36, 44),
                   model__stages=(3, 4), data__resize=(60, 80))
  arguments = state.model_arguments(c, len(synthetic.CLASSES))
  weights = seeded.variables(state.build_model(arguments), (1, 3, 36, 44, 3))
  checkpoints = checkpoint.Checkpoints(root / 'net')
  checkpoints.save(
      state.TrainState(step=np.asarray(1, np.int32), params=weights['params'],
                       batch_stats=weights['batch_stats'], opt_state={},
                       ema={}, plateau={}),
      {'model': arguments, 'classes': list(synthetic.CLASSES),
       'pixels': transforms.pixel_recipe(c), 'config': report.plain(c)},
      {'top1': 0.5})
  checkpoints.close()
  video = root / 'grow.mp4'
  synthetic.encode(str(video), synthetic.render(
      'grow', np.random.default_rng(0)))
  return root / 'net', video


def test_network_without_a_unit_is_named_by_itself(stored, tmp_path):
  net, video = stored
  _, description, _ = checkpoint.load(net)
  model = {k: v for k, v in description['model'].items() if k != 'attention'}
  plain = models.get_model('tsn_r18', num_classes=3, num_frames=2,
                           crop_size=40, width=1 / 16)
  weights = seeded.variables(plain, (1, *plain.image_shape))
  model |= {'name': 'tsn_r18', 'num_classes': 3, 'num_frames': 2,
            'crop_size': [40, 40], 'width': 1 / 16}
  model.pop('attention_options')
  pixels = {**description['pixels'], 'num_frames': 2, 'crop_size': [40, 40]}
  checkpoints = checkpoint.Checkpoints(tmp_path / 'plain')
  checkpoints.save(
      state.TrainState(step=np.asarray(1, np.int32), params=weights['params'],
                       batch_stats=weights['batch_stats'], opt_state={},
                       ema={}, plateau={}),
      {**description, 'model': model, 'pixels': pixels,
       'classes': ['a', 'b', 'c']}, {'top1': 0.5})
  checkpoints.close()
  cli.main(['explain', str(video), f'--checkpoint={tmp_path / "plain"}',
            f'--out={tmp_path / "out"}'])
  page = (tmp_path / 'out' / 'index.html').read_text()
  assert 'tsn_r18' in page and 'tsn_r18 with' not in page


def test_command_draws_one_network(stored, tmp_path, capsys):
  net, video = stored
  out = tmp_path / 'deep' / 'out'
  cli.main(['explain', str(video), f'--checkpoint={net}', f'--out={out}',
            '--class=grow', '--stage=3'])
  text = capsys.readouterr().out
  lines = text.splitlines()
  assert lines[0].startswith('net (tsn_r18 with C): predicts ')
  assert lines[1].startswith('  Grad-CAM of grow, stage 3: ')
  assert lines[2].startswith('  score of grow by frame: ')
  blocks = [line.split()[0] for line in lines if ' gate ' in line]
  assert blocks == ['layer3/block1', 'layer4/block1']
  assert sorted(p.name for p in out.iterdir()) == ['index.html', 'movie.mp4',
                                                   'strip.png']
  assert 'Grad-CAM of grow, stage 3' in (out / 'index.html').read_text()

  # The same network and pixels as in `predict`, checked by the probability.
  cli.main(['predict', str(video), f'--checkpoint={net}', '--top=1'])
  share, name = capsys.readouterr().out.splitlines()[1].split()
  assert f'predicts {name}, {float(share[:-1]):.1f}%' in lines[0]


def test_map_is_that_of_the_clip(stored):
  """The picture's Grad-CAM against the function's, from the video on."""
  net, _ = stored
  [explainer] = explain.load_explainers([str(net)])
  predictor = predict.load_predictor(str(net))
  frames = np.random.default_rng(0).integers(0, 256, (3, 36, 44, 3), np.uint8)
  clip = pictures.Clip('x', frames, (0, 1, 2))
  row = explain.explain(explainer, clip, blocks=['none'])
  scores = predictor.scores(frames[None])
  np.testing.assert_allclose([share for _, share in row.top],
                             np.sort(scores)[::-1][:5], rtol=1e-5)
  cam = row.panels[0]
  assert cam.name == f'Grad-CAM of {row.top[0][0]}, last stage'
  assert cam.values.shape == (3, 36, 44) and cam.values.max() == 1
  other = explain.explain(explainer, clip, class_name=row.top[1][0],
                          blocks=['none'])
  assert np.abs(other.panels[0].values - cam.values).max() > 0.05
  assert f'explained is {row.top[1][0]}' in other.title


def test_time_steps_of_a_3d_stage_are_told():
  frames = np.zeros((4, 6, 8, 3), np.uint8)
  cam = seeded.clip((1, 2, 3, 4)) ** 2
  explainer = explain.Explainer(
      'net', 'a 3D network', ('a', 'b'), {},
      lambda *_: ({'logits': np.asarray([[1.0, 2.0]]), 'gates': {}}, cam),
      '', 1)
  clip = pictures.Clip('x', frames, (0, 1, 2, 3))
  [panel] = explain.explain(explainer, clip).panels
  assert panel.notes[1:] == ('2 time steps, interpolated',)
  largest = float(panel.notes[0].split()[-1])
  np.testing.assert_allclose(panel.values * largest,
                             _enlarge(cam, (4, 6, 8))[0], rtol=1e-2)


def test_command_compares_networks(stored, tmp_path, capsys):
  net, video = stored
  twin = tmp_path / 'twin'
  shutil.copytree(net, twin)
  cli.main(['explain', str(video), f'--checkpoint={net}',
            f'--checkpoint={twin}', f'--out={tmp_path / "out"}',
            '--colormap=jet'])
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines if 'predicts' in line] == [
      'net', 'twin']
  # Many gates would hide the comparison.
  assert not any(' gate ' in line for line in lines)
  cli.main(['explain', str(video), f'--checkpoint={net}',
            f'--checkpoint={net}', f'--out={tmp_path / "out"}',
            '--blocks=layer4/block0'])
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(str(net))
  assert sum('layer4/block0 gate C:' in line for line in lines) == 2


def test_networks_that_see_other_pixels_are_not_compared(stored):
  [one] = explain.load_explainers([str(stored[0])])
  other = dataclasses.replace(one, name='other', pixels={
      **one.pixels, 'num_frames': 2})

  darker = dataclasses.replace(one, name='darker', pixels={
      **one.pixels, 'resize': 70})

  def look(explainer):
    count = explainer.pixels['num_frames']
    level = 3 if explainer is darker else 5
    return pictures.Clip('x', np.full((count, 5, 6, 3), level, np.uint8),
                         tuple(range(count)))

  assert explain.same_clip([one, one], look).indices == (0, 1, 2)
  with pytest.raises(ValueError, match=r'net sees 3 frames of 5x6.*and other '
                     '2 frames'):
    explain.same_clip([one, other], look)
  with pytest.raises(ValueError, match='do not see the same pixels'):
    explain.same_clip([one, darker], look)


@pytest.mark.parametrize('arguments,sentence', [
    ({'video': 'nowhere.mp4'}, 'nowhere.mp4: no such file'),
    ({'--checkpoint': 'nowhere'}, 'holds no checkpoints'),
    ({'--stage': '5'}, 'no stage 5; there are 1, 2, 3, 4'),
    ({'--class': 'growth'}, "no class of net 'growth'; did you mean grow"),
    ({'--blocks': 'layer4/block2'}, 'did you mean layer4/block'),
    ({'--blocks': 'layer1/block0'}, "no block with gates 'layer1/block0'"),
    ({'--colormap': 'virids'}, 'did you mean viridis'),
])
def test_wrong_argument_gets_one_sentence(stored, tmp_path, arguments,
                                          sentence):
  net, video = stored
  flags = {'--checkpoint': net, '--out': tmp_path / 'out', **arguments}
  video = flags.pop('video', video)
  with pytest.raises(SystemExit, match=sentence) as caught:
    cli.main(['explain', str(video), *(f'{k}={v}' for k, v in flags.items())])
  assert len(str(caught.value).splitlines()) == 1


def test_folder_that_cannot_be_written_is_told_first(stored, tmp_path):
  (tmp_path / 'file').write_text('in the way')
  with pytest.raises(SystemExit, match='Nothing can be written to --out='):
    cli.main(['explain', 'nowhere.mp4', '--checkpoint=nowhere',
              f'--out={tmp_path / "file" / "out"}'])


def test_a_clip_that_is_too_short_is_drawn_and_told(stored, tmp_path, capsys):
  net, _ = stored
  short = tmp_path / 'short'
  short.mkdir()
  for i in (1, 2):
    Image.new('RGB', (80, 60), (90 * i, 0, 50)).save(short / f'{i:05d}.jpg')
  cli.main(['explain', str(short), f'--checkpoint={net}', '--blocks=none',
            f'--out={tmp_path / "out"}'])
  assert 'too short for 3 different frames' in capsys.readouterr().err
  assert (tmp_path / 'out' / 'strip.png').exists()
