"""The table of Slurm's own bugs: which version has which."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gpuaas.slurm.doctor import OLDEST_SLURM
from slurm_gpuaas.slurm.known_bugs import Version, known_bugs

VERSIONS = st.builds(
    Version, st.integers(min_value=24, max_value=27), st.sampled_from([5, 11]), st.integers(min_value=0, max_value=9)
)


def named(version: str) -> set[str]:
    running = Version.of(version)
    assert running
    return {bug.name for bug in known_bugs().of(running)}


@pytest.mark.parametrize(
    ("bug", "has_it", "has_it_not"),
    [
        ("sacctmgr-where", ["24.11.0", "24.11.1"], ["24.05.8", "24.11.2", "25.05.0"]),
        ("preemptor-not-started", ["24.11.0", "24.11.3"], ["24.11.4", "24.11.5", "25.05.0"]),
        ("start-before-slurmdbd", ["24.11.5"], ["24.11.6", "24.11.7", "25.05.0"]),
        ("requeue-segfault", ["24.11.5"], ["24.11.6", "25.05.0"]),
        ("deleted-qos-in-preempt-lists", ["24.11.0", "24.11.7"], ["25.05.0", "26.05.5"]),
        ("account-association-default", ["25.05.0"], ["24.11.7", "25.05.1"]),
        ("expedited-requeue-after-success", ["25.11.0", "25.11.2"], ["25.05.8", "25.11.3", "26.05.0"]),
        ("account-add-race", ["25.05.0", "25.05.8", "25.11.4"], ["24.11.7", "25.11.5", "26.05.0"]),
        ("moved-job-keeps-limits", ["24.11.7", "25.05.8", "25.11.4"], ["25.11.5", "26.05.0"]),
        ("requeue-loses-licence", ["25.05.0", "25.05.8", "25.11.6"], ["24.11.7", "25.11.7", "26.05.0"]),
        ("stale-pointers", ["24.11.7", "25.11.6", "26.05.0", "26.05.1"], ["25.11.7", "25.11.8", "26.05.2"]),
        ("qos-of-partition-deleted", ["25.11.3", "26.05.5", "27.05.0"], ["25.05.8", "25.11.2"]),
        ("completing-job-requeued", ["24.11.5", "26.05.3"], ["26.05.4", "26.05.5"]),
    ],
)
def test_a_bug_is_told_for_exactly_the_versions_that_have_it(
    bug: str, has_it: list[str], has_it_not: list[str]
) -> None:
    assert [version for version in (*has_it, *has_it_not) if bug in named(version)] == has_it


def test_the_version_we_test_with_most_has_the_one_without_a_known_fix() -> None:
    assert named("26.05.5") == {"qos-of-partition-deleted"}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("26.05.5", Version(26, 5, 5)),
        ("24.11.5-4+deb13u1", Version(24, 11, 5)),
        ("25.11.0-0rc1", Version(25, 11, 0)),
        ("26.05", None),
        ("", None),
    ],
)
def test_a_version_is_read_as_slurm_says_it(text: str, version: Version | None) -> None:
    assert Version.of(text) == version


@given(VERSIONS)
def test_the_version_that_has_the_fix_is_newer_and_has_not_the_bug(version: Version) -> None:
    for bug in known_bugs().of(version):
        span = bug.span_of(version)
        assert span
        if span.fixed:
            assert span.fixed > version
            assert bug.span_of(span.fixed) is None


def test_every_row_concerns_a_slurm_that_we_support_and_names_the_fix_it_was_read_from() -> None:
    table = known_bugs()
    assert table.read >= date(2026, 11, 25)
    assert len({bug.name for bug in table.bugs}) == len(table.bugs)
    for bug in table.bugs:
        assert all(span.fixed is None or span.fixed > Version(*OLDEST_SLURM, 0) for span in bug.affected), bug.name
        assert all(span.fixed or bug.way_out for span in bug.affected), f"{bug.name}: what to do without a fix?"
        assert bug.effect
        assert not bug.effect.endswith("."), "the doctor makes the sentence"
        assert not bug.way_out or bug.way_out.endswith("."), bug.name
        source = bug.changelog.partition(":")[0]
        versions = {str(version) for span in bug.affected for version in (span.since, span.fixed) if version}
        assert any(version in source for version in versions) or "commits" in source, bug.name
