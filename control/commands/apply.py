"""`make apply`."""

from __future__ import annotations

from .. import apply
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Converge the machines again.

    Brings this checkout's states and settings to them, in dependency order and in batches, and ends with
    what has changed on each. With --host local this very machine converges itself.
    """
    return apply.apply(topology, options)


COMMAND = make_command(
    "apply",
    run,
    "test",
    "sls",
    "pillar",
    "verbose",
    force="Also an edge without which nobody reaches the site meanwhile.",
    host="One machine of the topology, instead of all; `local`: this very one.",
)
