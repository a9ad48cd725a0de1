"""Three stores and three Sentinels, real ones: which numbers are given while the master changes."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from support import App, RedisServer, StartApp, free_port, number, wait_for

DOWN_AFTER = 1000


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
    """As in a planned failover: the old master refuses before anybody knows the next one."""
    app = start(start_app, stores)
    assert number(app.ask().text) == 1
    old = stores.stores[0]
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(app.ask().status)

    client = threading.Thread(target=ask)
    client.start()
    try:
        old.client.execute_command("CLIENT PAUSE 5000 WRITE")
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
