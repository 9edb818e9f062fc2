/** Cells of a map coloured by something, with its legend, names on the map and words under the pointer. */
class Coloured {
  /** `box` holds the elements: map, over, legend, tip and, where names can be left out, names. */
  constructor(payload, box) {
    Object.assign(this, { payload, box, hidden: new Set() });
  }

  async draw(xy) {
    const axes = await Promise.all(xy.map((a) => unpack(a.values)));
    const [x, y] = axes.map((q, i) => Float32Array.from(q, (v) => xy[i].low + xy[i].step * v));
    this.map = new PointMap(this.box.map, this.box.over, x, y);
    this.map.onhover = (i, px, py) => this.tip(i, px, py);
  }

  levelColour(column, code) {
    const { categorical, other, unknown } = this.payload.colours;
    if (code === 255) return unknown;
    const own = column.numbers ? column.numbers[code] : code;
    return own === null || !(own < categorical.length) ? other : categorical[own];
  }

  recolour() {
    const { now, map } = this;
    if (!now) return;
    this.box.map.dataset.colour = now.kind === "categorical" ? now.column.title : now.title;
    if (now.kind === "categorical") {
      const table = Uint32Array.from({ length: 256 }, (_, k) => packed(PointMap.rgb(this.levelColour(now.column, k))));
      now.codes.forEach((k, i) => { map.colour[i] = table[k]; });
      map.order = this.shuffled = this.shuffled || PointMap.shuffle(map.n);
    } else this.shade();
    this.show();
    this.legend();
    this.label();
    map.redraw();
  }

  shade() {
    const { now, map } = this, colours = ramp(this.payload.colours[dark.matches ? "dark" : "light"]);
    const known = now.values.filter((v) => !Number.isNaN(v)).sort();
    now.low = known.length ? known[0] : 0;
    now.high = known.length ? known[Math.floor((known.length - 1) * 0.998)] : 1;
    if (!(now.high > now.low)) now.high = known.length ? Math.max(known[known.length - 1], now.low + 1e-9) : 1;
    const unknown = packed(PointMap.rgb(this.payload.colours.unknown));
    now.values.forEach((v, i) => {
      const at = Math.round(((v - now.low) / (now.high - now.low)) * 255);
      map.colour[i] = Number.isNaN(v) ? unknown : colours[Math.max(0, Math.min(255, at))];
    });
    // High values are drawn last, or the many low ones would hide them.
    const rank = (i) => (Number.isNaN(now.values[i]) ? -Infinity : now.values[i]);
    this.shuffled = this.shuffled || PointMap.shuffle(map.n);
    map.order = this.shuffled.slice().sort((a, b) => rank(a) - rank(b) || 0);
    now.ramp = colours;
  }

  show(lit = null) {
    const { now, map } = this;
    for (let i = 0; i < map.n; i++) {
      const k = now.kind === "categorical" ? now.codes[i] : -1;
      map.shown[i] = this.hidden.has(k) ? 0 : lit === null || lit === k ? 2 : 1;
    }
    map.redraw();
  }

  only(code) {
    const others = this.codes().filter((k) => k !== code);
    this.hidden = new Set(others.every((k) => this.hidden.has(k)) ? [] : others);
    this.toggled();
  }

  codes() { return [...new Set(this.now.codes)].sort((a, b) => a - b); }

  toggled() {
    for (const row of this.box.legend.querySelectorAll(".row")) row.setAttribute("aria-pressed", String(!this.hidden.has(+row.dataset.code)));
    this.show();
    this.label();
  }

