"""A portal whose store was lost and made again of a backup, which was taken while it was written to."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gpuaas.domain.accounts import Office
from slurm_gpuaas.domain.audit_chain import AuditEvent
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.main import command
from slurm_gpuaas.portal.pool import BOOK_EVERY
from slurm_gpuaas.store.pool import PoolStore
from tests.pools import ORIGIN, PASSWORD, WEAKEST, Browser
from tests.stores import opened
from tests.unit.pool.scene import CHOI, START, Pool
from tests.unit.portal.test_pool import Scene, rate

LEAST_WRITES = 10


def portal(folder: Path, *arguments: str) -> str:
    """What `gpuaas-portal` says of the store in the folder."""
    config = folder / "portal.yaml"
    config.write_text(f"public_url: {ORIGIN}\nstore: {{url: 'sqlite:///{folder}/pool.db'}}\n")
    done = CliRunner().invoke(command, ["--config", str(config), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def back_up_under_writes(scene: Scene, folder: Path, file: Path) -> None:
    """Entries of the audit trail are written two by two meanwhile."""
    over, written = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        while not over.is_set():
            with scene.store.transaction():
                for action in ("first", "second"):
                    scene.store.audit.append(AuditEvent(at=START, actor="p-000001", action=action, subject="x"))
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(LEAST_WRITES):
            assert written.acquire(timeout=10)
        portal(folder, "backup", str(file))
        assert written.acquire(timeout=10)
    finally:
        over.set()
        writer.join()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Of the machine that is lost, and of the clean one."""
    lost, clean = tmp_path / "lost", tmp_path / "clean"
    lost.mkdir()
    clean.mkdir()
    return lost, clean


def test_it_goes_on_as_it_was_and_hears_again_what_came_after(folders: tuple[Path, Path], tmp_path: Path) -> None:
    lost, clean = folders
    old = Scene(Pool.new(lost / "pool.db"))
    office = Office(role=PortalRole.GOVERNMENT)
    accounts = Accounts(old.store, old.clock, Config(public_url=ORIGIN).sessions, hasher=WEAKEST)
    accounts.create(login=UserName("kim"), name="김", email="kim@example.org", office=office, password=PASSWORD)
    old.server.keeper.add_rate(rate())
    grant = old.granted("mint")
    old.pool.until(grant.starts)
    old.clock.at += BOOK_EVERY
    old.server.turn()
    assert old.report(1, grant, hours=1) == 1
    old.clock.at += BOOK_EVERY
    old.server.turn()
    grants, kept = old.store.register.grants.all(), list(old.store.ledger.entries())
    assert grants and kept
    back_up_under_writes(old, lost, tmp_path / "backup")

    # After the backup: the job ran on, and the site was told of a member more.
    assert old.report(2, grant, hours=2, after=1) == 2
    old.pool.service.set_members(old.pool.id, CHOI, grant.id, ())
    old.clock.at += BOOK_EVERY
    old.server.turn()
    held, booked = old.documents()["revision"], old.booked()
    old.store.close()

    portal(clean, "restore", str(tmp_path / "backup"))
    new = Scene(Pool(opened(PoolStore, clean / "pool.db"), clock=old.clock))
    assert new.store.register.grants.all() == grants
    assert list(new.store.ledger.entries()) == kept
    verdict = new.store.audit.verify()
    assert verdict.faults == ()
    pairs = [len(new.store.audit.newest(action=action, limit=10_000)) for action in ("first", "second")]
    assert pairs[0] == pairs[1] >= LEAST_WRITES
    assert Browser(new.app).sign_in("kim").status_code == 303

    new.server.turn()
    told = new.documents(held)
    assert told["revision"] > held
    assert [one["user"] for one in told["documents"] if one["kind"] == "Member"] == ["kim-mint"]
    new.clock.at -= BOOK_EVERY  # the row is of the hour in which it was told first
    assert new.report(3, grant, hours=2, after=2) == 1, "the site has told more than is here"
    for _ in range(2):  # its answer was lost
        assert new.report(2, grant, hours=2, after=1) == 2
    new.clock.at += 2 * BOOK_EVERY
    new.server.turn()
    assert new.booked() == booked
    new.store.close()
