"""Data sets in miniature, in the layouts in which their owners hand them out.

Each function writes one below `root`; `video(path)` makes a file or, where
`path` ends in /%d patterns, a folder of frames. Three classes each.
"""

import csv
import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image

from input_pipeline import synthetic

FRAMES = 12


def touch(path, count=FRAMES):
  """Makes an empty file, or frames that are empty files."""
  for place in _files(path, count):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()


def encode(path, count=FRAMES):
  """Makes a video of moving noise, or its frames; its name decides which."""
  rng = np.random.default_rng(sum(map(ord, pathlib.Path(path).name)))
  frames = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
  frames = frames.repeat(8, 1).repeat(8, 2)
  files = _files(path, count)
  files[0].parent.mkdir(parents=True, exist_ok=True)
  if len(files) > 1:
    for place, frame in zip(files, frames, strict=True):
      Image.fromarray(frame).save(place)
    return
  codec, options = {'.avi': ('mpeg4', {}), '.webm': ('libvpx', {
      'deadline': 'realtime', 'cpu-used': '8'})}.get(
          files[0].suffix, ('libx264', None))
  synthetic.encode(str(files[0]), frames, codec, fps=30, options=options)


def _files(path, count):
  path = str(path)
  return [pathlib.Path(path % n) for n in range(1, count + 1)] if (
      '%' in path) else [pathlib.Path(path)]


def ucf101(root, video):
  """A class whose files are not called as it is, is among them."""
  classes = {'Archery': 'Archery', 'BabyCrawling': 'BabyCrawling',
             'HandstandPushups': 'HandStandPushups'}
  lists = root / 'ucfTrainTestlist'
  lists.mkdir(parents=True)
  (lists / 'classInd.txt').write_text(
      ''.join(f'{i} {name}\r\n' for i, name in enumerate(classes, 1)))
  for n in (1, 2, 3):
    train, test = [], []
    for i, (name, called) in enumerate(classes.items(), 1):
      for group in (1, 2, 3):
        path = f'{name}/v_{called}_g0{group}_c01.avi'
        if n == 1:
          video(root / 'UCF-101' / path)
        (test if group == n else train).append(
            path if group == n else f'{path} {i}')
    (lists / f'trainlist0{n}.txt').write_text('\r\n'.join(train) + '\r\n')
    (lists / f'testlist0{n}.txt').write_text('\r\n'.join(test) + '\r\n')


def hmdb51(root, video):
  """The fourth clip of a class is in no split."""
  lists = root / 'testTrainMulti_7030_splits'
  lists.mkdir(parents=True)
  for name in ('wave', 'brush_hair', 'clap'):
    files = [f'{name}_a_b_goo_{i}.avi' for i in range(4)]
    for file in files:
      video(root / 'hmdb51_org' / name / file)
    for n in (1, 2, 3):
      kinds = [2 if i + 1 == n else 1 for i in range(3)] + [0]
      (lists / f'{name}_test_split{n}.txt').write_text(''.join(
          f'{file} {kind} \n' for file, kind in zip(files, kinds)))


_ACTIONS = ('Pushing [something] from left to right',
            'Holding [something]',
            'Turning the camera left while filming [something]')


def something_v1(root, video):
  """Folders of frames; the classes are not sorted in the owners' file."""
  root.mkdir(parents=True)
  stem = 'something-something-v1-'
  names = [name.replace('[', '').replace(']', '') for name in _ACTIONS]
  (root / f'{stem}labels.csv').write_text('\n'.join(names) + '\n')
  first = 1
  for kind, each in (('train', 2), ('validation', 1), ('test', 1)):
    rows = []
    for name in names:
      for _ in range(each):
        video(root / '20bn-something-something-v1' / str(first) / '%05d.jpg')
        rows.append(f'{first};{name}' if kind != 'test' else str(first))
        first += 1
    (root / f'{stem}{kind}.csv').write_text('\n'.join(rows) + '\n')


