"""What the ledger knows of earlier grants of an applicant, for right-sizing."""

from __future__ import annotations

from collections import defaultdict
from datetime import date

from slurm_gpuaas.domain.accounts import Person
from slurm_gpuaas.domain.applications import MOST_MEASURED
from slurm_gpuaas.domain.calendar import start_of
from slurm_gpuaas.domain.jobs import ServiceClass
from slurm_gpuaas.domain.ledger import Place
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import AccountName, ClusterName
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.pool_grants import PoolGrant
from slurm_gpuaas.domain.workloads import Measured
from slurm_gpuaas.pool.proposal import measured_use
from slurm_gpuaas.store.pool import PoolStore


def earlier_use(store: PoolStore, person: Person, today: date) -> tuple[Measured, ...]:
    """Of the grants that the person may see: their own, a tenant admin's organisation's. The newest of them."""
    grants = _grants(store, person)
    if not grants:
        return ()
    clusters = {share.name: share.cluster for share in store.register.shares.all()}
    account = {one.id: (clusters[one.share], AccountName(one.project)) for one in grants}
    places = [Place(*account[one.id], month) for one in grants for month in _months(one.starts, min(one.ends, today))]
    used: dict[tuple[ClusterName, AccountName], int] = defaultdict(int)
    for key, seconds in store.ledger.use(places).items():
        if key.service is ServiceClass.GUARANTEED:
            used[key.cluster, key.account] += seconds
    calendar = store.register.calendar
    found = [measured_use(one.id, calendar.of_holder(one.id), used[account[one.id]], today) for one in grants]
    return tuple(one for one in found if one is not None)


def _grants(store: PoolStore, person: Person) -> list[PoolGrant]:
    if (organisation := person.office.organisation) is None:
        return []
    whole = person.office.role is PortalRole.TENANT_ADMIN
    grants = [one for one in store.register.grants.all(organisation=organisation) if whole or person.id in one.members]
    return sorted(grants, key=lambda one: (one.starts, one.id), reverse=True)[:MOST_MEASURED]


def _months(first: date, last: date) -> list[Month]:
    found, month = [], Month.of(start_of(first))
    while month.first <= last:
        found.append(month)
        month = month.following
    return found
