"""Where logins are kept, and how they are brought to what is wanted. Level-triggered: a run that was cut off is
finished by the next one."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from slurm_gpuaas.api.people import PeopleState, PersonFinding
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.logins import Login
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.ssh_keys import SshKey


class NotDone(GpuaasError):
    """The directory would not do it for this person; the others are not concerned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OurLogin:
    """A login that we made. `enabled`: it opens the cluster; `held`: a person closed it by hand, which is left so."""

    user: UserName
    name: str
    keys: tuple[SshKey, ...]
    enabled: bool
    held: bool = False


class Directory(Protocol):
    """Logins of one kind. What we made carries a mark that its user cannot set; nothing else is ever written.

    Every call is safe to repeat, and raises `NotDone` when it cannot be done.
    """

    def ours(self) -> Mapping[UserName, OurLogin]:
        """The logins that we made, disabled ones too."""
        ...

    def create(self, login: Login) -> None:
        """Make a login, marked and with an id of our range, without keys.

        Raises:
            NotDone: somebody else has the name, or the id; or no id is free.
        """
        ...

    def rename(self, user: UserName, name: str) -> None:
        """Give one of ours another name for people."""
        ...

    def put_keys(self, user: UserName, keys: Iterable[SshKey]) -> None:
        """These keys and no others open the login."""
        ...

    def enable(self, user: UserName) -> None: ...

    def disable(self, user: UserName) -> None:
        """Let nobody in. The login, its files and its running jobs stay."""
        ...


def choose_uid(login: Login, uids: range, used: Container[int]) -> int:
    """The person's own number where there is one, so that files mean the same person on all clusters; else the lowest
    that is free.

    Raises:
        NotDone: somebody has it, it is not in our range, or none is free.
    """
    if login.uid is None:
        free = next((uid for uid in uids if uid not in used), None)
        if free is None:
            raise NotDone(f"All {len(uids)} ids from {uids.start} on are taken.")
        return free
    if login.uid not in uids:
        raise NotDone(
            f"Id {login.uid} of {login.user} is not from {uids.start} to {uids.stop - 1}.",
            way_out="Make the range that of the portal: least_uid and most_uid.",
        )
    if login.uid in used:
        raise NotDone(f"Id {login.uid} of {login.user} is somebody else's here.", way_out="Give that one another id.")
    return login.uid


def bring(directory: Directory, wanted: Iterable[Login], *, now: datetime) -> PeopleState:
    """Make the directory say what is wanted, person by person."""
    ours = directory.ours()
    people = {login.user: login for login in wanted}
    done: list[UserName] = []
    findings: list[PersonFinding] = []
    for user in sorted(people.keys() | ours.keys()):
        try:
            if user in people:
                _give(directory, people[user], ours.get(user))
            else:
                _take_back(directory, ours[user])
        except NotDone as error:
            findings.append(PersonFinding(user=user, why=str(error)[:500]))
        else:
            if user in people:
                done.append(user)
    return PeopleState(at=now, done=tuple(done), findings=tuple(findings))


def _give(directory: Directory, wanted: Login, there: OurLogin | None) -> None:
    if there is None:
        directory.create(wanted)
        there = OurLogin(user=wanted.user, name=wanted.name, keys=(), enabled=True)
    if there.held:
        raise NotDone(
            f"Somebody closed the login of {wanted.user} by hand.", way_out="It stays so until it is opened by hand."
        )
    if there.name != wanted.name:
        directory.rename(wanted.user, wanted.name)
    if set(there.keys) != set(wanted.keys):
        directory.put_keys(wanted.user, wanted.keys)
    if not there.enabled:
        directory.enable(wanted.user)


def _take_back(directory: Directory, there: OurLogin) -> None:
    if there.keys:
        directory.put_keys(there.user, ())
    if there.enabled and not there.held:
        directory.disable(there.user)
