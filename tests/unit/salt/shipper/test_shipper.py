"""The shipper: every entry at least once, to the right receiver only, under the right name."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pace
import pytest

SEQUENCE = "5" * 32


class Journal:
    """A journal in memory, read as `systemd.journal.Reader` reads one."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.at = 0
        self.reads, self.writes = socket.socketpair()
        self.writes.setblocking(False)

    def add(self, message: str | bytes, **fields: str) -> None:
        number = len(self.entries) + 1 if not self.entries else self.number(-1) + 1
        stamp = int(time.time() * 1e6)
        raw = {key: value.encode() for key, value in fields.items()}
        message = message.encode() if isinstance(message, str) else message
        self.entries.append(
            {
                "MESSAGE": message,
                **raw,
                "__REALTIME_TIMESTAMP": stamp,
                "__CURSOR": f"s={SEQUENCE};i={number:x};b=b;m=1;t={stamp:x};x=1",
            }
        )
        with contextlib.suppress(BlockingIOError):
            self.writes.send(b"x")

    def number(self, index: int) -> int:
        found = re.search(r"i=([0-9a-f]+)", self.entries[index]["__CURSOR"])
        assert found
        return int(found[1], 16)

    def drop(self, count: int) -> None:
        """As journald does with the oldest when it has no room."""
        del self.entries[:count]
        self.at = max(0, self.at - count)

    def fileno(self) -> int:
        return self.reads.fileno()

    def process(self) -> None:
        self.reads.recv(65536)

    def get_next(self) -> dict[str, Any]:
        if self.at >= len(self.entries):
            return {}
        self.at += 1
        return self.entries[self.at - 1]

    def get_previous(self) -> dict[str, Any]:
        # As libsystemd: at the oldest entry there is nothing before, and the place stays.
        if self.at < 2:
            return {}
        self.at -= 1
        return self.entries[self.at - 1]

    def seek_monotonic(self, _: float) -> None:
        self.at = 0

    def seek_cursor(self, cursor: str) -> None:
        wanted = int(cursor.split("i=")[1].split(";")[0], 16)
        self.at = next(
            (i for i in range(len(self.entries)) if self.number(i) >= wanted), len(self.entries)
        )

    def test_cursor(self, cursor: str) -> bool:
        return bool(self.at) and self.entries[self.at - 1]["__CURSOR"] == cursor


class Receiver(threading.Thread):
    """A RELP server: acknowledges `most` entries of a connection, then goes away."""

    def __init__(self, folder: Path, certificate: str = "machine", most: int = 10**9) -> None:
        super().__init__(daemon=True)
        self.got: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.peers: list[str] = []
        self.most, self.lines, self.answer = most, 0, b"200 OK"
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.crt")
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(folder / f"{certificate}.crt", folder / f"{certificate}.key")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.ends = False
        self.start()

    def run(self) -> None:
        while not self.ends:
            with contextlib.suppress(OSError, ValueError):
                plain, _ = self.socket.accept()
                with self.context.wrap_socket(plain, server_side=True) as link:
                    self.peers.append(str(link.getpeercert()))
                    self.serve(link)

    def serve(self, link: ssl.SSLSocket) -> None:
        file = link.makefile("rb")
        acknowledged = 0
        while acknowledged < self.most:
            head = b""
            while head.count(b" ") < 3:
                byte = file.read(1)
                if not byte:
                    return
                head += byte
            number, command, length = head.split()
            data = file.read(int(length))
            assert file.read(1) == b"\n"
            if command == b"open":
                link.sendall(self.rsp(number, b"200 OK\nx=0"))
                continue
            header, _, body = data.decode().partition(" - - - ")
            self.headers.append(header)
            self.got.append(json.loads(body))
            link.sendall(self.rsp(number, self.answer))
            acknowledged += 1
        # What it closes with unread entries is a reset, which may take its last answers along.
        time.sleep(0.05)

    @staticmethod
    def rsp(number: bytes, data: bytes) -> bytes:
        return b"%s rsp %d %s\n" % (number, len(data), data)

    def close(self) -> None:
        self.ends = True
        self.socket.close()


