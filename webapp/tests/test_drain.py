"""A stop loses no request: what was accepted is answered, and each answer was counted."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pace
import pytest

from serving.server import Server
from support import App, RedisServer, StartApp, number, wait_for


class Load:
    """Clients that check every answer, until the application refuses their connections.

    A refused connection is how a client learns that the application is gone. Anything else,
    a reset or an answer cut short, is a request lost.
    """

    def __init__(self, app: App, keep_alive: int, new: int) -> None:
        self._app = app
        self.numbers: list[int] = []
        self.lost: list[str] = []
        self._threads = [
            threading.Thread(target=self._client, args=(kept,))
            for kept in [True] * keep_alive + [False] * new
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.numbers) > 200, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _client(self, keep_alive: bool) -> None:
        connection = self._app.connect()
        while True:
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return
            except OSError as error:
                self.lost.append(f"connect: {error!r}")
                return
            try:
                connection.request("GET", "/")
                # http.client closes by itself where the answer says Connection: close.
                self.numbers.append(number(connection.getresponse().read().decode()))
            except (OSError, http.client.HTTPException, ValueError, AssertionError) as error:
                self.lost.append(repr(error))
                return
            if not keep_alive:
                connection.close()


@pytest.mark.parametrize("drain", ["0", "0.5"])
def test_no_accepted_request_is_lost_when_it_stops_under_load(
    own_redis: RedisServer, start_app: StartApp, drain: str
) -> None:
    app = start_app(own_redis.url, COUNTER_DRAIN_SECONDS=drain, COUNTER_LOG_REQUESTS="all")
    with Load(app, keep_alive=8, new=8) as load:
        app.terminate()
    assert app.process.wait(10) == 0
    assert load.lost == []
    assert sorted(load.numbers) == list(range(1, own_redis.count() + 1))
    assert len(app.requests(status=200)) == own_redis.count()
    assert app.events("stopped")[0]["cut_off"] == 0


def test_an_idle_connection_is_not_closed_and_one_in_the_middle_of_a_request_is(
    redis_server: RedisServer, start_app: StartApp, tmp_path: Path
) -> None:
    """HAProxy may use an idle one at any time; only it may close it."""
    impatient = tmp_path / "impatient.py"
    impatient.write_text(
        "import sys\n"
        "from waitress.adjustments import Adjustments\n"
        "import serving.server\n"
        "def impatient(**given):\n"
        "    return Adjustments(**given | {'channel_timeout': 0.3, 'cleanup_interval': 0.1})\n"
        "serving.server.Adjustments = impatient\n"
        "from serving.cli import main\n"
        "sys.exit(main())\n"
    )
    app = start_app(redis_server.url, command=[sys.executable, str(impatient)])
    with contextlib.closing(app.connect()) as kept:
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        sock = kept.sock
        with socket.create_connection(("127.0.0.1", app.port), 10) as half:
            half.sendall(b"GET / HTTP/1.1\r\nHost:")
            # Other connections make its main loop turn.
            wait_for(lambda: app.ask("/healthz") and _is_closed(half), "the half one is closed")
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b"ok\n"
        assert kept.sock is sock


def _is_closed(sock: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return sock.recv(1, socket.MSG_DONTWAIT) == b""
    return False


def test_it_goes_on_accepting_while_it_drains(
    app: App, start_app: StartApp, redis_server: RedisServer
) -> None:
    # Long enough to ask it three times on a busy computer.
    app = start_app(redis_server.url, COUNTER_DRAIN_SECONDS="3")
    with pace.Stopwatch() as whole:
        with pace.Stopwatch() as first:
            app.terminate()
            wait_for(lambda: app.events("draining"), "it drains")
        assert first.seconds < 0.5, "a signal must wake the main loop at once"
        ready = app.ask("/readyz")
        assert (ready.status, ready.text) == (404, "draining\n")
        assert ready.headers["Connection"] == "close"
        assert app.ask("/healthz").status == 200
        assert app.ask().status == 200
        assert app.process.wait(10) == 0
    assert whole.wall >= 3.0
    assert whole.seconds < 4.5
    with pytest.raises(ConnectionRefusedError):
        app.ask()


def test_more_signals_change_nothing(redis_server: RedisServer, start_app: StartApp) -> None:
    app = start_app(redis_server.url, COUNTER_DRAIN_SECONDS="2")
    started = time.monotonic()
    app.terminate()
    wait_for(lambda: app.events("draining"), "it drains")
    app.terminate()
    app.process.send_signal(signal.SIGINT)
    assert app.ask("/healthz").status == 200
    assert app.process.wait(10) == 0
    assert time.monotonic() - started >= 2
    assert len(app.events("draining")) == 1


def test_sigint_drains_too(redis_server: RedisServer, start_app: StartApp) -> None:
    app = start_app(redis_server.url)
    app.process.send_signal(signal.SIGINT)
    assert app.process.wait(10) == 0
    events = [line["event"] for line in app.lines()]
    assert events == ["start", "draining", "closing", "stopped"]


@contextlib.contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    """Redis does not answer within."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def test_requests_in_flight_and_in_the_queue_are_answered(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    app = start_app(own_redis.url, COUNTER_THREADS="2", REDIS_TIMEOUT="8")
    answers: list[int] = []

    def client() -> None:
        answers.append(number(app.ask().text))

    threads = [threading.Thread(target=client) for _ in range(12)]
    with frozen(own_redis):
        for thread in threads:
            thread.start()
        # Two are being served, ten wait for a thread; all twelve are the application's by then.
        wait_for(lambda: _established(app.port) >= 12, "all clients are connected")
        app.terminate()
        wait_for(lambda: app.events("closing"), "it has closed its socket")
        assert app.process.poll() is None
    for thread in threads:
        thread.join(10)
    assert sorted(answers) == list(range(1, 13))
    assert app.process.wait(10) == 0


