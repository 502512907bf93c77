"""Named data sets, from files as their owners lay them out."""

import dataclasses
import io
import json
import tarfile
import zipfile

import pytest

from input_pipeline import datasets
from input_pipeline import lists
from input_pipeline import storage
from input_pipeline.layouts import archives
from input_pipeline.layouts import listing
from tests import owners
from vidattn_jax import cli


def make(name, root, **values):
  getattr(owners, name)(root, owners.touch, **values)
  return datasets.read(name, str(root))


def pairs(rows):
  return [(row.path, row.label) for row in rows]


# What each miniature holds: rows of each list, class names, the root.
_CONTENTS = {
    'ucf101': ({'train1': 6, 'test1': 3, 'train2': 6, 'test2': 3, 'train3': 6,
                'test3': 3}, ('Archery', 'BabyCrawling', 'HandstandPushups'),
               'UCF-101'),
    'hmdb51': ({'train1': 6, 'test1': 3, 'train2': 6, 'test2': 3, 'train3': 6,
                'test3': 3}, ('brush_hair', 'clap', 'wave'), 'hmdb51_org'),
    'something_v1': ({'train': 6, 'val': 3, 'test': 3}, (
        'Holding something', 'Pushing something from left to right',
        'Turning the camera left while filming something'),
                     '20bn-something-something-v1'),
    'something_v2': ({'train': 6, 'val': 3, 'test': 3}, (
        'Holding something', 'Pushing something from left to right',
        'Turning the camera left while filming something'),
                     '20bn-something-something-v2'),
    'diving48': ({'train': 6, 'test': 3}, (
        'Back 15som 05Twis FREE', 'Back 15som 15Twis FREE',
        'Forward Dive NoTwis PIKE'), 'rgb'),
    'egtea': ({'train1': 6, 'test1': 3, 'train2': 6, 'test2': 3, 'train3': 6,
               'test3': 3}, ('Inspect/Read recipe', 'Open fridge',
                             'Cut tomato'), 'cropped_clips'),
    'epic55': ({'train': 6, 'val': 3}, {
        'noun': ('Nothing', 'pan', 'board:chopping'),
        'verb': ('take', 'put', 'open')}, 'frames_rgb_flow/rgb/train'),
    'kinetics400': ({'train': 9, 'val': 3},
                    ('abseiling', 'air drumming', 'zumba'), ''),
    'thumos14': ({'train': 5, 'test': 5, 'train_ambiguous': 1,
                  'test_ambiguous': 1, 'background': 1},
                 ('BaseballPitch', 'CliffDiving', 'Diving'), ''),
}


def test_every_data_set_has_a_miniature():
  assert set(_CONTENTS) == set(datasets.READERS)


@pytest.mark.parametrize('name', sorted(_CONTENTS))
def test_miniatures_are_read_as_they_are(name, tmp_path):
  found = make(name, tmp_path / 'data')
  numbers, classes, root = _CONTENTS[name]
  assert {key: len(rows) for key, rows in found.splits.items()} == numbers
  assert found.classes == classes
  assert found.root == str(tmp_path / 'data' / root).rstrip('/')
  absent = datasets.missing(found)
  assert absent == (['train/zumba/-tzu_defghi_000014_000024.mp4']
                    if name == 'kinetics400' else [])
  # A miniature is not what was published, and each list says so.
  wrong = datasets.differences(found)
  assert {w.partition(':')[0] for w in wrong} == set(found.expected)
  assert all('were published' in w for w in wrong)


@pytest.mark.parametrize('name', sorted(_CONTENTS))
def test_written_lists_have_what_was_read(name, tmp_path):
  found = make(name, tmp_path / 'data')
  places = datasets.write(found, str(tmp_path / 'lists'))
  for head, names in datasets.heads_of(found).items():
    key = f'classes_{head}' if head else 'classes'
    assert lists.read_classes(places[key]) == names
  for key, rows in found.splits.items():
    lines = (tmp_path / 'lists' / places[key]).read_text().splitlines()
    assert len(lines) == len(rows) + (places[key].endswith('.csv'))


