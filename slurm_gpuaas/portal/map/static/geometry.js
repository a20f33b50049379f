// Where everything is drawn, in device pixels: the largest cells with which the whole fleet fits.
//
// Clusters stand below each other, each with its units in rows; a unit is a grid of nodes in rack order, a node a tile of
// four GPUs a row. Nothing here depends on what the GPUs do, so nothing ever moves.

const GPUS_A_ROW = 4;
const COLUMNS = [32, 16, 12, 8, 6, 4, 3, 2, 1];
const LARGEST = 34;
const SMALLEST = 3;

/**
 * @typedef {Object} Geometry
 * @property {number} width
 * @property {number} height
 * @property {number} pitch  from one cell to the next
 * @property {number} cell  side of a cell
 * @property {Int32Array} x  left of each cell
 * @property {Int32Array} y  top of each cell
 * @property {{x: number, y: number, w: number, h: number, label: number}[]} units
 * @property {{x: number, y: number}[]} clusters  where their headings stand
 * @property {number} columns  nodes a row of a unit
 * @property {number} nodeWidth
 * @property {number} nodeHeight
 */

/**
 * @param {import('./fleet.js').Fleet} fleet
 * @param {number} width  device pixels
 * @param {number} height  device pixels; 0 = as high as it gets with cells of `least`
 * @param {number} ratio  device pixels a CSS pixel
 * @param {number} [least]  smallest cell pitch in CSS pixels where the height is free
 * @returns {Geometry}
 */
export function fit(fleet, width, height, ratio, least = 6) {
  if (!fleet.count) return placed(fleet, width, ratio, SMALLEST, 1);
  if (!height) {
    let best = null;
    for (const columns of COLUMNS) {
      const one = measured(fleet, width, ratio, Math.round(least * ratio), columns);
      if (one !== null && (best === null || one < best.height)) best = { height: one, columns };
    }
    return placed(fleet, width, ratio, Math.round(least * ratio), best ? best.columns : 1);
  }
  for (let pitch = Math.round(LARGEST * ratio); pitch > SMALLEST; pitch -= 1) {
    let best = null;
    for (const columns of COLUMNS) {
      const one = measured(fleet, width, ratio, pitch, columns);
      if (one !== null && one <= height && (best === null || one < best.height)) best = { height: one, columns };
    }
    if (best) return placed(fleet, width, ratio, pitch, best.columns, height);
  }
  return placed(fleet, width, ratio, SMALLEST, 16);
}

function sizes(fleet, ratio, pitch, columns) {
  const nodeGap = Math.max(1, Math.round(pitch * 0.3));
  const rows = Math.max(1, ...fleet.clusters.map((one) => Math.ceil(one.gpus / GPUS_A_ROW)));
  const nodeWidth = GPUS_A_ROW * pitch + nodeGap;
  const nodeHeight = rows * pitch + nodeGap;
  return {
    nodeGap, nodeWidth, nodeHeight,
    gap: Math.round(Math.max(8 * ratio, pitch * 0.8)),
    label: Math.round(13 * ratio),
    heading: Math.round(24 * ratio),
    unitWidth: columns * nodeWidth - nodeGap,
    unitHeight: (nodes) => Math.ceil(nodes / columns) * nodeHeight - nodeGap,
  };
}

/** Height of the whole, or null where a unit is wider than there is room. */
function measured(fleet, width, ratio, pitch, columns) {
  const s = sizes(fleet, ratio, pitch, columns);
  let height = 0;
  for (const [number] of fleet.clusters.entries()) {
    const units = fleet.units.filter((unit) => unit.cluster === number);
    const unitWidth = Math.min(columns, Math.max(...units.map((unit) => unit.nodes))) * s.nodeWidth - s.nodeGap;
    const perRow = Math.floor((width + s.gap - 2 * ratio) / (unitWidth + s.gap));
    if (perRow < 1) return null;
    const tallest = s.unitHeight(Math.max(...units.map((unit) => unit.nodes)));
    height += s.heading + Math.ceil(units.length / perRow) * (tallest + s.label + s.gap / 2);
  }
  return Math.ceil(height + 2 * ratio);
}

