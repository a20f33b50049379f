"""A storm on 1,032 GPUs of real Slurm: thousands of submissions while limits, nodes and jobs come and go.

At every sampled moment a project uses at most its limit, or at most what it used when the limit was lowered, with
nothing new started above it. The limits are the policy's, never what Slurm says of itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from slurm_gpuaas.testbed.instance import Instance

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

SUBMISSIONS = 2_000
SEED = 20_261_125
USERS = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy")
NODES = 129
PER_NODE = 8
POLICY = "/run/storm.yaml"
PARTITION = "storm-all"
LIMIT_CHANGES, NODE_LOSSES, CANCELLATIONS = 25, 25, 200

FORMAT, GPUS = "JobID:20,Account:40,QOS:60,tres-alloc:200", "gres/gpu="
GUARANTEED, TOTAL = "guaranteed", "total"


@dataclass
class Limits:
    """Each project's guarantee and borrow limit (None: no bound)."""

    by_project: dict[str, tuple[int, int | None]]

    def documents(self) -> Iterator[dict[str, Any]]:
        yield {"kind": "Organisation", "name": "storm"}
        yield {
            "kind": "Pool", "name": "storm", "cluster": "haein", "model": "b200", "grace": 0,
            "shares": [{"name": "all", "nodes": f"b200-[001-{NODES}]", "partition": PARTITION, "spares": 4}],
        }  # fmt: skip
        for user, (project, (gpus, borrow)) in zip(USERS, self.by_project.items(), strict=True):
            yield {"kind": "Project", "name": project, "organisation": "storm"}
            yield {"kind": "Member", "project": project, "user": user}
            yield {
                "kind": "Grant", "name": f"{project}-1", "project": project, "pool": "storm", "share": "all",
                "gpus": gpus, "starts": "2020-01-01", "ends": "2098-12-31",
                **({} if borrow is None else {"borrow_limit": borrow}),
            }  # fmt: skip

    def bounds(self) -> Mapping[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for project, (gpus, borrow) in self.by_project.items():
            found[project, GUARANTEED] = gpus
            found[project, TOTAL] = float("inf") if borrow is None else gpus + borrow
        return found


@dataclass
class Witness:
    """Samples what runs and holds it against the limits; while a change of limits is under way both hold."""

    instance: Instance
    before: Mapping[tuple[str, str], float]
    after: Mapping[tuple[str, str], float]
    allowed: dict[tuple[str, str], float] = field(default_factory=dict)
    samples: int = 0
    most: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self) -> None:
        while not self.stop.is_set():
            with self.lock:
                bounds = {key: max(self.before[key], self.after[key]) for key in self.after}
            self._look(bounds)

    def _look(self, bounds: Mapping[tuple[str, str], float]) -> None:
        rows = self.instance.exec(["squeue", "-h", "-t", "R", "-p", PARTITION, "-O", FORMAT]).stdout.splitlines()
        with self.lock:
            if any(max(self.before[key], self.after[key]) != bound for key, bound in bounds.items()):
                return  # the limits moved while we looked
        use: Counter[tuple[str, str]] = Counter()
        for row in rows:
            _job, account, qos, tres = row.split()
            count = next(int(part[len(GPUS) :]) for part in tres.split(",") if part.startswith(GPUS))
            use[account, TOTAL] += count
            if qos.startswith("guaranteed"):
                use[account, GUARANTEED] += count
        self.samples += 1
        for key, bound in bounds.items():
            # a ratchet: above a lowered limit use may only fall
            allowed = max(bound, self.allowed.get(key, bound))
            if use[key] > allowed:
                self.violations.append(f"{key}: {use[key]} in use, {allowed:g} allowed (limit {bound:g})")
            self.allowed[key] = max(bound, min(allowed, use[key])) if use[key] > bound else bound
            self.most[key] = max(self.most[key], use[key])


