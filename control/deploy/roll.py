"""
A roll over the application machines: a deploy, or a rollback.

It brings a stored release and this checkout's tree to one application machine after the
other and converges the application's formula there: the same states as a first install or a changed setting
(salt/_states/release.py). What is asked for travels beside the pillar, with the one run; what a machine
came to run stays on it, and is what every later apply keeps. docs/decisions/0017-deploys.md.
"""

from __future__ import annotations

import contextlib
import getpass
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from .. import bundle, fleet, host_programs, releases, ssh
from ..application import COUNTER, Application
from ..containers import images as container_images
from ..errors import ControlError, OperationError, UserError
from ..options import Options
from ..terminal import printable
from ..topology import Topology
from .lock import Held

# Held by an apply as long as it runs (bootstrap/converge). A roll goes on without its deployer.
APPLYING = "/run/stack/apply.lock"
# A shell's: who holds it, by its note; not by that of a process that does not (proc_locks(5)).
_APPLIER = (
    f"pid=$(sed -n 's/^process \\([0-9]*\\),.*/\\1/p' {APPLYING});"
    f' grep -q " FLOCK .* WRITE $pid [^ ]*:$(stat -c %i {APPLYING}) " /proc/locks'
    f" && cat {APPLYING} || echo 'process unknown'"
)
# Seconds to wait for such a roll, and for a machine to answer again.
ROLL_PATIENCE, REACH_PATIENCE = 900, 120


def find_deployer(options: Options) -> str:
    """Who deploys, for the lock and the audit log."""
    if options.ci_job_url:
        return f"{options.gitlab_user_login or 'ci'} by {options.ci_job_url}"
    return f"{options.sudo_user or getpass.getuser()}@{socket.gethostname()}"


def make_request(
    action: str, version: str, options: Options, app: Application = COUNTER
) -> dict[str, str]:
    """``{action, name, version, who, why, id}`` of one attempt, as machines record it."""
    return {
        "action": action,
        "name": app.name,
        "version": version,
        "who": find_deployer(options),
        "why": options.why,
        "id": uuid.uuid4().hex[:12],
    }


def converge_release(
    topology: Topology,
    host: str,
    request: dict[str, str],
    words: list[str],
    app: Application = COUNTER,
) -> int:
    """The formula on one machine, with progress; the exit code."""
    return ssh.stream(topology, host, host_programs.roll(topology, app, request, words))


def wait_for_roll(topology: Topology, host: str) -> None:
    """Return once no apply runs on a machine: what it runs is not settled before."""
    free = f"test ! -e {APPLYING} || flock -n {APPLYING} true"
    holder = ssh.run(topology, host, f"{free} || {{ {_APPLIER}; }}").strip()
    if holder:
        print(f"==> {host}: waiting for the end of an apply that runs there ({holder})", flush=True)
        late = f"an apply has been running for more than {ROLL_PATIENCE} s: {holder}"
        ssh.run(
            topology,
            host,
            f"flock -w {ROLL_PATIENCE} {APPLYING} true || {{ echo {shlex.quote(late)} >&2; exit 1; }}",
            fresh=True,
        )


def _read_outcome(
    topology: Topology, host: str, request: dict[str, str], app: Application = COUNTER
) -> tuple[str, str]:
    """What came of this very attempt on a machine and why, as its record says; empty without any end."""
    for attempt in reversed(releases.read_attempts(topology, host, app)):
        if (attempt.get("id"), attempt["to"]) == (request["id"], request["version"]):
            reason = str(attempt.get("reason") or "").partition("\n")[0]
            return printable(str(attempt["outcome"])), printable(reason)
    return "", ""


def _read_reason(
    topology: Topology, host: str, request: dict[str, str], app: Application = COUNTER
) -> str:
    """Why this very attempt failed, to be said last: what the machine printed is long."""
    with contextlib.suppress(ControlError):
        if reason := _read_outcome(topology, host, request, app)[1]:
            return f": {reason}"
    return " (see above)"


def _converge_and_judge(
    topology: Topology, host: str, request: dict[str, str], words: list[str], app: Application
) -> int:
    """
    :func:`converge_release`, judged by the machine where the connection broke: its roll went on without us.
    ControlError when it does not answer again.
    """
    code = converge_release(topology, host, request, words, app)
    # 255 is ssh's own; from 128 on a signal ended it.
    if code < 128:
        return code
    print(f"==> {host}: the connection broke; what came of it there is asked", flush=True)
    deadline = time.monotonic() + REACH_PATIENCE
    while True:
        try:
            wait_for_roll(topology, host)
            (outcome, _), now = (
                _read_outcome(topology, host, request, app),
                releases.read_current(topology, host, app),
            )
            break
        except ControlError as error:
            if time.monotonic() > deadline:
                raise OperationError(
                    f"the connection broke, and WHAT IT RUNS IS NOT KNOWN ({error}): 'make releases'"
                    " tells, once it answers"
                ) from error
            time.sleep(2)
    print(f"==> {host}: {outcome or 'nothing began'}, it runs {now}", flush=True)
    return 0 if now == request["version"] and outcome in ("succeeded", "unchanged") else code


