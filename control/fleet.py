"""
Work on many machines: in which order, how many at once, and what happens when one cannot be
reached. For every command that says ``for machine in …``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from . import paths, ssh
from .errors import ControlError
from .topology import ROLES, Topology

# Machines worked on at the same time.
AT_ONCE = 8
# Seconds an edge may take to use again what was converged.
PATIENCE = 60


def order(topology: Topology, hosts: Iterable[str] | None = None) -> list[str]:
    """Machines in the order in which they are converged: stores, applications, edges, monitors;
    one with several roles by the first of them."""
    chosen = list(topology.machines) if hosts is None else list(hosts)
    return sorted(chosen, key=lambda host: stage(topology, host))


def stage(topology: Topology, host: str) -> int:
    return min((ROLES.index(role) for role in topology.machines[host].roles), default=len(ROLES))


def batches(topology: Topology, hosts: Iterable[str], fresh: Iterable[str] = ()) -> list[list[str]]:
    """
    Groups to be worked on one after the other. Of machines that serve already with the same first
    role never more than a quarter at once (one at least), so that the rest goes on serving; those
    that are ``fresh``, and so serve nobody yet, all at once. Where nobody serves yet, only the
    applications wait: they are not ready without their store.
    """
    new, found = set(fresh), []
    chosen = list(hosts)
    if new >= set(topology.machines):
        apps = [host for host in chosen if stage(topology, host) == ROLES.index("app")]
        return [group for group in ([h for h in chosen if h not in apps], apps) if group]
    for number in sorted({stage(topology, host) for host in chosen}):
        same = [host for host in chosen if stage(topology, host) == number]
        first = [host for host in same if host in new]
        rest = [host for host in same if host not in new]
        if first:
            found.append(first)
        size = max(1, sum(stage(topology, host) == number for host in topology.machines) // 4)
        found += [rest[at : at + size] for at in range(0, len(rest), size)]
    return found


def each(
    topology: Topology, work: Callable[[str], int], hosts: Sequence[str] | None = None
) -> dict[str, int]:
    """
    ``work(host)`` for every machine, several at once: ``{host: exit code}``, in the given order.
    A machine that refuses or cannot be reached is named on stderr and counts as 1; the others go on.
    """
    chosen = list(topology.machines) if hosts is None else list(hosts)
    with concurrent.futures.ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        codes = pool.map(lambda host: guarded(host, lambda: work(host)), chosen)
        return dict(zip(chosen, codes, strict=True))


def guarded(host: str, work: Callable[[], int]) -> int:
    """The exit code of ``work()``; 1, and named on stderr, when it raises a ControlError."""
    try:
        code = work()
    except ControlError as error:
        text = str(error)
        say(text if text.startswith(f"{host}:") else f"{host}: {text}", file=sys.stderr)
        return 1
    # Of ssh killed by a signal, the code is negative.
    return code if code >= 0 else 128 - code


def say(text: str, file: object = None) -> None:
    """A line of its own, whatever other machines say meanwhile."""
    with ssh.PRINTING:
        print(text, file=file or sys.stdout, flush=True)  # type: ignore[arg-type]


def label(topology: Topology, host: str) -> str:
    """What stands before each line of a machine; nothing where there is only one."""
    if len(topology.machines) == 1:
        return ""
    return host.ljust(max(map(len, topology.machines))) + "  "


class NotReached(ControlError):
    """An edge that cannot be asked."""


def wait_for_edges(
    topology: Topology,
    hosts: Sequence[str],
    away: set[str] | None = None,
    known: Iterable[str] = (),
) -> None:
    """
    Return once every edge sends requests to the instances of these machines, as far as it knows
    any; ControlError, with what it says instead, after a minute. So that the next ones are not drained
    while these are not yet in use.

    away
        edges that are not asked, since they could not be before: one that cannot be reached is
        added, and named unless it is among the ``known``; without this, it is an error
    """
    apps = [host for host in hosts if "app" in topology.machines[host].roles]
    for edge in topology.with_role("edge"):
        if away is not None and edge in away:
            continue
        try:
            if apps:
                _wait_for_edge(topology, edge, *apps)
        except NotReached as error:
            if away is None:
                raise
            away.add(edge)
            if edge not in known:
                say(f"{edge}: not asked whether it uses {', '.join(apps)}: {error}", sys.stderr)


def unused_first(topology: Topology, hosts: Sequence[str]) -> list[str]:
    """
    ``hosts`` in their order, but first those that an edge does not send requests to at this moment:
    such as one that a killed deploy left in the middle of a restart. An edge that cannot be reached
    says nothing.
    """
    unused: set[str] = set()
    for edge in topology.with_role("edge"):
        with contextlib.suppress(NotReached):
            # Each as ``app1-2 (DOWN)``.
            unused |= {
                one.split()[0].rpartition("/")[2].rpartition("-")[0]
                for one in _not_used(topology, edge, *hosts)
            }
    return sorted(hosts, key=lambda host: host not in unused)


def _wait_for_edge(topology: Topology, edge: str, *apps: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while waiting := _not_used(topology, edge, *apps):
        if time.monotonic() > deadline:
            raise ControlError(
                f"{edge} does not use {', '.join(waiting)} after {PATIENCE} s: see"
                f" 'make ssh HOST={edge}', then journalctl -u haproxy -n 50"
            )
        time.sleep(0.5)


def _not_used(topology: Topology, edge: str, *apps: str) -> list[str]:
    asked = shlex.join(apps)
    command = (
        f"cd {paths.PLACE} 2>/dev/null && {paths.SALT_CALL} --out=json edge.waiting {asked} || true"
    )
    try:
        said = ssh.run(topology, edge, command)
    except ControlError as error:
        # The command itself always succeeds.
        raise NotReached(str(error)) from error
    try:
        return list(json.loads(said)["local"])
    except (ValueError, KeyError, TypeError):
        # No tree yet, or one from before this question: an edge that is still to be converged.
        return []
