"""The attention editor's server: what it tells, keeps and refuses."""

import dataclasses
import io
import json
import threading
import time

import anyio
import editing
import numpy as np
from PIL import Image
import pytest
from starlette import testclient

from benchmarks import editor as benchmark
from vidattn_jax.editor import app as app_lib
from vidattn_jax.editor import collected
from vidattn_jax.editor import films
from vidattn_jax.editor import guard
from vidattn_jax.editor import serve
from vidattn_jax.editor import store

COUNT, LENGTH = 24, 30
HERE = 'http://127.0.0.1:8765'


@pytest.fixture(scope='module')
def pretended():
  return benchmark.pretend(COUNT, LENGTH)


def _decode(video):
  """Frames whose grey level is their number."""
  del video
  for i in range(LENGTH):
    yield np.full((16, 24, 3), 8 * i, np.uint8)


@pytest.fixture
def edits(tmp_path):
  return store.Store(str(tmp_path / 'edits.jsonl'))


@pytest.fixture
def client(pretended, edits):
  found, _, rerun = pretended
  return testclient.TestClient(
      app_lib.make_app([found], edits, _decode, rerun), base_url=HERE)


@pytest.fixture
def body(pretended):
  return {'video': pretended[0].names[1], 'annotator': 'Ada',
          'edited': [0.25] * LENGTH, 'mask': [1] * LENGTH, 'status': 'draft',
          'seconds': 3, 'note': ''}


def _save(client, body, revision=0, **headers):
  return client.put('/api/edit', json=body,
                    headers={'If-Match': f'"{revision}"', **headers})


# --- What it tells -----------------------------------------------------------


def test_queue_begins_with_what_weak_classes_get_wrong(client, pretended):
  found = pretended[0]
  setup = client.get('/api/setup').json()
  right = (found.labels == found.predicted())
  weak = [k for k in range(8) if right[found.labels == k].mean() < 0.5]
  assert setup['weak'] == weak != []
  videos = client.get('/api/queue', params={
      'annotator': 'Ada', 'split': 'train', 'wrong': 1, 'weak': 1}).json()
  assert [v['id'] for v in videos['videos']] == [
      name for name, label, ok in zip(found.names, found.labels, right)
      if not ok and label in weak]
  assert videos['total'] == len(videos['videos']) < COUNT


@pytest.mark.parametrize('query, chosen', [
    ({}, lambda name, label, right: True),
    ({'split': 'eval'}, lambda name, label, right: False),
    ({'wrong': 1}, lambda name, label, right: not right),
    ({'class': 3}, lambda name, label, right: label == 3),
    ({'text': 'SHRINK/'}, lambda name, label, right: 'shrink/' in name)])
def test_queue_filters(client, pretended, query, chosen):
  found = pretended[0]
  videos = client.get('/api/queue', params=query).json()['videos']
  assert [v['id'] for v in videos] == [
      name for name, label, right in zip(
          found.names, found.labels, found.labels == found.predicted())
      if chosen(name, label, right)]


def test_queue_tells_what_is_done_and_by_whom(client, body, pretended):
  _save(client, body | {'status': 'submitted'})
  _save(client, body | {'annotator': 'Grace', 'video': pretended[0].names[0]})
  client.post('/api/lease', json={'video': pretended[0].names[2],
                                  'annotator': 'Grace'})
  found = client.get('/api/queue', params={'annotator': 'Ada'}).json()
  assert (found['done'], found['total'], found['matched']) == (1, COUNT, COUNT)
  first, second, third = found['videos'][:3]
  assert (first['status'], first['others']) == ('new', {'Grace': 'draft'})
  assert (second['status'], second['others']) == ('submitted', {})
  assert third['held'] == ['Grace']
  for status, count in (('open', COUNT - 1), ('submitted', 1), ('draft', 0)):
    query = {'annotator': 'Ada', 'status': status}
    assert client.get('/api/queue', params=query).json()['matched'] == count


