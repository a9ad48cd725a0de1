"""What the lab wants of this computer: one command at a time that changes it, and its Debian packages."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from .. import local_state, shell
from ..errors import OperationError, UserError

# A machine that has just booted may be updating itself.
LOCK_WAIT = ("-o", "DPkg::Lock::Timeout=300")
PLUGIN = "vagrant-lxc"
PLUGIN_VERSION = "1.4.3"
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
# Of many machines: each takes about nine.
INOTIFY_INSTANCES = 1024
# Debian package -> why it is needed.
PACKAGES = {
    "vagrant": "makes the machines",
    "vagrant-lxc": "Vagrant's provider for containers",
    "lxc": "runs them",
    "iptables": "the machines' way out",
    "dnsmasq-base": "their addresses and names",
    "mmdebstrap": "builds their base box out of distribution packages",
    "zstd": "packs it",
    "iproute2": "the bridge between them",
    "openssh-client": "how they are reached",
    "ca-certificates": "packages are fetched over TLS",
}


@contextlib.contextmanager
def lock_host() -> Iterator[None]:
    """
    One at a time for what all topologies on this host share: packages, boxes, the network. Two
    ``make up`` may run side by side, and a ``make down`` takes nothing from under the other.
    """
    local_state.CACHE.mkdir(parents=True, exist_ok=True)
    # Who can open it can hold it, and with it everybody else's commands.
    with open(
        local_state.CACHE / "host.lock", "w", opener=lambda p, f: os.open(p, f, 0o600)
    ) as handle:
        os.fchmod(handle.fileno(), 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            shell.say("  waiting: another command prepares this host")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run_apt(words: list[str], why: str) -> None:
    done = subprocess.run(
        shell.sudo(
            [
                "env",
                "DEBIAN_FRONTEND=noninteractive",
                "RUNLEVEL=1",
                "apt-get",
                "-q",
                *LOCK_WAIT,
                *words,
            ]
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise OperationError(f"{why} failed (network?):\n{tail}")


def install_packages(more: Mapping[str, str] | None = None) -> None:
    """Debian packages that the lxc lab needs and this host lacks, or those of ``more``; says what and why."""
    packages = PACKAGES if more is None else more
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Abbrev}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    installed = {line.split()[0] for line in listed.splitlines() if line.split()[1:2] == ["ii"]}
    missing = [package for package in packages if package not in installed]
    if PLUGIN in missing and has_plugin(PLUGIN):
        missing.remove(PLUGIN)
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise UserError(
            f"this host lacks {', '.join(missing)} and has no apt-get: install Vagrant with"
            " VirtualBox or libvirt, or run on Debian or Ubuntu"
        )
    shell.say("installing system packages for the lab:")
    for package in missing:
        shell.say(f"  {package:<16} {packages[package]}")
    _run_apt(["update"], "apt-get update")
    policy = subprocess.run(
        ["apt-cache", "policy", PLUGIN], capture_output=True, text=True, check=False
    ).stdout
    from_gems = PLUGIN in missing and ("Candidate:" not in policy or "Candidate: (none)" in policy)
    if from_gems:
        missing.remove(PLUGIN)
    if missing:
        _run_apt(["install", "-y", "--no-install-recommends", *missing], "apt-get install")
    if from_gems:
        # Debian 13 has Vagrant but not this plugin.
        shell.say(
            f"  this release has no package {PLUGIN}: asking Vagrant for {PLUGIN} {PLUGIN_VERSION}"
        )
        shell.run(
            ["vagrant", "plugin", "install", PLUGIN, "--plugin-version", PLUGIN_VERSION], cwd="/"
        )


def raise_inotify_limit(path: Path = INOTIFY) -> None:
    """
    Allow as many inotify instances as the machines' systemd needs: by the kernel's default of 128, shared by all
    containers of an account, about the fourteenth machine fails while it boots. Left as it is where it is high
    enough or not ours to set; then says so.
    """
    try:
        current = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return
    if current >= INOTIFY_INSTANCES:
        return
    done = subprocess.run(
        shell.sudo(["tee", str(path)]),
        input=f"{INOTIFY_INSTANCES}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    name = "fs.inotify.max_user_instances"
    if done.returncode:
        shell.say(
            f"  {name} is {current} and could not be raised to {INOTIFY_INSTANCES}: with many machines some"
            f" fail to boot; run 'sysctl {name}={INOTIFY_INSTANCES}' on the host"
        )
    else:
        shell.say(f"  {name}: {current} -> {INOTIFY_INSTANCES}, for the machines' systemd")


def has_plugin(name: str) -> bool:
    """Whether Vagrant has this plugin."""
    if not shutil.which("vagrant"):
        return False
    plugins = subprocess.run(
        ["vagrant", "plugin", "list"], capture_output=True, text=True, check=False, cwd="/"
    )
    return name in plugins.stdout
