"""Files of the attention editor: what is collected, and what people edit."""

import dataclasses
import fcntl
import json
import multiprocessing
import os
import resource
import threading

import numpy as np
import pytest

from vidattn_jax.editor import collected
from vidattn_jax.editor import edit as edit_lib
from vidattn_jax.editor import files
from vidattn_jax.editor import store


def _collected(**changes):
  """Three videos, two clips of two frames, maps of 1x2, three classes."""
  fields = {
      'split': 'train', 'names': ('a/1.mp4', 'b/ü 2.mp4', 'c'),
      'paths': ('/x/1.mp4', '/x/2.mp4', '/x/c'),
      'labels': np.asarray([0, 1, -1]), 'num_frames': np.asarray([6, 4, 9]),
      'frame_indices': np.asarray(
          [[[1, 4], [1, 3]], [[0, 2], [1, 3]], [[2, 2], [2, 2]]]),
      'temporal_attention': np.asarray(
          [[[0.2, 0.5], [0.4, 0.9]], [[0, 1], [0, 1]], [[.1, .2], [.3, .4]]]),
      'spatial_attention': np.linspace(0, 1, 24).reshape(3, 2, 2, 1, 2),
      'scores': np.asarray([[2.0, 1, 0], [3, 1, 0], [0, 0, 5]]),
      'classes': ('x', 'y', 'z'), 'step': 7, 'pixels': {'resize': 256},
      **changes}
  return collected.Collected(**fields)


# --- Collected attention -----------------------------------------------------


def test_collected_attention_comes_back(tmp_path):
  wrote = _collected()
  collected.write(tmp_path, _collected(classes=('p', 'q', 'r')))
  folder = collected.write(tmp_path, wrote)
  assert collected.splits(tmp_path) == ('train',)
  assert os.listdir(tmp_path / 'attention') == ['train']
  read = collected.read(tmp_path, 'train')
  for field in dataclasses.fields(wrote):
    have, want = getattr(read, field.name), getattr(wrote, field.name)
    if field.name == 'spatial_attention':
      want = np.rint(255 * want).astype(np.uint8)
    if isinstance(want, np.ndarray):
      np.testing.assert_allclose(have, want, rtol=1e-7)
    else:
      assert have == want, field.name
  with open(os.path.join(folder, 'manifest.json')) as file:
    assert json.load(file)['videos'][1] == {
        'id': 'b/ü 2.mp4', 'path': '/x/2.mp4', 'label': 1, 'num_frames': 4}


def test_weights_and_maps_by_frame():
  found = _collected()
  # Frame 1 is in both clips; 2 lies between 1 and 3; 0 and 5 are outside.
  np.testing.assert_allclose(
      found.frame_attention(0), [0.3, 0.3, 0.6, 0.9, 0.5, 0.5])
  np.testing.assert_allclose(found.frame_attention(2), np.full(9, 0.25))
  taken, maps = _collected(
      spatial_attention=np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 1, 2)
      ).frame_maps(0)
  assert taken.tolist() == [1, 3, 4]
  assert maps.tolist() == [[[2, 3]], [[6, 7]], [[2, 3]]]
  np.testing.assert_allclose(found.probabilities(2).sum(), 1)
  shares = _collected(average='probabilities',
                      scores=np.asarray([[.2, .3, .5]] * 3))
  assert shares.probabilities(1).tolist() == [.2, .3, .5]


def test_weak_classes_are_wrong_in_every_split():
  train = _collected()
  assert collected.weak_classes([train]) == (1,)
  np.testing.assert_equal(train.class_accuracy(), [1, 0, np.nan])
  # Of class 2 only the evaluation knows; class 1 is right there.
  other = _collected(labels=np.asarray([2, 1, 2]), scores=np.asarray(
      [[1, 0, 0], [0, 1, 0], [1, 0, 0]]))
  assert collected.weak_classes([train, other]) == (2,)
  half = _collected(labels=np.asarray([0, 0, -1]))
  assert half.class_accuracy()[0] == 1
  half = _collected(labels=np.asarray([0, 1, 0]))
  assert half.class_accuracy()[0] == 0.5
  assert collected.weak_classes([half]) == (1,)


