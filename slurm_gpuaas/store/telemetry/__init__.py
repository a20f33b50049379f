"""Telemetry of GPUs, beside the store: append-only chunks of columns, never rows (docs/design/0018-gpu-samples.md)."""

from slurm_gpuaas.store.telemetry.telemetry import Keep, Telemetry

__all__ = ["Keep", "Telemetry"]
