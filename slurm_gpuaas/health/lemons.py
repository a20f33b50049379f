"""Nodes that keep failing, as a risk for jobs. Pure.

Meta found 1.2 % of the nodes of RSC-1 to touch 13 % of a day's jobs, looking back 28 days (Kokolis et al., arXiv
2410.21680): what failed before fails again. Here the incidents of a node in that time are its failure rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from slurm_gpuaas.domain.incidents import Drain, Incident
from slurm_gpuaas.domain.names import NodeName

LOOKS_BACK: Final = timedelta(days=28)


def failure_risks(incidents: Iterable[Incident], now: datetime) -> Mapping[NodeName, float]:
    """Probability that a node fails within a day, by its incidents of the last 28 days that asked for a drain; nodes
    without any are left out. Failures are taken to come at random: 1 - exp(-incidents / 28)."""
    counts = Counter(
        incident.node
        for incident in incidents
        if incident.drain is not Drain.NO and now - incident.opened_at <= LOOKS_BACK
    )
    return {node: 1 - math.exp(-number / LOOKS_BACK.days) for node, number in counts.items()}
