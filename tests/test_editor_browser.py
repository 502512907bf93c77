"""The attention editor in a real browser, as a person uses it."""

import base64
import dataclasses
import io
import os
import re
import shutil

import editing
import numpy as np
from PIL import Image
import pytest

from benchmarks import editor as benchmark
from vidattn_jax.editor import store as store_lib

pytestmark = pytest.mark.slow
LENGTH = 48


@pytest.fixture(scope='module')
def browser():
  """The system's Chromium."""
  path = os.environ.get('VIDATTN_CHROMIUM') or shutil.which(
      'chromium') or shutil.which('chromium-browser') or shutil.which(
          'google-chrome')
  if not path:
    pytest.skip('SKIPPED FOR WANT OF A BROWSER: the editor was not tried in '
                'one; install Chromium, or name it in VIDATTN_CHROMIUM')
  sync_api = pytest.importorskip('playwright.sync_api')
  with sync_api.sync_playwright() as playwright:
    yield playwright.chromium.launch(
        executable_path=path, args=['--no-sandbox', '--disable-dev-shm-usage'])


@pytest.fixture
def session():
  with benchmark.session(40, LENGTH) as found:
    yield found


@pytest.fixture
def context(browser):
  context = browser.new_context(viewport={'width': 1280, 'height': 800})
  yield context
  context.close()


@pytest.fixture
def page(context, session):
  page = context.new_page()
  errors = []
  page.on('pageerror', lambda error: errors.append(str(error)))
  page.on('request', lambda request: errors.append(request.url) if not (
      request.url.startswith((session[0], 'blob:'))) else None)
  page.goto(session[0])
  benchmark.sign_in(page)
  yield page
  # No fault in a script, and nothing asked of another server.
  assert errors == []


@pytest.fixture
def grace(browser, session):
  """A second person's page."""
  context = browser.new_context()
  page = context.new_page()
  page.goto(session[0])
  benchmark.sign_in(page, 'Grace')
  yield page
  context.close()


def _weights(page):
  # Keys are drawn with the next frame: after two, all that came before are.
  return page.evaluate('''() => new Promise(
      (done) => requestAnimationFrame(() => requestAnimationFrame(
          () => done([...document.querySelectorAll('.bar')].map(
              (bar) => Number(bar.getAttribute('aria-valuenow')))))))''')


def _count(page, selector, comparison):
  page.wait_for_function(
      f'() => document.querySelectorAll("{selector}").length {comparison}')


def _saved(page, text='Draft saved'):
  page.locator('#saved[data-state=saved]', has_text=text).wait_for()


def _edit(session, video='train/appear/0000.mp4', who='Ada'):
  return session[1].edits()[video, who]


def test_queue_opens_with_wrong_videos_of_weak_classes(page, session):
  rows = page.locator('#queue button')
  rows.first.wait_for()
  found, _, _ = benchmark.pretend(40, LENGTH)
  wrong = [name for name, label, predicted in zip(
      found.names, found.labels, found.predicted())
           if label < 2 and label != predicted]
  assert rows.count() == len(wrong) > 4
  assert page.locator('#queue b').all_text_contents() == wrong
  assert page.locator('#progress-text').inner_text() == (
      f'0 of {len(wrong)} done')
  page.get_by_label('Classes under 50 % only').uncheck()
  page.get_by_label('Wrong predictions only').uncheck()
  page.locator('#filter-class').select_option('vanish')
  page.wait_for_function('() => document.querySelectorAll("#queue b")[1]'
                         '?.textContent.includes("vanish")')
  # The open video stays in the list.
  assert page.locator('#queue b').all_text_contents() == [wrong[0]] + [
      name for name in found.names if 'vanish' in name]


