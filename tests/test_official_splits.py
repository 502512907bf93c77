"""The splits of UCF101 and HMDB51, from files as their owners lay them out."""

import json

import pytest

from input_pipeline import lists
from input_pipeline import official_splits

_UCF = {'Archery': ('v_Archery_g01_c01', 'v_Archery_g02_c01'),
        'HandstandPushups': ('v_HandStandPushups_g01_c01',
                             'v_HandStandPushups_g02_c02')}


def _write_ucf101(folder, splits, classes):
  """Lays splits, three dicts {kind: names}, out as the owners do."""
  folder.mkdir()
  (folder / 'classInd.txt').write_text(
      ''.join(f'{i} {name}\r\n' for i, name in enumerate(classes, 1)))
  for number, split in enumerate(splits, 1):
    for kind, videos in split.items():
      (folder / f'{kind}list0{number}.txt').write_text(''.join(
          f'{video}.avi' + (f' {classes.index(video.split("/")[0]) + 1}'
                            if kind == 'train' else '') + '\r\n'
          for video in videos))


def _write_hmdb51(folder, rows):
  """Lays rows (video, kinds of the three splits) out as the owners do."""
  folder.mkdir()
  texts = {}
  for video, *kinds in rows:
    name, _, file = video.partition('/')
    for number, kind in enumerate(kinds, 1):
      texts.setdefault(f'{name}_test_split{number}.txt', []).append(
          f'{file}.avi {kind} \n')
  for name, lines in texts.items():
    (folder / name).write_text(''.join(lines))


def _miniature():
  names = [f'{c}/{v}' for c, videos in _UCF.items() for v in videos]
  return names, [{'train': (names[0], names[2]), 'test': (names[1], names[3])},
                 {'train': (names[1], names[3]), 'test': (names[0], names[2])},
                 {'train': (names[0], names[3]), 'test': (names[1], names[2])}]


def test_lists_of_a_miniature_are_what_the_pipeline_reads(tmp_path):
  names, splits = _miniature()
  _write_ucf101(tmp_path / 'lists', splits, list(_UCF))
  classes, found = official_splits.read_ucf101(tmp_path / 'lists')
  root = tmp_path / 'videos'
  for name in names[1:]:
    path = root / f'{name}.avi'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  missing = official_splits.write(classes, found, str(root))
  assert missing == [f'{names[0]}.avi']
  read = lists.read_classes(root / 'classes.txt')
  assert read == ('Archery', 'HandstandPushups')
  items = lists.read_list(root / 'test3.txt', root, read, 'eval')
  assert [(i.name, i.label) for i in items] == [
      ('Archery/v_Archery_g02_c01.avi', '0'),
      ('HandstandPushups/v_HandStandPushups_g01_c01.avi', '1')]


def test_hmdb51_in_miniature(tmp_path, monkeypatch):
  _write_hmdb51(tmp_path / 'h', [('wave/a', '1', '2', '0'),
                                 ('clap/b', '2', '1', '1'),
                                 ('clap/c', '0', '1', '2')])
  classes, splits = official_splits.read_hmdb51(tmp_path / 'h')
  assert classes == ('clap', 'wave')
  assert splits == [
      {'train': ('wave/a.avi',), 'test': ('clap/b.avi',)},
      {'train': ('clap/b.avi', 'clap/c.avi'), 'test': ('wave/a.avi',)},
      {'train': ('clap/b.avi',), 'test': ('clap/c.avi',)}]
  monkeypatch.setitem(official_splits.COUNTS, 'hmdb51',
                      ((1, 1), (2, 1), (1, 1)))
  official_splits.check_counts('hmdb51', splits)
  # Too many are as wrong as too few.
  monkeypatch.setitem(official_splits.COUNTS, 'hmdb51',
                      ((1, 1), (1, 1), (1, 1)))
  with pytest.raises(ValueError, match='split 2 of hmdb51 has 2 videos'):
    official_splits.check_counts('hmdb51', splits)


def test_published_splits_are_reproduced(shared, tmp_path):
  for data, write in (('ucf101', _write_ucf101), ('hmdb51', _write_hmdb51)):
    folder = shared / 'reference' / 'splits'
    classes = json.loads((folder / f'{data}_classes.json').read_text())
    rows = [line.split() for line in
            (folder / f'{data}.txt').read_text().splitlines()]
    expected = [{kind: {f'{row[0]}.avi' for row in rows if row[n] == digit}
                 for digit, kind in (('1', 'train'), ('2', 'test'))}
                for n in (1, 2, 3)]
    if data == 'ucf101':
      write(tmp_path / data, [
          {kind: sorted(v.removesuffix('.avi') for v in videos)
           for kind, videos in split.items()} for split in expected], classes)
    else:
      write(tmp_path / data, rows)
    found, splits = official_splits.READERS[data](tmp_path / data)
    official_splits.check_counts(data, splits)
    assert list(found) == classes
    assert [{kind: set(v) for kind, v in split.items()}
            for split in splits] == expected


def test_what_is_wrong_is_named(tmp_path):
  _, splits = _miniature()
  folder = tmp_path / 'lists'
  _write_ucf101(folder, splits, list(_UCF))
  with pytest.raises(ValueError, match='split 1 of ucf101 has 2 videos to '
                     'train and 2 to test, but 9537 and 3783'):
    official_splits.check_counts(
        'ucf101', official_splits.read_ucf101(folder)[1])
  text = (folder / 'trainlist02.txt').read_text()
  (folder / 'trainlist02.txt').write_text(text.replace('c02.avi 2',
                                                       'c02.avi 1'))
  with pytest.raises(ValueError, match='trainlist02.txt, line 2: label 1 is '
                     'not that of HandstandPushups, 2'):
    official_splits.read_ucf101(folder)
  (folder / 'trainlist02.txt').unlink()
  with pytest.raises(ValueError, match='trainlist02.txt: no such file'):
    official_splits.read_ucf101(folder)
  with pytest.raises(ValueError, match=r'holds no \*_test_split1.txt'):
    official_splits.read_hmdb51(folder)
  _write_hmdb51(tmp_path / 'h', [('wave/a b', '1', '2', '0')])
  with pytest.raises(ValueError, match='wave_test_split1.txt, line 1: it is '
                     "not 'video.avi 0'"):
    official_splits.read_hmdb51(tmp_path / 'h')
