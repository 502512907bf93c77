"""Average precision of detections, and the files that hold segments."""

import gzip
import json
import time

import numpy as np
import pytest

from input_pipeline import annotations
from vidattn_jax import cli
from vidattn_jax.detection import evaluation
from vidattn_jax.detection import windows

CLASSES = ('jump', 'run', 'sit')


@pytest.fixture(scope='module')
def thumos(data_dir):
  """Truth of THUMOS'14, and a function that reads detections of numbers."""
  content = json.loads(gzip.decompress(
      (data_dir / 'thumos14/ground_truth.json.gz').read_bytes()))
  return content['subsets']['test'], tuple(content['classes'])


@pytest.fixture(scope='module')
def expected(data_dir):
  return json.loads(
      (data_dir / 'thumos14/rc3d_subset_expected.json').read_text())


def _detections(path, thumos):
  return annotations.read_detections(
      path, annotations.Annotations(thumos[1], thumos[0]))


def _rows(*rows):
  """Detections of (video, start, end, label, score)."""
  columns = list(zip(*rows, strict=True)) or [()] * 5
  keys = ('video', 'start', 'end', 'label', 'score')
  return dict(zip(keys, map(np.asarray, columns), strict=True))


@pytest.mark.parametrize('key,options', [
    ('thumos14_rule_as_is', {}), ('thumos14_rule_nms', {'nms_margin': 0.1}),
    ('activitynet_rule', {'rule': 'activitynet'}),
    ('thumos14_rule_no_ambiguous', {'ambiguous': False})])
def test_equals_the_published_evaluation_of_every_class(
    thumos, expected, data_dir, key, options):
  found = _detections(data_dir / 'thumos14/rc3d_subset.npz', thumos)
  result = evaluation.evaluate(*thumos[:1], found, thumos[1],
                               videos=expected['videos'], **options)
  np.testing.assert_allclose(100 * result.mean, expected[key + '_mAP'],
                             atol=6e-4)
  if key in expected:
    wanted = np.asarray([[np.nan if v is None else v for v in row]
                         for row in expected[key]], float)
    np.testing.assert_allclose(result.average_precision, wanted, atol=1e-6)


