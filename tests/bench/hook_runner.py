"""Submits jobs from one process as a researcher, in turns with and without the mark that makes the bench's hook plain.

Prints the rate of each submission (jobs a second) as JSON: `{"ours": [...], "plain": [...]}`.

Runs inside the testbed on its own Python: pyslurm alone, so that no client start-up is in the figure. Every job says
all that the hook would fill in, so that Slurm does the same work whichever hook it runs. Jobs begin tomorrow.
"""

from __future__ import annotations

import json
import sys
import time

import pyslurm


def main(pairs: int, account: str, partition: str) -> None:
    jobs = {
        name: pyslurm.JobSubmitDescription(
            name="bench",
            comment=name,
            account=account,
            partitions=partition,
            qos=f"guaranteed-{account}",
            gpus="b200:1",
            nodes=1,
            ntasks=1,
            time_limit="01:00:00",
            begin_time="tomorrow",
            standard_output="/dev/null",
            working_directory="/tmp",
            environment={"PATH": "/usr/bin:/bin"},
            script="#!/bin/sh\ntrue\n",
        )
        for name in ("ours", "plain")
    }
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(pairs):
        for name in sorted(jobs, reverse=turn % 2 == 0):
            start = time.perf_counter()
            jobs[name].submit()
            rates[name].append(1 / (time.perf_counter() - start))
    print(json.dumps(rates))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