def test_lists_of_ucf101_are_what_the_pipeline_reads(tmp_path):
  found = make('ucf101', tmp_path / 'data')
  places = datasets.write(found)
  names = lists.read_classes(places['classes'])
  items = lists.read_list(places['test3'], found.root, names, 'eval')
  assert [(i.name, i.label) for i in items] == [
      ('Archery/v_Archery_g03_c01.avi', '0'),
      ('BabyCrawling/v_BabyCrawling_g03_c01.avi', '1'),
      ('HandstandPushups/v_HandStandPushups_g03_c01.avi', '2')]


def test_hmdb51_trains_on_1_and_tests_on_2(tmp_path):
  found = make('hmdb51', tmp_path / 'data')
  assert pairs(found.splits['test2']) == [
      ('brush_hair/brush_hair_a_b_goo_1.avi', 0),
      ('clap/clap_a_b_goo_1.avi', 1), ('wave/wave_a_b_goo_1.avi', 2)]
  assert not any('goo_3' in row.path for rows in found.splits.values()
                 for row in rows)


def test_published_splits_are_reproduced(shared, tmp_path):
  folder = shared / 'reference' / 'splits'
  for name, write in (('ucf101', _ucf101_lists), ('hmdb51', _hmdb51_lists)):
    classes = json.loads((folder / f'{name}_classes.json').read_text())
    rows = [line.split() for line in
            (folder / f'{name}.txt').read_text().splitlines()]
    write(tmp_path / name, rows, classes)
    found = datasets.read(name, str(tmp_path / name))
    assert datasets.differences(found) == []
    assert list(found.classes) == classes
    for n in (1, 2, 3):
      for digit, kind in (('1', 'train'), ('2', 'test')):
        expected = {(f'{row[0]}.avi', classes.index(row[0].split('/')[0]))
                    for row in rows if row[n] == digit}
        assert set(pairs(found.splits[f'{kind}{n}'])) == expected
    # One video on the other side: as many, but not the same.
    moved = found.splits['test1'][0]
    other = (*found.splits['train1'][1:], moved)
    wrong = listing.Listing(**{**vars(found), 'splits': {
        **found.splits, 'train1': other}})
    assert datasets.differences(wrong) == [
        'train1: as many as were published, but not the same videos or labels']


def _ucf101_lists(folder, rows, classes):
  folder.mkdir()
  (folder / 'classInd.txt').write_text(
      ''.join(f'{i} {name}\r\n' for i, name in enumerate(classes, 1)))
  for n in (1, 2, 3):
    for digit, kind in (('1', 'train'), ('2', 'test')):
      (folder / f'{kind}list0{n}.txt').write_text(''.join(
          f'{row[0]}.avi' + (f' {classes.index(row[0].split("/")[0]) + 1}'
                             if kind == 'train' else '') + '\r\n'
          for row in rows if row[n] == digit))


def _hmdb51_lists(folder, rows, classes):
  del classes
  folder.mkdir()
  texts = {}
  for video, *kinds in rows:
    name, _, file = video.partition('/')
    for number, kind in enumerate(kinds, 1):
      texts.setdefault(f'{name}_test_split{number}.txt', []).append(
          f'{file}.avi {kind} \n')
  for name, lines in texts.items():
    (folder / name).write_text(''.join(lines))


