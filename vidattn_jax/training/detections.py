"""Networks that find segments: from pieces of videos to detections, judged."""

from collections.abc import Mapping
import dataclasses
import json

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from vidattn_jax.detection import evaluation
from vidattn_jax.detection import segments as segments_lib
from vidattn_jax.detection import windows
from vidattn_jax.models import scnn
from vidattn_jax.ops import per_device
from vidattn_jax.training import sharding
from vidattn_jax.training import state

_FIELDS = ('video', 'start', 'end', 'label', 'score')
# Of a piece of a video, what `Finder` takes beside its pixels.
PLACE = ('index', 'start', 'length', 'rate', 'mask')


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How detections are judged; see `evaluation.evaluate`.

  Attributes:
    rule: name of the rule.
    thresholds: overlaps.
    main: the overlap whose figure is the main one.
    nms_margin: margin of the suppression before; None for none.
    videos: names of those that count; None for all.
    count_ambiguous: what touches ambiguous segments is judged as the rest.
  """
  rule: str
  thresholds: tuple
  main: float
  nms_margin: float | None
  videos: tuple | None = None
  count_ambiguous: bool = False


def protocol_of(config, truth=None) -> Protocol:
  """Reads how a configuration judges.

  Args:
    config: the run's configuration.
    truth: {video: truth} of the evaluation videos; None if it is not known.

  Returns:
    The protocol.

  Raises:
    ValueError: values that cannot be, or not so many videos.
  """
  keys = config.eval
  thresholds = tuple(map(float, keys.thresholds))
  if keys.main_threshold not in thresholds:
    raise ValueError(f'config.eval.main_threshold is {keys.main_threshold:g}; '
                     'choose one of config.eval.thresholds, '
                     f'{", ".join(f"{t:g}" for t in thresholds)}.')
  if keys.rule not in evaluation.RULES:
    raise ValueError(f'config.eval.rule is {keys.rule!r}; choose '
                     f'{" or ".join(evaluation.RULES)}.')
  videos = None
  if keys.thumos14_videos and truth is not None:
    videos = evaluation.thumos14_videos(truth, keys.thumos14_videos)
  return Protocol(keys.rule, thresholds, float(keys.main_threshold),
                  None if keys.nms_margin < 0 else float(keys.nms_margin),
                  videos, bool(keys.count_ambiguous))


def check(config):
  """Raises a ValueError if a configuration cannot train a detector."""
  name = config.model.name
  if not config.detection.annotations:
    raise ValueError(f'config.model.name is {name}, which finds segments; set '
                     'config.detection.annotations to where the true ones are.')
  for key, value in (
      ('mixup_alpha', config.mixup_alpha),
      ('cutmix_alpha', config.cutmix_alpha),
      ('label_smoothing', config.label_smoothing),
      ('data.edits', config.data.edits),
      ('data.modality', config.data.modality if (
          config.data.modality != 'rgb') else ''),
      ('schedule.name', config.schedule.name if (
          config.schedule.name == 'plateau') else ''),
      ('eval.collect_attention', config.eval.collect_attention)):
    if value:
      raise ValueError(f'config.{key} is {value!r}, but {name} finds segments, '
                       'which knows no such thing.')
  keys = config.detection
  lengths = list(keys.windows)
  if lengths != sorted(set(lengths)) or min(lengths, default=0) < 1:
    raise ValueError(f'config.detection.windows is {tuple(lengths)}; it must '
                     'be lengths in frames, rising.')
  for key, low, high in (
      ('window_overlap', 0, 0.999), ('action_above', 0, 0.999),
      ('background_below', 0, keys.action_above), ('near_background', 0, 1),
      ('shift', 0, 1), ('least_inside', 0, 1), ('background', 0, 1e6),
      ('background_weight', 0, 1e6), ('empty_buffers', 0, 1e6),
      ('overlap_weight', 0, 1e6), ('buffer_step', 1, 1e9),
      ('least_frames', 1, 1e9), ('max_segments', 1, 1e9)):
    if not low <= keys[key] <= high:
      raise ValueError(f'config.detection.{key} is {keys[key]:g}; it must lie '
                       f'between {low:g} and {high:g}.')
  protocol_of(config)


@dataclasses.dataclass(frozen=True)
class Result:
  """Detections in the evaluation videos.

  Attributes:
    names: names of the videos that were seen whole.
    classes: class names.
    found: dict of arrays `video` (names), `start`, `end` (seconds), `label` and
      `score`, before what `judged` suppresses.
    judged: their figures, `evaluation.Result`; None if no video that was seen
      has a true segment.
    main: the overlap whose figure is the main one.
    unreadable: names of videos that could not be decoded; they do not count.
  """
  names: tuple
  classes: tuple
  found: dict
  judged: evaluation.Result | None
  main: float
  unreadable: tuple = ()

  def summary(self) -> dict:
    """Returns `map` at the main overlap, in [0, 1], `map_T` at every one, and
    the numbers of `videos` and `detections`; of no truth the numbers alone.
    """
    figures = {'videos': len(self.names),
               'detections': len(self.found['score'])}
    if self.judged is None:
      return figures
    means = dict(zip(self.judged.thresholds, self.judged.mean.tolist(),
                     strict=True))
    return {'map': means[self.main], **figures,
            **{f'map_{t:g}': value for t, value in means.items()}}

  def save(self, path):
    """Writes the detections as JSON in the layout of ActivityNet."""
    epath.Path(path).write_text(json.dumps(
        to_activitynet(self.found, self.classes, self.names), indent=1) + '\n')


def to_activitynet(found, classes, names=()) -> dict:
  """Returns detections as ActivityNet has them.

  Args:
    found: dict of arrays, see `Result`.
    classes: class names.
    names: videos that are named even if nothing was found in them.
  """
  results = {str(name): [] for name in names}
  for video, start, end, label, score in zip(
      *(np.asarray(found[key]).tolist() for key in _FIELDS), strict=True):
    results.setdefault(str(video), []).append({
        'label': classes[label], 'score': float(f'{score:.6g}'),
        'segment': [round(start, 3), round(end, 3)]})
  return {'version': 'vidattn', 'results': results}


class Finder:
  """Runs a network on pieces of videos and says what it finds there."""

  def __init__(self, model, recipe: Mapping, dtype, mesh=None):
    """Compiles the network.

    Args:
      model: `models.scnn.SCNN` or `models.rc3d.RC3D`.
      recipe: how videos become pieces, of the checkpoint or the run.
      dtype: type of the network's activations.
      mesh: the mesh; None for one device.
    """
    self._recipe = recipe
    self._mesh = mesh
    self._is_scnn = isinstance(model, scnn.SCNN)
    keys = ('segments', 'labels', 'scores', 'mask')
    mean, std = tuple(recipe['mean']), tuple(recipe['std'])

    def step(variables, video):
      video = state.network_input(model, video, mean, std, jnp.dtype(dtype))
      outputs = model.apply(variables, video, train=False)
      if self._is_scnn:
        return {'action': jax.nn.softmax(outputs['proposal_logits'])[:, 1],
                'chances': jax.nn.softmax(outputs['logits'])}
      return {key: outputs[key] for key in keys}

    if mesh:
      self._step = jax.jit(per_device.on_mesh(mesh, step),
                           out_shardings=sharding.batch_sharding(mesh))
    else:
      self._step = jax.jit(step)

  def __call__(self, variables, batch) -> dict:
    """Finds segments.

    Args:
      variables: the network's.
      batch: `video` uint8 [n, T, H, W, C] and, of each piece, `index` int32 [n]
        (which video), `start` int32 [n] (first frame, from 0), `length` int32
        [n] (frames), `rate` float32 [n] (frames per second) and `mask` float32
        [n], this process's rows.

    Returns:
      Dict of arrays `video` (indices), `start`, `end` (seconds), `label` and
      `score`, of the pieces with mask 1 of all processes.
    """
    video = batch['video']
    if self._mesh is not None:
      video = sharding.to_devices(self._mesh, video)
    outputs = {key: sharding.to_hosts(value)
               for key, value in self._step(variables, video).items()}
    rows = {key: sharding.to_hosts(np.asarray(batch[key])) for key in PLACE}
    kept = rows['mask'] > 0
    return (self._windows if self._is_scnn else _buffers)(
        *({key: value[kept] for key, value in part.items()}
          for part in (outputs, rows)))

  def _windows(self, outputs, rows):
    """Keeps proposals; their scores are those of the windows' classes."""
    rates = rows['rate'].astype(np.float64)
    recipe = self._recipe['detection']
    found = windows.judge(
        outputs['action'], outputs['chances'], rows['start'] + 1,
        rows['length'], recipe['windows'], recipe['least_action'],
        recipe['prior'], 1.0, recipe.get('weigh_action', False))
    row = found.pop('row')
    found['start'], found['end'] = (found[key] / rates[row]
                                    for key in ('start', 'end'))
    return {'video': rows['index'][row], **found}


