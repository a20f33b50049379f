"""What a command of the pool is: a method that writes through `Work`, in one transaction, done once for each id."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from pydantic_core import to_json

from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Conflict
from slurm_gpuaas.domain.names import CommandId
from slurm_gpuaas.domain.people import Actor
from slurm_gpuaas.domain.stages import Noun
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.work import AuditTrail, Failpoint, Program, Work, no_failpoint
from slurm_gpuaas.store.pool import PoolStore
from slurm_gpuaas.store.pool.register import DoneCommand

P = ParamSpec("P")
A = TypeVar("A", bound=Noun)
S = TypeVar("S", bound="Service")


class Service:
    """Commands of one part of the pool. Safe to share between threads.

    Args:
        audit: appends within the store's transaction.
    """

    def __init__(
        self, *, store: PoolStore, clock: Clock, audit: AuditTrail, failpoint: Failpoint = no_failpoint
    ) -> None:
        self.store = store
        self._clock = clock
        self._audit = audit
        self._failpoint = failpoint

    def work(self, action: str, actor: Actor | Program) -> Work:
        return Work(
            register=self.store.register,
            audit=self._audit,
            failpoint=self._failpoint,
            action=action,
            actor=actor,
            now=self._clock.now(),
        )


def command(
    action: str, answer: type[A]
) -> Callable[
    [Callable[Concatenate[S, Work, P], A]],
    Callable[Concatenate[S, CommandId, Actor | Program, P], A],
]:
    """Makes a method that writes through `Work` one command: one transaction, done once for each command id.

    Raises (the command):
        Conflict: the id was another command's.
    """

    def decorate(
        method: Callable[Concatenate[S, Work, P], A],
    ) -> Callable[Concatenate[S, CommandId, Actor | Program, P], A]:
        signature = inspect.signature(method)

        @wraps(method)
        def run(self: S, id: CommandId, actor: Actor | Program, /, *args: P.args, **kwargs: P.kwargs) -> A:
            with self.store.transaction():
                work = self.work(action, actor)  # now, not when it began to wait for others
                given = signature.bind(self, work, *args, **kwargs)
                given.apply_defaults()
                asked = hashlib.sha256(to_json([action, work.by, list(given.arguments.values())[2:]])).hexdigest()
                done = work.register.done_command(id)
                if done is not None:
                    if done.asked != asked:
                        raise Conflict(
                            told("Command {id} was another one.", id=id), way_out=told("Load the page again.")
                        )
                    return answer.model_validate(done.answer)
                noun = method(self, work, *args, **kwargs)
                work.failpoint(f"{action}: done")
                work.register.put_done_command(id, DoneCommand(asked, noun.model_dump(mode="json")), at=work.now)
                work.failpoint(f"{action}: commit")
            work.failpoint(f"{action}: answer")
            return noun

        return run

    return decorate
