"""`make rollback`."""

from __future__ import annotations

import contextlib
import time

from .. import application, releases, stores
from ..artifacts import files
from ..command import make_command
from ..deploy import lock, roll
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Go back to the release that ran before, on all application machines.

    Or to --version, one that was good on each of them.
    """
    app, version = application.find(options, topology), options.version
    if version:
        files.check_version(version)
    stores.require_master(topology, "rollback")
    began = time.monotonic()
    hosts = releases.application_hosts(topology)
    request = roll.make_request("rollback", version or "the last good release", options, app)
    with contextlib.ExitStack() as locks:
        # First: what is good is not settled while another deploy runs.
        with roll.record_refusal(topology, hosts, request, app):
            held = lock.hold_all(locks, topology, hosts, request)
            for host in hosts:
                roll.wait_for_roll(topology, host)
            request["version"] = roll.choose_rollback_target(topology, hosts, version, app)
        roll.roll(topology, request, options.pillar_arguments, None, held, app)
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


COMMAND = make_command(
    "rollback",
    run,
    "app",
    "why",
    "pillar",
    version="The release; by default the last good one before.",
)
