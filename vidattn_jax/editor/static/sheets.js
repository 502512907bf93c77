// Sheets of a video's frames: fetched a few at a time, the first ones first.

import * as api from '/static/api.js';

const AT_ONCE = 3;

export class Sheets {
  // layout: {columns, frames} of a full sheet; onSheet(number) when one came.
  constructor(video, frames, layout, onSheet, onError) {
    this.video = video;
    this.frames = frames;
    this.layout = layout;
    this.onSheet = onSheet;
    this.onError = onError;
    this.loaded = new Map();
    this.closed = false;
    this.next = 0;
    for (let k = 0; k < AT_ONCE; k++) this.run();
  }

  async run() {
    while (!this.closed && this.next * this.layout.frames < this.frames) {
      const number = this.next++;
      try {
        const blob = await api.picture('film', {id: this.video, sheet: number});
        const url = URL.createObjectURL(blob);
        const image = new Image();
        image.src = url;
        await image.decode();
        if (this.closed) return URL.revokeObjectURL(url);
        const inSheet = Math.min(this.layout.frames,
          this.frames - number * this.layout.frames);
        const rows = Math.ceil(inSheet / this.layout.columns);
        this.loaded.set(number, {image, url,
          width: image.naturalWidth / this.layout.columns,
          height: image.naturalHeight / rows});
        this.onSheet(number);
      } catch (error) {
        if (!this.closed) this.onError(error);
        return;
      }
    }
  }

  // Where a frame lies: {image, url, x, y, width, height}, in pixels; or null.
  find(frame) {
    const sheet = this.loaded.get(Math.floor(frame / this.layout.frames));
    if (!sheet) return null;
    const place = frame % this.layout.frames;
    return {...sheet, x: (place % this.layout.columns) * sheet.width,
      y: Math.floor(place / this.layout.columns) * sheet.height};
  }

  close() {
    this.closed = true;
    for (const {url} of this.loaded.values()) URL.revokeObjectURL(url);
  }
}