def test_published_annotations_of_thumos14_are_reproduced(shared, tmp_path):
  truth = json.loads((shared / 'reference/thumos14/ground_truth.json')
                     .read_text())
  for subset, end in (('validation', 'val'), ('test', 'test')):
    (tmp_path / subset).mkdir()
    texts = {}
    for name, video in truth['subsets'][subset].items():
      for start, stop, label in video.get('segments', ()):
        texts.setdefault(truth['classes'][label], []).append(
            f'{name}  {start} {stop}\n')
      for start, stop, *_ in video.get('ambiguous', ()):
        texts.setdefault('Ambiguous', []).append(f'{name} {start} {stop}\n')
    for label, lines in texts.items():
      (tmp_path / subset / f'{label}_{end}.txt').write_text(''.join(lines))
  found = datasets.read('thumos14', str(tmp_path))
  assert datasets.differences(found) == []
  assert list(found.classes) == truth['classes']
  cliff, diving = (found.classes.index(n) for n in ('CliffDiving', 'Diving'))
  of = {label: {(r.path, r.segment) for r in found.splits['test']
                if r.label == label} for label in (cliff, diving)}
  assert len(of[cliff]) == 217 and of[cliff] <= of[diving]


def test_something_v1_is_sorted_by_name_and_v2_by_number(tmp_path):
  v1 = make('something_v1', tmp_path / 'v1')
  assert pairs(v1.splits['train'])[:3] == [('1', 1), ('2', 1), ('3', 0)]
  assert v1.splits['test'][0] == listing.Row('10', None)
  assert v1.settings == {'frame_template': '{:05d}.jpg'}
  v2 = make('something_v2', tmp_path / 'v2')
  assert pairs(v2.splits['val']) == [('106.webm', 1), ('107.webm', 0),
                                     ('108.webm', 2)]
  path = tmp_path / 'v2/something-something-v2-labels.json'
  names = json.loads(path.read_text())
  path.write_text(json.dumps(dict(zip(names, ('2', '0', '1')))))
  again = datasets.read('something_v2', str(tmp_path / 'v2'))
  assert again.classes == (v2.classes[1], v2.classes[2], v2.classes[0])
  assert pairs(again.splits['val']) == [('106.webm', 0), ('107.webm', 2),
                                        ('108.webm', 1)]


def test_something_v2_has_later_names(tmp_path):
  root = tmp_path / 'data'
  here = make('something_v2', root)
  (root / 'labels').mkdir()
  for path in list(root.glob('*.json')):
    path.rename(root / 'labels' / path.name.rpartition('-')[2])
  assert datasets.read('something_v2', str(root)).splits == here.splits


def test_something_v2_may_lie_in_frames(tmp_path):
  root = tmp_path / 'data'
  make('something_v2', root)
  for number in range(100, 112):
    owners.touch(root / 'frames' / str(number) / '%06d.jpg')
    (root / f'20bn-something-something-v2/{number}.webm').unlink()
  found = datasets.read('something_v2', str(root))
  assert found.root == str(root / 'frames')
  assert found.splits['train'][0] == listing.Row('100', 1)
  assert found.settings == {'frame_template': '{:06d}.jpg'}
  assert not datasets.missing(found)


def test_too_many_are_as_wrong_as_too_few(tmp_path):
  found = make('diving48', tmp_path / 'data')
  expected = {'train': 6, 'test': 2, 'classes': 3}
  assert datasets.differences(
      dataclasses.replace(found, expected=expected)) == [
          'test: 3 found, 2 were published']


def test_whole_videos_stand_once_and_segments_may_stand_twice(tmp_path):
  make('diving48', tmp_path / 'a')
  path = tmp_path / 'a/Diving48_V2_test.json'
  path.write_text(json.dumps(json.loads(path.read_text())[:1] * 2))
  with pytest.raises(ValueError, match=r'-test0Q_00000\.mp4 stands twice in t'):
    datasets.read('diving48', str(tmp_path / 'a'))
  make('epic55', tmp_path / 'b')
  path = (tmp_path / 'b/epic-kitchens-55-annotations-1.5.0'
          / 'EPIC_train_action_labels.csv')
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([*lines, lines[-1]]) + '\n')
  assert len(datasets.read('epic55', str(tmp_path / 'b')).splits['val']) == 4


def test_labels_of_egtea_count_from_zero(tmp_path):
  found = make('egtea', tmp_path)
  clip = 'OP02-R01-PastaSalad/OP02-R01-PastaSalad-{0}000-{0}900-F00{0}-F01.mp4'
  assert pairs(found.splits['test2']) == [
      (clip.format(n + 1), n) for n in range(3)]


