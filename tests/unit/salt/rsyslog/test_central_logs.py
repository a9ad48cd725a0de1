"""The central logs: found, shown once and in order, safe to look at, and kept within bounds."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

NOW = datetime.datetime(2030, 1, 2, 12, 0, tzinfo=datetime.UTC)


@pytest.fixture
def program(load_source: Callable[..., ModuleType]) -> ModuleType:
    return load_source("salt/rsyslog/files/central-logs")


def line(number: int, seconds: float = 0, **fields: Any) -> str:
    at = (NOW + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    entry = {"time": at, "host": "liar", "service": "liar", "cursor": f"s=1;i={number:x}"}
    return json.dumps({**entry, **fields}) + "\n"


class Store:
    """A folder as the receiver fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, where: str, *lines: str, packed: bool = False) -> Path:
        path = self.folder / where
        path.parent.mkdir(parents=True, exist_ok=True)
        data = "".join(lines).encode()
        path.write_bytes(gzip.compress(data) if packed else data)
        return path

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        program = Path(__file__).parents[4] / "salt/rsyslog/files/central-logs"
        return subprocess.run(
            [sys.executable, "-I", str(program), "show", f"--folder={self.folder}", *words],
            capture_output=True,
            timeout=300,
            check=False,
        )

    def show(self, *words: str) -> tuple[int, list[str], str]:
        done = self.run(*words)
        return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().strip()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "central")


def test_one_request_is_found_in_every_service_and_rotated_file(store: Store) -> None:
    request = {"request_id": "r-1", "method": "GET", "path": "/", "status": 200}
    store.put("edge1/haproxy.log", line(1, 3, data=request), line(2, 4, data={"request_id": "r"}))
    store.put(
        "app1/counter.log.1893585600000000000", line(7, 1, data={**request, "event": "request"})
    )
    # Who asked for it is no part of it.
    store.put("edge1/sudo.log", line(9, message="COMMAND=central-logs show --request=r-1"))
    store.put(
        "app1/counter.log.1893585500000000000.gz", line(6, 0, data={"id": "r-1"}), packed=True
    )
    code, lines, _ = store.show("--request=r-1")
    assert code == 0
    assert [one.split()[2:4] for one in lines] == [
        ["app1", "counter:"],
        ["app1", "counter:"],
        ["edge1", "haproxy:"],
    ]
    assert "GET / 200" in lines[2]


def test_what_was_delivered_twice_is_shown_once_and_what_was_said_twice_twice(store: Store) -> None:
    said = [line(1, 1, message="twice"), line(2, 1, message="twice")]
    store.put("a/x.log.1893585600000000000", said[0])
    store.put("a/x.log", said[0], *said, line(1, 1, message="twice"))
    store.put("b/x.log", said[0])
    _, lines, _ = store.show("--since=2030-01-01")
    assert [one.split()[2] for one in lines] == ["a", "a", "b"]


def test_entries_come_in_the_order_of_time(store: Store) -> None:
    store.put("a/x.log", *(line(n, n % 7, message=str(n)) for n in range(50)))
    _, lines, _ = store.show("--since=2030-01-01")
    assert [one[:24] for one in lines] == sorted(one[:24] for one in lines)
    assert len(lines) == 50


def test_without_a_question_the_last_ones_are_shown(store: Store) -> None:
    store.put("a/x.log", *(line(n, n, message=f"m{n}") for n in range(500)))
    _, lines, _ = store.show()
    assert len(lines) == 200
    assert lines[-1].endswith("m499")


def test_a_sender_is_who_its_folder_says_and_cannot_write_to_the_terminal(store: Store) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\nfake line\u202e\x9b31m"
    store.put(
        "edge1/haproxy.log", line(1, data={"path": evil, "method": "GET"}), line(2, message=evil)
    )
    _, lines, _ = store.show("--since=2030-01-01")
    assert len(lines) == 2
    for one in lines:
        assert " edge1 haproxy: " in one
        assert not any(
            ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char == "\u202e" for char in one
        )