def test_dragging_paints_and_undo_takes_back(page, session):
  before = _weights(page)
  np.testing.assert_allclose(
      before, _first_attention(), atol=1e-4)
  benchmark.drag(page, [(0.26, 0.2), (0.51, 0.9)], steps=3)
  _count(page, '.bar.changed', '> 5')
  after = _weights(page)
  painted = slice(int(0.26 * LENGTH), int(0.51 * LENGTH) + 1)
  # Linear where the mouse passed over, as before elsewhere.
  np.testing.assert_allclose(after[painted], np.linspace(
      0.2, 0.9, len(after[painted])), atol=0.04)
  assert after[:painted.start] == before[:painted.start]
  assert after[painted.stop:] == before[painted.stop:]
  page.keyboard.press('Control+z')
  _count(page, '.bar.changed', '== 0')
  assert _weights(page) == before
  page.keyboard.press('Control+Shift+z')
  _count(page, '.bar.changed', '> 5')
  assert _weights(page) == after
  _saved(page)
  assert list(_edit(session).edited) == after
  # After a new edit there is nothing to redo.
  page.keyboard.press('Control+z')
  page.locator('#redo:not([disabled])').wait_for()
  page.keyboard.press('3')
  page.locator('#redo[disabled]').wait_for()
  page.keyboard.press('Control+Shift+z')
  page.keyboard.press('Home')
  _count(page, '.bar.changed', '== 1')


def _first_attention():
  found, _, _ = benchmark.pretend(40, LENGTH)
  return found.frame_attention(0)


def test_keyboard_alone_edits_saves_and_submits(context, session):
  page = context.new_page()
  page.goto(session[0])
  # No mouse from here on.
  page.get_by_role('button', name='Start').wait_for()
  page.keyboard.type('Ada')
  page.keyboard.press('Enter')
  page.locator('.bar').first.wait_for()
  page.wait_for_function('() => document.activeElement.matches(".bar.current")')
  original = _weights(page)

  def press(*keys):
    for key in keys:
      page.keyboard.press(key)

  press('3', *['ArrowRight'] * 10, '1')         # frame 1: 1, frame 11: 0
  press('ArrowRight', '2', *['ArrowUp'] * 2, 'Alt+ArrowDown')    # 0.59
  press('f', *['Shift+ArrowRight'] * 3, '1', 'x')  # 13 to 16: 0, left out
  press('End', 'd', '3', 'v', 'Home', *['Shift+ArrowRight'] * 10, 'i')
  press('Escape', 'c')
  _count(page, '.bar.out', '== 4')
  want = list(original)
  want[:11] = np.round(np.linspace(1, 0, 11), 4).tolist()
  want[11] = 0.59
  want[12:16] = [0] * 4
  want[46] = 1
  np.testing.assert_allclose(_weights(page), want, atol=1e-6)
  assert page.locator('.bar.current').get_attribute('aria-label') == 'Frame 1'
  press('Control+s')
  _saved(page)
  edit = _edit(session)
  np.testing.assert_allclose(edit.edited, want, atol=1e-6)
  assert [i for i, m in enumerate(edit.mask) if not m] == [12, 13, 14, 15]
  assert edit.status == 'draft'
  press('Home', 'r', '?')
  page.get_by_role('dialog', name='How to edit').wait_for()
  press('1', 'Escape')         # in the help, keys do nothing to the video
  press('Control+Enter')
  page.locator('#name', has_text='grow/0001').wait_for()
  edit = _edit(session)
  assert edit.status == 'submitted'
  assert edit.edited[0] == original[0]
  assert page.locator('#progress-text').inner_text().startswith('1 of')
  press('p')
  page.locator('#name', has_text='appear/0000').wait_for()
  press('n')
  page.locator('#name', has_text='grow/0001').wait_for()
  press('s')
  page.locator('#name', has_text='appear/0008').wait_for()
  assert _edit(session, 'train/grow/0001.mp4').status == 'skipped'


