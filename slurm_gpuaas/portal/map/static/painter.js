// Draws cells as pixels: one ImageData for the whole map, one stamp a cell, one putImageData. A second canvas above it has
// what changes rarely or belongs to no cell: labels, links, outlines.
import { css } from './palette.js';

export class CellPainter {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    // The pixels are ours: a canvas in the GPU's memory would copy them there and back.
    this.context = canvas.getContext('2d', { alpha: false, willReadFrequently: true });
    this.styles = new Uint16Array(0);
    this.painted = new Uint16Array(0);
  }

  /** @param {import('./geometry.js').Geometry} geometry @param {import('./palette.js').Palette} palette */
  resize(geometry, palette) {
    this.geometry = geometry;
    this.palette = palette;
    this.canvas.width = Math.max(1, geometry.width);
    this.canvas.height = Math.max(1, geometry.height);
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.pixels.fill(palette.groundPixel);
    this.styles = new Uint16Array(geometry.x.length);
    this.painted = new Uint16Array(geometry.x.length).fill(65535);
    this.context.putImageData(this.image, 0, 0);
  }

  /** Bring `styles` to the screen. Only cells whose style changed are written. @returns {number} cells written */
  paint() {
    const { styles, painted, pixels, palette } = this;
    const { x, y, cell: side } = this.geometry;
    const width = this.canvas.width;
    const stamps = [];
    let written = 0;
    for (let cell = 0; cell < styles.length; cell += 1) {
      const style = styles[cell];
      if (style === painted[cell]) continue;
      painted[cell] = style;
      written += 1;
      const stamp = stamps[style] ?? (stamps[style] = palette.stamp(style, side));
      let at = y[cell] * width + x[cell];
      let from = 0;
      for (let row = 0; row < side; row += 1) {
        for (let column = 0; column < side; column += 1) pixels[at + column] = stamp[from + column];
        at += width;
        from += side;
      }
    }
    if (written) this.context.putImageData(this.image, 0, 0);
    return written;
  }
}

/** A legend's sample of a style. @returns {HTMLCanvasElement} */
export function sample(palette, style, side, ratio) {
  const canvas = document.createElement('canvas');
  const pixels = Math.round(side * ratio);
  canvas.width = pixels;
  canvas.height = pixels;
  canvas.className = 'gm-sample';
  const context = canvas.getContext('2d');
  const image = context.createImageData(pixels, pixels);
  new Uint32Array(image.data.buffer).set(palette.stamp(style, pixels));
  context.putImageData(image, 0, 0);
  canvas.setAttribute('aria-hidden', 'true');
  return canvas;
}

