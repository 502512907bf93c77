"""Batches of clips on grain: the step is the only state of the stream.

Every draw (order, frames, crop, flip) depends on the seed and on the position
in the endless global stream alone. A process takes its block of rows of each
global batch, so the global batches are the same, row for row, for any number of
processes, workers and threads, and a restart from any step is exact.
"""

from absl import flags
from absl import logging
import grain
import numpy as np

from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import labels
from input_pipeline import resizing
from input_pipeline import sampling
from input_pipeline import stacks
from input_pipeline import stored_flow
from input_pipeline import timing
from input_pipeline import transforms
from input_pipeline import yuv

# Grey level of a slot whose video could not be decoded.
_GREY = 128
# Bytes of frames in their own size that are held while a video is resized to be
# kept.
_CACHED_BYTES = 1 << 28


def steps_per_epoch(dataset, config):
  """Returns the steps of one pass over the training set, at least 1.

  Args:
    dataset: `sources.Dataset`.
    config: the whole configuration.
  """
  return max(len(dataset.records) // config.batch_size, 1)


def train_batches(dataset, config, *, start_step=0, num_steps, shard_index=0,
                  shard_count=1, annotate=None):
  """Iterates over this process's share of the training batches.

  The stream repeats the reshuffled records without end, so that a batch may
  span two passes. A video that cannot be decoded any more keeps its slot: grey
  frames and mask 0.

  Args:
    dataset: `sources.Dataset` of labelled records.
    config: the whole configuration.
    start_step: step of the first batch.
    num_steps: number of batches.
    shard_index: number of this process.
    shard_count: processes that share each batch.
    annotate: function of a record's name and the frames of a clip, int [T],
      that returns a dict of more arrays for its slot; worker processes must be
      able to take it.

  Returns:
    iterator, to be closed or run to its end, of dicts with b = batch_size //
    shard_count rows: video uint8 [b, *clip] (see `stacks.clip_shape`; [b,
    T, H, W, 3] of RGB), label int32 [b] (or [b, heads] or [b, K], see
    `labels`), mask float32 [b] (1, or 0 for a slot without video), index int32
    [b] (position in `dataset.records`), and what `annotate` adds. With
    `data.transfer='yuv'` the clips are what `video_arrays` makes of planes.

  Raises:
    ValueError: keys that cannot be, or unlabelled records.
  """
  transforms.check_train(config)
  unlabelled = [r.name for r in dataset.records if r.label is None or (
      not dataset.multi and -1 in np.atleast_1d(r.label))]
  if unlabelled:
    raise ValueError(f'{unlabelled[0]} has no label and cannot be trained on')
  return endless(len(dataset.records), TrainClip(dataset, config, annotate),
                 config, start_step, num_steps, shard_index, shard_count)


def endless(count, load, config, start_step, num_steps, shard_index=0,
            shard_count=1):
  """Iterates over this process's share of reshuffled passes without end.

  Args:
    count: number of the pass's items.
    load: function of (number of an item, `np.random.Generator`) that returns
      the arrays of a slot; worker processes must be able to take it.
    config: the whole configuration.
    start_step: see `train_batches`; and the others.
    num_steps: number of batches.
    shard_index: number of this process.
    shard_count: processes that share each batch.
  """
  rows = rows_of(config.batch_size, 'batch_size', shard_index, shard_count)
  stream = (grain.MapDataset.range(count).seed(config.seed)
            .shuffle().repeat().random_map(load))
  shard = _Shard(stream, start_step, num_steps, config.batch_size, rows)
  return _iterate(shard.batch(len(rows)), config.data)


def eval_batches(dataset, config, *, shard_index=0, shard_count=1):
  """Iterates once over this process's share of all videos, in order.

  Rows are padded to full batches, so that every process makes the same number
  of steps; padding repeats records with mask 0. A video that cannot be decoded
  any more has mask 0 as well: its index then appears with no mask 1.

  Args:
    dataset: `sources.Dataset`.
    config: the whole configuration.
    shard_index: number of this process.
    shard_count: processes that share each batch.

  Returns:
    iterator, to be closed or run to its end, of dicts with b = eval.batch_size
    // shard_count rows: video uint8 [b, V, *clip] (see
    `transforms.views_from_recipe`), label int32 [b] (-1 if unlabelled), mask
    float32 [b], index int32 [b] (position in `dataset.records`). Where a video
    gives all its clips, they may be parted into several rows, and there are
    clips int32 [b], how many of a row's clips count (the others fill it up),
    and all_clips int32 [b], the clips of the video.

  Raises:
    ValueError: keys that cannot be.
  """
  batch_size = config.eval.batch_size
  rows = rows_of(batch_size, 'eval.batch_size', shard_index, shard_count)
  load = _EvalViews(dataset, config, transforms.pixel_recipe(config))
  stream = grain.MapDataset.range(len(load)).repeat().map_with_index(load)
  steps = -(-len(load) // batch_size)
  shard = _Shard(stream, 0, steps, batch_size, rows)
  return _iterate(shard.batch(len(rows)), config.data)


def rows_of(batch_size, key, shard_index, shard_count):
  """Returns the rows of a global batch that belong to a process."""
  if batch_size < 1 or batch_size % shard_count:
    raise ValueError(f'{key}={batch_size} must be a positive multiple of the '
                     f'{shard_count} processes')
  share = batch_size // shard_count
  return range(shard_index * share, (shard_index + 1) * share)


class _Shard(grain.MapDataset):
  """The rows of each global batch that belong to one process."""

  def __init__(self, parent, start_step, num_steps, batch_size, rows):
    super().__init__(parent)
    self._start_step = start_step
    self._num_steps = num_steps
    self._batch_size = batch_size
    self._rows = rows

  def __len__(self):
    return self._num_steps * len(self._rows)

  def __getitem__(self, index):
    step, row = divmod(index, len(self._rows))
    position = (self._start_step + step) * self._batch_size + self._rows[row]
    return self._parent[position]


def _iterate(batches, data):
  """Runs a MapDataset of batches in threads or worker processes."""
  # Buffers count batches here; grain's default of 500 would fill the memory.
  # Each thread makes whole batches.
  buffer = max(data.prefetch, data.threads, 1)
  dataset = batches.to_iter_dataset(grain.ReadOptions(
      num_threads=max(data.threads, 1), prefetch_buffer_size=buffer))
  if data.workers:
    # The workers inherit absl's flags, which a notebook never parses.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(
        num_workers=data.workers,
        per_worker_buffer_size=max(data.prefetch // data.workers, 1)))
  return _closing(dataset)


def _closing(dataset):
  """Yields batches and releases threads, processes and shared memory after."""
  iterator = iter(dataset)
  try:
    yield from iterator
  finally:
    close = getattr(iterator, 'close', None)
    if close:
      close()


class Frames:
  """Reads resized frames, or fields of stored flow, of records.

  From memory if they are kept there. For training they may be `yuv.Planes`.
  """

  def __init__(self, dataset, data, size, resampler, training=False):
    self._records = dataset.records
    self._data = data
    self._size = size
    self._resampler = resampler
    self._flow_root = data.flow_root if data.modality == 'flow' else ''
    self._planes = training and data.transfer == 'yuv'
    self._kept = {} if data.cache_frames else None

  def read(self, index, frame_indices):
    """Returns frames of record `index`, [n, h, w, C], resized."""
    if self._kept is None:
      return self._decode(index, frame_indices)
    if index not in self._kept:
      self._kept[index] = self._decode_all(index)
    return self._kept[index][frame_indices]

  def _decode_all(self, index):
    """Returns all frames, resized; not too many at a time in their own size."""
    record = self._records[index]
    count = record.num_frames - bool(self._flow_root)
    size = 3 * record.entry.height * record.entry.width
    step = max(_CACHED_BYTES // max(size, 1), 1)
    parts = [self._decode(index, range(i, min(i + step, count)))
             for i in range(0, count, step)]
    if not self._planes:
      return np.concatenate(parts)
    try:
      return yuv.concatenated(parts)
    except ValueError as error:
      raise decode.VideoError(record.path, str(error)) from None

  def _decode(self, index, frame_indices):
    return resizing.resize(self.decode(index, frame_indices), self._size,
                           self._resampler)

  def decode(self, index, frame_indices):
    """Returns frames of record `index` in their own size."""
    record = self._records[index]
    if self._flow_root:
      return stored_flow.read(
          stored_flow.locate(self._flow_root, record.video or record.name),
          [record.start + i for i in frame_indices])
    return read_frames(record, frame_indices, self._data, self._planes)


class TrainClip:
  """Makes the slot of a training batch from (record index, generator)."""

  def __init__(self, dataset, config, annotate=None):
    """Takes what `train_batches` takes."""
    self._annotate = annotate
    self._dataset = dataset
    self._records = dataset.records
    self._frames = Frames(dataset, config.data, config.data.resize,
                          config.data.resampler, training=True)
    self._data = config.data
    self._flow = stacks.flow_recipe(config.data)
    self._num_frames = config.model.num_frames
    self._crop_size = tuple(config.model.crop_size)
    self._flipped = labels.flips(config.data.flip_pairs, dataset.classes)

  def frames(self, index, rng):
    """Returns the frames of a slot as they leave the decoder."""
    return self._frames.decode(index, self._draw(self._records[index], rng)[1])

  def __call__(self, index, rng):
    record = self._records[index]
    places, indices = self._draw(record, rng)
    label, mask = _label(self._dataset, index), 1
    try:
      video, label = transforms.train_clip(
          rng, self._frames.read(index, indices), label, self._data,
          self._crop_size, self._flipped)
      video = stacks.stack_fields(self._flow, video)
    except decode.VideoError as error:
      logging.warning('Masked in training: %s', error)
      video = grey(stacks.clip_shape(
          self._flow, self._num_frames, self._crop_size), self._data.transfer)
      mask = 0
    slot = _slot(video, label, mask, index)
    if self._annotate:
      slot |= self._annotate(record.name, places)
    return slot

  def _draw(self, record, rng):
    """Returns the places of a clip in a video, and the frames read there."""
    length, stack = stacks.sampled_length(self._flow, record.num_frames)
    args = rng, length, self._num_frames
    short = self._data.short_clips
    if self._data.sampling == 'dense':
      places = sampling.dense_train(
          *args, span=self._data.dense_span, stack=stack, short=short)
    else:
      places = sampling.segment_train(*args, stack=stack, short=short)
    return places, stacks.frames_of(
        self._flow, places, record.num_frames, short)


class _EvalViews:
  """Makes the slot of an evaluation batch from (position, row)."""

  def __init__(self, dataset, config, recipe):
    self._dataset = dataset
    self._records = dataset.records
    self._frames = Frames(dataset, config.data, recipe['resize'],
                          resizing.of_recipe(recipe))
    self._recipe = recipe
    self._parts = None
    if transforms.is_consecutive(recipe):
      self._parts = [(i, number) for i, record in enumerate(dataset.records)
                     for number in range(len(transforms.recipe_parts(
                         recipe, record.num_frames)))]

  def __len__(self):
    return len(self._records if self._parts is None else self._parts)

  def __call__(self, position, row):
    index, number = (row, 0) if self._parts is None else self._parts[row]
    record = self._records[index]
    label = _label(self._dataset, index)
    recipe = self._recipe
    places, counts = None, {}
    if self._parts is not None:
      parts = transforms.recipe_parts(recipe, record.num_frames)
      places = parts[number]
      counts = {'clips': np.int32(len(places)),
                'all_clips': np.int32(sum(map(len, parts)))}
      places = places[np.arange(recipe['clips']) % len(places)]
    if position < len(self):
      try:
        video = transforms.views_from_recipe(
            recipe, record.num_frames, lambda i: self._frames.read(index, i),
            places)
        return _slot(video, label, 1, index) | counts
      except decode.VideoError as error:
        logging.warning('Masked in evaluation: %s', error)
    views = recipe['crops'] * recipe['clips']
    shape = stacks.clip_shape(
        recipe.get('flow'), recipe['num_frames'], recipe['crop_size'])
    return _slot(grey((views, *shape)), label, 0, index) | counts


def grey(shape, transfer='rgb'):
  """Returns what stands for a video that cannot be decoded.

  Args:
    shape: [..., H, W, C] of the clip.
    transfer: `data.transfer` of a training clip.

  Returns:
    uint8 [..., H, W, C], or `yuv.Planes`.
  """
  if transfer == 'yuv':
    return yuv.of_pictures(grey(shape))
  return np.full(shape, _GREY, np.uint8)


def video_arrays(video):
  """Returns what goes to the device of a clip, {name: array}.

  Args:
    video: uint8 [..., C], or `yuv.Planes`.

  Returns:
    `video`, uint8; of planes it is Y, [T, H, W, 1], and there are `chroma`, U
    and V, uint8 [T, H / 2, W / 2, 2], and `color`, see `yuv.to_rgb`.
  """
  if isinstance(video, yuv.Planes):
    y, u, v = video.planes
    return {'video': resizing.contiguous(y), 'chroma': np.concatenate(
        [u, v], axis=-1), 'color': yuv.to_rgb(video.color)}
  return {'video': resizing.contiguous(video)}


def _label(dataset, index):
  """Returns the label of a record as an array."""
  return labels.encode(
      dataset.records[index].label, dataset.classes, dataset.multi)


def _slot(video, label, mask, index):
  return {
      **video_arrays(video),
      'label': np.asarray(label, np.int32),
      'mask': np.float32(mask),
      'index': np.int32(index),
  }


def read_frames(record, indices, data, planes=False):
  """Decodes frames of a record.

  Args:
    record: `sources.Record`.
    indices: frame numbers from 0, the record's first.
    data: the section `data` of the configuration.
    planes: leave the frames in YUV.

  Returns:
    uint8 [len(indices), H, W, 3], or `yuv.Planes`, in the video's own size.

  Raises:
    decode.VideoError: the frames cannot be had.
  """
  indices = [record.start + i for i in indices]
  limits = containers.limits_of(data)
  if record.entry.codec == 'folder':
    pictures = decode.decode_folder(
        record.path, indices, data.frame_template, data.first_frame, limits)
    return yuv.of_pictures(pictures) if planes else pictures
  if data.frames_by == 'time':
    indices = timing.grid(
        record.entry, data.frames_by, data.frame_rate)[indices]
  return decode.decode_frames(
      record.path, indices, record.entry, data.rotate, limits, planes)
