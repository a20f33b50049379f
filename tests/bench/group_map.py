"""What the cluster map costs: a full repaint of 13,136 GPUs in a real browser, and 100 open maps on one core.

Drawing: Chromium without a GPU (`--disable-gpu`), a window of 1400 x 900 device pixels full of cells, every cell's
colour changed in each frame. One frame is what the page itself does (styles of the layer, stamps, one ImageData),
measured from one animation frame to the next with neither vsync nor a limit on frames, so that raster and compositing
are in it; the time of our script alone stands beside it. The alternative is what everybody writes first: for each cell
`fillStyle` and `fillRect` on a 2D canvas of the same size in the same browser, in turns.

Serving: 100 streams of events over asyncio's sockets and uvicorn, all looking as the government does; and again each
as a tenant of its own. CPU seconds of the server's process for one update of all sites (their JSON parsed, joined,
encoded, sent), and bytes that one client gets.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from playwright.sync_api import Page, sync_playwright

from slurm_gpuaas.domain.names import OrganisationName
from slurm_gpuaas.domain.site_frame import SiteFrame
from slurm_gpuaas.portal.map import LiveMap, MapViewer, map_routes
from slurm_gpuaas.portal.map.history import MapHistory
from slurm_gpuaas.testbed.map_demo import TENANTS, DemoFleet, ShiftedClock, make_app, prepared
from slurm_gpuaas.testbed.profiles import profile
from tests.bench.model import BenchContext, BenchRow

CHROMIUM = "/usr/bin/chromium"
FRAMES = 100
ROUNDS = 3
OPEN_MAPS = 100
UPDATES = 12
WIDTH, HEIGHT = 1400, 900

_SETUP = """async () => {
  const page = document.getElementById('gmap').mapPage;
  const at = document.querySelector('script[type=module]').src.replace('main.js', '');
  const { fit } = await import(at + 'geometry.js');
  const { CellPainter } = await import(at + 'painter.js');
  const { style } = await import(at + 'layers.js');
  document.body.replaceChildren();
  const canvases = [0, 1].map(() => document.createElement('canvas'));
  const geometry = fit(page.fleet, WIDTH, HEIGHT, 1);
  const painter = new CellPainter(canvases[0]);
  painter.resize(geometry, page.palette);
  [canvases[1].width, canvases[1].height] = [WIDTH, HEIGHT];
  const naive = canvases[1].getContext('2d', { alpha: false });
  const picture = page.picture, fleet = page.fleet;
  let turn = 0;
  // Every cell's use, and so its colour, differs from the frame before.
  const change = () => {
    turn += 1;
    for (let c = 0; c < picture.count; c += 1) {
      picture.state[c] = 2; picture.health[c] = 0; picture.idle[c] = 0;
      picture.use[c] = Math.round(((c + turn) % 12) * 25 / 3) + 4;
    }
  };
  const draw = {
    ours: () => { style('use', picture, fleet, null, painter.styles); return painter.paint(); },
    naive: () => {
      style('use', picture, fleet, null, painter.styles);
      for (let c = 0; c < picture.count; c += 1) {
        naive.fillStyle = page.palette.colour(painter.styles[c] >> 5);
        naive.fillRect(geometry.x[c], geometry.y[c], geometry.cell, geometry.cell);
      }
      return picture.count;
    },
  };
  window.measure = (which, frames) => new Promise((done) => {
    document.body.replaceChildren(canvases[which === 'ours' ? 0 : 1]);
    const [whole, script, cells] = [[], [], []];
    let last = 0;
    const next = (now) => {
      change();
      const began = performance.now();
      const written = draw[which]();
      if (last) { whole.push(performance.now() - last); script.push(performance.now() - began); cells.push(written); }
      last = began;
      if (whole.length < frames) requestAnimationFrame(next);
      else done({ whole, script, cells: Math.min(...cells), pitch: geometry.pitch });
    };
    requestAnimationFrame(next);
  });
}""".replace("WIDTH", str(WIDTH)).replace("HEIGHT", str(HEIGHT))


def run(context: BenchContext) -> list[BenchRow]:
    with tempfile.TemporaryDirectory(prefix="bench-map-") as folder:
        clock, now = ShiftedClock(), datetime.now(UTC)
        fleet = DemoFleet(profile("national").clusters, now - timedelta(minutes=10))
        history = MapHistory(Path(folder))
        live = LiveMap(clock, history=history)
        with context.step("Ten minutes of the national pool are simulated"):
            prepared(fleet, live, clock, now, hours=1 / 6)
        rows = [BenchRow.of_figure("map_history_mb_per_day", [history.bytes() / 11 * 1440 / 1e6], unit="MB")]
        with context.step(f"A browser draws {ROUNDS} x {FRAMES} frames each way"):
            rows += _drawing(live)
        for viewers in (1, OPEN_MAPS):
            with context.step(f"{OPEN_MAPS} open maps, {viewers} different views"):
                rows += asyncio.run(_serving(viewers))
        return rows


# -- Drawing -----------------------------------------------------------------------------------------------------------


def _drawing(live: LiveMap) -> list[BenchRow]:
    with socket.create_server(("127.0.0.1", 0)) as sock, sync_playwright() as playwright:
        server = uvicorn.Server(uvicorn.Config(make_app(live), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-gpu-vsync", "--disable-frame-rate-limit"],
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"http://127.0.0.1:{sock.getsockname()[1]}/map")
        page.wait_for_selector("#gmap[data-ready]")
        ours, naive, script = _frames(page, live.layout().cells)
        browser.close()
        server.should_exit = True
        thread.join(20)
    ms = [1000 * one for one in ours]
    others = BenchRow.of_times("map_frame_ms", ours=ms, baseline=[1000 * one for one in naive])
    return [
        BenchRow(
            name=others.name,
            value=others.value,
            unit="ms",
            baseline=others.baseline,
            ratio=others.ratio,
            runs=others.runs,
        ),
        BenchRow.of_percentile("map_frame_p99_ms", ms, 99, unit="ms"),
        BenchRow.of_figure("map_frame_script_ms", [1000 * one for one in script], unit="ms"),
    ]


def _frames(page: Page, cells: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds a frame: ours, the alternative's, and of our script alone."""
    page.evaluate(_SETUP)
    ours: list[float] = []
    naive: list[float] = []
    script: list[float] = []
    for turn in range(ROUNDS):
        for which in ("ours", "naive") if turn % 2 == 0 else ("naive", "ours"):
            found: dict[str, Any] = page.evaluate("([which, frames]) => window.measure(which, frames)", [which, FRAMES])
            assert found["cells"] == cells, "a frame left cells as they were"
            (ours if which == "ours" else naive).extend(one / 1000 for one in found["whole"])
            if which == "ours":
                script.extend(one / 1000 for one in found["script"])
    return ours, naive, script


