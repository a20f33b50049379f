"""Who there is in the national demo and what they ask for. Data and pure rules; the same at every run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from slurm_gpuaas.domain.programmes import OrganisationKind, Region
from slurm_gpuaas.testbed.profiles import Cluster

PROGRAMME: Final = "national-ai"
SERVER: Final = 8
"""GPUs of a server."""
GRANT_DAYS: Final = 60
GOVERNMENT_PARTS: Final = {"naver": 287 / 382, "kakao": 255 / 303, "nhn": 765 / 957}
"""Of each provider's servers, what the government may award: 2,296 of 3,056 GPUs, 2,040 of 2,424, 6,120 of 7,656."""
PROVIDERS: Final = {"naver": "네이버클라우드", "kakao": "카카오", "nhn": "NHN클라우드"}
RATES: Final = {"h200": 4_000, "b200": 6_000}
"""Won for a GPU-hour: the demo's own; no rate of the programme is published."""


@dataclass(frozen=True)
class House:
    """An organisation; the first of its people is its administrator."""

    name: str
    title: str
    kind: OrganisationKind
    region: Region
    admin: str
    researchers: tuple[str, ...]


def _house(name: str, title: str, kind: OrganisationKind, region: Region, admin: str, *researchers: str) -> House:
    return House(name, title, kind, region, admin, researchers)


U, R, Y, F = OrganisationKind
HOUSES: Final = (
    _house("snu", "서울대학교", U, Region.SEOUL, "김서연", "이준호", "박지민", "최수빈", "정하늘"),
    _house("kaist", "한국과학기술원", U, Region.DAEJEON, "이도윤", "김예린", "박시우", "최유진", "정민재"),
    _house("postech", "포항공과대학교", U, Region.GYEONGBUK, "박은서", "김태양", "이가온", "최다인", "정우진"),
    _house("unist", "울산과학기술원", U, Region.ULSAN, "최민서", "김하준", "이서아", "박건우", "정소율"),
    _house("gist", "광주과학기술원", U, Region.GWANGJU, "정예준", "김나윤", "이시온", "박하린", "최지호"),
    _house("kisti", "한국과학기술정보연구원", R, Region.DAEJEON, "김지안", "이연우", "박서준", "최아린", "정현우"),
    _house("etri", "한국전자통신연구원", R, Region.DAEJEON, "이수아", "김도현", "박주원", "최서윤", "정재윤"),
    _house("baram-ai", "바람에이아이", Y, Region.SEOUL, "박준서", "김채원", "이은우", "최시윤", "정다온"),
    _house("mulgyeol", "물결랩", Y, Region.BUSAN, "최하은", "김지후", "이윤서", "박민준", "정서현"),
    _house("neulbom", "늘봄헬스", F, Region.INCHEON, "정유나", "김선우", "이하율", "박도하", "최은채"),
)
REVIEWERS: Final = ("한평가", "오심사", "서검토")


@dataclass(frozen=True)
class Wish:
    """What one researcher asks for.

    Args:
        servers: of 8 GPUs; 0: `gpus` single ones, of the small tier.
    """

    login: str
    name: str
    house: House
    title: str
    purpose: str
    model: str | None
    gpus: int
    min_gpus: int
    points: tuple[int, int, int]
    """What its reviewers give for the three criteria, give or take a few."""


TOPICS: Final = (
    ("한국어 대규모 언어모델 사전학습", "한국어 말뭉치 2조 토큰으로 130억 매개변수 모델을 사전학습한다."),
    ("의료 영상 기초모델", "흉부 CT 40만 건으로 자기지도 학습을 하고 병원 세 곳에서 검증한다."),
    ("단백질 구조 예측", "국내 신약 후보 표적 1,200종의 복합체 구조를 예측한다."),
    ("기상 예측 확산모델", "한반도 1 km 격자 72시간 앙상블 예측을 학습한다."),
)
SIZES: Final = (2, 4, 1, 3, 1, 2, 0, 8, 1, 2)
"""Servers that the n-th application asks for; 0 is a part of one."""
SINGLE: Final = (1, 2, 4)
IDLER: Final = 7
"""The application that is awarded much, and then does nothing."""


def login_of(house: House, number: int) -> str:
    """Login of an organisation's person; 0 is its administrator. At most 16 characters."""
    return f"{house.name.replace('-', '')}{'admin' if number == 0 else number}"


def wishes(scale: int) -> list[Wish]:
    """40 applications, one of each researcher.

    Args:
        scale: times as many GPUs for each that asks for whole servers.
    """
    return list(_wishes(scale))


