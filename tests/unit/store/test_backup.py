"""A backup is one moment of the store, whoever writes meanwhile, and a store made of it is that store."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from alembic import command
from click.testing import CliRunner

from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.backup import BackupFailed, backup, restore
from slurm_gpuaas.store.backup_commands import add_backup
from slurm_gpuaas.store.engine import POOL, SITE, migrations, open_engine

AT = datetime(2027, 1, 31, tzinfo=UTC)


def write(store: Store, subject: str) -> None:
    """Two entries in one transaction: a store never holds one of them alone."""
    entry = AuditEntry(at=AT, actor="root", action="first", subject=subject)
    with store.transaction():
        store.audit.append(entry)
        store.audit.append(AuditEntry(at=AT, actor="root", action="second", subject=subject))


def subjects(url: str, action: str) -> list[str]:
    with closing(Store.open(url)) as store:
        return [entry.subject for entry in store.audit.newest(action=action, limit=100_000)]


def test_a_backup_under_load_is_one_moment_and_a_store_of_it_goes_on(store: Store, url: str, tmp_path: Path) -> None:
    write(store, "before")
    over = threading.Event()
    written: list[str] = []

    def load() -> None:
        while not over.is_set():
            write(store, name := f"{len(written)}")
            written.append(name)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        known = []
        for number in range(5):
            while len(written) < 20 * (number + 1):
                assert thread.is_alive()
            known.append(len(written))
            backup(url, tmp_path / f"{number}.backup", SITE)
    finally:
        over.set()
        thread.join()
    for number, least in enumerate(known):
        restored = f"sqlite:///{tmp_path}/{number}.db"
        restore(tmp_path / f"{number}.backup", restored, SITE)
        found = subjects(restored, "first")
        assert found == subjects(restored, "second")
        assert least <= len(found) - 1 <= len(written)
        assert set(written[:least]) | {"before"} <= set(found), "what was committed before is in it"
    with closing(Store.open(restored)) as again:
        write(again, "after")
    assert subjects(restored, "second")[0] == "after"


def test_a_backup_is_for_its_owner_only_and_one_file(store: Store, url: str, tmp_path: Path) -> None:
    write(store, "one")
    (tmp_path / "out").mkdir()
    taken = backup(url, tmp_path / "out" / "a.backup", SITE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.backup"]
    assert stat.S_IMODE(taken.file.stat().st_mode) == 0o600
    assert taken.size == taken.file.stat().st_size


def test_nothing_that_exists_is_overwritten(store: Store, url: str, tmp_path: Path) -> None:
    write(store, "one")
    file = tmp_path / "a.backup"
    file.write_text("precious")
    with pytest.raises(Conflict, match="exists"):
        backup(url, file, SITE)
    assert file.read_text() == "precious"
    file.unlink()
    backup(url, file, SITE)
    write(store, "two")
    with pytest.raises(Conflict, match="exists"):
        restore(file, url, SITE)
    assert subjects(url, "first") == ["two", "one"]


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 : len(content) : 97] = b"\xff" * len(range(4096, len(content), 97))
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda file: file.write_text("dear diary"), InvalidInput),
        (lambda file: file.write_bytes(b""), InvalidInput),
        (lambda file: file.write_bytes(b"PGDMP\x01\x0f"), InvalidInput),
        (lambda file: file.unlink(), InvalidInput),
        (damage, BackupFailed),
    ],
)
def test_what_is_no_sound_backup_makes_no_store(
    store: Store, url: str, tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception]
) -> None:
    file, target = tmp_path / "a.backup", tmp_path / "new.db"
    write(store, "one")
    backup(url, file, SITE)
    spoil(file)
    with pytest.raises(error):
        restore(file, f"sqlite:///{target}", SITE)
    assert not target.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_store_of_another_program_is_refused_both_ways(store: Store, url: str, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="gpuaas-portal"):
        backup(url, tmp_path / "a.backup", POOL)
    backup(url, tmp_path / "a.backup", SITE)
    with pytest.raises(Conflict, match="gpuaas-portal"):
        restore(tmp_path / "a.backup", f"sqlite:///{tmp_path}/new.db", POOL)
    assert not (tmp_path / "new.db").exists()


def test_where_no_store_is_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no store"):
        backup(f"sqlite:///{tmp_path}/none.db", tmp_path / "a.backup", SITE)
    assert list(tmp_path.iterdir()) == []


def test_a_backup_of_an_older_program_is_brought_up_to_date(store: Store, url: str, tmp_path: Path) -> None:
    write(store, "one")
    command.downgrade(migrations(open_engine(url)), "-1")
    assert backup(url, tmp_path / "a.backup", SITE).revision == "0011"
    restore(tmp_path / "a.backup", f"sqlite:///{tmp_path}/new.db", SITE)
    assert subjects(f"sqlite:///{tmp_path}/new.db", "first") == ["one"]
    assert backup(f"sqlite:///{tmp_path}/new.db", tmp_path / "b.backup", SITE).revision == "0012"


def test_the_commands_say_what_they_did(store: Store, url: str, tmp_path: Path) -> None:
    group = click.Group("gpuaasd")
    add_backup(group, SITE, str)
    write(store, "one")
    file = str(tmp_path / "a.backup")
    done = CliRunner().invoke(group, ["backup", file], obj=url)
    assert (done.exit_code, "revision 0012" in done.output) == (0, True), done.output
    done = CliRunner().invoke(group, ["restore", file], obj=f"sqlite:///{tmp_path}/new.db")
    assert done.exit_code == 0, done.output
    assert subjects(f"sqlite:///{tmp_path}/new.db", "first") == ["one"]
