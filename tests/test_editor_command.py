"""vidattn edit and vidattn edits, with a real network and real videos."""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import httpx2 as httpx
import numpy as np
import pytest
import seeded
import small

from input_pipeline import decode
from input_pipeline import display
from input_pipeline import resizing
from input_pipeline import synthetic
from input_pipeline import transforms
from vidattn_jax import cli
from vidattn_jax import models
from vidattn_jax.commands import editing
from vidattn_jax.editor import collected
from vidattn_jax.editor import store
from vidattn_jax.ops import pixels
from vidattn_jax.tools import predict
from vidattn_jax.training import checkpoint
from vidattn_jax.training import report
from vidattn_jax.training import state

_ROOT = pathlib.Path(__file__).parents[1]
FRAMES = 4


NAMES = ('train/grow/1.mp4', 'train/shrink/2.mp4')


def _config():
  return small.config(
      model__name='st_abn_r50', model__num_frames=FRAMES, model__width=1 / 16,
      model__crop_size=(32, 32), model__attention='', model__stages=(),
      data__resize=40, eval__clips=2)


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """The folder of two videos, and what might have been collected of them."""
  root = tmp_path_factory.mktemp('videos')
  recipe = transforms.pixel_recipe(_config())
  rng = np.random.default_rng(0)
  lengths = []
  for seed, name in enumerate(NAMES):
    path = root / name
    path.parent.mkdir(parents=True)
    clip = synthetic.render(path.parent.name, np.random.default_rng(seed))
    synthetic.encode(str(path), clip)
    lengths.append(len(clip))
  return root, collected.Collected(
      split='train', names=NAMES,
      paths=tuple(str(root / name) for name in NAMES),
      labels=np.asarray([synthetic.CLASSES.index(name.split('/')[1])
                         for name in NAMES]),
      num_frames=np.asarray(lengths), classes=synthetic.CLASSES, step=5,
      frame_indices=np.stack([transforms.recipe_indices(recipe, n)
                              for n in lengths]),
      temporal_attention=rng.random((2, 2, FRAMES)),
      spatial_attention=rng.random((2, 2, FRAMES, 2, 2)),
      scores=rng.random((2, 8)), pixels=recipe)


@pytest.fixture(scope='module')
def run(videos, tmp_path_factory):
  """A workdir with a small ST-ABN, and what it made of the videos.

  Returns (workdir, what was collected, function of views [N, T, H, W, C] and
  temporal attention that gives the network's outputs).
  """
  workdir = tmp_path_factory.mktemp('run')
  _, found = videos
  c, recipe = _config(), found.pixels
  arguments = state.model_arguments(c, len(synthetic.CLASSES))
  model = state.build_model(arguments)
  weights = seeded.variables(model, (1, *model.image_shape))
  checkpoints = checkpoint.Checkpoints(workdir)
  checkpoints.save(
      state.TrainState(step=np.asarray(5, np.int32), params=weights['params'],
                       batch_stats=weights['batch_stats'], opt_state={},
                       ema={}, plateau={}),
      {'model': arguments, 'classes': list(synthetic.CLASSES),
       'pixels': recipe, 'config': report.plain(c)}, {'top1': 0.5})
  checkpoints.close()

  def apply(views, attention=None):
    video = pixels.normalize(views, tuple(recipe['mean']),
                             tuple(recipe['std']), np.dtype('float32'))
    given = {} if attention is None else {'temporal_attention': attention}
    return model.apply(weights, video, **given)

  outputs = [apply(_views(found, row)) for row in range(2)]
  found = dataclasses.replace(
      found, scores=np.stack([np.mean(o['logits'], axis=0) for o in outputs]),
      **{key: np.stack([o[key] for o in outputs])
         for key in ('temporal_attention', 'spatial_attention')})
  collected.write(workdir, found)
  return workdir, found, apply


def _views(found, row):
  return transforms.views_from_recipe(
      found.pixels, int(found.num_frames[row]),
      lambda i: decode.decode_frames(found.paths[row], i))


def _sources(workdir, found, root=None):
  return editing.edit_sources(argparse.Namespace(
      workdir=str(workdir), root=root and str(root)), [found])


