"""A topology is read, and what is wrong with it refused with its file and key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from control import topology
from control.errors import ControlError
from control.topology import FOLDER, Topology
from tests.unit.control.topologies import GOOD


def changed(**machine: Any) -> dict[str, Any]:
    machines = {**GOOD["machines"], "two": {**GOOD["machines"]["two"], **machine}}
    return {**GOOD, "machines": machines}


def two_edges(address: str | None = "10.1.0.9", **more: Any) -> dict[str, Any]:
    second = {"address": "10.1.0.4", "roles": ["edge"]}
    shared = {"floating_address": address} if address else {}
    return {**GOOD, "machines": {**GOOD["machines"], "three": second}, **shared, **more}


def stores(number: int) -> dict[str, Any]:
    more = {
        f"store{each}": {"address": f"10.1.0.{each + 20}", "roles": ["store"]}
        for each in range(2, number + 1)
    }
    return {**GOOD, "machines": {**GOOD["machines"], **more}}


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_one_store_or_three_and_more_are_read(load: Callable[..., Topology], number: int) -> None:
    assert len(load(stores(number)).with_role("store")) == number


def test_every_topology_of_the_project_loads() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert {"dev", "prod"} <= set(names)
    for name in names:
        assert topology.load(name).name == name, "the file and its name differ"


def test_a_good_topology_is_read(load: Callable[..., Topology]) -> None:
    read = load(GOOD)
    assert read.edge.name == "one"
    assert read.gateway == "10.1.0.1"
    assert read.suite == "trixie"
    assert read.machine("two").roles == ("store",)
    assert read.floating_address is None


def test_several_edges_are_read_with_the_address_that_they_share(
    load: Callable[..., Topology],
) -> None:
    read = load(two_edges())
    assert read.floating_address == "10.1.0.9"
    assert read.site_addresses == ["10.1.0.2", "10.1.0.4", "10.1.0.9", "127.0.0.1"]


BALANCER = {"address": "198.51.100.7", "from": ["10.20.0.0/20"]}


def balanced(**more: Any) -> dict[str, Any]:
    return two_edges(None, balancer={**BALANCER, **more})


def test_a_balancer_before_the_edges_is_what_clients_use(load: Callable[..., Topology]) -> None:
    read = load(balanced())
    assert read.floating_address is None and read.entrance == read.balancer == "198.51.100.7"
    assert read.site_addresses == ["10.1.0.2", "10.1.0.4", "127.0.0.1", "198.51.100.7"]
    assert load({**GOOD, "balancer": BALANCER}).entrance == "198.51.100.7", "before one edge too"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (two_edges(balancer=BALANCER), "balancer: and a floating_address: clients use one of them"),
        (balanced(address="10.1.0.2"), "balancer:address: 10.1.0.2 is one's already"),
        (balanced(address="2001:db8::1"), "balancer:address: "),
        (balanced(**{"from": ["0.0.0.0/0"]}), "balancer:from: 0.0.0.0/0 is everybody"),
        (balanced(**{"from": ["10.20.0.0/99"]}), "balancer:from: "),
        (balanced(**{"from": []}), "balancer:from: "),
        (balanced(addresses="x"), "balancer:addresses: unknown key; did you mean address?"),
        (two_edges(None, balancer={"address": "198.51.100.7"}), "balancer:from: is missing"),
        (changed(roles=["stroe"]), "machines:two:roles: unknown role stroe; did you mean store?"),
        (changed(roles=["xyz"]), "unknown role xyz; known: edge, app, store, monitor"),
        (changed(address="10.1.0.2"), "machines:two:address: 10.1.0.2 is one's already"),
        (changed(address="10.2.0.3"), "10.2.0.3 is not in network 10.1.0.0/24"),
        (changed(address="10.1.0"), "machines:two:address: "),
        (changed(address=None), "machines:two:address: "),
        (changed(roles=[]), "no machine has role store"),
        (stores(2), "machines: store2 and two have role store, and of two no majority outlives"),
        ({**GOOD, "network": "10.1.0.0/40"}, "network: "),
        (
            {**GOOD, "floating_address": "10.1.0.9"},
            "floating_address: needs two machines with role",
        ),
        (two_edges(None), "floating_address: is missing: one, three have role edge"),
        (two_edges("10.2.0.9"), "floating_address: 10.2.0.9 is not in network 10.1.0.0/24"),
        (two_edges("10.1.0.3"), "floating_address: 10.1.0.3 is two's already"),
        (two_edges("10.1.0.1"), "floating_address: 10.1.0.1 is the lab's host's already"),
        (two_edges("10.1.0.255"), "floating_address: 10.1.0.255 is no machine's to have"),
        (two_edges("10.1.0.9/32"), "floating_address: "),
        (two_edges(None, floating_adress="10.1.0.9"), "did you mean floating_address?"),
        ({k: v for k, v in GOOD.items() if k != "machines"}, "machines: is missing"),
        ({**GOOD, "netwrok": "x"}, "netwrok: unknown key; did you mean network?"),
        ({**GOOD, "name": "other"}, "name: other is not the file's own, test"),
        ({**GOOD, "domain": "a b"}, "domain: 'a b': allowed: the name clients use"),
        (
            {**GOOD, "machines": {**GOOD["machines"], "Web_1": {}}},
            "machines: 'Web_1': allowed: a-z",
        ),
        (changed(memroy=4), "machines:two:memroy: unknown key; did you mean memory?"),
        ({k: v for k, v in GOOD.items() if k != "domain"}, "domain"),
        ({**GOOD, "machines": ["one", "two"]}, "machines: needs a map"),
        ({**GOOD, "trusted": "10.0.0.1"}, "trusted: needs a list"),
        ({**GOOD, "trusted": ["10.0.0.1/8"]}, "trusted: 10.0.0.1/8 has host bits"),
        ({**GOOD, "trusted": ["0.0.0.0/0"]}, "is everybody"),
        ({**GOOD, "machines": {"one": None}}, "machines:one"),
        # What YAML makes of `no:`, `123:`, `2.0` and `|`.
        ({**GOOD, "machines": {**GOOD["machines"], False: {}}}, "machines:False: key False is not"),
        ({**GOOD, "machines": {123: {}}}, "machines:123: key 123 is not text: quote it"),
        ({**GOOD, None: 1, "x": 2}, "None: key None is not text"),
        (changed(cpus=2.0), "machines:two:cpus: 2.0 is no whole number"),
        ({**GOOD, "domain": "a.test\n"}, "domain: 'a.test\\n' has a control character"),
        (changed(roles=[True]), "machines:two:roles: unknown role True"),
        ("[1, 2", "not a topology"),
        ("just words", "not a topology"),
    ],
)
def test_a_wrong_topology_is_refused_with_its_file_and_key(
    load: Callable[..., Topology], data: Any, said: str
) -> None:
    with pytest.raises(ControlError) as caught:
        load(data)
    assert str(caught.value).startswith("test.yaml: ")
    assert said in str(caught.value)
    assert caught.value.code == 2


def test_an_unknown_topology_gets_a_hint(load: Callable[..., Topology]) -> None:
    with pytest.raises(ControlError, match=r"TOPOLOGY=tset: no such topology; did you mean test\?"):
        load(GOOD, "tset")
    with pytest.raises(ControlError, match="there are: test"):
        load(GOOD, "../../etc/passwd")


def test_an_unknown_machine_gets_a_hint(load: Callable[..., Topology]) -> None:
    with pytest.raises(
        ControlError, match=r"HOST=tow: no such machine in topology test; did you mean"
    ):
        load(GOOD).machine("tow")
    with pytest.raises(ControlError, match="there are: one, two"):
        load(GOOD).machine("xyz")
