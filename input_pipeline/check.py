"""Looks through a whole data set before anybody trains on it.

Every file is decoded to its end. What is found goes to a report, and to the
index that training uses, so that lengths are true and seeking is safe.
"""

import collections
from collections.abc import Mapping
import dataclasses

import av
import numpy as np

from input_pipeline import containers
from input_pipeline import index
from input_pipeline import labels
from input_pipeline import lists
from input_pipeline import records
from input_pipeline import sources

# Lines of each kind that the readable report shows; the JSON file has all.
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Found:
  """What a data set says it holds, not yet looked at.

  Attributes:
    splits: {split: [lists.Item]}.
    classes: class names, or {head: class names}; () if there are none.
    multi: whether a video may have any number of classes.
    numbers: {(split, name): label as a number, or what `labels` says}.
    ignored: (name, reason) of files that are not taken for videos.
    mistakes: sentences about lists and labels.
  """

  splits: dict
  classes: tuple | dict = ()
  ignored: tuple = ()
  mistakes: tuple = ()
  multi: bool = False
  numbers: dict = dataclasses.field(default_factory=dict)


def find(config_data):
  """Finds the videos of a root, of lists or of a prepared folder.

  Args:
    config_data: the section `data` of a configuration.

  Returns:
    Found. Mistakes in labels and names are all listed.

  Raises:
    ValueError: there is nothing to look at.
  """
  prepared = records.open_prepared(config_data.root)
  if config_data.train_list or config_data.eval_list:
    found = Found(*sources.listing(config_data, unique=False,
                                   prepared=prepared))
  elif prepared:
    found = Found({split: prepared.items(split) for split in prepared.splits},
                  prepared.classes)
  else:
    found = _find_below(config_data)
  multi = config_data.labels == 'multi'
  mistakes, numbers = [], {}
  for split, items in found.splits.items():
    seen = {}
    for item in items:
      if item.name in seen:
        mistakes.append(f'{item.where}: {item.name} stands twice, before at '
                        f'{seen[item.name]}')
        continue
      seen[item.name] = item.where
      if not found.classes:
        continue
      if split == 'train' and not labels.is_complete(item):
        mistakes.append(f'{item.where}: {item.name} has no label')
      try:
        [numbers[split, item.name]] = labels.resolve(
            [item], found.classes, multi)
      except ValueError as error:
        mistakes.append(str(error))
  return dataclasses.replace(found, mistakes=tuple(mistakes), multi=multi,
                             numbers=numbers)


def _find_below(config_data):
  """Takes class folders, or any videos below the root."""
  naming = config_data.frame_template, config_data.first_frame
  everything = sources.gather_videos([config_data.root], (), *naming)
  try:
    splits, classes, ignored = sources.listing(config_data, unique=False)
  except ValueError:
    items = [lists.Item(name, path, None, None, config_data.root)
             for name, path in everything.items()]
    return Found({records.WHOLE: items})
  listed = {item.name for items in splits.values() for item in items}
  ignored = [*ignored, *((name, 'it lies in no class folder')
                         for name in everything if name not in listed)]
  return Found(splits, classes, tuple(dict(ignored).items()))


