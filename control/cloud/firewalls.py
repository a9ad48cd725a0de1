"""The cloud's own firewalls before the machines: one for each kind of machine, from what its formulas let in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ..application import NAME
from ..topology import ROLES, Machine, Topology
from . import account, addresses, inbound_rules
from .inbound_rules import Inbound


def make_rule(
    allowed: dict[str, Any], tag: Callable[[str], str], balancer: str = ""
) -> dict[str, Any]:
    """One entry of a formula's firewall.yaml.j2 as the API has a rule; ``tag`` of a role, ID of the load balancer."""
    source = allowed["from"]
    if source == "any":
        sources: dict[str, Any] = {"addresses": ["0.0.0.0/0", "::/0"]}
    elif source == "balancer":
        # It alone: not who else is in its network, which is what the machine's own firewall knows.
        sources = {"load_balancer_uids": [balancer]}
    elif "network" in source:
        sources = {"addresses": [source["network"]]}
    else:
        sources = {"tags": [tag(source["role"])]}
    return {"protocol": allowed["protocol"], "ports": str(allowed["port"]), "sources": sources}


def make_firewall(name: str, tag: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """A firewall of droplets with ``tag``, as the API has it."""
    everywhere = {"addresses": ["0.0.0.0/0", "::/0"]}
    # As firewalld has it: ICMP comes in, everything goes out.
    inbound = [*rules, {"protocol": "icmp", "ports": "0", "sources": everywhere}]
    outbound = [
        {"protocol": protocol, "ports": "0", "destinations": everywhere}
        for protocol in ("tcp", "udp", "icmp")
    ]
    return {"name": name, "tags": [tag], "inbound_rules": inbound, "outbound_rules": outbound}


def _list_kinds(topology: Topology) -> dict[str, Machine]:
    """A machine of each kind."""
    return {account.join_roles(machine): machine for machine in topology.machines.values()}


def ask(topology: Topology) -> dict[str, Inbound]:
    """What a machine of each kind lets in."""
    names = [one.name for one in _list_kinds(topology).values()]
    return inbound_rules.ask_machines(addresses.read_for_cloud(topology), topology.name, names)


def ask_edge(topology: Topology, inbound: dict[str, Inbound]) -> Inbound:
    """Of those that were asked, an edge."""
    kinds = _list_kinds(topology).values()
    return next(inbound[one.name] for one in kinds if "edge" in one.roles)


def make_firewalls(
    topology: Topology, inbound: dict[str, Inbound], balancer: str
) -> list[dict[str, Any]]:
    """One firewall for each kind of machine, on its tag: what firewalld lets in on the machine (``ask``); ``balancer``: ID
    of the load balancer before the edges."""
    result = []
    for one, machine in _list_kinds(topology).items():
        rules = []
        for allowed in inbound[machine.name].rules:
            source = allowed["from"]
            if isinstance(source, dict) and "role" in source:
                peers = {
                    name for name, peer in topology.machines.items() if source["role"] in peer.roles
                }
                # A machine reaches itself over loopback.
                if not peers - {machine.name}:
                    continue
            rule = make_rule(allowed, lambda role: account.make_tag(topology, role), balancer)
            if rule not in rules:
                rules.append(rule)
        result.append(
            make_firewall(f"{NAME}-{topology.name}-{one}", account.make_tag(topology, one), rules)
        )
    return result


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two firewalls do the same, whatever the API adds or sorts."""

    def plain(firewall: dict[str, Any]) -> object:
        def rules(side: str, target: str) -> list[str]:
            return sorted(
                json.dumps(
                    [
                        rule["protocol"],
                        rule.get("ports") or "0",
                        {
                            key: sorted(map(str, value))
                            for key, value in (rule.get(target) or {}).items()
                            if value
                        },
                    ],
                    sort_keys=True,
                )
                for rule in firewall.get(side) or []
            )

        return (
            sorted(firewall.get("tags") or []),
            rules("inbound_rules", "sources"),
            rules("outbound_rules", "destinations"),
        )

    return plain(one) == plain(other)


def list_own(api: Any, topology: Topology) -> dict[str, dict[str, Any]]:
    """By name and tags: ``counter-prod-edge-store`` may be of a topology ``prod-edge``."""
    pattern = re.compile(
        rf"{NAME}-{re.escape(topology.name)}-({'|'.join(ROLES)})(-({'|'.join(ROLES)}))*"
    )
    return {
        firewall["name"]: firewall
        for firewall in api.all("firewalls", "firewalls")
        if pattern.fullmatch(firewall["name"])
        and any(account.is_own_tag(topology, tag) for tag in firewall.get("tags") or ())
    }


def describe(firewall: dict[str, Any]) -> str:
    """What it lets in, for a person."""
    rules = []
    for rule in firewall["inbound_rules"]:
        if rule["protocol"] == "icmp":
            continue
        sources = rule["sources"]
        names = [*sources.get("tags", ()), *sources.get("addresses", ())]
        names += ["the load balancer"] if sources.get("load_balancer_uids") else []
        who = "" if "0.0.0.0/0" in names else f" from {', '.join(names)}"
        rules.append(f"{rule['protocol']} {rule['ports']}{who}")
    return "; ".join(rules)


def create(api: Any, firewall: dict[str, Any]) -> None:
    """Create it once, also when the answer to the first attempt was lost."""

    def find() -> dict[str, Any] | None:
        known = api.all("firewalls", "firewalls")
        same = (one for one in known if one["name"] == firewall["name"])
        return next(({"firewall": one} for one in same), None)

    api.call("firewalls", "create", firewall, found=find, key="firewall")
