// Where everything is drawn, in device pixels: the largest cells with which the whole fleet fits.
//
// Units flow in rows, cluster after cluster, each cluster's heading above its first unit; a unit is a grid of nodes in
// rack order, a node a tile of four GPUs a row. Nothing here depends on what the GPUs do, so nothing ever moves.

const GPUS_A_ROW = 4;
const COLUMNS = [32, 16, 12, 8, 6, 5, 4, 3, 2];
const LARGEST = 34;
const SMALLEST = 3;
/** CSS pixels that a cluster's heading needs. */
const HEADING_WIDTH = 215;

/**
 * @typedef {Object} Geometry
 * @property {number} width
 * @property {number} height
 * @property {number} pitch  from one cell to the next
 * @property {number} cell  side of a cell
 * @property {Int32Array} x  left of each cell
 * @property {Int32Array} y  top of each cell
 * @property {{x: number, y: number, w: number, h: number, label: number}[]} units
 * @property {{x: number, y: number, column: number}[]} clusters  where their headings stand
 * @property {number} columns  nodes a row of a unit
 * @property {number} nodeWidth
 * @property {number} nodeHeight
 * @property {number} nodeLabel  height of a node's name above its cells; 0 = there is no room for it
 * @property {number} letter
 */

/**
 * @param {import('./fleet.js').Fleet} fleet
 * @param {number} width  device pixels
 * @param {number} height  device pixels; 0 = as high as it gets with cells of `least`
 * @param {number} ratio  device pixels a CSS pixel
 * @param {number} [least]  smallest cell pitch in CSS pixels where the height is free
 * @param {number} [letter]  device pixels of a unit of text size, which is larger on the wall
 * @returns {Geometry}
 */
export function fit(fleet, width, height, ratio, least = 6, letter = ratio) {
  const first = Math.round((height ? LARGEST : least) * ratio);
  for (let pitch = first; pitch >= SMALLEST; pitch -= 1) {
    let best = null;
    for (const columns of COLUMNS) {
      const one = flowed(fleet, width, ratio, letter, pitch, columns);
      if (one && (!height || one.height <= height) && (!best || one.height < best.height)) best = one;
    }
    if (best) return placed(fleet, best, width, height, ratio);
  }
  return placed(fleet, flowed(fleet, Infinity, ratio, letter, SMALLEST, 8), width, height, ratio);
}

/** Rows of units with cells of `pitch`: [{units, heads}], or null where a unit is wider than there is room. */
function flowed(fleet, width, ratio, letter, pitch, columns) {
  const nodeGap = pitch < 8 ? 1 : Math.round(pitch * 0.3);
  const tallestNode = Math.max(1, ...fleet.clusters.map((one) => Math.ceil(one.gpus / GPUS_A_ROW)));
  const nodeWidth = GPUS_A_ROW * pitch + nodeGap;
  const nodeLabel = pitch >= 16 * ratio ? Math.round(9 * letter) : 0;
  const nodeHeight = nodeLabel + tallestNode * pitch + nodeGap;
  const largest = Math.max(1, ...fleet.units.map((unit) => unit.nodes));
  const unitWidth = Math.min(columns, largest) * nodeWidth - nodeGap;
  const unitHeight = (nodes) => Math.ceil(nodes / columns) * nodeHeight - nodeGap;
  const gap = Math.round(Math.max(7 * ratio, pitch * 0.8));
  const label = Math.round(13 * letter);
  const heading = Math.round(22 * letter);
  const perRow = Math.floor((width + gap - 2 * ratio) / (unitWidth + gap));
  if (perRow < 1) return null;
  const slots = Math.min(perRow, Math.ceil((HEADING_WIDTH * letter) / (unitWidth + gap)));
  const rows = [];
  let [column, earliest] = [Infinity, 0];
  fleet.units.forEach((unit, number) => {
    const begins = number === 0 || fleet.units[number - 1].cluster !== unit.cluster;
    if (begins) column = Math.max(column, earliest);
    if (column >= perRow || (begins && column + slots > perRow)) {
      rows.push({ units: [], heads: [], tallest: 0 });
      column = 0;
    }
    const row = rows[rows.length - 1];
    if (begins) {
      row.heads.push([unit.cluster, column]);
      earliest = column + slots;
    }
    row.units.push([number, column]);
    row.tallest = Math.max(row.tallest, unitHeight(unit.nodes));
    column += 1;
    if (column >= perRow) earliest = 0;
  });
  const between = Math.round(5 * ratio);
  const height = rows.reduce((sum, row) => sum + (row.heads.length ? heading : 0) + label + row.tallest + between, Math.ceil(2 * ratio));
  return { rows, height, pitch, columns, nodeWidth, nodeHeight, nodeLabel, letter, unitWidth, unitHeight, gap, label, heading, between };
}

