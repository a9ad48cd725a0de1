"""
What a second controller needs to reach the machines of a topology and to stay one with the first: all
that ``.lab/TOPOLOGY`` holds of them but Vagrant's own. For a pipeline, whose checkout is new each time:

    python -m control export-state --topology live >live.state     on the controller
    python -m control import-state --topology live live.state      in the job; `-` instead: from standard input

Sealed, it is what is kept against the loss of the controller (docs/many-machines.md).

The output is text (base64 of tar and xz), for GitLab's variables take nothing else. It holds the key
of the topology's authority: it is as secret as the machines are.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import tarfile
from pathlib import Path

from . import local_state
from .errors import UserError
from .topology import Topology

# Of .lab/TOPOLOGY; the folders whole.
PARTS = (
    "ssh_config", "known_hosts", "ca.pem", "provider", "suite", "cloud.yaml", "topology.yaml", "secrets",
)  # fmt: skip
# What age's files begin with (age-encryption.org/v1), as such and in ASCII.
SEALED = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
# ssh_config's words that name files of the controller.
_KEY = re.compile(r'^(\s*IdentityFile\s+)"?([^"\n]+?)"?\s*$', re.M | re.I)
_HOSTS = re.compile(r'^(\s*UserKnownHostsFile\s+)"?([^"\n]+?)"?\s*$', re.M | re.I)
_SOCKET = re.compile(r'^(\s*ControlPath\s+)"?([^"\n]+?)"?\s*$', re.M | re.I)


def export_state(topology: Topology) -> str:
    """All of it as one text."""
    folder = local_state.folder(topology)
    if not local_state.is_up(topology):
        raise UserError(f"{folder}: has no ssh_config, so there is nothing to reach")
    if len(topology.machines) > 1 and not (folder / "secrets" / "ca.key").exists():
        raise UserError(
            f"{folder}/secrets: has no ca.key: this is not where the machines were made"
        )
    config = local_state.ssh_config(topology).read_text(encoding="utf-8")
    keys: dict[str, bytes] = {}

    def keep_key(match: re.Match[str]) -> str:
        key = Path(match[2]).expanduser().read_bytes()
        name = next((name for name, kept in keys.items() if kept == key), f"key-{len(keys) + 1}")
        keys[name] = key
        return f"{match[1]}@STATE@/keys/{name}"

    config = _KEY.sub(keep_key, config)
    config = _HOSTS.sub(
        lambda match: match[0] if match[2] == "/dev/null" else f"{match[1]}@STATE@/known_hosts",
        config,
    )
    config = _SOCKET.sub(lambda match: f"{match[1]}@SOCKETS@/%C", config)
    members = {"ssh_config": config.encode(), **{f"keys/{name}": key for name, key in keys.items()}}
    for part in PARTS[1:]:
        for path in [folder / part, *sorted((folder / part).glob("*"))]:
            if path.is_file() and not path.name.startswith("."):
                members[str(path.relative_to(folder))] = path.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            archive.addfile(info, io.BytesIO(content))
    return base64.encodebytes(buffer.getvalue()).decode()


def import_state(topology: Topology, text: bytes) -> None:
    """What :func:`export_state` gave, into this checkout; files 0600, folders 0700."""
    folder = local_state.folder(topology)
    if not text.strip():
        raise UserError("nothing was given: an empty file, or what came before '|' failed", 2)
    if text.startswith(SEALED):
        raise UserError(
            "this is sealed: age -d FILE | .venv/bin/python -m control import-state"
            f" --topology {topology.name} -",
            2,
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:xz") as archive:
            members = {
                member.name: file.read()
                for member in archive.getmembers()
                if (file := archive.extractfile(member))
            }
    except (binascii.Error, tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"not what 'export-state' gives: {error}", 2) from error
    known = re.compile(rf"({'|'.join(map(re.escape, PARTS))}|keys)(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
    if strange := [name for name in members if not known.fullmatch(name)]:
        raise UserError(f"not what 'export-state' gives: {strange[0]}", 2)
    sockets = local_state.CACHE / "ssh"
    sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in members.items():
        path = folder / name
        for above in (folder.parent, folder, path.parent):
            above.mkdir(exist_ok=True, parents=True)
            above.chmod(0o700)
        if name == "ssh_config":
            config = content.decode().replace("@STATE@", str(folder))
            content = config.replace("@SOCKETS@", str(sockets)).encode()
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(content)
