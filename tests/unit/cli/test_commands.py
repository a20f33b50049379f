"""Commands as a person types them: what they print, and what they exit with."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import click
import pytest
import yaml

from slurm_gpuaas.cli.main import GROUPS, main
from slurm_gpuaas.domain.incidents import EventKind, EventSource, NodeEvent
from slurm_gpuaas.domain.jobs import JobId, JobState
from slurm_gpuaas.domain.names import (
    AccountName,
    ClusterName,
    GpuModel,
    NodeName,
    PartitionName,
    QosName,
    UserName,
)
from slurm_gpuaas.domain.usage import UsageRecord
from slurm_gpuaas.slurm.records import Qos
from tests.fakes import make_job
from tests.unit.cli.conftest import Run
from tests.unit.daemon.site import RESEARCHER, Site

NODE = NodeName("b200-001")


def break_node(site: Site) -> str:
    event = NodeEvent(
        event_id="boot:kmsg:1",
        node=NODE,
        kind=EventKind.XID,
        code=79,
        source=EventSource.KERNEL_LOG,
        seen_at=site.clock.now(),
        evidence="NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
    )
    site.runtime.operations.intake.ingest(NODE, [event])
    site.tick("health")
    return site.store.incidents()[0].id


# -- policy


def test_plan_shows_what_would_change_and_exits_2_then_apply_does_it_and_plan_exits_0(
    run: Run, policy_file: Path
) -> None:
    planned = run("policy", "plan", "-f", str(policy_file))
    assert planned.code == 2
    assert "+ qos guaranteed-vision" in planned.out
    assert "to create" in planned.out

    applied = run("policy", "apply", "-f", str(policy_file), "--yes")
    assert applied.code == 0
    assert "created" in applied.out

    again = run("policy", "plan", "-f", str(policy_file), "--json")
    assert again.code == 0
    assert json.loads(again.out)["slurm"] == []


def test_plan_without_a_file_shows_drift_made_by_hand(run: Run, policy_file: Path, site: Site) -> None:
    run("policy", "apply", "-f", str(policy_file), "--yes")
    assert run("policy", "plan").code == 0
    qos = site.accounting.read().qos
    site.accounting.put_qos([next(one for name, one in qos.items() if name.startswith("burst"))])
    assert run("policy", "plan").code == 0
    site.accounting.delete_associations(list(site.accounting.read().associations))
    drift = run("policy", "plan")
    assert drift.code == 2
    assert "+ association nobody@vision" in drift.out


def test_dry_run_changes_nothing(run: Run, policy_file: Path, site: Site) -> None:
    assert run("policy", "apply", "-f", str(policy_file), "--dry-run").code == 2
    assert site.store.policy_revision().revision == 0


def test_apply_where_nobody_can_be_asked_wants_yes(
    run: Run, policy_file: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        refused = run("policy", "apply", "-f", str(policy_file))
    assert (refused.code, "--yes" in refused.err) == (3, True)
    assert site.store.policy_revision().revision == 0


@pytest.mark.parametrize(("answer", "code", "revision"), [("y\n", 0, 1), ("n\n", 130, 0)], ids=["yes", "no"])
def test_apply_asks_a_person(
    run: Run,
    policy_file: Path,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    revision: int,
) -> None:
    keyboard, terminal = pty.openpty()
    os.write(keyboard, answer.encode())
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("policy", "apply", "-f", str(policy_file)).code == code
    os.close(keyboard)
    assert site.store.policy_revision().revision == revision


def test_apply_in_json_asks_on_the_side_and_prints_one_document(
    run: Run, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said in ("+ qos guaranteed-vision", "nothing to do"):  # the second time there is nothing to apply
        keyboard, terminal = pty.openpty()
        os.write(keyboard, b"y\n")
        with os.fdopen(terminal) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            ran = run("policy", "apply", "-f", str(policy_file), "--json")
        os.close(keyboard)
        assert ran.code == 0
        assert "slurm" in json.loads(ran.out)
        assert said in ran.err


def test_what_is_exported_can_be_applied_and_changes_nothing(run: Run, policy_file: Path, tmp_path: Path) -> None:
    run("policy", "apply", "-f", str(policy_file), "--yes")
    exported = run("policy", "export")
    assert "한국과학기술원" in exported.out
    copy = tmp_path / "copy.yaml"
    copy.write_text(exported.out)
    assert run("policy", "plan", "-f", str(copy)).code == 0
    kinds = [document["kind"] for document in yaml.safe_load_all(exported.out)]
    assert kinds == ["Organisation", "Project", "Member", "Pool", "Grant"]
    assert [document["kind"] for document in json.loads(run("policy", "export", "--json").out)["documents"]] == kinds


def test_a_researcher_is_told_who_may(run: Run, policy_file: Path) -> None:
    refused = run("policy", "apply", "-f", str(policy_file), "--yes", uid=RESEARCHER)
    assert refused.code == 4
    assert refused.err.startswith("Error: nobody may not apply policy")


# -- the rest


def test_an_incident_is_listed_shown_and_closed(run: Run, site: Site) -> None:
    incident = break_node(site)
    assert incident in run("incident", "list").out
    assert "GPU has fallen off the bus" in run("incident", "show", incident).out
    assert json.loads(run("incident", "show", incident, "--json").out)["events"][0]["code"] == 79
    assert "gpuaas" in run("node", "list", "--drained").out
    assert run("incident", "close", incident, "--reason", "replaced").code == 0
    assert run("incident", "list").out == "No open incident.\n"
    assert incident in run("incident", "list", "--all").out


def test_a_node_is_drained_and_resumed(run: Run) -> None:
    drained = run("node", "drain", NODE, "--reason", "cable swap")
    assert drained.out == f"Node {NODE} is idle+drain: cable swap\n"
    assert "person" in run("node", "show", NODE).out
    assert run("node", "resume", NODE).out == f"Node {NODE} is idle.\n"
    assert [entry["action"] for entry in json.loads(run("audit", "list", "--json").out)] == [
        "node.resume-by-hand",
        "node.drain-by-hand",
    ]


def test_an_unknown_node_is_a_sentence_and_exit_code_3(run: Run) -> None:
    missing = run("node", "show", "b200-999")
    assert missing.code == 3
    assert missing.err == "Error: Slurm has no node b200-999. `gpuaas node list` shows them.\n"


def test_projects_usage_status_read(run: Run, policy_file: Path) -> None:
    run("policy", "apply", "-f", str(policy_file), "--yes")
    assert "vision" in run("project", "list", uid=RESEARCHER).out
    assert run("usage").out == "Nothing was used in that time.\n"
    assert json.loads(run("usage", "--from", "2027-01-01", "--to", "2027-01-31", "--json").out)["rows"] == []
    assert run("usage", "--from", "yesterday").code == 3
    assert "fake" in run("status").out


BUDGET = """\
---
kind: Rate
name: b200-2027
model: b200
won_per_gpu_hour: 5000
burst_discount: 40
starts: 2027-01-01
basis: 과학기술정보통신부 고시 2027-1
"""


def test_an_incident_is_acknowledged_and_a_nodes_life_is_shown(run: Run, site: Site) -> None:
    incident = break_node(site)
    assert run("incident", "ack", incident).out.endswith(f"Incident {incident} of {NODE} is acknowledged by root.\n")
    shown = run("incident", "show", incident).out
    assert "suspect" in shown and "gpuaasd/health" in shown
    life = run("node", "show", NODE)
    assert life.code == 0 and "stage" in life.out and "Steps of its life" in life.out
    assert json.loads(run("node", "show", NODE, "--json").out)["history"]["stage"] == "draining"
    researcher = run("node", "show", NODE, uid=RESEARCHER)
    assert researcher.code == 0 and "Steps" not in researcher.out


def test_an_incident_is_held_and_released_in_words_that_say_so(run: Run, site: Site) -> None:
    incident = break_node(site)
    held = run("incident", "hold", incident)
    assert held.out.endswith(f"Incident {incident} of {NODE} (draining) is held; nothing is done for it by itself.\n")
    assert "root (held)" in run("incident", "list").out
    assert "held by" in run("incident", "show", incident).out
    assert "is released and goes on by itself" in run("incident", "release", incident).out
    run("incident", "close", incident)
    for word in ("ack", "hold", "release", "verify"):
        late = run("incident", word, incident)
        assert (late.code, late.out) == (4, ""), word


def test_a_node_is_limited_and_let_go_again(run: Run, site: Site) -> None:
    limited = run("node", "limit", NODE, "--largest-job", "4", "--reason", "third fault")
    assert limited.out == f"Node {NODE} serves jobs of at most 4 nodes.\n"
    assert run("node", "limit", NODE, "--none").out == f"Node {NODE} serves jobs of any size.\n"
    neither = run("node", "limit", NODE)
    assert (neither.code, neither.err.count("Give --largest-job N")) == (3, 1)
    silent = run("node", "limit", NODE, "--largest-job", "4")
    assert (silent.code, silent.err.count("--reason")) == (3, 1)


def test_a_report_is_printed_as_text_csv_and_json_and_says_what_it_does_not_know(run: Run, site: Site) -> None:
    break_node(site)
    site.tick("reading")
    site.clock.forward(timedelta(hours=1))
    text = run("health", "report").out
    assert "MTBF of a node" in text and "Not known" in text and "stage" in text
    lines = run("health", "report", "--csv").out.splitlines()
    assert lines[0] == "section,name,figure,value" and "fleet,,faults,1" in lines
    assert json.loads(run("health", "report", "--json").out)["fleet"]["faults"] == 1
    assert run("health", "report", "--csv", "--json").code == 3
    assert "different XIDs: 1" in run("health", "lemons").out


def test_a_part_goes_to_the_manufacturer_and_back(run: Run, site: Site) -> None:
    opened = json.loads(run("rma", "open", NODE, "--serial", "42", "--reason", "fan is dead", "--json").out)
    case = opened["id"]
    assert "fan is dead" in run("rma", "ticket", case).out
    assert "is sent" in run("rma", "update", case, "--state", "sent", "--vendor-case", "4711").out
    assert "4711" in run("rma", "show", case).out and case in run("rma", "list", "--serial", "42").out
    assert run("rma", "close", case).code == 0
    again = run("rma", "update", case, "--state", "sent")
    assert (again.code, "what follows is nothing" in again.err) == (4, True)
    assert run("rma", "list").out == "No open case.\n"


def test_a_budget_is_shown_in_gpu_hours_and_won(run: Run, policy_file: Path, site: Site) -> None:
    text = policy_file.read_text() + "budget_gpu_hours: 300\nbudget_won: 1000000\nprice_percent: 2.5\n" + BUDGET
    policy_file.write_text(text)
    assert run("budget").out == "No project that you may see has a budget in force.\n"
    run("policy", "apply", "-f", str(policy_file), "--yes")
    run_of_an_hour(site)
    hours, won = [line.split() for line in run("budget", uid=RESEARCHER).out.splitlines()[2:]]
    assert hours[3:10] == ["GPU-hours", "300.0", "0.0", "0.0", "8.0", "0.0", "292.0"]
    assert hours[10:] == ["2.7", "-", "2027-05-21", "292.0", "300.0"], "8 in three days and 18 hours"
    assert won == ["Won", "1,000,000", "0", "0", "1,000", "0", "999,000"]
    (told,) = json.loads(run("budget", "--project", "vision", "--json").out)
    assert (told["won"]["used"], told["used_gpu_seconds"], told["written_gpu_minutes"]) == (1_000, 28_800, 18_000)
    header, _line, row = run("usage").out.splitlines()
    assert header.split("  ")[0] == "project"
    assert "1,000" in row.split()
    exported = run("policy", "export").out
    assert "price_percent: 2.5" in exported
    assert run("budget", "--project", "no-such").code == 3


def test_use_without_a_rate_is_named_below_the_table(run: Run, policy_file: Path, site: Site) -> None:
    run("policy", "apply", "-f", str(policy_file), "--yes")
    run_of_an_hour(site)
    assert "8.00 GPU-hours have no price" in run("usage").out


def run_of_an_hour(site: Site) -> None:
    """Eight GPUs that have just been used for an hour."""
    ended = site.clock.now()
    site.store.put_usage(
        [
            UsageRecord(
                cluster=ClusterName("mini"),
                job_id=JobId(7),
                user=UserName("nobody"),
                account=AccountName("vision"),
                qos=QosName("guaranteed-vision"),
                partition=PartitionName("haein-own"),
                model=GpuModel("b200"),
                gpus=8,
                started=ended - timedelta(hours=1),
                ended=ended,
                gpu_seconds=8 * 3600,
                state="COMPLETED",
            )
        ],
        at=site.clock.now(),
    )


@pytest.mark.parametrize("command", [["policy", "plan"], ["node", "list"], ["status"]], ids=" ".join)
def test_an_unreachable_daemon_is_exit_code_5_with_the_way_out(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--socket", str(tmp_path / "none.sock"), *command])
    assert ended.value.code == 5
    assert "systemctl start gpuaasd" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str, run: Run) -> None:
    assert "_GPUAAS_COMPLETE" in run("completion", shell).out


def test_completion_completes() -> None:
    environment = {**os.environ, "_GPUAAS_COMPLETE": "bash_complete", "COMP_WORDS": "gpuaas pol", "COMP_CWORD": "1"}
    answer = subprocess.run(
        [sys.executable, "-m", "slurm_gpuaas.cli"], env=environment, capture_output=True, text=True, check=True
    )
    assert "policy" in answer.stdout


def test_help_of_the_program_imports_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in GROUPS)


# -- quota explain and check


def explained(run: Run, site: Site, policy_file: Path, *options: str, used: int = 0, qos: str = "guaranteed") -> str:
    """As the researcher, with `used` nodes in use by vision."""
    run("policy", "apply", "-f", str(policy_file), "--yes")
    for number in range(1, used + 1):
        site.controller.job_by_id[JobId(number)] = make_job(number, account="vision", qos=f"{qos}-vision")
        site.controller.start(number, [f"b200-00{number}"])
    ran = run("quota", "explain", *options, uid=RESEARCHER)
    assert ran.code == 0, ran.err
    return ran.out


def test_explain_says_that_a_job_starts(run: Run, site: Site, policy_file: Path) -> None:
    said = explained(run, site, policy_file, "--gpus", "8", "--time", "1:00:00")
    assert said == "8 GPUs on 1 node as guaranteed-vision: starts now.\n"


def test_explain_names_the_limit_the_numbers_and_the_way_out(run: Run, site: Site, policy_file: Path) -> None:
    said = explained(run, site, policy_file, "--gpus", "16", "--time", "30", used=1)
    assert "16 GPUs on 2 nodes as guaranteed-vision: waits with QOSGrpGRES." in said
    assert "QOS guaranteed-vision has GrpTRES gres/gpu=16, 8 in use; the job asks for 16." in said
    assert "As guaranteed-vision at most 8 GPUs would start now." in said
    assert "As burst-haein-own it would start now: --qos=burst-haein-own." in said


def test_explain_shows_a_limit_that_another_one_hides(run: Run, site: Site, policy_file: Path) -> None:
    run("policy", "apply", "-f", str(policy_file), "--yes")
    site.accounting.qos_by_name[QosName("floating")] = Qos(
        name=QosName("floating"), description="", grp_tres={"gres/gpu": 30, "gres/gpu:b200": 30}
    )
    (partition,) = (name for name in site.limits.partitions.by_name if name != "all")
    site.limits.partition_qos[partition] = QosName("floating")
    said = run("quota", "explain", "--gpus", "24", uid=RESEARCHER).out
    assert "starts now" in said
    assert "partition QOS floating sets GrpTRES gres/gpu=30, which comes first" in said
    found = run("quota", "check")
    assert found.code == 1
    assert "hidden" in found.out
    assert json.loads(run("quota", "check", "--json").out)[0]["fault"] == "hidden"


def test_explain_in_json_has_every_qos(run: Run, site: Site, policy_file: Path) -> None:
    said = json.loads(explained(run, site, policy_file, "--gpus", "8", "--json"))
    assert [side["qos"] for side in said["sides"]] == ["guaranteed-vision", "burst-haein-own"]


def test_check_says_when_all_is_well(run: Run, policy_file: Path) -> None:
    run("policy", "apply", "-f", str(policy_file), "--yes")
    ran = run("quota", "check")
    assert (ran.code, ran.out) == (0, "Every limit that the policy relies on stands in Slurm and holds.\n")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30", 30), ("0:30", 1), ("90:00", 90), ("4:00:00", 240), ("2-0", 2880), ("1-12", 2160), ("1-12:30", 2190)],
)
def test_times_are_read_as_sbatch_reads_them(run: Run, site: Site, policy_file: Path, text: str, minutes: int) -> None:
    said = json.loads(explained(run, site, policy_file, "--gpus", "1", "--time", text, "--json"))
    assert said["minutes"] == minutes


@pytest.mark.parametrize("text", ["", "soon", "0", "1:2:3:4", "-5"])
def test_what_is_no_time_is_refused(run: Run, text: str) -> None:
    ran = run("quota", "explain", "--gpus", "1", f"--time={text}", uid=RESEARCHER)
    assert ran.code == 3
    assert "--time" in ran.err


# -- topology apply


def fabric_file(site: Site, *nodes: str) -> Path:
    groups = [{"pod": "root", "name": f"leaf-{number}", "nodes": one} for number, one in enumerate(nodes, 1)]
    path = site.folder / "fabric.json"
    path.write_text(json.dumps({"leaf_groups": groups}))
    return path


@pytest.fixture
def cabled(site: Site, run: Run) -> Site:
    """Slurm plans with two leaves of two nodes."""
    fabric = fabric_file(site, "b200-[001-002]", "b200-[003-004]")
    site.topologies.file.write_text(run("topology", "render", str(fabric)).out)
    site.topologies.reload()
    site.controller.after = lambda method: site.topologies.reload() if method == "reconfigure" else None
    return site


def test_a_topology_is_shown_applied_and_undone(run: Run, cabled: Site) -> None:
    fabric = str(fabric_file(cabled, "b200-001", "b200-[002-004]"))
    cabled.controller.job_by_id[JobId(7)] = make_job(7, state=JobState.RUNNING, nodes=["b200-001", "b200-002"])
    before = cabled.topologies.file.read_text()

    shown = run("topology", "apply", fabric, "--dry-run")
    assert shown.code == 2
    assert "~ b200-002: from leaf-1 to leaf-2\nJobs that run on them and go on: 7.\n" in shown.out
    assert shown.out.endswith("topology.yaml: dynamic updates.\n")
    assert cabled.topologies.file.read_text() == before

    done = run("topology", "apply", fabric, "--yes", "--json")
    assert json.loads(done.out)["moves"] == [{"nodes": "b200-002", "before": "leaf-1", "after": "leaf-2"}]
    assert [entry.actor for entry in cabled.store.audit.newest(action="topology.applied")] == ["root"]
    assert run("topology", "apply", fabric, "--dry-run").out == "Slurm plans with it already: nothing to do.\n"

    assert run("topology", "apply", "--undo", "--yes").code == 0
    assert cabled.topologies.file.read_text() == before


@pytest.mark.parametrize("plugin", ["tree", "block", "both"])
def test_a_topology_is_written_for_each_plugin(run: Run, cabled: Site, plugin: str) -> None:
    fabric = str(fabric_file(cabled, "b200-[001-002]", "b200-[003-004]"))
    text = run("topology", "render", fabric, "--plugin", plugin).out
    assert ("tree:" in text, "block:" in text) == (plugin != "block", plugin != "tree")
    assert run("topology", "apply", fabric, "--plugin", plugin, "--yes").code == 0
    assert cabled.topologies.file.read_text() == text


def test_a_topology_yaml_is_applied_as_it_is(run: Run, cabled: Site) -> None:
    path = cabled.folder / "new.yaml"
    path.write_text(cabled.topologies.file.read_text().replace("leaf-2", "west").replace("leaf-[1-2]", "leaf-1,west"))
    shown = run("topology", "apply", str(path), "--dry-run")
    assert "+ west of topology fabric\n" in shown.out
    assert shown.out.endswith("slurmctld reconfigures.\n")
    path.write_text(path.read_text().replace("leaf-1,west", "leaf-1,west,south"))
    refused = run("topology", "apply", str(path), "--yes")
    assert (refused.code, "names switch south" in refused.err) == (3, True)


def test_a_topology_yaml_comes_from_standard_input(run: Run, cabled: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    text = cabled.topologies.file.read_text().replace("leaf-2", "west").replace("leaf-[1-2]", "leaf-1,west")
    for form, code in ("fabric.json", 3), ("topology.yaml", 0):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run("topology", "apply", "-", "--format", form, "--yes").code == code
    assert cabled.topologies.file.read_text() == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_a_person_said_yes_to_is_done_or_nothing(run: Run, cabled: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question and the answer, another administrator moves the same node elsewhere."""
    fabric = fabric_file(cabled, "b200-001", "b200-[002-004]").rename(cabled.folder / "shown.json")
    other = str(fabric_file(cabled, "b200-[001-003]", "b200-004"))

    def answer(*_: object, **__: object) -> None:
        assert run("topology", "apply", other, "--yes").code == 0

    monkeypatch.setattr(click, "confirm", answer)
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert run("topology", "apply", str(fabric)).code == 4
    assert 'nodes: "b200-004"' in cabled.topologies.file.read_text()


