// The page: opens videos, and joins queue, timeline, player and saver.

import * as api from '/static/api.js';
import {Editing} from '/static/editing.js';
import {listenToKeys} from '/static/keys.js';
import {drawScale} from '/static/player.js';
import {Queue} from '/static/queue.js';

const $ = (id) => document.getElementById(id);
const NAME = 'vidattn annotator';
const LEASE = 60000;

export function say(text) {
  $('announce').textContent = text;
}

class Page {
  async start() {
    drawScale();
    this.setup = await api.get('setup');
    $('annotators').replaceChildren(
      ...this.setup.annotators.map((name) => new Option(name)));
    $('note').maxLength = this.setup.maxNote;
    this.queue = new Queue(this.setup, (id) => this.open(id));
    this.listen();
    const name = localStorage.getItem(NAME);
    if (name) await this.enter(name);
    else this.askName();
  }

  listen() {
    $('who').addEventListener('click', () => this.askName());
    $('help-button').addEventListener('click', () => $('help').showModal());
    $('sign-in-form').addEventListener('submit', (event) => {
      const name = $('annotator').value.trim();
      // As the server demands it.
      if (!/^[\p{L}\p{N}_.@+-]+( [\p{L}\p{N}_.@+-]+)*$/u.test(name)) {
        event.preventDefault();
        $('sign-in-error').textContent = 'Letters, digits, single spaces and '
          + '. _ - @ + make a name.';
        return;
      }
      $('sign-in-error').textContent = '';
      localStorage.setItem(NAME, name);
      this.enter(name).catch((error) => this.fail(error));
    });
    listenToKeys(this);
    const buttons = {
      undo: 'undo', redo: 'redo', 'set-0': 'set0', 'set-5': 'set5',
      'set-1': 'set1', interpolate: 'interpolate', reset: 'reset',
      'leave-out': 'leaveOut', rerun: 'rerun', play: 'play'};
    for (const [id, act] of Object.entries(buttons)) {
      $(id).addEventListener('click', () => this.editing?.[act]());
    }
    for (const [id, factor] of [['zoom-out', 1 / 1.6], ['zoom-fit', 0],
      ['zoom-in', 1.6]]) {
      $(id).addEventListener('click', () => this.editing?.zoom(factor));
    }
    $('heat').addEventListener('change', () => this.editing?.toggleHeat());
    $('note').addEventListener('input', () => this.editing?.saver.touch());
    $('submit').addEventListener('click', () => this.finish('submitted'));
    $('skip').addEventListener('click', () => this.finish('skipped'));
    for (const type of ['pointerdown', 'keydown']) {
      document.addEventListener(type, () => this.editing?.saver.sign());
    }
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.editing?.saver.close();
    });
    setInterval(() => this.lease(), LEASE);
  }

  askName() {
    $('annotator').value = this.annotator || '';
    $('sign-in').showModal();
  }

  async enter(name) {
    if (name === this.annotator) return;
    await this.leave();
    this.annotator = this.queue.annotator = name;
    $('who').textContent = name;
    $('who').setAttribute('aria-label', `Editing as ${name}; change`);
    await this.queue.load();
    const asked = decodeURIComponent(location.hash.slice(1));
    const first = asked || this.queue.near(1, true) || this.queue.near(1);
    if (first) await this.open(first);
    else this.showEmpty();
  }

  async leave() {
    const editing = this.editing;
    this.editing = null;
    await editing?.close();
  }

  showEmpty() {
    $('main').hidden = true;
    $('empty').hidden = false;
    $('empty-text').textContent = $('progress').value
      ? 'All videos of this choice are done. Change the filters to see others.'
      : 'No video fits the filters. Loosen them to see others.';
  }

  async open(id) {
    const turn = this.turn = (this.turn || 0) + 1;
    try {
      await this.leave();
      const video = await api.get('video', {id});
      if (turn !== this.turn) return;
      history.replaceState(null, '', `#${encodeURIComponent(id)}`);
      $('main').hidden = false;
      $('empty').hidden = true;
      this.queue.mark(id);
      this.editing = new Editing(this, video);
      this.lease();
      $('main').scrollTop = 0;
      this.editing.timeline.focus();
    } catch (error) {
      this.fail(error);
    }
  }

  near(by) {
    const id = this.queue.near(by);
    if (id) this.open(id);
    else say('There is no other video in the queue.');
  }

  async finish(status) {
    const {editing} = this;
    if (!editing) return;
    if (!await editing.saver.save(status)) return;
    this.queue.note(editing.video.id, status);
    say(status === 'submitted' ? 'Submitted.' : 'Skipped.');
    const next = this.queue.near(1, true);
    if (next) this.open(next);
    else {
      await this.queue.load();
      await this.leave();
      this.showEmpty();
    }
  }

  async lease() {
    const {editing} = this;
    if (!editing || document.hidden) return;
    const {held} = await api.post('lease', {
      video: editing.video.id, annotator: this.annotator}).catch(
      () => ({held: []}));
    $('held').textContent = held.length
      ? `${held.join(', ')} also works on this video now.` : '';
  }

  fail(error) {
    $('saved').dataset.state = 'failed';
    $('saved').textContent = error.message;
  }
}

const page = new Page();
page.start().catch((error) => page.fail(error));
