"""Whatever the API is asked, it answers as its OpenAPI document says, and never with a server error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from slurm_gpuaas.daemon.server import as_peer
from tests.unit.daemon.site import ADMINISTRATOR, POLICY, RESEARCHER, Site

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)

TOPOLOGY = """\
- topology: fabric
  cluster_default: true
  tree:
    switches:
      - {switch: root, nodes: "b200-[001-004]"}
"""


@pytest.fixture(scope="module", params=[ADMINISTRATOR, RESEARCHER], ids=["administrator", "researcher"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[schemathesis.BaseSchema]:
    site = Site(tmp_path_factory.mktemp("site"))
    site.describe_fabric()
    site.runtime.operations.policies.apply(POLICY, actor="test")
    (site.folder / "slurm" / "topology.yaml").write_text(TOPOLOGY)
    yield schemathesis.openapi.from_asgi("/openapi.json", as_peer(site.api, request.param))
    site.store.close()


def test_every_answer_is_declared_and_none_is_a_server_error(served: schemathesis.BaseSchema) -> None:
    tried = 0
    for found in served.get_all_operations():
        assert isinstance(found, Ok), found
        tried += 1

        @settings(
            max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(found.ok().as_strategy())
        def ask(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(checks=list(CHECKS))

        ask()
    assert tried >= 20, "the document has lost operations"
