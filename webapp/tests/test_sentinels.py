"""Three stores and three Sentinels, real ones: which numbers are given while the master changes."""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

import counter.sentinels
from counter.sentinels import NoMasterError, Sentinels
from counter.store import IDLE_SECONDS, SLOW_SECONDS
from support import App, RedisServer, StartApp, free_port, number, wait_for

# The least that salt/sentinel takes.
DOWN_AFTER = 2000


@dataclass
class Set:
    """Stores and Sentinels."""

    stores: list[RedisServer]
    ports: list[int]
    processes: list[subprocess.Popen[bytes]]

    def sentinel(self, which: int = 0) -> redis.Redis:
        return redis.Redis(port=self.ports[which], decode_responses=True)

    def master(self, which: int = 0) -> RedisServer:
        _, port = self.sentinel(which).execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME main")
        return next(one for one in self.stores if one.port == int(port))

    def agree(self, number: int = 2) -> bool:
        state = self.sentinel().sentinel_master("main")
        return state["num-slaves"] >= number and state["num-other-sentinels"] == 2

    def go_on(self) -> None:
        """All Sentinels, where some were stopped."""
        for process in self.processes:
            process.send_signal(signal.SIGCONT)

    @property
    def settings(self) -> dict[str, str]:
        listed = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return {"REDIS_SENTINELS": listed}


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Set]:
    found = Set([], [], [])
    fence = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    try:
        for index in range(3):
            folder = tmp_path / f"store{index}"
            folder.mkdir()
            follow = ("--replicaof", f"127.0.0.1 {found.stores[0].port}") if index else ()
            store = RedisServer(folder, (*fence, "--repl-diskless-sync-delay", "0", *follow))
            found.stores.append(store)
            store.start()
        for index in range(3):
            port = free_port()
            file = tmp_path / f"sentinel{index}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\n"
                f"sentinel monitor main 127.0.0.1 {found.stores[0].port} 2\n"
                f"sentinel down-after-milliseconds main {DOWN_AFTER}\n"
                "sentinel failover-timeout main 5000\n",
                encoding="utf-8",
            )
            with (tmp_path / f"sentinel{index}.log").open("ab") as log:
                command = ["redis-server", str(file), "--sentinel"]
                found.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            found.ports.append(port)
        wait_for(lambda: _quiet(found.agree), "the Sentinels know each other", 60)
        yield found
    finally:
        for process in found.processes:
            process.kill()
            process.wait()
        for store in found.stores:
            store.stop()