ANY_TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "\x1b]52;c;eA==\x07",
        "\x9b2J",
        "a\nedge9 sshd: Accepted",
        "\x7f",
        "\u2028",
        "\u202e",
        "\ud800",
        "\t",
    ]
)
ANY_VALUE = st.recursive(
    ANY_TEXT | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
MEMBERS = (
    "time",
    "cursor",
    "unit",
    "user",
    "identifier",
    "pid",
    "priority",
    "cut",
    "message",
    "data",
)


def in_own_lines(text: str, shown: int) -> None:
    """No control character but the newline of each line that is shown, which begins as one."""
    assert [one for one in text if not one.isprintable()] == ["\n"] * shown
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z edge1 ", one) for one in text.splitlines()
    )


@given(
    changes=st.dictionaries(st.sampled_from(MEMBERS), ANY_VALUE, min_size=1),
    # Escapes of JSON, or the bytes themselves.
    ascii_only=st.booleans(),
)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_a_sender_puts_into_a_field_is_one_printable_line(
    program: ModuleType, tmp_path: Path, changes: dict[str, Any], ascii_only: bool
) -> None:
    """Also of a machine that somebody else has taken over, who chooses every one of them."""
    entry = json.loads(line(1, message="said"))
    raw = json.dumps({**entry, **changes}, ensure_ascii=ascii_only)
    path = tmp_path / "edge1/system.log"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(raw.encode("utf-8", "surrogatepass") + b"\n")
    found = list(program.search(str(tmp_path), program.Asked()))
    for service in ("system", "counter"):
        in_own_lines(
            "".join(f"{program.readable(host, service, entry)}\n" for host, _, entry in found),
            len(found),
        )


def test_what_is_shown_has_no_control_character_but_newlines(store: Store) -> None:
    """The program itself, over every place of an entry and any bytes; `--json` too."""
    lines = [
        line(n, n, **{field: evil}).encode()
        for n, (field, evil) in enumerate(
            (field, evil)
            for field in MEMBERS
            for evil in (
                "9999-01-01T\x1b]52;c;eA==\x07",
                f"{NOW:%Y-%m-%dT%H:%M:%S}.000000Z\nedge9 sshd: Accepted",
                {
                    "a\nb\u2028": "\x9b\x7f\ud800",
                    "method": "\r",
                    "path": "\x0b",
                    "status": "\x1b[2J",
                },
                ["\x1b"],
            )
        )
    ]
    lines += [
        bytes([0xFF, 0x1B, 0x9B, 0x0D]),
        b'{"time": "\xff\x1b[2J"}',
        *(b"\x1b" * n for n in range(3)),
    ]
    # As deep as it can still be read, which may be too deep to be written.
    lines += [
        b'{"time":"2030-01-02T12:00:00.000000Z","data":{"a":%s0%s}}' % (b"[" * n, b"]" * n)
        for n in range(900, 1000, 3)
    ]
    path = store.put("edge1/system.log")
    path.write_bytes(b"\n".join(lines) + b"\n")
    for words in ([], ["--json"]):
        done = store.run("--since=2030-01-01", *words)
        assert done.returncode == 0, done.stderr
        for text in (done.stdout.decode(), done.stderr.decode()):
            assert [one for one in text if not one.isprintable() and one != "\n"] == []
        own = (
            rb'\{"time":"2030-|\{"time": "2030-'
            if words
            else rb"2030-01-02 12:0\d:\d\d\.000Z edge1 "
        )
        assert all(re.match(own, one) for one in done.stdout.splitlines())
        assert len(done.stdout.splitlines()) > 40


def test_an_ordinary_users_line_is_shown_as_that_users(store: Store) -> None:
    store.put(
        "edge1/system.log",
        line(1, user="nobody", identifier="haproxy", priority=2, message="Server app/1 is DOWN"),
        line(2, user="nobody", unit="session-3.scope", message="no name"),
        line(3, identifier="cron", message="root's"),
    )
    # By a program's name, which whoever runs it may make say anything: LD_PRELOAD, a debugger.
    store.put("edge1/sudo.log", line(4, 1, user="nobody", identifier="sudo", message="root : …"))
    _, lines, _ = store.show("--since=2030-01-01")
    assert [one.split(" edge1 ")[1] for one in lines] == [
        "nobody (haproxy): [crit] Server app/1 is DOWN",
        "nobody (session-3.scope): no name",
        "cron: root's",
        "nobody (sudo): root : …",
    ]


