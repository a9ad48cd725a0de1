"""Which role a store takes when it starts, and how a history of a partition is judged."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.machinery
import importlib.util
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import partitions
import pytest
import redis
import yaml

from control import stores as control_stores

ROOT = Path(__file__).resolve().parents[4]
PROGRAM = ROOT / "salt/redis/files/store-set"
A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
SLAVE_OF = {who: ("slave", who, "connect", 0) for who in (A, B, C)}
OUT = {B: SLAVE_OF[A], C: SLAVE_OF[A]}
# A has been away for more than a minute, and nobody is in its place.
LONG = {
    "named": {who: (A, {"master", "o_down"}, 3) for who in (B, C)},
    "roles": OUT,
    "down": {B: 61.0, C: 70.0},
}


@pytest.fixture
def program() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("store_set", str(PROGRAM))
    spec = importlib.util.spec_from_loader("store_set", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def decide(
    program: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    named: dict[str, tuple[str, set[str], int]] | None = None,
    roles: dict[str, tuple[Any, ...]] | None = None,
    joined: bool = True,
    remembered: str | None = None,
    down: dict[str, float] | None = None,
) -> str:
    """What the store with address A starts as, where B and C answer so."""
    settings = {"name": "a", "stores": {"a": A, "b": B, "c": C}, "port": 6380, "master": "main"}

    def answer(of: dict[str, Any]) -> Any:
        def ask(store: Any) -> Any:
            if store.address not in of:
                raise OSError
            return of[store.address]

        return ask

    monkeypatch.setattr(program.Store, "named", answer(named or {}))
    monkeypatch.setattr(program.Store, "role", answer(roles or {}))
    monkeypatch.setattr(program.Store, "down", answer(down or {}))
    monkeypatch.setattr(program, "joined", lambda: joined)
    monkeypatch.setattr(program, "remembered", lambda: remembered)
    return str(program.Set(settings).decide())


@pytest.mark.parametrize(
    ("case", "master"),
    [
        # Back after a failover, whatever it remembers; the higher epoch is the later one.
        ({"named": {B: (B, {"master"}, 3), C: (A, {"master"}, 2)}, "remembered": A}, B),
        # Restarted, and who votes can choose nobody.
        ({"named": {B: (A, {"master", "s_down"}, 3)}}, A),
        # For a minute they have found nobody else, and all of them say so.
        ({"named": {B: (A, {"master", "o_down"}, 3)}, "roles": OUT, "down": {B: 61.0}}, A),
        # All were off: Sentinels wait for the data, so that nobody names anybody.
        ({"roles": {B: SLAVE_OF[A]}, "remembered": A}, A),
        ({"roles": {B: SLAVE_OF[C]}, "remembered": A}, C),
        ({"roles": {B: SLAVE_OF[A]}, "remembered": C}, C),
        ({"roles": {B: ("master", B, "connected", 9)}, "remembered": A}, B),
        # New, wiped: a replica of whoever, and never an empty master.
        ({"joined": False}, B),
        ({"joined": False, "roles": {B: SLAVE_OF[A]}, "remembered": A}, B),
        ({"joined": False, "named": {C: (C, {"master"}, 1)}}, C),
    ],
)
def test_a_store_starts_as_what_the_others_say(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any], master: str
) -> None:
    assert decide(program, monkeypatch, **case) == master


@pytest.mark.parametrize(
    ("case", "words"),
    [
        # Restarted before anybody noticed: 421 numbers twice (seed 602736). C had been frozen and was behind, B followed A
        # again, in a history that A had begun anew, with lower offsets: Sentinel promoted C.
        ({"named": {who: (A, {"master"}, 3) for who in (B, C)}}, "choosing another"),
        ({"named": {B: (A, {"master", "o_down"}, 3)}}, "choosing another"),
        ({"named": {B: (A, {"master", "failover_in_progress"}, 3)}}, "choosing another"),
        ({**LONG, "named": {C: (A, {"o_down", "failover_in_progress"}, 3)}}, "choosing another"),
        ({**LONG, "down": {B: 59.0, C: 70.0}}, "choosing another"),
        ({**LONG, "roles": {B: SLAVE_OF[A]}}, "choosing another"),
        ({**LONG, "roles": {**OUT, C: ("slave", B, "connected", 9)}}, "choosing another"),
        ({**LONG, "roles": {**OUT, C: ("master", C, "connected", 9)}}, "choosing another"),
        ({**LONG, "joined": False}, "it has no data"),
        ({"named": {B: (A, {"master"}, 3)}, "joined": False}, "it has no data"),
        ({"remembered": A}, "no majority"),
    ],
)
def test_a_store_that_must_not_be_master_yet_waits_and_says_why(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any], words: str
) -> None:
    with pytest.raises(program.Failed, match=words):
        decide(program, monkeypatch, **case)


@pytest.mark.parametrize(
    ("named", "starts"),
    [
        # They notice, and choose B.
        ([(A, {"master"}, 3), (A, {"master", "o_down"}, 3), (B, {"master"}, 4)], "replicaof"),
        # They do not see each other, and never agree that it has ended: it is master again.
        ([(A, {"master", "s_down"}, 3)], ""),
    ],
)
def test_a_master_that_ended_waits_while_others_notice(
    program: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    named: list[tuple[str, set[str], int]],
    starts: str,
) -> None:
    """Within its own start: an apply that restarts it took a refusal for a configuration that does not work."""
    left = iter(named)
    now = dict.fromkeys((B, C), named[-1])

    def wait(_: float) -> None:
        said = next(left, named[-1])
        now.update({B: said, C: said})
        clock[0] += 0.5

    clock = [0.0]
    monkeypatch.setattr(program.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(program.time, "sleep", wait)
    monkeypatch.setattr(program, "ROLE", tmp_path / "run" / "role.conf")
    monkeypatch.setattr(program, "joined", lambda: True)
    monkeypatch.setattr(program.Set, "is_last", lambda *_: False)
    wait(0)

    def say(store: Any) -> Any:
        if store.address == A:
            raise OSError
        return now[store.address]

    monkeypatch.setattr(program.Store, "named", say)
    program.role(program.Set({**SETTINGS}))
    assert program.ROLE.read_text(encoding="utf-8").startswith(starts)
    assert (clock[0] > program.NOTICING) is (not starts)


def test_a_replica_that_is_behind_has_no_vote_yet(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    """Connected again after a cut it may have received nothing yet."""
    level = iter([False, True])
    monkeypatch.setattr(program.Store, "role", lambda one: FINE[one.address])
    monkeypatch.setattr(program.Set, "is_level", lambda *_: next(level))
    monkeypatch.setattr(program.time, "sleep", lambda _: None)
    monkeypatch.setattr(program, "HOLD", tmp_path / "held")
    monkeypatch.setattr(program, "DATA", tmp_path)
    for name in ("configure", "ask_often"):
        monkeypatch.setattr(program, name, lambda *_: None)
    monkeypatch.setattr(program.os, "execv", lambda *_: None)
    program.vote(program.Set({**SETTINGS, "name": "b"}))
    assert capsys.readouterr().out.splitlines() == [
        "no vote yet: has not caught up with a",
        "votes, master is a",
    ]


SETTINGS = {
    "name": "a",
    "stores": {"a": A, "b": B, "c": C},
    "port": 6380,
    "sentinel_port": 26380,
    "master": "main",
}
FINE = {
    A: ("master", A, "connected", 9),
    B: ("slave", A, "connected", 9),
    C: ("slave", A, "connected", 9),
}


def seen_by(
    program: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    roles: dict[str, tuple[Any, ...]],
    named: dict[str, str],
    name: str = "a",
) -> Any:
    """The set as the store ``name`` sees it: each one's role, and whom each Sentinel names."""

    def answer(of: dict[str, Any]) -> Any:
        def ask(store: Any) -> Any:
            if store.address not in of:
                raise OSError
            return of[store.address]

        return ask

    votes = {who: (address, {"master"}, 1) for who, address in named.items()}
    monkeypatch.setattr(program.Store, "named", answer(votes))
    monkeypatch.setattr(program.Store, "role", answer(roles))
    return program.Set({**SETTINGS, "name": name})


