"""What is done with files of edits: export, merge, statistics."""

from collections.abc import Mapping
from collections.abc import Sequence
import os

import numpy as np

from vidattn_jax.editor import collected
from vidattn_jax.editor import store


def default_path(workdir) -> str:
  """Returns where the edits of a workdir are kept."""
  return os.path.join(os.fspath(workdir), collected.FOLDER, 'edits.jsonl')


def write(path, edits: Sequence[store.Edit]):
  """Writes edits as one file, whole or not at all.

  Args:
    path: the file; it must not exist, for a file of edits is work of people.
    edits: what to write, in order.

  Raises:
    EditError: the file exists or cannot be written.
  """
  path = os.fspath(path)
  if os.path.exists(path):
    raise store.EditError(f'{path} exists and is not overwritten; choose '
                          'another --out.')
  part = f'{path}.part{os.getpid()}'
  try:
    with open(part, 'w', encoding='utf-8') as file:
      for edit in edits:
        file.write(edit.to_line() + '\n')
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  except OSError as error:
    if os.path.exists(part):
      os.remove(part)
    raise store.EditError(
        f'{path} cannot be written ({error.strerror}).') from None


def merge(paths: Sequence[str]) -> tuple[list[store.Edit], list[str]]:
  """Brings files of edits together; every save is kept.

  Args:
    paths: the files.

  Returns:
    (all saves by time, each once, so that the latest of a video and an
    annotator counts; a sentence for each torn line, and for each video that
    one annotator edited differently in several files).

  Raises:
    EditError: a file is missing, or a line is no edit.
  """
  problems, saves, lasts = [], {}, {}
  for path in paths:
    store.load(path, problems.append)
    edits, _ = store.read(path)
    saves |= dict.fromkeys(edits)
    for key, edit in store.latest(edits).items():
      lasts.setdefault(key, {})[edit] = path
  for (video, annotator), versions in lasts.items():
    if len(versions) > 1:
      last = max(versions, key=lambda edit: edit.updated)
      problems.append(
          f'{video}: {annotator} edited it in {len(versions)} files; that of '
          f'{versions[last]}, saved at {last.updated}, counts.')
  return sorted(saves, key=lambda edit: edit.updated), problems


def stats(edits: Mapping[tuple[str, str], store.Edit],
          classes: Sequence[str] = ()) -> dict:
  """Counts edits.

  Args:
    edits: as `store.load` returns them.
    classes: class names; numbers stand for those that it lacks.

  Returns:
    Plain data: `videos`, `by_status` {status: edits}, `by_annotator` and
    `by_class` {name: {'edits', 'submitted', 'minutes', 'frames_changed',
    'mean_change'}}, and `disagreement`: of videos that several people
    submitted, their number and the mean distance of a frame's weight to the
    mean of all, 0 to 1, None without such videos.
  """
  groups = {'by_annotator': {}, 'by_class': {}}
  by_status = dict.fromkeys(store.STATUSES, 0)
  for edit in edits.values():
    by_status[edit.status] += 1
    name = (classes[edit.label] if 0 <= edit.label < len(classes)
            else f'class {edit.label}' if edit.label >= 0 else 'no label')
    groups['by_annotator'].setdefault(edit.annotator, []).append(edit)
    groups['by_class'].setdefault(name, []).append(edit)
  distances = []
  for several in store.by_video(edits).values():
    if len({edit.num_frames for edit in several}) == 1 < len(several):
      curves = np.asarray([edit.edited for edit in several])
      distances.append(np.abs(curves - curves.mean(axis=0)).mean())
  return {
      'videos': len({edit.video for edit in edits.values()}),
      'by_status': by_status,
      **{key: {name: _count(group[name]) for name in sorted(group)}
         for key, group in groups.items()},
      'disagreement': {
          'videos': len(distances),
          'mean': float(np.mean(distances)) if distances else None}}


def _count(edits):
  change = np.concatenate([
      np.abs(np.subtract(edit.edited, edit.original)) for edit in edits])
  changed = change[change > 0]
  return {'edits': len(edits),
          'submitted': sum(edit.status == 'submitted' for edit in edits),
          'minutes': round(sum(edit.seconds for edit in edits) / 60, 1),
          'frames_changed': len(changed),
          'mean_change': float(changed.mean()) if len(changed) else 0.0}


def table(figures: dict) -> str:
  """Returns what `stats` found as text."""
  counts = ', '.join(f'{count} {status}' for status, count
                     in figures['by_status'].items())
  lines = [f'{figures["videos"]} videos: {counts}']
  for key, title in (('by_annotator', 'annotator'), ('by_class', 'class')):
    width = max([len(title), *map(len, figures[key])])
    lines += ['', f'{title:<{width}}  edits  submitted  minutes  '
              'frames changed  by']
    lines += [f'{name:<{width}}  {row["edits"]:5}  {row["submitted"]:9}  '
              f'{row["minutes"]:7.1f}  {row["frames_changed"]:14}  '
              f'{row["mean_change"]:.2f}'
              for name, row in figures[key].items()]
  several = figures['disagreement']
  if several['videos']:
    lines += ['', f'{several["videos"]} videos were submitted by several '
              f'people, who differ by {several["mean"]:.2f} from their mean.']
  return '\n'.join(lines)
