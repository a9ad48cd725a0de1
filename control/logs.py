"""`make logs`: what the central logs on the monitor say."""

from __future__ import annotations

import os
import shlex
import sys

from . import remote
from .errors import Refused
from .topology import Topology


def words(environment: dict[str, str]) -> list[str]:
    """Arguments of ``central-logs show``, from SERVICE, HOST, REQUEST, SINCE, FOLLOW and ALL."""
    found = []
    for name in ("SERVICE", "HOST", "REQUEST", "SINCE"):
        value = environment.get(name)
        if value:
            # Together with its name: a value that begins with - is a value.
            found.append(f"--{name.lower()}={value}")
    follow = environment.get("FOLLOW") or "0"
    if follow not in ("0", "1"):
        raise Refused(f"FOLLOW={follow}: use FOLLOW=1 to go on showing what comes", 2)
    # Each command of the controller is a session and a sudo: who looks at all would see little else.
    if not any((environment.get(name) or "0") != "0" for name in ("ALL", "SERVICE", "REQUEST")):
        found.append("--without-own")
    return [*found, "--follow"] if follow == "1" else found


def command(where: Topology) -> int:
    """Show the central logs; 1 when nothing matches, 2 for what cannot be asked."""
    asked = words(dict(os.environ))
    for machine in where.machines.values():
        if "monitor" in machine.roles:
            break
    else:
        raise Refused(f"topology {where.name} has no machine with role monitor, so no central logs")
    host = os.environ.get("HOST")
    if host:
        where.machine(host)
    line = "central-logs show " + " ".join(shlex.quote(word) for word in asked)
    try:
        code = remote.stream(where, machine.name, f"exec {line}")
    except KeyboardInterrupt:
        return 0
    if code == remote.READER_GONE:
        # `make logs | head`.
        return 0
    if code == 127:
        print("logs: the monitor has no central logs yet: 'make apply' first", file=sys.stderr)
    return code
