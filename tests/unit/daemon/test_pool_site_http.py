"""Site and portal as processes of their own with real HTTP between them, each killed (kill -9) where it hurts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from slurm_gpuaas.api.pool_sites import Finding, SiteReport
from slurm_gpuaas.api.signing import site_key
from slurm_gpuaas.daemon.main import die_at
from slurm_gpuaas.daemon.pool_site import PoolSite
from slurm_gpuaas.daemon.portal_client import HttpPortal
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import Refused, Unavailable
from slurm_gpuaas.domain.names import ProviderName
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.pool import PoolStore
from tests.fakes import EPOCH
from tests.portal_process import serve, usage_of
from tests.stores import new_pool_store, new_store
from tests.unit.daemon.test_pool_site import MINI, OWN, SITE, TERMS, VISION, run

MASTER = bytes(range(32))
FORK = multiprocessing.get_context("fork")


@dataclass
class Pair:
    """A site's store and a portal's, and the processes over them."""

    folder: Path
    port: int

    @property
    def site_url(self) -> str:
        return f"sqlite:///{self.folder}/site.db"

    @property
    def pool_url(self) -> str:
        return f"sqlite:///{self.folder}/pool.db"

    def portal(self, dies_at: str = "") -> multiprocessing.context.ForkProcess:
        process = FORK.Process(target=serve, args=(self.pool_url, MASTER, self.port, dies_at), daemon=True)
        process.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            time.sleep(0.02)
        raise AssertionError("the portal did not listen")

    def site(self, dies_at: str = "") -> int | None:
        """Runs until it is told and has told all, or has been refused by the network; its exit code."""
        process = FORK.Process(target=visit, args=(self.site_url, self.port, dies_at))
        process.start()
        process.join(30)
        return process.exitcode


def visit(store_url: str, port: int, dies_at: str) -> None:
    store, clock = Store.open(store_url, terms=TERMS), SystemClock()
    key = site_key(MASTER, SITE, 1)
    portal = HttpPortal(f"http://127.0.0.1:{port}", site=SITE, key=key, ca_file=None, clock=clock)

    def report(findings: tuple[Finding, ...]) -> SiteReport:
        return SiteReport(
            sent_at=clock.now(), cluster=MINI, version="1", slurm_version="", revision=store.portal.known()[0],
            shares=(), incidents=(), findings=findings,
        )  # fmt: skip

    site = PoolSite(
        portal, site=SITE, url="http://portal", store=store, clock=clock, wait=1, report=report, took=lambda: None,
        failpoint=die_at(dies_at),
    )  # fmt: skip
    try:
        site.pull()
        site.push()
    except Unavailable:
        os._exit(5)
    os._exit(0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = new_store(tmp_path / "site.db", terms=TERMS)
    store.replace_policy(OWN, actor="root", at=EPOCH)
    store.put_usage([run(1, 8), run(2, 8)], at=EPOCH)
    store.close()
    pool = new_pool_store(tmp_path / "pool.db")
    pool.sites.add(SITE, cluster=MINI, provider=ProviderName("naver"))
    pool.sites.set_documents(SITE, VISION, [], at=EPOCH)
    pool.close()
    yield Pair(tmp_path, port)


@pytest.mark.parametrize(
    ("whose", "place"),
    [
        ("site", "portal.documents-stored"),
        ("site", "portal.usage-sent"),
        ("portal", "answer documents"),
        ("portal", "usage-put"),
        ("portal", "answer usage"),
    ],
)
def test_killed_there_nothing_is_lost_and_nothing_doubled(pair: Pair, whose: str, place: str) -> None:
    portal = pair.portal(place if whose == "portal" else "")
    first = pair.site(place if whose == "site" else "")
    assert first == (-signal.SIGKILL if whose == "site" else 5)
    if whose == "portal":
        portal.join(10)
        assert portal.exitcode == -signal.SIGKILL
        portal = pair.portal()
    store = Store.open(pair.site_url, terms=TERMS)
    store.put_usage([run(1, 80)], at=EPOCH + timedelta(minutes=1))
    assert pair.site() == 0
    pool = PoolStore.open(pair.pool_url)
    assert usage_of(pool) == {1: repr(run(1, 80)), 2: repr(run(2, 8))}
    assert {project.name for project in store.policy().projects} == {"vision"}
    report = pool.sites.report(SITE)
    assert report
    assert report.report["revision"] == pool.sites.revision(SITE) > 0
    for one in (store, pool):
        one.close()
    portal.kill()
    portal.join(10)


def test_without_a_portal_and_with_a_wrong_key_the_site_is_told_why(pair: Pair) -> None:
    def ask(key: bytes) -> None:
        url = f"http://127.0.0.1:{pair.port}"
        with closing(HttpPortal(url, site=SITE, key=key, ca_file=None, clock=SystemClock())) as portal:
            portal.documents(revision=0, wait=0)

    with pytest.raises(Unavailable, match="does not answer"):
        ask(bytes(32))
    process = pair.portal()
    with pytest.raises(Refused, match="signature for site mini is wrong"):
        ask(bytes(32))
    process.kill()
    process.join(10)
