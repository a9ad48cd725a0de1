"""Topologies: which machines there are, with their roles and addresses (pillar/topologies/)."""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import Refused

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "pillar" / "topologies"
ROLES = ("edge", "app", "store", "monitor")
KEYS = {"name", "suite", "domain", "network", "machines", "trusted"}
MACHINE_KEYS = ("address", "roles", "memory", "cpus")


@dataclass(frozen=True)
class Machine:
    """One machine. ``address`` is IPv4 on the topology's private network."""

    name: str
    address: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Topology:
    """``gateway`` is the lab host's own address on the private network; ``suite`` the Debian
    release of lab machines when nothing else is asked for."""

    name: str
    domain: str
    network: ipaddress.IPv4Network
    machines: dict[str, Machine]
    suite: str = "trixie"

    @property
    def gateway(self) -> str:
        return str(next(self.network.hosts()))

    @property
    def edge(self) -> Machine:
        return next(machine for machine in self.machines.values() if "edge" in machine.roles)

    def machine(self, name: str) -> Machine:
        """The machine of that name; Refused with the known names otherwise."""
        if name not in self.machines:
            near = difflib.get_close_matches(name, self.machines, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(self.machines)}"
            raise Refused(f"HOST={name}: no such machine in topology {self.name}; {hint}", 2)
        return self.machines[name]


def _check_trusted(file: str, given: object) -> None:
    """Refused unless it is a list of addresses and networks, none of them the whole world."""
    if not isinstance(given, list):
        raise Refused(f"{file}: trusted: needs a list of addresses and networks", 2)
    for one in given:
        try:
            network = ipaddress.ip_network(str(one))
        except ValueError as error:
            raise Refused(f"{file}: trusted: {error}", 2) from error
        if network.prefixlen == 0:
            raise Refused(f"{file}: trusted: {one} is everybody: nobody would ever be banned", 2)


def load(name: str, folder: Path = FOLDER) -> Topology:
    """
    Read and check topology ``name``.

    Raises Refused, naming file and key, for an unknown topology, an unknown role, an address
    that is given twice or not in the network, or a role that nobody has.
    """
    path = folder / f"{name}.yaml"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        raise Refused(f"TOPOLOGY={name}: no such topology; {hint}", 2)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        network = ipaddress.IPv4Network(data["network"])
        listed, domain = dict(data["machines"]), data["domain"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise Refused(f"{path.name}: not a topology: {error}", 2) from error
    if data.get("name", name) != name:
        raise Refused(f"{path.name}: name: {data['name']} is not the file's own, {name}", 2)
    unknown = sorted(set(data) - KEYS)
    if unknown:
        raise Refused(
            f"{path.name}: {unknown[0]}: unknown key; known: {', '.join(sorted(KEYS))}", 2
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(domain)):
        raise Refused(f"{path.name}: domain: {domain!r} is no domain name", 2)
    _check_trusted(path.name, data.get("trusted", []))
    machines: dict[str, Machine] = {}
    owner: dict[str, str] = {str(next(network.hosts())): "the lab's host"}
    for one, given in listed.items():
        where = f"{path.name}: machines:{one}"
        if not isinstance(given, dict):
            raise Refused(f"{where}: needs address and roles", 2)
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", str(one)):
            raise Refused(f"{where}: a name has a-z, 0-9 and -", 2)
        unknown = sorted(set(given) - set(MACHINE_KEYS))
        if unknown:
            near = difflib.get_close_matches(unknown[0], MACHINE_KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(MACHINE_KEYS)}"
            raise Refused(f"{where}:{unknown[0]}: unknown key; {hint}", 2)
        if not isinstance(given.get("roles"), list):
            raise Refused(f"{where}:roles: needs a list of {', '.join(ROLES)}", 2)
        for role in given["roles"]:
            if role not in ROLES:
                near = difflib.get_close_matches(role, ROLES, 1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(ROLES)}"
                raise Refused(f"{where}:roles: unknown role {role}; {hint}", 2)
        address = str(given.get("address"))
        try:
            inside = ipaddress.IPv4Address(address) in network
        except ValueError as error:
            raise Refused(f"{where}:address: {error}", 2) from error
        if not inside:
            raise Refused(f"{where}:address: {address} is not in network {network}", 2)
        if address in owner:
            raise Refused(f"{where}:address: {address} is {owner[address]}'s already", 2)
        owner[address] = one
        machines[one] = Machine(one, address, tuple(given.get("roles", [])))
    for role in ("edge", "app", "store"):
        if not any(role in machine.roles for machine in machines.values()):
            raise Refused(f"{path.name}: no machine has role {role}", 2)
    return Topology(data.get("name", name), domain, network, machines, data.get("suite", "trixie"))
