"""`make url`."""

from __future__ import annotations

from .. import endpoint
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, _: Options) -> int:
    """Print the https URL, alone on stdout."""
    print(endpoint.url(topology))
    return 0


COMMAND = make_command("url", run)
