"""gpuaasd's HTTP API: models of requests and answers, the client, and how node agents sign."""

from typing import Final

DEFAULT_SOCKET: Final = "/run/gpuaas/gpuaasd.sock"
