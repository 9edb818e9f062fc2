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

/** Modalities whose features can colour the map, the one that the page shows first before the others. */
async function featureSets({ features, others = [] }) {
  return Promise.all([features, ...others].map(async (own) => {
    const set = { ...own, title: (i) => own.symbols[i] || own.names[i], stored: new Map() };
    set.size = await unpack(own.size);
    set.all = await unpack(own.all);
    own.names.forEach((name, i) => {
      set.stored.set(name.toLowerCase(), i);
      const symbol = own.symbols[i];
      if (symbol && !set.stored.has(symbol.toLowerCase())) set.stored.set(symbol.toLowerCase(), i);
    });
    set.called = (name) => (own.modality ? `${name} (${own.modality})` : name);
    return set;
  }));
}

class Page extends Coloured {
  static async open(payload) {
    const [map, over, legend, tip, names] = ["map", "over", "legend", "tip", "names"].map($);
    const page = new Page(payload, { map, over, legend, tip, names });
    page.cache = new Map();
    page.names = await unpack(payload.names);
    page.sets = await featureSets(payload);
    page.column = await Promise.all(payload.columns.map(async (c) => await unpack(c.codes || c.values)));
    await page.draw(payload.xy);
    page.controls();
    await page.choose(payload.columns.length ? "0" : "");
    page.beside = await Promise.all((payload.codes || []).map((code, i) => Codes.open(page, code, i)));
    return page;
  }

  controls() {
    const { map } = this, words = { label: "label", batch: "batch", covariate: "covariate" };
    this.payload.columns.forEach((c, i) => {
      const role = words[c.role] && words[c.role] !== c.title ? ` (${words[c.role]})` : "";
      $("colour").append(make("option", { value: String(i), textContent: c.title + role }));
    });
    for (const set of this.sets) $("genes").append(...set.names.map((_, i) => make("option", { value: set.title(i) })));
    $("colour").addEventListener("change", () => this.choose($("colour").value));
    $("gene").addEventListener("change", () => this.gene($("gene").value));
    // With its list of suggestions open, the field may keep the change to itself.
    $("gene").addEventListener("keydown", (e) => e.key === "Enter" && this.gene($("gene").value));
    $("gene").addEventListener("input", () => {
      const key = $("gene").value.trim().toLowerCase();
      if (this.sets.some((set) => set.stored.has(key))) this.gene($("gene").value);
    });
    for (const input of document.querySelectorAll("input[name=source]")) {
      input.disabled = !this.sets.some((set) => set[input.value].length > 0);
      input.addEventListener("change", () => this.gene($("gene").value, this.modality));
    }
    if (!this.sets[0].expected.length) document.querySelector("input[value=observed]").checked = true;
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
        this.gene(from.dataset.gene, from.dataset.modality);
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

  /** Colour by a feature that somebody typed; where several modalities have it, by that of the one named. */
  async gene(typed, modality) {
    const wanted = typed.trim(), key = wanted.toLowerCase();
    if (!wanted) return;
    const source = document.querySelector("input[name=source]:checked").value;
    const turn = (this.turn = (this.turn || 0) + 1);
    const sets = [...this.sets.filter((s) => s.modality === modality), ...this.sets];
    const place = (s) => s.all.findIndex((name) => name.toLowerCase() === key);
    const set = sets.find((s) => s.stored.has(key) && s[source].length) || sets.find((s) => place(s) >= 0);
    if (!set) {
      const all = this.sets.flatMap((s) => s.all);
      this.say(`No feature called “${wanted}” was read. Nearest names: `, nearestNames(wanted, all, 6));
      return;
    }
    this.modality = set.modality;
    const stored = set.stored.get(key);
    if (stored !== undefined && set[source].length) {
      const values = await this.values(set, source, stored);
      if (turn !== this.turn) return;
      const what = source === "expected" ? "expected by the model" : "observed";
      this.say("");
      this.continuous(set, `${set.called(set.title(stored))}, ${what}`, values);
      return;
    }
    const at = place(set), name = set.called(set.all[at]);
    const near = nearestNames(wanted, set.names.map((_, i) => set.title(i)), 6);
    const share = await this.averages(set, at);
    if (turn !== this.turn) return;
    if (share) {
      this.continuous(set, `${name}, mean of the component`, share);
      this.say(`${name} is not stored cell by cell in this page; each cell shows what the model expects at the mean of its component. `
        + (near.length ? "Nearest names that are stored: " : ""), near);
      return;
    }
    this.say(`${name} was read, but is not stored in this page. ${near.length ? "Nearest names that are: " : ""}`, near);
  }

  async values(set, source, i) {
    const key = `${this.sets.indexOf(set)} ${source} ${i}`;
    if (this.cache.has(key)) return this.cache.get(key);
    const { low, step, values } = set[source][i], q = await unpack(values);
    const out = new Float32Array(q.length), counts = set.kind === "counts";
    for (let j = 0; j < q.length; j++) {
      const v = low + step * q[j];
      if (source === "expected") out[j] = v;
      else if (q[j] === 255) out[j] = NaN;
      else out[j] = counts ? Math.log1p((set.per * v) / Math.max(set.size[j], 1)) : v;
    }
    this.cache.set(key, out);
    return out;
  }

  async averages(set, feature) {
    const { component_top: top, component_share: share, kind, per } = set;
    const at = this.payload.columns.findIndex((c) => c.title === "component" && c.role === "model");
    const numbers = at < 0 ? [] : this.payload.columns[at].numbers;
    if (!share || numbers.includes(null)) return null;
    set.means = set.means || (await Promise.all([unpack(top), unpack(share)]));
    const [height, table] = set.means, g = height.length;
    return Float32Array.from(this.column[at], (code) => {
      const v = (height[feature] * table[numbers[code] * g + feature]) / 255;
      return kind === "counts" ? Math.log1p(per * v) : v;
    });
  }

  continuous(set, title, values) {
    const counts = set.kind === "counts";
    const unit = counts ? `per ${set.per.toLocaleString("en")} molecules` : "";
    this.hidden.clear();
    $("colour").value = "";
    this.now = { kind: "continuous", title, unit, values, show: counts ? Math.expm1 : (v) => v };
    this.recolour();
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
