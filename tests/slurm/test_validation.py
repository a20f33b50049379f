"""A real slurmctld on the same files that `topology validate` judges: it ends, warns, or says nothing."""

from __future__ import annotations

import re

import pytest

from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.topology.validation import Slurmctld
from tests.slurm.oracle import LOG, Oracle, start, stop
from tests.unit.topology.topology_files import CONF_FILES, FILES, File

pytestmark = pytest.mark.slurm

COMPLAINT = re.compile(r"(?:warning|error): .*(?:topo|switch|block|leaf|node|root)", re.IGNORECASE)


CASES = [
    pytest.param(form, file, id=f"{form}: {file.name}")
    for form, files in (("topology.yaml", FILES), ("topology.conf", CONF_FILES))
    for file in files
]


@pytest.mark.parametrize(("form", "file"), CASES)
def test_slurmctld_does_what_we_say_it_does(mini: Instance, form: str, file: File) -> None:
    mini.path(LOG).unlink(missing_ok=True)
    process = start(mini, "n[1-8]", file.text, form=form)
    try:
        oracle = Oracle(mini, "n[1-8]")

        def settled() -> str | None:
            if process.poll() is not None:
                return "ended"
            return "up" if oracle.run("scontrol", "ping").returncode == 0 else None

        up = mini.wait_for("slurmctld, up or at its end", settled) == "up"
        log = mini.path(LOG).read_text(errors="replace")
    finally:
        stop(process)
    complaints = [line for line in log.splitlines() if COMPLAINT.search(line)]
    if file.slurmctld is Slurmctld.ENDS:
        assert not up, complaints
    else:
        assert up, log
        assert bool(complaints) == (file.slurmctld is Slurmctld.WARNS), complaints
