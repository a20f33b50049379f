"""`gpuaas-agent check`: run health checks and answer as a Nagios plugin does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click

from slurm_gpuaas.agent.checks import Checker
from slurm_gpuaas.agent.checks.periodic import readers_of
from slurm_gpuaas.agent.config import Config, Site
from slurm_gpuaas.agent.delivery import DaemonClient, Rejected, Undelivered
from slurm_gpuaas.agent.node import check_event, read_boot_id, read_inventory
from slurm_gpuaas.api.node_events import NodeEventBatch
from slurm_gpuaas.domain.clock import SystemClock
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.incidents import CheckStatus, Drain, NodeEvent
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.checks import Check, CheckResult, Context, Limit, Reading, exit_code, load_checks, worst

MESSAGE_MAX: Final = 1_000
REPORT_S: Final = 3.0
"""Longest wait for gpuaasd: a prolog holds up a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What one look at one node gave."""

    node: NodeName
    results: Sequence[CheckResult]
    report: Sequence[NodeEvent]
    """Of what asks for something; without driver version, which a prolog has no time to ask for."""


class Looker:
    """Runs the checks of a context on one node."""

    def __init__(self, config: Config, node: NodeName, context: Context, checks: Mapping[str, Check]) -> None:
        self._config = config
        self._node = node
        self._context = context
        self._checks = checks
        inventory = read_inventory(config.for_node(config.spool, node))
        self._checker = Checker(readers_of(config, node, lambda: inventory))

    def here(self, check: Check) -> bool:
        return self._checker.can(check)

    def look(self) -> Looked:
        results = self._checker.run(self._checks)
        now = SystemClock().now()
        boot_id = read_boot_id(self._config.hardware(self._node, "boot_id", self._config.boot_id))
        found = [(result, finding) for result in results for finding in result.findings]
        report = [
            check_event(
                self._node,
                event_id=f"{self._node}/{boot_id}/{self._context.value}/{int(now.timestamp() * 1000)}/{number}",
                check=result.name,
                status=finding.status,
                drain=finding.drain,
                evidence=f"{finding.subject}: {finding.message} [{finding.rule}]".removeprefix(": "),
                gpu=finding.gpu,
                driver_version=None,
                boot_id=boot_id,
                seen_at=now,
            )
            for number, (result, finding) in enumerate(found)
            if finding.drain is not Drain.NO
        ]
        return Looked(node=self._node, results=results, report=report)


@click.command()
@click.option(
    "--context", type=click.Choice([one.value for one in Context]), default="periodic", show_default=True, help="When."
)
@click.option("--only", metavar="NAME,...", default="", help="Of its checks only these.")
@click.option("--list", "listing", is_flag=True, help="Show the context's checks with their limits, and end.")
@click.option("--once", is_flag=True, help="Look once; else context periodic is repeated every `check_every`.")
@click.option("--dry-run", is_flag=True, help="Report nothing to gpuaasd; say what would be reported.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a look.")
@click.pass_obj
def check(site: Site, context: str, only: str, listing: bool, once: bool, dry_run: bool, as_json: bool) -> None:
    """Check this node's health; exits as a Nagios plugin does: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

    What asks for a drain or a person is reported to gpuaasd, which decides. No Slurm command is run. Checks of what the
    node does not have (InfiniBand, DCGM, no `file_systems`) are left out.

    \b
    Examples:
      gpuaas-agent check --context prolog                   as plugins/prolog_health does
      gpuaas-agent check --context periodic --once --dry-run
      gpuaas-agent check --context return --only ecc,row-remap --json
      gpuaas-agent check --list
    """
    now = Context(context)
    names = [name.strip() for name in only.split(",") if name.strip()]
    checks = load_checks(site.config.checks).of(now, names)
    lookers = [Looker(site.config, node, now, checks) for node in site.nodes]
    if listing:
        for name, one in checks.items():
            click.echo("\n".join(_described(name, one, here=any(looker.here(one) for looker in lookers))))
        return
    every = site.config.check_every
    while True:
        begun = time.monotonic()
        looked = [looker.look() for looker in lookers]
        for one_node in looked:
            _print(one_node, now, checks, as_json=as_json, dry_run=dry_run, named=len(lookers) > 1)
        if not dry_run:
            _report(site.config, looked)
        if once or now is not Context.PERIODIC or every is None:
            sys.exit(exit_code(worst(result.status for one in looked for result in one.results)))
        time.sleep(max(1.0, every.total_seconds() - (time.monotonic() - begun)))


def _report(config: Config, looked: Sequence[Looked]) -> None:
    """To gpuaasd, which may be away: the agent tells the same at its next round."""
    if not any(one.report for one in looked):
        return
    ca = str(config.ca) if config.ca else None
    client = DaemonClient(config.daemon, ca=ca, timeout=REPORT_S, clock=SystemClock())
    for one in looked:
        try:
            if one.report:
                client.post(NodeEventBatch(node=one.node, events=tuple(one.report[:200])), config.key_of(one.node))
        except (GpuaasError, Undelivered, Rejected) as error:
            click.echo(f"{one.node}: not reported: {error}", err=True)
    client.close()


def _print(
    looked: Looked, context: Context, checks: Mapping[str, Check], *, as_json: bool, dry_run: bool, named: bool
) -> None:
    if as_json:
        import json

        click.echo(json.dumps(_document(looked, context, dry_run=dry_run)))
        return
    before = f"{looked.node}: " if named else ""
    for result in looked.results:
        click.echo(before + line(result, checks[result.name]))
    for event in looked.report if dry_run else ():
        click.echo(f"{before}would report {event.check} {event.status}, drain {event.drain}: {event.evidence}")


def line(result: CheckResult, check: Check) -> str:
    """One line of Nagios: name, status, message, and after a bar the numbers with their limits."""
    message = result.message.replace("|", "/").replace("\n", " ")[:MESSAGE_MAX]
    numbers = " ".join(_number(reading, check.limits) for reading in result.readings if reading.value is not None)
    return f"{result.name} {result.status.name} - {message}{f' | {numbers}' if numbers else ''}"


def _number(reading: Reading, limits: Sequence[Limit]) -> str:
    bounds = {
        limit.status: f"{limit.above:g}" if limit.above is not None else f"{limit.below:g}:"
        for limit in limits
        if limit.measure is reading.measure
    }
    thing = f"gpu{reading.gpu.index}" if reading.gpu else reading.subject
    label = f"{thing}.{reading.measure.value}".lstrip(".").replace("'", "''").replace("=", "_")
    ends = f"{bounds.get(CheckStatus.WARNING, '')};{bounds.get(CheckStatus.CRITICAL, '')}".rstrip(";")
    return f"'{label}'={reading.value:g}{f';{ends}' if ends else ''}"


def _document(looked: Looked, context: Context, *, dry_run: bool) -> dict[str, object]:
    return {
        "node": looked.node,
        "context": context.value,
        "status": worst(result.status for result in looked.results).value,
        "reported": not dry_run and bool(looked.report),
        "checks": [
            {
                "name": result.name,
                "status": result.status.value,
                "drain": result.drain.value,
                "message": result.message,
                "findings": [
                    {
                        "subject": finding.subject,
                        "gpu": finding.gpu.index if finding.gpu else None,
                        "serial": finding.gpu.serial if finding.gpu else None,
                        "status": finding.status.value,
                        "drain": finding.drain.value,
                        "message": finding.message,
                        "rule": finding.rule,
                    }
                    for finding in result.findings
                ],
                "readings": [
                    {
                        "measure": reading.measure.value,
                        "subject": reading.subject,
                        "value": reading.value,
                        "detail": reading.detail,
                    }
                    for reading in result.readings
                ],
            }
            for result in looked.results
        ],
    }


def _described(name: str, check: Check, *, here: bool) -> Iterator[str]:
    contexts = ", ".join(sorted(check.contexts))
    yield f"{name} ({contexts}){'' if here else ', not on this node'}: {check.about}"
    for limit in check.limits:
        side = f"above {limit.above:g}" if limit.above is not None else f"below {limit.below:g}"
        rounds = f", {limit.rounds} rounds in a row" if limit.rounds > 1 else ""
        follows = f"{limit.status}, drain {limit.drain}{rounds}"
        yield f"  {limit.measure.value} {side}: {follows}: {limit.why} [{limit.source}]"