def something_v2(root, video, packed=False):
  """WebM files; packed as a tar cut into parts, as it is handed out."""
  root.mkdir(parents=True)
  stem = 'something-something-v2-'
  names = sorted(name.replace('[', '').replace(']', '') for name in _ACTIONS)
  (root / f'{stem}labels.json').write_text(
      json.dumps({name: str(i) for i, name in enumerate(names)}))
  first = 100
  for kind, each in (('train', 2), ('validation', 1), ('test', 1)):
    rows = []
    for template in _ACTIONS:
      for _ in range(each):
        video(root / '20bn-something-something-v2' / f'{first}.webm')
        row = {'id': str(first)}
        if kind != 'test':
          row |= {'label': template.replace('[something]', 'a cup'),
                  'template': template, 'placeholders': ['a cup']}
        rows.append(row)
        first += 1
    (root / f'{stem}{kind}.json').write_text(json.dumps(rows))
  if packed:
    name = '20bn-something-something-v2'
    data = _tar(root, [name], 'w:gz')
    for part in range(3):
      size = -(-len(data) // 3)
      (root / f'{name}-{part:02d}').write_bytes(
          data[part * size:(part + 1) * size])


def _tar(root, names, mode):
  """Moves files into a tar and returns its bytes."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as archive:
    for name in names:
      archive.add(root / name, arcname=name)
  for name in names:
    _remove(root / name)
  return buffer.getvalue()


def _remove(path):
  if path.is_dir():
    for below in path.iterdir():
      _remove(below)
    path.rmdir()
  else:
    path.unlink()


def diving48(root, video, packed=False):
  """V2: trimmed clips, numbered classes of four words."""
  root.mkdir(parents=True)
  (root / 'Diving48_vocab.json').write_text(json.dumps(
      [['Back', '15som', '05Twis', 'FREE'], ['Back', '15som', '15Twis', 'FREE'],
       ['Forward', 'Dive', 'NoTwis', 'PIKE']]))
  for kind, each in (('train', 2), ('test', 1)):
    rows = []
    for label in range(3):
      for i in range(each):
        name = f'-{kind}{label}Q_0000{i}'
        video(root / 'rgb' / f'{name}.mp4')
        rows.append({'vid_name': name, 'label': label, 'start_frame': 0,
                     'end_frame': FRAMES})
    (root / f'Diving48_V2_{kind}.json').write_text(json.dumps(rows))
  if packed:
    (root / 'Diving48_rgb.tar.gz').write_bytes(_tar(root, ['rgb'], 'w:gz'))


def egtea(root, video):
  """Numbers from 1; a class name with spaces and a stroke."""
  lists = root / 'action_annotation'
  lists.mkdir(parents=True)
  (lists / 'action_idx.txt').write_text(
      'Inspect/Read recipe 1\nOpen fridge 2\nCut tomato 3\n')
  for n in (1, 2, 3):
    rows = {'train': [], 'test': []}
    for label in (1, 2, 3):
      for i in (1, 2, 3):
        session = f'OP0{i}-R01-PastaSalad'
        clip = f'{session}-{1000 * label}-{1000 * label + 900}-F00{label}-F01'
        if n == 1:
          video(root / 'cropped_clips' / session / f'{clip}.mp4')
        rows['test' if i == n else 'train'].append(f'{clip} {label} 4 7 12 ')
    for kind, lines in rows.items():
      (lists / f'{kind}_split{n}.txt').write_text('\n'.join(lines) + '\n')


_EPIC_HEADER = ('uid', 'participant_id', 'video_id', 'narration',
                'start_timestamp', 'stop_timestamp', 'start_frame',
                'stop_frame', 'verb', 'verb_class', 'noun', 'noun_class',
                'all_nouns', 'all_noun_classes')


def epic55(root, video, packed=False, files=False):
  """Segments of long videos; participant 26 evaluates."""
  lists = root / 'epic-kitchens-55-annotations-1.5.0'
  lists.mkdir(parents=True)
  for head, names in (('verb', ('take', 'put', 'open')),
                      ('noun', ('Nothing', 'pan', 'board:chopping'))):
    with (lists / f'EPIC_{head}_classes.csv').open('w', newline='') as file:
      writer = csv.writer(file)
      writer.writerow([f'{head}_id', 'class_key', f'{head}s'])
      writer.writerows([i, n, str([n, 'x'])] for i, n in enumerate(names))
  rows = []
  for name in ('P01_01', 'P25_02', 'P26_03'):
    place = f'{name[:3]}/{name}'
    if files:
      video(root / 'videos' / 'train' / f'{place}.MP4', 40)
    else:
      video(root / 'frames_rgb_flow/rgb/train' / place / 'frame_%010d.jpg', 40)
    for i in range(3):
      first, last = 12 * i + 1, 12 * i + 10
      rows.append([len(rows), name[:3], name, 'take a pan',
                   f'00:00:{(first - 1) / 30:05.2f}',
                   f'00:00:{last / 30:05.2f}',
                   first, last, 'grab', i, 'saucepan', 2 - i,
                   "['saucepan', 'tap']", f'[{2 - i}, 1]'])
  path = lists / 'EPIC_train_action_labels.csv'
  with path.open('w', newline='') as file:
    csv.writer(file).writerows([_EPIC_HEADER, *rows])
  if packed:
    for place in sorted((root / 'frames_rgb_flow/rgb/train').glob('P*/P*')):
      names = sorted(p.name for p in place.iterdir())
      data = _tar(place, names, 'w')
      place.rmdir()
      place.with_suffix('.tar').write_bytes(data)


def kinetics400(root, video):
  """A class with a space; one clip is gone, as ever."""
  root.mkdir(parents=True)
  for kind, folder, each in (('train', 'train', 3), ('validate', 'val', 1)):
    rows = []
    for name in ('zumba', 'air drumming', 'abseiling'):
      for i in range(each):
        start = 12 + i
        file = f'-{kind[0]}{name[:2]}_defghi_{start:06d}_{start + 10:06d}.mp4'
        rows.append([name, file[:11], start, start + 10, kind])
        if (name, i) != ('zumba', 2):
          video(root / folder / name.replace(' ', '_') / file)
        rows[-1][1] = file.rsplit('_', 2)[0]
    with (root / f'{kind}.csv').open('w', newline='') as file:
      csv.writer(file).writerows(
          [['label', 'youtube_id', 'time_start', 'time_end', 'split'], *rows])


def thumos14(root, video):
  """CliffDiving is Diving, too; ambiguous segments; a background video."""
  for subset, end, folder in (
      ('validation', 'val', 'TH14_Temporal_annotations_validation/annotation'),
      ('test', 'test', 'TH14_Temporal_Annotations_Test/annotations/annotation'),
  ):
    lists = root / folder
    lists.mkdir(parents=True)
    names = [f'video_{subset}_{n:07d}' for n in (51, 364)]
    for name in names:
      video(root / subset / f'{name}.mp4', 40)
    for label, lines in (
        ('BaseballPitch', (f'{names[0]}  0.1 0.5', f'{names[1]} 0.9 1.2')),
        ('CliffDiving', (f'{names[1]}  0.2 0.6',)),
        ('Diving', (f'{names[1]}  0.2 0.6', f'{names[0]} 0.8 1.1')),
        ('Ambiguous', (f'{names[0]} 0.6 0.7',))):
      (lists / f'{label}_{end}.txt').write_text('\n'.join(lines) + '\n')
  video(root / 'background' / 'video_background_0000001.mp4', 10)
