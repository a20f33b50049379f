"""Submits jobs one after the other from one process, as a researcher, and prints the seconds it took.

Runs inside the testbed on its own Python: pyslurm alone, so that no client start-up is in the figure. Every job says
all that the hook would fill in, so that Slurm does the same work whichever hook it runs. Jobs begin tomorrow.
"""

from __future__ import annotations

import sys
import time

import pyslurm


def main(jobs: int, account: str, partition: str) -> None:
    job = pyslurm.JobSubmitDescription(
        name="bench",
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
    start = time.perf_counter()
    for _ in range(jobs):
        job.submit()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