def test_leases_end_and_are_of_one_video():
  seconds = [0.0]
  leases = app_lib.Leases(lambda: seconds[0])
  leases.take('a', 'Ada')
  assert leases.others('Grace') == {'a': ['Ada']}
  assert leases.others('Ada') == {}
  leases.take('b', 'Ada')
  assert leases.others('Grace') == {'b': ['Ada']}
  seconds[0] = 599
  assert leases.others('Grace')
  seconds[0] = 601
  assert leases.others('Grace') == {}


def test_video_is_told_whole(client, pretended, body):
  found = pretended[0]
  _save(client, body)
  video = client.get('/api/video', params={'id': found.names[1]}).json()
  np.testing.assert_allclose(video['original'], found.frame_attention(1),
                             atol=5.1e-5)
  assert video['taken'] == sorted(set(found.frame_indices[1].ravel().tolist()))
  assert video['label'] == found.labels[1]
  np.testing.assert_allclose(video['probabilities'], found.probabilities(1),
                             atol=1e-6)
  assert video['edits'][0]['edited'] == body['edited']
  maps = client.get('/api/maps', params={'id': found.names[1]}).content
  np.testing.assert_array_equal(
      np.frombuffer(maps, np.uint8).reshape(-1, 14, 14),
      np.rint(255 * found.spatial_attention[1, 0]))


