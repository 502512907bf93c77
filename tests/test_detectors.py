"""Networks that find segments: trained, evaluated and used by commands."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import jax
import numpy as np
from PIL import Image
from PIL import ImageColor
import pytest
import untrimmed as small

from configs import common
from configs import detection
from configs import detection_small
from input_pipeline import annotations
from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import synthetic
import main
from vidattn_jax import cli
from vidattn_jax import models
from vidattn_jax.tools import timeline
from vidattn_jax.training import checkpoint
from vidattn_jax.training import detections
from vidattn_jax.training import state as state_lib
from vidattn_jax.training import train

VIDEOS = {
    **{f't{i}': ('training', [(8 + 4 * i, 24 + 4 * i, 'red'),
                              (56, 72, 'blue')]) for i in range(4)},
    'v0': ('validation', [(30, 46, 'blue')]),
    'v1': ('validation', [(12, 28, 'red'), (64, 80, 'blue')]),
}


def _config(root, name='scnn', **overrides):
  c = detection_small.get_config(f'{name},own')
  if name == 'rc3d':
    overrides = {
        'data.resize': (64, 64), 'model.crop_size': (64, 64),
        'model.num_frames': 64, 'model.options.scales': (1, 2, 3),
        'detection.buffer_step': 16, 'batch_size': 2, 'eval.batch_size': 2,
        'schedule.learning_rate': 0.01,
        **overrides}
  return small.config(c, root, **{
      'data.frames_by': 'ordinal', 'data.frame_rate': 0.0,
      'model.width': 1 / 16, 'num_epochs': 1.0, **overrides})


@pytest.mark.parametrize('argument', ['rc3d,10', 'rc3d,28,none', 'scnn',
                                      'scnn,TA'])
def test_networks_of_the_paper_can_be_built(argument):
  c = detection.get_config(argument)
  assert not c.optimizer.clip_norm
  model = state_lib.build_model(state_lib.model_arguments(c, 20))
  shapes = jax.eval_shape(
      lambda: state_lib.init_variables(model, jax.random.key(0)))['params']
  names = [jax.tree_util.keystr(path) for path, _ in
           jax.tree_util.tree_leaves_with_path(shapes)]
  assert any('attention' in n for n in names) == ('none' not in argument)
  if argument.startswith('rc3d'):
    assert shapes['rpn']['cls_score']['kernel'].shape[-1] == 2 * (
        int(argument.split(',')[1]))
    assert (c.model.num_frames, c.data.frame_rate,
            c.detection.buffer_step) == (768, 25.0, 192)
    # 28 as in the authors' experiments/thumos14/train.prototxt.
    assert model.scales == ((2, 4, 5, 6, 8, 9, 10, 12, 14, 16)
                            if ',10' in argument else tuple(range(2, 57, 2)))
    assert shapes['roi']['cls_score']['kernel'].shape[-1] == 21
  else:
    assert shapes['localization']['head']['kernel'].shape == (512, 21)
  assert c.model.name in models.DETECTORS
  c.mesh.data = 1
  train.check(c)


@pytest.mark.parametrize('overrides,message', [
    ({'detection.annotations': ''}, 'set config.detection.annotations'),
    ({'model.name': 'r3d_18'}, 'r3d_18, which classifies clips'),
    ({'mixup_alpha': 0.2}, 'config.mixup_alpha is 0.2, but scnn finds'),
    ({'schedule.name': 'plateau'}, 'config.schedule.name'),
    ({'detection.windows': (16, 8)}, 'lengths in frames, rising'),
    ({'detection.background_below': 0.6}, 'between 0 and 0.5'),
    ({'eval.main_threshold': 0.55}, 'choose one of config.eval.thresholds'),
    ({'eval.rule': 'thumos'}, 'choose thumos14 or activitynet')])
def test_keys_that_cannot_be_are_told_before_the_data(overrides, message):
  with pytest.raises(ValueError, match=message):
    train.check(_config('nowhere', **overrides))


def _inputs(found, truth, names, **keys):
  class Inputs:
    """What judging takes of the trainer's inputs."""
    eval_names, classes = names, ('x', 'y')

  Inputs.truth = truth
  config = common.get_config()
  config.eval.update(keys)
  return detections._judge(config, Inputs, {
      key: np.asarray(value) for key, value in found.items()}, set())


