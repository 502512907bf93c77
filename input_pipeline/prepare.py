"""From the files of a data set to shards of encoded videos, once.

The videos are dealt to shards in order, before anything is read, so that a
shard depends on its own videos alone: on no other shard, on no number of
processes, and on no interruption. A shard gets its name when it is whole, and
its file of rows after it, with its digest; a restart does what is missing.
"""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import os
import shutil
import tempfile
import time

import av
import numpy as np

from input_pipeline import beam_runs
from input_pipeline import datasets
from input_pipeline import labels as labels_lib
from input_pipeline import lists
from input_pipeline import records
from input_pipeline import reencode
from input_pipeline import resizing
from input_pipeline import shard_jobs
from input_pipeline import sources
from input_pipeline import storage

PROFILES = ('copy', *sorted(reencode.ENCODERS))
PLAN = 'plan.json'
REPORT = 'report.json'


@dataclasses.dataclass(frozen=True)
class DataSet:
  """What is to be prepared.

  Attributes:
    name: of the prepared set.
    splits: {name: tuple of `lists.Item`}.
    classes: tuple of names, or {head: names}.
    labels: {name of a split: class numbers, a list, of each of its items}.
    multi: a video has any number of the classes.
    ignored: (name, reason) of files that are no videos.
    naming: (file name by frame number, number of the first frame) of folders of
      frames.
    files: {name: bytes} of lists and class names to go with the shards; those
      of the splits if there are none.
  """

  name: str
  splits: dict[str, tuple[lists.Item, ...]]
  classes: tuple[str, ...] | dict[str, tuple[str, ...]]
  labels: dict[str, tuple[list[int], ...]]
  multi: bool = False
  ignored: tuple[tuple[str, str], ...] = ()
  naming: tuple[str, int] = ('{:05d}.jpg', 1)
  files: dict[str, bytes] = dataclasses.field(default_factory=dict)


def find(name, config_data):
  """Finds the videos of a folder of classes, or of lists.

  Args:
    name: of the prepared set.
    config_data: the section `data` of a configuration, or what of it names
      videos.

  Returns:
    DataSet.

  Raises:
    ValueError: the files or lists are not as they should be; one sentence.
  """
  records.check_name(name)
  splits, classes, ignored = sources.listing(config_data)
  multi = config_data.labels == 'multi'
  labels = {
      split: tuple([] if label is None else np.atleast_1d(label).tolist()
                   for label in labels_lib.resolve(items, classes, multi))
      for split, items in splits.items()}
  return DataSet(
      name, {split: tuple(items) for split, items in splits.items()},
      classes, labels, multi, tuple(ignored),
      (config_data.frame_template, config_data.first_frame))


def from_listing(name, found):
  """Returns the DataSet of a named data set, with its owners' lists.

  Args:
    name: of the prepared set.
    found: what `datasets.read` returned.
  """
  records.check_name(name)
  heads = datasets.heads_of(found)
  splits, labels = {}, {}
  for split, rows in found.splits.items():
    items = []
    for row in rows:
      numbers = row.label if isinstance(row.label, tuple) else (row.label,)
      texts = tuple(None if number is None else names[number] for number, names
                    in zip(numbers, heads.values(), strict=True))
      kind = int if found.unit == 'frames' else float
      ends = row.segment and tuple(map(kind, row.segment))
      items.append(lists.Item(
          row.path + ('@' + '-'.join(row.segment) if row.segment else ''),
          storage.join(found.root, row.path),
          texts[0] if '' in heads else texts, None, f'{found.name}, {split}',
          ends, found.unit or 'frames'))
    splits[split] = tuple(lists.told_apart(items))
    labels[split] = tuple(
        [] if row.label is None else np.atleast_1d(row.label).tolist()
        for row in rows)
  with tempfile.TemporaryDirectory() as folder:
    files = {os.path.basename(place): storage.read_bytes(place)
             for place in datasets.write(found, folder).values()}
  return DataSet(
      name, splits, labels_lib.ordered(found.classes), labels,
      naming=(found.settings.get('frame_template', '{:05d}.jpg'), 1),
      files=files)