def _buffers(outputs, rows):
  """Moves what was found in buffers to its place in the video."""
  row, place = np.nonzero(outputs['mask'])
  times = outputs['segments'][row, place].astype(np.float64)
  times = (times + rows['start'][row, None]) / rows['rate'][row, None].astype(
      np.float64)
  return {'video': rows['index'][row], 'start': times[:, 0],
          'end': times[:, 1], 'label': outputs['labels'][row, place],
          'score': outputs['scores'][row, place].astype(np.float64)}


def join(parts) -> dict:
  """Puts what `Finder` found in several batches one behind the other."""
  parts = list(parts)
  if not parts:
    return {key: np.zeros(0, int if key in ('video', 'label') else float)
            for key in _FIELDS}
  return {key: np.concatenate([part[key] for part in parts])
          for key in _FIELDS}


def suppress(found, threshold: float, most: int | None = None) -> dict:
  """Keeps the surest of detections that overlap, class by class and video.

  Args:
    found: dict of arrays, see `Result`; videos are numbers.
    threshold: what overlaps a surer one by more is dropped.
    most: how many are kept at most.

  Returns:
    The dict of those that are left, the surest first.
  """
  segments = np.stack([found['start'], found['end']], -1)
  label = np.asarray(found['label'], int)
  groups = np.asarray(found['video'], int) * (
      int(label.max(initial=0)) + 1) + label
  kept = np.flatnonzero(segments_lib.nms_of_groups(
      segments, found['score'], groups, threshold))
  kept = kept[np.argsort(-found['score'][kept], kind='stable')][:most]
  return {key: found[key][kept] for key in _FIELDS}


