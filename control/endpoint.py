"""Where clients find the application, and what they verify it with."""

from __future__ import annotations

import contextlib
from pathlib import Path

from . import local_state, ssh
from .cloud import addresses
from .credentials.certificates import WITHOUT_KEYS
from .errors import ControlError
from .paths import ROOT
from .topology import Topology


def fetch_ca(topology: Topology) -> Path:
    """
    What clients verify the edge with, as a local file: its own CA's certificate, or the certificate
    that the pillar gives with its chain (salt/haproxy/tls.sls).
    """
    path = local_state.folder(topology) / "ca.pem"
    # `||` would take a file that can't be read for one that is not there.
    command = "cd /etc/stack/pki && if [ -e site.pem ]; then pem=site.pem; else pem=ca.pem; fi"
    command += f" && {WITHOUT_KEYS} $pem"
    path.write_text(_ask_edge(topology, command), encoding="utf-8")
    return path


def _ask_edge(topology: Topology, command: str) -> str:
    """What the first edge that can be reached answers: they are alike."""
    *others, last = topology.with_role("edge")
    for name in others:
        with contextlib.suppress(ControlError):
            return ssh.run(topology, name, command)
    return ssh.run(topology, last, command)


def url(topology: Topology) -> str:
    own = topology.entrance or addresses.read_public_address(topology) or topology.edge.address
    return f"https://{own}/"


def curl_line(topology: Topology) -> str:
    """A command that asks the application, its certificate verified."""
    return f"curl --cacert {fetch_ca(topology).relative_to(ROOT)} {url(topology)}"
