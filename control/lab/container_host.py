"""
A lab machine in the place of a container host: Debian with podman where Fedora CoreOS would be, whose root the real Ignition
provisions. What that stand-in leaves unproven is listed in docs/containers.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from .. import local_state, shell
from ..errors import OperationError, UserError
from ..options import Options
from ..paths import ROOT
from ..topology import Topology
from . import box, containers, host, layer, vagrant

# What Fedora CoreOS has and a small Debian has not.
PACKAGES = ("podman", "crun", "netavark", "aardvark-dns", "nftables", "jq", "curl", "openssl")
# Parts of the disk that stays.
VOLUMES = ("redis", "stack", "apps", "backups")
# The account of the Ignition file (control/containers/ignition.py).
LOGIN = "core"
# On this computer.
HOST_PACKAGES = {"ignition": "provisions container hosts, and checks what they get"}
# Without Python and Salt: nothing here may come to need them.
_SCRIPT = f"""
apt-get -q update
apt-get -q -y --no-install-recommends install {" ".join(PACKAGES)}
rm -rf /opt/salt /usr/local/bin/salt*
apt-get -q -y purge 'python3*' 'libpython3*'
apt-get -q -y autoremove --purge
"""


def ensure_box(suite: str, options: Options) -> str:
    """Name of the box of container hosts, made unless it is there."""
    if os.geteuid() != 0:
        raise UserError(
            "a lab of container hosts is made as root: its machines' disks are provisioned here"
        )
    with open(
        local_state.CACHE / "layers.lock", "w", opener=lambda p, f: os.open(p, f, 0o600)
    ) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with host.lock_host():
            host.install_packages(HOST_PACKAGES)
            box.ensure_box(suite, options)
        base = f"counter/{suite}"
        key = json.loads((layer.box_folder(base) / "metadata.json").read_text(encoding="utf-8"))[
            "key"
        ]
        name = f"counter/{suite}-host-{hashlib.sha256((key + _SCRIPT).encode()).hexdigest()[:12]}"
        if not layer.is_made(name):
            shell.say(
                "  the box of container hosts: podman instead of Salt and Python (once; about a minute)"
            )
            layer.make(base, name, _SCRIPT)
    return name


def data_folder(topology: Topology, machine: str) -> Path:
    """The disk that stays when a host is made anew, on this computer."""
    return local_state.CACHE / "volumes" / containers.container_name(topology, machine)


def _note(topology: Topology, machine: str) -> Path:
    return local_state.folder(topology) / f"{machine}.provisioned"


def _lxc(*words: str) -> None:
    shell.run([str(ROOT / "lab" / "enter"), *words])


def bring_up(
    topology: Topology, options: Options, box_name: str, files: Mapping[str, Path], key: Path
) -> None:
    """Hosts that are not there made by Vagrant and provisioned by Ignition with their ``files``; those that are
    stopped started. ``key``: of the account that comes in from then on."""
    existing = containers.list_containers()
    new = [
        name
        for name in topology.machines
        if not _note(topology, name).exists()
        or containers.container_name(topology, name) not in existing
    ]
    for name in new:
        # Of a run that was interrupted before Ignition was done; or it is gone, and its disk is not.
        _note(topology, name).unlink(missing_ok=True)
        vagrant.forget(topology, name, options)
        for part in VOLUMES:
            (data_folder(topology, name) / part).mkdir(parents=True, exist_ok=True)
    if new:
        more = {"LAB_BOX": box_name, "LAB_VOLUMES": str(local_state.CACHE / "volumes")}
        vagrant.bring_up(topology, options, more)
    _write_ssh_config(topology, key)
    for name in topology.machines:
        container = containers.container_name(topology, name)
        if name in new:
            shell.say(f"  {name}: provisioned by Ignition")
            _lxc("lxc-stop", "--name", container)
            rootfs = f"/var/lib/lxc/{container}/rootfs"
            shell.run([str(ROOT / "lab" / "ignite"), rootfs, str(files[name])])
        if name in new or not _is_running(container):
            _lxc("lxc-start", "--name", container, "--daemon")
        if not vagrant.is_reachable(topology, name):
            raise OperationError(
                f"{name}: no answer over ssh: 'lxc-attach -n {container}' looks inside"
            )
        _note(topology, name).write_text(f"{time.time():.0f}\n", encoding="utf-8")


def remove_disks(topology: Topology) -> None:
    """What ``make down`` removes with the machines."""
    for name in topology.machines:
        shutil.rmtree(data_folder(topology, name), ignore_errors=True)


def _is_running(container: str) -> bool:
    done = subprocess.run(
        ["lxc-info", "--name", container, "--state"], capture_output=True, text=True, check=False
    )
    return "RUNNING" in done.stdout


def _write_ssh_config(topology: Topology, key: Path) -> None:
    hosts = "".join(
        f"Host {machine.name}\n  HostName {machine.address}\n  User {LOGIN}\n  IdentityFile {key}\n"
        "  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
        "  LogLevel FATAL\n\n"
        for machine in topology.machines.values()
    )
    common = local_state.common_ssh_options("ConnectTimeout 10")
    local_state.ssh_config(topology).write_text(hosts + common, encoding="utf-8")
