"""Labels of every kind: read, resolved, counted, and what lacks them."""

import shutil

import numpy as np
import pytest

from configs import common
from input_pipeline import batches
from input_pipeline import labels
from input_pipeline import sources
from input_pipeline import synthetic

CLASSES = ('jump', 'run', 'wave hand')
HEADS = {'noun': ('cup', 'door', 'hand'), 'verb': ('open', 'take')}


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  """One video of five frames."""
  path = tmp_path_factory.mktemp('video') / 'video.mp4'
  synthetic.encode(str(path), np.zeros((5, 32, 32, 3), np.uint8))
  return path


@pytest.fixture
def root(video, tmp_path):
  """Six videos, and the class names of one set and of two heads."""
  for name in 'abcdef':
    shutil.copy(video, tmp_path / f'{name}.mp4')
  (tmp_path / 'classes.txt').write_text('\n'.join(CLASSES))
  for head, names in HEADS.items():
    (tmp_path / f'{head}.txt').write_text('\n'.join(names))
  return tmp_path


def config(root, **values):
  c = common.get_config()
  with c.unlocked():
    c.update_from_flattened_dict({
        'data.root': str(root), 'data.resize': 16, 'model.crop_size': (8, 8),
        'model.num_frames': 2, 'batch_size': 2, 'eval.batch_size': 2,
        'data.flip': 0.0,
        **{f'data.{k}': v for k, v in values.items()}})
  return c


def load(root, split='train', **values):
  return sources.load(config(root, **values).data, split)


def found(dataset):
  return [(r.name[0], r.label) for r in dataset.records]


MULTI = {'labels': 'multi', 'classes': 'classes.txt'}
TWO = {'csv_labels': {'verb': 'v', 'noun': 'n'},
       'head_classes': {'verb': 'verb.txt', 'noun': 'noun.txt'}}


def test_any_number_of_labels_in_a_text_list(root):
  (root / 'train.txt').write_text(
      'a.mp4 run;jump\nb.mp4\nc.mp4 5 wave hand;run\nd.mp4 2; 0 ;2\n'
      'e.mp4 wave hand\n')
  train = load(root, train_list='train.txt', **MULTI)
  assert found(train) == [('a', (0, 1)), ('b', ()), ('c', (1, 2)),
                          ('d', (0, 2)), ('e', (2,))]
  assert train.classes == CLASSES and train.multi
  summary = train.summary()
  assert summary['without_class'] == 1 and summary['unlabelled'] == 0
  assert summary['videos_of_class'] == {'jump': 2, 'run': 2, 'wave hand': 3}
  with pytest.raises(ValueError, match="label 'run;jump' is outside"):
    load(root, train_list='train.txt', label_separator='|', **MULTI)


def test_any_number_of_labels_in_a_csv_file(root):
  (root / 'all.csv').write_text(
      'path,label,split\na.mp4,"jump;run",train\nb.mp4,,train\n'
      'c.mp4,wave hand,val\nd.mp4,,val\n')
  values = {'train_list': 'all.csv', 'csv_split': 'split', 'labels': 'multi'}
  train = load(root, **values, classes='classes.txt')
  assert found(train) == [('a', (0, 1)), ('b', ())]
  held = load(root, 'eval', **values, classes='classes.txt')
  assert found(held) == [('c', (2,)), ('d', ())]
  # Classes that the training rows imply.
  assert load(root, **values).classes == ('jump', 'run')
  (root / 'test.csv').write_text('path\ne.mp4\n')
  test = load(root, 'eval', eval_list='test.csv', **MULTI)
  assert found(test) == [('e', None)]
  assert test.summary()['unlabelled'] == 1