def _established(port: int) -> int:
    """Connections that the kernel has for this port, on the server's side."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_connections_that_wait_to_be_accepted_are_answered(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    app = start_app(own_redis.url)
    app.process.send_signal(signal.SIGSTOP)  # it can't accept: they stay in the kernel's queue
    sockets = [socket.create_connection(("127.0.0.1", app.port), 10) for _ in range(300)]
    for sock in sockets[:200]:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    app.terminate()
    app.process.send_signal(signal.SIGCONT)
    wait_for(lambda: app.events("closing"), "it has closed its socket")
    for sock in sockets[200:]:  # connected before the end, and the request comes after it
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    found = []
    for sock in sockets:
        with sock:
            received = b""
            while part := sock.recv(65536):
                received += part
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        found.append(number(body.decode()))
    assert sorted(found) == list(range(1, 301))
    assert app.process.wait(10) == 0


def test_no_connection_can_begin_once_the_socket_is_about_to_close() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = socket.create_connection(listener.getsockname(), 5)
        Server.refuse_new(SimpleNamespace(socket=listener))
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), 0.3)
        listener.setblocking(False)
        accepted, _ = listener.accept()
        before.sendall(b"still whole")
        accepted.setblocking(True)
        assert accepted.recv(100) == b"still whole"
        accepted.close()
        before.close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_idle_connections_are_closed_and_do_not_delay_the_stop(
    redis_server: RedisServer, start_app: StartApp
) -> None:
    app = start_app(redis_server.url)
    connection = app.connect()
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    assert connection.sock is not None
    with pace.Stopwatch() as watch:
        app.terminate()
        assert connection.sock.recv(1) == b"", "a close, not a reset"
        assert app.process.wait(10) == 0
    assert watch.seconds < 2.5
    connection.close()


def test_a_request_that_never_ends_delays_the_stop_no_longer_than_allowed(
    redis_server: RedisServer, start_app: StartApp
) -> None:
    app = start_app(redis_server.url, COUNTER_FINISH_SECONDS="0.5")
    with socket.create_connection(("127.0.0.1", app.port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost:")
        with pace.Stopwatch() as watch:
            assert app.end() == 0
    assert watch.wall >= 0.5
    assert watch.seconds < 3
    (line,) = app.events("stopped")
    assert (line["level"], line["cut_off"]) == ("warning", 1)


def test_a_request_half_sent_at_the_stop_is_still_answered(
    redis_server: RedisServer, start_app: StartApp
) -> None:
    app = start_app(redis_server.url)
    with socket.create_connection(("127.0.0.1", app.port), 10) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert app.ask("/healthz").status == 200  # by now the half one has been read
        app.terminate()
        wait_for(lambda: app.events("closing"), "it has closed its socket")
        sock.sendall(b"Host: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert app.process.wait(10) == 0


def test_systemd_is_told_of_every_phase_and_sees_signs_of_life(
    redis_server: RedisServer, start_app: StartApp, tmp_path: Path
) -> None:
    path = str(tmp_path / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(10)
        app = start_app(redis_server.url, NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
        told = [sock.recv(4096).decode()]
        assert "READY=1" in told[0]
        assert "STATUS=serving on 127.0.0.1:" in told[0]
        with pace.Stopwatch() as watch:
            for _ in range(4):
                assert sock.recv(4096) == b"WATCHDOG=1"
        assert watch.seconds < 4 * 0.2, "more often than systemd's limit"
        app.terminate()
        while "STOPPING=1" not in told[-1]:
            told.append(sock.recv(4096).decode())
        assert "STATUS=draining" in told[-1]
        assert app.process.wait(10) == 0


def test_without_redis_it_becomes_ready_for_systemd_all_the_same(
    start_app: StartApp, tmp_path: Path
) -> None:
    path = str(tmp_path / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(10)
        app = start_app("redis://127.0.0.1:1", NOTIFY_SOCKET=path)
        assert b"READY=1" in sock.recv(4096)
        assert app.ask("/readyz").status == 503


def test_a_service_manager_that_is_away_disturbs_nothing(
    redis_server: RedisServer, start_app: StartApp, tmp_path: Path
) -> None:
    app = start_app(redis_server.url, NOTIFY_SOCKET=str(tmp_path / "none"), WATCHDOG_USEC="100000")
    assert app.ask().status == 200
    assert app.end() == 0
