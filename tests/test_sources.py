"""Data sets as people have them, and what is wrong with some."""

import shutil

import numpy as np
from PIL import Image
import pytest

from configs import common
from input_pipeline import sources
from input_pipeline import synthetic


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  """One video of five frames."""
  path = tmp_path_factory.mktemp('video') / 'video.mp4'
  synthetic.encode(str(path), np.zeros((5, 32, 32, 3), np.uint8))
  return path


@pytest.fixture
def make(video, tmp_path):
  """A function that puts copies of the video, or texts, under the root."""
  def put(*names, **texts):
    for name in names:
      path = tmp_path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(video, path)
    for name, text in texts.items():
      (tmp_path / name.replace('__', '.')).write_text(text)
    return tmp_path
  return put


def config(root, **values):
  data = common.get_config().data
  data.root = str(root)
  for key, value in values.items():
    data[key] = value
  return data


def load(root, split='train', **values):
  return sources.load(config(root, **values), split)


def names(dataset):
  return [(r.name, r.label) for r in dataset.records]


def test_split_folders(make):
  root = make('train/jump/b.mp4', 'train/jump/a.mp4', 'train/run/c.mp4',
              'val/run/d.mp4', 'train/.hidden/x.mp4')
  train = load(root)
  assert names(train) == [('train/jump/a.mp4', 0), ('train/jump/b.mp4', 0),
                          ('train/run/c.mp4', 1)]
  assert train.classes == ('jump', 'run')
  assert train.records[0].num_frames == 5
  # The label is that of the training classes, though `val` has one only.
  assert names(load(root, 'eval')) == [('val/run/d.mp4', 1)]
  assert load(root, 'eval').classes == ('jump', 'run')


def test_held_out_share_is_stratified_and_steady(make):
  root = make(*(f'{c}/{i}.mp4' for c in ('jump', 'run') for i in range(10)),
              'walk/0.mp4', 'walk/1.mp4', 'wave/0.mp4')
  train, held = load(root), load(root, 'eval')
  count = {c: [sum(r.name.startswith(c) for r in d.records)
               for d in (train, held)] for c in train.classes}
  assert count == {
      'jump': [8, 2], 'run': [8, 2], 'walk': [1, 1], 'wave': [1, 0]}
  assert not {r.name for r in train.records} & {r.name for r in held.records}
  assert len(train.records) + len(held.records) == 23
  # Neighbours in a recording stand next to each other: the share is spread.
  assert [r.name for r in held.records[:4]] != [
      'jump/0.mp4', 'jump/1.mp4', 'run/0.mp4', 'run/1.mp4']
  # A new video of one class does not move those of another.
  make('jump/10.mp4')
  run = [r.name for r in held.records if r.name.startswith('run')]
  assert [r.name for r in load(root, 'eval').records
          if r.name.startswith('run')] == run


def test_a_list_for_one_split_leaves_the_other_the_rest(make):
  root = make(*(f'{c}/{i}.mp4' for c in ('jump', 'run') for i in range(3)),
              held__txt='jump/1.mp4 jump\nrun/2.mp4 run\n')
  held = load(root, 'eval', eval_list='held.txt')
  assert names(held) == [('jump/1.mp4', 0), ('run/2.mp4', 1)]
  rest = [('jump/0.mp4', 0), ('jump/2.mp4', 0), ('run/0.mp4', 1),
          ('run/1.mp4', 1)]
  assert names(load(root, eval_list='held.txt')) == rest
  assert names(load(root, 'eval', train_list='held.txt')) == rest


def test_list_of_path_and_label(make):
  root = make('a b/c 1.mp4', 'd.mp4',
              train__txt='a b/c 1.mp4 0\n\nd.mp4 5 1\n')
  dataset = load(root, train_list='train.txt')
  assert names(dataset) == [('a b/c 1.mp4', 0), ('d.mp4', 1)]
  assert dataset.classes == ('0', '1')
  # A file's own length counts, not what a list says of it.
  assert dataset.records[1].num_frames == 5


def test_list_with_byte_order_mark_and_windows_lines(make):
  root = make('a.mp4', 'b.mp4')
  (root / 'train.txt').write_bytes(b'\xef\xbb\xbfa.mp4 0\r\nb.mp4 1\r\n')
  assert names(load(root, train_list='train.txt')) == [('a.mp4', 0),
                                                       ('b.mp4', 1)]


def test_list_reads_a_path_that_ends_in_a_number(make):
  root = make('take 2', 'take', train__txt='take 2 0\n')
  assert names(load(root, train_list='train.txt')) == [('take', 0)]
  (root / 'take').unlink()
  assert names(load(root, train_list='train.txt')) == [('take 2', 0)]


