"""`make deploy`."""

from __future__ import annotations

import contextlib
import time

from .. import application, releases, settings, stores
from ..artifacts import files, repository
from ..artifacts.files import NoListing, Repository
from ..command import make_command
from ..deploy import lock, roll
from ..errors import UserError
from ..options import Options
from ..topology import Topology


def _refuse_without_version(stored: Repository) -> UserError:
    try:
        newest = [release.version for release in stored.releases()][-3:]
    except NoListing as error:
        return UserError(f"VERSION=… is needed; {error}", 2)
    known = ", ".join(reversed(newest)) or "none yet: 'make publish' stores this checkout's"
    return UserError(f"VERSION=… is needed; newest in {stored.where}: {known}", 2)


def run(topology: Topology, options: Options) -> int:
    """Roll a stored release out over the application machines.

    One machine after the other, each out of rotation meanwhile, without a lost request. Where it fails on one,
    the machines before it go back to what they ran.
    """
    settings.check(topology)
    app = application.find(options, topology)
    version, stored = options.version, repository.open_repository(options, app.name)
    if not version:
        raise _refuse_without_version(stored)
    files.check_version(version)
    stores.require_master(topology, f"deploy of {version}")
    began = time.monotonic()
    hosts = releases.application_hosts(topology)
    request = roll.make_request("deploy", version, options, app)
    with contextlib.ExitStack() as locks:
        with roll.record_refusal(topology, hosts, request, app):
            path, digest = repository.fetch(stored, version, releases.FETCHED)
            fetched = time.monotonic() - began
            size = path.stat().st_size / 1e6
            print(f"{path.name}, {size:.1f} MB, sha256 {digest}, from {stored.where}", flush=True)
            held = lock.hold_all(locks, topology, hosts, request)
            for host in hosts:
                roll.wait_for_roll(topology, host)
        spent = roll.roll(topology, request, options.pillar_arguments, releases.FETCHED, held, app)
    total = time.monotonic() - began
    parts = {"fetch": fetched, **spent}
    print(f"{total:.0f} s in all: " + ", ".join(f"{name} {s:.1f} s" for name, s in parts.items()))
    return 0


COMMAND = make_command("deploy", run, "app", "version", "why", "pillar")