@pytest.mark.slow
def test_prediction_uses_what_was_drawn(run):
  workdir, found, apply = run
  _, rerun = _sources(workdir, collected.read(workdir, 'train'))
  name, count = found.names[0], int(found.num_frames[0])
  same = rerun(name, np.full(count, -1.0))
  np.testing.assert_allclose(same, found.probabilities(0), atol=1e-5)
  weights = np.linspace(0, 1, count)
  weights[found.frame_indices[0, 1, 2]] = -1
  logits = apply(_views(found, 0),
                 weights[found.frame_indices[0]].astype(np.float32))
  logits = np.asarray(logits['logits'], np.float64).mean(0)
  want = np.exp(logits - logits.max())
  edited = rerun(name, weights)
  np.testing.assert_allclose(edited, want / want.sum(), atol=1e-5)
  assert np.abs(edited - same).max() > 1e-4
  with pytest.raises(ValueError, match='frames now, and had 7'):
    rerun(name, np.zeros(7))


@pytest.mark.slow
def test_network_without_temporal_attention_is_said(run, capsys, monkeypatch):
  monkeypatch.setattr(predict.state, 'build_model', lambda _: models.get_model(
      'tsn_r18', num_classes=8, width=1 / 16))
  _, rerun = _sources(*run[:2])
  assert rerun is None
  assert 'takes no temporal attention' in capsys.readouterr().err


def test_missing_weights_leave_the_editor_usable(videos, tmp_path, capsys):
  _, found = videos
  frames, rerun = _sources(tmp_path, found)
  assert rerun is None
  assert 'holds no checkpoints' in capsys.readouterr().err
  assert len(list(frames(NAMES[0]))) == found.num_frames[0]


def test_shown_frames_are_what_the_network_sees_but_sharper(videos, tmp_path):
  root, found = videos
  frames = np.stack(list(_sources(tmp_path, found)[0](NAMES[1])))
  assert frames.shape == (found.num_frames[1], 224, 224, 3)
  seen = _views(found, 1).astype(float)
  shrunk = resizing.resize(frames[found.frame_indices[1].ravel()], (32, 32)
                             ).reshape(seen.shape)
  difference = np.abs(shrunk - seen).mean()
  # Offsets are rounded before and after enlarging: half a pixel apart here.
  assert difference < 3
  # Another frame, and another place by one pixel, are further off.
  for axis in (1, 2, 3):
    assert np.abs(np.roll(shrunk, 1, axis) - seen).mean() > 1.4 * difference
  # The same from a root that has moved.
  moved = dataclasses.replace(found, paths=('gone', 'gone'))
  moved = np.stack(list(_sources(tmp_path, moved, root)[0](NAMES[1])))
  np.testing.assert_array_equal(moved, frames)


def test_folders_of_frames_are_shown(tmp_path):
  from PIL import Image
  for i in range(3):
    Image.fromarray(np.full((60, 80, 3), 50 * i, np.uint8)).save(
        tmp_path / f'img_{i}.png')
  recipe = {'crop_size': [50, 56], 'resize': [60, 80], 'rotate': True}
  frames = list(display.frames(tmp_path, recipe, 'img_{}.png', 0))
  assert [frame.shape for frame in frames] == [(200, 224, 3)] * 3
  assert [int(frame.mean()) for frame in frames] == [0, 50, 100]
  with pytest.raises(decode.VideoError, match='no frame'):
    list(display.frames(tmp_path, recipe))
  with pytest.raises(decode.VideoError, match='no such file'):
    list(display.frames(tmp_path / 'none.mp4', recipe))


# --- The commands ------------------------------------------------------------


