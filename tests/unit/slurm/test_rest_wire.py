"""What counts as an answer of slurmrestd, and what as a failure."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from slurm_gpuaas.slurm.protocols import SlurmRefused, SlurmUnavailable
from slurm_gpuaas.slurm.rest_wire import Answer, Number, RestAddress, RestRefused, RestWire, number

OK = {"meta": {"slurm": {"release": "26.05.5", "cluster": "mini"}}, "errors": [], "warnings": []}


def wire(status: int = 200, body: object = OK, **address: object) -> tuple[RestWire, list[httpx2.Request]]:
    """A wire to a slurmrestd that always answers this, and the requests it got."""
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(status, content=body if isinstance(body, bytes) else json.dumps(body))

    return RestWire(RestAddress(**address), transport=httpx2.MockTransport(answer)), seen  # type: ignore[arg-type]


def complaint(text: str, code: int = 0) -> dict[str, object]:
    return {"description": text, "error_number": code, "error": text, "source": "x"}


def test_a_clean_answer_passes() -> None:
    rest, _ = wire()
    assert rest.get("/slurm/v0.0.42/ping/", Answer).meta.slurm.cluster == "mini"


def test_korean_text_is_sent_as_utf8() -> None:
    rest, seen = wire()
    rest.post("/slurm/v0.0.42/nodes/", {"reason": '한글 "x"'})
    assert json.loads(seen[0].content) == {"reason": '한글 "x"'}
    assert "한글".encode() in seen[0].content


def test_a_text_that_is_not_utf_8_costs_its_bad_characters_only() -> None:
    rest, _ = wire(body=json.dumps(OK).encode().replace(b"mini", b"m\xff\xfei"))
    assert rest.get("/slurm/v0.0.42/jobs/", Answer).meta.slurm.cluster == "m\ufffd\ufffdi"


@pytest.mark.parametrize("status", [200, 422, 500])
def test_an_error_is_a_refusal_whatever_the_status(status: int) -> None:
    rest, _ = wire(status, {**OK, "errors": [complaint("Invalid node name specified", 2018)]})
    with pytest.raises(RestRefused, match="Invalid node name") as caught:
        rest.post("/slurm/v0.0.42/nodes/", {})
    assert caught.value.codes == {2018}


def test_a_warning_is_a_refusal_too() -> None:
    rest, _ = wire(200, {**OK, "warnings": [{"description": "Ignoring unknown field", "source": "#/x"}]})
    with pytest.raises(SlurmRefused, match="Ignoring unknown field"):
        rest.post("/slurmdb/v0.0.42/qos/", {})


@pytest.mark.parametrize("code", [7000, 1800, 1001])
def test_a_daemon_behind_slurmrestd_that_does_not_answer_is_unavailable(code: int) -> None:
    rest, _ = wire(500, {**OK, "errors": [complaint("Unable to connect", code)]})
    with pytest.raises(SlurmUnavailable, match="Unable to connect"):
        rest.get("/slurmdb/v0.0.42/qos/", Answer)


def test_no_change_is_an_empty_answer() -> None:
    rest, _ = wire(304, b"")
    assert rest.delete("/slurmdb/v0.0.42/qos/nix", Answer) == Answer()


@pytest.mark.parametrize(("status", "body"), [(401, b"Authentication failure"), (200, b"Authentication failure")])
def test_a_user_that_slurmrestd_does_not_know_is_refused_with_the_way_out(status: int, body: bytes) -> None:
    rest, _ = wire(status, body)
    with pytest.raises(SlurmRefused, match="does not accept this user") as caught:
        rest.get("/slurm/v0.0.42/ping/", Answer)
    assert "token" in caught.value.way_out


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"errors": 3}', b"[]"])
def test_an_answer_that_is_not_understood_is_no_success(body: bytes) -> None:
    rest, _ = wire(200, body)
    with pytest.raises(SlurmRefused, match="not understood"):
        rest.get("/slurm/v0.0.42/ping/", Answer)


def test_no_slurmrestd_is_unavailable(tmp_path: Path) -> None:
    rest = RestWire(RestAddress(socket=tmp_path / "nothing.sock"))
    with pytest.raises(SlurmUnavailable, match=r"nothing\.sock does not answer") as caught:
        rest.get("/slurm/v0.0.42/ping/", Answer)
    assert "Start slurmrestd" in caught.value.way_out


def test_a_token_is_read_again_for_every_request(tmp_path: Path) -> None:
    token = tmp_path / "token"
    rest, seen = wire(url="http://slurmrestd:6820", token_file=token, user="gpuaas")
    with pytest.raises(SlurmUnavailable, match="token"):
        rest.get("/slurm/v0.0.42/ping/", Answer)
    for text in ("one\n", "two\n"):
        token.write_text(text)
        rest.get("/slurm/v0.0.42/ping/", Answer)
    assert [request.headers["X-SLURM-USER-TOKEN"] for request in seen] == ["one", "two"]
    assert {request.headers["X-SLURM-USER-NAME"] for request in seen} == {"gpuaas"}


@pytest.mark.parametrize(
    ("wire_form", "value"),
    [
        ({"set": True, "infinite": False, "number": 0}, 0),
        ({"set": True, "infinite": False, "number": 7}, 7),
        ({"set": False, "infinite": True, "number": 0}, None),
        ({"set": False, "infinite": False, "number": 0}, None),
        ({"set": True, "infinite": True, "number": 5}, None),
    ],
)
def test_zero_is_a_limit_and_no_number_is_none(wire_form: dict[str, object], value: int | None) -> None:
    assert Number.model_validate(wire_form).value == value


@pytest.mark.parametrize("value", [None, 0, 7])
def test_numbers_are_sent_as_they_are_read(value: int | None) -> None:
    assert Number.model_validate(number(value)).value == value