def test_sheets_hold_every_frame_in_order(client, pretended):
  shown = []
  for number, (rows, count) in enumerate([(5, 25), (1, 5)]):
    answer = client.get('/api/film', params={'id': pretended[0].names[0],
                                             'sheet': number})
    assert answer.headers['content-type'] == 'image/jpeg'
    sheet = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert sheet.shape == (16 * rows, 24 * 5, 3)
    shown += [sheet[16 * (i // 5) + 8, 24 * (i % 5) + 12, 0]
              for i in range(count)]
  np.testing.assert_allclose(shown, 8 * np.arange(LENGTH), atol=3)


def test_video_that_does_not_decode_is_named():
  def decode(video):
    yield from _decode(video)
    raise ValueError(f'{video} is cut off')

  shown = films.Films(decode)
  # All that decodes is shown.
  last = np.asarray(Image.open(io.BytesIO(shown.sheet('a', 1))))
  assert last.shape == (16, 24 * 5, 3)
  with pytest.raises(films.FilmError, match='a is cut off'):
    shown.sheet('a', 2)
  shown = films.Films(_decode)
  with pytest.raises(films.FilmError, match='no frames for sheet 2'):
    shown.sheet('a', 2)


def test_video_is_decoded_once_for_many_and_few_are_kept():
  decoded = []

  def decode(video):
    decoded.append(video)
    time.sleep(0.05)
    yield from _decode(video)

  shown = films.Films(decode, capacity=2)
  threads = [threading.Thread(target=shown.sheet, args=('a', k % 2))
             for k in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert decoded == ['a']
  for video in 'bca':
    shown.sheet(video, 0)
  assert decoded == ['a', 'b', 'c', 'a']


def test_prediction_changes_with_the_curve(client, pretended, edits):
  found, _, rerun = pretended
  name = found.names[0]
  video = client.get('/api/video', params={'id': name}).json()
  given = []

  def spy(video, weights):
    given.append(weights)
    return rerun(video, weights)

  spying = testclient.TestClient(
      app_lib.make_app([found], edits, _decode, spy), base_url=HERE)
  edited = list(video['original'])
  same = spying.post('/api/rerun', json={'video': name, 'edited': edited})
  np.testing.assert_allclose(same.json()['probabilities'],
                             video['probabilities'], atol=1e-6)
  # What nobody changed is the network's own.
  assert (given[0] == -1).all()
  edited[LENGTH // 2] = 1
  edited[0] = 0
  after = spying.post('/api/rerun', json={'video': name, 'edited': edited})
  label = int(found.labels[0])
  assert after.json()['probabilities'][label] > video['probabilities'][label]
  assert np.flatnonzero(given[1] != -1).tolist() == [0, LENGTH // 2]
  assert given[1][LENGTH // 2] == 1

  without = testclient.TestClient(app_lib.make_app([found], edits, _decode),
                                  base_url=HERE)
  assert without.get('/api/setup').json()['rerun'] is False
  answer = without.post('/api/rerun', json={'video': name, 'edited': edited})
  assert answer.status_code == 404 and 'cannot be re-run' in answer.text


# --- What it keeps -----------------------------------------------------------


def test_saves_what_was_drawn_and_completes_it(client, edits, body, pretended):
  found = pretended[0]
  answer = _save(client, body | {'edited': [1 / 3] * LENGTH, 'note': 'späť'})
  assert answer.status_code == 200
  [stored] = store.load(edits.path).values()
  assert answer.json()['edit'] == json.loads(stored.to_line())
  assert stored.edited == (0.3333,) * LENGTH
  assert stored.label == found.labels[1]
  assert stored.predicted == found.predicted()[1]
  assert stored.checkpoint == 'step 1200' and stored.note == 'späť'
  assert stored.frame_indices == tuple(np.unique(found.frame_indices[1]))
  np.testing.assert_allclose(stored.original, found.frame_attention(1),
                             atol=5.1e-5)


def test_conflict_returns_the_stored_version(client, body):
  first = _save(client, body).json()['edit']
  other = body | {'edited': [1.0] * LENGTH}
  answer = _save(client, other)
  assert answer.status_code == 409
  assert answer.json()['edit'] == first
  assert _save(client, body).json()['edit'] == first
  second = _save(client, other, revision=1)
  assert second.json()['edit']['revision'] == 2
  # Another person is no conflict.
  assert _save(client, body | {'annotator': 'Grace'}).status_code == 200


def test_full_disk_is_told(client, edits, body, monkeypatch):
  monkeypatch.setattr(store, 'os', editing.FullDisk())
  answer = _save(client, body)
  assert answer.status_code == 507
  assert 'No space left on device' in answer.json()['error']
  monkeypatch.undo()
  assert edits.edits() == {}
  assert _save(client, body).status_code == 200


def test_slow_requests_leave_room_for_saves(pretended, edits, body):
  wait = threading.Event()

  def decode(video):
    wait.wait(20)
    yield from _decode(video)

  app = app_lib.make_app([pretended[0]], edits, decode)
  with testclient.TestClient(app, base_url=HERE) as client:
    threads = [threading.Thread(target=client.get, args=('/api/film',), kwargs={
        'params': {'id': name, 'sheet': 0}})
               for name in pretended[0].names for _ in range(2)]
    for thread in threads:
      thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert _save(client, body).status_code == 200
    assert time.monotonic() - start < 5
    assert not wait.is_set()
    wait.set()
    for thread in threads:
      thread.join()


# --- What it refuses ---------------------------------------------------------


@pytest.mark.parametrize('changes, status, sentence', [
    ({'video': '../../etc/passwd'}, 404, 'There is no video'),
    ({'video': ['a']}, 404, 'There is no video'),
    ({'edited': [0.5] * (LENGTH - 1)}, 400, 'edited has 29 weights'),
    ({'edited': [0.5] * (LENGTH - 1) + [1.5]}, 400, 'edited of frame 29'),
    ({'edited': [-0.1] + [0.5] * (LENGTH - 1)}, 400, 'edited of frame 0'),
    ({'edited': [None] * LENGTH}, 400, 'edited of frame 0'),
    ({'edited': 'x' * LENGTH}, 400, 'edited is no list'),
    ({'mask': [2] * LENGTH}, 400, 'mask must be'),
    ({'mask': 1}, 400, 'mask is no list'),
    ({'status': 'done'}, 400, "status is 'done'"),
    ({'annotator': '<b>Ada</b>'}, 400, 'name of an annotator'),
    ({'annotator': 7}, 400, 'annotator is no text'),
    ({'seconds': 'x'}, 400, 'seconds is'),
    ({'note': 'x' * 2001}, 400, 'note has 2001'),
    ({'note': {}}, 400, 'note is no text')])
def test_bad_edits_are_refused(client, edits, body, changes, status, sentence):
  answer = _save(client, body | changes)
  assert answer.status_code == status
  assert sentence in answer.json()['error']
  assert edits.edits() == {}


@pytest.mark.parametrize('content, sentence', [
    ('{"edited": [NaN]}', 'NaN is no number'),
    ('{"edited": [Infinity]}', 'Infinity is no number'),
    ('{"edited"', 'no JSON'), ('[]', 'must be a JSON object'),
    ('{}', 'video, annotator, edited'), ('[' * 100000, 'no JSON')])
def test_bodies_that_are_no_edits_are_refused(client, content, sentence):
  answer = client.put('/api/edit', content=content, headers={
      'If-Match': '"0"', 'Content-Type': 'application/json'})
  assert answer.status_code == 400
  assert sentence in answer.json()['error']


def test_requests_of_a_wrong_form_are_refused(client, body):
  put = client.put('/api/edit', json=body)
  assert put.status_code == 428 and 'If-Match' in put.json()['error']
  put = client.put('/api/edit', json=body, headers={'If-Match': '*'})
  assert put.status_code == 400
  put = client.put('/api/edit', content=json.dumps(body),
                   headers={'If-Match': '"0"', 'Content-Type': 'text/plain'})
  assert put.status_code == 415
  assert client.get('/api/edit').status_code == 405
  for query in ({'id': 'a', 'sheet': 0}, {}):
    assert client.get('/api/film', params=query).status_code == 404
  name = client.get('/api/queue').json()['videos'][0]['id']
  for sheet, status in (('x', 400), (-1, 400), (10 ** 10, 400), (99, 422)):
    answer = client.get('/api/film', params={'id': name, 'sheet': sheet})
    assert answer.status_code == status, sheet


def test_only_own_files_are_served(client, tmp_path):
  del tmp_path
  page = client.get('/')
  assert page.headers['content-type'].startswith('text/html')
  for name in ('main.js', 'editor.css', 'icon.svg'):
    assert client.get(f'/static/{name}').status_code == 200
  for name in ('../app.py', '%2e%2e/app.py', '..%2fapp.py', 'app.py', '',
               '/etc/passwd', '..%5capp.py'):
    assert client.get(f'/static/{name}').status_code == 404, name
  for name in ('../../../etc/passwd', '/etc/passwd', 'train/../x'):
    for what in ('video', 'film', 'maps'):
      answer = client.get(f'/api/{what}', params={'id': name})
      assert answer.status_code == 404


def test_large_bodies_are_refused_unread(client, body):
  body['note'] = 'x' * guard.MAX_BODY
  assert _save(client, body).status_code == 413
  taken, sent = [], []

  async def receive():
    taken.append(1)
    return {'type': 'http.request', 'body': b'[' * (guard.MAX_BODY // 4),
            'more_body': True}

  async def send(message):
    sent.append(message)

  async def request():
    await guard.Guard(None)({
        'type': 'http', 'method': 'PUT', 'path': '/api/edit',
        'query_string': b'', 'headers': [
            (b'host', b'localhost'), (b'content-type', b'application/json')]},
        receive, send)

  anyio.run(request)
  assert sent[0]['status'] == 413
  assert len(taken) == 5


@pytest.mark.parametrize('headers', [
    {'Host': 'evil.example'}, {'Host': '127.0.0.1.evil.example:8765'},
    {'Origin': 'http://evil.example'}, {'Origin': 'null'},
    {'Origin': 'http://127.0.0.1:9999'}, {'Sec-Fetch-Site': 'cross-site'},
    {'Sec-Fetch-Site': 'same-site'}])
def test_other_sites_are_refused(client, edits, body, headers):
  answer = _save(client, body, **headers)
  assert answer.status_code == 403
  assert client.get('/api/setup', headers=headers).status_code == 403
  assert edits.edits() == {}


def test_own_origin_is_served(client, body):
  headers = {'Origin': HERE, 'Sec-Fetch-Site': 'same-origin'}
  assert _save(client, body, **headers).status_code == 200
  for host in ('localhost:1', '[::1]:2', '127.0.0.1'):
    assert client.get('/', headers={'Host': host}).status_code == 200
  # A link from elsewhere may open the page.
  assert client.get('/', headers={
      'Sec-Fetch-Site': 'cross-site'}).status_code == 200


def test_token_is_asked_for(pretended, edits, body):
  app = app_lib.make_app([pretended[0]], edits, _decode, token='s3cret')
  address = 'http://box.example:8765'
  client = testclient.TestClient(app, base_url=address)
  for wrong in ({}, {'Authorization': 'Bearer wrong'},
                {'Authorization': 'Bearer '}, {'Cookie': 'vidattn_token=x'},
                {'Cookie': 'vidattn_token'}, {'Cookie': 'ä=ß; ;;'}):
    for path in ('/', '/static/main.js', '/api/setup'):
      headers = {k: v.encode() for k, v in wrong.items()}
      assert client.get(path, headers=headers).status_code == 401
    assert _save(client, body, **headers).status_code == 401
  assert client.get('/?token=wrong').status_code == 401
  assert edits.edits() == {}
  bearer = {'Authorization': 'Bearer s3cret'}
  assert client.get('/api/setup', headers=bearer).status_code == 200
  entered = client.get('/?token=s3cret', follow_redirects=False)
  assert entered.status_code == 303 and entered.headers['location'] == '/'
  cookie = entered.headers['set-cookie']
  assert 'HttpOnly' in cookie and 'SameSite=strict' in cookie
  assert client.get('/api/setup').status_code == 200
  assert _save(client, body).status_code == 200
  evil = {'Origin': 'http://evil.example'}
  assert _save(client, body, **evil).status_code == 403


def test_token_is_made_where_others_can_reach():
  assert serve.make_token('127.0.0.1') is None
  assert serve.make_token('localhost') is None
  tokens = {serve.make_token(host) for host in ('0.0.0.0', '10.0.0.1', '::')}
  assert len(tokens) == 3 and min(map(len, tokens)) >= 20
  assert serve.make_token('127.0.0.1', 'mine') == 'mine'
  for bad in ('', 'a b', 'a"b', 'ä', 'a;b'):
    with pytest.raises(ValueError, match='--token must be'):
      serve.make_token('127.0.0.1', bad)


def test_address_that_is_taken_is_named():
  with benchmark.serving(None) as address, pytest.raises(
      ValueError, match='choose another --port'):
    serve.serve(None, '127.0.0.1', int(address.rpartition(':')[2]))


def test_answers_allow_nothing_from_elsewhere(client):
  for path in ('/', '/static/main.js', '/api/setup', '/api/video?id=x'):
    headers = client.get(path).headers
    policy = headers['content-security-policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy
    assert headers['x-content-type-options'] == 'nosniff'
  page = client.get('/').text
  assert '//' not in page.replace('<!DOCTYPE', '')  # no address of a server
  assert 'style=' not in page and 'onclick' not in page


def test_splits_that_do_not_belong_together_are_refused(pretended, edits):
  found = pretended[0]
  other = dataclasses.replace(found, split='eval')
  with pytest.raises(collected.CollectedError, match='a video of both splits'):
    app_lib.make_app([found, other], edits, _decode)
  other = dataclasses.replace(other, classes=tuple('abcdefgh'))
  with pytest.raises(collected.CollectedError, match='different classes'):
    app_lib.make_app([found, other], edits, _decode)
