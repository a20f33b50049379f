// The axis of time: what is recorded, steps of incidents on it, and playing it back sixty times as fast.
import { readAll } from './codec.js';
import { clock, el, moment, svg, t, told } from './text.js';

const MINUTE = 60e3;
/** Pictures fetched at once; at one a minute, as many minutes. */
const AHEAD = 30;

export class TimeAxis {
  /**
   * @param {HTMLElement} root
   * @param {Object} hooks
   * @param {(path: string, query: Record<string, string>) => Promise<Response>} hooks.fetch
   * @param {(picture: any | null) => void} hooks.show  a picture of the past; null = live again
   */
  constructor(root, hooks) {
    this.hooks = hooks;
    this.hours = 24;
    this.at = null;
    this.playing = false;
    this.kept = [];
    this.marks = [];
    this.spans = [];
    this.asked = 0;
    this.playButton = el('button', { type: 'button', class: 'gm-button', onclick: () => this.toggle() });
    this.liveButton = el('button', { type: 'button', class: 'gm-button', onclick: () => this.live() }, t('time.live'));
    this.span = el('select', { 'aria-label': t('time.range'), onchange: () => { this.hours = Number(this.span.value); this.refresh(); } },
      [1, 6, 24, 168].map((hours) => el('option', { value: hours, selected: hours === 24 }, hours < 168 ? t('hours', { n: hours }) : t('days', { n: 7 }))));
    this.slider = el('input', { type: 'range', min: 0, max: 1440, step: 1, value: 1440, 'aria-label': t('time.slider'), oninput: () => this.slid() });
    this.label = el('output', { class: 'gm-at' });
    this.picture = svg('svg', { class: 'gm-marks', preserveAspectRatio: 'none', viewBox: '0 0 1000 22', role: 'img', 'aria-label': t('time.marks') });
    this.ends = [el('span'), el('span')];
    root.replaceChildren(this.playButton, el('div', { class: 'gm-track' }, this.picture, this.slider, el('div', { class: 'gm-ends' }, this.ends)), this.span, this.label, this.liveButton);
    this.told();
  }

  get end() { return this.at === null || !this.frozen ? Date.now() : this.frozen; }

  get begin() { return this.end - this.hours * 3600e3; }

  async refresh() {
    const [begin, end] = [this.begin, this.end];
    try {
      const found = await (await this.hooks.fetch('past', { begin: new Date(begin).toISOString(), end: new Date(end).toISOString() })).json();
      this.spans = found.spans.map((pair) => pair.map((text) => Date.parse(text)));
      this.marks = found.marks.map((mark) => ({ ...mark, at: Date.parse(mark.at) }));
    } catch { return; }
    const x = (ms) => Math.max(0, Math.min(1000, (1000 * (ms - begin)) / (end - begin)));
    const bars = this.spans.filter(([, last]) => last > begin).map(([first, last]) =>
      svg('rect', { x: x(first), width: Math.max(1, x(last) - x(first)), y: 15, height: 4, class: 'gm-known' }));
    const marks = this.marks.filter((mark) => ['suspect', 'draining', 'probation'].includes(mark.state)).map((mark) =>
      svg('rect', { x: x(mark.at) - 1, width: 2.4, y: mark.state === 'suspect' ? 1 : 5, height: mark.state === 'suspect' ? 13 : 9, class: `gm-mark-${mark.state}` },
        svg('title', {}, document.createTextNode(`${clock(mark.at)} ${mark.node}: ${told('stage', mark.state)} – ${mark.headline}`))));
    this.picture.replaceChildren(svg('rect', { x: 0, width: 1000, y: 16, height: 2, class: 'gm-unknown' }), ...bars, ...marks);
    this.ends[0].textContent = moment(begin);
    this.ends[1].textContent = this.at === null ? t('now') : clock(end);
    this.slider.max = this.hours * 60;
    if (this.at === null) this.slider.value = this.slider.max;
    this.told();
  }

  slid() {
    this.stop();
    const minutes = Number(this.slider.value);
    if (minutes >= this.hours * 60) { this.live(); return; }
    this.frozen ??= Date.now();
    this.go(this.begin + minutes * MINUTE);
  }

  /** Show what held at `ms`. */
  async go(ms) {
    this.frozen ??= Date.now();
    this.at = ms;
    this.slider.value = String(Math.round((ms - this.begin) / MINUTE));
    this.told();
    const asked = ++this.asked;
    const found = this.held(ms) ?? (await this.load(ms));
    if (asked !== this.asked || this.at === null) return;
    this.missing = found === null;
    if (found) this.hooks.show(found);
    this.told();
  }

  /** The picture that is loaded and held at `ms`. */
  held(ms) {
    for (let n = this.kept.length - 1; n >= 0; n -= 1) {
      const from = this.kept[n].moment;
      const until = this.kept[n + 1]?.moment ?? from + 2 * MINUTE;
      if (ms >= from && ms < until) return this.kept[n];
    }
    return null;
  }

  async load(ms) {
    const response = await this.hooks.fetch('history', {
      begin: new Date(ms).toISOString(), end: new Date(ms + AHEAD * MINUTE).toISOString(), limit: String(AHEAD + 2),
    });
    if (!response.ok) return null;
    this.kept = await readAll(new Uint8Array(await response.arrayBuffer()));
    return this.held(ms);
  }

  toggle() {
    if (this.playing) { this.stop(); this.told(); return; }
    if (this.at === null) this.go(Math.max(this.begin, Date.now() - 60 * MINUTE));
    this.playing = true;
    // Sixty times as fast: a minute of the past each second.
    this.timer = setInterval(() => {
      if (this.at === null || this.at + MINUTE >= Date.now() - MINUTE) this.live();
      else this.go(this.at + MINUTE);
    }, 1000);
    this.told();
  }

  stop() {
    clearInterval(this.timer);
    this.playing = false;
  }

  live() {
    this.stop();
    this.at = null;
    this.frozen = null;
    this.missing = false;
    this.asked += 1;
    this.slider.value = this.slider.max;
    this.hooks.show(null);
    this.told();
  }

  told() {
    this.playButton.textContent = this.playing ? t('time.pause') : t('time.play');
    this.label.textContent = this.at === null ? t('time.is_live') : moment(this.at);
    this.liveButton.disabled = this.at === null;
    this.slider.setAttribute('aria-valuetext', this.at === null ? t('now') : moment(this.at));
  }
}