@dataclass
class Storm:
    instance: Instance
    limits: Limits
    witness: Witness
    chance: random.Random
    jobs: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    down: list[str] = field(default_factory=list)

    def submit(self) -> None:
        user = self.chance.choice(USERS)
        nodes = self.chance.choices((1, 2, 4, 8, 16), (12, 4, 2, 1, 1))[0]
        gpus = self.chance.choice((1, 2, 4, 8)) if nodes == 1 else PER_NODE
        qos = self.chance.choice(("guaranteed", "burst"))
        argv = ["sbatch", "--parsable", f"--qos={qos}", f"--nodes={nodes}", f"--gpus-per-node={gpus}", "--time=10"]
        argv += ["--requeue", "--output=/dev/null", f"--wrap=sleep {self.chance.randint(1, 20)}"]
        done = self.instance.exec(argv, user=user, cwd="/tmp", check=False)
        if done.returncode == 0:
            self.jobs.append(done.stdout.strip())
        else:
            self.refused[done.stderr.splitlines()[0][:60]] += 1

    def change_limits(self) -> None:
        """One project gets other limits; the sum of guarantees stays below what the share has."""
        project = self.chance.choice(list(self.limits.by_project))
        after = dict(self.limits.by_project)
        after[project] = (self.chance.choice((0, 8, 32, 64, 96)), self.chance.choice((None, 0, 8, 32, 128)))
        self.limits = Limits(after)
        with self.witness.lock:
            self.witness.after = self.limits.bounds()
        apply(self.instance, self.limits)
        with self.witness.lock:
            self.witness.before = self.witness.after

    def lose_a_node(self) -> None:
        """Another one goes down; the third before it comes back."""
        node = f"b200-{self.chance.randint(1, NODES):03}"
        if node in self.down:
            return
        self.instance.exec(["scontrol", "update", f"nodename={node}", "state=down", "reason=storm"])
        self.down.append(node)
        if len(self.down) > 3:
            self.resume(self.down.pop(0))

    def resume(self, node: str) -> None:
        self.instance.exec(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)

    def cancel(self) -> None:
        if self.jobs:
            self.instance.exec(["scancel", "--quiet", self.chance.choice(self.jobs[-100:])], check=False)


def apply(instance: Instance, limits: Limits) -> None:
    instance.write(POLICY, yaml.safe_dump_all(limits.documents()))
    instance.exec(["gpuaas", "policy", "apply", "--yes", "-f", POLICY])


@pytest.fixture(scope="module")
def haein() -> Iterator[Instance]:
    instance = Instance.up("haein", "soak-storm")
    yield instance
    instance.down()


def test_use_never_passes_the_limits_in_a_storm(haein: Instance) -> None:
    limits = Limits({f"p{number}": (48, (None, 0, 16, 64)[number % 4]) for number in range(len(USERS))})
    apply(haein, limits)
    haein.wait_for("The hook's snapshot", lambda: "\tp9\t" in haein.path("/run/gpuaas/snapshot").read_text() or None)
    witness = Witness(haein, limits.bounds(), limits.bounds())
    storm = Storm(haein, limits, witness, random.Random(SEED))
    deeds = [storm.submit] * SUBMISSIONS + [storm.change_limits] * LIMIT_CHANGES
    deeds += [storm.lose_a_node] * NODE_LOSSES + [storm.cancel] * CANCELLATIONS
    storm.chance.shuffle(deeds)
    watching = threading.Thread(target=witness.watch)
    began = time.monotonic()
    watching.start()
    try:
        for deed in deeds:
            deed()
    finally:
        witness.stop.set()
        watching.join()
    seconds = time.monotonic() - began
    for node in storm.down:
        storm.resume(node)
    print(
        f"seed {SEED}: {len(deeds)} deeds in {seconds:.0f} s, {len(storm.jobs)} jobs accepted, refused: "
        f"{dict(storm.refused)}; {witness.samples} samples, {len(witness.violations)} violations; most in use: "
        f"{ {f'{project} {kind}': use for (project, kind), use in sorted(witness.most.items())} }"
    )
    assert not witness.violations, "\n".join(witness.violations[:20])
    assert witness.samples > SUBMISSIONS / 10, "too few looks to mean anything"
    assert len(storm.jobs) > SUBMISSIONS / 2
    haein.exec(["scontrol", "ping"])
    plan = haein.exec(["gpuaas", "policy", "plan"], check=False)
    assert plan.returncode == 0, plan.stdout
    haein.exec(["scancel", "--quiet", "--partition", PARTITION])
    haein.wait_for("No job left", lambda: not haein.exec(["squeue", "-h", "-p", PARTITION]).stdout or None, seconds=180)
