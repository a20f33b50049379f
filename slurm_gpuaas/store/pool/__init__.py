"""The pool's store: programmes, applications, awards, grants, money, people. The portal's server owns it, everybody
else asks that server."""

from slurm_gpuaas.store.pool.repository import PoolStore

__all__ = ["PoolStore"]
