"""`make failover`."""

from __future__ import annotations

from .. import stores
from ..command import make_command
from ..errors import UserError
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Move the store's master to another machine, on purpose.

    Writes wait for about a second meanwhile and none is lost. Refused while a store is missing already.
    """
    if not stores.are_several(topology):
        raise UserError(
            f"topology {topology.name} has one store: there is nothing to move it to", 2
        )
    host = topology.machine(options.host).name if options.host else ""
    if host and host not in topology.with_role("store"):
        raise UserError(f"HOST={host}: has no store", 2)
    before = stores.look(topology).get("master")
    new = stores.move_master(topology, host)
    print(
        f"the master is {new}"
        + (f", as before: not {host}" if new == before else f" instead of {before}")
    )
    return 0


COMMAND = make_command(
    "failover", run, host="Only if this machine has the master; by default whichever has it."
)
