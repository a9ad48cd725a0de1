"""
A second box for most machines of the tests: the base box with the formulas' packages installed, so
that ten machines do not unpack and configure the same side by side.

Only what apt does is spared: no formula's file, account or secret is in it, and what the formulas
mask until it is configured is off. Installation from nothing is shown by ``dev`` and ``dev12``, which
are made from the base box.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time

from control import local_state
from control.errors import OperationError
from control.lab import box as base_box
from control.lab import host, layer
from control.options import Options
from tests.timings import measured

SUITE = "trixie"
# All that the formulas install (tests/unit/test_layers.py): one that is missing here is installed by
# each machine's first apply, as it is anywhere else.
PACKAGES = (
    "age", "ca-certificates", "collectd-core", "curl", "debsums", "fail2ban", "firewalld",
    "haproxy", "iproute2", "keepalived", "less", "libmicrohttpd12t64", "liboping0", "libpam-pwquality", "libprotobuf-c1",
    "libpython3.13", "needrestart", "netbase", "nftables",
    "openssh-server", "procps", "prometheus", "prometheus-alertmanager", "python3",
    "python3-nftables", "python3-systemd", "redis-server", "redis-tools", "rsync", "rsyslog",
    "rsyslog-relp", "stunnel4", "sudo", "unattended-upgrades",
)  # fmt: skip
# What their formulas mask before they install it (tests/unit/test_layers.py).
OFF = ("firewalld", "prometheus", "prometheus-alertmanager", "stunnel4")
# Debian brings updates: a box is made anew each week.
WEEK = 7 * 24 * 3600
_INSTALL = """
apt-get -q update
apt-get -q -y --no-install-recommends install {packages}
systemctl -q disable {off}
"""


def box() -> str:
    """
    Name of Vagrant's box with the packages, made unless it is there; empty where machines are no
    containers or this is not root: then they come from the base box.
    """
    if os.geteuid() != 0 or (os.environ.get("PROVIDER") or "lxc") != "lxc" or not _is_lxc():
        return ""
    local_state.CACHE.mkdir(parents=True, exist_ok=True)
    # The workers' machines are all made at once: one of them makes the box.
    with open(
        local_state.CACHE / "layers.lock", "w", opener=lambda p, f: os.open(p, f, 0o600)
    ) as lock:
        with measured("layer", "waits for the box with the packages"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        with host.lock_host():
            host.install_packages()
            base_box.ensure_box(SUITE, Options.read())
        base = f"counter/{SUITE}"
        key = json.loads((layer.box_folder(base) / "metadata.json").read_text(encoding="utf-8"))[
            "key"
        ]
        text = f"{key} {PACKAGES} {OFF} {_INSTALL} {int(time.time()) // WEEK}"
        name = f"counter/{SUITE}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if not layer.is_made(name):
            try:
                with measured("layer", "makes the box with the packages"):
                    _make(base, name)
            except OperationError as error:
                # The machines can do without; what is wrong, their own installation will show.
                print(f"no box with the packages: {error}", file=sys.stderr)
                return ""
        return name


def _is_lxc() -> bool:
    """As the controller chooses where nothing is said: a hypervisor goes before lxc."""
    return not (shutil.which("VBoxManage") or shutil.which("virsh"))


def _make(base: str, name: str) -> None:
    """Install the packages in a copy of the base box's tree, pack it, and let Vagrant know it."""
    for left in local_state.CACHE.glob("layer.*"):
        # Of a run that was killed.
        shutil.rmtree(left)
    layer.make(base, name, _INSTALL.format(packages=" ".join(PACKAGES), off=" ".join(OFF)))
    _forget_old(name)


def _forget_old(name: str) -> None:
    """Remove boxes that were made weeks ago: no run that is under way uses one."""
    for folder in layer.boxes().glob(f"counter-VAGRANTSLASH-{SUITE}-*"):
        other = folder.name.replace("-VAGRANTSLASH-", "/")
        if other != name and time.time() - folder.stat().st_mtime > 2 * WEEK:
            layer.run("vagrant", "box", "remove", "--force", "--all", other)
