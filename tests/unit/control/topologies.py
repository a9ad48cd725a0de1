"""Topologies of the controller's tests."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

from control.topology import Machine, Topology


def make_topology(**roles: list[str]) -> Topology:
    found = {
        name: Machine(name, f"10.0.0.{number}", tuple(given))
        for number, (name, given) in enumerate(roles.items(), 2)
    }
    return Topology("test", "counter.test", IPv4Network("10.0.0.0/24"), found)


PROD = make_topology(
    edge1=["edge"], app1=["app"], app2=["app"], store1=["store"], monitor1=["monitor"]
)
ONE = make_topology(one=["edge", "app", "store", "monitor"])
# As in a file.
GOOD: dict[str, Any] = {
    "name": "test",
    "domain": "counter.test",
    "network": "10.1.0.0/24",
    "machines": {
        "one": {"address": "10.1.0.2", "roles": ["edge", "app"]},
        "two": {"address": "10.1.0.3", "roles": ["store"]},
    },
}