def test_every_control_is_reached_named_and_marked(page):
  page.locator('.bar').first.wait_for()
  unnamed = page.evaluate('''() => {
    const controls = 'button, input, select, textarea, [role=slider]';
    const text = (label) => {
      const copy = label.cloneNode(true);
      copy.querySelectorAll(controls).forEach((e) => e.remove());
      return copy.textContent.trim();
    };
    return [...document.querySelectorAll(controls)].filter((e) =>
      e.offsetParent && !e.ariaLabel && !(e.labels?.length
      ? text(e.labels[0]) : e.matches('button') && e.textContent.trim())
      ).map((e) => e.outerHTML);
  }''')
  assert unnamed == []
  reached = set()
  page.locator('#who').focus()
  for _ in range(80):
    page.keyboard.press('Tab')
    reached.add(page.evaluate('document.activeElement.id || '
                              'document.activeElement.className'))
    width = page.evaluate('''() => document.activeElement === document.body
        ? '3px' : document.activeElement.matches('.bar')
        ? getComputedStyle(document.querySelector('.scroller')).outlineWidth
        : getComputedStyle(document.activeElement).outlineWidth''')
    assert width == '3px', page.evaluate('document.activeElement.outerHTML')
  wanted = page.evaluate('''() => [...document.querySelectorAll(
      'button, input, select, textarea')].filter((e) => e.offsetParent && e.id
      && !e.disabled).map((e) => e.id)''')
  assert set(wanted) <= reached
  assert any(name.startswith('bar') for name in reached)


def test_draft_is_found_after_a_reload(page, session):
  page.keyboard.press('3')
  page.get_by_label('Note').fill('<img src=x onerror=alert(1)>')
  _saved(page)
  page.reload()
  page.locator('.bar').first.wait_for()
  _saved(page)
  assert _weights(page)[0] == 1
  assert page.get_by_label('Note').input_value().startswith('<img')
  assert _edit(session).note == '<img src=x onerror=alert(1)>'
  assert page.locator('#queue .state').first.inner_text() == '◐ draft'


def test_edit_of_another_length_is_not_drawn(page, session):
  page.keyboard.press('3')
  _saved(page)
  edit = _edit(session)
  session[1].save(dataclasses.replace(
      edit, num_frames=2, frame_indices=(0,), original=(0, 0), edited=(1, 1),
      mask=(1, 1)), edit.revision)
  page.reload()
  page.locator('.bar').first.wait_for()
  np.testing.assert_allclose(_weights(page), _first_attention(), atol=1e-4)
  page.keyboard.press('1')
  page.locator('#saved', has_text='Not saved yet').wait_for()
  _saved(page)
  assert _edit(session).revision == edit.revision + 2
  assert _edit(session).num_frames == LENGTH


def test_unsaved_work_outlives_a_closed_page_and_a_dead_server(
    page, context, session):
  page.route('**/api/edit', lambda route: route.abort())
  page.keyboard.press('3')
  page.locator('#saved', has_text='Not saved, but kept in this browser. The '
               'server does not answer').wait_for()
  page.close()
  again = context.new_page()
  again.goto(session[0])
  again.locator('.bar.changed').wait_for()
  assert _weights(again)[0] == 1
  _saved(again)
  assert _edit(session).edited[0] == 1
  again.reload()
  _saved(again)
  assert again.evaluate('Object.keys(localStorage).length') == 1  # the name


def test_full_disk_is_said_and_saved_later(page, session, monkeypatch):
  monkeypatch.setattr(store_lib, 'os', editing.FullDisk())
  page.keyboard.press('3')
  page.locator('#saved', has_text='No space left on device').wait_for()
  monkeypatch.undo()
  _saved(page)
  assert _edit(session).edited[0] == 1


@pytest.mark.parametrize('choice, mine', [
    ('Keep yours', True), ('Take the stored one', False),
    ('Decide later', None)])
