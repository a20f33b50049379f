// The page: what it shows (kept in the address), where pictures come from, and what keys and pointer do.
import { read } from './codec.js';
import { Fleet } from './fleet.js';
import { cellAt, fit } from './geometry.js';
import { Palette } from './palette.js';
import { LAYERS, SECOND, legend, style } from './layers.js';
import { CellPainter, OverlayPainter, cellsOfNode, focusCells, sample } from './painter.js';
import { SearchError, search } from './search.js';
import { TableTwin } from './table.js';
import { TimeAxis } from './time.js';
import { figures, rail } from './rail.js';
import { announced, card, parseSelection, selectedCells, selectionText, sparkline, summary, tooltip } from './cards.js';
import { age, el, moment, number, speak, t } from './text.js';

const STALE_S = 30;
const WALL_TURN_S = 20;
const WALL_LAYERS = ['state', 'tenant', 'use', 'health'];

const root = document.getElementById('gmap');
const part = (name) => root.querySelector(`[data-part="${name}"]`);

function fetched(path, query = {}) {
  return fetch(`${root.dataset.at}/${path}?${new URLSearchParams(query)}`, { headers: { Accept: '*/*' } });
}

async function asked(path, query = {}) {
  const response = await fetched(path, query);
  if (!response.ok) throw new Error(String(response.status));
  return response.json();
}

class MapPage {
  constructor() {
    const query = new URLSearchParams(location.search);
    const layer = query.get('layer');
    /** What the address holds. */
    this.layer = LAYERS.includes(layer) || Object.values(SECOND).includes(layer) ? layer : 'state';
    this.find = query.get('q') ?? '';
    this.selection = parseSelection(query.get('sel'));
    this.view = query.get('view') === 'table' ? 'table' : 'map';
    this.wall = query.get('wall') === '1';
    this.theme = ['light', 'dark'].includes(query.get('theme')) ? query.get('theme') : '';
    this.still = query.get('motion') === 'off' || matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.opensAt = Date.parse(query.get('at') ?? '');
    /** @type {import('./codec.js').Picture | null} */
    this.live = null;
    this.past = null;
    this.hovered = -1;
    this.focus = null;
    this.received = 0;
    this.connected = true;
    this.heard = 0;
    this.cells = new CellPainter(part('cells'));
    this.overlay = new OverlayPainter(part('overlay'));
    this.table = new TableTwin(part('table'), (one) => this.choose(one));
  }

  get picture() { return this.past ?? this.live; }

  async start() {
    const opening = await asked('opening', { lang: root.dataset.lang }).catch(() => null);
    if (!opening) { part('banner').textContent = root.dataset.failed; part('banner').hidden = false; return; }
    speak(opening.lang, opening.words);
    this.viewer = opening.viewer;
    this.fleet = new Fleet(opening);
    this.themed();
    this.controls();
    this.time = new TimeAxis(part('time'), { fetch: fetched, show: (picture) => this.showPast(picture) });
    const first = await fetched('picture');
    await this.take(new Uint8Array(await first.arrayBuffer()));
    this.listen();
    this.time.refresh();
    setInterval(() => this.time.at === null && this.time.refresh(), 60e3);
    setInterval(() => this.banner(), 1000);
    if (!Number.isNaN(this.opensAt) && this.opensAt < Date.now()) this.time.go(this.opensAt);
    if (this.wall) this.turning = setInterval(() => this.turn(), WALL_TURN_S * 1000);
    new ResizeObserver(() => this.resize()).observe(part('stage'));
    root.dataset.ready = '1';
  }

  // -- Pictures ------------------------------------------------------------------------------------------------------

