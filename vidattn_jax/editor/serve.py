"""Serves the editor: where, and to whom."""

import secrets
import socket

import uvicorn

from vidattn_jax.editor import guard


def make_token(host: str, token: str | None = None) -> str | None:
  """Returns the token that requests must know.

  Args:
    host: address that is served.
    token: what the user chose, if anything.

  Returns:
    The user's, else a random one; None where only this machine is served.

  Raises:
    ValueError: the user's is empty, or no plain word.
  """
  if token is not None and not (token.isascii() and token.isprintable()
                                and token and not set(token) & set(' ;,"\\')):
    raise ValueError('--token must be ASCII letters, digits and signs, '
                     'without spaces and quotes.')
  if token is None and host not in guard.LOOPBACK:
    return secrets.token_urlsafe(18)
  return token


def serve(app, host: str, port: int, token: str | None = None):
  """Serves until Ctrl-C, and prints the address.

  Args:
    app: the application.
    host: address to listen at.
    port: to listen at; 0 takes a free one.
    token: that the address carries.

  Raises:
    ValueError: nothing can listen there.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  listener = socket.socket(family)
  listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listener.bind((host, port))
  except (OSError, OverflowError) as error:
    raise ValueError(
        f'Nothing can be served at {host}, port {port} ({error}); choose '
        'another --port, or --port=0 for a free one.') from None
  shown = f'[{host}]' if family == socket.AF_INET6 else host
  query = f'?token={token}' if token else ''
  print(f'The editor is at http://{shown}:{listener.getsockname()[1]}/{query} '
        '(Ctrl-C ends it).', flush=True)
  uvicorn.Server(uvicorn.Config(app, log_level='warning')).run([listener])
