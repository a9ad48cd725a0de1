"""Topologies on DigitalOcean, against the stand-in of its API: plan, make, make again, remove."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltext.digitalocean.utils.digitalocean.api import OWN_ADDRESS
from standin_digitalocean import SIZES, TOKEN, Standin

from control import bundle, controller_state, local_state, releases, ssh, topology
from control.cloud import (
    account,
    addresses,
    firewalls,
    login,
    machines,
    plan,
    removal,
    salt_cloud,
)
from control.commands import cloud_plan as cloud_plan_command
from control.credentials import shared_secrets
from control.errors import ControlError, UserError
from control.options import Options
from control.topology import FOLDER, Machine, Topology
from tests.unit.control.cloud.cloud_account import (
    Applied,
    by_salt_cloud,
    made,
    make_up,
    profiles,
)

ROOT = Path(__file__).resolve().parents[4]


# --- the plan -------------------------------------------------------------------------------------


def test_a_plan_says_what_would_be_made_and_its_price(
    api: Standin, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cloud_plan_command.run(topology.load("prod"), Options.read()) == 0
    said = capsys.readouterr().out
    for name in ("prod-edge1", "prod-app1", "prod-app2", "prod-store1", "prod-monitor1"):
        assert f"+ create   droplet {name}: " in said
    assert "+ create   private network counter-prod" in said
    assert "firewall counter-prod-store: tcp 22; tcp 6379 from counter:prod:app" in said
    # As the API prices them; 30 % more for the store's backups, which are daily.
    small, larger = SIZES["s-1vcpu-1gb"][4], SIZES["s-1vcpu-2gb"][4]
    assert f"$0.00 a month now, ${4 * small + 0.3 * small + larger:.2f} afterwards" in said
    assert not [one for one in api.requests if one[0] != "GET"], "a plan changes nothing"


def test_a_plan_names_what_differs_and_what_is_too_many(
    api: Standin, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = topology.load("prod")
    made(api, where)
    one = next(one for one in api.droplets.values() if one["name"] == "prod-app2")
    one["size_slug"], one["size"] = "s-2vcpu-4gb", api._size("s-2vcpu-4gb")
    api._create_droplet(None, {}, {
        "name": "prod-app9", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64",
        "tags": ["counter:prod"],
    })  # fmt: skip
    time.sleep(api.lag + api.pace)
    cloud_plan_command.run(where, Options.read())
    said = capsys.readouterr().out
    assert "! differs  droplet prod-app2: size is s-2vcpu-4gb, the profile says s-1vcpu-1gb" in said
    assert "- destroy  droplet prod-app9: not in the topology" in said
    assert "= keep     droplet prod-app1 at 203.0.113." in said


@pytest.mark.parametrize(
    ("given", "factor", "word"),
    [
        ({"backups": True}, 1.3, "daily"),
        ({"backups": "no"}, 1.0, ""),
        ({"backups": None, "backup_policy": {"plan": "weekly", "weekday": "SUN", "hour": 8}}, 1.2, "weekly"),
        ({"backups": None, "backup_policy": {"plan": "daily"}}, 1.3, "daily"),
    ],
)  # fmt: skip
def test_backups_cost_what_their_plan_does_before_and_after(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    given: dict[str, Any], factor: float, word: str,
) -> None:  # fmt: skip
    """One with a backup_policy was planned without backups, and differed for ever after."""
    where = topology.load("dev")
    profiles(monkeypatch, prod=given)
    price = f"{SIZES['s-2vcpu-2gb'][4] * factor:.2f}"
    assert cloud_plan_command.run(where, Options.read()) == 0
    said = capsys.readouterr().out
    assert f"$0.00 a month now, ${price} afterwards" in said
    assert (f" with {word} backups" in said) == bool(word) == (" backups" in said)
    made(api, where)
    assert cloud_plan_command.run(where, Options.read()) == 0
    said = capsys.readouterr().out
    assert f"${price} a month now, ${price} afterwards" in said and "differs" not in said
    # Another plan is a difference, and is paid as it is.
    profiles(monkeypatch, prod={"backup_policy": {"plan": "weekly", "hour": 20}, "backups": None})
    assert cloud_plan_command.run(where, Options.read()) == 0
    said = capsys.readouterr().out
    assert f"${price} a month now, ${price} afterwards" in said
    should = "the profile says 20" if word == "weekly" else "the profile says "
    assert "! differs  droplet dev: backup" in said and should in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": "s-4vcpu-8gb"}, "profile prod: size s-4vcpu-8gb: not available in fra1"),
        ({"size": "gpu-h100x1-80gb"}, "not available in fra1; it can be had in: nyc3"),
        ({"image": "debian-31-x64"}, "image debian-31-x64: did you mean debian-13-x64?"),
        ({"location": "fra2"}, "location fra2: did you mean fra1?"),
        (
            {"monitorings": True},
            "profile prod: monitorings: no such option; did you mean monitoring?",
        ),
        ({"backups": "maybe"}, "profile prod: backups: maybe: use true or false"),
        ({"ssh_key_file": "/nowhere"}, "profile prod: ssh_key_file: /nowhere: no such file"),
        ({"size": ""}, "profile prod: no size"),
        ({"ssh_interface": "pubic"}, "profile prod: ssh_interface: pubic: use public or private"),
    ],
)
def test_a_plan_refuses_what_cannot_be_had(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    api.unavailable.add("s-4vcpu-8gb")
    profiles(monkeypatch, prod=given)
    where = topology.load("dev")
    for run in (
        lambda: cloud_plan_command.run(where, Options.read()),
        lambda: make_up(where, Applied()),
    ):
        with pytest.raises(ControlError, match=re.escape(said)) as refused:
            run()
        assert refused.value.code == 2 and str(refused.value).startswith("cloud/cloud.profiles.d: ")
    assert not [one for one in api.requests if one[0] != "GET"]


def test_a_plan_names_an_image_and_a_region_by_name_too(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = topology.load("dev")
    made(api, where)
    for location in ("Frankfurt 1", "fra"):
        profiles(monkeypatch, prod={"image": "Debian 13 x64", "location": location})
        assert cloud_plan_command.run(where, Options.read()) == 0
        assert "differs" not in capsys.readouterr().out
    # A network is made by the region's slug.
    roles = ("edge", "app", "store", "monitor")
    profiles(monkeypatch, **{role: {"location": "Frankfurt 1"} for role in roles})
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    assert make_up(topology.load("prod"), Applied()) == 0
    network = next(one for one in api.vpcs.values() if one["name"] == "counter-prod")
    assert network["region"] == "fra1"


def test_a_plan_sees_a_droplet_with_gpus(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API lists it only to those who ask for it: it was made twice."""
    where = topology.load("dev")
    profiles(monkeypatch, prod={"size": "gpu-h100x1-80gb", "location": "nyc3"})
    made(api, where)
    assert cloud_plan_command.run(where, Options.read()) == 0
    said = capsys.readouterr().out
    assert "= keep     droplet dev" in said and "+ create   droplet" not in said
    monkeypatch.setenv("YES", "dev")
    assert removal.down(where, Options.read()) == 0
    assert api.names() == []


