// Colours and stamps. Hue is the category, lightness the amount, pattern the health; red is for faults alone, amber for
// what needs a decision, and a GPU that works is a neutral blue.

/** What is drawn over a cell's colour. */
export const Pattern = Object.freeze({
  NONE: 0, HOLLOW: 1, HATCH: 2, CROSS: 3, DOTS: 4, RING: 5, XID: 6, FAULT: 7, UNKNOWN: 8,
});

const LIGHT = {
  ground: '#ffffff', ink: '#1c2733', soft: '#586573', line: '#d4dae1',
  unknown: '#eef0f3', free: '#e3f4ec', freeEdge: '#3f9a78', busy: '#5f7fb0', taken: '#a9b2bd', reserved: '#b9a7d8',
  out: '#d3d8de', mark: '#4d5966', fault: '#cc2b2b', decision: '#e39a08', quiet: '#dfe4ea', notice: '#8aa0bb',
  accent: '#1d5fd1', stranded: '#a763b5', edge: '#c3ccd6', xid: '#cc2b2b',
  ramp: { use: [255, 0.93, 0.42, 0.1], heat: [310, 0.93, 0.42, 0.14], idle: [75, 0.9, 0.58, 0.15], age: [170, 0.92, 0.48, 0.08] },
};
const DARK = {
  ground: '#10161d', ink: '#e8edf2', soft: '#a3afbb', line: '#2d3844',
  unknown: '#1b232c', free: '#143528', freeEdge: '#4fbf94', busy: '#5f83bb', taken: '#515b67', reserved: '#7c67a8',
  out: '#39434e', mark: '#aab5c0', fault: '#ff5a52', decision: '#f5b32f', quiet: '#232d38', notice: '#4d637f',
  accent: '#7fb0ff', stranded: '#c07fd0', edge: '#3a4754', xid: '#ff5a52',
  ramp: { use: [255, 0.32, 0.82, 0.11], heat: [310, 0.32, 0.8, 0.14], idle: [80, 0.42, 0.86, 0.15], age: [170, 0.34, 0.8, 0.09] },
};

/** Hues for tenants and jobs, away from red and amber. */
const HUES = [255, 160, 310, 215, 125, 340, 285, 185];

/** OKLCH to [r, g, b] in 0..255 (Björn Ottosson's matrices). */
function oklch(l, c, h) {
  const a = c * Math.cos((h * Math.PI) / 180);
  const b = c * Math.sin((h * Math.PI) / 180);
  const l3 = (l + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m3 = (l - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s3 = (l - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l3 - 3.3077115913 * m3 + 0.2309699292 * s3,
    -1.2684380046 * l3 + 2.6097574011 * m3 - 0.3413193965 * s3,
    -0.0041960863 * l3 - 0.7034186147 * m3 + 1.707614701 * s3,
  ].map((v) => {
    const x = Math.min(1, Math.max(0, v));
    return Math.round(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055));
  });
}

const hex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
const mixed = (a, b, part) => a.map((v, n) => Math.round(v + (b[n] - v) * part));
/** As one pixel of an ImageData on a little-endian machine, which every browser's is. */
const pixel = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** Numbers of colours in a palette. */
export const Colour = Object.freeze({
  UNKNOWN: 0, FREE: 1, BUSY: 2, TAKEN: 3, RESERVED: 4, OUT: 5, QUIET: 6, NOTICE: 7, DECISION: 8, FAULT: 9, STRANDED: 10,
  /** Free, in layers that ask about what is held. */
  EMPTY: 11,
  USE: 16, HEAT: 32, IDLE: 48, AGE: 64, MANY: 80,
});
export const STEPS = 12;
export const MANY = HUES.length * 3;

export class Palette {
  /** @param {boolean} dark */
  constructor(dark) {
    this.dark = dark;
    const names = dark ? DARK : LIGHT;
    this.names = names;
    /** @type {number[][]} */
    this.rgb = new Array(128).fill([0, 0, 0]);
    const fixed = ['unknown', 'free', 'busy', 'taken', 'reserved', 'out', 'quiet', 'notice', 'decision', 'fault', 'stranded', 'ground'];
    fixed.forEach((name, n) => { this.rgb[n] = hex(names[name]); });
    for (const [start, name] of [[Colour.USE, 'use'], [Colour.HEAT, 'heat'], [Colour.IDLE, 'idle'], [Colour.AGE, 'age']]) {
      const [hue, from, to, chroma] = names.ramp[name];
      for (let n = 0; n < STEPS; n += 1) {
        const part = n / (STEPS - 1);
        this.rgb[start + n] = oklch(from + (to - from) * part, chroma * (0.25 + 0.75 * part), hue);
      }
    }
    for (let n = 0; n < MANY; n += 1) {
      const light = (dark ? [0.62, 0.75, 0.5] : [0.6, 0.74, 0.47])[Math.floor(n / HUES.length)];
      this.rgb[Colour.MANY + n] = oklch(light, 0.115, HUES[n % HUES.length]);
    }
    this.ground = hex(names.ground);
    this.groundPixel = pixel(this.ground);
    this.stamps = new Map();
  }

  colour(number) {
    return css(this.rgb[number]);
  }

  /**
   * The pixels of a cell, `side` x `side`. `style` is colour << 5 | pattern << 1 | dim.
   * @returns {Uint32Array}
   */
  stamp(style, side) {
    const key = style * 256 + side;
    let found = this.stamps.get(key);
    if (!found) {
      found = this.made(style, side);
      this.stamps.set(key, found);
    }
    return found;
  }

  made(style, side) {
    const dim = (rgb) => (style & 1 ? mixed(rgb, this.ground, 0.82) : rgb);
    const base = this.rgb[style >> 5];
    const pattern = (style >> 1) & 15;
    const fill = pixel(dim(base));
    const names = this.names;
    const stamp = new Uint32Array(side * side).fill(fill);
    const put = (rgb, where) => {
      const p = pixel(dim(rgb));
      for (let y = 0; y < side; y += 1) for (let x = 0; x < side; x += 1) if (where(x, y)) stamp[y * side + x] = p;
    };
    const wide = Math.max(1, Math.round(side / 10));
    const edge = (n) => (x, y) => x < n || y < n || x >= side - n || y >= side - n;
    const mark = hex(names.mark);
    const every = Math.max(3, Math.round(side / 3));
    if (pattern === Pattern.HOLLOW) put(style >> 5 === Colour.FREE ? mixed(base, hex(names.freeEdge), 0.6) : hex(names.edge), edge(Math.max(1, Math.round(side / 16))));
    if (pattern === Pattern.HATCH) put(mark, (x, y) => (x + y) % every < Math.max(1, Math.round(every / 3)));
    if (pattern === Pattern.DOTS) put(mark, (x, y) => x % every === every >> 1 && y % every === every >> 1);
    if (pattern === Pattern.CROSS || pattern === Pattern.FAULT) {
      const ink = pattern === Pattern.FAULT ? hex(names.fault) : mark;
      put(ink, (x, y) => Math.abs(x - y) < wide || Math.abs(x + y - side + 1) < wide);
    }
    if (pattern === Pattern.RING) put(hex(names.decision), edge(Math.max(1, Math.round(side / 7))));
    if (pattern === Pattern.XID) {
      const half = Math.max(2, Math.round(side * 0.45));
      put(this.ground, (x, y) => x >= side - half - 1 && y < half + 1);
      put(hex(names.xid), (x, y) => x >= side - half && y < half);
    }
    if (pattern === Pattern.UNKNOWN) put(mark, (x, y) => x === side >> 1 && y === side >> 1);
    return stamp;
  }
}