def make_evaluator(config, mesh, model):
  """Builds the function that finds segments in a run's evaluation videos.

  Args:
    config: the run's configuration.
    mesh: the mesh.
    model: the network.

  Returns:
    Function (variables, inputs, progress, observe) -> `Result`, the same on
    every process; nothing is observed.
  """
  finders = {}

  def run(variables, inputs, progress=None, observe=None):
    del observe
    if not finders:
      finders[0] = Finder(model, inputs.pixels, config.model.dtype, mesh)
    parts, seen, bad = [], set(), set()
    for batch in inputs.eval_batches():
      parts.append(finders[0](variables, batch))
      index, mask = (sharding.to_hosts(np.asarray(batch[key]))
                     for key in ('index', 'mask'))
      bad.update(index[(mask == 0) & (index >= 0)].tolist())
      new = set(index[index >= 0].tolist()) - seen
      seen |= new
      if progress:
        progress(len(new))
    return _judge(config, inputs, join(parts), bad)

  return run


def _judge(config, inputs, found, bad):
  """Returns the `Result`; videos of the set `bad` are left out."""
  names = inputs.eval_names
  good = ~np.isin(found['video'], list(bad))
  found = {key: value[good] for key, value in found.items()}
  found['video'] = np.asarray(names, str)[found['video']]
  whole = tuple(n for i, n in enumerate(names) if i not in bad)
  truth = {name: inputs.truth[name] for name in whole}
  protocol = protocol_of(config, inputs.truth)
  judged = None
  if any(video.get('segments') for video in truth.values()):
    videos = protocol.videos and [n for n in protocol.videos if n in truth]
    judged = evaluation.evaluate(
        truth, found, inputs.classes, rule=protocol.rule,
        thresholds=protocol.thresholds, videos=videos,
        ambiguous=not protocol.count_ambiguous, nms_margin=protocol.nms_margin)
  return Result(whole, tuple(inputs.classes), found, judged, protocol.main,
                tuple(names[i] for i in sorted(bad)))


def sentence(result: Result) -> str:
  """Lays out the figures of a result, the protocol beside each, and notes."""
  if result.judged is None:
    return 'No video that was seen has a true segment; nothing was judged.'
  return '\n'.join([
      evaluation.table(result.judged, per_class=len(result.classes) <= 30),
      *(f'  noted: {note}' for note in result.judged.notes)])

