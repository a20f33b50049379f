"""Whatever the order of awards, changes, expiries, recalls and crashes, no pool is ever over-committed.

Hypothesis gives commands to the service over a real store in any order, sends some of them again, lets days pass and
ends the process at any write. After each step the calendar promises no day more than there is, and is exactly what
offers, grants and holds say. A command that was cut off has left nothing at all; one that was done answers the same
again.

`GPUAAS_SOAK=2000` makes so many examples instead of a few, here and in `test_nothing_lost`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, currently_in_test_context, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.names import CommandId, ProgrammeName
from slurm_gpuaas.domain.pool_grants import AwardLine, HoldKind, NotAwarded
from slurm_gpuaas.domain.programmes import Call
from slurm_gpuaas.domain.told import Told
from slurm_gpuaas.pool.service import PoolService
from slurm_gpuaas.pool.work import no_failpoint
from slurm_gpuaas.store.pool import PoolStore
from tests.stores import opened
from tests.unit.pool.scene import DIRECTOR, NAVER, NHN, OF, OFFICER, REVIEWER, START, Pool, programme, request
from tests.unit.pool.sites import policy_of

R = TypeVar("R")
SOAK = int(os.environ.get("GPUAAS_SOAK", "0"))
DAYS_OF_A_CALL = 6
RULES = programme(
    sizes=(1, 4, 8, 16),
    beyond=None,
    calls=tuple(
        Call(
            number=number,
            opens=START + timedelta(days=DAYS_OF_A_CALL * (number - 1)),
            closes=START + timedelta(days=DAYS_OF_A_CALL * number),
        )
        for number in range(1, 100)
    ),
    longest_days=40,
    answer_days=5,
    grace_days=4,
    warn_days=(7, 2),
)
SPAN = st.integers(0, 30)


class Killed(BaseException):
    """The process ended here."""


class KillAt:
    """Ends the process at the n-th write from now, 0: never."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, place: str, /) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed(place)


def counted(what: str) -> None:
    """For the statistics; a walk that is no example has none."""
    if currently_in_test_context():
        event(what)