  listen() {
    const events = new EventSource(`${root.dataset.at}/events?after=${this.live?.sequence ?? 0}`);
    // One picture after the other, though unpacking waits.
    let queue = Promise.resolve();
    events.addEventListener('picture', (event) => {
      const data = Uint8Array.from(atob(event.data), (letter) => letter.charCodeAt(0));
      queue = queue.then(() => this.take(data)).catch(() => this.again());
    });
    events.addEventListener('beat', () => { this.heard = performance.now(); });
    events.onopen = () => { this.connected = true; this.heard = performance.now(); this.banner(); };
    events.onerror = () => { this.connected = false; this.banner(); };
  }

  async take(data) {
    const picture = await read(data, this.live);
    if (!picture) { await this.again(); return; }
    this.heard = performance.now();
    this.received = this.heard;
    if (picture.layout !== this.fleet.layout) { location.reload(); return; }
    this.live = picture;
    if (!this.past) this.changed();
    this.banner();
  }

  /** Fetch a whole picture, where the difference to another one came. */
  async again() {
    const whole = new Uint8Array(await (await fetched('picture')).arrayBuffer());
    const picture = await read(whole, null);
    if (!picture || picture.layout !== this.fleet.layout) { location.reload(); return; }
    this.live = picture;
    this.received = performance.now();
    if (!this.past) this.changed();
  }

  showPast(picture) {
    this.past = picture && picture.layout === this.fleet.layout ? picture : null;
    if (this.picture) this.changed();
    this.banner();
    this.remember();
  }

  // -- Drawing -------------------------------------------------------------------------------------------------------

  /** Everything that follows from a new picture, layer or search. */
  changed() {
    if (!this.picture) return;
    this.searched();
    part('figures').replaceChildren(...figures(this.picture.table, this.fleet.count));
    part('rail').replaceChildren(...rail(this.picture.table, this.picture.moment));
    this.legend();
    this.drawCard();
    this.paint();
    if (this.view === 'table') this.table.draw(this.fleet, this.picture, this.found?.shown ?? null);
    root.dataset.sequence = String(this.picture.sequence);
  }

  searched() {
    const note = part('found');
    const line = part('search');
    this.found = null;
    note.classList.remove('gm-wrong');
    line.removeAttribute('aria-invalid');
    try {
      this.found = search(this.find, this.fleet, this.picture);
      note.textContent = this.found ? t('search.found', { gpus: number(this.found.cells), nodes: number(this.found.nodes) }) : '';
    } catch (error) {
      if (!(error instanceof SearchError)) throw error;
      note.textContent = t(error.word, error.values);
      note.classList.add('gm-wrong');
      line.setAttribute('aria-invalid', 'true');
    }
  }

  resize() {
    const stage = part('stage');
    if (!this.fleet || stage.hidden) return;
    this.ratio = Math.min(3, window.devicePixelRatio || 1);
    const box = stage.getBoundingClientRect();
    const free = getComputedStyle(stage).getPropertyValue('--gm-free-height').trim() === '1';
    const width = Math.floor(box.width * this.ratio);
    const height = free ? 0 : Math.floor(box.height * this.ratio);
    if (width < 10 || (!free && height < 10)) return;
    this.geometry = fit(this.fleet, width, height, this.ratio, this.fleet.count > 4000 ? 5 : 11, this.ratio * (this.wall ? 1.4 : 1));
    for (const canvas of [part('cells'), part('overlay')]) {
      canvas.style.width = `${this.geometry.width / this.ratio}px`;
      canvas.style.height = `${this.geometry.height / this.ratio}px`;
    }
    stage.style.minHeight = free ? `${this.geometry.height / this.ratio}px` : '';
    this.cells.resize(this.geometry, this.palette);
    this.paint();
  }

