"""`make cloud-down`."""

from __future__ import annotations

from ..cloud import removal
from ..command import make_command
from ..options import Options, refuse_narrowing
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Remove a topology from DigitalOcean; asks."""
    refuse_narrowing("cloud-down", "HOST", "TEST")
    return removal.down(topology, options)


COMMAND = make_command(
    "cloud-down",
    run,
    "yes",
    force="Forget it although nothing of it is in this account.",
    is_as_written=True,
)
