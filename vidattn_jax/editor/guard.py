"""Whose requests the editor answers."""

import hmac
from urllib import parse

from starlette import datastructures
from starlette import responses

MAX_BODY = 1 << 20
COOKIE = 'vidattn_token'
LOOPBACK = ('127.0.0.1', 'localhost', '::1')

# Nothing is loaded from elsewhere; notes and labels can run no code.
_HEADERS = (
    ('Content-Security-Policy', "default-src 'none'; script-src 'self'; "
     "style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri "
     "'none'; form-action 'self'; frame-ancestors 'none'"),
    ('X-Content-Type-Options', 'nosniff'),
    ('Referrer-Policy', 'no-referrer'),
    ('Cross-Origin-Resource-Policy', 'same-origin'),
    ('Cache-Control', 'no-store'))


def refusal(status: int, sentence: str, **more):
  """Returns a response that says in one sentence what is wrong."""
  return responses.JSONResponse({'error': sentence, **more}, status)


class Guard:
  """Middleware: refuses foreign hosts, origins, tokens and large bodies."""

  def __init__(self, app, token: str | None = None):
    """Wraps an application.

    Args:
      app: the ASGI application.
      token: what a request must know; None answers this machine only.
    """
    self._app = app
    self._token = token

  async def __call__(self, scope, receive, send):
    """Answers one request."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    headers = datastructures.Headers(scope=scope)
    query = datastructures.QueryParams(scope['query_string'])

    async def send_with_headers(message):
      if message['type'] == 'http.response.start':
        answer = datastructures.MutableHeaders(scope=message)
        for name, value in _HEADERS:
          answer.setdefault(name, value)
      await send(message)

    answer = self._refuse(scope, headers, query)
    if answer is None and scope['method'] in ('PUT', 'POST'):
      # The body is read here, so that nothing large reaches the application.
      body = await _read(receive)
      if body is None:
        answer = refusal(413, f'A request may have {MAX_BODY} bytes.')
      else:
        receive = _again(body)
    await (answer or self._app)(scope, receive, send_with_headers)

  def _refuse(self, scope, headers, query):
    host = headers.get('host', '')
    if self._token is None and parse.urlsplit(
        '//' + host).hostname not in LOOPBACK:
      return refusal(403, 'This address is not one of this machine; open the '
                     'editor at the address that it printed.')
    origin = headers.get('origin')
    if (origin is not None and parse.urlsplit(origin).netloc != host) or (
        headers.get('sec-fetch-site') in ('cross-site', 'same-site')
        and scope['path'] != '/'):
      return refusal(403, 'The request comes from another site.')
    if self._token is not None:
      given = query.get('token')
      if scope['path'] == '/' and given is not None and self._knows(given):
        # Out of the address bar, into a cookie that scripts cannot read.
        answer = responses.RedirectResponse('/', 303)
        answer.set_cookie(COOKIE, self._token, httponly=True,
                          samesite='strict')
        return answer
      cookies = dict(
          part.strip().partition('=')[::2]
          for part in headers.get('cookie', '').split(';'))
      bearer = headers.get('authorization', '').removeprefix('Bearer ')
      if not (self._knows(cookies.get(COOKIE, '')) or self._knows(bearer)):
        return refusal(401, 'The token is missing or wrong; open the address '
                       'that vidattn edit printed.')
    if scope['method'] in ('PUT', 'POST') and headers.get(
        'content-type', '').partition(';')[0].strip() != 'application/json':
      return refusal(415, 'The body must be application/json.')
    return None

  def _knows(self, given):
    return hmac.compare_digest(given.encode(), self._token.encode())


async def _read(receive):
  """Returns the body of a request; None if it is too large."""
  body = b''
  while True:
    message = await receive()
    if message['type'] == 'http.disconnect':
      return body
    body += message.get('body', b'')
    if len(body) > MAX_BODY:
      return None
    if not message.get('more_body'):
      return body


def _again(body):
  """Returns what gives an application a body that was read."""
  sent = False

  async def receive():
    nonlocal sent
    if sent:
      return {'type': 'http.disconnect'}
    sent = True
    return {'type': 'http.request', 'body': body, 'more_body': False}

  return receive
