"""`make new-service`."""

from __future__ import annotations

from .. import new_service
from ..command import make_command
from ..errors import UserError
from ..options import Options
from ..topology import Topology


def run(_: Topology, options: Options) -> int:
    """Lay out the formula of a new service.

    Everything that this tree wants of a formula is there; what is left to write is named by file and line.
    """
    if not options.name:
        raise UserError("NAME=name is needed, such as NAME=memcached", 2)
    for path in new_service.lay_out(options.name):
        print(f"  {path}")
    print(
        f"\nleft to write:\n  salt/top.sls: the role that brings {options.name}, or no machine has it"
    )
    for line in new_service.left_to_write():
        if line.startswith(f"salt/{options.name}/"):
            print(f"  {line}")
    print("\nthen `make docs lint test-unit`; docs/develop/add-a-service.md walks through it")
    return 0


COMMAND = make_command("new-service", run, "name")
