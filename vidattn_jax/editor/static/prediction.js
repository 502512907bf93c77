// What the network says of a video, with its own weights and with yours.

import * as api from '/static/api.js';
import {same} from '/static/curve.js';

const $ = (id) => document.getElementById(id);
const MOST = 5;

export class Prediction {
  // setup: of the session; video: what the server says of it.
  constructor(setup, video) {
    this.setup = setup;
    this.video = video;
    this.after = null;
    this.asked = null;
    this.old = false;
    $('rerun').disabled = !setup.rerun;
    $('rerun-text').textContent = setup.rerun ? ''
      : 'not possible without the weights';
    this.draw();
  }

  // The curve is another one than that of the last prediction.
  outdate(curve) {
    this.old = this.after !== null && !same(curve.edited, this.asked);
    $('prediction').classList.toggle('old', this.old);
    if (this.after) {
      $('rerun-text').textContent = this.old ? 'of an earlier curve' : '';
    }
  }

  async rerun(curve) {
    if (!this.setup.rerun || this.busy) return;
    this.busy = true;
    const edited = [...curve.edited];
    $('rerun').disabled = true;
    $('rerun-text').textContent = 'The network looks again …';
    try {
      const {probabilities} = await api.post('rerun',
        {video: this.video.id, edited});
      this.after = probabilities;
      this.asked = edited;
      $('rerun-text').textContent = '';
      this.outdate(curve);
      this.draw();
    } catch (error) {
      $('rerun-text').textContent = error.message;
    }
    this.busy = false;
    $('rerun').disabled = false;
  }

  draw() {
    const {probabilities, label} = this.video;
    const rank = (shares) => shares.map((share, k) => [share, k])
      .sort((a, b) => b[0] - a[0]).slice(0, MOST).map(([, k]) => k);
    const shown = [...new Set([...rank(probabilities).slice(0, 3),
      ...(label < 0 ? [] : [label]),
      ...(this.after ? rank(this.after).slice(0, 3) : []),
      ...rank(probabilities)])].slice(0, MOST + 1);
    const best = this.after || probabilities;
    shown.sort((a, b) => best[b] - best[a]);
    $('prediction').tBodies[0].replaceChildren(...shown.map((k) => {
      const row = document.createElement('tr');
      row.classList.toggle('true', k === label);
      const head = document.createElement('th');
      head.scope = 'row';
      head.textContent = this.setup.classes[k];
      row.append(head, cell(probabilities[k]), cell(this.after?.[k]));
      return row;
    }));
  }
}

function cell(share) {
  const td = document.createElement('td');
  if (share === undefined) {
    td.textContent = '–';
    return td;
  }
  const box = document.createElement('div');
  const [bar, text] = [document.createElement('i'),
    document.createElement('span')];
  box.className = 'share';
  text.textContent = `${(100 * share).toFixed(1)} %`;
  bar.style.setProperty('--share', `${100 * share}%`);
  box.append(bar, text);
  td.append(box);
  return td;
}