@pytest.mark.parametrize('changes, sentence', [
    ({'split': 'test'}, "split is 'test'"),
    ({'names': ('a', 'a', 'c')}, 'same video twice'),
    ({'paths': ('a',)}, r'paths has the shape \(1,\)'),
    ({'scores': np.zeros((3, 2))}, r'scores has the shape \(3, 2\)'),
    ({'scores': np.full((3, 3), np.nan)}, 'scores has values that are no'),
    ({'temporal_attention': np.full((3, 2, 2), 1.1)}, 'temporal_attention has'),
    ({'temporal_attention': np.full((3, 2, 2), np.nan)}, 'outside 0 to 1'),
    ({'spatial_attention': np.full((3, 2, 2, 1, 2), -0.1)}, 'spatial_att'),
    ({'frame_indices': np.full((3, 2, 2), 5)}, 'frames that b/ü 2.mp4 does'),
    ({'labels': np.asarray([0, 3, 0])}, 'outside the 3 classes'),
    ({'average': 'sum'}, "average is 'sum'")])
def test_collected_attention_that_cannot_be_is_named(tmp_path, changes,
                                                     sentence):
  with pytest.raises(collected.CollectedError, match=sentence):
    collected.write(tmp_path, _collected(**changes))
  assert collected.splits(tmp_path) == ()


def test_missing_and_damaged_collections_are_named(tmp_path):
  with pytest.raises(collected.CollectedError, match='collect the attention'):
    collected.read(tmp_path, 'eval')
  folder = collected.write(tmp_path, _collected())
  scores = os.path.join(folder, 'scores.npy')
  np.save(scores, np.asarray([{}], object), allow_pickle=True)
  with pytest.raises(collected.CollectedError, match='is damaged'):
    collected.read(tmp_path, 'train')
  np.save(scores, np.zeros((2, 3), np.float32))
  with pytest.raises(collected.CollectedError, match='scores has the shape'):
    collected.read(tmp_path, 'train')
  os.remove(scores)
  with pytest.raises(collected.CollectedError, match=r'scores\.npy is missing'):
    collected.read(tmp_path, 'train')


# --- Edits -------------------------------------------------------------------


def _read(path):
  with open(path) as file:
    return file.read()


def edit(video='a', annotator='Ada', weights=(0.1, 0.2, 0.3), **changes):
  """Returns an edit of a video of three frames."""
  n = len(weights)
  return store.Edit(**{
      'video': video, 'num_frames': n, 'frame_indices': tuple(range(0, n, 2)),
      'original': (0.5,) * n, 'edited': tuple(weights), 'mask': (1,) * n,
      'label': 0, 'predicted': 1, 'annotator': annotator, 'created': '',
      'updated': '', 'revision': 1, 'status': 'draft', **changes})


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / 'attention' / 'edits.jsonl')


def test_saves_are_appended_and_the_last_counts(path):
  edits = store.Store(path)
  first = edits.save(edit(), 0)
  second = edits.save(edit(weights=(1, 0, 0), status='submitted'), 1)
  edits.save(edit(annotator='Grace'), 0)
  assert (first.revision, second.revision) == (1, 2)
  assert second.created == first.created <= second.updated
  assert second.updated.endswith('Z') and len(second.updated) == 24
  with open(path) as file:
    assert [json.loads(line)['revision'] for line in file] == [1, 2, 1]
  again = store.load(path)
  assert again == edits.edits() == store.Store(path).edits()
  assert again['a', 'Ada'] == second
  assert list(again) == [('a', 'Ada'), ('a', 'Grace')]


def test_older_revisions_conflict_and_change_nothing(path):
  edits = store.Store(path)
  stored = edits.save(edit(), 0)
  before = _read(path)
  for revision in (0, 2):
    with pytest.raises(store.ConflictError) as caught:
      edits.save(edit(weights=(1, 1, 1)), revision)
    assert caught.value.current == stored
  with pytest.raises(store.ConflictError, match='not stored'):
    edits.save(edit(video='b'), 3)
  # The answer to the first save was lost: the same again is no conflict.
  assert edits.save(edit(), 0) == stored
  assert _read(path) == before


def test_processes_see_each_other(path):
  one, two = store.Store(path), store.Store(path)
  stored = one.save(edit(), 0)
  assert two.edits() == {('a', 'Ada'): stored}
  with pytest.raises(store.ConflictError):
    two.save(edit(weights=(1, 1, 1)), 0)
  two.save(edit(weights=(1, 1, 1)), 1)
  assert one.edits()['a', 'Ada'].edited == (1, 1, 1)


def test_save_waits_for_the_lock_of_another_process(path):
  edits = store.Store(path)
  saving = threading.Thread(target=edits.save, args=(edit(), 0))
  with open(path) as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    saving.start()
    saving.join(0.3)
    assert saving.is_alive() and not os.path.getsize(path)
  saving.join(10)
  assert len(edits.edits()) == 1


