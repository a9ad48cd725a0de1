"""`make ssh`."""

from __future__ import annotations

import re
import subprocess
import sys

from .. import ssh
from ..command import make_command
from ..options import Options
from ..topology import Topology

# Commands after which a connection that breaks is no failure.
GOES_DOWN = re.compile(r"\s*(systemctl\s+)?(reboot|poweroff|halt|shutdown)\b")


def run(topology: Topology, options: Options) -> int:
    """Open a shell as root on a machine, or run one command there.

    Without --host on the first machine of the topology.
    """
    host = options.host or next(iter(topology.machines))
    topology.machine(host)
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    code = subprocess.run(
        ssh.command_line(topology, host, options.cmd or None, terminal=is_interactive), check=False
    ).returncode
    if code == ssh.UNREACHED and GOES_DOWN.match(options.cmd):
        # The machine took ssh down with it, as it was told to.
        print(f"{host} goes down")
        return 0
    return code


COMMAND = make_command("ssh", run, "cmd", host="The machine; by default the topology's first.")
