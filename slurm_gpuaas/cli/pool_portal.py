"""`gpuaas --site URL pool ...`: what people of the pool do at its portal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import IO, TypeVar

import click
from pydantic import BaseModel, ConfigDict, Field

from slurm_gpuaas.api import portal as api
from slurm_gpuaas.cli import tokens
from slurm_gpuaas.cli.context import Session, as_json, pass_session
from slurm_gpuaas.cli.documents import read_one
from slurm_gpuaas.cli.output import print_facts, print_json, print_table
from slurm_gpuaas.domain.errors import Refused

V = TypeVar("V", bound=api.View)
Cells = Callable[[V], Iterable[object]]

dry_run = click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
state = click.option("--state", help="Those in this state only.")


class ApplicationAsked(BaseModel):
    """An application as the portal takes it. `declared`: the workload in figures, which is sized there; where `gpus` is
    another count than is proposed, `why` says why."""

    model_config = ConfigDict(extra="forbid")

    programme: str
    call: int = Field(ge=1)
    title: str
    purpose: str
    workload: str
    declared: dict[str, object] | None = None
    why: str = ""
    model: str | None = None
    gpus: int = Field(ge=1)
    min_gpus: int = Field(ge=1)
    starts: date
    ends: date
    budget_won: int | None = Field(default=None, ge=1)


def _show(view: api.View, as_json: bool, facts: Iterable[tuple[str, object]]) -> None:
    if as_json:
        print_json(view)
    else:
        print_facts(facts)


def _list(found: Iterable[V], as_json: bool, columns: tuple[str, ...], cells: Cells[V], empty: str) -> None:
    if as_json:
        print_json(list(found))
    else:
        print_table(columns, (tuple(cells(one)) for one in found), empty=empty)


def _would(act: api.Act, as_json: bool) -> None:
    if as_json:
        print_json(act)
        return
    print_facts([("would send", f"{act.method} {act.path}"), ("with", act.body or "nothing")])
    click.echo("Nothing was sent.")


@click.command()
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), help="Read it from here, mode 0600.")
@pass_session
def login(session: Session, token_file: Path | None) -> None:
    """Keep a token of the portal's page `API tokens` for the next commands, once the portal has taken it.

    It is asked for, or read from a file; it is never an argument, which others could see. It is kept in
    ~/.config/gpuaas/tokens.json (or GPUAAS_TOKENS), which only you can read.

    \b
    Examples:
      gpuaas --site https://gpu.example.org pool login
      gpuaas --site https://gpu.example.org pool login --token-file ~/token
    """
    site = session.site_url()
    text = tokens.read_token(token_file) if token_file else click.prompt("Token", hide_input=True)
    token = tokens.checked_token(text, "What you typed")
    with session.portal(token) as client:
        me = client.get("/me", api.Me)
    tokens.keep(site, token, session.tokens)
    click.echo(f"{site} takes you for {me.name} ({me.role}).")


@click.command()
@pass_session
def logout(session: Session) -> None:
    """Forget the token. Revoke it on the portal's page `API tokens` as well where others may have it.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool logout
    """
    site = session.site_url()
    there = tokens.forget(site, session.tokens)
    click.echo(f"The token for {site} is forgotten." if there else f"There was no token for {site}.")


@click.command()
@as_json
@pass_session
def whoami(session: Session, as_json: bool) -> None:
    """Whom the portal takes you for, and what your token may do.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool whoami
    """
    with session.portal() as client:
        me = client.get("/me", api.Me)
    facts = [
        ("person", f"{me.name} ({me.person})"),
        ("role", me.role),
        ("of", me.organisation or me.provider),
        ("may", ", ".join(f"{action} ({scope})" for action, scope in sorted(me.rights.items()))),
    ]
    _show(me, as_json, facts)


@click.command()
@as_json
@pass_session
def programmes(session: Session, as_json: bool) -> None:
    """Programmes, and when one can apply.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool programmes
    """
    with session.portal() as client:
        found = list(client.pages("/programmes", api.Programme))
    _list(
        found,
        as_json,
        ("name", "title", "models", "sizes", "calls"),
        lambda one: (
            one.name,
            one.title.en,
            ", ".join(one.models),
            ", ".join(map(str, one.sizes)),
            "\n".join(f"{call.number}: {call.opens:%Y-%m-%d} to {call.closes:%Y-%m-%d}" for call in one.calls),
        ),
        "There are no programmes.",
    )


@click.command()
@click.option(
    "--file",
    "file",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="Application (YAML, JSON; - for stdin).",
)
@dry_run
@as_json
@pass_session
def apply(session: Session, file: IO[str], dry_run: bool, as_json: bool) -> None:
    """Apply for GPUs, for your organisation.

    \b
    Example application:
      programme: national
      call: 1
      title: Korean speech model
      purpose: Pre-training of an open speech model.
      workload: 8B parameters, 200B tokens, bf16
      gpus: 64
      min_gpus: 32
      starts: 2027-02-01
      ends: 2027-04-30

    \b
    Examples:
      gpuaas --site https://gpu.example.org pool apply --file application.yaml --dry-run
      gpuaas --site https://gpu.example.org pool apply --file application.yaml --json | jq -r .id
    """
    asked = read_one(file, ApplicationAsked)
    act = api.application(asked.model_dump(mode="json", exclude_defaults=True))
    if dry_run:
        _would(act, as_json)
        return
    with session.portal() as client:
        made = client.act(act, api.Application)
    _show(made, as_json, [("application", made.id), ("state", made.state), ("GPUs", made.request.gpus)])


@click.command()
@state
@as_json
@pass_session
def applications(session: Session, state: str | None, as_json: bool) -> None:
    """Applications that you may see, the newest first.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool applications --state submitted
    """
    with session.portal() as client:
        found = list(client.pages("/applications", api.Application, state=state))
    _list(
        found,
        as_json,
        ("application", "organisation", "title", "#GPUs", "from", "to", "state"),
        lambda one: (
            one.id,
            one.organisation,
            one.request.title,
            one.request.gpus,
            one.request.starts,
            one.request.ends,
            one.state,
        ),
        "There are no such applications.",
    )


@click.command()
@click.argument("application")
@click.option("--reason", required=True, help="Why, in one line.")
@dry_run
@as_json
@pass_session
def withdraw(session: Session, application: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Take an application back that is not decided yet.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool withdraw a2027-00012 --reason 'funded elsewhere'
    """
    act = api.withdrawal(application, reason)
    if dry_run:
        _would(act, as_json)
        return
    with session.portal() as client:
        after = client.act(act, api.Application)
    _show(after, as_json, [("application", after.id), ("state", after.state)])


