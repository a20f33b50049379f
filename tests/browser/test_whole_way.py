"""The whole way on one portal in a real browser: from an open call to the statement, with a site that calls over HTTP.

Each person types the portal's address and clicks from there on. In Korean; axe looks at each page on the way, and a
browser that writes a fault into its console fails (`walker`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, expect

from slurm_gpuaas.domain.applications import Application
from slurm_gpuaas.domain.calendar import korean_day
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import HostName, ProviderName
from slurm_gpuaas.domain.people import Actor
from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.domain.pool_grants import PoolGrant, PoolGrantState
from slurm_gpuaas.domain.programmes import OrganisationKind
from slurm_gpuaas.pool.idle_rules import Rung
from slurm_gpuaas.portal.pool import PoolServer
from tests.browser.conftest import free_port
from tests.browser.far_site import CLUSTER, KEYS, SITE, FarSite
from tests.browser.site import BrowserSite, certificate, running
from tests.browser.walker import Walker, walking
from tests.desk import command_id
from tests.unit.metering.books import pool_rate
from tests.unit.pool.scene import programme, request
from tests.unit.portal.grants_scene import KEY

OPENS = datetime(2027, 1, 4, 10, tzinfo=KST)
CLOSES = datetime(2027, 1, 15, 18, tzinfo=KST)
STARTS = date(2027, 2, 1)
MONTH = Month(2027, 2)
ABOUT = "대학·연구기관·기업의 인공지능 연구에 국가 GPU를 지원합니다."
MOST_DAYS: Final = 40


class MovedClock:
    """Goes on by itself from where it was put."""

    def __init__(self, at: datetime) -> None:
        self.put(at)

    def put(self, at: datetime) -> None:
        self._at, self._since = at, time.monotonic()

    def now(self) -> datetime:
        return self._at + timedelta(seconds=time.monotonic() - self._since)


@dataclass
class Way:
    """The portal, the site, and what became of it all so far."""

    chromium: Browser
    portal: BrowserSite
    far: FarSite
    clock: MovedClock
    applications: dict[str, Application] = field(default_factory=dict)

    @property
    def pool(self) -> PoolServer:
        assert self.portal.pool is not None
        return self.portal.pool

    def walking(self, login: str, *, phone: bool = False) -> AbstractContextManager[Walker]:
        return walking(self.chromium, self.portal.url, login, phone=phone)

    def on(self, moment: datetime) -> None:
        """It is then; what the portal does by itself is done."""
        assert moment >= self.clock.now(), "time goes on only"
        self.clock.put(moment)
        self.pool.turn()

    def actor(self, login: str) -> Actor:
        found = self.portal.store.people.credentials(login)
        assert found is not None
        return found.person.actor

    @property
    def grant(self) -> PoolGrant:
        """That of the walk; whoever comes after has another."""
        return self.portal.store.register.grants.all(organisation="snu")[0]


@pytest.fixture
def way(chromium: Browser, tmp_path: Path) -> Iterator[Way]:
    """A pool with a programme that has no call, three organisations, and a site."""
    clock, tls = MovedClock(OPENS), certificate(tmp_path)
    rules = programme(calls=(), about=ABOUT, prices={OrganisationKind.UNIVERSITY: 50, OrganisationKind.YOUNG_FIRM: 10})
    limits = {"sign_in": 10_000, "address": 100_000}
    with running(tmp_path, free_port(), tls=tls, rules=rules, clock=clock, site_keys=KEYS, limits=limits) as portal:
        assert portal.pool is not None
        portal.store.sites.add(SITE, cluster=CLUSTER, provider=ProviderName("naver"))
        portal.store.sites.set_login_host(SITE, HostName("login.naver.example.org"))
        for model in ("h200", "b200"):
            portal.pool.keeper.add_rate(pool_rate(name=f"{model}-2027", model=model, basis="고시 2027-1"))
        far = FarSite(portal.url, Path(tls["certificate"]), clock)
        yield Way(chromium, portal, far, clock)
        far.close()


@pytest.mark.timeout(900)  # minutes where many share the processors
def test_from_an_open_call_to_the_statement(way: Way) -> None:
    a_call_is_opened(way)
    an_organisation_applies(way)
    two_people_review(way)
    an_award_is_made(way)
    the_offer_is_accepted(way)
    a_researcher_begins(way)
    a_provider_watches(way)
    the_grant_idles_and_is_taken_back(way)
    the_next_one_is_offered_its_gpus(way)
    the_month_is_stated(way)
    the_government_looks_at_it_all(way)


def a_call_is_opened(way: Way) -> None:
    with way.walking("government") as officer:
        officer.menu("지원 사업")
        officer.follow("국가 GPU 지원")
        officer.follow("변경")
        officer.fill("공모", "1")
        officer.fill("접수 시작", OPENS.strftime("%Y-%m-%dT%H:%M"))
        officer.fill("접수 마감", CLOSES.strftime("%Y-%m-%dT%H:%M"))
        officer.press("변경 내용 보기")
        officer.press("시행")
        officer.reads("사업 규칙이 적용되었습니다.", "접수 중")


def an_organisation_applies(way: Way) -> None:
    with way.walking("admin-snu") as admin:
        admin.menu("지원 사업")
        admin.reads("접수 중", "시장 가격의 50%")
        admin.follow("신청하기")
        admin.fill("과제명", "한국어 거대 언어 모델")
        admin.press("저장하고 다음으로")
        admin.fill("GPU를 어디에 쓰나요?", "한국어 말뭉치로 7B 모델을 처음부터 학습해 공개합니다.")
        admin.fill("무엇을 실행하나요?", "Megatron-LM으로 서버 두 대에서 시험을 마쳤습니다.")
        admin.press("저장하고 다음으로")
        admin.choose("작업 종류", "사전 학습")
        admin.choose("GPU 모델", "H200")
        admin.fill("기간(일)", "120")
        admin.fill("모델 매개변수 수", "70억")
        admin.fill("기간 전체의 토큰 수", "2조")
        admin.press("계산하기")
        admin.reads("제안: 32장 (4대)")
        admin.press("저장하고 다음으로")
        admin.fill("시작일", STARTS.isoformat())
        expect(admin.field("GPU")).to_have_value("32")
        admin.fill("최소", "16")
        admin.press("저장하고 다음으로")
        admin.reads("32장")
        admin.press("신청서 제출")
        admin.reads("신청서를 제출했습니다.")
    (way.applications["snu"],) = way.portal.store.register.applications.all()
    period = {"starts": STARTS, "ends": STARTS + timedelta(days=119)}
    for of, title, asked in (
        ("kaist", "단백질 구조 예측", {"model": "h200", "gpus": 16, "min_gpus": 16}),
        ("mint", "의료 영상 판독 모델", {"model": "b200", "gpus": 8, "min_gpus": 8}),
    ):
        way.applications[of] = way.pool.service.submit(
            command_id(), way.actor(f"admin-{of}"), request(of, title=title, **asked, **period)
        )


def two_people_review(way: Way) -> None:
    way.on(CLOSES + timedelta(days=1))
    with way.walking("government") as officer:
        officer.menu("신청")
        officer.press("구비된 신청 모두 심사 시작")
        officer.menu("심사")
        for title, points in (("한국어 거대 언어 모델", "90"), ("의료 영상 판독 모델", "70")):
            officer.follow(title)
            officer.fill("파급효과", points)
            officer.fill("추진계획", points)
            officer.press("심사 저장")
            officer.follow("심사")
    with way.walking("second") as other:
        other.menu("심사")
        other.follow("한국어 거대 언어 모델")
        other.page.get_by_text("이해 충돌이 있습니다").click()
        other.fill("이해 충돌의 내용", "신청자가 제 지도 학생이었습니다.")
        other.tick("취소할 수 없음을 확인했습니다.")
        other.press("신고")
        other.follow("심사")
        other.follow("단백질 구조 예측")
        other.fill("파급효과", "80")
        other.fill("추진계획", "60")
        other.press("심사 저장")


def an_award_is_made(way: Way) -> None:
    snu, kaist = (way.applications[of] for of in ("snu", "kaist"))
    with way.walking("government") as officer:
        officer.menu("배정")
        officer.follow("국가 GPU 지원")
        officer.press("최적 배정 계산")
        officer.reads("최적임이 증명된 결과입니다.")
        expect(officer.part("배정받지 못함")).to_contain_text(kaist.id)
        officer.follow("반드시 배정한다면?", within="배정받지 못함")
        officer.press("결과 보기")
        officer.reads("늘어난 신청과 줄어든 신청", "+16", "−16")
        officer.follow("바꾸기 전 배정과 비교")
        officer.reads(snu.id)
        officer.press("배정 초안 만들기")
        officer.reads("본인이 작성한 초안이므로 승인할 수 없습니다.")
    with way.walking("third") as director:
        director.menu("배정")
        director.follow("살펴보기")
        director.press("승인")
        director.reads("배정이 승인되었습니다.")


def the_offer_is_accepted(way: Way) -> None:
    way.on(datetime(2027, 1, 18, 10, tzinfo=KST))
    with way.walking("admin-snu") as admin:
        admin.follow("응답할 제안")
        admin.tick("우리 기관은 최대")
        admin.press("제안 수락")
        admin.reads("이용권이 발급되었습니다", "반영 중")
        way.pool.turn()
        way.far.takes()
        assert str(way.grant.id) in {document["name"] for document in way.far.documents}
        way.far.reports(granted=32, in_use=0)
        admin.reads("이용권이 반영되었습니다")
        admin.follow("참여자")
        admin.tick("researcher-snu님")
        admin.press("참여자 저장")
        admin.reads("참여자를 변경했습니다")


def a_researcher_begins(way: Way) -> None:
    way.on(datetime.combine(STARTS, datetime.min.time(), KST) + timedelta(hours=10))
    with way.walking("researcher-snu", phone=True) as researcher:
        researcher.follow("클러스터 계정과 SSH 키")
        researcher.fill("아이디", "jung")
        researcher.press("이 이름으로 정하기")
        researcher.fill("공개 키", KEY)
        researcher.press("키 등록")
        way.pool.turn()
        way.far.takes()
        assert [one["user"] for one in way.far.people] == ["jung"]
        way.far.reports(granted=32, in_use=16)
        researcher.menu("이용권")
        researcher.follow("한국어 거대 언어 모델")
        researcher.follow("시작하기")
        researcher.reads("모두 준비되었습니다", "ssh jung@login.naver.example.org")
        researcher.reads(f"#SBATCH --account={way.grant.project}", f"#SBATCH --qos=guaranteed-{way.grant.project}")
        way.far.shows(way.grant, "jung")
        researcher.menu("작업")
        researcher.reads("kollm-13b")
        researcher.follow("4712")
        researcher.reads("할 일", "32장", "시작")
        researcher.menu("작업")
        researcher.follow("4711")
        researcher.follow("지도에서 보기")


def a_provider_watches(way: Way) -> None:
    with way.walking("provider-operator") as operator:
        operator.menu("클러스터 지도")
        operator.menu("사이트")
        operator.follow(SITE)
        operator.menu("장애")
        operator.follow("XID 79")
        operator.reads("4709")


def the_grant_idles_and_is_taken_back(way: Way) -> None:
    way.far.ran(way.grant, "jung", datetime(2027, 2, 1, 8, tzinfo=KST), 2, gpus=16)
    with way.walking("government") as officer:
        officer.menu("유휴 GPU")
        officer.reads("지켜보기만")
        officer.follow("규칙 보기, 시험, 변경")
        officer.choose("방식", "시행")
        for step in ("경고", "최종 경고", "회수됨"):
            officer.fill(f"다음 단계까지의 날수: {step}", "1")
        officer.fill("평균을 내는 날수", "3")
        officer.fill("이용 재개로 보는 날수", "1")
        officer.fill("이용권 시작 뒤 보지 않는 날수", "7")
        officer.press("시험해 보기")
        officer.reads("이 규칙대로라면")
        officer.fill("사유", "2월 배정분부터 짧은 단계를 시범 적용합니다.")
        officer.press("시행")
        officer.reads("규칙을 시행합니다.")
    days_pass(way, until=Rung.NOTICE)
    with way.walking("admin-snu") as admin:
        admin.follow("유휴 이용권")
        admin.menu("메시지")
        admin.main.locator("summary").first.click()
        admin.follow("해당 화면으로")
        admin.fill("GPU가 필요한 까닭", "다음 달에 학습을 시작하려고 자료를 모으고 있습니다.")
        admin.press("이의 신청 제출")
        admin.reads("이의 신청을 접수했습니다.")
    with way.walking("government") as officer:
        officer.follow("이의 신청")
        officer.follow(way.grant.id, within="진행 중인 이의 신청")
        officer.fill("사유", "시작일과 사용 계획이 신청서와 다릅니다.")
        officer.press("이의 신청 기각")
        officer.reads("이의 신청을 받아들이지 않았습니다.")
    days_pass(way, until=Rung.RECALL)
    assert way.grant.state is not PoolGrantState.ACTIVE


def days_pass(way: Way, *, until: Rung) -> None:
    """The site tells each morning that nothing of the grant was used on the day before."""
    register, grant = way.portal.store.register, way.grant
    for _ in range(MOST_DAYS):
        morning = way.clock.now().astimezone(KST).replace(hour=9, minute=30) + timedelta(days=1)
        way.clock.put(morning)
        way.far.idled(grant, korean_day(morning) - timedelta(days=1))
        way.pool.turn()
        if any(step.to == until for step in register.idle_steps.all(grant=grant.id)):
            return
    raise AssertionError(f"{grant.id} is not at {until} by {korean_day(way.clock.now())}")


def the_next_one_is_offered_its_gpus(way: Way) -> None:
    with way.walking("admin-kaist") as admin:
        admin.follow("응답할 제안")
        admin.reads("16장")
        admin.tick("우리 기관은 최대")
        admin.press("제안 수락")
        admin.reads("이용권이 발급되었습니다")


def the_month_is_stated(way: Way) -> None:
    way.on(datetime(2027, 3, 2, 10, tzinfo=KST))
    way.pool.keeper.close(MONTH, way.pool.titles())
    with way.walking("admin-snu") as admin:
        admin.menu("이용 명세서")
        admin.follow(str(MONTH))
        admin.reads("한국어 거대 언어 모델", "32.00", "57,616원")
        assert admin.take_home("PDF").startswith(b"%PDF-")
        assert "한국어 거대 언어 모델" in admin.take_home("CSV").decode("utf-8-sig")
    with way.walking("provider-billing") as billing:
        billing.menu("이용 명세서")
        billing.follow(str(MONTH))
        billing.menu("원장")


def the_government_looks_at_it_all(way: Way) -> None:
    with way.walking("government") as officer:
        officer.menu("현황")
        officer.reads("국가 GPU 지원", "57,616원")
        officer.speak("English")
        officer.reads("Overview", "National GPU support", "₩57,616")
        officer.speak("한국어")
        officer.menu("보고서")
        officer.fill("시작 월", str(MONTH))
        officer.press("조회")
        officer.reads("57,616원")
        officer.menu("감사")
        officer.reads("로그인", "session.open")
    verdict = way.portal.store.audit.verify()
    assert not verdict.faults
