"""Messages: what the portal wrote to a person, whether a mail server took it or not."""

from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.portal.feature import Feature, NavEntry, Portal
from slurm_gpuaas.portal.http import (
    API,
    NOT_MODIFIED,
    PROBLEMS,
    Answer,
    CursorText,
    Limit,
    Page,
    key_of,
    page_of,
    with_etag,
)
from slurm_gpuaas.portal.mail_texts import letter
from slurm_gpuaas.portal.rights import Action
from slurm_gpuaas.portal.visit import Needs, Visit
from slurm_gpuaas.portal.words import Words, noted
from slurm_gpuaas.store.pool.register import WrittenMail

ON_A_PAGE = 50

log = structlog.get_logger(__name__)


class MessageView(Answer):
    """`sent_at`: when a mail server took it; null: not yet, or there is none. `path`: of the page that it is about."""

    number: int
    written_at: datetime
    sent_at: datetime | None
    template: str
    subject: str
    body: str
    path: str


def messages_feature() -> Feature:
    return Feature(
        name="messages",
        routes=_routes,
        nav=(NavEntry("/messages", noted("Messages"), "note", Action.HOME_READ, 80),),
    )


def _view(words: Words, mail: WrittenMail) -> MessageView:
    """In the reader's language. What this version has no text for is named and not hidden."""
    try:
        text = letter(words, mail.template, mail.parts)
        subject, body, path = text.subject, text.body, text.path
    except InvalidInput:
        log.warning("mail.without-text", number=mail.number, template=mail.template)
        subject, body, path = mail.template, "", "/"
    return MessageView(
        number=mail.number,
        written_at=mail.written_at,
        sent_at=mail.sent_at,
        template=mail.template,
        subject=subject,
        body=body,
        path=path,
    )


def _routes(portal: Portal) -> list[APIRouter]:
    pages, api = APIRouter(include_in_schema=False), APIRouter(prefix=API, tags=["messages"], responses=PROBLEMS)
    Who = Annotated[Visit, Depends(Needs(Action.HOME_READ))]
    outbox = portal.store.register.outbox

    def read(visit: Visit, limit: int, cursor: str | None) -> tuple[list[MessageView], str | None]:
        before = None if cursor is None else int(key_of(cursor, int)[0])
        found = outbox.to(visit.person.id, before=before, limit=limit + 1)
        items, following = page_of(found, limit, lambda mail: (mail.number,))
        return [_view(visit.words, mail) for mail in items], following

    @pages.get("/messages")
    def messages(request: Request, visit: Who, cursor: CursorText = None) -> Response:
        found, following = read(visit, ON_A_PAGE, cursor)
        return portal.page(
            request,
            visit,
            "messages.html",
            messages=found,
            following=following,
            mailed=portal.config.mail is not None,
            address=visit.person.email,
        )

    @api.get("/messages", response_model=Page[MessageView], responses=NOT_MODIFIED)
    def list_messages(request: Request, visit: Who, limit: Limit = 100, cursor: CursorText = None) -> Response:
        """What the portal wrote to you, the newest first."""
        found, following = read(visit, limit, cursor)
        return with_etag(request, Page[MessageView](items=tuple(found), next=following))

    return [pages, api]