def test_conflict_between_two_pages_shows_both(page, context, session, choice,
                                               mine):
  other = context.new_page()
  other.goto(session[0])
  other.locator('.bar').first.wait_for()
  page.bring_to_front()
  page.keyboard.press('3')
  _saved(page)
  other.bring_to_front()
  other.keyboard.press('1')
  dialog = other.get_by_role('dialog', name='Saved elsewhere meanwhile')
  dialog.wait_for()
  assert ('differ at 1 of 48 frames, most at frame 1: 0.00 here, 1.00 there'
          in dialog.inner_text())
  lines = [other.locator(f'#conflict-curves .{name}').get_attribute('d')
           for name in ('mine', 'theirs')]
  assert lines[0] != lines[1]
  assert lines[0].startswith('M0.5 1L') and lines[1].startswith('M0.5 0L')
  dialog.get_by_role('button', name=choice).click()
  dialog.wait_for(state='hidden')
  if mine is None:
    other.locator('#saved', has_text='Not saved: another version').wait_for()
    assert _edit(session).edited[0] == 1
    assert _weights(other)[0] == 0
    other.keyboard.press('Control+s')
    dialog.wait_for()
    dialog.get_by_role('button', name='Keep yours').click()
    mine = True
  _saved(other)
  assert _edit(session).edited[0] == (0 if mine else 1)
  other.wait_for_function(
      '(w) => document.querySelector(".bar").ariaValueNow == w',
      arg=0 if mine else 1)
  saves, _ = store_lib.read(session[1].path)
  assert {save.edited[0] for save in saves} == ({0, 1} if mine else {1})


def test_other_annotators_are_shown_and_can_be_taken(page, context, session):
  page.keyboard.press('3')
  page.get_by_label('Note').fill('Look <b>here</b>')
  page.keyboard.press('Control+Enter')
  page.locator('#name', has_text='grow/0001').wait_for()
  page.get_by_role('button', name='Editing as Ada').click()
  page.locator('#annotator').fill('Grace')
  page.keyboard.press('Enter')
  page.locator('#name', has_text='grow/0001').wait_for()
  page.locator('#queue b', has_text='appear/0000').click()
  page.locator('#others', has_text='Ada: Submitted').wait_for()
  assert '“Look <b>here</b>”' in page.locator('#others').inner_text()
  assert page.locator('#others b').count() == 0
  page.locator('#others input').check()
  assert page.locator('.curves .person').count() == 1
  assert _weights(page)[0] != 1
  page.get_by_role('button', name='Take the curve of Ada').click()
  _saved(page)
  assert _edit(session, who='Grace').edited == _edit(session).edited
  assert _edit(session).annotator == 'Ada'


def test_second_person_is_led_to_another_video(page, grace):
  # Ada, who has `page`, came first.
  grace.locator('#name', has_text='grow/0001').wait_for()
  grace.locator('#queue b', has_text='appear/0000').click()
  grace.locator('#held', has_text='Ada also works on this').wait_for()


def test_bars_stay_in_place_whatever_arrives_later(context, grace, session):
  grace.locator('#queue b', has_text='appear/0000').click()
  grace.locator('#name', has_text='appear/0000').wait_for()
  page = context.new_page()
  held_back, late = [], re.compile('/api/(film|lease)')
  page.route(late, lambda route: held_back.append(route))
  page.goto(session[0])
  benchmark.sign_in(page)
  page.locator('#queue b', has_text='appear/0000').click()
  page.locator('#name', has_text='appear/0000').wait_for()
  before = benchmark.bars_box(page)
  assert not page.locator('#held').inner_text()
  page.route(late, lambda route: route.continue_())
  for route in held_back:
    route.continue_()
  page.locator('#held', has_text='Grace also works').wait_for()
  page.wait_for_function(
      '() => document.querySelector(".thumb").style.backgroundImage')
  assert benchmark.bars_box(page) == before
  # More rows of predictions, too.
  page.keyboard.press('e')
  page.locator('#prediction .true td').nth(1).locator('span').wait_for()
  assert benchmark.bars_box(page) == before