def test_list_of_class_names(make):
  root = make('a.mp4', 'b.mp4', 'c.mp4',
              train__txt='a.mp4 wave hand\nb.mp4 7 jump\nc.mp4 2\n',
              classes__txt='run\njump\nwave hand\n')
  dataset = load(root, train_list='train.txt', classes='classes.txt')
  assert names(dataset) == [('a.mp4', 2), ('b.mp4', 1), ('c.mp4', 2)]
  assert dataset.classes == ('run', 'jump', 'wave hand')
  root = make(short__txt='a.mp4 run\nb.mp4 jump\n')
  assert names(load(root, train_list='short.txt')) == [('a.mp4', 1),
                                                       ('b.mp4', 0)]


def test_unlabelled_videos_are_for_evaluation_only(make):
  root = make('a.mp4', 'b 1.mp4', train__txt='a.mp4 0\n',
              test__txt='b 1.mp4\na.mp4 0\n', bare__txt='a.mp4\n')
  held = load(root, 'eval', train_list='train.txt', eval_list='test.txt')
  assert names(held) == [('b 1.mp4', None), ('a.mp4', 0)]
  assert held.summary()['unlabelled'] == 1
  with pytest.raises(ValueError, match=r"bare\.txt, line 1: 'a\.mp4' is neith"):
    load(root, train_list='bare.txt')


def test_csv_with_quotes_columns_and_split(make):
  root = make('a, b.mp4', 'c.mp4', 'd.mp4', data__csv=(
      'clip,part,action\n"a, b.mp4",train,wave\nc.mp4,train,jump\n'
      'd.mp4,test,wave\n'))
  values = {'train_list': 'data.csv', 'csv_path': 'clip',
            'csv_label': 'action', 'csv_split': 'part', 'csv_eval': 'val,test'}
  assert names(load(root, **values)) == [('a, b.mp4', 1), ('c.mp4', 0)]
  assert names(load(root, 'eval', **values)) == [('d.mp4', 1)]
  with pytest.raises(ValueError, match=r"column 'label' \(data\.csv_label\)"):
    load(root, **{**values, 'csv_label': 'label'})
  with pytest.raises(ValueError, match=r"no row has dev .*'part'"):
    load(root, 'eval', **{**values, 'csv_eval': 'dev'})


def test_frame_folders(tmp_path):
  for name, count in (('000/a', 4), ('000/b', 6), ('001/c', 5)):
    (tmp_path / name).mkdir(parents=True)
    for i in range(count):
      Image.new('RGB', (8, 6), (i, 0, 0)).save(tmp_path / name / f'{i:03d}.png')
  values = {'frame_template': '{:03d}.png', 'first_frame': 0}
  (tmp_path / 'train.txt').write_text('000/a 4 0\n000/b 3 0\n001/c 5 1\n')
  dataset = load(tmp_path, train_list='train.txt', **values)
  assert [r.num_frames for r in dataset.records] == [4, 3, 5]
  assert dataset.records[0].entry.codec == 'folder'
  (tmp_path / 'train.txt').write_text('000/a 9 0\n001/c 5 1\n000/b 6 0\n')
  with pytest.raises(ValueError, match='promises 9 frames, the folder holds 4'):
    load(tmp_path, train_list='train.txt', **values)
  (tmp_path / 'train.txt').unlink()
  folders = load(tmp_path, **values)
  assert [r.num_frames for r in folders.records if r.label == 1] == [5]


def test_bad_videos_are_dropped_counted_and_named(make):
  root = make(*(f'train/run/{i}.mp4' for i in range(8)), 'val/run/v.mp4')
  (root / 'train/run/zero.mp4').write_bytes(b'')
  (root / 'train/run/text.mp4').write_text('no video')
  (root / 'train/run/notes.txt').write_text('no video file')
  dataset = load(root, max_bad_fraction=0.2)
  assert len(dataset.records) == 8
  reasons = dict(dataset.dropped)
  assert 'empty' in reasons['train/run/zero.mp4']
  assert 'not a video' in reasons['train/run/text.mp4']
  assert 'not that of a video file' in reasons['train/run/notes.txt']
  assert dataset.summary()['dropped'] == [list(d) for d in dataset.dropped]
  with pytest.raises(ValueError, match=r'2 of 10 videos .* unusable, more than '
                     r'data\.max_bad_fraction=0\.19 allows.*text\.mp4'):
    load(root, max_bad_fraction=0.19)


def test_missing_listed_video_is_a_bad_one(make):
  root = make('a.mp4', train__txt='a.mp4 0\ngone.mp4 0\n')
  dataset = load(root, train_list='train.txt', max_bad_fraction=0.5)
  assert dataset.dropped == (('gone.mp4', 'no such file'),)


