"""The migrations make exactly the tables that the code uses, from nothing, and the last one can be taken back."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, bindparam, inspect, text

from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Unavailable
from slurm_gpuaas.store import Store
from slurm_gpuaas.store.columns import UtcDateTime
from slurm_gpuaas.store.engine import migrations, open_engine, upgrade
from slurm_gpuaas.store.tables import Table


def test_from_empty_to_head_leaves_nothing_for_autogenerate(url: str) -> None:
    engine = open_engine(url)
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_every_check_of_the_models_is_in_the_database(url: str) -> None:
    """Autogenerate does not compare CHECK constraints, so a new enum member could miss its migration."""
    engine = open_engine(url)
    upgrade(engine)
    inspector = inspect(engine)
    for table in Table.metadata.sorted_tables:
        found = {str(check["name"]): check["sqltext"] for check in inspector.get_check_constraints(table.name)}
        wanted = {str(c.name): str(c.sqltext) for c in table.constraints if isinstance(c, CheckConstraint)}
        assert found.keys() == wanted.keys(), table.name
        for name, condition in wanted.items():
            literals = re.findall(r"'([^']*)'", condition)
            assert sorted(re.findall(r"'([^']*)'", found[name])) == sorted(literals), name


def test_upgrading_again_changes_nothing(url: str) -> None:
    Store.open(url).close()
    Store.open(url).close()


def test_the_last_revision_can_be_taken_back_and_made_again(url: str) -> None:
    engine = open_engine(url)
    upgrade(engine)
    command.downgrade(migrations(engine), "-1")
    command.upgrade(migrations(engine), "head")
    assert set(inspect(engine).get_table_names()) == {*Table.metadata.tables, "alembic_version"}


def test_usage_that_is_there_already_is_numbered_each_run_once(url: str) -> None:
    engine = open_engine(url)
    command.upgrade(migrations(engine), "0011")
    run = text(
        'INSERT INTO usage_record (cluster, job_id, started, "user", account, qos, partition, gpus, gpu_seconds, '
        "state) VALUES ('mini', :job, :started, 'a', 'a', 'q', 'p', 1, 1, '')"
    ).bindparams(bindparam("started", type_=UtcDateTime()))
    with engine.begin() as connection:
        for job, hour in ((2, 9), (1, 10), (3, 9)):
            connection.execute(run, {"job": job, "started": datetime(2027, 1, 4, hour, tzinfo=UTC)})
    upgrade(engine)
    with engine.connect() as connection:
        numbered = connection.execute(text("SELECT job_id, change FROM usage_record ORDER BY change")).all()
    assert [tuple(row) for row in numbered] == [(2, 1), (3, 2), (1, 3)]
    engine.dispose()


def test_a_store_of_a_newer_program_is_left_alone(url: str) -> None:
    engine = open_engine(url)
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match="9999"):
        upgrade(engine)


def test_a_store_that_cannot_be_opened_says_so_without_the_password() -> None:
    with pytest.raises(Unavailable) as caught:
        Store.open("sqlite:////nowhere/at/all/store.db")
    assert "/nowhere/at/all" in caught.value.message


def test_a_file_that_is_no_database_is_told_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("This is not a database, it is a text of some length.\n" * 40)
    with pytest.raises(Unavailable, match=r"notes\.txt cannot be used: file is not a database"):
        Store.open(f"sqlite:///{file}")


@pytest.mark.parametrize("url", ["mysql://u@h/d", "not a url"])
def test_a_url_of_another_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        open_engine(url)


def test_sqlite_keeps_references_and_survives_a_power_cut(tmp_path: object) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/s.db")
    with engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        }
    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}
