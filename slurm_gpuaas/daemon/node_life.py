"""Composition of what acts on nodes: circuit breaker, health and life controllers, repair shops, verification."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slurm_gpuaas.daemon.config import CommandConfig, HealthConfig, RepairConfig, TicketConfig, VerificationConfig
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.incidents import Remedy
from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.breaker import Breaker, BreakerLimits
from slurm_gpuaas.health.controller import HealthController, HealthSettings
from slurm_gpuaas.health.ledger import IncidentLedger
from slurm_gpuaas.health.life import LifeController, LifeSettings
from slurm_gpuaas.health.recovery import Recovery
from slurm_gpuaas.health.repair import CommandShop, Errands, RepairShop, SlurmReboot, TicketShop, Workshop
from slurm_gpuaas.health.verify import Test, Verifier, VerifySettings
from slurm_gpuaas.slurm.protocols import Controller, SlurmUnavailable
from slurm_gpuaas.slurm.submit import sbatch
from slurm_gpuaas.topology.fabric import FabricArrays

_SBATCH_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class NodeLife:
    """`wake` makes the life controller look before its next turn."""

    health: HealthController
    life: LifeController
    breaker: Breaker
    wake: threading.Event


def compose_node_life(
    config: HealthConfig,
    *,
    slurm: Controller,
    ledger: IncidentLedger,
    recovery: Recovery,
    fabric: Callable[[], FabricArrays],
    again: Callable[[], None],
) -> NodeLife:
    """
    Args:
        slurm: with fresh readings.
        fabric: raises GpuaasError while it is not known; then the breaker has no leaf groups.
        again: called when the health controller should look again soon.
    """
    wake = threading.Event()
    errands = Errands(ended=wake.set)

    def leaves() -> Mapping[NodeName, str]:
        try:
            known = fabric()
        except GpuaasError:
            return {}
        return {node: "/".join(known.paths[group]) for node, group in zip(known.nodes, known.group, strict=True)}

    def beside(node: NodeName) -> Sequence[NodeName]:
        groups = leaves()
        return [other for other, leaf in groups.items() if leaf == groups.get(node) and other != node]

    breaker = Breaker(
        store=ledger.store,
        clock=ledger.clock,
        limits=BreakerLimits(
            window=config.breaker.window,
            drains=config.breaker.drains,
            share=config.breaker.share,
            per_leaf=config.breaker.per_leaf,
        ),
        leaves=leaves,
    )
    verification = config.verification or VerificationConfig()
    life = LifeController(
        slurm=slurm,
        ledger=ledger,
        workshop=_workshop(config.repair, slurm=slurm, ledger=ledger, errands=errands),
        verifier=Verifier(
            slurm=slurm,
            submit=_submit,
            ledger=ledger,
            settings=VerifySettings(
                tests={
                    name: Test(script=test.script, nodes=test.nodes, limit=test.time_limit)
                    for name, test in verification.tests.items()
                },
                user=pwd.getpwuid(os.geteuid()).pw_name,
                partition=verification.partition,
                account=verification.account,
                limit=verification.time_limit,
            ),
            beside=beside,
        ),
        breaker=breaker,
        settings=LifeSettings(
            shadow=config.shadow,
            reboots_a_day=config.repair.reboots_a_day if config.repair else 0,
            verifies=config.verification is not None,
            probation=config.probation.duration if config.probation else None,
            largest_job=config.probation.largest_job if config.probation else 0,
        ),
        overrides=config.overrides,
    )
    health = HealthController(
        slurm=slurm,
        ledger=ledger,
        recovery=recovery,
        breaker=breaker,
        settings=HealthSettings(
            shadow=config.shadow,
            checkpoint_signal=config.checkpoint.signal if config.checkpoint else None,
            **({"checkpoint_wait": config.checkpoint.wait} if config.checkpoint else {}),
        ),
        released=life.release,
        settled=wake.set,
        again=again,
        overrides=config.overrides,
    )
    return NodeLife(health=health, life=life, breaker=breaker, wake=wake)


def _submit(script: str, options: Sequence[str]) -> JobId:
    def run(argv: Sequence[str], **how: object) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(argv, timeout=_SBATCH_S, **how)  # type: ignore[call-overload,no-any-return]
        except subprocess.TimeoutExpired:
            raise SlurmUnavailable(f"sbatch did not answer within {_SBATCH_S:g} s.") from None

    return sbatch(script, options=options, run=run)


def _workshop(config: RepairConfig | None, *, slurm: Controller, ledger: IncidentLedger, errands: Errands) -> Workshop:
    shops: dict[Remedy, RepairShop] = {}
    wanted = (
        {Remedy.RESET: config.reset, Remedy.REBOOT: config.reboot, Remedy.REPLACE: config.replace} if config else {}
    )
    for remedy, how in wanted.items():
        if isinstance(how, CommandConfig):
            shops[remedy] = CommandShop(how.command, limit=how.time_limit, errands=errands, clock=ledger.clock)
        elif isinstance(how, TicketConfig):
            shops[remedy] = TicketShop(
                str(how.url), token=_token(how.token_file), limit=how.time_limit, errands=errands, clock=ledger.clock
            )
        elif how is not None:
            shops[remedy] = SlurmReboot(slurm, limit=how.time_limit, clock=ledger.clock)
    evidence = config.evidence if config else None
    if evidence is None:
        return Workshop(shops, errands=errands)
    return Workshop(shops, evidence=evidence.command, evidence_limit=evidence.time_limit, errands=errands)


def _token(file: Path | None) -> Callable[[], str]:
    return lambda: "" if file is None else file.read_text(encoding="utf-8").strip()