def test_fingerprint_follows_names_labels_and_content(make, tmp_path, video):
  root = make('a.mp4', 'b.mp4', train__txt='a.mp4 0\nb.mp4 1\n',
              other__txt='a.mp4 1\nb.mp4 0\n', back__txt='b.mp4 1\na.mp4 0\n')
  first = load(root, train_list='train.txt').fingerprint
  assert load(root, train_list='back.txt').fingerprint == first
  assert load(root, train_list='other.txt').fingerprint != first
  synthetic.encode(str(root / 'a.mp4'), np.full((5, 32, 32, 3), 9, np.uint8))
  assert load(root, train_list='train.txt').fingerprint != first


@pytest.mark.parametrize('lines, message', [
    ('a.mp4 0\nb.mp4 2\n', r"train\.txt, line 2: label '2' is outside the 2"),
    ('a.mp4 -1\n', r"line 1: label '-1' is outside"),
    ('a.mp4 0\nb.mp4 fly\n', r"label 'fly' is outside .*'jump'.*'run'"),
    ('a.mp4\n', r"1: 'a\.mp4' is neither 'path label' nor .*frames label'$"),
    ('a.mp4 0\nb.mp4\n\nc.mp4\nd.mp4\n',
     r"line 2: 'b\.mp4' is neither .*; these lines cannot be read .*: 4, 5$"),
    ('a.mp4 0\nb.mp4 1\na.mp4 1\n', r'line 3: a\.mp4 stands twice.*line 1'),
    ('\n', r'train\.txt holds no video for train'),
])
def test_bad_lists(make, lines, message):
  root = make('a.mp4', 'b.mp4', train__txt=lines, classes__txt='jump\nrun\n')
  with pytest.raises(ValueError, match=message):
    load(root, train_list='train.txt', classes='classes.txt')


def test_labels_from_one_are_noticed(make):
  root = make('a.mp4', 'b.mp4', train__txt='a.mp4 1\nb.mp4 2\n')
  with pytest.raises(ValueError, match='no video has label 0, the least is 1'):
    load(root, train_list='train.txt')


@pytest.mark.parametrize('text, message', [
    ('run\njump\nrun\n', r"line 3: class 'run' stands twice.*line 1"),
    ('run\n\njump\n', 'line 2: an empty class name'),
    ('', 'names no class'),
])
def test_bad_class_files(make, text, message):
  root = make('a.mp4', train__txt='a.mp4 run\n', classes__txt=text)
  with pytest.raises(ValueError, match=message):
    load(root, train_list='train.txt', classes='classes.txt')


def test_what_is_missing_is_named(make):
  root = make('train/run/a.mp4', 'val/fly/b.mp4')
  with pytest.raises(ValueError, match=r"label 'fly' is outside"):
    load(root, 'eval')
  (root / 'train/sit').mkdir()
  with pytest.raises(ValueError, match='train/sit: the class folder holds no'):
    load(root)
  with pytest.raises(ValueError, match=r'gone\.txt: no such file.*train_list'):
    load(root, train_list='gone.txt')
  with pytest.raises(ValueError, match=r'gone\.txt: no such file.*classes'):
    load(root, classes='gone.txt')
  with pytest.raises(ValueError, match=r'nowhere: no such directory'):
    load(root / 'nowhere')
  with pytest.raises(ValueError, match=r'a\.mp4: the directory cannot be read'):
    load(root / 'train/run/a.mp4')
  with pytest.raises(ValueError, match=r'set data\.root'):
    sources.load(common.get_config().data, 'train')
  with pytest.raises(ValueError, match='holds no class folder'):
    load(root / 'train/run')
  (root / 'train/sit/x.mp4').write_bytes(b'')
  with pytest.raises(ValueError, match=r"no video of class 'sit' is usable"):
    load(root, max_bad_fraction=0.5)


def test_evaluation_list_alone_needs_class_names(make):
  root = make('a.mp4', test__txt='a.mp4 1\n', classes__txt='jump\nrun\n')
  with pytest.raises(ValueError, match=r'name them in data\.classes'):
    load(root, 'eval', eval_list='test.txt')
  held = load(root, 'eval', eval_list='test.txt', classes='classes.txt')
  assert names(held) == [('a.mp4', 1)]


def test_weizmann(shared):
  root = shared / 'data' / 'weizmann'
  values = {'train_list': 'annotations.csv', 'csv_split': 'split',
            'csv_eval': 'test'}
  train, held = load(root, **values), load(root, 'eval', **values)
  assert (len(train.records), len(held.records)) == (60, 20)
  assert len(train.classes) == 10 and held.classes == train.classes
  assert not train.dropped + held.dropped