function placed(fleet, width, ratio, pitch, columns, room = 0) {
  const s = sizes(fleet, ratio, pitch, columns);
  const x = new Int32Array(fleet.count);
  const y = new Int32Array(fleet.count);
  const units = [];
  const clusters = [];
  const needed = measured(fleet, width, ratio, pitch, columns) ?? 0;
  const rowsOf = (count, perRow) => Math.ceil(count / perRow);
  // What height is left over goes between the rows of units.
  let rows = 0;
  const perRowOf = fleet.clusters.map((_, number) => {
    const mine = fleet.units.filter((unit) => unit.cluster === number);
    const unitWidth = Math.min(columns, Math.max(...mine.map((unit) => unit.nodes))) * s.nodeWidth - s.nodeGap;
    const perRow = Math.max(1, Math.floor((width + s.gap - 2 * ratio) / (unitWidth + s.gap)));
    rows += rowsOf(mine.length, perRow);
    return { perRow, unitWidth, mine };
  });
  const spare = rows ? Math.min(Math.floor((room - needed) / rows), Math.round(18 * ratio)) : 0;
  const extra = Math.max(0, spare);
  let top = 0;
  fleet.clusters.forEach((_, number) => {
    const { perRow, unitWidth, mine } = perRowOf[number];
    clusters.push({ x: Math.round(ratio), y: top });
    top += s.heading;
    const tallest = s.unitHeight(Math.max(...mine.map((unit) => unit.nodes)));
    mine.forEach((unit, n) => {
      const left = Math.round(ratio) + (n % perRow) * (unitWidth + s.gap);
      const cellsTop = Math.round(top + Math.floor(n / perRow) * (tallest + s.label + s.gap / 2 + extra) + s.label);
      units.push({ x: left, y: cellsTop, w: unitWidth, h: s.unitHeight(unit.nodes), label: cellsTop - Math.round(3 * ratio) });
      for (let at = 0; at < unit.nodes; at += 1) {
        const node = unit.firstNode + at;
        const nodeLeft = left + (at % columns) * s.nodeWidth;
        const nodeTop = cellsTop + Math.floor(at / columns) * s.nodeHeight;
        for (let gpu = 0; gpu < fleet.gpus(node); gpu += 1) {
          x[fleet.cellOfNode[node] + gpu] = nodeLeft + (gpu % GPUS_A_ROW) * pitch;
          y[fleet.cellOfNode[node] + gpu] = nodeTop + Math.floor(gpu / GPUS_A_ROW) * pitch;
        }
      }
    });
    top += rowsOf(mine.length, perRow) * (tallest + s.label + s.gap / 2 + extra);
  });
  const cellGap = pitch >= 14 ? 2 : pitch > 3 ? 1 : 0;
  return {
    width, height: Math.max(room, Math.ceil(top + 2 * ratio)), pitch, cell: pitch - cellGap, x, y, units, clusters, columns,
    nodeWidth: s.nodeWidth, nodeHeight: s.nodeHeight,
  };
}

/** Cell at a point in device pixels, or -1; gaps within a node belong to the cell before them. */
export function cellAt(geometry, fleet, px, py) {
  const { pitch, columns, nodeWidth, nodeHeight } = geometry;
  for (let number = 0; number < geometry.units.length; number += 1) {
    const box = geometry.units[number];
    if (px < box.x || py < box.y || px >= box.x + box.w || py >= box.y + box.h) continue;
    const column = Math.floor((px - box.x) / nodeWidth);
    const row = Math.floor((py - box.y) / nodeHeight);
    const at = row * columns + column;
    if (at >= fleet.units[number].nodes) return -1;
    const node = fleet.units[number].firstNode + at;
    const gpuColumn = Math.floor((px - box.x - column * nodeWidth) / pitch);
    const gpu = gpuColumn + GPUS_A_ROW * Math.floor((py - box.y - row * nodeHeight) / pitch);
    return gpuColumn < GPUS_A_ROW && gpu < fleet.gpus(node) ? fleet.cellOfNode[node] + gpu : -1;
  }
  return -1;
}