def test_a_set_is_not_whole_while_a_failover_is_in_progress(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random fault began within one that the fault before had caused: 2,712 numbers twice (seed 20261133)."""
    stores = seen_by(program, monkeypatch, FINE, dict.fromkeys(FINE, A))
    assert stores.look()["why"] == []
    leads = {B: (A, {"master", "failover_in_progress"}, 0)}
    votes = {who: (A, {"master"}, 1) for who in (A, C)} | leads
    monkeypatch.setattr(program.Store, "named", lambda store: votes[store.address])
    assert stores.look()["why"] == [control_stores.PASSING]


@pytest.mark.parametrize("later", [8, 9])
def test_a_set_is_not_whole_while_a_replica_is_behind(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """Connected again after a cut of seconds, it got nothing yet as the next fault began: 678 numbers twice (seed 391671)."""
    stores = seen_by(program, monkeypatch, FINE, dict.fromkeys(FINE, A))
    offsets = {A: iter([9]), B: iter([9]), C: iter([5])}
    monkeypatch.setattr(
        program.Store,
        "role",
        lambda one: (*FINE[one.address][:3], next(offsets[one.address], later)),
    )
    ticks = iter(range(100))
    monkeypatch.setattr(program.time, "monotonic", lambda: next(ticks) / 10)
    monkeypatch.setattr(program.time, "sleep", lambda _: None)
    seen = stores.look()
    is_there = later == 9
    assert seen["stores"]["c"]["in_sync"] is is_there
    told = [] if is_there else ["c: has not caught up with the master (4 bytes)"]
    assert seen["why"] == told


def test_a_sentinel_asks_each_redis_every_second_and_votes_soon_after_it_was_frozen(
    program: ModuleType, tmp_path: Path
) -> None:
    """
    Every ten, which its file can't change, it promotes by what it knew long before the master died. Without a vote for
    thirty seconds after it was frozen, a master that died within them was followed by none: 49 s (seed 20261129).
    """
    config, place = tmp_path / "sentinel.conf", tmp_path / "socket"
    config.write_text(
        f"port 0\nunixsocket {place}\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 1 1\n"
    )

    def ask(*words: str) -> Any:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(place))
            return program.Link(sock).ask(*words)

    def told() -> tuple[str, str]:
        said = ask("SENTINEL", "DEBUG")
        settings = dict(zip(said[::2], said[1::2], strict=True))
        return settings["INFO-PERIOD"], settings["TILT-PERIOD"]

    stores = program.Set(SETTINGS)
    stores.own.sentinel = ask
    # It comes up later than it is waited for.
    program.ask_often(stores)
    command = ["redis-server", str(config), "--sentinel"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sentinel:
        try:
            until(lambda: listens(place), "it answers")
            until(lambda: told() == ("1000", "3000"), "it was told")
        finally:
            sentinel.terminate()


@pytest.mark.parametrize("own", [("slave", B, "connect", 0), None])
def test_a_store_that_is_out_already_may_be_restarted(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, own: tuple[Any, ...] | None
) -> None:
    """The apply that mends it is not refused, even while another one is missing too."""
    roles = {B: ("master", B, "connected", 9)} | ({A: own} if own else {})
    seen_by(program, monkeypatch, roles, {A: B, B: B}).spare()


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_store_that_is_needed_may_not_be_restarted(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen_by(program, monkeypatch, FINE, dict.fromkeys(FINE, A), name).spare()
    one_less = {who: FINE[who] for who in (A, B)}
    with pytest.raises(program.Failed, match="c: Redis does not answer"):
        seen_by(program, monkeypatch, one_less, dict.fromkeys(one_less, A), name).spare()


class Moving:
    """The master A, whose Redis notes what it is told, and the Sentinel of B, which does what a test says."""

    def __init__(self, program: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.program = program
        self.told: list[str] = []
        # None: it does not answer.
        self.flags: set[str] | None = {"master"}
        self.begin: Any = lambda: None
        self.roles: dict[str, tuple[Any, ...]] = dict(FINE)
        monkeypatch.setattr(program, "ROLE", folder / "role.conf")
        monkeypatch.setattr(program, "MOVING", folder / "failover")
        monkeypatch.setattr(program, "SILENT", 1.0)
        monkeypatch.setattr(program, "admin", lambda: contextlib.nullcontext(self))
        monkeypatch.setattr(program.Store, "role", lambda one: self.roles[one.address])
        monkeypatch.setattr(program.Store, "named", lambda _: self.named())
        monkeypatch.setattr(program.Store, "sentinel", lambda *_: self.begin())
        monkeypatch.setattr(program.Set, "spare", lambda _: None)
        monkeypatch.setattr(program.Set, "_wait_for_moment", lambda *_: None)
        self.set = program.Set(SETTINGS)

    def ask(self, *words: str) -> Any:
        if words == ("CLIENT", "LIST"):
            return ""
        self.told.append(" ".join(map(str, words)))
        return ["master", 9, []]

    def named(self) -> tuple[str, set[str], int]:
        if self.flags is None:
            raise OSError
        master = next(who for who, role in self.roles.items() if role[0] == "master")
        return master, self.flags, 1

    def promote(self) -> None:
        self.roles = {B: ("master", B, "connected", 9)} | dict.fromkeys(
            (A, C), ("slave", B, "connected", 9)
        )


@pytest.fixture
def moving(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Moving:
    return Moving(program, monkeypatch, tmp_path)


def test_writes_wait_until_the_old_master_follows_the_new_one(moving: Moving) -> None:
    moving.begin = moving.promote
    moving.set.failover()
    assert moving.told == [
        "ROLE", "CLIENT PAUSE 8000 WRITE", "ROLE", f"REPLICAOF {B} 6380", "CLIENT UNPAUSE",
    ]  # fmt: skip


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A Redis in that folder: its socket, and its process."""
    folder.mkdir()
    path = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(folder)]
    with subprocess.Popen([*command, "--save", "", *options], stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: listens(path), "Redis listens")
            yield path, process
        finally:
            process.kill()


