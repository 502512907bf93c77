"""The three official splits of UCF101 and HMDB51, as lists.

python -m input_pipeline.official_splits ucf101 ucfTrainTestlist VIDEOS
python -m input_pipeline.official_splits hmdb51 SPLITS VIDEOS

Reads the folder of text files that the owners hand out, and writes to VIDEOS,
where the folders of the classes lie, `classes.txt` and for each split
`trainN.txt` and `testN.txt`, whose lines are `class/video.avi label`, labels
from 0.
"""

import argparse
import os
import sys

from input_pipeline import lists

# Videos to train on and to test on, in each split.
COUNTS = {'ucf101': ((9537, 3783), (9586, 3734), (9624, 3696)),
          'hmdb51': ((3570, 1530),) * 3}
_KINDS = {'1': 'train', '2': 'test'}


def read_ucf101(folder):
  """Reads `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`.

  The class of a video is its folder: the videos of HandstandPushups are called
  v_HandStandPushups_*.

  Args:
    folder: where the files are.

  Returns:
    (tuple of class names, list of three dicts {'train' or 'test': tuple of
    'class/video.avi'}).

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  names = {}
  for where, words in _rows(os.path.join(folder, 'classInd.txt')):
    if len(words) != 2 or words[0] != str(len(names) + 1):
      raise ValueError(f"{where}: it is not '{len(names) + 1} class'")
    names[words[1]] = words[0]
  splits = []
  for number in (1, 2, 3):
    split = {}
    for kind in ('train', 'test'):
      path = os.path.join(folder, f'{kind}list0{number}.txt')
      split[kind] = tuple(_ucf101_videos(path, names, kind))
    splits.append(split)
  return tuple(names), splits


def _ucf101_videos(path, names, kind):
  for where, words in _rows(path):
    name = words[0].partition('/')[0]
    if name not in names or len(words) != 1 + (kind == 'train'):
      raise ValueError(f"{where}: it is not 'class/video.avi"
                       f"{' label' * (kind == 'train')}' of a class in "
                       'classInd.txt')
    if kind == 'train' and words[1] != names[name]:
      raise ValueError(f'{where}: label {words[1]} is not that of {name}, '
                       f'{names[name]}')
    yield words[0]


def read_hmdb51(folder):
  """Reads `CLASS_test_splitN.txt`, where 1 is to train, 2 to test, 0 neither.

  Args:
    folder: where the files are.

  Returns:
    As `read_ucf101`; classes are sorted by name.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  try:
    found = os.listdir(folder)
  except OSError as error:
    raise ValueError(f'{folder}: {error.strerror}; name the folder of the '
                     "owners' split files") from error
  end = '_test_split1.txt'
  classes = sorted(name.removesuffix(end) for name in found
                   if name.endswith(end))
  if not classes:
    raise ValueError(f'{folder} holds no *{end}')
  splits = []
  for number in (1, 2, 3):
    split = {'train': [], 'test': []}
    for name in classes:
      for where, words in _rows(
          os.path.join(folder, f'{name}_test_split{number}.txt')):
        if len(words) != 2 or words[1] not in ('0', '1', '2'):
          raise ValueError(f"{where}: it is not 'video.avi 0', 1 or 2")
        if words[1] in _KINDS:
          split[_KINDS[words[1]]].append(f'{name}/{words[0]}')
    splits.append({kind: tuple(videos) for kind, videos in split.items()})
  return tuple(classes), splits


READERS = {'ucf101': read_ucf101, 'hmdb51': read_hmdb51}


def _rows(path):
  """Yields ('file, line N', words) of the lines that are not empty."""
  for number, line in enumerate(lists.read_lines(path, 'a split'), 1):
    if line.strip():
      yield f'{path}, line {number}', line.split()


def check_counts(data, splits):
  """Raises a ValueError if the numbers of videos are not the published ones."""
  for number, (split, expected) in enumerate(
      zip(splits, COUNTS[data], strict=True), 1):
    found = len(split['train']), len(split['test'])
    if found != expected:
      raise ValueError(
          f'split {number} of {data} has {found[0]} videos to train and '
          f'{found[1]} to test, but {expected[0]} and {expected[1]} were '
          'published: take the whole folder that the owners hand out')


def write(classes, splits, root):
  """Writes the lists.

  Args:
    classes: class names, in the order of the labels.
    splits: as a reader returns them.
    root: directory that holds the folders of the classes.

  Returns:
    Names of videos in the splits that are not there.
  """
  label = {name: str(number) for number, name in enumerate(classes)}
  texts = {'classes.txt': classes}
  for number, split in enumerate(splits, 1):
    for kind, videos in split.items():
      texts[f'{kind}{number}.txt'] = [
          f'{video} {label[video.partition("/")[0]]}' for video in videos]
  for name, lines in texts.items():
    with open(os.path.join(root, name), 'w', encoding='utf-8') as file:
      file.write('\n'.join(lines) + '\n')
  wanted = {video for split in splits for part in split.values()
            for video in part}
  return sorted(video for video in wanted
                if not os.path.exists(os.path.join(root, video)))


def main(argv=None):
  """Writes the lists from the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('data', choices=sorted(READERS))
  parser.add_argument('folder', help="the owners' split files")
  parser.add_argument('root', help='the folder of the videos')
  arguments = parser.parse_args(argv)
  classes, splits = READERS[arguments.data](arguments.folder)
  check_counts(arguments.data, splits)
  if not os.path.isdir(arguments.root):
    raise ValueError(f'{arguments.root} is no folder; name that of the videos')
  missing = write(classes, splits, arguments.root)
  print(f'{len(classes)} classes and three splits written to {arguments.root}.')
  if missing:
    print(f'{len(missing)} of the videos are not there: '
          f'{", ".join(missing[:5])}{" ..." * (len(missing) > 5)}')
  return 1 if missing else 0


if __name__ == '__main__':
  try:
    sys.exit(main())
  except ValueError as error:
    sys.exit(f'ERROR: {error}')
