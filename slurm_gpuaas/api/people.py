"""What gpuaasd and `gpuaas-people` say to each other, in one file each way (docs/design/0028-people-on-a-site.md)."""

from __future__ import annotations

from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from slurm_gpuaas.domain.logins import Logins
from slurm_gpuaas.domain.names import UserName

MAX_FILE_BYTES: Final = 64 * 2**20


class WantedPeople(BaseModel):
    """Who should have a login on the cluster: all of them, whoever is not in it should have none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    people: Logins


class PersonFinding(BaseModel):
    """Somebody who could not be given what was wanted, and why."""

    model_config = ConfigDict(frozen=True)

    user: UserName
    why: str = Field(max_length=500)


class PeopleState(BaseModel):
    """What `gpuaas-people` did last. `done`: those who have exactly what was wanted."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    done: tuple[UserName, ...]
    findings: tuple[PersonFinding, ...]
