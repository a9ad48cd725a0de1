"""What this computer knows of a topology's machines: which there are, and how they are reached."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .options import lab_cache
from .paths import ROOT
from .topology import FOLDER, Topology

# What all checkouts of this user share.
CACHE = lab_cache()


def folder(topology: Topology) -> Path:
    """Folder of what is known of a topology's machines on this computer; git ignores it."""
    return ROOT / ".lab" / topology.name


def recorded_topology(topology: Topology) -> Path:
    """The topology's file as it was when its machines were made."""
    return folder(topology) / "topology.yaml"


def recorded_machines(topology: Topology) -> dict[str, Any]:
    """The machines that 'make up' made, by name, unchecked: what a topology must say may have changed since. Empty
    where it made none."""
    path = recorded_topology(topology)
    return yaml.safe_load(path.read_text(encoding="utf-8"))["machines"] if path.exists() else {}


def removed_machines(topology: Topology) -> list[str]:
    """Machines that 'make up' made and that the topology no longer has."""
    return [name for name in recorded_machines(topology) if name not in topology.machines]


def recorded_stores(topology: Topology) -> int:
    """How many stores 'make up' made."""
    machines = recorded_machines(topology).values()
    return sum("store" in one.get("roles", []) for one in machines)


def new_machines(topology: Topology) -> list[str]:
    """Machines that the topology has and 'make up' has not yet made, of a topology that is up."""
    made = recorded_machines(topology)
    return [name for name in topology.machines if made and name not in made]


def record_topology(topology: Topology) -> None:
    """The machines are what the topology says."""
    shutil.copyfile(FOLDER / f"{topology.name}.yaml", recorded_topology(topology))


def recorded_suite(topology: Topology) -> str | None:
    """Debian release of the lab machines that there are; None without any."""
    path = folder(topology) / "suite"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def ssh_config(topology: Topology) -> Path:
    """The file with which ssh reaches them; there once they are."""
    return folder(topology) / "ssh_config"


def is_up(topology: Topology) -> bool:
    return ssh_config(topology).exists()


def common_ssh_options(*more: str) -> str:
    """The part of an ssh_config that all machines share: ``more``, one connection for many commands, and
    that a machine which went away is noticed."""
    sockets = CACHE / "ssh"
    sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = [
        *more,
        "ControlMaster auto",
        f"ControlPath {sockets}/%C",
        "ControlPersist 60",
        "ServerAliveInterval 3",
        "ServerAliveCountMax 3",
    ]
    return "Host *\n" + "".join(f"  {line}\n" for line in lines)


def import_hint(topology: Topology) -> str:
    """How this checkout comes to know machines that another one made."""
    return (
        "bring what the checkout that made them knows: '.venv/bin/python -m control import-state"
        f" --topology {topology.name} FILE' (docs/many-machines.md; without a copy: docs/locked-out.md)"
    )


def not_up(topology: Topology, instead: str = "") -> UserError:
    """No machine is known here: one of the lab is to be made, one of elsewhere must not be."""
    return UserError(
        f"no machines of topology {topology.name} are known here: where there are some, in a cloud or made by another"
        f" checkout, {import_hint(topology)}; else 'make up' makes them, for a lab on this computer{instead}"
    )
