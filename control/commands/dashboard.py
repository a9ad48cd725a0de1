"""`make dashboard`."""

from __future__ import annotations

from .. import dashboard, local_state
from ..command import make_command
from ..errors import UserError
from ..options import Options
from ..topology import Topology


def run(topology: Topology, _: Options) -> int:
    """Open a tunnel to the monitor's pages, until Ctrl-C, and print the address."""
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    monitors = topology.with_role("monitor")
    if not monitors:
        raise UserError(f"topology {topology.name} has no machine with role monitor")
    return dashboard.serve(topology, monitors[0])


COMMAND = make_command("dashboard", run)
