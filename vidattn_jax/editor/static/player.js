// The current frame, its heat map, and playing.

const $ = (id) => document.getElementById(id);

// Viridis at nine places; between them, linear.
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142],
  [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50],
  [253, 231, 37]];
const OPACITY = .4;

export function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((c, k) =>
    Math.round(c + (place - low) * (VIRIDIS[low + 1][k] - c)));
}

export function drawScale() {
  const canvas = $('scale-bar');
  const context = canvas.getContext('2d');
  for (let x = 0; x < canvas.width; x++) {
    context.fillStyle = `rgb(${colour(x / (canvas.width - 1))})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}

export class Player {
  // curve: a Curve; sheets: a Sheets; video: what the server says of it;
  // onMoved: called when another frame is shown.
  constructor(curve, sheets, video, onMoved) {
    Object.assign(this, {curve, sheets, video, onMoved});
    this.maps = null;
    this.playing = false;
    this.timer = 0;
    // Small picture of one map.
    this.map = document.createElement('canvas');
    [this.map.height, this.map.width] = video.maps;
    $('screen').getContext('2d').clearRect(0, 0, 1e4, 1e4);
  }

  close() {
    this.pause();
  }

  // maps: Uint8Array of all maps, 255 for 1.
  setMaps(maps) {
    this.maps = maps;
    this.draw();
  }

  // Number of the map whose frame is nearest to this one.
  nearest(frame) {
    const {taken} = this.video;
    let best = 0;
    taken.forEach((t, k) => {
      if (Math.abs(t - frame) < Math.abs(taken[best] - frame)) best = k;
    });
    return best;
  }

  draw() {
    const frame = this.curve.current;
    const found = this.sheets.find(frame);
    const canvas = $('screen');
    if (!found) return;
    if (canvas.width !== found.width || canvas.height !== found.height) {
      [canvas.width, canvas.height] = [found.width, found.height];
    }
    const context = canvas.getContext('2d');
    context.globalAlpha = 1;
    context.drawImage(found.image, found.x, found.y, found.width,
      found.height, 0, 0, canvas.width, canvas.height);
    if ($('heat').checked && this.maps) {
      this.paintMap(this.nearest(frame));
      context.globalAlpha = OPACITY;
      context.drawImage(this.map, 0, 0, canvas.width, canvas.height);
    }
  }

  paintMap(number) {
    const {width, height} = this.map;
    const context = this.map.getContext('2d');
    const image = context.createImageData(width, height);
    for (let k = 0; k < width * height; k++) {
      const c = colour(this.maps[number * width * height + k] / 255);
      image.data.set([...c, 255], 4 * k);
    }
    context.putImageData(image, 0, 0);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  // A selection of several frames is played alone.
  play() {
    const {curve} = this;
    const [first, last] = curve.selection();
    this.range = last > first ? [first, last] : [0, curve.length - 1];
    this.kept = last > first ? {current: curve.current, anchor: curve.anchor}
      : null;
    this.frame = last > first || curve.current === curve.length - 1
      ? this.range[0] : curve.current;
    this.playing = true;
    this.label();
    let before = performance.now();
    const tick = (now) => {
      if (!this.playing) return;
      const step = 1000 / Number($('speed').value);
      if (now - before >= step) {
        before = now - before > 4 * step ? now : before + step;
        this.advance();
      }
      this.timer = requestAnimationFrame(tick);
    };
    this.show();
    this.timer = requestAnimationFrame(tick);
  }

  advance() {
    if (this.frame < this.range[1]) this.frame++;
    else if ($('loop').checked) this.frame = this.range[0];
    else return this.pause();
    this.show();
  }

  show() {
    this.curve.go(this.frame);
    this.onMoved();
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    cancelAnimationFrame(this.timer);
    // The selection comes back as it was.
    if (this.kept) Object.assign(this.curve, this.kept);
    this.label();
    this.onMoved();
  }

  label() {
    $('play').firstChild.textContent = this.playing ? 'Pause ' : 'Play ';
  }
}