  paint() {
    if (!this.picture || !this.geometry || this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      style(this.layer, this.picture, this.fleet, this.found?.shown ?? null, this.cells.styles);
      this.cells.paint();
      this.drawOverlay();
    });
  }

  drawOverlay() {
    if (!this.picture || !this.geometry) return;
    const chosen = this.selection;
    const cells = selectedCells(chosen, this.fleet, this.picture);
    this.overlay.draw({
      geometry: this.geometry, fleet: this.fleet, palette: this.palette, ratio: this.ratio, sites: this.picture.table.sites,
      outlined: chosen && chosen.kind !== 'job' ? cells : [], job: chosen?.kind === 'job' ? cells : [],
      focus: document.activeElement === part('stage') ? this.focus : null, hovered: this.hovered,
      heading: (n) => this.heading(n),
    });
  }

  heading(n) {
    const cluster = this.fleet.clusters[n];
    const moment_ = this.picture.table.sites[cluster.name]?.moment;
    const size = `${cluster.model.toUpperCase()} · ${t('nodes', { n: number(cluster.nodes) })} · ${t('gpus', { n: number(cluster.cells) })}`;
    if (!moment_) return `${size} · ${t('site.silent')}`;
    const old = this.past ? 0 : Date.now() / 1000 - moment_;
    return old > STALE_S ? `${size} · ${t('site.stale', { age: age(old) })}` : size;
  }

  legend() {
    const entries = legend(this.layer, this.picture, t);
    part('legend').replaceChildren(...entries.map((entry) => {
      const text = [sample(this.palette, entry.style, 12, Math.min(3, window.devicePixelRatio || 1)), el('span', {}, entry.text ?? t(entry.word)),
        entry.count === undefined ? null : el('strong', {}, number(entry.count))];
      return el('li', {}, entry.find
        ? el('button', { type: 'button', 'aria-pressed': this.find === entry.find, title: entry.find, onclick: () => this.look(this.find === entry.find ? '' : entry.find) }, text)
        : el('span', {}, text));
    }));
    part('question').textContent = t(`question.${this.layer}`);
  }

  drawCard() {
    const place = part('card');
    const text = selectionText(this.selection);
    const focused = place.contains(document.activeElement);
    if (!this.selection) { place.replaceChildren(); this.carded = ''; return; }
    // Figures of a card change with each picture; what the server was asked for need not be asked again within a minute.
    const key = `${text}@${Math.floor(this.picture.moment / 60e3)}@${this.past ? 1 : 0}`;
    if (key === this.carded) return;
    this.carded = key;
    place.replaceChildren(card(this.selection, {
      fleet: this.fleet, picture: this.picture, live: !this.past, act: (one) => this.choose(one), ask: asked, find: (line) => this.look(line),
    }));
    if (focused) place.querySelector('button')?.focus();
  }

  banner() {
    const place = part('banner');
    const say = (text, ...more) => {
      if (place.dataset.text !== text) { place.replaceChildren(el('span', {}, text), ...more); place.dataset.text = text; }
      place.hidden = false;
    };
    if (this.fleet && !this.fleet.count) { part('empty').hidden = false; part('stage').hidden = true; place.hidden = true; return; }
    if (!this.picture) return;
    if (this.time && this.time.at !== null) {
      say(t(this.time.missing ? 'banner.no_past' : 'banner.past', { at: moment(this.time.at) }),
        el('button', { type: 'button', class: 'gm-button', onclick: () => this.time.live() }, t('time.live')));
      return;
    }
    const now = Date.now() / 1000;
    const sites = this.fleet.clusters.map((one) => [one.name, this.live.table.sites[one.name]?.moment]);
    const silent = sites.filter(([, at]) => !at).map(([name]) => name);
    const stale = sites.filter(([, at]) => at && now - at > STALE_S);
    const parts = [];
    // A cut connection may look open for minutes; without a beat it is none.
    const quiet = (performance.now() - this.heard) / 1000;
    if (!this.connected || quiet > STALE_S) parts.push(t('banner.cut', { age: age((performance.now() - this.received) / 1000) }));
    if (stale.length) parts.push(t('banner.stale', { sites: stale.map(([name, at]) => `${name} ${age(now - at)}`).join(', ') }));
    if (silent.length) parts.push(t('banner.silent', { sites: silent.join(', ') }));
    if (parts.length) say(parts.join(' · '));
    else { place.hidden = true; place.dataset.text = ''; }
  }

  // -- What people do ------------------------------------------------------------------------------------------------

  controls() {
    part('layers').replaceChildren(...LAYERS.map((layer, n) => el('button', {
      type: 'button', class: 'gm-layer', 'data-layer': layer, 'aria-keyshortcuts': String(n + 1), onclick: () => this.ask(layer),
    }, el('kbd', { 'aria-hidden': 'true' }, String(n + 1)), el('span', {}, t(`layer.${layer}`)))));
    const line = part('search');
    line.value = this.find;
    let typed = 0;
    line.addEventListener('input', () => { clearTimeout(typed); typed = setTimeout(() => this.look(line.value, false), 120); });
    part('clear').addEventListener('click', () => { this.look(''); line.focus(); });
    part('motion').addEventListener('click', () => { this.still = !this.still; this.themed(); this.remember(); });
    part('theme').addEventListener('click', () => { this.theme = this.dark ? 'light' : 'dark'; this.themed(); this.redraw(); this.remember(); });
    part('walled').addEventListener('click', () => { location.search = this.address({ wall: '1', theme: 'dark' }); });
    part('leave').addEventListener('click', () => { location.search = this.address({ wall: '' }); });
    part('tabled').addEventListener('click', () => { this.view = this.view === 'table' ? 'map' : 'table'; this.viewed(); this.remember(); });
    for (const link of root.querySelectorAll('[data-lang-link]')) {
      link.addEventListener('click', () => { link.search = this.address({ lang: link.dataset.langLink }); });
    }
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { this.themed(); this.redraw(); });
    const stage = part('stage');
    stage.addEventListener('pointermove', (event) => this.pointed(event));
    stage.addEventListener('pointerleave', () => this.hover(-1));
    stage.addEventListener('click', (event) => this.clicked(event));
    stage.addEventListener('keydown', (event) => this.key(event));
    stage.addEventListener('focus', () => { this.focus ??= { kind: 'node', number: 0 }; this.say(); this.drawOverlay(); });
    stage.addEventListener('blur', () => this.drawOverlay());
    window.addEventListener('popstate', () => location.reload());
    this.viewed();
    this.layered();
  }

  get dark() {
    return this.theme ? this.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  }

  themed() {
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light';
    document.documentElement.dataset.motion = this.still ? 'off' : 'on';
    root.classList.toggle('gm-wall', this.wall);
    document.documentElement.classList.toggle('gm-walled', this.wall);
    this.palette = new Palette(this.dark);
    part('motion').setAttribute('aria-pressed', String(this.still));
    part('theme').setAttribute('aria-pressed', String(this.dark));
  }

  redraw() {
    this.resize();
    if (this.picture) this.legend();
  }

  viewed() {
    const asTable = this.view === 'table';
    part('table').hidden = !asTable;
    part('figure').hidden = asTable;
    part('tabled').setAttribute('aria-pressed', String(asTable));
    if (asTable && this.picture) this.table.draw(this.fleet, this.picture, this.found?.shown ?? null);
    if (!asTable) this.resize();
  }

  ask(layer) {
    this.layer = layer === this.layer && SECOND[layer] ? SECOND[layer] : layer;
    this.layered();
    if (this.picture) { this.legend(); this.paint(); }
    this.remember();
  }

  layered() {
    for (const button of root.querySelectorAll('.gm-layer')) {
      const mine = button.dataset.layer;
      const on = mine === this.layer || SECOND[mine] === this.layer;
      button.setAttribute('aria-pressed', String(on));
      button.lastChild.textContent = t(`layer.${on ? this.layer : mine}`);
    }
  }

  /** The next layer, on the wall. */
  turn() {
    if (this.still) return;
    this.ask(WALL_LAYERS[(WALL_LAYERS.indexOf(this.layer) + 1) % WALL_LAYERS.length]);
  }

  look(text, write = true) {
    this.find = text;
    if (write) part('search').value = text;
    this.changed();
    this.remember();
  }

  choose(one) {
    this.selection = one;
    this.carded = '';
    if (this.picture) { this.drawCard(); this.drawOverlay(); }
    this.remember();
    if (one && this.view === 'table') part('card').querySelector('button')?.focus();
  }

  at(event) {
    const box = part('cells').getBoundingClientRect();
    return this.geometry ? cellAt(this.geometry, this.fleet, (event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio) : -1;
  }

  pointed(event) {
    if (event.pointerType === 'touch') return;
    this.hover(this.at(event), event);
  }

  hover(cell, event) {
    const tip = part('tip');
    if (cell !== this.hovered) {
      this.hovered = cell;
      this.drawOverlay();
      tip.hidden = cell < 0;
      if (cell >= 0) tip.replaceChildren(...tooltip(cell, this.fleet, this.picture), ...this.curve(cell));
    }
    if (cell < 0 || !event) return;
    const stage = part('stage').getBoundingClientRect();
    const [x, y] = [event.clientX - stage.left, event.clientY - stage.top];
    tip.style.left = `${Math.max(4, x + 16 + tip.offsetWidth > stage.width ? x - 16 - tip.offsetWidth : x + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 12, stage.height - tip.offsetHeight - 4))}px`;
  }

  /** Room for the last hour's curve, filled when the pointer has rested. */
  curve(cell) {
    clearTimeout(this.resting);
    if (this.past) return [];
    const place = el('div', { class: 'gm-tip-curve' });
    this.resting = setTimeout(async () => {
      const node = this.fleet.nodeOfCell[cell];
      const found = await asked(`nodes/${this.fleet.clusterName(node)}/${this.fleet.nodeName[node]}`).catch(() => null);
      const use = found?.gpus[cell - this.fleet.cellOfNode[node]].use ?? [];
      if (this.hovered === cell && use.length) place.replaceChildren(el('span', {}, t('card.hour')), sparkline(use));
    }, 180);
    return [place];
  }

  clicked(event) {
    const cell = this.at(event);
    if (cell < 0) { this.choose(null); return; }
    this.focus = { kind: 'gpu', number: cell };
    this.open(cell);
  }

  /** What a GPU is most likely asked about: its fault, else its job, else its node. */
  open(cell) {
    const node = this.fleet.nodeOfCell[cell];
    const [cluster, name] = [this.fleet.clusterName(node), this.fleet.nodeName[node]];
    const job = this.picture.table.jobs[this.picture.job[cell]];
    const fault = Object.values(this.picture.table.incidents).find((one) =>
      one.cluster === cluster && one.node === name && one.steps.at(-1)[0] !== 'closed'
      && (one.gpu === undefined || one.gpu === cell - this.fleet.cellOfNode[node]));
    if (fault) this.choose({ kind: 'incident', cluster, id: fault.id });
    else if (job && !(this.selection?.kind === 'job' && this.selection.id === String(job.id))) this.choose({ kind: 'job', cluster: job.cluster, id: String(job.id) });
    else this.choose({ kind: 'node', cluster, id: name });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.picture) return;
    const digit = Number(event.key);
    if (digit >= 1 && digit <= LAYERS.length) { this.ask(LAYERS[digit - 1]); event.preventDefault(); return; }
    const acts = {
      '/': () => part('search').focus(), t: () => part('tabled').click(), ' ': () => this.time.toggle(),
      Enter: () => this.deeper(), Escape: () => this.higher(),
      ArrowRight: () => this.move(1, 0), ArrowLeft: () => this.move(-1, 0), ArrowDown: () => this.move(0, 1), ArrowUp: () => this.move(0, -1),
      Home: () => this.to(0), End: () => this.to(Infinity),
    };
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  /** Unit, node, GPU; on a GPU its card. */
  deeper() {
    const { kind, number: n } = this.focus;
    if (kind === 'unit') this.focus = { kind: 'node', number: this.fleet.units[n].firstNode };
    else if (kind === 'node') this.focus = { kind: 'gpu', number: this.fleet.cellOfNode[n] };
    else this.open(n);
    this.say();
  }

  higher() {
    const { kind, number: n } = this.focus;
    if (this.selection) this.choose(null);
    else if (kind === 'gpu') this.focus = { kind: 'node', number: this.fleet.nodeOfCell[n] };
    else if (kind === 'node') this.focus = { kind: 'unit', number: this.fleet.unitOfNode[n] };
    this.say();
  }

  to(place) {
    const { kind } = this.focus;
    const last = { unit: this.fleet.units.length, node: this.fleet.nodes, gpu: this.fleet.count }[kind] - 1;
    this.focus = { kind, number: Math.min(place, last) };
    this.say();
  }

  /** To the nearest of the same kind in a direction, by where things are drawn. */
  move(dx, dy) {
    const { kind, number: from } = this.focus;
    const { geometry, fleet } = this;
    const count = { unit: fleet.units.length, node: fleet.nodes, gpu: fleet.count }[kind];
    const place = (n) => {
      if (kind === 'unit') return [geometry.units[n].x, geometry.units[n].y];
      const cell = kind === 'node' ? fleet.cellOfNode[n] : n;
      return [geometry.x[cell], geometry.y[cell]];
    };
    const [x, y] = place(from);
    let [best, nearest] = [from, Infinity];
    for (let n = 0; n < count; n += 1) {
      const [nx, ny] = place(n);
      const along = (nx - x) * dx + (ny - y) * dy;
      if (along <= 0) continue;
      const aside = Math.abs((nx - x) * dy) + Math.abs((ny - y) * dx);
      const distance = along + aside * 8;
      if (distance < nearest) [best, nearest] = [n, distance];
    }
    this.focus = { kind, number: best };
    this.say();
  }

  /** Tell who listens what the keyboard is on. */
  say() {
    if (!this.picture || !this.fleet.count) return;
    const { kind, number: n } = this.focus;
    const { fleet, picture } = this;
    const text = kind === 'gpu' ? announced(n, fleet, picture)
      : kind === 'node' ? summary(`${fleet.nodeName[n]}, ${fleet.unitName(n)}, ${fleet.clusterName(n)}`, cellsOfNode(fleet, n), picture)
        : summary(`${fleet.units[n].name}, ${fleet.clusters[fleet.units[n].cluster].name}`, focusCells(fleet, this.focus), picture);
    part('said').textContent = text;
    this.drawOverlay();
    const box = part('cells').getBoundingClientRect();
    const cell = focusCells(fleet, this.focus)[0];
    const y = box.top + this.geometry.y[cell] / this.ratio;
    if (y < 0 || y > innerHeight) window.scrollBy({ top: y - innerHeight / 2, behavior: this.still ? 'auto' : 'smooth' });
  }

  // -- The address ---------------------------------------------------------------------------------------------------

  address(changes = {}) {
    const query = new URLSearchParams(location.search);
    const now = {
      lang: query.get('lang') ?? '', layer: this.layer === 'state' ? '' : this.layer, q: this.find, sel: selectionText(this.selection),
      view: this.view === 'table' ? 'table' : '', at: this.time && this.time.at !== null ? new Date(this.time.at).toISOString() : '',
      wall: this.wall ? '1' : '', theme: this.theme, motion: query.get('motion') ?? '', ...changes,
    };
    return String(new URLSearchParams(Object.entries(now).filter(([, value]) => value)));
  }

  remember() {
    const query = this.address({ motion: this.still && !matchMedia('(prefers-reduced-motion: reduce)').matches ? 'off' : '' });
    history.replaceState(null, '', query ? `?${query}` : location.pathname);
  }
}

const page = new MapPage();
page.start();
/** For tests and measurements. */
root.mapPage = page;
