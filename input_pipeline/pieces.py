"""Pieces of untrimmed videos: windows of S-CNN and buffers of R-C3D.

In training each piece is decoded by itself, in evaluation videos stream by, in
memory that does not grow with their length.
"""

import collections
import queue
import threading

from absl import logging
import numpy as np

from input_pipeline import batches
from input_pipeline import containers
from input_pipeline import decode
from input_pipeline import labels
from input_pipeline import resizing
from input_pipeline import timing
from input_pipeline import transforms
from input_pipeline import untrimmed

# Places tried for a window that moves at random and must still overlap enough.
_TRIES = 8


def train_batches(dataset, config, pieces, *, start_step=0, num_steps,
                  shard_index=0, shard_count=1):
  """Iterates over this process's share of the training batches.

  Args:
    dataset: `untrimmed.UntrimmedSet`.
    config: the whole configuration.
    pieces: `Windows` or `Buffers` of the set.
    start_step: step of the first batch.
    num_steps: number of batches.
    shard_index: number of this process.
    shard_count: processes that share each batch.

  Returns:
    iterator, to be closed or run to its end, of dicts with b = batch_size //
    shard_count rows: video uint8 [b, T, H, W, 3], mask float32 [b], index int32
    [b] (position in `dataset.records`) and what `pieces` adds. A video that
    cannot be decoded any more keeps its slot: grey frames and mask 0.
  """
  transforms.check_train(config)
  return batches.endless(
      len(pieces), _TrainPiece(dataset, config, pieces), config,
      start_step, num_steps, shard_index, shard_count)


class _TrainPiece:
  """Makes the slot of a training batch from (number of a piece, generator)."""

  def __init__(self, dataset, config, pieces):
    self._pieces = pieces
    self._records = dataset.records
    self._frames = batches.Frames(dataset, config.data, config.data.resize,
                                  config.data.resampler, training=True)
    self._data = config.data
    self._num_frames = config.model.num_frames
    self._crop_size = tuple(config.model.crop_size)
    self._flipped = labels.flips(config.data.flip_pairs, dataset.classes)

  def __call__(self, number, rng):
    index, start, length, more = self._pieces.draw(number, rng)
    indices = np.minimum(places(start, length, self._num_frames),
                         self._records[index].num_frames - 1)
    mask, classes = 1, np.arange(len(self._flipped))
    try:
      # Classes in the place of a label: what a flip makes of each.
      video, classes = transforms.train_clip(
          rng, self._frames.read(index, indices), classes, self._data,
          self._crop_size, self._flipped)
    except decode.VideoError as error:
      logging.warning('Masked in training: %s', error)
      video = batches.grey((self._num_frames, *self._crop_size, 3),
                           self._data.transfer)
      mask = 0
    return {**batches.video_arrays(video), 'mask': np.float32(mask),
            'index': np.int32(index), **self._pieces.targets(more, classes)}


def places(start, length, count):
  """Returns the frames taken evenly from a piece, int [count]."""
  return start + np.arange(count) * length // count


