"""First part: machines, people, a programme with a call, 40 applications, reviews, award, acceptance."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, time, timedelta
from typing import Any, Final

from slurm_gpuaas.domain.policy import KST
from slurm_gpuaas.testbed.instance import Instance
from slurm_gpuaas.testbed.national import cast
from slurm_gpuaas.testbed.national.story import (
    AUDITOR,
    DIRECTOR,
    OFFICER,
    PASSWORD,
    Held,
    National,
    gpus_of,
    grants_by_cluster,
    spread,
)
from slurm_gpuaas.testbed.national.wizard import fill_in
from slurm_gpuaas.testbed.portal import FOLDER, PORTAL, USER

OPERATOR: Final = "operator-{}"
BILLING: Final = "billing-{}"
NO_ROOM: Final = "지금은 남은 GPU가 없습니다. 반납되는 GPU가 생기면 점수 순서로 제안합니다."
"""What the applicant reads; the solver's own reasons name other applications."""


def clusters_are_up(story: National) -> None:
    with story.step("Three Slurm clusters, each its own", "sinfo -h -N -o '%T %G'") as done:
        told = []
        for name, site in story.stage.sites.items():
            rows = [row.split() for row in story.ask(site, "sinfo", "-hN", "-p", "all", "-o", "%T %G").splitlines()]
            idle = sum(state == "idle" for state, _ in rows)
            story.claim(idle == site.cluster.nodes, f"{idle} of {site.cluster.nodes} nodes of {name} are idle")
            told.append(f"{name} {len(rows)} nodes, {len(rows) * site.cluster.gpus:,} {site.cluster.model.upper()}")
        done("; ".join(told))


def portal_has_no_slurm(story: National) -> None:
    with story.step("The portal has no credential of Slurm's", "ps, ls on its machine") as done:
        portal = story.stage.portal
        number = portal.path(PORTAL.pid_path).read_text().strip()
        user = portal.exec(["ps", "-o", "user:20=", "-p", number]).stdout.strip()
        story.claim(user == USER, f"it runs as {user}")
        found = portal.exec(
            ["ls", "/etc/munge/munge.key", "/etc/slurm/slurm.conf", "/run/munge/munge.socket.2"], check=False
        ).stdout
        story.claim(not found, f"its machine has {found.split()}")
        done(f"gpuaas-portal runs as {USER}; no key, no configuration, no socket of Slurm or MUNGE; store in {FOLDER}")


def sites_are_joined(story: National) -> None:
    with story.step("Each cluster is a site", "scontrol show partition; gpuaas status") as done:
        told: Counter[str] = Counter()
        for name, site in story.stage.sites.items():
            told[name] = _join(story, site)
        done(f"partitions of the government's share: {spread(told)} GPUs; each gpuaasd asks {story.stage.portal.url}")


def _join(story: National, site: Instance) -> int:
    """The site's operator declares its pool.

    Returns:
        GPUs of the government's partition, as Slurm has it.
    """
    story.stage.apply_own_policy(site)
    wanted = cast.government_servers(site.cluster)
    story.until(
        lambda: government_nodes(story, site), lambda nodes: nodes == wanted, f"a partition of {wanted} nodes", 60
    )
    story.until(
        lambda: json.loads(story.ask(site, "gpuaas", "status", "--json"))["portal"]["heard_at"],
        bool,
        f"{site.cluster.name}'s gpuaasd to hear the portal",
        60,
    )
    return wanted * site.cluster.gpus


def government_nodes(story: National, site: Instance) -> int:
    """Nodes of the government's partition; 0 while there is none."""
    told = story.ask(site, "sinfo", "-h", "-p", f"{site.cluster.name}-government", "-o", "%D").strip()
    return int(told or 0)


def people_are_invited(story: National) -> None:
    with story.step("People: two of the first hour, all others invited", "-") as done:
        portal = story.stage.portal
        for login, name in ((DIRECTOR, "김국장"), (OFFICER, "이담당")):
            portal.create_admin(login, name=name, password=PASSWORD)
            story.visitor(login).sign_in()
        _invite_all(story, DIRECTOR, _of_government())
        for house in cast.HOUSES:
            people = [(cast.login_of(house, number), name) for number, name in enumerate(house.researchers, 1)]
            _invite_all(
                story, cast.login_of(house, 0), [(login, name, {"role": "researcher"}) for login, name in people]
            )
        for visitor in story.visitors.values():
            visitor.make_token()
        story.picture("people", DIRECTOR, "/people")
        done(
            f"{len(story.visitors)} people of {len(cast.HOUSES)} organisations; all but researchers "
            "were approved by a second person"
        )


Invited = tuple[str, str, dict[str, str]]


