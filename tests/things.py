"""What stands in addresses of the portal, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass

from slurm_gpuaas.domain.people import Actor
from slurm_gpuaas.portal.rights import Action, Owned, allows


@dataclass(frozen=True, slots=True)
class Thing:
    """
    Args:
        value: what stands for it in a path.
        owners: it is reached by whoever reaches one of these.
        mark: a text of it that nothing else has; empty: it has no text of its own.
        shown_by: actions that may show the mark to whom they reach.
    """

    value: str
    owners: tuple[Owned, ...]
    mark: str = ""
    shown_by: frozenset[Action] = frozenset()

    def reached(self, actor: Actor, action: Action) -> bool:
        return any(allows(actor, action, one) for one in self.owners)
