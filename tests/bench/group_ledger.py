"""Booking one more day of the national pool, beside booking everything anew; no testbed, one core.

A year of 1,000,000 runs of 300 projects on three clusters is in the store and booked. Then a day's 2,739 runs arrive
(`ledger_take_day_s`) and are booked (`ledger_book_day`); the baseline compares all that was ever used with all that was
ever booked, which is what a second pass costs.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from slurm_gpuaas.domain.jobs import JobId
from slurm_gpuaas.domain.ledger import PoolRate, Terms
from slurm_gpuaas.domain.months import Month
from slurm_gpuaas.domain.names import AccountName, ClusterName, GpuModel, PartitionName, QosName, UserName
from slurm_gpuaas.domain.policy import Grant
from slurm_gpuaas.domain.usage import UsageChange, UsageRecord
from slurm_gpuaas.metering.bookkeeping import Bookkeeper
from slurm_gpuaas.store.pool import PoolStore
from tests.bench.model import BenchContext, BenchRow, side_by_side, timed
from tests.fakes import FakeClock

RUNS_A_YEAR, DAYS, PROJECTS = 1_000_000, 365, 300
RUNS_A_DAY = RUNS_A_YEAR // DAYS
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTERS = (("naver", "h200"), ("kakao", "b200"), ("nhn", "b200"))
STATES = ("COMPLETED",) * 17 + ("FAILED", "PREEMPTED", "NODE_FAIL")
ROUNDS = 5
BOOKED_EVERY = 5
"""Days, while the year is made."""


def run(context: BenchContext) -> list[BenchRow]:
    with tempfile.TemporaryDirectory(prefix="bench-ledger-") as folder:
        pool, clock = PoolStore.open(f"sqlite:///{Path(folder) / 'pool.db'}"), FakeClock(BEGIN)
        keeper, days = Bookkeeper(pool.ledger, clock), _days()
        _grants(keeper)
        with context.step(f"{RUNS_A_DAY * DAYS:,} runs of {DAYS} days arrive and are booked") as note:
            for number in range(DAYS):
                clock.at = BEGIN + timedelta(days=number + 1)
                keeper.take(next(days))
                if number % BOOKED_EVERY == 0:
                    keeper.book()
                    note(f"day {number + 1}")
        takes: list[float] = []

        def book_day() -> float:
            day = next(days)
            takes.append(timed(lambda: keeper.take(day)))
            return timed(keeper.book)

        with context.step("One more day, beside everything anew"):
            ours, everything = side_by_side(book_day, lambda: timed(keeper.book_everything), runs=ROUNDS)
        month = Month(2026, 1)
        with context.step("Views"):
            report = [timed(lambda: keeper.report(month, month)) for _ in range(ROUNDS)]
            standing = [
                timed(lambda: keeper.standing(ClusterName("naver"), AccountName("p000"))) for _ in range(ROUNDS)
            ]
        entries = len(pool.ledger.entries())
        pool.close()
    return [
        BenchRow.of_times("ledger_book_day", ours=ours, baseline=everything),
        BenchRow.of_figure("ledger_take_day_s", takes, unit="s"),
        BenchRow.of_figure("ledger_report_month_s", report, unit="s"),
        BenchRow.of_figure("ledger_standing_s", standing, unit="s"),
        BenchRow.of_figure("ledger_entries", [entries], unit="entries"),
    ]


def _grants(keeper: Bookkeeper) -> None:
    for model in ("h200", "b200"):
        keeper.add_rate(
            PoolRate(
                name=f"{model}-2026",
                model=GpuModel(model),
                won_per_gpu_hour=3_601,
                starts=date(2026, 1, 1),
                basis="benchmark",
            )
        )
    for number in range(PROJECTS):
        cluster, model = CLUSTERS[number % len(CLUSTERS)]
        own = Grant.model_validate(
            {
                "name": f"p{number:03}-1",
                "project": f"p{number:03}",
                "pool": f"{cluster}-{model}",
                "share": "gov",
                "gpus": 32,
                "starts": "2026-01-01",
                "ends": "2027-12-31",
                "budget_gpu_hours": 280_320,
                "price_percent": 50,
            }
        )
        keeper.set_terms(
            Terms.model_validate(
                {
                    "grant": own.model_dump(),
                    "organisation": f"o{number % 150:03}",
                    "programme": "call-2026",
                    "provider": cluster,
                    "cluster": cluster,
                    "model": model,
                }
            )
        )


def _days() -> Iterator[list[UsageChange]]:
    """Runs by the day of their start; they last up to three days."""
    chance = random.Random(1)
    number = 0
    for day in range(DAYS + 100):
        runs = []
        for _ in range(RUNS_A_DAY):
            number += 1
            project = int(PROJECTS * chance.random() ** 2)
            cluster, model = CLUSTERS[project % len(CLUSTERS)]
            started = BEGIN + timedelta(days=day, seconds=chance.randrange(86_400))
            seconds, gpus = chance.randrange(3 * 86_400), chance.choice([1, 2, 8, 16, 32])
            runs.append(
                UsageChange(
                    number=number,
                    record=UsageRecord(
                        cluster=ClusterName(cluster),
                        job_id=JobId(number),
                        user=UserName("alice"),
                        account=AccountName(f"p{project:03}"),
                        qos=QosName(f"{'burst' if chance.random() < 0.3 else 'guaranteed'}-p{project:03}"),
                        partition=PartitionName(f"{cluster}-{model}-gov"),
                        model=GpuModel(model),
                        gpus=gpus,
                        started=started,
                        ended=started + timedelta(seconds=seconds),
                        gpu_seconds=gpus * seconds,
                        state=chance.choice(STATES),
                    ),
                )
            )
        yield runs
