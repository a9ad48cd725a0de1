"""Where a service listens and where it is reached follow from the topology alone."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

PROD = {
    "edge1": {"address": "10.0.0.1", "roles": ["edge"], "cpus": 1},
    "app1": {"address": "10.0.0.11", "roles": ["app"], "cpus": 2},
    "app2": {"address": "10.0.0.12", "roles": ["app"], "cpus": 1},
    "store1": {"address": "10.0.0.21", "roles": ["store"], "cpus": 1},
}
DEV = {"dev": {"address": "10.0.0.1", "roles": ["edge", "app", "store"], "cpus": 2}}
# Two edges, each with the application beside it.
HA = {
    "one": {"address": "10.0.0.1", "roles": ["edge", "app"], "cpus": 1},
    "two": {"address": "10.0.0.2", "roles": ["edge", "app"], "cpus": 1},
    "store": {"address": "10.0.0.3", "roles": ["store"], "cpus": 1},
}


@pytest.fixture
def on(load_source: Callable[..., ModuleType]) -> Callable[..., Any]:
    """`on(PROD, "edge1")`: the module as that machine sees it."""

    def load(machines: dict[str, Any], name: str, **own: Any) -> Any:
        pillar = {
            "topology": {"name": "test", "domain": "counter.test", "machines": machines},
            "machine": {"name": name, **machines[name], **own},
        }
        return load_source("salt/_modules/topology.py", pillar=pillar, grains={"num_cpus": 4})

    return load


def test_a_service_used_by_its_own_machine_alone_is_on_loopback(on: Callable[..., Any]) -> None:
    dev = on(DEV, "dev")
    assert dev.address("app") == "127.0.0.1"
    assert dev.address("edge") == "127.0.0.1"
    assert dev.address("edge", "dev") == "127.0.0.1"


def test_a_service_used_from_elsewhere_is_on_the_private_network(on: Callable[..., Any]) -> None:
    assert on(PROD, "store1").address("app") == "10.0.0.21"
    assert on(PROD, "app1").address("edge") == "10.0.0.11"
    # As seen by its clients: the same address.
    assert on(PROD, "app2").address("app", "store1") == "10.0.0.21"
    assert on(PROD, "edge1").address("edge", "app1") == "10.0.0.11"


def test_a_second_client_elsewhere_takes_a_service_off_loopback(on: Callable[..., Any]) -> None:
    for name, own in (("one", "10.0.0.1"), ("two", "10.0.0.2")):
        assert on(HA, name).address("edge") == own
    assert on(HA, "one").address("edge", "two") == "10.0.0.2"


def test_a_machine_at_another_address_listens_there(on: Callable[..., Any]) -> None:
    assert on(PROD, "store1", address="192.0.2.7").address("app") == "192.0.2.7"


def test_an_unknown_machine_is_named_with_the_known_ones(on: Callable[..., Any]) -> None:
    with pytest.raises(CommandExecutionError, match="no machine store9.*edge1, app1, app2, store1"):
        on(PROD, "app1").address("app", "store9")


def test_servers_are_every_instance_of_every_machine(on: Callable[..., Any]) -> None:
    remote = {"tls": True, "machine": "app1"}
    assert on(PROD, "edge1").servers("app", 8001, 8443) == [
        {"name": "app1-1", "address": "10.0.0.11", "port": 8443, **remote},
        {"name": "app1-2", "address": "10.0.0.11", "port": 8444, **remote},
        {"name": "app2-1", "address": "10.0.0.12", "port": 8443, "tls": True, "machine": "app2"},
    ]
    own = on(DEV, "dev").servers("app", 9000, 8443, 3)
    assert [one["port"] for one in own] == [9000, 9001, 9002]
    assert {(one["address"], one["tls"]) for one in own} == {("127.0.0.1", False)}


def test_an_edge_reaches_its_own_instances_on_loopback_and_others_by_tls(
    on: Callable[..., Any],
) -> None:
    found = on(HA, "one").servers("app", 8001, 8443)
    assert [(one["name"], one["address"], one["port"], one["tls"]) for one in found] == [
        ("one-1", "127.0.0.1", 8001, False),
        ("two-1", "10.0.0.2", 8443, True),
    ]
    assert on(HA, "one").is_remote("edge")
    assert not on(DEV, "dev").is_remote("edge")


def test_instances_are_what_was_asked_else_one_a_core(on: Callable[..., Any]) -> None:
    app = on(PROD, "app1")
    assert app.instances() == 2
    assert app.instances(count=5) == 5
    assert app.instances({"name": "x"}) == 4, "the machine's own cores where nothing is said"


def test_every_app_machine_of_every_topology_says_its_cores(
    all_rendered: dict[Any, Any],
) -> None:
    """Else edge and app would count different cores, and disagree about the instances."""
    for one in all_rendered.values():
        if "app" in one.machine["roles"]:
            assert one.machine.get("cpus"), f"{one.topology['name']}: {one.name}"


def test_roles_select_machines_and_the_certificate_names_the_edge(on: Callable[..., Any]) -> None:
    edge = on(PROD, "edge1")
    assert [one["name"] for one in edge.machines("app")] == ["app1", "app2"]
    assert len(edge.machines()) == 4
    assert edge.names() == {
        "dns": ["counter.test", "edge1", "localhost"],
        "ip": ["10.0.0.1", "127.0.0.1"],
    }


def test_edges_that_share_an_address_have_the_same_names_and_hosts_find_it(
    on: Callable[..., Any],
) -> None:
    one, two = on(HA, "one"), on(HA, "two")
    for edge in (one, two):
        edge.__pillar__["topology"]["floating_address"] = "10.0.0.9"
    assert one.names() == two.names()
    assert one.names() == {
        "dns": ["counter.test", "localhost", "one", "two"],
        "ip": ["10.0.0.1", "10.0.0.2", "10.0.0.9", "127.0.0.1"],
    }
    assert one.hosts().splitlines() == [
        *("10.0.0.1 one", "10.0.0.2 two", "10.0.0.3 store", "10.0.0.9 counter.test")
    ]


def test_clients_of_edges_behind_a_balancer_use_its_address(on: Callable[..., Any]) -> None:
    edge = on(HA, "one")
    edge.__pillar__["topology"]["balancer"] = {"address": "198.51.100.7", "from": ["10.0.0.0/24"]}
    assert edge.entrance() == "198.51.100.7"
    assert "198.51.100.7" in edge.names()["ip"]
    assert edge.hosts().splitlines()[-1] == "198.51.100.7 counter.test"
    assert on(PROD, "edge1").balancer() is None and on(PROD, "edge1").entrance() is None


def test_machines_of_one_kind_take_turns(on: Callable[..., Any]) -> None:
    assert [on(PROD, name).turn() for name in ("edge1", "app1", "app2", "store1")] == [0, 0, 1, 0]


def test_trusted_are_loopback_all_machines_and_what_the_topology_says(
    on: Callable[..., Any],
) -> None:
    edge = on(PROD, "edge1", address="192.0.2.7")
    edge.__pillar__["topology"]["trusted"] = ["198.51.100.0/24", "10.0.0.11"]
    assert edge.trusted() == [
        *("127.0.0.0/8", "::1", "192.0.2.7"),
        *("10.0.0.1", "10.0.0.11", "10.0.0.12", "10.0.0.21", "198.51.100.0/24"),
    ]
