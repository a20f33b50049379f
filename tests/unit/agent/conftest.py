from tests.simulated import hardware, node, nvml
from tests.unit.agent.daemon import config, daemon

__all__ = ["config", "daemon", "hardware", "node", "nvml"]
