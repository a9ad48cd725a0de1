"""What the central logs on the monitor say."""

from __future__ import annotations

import shlex
import sys

from . import ssh
from .errors import UserError
from .options import Options
from .topology import Topology


def make_arguments(options: Options) -> list[str]:
    """Arguments of ``central-logs show``."""
    # Together with its name: a value that begins with - is a value.
    arguments = [
        f"--{name}={value}"
        for name in ("service", "host", "request", "since")
        if (value := getattr(options, name))
    ]
    # Each command of the controller is a session and a sudo: who looks at all would see little else.
    if not (options.all or options.service not in ("", "0") or options.request not in ("", "0")):
        arguments.append("--without-own")
    return [*arguments, "--follow"] if options.follow else arguments


def show(topology: Topology, options: Options) -> int:
    """Show the central logs; 1 when nothing matches, 2 for what cannot be asked."""
    monitors = topology.with_role("monitor")
    if not monitors:
        raise UserError(
            f"topology {topology.name} has no machine with role monitor, so no central logs"
        )
    if options.host:
        topology.machine(options.host)
    command = f"exec central-logs show {shlex.join(make_arguments(options))}"
    try:
        code = ssh.stream(topology, monitors[0], command.rstrip())
    except KeyboardInterrupt:
        return 0
    if code == ssh.READER_GONE:
        # `make logs | head`.
        return 0
    if code == 127:
        print("logs: the monitor has no central logs yet: 'make apply' first", file=sys.stderr)
    return code
