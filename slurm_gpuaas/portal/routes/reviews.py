"""The review desk: what is to be judged, the form with the programme's criteria, conflicts of interest, and how far the
reviews of each call are. A reviewer sees what others gave only after their own judgement."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from slurm_gpuaas.domain.applications import Application, ApplicationState, Review
from slurm_gpuaas.domain.errors import GpuaasError, InvalidInput, NotFound
from slurm_gpuaas.domain.names import ApplicationId
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import MOST_POINTS, OrganisationKind, PoolOrganisation, Programme, Region
from slurm_gpuaas.domain.stages import Text
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.pool.reviewing import Judged, Standing, progress, sees_others, standing
from slurm_gpuaas.portal.feature import Card, Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import API, NOT_MODIFIED, PROBLEMS, Act, Answer, FormAct, with_etag
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, scope_of
from slurm_gpuaas.portal.routes.fields import Faults, LongText
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Names, noted

ROWS: Final = 50
MOST_COMMENT: Final = 4_000
"""Characters of `domain.stages.Text`."""
REVIEWERS: Final = frozenset(role for role in PortalRole if scope_of(role, Action.APPLICATION_REVIEW))
NAMES: Final[Names] = {
    Standing: {
        Standing.TO_DO: noted("To be judged"),
        Standing.DONE: noted("Judged"),
        Standing.CONFLICT: noted("Conflict of interest"),
    },
    ApplicationState: {
        ApplicationState.SUBMITTED: noted("Submitted"),
        ApplicationState.IN_REVIEW: noted("In review"),
        ApplicationState.WAITING: noted("On the waiting list"),
        ApplicationState.AWARDED: noted("Awarded"),
        ApplicationState.REFUSED: noted("Not selected"),
        ApplicationState.WITHDRAWN: noted("Withdrawn"),
    },
    OrganisationKind: {
        OrganisationKind.UNIVERSITY: noted("University"),
        OrganisationKind.RESEARCH_INSTITUTE: noted("Research institute"),
        OrganisationKind.YOUNG_FIRM: noted("Young firm"),
        OrganisationKind.FIRM: noted("Firm"),
    },
    Region: {
        Region.SEOUL: noted("Seoul"),
        Region.BUSAN: noted("Busan"),
        Region.DAEGU: noted("Daegu"),
        Region.INCHEON: noted("Incheon"),
        Region.GWANGJU: noted("Gwangju"),
        Region.DAEJEON: noted("Daejeon"),
        Region.ULSAN: noted("Ulsan"),
        Region.SEJONG: noted("Sejong"),
        Region.GYEONGGI: noted("Gyeonggi"),
        Region.GANGWON: noted("Gangwon"),
        Region.CHUNGBUK: noted("Chungbuk"),
        Region.CHUNGNAM: noted("Chungnam"),
        Region.JEONBUK: noted("Jeonbuk"),
        Region.JEONNAM: noted("Jeonnam"),
        Region.GYEONGBUK: noted("Gyeongbuk"),
        Region.GYEONGNAM: noted("Gyeongnam"),
        Region.JEJU: noted("Jeju"),
    },
}
Show = Literal["to-do", "done", "conflict", "submitted", "all"]
Criteria = Annotated[list[Annotated[str, StringConstraints(max_length=30)]], Form(max_length=20)]
Points = Annotated[list[Annotated[str, StringConstraints(max_length=10)]], Form(max_length=20)]


class PointsGiven(BaseModel):
    """A judgement; judging again replaces the earlier one."""

    model_config = ConfigDict(extra="forbid")

    points: dict[Annotated[str, Field(max_length=30)], Annotated[int, Field(ge=0, le=MOST_POINTS)]] = Field(
        min_length=1, max_length=20, description="Of each of the programme's criteria, by its key."
    )
    comment: Text = ""


class ConflictDeclared(BaseModel):
    """It cannot be taken back."""

    model_config = ConfigDict(extra="forbid")

    comment: Text = ""


class ReviewView(Answer):
    application: str
    reviewer: str
    conflict: bool
    points: dict[str, int]
    comment: str
    at: AwareDatetime


class ReviewsView(Answer):
    """
    Args:
        needed: reviews that an award needs.
        counting: of people without a conflict of interest.
        hidden: you see the others' reviews after your own.
        score: 0 to 100, of those that count; null while there is none or it is hidden.
    """

    application: str
    needed: int
    counting: int
    hidden: bool
    score: float | None
    items: tuple[ReviewView, ...]


def _view(review: Review) -> ReviewView:
    return ReviewView(
        application=review.application,
        reviewer=review.reviewer,
        conflict=review.conflict,
        points=dict(review.points),
        comment=review.comment,
        at=review.at,
    )


@dataclass(frozen=True)
class _Desk:
    """Applications as one visitor may see them judged; read once for all of them."""

    judged: Mapping[ApplicationId, Judged]
    standings: Mapping[ApplicationId, Standing]
    own: Mapping[ApplicationId, Review]
    reviews: Mapping[ApplicationId, Sequence[Review]]

    def sees_others(self, visit: Visit, id: ApplicationId) -> bool:
        reviewer = visit.person.office.role in REVIEWERS  # a token without the right to judge shows no more
        return not reviewer or sees_others(self.standings[id], self.judged[id].application)


class _Reviews:
    """Reads for pages and API."""

    def __init__(self, pool: PoolServer) -> None:
        self._service = pool.service
        self._register = pool.store.register

    def desk(self, visit: Visit, applications: Sequence[Application]) -> _Desk:
        rules = {one.name: one for one in self._register.programmes.all()}
        counted = self._service.counted_reviews(applications)
        reviews: dict[ApplicationId, list[Review]] = defaultdict(list)
        for review in self._register.reviews.all(application=[one.id for one in applications]):
            reviews[review.application].append(review)
        own = {id: one for id, given in reviews.items() for one in given if one.reviewer == visit.person.id}
        return _Desk(
            judged={one.id: Judged(one, counted[one.id], rules[one.programme]) for one in applications},
            standings=self._standings(visit, applications, own),
            own=own,
            reviews=reviews,
        )

    def to_do(self, visit: Visit) -> int:
        """How many applications in review wait for the visitor's judgement."""
        applications = self._register.applications.all(state="in review")
        own = {one.application: one for one in self._register.reviews.all(reviewer=visit.person.id)}
        return sum(one is Standing.TO_DO for one in self._standings(visit, applications, own).values())

    def _standings(
        self, visit: Visit, applications: Sequence[Application], own: Mapping[ApplicationId, Review]
    ) -> dict[ApplicationId, Standing]:
        me = visit.person.id
        at_home = {one.organisation for one in self._register.memberships.all(person=me)}
        return {
            one.id: standing(me, one, own.get(one.id), {me} if one.organisation in at_home else ())
            for one in applications
        }

    def application(self, number: str) -> Application:
        """
        Raises:
            NotFound: there is none of that number.
        """
        return self._register.applications.get(application_number(number))

    def organisations(self) -> Mapping[str, PoolOrganisation]:
        return {one.name: one for one in self._register.organisations.all()}

    def of_api(self, visit: Visit, application: Application) -> ReviewsView:
        desk = self.desk(visit, [application])
        judged, shown = desk.judged[application.id], desk.sees_others(visit, application.id)
        given = desk.reviews.get(application.id, ())
        return ReviewsView(
            application=application.id,
            needed=judged.rules.reviews_needed,
            counting=len(judged.reviews),
            hidden=not shown,
            score=float(judged.score) if shown and judged.score is not None else None,
            items=tuple(_view(one) for one in given if shown or one.reviewer == visit.person.id),
        )


