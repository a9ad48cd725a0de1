"""Two edges on DigitalOcean: its load balancer before them, planned, made, changed and removed with the topology."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltext.digitalocean.utils.digitalocean import load_balancers, prices
from standin_digitalocean import SIZES, Standin

from control import endpoint, topology
from control.cloud import account, addresses, firewalls, removal, salt_cloud
from control.commands import cloud_plan
from control.errors import ControlError
from control.options import Options
from control.topology import FOLDER, Topology
from tests.unit.control.cloud.cloud_account import Applied, by_salt_cloud, made, make_up


@pytest.fixture
def where(here: Path, monkeypatch: pytest.MonkeyPatch, api: Standin) -> Topology:
    monkeypatch.setattr(salt_cloud, "make_droplets", by_salt_cloud(api))
    return topology.load("ha")


def show_plan(where: Topology, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cloud_plan.run(where, Options.read()) == 0
    return capsys.readouterr().out


def options(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The project's options of the load balancer, with ``changes`` laid over."""
    read = account.read_settings

    def changed(kind: str) -> dict[str, Any]:
        settings = read(kind)
        return {"edge": {**settings["edge"], **changes}} if kind == "balancers" else settings

    monkeypatch.setattr(account, "read_settings", changed)


def sum_of_sizes(small: int, monitor: int = 1, backups: int = 1) -> float:
    """As the published list has them; daily backups are 30 % more."""
    one, two = SIZES["s-1vcpu-1gb"][4], SIZES["s-1vcpu-2gb"][4]
    return small * one + monitor * two + backups * one * 0.3


