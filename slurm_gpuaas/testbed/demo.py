"""The demo: the whole loop on 1,032 simulated GPUs of real Slurm, each step verified by asking Slurm itself.

A step does something as the person would who does it in production (`gpuaas`, `sbatch`) and then looks at Slurm with
Slurm's own tools. What Slurm says decides: a step whose real state is not what it claims fails the demo and is named.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from slurm_gpuaas.domain.policy import expand_nodes
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.rootfs import SOURCE, TORCH_INSIDE
from slurm_gpuaas.testbed.story import StepFailed, Story, fields_of

POLICY: Final = f"{SOURCE}/etc/examples/policy-haein.yaml"
TEMPLATE: Final = f"{SOURCE}/job_templates/torchrun"
RESEARCHER: Final = "alice"
PROJECT: Final = "snu-llm"
TRAINER: Final = "bob"
OUTSIDER: Final = "mallory"
TRAINING_NODES: Final = 16
LAUNCHED: Final = "launched on "
"""What the light launcher prints on each node."""
GPUS_PER_NODE: Final = 8
FAULTY_GPU: Final = 3


@dataclass(slots=True)
class Demo(Story):
    """Runs the steps in order against an instance that is up."""

    instance: Instance

    def run(self) -> None:
        """Run every step.

        Raises:
            StepFailed: at the first step whose claim Slurm does not confirm; the table up to it is printed before.
        """
        try:
            self._fleet_is_idle()
            self._daemon_is_ready()
            self._policy_is_in_slurm()
            self._outsider_is_refused()
            notebook = self._member_is_accepted()
            job, nodes = self._training_job_is_on_fewest_leaves()
            self._xid_drains_the_node(nodes[TRAINING_NODES // 2])
            self._job_runs_again_without(job, nodes, nodes[TRAINING_NODES // 2])
            self._usage_equals_accounting(notebook)
        finally:
            self.print_table()

    # ------------------------------------------------------------------ steps

    def _fleet_is_idle(self) -> None:
        with self.step("1,032 GPUs of 129 nodes are up", "sinfo -h -N -o '%T %G'") as done:
            rows = self.until(
                lambda: [
                    row.split() for row in self._ask("sinfo", "-h", "-N", "-p", "all", "-o", "%T %G").splitlines()
                ],
                lambda rows: len(rows) == 129 and all(state == "idle" for state, _ in rows),
                "129 nodes idle",
            )
            gpus = sum(int(found.group(1)) for _, gres in rows if (found := re.search(r"gpu:\w+:(\d+)", gres)))
            self.claim(gpus == 1032, f"1,032 GPUs expected, Slurm has {gpus}")
            done(f"{len(rows)} nodes idle, {gpus:,} GPUs")

    def _daemon_is_ready(self) -> None:
        with self.step("gpuaasd is at work", "gpuaas status --json; sacctmgr show user gpuaas") as done:
            status = self.until(
                lambda: self._gpuaas("status"),
                lambda status: status["leader"] and status["slurm_version"],
                "gpuaasd to lead and to reach Slurm",
            )
            level = self._ask("sacctmgr", "-nP", "show", "user", "gpuaas", "format=AdminLevel").strip()
            self.claim(level == "Administrator", f"user gpuaas has AdminLevel {level!r}")
            done(f"leads, reaches Slurm {status['slurm_version']} by {status['driver']['name']}, AdminLevel {level}")

    def _policy_is_in_slurm(self) -> None:
        with self.step("Policy applied", "sacctmgr show qos; scontrol show partition") as done:
            self._run("gpuaas", "policy", "apply", "-f", POLICY, "--yes")
            limits = {
                name: tres
                for name, _, tres in (
                    row.partition("|")
                    for row in self._ask("sacctmgr", "-nP", "show", "qos", "format=Name,GrpTRES").splitlines()
                )
                if name.startswith("guaranteed-")
            }
            wanted: Counter[str] = Counter()
            for document in self._gpuaas("policy", "export")["documents"]:
                if document["kind"] == "Grant":
                    wanted[document["project"]] += document["gpus"]
            for project, gpus in wanted.items():
                has = limits.get(f"guaranteed-{project}", "")
                self.claim(
                    f"gres/gpu={gpus}" in has.split(","), f"QOS of {project} has {has!r}, {gpus} GPUs were granted"
                )
            partition = self._partition()
            done(f"{len(wanted)} projects, {wanted.total()} GPUs guaranteed; AllowQos of partition {partition} follows")

    def _outsider_is_refused(self) -> None:
        with self.step(f"{OUTSIDER} (no member) is refused by the hook", "sbatch; squeue -u") as done:
            answer = self.instance.exec(
                ["sbatch", f"--account={PROJECT}", "--gpus-per-node=8", "--nodes=1", "--wrap=true"],
                user=OUTSIDER,
                check=False,
            )
            self.claim(answer.returncode != 0, "sbatch accepted the job")
            queued = self._ask("squeue", "-h", "-u", OUTSIDER)
            self.claim(not queued.strip(), f"squeue shows {queued!r}")
            words = " ".join(answer.stderr.replace("sbatch: error:", "").split())
            self.claim(OUTSIDER in words and "project" in words, f"the refusal says {words!r}")
            done(f'"{words.partition(" Batch job")[0]}"')

    def _member_is_accepted(self) -> int:
        with self.step(f"{RESEARCHER} submits without account, QOS or partition", "scontrol show job") as done:
            job = self._submit("--gpus-per-node=2", "--nodes=1", "--time=10", "--job-name=notebook", "--wrap=sleep 600")
            shown = self._job_until(job, "RUNNING")
            self.claim(shown["Account"] == PROJECT, f"account {shown['Account']}")
            self.claim(shown["QOS"] == f"guaranteed-{PROJECT}", f"QOS {shown['QOS']}")
            tres = shown["AllocTRES"]
            self.claim("gres/gpu:b200=2" in tres.split(","), f"AllocTRES {tres}")
            done(f"job {job} runs as {shown['Account']}, {shown['QOS']}, {shown['Partition']}, GPU type set")
        return job

    def _training_job_is_on_fewest_leaves(self) -> tuple[int, tuple[str, ...]]:
        with self.step(f"{TRAINING_NODES}-node training job is placed", "scontrol show job; show topology") as done:
            program, note = self._training_program()
            options = ["--nodes", str(TRAINING_NODES), "--processes", "1", "--time", "00:30:00", *program]
            job = int(self._gpuaas("job", "submit", "torchrun", *options, user=TRAINER)["job_id"])
            shown = self._job_until(job, "RUNNING")
            nodes = expand_nodes(shown["NodeList"])
            self.claim(len(nodes) == TRAINING_NODES, f"{len(nodes)} nodes")
            self.claim("placement" not in shown.get("Licenses", ""), "the gate's licence is still asked for")
            self.claim(bool(shown.get("ReqNodeList", "(null)") != "(null)"), "the job was not pinned by the gate")
            leaves = self._leaves_of(nodes)
            self.claim(len(leaves) == 1, f"{len(leaves)} leaf groups: {', '.join(sorted(leaves))}")
            # slurmstepd 26.05.5 takes a minute to end a step that is taken back while it still starts its tasks
            output = self.instance.path(shown["StdOut"])
            self.until(
                lambda: output.read_text().count(LAUNCHED) if output.exists() else 0,
                lambda launched: launched == TRAINING_NODES,
                f"tasks of job {job} on all of {TRAINING_NODES} nodes",
            )
            done(f"job {job} on {shown['NodeList']}, 1 leaf group of {len(self._leaves())} ({leaves.pop()}), {note}")
        return job, nodes

    def _training_program(self) -> tuple[list[str], str]:
        """Options of the torchrun template: real PyTorch where this machine has its CPU build, else the stand-in.

        The light launcher starts one process a node without importing PyTorch itself: 32 imports at once are more than
        two cores do in a minute. torchrun's own rendezvous is shown by the suite, on fewer nodes.
        """
        launcher = ["--launcher", f"{TEMPLATE}/launch_standin.py", "--arguments", "--steps 100000 --step-seconds 1"]
        if self.instance.path(f"{TORCH_INSIDE}/bin/python").exists():
            return [
                "--script",
                f"{TEMPLATE}/train.py",
                "--python",
                f"{TORCH_INSIDE}/bin/python",
                *launcher,
            ], "PyTorch DDP"
        return ["--script", f"{TEMPLATE}/train_standin.py", *launcher], "stand-in for PyTorch"

    def _xid_drains_the_node(self, node: str) -> None:
        with self.step(f"XID 79 on {node} drains it", "scontrol show node") as done:
            self.instance.inject_xid(node, xid=79, gpu=FAULTY_GPU)
            started = self.monotonic()
            shown = self.until(
                lambda: fields_of(self._ask("scontrol", "show", "node", "--oneliner", node)),
                lambda shown: "DRAIN" in shown["State"],
                f"{node} draining",
            )
            took = self.monotonic() - started
            reason = shown.get("Reason", "")
            self.claim(reason.startswith("gpuaas:") and "79" in reason, f"reason {reason!r}")
            done(f"{shown['State']} after {took:.1f} s: {reason.split(' [')[0]}")

    def _job_runs_again_without(self, job: int, before: tuple[str, ...], faulty: str) -> None:
        with self.step("The job runs again on good nodes", "scontrol show job") as done:
            shown = self.until(
                lambda: self._show_job(job),
                lambda shown: shown["JobState"] == "RUNNING" and shown["Restarts"] != "0",
                f"job {job} running again",
            )
            nodes = expand_nodes(shown["NodeList"])
            self.claim(faulty not in nodes, f"{faulty} is still among its nodes")
            self.claim(len(nodes) == TRAINING_NODES, f"{len(nodes)} nodes")
            kept = len(set(nodes) & set(before))
            done(f"{kept} nodes kept, {len(nodes) - kept} replaced, Restarts={shown['Restarts']}")

    def _usage_equals_accounting(self, notebook: int) -> None:
        with self.step("Usage is metered", "sacct --format=ElapsedRaw,AllocTRES") as done:
            self._run("scancel", str(notebook), user=RESEARCHER)
            metered, accounted = self.until(
                lambda: (self._metered_gpu_seconds(), self._sacct_gpu_seconds()),
                lambda pair: pair[0] == pair[1] > 0,
                f"the metered use of {RESEARCHER} to equal Slurm's accounting",
            )
            total = sum(row["guaranteed"] + row["burst"] for row in self._gpuaas("usage")["rows"]) / 3600
            done(f"{RESEARCHER}: {metered} GPU-seconds metered, sacct says {accounted}; all: {total:.2f} GPU-hours")

    # ------------------------------------------------------------------ asking Slurm

    def _metered_gpu_seconds(self) -> int:
        rows = self._gpuaas("usage", "--by", "user")["rows"]
        return sum(row["guaranteed"] + row["burst"] for row in rows if row["keys"]["user"] == RESEARCHER)

    def _sacct_gpu_seconds(self) -> int:
        """GPU-seconds of the researcher's runs: allocated GPUs x elapsed seconds, every requeue by itself."""
        rows = self._ask("sacct", "-nPDX", "-u", RESEARCHER, "-S", "now-1day", "--format=ElapsedRaw,AllocTRES")
        return sum(
            int(elapsed) * int(gpus.group(1))
            for elapsed, _, tres in (row.partition("|") for row in rows.splitlines())
            if (gpus := re.search(r"gres/gpu=(\d+)", tres))
        )

    def _partition(self) -> str:
        """The partition whose AllowQos names the project's QOS."""
        for row in self._ask("scontrol", "show", "partition", "--oneliner").splitlines():
            shown = fields_of(row)
            if f"guaranteed-{PROJECT}" in shown.get("AllowQos", "").split(","):
                return shown["PartitionName"]
        raise StepFailed(f"No partition's AllowQos names guaranteed-{PROJECT}.")

    def _leaves(self) -> Mapping[str, frozenset[str]]:
        """Leaf switch to its nodes, from `scontrol show topology`."""
        rows = map(fields_of, self._ask("scontrol", "show", "topology").splitlines())
        return {row["SwitchName"]: frozenset(expand_nodes(row["Nodes"])) for row in rows if row.get("Level") == "0"}

    def _leaves_of(self, nodes: tuple[str, ...]) -> set[str]:
        return {leaf for leaf, members in self._leaves().items() if members & set(nodes)}

    def _submit(self, *options: str) -> int:
        return int(self._run("sbatch", "--parsable", "--output=/dev/null", *options, user=RESEARCHER).strip())

    def _show_job(self, job: int) -> Mapping[str, str]:
        return fields_of(self._ask("scontrol", "show", "job", "--oneliner", str(job)))

    def _job_until(self, job: int, state: str) -> Mapping[str, str]:
        return self.until(lambda: self._show_job(job), lambda shown: shown["JobState"] == state, f"job {job} {state}")

    def _ask(self, *argv: str) -> str:
        return self._run(*argv)

    def _run(self, *argv: str, user: str = "root") -> str:
        return self.instance.exec(list(argv), user=user).stdout

    def _gpuaas(self, *argv: str, user: str = "root") -> dict[str, Any]:
        """The JSON document a `gpuaas` command prints."""
        document: dict[str, Any] = json.loads(self._run("gpuaas", *argv, "--json", user=user))
        return document
