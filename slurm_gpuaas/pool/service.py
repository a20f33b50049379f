"""The commands of the pool, one method each. What may follow what is decided in `domain`; here it is read and written.

Each command is one transaction: the new state, the calendar, the audit entry, mails, and the revision of a site's
documents. It carries an id of its caller's: sent twice, it is done once and answers the same. Whether an actor's role
may give a command is the portal's table of rights; rules about *people* are held here: who asked never decides, who has
a conflict of interest never judges, and only its own people act for an organisation.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from typing import Final

from slurm_gpuaas.domain.applications import (
    APPLICATION_STEPS,
    Application,
    ApplicationDraft,
    ApplicationRequest,
    ApplicationState,
    ApplicationStep,
    Review,
    check_count,
    check_points,
    check_request,
    check_size,
    counted,
    qualified,
    score,
    suits,
)
from slurm_gpuaas.domain.calendar import Commitment, korean_day, overcommitted, room, start_of
from slurm_gpuaas.domain.errors import Conflict, InvalidInput, Refused
from slurm_gpuaas.domain.leases import LEASE_PROGRAMME, LESSEE
from slurm_gpuaas.domain.names import (
    ApplicationId,
    AwardId,
    ChangeId,
    ClusterName,
    HoldId,
    OfferId,
    OrganisationName,
    PersonId,
    PoolGrantId,
    PoolShareName,
    ProgrammeName,
    UserName,
)
from slurm_gpuaas.domain.people import Actor
from slurm_gpuaas.domain.pool_grants import (
    AWARD_STEPS,
    CHANGE_STEPS,
    OFFER_STEPS,
    Award,
    AwardLine,
    AwardStep,
    ChangeState,
    ChangeStep,
    GrantChange,
    Hold,
    HoldKind,
    NotAwarded,
    Offer,
    OfferState,
    OfferStep,
    PoolGrant,
    PoolGrantStep,
    accepted,
    changed,
    check_change,
    check_other_person,
    check_still_meant,
    due,
    granted,
    recalled,
    returned,
    shrunk,
    with_members,
    with_report,
)
from slurm_gpuaas.domain.programmes import (
    FIRST_UID,
    GPUS_OF_A_SERVER,
    Caps,
    Membership,
    PoolOrganisation,
    PoolShare,
    Programme,
    UnixIdentity,
    check_login,
)
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.domain.stages import stepped
from slurm_gpuaas.domain.told import Told, told
from slurm_gpuaas.pool.award_scenario import Scenario
from slurm_gpuaas.pool.commands import Service, command
from slurm_gpuaas.pool.concentration import Holding, check_caps, room_under_caps
from slurm_gpuaas.pool.documents import SiteDocuments, site_documents
from slurm_gpuaas.pool.scenario import scenario
from slurm_gpuaas.pool.waiting import in_order, next_in_line
from slurm_gpuaas.pool.work import Mail, Program, Work

CALENDAR: Final = Program("gpuaas-portal/calendar")
"""Does what the day brings."""
LIVE: Final = ("scheduled", "active", "ending")


class PoolService(Service):
    """Safe to share between threads."""

    # -- What there is -------------------------------------------------------------------------------------------------

    @command("programme.put", Programme)
    def put_programme(self, work: Work, programme: Programme) -> Programme:
        """Declare a programme, or change its rules for what comes from now on.

        Raises:
            NotFound: it awards from a share that does not exist.
            Conflict: it has reviews, and other criteria now.
            InvalidInput: the accounts know providers' leases under its name.
        """
        if programme.name == LEASE_PROGRAMME:
            raise _kept_for_leases(programme.name)
        for share in programme.shares:
            work.register.shares.get(share)
        before = work.register.programmes.find(programme.name)
        if before is not None and before.criteria != programme.criteria:
            applications = {one.id for one in work.register.applications.all(programme=programme.name)}
            if applications and work.register.reviews.all(application=sorted(applications)):
                raise Conflict(
                    told("Programme {name} has reviews; its criteria cannot change any more.", name=programme.name),
                    way_out=told("Declare another programme."),
                )
        work.put(work.register.programmes, programme)
        work.record(programme.name, rules=hashlib.sha256(programme.model_dump_json().encode()).hexdigest())
        return programme

    @command("share.put", PoolShare)
    def put_share(self, work: Work, share: PoolShare) -> PoolShare:
        """Declare a pool share, or what it has now.

        Raises:
            Conflict: more is promised than it would have, or its model would change.
        """
        before = work.register.shares.find(share.name)
        if before is not None and before.model != share.model:
            raise Conflict(told("Share {share} is of {model}.", share=share.name, model=before.model))
        promised = work.register.calendar.of_share(share.name, since=work.today)
        if (worst := overcommitted(share.capacity, promised, since=work.today)) is not None:
            raise Conflict(
                told(
                    "Share {share} has promised {gpus} GPUs on {day}; {capacity} would be too few.",
                    share=share.name,
                    gpus=worst.gpus,
                    day=worst.day,
                    capacity=share.capacity,
                ),
                way_out=told("Shrink or recall grants first."),
            )
        work.put(work.register.shares, share)
        work.record(share.name, capacity=share.capacity, before=None if before is None else before.capacity)
        return share

    @command("organisation.put", PoolOrganisation)
    def put_organisation(self, work: Work, organisation: PoolOrganisation) -> PoolOrganisation:
        """
        Raises:
            InvalidInput: the accounts know a provider by its name.
        """
        if organisation.name.endswith(LESSEE):
            raise _kept_for_leases(organisation.name)
        work.put(work.register.organisations, organisation)
        work.record(organisation.name, kind=organisation.kind, region=organisation.region)
        work.sites_changed(work.register.grants.all(organisation=organisation.name))
        return organisation

    @command("membership.put", Membership)
    def put_membership(self, work: Work, membership: Membership) -> Membership:
        work.register.organisations.get(membership.organisation)
        work.put(work.register.memberships, membership)
        work.record(membership.organisation, person=membership.person, role=membership.role)
        work.sites_changed(self._grants_of(membership.person))
        return membership

    @command("membership.end", Membership)
    def end_membership(self, work: Work, person: PersonId, organisation: OrganisationName) -> Membership:
        """The person leaves the organisation, and with it its grants."""
        membership = work.register.memberships.get(person, organisation)
        work.failpoint("membership.end: remove")
        work.register.memberships.remove(person, organisation)
        work.record(organisation, person=person)
        work.sites_changed(self._grants_of(person))
        return membership

    @command("identity.put", UnixIdentity)
    def put_identity(self, work: Work, person: PersonId, login: UserName, ssh_keys: tuple[SshKey, ...]) -> UnixIdentity:
        """A person's login, which stays as it is once given, and SSH keys.

        Raises:
            Conflict: somebody else has the login, or the person has another one.
            InvalidInput: the login may be one of the system.
        """
        check_login(login)
        before = work.register.identities.find(person)
        if before is not None and before.login != login:
            raise Conflict(told("{person} has the login {login}; it stays.", person=person, login=before.login))
        if any(one.person != person for one in work.register.identities.all(login=login)):
            raise Conflict(told("The login {login} is taken.", login=login), way_out=told("Choose another one."))
        uid = FIRST_UID - 1 + work.register.next_number("uid") if before is None else before.uid
        identity = UnixIdentity(person=person, login=login, uid=uid, ssh_keys=ssh_keys)
        work.put(work.register.identities, identity)
        work.record(person, login=login, ssh_keys=" ".join(key.fingerprint for key in ssh_keys))
        work.sites_changed(self._grants_of(person))
        return identity

    def _grants_of(self, person: PersonId) -> list[PoolGrant]:
        return [grant for grant in self.store.register.grants.all(state=LIVE) if person in grant.members]

    # -- Applications --------------------------------------------------------------------------------------------------

    def save_draft(self, actor: Actor, programme: ProgrammeName, fields: Mapping[str, str]) -> ApplicationDraft:
        """What the form of an application holds so far. The actor's own business: saving it again replaces it."""
        draft = ApplicationDraft(
            person=actor.person, programme=programme, saved_at=self._clock.now(), fields=dict(fields)
        )
        with self.store.transaction():
            self.store.register.programmes.get(programme)
            self.store.register.drafts.put(draft)
        return draft

    def drop_draft(self, actor: Actor, programme: ProgrammeName) -> None:
        """The actor does not want to apply after all; no error when there is none."""
        with self.store.transaction():
            self.store.register.drafts.remove(actor.person, programme)

    @command("application.submit", Application)
    def submit(self, work: Work, request: ApplicationRequest) -> Application:
        """
        Raises:
            Refused: a rule of the programme forbids it, or the actor is no member of the organisation.
        """
        work.check_belongs(request.organisation)
        programme = work.register.programmes.get(request.programme)
        organisation = work.register.organisations.get(request.organisation)
        check_request(request, programme, organisation, now=work.now)
        application = Application(
            id=ApplicationId(work.number("a")), request=request, applicant=work.person, submitted_at=work.now
        )
        work.put(work.register.applications, application)
        work.failpoint("application.submit: draft")
        work.register.drafts.remove(work.person, request.programme)
        work.record(application.id, gpus=request.gpus, organisation=request.organisation)
        work.mail(
            work.people(request.organisation, work.person), Mail.APPLICATION_SUBMITTED, application=application.id
        )
        return application

    @command("application.withdraw", Application)
    def withdraw(self, work: Work, id: ApplicationId, reason: str) -> Application:
        work.check_belongs(work.register.applications.get(id).organisation)
        return self._step_application(work, id, ApplicationStep.WITHDRAW, reason)

    @command("application.begin-review", Application)
    def begin_review(self, work: Work, id: ApplicationId) -> Application:
        """It is complete; reviewers may judge it."""
        return self._step_application(work, id, ApplicationStep.BEGIN_REVIEW, "")

    @command("application.review", Review)
    def review(self, work: Work, id: ApplicationId, points: Mapping[str, int], comment: str) -> Review:
        """Points for each criterion. A reviewer who judges again replaces the earlier judgement.

        Raises:
            Refused: the actor has a conflict of interest.
            Conflict: the application is not in review.
        """
        application = self._in_review(work, id)
        work.check_impartial(application)
        before = work.register.reviews.find(id, work.person)
        if before is not None and before.conflict:
            raise Refused(
                told("{person} has declared a conflict of interest with {id}.", person=work.person, id=id),
                way_out=told("Leave it to somebody without one."),
            )
        return self._put_review(
            work, Review(application=id, reviewer=work.person, points=points, comment=comment, at=work.now)
        )

    @command("application.declare-conflict", Review)
    def declare_conflict(self, work: Work, id: ApplicationId, comment: str) -> Review:
        """The actor has a conflict of interest: what they judged does not count, and it cannot be taken back.

        Raises:
            Conflict: the application is decided.
        """
        application = work.register.applications.get(id)
        if application.state is not ApplicationState.WAITING:
            self._in_review(work, id)
        return self._put_review(
            work, Review(application=id, reviewer=work.person, conflict=True, comment=comment, at=work.now)
        )

    def _in_review(self, work: Work, id: ApplicationId) -> Application:
        application = work.register.applications.get(id)
        if application.state is not ApplicationState.IN_REVIEW:
            raise Conflict(told("{id} is {state}, not in review.", id=id, state=str(application.state)))
        return application

    def _put_review(self, work: Work, review: Review) -> Review:
        check_points(review, work.register.programmes.get(work.register.applications.get(review.application).programme))
        work.put(work.register.reviews, review)
        work.record(review.application, conflict=review.conflict)
        return review

    def _step_application(
        self, work: Work, id: ApplicationId, step: ApplicationStep, reason: str, mail: Mail | None = None
    ) -> Application:
        before = work.register.applications.get(id)
        after = stepped(before, id, APPLICATION_STEPS, step, by=work.by, at=work.now, reason=reason)
        work.put(work.register.applications, after)
        work.record(id, reason, state=after.state)
        if mail is not None:
            work.mail(work.people(after.organisation, after.applicant), mail, application=id, reason=reason)
        return after

    # -- Awards and offers ---------------------------------------------------------------------------------------------

    @command("award.draft", Award)
    def draft_award(
        self,
        work: Work,
        programme: ProgrammeName,
        awards: tuple[AwardLine, ...],
        waiting: tuple[NotAwarded, ...] = (),
        refused: tuple[NotAwarded, ...] = (),
    ) -> Award:
        """Decisions on applications of a programme, for another person to approve. Nothing is promised by it yet.

        Raises:
            Refused: an award that the programme's rules or the application do not allow; the sentence names it.
        """
        award = Award(
            id=AwardId(work.number("w")),
            programme=programme,
            awards=awards,
            waiting=waiting,
            refused=refused,
            drafted_by=work.person,
        )
        self._check_decidable(work, award, work.register.programmes.get(programme))
        work.put(work.register.awards, award)
        work.record(award.id, awards=len(awards), waiting=len(waiting), refused=len(refused))
        return award

    def _check_decidable(self, work: Work, award: Award, programme: Programme) -> None:
        """
        Raises:
            Refused: a conflict of interest, a call that is still open, too few reviews for an award or the waiting
                list, an award that does not suit its application, a cap of the programme.
            Conflict: an application that has been decided on.
        """
        applications = {id: work.register.applications.get(id) for id in award.applications}
        for application in applications.values():
            work.check_impartial(application)
            self._check_open(work, application, programme)
        reviews = self.counted_reviews([*applications.values()])
        refused = {one.application for one in award.refused}
        for id in applications.keys() - refused:
            if not qualified(reviews[id], programme):
                raise Refused(
                    told(
                        "{application} has {reviews} reviews and {points} points; it needs {needed} and {least}.",
                        application=id,
                        reviews=len(reviews[id]),
                        points=f"{float(score(reviews[id], programme) or 0):.2f}",
                        needed=programme.reviews_needed,
                        least=programme.least_score,
                    ),
                    way_out=told("Wait for the reviews, or refuse it."),
                )
        for line in award.awards:
            self._check_line(work, line, applications[line.application], programme)
        if programme.caps != Caps():
            new = self.holdings(award.awards, applications, work.today)
            check_caps(programme, new, self.held(programme), since=work.today)

    def _check_open(self, work: Work, application: Application, programme: Programme) -> None:
        if application.programme != programme.name:
            raise Refused(
                told(
                    "{application} is of programme {programme}.",
                    application=application.id,
                    programme=application.programme,
                ),
                way_out=told("Decide on it there."),
            )
        call = programme.call(application.request.call)
        if work.now < call.closes:
            raise Refused(
                told(
                    "Call {call} of {application} closes {closes}.",
                    call=call.number,
                    application=application.id,
                    closes=call.closes,
                ),
                way_out=told("Decide on it after that."),
            )
        if application.state not in (ApplicationState.IN_REVIEW, ApplicationState.WAITING):
            raise Conflict(
                told("{id} is {state}; nothing is to be decided.", id=application.id, state=str(application.state)),
                way_out=told("Leave it out."),
            )

    def _check_line(self, work: Work, line: AwardLine, application: Application, programme: Programme) -> None:
        if application.request.ends < work.today:
            raise Refused(
                told(
                    "The period of {application} ended on {day}.",
                    application=application.id,
                    day=application.request.ends,
                ),
                way_out=told("Refuse it."),
            )
        share = work.register.shares.get(line.share)
        if not suits(share, application.request, programme):
            raise Refused(
                told(
                    "Share {share} of {model} does not suit {application}: not the programme's, or another model.",
                    share=share.name,
                    model=share.model,
                    application=application.id,
                ),
                way_out=told("Award from another share."),
            )
        check_count(application.request, line.gpus)

    @command("award.approve", Award)
    def approve_award(self, work: Work, id: AwardId) -> Award:
        """Awards become offers, the others wait or are refused: all of them, or none.

        Raises:
            Refused: the actor drafted it, or has a conflict of interest with one of its applications.
            Conflict: a share has no room any more, or an application has moved on.
        """
        award = work.register.awards.get(id)
        check_other_person(work.person, award.drafted_by)
        award = stepped(award, id, AWARD_STEPS, AwardStep.APPROVE, by=work.by, at=work.now, decided_by=work.person)
        programme = work.register.programmes.get(award.programme)
        self._check_decidable(work, award, programme)
        for line in award.awards:
            self._offer(work, line, programme)
        for one in award.waiting:
            if work.register.applications.get(one.application).state is ApplicationState.IN_REVIEW:
                self._step_application(work, one.application, ApplicationStep.WAIT, one.why, Mail.APPLICATION_WAITING)
        for one in award.refused:
            self._step_application(work, one.application, ApplicationStep.REFUSE, one.why, Mail.APPLICATION_REFUSED)
        work.put(work.register.awards, award)
        work.record(id, drafted_by=award.drafted_by)
        return award

    @command("award.drop", Award)
    def drop_award(self, work: Work, id: AwardId, reason: str) -> Award:
        award = work.register.awards.get(id)
        after = stepped(
            award, id, AWARD_STEPS, AwardStep.DROP, by=work.by, at=work.now, reason=reason, decided_by=work.person
        )
        work.record(id, reason)
        return work.put(work.register.awards, after)

    def _offer(self, work: Work, line: AwardLine, programme: Programme) -> Offer:
        application = work.register.applications.get(line.application)
        request = application.request
        if (bar := self._bar(programme, application)) is not None:
            raise Refused(bar, way_out=told("Refuse the application."))
        organisation = work.register.organisations.get(application.organisation)
        offer = Offer(
            id=OfferId(work.number("o")),
            application=application.id,
            organisation=application.organisation,
            programme=programme.name,
            share=line.share,
            gpus=line.gpus,
            starts=max(request.starts, work.today),
            ends=request.ends,
            price_percent=programme.prices[organisation.kind],
            budget_won=request.budget_won,
            answer_by=start_of(work.today + timedelta(days=programme.answer_days + 1)),
            history=(work.happened(OfferStep.MAKE),),
        )
        self._step_application(work, application.id, ApplicationStep.AWARD, "")
        work.put_offer(offer)
        work.record(offer.id, share=offer.share, gpus=offer.gpus, application=application.id)
        work.mail(
            work.people(application.organisation, application.applicant),
            Mail.OFFER_MADE,
            offer=offer.id,
            gpus=offer.gpus,
            share=offer.share,
            answer_by=offer.answer_by.isoformat(),
        )
        return offer

    def _bar(self, programme: Programme, application: Application) -> Told | None:
        """Why the application can have no award now, whatever there is room for; None: it can."""
        organisation = self.store.register.organisations.get(application.organisation)
        if organisation.kind not in programme.prices:
            return told(
                "Programme {programme} is no longer for organisations such as {organisation}.",
                programme=programme.name,
                organisation=organisation.name,
            )
        if programme.cap_won is None:
            return None
        promised = self.store.register.offers.all(
            programme=programme.name, organisation=organisation.name, state=["made", "accepted"]
        )
        asked = application.request.budget_won or 0
        if sum(offer.budget_won or 0 for offer in promised) + asked <= programme.cap_won:
            return None
        return told(
            "Programme {programme} gives {organisation} at most {cap} Won; with this award it would be more.",
            programme=programme.name,
            organisation=organisation.name,
            cap=programme.cap_won,
        )

    @command("offer.accept", PoolGrant)
    def accept_offer(self, work: Work, id: OfferId) -> PoolGrant:
        """The offer becomes a grant; the site's documents have it at once.

        Raises:
            Refused: the answer comes too late, or the actor is no member of the organisation.
        """
        offer = work.register.offers.get(id)
        work.check_belongs(offer.organisation)
        offer = work.put_offer(accepted(offer, by=work.by, at=work.now))
        application = work.register.applications.get(offer.application)
        programme = work.register.programmes.get(offer.programme)
        grant = granted(
            offer,
            grant=PoolGrantId(work.number("g")),
            title=application.request.title,
            grace_days=programme.grace_days,
            applicant=application.applicant,
            today=work.today,
        )
        grant = due(grant, (), by=work.by, at=work.now) or grant
        work.put_grant(grant)
        work.record(grant.id, offer=id, gpus=grant.gpus, share=grant.share)
        work.mail(
            work.people(grant.organisation, *grant.members), Mail.GRANT_MADE, grant=grant.id, starts=str(grant.starts)
        )
        return grant

    @command("offer.decline", Offer)
    def decline_offer(self, work: Work, id: OfferId, reason: str) -> Offer:
        work.check_belongs(work.register.offers.get(id).organisation)
        return self._lose_offer(work, id, OfferStep.DECLINE, reason)

    def _lose_offer(self, work: Work, id: OfferId, step: OfferStep, reason: str) -> Offer:
        mail = Mail.OFFER_DECLINED if step is OfferStep.DECLINE else Mail.OFFER_LAPSED
        offer = work.register.offers.get(id)
        offer = work.put_offer(stepped(offer, id, OFFER_STEPS, step, by=work.by, at=work.now, reason=reason))
        self._step_application(work, offer.application, ApplicationStep.LOSE_OFFER, reason, mail)
        work.record(id, reason, state=offer.state)
        return offer

    # -- Grants --------------------------------------------------------------------------------------------------------

    @command("grant.ask-change", GrantChange)
    def ask_change(self, work: Work, id: PoolGrantId, gpus: int, ends: date, reason: str) -> GrantChange:
        """Other terms for a grant, for somebody else to decide: more, fewer, longer (a renewal), shorter.

        Raises:
            Refused: nothing would change, too many days would be added, or so many GPUs are never awarded.
            Conflict: another change of it is still to be decided.
        """
        grant = work.register.grants.get(id)
        work.check_belongs(grant.organisation)
        changed(grant, gpus=gpus, ends=ends, by=work.by, at=work.now, reason=reason)
        programme = work.register.programmes.get(grant.programme)
        check_change(grant, gpus, ends, programme.longest_days)
        if asked := work.register.changes.all(grant=id, state=ChangeState.ASKED.value):
            raise Conflict(
                told("Change {change} of grant {grant} is still to be decided.", change=asked[0].id, grant=id),
                way_out=told("Wait for the decision, or take the request back and ask for all that should change."),
            )
        if gpus != grant.gpus and gpus % GPUS_OF_A_SERVER:  # whole servers are what a part of any size comes in
            check_size(gpus, programme)
        change = GrantChange(
            id=ChangeId(work.number("c")),
            grant=id,
            gpus=gpus,
            ends=ends,
            reason=reason,
            asked_by=work.person,
            history=(work.happened(ChangeStep.ASK, reason),),
        )
        work.record(change.id, reason, grant=id, gpus=gpus, ends=str(ends))
        return work.put(work.register.changes, change)

    @command("grant.approve-change", PoolGrant)
    def approve_change(self, work: Work, id: ChangeId) -> PoolGrant:
        """
        Raises:
            Refused: the actor asked for it, or belongs to the grant's organisation.
            Conflict: the share has no room, the grant has ended, or has had other terms since.
        """
        change = work.register.changes.get(id)
        check_other_person(work.person, change.asked_by)
        grant = work.register.grants.get(change.grant)
        work.check_impartial(work.register.applications.get(grant.application))
        check_still_meant(grant, change)
        check_change(grant, change.gpus, change.ends, work.register.programmes.get(grant.programme).longest_days)
        change = self._step_change(work, change, ChangeStep.APPROVE, "")
        grant = changed(grant, gpus=change.gpus, ends=change.ends, by=work.by, at=work.now, reason=change.reason)
        work.put_grant(grant)
        work.record(grant.id, change.reason, change=id, gpus=grant.gpus, ends=str(grant.ends))
        self._mail_grant(work, grant, Mail.GRANT_CHANGED, gpus=grant.gpus, ends=str(grant.ends))
        return grant

    @command("grant.refuse-change", GrantChange)
    def refuse_change(self, work: Work, id: ChangeId, reason: str) -> GrantChange:
        change = work.register.changes.get(id)
        check_other_person(work.person, change.asked_by)
        change = self._step_change(work, change, ChangeStep.REFUSE, reason)
        work.record(change.grant, reason, change=id)
        self._mail_grant(work, work.register.grants.get(change.grant), Mail.GRANT_CHANGE_REFUSED, reason=reason)
        return change

    @command("grant.drop-change", GrantChange)
    def drop_change(self, work: Work, id: ChangeId) -> GrantChange:
        """Whoever asked no longer wants it."""
        change = work.register.changes.get(id)
        work.check_belongs(work.register.grants.get(change.grant).organisation)
        work.record(change.grant, change=id)
        return self._step_change(work, change, ChangeStep.DROP, "")

    def _step_change(self, work: Work, change: GrantChange, step: ChangeStep, reason: str) -> GrantChange:
        after = stepped(
            change, change.id, CHANGE_STEPS, step, by=work.by, at=work.now, reason=reason, decided_by=work.person
        )
        return work.put(work.register.changes, after)

    @command("grant.shrink", PoolGrant)
    def shrink_grant(self, work: Work, id: PoolGrantId, gpus: int, reason: str) -> PoolGrant:
        """The pool takes part of an unused grant back, from today on."""
        grant = shrunk(work.register.grants.get(id), gpus=gpus, by=work.by, at=work.now, reason=reason)
        return self._put_grant(work, grant, Mail.GRANT_SHRUNK, reason)

    @command("grant.recall", PoolGrant)
    def recall_grant(self, work: Work, id: PoolGrantId, reason: str) -> PoolGrant:
        """The pool takes all of a grant back, from today on; its members have their grace."""
        grant = recalled(work.register.grants.get(id), by=work.by, at=work.now, reason=reason)
        return self._put_grant(work, grant, Mail.GRANT_RECALLED, reason)

    @command("grant.return", PoolGrant)
    def return_grant(self, work: Work, id: PoolGrantId, last_day: date, reason: str) -> PoolGrant:
        """Its people give it back early; yesterday as the last day is at once."""
        grant = work.register.grants.get(id)
        work.check_belongs(grant.organisation)
        grant = returned(grant, last_day=last_day, by=work.by, at=work.now, reason=reason)
        return self._put_grant(work, grant, Mail.GRANT_RETURNED, reason)

    @command("grant.set-members", PoolGrant)
    def set_members(self, work: Work, id: PoolGrantId, members: tuple[PersonId, ...]) -> PoolGrant:
        """Who works with the grant: people of its organisation.

        Raises:
            Refused: one of them is not.
        """
        grant = work.register.grants.get(id)
        work.check_belongs(grant.organisation)
        strangers = sorted(set(members) - work.colleagues(grant.organisation))
        if strangers:
            raise Refused(
                told(
                    "{people} belong to another organisation than {organisation}.",
                    people=", ".join(strangers),
                    organisation=grant.organisation,
                ),
                way_out=told("Add them to the organisation first."),
            )
        return self._put_grant(work, with_members(grant, members, by=work.by, at=work.now), None, "")

    @command("grant.report", PoolGrant)
    def hand_in_report(self, work: Work, id: PoolGrantId, report: str) -> PoolGrant:
        """The final report; handing it in again replaces it."""
        grant = work.register.grants.get(id)
        work.check_belongs(grant.organisation)
        return self._put_grant(work, with_report(grant, report, by=work.by, at=work.now), None, "")

    def _put_grant(self, work: Work, grant: PoolGrant, mail: Mail | None, reason: str) -> PoolGrant:
        work.put_grant(grant)
        work.record(grant.id, reason, state=grant.state, gpus=grant.gpus, ends=str(grant.ends))
        if mail is not None:
            self._mail_grant(work, grant, mail, reason=reason, gpus=grant.gpus, ends=str(grant.ends))
        return grant

    def _mail_grant(self, work: Work, grant: PoolGrant, template: Mail, **parts: str | int | None) -> None:
        work.mail(work.people(grant.organisation, *grant.members), template, grant=grant.id, **parts)

    # -- Holds ---------------------------------------------------------------------------------------------------------

    @command("hold.put", Hold)
    def hold(
        self, work: Work, kind: HoldKind, share: PoolShareName, gpus: int, starts: date, ends: date, reason: str
    ) -> Hold:
        """Keep GPUs that nobody was awarded: leased to their provider for a time, or reserved for a call.

        Raises:
            Conflict: the share has no room for it.
        """
        work.register.shares.get(share)
        hold = Hold(
            id=HoldId(work.number("h")),
            kind=kind,
            share=share,
            gpus=gpus,
            starts=max(starts, work.today),
            ends=ends,
            by=work.person,
            reason=reason,
        )
        work.record(hold.id, reason, share=share, gpus=gpus, starts=str(hold.starts), ends=str(ends))
        return work.put_hold(hold)

    @command("hold.release", Hold)
    def release(self, work: Work, id: HoldId, reason: str) -> Hold:
        """Its GPUs are free from today on."""
        hold = work.register.holds.get(id)
        if hold.released:
            raise Conflict(told("Hold {id} is released already.", id=id))
        if leases := work.register.leases.all(hold=id, state="approved"):
            raise Conflict(
                told("Hold {id} is lease {lease}'s.", id=id, lease=leases[0].id), way_out=told("End the lease.")
            )
        work.record(id, reason)
        return work.put_hold(hold.model_copy(update={"released": True}))

    # -- What the day brings -------------------------------------------------------------------------------------------

    def tick(self) -> int:
        """Lapses offers, starts, warns of, ends and closes grants, and offers what is free to the waiting list.

        Each step is a transaction of its own and is derived from what is there and the present day: run at any time, as
        often as you like, cut off anywhere.

        Returns:
            How many steps were made; 0: nothing is due.
        """
        register, now = self.store.register, self._clock.now()
        lapsed = [offer.id for offer in register.offers.all(state="made") if offer.open_until <= now]
        steps = sum(self._lapse(id) for id in lapsed)
        warn_days = {programme.name: programme.warn_days for programme in register.programmes.all()}
        for grant in register.grants.all(state=LIVE):
            if due(grant, warn_days[grant.programme], by=CALENDAR.name, at=now) is not None:
                while self._move(grant.id):
                    steps += 1
        for programme in register.programmes.all():
            while register.applications.all(programme=programme.name, state="waiting") and self._serve(programme.name):
                steps += 1
        return steps

    def _lapse(self, id: OfferId) -> bool:
        work = self.work("offer.lapse", CALENDAR)
        with self.store.transaction():
            offer = work.register.offers.get(id)
            if offer.state is not OfferState.MADE or work.now < offer.open_until:
                return False
            self._lose_offer(work, id, OfferStep.LAPSE, "")
            return True

    def _move(self, id: PoolGrantId) -> bool:
        work = self.work("grant.calendar", CALENDAR)
        with self.store.transaction():
            grant = work.register.grants.get(id)
            warn_days = work.register.programmes.get(grant.programme).warn_days
            after = due(grant, warn_days, by=work.by, at=work.now)
            if after is None:
                return False
            mails = {
                PoolGrantStep.ACTIVATE.value: Mail.GRANT_STARTED,
                PoolGrantStep.WARN.value: Mail.GRANT_ENDS_SOON,
                PoolGrantStep.RUN_OUT.value: Mail.GRANT_ENDED,
                PoolGrantStep.CLOSE.value: Mail.GRANT_CLOSED if grant.report else Mail.GRANT_REPORT_MISSING,
            }
            self._put_grant(work, after, mails[after.history[-1].step], "")
            return True

    def _serve(self, name: ProgrammeName) -> bool:
        """One step down the waiting list: one whose period is over is refused, or the first that fits gets an offer."""
        work = self.work("waiting.offer", CALENDAR)
        with self.store.transaction():
            programme = work.register.programmes.get(name)
            for application in work.register.applications.all(programme=name, state="waiting"):
                if application.request.ends < work.today:
                    self._step_application(
                        work, application.id, ApplicationStep.REFUSE, "", Mail.APPLICATION_PERIOD_OVER
                    )
                    return True
            held = self.held(programme) if programme.caps != Caps() else []
            organisations = {one.name: one for one in work.register.organisations.all()}

            def most(application: Application) -> int | None:
                starts = max(application.request.starts, work.today)
                organisation = organisations[application.organisation]
                return room_under_caps(programme, organisation, held, starts, application.request.ends)

            line = next_in_line(
                [one for one in self.waiting_list(name) if self._bar(programme, one) is None],
                programme,
                work.register.shares.all(),
                room=self.room,
                most=most,
                today=work.today,
            )
            if line is None:
                return False
            self._offer(work, line, programme)
            return True

    # -- Questions -----------------------------------------------------------------------------------------------------

    def counted_reviews(self, applications: Sequence[Application]) -> Mapping[ApplicationId, tuple[Review, ...]]:
        """The reviews of each that count."""
        register = self.store.register
        colleagues: dict[str, set[PersonId]] = defaultdict(set)
        for membership in register.memberships.all(organisation=sorted({one.organisation for one in applications})):
            colleagues[membership.organisation].add(membership.person)
        reviews: dict[str, list[Review]] = defaultdict(list)
        for review in register.reviews.all(application=[one.id for one in applications]):
            reviews[review.application].append(review)
        return {one.id: counted(reviews[one.id], one, colleagues[one.organisation]) for one in applications}

    def score_of(self, id: ApplicationId) -> Fraction | None:
        """0 to 100, exact, of the reviews that count; None without one."""
        application = self.store.register.applications.get(id)
        rules = self.store.register.programmes.get(application.programme)
        return score(self.counted_reviews([application])[id], rules)

    def waiting_list(self, programme: ProgrammeName) -> tuple[Application, ...]:
        """In the order in which free GPUs are offered: higher score, earlier submission, smaller number. Who has lost a
        review to a conflict of interest and has too few now is not in it."""
        waiting = self.store.register.applications.all(programme=programme, state="waiting")
        return in_order(self._scored(waiting, self.store.register.programmes.get(programme)))

    def _scored(self, applications: Sequence[Application], rules: Programme) -> list[tuple[Application, Fraction]]:
        """Those that may be awarded, with their scores."""
        reviews = self.counted_reviews(applications)
        return [
            (one, points)
            for one in applications
            if qualified(reviews[one.id], rules) and (points := score(reviews[one.id], rules)) is not None
        ]

    def room(self, share: PoolShareName, starts: date, ends: date) -> int:
        """GPUs of a share that can be promised for every day of a window."""
        register = self.store.register
        return room(register.shares.get(share).capacity, register.calendar.of_share(share, since=starts), starts, ends)

    def held(self, programme: Programme) -> list[Holding]:
        """What of the programme's GPUs is promised to whom: offers that wait for an answer, and grants."""
        register = self.store.register
        regions = {one.name: one.region for one in register.organisations.all()}
        promised: list[Offer | PoolGrant] = [*register.offers.all(programme=programme.name, state="made")]
        promised += register.grants.all(programme=programme.name, state=LIVE)
        return [
            Holding(one.organisation, regions[one.organisation], one.commitment)
            for one in promised
            if one.commitment is not None
        ]

    def holdings(
        self, lines: Sequence[AwardLine], applications: Mapping[ApplicationId, Application], today: date
    ) -> list[Holding]:
        """What lines of an award would promise."""
        regions = {one.name: one.region for one in self.store.register.organisations.all()}
        asked = [(line, applications[line.application]) for line in lines]
        return [
            Holding(
                one.organisation,
                regions[one.organisation],
                Commitment(
                    holder=one.id,
                    share=line.share,
                    gpus=line.gpus,
                    starts=max(one.request.starts, today),
                    ends=one.request.ends,
                ),
            )
            for line, one in asked
        ]

    def scenario(self, programme: ProgrammeName) -> Scenario:
        """For the award solver: all applications of the programme that can be decided now, and the room there is."""
        register = self.store.register
        now = self._clock.now()
        rules = register.programmes.get(programme)
        closed = {call.number for call in rules.calls if call.closes <= now}
        open_ones = [
            one
            for one in register.applications.all(programme=programme, state=["in review", "waiting"])
            if one.request.call in closed
        ]
        shares = [share for share in register.shares.all() if share.name in rules.shares]
        today = korean_day(now)
        return scenario(
            rules,
            self._scored(open_ones, rules),
            organisations={one.name: one for one in register.organisations.all()},
            shares=shares,
            commitments={share.name: register.calendar.of_share(share.name, since=today) for share in shares},
            today=today,
        )

    def documents(self, cluster: ClusterName) -> tuple[int, SiteDocuments]:
        """What a site must have now, and its revision, which grows whenever the set changes.

        The revision is read first: a change in between is in the set already and comes again under its own revision.
        """
        register = self.store.register
        revision = register.revision(cluster)
        return revision, site_documents(
            cluster,
            shares={share.name: share for share in register.shares.all()},
            organisations={one.name: one for one in register.organisations.all()},
            memberships=register.memberships.all(),
            identities={one.person: one for one in register.identities.all()},
            grants=register.grants.all(state=LIVE),
            leases=register.leases.all(state="approved"),
        )


def _kept_for_leases(name: str) -> InvalidInput:
    return InvalidInput(
        told("The name {name} is kept for GPUs that providers lease.", name=name), way_out=told("Choose another one.")
    )
