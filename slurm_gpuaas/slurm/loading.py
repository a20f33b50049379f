"""Text for `sacctmgr load`: new accounts and associations in one go. Pure.

`load` adds what is missing and changes what differs; it never removes. Its quotes have no escape, so a text that is not
plain is left out here and posted afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from slurm_gpuaas.slurm.records import Account, Tres, UserAssociation

_ROOT: Final = "root"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./: -]+")


class Entry(NamedTuple):
    """A line, and the account it stands below."""

    parent: str
    line: str


def is_plain(account: Account) -> bool:
    """All of the account can be said in a line."""
    texts = (account.description, account.organization)
    return all(_PLAIN.fullmatch(text) for text in texts) and not any(
        ":" in name for limit in (account.grp_tres, account.grp_tres_mins) for name in limit
    )


def account(one: Account) -> Entry:
    words = [f"Account - '{one.name}'"]
    if is_plain(one):
        words += [
            f"Description='{one.description}'",
            f"Organization='{one.organization}'",
            f"Fairshare={one.fairshare}",
        ]
        words += [f"{name}={_tres(limit)}" for name, limit in _limits(one) if limit]
    return Entry(one.parent or _ROOT, ":".join(words))


def member(one: UserAssociation) -> Entry:
    words = [f"User - '{one.user}'"]
    if one.is_default:
        words.append(f"DefaultAccount='{one.account}'")
    if one.default_qos is not None:
        words.append(f"DefaultQOS='{one.default_qos}'")
    words += [f"Fairshare={one.fairshare}", f"QOS='{','.join(sorted(one.qos))}'"]
    return Entry(one.account, ":".join(words))


def text(cluster: str, entries: Iterable[Entry]) -> str:
    """The file: entries in their order, a `Parent` line whenever the parent is another."""
    lines, parent = [f"Cluster - '{cluster}'"], ""
    for entry in entries:
        if entry.parent != parent:
            parent = entry.parent
            lines.append(f"Parent - '{parent}'")
        lines.append(entry.line)
    return "\n".join([*lines, ""])


def _limits(one: Account) -> tuple[tuple[str, Tres], ...]:
    return ("GrpTRES", one.grp_tres), ("GrpTRESMins", one.grp_tres_mins)


def _tres(limit: Tres) -> str:
    return ",".join(f"{name}={count}" for name, count in sorted(limit.items()))