def test_what_cannot_be_read_as_an_entry_is_counted_and_its_file_named(store: Store) -> None:
    path = store.put("a/x.log", line(1, message="good"), line(2)[:50] + "\n", "foreign\n")
    code, lines, said = store.show("--since=2030-01-01")
    assert (code, len(lines)) == (0, 1)
    assert said == f"2 lines are no entries and not shown: {path}"


# Of the sessions of who asks: those of Debian 12 and 13, by sudo, sshd, logind and systemd.
OWN = [
    ("sudo", "{me} : PWD=/ ; USER=root ; COMMAND=/bin/sh -c 'ls'"),
    ("sudo", "  {me} : TTY=pts/0 ; PWD=/home/x y ; USER=root ; COMMAND=/usr/bin/bash -l"),
    ("sudo", "pam_unix(sudo:session): session opened for user root(uid=0) by {me}(uid=1000)"),
    ("sudo", "pam_unix(sudo:session): session closed for user root"),
    ("sshd", "Accepted publickey for {me} from 192.0.2.1 port 5 ssh2: RSA SHA256:x"),
    ("sshd", "pam_unix(sshd:session): session opened for user {me}(uid=1000) by {me}(uid=0)"),
    ("sshd", "Starting session: command for {me} from 192.0.2.1 port 48040 id 0"),
    ("sshd", "Disconnected from user {me} 192.0.2.1 port 5"),
    ("systemd", "New session c8 of user {me}."),
    ("systemd", "Started session-c8.scope - Session c8 of User {me}."),
]
OTHERS = [
    ("sudo", "alice : PWD=/ ; USER=root ; COMMAND=/bin/sh"),
    ("sudo", "{me} : command not allowed ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh"),
    ("sudo", "{me} : 3 incorrect password attempts ; PWD=/ ; USER=root ; COMMAND=/bin/sh"),
    ("sudo", "pam_unix(sudo:auth): authentication failure; user={me}"),
    ("sudo", "pam_unix(sudo:session): session opened for user root(uid=0) by alice(uid=1001)"),
    ("sshd", "Accepted publickey for alice from 192.0.2.1 port 5 ssh2: RSA SHA256:x"),
    ("sshd", "Failed publickey for {me} from 192.0.2.1 port 5 ssh2: RSA SHA256:x"),
    ("systemd", "haproxy.service: Main process exited, code=killed"),
    # Whatever it looks like: these did not say it.
    ("system", "{me} : PWD=/ ; USER=root ; COMMAND=/bin/sh"),
    ("haproxy", "{me} : PWD=/ ; USER=root ; COMMAND=/bin/sh"),
]


def test_the_asking_accounts_own_sessions_are_left_out_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setenv("SUDO_USER", me)
    for number, (service, message) in enumerate(OWN + OTHERS):
        path = store.folder / f"a/{service}.log"
        said = line(number, number, message=message.format(me=me))
        store.put(f"a/{service}.log", path.read_text() if path.exists() else "", said)
    _, lines, said = store.show("--since=2030-01-01", "--without-own")
    assert [one.split(": ", 1)[1] for one in lines] == [m.format(me=me) for _, m in OTHERS]
    assert (
        said
        == f"{len(OWN)} lines of {me}'s own sessions left out: ALL=1 or SERVICE=sudo shows them"
    )
    _, lines, said = store.show("--since=2030-01-01")
    assert (len(lines), said) == (len(OWN + OTHERS), ""), "they are there"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block", [1, 7, 150, 1 << 20])
