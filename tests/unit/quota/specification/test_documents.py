"""Scenarios as people write them: models, forms of quantities, every fault with its place and way out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from slurm_gpuaas.cli.main import main
from slurm_gpuaas.domain.errors import ExitCode

GOOD = """
capacity: {b200: 16, h200: 8}
tenants:
  - {name: a, guaranteed: {b200: 8}, borrow_limit: {b200: 4}}
  - {name: b, guaranteed: {b200: 8, h200: 8}}
running:
  - {id: 1, tenant: b, gpus: 8, model: h200, as: guaranteed, age_s: 5}
pending:
  - {id: j, tenant: a, gpus: 8, model: h200}
  - {id: k, tenant: a, gpus: 8, model: b200}
"""


def run(capsys: pytest.CaptureFixture[str], file: Path, *options: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["quota", "simulate", str(file), *options])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def ask(capsys: pytest.CaptureFixture[str], folder: Path, text: str) -> dict[str, Any]:
    file = folder / "scenario.yaml"
    file.write_text(text)
    code, out, err = run(capsys, file, "--json")
    assert code == ExitCode.OK, err
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_models_are_decided_each_by_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Kueue #9406, #9407: borrowing of one flavor blocked what another guaranteed."""
    answer = ask(capsys, tmp_path, GOOD)
    assert [(one["job"], one["action"], one["as"]) for one in answer["decisions"]] == [
        ("j", "wait", None),
        ("k", "start", "guaranteed"),
    ]
    assert answer["shares"]["b"]["in_use"] == {"b200": 0, "h200": 8}
    assert answer["shares"]["a"]["may_borrow"] == {"b200": 12, "h200": 0}


def test_a_bare_number_is_of_the_only_model_and_answered_in_bare_numbers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (
        "capacity: 16\ntenants: [{name: a, guaranteed: {b200: 8}}]\npending: [{id: j, tenant: a, gpus: 8, model: b200}]"
    )
    answer = ask(capsys, tmp_path, text)
    assert answer["shares"]["a"]["guaranteed"] == 8
    text = "capacity: {b200: 16}\ntenants: [{name: a, guaranteed: 8}]\npending: [{id: j, tenant: a, gpus: 8}]"
    answer = ask(capsys, tmp_path, text)
    assert answer["shares"]["a"]["guaranteed"] == {"b200": 8}


def test_absent_zero_and_a_number_are_three_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for limit, may in (("", 16), ("borrow_limit: 0", 0), ("borrow_limit: null", 16), ("borrow_limit: 3", 11)):
        tenant = f"{{name: a, guaranteed: 8, {limit}}}"
        answer = ask(capsys, tmp_path, f"capacity: 16\ntenants: [{tenant}]")
        assert answer["shares"]["a"]["may_borrow"] == may, limit


