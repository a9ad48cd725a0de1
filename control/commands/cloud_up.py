"""`make cloud-up`."""

from __future__ import annotations

from .. import endpoint, status
from ..cloud import addresses, machines
from ..command import make_command
from ..options import Options, refuse_narrowing
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Make a topology on DigitalOcean and converge it; asks before it destroys.

    Shows the plan first. What is there already is kept; what has left the topology is destroyed.
    """
    # It destroys what has left the topology once the others have forgotten it: all of them.
    refuse_narrowing("cloud-up", "HOST", "TEST", "SLS")
    code = machines.up(topology, options)
    topology = addresses.resolve(topology)
    curl = endpoint.curl_line(topology)
    table, well, _ = status.table(topology)
    print(f"\n{table}\n\n  {curl}\n\n{endpoint.url(topology)}")
    return code if well else code or 1


COMMAND = make_command("cloud-up", run, "pillar", "verbose", "yes", is_as_written=True)