def test_a_request_is_found_wherever_a_block_ends(
    program: ModuleType, store: Store, block: int, packed: bool
) -> None:
    program.BLOCK = block  # type: ignore[attr-defined]
    wanted = [line(number, data={"request_id": "r-1"}) for number in range(3)]
    other = [line(number, data={"request_id": f"r-{number}"}) for number in range(10, 30)]
    name = "edge1/haproxy.log" + ".1893585600000000000.gz" * packed
    store.put(name, wanted[0], *other[:9], wanted[1], *other[9:], wanted[2].rstrip(), packed=packed)
    path = str(store.folder / name)
    assert [json.loads(raw) for raw in program.lines(path)] == [
        json.loads(one) for one in (wanted[0], *other[:9], wanted[1], *other[9:], wanted[2])
    ]
    asked = program.Asked(request="r-1")
    found = [entry["cursor"] for _, _, entry in program.search(str(store.folder), asked)]
    assert found == ["s=1;i=0", "s=1;i=1", "s=1;i=2"]


def test_half_lines_and_strange_files_are_passed_over(store: Store) -> None:
    store.put(
        "a/x.log",
        "not json\n",
        "[1]\n",
        '{"time": 3}\n',
        '{"a":' * 2000 + "\n",
        line(1, message="good"),
        line(2)[:20],
    )
    store.put("a/x.log.1893585600000000000.gz", "no gzip")
    store.put("a/README", "x")
    store.put("../outside/x.log", line(3, message="outside"))
    store.put("a/.hidden.log", line(4, message="hidden"))
    code, lines, _ = store.show("--since=2030-01-01")
    assert code == 0
    assert [one.rsplit(" ", 1)[1] for one in lines] == ["good"]


def test_json_is_as_stored_with_the_true_names(store: Store) -> None:
    store.put("edge1/haproxy.log", line(1, data={"status": 503}))
    _, lines, _ = store.show("--since=2030-01-01", "--json")
    found = json.loads(lines[0])
    assert (found["host"], found["service"]) == ("edge1", "haproxy")
    assert found["data"] == {"status": 503}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("90s", -90),
        ("10m", -600),
        ("2h", -7200),
        ("1d", -86400),
        ("11:30", -1800),
        ("2030-01-02T11:00", -3600),
        ("2030-01-02 11:00:00Z", -3600),
        ("2030-01-02T13:00+02:00", -3600),
        ("2030-01-02", -43200),
    ],
)
def test_since_is_understood(program: ModuleType, given: str, seconds: int) -> None:
    wanted = NOW + datetime.timedelta(seconds=seconds)
    assert program.when(given, NOW) == wanted.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize(
    "given", ["yesterday", "10", "25:00", "2030-13-01", "$(id)", "-1h", "999999w"]
)
def test_since_that_is_not_understood_is_one_clear_line(store: Store, given: str) -> None:
    code, lines, said = store.show(f"--since={given}")
    assert (code, lines) == (2, [])
    assert f"SINCE={given}" in said
    assert "10m" in said
    assert "\n" not in said


def test_an_unknown_service_or_host_is_named_with_those_that_are_there(store: Store) -> None:
    store.put("edge1/haproxy.log", line(1))
    for word in ("--service=haproxi", "--host=edge2", "--service=../../etc"):
        code, _, said = store.show(word)
        assert code == 2
        assert "there are: " in said
        assert "\n" not in said


def test_nothing_found_is_said_and_is_no_success(store: Store) -> None:
    store.put("edge1/haproxy.log", line(1))
    assert store.show("--request=no-such")[::2] == (1, "no entry matches")


def test_following_goes_on_across_a_rotation_and_loses_nothing(
    program: ModuleType, store: Store
) -> None:
    path = store.put("a/x.log", line(0, message="m0"))
    seen: list[str] = []
    ends = threading.Event()

    def watch() -> None:
        asked = program.Asked(since="2030-01-01")
        for found in program.follow(str(store.folder), asked, program.Once(), pause=0.01):
            if found:
                seen.append(found[2]["message"])
            if ends.is_set():
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for number in range(1, 60):
        with open(path, "a", encoding="utf-8") as file:
            half = line(number, number, message=f"m{number}")
            file.write(half[:10])
            file.flush()
            time.sleep(0.002)
            file.write(half[10:])
        if number % 20 == 0:
            path.rename(f"{path}.{1893585600000000000 + number}")
    deadline = time.monotonic() + 120
    while len(seen) < 60 and time.monotonic() < deadline:
        time.sleep(0.02)
    ends.set()
    watcher.join(5)
    assert seen == [f"m{n}" for n in range(60)]