@pytest.mark.slow
def test_edit_serves_and_predicts_again(run, tmp_path):
  workdir, found, _ = run
  edits = tmp_path / 'edits.jsonl'
  server = subprocess.Popen(
      [sys.executable, '-m', 'vidattn_jax.cli', 'edit', f'--workdir={workdir}',
       '--port=0', f'--edits={edits}', '--token=t0ken'], cwd=_ROOT, text=True,
      stdout=subprocess.PIPE, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  try:
    address = re.search(r'http\S+', server.stdout.readline())[0]
    with httpx.Client(base_url=address.partition('?')[0],
                      follow_redirects=True, timeout=300) as client:
      assert client.get('/api/setup').status_code == 401
      assert 'Attention editor' in client.get(
          '/' + address[address.index('?'):]).text
      assert client.get('/api/setup').json()['rerun'] is True
      name, count = found.names[0], int(found.num_frames[0])
      video = client.get('/api/video', params={'id': name}).json()
      assert client.get('/api/film', params={
          'id': name, 'sheet': 0}).content.startswith(b'\xff\xd8')
      answers = [client.post('/api/rerun', json={
          'video': name, 'edited': curve}).json()['probabilities']
                 for curve in (video['original'], [1.0] * count)]
      np.testing.assert_allclose(answers[0], found.probabilities(0), atol=1e-5)
      assert np.abs(np.subtract(*answers)).max() > 1e-4
      assert client.put('/api/edit', headers={'If-Match': '"0"'}, json={
          'video': name, 'annotator': 'Ada', 'edited': [1.0] * count,
          'mask': [1] * count, 'status': 'submitted', 'seconds': 1,
          'note': ''}).status_code == 200
  finally:
    server.send_signal(signal.SIGINT)
    server.wait(30)
  assert store.load(edits)[name, 'Ada'].checkpoint == 'step 5'


@pytest.fixture
def edited(videos, tmp_path):
  """A workdir with edits, one of them of a video that is not there."""
  _, found = videos
  collected.write(tmp_path, found)
  edits = store.Store(tmp_path / 'attention' / 'edits.jsonl')
  for k, (video, status) in enumerate([
      *zip(NAMES, ('submitted', 'draft')), ('gone', 'submitted')]):
    n = int(found.num_frames[min(k, 1)])
    edits.save(store.Edit(
        video, n, (0,), (0.5,) * n, (0.25,) * n, (1,) * n, 2, 1, 'Ada', '', '',
        1, status, 60.0), 0)
  return tmp_path


def test_edits_are_counted_exported_and_merged(edited, tmp_path, capsys):
  cli.main(['edits', 'stats', str(edited)])
  said = capsys.readouterr()
  assert '3 videos: 1 draft, 2 submitted, 0 skipped' in said.out
  assert 'shrink' in said.out
  assert 'gone (Ada): no such video' in said.err
  cli.main(['edits', 'stats', str(edited), '--json'])
  assert json.loads(capsys.readouterr().out)['by_annotator']['Ada'][
      'minutes'] == 3.0
  out, both = tmp_path / 'out.jsonl', tmp_path / 'both.jsonl'
  cli.main(['edits', 'export', str(edited), f'--out={out}'])
  assert '2 of 3 edits written' in capsys.readouterr().out
  assert {e.status for e in store.load(out).values()} == {'submitted'}
  cli.main(['edits', 'merge', str(edited), str(out), f'--out={both}'])
  assert '3 saves of 2 files' in capsys.readouterr().out
  assert store.load(both) == store.load(edited / 'attention' / 'edits.jsonl')


@pytest.mark.parametrize('arguments, sentence', [
    (['edit', '--workdir=nowhere'], 'collect the attention'),
    (['edits', 'stats', 'nowhere.jsonl'], 'does not exist'),
    (['edits', 'export', '{edited}', '--status', 'submited', '--out=x'],
     'did you mean submitted'),
    (['edits', 'export', '{edited}', '--out={edited}/attention/edits.jsonl'],
     'is not overwritten'),
    (['edits', 'merge', '{edited}', 'setup.cfg', '--out=x'],
     'setup.cfg, line 1: it is no JSON'),
    (['edit', '--workdir={edited}', '--token=a b'], '--token must be'),
    (['edit', '--workdir={edited}', '--port=70000'], 'choose another --port'),
    (['edit', '--workdir={edited}', '--edits=/proc/none/x'],
     'choose another --edits')])
def test_wrong_commands_get_one_sentence(edited, arguments, sentence,
                                         monkeypatch):
  monkeypatch.chdir(_ROOT)
  with pytest.raises(SystemExit) as stop:
    cli.main([argument.format(edited=edited) for argument in arguments])
  assert str(stop.value).startswith('ERROR: ')
  assert sentence in str(stop.value)


def test_edits_of_other_videos_are_named_at_the_start(edited, capsys):
  with pytest.raises(SystemExit):
    cli.main(['edit', f'--workdir={edited}', '--port=70000'])
  assert 'gone (Ada): no such video. It is kept' in capsys.readouterr().err


def test_missing_extra_is_named(edited, monkeypatch):
  for name in list(sys.modules):
    if name.startswith(('starlette', 'vidattn_jax.editor.')):
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'starlette', None)
  import vidattn_jax.editor
  for name in ('app', 'serve', 'guard'):
    monkeypatch.delattr(vidattn_jax.editor, name, raising=False)
  with pytest.raises(SystemExit, match=r"install the extra: pip install '\.\["):
    cli.main(['edit', f'--workdir={edited}'])
