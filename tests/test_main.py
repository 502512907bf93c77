"""The commands that a user types, on real video files."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small

from configs import demo
from input_pipeline import synthetic
import main
from vidattn_jax import cli
from vidattn_jax.training import evaluate

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """Sixteen training and eight evaluation clips."""
  directory = tmp_path_factory.mktemp('clips') / 'data'
  synthetic.generate(str(directory), num_train=16, num_eval=8, seed=3,
                     processes=1)
  return directory


def _config(clips, **keys):
  c = small.shrink(demo.get_config('plain'))
  with c.unlocked():
    c.data.root = str(clips)
    c.update(batch_size=8, num_epochs=2.0)
    c.eval.update(batch_size=8, every_epochs=2.0)
    c.model.update(num_frames=4)
    c.data.update(resize=(40, 40))
    for key, value in keys.items():
      section, _, name = key.rpartition('__')
      with c.ignore_type():
        (c[section] if section else c)[name] = value
  return c


@pytest.fixture(scope='module')
def workdir(clips, tmp_path_factory):
  """A finished run on them, and its result."""
  directory = tmp_path_factory.mktemp('run')
  result = main.run(_config(clips), str(directory))
  return directory, result


def test_trains_on_files_and_evaluates_its_checkpoint(clips, workdir, capsys):
  directory, result = workdir
  assert sorted(result.classes) == sorted(synthetic.CLASSES)
  assert len(result.names) == 8
  c = _config(clips, eval__clips=2, eval__crops=3)
  c.eval.checkpoint = 'latest'
  c.eval.crop_size = (36, 36)
  again = main.run(c, str(directory), 'evaluate')
  assert again.clip_scores.shape == (8, 2, 8)
  assert 'top-1' in capsys.readouterr().out
  card = json.loads((directory / 'eval' / 'step4_4x2x3.json').read_text())
  assert card['data']['eval']['videos'] == 8
  assert card['pixels']['clips'] == 2 and card['pixels']['crops'] == 3
  assert 'PyAV' in card['pixels']['decoder']
  assert card['result']['videos'] == 8


def test_predict_prints_the_scores_of_the_evaluation(clips, workdir, capsys):
  directory, result = workdir
  path = str(clips / result.names[0])
  assert cli.main(['predict', path, '--json', '--top', '8',
                   f'--checkpoint={directory}', '--which=latest']) == 0
  [found] = json.loads(capsys.readouterr().out)
  scores = {c['class']: c['score'] for c in found['classes']}
  logits = result.scores[0].astype(np.float64)
  want = np.exp(logits - logits.max())
  want /= want.sum()
  np.testing.assert_allclose([scores[c] for c in result.classes], want,
                             rtol=1e-4)
  assert cli.main(['predict', path, f'--checkpoint={directory}']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == path and len(lines) == 6
  assert lines[1].split()[1] in synthetic.CLASSES


def test_predict_names_a_bad_video_and_goes_on(clips, workdir, capsys,
                                               tmp_path):
  directory, result = workdir
  bad = tmp_path / 'text.mp4'
  bad.write_text('no video')
  good = str(clips / result.names[0])
  assert cli.main(['predict', str(bad), good,
                   f'--checkpoint={directory}']) == 1
  captured = capsys.readouterr()
  assert str(bad) in captured.err and good in captured.out


def test_predict_slides_a_window(clips, workdir, capsys):
  directory, result = workdir
  path = str(clips / result.names[0])
  cli.main(['predict', path, f'--checkpoint={directory}', '--window=16',
            '--stride=5'])
  rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
  starts = [int(row['start_frame']) for row in rows]
  assert starts == list(range(0, 5 * len(rows), 5))
  ends = [int(row['end_frame']) for row in rows]
  assert ends[0] == 16 and ends[-1] in (24, 32, 40, 48)
  # 25 frames a second.
  assert float(rows[1]['start_seconds']) == pytest.approx(0.2)
  assert all(row['class'] in synthetic.CLASSES for row in rows)


def test_fuse_and_compare(workdir, tmp_path, capsys):
  _, result = workdir
  shifted = np.roll(result.scores, 1, axis=0)
  other = evaluate.Result(
      names=result.names, labels=result.labels, scores=shifted,
      clip_scores=shifted[:, None], classes=result.classes)
  paths = [str(tmp_path / 'a.npz'), str(tmp_path / 'b.npz')]
  for r, path in zip((result, other), paths, strict=True):
    r.save(path)
  out = str(tmp_path / 'fused.npz')
  cli.main(['fuse', *paths, '--weights', '1', '3', '--out', out])
  text = capsys.readouterr().out
  assert text.splitlines()[-1].startswith('fused')
  np.testing.assert_allclose(evaluate.load_result(out).scores,
                             (result.scores + 3 * shifted) / 4, rtol=1e-6)
  cli.main(['compare', *paths, '--out', str(tmp_path / 'gains.png')])
  text = capsys.readouterr().out
  assert all(name in text for name in result.classes)
  assert (tmp_path / 'gains.png').stat().st_size > 5_000


def test_fusing_different_videos_is_refused(workdir, tmp_path):
  _, result = workdir
  other = evaluate.Result(
      names=('x', *result.names[1:]), labels=result.labels,
      scores=result.scores, clip_scores=result.clip_scores,
      classes=result.classes)
  paths = [str(tmp_path / 'a.npz'), str(tmp_path / 'b.npz')]
  for r, path in zip((result, other), paths, strict=True):
    r.save(path)
  with pytest.raises(SystemExit, match='not about the same videos'):
    cli.main(['fuse', *paths])
  with pytest.raises(SystemExit, match='2 files but 3 weights'):
    cli.main(['fuse', paths[0], paths[0], '--weights', '1', '2', '3'])


def test_test_set_without_labels_gets_scores(clips, workdir, tmp_path):
  directory, result = workdir
  names = tmp_path / 'test.txt'
  names.write_text('\n'.join(result.names) + '\n')
  classes = tmp_path / 'classes.txt'
  classes.write_text('\n'.join(result.classes) + '\n')
  c = _config(clips, data__eval_list=str(names), data__classes=str(classes))
  c.eval.checkpoint = 'latest'
  unlabelled = main.run(c, str(directory), 'evaluate')
  assert unlabelled.labels.tolist() == [-1] * 8
  np.testing.assert_allclose(unlabelled.scores, result.scores, rtol=1e-5)


def test_workers_and_threads_do_not_change_the_run(clips, workdir, tmp_path):
  _, result = workdir
  c = _config(clips, data__cache_frames=False, data__threads=1)
  again = main.run(c, str(tmp_path))
  np.testing.assert_array_equal(again.scores, result.scores)


@pytest.mark.parametrize('keys,sentence', [
    ({'data__flip_pairs': (('grow', 'shrunk'),)}, "'shrunk' is no class"),
    ({'data__resize': 36, 'model__crop_size': (36, 90)}, 'a crop of'),
    ({'data__classes': 'nowhere.txt'}, 'nowhere.txt'),
])
def test_data_that_do_not_fit_are_told_before_training(clips, tmp_path, keys,
                                                       sentence):
  with pytest.raises(ValueError, match=sentence):
    main.run(_config(clips, **keys), str(tmp_path))
  assert not (tmp_path / 'config.json').exists()


def _run_main(*arguments):
  return subprocess.run(
      [sys.executable, 'main.py', *arguments], cwd=_ROOT, text=True,
      capture_output=True, timeout=120, check=False,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'})


@pytest.mark.parametrize('arguments,sentence', [
    (['--config=configs/demo.py', '--config.bath_size=3'],
     'no key bath_size Did you mean "batch_size"'),
    (['--config=configs/demo.py', '--config.batch_size=many'],
     'batch_size=many'),
    (['--config=configs/nowhere.py', '--workdir=x'], 'nowhere.py'),
    (['--config=configs/demo.py:both'], 'configs/demo.py:both is unknown'),
    (['--config=configs/demo.py'], '--workdir is missing'),
    ([], '--config is missing'),
    (['--mode=compile', '--config=configs/demo.py'], '--topology is missing'),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.model.attention=CinTS'], 'did you mean CinST'),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.model.name=tsm_r51'], 'did you mean tsm_r50'),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.data.root=/nowhere'], '/nowhere: no such directory'),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.schedule.name=linear'], "'linear'"),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.model.crop_size=99'], 'larger than the frames'),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.model.dtype=float17'], "'float17'"),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.batch_size=0'], 'batch_size is 0; it must be above 0'),
    (['--config=configs/demo.py', '--workdir=never_made',
      '--config.model.crop_size=32,32', '--config.model.crop_size=40,40'],
     'the flag only once'),
])
def test_wrong_command_gets_one_sentence(arguments, sentence):
  done = _run_main(*arguments)
  assert done.returncode == 1
  assert sentence in done.stderr
  assert 'Traceback' not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
