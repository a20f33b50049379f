"""The site's store: what should be, what happened and why. gpuaasd owns it; everybody else asks gpuaasd."""

from slurm_gpuaas.store.repository import PolicyRevision, Store

__all__ = ["PolicyRevision", "Store"]
