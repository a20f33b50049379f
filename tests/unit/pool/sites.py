"""A site that takes the pool's documents."""

from __future__ import annotations

from slurm_gpuaas.domain.policy import Policy
from slurm_gpuaas.domain.policy import Pool as PoolDocument
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.pool.documents import SiteDocuments

MOST = 100


def policy_of(documents: SiteDocuments, share: PoolShare) -> Policy:
    """The site's whole policy: its own pool of one share, and what the portal gives it.

    Raises:
        InvalidInput: the documents contradict each other.
    """
    nodes = {"name": share.share, "nodes": f"n[001-{MOST}]", "spares": MOST - share.capacity}
    pool = {"name": share.pool, "cluster": share.cluster, "model": share.model, "gpus_per_node": 1, "shares": [nodes]}
    return Policy.of(
        [
            PoolDocument.model_validate(pool),
            *documents.organisations,
            *documents.projects,
            *documents.members,
            *documents.grants,
        ]
    )
