// Bars, curves and thumbnails of all frames, and drawing on them.

import {path} from '/static/curve.js';

const THUMB = 44; // Least width of a thumbnail, pixels.
const WIDEST = 84;
// Least widths of a bar, pixels, with its weight below it, short and in full.
const NUMBERED = 18;
const ROOMY = 34;
const $ = (id) => document.getElementById(id);

export class Timeline {
  // curve: a Curve; sheets: a Sheets; on: {started(), moved(), changed()}.
  constructor(curve, sheets, on) {
    this.curve = curve;
    this.sheets = sheets;
    this.on = on;
    this.zoom = 1;
    this.people = [];
    this.shown = [];
    this.bars = curve.original.map((_, i) => {
      const bar = document.createElement('div');
      bar.className = 'bar';
      bar.setAttribute('role', 'slider');
      bar.setAttribute('aria-label', `Frame ${i + 1}`);
      bar.setAttribute('aria-valuemin', 0);
      bar.setAttribute('aria-valuemax', 1);
      bar.setAttribute('aria-orientation', 'vertical');
      return bar;
    });
    $('bars').replaceChildren(...this.bars);
    $('curves').setAttribute('viewBox', `0 0 ${curve.length} 1`);
    this.drawCurves();
    this.layOut();
    this.listener = new AbortController();
    this.listen();
  }

  close() {
    this.listener.abort();
  }

  // --- Size ---------------------------------------------------------------

  layOut() {
    const room = $('scroller').clientWidth;
    const fit = Math.min(room / this.curve.length, WIDEST);
    this.width = Math.min(fit * this.zoom, Math.max(WIDEST, fit));
    this.group = Math.max(1, Math.ceil(THUMB / this.width));
    const style = $('track').style;
    style.setProperty('--width', `${this.width}px`);
    style.setProperty('--cell', `${this.width * this.group}px`);
    style.setProperty('--track', `${this.width * this.curve.length}px`);
    style.setProperty('--gap', this.width < 6 ? '0px' : '1px');
    this.makeCells();
    this.shown = [];
    this.render();
  }

  setZoom(zoom) {
    const widest = WIDEST * this.curve.length / $('scroller').clientWidth;
    this.zoom = zoom === 0 ? 1 : Math.min(Math.max(this.zoom * zoom, 1),
      Math.max(widest, 1));
    this.layOut();
    this.reveal('center');
  }

  reveal(where = 'nearest') {
    const [left, room] = [this.curve.current * this.width,
      $('scroller').clientWidth];
    const scroller = $('scroller');
    const seen = left >= scroller.scrollLeft
      && left + this.width <= scroller.scrollLeft + room;
    if (where === 'center' || !seen) {
      scroller.scrollLeft = left - (room - this.width) / 2;
    }
  }

  // --- Thumbnails ---------------------------------------------------------

  makeCells() {
    this.cells = [];
    this.values = [];
    const make = (tag, name, text = '') => Object.assign(
      document.createElement(tag), {className: name, textContent: text});
    for (let i = 0; i < this.curve.length; i += this.group) {
      const [cell, thumb] = [make('div', 'cell'), make('div', 'thumb')];
      const values = make('div', this.width < ROOMY ? 'values fine' : 'values');
      const end = this.width < NUMBERED ? i + 1
        : Math.min(i + this.group, this.curve.length);
      for (let k = i; k < end; k++) {
        values.append(this.values[k] = make('span', ''));
      }
      cell.append(thumb, values, make('b', 'number', i + 1));
      this.cells.push({cell, thumb, frame: i});
    }
    $('cells').replaceChildren(...this.cells.map(({cell}) => cell));
    this.fillThumbs();
  }

  fillThumbs() {
    for (const {thumb, frame} of this.cells) {
      const found = this.sheets.find(frame);
      if (!found) continue;
      const scale = (this.width * this.group - 1) / found.width;
      thumb.parentElement.parentElement.style.setProperty(
        '--thumb-height', `${found.height * scale}px`);
      thumb.style.backgroundImage = `url(${found.url})`;
      thumb.style.backgroundSize = `${found.image.naturalWidth * scale}px auto`;
      thumb.style.backgroundPosition =
        `${-found.x * scale}px ${-found.y * scale}px`;
    }
  }

  // --- Curves -------------------------------------------------------------

