"""What somebody needs to start with a grant: the commands that work now for this grant and this person, and what is
still missing. Names are those that the documents give to Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from slurm_gpuaas.domain.calendar import start_of
from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState
from slurm_gpuaas.domain.programmes import GPUS_OF_A_SERVER, PoolShare, UnixIdentity
from slurm_gpuaas.portal.grant_figures import Delivered, Delivery, GrantReader
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.grant_views import SlurmNames, slurm_names
from slurm_gpuaas.portal.visit import Visit
from slurm_gpuaas.store.pool import PoolStore

JOB_NAME: Final = "first-job"
FIRST_JOB_TIME: Final = "00:10:00"
ONE_GPU: Final = f"--gpus=1 --time={FIRST_JOB_TIME} --wrap 'nvidia-smi -L'"


@dataclass(frozen=True, slots=True)
class Missing:
    """Something without which the commands do not work yet, and where it is mended; no `path`: not here."""

    text: str
    path: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """`about` says what the commands do; each is one line for a shell."""

    title: str
    about: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`script`: an sbatch script to copy. Without `steps` nothing can be run any more."""

    missing: tuple[Missing, ...]
    steps: tuple[Step, ...]
    script: str


def start_of_grant(
    store: PoolStore, reader: GrantReader, grant: PoolGrant, share: PoolShare, visit: Visit, *, now: datetime
) -> Start:
    identity = store.register.identities.find(visit.person.id)
    delivered = reader.delivery(grant)
    missing = tuple(_missing(reader, grant, share, visit, identity, delivered, now))
    if not grant.holds:
        return Start(missing=missing, steps=(), script="")
    names = slurm_names(grant, share)
    host = delivered.site.login_host if delivered.site else None
    login = identity.login if identity else None
    return Start(
        missing=missing, steps=tuple(_steps(visit, grant, names, login, host)), script=script(grant, share, names)
    )


def script(grant: PoolGrant, share: PoolShare, names: SlurmNames) -> str:
    """A batch script for one node that shows its GPUs."""
    gpus = min(grant.gpus, GPUS_OF_A_SERVER)
    return f"""#!/bin/bash
#SBATCH --job-name={JOB_NAME}
#SBATCH --account={names.account}
#SBATCH --qos={names.qos}
#SBATCH --nodes=1
#SBATCH --gpus={share.model}:{gpus}
#SBATCH --time={FIRST_JOB_TIME}
#SBATCH --output=%x-%j.out
set -euo pipefail
nvidia-smi -L
"""


def _steps(
    visit: Visit, grant: PoolGrant, names: SlurmNames, login: UserName | None, host: str | None
) -> Iterator[Step]:
    say = visit.words.say
    yield Step(
        say("Sign in"),
        say("Your SSH key opens the login node; there is no password."),
        (f"ssh {login or 'LOGIN'}@{host or 'HOST'}",),
    )
    commands = [f"gpuaas quota explain --project {grant.project} --gpus {min(grant.gpus, GPUS_OF_A_SERVER)}"]
    if grant.budget_won is not None:
        commands.append(f"gpuaas budget --project {grant.project}")
    yield Step(
        say("See what you may use"),
        say("Your projects with what they own and use; whether a job of this size could start now, and if not, why."),
        ("gpuaas project list", *commands),
    )
    yield Step(
        say("Run a first job"),
        say("It shows one GPU. --account and --qos are the names of this grant in Slurm."),
        (
            f"sbatch --account={names.account} --qos={names.qos} {ONE_GPU}",
            "squeue --me",
        ),
    )
    yield Step(
        say("Use a template"),
        say("Templates write the script for you; --dry-run prints it and submits nothing."),
        tuple(_templates(grant)),
    )
    yield Step(
        say("Borrow idle GPUs"),
        say(
            "Beyond your own GPUs, while others leave theirs idle. Such a job may be stopped at any time; it is then "
            "queued again."
        ),
        (f"sbatch --account={names.account} --qos={names.burst_qos} --requeue {ONE_GPU}",),
    )


def _templates(grant: PoolGrant) -> Iterator[str]:
    yield "gpuaas template list"
    yield f'gpuaas job submit single-node --account {grant.project} --gpus 1 --command "python3 train.py" --dry-run'
    nodes = grant.gpus // GPUS_OF_A_SERVER
    if nodes > 1:
        yield f"gpuaas job submit torchrun --account {grant.project} --nodes {nodes} --script train.py --dry-run"


def _missing(
    reader: GrantReader,
    grant: PoolGrant,
    share: PoolShare,
    visit: Visit,
    identity: UnixIdentity | None,
    delivered: Delivered,
    now: datetime,
) -> Iterator[Missing]:
    say, person = visit.words.say, visit.person
    if grant.state is PoolGrantState.ENDED:
        yield Missing(say("The grant is closed: nobody signs in for it any more."))
        return
    if grant.state is PoolGrantState.ENDING:
        yield Missing(
            say(
                "The grant has no GPUs any more. Until {day} you can sign in and fetch your data.",
                day=grant.grace_until or grant.ends,
            )
        )
    elif now < start_of(grant.starts):
        yield Missing(
            say("The grant begins on {day}. You can sign in before; jobs start from then on.", day=grant.starts)
        )
    if person.id not in grant.members:
        may_add = visit.may(Action.MEMBER_CHANGE) and person.office.organisation == grant.organisation
        yield Missing(
            say("You are no member of this grant."),
            f"/grants/{grant.id}/members" if may_add else "",
            say("Choose its members") if may_add else say("Ask a tenant admin of your organisation to add you."),
        )
    if identity is None:
        yield Missing(say("You have no login on the clusters yet."), "/identity", say("Choose a login"))
    if identity is None or not identity.ssh_keys:
        yield Missing(say("You have no SSH key here yet."), "/identity", say("Add an SSH key"))
    site = delivered.site
    if site is None or site.login_host is None:
        yield Missing(
            say("Nobody has told the portal where to sign in."),
            action=say("Ask the operator of {provider} for the login host.", provider=share.provider),
        )
    match delivered.state:
        case Delivery.NO_SITE:
            yield Missing(say("The cluster {cluster} is not connected to the portal yet.", cluster=share.cluster))
        case Delivery.ON_THE_WAY:
            yield Missing(
                say("The cluster does not have the newest documents yet."),
                f"/grants/{grant.id}",
                say("See how far they are"),
            )
        case Delivery.LEFT_OUT:
            yield Missing(say("The cluster could not take the grant: {why}", why=delivered.why))
        case Delivery.TAKEN if site is not None and identity is not None:
            if why := reader.person_left_out(grant, site, identity.login):
                yield Missing(say("The cluster could not take your login: {why}", why=why))