def test_the_plan_names_the_load_balancer_and_its_price(
    where: Topology, api: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    said = show_plan(where, capsys)
    assert (
        "+ create   load balancer counter-ha: 1 node in fra1, tcp 80 and 443 with the PROXY protocol, asks port 8410 for"
        " /ready, $12.00 a month"
    ) in said
    total = sum_of_sizes(small=7, backups=3) + prices.LOAD_BALANCER_NODE
    assert f"$0.00 a month now, ${total:.2f} afterwards (droplets and load balancer, " in said
    assert "firewall counter-ha-edge: tcp 22; tcp 80 from the load balancer; tcp 443 from" in said
    assert not [one for one in api.requests if one[0] != "GET"], "a plan changes nothing"


def test_edges_are_reached_through_the_load_balancer_alone(
    where: Topology, api: Standin, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    applied = Applied()
    assert make_up(where, applied) == 0
    (balancer,) = api.balancers.values()
    shown = api._shown_balancer(balancer)
    edges = {one["id"] for one in api.droplets.values() if one["name"].startswith("ha-edge")}
    assert set(shown["droplet_ids"]) == edges and len(edges) == 2
    network = next(one for one in api.vpcs.values() if one["name"] == "counter-ha")
    assert balancer["vpc_uuid"] == network["id"] and balancer["enable_proxy_protocol"]
    assert balancer["health_check"]["path"] == "/ready" and balancer["health_check"]["port"] == 8410
    for firewall in api.firewalls.values():
        for rule in firewall["inbound_rules"]:
            if rule["ports"] in ("80", "443", "8410"):
                assert rule["sources"] == {"load_balancer_uids": [balancer["id"]]}
    # What machines are given: no floating address, and whom to believe.
    carried = yaml.safe_load((here / "ha" / "cloud.yaml").read_text())
    assert "floating_address" not in carried
    assert carried["balancer"] == {"address": shown["ip"], "from": [carried["network"]]}
    resolved = addresses.resolve(where)
    assert resolved.floating_address is None and resolved.balancer == shown["ip"]
    assert endpoint.url(resolved) == f"https://{shown['ip']}/"
    assert shown["ip"] in resolved.site_addresses
    assert topology.read(here / "ha" / "cloud.yaml", "ha").balancer == shown["ip"], "as machines do"
    # Again: nothing to do, and nothing asked for but what is there.
    requests = len(api.requests)
    said = show_plan(where, capsys)
    assert (
        f"= keep     load balancer counter-ha at {shown['ip']}" in said and "nothing to do" in said
    )
    total = sum_of_sizes(small=7, backups=3) + 12
    assert f"${total:.2f} a month now, ${total:.2f} afterwards" in said
    assert make_up(where, applied) == 0
    assert not [one for one in api.requests[requests:] if "balancers" in one[1] and one[0] != "GET"]
    addresses.warn_of_changed_topology(where)
    assert "has changed since" not in capsys.readouterr().err


def test_removing_leaves_no_load_balancer(
    where: Topology,
    api: Standin,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make_up(where, Applied()) == 0
    with pytest.raises(ControlError, match="destroy topology ha on DigitalOcean?"):
        removal.down(where, Options.read())
    assert api.balancers
    monkeypatch.setenv("YES", "ha")
    assert removal.down(where, Options.read()) == 0
    said = capsys.readouterr().out
    assert re.search(r"- destroy  load balancer counter-ha at 192\.0\.2\.", said)
    assert "$0.00 afterwards" in said and "destroyed load balancer counter-ha" in said
    assert not api.balancers and not api.names() and not api.firewalls
    assert not [one for one in api.vpcs.values() if one["name"] == "counter-ha"]
    assert removal.down(where, Options.read()) == 0


def test_a_load_balancer_alone_is_seen_and_removed(
    where: Topology, api: Standin, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What an interrupted cloud-up may have left, paid."""
    monkeypatch.setattr(
        salt_cloud, "make_droplets", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        make_up(where, Applied())
    assert api.balancers and not api.names()
    said = show_plan(where, capsys)
    assert "= keep     load balancer counter-ha" in said and "$12.00 a month now" in said
    monkeypatch.setenv("YES", "ha")
    assert removal.down(where, Options.read()) == 0
    assert not api.balancers


@pytest.mark.parametrize("fault", ["stuck", "errored", "limit", "lost"])
def test_no_droplet_is_paid_for_when_the_load_balancer_cannot_be_had(
    where: Topology, api: Standin, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure = load_balancers.ensure
    monkeypatch.setattr(
        load_balancers, "ensure", lambda *args, **more: ensure(*args, **{**more, "seconds": 0.2})
    )
    if fault == "limit":
        api.balancer_limit = 0
    elif fault == "lost":
        api.fault("POST", "/v2/load_balancers", 403, times=9, message="not in your account")
    else:
        getattr(api, fault).add("counter-ha")
    with pytest.raises(ControlError) as error:
        make_up(where, Applied())
    assert "\n" not in str(error.value)
    assert not api.names() and not api.balancers, "nothing that costs money"


def test_one_whose_creation_failed_is_replaced(
    where: Topology, api: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_up(where, Applied()) == 0
    (old,) = api.balancers
    api.errored.add("counter-ha")
    said = show_plan(where, capsys)
    assert "+ replace  load balancer counter-ha: " in said and "; its creation had failed" in said
    shown = api._shown_balancer

    def heal(one: dict[str, Any]) -> dict[str, Any]:
        if one["id"] != old:
            api.errored.discard("counter-ha")
        return shown(one)

    api._shown_balancer = heal  # type: ignore[method-assign]
    assert make_up(where, Applied()) == 0
    (new,) = api.balancers
    assert new != old
    (edges,) = [one for one in api.firewalls.values() if one["name"] == "counter-ha-edge"]
    assert new in json.dumps(edges) and old not in json.dumps(edges)


def test_what_differs_is_changed_and_its_nodes_are_paid(
    where: Topology,
    api: Standin,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make_up(where, Applied()) == 0
    options(monkeypatch, size_unit=3)
    said = show_plan(where, capsys)
    assert "~ change   load balancer counter-ha: size_unit is 1, should be 3" in said
    small = sum_of_sizes(small=7, backups=3)
    assert f"${small + 12:.2f} a month now, ${small + 36:.2f} afterwards" in said
    # One that is still being changed refuses, and is waited for.
    (balancer,) = api.balancers.values()
    balancer["_until"] = time.monotonic() + 0.3
    assert make_up(where, Applied()) == 0
    assert balancer["size_unit"] == 3
    # By hand, elsewhere.
    balancer["enable_proxy_protocol"] = False
    assert "enable_proxy_protocol is False, should be True" in show_plan(where, capsys)
    assert make_up(where, Applied()) == 0 and balancer["enable_proxy_protocol"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size_unti": 2}, "edge: load balancer: size_unti: no such option; did you mean size_unit?"),
        ({"size_unit": 0}, "edge: size_unit: 0: use a whole number from 1 to 100"),
        ({"tag": "edge"}, "edge: tag: follows from the topology: take it out"),
        ({"health_check": {"check_interval": 3}}, "did you mean check_interval_seconds?"),
        ({"health_check": "tcp"}, "health_check: : no such option"),
        ({"health_check": {}}, "50 s until an edge that stops gets nothing new, and haproxy:balancer:leave_seconds"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_before_anything_is_made(
    where: Topology, api: Standin, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    options(monkeypatch, **given)
    runs: list[Callable[[], Any]] = [
        lambda: cloud_plan.run(where, Options.read()),
        lambda: make_up(where, Applied()),
    ]
    for run in runs:
        with pytest.raises(ControlError, match=re.escape(said)) as refused:
            run()
        assert refused.value.code == 2 and str(refused.value).startswith("cloud/cloud.balancers.d")
    assert not [one for one in api.requests if one[0] != "GET"]


def test_the_load_balancer_of_somebody_else_is_left(
    where: Topology, api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [
        {"entry_protocol": "tcp", "entry_port": 80, "target_protocol": "tcp", "target_port": 80}
    ]
    theirs = {"name": "counter-ha", "region": "fra1", "tag": "theirs", "forwarding_rules": rules}
    api._create_balancer(None, {}, theirs)
    with pytest.raises(ControlError, match="load balancer counter-ha is in the account and not of"):
        cloud_plan.run(where, Options.read())
    # Of any page: a list has 200 at most, and as many topologies may be in the account.
    api.balancers.clear()
    for number in range(250):
        api.balancer_limit = 300
        api._create_balancer(None, {}, {**theirs, "name": f"other-{number}"})
    assert make_up(where, Applied()) == 0
    monkeypatch.setenv("YES", "ha")
    assert removal.down(where, Options.read()) == 0
    assert len(api.balancers) == 250 and not api.names()


def test_of_one_edge_the_load_balancer_goes_last(
    where: Topology, api: Standin, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert make_up(where, Applied()) == 0
    machines = {name: one for name, one in where.machines.items() if name != "edge2"}
    fewer = dataclasses.replace(where, machines=machines, floating_address=None)
    assert "- destroy  load balancer counter-ha: not in the topology" in show_plan(fewer, capsys)
    monkeypatch.setenv("YES", "ha-edge2")
    seen: list[int] = []

    class Counted(Applied):
        def __call__(self, *args: Any) -> int:
            seen.append(len(api.balancers))
            return super().__call__(*args)

    assert make_up(fewer, Counted()) == 0
    assert seen == [1] and not api.balancers and "ha-edge2" not in api.names()


def test_the_formulas_let_the_load_balancer_in_and_nobody_else() -> None:
    """Rendered by real Salt."""
    where = topology.load("ha")
    inbound = firewalls.ask(where)
    found = {one["name"]: one for one in firewalls.make_firewalls(where, inbound, "lb-1")}
    rules = found["counter-ha-edge"]["inbound_rules"]
    by_port = {one["ports"]: one["sources"] for one in rules}
    for port in ("80", "443", "8410"):
        assert by_port[port] == {"load_balancer_uids": ["lb-1"]}
    assert "vrrp" not in json.dumps(rules), "no address floats there"
    everybody = [
        one["ports"] for one in rules if "0.0.0.0/0" in one["sources"].get("addresses", ())
    ]
    assert everybody == ["22", "0"]


def test_a_topology_as_it_is_in_a_cloud_is_one(tmp_path: Path) -> None:
    where = topology.load("ha")
    path = tmp_path / "ha.yaml"
    path.write_text(yaml.safe_dump(addresses.read_for_cloud(where, "198.51.100.7")))
    assert topology.read(path).entrance == "198.51.100.7"
    one = topology.load("prod")
    assert "balancer" not in addresses.read_for_cloud(one)
    assert os.path.exists(FOLDER / "ha.yaml")


def test_a_plan_of_machines_that_are_there_asks_where_they_are(
    where: Topology, api: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    """Droplets of another run, whose load balancer is gone."""
    made(api, where)
    assert "load balancer counter-ha: 1 node in fra1" in show_plan(where, capsys)
