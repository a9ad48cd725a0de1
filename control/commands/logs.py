"""`make logs`."""

from __future__ import annotations

from .. import logs
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Show the central logs; exit code 1 when nothing matches."""
    return logs.show(topology, options)


COMMAND = make_command(
    "logs",
    run,
    "service",
    "request",
    "since",
    "follow",
    "all",
    host="Only what this machine logged.",
)
