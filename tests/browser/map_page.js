// What tests ask of the map's page: put into it by the browser, so the page's own policy does not bind it.
window.mapTest = {
  get page() { return document.getElementById('gmap').mapPage; },
  ready() { return !this.page.waiting; },

  /** How many different colours the map shows. */
  colours() {
    const canvas = document.querySelector('[data-part=cells]');
    const image = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(image.data.buffer)).size;
  },

  /** Where the first GPU of a node (`cluster/node`) is on the screen. */
  centre(node) {
    const { geometry, fleet, ratio } = this.page;
    const cell = fleet.cellOfNode[fleet.placeOf.get(node)];
    const box = document.querySelector('[data-part=cells]').getBoundingClientRect();
    const half = geometry.cell / 2;
    return [box.left + (geometry.x[cell] + half) / ratio, box.top + (geometry.y[cell] + half) / ratio];
  },

  places() { return [...this.page.geometry.x, ...this.page.geometry.y].join(); },

  drawn() {
    const { x, y, width, height, pitch } = this.page.geometry;
    return [Math.max(...x), Math.max(...y), width, height, pitch];
  },

  jobs() { return Object.values(this.page.picture.table.jobs); },

  /** `cluster/node` of the first GPU of a job. */
  nodeOf(id) {
    const { picture, fleet } = this.page;
    const node = fleet.nodeOfCell[[...picture.job].findIndex((slot) => picture.table.jobs[slot]?.id === id)];
    return `${fleet.clusterName(node)}/${fleet.nodeName[node]}`;
  },

  /** Names of the nodes that a search found. */
  found() {
    const { found, fleet } = this.page;
    return [...new Set([...found.shown].flatMap((on, cell) => (on ? [fleet.nodeName[fleet.nodeOfCell[cell]]] : [])))];
  },

  /** GPUs that a search finds, 0 for one that filters nothing. */
  looked(query) {
    this.page.look(query);
    return this.page.found?.cells ?? 0;
  },

  /** GPUs for which a test on (picture, job, cell) holds, counted by hand. */
  counted(kind, value) {
    const { picture } = this.page;
    const tests = {
      job: (job) => job?.id === value,
      tenant: (job) => job?.tenant === value,
      busyUser: (job, cell) => job?.user === value && picture.use[cell] > 10,
      longFree: (job, cell) => picture.state[cell] === 1 && picture.idle[cell] > value && picture.idle[cell] < 65535,
      xid: (job, cell) => (picture.health[cell] & 64) !== 0,
      none: () => false,
    };
    let count = 0;
    for (let cell = 0; cell < picture.count; cell += 1) {
      if (tests[kind](picture.table.jobs[picture.job[cell]], cell)) count += 1;
    }
    return count;
  },

  /** Contrast of what is drawn on the canvas with its ground, light and dark (WCAG's formula). */
  async contrasts() {
    const { Palette } = await import(document.querySelector('script[type=module]').src.replace('main.js', 'palette.js'));
    const channel = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (hex) => [1, 3, 5].map((at) => channel(parseInt(hex.slice(at, at + 2), 16) / 255))
      .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const contrast = (a, b) => {
      const [more, less] = [light(a), light(b)].sort((x, y) => y - x);
      return (more + 0.05) / (less + 0.05);
    };
    return [false, true].map((dark) => {
      const { names } = new Palette(dark);
      const marks = ['ink', 'soft', 'fault', 'accent', 'busy', 'freeEdge'];
      return Object.fromEntries(marks.map((name) => [name, contrast(names[name], names.ground)]));
    });
  },
};