def test_judged_as_by_hand():
  truth = {'a': {'segments': [(1.0, 3.0, 0)], 'duration': 9.0},
           'b': {'segments': [(2.0, 4.0, 1)], 'duration': 9.0}}
  result = _inputs({'video': [0, 0, 1], 'start': [1.0, 1.2, 6.0],
                    'end': [3.0, 3.1, 7.0], 'label': [0, 0, 1],
                    'score': [.9, .8, .7]}, truth, ('a', 'b'))
  figures = result.summary()
  # The second of 'a' is suppressed, that of 'b' is nowhere.
  assert figures['map'] == figures['map_0.5'] == 0.5
  assert (figures['videos'], figures['detections']) == (2, 3)
  assert 'NMS at t - 0.1' in detections.sentence(result)
  # The second of 'b' is wrong, unless it touches what is of no certain class.
  truth['b']['ambiguous'] = [(6.5, 8.0)]
  found = {'video': [1, 1], 'start': [6.0, 2.0], 'end': [7.0, 4.0],
           'label': [1, 1], 'score': [.9, .8]}
  for count, figure in ((False, 1.0), (True, 0.5)):
    judged = _inputs(found, truth, ('a', 'b'), count_ambiguous=count).judged
    assert judged.average_precision[judged.thresholds.index(0.5), 1] == figure
  numbered = {**result.found, 'video': np.asarray([0, 0, 1])}
  kept = detections.suppress(numbered, 0.4)
  assert kept['score'].tolist() == [.9, .7] and kept['video'].tolist() == [0, 1]
  found = detections.to_activitynet(result.found, result.classes, result.names)
  assert found['results']['b'] == [
      {'label': 'y', 'score': .7, 'segment': [6.0, 7.0]}]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Four videos to train on, two to evaluate on, of 96 frames."""
  root = tmp_path_factory.mktemp('untrimmed')
  small.write(root, VIDEOS, size=64)
  return root


@pytest.fixture(scope='module')
def workdir(root, tmp_path_factory):
  """A finished run of S-CNN."""
  workdir = tmp_path_factory.mktemp('scnn')
  result = main.run(_config(root, num_epochs=16.0, **{
      'schedule.learning_rate': 0.02}), str(workdir))
  return workdir, result


@pytest.mark.slow
def test_scnn_finds_flashes_and_is_judged_again_from_its_files(
    root, workdir, capsys):
  directory, result = workdir
  assert result.summary()['map'] > 0.6
  again = main.run(_config(root, num_epochs=16.0), str(directory), 'evaluate')
  np.testing.assert_allclose(again.judged.average_precision,
                             result.judged.average_precision, atol=1e-6)
  printed = capsys.readouterr().out
  assert "THUMOS'14 rule (IoU > t, precision as it is), 2 videos, 3 seg" in (
      printed)
  [path] = directory.glob('eval/step*_detections.json')
  card = json.loads(path.with_suffix('.card.json').read_text())
  assert card['result']['map'] == pytest.approx(result.summary()['map'])
  assert card['data']['eval']['segments'] == 3
  assert cli.main(['evaluate-detections', str(root / 'annotations.json'),
                   str(path), '--subset=validation', '--thresholds', '0.5',
                   '--nms-margin=0.1']) is None
  [line] = [line for line in capsys.readouterr().out.splitlines()
            if 'at t = 0.5' in line]
  assert float(line.split()[1]) == pytest.approx(
      100 * result.summary()['map'], abs=0.5)


@pytest.mark.slow
def test_rc3d_finds_flashes(root, tmp_path):
  c = _config(root, 'rc3d', num_epochs=10.0)
  result = main.run(c, str(tmp_path))
  assert result.summary()['map'] > 0.3
  again = main.run(c, str(tmp_path), 'evaluate')
  for key, value in result.found.items():
    np.testing.assert_array_equal(again.found[key], value)


def test_timeline_shows_rows_lanes_and_colours():
  assert timeline.lanes([(0, 4), (1, 2), (2, 3), (3, 6)]) == [0, 1, 1, 1]
  assert [timeline.clock(s) for s in (3.46, 125, 3723)] == [
      '3.5 s', '2:05', '1:02:03']
  what = (
      'a<b', 100.0, [
          timeline.Row('truth', [(10.0, 40.0, 'x', None)]),
          timeline.Row('net', [(12.0, 41.0, 'x', .9), (20.0, 30.0, 'y', .5)])],
      ('x', 'y', 'z'), [np.full((6, 8, 3), 77, np.uint8)] * 3)
  text = timeline.draw(*what)
  tree = ElementTree.fromstring(text)
  name = '{http://www.w3.org/2000/svg}'
  bars = [r for r in tree.iter(f'{name}rect') if r.find(f'{name}title') is not
          None]
  spans = [(float(r.get('x')), float(r.get('width'))) for r in bars]
  scale = (timeline._WIDTH - timeline._LEFT - timeline._RIGHT) / 100
  np.testing.assert_allclose(spans, [
      (timeline._LEFT + a * scale, (b - a) * scale)
      for a, b in ((10, 40), (12, 41), (20, 30))], atol=0.06)
  assert bars[0].get('fill') == bars[1].get('fill') != bars[2].get('fill')
  assert bars[1].get('y') != bars[2].get('y')
  assert len(list(tree.iter(f'{name}image'))) == 3
  assert 'x 0.90, 12.0 s to 41.0 s' in text and 'a&lt;b' in text
  # The picture has the same bars, in the same colours, at the same places.
  picture = np.asarray(timeline.paint(*what))
  twice = picture.shape[1] / timeline._WIDTH
  assert picture.shape[0] == twice * float(tree.get('height'))
  for bar in bars:
    x, y, width = (twice * float(bar.get(k)) for k in ('x', 'y', 'width'))
    y = round(y + 3 * twice)  # above the text
    same = (picture[y] == ImageColor.getrgb(bar.get('fill'))).all(-1)
    inside = np.arange(len(same))
    edge = 2 * twice
    assert same[(inside > x + edge) & (inside < x + width - edge)].all()
    assert not same[[round(x - 3), round(x + width + 3)]].any()
  assert (picture[round(40 * twice), round(400 * twice)] == 77).all()
  # In a long video a short action is two pixels wide, and shows its colour;
  # that of a ninth class is dashed.
  classes = [f'class {i}' for i in range(9)]
  short = ('v', 3600.0, [timeline.Row('net', [
      (100.0, 101.0, classes[0], .9), (1000.0, 1001.0, classes[8], .9)])],
           classes)
  tree = ElementTree.fromstring(timeline.draw(*short))
  bars = [r for r in tree.iter(f'{name}rect') if r.find(f'{name}title') is not
          None]
  assert [bool(bar.get('stroke-dasharray')) for bar in bars] == [False, True]
  picture = np.asarray(timeline.paint(*short))
  for bar in bars:
    x, y = (round(twice * float(bar.get(k))) for k in ('x', 'y'))
    assert (picture[y + 20, x - 3:x + 8] == ImageColor.getrgb(
        bar.get('fill'))).all(-1).any()


def _untrained(root, directory, **overrides):
  """Returns a workdir that was trained for one step."""
  main.run(_config(root, num_epochs=0.01, **overrides), str(directory))
  return directory


@pytest.mark.slow
def test_detect_finds_what_the_evaluation_finds(root, workdir, tmp_path,
                                                capsys):
  directory, result = workdir
  video = str(root / 'videos' / 'v1.mp4')
  assert cli.main(['detect', video, f'--checkpoint={directory}',
                   f'--out={tmp_path}', '--least-score=0', '--most=1000',
                   f'--truth={root / "annotations.json"}',
                   '--subset=validation']) is None
  wanted = {key: value[result.found['video'] == 'v1']
            for key, value in result.found.items()}
  wanted['video'] = np.zeros(len(wanted['score']), int)
  wanted = detections.suppress(wanted, 0.4)
  [found] = json.loads((tmp_path / 'detections.json').read_text())[
      'results'].values()
  np.testing.assert_allclose(
      [(*f['segment'], f['score']) for f in found],
      np.stack([wanted[k] for k in ('start', 'end', 'score')], 1), atol=2e-3)
  printed = capsys.readouterr().out
  assert f'{len(found)} segments by' in printed
  rows = (tmp_path / 'detections.csv').read_text().splitlines()
  assert len(rows) == len(found) + 1 and rows[1].startswith('v1,')
  assert 'truth' in (tmp_path / 'timeline.svg').read_text()
  with pytest.raises(SystemExit, match='which finds segments; use vidattn det'):
    cli.main(['predict', video, f'--checkpoint={directory}'])


@pytest.mark.slow
def test_detect_shows_two_networks_and_keeps_what_came_before_damage(
    root, workdir, tmp_path, capsys, monkeypatch):
  networks = [tmp_path / 'a' / 'run', tmp_path / 'b' / 'run']
  _untrained(root, networks[0], name='rc3d')
  networks[1].parent.mkdir()
  networks[1].symlink_to(workdir[0])
  table, out = tmp_path / 'truth.csv', tmp_path / 'out'
  # ActivityNet's names lack the beginning of its files'.
  video = tmp_path / 'v_v1.mp4'
  video.symlink_to(root / 'videos' / 'v1.mp4')
  command = ['detect', str(video), *(f'--checkpoint={n}' for n in networks),
             f'--out={out}', f'--truth={table}', '--least-score=0']
  table.write_text('video,start,end,label\nv1,3,2,red\n')
  with pytest.raises(SystemExit, match='v1 has a segment from 3 to 2 s'):
    cli.main(command)
  table.write_text('video,start,end,label\nv1,0.5,1,red\n')
  cli.main(command)
  printed = capsys.readouterr().out
  assert ('detections.json, detections_2.json, detections.csv, timeline.svg, '
          'timeline.png') in printed
  rows = (out / 'detections.csv').read_text().splitlines()
  assert {row.rpartition(',')[2] for row in rows[1:]} == {'a/run', 'b/run'}
  drawn = (out / 'timeline.svg').read_text()
  assert all(name in drawn for name in ('truth', 'a/run', 'b/run'))

  iterate = decode.iterate

  def broken(*args):
    for number, frame in enumerate(iterate(*args)):
      if number == 70:
        raise containers.VideoError(str(video), 'frame 70 is damaged')
      yield frame

  monkeypatch.setattr(decode, 'iterate', broken)
  with pytest.raises(containers.VideoError, match='frame 70 is damaged'):
    cli.main([*command[:2], f'--checkpoint={networks[1]}', '--least-score=0',
              f'--out={tmp_path / "cut"}'])
  assert 'cannot be read after frame 70' in capsys.readouterr().err
  found, whole = (json.loads((folder / name).read_text())['results']['v_v1']
                  for folder, name in ((tmp_path / 'cut', 'detections.json'),
                                       (out, 'detections_2.json')))
  assert len(found) > 0 and max(f['segment'][1] for f in found) <= 70 / 25
  assert max(f['segment'][1] for f in whole) > 70 / 25
  # The strip is as long as the video; what could not be read is grey.
  drawn = ElementTree.parse(tmp_path / 'cut' / 'timeline.svg')
  assert len([e for e in drawn.iter() if e.tag.endswith('image')]) == 12
  with Image.open(out / 'timeline.png') as picture:
    assert picture.size[0] == 2400


def _trained_a_step(root, directory, **overrides):
  """Returns (parameters after a step, what the evaluation found)."""
  result = main.run(_config(root, num_epochs=0.01, **{
      'schedule.warmup_epochs': 0.0, **overrides}), str(directory))
  return checkpoint.load(directory, 'latest')[0]['params'], result.found


@pytest.mark.slow
def test_a_table_trains_as_activitynets_layout_does(root, tmp_path):
  (tmp_path / 'table.csv').write_text(
      'video,start,end,label,subset\n' + ''.join(
          f'{name},{a / 25},{b / 25},{label},{subset}\n'
          for name, (subset, actions) in VIDEOS.items()
          for a, b, label in actions))
  (params, found), (again, found_again) = (
      _trained_a_step(root, tmp_path / name, **keys) for name, keys in (
          ('json', {}), ('csv', {
              'detection.annotations': str(tmp_path / 'table.csv')})))
  jax.tree.map(np.testing.assert_array_equal, params, again)
  for key, value in found.items():
    np.testing.assert_array_equal(value, found_again[key])


@pytest.mark.slow
def test_the_layout_of_thumos14_trains_and_evaluates(root, tmp_path):
  # The first two of its classes in the place of blue and red.
  labels = dict(zip(small.CLASSES, annotations.THUMOS14))
  (tmp_path / 'videos').mkdir()
  names = {}
  for number, (name, (subset, _)) in enumerate(VIDEOS.items(), 1):
    kind = 'validation' if subset == 'training' else 'test'
    names[name] = f'video_{kind}_{number:07d}'
    (tmp_path / 'videos' / f'{names[name]}.mp4').symlink_to(
        root / 'videos' / f'{name}.mp4')
  for kind in (*annotations.THUMOS14, 'Ambiguous'):
    for subset, end in (('training', 'val'), ('validation', 'test')):
      (tmp_path / f'{kind}_{end}.txt').write_text(''.join(
          f'{names[name]} {a / 25} {b / 25}\n'
          for name, (of, actions) in VIDEOS.items() if of == subset
          for a, b, label in actions if labels[label] == kind))
  result = main.run(_config(tmp_path, num_epochs=0.01, name='rc3d', **{
      'detection.annotations': '.', 'detection.train_subset': 'val',
      'detection.eval_subset': 'test'}), str(tmp_path / 'run'))
  assert result.names == (names['v0'], names['v1'])
  assert result.classes == tuple(annotations.THUMOS14)
  assert result.judged.counts.tolist() == [2, 1] + 18 * [0]
  assert set(result.found['video']) == set(result.names)
  assert result.found['label'].max() < 20


@pytest.mark.slow
@pytest.mark.parametrize('name', ['scnn', 'rc3d'])
def test_two_devices_do_what_one_does(root, workdir, tmp_path, name):
  keys = {'name': name, 'batch_size': 4, 'eval.batch_size': 4}
  if name == 'scnn':  # a fresh one is sure of no window
    keys['init_from'] = str(workdir[0])
  (one, alone), (two, found) = (
      _trained_a_step(root, tmp_path / str(n), **keys, **{'mesh.data': n})
      for n in (1, 2))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=2e-5 * max(np.abs(a).max(), 1e-3)), one, two)
  assert len(found['score']) == len(alone['score']) > 0
  order, other = (np.lexsort([np.round(f[key], 3) for key in (
      'score', 'end', 'start', 'label')] + [f['video']])
                  for f in (alone, found))
  for key in ('start', 'end', 'score'):
    np.testing.assert_allclose(alone[key][order], found[key][other], atol=2e-3)


@pytest.mark.slow
def test_scnn_is_trained_in_the_three_stages_of_its_paper(root, workdir,
                                                          tmp_path):
  stages = (('localization', {'detection.action_above': 0.7}),
            ('proposal', {'detection.overlap_weight': 0.0}),
            ('proposal', {}))
  source = workdir[0]
  before = checkpoint.load(source)[0]['params']
  for number, (freeze, keys) in enumerate(stages):
    after, _ = _trained_a_step(root, tmp_path / str(number), **{
        **keys, 'init_from': str(source), 'freeze': (freeze,)})
    still = jax.tree.map(np.array_equal, before, after)
    [trained] = set(still) - {freeze}
    assert jax.tree.all(still[freeze])
    assert not any(jax.tree.leaves(still[trained]['head']))
    source, before = tmp_path / str(number), after


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(root, tmp_path):
  workdir = _untrained(root, tmp_path / 'run', **{
      'detection.windows': (16, 32)})
  # The largest size since the process began; what `resource` tells is that of
  # its parent, too.
  code = ('import sys; from vidattn_jax import cli; cli.main(sys.argv[1:]); '
          '[line] = [x for x in open("/proc/self/status") if "VmHWM" in x]; '
          'print(line.split()[1])')
  noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), np.uint8)
  peaks = []
  for minutes in (5, 60):
    video = str(tmp_path / f'{minutes}.mp4')
    synthetic.encode(video, (noise[i % 50] for i in range(minutes * 600)),
                     fps=10)
    done = subprocess.run(
        [sys.executable, '-c', code, 'detect', video,
         f'--checkpoint={workdir}', '--which=latest', f'--out={tmp_path}'],
        capture_output=True, text=True, check=True, timeout=1800)
    peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert {5: '5:00', 60: '1:00:00'}[minutes] in done.stdout
  print(f'peak memory in MiB: {peaks}')
  assert peaks[1] - peaks[0] < 200