def test_folders_are_sets_of_one_label(root, video):
  for name in ('jump/x.mp4', 'run/y.mp4', 'run/z.mp4'):
    (root / 'set' / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(video, root / 'set' / name)
  train = load(root / 'set', labels='multi')
  assert [r.label for r in train.records] == [(0,), (1,)]


def test_a_label_for_each_head(root):
  (root / 'all.csv').write_text(
      'path,n,v,split\na.mp4,door,open,train\nb.mp4,0,1,train\n'
      'c.mp4,hand,,val\nd.mp4,,,val\ne.mp4,cup,take,train\n'
      'f.mp4,hand,open,train\n')
  values = {'train_list': 'all.csv', 'csv_split': 'split', **TWO}
  train = load(root, **values)
  # In the order of the heads' names: noun, verb.
  assert train.classes == HEADS and list(train.classes) == ['noun', 'verb']
  assert found(train) == [('a', (1, 0)), ('b', (0, 1)), ('e', (0, 1)),
                          ('f', (2, 0))]
  assert train.summary()['classes'] == {'noun': 3, 'verb': 2}
  held = load(root, 'eval', **values)
  assert found(held) == [('c', (2, -1)), ('d', None)]
  assert held.summary()['unlabelled'] == 2
  del values['head_classes']
  (root / 'all.csv').write_text(
      'path,n,v,split\na.mp4,0,open,train\nb.mp4,2,take,train\n')
  derived = load(root, **values)
  assert derived.classes == {'noun': ('0', '1', '2'), 'verb': ('open', 'take')}


def test_all_bad_lines_are_counted(root):
  (root / 'train.txt').write_text(
      'a.mp4 run\nb.mp4 fly\nc.mp4 jump\nd.mp4 7\ne.mp4 -1\n')
  with pytest.raises(ValueError, match=(
      r"train\.txt, line 2: label 'fly' is outside the 3 classes \(0 'jump' to "
      r"2 'wave hand'\); so are labels of 2 more: .*train\.txt, line 4; "
      r'.*train\.txt, line 5$')):
    load(root, train_list='train.txt', classes='classes.txt')
  (root / 'multi.txt').write_text('a.mp4 run;fly\nb.mp4 9;8\n')
  with pytest.raises(ValueError, match=r"line 1: label 'fly'.*of 1 more"):
    load(root, train_list='multi.txt', **MULTI)
  (root / 'two.csv').write_text('path,n,v\na.mp4,0,close\n')
  with pytest.raises(ValueError, match=r"line 2: label 'close' is outside the "
                     r"2 classes of verb \(0 'open' to 1 'take'\)$"):
    load(root, train_list='two.csv', **TWO)


def test_missing_labels_fail_or_are_skipped_and_counted(root):
  (root / 'train.csv').write_text(
      'path,label\na.mp4,run\nb.mp4,\nc.mp4,jump\nd.mp4,\n')
  values = {'train_list': 'train.csv'}
  with pytest.raises(ValueError, match=r"train\.csv, line 3: column 'label' is "
                     r'empty; so it is in 1 more lines.*missing_labels'):
    load(root, **values)
  train = load(root, missing_labels='skip', **values)
  assert found(train) == [('a', 1), ('c', 0)]
  reason = "it has no label (data.missing_labels='skip')"
  assert train.dropped == (('b.mp4', reason), ('d.mp4', reason))
  (root / 'train.txt').write_text('a.mp4 run\nb.mp4\nc.mp4 jump\n')
  skipped = load(root, train_list='train.txt', missing_labels='skip')
  assert found(skipped) == [('a', 1), ('c', 0)] and len(skipped.dropped) == 1
  (root / 'two.csv').write_text('path,n,v\na.mp4,0,1\nb.mp4,1,\nc.mp4,2,0\n')
  some = load(root, train_list='two.csv', missing_labels='skip',
              head_classes={'noun': 'noun.txt', 'verb': 'verb.txt'},
              csv_labels=TWO['csv_labels'], max_bad_fraction=0.0)
  assert found(some) == [('a', (0, 1)), ('c', (2, 0))]
  (root / 'none.txt').write_text('a.mp4\nb.mp4\n')
  with pytest.raises(ValueError, match=r'none\.txt: no video has a label'):
    load(root, train_list='none.txt', missing_labels='skip')


def test_bad_videos_fail_or_are_skipped(root):
  (root / 'train.txt').write_text('a.mp4 0\nb.mp4 0\nc.mp4 1\ngone.mp4 1\n')
  values = {'train_list': 'train.txt', 'max_bad_fraction': 0.5}
  assert load(root, **values).dropped == (('gone.mp4', 'no such file'),)
  with pytest.raises(ValueError, match=r"1 of 4 videos .* unusable, more than "
                     r"data\.bad_videos='fail' allows.*gone\.mp4: no such"):
    load(root, bad_videos='fail', **values)


@pytest.mark.parametrize('values, message', [
    ({'labels': 'many'}, r"data\.labels must be 'single' or 'multi'"),
    ({'missing_labels': 'guess'}, "missing_labels must be 'fail' or 'skip'"),
    ({'bad_videos': 'swap'}, "bad_videos must be 'skip' or 'fail'"),
    ({'label_separator': ' '}, "label_separator=' ' must be a sign"),
    ({'labels': 'multi', 'csv_labels': {'verb': 'v'}}, 'has one head'),
    ({'csv_labels': {'the verb': 'v'}}, "'the verb' cannot name a head"),
    ({'csv_labels': {'verb': 'v'}, 'head_classes': {'noun': 'n'}},
     "head_classes: 'noun' is no head"),
    ({'csv_labels': {'verb': 'v'}}, 'take a CSV file: set data.train_list'),
    ({'csv_labels': {'verb': 'v'}, 'train_list': 'list.txt'},
     'take a list in a CSV file'),
    ({'csv_labels': {'verb': 'v'}, 'classes': 'classes.txt'},
     'take data.head_classes'),
    ({'csv_labels': {'verb': 'v'}, 'train_list': 'list.csv'},
     r"no column 'v' \(data\.csv_labels\.verb\)"),
])
def test_keys_that_cannot_be(root, values, message):
  (root / 'list.txt').write_text('a.mp4 0\n')
  (root / 'list.csv').write_text('path,label\na.mp4,0\n')
  with pytest.raises(ValueError, match=message):
    load(root, **values)


def test_labels_as_arrays():
  two = {'noun': 'abc', 'verb': 'de'}
  for label, classes, multi, wanted in (
      (2, 'abc', False, 2), (None, 'abc', False, -1),
      ((2, 1), two, False, [2, 1]), ((2, -1), two, False, [2, -1]),
      (None, two, False, [-1, -1]), ((0, 2), 'abc', True, [1, 0, 1]),
      ((), 'abc', True, [0, 0, 0]), (None, 'abc', True, [-1, -1, -1])):
    got = labels.encode(label, classes, multi)
    assert got.dtype == np.int32 and got.tolist() == wanted, label


def test_flips_of_every_kind():
  classes = ('left', 'wave', 'right')
  flipped = labels.flips([('left', 'right')], classes)
  assert [int(labels.flip(k, flipped)) for k in (0, 1, 2, -1)] == [2, 1, 0, -1]
  assert labels.flip([1, 1, 0], flipped).tolist() == [0, 1, 1]
  heads = {'noun': ('cup', 'left hand', 'right hand'),
           'verb': ('left', 'right')}
  flipped = labels.flips(
      [('left', 'right'), ('left hand', 'right hand')], heads)
  assert labels.flip([1, 1], flipped).tolist() == [2, 0]
  assert labels.flip([0, -1], flipped).tolist() == [0, -1]
  with pytest.raises(ValueError, match="'up' is no class"):
    labels.flips([('left', 'up')], heads)
  with pytest.raises(ValueError, match='no head has both'):
    labels.flips([('left', 'left hand')], heads)


def test_videos_of_each_class_are_counted():
  assert labels.counts([0, 2, None, 2], 'abc').tolist() == [1, 0, 2]
  assert labels.counts([(0, 2), (), None, (2,)], 'abc', True).tolist() == [
      1, 0, 2]
  got = labels.counts([(2, 0), (2, -1), None], {'n': 'abc', 'v': 'de'})
  assert {h: c.tolist() for h, c in got.items()} == {'n': [0, 0, 2],
                                                     'v': [1, 0]}


def test_batches_carry_labels_of_heads_and_of_any_number(root):
  (root / 'two.csv').write_text(
      'path,n,v\na.mp4,0,1\nb.mp4,1,0\nc.mp4,2,1\nd.mp4,0,0\n')
  c = config(root, train_list='two.csv', **TWO)
  dataset = sources.load(c.data, 'train')
  want = np.asarray([[0, 1], [1, 0], [2, 1], [0, 0]])
  for batch in batches.train_batches(dataset, c, num_steps=2):
    assert batch['label'].shape == (2, 2) and batch['label'].dtype == np.int32
    np.testing.assert_array_equal(batch['label'], want[batch['index']])
  (root / 'multi.txt').write_text('a.mp4 run;jump\nb.mp4\nc.mp4 wave hand\n')
  c = config(root, train_list='multi.txt', eval_list='multi.txt', flip=1.0,
             flip_pairs=(('jump', 'wave hand'),), **MULTI)
  c.data.flip = 1.0
  dataset = sources.load(c.data, 'train')
  flipped = np.asarray([[0, 1, 1], [0, 0, 0], [1, 0, 0]])
  for batch in batches.train_batches(dataset, c, num_steps=2):
    np.testing.assert_array_equal(batch['label'], flipped[batch['index']])
    assert batch['mask'].all()
  held = [*batches.eval_batches(sources.load(c.data, 'eval'), c)]
  np.testing.assert_array_equal(held[0]['label'], [[1, 1, 0], [0, 0, 0]])
  np.testing.assert_array_equal(held[1]['mask'], [1, 0])
