"""This cluster as a site of the pool: takes the portal's documents, tells it usage and how the site is.

Three ticks, each safe to be cut off anywhere and to be run again: `pull` (long poll), `push`, `publish`. While the
portal is away the site goes on with the set it has; nothing here is needed for a job to run.
"""

from __future__ import annotations

import pwd
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from pydantic import JsonValue, ValidationError

from slurm_gpuaas.api.models import PortalStatus
from slurm_gpuaas.api.people import MAX_FILE_BYTES, PeopleState, WantedPeople
from slurm_gpuaas.api.pool_sites import (
    MAX_REQUEST_BYTES,
    MOST_FINDINGS,
    MOST_ROWS,
    Finding,
    SiteReport,
    UsagePush,
    UsageRow,
)
from slurm_gpuaas.daemon.portal_client import Portal
from slurm_gpuaas.domain.audit import AuditEntry
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict, InvalidInput
from slurm_gpuaas.domain.from_portal import PORTAL_DOCUMENT, LeftOut, PortalSet
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import SiteName, UserName
from slurm_gpuaas.domain.policy import KST, Grant, Member, Organisation, Project
from slurm_gpuaas.domain.words import printable
from slurm_gpuaas.quota.controller import Failpoint, no_failpoint
from slurm_gpuaas.slurm.files import read_dropped, write_atomically
from slurm_gpuaas.store import Store

ACTOR: Final = "gpuaasd/portal"
ACKNOWLEDGED: Final = "portal.usage-acknowledged"
"""Mark in the store: number of the newest change of usage that the portal said it has. The portal is right about it."""
HEARD: Final = "portal.heard"
"""Mark in the store: when the portal last answered."""
LOGINS_WITHIN_S: Final = 3.0
"""So long after the last login that it made `gpuaas-people` is waited for."""
LOOK_S: Final = 0.1
HEARD_EVERY: Final = timedelta(seconds=30)
MOST_LOGGED: Final = 20
"""Of what is left out; status and report have all."""
MOST_PUSHES: Final = 200
"""In one tick; the next one goes on."""

log = structlog.get_logger(__name__)