class Windows:
  """Training windows of S-CNN.

  Windows that overlap an action enough are all taken, once in a pass; as many
  as asked of others are drawn in each pass, anew.
  """

  def __init__(self, dataset, config, lay):
    """Sorts the windows of all videos.

    Args:
      dataset: `untrimmed.UntrimmedSet`.
      config: the whole configuration.
      lay: function of a number of frames that returns the first frames, from 0,
        and the lengths of windows, int [W] both.

    Raises:
      ValueError: no window overlaps an action enough, or none is background.
    """
    keys = config.detection
    self._records = dataset.records
    self._shift = keys.shift * (1 - keys.window_overlap)
    self._least = keys.action_above
    self._near_share = keys.near_background
    found, missed = {'action': [], 'near': [], 'far': []}, []
    for number, video in enumerate(dataset.records):
      starts, lengths = lay(video.num_frames)
      overlap = _overlaps(starts, lengths, video.segments, video.rate)
      unsure = _overlaps(starts, lengths, video.truth['ambiguous'], video.rate)
      missed += [video.name] * int(
          (overlap.max(0, initial=0) <= keys.action_above).sum())
      best = overlap.max(1, initial=0)
      which = overlap.argmax(1) if overlap.shape[1] else np.zeros(
          len(starts), int)
      rows = np.stack([np.full(len(starts), number), starts, lengths, which], 1)
      background = (best < keys.background_below) & ~(unsure > 0).any(1)
      # A piece of a video that is trimmed to its action shows the action.
      if any(start * video.rate < 1 and (
          end * video.rate > video.num_frames - 1)
             for start, end, _ in video.segments):
        background[:] = False
      for kind, chosen in (('action', best > keys.action_above),
                           ('near', background & (best > 0)),
                           ('far', background & (best == 0))):
        found[kind].append(rows[chosen])
    self._rows = {kind: np.concatenate(rows) for kind, rows in found.items()}
    counts = {kind: len(rows) for kind, rows in self._rows.items()}
    if not counts['action']:
      raise ValueError(
          'no window of detection.windows overlaps an action by more than '
          f'detection.action_above={keys.action_above:g}; choose lengths such '
          'as actions have')
    self.notes = _notes('segments that no window of detection.windows overlaps '
                        'enough, not trained on', missed)
    self._background = round(keys.background * counts['action'])
    if self._background and not counts['near'] + counts['far']:
      raise ValueError(
          'no window overlaps actions by less than detection.background_below='
          f'{keys.background_below:g}, so that none is background')

  def __len__(self):
    return len(self._rows['action']) + self._background

  def draw(self, number, rng):
    """Returns (video, first frame, length, (class, overlap)) of a piece.

    Class 0 is background, those of actions count from 1.
    """
    actions = self._rows['action']
    if number >= len(actions):
      kind = 'near' if rng.random() < self._near_share else 'far'
      if not len(self._rows[kind]):
        kind = 'far' if kind == 'near' else 'near'
      rows = self._rows[kind]
      video, start, length, _ = rows[rng.integers(len(rows))].tolist()
      return video, start, length, (0, 0.0)
    video, start, length, which = actions[number].tolist()
    record = self._records[video]
    segment = [record.segments[which]]
    # The first is where it is if no other one is good; it is, by choice.
    starts = np.asarray([start] * (_TRIES + 1))
    most = round(self._shift * length)
    if most:
      starts[1:] = np.clip(starts[1:] + rng.integers(-most, most + 1, _TRIES),
                           0, record.num_frames - length)
    overlaps = _overlaps(starts, np.full(len(starts), length), segment,
                         record.rate)[:, 0]
    good = 1 + np.flatnonzero(overlaps[1:] > self._least)
    chosen = int(good[0]) if most and len(good) else 0
    return video, int(starts[chosen]), length, (segment[0][2] + 1,
                                                float(overlaps[chosen]))

  def targets(self, more, classes):
    """Returns the arrays of a slot; `classes` are those after a flip."""
    label, overlap = more
    return {'label': np.int32(classes[label - 1] + 1 if label else 0),
            'overlap': np.float32(overlap)}


class Buffers:
  """Training buffers of R-C3D: those with an action, and some of the others."""

  def __init__(self, dataset, config, lay):
    """Lays buffers over all videos.

    Args:
      dataset: `untrimmed.UntrimmedSet`.
      config: the whole configuration.
      lay: function of a number of frames that returns the first frames of
        buffers, from 0, and their lengths.

    Raises:
      ValueError: no buffer has an action, or one has more than fit.
    """
    keys = config.detection
    self._keys = keys
    self._records = dataset.records
    self._length = config.model.num_frames
    self._shift = round(keys.shift * keys.buffer_step)
    rows, empty, missed = [], [], []
    for number, video in enumerate(dataset.records):
      taken = set()
      for start in lay(video.num_frames)[0].tolist():
        # Those that a shift may bring in count, too.
        count = len(self._inside(video, start - self._shift,
                                 self._length + 2 * self._shift))
        if count > keys.max_segments:
          raise ValueError(
              f'{video.name} has {count} segments in the buffer from frame '
              f'{start} on, more than detection.max_segments='
              f'{keys.max_segments}; raise it')
        inside = self._inside(video, start, self._length)
        (rows if len(inside) else empty).append((number, start))
        taken.update(inside[:, 3].astype(int).tolist())
      missed += [video.name] * (len(video.segments) - len(taken))
    if not rows:
      raise ValueError(
          f'no buffer of {self._length} frames has an action of which '
          f'{keys.least_frames} frames and {keys.least_inside:.0%} are inside; '
          'raise model.num_frames')
    self.notes = _notes('segments too long for a buffer of model.num_frames, '
                        'not trained on', missed)
    self._rows, self._empty = rows, empty
    self._extra = round(keys.empty_buffers * len(rows)) if empty else 0

  def __len__(self):
    return len(self._rows) + self._extra

  def draw(self, number, rng):
    """Returns (video, first frame, length, segments [n, 3]) of a piece."""
    if number < len(self._rows):
      video, start = self._rows[number]
    else:
      video, start = self._empty[rng.integers(len(self._empty))]
    record = self._records[video]
    if self._shift:
      moved = int(np.clip(
          start + rng.integers(-self._shift, self._shift + 1), 0,
          max(record.num_frames - self._length, 0)))
      # One with an action keeps one.
      if number >= len(self._rows) or len(
          self._inside(record, moved, self._length)):
        start = moved
    return video, start, self._length, self._inside(
        record, start, self._length)[:, :3]

  def targets(self, more, classes):
    """Returns the array of a slot, padded to a fixed size with -1."""
    segments = np.full((self._keys.max_segments, 3), -1, np.float32)
    segments[:len(more)] = more
    segments[:len(more), 2] = classes[more[:, 2].astype(int)]
    return {'segments': segments}

  def _inside(self, video, start, length):
    """Returns what is inside, [n, 4], cut at the ends of the buffer.

    (First frame, last frame, class, number of the segment), in its frames.
    """
    rows = []
    for number, (begin, end, label) in enumerate(video.segments):
      first = round(begin * video.rate) - start
      last = max(round(end * video.rate) - 1 - start, first)
      cut = max(first, 0), min(last, length - 1)
      frames = cut[1] - cut[0] + 1
      if frames >= max(self._keys.least_frames,
                       self._keys.least_inside * (last - first + 1)):
        rows.append((*cut, label, number))
    return np.asarray(rows, float).reshape(-1, 4)


