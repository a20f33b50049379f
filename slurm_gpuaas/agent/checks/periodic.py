"""The checks that the agent runs by itself, and the readers that a node has."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from slurm_gpuaas.agent.checks import Checker, Rates, Reader
from slurm_gpuaas.agent.config import Config
from slurm_gpuaas.agent.node import NodeAgent
from slurm_gpuaas.domain.gpus import GpuIdentity
from slurm_gpuaas.domain.incidents import CheckStatus
from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.health.checks import CheckResult, Context, load_checks

STOP_S: Final = 5.0


def readers_of(config: Config, node: NodeName, known: Callable[[], Sequence[GpuIdentity]]) -> Sequence[Reader]:
    """Readers for what this node has. A simulated one has GPUs and perhaps InfiniBand; the rest would be the host's."""
    rates = Rates()
    readers: list[Reader] = []
    seconds = config.check_deadline.total_seconds()
    if config.nvml:
        from slurm_gpuaas.agent.checks.gpus import GpuReader
        from slurm_gpuaas.agent.nvml import prepare_nvml

        readers.append(
            GpuReader(
                known=known,
                expected=config.gpus,
                driver=config.driver,
                seconds=seconds,
                prepare=prepare_nvml(config, node),
                rates=rates,
            )
        )
    root = config.hardware(node, "ib", config.infiniband)
    if config.infiniband_ports or root.is_dir():
        from slurm_gpuaas.agent.checks.infiniband import InfiniBandReader

        readers.append(InfiniBandReader(root, ports=config.infiniband_ports, rate=config.infiniband_rate, rates=rates))
    if config.file_systems:
        from slurm_gpuaas.agent.checks.file_systems import FileSystemReader

        readers.append(FileSystemReader(config.file_systems, seconds=seconds))
    if config.simulated_hardware is None:
        from slurm_gpuaas.agent.checks.clock import ClockReader, chrony_tracking

        readers.append(ClockReader(chrony_tracking))
        program = shutil.which("dcgmi")
        if program is not None and config.dcgm_level is not None:
            from slurm_gpuaas.agent.checks.dcgm import DcgmReader

            readers.append(DcgmReader(program, level=config.dcgm_level))
    return readers


class Strikes:
    """Counts in how many rounds in a row each finding was made."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, CheckStatus], int] = {}

    def pending(self, results: Sequence[CheckResult]) -> set[tuple[str, str]]:
        """Check and subject of what was not found often enough yet to be told."""
        before, self._counts = self._counts, {}
        pending = set()
        for result in results:
            for finding in result.findings:
                key = (result.name, finding.subject, finding.status)
                self._counts[key] = before.get(key, 0) + 1
                if self._counts[key] < finding.rounds:
                    pending.add((result.name, finding.subject))
        return pending


class Periodic:
    """One thread for all nodes of the process, one after the other.

    Raises:
        InvalidInput: the site's file of checks is faulty.
    """

    def __init__(self, config: Config, agents: Sequence[NodeAgent]) -> None:
        assert config.check_every is not None  # asked only then
        self._every = config.check_every.total_seconds()
        self._checks = load_checks(config.checks).of(Context.PERIODIC)
        self._nodes = [(agent, Checker(_readers(config, agent)), Strikes()) for agent in agents]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(STOP_S)

    def look(self) -> None:
        """One round over all nodes, in this thread."""
        for agent, checker, strikes in self._nodes:
            if self._stop.is_set():
                return
            results = checker.run(self._checks)
            agent.see_checks(results, strikes.pending(results))

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            self.look()
            self._stop.wait(max(1.0, self._every - (time.monotonic() - begun)))


def _readers(config: Config, agent: NodeAgent) -> Sequence[Reader]:
    return readers_of(config, agent.node, lambda: agent.known_gpus)