@pytest.fixture(scope="module")
def identities(load_source: Callable[..., ModuleType], tmp_path_factory: Any) -> Path:
    """ca.crt with machine.{crt,key}, edge.{crt,key}; outsider.{crt,key} of another CA."""
    pki = load_source("salt/_utils/certificates.py")
    folder: Path = tmp_path_factory.mktemp("pki")
    ca, key = pki.make_ca("one", 30)
    other, other_key = pki.make_ca("other", 30)
    (folder / "ca.crt").write_text(ca)
    (folder / "other.crt").write_text(other)
    for name, subject, parts in (
        ("machine", "monitor1", (ca, key)),
        ("edge", "edge1", (ca, key)),
        ("outsider", "monitor1", (other, other_key)),
    ):
        certificate, private = pki.issue(*parts, subject, ["127.0.0.1"], 20)
        (folder / f"{name}.crt").write_text(certificate)
        (folder / f"{name}.key").write_text(private)
    return folder


@pytest.fixture
def program(load_source: Callable[..., ModuleType]) -> ModuleType:
    return load_source("salt/shipper/files/journal-shipper")


@pytest.fixture
def world(program: ModuleType, identities: Path, tmp_path: Path) -> Iterator[Any]:
    """`start(receiver)`: a shipper of a fresh process that sends `world.journal` there."""

    class World:
        journal = Journal()
        state = tmp_path / "cursor"
        last: Any = None

        def config(self, port: int, **changes: Any) -> dict[str, Any]:
            return {
                "host": "edge1",
                "server": "127.0.0.1",
                "server_name": "monitor1",
                "port": port,
                "ca": str(identities / "ca.crt"),
                "certificate": str(identities / "edge.crt"),
                "key": str(identities / "edge.key"),
                "services": {
                    "counter": {"units": ["counter@*.service"]},
                    "sudo": {"identifiers": ["sudo"]},
                    "kernel": {"transports": ["kernel"]},
                },
                **changes,
            }

        def start(self, port: int, **changes: Any) -> Any:
            config = self.config(port, **changes)
            # The one before is killed: it closes nothing properly and keeps nothing more.
            if self.last and self.last.relp:
                self.last.relp.close()
            shipper = program.Shipper(
                config, self.journal, str(self.state), str(tmp_path / "metrics")
            )
            shipper.rewind()
            self.last = shipper
            return shipper

        def until(self, shipper: Any, condition: Callable[[], bool], seconds: float = 20) -> None:
            began = time.monotonic()
            while not condition():
                assert not pace.is_over(began, seconds), "not within the time"
                shipper.next_attempt = 0.0
                shipper.turn(0.02)

    program.RETRY = 0.02  # type: ignore[attr-defined]
    # Shorter than a receiver here takes to go away.
    program.REST = 0.01  # type: ignore[attr-defined]
    yield World()


def test_every_entry_arrives_in_order_and_is_remembered(world: Any, identities: Path) -> None:
    receiver = Receiver(identities)
    for number in range(1500):
        world.journal.add(f"line {number}")
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: shipper.sent == 1500)
    assert [one["message"] for one in receiver.got] == [f"line {n}" for n in range(1500)]
    shipper.keep()
    world.journal.add("one more")
    again = world.start(receiver.port)
    world.until(again, lambda: again.sent == 1)
    assert len(receiver.got) == 1501, "what was acknowledged is not sent again"
    receiver.close()


def test_a_receiver_that_goes_away_again_and_again_loses_nothing(
    world: Any, identities: Path
) -> None:
    receiver = Receiver(identities, most=70)
    for number in range(1000):
        world.journal.add(f"line {number}")
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: shipper.sent == 1000)
    assert list(dict.fromkeys(one["cursor"] for one in receiver.got)) == [
        f"s={SEQUENCE};i={n:x}" for n in range(1, 1001)
    ], "each is there, and the first of each in order"
    assert shipper.reconnects > 5
    receiver.close()


