"""A person at the portal: signs in and fills in forms as a browser does, and uses the JSON API with a token."""

from __future__ import annotations

import html
import re
import ssl
from typing import Any, Final
from uuid import uuid4

import httpx2

from slurm_gpuaas.api.models import Problem
from slurm_gpuaas.testbed.story import StepFailed

PATIENCE_S: Final = 60.0
MOST_OF_A_PAGE: Final = 300
TOKEN_DAYS: Final = 365


class Visitor:
    """Args:
    url: the portal's.
    trust: who may sign its certificate.
    """

    def __init__(self, url: str, trust: ssl.SSLContext, *, login: str, password: str) -> None:
        self.login = login
        self._password = password
        self._url = url
        self._http = httpx2.Client(base_url=url, verify=trust, timeout=PATIENCE_S)
        self._api = httpx2.Client(base_url=f"{url}/api/v1", verify=trust, timeout=PATIENCE_S)
        self._csrf = ""

    # -- Pages

    def get(self, path: str) -> str:
        """A page's HTML.

        Raises:
            StepFailed: the portal answers with something else.
        """
        answer = self._http.get(path)
        if answer.status_code != 200:
            raise StepFailed(f"GET {path} as {self.login}: HTTP {answer.status_code}: {_said(answer)}")
        if found := re.search(r'name="csrf" value="([^"]+)"', answer.text):
            self._csrf = found[1]
        return answer.text

    def post(self, path: str, **fields: str | list[str]) -> str:
        """Sends a form of the page that was looked at last; the HTML that comes of it, or nothing after a redirect.

        Raises:
            StepFailed: the portal does not do it.
        """
        answer = self._http.post(path, data={"csrf": self._csrf, **fields}, headers={"Origin": self._url})
        if answer.status_code not in {200, 303}:
            raise StepFailed(f"POST {path} as {self.login}: HTTP {answer.status_code}: {_said(answer)}")
        return answer.text if answer.status_code == 200 else ""

    def sign_in(self) -> None:
        self.get("/sign-in")
        self.post("/sign-in", login=self.login, password=self._password)

    def take_up(self, invitation: str, name: str) -> None:
        """Takes an invitation up; signed in from then on."""
        path = invitation.removeprefix(self._url)
        self.get(path)
        self.post(path, name=name, login=self.login, password=self._password, again=self._password)

    def invite(self, *, name: str, email: str, **office: str) -> str:
        """The invitation's address."""
        self.get("/people")
        return _made(self.post("/people/invite", name=name, email=email, **office))

    def approve_people(self) -> int:
        """Approves every change of roles that somebody else asked for."""
        numbers = re.findall(r'action="/people/changes/(\d+)/approve"', self.get("/people"))
        for number in numbers:
            self.post(f"/people/changes/{number}/approve")
        return len(numbers)

    def make_token(self) -> None:
        """A token for all that the person may do; `ask` and `tell` use it."""
        scopes = re.findall(r'name="scopes" value="([^"]+)"', self.get("/tokens"))
        made = self.post("/tokens", name="gpuaas testbed", days=str(TOKEN_DAYS), scopes=scopes)
        self._api.headers["Authorization"] = f"Bearer {_made(made)}"

    # -- API

    def ask(self, path: str, **query: str | int) -> Any:
        return self._answer("GET", path, query, None)

    def find(self, path: str) -> Any | None:
        """None where there is no such thing."""
        answer = self._api.get(path)
        return None if answer.status_code == 404 else self._read(answer, f"GET {path}")

    def all(self, path: str, **query: str | int) -> list[Any]:
        """The items of all pages of a list."""
        items, cursor = [], None
        while True:
            page = self.ask(path, **query, **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items

    def tell(self, method: str, path: str, body: object = None, *, key: str | None = None) -> Any:
        """Args:
        key: names the act, so that it is done once however often it is sent.
        """
        return self._answer(method, path, {}, {} if body is None else body, key or str(uuid4()))

    def _answer(self, method: str, path: str, query: dict[str, Any], body: object, key: str = "") -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        return self._read(self._api.request(method, path, params=query, json=body, headers=headers), f"{method} {path}")

    def _read(self, answer: httpx2.Response, asked: str) -> Any:
        if not answer.is_success:
            raise StepFailed(f"{asked} as {self.login}: HTTP {answer.status_code}: {_said(answer)}")
        return answer.json() if answer.content else None

    def close(self) -> None:
        self._http.close()
        self._api.close()


def _made(page: str) -> str:
    """The secret that a page shows once."""
    found = re.search(r'<code id="made">([^<]+)</code>', page)
    if found is None:
        raise StepFailed(f"The page shows no secret: {_text_of(page)}")
    return html.unescape(found[1])


def _said(answer: httpx2.Response) -> str:
    if "json" in answer.headers.get("content-type", ""):
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValueError:
            return answer.text[:MOST_OF_A_PAGE]
        return f"{problem.detail} {problem.way_out}".strip()
    return _text_of(answer.text)


def _text_of(page: str) -> str:
    """What a person reads of a page: its faults first."""
    faults = re.findall(r'class="[^"]*fault[^"]*"[^>]*>(.*?)</', page, re.DOTALL)
    body = re.sub(r"(?s)<(head|nav|script|style).*?</\1>|<[^>]+>", " ", " ".join(faults) or page)
    return " ".join(html.unescape(body).split())[:MOST_OF_A_PAGE]
