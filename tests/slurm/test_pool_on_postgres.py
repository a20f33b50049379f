"""The pool's store on a real PostgreSQL server: its tables, its rules under writers at once, and the way of a grant."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import make_url

from slurm_gpuaas.domain.audit_chain import AuditEvent
from slurm_gpuaas.domain.names import ClusterName, ProviderName
from slurm_gpuaas.portal.pool import BOOK_EVERY
from slurm_gpuaas.store.pool import PoolStore
from slurm_gpuaas.store.pool.register import Shelf
from slurm_gpuaas.testbed.instance import Instance
from tests.fakes import EPOCH
from tests.slurm.databases import database
from tests.unit.pool.scene import DIRECTOR, KIM, Pool, programme
from tests.unit.pool.test_idle_service import (  # noqa: F401
    grant,
    ladder,
    test_a_grant_that_nobody_uses_is_warned_three_times_and_recalled_and_who_waits_is_offered_it,
    test_what_the_site_did_not_say_is_never_idle,
)
from tests.unit.pool.test_service import (  # noqa: F401
    test_a_command_sent_twice_is_done_once_and_its_id_is_nobody_elses,
    test_a_command_whose_audit_entry_cannot_be_written_is_not_done,
    test_a_login_stays_and_is_one_persons,
    test_a_sites_revision_grows_exactly_when_its_documents_change,
    test_free_gpus_go_down_the_waiting_list_by_score_and_whoever_nothing_fits_is_passed_over,
    test_the_whole_way,
    test_two_rounds_that_fit_each_alone_do_not_fit_together,
)
from tests.unit.portal.test_pool import SITE, Scene, rate
from tests.unit.store.test_pool_ledger import *  # noqa: F403
from tests.unit.store.test_pool_store import (  # noqa: F401
    test_from_empty_to_head_leaves_nothing_for_autogenerate,
    test_upgrading_again_changes_nothing,
)

pytestmark = pytest.mark.postgres

AT_ONCE = 6
TIMES = 5
COPY = """
from pathlib import Path
from slurm_gpuaas.store.backup import backup, restore
from slurm_gpuaas.store.engine import POOL
backup({old!r}, Path("/tmp/pool.backup"), POOL)
restore(Path("/tmp/pool.backup"), {new!r}, POOL)
"""


@pytest.fixture(scope="session")
def begun(postgres_url: str) -> Iterator[str]:
    """A database that is copied for each test: the migrations take longer than most of them."""
    with database(postgres_url) as url:
        pool = Pool(PoolStore.open(url))
        pool._begin(programme(), 32, 64)
        pool.store.close()
        yield url


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """An empty database of its own."""
    with database(postgres_url) as url:
        yield url


@pytest.fixture
def pool(postgres_url: str, begun: str) -> Iterator[Pool]:
    with database(postgres_url, like=begun) as url:
        pool = Pool(PoolStore.open(url))
        yield pool
        pool.store.close()


def at_once(act: Callable[[int], object]) -> None:
    """In threads that begin together, each several times; what one raises is raised."""
    begin = threading.Barrier(AT_ONCE)
    raised: list[Exception] = []

    def run(number: int) -> None:
        try:
            begin.wait(10)
            for time in range(TIMES):
                act(number * TIMES + time)
        except Exception as error:  # noqa: BLE001  # for the thread of the test
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def test_who_reads_and_writes_does_so_alone(pool: Pool) -> None:
    """A site's key is replaced by many at once: each replacement counts, as on SQLite."""
    sites = pool.store.sites
    sites.add(SITE, cluster=ClusterName("naver"), provider=ProviderName("naver"))
    at_once(lambda _: sites.replace_key(SITE))
    found = sites.find(SITE)
    assert found and found.key_number == 1 + AT_ONCE * TIMES


def test_entries_of_many_writers_are_one_chain(pool: Pool) -> None:
    def add(number: int) -> None:
        with pool.store.transaction():
            pool.store.register.next_number("audit-test")
            pool.store.audit.append(AuditEvent(at=EPOCH, actor="p-000001", action="test", subject=f"{number}"))

    at_once(add)
    verdict = pool.store.audit.verify()
    assert (verdict.entries, verdict.faults) == (AT_ONCE * TIMES, ())


def test_readings_of_one_snapshot_are_of_one_moment(pool: Pool) -> None:
    def write() -> None:
        pool.service.put_identity(pool.id, KIM, KIM.person, "kim", ())  # type: ignore[arg-type]

    identities = pool.register.identities
    with pool.store.ledger.snapshot():
        before = len(identities.all())
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        assert len(identities.all()) == before
    assert len(identities.all()) == before + 1


def nouns(store: PoolStore) -> dict[str, object]:
    """Everything that the register holds, as the store says outside of a transaction: much of it is remembered."""
    register = store.register
    shelves = {name: shelf.all() for name, shelf in vars(register).items() if isinstance(shelf, Shelf)}
    return {**shelves, "terms": store.ledger.terms(), "rates": store.ledger.rates()}


def test_a_grant_from_application_to_recall_with_what_it_cost(pool: Pool, mini: Instance, postgres_url: str) -> None:
    scene = Scene(pool)
    url = pool.store._engine.url.render_as_string(hide_password=False)

    def what_is_remembered_is_so() -> None:
        with closing(PoolStore.open(url)) as fresh:
            assert nouns(pool.store) == nouns(fresh)

    what_is_remembered_is_so()
    scene.server.keeper.add_rate(rate())
    given = scene.granted("mint")
    what_is_remembered_is_so()
    pool.until(given.starts + timedelta(days=1))
    scene.server.turn()
    (document,) = (one for one in scene.documents()["documents"] if one["kind"] == "Grant")
    assert document["gpus"] == 16
    for _ in range(2):  # its answer was lost
        scene.report(1, given, hours=10)
    scene.clock.at += BOOK_EVERY
    scene.server.turn()
    assert scene.booked() == (8 * 36_000, 80 * 4_000 * 25 // 1_000)
    pool.service.recall_grant(pool.id, DIRECTOR, given.id, "not used")
    scene.server.turn()
    (document,) = (one for one in scene.documents()["documents"] if one["kind"] == "Grant")
    assert document["gpus"] == 0
    what_is_remembered_is_so()
    assert pool.store.audit.verify().faults == ()
    assert pool.faults() == []

    with database(postgres_url) as copy:
        old, new = (f"postgresql://postgres@/{make_url(one).database}?host=/run/postgresql" for one in (url, copy))
        mini.exec(
            ["/opt/gpuaas/venv/bin/python", "-c", COPY.format(old=old, new=new)],
            user="postgres",
            cwd="/",
            env={"PYTHONPATH": "/opt/gpuaas/src"},
        )
        with closing(PoolStore.open(copy)) as restored:
            assert nouns(restored) == nouns(pool.store)
            assert list(restored.ledger.entries()) == list(pool.store.ledger.entries())
            assert restored.audit.last() == pool.store.audit.last()
