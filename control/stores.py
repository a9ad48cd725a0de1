"""Several stores: who is the master, whether a majority is there, moving the master."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from . import ssh
from .errors import ControlError, OperationError, UserError
from .topology import Topology

PROGRAM = "/usr/local/sbin/store-set"
# What it says is wrong, and ends by itself.
PASSING = "a failover is in progress"


def are_several(topology: Topology) -> bool:
    return len(topology.with_role("store")) > 1


def refuse_one_of_several(topology: Topology, before: int) -> None:
    """UserError when ``before`` stores are to become one: it would begin as what it last knew of the others."""
    if before > 1 and len(topology.with_role("store")) == 1:
        raise UserError(
            f"topology {topology.name} has {before} stores, and would have one: a set never becomes a single store in"
            " place, nothing was changed. Leave three in it; or 'make backup', all machines anew, 'make restore'"
        )


def look(topology: Topology) -> dict[str, Any]:
    """
    What the stores say: ``{master, stores, why}`` (salt/redis/files/store-set). Empty while no machine has the
    program, on a topology that is still to be converged. OperationError when none can be asked.
    """
    trouble = ""
    for host in topology.with_role("store"):
        try:
            answer = ssh.run(
                topology, host, f"test ! -e {PROGRAM} || {PROGRAM} show --json || true"
            )
            return dict(json.loads(answer)) if answer.strip() else {}
        except (ControlError, ValueError) as error:
            trouble = trouble or (str(error).splitlines() or ["?"])[0]
    raise OperationError(f"no store can be asked who is the master: {trouble}")


def look_after_failover(topology: Topology, seconds: float = 30) -> dict[str, Any]:
    """:func:`look`, once no failover is in progress any more, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while PASSING in (seen := look(topology)).get("why", []) and time.monotonic() < deadline:
        time.sleep(0.5)
    return seen


def line(seen: dict[str, Any]) -> str:
    """Who is the master, the replicas with their lag, and what is wrong."""
    words = [f"master {seen['master'] or 'unknown'}"]
    for name, store in seen["stores"].items():
        if name == seen["master"]:
            continue
        lag = store["lag"]
        state = "not in sync" if lag is None else "in sync" if not lag else f"{lag} bytes behind"
        words.append(f"{name} {store['role']}, {state}")
    return "; ".join([*words, *seen["why"]])


def refuse_while_missing(topology: Topology, hosts: Sequence[str], what: str) -> None:
    """
    Return when ``what`` may restart the stores among ``hosts`` one after the other. UserError, naming what is
    missing, when it would leave no majority: a store is missing already, and these are others.
    """
    chosen = set(hosts) & set(topology.with_role("store"))
    if not are_several(topology) or not chosen:
        return
    seen = look_after_failover(topology)
    if not seen or not seen["why"]:
        return
    in_use = [name for name in seen["stores"] if name in chosen and seen["stores"][name]["in_sync"]]
    if in_use:
        missing = [name for name, one in seen["stores"].items() if not one["in_sync"]]
        hint = f"; mend it, or {what} HOST={missing[0]} alone" if missing else ""
        raise UserError(
            f"refused, nothing was changed: a store is missing already, and without {in_use[0]} too nothing"
            f" would be counted: {'; '.join(seen['why'])}{hint}"
        )


def require_master(topology: Topology, what: str) -> None:
    """UserError, naming why, when no majority of several stores has a master: ``what`` would be judged by that."""
    if not are_several(topology):
        return
    seen = look(topology)
    if seen and seen["master"] is None:
        raise UserError(f"{what} refused, nothing was changed: {'; '.join(seen['why'])}")


def move_master(topology: Topology, host: str = "") -> str:
    """
    Move the master to another store without an error; the new one's name. ``host``: only if that is the master,
    else nothing is done.
    """
    seen = look(topology)
    master = seen.get("master")
    if master is None:
        raise UserError(
            f"no majority of the stores names a master: {'; '.join(seen.get('why', []))}"
        )
    if host and host != master:
        return str(master)
    print(f"==> {master}", flush=True)
    code = ssh.stream(topology, str(master), f"{PROGRAM} failover")
    if code:
        raise OperationError(f"{master}: the master was not moved (see above)")
    return str(look(topology)["master"])


def _lacking(seen: dict[str, Any], away: Sequence[str] = ()) -> list[str]:
    """What is wrong, but for the stores that are ``away``."""
    return [one for one in seen.get("why", []) if one.partition(":")[0] not in away]


def make_master(topology: Topology, host: str) -> list[str]:
    """
    ``host`` is the master when this returns, chosen before the other replicas. The stores that are unreachable: one that
    is the master already has the majority that it needs.
    """
    names = topology.with_role("store")
    # Another one may have been promoted meanwhile.
    for _ in range(len(names)):
        seen = look_after_failover(topology)
        away = [name for name, one in seen.get("stores", {}).items() if one["role"] == "down"]
        # Fewer than a majority: what is left can hold the votes of all.
        if _lacking(seen, away) or len(away) > (len(names) - 1) // 2:
            raise UserError(
                f"not restored: the set of stores is not whole: {'; '.join(seen['why'])}"
            )
        if seen.get("master") == host:
            return away
        if away:
            raise UserError(
                f"not restored: {', '.join(away)} away, so {seen['master']} must stay the master: mend that,"
                f" or HOST={seen['master']}"
            )
        ssh.run(topology, host, f"{PROGRAM} prefer")
        try:
            move_master(topology)
        finally:
            ssh.run(topology, host, f"{PROGRAM} alike")
        wait_until_whole(topology)
    raise OperationError(
        f"{host} did not become the master; HOST={look(topology)['master']} is it now"
    )


def wait_until_whole(topology: Topology, away: Sequence[str] = (), seconds: float = 60) -> None:
    """
    Return once every store, but for those that are ``away``, is in sync and votes; OperationError, saying what is
    missing, otherwise.
    """
    deadline = time.monotonic() + seconds
    while why := _lacking(look(topology), away):
        if time.monotonic() > deadline:
            raise OperationError(
                f"the stores are not in sync after {seconds:.0f} s: {'; '.join(why)}"
            )
        time.sleep(0.5)


@contextlib.contextmanager
def hold_votes(topology: Topology, away: Sequence[str] = ()) -> Iterator[None]:
    """
    No Sentinel chooses another master during the block, in which this one's data are exchanged: a majority of them
    is enough for that, so one that is ``away`` may stay so. If this program dies, the machines let their
    Sentinels vote again (`store-set hold`).
    """
    names = topology.with_role("store")
    held = [name for name in names if name not in away]
    try:
        for host in held:
            ssh.run(topology, host, f"{PROGRAM} hold")
        yield
    finally:
        trouble = [why for host in held if (why := _release(topology, host))]
        for why in trouble:
            print(f"{why}; its Sentinel votes again within 15 minutes, by itself", file=sys.stderr)
    wait_until_whole(topology, away)


def _release(topology: Topology, host: str) -> str:
    """Why its Sentinel was not let vote again; empty: it was."""
    try:
        ssh.run(topology, host, f"{PROGRAM} release")
    except ControlError as error:
        return str(error).splitlines()[0]
    return ""