CONFIG = {"rotate_mb": 1, "service_mb": 3, "total_mb": 4, "keep_free_mb": 0, "max_days": 10}


def trim(program: ModuleType, store: Store, now: float | None = None, **changes: int) -> int:
    reopened: list[int] = []
    config = {"folder": str(store.folder), **CONFIG, **changes}
    program.trim(config, lambda: reopened.append(1), now)
    return len(reopened)


def noise(number: int) -> str:
    return line(number, message=os.urandom(300).hex())


def test_a_large_file_is_rotated_then_compressed_and_still_found(
    program: ModuleType, store: Store
) -> None:
    path = store.put("a/x.log", *(noise(n) for n in range(2000)))
    small = store.put("a/y.log", line(1))
    with open(path, "ab") as receivers:
        told: list[bool] = []

        def hear() -> None:
            """Deaf to the first signal, as one that is still busy with another."""
            told.append(True)
            if len(told) == 2:
                receivers.close()

        program.trim({"folder": str(store.folder), **CONFIG}, hear)
    assert len(told) == 2, "the receiver is told to open new ones, until it does"
    (rotated,) = store.folder.glob("a/x.log.*")
    assert not path.exists()
    assert small.exists()
    assert trim(program, store) == 0
    assert rotated.exists(), "the receiver may still write to it"
    assert trim(program, store, time.time() + 60) == 0
    assert [one.name for one in store.folder.glob("a/x.log*")] == [f"{rotated.name}.gz"]
    assert len(store.show("--service=x", "--since=2020-01-01")[1]) == 2000


