"""UCF101 and HMDB51: three splits each."""

from input_pipeline import storage
from input_pipeline.layouts import listing

_SPLITS = (1, 2, 3)
_KINDS = {'1': 'train', '2': 'test'}
# `datasets.digest` of the published lists.
_UCF101 = {
    'train1':
        'bc6b77c71432b1cdb3f9b23f248ea596dfe2318ef1cb59f342ff168a8d43e093',
    'test1':
        'bec549cda0fe6ccef8b08ca10a19f50d002f62fa6e622dfb892340b62cddcf6e',
    'train2':
        '8cee78857cc932333870ca3ec477dd795881dc417af7b2824a1951454f99cb3d',
    'test2':
        'c918068f0ef80270e27412bdf9d2e7db14eb01e54f92f7caa36dab560a18b045',
    'train3':
        'efe9a5f7de5d6676e1e2f13c67939e0e0e36a30f2ce64d9cdd8b1fe9bcd18515',
    'test3':
        '9a9fb83d03a82294a6db72abac720f9ada12aa7318d744f631847e1895660028',
}
_HMDB51 = {
    'train1':
        'ca4a7e18e3ebb869d39be6260bacdc3fed9461ee9b4487f80cc47375b1a591dc',
    'test1':
        '22e8941668d67f39ea4d7257a56acee334313476cd2e7f8f9eab428b35d2378e',
    'train2':
        'f66f0f6bb732d19da93b0493d0a37752d65d0378619ddc89f376bb339061d5ab',
    'test2':
        'd34967a45021fd447843c60bed8081dedba25f545d9105a0cd53b8a1aefebb52',
    'train3':
        '922119f15fdd874548ba103b7a016b1f40e33f380c72d8546ee7be3f89c962ce',
    'test3':
        'f570326495a49b3a2663183677240361b68c6d1d200f15069c205ec0aec3073f',
}


def read_ucf101(folder):
  """Reads `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`.

  The class of a video is its folder: the videos of HandstandPushups are called
  v_HandStandPushups_*.

  Args:
    folder: holds ucfTrainTestlist/ and UCF-101/, or what is in them.

  Returns:
    listing.Listing.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  index = listing.find(folder, 'classInd.txt')
  place = index[:-len('classInd.txt')]
  ids = {}
  for where, words in listing.rows_of(index):
    if len(words) != 2 or words[0] != str(len(ids) + 1):
      raise ValueError(f"{where}: it is not '{len(ids) + 1} class'")
    ids[words[1]] = len(ids)
  splits = {f'{kind}{n}': tuple(_ucf101_rows(
      storage.join(place, f'{kind}list0{n}.txt'), ids, kind))
            for n in _SPLITS for kind in ('train', 'test')}
  expected = {'train1': 9537, 'test1': 3783, 'train2': 9586, 'test2': 3734,
              'train3': 9624, 'test3': 3696, 'classes': 101}
  return _listing('UCF101', folder, ids, splits, expected, _UCF101,
                  'the three of ucfTrainTestlist, by groups of videos')


def _ucf101_rows(path, ids, kind):
  for where, words in listing.rows_of(path):
    name = words[0].partition('/')[0]
    if name not in ids or len(words) != 1 + (kind == 'train'):
      raise ValueError(f"{where}: it is not 'class/video.avi"
                       f"{' label' * (kind == 'train')}' of a class in "
                       'classInd.txt')
    if kind == 'train' and words[1] != str(ids[name] + 1):
      raise ValueError(f'{where}: label {words[1]} is not that of {name}, '
                       f'{ids[name] + 1}')
    yield listing.Row(words[0], ids[name])


def read_hmdb51(folder):
  """Reads `CLASS_test_splitN.txt`, where 1 is to train, 2 to test, 0 neither.

  Args:
    folder: holds testTrainMulti_7030_splits/ and the folders of the classes,
      here or below.

  Returns:
    listing.Listing; classes are sorted by name.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  end = '_test_split1.txt'
  place, classes = listing.find_ending(folder, end)
  ids = {name: i for i, name in enumerate(classes)}
  splits = {f'{kind}{n}': [] for n in _SPLITS for kind in ('train', 'test')}
  for n in _SPLITS:
    for name in classes:
      for where, words in listing.rows_of(
          storage.join(place, f'{name}_test_split{n}.txt')):
        if len(words) != 2 or words[1] not in ('0', '1', '2'):
          raise ValueError(f"{where}: it is not 'video.avi 0', 1 or 2")
        if words[1] in _KINDS:
          splits[_KINDS[words[1]] + str(n)].append(
              listing.Row(f'{name}/{words[0]}', ids[name]))
  expected = {name: 3570 if name.startswith('train') else 1530
              for name in splits} | {'classes': 51}
  return _listing('HMDB51', folder, ids, splits, expected, _HMDB51,
                  'the three of the owners, 70 to train and 30 to test of '
                  'each class')


def _listing(name, folder, ids, splits, expected, digests, rule):
  splits = {key: tuple(rows) for key, rows in splits.items()}
  paths = [row.path for rows in splits.values() for row in rows]
  root, _ = listing.find_root(folder, paths)
  return listing.Listing(name, root, tuple(ids), splits, expected, rule,
                         digests=digests)