def test_predicting_again_changes_the_table(page):
  table = page.locator('#prediction tbody')
  before = table.locator('.true .share span').first.inner_text()
  assert table.locator('.true th').inner_text() == 'appear'
  benchmark.drag(page, [(0.01, 0.02), (0.24, 0.0), (0.26, 1), (0.74, 1),
                        (0.76, 0), (0.99, 0)])
  page.keyboard.press('e')
  after = table.locator('.true td').nth(1).locator('span')
  after.wait_for()
  share = [float(text.removesuffix(' %')) for text in (
      before, after.inner_text())]
  assert share[1] > share[0] + 10
  page.keyboard.press('Control+z')
  page.locator('#rerun-text', has_text='of an earlier curve').wait_for()
  page.keyboard.press('Control+Shift+z')
  page.wait_for_function(
      '() => !document.getElementById("rerun-text").textContent')


def _pixels(page):
  url = page.evaluate('() => document.getElementById("screen").toDataURL()')
  data = base64.b64decode(url.partition(',')[2])
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'), float)


def test_player_shows_the_frame_plays_a_selection_and_the_heat_map(page):
  page.wait_for_load_state('networkidle')
  frames = benchmark.frames('appear', 0, LENGTH).astype(float)
  for key, frame in (('Home', 0), ('f', 1), ('c', 0), ('End', 47), ('d', 46),
                     ('d', 45), ('c', 35)):
    page.keyboard.press(key)
    page.locator('#frame-text', has_text=f'Frame {frame + 1} of 48').wait_for()
    shown = _pixels(page)
    differences = np.abs(frames - shown).mean((1, 2, 3))
    assert differences[frame] == differences.min() < 4, frame  # JPEG
  page.keyboard.press('End')
  page.locator('#frame-text', has_text='Frame 48 of 48').wait_for()
  last = _pixels(page)
  page.keyboard.press('h')
  page.wait_for_function('() => !document.getElementById("scale").hidden')
  page.wait_for_timeout(200)
  heated = _pixels(page)
  over = (heated - 0.6 * last) / 0.4         # the map itself
  found, _, _ = benchmark.pretend(40, LENGTH)
  y, x = np.unravel_index(found.spatial_attention[0, 0, -1].argmax(), (14, 14))
  np.testing.assert_allclose(
      over[16 * y + 8, 16 * x + 8], [253, 231, 37], atol=40)
  np.testing.assert_allclose(over[-3, -3], [68, 1, 84], atol=40)
  page.keyboard.press('Home')
  for _ in range(4):
    page.keyboard.press('Shift+ArrowRight')
  page.keyboard.press('Space')
  seen = set()
  for _ in range(30):
    seen.add(page.locator('#frame-text').inner_text().split()[1])
    page.wait_for_timeout(25)
  assert seen == {'1', '2', '3', '4', '5'}
  page.keyboard.press('Space')
  page.locator('#selection-text', has_text='5 selected (1 to 5)'
               ).wait_for()


@pytest.mark.parametrize('size', benchmark.SIZES)
def test_nothing_is_cut_off(browser, session, size):
  context = browser.new_context(
      viewport={'width': size[0], 'height': size[1]})
  page = context.new_page()
  page.goto(session[0])
  benchmark.sign_in(page)
  page.wait_for_load_state('networkidle')
  assert page.evaluate('''() => [document.documentElement,
      document.getElementById('main')].every((e) =>
      e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight)''')
  cut = page.evaluate('''() => [...document.querySelectorAll('button')].filter(
      (e) => e.offsetParent && e.scrollWidth > e.clientWidth).map(
      (e) => e.id)''')
  assert cut == []
  context.close()


def test_long_videos_open_and_drag_quickly(browser):
  # Other work on the machine delays pages and frames; the best of three counts.
  with benchmark.session(300, 250) as (address, _):
    for _ in range(3):
      opened, frames = benchmark.measure(browser, address, benchmark.SIZES[0])
      quick = np.mean(np.asarray(frames) < 33.4)
      if min(opened) < 1 and quick >= 0.95:
        return
  pytest.fail(f'opened in {min(opened):.2f} s; {quick:.1%} of the frames took '
              'less than 33 ms')
