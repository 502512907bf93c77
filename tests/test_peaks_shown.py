"""Peaks and resampled frames in `vidattn explain`."""

import jax.numpy as jnp
import numpy as np
import pictured
from PIL import Image
from PIL import ImageColor
import pytest
import seeded
import small

from input_pipeline import resizing
from input_pipeline import synthetic
from input_pipeline import transforms
from vidattn_jax import cli
from vidattn_jax.ops import pixels
from vidattn_jax.ops import resample
from vidattn_jax.tools import explain
from vidattn_jax.tools import page
from vidattn_jax.tools import panels
from vidattn_jax.tools import pictures
from vidattn_jax.training import checkpoint
from vidattn_jax.training import report
from vidattn_jax.training import state


@pytest.fixture(scope='module')
def shown():
  """Returns frames with a bright square, and panels of what zooms into it."""
  frames = np.full((2, 60, 80, 3), 40, np.uint8)
  frames[:, 8:20, 52:68] = 250
  response = np.zeros((1, 2, 31, 31), np.float32)
  response[0, :, 7, 23] = 1
  response[0, 1, 25, 5] = 0.4
  strong, weak = response > 0.5, (response > 0) & (response <= 0.5)
  zoomed = resample.resample(frames, 0.02 + 3 * jnp.asarray(
      np.repeat(np.repeat(strong[0, :, ::2, ::2], 2, 1), 2, 2)[:, :31, :31]
      | strong[0], jnp.float32))
  outputs = {'response_attention': response, 'discriminative_peaks': strong,
             'complementary_peaks': weak,
             'discriminative_video': np.asarray(zoomed)[None]}
  made = panels.output_panels(outputs, 0, 'wave', 2)
  return frames, {panel.name: panel for panel in made}


def test_a_response_comes_before_what_follows_from_it():
  maps = {f'{kind}_attention': np.zeros((1, 2, 4, 4)) for kind in (
      'complementary', 'discriminative', 'response', 'spatial')}
  clips = {f'{kind}_video': np.zeros((1, 2, 8, 8, 3), np.uint8) for kind in (
      'complementary', 'discriminative')}
  made = panels.output_panels(maps | clips, 0, 'wave', 2)
  assert [panel.name for panel in made] == [
      'spatial attention', 'response attention', 'discriminative attention',
      'complementary attention', 'discriminative clip, resampled',
      'complementary clip, resampled']


def test_peaks_are_dots_where_they_are(shown):
  frames, made = shown
  panel = made['response attention']
  assert panel.notes == ('orange: 2 discriminative peaks',
                         'blue: 1 complementary peaks')
  drawn = pictures.cells(panel, frames, 'gray')
  for t, (row, column), color in ((0, (7, 23), '#ff8c1a'),
                                  (1, (7, 23), '#ff8c1a'),
                                  (1, (25, 5), '#4db8ff')):
    y, x = round(row / 30 * 59), round(column / 30 * 79)
    assert tuple(drawn[t, y, x]) == ImageColor.getrgb(color)
  blue = (drawn == ImageColor.getrgb('#4db8ff')).all(-1)
  assert not blue[0].any() and 10 < blue[1].sum() < 60


def test_resampled_frames_are_upright_and_zoomed(shown):
  frames, made = shown
  panel = made['discriminative clip, resampled']
  assert panel.kind == 'frames' and panel.range == '60 x 80 pixels'
  drawn = pictures.cells(panel, pictures.resize(frames, 60), 'viridis')
  bright = drawn[0, ..., 0] > 150
  assert bright.sum() > 1.2 * 12 * 16
  y, x = np.argwhere(bright).mean(0)
  assert y < 30 and x > 40
  # Its scale is left empty, and the page says what it is.
  assert np.asarray(pictures.color_bar(panel, 60, 'viridis')).min() == 255
  figure = page._figure(panel, frames, 'viridis', ['a', 'b'])
  assert 'discriminative clip, resampled, 60 x 80 pixels' in figure
  assert 'scale from' not in figure


