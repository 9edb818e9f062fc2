/** The page around the map. Names and labels are foreign text: they reach the page as textContent only. */
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.gzip), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  if (packed.type === "text") return new TextDecoder().decode(buffer).split("\n");
  return new { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array }[packed.type](buffer);
}

const number = (v) => {
  const size = Math.abs(v);
  if (!Number.isFinite(v)) return "–";
  if (size && (size < 0.001 || size >= 1e7)) return v.toExponential(2);
  return v.toLocaleString("en", { maximumSignificantDigits: size >= 1000 ? 6 : 3 });
};

const dark = matchMedia("(prefers-color-scheme: dark)");

/** 256 colours from the least to the greatest value, packed as the canvas wants them. */
function ramp(stops) {
  const colours = stops.map(PointMap.rgb);
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (colours.length - 1), k = Math.min(Math.floor(at), colours.length - 2), f = at - k;
    return packed(colours[k].map((c, j) => Math.round(c + (colours[k + 1][j] - c) * f)));
  });
}
const packed = ([r, g, b]) => (r | (g << 8) | (b << 16)) >>> 0;
const css = (c) => `rgb(${c & 255} ${(c >> 8) & 255} ${(c >> 16) & 255})`;

/** Edits that turn one word into the other, at most `most`. */
function distance(a, b, most) {
  if (Math.abs(a.length - b.length) > most) return most + 1;
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    last = row;
  }
  return last[b.length];
}

function nearestNames(wanted, names, count) {
  const w = wanted.toLowerCase(), scored = [];
  names.forEach((name, i) => {
    const other = name.toLowerCase();
    const d = other.startsWith(w) || w.startsWith(other) ? 0.5 : distance(w, other, 4);
    if (d <= 4) scored.push([d, Math.abs(other.length - w.length), i]);
  });
  scored.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
  return scored.slice(0, count).map((s) => names[s[2]]);
}

class Page {
  static async open(payload) {
    const page = new Page();
    Object.assign(page, { payload, features: payload.features, hidden: new Set(), cache: new Map() });
    const axes = await Promise.all(payload.xy.map((a) => unpack(a.values)));
    const [x, y] = axes.map((q, i) => Float32Array.from(q, (v) => payload.xy[i].low + payload.xy[i].step * v));
    page.names = await unpack(payload.names);
    page.size = await unpack(payload.features.size);
    page.all = await unpack(payload.features.all);
    page.column = await Promise.all(payload.columns.map(async (c) => await unpack(c.codes || c.values)));
    page.map = new PointMap($("map"), $("over"), x, y);
    page.map.onhover = (i, px, py) => page.tip(i, px, py);
    page.stored = new Map();
    payload.features.names.forEach((name, i) => {
      page.stored.set(name.toLowerCase(), i);
      const symbol = payload.features.symbols[i];
      if (symbol && !page.stored.has(symbol.toLowerCase())) page.stored.set(symbol.toLowerCase(), i);
    });
    page.controls();
    await page.choose(payload.columns.length ? "0" : "");
    return page;
  }

  title(i) { return this.features.symbols[i] || this.features.names[i]; }

