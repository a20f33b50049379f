"""Runs inside the testbed instance: applies policies to real Slurm and kills itself with signal 9 at every place.

Prints JSON Lines: first the places of a whole apply in each direction, then what was found after each kill and one
restart. Each apply is a process of its own, forked so that Python starts once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.names import ClusterName
from slurm_gpuaas.domain.policy import DOCUMENT, Policy
from slurm_gpuaas.quota.controller import ACTOR, Failpoint, PolicyController, no_failpoint
from slurm_gpuaas.quota.plan import is_ours
from slurm_gpuaas.slurm.partitions import ScontrolPartitions
from slurm_gpuaas.slurm.programs import program
from slurm_gpuaas.slurm.records import AccountingState
from slurm_gpuaas.slurm.rest_accounting import RestAccounting
from slurm_gpuaas.slurm.rest_driver import RestController
from slurm_gpuaas.slurm.rest_wire import RestAddress, RestWire
from slurm_gpuaas.store import Store

PARTITIONS = Path("/etc/slurm/gpuaas/partitions.conf")

Documents = list[dict[str, Any]]

COMMON: Documents = [
    {"kind": "Organisation", "name": "snu"},
    {"kind": "Organisation", "name": "kaist"},
    {
        "kind": "Pool",
        "name": "mini",
        "cluster": "mini",
        "model": "b200",
        "shares": [{"name": "government", "nodes": "b200-[01-06]"}, {"name": "own", "nodes": "b200-[07-08]"}],
    },
]


def _project(name: str, organisation: str, users: str, **grant: object) -> Documents:
    dates = {"starts": "2026-01-01", "ends": "2035-12-31"}
    return [
        {"kind": "Project", "name": name, "organisation": organisation},
        *({"kind": "Member", "project": name, "user": user} for user in users.split()),
        {"kind": "Grant", "name": f"{name}-1", "project": name, "pool": "mini", **dates, **grant},
    ]


ONE: Documents = [
    *COMMON,
    *_project("vision", "snu", "alice bob", share="own", gpus=16, borrow_limit=8),
    *_project("speech", "kaist", "bob carol", share="government", gpus=24),
]
OTHER: Documents = [  # vision moves and shrinks, alice leaves it; speech goes, audio comes; a borrow limit changes
    *COMMON,
    *_project("vision", "snu", "bob", share="government", gpus=8, borrow_limit=16),
    *_project("audio", "kaist", "carol dave", share="own", gpus=16, budget_gpu_hours=100),
]


def policy(documents: Documents) -> Policy:
    return Policy.of(DOCUMENT.validate_python(document) for document in documents)


class Places:
    """Counts the places it is called at, and ends the process at one of them as a power cut would."""

    def __init__(self, deadly: int | None = None) -> None:
        self.deadly = deadly
        self.names: list[str] = []

    def __call__(self, place: str, /) -> None:
        self.names.append(place)
        if len(self.names) == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def controller(store: Store, failpoint: Failpoint = no_failpoint) -> PolicyController:
    wire = RestWire(RestAddress(socket=Path("/run/slurmrestd/slurmrestd.sock")))
    return PolicyController(
        cluster=ClusterName("mini"),
        store=store,
        accounting=RestAccounting(wire),
        controller=RestController(wire),
        partitions=ScontrolPartitions(program(["scontrol"])),
        partition_file=PARTITIONS,
        clock=SystemClock(),
        failpoint=failpoint,
    )


def in_a_process(action: Callable[[], Any]) -> tuple[int, Any]:
    """The status of a forked process that runs the action, and what the action returned (None when it was killed)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            json.dump(action(), stream, default=sorted)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(text) if text else None


def main(url: str) -> None:
    def apply(documents: Documents, deadly: int | None = None) -> list[str]:
        places = Places(deadly)
        controller(Store.open(url), places).apply(policy(documents), actor="root")
        return places.names

    def ours() -> dict[str, object]:
        """Everything of ours that is in Slurm, and the include file."""
        state: AccountingState = RestAccounting(
            RestWire(RestAddress(socket=Path("/run/slurmrestd/slurmrestd.sock")))
        ).read()
        accounts = {name for name, one in state.accounts.items() if is_ours(one)}
        return {
            "accounts": {name: _plain(asdict(state.accounts[name])) for name in sorted(accounts)},
            "qos": {name: _plain(asdict(one)) for name, one in sorted(state.qos.items()) if is_ours(one)},
            "associations": {
                f"{user}@{account}": _plain(asdict(one), but="is_default")
                for (user, account), one in sorted(state.associations.items())
                if account in accounts
            },
            "users": sorted(state.users),
            "partitions": PARTITIONS.read_text(),
        }

    def restart() -> dict[str, object]:
        store = Store.open(url)
        controller(store).reconcile()
        audited = [entry.subject for entry in store.audit.newest(action="effect.interrupted", limit=1)]
        effects = store.journal.newest(ACTOR, limit=100)
        return {
            "slurm": ours(),
            "left": [step.title for step in controller(store).plan().steps],
            "open": [effect.subject for effect in effects if effect.outcome == "open"],
            "interrupted": sum(effect.outcome == "interrupted" for effect in effects),
            "told": audited,
        }

    def say(**fields: object) -> None:
        print(json.dumps(fields), flush=True)

    Store.open(url).close()  # reads the migrations once, for all the processes forked from here
    targets = {"other": OTHER, "one": ONE}
    places: dict[str, list[str]] = {}
    in_a_process(lambda: apply(ONE))
    for name, documents in targets.items():
        _, places[name] = in_a_process(partial(apply, documents))
        say(to=name, places=places[name], slurm=in_a_process(ours)[1])
    for number in range(1, max(map(len, places.values())) + 1):
        for name, documents in targets.items():
            if number > len(places[name]):
                in_a_process(partial(apply, documents))
                continue
            status, _ = in_a_process(partial(apply, documents, number))
            _, found = in_a_process(restart)
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            say(to=name, place=places[name][number - 1], killed=killed, **found)
    in_a_process(lambda: apply([]))


def _plain(record: dict[str, Any], but: str = "") -> dict[str, str]:
    return {
        name: str(
            sorted(value) if isinstance(value, frozenset) else dict(value) if isinstance(value, Mapping) else value
        )
        for name, value in record.items()
        if name != but
    }


if __name__ == "__main__":
    main(sys.argv[1])
