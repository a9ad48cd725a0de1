"""Waiting until droplets that were just made can be used."""

from __future__ import annotations

import subprocess
import sys
import time

from .. import fleet, ssh
from ..errors import OperationError
from ..topology import Topology
from . import account

# Seconds for one droplet to let us in, then to end its first boot.
REACH, BOOT = 300, 600


def wait_for_login(topology: Topology) -> None:
    """
    Return once every machine lets us in and has ended its first boot, which may hold apt and sshd.
    One that does not in time is named, and left to what follows; OperationError when none does.
    """
    codes = fleet.each(topology, lambda host: _wait_for_host(topology, host))
    if all(codes.values()):
        raise OperationError(
            f"no machine of topology {topology.name} could be used (see above): the droplets are there,"
            f" and paid: mend the above, then 'make cloud-up TOPOLOGY={topology.name}' again"
        )


def _wait_for_host(topology: Topology, host: str) -> int:
    began = time.monotonic()
    is_told = False
    while True:
        done = subprocess.run(
            ssh.command_line(topology, host, "true", fresh=True),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not done.returncode:
            break
        answer = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if time.monotonic() - began > REACH:
            raise OperationError(f"{host}: ssh still does not let us in after {REACH} s: {answer}")
        if not is_told:
            fleet.say(f"{host}: waiting for ssh ({answer})")
            is_told = True
        time.sleep(account.LOOK)
    # Its exit code 1 or 2 means that something of it failed, which is told and hinders nothing.
    command = (
        "command -v cloud-init >/dev/null || exit 0;"
        f" timeout {BOOT} cloud-init status --wait >/dev/null 2>&1; code=$?;"
        f" [ $code != 124 ] || {{ echo 'cloud-init is not done after {BOOT} s' >&2; exit 1; }};"
        " [ $code = 0 ] || echo \"cloud-init complains: see 'cloud-init status --long'\""
    )
    complaint = ssh.run(topology, host, command).strip()
    if complaint:
        fleet.say(f"{host}: {complaint}", sys.stderr)
    if is_told:
        fleet.say(f"{host}: ready after {time.monotonic() - began:.0f} s")
    return 0
