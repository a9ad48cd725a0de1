"""
What a container host gets over ssh: secrets, which are in no Ignition file, changed files, checked before they go live, and
what was restarted or reloaded for them.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping

from .. import ssh
from ..errors import OperationError
from ..topology import Topology
from .rendering import ACCOUNTS, File, Host

SECRETS = "/etc/stack/secrets"
# Made where they are missing, and from then on changed by the host's own programs.
HOSTS_OWN = ("/etc/haproxy/maintenance.map",)
# Where files are staged, and those that they replace are kept until what uses them serves.
STAGED = "/run/stack/staged"


def _wanted(host: Host) -> dict[str, File]:
    secrets = {
        f"{SECRETS}/{name}": File(value.encode(), 0o600, secret=True)
        for name, value in host.secrets.items()
    }
    return {**host.files, **secrets}


def changed_files(topology: Topology, name: str, host: Host) -> dict[str, File]:
    """Files that the host has not, or has with another content."""
    wanted = _wanted(host)
    listed = "\n".join(wanted).encode()
    answer = ssh.run(topology, name, "xargs -d '\\n' sha256sum 2>/dev/null || true", listed)
    there = {path: digest for digest, path in (line.split("  ", 1) for line in answer.splitlines())}
    return {
        path: file
        for path, file in wanted.items()
        if not (path in HOSTS_OWN and path in there)
        and there.get(path) != hashlib.sha256(file.data).hexdigest()
    }


def _archive(files: Mapping[str, File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, file in files.items():
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode = len(file.data), file.mode
            info.uid = ACCOUNTS.get(file.user, 0)
            info.gid = ACCOUNTS.get(file.group, 0)
            archive.addfile(info, io.BytesIO(file.data))
    return buffer.getvalue()


def bring(topology: Topology, name: str, host: Host, is_test: bool = False) -> list[str]:
    """
    The host's files as they are to be: staged whole, checked there by the programs that use them, swapped in, and taken
    back where what uses them does not come up (stack-swap). The paths that differed.
    """
    changed = changed_files(topology, name, host)
    if not changed:
        return []
    words = "--test" if is_test else "--swap"
    # The scripts that do it are among them, and may be what changes.
    scripts = {path: file for path, file in changed.items() if path.startswith("/usr/local/sbin/")}
    if scripts and not is_test:
        ssh.run(topology, name, "tar -x --numeric-owner -C /", _archive(scripts))
    command = (
        # The first line is what an error names. Root's own folder; in it, folders as a service may enter them, for it is what checks.
        f"# stack-swap\nset -e; rm -rf {STAGED}; mkdir -p -m 700 {STAGED}; umask 022; tar -x --numeric-owner -C {STAGED};"
        f" exec /usr/local/sbin/stack-swap {words}"
    )
    try:
        answer = ssh.run(topology, name, command, _archive(changed))
    except OperationError as error:
        text = str(error).partition("# stack-swap: ")[2] or str(error)
        raise OperationError(f"{name}: {text}") from error
    for line in answer.splitlines():
        print(f"  {line}", flush=True)
    return sorted(changed)
