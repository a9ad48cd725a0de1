"""Topologies: which machines there are, with their roles and addresses (pillar/topologies/)."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from . import by_path
from .errors import UserError
from .paths import ROOT

FOLDER = ROOT / "pillar" / "topologies"


@functools.cache
def _check() -> tuple[ModuleType, Any]:
    """The checks and the schema that the machines use too."""
    schema = by_path.load_yaml("pillar/topology.schema.yaml")
    return by_path.load_module("pillar/topology_check.py"), schema


def _roles() -> tuple[str, ...]:
    check, schema = _check()
    others = [role for role in schema["$defs"]["role"]["enum"] if role not in check.NEEDED]
    return (*reversed(check.NEEDED), *others)


# In the order in which machines are converged: each before those that need it.
ROLES = _roles()


@dataclass(frozen=True)
class Machine:
    """One machine. ``address`` is IPv4 on the topology's private network."""

    name: str
    address: str
    roles: tuple[str, ...]
    # What clients in the cloud use instead.
    public: str | None = None


@dataclass(frozen=True)
class Topology:
    """``gateway`` is the lab host's own address on the private network; ``suite`` the Debian
    release of lab machines when nothing else is asked for; ``hosts`` what runs the services: packages, or
    containers (docs/containers.md)."""

    name: str
    domain: str
    network: ipaddress.IPv4Network
    machines: dict[str, Machine]
    suite: str = "trixie"
    hosts: str = "packages"
    # Of several edges, the one that clients use.
    floating_address: str | None = None
    # Of the balancer before the edges, the one that clients use.
    balancer: str | None = None

    @property
    def has_containers(self) -> bool:
        return self.hosts == "containers"

    @property
    def gateway(self) -> str:
        return str(next(self.network.hosts()))

    @property
    def edge(self) -> Machine:
        return next(machine for machine in self.machines.values() if "edge" in machine.roles)

    @property
    def entrance(self) -> str | None:
        """The one address under which clients reach whichever edge serves; None where an edge's own is all there is."""
        return self.balancer or self.floating_address

    @property
    def site_addresses(self) -> list[str]:
        """IPv4 addresses under which clients reach the site, whichever edge answers."""
        edges = [self.machines[name] for name in self.with_role("edge")]
        found = [address for one in edges for address in (one.address, one.public)]
        found += [self.entrance, "127.0.0.1"]
        return sorted({address for address in found if address})

    def with_role(self, role: str) -> list[str]:
        """Names of the machines that have ``role``, in the topology's order."""
        return [name for name, machine in self.machines.items() if role in machine.roles]

    def machine(self, name: str) -> Machine:
        """The machine of that name; UserError with the known names otherwise."""
        if name not in self.machines:
            hint = by_path.hint(name, list(self.machines))
            raise UserError(f"HOST={name}: no such machine in topology {self.name}; {hint}", 2)
        return self.machines[name]


def load(name: str, folder: Path = FOLDER) -> Topology:
    """
    Read and check topology ``name``.

    Raises UserError, naming file and key, for an unknown topology, an unknown role, an address
    that is given twice or not in the network, a role that nobody has; for settings of a topology that
    there is not.
    """
    path = folder / f"{name}.yaml"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"TOPOLOGY={name}: no such topology; {by_path.hint(name, known)}", 2)
    for settings in sorted((folder.parent / "settings").glob("*.sls")):
        # Nothing would ever read it, and what it sets would be missing in silence.
        if settings.stem not in known:
            hint = by_path.hint(settings.stem, known)
            raise UserError(f"pillar/settings/{settings.name}: no such topology; {hint}", 2)
    return read(path)


def formula_roles() -> dict[str, str | None]:
    """``{formula: the role that brings it}``, as ``salt/top.sls`` says; None: every machine has it."""
    top = by_path.load_yaml("salt/top.sls")["base"]
    return {
        formula: target.rpartition(":")[2] if target.startswith("machine:roles:") else None
        for target, listed in top.items()
        for formula in listed
        if isinstance(formula, str)
    }


def read(path: Path, name: str | None = None) -> Topology:
    """The topology of one file, checked, called ``name`` (by default as the file is); UserError with
    the file and the first wrong key."""
    name = name or path.stem
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not a topology: {error}", 2) from error
    check, schema = _check()
    wrong = check.problems(data, schema, name)
    if wrong:
        raise UserError(f"{path.name}: {wrong[0]}", 2)
    machines = {
        one: Machine(one, entry["address"], tuple(entry["roles"]), entry.get("public"))
        for one, entry in data["machines"].items()
    }
    return Topology(
        name,
        data["domain"],
        ipaddress.IPv4Network(data["network"]),
        machines,
        data.get("suite", "trixie"),
        data.get("hosts", "packages"),
        data.get("floating_address"),
        (data.get("balancer") or {}).get("address"),
    )
