"""What salt-cloud runs around a droplet (cloud/cloud.providers.d, cloud/cloud.profiles.d)."""

from __future__ import annotations

from .. import topology
from ..cloud import hooks
from ..command import make_command
from ..options import Options
from ..topology import Topology


def prepare(_: Topology, options: Options) -> int:
    """Run by salt-cloud before it makes a droplet."""
    # A single droplet is what `dev` is, whatever TOPOLOGY says.
    return hooks.prepare(topology.load("dev"), options)


def check(_: Topology, options: Options) -> int:
    """Run by salt-cloud after it made a droplet."""
    return hooks.check(options)


PREPARE = make_command("cloud-prepare", prepare, hidden=True, is_as_written=True)
CHECK = make_command("cloud-check", check, hidden=True, is_as_written=True)
