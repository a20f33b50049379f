// Where each cell stands: clusters, units, nodes, GPUs, from the layout that /map/opening tells.

/**
 * @typedef {Object} Unit
 * @property {string} name
 * @property {number} cluster
 * @property {number} firstNode
 * @property {number} nodes
 */

export class Fleet {
  /** @param {{layout: number, clusters: any[]}} opening */
  constructor(opening) {
    this.layout = opening.layout;
    this.clusters = opening.clusters.map((one) => ({ ...one, firstNode: 0, firstCell: 0, nodes: 0, cells: 0 }));
    /** @type {Unit[]} */
    this.units = [];
    this.nodeName = [];
    this.nodeShare = [];
    const unitOfNode = [];
    const clusterOfNode = [];
    const cellOfNode = [];
    let cells = 0;
    this.clusters.forEach((cluster, number) => {
      cluster.firstNode = this.nodeName.length;
      cluster.firstCell = cells;
      for (const unit of cluster.units) {
        this.units.push({ name: unit.name, cluster: number, firstNode: this.nodeName.length, nodes: unit.nodes.length });
        unit.nodes.forEach((name, n) => {
          this.nodeName.push(name);
          this.nodeShare.push(unit.shares[n]);
          unitOfNode.push(this.units.length - 1);
          clusterOfNode.push(number);
          cellOfNode.push(cells);
          cells += cluster.gpus;
        });
      }
      cluster.nodes = this.nodeName.length - cluster.firstNode;
      cluster.cells = cells - cluster.firstCell;
    });
    this.count = cells;
    this.nodes = this.nodeName.length;
    this.unitOfNode = Uint16Array.from(unitOfNode);
    this.clusterOfNode = Uint16Array.from(clusterOfNode);
    this.cellOfNode = Uint32Array.from(cellOfNode);
    this.nodeOfCell = new Uint32Array(cells);
    for (let node = 0; node < this.nodes; node += 1) {
      this.nodeOfCell.fill(node, this.cellOfNode[node], this.cellOfNode[node] + this.gpus(node));
    }
    this.placeOf = new Map(this.nodeName.map((name, node) => [`${this.clusterName(node)}/${name}`, node]));
  }

  /** GPUs of a node. */
  gpus(node) {
    return this.clusters[this.clusterOfNode[node]].gpus;
  }

  clusterName(node) {
    return this.clusters[this.clusterOfNode[node]].name;
  }

  unitName(node) {
    return this.units[this.unitOfNode[node]].name;
  }

  /** Number of a node, or -1. */
  node(cluster, name) {
    return this.placeOf.get(`${cluster}/${name}`) ?? -1;
  }

  /** Won an hour that a cell costs, or null where nobody said. */
  won(cell) {
    return this.clusters[this.clusterOfNode[this.nodeOfCell[cell]]].won;
  }
}

/**
 * For the layer of fragmentation: of each cell the size of its segment (wholly free nodes of its share under its unit),
 * 0 where its GPU is not free, -1 where it is free on a node that is partly used.
 * @param {Fleet} fleet @param {import('./codec.js').Picture} picture
 */
export function segments(fleet, picture) {
  const size = new Int16Array(fleet.count);
  for (const unit of fleet.units) {
    const gpus = fleet.clusters[unit.cluster].gpus;
    const free = {};
    const whole = [];
    for (let n = 0; n < unit.nodes; n += 1) {
      const node = unit.firstNode + n;
      const first = fleet.cellOfNode[node];
      let count = 0;
      for (let gpu = 0; gpu < gpus; gpu += 1) count += picture.state[first + gpu] === 1 ? 1 : 0;
      whole.push(count === gpus);
      if (count === gpus) free[fleet.nodeShare[node]] = (free[fleet.nodeShare[node]] ?? 0) + 1;
    }
    for (let n = 0; n < unit.nodes; n += 1) {
      const node = unit.firstNode + n;
      const first = fleet.cellOfNode[node];
      for (let gpu = 0; gpu < gpus; gpu += 1) {
        if (picture.state[first + gpu] === 1) size[first + gpu] = whole[n] ? free[fleet.nodeShare[node]] : -1;
      }
    }
  }
  return size;
}