def test_pixels_come_back():
  video = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1).repeat(3, -1)
  mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
  again = pixels.denormalize(pixels.normalize(video, mean, std), mean, std)
  np.testing.assert_array_equal(again, video)


# --- The command -------------------------------------------------------------


def _save(workdir):
  """Saves a seeded network of three branches."""
  c = small.config(
      model__name='three_branch', model__attention='', model__stages=(),
      model__crop_size=(48, 56), data__resize=(50, 60))
  with c.unlocked():
    # One peak of each kind in every frame.
    c.model.options.update(backbone='tsn_r18', evaluation_phi='extremes')
  arguments = state.model_arguments(c, len(small.CLASSES))
  model = state.build_model(arguments)
  weights = seeded.variables(model, (1, *model.image_shape))
  weights['params']['sparse'] = {
      'beta_discriminative': np.asarray(3.9, np.float32),
      'beta_complementary': np.asarray(13.2, np.float32)}
  checkpoints = checkpoint.Checkpoints(workdir)
  checkpoints.save(
      state.TrainState(step=np.asarray(1, np.int32), opt_state={}, ema={},
                       plateau={}, **weights),
      {'model': arguments, 'classes': list(small.CLASSES),
       'pixels': transforms.pixel_recipe(c), 'config': report.plain(c)},
      {'top1': 0.5})
  checkpoints.close()


@pytest.mark.slow
def test_command_draws_peaks_and_both_clips(tmp_path, monkeypatch, capsys):
  _save(tmp_path / 'net')
  video = tmp_path / 'slide_right.mp4'
  frames = synthetic.render('slide_right', np.random.default_rng(3))
  synthetic.encode(str(video), resizing.resize(frames[:6], (60, 80)))
  given, write = [], explain.write

  def note(out, clip, rows, colormap):
    given.append((clip, rows))
    return write(out, clip, rows, colormap)

  monkeypatch.setattr(explain, 'write', note)
  cli.main(['explain', str(video), f'--checkpoint={tmp_path / "net"}',
            f'--out={tmp_path / "out"}'])
  title, *lines, _ = capsys.readouterr().out.splitlines()
  best = title.partition('predicts ')[2].partition(',')[0]
  said = dict(line.strip().split(': ', 1) for line in lines)
  assert list(said) == [
      f'Grad-CAM of {best}, last stage', f'score of {best} by frame',
      'response attention', 'discriminative attention',
      'complementary attention', 'discriminative clip, resampled',
      'complementary clip, resampled', f'class map of {best}']
  assert said['response attention'] == (
      '0 to 1; orange: 2 discriminative peaks; blue: 2 complementary peaks')
  assert said['complementary clip, resampled'] == '48 x 56 pixels'

  [(clip, [row])] = given
  drawn = {panel.name: panel for panel in row.panels}
  page_text = (tmp_path / 'out' / 'index.html').read_text()
  strip = np.asarray(Image.open(tmp_path / 'out' / 'strip.png'))
  resized = pictures.resize(clip.frames, 112)
  above = 0
  for name in list(said)[2:7]:
    assert name in page_text
    cells = pictures.cells(drawn[name], resized, 'viridis')
    found = [pictured.lines(strip, cell, 250 + i * (cells.shape[2] + 6))
             for i, cell in enumerate(cells)]
    assert len(found[0]) == 1 and found == [found[0]] * 2, name
    assert found[0][0] > above
    above = found[0][0]
  # Dots of one place lie on each other.
  marks = dict(drawn['response attention'].marks)
  assert list(marks) == ['#ff8c1a', '#4db8ff']
  for kind, cells in zip(('discriminative', 'complementary'), marks.values()):
    assert cells.shape == (2, 31, 31) and (cells.sum((1, 2)) == 1).all()
    # A clip that is zoomed is another than the frames.
    zoomed = drawn[f'{kind} clip, resampled'].values.astype(int)
    assert np.abs(zoomed - clip.frames).max() > 20
