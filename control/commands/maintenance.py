"""`make maintenance`."""

from __future__ import annotations

from .. import fleet, host_programs, local_state, ssh
from ..cloud import addresses
from ..command import make_command
from ..confirmation import confirm
from ..errors import OperationError, UserError
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Answer 503 with a page and Retry-After instead of the applications, until --off.

    On every edge, at once; it stays so over reloads, applies and reboots. The page, the time and who is let through
    are haproxy:maintenance in the pillar.
    """
    host_programs.refuse_containers(
        topology, "maintenance", "their edge has no switch so far; 'make deploy' loses no request"
    )
    if options.on == options.off:
        raise UserError("maintenance: say ON=1 or OFF=1", 2)
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    if options.on and addresses.is_cloud(topology):
        action = f"answer 503 to everybody who uses {topology.domain}, topology {topology.name}"
        confirm(action, topology.name, options.yes)
    word = "true" if options.on else "false"

    def switch(host: str) -> int:
        ssh.run(topology, host, host_programs.salt_call(f"maintenance.switch {word}"))
        fleet.say(f"{host}: maintenance is {'on' if options.on else 'off'}")
        return 0

    edges = topology.with_role("edge")
    codes = fleet.each(topology, switch, edges)
    failed = [host for host, code in codes.items() if code]
    if failed:
        raise OperationError(f"maintenance: not changed on {', '.join(failed)} (see above)")
    return 0


COMMAND = make_command("maintenance", run, "on", "off", "yes")
