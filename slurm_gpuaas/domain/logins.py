"""People as a cluster knows them: a login and the SSH keys that open it. Hostile until checked here."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from slurm_gpuaas.domain.names import UserName
from slurm_gpuaas.domain.ssh_keys import SshKey

MOST_KEYS: Final = 20
MOST_PEOPLE: Final = 20_000


class Login(BaseModel):
    """A person's login on a cluster.

    Args:
        name: becomes the comment of the account: no `:` and no control characters.
        uid: number that the person has on all clusters; None = any of the cluster's range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: UserName
    name: str = Field(default="", max_length=100, pattern=r"^[^:,\x00-\x1f\x7f]*$")
    keys: tuple[SshKey, ...] = Field(default=(), max_length=MOST_KEYS)
    uid: int | None = Field(default=None, ge=1_000, lt=2**31)


Logins = Annotated[tuple[Login, ...], Field(max_length=MOST_PEOPLE)]
LOGINS: Final[TypeAdapter[tuple[Login, ...]]] = TypeAdapter(Logins)