def application_number(text: str) -> ApplicationId:
    """From an address, where anything may stand.

    Raises:
        NotFound: no application can have this number.
    """
    try:
        return ApplicationId(text)
    except InvalidInput:
        raise NotFound(told("There is no such application.")) from None


def points_of(criteria: Sequence[str], points: Sequence[str], faults: Faults) -> dict[str, int]:
    """What a form gives each criterion; wrong ones are told under `points-KEY`."""
    given = {}
    for key, text in zip(criteria, points, strict=False):
        value = faults.read(f"points-{key}", _points, text)
        if value is not None:
            given[key] = value
    return given


def _points(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= MOST_POINTS):
        raise InvalidInput(told("Write a whole number from 0 to {most}.", most=MOST_POINTS))
    return int(text)


def weighted(points: Mapping[str, int], rules: Programme) -> Fraction | None:
    """0 to 100 of one reviewer's points; None while a criterion has none."""
    if points.keys() != {one.key for one in rules.criteria}:
        return None
    return Fraction(sum(one.weight * points[one.key] for one in rules.criteria)) / rules.weight


def reviews_feature(pool: PoolServer) -> Feature:
    reads = _Reviews(pool)
    return Feature(
        name="reviews",
        routes=lambda portal: [_pages(portal, pool, reads), _api(pool, reads)],
        nav=(NavEntry("/reviews", noted("Reviews"), "review", Action.REVIEW_READ, 20),),
        cards=lambda _portal, visit: _cards(reads, visit),
        names=NAMES,
        notices={
            "judging-begun": noted("Reviewers may judge it from now on."),
            "review-given": noted("Your judgement was saved. You can change it until the application is decided."),
            "conflict-declared": noted("Your conflict of interest was declared. You no longer judge this application."),
        },
    )


