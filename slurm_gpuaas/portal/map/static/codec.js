// Reads pictures as slurm_gpuaas/domain/fleet_map.py writes them; that module describes the bytes.

/**
 * @typedef {Object} Picture
 * @property {number} layout
 * @property {number} sequence
 * @property {number} moment  milliseconds of the epoch
 * @property {number} count  cells
 * @property {Uint8Array} raw  all planes
 * @property {Uint16Array} idle
 * @property {Uint16Array} job
 * @property {Uint8Array} state
 * @property {Uint8Array} health
 * @property {Uint8Array} use
 * @property {Uint8Array} power
 * @property {Uint8Array} heat
 * @property {Record<string, any>} table
 */

export const State = Object.freeze({
  UNKNOWN: 0, FREE: 1, BUSY: 2, RESERVED: 3, DRAINING: 4, DRAINED: 5, DOWN: 6, MAINTENANCE: 7, TAKEN: 8,
});
export const Severity = Object.freeze({ OK: 0, NOTICE: 1, DECISION: 2, FAULT: 3 });
export const Sign = Object.freeze({ ECC: 4, NVLINK: 8, INFINIBAND: 16, HEAT: 32, XID: 64 });
export const UNKNOWN_BYTE = 255;
export const UNKNOWN_IDLE = 65535;

const HEADER = 36;
const CELL_BYTES = 9;
const WHOLE = 1;

/** @param {Uint8Array} data @returns {Promise<Uint8Array>} */
async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A picture over a buffer of planes. @returns {Picture} */
export function pictureOf(layout, sequence, moment, count, raw, table) {
  const at = raw.byteOffset;
  const plane = (first) => raw.subarray(first * count, (first + 1) * count);
  return {
    layout, sequence, moment, count, raw, table,
    idle: new Uint16Array(raw.buffer, at, count),
    job: new Uint16Array(raw.buffer, at + 2 * count, count),
    state: plane(4), health: plane(5), use: plane(6), power: plane(7), heat: plane(8),
  };
}

/** RFC 7396; `table` stays as it is. */
export function merged(table, patch) {
  const result = { ...table };
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else if (typeof value === 'object' && !Array.isArray(value)) {
      const was = result[key];
      result[key] = merged(was && typeof was === 'object' && !Array.isArray(was) ? was : {}, value);
    } else result[key] = value;
  }
  return result;
}

/**
 * The picture that `data` holds, or null where it is the difference to another picture than `base`.
 * @param {Uint8Array} data
 * @param {Picture | null} base
 * @returns {Promise<Picture | null>}
 */
export async function read(data, base) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (view.getUint32(0) !== 0x474d4150 || view.getUint8(4) !== 1) throw new Error('not a picture of version 1');
  const kind = view.getUint8(5);
  const layout = view.getUint32(8, true);
  const sequence = view.getUint32(12, true);
  const before = view.getUint32(16, true);
  const moment = Number(view.getBigUint64(20, true));
  const count = view.getUint32(28, true);
  if (kind !== WHOLE && (!base || base.sequence !== before || base.layout !== layout)) return null;
  const body = await inflate(data.subarray(HEADER));
  const size = count * CELL_BYTES;
  const raw = body.slice(0, size);
  let table = JSON.parse(new TextDecoder().decode(body.subarray(size)));
  if (kind !== WHOLE) {
    for (let n = 0; n < size; n += 1) raw[n] ^= base.raw[n];
    table = merged(base.table, table);
  }
  return pictureOf(layout, sequence, moment, count, raw, table);
}

/** Pictures one after the other, each with its length before it. @returns {Promise<Picture[]>} */
export async function readAll(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const pictures = [];
  let base = null;
  for (let at = 0; at < data.length;) {
    const length = view.getUint32(at, true);
    base = await read(data.subarray(at + 4, at + 4 + length), base);
    if (!base) throw new Error('a difference without its base');
    pictures.push(base);
    at += 4 + length;
  }
  return pictures;
}