def test_a_killed_shipper_goes_on_where_the_other_side_has_everything(
    world: Any, identities: Path
) -> None:
    receiver = Receiver(identities)
    for number in range(300):
        world.journal.add(f"line {number}")
    first = world.start(receiver.port)
    world.until(first, lambda: first.sent >= 100)
    # Killed: nothing is kept but what the last second's keeping wrote.
    for number in range(300, 400):
        world.journal.add(f"line {number}")
    second = world.start(receiver.port)
    world.until(second, lambda: len({one["cursor"] for one in receiver.got}) == 400)
    receiver.close()


@pytest.mark.parametrize("spoilt", ["", "banana", "\0"])
def test_a_spoilt_cursor_sends_again_rather_than_nothing(
    world: Any, identities: Path, spoilt: str
) -> None:
    receiver = Receiver(identities)
    world.state.write_text(spoilt)
    world.journal.add("still here")
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: shipper.sent == 1)
    receiver.close()


def test_what_the_journal_dropped_before_it_was_sent_is_counted_and_said(
    world: Any, identities: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver = Receiver(identities)
    for number in range(10):
        world.journal.add(f"line {number}")
    first = world.start(receiver.port)
    world.until(first, lambda: first.sent == 10)
    first.keep()
    for number in range(10, 30):
        world.journal.add(f"line {number}")
    world.journal.drop(25)
    second = world.start(receiver.port)
    world.until(second, lambda: second.sent == 5)
    assert second.lost == 15
    assert "15 entries were dropped by the journal" in capfd.readouterr().err
    assert [one["message"] for one in receiver.got[10:]] == [f"line {n}" for n in range(25, 30)]
    receiver.close()


def test_the_oldest_entry_of_a_cut_journal_is_sent(world: Any, identities: Path) -> None:
    receiver = Receiver(identities)
    world.journal.add("sent")
    first = world.start(receiver.port)
    world.until(first, lambda: first.sent == 1)
    first.keep()
    for number in range(3):
        world.journal.add(f"line {number}")
    # Nothing but what was delivered is gone: the next one is the journal's oldest.
    world.journal.drop(1)
    second = world.start(receiver.port)
    # Away at first: looking at the lag is no reading.
    second.next_attempt = time.monotonic() + 0.2
    second.lag()
    world.until(second, lambda: second.sent == 3)
    assert [one["message"] for one in receiver.got] == ["sent", "line 0", "line 1", "line 2"]
    assert second.lost == 0
    receiver.close()


def test_looking_at_the_lag_of_a_first_start_passes_nothing_over(
    world: Any, identities: Path
) -> None:
    receiver = Receiver(identities)
    world.journal.add("the very first")
    shipper = world.start(receiver.port)
    assert shipper.lag() > 0
    world.until(shipper, lambda: shipper.sent == 1)
    receiver.close()


def test_what_was_lost_is_known_after_a_restart_and_counted_once(
    world: Any, identities: Path
) -> None:
    receiver = Receiver(identities)
    for number in range(10):
        world.journal.add(f"line {number}")
    first = world.start(receiver.port)
    world.until(first, lambda: first.sent == 10)
    first.keep()
    assert (first.lost, first.lost_time) == (0, 0)
    for number in range(10, 30):
        world.journal.add(f"line {number}")
    world.journal.drop(20)
    second = world.start(receiver.port)
    # It fails again and again, and each time goes back to where the gap is.
    for _ in range(3):
        second.failed(OSError("away"))
    world.journal.drop(2)
    world.until(second, lambda: second.sent == 8)
    assert second.lost == 12
    assert abs(second.lost_time - time.time()) < 20
    second.keep()
    third = world.start(receiver.port)
    assert (third.lost, third.lost_time) == (12, second.lost_time)
    world.journal.add("one more")
    world.until(third, lambda: third.sent == 1)
    third.tell()
    metrics = json.loads(Path(third.metrics).read_text())
    assert (metrics["lost"], metrics["lost_time"]) == (12, second.lost_time)
    receiver.close()


def test_a_kept_cursor_of_the_version_before_is_gone_on_from(world: Any, identities: Path) -> None:
    receiver = Receiver(identities)
    for number in range(3):
        world.journal.add(f"line {number}")
    world.state.write_text(world.journal.entries[1]["__CURSOR"])
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: shipper.sent == 1)
    assert [one["message"] for one in receiver.got] == ["line 2"]
    assert shipper.lost == 0
    receiver.close()


