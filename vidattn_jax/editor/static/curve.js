// The weights of one video while they are edited, and their history. No page.

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const round = (x) => Math.round(x * 1e4) / 1e4;

export class Curve {
  // original, edited: weights 0 to 1; mask: 1 for frames that count, else 0.
  constructor(original, edited, mask) {
    this.original = original;
    this.edited = [...edited];
    this.mask = [...mask];
    this.current = 0;
    this.anchor = 0;
    this.past = [];
    this.future = [];
    this.before = null;
  }

  get length() {
    return this.original.length;
  }

  // First and last frame of the selection; the current one if nothing else.
  selection() {
    return this.current < this.anchor ? [this.current, this.anchor]
      : [this.anchor, this.current];
  }

  isSelected(i) {
    const [first, last] = this.selection();
    return first <= i && i <= last;
  }

  isChanged(i) {
    return this.edited[i] !== this.original[i];
  }

  go(i, extend = false) {
    this.current = clamp(i, 0, this.length - 1);
    if (!extend) this.anchor = this.current;
  }

  selectAll() {
    this.anchor = 0;
    this.current = this.length - 1;
  }

  // One entry of the history for all that happens until commit().
  begin() {
    this.before ??= {edited: [...this.edited], mask: [...this.mask]};
  }

  // Returns whether anything changed.
  commit() {
    const {before} = this;
    this.before = null;
    if (!before || (same(before.edited, this.edited)
                    && same(before.mask, this.mask))) return false;
    this.past.push(before);
    this.future = [];
    return true;
  }

  change(act) {
    this.begin();
    act();
    return this.commit();
  }

  step(from, to) {
    if (!from.length) return false;
    to.push({edited: this.edited, mask: this.mask});
    ({edited: this.edited, mask: this.mask} = from.pop());
    return true;
  }

  undo() {
    return this.step(this.past, this.future);
  }

  redo() {
    return this.step(this.future, this.past);
  }

  set(i, weight) {
    this.edited[i] = round(clamp(weight, 0, 1));
  }

  // A stroke: linear from one frame and weight to another.
  paint(from, to) {
    const steps = Math.max(Math.abs(to.frame - from.frame), 1);
    for (let k = from.frame === to.frame ? 1 : 0; k <= steps; k++) {
      const share = k / steps;
      this.set(Math.round(from.frame + share * (to.frame - from.frame)),
        from.weight + share * (to.weight - from.weight));
    }
  }

  eachSelected(act) {
    const [first, last] = this.selection();
    for (let i = first; i <= last; i++) act(i);
  }

  setSelected(weight) {
    return this.change(() => this.eachSelected((i) => this.set(i, weight)));
  }

  moveSelected(by) {
    return this.change(() => this.eachSelected(
      (i) => this.set(i, this.edited[i] + by)));
  }

  resetSelected() {
    return this.change(() => this.eachSelected((i) => {
      this.edited[i] = this.original[i];
      this.mask[i] = 1;
    }));
  }

  leaveOutSelected() {
    let counts = 0;
    this.eachSelected((i) => { counts += this.mask[i]; });
    return this.change(() => this.eachSelected((i) => {
      this.mask[i] = counts ? 0 : 1;
    }));
  }

  // Linear between the ends of the selection; of one frame, between the
  // nearest changed frames around it.
  interpolate() {
    let [first, last] = this.selection();
    if (first === last) {
      while (first > 0 && !(this.isChanged(first) && first < last)) first--;
      while (last < this.length - 1
             && !(this.isChanged(last) && last > this.current)) last++;
    }
    if (last - first < 2) return false;
    return this.change(() => this.paint(
      {frame: first, weight: this.edited[first]},
      {frame: last, weight: this.edited[last]}));
  }

  // Takes somebody's weights; can be undone.
  take(edit) {
    return this.change(() => {
      this.edited = [...edit.edited];
      this.mask = [...edit.mask];
    });
  }
}

export function same(a, b) {
  return a.length === b.length && a.every((x, i) => x === b[i]);
}

// Frames at which two curves differ, and where most.
export function difference(a, b) {
  let [count, largest, frame] = [0, 0, 0];
  a.forEach((x, i) => {
    const by = Math.abs(x - b[i]);
    count += by > 0;
    if (by > largest) [largest, frame] = [by, i];
  });
  return {count, largest, frame};
}

// An SVG path through weights, a step as wide as a frame, in a box of
// `length` x 1.
export function path(weights) {
  return weights.map((w, i) => `${i ? 'L' : 'M'}${i + .5} ${1 - w}`).join('');
}
