// One open video: its curve and all that shows it.

import * as api from '/static/api.js';
import {resolveConflict} from '/static/conflict.js';
import {Curve, same} from '/static/curve.js';
import {Player} from '/static/player.js';
import {Prediction} from '/static/prediction.js';
import {Saver, says} from '/static/saver.js';
import {Sheets} from '/static/sheets.js';
import {Timeline} from '/static/timeline.js';

const $ = (id) => document.getElementById(id);

export class Editing {
  // page: the Page; video: what the server says of it.
  constructor(page, video) {
    this.page = page;
    this.video = video;
    const stored = video.edits.find(
      ({annotator}) => annotator === page.annotator);
    const {original} = video;
    // The video may have had another number of frames when it was edited.
    const fits = stored?.edited.length === original.length;
    this.curve = new Curve(original, fits ? stored.edited : original,
      fits ? stored.mask : original.map(() => 1));
    $('note').value = stored?.note ?? '';
    this.sheets = new Sheets(video.id, video.frames, page.setup.sheet,
      () => { this.timeline?.fillThumbs(); this.player?.draw(); },
      (error) => page.fail(error));
    this.timeline = new Timeline(this.curve, this.sheets, {
      started: () => this.player.pause(),
      moved: () => this.show(false),
      changed: () => this.changed()});
    this.player = new Player(this.curve, this.sheets, video, () => this.show());
    this.prediction = new Prediction(page.setup, video);
    this.saver = new Saver(video.id, page.annotator, stored,
      () => ({edited: this.curve.edited, mask: this.curve.mask,
        note: $('note').value}),
      {state: (name, text) => this.showState(name, text),
        conflict: (edit, status) => resolveConflict(this, edit, status)});
    this.showState(stored ? 'saved' : 'idle', stored ? says(stored) : '');
    this.facts();
    this.listOthers(video.edits.filter((edit) => edit !== stored));
    this.restore(stored);
    this.show();
    if ($('heat').checked) this.toggleHeat();
  }

  async close() {
    this.closed = true;
    this.player.close();
    this.timeline.close();
    this.sheets.close();
    await this.saver.close();
  }

  facts() {
    const {classes} = this.page.setup;
    const {video} = this;
    $('name').textContent = video.id;
    const part = (text, strong) => {
      const span = document.createElement(strong ? 'b' : 'span');
      span.textContent = text;
      return span;
    };
    $('facts').replaceChildren(
      part('true class '),
      part(video.label < 0 ? 'unknown' : classes[video.label], true),
      part(', predicted '), part(classes[video.predicted], true),
      part(`, ${video.frames} frames, ${video.taken.length} of them seen, ${
        video.split} split`));
    $('screen').setAttribute('aria-label', `Frames of ${video.id}`);
  }

  // What an earlier page of this browser could not save.
  restore(stored) {
    const local = this.saver.local();
    if (!local || local.content.edited.length !== this.curve.length) return;
    const now = this.saver.content();
    if (same(local.content.edited, now.edited)
        && same(local.content.mask, now.mask)
        && local.content.note === now.note) {
      // It was stored, but the page was closed before it knew.
      this.saver.forget();
      return;
    }
    this.curve.take(local.content);
    $('note').value = local.content.note;
    // An edit that was saved elsewhere since then is a conflict.
    this.saver.revision = local.revision;
    this.changed();
    this.showState('unsaved', 'Restored from this browser');
  }

  // --- Showing ------------------------------------------------------------

  // Draws at the next frame what has changed; `reveal` scrolls there.
  show(reveal = true) {
    this.reveals ||= reveal;
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      if (this.closed) return;
      if (this.reveals) this.timeline.reveal();
      this.reveals = false;
      this.draw();
    });
  }

  draw() {
    const {curve, video} = this;
    this.timeline.render();
    this.player.draw();
    const i = curve.current;
    const seen = video.taken[this.player.nearest(i)];
    $('frame-text').textContent = `Frame ${i + 1} of ${curve.length}\nWeight ${
      curve.edited[i].toFixed(2)}${curve.mask[i] ? '' : ', left out'}`
      + (curve.isChanged(i) ? `\nNetwork ${curve.original[i].toFixed(2)}` : '');
    $('map-text').textContent = seen === i ? '' : `of frame ${seen + 1}`;
    const [first, last] = curve.selection();
    const changed = curve.edited.filter((_, k) => curve.isChanged(k)).length;
    $('selection-text').textContent = (last > first
      ? `${last - first + 1} selected (${first + 1} to ${last + 1}), `
      : '') + (changed ? `${changed} changed` : 'drag over the bars to draw');
    $('undo').disabled = !curve.past.length;
    $('redo').disabled = !curve.future.length;
  }

  showState(name, text) {
    if (this.closed) return;
    $('saved').dataset.state = name;
    $('saved').textContent = text;
    if (name === 'saved') {
      this.page.queue.note(this.video.id, this.saver?.status ?? 'draft');
    }
  }

  changed() {
    this.saver.touch();
    this.prediction.outdate(this.curve);
    this.show();
  }

  listOthers(edits) {
    const shown = new Set();
    const {length} = this.curve;
    const usable = edits.filter(({edited}) => edited.length === length);
    $('others').replaceChildren(...usable.map((edit) => {
      const item = document.createElement('li');
      const label = document.createElement('label');
      const box = document.createElement('input');
      box.type = 'checkbox';
      box.addEventListener('change', () => {
        if (box.checked) shown.add(edit);
        else shown.delete(edit);
        this.timeline.drawCurves([...shown]);
      });
      label.append(box, `${edit.annotator}: ${says(edit)}${
        edit.note ? ` – “${edit.note}”` : ''}`);
      const take = document.createElement('button');
      take.textContent = 'Take this curve';
      take.setAttribute('aria-label', `Take the curve of ${edit.annotator}`);
      take.addEventListener('click', () => {
        if (this.curve.take(edit)) this.changed();
      });
      item.append(label, take);
      return item;
    }));
    if (!usable.length) {
      const item = document.createElement('li');
      item.className = 'small';
      item.textContent = 'Nobody else has edited this video.';
      $('others').append(item);
    }
  }

  // --- Acting -------------------------------------------------------------

  go(i, extend = false) {
    this.player.pause();
    this.curve.go(i, extend);
    this.show();
    this.timeline.focus();
  }

  did(anything) {
    if (anything) this.changed();
    else this.show();
  }

  undo() { this.did(this.curve.undo()); }
  redo() { this.did(this.curve.redo()); }
  set0() { this.did(this.curve.setSelected(0)); }
  set5() { this.did(this.curve.setSelected(.5)); }
  set1() { this.did(this.curve.setSelected(1)); }
  move(by) { this.did(this.curve.moveSelected(by)); }
  interpolate() { this.did(this.curve.interpolate()); }
  reset() { this.did(this.curve.resetSelected()); }
  leaveOut() { this.did(this.curve.leaveOutSelected()); }
  selectAll() { this.curve.selectAll(); this.show(); }
  play() { this.player.toggle(); }
  zoom(factor) { this.timeline.setZoom(factor); }
  rerun() { this.prediction.rerun(this.curve); }

  async toggleHeat() {
    $('scale').hidden = !$('heat').checked;
    if ($('heat').checked && !this.player.maps) {
      try {
        this.player.setMaps(await api.bytes('maps', {id: this.video.id}));
      } catch (error) {
        this.page.fail(error);
      }
    }
    this.show();
  }
}