def test_epic_is_split_by_participant_and_frames_count_from_one(tmp_path):
  found = make('epic55', tmp_path / 'frames')
  assert found.unit == 'frames'
  assert found.splits['train'][1] == listing.Row(
      'P01/P01_01', (1, 1), ('12', '22'))
  assert {r.path for r in found.splits['train']} == {'P01/P01_01', 'P25/P25_02'}
  assert {r.path for r in found.splits['val']} == {'P26/P26_03'}
  assert found.settings == {'frame_template': 'frame_{:010d}.jpg'}
  files = make('epic55', tmp_path / 'files', files=True)
  assert files.unit == 'seconds' and files.settings == {}
  assert files.splits['train'][1] == listing.Row(
      'P01/P01_01.MP4', (1, 1), ('0.40', '0.73'))
  assert files.root == str(tmp_path / 'files/videos/train')
  places = datasets.write(files)
  assert (tmp_path / 'files/videos/train/train.csv').read_text().splitlines()[
      :2] == ['path,noun,verb,start,stop', 'P01/P01_01.MP4,2,0,0.00,0.33']
  assert '--config.data.csv_unit=seconds' in datasets.flags(files, places)


def test_thumos_keeps_segments_and_places(tmp_path):
  found = make('thumos14', tmp_path)
  assert found.splits['train'][2:4] == (
      listing.Row('validation/video_validation_0000364.mp4', 1, ('0.2', '0.6')),
      listing.Row('validation/video_validation_0000364.mp4', 2, ('0.2', '0.6')))
  assert found.splits['test_ambiguous'] == (
      listing.Row('test/video_test_0000051.mp4', None, ('0.6', '0.7')),)
  assert found.splits['background'] == (
      listing.Row('background/video_background_0000001.mp4', None),)


def test_kinetics_may_lie_flat(tmp_path):
  root = tmp_path / 'data'
  make('kinetics400', root)
  for path in sorted((root / 'val').glob('*/*.mp4')):
    path.rename(root / 'val' / path.name)
    path.parent.rmdir()
  found = datasets.read('kinetics400', str(root))
  assert pairs(found.splits['val']) == [
      ('val/-vzu_defghi_000012_000022.mp4', 2),
      ('val/-vai_defghi_000012_000022.mp4', 1),
      ('val/-vab_defghi_000012_000022.mp4', 0)]
  assert found.splits['train'][3] == listing.Row(
      'train/air_drumming/-tai_defghi_000012_000022.mp4', 1)


@pytest.mark.parametrize('name, packed', [
    ('something_v2', '20bn-something-something-v2-00'),
    ('diving48', 'Diving48_rgb.tar.gz'),
    ('epic55', 'frames_rgb_flow/rgb/train/P01/P01_01.tar')])
def test_archives_are_unpacked_once(name, packed, tmp_path):
  plain = make(name, tmp_path / 'plain')
  root = tmp_path / 'packed'
  getattr(owners, name)(root, owners.touch, packed=True)
  assert (root / packed).exists()
  outcome = list(archives.unpack(str(root)))
  assert outcome[0] == (str(root / packed), {
      'something_v2': '12 files unpacked', 'diving48': '9 files unpacked',
      'epic55': '40 files unpacked'}[name])
  found = datasets.read(name, str(root))
  assert found.splits == plain.splits and not datasets.missing(found)
  assert list(archives.unpack(str(root))) == []