def listens(place: Path) -> bool:
    """Its socket is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(place)) == 0


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_who_was_counted_before_the_pause_hears_that_a_majority_has_it(
    program: ModuleType, tmp_path: Path
) -> None:
    """
    While it pauses, Redis asks no replica what it has: who had not been asked for before was told at the end of the
    pause that this is no master any more, one 503 of a move under load.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    listen = ("--bind", "127.0.0.1", "--port", port, "--repl-diskless-sync-delay", "0")
    follow = ("--replicaof", f"127.0.0.1 {port}")
    with (
        running(tmp_path / "master", *listen) as (path, _),
        running(tmp_path / "replica", *follow) as (other, replica),
        redis.Redis(unix_socket_path=str(path), decode_responses=True) as master,
        redis.Redis(unix_socket_path=str(other), decode_responses=True) as copy,
        redis.Redis(unix_socket_path=str(path), single_connection_client=True) as client,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        until(lambda: copy.info("replication")["master_link_status"] == "up", "in sync")
        replica.send_signal(signal.SIGSTOP)
        client.incr("seen")
        master.execute_command("CLIENT PAUSE 60000 WRITE")
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.append(client.wait(1, 60000)))
        waiting.start()
        sock.connect(str(path))
        with contextlib.closing(program.Link(sock)) as link:
            until(lambda: program.UNANSWERED.search(link.ask("CLIENT", "LIST")), "it waits")
            replica.send_signal(signal.SIGCONT)
            program.pause(link)
            assert not program.UNANSWERED.search(link.ask("CLIENT", "LIST"))
        waiting.join(60)
        assert found == [1]
        with (
            redis.Redis(unix_socket_path=str(path), socket_timeout=0.2) as late,
            pytest.raises(redis.TimeoutError),
        ):
            late.incr("seen")


