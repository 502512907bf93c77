"""The attention editor as a web application: a page and what it asks for.

Videos are found by their ids in what was collected, never by paths.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib
import threading
import time

import anyio
import numpy as np
from starlette import applications
from starlette import middleware
from starlette import responses
from starlette import routing

from vidattn_jax.editor import collected as collected_lib
from vidattn_jax.editor import edit as edit_lib
from vidattn_jax.editor import films
from vidattn_jax.editor import guard
from vidattn_jax.editor import store as store_lib

_STATIC = pathlib.Path(__file__).parent / 'static'
_TYPES = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript',
          '.svg': 'image/svg+xml'}
# Videos listed at once.
_MOST = 500
# Requests that may wait for decoding or for the network at once; others, above
# all saves, have threads of their own.
_SLOW = 16
# Seconds for which a video counts as somebody's after the last sign of life.
_LEASE = 600


class _RequestError(ValueError):
  """A request that cannot be answered: status and sentence."""

  def __init__(self, status, sentence):
    super().__init__(sentence)
    self.status = status


class Leases:
  """Who works on which video right now; only a courtesy, kept in memory."""

  def __init__(self, clock=time.monotonic):
    """Starts empty; `clock` tells seconds."""
    self._clock = clock
    self._held = {}
    self._lock = threading.Lock()

  def take(self, video: str, annotator: str):
    """Notes that a person works on a video, and on no other."""
    with self._lock:
      self._held = {key: until for key, until in self._held.items()
                    if key[1] != annotator}
      self._held[video, annotator] = self._clock() + _LEASE

  def others(self, annotator: str) -> dict[str, list[str]]:
    """Returns {video: those who work on it}, without `annotator`."""
    found = {}
    with self._lock:
      for (video, who), until in self._held.items():
        if until > self._clock() and who != annotator:
          found.setdefault(video, []).append(who)
    return found


class _Library:
  """The collected videos of all splits, by id."""

  def __init__(self, splits):
    self.splits = {split.split: split for split in splits}
    self.classes = splits[0].classes
    for split in splits[1:]:
      if split.classes != self.classes:
        raise collected_lib.CollectedError(
            f'The splits {splits[0].split} and {split.split} have different '
            'classes; collect both with the same configuration.')
    self.weak = collected_lib.weak_classes(splits)
    self.rows = {}
    for split in splits:
      predicted = split.predicted()
      for row, name in enumerate(split.names):
        if name in self.rows:
          raise collected_lib.CollectedError(
              f'{name} is a video of both splits; ids must be unique.')
        self.rows[name] = (split, row, int(split.labels[row]),
                           int(predicted[row]))

  def find(self, video):
    if not isinstance(video, str) or video not in self.rows:
      raise _RequestError(404, f'There is no video {str(video)[:80]!r}.')
    return self.rows[video]

  def original(self, video):
    split, row, *_ = self.find(video)
    return tuple(round(float(w), edit_lib.DECIMALS)
                 for w in split.frame_attention(row))


def make_app(splits: Sequence[collected_lib.Collected],
             store: store_lib.Store,
             decode: Callable[[str], Iterator[np.ndarray]],
             rerun: Callable[[str, np.ndarray], np.ndarray] | None = None,
             token: str | None = None) -> applications.Starlette:
  """Builds the application.

  Args:
    splits: what was collected.
    store: where edits go.
    decode: function of a video's id that yields its frames in order, uint8
      [H, W, 3], cut as the spatial attention is.
    rerun: function of a video's id and weights [num_frames], negative where
      the network's own count, that returns probabilities [K]; None without.
    token: what requests must know; None answers this machine only.

  Returns:
    The application.

  Raises:
    CollectedError: the splits do not belong together.
  """
  library = _Library(splits)
  shown = films.Films(decode)
  leases = Leases()
  rerun_lock = threading.Lock()
  slow = anyio.CapacityLimiter(_SLOW)

  def setup(request):
    del request
    return {
        'classes': library.classes, 'splits': list(library.splits),
        'weak': library.weak, 'rerun': rerun is not None,
        'statuses': store_lib.STATUSES,
        'annotators': sorted({who for _, who in store.edits()}),
        'sheet': {'columns': films.COLUMNS, 'frames': films.PER_SHEET},
        'maxNote': edit_lib.MAX_NOTE}

  def queue(request):
    query = request.query_params
    annotator = query.get('annotator', '')
    chosen_class = (_number(query, 'class') if 'class' in query else None)
    by_video = {}
    for edit in store.edits().values():
      by_video.setdefault(edit.video, {})[edit.annotator] = edit.status
    held = leases.others(annotator)
    found, done = [], 0
    for video, (split, row, label, predicted) in library.rows.items():
      if (query.get('split', split.split) != split.split
          or (query.get('wrong') and (label < 0 or predicted == label))
          or (query.get('weak') and label not in library.weak)
          or chosen_class not in (None, label)
          or query.get('text', '').lower() not in video.lower()):
        continue
      statuses = by_video.get(video, {})
      mine = statuses.get(annotator, 'new')
      done += mine in ('submitted', 'skipped')
      found.append({
          'id': video, 'label': label, 'predicted': predicted,
          'frames': int(split.num_frames[row]), 'status': mine,
          'others': {who: status for who, status in statuses.items()
                     if who != annotator},
          'held': held.get(video, [])})
    total = len(found)
    wanted = query.get('status')
    if wanted:
      found = [f for f in found if f['status'] == wanted or (
          wanted == 'open' and f['status'] in ('new', 'draft'))]
    return {'videos': found[:_MOST], 'matched': len(found), 'total': total,
            'done': done}

  def video(request):
    name = request.query_params.get('id')
    split, row, label, predicted = library.find(name)
    taken = np.unique(np.asarray(split.frame_indices[row]))
    edits = [dataclasses.asdict(edit) for edit in store.edits().values()
             if edit.video == name]
    return {
        'id': name, 'split': split.split, 'label': label,
        'predicted': predicted, 'frames': int(split.num_frames[row]),
        'taken': taken.tolist(), 'original': library.original(name),
        'maps': list(split.spatial_attention.shape[-2:]),
        'probabilities': [round(float(p), 6)
                          for p in split.probabilities(row)],
        'checkpoint': f'step {split.step}', 'edits': edits}

  def film(request):
    query = request.query_params
    library.find(query.get('id'))
    number = _number(query, 'sheet')
    try:
      return responses.Response(
          shown.sheet(query['id'], number), media_type='image/jpeg',
          headers={'Cache-Control': 'private, max-age=3600'})
    except films.FilmError as error:
      raise _RequestError(422, str(error)) from None

  def maps(request):
    split, row, *_ = library.find(request.query_params.get('id'))
    return responses.Response(split.frame_maps(row)[1].tobytes(),
                              media_type='application/octet-stream')

  def save(body, revision):
    _demand_fields(body, ('video', 'annotator', 'edited', 'mask', 'status',
                          'seconds', 'note'))
    name = body['video']
    split, row, label, predicted = library.find(name)
    num_frames = int(split.num_frames[row])
    edit_lib.check_weights('edited', body['edited'], num_frames)
    if not isinstance(body['mask'], list):
      raise store_lib.EditError('mask is no list')
    edit = store_lib.Edit(
        video=name, num_frames=num_frames,
        frame_indices=tuple(np.unique(split.frame_indices[row]).tolist()),
        original=library.original(name),
        edited=tuple(round(w, edit_lib.DECIMALS) for w in body['edited']),
        mask=tuple(body['mask']), label=label, predicted=predicted,
        annotator=body['annotator'], created='', updated='', revision=1,
        status=body['status'], seconds=body['seconds'],
        checkpoint=f'step {split.step}', note=body['note'])
    return {'edit': dataclasses.asdict(store.save(edit, revision))}

  def run_again(body, _):
    _demand_fields(body, ('video', 'edited'))
    name = body['video']
    split, row, *_ = library.find(name)
    if rerun is None:
      raise _RequestError(404, 'Predictions cannot be re-run: the weights are '
                          'not there, or take no temporal attention.')
    edit_lib.check_weights('edited', body['edited'],
                            int(split.num_frames[row]))
    edited = np.asarray(body['edited'], np.float64)
    same = np.abs(edited - library.original(name)) < 10.0 ** (
        -edit_lib.DECIMALS) / 2
    with rerun_lock:
      try:
        shares = rerun(name, np.where(same, -1.0, edited))
      except ValueError as error:
        raise _RequestError(422, str(error)) from None
    return {'probabilities': [round(float(p), 6) for p in shares]}

  def lease(body, _):
    _demand_fields(body, ('video', 'annotator'))
    library.find(body['video'])
    edit_lib.check_annotator(body['annotator'])
    leases.take(body['video'], body['annotator'])
    return {'held': leases.others(body['annotator']).get(body['video'], [])}

  files = {path.name: path.read_bytes() for path in _STATIC.iterdir()
           if path.suffix in _TYPES}

  async def static(request):
    name = request.path_params.get('name', 'index.html')
    if name not in files:
      return guard.refusal(404, 'There is no such file.')
    return responses.Response(
        files[name], media_type=_TYPES[pathlib.PurePath(name).suffix])

  return applications.Starlette(
      routes=[
          routing.Route('/', static),
          routing.Route('/static/{name}', static),
          *(routing.Route(f'/api/{name}', _get(function, limiter))
            for name, function, limiter in (
                ('setup', setup, None), ('queue', queue, None),
                ('video', video, None), ('film', film, slow),
                ('maps', maps, None))),
          *(routing.Route(f'/api/{name}', _send(function, limiter),
                          methods=[method])
            for name, function, limiter, method in (
                ('edit', save, None, 'PUT'), ('rerun', run_again, slow, 'POST'),
                ('lease', lease, None, 'POST')))],
      middleware=[middleware.Middleware(guard.Guard, token=token)])


def _number(query, name):
  text = query.get(name, '')
  if not text.isdecimal() or len(text) > 9:
    raise _RequestError(400, f'{name} is {text[:20]!r}; it must be a whole '
                        'number from 0.')
  return int(text)


def _demand_fields(body, names):
  if not isinstance(body, dict):
    raise _RequestError(400, 'The body must be a JSON object.')
  missing = [name for name in names if name not in body]
  if missing:
    raise _RequestError(400, f'{", ".join(missing)} is missing.')


def _failure(error):
  """Returns the response to an error, with what a conflict is about."""
  if isinstance(error, _RequestError):
    return guard.refusal(error.status, str(error))
  if isinstance(error, store_lib.ConflictError):
    current = error.current and dataclasses.asdict(error.current)
    return guard.refusal(409, str(error), edit=current)
  if isinstance(error, store_lib.StorageError):
    return guard.refusal(507, str(error))
  return guard.refusal(400, str(error))


def _respond(function, *args):
  """Calls a function; its plain data, or its error, becomes a response."""
  try:
    found = function(*args)
  except (_RequestError, store_lib.EditError,
          collected_lib.CollectedError) as error:
    return _failure(error)
  if isinstance(found, responses.Response):
    return found
  return responses.JSONResponse(found)


def _get(function, limiter):
  """Makes an endpoint of a function of the request; runs it in a thread."""

  async def answer(request):
    return await anyio.to_thread.run_sync(_respond, function, request,
                                          limiter=limiter)

  return answer


def _send(function, limiter):
  """Makes an endpoint of a function of the body and the revision named."""

  async def answer(request):
    body = await request.body()

    def act():
      revision = 0
      if request.method == 'PUT':
        revision = _revision(request.headers.get('if-match'))
      return function(edit_lib.parse_json(body), revision)

    return await anyio.to_thread.run_sync(_respond, act, limiter=limiter)

  return answer


def _revision(text):
  """Returns the revision of an If-Match header, such as "3"."""
  if text is None:
    raise _RequestError(428, 'If-Match must name the revision on which the '
                        'edit is based; "0" for none.')
  text = text.strip('"')
  if not text.isdecimal() or len(text) > 9:
    raise _RequestError(400, 'If-Match must be a whole number in quotes.')
  return int(text)
