"""
Converging the machines of a topology: the tree and Salt on each, then each converges itself, in
dependency order, in batches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from . import deploy, fleet, lab, remote, vault
from .errors import Refused
from .topology import Topology, formula_roles

Converge = Callable[[Topology, str, list[str]], int]


def refuse_swap(where: Topology, booted: bool = False) -> list[str]:
    """
    Machines that are still there and that the topology no longer has. Refused when the topology
    also has new ones: others serve while one comes or one goes, but who is to go first when both
    happen at once, nobody knows. ``booted``: new ones must be there already.
    """
    gone, added = lab.gone(where), lab.added(where)
    if gone and added:
        raise Refused(
            f"topology {where.name} has lost {', '.join(gone)} and gained {', '.join(added)}: first"
            f" add (leave {', '.join(gone)} in it), 'make up', then take away and 'make up' again"
        )
    if booted and added:
        raise Refused(f"{', '.join(added)}: new in the topology: 'make up' makes it")
    return gone


def prepare(
    where: Topology, hosts: Sequence[str], release: str, quiet: bool = False
) -> tuple[list[str], dict[str, int]]:
    """Tree and Salt on every machine, all at once: those that are new, and ``{host: exit code}`` of
    those where it failed."""
    new: list[str] = []
    others = deploy.of_new(where)

    def work(host: str) -> int:
        if remote.carry(where, host, *deploy.bring_along(host, release, others.get(host, {}))):
            new.append(host)
        command = f"{remote.PLACE}/bootstrap/bootstrap.sh{' >/dev/null' if quiet else ''}"
        return remote.stream(where, host, command, fleet.label(where, host))

    codes = fleet.each(where, work, hosts)
    return new, {host: code for host, code in codes.items() if code}


def converge(
    where: Topology,
    hosts: Sequence[str],
    words: list[str],
    one: Converge,
    new: Sequence[str] = (),
    edges_first: bool = False,
    known: Iterable[str] = (),
) -> dict[str, int]:
    """
    Every machine converges itself, a batch at a time: ``{host: exit code}`` of those that failed.
    One that fails keeps the later ones with the same first role as they are: what broke it would
    break them too. One that cannot be reached is passed over; an edge that cannot be asked is not
    waited for.

    edges_first
        a machine is about to go: nothing is sent to it before its peers forget it
    known
        machines of which it was said already that they cannot be reached
    """
    away: set[str] = set()
    groups = fleet.batches(where, fleet.order(where, hosts), new)
    if edges_first:
        groups.sort(key=lambda group: "edge" not in where.machines[group[0]].roles)
    failed: dict[str, int] = {}
    broken: set[int] = set()
    for group in groups:
        stage = fleet.stage(where, group[0])
        if stage in broken:
            fleet.say(
                f"{', '.join(group)}: left as it is, for {', '.join(failed)} failed", sys.stderr
            )
            failed |= dict.fromkeys(group, 1)
            continue
        if len(where.machines) > 1:
            fleet.say(f"==> {', '.join(group)}")
        codes = fleet.each(where, lambda host: one(where, host, words), group)
        failed |= {host: code for host, code in codes.items() if code}
        # 255 is ssh's own: the machine was not reached, so nothing is known of the change.
        if any(code not in (0, 255) for code in codes.values()):
            broken.add(stage)
        if "test=True" not in words and len(where.machines) > 1:
            try:
                well = [host for host in group if not codes[host]]
                fleet.wait_for_edges(where, well, away, {*known, *failed})
            except Refused as error:
                fleet.say(str(error), sys.stderr)
                failed |= dict.fromkeys(group, 1)
                broken.add(stage)
    return failed


def having(where: Topology, hosts: Sequence[str], formulas: str) -> dict[str, list[str]]:
    """
    Those of ``hosts`` whose roles bring one of ``formulas`` (with commas, as ``state.apply`` takes
    them), each with its own ones as argument. Refused when none has any, or nobody knows one.
    """
    bringing = formula_roles()
    wanted = [one.strip() for one in formulas.split(",") if one.strip()]
    for one in wanted:
        if one.split(".")[0] not in bringing:
            raise Refused(
                f"SLS={one}: no formula of salt/top.sls, which has {', '.join(bringing)}", 2
            )

    def has(host: str, one: str) -> bool:
        role = bringing[one.split(".")[0]]
        return role is None or role in where.machines[host].roles

    chosen = {host: [one for one in wanted if has(host, one)] for host in hosts}
    found = {host: [",".join(given)] for host, given in chosen.items() if given}
    if not found:
        raise Refused(f"SLS={formulas}: nothing for {', '.join(hosts)}, by roles (salt/top.sls)", 2)
    return found


def summary(where: Topology, hosts: Sequence[str], failed: Mapping[str, int]) -> int:
    """The exit code of all; with several machines also a line on stderr that names who failed."""
    if failed and len(hosts) > 1:
        names = ", ".join(host for host in fleet.order(where, hosts) if host in failed)
        print(f"{len(failed)} of {len(hosts)} machines failed: {names}", file=sys.stderr)
    return max(failed.values(), default=0)


def remove(where: Topology, names: Sequence[str]) -> None:
    """Machines that the topology no longer has, once no peer speaks to them."""
    if not names:
        return
    print(f"removing {', '.join(names)}", flush=True)
    lab.remove(where, names)
    for name in names:
        vault.drop(where, name)


def rotate(where: Topology, name: str, apply: Callable[[Topology], int]) -> int:
    """A new value for secret ``name`` on every machine that has it. Old and new are both accepted
    until everybody uses the new one."""
    holders = [
        host
        for host in where.machines
        if remote.run(where, host, f"test -e /etc/stack/secrets/{name} && echo yes || true").strip()
    ]
    if not holders:
        raise Refused(f"no machine of topology {where.name} has a secret {name}")
    shared = len(where.machines) > 1 and name in vault.shared()

    def on_each(function: str) -> None:
        for host in holders:
            remote.run(where, host, f"cd {remote.PLACE} && salt-call secret.{function} {name}")

    if shared:
        # Machines get it with their pillar, those that accept it before those that use it.
        vault.rotate(where, name)
    else:
        on_each("rotate")
    print(f"==> {name}: new value, the old one still valid", flush=True)
    code = apply(where)
    if code:
        raise Refused(f"{name}: both values stay valid; mend the above and run this again", code)
    on_each("forget")
    if shared:
        vault.forget(where, name)
    print(f"==> {name}: dropping the old value", flush=True)
    return apply(where)
