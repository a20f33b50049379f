"""What the national demo asks for fits what it offers, at both sizes; its clock and its forms."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from slurm_gpuaas.domain.applications import ApplicationRequest, check_request
from slurm_gpuaas.domain.names import OrganisationName, UserName
from slurm_gpuaas.domain.policy import Pool, Rate
from slurm_gpuaas.domain.programmes import PoolOrganisation, Programme, UnixIdentity
from slurm_gpuaas.domain.ssh_keys import SshKey
from slurm_gpuaas.pool.idle_rules import IdleRules, Mode
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.idling import RULES
from slurm_gpuaas.testbed.national.stage import SCALES, SIZES
from slurm_gpuaas.testbed.national.story import Held, gpus_of, sbatch_options
from slurm_gpuaas.testbed.profiles import PROFILES

NOW = datetime(2026, 11, 28, 3, 0, tzinfo=UTC)
FIRST_DAY = date(2026, 11, 29)


@pytest.fixture(params=sorted(SIZES))
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def programme(size: str) -> Programme:
    opens, closes = NOW - timedelta(hours=1), NOW + timedelta(hours=20)
    return Programme.model_validate(cast.programme(PROFILES[SIZES[size]].clusters, SCALES[size], opens, closes))


def organisation(house: cast.House) -> PoolOrganisation:
    return PoolOrganisation(name=OrganisationName(house.name), kind=house.kind, region=house.region, title=house.title)


def test_each_of_forty_researchers_may_apply_for_what_they_ask(size: str) -> None:
    rules, wishes = programme(size), cast.wishes(SCALES[size])
    assert len(wishes) == len({wish.login for wish in wishes}) == 40
    for wish in wishes:
        fields = {**cast.application(wish, FIRST_DAY), "organisation": wish.house.name}
        check_request(ApplicationRequest.model_validate(fields), rules, organisation(wish.house), now=NOW)


def test_more_is_asked_for_than_there_is_so_that_some_wait(size: str) -> None:
    there = sum(cast.government_servers(one) * one.gpus for one in PROFILES[SIZES[size]].clusters)
    assert there < sum(wish.gpus for wish in cast.wishes(SCALES[size])) < 3 * there


def test_the_full_size_divides_servers_as_the_programme_does() -> None:
    servers = {one.name: cast.government_servers(one) for one in PROFILES["national"].clusters}
    assert servers == {"naver": 287, "kakao": 255, "nhn": 765}


def test_a_site_declares_all_its_nodes_once(size: str) -> None:
    for cluster in PROFILES[SIZES[size]].clusters:
        pool, rate = cast.own_policy(cluster)
        shares = Pool.model_validate(pool).shares
        assert sorted(node for share in shares for node in share.node_names) == list(cluster.node_names())
        assert Rate.model_validate(rate).model == cluster.model


def test_every_person_has_a_login_and_a_key_of_their_own() -> None:
    logins = [cast.login_of(house, number) for house in cast.HOUSES for number in range(5)]
    keys = {cast.ssh_key(login) for login in logins}
    assert len(keys) == len(set(logins)) == 50
    for number, login in enumerate(logins):
        UnixIdentity.model_validate(
            {
                "person": f"p-{number:06}",
                "login": UserName(login),
                "uid": 200_000 + number,
                "ssh_keys": [SshKey(cast.ssh_key(login))],
            }
        )


def test_points_of_reviewers_differ_and_stay_in_bounds() -> None:
    for wish in cast.wishes(1):
        given = [cast.points_of(wish, reviewer) for reviewer in range(len(cast.REVIEWERS))]
        assert all(0 <= points <= 100 for one in given for points in one.values())
        assert given[0] != given[1]


def test_the_rules_for_idle_grants_act_and_are_the_shortest_that_there_are() -> None:
    rules = IdleRules.model_validate(dict(RULES))
    assert rules.mode is Mode.ACT
    assert rules.window_days == rules.back_days == 1
    assert set(rules.waits.values()) == {1}


HELD = Held(
    id="g2026-00001",
    cluster="nhn",
    share="nhn.nhn.government",
    project="kaist-1",
    qos="guaranteed-kaist-1",
    gpus=64,
    organisation="kaist",
    login="kaist1",
)


@pytest.mark.parametrize(
    ("gpus", "shape"),
    [
        (1, ["--gpus-per-node=1", "--nodes=1"]),
        (8, ["--gpus-per-node=8", "--nodes=1"]),
        (24, ["--gpus-per-node=8", "--nodes=3"]),
    ],
)
def test_a_job_takes_part_of_a_server_or_whole_ones(gpus: int, shape: list[str]) -> None:
    options = sbatch_options(HELD, gpus, "true")
    assert [option for option in options if "node" in option] == shape


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [("cpu=1,gres/gpu=16,gres/gpu:b200=16", 16), ("gres/gpu:b200=4,gres/gpu=4", 4), ("cpu=8", 0), ("", 0)],
)
def test_gpus_are_read_from_what_slurm_prints(tres: str, gpus: int) -> None:
    assert gpus_of(tres) == gpus
