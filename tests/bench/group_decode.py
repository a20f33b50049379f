"""How many kernel-log lines one core decodes in a second: a process of `gpuaas xid decode --json`, its start included.

The alternative is the expression that everybody greps with (code, address, process), printed as JSON by the same
Python: what the rest of an event costs.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.bench.model import BenchContext, BenchRow, side_by_side

LINES = 300_000
RUNS = 3

_NAIVE = r"""
import json, re, sys
pattern = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)(?:, pid=(\d+), name=([^,]*))?")
for number, line in enumerate(open(sys.argv[1], encoding="utf-8", errors="replace"), start=1):
    if found := pattern.search(line):
        pci, code, pid, name = found.groups()
        print(json.dumps({"line": number, "code": int(code), "pci": pci, "pid": pid, "process": name}))
"""

Line = Callable[[random.Random, int], str]
EVENTS: tuple[Line, ...] = (
    lambda r, n: (
        f"31, pid={r.randrange(10**6)}, name=python3, Ch {n % 4096:08x}, intr 00000000. MMU Fault: ENGINE GRAPHICS "
        f"GPCCLIENT_T1_{n % 9} faulted @ 0x{n:x}_{r.randrange(2**32):08x}. Fault is of type FAULT_PDE "
        "ACCESS_TYPE_VIRT_READ"
    ),
    lambda r, n: (
        f"13, pid={r.randrange(10**6)}, name=train.{n % 64}, Graphics SM Warp Exception on (GPC {n % 8}, TPC "
        f"{n % 9}, SM {n % 2}): Out Of Range Address"
    ),
    lambda r, n: (
        f"149, NETIR_LINK_EVT  Fatal   XC0 i0 Link {n % 18:02} (0x{0x021425C6 + (n % 18 << 10):08x} 0x00000000 "
        f"0x00000000 0x00000000 0x00000000 0x{n:08x})"
    ),
    lambda r, n: (
        f"94, pid={r.randrange(10**6)}, name=ray::Worker{n}, Contained: CE User Channel (0x{n % 64:x}). RST: No"
    ),
    lambda r, n: f"45, pid={r.randrange(10**6)}, name=python3, Ch {n % 4096:08x} caused by previous Xid 149",
    lambda r, n: (
        f"74, pid={n}, name=python3, NVLink: fatal error detected on link {n % 18}(0x{r.randrange(2**30):x}, 0x0, "
        "0x0, 0x0, 0x0, 0x0, 0x0)"
    ),
    lambda r, n: "154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
)
NOISE: tuple[Line, ...] = (
    lambda r, n: f"mlx5_core 0000:18:00.0 ib{n % 8}: Link up ({r.randrange(10**6)})",
    lambda r, n: (
        f"python3[{n}]: segfault at 7f797fe00000 ip 00007f7c7ac69996 sp 00007f7c12fd7c30 error 4 in libnccl.so.2"
    ),
    lambda r, n: f"pcieport 0000:15:01.0: AER: Correctable error message received from 0000:1b:00.{n % 8}",
    lambda r, n: f"NVRM: GPU{n % 8} _kgspLogRpcTimeout: Note: Please also check logs above {n}.",
)


def run(context: BenchContext) -> list[BenchRow]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, lines in (("", _lines(0.0)), ("_noise", _lines(0.9)), ("_storm", _storm())):
            log = Path(folder, "kernel.log")
            log.write_text("".join(f"{line}\n" for line in lines))
            with context.step(f"Decoding {LINES:,} lines{kind.replace('_', ', ')}") as note:
                ours, naive = side_by_side(
                    partial(_rate, [sys.executable, "-m", "slurm_gpuaas.cli", "xid", "decode", "--json", str(log)]),
                    partial(_rate, [sys.executable, "-c", _NAIVE, str(log)]),
                    runs=RUNS,
                )
                note(f"{max(ours):,.0f} lines/s")
            rows.append(BenchRow.of_rates(f"decode_lines_per_s{kind}", ours=ours, baseline=naive, unit="lines/s"))
    return rows


def _rate(command: list[str]) -> float:
    """Lines per second of processor time, the process's start included: what one core does, whoever else is there."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return LINES / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _lines(noise: float) -> Iterator[str]:
    """All different: time, process, address and words differ."""
    draw = random.Random(5)
    for number in range(LINES):
        stamp = f"[{number}.{draw.randrange(10**6):06}]"
        if draw.random() < noise:
            yield f"{stamp} {draw.choice(NOISE)(draw, number)}"
        else:
            bus, event = draw.choice(("1b", "3b", "5d", "9a")), draw.choice(EVENTS)
            yield f"{stamp} NVRM: Xid (PCI:0000:{bus}:00): {event(draw, number)}"


def _storm() -> Iterator[str]:
    """The same error again and again, as an uncorrected memory error is told."""
    line = (
        "NVRM: Xid (PCI:0000:1b:00): 95, pid=4242, name=python3, Uncontained: LTC TAG (0x2, 0x1). RST: Yes, D-RST: No"
    )
    return (f"[{number}.123456] {line}" for number in range(LINES))
