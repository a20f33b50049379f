"""The fault-injection campaign: a plan carried out on a testbed, with our layer or without it, and what it has cost.

Without it the same jobs run and the same things break; what looks after the nodes then is what many sites have: a check
every five minutes whether NVML still sees all GPUs and no uncorrectable errors, which drains; and people. People do the
same in both: they mend a node when it is empty, bring it back, take a node out that nobody else has noticed in half an
hour, and look at incidents that ask for a person.

A campaign minute is compressed to `60 / compress` seconds; Slurm's and our own reaction times are real.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from slurm_gpuaas.api.client import Client
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.incidents import IncidentState
from slurm_gpuaas.testbed import slurmconf
from slurm_gpuaas.testbed.boot import GPUAASD, SLURMCTLD, SLURMDBD, SLURMRESTD, agent
from slurm_gpuaas.testbed.cache import Cache
from slurm_gpuaas.testbed.chaos_figures import Effect, Entry, Run, Step, effect_of, expected_ettr, ledger_faults, total
from slurm_gpuaas.testbed.chaos_plan import BENCH, HOUR, MINUTE, PUBLISHED_RATE, Fault, Harm, Plan, Sign, Work
from slurm_gpuaas.testbed.errors import CommandFailed, ServiceFailed, TestbedError
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.machine import Service, end
from slurm_gpuaas.testbed.profiles import Cluster
from slurm_gpuaas.testbed.progress import Note, Progress, SilentProgress
from slurm_gpuaas.testbed.rootfs import SOURCE, VENV
from slurm_gpuaas.testbed.sim import SimulatedNode

USER: Final = "alice"
PARTITION: Final = "chaos-all"
FOLDER: Final = "/run/chaos"
SCRIPT: Final = Path(__file__).with_name("chaos_job.sh")
STORE: Final = "sqlite:////var/lib/gpuaas/gpuaas.db"

CHECKPOINT: Final = 10 * MINUTE
START: Final = 2 * MINUTE
"""Of a job, each time: reading the checkpoint, making the communicators."""
WATCHDOG: Final = 10 * MINUTE
"""PyTorch's own limit for a collective that does not end."""
CHECK_EVERY: Final = 5 * MINUTE
TICKET_AFTER: Final = 30 * MINUTE
LOOK_AFTER: Final = 15 * MINUTE
"""Time until a person looks at an incident that asks for one."""
GIVEN_UP_AFTER: Final = 300.0
"""Slurm's default SlurmdTimeout."""
UNKNOWN_REPAIR: Final = 10 * MINUTE
SPARES: Final = 4
"""Nodes that no job is promised, with the layer or without it."""
BREAKER_WINDOW: Final = 10 * MINUTE
PROBATION: Final = 20 * MINUTE
RUNG: Final = 3 * MINUTE
"""Until a reset or a reboot turns out not to help."""

REPAIR: Final = f"""\
#!/bin/sh
# NODE ATTEMPT REMEDY: leaves an order for the crew of the campaign and waits until it is done.
order={FOLDER}/orders/$1,$2,$3
: > "$order"
while :; do
  [ -e "$order.done" ] && exit 0
  [ -e "$order.failed" ] && exit 1
  sleep 0.3
done
"""

