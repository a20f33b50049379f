// Cards of what is pointed at or chosen, and the little one under the pointer.
import { State, UNKNOWN_BYTE, UNKNOWN_IDLE } from './codec.js';
import { isHeld, isHeldIdle } from './layers.js';
import { el, moment, number, span, svg, t, told, won } from './text.js';

const STATE_NAMES = ['unknown', 'free', 'busy', 'reserved', 'draining', 'drained', 'down', 'maintenance', 'taken'];
export const stateWord = (state) => t(`state.${STATE_NAMES[state]}`);

/** Kinds of things that can be chosen, as they stand in the address: `node:nhn/b200-001`. */
export function parseSelection(text) {
  const found = /^(gpu|node|unit|job|incident):([a-z0-9-]+)\/([A-Za-z0-9._:-]{1,80})$/.exec(text ?? '');
  return found ? { kind: found[1], cluster: found[2], id: found[3] } : null;
}
export const selectionText = (one) => (one ? `${one.kind}:${one.cluster}/${one.id}` : '');

export function jobOf(picture, cluster, id) {
  const found = Object.entries(picture.table.jobs).find(([, job]) => job.cluster === cluster && String(job.id) === id);
  return found ? { slot: Number(found[0]), ...found[1] } : null;
}

/** Cells of a selection. */
export function selectedCells(one, fleet, picture) {
  if (!one) return [];
  const cells = [];
  if (one.kind === 'job') {
    const job = jobOf(picture, one.cluster, one.id);
    if (job) for (let cell = 0; cell < picture.count; cell += 1) if (picture.job[cell] === job.slot) cells.push(cell);
    return cells;
  }
  if (one.kind === 'unit') {
    const unit = fleet.units.find((u) => u.name === one.id && fleet.clusters[u.cluster].name === one.cluster);
    if (!unit) return cells;
    for (let n = 0; n < unit.nodes; n += 1) {
      const first = fleet.cellOfNode[unit.firstNode + n];
      for (let gpu = 0; gpu < fleet.gpus(unit.firstNode + n); gpu += 1) cells.push(first + gpu);
    }
    return cells;
  }
  const incident = one.kind === 'incident' ? picture.table.incidents[`${one.cluster}:${one.id}`] : null;
  const [name, index] = one.kind === 'incident' ? [incident?.node, undefined] : one.id.split(':');
  const node = fleet.node(one.cluster, name);
  if (node < 0) return cells;
  for (let gpu = 0; gpu < fleet.gpus(node); gpu += 1) {
    if (one.kind !== 'gpu' || gpu === Number(index)) cells.push(fleet.cellOfNode[node] + gpu);
  }
  return cells;
}

function facts(rows) {
  return el('dl', { class: 'gm-facts' }, rows.filter(([, value]) => value !== '' && value !== null && value !== undefined)
    .map(([word, value]) => el('div', {}, el('dt', {}, t(word)), el('dd', {}, value))));
}

