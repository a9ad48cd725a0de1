"""Machines that converge without a controller: booted and left bare, or given a checkout of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab_machine import ROOT, Lab

# Boots the machine as `make up` does, and leaves it as a cloud's image is: nothing converged.
BOOT = """
from control import topology
from control.lab import box, containers, host, network, vagrant
from control.options import Options
where, options = topology.load({topology!r}), Options.read()
if vagrant.choose_provider(where, options) == "lxc":
    with host.lock_host():
        host.install_packages()
        box.ensure_box(vagrant.choose_suite(where, options), options)
        network.ensure_network(where)
        for name in containers.list_left(where):
            containers.destroy(name)
        containers.take_ownership(where)
vagrant.bring_up(where, options)
"""


def control(topology: str, *words: str, box: str = "") -> None:
    """Run Python with these arguments as the controller of ``topology``, whose machines are made from ``box``."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env={**os.environ, "TOPOLOGY": topology, "SUITE": "", "LAB_BOX": box}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def upload(lab: Lab, checkout: Path, place: str) -> None:
    """Put a checkout onto the machine, with what `make` needs there."""
    archive = subprocess.run(
        ["tar", "-cz", "-C", str(checkout), "."], capture_output=True, check=True
    ).stdout
    ssh = ["ssh", "-F", str(lab.state / "ssh_config"), lab.host]
    subprocess.run(
        [*ssh, f"sudo rm -rf {place}; sudo mkdir {place}; sudo tar -xz -C {place}"],
        input=archive, check=True, timeout=120,
    )  # fmt: skip
    lab.run("command -v make >/dev/null || apt-get install -qq -y make >/dev/null", timeout=300)
