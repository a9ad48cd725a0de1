"""Topologies of the controller's tests."""

from __future__ import annotations

from ipaddress import IPv4Network

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
