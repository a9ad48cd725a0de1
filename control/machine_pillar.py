"""
What the controller lays into one machine's pillar, and no other machine gets: who it is, the secrets
that it shares with others (control/credentials/shared_secrets.py), and those that it was given (control/credentials/given_secrets.py).

Two files beside ``pillar/topology.sls``, which reads them: ``machine.yaml`` (who it is) and
``machine-secrets.yaml`` (0600; only where there are any). The rest of the pillar is the tree's and
the same for all machines of a topology (:func:`is_included`).
"""

from __future__ import annotations

import sys
from pathlib import PurePath

import yaml

from . import paths, settings
from .application import COUNTER, Application
from .credentials import given_secrets, shared_secrets
from .paths import ROOT
from .topology import Topology

# Encrypted to the key of one machine: another one's Salt would refuse its whole pillar.
ENCRYPTED = "pillar/secrets.sls"


def identity(topology: Topology, host: str, release: str | None, **more: str) -> dict[str, object]:
    """Who the machine is; ``more`` such as ``address="auto"`` for one that is not the lab's."""
    return {"topology": topology.name, "name": host, "release": release, **more}


def make_files(
    topology: Topology, host: str, release: str | None, app: Application = COUNTER, **more: str
) -> list[tuple[str, bytes, int]]:
    """``(path in the tree, content, mode)`` of all that is this machine's own."""
    who = identity(topology, host, release if app.is_counter else None, **more)
    if not app.is_counter:
        who["releases"] = {app.name: release}
    files = [(paths.IDENTITY, yaml.safe_dump(who).encode(), 0o644)]
    machine = topology.machine(host)
    secrets = {
        **shared_secrets.make_for(topology, machine),
        **given_secrets.read_for(topology, machine),
    }
    if secrets:
        files.append((paths.SECRETS, yaml.safe_dump(secrets).encode(), 0o600))
    return files


def is_included(topology: Topology, path: str) -> bool:
    """Whether a file of the checkout, by its path there, is for machines of this topology: settings of
    another one are not, nor is an encrypted file where there are several machines."""
    if PurePath(path).parent == PurePath("pillar/settings"):
        return PurePath(path).stem == topology.name
    return path != ENCRYPTED or len(topology.machines) == 1


def check_files(topology: Topology) -> None:
    """UserError for settings that are no YAML; on stderr when there is an encrypted file that these machines do not get."""
    settings.check(topology)
    if (ROOT / ENCRYPTED).exists() and not is_included(topology, ENCRYPTED):
        print(
            f"{ENCRYPTED}: is for one machine, whose key opens it, and not carried to the"
            f" {len(topology.machines)} of topology {topology.name}: 'make secret' gives each its own"
            " (docs/secrets.md)",
            file=sys.stderr,
        )
