from __future__ import annotations

from datetime import timedelta

import pytest

from slurm_gpuaas.api.signing import (
    HEADER_NODE,
    HEADER_SITE,
    HEADER_TIME,
    MAX_SKEW,
    NODES,
    SITES,
    BadSignature,
    Nonces,
    node_key,
    sign,
    verify,
)
from slurm_gpuaas.domain.errors import InvalidInput
from slurm_gpuaas.domain.names import NodeName, SiteName
from tests.fakes import EPOCH

MASTER = bytes(range(32))
NODE, OTHER = NodeName("b200-001"), NodeName("b200-002")
PATH, BODY = "/api/v1/node-events", b'{"node":"b200-001"}'


def key_of(node: NodeName) -> bytes:
    return node_key(MASTER, node)


def signed(node: NodeName = NODE, key: bytes | None = None, nonce: str | None = None) -> dict[str, str]:
    key = key or node_key(MASTER, node)
    return sign(NODES, key, method="POST", target=PATH, sender=node, body=BODY, now=EPOCH, nonce=nonce)


def check(
    headers: dict[str, str], *, body: bytes = BODY, path: str = PATH, after: timedelta = timedelta(0)
) -> NodeName:
    now = EPOCH + after
    return verify(NODES, key_of, method="post", target=path, headers=headers, body=body, now=now, nonces=Nonces())


def test_a_signed_request_proves_its_node() -> None:
    assert check(signed()) == NODE


def test_a_node_cannot_speak_for_another() -> None:
    with pytest.raises(BadSignature, match="signature for node b200-002 is wrong"):
        check(signed(OTHER, key=node_key(MASTER, NODE)))
    with pytest.raises(BadSignature):
        check({**signed(), HEADER_NODE: OTHER})


@pytest.mark.parametrize(("body", "path"), [(BODY + b" ", PATH), (BODY, "/api/v1/policy")])
def test_a_changed_request_is_refused(body: bytes, path: str) -> None:
    with pytest.raises(BadSignature, match="is wrong"):
        check(signed(), body=body, path=path)


@pytest.mark.parametrize("missing", list(signed()))
def test_an_unsigned_request_is_refused(missing: str) -> None:
    headers = signed()
    del headers[missing]
    with pytest.raises(BadSignature, match="not signed"):
        check(headers)


@pytest.mark.parametrize("after", [MAX_SKEW + timedelta(seconds=1), -MAX_SKEW - timedelta(seconds=1)])
def test_clocks_too_far_apart_are_refused_with_the_difference(after: timedelta) -> None:
    with pytest.raises(BadSignature, match="301 s off; 300 s are allowed"):
        check(signed(), after=after)


@pytest.mark.parametrize("time", ["-1", "1e9", "9" * 40, "²"])
def test_a_time_that_is_none_is_refused(time: str) -> None:
    with pytest.raises(BadSignature):
        check({**signed(), HEADER_TIME: time})


def test_a_node_name_that_is_none_is_refused() -> None:
    with pytest.raises((BadSignature, InvalidInput)):
        check({**signed(), HEADER_NODE: "b200-001\nx"})


def test_a_replay_is_refused_for_as_long_as_its_time_is_acceptable() -> None:
    nonces, headers = Nonces(), signed(nonce="n")

    def arrives(after: timedelta) -> NodeName:
        now = EPOCH + after
        return verify(NODES, key_of, method="POST", target=PATH, headers=headers, body=BODY, now=now, nonces=nonces)

    nonces.use(OTHER, "first", EPOCH - MAX_SKEW - timedelta(minutes=4))
    assert arrives(-MAX_SKEW) == NODE
    for minutes in range(-4, 6):
        with pytest.raises(BadSignature, match="sent before"):
            arrives(timedelta(minutes=minutes))


def test_nonces_are_forgotten_when_they_can_no_longer_be_replayed() -> None:
    nonces = Nonces()
    for minute in range(120):
        assert nonces.use(NODE, str(minute), EPOCH + timedelta(minutes=minute))
    assert nonces.use(NODE, "0", EPOCH + timedelta(minutes=120))


def site_arrives(headers: dict[str, str], keys: dict[str, bytes], target: str = PATH) -> SiteName:
    return verify(SITES, keys.get, method="GET", target=target, headers=headers, body=b"", now=EPOCH, nonces=Nonces())


def test_a_site_speaks_for_itself_alone_and_its_query_is_signed_too() -> None:
    keys = {"naver": b"n" * 32, "kakao": b"k" * 32}
    headers = sign(
        SITES, keys["naver"], method="GET", target=f"{PATH}?a=1", sender=SiteName("naver"), body=b"", now=EPOCH
    )
    assert site_arrives(headers, keys, f"{PATH}?a=1") == "naver"
    with pytest.raises(BadSignature, match="site naver is wrong"):
        site_arrives(headers, keys, f"{PATH}?a=2")
    with pytest.raises(BadSignature, match="site kakao is wrong"):
        site_arrives({**headers, HEADER_SITE: "kakao"}, keys, f"{PATH}?a=1")
    with pytest.raises(BadSignature, match="site nhn is wrong"):
        site_arrives({**headers, HEADER_SITE: "nhn"}, keys, f"{PATH}?a=1")


def test_a_node_with_a_sites_key_is_no_site() -> None:
    headers = sign(NODES, b"n" * 32, method="GET", target=PATH, sender=NodeName("naver"), body=b"", now=EPOCH)
    with pytest.raises(BadSignature, match="is wrong"):
        site_arrives({**headers, HEADER_SITE: "naver"}, {"naver": b"n" * 32})