def test_what_the_journal_drops_while_the_shipper_is_slow_is_counted(
    world: Any, identities: Path, program: ModuleType
) -> None:
    receiver = Receiver(identities)
    world.journal.add("first")
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: shipper.sent == 1)
    for number in range(10):
        world.journal.add(f"line {number}")
    # Connected all the time, and never set back.
    world.journal.drop(5)
    world.until(shipper, lambda: shipper.sent == 7)
    assert shipper.reconnects == 1
    assert shipper.lost == 4
    receiver.close()


def test_what_journald_did_not_take_is_lost_too(world: Any, identities: Path) -> None:
    receiver = Receiver(identities)
    said = {"MESSAGE_ID": "a596d6fe7bfa4994828e72309e95d61e", "N_DROPPED": "17"}
    world.journal.add("Suppressed 17 messages from x.service", _TRANSPORT="driver", **said)
    # Anybody can say so of themselves.
    world.journal.add("Suppressed 17 messages from x.service", _TRANSPORT="journal", **said)
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: shipper.sent == 2)
    assert shipper.lost == 17
    receiver.close()


def test_an_entry_that_is_refused_is_not_taken_for_sent(world: Any, identities: Path) -> None:
    receiver = Receiver(identities)
    receiver.answer = b"500 no"
    world.journal.add("precious")
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: len(receiver.got) > 2)
    assert shipper.sent == 0
    receiver.answer = b"200 OK"
    world.until(shipper, lambda: shipper.sent == 1)
    receiver.close()