def _wishes(scale: int) -> Iterator[Wish]:
    number = 0
    for round in range(4):
        for place, house in enumerate(HOUSES):
            servers = SIZES[(place + 3 * round) % len(SIZES)]
            gpus = servers * SERVER * scale or SINGLE[round % len(SINGLE)]
            title, purpose = TOPICS[(place + round) % len(TOPICS)]
            yield Wish(
                login=login_of(house, round + 1),
                name=house.researchers[round],
                house=house,
                title=f"{title} ({house.title})",
                purpose=purpose,
                model=(None, "b200", "h200")[number % 3],
                gpus=gpus,
                min_gpus=gpus if gpus < 2 * SERVER else gpus // 2 // SERVER * SERVER,
                points=(60 + number * 7 % 38, 65 + number * 11 % 33, 70 + number * 5 % 29),
            )
            number += 1


def government_servers(cluster: Cluster) -> int:
    """The first so many of a cluster are the government's share."""
    return round(cluster.nodes * GOVERNMENT_PARTS[cluster.name])


def own_policy(cluster: Cluster) -> list[Mapping[str, Any]]:
    """What the site's operator declares: its pool with both shares, and what a GPU-hour costs there."""
    government = government_servers(cluster)
    shares = [
        {"name": "government", "nodes": cluster.range(1, government)},
        {"name": "own", "nodes": cluster.range(government + 1, cluster.nodes)},
    ]
    return [
        {"kind": "Pool", "name": cluster.name, "cluster": cluster.name, "model": cluster.model, "shares": shares},
        {
            "kind": "Rate",
            "name": f"{cluster.model}-demo",
            "model": cluster.model,
            "won_per_gpu_hour": RATES[cluster.model],
            "starts": "2026-01-01",
            "basis": BASIS,
        },
    ]


BASIS: Final = "데모용 단가 (공개된 고시 단가가 아님)"


def share_name(cluster: Cluster) -> str:
    return f"{cluster.name}.{cluster.name}.government"


def programme(clusters: Sequence[Cluster], scale: int, opens: datetime, closes: datetime) -> Mapping[str, Any]:
    """A programme with one call over the government's shares."""
    sizes = sorted({*SINGLE, *(size * SERVER * scale for size in SIZES if size)})
    return {
        "name": PROGRAMME,
        "title": {"ko": "국가 AI 연구 GPU 지원사업", "en": "National GPU support for AI research"},
        "about": "정부가 확보한 GPU를 대학, 연구소, 기업에 배분합니다.",
        "calls": [{"number": 1, "opens": opens.isoformat(), "closes": closes.isoformat()}],
        "prices": {U.value: 0, R.value: 0, Y.value: 50, F.value: 80},
        "models": sorted({cluster.model for cluster in clusters}),
        "shares": [share_name(cluster) for cluster in clusters],
        "sizes": sizes,
        "longest_days": 180,
        "criteria": [
            {"key": "impact", "title": {"ko": "파급효과", "en": "Impact"}, "weight": 2},
            {"key": "plan", "title": {"ko": "추진계획", "en": "Plan"}, "weight": 1},
            {"key": "team", "title": {"ko": "수행역량", "en": "Team"}, "weight": 1},
        ],
        "reviews_needed": 2,
        "least_score": 60,
        "answer_days": 7,
        "grace_days": 3,
    }


def application(wish: Wish, first_day: date) -> Mapping[str, Any]:
    """The body of an application in the API."""
    return {
        "programme": PROGRAMME,
        "call": 1,
        "title": wish.title,
        "purpose": wish.purpose,
        "workload": f"{wish.gpus}개 GPU, 분산 학습 (PyTorch, bf16)",
        "model": wish.model,
        "gpus": wish.gpus,
        "min_gpus": wish.min_gpus,
        "starts": first_day.isoformat(),
        "ends": (first_day + timedelta(days=GRANT_DAYS - 1)).isoformat(),
    }


def points_of(wish: Wish, reviewer: int) -> Mapping[str, int]:
    """One reviewer's points; each sees it a little differently."""
    return {
        key: min(100, given + 2 * reviewer) for key, given in zip(("impact", "plan", "team"), wish.points, strict=True)
    }


def ssh_key(login: str) -> str:
    """A public key that nobody has the private key of."""
    kind = b"ssh-ed25519"
    point = hashlib.sha256(f"gpuaas testbed {login}".encode()).digest()
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, point))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"
