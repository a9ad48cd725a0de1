"""`make releases`."""

from __future__ import annotations

import sys

from .. import application, local_state, releases
from ..artifacts import repository
from ..artifacts.files import NoListing, StoredRelease
from ..command import make_command
from ..errors import ControlError, OperationError
from ..options import Options
from ..terminal import printable
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Show what is stored, and which release runs where.

    The latter also when the repository cannot be asked.
    """
    app = application.find(options, topology)
    place, trouble, unlisted = repository.open_repository(options, app.name), "", ""
    stored: list[StoredRelease] = []
    hashes: dict[str, str | None] = {}
    try:
        stored = place.releases()
        # Newest ones only: each hash is a question to the repository.
        for release in stored[-20:]:
            hashes[release.version] = repository.read_hash(place, release.version)
    except NoListing as error:
        unlisted = str(error)
    except ControlError as error:
        trouble = str(error)
    running: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    lines: list[str] = []
    for host in releases.application_hosts(topology) if local_state.is_up(topology) else []:
        versions, described = releases.describe_host(topology, host, app)
        lines += described
        for version in versions:
            running.setdefault(version, []).append(host)
        for version in releases.read_failed(topology, host, app):
            failed.setdefault(version, []).append(host)
    if unlisted:
        # It can be asked for what runs, by name.
        hashes = {version: repository.read_hash(place, version) for version in sorted(running)}
        stored = [StoredRelease(version) for version, digest in hashes.items() if digest]
        print(f"{unlisted}; of what runs:")
    else:
        print(f"stored in {place.where}:")
    for release in stored:
        digest = hashes.get(release.version) or ""
        hosts = running.get(release.version)
        runs = f"  <- {', '.join(hosts)}" if hosts else ""
        if release.version in failed:
            runs += f"  failed on {', '.join(failed[release.version])}"
        line = f"  {release.version:<40} {digest[:16]:<16}  {release.at}{runs}"
        print(printable(line.rstrip()))
    if not stored and not trouble and not unlisted:
        print(f"  nothing yet: 'make publish{app.option}' stores this checkout's release")
    print(f"machines of topology {topology.name}:")
    print("\n".join(map(printable, lines)) or "  none is up")
    if trouble:
        raise OperationError(trouble)
    missing = sorted(set(running) - {release.version for release in stored})
    if missing:
        line = f"not in this repository, but running: {', '.join(missing)}"
        print(printable(line), file=sys.stderr)
    return 0


COMMAND = make_command("releases", run, "app")
