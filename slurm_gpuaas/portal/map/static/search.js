// The search line: words one after the other, all of which must hold.
//
//   b200-[001-032,040]  nodes in Slurm's notation        job:48012  user:kim  tenant:hangang-univ  name:pretrain
//   xid  xid:79         faults                           idle>30m   idle<2h   use<10
//   state:drained  held  cluster:nhn  unit:su01  share:own  model:b200  incident:inc-00211
//
// A word without a colon is looked for among nodes, jobs, tenants and users.
import { State, Sign, UNKNOWN_BYTE, UNKNOWN_IDLE } from './codec.js';
import { isHeld } from './layers.js';

/** Longest text, most words, and most nodes of one set, so that no search line can stop the page. */
const MAX_TEXT = 500;
const MAX_NODES = 20000;

const STATES = {
  free: State.FREE, busy: State.BUSY, reserved: State.RESERVED, draining: State.DRAINING, drained: State.DRAINED,
  down: State.DOWN, maintenance: State.MAINTENANCE, unknown: State.UNKNOWN, taken: State.TAKEN,
};

export class SearchError extends Error {
  /** @param {string} word of the texts @param {Record<string, string>} values */
  constructor(word, values) {
    super(word);
    this.word = word;
    this.values = values;
  }
}

/** Text cut at `at`, but not within brackets. */
function cut(text, at) {
  const parts = [''];
  let depth = 0;
  for (const letter of text) {
    if (letter === '[') depth += 1;
    if (letter === ']') depth -= 1;
    if (letter === at && depth <= 0) parts.push('');
    else parts[parts.length - 1] += letter;
  }
  return parts.filter(Boolean);
}

/**
 * Names in Slurm's notation: `b200-[001-003,007],b200-010`.
 * @param {string} text @returns {Set<string>}
 */
export function nodeSet(text) {
  const names = new Set();
  for (const part of cut(text, ',')) {
    const found = /^([A-Za-z0-9._-]*)\[([0-9,-]+)\]([A-Za-z0-9._-]*)$/.exec(part);
    if (!found) {
      if (/[[\]]/.test(part)) throw new SearchError('search.nodes', { text: part });
      names.add(part);
      continue;
    }
    for (const range of found[2].split(',')) {
      const [, first, last = first] = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(range) ?? [];
      if (first === undefined || Number(last) < Number(first)) throw new SearchError('search.nodes', { text: part });
      if (names.size + Number(last) - Number(first) > MAX_NODES) throw new SearchError('search.many', { text: part });
      for (let n = Number(first); n <= Number(last); n += 1) {
        names.add(`${found[1]}${String(n).padStart(first.length, '0')}${found[3]}`);
      }
    }
  }
  return names;
}

const MINUTES = { '': 1, m: 1, h: 60, d: 1440 };

/** @typedef {(cell: number) => boolean} Test */

function ofJobs(picture, holds) {
  const slots = new Uint8Array(65536);
  for (const [slot, job] of Object.entries(picture.table.jobs)) if (holds(job, slot)) slots[Number(slot)] = 1;
  return (cell) => slots[picture.job[cell]] === 1;
}

function ofNodes(fleet, holds) {
  const nodes = new Uint8Array(fleet.nodes);
  for (let node = 0; node < fleet.nodes; node += 1) if (holds(node)) nodes[node] = 1;
  return (cell) => nodes[fleet.nodeOfCell[cell]] === 1;
}

function ofIncidents(fleet, picture, holds) {
  const cells = new Uint8Array(fleet.count);
  for (const [key, incident] of Object.entries(picture.table.incidents)) {
    if (!holds(incident, key)) continue;
    const node = fleet.node(incident.cluster, incident.node);
    if (node < 0) continue;
    const first = fleet.cellOfNode[node];
    if (incident.gpu === undefined) cells.fill(1, first, first + fleet.gpus(node));
    else if (incident.gpu < fleet.gpus(node)) cells[first + incident.gpu] = 1;
  }
  return (cell) => cells[cell] === 1;
}