def test_writes_wait_for_a_failover_whose_answer_came_too_late(moving: Moving) -> None:
    """Sentinel has heard, and promotes seconds later: what was counted meanwhile would be lost."""

    def begin() -> None:
        moving.flags = {"master", "failover_in_progress"}
        threading.Timer(1.6, moving.promote).start()
        raise OSError("timed out")

    moving.begin = begin
    moving.set.failover()
    assert moving.told[-2:] == [f"REPLICAOF {B} 6380", "CLIENT UNPAUSE"]
    assert moving.told.count("CLIENT PAUSE 8000 WRITE") > 3


def test_writes_go_on_once_sentinel_has_certainly_promoted_nobody(moving: Moving) -> None:
    def end() -> None:
        moving.flags = {"master"}

    def begin() -> None:
        moving.flags = {"master", "failover_in_progress"}
        threading.Timer(0.5, end).start()

    moving.begin = begin
    with pytest.raises(moving.program.Failed, match="promoted nobody"):
        moving.set.failover()
    assert moving.told[-1] == "CLIENT UNPAUSE"


def test_writes_are_not_let_on_while_nobody_knows_whether_one_is_promoted(moving: Moving) -> None:
    """The pause ends by itself; until then no count is given that the next master has not."""

    def begin() -> None:
        moving.flags = None
        raise OSError("cut")

    moving.begin = begin
    with pytest.raises(moving.program.Failed, match="b does not say whether"):
        moving.set.failover()
    assert moving.told[-1] == "CLIENT PAUSE 8000 WRITE"


