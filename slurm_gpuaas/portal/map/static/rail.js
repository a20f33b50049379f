// What stands beside the map: figures, room for a job, free GPUs, queue, releases. All sums are the server's.
import { el, number, percent, span, svg, t, told, won, clock } from './text.js';
import { State } from './codec.js';

const SIZES = [1, 2, 4, 8, 16, 32];

/** The figures above the map. */
export function figures(table, count) {
  const { rail } = table;
  const states = rail.states;
  const held = states[State.BUSY] + states[State.DRAINING] + states[State.TAKEN];
  const out = states[State.DRAINED] + states[State.DOWN] + states[State.MAINTENANCE];
  const one = (word, value, note, kind) => el('div', { class: `gm-figure${kind ? ` gm-${kind}` : ''}` },
    el('dt', {}, t(word)), el('dd', {}, el('strong', {}, value), el('span', {}, note)));
  return [
    one('figure.gpus', number(count), t('figure.nodes', { n: number(count / (rail.rooms[0]?.per_node ?? 8)) })),
    one('figure.held', percent(held, count), t('gpus', { n: number(held) })),
    one('figure.free', number(states[State.FREE]), percent(states[State.FREE], count)),
    one('figure.idle', number(rail.idle), !rail.won ? '' : t('won_hour', { won: won(rail.won) }), rail.idle ? 'decide' : ''),
    one('figure.out', number(out), percent(out, count), out ? 'out' : ''),
    one('figure.waiting', number(rail.waiting.reduce((sum, row) => sum + row[1], 0)),
      t('gpus', { n: number(rail.waiting.reduce((sum, row) => sum + row[2], 0)) })),
  ];
}

function section(word, note, ...content) {
  return el('section', {}, el('h2', {}, t(word)), ...content, note ? el('p', { class: 'gm-note' }, note) : null);
}

/** A row of bars; `label` says their figures to who does not see them. */
function bars(values, label, { height = 56, names = null } = {}) {
  const top = Math.max(1, ...values);
  const step = 100 / values.length;
  return svg('svg', { class: 'gm-bars', viewBox: `0 0 100 ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    values.map((value, n) => svg('rect', {
      x: n * step + step * 0.1, width: step * 0.8, y: height - Math.max(value ? 1.5 : 0.6, (value / top) * (height - 2)),
      height: Math.max(value ? 1.5 : 0.6, (value / top) * (height - 2)), class: value ? 'gm-bar-some' : 'gm-bar-none',
    }, svg('title', {}, document.createTextNode(`${names ? names[n] : n}: ${value}`)))));
}

/** The room with most GPUs, of those that `gpus` counts. */
function best(rooms, gpus) {
  return rooms.reduce((found, room) => (found === null || gpus(room) > gpus(found) ? room : found), null);
}

function largest(rail) {
  const line = (word, gpus, nodes, where) => el('li', {},
    el('span', { class: 'gm-what' }, t(word)),
    el('strong', {}, number(gpus)),
    el('span', { class: 'gm-where' }, gpus ? [nodes ? `${t('nodes', { n: number(nodes) })} · ` : '', where].join('') : t('none')));
  const place = (room) => `${room.cluster} · ${told('share', room.share)} · ${room.model.toUpperCase()}`;
  const all = best(rail.rooms, (room) => room.nodes * room.per_node);
  const unit = best(rail.rooms, (room) => room.unit_nodes * room.per_node);
  const node = best(rail.rooms, (room) => room.gpus);
  if (!all) return null;
  return section('rail.largest', '', el('ul', { class: 'gm-room' },
    line('rail.cluster', all.nodes * all.per_node, all.nodes, place(all)),
    line('rail.unit', unit.unit_nodes * unit.per_node, unit.unit_nodes, `${unit.unit} · ${place(unit)}`),
    line('rail.node', node.gpus, 0, place(node))));
}

function models(rail) {
  return section('rail.models', '', el('ul', { class: 'gm-models' }, rail.models.map(([model, free, all]) => {
    const meter = el('meter', { min: 0, max: all, value: free, 'aria-label': `${model}: ${free} / ${all}` });
    return el('li', {}, el('span', {}, model.toUpperCase()), meter,
      el('span', { class: 'gm-num' }, el('strong', {}, number(free)), ` / ${number(all)}`));
  })));
}

function queue(rail) {
  if (!rail.waiting.length) return section('rail.queue', '', el('p', { class: 'gm-note' }, t('rail.nobody')));
  return section('rail.queue', '', el('table', { class: 'gm-queue' },
    el('thead', {}, el('tr', {}, ['rail.reason', 'rail.jobs', 'rail.gpus', 'rail.median'].map((word, n) =>
      el('th', { scope: 'col', class: n ? 'gm-num' : null }, t(word))))),
    el('tbody', {}, rail.waiting.slice(0, 6).map(([reason, jobs, gpus, minutes]) => el('tr', {},
      el('th', { scope: 'row', title: reason }, told('reason', reason)),
      [number(jobs), number(gpus), span(minutes)].map((text) => el('td', { class: 'gm-num' }, text)))))));
}

/** @param {Record<string, any>} table @param {number} moment ms */
export function rail(table, moment) {
  const sums = table.rail;
  const segments = sums.segments.length ? sums.segments : SIZES.map(() => 0);
  const hour = (n) => clock(moment + n * 3600e3);
  return [
    largest(sums),
    models(sums),
    section('rail.segments', t('rail.segments_note'),
      bars(segments, SIZES.map((size, n) => `${t('nodes', { n: size })}: ${segments[n]}`).join(', '), { height: 40, names: SIZES.map((size) => t('nodes', { n: size })) }),
      el('ol', { class: 'gm-axis gm-six' }, SIZES.map((size, n) => el('li', {}, el('strong', {}, number(segments[n])), el('span', {}, `${size}${n === 5 ? '+' : ''}`))))),
    queue(sums),
    section('rail.releases', t('rail.releases_note'),
      bars(sums.releases, sums.releases.map((gpus, n) => `${hour(n)} ${gpus}`).join(', '), { height: 40, names: sums.releases.map((_, n) => `${hour(n)}–${hour(n + 1)}`) }),
      el('ol', { class: 'gm-axis' }, [0, 6, 12, 18, 24].map((n) => el('li', {}, n ? hour(n) : t('now'))))),
  ].filter(Boolean);
}
