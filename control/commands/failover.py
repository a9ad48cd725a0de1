"""`make failover`."""

from __future__ import annotations

from .. import edges, local_state
from ..command import make_command
from ..errors import UserError
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Move the address of the edges to another one, without a lost request.

    New connections wait for a moment while what is open comes to its end; then another edge takes the address,
    and the one that had it stands by.
    """
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    if not options.edge:
        raise UserError("say what is to be moved: EDGE=1, the address that the edges share", 2)
    print(edges.fail_over(topology))
    return 0


COMMAND = make_command("failover", run, edge="The address that the edges share.")
