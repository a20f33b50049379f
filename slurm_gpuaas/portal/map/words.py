"""Texts of the map in Korean and English. The page fetches those of its language; `{name}` is filled in by the page.

Terms are the programme's: 장 counts GPUs, 대 servers (nodes), 몫 is a share of a pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Language(StrEnum):
    KO = "ko"
    EN = "en"


_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "title": ("클러스터 지도", "Cluster map"),
    "simulated": ("모의 데이터", "Simulated data"),
    "failed": (
        "지도를 불러오지 못했습니다. 잠시 후 새로 고침해 주세요.",
        "The map could not be loaded. Reload the page in a moment.",
    ),
    "noscript": ("이 지도에는 자바스크립트가 필요합니다.", "This map needs JavaScript."),
    "close": ("닫기", "Close"),
    "now": ("지금", "now"),
    "none": ("없음", "none"),
    "held": ("할당됨", "Held"),
    "held_idle": ("할당 후 유휴", "Held but idle"),
    # Sizes and lengths of time.
    "gpus": ("{n}장", "{n} GPUs"),
    "nodes": ("{n}대", "{n} nodes"),
    "seconds": ("{n}초", "{n} s"),
    "minutes": ("{n}분", "{n} min"),
    "hours": ("{n}시간", "{n} h"),
    "days": ("{n}일", "{n} d"),
    "won_hour": ("{won}/시간", "{won}/h"),
    "gpu_hours": ("{n} GPU시간", "{n} GPU-hours"),
    # Layers and the question that each answers.
    "layers": ("지도에 표시할 항목", "What the map shows"),
    "layer.state": ("상태", "State"),
    "layer.tenant": ("이용 기관", "Tenant"),
    "layer.job": ("작업", "Job"),
    "layer.use": ("사용률", "Utilisation"),
    "layer.health": ("건강", "Health"),
    "layer.heat": ("온도", "Temperature"),
    "layer.power": ("전력", "Power"),
    "layer.fragmentation": ("단편화", "Fragmentation"),
    "layer.age": ("유휴 시간", "Idle age"),
    "question.state": ("누가 쓸 수 있는가", "Who could use it?"),
    "question.tenant": ("어느 기관이 쓰는가", "Whose jobs run where?"),
    "question.job": ("어느 작업이 어디에 있는가", "Which job is where?"),
    "question.use": ("얼마나 일하는가 (커널이 실행된 시간)", "How hard does it work? (time with a kernel running)"),
    "question.health": ("어디가 아픈가", "What is broken?"),
    "question.heat": ("얼마나 뜨거운가 · 6을 다시 누르면 전력", "How hot is it? · press 6 again for power"),
    "question.power": (
        "얼마나 전력을 쓰는가 · 6을 다시 누르면 온도",
        "How much power? · press 6 again for temperature",
    ),
    "question.fragmentation": ("빈 서버가 얼마나 모여 있는가", "How large are the free pieces?"),
    "question.age": ("마지막으로 쓰인 지 얼마나 되었는가", "How long since it last worked?"),
    "legend.job": ("작업마다 다른 색", "A colour a job"),
    "legend.segment": ("{n}대 이상", "{n} or more nodes"),
    "legend.stranded": ("일부만 빈 서버", "Free GPU on a part-used node"),
    # States.
    "state.unknown": ("알 수 없음", "Unknown"),
    "state.free": ("사용 가능", "Free"),
    "state.busy": ("사용 중", "In use"),
    "state.reserved": ("예약됨", "Reserved"),
    "state.draining": ("드레인 중", "Draining"),
    "state.drained": ("드레인됨", "Drained"),
    "state.down": ("중단", "Down"),
    "state.maintenance": ("점검", "Maintenance"),
    "state.taken": ("다른 기관 사용 중", "In use by others"),
    "severity.0": ("정상", "Well"),
    "severity.1": ("관찰", "Watched"),
    "severity.2": ("판단 필요", "Needs a decision"),
    "severity.3": ("고장", "Fault"),
    "sign.xid": ("XID 발생", "XID seen"),
    "share.government": ("정부 몫", "government share"),
    "share.own": ("자체 몫", "own share"),
    "service.guaranteed": ("보장", "guaranteed"),
    "service.burst": ("버스트", "burst"),
    "stage.suspect": ("감지", "Detected"),
    "stage.draining": ("드레인", "Drain"),
    "stage.drained": ("비움 완료", "Drained"),
    "stage.repairing": ("수리", "Repair"),
    "stage.verifying": ("검증", "Verify"),
    "stage.probation": ("복귀 (관찰)", "Returned (probation)"),
    "stage.rma": ("교체 요청", "RMA"),
    "stage.closed": ("종료", "Closed"),
    "stage.requeued": ("작업 재대기", "Jobs requeued"),
    # Figures.
    "figure.gpus": ("전체 GPU", "GPUs"),
    "figure.nodes": ("서버 {n}대", "{n} nodes"),
    "figure.held": ("할당률", "Held"),
    "figure.free": ("사용 가능", "Free"),
    "figure.idle": ("할당 후 유휴", "Held but idle"),
    "figure.out": ("서비스 제외", "Out of service"),
    "figure.waiting": ("대기 작업", "Waiting jobs"),
    # Beside the map.
    "rail.label": ("요약과 카드", "Sums and cards"),
    "rail.largest": ("지금 시작할 수 있는 가장 큰 작업", "Largest job that could start now"),
    "rail.cluster": ("클러스터", "One cluster"),
    "rail.unit": ("리프 하나", "One unit"),
    "rail.node": ("서버 하나", "One node"),
    "rail.models": ("모델별 사용 가능 GPU", "Free GPUs by model"),
    "rail.segments": ("빈 서버 묶음", "Idle segments"),
    "rail.segments_note": ("리프 스위치 하나 아래 온전히 빈 서버 수 (대)", "Wholly free nodes under one leaf switch"),
    "rail.queue": ("대기 사유", "Queue by reason"),
    "rail.nobody": ("기다리는 작업이 없습니다.", "No job waits."),
    "rail.reason": ("사유", "Reason"),
    "rail.jobs": ("작업", "Jobs"),
    "rail.gpus": ("GPU(장)", "GPUs"),
    "rail.median": ("대기 중앙값", "Median wait"),
    "rail.releases": ("앞으로 24시간 반납 예정", "Releases in the next 24 h"),
    "rail.releases_note": ("시간 제한이 끝나는 작업의 GPU 수", "GPUs of jobs whose time limit ends"),
    "reason.Resources": ("자원 부족", "Resources"),
    "reason.Priority": ("우선순위", "Priority"),
    "reason.QOSGrpGRES": ("배분 한도", "Grant limit"),
    "reason.Licenses": ("배치 대기", "Placement gate"),
    "reason.Dependency": ("선행 작업", "Dependency"),
    "reason.BeginTime": ("시작 시각", "Begin time"),
    "reason.AssocGrpGRES": ("기관 한도", "Account limit"),
    # Cards.
    "card.place": ("위치", "Place"),
    "card.job": ("작업", "Job"),
    "card.job_title": ("작업 {id}", "Job {id}"),
    "card.incident": ("장애 {id}", "Incident {id}"),
    "card.gone": ("지금 이 화면에는 없습니다.", "It is not there now."),
    "card.only": ("지도에서 이것만 보기", "Show only this on the map"),
    "card.tenant": ("이용 기관", "Tenant"),
    "card.user": ("사용자", "User"),
    "card.use": ("사용률", "Use"),
    "card.power": ("전력", "Power"),
    "card.heat": ("온도", "Heat"),
    "card.idle": ("유휴", "Idle for"),
    "card.wasted": ("유휴 비용", "Idle cost"),
    "card.fault": ("장애", "Fault"),
    "card.gpu": ("GPU", "GPU"),
    "card.state": ("상태", "State"),
    "card.hour": ("최근 1시간", "Last hour"),
    "card.uuid": ("UUID 끝", "UUID tail"),
    "card.units": ("리프", "Units"),
    "card.near": ("가까운 쌍", "Near pairs"),
    "card.one_leaf": ("스위치 1개, 2홉", "one leaf, 2 hops"),
    "card.spine": ("스파인 경유, 4홉", "through the spine, 4 hops"),
    "card.fewest": ("배치", "Placement"),
    "card.fewest_note": ("리프 {n}개로도 가능한 크기", "would fit on {n} units"),
    "card.best": ("더 적은 리프로는 불가", "on as few units as it can be"),
    "card.better": ("지금 더 나은 자리", "Better now"),
    "card.name": ("이름", "Name"),
    "card.size": ("크기", "Size"),
    "card.share": ("자원", "Where"),
    "card.since": ("시작", "Started"),
    "card.until": ("제한 시각", "Limit"),
    "card.mean": ("평균 사용률", "Mean use"),
    "card.node": ("서버", "Node"),
    "card.rule": ("판단 근거", "Rule"),
    "card.hit": ("영향받은 작업", "Jobs hit"),
    "card.lost": ("손실", "Lost"),
    # Search.
    "search.label": ("지도에서 찾기", "Search the map"),
    "search.hint": (
        "b200-[001-032], 작업, 기관, xid:79, idle>30m",
        "b200-[001-032], job, user, tenant, xid:79, idle>30m",
    ),
    "search.clear": ("지우기", "Clear"),
    "search.found": ("{gpus}장 · 서버 {nodes}대", "{gpus} GPUs · {nodes} nodes"),
    "search.nodes": (
        "서버 목록을 읽을 수 없습니다: {text}. 예: b200-[001-032,040]",
        "Not a node list: {text}. Try b200-[001-032,040]",
    ),
    "search.many": (
        "서버가 너무 많습니다: {text}. 범위를 줄여 주세요.",
        "Too many nodes: {text}. Use a smaller range.",
    ),
    "search.state": ("그런 상태가 없습니다: {text}. 예: state:drained", "No such state: {text}. Try state:drained"),
    "search.word": (
        "모르는 검색어입니다: {text}: . 예: tenant: user: job: xid:",
        "Not a search word: {text}: . Try tenant: user: job: xid:",
    ),
    "search.compare": (
        "비교를 읽을 수 없습니다: {text}. 예: idle>30m, use<10",
        "Not a comparison: {text}. Try idle>30m or use<10",
    ),
    "search.long": ("검색어는 {n}자까지입니다.", "A search takes {n} characters at most."),
    # Time.
    "time.label": ("시간", "Time"),
    "time.range": ("기간", "Range"),
    "time.slider": ("보는 시각", "Moment shown"),
    "time.marks": ("기록된 기간과 장애", "What is recorded, and incidents"),
    "time.play": ("▶ 60배속 재생", "▶ Play 60×"),
    "time.pause": ("❚❚ 멈춤", "❚❚ Pause"),
    "time.live": ("실시간으로", "Back to live"),
    "time.is_live": ("실시간", "Live"),
    # Banners and empty states.
    "banner.past": ("{at}의 기록을 보고 있습니다", "You are looking at {at}"),
    "banner.no_past": ("{at}의 기록이 없습니다", "Nothing is recorded of {at}"),
    "banner.cut": (
        "서버와 연결이 끊겼습니다. 다시 연결하는 중입니다 ({age} 전 화면)",
        "The connection is cut, reconnecting (picture {age} old)",
    ),
    "banner.stale": ("데이터가 오래되었습니다: {sites}", "Old data: {sites}"),
    "banner.silent": ("아직 데이터가 없습니다: {sites}", "No data yet: {sites}"),
    "site.stale": ("{age} 전 데이터", "{age} old"),
    "site.silent": ("데이터 없음", "no data"),
    "empty.title": ("아직 연결된 클러스터가 없습니다", "No cluster is connected yet"),
    "empty.text": (
        "각 사이트의 gpuaasd가 구성을 보내면 이 자리에 GPU가 나타납니다.",
        "GPUs appear here as soon as a site's gpuaasd has told of itself.",
    ),
    # The map for keyboards and screen readers.
    "stage.label": ("GPU 지도", "Map of GPUs"),
    "stage.keys": (
        "화살표: 이동. Enter: 안으로, 카드 열기. Esc: 밖으로. 1~8: 항목 바꾸기. /: 찾기. T: 표. 스페이스: 재생.",
        "Arrows move. Enter goes in and opens a card. Escape goes out. 1 to 8 change the layer. Slash searches. "
        "T shows the table. Space plays.",
    ),
    "tool.table": ("표로 보기", "Table"),
    "tool.wall": ("월 모드", "Wall"),
    "tool.dark": ("어둡게", "Dark"),
    "tool.still": ("움직임 끄기", "Motion off"),
    "tool.leave": ("월 모드 끝내기", "Leave wall mode"),
    "tool.language": ("언어", "Language"),
    # The table.
    "table.caption": ("서버별 GPU 상태", "GPUs by node"),
    "table.count": ("서버 {all}대 중 {n}대", "{n} of {all} nodes"),
    "table.page": ("{n} / {all}쪽", "page {n} of {all}"),
    "table.before": ("이전", "Previous"),
    "table.after": ("다음", "Next"),
    "table.node": ("서버", "Node"),
    "table.cluster": ("클러스터", "Cluster"),
    "table.unit": ("리프", "Unit"),
    "table.share": ("몫", "Share"),
    "table.state": ("상태", "State"),
    "table.free": ("사용 가능", "Free"),
    "table.tenants": ("이용 기관", "Tenants"),
    "table.jobs": ("작업", "Jobs"),
    "table.use": ("사용률", "Use"),
    "table.heat": ("최고 온도", "Hottest"),
    "table.health": ("건강", "Health"),
    "table.idle": ("최장 유휴", "Idle"),
    "table.won": ("유휴 비용/시간", "Idle cost/h"),
}


def texts(lang: Language) -> Mapping[str, str]:
    """All texts in a language, by word."""
    return _BY_LANGUAGE[lang]


_BY_LANGUAGE: Final = {
    lang: MappingProxyType({word: both[place] for word, both in _TEXTS.items()})
    for place, lang in enumerate((Language.KO, Language.EN))
}
