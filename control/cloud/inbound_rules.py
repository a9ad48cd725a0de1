"""
What the formulas of machines let in, asked on the controller: for a firewall that stands before the
machines (a cloud's), from the same files as the one on them (``salt/*/firewall.yaml.j2``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import salt_copy
from ..errors import OperationError

# The machines', not this computer's.
GRAINS = {"os": "Debian", "os_family": "Debian", "oscodename": "trixie"}
QUESTIONS = (
    ["formula.collect", ["firewall.yaml.j2"], {}],
    ["formula.settings", ["firewalld"], {}],
    ["formula.settings", ["haproxy"], {}],
)


@dataclass(frozen=True)
class Inbound:
    """``rules``: entries as salt/_schemas/firewall.schema.yaml describes them; ``haproxy``: settings of that formula."""

    rules: list[dict[str, Any]]
    haproxy: dict[str, Any]


def ask_machines(
    topology: dict[str, Any], name: str, machines: Sequence[str]
) -> dict[str, Inbound]:
    """
    What each of ``machines`` lets in, of ``topology``, as its file has it, whose name is ``name``. OperationError where
    that does not render.
    """
    with tempfile.TemporaryDirectory(prefix="inbound-rules-") as folder:
        configs = []
        for machine in machines:
            tree = Path(folder, machine)
            identity = {"topology": name, "name": machine, "release": None}
            configs.append(salt_copy.prepare(tree, identity, grains=GRAINS, grains_cache=False))
            path = tree / "pillar" / "topologies" / f"{name}.yaml"
            path.write_text(yaml.safe_dump(topology, sort_keys=False), encoding="utf-8")
        try:
            answers = salt_copy.ask(configs, QUESTIONS)
        except OperationError as error:
            raise OperationError(
                f"{name}: what its machines let in could not be rendered: {error}"
            ) from error
    return {
        machine: Inbound(_merge(declared, firewalld), haproxy)
        for machine, (declared, firewalld, haproxy) in zip(machines, answers, strict=True)
    }


def _merge(declared: dict[str, Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What formulas declare, with what the settings of the firewall say instead and besides."""
    declared = {**declared, **settings["replace"]}
    allowed = [entry for entries in declared.values() for entry in entries or ()]
    # Of protocols without ports the cloud's firewalls know ICMP alone, and no address floats there.
    return [one for one in (*allowed, *(settings["openings"] or ())) if "port" in one]
