"""`make status`."""

from __future__ import annotations

from .. import local_state, status
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, _: Options) -> int:
    """Show every service of every machine; exit code 1 when one is unhealthy.

    Unit, version, port, health, age of the last metric and log line, alerts.
    """
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    return status.command(topology)


COMMAND = make_command("status", run)