def roll(
    topology: Topology,
    request: dict[str, str],
    words: list[str],
    bring: Path | None,
    held: Mapping[str, Held] | None = None,
    app: Application = COUNTER,
) -> dict[str, float]:
    """
    Converge every application machine in order, those first that are not in use; at the first failure,
    put those before it back.
    Seconds spent by what. ``bring``: folder of the artifact, to be uploaded with the tree. ``held``: each
    machine's lock, asked before it is touched.
    """
    spent = {"carry": 0.0, "states": 0.0}
    held = held or {}
    done: list[tuple[str, str | None]] = []
    order = releases.application_hosts(topology)
    if len(order) > 1:
        order = fleet.unused_first(topology, order)
    for host in order:
        old, code, reason = None, 1, ""
        try:
            for each in held.values():
                each()
            old = releases.read_current(topology, host, app)
            print(f"==> {host}: {old or 'nothing'} -> {request['version']}", flush=True)
            began = time.monotonic()
            if bring and topology.has_containers:
                container_images.bring_release(topology, host, request["version"], bring, app)
            elif bring:
                bundle.upload(topology, host, request["version"], bring, app)
            spent["carry"] += time.monotonic() - began
            began = time.monotonic()
            code = _converge_and_judge(topology, host, request, words, app)
            spent["states"] += time.monotonic() - began
        except ControlError as error:
            reason = f": {error}"
        if not code:
            done.append((host, old))
            if len(topology.machines) > 1:
                # On a machine of its own the roll sees this itself: the edge is beside it.
                try:
                    fleet.wait_for_edges(topology, [host])
                except ControlError as error:
                    back = _roll_back(topology, request, host, done, held, app)
                    raise OperationError(
                        f"{host} runs {request['version']}, but {error}{back}"
                    ) from error
            continue
        reason = reason or _read_reason(topology, host, request, app)
        back = _roll_back(topology, request, host, done, held, app)
        what = f"{request['action']} of {request['version']}"
        raise OperationError(f"{host}: the {what} failed{reason}{back}", code)
    return spent


def _roll_back(
    topology: Topology,
    request: dict[str, str],
    failed: str,
    done: list[tuple[str, str | None]],
    held: Mapping[str, Held],
    app: Application,
) -> str:
    """The machines before the failed one run what they ran before; what came of it, in words."""
    words = []
    for host, old in reversed(done):
        if old in (None, request["version"]):
            continue
        print(f"==> {host}: back to {old}, because {failed} failed", flush=True)
        again = {
            **request,
            "action": "rollback",
            "version": str(old),
            "why": f"{request['action']} of {request['version']} failed on {failed}",
        }
        code, reason = 1, ""
        try:
            # Without its lock it is another's by now, and what runs there too.
            if host in held:
                held[host]()
            code = _converge_and_judge(topology, host, again, [], app)
        except ControlError as error:
            print(f"{host}: {error}", file=sys.stderr)
            reason = f" ({error})"
        words.append(
            f"{host} COULD NOT BE PUT BACK{reason}" if code else f"{host} is back on {old}"
        )
    return "; " + ", ".join(words) if words else ""


@contextlib.contextmanager
def record_refusal(
    topology: Topology,
    machines: list[str],
    request: dict[str, str],
    app: Application = COUNTER,
) -> Iterator[None]:
    """What is refused in here, before a machine's own states see it, is a line in the record of each
    machine that can be reached."""
    try:
        yield
    except ControlError as error:
        command = host_programs.record_refusal(topology, app, {**request, "reason": str(error)})

        def tell(host: str) -> int:
            # The reason that is told is the first one, whatever else is wrong with a machine.
            with contextlib.suppress(ControlError):
                ssh.run(topology, host, command)
            return 0

        fleet.each(topology, tell, machines)
        raise


def choose_rollback_target(
    topology: Topology, machines: list[str], wanted: str, app: Application = COUNTER
) -> str:
    """The release that all machines can go back to: ``wanted``, or the last good one before this."""
    targets: dict[str, str] = {}
    for host in machines:
        versions = [str(entry["version"]) for entry in releases.read_history(topology, host, app)]
        before = [version for version in versions if version != versions[-1]]
        if wanted and wanted not in versions:
            known = ", ".join(dict.fromkeys(reversed(before))) or "none"
            raise UserError(
                f"{host}: {wanted} was never good here; a rollback goes to one of: {known}."
                f" Anything stored can be deployed: 'make deploy{app.option} VERSION={wanted}'"
            )
        if not wanted and not before:
            now = versions[-1] if versions else "nothing"
            raise UserError(
                f"{host}: nothing further to go back to: {now} is the first good release of its"
                f" history; 'make releases{app.option}' shows what is stored, 'make deploy{app.option} VERSION=…' goes to any"
            )
        targets[host] = wanted or before[-1]
    if len(set(targets.values())) > 1:
        listed = ", ".join(f"{host}: {version}" for host, version in targets.items())
        raise UserError(
            f"the machines would go back to different releases ({listed}): say VERSION=…"
        )
    return next(iter(targets.values()))