export class OverlayPainter {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
  }

  /**
   * @param {Object} scene
   * @param {import('./geometry.js').Geometry} scene.geometry
   * @param {import('./fleet.js').Fleet} scene.fleet
   * @param {import('./palette.js').Palette} scene.palette
   * @param {number} scene.ratio
   * @param {Record<string, any>} scene.sites
   * @param {number[]} scene.outlined  cells of the selection
   * @param {number[]} scene.job  cells of the selected job, across units
   * @param {{kind: string, number: number} | null} scene.focus
   * @param {number} scene.hovered  cell or -1
   * @param {(number: number) => string} scene.heading  text of a cluster
   */
  draw(scene) {
    const { geometry, fleet, palette, ratio } = scene;
    const c = this.context;
    this.canvas.width = Math.max(1, geometry.width);
    this.canvas.height = Math.max(1, geometry.height);
    const names = palette.names;
    const { letter } = geometry;
    const font = (size, weight = 400) => `${weight} ${Math.round(size * letter)}px system-ui, "Noto Sans KR", "NanumSquare", "Malgun Gothic", sans-serif`;
    c.textBaseline = 'alphabetic';
    geometry.clusters.forEach((at, number) => {
      const cluster = fleet.clusters[number];
      if (at.column) {
        const unit = geometry.units[fleet.units.findIndex((one) => one.cluster === number)];
        c.fillStyle = names.soft;
        c.fillRect(Math.round(at.x - 4 * ratio), at.y + 4 * ratio, Math.max(1, Math.round(ratio)), unit.y + unit.h - at.y - 4 * ratio);
      }
      c.font = font(12.5, 700);
      c.fillStyle = names.ink;
      c.fillText(cluster.name, at.x, at.y + 15 * letter);
      const after = at.x + c.measureText(cluster.name).width + 8 * letter;
      c.font = font(11.5);
      c.fillStyle = names.soft;
      c.fillText(scene.heading(number), after, at.y + 15 * letter);
    });
    c.font = font(10);
    geometry.units.forEach((box, number) => {
      const unit = fleet.units[number];
      c.fillStyle = names.soft;
      c.fillText(unit.name, box.x, box.label);
      // The line above a unit is its links up to the spine: as long as they are up.
      const links = scene.sites[fleet.clusters[unit.cluster].name]?.links?.[unit.name];
      const from = box.x + c.measureText(unit.name).width + 5 * letter;
      const y = Math.round(box.label - 3 * letter) + 0.5;
      const length = box.x + box.w - from;
      if (length > 4) {
        const up = links && links[1] ? links[0] / links[1] : 1;
        c.lineWidth = ratio;
        c.strokeStyle = names.line;
        c.beginPath(); c.moveTo(from, y); c.lineTo(from + length * up, y); c.stroke();
        if (up < 1) {
          c.strokeStyle = names.decision;
          c.lineWidth = 2 * ratio;
          const least = Math.min(from + length * up, from + length - 6 * ratio);
          c.setLineDash([2 * ratio, 2 * ratio]);
          c.beginPath(); c.moveTo(least, y); c.lineTo(from + length, y); c.stroke();
          c.setLineDash([]);
        }
      }
    });
    if (geometry.nodeLabel) {
      c.font = font(8.5);
      c.fillStyle = names.soft;
      for (let node = 0; node < fleet.nodes; node += 1) {
        const cell = fleet.cellOfNode[node];
        c.fillText(fleet.nodeName[node], geometry.x[cell], geometry.y[cell] - 2 * ratio, geometry.nodeWidth - 4 * ratio);
      }
    }
    this.job(scene);
    for (const cell of scene.outlined) this.around(scene, [cell], names.ink, 1.5);
    if (scene.hovered >= 0) this.around(scene, cellsOfNode(fleet, fleet.nodeOfCell[scene.hovered]), names.soft, 1);
    if (scene.hovered >= 0) this.around(scene, [scene.hovered], names.ink, 2);
    if (scene.focus) this.around(scene, focusCells(fleet, scene.focus), names.accent, 3);
  }

  /** All GPUs of a job outlined together, and lines between the units that it spans. */
  job(scene) {
    if (!scene.job.length) return;
    const { fleet, geometry, palette, ratio } = scene;
    const nodes = new Set(scene.job.map((cell) => fleet.nodeOfCell[cell]));
    const units = [...new Set([...nodes].map((node) => fleet.unitOfNode[node]))];
    const c = this.context;
    const centres = units.map((unit) => {
      const cells = scene.job.filter((cell) => fleet.unitOfNode[fleet.nodeOfCell[cell]] === unit);
      const half = geometry.cell / 2;
      return [
        cells.reduce((sum, cell) => sum + geometry.x[cell], 0) / cells.length + half,
        cells.reduce((sum, cell) => sum + geometry.y[cell], 0) / cells.length + half,
      ];
    });
    if (centres.length > 1) {
      const middle = [0, 1].map((axis) => centres.reduce((sum, at) => sum + at[axis], 0) / centres.length);
      for (const [colour, wide] of [[palette.names.ground, 5], [palette.names.accent, 2]]) {
        c.strokeStyle = colour;
        c.lineWidth = wide * ratio;
        for (const [x, y] of centres) {
          c.beginPath(); c.moveTo(middle[0], middle[1]); c.lineTo(x, y); c.stroke();
        }
      }
      c.fillStyle = palette.names.accent;
      for (const [x, y] of [middle, ...centres]) { c.beginPath(); c.arc(x, y, 4 * ratio, 0, 7); c.fill(); }
    }
    for (const node of nodes) {
      this.around(scene, scene.job.filter((cell) => fleet.nodeOfCell[cell] === node), palette.names.accent, 2);
    }
  }

  around({ geometry, ratio, palette }, cells, colour, wide) {
    if (!cells.length) return;
    let [left, top, right, bottom] = [1e9, 1e9, 0, 0];
    for (const cell of cells) {
      left = Math.min(left, geometry.x[cell]);
      top = Math.min(top, geometry.y[cell]);
      right = Math.max(right, geometry.x[cell] + geometry.cell);
      bottom = Math.max(bottom, geometry.y[cell] + geometry.cell);
    }
    const c = this.context;
    const out = wide * ratio;
    c.lineWidth = out + 2 * ratio;
    c.strokeStyle = css(palette.ground);
    c.strokeRect(left - out / 2, top - out / 2, right - left + out, bottom - top + out);
    c.lineWidth = out;
    c.strokeStyle = colour;
    c.strokeRect(left - out / 2, top - out / 2, right - left + out, bottom - top + out);
  }
}

export function cellsOfNode(fleet, node) {
  return Array.from({ length: fleet.gpus(node) }, (_, gpu) => fleet.cellOfNode[node] + gpu);
}

/** Cells of what the keyboard is on. */
export function focusCells(fleet, { kind, number }) {
  if (kind === 'gpu') return [number];
  if (kind === 'node') return cellsOfNode(fleet, number);
  const unit = fleet.units[number];
  return Array.from({ length: unit.nodes }, (_, n) => cellsOfNode(fleet, unit.firstNode + n)).flat();
}
