"""Backups of the store, and bringing one back."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path

from . import application, ssh, stores
from .cloud import addresses
from .confirmation import confirm
from .errors import ControlError, OperationError, UserError
from .options import Options
from .topology import Topology

PROGRAM = "/usr/local/sbin/stack-backup"


def choose_host(topology: Topology, host: str) -> str:
    """The machine that is meant: ``host``, or the store that has the newest backup of its own."""
    machines = topology.with_role("store")
    if host and topology.machine(host).name not in machines:
        raise UserError(f"HOST={host}: has no store; these have: {', '.join(machines)}", 2)
    if host or len(machines) == 1:
        return host or machines[0]
    newest: dict[str, int] = {}
    trouble = []
    for one in machines:
        # One that is lost keeps nobody from restoring what another one has.
        try:
            newest[one] = _newest(topology, one)
        except ControlError as error:
            trouble.append(str(error).splitlines()[0])
            print(f"left out: {trouble[-1]}", file=sys.stderr)
    if not newest:
        raise OperationError(f"no store can be asked for its backups: {trouble[0]}")
    return max(newest, key=lambda one: newest[one])


def _newest(topology: Topology, host: str) -> int:
    """When the newest backup of its own was taken, in seconds since 1970; 0: there is none."""
    backups = json.loads(ssh.run(topology, host, f"{PROGRAM} list --json"))
    return max((int(one["time"]) for one in backups if one.get("own", True)), default=0)


def take(topology: Topology, host: str) -> None:
    """A backup of the store on ``host``, now."""
    print(f"==> {host}", flush=True)
    # What this run said, and nothing of earlier ones.
    code = ssh.stream(
        topology,
        host,
        "systemctl start stack-backup.service 2>/dev/null; code=$?; journalctl --sync;"
        # A pager would wait for somebody's key, at a terminal, where a line is longer than that is wide.
        " journalctl -q --no-pager -o cat"
        " _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID stack-backup.service)"
        " SYSLOG_IDENTIFIER=stack-backup;"
        " exit $code",
    )
    if code:
        raise OperationError(f"{host}: the backup failed (see above)")


def restore(topology: Topology, host: str, options: Options) -> int:
    """
    The last backup, or ``version``, back into the store on ``host``: the backups and what runs are shown,
    then it asks, unless ``yes``. ``test``: a drill, which does all but the change. ``app``: the state folder of that
    application instead.
    """
    words = [PROGRAM, "restore", *filter(None, [options.version])]
    folder = application.find(options, topology).name if options.app else ""
    if folder:
        words += ["--folder", folder]
    identity = b""
    if options.test:
        words.append("--drill")
    if options.force:
        words.append("--force")
    if options.identity:
        path = Path(options.identity).expanduser()
        try:
            identity = path.read_bytes()
        except OSError as error:
            raise UserError(f"IDENTITY={path}: {error.strerror}", 2) from error
        words.append("--identity")
    if not options.test:
        _confirm(topology, host, options, folder)
        words.append("--yes")
    is_set = stores.are_several(topology) and not options.test and not folder
    with contextlib.ExitStack() as stack:
        if is_set:
            # Into the master: its replicas then copy what it has.
            away = stores.make_master(topology, host)
            stack.enter_context(stores.hold_votes(topology, away))
        code = ssh.stream(topology, host, shlex.join(words), data=identity)
    if code:
        raise OperationError(
            f"{host}: the restore did not succeed (see above)", code if code == 3 else 1
        )
    if is_set and (master := stores.look(topology)["master"]) != host:
        # Its replicas have copied what it has, and so has the one that was restored.
        raise OperationError(
            f"{master} became the master meanwhile, so nothing was restored: again"
        )
    return 0


def _confirm(topology: Topology, host: str, options: Options, folder: str) -> None:
    """Show what there is, and ask for the topology's name. Given beforehand, nothing is asked of the machine:
    its own program checks as much again. ``folder``: the application whose state folder it is, instead of the store."""
    is_lab = not addresses.is_cloud(topology)
    what = f"the state folder of {folder}" if folder else "what is in the store"
    if options.yes:
        confirm(
            f"{host}: replace {what} of topology {topology.name}",
            topology.name,
            options.yes,
            is_lab=is_lab,
            refused="not restored",
        )
        return
    version = options.version
    print(ssh.run(topology, host, f"{PROGRAM} list"), end="")
    backups = json.loads(ssh.run(topology, host, f"{PROGRAM} list --json"))
    if not backups:
        raise OperationError(f"{host}: there is no backup")
    counts = {backup["name"]: backup["count"] for backup in backups}
    own = [backup["name"] for backup in backups if backup.get("own", True)]
    if not own and not version:
        raise UserError(f"{host}: no backup of its own (see above): VERSION=… names another's", 2)
    name = version or own[-1]
    if name not in counts:
        raise UserError(f"VERSION={name}: no such backup (see above)", 2)
    confirm(
        f"{host}: replace {what} of topology {topology.name} by "
        + (f"that of {name}" if folder else f"{name}, count {counts[name]}"),
        topology.name,
        "",
        instead="; TEST=1 is a drill",
        refused="not restored",
    )