/** Use over an hour as a line; gaps where nothing is known. */
export function sparkline(use) {
  const line = svg('svg', { class: 'gm-spark', viewBox: '0 0 60 20', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  let path = '';
  use.forEach((value, n) => {
    if (value === null) return;
    path += `${path && use[n - 1] !== null ? 'L' : 'M'}${n + 0.5} ${(19 - value * 0.18).toFixed(1)}`;
  });
  line.append(svg('path', { d: 'M0 19.5H60', class: 'gm-spark-floor' }), svg('path', { d: path || 'M0 0', class: 'gm-spark-line' }));
  return line;
}

/** Open incidents of a node that the picture knows, newest first. */
function incidentsOf(picture, cluster, node) {
  return Object.values(picture.table.incidents).filter((one) => one.cluster === cluster && one.node === node)
    .sort((a, b) => b.steps[0][1] - a.steps[0][1]);
}

/** What is known of a cell at once, without asking the server. */
export function cellFacts(cell, fleet, picture) {
  const node = fleet.nodeOfCell[cell];
  const job = picture.table.jobs[picture.job[cell]];
  const state = picture.state[cell];
  const gpu = cell - fleet.cellOfNode[node];
  const price = fleet.won(cell);
  const idle = picture.idle[cell];
  const fault = incidentsOf(picture, fleet.clusterName(node), fleet.nodeName[node])
    .find((one) => one.gpu === undefined || one.gpu === gpu);
  return {
    title: `${fleet.nodeName[node]} · GPU ${gpu}`,
    place: `${fleet.clusterName(node)} · ${fleet.unitName(node)} · ${told('share', fleet.nodeShare[node])}`,
    state: stateWord(state),
    rows: [
      ['card.job', job ? [job.id, job.name].filter(Boolean).join(' · ') : ''],
      ['card.tenant', job?.tenant ?? ''],
      ['card.user', job?.user ?? ''],
      ['card.use', picture.use[cell] === UNKNOWN_BYTE ? '' : `${picture.use[cell]} %`],
      ['card.power', picture.power[cell] === UNKNOWN_BYTE ? '' : `${number(picture.power[cell] * 10)} W`],
      ['card.heat', picture.heat[cell] === UNKNOWN_BYTE ? '' : `${picture.heat[cell]} °C`],
      ['card.idle', idle && idle !== UNKNOWN_IDLE && (state === State.FREE || isHeld(state)) ? span(idle) : ''],
      ['card.wasted', isHeldIdle(picture, cell) && price !== null ? t('won_hour', { won: won(price) }) : ''],
      ['card.fault', fault ? fault.headline : ''],
    ],
  };
}

export function tooltip(cell, fleet, picture) {
  const { title, place, state, rows } = cellFacts(cell, fleet, picture);
  return [el('p', { class: 'gm-tip-title' }, el('strong', {}, title), el('span', {}, state)), el('p', { class: 'gm-note' }, place), facts(rows)];
}

/** A cell in one sentence, for who listens. */
export function announced(cell, fleet, picture) {
  const { title, place, state, rows } = cellFacts(cell, fleet, picture);
  return [title, state, place, ...rows.filter(([, value]) => value !== '').map(([word, value]) => `${t(word)} ${value}`)].join(', ');
}

/** Several cells (a node, a unit) in one sentence. */
export function summary(title, cells, picture) {
  const counts = new Map();
  for (const cell of cells) counts.set(picture.state[cell], (counts.get(picture.state[cell]) ?? 0) + 1);
  return [title, ...[...counts].map(([state, n]) => `${stateWord(state)} ${n}`)].join(', ');
}

const choose = (label, selection, act) => el('button', { type: 'button', class: 'gm-link', onclick: () => act(selection) }, label);

/**
 * The card of a selection. `act` chooses another one, `ask` gets JSON from the server; what it brings is put in when it
 * comes, if the card is still there.
 */
export function card(one, { fleet, picture, live, act, ask, find }) {
  const cells = selectedCells(one, fleet, picture);
  const close = el('button', { type: 'button', class: 'gm-close', 'aria-label': t('close'), onclick: () => act(null) }, '×');
  const frame = (title, ...content) => el('section', { class: 'gm-card', 'aria-label': title }, el('header', {}, el('h2', {}, title), close), ...content);
  if (one.kind === 'incident') {
    const incident = picture.table.incidents[`${one.cluster}:${one.id}`];
    return incident ? frame(t('card.incident', { id: one.id }), ...incidentCard(incident, fleet, act)) : frame(one.id, el('p', {}, t('card.gone')));
  }
  if (!cells.length) return frame(one.id, el('p', {}, t('card.gone')));
  if (one.kind === 'job') return frame(t('card.job_title', { id: one.id }), ...jobCard(jobOf(picture, one.cluster, one.id), cells, { fleet, picture, live, ask, find }));
  if (one.kind === 'unit') {
    return frame(`${one.cluster} · ${one.id}`, el('p', {}, summary(t('gpus', { n: cells.length }), cells, picture)),
      choose(t('card.only'), one, () => find(`cluster:${one.cluster} unit:${one.id}`)));
  }
  return frame(one.kind === 'gpu' ? `${one.id.split(':')[0]} · GPU ${one.id.split(':')[1]}` : one.id,
    ...nodeCard(one, cells, { fleet, picture, live, act, ask }));
}

function nodeCard(one, cells, { fleet, picture, live, act, ask }) {
  const node = fleet.nodeOfCell[cells[0]];
  const name = fleet.nodeName[node];
  const body = el('tbody');
  const rows = cells.map((cell) => {
    const job = picture.table.jobs[picture.job[cell]];
    const curve = el('td', { class: 'gm-curve' });
    const tail = el('td', { class: 'gm-mono' });
    body.append(el('tr', {}, el('th', { scope: 'row' }, String(cell - fleet.cellOfNode[node])), el('td', {}, stateWord(picture.state[cell])),
      el('td', {}, job ? choose(String(job.id), { kind: 'job', cluster: job.cluster, id: String(job.id) }, act) : '–'),
      el('td', { class: 'gm-num' }, picture.use[cell] === UNKNOWN_BYTE ? '–' : `${picture.use[cell]} %`), curve, tail));
    return { curve, tail };
  });
  if (live) {
    ask(`nodes/${one.cluster}/${name}`).then((found) => rows.forEach(({ curve, tail }, n) => {
      const gpu = found.gpus[cells[n] - fleet.cellOfNode[node]];
      curve.replaceChildren(gpu.use.length ? sparkline(gpu.use) : '–');
      tail.textContent = gpu.uuid_tail;
    }), () => {});
  }
  return [
    facts([['card.place', `${one.cluster} · ${fleet.unitName(node)} · ${told('share', fleet.nodeShare[node])} · ${fleet.clusters[fleet.clusterOfNode[node]].model.toUpperCase()}`]]),
    el('table', { class: 'gm-gpus' }, el('caption', { class: 'gm-hidden' }, name),
      el('thead', {}, el('tr', {}, ['card.gpu', 'card.state', 'card.job', 'card.use', 'card.hour', 'card.uuid'].map((word) => el('th', { scope: 'col' }, t(word))))), body),
    ...incidentsOf(picture, one.cluster, name).map((incident) => el('p', { class: 'gm-fault' },
      choose(incident.headline, { kind: 'incident', cluster: incident.cluster, id: incident.id }, act), ` · ${told('stage', incident.steps.at(-1)[0])}`)),
  ];
}

function jobCard(job, cells, { fleet, picture, live, ask, find }) {
  const idle = cells.filter((cell) => isHeldIdle(picture, cell));
  const price = fleet.won(cells[0]);
  const lying = el('div', { class: 'gm-lying' });
  if (live) {
    ask(`jobs/${job.slot}`).then((found) => {
      const where = (units) => units.map((unit) => `${unit.unit} (${t('nodes', { n: unit.nodes })})`).join(' · ');
      lying.append(facts([
        ['card.units', where(found.units)],
        ['card.near', `${Math.round(found.near * 100)} % · ${t(found.units.length === 1 ? 'card.one_leaf' : 'card.spine')}`],
        ['card.fewest', found.units.length > found.fewest ? t('card.fewest_note', { n: found.fewest }) : t('card.best')],
        ['card.better', found.better.length ? where(found.better) : ''],
      ]));
    }, () => {});
  }
  return [
    facts([
      ['card.name', job.name ?? ''], ['card.tenant', job.tenant ?? ''], ['card.user', job.user ?? ''],
      ['card.size', `${t('gpus', { n: number(job.gpus) })} · ${t('nodes', { n: number(job.nodes) })}`],
      ['card.share', `${job.cluster} · ${told('share', job.share)} · ${told('service', job.service)}`],
      ['card.since', moment(job.since * 1000)], ['card.until', job.until ? moment(job.until * 1000) : ''],
      ['card.mean', mean(cells, picture)],
      ['card.wasted', idle.length && price !== null ? `${t('gpus', { n: idle.length })} · ${t('won_hour', { won: won(price * idle.length) })}` : ''],
    ]),
    lying,
    el('button', { type: 'button', class: 'gm-link', onclick: () => find(`job:${job.id} cluster:${job.cluster}`) }, t('card.only')),
  ];
}

function mean(cells, picture) {
  const known = cells.map((cell) => picture.use[cell]).filter((use) => use !== UNKNOWN_BYTE);
  return known.length ? `${Math.round(known.reduce((a, b) => a + b, 0) / known.length)} %` : '';
}

function incidentCard(incident, fleet, act) {
  const price = fleet.clusters.find((one) => one.name === incident.cluster)?.won ?? null;
  const steps = [...incident.steps.map(([state, at]) => [told('stage', state), at])];
  if (incident.requeued) steps.push([t('stage.requeued'), incident.requeued]);
  steps.sort((a, b) => a[1] - b[1]);
  return [
    el('p', { class: 'gm-fault' }, el('strong', {}, incident.headline)),
    facts([
      ['card.node', choose(`${incident.node}${incident.gpu === undefined ? '' : ` · GPU ${incident.gpu}`}`, { kind: 'node', cluster: incident.cluster, id: incident.node }, act)],
      ['card.rule', incident.rule ?? ''],
      ['card.hit', incident.jobs?.length ? incident.jobs.join(', ') : ''],
      ['card.lost', incident.gpu_hours_lost ? [t('gpu_hours', { n: number(incident.gpu_hours_lost) }), price === null ? '' : won(price * incident.gpu_hours_lost)].filter(Boolean).join(' · ') : ''],
    ]),
    el('ol', { class: 'gm-steps' }, steps.map(([name, at], n) => el('li', { 'aria-current': n === steps.length - 1 ? 'step' : null },
      el('span', {}, name), el('time', { datetime: new Date(at * 1000).toISOString() }, moment(at * 1000)),
      n ? el('small', {}, `+${span((at - steps[n - 1][1]) / 60)}`) : null))),
  ];
}