def test_figures_of_all_test_videos_and_the_time_that_they_take(
    thumos, shared):
  found = _detections(
      shared / 'reference/thumos14/rc3d_detections.npz', thumos)
  start = time.process_time()
  result = evaluation.evaluate(*thumos[:1], found, thumos[1], nms_margin=0.1)
  assert time.process_time() - start < 2
  assert 100 * result.mean[4] == pytest.approx(38.48, abs=0.01)
  plain = evaluation.evaluate(*thumos[:1], found, thumos[1])
  assert 100 * plain.mean[4] == pytest.approx(38.48, abs=0.01)
  assert any('72 detections that end before they start' in note
             for note in result.notes)
  other = evaluation.evaluate(*thumos[:1], found, thumos[1],
                              rule='activitynet')
  assert 100 * other.mean[4] == pytest.approx(41.09, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize('name,wanted', [
    # As published: 47.7 43.5 36.3 28.7 19.0.
    ('scnn_c3d_windows', {0.1: 47.70, 0.2: 43.53, 0.3: 36.28, 0.4: 28.70,
                          0.5: 18.97}),
    ('scnn_res3d_windows', {0.5: 22.49})])
def test_ranked_windows_of_scnn(thumos, shared, name, wanted):
  folder = shared / 'reference/thumos14'
  prior = json.loads((folder / 'scnn_window_weights.json').read_text())
  data = np.load(folder / f'{name}.npz')
  rows = data['label'] > 0
  times = windows.to_seconds(data['start_frame'], data['length'])[rows]
  found = {
      'video': np.asarray([f'video_test_{v:07d}' for v in data['video'][rows]]),
      'start': times[:, 0], 'end': times[:, 1],
      'label': data['label'][rows].astype(int) - 1,
      'score': data['score'][rows],
      'window': np.searchsorted(windows.LENGTHS, data['length'][rows])}
  for threshold, figure in wanted.items():
    ranked = windows.rank(found, prior['weights'], round(threshold - 0.1, 9))
    result = evaluation.evaluate(*thumos[:1], ranked, thumos[1],
                                 thresholds=[threshold])
    assert 100 * result.mean[0] == pytest.approx(figure, abs=0.01)


@pytest.fixture
def truth():
  return {'a': {'segments': [(0, 10, 0), (20, 30, 0), (40, 50, 1)],
                'ambiguous': [(60, 70)], 'duration': 100.0},
          'b': {'segments': [(5, 15, 0)], 'duration': 20.0}}


def _figures(truth, found, **options):
  options = {'thresholds': [0.5], 'rule': 'thumos14', **options}
  return evaluation.evaluate(truth, found, CLASSES, **options)


def test_average_precision_by_hand(truth):
  found = _rows(('a', 0, 10, 0, 0.9), ('a', 60, 65, 0, 0.8),
                ('a', 80, 90, 0, 0.7), ('b', 5, 15, 0, 0.6),
                ('a', 40, 50, 1, 0.5))
  # Of three segments two are found, as first and as third; the one on an
  # ambiguous segment does not count.
  result = _figures(truth, found)
  np.testing.assert_allclose(result.average_precision[0, :2],
                             [(1 + 2 / 3) / 3, 1])
  assert np.isnan(result.average_precision[0, 2])
  np.testing.assert_allclose(result.mean, [((1 + 2 / 3) / 3 + 1) / 2])
  with_ambiguous = _figures(truth, found, ambiguous=False)
  np.testing.assert_allclose(with_ambiguous.average_precision[0, 0],
                             (1 + 2 / 4) / 3)
  activitynet = _figures(truth, found, rule='activitynet')
  np.testing.assert_allclose(activitynet.average_precision[0, 0],
                             (1 + 2 / 4) / 3)


def test_the_rules_differ_where_they_are_said_to(truth):
  # An overlap of exactly one half.
  half = _rows(('b', 5, 10, 0, 1.0))
  assert _figures(truth, half).average_precision[0, 0] == 0
  assert _figures(truth, half, rule='activitynet').average_precision[
      0, 0] == pytest.approx(1 / 3)
  # The surer detection overlaps less.
  two = _rows(('b', 5, 12, 0, 0.9), ('b', 5, 15, 0, 0.8))
  assert _figures(truth, two).average_precision[0, 0] == pytest.approx(1 / 6)
  assert _figures(truth, two, rule='activitynet').average_precision[
      0, 0] == pytest.approx(1 / 3)
  # Precision that rises with recall.
  rising = _rows(('b', 17, 19, 0, 0.9), ('b', 5, 15, 0, 0.8),
                 ('a', 0, 10, 0, 0.7))
  assert _figures(truth, rising).average_precision[0, 0] == pytest.approx(
      (1 / 2 + 2 / 3) / 3)
  assert _figures(truth, rising, rule='activitynet').average_precision[
      0, 0] == pytest.approx((2 / 3 + 2 / 3) / 3)
  # Times in the wrong order.
  turned = _rows(('b', 15, 5, 0, 0.9))
  assert _figures(truth, turned).average_precision[0, 0] > 0
  assert _figures(truth, turned, rule='activitynet').average_precision[
      0, 0] == 0


def test_one_segment_is_found_once_and_nms_helps(truth):
  twice = _rows(('b', 5, 15, 0, 0.9), ('b', 5, 14, 0, 0.8),
                ('a', 0, 10, 0, 0.7))
  for rule in evaluation.RULES:
    assert _figures(truth, twice, rule=rule).average_precision[
        0, 0] == pytest.approx((1 + 2 / 3) / 3)
    assert _figures(truth, twice, rule=rule, nms_margin=0.1
                    ).average_precision[0, 0] == pytest.approx(2 / 3)


def test_protocol_stands_beside_every_figure(truth):
  found = _rows(('b', 5, 15, 0, 0.9))
  result = _figures(truth, found, thresholds=[0.3, 0.5], nms_margin=0.1)
  text = evaluation.table(result, per_class=True)
  lines = [line for line in text.splitlines() if 'mAP' in line]
  assert len(lines) == 3
  for line in lines:
    assert ("THUMOS'14 rule (IoU > t, precision as it is), 2 videos, 4 "
            'segments, 1 ambiguous segments ignored, NMS at t - 0.1') in line
  assert '  sit         -       -  0' in text
  assert result.to_json()['average_precision'][0][2] is None
  assert 'ActivityNet rule' in _figures(truth, found,
                                        rule='activitynet').protocol


def test_thumos14_test_sets_of_three_sizes(thumos):
  for number, segments, ambiguous in ((213, 3358, 99), (212, 3358, 96),
                                      (210, 3311, 87)):
    chosen = evaluation.thumos14_videos(thumos[0], number)
    assert len(chosen) == number
    rows = [thumos[0][name] for name in chosen]
    assert sum(len(v['segments']) for v in rows) == segments
    assert sum(len(v.get('ambiguous', ())) for v in rows) == ambiguous
  with pytest.raises(ValueError, match='choose 213, 212 or 210'):
    evaluation.thumos14_videos(thumos[0], 211)
  with pytest.raises(ValueError, match='the truth has 2 videos'):
    evaluation.thumos14_videos({'a': {}, 'b': {}}, 212)


@pytest.mark.parametrize('change,message', [
    (('a', (30, 20, 0)), 'a has a segment from 30 to 20 s; it must end after'),
    (('b', (5, 5, 0)), 'b has a segment from 5 to 5 s'),
    (('b', (5, 9, 3)), 'segment of class 3; there are classes 0 to 2'),
    (('b', (5, float('nan'), 0)), 'both must be numbers')])
def test_truth_that_cannot_be_is_one_error(truth, change, message):
  video, row = change
  truth[video]['segments'].append(row)
  with pytest.raises(ValueError, match=message):
    _figures(truth, _rows(('a', 0, 10, 0, 0.9)))


def test_overlaps_are_counted_beyond_neighbours():
  truth = {'a': {'segments': [(1, 99, 0), (2, 3, 0), (50, 60, 0), (50, 60, 1)]}}
  result = _figures(truth, _rows(('a', 1, 99, 0, 0.9)))
  assert any('2 true segments that overlap another of their class' in note
             for note in result.notes)


@pytest.mark.parametrize('row,message', [
    (('a', 0, 10, 3, 0.9), 'is of class 3; there are classes 0 to 2'),
    (('a', 0, np.inf, 0, 0.9), 'has the end inf; it must be a number'),
    (('a', 0, 9, 0, np.nan), 'has the score nan'),
    (('x', 0, 9, 0, 0.5), "Not one of the 1 videos .* the first is 'x'")])
def test_detections_that_cannot_be_are_one_error(truth, row, message):
  with pytest.raises(ValueError, match=message):
    _figures(truth, _rows(row))


def test_what_is_odd_is_counted_and_named(truth):
  truth['c'] = {'segments': []}
  truth['b']['segments'] += [(14, 25, 0), (14, 25, 0)]
  result = _figures(truth, _rows(
      ('a', 0, 10, 0, 0.9), ('a', 0, 10, 0, 0.9), ('x', 0, 10, 0, 0.9),
      ('x', 0, 10, 0, 0.8), ('a', 9, 9, 0, 0.9), ('a', 9, 8, 0, 0.9),
      ('b', 300, 310, 0, 0.9)))
  for note in (
      '1 videos without a segment: c',
      '1 videos whose duration is unknown',
      '2 true segments that lie outside of their video, kept: b',
      '2 true segments that overlap another of their class, kept: b',
      '1 classes without a true segment, left out of the mean: sit',
      '2 detections of videos that are not annotated, left out: x',
      '1 detections that end before they start: a',
      '1 detections without length: a',
      '1 detections that lie outside of their video: b',
      '1 detections that stand twice with the same class and times: a',
      '1 videos without a detection: c'):
    assert any(note in n for n in result.notes), (note, result.notes)
  some = _figures(truth, _rows(('a', 0, 10, 0, 0.9), ('b', 5, 15, 0, 0.8)),
                  videos=['a'])
  assert '1 detections of videos that do not count here, left out: b' in (
      some.notes)
  np.testing.assert_allclose(some.average_precision[0, :2], [0.5, 0])


def test_arguments_that_cannot_be_are_one_error(truth):
  found = _rows(('a', 0, 10, 0, 0.9))
  for options, message in (
      ({'rule': 'thumos'}, "no rule 'thumos'; did you mean thumos14"),
      ({'thresholds': []}, 'overlaps above 0 and up to 1'),
      ({'thresholds': [50]}, 'overlaps above 0 and up to 1'),
      ({'nms_margin': 1.5}, 'at least 0 and below 1'),
      ({'videos': ['aa']}, "no annotated video 'aa'; did you mean a")):
    with pytest.raises(ValueError, match=message):
      _figures(truth, found, **options)
  del found['score']
  with pytest.raises(ValueError, match="have no 'score'"):
    _figures(truth, found)
  with pytest.raises(ValueError, match='not one true segment'):
    _figures({'a': {'segments': []}}, _rows(('a', 0, 10, 0, 0.9)))


def test_no_detection_at_all_is_a_figure_of_zero(truth):
  result = _figures(truth, _rows())
  np.testing.assert_array_equal(result.average_precision[0, :2], [0, 0])


# Files.


def _activitynet(truth):
  return {'database': {
      name: {'subset': 'validation', 'duration': v.get('duration'),
             'annotations': [{'segment': [s, e], 'label': CLASSES[k]}
                             for s, e, k in v['segments']]}
      for name, v in truth.items()}, 'taxonomy': list(CLASSES)}


def _results(found):
  results = {}
  for video, start, end, label, score in zip(*found.values(), strict=True):
    results.setdefault(str(video), []).append(
        {'segment': [float(start), float(end)], 'label': CLASSES[label],
         'score': float(score)})
  return {'results': results}


@pytest.fixture
def files(truth, tmp_path):
  """The same truth and detections in several layouts."""
  found = _rows(('a', 0, 10, 0, 0.9), ('a', 19, 31, 0, 0.8),
                ('b', 6, 18, 1, 0.7))
  (tmp_path / 'truth.json').write_text(json.dumps(_activitynet(truth)))
  (tmp_path / 'truth.csv').write_text('path,subset,start_s,end_s,label\n' + ''
                                      .join(f'{name},validation,{s},{e},'
                                            f'{CLASSES[k]}\n'
                                            for name, v in truth.items()
                                            for s, e, k in v['segments']))
  (tmp_path / 'found.json').write_text(json.dumps(_results(found)))
  (tmp_path / 'found.csv').write_text('video,start,end,label,score\n' + ''.join(
      f'{v},{s},{e},{CLASSES[k]},{score}\n'
      for v, s, e, k, score in zip(*found.values(), strict=True)))
  np.savez(tmp_path / 'found.npz', **found)
  return tmp_path


def test_every_layout_holds_the_same(files, truth):
  wanted = annotations.read(files / 'truth.json')
  assert wanted.classes == CLASSES and wanted.subset == 'validation'
  assert wanted.videos['a']['segments'] == truth['a']['segments']
  table = annotations.read(files / 'truth.csv')
  # A table tells the classes that occur, and no durations.
  assert table.classes == CLASSES[:2]
  assert table.videos['b'] == {'segments': [(5, 15, 0)], 'ambiguous': [],
                               'duration': None}
  found = [annotations.read_detections(str(files / f'found.{kind}'), wanted)
           for kind in ('json', 'csv', 'npz')]
  for other in found[1:]:
    for key, values in found[0].items():
      np.testing.assert_array_equal(values, other[key], err_msg=key)


def test_folder_of_thumos14(thumos, tmp_path, caplog):
  truth, classes = thumos
  for k, name in enumerate(classes):
    (tmp_path / f'{name}_test.txt').write_text(''.join(
        f'{video}  {s} {e} \n' for video, v in truth.items()
        for s, e, label in v['segments'] if label == k))
  (tmp_path / 'Ambiguous_test.txt').write_text(''.join(
      f'{video} {s} {e}\n' for video, v in truth.items()
      for s, e in v.get('ambiguous', ())))
  read = annotations.read(tmp_path)
  assert read.classes == classes and read.subset == 'test'
  for video, v in truth.items():
    mine = read.videos[video]
    assert mine['ambiguous'] == [tuple(s) for s in v.get('ambiguous', ())]
    # By class, and within each in the order of the file.
    assert mine['segments'] == sorted(map(tuple, v['segments']),
                                      key=lambda row: row[2])
  # The published evaluation takes either order; here that is said, too.
  path = tmp_path / 'Diving_test.txt'
  line = path.read_text().splitlines()[0]
  video, start, end = line.split()
  path.write_text(path.read_text().replace(line, f'{video} {end} {start}', 1))
  assert annotations.read(tmp_path) == read
  assert ('Diving_test.txt, line 1: it ends before it starts (1 such'
          in caplog.text)
  (tmp_path / 'found.txt').write_text('video_test_0000004 1.5 2.5 9 0.75\n')
  found = annotations.read_detections(str(tmp_path / 'found.txt'), read)
  assert found['label'].tolist() == [classes.index('BasketballDunk')]
  (tmp_path / 'Diving_test.txt').unlink()
  with pytest.raises(ValueError, match=r'Diving_test.txt is missing'):
    annotations.read(tmp_path)


@pytest.mark.parametrize('name,text,message', [
    ('t.json', '{"database"', 'cannot be read as JSON'),
    ('t.json', '[]', 'holds no JSON object'),
    ('t.json', '{"a": 1}', 'neither database, as ActivityNet has'),
    ('t.json', '{"database": {}}', 'annotates no video'),
    ('t.json', '{"database": {"v": {"annotations": [{"label": "x", "segment": '
     '[1]}]}}}', r'v has the segment \[1\]'),
    ('t.json', '{"taxonomy": ["y"], "database": {"v": {"annotations": '
     '[{"label": "x", "segment": [1, 2]}]}}}', "no class 'x'"),
    ('t.csv', 'video,start,label\n', "no column 'end'"),
    ('t.csv', 'video,start,end,label\nv,1,x,run\n', "line 2: 'x' is no number"),
    ('t.csv', 'video,start,end,label,subset\nv,1,2,run,a\nv,1,2,run,b\n',
     "several subsets; choose 'a' or 'b'"),
    ('t.csv', 'video,start,end,label\nv,1,2,\n', 'line 2: its label is empty'),
    ('t.csv', 'video,start,end,label\nv,1,,run\n', 'line 2: its end is empty'),
    ('t.csv', 'video,start,end,label\n,1,2,run\n', 'its video is empty'),
    ('t.csv', 'video,start,end,label,duration\nv,1,2,run,8\nv,3,4,run,9\n',
     'line 3: v is 9 s long here, 8 s before'),
    ('t.json', '{"database": {"v": {"duration": NaN}}}',
     'duration of v: nan is no number'),
    ('t.json', '{"database": {"v": {"annotations": [{"label": "x", "segment": '
     '[1, Infinity]}]}}}', 'segment of v: inf is no number'),
    ('t.csv', 'video,start,end,label\nv,1,2,run\nv,,,\n',
     'line 3: v has a row without actions, and another one'),
    ('t.json', '{"database": {"v": {"duration": -3}}}', 'is not -3 s long'),
    (None, '', 'no such file')])
def test_files_of_truth_that_cannot_be_read(tmp_path, name, text, message):
  path = tmp_path / (name or 'absent.json')
  if name:
    path.write_text(text)
  with pytest.raises(ValueError, match=message):
    annotations.read(path)


def test_tables_may_tell_lengths_and_leave_out_times(tmp_path):
  path = tmp_path / 't.csv'
  path.write_text('video,start,end,label,duration\n'
                  'long,1,2,run,9\nlong,4,5,Ambiguous,9\n'
                  'trimmed,,,sit,\nwhole,,,run,3.5\nempty,,,,60\n')
  found = annotations.read(path)
  assert found.classes == ('run', 'sit')
  assert found.videos == {
      'long': {'segments': [(1, 2, 0)], 'ambiguous': [(4, 5)], 'duration': 9},
      'trimmed': {'segments': [(0, np.inf, 1)], 'ambiguous': [],
                  'duration': None},
      'whole': {'segments': [(0, 3.5, 0)], 'ambiguous': [], 'duration': 3.5},
      'empty': {'segments': [], 'ambiguous': [], 'duration': 60}}


def test_videos_are_known_without_folder_ending_and_prefix(files):
  truth = annotations.read(files / 'truth.json')
  for known, name in (('a', 'v_a'), ('x/b.mp4', 'b'), ('x/b.mp4', 'v_b'),
                      ('b', 'x/b.mp4'), ('v_b', 'v_b.mkv'), ('y/b', 'x/y/b'),
                      ('session.1', 'session.1.mp4')):
    assert annotations.find_names([name], [known]) == {name: known}
  # None of these is the video of nearly the same name.
  for known, name in (('session.1', 'session.2'), ('y/b.mp4', 'x/b.mp4'),
                      ('cam_12.30', 'cam_12.45'), ('x/v_b', 'y/b')):
    assert annotations.find_names([name], [known]) == {name: None}
  assert annotations.find_names(['c'], ['a']) == {'c': None}
  both = ['x/b.mp4', 'y/b.mp4']
  assert annotations.find_names(both, both) == dict(zip(both, both))
  with pytest.raises(ValueError, match='b may be the video x/b.mp4 or y/b.mp4'):
    annotations.find_names(['b'], both)
  (files / 'v.json').write_text(json.dumps({'results': {'v_a': [
      {'label': truth.classes[0], 'segment': [1, 2], 'score': 1}]}}))
  np.savez(files / 'v.npz', video=['v_a'], start=[1], end=[2], label=[0],
           score=[1])
  for name in ('v.json', 'v.npz'):
    found = annotations.read_detections(files / name, truth)
    assert found['video'].tolist() == ['a']


def test_arrays_of_words_are_no_times(files):
  truth = annotations.read(files / 'truth.json')
  np.savez(files / 'w.npz', video=['a'], start=['soon'], end=[1.0], label=[0],
           score=[1.0])
  with pytest.raises(ValueError, match=r"w.npz: start holds \['soon'\]"):
    annotations.read_detections(files / 'w.npz', truth)


@pytest.mark.parametrize('name,text,message', [
    ('d.json', '{}', 'no results, as ActivityNet has'),
    ('d.json', '{"results": {"a": [{"label": "run"}]}}', 'detection 0 of a'),
    ('d.json', '{"results": {"a": null}}',
     "what is found in a is 'None', not a list"),
    ('d.csv', 'video,start,end,label,score\na,1,2,fly,1\n', "no class 'fly'"),
    ('d.txt', 'a 1 2 7\n', "line 1: it is not 'video start end class score'"),
    ('d.txt', 'a 1 2 8 0.5\n', "no class '8'"),
    ('d.npz', 'x', 'holds no detections'),
    ('d.npz', 'PK\x03\x04 and no more', 'holds no detections')])
def test_files_of_detections_that_cannot_be_read(files, name, text, message):
  (files / name).write_text(text)
  truth = annotations.read(files / 'truth.json')
  with pytest.raises(ValueError, match=message):
    annotations.read_detections(str(files / name), truth)


def test_numbers_of_videos_must_be_plain(tmp_path):
  np.savez(tmp_path / 'd.npz', video=[7], start=[0.0], end=[1.0], label=[0],
           score=[1.0])
  one = annotations.Annotations(CLASSES, {'v_0007': {}, 'w': {}})
  found = annotations.read_detections(str(tmp_path / 'd.npz'), one)
  assert found['video'].tolist() == ['v_0007']
  two = annotations.Annotations(CLASSES, {'v_0007': {}, 'w_7': {}})
  with pytest.raises(ValueError, match='v_0007 and w_7 end in the same'):
    annotations.read_detections(str(tmp_path / 'd.npz'), two)


def test_command_prints_and_writes(files, capsys):
  out = files / 'figures.json'
  cli.main(['evaluate-detections', str(files / 'truth.json'),
            str(files / 'found.json'), '--rule', 'thumos14', 'activitynet',
            '--thresholds', '0.5', '--per-class', '--out', str(out)])
  printed = capsys.readouterr().out
  # Of class jump two of three are found, the one run is wrong.
  assert 'mAP  33.33 at t = 0.5   THUMOS' in printed
  assert 'mAP  33.33 at t = 0.5   ActivityNet' in printed
  assert 'noted: 1 classes without a true segment' in printed
  figures = json.loads(out.read_text())[str(files / 'found.json')]
  assert [f['mAP'] for f in figures] == [[pytest.approx(1 / 3)]] * 2
  assert figures[0]['average_precision'] == [[pytest.approx(2 / 3), 0, None]]


def test_command_tells_what_is_wrong_before_it_reads_on(files):
  with pytest.raises(SystemExit, match='is no folder'):
    cli.main(['evaluate-detections', 'absent.json', 'absent.json', '--out',
              str(files / 'none' / 'x.json')])
  (files / 'names.txt').write_text('a\nnobody\n')
  with pytest.raises(SystemExit, match="no annotated video 'nobody'"):
    cli.main(['evaluate-detections', str(files / 'truth.json'),
              str(files / 'found.json'), '--videos', str(files / 'names.txt')])