def test_the_answer_is_one_document_with_the_fields_of_the_reference(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = ask(capsys, tmp_path, GOOD)
    assert set(answer) == {"shares", "decisions", "alerts"}
    assert set(answer["shares"]["a"]) == {"guaranteed", "fair_share", "in_use", "borrowed", "lent", "may_borrow"}
    assert all(set(one) == {"job", "action", "as", "preempts", "why"} for one in answer["decisions"])


def test_json_is_read_as_well_and_people_get_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "scenario.json"
    file.write_text(json.dumps({"capacity": 8, "tenants": [{"name": "a", "guaranteed": 8}],
                                "pending": [{"id": "j", "tenant": "a", "gpus": 4}]}))  # fmt: skip
    code, out, _ = run(capsys, file)
    assert code == ExitCode.OK
    assert "4 GPUs as guaranteed" in out
    assert "fair share" in out


FAULTS = [
    ("capacity is missing", "tenants: []", "capacity: is missing"),
    ("no document", "", "the document"),
    ("a list", "- 1", "the document"),
    ("broken YAML", "capacity: [", "line"),
    (
        "a misspelt field",
        "capacity: 8\ntenants: [{name: a, guarantee: 8}]",
        "line 2, tenants.0.guarantee: there is no such field",
    ),
    ("a key given twice", "capacity: 8\ncapacity: 9\ntenants: []", "'capacity' is given twice"),
    ("a tenant twice", "capacity: 8\ntenants: [{name: a}, {name: a}]", "'a' stands twice"),
    ("an unknown parent", "capacity: 8\ntenants: [{name: a, parent: b}]", "parent 'b', which is not there"),
    ("parents in a ring", "capacity: 8\ntenants: [{name: a, parent: b}, {name: b, parent: a}]", "go round"),
    ("its own parent", "capacity: 8\ntenants: [{name: a, parent: a}]", "go round"),
    (
        "a job of nobody",
        "capacity: 8\ntenants: []\npending: [{id: j, tenant: a, gpus: 1}]",
        "tenant a, which is not declared",
    ),
    (
        "two jobs of one name",
        "capacity: 8\ntenants: [{name: a}]\nrunning: [{id: j, tenant: a, gpus: 1}]\n"
        "pending: [{id: j, tenant: a, gpus: 1}]",
        "Job j stands 2 times",
    ),
    (
        "an unknown model",
        "capacity: {b200: 8}\ntenants: [{name: a}]\npending: [{id: j, tenant: a, gpus: 1, model: h100}]",
        "model h100; the capacity has b200",
    ),
    (
        "no model where there are two",
        "capacity: {b200: 8, h200: 8}\ntenants: [{name: a}]\npending: [{id: j, tenant: a, gpus: 1}]",
        "names no model, and there are 2",
    ),
    (
        "a bare number where there are two",
        "capacity: {b200: 8, h200: 8}\ntenants: [{name: a, guaranteed: 8}]",
        "guaranteed of tenant a is a bare number",
    ),
    (
        "two models under a bare capacity",
        "capacity: 8\ntenants: [{name: a, guaranteed: {b200: 1, h200: 1}}]",
        "there are 2 models",
    ),
    ("a capacity of no model", "capacity: {}\ntenants: []", "names no model"),
    ("a negative guarantee", "capacity: 8\ntenants: [{name: a, guaranteed: -1}]", "tenants.0.guaranteed"),
    ("half a GPU", "capacity: 8\ntenants: [{name: a, guaranteed: 1.5}]", "tenants.0.guaranteed"),
    ("a job of no GPU", "capacity: 8\ntenants: [{name: a}]\npending: [{id: j, tenant: a, gpus: 0}]", "pending.0.gpus"),
    ("a weight that is no number", "capacity: 8\ntenants: [{name: a, weight: .nan}]", "tenants.0.weight"),
    ("an infinite past use", "capacity: 8\ntenants: [{name: a, past_use: .inf}]", "tenants.0.past_use"),
    ("a half-life of nothing", "capacity: 8\ntenants: []\noptions: {half_life_h: 0}", "options.half_life_h"),
    (
        "an unknown class",
        "capacity: 8\ntenants: [{name: a}]\nrunning: [{id: j, tenant: a, gpus: 1, as: spot}]",
        "running.0.as",
    ),
    ("a number without end", "capacity: 99999999999999999999\ntenants: []", "capacity"),
    ("a number of 5,000 digits", f"capacity: {'9' * 5000}\ntenants: []", "a value cannot be read"),
    (
        "a word for no limit",
        "capacity: 8\ntenants: [{name: a, borrow_limit: unlimited}]",
        "line 2, tenants.0.borrow_limit: 'unlimited' is no number of GPUs: write a whole number",
    ),
    (
        "no number for one model",
        "capacity: {b200: 8}\ntenants: [{name: a, lend_limit: {b200: null}}]",
        "tenants.0.lend_limit: null is no number of GPUs",
    ),
    ("a guarantee left empty", "capacity: 8\ntenants:\n- name: a\n  guaranteed:", "line 4, tenants.0.guaranteed: null"),
    ("a truth for a model", "capacity: {true: 8}\ntenants: []", "True is no name of a model"),
    (
        "a number as text",
        "capacity: 8\ntenants: [{name: a}]\npending: [{id: j, tenant: a, gpus: '8'}]",
        "pending.0.gpus",
    ),
    ("a truth for a number", "capacity: yes\ntenants: []", "line 1, capacity: True is no number of GPUs"),
    ("tenants that are no list", "capacity: 8\ntenants: abc", "line 2, tenants: is not a list"),
    ("a tenant without a name", "capacity: 8\ntenants: [{guaranteed: 8}]", "line 2, tenants.0.name: is missing"),
    ("an empty name", "capacity: 8\ntenants: [{name: ''}]", "tenants.0.name: should have at least 1 character"),
    ("a negative weight", "capacity: 8\ntenants: [{name: a, weight: -1}]", "tenants.0.weight"),
    ("half a priority", "capacity: 8\ntenants: [{name: a, priority: 1.5}]", "tenants.0.priority"),
    ("a negative minimum", "capacity: 8\ntenants: []\noptions: {min_run_s: -1}", "options.min_run_s"),
    (
        "a negative age",
        "capacity: 8\ntenants: [{name: a}]\nrunning: [{id: j, tenant: a, gpus: 1, age_s: -1}]",
        "line 3, running.0.age_s",
    ),
    (
        "a limit for a model that is not there",
        "capacity: {b200: 8}\ntenants: [{name: a, lend_limit: {h200: 1}}]",
        "lend_limit of tenant a names model h200; the capacity has b200",
    ),
    (
        "a ring of three",
        "capacity: 8\ntenants: [{name: a, parent: b}, {name: b, parent: c}, {name: c, parent: a}]",
        "go round",
    ),
    (
        "more in use than there can be",
        "capacity: 8\ntenants: [{name: a}]\n"
        "running: [{id: j, tenant: a, gpus: 9999999}, {id: k, tenant: a, gpus: 9999999}]",
        "Running jobs hold 19,999,998 GPUs",
    ),
    ("two documents", "capacity: 8\ntenants: []\n---\ncapacity: 8\n", "line 3: but found another document"),
    ("a byte of nothing", "capacity: 8\0\n", "unacceptable character"),
    ("lists within lists", f"capacity: {'[' * 5000}{']' * 5000}\ntenants: []", "capacity: this is no number of GPUs"),
    (
        "aliases that would fill the memory",
        "".join(
            f"{name}: &{name} [{','.join([f'*{before}' if before else '1'] * 10)}]\n"
            for before, name in zip(["", *"abcdefghi"], "abcdefghij", strict=True)
        )
        + "capacity: *j\ntenants: []\n",
        "line 11, capacity: this is no number of GPUs",
    ),
]


@pytest.mark.parametrize(("why", "text", "says"), FAULTS, ids=[row[0] for row in FAULTS])
def test_a_fault_is_one_message_with_its_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, why: str, text: str, says: str
) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(text)
    code, out, err = run(capsys, file)
    assert (code, out) == (ExitCode.INVALID, "")
    assert says in err, err
    assert "Traceback" not in err


