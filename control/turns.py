"""
Several machines converge at the same time, and those that have something to change do it in turn: a batch
at a time, each once the batches before it are done and in use.
"""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from . import edges, fleet, ssh
from .errors import ControlError
from .topology import Topology

Work = Callable[[str, Callable[[], bool]], int]


class Turns:
    """
    Work on many machines at once, of which those that want to change something wait for their turn, a
    group of machines at a time. Left by an exception, it lets none of the rest change anything.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self.groups = groups
        self._changed = threading.Condition()
        self._asking: set[str] = set()
        self._answers: dict[str, bool] = {}
        self._codes: dict[str, concurrent.futures.Future[int]] = {}
        # In the order of the groups: one that waits never keeps one from starting that it waits for.
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=fleet.AT_ONCE)

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self.groups:
            self.answer([host for host in group if host not in self._answers], False)
        self._pool.shutdown(cancel_futures=True)

    def start(self, work: Work) -> dict[str, concurrent.futures.Future[int]]:
        """``work(host, turn)`` begun for every machine, which calls ``turn`` before its first change: whether
        it may, once it is its turn. ``{host: its exit code to be}``."""

        def guarded(host: str) -> int:
            return fleet.guarded(host, lambda: work(host, lambda: self._wait_for_turn(host)))

        for host in (host for group in self.groups for host in group):
            self._codes[host] = self._pool.submit(guarded, host)
            self._codes[host].add_done_callback(self._notify)
        return self._codes

    def _notify(self, _: object = None) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wait_for_turn(self, host: str) -> bool:
        with self._changed:
            self._asking.add(host)
            self._changed.notify_all()
            self._changed.wait_for(lambda: host in self._answers)
            return self._answers[host]

    def wait_until_asked(self, group: Sequence[str]) -> list[str]:
        """Those of ``group`` that wait for their turn, once all of it have asked or are done."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(host in self._asking or self._codes[host].done() for host in group)
            )
            return [host for host in group if host in self._asking and not self._codes[host].done()]

    def answer(self, group: Sequence[str], may: bool) -> None:
        with self._changed:
            self._answers |= dict.fromkeys(group, may)
            self._changed.notify_all()


class Run:
    """
    One run over several machines: who failed, and what no edge was asked about yet.

    known
        machines of which it was said already that they cannot be reached
    free
        machines that change also where no other edge could serve meanwhile: new ones, which serve nobody yet
    """

    def __init__(self, topology: Topology, known: Iterable[str], free: Collection[str]) -> None:
        self.topology, self.known, self.free = topology, set(known), free
        self.failed: dict[str, int] = {}
        self.broken: set[int] = set()
        self.converged: list[str] = []
        self.away: set[str] = set()

    def converge(self, groups: Iterable[Sequence[str]], work: Work) -> dict[str, int]:
        """``{host: exit code}`` of those that failed."""
        # A group is waited for as a whole, so all of it must be able to work at once.
        size = fleet.AT_ONCE
        groups = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
        with Turns(groups) as turns:
            codes = turns.start(work)
            for group in groups:
                asking, reason = turns.wait_until_asked(group), ""
                if asking:
                    self.check_edges()
                    reason = self.reason_to_leave(asking)
                    fleet.say(
                        f"{', '.join(asking)}: left as it is{reason}"
                        if reason
                        else f"==> {', '.join(asking)}",
                        sys.stderr if reason else None,
                    )
                    turns.answer(asking, not reason)
                self.end({host: codes[host].result() for host in group}, asking if reason else ())
        self.check_edges()
        return self.failed

    def reason_to_leave(self, group: Sequence[str]) -> str:
        """Why these machines must not change anything, for the end of a sentence; empty where they may."""
        if fleet.stage(self.topology, group[0]) in self.broken:
            return f", for {', '.join(self.failed)} failed"
        if not set(group) <= set(self.free) and (
            reason := edges.reason_to_wait(self.topology, group)
        ):
            return f": {reason}"
        return ""

    def end(self, codes: Mapping[str, int], left: Collection[str]) -> None:
        """``left``: who was left as it is."""
        self.failed |= {host: code for host, code in codes.items() if code}
        # The machine was not reached, so nothing is known of the change.
        self.broken |= {
            fleet.stage(self.topology, host)
            for host, code in codes.items()
            if code not in (0, ssh.UNREACHED) and host not in left
        }
        self.converged += [host for host, code in codes.items() if not code]

    def check_edges(self) -> None:
        """Before the next machines change anything, and at the end: what was converged is in use."""
        hosts, self.converged = self.converged, []
        if not hosts:
            return
        try:
            fleet.wait_for_edges(self.topology, hosts, self.away, {*self.known, *self.failed})
        except ControlError as error:
            fleet.say(str(error), sys.stderr)
            apps = [host for host in hosts if "app" in self.topology.machines[host].roles]
            self.failed |= dict.fromkeys(apps, 1)
            self.broken |= {fleet.stage(self.topology, host) for host in apps}
