// Two versions of one edit: shown beside each other, and chosen from.

import {difference, path} from '/static/curve.js';
import {says} from '/static/saver.js';

const $ = (id) => document.getElementById(id);

// editing: an Editing; edit: the stored version; status: what was wanted.
export function resolveConflict(editing, edit, status) {
  const {saver, curve} = editing;
  if (!edit) {
    // The file was taken away; this edit is the first one again.
    saver.revision = 0;
    saver.save(status);
    return;
  }
  const {count, largest, frame} = difference(curve.edited, edit.edited);
  $('conflict-text').textContent = `The stored version (${says(edit)}) is not `
    + `the one that you started from. The two curves differ at ${count} of ${
      curve.length} frames` + (count ? `, most at frame ${frame + 1}: ${
      curve.edited[frame].toFixed(2)} here, ${edit.edited[frame].toFixed(2)
      } there (${largest.toFixed(2)} apart).` : '.')
    + (edit.note ? ` Its note: “${edit.note}”.` : '');
  const chart = $('conflict-curves');
  chart.setAttribute('viewBox', `0 -0.04 ${curve.length} 1.08`);
  chart.setAttribute('aria-label', $('conflict-text').textContent);
  chart.replaceChildren(...[['mine', curve.edited], ['theirs', edit.edited]]
    .map(([name, weights]) => {
      const line = document.createElementNS('http://www.w3.org/2000/svg',
        'path');
      line.setAttribute('class', name);
      line.setAttribute('d', path(weights));
      return line;
    }));
  const dialog = $('conflict');
  dialog.returnValue = 'later';
  dialog.onclose = () => {
    if (dialog.returnValue === 'mine') {
      saver.revision = edit.revision;
      saver.save(status);
    } else if (dialog.returnValue === 'theirs') {
      curve.take(edit);
      $('note').value = edit.note;
      saver.yieldTo(edit);
      editing.prediction.outdate(curve);
      editing.show();
    } else {
      editing.showState('failed',
        'Not saved: another version is stored. Ctrl+S shows both.');
    }
    editing.timeline.focus();
  };
  if (!dialog.open) dialog.showModal();
}