def _pages(portal: Portal, pool: PoolServer, reads: _Reviews) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.REVIEW_READ))]
    Reviewer = Annotated[Visit, Depends(Needs(Action.APPLICATION_REVIEW))]
    register = pool.store.register

    @pages.get("/reviews")
    def queue(
        request: Request,
        visit: Reader,
        show: Show | None = None,
        programme: Annotated[str, Query(max_length=30)] = "",
        after: Annotated[str, Query(max_length=11)] = "",
    ) -> Response:
        judges = visit.may(Action.APPLICATION_REVIEW) is not None
        shown = show or ("to-do" if judges else "all")
        applications = register.applications.all(state=["submitted", "in review"])
        submitted = [one for one in applications if one.state is ApplicationState.SUBMITTED]
        in_review = [one for one in applications if one.state is ApplicationState.IN_REVIEW]
        desk = reads.desk(visit, in_review)
        rules = {one.name: one for one in register.programmes.all()}
        lists: dict[str, list[Application]] = {"submitted": submitted, "all": in_review}
        for kind in Standing:
            lists[str(kind).replace(" ", "-")] = [one for one in in_review if desk.standings[one.id] is kind]
        listed = [one for one in lists[shown] if programme in ("", one.programme) and one.id > after]
        by_programme = {
            name: {id: one for id, one in desk.judged.items() if one.application.programme == name} for name in rules
        }
        return portal.page(
            request,
            visit,
            "reviews.html",
            show=shown,
            judges=judges,
            counts={kind: len(found) for kind, found in lists.items()},
            rows=listed[:ROWS],
            following=listed[ROWS - 1].id if len(listed) > ROWS else "",
            desk=desk,
            rules=rules,
            programme=programme,
            organisations=reads.organisations(),
            progress=[
                (rules[name], one) for name in rules for one in progress(rules[name], submitted, by_programme[name])
            ],
        )

    def page(
        request: Request,
        visit: Visit,
        number: str,
        *,
        status: int = 200,
        fault: GpuaasError | None = None,
        faults: Mapping[str, str] | None = None,
        typed: Mapping[str, str] | None = None,
        comment: str | None = None,
    ) -> Response:
        application = reads.application(number)
        desk = reads.desk(visit, [application])
        judged, own = desk.judged[application.id], desk.own.get(application.id)
        shown = desk.sees_others(visit, application.id)
        others = (
            [one for one in desk.reviews.get(application.id, ()) if one.reviewer != visit.person.id] if shown else []
        )
        mine = {key: str(points) for key, points in own.points.items()} if own else {}
        in_review = application.state is ApplicationState.IN_REVIEW
        judges = visit.may(Action.APPLICATION_REVIEW) is not None
        return portal.page(
            request,
            visit,
            "review.html",
            status=status,
            application=application,
            asked=application.request,
            organisation=register.organisations.get(application.organisation),
            rules=judged.rules,
            judged=judged,
            standing=desk.standings[application.id],
            own=own,
            own_score=weighted(own.points, judged.rules) if own and not own.conflict else None,
            others=[(one, weighted(one.points, judged.rules), one in judged.reviews) for one in others],
            names=portal.store.people.names([one.reviewer for one in others]),
            shown=shown,
            judges=judges,
            may_judge=judges and in_review and desk.standings[application.id] is not Standing.CONFLICT,
            may_declare=judges
            and (in_review or application.state is ApplicationState.WAITING)
            and not (own and own.conflict),
            may_begin=judges and application.state is ApplicationState.SUBMITTED,
            fault=fault,
            faults=faults or {},
            typed={one.key: (typed or mine).get(one.key, "") for one in judged.rules.criteria},
            comment=comment if comment is not None else own.comment if own else "",
        )

    @pages.get("/reviews/{number}")
    def review(request: Request, visit: Reader, number: str) -> Response:
        return page(request, visit, number)

    @pages.get("/reviews/{number}/score")
    def score_so_far(
        request: Request,
        visit: Reviewer,
        number: str,
        criterion: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006
        points: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006
    ) -> Response:
        """The weighted score of what is typed so far: a part of the form."""
        rules = register.programmes.get(reads.application(number).programme)
        found = weighted(points_of(criterion, points, Faults()), rules)
        return portal.page(request, visit, "review-score.html", score=found)

    @pages.post("/reviews/{number}")
    def judge(
        request: Request,
        visit: Reviewer,
        act: FormAct,
        number: str,
        criterion: Criteria = [],  # noqa: B006
        points: Points = [],  # noqa: B006
        comment: LongText = "",
    ) -> Response:
        rules = register.programmes.get(reads.application(number).programme)
        faults = Faults()
        given = points_of(criterion, points, faults)
        for one in rules.criteria:
            if one.key not in criterion:
                faults.read(f"points-{one.key}", _points, "")
        typed = dict(zip(criterion, points, strict=False))
        remark = faults.read("comment", _comment, comment)
        fault: GpuaasError | None = None
        if not faults.told and remark is not None:
            try:
                pool.service.review(act, visit.actor, application_number(number), given, remark)
                return go(f"/reviews/{number}", "review-given")
            except NotFound:
                raise
            except GpuaasError as error:
                fault = error
        status = fault.http_status if fault else 422
        return page(
            request, visit, number, status=status, fault=fault, faults=faults.told, typed=typed, comment=comment
        )

    @pages.post("/reviews/{number}/conflict")
    def conflict(
        request: Request,
        visit: Reviewer,
        act: FormAct,
        number: str,
        comment: LongText = "",
        confirm: Annotated[str, Form(max_length=10)] = "",
    ) -> Response:
        faults = Faults()
        remark = faults.read("why", _comment, comment)
        if confirm != "yes":
            faults.told["confirm"] = told("Tick it: a declared conflict of interest cannot be taken back.")
        if faults.told or remark is None:
            return page(request, visit, number, status=422, faults=faults.told)
        pool.service.declare_conflict(act, visit.actor, application_number(number), remark)
        return go(f"/reviews/{number}", "conflict-declared")

    @pages.post("/reviews/{number}/begin")
    def begin(visit: Reviewer, act: FormAct, number: str) -> Response:
        pool.service.begin_review(act, visit.actor, application_number(number))
        return go(f"/reviews/{number}", "judging-begun")

    return pages


