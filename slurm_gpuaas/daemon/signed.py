"""Which node sent a request: the routes of node agents ask this before anything else."""

from __future__ import annotations

from starlette.requests import Request

from slurm_gpuaas.api.signing import NODES, Nonces, node_key, verify
from slurm_gpuaas.domain.clock import Clock
from slurm_gpuaas.domain.errors import Refused
from slurm_gpuaas.domain.names import NodeName


class Signed:
    """A dependency of routes: the node whose key signed the request.

    Args:
        master_key: key of the agents' keys; None = no agent may report.
    """

    def __init__(self, master_key: bytes | None, clock: Clock, nonces: Nonces) -> None:
        self._master_key = master_key
        self._clock = clock
        self._nonces = nonces

    async def __call__(self, request: Request) -> NodeName:
        """Runs on the event loop, one at a time: nonces need no lock."""
        if self._master_key is None:
            raise Refused("This gpuaasd takes no node events.", way_out="Make the file agents.master_key.")
        master = self._master_key
        return verify(
            NODES,
            lambda node: node_key(master, node),
            method=request.method,
            target=request.url.path,
            headers=request.headers,
            body=await request.body(),
            now=self._clock.now(),
            nonces=self._nonces,
        )
