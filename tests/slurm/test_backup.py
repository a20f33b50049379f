"""Backup and restore of a store on a real PostgreSQL server, with its own programs, by the daemon's command."""

from __future__ import annotations

import json

import pytest

from slurm_gpuaas.testbed.instance import Instance

pytestmark = pytest.mark.postgres

URL = "postgresql://postgres@/{}?host=/run/postgresql"
FILE = "/tmp/backup-test/gpuaas.backup"


def test_a_store_on_postgres_is_dumped_and_made_again_in_an_empty_database(mini: Instance, postgres_url: str) -> None:
    def sql(database: str, statement: str) -> str:
        argv = ["psql", "-h", "/run/postgresql", "-d", database, "-v", "ON_ERROR_STOP=1", "-tAc", statement]
        return mini.exec(argv, user="postgres", cwd="/").stdout.strip()

    def gpuaasd(database: str, *command: str, check: bool = True) -> str:
        mini.write("/tmp/backup-test.yaml", json.dumps({"cluster": "mini", "store": {"url": URL.format(database)}}))
        done = mini.exec(["gpuaasd", "--config", "/tmp/backup-test.yaml", *command], user="postgres", check=check)
        return done.stdout + done.stderr

    mini.make_folder("/tmp/backup-test", owner="postgres")
    for database in ("old", "new"):
        sql("postgres", f"CREATE DATABASE {database}")
    code = f"from slurm_gpuaas.store import Store; Store.open({URL.format('old')!r}).close()"
    mini.exec(["/opt/gpuaas/venv/bin/python", "-c", code], user="postgres", env={"PYTHONPATH": "/opt/gpuaas/src"})
    sql("old", "INSERT INTO organisation (name, title, weight, priority) VALUES ('hanbit', '한빛', 1, 0)")

    assert "revision" in gpuaasd("old", "backup", FILE)
    assert "exists" in gpuaasd("old", "backup", FILE, check=False)
    gpuaasd("new", "restore", FILE)
    assert sql("new", "SELECT title FROM organisation") == "한빛"
    assert "tables already" in gpuaasd("new", "restore", FILE, check=False)
    for database in ("old", "new"):
        sql("postgres", f"DROP DATABASE {database}")
