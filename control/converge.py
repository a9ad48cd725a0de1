"""
Converging the machines of a topology: the tree and Salt on each, then each converges itself, in
dependency order, in batches.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from . import bundle, edges, fleet, local_state, paths, releases, ssh, stores, turns
from .credentials import shared_secrets
from .errors import ControlError, UserError
from .lab import vagrant
from .options import Options
from .topology import Topology

# There while a change of a machine's firewall waits to be confirmed.
UNCONFIRMED = "/var/lib/stack/firewall/unconfirmed"
# There after one that nobody confirmed.
REVERTED = "/var/lib/stack/firewall/reverted"


def converge_host(
    topology: Topology, host: str, words: list[str], turn: Callable[[], bool] | None = None
) -> int:
    """One machine converges itself, with ``words`` for bootstrap/converge; its exit code. ``turn``: returns when
    the machine may change something (True) or must not (False); None where it need not wait for others."""
    asks = ["turn=ask"] if turn else []
    command = f"cd {paths.PLACE} && exec bootstrap/converge {shlex.join([*words, *asks])}"
    code = ssh.stream(topology, host, command, fleet.label(topology, host), turn=turn)
    if "test=True" in words:
        return code
    # Also after a failure: whether one can still get in has nothing to do with another state.
    formulas = [name for word in words if "=" not in word for name in word.split(",")]
    return max(code, confirm_firewall(topology, host, not formulas or "firewalld" in formulas))


def confirm_firewall(topology: Topology, host: str, is_of_firewall: bool = True) -> int:
    """
    Keep changed firewall rules, now that a new connection has come in through them; without it
    they take themselves back (salt/firewalld). 0, or 1 when they could not be confirmed.
    ``is_of_firewall``: whether this apply was of the firewall; one of another formula has nothing to do with a
    change that took itself back before.

    On stderr: the last line of stdout is what the apply did.
    """
    try:
        waiting = ssh.run(topology, host, f"ls {UNCONFIRMED} {REVERTED} 2>/dev/null || true")
        if REVERTED in waiting:
            print(
                f"{host}: the change of the firewall was not confirmed in time and has taken itself"
                " back: 'make apply' (all of it) applies it again",
                file=sys.stderr,
            )
            return int(is_of_firewall)
        if not waiting:
            return 0
        answer = ssh.run(topology, host, "/usr/local/sbin/firewall-confirm", fresh=True)
    except ControlError as error:
        print(
            f"{host}: the changed firewall could not be confirmed over a new connection, so the"
            f" rules before come back by themselves: {error}",
            file=sys.stderr,
        )
        return 1
    print(f"{host}: {answer.strip()} (over a new ssh connection)", file=sys.stderr)
    return 0


def refuse_add_and_remove(topology: Topology, is_booted: bool = False) -> list[str]:
    """
    Machines that are still there and that the topology no longer has. UserError when the topology
    also has new ones: others serve while one comes or one goes, but who is to go first when both
    happen at once, nobody knows. ``is_booted``: new ones must be there already.
    """
    removed, added = local_state.removed_machines(topology), local_state.new_machines(topology)
    if removed and added:
        raise UserError(
            f"topology {topology.name} has lost {', '.join(removed)} and gained {', '.join(added)}: first"
            f" add (leave {', '.join(removed)} in it), 'make up', then take away and 'make up' again"
        )
    stores.refuse_one_of_several(topology, local_state.recorded_stores(topology))
    if is_booted and added:
        raise UserError(f"{', '.join(added)}: new in the topology: 'make up' makes it")
    return removed


def prepare_machines(
    topology: Topology, hosts: Sequence[str], release: str, options: Options, is_quiet: bool = False
) -> tuple[list[str], dict[str, int]]:
    """Tree and Salt on every machine, all at once: those that are new, and ``{host: exit code}`` of
    those where it failed."""
    new: list[str] = []
    others = releases.find_for_new_machines(topology)

    def prepare(host: str) -> int:
        chosen = releases.choose_for_host(host, release, others.get(host, {}), options)
        if bundle.upload(topology, host, *chosen):
            new.append(host)
        command = f"{paths.PLACE}/bootstrap/bootstrap.sh{' >/dev/null' if is_quiet else ''}"
        return ssh.stream(topology, host, command, fleet.label(topology, host))

    codes = fleet.each(topology, prepare, hosts)
    return new, {host: code for host, code in codes.items() if code}


def converge_machines(
    topology: Topology,
    hosts: Sequence[str],
    words: Sequence[str],
    own: Mapping[str, Sequence[str]] | None = None,
    new: Sequence[str] = (),
    edges_first: bool = False,
    known: Iterable[str] = (),
    is_forced: bool = False,
) -> dict[str, int]:
    """
    Every machine converges itself: ``{host: exit code}`` of those that failed. All begin at once, and one that
    has nothing to change waits for no other; the others change a batch at a time (control/turns.py). One that
    fails keeps the later ones with the same first role as they are: what broke it would break them too. One that
    cannot be reached is passed over; an edge that cannot be asked is not waited for.

    words, own
        arguments of bootstrap/converge: of all, and before them those of one machine
    edges_first
        a machine is about to go: nothing is sent to it before its peers forget it
    known
        machines of which it was said already that they cannot be reached
    is_forced
        also an edge without which nobody reaches the site meanwhile
    """

    def converge(host: str, turn: Callable[[], bool] | None) -> int:
        return converge_host(topology, host, [*(own or {}).get(host, ()), *words], turn)

    is_test = "test=True" in words
    if is_test or len(topology.machines) == 1:
        # Nothing to wait for.
        codes = fleet.each(
            topology, lambda host: converge(host, None), fleet.order(topology, hosts)
        )
        return {host: code for host, code in codes.items() if code}
    if not set(hosts) <= set(new):
        hosts = edges.standby_first(topology, hosts)
    groups = fleet.batches(topology, fleet.order(topology, hosts), new)
    if edges_first:
        groups.sort(key=lambda group: "edge" not in topology.machines[group[0]].roles)
    free = list(hosts) if is_forced else new
    return turns.Run(topology, known, free).converge(groups, converge)


def remove_machines(topology: Topology, names: Sequence[str], options: Options) -> None:
    """Machines that the topology no longer has, once no peer speaks to them."""
    if not names:
        return
    print(f"removing {', '.join(names)}", flush=True)
    vagrant.remove_machines(topology, names, options)
    for name in names:
        shared_secrets.delete_machine_keys(topology, name)