  controls() {
    const { map } = this, words = { label: "label", batch: "batch", covariate: "covariate" };
    this.payload.columns.forEach((c, i) => {
      const role = words[c.role] && words[c.role] !== c.title ? ` (${words[c.role]})` : "";
      $("colour").append(make("option", { value: String(i), textContent: c.title + role }));
    });
    $("genes").append(...this.features.names.map((_, i) => make("option", { value: this.title(i) })));
    $("colour").addEventListener("change", () => this.choose($("colour").value));
    $("gene").addEventListener("change", () => this.gene($("gene").value));
    // With its list of suggestions open, the field may keep the change to itself.
    $("gene").addEventListener("keydown", (e) => e.key === "Enter" && this.gene($("gene").value));
    $("gene").addEventListener("input", () => {
      if (this.stored.has($("gene").value.trim().toLowerCase())) this.gene($("gene").value);
    });
    for (const input of document.querySelectorAll("input[name=source]")) {
      const there = this.features[input.value].length > 0;
      input.disabled = !there;
      input.addEventListener("change", () => this.gene($("gene").value));
    }
    if (!this.features.expected.length) document.querySelector("input[value=observed]").checked = true;
    $("names").addEventListener("change", () => this.label());
    $("plus").addEventListener("click", () => map.zoomAt(map.width / 2, map.height / 2, 1.4));
    $("minus").addEventListener("click", () => map.zoomAt(map.width / 2, map.height / 2, 1 / 1.4));
    $("home").addEventListener("click", () => map.reset());
    $("save").addEventListener("click", () => this.save());
    dark.addEventListener("change", () => this.recolour());
    document.addEventListener("click", (e) => {
      const from = e.target.closest("[data-gene], [data-component]");
      if (!from) return;
      $("landscape").scrollIntoView();
      if (from.dataset.gene !== undefined) {
        $("gene").value = from.dataset.gene;
        this.gene(from.dataset.gene);
      } else this.isolate(from.dataset.component);
    });
    document.addEventListener("keydown", (e) => {
      if ((e.key === "Enter" || e.key === " ") && e.target.matches("g[data-component]")) {
        e.preventDefault();
        $("landscape").scrollIntoView();
        this.isolate(e.target.dataset.component);
      }
    });
  }

  async isolate(component) {
    const at = this.payload.columns.findIndex((c) => c.title === "component" && c.role === "model");
    const level = at < 0 ? -1 : this.payload.columns[at].numbers.indexOf(+component);
    if (level < 0) return;
    await this.choose(String(at));
    this.only(level);
  }

  /** Colour by a column. */
  async choose(value) {
    $("colour").value = value;
    if (value === "") return;
    const column = this.payload.columns[+value], codes = this.column[+value];
    this.hidden.clear();
    this.say("");
    if (column.kind === "categorical") this.now = { kind: "categorical", column, codes };
    else {
      const values = Float32Array.from(codes, (q) => (q === 255 ? NaN : column.low + column.step * q));
      this.now = { kind: "continuous", title: column.title, values, show: column.log ? Math.expm1 : (v) => v };
    }
    this.recolour();
  }

  /** Colour by a feature that somebody typed. */
  async gene(typed) {
    const wanted = typed.trim(), key = wanted.toLowerCase();
    if (!wanted) return;
    const source = document.querySelector("input[name=source]:checked").value;
    const stored = this.stored.get(key);
    const turn = (this.turn = (this.turn || 0) + 1);
    if (stored !== undefined && this.features[source].length) {
      const values = await this.values(source, stored);
      if (turn !== this.turn) return;
      const what = source === "expected" ? "expected by the model" : "observed";
      this.say("");
      this.continuous(`${this.title(stored)}, ${what}`, values);
      return;
    }
    const at = this.all.findIndex((name) => name.toLowerCase() === key);
    if (at < 0) {
      this.say(`No feature called “${wanted}” was read. Nearest names: `, nearestNames(wanted, this.all, 6));
      return;
    }
    const near = nearestNames(wanted, this.features.names.map((_, i) => this.title(i)), 6);
    const share = await this.averages(at);
    if (turn !== this.turn) return;
    if (share) {
      this.continuous(`${this.all[at]}, mean of the component`, share);
      this.say(`${this.all[at]} is not stored cell by cell in this page; each cell shows what the model expects at the mean of its component. `
        + (near.length ? "Nearest names that are stored: " : ""), near);
    } else this.say(`${this.all[at]} was read, but is not stored in this page. Nearest names that are: `, near);
  }

  async values(source, i) {
    const key = source + i;
    if (this.cache.has(key)) return this.cache.get(key);
    const { low, step, values } = this.features[source][i], q = await unpack(values);
    const out = new Float32Array(q.length), counts = this.features.kind === "counts";
    for (let j = 0; j < q.length; j++) {
      const v = low + step * q[j];
      if (source === "expected") out[j] = v;
      else if (q[j] === 255) out[j] = NaN;
      else out[j] = counts ? Math.log1p((this.features.per * v) / Math.max(this.size[j], 1)) : v;
    }
    this.cache.set(key, out);
    return out;
  }