def test_a_file_that_is_no_text_is_said_to_be_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_bytes("capacity: 8\ntenants: [{name: café}]".encode("latin-1"))
    code, _, err = run(capsys, file)
    assert code == ExitCode.INVALID
    assert "not a text in UTF-8" in err


def test_a_file_that_is_not_there_is_a_fault_of_the_call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, tmp_path / "scenario.yaml")
    assert (code, out) == (ExitCode.INVALID, "")
    assert "No such file" in err


def test_standard_input_is_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode()), encoding="utf-8"))
    code, out, err = run(capsys, Path("-"), "--json")
    assert code == ExitCode.OK, err
    assert [one["job"] for one in json.loads(out)["decisions"]] == ["j", "k"]


def test_fields_left_empty_are_absent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    answer = ask(capsys, tmp_path, "capacity: 8\ntenants: [{name: a}]\noptions:\nrunning:\npending:\n")
    assert answer["decisions"] == []


def test_names_may_be_in_any_script_or_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = (
        "capacity: {4090: 8}\ntenants: [{name: 비전, guaranteed: {4090: 8}}]\n"
        "pending: [{id: 작업, tenant: 비전, gpus: 8, model: 4090}]"
    )
    answer = ask(capsys, tmp_path, text)
    assert answer["decisions"][0]["as"] == "guaranteed"
    assert answer["shares"]["비전"]["guaranteed"] == {"4090": 8}


def test_who_is_shorted_is_told_beside_the_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("capacity: {b200: 12}\ntenants: [{name: a, guaranteed: 8, priority: 1}, {name: b, guaranteed: 8}]")
    code, _, err = run(capsys, file)
    assert code == ExitCode.OK
    assert "! 12 GPUs cannot keep all guarantees: b gets 4 of 8" in err
    (alert,) = json.loads(run(capsys, file, "--json")[1])["alerts"]
    assert (alert["tenant"], alert["model"], alert["guaranteed"], alert["honoured"]) == ("b", "b200", 8, 4)


def test_the_order_of_tenants_and_running_jobs_is_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tenants = ["{name: o}", "{name: a, parent: o}", "{name: b, parent: o, guaranteed: 4}", "{name: c, weight: 2}"]
    running = [f"{{id: r{n}, tenant: {name}, gpus: 4}}" for n, name in enumerate("aacc")]
    rest = "pending: [{id: j, tenant: b, gpus: 4}, {id: k, tenant: b, gpus: 4}]"

    def answered(tenants: list[str], running: list[str]) -> dict[str, Any]:
        text = f"capacity: 16\ntenants: [{', '.join(tenants)}]\nrunning: [{', '.join(running)}]\n{rest}"
        return ask(capsys, tmp_path, text)

    first = answered(tenants, running)
    assert [one["preempts"] for one in first["decisions"]] == [["r0"], []]
    assert answered(tenants[::-1], running[::-1]) == first


def test_a_parent_may_be_many_levels_up_but_not_without_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tenants = ["{name: t0}", *(f"{{name: t{number}, parent: t{number - 1}}}" for number in range(1, 40))]
    file = tmp_path / "scenario.yaml"
    file.write_text(f"capacity: 8\ntenants: [{', '.join(tenants)}]")
    code, _, err = run(capsys, file)
    assert code == ExitCode.INVALID
    assert "more than 16 deep" in err
