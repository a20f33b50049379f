"""What a command works with: one composition object in click's context, so that a test swaps it whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurm_gpuaas.cli.tokens import token_for, tokens_file
from slurm_gpuaas.domain.errors import InvalidInput

if TYPE_CHECKING:  # httpx2 takes longer to import than most commands to run
    from slurm_gpuaas.api.client import Client
    from slurm_gpuaas.api.portal import PortalClient


@dataclass(frozen=True, slots=True)
class Session:
    """`connect` opens a client of gpuaasd; `site` and `open_portal` are of the portal, where one was named.

    Args:
        site: the portal's address.
        tokens: file with the user's tokens.
        open_portal: a client of the portal at an address, with a token.
    """

    connect: Callable[[], AbstractContextManager[Client]]
    site: str | None = None
    tokens: Path = field(default_factory=tokens_file)
    open_portal: Callable[[str, str], PortalClient] | None = None

    @classmethod
    def at(cls, socket: Path, site: str | None = None, ca: Path | None = None) -> Session:
        def connect() -> Client:
            from slurm_gpuaas.api.client import Client

            return Client(socket)

        def open_portal(url: str, token: str) -> PortalClient:
            from slurm_gpuaas.api.portal import PortalClient

            return PortalClient(url, token, ca=ca)

        return cls(connect, site, open_portal=open_portal)

    def site_url(self) -> str:
        """
        Raises:
            InvalidInput: no portal was named, or it is none.
        """
        from slurm_gpuaas.api.portal import checked_url

        if self.site is None:
            raise InvalidInput(
                "This command asks the pool's portal, and none was named.",
                way_out="gpuaas --site https://gpu.example.org pool ..., or GPUAAS_SITE.",
            )
        return checked_url(self.site)

    def portal(self, token: str | None = None) -> PortalClient:
        """
        Args:
            token: None = the one that `gpuaas pool login` kept.

        Raises:
            Refused: none was kept for this portal.
        """
        url = self.site_url()
        assert self.open_portal is not None
        return self.open_portal(url, token or token_for(url, self.tokens))


pass_session = click.make_pass_decorator(Session)

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
