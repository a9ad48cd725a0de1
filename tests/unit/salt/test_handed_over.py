"""What a service hands to another in a small file: where it is, and what the edge serves of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from salt.exceptions import CommandExecutionError

from tests.unit.conftest import functions

TREE = Path(__file__).resolve().parents[3] / "salt"
COUNTER = {"counter": {"role": "app", "port": 8001, "tunnel_port": 8443, "health": "/readyz"}}
REDIS = {"redis": {"role": "store", "clients": "app", "port": 6379, "tls_port": 6380}}
ADDRESSES = {"edge1": "10.0.0.1", "app1": "10.0.0.11", "store1": "10.0.0.21"}


def is_valid(file: str, data: Any) -> bool:
    schema = yaml.safe_load((TREE / "_schemas" / f"{file}.schema.yaml").read_text(encoding="utf-8"))
    # `format: role` is the tree's own.
    return jsonschema.Draft202012Validator(schema).is_valid(data)


@pytest.fixture
def topology(load_source: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
    """`topology(name)`: the module on machine ``name`` of three, or on one that no pillar tells of."""

    def load(name: str | None) -> ModuleType:
        machines = {
            one: {"address": address, "roles": [one[:-1]], "cpus": 1}
            for one, address in ADDRESSES.items()
        }
        data = {"name": "test", "domain": "shop.test", "machines": machines}
        pillar = {"topology": data, "machine": {"name": name, **machines[name]}} if name else {}
        return load_source(
            "salt/_modules/topology.py",
            pillar=pillar,
            grains={"id": "web.example.org", "ipv4": ["127.0.0.1", "192.0.2.7"], "num_cpus": 2},
        )

    return load


@pytest.fixture
def endpoint(
    load_source: Callable[..., ModuleType], topology: Callable[..., ModuleType]
) -> Callable[..., Any]:
    """`endpoint(machine, wanted)`: where redis is, for one that wants ``wanted`` on ``machine``."""

    def find(name: str | None, wanted: str) -> Any:
        offered = {"redis": REDIS, "haproxy": None}
        module = load_source(
            "salt/_modules/endpoints.py",
            salt={
                "formula.offered": lambda filename: offered,
                **functions(topology=topology(name)),
            },
        )
        return module.find(wanted)

    return find


def backends(
    load_source: Callable[..., ModuleType],
    offered: dict[str, Any],
    servers: Any,
    default: str | None = None,
) -> Any:
    module = load_source(
        "salt/_modules/backends.py",
        salt={
            "formula.offered": lambda filename: offered,
            "topology.servers": servers,
            "topology.instances": lambda: 2,
            "topology.default_application": lambda: default,
            "schemas.unknown": lambda key, known: f"unknown {key}; known: {', '.join(known)}",
        },
    )
    return module.served()


def test_the_edge_serves_what_a_formula_hands_over(load_source: Callable[..., Any]) -> None:
    assert is_valid("backend", COUNTER)
    asked: list[Any] = []

    def servers(*words: Any) -> list[str]:
        asked.append(words)
        return ["app1-1"]

    served = backends(load_source, {"counter": COUNTER, "redis": None}, servers)
    (counter,) = served["applications"]
    assert served["default"] == counter["name"] == "counter", "the only one"
    assert (counter["proxy"], counter["health"]) == ("app", "/readyz")
    assert counter["servers"] == ["app1-1"]
    assert asked == [("app", 8001, 8443, None)]


def test_the_edge_serves_what_is_no_formula_of_this_tree(load_source: Callable[..., Any]) -> None:
    shop = {"shop": {"servers": {"web1": "192.0.2.7:8080"}, "health": "/"}}
    assert is_valid("backend", shop)
    (server,) = backends(load_source, {"mine": shop}, None)["applications"][0]["servers"]
    assert server == {
        "name": "web1",
        "machine": "web1",
        "address": "192.0.2.7",
        "port": 8080,
        "tls": False,
    }


def test_an_edge_to_which_nothing_is_handed_over_has_no_server(
    load_source: Callable[..., Any],
) -> None:
    assert backends(load_source, {}, None) == {"default": None, "applications": []}
    assert backends(load_source, {}, None, "counter")["applications"] == []


def shop(**more: Any) -> dict[str, Any]:
    return {"shop": {**COUNTER["counter"], "port": 9001, "hosts": ["shop.test"], **more}}


def test_of_several_the_topologys_default_gets_what_none_claims(
    load_source: Callable[..., Any],
) -> None:
    both = {"a": shop(max_body=20000, methods=["GET"], timeout="1m"), "b": COUNTER}
    assert is_valid("backend", {**both["a"], **COUNTER})
    served = backends(load_source, both, lambda *_: [], "counter")
    assert [(one["name"], one["proxy"]) for one in served["applications"]] == [
        ("counter", "app"),
        ("shop", "app-shop"),
    ]
    assert served["applications"][1]["hosts"] == ["shop.test"]
    both["b"] = {"counter": {**COUNTER["counter"], "hosts": ["counter.test"]}}
    nobody = backends(load_source, both, lambda *_: [])
    assert nobody["default"] is None
    assert {one["proxy"] for one in nobody["applications"]} == {"app-counter", "app-shop"}


@pytest.mark.parametrize(
    ("other", "default", "said"),
    [
        ({}, "shpo", "topology: default: unknown shpo; known: counter, shop"),
        ({"port": 8002}, None, "port 8002 is counter's and shop's"),
        # The counter went off the air with the first application of a topology without a default.
        ({}, None, "counter has no hosts .* write `default: counter` into pillar/topologies/"),
        ({"hosts": []}, "counter", "shop has no hosts"),
    ],
)
def test_backends_that_do_not_go_together_are_refused(
    load_source: Callable[..., Any], other: dict[str, Any], default: str | None, said: str
) -> None:
    with pytest.raises(CommandExecutionError, match=said):
        backends(load_source, {"a": shop(**other), "b": COUNTER}, lambda *_: [], default)


def test_one_name_for_two_applications_is_refused(load_source: Callable[..., Any]) -> None:
    taken = {"web": {"servers": {"a": "b:1"}, "health": "/", "hosts": ["shop.test"]}}
    with pytest.raises(CommandExecutionError, match=r"shop.test is claimed by shop and web"):
        backends(load_source, {"a": shop(), "b": taken}, lambda *_: [])


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("backend", {"shop": {"role": "app", "port": 8001, "health": "/"}}),
        ("backend", {"shop": {"servers": {"a": "nowhere"}, "health": "/"}}),
        ("backend", {"shop": {"servers": {"a": "b:1"}, "health": "readyz"}}),
        ("backend", {"shop": {**COUNTER["counter"], "hosts": ["SHOP"]}}),
        ("endpoint", {"redis": {"role": "store", "port": 6379}}),
        ("endpoint", {"redis": {**REDIS["redis"], "prot": 1}}),
        ("administrators", {"ann": True}),
    ],
)
def test_a_small_file_that_is_wrong_is_refused(file: str, wrong: Any) -> None:
    assert not is_valid(file, wrong)


def test_an_endpoint_is_reached_by_tls_from_another_machine(endpoint: Callable[..., Any]) -> None:
    assert is_valid("endpoint", REDIS)
    found = endpoint("app1", "redis")
    assert found == {"machine": "store1", "address": "10.0.0.21", "port": 6380, "tls": True}


def test_an_endpoint_that_nothing_offers_is_named_with_those_there_are(
    endpoint: Callable[..., Any],
) -> None:
    with pytest.raises(CommandExecutionError, match=r"no formula offers .* rdis; there are: redis"):
        endpoint("app1", "rdis")


def test_without_a_topology_a_machine_is_the_only_one_and_has_every_role(
    topology: Callable[..., Any], endpoint: Callable[..., Any]
) -> None:
    alone = topology(None)
    assert alone.machine()["address"] == "192.0.2.7"
    assert alone.domain() == "web.example.org"
    assert [one["name"] for one in alone.machines("edge")] == ["web.example.org"]
    assert endpoint(None, "redis")["address"] == "127.0.0.1"
    assert "192.0.2.7" in alone.trusted()
