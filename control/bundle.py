"""The tree and a machine's own pillar, packed and uploaded to it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from . import atomic_file, git, local_state, machine_pillar, paths, ssh
from .application import COUNTER, Application
from .errors import UserError
from .paths import ROOT
from .topology import Topology

# What a machine needs to converge itself.
UPLOADED = ("Saltfile", "salt", "pillar", "bootstrap")
# Files of the pillar that are one machine's own: written here, never taken from the checkout.
OWN = (Path(paths.IDENTITY).name, Path(paths.SECRETS).name)


def _list_files() -> Iterable[Path]:
    """Files of the uploaded parts, in a fixed order; what git ignores stays at home."""
    names = git.list_files(ROOT, *UPLOADED)
    if names is not None:
        yield from (path for name in names if (path := ROOT / name).is_file())
        return
    # Not a git checkout: everything that is not made here.
    for part in UPLOADED:
        start = ROOT / part
        for path in [start] if start.is_file() else sorted(start.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.name not in OWN:
                yield path


def pack(
    topology: Topology,
    host: str,
    release: str,
    folder: Path | None = None,
    app: Application = COUNTER,
) -> tuple[str, bytes]:
    """
    The tree for one machine as ``(name, tar)``: states, pillar, bootstrap, the artifact, who the
    machine is and the secrets that are its own. The name is a hash of the content, so an
    unchanged tree is not uploaded again. ``folder``: where the artifact is; by default where it is
    built. ``app``: whose it is.
    """
    # In a cloud, the addresses are the cloud's (control/cloud/addresses.py).
    cloud = local_state.folder(topology) / "cloud.yaml"
    written = ROOT / "pillar" / "topologies" / f"{topology.name}.yaml"
    members: list[tuple[str, bytes, int]] = [
        (
            str(path.relative_to(ROOT)),
            (cloud if path == written and cloud.exists() else path).read_bytes(),
            0o755 if os.access(path, os.X_OK) else 0o644,
        )
        for path in _list_files()
        if machine_pillar.is_included(topology, str(path.relative_to(ROOT)))
    ]
    members += machine_pillar.make_files(topology, host, release, app)
    for suffix in (".tar.gz", ".tar.gz.sha256", ".tar.gz.sig"):
        path = (folder or ROOT / "dist") / f"{app.name}-{release}{suffix}"
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
    identity = machine_pillar.identity(topology, name, release, address="auto")
    target = ROOT / paths.IDENTITY
    atomic_file.write(target, yaml.safe_dump(identity), 0o644)


def _unpack_script(name: str, before: str) -> str:
    """Shell that makes the archive on its standard input the machine's tree ``name``; that of ``before`` stays,
    for an apply may still be running from it. Two of them at a time do not touch each other's half-unpacked one."""
    folder = f"{paths.PLACE}.d"
    target = f"{folder}/{name}"
    return (
        f"set -e; mkdir -p {folder}; part=$(mktemp -d {target}.XXXXXX.part); chmod 755 $part;"
        " tar -xz --no-same-owner -C $part;"
        # Its own files alone: flushing the whole disk would hold up a store that is on it.
        " find $part -type f -print0 | xargs -0 -P 16 -n 32 sync;"
        f" rm -rf {target}; mv $part {target};"
        f" ln -sfn {target} {paths.PLACE}.new; mv -T {paths.PLACE}.new {paths.PLACE};"
        f" find {folder} -mindepth 1 -maxdepth 1 ! -name {name} ! -name '{before}'"
        # Of an upload that was cut off, not of one under way.
        r" \( ! -name '*.part' -o -mmin +60 \) -exec rm -rf {} +"
    )


def upload(
    topology: Topology,
    host: str,
    release: str,
    folder: Path | None = None,
    app: Application = COUNTER,
) -> bool:
    """Put the tree on a machine, whole, by swapping a link, unless it is there; ``folder`` as
    in :func:`pack`. Whether the machine is a new one: it had no tree before."""
    addresses = f"{paths.PLACE}/pillar/topologies/{topology.name}.yaml"
    answer = ssh.run(
        topology,
        host,
        f"readlink {paths.PLACE} || echo; grep -qs '^ *public:' {addresses} && echo cloud || true",
    )
    before, _, kind = (word.strip() for word in answer.partition("\n"))
    cloud = local_state.folder(topology) / "cloud.yaml"
    if kind and not cloud.exists():
        raise UserError(
            f"{host} is in a cloud, and its addresses are not here: bring {cloud} from where the"
            f" machines were made: {local_state.import_hint(topology)}; for a pipeline DEPLOY_STATE, nothing was"
            " changed"
        )
    name, archive = pack(topology, host, release, folder, app)
    target = f"{paths.PLACE}.d/{name}"
    if before == target:
        return False
    ssh.run(topology, host, _unpack_script(name, Path(before).name or name), archive)
    return not before