def test_only_the_monitor_of_the_own_ca_is_sent_to(
    world: Any, identities: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world.journal.add("secret")
    for certificate, said in (("outsider", "certificate"), ("edge", "monitor1")):
        receiver = Receiver(identities, certificate)
        shipper = world.start(receiver.port)
        for _ in range(5):
            shipper.next_attempt = 0.0
            shipper.turn(0.02)
        assert receiver.got == []
        err = capfd.readouterr().err
        assert said in err
        assert err.count("is not reached") == 1, "said once, not at every attempt"
        receiver.close()


def test_a_connection_made_or_lost_is_told_at_once(world: Any, identities: Path) -> None:
    """`make up` asks seconds after the monitor came up: what was true before is not told for a while more."""
    receiver = Receiver(identities, most=1)
    shipper = world.start(receiver.port)

    def connected() -> int:
        metrics: dict[str, int] = json.loads(Path(shipper.metrics).read_text())
        return metrics["connected"]

    assert shipper.tell_when_due()
    assert connected() == 0
    assert not shipper.tell_when_due(), "nothing changed, and it is not time"
    world.until(shipper, lambda: shipper.relp is not None)
    assert shipper.tell_when_due()
    assert connected() == 1
    world.journal.add("the one that this receiver takes")
    world.until(shipper, lambda: shipper.relp is None)
    assert shipper.tell_when_due()
    assert connected() == 0
    receiver.close()


def test_the_lag_is_the_age_of_the_oldest_entry_that_waits(world: Any, identities: Path) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    world.journal.add("waits")
    shipper = world.start(port)
    shipper.turn(0)
    shipper.now = lambda: time.time() + 50
    assert 49 < shipper.lag() < 60
    assert shipper.lag() == pytest.approx(shipper.lag(), abs=1), "looking does not move"
    shipper.tell()
    metrics = json.loads(Path(shipper.metrics).read_text())
    assert metrics["connected"] == 0
    assert metrics["lag_seconds"] > 49


@pytest.mark.parametrize(
    ("fields", "service"),
    [
        ({"_SYSTEMD_UNIT": "counter@1.service"}, "counter"),
        ({"_SYSTEMD_UNIT": "init.scope", "UNIT": "counter@2.service"}, "counter"),
        # Only systemd itself may speak of another's unit.
        ({"_SYSTEMD_UNIT": "session-1.scope", "UNIT": "counter@2.service"}, "system"),
        ({"_SYSTEMD_UNIT": "init.scope", "UNIT": "counter@2.service", "_UID": "1000"}, "system"),
        ({"_TRANSPORT": "kernel"}, "kernel"),
        ({"SYSLOG_IDENTIFIER": "sudo", "_UID": "1000", "_EXE": "/usr/bin/sudo"}, "sudo"),
        ({"SYSLOG_IDENTIFIER": "sudo", "_UID": "0", "_EXE": "/usr/bin/logger"}, "sudo"),
        ({"SYSLOG_IDENTIFIER": "sudo", "_UID": "1000", "_EXE": "/usr/bin/logger"}, "system"),
        ({"SYSLOG_IDENTIFIER": "sudo", "_UID": "1000", "_EXE": "/home/me/sudo"}, "system"),
        ({"SYSLOG_IDENTIFIER": "../../etc/passwd", "_UID": "0"}, "system"),
        ({}, "system"),
    ],
)
def test_whose_an_entry_is_follows_from_what_journald_knows(
    program: ModuleType, world: Any, fields: dict[str, str], service: str
) -> None:
    services = program.Services(world.config(1)["services"])
    assert services.of(fields) == service


@pytest.mark.parametrize(
    "message",
    [
        b'{"request_id": "a", "status": 200}',
        b'{"broken": ',
        b"[1, 2]",
        b"two\nlines \x1b[31mred",
        b"\xff\xfe not text",
        b"x" * 70_000,
        b"\x01" * 48_000,
        b'{"a": "' + b"\x02" * 40_000 + b'"}',
        b"{" * 20_000,
        b"",
    ],
)
def test_an_entry_is_always_one_short_line_of_json(program: ModuleType, message: bytes) -> None:
    entry = {"MESSAGE": message, "__REALTIME_TIMESTAMP": 1, "__CURSOR": "s=1;i=2;b=3"}
    sent = program.line(entry, "edge1", program.Services({}))
    assert b"\n" not in sent
    assert len(sent) < 128 * 1024
    header, _, body = sent.decode().partition(" - - - ")
    assert header == "<14>1 1970-01-01T00:00:00.000001Z edge1 system"
    found = json.loads(body)
    assert found["cursor"] == "s=1;i=2"
    if message.startswith(b'{"request_id"'):
        assert found["data"] == {"request_id": "a", "status": 200}
    if len(message) > 49152:
        assert found["cut"] == len(message)


@pytest.mark.parametrize(
    ("fields", "priority", "message"),
    [
        # Of these, journald itself vouches for none: any user can log them.
        ({"PRIORITY": b"banana"}, 6, "one"),
        ({"PRIORITY": b"9" * 5000}, 6, "one"),
        ({"PRIORITY": b""}, 6, "one"),
        ({"PRIORITY": [b"3", b"4"]}, 3, "one"),
        ({"SYSLOG_IDENTIFIER": [b"a", b"b"], "PRIORITY": b"4"}, 4, "one"),
        ({"MESSAGE": [b"one", b"two"]}, 6, "one"),
        ({"SYSLOG_IDENTIFIER": b'"}\n<0>1 -'}, 6, "one"),
    ],
)
def test_what_anybody_may_log_stops_nothing(
    program: ModuleType, fields: dict[str, Any], priority: int, message: str
) -> None:
    entry = {"MESSAGE": b"one", "__REALTIME_TIMESTAMP": 1, "__CURSOR": "s=1;i=2;b=3", **fields}
    sent = program.line(entry, "edge1", program.Services({}))
    assert b"\n" not in sent
    header, _, body = sent.decode().partition(" - - - ")
    assert header.startswith(f"<{8 + priority}>1 ")
    found = json.loads(body)
    assert found["priority"] == priority
    assert found["message"] == message


@pytest.mark.parametrize(
    ("fields", "whose"),
    [
        # As `nobody` can log it.
        (
            {
                "UNIT": b"haproxy.service",
                "SYSLOG_IDENTIFIER": b"haproxy",
                "PRIORITY": b"2",
                "_UID": b"65534",
                "_SYSTEMD_UNIT": b"session-3.scope",
            },
            ("system", "nobody", "session-3.scope"),
        ),
        ({"SYSLOG_IDENTIFIER": b"sudo", "_UID": b"4294900000"}, ("system", "uid 4294900000", None)),
        # The program itself, but whoever runs it can make it say anything.
        (
            {"SYSLOG_IDENTIFIER": b"sudo", "_EXE": b"/usr/bin/sudo", "_UID": b"65534"},
            ("sudo", "nobody", None),
        ),
        ({"SYSLOG_IDENTIFIER": b"sudo", "_UID": b"0"}, ("sudo", None, None)),
        # A service that runs as a user of its own is known by its unit.
        (
            {"_SYSTEMD_UNIT": b"counter@1.service", "_UID": b"65534"},
            ("counter", None, "counter@1.service"),
        ),
        ({"SYSLOG_IDENTIFIER": b"cron", "_UID": b"0"}, ("system", None, None)),
    ],
)
def test_what_an_ordinary_user_logs_is_that_users_whatever_it_calls_itself(
    program: ModuleType, world: Any, fields: dict[str, bytes], whose: tuple[Any, ...]
) -> None:
    entry = {"MESSAGE": b"boom", "__REALTIME_TIMESTAMP": 1, "__CURSOR": "s=1;i=2;b=3", **fields}
    sent = program.line(entry, "edge1", program.Services(world.config(1)["services"]))
    found = json.loads(sent.decode().partition(" - - - ")[2])
    assert (found["service"], found.get("user"), found.get("unit")) == whose


@pytest.mark.parametrize("kind", [b"x", b'"', b"\x01", b"\xff", "\U0001f600".encode()])
@pytest.mark.parametrize("long", ["SYSLOG_IDENTIFIER", "UNIT", "_SYSTEMD_UNIT", "PRIORITY", "_EXE"])
def test_no_length_of_any_field_makes_a_line_that_the_receiver_would_cut(
    program: ModuleType, root: Path, long: str, kind: bytes
) -> None:
    config = (root / "salt/rsyslog/files/rsyslog.conf.j2").read_text(encoding="utf-8")
    (kilobytes,) = re.findall(r'maxMessageSize="(\d+)k"', config)
    services = program.Services({})
    stamp = {"__REALTIME_TIMESTAMP": 1, "__CURSOR": "s=1;i=2;b=3"}
    # Around what a message may be beside the longest other fields, and beyond.
    edge = program.LINE // 6
    for length in (*range(edge - 800, edge, 7), 8000, 49151, 49152, 49153, 200_000):
        entry = {long: kind * 200_000, "MESSAGE": kind * (length // len(kind)), **stamp}
        sent = program.line(entry, "e" * 63, services)
        assert len(sent) < int(kilobytes) * 1024
        found = json.loads(sent.decode().partition(" - - - ")[2])
        assert found["cursor"] == "s=1;i=2"
        whole = found.get("cut", length) >= length - len(kind)
        assert whole, "what is cut says how long it was"


# Bytes of memory of its own that the unit's process may have.
LIMIT = 112 << 20
FLOOD = """
import json, resource, socket, sys
from importlib import util
from importlib.machinery import SourceFileLoader

path, state, flood, limit, config = sys.argv[1:]
sys.dont_write_bytecode = True
loader = SourceFileLoader("shipper", path)
shipper = util.module_from_spec(util.spec_from_loader("shipper", loader))
loader.exec_module(shipper)

def entry(number):
    message, unit = b"line", b"u"
    if number < 600:
        if flood == "quotes":
            message = b'"' * 49152
        elif flood == "units":
            unit = b"%d" % number + b"u" * 300_000
        elif number == 0:
            # Of one wide character, Python would make four bytes of each.
            message = "\\U0001f600".encode() + b"\\xff" * (30 << 20)
    fields = {"MESSAGE": message, "UNIT": unit, "_UID": b"65534"}
    stamp = {"__REALTIME_TIMESTAMP": 1, "__CURSOR": f"s={'5' * 32};i={number + 1:x};b=b"}
    return {**fields, **stamp}

class Journal:
    at, (reads, writes) = 0, socket.socketpair()
    def fileno(self): return self.reads.fileno()
    def seek_monotonic(self, _): self.at = 0
    def seek_cursor(self, cursor): self.at = shipper.number(cursor)[1] - 1
    def test_cursor(self, cursor): return True
    def get_next(self):
        self.at += 1
        return entry(self.at - 1) if self.at <= 700 else {}

resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
it = shipper.Shipper(json.loads(config), Journal(), state, state + ".metrics")
it.rewind()
while it.sent < 700:
    it.turn(0.02)
print(it.sent, it.lost)
"""


@pytest.mark.parametrize("flood", ["quotes", "units", "message"])
def test_no_flood_of_a_user_takes_more_memory_than_the_unit_has(
    world: Any, identities: Path, root: Path, tmp_path: Path, flood: str
) -> None:
    """What waits while the receiver is unreachable: as much as anybody cares to log."""
    receiver = Receiver(identities)
    source = str(root / "salt/shipper/files/journal-shipper")
    words = [
        source,
        str(tmp_path / "state"),
        flood,
        str(LIMIT),
        json.dumps(world.config(receiver.port)),
    ]
    done = subprocess.run(
        [sys.executable, "-c", FLOOD, *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "700 0\n", done.stderr[-2000:]
    assert len({one["cursor"] for one in receiver.got}) == 700
    receiver.close()


def test_the_unit_is_refused_memory_before_it_would_be_killed_for_it(
    all_rendered: dict[Any, Any],
) -> None:
    """Killed, it would begin again at the same entry, for ever."""
    unit = all_rendered["dev", "dev"].text("/etc/systemd/system/journal-shipper.service")
    assert "\nMemoryMax=128M\n" in unit
    assert f"\nLimitDATA={LIMIT >> 10}K\n" in unit


@pytest.mark.parametrize("silent", [False, True])
def test_an_entry_too_large_to_be_read_is_counted_and_the_next_ones_arrive(
    program: ModuleType,
    world: Any,
    identities: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent: bool,
) -> None:
    """Whatever size journald takes. The machine's test has the real library; here, how it fails: with an
    error, or (257) by leaving the field out."""
    receiver = Receiver(identities)

    class Reader(Journal):
        def __init__(self, _: int) -> None:
            super().__init__()

        def _next(self, _: int) -> bool:
            self.entry = Journal.get_next(self)
            return bool(self.entry)

        def _get_all(self) -> dict[str, Any]:
            if self.entry["MESSAGE"] != b"huge":
                return dict(self.entry)
            if silent:
                return {"_SYSTEMD_UNIT": self.entry["_SYSTEMD_UNIT"]}
            raise MemoryError

        def _get(self, key: str) -> bytes:
            if self.entry[key] == b"huge":
                raise MemoryError
            value = self.entry[key]
            assert isinstance(value, bytes)
            return value

        def _get_realtime(self) -> int:
            return int(self.entry["__REALTIME_TIMESTAMP"])

        def _get_cursor(self) -> str:
            return str(self.entry["__CURSOR"])

    library = SimpleNamespace(Reader=Reader, LOCAL_ONLY=1)
    monkeypatch.setitem(sys.modules, "systemd", SimpleNamespace(journal=library))  # type: ignore[arg-type]
    world.journal = program.journal_reader()
    for message in ("one", "huge", "two"):
        world.journal.add(message, _SYSTEMD_UNIT="counter@1.service")
    shipper = world.start(receiver.port)
    world.until(shipper, lambda: shipper.sent == 3)
    said = [(one["service"], one["message"]) for one in receiver.got]
    assert said[0::2] == [("counter", "one"), ("counter", "two")]
    assert said[1] == ("counter", "(not sent: too large for the memory it may have)")
    assert shipper.lost == 1
    receiver.close()


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1}',
        b'{ "a" : [1, 2.5, null],\n "b":\t{} }',
        '{"a":"\u2028 \u00e9 \U0001f600"}'.encode(),
        b'{"a":"\\ud800 \\u0000 \x7f"}',
        b'{"a":' + b'{"a":' * 500 + b"1" + b"}" * 501,
    ],
)
def test_data_arrives_as_it_was_logged_on_one_line_of_plain_characters(
    program: ModuleType, data: bytes
) -> None:
    entry = {"MESSAGE": data, "__REALTIME_TIMESTAMP": 1, "__CURSOR": "s=1;i=2;b=3"}
    sent = program.line(entry, "edge1", program.Services({}))
    assert sent.isascii()
    assert sent.decode().isprintable()
    assert json.loads(sent.decode().partition(" - - - ")[2])["data"] == json.loads(data)


def test_what_a_busy_machine_logs_is_sent_many_at_a_time(
    world: Any, identities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that comes while it rests waits for the next turn: no wake for each."""
    receiver = Receiver(identities)
    shipper = world.start(receiver.port)
    rests = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        for _ in range(100 if len(rests) < 5 else 0):
            world.journal.add("while it rests")

    monkeypatch.setattr(time, "sleep", rest)
    sends = []
    world.journal.add("the first")
    shipper.turn(1)
    send = shipper.relp.send
    shipper.relp.send = lambda commands: (sends.append(len(commands)), send(commands))[1]
    world.until(shipper, lambda: shipper.sent == 401)
    assert sends == [100, 100, 100, 100]
    assert set(rests) == {0.01}
    receiver.close()


def test_a_full_window_waits_for_the_half_of_it(world: Any, identities: Path) -> None:
    """Who has much to catch up with sends half a window at a time, not one for each answer."""
    receiver = Receiver(identities)
    for number in range(5120):
        world.journal.add(f"line {number}")
    shipper = world.start(receiver.port)
    shipper.turn(1)
    assert len(receiver.got) <= 512
    sends = []
    send = shipper.relp.send
    shipper.relp.send = lambda commands: (sends.append(len(commands)), send(commands))[1]
    world.until(shipper, lambda: shipper.sent == 5120)
    assert min(sends[:-1]) >= 256
    receiver.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": "2514"}, "port: needs a int"),
        ({"host": "edge 1"}, "host: 'edge 1' is no name"),
        ({"services": {"../x": {}}}, "is no name"),
        ({"services": {"x": {"unit": []}}}, "knows units"),
        ({"key": None}, "key: needs a str"),
    ],
)
def test_a_wrong_configuration_is_refused_by_the_check(
    program: ModuleType,
    world: Any,
    tmp_path: Path,
    change: Any,
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(world.config(1)))
    assert program.main(["--check", str(path)]) == 0
    path.write_text(json.dumps({**world.config(1), **change}))
    assert program.main(["--check", str(path)]) == 1
    assert said in capfd.readouterr().err