def test_zip_files_and_images_and_what_cannot_be_unpacked(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('lists/x.txt', 'x')
  with zipfile.ZipFile(tmp_path / 'b.zip', 'w') as archive:
    archive.writestr('00001.jpg', 'x')
  (tmp_path / 'c.rar').write_bytes(b'Rar!')
  assert [outcome for _, outcome in archives.unpack(str(tmp_path))] == [
      '1 files unpacked', '1 files unpacked',
      'left packed, as it is RAR: unpack it with unrar x or 7z x']
  assert (tmp_path / 'lists/x.txt').read_text() == 'x'
  assert (tmp_path / 'b/00001.jpg').exists()
  (tmp_path / 'd.tgz').write_bytes(b'no archive')
  with pytest.raises(ValueError, match=r'd\.tgz: it cannot be unpacked'):
    list(archives.unpack(str(tmp_path)))


def test_archives_cannot_write_elsewhere(tmp_path):
  root = tmp_path / 'data'
  root.mkdir()
  with tarfile.open(root / 'x.tar', 'w') as archive:
    member = tarfile.TarInfo('../evil.txt')
    member.size = 1
    archive.addfile(member, io.BytesIO(b'x'))
  with pytest.raises(ValueError, match=r'x\.tar: it cannot be unpacked'):
    list(archives.unpack(str(root)))
  assert not (tmp_path / 'evil.txt').exists()


def _change(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


_V2 = 'something-something-v2-'


@pytest.mark.parametrize('name, file, old, new, message', [
    ('ucf101', 'ucfTrainTestlist/classInd.txt', '2 Baby', '3 Baby',
     r"classInd\.txt, line 2: it is not '2 class'"),
    ('ucf101', 'ucfTrainTestlist/trainlist02.txt', 'g01_c01.avi 3',
     'g01_c01.avi 1', r'trainlist02\.txt, line 5: label 1 is not that of '
     'HandstandPushups, 3'),
    ('ucf101', 'ucfTrainTestlist/testlist01.txt', 'Archery/v', 'archery/v',
     r"testlist01\.txt, line 1: it is not 'class/video\.avi' of a class"),
    ('hmdb51', 'testTrainMulti_7030_splits/wave_test_split1.txt',
     'goo_1.avi 1', 'goo 1.avi 1',
     r"wave_test_split1\.txt, line 2: it is not 'video\.avi 0'"),
    ('something_v1', 'something-something-v1-train.csv', '1;Pushing', '1;Push',
     r"v1-train\.csv, line 1: it is not 'video;class' of a class in"),
    ('something_v1', 'something-something-v1-labels.csv', 'Holding something',
     'Pushing something from left to right', r'line 2: .* or stands twice'),
    ('something_v2', f'{_V2}train.json', 'Holding [something]', 'Hold [it]',
     r'v2-train\.json, item 3: it is no video of a class'),
    ('something_v2', f'{_V2}labels.json', '"1"', '"7"',
     'its classes are not numbered 0 to 2'),
    ('something_v2', f'{_V2}validation.json', '[', '',
     r'v2-validation\.json: it is no JSON'),
    ('diving48', 'Diving48_V2_train.json', '"label": 2', '"label": 3',
     r"V2_train\.json, item 5: 3 is no class number from 0 to 2"),
    ('diving48', 'Diving48_V2_test.json', '"start_frame": 0',
     '"start_frame": 4', 'item 1: start_frame is 4'),
    ('diving48', 'Diving48_vocab.json', '15Twis', '05Twis', 'or one twice'),
    ('egtea', 'action_annotation/test_split2.txt', ' 1 4', ' 0 4',
     r"test_split2\.txt, line 1: '0' is no class number from 1 to 3"),
    ('egtea', 'action_annotation/action_idx.txt', 'fridge 2', 'fridge 4',
     "line 2: it is not 'class 2'"),
    ('egtea', 'action_annotation/train_split1.txt', 'OP02', 'OP01',
     'in split 1, 1 clips train and test'),
    ('epic55', 'epic-kitchens-55-annotations-1.5.0/EPIC_noun_classes.csv',
     '2,board', '3,board', 'line 4: it is not class 2'),
    ('epic55', 'epic-kitchens-55-annotations-1.5.0/'
     'EPIC_train_action_labels.csv', ',saucepan,2,', ',saucepan,3,',
     r"action_labels\.csv, line 2: '3' is no class number from 0 to 2"),
    ('epic55', 'epic-kitchens-55-annotations-1.5.0/'
     'EPIC_train_action_labels.csv', ',13,22,', ',23,22,',
     r"line 3: '23' to '22' are no frames"),
    ('kinetics400', 'validate.csv', 'zumba', 'samba',
     r"validate\.csv, line 2: 'samba' is no class of the training set"),
    ('kinetics400', 'train.csv', ',youtube_id', ',id',
     r"train\.csv: it has no column 'youtube_id'"),
    ('kinetics400', 'train.csv', ',12,22,', ',x,22,',
     "line 2: 'x' to '22' are no seconds"),
    ('thumos14', 'TH14_Temporal_annotations_validation/annotation/'
     'Diving_val.txt', '0.2 0.6', '0.2 0.2',
     r"Diving_val\.txt, line 1: it is not 'video_validation_NUMBER start"),
])
def test_bad_lines_are_named(name, file, old, new, message, tmp_path):
  root = tmp_path / 'data'
  make(name, root)
  _change(root / file, old, new)
  with pytest.raises(ValueError, match=message):
    datasets.read(name, str(root))


@pytest.mark.parametrize('name', sorted(_CONTENTS))
def test_what_is_not_there_is_named(name, tmp_path):
  with pytest.raises(ValueError, match=r'holds no .*neither itself nor'):
    datasets.read(name, str(tmp_path))
  with pytest.raises(ValueError, match='name the folder that holds'):
    datasets.read(name, str(tmp_path / 'nowhere'))


def test_command_refuses_what_is_not_whole_and_lists_what_is(tmp_path, capsys):
  root = tmp_path / 'data'
  make('kinetics400', root)
  with pytest.raises(SystemExit) as refused:
    cli.main(['datasets', 'kinetics400', str(root)])
  said = str(refused.value)
  assert 'train: 9 found, 246534 were published' in said
  assert '1 of 12 videos are not below' in said
  assert '--partial takes what is there' in said
  assert 'train/zumba/-tzu_defghi_000014_000024.mp4' in said
  assert not (root / 'train.txt').exists()
  assert cli.main(['datasets', 'kinetics400', str(root), '--partial']) == 0
  said = capsys.readouterr().out
  assert 'WARNING: classes: 3 found, 400 were published' in said
  assert 'WARNING: 1 of 12 videos are not below' in said
  assert len((root / 'train.txt').read_text().splitlines()) == 8
  assert f'--config.data.train_list={root}/train.txt' in said
  with pytest.raises(SystemExit, match="'ucf' is no data set that has a read"):
    cli.main(['datasets', 'ucf', str(root)])


def test_command_unpacks(tmp_path, capsys):
  root = tmp_path / 'data'
  owners.epic55(root, owners.touch, packed=True)
  assert cli.main(['datasets', 'epic55', str(root), '--unpack', '--partial',
                   f'--out={tmp_path}/lists']) == 0
  said = capsys.readouterr().out
  assert 'P26_03.tar: 40 files unpacked' in said
  assert 'frame_template=' in said and 'participants P01 to P25' in said
  assert (tmp_path / 'lists/train.csv').read_text().splitlines()[:2] == [
      'path,noun,verb,start,stop', 'P01/P01_01,2,0,0,10']


@pytest.mark.parametrize('name', ['ucf101', 'epic55', 'thumos14'])
def test_data_sets_may_lie_in_an_object_store(name, tmp_path):
  here = make(name, tmp_path / name)
  root = f'memory://{tmp_path.name}/{name}'
  for path in (tmp_path / name).rglob('*'):
    if path.is_file():
      storage.write_bytes(
          storage.join(root, str(path.relative_to(tmp_path / name))),
          path.read_bytes())
  there = datasets.read(name, root)
  assert there.splits == here.splits and there.classes == here.classes
  assert datasets.missing(there) == []
  places = datasets.write(there)
  assert storage.read_bytes(places['train1' if name == 'ucf101' else 'train'])
