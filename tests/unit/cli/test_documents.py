"""Faults in policy files are named with file, document, line and field."""

from __future__ import annotations

import io

import pytest

from slurm_gpuaas.cli.documents import read_documents
from slurm_gpuaas.domain.errors import InvalidInput


def read(text: str) -> list[object]:
    file = io.StringIO(text)
    file.name = "policy.yaml"
    return list(read_documents([file]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "kind: Organisation\nname: kaist\n---\nkind: Project\nname: vision\norganisation: kaist\nowner: me\n",
            "policy.yaml: document 2, line 7, owner: Extra inputs are not permitted",
        ),
        (
            "kind: Project\nname: 'Not A Name'\norganisation: kaist\n",
            "policy.yaml: document 1, line 2, name: Value error, 'Not A Name' is not a valid project name",
        ),
        (
            "kind: Project\nname: vision\n",
            "policy.yaml: document 1, line 1, organisation: Field required",
        ),
        (
            "kind: Pool\nname: p\ncluster: c\nmodel: b200\nshares:\n  - name: own\n    nodes: '@all'\n",
            "policy.yaml: document 1, line 7, shares.0.nodes: Value error, '@all' uses a node group",
        ),
        ("kind: Projekt\nname: vision\n", "policy.yaml: document 1, line 1, kind: Input tag 'Projekt'"),
        ("- a\n- list\n", "policy.yaml: document 1, line 1, kind:"),
        ("kind: Organisation\nname: a\nname: b\n", "policy.yaml, line 3: 'name' is given twice"),
        ("kind: [\n", "policy.yaml, line 2:"),
        ("kind: !!python/object:os.system x\n", "policy.yaml, line 1: could not determine a constructor"),
    ],
    ids=["unknown-key", "bad-name", "missing", "nested", "kind", "no-mapping", "twice", "no-yaml", "no-objects"],
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