Command = Callable[[PoolService, CommandId], Any]


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.file = Path(self.folder.name, "pool.db")
        self.pool = Pool.new(self.file, RULES, naver=16, nhn=24)
        self.given: list[tuple[CommandId, Command, Any]] = []
        self.said: dict[str, tuple[int, Any]] = {}
        """By cluster, the documents of its site as they were last seen, with their revision."""

    def teardown(self) -> None:
        self.pool.store.close()
        self.folder.cleanup()

    # -- How a command is given

    def give(self, command: Command, kill: int = 0) -> Any:
        """Give a command. Cut off, it is sent again by its caller, as a browser does that saw no answer."""
        id = self.pool.id
        before = self.everything()
        self.pool.failpoint = KillAt(kill)
        try:
            answer = command(self.pool.service, id)
        except Killed as killed:
            counted(f"killed at {killed}")
            self.restart()
            done = str(killed).endswith(": answer")
            assert (self.everything() != before) == done, f"killed at {killed}"
            return self.give(command) if not done else self.done(id, command, command(self.pool.service, id))
        except GpuaasError as refusal:
            counted(f"refused: {type(refusal).__name__}")
            assert self.everything() == before, refusal
            assert isinstance(refusal.message, Told), refusal
            return None
        finally:
            self.pool.failpoint = no_failpoint
        return self.done(id, command, answer)

    def done(self, id: CommandId, command: Command, answer: Any) -> Any:
        self.given.append((id, command, answer))
        return answer

    def restart(self) -> None:
        self.pool.store.close()
        self.pool = Pool(opened(PoolStore, self.file), self.pool.clock)

    def everything(self) -> dict[str, Any]:
        with self.pool.store._sessions.reading() as session:
            connection = session.connection()
            tables = [
                name
                for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
                if not name.startswith("sqlite_")
            ]
            return {name: connection.exec_driver_sql(f'SELECT * FROM "{name}"').fetchall() for name in tables}

    @property
    def register(self) -> Any:
        return self.pool.register

    # -- What people do

    @initialize(
        gpus=st.lists(st.sampled_from([4, 8, 16]), min_size=2, max_size=4),
        wait=st.booleans(),
        crowd=st.sampled_from([None, NAVER, NHN]),
    )
    def some_have_applied(self, gpus: list[int], wait: bool, crowd: Any = None) -> None:
        """With `crowd`, all of them are awarded that one share first, which mostly is too much for it."""
        for number, count in enumerate(gpus):
            self.applies(of=["snu", "kaist"][number % 2], gpus=count, least=1, after=number, days=20, kill=0)
        self.days_pass(DAYS_OF_A_CALL)
        if crowd:
            self.is_awarded(at=[crowd] * len(gpus), waits=False, fewer=False, kill=0)
        self.is_awarded(at=[NAVER, NHN], waits=wait, fewer=False, kill=0)

    @rule(
        of=st.sampled_from(sorted(OF)),
        gpus=st.sampled_from([1, 4, 8, 16, 32]),
        least=st.integers(1, 8),
        after=SPAN,
        days=SPAN,
        kill=st.integers(0, 9),
    )
    def applies(self, of: str, gpus: int, least: int, after: int, days: int, kill: int) -> None:
        call = (self.pool.clock.at - START).days // DAYS_OF_A_CALL + 1
        starts = self.pool.today + timedelta(days=after)
        asked = request(
            of, call=call, gpus=gpus, min_gpus=min(least, gpus), starts=starts, ends=starts + timedelta(days=days)
        )
        application = self.give(lambda service, id: service.submit(id, OF[of], asked), kill)
        if application is not None:
            self.give(lambda service, id: service.begin_review(id, OFFICER, application.id))
            points = {"impact": gpus, "plan": days}
            self.give(lambda service, id: service.review(id, REVIEWER, application.id, points, ""))

    @rule(
        at=st.lists(st.sampled_from([NAVER, NHN]), min_size=1, max_size=3),
        waits=st.booleans(),
        fewer=st.booleans(),
        kill=st.integers(0, 25),
    )
    def is_awarded(self, at: list[Any], waits: bool, fewer: bool, kill: int) -> None:
        """A round over what can be decided; it need not fit."""
        open_ones = self.register.applications.all(state=["in review", "waiting"])
        lines = tuple(
            AwardLine(application=one.id, share=share, gpus=8 if fewer else one.request.gpus)
            for one, share in zip(open_ones, at, strict=False)
        )
        others = tuple(NotAwarded(application=one.id, why="No room.") for one in open_ones[len(lines) :] if waits)
        national = ProgrammeName("national")
        if lines or others:
            award = self.give(lambda service, id: service.draft_award(id, OFFICER, national, lines, others))
            if award is not None:
                self.give(lambda service, id: service.approve_award(id, DIRECTOR, award.id), kill)

    @rule(which=st.integers(0), kill=st.integers(0, 12))
    def approves_an_old_draft(self, which: int, kill: int) -> None:
        drafts = self.register.awards.all()
        if drafts:
            draft = drafts[which % len(drafts)]
            self.give(lambda service, id: service.approve_award(id, DIRECTOR, draft.id), kill)

    @rule(which=st.integers(0), yes=st.integers(0, 4), kill=st.integers(0, 12))
    def answers_an_offer(self, which: int, yes: int, kill: int) -> None:
        offers = self.register.offers.all()
        if offers:
            offer = offers[-1 - which % len(offers)]
            actor = OF[offer.organisation]
            if yes:
                self.give(lambda service, id: service.accept_offer(id, actor, offer.id), kill)
            else:
                self.give(lambda service, id: service.decline_offer(id, actor, offer.id, "No."), kill)

    @rule(which=st.integers(0), gpus=st.sampled_from((7, 8, 16, 24)), days=st.integers(-20, 40), kill=st.integers(0, 9))
    def changes_a_grant(self, which: int, gpus: int, days: int, kill: int) -> None:
        grants = self.register.grants.all()
        if grants:
            grant = grants[-1 - which % len(grants)]
            actor, ends = OF[grant.organisation], grant.ends + timedelta(days=days)
            change = self.give(lambda service, id: service.ask_change(id, actor, grant.id, gpus, ends, "So."))
            if change is not None and which % 4:  # the others wait, while more happens to their grants
                self.decides_a_change(which, kill)

    @rule(which=st.integers(0), kill=st.integers(0, 9))
    def decides_a_change(self, which: int, kill: int) -> None:
        asked = self.register.changes.all(state="asked")
        if asked:
            change = asked[-1 - which % len(asked)]
            if self.give(lambda service, id: service.approve_change(id, DIRECTOR, change.id), kill) is None:
                self.give(lambda service, id: service.refuse_change(id, DIRECTOR, change.id, "No."))

    @rule(which=st.integers(0), how=st.integers(0, 3), some=st.integers(0, 12), kill=st.integers(0, 9))
    def gives_up_or_loses_a_grant(self, which: int, how: int, some: int, kill: int) -> None:
        grants = self.register.grants.all()
        if not grants:
            return
        grant = grants[-1 - which % len(grants)]
        last_day = self.pool.today + timedelta(days=some - 1)
        commands: list[Command] = [
            lambda service, id: service.recall_grant(id, DIRECTOR, grant.id, "Idle."),
            lambda service, id: service.shrink_grant(id, DIRECTOR, grant.id, max(1, some), "Idle."),
            lambda service, id: service.return_grant(id, OF[grant.organisation], grant.id, last_day, "Done."),
            lambda service, id: service.return_grant(
                id, OF[grant.organisation], grant.id, self.pool.today - timedelta(days=1), "Done."
            ),
        ]
        self.give(commands[how], kill)

    @rule(share=st.sampled_from([NAVER, NHN]), gpus=st.integers(1, 20), after=SPAN, days=SPAN, kill=st.integers(0, 6))
    def leases(self, share: Any, gpus: int, after: int, days: int, kill: int) -> None:
        starts = self.pool.today + timedelta(days=after)
        ends = starts + timedelta(days=days)
        self.give(
            lambda service, id: service.hold(id, DIRECTOR, HoldKind.LEASE, share, gpus, starts, ends, "Own use."), kill
        )

    @rule(which=st.integers(0), kill=st.integers(0, 5))
    def gives_a_lease_back(self, which: int, kill: int) -> None:
        holds = self.register.holds.all()
        if holds:
            hold = holds[which % len(holds)]
            self.give(lambda service, id: service.release(id, DIRECTOR, hold.id, "Back."), kill)

    @rule(share=st.sampled_from([NAVER, NHN]), capacity=st.integers(0, 40), kill=st.integers(0, 4))
    def has_other_capacity(self, share: Any, capacity: int, kill: int) -> None:
        new = self.register.shares.get(share).model_copy(update={"capacity": capacity})
        self.give(lambda service, id: service.put_share(id, DIRECTOR, new), kill)

    @rule(days=st.integers(1, 12))
    def days_pass(self, days: int) -> None:
        self.pool.clock.forward(timedelta(days=days))

    @rule(kill=st.integers(0, 20))
    def day_is_looked_at(self, kill: int) -> None:
        """In one go or cut off: nothing is left over, and nothing is done twice."""
        self.pool.failpoint = KillAt(kill)
        try:
            self.pool.service.tick()
        except Killed:
            self.restart()
            assert self.pool.faults() == []
        self.pool.failpoint = no_failpoint
        self.pool.service.tick()
        before = self.everything()
        assert self.pool.service.tick() == 0
        assert self.everything() == before

    @precondition(lambda self: self.given)
    @rule(which=st.integers(0))
    def repeats_a_command(self, which: int) -> None:
        id, command, answer = self.given[which % len(self.given)]
        before = self.everything()
        assert command(self.pool.service, id) == answer
        assert self.everything() == before

    @invariant()
    def nothing_is_overcommitted(self) -> None:
        assert self.pool.faults() == []
        for share in self.register.shares.all():
            revision, documents = self.pool.service.documents(share.cluster)
            before = self.said.get(share.cluster, (0, documents))
            assert documents == before[1] or revision > before[0], "its site would never hear of it"
            self.said[share.cluster] = revision, documents
            assert policy_of(documents, share).overcommitted(self.pool.clock.now()) == ()
            promised = {one.holder for one in self.register.calendar.of_share(share.name, since=self.pool.today)}
            assert promised <= self.may_hold(), "it is over, and keeps its GPUs"

    def may_hold(self) -> set[str]:
        """Who has GPUs from today on; by states alone, whatever commitment a noun says it has."""
        register = self.register
        return {
            *(one.id for one in register.offers.all(state="made")),
            *(one.id for one in register.grants.all(state=["scheduled", "active"])),
            *(one.id for one in register.holds.all() if not one.released),
        }