def make_recipe(profile, short_side=256, gop=12, crf=20, preset='medium',
                quality=95, rotate=True):
  """Describes how videos are stored, as plain values.

  Args:
    profile: 'copy' stores files as they are, and folders of frames as archives
      of unchanged images; 'fast' H.264 that decodes and seeks fast; 'jpeg' an
      archive of JPEG frames.
    short_side: of the frames, pixels; never enlarged; 0 keeps the size.
    gop: frames from one key frame of H.264 to the next.
    crf: quality of H.264, 0 (lossless) to 51.
    preset: how hard the encoder tries, x264's word.
    quality: of JPEG, 1 to 95.
    rotate: bring frames upright, as their files ask for; `copy` leaves that to
      the reader.

  Raises:
    ValueError: a value that cannot be.
  """
  if profile not in PROFILES:
    raise ValueError(f'The profile {profile!r} is unknown; choose '
                     f'{", ".join(PROFILES[:-1])} or {PROFILES[-1]}.')
  if profile == 'copy':
    return {'profile': profile}
  if short_side and short_side < 16:
    raise ValueError(f'A short side of {short_side} pixels is too small; '
                     'give 16 or more, or 0 to keep the size.')
  recipe = {'profile': profile, 'short_side': short_side, 'rotate': rotate,
            'resampler': resizing.RESAMPLERS['pillow'],
            'ffmpeg': av.ffmpeg_version_info}
  if profile == 'jpeg':
    if not 1 <= quality <= 95:
      raise ValueError(f'A JPEG quality of {quality} is not from 1 to 95.')
    return {**recipe, 'quality': quality}
  if not 0 <= crf <= 51 or gop < 1:
    raise ValueError(f'crf={crf} must lie between 0 and 51, and gop={gop} be '
                     'at least 1.')
  return {**recipe, 'gop': gop, 'crf': crf, 'preset': preset}


def plan(data_set, root, recipe, num_shards, owner=None):
  """Deals videos to shards.

  Segments of one file come to one shard.

  Args:
    data_set: DataSet.
    root: the prepared folder.
    recipe: what `make_recipe` returned.
    num_shards: of each split; never more than its files.
    owner: see `Job`.

  Returns:
    ({split: [Job]}, whether the splits overlap): then all videos are one split,
    and lists have to tell the splits.
  """
  splits = data_set.splits
  names = [item.name for items in splits.values() for item in items]
  overlap = len(set(names)) < len(names)
  if overlap:
    every = {item.name: item for items in splits.values() for item in items}
    splits = {records.WHOLE: tuple(every.values())}
  labels = {}
  for split, items in data_set.splits.items():
    for item, numbers in zip(items, data_set.labels[split], strict=True):
      labels[item.name] = numbers
  jobs = {}
  for split, items in splits.items():
    groups = {}
    for number, item in enumerate(items):
      groups.setdefault(item.path, []).append((number, item))
    groups = [(path, tuple(rows)) for path, rows in groups.items()]
    count = min(num_shards, len(groups))
    bounds = [round(i * len(groups) / count) for i in range(count + 1)]
    jobs[split] = [
        shard_jobs.Job(
            root, records.shard_file(data_set.name, split, i, count),
            tuple(groups[start:stop]),
            {item.name: labels[item.name]
             for _, rows in groups[start:stop] for _, item in rows},
            recipe, data_set.naming, owner)
        for i, (start, stop) in enumerate(itertools.pairwise(bounds))]
  return jobs, overlap


