// Everything by keyboard.

const $ = (id) => document.getElementById(id);
const SINGLE = 'vidattn single keys off';

// [keys as shown, what they do], for the help.
const HELP = [
  ['← →  D F', 'frame before, after'], ['C V  PgUp PgDn', 'ten frames'],
  ['Home End', 'first, last frame'],
  ['↑ ↓', 'weight ± 0.05'], ['Alt ↑ ↓', 'weight ± 0.01'],
  ['1 2 3', 'weight 0, 0.5, 1'],
  ['Shift ← →', 'select more frames'], ['Ctrl A  Esc', 'select all, one'],
  ['Shift drag', 'select by mouse'],
  ['I', 'linear between the ends of the selection, or between the changed '
    + 'frames around this one'],
  ['R', 'back to the network’s weights'],
  ['X', 'leave out of training, or count again'],
  ['Ctrl Z  Ctrl Shift Z', 'undo, redo'],
  ['Space', 'play, pause; a selection alone'], ['L', 'loop'],
  ['H', 'heat map: where the network looks'], ['E', 'predict with your curve'],
  ['+ − 0', 'zoom in, out, fit'], ['Ctrl S', 'save a draft now'],
  ['Ctrl Enter', 'submit, next video'], ['S', 'skip this video'],
  ['N P', 'next, previous video'], ['?', 'this help']];

// What keys do to an open video; letters can be switched off.
const LETTERS = {
  d: (e) => e.go(e.curve.current - 1), f: (e) => e.go(e.curve.current + 1),
  c: (e) => e.go(e.curve.current - 10), v: (e) => e.go(e.curve.current + 10),
  1: (e) => e.set0(), 2: (e) => e.set5(), 3: (e) => e.set1(),
  i: (e) => e.interpolate(), r: (e) => e.reset(), x: (e) => e.leaveOut(),
  e: (e) => e.rerun(), s: (e) => e.page.finish('skipped'),
  n: (e) => e.page.near(1), p: (e) => e.page.near(-1),
  h: () => $('heat').click(), l: () => $('loop').click(),
  '+': (e) => e.zoom(1.6), '=': (e) => e.zoom(1.6), '-': (e) => e.zoom(1 / 1.6),
  0: (e) => e.zoom(0)};

const ARROWS = {
  ArrowLeft: (e, event) => e.go(e.curve.current - 1, event.shiftKey),
  ArrowRight: (e, event) => e.go(e.curve.current + 1, event.shiftKey),
  ArrowUp: (e, event) => e.move(event.altKey ? .01 : .05),
  ArrowDown: (e, event) => e.move(event.altKey ? -.01 : -.05),
  PageUp: (e, event) => e.go(e.curve.current - 10, event.shiftKey),
  PageDown: (e, event) => e.go(e.curve.current + 10, event.shiftKey),
  Home: (e, event) => e.go(0, event.shiftKey),
  End: (e, event) => e.go(e.curve.length - 1, event.shiftKey),
  Escape: (e) => e.go(e.curve.current)};

const CONTROL = {
  z: (e, event) => (event.shiftKey ? e.redo() : e.undo()),
  y: (e) => e.redo(), s: (e) => e.saver.save('draft'),
  a: (e) => e.selectAll(), Enter: (e) => e.page.finish('submitted')};

// page: the Page; its `editing` is what keys act on.
export function listenToKeys(page) {
  $('keys').replaceChildren(...HELP.map(([keys, what]) => {
    const [row, left] = ['div', 'span'].map((tag) => document.createElement(
      tag));
    left.append(...keys.split('  ').flatMap((key, k) => {
      const cap = document.createElement('kbd');
      cap.textContent = key;
      return k ? [' ', cap] : [cap];
    }));
    row.append(left, what);
    return row;
  }));
  const single = $('single-keys');
  single.checked = !localStorage.getItem(SINGLE);
  single.addEventListener('change', () => single.checked
    ? localStorage.removeItem(SINGLE) : localStorage.setItem(SINGLE, 1));
  document.addEventListener('keydown', (event) => act(page, event));
}

function act(page, event) {
  if (document.querySelector('dialog[open]')) return;
  const {target, key} = event;
  const writes = target.matches('textarea, select, input:not([type=checkbox])');
  const control = event.ctrlKey || event.metaKey;
  const letter = key.length === 1 ? key.toLowerCase() : key;
  let does;
  if (control) {
    // In a text, undoing and choosing all are the text's own.
    does = writes && 'zya'.includes(letter) ? null : CONTROL[letter];
  } else if (writes) {
    if (key === 'Escape') page.editing?.timeline.focus();
    return;
  } else if (key === '?') {
    does = () => $('help').showModal();
  } else if (ARROWS[key] && !(target.closest('nav, .side'))) {
    does = ARROWS[key];
  } else if (key === ' ' && !target.matches('button, summary, input')) {
    does = (e) => e.play();
  } else if ($('single-keys').checked && !event.altKey) {
    does = LETTERS[letter];
  }
  if (!does || (!page.editing && key !== '?')) return;
  event.preventDefault();
  does(page.editing, event);
}
