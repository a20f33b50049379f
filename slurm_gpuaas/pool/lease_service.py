"""Leases at work: a provider asks for GPUs that nobody was awarded, the government decides, on the day they are back.

An approved lease holds its GPUs in the calendar like any promise, so nothing can be awarded over it, and is a grant
document of the provider's own project at the site: Slurm enforces it, and its last day is in the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

from slurm_gpuaas.domain.calendar import ONE_DAY, Commitment
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Refused
from slurm_gpuaas.domain.leases import LEASE_STEPS, Lease, LeaseState, LeaseStep
from slurm_gpuaas.domain.names import HoldId, LeaseId, PersonId, PoolShareName
from slurm_gpuaas.domain.pool_grants import Hold, HoldKind, check_other_person
from slurm_gpuaas.domain.programmes import PoolShare
from slurm_gpuaas.domain.stages import stepped
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.commands import Service, command
from slurm_gpuaas.pool.lending import Lease as Lent
from slurm_gpuaas.pool.lending import LendingRules, lend
from slurm_gpuaas.pool.work import Mail, Program, Work

LEASES: Final = Program("gpuaas-portal/leases")
"""Ends leases on their day."""
RULES: Final = LendingRules()


class LeaseService(Service):
    """Safe to share between threads."""

    @command("lease.ask", Lease)
    def ask(
        self,
        work: Work,
        share: PoolShareName,
        gpus: int,
        starts: date,
        ends: date,
        reason: str,
        members: tuple[PersonId, ...],
    ) -> Lease:
        """Ask for GPUs of a share for a time; nothing is held by it yet.

        Raises:
            Refused: the share is another provider's, or so many are not free for so long; the sentence says what is.
            InvalidInput: no whole servers, days that are over, or too long.
        """
        found = work.register.shares.get(share)
        if isinstance(work.actor, Program) or work.actor.provider != found.provider:
            raise Refused(
                told("Share {share} is {provider}'s.", share=share, provider=found.provider),
                way_out=told("Ask for GPUs of your own provider."),
            )
        lease = Lease(
            id=LeaseId(work.number("l")),
            provider=found.provider,
            share=share,
            gpus=gpus,
            starts=starts,
            ends=ends,
            reason=reason,
            members=tuple(dict.fromkeys(members)) or (work.person,),
            asked_by=work.person,
        )
        self._check(work, lease, found)
        work.put(work.register.leases, lease)
        work.record(lease.id, reason, share=share, gpus=gpus, starts=str(starts), ends=str(ends))
        return lease

    @command("lease.approve", Lease)
    def approve(self, work: Work, id: LeaseId) -> Lease:
        """It holds its GPUs from now on; its site has it at once.

        Raises:
            Refused: the actor asked for it, or the GPUs are not free any more.
            Conflict: it is decided.
        """
        lease = work.register.leases.get(id)
        check_other_person(work.person, lease.asked_by)
        hold = HoldId(work.number("h"))
        lease = self._step(work, lease, LeaseStep.APPROVE, "", decided_by=work.person, hold=hold)
        self._check(work, lease, work.register.shares.get(lease.share))
        work.put_hold(
            Hold(
                id=hold,
                kind=HoldKind.LEASE,
                share=lease.share,
                gpus=lease.gpus,
                starts=lease.starts,
                ends=lease.ends,
                by=work.person,
                reason=lease.reason,
            )
        )
        return self._put(work, lease, Mail.LEASE_APPROVED, "")

    @command("lease.refuse", Lease)
    def refuse(self, work: Work, id: LeaseId, reason: str) -> Lease:
        lease = work.register.leases.get(id)
        check_other_person(work.person, lease.asked_by)
        lease = self._step(work, lease, LeaseStep.REFUSE, reason, decided_by=work.person)
        return self._put(work, lease, Mail.LEASE_REFUSED, reason)

    @command("lease.end", Lease)
    def end(self, work: Work, id: LeaseId, last_day: date | None, reason: str) -> Lease:
        """Give it back earlier: its provider on any day, None at once; the government with notice. Before it is decided
        its provider withdraws it so.

        Raises:
            Refused: the day is over, no earlier than the end, or sooner than the notice allows.
            Conflict: it has ended.
        """
        lease = work.register.leases.get(id)
        own = not isinstance(work.actor, Program) and work.actor.provider == lease.provider
        if lease.state is LeaseState.ASKED and own:
            return self._put(work, self._step(work, lease, LeaseStep.WITHDRAW, reason), None, reason)
        first = work.today - ONE_DAY if own else work.today + timedelta(days=RULES.notice_days)
        last_day = first if last_day is None else last_day
        shortened = self._step(work, lease, LeaseStep.SHORTEN, reason)
        if not first <= last_day < lease.ends:
            raise Refused(
                told(
                    "Lease {lease} ends {ends}; it can end earlier, from {first} on.",
                    lease=id,
                    ends=lease.ends,
                    first=first,
                ),
                way_out=told("Choose a day in between."),
            )
        if last_day < max(work.today, lease.starts):
            return self._over(work, lease, reason)
        hold = work.register.holds.get(_hold(lease))
        work.put_hold(hold.model_copy(update={"ends": last_day}))
        return self._put(work, shortened.model_copy(update={"ends": last_day}), Mail.LEASE_SHORTENED, reason)

    def _over(self, work: Work, lease: Lease, reason: str) -> Lease:
        """Its GPUs are free from today on."""
        hold = work.register.holds.get(_hold(lease))
        ended = self._step(work, lease, LeaseStep.END, reason)
        work.put_hold(hold.model_copy(update={"released": True}))
        return self._put(work, ended, Mail.LEASE_ENDED, reason)

    def tick(self) -> int:
        """End the leases whose last day is over. Run at any time, as often as you like.

        Returns:
            How many were ended.
        """
        work = self.work("lease.calendar", LEASES)
        over = [one.id for one in self.store.register.leases.all(state="approved") if one.is_over(work.today)]
        for id in over:
            with self.store.transaction():
                lease = work.register.leases.get(id)
                if lease.state is LeaseState.APPROVED and lease.is_over(work.today):
                    self._over(work, lease, "")
        return len(over)

    # -- Rules

    def _check(self, work: Work, lease: Lease, share: PoolShare) -> None:
        """
        Raises:
            InvalidInput: it asks for days that are over, too many of them, or parts of servers.
            Refused: the share does not have so many free for so long.
        """
        if lease.starts < work.today:
            raise InvalidInput(told("A lease does not begin before today."), way_out=told("Choose a later day."))
        days = (lease.ends - lease.starts).days + 1
        if not RULES.shortest_days <= days <= RULES.longest_days:
            raise InvalidInput(
                told("A lease is for {least} to {most} days.", least=RULES.shortest_days, most=RULES.longest_days),
                way_out=told("Choose another last day; it can be asked for again later."),
            )
        if lease.gpus % RULES.unit:
            raise InvalidInput(
                told("GPUs are leased in whole servers of {unit}.", unit=RULES.unit),
                way_out=told("Ask for a multiple of it."),
            )
        free = lend(
            share.name,
            share.capacity,
            self._calendar(work, share.name),
            gpus=lease.gpus,
            starts=lease.starts,
            until=lease.ends,
            rules=RULES,
            holder=lease.id,
        )
        whole = sum(one.gpus for one in free if one.ends == lease.ends)
        if whole < lease.gpus:
            raise Refused(
                told(
                    "Share {share} has {free} GPUs free from {starts} to {ends} with {cleaning} days for cleaning; "
                    "{asked} are asked for.",
                    share=share.name,
                    free=whole,
                    starts=lease.starts,
                    ends=lease.ends,
                    cleaning=RULES.cleaning_days,
                    asked=lease.gpus,
                ),
                way_out=_instead(free),
            )

    def _calendar(self, work: Work, share: PoolShareName) -> list[Commitment]:
        """What the share has promised; between two leases nothing is cleaned."""
        leases = {one.id for one in work.register.holds.all(share=share, kind=HoldKind.LEASE.value)}
        return [
            Lent(holder=one.holder, share=one.share, gpus=one.gpus, starts=one.starts, ends=one.ends)
            if one.holder in leases
            else one
            for one in work.register.calendar.of_share(share, since=work.today - RULES.cleaning_days * ONE_DAY)
        ]

    # -- Writes

    def _step(self, work: Work, lease: Lease, step: LeaseStep, reason: str, **changes: object) -> Lease:
        return stepped(lease, lease.id, LEASE_STEPS, step, by=work.by, at=work.now, reason=reason, **changes)

    def _put(self, work: Work, lease: Lease, mail: Mail | None, reason: str) -> Lease:
        work.put(work.register.leases, lease)
        work.record(lease.id, reason, state=lease.state, gpus=lease.gpus, ends=str(lease.ends))
        if mail is not None:
            work.mail(
                {lease.asked_by, *lease.members},
                mail,
                lease=lease.id,
                project=lease.project,
                reason=reason,
                gpus=lease.gpus,
                share=lease.share,
                starts=str(lease.starts),
                ends=str(lease.ends),
            )
        return lease


def _hold(lease: Lease) -> HoldId:
    if lease.hold is None:
        raise Conflict(told("Lease {lease} holds nothing.", lease=lease.id))
    return lease.hold


def _instead(free: Sequence[Lent]) -> str:
    if not free:
        return told("Choose other days or another share.")
    some, early, last = sum(one.gpus for one in free), min(one.ends for one in free), max(one.ends for one in free)
    if early == last:
        return told("Free are {gpus} GPUs until {ends}.", gpus=some, ends=early)
    return told(
        "Free are {some} GPUs until {early}, and {gpus} of them until {ends}.",
        some=some,
        early=early,
        gpus=sum(one.gpus for one in free if one.ends == last),
        ends=last,
    )
