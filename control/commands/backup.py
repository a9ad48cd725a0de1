"""`make backup`."""

from __future__ import annotations

from .. import backups
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Take a backup of the store, now."""
    hosts = [backups.choose_host(topology, options.host)] if options.host else None
    for host in hosts or topology.with_role("store"):
        backups.take(topology, host)
    return 0


COMMAND = make_command("backup", run, host="One store, instead of all.")