def run(data_set, out, recipe, *, num_shards=8, workers=1, retry=False,
        max_bad_fraction=0.05, options=(), progress=None):
  """Prepares a data set, or what is missing of it.

  Args:
    data_set: DataSet.
    out: folder of prepared sets; this one is `out/NAME/VERSION`.
    recipe: what `make_recipe` returned.
    num_shards: of each split.
    workers: processes on this machine.
    retry: make shards anew that have dropped videos.
    max_bad_fraction: share of the videos that may be unusable.
    options: of a Beam pipeline on other machines; () works on this one.
    progress: function called with (videos done, all videos), now and then.

  Returns:
    Report, also written to the folder.

  Raises:
    ValueError: the folder holds something else or cannot be written, or too
      many videos are unusable; one sentence.
  """
  started = time.monotonic()
  records.check_name(data_set.name)
  root = storage.join(out, data_set.name, records.VERSION)
  owner = None if options else os.getpid()
  jobs, overlap = plan(data_set, root, recipe, num_shards, owner)
  if not sum(map(len, jobs.values())):
    raise ValueError('There is no video to prepare.')
  try:
    with storage.only_user(root, 'vidattn prepare'):
      _keep_plan(root, data_set, recipe, jobs)
      _remove_parts(root)
      every = [job for parts in jobs.values() for job in parts]
      found = {job.shard: shard_jobs.finished(job) for job in every}
      missing = [job for job in every if not _is_good(found[job.shard], retry)]
      for job in missing:
        _forget(job)
      with beam_runs.Watching(root, every, missing, progress):
        try:
          if missing:
            beam_runs.run(missing, workers, options)
        finally:
          # A worker that is stopped since another failed leaves its part.
          _remove_parts(root)
      for job in missing:
        found[job.shard] = shard_jobs.finished(job, check_digest=False)
        if found[job.shard] is None:
          raise ValueError(f'{storage.join(root, job.shard)} was not made; run '
                           'the same command again.')
      contents = {split: [found[job.shard] for job in parts]
                  for split, parts in jobs.items()}
      report = Report.of(data_set, contents, len(every) - len(missing),
                         time.monotonic() - started, root)
      report.check(max_bad_fraction)
      for file, content in _lists_of(data_set, overlap).items():
        storage.write_bytes(storage.join(root, file), content)
      records.write_catalog(root, data_set.name, data_set.classes, recipe,
                            contents)
      storage.write_bytes(storage.join(root, REPORT), report.to_json())
      return report
  except OSError as error:
    raise ValueError(f'{root} cannot be written: {error}.') from error


def _is_good(content, retry):
  return content is not None and not (
      retry and any(row['record'] is None for row in content['rows']))


def _forget(job):
  """Removes a shard that is not whole, its rows first."""
  place = storage.join(job.root, job.shard)
  for path in (records.rows_file(place), place):
    if storage.exists(path):
      storage.remove(path)


def _remove_parts(root):
  if not storage.is_url(root):
    shutil.rmtree(os.path.join(root, shard_jobs.PARTS), ignore_errors=True)


def _keep_plan(root, data_set, recipe, jobs):
  """Writes what is made of what, or compares it with what was begun."""
  total = hashlib.sha256()
  for parts in jobs.values():
    for job in parts:
      for _, rows in job.groups:
        for number, item in rows:
          total.update(json.dumps(
              [number, item.name, item.label, item.segment, item.unit,
               item.num_frames, job.labels[item.name]]).encode())
  wanted = {'recipe': recipe, 'videos': total.hexdigest(),
            'shards': {split: len(parts) for split, parts in jobs.items()}}
  place = storage.join(root, PLAN)
  if storage.exists(place):
    begun = records.read_json(place)
    for key, what in (('recipe', 'with another recipe'),
                      ('videos', 'from other videos'),
                      ('shards', 'in another number of shards')):
      if begun.get(key) != wanted[key]:
        detail = '' if key == 'videos' else (
            f' ({_difference(begun.get(key), wanted[key])})')
        raise ValueError(f'{root} was begun {what}{detail}; choose another '
                         '--out or --name, or remove it.')
    return
  if storage.list_dir(root) if storage.exists(root) else ():
    raise ValueError(f'{root} holds other files; choose another --out or '
                     '--name, or empty it.')
  records.write_json(place, wanted)


def _difference(old, new):
  return ', '.join(f'{key}={old.get(key)!r}, not {new.get(key)!r}'
                   for key in sorted({*old, *new})
                   if old.get(key) != new.get(key))


