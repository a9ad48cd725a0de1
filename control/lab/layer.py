"""Another box out of the base box: its tree with something done in it, packed and made known to Vagrant."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from .. import local_state
from ..errors import OperationError
from ..options import vagrant_home
from . import host

# Packages as a machine installs them, without starting what they bring.
_BEGIN = """
set -eu
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
"""
_END = """
apt-get clean
rm /usr/sbin/policy-rc.d
"""


def boxes() -> Path:
    return vagrant_home() / "boxes"


def box_folder(name: str) -> Path:
    """Where Vagrant keeps a box."""
    return boxes() / name.replace("/", "-VAGRANTSLASH-") / "0" / "lxc"


def is_made(name: str) -> bool:
    return (box_folder(name) / "metadata.json").exists()


def make(base: str, name: str, script: str) -> None:
    """Box ``name``: the tree of box ``base`` after ``script``, a shell's, ran in it. As root; OperationError
    with the last words of what failed."""
    local_state.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="layer.", dir=local_state.CACHE) as work:
        unpack = ["tar", "--numeric-owner", "--xattrs", "-xf"]
        run(*unpack, str(box_folder(base) / "rootfs.tar.gz"), "-C", work)
        root = f"{work}/rootfs"
        resolver = Path(root, "etc/resolv.conf")
        target = resolver.readlink()
        resolver.unlink()
        shutil.copy("/etc/resolv.conf", resolver)
        # A process id space of its own: what a package starts all the same ends with it.
        inside = ["unshare", "--pid", "--fork", "--kill-child", "chroot", root]
        run(*inside, "/usr/bin/env", "-i", "/bin/sh", "-c", _BEGIN + script + _END)
        resolver.unlink()
        resolver.symlink_to(target)
        for file in ("etc/machine-id", "var/lib/dbus/machine-id"):
            if Path(root, file).is_file() and not Path(root, file).is_symlink():
                Path(root, file).write_text("", encoding="ascii")
        packed = ["tar", "--numeric-owner", "--xattrs", "-C", work, "-cf", "-", "./rootfs"]
        with open(f"{work}/rootfs.tar.gz", "wb") as archive:
            with subprocess.Popen(packed, stdout=subprocess.PIPE) as reads:
                subprocess.run(["zstd", "-q", "-1"], stdin=reads.stdout, stdout=archive, check=True)
        if reads.returncode:
            raise OperationError(f"{name}: its tree could not be packed")
        others = ["metadata.json", "lxc-config", "lxc-template"]
        for file in others:
            shutil.copy(box_folder(base) / file, work)
        members = [f"./{file}" for file in (*others, "rootfs.tar.gz")]
        run("tar", "-C", work, "-cf", f"{work}/box", *members)
        add = ["vagrant", "box", "add", "--force", "--name", name, "--provider", "lxc"]
        # Not beside another one's: they share a folder for what they unpack.
        with host.lock_host():
            run(*add, f"{work}/box")


def run(*words: str) -> None:
    # Not in the checkout: Vagrant would read its file, which wants a topology.
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise OperationError(f"{' '.join(words)[:200]}: exit {done.returncode}\n{tail}")