AnyOrder.TestCase.settings = settings(
    max_examples=SOAK or 8,
    stateful_step_count=50 if SOAK else 20,
    deadline=None,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
TestAnyOrder = AnyOrder.TestCase


@pytest.mark.parametrize("how", range(4))
def test_what_is_given_up_or_taken_is_free_at_once_and_once(how: int) -> None:
    machine = AnyOrder()
    try:
        machine.some_have_applied(gpus=[8, 8], wait=True)
        machine.answers_an_offer(which=0, yes=1, kill=0)
        machine.days_pass(10)
        machine.day_is_looked_at(kill=0)
        for kill in (4, 0):
            machine.nothing_is_overcommitted()
            machine.gives_up_or_loses_a_grant(which=0, how=how, some=3, kill=kill)
        machine.nothing_is_overcommitted()
    finally:
        machine.teardown()


@pytest.mark.parametrize("kill", [0, 2])
def test_what_a_hold_kept_is_free_when_it_is_given_back(kill: int) -> None:
    machine = AnyOrder()
    try:
        machine.leases(share=NHN, gpus=20, after=0, days=9, kill=0)
        machine.nothing_is_overcommitted()
        assert machine.pool.service.room(NHN, machine.pool.today, machine.pool.today) == 4
        machine.gives_a_lease_back(which=0, kill=kill)
        machine.nothing_is_overcommitted()
        assert machine.pool.service.room(NHN, machine.pool.today, machine.pool.today) == 24
    finally:
        machine.teardown()