  // people: edits whose curves are drawn, too.
  drawCurves(people = this.people) {
    this.people = people;
    const lines = [['network', this.curve.original],
      ...people.map(({edited}, k) => [`person person-${k % 4}`, edited])];
    $('curves').replaceChildren(...lines.map(([name, weights]) => {
      const line = document.createElementNS('http://www.w3.org/2000/svg',
        'path');
      line.setAttribute('class', name);
      line.setAttribute('d', path(weights));
      return line;
    }));
  }

  // --- State --------------------------------------------------------------

  // Draws what has changed.
  render() {
    const {curve} = this;
    const [first, last] = curve.selection();
    for (let i = 0; i < curve.length; i++) {
      const state = `${curve.edited[i]} ${curve.mask[i]} `
        + `${last > first && first <= i && i <= last} ${i === curve.current}`;
      if (this.shown[i] !== state) {
        this.shown[i] = state;
        this.renderBar(i, last > first && first <= i && i <= last);
      }
    }
    for (const {cell, frame} of this.cells) {
      cell.classList.toggle('current', frame <= curve.current
        && curve.current < frame + this.group);
    }
  }

  renderBar(i, selected) {
    const {curve} = this;
    const [bar, weight] = [this.bars[i], curve.edited[i]];
    bar.style.setProperty('--weight', weight);
    bar.className = 'bar' + (curve.isChanged(i) ? ' changed' : '')
      + (curve.mask[i] ? '' : ' out') + (selected ? ' selected' : '')
      + (i === curve.current ? ' current' : '');
    bar.tabIndex = i === curve.current ? 0 : -1;
    const value = this.values[i];
    if (value) {
      const text = weight.toFixed(2);
      value.textContent = this.width < NUMBERED || this.width >= ROOMY ? text
        : {'0.00': '0', '1.00': '1'}[text] ?? text.slice(1);
      value.classList.toggle('changed', curve.isChanged(i));
      value.classList.toggle('out', !curve.mask[i]);
    }
    bar.setAttribute('aria-valuenow', weight);
    bar.setAttribute('aria-valuetext', weight.toFixed(2)
      + (curve.isChanged(i) ? `, was ${curve.original[i].toFixed(2)}` : '')
      + (curve.mask[i] ? '' : ', left out') + (selected ? ', selected' : ''));
  }

  focus() {
    this.bars[this.curve.current].focus({preventScroll: true});
  }

  // --- Mouse and pen ------------------------------------------------------

  listen() {
    const {signal} = this.listener;
    const bars = $('bars');
    let stroke = null;
    const place = (event) => {
      const box = bars.getBoundingClientRect();
      const frame = Math.floor((event.clientX - box.left) / this.width);
      const weight = 1 - (event.clientY - box.top) / box.height;
      // The ends are easy to hit.
      const eased = weight > .97 ? 1 : weight < .03 ? 0 : weight;
      return {frame: Math.min(Math.max(frame, 0), this.curve.length - 1),
        weight: Math.round(eased * 100) / 100};
    };
    const move = (event) => {
      if (!stroke) return;
      const to = place(event);
      if (!stroke.selects) this.curve.paint(stroke.from, to);
      this.curve.go(to.frame, stroke.selects);
      stroke.from = to;
      this.on.moved();
    };
    bars.addEventListener('pointerdown', (event) => {
      if (event.button) return;
      event.preventDefault();
      bars.setPointerCapture(event.pointerId);
      this.on.started();
      const from = place(event);
      stroke = {from, selects: event.shiftKey};
      if (stroke.selects) this.curve.go(from.frame, true);
      else this.curve.begin();
      move(event);
      this.focus();
    }, {signal});
    bars.addEventListener('pointermove', move, {signal});
    const end = () => {
      if (!stroke) return;
      const painted = !stroke.selects;
      stroke = null;
      if (painted && this.curve.commit()) this.on.changed();
    };
    bars.addEventListener('pointerup', end, {signal});
    bars.addEventListener('pointercancel', end, {signal});
    $('cells').addEventListener('click', (event) => {
      const found = this.cells.find(({cell}) => cell.contains(event.target));
      if (!found) return;
      this.on.started();
      this.curve.go(found.frame, event.shiftKey);
      this.on.moved();
    }, {signal});
    window.addEventListener('resize', () => this.layOut(), {signal});
  }
}