# -- Serving -----------------------------------------------------------------------------------------------------------


async def _serving(views: int) -> list[BenchRow]:
    clock = ShiftedClock()
    live = LiveMap(clock)
    clock.at = datetime.now(UTC)
    fleet = DemoFleet(profile("national").clusters, clock.at)
    frames = fleet.frames(clock.at)
    for cluster in fleet.clusters:
        live.introduce(cluster)
    for frame in frames:
        live.take(frame)
    live.publish()
    app = FastAPI(openapi_url=None)

    def viewer(request: Request) -> MapViewer:
        number = int(request.query_params["who"])
        if views == 1:
            return MapViewer(everything=True)
        name = TENANTS[number] if number < len(TENANTS) else OrganisationName(f"tenant-{number}")
        return MapViewer(organisation=name)

    app.include_router(map_routes(live, viewer))
    sock = socket.create_server(("127.0.0.1", 0), backlog=OPEN_MAPS)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    port = sock.getsockname()[1]
    with _Clients(port) as clients:
        await clients.settled()
        taken: list[float] = []
        sizes: list[float] = []
        for _ in range(UPDATES):
            clock.at += timedelta(seconds=5)
            bodies = [frame.model_dump_json(exclude_defaults=True).encode() for frame in fleet.frames(clock.at)]
            before, had = _cpu(), clients.received
            for body in bodies:
                live.take(SiteFrame.model_validate_json(body))
            live.publish()
            await clients.settled()
            taken.append(_cpu() - before)
            sizes.append((clients.received - had) / OPEN_MAPS)
    server.should_exit = True
    await serving
    kind = "one_view" if views == 1 else f"{views}_views"
    return [
        BenchRow.of_figure(f"map_update_{kind}_cpu_s", taken, unit="s"),
        BenchRow.of_figure(f"map_update_{kind}_bytes_per_client", sizes, unit="B"),
    ]


class _Clients:
    """Open maps in a process of their own, so that what they cost is not counted. They report bytes over a pipe."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.received = 0

    def __enter__(self) -> _Clients:
        from multiprocessing import get_context

        context = get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_listen, args=(self._port, theirs), daemon=True)
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(10)

    async def settled(self) -> None:
        """Until all have got a picture and nothing more has come for a while."""
        quiet, before = 0, self.received
        while quiet < 6 or self.received == before:
            await asyncio.sleep(0.05)
            last = self.received
            while self._pipe.poll():
                self.received = self._pipe.recv()
            quiet = quiet + 1 if self.received == last else 0


def _listen(port: int, pipe: Any) -> None:
    asyncio.run(_streams(port, pipe))


async def _streams(port: int, pipe: Any) -> None:
    total = 0

    async def one(number: int) -> None:
        nonlocal total
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /map/events?who={number} HTTP/1.1\r\nHost: map\r\n\r\n".encode())
        while data := await reader.read(2**18):
            total += len(data)

    async def told() -> None:
        last = -1
        while True:
            await asyncio.sleep(0.02)
            if total != last:
                last = total
                pipe.send(total)

    await asyncio.gather(told(), *(one(number) for number in range(OPEN_MAPS)))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
