"""The short notation of the specification's rows, and how a row is held against `simulate`.

    tenants   name[<parent]:guaranteed[+borrow][-lend][*weight][^priority][~past use]   absent = absent
    running   id tenant gpus [g|b] [age s] [!]      g = guaranteed, b = burst, neither = to be told; ! = not preemptible
    pending   id tenant gpus [!]
    decide    job=g | job=b | job=wait | job=never, and who gives way: job=g-x,y
    shares    tenant.field=number

Rows go through the public document, so the format of scenarios is covered as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from slurm_gpuaas.quota.scenario import Answer, Scenario, simulate

_TENANT = re.compile(
    r"(?P<name>\w+)(?:<(?P<parent>\w+))?:(?P<guaranteed>\d+)(?:\+(?P<borrow_limit>\d+))?(?:-(?P<lend_limit>\d+))?"
    r"(?:\*(?P<weight>[\d.]+))?(?:\^(?P<priority>-?\d+))?(?:~(?P<past_use>[\d.]+))?"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    rule: str
    capacity: int
    tenants: str
    running: str = ""
    pending: str = ""
    decide: str = ""
    shares: str = ""
    min_run_s: int = 0
    half_life_h: float | None = None

    @property
    def scenario(self) -> Scenario:
        options: dict[str, object] = {"min_run_s": self.min_run_s}
        if self.half_life_h is not None:
            options["half_life_h"] = self.half_life_h
        return Scenario.model_validate(
            {
                "capacity": self.capacity,
                "tenants": [_tenant(word) for word in self.tenants.split()],
                "options": options,
                "running": [_job(line.split(), running=True) for line in _lines(self.running)],
                "pending": [_job(line.split(), running=False) for line in _lines(self.pending)],
            }
        )

    def check(self) -> Answer:
        answer = simulate(self.scenario)
        decided = {one.job: one for one in answer.decisions}
        for expected in self.decide.split():
            job, _, outcome = expected.partition("=")
            assert brief(answer, job) == _ordered(outcome), f"{self.rule}: {job}: {decided[job].why}"
        for expected in self.shares.split():
            where, _, number = expected.partition("=")
            tenant, _, field = where.partition(".")
            found = getattr(answer.shares[tenant], field)
            assert found == int(number), f"{self.rule}: {where} is {found}, not {number}"
        return answer


def brief(answer: Answer, job: str) -> str:
    """What was decided about a job, in the notation."""
    one = next(one for one in answer.decisions if one.job == job)
    word = {"wait": "wait", "refuse": "never", "start": str(one.service or "")[:1]}[one.action]
    return f"{word}-{','.join(sorted(one.preempts))}" if one.preempts else word


def _ordered(outcome: str) -> str:
    word, dash, victims = outcome.partition("-")
    return word + dash + ",".join(sorted(victims.split(",")))


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.split(";") if line.strip())


def _tenant(word: str) -> dict[str, object]:
    found = _TENANT.fullmatch(word)
    assert found, word
    numbers = {
        "guaranteed": int,
        "borrow_limit": int,
        "lend_limit": int,
        "weight": float,
        "priority": int,
        "past_use": float,
    }
    given = {name: text for name, text in found.groupdict().items() if text is not None}
    return {name: numbers[name](text) if name in numbers else text for name, text in given.items()}


def _job(words: list[str], *, running: bool) -> dict[str, object]:
    name, tenant, gpus, *rest = words
    job: dict[str, object] = {"id": name, "tenant": tenant, "gpus": int(gpus)}
    for word in rest:
        if word == "!":
            job["preemptible"] = False
        elif word in ("g", "b"):
            job["as"] = {"g": "guaranteed", "b": "burst"}[word]
        else:
            assert running, words
            job["age_s"] = int(word)
    return job
