"""Find segments in a video, from a checkpoint alone."""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses

import jax
import numpy as np

from vidattn_jax import models
from vidattn_jax.detection import windows
from vidattn_jax.training import checkpoint as checkpoint_lib
from vidattn_jax.training import detections
from vidattn_jax.training import state

# Windows, or buffers, that pass through the network at a time.
_ROWS = {'windows': 16, 'buffers': 1}


@dataclasses.dataclass(frozen=True)
class Detector:
  """A restored network and what it needs to see a video.

  Attributes:
    classes: class names.
    pixels: the recipe of the checkpoint: how a video becomes pieces.
    find: function of a batch of pieces, see `detections.Finder`, that returns
      what is found there.
    threshold: overlap above which a surer detection suppresses another, that of
      the checkpoint's main figure.
    rows: pieces in a batch.
    frame_template: file names in folders of frames.
    first_frame: number of the first frame there.
  """
  classes: tuple
  pixels: dict
  find: Callable[[dict], dict]
  threshold: float
  rows: int
  frame_template: str
  first_frame: int

  def lay(self, num_frames: int):
    """Lays pieces over a video; see `windows.lay`."""
    return windows.lay(num_frames, self.pixels['detection'],
                       self.pixels['num_frames'])


def load_detector(path, which='best', report=print) -> Detector:
  """Restores a checkpoint of a network that finds segments.

  Args:
    path: a workdir or a checkpoint's folder.
    which: 'best', 'latest' or a step.
    report: function that takes a sentence about a damaged checkpoint.

  Returns:
    The detector.

  Raises:
    ValueError: there is no such checkpoint, it is damaged, or of a network
      that classifies clips.
  """
  variables, description, _ = checkpoint_lib.load(path, which, report)
  name = description['model']['name']
  if name not in models.DETECTORS:
    raise ValueError(f'{path} is a checkpoint of {name}, which classifies '
                     'clips; use vidattn predict, there with --window.')
  pixels, config = description['pixels'], description['config']
  finder = detections.Finder(state.build_model(description['model']), pixels,
                             description['model']['dtype'])
  variables = jax.device_put(variables)
  margin = max(config['eval']['nms_margin'], 0.0)
  return Detector(
      tuple(description['classes']), pixels,
      lambda batch: finder(variables, batch),
      round(max(config['eval']['main_threshold'] - margin, 0.0), 9),
      _ROWS[pixels['detection']['kind']], config['data']['frame_template'],
      config['data']['first_frame'])


def detect(detector: Detector, batches: Iterable[dict],
           least_score: float = 0.0, most: int | None = None,
           seconds: float | None = None) -> dict:
  """Finds segments in a video that streams by.

  Args:
    detector: as `load_detector` returns it.
    batches: batches of the video's pieces, whose `index` is 0.
    least_score: detections that are less sure are left out.
    most: how many are returned at most.
    seconds: length of the video, at which segments are cut; None for none. The
      last buffer of a short one reaches past its end.

  Returns:
    Dict of arrays `video` (zeros), `start`, `end` (seconds), `label` and
    `score`, the surest first, after suppression.
  """
  found = []
  for batch in batches:
    part = detector.find(batch)
    sure = part['score'] >= least_score
    found.append({key: value[sure] for key, value in part.items()})
  found = detections.join(found)
  if seconds is not None:
    found['end'] = np.minimum(found['end'], seconds)
    inside = found['start'] < found['end']
    found = {key: value[inside] for key, value in found.items()}
  return detections.suppress(found, detector.threshold, most)