def test_what_the_receiver_still_writes_to_is_left_as_it_is(
    program: ModuleType, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressed under its hands, all that it writes from then on would be gone."""
    monkeypatch.setattr(program, "CLOSING", 0)
    rotated = store.put(f"a/x.log.{time.time_ns() - 120 * 10**9}", line(1))
    with open(rotated, "a", encoding="utf-8") as receivers:
        assert trim(program, store) == 1
        receivers.write(line(2))
    assert trim(program, store) == 0
    assert not rotated.exists()
    assert len(store.show("--since=2020-01-01")[1]) == 2


def test_the_receiver_is_told_also_where_nothing_tells_who_writes(
    program: ModuleType, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without leases: it would go on writing to what is compressed next."""
    monkeypatch.setattr(program, "is_written", lambda path: False)
    store.put("a/x.log", *(noise(n) for n in range(2000)))
    assert trim(program, store) == 1
    assert trim(program, store) == 0


def test_who_trims_as_root_does_it_as_the_account_whose_logs_they_are(
    program: ModuleType, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root compressed, that account could not read: nothing at all was shown any more."""
    order: list[str] = []
    monkeypatch.setattr(program, "become_owner", order.append)
    monkeypatch.setattr(program, "trim", lambda *_: order.append("trimmed"))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"folder": str(store.folder), **CONFIG}))
    assert program.main(["trim", str(config)]) == 0
    assert order == [str(store.folder), "trimmed"]


def test_no_line_outlives_its_days_however_little_a_service_says(
    program: ModuleType, store: Store
) -> None:
    """A line an hour: the file is never large, and never of yesterday by its last change."""
    now = time.time()
    path = store.put("a/x.log", line(0))
    trim(program, store, now)
    assert path.exists(), "the first day begins"
    for hour in range(1, 30):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line(hour))
        os.utime(path, (now + hour * 3600,) * 2)
        trim(program, store, now + hour * 3600)
        if hour == 23:
            assert [one.name for one in store.folder.glob("a/*")] == ["x.log"]
    names = sorted(one.name for one in store.folder.glob("a/*"))
    assert len(names) == 2, names
    assert len(path.read_text().splitlines()) == 5


def test_a_killed_compression_is_finished_by_the_next_and_shown_once(
    program: ModuleType, store: Store
) -> None:
    stamp = time.time_ns() - 120 * 10**9
    said = [noise(n) for n in range(10)]
    plain = store.put(f"a/x.log.{stamp}", *said)
    store.put(f"a/x.log.{stamp}.gz", *said, packed=True)
    store.put(f"a/x.log.{stamp - 1}.gz.new", "half")
    os.utime(store.folder / f"a/x.log.{stamp - 1}.gz.new", (0, 0))
    assert len(store.show("--since=2020-01-01")[1]) == 10
    trim(program, store)
    assert not plain.exists()
    assert [one.name for one in store.folder.glob("a/*")] == [f"x.log.{stamp}.gz"]
    assert len(store.show("--since=2020-01-01")[1]) == 10


def test_the_oldest_go_first_when_a_bound_is_reached(program: ModuleType, store: Store) -> None:
    day = 86400
    now = int(time.time())

    def rotated(where: str, days: float, size: int) -> Path:
        path = store.put(f"{where}.{int((now - days * day) * 1e9)}.gz")
        path.write_bytes(b"x" * size)
        return path

    ancient = rotated("a/x.log", 11, 10)
    x1, x2, x3 = (rotated("a/x.log", days, 1 << 20) for days in (5, 4, 3))
    x4 = rotated("a/x.log", 2, 1 << 19)
    y1, y2 = rotated("b/y.log", 6, 1 << 20), rotated("b/y.log", 1, 1 << 20)
    live = store.put("a/x.log", line(1))
    trim(program, store)
    # x had 3.5 of its 3 MiB; then all had 4.5 of 4, of which y's was the oldest.
    assert [one.exists() for one in (ancient, x1, x2, x3, x4)] == [False, False, True, True, True]
    assert [one.exists() for one in (y1, y2)] == [False, True]
    assert live.exists(), "what is being written to is never removed"


def test_a_service_has_no_more_than_so_many_files(
    program: ModuleType, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is of one byte only is compressed to nothing: its size bounds no inode."""
    monkeypatch.setattr(program, "MOST", 0)
    now = time.time_ns()
    paths = [store.put(f"a/x.log.{now - n * 10**9}.gz") for n in range(15)]
    other = store.put(f"a/y.log.{now - 10**12}.gz")
    trim(program, store)
    assert [one.exists() for one in paths] == [True] * 10 + [False] * 5
    assert other.exists()


def test_a_full_disk_takes_the_oldest_until_enough_is_free(
    program: ModuleType, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        store.put(f"a/x.log.{time.time_ns() - n * 10**12}.gz", "x" * 1000) for n in range(4, 0, -1)
    ]
    free = iter([0, 0, 10 << 30])
    usage = type("Usage", (), {})
    monkeypatch.setattr(
        program.shutil, "disk_usage", lambda _: (setattr(usage, "free", next(free)), usage)[1]
    )
    trim(program, store, keep_free_mb=100)
    assert [one.exists() for one in paths] == [False, False, True, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rotate_mb": 3}, "rotate_mb must be below service_mb"),
        ({"max_days": "9"}, "max_days: needs a int"),
        ({"service_mb": 5}, "not above total_mb"),
    ],
)
def test_bounds_that_do_not_fit_are_refused(
    program: ModuleType,
    tmp_path: Path,
    change: Any,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"folder": "/x", **CONFIG}))
    assert program.main(["check", str(path)]) == 0
    path.write_text(json.dumps({"folder": "/x", **CONFIG, **change}))
    assert program.main(["check", str(path)]) == 2
    assert said in capsys.readouterr().err


# --- whose lines they are -------------------------------------------------------------------------


def collected(load_source: Callable[..., ModuleType], **formulas: Any) -> Any:
    module = load_source("salt/_modules/logs.py", salt={"formula.collect": lambda _: formulas})
    return module.collect()


def test_services_are_collected_from_the_formulas(load_source: Callable[..., ModuleType]) -> None:
    units = {"units": ["x.service", "x@*.service"]}
    assert collected(load_source, a={"x": units}, b=None) == {"x": units}