def _save_many(path, name):
  edits = store.Store(path)
  for revision in range(25):
    edits.save(edit(annotator=name, weights=(revision / 25,) * 3), revision)


def test_no_save_of_threads_and_processes_is_lost(path):
  context = multiprocessing.get_context('spawn')
  workers = [context.Process(target=_save_many, args=(path, f'p{i}'))
             for i in range(2)]
  workers += [threading.Thread(target=_save_many, args=(path, f't{i}'))
              for i in range(2)]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  saves, torn = store.read(path)
  assert (len(saves), torn) == (100, '')
  for name in ('p0', 'p1', 't0', 't1'):
    assert [e.revision for e in saves if e.annotator == name] == list(
        range(1, 26))


def test_torn_last_line_is_put_aside_and_named(path):
  edits = store.Store(path)
  stored = edits.save(edit(note='größer'), 0)
  # Longer than the line that comes after it.
  line = edit(note='x' * 1500).to_line().encode()[:-30]
  with open(path, 'ab') as file:
    file.write(line)
  said = []
  assert store.load(path, said.append) == {('a', 'Ada'): stored}
  assert 'torn' in said[0]
  # Also one that a killed process leaves while another goes on.
  more = edits.save(edit(video='b'), 0)
  again = store.Store(path, said.append)
  assert again.edits() == {('a', 'Ada'): stored, ('b', 'Ada'): more}
  with open(path + '.torn', 'rb') as file:
    assert file.read() == line + b'\n'


@pytest.mark.parametrize('text, sentence', [
    ('{"schema": 1', 'no JSON'),
    ('[1]', 'no JSON object'),
    ('{"schema": 2}', 'schema is 2'),
    ({'edited': (0.1, float('nan'), 0)}, 'NaN is no number'),
    ({'edited': (0.1, 1.01, 0)}, 'edited of frame 1 is 1.01'),
    ({'edited': (0.1, -0.01, 0)}, 'edited of frame 1 is -0.01'),
    ({'edited': (0.1, True, 0)}, 'edited of frame 1'),
    ({'edited': (0.1, 0)}, 'edited has 2 weights; the video has 3'),
    ({'original': (0.1,)}, 'original has 1 weights'),
    ({'mask': (1, 2, 1)}, 'mask must be 3 times'),
    ({'frame_indices': (0, 3)}, 'frame_indices'),
    ({'frame_indices': (1, 0)}, 'frame_indices'),
    ({'status': 'done'}, "status is 'done'"),
    ({'annotator': 'a/../b'}, 'name of an annotator'),
    ({'annotator': ''}, 'name of an annotator'),
    ({'label': -2}, 'label is -2'), ({'revision': 0}, 'revision is 0'),
    ({'seconds': -1}, 'seconds is -1'), ({'note': 'x' * 2001}, 'note has'),
    ({'video': 3}, 'video is no text')])
def test_lines_that_are_no_edits_are_named(path, text, sentence):
  store.Store(path).save(edit(), 0)
  if isinstance(text, dict):
    values = dataclasses.asdict(edit()) | text
    text = json.dumps(values)
  before = _read(path)
  with open(path, 'w') as file:
    file.write(before + text + '\n')
  for act in (store.load, store.Store):
    with pytest.raises(store.EditError, match='line 2') as caught:
      act(path)
    assert sentence in str(caught.value)
  assert _read(path) == before + text + '\n'


def test_missing_field_and_missing_file_are_named(path):
  values = dataclasses.asdict(edit())
  del values['mask']
  with pytest.raises(store.EditError, match='mask is missing'):
    edit_lib.parse(json.dumps(values))
  with pytest.raises(store.EditError, match='does not exist'):
    store.load(path)


def test_full_disk_leaves_the_file_as_it_was(path):
  edits = store.Store(path)
  stored = edits.save(edit(), 0)
  before = _read(path)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Half of the next line fits.
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 3 // 2, hard))
  try:
    with pytest.raises(store.StorageError, match='make room and save again'):
      edits.save(edit(weights=(1, 1, 1)), 1)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert _read(path) == before
  assert edits.edits() == {('a', 'Ada'): stored}
  assert edits.save(edit(weights=(1, 1, 1)), 1).revision == 2
  assert len(store.read(path)[0]) == 2