RESTART_S: Final = 2.0
RESTARTS: Final = 10
"""Until a killed service is started again, and how often that is tried; real, not compressed."""
CREW_EVERY_S: Final = 1.0
SETTLE_S: Final = 300.0
SILENT_S: Final = 30.0
SAVED_WITHIN_S: Final = 10.0
"""A job acknowledged less than this before slurmctld is killed may be lost with it: Slurm saves its state every 5 s."""
APPLICATION: Final = frozenset({13, 31, 43, 45})
GONE_OR_COUNTED: Final = re.compile(r"\.lost [1-9]|ecc_volatile_uncorrected [1-9]")
LEAVES: Final = re.compile(r"drain|down|fail")
AWAY: Final = re.compile(r"[Uu]nable to contact|refused|timed? ?out|Zero Bytes|reset by peer")
"""What Slurm's commands say when a daemon is away."""
EMPTY: Final = re.compile(r"drained|down")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run of a plan has cost. GPU-hours are simulated ones.

    Args:
        lost_jobs: accepted, and not complete in the end.
        excused_jobs: those of them that slurmctld acknowledged less than 10 s before it was killed.
        stuck_jobs: still in the queue then.
        left_drained: nodes out of service when everything was mended.
        drained_healthy: nodes that the layer drained though nothing but an application failed on them.
        silent: runs that Slurm took for running though they had ended; users requeued them.
        out_of_service: GPU-hours of nodes that were drained or down.
        minutes_per_fault: what a fault cost all jobs together, on average: lost, but for each job's first start, and
            waited.
        ettr_expected: of a job on all nodes at the published rate, each failure costing as much as here.
    """

    layer: bool
    jobs: int
    complete: int
    lost_jobs: tuple[str, ...]
    excused_jobs: tuple[str, ...]
    stuck_jobs: tuple[str, ...]
    restarts: int
    ettr: float
    productive: float
    lost: float
    waiting: float
    out_of_service: float
    minutes_per_fault: float
    ettr_expected: float
    faults: int
    skipped: int
    kills: int
    silent: int
    incidents: int
    left_drained: tuple[str, ...]
    drained_healthy: tuple[str, ...]
    ledger_faults: tuple[str, ...]
    seconds: float

    @property
    def good(self) -> bool:
        """Nothing is lost, stuck, left behind or unexplained."""
        return not (
            self.lost_jobs or self.stuck_jobs or self.left_drained or self.drained_healthy or self.ledger_faults
        )


@dataclass(kw_only=True)
class Damage:
    """A fault that is still there. Times are real seconds of the monotonic clock."""

    fault: Fault
    since: float
    until: float | None
    """When it passes by itself."""

    @property
    def harmful(self) -> bool:
        """Somebody notices it sooner or later."""
        return self.fault.signal.harm is not Harm.NONE


@dataclass
class Campaign:
    """Args:
    compress: simulated seconds in a real one.
    """

    instance: Instance
    plan: Plan
    layer: bool
    compress: float
    note: Note = field(default=lambda text: None)
    accepted: dict[str, tuple[Work, float]] = field(default_factory=dict)
    """Job id to what it is and when Slurm took it."""
    killed: list[tuple[float, str]] = field(default_factory=list)
    skipped: int = 0
    silent: int = 0
    out_node_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._names = tuple(self.instance.cluster.node_names())
        self._damage: dict[str, list[Damage]] = defaultdict(list)
        self._met: dict[str, set[int]] = defaultdict(set)
        """XIDs that each node has seen, -1 for trouble without one."""
        self._asked_again: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        """When an order was seen first, and when a part will have been replaced."""
        self._due: dict[str, float] = {}
        """When the repair of an empty node is done."""
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._services = {
            service.name: service for service in (GPUAASD, agent(self.instance), SLURMCTLD, SLURMDBD, SLURMRESTD)
        }
        self._start = self._looked = 0.0

    def run(self) -> Result:
        """Carry out the plan on an instance that is up with its daemon, and wait until all jobs and repairs are over.

        Raises:
            TestbedError: jobs or repairs did not end in time.
        """
        self._prepare()
        began = self._start = self._looked = time.monotonic()
        with ThreadPoolExecutor(max_workers=4) as pool:
            crew = pool.submit(self._until_over, self._crew, CREW_EVERY_S)
            check = None if self.layer else pool.submit(self._until_over, self._check, CHECK_EVERY / self.compress)
            try:
                kills = pool.submit(self._follow, [(kill.at, self._killer(kill.service)) for kill in self.plan.kills])
                jobs = pool.submit(
                    self._follow,
                    sorted(((work.at, self._submitter(work)) for work in self.plan.jobs), key=lambda one: one[0]),
                )
                self._follow([(fault.at, self._breaker(fault)) for fault in self.plan.faults])
                jobs.result()
                kills.result()
                self._settle()
            finally:
                self._over.set()
            crew.result()
            if check is not None:
                check.result()
        return self._result(time.monotonic() - began)

    # ------------------------------------------------------------------ before

    def _prepare(self) -> None:
        instance, cluster = self.instance, self.instance.cluster
        for folder in (FOLDER, f"{FOLDER}/broken", f"{FOLDER}/jobs", f"{FOLDER}/orders"):
            instance.make_folder(folder, mode=0o1777)
        instance.write(f"{FOLDER}/job.sh", SCRIPT.read_text(), mode=0o755)
        instance.write(f"{FOLDER}/repair", REPAIR, mode=0o755)
        instance.write(f"{FOLDER}/policy.yaml", yaml.safe_dump_all(_policy(cluster)))
        instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", f"{FOLDER}/policy.yaml"])
        instance.wait_for("The hook's snapshot", lambda: "\tchaos\t" in self._snapshot())
        # One that is killed in its first five minutes never starts again: it has not yet written its assoc_usage file.
        instance.stop(SLURMCTLD)
        instance.start(SLURMCTLD)
        self._stop_layer()
        if self.layer:
            config = yaml.safe_load(slurmconf.gpuaasd_yaml(cluster))
            config["health"] = _health(self.compress)
            instance.write("/etc/gpuaas/gpuaasd.yaml", yaml.safe_dump(config))
            instance.start(GPUAASD)
            instance.start(self._services["gpuaas-agent"])
            instance.wait_for("The hook's snapshot", lambda: "\tchaos\t" in self._snapshot())

    def _snapshot(self) -> str:
        path = self.instance.path("/run/gpuaas/snapshot")
        return path.read_text() if path.is_file() else ""

    def _stop_layer(self) -> None:
        """Leaves plain Slurm with the limits and partitions of the policy: that is what Slurm holds by itself."""
        for service in (self._services["gpuaas-agent"], GPUAASD):
            self.instance.stop(service)
        self.instance.path("/run/gpuaas/snapshot").unlink(missing_ok=True)
        for name in re.findall(r"ReservationName=(\S+)", self._ask("scontrol", "show", "reservation")):
            self._ask("scontrol", "delete", f"reservationname={name}")

    # ------------------------------------------------------------------ deeds of the plan

    def _follow(self, deeds: Sequence[tuple[float, Callable[[], None]]]) -> None:
        try:
            for at, deed in deeds:
                if self._over.wait(max(0.0, self._start + at / self.compress - time.monotonic())):
                    return  # somebody else has failed
                deed()
        except BaseException:
            self._over.set()
            raise

    def _submitter(self, work: Work) -> Callable[[], None]:
        def submit() -> None:
            times = (work.seconds, CHECKPOINT, START, WATCHDOG)
            argv = ["sbatch", "--parsable", "--requeue", "--output=/dev/null", "--time=60", "--job-name=chaos"]
            if not self.layer:  # the hook would say so
                argv += ["--account=chaos", f"--partition={PARTITION}", "--qos=guaranteed-chaos"]
            argv += [f"--nodes={work.nodes}", f"--gpus-per-node={self.instance.cluster.gpus}", f"{FOLDER}/job.sh"]
            argv += [str(round(seconds / self.compress * 1e6)) for seconds in times]
            job = self._insist(argv, user=USER).strip()
            self.accepted[job] = (work, time.monotonic())

        return submit

    def _breaker(self, fault: Fault) -> Callable[[], None]:
        def break_it() -> None:
            names = [self._names[number] for number in fault.nodes]
            with self._lock:
                if any(self._damage[name] for name in names) or (self._out(names) and not fault.cause.network):
                    self.skipped += 1
                    return
                now = time.monotonic()
                until = now + fault.repair / self.compress if fault.cause.passes else None
                for name in names:
                    if fault.repair and not fault.cause.planned:
                        self._damage[name].append(Damage(fault=fault, since=now, until=until))
                    self._met[name].update(fault.signal.xids or (-1,))
            for name in names:
                self._show(name, fault)
            if fault.cause.planned:
                self._scontrol(names[0], "drain", "maintenance: planned")
            self.note(f"{(now - self._start) * self.compress / MINUTE:.0f} min: {fault.cause.name} of {names[0]}")

        return break_it

    def _show(self, name: str, fault: Fault) -> None:
        """What a fault does to hardware and jobs of one node."""
        hardware = self._hardware(name)
        signal = fault.signal
        if signal.harm in (Harm.CRASH, Harm.HANG):
            self.instance.write(f"{FOLDER}/broken/{name}", f"{signal.harm}\n")
        elif signal.harm in (Harm.JOB_CRASH, Harm.JOB_HANG):
            for job in self._ask("squeue", "-h", "-t", "R", "-w", name, "-o", "%A").split()[:1]:
                harm = Harm.CRASH if signal.harm is Harm.JOB_CRASH else Harm.HANG
                self.instance.write(f"{FOLDER}/jobs/{job}.fault", f"{harm}\n", owner=USER)
        if signal.sign is Sign.GONE:
            hardware.set(fault.gpu, {"lost": "1", "recovery_action": "2"})
        elif signal.sign is Sign.ECC:
            hardware.set(fault.gpu, {"ecc_volatile_uncorrected": "1"})
        elif signal.sign is Sign.HOT:
            hardware.set(fault.gpu, {"temperature": "93"})
        for xid in signal.xids:
            line = hardware.xid(xid, fault.gpu)
            for _ in range(fault.lines - 1):
                hardware.log(line)
        if fault.cause.down:
            timer = threading.Timer(GIVEN_UP_AFTER / self.compress, self._scontrol, (name, "down", "Not responding"))
            timer.daemon = True
            timer.start()

    def _killer(self, name: str) -> Callable[[], None]:
        service: Service = self._services[name]

        def kill() -> None:
            if not self.layer and name in (GPUAASD.name, "gpuaas-agent"):
                return
            self.instance.stop(service, signal_name="KILL")
            self.killed.append((time.monotonic(), name))
            self.note(f"{name} killed")
            self._start_again(service)

        return kill

    def _start_again(self, service: Service) -> None:
        """As a unit file with Restart=always would."""
        for attempt in range(RESTARTS):
            self._over.wait(RESTART_S)
            try:
                self.instance.start(service)
            except ServiceFailed:
                if attempt == RESTARTS - 1:
                    raise
            else:
                return

    # ------------------------------------------------------------------ people and the plain check

    def _until_over(self, step: Callable[[], None], every: float) -> None:
        while not self._over.wait(every):
            with suppress(GpuaasError):  # a service is away, the next turn sees it again
                step()

    def _check(self) -> None:
        """The plain check of all nodes in service: what `nvidia-smi` would show."""
        states = self._states()
        for name in self._names:
            text = (self.instance.path("/run/gpuaas-sim") / name / "nvml.state").read_text()
            if GONE_OR_COUNTED.search(text) and not LEAVES.search(states.get(name, "")):
                self._scontrol(name, "drain", "NHC: GPUs missing or with uncorrectable errors")

    def _crew(self) -> None:
        now = time.monotonic()
        self._pass(now)
        states = self._states()
        ours = self._ours()
        looked = time.monotonic()
        self.out_node_seconds += (looked - self._looked) * sum(1 for state in states.values() if LEAVES.search(state))
        self._looked = looked
        for name in self._names:
            if name in ours or not EMPTY.search(states.get(name, "")):
                self._due.pop(name, None)
                self._ticket(name, states.get(name, ""), now)
            elif name not in self._due:
                self._due[name] = now + self._repair_seconds(name) / self.compress
            elif now >= self._due[name]:
                self._bring_back(name)
        self._requeue_the_silent()
        if self.layer:
            self._carry_out_orders(now)
            self._look_at_incidents()

    def _ours(self) -> frozenset[str]:
        """Nodes that gpuaasd repairs by itself."""
        if not self.layer:
            return frozenset()
        rows = self._ask("sinfo", "-h", "-N", "-o", "%N %E").splitlines()
        return frozenset(name for name, reason in (row.split(" ", 1) for row in rows) if reason.startswith("gpuaas:"))

    def _requeue_the_silent(self) -> None:
        """A slurmctld that is killed forgets the ends of its last seconds: it takes those jobs for running until their
        time limit. Users see that they write nothing any more and requeue them."""
        now = time.time()
        argv = ["squeue", "-h", "-t", "R", "-o", "%A %S"]
        for row in self._insist(argv, env={"SLURM_TIME_FORMAT": "%s"}).splitlines():
            job, started = row.split()
            sign = self.instance.path(f"{FOLDER}/jobs") / f"{job}.alive"
            silent = now - max(float(started), sign.stat().st_mtime if sign.exists() else 0.0)
            if silent > SILENT_S and now - self._asked_again.get(job, 0.0) > SILENT_S:
                self._asked_again[job] = now
                self.silent += 1
                with suppress(CommandFailed):
                    self._ask("scontrol", "requeue", job)

    def _carry_out_orders(self, now: float) -> None:
        """What gpuaasd's repair program asked for. A reset or reboot helps where that is the fault's repair; for
        all else people come, when they are asked to replace the part."""
        for order in self.instance.path(f"{FOLDER}/orders").iterdir():
            if order.suffix in (".done", ".failed") or order.with_name(f"{order.name}.done").exists():
                continue
            name, _, remedy = order.name.split(",")
            began = self._begun.setdefault(order.name, now)
            with self._lock:
                bench = any(damage.fault.cause.repair == BENCH for damage in self._damage[name])
            helps = remedy == "replace" or not bench
            seconds = 0.0 if remedy == "replace" else self._repair_seconds(name) if helps else RUNG
            if now >= began + seconds / self.compress:
                if remedy != "replace" and helps:
                    self._mend(name)
                order.with_name(f"{order.name}.{'done' if helps else 'failed'}").touch()

    def _mend(self, name: str) -> None:
        with self._lock:
            self._damage[name].clear()
            self._heal(name)

    def _pass(self, now: float) -> None:
        """End what passes by itself."""
        with self._lock:
            for name, damages in self._damage.items():
                over = [damage for damage in damages if damage.until is not None and now >= damage.until]
                for damage in over:
                    damages.remove(damage)
                if over and not damages:
                    self._heal(name)

    def _ticket(self, name: str, state: str, now: float) -> None:
        """Users complain of a node that keeps costing them jobs and that nobody took out."""
        with self._lock:
            old = any(
                damage.until is None and damage.harmful and now - damage.since > TICKET_AFTER / self.compress
                for damage in self._damage[name]
            )
        if old and not LEAVES.search(state):
            self._scontrol(name, "drain", "ticket: jobs keep failing here")

    def _repair_seconds(self, name: str) -> float:
        with self._lock:
            return max((damage.fault.repair for damage in self._damage[name]), default=UNKNOWN_REPAIR)

    def _bring_back(self, name: str) -> None:
        self._mend(name)
        if self.layer:
            with self._client() as client:
                for incident in client.incidents(node=name):
                    client.close_incident(incident.id, "mended")
        if LEAVES.search(self._states().get(name, "")):
            self._scontrol(name, "resume", "")
        self._due.pop(name, None)

    def _look_at_incidents(self) -> None:
        """Incidents that ask for a person: a part is replaced; where nothing is broken they are closed, else the node
        is taken out."""
        with self._client() as client:
            for incident in client.incidents():
                if incident.state is IncidentState.RMA:
                    due = self._begun.setdefault(
                        incident.id, time.monotonic() + self._repair_seconds(incident.node) / self.compress
                    )
                    if time.monotonic() >= due:
                        self._mend(incident.node)
                        client.verify_incident(incident.id, "part replaced")
                    continue
                age = time.time() - incident.opened_at.timestamp()
                if incident.state is not IncidentState.SUSPECT or age < LOOK_AFTER / self.compress:
                    continue
                if incident.drain.value != "review":
                    continue  # waits for the circuit breaker
                if self._damage[incident.node]:
                    self._scontrol(incident.node, "drain", f"review: {incident.id}")
                else:
                    client.close_incident(incident.id, "looked at, nothing wrong")

    def _heal(self, name: str) -> None:
        (self.instance.path(f"{FOLDER}/broken") / name).unlink(missing_ok=True)
        hardware = self._hardware(name)
        for gpu in range(self.instance.cluster.gpus):
            hardware.set(gpu, {"ecc_volatile_uncorrected": "0", "temperature": "34"})
        hardware.reboot()

    # ------------------------------------------------------------------ after

    def _settle(self) -> None:
        """Wait until no job is left and every node is mended and back."""
        self.note("waiting for the last jobs and repairs")

        def over() -> bool:
            with suppress(GpuaasError):
                left = self._ask("squeue", "-h", "-o", "%A").split()
                out = [name for name, state in self._states().items() if LEAVES.search(state)]
                harmful = any(damage.harmful for damages in self._damage.values() for damage in damages)
                return not left and not out and not harmful and not self._open_incidents()
            return False

        deadline = time.monotonic() + SETTLE_S
        while not over() and time.monotonic() < deadline:  # what is left then is in the result
            time.sleep(0.5)

    def _open_incidents(self) -> int:
        if not self.layer:
            return 0
        with self._client() as client:
            return len(client.incidents())

    def _result(self, seconds: float) -> Result:
        runs = self._accounting()
        complete = {
            job for job, (work, _) in self.accepted.items() if self._saved(job) >= work.seconds / self.compress - 1e-6
        }
        effects: list[tuple[int, Effect]] = []
        restarts = 0
        wasted = 0.0
        for job, (work, _) in self.accepted.items():
            gpus = work.nodes * self.instance.cluster.gpus
            productive = min(self._saved(job), work.seconds / self.compress)
            effect = effect_of(runs[job], productive=productive)
            effects.append((gpus, effect))
            restarts += max(0, len(runs[job]) - 1)
            wasted += max(0.0, effect.lost - START / self.compress) + effect.waiting
        lost = sorted(self.accepted.keys() - complete)
        excused = sorted(job for job in lost if self._excused(self.accepted[job][1]))
        whole = total(effects)
        hours = self.compress / HOUR
        done = len(self.plan.faults) - self.skipped
        cost = wasted * self.compress / done if done else 0.0
        incidents, faults, healthy = self._ledger() if self.layer else (0, (), ())
        return Result(
            layer=self.layer,
            jobs=len(self.accepted),
            complete=len(self.accepted) - len(lost),
            lost_jobs=tuple(job for job in lost if job not in excused),
            excused_jobs=tuple(excused),
            stuck_jobs=tuple(self._ask("squeue", "-h", "-o", "%A").split()),
            restarts=restarts,
            ettr=whole.ettr,
            productive=whole.productive * hours,
            lost=whole.lost * hours,
            waiting=whole.waiting * hours,
            out_of_service=self.out_node_seconds * self.instance.cluster.gpus * hours,
            minutes_per_fault=cost / MINUTE,
            ettr_expected=expected_ettr(nodes=len(self._names), per_node_day=PUBLISHED_RATE / 1_000, cost=cost),
            faults=done,
            skipped=self.skipped,
            kills=len(self.killed),
            silent=self.silent,
            incidents=incidents,
            left_drained=tuple(sorted(name for name, state in self._states().items() if LEAVES.search(state))),
            drained_healthy=healthy,
            ledger_faults=faults,
            seconds=seconds,
        )

    def _excused(self, accepted_at: float) -> bool:
        return any(service == SLURMCTLD.name and 0 <= at - accepted_at <= SAVED_WITHIN_S for at, service in self.killed)

    def _accounting(self) -> dict[str, list[Run]]:
        """Every run of every job. One whose end was told to a slurmctld that was then killed has no end in accounting
        (a runaway job): it ends with the job's last sign of life, or as the next one starts."""
        argv = ["sacct", "-D", "-X", "-nP", "-a", "--starttime=now-1day", "--format=JobIDRaw,Start,End"]

        def read() -> list[list[str]]:
            rows = self._insist(argv, env={"SLURM_TIME_FORMAT": "%s"}).splitlines()
            return [row.split("|") for row in rows if row.split("|")[1].isdigit()]

        with suppress(ServiceFailed):
            self.instance.wait_for("Ends", lambda: all(end.isdigit() for *_, end in read()), seconds=20, every=1)
        runs: dict[str, list[Run]] = defaultdict(list)
        for job, started, ended in sorted(read(), key=lambda row: int(row[1]), reverse=True):
            if job in self.accepted:
                sign = self.instance.path(f"{FOLDER}/jobs") / f"{job}.alive"
                last = sign.stat().st_mtime if sign.exists() else float(started)
                unknown = min([last, *(run.started for run in runs[job])])
                end = float(ended) if ended.isdigit() else max(float(started), unknown)
                runs[job].append(Run(started=float(started), ended=end))
        return runs

    def _saved(self, job: str) -> float:
        """Real seconds of progress in a job's last checkpoint; a complete one writes one at its end."""
        path = self.instance.path(f"{FOLDER}/jobs") / f"{job}.saved"
        return int(path.read_text()) / 1e6 if path.is_file() else 0.0

    def _ledger(self) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
        """Number of incidents, what does not add up, and healthy nodes that were drained."""
        argv = [f"{VENV}/bin/python", "-m", "slurm_gpuaas.testbed.chaos_ledger", STORE]
        told = json.loads(self.instance.exec(argv, user="gpuaas", env={"PYTHONPATH": SOURCE}).stdout)
        states = {one["id"]: IncidentState(one["state"]) for one in told["incidents"]}
        faults = ledger_faults(
            states,
            {one["id"]: one["jobs"] for one in told["incidents"]},
            [
                Step(
                    incident=one["incident"],
                    before=IncidentState(one["before"]) if one["before"] else None,
                    after=IncidentState(one["after"]),
                )
                for one in told["steps"]
            ],
            [Entry(incident=one["incident"], action=one["action"], job=one["job"]) for one in told["audit"]],
            told["open_effects"],
        )
        faults += [f"{incident} is still {state}." for incident, state in states.items() if state != "closed"]
        drained = {one["subject"] for one in told["audit"] if one["action"] == "node.drain"}
        healthy = sorted(name for name in drained if self._met[name] <= APPLICATION | {-1})
        return len(states), tuple(faults), tuple(healthy)

    # ------------------------------------------------------------------ asking

    def _client(self) -> Client:
        return Client(self.instance.path("/run/gpuaas") / "gpuaasd.sock")

    def _hardware(self, name: str) -> SimulatedNode:
        return SimulatedNode(self.instance.path("/run/gpuaas-sim") / name)

    def _states(self) -> dict[str, str]:
        rows = self._ask("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return dict(row.split() for row in rows)

    def _out(self, names: Iterable[str]) -> bool:
        states = self._states()
        return any(LEAVES.search(states.get(name, "")) for name in names)

    def _scontrol(self, name: str, state: str, reason: str) -> None:
        argv = ["scontrol", "update", f"nodename={name}", f"state={state}"]
        with suppress(CommandFailed):  # already so
            self._insist([*argv, f"reason={reason}"] if reason else argv)

    def _ask(self, *argv: str) -> str:
        return self._insist(argv)

    def _insist(self, argv: Sequence[str], *, user: str = "root", env: dict[str, str] | None = None) -> str:
        """What a command prints; tried again for a while, since slurmctld or slurmdbd may be away."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.instance.exec(argv, user=user, env=env, cwd="/tmp").stdout  # noqa: S108
            except CommandFailed as failed:
                if time.monotonic() > deadline or not AWAY.search(failed.stderr):
                    raise
                time.sleep(0.5)


def _health(compress: float) -> dict[str, object]:
    """gpuaasd's configuration: the whole ladder, with times compressed."""
    program = {"command": [f"{FOLDER}/repair", "{node}", "{attempt}", "{remedy}"]}
    return {
        "interval": 1,
        "spares": {"nodes": SPARES, "interval": 1},
        "breaker": {"window": BREAKER_WINDOW / compress},
        "repair": dict.fromkeys(("reset", "reboot", "replace"), program),
        "verification": {},
        "probation": {"duration": PROBATION / compress, "largest_job": 1},
    }


def _policy(cluster: Cluster) -> Iterable[dict[str, object]]:
    """All nodes but the spares guaranteed to one project, whose only member submits the jobs."""
    yield {"kind": "Organisation", "name": "chaos"}
    yield {"kind": "Project", "name": "chaos", "organisation": "chaos"}
    yield {"kind": "Member", "project": "chaos", "user": USER}
    share = {"name": "all", "nodes": cluster.hostlist}
    yield {"kind": "Pool", "name": "chaos", "cluster": cluster.name, "model": cluster.model, "shares": [share]}
    grant = {"gpus": (cluster.nodes - SPARES) * cluster.gpus, "starts": "2020-01-01", "ends": "2098-12-31"}
    yield {"kind": "Grant", "name": "chaos", "project": "chaos", "pool": "chaos", "share": "all", **grant}


def campaign(
    plan: Plan, *, profile: str, name: str, layer: bool, compress: float, progress: Progress | None = None
) -> Result:
    """Carry out a plan on a testbed of its own, which is gone afterwards.

    Args:
        name: of the testbed; one of that name is ended first.
        layer: with gpuaasd and its agent, else with the plain check.

    Raises:
        TestbedError: it could not be booted, or Slurm's accounting did not come to an end.
    """
    shown = progress or SilentProgress()
    end(name)
    instance = Instance.up(profile, name, progress=shown)
    try:
        with shown.step(f"{name}: {plan.hours:g} hours, {'with' if layer else 'without'} the layer") as note:
            return Campaign(instance, plan, layer, compress, note).run()
    except TestbedError as error:
        error.way_out = f"Its logs were kept in {instance.keep_logs(Cache.default().logs / name)}."
        raise
    finally:
        instance.down()