@pytest.mark.parametrize(
    ("formulas", "said"),
    [
        ({"a": {"x": {"units": ["x.service"]}}, "b": {"x": {"units": ["y.service"]}}}, "another"),
        ({"a": {"x": {"units": ["x.service"]}}, "b": {"y": {"units": ["x.service"]}}}, "already"),
    ],
)
def test_a_wrong_claim_is_refused_with_its_place(
    load_source: Callable[..., ModuleType], formulas: Any, said: str
) -> None:
    with pytest.raises(CommandExecutionError, match=r"/logs\.yaml\.j2: .*" + said):
        collected(load_source, **formulas)


def test_every_service_of_a_machine_has_its_logs(rendered: Any) -> None:
    """Every formula that runs a daemon says whose lines its own are."""
    for formula in rendered.top:
        if f"{formula}/status.yaml.j2" in rendered.tree:
            assert f"{formula}/logs.yaml.j2" in rendered.tree, f"{formula} has no logs.yaml.j2"


def test_every_daemon_of_a_machine_is_claimed(
    rendered: Any, load_source: Callable[..., ModuleType]
) -> None:
    config = json.loads(rendered.text("/etc/journal-shipper.json"))
    services = load_source("salt/shipper/files/journal-shipper").Services(config["services"])
    for formula, units in rendered.status.items():
        for unit in units:
            name = unit if "." in unit else f"{unit}.service"
            assert services.of_unit(name), f"{formula}: {name} would be kept as system"


def test_make_logs_hands_its_values_over_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from control import logs, ssh, topology
    from control.errors import ControlError
    from control.options import Options

    monkeypatch.setattr(ssh, "stream", lambda where, host, line: lines.append((host, line)) or 0)
    for name in ("SERVICE", "HOST", "REQUEST", "SINCE", "FOLLOW", "ALL"):
        monkeypatch.delenv(name, raising=False)
    lines: list[tuple[str, str]] = []
    monkeypatch.setenv("REQUEST", "'; reboot #")
    monkeypatch.setenv("SINCE", "-10m")
    assert logs.show(topology.load("prod"), Options.read()) == 0
    ((host, sent),) = lines
    assert host == "monitor1"
    import shlex

    assert shlex.split(sent) == [
        "exec",
        "central-logs",
        "show",
        "--request='; reboot #",
        "--since=-10m",
    ]
    monkeypatch.setenv("FOLLOW", "yes")
    with pytest.raises(ControlError, match="FOLLOW=yes"):
        logs.show(topology.load("prod"), Options.read())
    monkeypatch.setenv("FOLLOW", "1")
    words = {
        name: logs.make_arguments(Options(**{name.lower(): value}))
        for name, value in {"HOST": "a", "SERVICE": "sudo", "REQUEST": "x", "ALL": True}.items()
    }
    own = {name for name, given in words.items() if "--without-own" in given}
    assert own == {"HOST"}, "asked for anything, all of it is shown"
    monkeypatch.setenv("HOST", "edge9")
    with pytest.raises(ControlError, match="edge9"):
        logs.show(topology.load("prod"), Options.read())


def test_where_the_logs_are_is_the_same_everywhere_and_no_setting(
    all_rendered: dict[Any, Any], root: Path
) -> None:
    """Receiver, its sandbox, trimming, `central-logs`, the controller: one that looks elsewhere finds
    nothing, or may not write."""
    schema = yaml.safe_load((root / "salt/rsyslog/schema.yaml").read_text(encoding="utf-8"))
    assert "folder" not in schema["properties"]
    one = all_rendered["dev", "dev"]
    assert 'workDirectory="/var/log/central"' in one.text("/etc/rsyslog.conf")
    unit = one.text("/etc/systemd/system/rsyslog.service")
    assert "\nLogsDirectory=central\n" in unit
    trim = one.text("/etc/systemd/system/central-logs-trim.service")
    assert "\nReadWritePaths=/var/log/central\n" in trim
    assert json.loads(one.text("/etc/central-logs.json"))["folder"] == "/var/log/central"
    for path in ("salt/rsyslog/files/central-logs", "control/status.py"):
        assert '"/var/log/central"' in (root / path).read_text(encoding="utf-8")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs an account to become")