def run(found, index_file='', threads=None, frame_template='{:05d}.jpg',
        first_frame=1, limits=containers.LIMITS, least=5, progress=None):
  """Decodes every video, and reports.

  A run that was stopped goes on where it was, with the same `index_file`.

  Args:
    found: Found.
    index_file: JSON file that keeps the index; training takes it as
      `data.index_file`.
    threads: videos decoded at the same time; None takes one a core.
    frame_template: file name by frame number, for frame folders.
    first_frame: number of the first frame in those names.
    limits: `containers.Limits`.
    least: videos of a class, in each split but evaluation ones, below which it
      is named.
    progress: function of (path, `IndexEntry`), called for each video once.

  Returns:
    dict of plain values (JSON), see `to_text` for what it says.
  """
  items = [(split, item) for split, group in found.splits.items()
           for item in group]
  dropped = [(item, item.entry.error) for _, item in items if not item.path]
  items = [(split, item) for split, item in items if item.path]
  entries = index.build(
      [item.path for _, item in items], 'decode', index_file, threads,
      frame_template, first_frame, limits, contents=True, report=progress)
  videos, bad = [], [{'name': item.name, 'where': item.where, 'reason': reason}
                     for item, reason in dropped]
  for split, item in items:
    entry = entries[item.path]
    videos.append(_describe(split, item, entry))
    reason = entry.error or sources.extent(item, entry)[3]
    if not reason and item.entry and item.entry.num_frames != entry.num_frames:
      reason = (f'its catalog promises {item.entry.num_frames} frames, '
                f'{entry.num_frames} decode')
    if reason:
      bad.append({'name': item.name, 'where': item.where, 'reason': reason})
  unusable = {(row['name'], row['where']) for row in bad}
  good = [v for v, (_, item) in zip(videos, items, strict=True)
          if (item.name, item.where) not in unusable]
  unlike = [v for v in good
            if v['header_frames'] and v['header_frames'] != v['frames']]
  twins = _twins(videos)
  few, empty = _few(found, good, least)
  report = {
      'videos': videos,
      'bad': bad,
      'mistakes': list(found.mistakes),
      'header_differs': [{key: v[key] for key in (
          'name', 'split', 'frames', 'header_frames')} for v in unlike],
      'repaired': [{key: v[key] for key in ('name', 'split', 'repaired')}
                   for v in good if v['repaired']],
      'leaks': [t for t in twins if len({v['split'] for v in t}) > 1],
      'conflicts': [t for t in twins if len({str(v['label']) for v in t}) > 1],
      'duplicates': twins,
      'empty_classes': empty,
      'small_classes': few,
      'ignored': [list(pair) for pair in found.ignored],
      'summary': _summary(found, videos, good),
  }
  report['ok'] = not any(report[key] for key in (
      'bad', 'mistakes', 'leaks', 'conflicts', 'empty_classes'))
  return report


def _describe(split, item, entry):
  return {
      'name': item.name, 'split': split, 'place': item.path,
      'label': item.label, 'frames': entry.num_frames,
      'header_frames': entry.header_frames, 'width': entry.width,
      'height': entry.height, 'rotation': entry.rotation,
      'codec': entry.codec, 'rate': round(entry.rate, 3),
      'variable_rate': _is_variable(entry), 'found_by': entry.seekability(),
      'repaired': entry.repaired, 'bytes': entry.size,
      'sha256': entry.content, 'error': entry.error}


def _is_variable(entry):
  """Tells whether frames are seen for times that differ by over a tenth."""
  steps = np.diff(entry.times())
  if len(steps) < 2 or steps.mean() <= 0:
    return False
  # Times are rounded to whole units.
  return bool(np.ptp(steps) > max(0.1 * steps.mean(), 2))


def _twins(videos):
  """Returns the groups of videos whose files have the same bytes."""
  groups = collections.defaultdict(dict)
  for video in videos:
    if video['sha256'] and video['bytes']:
      # Segments of one file are no twins, but may be in two splits.
      key = video['split'], video['place']
      groups[video['sha256']].setdefault(key, {
          k: video[k] for k in ('name', 'split', 'label')})
  return [list(group.values()) for group in groups.values() if len(group) > 1]


def _few(found, good, least):
  """Returns classes with few usable videos, and those without any."""
  few, empty = [], []
  for split in found.splits:
    if split not in ('train', records.WHOLE) or not found.classes:
      continue
    usable = [found.numbers.get((split, v['name'])) for v in good
              if v['split'] == split]
    counts = labels.counts(usable, found.classes, found.multi)
    heads = {'': found.classes}, {'': counts}
    if isinstance(found.classes, Mapping):
      heads = found.classes, counts
    for head, names in heads[0].items():
      for name, count in zip(names, heads[1][head].tolist(), strict=True):
        name = f'{head}: {name}' if head else name
        if not count:
          empty.append(name)
        elif count < least:
          few.append([name, count])
  return few, empty


