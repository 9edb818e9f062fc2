"use strict";

/** Many points on a plain 2-D canvas: no WebGL, no library; 50,000 points redraw in a few milliseconds. */
class PointMap {
  constructor(canvas, over, x, y) {
    Object.assign(this, { canvas, over, x, y, n: x.length, labels: [], hovered: -1, onhover: () => {} });
    // Pixels are written by this script alone: a canvas kept in memory takes them fastest.
    this.context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    this.colour = new Uint32Array(this.n);
    this.shown = new Uint8Array(this.n).fill(2); // 0 hidden, 1 faded, 2 full
    this.order = PointMap.shuffle(this.n);
    this.bounds = PointMap.bounds(x, y);
    this.zoom = 1;
    this.pad = 34; // points are kept this far, both sides together, from the edges
    this.pointers = new Map();
    this.index();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  /** A fixed shuffle, so that no category always lies on top. */
  static shuffle(n) {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    let state = 12345;
    for (let i = n - 1; i > 0; i--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const j = Math.floor((state / 4294967296) * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  static bounds(x, y) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < x.length; i++) {
      x0 = Math.min(x0, x[i]); x1 = Math.max(x1, x[i]); y0 = Math.min(y0, y[i]); y1 = Math.max(y1, y[i]);
    }
    if (!x.length) return { x0: 0, y0: 0, width: 1, height: 1 };
    return { x0, y0, width: Math.max(x1 - x0, 1e-9), height: Math.max(y1 - y0, 1e-9) };
  }

  /** Points by square of a grid, so that the one under the pointer is found at once. */
  index() {
    const side = (this.side = Math.max(1, Math.min(160, Math.round(Math.sqrt(this.n / 4)))));
    const { x0, y0, width, height } = this.bounds;
    const cell = new Uint32Array(this.n);
    this.start = new Uint32Array(side * side + 1);
    for (let i = 0; i < this.n; i++) {
      const column = Math.min(side - 1, Math.floor(((this.x[i] - x0) / width) * side));
      const row = Math.min(side - 1, Math.floor(((this.y[i] - y0) / height) * side));
      cell[i] = row * side + column;
      this.start[cell[i] + 1]++;
    }
    for (let c = 0; c < side * side; c++) this.start[c + 1] += this.start[c];
    const next = this.start.slice();
    this.members = new Uint32Array(this.n);
    for (let i = 0; i < this.n; i++) this.members[next[cell[i]]++] = i;
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.width = Math.round(box.width * this.ratio);
    this.height = Math.round(box.height * this.ratio);
    for (const canvas of [this.canvas, this.over]) Object.assign(canvas, { width: this.width, height: this.height });
    this.image = this.context.createImageData(this.width, this.height);
    if (!this.centre) this.reset();
    this.redraw();
  }

  reset() {
    const { x0, y0, width, height } = this.bounds;
    this.zoom = 1;
    this.centre = [x0 + width / 2, y0 + height / 2];
    this.redraw();
  }

  /** Device pixels a unit of the map. */
  get scale() {
    const pad = this.pad * this.ratio;
    const fit = Math.min((this.width - pad) / this.bounds.width, (this.height - pad) / this.bounds.height);
    return Math.max(fit, 1e-9) * this.zoom;
  }

  place(x, y) {
    const s = this.scale;
    return [this.width / 2 + (x - this.centre[0]) * s, this.height / 2 - (y - this.centre[1]) * s];
  }

  unplace(px, py) {
    const s = this.scale;
    return [this.centre[0] + (px - this.width / 2) / s, this.centre[1] - (py - this.height / 2) / s];
  }

  get radius() {
    const area = (this.width * this.height) / Math.max(this.n, 1);
    const base = Math.min(4.2 * this.ratio, Math.max(0.9 * this.ratio, 0.17 * Math.sqrt(area)));
    return Math.min(6 * this.ratio, base * Math.pow(this.zoom, 0.35));
  }

  redraw() {
    if (this.frame || !this.image) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
  }

  paint() {
    const began = performance.now();
    const { data } = this.image;
    const ground = PointMap.rgb(getComputedStyle(document.documentElement).getPropertyValue("--map").trim());
    new Uint32Array(data.buffer).fill((255 << 24) | (ground[2] << 16) | (ground[1] << 8) | ground[0]);
    const disc = PointMap.disc(this.radius);
    for (const level of [1, 2]) this.stamp(data, disc, level);
    this.context.putImageData(this.image, 0, 0);
    this.overlay();
    this.canvas.dataset.paint = (performance.now() - began).toFixed(1);
  }

  stamp(data, { mask, reach }, level) {
    const { x, y, order, colour, shown, width, height } = this;
    const s = this.scale, side = 2 * reach + 1, strength = level === 1 ? 0.16 : 0.86;
    const left = width / 2 - this.centre[0] * s, top = height / 2 + this.centre[1] * s;
    for (let o = 0; o < order.length; o++) {
      const i = order[o];
      if (shown[i] !== level) continue;
      const cx = Math.round(left + x[i] * s), cy = Math.round(top - y[i] * s);
      if (cx < -reach || cy < -reach || cx >= width + reach || cy >= height + reach) continue;
      const c = colour[i], r = c & 255, g = (c >> 8) & 255, b = (c >> 16) & 255;
      for (let dy = -reach; dy <= reach; dy++) {
        const py = cy + dy;
        if (py < 0 || py >= height) continue;
        for (let dx = -reach; dx <= reach; dx++) {
          const px = cx + dx, a = mask[(dy + reach) * side + dx + reach] * strength;
          if (a === 0 || px < 0 || px >= width) continue;
          const at = (py * width + px) * 4;
          data[at] += (r - data[at]) * a;
          data[at + 1] += (g - data[at + 1]) * a;
          data[at + 2] += (b - data[at + 2]) * a;
        }
      }
    }
  }

  static disc(radius) {
    const reach = Math.ceil(radius), side = 2 * reach + 1, mask = new Float32Array(side * side);
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        mask[(dy + reach) * side + dx + reach] = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(dx, dy)));
      }
    }
    return { mask, reach };
  }

  static rgb(hex) {
    return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  }

  /** What lies over the points: names of categories, and a ring around the cell under the pointer. */
  overlay() {
    const c = this.over.getContext("2d"), style = getComputedStyle(document.documentElement);
    c.clearRect(0, 0, this.width, this.height);
    c.textAlign = "center";
    c.textBaseline = "middle";
    c.lineJoin = "round";
    c.font = `600 ${13 * this.ratio}px ${style.getPropertyValue("--sans")}`;
    const taken = [];
    for (const { x, y, text, above } of this.labels) {
      const half = c.measureText(text).width / 2 + 3, tall = 9 * this.ratio;
      let [px, py] = this.place(x, y);
      if (above) [px, py] = [Math.min(Math.max(px, half), this.width - half), py - this.radius - tall];
      if (taken.some((t) => Math.abs(t[0] - px) < t[2] + half && Math.abs(t[1] - py) < 2 * tall)) continue;
      taken.push([px, py, half]);
      c.lineWidth = 4 * this.ratio;
      c.strokeStyle = style.getPropertyValue("--map");
      c.strokeText(text, px, py);
      c.fillStyle = style.getPropertyValue("--ink");
      c.fillText(text, px, py);
    }
    if (this.hovered >= 0) {
      const [px, py] = this.place(this.x[this.hovered], this.y[this.hovered]);
      c.beginPath();
      c.arc(px, py, this.radius + 3 * this.ratio, 0, 2 * Math.PI);
      c.lineWidth = 2 * this.ratio;
      c.strokeStyle = style.getPropertyValue("--ink");
      c.stroke();
    }
  }

  nearest(px, py) {
    const reach = Math.max(this.radius + 2 * this.ratio, 7 * this.ratio), { side } = this;
    const { x0, y0, width, height } = this.bounds;
    const [xa, yb] = this.unplace(px - reach, py - reach), [xb, ya] = this.unplace(px + reach, py + reach);
    const clip = (v) => Math.max(0, Math.min(side - 1, Math.floor(v * side)));
    let best = -1, least = reach * reach;
    for (let row = clip((ya - y0) / height); row <= clip((yb - y0) / height); row++) {
      for (let column = clip((xa - x0) / width); column <= clip((xb - x0) / width); column++) {
        const cell = row * side + column;
        for (let m = this.start[cell]; m < this.start[cell + 1]; m++) {
          const i = this.members[m];
          if (this.shown[i] !== 2) continue;
          const [qx, qy] = this.place(this.x[i], this.y[i]), d = (qx - px) ** 2 + (qy - py) ** 2;
          if (d < least) [best, least] = [i, d];
        }
      }
    }
    return best;
  }

  zoomAt(px, py, factor) {
    const before = this.unplace(px, py);
    this.zoom = Math.max(0.5, Math.min(80, this.zoom * factor));
    const after = this.unplace(px, py);
    this.centre = [this.centre[0] + before[0] - after[0], this.centre[1] + before[1] - after[1]];
    this.hover(-1);
    this.redraw();
  }

  pan(dx, dy) {
    const s = this.scale;
    this.centre = [this.centre[0] - dx / s, this.centre[1] + dy / s];
    this.redraw();
  }

  hover(i, px = 0, py = 0) {
    if (i === this.hovered && i < 0) return;
    this.hovered = i;
    this.overlay();
    this.onhover(i, px / this.ratio, py / this.ratio);
  }

  listen() {
    const { canvas, pointers } = this;
    const spot = (e) => {
      const box = canvas.getBoundingClientRect();
      return [(e.clientX - box.left) * this.ratio, (e.clientY - box.top) * this.ratio];
    };
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      pointers.set(e.pointerId, spot(e));
    });
    for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, (e) => pointers.delete(e.pointerId));
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("pointermove", (e) => {
      const now = spot(e), was = pointers.get(e.pointerId);
      if (!was) return this.hover(this.nearest(...now), ...now);
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== e.pointerId)[1];
        const reach = (p) => Math.max(Math.hypot(p[0] - other[0], p[1] - other[1]), 1);
        this.zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, reach(now) / reach(was));
      } else this.pan(now[0] - was[0], now[1] - was[1]);
      pointers.set(e.pointerId, now);
    });
    canvas.addEventListener("wheel", (e) => {
      // The page must stay scrollable: the wheel zooms once the map was clicked, or with Ctrl.
      if (document.activeElement !== canvas && !e.ctrlKey && !e.metaKey) return;
      e.preventDefault();
      this.zoomAt(...spot(e), Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0016)));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (e) => {
      const step = 40 * this.ratio, middle = [this.width / 2, this.height / 2];
      const acts = {
        ArrowLeft: () => this.pan(step, 0), ArrowRight: () => this.pan(-step, 0), ArrowUp: () => this.pan(0, step),
        ArrowDown: () => this.pan(0, -step), "+": () => this.zoomAt(...middle, 1.3), "=": () => this.zoomAt(...middle, 1.3),
        "-": () => this.zoomAt(...middle, 1 / 1.3), 0: () => this.reset(), Escape: () => canvas.blur(),
      };
      if (!acts[e.key]) return;
      e.preventDefault();
      acts[e.key]();
    });
  }
}
