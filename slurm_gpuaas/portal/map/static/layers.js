// One question each: of every cell a colour, by layer, and a pattern, which is the same in all of them.
import { State, Severity, Sign, UNKNOWN_BYTE, UNKNOWN_IDLE } from './codec.js';
import { Colour, MANY, Pattern, STEPS } from './palette.js';
import { segments } from './fleet.js';

export const LAYERS = ['state', 'tenant', 'job', 'use', 'health', 'heat', 'fragmentation', 'age'];
/** The second question of a layer, behind its key pressed again. */
export const SECOND = Object.freeze({ heat: 'power' });

/** Minutes unused from which a GPU that a job holds needs a decision; `rail.IDLE_MINUTES` on the server. */
export const IDLE_MINUTES = 10;
export const AGES = [10, 30, 120, 360, 1440];
export const SIZES = [1, 2, 4, 8, 16, 32];
const HEAT_FROM = 30;
const HEAT_TO = 90;
const WATTS_TO = 1200;

const clamp = (n) => Math.max(0, Math.min(STEPS - 1, n));
export const isHeld = (state) => state === State.BUSY || state === State.DRAINING;
export const isHeldIdle = (picture, cell) =>
  isHeld(picture.state[cell]) && picture.idle[cell] >= IDLE_MINUTES && picture.idle[cell] !== UNKNOWN_IDLE;

/** Colours of the tenants of a picture, in the order of their names. @returns {Map<string, number>} */
export function tenantColours(picture) {
  const names = [...new Set(Object.values(picture.table.jobs).map((job) => job.tenant).filter(Boolean))].sort();
  return new Map(names.map((name, n) => [name, Colour.MANY + (n % MANY)]));
}

