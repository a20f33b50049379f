"""Who decides what an event means: the driver before the catalogue, the site above both; each verdict says which."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from slurm_gpuaas.domain.incidents import Drain
from slurm_gpuaas.health.assess import Nvlink5Words, assess_sxid, assess_xid
from slurm_gpuaas.health.catalogue import FaultClass, Product
from slurm_gpuaas.health.overrides import Override

OURS = Override(code=79, drain=Drain.REVIEW, reason="riser is known to be loose")


def test_the_drivers_recovery_action_comes_before_the_catalogue() -> None:
    found = assess_xid(31, recovery_action="Node Reboot Required")
    assert (found.drain, found.fault_class) == (Drain.NOW, FaultClass.HW_REBOOT)
    assert found.why == "driver's recovery action: Node Reboot Required"
    assert found.immediate == "RESTART_APP"


def test_a_driver_that_asks_for_nothing_does_not_clear_the_catalogues_verdict() -> None:
    found = assess_xid(79, recovery_action="None")
    assert found.drain is Drain.NOW
    assert found.why.startswith("catalogue of ")
    assert assess_xid(154, recovery_action="None").drain is Drain.NO


@pytest.mark.parametrize("code", [31, 79, 154, 999])
def test_words_of_the_driver_that_nobody_explains_go_to_review(code: int) -> None:
    found = assess_xid(code, recovery_action="Call Home")
    assert (found.drain, found.fault_class) == (Drain.REVIEW, FaultClass.FOLLOW_154)
    assert "Call Home, which no source explains" in found.why


def test_the_site_decides_above_both_and_says_what_they_said() -> None:
    found = assess_xid(79, overrides=[OURS])
    assert (found.drain, found.fault_class) == (Drain.REVIEW, FaultClass.HW_REBOOT)
    assert found.why.startswith(
        "site override: riser is known to be loose (catalogue of 2026-11-27 said now: RESTART_BM"
    )
    driver = assess_xid(79, recovery_action="GPU Reset Required", overrides=[OURS])
    assert driver.drain is Drain.REVIEW
    assert "(driver's recovery action said now: GPU Reset Required)" in driver.why


def test_an_override_of_the_product_comes_before_one_of_all() -> None:
    everywhere = Override(code=109, drain=Drain.NO, reason="noise here")
    on_b200 = Override(code=109, product=Product.B200, drain=Drain.WHEN_IDLE, reason="real there")
    both = [everywhere, on_b200]
    assert assess_xid(109, product=Product.B200, overrides=both).drain is Drain.WHEN_IDLE
    assert assess_xid(109, product=Product.H200, overrides=both).drain is Drain.NO
    assert assess_xid(109, overrides=both).drain is Drain.NO
    assert assess_xid(109, product=Product.H200, overrides=[on_b200]).drain is Drain.NOW


def test_xid_and_sxid_overrides_do_not_meet() -> None:
    switch = Override.model_validate({"sxid": 12028, "class": "sxid_fatal", "drain": "now", "reason": "seen to hang"})
    assert assess_sxid(12028, "Non-fatal", overrides=[switch]).fault_class is FaultClass.SXID_FATAL
    assert assess_xid(12028, overrides=[switch]).drain is Drain.REVIEW


@pytest.mark.parametrize(
    "row",
    [
        {"code": 79, "reason": "nothing said"},
        {"code": 79, "sxid": 12028, "drain": "no", "reason": "both"},
        {"drain": "no", "reason": "no code"},
        {"code": 79, "drain": "no"},
        {"code": 79, "drain": "no", "reason": ""},
        {"code": 79, "drain": "perhaps", "reason": "a word"},
        {"code": 79, "drain": "no", "reason": "a word", "until": "2027"},
    ],
)
def test_an_override_that_says_nothing_or_two_things_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(list[Override]).validate_python([row])


@pytest.mark.parametrize(
    ("code", "severity", "drain", "authority"),
    [
        (20034, "Fatal", Drain.NOW, "driver's severity"),
        (20034, "Non-fatal", Drain.NO, "driver's severity"),
        (20034, None, Drain.NOW, "catalogue of"),
        (10003, None, Drain.NOW, "catalogue of"),
        (10004, None, Drain.NO, "catalogue of"),
        (11012, "Correctable", Drain.NO, "driver's severity"),
        (11004, "Non-fatal", Drain.REVIEW, "catalogue of"),
        (11004, "Fatal", Drain.NOW, "driver's severity"),
        (99999, "Fatal", Drain.NOW, "driver's severity"),
        (99999, None, Drain.REVIEW, "catalogue of"),
    ],
)
def test_an_sxid_is_as_severe_as_its_line_says_or_else_the_catalogue(
    code: int, severity: str | None, drain: Drain, authority: str
) -> None:
    found = assess_sxid(code, severity)
    assert found.drain is drain
    assert found.why.startswith(authority)


def test_a_code_that_the_product_does_not_have_goes_to_review() -> None:
    found = assess_xid(136, product=Product.B200)
    assert (found.drain, found.fault_class) == (Drain.REVIEW, FaultClass.UNKNOWN)
    assert "does not apply to b200 (its column B100 says no)" in found.why
    assert assess_xid(136, product=Product.H200).drain is Drain.NOW
    assert assess_xid(136).drain is Drain.NOW


def test_an_nvlink_5_verdict_names_part_and_reason() -> None:
    words = Nvlink5Words("NETIR_LINK_EVT", 0x025525C6, 0)
    found = assess_xid(149, nvlink5=words)
    assert found.peer
    assert found.why.endswith("RESET_GPU (NVLink 5 NETIR_LINK_EVT, link-down reason 100101)")
    assert not assess_xid(149, nvlink5=words, driver=580).peer
    assert assess_xid(149).drain is Drain.REVIEW
