"""
What the controller lays into one machine's pillar, and no other machine gets: who it is, and the
secrets that it shares with others (control/vault.py).

Two files beside ``pillar/topology.sls``, which reads them: ``machine.yaml`` (who it is) and
``machine-secrets.yaml`` (0600; only where there are any). The rest of the pillar is the tree's and
the same for all.
"""

from __future__ import annotations

import yaml

from . import vault
from .topology import Topology

IDENTITY = "pillar/machine.yaml"
SECRETS = "pillar/machine-secrets.yaml"


def identity(topology: Topology, host: str, release: str | None, **more: str) -> dict[str, object]:
    """Who the machine is; ``more`` such as ``address="auto"`` for one that is not the lab's."""
    return {"topology": topology.name, "name": host, "release": release, **more}


def files(
    topology: Topology, host: str, release: str | None, **more: str
) -> list[tuple[str, bytes, int]]:
    """``(path in the tree, content, mode)`` of all that is this machine's own."""
    found = [(IDENTITY, yaml.safe_dump(identity(topology, host, release, **more)).encode(), 0o644)]
    secrets = vault.of(topology, topology.machine(host))
    if secrets:
        found.append((SECRETS, yaml.safe_dump(secrets).encode(), 0o600))
    return found
