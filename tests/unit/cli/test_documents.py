"""Faults in policy files are named with file, document, line and field."""

from __future__ import annotations

import io

import pytest

from slurm_gpuaas.cli.documents import read_documents
from slurm_gpuaas.domain.errors import InvalidInput

GRANT = "kind: Grant\nname: a\nproject: vision\npool: p\nshare: own\ngpus: 8\n"


def read(text: str) -> list[object]:
    file = io.StringIO(text)
    file.name = "policy.yaml"
    return list(read_documents([file]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "kind: Organisation\nname: kaist\n---\nkind: Project\nname: vision\norganisation: kaist\nowner: me\n",
            "policy.yaml: document 2, line 7, owner: there is no such field",
        ),
        (
            "kind: Project\nname: 'Not A Name'\norganisation: kaist\n",
            "policy.yaml: document 1, line 2, name: 'Not A Name' is not a valid project name",
        ),
        (
            "kind: Project\nname: vision\n",
            "policy.yaml: document 1, line 1, organisation: is missing",
        ),
        (
            "kind: Pool\nname: p\ncluster: c\nmodel: b200\nshares:\n  - name: own\n    nodes: '@all'\n",
            "policy.yaml: document 1, line 7, shares.0.nodes: '@all' uses a node group",
        ),
        (
            "kind: Projekt\nname: vision\n",
            "policy.yaml: document 1, line 1, kind: there is no 'Projekt'; use one of Organisation, Project,",
        ),
        ("- a\n- list\n", "policy.yaml: document 1, line 1, kind: is not a mapping of fields"),
        ("kind: Organisation\nname: a\nname: b\n", "policy.yaml, line 3: 'name' is given twice"),
        ("kind: [\n", "policy.yaml, line 2:"),
        ("kind: !!python/object:os.system x\n", "policy.yaml, line 1: could not determine a constructor"),
        (
            GRANT + "starts: 2027-02-30\nends: 2027-12-31\n",
            "policy.yaml: document 1, line 7, starts: should be a valid date",
        ),
        (
            GRANT + "starts: 2027-13-01\nends: 2027-12-31\n",
            "policy.yaml: document 1, line 7, starts: should be a valid date",
        ),
        (GRANT + "starts: 0001-01-01\nends: 2027-12-31\n", "line 7, starts: 0001-01-01 is before 2000-01-01"),
        (GRANT + "max_time: 30\n", "line 7, max_time: 0:00:30 is no wall time of a job: it is from 1 minute"),
        ("kind: Grant\n? [a, b]\n: 1\n", "policy.yaml, line 2: a key must be one word"),
        ("kind: Organisation\nname: !!int x\n", "policy.yaml: document 1, line 1: a value cannot be read"),
        ("name: x\n", "policy.yaml: document 1, line 1, kind: is missing"),
    ],
    ids=[
        *("unknown-key", "bad-name", "missing", "nested", "kind", "no-mapping", "twice", "no-yaml", "no-objects"),
        *("no-such-day", "no-such-month", "year-one", "half-a-minute", "complex-key", "no-integer", "no-kind"),
    ],
)
def test_a_fault_has_its_place(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(text)
    assert fault in caught.value.message


def test_all_faults_come_at_once_up_to_twenty() -> None:
    with pytest.raises(InvalidInput) as caught:
        read("---\n".join(f"kind: Organisation\nname: A{n}\n" for n in range(25)))
    assert caught.value.message.count("document ") == 20
    assert "... and 5 more" in caught.value.message


def test_a_bad_node_list_is_one_fault() -> None:
    with pytest.raises(InvalidInput) as caught:
        read("kind: Pool\nname: p\ncluster: c\nmodel: b200\nshares:\n  - name: own\n    nodes: 'b200-['\n")
    assert caught.value.message.count("document ") == 1
    assert "docs/guides/policy.md" in caught.value.way_out
