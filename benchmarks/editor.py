"""Measures the attention editor in a real browser, and takes its pictures.

python -m benchmarks.editor --browser /usr/bin/chromium
python -m benchmarks.editor --browser /usr/bin/chromium --pictures docs/images

300 videos of 250 frames each, drawn by the demo's generator; the network is a
pretended one. Takes the extra `edit` and Playwright.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import os
import socket
import tempfile
import threading
import time

import numpy as np
from PIL import Image

from input_pipeline import synthetic
from vidattn_jax.editor import app as app_lib
from vidattn_jax.editor import collected
from vidattn_jax.editor import store as store_lib

SEEN = 32
SIZES = ((1280, 800), (1920, 1080))


@functools.lru_cache(maxsize=16)
def frames(class_name, seed, count):
  """Returns the centre of a demo clip, uint8 [count, 224, 224, 3]."""
  clip = np.stack(synthetic.render(class_name, np.random.default_rng(seed)))
  clip = clip[:, 8:232, 48:272]
  return clip[np.linspace(0, len(clip) - 1, count).astype(int)]


def pretend(count=300, length=250, seed=0):
  """Makes up what a network might have collected.

  Args:
    count: videos.
    length: frames of each.
    seed: of everything random.

  Returns:
    (`collected.Collected`, function of a video's id that yields its frames,
    function that predicts with edited weights: the more they favour the
    middle of the video, the likelier is its class).
  """
  rng = np.random.default_rng(seed)
  classes = synthetic.CLASSES
  taken = min(SEEN, length)
  labels = np.arange(count) % len(classes)
  # Two classes are mostly mistaken for their neighbours.
  wrong = np.where(labels < 2, rng.random(count) < 0.8,
                   rng.random(count) < 0.15)
  predicted = np.where(wrong, (labels + 1) % len(classes), labels)
  scores = rng.normal(0, 0.7, (count, len(classes)))
  scores[np.arange(count), predicted] += 3
  scores[np.arange(count), labels] += 1.5
  predicted = scores.argmax(1)
  indices = np.linspace(0, length - 1, taken).astype(int)
  moment = indices / max(length - 1, 1)
  centre = rng.uniform(0.1, 0.9, (count, 1))
  weights = np.clip(0.25 + 0.6 * np.exp(-((moment - centre) / 0.15) ** 2)
                    + rng.normal(0, 0.04, (count, taken)), 0, 1)
  y, x = np.mgrid[:14, :14] / 13
  place = rng.uniform(0.3, 0.7, (2, count, 1, 1, 1))
  drift = 0.15 * np.sin(6 * moment)[None, :, None, None]
  maps = np.exp(-((y - place[0]) ** 2 + (x - place[1] - drift) ** 2) / 0.05)
  names = tuple(f'train/{classes[k]}/{i:04d}.mp4'
                for i, k in enumerate(labels))
  found = collected.Collected(
      'train', names, names, labels.astype(np.int32),
      np.full(count, length, np.int32),
      np.broadcast_to(indices, (count, 1, taken)), weights[:, None],
      maps[:, None], scores, classes, step=1200)

  def decode(video):
    row = names.index(video)
    yield from frames(classes[labels[row]], row % 16, length)

  def rerun(video, edited):
    row = names.index(video)
    own = found.frame_attention(row)
    given = np.where(edited < 0, own, edited)
    middle = np.abs(np.linspace(-1, 1, length)) < 0.5
    gain = given[middle].mean() - given[~middle].mean()
    logits = scores[row].copy()
    logits[labels[row]] += 4 * (gain - own[middle].mean()
                                + own[~middle].mean())
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()

  return found, decode, rerun


@contextlib.contextmanager
def serving(app):
  """Serves an application from a thread; gives its address."""
  import uvicorn
  listener = socket.socket()
  listener.bind(('127.0.0.1', 0))
  server = uvicorn.Server(uvicorn.Config(app, log_level='warning'))
  thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
  thread.start()
  try:
    while not server.started:
      time.sleep(0.01)
    yield f'http://127.0.0.1:{listener.getsockname()[1]}'
  finally:
    server.should_exit = True
    thread.join(10)
    listener.close()


@contextlib.contextmanager
def session(count, length):
  """Serves an editor of pretended videos; gives (address, its store)."""
  with tempfile.TemporaryDirectory() as workdir:
    found, decode, rerun = pretend(count, length)
    collected.write(workdir, found)
    store = store_lib.Store(os.path.join(workdir, 'edits.jsonl'))
    app = app_lib.make_app([collected.read(workdir, 'train')], store, decode,
                           rerun)
    with serving(app) as address:
      yield address, store
    store.close()


def sign_in(page, name='Ada'):
  """Answers the question who is editing, and waits for the first video."""
  page.get_by_label('Name', exact=True).last.fill(name)
  page.get_by_role('button', name='Start').click()
  page.locator('.bar').first.wait_for()


def bars_box(page):
  """Returns where the bars lie on the page."""
  return page.locator('#bars').bounding_box()


def drag(page, points, steps=12):
  """Drags over the bars, through (share of the width, weight)."""
  box = bars_box(page)
  places = [(box['x'] + x * box['width'], box['y'] + (1 - y) * box['height'])
            for x, y in points]
  page.mouse.move(*places[0])
  page.mouse.down()
  for place in places[1:]:
    page.mouse.move(*place, steps=steps)
  page.mouse.up()


_OPEN = '''() => new Promise((done) => {
  const look = () => document.querySelector('.bar')
    && document.querySelector('.thumb').style.backgroundImage
    && document.querySelectorAll('#queue li').length
    ? requestAnimationFrame(() => done(performance.now()))
    : setTimeout(look, 2);
  look();
})'''
_START_FRAMES = '''() => {
  window.times = [];
  const tick = (now) => {
    window.times.push(now);
    window.ticking = requestAnimationFrame(tick);
  };
  window.ticking = requestAnimationFrame(tick);
}'''
_END_FRAMES = '''() => {
  cancelAnimationFrame(window.ticking);
  return window.times.slice(1).map((t, i) => t - window.times[i]);
}'''


def measure(browser, address, size, rounds=5):
  """Measures opening and dragging.

  Args:
    browser: Playwright's browser.
    address: of the editor.
    size: (width, height) of the window, pixels.
    rounds: times that the page is opened.

  Returns:
    (seconds from navigation until queue, bars and first frames are drawn, for
    each round; milliseconds of each frame while dragging).
  """
  context = browser.new_context(
      viewport={'width': size[0], 'height': size[1]})
  page = context.new_page()
  page.goto(address)
  sign_in(page)
  opened = []
  for _ in range(rounds):
    page.goto('about:blank')
    page.goto(address, wait_until='commit')
    opened.append(page.evaluate(_OPEN) / 1000)
  page.wait_for_load_state('networkidle')
  page.evaluate(_START_FRAMES)
  rng = np.random.default_rng(0)
  for _ in range(4):
    drag(page, [(x, rng.uniform(0.1, 0.9)) for x in (
        *np.linspace(0.02, 0.98, 9), *np.linspace(0.98, 0.3, 5))], steps=15)
  frames_ = page.evaluate(_END_FRAMES)
  context.close()
  return opened, frames_


def _shoot(page, out, size, name):
  """Writes a small picture of the page as it is after a moment."""
  page.wait_for_timeout(400)
  picture = Image.open(io.BytesIO(page.screenshot())).convert('RGB')
  # The palette of which the farthest colour is nearest: a median cut loses
  # the few pixels of a coloured word.
  picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2,
                   dither=Image.Dither.NONE).save(
      os.path.join(out, f'editor_{name}_{size[0]}.png'), optimize=True)


def take_pictures(browser, out):
  """Takes a picture of every state of the page, at both sizes."""
  for size in SIZES:
    with session(40, 48) as (address, store):
      context = browser.new_context(
          viewport={'width': size[0], 'height': size[1]})
      page = context.new_page()

      shoot = functools.partial(_shoot, page, out, size)
      page.goto(address)
      page.get_by_role('button', name='Start').wait_for()
      shoot('name')
      sign_in(page)
      page.wait_for_load_state('networkidle')
      shoot('open')
      drag(page, [(0.03, 0.1), (0.25, 0.15), (0.4, 0.95), (0.6, 0.9),
                  (0.75, 0.1), (0.97, 0.05)])
      page.get_by_text('Draft saved').wait_for()
      page.keyboard.press('e')
      page.locator('.old, #prediction td .share').nth(3).wait_for()
      shoot('edited')
      page.keyboard.press('h')
      page.keyboard.press('Shift+ArrowLeft')
      for _ in range(7):
        page.keyboard.press('Shift+ArrowLeft')
      shoot('selected')
      page.keyboard.press('x')
      video = page.locator('#name').inner_text()
      page.keyboard.press('Control+s')
      page.wait_for_timeout(300)
      edit = store.edits()[video, 'Ada']
      other = np.roll(edit.edited, 9).tolist()
      store.save(dataclasses.replace(
          edit, annotator='Grace', edited=tuple(other), status='submitted',
          note='The arrow starts later.'), 0)
      store.save(dataclasses.replace(edit, edited=tuple(other)), edit.revision)
      page.keyboard.press('1')
      page.locator('#conflict').wait_for()
      shoot('conflict')
      page.get_by_role('button', name='Keep yours').click()
      page.reload()
      page.locator('.bar').first.wait_for()
      page.wait_for_load_state('networkidle')
      page.locator('#others input').check()
      page.get_by_label('Note').fill('The cursor misleads it.')
      page.keyboard.press('Escape')
      shoot('others')
      page.keyboard.press('?')
      shoot('help')
      page.keyboard.press('Escape')
      page.keyboard.press('Control+Enter')
      page.get_by_text('1 of 8 done').wait_for()
      page.wait_for_load_state('networkidle')
      shoot('submitted')
      context.close()
    with session(300, 250) as (address, _):
      context = browser.new_context(
          viewport={'width': size[0], 'height': size[1]})
      page = context.new_page()
      page.goto(address)
      sign_in(page)
      page.wait_for_load_state('networkidle')
      _shoot(page, out, size, 'long')
      context.close()


def main():
  """Measures and prints, or takes pictures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--browser', required=True, metavar='CHROMIUM')
  parser.add_argument('--pictures', metavar='DIR')
  arguments = parser.parse_args()
  from playwright import sync_api
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=arguments.browser,
        args=['--no-sandbox', '--disable-dev-shm-usage'])
    if arguments.pictures:
      os.makedirs(arguments.pictures, exist_ok=True)
      take_pictures(browser, arguments.pictures)
      return
    with session(300, 250) as (address, _):
      for size in SIZES:
        opened, times = measure(browser, address, size)
        times = np.asarray(times)
        print(json.dumps({
            'size': size, 'opened_s': [round(t, 3) for t in opened],
            'frames': len(times), 'median_ms': round(np.median(times), 1),
            'p95_ms': round(float(np.percentile(times, 95)), 1),
            'under_33_ms': round(float(np.mean(times < 33.4)), 4)}))


if __name__ == '__main__':
  main()
