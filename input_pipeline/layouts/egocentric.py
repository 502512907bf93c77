"""EGTEA Gaze+ (cut clips) and EPIC-KITCHENS-55 (segments of long videos)."""

from input_pipeline.layouts import listing

# The last participant whose videos train; the owners hold back the labels of
# their test sets, so that papers split what they published by participant.
_LAST_TO_TRAIN = 25


def read_egtea(folder):
  """Reads `action_idx.txt` and `{train,test}_splitN.txt`, N from 1 to 3.

  Lines are `clip action verb noun ...`, numbers from 1; actions are the
  classes. A clip lies in the folder of its session.

  Args:
    folder: holds action_annotation/ and cropped_clips/.

  Returns:
    listing.Listing.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  path = listing.find(folder, 'action_idx.txt')
  classes = []
  for where, words in listing.rows_of(path):
    if len(words) < 2 or words[-1] != str(len(classes) + 1):
      raise ValueError(f"{where}: it is not 'class {len(classes) + 1}'")
    classes.append(' '.join(words[:-1]))
  splits = {f'{kind}{n}': tuple(_egtea_rows(
      listing.find(folder, f'{kind}_split{n}.txt'), len(classes)))
            for n in (1, 2, 3) for kind in ('train', 'test')}
  for n in (1, 2, 3):
    both = {r.path for r in splits[f'train{n}']} & {
        r.path for r in splits[f'test{n}']}
    if both:
      raise ValueError(f'{path}: in split {n}, {len(both)} clips train and '
                       f'test, the first is {min(both)}')
  root, _ = listing.find_root(
      folder, [row.path for rows in splits.values() for row in rows])
  return listing.Listing(
      'EGTEA Gaze+', root, tuple(classes), splits,
      {'train1': 8299, 'test1': 2022, 'classes': 106},
      'the three of the owners')


def _egtea_rows(path, count):
  for where, words in listing.rows_of(path):
    session = words[0].rsplit('-', 4)[0]
    if len(words) < 2 or session == words[0]:
      raise ValueError(f"{where}: it is not 'clip action verb noun' with a "
                       'clip SESSION-START-STOP-FFIRST-FLAST')
    yield listing.Row(f'{session}/{words[0]}.mp4',
                      listing.number(words[1], count, where, first=1))


def read_epic55(folder):
  """Reads `EPIC_train_action_labels.csv` and the classes of verbs and nouns.

  Frames count in the owners' extraction at 60 a second, from 1; in the files
  themselves the rate differs and varies, so there the time stamps are taken.

  Args:
    folder: holds the annotations, and either P01/P01_01/frame_0000000001.jpg
      and so on or P01/P01_01.MP4 and so on, here or below.

  Returns:
    listing.Listing with the heads `noun` and `verb`.

  Raises:
    ValueError: a file is missing, or a line is none of the format.
  """
  classes = {head: tuple(_epic_classes(folder, head))
             for head in ('noun', 'verb')}
  path = listing.find(folder, 'EPIC_train_action_labels.csv')
  annotated = list(listing.csv_rows(path, (
      'participant_id', 'video_id', 'start_timestamp', 'stop_timestamp',
      'start_frame', 'stop_frame', 'verb_class', 'noun_class')))
  folders = list(dict.fromkeys(
      f'{row["participant_id"]}/{row["video_id"]}' for _, row in annotated))
  files = [f'{name}.MP4' for name in folders]
  root, found = listing.find_root(folder, folders)
  of_files, count = (folder, 0) if found else listing.find_root(folder, files)
  in_files = count > 0
  splits = {'train': [], 'val': []}
  for where, row in annotated:
    label = tuple(listing.number(row[f'{head}_class'], len(classes[head]),
                                 where) for head in classes)
    name = f'{row["participant_id"]}/{row["video_id"]}'
    participant = row['participant_id'][1:]
    if not participant.isdecimal():
      raise ValueError(f'{where}: {row["participant_id"]!r} is no participant')
    split = 'train' if int(participant) <= _LAST_TO_TRAIN else 'val'
    splits[split].append(
        listing.Row(f'{name}.MP4', label, _seconds(row, where)) if in_files
        else listing.Row(name, label, _frames(row, where)))
  return listing.Listing(
      'EPIC-KITCHENS-55', of_files if in_files else root, classes,
      {key: tuple(rows) for key, rows in splits.items()},
      {'train': 23191, 'val': 5281, 'classes_verb': 125, 'classes_noun': 352},
      f'participants P01 to P{_LAST_TO_TRAIN} train, the others evaluate',
      unit='seconds' if in_files else 'frames',
      settings={} if in_files else {'frame_template': 'frame_{:010d}.jpg'})


def _epic_classes(folder, head):
  path = listing.find(folder, f'EPIC_{head}_classes.csv')
  for number, (where, row) in enumerate(listing.csv_rows(
      path, (f'{head}_id', 'class_key'))):
    if row[f'{head}_id'] != str(number) or not row['class_key'].strip():
      raise ValueError(f'{where}: it is not class {number}')
    yield row['class_key'].strip()


def _frames(row, where):
  first, last = row['start_frame'], row['stop_frame']
  if not (first.isdecimal() and last.isdecimal()
          and max(int(first), 1) <= int(last)):
    raise ValueError(f'{where}: {first!r} to {last!r} are no frames')
  return str(max(int(first) - 1, 0)), last


def _seconds(row, where):
  return tuple(f'{_time(row[key], where):.2f}'
               for key in ('start_timestamp', 'stop_timestamp'))


def _time(text, where):
  """Returns the seconds of HH:MM:SS.SS."""
  parts = text.split(':')
  try:
    hours, minutes, seconds = map(float, parts)
  except ValueError:
    raise ValueError(f'{where}: {text!r} is no time HH:MM:SS.SS') from None
  return 3600 * hours + 60 * minutes + seconds