  legend() {
    const { now } = this, box = this.box.legend;
    box.replaceChildren(make("h3", { textContent: now.kind === "categorical" ? now.column.title : now.title }));
    if (now.kind === "continuous") {
      const bar = make("canvas", { width: 256, height: 1 }), c = bar.getContext("2d");
      now.ramp.forEach((v, i) => { c.fillStyle = css(v); c.fillRect(i, 0, 1, 1); });
      bar.setAttribute("role", "img");
      bar.setAttribute("aria-label", `Colours from ${number(now.show(now.low))} to ${number(now.show(now.high))}`);
      const ends = [now.low, (now.low + now.high) / 2, now.high].map((v) => make("span", { textContent: number(now.show(v)) }));
      box.append(bar, make("div", { className: "ends" }, ...ends));
      if (now.unit) box.append(make("p", { className: "hint", textContent: now.unit }));
      return;
    }
    const count = new Map();
    now.codes.forEach((k) => count.set(k, (count.get(k) || 0) + 1));
    const rows = this.codes().map((k) => {
      const dot = make("span", { className: "dot" });
      dot.style.setProperty("--c", this.levelColour(now.column, k));
      const hint = make("span", { className: "hint", textContent: now.column.hints[k] || "" });
      const text = make("span", { textContent: k === 255 ? "unknown" : now.column.levels[k] });
      const row = make("button", { className: "row", type: "button" }, dot, text, hint,
        make("span", { className: "count", textContent: count.get(k).toLocaleString("en") }));
      row.dataset.code = String(k);
      row.setAttribute("aria-pressed", "true");
      row.addEventListener("click", (e) => {
        if (e.shiftKey) return this.only(k);
        this.hidden.has(k) ? this.hidden.delete(k) : this.hidden.add(k);
        this.toggled();
      });
      row.addEventListener("dblclick", () => this.only(k));
      for (const type of ["pointerenter", "focus"]) row.addEventListener(type, () => !this.hidden.has(k) && this.show(k));
      for (const type of ["pointerleave", "blur"]) row.addEventListener(type, () => this.show());
      return make("li", {}, row);
    });
    const all = make("button", { className: "small", type: "button", textContent: "Show all" });
    all.addEventListener("click", () => { this.hidden.clear(); this.toggled(); });
    box.append(make("ul", {}, ...rows), make("p", { className: "hint", textContent: "Click to hide, double-click for one alone." }), all);
  }

  /** Names of categories at the median of their cells, or above all of them. */
  label() {
    const { now, map } = this;
    map.labels = [];
    if ((!this.box.names || this.box.names.checked) && now.kind === "categorical") {
      const members = new Map();
      now.codes.forEach((k, i) => members.has(k) ? members.get(k).push(i) : members.set(k, [i]));
      for (const [k, rows] of [...members].sort((a, b) => b[1].length - a[1].length)) {
        if (k === 255 || this.hidden.has(k)) continue;
        const middle = (v) => Float32Array.from(rows, (i) => v[i]).sort()[rows.length >> 1];
        const { above } = this, top = () => rows.reduce((most, i) => Math.max(most, map.y[i]), -Infinity);
        const y = above ? top() : middle(map.y);
        map.labels.push({ x: middle(map.x), y, above, text: now.column.levels[k] });
      }
    }
    map.overlay();
  }

  tip(i, px, py) {
    const { tip } = this.box;
    tip.hidden = i < 0;
    if (i < 0) return;
    const lines = [make("b", { textContent: this.names[i] })];
    const add = (key, value) => lines.push(make("br"), document.createTextNode(`${key}: ${value}`));
    if (this.now.kind === "continuous") {
      const v = this.now.values[i];
      add(this.now.title, Number.isNaN(v) ? "not measured" : number(this.now.show(v)));
    }
    this.payload.columns.forEach((c, j) => {
      const q = this.column[j][i];
      if (c.kind === "categorical") add(c.title, q === 255 ? "unknown" : c.levels[q]);
    });
    tip.replaceChildren(...lines);
    const box = this.box.map.getBoundingClientRect();
    tip.style.left = `${px + 14 + tip.offsetWidth > box.width ? Math.max(px - 14 - tip.offsetWidth, 0) : px + 14}px`;
    tip.style.top = `${Math.min(py + 14, box.height - tip.offsetHeight - 4)}px`;
  }
}