def _summary(found, videos, good):
  by_place = {v['place']: v for v in good}.values()
  seconds = sum(v['frames'] / v['rate'] for v in by_place if v['rate'])
  return {
      'videos': {split: len(items) for split, items in found.splits.items()},
      'files': len({v['place'] for v in videos}),
      'classes': ({head: len(names) for head, names in found.classes.items()}
                  if isinstance(found.classes, Mapping)
                  else len(found.classes)),
      'frames': sum(v['frames'] for v in by_place),
      'hours': round(seconds / 3600, 3),
      'bytes': sum(v['bytes'] for v in by_place),
      'codecs': _count(by_place, 'codec'),
      'found_by': _count(by_place, 'found_by'),
      'sizes': _count(by_place, 'width', 'height'),
      'rotated': sum(v['rotation'] != 0 for v in by_place),
      'variable_rate': sum(v['variable_rate'] for v in by_place),
      'decoder': f'PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}',
  }


def _count(videos, *keys):
  counts = collections.Counter('x'.join(str(v[key]) for key in keys)
                               for v in videos)
  return dict(counts.most_common())


def to_text(report):
  """Returns what `run` found, for people."""
  summary = report['summary']
  shares = [f'{count:,} {split}' for split, count in summary['videos'].items()]
  lines = [
      f'{", ".join(shares)}; {summary["files"]:,} files, '
      f'{_number_of(summary["classes"])} classes',
      f'{summary["frames"]:,} frames decode, {summary["hours"]:,.2f} hours, '
      f'{summary["bytes"] / 1e6:,.1f} MB',
      'codecs: ' + _shares(summary['codecs']),
      'frames are found by: ' + _shares(summary['found_by']) +
      ' (seek: key frames; packets: B-frames can be left out; from start: all '
      'is decoded)',
      'sizes: ' + _shares(dict(list(summary['sizes'].items())[:8])),
      f'{summary["rotated"]} rotated, {summary["variable_rate"]} of variable '
      'rate (data.frames_by)',
  ]

  def section(title, rows, fatal):
    if rows:
      lines.extend(['', f'{"PROBLEM: " * fatal}{len(rows)} {title}'])
      lines.extend(f'  {row}' for row in rows[:_SHOWN])
      if len(rows) > _SHOWN:
        lines.append(f'  ... and {len(rows) - _SHOWN} more')

  def names(twins):
    return ' = '.join(
        f'{v["split"]}: {v["name"]}' + (
            '' if v['label'] is None else f' ({v["label"]})')
        for v in twins)

  section('videos cannot be used', [
      f'{v["name"]}: {v["reason"]}' for v in report['bad']], True)
  section('mistakes in lists or labels', report['mistakes'], True)
  section('contents stand in several splits (leakage)', [
      names(t) for t in report['leaks']], True)
  section('contents have several labels', [
      names(t) for t in report['conflicts']], True)
  section('classes have no usable video', report['empty_classes'], True)
  section('classes have few videos', [
      f'{name}: {count}' for name, count in report['small_classes']], False)
  section('contents stand in several files', [
      names(t) for t in report['duplicates']], False)
  section('headers promise another number of frames than decodes', [
      f'{v["name"]}: {v["header_frames"]}, {v["frames"]} decode'
      for v in report['header_differs']], False)
  section('videos hold damage that FFmpeg repaired', [
      f'{v["name"]}: in {v["repaired"]} frames' for v in report['repaired']],
          False)
  section('files are not taken for videos', [
      f'{name}: {reason}' for name, reason in report['ignored']], False)
  lines.extend(['', 'No problem.' if report['ok'] else
                'There are problems: see above, and the JSON file.'])
  return '\n'.join(lines) + '\n'


def _number_of(classes):
  return _shares(classes) if isinstance(classes, dict) else f'{classes:,}'


def _shares(counts):
  return ', '.join(f'{name} {count:,}' for name, count in counts.items())