function placed(fleet, flow, width, room, ratio) {
  const { rows, pitch, columns, nodeWidth, nodeHeight, nodeLabel, letter, unitWidth, unitHeight, gap, label, heading, between } = flow;
  const x = new Int32Array(fleet.count);
  const y = new Int32Array(fleet.count);
  const units = [];
  const clusters = [];
  // What height is left over goes between the rows.
  const spare = Math.max(0, Math.min(Math.floor((room - flow.height) / Math.max(1, rows.length)), Math.round(20 * ratio)));
  let top = 0;
  for (const row of rows) {
    if (row.heads.length) {
      for (const [cluster, column] of row.heads) clusters[cluster] = { x: Math.round(ratio) + column * (unitWidth + gap), y: top, column };
      top += heading;
    }
    for (const [number, column] of row.units) {
      const unit = fleet.units[number];
      const left = Math.round(ratio) + column * (unitWidth + gap);
      const cellsTop = top + label;
      units[number] = { x: left, y: cellsTop, w: unitWidth, h: unitHeight(unit.nodes), label: cellsTop - Math.round(3 * letter) };
      for (let at = 0; at < unit.nodes; at += 1) {
        const node = unit.firstNode + at;
        const nodeLeft = left + (at % columns) * nodeWidth;
        const nodeTop = cellsTop + Math.floor(at / columns) * nodeHeight + nodeLabel;
        for (let gpu = 0; gpu < fleet.gpus(node); gpu += 1) {
          x[fleet.cellOfNode[node] + gpu] = nodeLeft + (gpu % GPUS_A_ROW) * pitch;
          y[fleet.cellOfNode[node] + gpu] = nodeTop + Math.floor(gpu / GPUS_A_ROW) * pitch;
        }
      }
    }
    top += label + row.tallest + between + spare;
  }
  const cellGap = pitch >= 14 ? 2 : pitch > 3 ? 1 : 0;
  const wide = Math.max(0, ...units.map((unit) => unit.x + unit.w + 1));
  return {
    width: Math.max(width, wide), height: Math.max(room, Math.ceil(top)), pitch, cell: pitch - cellGap, x, y, units, clusters,
    columns, nodeWidth, nodeHeight, nodeLabel, letter,
  };
}

/** Cell at a point in device pixels, or -1; gaps within a node belong to the cell before them. */
export function cellAt(geometry, fleet, px, py) {
  const { pitch, columns, nodeWidth, nodeHeight, nodeLabel } = geometry;
  for (let number = 0; number < geometry.units.length; number += 1) {
    const box = geometry.units[number];
    if (px < box.x || py < box.y || px >= box.x + box.w || py >= box.y + box.h) continue;
    const column = Math.floor((px - box.x) / nodeWidth);
    const row = Math.floor((py - box.y) / nodeHeight);
    const at = row * columns + column;
    if (at >= fleet.units[number].nodes) return -1;
    const node = fleet.units[number].firstNode + at;
    const gpuColumn = Math.floor((px - box.x - column * nodeWidth) / pitch);
    const gpuRow = Math.floor((py - box.y - row * nodeHeight - nodeLabel) / pitch);
    const gpu = gpuColumn + GPUS_A_ROW * gpuRow;
    return gpuRow >= 0 && gpuColumn < GPUS_A_ROW && gpu < fleet.gpus(node) ? fleet.cellOfNode[node] + gpu : -1;
  }
  return -1;
}