function compared(word, fleet, picture) {
  const found = /^(idle|use|heat|power)(>=|<=|>|<)(\d{1,6})([a-z]?)$/.exec(word);
  if (!found) return null;
  const [, name, sign, digits, unit] = found;
  if (name === 'idle' ? !(unit in MINUTES) : unit !== '') return null;
  const limit = Number(digits) * (name === 'idle' ? MINUTES[unit] : 1);
  const scale = name === 'power' ? 10 : 1;
  const plane = picture[name];
  const nothing = name === 'idle' ? UNKNOWN_IDLE : UNKNOWN_BYTE;
  const holds = { '>': (a) => a > limit, '<': (a) => a < limit, '>=': (a) => a >= limit, '<=': (a) => a <= limit }[sign];
  return (cell) => plane[cell] !== nothing && holds(plane[cell] * scale);
}

/** @returns {Test} */
function testOf(word, fleet, picture) {
  const lower = word.toLowerCase();
  const comparison = compared(lower, fleet, picture);
  if (comparison) return comparison;
  if (lower === 'held') return (cell) => isHeld(picture.state[cell]);
  if (lower === 'xid') return (cell) => (picture.health[cell] & Sign.XID) !== 0;
  const colon = /^([a-z]+):(.*)$/.exec(lower);
  const value = colon ? colon[2] : '';
  switch (colon ? colon[1] : '') {
    case 'state':
      if (!(value in STATES)) throw new SearchError('search.state', { text: value });
      return (cell) => picture.state[cell] === STATES[value];
    case 'job': return ofJobs(picture, (job) => String(job.id) === value);
    case 'user': return ofJobs(picture, (job) => job.user === value);
    case 'tenant': return ofJobs(picture, (job) => job.tenant === value);
    case 'name': return ofJobs(picture, (job) => (job.name ?? '').toLowerCase().includes(value));
    case 'xid': return ofIncidents(fleet, picture, (incident) => String(incident.xid) === value);
    case 'incident': return ofIncidents(fleet, picture, (incident) => incident.id.toLowerCase() === value);
    case 'cluster': return ofNodes(fleet, (node) => fleet.clusterName(node) === value);
    case 'model': return ofNodes(fleet, (node) => fleet.clusters[fleet.clusterOfNode[node]].model === value);
    case 'unit': return ofNodes(fleet, (node) => fleet.unitName(node).toLowerCase() === value);
    case 'share': return ofNodes(fleet, (node) => fleet.nodeShare[node] === value);
    case 'node': {
      const names = nodeSet(word.slice(5));
      return ofNodes(fleet, (node) => names.has(fleet.nodeName[node]));
    }
    case '': break;
    default: throw new SearchError('search.word', { text: colon[1] });
  }
  if (/[[,]/.test(word)) {
    const names = nodeSet(word);
    return ofNodes(fleet, (node) => names.has(fleet.nodeName[node]));
  }
  if (/[<>]/.test(word)) throw new SearchError('search.compare', { text: word });
  const node = ofNodes(fleet, (n) => fleet.nodeName[n].toLowerCase().includes(lower));
  const job = ofJobs(picture, (one) => String(one.id) === lower
    || [one.user, one.tenant, one.name].some((text) => (text ?? '').toLowerCase().includes(lower)));
  return (cell) => node(cell) || job(cell);
}

/**
 * Cells that a search line means: 1 for each, or null for an empty line, which means all.
 * @param {string} text
 * @param {import('./fleet.js').Fleet} fleet @param {import('./codec.js').Picture} picture
 * @returns {{shown: Uint8Array, cells: number, nodes: number} | null}
 */
export function search(text, fleet, picture) {
  if (text.length > MAX_TEXT) throw new SearchError('search.long', { n: String(MAX_TEXT) });
  const words = cut(text.trim(), ' ');
  if (!words.length) return null;
  const tests = words.map((word) => testOf(word, fleet, picture));
  const shown = new Uint8Array(fleet.count);
  const nodes = new Set();
  let cells = 0;
  for (let cell = 0; cell < fleet.count; cell += 1) {
    if (!tests.every((test) => test(cell))) continue;
    shown[cell] = 1;
    cells += 1;
    nodes.add(fleet.nodeOfCell[cell]);
  }
  return { shown, cells, nodes: nodes.size };
}
