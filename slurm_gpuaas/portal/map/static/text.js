// Words come from the server in the reader's language; numbers, dates and sizes are put into them here.

/** @type {Record<string, string>} */
let words = {};
let locale = 'ko-KR';

export function speak(lang, all) {
  words = all;
  locale = lang === 'ko' ? 'ko-KR' : 'en-GB';
}

/** Text of a word, with `{name}` replaced; the word itself where nobody wrote a text. */
export function t(word, values = {}) {
  return (words[word] ?? word).replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Text of a word that others invent (a state or a reason of Slurm's), or the word itself. */
export const told = (kind, word) => words[`${kind}.${word}`] ?? word;

export const number = (value) => new Intl.NumberFormat(locale).format(value);
export const won = (value) => `₩${number(Math.round(value))}`;
export const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : '–');

const SEOUL = { timeZone: 'Asia/Seoul', hourCycle: 'h23' };
const formats = {};
function format(name, options) {
  const key = `${locale}/${name}`;
  formats[key] ??= new Intl.DateTimeFormat(locale, { ...SEOUL, ...options });
  return formats[key];
}
export const clock = (ms) => format('clock', { hour: '2-digit', minute: '2-digit' }).format(ms);
export const moment = (ms) =>
  format('moment', { month: 'numeric', day: 'numeric', weekday: 'short', hour: '2-digit', minute: '2-digit' }).format(ms);

/** A length of time in the largest unit that keeps it readable. */
export function span(minutes) {
  if (minutes < 60) return t('minutes', { n: Math.round(minutes) });
  if (minutes < 48 * 60) return t('hours', { n: Number((minutes / 60).toFixed(minutes < 600 ? 1 : 0)) });
  return t('days', { n: Number((minutes / 1440).toFixed(1)) });
}

export function age(secondsOld) {
  return secondsOld < 90 ? t('seconds', { n: Math.round(secondsOld) }) : span(secondsOld / 60);
}

/** An element with attributes and children; text is never read as HTML. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? '' : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children.flat());
  return element;
}
