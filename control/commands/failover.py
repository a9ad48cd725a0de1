"""`make failover`."""

from __future__ import annotations

from .. import edges, local_state, stores
from ..command import make_command
from ..errors import UserError
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Move the store's master to another machine, or with EDGE=1 the edges' address, on purpose.

    Requests wait for about a second meanwhile and none is lost. Refused while a store, or the other edge, is
    missing already.
    """
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    if options.edge:
        if options.host:
            raise UserError(
                "HOST= is for the store's master: EDGE=1 moves the address from where it is", 2
            )
        print(edges.fail_over(topology))
        return 0
    if not stores.are_several(topology):
        more = "; EDGE=1 moves the edges' address" if edges.shares_address(topology) else ""
        raise UserError(
            f"topology {topology.name} has one store: there is nothing to move it to{more}", 2
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
    "failover",
    run,
    host="Only if this machine has the master; by default whichever has it.",
    edge="Move the address that the edges share instead.",
)
