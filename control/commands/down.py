"""`make down`."""

from __future__ import annotations

from ..cloud import addresses
from ..command import make_command
from ..lab import container_host, vagrant
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Remove the lab machines of a topology, and all that is known of them here."""
    addresses.refuse_cloud(topology, down=True)
    print(f"removing topology {topology.name} from the lab: {', '.join(topology.machines)}")
    vagrant.take_down(topology, options)
    if topology.has_containers:
        container_host.remove_disks(topology)
    print(f"no machine of topology {topology.name} is left")
    return 0


COMMAND = make_command("down", run, "suite", "provider")