def _comment(text: str) -> str:
    lines = text.replace("\r\n", "\n")
    if len(lines) > MOST_COMMENT:
        raise InvalidInput(told("Write at most {most} characters.", most=MOST_COMMENT))
    if not lines.replace("\n", "").replace("\t", "").isprintable():
        raise InvalidInput(told("Write text without control characters."))
    return lines


def _api(pool: PoolServer, reads: _Reviews) -> APIRouter:
    api = APIRouter(prefix=API, tags=["reviews"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.REVIEW_READ))]
    Reviewer = Annotated[Visit, Depends(Needs(Action.APPLICATION_REVIEW))]

    @api.get("/applications/{number}/reviews", response_model=ReviewsView, responses=NOT_MODIFIED)
    def reviews(request: Request, visit: Reader, number: str) -> Response:
        """The reviews of an application. A reviewer gets the others' only after their own (`hidden`)."""
        return with_etag(request, reads.of_api(visit, reads.application(number)))

    @api.post("/applications/{number}/reviews")
    def judge(visit: Reviewer, act: Act, number: str, given: PointsGiven) -> ReviewView:
        """Judge an application in review, by all criteria of its programme."""
        return _view(pool.service.review(act, visit.actor, application_number(number), given.points, given.comment))

    @api.post("/applications/{number}/conflict")
    def conflict(visit: Reviewer, act: Act, number: str, declared: ConflictDeclared) -> ReviewView:
        """Declare your conflict of interest. It cannot be taken back; what you judged no longer counts."""
        return _view(pool.service.declare_conflict(act, visit.actor, application_number(number), declared.comment))

    return api


def _cards(reads: _Reviews, visit: Visit) -> list[Card]:
    if visit.may(Action.APPLICATION_REVIEW) is None:
        return []
    to_do = reads.to_do(visit)
    words = visit.words
    return [
        Card(
            label=words.say("Reviews"),
            value=words.value(to_do),
            detail=words.say("applications that you have not judged yet"),
            path="/reviews",
            asks=to_do,
        )
    ]
