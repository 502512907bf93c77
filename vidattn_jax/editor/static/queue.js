// The list of videos, its filters, and how much of it is done.

import * as api from '/static/api.js';

const $ = (id) => document.getElementById(id);
const STATES = {new: '', draft: '◐ draft', submitted: '✓ submitted',
  skipped: '– skipped'};

export class Queue {
  // setup: what the server says of the session; open(id): shows a video.
  constructor(setup, open) {
    this.setup = setup;
    this.open = open;
    this.videos = [];
    this.current = null;
    for (const [select, names] of [['filter-split', setup.splits],
      ['filter-class', setup.classes]]) {
      $(select).append(...names.map((name, k) => new Option(
        name, select === 'filter-class' ? k : name)));
    }
    // Nothing is wrong with a network without weak classes; show all wrong.
    $('filter-weak').checked = setup.weak.length > 0;
    $('filter-weak').disabled = !setup.weak.length;
    for (const control of $('filters').querySelectorAll('input, select')) {
      control.addEventListener(
        control.type === 'search' ? 'input' : 'change', () => {
          clearTimeout(this.timer);
          this.timer = setTimeout(() => this.load(),
            control.type === 'search' ? 250 : 0);
        });
    }
  }

  query() {
    const query = {annotator: this.annotator, split: $('filter-split').value};
    for (const [key, id] of [['wrong', 'filter-wrong'],
      ['weak', 'filter-weak']]) {
      if ($(id).checked) query[key] = 1;
    }
    for (const [key, id] of [['class', 'filter-class'],
      ['status', 'filter-status'], ['text', 'filter-text']]) {
      if ($(id).value) query[key] = $(id).value;
    }
    return query;
  }

  async load() {
    const turn = this.turn = (this.turn || 0) + 1;
    const found = await api.get('queue', this.query());
    if (turn !== this.turn) return;
    // The open video stays in the list until another one is opened.
    const stays = this.videos.find(({id}) => id === this.current);
    const place = this.videos.indexOf(stays);
    this.videos = found.videos;
    if (stays && !this.videos.some(({id}) => id === this.current)
        && $('filter-status').value) {
      this.videos.splice(Math.min(place, this.videos.length), 0, stays);
    }
    this.draw(found);
  }

  draw({matched, total, done}) {
    $('queue').replaceChildren(...this.videos.map((video) => this.row(video)));
    $('queue-text').textContent = matched > this.videos.length
      ? `First ${this.videos.length} of ${matched} videos`
      : `${matched} video${matched === 1 ? '' : 's'} shown`;
    const text = total ? `${done} of ${total} done` : 'No videos';
    $('progress-text').textContent = text;
    $('progress').max = total || 1;
    $('progress').value = done;
    this.mark(this.current);
  }

  row(video) {
    const {classes} = this.setup;
    const item = document.createElement('li');
    const button = document.createElement('button');
    const [name, what, state] = ['b', 'small', 'span'].map(
      (tag) => document.createElement(tag));
    name.textContent = video.id;
    what.textContent = video.label < 0
      ? `predicted ${classes[video.predicted]}`
      : video.label === video.predicted ? `${classes[video.label]}, right`
        : `${classes[video.label]}, predicted ${classes[video.predicted]}`;
    state.className = `state ${video.status}`;
    state.textContent = STATES[video.status];
    button.append(name, state, what);
    const others = Object.keys(video.others);
    if (others.length || video.held.length) {
      const more = document.createElement('small');
      more.textContent = [
        others.length ? `also edited by ${others.join(', ')}` : '',
        video.held.length ? `open at ${video.held.join(', ')}` : '',
      ].filter(Boolean).join('; ');
      button.append(more);
    }
    button.addEventListener('click', () => this.open(video.id));
    item.append(button);
    return item;
  }

  // Shows which video is open.
  mark(id) {
    this.current = id;
    this.videos.forEach((video, k) => {
      const button = $('queue').children[k]?.firstChild;
      if (video.id === id) {
        button?.setAttribute('aria-current', true);
        button?.scrollIntoView({block: 'nearest'});
      } else button?.removeAttribute('aria-current');
    });
  }

  // Notes what became of a video, without asking the server.
  note(id, status) {
    const video = this.videos.find((v) => v.id === id);
    if (!video || video.status === status) return;
    const finished = (s) => s === 'submitted' || s === 'skipped';
    const by = finished(status) - finished(video.status);
    video.status = status;
    $('progress').value += by;
    $('progress-text').textContent =
      `${$('progress').value} of ${$('progress').max} done`;
    const state = $('queue').children[this.videos.indexOf(video)]
      .querySelector('.state');
    state.className = `state ${status}`;
    state.textContent = STATES[status];
  }

  // The video before or after the open one; `todo` passes over those that are
  // done or open elsewhere.
  near(by, todo = false) {
    const count = this.videos.length;
    const from = this.videos.findIndex(({id}) => id === this.current);
    for (let k = 1; k <= count; k++) {
      const video = this.videos[(((from + by * k) % count) + count) % count];
      if (video.id === this.current) continue;
      if (!todo || (['new', 'draft'].includes(video.status)
                    && !video.held.length)) return video.id;
    }
    return null;
  }
}