@dataclasses.dataclass(frozen=True)
class Report:
  """What was done.

  Attributes:
    root: the prepared folder: `data.root` of a training.
    videos: number of videos and segments in it, for each split.
    dropped: (name, reason) of those that are not.
    ignored: (name, reason) of files that are no videos.
    frames: in all.
    source_bytes: of the files read.
    stored_bytes: of the shards.
    shards: number of shards.
    kept: of them, those that were there already.
    seconds: of this run.
  """

  root: str
  videos: dict[str, int]
  dropped: tuple[tuple[str, str], ...]
  ignored: tuple[tuple[str, str], ...]
  frames: int
  source_bytes: int
  stored_bytes: int
  shards: int
  kept: int
  seconds: float

  @classmethod
  def of(cls, data_set, contents, kept, seconds, root):
    """Counts what the files of rows say."""
    parts = [part for group in contents.values() for part in group]
    rows = [row for part in parts for row in part['rows']]
    good = [row for row in rows if row['record'] is not None]
    return cls(
        root=root,
        videos={split: sum(row['record'] is not None
                           for part in group for row in part['rows'])
                for split, group in contents.items()},
        dropped=tuple((row['name'], row['entry']['error']) for row in rows
                      if row['record'] is None),
        ignored=data_set.ignored,
        frames=sum(
            row['segment'][1] - row['segment'][0] if 'segment' in row
            else row['entry']['num_frames'] for row in good),
        source_bytes=sum(part['source_bytes'] for part in parts),
        stored_bytes=sum(part['bytes'] for part in parts),
        shards=len(parts), kept=kept, seconds=seconds)

  def check(self, max_bad_fraction):
    """Raises ValueError if too many videos are unusable."""
    bad, total = len(self.dropped), sum(self.videos.values())
    if not total:
      raise ValueError(f'None of the {bad} videos is usable; the first: '
                       f'{": ".join(self.dropped[0])}.')
    if bad > max_bad_fraction * (bad + total):
      shown = '; '.join(map(': '.join, self.dropped[:3]))
      raise ValueError(
          f'{bad} of {bad + total} videos are unusable, more than '
          f'--max-bad-fraction={max_bad_fraction:g} allows; the first: {shown}.'
          ' The shards are kept: run it again with a larger fraction to go on.')

  def to_json(self):
    """Returns the bytes of a JSON file."""
    return (json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
            + '\n').encode()

  def __str__(self):
    videos = ', '.join(f'{count} in {split}'
                       for split, count in self.videos.items())
    kept = f', {self.kept} were there' if self.kept else ''
    lines = [
        f'{sum(self.videos.values())} videos ({videos}), {self.frames} frames.',
        f'{self.source_bytes / 1e6:.1f} MB read, {self.stored_bytes / 1e6:.1f} '
        f'MB in {self.shards} shards{kept}, {self.seconds:.1f} s.']
    lines += [f'Dropped {name}: {reason}' for name, reason in self.dropped]
    lines += [f'Left out {name}: {reason}' for name, reason in self.ignored]
    return '\n'.join([*lines, f'Train on it with --config.data.root='
                      f'{self.root}'])


def _lists_of(data_set, overlap):
  """Returns {file: bytes} of the classes, and of splits that overlap."""
  if data_set.files:
    return data_set.files
  classes = data_set.classes
  heads = classes if isinstance(classes, dict) else {'': classes}
  texts = {f'classes_{head}.txt' if head else 'classes.txt':
           ''.join(f'{name}\n' for name in names)
           for head, names in heads.items()}
  for split, items in data_set.splits.items() if overlap else ():
    if data_set.multi or isinstance(classes, dict):
      texts[f'{split}.csv'] = _csv(items, classes)
    else:
      texts[f'{split}.txt'] = ''.join(
          ' '.join([item.name, *map(str, numbers)]) + '\n' for item, numbers in
          zip(items, data_set.labels[split], strict=True))
  return {file: text.encode() for file, text in texts.items()}


def _csv(items, classes):
  """Returns a list of videos with several labels; `;` parts those of one."""
  heads = tuple(classes) if isinstance(classes, dict) else ()
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(['path', *(heads or ['label'])])
  for item in items:
    texts = [text or '' for text in item.label or ()]
    writer.writerow([item.name, *(
        (texts or [''] * len(heads)) if heads else [';'.join(texts)])])
  return file.getvalue()