def test_root_reads_the_logs_as_the_account_that_owns_them(tmp_path: Path) -> None:
    """What that account, or who took it over, puts among them leads root to no file of others."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        logs, private = Path(folder) / "central", Path(folder) / "private.log"
        private.write_text('{"time": "2026-01-01T00:00:00.000000Z", "message": "of others"}\n')
        private.chmod(0o600)
        (logs / "web1").mkdir(parents=True)
        (logs / "web1" / "sshd.log").write_text(private.read_text().replace("others", "its own"))
        (logs / "web1" / "sudo.log").symlink_to(private)
        root = Path(__file__).resolve().parents[4]
        text = (root / "salt/rsyslog/files/central-logs").read_text(encoding="utf-8")
        program = Path(folder) / "central-logs"
        program.write_text(text.replace('FOLDER = "/var/log/central"', f"FOLDER = {str(logs)!r}"))
        Path(folder).chmod(0o755)
        for path in (logs, *logs.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
        words = [sys.executable, "-I", str(program), "show", "--service"]
        told = [
            subprocess.run([*words, name], capture_output=True, text=True, check=False).stdout
            for name in ("sshd", "sudo")
        ]
    assert "of its own" in told[0]
    assert "of others" not in told[1]


def listeners(one: Any) -> dict[str, tuple[str, str, list[str]]]:
    """{machine: (its port, its address, services it may write of)}, by the receiver's configuration."""
    text = one.text("/etc/rsyslog.conf")
    found = {}
    for part in re.split(r"(?m)^ruleset\(name=\"of ", text)[1:]:
        name = part.partition('"')[0]
        (address,) = re.findall(r'if \$fromhost-ip != "([0-9.]+)" then stop', part)
        (machine,) = re.findall(r'set \$\.machine = "([a-z0-9-]+)"', part)
        (peers,) = re.findall(r"tls\.permittedPeer=\[(.*)\]", part)
        (port,) = re.findall(r'port="(\d+)"', part)
        (services,) = re.findall(
            r"if \$app-name == \[(.*)\] then set \$\.service = \$app-name", part
        )
        assert (name, peers) == (machine, f'"{machine}"')
        found[machine] = port, address, re.findall(r'"([^"]+)"', services)
    assert text.count("imrelp") == len(found) + 1
    return found


def test_a_sender_is_taken_with_the_certificate_that_goes_with_its_address(
    all_rendered: dict[Any, Any],
) -> None:
    """Each address is led to a listener that takes one name; the others' names are refused there."""
    for one in all_rendered.values():
        if "monitor" not in one.machine["roles"]:
            continue
        machines = one.topology["machines"]
        found = listeners(one)
        assert set(found) == set(machines)
        led = re.findall(
            r"ip saddr (\S+) tcp dport 2514 dnat to \S+:(\d+)", one.text("/etc/stack/senders.nft")
        )
        others = {name: data for name, data in machines.items() if name != one.name}
        assert {found[name][:2] for name in others} == {(port, source) for source, port in led}
        assert {name: found[name][1] for name in others} == {
            name: data["address"] for name, data in others.items()
        }
        assert found[one.name][0] == "2514"
        assert len({port for port, *_ in found.values()}) == len(found)


def test_a_sender_makes_no_files_but_of_its_own_services(all_rendered: dict[Any, Any]) -> None:
    """3,000 names in a second were 3,000 files."""
    found = listeners(all_rendered["prod", "monitor1"])
    everywhere = {"sshd", "sudo", "kernel", "systemd", "salt", "updates", "collectd", "shipper"}
    for name, own in {"app1": "counter", "store1": "redis", "edge1": "haproxy"}.items():
        services = found[name][2]
        assert everywhere | {own} <= set(services)
        assert not {"prometheus", "system"} & set(services)
    assert "redis" not in found["app1"][2]