def test_save_is_on_the_disk_before_it_is_acknowledged(path, monkeypatch):
  edits = store.Store(path)
  synced = []
  monkeypatch.setattr(os, 'fsync', lambda file: synced.append(
      os.fstat(file).st_size))
  edits.save(edit(), 0)
  assert synced == [os.path.getsize(path)]


def test_edits_of_other_data_are_named():
  edits = store.latest([edit('a'), edit('b'), edit('c')])
  known, problems = store.split_known(edits, {'a': 3, 'b': 4})
  assert list(known) == [('a', 'Ada')]
  assert 'the edit is of 3 frames, the video has 4' in problems[0]
  assert 'c (Ada): no such video' in problems[1]


def test_targets_are_the_means_of_those_who_submitted():
  edits = store.by_video(store.latest([
      edit('a', 'Ada', (0.1, 0.2, 0.3), status='submitted', mask=(1, 1, 0)),
      edit('a', 'Grace', (0.5, 0.4, 0.9), status='submitted', mask=(1, 0, 0)),
      edit('a', 'Alan', (1, 1, 1)), edit('b', status='skipped')]))
  target, mask = store.attention_targets(edits, 'a', np.asarray([2, 0, 0, 1]))
  np.testing.assert_allclose(target, [0, 0.3, 0.3, 0.2], rtol=1e-6)
  assert mask.tolist() == [0, 1, 1, 1]
  assert target.dtype == mask.dtype == np.float32
  for video in ('b', 'unknown'):
    target, mask = store.attention_targets(edits, video, [0, 1])
    assert not target.any() and not mask.any()
  for indices in ([0, 3], [-1, 0]):
    with pytest.raises(store.EditError, match='the edit is of 3 frames'):
      store.attention_targets(edits, 'a', indices)


# --- Whole files -------------------------------------------------------------


def _write(path, *edits):
  path.write_text(''.join(e.to_line() + '\n' for e in edits))
  return str(path)


def test_merging_keeps_every_save_and_names_what_differs(tmp_path):
  first = [edit(updated='2026-01-01', revision=1),
           edit(updated='2026-01-03', revision=2, weights=(1, 1, 1))]
  second = [edit('b', updated='2026-01-04'),
            edit(updated='2026-01-02', revision=5, weights=(0, 0, 0))]
  paths = [_write(tmp_path / 'one', *first),
           _write(tmp_path / 'two', first[0], *second)]
  with open(paths[0], 'a') as file:
    file.write('{"sch')
  saves, problems = files.merge(paths)
  assert [e.updated[-2:] for e in saves] == ['01', '02', '03', '04']
  assert store.latest(saves)['a', 'Ada'] == first[1]
  assert len(problems) == 2 and 'torn' in problems[0]
  assert 'Ada edited it in 2 files; that of ' + paths[0] in problems[1]
  out = tmp_path / 'out'
  files.write(out, saves)
  assert store.read(out) == (saves, '')
  before = out.read_text()
  with pytest.raises(store.EditError, match='is not overwritten'):
    files.write(out, [])
  assert out.read_text() == before
  with pytest.raises(store.EditError, match='cannot be written'):
    files.write(tmp_path / 'none' / 'out', saves)


def test_statistics():
  edits = store.latest([
      edit('a', 'Ada', (0.5, 0.5, 0.1), status='submitted', seconds=90),
      edit('a', 'Grace', (0.5, 0.5, 0.3), status='submitted', label=0),
      edit('b', 'Ada', (0.7, 0.5, 0.5), seconds=30, label=4),
      edit('c', 'Ada', (0.5, 0.5, 0.5), status='skipped', label=-1)])
  found = files.stats(edits, ('jump', 'run'))
  assert found['videos'] == 3
  assert found['by_status'] == {'draft': 1, 'submitted': 2, 'skipped': 1}
  ada = found['by_annotator']['Ada']
  assert ada['edits'] == 3 and ada['submitted'] == 1 and ada['minutes'] == 2.0
  assert ada['frames_changed'] == 2
  assert ada['mean_change'] == pytest.approx(0.3)
  assert list(found['by_class']) == ['class 4', 'jump', 'no label']
  assert found['disagreement'] == {
      'videos': 1, 'mean': pytest.approx(0.1 / 3)}
  text = files.table(found)
  assert '3 videos: 1 draft, 2 submitted, 1 skipped' in text
  assert ['Grace', '1', '1', '0.0', '1', '0.20'] in [
      line.split() for line in text.splitlines()]
  assert files.stats({})['disagreement']['mean'] is None
