"""What mails say, in Korean and English: one text for each `Mail`, written from what the pool put beside it. Pure.

Korean stands first and English below, in one plain text: people change their language, colleagues forward mails.
Texts are English here; the Korean ones are in `locale/ko/mail.po`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from pydantic import JsonValue, ValidationError

from slurm_gpuaas.domain.accounts import Language
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.idle import Said
from slurm_gpuaas.domain.told import Told, Value
from slurm_gpuaas.pool.work import Mail
from slurm_gpuaas.portal.words import Dictionary, Words, noted

LANGUAGES: Final = (Language.KOREAN, Language.ENGLISH)
DAYS: Final = frozenset({"starts", "ends", "last_day", "until"})
"""Parts that are days, as ISO texts."""
MOMENTS: Final = frozenset({"answer_by"})
NO_REASON: Final = noted("No reason was given.")


@dataclass(frozen=True, slots=True)
class MailText:
    """`path`: of the page that the mail is about; `{name}` stands for a part."""

    subject: str
    body: str
    path: str


TEXTS: Final[Mapping[Mail, MailText]] = {
    Mail.APPLICATION_SUBMITTED: MailText(
        noted("Application {application} was submitted"),
        noted("Your application {application} has been received. You will be told when it is decided."),
        "/applications/{application}",
    ),
    Mail.APPLICATION_WAITING: MailText(
        noted("Application {application} is on the waiting list"),
        noted(
            "Your application {application} met the requirements, but there were not enough GPUs. It is on the waiting "
            "list and will be offered GPUs, in order, when some become free.\n\nReason: {reason}"
        ),
        "/applications/{application}",
    ),
    Mail.APPLICATION_REFUSED: MailText(
        noted("Application {application} was not selected"),
        noted(
            "We regret that your application {application} was not selected this time.\n\nReason: {reason}\n\nYou are "
            "welcome to apply again in the next call."
        ),
        "/applications/{application}",
    ),
    Mail.APPLICATION_PERIOD_OVER: MailText(
        noted("Application {application} has left the waiting list"),
        noted(
            "The period that application {application} asked for is over, and no GPUs became free for it in time. You "
            "are welcome to apply again in the next call."
        ),
        "/applications/{application}",
    ),
    Mail.OFFER_MADE: MailText(
        noted("Please answer: {gpus} GPUs are offered to you ({offer})"),
        noted(
            "{gpus} GPUs in share {share} are offered to you. Please accept or decline before {answer_by}. Without an "
            "answer the offer lapses and goes to the next in line."
        ),
        "/offers/{offer}",
    ),
    Mail.OFFER_DECLINED: MailText(
        noted("Application {application}: the offer was declined"),
        noted("The offer for application {application} was declined. The application is closed.\n\nReason: {reason}"),
        "/applications/{application}",
    ),
    Mail.OFFER_LAPSED: MailText(
        noted("Application {application}: the offer has lapsed"),
        noted(
            "Nobody answered the offer for application {application} in time, so it has lapsed and the application is "
            "closed. You are welcome to apply again in the next call."
        ),
        "/applications/{application}",
    ),
    Mail.GRANT_MADE: MailText(
        noted("Grant {grant} begins on {starts}"),
        noted(
            "Thank you for accepting. Grant {grant} begins on {starts}. Its page has the commands with which you start."
        ),
        "/grants/{grant}",
    ),
    Mail.GRANT_STARTED: MailText(
        noted("Grant {grant} has begun"),
        noted("Grant {grant} has begun: {gpus} GPUs until {ends}. Its page has the commands with which you start."),
        "/grants/{grant}",
    ),
    Mail.GRANT_CHANGED: MailText(
        noted("Grant {grant} was changed"),
        noted("The change of grant {grant} was approved. From now on it has {gpus} GPUs until {ends}."),
        "/grants/{grant}",
    ),
    Mail.GRANT_CHANGE_REFUSED: MailText(
        noted("Grant {grant}: the change was refused"),
        noted("The change of grant {grant} was refused; the grant is as before.\n\nReason: {reason}"),
        "/grants/{grant}",
    ),
    Mail.GRANT_SHRUNK: MailText(
        noted("Grant {grant} has {gpus} GPUs from today on"),
        noted(
            "Part of grant {grant} was taken back. From today on it has {gpus} GPUs until {ends}.\n\nReason: {reason}"
        ),
        "/grants/{grant}",
    ),
    Mail.GRANT_RECALLED: MailText(
        noted("Grant {grant} was recalled"),
        noted(
            "Grant {grant} was recalled: from today on it has no GPUs. Please fetch your data while you can still sign "
            "in; the grant's page says until when.\n\nReason: {reason}"
        ),
        "/grants/{grant}",
    ),
    Mail.GRANT_RETURNED: MailText(
        noted("Grant {grant} is returned early"),
        noted(
            "Grant {grant} is returned early; thank you. Its last day is {ends}. Please fetch your data during the "
            "grace period.\n\nReason: {reason}"
        ),
        "/grants/{grant}",
    ),
    Mail.GRANT_ENDS_SOON: MailText(
        noted("Grant {grant} ends on {ends}"),
        noted(
            "Grant {grant} ({gpus} GPUs) ends on {ends}. If you need it longer, please ask for a renewal in time. "
            "Fetch your data and write the final report."
        ),
        "/grants/{grant}",
    ),
    Mail.GRANT_ENDED: MailText(
        noted("Grant {grant} has ended; please fetch your data"),
        noted(
            "Grant {grant} ended on {ends}. Nothing runs any more, but during the grace period you can still sign in "
            "and fetch your data. The grant's page says until when."
        ),
        "/grants/{grant}",
    ),
    Mail.GRANT_CLOSED: MailText(
        noted("Grant {grant} is closed"),
        noted("The grace period of grant {grant} is over and the grant is closed. Thank you for your final report."),
        "/grants/{grant}",
    ),
    Mail.GRANT_REPORT_MISSING: MailText(
        noted("Grant {grant}: the final report is missing"),
        noted(
            "The grace period of grant {grant} is over and the grant is closed, but its final report has not come yet. "
            "Please hand it in."
        ),
        "/grants/{grant}",
    ),
    Mail.IDLE_NOTICE: MailText(
        noted("Notice: grant {grant} is hardly used"),
        noted(
            "Grant {grant} has {gpus} GPUs and is hardly used. {why}\n\nOthers wait for GPUs. If use stays like this, "
            "a warning follows, then a final warning, and then GPUs are taken back. If there is a reason, please use "
            "the grant's page to appeal, or return what you do not need."
        ),
        "/idle/{grant}",
    ),
    Mail.IDLE_WARNING: MailText(
        noted("Warning: grant {grant} is still hardly used"),
        noted(
            "Since our notice grant {grant} is still hardly used. {why}\n\nIf use stays like this, a final warning "
            "follows, and then GPUs are taken back: of {gpus} GPUs it would keep {proposed}. If there is a reason, "
            "please use the grant's page to appeal."
        ),
        "/idle/{grant}",
    ),
    Mail.IDLE_FINAL_WARNING: MailText(
        noted("Final warning: GPUs of grant {grant} will be taken back"),
        noted(
            "This is the last mail before GPUs of grant {grant} are taken back. {why}\n\nIf use stays like this, it "
            "will keep {proposed} of {gpus} GPUs. An appeal on the grant's page stops this until somebody has decided."
        ),
        "/idle/{grant}",
    ),
    Mail.IDLE_REGULAR: MailText(
        noted("Grant {grant}: the warnings are void"),
        noted("The warnings for grant {grant} are void; nothing is taken back. {why}"),
        "/idle/{grant}",
    ),
    Mail.IDLE_EXEMPTED: MailText(
        noted("Grant {grant} is exempt until {ends}"),
        noted("Until {ends} it counts against nobody when grant {grant} is not used.\n\nReason: {reason}"),
        "/idle/{grant}",
    ),
    Mail.IDLE_APPEAL_FILED: MailText(
        noted("Appeal {appeal} was filed"),
        noted("Appeal {appeal} for grant {grant} has been received. Nothing is taken back until it is decided."),
        "/idle/{grant}",
    ),
    Mail.IDLE_APPEAL_ALLOWED: MailText(
        noted("Appeal {appeal} was allowed"),
        noted(
            "Appeal {appeal} was allowed. Grant {grant} keeps its GPUs, and the warnings are void.\n\nReason: {reason}"
        ),
        "/idle/{grant}",
    ),
    Mail.IDLE_APPEAL_DENIED: MailText(
        noted("Appeal {appeal} was denied"),
        noted("Appeal {appeal} was denied. The rules apply to grant {grant} again from today on.\n\nReason: {reason}"),
        "/idle/{grant}",
    ),
    Mail.LEASE_APPROVED: MailText(
        noted("Lease {lease} was approved"),
        noted(
            "Lease {lease} was approved: {gpus} GPUs of share {share} from {starts} to {ends}, for project {project}. "
            "They go back after the last day by themselves; please let jobs end before."
        ),
        "/leases",
    ),
    Mail.LEASE_REFUSED: MailText(
        noted("Lease {lease} was refused"),
        noted("Lease {lease} of {gpus} GPUs of share {share} was refused.\n\nReason: {reason}"),
        "/leases",
    ),
    Mail.LEASE_SHORTENED: MailText(
        noted("Lease {lease} now ends on {ends}"),
        noted("Lease {lease} of {gpus} GPUs now ends on {ends}. Please let jobs end before.\n\nReason: {reason}"),
        "/leases",
    ),
    Mail.LEASE_ENDED: MailText(
        noted("Lease {lease} has ended"),
        noted("Lease {lease} has ended; its {gpus} GPUs of share {share} went back."),
        "/leases",
    ),
}


@dataclass(frozen=True, slots=True)
class Letter:
    """In one language. `path` is of the page that it is about."""

    subject: str
    body: str
    path: str


def letter(words: Words, template: str, parts: Mapping[str, JsonValue]) -> Letter:
    """
    Raises:
        InvalidInput: there is no such mail, or it lacks a part: another version of the portal wrote it.
    """
    text = TEXTS.get(Mail(template)) if template in set(Mail) else None
    if text is None:
        raise InvalidInput(f"There is no text for mails of the kind {template!r:.60}.")
    try:
        values = {name: _value(words, name, part) for name, part in parts.items()}
        return Letter(
            subject=words.say(text.subject, **values),
            body=words.say(text.body, **values),
            path=text.path.format_map({name: str(part) for name, part in parts.items()}),
        )
    except (KeyError, ValueError, ValidationError) as error:
        raise InvalidInput(f"A mail of the kind {template} has no {error}.") from None


def both(dictionary: Dictionary, template: str, parts: Mapping[str, JsonValue], url: str) -> Letter:
    """Korean first, with the link to the page; the subject is Korean alone, so that lists of mails stay readable.

    Raises:
        InvalidInput: as `letter`.
    """
    korean, english = (letter(dictionary[language], template, parts) for language in LANGUAGES)
    link = f"{url}{korean.path}"
    return Letter(korean.subject, f"{korean.body}\n\n{link}\n\n--------\n\n{english.body}\n\n{link}\n", korean.path)


def _value(words: Words, name: str, part: JsonValue) -> Value:
    match part:
        case dict():
            return _told(words, Said.model_validate(part).told)
        case str() if name in DAYS:
            return date.fromisoformat(part)
        case str() if name in MOMENTS:
            return datetime.fromisoformat(part)
        case "" | None:
            return words.say(NO_REASON)
        case str() | int() | float():
            return part
        case _:
            raise ValueError(f"usable {name}")


def _told(words: Words, sentence: Told) -> str:
    return words.tell(sentence)
