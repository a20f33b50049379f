"""Signing in, by password or at the identity provider, invitations, signing out, choosing the language."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import JSONResponse

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.errors import GpuaasError, NotFound
from slurm_gpuaas.domain.people import Source
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.accounts import WrongPassword
from slurm_gpuaas.portal.feature import Feature, Portal, go
from slurm_gpuaas.portal.oidc import Oidc, SignInFailed
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.routes.fields import Faults, Password, Text, line, unix_name
from slurm_gpuaas.portal.secret import digest
from slurm_gpuaas.portal.visit import Anybody, Guest, Machine, Needs, Visit, identify
from slurm_gpuaas.portal.words import noted

MOST_BACK: Final = 500


def local_path(back: str) -> str:
    """Where to go after signing in: a path of ours, or the home page. Never another site, however it is written."""
    plain = back.startswith("/") and not back.startswith(("//", "/\\")) and back.isprintable() and "\\" not in back
    return back if plain and len(back) <= MOST_BACK and not back.startswith("/sign-") else "/"


def _routes(portal: Portal) -> list[APIRouter]:
    router = APIRouter(include_in_schema=False)
    Who = Annotated[Guest, Depends(Anybody("signing in"))]

    def enter(secret: str, path: str) -> Response:
        """A new session's cookie: the number is never one that was there before signing in."""
        answer = go(path)
        portal.set_cookie(answer, portal.cookies.session, secret)
        portal.drop_cookie(answer, portal.cookies.visitor)
        return answer

    def form(
        request: Request, guest: Guest, back: str, *, status: int = 200, fault: str = "", login: str = ""
    ) -> Response:
        return portal.page(
            request,
            guest,
            "sign-in.html",
            status=status,
            back=back,
            fault=fault,
            login=login,
            provider=portal.oidc.name if portal.oidc else "",
        )

    @router.get("/sign-in")
    def sign_in_page(request: Request, guest: Who, back: Annotated[str, Query(max_length=2_000)] = "/") -> Response:
        if identify(portal, request) is not None:
            return go(local_path(back))
        return form(request, guest, local_path(back))

    @router.post("/sign-in")
    def sign_in(request: Request, guest: Who, login: Text = "", password: Password = "", back: Text = "/") -> Response:
        portal.limits.sign_in.take(guest.source.address)
        try:
            secret = portal.accounts.sign_in(login.strip(), password, guest.source)
        except WrongPassword as error:
            fault = f"{guest.words.tell(error.message)} {guest.words.tell(error.way_out)}"
            return form(request, guest, local_path(back), status=401, fault=fault, login=login)
        return enter(secret, local_path(back))

    def provider() -> Oidc:
        if portal.oidc is None:
            raise NotFound(
                told("This portal has no sign-in at an organisation."), way_out=told("Sign in with a password.")
            )
        return portal.oidc

    @router.get("/sign-in/oidc")
    def to_provider(guest: Who, back: Annotated[str, Query(max_length=2_000)] = "/") -> Response:
        portal.limits.sign_in.take(guest.source.address)
        oidc = provider()
        begun = oidc.begin(guest.secret, local_path(back))
        portal.store.people.begin(begun.flow, forget_before=oidc.forget_before())
        answer = go(begun.url)
        portal.set_cookie(answer, portal.cookies.visitor, guest.secret)
        return answer

    @router.get("/sign-in/oidc/back")
    def from_provider(request: Request, guest: Who, state: Annotated[str, Query(max_length=200)] = "") -> Response:
        portal.limits.sign_in.take(guest.source.address)
        flow = portal.store.people.take(digest(state)) if state else None
        identity = provider().finish(flow, guest.secret, request.query_params)
        secret = portal.accounts.sign_in_from(identity, guest.source)
        return enter(secret, flow.back_to if flow else "/")

    @router.post("/sign-in/oidc/back-channel-logout")
    def back_channel_logout(
        source: Annotated[Source, Depends(Machine("a logout token that the identity provider signed"))],
        logout_token: Annotated[str, Form(max_length=20_000)],
    ) -> Response:
        """OpenID Connect Back-Channel Logout 1.0: 200, or 400 with an OAuth error."""
        oidc = provider()
        try:
            who = oidc.logged_out(logout_token)
        except SignInFailed as error:
            return JSONResponse(
                {"error": "invalid_request", "error_description": error.why[:200]}, 400, {"Cache-Control": "no-store"}
            )
        portal.accounts.signed_out_at(oidc.issuer, subject=who.subject, sid=who.sid, source=source)
        return Response(status_code=200, headers={"Cache-Control": "no-store"})

    @router.post("/sign-out")
    def sign_out(visit: Annotated[Visit, Depends(Needs(Action.SESSION_MANAGE))]) -> Response:
        if visit.session is not None:
            portal.accounts.sign_out(visit.session, visit.person, visit.source)
        answer = go("/sign-in", "signed-out")
        portal.drop_cookie(answer, portal.cookies.session)
        return answer

    @router.get("/invitations/{secret}")
    def invitation_page(request: Request, guest: Who, secret: str) -> Response:
        portal.limits.sign_in.take(guest.source.address)
        person = portal.accounts.invitation(secret[:100])
        return portal.page(
            request,
            guest,
            "invitation.html",
            person=person,
            secret=secret,
            name=person.name,
            login="",
            faults={},
            fault="",
        )

    @router.post("/invitations/{secret}")
    def accept(
        request: Request,
        guest: Who,
        secret: str,
        name: Text = "",
        login: Text = "",
        password: Password = "",
        again: Password = "",
    ) -> Response:
        portal.limits.sign_in.take(guest.source.address)
        person = portal.accounts.invitation(secret[:100])
        faults = Faults()
        shown = faults.read("name", line(200), name)
        user = faults.read("login", unix_name, login)
        if password != again:
            faults.told["again"] = told("The two passwords differ.")
        fault = ""
        if shown and user and not faults.told:
            try:
                return enter(
                    portal.accounts.accept(
                        secret[:100], name=shown, login=user, password=password, source=guest.source
                    ),
                    "/",
                )
            except GpuaasError as error:
                fault = f"{guest.words.tell(error.message)} {guest.words.tell(error.way_out)}"
        return portal.page(
            request,
            guest,
            "invitation.html",
            status=422,
            person=person,
            secret=secret,
            name=name,
            login=login,
            faults=faults.told,
            fault=fault,
        )

    @router.get("/language/{language}")
    def choose_by_link(guest: Who, language: Language, back: Annotated[str, Query(max_length=2_000)] = "/") -> Response:
        """Changes nothing but a cookie of this browser, so a link may do it."""
        answer = go(back if back == "/sign-in" else local_path(back))
        portal.set_cookie(answer, portal.cookies.language, language, days=365)
        return answer

    return [router]


SIGN_IN: Final = Feature(
    name="sign-in",
    routes=_routes,
    notices={"signed-out": noted("You have signed out.")},
)