def _of_government() -> list[Invited]:
    people: list[Invited] = [
        (f"reviewer{number}", name, {"role": "government"}) for number, name in enumerate(cast.REVIEWERS, 1)
    ]
    people.append((AUDITOR, "문감사", {"role": "auditor"}))
    for provider in cast.PROVIDERS:
        people.append(
            (OPERATOR.format(provider), f"{provider} 운영", {"role": "provider-operator", "provider": provider})
        )
        people.append(
            (BILLING.format(provider), f"{provider} 정산", {"role": "provider-billing", "provider": provider})
        )
    for house in cast.HOUSES:
        office = {"role": "tenant-admin", "organisation": house.name}
        people.append((cast.login_of(house, 0), house.admin, office))
    return people


def _invite_all(story: National, by: str, people: list[Invited]) -> None:
    """One asks, a second person approves where the role needs it, and each takes the invitation up."""
    host = story.visitor(by)
    invitations = {
        login: host.invite(name=name, email=f"{login}@example.org", reason="데모", **office)
        for login, name, office in people
    }
    if by == DIRECTOR:
        story.visitor(OFFICER).approve_people()
    for login, name, _ in people:
        story.visitor(login).take_up(invitations[login], name)


def programme_is_open(story: National) -> None:
    with story.step("A programme opens its call", "scontrol show partition") as done:
        officer, director = story.visitor(OFFICER), story.visitor(DIRECTOR)
        for name, site in story.stage.sites.items():
            capacity = cast.government_servers(site.cluster) * site.cluster.gpus
            share = {
                "provider": name,
                "cluster": name,
                "pool": name,
                "share": "government",
                "model": site.cluster.model,
                "capacity": capacity,
            }
            officer.tell("PUT", f"/shares/{cast.share_name(site.cluster)}", share)
        for house in cast.HOUSES:
            organisation = {"kind": house.kind, "region": house.region, "title": house.title}
            officer.tell("PUT", f"/organisations/{house.name}", {"name": house.name, **organisation})
        for model, won in cast.RATES.items():
            rate = {"name": f"{model}-demo", "model": model, "won_per_gpu_hour": won, "basis": cast.BASIS}
            starts = story.stage.today.replace(day=1).isoformat()
            asked = officer.tell("POST", "/rates", {**rate, "starts": starts})
            director.tell("POST", f"/rates/proposals/{asked['id']}/approve")
        now = story.stage.now
        clusters = [site.cluster for site in story.stage.sites.values()]
        rules = cast.programme(clusters, story.stage.scale, now - timedelta(hours=1), now + timedelta(hours=20))
        officer.tell("PUT", f"/programmes/{cast.PROGRAMME}", rules)
        total = sum(cast.government_servers(one) * one.gpus for one in clusters)
        done(f"{total:,} GPUs of the government in three shares; rates approved by a second person; open for 20 hours")


def all_apply(story: National) -> None:
    with story.step("40 researchers apply", "-") as done:
        first_day = story.stage.today + timedelta(days=1)
        wishes = cast.wishes(story.stage.scale)
        found: dict[str, cast.Wish] = {}
        for wish in wishes:
            visitor = story.visitor(wish.login)
            visitor.tell("PUT", "/identity", {"login": wish.login, "ssh_keys": [cast.ssh_key(wish.login)]})
            asked = cast.application(wish, first_day)
            if story.pictures and not found:
                fill_in(story.pictures, wish.login, asked)
                (made,) = visitor.all("/applications")
            else:
                made = visitor.tell("POST", "/applications", asked)
            found[made["id"]] = wish
        story.wishes = found
        gpus = sum(wish.gpus for wish in wishes)
        there = len(story.visitor(OFFICER).all("/applications"))
        story.claim(there == len(wishes), f"the officer sees {there} applications")
        by_hand = ", one of them in Chromium" if story.pictures else ""
        done(f"{len(wishes)} applications of {len(cast.HOUSES)} organisations for {gpus:,} GPUs{by_hand}")


def reviewed(story: National) -> None:
    with story.step("The call closes; two reviewers judge each", "-") as done:
        # Grants begin on the day after the applications, which 21 hours later may not be there yet.
        tomorrow = datetime.combine(story.stage.today + timedelta(days=1), time(1), KST)
        story.stage.skip_to(moment := max(story.stage.now + timedelta(hours=21), tomorrow))
        officer = story.visitor(OFFICER)
        for number, (id, wish) in enumerate(story.wishes.items()):
            officer.tell("POST", f"/applications/{id}/begin-review")
            for which in (number % 3, (number + 1) % 3):
                points = {"points": cast.points_of(wish, which), "comment": "계획이 구체적입니다."}
                story.visitor(f"reviewer{which + 1}").tell("POST", f"/applications/{id}/reviews", points)
            if number == 0:
                story.picture("review", "reviewer3", f"/reviews/{id}")
        story.picture("reviews", "reviewer1", "/reviews?show=all")
        done(f"{2 * len(story.wishes)} reviews; the clock of all machines was set to {moment.astimezone(KST):%F %R}")


