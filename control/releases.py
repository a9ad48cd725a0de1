"""
Which release belongs on which machine: what each was brought to, which a new one gets. What a machine came to
run stays on it, and is what every later apply keeps. docs/decisions/0017-deploys.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from . import fleet, host_programs, local_state, ssh
from .application import COUNTER, NAME, Application
from .artifacts import files, repository
from .errors import ControlError, OperationError, UserError
from .options import Options
from .paths import ROOT
from .topology import Topology

# Fetched artifacts; a second deploy of the same one asks the repository for its hash alone.
FETCHED = ROOT / ".cache" / "releases"


def application_hosts(topology: Topology) -> list[str]:
    """Application machines, in the order in which they are deployed to."""
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    return topology.with_role("app")


def read_history(topology: Topology, host: str, app: Application = COUNTER) -> list[dict[str, Any]]:
    """Releases that were good on a machine, the one in use last."""
    text = ssh.run(topology, host, f"cat {app.history} 2>/dev/null || true").strip()
    try:
        known = json.loads(text)["history"] if text else []
        # They become names of files here, and words on the terminal.
        for entry in known:
            files.check_version(entry["version"])
    except (KeyError, TypeError, ValueError, ControlError) as error:
        raise OperationError(f"{host}: {app.history} is damaged: {error}") from error
    return list(known)


def read_current(topology: Topology, host: str, app: Application = COUNTER) -> str | None:
    """The release that a machine was brought to; None for one that never was."""
    known = read_history(topology, host, app)
    return str(known[-1]["version"]) if known else None


def read_attempts(
    topology: Topology, host: str, app: Application = COUNTER
) -> list[dict[str, Any]]:
    """The last attempts on a machine, the oldest first, as its log has them whole; OperationError where it cannot be asked."""
    found = []
    for line in ssh.run(
        topology, host, f"tail -n 200 {app.attempts} 2>/dev/null || true"
    ).splitlines():
        with contextlib.suppress(ValueError):
            attempt = json.loads(line)
            if isinstance(attempt, dict) and {"to", "outcome"} <= attempt.keys():
                found.append(attempt)
    return found


def read_failed(topology: Topology, host: str, app: Application = COUNTER) -> list[str]:
    """Releases whose last attempt on a machine failed; none where it cannot be asked."""
    outcomes: dict[str, str] = {}
    with contextlib.suppress(ControlError):
        for attempt in read_attempts(topology, host, app):
            outcomes[str(attempt["to"])] = attempt["outcome"]
    return [version for version, outcome in outcomes.items() if outcome == "failed"]


def describe_host(
    topology: Topology, host: str, app: Application = COUNTER
) -> tuple[list[str], list[str]]:
    """The releases that run on a machine, and lines for a person that also say what it can go back to; one line
    that says why when it cannot be asked."""
    try:
        answer = ssh.run(topology, host, host_programs.releases(topology, app))
        overview = json.loads(answer)["local"]
        running = overview["running"]
        versions = sorted({files.check_version(version) for version in running.values()})
        good = [entry["version"] for entry in overview["history"]]
        before = [version for version in good if version != good[-1]]
        units = ", ".join(f"@{number} {version}" for number, version in sorted(running.items()))
        lines = [f"  {host}: {units or 'nothing'}; back: {before[-1] if before else '-'}"]
        others = [version for version in overview["installed"] if version not in versions]
        if others:
            lines.append(f"  {'':{len(host)}}  also installed: {', '.join(map(str, others))}")
        return versions, lines
    except (ControlError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [], [f"  {host}: cannot be asked: {str(error).splitlines()[0]}"]


def find_for_new_machines(topology: Topology) -> dict[str, dict[str, str]]:
    """
    What application machines that were never brought to a release shall run: what the others run, not
    what this checkout happens to build. ``{host: {version: its sha256}}``, one version where they agree;
    empty where none runs any.
    """
    apps = topology.with_role("app")
    if len(apps) < 2:
        return {}
    ends: dict[str, dict[str, Any]] = {}
    new: set[str] = set()

    def ask(host: str) -> int:
        # One that is unreachable is named where it is worked on.
        with contextlib.suppress(ControlError):
            if known := read_history(topology, host):
                ends[host] = known[-1]
            else:
                new.add(host)
        return 0

    fleet.each(topology, ask, apps)
    runs = {
        str(ends[host]["version"]): str(ends[host].get("sha256") or "") for host in sorted(ends)
    }
    return {host: runs for host in apps if host in new and runs}


def choose_for_host(
    host: str, built: str, runs: dict[str, str], options: Options
) -> tuple[str, Path | None]:
    """
    The release to carry to ``host``, and the folder where its artifact is (None: where it was built).
    ``runs`` as :func:`find_for_new_machines` gives it. ControlError where that release is not to be had.
    """
    if not runs or list(runs) == [built]:
        return built, None
    if len(runs) > 1:
        raise UserError(
            f"{host}: the other machines run different releases ({', '.join(runs)}): 'make deploy"
            " VERSION=…' brings them to one, then this one comes to it"
        )
    ((version, wanted),) = runs.items()
    stored, folder = repository.open_repository(options), FETCHED
    try:
        _, digest = repository.fetch(stored, version, FETCHED)
    except ControlError as error:
        folder = ROOT / "dist"
        path = folder / files.archive_name(version)
        if not path.is_file() or not path.with_name(f"{path.name}.sha256").is_file():
            raise OperationError(
                f"{host}: the others run {version}, which is to be had neither from {stored.where} nor"
                f" in dist/: 'make publish' it from its checkout, or deploy another ({error})"
            ) from error
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if wanted and digest != wanted:
        raise OperationError(
            f"{host}: the others run {version} with sha256 {wanted}, but {stored.where} has {digest}"
        )
    fleet.say(f"{host}: gets {NAME} {version}, as the others run; this checkout builds {built}")
    return version, folder


def warn_of_other_releases(topology: Topology, built: str) -> None:
    """Say on stderr where a machine runs another release than this checkout builds: it stays so."""
    with contextlib.suppress(ControlError):
        for host in application_hosts(topology):
            now = read_current(topology, host)
            if now and now != built:
                print(
                    f"{host}: {NAME} stays on {now}, as deployed; this checkout builds {built}:"
                    f" 'make publish' and 'make deploy VERSION={built}' bring it there",
                    file=sys.stderr,
                )