def _quiet(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except redis.RedisError:
        return False


def start(start_app: StartApp, stores: Set, **settings: str) -> App:
    app = start_app("redis://127.0.0.1:1/0", **stores.settings, **settings)
    wait_for(lambda: app.ask("/readyz").status == 200, "ready", 60)
    return app


def test_a_number_is_given_only_when_a_majority_has_it(start_app: StartApp, stores: Set) -> None:
    app = start(start_app, stores)
    assert number(app.ask().text) == 1
    # One replica is enough; without any, the master counts and nobody is told.
    stores.stores[2].stop()
    assert number(app.ask().text) == 2
    stores.stores[0].client.config_set("min-replicas-to-write", 0)
    stores.stores[1].client.execute_command("CLIENT PAUSE 60000 ALL")
    stores.stores[1].signal(19)
    answer = app.ask()
    stores.stores[1].signal(18)
    assert answer.status == 503
    assert stores.stores[0].count() == 3
    assert "StoreUnconfirmedError" in app.requests(status=503)[0]["error"]


def test_a_killed_master_is_followed_and_no_number_comes_twice(
    start_app: StartApp, stores: Set
) -> None:
    app = start(start_app, stores)
    given = [number(app.ask().text) for _ in range(20)]
    stores.stores[0].stop()

    def counts() -> bool:
        answer = app.ask()
        if answer.status == 200:
            given.append(number(answer.text))
        return answer.status == 200

    wait_for(counts, "it counts again", 60)
    assert stores.master(1) is not stores.stores[0]
    assert len(set(given)) == len(given)
    assert max(given) <= stores.master(1).count()


def test_a_refused_number_waits_for_the_next_master_and_counts_once(
    start_app: StartApp, stores: Set
) -> None:
    """
    As in a planned failover: the old master refuses before anybody knows the next one. How long the
    Sentinels take to choose that one, up to 10 s, is not what this is about.
    """
    app = start(start_app, stores, REDIS_TIMEOUT="10", REDIS_FAILOVER_SECONDS="10")
    assert number(app.ask().text) == 1
    old = stores.stores[0]
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(app.ask().status)

    # Before anybody asks: whose number is counted, and who has not asked yet what replicas have,
    # would be told nothing until the end of the pause (salt/redis/files/store-set waits for it).
    old.client.execute_command("CLIENT PAUSE 60000 WRITE")
    client = threading.Thread(target=ask)
    client.start()
    try:
        wait_for(
            lambda: [one for one in old.client.client_list() if one["cmd"] == "incr"],
            "its number waits",
            60,
        )
        stores.sentinel().execute_command("SENTINEL FAILOVER main")
        replicas = stores.stores[1:]
        new = wait_for(
            lambda: next((one for one in replicas if one.client.role()[0] == "master"), None),
            "promoted", 60,
        )  # fmt: skip
        old.client.replicaof("127.0.0.1", new.port)
        old.client.execute_command("CLIENT UNPAUSE")
        wait_for(lambda: stores.master() is new and new.count() > 20, "it counts there", 60)
    finally:
        stop.set()
        client.join()
    assert set(statuses) == {200}
    assert new.count() == len(statuses) + 1


@pytest.mark.parametrize("moving", [True, False], ids=["refused-before", "asked-first"])
def test_sentinels_that_are_slow_for_a_moment_cost_no_request(
    start_app: StartApp, stores: Set, moving: bool
) -> None:
    """
    Each writes its file to disk at each step of a failover, and answers nobody meanwhile: on a
    crowded computer longer than it is waited for.
    """
    app = start(start_app, stores)
    assert number(app.ask().text) == 1
    old, new = stores.stores[0], stores.stores[1]
    if moving:
        # The next number is refused, as while the master is moved.
        old.client.execute_command("CLIENT PAUSE 60000 WRITE")
        stores.stores[2].client.config_set("replica-priority", 0)
        stores.sentinel().execute_command("SENTINEL FAILOVER main")
        wait_for(lambda: new.client.role()[0] == "master", "promoted", 60)
    else:
        # A connection that was not used for so long is used only when the Sentinels say so.
        time.sleep(IDLE_SECONDS)
    for process in stores.processes[:2]:
        process.send_signal(signal.SIGSTOP)
    again = threading.Timer(0.6, stores.go_on)
    again.start()
    try:
        if moving:
            old.client.replicaof("127.0.0.1", new.port)
            old.client.execute_command("CLIENT UNPAUSE")
        answer = app.ask()
    finally:
        again.join()
    assert (answer.status, number(answer.text)) == (200, 2), app.requests(status=503)


def test_a_slow_number_waits_for_slow_sentinels(start_app: StartApp, stores: Set) -> None:
    """It counted and a majority has it; only whether this was the master, nobody says yet."""
    app = start(start_app, stores)
    for _ in range(9):
        last = number(app.ask().text)
    for store in stores.stores[1:]:
        store.signal(signal.SIGSTOP)
    for process in stores.processes[:2]:
        process.send_signal(signal.SIGSTOP)
    acknowledge = threading.Timer(
        SLOW_SECONDS + 0.05, lambda: [one.signal(signal.SIGCONT) for one in stores.stores[1:]]
    )
    again = threading.Timer(SLOW_SECONDS + 0.5, stores.go_on)
    try:
        acknowledge.start()
        again.start()
        answer = app.ask()
    finally:
        acknowledge.join()
        again.join()
    assert answer.status == 200, app.requests(status=503)
    assert number(answer.text) == last + 1


@pytest.mark.parametrize("certain", [True, False])
def test_a_number_that_comes_too_late_is_given_only_when_sentinels_still_name_its_master(
    start_app: StartApp, stores: Set, certain: bool
) -> None:
    """
    Its master may have been frozen for so long that another one is there, with a replica that
    still follows the old one: three numbers were given twice (random faults, seed 7).
    """
    app = start(start_app, stores, REDIS_TIMEOUT="4")
    assert number(app.ask().text) == 1
    master = stores.stores[0].client
    master.execute_command("CLIENT PAUSE 60000 WRITE")
    answers: list[Any] = []
    client = threading.Thread(target=lambda: answers.append(app.ask()))
    client.start()
    wait_for(lambda: master.info("clients")["blocked_clients"], "it waits", 60)
    if not certain:
        for process in stores.processes[:2]:
            process.kill()
            process.wait()
    time.sleep(IDLE_SECONDS)
    master.execute_command("CLIENT UNPAUSE")
    client.join()
    assert stores.stores[0].count() == 2
    assert answers[0].status == (200 if certain else 503)
    assert certain or "StoreUnconfirmedError" in app.requests(status=503)[0]["error"]


def test_without_a_majority_of_sentinels_nothing_is_counted(
    start_app: StartApp, stores: Set
) -> None:
    app = start(start_app, stores)
    stores.stores[0].stop()
    for process in stores.processes[:2]:
        process.kill()
        process.wait()
    assert wait_for(lambda: app.ask().status == 503, "no", 60)
    assert app.ask("/readyz").status == 503


class Peer:
    """A connection to a Sentinel that answers what ``says`` is; None: nobody is there."""

    def __init__(self, says: dict[str, str] | None) -> None:
        self.says = says
        self._sock: object = None
        self._answers: list[object] = []

    def pack_command(self, *_: str) -> list[bytes]:
        return [b""]

    def can_read(self, _: float) -> bool:
        return False

    def connect(self) -> None:
        if self.says is None:
            raise redis.ConnectionError("no route")
        self._sock = self

    def send_packed_command(self, *_: object, check_health: bool) -> None:
        assert self.says is not None
        assert not check_health
        words = [word.encode() for pair in self.says.items() for word in pair]
        self._answers = [words, [self.says["ip"].encode(), self.says["port"].encode()]]

    def read_response(self) -> object:
        return self._answers.pop(0)

    def disconnect(self) -> None:
        self._sock = None


FIT = {
    "ip": "10.0.0.1",
    "port": "6380",
    "flags": "master",
    "role-reported": "master",
    "config-epoch": "7",
}


def asking(peers: list[Peer]) -> Sentinels:
    """What asks these."""
    them = iter(peers)
    return Sentinels([("10.0.0.9", 1)] * len(peers), "main", lambda _: next(them))  # type: ignore[arg-type, return-value]


def test_a_sentinel_that_is_just_back_is_heard_before_a_master_is_believed() -> None:
    """
    Seen over random faults (seed 20261133, fault 21): one began a failover, was cut off, and came
    back as its leader. It had not answered within the second before, so it was not asked, and the
    two others still named the old master, which was back too: 47 numbers were given twice.
    """
    peers = [Peer(FIT), Peer({**FIT, "flags": "master,s_down"}), Peer(None)]
    sentinels = asking(peers)
    with pytest.raises(NoMasterError, match="no majority"):
        sentinels.master()
    peers[1].says = FIT
    peers[2].says = {**FIT, "flags": "master,failover_in_progress", "failover-timeout": "10000"}
    with pytest.raises(NoMasterError, match="a failover is in progress"):
        sentinels.master()
    peers[2].says = FIT
    assert sentinels.master() == ("10.0.0.1", 6380)


def test_a_leader_that_falls_silent_is_waited_for_until_its_failover_can_no_longer_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Seen over random faults (seed 20261133, faults 21 and 22): a leader was cut off after it had
    promoted its own store, and for nine seconds the two others named the old master, which went on
    with its other replica: 2,712 numbers were given twice.
    """
    clock = [100.0]
    monkeypatch.setattr(counter.sentinels, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    leads = {**FIT, "flags": "master,failover_in_progress", "failover-timeout": "10000"}
    peers = [Peer(FIT), Peer(FIT), Peer(leads)]
    sentinels = asking(peers)
    next_one = {**FIT, "ip": "10.0.0.2", "config-epoch": "8"}
    for others, leader, at, failing in (
        (FIT, leads, 100.0, "in progress"),
        (FIT, None, 100.5, "silent"),
        (FIT, None, 109.9, "silent"),
        # It would have given up.
        (FIT, None, 110.1, ""),
        (FIT, leads, 111.0, "in progress"),
        # It has: it is back, and names the same master.
        (FIT, FIT, 112.0, ""),
        (FIT, None, 113.0, ""),
        # The others have heard how it ended: as when its machine is restarted next.
        (FIT, leads, 114.0, "in progress"),
        (FIT, None, 114.5, "silent"),
        (next_one, None, 115.0, ""),
    ):
        peers[0].says = peers[1].says = others
        peers[2].says, clock[0] = leader, at
        if leader is None:
            peers[2].disconnect()
        if failing:
            with pytest.raises(NoMasterError, match=failing) as caught:
                sentinels.master()
            assert caught.value.is_passing
        else:
            assert sentinels.master() == (others["ip"], 6380)


def test_a_master_of_a_later_epoch_is_waited_for() -> None:
    """Its leader has ended the failover, and the others have not heard of it."""
    new = {**FIT, "ip": "10.0.0.2", "config-epoch": "8"}
    peers = [Peer(FIT), Peer(FIT), Peer(new)]
    sentinels = asking(peers)
    with pytest.raises(NoMasterError, match="not known to all") as caught:
        sentinels.master()
    assert caught.value.is_passing
    peers[0].says = new
    assert sentinels.master() == ("10.0.0.2", 6380)
    # One that was cut off before names an old master, and nobody waits for it.
    peers[2].says = FIT
    peers[1].says = new
    assert sentinels.master() == ("10.0.0.2", 6380)


def test_an_answer_that_makes_no_sense_is_not_followed_by_the_one_before_it() -> None:
    """Whoever asked in between would have been told of the master of before."""
    peer = Peer({"ip": "10.0.0.1", "port": "6380", "flags": "master", "role-reported": "master"})
    sentinels = Sentinels([("10.0.0.9", 1)], "main", lambda _: peer)  # type: ignore[arg-type, return-value]
    sentinels.master()
    asked = sentinels._began
    assert peer.says
    peer.says["port"] = "none"
    with pytest.raises(ValueError, match="none"):
        sentinels.master()
    assert sentinels._began == asked


def test_who_waits_for_the_sentinels_takes_an_answer_that_was_asked_for_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each may take 0.2 s to say nothing: thirty requests after each other would take six."""
    fit = {"ip": "10.0.0.1", "port": "6380", "flags": "master", "role-reported": "master"}
    asked: list[object] = []
    go, clock = threading.Event(), itertools.count(1)
    looked: list[int] = []

    def monotonic() -> float:
        looked.append(next(clock))
        return float(looked[-1])

    monkeypatch.setattr(counter.sentinels, "time", SimpleNamespace(monotonic=monotonic))

    class Slow(Peer):
        def send_packed_command(self, *words: object, check_health: bool) -> None:
            asked.append(self)
            assert go.wait(60)
            super().send_packed_command(*words, check_health=check_health)

    sentinels = Sentinels([("10.0.0.9", 1)], "main", lambda _: Slow(fit))  # type: ignore[arg-type, return-value]
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(sentinels.master())) for _ in range(9)]
    for thread in threads:
        thread.start()
    # Each when it calls, and the first when it asks.
    wait_for(lambda: len(looked) == 10, "all of them wait")
    go.set()
    for thread in threads:
        thread.join(60)
    assert found == [("10.0.0.1", 6380)] * 9
    # The first's question is older than the others' calls; the next one serves all of them.
    assert len(asked) == 2
