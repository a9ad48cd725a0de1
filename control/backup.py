"""Backups of the store, and bringing one back: `make backup`, `make restore`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

from . import remote
from .errors import Refused
from .topology import Topology

PROGRAM = "/usr/local/sbin/stack-backup"


def stores(where: Topology) -> list[str]:
    """Names of the machines that hold data."""
    return where.with_role("store")


def _one(where: Topology) -> str:
    """The machine that is meant: HOST, or the only store there is."""
    given = os.environ.get("HOST")
    found = stores(where)
    if given and where.machine(given).name not in found:
        raise Refused(f"HOST={given}: has no store; these have: {', '.join(found)}", 2)
    if not given and len(found) > 1:
        raise Refused(f"HOST=… is needed, one of {', '.join(found)}", 2)
    return given or found[0]


def _setting(name: str) -> bool:
    given = os.environ.get(name) or "0"
    if given not in ("0", "1"):
        raise Refused(f"{name}={given}: use {name}=1", 2)
    return given == "1"


def take(where: Topology) -> int:
    """A backup of every store, now."""
    for host in [_one(where)] if os.environ.get("HOST") else stores(where):
        print(f"==> {host}", flush=True)
        # What this run said, and nothing of earlier ones.
        code = remote.stream(
            where,
            host,
            "systemctl start stack-backup.service 2>/dev/null; code=$?; journalctl --sync;"
            " journalctl -q -o cat"
            " _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID stack-backup.service);"
            " exit $code",
        )
        if code:
            raise Refused(f"{host}: the backup failed (see above)")
    return 0


def restore(where: Topology) -> int:
    """
    The last backup, or VERSION, back into the store: the backups and what runs are shown, then it
    asks, unless YES=1. TEST=1: a drill, which does all but the change.
    """
    host = _one(where)
    words = [PROGRAM, "restore"]
    data = b""
    if os.environ.get("VERSION"):
        words.append(os.environ["VERSION"])
    drill = _setting("TEST")
    words += [f"--{name}" for name, on in (("drill", drill), ("force", _setting("FORCE"))) if on]
    if os.environ.get("IDENTITY"):
        path = Path(os.environ["IDENTITY"]).expanduser()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Refused(f"IDENTITY={path}: {error.strerror}", 2) from error
        words.append("--identity")
    if not drill:
        if not _setting("YES"):
            _ask(where, host)
        words.append("--yes")
    code = remote.stream(where, host, shlex.join(words), data=data)
    if code:
        raise Refused(f"{host}: the restore did not succeed (see above)", code if code == 3 else 1)
    return 0


def _ask(where: Topology, host: str) -> None:
    print(remote.run(where, host, f"{PROGRAM} list"), end="")
    text = remote.run(where, host, f"{PROGRAM} list --json")
    found = json.loads(text)
    if not found:
        raise Refused(f"{host}: there is no backup")
    names = [one["name"] for one in found]
    own = [one["name"] for one in found if one.get("own", True)]
    if not own and not os.environ.get("VERSION"):
        raise Refused(f"{host}: no backup of its own (see above): VERSION=… names another's", 2)
    chosen = os.environ.get("VERSION") or own[-1]
    if chosen not in names:
        raise Refused(f"VERSION={chosen}: no such backup (see above)", 2)
    count = next(one["count"] for one in found if one["name"] == chosen)
    if not sys.stdin.isatty():
        raise Refused("not a terminal: pass YES=1 to confirm; TEST=1 is a drill", 2)
    print(
        f"{host}: replace what is in the store by {chosen}, count {count}? [y/N] ",
        end="",
        flush=True,
    )
    if input().strip().lower() not in ("y", "yes"):
        raise Refused("not restored")
