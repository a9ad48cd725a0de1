"""
The lab's network for lxc: a bridge between the machines, and lxc's own for the way out. It ends and removes
only what it made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .. import shell
from ..errors import OperationError, UserError
from ..topology import Topology
from . import containers

BRIDGE = "counterbr0"
# Locally administered (IEEE 802c); the rest spells "count".
BRIDGE_ADDRESS = "02:63:6f:75:6e:74"
# What this host was given for the lab and gets rid of with the last machine.
_RUN = Path("/run/counter-lab")


def _link_exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def ensure_network(topology: Topology) -> None:
    """The bridge that is the topology's private network, and lxc's network for the way out."""
    if os.geteuid() != 0 and not shutil.which("sudo"):
        raise UserError("preparing the lab's network needs root: install sudo or run as root")
    for route in subprocess.run(
        ["ip", "-4", "-o", "addr", "show"], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        fields = route.split()
        if fields[1] != BRIDGE and fields[3].split("/")[0] == topology.gateway:
            raise UserError(
                f"{topology.gateway} is in use on this host ({fields[1]}): choose another"
                f" network in pillar/topologies/{topology.name}.yaml"
            )
    subprocess.run(shell.sudo(["mkdir", "-p", str(_RUN)]), check=True)
    if not _link_exists(BRIDGE):
        shell.run(shell.sudo(["ip", "link", "add", BRIDGE, "type", "bridge"]))
        shell.run(shell.sudo(["touch", str(_RUN / "bridge")]))
    # Its own, not the lowest of its ports': with that, a machine that goes away would change it, and
    # the others would send to nobody for seconds, long enough for ssh to give up.
    shell.run(shell.sudo(["ip", "link", "set", BRIDGE, "address", BRIDGE_ADDRESS]))
    shell.run(
        shell.sudo(
            [
                "ip",
                "addr",
                "replace",
                f"{topology.gateway}/{topology.network.prefixlen}",
                "dev",
                BRIDGE,
            ]
        )
    )
    shell.run(shell.sudo(["ip", "link", "set", BRIDGE, "up"]))
    if _link_exists("lxcbr0"):
        return
    if Path("/run/systemd/system").exists():
        shell.run(shell.sudo(["systemctl", "start", "lxc-net"]))
    else:
        # No systemd here: the same start script by hand.
        _run_lxc_net("start")
        shell.run(shell.sudo(["touch", str(_RUN / "lxc-net")]))
    if not _link_exists("lxcbr0"):
        raise OperationError("lxc's network lxcbr0 did not come up: see /etc/default/lxc-net")


def _run_lxc_net(word: str) -> None:
    for script in ("/usr/libexec/lxc/lxc-net", "/usr/lib/x86_64-linux-gnu/lxc/lxc-net"):
        if Path(script).exists():
            shell.run(shell.sudo([script, word]))
            return
    raise OperationError("lxc's network script lxc-net was not found: is the package lxc whole?")


def release_network() -> None:
    """Take back what :func:`ensure_network` made, once no machine of the lab is left or pending."""
    if not shutil.which("lxc-ls") or containers.list_containers() or containers.list_pending():
        return
    if (_RUN / "bridge").exists() and _link_exists(BRIDGE):
        shell.run(shell.sudo(["ip", "link", "del", BRIDGE]))
        shell.run(shell.sudo(["rm", "-f", str(_RUN / "bridge")]))
    if (_RUN / "lxc-net").exists():
        _run_lxc_net("stop")
        shell.run(shell.sudo(["rm", "-f", str(_RUN / "lxc-net")]))