def test_a_refused_failover_lets_writes_on_at_once(moving: Moving) -> None:
    def begin() -> None:
        raise moving.program.Failed("NOGOODSLAVE No suitable replica to promote")

    moving.begin = begin
    with pytest.raises(moving.program.Failed, match="NOGOODSLAVE"):
        moving.set.failover()
    assert moving.told[-1] == "CLIENT UNPAUSE"


@pytest.mark.parametrize("how", ["failover", "step_down"])
def test_the_master_is_moved_by_one_at_a_time(moving: Moving, how: str) -> None:
    """Whatever stops Redis waits for `make failover`, and the other way round."""
    moving.begin = moving.promote
    move = (
        moving.set.failover if how == "failover" else lambda: moving.program.step_down(moving.set)
    )
    with moving.program.MOVING.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=move)
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert "CLIENT PAUSE 8000 WRITE" not in moving.told
    other.join(30)
    assert "CLIENT PAUSE 8000 WRITE" in moving.told


@pytest.fixture
def systemctl(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd is told."""
    said: list[str] = []
    monkeypatch.setattr(program.subprocess, "run", lambda words, **_: said.append(" ".join(words)))
    return said


def test_votes_that_are_held_come_back_by_themselves_and_nothing_is_forgotten(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, systemctl: list[str]
) -> None:
    """Whoever restores may be killed, and the power may fail meanwhile."""
    kept, held = tmp_path / "sentinel.conf", tmp_path / "run" / "held"
    kept.write_text(f"sentinel monitor main {B} 6380 2\n", encoding="utf-8")
    monkeypatch.setattr(program, "KEPT", kept)
    monkeypatch.setattr(program, "HOLD", held)
    program.hold(None)
    timer = next(number for number, one in enumerate(systemctl) if one.startswith("systemd-run"))
    assert systemctl[timer].endswith("--on-active=900 /usr/local/sbin/store-set release")
    assert systemctl[-1] == "systemctl --quiet stop redis-sentinel"
    assert timer < len(systemctl) - 1
    assert held.exists()
    assert program.remembered() == B
    systemctl.clear()
    program.release(None)
    assert not held.exists()
    assert [one.split()[2] for one in systemctl] == ["stop", "start"]


def test_a_sentinel_that_is_started_while_votes_are_held_waits(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    """
    Its Redis brings it back at once, and a mask did not keep it away: the restored store gave the master away as it
    stopped, followed an empty one, and what was restored was gone, after `restored: count 44156`.
    """
    held = tmp_path / "held"
    held.touch()

    def let_go(_: float) -> None:
        assert "a restore holds it" in capsys.readouterr().out
        held.unlink()

    def execute(*_: Any) -> None:
        assert not held.exists()
        raise SystemExit

    monkeypatch.setattr(program, "HOLD", held)
    monkeypatch.setattr(program, "DATA", tmp_path)
    monkeypatch.setattr(program.time, "sleep", let_go)
    monkeypatch.setattr(
        program.Store, "role", lambda store: ("master", store.address, "connected", 5)
    )
    monkeypatch.setattr(program, "configure", lambda *_: None)
    monkeypatch.setattr(program, "ask_often", lambda _: None)
    monkeypatch.setattr(program.os, "execv", execute)
    with pytest.raises(SystemExit):
        program.vote(program.Set(SETTINGS))


def test_a_store_that_follows_a_replica_votes_once_it_follows_the_master(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three that come together at once: its Sentinel named a replica as master, and they disagreed for good."""
    roles = {A: ("slave", B, "connected", 5), B: ("slave", C, "connected", 5)}
    roles[C] = ("master", C, "connected", 5)
    told, votes = [], []

    def redis(store: Any, *words: Any) -> None:
        told.append((store.address, words))
        roles[store.address] = ("slave", words[1], "connected", 5)

    def execute(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(program.Store, "role", lambda store: roles[store.address])
    monkeypatch.setattr(program.Store, "redis", redis)
    monkeypatch.setattr(program, "DATA", tmp_path)
    monkeypatch.setattr(program, "configure", lambda _, master: votes.append(master))
    monkeypatch.setattr(program, "ask_often", lambda _: None)
    monkeypatch.setattr(program.os, "execv", execute)
    with pytest.raises(SystemExit):
        program.vote(program.Set(SETTINGS))
    assert told == [(A, ("SLAVEOF", C, SETTINGS["port"]))]
    assert votes == [C]


def test_a_vote_that_begins_within_a_failover_is_not_for_the_old_master_for_good(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    Seen after an apply on a busy computer: A was restarted, its Sentinel asked while B's was promoting C, and wrote down A
    with C's epoch. No word of the others is newer than that: A's Sentinel named a replica, for good.
    """
    said = {
        B: {"ip": A, "flags": "master,failover_in_progress", "config-epoch": "1"},
        C: {"ip": C, "flags": "master", "config-epoch": "1"},
    }
    given, kept = tmp_path / "given", tmp_path / "kept"
    given.write_text("# MONITOR\n", encoding="utf-8")
    kept.write_text(
        f"sentinel monitor main {A} 6380 2\nsentinel config-epoch main 0\n", encoding="utf-8"
    )
    monkeypatch.setattr(program, "GIVEN", given)
    monkeypatch.setattr(program, "KEPT", kept)
    monkeypatch.setattr(program.Store, "master", lambda store: said[store.address])
    stores = program.Set(SETTINGS)
    program.configure(stores, A)
    assert kept.read_text(encoding="utf-8").splitlines() == [
        f"sentinel monitor main {A} 6380 2",
        "sentinel config-epoch main 0",
        "sentinel current-epoch 0",
    ]
    # Nor does a store follow the old one when another Sentinel knows better.
    assert stores.decide() == C


def test_a_store_is_preferred_once_every_sentinel_knows(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks every ten seconds; who leads the failover is not known before."""
    told: list[tuple[str, ...]] = []

    class Link:
        def ask(self, *words: str) -> None:
            told.append(words)

    rounds = iter(
        [{A: "100"}, {A: "100"}, {A: "1"}, {A: "1"}, {A: "100"}, {A: "1"}] + [{A: "1"}] * 3
    )
    monkeypatch.setattr(program, "admin", lambda: contextlib.nullcontext(Link()))
    monkeypatch.setattr(program.Store, "priorities", lambda _: next(rounds))
    monkeypatch.setattr(program.time, "sleep", lambda _: None)
    program.prefer(program.Set(SETTINGS))
    assert told == [("CONFIG", "SET", "replica-priority", "1")]
    assert list(rounds) == []
    monkeypatch.setattr(program, "SILENT", 0.0)
    monkeypatch.setattr(program.Store, "priorities", lambda _: {})
    with pytest.raises(program.Failed, match="do not know yet .*: a, b, c"):
        program.prefer(program.Set(SETTINGS))


def test_two_that_each_remember_themselves_wait_until_one_is_told_of_the_other(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the runbook NoMajority has a person do."""
    with pytest.raises(program.Failed, match="runbook NoMajority"):
        decide(program, monkeypatch, remembered=A)
    runbook = (ROOT / "docs/runbooks/NoMajority.md").read_text(encoding="utf-8")
    found = re.search(r"^sed -i '(.*)' /var/lib/redis-sentinel/sentinel.conf$", runbook, re.M)
    assert found
    kept = tmp_path / "sentinel.conf"
    kept.write_text(f"port 0\nsentinel monitor main {A} 6380 2\n", encoding="utf-8")
    subprocess.run(["sed", "-i", found[1].replace("ADDRESS", B), kept], check=True)
    assert kept.read_text(encoding="utf-8") == f"port 0\nsentinel monitor main {B} 6380 2\n"
    # It follows, and then there is one that answers the other.
    assert decide(program, monkeypatch, remembered=B) == B
    assert decide(program, monkeypatch, remembered=A, roles={B: SLAVE_OF[A]}) == A


def answers(*numbers: int) -> list[partitions.Answer]:
    return [
        partitions.Answer("a", float(at), at + 0.5, 200 if number else 503, number)
        for at, number in enumerate(numbers)
    ]


def test_a_number_given_twice_or_lost_is_found_in_a_history() -> None:
    assert partitions.judge(answers(1, 2, 0, 4), 4).exact
    verdict = partitions.judge(answers(1, 2, 2, 0, 9), 8)
    assert (verdict.given, verdict.refused, verdict.twice, verdict.lost) == (4, 1, [2], [9])
    assert not verdict.exact


def test_a_line_that_a_power_cut_left_half_is_no_answer() -> None:
    assert partitions.parse("a", "1.0 2.0 200 7\n3.0 4.") == [partitions.Answer("a", 1, 2, 200, 7)]


def test_no_setting_makes_a_failover_shorter_than_the_fence() -> None:
    """What was the master refuses, and the application asks again, before another one can be promoted."""
    schema = yaml.safe_load((ROOT / "salt/sentinel/schema.yaml").read_text(encoding="utf-8"))
    least = schema["properties"]["down_after"]["minimum"] / 1000
    config = (ROOT / "salt/redis/files/redis.conf.j2").read_text(encoding="utf-8")
    application = (ROOT / "webapp/src/counter/store.py").read_text(encoding="utf-8")
    for pattern, text in (
        (r"^min-replicas-max-lag (\d+)$", config),
        (r"^IDLE_SECONDS = ([\d.]+)$", application),
    ):
        found = re.search(pattern, text, re.M)
        assert found, pattern
        assert float(found[1]) <= least
