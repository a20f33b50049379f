from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm_gpuaas.api.client import Client
from slurm_gpuaas.cli.context import Session
from slurm_gpuaas.cli.main import main
from tests.unit.daemon.site import ADMINISTRATOR, Site


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.store.close()


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`gpuaas ARGS` against the site's daemon, over a real socket, as a user; the whole way but for the process."""
    with ExitStack() as serving:
        clients: dict[int, Client] = {}

        def run(*args: str, uid: int = ADMINISTRATOR) -> Ran:
            if uid not in clients:
                clients[uid] = serving.enter_context(site.client(uid))
            with pytest.raises(SystemExit) as ended:
                main(args, session=Session(lambda: nullcontext(clients[uid])))
            printed = capsys.readouterr()
            assert "Traceback" not in printed.err
            return Ran(int(ended.value.code or 0), printed.out, printed.err)

        yield run


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


POLICY = """\
kind: Organisation
name: kaist
title: 한국과학기술원
---
kind: Project
name: vision
organisation: kaist
---
# an empty document is fine
---
kind: Member
project: vision
user: nobody
---
kind: Pool
name: haein
cluster: mini
model: b200
shares:
  - name: own
    nodes: b200-[001-004]
---
kind: Grant
name: g-vision
project: vision
pool: haein
share: own
gpus: 16
starts: 2027-01-01
ends: 2027-12-31
"""
