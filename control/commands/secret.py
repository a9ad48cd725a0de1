"""`make secret`."""

from __future__ import annotations

import getpass
import re
import sys

from ..cloud import addresses
from ..command import make_command
from ..confirmation import confirm
from ..credentials import given_secrets, shared_secrets
from ..errors import UserError
from ..options import Options
from ..topology import Topology

# Bytes; a key and its chain have a few thousand.
LARGEST = 65_536


def _read_value() -> str:
    """What standard input has; typed, it is not shown. Never an argument, which everybody can read."""
    if sys.stdin.isatty():
        return getpass.getpass("its value (not shown): ")
    value = sys.stdin.buffer.read(LARGEST + 1)
    try:
        if len(value) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        return value.decode()
    except ValueError as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(f"standard input: {reason}: no secret; nothing was changed", 2) from None


def run(topology: Topology, options: Options) -> int:
    """Keep a secret that another system knows; its value comes by standard input.

    Without --secret it lists the names of those that are kept. An apply brings them to the machines
    whose formulas use them.
    """
    name, host = options.secret, options.host or None
    if not name:
        for kept, recipients in given_secrets.list_kept(topology).items():
            machines = topology.machines.values()
            hosts = [one.name for one in machines if given_secrets.is_for(one, recipients)]
            print(f"{kept}: for {', '.join(hosts) or 'no machine'}")
        return 0
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UserError(f"SECRET={name}: use a-z, 0-9 and -, such as SECRET=site-key", 2)
    if host:
        topology.machine(host)
    if options.forget:
        if addresses.is_cloud(topology):
            # Perhaps the only copy there is.
            action = f"forget secret {name} of topology {topology.name}"
            confirm(action, name, options.yes, refused="it is still kept")
        with shared_secrets.lock_folder(topology):
            if not given_secrets.delete(topology, name):
                raise UserError(f"SECRET={name}: none is kept for topology {topology.name}", 2)
        print(f"{name}: no longer kept; machines that have it keep it until it is removed there")
        return 0
    given_secrets.find_recipients(topology, name, host)
    hosts = given_secrets.keep(topology, name, _read_value(), host)
    again = f"'make apply TOPOLOGY={topology.name}' brings it there, a deploy too"
    print(f"{name}: kept for {', '.join(hosts)}; {again}")
    return 0


COMMAND = make_command(
    "secret",
    run,
    "forget",
    "yes",
    secret="Name of the secret, as a setting names it.",
    host="The machine that it is for; by default all whose formulas use it.",
)
