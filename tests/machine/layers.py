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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from control import local_state
from control.lab import box as base_box
from control.lab import host
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
set -eu
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q update
apt-get -q -y --no-install-recommends install {packages}
apt-get clean
systemctl -q disable {off}
rm /usr/sbin/policy-rc.d
"""


def _boxes() -> Path:
    return Path(os.environ.get("VAGRANT_HOME") or Path.home() / ".vagrant.d") / "boxes"


def _folder(name: str) -> Path:
    """Where Vagrant keeps a box."""
    return _boxes() / name.replace("/", "-VAGRANTSLASH-") / "0" / "lxc"


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
        base = _folder(f"counter/{SUITE}")
        key = json.loads((base / "metadata.json").read_text(encoding="utf-8"))["key"]
        text = f"{key} {PACKAGES} {OFF} {_INSTALL} {int(time.time()) // WEEK}"
        name = f"counter/{SUITE}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if not (_folder(name) / "metadata.json").exists():
            try:
                with measured("layer", "makes the box with the packages"):
                    _make(base, name)
            except RuntimeError as error:
                # The machines can do without; what is wrong, their own installation will show.
                print(f"no box with the packages: {error}", file=sys.stderr)
                return ""
        return name


def _is_lxc() -> bool:
    """As the controller chooses where nothing is said: a hypervisor goes before lxc."""
    return not (shutil.which("VBoxManage") or shutil.which("virsh"))


def _make(base: Path, name: str) -> None:
    """Install the packages in a copy of the base box's tree, pack it, and let Vagrant know it."""
    for left in local_state.CACHE.glob("layer.*"):
        # Of a run that was killed.
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="layer.", dir=local_state.CACHE) as work:
        unpack = ["tar", "--numeric-owner", "--xattrs", "-xzf", str(base / "rootfs.tar.gz")]
        _run(*unpack, "-C", work)
        root = f"{work}/rootfs"
        resolver = Path(root, "etc/resolv.conf")
        leads = resolver.readlink()
        resolver.unlink()
        shutil.copy("/etc/resolv.conf", resolver)
        install = _INSTALL.format(packages=" ".join(PACKAGES), off=" ".join(OFF))
        # A process id space of its own: what a package starts all the same ends with it.
        inside = ["unshare", "--pid", "--fork", "--kill-child", "chroot", root]
        _run(*inside, "/usr/bin/env", "-i", "/bin/sh", "-c", install)
        resolver.unlink()
        resolver.symlink_to(leads)
        for file in ("etc/machine-id", "var/lib/dbus/machine-id"):
            if Path(root, file).is_file() and not Path(root, file).is_symlink():
                Path(root, file).write_text("", encoding="ascii")
        packed = ["tar", "--numeric-owner", "--xattrs", "-C", work, "-cf", "-", "./rootfs"]
        with open(f"{work}/rootfs.tar.gz", "wb") as target:
            with subprocess.Popen(packed, stdout=subprocess.PIPE) as reads:
                subprocess.run(["gzip", "-1"], stdin=reads.stdout, stdout=target, check=True)
        if reads.returncode:
            raise RuntimeError(f"{name}: its tree could not be packed")
        for file in ("metadata.json", "lxc-config"):
            shutil.copy(base / file, work)
        members = ["./metadata.json", "./lxc-config", "./rootfs.tar.gz"]
        _run("tar", "-C", work, "-cf", f"{work}/box", *members)
        add = ["vagrant", "box", "add", "--force", "--name", name, "--provider", "lxc"]
        # Not beside another one's: they share a folder for what they unpack.
        with host.lock_host():
            _run(*add, f"{work}/box")
    _forget_old(name)


def _forget_old(name: str) -> None:
    """Remove boxes that were made weeks ago: no run that is under way uses one."""
    for folder in _boxes().glob(f"counter-VAGRANTSLASH-{SUITE}-*"):
        other = folder.name.replace("-VAGRANTSLASH-", "/")
        if other != name and time.time() - folder.stat().st_mtime > 2 * WEEK:
            _run("vagrant", "box", "remove", "--force", "--all", other)


def _run(*words: str) -> None:
    # Not in the checkout: Vagrant would read its file, which wants a topology.
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise RuntimeError(f"{' '.join(words)[:200]}: exit {done.returncode}\n{tail}")