/** GPUs a tenant, most first. @returns {[string, number][]} */
export function tenantSizes(picture) {
  const sizes = new Map();
  for (const job of Object.values(picture.table.jobs)) if (job.tenant) sizes.set(job.tenant, (sizes.get(job.tenant) ?? 0) + job.gpus);
  return [...sizes].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

export const ageStep = (minutes) => AGES.filter((limit) => minutes >= limit).length;
const ageColour = (start, minutes) => start + clamp(Math.round((ageStep(minutes) * (STEPS - 1)) / AGES.length));
export const sizeColour = (size) => Colour.AGE + clamp(2 + Math.round((Math.log2(Math.min(size, 32)) * (STEPS - 3)) / 5));
const rampColour = (start, value, from, to) => start + clamp(Math.floor(((value - from) * STEPS) / (to - from)));

/** Colour of a state in the layer of states. */
const STATE_COLOUR = new Uint8Array(16);
STATE_COLOUR.set([
  Colour.UNKNOWN, Colour.FREE, Colour.BUSY, Colour.RESERVED, Colour.BUSY, Colour.OUT, Colour.OUT, Colour.OUT, Colour.TAKEN,
]);
const SEVERITY_COLOUR = [Colour.QUIET, Colour.NOTICE, Colour.DECISION, Colour.FAULT];

/** Colour of a cell that the layer does not ask about: free, out of service, taken, or a faint grey. */
function beside(state) {
  if (state === State.FREE) return Colour.EMPTY;
  return state === State.BUSY || state === State.DRAINING ? Colour.QUIET : STATE_COLOUR[state];
}

/**
 * @typedef {(cell: number) => number} ColourOf
 * @type {Record<string, (picture: import('./codec.js').Picture, fleet: import('./fleet.js').Fleet) => ColourOf>}
 */
const COLOURS = {
  state: ({ state }) => (cell) => STATE_COLOUR[state[cell]],
  tenant: (picture) => {
    const colours = tenantColours(picture);
    const ofSlot = new Uint8Array(65536).fill(Colour.TAKEN);
    for (const [slot, job] of Object.entries(picture.table.jobs)) ofSlot[Number(slot)] = colours.get(job.tenant) ?? Colour.TAKEN;
    return (cell) => (isHeld(picture.state[cell]) ? ofSlot[picture.job[cell]] : beside(picture.state[cell]));
  },
  job: ({ state, job }) => (cell) =>
    isHeld(state[cell]) ? Colour.MANY + ((job[cell] * 7) % MANY) : beside(state[cell]),
  use: ({ state, use }) => (cell) =>
    isHeld(state[cell]) && use[cell] !== UNKNOWN_BYTE ? rampColour(Colour.USE, use[cell], 0, 100) : beside(state[cell]),
  health: ({ state, health }) => (cell) =>
    health[cell] & 3 ? SEVERITY_COLOUR[health[cell] & 3] : beside(state[cell]),
  heat: ({ state, heat }) => (cell) =>
    heat[cell] === UNKNOWN_BYTE ? beside(state[cell]) : rampColour(Colour.HEAT, heat[cell], HEAT_FROM, HEAT_TO),
  power: ({ state, power }) => (cell) =>
    power[cell] === UNKNOWN_BYTE ? beside(state[cell]) : rampColour(Colour.HEAT, power[cell] * 10, 0, WATTS_TO),
  fragmentation: (picture, fleet) => {
    const size = segments(fleet, picture);
    return (cell) => {
      if (size[cell] > 0) return sizeColour(size[cell]);
      if (size[cell] < 0) return Colour.STRANDED;
      return picture.state[cell] === State.TAKEN ? Colour.QUIET : beside(picture.state[cell]);
    };
  },
  age: ({ state, idle }) => (cell) => {
    if (idle[cell] === UNKNOWN_IDLE || idle[cell] < IDLE_MINUTES) return beside(state[cell]);
    if (isHeld(state[cell])) return ageColour(Colour.IDLE, idle[cell]);
    return state[cell] === State.FREE ? ageColour(Colour.AGE, idle[cell]) : beside(state[cell]);
  },
};

/** Pattern of each (state, health) pair: state in the upper 4 bits, then XID sign, then severity. */
const PATTERN = new Uint8Array(16 * 8);
for (let state = 0; state < 16; state += 1) {
  for (let low = 0; low < 8; low += 1) {
    const fault = (low & 3) === Severity.FAULT;
    let pattern = Pattern.NONE;
    if (state === State.UNKNOWN) pattern = Pattern.UNKNOWN;
    else if (state === State.DOWN) pattern = fault ? Pattern.FAULT : Pattern.CROSS;
    else if (fault) pattern = low & 4 ? Pattern.XID : Pattern.FAULT;
    else if (state === State.DRAINING || state === State.DRAINED) pattern = Pattern.HATCH;
    else if (state === State.MAINTENANCE) pattern = Pattern.DOTS;
    else if (low & 4) pattern = Pattern.XID;
    else if (state === State.FREE) pattern = Pattern.HOLLOW;
    PATTERN[state * 8 + low] = pattern;
  }
}

export function patternOf(picture, cell) {
  const health = picture.health[cell];
  const pattern = PATTERN[picture.state[cell] * 8 + (health & Sign.XID ? 4 : 0) + (health & 3)];
  return pattern === Pattern.NONE && isHeldIdle(picture, cell) ? Pattern.RING : pattern;
}

/**
 * Style of every cell (colour << 5 | pattern << 1 | dim), written into `styles`.
 * @param {Uint8Array | null} shown  1 = as it is, 0 = dimmed; null = nothing is dimmed
 */
export function style(layer, picture, fleet, shown, styles) {
  const colour = COLOURS[layer](picture, fleet);
  const hollow = layer === 'fragmentation' || layer === 'age' || layer === 'heat' || layer === 'power';
  const ringed = layer !== 'age' && layer !== 'job';
  for (let cell = 0; cell < picture.count; cell += 1) {
    let pattern = patternOf(picture, cell);
    if ((pattern === Pattern.HOLLOW && hollow) || (pattern === Pattern.RING && !ringed)) pattern = Pattern.NONE;
    styles[cell] = (colour(cell) << 5) | (pattern << 1) | (shown && !shown[cell] ? 1 : 0);
  }
}

/**
 * Entries of a layer's legend; `find` is the search that shows only these.
 * @returns {{word?: string, text?: string, style: number, count?: number, find?: string}[]}
 */
export function legend(layer, picture, t) {
  const of = (colour, pattern = Pattern.NONE) => (colour << 5) | (pattern << 1);
  const count = (test) => { let n = 0; for (let cell = 0; cell < picture.count; cell += 1) if (test(cell)) n += 1; return n; };
  const ramp = (start, from, to, unit) => [0, 3, 6, 9, 11].map((n) =>
    ({ text: `${Math.round(from + ((to - from) * n) / (STEPS - 1))}${unit}`, style: of(start + n) }));
  const out = [
    { word: 'state.draining', style: of(Colour.BUSY, Pattern.HATCH), find: 'state:draining' },
    { word: 'state.drained', style: of(Colour.OUT, Pattern.HATCH), find: 'state:drained' },
    { word: 'state.down', style: of(Colour.OUT, Pattern.CROSS), find: 'state:down' },
    { word: 'sign.xid', style: of(Colour.OUT, Pattern.XID), find: 'xid' },
  ];
  if (layer === 'state') {
    const states = picture.table.rail.states;
    return [
      { word: 'state.free', style: of(Colour.FREE, Pattern.HOLLOW), count: states[State.FREE], find: 'state:free' },
      { word: 'state.busy', style: of(Colour.BUSY), count: states[State.BUSY], find: 'state:busy' },
      { word: 'state.taken', style: of(Colour.TAKEN), count: states[State.TAKEN] },
      { word: 'held_idle', style: of(Colour.BUSY, Pattern.RING), count: picture.table.rail.idle, find: `held idle>${IDLE_MINUTES}m` },
      { word: 'state.reserved', style: of(Colour.RESERVED), count: states[State.RESERVED], find: 'state:reserved' },
      { ...out[0], count: states[State.DRAINING] },
      { ...out[1], count: states[State.DRAINED] },
      { ...out[2], count: states[State.DOWN] },
      { word: 'state.maintenance', style: of(Colour.OUT, Pattern.DOTS), count: states[State.MAINTENANCE], find: 'state:maintenance' },
      { word: 'state.unknown', style: of(Colour.UNKNOWN, Pattern.UNKNOWN), count: states[State.UNKNOWN] },
      { ...out[3], count: count((cell) => picture.health[cell] & Sign.XID) },
    ].filter((entry) => entry.count);
  }
  if (layer === 'tenant') {
    const colours = tenantColours(picture);
    return tenantSizes(picture).slice(0, 12).map(([name, gpus]) => ({ text: name, style: of(colours.get(name)), count: gpus, find: `tenant:${name}` }))
      .concat({ word: 'state.free', style: of(Colour.EMPTY, Pattern.HOLLOW), find: 'state:free' });
  }
  if (layer === 'job') return [{ text: t('legend.job'), style: of(Colour.MANY + 1) }, { word: 'state.free', style: of(Colour.EMPTY, Pattern.HOLLOW) }];
  if (layer === 'use') return ramp(Colour.USE, 0, 100, ' %');
  if (layer === 'heat') return ramp(Colour.HEAT, HEAT_FROM, HEAT_TO, ' °C');
  if (layer === 'power') return ramp(Colour.HEAT, 0, WATTS_TO, ' W');
  if (layer === 'health') {
    return [
      { word: 'severity.0', style: of(Colour.QUIET), count: count((cell) => !(picture.health[cell] & 3)) },
      { word: 'severity.1', style: of(Colour.NOTICE), count: count((cell) => (picture.health[cell] & 3) === 1) },
      { word: 'severity.2', style: of(Colour.DECISION), count: count((cell) => (picture.health[cell] & 3) === 2) },
      { word: 'severity.3', style: of(Colour.FAULT), count: count((cell) => (picture.health[cell] & 3) === 3) },
      ...out,
    ];
  }
  if (layer === 'fragmentation') {
    return [
      ...SIZES.map((size) => ({ text: t('legend.segment', { n: size }), style: of(sizeColour(size)) })),
      { word: 'legend.stranded', style: of(Colour.STRANDED) },
    ];
  }
  const ages = [t('minutes', { n: 10 }), t('minutes', { n: 30 }), t('hours', { n: 2 }), t('hours', { n: 6 }), t('hours', { n: 24 })];
  return [
    ...ages.map((text, n) => ({ text: `${t('held')} ≥ ${text}`, style: of(ageColour(Colour.IDLE, AGES[n])), find: `held idle>${AGES[n]}m` })),
    ...[0, 2, 4].map((n) => ({ text: `${t('state.free')} ≥ ${ages[n]}`, style: of(ageColour(Colour.AGE, AGES[n])), find: `state:free idle>${AGES[n]}m` })),
  ];
}
