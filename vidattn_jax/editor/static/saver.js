// Keeps one video's edit: in this browser at once, on the server soon after.

import * as api from '/static/api.js';

const AFTER = 1000; // Milliseconds after the last change.
const AGAIN = 5000; // Milliseconds until a failed save is tried again.
const IDLE = 60000; // Milliseconds without a sign of life that do not count.

export class Saver {
  // content(): {edited, mask, note}; stored: the edit on the server, or null;
  // on: {state(name, text), conflict(edit)}.
  constructor(video, annotator, stored, content, on) {
    Object.assign(this, {video, annotator, content, on});
    this.adopt(stored);
    this.key = `vidattn ${JSON.stringify([annotator, video])}`;
    this.version = 0;
    this.savedVersion = 0;
    this.wanted = null;
    this.sending = null;
    this.stopped = false;
    this.seconds = stored?.seconds ?? 0;
    this.alive = performance.now();
    this.counted = this.alive;
  }

  adopt(stored) {
    this.revision = stored?.revision ?? 0;
    this.status = stored?.status ?? 'new';
  }

  get dirty() {
    return this.version !== this.savedVersion;
  }

  // Counts time while the person is there.
  sign() {
    const now = performance.now();
    if (now - this.alive < IDLE) this.seconds += (now - this.counted) / 1000;
    this.alive = this.counted = now;
  }

  // What this browser has and the server has not: {revision, content} or null.
  local() {
    try {
      return JSON.parse(localStorage.getItem(this.key));
    } catch {
      return null;
    }
  }

  keepLocal() {
    try {
      localStorage.setItem(this.key, JSON.stringify(
        {revision: this.revision, content: this.content()}));
    } catch {
      // No room or no permission; the server is soon told.
    }
  }

  forget() {
    localStorage.removeItem(this.key);
  }

  // Something changed.
  touch() {
    this.version++;
    this.keepLocal();
    this.on.state('unsaved', 'Not saved yet');
    if (this.stopped) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save('draft'), AFTER);
  }

  // Saves now; resolves to whether the server has everything.
  async save(status) {
    clearTimeout(this.timer);
    this.stopped = false;
    this.wanted = status;
    this.sending ??= this.send().finally(() => { this.sending = null; });
    return this.sending;
  }

  async send() {
    while (this.wanted) {
      const [status, version] = [this.wanted, this.version];
      this.wanted = null;
      this.sign();
      this.on.state('unsaved', 'Saving …');
      try {
        const {edit} = await api.put('edit', {
          video: this.video, annotator: this.annotator, status,
          seconds: Math.round(this.seconds * 10) / 10, ...this.content(),
        }, this.revision);
        this.adopt(edit);
        this.savedVersion = version;
        if (!this.dirty) this.forget();
        this.on.state(this.dirty ? 'unsaved' : 'saved',
          this.dirty ? 'Not saved yet' : says(edit));
      } catch (error) {
        this.fail(error, status);
        return false;
      }
    }
    return !this.dirty;
  }

  fail(error, status) {
    this.keepLocal();
    if (error.status === 409) {
      this.stopped = true;
      this.on.state('failed', 'Saved elsewhere meanwhile');
      this.on.conflict(error.body.edit, status);
      return;
    }
    this.on.state('failed', `Not saved, but kept in this browser. ${
      error.message}`);
    // What the server refuses it will refuse again.
    if (error.status && error.status < 500) return;
    this.timer = setTimeout(() => this.save(status), AGAIN);
  }

  // The person chose the stored edit.
  yieldTo(edit) {
    clearTimeout(this.timer);
    this.adopt(edit);
    this.stopped = false;
    this.savedVersion = this.version;
    this.forget();
    this.on.state('saved', says(edit));
  }

  // Saves what is open, if anything.
  async close() {
    clearTimeout(this.timer);
    if (this.dirty && !this.stopped) await this.save('draft');
  }
}

export function says(edit) {
  const names = {draft: 'Draft saved', submitted: 'Submitted',
    skipped: 'Skipped'};
  const time = new Date(edit.updated).toLocaleTimeString([],
    {hour: '2-digit', minute: '2-digit', second: '2-digit'});
  return `${names[edit.status]}, ${time}`;
}