def _notes(what, names):
  """Returns, and logs, a tuple of one sentence that counts and names, or ()."""
  if not names:
    return ()
  sentence = untrimmed.count_and_name(what, names)
  logging.warning(sentence)
  return (sentence,)


def _overlaps(starts, lengths, segments, rate):
  """Returns how windows, in frames, overlap segments, in seconds, [W, G]."""
  windows = np.stack([starts, np.add(starts, lengths)], -1)[:, None]
  segments = rate * np.asarray([row[:2] for row in segments], float).reshape(
      -1, 2)
  shared = np.maximum(np.minimum(windows[..., 1], segments[:, 1])
                      - np.maximum(windows[..., 0], segments[:, 0]), 0)
  both = np.ptp(windows, -1) + np.ptp(segments, -1) - shared
  return shared / np.maximum(both, 1e-9)


def eval_batches(dataset, config, recipe, lay, *, shard_index=0,
                 shard_count=1):
  """Iterates once over all pieces of all videos.

  Every process takes every `shard_count`-th video, and makes as many steps as
  the others.

  Args:
    dataset: `untrimmed.UntrimmedSet`.
    config: the whole configuration.
    recipe: what `transforms.pixel_recipe` returned.
    lay: see `Windows` and `Buffers`.
    shard_index: number of this process.
    shard_count: processes that share each batch.

  Returns:
    iterator, to be closed or run to its end, of dicts with b = eval.batch_size
    // shard_count rows: video uint8 [b, T, H, W, 3], index int32 [b] (position
    in `dataset.records`, -1 for what fills a batch up), start and length int32
    [b] (frames), rate float32 [b] and mask float32 [b]; 0 where a video could
    not be decoded.
  """
  rows = len(batches.rows_of(config.eval.batch_size, 'eval.batch_size',
                             shard_index, shard_count))
  laid = [lay(video.num_frames) for video in dataset.records]
  _notes('videos shorter than any window, so that nothing is found in them', [
      video.name for video, (starts, _) in zip(
          dataset.records, laid, strict=True) if not len(starts)])
  steps = max(-(-sum(len(starts) for starts, _ in laid[shard::shard_count])
                // rows) for shard in range(shard_count))
  mine = range(shard_index, len(laid), shard_count)
  slots = (one for index in mine
           for one in _slots(dataset.records[index], index, recipe,
                              *laid[index], config.data))
  return _prefetched(batched(slots, rows, recipe, steps), config.data.prefetch)


def batched(slots, rows, recipe, steps=None):
  """Makes batches of slots, the last of them filled up with index -1.

  Args:
    slots: iterable of dicts.
    rows: slots of a batch.
    recipe: what `transforms.pixel_recipe` returned.
    steps: batches at least; None for as many as there are slots for.

  Yields:
    dicts of arrays.
  """
  empty = slot(batches.grey((recipe['num_frames'], *recipe['crop_size'], 3)),
                -1, 0, 1, 1.0, 0)
  batch, made = [], 0
  for one in slots:
    batch.append(one)
    if len(batch) == rows:
      yield _stack(batch)
      batch, made = [], made + 1
  while batch or made < (steps or 0):
    yield _stack(batch + [empty] * (rows - len(batch)))
    batch, made = [], made + 1


def _stack(slots):
  return {key: np.stack([one[key] for one in slots]) for key in slots[0]}


def slot(video, index, start, length, rate, mask):
  """Returns the row of a batch of evaluation, see `eval_batches`."""
  return {'video': video, 'index': np.int32(index), 'start': np.int32(start),
          'length': np.int32(length), 'rate': np.float32(rate),
          'mask': np.float32(mask)}


def _slots(video, index, recipe, starts, lengths, data):
  """Yields a slot for each piece of a video, whatever becomes of it."""
  done = 0
  try:
    for number, frames in cut(
        seen_frames(video.path, video.entry, recipe,
                    containers.limits_of(data), data.frame_template,
                    data.first_frame),
        starts, lengths, recipe['num_frames']):
      yield slot(frames, index, starts[number], lengths[number], video.rate, 1)
      done += 1
  except decode.VideoError as error:
    logging.warning('Masked in evaluation: %s', error)
  shape = recipe['num_frames'], *recipe['crop_size'], 3
  for _ in range(len(starts) - done):
    yield slot(batches.grey(shape), index, 0, 1, video.rate, 0)


def seen_frames(path, entry, recipe, limits=containers.LIMITS,
                template='{:05d}.jpg', first_frame=1, look=None):
  """Yields the frames of a video as a network sees them, one after the other.

  Args:
    path: the video.
    entry: `decode.IndexEntry`.
    recipe: what `transforms.pixel_recipe` returned.
    limits: `containers.Limits`.
    template: file name by frame number, for folders of frames.
    first_frame: number of the first frame in those names.
    look: function of (number, uint8 [H, W, 3]), called with every frame as it
      leaves the decoder.

  Yields:
    uint8 [*crop_size, 3].

  Raises:
    decode.VideoError: when damage is reached.
  """
  numbers = timing.renumber(entry, recipe)[1]
  resampler = resizing.of_recipe(recipe)
  if entry.codec == 'folder':
    frames = (decode.decode_folder(path, [i], template, first_frame, limits)[0]
              for i in range(entry.num_frames))
  else:
    frames = decode.iterate(path, recipe['rotate'], limits)
  ordinal, seen = -1, None
  for number, wanted in enumerate(numbers.tolist()):
    while ordinal < wanted:
      frame = next(frames, None)
      if frame is None:  # a header promised more
        return
      ordinal, seen = ordinal + 1, None
    if look:
      look(number, frame)
    if seen is None:
      seen = transforms.center_crop(
          resizing.resize(frame[None], recipe['resize'], resampler),
          recipe['crop_size'])[0]
    yield seen


def cut(frames, starts, lengths, count):
  """Cuts pieces out of frames that come one after the other.

  No more frames are kept than the longest piece has.

  Args:
    frames: iterable of uint8 [H, W, 3].
    starts: int [P], first frames of the pieces, from 0.
    lengths: int [P].
    count: frames taken evenly from each.

  Yields:
    (number of the piece, uint8 [count, H, W, 3]), in the order of their ends.
    If the frames end before a piece does, the last one stays.
  """
  starts, lengths = np.asarray(starts), np.asarray(lengths)
  order = np.argsort(starts + lengths, kind='stable').tolist()
  # The first frame that this piece, or a later one, needs.
  needed = np.minimum.accumulate(starts[order][::-1])[::-1].tolist()
  kept, base = collections.deque(), 0

  def take(piece):
    wanted = places(starts[piece], lengths[piece], count) - base
    return piece, np.stack([kept[min(i, len(kept) - 1)] for i in wanted])

  place = 0
  for number, frame in enumerate(frames):
    kept.append(frame)
    while place < len(order) and (
        starts[order[place]] + lengths[order[place]] - 1 <= number):
      yield take(order[place])
      place += 1
    if place == len(order):
      return
    while base < needed[place] and kept:
      kept.popleft()
      base += 1
  for piece in order[place:]:
    if kept and starts[piece] < base + len(kept):
      yield take(piece)


def _prefetched(items, count):
  """Yields items that another thread makes ahead of time."""
  made, closed, end = queue.Queue(max(count, 1)), threading.Event(), object()

  def put(item):
    while not closed.is_set():
      try:
        return made.put(item, timeout=0.1)
      except queue.Full:
        pass

  def work():
    try:
      for item in items:
        put((item, None))
        if closed.is_set():
          return
      put((end, None))
    except Exception as error:  # It is raised where the items are used.
      put((end, error))

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  try:
    while True:
      item, error = made.get()
      if error:
        raise error
      if item is end:
        return
      yield item
  finally:
    closed.set()
    thread.join()
