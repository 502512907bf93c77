"""Exact evaluation over several views of each video."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import itertools

import jax
import numpy as np

from vidattn_jax.training import heads as heads_lib
from vidattn_jax.training import metrics
from vidattn_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Result:
  """Scores of an evaluation.

  Attributes:
    names: tuple of the videos' names.
    labels: int32 [N]; -1 where unknown. With several heads [N, heads], with
      `multi` [N, K], 1 for the classes of a video.
    scores: float32 [N, K], averaged over all views; those of several heads lie
      side by side, see `heads.join`.
    clip_scores: float32 [N, clips, K], averaged over the crops of a clip.
      Where videos have different numbers of clips, zeros fill it up.
    classes: tuple of class names, or {head: names}.
    unreadable: names of videos that could not be decoded; they are not in
      the other fields.
    average: 'logits' or 'probabilities': what the scores are.
    modality: what the network saw: 'rgb', 'flow', or both, 'flow+rgb'.
    branches: names of branches that were scored alone, too.
    branch_scores: float32 [N, B, K], theirs.
    clip_counts: int32 [N], clips of each video; empty if all have as many.
    num_frames: int32 [N], frames of each video; empty if not known.
    multi: a video has any number of the classes.
  """
  names: tuple
  labels: np.ndarray
  scores: np.ndarray
  clip_scores: np.ndarray
  classes: tuple | dict
  unreadable: tuple = ()
  average: str = 'logits'
  modality: str = 'rgb'
  branches: tuple = ()
  branch_scores: np.ndarray = dataclasses.field(
      default_factory=lambda: np.zeros((0, 0, 0), np.float32))
  clip_counts: np.ndarray = dataclasses.field(
      default_factory=lambda: np.zeros((0,), np.int32))
  num_frames: np.ndarray = dataclasses.field(
      default_factory=lambda: np.zeros((0,), np.int32))
  multi: bool = False

  def heads(self) -> dict:
    """Returns {head: (scores, clip scores, labels, class names)}.

    The head is '' if there is one.
    """
    counts = heads_lib.counts(self.classes)
    parts = [heads_lib.split(x, counts)
             for x in (self.scores, self.clip_scores)]
    several = isinstance(self.classes, Mapping)
    return {head: (*(part[head] for part in parts),
                   self.labels[:, i] if several else self.labels, names)
            for i, (head, names) in enumerate(
                heads_lib.by_head(self.classes).items())}

  def known(self) -> np.ndarray:
    """Tells which videos have labels, of every head: bool [N]."""
    return self.labels >= 0 if self.labels.ndim == 1 else (
        self.labels >= 0).all(-1)

  def probabilities(self) -> np.ndarray:
    """Returns the scores as probabilities, float64 [N, K]."""
    if self.average == 'probabilities':
      return np.asarray(self.scores, np.float64)
    return heads_lib.probabilities(
        self.scores, heads_lib.counts(self.classes), self.multi)

  def summary(self) -> dict:
    """Returns the figures of merit.

    Returns:
      What `metrics.summarize`, `summarize_heads` or `summarize_multi` does, and
      the first figure of each branch, `top1_<branch>` or `map_<branch>`.
    """
    heads = {head: (self._logits(scores), self._logits(clips), labels)
             for head, (scores, clips, labels, _) in self.heads().items()}
    if isinstance(self.classes, Mapping):
      return metrics.summarize_heads(heads, self.clip_counts)
    summarize = metrics.summarize_multi if self.multi else metrics.summarize
    figures = summarize(*heads[''], self.clip_counts)
    key = 'map' if self.multi else 'top1'
    for i, branch in enumerate(self.branches if key in figures else ()):
      scores = self._logits(self.branch_scores[:, i])
      figures[f'{key}_{branch}'] = summarize(
          scores, scores[:, None], self.labels)[key]
    return figures

  def _logits(self, scores):
    """Returns scores whose softmax, or sigmoid, they are or come from."""
    if self.average == 'logits':
      return scores
    scores = np.maximum(np.asarray(scores, np.float64), 1e-30)
    if not self.multi:
      return np.log(scores)
    return np.log(scores) - np.log(np.maximum(1 - scores, 1e-30))

  def save(self, path):
    """Writes all fields to an `.npz` file."""
    heads = heads_lib.by_head(self.classes)
    np.savez_compressed(
        path, names=np.asarray(self.names, str), labels=self.labels,
        scores=self.scores, clip_scores=self.clip_scores,
        classes=np.asarray([n for names in heads.values() for n in names], str),
        heads=np.asarray(list(heads), str),
        head_sizes=np.asarray([len(names) for names in heads.values()]),
        multi=np.asarray(self.multi),
        unreadable=np.asarray(self.unreadable, str),
        average=np.asarray(self.average), modality=np.asarray(self.modality),
        branches=np.asarray(self.branches, str),
        branch_scores=self.branch_scores, clip_counts=self.clip_counts,
        num_frames=self.num_frames)


def load_result(path) -> Result:
  """Reads what `Result.save` wrote.

  Args:
    path: the `.npz` file.

  Returns:
    The result.

  Raises:
    ValueError: the file is missing or is no such file.
  """
  try:
    with np.load(path, allow_pickle=False) as data:
      # Older files do not tell the modality, and have neither branches nor
      # heads.
      fields = {f.name: data[f.name] for f in dataclasses.fields(Result)
                if f.name in data or f.name not in (
                    'modality', 'branches', 'branch_scores', 'clip_counts',
                    'num_frames', 'multi')}
      heads = {str(head): int(size) for head, size in zip(
          data['heads'], data['head_sizes'], strict=True)} if (
              'heads' in data) else {}
  except FileNotFoundError:
    raise ValueError(f'{path} does not exist.') from None
  except (KeyError, ValueError, OSError, EOFError) as error:
    raise ValueError(f'{path} holds no scores of an evaluation '
                     f'({str(error)[:80]}).') from None
  for key in ('names', 'classes', 'unreadable', 'branches'):
    fields[key] = tuple(str(value) for value in fields.get(key, ()))
  for key in ('average', 'modality'):
    fields[key] = str(fields.get(key, 'rgb'))
  if set(heads) - {''}:
    names = iter(fields['classes'])
    fields['classes'] = {head: tuple(itertools.islice(names, size))
                         for head, size in heads.items()}
  fields['multi'] = bool(fields.get('multi', False))
  return Result(**fields)


def check_average(average: str):
  """Raises a ValueError if views cannot be averaged so."""
  if average not in ('logits', 'probabilities'):
    raise ValueError(f'config.eval.average is {average!r}; choose logits or '
                     'probabilities.')


def make_scorer(eval_step, mesh, num_crops: int, views_per_pass: int,
                average: str,
                probabilities: Callable[..., np.ndarray] = metrics.softmax):
  """Builds the function that scores a batch of videos.

  Views go through the network a fixed number at a time, so memory does not
  grow with their number and one program serves all.

  Args:
    eval_step: as `state.make_eval_step` returns it, compiled.
    mesh: the mesh.
    num_crops: crops per clip; views are ordered crop, then clip.
    views_per_pass: most views in one pass on one device.
    average: 'logits' or 'probabilities'.
    probabilities: function of logits [..., K] that returns these.

  Returns:
    Function (variables, views uint8 [n, V, T, H, W, C], this process's part)
    -> clip scores float32 [N, clips, K], or [N, clips, 1 + B, K], see
    `state.make_eval_step`, of the videos of all processes.
  """
  check_average(average)

  def score(variables, views):
    local = max(1, len(views) * jax.process_count() // mesh.shape['data'])
    chunk = min(max(1, views_per_pass // local), views.shape[1])
    total = views.shape[1]
    # The last pass is filled up with views seen before, and cut again below.
    passes = -(-total // chunk)
    views = views[:, np.arange(passes * chunk) % total]
    logits = [eval_step(variables, sharding.to_devices(
        mesh, views[:, start:start + chunk]))
              for start in range(0, total, chunk)]
    logits = np.concatenate(
        [sharding.to_hosts(part) for part in logits], axis=1)
    logits = logits[:, :total]
    if average == 'probabilities':
      logits = probabilities(logits).astype(np.float32)
    shape = (len(logits), num_crops, total // num_crops, *logits.shape[2:])
    return logits.reshape(shape).mean(axis=1)

  return score


def evaluate(variables, batches, score, names, classes, average='logits',
             modality='rgb', progress=None, branches=(),
             observe=None, lengths=(), multi=False) -> Result:
  """Scores every video exactly once.

  Args:
    variables: dict of `params` and `batch_stats`.
    batches: iterable of dicts `video` uint8 [n, V, T, H, W, C], `label` int32
      [n] (or [n, heads], [n, K], see `Result`), `mask` float32 [n] and `index`
      int32 [n], this process's part. Rows with mask 0 are padding (an index
      seen elsewhere) or unreadable videos.
      If a video's clips come in several rows, `clips` int32 [n], how many of a
      row's clips count, and `all_clips` int32 [n], those of the video; a video
      that lacks some is unreadable.
    score: as `make_scorer` returns it.
    names: names of all videos, by index.
    classes: class names, or {head: class names}.
    average: what `score` averages.
    modality: 'rgb' or 'flow'.
    progress: function called with the number of videos after each batch.
    branches: names of the branches that `score` scores, too.
    observe: function called with the variables, the views and the indices of
      each batch, of this process; rows that do not count have index -1.
    lengths: frames of all videos, by index; () if not known.
    multi: see `Result`.

  Returns:
    The result, in the order of `names`, the same on every process.
  """
  found, wanted = {}, {}
  for batch in batches:
    clip_scores = score(variables, batch['video'])
    if observe:
      observe(variables, batch['video'],
              np.where(np.asarray(batch['mask']) > 0, batch['index'], -1))
    rows = {key: np.asarray(batch[key]) for key in (
        'label', 'mask', 'index', 'clips', 'all_clips') if key in batch}
    rows = {key: sharding.to_hosts(value) for key, value in rows.items()}
    seen = len(found)
    for row, index in enumerate(rows['index']):
      if rows['mask'][row] > 0:
        of_video = found.setdefault(int(index), (rows['label'][row], []))
        clips = clip_scores.shape[1]
        if 'clips' in rows:
          clips = rows['clips'][row]
          wanted[int(index)] = rows['all_clips'][row]
        of_video[1].append(clip_scores[row, :clips])
    if progress:
      progress(len(found) - seen)
  found = {i: (label, np.concatenate(parts))
           for i, (label, parts) in found.items()
           if sum(map(len, parts)) >= wanted.get(i, 0)}
  order = sorted(found)
  kinds = (1 + len(branches),) if branches else ()
  num_classes = heads_lib.counts(classes)
  several = isinstance(num_classes, Mapping)
  total = sum(num_classes.values()) if several else num_classes
  shape = (len(order), *((len(num_classes),) if several else
                         (num_classes,) if multi else ()))
  counts = np.asarray([len(found[i][1]) for i in order], np.int32)
  clip_scores = np.zeros((len(order), counts.max(initial=1), *kinds,
                          total), np.float32)
  for row, i in enumerate(order):
    clip_scores[row, :counts[row]] = found[i][1]
  means = clip_scores.sum(axis=1) / counts.reshape(
      -1, *(1,) * (clip_scores.ndim - 2))
  more = {}
  if branches:
    more = {'branches': tuple(branches), 'branch_scores': means[:, 1:]}
    clip_scores, means = clip_scores[:, :, 0], means[:, 0]
  if len(set(counts.tolist())) > 1:
    more['clip_counts'] = counts
  if lengths:
    more['num_frames'] = np.asarray([lengths[i] for i in order], np.int32)
  return Result(
      names=tuple(names[i] for i in order),
      labels=np.asarray([found[i][0] for i in order], np.int32).reshape(shape),
      scores=means.astype(np.float32), clip_scores=clip_scores,
      classes=heads_lib.from_plain(classes), multi=multi,
      unreadable=tuple(n for i, n in enumerate(names) if i not in found),
      average=average, modality=modality, **more)
