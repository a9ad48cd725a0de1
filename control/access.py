"""
What a second controller needs to reach the machines of a topology and to stay one with the first: all
that ``.lab/TOPOLOGY`` holds of them but Vagrant's own. For a pipeline, whose checkout is new each time:

    python -m control.access pack live >live.state       on the controller
    python -m control.access unpack live live.state      in the job; `-` instead: from standard input

Sealed, it is what is kept against the loss of the controller (docs/many-machines.md).

The output is text (base64 of tar and xz), for GitLab's variables take nothing else. It holds the key
of the topology's authority: it is as secret as the machines are.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import sys
import tarfile
from pathlib import Path

from . import lab, topology
from .errors import Refused
from .topology import Topology

# Of .lab/TOPOLOGY; the folders whole.
PARTS = ("ssh_config", "known_hosts", "provider", "suite", "cloud.yaml", "topology.yaml", "secrets")
# Characters that GitLab takes in a variable.
LARGEST = 10_000
# ssh_config's words that name files of the controller.
_KEY = re.compile(r'^(\s*IdentityFile\s+)"?([^"\n]+?)"?\s*$', re.M | re.I)
_HOSTS = re.compile(r'^(\s*UserKnownHostsFile\s+)"?([^"\n]+?)"?\s*$', re.M | re.I)
_SOCKET = re.compile(r'^(\s*ControlPath\s+)"?([^"\n]+?)"?\s*$', re.M | re.I)


def pack(where: Topology) -> str:
    """All of it as one text."""
    folder = lab.state(where)
    if not lab.is_up(where):
        raise Refused(f"{folder}: has no ssh_config, so there is nothing to reach")
    if len(where.machines) > 1 and not (folder / "secrets" / "ca.key").exists():
        raise Refused(f"{folder}/secrets: has no ca.key: this is not where the machines were made")
    config = lab.ssh_config(where).read_text(encoding="utf-8")
    keys: dict[str, bytes] = {}

    def kept(found: re.Match[str]) -> str:
        content = Path(found[2]).expanduser().read_bytes()
        name = next((name for name, one in keys.items() if one == content), f"key-{len(keys) + 1}")
        keys[name] = content
        return f"{found[1]}@STATE@/keys/{name}"

    config = _KEY.sub(kept, config)
    config = _HOSTS.sub(
        lambda found: found[0] if found[2] == "/dev/null" else f"{found[1]}@STATE@/known_hosts",
        config,
    )
    config = _SOCKET.sub(lambda found: f"{found[1]}@SOCKETS@/%C", config)
    members = {"ssh_config": config.encode(), **{f"keys/{n}": one for n, one in keys.items()}}
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


def unpack(where: Topology, text: str) -> None:
    """What :func:`pack` gave, into this checkout; files 0600, folders 0700."""
    folder = lab.state(where)
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:xz") as archive:
            members = {
                one.name: file.read()
                for one in archive.getmembers()
                if (file := archive.extractfile(one))
            }
    except (binascii.Error, tarfile.TarError, EOFError, ValueError) as error:
        raise Refused(f"not what 'control.access pack' gives: {error}", 2) from error
    known = re.compile(rf"({'|'.join(map(re.escape, PARTS))}|keys)(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
    if strange := [name for name in members if not known.fullmatch(name)]:
        raise Refused(f"not what 'control.access pack' gives: {strange[0]}", 2)
    sockets = lab.CACHE / "ssh"
    sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in members.items():
        path = folder / name
        for place in (folder.parent, folder, path.parent):
            place.mkdir(exist_ok=True, parents=True)
            place.chmod(0o700)
        if name == "ssh_config":
            config = content.decode().replace("@STATE@", str(folder))
            content = config.replace("@SOCKETS@", str(sockets)).encode()
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(content)


def main(words: list[str]) -> int:
    try:
        if words[:1] == ["pack"] and len(words) == 2:
            text = pack(topology.load(words[1]))
            if len(text) > LARGEST:
                print(
                    f"{len(text)} characters, and GitLab takes {LARGEST} in a variable: run the"
                    " pipeline's deploys on the controller instead",
                    file=sys.stderr,
                )
            print(text, end="")
        elif words[:1] == ["unpack"] and len(words) == 3:
            packed = sys.stdin.read() if words[2] == "-" else Path(words[2]).read_text("utf-8")
            unpack(topology.load(words[1]), packed)
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (Refused, OSError) as error:
        print(f"access: {error}", file=sys.stderr)
        return error.code if isinstance(error, Refused) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
