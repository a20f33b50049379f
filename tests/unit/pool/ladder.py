"""A grant whose mornings pass one after another, with the use that its site reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from slurm_gpuaas.domain.idle import GrantDay
from slurm_gpuaas.domain.names import ClusterName, PoolGrantId
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode, Rung
from slurm_gpuaas.pool.idle_service import IdleService
from slurm_gpuaas.pool.idle_use import DAY_SECONDS
from tests.unit.pool.scene import DIRECTOR, Pool

QUICK: dict[str, Any] = {
    "mode": Mode.ACT,
    "basis": "Notice 2027-1",
    "window_days": 2,
    "look_back_days": 4,
    "ramp_up_days": 1,
    "before_end_days": 3,
    "back_days": 1,
    "waits": {Rung.WARNING: 1, Rung.FINAL_WARNING: 1, Rung.RECALL: 1},
    "cool_down_days": 3,
}
"""A ladder of days instead of weeks."""


def grant_day(
    grant: PoolGrant, day: date, allocated: float, busy: float | None = None, *, number: int = 1, **more: Any
) -> GrantDay:
    """Parts of the whole day's GPU-seconds."""
    whole = grant.gpus * DAY_SECONDS
    figures: dict[str, Any] = {
        "allocated": round(allocated * whole),
        "busy": None if busy is None else round(busy * whole),
        "loaded": 0,
        "lost": 0,
        "burst": 0,
        "peak": round(grant.gpus * (allocated if busy is None else busy)),
    }
    return GrantDay(grant=grant.id, day=day, number=number, **figures | more)


CLUSTER = ClusterName("naver")


@dataclass
class Ladder:
    pool: Pool

    @property
    def service(self) -> IdleService:
        return IdleService(
            store=self.pool.store,
            clock=self.pool.clock,
            audit=self.pool.audit,
            pool=self.pool.service,
            failpoint=self.pool.failpoint,
        )

    def rules(self, **fields: Any) -> IdleRules:
        rules = IdleRules.model_validate(QUICK | fields)
        self.service.put_rules(self.pool.id, DIRECTOR, rules, "As decided.")
        return rules

    def report(self, *days: GrantDay) -> int:
        return self.pool.register.days.take(CLUSTER, days, at=self.pool.clock.now())

    def grant(self, id: PoolGrantId) -> PoolGrant:
        return self.pool.register.grants.get(id)

    def mornings(self, id: PoolGrantId, allocated: float | None, busy: float | None = None, *, days: int = 1) -> None:
        """Let days pass with so much use of each, None: the site says nothing; judge every morning."""
        for _ in range(days):
            yesterday = self.pool.today
            if allocated is not None:
                self.report(grant_day(self.grant(id), yesterday, allocated, busy))
            self.pool.until(yesterday + timedelta(days=1))
            self.service.morning()

    def steps(self, id: PoolGrantId) -> list[str]:
        found = sorted(self.pool.register.idle_steps.all(grant=id), key=lambda one: one.day)
        return [one.to for one in found]

    def mails(self, prefix: str = "idle.") -> list[str]:
        return [
            one.template for one in self.pool.register.outbox.unsent(limit=1_000) if one.template.startswith(prefix)
        ]
