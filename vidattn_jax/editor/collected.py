"""Attention that an evaluation collects, on disk: the editor's input.

A split is a folder, `<workdir>/attention/<split>`, of one `manifest.json` and
four `.npy` files; docs/editing.md describes them. No file runs code when read.
"""

import dataclasses
import json
import os
import shutil

import numpy as np

FOLDER = 'attention'
_FORMAT = 1
_MANIFEST = 'manifest.json'
_ARRAYS = ('frame_indices', 'temporal_attention', 'spatial_attention',
           'scores')
_FACTS = ('classes', 'average', 'step', 'pixels', 'frame_template',
          'first_frame')


class CollectedError(ValueError):
  """Collected attention cannot be used, and why."""


@dataclasses.dataclass(frozen=True)
class Collected:
  """What a network made of the videos of one split.

  N videos, C clips of T frames each, K classes; maps of h x w places.

  Attributes:
    split: 'train' or 'eval'.
    names: the videos' ids: their unique names in the data set, N.
    paths: where they are: video files or folders of frames, N.
    labels: int32 [N]; -1 where unknown.
    num_frames: int32 [N], frames of each video.
    frame_indices: int32 [N, C, T], the frames of each clip, from 0.
    temporal_attention: float32 [N, C, T], in [0, 1].
    spatial_attention: [N, C, T, h, w] over the centre crop; uint8, 255 for 1,
      or float in [0, 1], which `write` makes uint8.
    scores: float32 [N, K], averaged over all views of a video.
    classes: class names, K.
    average: 'logits' or 'probabilities': what the scores are.
    step: the weights' step.
    pixels: the pixel recipe, plain data: how a decoder makes the clips.
    frame_template: file names in folders of frames.
    first_frame: number of the first frame there.
  """
  split: str
  names: tuple[str, ...]
  paths: tuple[str, ...]
  labels: np.ndarray
  num_frames: np.ndarray
  frame_indices: np.ndarray
  temporal_attention: np.ndarray
  spatial_attention: np.ndarray
  scores: np.ndarray
  classes: tuple[str, ...]
  average: str = 'logits'
  step: int = 0
  pixels: dict = dataclasses.field(default_factory=dict)
  frame_template: str = '{:05d}.jpg'
  first_frame: int = 1

  def predicted(self) -> np.ndarray:
    """Returns the likeliest class of each video, int [N]."""
    return np.argmax(self.scores, axis=1)

  def probabilities(self, row: int) -> np.ndarray:
    """Returns the probabilities [K] of one video."""
    scores = np.asarray(self.scores[row], np.float64)
    if self.average == 'probabilities':
      return scores
    scores = np.exp(scores - scores.max())
    return scores / scores.sum()

  def class_accuracy(self) -> np.ndarray:
    """Returns the share of right predictions, float [K]; NaN without videos."""
    labels, right = np.asarray(self.labels), self.predicted() == self.labels
    count, hits = (np.bincount(labels[chosen], minlength=len(self.classes))
                   for chosen in (labels >= 0, right & (labels >= 0)))
    return np.where(count > 0, hits / np.maximum(count, 1), np.nan)

  def frame_attention(self, row: int) -> np.ndarray:
    """Returns the temporal attention of each frame of one video.

    Args:
      row: place of the video.

    Returns:
      float64 [num_frames]: the mean over the clips that take a frame; between
      frames that clips take, linear; before the first and after the last,
      theirs.
    """
    indices = np.asarray(self.frame_indices[row]).ravel()
    taken, where, count = np.unique(indices, return_inverse=True,
                                    return_counts=True)
    weights = np.asarray(self.temporal_attention[row], np.float64).ravel()
    means = np.bincount(where.ravel(), weights) / count
    return np.interp(np.arange(self.num_frames[row]), taken, means)

  def frame_maps(self, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spatial attention of one video by frame.

    Args:
      row: place of the video.

    Returns:
      (int [F], the frames that clips take, rising; uint8 [F, h, w], the mean
      over the clips that take a frame, 255 for 1).
    """
    indices = np.asarray(self.frame_indices[row]).ravel()
    taken, where = np.unique(indices, return_inverse=True)
    maps = _as_bytes(self.spatial_attention[row]).astype(np.float64)
    maps = maps.reshape(-1, *maps.shape[2:])
    means = [maps[where.ravel() == k].mean(axis=0) for k in range(len(taken))]
    return taken, np.rint(means).astype(np.uint8)


def weak_classes(splits, below: float = 0.5) -> tuple[int, ...]:
  """Returns the classes that a network gets wrong in every split.

  Args:
    splits: `Collected` of each split.
    below: share of right predictions that a weak class does not reach.

  Returns:
    Class numbers, rising. A split without videos of a class says nothing of
    it.
  """
  accuracy = np.stack([split.class_accuracy() for split in splits])
  known = ~np.isnan(accuracy).all(axis=0)
  weak = (np.isnan(accuracy) | (accuracy < below)).all(axis=0)
  return tuple(int(k) for k in np.flatnonzero(weak & known))


def write(workdir, collected: Collected) -> str:
  """Writes the collected attention of a split, in place of an older one.

  Args:
    workdir: the run's directory.
    collected: what to write.

  Returns:
    The folder, which is there whole or as it was before.

  Raises:
    CollectedError: a field has a wrong shape or range; names it.
  """
  _check(collected)
  arrays = {
      'frame_indices': np.asarray(collected.frame_indices, np.int32),
      'temporal_attention': np.asarray(collected.temporal_attention,
                                       np.float32),
      'spatial_attention': _as_bytes(collected.spatial_attention),
      'scores': np.asarray(collected.scores, np.float32)}
  manifest = {
      'format': _FORMAT, 'split': collected.split,
      **{key: getattr(collected, key) for key in _FACTS},
      'videos': [
          {'id': name, 'path': path, 'label': int(label), 'num_frames': int(n)}
          for name, path, label, n in zip(
              collected.names, collected.paths, collected.labels,
              collected.num_frames, strict=True)]}
  folder = os.path.join(os.fspath(workdir), FOLDER, collected.split)
  part, old = f'{folder}.part{os.getpid()}', f'{folder}.old{os.getpid()}'
  shutil.rmtree(part, ignore_errors=True)
  os.makedirs(part)
  for name, array in arrays.items():
    np.save(os.path.join(part, name + '.npy'), array, allow_pickle=False)
  with open(os.path.join(part, _MANIFEST), 'w', encoding='utf-8') as file:
    json.dump(manifest, file, indent=1)
  if os.path.exists(folder):
    os.rename(folder, old)
  os.rename(part, folder)
  shutil.rmtree(old, ignore_errors=True)
  return folder


def splits(workdir) -> tuple[str, ...]:
  """Returns the splits whose attention a workdir holds, 'train' first."""
  return tuple(split for split in ('train', 'eval') if os.path.exists(
      os.path.join(os.fspath(workdir), FOLDER, split, _MANIFEST)))


def read(workdir, split: str) -> Collected:
  """Reads what `write` wrote; the arrays stay on disk until they are used.

  Args:
    workdir: the run's directory.
    split: 'train' or 'eval'.

  Returns:
    The collected attention.

  Raises:
    CollectedError: it is missing or damaged; names the file.
  """
  folder = os.path.join(os.fspath(workdir), FOLDER, split)
  path = os.path.join(folder, _MANIFEST)
  try:
    with open(path, encoding='utf-8') as file:
      manifest = json.load(file)
    if manifest['format'] != _FORMAT:
      raise CollectedError(f'{path} has format {manifest["format"]!r}; this '
                           f'version reads {_FORMAT}. Collect it again.')
    videos = manifest['videos']
    collected = Collected(
        split=split,
        names=tuple(v['id'] for v in videos),
        paths=tuple(v['path'] for v in videos),
        labels=np.asarray([v['label'] for v in videos], np.int32),
        num_frames=np.asarray([v['num_frames'] for v in videos], np.int32),
        **{key: manifest[key] for key in _FACTS if key != 'classes'},
        classes=tuple(manifest['classes']),
        **{name: np.load(os.path.join(folder, name + '.npy'), mmap_mode='r',
                         allow_pickle=False) for name in _ARRAYS})
  except FileNotFoundError as error:
    raise CollectedError(
        f'{error.filename} is missing; collect the attention of the {split} '
        'split first (main.py --mode=evaluate).') from None
  except CollectedError:
    raise
  except (KeyError, TypeError, ValueError, OSError) as error:
    raise CollectedError(f'{folder} is damaged ({str(error)[:80]}); collect '
                         'it again.') from None
  _check(collected, folder + ': ')
  return collected


def _as_bytes(maps):
  """Returns uint8, 255 for 1, of uint8 or of floats in [0, 1]."""
  maps = np.asarray(maps)
  return maps if maps.dtype == np.uint8 else np.rint(
      255 * maps.astype(np.float32)).astype(np.uint8)


def _check(c: Collected, where=''):
  """Raises an error that names the field that does not fit."""

  def demand(holds, sentence):
    if not holds:
      raise CollectedError(f'{where}{sentence}')

  demand(c.split in ('train', 'eval'),
         f"split is {c.split!r}; it must be 'train' or 'eval'.")
  demand(c.average in ('logits', 'probabilities'),
         f"average is {c.average!r}; it must be 'logits' or 'probabilities'.")
  count = len(c.names)
  demand(len(set(c.names)) == count, 'names has the same video twice.')
  shape = np.shape(c.frame_indices)
  demand(len(shape) == 3, f'frame_indices has the shape {shape}; it must be '
         '[N, clips, T].')
  spatial = np.shape(c.spatial_attention)
  wanted = {'paths': (count,), 'labels': (count,), 'num_frames': (count,),
            'frame_indices': (count, *shape[1:]),
            'temporal_attention': (count, *shape[1:]),
            'spatial_attention': (count, *shape[1:], *spatial[-2:]),
            'scores': (count, len(c.classes))}
  for name, right in wanted.items():
    have = np.shape(getattr(c, name))
    demand(have == right, f'{name} has the shape {have}, not {right}.')
  if not count:
    return
  demand(np.min(c.num_frames) >= 1, 'num_frames has a video without frames.')
  outside = ((np.min(c.frame_indices, axis=(1, 2)) < 0)
             | (np.max(c.frame_indices, axis=(1, 2)) >= c.num_frames))
  demand(not outside.any(), 'frame_indices has frames that '
         f'{c.names[np.argmax(outside)]} does not have.')
  # Of the maps only those that are still to be written: the file is large.
  named = [('temporal_attention', c.temporal_attention)]
  if c.spatial_attention.dtype != np.uint8:
    named.append(('spatial_attention', c.spatial_attention))
  for name, values in named:
    # A comparison that a NaN fails.
    demand(bool(np.min(values) >= 0 and np.max(values) <= 1),
           f'{name} has values outside 0 to 1.')
  demand(np.isfinite(c.scores).all(), 'scores has values that are no numbers.')
  labels = np.asarray(c.labels)
  demand(labels.min() >= -1 and labels.max() < len(c.classes),
         f'labels has values outside the {len(c.classes)} classes.')