@click.command()
@state
@as_json
@pass_session
def offers(session: Session, state: str | None, as_json: bool) -> None:
    """Offers that you may see, the newest first.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool offers --state made
    """
    with session.portal() as client:
        found = list(client.pages("/offers", api.Offer, state=state))
    _list(
        found,
        as_json,
        ("offer", "organisation", "share", "#GPUs", "from", "to", "#at most Won", "answer by", "state"),
        lambda one: (
            one.id,
            one.organisation,
            one.share,
            one.gpus,
            one.starts,
            one.ends,
            one.most_won,
            one.answer_by,
            one.state,
        ),
        "There are no such offers.",
    )


@click.command()
@click.argument("offer")
@click.option("--most-won", type=click.IntRange(0), help="Refuse when it may cost more. Absent = what it says now.")
@dry_run
@as_json
@pass_session
def accept(session: Session, offer: str, most_won: int | None, dry_run: bool, as_json: bool) -> None:
    """Accept an offer: it becomes a grant, and its site has it within seconds.

    \b
    Examples:
      gpuaas --site https://gpu.example.org pool accept o2027-00007 --dry-run
      gpuaas --site https://gpu.example.org pool accept o2027-00007 --most-won 120000000
    """
    with session.portal() as client:
        seen = client.get(f"/offers/{api.segment(offer)}", api.Offer)
        act = api.acceptance(offer, seen.most_won if most_won is None else most_won)
        if dry_run:
            _would(act, as_json)
            return
        grant = client.act(act, api.Grant)
    facts = [("grant", grant.id), ("project", grant.project), ("GPUs", grant.gpus), ("from", grant.starts)]
    _show(grant, as_json, [*facts, ("to", grant.ends)])