def awarded(story: National) -> None:
    with story.step("The award is solved, drafted and approved", "scontrol show partition") as done:
        officer, director = story.visitor(OFFICER), story.visitor(DIRECTOR)
        what_if = f"/programmes/{cast.PROGRAMME}/what-if"
        asked = officer.tell("POST", f"{what_if}?wait=20")
        run = story.until(
            lambda: officer.tell("GET", f"{what_if}/{asked['id']}"),
            lambda seen: seen["state"] != "solving",
            "an answer of the solver",
            300,
        )
        answer = run["answer"]
        story.claim(answer is not None, f"the solver says {run['state']} {run['problem']}")
        _check_room(story, answer)
        lines = [{"application": one["id"], "share": one["pool"], "gpus": one["gpus"]} for one in answer["awards"]]
        waiting = [{"application": one["id"], "why": NO_ROOM} for one in answer["refused"]]
        story.picture("award-run", OFFICER, f"/awards/runs/{run['id']}")
        draft = officer.tell(
            "POST", "/awards", {"programme": cast.PROGRAMME, "awards": lines, "waiting": waiting, "refused": []}
        )
        story.picture("award-draft", OFFICER, f"/awards/{draft['id']}")
        director.tell("POST", f"/awards/{draft['id']}/approve")
        gpus = sum(one["gpus"] for one in lines)
        done(
            f"{gpus:,} GPUs to {len(lines)} applications in {run['seconds']} s, {len(waiting)} on the waiting list; "
            f"drafted by one, approved by another"
        )


def _check_room(story: National, answer: dict[str, Any]) -> None:
    """What is awarded of a share is there, as Slurm has it."""
    awarded: Counter[str] = Counter()
    for one in answer["awards"]:
        awarded[one["pool"].split(".")[0]] += one["gpus"]
    for name, site in story.stage.sites.items():
        nodes = government_nodes(story, site)
        story.claim(
            awarded[name] <= nodes * site.cluster.gpus,
            f"{awarded[name]} GPUs of {name} are awarded, its partition has {nodes} nodes",
        )


def accepted(story: National) -> None:
    with story.step(
        "Offers are accepted; grants are live in three Slurms", "sacctmgr show assoc, qos; scontrol"
    ) as done:
        offers = story.visitor(OFFICER).all("/offers", state="made")
        first = story.monotonic()
        for number, offer in enumerate(offers):
            if number == 0:
                story.picture("offer", cast.login_of(house_of(offer["organisation"]), 0), f"/offers/{offer['id']}")
                first = story.monotonic()
            take(story, offer)
            if number == 0:
                (one,) = story.grants.values()
                live(story, [one])
                in_slurm = story.monotonic() - first
        for grants in grants_by_cluster(list(story.grants.values())).values():
            live(story, grants)
        counts = Counter(grant.cluster for grant in story.grants.values())
        done(
            f"{len(story.grants)} grants in force ({spread(counts)}); the first was in Slurm {in_slurm:.1f} s after "
            "its acceptance"
        )


def house_of(name: str) -> cast.House:
    (house,) = (one for one in cast.HOUSES if one.name == name)
    return house


def take(story: National, offer: dict[str, Any]) -> Held:
    """The organisation's administrator accepts an offer."""
    admin = story.admin_of(offer["organisation"])
    made = admin.tell("POST", f"/offers/{offer['id']}/accept", {})
    detail = admin.ask(f"/grants/{made['id']}")
    held = Held(
        id=made["id"],
        cluster=made["cluster"],
        share=made["share"],
        project=made["project"],
        qos=detail["slurm"]["qos"],
        gpus=made["gpus"],
        organisation=made["organisation"],
        login=story.wishes[offer["application"]].login,
    )
    story.grants[held.id] = held
    return held


def live(story: National, grants: list[Held]) -> None:
    """Slurm of their cluster has limit, partition and member of each."""
    site = story.stage.sites[grants[0].cluster]
    wanted = {grant.qos: grant.gpus for grant in grants}
    story.until(
        lambda: {qos: gpus_of(tres) for qos, tres in story.limits(site).items() if qos in wanted},
        lambda found: found == wanted,
        f"{len(wanted)} QOS of {site.cluster.name}",
        60,
    )
    members = {(grant.login, grant.project) for grant in grants}
    story.until(
        lambda: {
            (user, account)
            for user, account in story.rows(site, "sacctmgr", "-nP", "show", "assoc", "format=User,Account")
        },
        lambda found: members <= found,
        f"{len(members)} members of {site.cluster.name}",
        60,
    )
    story.until(
        lambda: story.ask(site, "scontrol", "show", "partition", f"{site.cluster.name}-government"),
        lambda shown: all(grant.qos in shown for grant in grants),
        f"partition {site.cluster.name}-government to let them in",
        60,
    )


CHAPTER = (
    clusters_are_up,
    portal_has_no_slurm,
    sites_are_joined,
    people_are_invited,
    programme_is_open,
    all_apply,
    reviewed,
    awarded,
    accepted,
)