@pytest.mark.parametrize("arguments", [[], ["--undo", "FILE"], ["--undo"]], ids=["nothing", "both", "nothing to undo"])
def test_a_topology_that_is_not_named_is_asked_for(run: Run, cabled: Site, arguments: list[str]) -> None:
    fabric = str(fabric_file(cabled, "b200-[001-004]"))
    words = [fabric if word == "FILE" else word for word in arguments]
    assert run("topology", "apply", *words, "--yes").code == 3


def test_a_fabric_is_drawn(run: Run, site: Site) -> None:
    fabric = fabric_file(site, "b200-[001-002]", "b200-[003-004]")
    picture = site.folder / "fabric.svg"
    assert run("topology", "show", str(fabric), "--svg", "-o", str(picture)).code == 0
    assert "4 nodes, 2 leaf groups, 1 pod" in picture.read_text()
    assert run("topology", "show", str(fabric), "--svg", "--json").code == 3


# -- health


def test_a_log_is_replayed_without_a_daemon(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "kern.log"
    line = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=\x1b[31mx, GPU has fallen off the bus."
    log.write_text("".join(f"[  {100 + n}.000000] {line}\n" for n in range(3)))
    shown = run("health", "replay", "--node", "b200-007", str(log))
    assert shown.code == 0
    assert "drain; requeue its jobs; reboot, verify" in shown.out
    assert "Times count from boot" in shown.out
    assert "\x1b[31m" not in shown.out
    (incident,) = json.loads(run("health", "replay", "--json", "--product", "b200", str(log)).out)["incidents"]
    assert (incident["drain"], incident["events"], incident["rule"][:12]) == ("now", 3, "catalogue of")
    assert run("health", "replay", "--node", "b 7", str(log)).code == 3
