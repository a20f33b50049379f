"""An application as a researcher fills it in, page by page, in the browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.pictures import Pictures, Snap

if TYPE_CHECKING:
    from playwright.sync_api import Page

WORKLOAD: Final = {"days": str(cast.GRANT_DAYS), "parameters": "13B", "tokens": "300B"}
"""What is trained; the portal proposes a number of GPUs for it."""
NEXT: Final = "button[name=then][value=next]"


def fill_in(pictures: Pictures, login: str, asked: Mapping[str, Any]) -> None:
    """Args:
    asked: the application, as the API takes it.
    """

    def steps(page: Page, snap: Snap) -> None:
        page.select_option("[name=call]", str(asked["call"]))
        page.fill("[name=title]", asked["title"])
        page.click(NEXT)
        page.fill("[name=purpose]", asked["purpose"])
        page.fill("[name=workload]", asked["workload"])
        page.click(NEXT)
        page.select_option("[name=kind]", "pre-training")
        page.select_option("[name=model]", asked["model"] or "any")
        page.select_option("[name=precision]", "bf16")
        for name, text in WORKLOAD.items():
            page.fill(f"[name={name}]", text)
        page.click("button[name=then][value=size]")
        page.wait_for_selector("#proposal")
        snap("apply-size")
        page.click(NEXT)
        for name in ("starts", "gpus", "min_gpus"):
            page.fill(f"[name={name}]", str(asked[name]))
        page.fill("[name=days]", str(cast.GRANT_DAYS))
        page.fill("[name=why]", "우리 코드로 한 예비 실험에서 잰 처리량으로 계산했습니다.")
        page.click(NEXT)
        snap("apply-check")
        page.click(f"form[action='/apply/{cast.PROGRAMME}'] button.main")
        page.wait_for_url("**/applications/**")
        snap("applied")

    pictures.walk(login, f"/apply/{cast.PROGRAMME}/call", steps)
