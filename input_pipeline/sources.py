"""Data sets: folders of classes, lists, CSV files; checked before training."""

import collections
from collections.abc import Mapping
import dataclasses
import hashlib
import os

from absl import logging

from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import folders
from input_pipeline import index
from input_pipeline import labels as labels_lib
from input_pipeline import lists
from input_pipeline import records
from input_pipeline import stacks
from input_pipeline import storage
from input_pipeline import stored_flow
from input_pipeline import timing

SPLITS = ('train', 'eval')


@dataclasses.dataclass(frozen=True)
class Record:
  """One usable video, or segment of a longer video.

  Attributes:
    name: its path relative to the data's root, of a segment PATH@START-STOP;
      unique in the data set.
    path: where it is: a video file or a folder of frames.
    label: class, 0 to the number of classes - 1; with several heads a tuple of
      those; of a set with any number of labels a rising tuple of classes. None
      if unlabelled. See `labels`.
    num_frames: frames that can be asked for, as `timing.grid` numbers them.
    entry: what the index knows of the whole video.
    start: the video's frame that is frame 0 here, numbered so, too.
    video: name of the whole video.
  """

  name: str
  path: str
  label: int | tuple[int, ...] | None
  num_frames: int
  entry: decode.IndexEntry
  start: int = 0
  video: str = ''


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The usable videos of one split.

  Attributes:
    split: 'train' or 'eval'.
    records: the videos, in a fixed order.
    classes: class names, in the order of the labels; with several heads
      {head: names}, in the order of the heads' names.
    dropped: (name, reason) of each video or file that is not used.
    fingerprint: hash of the names, labels and contents of `records`.
    multi: a video has any number of the classes.
    short: how many of the videos are shorter than a clip; 0 if not known.
  """

  split: str
  records: tuple[Record, ...]
  classes: tuple[str, ...] | dict[str, tuple[str, ...]]
  dropped: tuple[tuple[str, str], ...]
  fingerprint: str
  multi: bool = False
  short: int = 0

  def summary(self):
    """Returns what a report should say of the set, as plain values."""
    more = {}
    if self.multi:
      labels = [r.label for r in self.records]
      found = labels_lib.counts(labels, self.classes, multi=True)
      more = {'without_class': labels.count(()), 'videos_of_class': dict(zip(
          self.classes, map(int, found), strict=True))}
    several = isinstance(self.classes, Mapping)
    return {
        'split': self.split,
        'videos': len(self.records),
        'unlabelled': sum(
            r.label is None or (several and -1 in r.label)
            for r in self.records),
        'frames': sum(r.num_frames for r in self.records),
        'shorter_than_a_clip': self.short,
        'classes': {h: len(names) for h, names in self.classes.items()}
                   if several else len(self.classes),
        **more,
        'sha256': self.fingerprint,
        'dropped': [list(item) for item in self.dropped],
    }


def load(config_data, split, index_file=''):
  """Finds, checks and indexes the videos of a split.

  Args:
    config_data: the section `data` of the configuration.
    split: 'train' or 'eval'.
    index_file: JSON file that keeps the index; `config_data.index_file` goes
      before it. '' keeps none.

  Returns:
    Dataset. Bad videos are in `dropped`, with the reason.

  Raises:
    ValueError: the data cannot be used as configured; one sentence names the
      file, the line or the key.
  """
  if split not in SPLITS:
    raise ValueError(f"the split must be 'train' or 'eval', not {split!r}")
  timing.check(config_data)
  labels_lib.check_keys(config_data)
  if config_data.bad_videos not in ('skip', 'fail'):
    raise ValueError("data.bad_videos must be 'skip' or 'fail', not "
                     f'{config_data.bad_videos!r}')
  prepared = records.open_prepared(config_data.root)
  has_list = bool(_list_of(config_data, split))
  named = _named_classes(config_data)
  if prepared and not has_list and not named:
    named = prepared.classes
  if has_list:
    items, ignored = _from_list(config_data, split, named, prepared), []
  elif prepared:
    items, ignored = _from_prepared(config_data, split, prepared), []
  else:
    items, ignored = _from_folders(config_data, split)
  if not items:
    raise ValueError(
        f'{_place(config_data, split)} holds no video for {split}')
  if split == 'train':
    items, unlabelled = _with_labels(config_data, items)
    ignored = ignored + unlabelled
  classes = _all_classes(config_data, split, items, named)
  labels = labels_lib.resolve(items, classes, config_data.labels == 'multi')
  _check_unique(items)
  return _checked(config_data, split, items, labels, classes, ignored,
                  config_data.index_file or index_file)


def listing(config_data, unique=True, prepared=None):
  """Finds the videos of all splits, without looking at them.

  Args:
    config_data: the section `data` of the configuration.
    unique: whether a name may stand in a split only once.
    prepared: what `records.open_prepared` returned, if lists name what is in
      it.

  Returns:
    ({split: [lists.Item]}, class names, [(name, reason)] of files that are no
    videos). A folder that is not split is the split `records.WHOLE`.

  Raises:
    ValueError: as `load`.
  """
  labels_lib.check_keys(config_data)
  named = _named_classes(config_data)
  splits = {split: _from_list(config_data, split, named, prepared)
            for split in SPLITS if _list_of(config_data, split)}
  ignored = []
  if not splits:
    found = folders.splits_of(config_data.root) or {records.WHOLE: ''}
    for split, folder in found.items():
      splits[split], others = _class_folders(config_data, folder)
      ignored += others
  for items in splits.values() if unique else ():
    _check_unique(items)
  classes = _all_classes(
      config_data, 'train', next(iter(splits.values())), named)
  return splits, classes, ignored


def gather_videos(paths, list_files=(), frame_template='{:05d}.jpg',
                  first_frame=1):
  """Finds videos without a configuration.

  Args:
    paths: videos, folders of frames, and roots of data sets, in which all
      videos are taken.
    list_files: text files that name the videos wanted, relative to the
      one root in `paths`.
    frame_template: file name by frame number, for folders of frames.
    first_frame: number of the first frame in those names.

  Returns:
    {name: path}; names are those that `load` gives, of single videos the name
    of the file.

  Raises:
    ValueError: there is no video, or two have the same name.
  """
  first = frame_template.format(first_frame)
  if list_files:
    if len(paths) != 1:
      raise ValueError('lists take one root, to which their paths are relative')
    found = [(item.name, item.path) for file in list_files
             for item in lists.read_list(file, paths[0], (), 'eval')]
    return dict(found)  # a video may stand in several lists
  found = []
  for path in paths:
    path = path.rstrip('/') if storage.is_url(path) else os.path.normpath(path)
    is_root = storage.is_dir(path) and not storage.exists(
        storage.join(path, first))
    found += (folders.below(path, first) if is_root
              else [(os.path.basename(path), path)])
  if not found:
    raise ValueError(f'{", ".join(paths)} holds no video')
  for name, count in collections.Counter(name for name, _ in found).items():
    if count > 1:
      raise ValueError(f'{name} is the name of {count} videos; give one root '
                       'above them')
  return dict(found)


def _checked(config_data, split, items, labels, classes, ignored, index_file):
  """Drops bad videos and returns the Dataset, or raises if too many are."""
  entries = index.build(
      [item.path for item in items if item.entry is None], config_data.index,
      index_file, frame_template=config_data.frame_template,
      first_frame=config_data.first_frame,
      limits=containers.limits_of(config_data))
  records, bad, facts, cut = [], [], [], []
  for item, label in zip(items, labels, strict=True):
    entry = item.entry or entries[item.path]
    start, num_frames, missing, reason = extent(item, entry)
    made = ''
    if config_data.modality == 'flow' and not reason:
      made, reason = _look_at_flow(config_data, item.video, num_frames, entry)
    if reason:
      bad.append((item.name, reason))
      continue
    if missing:
      cut.append(f'{item.name} ({missing} frames)')
    if item.segment is not None:
      made += f'@{start}+{num_frames}'
    start, num_frames = timing.extent(entry, start, num_frames, config_data)
    facts.append(made)
    records.append(Record(item.name, item.path, label, num_frames, entry,
                          start, item.video))
  if cut:
    logging.warning('%d segments end after their video and are cut at its end: '
                    '%s', len(cut), ', '.join(cut[:5]))
  where = _place(config_data, split)
  check_bad(config_data, bad, len(items), where)
  if not records:
    raise ValueError(f'{where} holds no usable video for {split}')
  if split == 'train':
    labels_lib.check_filled(records, classes, items, where)
  for name, reason in bad:
    logging.warning('Dropped %s: %s', name, reason)
  fingerprint = index.fingerprint(
      (r.name, r.label, r.entry.digest + made)
      for r, made in zip(records, facts, strict=True))
  return Dataset(split, tuple(records), classes, tuple(ignored + bad),
                 fingerprint, config_data.labels == 'multi')


def check_bad(config_data, bad, total, where):
  """Raises a ValueError if more videos are bad than the configuration allows.

  Args:
    config_data: the section `data` of the configuration.
    bad: (name, reason) of each.
    total: number of all videos.
    where: what to name in the error.
  """
  strict = config_data.bad_videos == 'fail'
  if len(bad) > (0 if strict else config_data.max_bad_fraction * total):
    shown = '; '.join(f'{name}: {reason}' for name, reason in bad[:3])
    allowed = ("data.bad_videos='fail'" if strict else
               f'data.max_bad_fraction={config_data.max_bad_fraction:g}')
    raise ValueError(
        f'{len(bad)} of {total} videos of {where} are unusable, more than '
        f'{allowed} allows; the first: {shown}')


def extent(item, entry):
  """Finds which frames of a video an item is.

  Args:
    item: `lists.Item`.
    entry: `decode.IndexEntry` of the whole video.

  Returns:
    (first frame, number of frames, frames that lie after the video's end, why
    the item cannot be used or '').
  """
  count = entry.num_frames
  if entry.error:
    return 0, count, 0, entry.error
  if item.segment is not None:
    start, stop = item.segment
    if item.unit == 'seconds':
      ends = timing.nearest(entry, item.segment)
      if ends is None:
        return 0, count, 0, ('its segments are in seconds, but its frames have '
                             'no times')
      start, stop = ends[0], max(ends[1], ends[0] + 1)
    if start >= count:
      return 0, count, 0, (
          f'the segment starts at frame {start}, the video has {count}')
    return start, min(stop, count) - start, max(stop - count, 0), ''
  if entry.codec != 'folder' or item.num_frames is None:
    return 0, count, 0, ''
  reason = '' if item.num_frames <= count else (
      f'the list promises {item.num_frames} frames, the folder holds {count}')
  return 0, item.num_frames, 0, reason


def with_edits(dataset, names, lines, only):
  """Returns a data set whose fingerprint tells what people edited of it.

  Args:
    dataset: `Dataset`.
    names: names of the edited videos.
    lines: the edits as text.
    only: leave out videos that nobody edited.
  """
  records = tuple(r for r in dataset.records if not only or r.name in names)
  digest = hashlib.sha256(dataset.fingerprint.encode())
  for line in [str(only), *sorted(lines)]:
    digest.update(line.encode() + b'\n')
  return dataclasses.replace(dataset, records=records,
                             fingerprint=digest.hexdigest())


def _look_at_flow(config_data, name, num_frames, entry):
  """Returns (how a video's stored flow was made, why it has no flow)."""
  # The device pads no stacks: it would see motion stop.
  needed = 2 if config_data.flow_root else config_data.flow_stack + 1
  if num_frames < needed:
    return '', (f'it has {num_frames} frames, its flow takes {needed}')
  if not config_data.flow_root:
    return '', ''
  try:
    header = stored_flow.check(
        config_data.flow_root, name, entry.num_frames,
        config_data.flow_bound, stacks.flow_size(config_data.flow_size))
  except decode.VideoError as error:
    return '', error.reason
  return str(sorted(header.items())), ''


def _list_of(config_data, split):
  """Returns the list of a split; one CSV file may serve both."""
  own = config_data.train_list if split == 'train' else config_data.eval_list
  if own or not config_data.csv_split:
    return own
  return config_data.train_list or config_data.eval_list


def _find(config_data, path):
  """Takes a file as given, or under the root."""
  return path if storage.exists(path) else storage.join(config_data.root, path)


def _place(config_data, split):
  return _list_of(config_data, split) or config_data.root


def _from_list(config_data, split, named, prepared=None):
  path = _find(config_data, _list_of(config_data, split))
  if path.lower().endswith('.csv'):
    items = lists.read_csv(path, config_data, split)
  elif config_data.csv_labels:
    raise ValueError(f'{path}: several heads (data.csv_labels) take a list in '
                     'a CSV file, with a column for each')
  else:
    multi = config_data.labels == 'multi'
    items = lists.read_list(
        path, config_data.root, named, split,
        prepared and prepared.catalog.__contains__,
        config_data.label_separator if multi else '',
        config_data.missing_labels == 'skip')
  return [prepared.find(item) for item in items] if prepared else items


def _from_prepared(config_data, split, prepared):
  """Returns the items of a split that a prepared folder has itself."""
  names = ('train',) if split == 'train' else ('eval', *folders.EVAL_NAMES)
  own = next((name for name in names if name in prepared.splits), None)
  if own:
    return prepared.items(own)
  if records.WHOLE not in prepared.splits:
    raise ValueError(
        f'{config_data.root} has no split for {split}, only '
        f'{", ".join(prepared.splits)}; set data.{split}_list')
  return _share(config_data, split, prepared.items(records.WHOLE), prepared)


def _from_folders(config_data, split):
  """Returns ([Item], [(name, reason)] of files that are no videos)."""
  root = config_data.root
  if not root:
    raise ValueError(
        f'there is nothing to load for {split}: set data.root, or '
        f'data.{split}_list')
  if config_data.csv_labels:
    raise ValueError(f'several heads (data.csv_labels) take a CSV file: set '
                     f'data.{split}_list')
  splits = folders.splits_of(root)
  if splits:
    return _class_folders(config_data, splits[split])
  items, ignored = _class_folders(config_data, '')
  return _share(config_data, split, items), ignored


def _class_folders(config_data, folder):
  """Returns what `folders.of_classes` finds in a folder of the root."""
  return folders.of_classes(
      config_data.root, folder,
      config_data.frame_template.format(config_data.first_frame))


def _share(config_data, split, items, prepared=None):
  """Returns a split's part of each class of a set that is not split."""
  if config_data.train_list or config_data.eval_list:
    # The other split has a list; what that names is not in this one, too.
    other = 'eval' if split == 'train' else 'train'
    listed = {item.video for item in _from_list(
        config_data, other, _named_classes(config_data), prepared)}
    return [item for item in items if item.video not in listed]
  by_class = collections.defaultdict(list)
  for item in items:
    by_class[item.label].append(item)
  return [item for videos in by_class.values()
          for item in _hold_out(videos, config_data.eval_fraction, split)]


def _hold_out(videos, fraction, split):
  """Takes one class's part of a split, the same on every machine."""
  if not 0 < fraction < 1:
    raise ValueError(
        f'data.eval_fraction={fraction:g} must lie between 0 and 1')
  ranked = sorted(
      videos, key=lambda v: hashlib.sha256(v.name.encode()).hexdigest())
  count = round(fraction * len(videos))
  # A class must be trained on, and be evaluated if it can be.
  count = min(max(count, 1), len(videos) - 1)
  held_out = {v.name for v in ranked[:count]}
  return [v for v in videos if (v.name in held_out) == (split == 'eval')]


def _named_classes(config_data):
  """Returns the class names that files give; () where none does."""
  if not config_data.csv_labels:
    return lists.read_classes(_find(config_data, config_data.classes)) if (
        config_data.classes) else ()
  if config_data.classes:
    raise ValueError('data.classes is for one head; several '
                     '(data.csv_labels) take data.head_classes')
  files = config_data.head_classes
  return {head: lists.read_classes(_find(config_data, files[head]),
                                   f'data.head_classes.{head}')
          if files.get(head) else ()
          for head in labels_lib.heads_of(config_data)}


def _with_labels(config_data, items):
  """Returns the training items that have labels, and (name, reason) of others.

  Raises:
    ValueError: there are others, and the configuration allows none.
  """
  lacking = [item for item in items if not labels_lib.is_complete(item)]
  if lacking and config_data.missing_labels == 'fail':
    raise ValueError(
        f'{lacking[0].where}: {lacking[0].name} has no label, nor have '
        f'{len(lacking) - 1} more; label them, or leave them out with '
        "data.missing_labels='skip'")
  if len(lacking) == len(items):
    raise ValueError(f'{_place(config_data, "train")}: no video has a label')
  reason = "it has no label (data.missing_labels='skip')"
  return ([item for item in items if labels_lib.is_complete(item)],
          [(item.name, reason) for item in lacking])


def _all_classes(config_data, split, items, named):
  """Returns the class names, or {head: names}: named or derived."""
  if not isinstance(named, Mapping):
    return named or _derive_classes(config_data, split, items, None)
  return {head: names or _derive_classes(config_data, split, items, head)
          for head, names in named.items()}


def _derive_classes(config_data, split, items, head):
  """Returns the class names that the training set implies."""
  train_list = _list_of(config_data, 'train')
  if train_list and split == 'eval':
    items = _from_list(config_data, 'train', ())
  heads = labels_lib.heads_of(config_data)
  number = heads.index(head) if head else None
  texts = {text for item in items for text in labels_lib.texts_of(item, number)}
  key = f'data.head_classes.{head}' if head else 'data.classes'
  if not train_list:
    top = config_data.root
    if top and storage.is_dir(top):
      inner = folders.splits_of(top).get('train')
      found = folders.names_of(storage.join(top, inner) if inner else top)
      if split == 'train' or not config_data.eval_list or (
          texts and texts <= set(found)):
        return tuple(found)
    raise ValueError(
        f'{_place(config_data, split)}: the classes are not known; name them '
        f'in {key}, or give data.train_list')
  if not texts:
    raise ValueError(f'{train_list}: no video has a label; name the classes in '
                     f'{key}')
  if not all(map(lists.is_integer, texts)):
    return tuple(sorted(texts))
  numbers = {int(t) for t in texts}
  if min(numbers) > 0:
    raise ValueError(
        f'{train_list}: no video has label 0, the least is {min(numbers)}; '
        f'labels count from 0, or name the classes in {key}')
  return tuple(str(i) for i in range(max(numbers) + 1))


def _check_unique(items):
  seen = {}
  for item in items:
    if item.name in seen:
      raise ValueError(
          f'{item.where}: {item.name} stands twice, before at '
          f'{seen[item.name]}')
    seen[item.name] = item.where
