from tests.simulated import hardware, node, nvml

__all__ = ["hardware", "node", "nvml"]
