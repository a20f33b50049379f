"""Run inside a testbed: prints what gpuaasd's store says of incidents, as one JSON document.

python -m slurm_gpuaas.testbed.chaos_ledger sqlite:////var/lib/gpuaas/gpuaas.db
"""

from __future__ import annotations

import json
import sys

from slurm_gpuaas.store import Store

ALL = 1_000_000
ACTING = ("health", "recovery")
"""Names in the journal of what acts on nodes and jobs for an incident."""


def main(url: str) -> None:
    store = Store.open(url)
    print(
        json.dumps(
            {
                "incidents": [
                    {"id": found.id, "node": found.node, "state": found.state, "jobs": found.requeued_jobs}
                    for found in store.incidents(limit=ALL)
                ],
                "steps": [
                    {"incident": step.incident, "before": step.before, "after": step.after}
                    for step in store.transitions()
                ],
                "audit": [
                    {
                        "incident": entry.evidence.get("incident", ""),
                        "action": entry.action,
                        "subject": entry.subject,
                        "job": entry.evidence.get("job"),
                    }
                    for entry in store.audit.newest(limit=ALL)
                ],
                "open_effects": sum(
                    effect.outcome == "open" for who in ACTING for effect in store.journal.newest(who, limit=ALL)
                ),
            }
        )
    )
    store.close()


if __name__ == "__main__":
    main(sys.argv[1])
