"""Whatever a job description holds, the hook answers with one of Slurm's codes and never fails inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.hook.harness import INFINITE, LUA, NO_VAL, NO_VAL16, RECORDS, REFUSED, UNSET, Hook, snapshot_text

WORDS = st.sampled_from(
    ["alice", "bob", "mallory", "root", "nlp", "vision", "both", "b200-gov", "h200-gov", "cpu", "burst", "guaranteed",
     "guaranteed-nlp", "burst-32", "gres/gpu", "gres/gpu:8", "gres/gpu:b200:16", "gpu=4", "gres:gpu:h200", "cpu=4",
     "gres/gpu:99999999999999999999g", "0-15%4", "1,2,3", "5-1:0", "%n%s%d", "{user}", "none", ",", ":", "="]
)  # fmt: skip
HOSTILE = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
TEXT = st.one_of(st.none(), st.lists(st.one_of(WORDS, HOSTILE), max_size=4).map(",".join), HOSTILE)
NUMBER = st.one_of(
    st.none(),
    st.sampled_from([0, 1, 2, 8, 16, 60, NO_VAL, NO_VAL16, INFINITE, -1, 2**63, 1e300, float("inf"), float("nan")]),
    st.integers(0, 2**32 - 1),
)
TEXTS = ("user_name", "account", "partition", "qos", "array_inx", "tres_per_job", "tres_per_node", "tres_per_socket",
         "tres_per_task", "tres_fmt_req_str", "licenses", "features")  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(TEXTS, TEXT), **dict.fromkeys((*UNSET, "user_id", "array_task_cnt"), NUMBER)}
)
QUIET = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=LUA)
def hook(request: pytest.FixtureRequest) -> Iterator[Hook]:
    with TemporaryDirectory() as folder:
        yield Hook(Path(folder) / "snapshot", text=snapshot_text(RECORDS), lua=request.param)


@QUIET
@given(fields=FIELDS)
def test_any_submission_gets_an_answer(hook: Hook, fields: dict[str, object]) -> None:
    outcome = hook.submit(**fields)
    assert outcome.code in (0, REFUSED)
    assert bool(outcome.message) == (outcome.code == REFUSED)
    assert hook.complaints == [], "an error inside the hook would have let the job pass"


@QUIET
@given(record=FIELDS, fields=FIELDS)
def test_any_change_gets_an_answer(hook: Hook, record: dict[str, Any], fields: dict[str, Any]) -> None:
    outcome = hook.modify({**record, "user_id": 1000}, **fields)
    assert outcome.code in (0, REFUSED)
    assert hook.complaints == []


@QUIET
@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_snapshot_body_is_survived(tmp_path: Path, text: str) -> None:
    good = snapshot_text(RECORDS)
    hook = Hook(tmp_path / "snapshot")
    for body in (text, good.split("\n")[0] + "\n" + text, good.replace("\t16\t", f"\t{text}\t")):
        hook.snapshot.write_text(body, encoding="utf-8")
        assert hook.submit(user_name="alice", tres_per_job="gres/gpu:1").code in (0, REFUSED)


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_a_very_long_request_is_refused_quickly(hook: Hook, size: int) -> None:
    outcome = hook.submit(user_name="alice", tres_per_node="gres/gpu:1," * (size // 11))
    assert outcome.code == REFUSED
    assert len(outcome.message) < 200
