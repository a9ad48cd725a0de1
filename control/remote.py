"""Reaching machines: commands as root over ssh, and carrying the tree to them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterable
from pathlib import Path

import yaml

from . import environment, lab, pillar
from . import terminal as shown
from .errors import Refused
from .topology import ROOT, Topology

# Where the tree lives on a machine: a link to a folder named by its content.
PLACE = "/srv/stack"
# There: what a machine shares with others or was given, where there is any.
SECRETS = f"{PLACE}/{pillar.SECRETS}"
# What a machine needs to converge itself.
CARRIED = ("Saltfile", "salt", "pillar", "bootstrap")
# Files of the pillar that are one machine's own: written here, never taken from the checkout.
OWN = (Path(pillar.IDENTITY).name, Path(pillar.SECRETS).name)
# Exit code of a shell whose command wrote into a closed pipe.
READER_GONE = 128 + 13
# Held while a line of one of several machines is printed.
PRINTING = threading.Lock()


def ssh(
    topology: Topology,
    host: str,
    command: str | None,
    terminal: bool = False,
    fresh: bool = False,
) -> list[str]:
    """Command line of ssh that runs ``command`` (a shell's, or none for a shell) as root;
    ``fresh``: over a connection of its own, not the one that is kept open."""
    if not lab.is_up(topology):
        raise lab.not_up(topology)
    line = ["ssh", "-F", str(lab.ssh_config(topology))]
    if terminal:
        line.append("-tt")
    if fresh:
        line += ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
    shell = "sudo -n -i" if command is None else f"sudo -n sh -c {shlex.quote(command)}"
    return [*line, host, shell]


def run(topology: Topology, host: str, command: str, data: bytes = b"", fresh: bool = False) -> str:
    """Output of ``command`` as root on ``host``; Refused with its last words when it fails.
    ``fresh`` as in :func:`ssh`."""
    done = subprocess.run(
        ssh(topology, host, command, fresh=fresh), input=data, capture_output=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="backslashreplace").strip()
        # Below the first line, none that could be taken for another's.
        said = "\n  ".join(said.splitlines())
        what = command.splitlines()[0][:80]
        raise Refused(f"{host}: {what}: {said or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="backslashreplace")


def _files() -> Iterable[Path]:
    """Files of the carried parts, in a fixed order; what git ignores stays at home."""
    names = environment.git_files(ROOT, *CARRIED)
    if names is not None:
        yield from (path for name in names if (path := ROOT / name).is_file())
        return
    # Not a git checkout: everything that is not made here.
    for part in CARRIED:
        start = ROOT / part
        for path in [start] if start.is_file() else sorted(start.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.name not in OWN:
                yield path


def pack(
    topology: Topology, host: str, release: str, folder: Path | None = None
) -> tuple[str, bytes]:
    """
    The tree for one machine as ``(name, tar)``: states, pillar, bootstrap, the artifact, who the
    machine is and the secrets that are its own. The name is a hash of the content, so an
    unchanged tree is not carried again. ``folder``: where the artifact is; by default where it is
    built.
    """
    # In a cloud, the addresses are the cloud's (control/cloud.py).
    given = lab.state(topology) / "cloud.yaml"
    written = ROOT / "pillar" / "topologies" / f"{topology.name}.yaml"
    members: list[tuple[str, bytes, int]] = [
        (
            str(path.relative_to(ROOT)),
            (given if path == written and given.exists() else path).read_bytes(),
            0o755 if os.access(path, os.X_OK) else 0o644,
        )
        for path in _files()
        if pillar.is_carried(topology, str(path.relative_to(ROOT)))
    ]
    members += pillar.files(topology, host, release)
    for suffix in (".tar.gz", ".tar.gz.sha256", ".tar.gz.sig"):
        path = (folder or ROOT / "dist") / f"counter-{release}{suffix}"
        if suffix != ".tar.gz.sig" or path.exists():
            members.append((f"dist/{path.name}", path.read_bytes(), 0o644))
    digest = hashlib.sha256()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content, mode in members:
            digest.update(json.dumps([name, mode]).encode() + hashlib.sha256(content).digest())
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            # Salt believes that a file of the same path and time has the same content: the time
            # follows from the content, so a changed file has another one.
            info.mtime = int(hashlib.sha256(content).hexdigest()[:7], 16)
            archive.addfile(info, io.BytesIO(content))
    return digest.hexdigest()[:16], buffer.getvalue()


def write_identity(topology: Topology, name: str, release: str) -> None:
    """Say in this checkout that this very host is machine ``name``, at whatever address it has."""
    identity = pillar.identity(topology, name, release, address="auto")
    target = ROOT / pillar.IDENTITY
    target.with_suffix(".new").write_text(yaml.safe_dump(identity), encoding="utf-8")
    target.with_suffix(".new").replace(target)


def carry(topology: Topology, host: str, release: str, folder: Path | None = None) -> bool:
    """Put the tree on a machine, whole, by swapping a link, unless it is there; ``folder`` as
    in :func:`pack`. Whether the machine is a new one: it had no tree before."""
    addresses = f"{PLACE}/pillar/topologies/{topology.name}.yaml"
    said = run(
        topology,
        host,
        f"readlink {PLACE} || echo; grep -qs '^ *public:' {addresses} && echo cloud || true",
    )
    before, _, kind = (word.strip() for word in said.partition("\n"))
    given = lab.state(topology) / "cloud.yaml"
    if kind and not given.exists():
        raise Refused(
            f"{host} is in a cloud, and its addresses are not here: bring {given} from where the"
            f" machines were made: {lab.access_hint(topology)}; for a pipeline DEPLOY_STATE, nothing was"
            " changed"
        )
    name, archive = pack(topology, host, release, folder)
    target = f"{PLACE}.d/{name}"
    if before == target:
        return False
    run(
        topology,
        host,
        f"set -e; mkdir -p {PLACE}.d; rm -rf {target}.part; mkdir {target}.part;"
        f" tar -xz --no-same-owner -C {target}.part;"
        # Its own files alone: flushing the whole disk would hold up a store that is on it.
        f" find {target}.part -type f -print0 | xargs -0 -P 16 -n 32 sync;"
        f" rm -rf {target}; mv {target}.part {target};"
        f" ln -sfn {target} {PLACE}.new; mv -T {PLACE}.new {PLACE};"
        # The tree before stays: an apply may still be running from it.
        f" find {PLACE}.d -mindepth 1 -maxdepth 1 ! -name {name}"
        f" ! -name '{Path(before).name or name}' -exec rm -rf {{}} +",
        archive,
    )
    return not before


def stream(
    topology: Topology, host: str, command: str, label: str = "", data: bytes | None = None
) -> int:
    """Run ``command`` as root with its output passed on, as text; its exit code, never negative: 128 + N when
    signal N ended ssh, as a shell has it. With ``label`` before each line, several may run at once.
    ``data``: its standard input."""
    terminal = sys.stdout.isatty() and not label and data is None
    sys.stdout.flush()
    with subprocess.Popen(
        ssh(topology, host, command, terminal=terminal),
        stdin=None if terminal else subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        if process.stdin:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(data or b"")
        try:
            for said in shown.pieces(process.stdout, terminal):
                with PRINTING:
                    if label:
                        print(f"{label}{said.rstrip()}", flush=True)
                    else:
                        shown.show(said)
        except BrokenPipeError:
            # Who reads has had enough; a machine that works goes on all the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            process.terminate()
            return READER_GONE
    code = process.returncode
    return code if code >= 0 else 128 - code