@click.command()
@click.argument("offer")
@click.option("--reason", required=True, help="Why, in one line.")
@dry_run
@as_json
@pass_session
def decline(session: Session, offer: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Decline an offer; its GPUs are free for others at once.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool decline o2027-00007 --reason 'too late for us'
    """
    act = api.refusal(offer, reason)
    if dry_run:
        _would(act, as_json)
        return
    with session.portal() as client:
        after = client.act(act, api.Offer)
    _show(after, as_json, [("offer", after.id), ("state", after.state)])


@click.command()
@state
@as_json
@pass_session
def grants(session: Session, state: str | None, as_json: bool) -> None:
    """Grants that you may see, the newest first.

    \b
    Examples:
      gpuaas --site https://gpu.example.org pool grants
      gpuaas --site https://gpu.example.org pool grants --json | jq '.[] | {id, use}'
    """
    with session.portal() as client:
        found = list(client.pages("/grants", api.Grant, state=state))
    _list(
        found,
        as_json,
        ("grant", "organisation", "title", "share", "project", "#GPUs", "from", "to", "state"),
        lambda one: (
            one.id,
            one.organisation,
            one.title,
            one.share,
            one.project,
            one.gpus,
            one.starts,
            one.ends,
            one.state,
        ),
        "There are no such grants.",
    )


@click.command()
@click.argument("grant")
@click.option("--add", multiple=True, metavar="PERSON", help="A person's number; may be given several times.")
@click.option("--remove", multiple=True, metavar="PERSON", help="A person's number; may be given several times.")
@dry_run
@as_json
@pass_session
def members(
    session: Session, grant: str, add: tuple[str, ...], remove: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Who works with a grant; add or remove people of its organisation.

    \b
    Examples:
      gpuaas --site https://gpu.example.org pool members g2027-00003
      gpuaas --site https://gpu.example.org pool members g2027-00003 --add p-0011223344556677 --dry-run
    """
    with session.portal() as client:
        there = client.get(f"/grants/{api.segment(grant)}", api.GrantDetail).members
        if there is None:
            raise Refused(f"You may not see who works with {grant}.", way_out="Its organisation's administrators may.")
        wanted = tuple(dict.fromkeys(one for one in (*there, *add) if one not in remove))
        if wanted != there:
            act = api.members_of(grant, wanted)
            if dry_run:
                _would(act, as_json)
                return
            client.act(act, api.Grant)
    if as_json:
        print_json([api.Document.model_validate({"person": one}) for one in wanted])
    else:
        print_table(("member",), ((one,) for one in wanted), empty=f"{grant} has no members.")


@click.command()
@as_json
@pass_session
def jobs(session: Session, as_json: bool) -> None:
    """Jobs that you may see, with why one waits.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool jobs
    """
    with session.portal() as client:
        found = list(client.pages("/jobs", api.Job))
    _list(
        found,
        as_json,
        ("job", "cluster", "name", "user", "project", "#GPUs", "state", "since", "why"),
        lambda one: (
            one.id,
            one.cluster,
            one.name,
            one.user,
            one.project,
            one.gpus,
            one.state,
            one.began,
            one.why,
        ),
        "There are no jobs.",
    )


@click.command()
@as_json
@pass_session
def statements(session: Session, as_json: bool) -> None:
    """Monthly statements that you may see, the newest first.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool statements
    """
    with session.portal() as client:
        found = list(client.pages("/statements", api.Statement))
    _list(
        found,
        as_json,
        ("statement", "month", "organisation", "provider", "#total Won", "#due Won"),
        lambda one: (one.number, one.month, one.organisation, one.provider, one.total, one.due),
        "There are no statements.",
    )


@click.command()
@as_json
@pass_session
def awards(session: Session, as_json: bool) -> None:
    """Awards, drafted and decided, the newest first.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool awards
    """
    with session.portal() as client:
        found = list(client.pages("/awards", api.Award))
    _list(
        found,
        as_json,
        ("award", "programme", "state", "drafted by"),
        lambda one: (one.id, one.programme, one.state, one.drafted_by),
        "There are no awards.",
    )


@click.command()
@click.argument("programme")
@pass_session
def scenario(session: Session, programme: str) -> None:
    """What can be awarded in a programme now, as one JSON document for `gpuaas pool award`.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool scenario national > call.json
      gpuaas pool award --scenario call.json
    """
    with session.portal() as client:
        print_json(client.get(f"/programmes/{api.segment(programme)}/scenario", api.Document))


@click.command("approve-award")
@click.argument("award")
@dry_run
@as_json
@pass_session
def approve_award(session: Session, award: str, dry_run: bool, as_json: bool) -> None:
    """Approve an award that another person drafted: all of it or, where something stands against it, nothing.

    \b
    Example:
      gpuaas --site https://gpu.example.org pool approve-award w2027-00001
    """
    act = api.approval(award)
    if dry_run:
        _would(act, as_json)
        return
    with session.portal() as client:
        after = client.act(act, api.Award)
    _show(after, as_json, [("award", after.id), ("state", after.state)])


COMMANDS = (
    login,
    logout,
    whoami,
    programmes,
    apply,
    applications,
    withdraw,
    offers,
    accept,
    decline,
    grants,
    members,
    jobs,
    statements,
    awards,
    scenario,
    approve_award,
)
