"""Organisations and pool shares: the programme's office declares them, others read what is theirs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Final, Protocol, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.errors import GpuaasError
from slurm_gpuaas.domain.names import (
    ClusterName,
    GpuModel,
    Name,
    OrganisationName,
    PoolName,
    PoolShareName,
    ProviderName,
    ShareName,
)
from slurm_gpuaas.domain.policy import MOST_GPUS
from slurm_gpuaas.domain.programmes import OrganisationKind, PoolOrganisation, PoolShare, Region
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal, go
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Act,
    Answer,
    CursorText,
    FormAct,
    IfMatch,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.pool import PoolServer
from slurm_gpuaas.portal.rights import Action, Owned
from slurm_gpuaas.portal.routes.application_form import whole
from slurm_gpuaas.portal.routes.fields import Faults, Text, Typed, choice, key, line, same_name, short_name
from slurm_gpuaas.portal.routes.replacing import unchanged
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Names, noted


class ShareView(Answer):
    """`promised`: GPUs of offers, grants and holds on the present Korean day."""

    name: PoolShareName
    share: PoolShare
    promised: int
    free: int


def _organisations(portal: Portal, visit: Visit) -> list[PoolOrganisation]:
    found = portal.store.register.organisations.all()
    return [one for one in found if visit.allows(Action.ORGANISATION_READ, Owned(organisation=one.name))]


def _organisation(portal: Portal, visit: Visit, text: str) -> PoolOrganisation:
    """
    Raises:
        Refused: it is another than the visitor's, whether there is one or not.
        NotFound: there is none.
    """
    name = key(OrganisationName, text)
    visit.require(Action.ORGANISATION_READ, Owned(organisation=name))
    return portal.store.register.organisations.get(name)


def _shares(portal: Portal, visit: Visit) -> list[ShareView]:
    return [
        _share_view(portal, one)
        for one in portal.store.register.shares.all()
        if visit.allows(Action.SHARE_READ, Owned(provider=one.provider))
    ]


def _share(portal: Portal, visit: Visit, text: str) -> ShareView:
    found = portal.store.register.shares.get(key(PoolShareName, text))
    visit.require(Action.SHARE_READ, Owned(provider=found.provider))
    return _share_view(portal, found)


def _share_view(portal: Portal, share: PoolShare) -> ShareView:
    today = korean_day(portal.clock.now())
    held = portal.store.register.calendar.of_share(share.name, since=today)
    promised = sum(one.gpus for one in held if one.starts <= today <= one.ends)
    return ShareView(name=share.name, share=share, promised=promised, free=share.capacity - promised)


def _pages(portal: Portal, pool: PoolServer) -> APIRouter:
    pages = APIRouter(include_in_schema=False)
    Reader = Annotated[Visit, Depends(Needs(Action.ORGANISATION_READ))]
    ShareReader = Annotated[Visit, Depends(Needs(Action.SHARE_READ))]
    Office = Annotated[Visit, Depends(Needs(Action.PROGRAMME_CHANGE))]

    def organisations_page(
        request: Request,
        visit: Visit,
        *,
        chosen: PoolOrganisation | None = None,
        typed: Mapping[str, str] | None = None,
        faults: Mapping[str, str] = {},
        fault: str = "",
        status: int = 200,
    ) -> Response:
        empty = {"name": "", "title": "", "kind": str(OrganisationKind.UNIVERSITY), "region": str(Region.SEOUL)}
        if chosen is not None:
            empty = {name: str(getattr(chosen, name)) for name in empty}
        return portal.page(
            request,
            visit,
            "organisations.html",
            status=status,
            organisations=_organisations(portal, visit),
            chosen=chosen,
            typed=typed or empty,
            faults=faults,
            fault=fault,
            kinds=OrganisationKind,
            regions=Region,
            may_change=visit.may(Action.PROGRAMME_CHANGE),
        )

    @pages.get("/organisations")
    def organisations(request: Request, visit: Reader) -> Response:
        return organisations_page(request, visit)

    @pages.get("/organisations/{name}")
    def organisation(request: Request, visit: Reader, name: str) -> Response:
        return organisations_page(request, visit, chosen=_organisation(portal, visit, name))

    @pages.post("/organisations")
    def put_organisation(
        request: Request,
        visit: Office,
        act: FormAct,
        name: Text = "",
        title: Text = "",
        kind: Text = "",
        region: Text = "",
    ) -> Response:
        faults = Faults()
        short = faults.read("name", partial(short_name, OrganisationName), name)
        said = faults.read("title", line(200), title)
        which = faults.read("kind", partial(choice, OrganisationKind), kind)
        where = faults.read("region", partial(choice, Region), region)
        if short is None or said is None or which is None or where is None:
            typed = {"name": name, "title": title, "kind": kind, "region": region}
            return organisations_page(request, visit, typed=typed, faults=faults.told, status=422)
        wanted = PoolOrganisation(name=short, title=said, kind=which, region=where)
        pool.service.put_organisation(act, visit.actor, wanted)
        return go(f"/organisations/{short}", "organisation-put")

    def shares_page(
        request: Request,
        visit: Visit,
        *,
        chosen: PoolShare | None = None,
        typed: Mapping[str, str] | None = None,
        faults: Mapping[str, str] = {},
        fault: str = "",
        status: int = 200,
    ) -> Response:
        names = ("provider", "cluster", "pool", "share", "model", "capacity")
        empty = {name: "" if chosen is None else str(getattr(chosen, name)) for name in names}
        return portal.page(
            request,
            visit,
            "shares.html",
            status=status,
            shares=_shares(portal, visit),
            chosen=chosen,
            typed=typed or empty,
            faults=faults,
            fault=fault,
            may_change=visit.may(Action.PROGRAMME_CHANGE),
        )

    @pages.get("/shares")
    def shares(request: Request, visit: ShareReader) -> Response:
        return shares_page(request, visit)

    @pages.get("/shares/{name}")
    def share(request: Request, visit: ShareReader, name: str) -> Response:
        return shares_page(request, visit, chosen=_share(portal, visit, name).share)

    @pages.post("/shares")
    def put_share(request: Request, visit: Office, act: FormAct, typed: Typed) -> Response:
        given = {name: typed.get(name, [""])[0] for name in (*_SHARE_FIELDS, "capacity")}
        faults = Faults()
        fields: dict[str, object] = {
            name: faults.read(name, partial(short_name, kind), given[name]) for name, kind in _SHARE_FIELDS.items()
        }
        fields["capacity"] = faults.read("capacity", whole(0, MOST_GPUS), given["capacity"])
        if faults.told:
            return shares_page(request, visit, typed=given, faults=faults.told, status=422)
        wanted = PoolShare.model_validate(fields)
        try:
            pool.service.put_share(act, visit.actor, wanted)
        except GpuaasError as error:
            said = f"{visit.words.tell(error.message)} {visit.words.tell(error.way_out)}"
            return shares_page(request, visit, typed=given, fault=said, status=error.http_status)
        return go(f"/shares/{wanted.name}", "share-put")

    return pages


_SHARE_FIELDS: Final[Mapping[str, type[Name]]] = {
    "provider": ProviderName,
    "cluster": ClusterName,
    "pool": PoolName,
    "share": ShareName,
    "model": GpuModel,
}


def _api(portal: Portal, pool: PoolServer) -> APIRouter:
    api = APIRouter(prefix=API, tags=["organisations"], responses=PROBLEMS)
    Reader = Annotated[Visit, Depends(Needs(Action.ORGANISATION_READ))]
    ShareReader = Annotated[Visit, Depends(Needs(Action.SHARE_READ))]
    Office = Annotated[Visit, Depends(Needs(Action.PROGRAMME_CHANGE))]

    @api.get("/organisations", response_model=Page[PoolOrganisation], responses=NOT_MODIFIED)
    def organisations(request: Request, visit: Reader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """Organisations that you may see, by name."""
        found = _after(_organisations(portal, visit), cursor)
        items, following = page_of(found[: limit + 1], limit, lambda one: (str(one.name),))
        return with_etag(request, Page[PoolOrganisation](items=tuple(items), next=following))

    @api.get("/organisations/{name}", response_model=PoolOrganisation, responses=NOT_MODIFIED)
    def organisation(request: Request, visit: Reader, name: str) -> Response:
        """An organisation that you may see."""
        return with_etag(request, _organisation(portal, visit, name))

    @api.put("/organisations/{name}", response_model=PoolOrganisation)
    def put_organisation(
        request: Request, visit: Office, act: Act, name: str, wanted: PoolOrganisation, match: IfMatch = None
    ) -> PoolOrganisation:
        """Declare an organisation, or what it is now."""
        same_name(name, wanted.name)
        with unchanged(pool, request, act, lambda: pool.store.register.organisations.find(wanted.name)):
            return pool.service.put_organisation(act, visit.actor, wanted)

    @api.get("/shares", response_model=Page[ShareView], responses=NOT_MODIFIED)
    def shares(request: Request, visit: ShareReader, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """Pool shares that you may see, by name, with what is promised today."""
        found = _after(_shares(portal, visit), cursor)
        items, following = page_of(found[: limit + 1], limit, lambda one: (str(one.name),))
        return with_etag(request, Page[ShareView](items=tuple(items), next=following))

    @api.get("/shares/{name}", response_model=ShareView, responses=NOT_MODIFIED)
    def share(request: Request, visit: ShareReader, name: str) -> Response:
        """A pool share that you may see."""
        return with_etag(request, _share(portal, visit, name))

    @api.put("/shares/{name}", response_model=ShareView)
    def put_share(
        request: Request, visit: Office, act: Act, name: str, wanted: PoolShare, match: IfMatch = None
    ) -> ShareView:
        """Declare a pool share, or what it has now."""
        same_name(name, wanted.name)

        def current() -> ShareView | None:
            found = pool.store.register.shares.find(wanted.name)
            return None if found is None else _share_view(portal, found)

        with unchanged(pool, request, act, current):
            return _share_view(portal, pool.service.put_share(act, visit.actor, wanted))

    return api


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _after(found: Sequence[N], cursor: str | None) -> Sequence[N]:
    if cursor is None:
        return found
    (after,) = key_of(cursor, str)
    return [one for one in found if one.name > after]


REGION_NAMES: Final[Names] = {
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
    }
}


def organisations_feature(pool: PoolServer) -> Feature:
    def routes(portal: Portal) -> list[APIRouter]:
        return [_pages(portal, pool), _api(portal, pool)]

    return Feature(
        name="organisations",
        routes=routes,
        nav=(
            NavEntry("/organisations", noted("Organisations"), "people", Action.ORGANISATION_READ, 62),
            NavEntry("/shares", noted("Pool shares"), "site", Action.SHARE_READ, 64),
        ),
        names=REGION_NAMES,
        notices={
            "organisation-put": noted("The organisation is registered so."),
            "share-put": noted("The share has so many GPUs now."),
        },
    )
