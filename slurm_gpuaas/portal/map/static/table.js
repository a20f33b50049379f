// The map as a table: a row a node, sortable, with the same search, so that nothing is said by a picture alone.
import { UNKNOWN_BYTE, UNKNOWN_IDLE } from './codec.js';
import { isHeld, isHeldIdle } from './layers.js';
import { stateWord } from './cards.js';
import { el, number, span, t, told, won } from './text.js';

const A_PAGE = 50;

/** What a node's row says; figures are numbers so that they sort. */
function rowOf(node, fleet, picture, shown) {
  const first = fleet.cellOfNode[node];
  const states = new Map();
  const jobs = new Map();
  const row = { node, name: fleet.nodeName[node], cluster: fleet.clusterName(node), unit: fleet.unitName(node), share: fleet.nodeShare[node], free: 0, held: 0, use: -1, heat: -1, idle: -1, won: 0, worst: 0, shown: false };
  let uses = 0;
  for (let cell = first; cell < first + fleet.gpus(node); cell += 1) {
    const state = picture.state[cell];
    states.set(state, (states.get(state) ?? 0) + 1);
    row.shown ||= !shown || shown[cell] === 1;
    if (state === 1) row.free += 1;
    if (isHeld(state) || state === 8) row.held += 1;
    row.worst = Math.max(row.worst, picture.health[cell] & 3);
    if (picture.use[cell] !== UNKNOWN_BYTE) { row.use = Math.max(row.use, 0) + picture.use[cell]; uses += 1; }
    if (picture.heat[cell] !== UNKNOWN_BYTE) row.heat = Math.max(row.heat, picture.heat[cell]);
    if (isHeldIdle(picture, cell)) { row.idle = Math.max(row.idle, picture.idle[cell]); row.won += fleet.won(cell) ?? 0; }
    else if (state === 1 && picture.idle[cell] !== UNKNOWN_IDLE) row.idle = Math.max(row.idle, picture.idle[cell]);
    const job = picture.table.jobs[picture.job[cell]];
    if (job) jobs.set(job.id, job);
  }
  if (uses) row.use = Math.round(row.use / uses);
  row.states = [...states].map(([state, n]) => `${stateWord(state)} ${n}`).join(', ');
  row.jobs = [...jobs.values()];
  row.tenants = [...new Set(row.jobs.map((job) => job.tenant).filter(Boolean))].join(', ');
  return row;
}

const COLUMNS = [
  ['table.node', (row) => row.name, (row, act) => el('button', { type: 'button', class: 'gm-link', onclick: () => act({ kind: 'node', cluster: row.cluster, id: row.name }) }, row.name)],
  ['table.cluster', (row) => row.cluster],
  ['table.unit', (row) => row.unit],
  ['table.share', (row) => row.share, (row) => told('share', row.share)],
  ['table.state', (row) => row.states],
  ['table.free', (row) => row.free, null, true],
  ['table.tenants', (row) => row.tenants],
  ['table.jobs', (row) => row.jobs[0]?.id ?? 0, (row) => row.jobs.map((job) => job.id).join(', ')],
  ['table.use', (row) => row.use, (row) => (row.use < 0 ? '–' : `${row.use} %`), true],
  ['table.heat', (row) => row.heat, (row) => (row.heat < 0 ? '–' : `${row.heat} °C`), true],
  ['table.health', (row) => row.worst, (row) => t(`severity.${row.worst}`)],
  ['table.idle', (row) => row.idle, (row) => (row.idle <= 0 ? '–' : span(row.idle)), true],
  ['table.won', (row) => row.won, (row) => (row.won ? won(row.won) : '–'), true],
];

export class TableTwin {
  /** @param {HTMLElement} root @param {(selection: any) => void} act */
  constructor(root, act) {
    this.root = root;
    this.act = act;
    this.sort = 0;
    this.down = false;
    this.page = 0;
  }

  draw(fleet, picture, shown) {
    this.last = [fleet, picture, shown];
    const rows = [];
    for (let node = 0; node < fleet.nodes; node += 1) {
      const row = rowOf(node, fleet, picture, shown);
      if (row.shown) rows.push(row);
    }
    const key = COLUMNS[this.sort][1];
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return (x < y ? -1 : x > y ? 1 : a.node - b.node) * (this.down ? -1 : 1);
    });
    const pages = Math.max(1, Math.ceil(rows.length / A_PAGE));
    this.page = Math.min(this.page, pages - 1);
    const focused = this.root.contains(document.activeElement) ? document.activeElement.getAttribute('data-key') : null;
    const scroll = this.root.querySelector('.gm-scroll')?.scrollTop ?? 0;
    this.root.replaceChildren(
      el('div', { class: 'gm-pager' },
        el('p', {}, t('table.count', { n: number(rows.length), all: number(fleet.nodes) })),
        this.turn('table.before', -1, this.page > 0),
        el('span', {}, t('table.page', { n: this.page + 1, all: pages })),
        this.turn('table.after', 1, this.page < pages - 1)),
      el('div', { class: 'gm-scroll', tabindex: 0, role: 'region', 'aria-label': t('table.caption') },
        el('table', { class: 'gm-table' }, el('caption', { class: 'gm-hidden' }, t('table.caption')),
          el('thead', {}, el('tr', {}, COLUMNS.map(([word, , , isNumber], n) => el('th', {
            scope: 'col', class: isNumber ? 'gm-num' : null, 'aria-sort': n === this.sort ? (this.down ? 'descending' : 'ascending') : null,
          }, el('button', { type: 'button', 'data-key': `sort${n}`, onclick: () => this.by(n) }, t(word), el('span', { 'aria-hidden': 'true' }, n === this.sort ? (this.down ? ' ▾' : ' ▴') : '')))))),
          el('tbody', {}, rows.slice(this.page * A_PAGE, (this.page + 1) * A_PAGE).map((row) => el('tr', {}, COLUMNS.map(([, value, text, isNumber], n) =>
            el(n ? 'td' : 'th', { scope: n ? null : 'row', class: isNumber ? 'gm-num' : null }, text ? text(row, this.act) : String(value(row))))))))));
    this.root.querySelector('.gm-scroll').scrollTop = scroll;
    if (focused) this.root.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  turn(word, by, possible) {
    return el('button', { type: 'button', class: 'gm-button', 'data-key': word, disabled: !possible, onclick: () => { this.page += by; this.draw(...this.last); } }, t(word));
  }

  by(column) {
    this.down = this.sort === column ? !this.down : false;
    this.sort = column;
    this.page = 0;
    this.draw(...this.last);
  }
}
