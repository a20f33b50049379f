"""The portal as it is served, on one core: `python -m tests.bench.portal_server FOLDER PORT CORE`.

FOLDER holds `pool.db` and `sites.key`. Sites come in through their own door, people through theirs; nothing is
switched off but TLS, which a proxy speaks.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import structlog

from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.main import serve
from slurm_gpuaas.service.log import set_up_log

URL = "https://gpu.example.org"


def config_of(folder: Path, port: int) -> Config:
    return Config(
        public_url=URL,
        store={"url": f"sqlite:///{folder}/pool.db"},
        sites={"master_key": folder / "sites.key"},
        map={"folder": folder / "map"},
        listen={"port": port},
    )


def main(folder: Path, port: int, core: int) -> None:
    os.sched_setaffinity(0, {core})
    config = config_of(folder, port)
    set_up_log(config.log)
    structlog.get_logger(__name__).info("bench", core=core)
    asyncio.run(serve(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
