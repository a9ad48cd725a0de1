"""What the tests share: a real Redis, a real application process, and how to ask them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pace
import pytest
import redis

WEBAPP = Path(__file__).resolve().parents[1]
KEY = "counter:seen"


Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], what: str, seconds: float = 10) -> Value:
    """Return the first true value of `condition`; fail after `seconds`."""
    began = time.monotonic()
    while True:
        if value := condition():
            return value
        if pace.is_over(began, seconds):
            pytest.fail(f"waited {seconds:g} s in vain: {what}")
        # What has not come yet is asked for less often.
        time.sleep(min(0.2, 0.02 + (time.monotonic() - began) / 20))


def free_port() -> int:
    """A TCP port on loopback that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@dataclass
class RedisServer:
    """A redis-server on loopback and on a unix socket, in a folder of its own."""

    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    # The most bytes that a file of its may have, as on a disk that is full.
    room: int = resource.RLIM_INFINITY
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As REDIS_URL wants it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def path(self) -> str:
        """Path of the unix socket."""
        return str(self.folder / "redis.sock")

    @property
    def client(self) -> redis.Redis:
        """A client of the tests' own."""
        return redis.Redis(unix_socket_path=self.path, decode_responses=True)

    def count(self) -> int:
        """The value of the counter's key."""
        return int(self.client.get(KEY) or 0)

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", self.path, "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "no", "--daemonize", "no", *self.options]

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, resource.RLIM_INFINITY))
            # A write beyond fails, as one on a full disk does, and is no signal.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=limit)
        wait_for(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def signal(self, number: int) -> None:
        """SIGSTOP freezes it, SIGCONT lets it go on."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@dataclass
class App:
    """A process of the application."""

    process: subprocess.Popen[bytes]
    output: Path
    port: int = 0

    def lines(self) -> list[dict[str, Any]]:
        """All log lines so far; fails if one is not JSON."""
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.lines() if line["event"] == event]

    def requests(self, **fields: object) -> list[dict[str, Any]]:
        """The request lines that have these fields."""
        return [line for line in self.events("request") if fields.items() <= line.items()]

    def connect(self, timeout: float = 10) -> http.client.HTTPConnection:
        """A connection to it, not yet open."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            started = time.monotonic()
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            text = response.read().decode()
            seconds = time.monotonic() - started
            return Answer(response.status, text, dict(response.getheaders()), seconds)

    def raw(self, data: bytes) -> bytes:
        """Send bytes, close the sending side, and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            sock.sendall(data)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while part := sock.recv(65536):
                    received += part
            return received

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """SIGTERM, and the exit code; fails if it takes longer than 20 s."""
        self.terminate()
        return self.process.wait(20)


StartApp = Callable[..., App]


@dataclass
class Answer:
    """An answer, and the seconds it took."""

    status: int
    text: str
    headers: dict[str, str]
    seconds: float


def number(text: str) -> int:
    """N of the one answer that `/` has; fails if the text differs in any character."""
    seen = text.removeprefix("Hello World! I have been seen ").removesuffix(" times.\n")
    assert text == f"Hello World! I have been seen {int(seen)} times.\n"
    return int(seen)


def environment(**settings: str) -> dict[str, str]:
    """What a process of the application gets: nothing of the tests' own settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(WEBAPP / "src")} | settings
