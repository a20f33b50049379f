from collections.abc import Iterator

import pytest
import structlog

from tests.simulated import hardware, node, nvml
from tests.unit.agent.daemon import config, daemon

__all__ = ["config", "daemon", "hardware", "node", "nvml"]


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """The command says where its log goes; the next test's must not go there."""
    yield
    structlog.reset_defaults()