def test_an_account_that_lacks_optional_fields_is_planned_and_used(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(said: Any) -> Any:
        for one in said.get("droplets", ()):
            del one["vpc_uuid"], one["image"]
        for one in said.get("vpcs", ()):
            one.pop("ip_range")
        for one in said.get("firewalls", ()):
            one["tags"] = one["tags"] or None
        return said

    api.odd.append(("GET", "/v2/.*", without))
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    where = topology.load("dev")
    for _ in range(2):
        assert make_up(where, Applied()) == 0
    assert api.names() == ["dev"]


def public(firewall: dict[str, Any]) -> list[str]:
    """Ports that everybody reaches."""
    return [
        rule["ports"]
        for rule in firewall["inbound_rules"]
        if "0.0.0.0/0" in rule["sources"].get("addresses", ()) and rule["protocol"] != "icmp"
    ]


def test_the_cloud_firewall_is_what_the_formulas_let_in() -> None:
    """Rendered by real Salt, from the same files as firewalld's on the machine."""
    where = topology.load("prod")
    found = {one["name"]: one for one in firewalls.make_firewalls(where, firewalls.ask(where), "")}
    edge, store = found["counter-prod-edge"], found["counter-prod-store"]
    assert {"22", "80", "443"} <= set(public(edge))
    assert public(store) == ["22"], "the store is open to nobody but machines"
    sources = [rule["sources"] for rule in store["inbound_rules"]]
    assert {"tags": ["counter:prod:app"]} in sources


def test_a_topology_without_a_profile_for_its_roles_is_refused(here: Path) -> None:
    where = topology.load("prod")
    odd = Machine("odd", "192.168.56.99", ("edge", "store"))
    with pytest.raises(ControlError, match="no profile edge-store for odd"):
        plan.list_wanted(Topology("x", "x.test", where.network, {"odd": odd}))


# --- make, make again, remove ------------------------------------------------------------------------


def test_the_second_time_there_is_nothing_to_do_and_removing_leaves_nothing(
    api: Standin, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    where, applied = topology.load("prod"), Applied()
    keys, tags = len(api.keys), set(api.tags)
    assert make_up(where, applied) == 0
    network = next(one for one in api.vpcs.values() if one["name"] == "counter-prod")
    for droplet in api.droplets.values():
        assert droplet["vpc_uuid"] == network["id"]
        assert applied.machines[droplet["name"].removeprefix("prod-")] == account.find_address(
            droplet, "private"
        )
    # What every machine is given is a topology like the checkout's, checked like it.
    given = topology.read(here / "prod" / "cloud.yaml", "prod")
    assert str(given.network) == network["ip_range"] and len(given.machines) == 5
    assert addresses.read_public_address(where) == account.find_address(
        next(one for one in api.droplets.values() if one["name"] == "prod-edge1")
    )
    before = len([one for one in api.requests if one[0] != "GET"])
    capsys.readouterr()
    assert make_up(where, applied) == 0
    assert "nothing to do" in capsys.readouterr().out
    later = [one for one in api.requests if one[0] != "GET"][before:]
    assert {one[1] for one in later} <= {"/v2/tags"}, "tags that are there are no change"

    with pytest.raises(ControlError, match="pass YES=prod to confirm"):
        removal.down(where, Options.read())
    for other in ("1", "live"):
        monkeypatch.setenv("YES", other)
        with pytest.raises(ControlError, match=f"YES={other}: .*pass YES=prod to confirm"):
            removal.down(where, Options.read())
    assert len(api.names()) == 5, "nobody gave its name"
    monkeypatch.setenv("YES", "prod")
    assert removal.down(where, Options.read()) == 0
    assert "$37.80 a month now, $0.00 afterwards" in capsys.readouterr().out
    assert api.names() == [] and not api.firewalls and api.tags == tags and len(api.keys) == keys
    assert [one["name"] for one in api.vpcs.values() if not one["default"]] == []
    assert not (here / "prod").exists()
    removal.down(where, Options.read())
    assert "nothing of topology prod is on DigitalOcean" in capsys.readouterr().out


def test_removing_leaves_the_default_network_of_a_region_and_ends(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first network of a region becomes its default, which the API never deletes: the removal
    tried for a minute, failed, and could never end."""
    with Standin(pace=0.05, lag=0.02, default_vpcs=False) as api:
        for name, value in api.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
        monkeypatch.setenv("YES", "prod")
        where = topology.load("prod")
        assert make_up(where, Applied()) == 0
        (network,) = api.vpcs.values()
        assert network["default"] and network["name"] == "counter-prod"
        for said in ("is left on DigitalOcean", "is on DigitalOcean"):
            capsys.readouterr()
            assert removal.down(where, Options.read()) == 0
            assert (
                f"nothing of topology prod {said} but private network counter-prod: it is the default"
                in capsys.readouterr().out
            )
        assert api.names() == [] and not api.firewalls and not api.tags and not api.keys
        assert api.count("DELETE", "/v2/vpcs/.*") == 0
        assert not (here / "prod").exists()
        # It serves again.
        assert make_up(where, Applied()) == 0
        assert {one["vpc_uuid"] for one in api.droplets.values()} == {network["id"]}


def test_removing_leaves_a_network_that_others_are_in_and_ends(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    monkeypatch.setenv("YES", "prod")
    where = topology.load("prod")
    assert make_up(where, Applied()) == 0
    network = next(one for one in api.vpcs.values() if one["name"] == "counter-prod")
    other = {"name": "x", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    made = api._create_droplet(None, {}, {**other, "vpc_uuid": network["id"]})[1]["droplet"]
    monkeypatch.setattr(removal, "MEMBERS", 0.1)
    assert removal.down(where, Options.read()) == 0
    assert f"others are in it (do:droplet:{made['id']})" in capsys.readouterr().out
    assert api.names() == ["x"] and not api.firewalls and not (here / "prod").exists()
    api._delete_droplet([made["id"]], None, None)
    # A network forgets a machine a while after it has gone: that is waited for.
    monkeypatch.setattr(removal, "MEMBERS", 60)
    assert removal.down(where, Options.read()) == 0
    assert network["id"] not in api.vpcs


def test_a_token_of_another_account_makes_nobody_forget_the_topology(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = topology.load("prod")
    (here / "prod" / "secrets").mkdir(parents=True)
    (here / "prod" / "secrets" / "backup-identity").write_text("AGE-SECRET-KEY-1")
    (here / "prod" / "provider").write_text("digitalocean\n")
    monkeypatch.setenv("YES", "prod")
    with pytest.raises(ControlError, match="is the token another account's"):
        removal.down(where, Options.read())
    assert (here / "prod" / "secrets" / "backup-identity").exists()
    monkeypatch.setenv("FORCE", "1")
    assert removal.down(where, Options.read()) == 0
    assert not (here / "prod").exists()
    (kept,) = here.glob("prod.removed-*/secrets/backup-identity")
    assert kept.read_text() == "AGE-SECRET-KEY-1", "what opens the backups outlives the machines"
    assert str(kept.parent) in capsys.readouterr().out


def test_what_lists_did_not_know_yet_is_removed_too(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("prod")
    made(api, where)
    late = {
        "name": "prod-app2", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64",
        "tags": ["counter", "counter:prod"],
    }  # fmt: skip
    api._create_droplet(None, {}, late)
    (made_late,) = [one for one in api.droplets.values() if one["status"] == "new"]
    made_late["_made"] += 0.75
    monkeypatch.setattr(account, "LOOK", 0.25)
    monkeypatch.setenv("YES", "prod")
    assert removal.down(where, Options.read()) == 0
    assert api.names() == []


def test_what_cannot_be_removed_is_a_failure(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("prod")
    made(api, where)
    monkeypatch.setenv("YES", "prod")
    monkeypatch.setattr(account, "PATIENCE", 0)
    # Accepted, and not done.
    monkeypatch.setattr(type(account.connect()), "remove_droplet", lambda *_: None)
    with pytest.raises(ControlError, match="prod-app1.*: still there, and paid"):
        removal.down(where, Options.read())


def test_a_machine_with_another_role_gets_its_tags_and_firewall(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    where = topology.load("prod")
    assert make_up(where, Applied()) == 0
    tagged = next(one for one in api.droplets.values() if one["name"] == "prod-app2")
    tagged["tags"].append("team:ops")
    machines = {**where.machines, "app2": replace(where.machines["app2"], roles=("monitor",))}
    other = replace(where, machines=machines)
    seen: list[list[str]] = []

    def applied(where: Topology, _: Options, gone: Sequence[str]) -> int:
        seen.append(list(tagged["tags"]))
        return 0

    assert make_up(other, applied) == 0
    line = "~ change   tags of droplet prod-app2: +counter:prod:monitor -counter:prod:app"
    assert line in capsys.readouterr().out
    assert {"counter:prod:app", "counter:prod:monitor"} <= set(seen[0]), "until it has changed"
    assert set(tagged["tags"]) == {"counter", "counter:prod", "counter:prod:monitor", "team:ops"}
    assert make_up(other, applied) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_to_add_and_to_take_away_at_once_is_refused(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("prod")
    made(api, where)
    machines = {name: one for name, one in where.machines.items() if name != "app2"}
    machines["app3"] = replace(where.machines["app2"], name="app3")
    monkeypatch.setenv("YES", "prod")
    monkeypatch.setattr(firewalls, "make_firewalls", lambda *_: [])
    with pytest.raises(ControlError, match="lost app2 and gained app3: first add"):
        make_up(replace(where, machines=machines), Applied())
    assert len(api.names()) == 5


def test_a_set_of_stores_never_becomes_one_in_place(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("prod")
    more = {
        name: replace(where.machines["store1"], name=name, address=f"192.168.56.{number}")
        for number, name in ((98, "store2"), (99, "store3"))
    }
    made(api, replace(where, machines={**where.machines, **more}))
    monkeypatch.setenv("YES", "prod")
    with pytest.raises(ControlError, match="has 3 stores, and would have one"):
        make_up(where, Applied())
    assert len(api.names()) == 7


def test_machines_are_converged_once_they_let_in_and_have_booted(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = topology.load("prod")
    asked: list[tuple[str, str]] = []

    def command_line(_: Any, host: str, command: str, **__: Any) -> list[str]:
        asked.append((host, command))
        tries = asked.count((host, "true"))
        if command == "true" and (host == "app2" or tries < 3):
            return ["sh", "-c", "echo Connection refused >&2; exit 255"]
        return ["true"]

    monkeypatch.setattr(ssh, "command_line", command_line)
    monkeypatch.setattr(login, "REACH", 0.5)
    login.wait_for_login(where)
    said = capsys.readouterr()
    assert "app1: waiting for ssh (Connection refused)" in said.out
    assert "app1: ready after" in said.out
    assert said.err == "app2: ssh still does not let us in after 0.5 s: Connection refused\n"
    booted = [host for host, command in asked if "cloud-init status --wait" in command]
    assert sorted(booted) == ["app1", "edge1", "monitor1", "store1"]
    monkeypatch.setattr(ssh, "command_line", lambda *_, **__: ["false"])
    with pytest.raises(ControlError, match="no machine of topology prod could be used"):
        login.wait_for_login(where)


def test_trusted_clients_of_the_operators_own_stay_trusted(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = topology.load("prod")
    made(api, where)
    droplets = {one["name"]: one for one in api.droplets.values()}
    text = (FOLDER / "prod.yaml").read_text()
    (here / "files").mkdir()
    written = here / "files" / "prod.yaml"
    monkeypatch.setattr(addresses, "FOLDER", written.parent)
    written.write_text(text.replace("[192.168.56.1]", "[192.168.56.1, 198.51.100.7]"))
    addresses.write_access(where, droplets)
    given = yaml.safe_load((here / "prod" / "cloud.yaml").read_text())
    assert given["trusted"] == ["198.51.100.7"], "the lab's host is nobody in a cloud"
    addresses.warn_of_changed_topology(where)
    assert capsys.readouterr().err == ""
    written.write_text(text.replace("memory: 1024", "memory: 2048"))
    addresses.warn_of_changed_topology(where)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "has changed since 'make cloud-up'" in said


def test_after_a_crash_of_salt_cloud_the_account_is_asked_what_was_made(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("prod")
    todo = plan.make_plan(account.connect(), where)
    first = todo.create[0]

    def crash(line: list[str]) -> int:
        body = {
            "name": first.name,
            "region": first.region,
            "size": first.size,
            "image": first.image,
        }
        api._create_droplet(None, {}, {**body, "tags": list(first.tags)})
        return 137

    monkeypatch.setattr(salt_cloud, "wait_for_salt_cloud", crash)
    with pytest.raises(
        ControlError, match=f"137 and no answer.*made, and paid: {first.name}: run it"
    ):
        salt_cloud.make_droplets(where, todo)


def test_ctrl_c_waits_for_what_salt_cloud_cleans_up(tmp_path: Path) -> None:
    began = "trap 'sleep 1; echo cleaned >&2; exit 1' INT; echo began; while :; do sleep 0.1; done"
    code = (
        f"from control.cloud import salt_cloud as s; s.wait_for_salt_cloud(['sh', '-c', {began!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=300)
    assert "cleaned\n" in said and "KeyboardInterrupt" in said


def test_ctrl_c_while_salt_cloud_starts_leaves_none_behind() -> None:
    """It was at work for ever, unseen, when Ctrl-C came between its start and the controller's first look at it."""
    began = "trap 'echo cleaned >&2; exit 1' INT; echo began; for _ in $(seq 300); do sleep 0.1; done; echo left >&2"
    code = f"""
import os, signal, subprocess
from control.cloud import salt_cloud

class Interrupted(subprocess.Popen):
    def __init__(self, line, **options):
        super().__init__(line, stdout=subprocess.PIPE, **options)
        self.stdout.readline()
        os.kill(os.getpid(), signal.SIGINT)

subprocess.Popen = Interrupted
salt_cloud.wait_for_salt_cloud(["sh", "-c", {began!r}])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert "left" not in done.stderr
    assert "cleaned\n" in done.stderr and "KeyboardInterrupt" in done.stderr


def test_ctrl_c_does_not_wait_for_ever_for_workers_that_wait_for_each_other() -> None:
    """Seen with eight workers on a busy computer: what was half-made was gone, and salt-cloud never ended."""
    began = "trap '' INT; (trap '' INT; sleep 600) & echo began; wait; wait"
    code = (
        "from control.cloud import account, salt_cloud as s; account.PATIENCE = 1;"
        f" s.wait_for_salt_cloud(['sh', '-c', {began!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        os.killpg(process.pid, signal.SIGINT)
        # Also the worker: it holds the pipe.
        _, said = process.communicate(timeout=300)
    assert "salt-cloud does not end: ending it" in said and "KeyboardInterrupt" in said


def test_what_the_lab_and_other_topologies_have_is_left_alone(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"name": "prod-app1x", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    for tags in ([], ["counter", "counter:production"]):
        api._create_droplet(None, {}, {**body, "tags": tags})
    rules = {"inbound_rules": [{"protocol": "icmp", "sources": {"addresses": ["0.0.0.0/0"]}}]}
    for name in ("counter-production-edge", "counter-prod-edgy", "shield"):
        api._create_firewall(None, None, {"name": name, **rules})
    # The word for word name of one of ours.
    api.tags.add("counter:prod-edge:store")
    shield = {"name": "counter-prod-edge-store", "tags": ["counter:prod-edge:store"], **rules}
    api._create_firewall(None, None, shield)
    time.sleep(api.pace + api.lag)
    monkeypatch.setenv("YES", "prod")
    removal.down(topology.load("prod"), Options.read())
    assert len(api.names()) == 2 and len(api.firewalls) == 4
    assert {"counter", "counter:production"} <= api.tags


def test_a_machine_that_left_the_topology_is_destroyed_once_its_name_is_given(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, applied = topology.load("prod"), Applied()
    made(api, where)
    (here / "prod").mkdir()
    (here / "prod" / "provider").write_text("digitalocean\n")
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    machines = {name: one for name, one in where.machines.items() if name != "app2"}
    fewer = Topology("prod", where.domain, where.network, machines)
    with pytest.raises(
        ControlError, match="destroy prod-app2, and all that is on them: not a term"
    ):
        make_up(fewer, applied)
    for other in ("1", "prod", "prod-app1"):
        monkeypatch.setenv("YES", other)
        with pytest.raises(ControlError, match=f"YES={other}: .*pass YES=prod-app2 to confirm"):
            make_up(fewer, applied)
    assert "prod-app2" in api.names()
    monkeypatch.setenv("YES", "prod-app2")
    assert make_up(fewer, applied) == 0
    assert "prod-app2" not in api.names() and len(api.names()) == 4
    assert applied.gone == ["app2"], "its peers are told before it goes"


def test_the_cloud_and_the_lab_do_not_forget_each_others_machines(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("dev")
    (here / "dev").mkdir()
    (here / "dev" / "provider").write_text("lxc\n")
    with pytest.raises(ControlError, match="is up in the lab"):
        make_up(where, Applied())
    (here / "dev" / "provider").write_text("digitalocean\n")
    with pytest.raises(ControlError, match="and paid"):
        addresses.refuse_cloud(where)


def test_nothing_leads_from_making_a_topology_to_destroying_it(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is sent to `make up` by a runbook at night does what it answers."""
    where = topology.load("dev")
    (here / "dev").mkdir()
    (here / "dev" / "provider").write_text("digitalocean\n")
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    monkeypatch.setattr(login, "REACH", 0.1)
    refusals = []
    with pytest.raises(
        ControlError, match="'make cloud-up TOPOLOGY=dev' makes what is missing"
    ) as no:
        addresses.refuse_cloud(where)
    refusals.append(str(no.value))
    with pytest.raises(ControlError, match="not converged: mend the above, then 'make apply") as no:
        make_up(where, Applied(1))
    refusals.append(str(no.value))
    monkeypatch.setattr(ssh, "command_line", lambda *_, **__: ["false"])
    with pytest.raises(ControlError, match="then 'make cloud-up TOPOLOGY=dev' again") as no:
        make_up(where, Applied())
    refusals.append(str(no.value))
    assert not [one for one in refusals if "cloud-down" in one]
    with pytest.raises(
        ControlError, match="'make cloud-down TOPOLOGY=dev' lists what it would destroy"
    ):
        addresses.refuse_cloud(where, down=True)


def test_a_droplet_that_is_off_is_started(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where, applied = topology.load("prod"), Applied()
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    assert make_up(where, applied) == 0
    off = [one for one in api.droplets.values() if one["name"] in ("prod-app1", "prod-edge1")]
    for one in off:
        one["status"] = "off"
    capsys.readouterr()
    assert cloud_plan_command.run(where, Options.read()) == 0
    assert "~ start    droplet prod-app1: it is off" in capsys.readouterr().out
    assert [one["status"] for one in off] == ["off", "off"], "a plan changes nothing"
    assert make_up(where, applied) == 0
    assert [one["status"] for one in off] == ["active", "active"]
    assert "starting prod-edge1" in capsys.readouterr().out
    assert make_up(where, applied) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(api.names()) == 5


def test_a_droplet_that_does_not_start_is_named(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("dev")
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    assert make_up(where, Applied()) == 0
    (droplet,) = api.droplets.values()
    droplet["status"] = "off"
    monkeypatch.setattr(account, "PATIENCE", 0)
    api.pace = 600
    with pytest.raises(ControlError, match="dev: still off after 0 s: see the control panel"):
        make_up(where, Applied())


def test_another_checkout_is_told_how_to_take_over_and_can(
    api: Standin,
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The controller's disk is lost; what was sealed opens every machine, old and new."""
    where = topology.load("prod")
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    assert make_up(where, Applied()) == 0
    old = account.KEY.read_text()
    (here / "prod" / "known_hosts").write_text("203.0.113.2 ssh-ed25519 AAAA\n")
    for machine in where.machines.values():
        shared_secrets.make_for(where, machine)
    packed = controller_state.export_state(where)
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setattr(local_state, "folder", lambda where: other / where.name)
    monkeypatch.setattr(account, "STATE", other / "cloud")
    monkeypatch.setattr(account, "KEY", other / "cloud" / "id_ed25519")
    del api.requests[:]
    with pytest.raises(
        ControlError, match="made from another checkout.*control import-state --topology prod FILE"
    ):
        make_up(where, Applied())
    assert not [one for one in api.requests if one[0] != "GET"], "nothing was changed"
    with pytest.raises(ControlError, match="control import-state --topology prod FILE"):
        releases.application_hosts(where)
    controller_state.import_state(where, packed.encode())
    api._delete_droplet([next(one for one in api.droplets)], None, None)
    time.sleep(api.pace + api.lag)
    assert make_up(where, Applied()) == 0, "a lost machine is made anew from here"
    config = (other / "prod" / "ssh_config").read_text()
    keys = re.findall(r"IdentityFile (.+)", config)
    assert [Path(key).read_text() for key in keys] == [old, account.KEY.read_text()]
    assert (other / "prod" / "known_hosts").read_text().startswith("203.0.113.2")
    third = controller_state.export_state(where)
    monkeypatch.setattr(local_state, "folder", lambda where: other / "third" / where.name)
    controller_state.import_state(where, third.encode())
    kept = {path.read_text() for path in (other / "third" / "prod" / "keys").iterdir()}
    assert kept == {old, account.KEY.read_text()}


def test_machines_are_reached_at_the_clouds_addresses_and_told_them(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology.load("dev")
    made(api, where)
    (droplet,) = api.droplets.values()
    account.ensure_key()
    addresses.write_access(where, {droplet["name"]: droplet})
    public, private = account.find_address(droplet), account.find_address(droplet, "private")
    assert addresses.read_public_address(where) == public
    assert addresses.resolve(where).machines["dev"].address == private
    config = (here / "dev" / "ssh_config").read_text()
    assert f"Host dev\n  HostName {public}\n  User root\n" in config
    assert "StrictHostKeyChecking accept-new" in config and "UserKnownHostsFile" in config
    # Nothing in it takes OpenSSH's first choice away: a hybrid that holds against a quantum computer.
    asked = subprocess.run(
        ["ssh", "-G", "-F", str(here / "dev" / "ssh_config"), "dev"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.search(r"(?m)^kexalgorithms (mlkem768|sntrup761)x25519-", asked), asked
    # What is carried says so too; what is in the checkout stays as it is.
    monkeypatch.setattr(bundle, "ROOT", ROOT)
    dist = sorted((ROOT / "dist").glob("counter-*.tar.gz"))
    if not dist:
        pytest.skip("no artifact was built yet: make artifact")
    release = dist[0].name.removeprefix("counter-").removesuffix(".tar.gz")
    _, archive = bundle.pack(where, "dev", release)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        carried = tar.extractfile("pillar/topologies/dev.yaml")
        assert carried is not None
        data = yaml.safe_load(carried.read())
    assert data["machines"]["dev"]["address"] == private
    assert data["machines"]["dev"]["public"] == public
    assert "trusted" not in data, "the lab's host is nobody in a cloud"


def test_a_failed_apply_says_that_the_droplets_are_paid(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    with pytest.raises(ControlError, match="are there, and paid, but not converged") as refused:
        make_up(topology.load("dev"), Applied(3))
    assert refused.value.code == 3


# --- as a person types it ------------------------------------------------------------------------------


def command(api: Standin, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`make`'s command line without make; both outputs in `stdout`."""
    return subprocess.run(
        [sys.executable, "-m", "control", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        stdin=subprocess.DEVNULL, env={**os.environ, **api.environment(), "TOPOLOGY": "dev", **settings},
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"DIGITALOCEAN_TOKEN": ""}, "no token: set DIGITALOCEAN_TOKEN"),
        ({"DIGITALOCEAN_TOKEN": "dop_v1_expired"}, ": 401: "),
        ({"DIGITALOCEAN_TOKEN": "dop_v1_expired\nmore"}, "it must be one line of printable ASCII"),
        ({"DIGITALOCEAN_API_URL": "https://127.0.0.1:1", "TOPOLOGY": "nope"}, "no such topology"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    api: Standin, settings: dict[str, str], said: str
) -> None:
    done = command(api, "cloud-plan", **settings)
    assert done.returncode != 0
    assert said in done.stdout and len(done.stdout.strip().splitlines()) == 1, done.stdout
    assert TOKEN not in done.stdout and "expired\n" not in done.stdout


def test_salt_cloud_runs_the_map_and_what_fails_is_told(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real salt-cloud with this project's own configuration: one machine made, one refused."""
    where = topology.load("dev")
    todo = plan.make_plan(account.connect(), where)
    # The checkout's own key: salt-cloud reads the configuration, which names it.
    monkeypatch.setattr(account, "KEY", ROOT / ".lab" / "cloud" / "id_ed25519")
    monkeypatch.setattr(account, "STATE", ROOT / ".lab" / "cloud")
    account.ensure_key()
    machines.ensure_surroundings(account.connect(), where, todo)
    salt_cloud.make_droplets(where, todo)
    assert api.names() == ["dev"]
    (droplet,) = api.droplets.values()
    assert droplet["_user_data"] == "#cloud-config\nhostname: dev\n"
    assert droplet["tags"][:2] == ["counter", "counter:dev"]
    api.fault("POST", "/v2/droplets", 422, times=9, message="the droplet limit is reached")
    api.droplets.clear()
    with pytest.raises(ControlError, match=r"dev: .*422: the droplet limit is reached"):
        salt_cloud.make_droplets(where, todo)
    assert api.names() == []
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err
    assert TOKEN not in json.dumps([path.read_text() for path in here.rglob("*") if path.is_file()])


# --- by the real salt-cloud ------------------------------------------------------------------------------


@pytest.fixture
def own_key(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout's own: salt-cloud reads the project's configuration, which names it."""
    monkeypatch.setattr(account, "KEY", ROOT / ".lab" / "cloud" / "id_ed25519")
    monkeypatch.setattr(account, "STATE", ROOT / ".lab" / "cloud")


def untracked() -> set[str]:
    return set(
        subprocess.run(
            ["git", "ls-files", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()
    )  # fmt: skip


@pytest.mark.usefixtures("own_key")
def test_salt_cloud_makes_all_machines_of_a_topology_side_by_side(
    api: Standin, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also when answers take so long that all five workers ask before one of them is served."""
    before = untracked()
    where, applied = topology.load("prod"), Applied()
    api.latency = 0.2
    assert make_up(where, applied) == 0
    assert api.names() == [f"prod-{one}" for one in ("app1", "app2", "edge1", "monitor1", "store1")]
    assert len(api.keys) == 1
    network = next(one for one in api.vpcs.values() if one["name"] == "counter-prod")
    for droplet in api.droplets.values():
        wanted = next(one for one in plan.list_wanted(where) if one.name == droplet["name"])
        assert tuple(droplet["tags"]) == wanted.tags
        assert droplet["size_slug"] == wanted.size
        assert droplet["vpc_uuid"] == network["id"]
        assert droplet["_keys"] == list(api.keys)
    assert untracked() == before, "nothing is left in the checkout"
    capfd.readouterr()
    assert make_up(where, applied) == 0
    assert "nothing to do" in capfd.readouterr().out


def with_reserved_address(monkeypatch: pytest.MonkeyPatch, profile: str, address: str) -> None:
    read = account.read_settings

    def changed(kind: str) -> dict[str, Any]:
        settings = read(kind)
        if kind == "profiles":
            settings[profile] = {**settings[profile], "reserved_ip": address}
        return settings

    monkeypatch.setattr(account, "read_settings", changed)


def test_a_reserved_address_is_planned_and_goes_with_its_machine(
    api: Standin, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is paid for itself as soon as no droplet has it."""
    with_reserved_address(monkeypatch, "edge", "new")
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    where = topology.load("prod")
    assert make_up(where, Applied()) == 0
    line = "droplet prod-edge1: s-1vcpu-1gb in fra1, debian-13-x64, and reserved address new"
    assert line in capsys.readouterr().out
    edge = next(one for one in api.droplets.values() if one["name"] == "prod-edge1")
    # As the driver does (its own tests show it).
    edge["tags"].append(OWN_ADDRESS)
    api._create_reserved(None, {}, {"droplet_id": edge["id"]})
    kept = api._create_reserved(None, {}, {"region": "fra1"})[1]["reserved_ip"]["ip"]
    monkeypatch.setenv("YES", "prod")
    assert removal.down(where, Options.read()) == 0
    assert not api.droplets and list(api.reserved) == [kept], "one that is the account's own stays"


def test_one_address_for_several_machines_is_refused(
    api: Standin, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_reserved_address(monkeypatch, "app", "198.51.100.7")
    with pytest.raises(UserError, match="profile app: reserved_ip: 198.51.100.7: several machines"):
        cloud_plan_command.run(topology.load("prod"), Options.read())