def knows_login(user: UserName) -> bool:
    """Whether this host has the login, wherever from."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


class PoolSite:
    """Args:
    wait: seconds that the portal may keep a poll.
    report: how the site is now, without what was left out.
    took: called after new documents were stored.
    metered: until when all runs that Slurm knows are in the store; None = not known.
    people_file: where wanted logins go for `gpuaas-people`, and `people_state` what it did; None = nobody keeps them.
    knows: whether this host has a login.
    pause: waits for so many seconds.
    """

    def __init__(
        self,
        portal: Portal,
        *,
        site: SiteName,
        url: str,
        store: Store,
        clock: Clock,
        wait: int,
        report: Callable[[tuple[Finding, ...]], SiteReport],
        took: Callable[[], None],
        metered: Callable[[], datetime | None] = lambda: None,
        people_file: Path | None = None,
        people_state: Path | None = None,
        failpoint: Failpoint = no_failpoint,
        knows: Callable[[UserName], bool] = knows_login,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._portal = portal
        self._site = site
        self._url = url
        self._store = store
        self._clock = clock
        self._wait = wait
        self._report = report
        self._took = took
        self._metered = metered
        self._people_file = people_file
        self._people_state = people_state
        self._failpoint = failpoint
        self._skew = timedelta(0)
        self._knows = knows
        self._pause = pause
        self._publishing = threading.Lock()
        """The policy's thread publishes before it goes on, and the people's when it is woken: often at one moment."""
        self._published: WantedPeople | None = None
        self._given_up: frozenset[UserName] = frozenset()
        """Logins that did not come; they are not waited for again."""

    # -- Documents down

    def pull(self) -> None:
        """Ask for documents that are newer than ours, and keep them.

        Raises:
            Conflict: the portal holds an older set than this site was told before.
            Unavailable, Refused: see `Portal`.
        """
        revision, _ = self._store.portal.known()
        found = self._portal.documents(revision=revision, wait=self._wait)
        self._heard(found.now)
        if not found.changed:
            return
        if found.revision <= revision:
            raise Conflict(
                f"The portal holds revision {found.revision} of this site's documents, and told {revision} before.",
                way_out="The site keeps what it has; see whether the portal opened the right store.",
            )
        now = self._clock.now()
        documents, people, unreadable = read_set(found.documents, found.people)
        self._failpoint("portal.documents-read")
        with self._store.transaction():
            self._store.portal.put(
                PortalSet(
                    revision=found.revision,
                    documents=documents,
                    people=people,
                    unreadable=unreadable,
                    received_at=now,
                    as_of=now.astimezone(KST).date(),
                )
            )
            self._store.audit.append(
                AuditEntry(
                    at=now,
                    actor=ACTOR,
                    action="portal.documents",
                    subject=f"revision {found.revision}",
                    evidence={"documents": len(documents), "people": len(people), "unreadable": len(unreadable)},
                )
            )
        self._failpoint("portal.documents-stored")
        left_out = self._store.in_force().left_out
        log.info("portal.documents", revision=found.revision, documents=len(documents), left_out=len(left_out))
        for one in left_out[:MOST_LOGGED]:
            log.warning("portal.left-out", kind=one.kind, name=one.name, why=one.why)
        self._took()

    def _heard(self, portal_now: datetime) -> None:
        now = self._clock.now()
        self._skew = portal_now - now
        heard = self.heard_at
        if heard is None or not timedelta(0) <= now - heard < HEARD_EVERY:
            self._store.set_mark(HEARD, now.isoformat(), at=now)

    # -- Usage and reports up

    def push(self) -> None:
        """Tell the portal usage that it does not have, and how the site is.

        Raises:
            Conflict: the portal acknowledges nothing of what it is sent.
            Unavailable, Refused: see `Portal`.
        """
        through = self._metered()  # looked at first: what is metered from here on may not be told below
        for _ in range(MOST_PUSHES):
            after = self.acknowledged
            changes = self._store.usage_changes(after=after, limit=MOST_ROWS)
            # Without rows it asks whether the portal still has what it acknowledged: one made of a backup has not.
            push = _fitting(UsagePush(after=after, rows=tuple(map(UsageRow.of, changes))))
            self._failpoint("portal.usage-read")
            acknowledged = self._portal.push(push).acknowledged
            self._failpoint("portal.usage-sent")
            if acknowledged == after:
                if not changes:
                    break
                raise Conflict(f"The portal does not acknowledge usage after change {after}.")
            self._store.set_mark(ACKNOWLEDGED, str(acknowledged), at=self._clock.now())
            self._failpoint("portal.usage-acknowledged")
        else:
            through = None  # there is more
        report = self._report(self._findings()).model_copy(update={"used_through": through})
        self._heard(self._portal.report(report).now)

    @property
    def acknowledged(self) -> int:
        return int(self._store.mark(ACKNOWLEDGED) or 0)

    def _findings(self) -> tuple[Finding, ...]:
        left_out = (Finding(kind=one.kind, name=one.name, why=one.why[:500]) for one in self._store.in_force().left_out)
        people = (Finding(kind="Person", name=one.user, why=one.why) for one in self._people().findings)
        return (*left_out, *people)[:MOST_FINDINGS]

    # -- People

    def publish(self) -> None:
        """Write who should have a login: the portal's people who are members of a project that is in force here."""
        if self._people_file is None:
            return
        with self._publishing:
            newest = self._store.portal.newest()
            if newest is None:
                return
            members = {one.user for one in self._store.in_force().taken if isinstance(one, Member)}
            wanted = WantedPeople(people=tuple(one for one in newest.people if one.user in members))
            if wanted != self._published or not self._people_file.exists():
                write_atomically(self._people_file, wanted.model_dump_json(), mode=0o644)
                self._published = wanted

    def logins_first(self) -> None:
        """Have logins made before their associations are: slurmctld looks a user's number up when it hears of an
        association, and then once an hour, until when it refuses the user's jobs."""
        self.publish()
        if self._people_file is None or self._published is None:
            return
        wanted = frozenset(one.user for one in self._published.people)
        missing = frozenset(user for user in wanted if not self._knows(user))
        patience = LOGINS_WITHIN_S
        while missing - self._given_up and patience > 0:
            self._pause(LOOK_S)
            still = frozenset(user for user in missing if not self._knows(user))
            patience = patience - LOOK_S if still == missing else LOGINS_WITHIN_S
            missing = still
        self._given_up = missing

    def _people(self) -> PeopleState:
        """What `gpuaas-people` did last; nothing while that cannot be read."""
        nothing = PeopleState(at=datetime.min.replace(tzinfo=KST), done=(), findings=())
        if self._people_state is None:
            return nothing
        try:
            return PeopleState.model_validate_json(read_dropped(self._people_state, longest=MAX_FILE_BYTES).text)
        except FileNotFoundError:
            return nothing
        except (OSError, InvalidInput, ValidationError) as error:
            log.warning("people.state-unreadable", file=str(self._people_state), error=str(error)[:200])
            return nothing

    # -- For people

    @property
    def heard_at(self) -> datetime | None:
        mark = self._store.mark(HEARD)
        return None if mark is None else datetime.fromisoformat(mark)

    def status(self) -> PortalStatus:
        newest = self._store.portal.newest()
        return PortalStatus(
            url=self._url,
            site=self._site,
            heard_at=self.heard_at,
            skew_seconds=self._skew.total_seconds(),
            revision=0 if newest is None else newest.revision,
            received_at=None if newest is None else newest.received_at,
            taken=len(self._store.in_force().taken),
            left_out=tuple(f"{one.kind} {one.name}: {one.why}" for one in self._findings()),
            usage_waits=self._store.newest_usage_change() > self.acknowledged,
        )


def read_set(
    documents: Iterable[Mapping[str, JsonValue]], people: Iterable[Mapping[str, JsonValue]]
) -> tuple[tuple[Organisation | Project | Member | Grant, ...], tuple[Login, ...], tuple[LeftOut, ...]]:
    """Documents and people of a set, and what of it is neither. Of two people with one login the first counts."""
    read: list[Organisation | Project | Member | Grant] = []
    logins: dict[str, Login] = {}
    unreadable: list[LeftOut] = []
    for document in documents:
        try:
            read.append(PORTAL_DOCUMENT.validate_python(document))
        except ValidationError as error:
            unreadable.append(_unreadable(document, "kind", "name", error))
    for person in people:
        try:
            login = Login.model_validate(person)
        except ValidationError as error:
            unreadable.append(_unreadable({"kind": "Person", **person}, "kind", "user", error))
        else:
            logins.setdefault(login.user, login)
    return tuple(read), tuple(logins.values()), tuple(unreadable)


def _unreadable(one: Mapping[str, JsonValue], kind: str, name: str, error: ValidationError) -> LeftOut:
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"])) or "kind"
    return LeftOut(
        kind=printable(str(one.get(kind, "?")), 40),
        name=printable(str(one.get(name, "?")), 100),
        why=printable(f"It cannot be taken from the portal: {where}: {fault['msg']}", 500),
    )


def _fitting(push: UsagePush) -> UsagePush:
    """As many of the rows, from the first on, as fit into a request."""
    while len(push.rows) > 1 and len(push.model_dump_json()) > MAX_REQUEST_BYTES:
        push = push.model_copy(update={"rows": push.rows[: len(push.rows) // 2]})
    return push