  async averages(feature) {
    const { component_top: top, component_share: share, kind, per } = this.features;
    const at = this.payload.columns.findIndex((c) => c.title === "component" && c.role === "model");
    const numbers = at < 0 ? [] : this.payload.columns[at].numbers;
    if (!share || numbers.includes(null)) return null;
    this.means = this.means || (await Promise.all([unpack(top), unpack(share)]));
    const [height, table] = this.means, g = height.length;
    return Float32Array.from(this.column[at], (code) => {
      const v = (height[feature] * table[numbers[code] * g + feature]) / 255;
      return kind === "counts" ? Math.log1p(per * v) : v;
    });
  }

  continuous(title, values) {
    const counts = this.features.kind === "counts";
    const unit = counts ? `per ${this.features.per.toLocaleString("en")} molecules` : "";
    this.hidden.clear();
    $("colour").value = "";
    this.now = { kind: "continuous", title, unit, values, show: counts ? Math.expm1 : (v) => v };
    this.recolour();
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
    $("map").dataset.colour = now.kind === "categorical" ? now.column.title : now.title;
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
    for (const row of $("legend").querySelectorAll(".row")) row.setAttribute("aria-pressed", String(!this.hidden.has(+row.dataset.code)));
    this.show();
    this.label();
  }

  legend() {
    const { now } = this, box = $("legend");
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

  /** Names of categories at the median of their cells. */
  label() {
    const { now, map } = this;
    map.labels = [];
    if ($("names").checked && now.kind === "categorical") {
      const members = new Map();
      now.codes.forEach((k, i) => members.has(k) ? members.get(k).push(i) : members.set(k, [i]));
      for (const [k, rows] of [...members].sort((a, b) => b[1].length - a[1].length)) {
        if (k === 255 || this.hidden.has(k)) continue;
        const middle = (v) => Float32Array.from(rows, (i) => v[i]).sort()[rows.length >> 1];
        map.labels.push({ x: middle(map.x), y: middle(map.y), text: now.column.levels[k] });
      }
    }
    map.overlay();
  }

  tip(i, px, py) {
    const tip = $("tip");
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
    const box = $("map").getBoundingClientRect();
    tip.style.left = `${px + 14 + tip.offsetWidth > box.width ? Math.max(px - 14 - tip.offsetWidth, 0) : px + 14}px`;
    tip.style.top = `${Math.min(py + 14, box.height - tip.offsetHeight - 4)}px`;
  }

  say(text, names = []) {
    const parts = names.flatMap((name, i) => {
      const button = make("button", { type: "button", textContent: name });
      button.dataset.gene = name;
      return i ? [", ", button] : [button];
    });
    $("message").replaceChildren(text, ...parts, ...(names.length ? ["."] : []));
  }

  save() {
    const { map } = this, sheet = make("canvas", { width: map.width, height: map.height }), c = sheet.getContext("2d");
    c.drawImage($("map"), 0, 0);
    c.drawImage($("over"), 0, 0);
    sheet.toBlob((blob) => {
      const href = URL.createObjectURL(blob);
      make("a", { href, download: "map.png" }).click();
      setTimeout(() => URL.revokeObjectURL(href), 1000);
    });
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const from = $(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(from.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(from);
      button.textContent = "Selected";
    }
  });
}

if (typeof DecompressionStream === "undefined") {
  $("message").textContent = "The map needs a browser of 2023 or later. Everything else on this page can be read.";
} else {
  Page.open(JSON.parse($("payload").textContent)).then(
    (page) => { window.chreode = page; document.documentElement.dataset.ready = "true"; },
    (error) => { $("message").textContent = `The map could not be drawn: ${error.message}`; throw error; },
  );
}
