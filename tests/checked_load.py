"""A load generator that checks every answer: the judge of "no request lost, none counted twice".

Each answer must be status 200 with a body of exactly ``Hello World! I have been seen N times.\\n``.
At the end every N must be unique and, unless other clients counted too (``--shared``), there
must be no gap between the smallest and the largest: a gap is a request that was counted but
never answered.

It is a *correct* client, so that an error it reports is the server's fault:

HTTP/1.1 (RFC 9112)
    Honours ``Connection: close``; reads ``Content-Length`` and ``chunked`` bodies exactly. A
    kept-alive connection that the server closed while it was idle, before one byte of the next
    request was written, is replaced silently (RFC 9112 section 9.5 tells clients to expect it).
    A close after the request was written is an error: the request may have been counted.

HTTP/2 (RFC 9113)
    Honours GOAWAY (section 6.8): streams above its last stream id, and streams reset with
    REFUSED_STREAM, were by the protocol's guarantee not processed and are sent again on a new
    connection; streams at or below it are awaited on the old one. Honours flow control and
    MAX_CONCURRENT_STREAMS. ``http://`` URLs use prior knowledge (section 3.3).

Nothing else is ever sent twice.

Command line::

    python tests/checked_load.py https://localhost/ --cacert ca.pem \\
        --requests 10000 --concurrency 16 --mode keepalive

From a test, in a thread of its own while the test does something nasty::

    load = start_load(url, mode="keepalive", cacert=ca)
    reload_the_load_balancer()
    result = load.stop()
    assert result.exact, result.summary()

Exit code: 0 every answer right and every number once; 1 anything else; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import re
import select
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

try:
    # The state machine is not public API; see _H2State for why it is needed.
    from h2.connection import ConnectionState
except ImportError as error:  # pragma: no cover - a future h2
    raise SystemExit(f"checked_load: this version of h2 is not supported: {error}") from error

MODES = ("keepalive", "close", "h2")
EXPECTED = re.compile(rb"Hello World! I have been seen (\d+) times\.\n")
MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 1024 * 1024
# How often one request may be refused unprocessed before that itself is an error.
MAX_RESENDS = 20
ERROR_SAMPLES = 20


class LoadError(Exception):
    """One request that did not end in a right answer.

    ``kind`` is one of: ``connect`` (no connection, or its TLS handshake failed; nothing was
    sent), ``closed`` (closed or reset after the request was written), ``timeout``,
    ``protocol`` (not valid HTTP), ``status`` (not 200), ``body`` (not the expected text),
    ``reset`` (an HTTP/2 stream reset), ``refused`` (refused unprocessed too often).
    """

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class _NotProcessed(Exception):
    """The server guarantees that it did not process the request: it may be sent again."""


@dataclasses.dataclass(slots=True)
class Answer:
    """A complete response. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass
class Result:
    """What a run saw. Latencies are in milliseconds, the duration in seconds.

    ``sent`` counts requests, not resends: ``sent == ok + error_count`` once the run is over.
    """

    url: str = ""
    mode: str = "keepalive"
    sent: int = 0
    ok: int = 0
    numbers: list[int] = dataclasses.field(default_factory=list)
    statuses: Counter[int] = dataclasses.field(default_factory=Counter)
    error_kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    errors: list[dict[str, str]] = dataclasses.field(default_factory=list)  # the first few
    connections: int = 0
    idle_closes: int = 0  # kept-alive connections replaced before anything was written
    resent: int = 0  # streams refused unprocessed and sent again
    duration: float = 0.0
    latencies: list[float] = dataclasses.field(default_factory=list)
    request_ids: list[str] | None = None

    @property
    def error_count(self) -> int:
        return self.error_kinds.total()

    @property
    def first(self) -> int | None:
        return min(self.numbers) if self.numbers else None

    @property
    def last(self) -> int | None:
        return max(self.numbers) if self.numbers else None

    @property
    def duplicates(self) -> list[int]:
        """Numbers that were answered more than once, ascending."""
        return sorted(n for n, seen in Counter(self.numbers).items() if seen > 1)

    @property
    def missing_count(self) -> int:
        """How many numbers between the first and the last nobody was given."""
        if not self.numbers:
            return 0
        return max(self.numbers) - min(self.numbers) + 1 - len(set(self.numbers))

    def missing(self, limit: int = ERROR_SAMPLES) -> list[int]:
        """The first ``limit`` numbers between the first and the last that nobody was given."""
        seen = sorted(set(self.numbers))
        gaps: list[int] = []
        for before, after in itertools.pairwise(seen):
            gaps.extend(range(before + 1, min(after, before + 1 + limit - len(gaps))))
            if len(gaps) >= limit:
                break
        return gaps

    @property
    def unique(self) -> bool:
        """No error and no number twice: what can be asked when other clients count too."""
        return self.sent > 0 and not self.error_count and not self.duplicates

    @property
    def exact(self) -> bool:
        """No error, every number once, none missing."""
        return self.unique and not self.missing_count

    def latency(self, quantile: float) -> float:
        """The latency of right answers at ``quantile`` (0 to 1), in ms; NaN without any."""
        if not self.latencies:
            return math.nan
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1)]

    def record_error(self, error: LoadError) -> None:
        self.error_kinds[error.kind] += 1
        if error.status is not None:
            self.statuses[error.status] += 1
        if len(self.errors) < ERROR_SAMPLES:
            self.errors.append({"kind": error.kind, "message": str(error)})

    def as_dict(self) -> dict[str, Any]:
        """Everything but the raw lists, ready for JSON."""
        quantiles = {
            name: None if math.isnan(value) else round(value, 2)
            for name, value in (
                ("p50", self.latency(0.5)),
                ("p99", self.latency(0.99)),
                ("max", self.latency(1.0)),
            )
        }
        out: dict[str, Any] = {
            "url": self.url,
            "mode": self.mode,
            "sent": self.sent,
            "ok": self.ok,
            "errors": self.error_count,
            "error_kinds": dict(self.error_kinds),
            "error_samples": self.errors,
            "statuses": {str(code): count for code, count in sorted(self.statuses.items())},
            "first": self.first,
            "last": self.last,
            "duplicates": len(self.duplicates),
            "duplicate_samples": self.duplicates[:ERROR_SAMPLES],
            "missing": self.missing_count,
            "missing_samples": self.missing(),
            "connections": self.connections,
            "idle_closes": self.idle_closes,
            "resent": self.resent,
            "seconds": round(self.duration, 3),
            "per_second": round(self.ok / self.duration, 1) if self.duration else 0.0,
            "latency_ms": quantiles,
            "exact": self.exact,
        }
        if self.request_ids is not None:
            out["request_ids"] = len(self.request_ids)
            out["request_ids_unique"] = len(set(self.request_ids)) == len(self.request_ids)
        return out

    def summary(self) -> str:
        """A few lines for a person."""
        d = self.as_dict()
        ms = d["latency_ms"]
        lines = [
            f"{self.mode}: {self.sent} requests in {d['seconds']} s ({d['per_second']}/s), "
            f"{self.ok} right, {self.error_count} errors {d['error_kinds'] or ''}".rstrip(),
            f"numbers {self.first}..{self.last}: {d['duplicates']} duplicates "
            f"{d['duplicate_samples'] or ''}, {d['missing']} missing {d['missing_samples'] or ''}",
            f"latency ms: p50 {ms['p50']}  p99 {ms['p99']}  max {ms['max']}; statuses "
            f"{d['statuses']}; connections {self.connections}, idle closes {self.idle_closes}, "
            f"resent {self.resent}",
        ]
        lines.extend(f"  {e['kind']}: {e['message']}" for e in self.errors)
        return "\n".join(line.rstrip() for line in lines)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where to connect and what to ask for."""

    host: str
    port: int
    path: str
    authority: str
    tls: bool
    connect_host: str
    connect_port: int

    @classmethod
    def parse(cls, url: str, connect: str | None = None) -> Target:
        """Split ``url``; ``connect`` (``host:port``) overrides only where to connect.

        Raises ValueError on anything that is not an absolute http(s) URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r}: an absolute http:// or https:// URL is needed")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connect_host, connect_port = parts.hostname, port
        if connect:
            name, colon, number = connect.rpartition(":")
            if not colon or not number.isdigit():
                raise ValueError(f"{connect!r}: host:port is needed")
            connect_host, connect_port = name.strip("[]"), int(number)
        return cls(parts.hostname, port, path, parts.netloc, tls, connect_host, connect_port)


class _Client(Protocol):
    async def request(self, worker: int) -> Answer: ...

    async def close(self) -> None: ...


async def _open(
    target: Target, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(
            target.connect_host,
            target.connect_port,
            ssl=context,
            server_hostname=target.host if context else None,
            limit=MAX_HEADER_BYTES,
        )
    except (OSError, EOFError, ssl.SSLError) as error:
        where = f"{target.connect_host}:{target.connect_port}"
        raise LoadError("connect", f"{where}: {error}") from error


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close without caring how the peer takes it, and never wait long for its answer."""
    writer.close()
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()


# --- HTTP/1.1 ---------------------------------------------------------------------------------


class _H1Connection:
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.used = False
        self.reusable = True
        poll = select.poll()
        poll.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
        self._poll = poll

    async def is_usable(self) -> bool:
        """Whether a further request may be written: false once the server has hung up.

        Looks at the socket itself, because a close that the kernel knows of may not have
        reached the event loop yet.
        """
        for _ in range(3):
            if self.reader.at_eof() or self.writer.is_closing():
                return False
            if not self._poll.poll(0):
                return True
            await asyncio.sleep(0.001)  # something came in: let the loop read it
        return not (self.reader.at_eof() or self.writer.is_closing())

    async def exchange(self, request: bytes) -> Answer:
        """Write ``request`` and read its answer. Raises LoadError."""
        self.used = True
        try:
            self.writer.write(request)
            return await self._read_answer()
        except asyncio.IncompleteReadError as error:
            got = f"after {len(error.partial)} bytes of a part of the answer"
            raise LoadError("closed", f"closed {got}, with the request written") from error
        except asyncio.LimitOverrunError as error:
            raise LoadError("protocol", f"endless header or chunk line: {error}") from error
        except (OSError, ssl.SSLError) as error:
            raise LoadError("closed", f"{error!r}, with the request written") from error

    async def _read_answer(self) -> Answer:
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, version, headers = _parse_head(head)
            if status >= 200 or status == 101:
                break
        connection = headers.get("connection", "").lower()
        if "close" in connection or (version == "1.0" and "keep-alive" not in connection):
            self.reusable = False
        if status in (204, 304):
            return Answer(status, headers, b"")
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
                raise LoadError("protocol", "neither plain chunked nor plain Content-Length")
            return Answer(status, headers, await self._read_chunked())
        if "content-length" in headers:
            length = headers["content-length"]
            if not length.isdigit() or int(length) > MAX_BODY_BYTES:
                raise LoadError("protocol", f"Content-Length: {length!r}")
            return Answer(status, headers, await self.reader.readexactly(int(length)))
        # Delimited by the close: cannot be told from a cut answer, so TLS and text must show it.
        self.reusable = False
        return Answer(status, headers, await self.reader.read(MAX_BODY_BYTES))

    async def _read_chunked(self) -> bytes:
        body = b""
        while True:
            line = await self.reader.readuntil(b"\r\n")
            size = line.split(b";", 1)[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
                raise LoadError("protocol", f"chunk size {line[:40]!r}")
            length = int(size, 16)
            if length == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass  # trailers
                return body
            if len(body) + length > MAX_BODY_BYTES:
                raise LoadError("protocol", "endless chunked body")
            body += await self.reader.readexactly(length)
            if await self.reader.readexactly(2) != b"\r\n":
                raise LoadError("protocol", "chunk not ended by CRLF")

    async def close(self) -> None:
        await _hang_up(self.writer)


def _parse_head(head: bytes) -> tuple[int, str, dict[str, str]]:
    lines = head[:-4].decode("latin-1").split("\r\n")
    match = re.fullmatch(r"HTTP/(1\.[01]) (\d{3})(?: .*)?", lines[0])
    if not match:
        raise LoadError("protocol", f"status line {lines[0][:80]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise LoadError("protocol", f"header line {line[:80]!r}")
        name, value = name.lower(), value.strip()
        if name in headers:
            if name == "content-length" and headers[name] != value:
                raise LoadError("protocol", "two different Content-Length headers")
            value = f"{headers[name]}, {value}" if name != "content-length" else value
        headers[name] = value
    return int(match[2]), match[1], headers


class _H1Client:
    """One connection for each worker; kept or closed after each request."""

    def __init__(
        self, target: Target, context: ssl.SSLContext | None, keepalive: bool, result: Result
    ) -> None:
        self.target = target
        self.context = context
        self.keepalive = keepalive
        self.result = result
        self.connections: dict[int, _H1Connection] = {}
        self.message = (
            f"GET {target.path} HTTP/1.1\r\n"
            f"Host: {target.authority}\r\n"
            "User-Agent: checked-load\r\n"
            "Accept: text/plain\r\n" + ("" if keepalive else "Connection: close\r\n") + "\r\n"
        ).encode()

    async def request(self, worker: int) -> Answer:
        connection = self.connections.pop(worker, None)
        if connection is not None and not await connection.is_usable():
            self.result.idle_closes += 1
            await connection.close()
            connection = None
        if connection is None:
            connection = _H1Connection(*await _open(self.target, self.context))
            self.result.connections += 1
        done = False
        try:
            answer = await connection.exchange(self.message)
            done = True
        finally:
            if done and self.keepalive and connection.reusable:
                self.connections[worker] = connection
            else:
                await connection.close()
        return answer

    async def close(self) -> None:
        await asyncio.gather(*(c.close() for c in self.connections.values()))
        self.connections.clear()


# --- HTTP/2 -----------------------------------------------------------------------------------


class _H2State(h2.connection.H2Connection):
    """h2's connection, but one that lives on after a GOAWAY.

    h2 treats a received GOAWAY as the end: each later frame is a ProtocolError. RFC 9113
    section 6.8 says that streams up to the announced last one are still answered, which is the
    very thing that a graceful reload relies on.
    """

    def _receive_goaway_frame(self, frame: Any) -> Any:
        out = super()._receive_goaway_frame(frame)
        self.state_machine.state = ConnectionState.CLIENT_OPEN
        return out


class _H2Connection:
    """One HTTP/2 connection that carries many streams."""

    def __init__(
        self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.usable = True
        self.last_processed: int | None = None  # from GOAWAY
        self.streams: dict[int, _H2Stream] = {}
        self.state = _H2State(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.state.initiate_connection()
        self.request_headers = [
            (":method", "GET"),
            (":scheme", "https" if target.tls else "http"),
            (":authority", target.authority),
            (":path", target.path),
            ("user-agent", "checked-load"),
            ("accept", "text/plain"),
        ]
        self._flush()
        self.pump = asyncio.create_task(self._pump())

    def has_room(self) -> bool:
        limit = self.state.remote_settings.max_concurrent_streams
        # 2**31 - 1 is the last stream id there is (RFC 9113 section 5.1.1).
        return self.usable and len(self.streams) < limit

    def _flush(self) -> None:
        data = self.state.data_to_send()
        if data:
            self.writer.write(data)

    async def exchange(self) -> Answer:
        """Open a stream and read its answer. Raises LoadError, or _NotProcessed."""
        try:
            number = self.state.get_next_available_stream_id()
            self.state.send_headers(number, self.request_headers, end_stream=True)
        except h2.exceptions.ProtocolError as error:
            self.usable = False
            raise _NotProcessed(str(error)) from error  # nothing was written
        stream = _H2Stream(asyncio.get_running_loop().create_future())
        self.streams[number] = stream
        self._flush()
        try:
            return await stream.answer
        finally:
            self.streams.pop(number, None)
            if stream.answer.cancelled() and self.usable:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.state.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
                    self._flush()
            if not self.usable and not self.streams:
                # Told to go away, and this was the last: the server waits for us to close.
                self.writer.close()

    async def _pump(self) -> None:
        """Feed what arrives to the state machine until the connection ends."""
        reason = "closed"
        kind = "closed"
        try:
            while data := await self.reader.read(65536):
                for event in self.state.receive_data(data):
                    self._handle(event)
                self._flush()
                if not self.usable and not self.streams:
                    break  # told to go away, and nothing left to wait for
        except h2.exceptions.ProtocolError as error:
            kind, reason = "protocol", f"{type(error).__name__}: {error}"
        except (OSError, ssl.SSLError) as error:
            reason = repr(error)
        finally:
            self.usable = False
            for number, stream in list(self.streams.items()):
                if self.last_processed is not None and number > self.last_processed:
                    stream.fail(_NotProcessed())
                else:
                    stream.fail(LoadError(kind, f"{reason}, with stream {number} unanswered"))
            self.writer.close()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.usable = False
            self.last_processed = event.last_stream_id or 0
            for opened, waiting in list(self.streams.items()):
                if opened > self.last_processed:
                    waiting.fail(_NotProcessed())
            return
        number: int | None = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.DataReceived):
            # Give back the flow-control credit even for a stream that nobody waits for.
            self.state.acknowledge_received_data(
                event.flow_controlled_length or 0, event.stream_id or 0
            )
        stream = self.streams.get(number) if number else None
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            stream.headers = {str(name): str(value) for name, value in event.headers or ()}
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data or b""
            if len(stream.body) > MAX_BODY_BYTES:
                stream.fail(LoadError("protocol", "endless body"))
        elif isinstance(event, h2.events.StreamEnded):
            stream.succeed()
        elif isinstance(event, h2.events.StreamReset):
            if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                stream.fail(_NotProcessed())
            else:
                stream.fail(LoadError("reset", f"stream {number} reset: {event.error_code!r}"))

    async def close(self) -> None:
        if self.usable:
            self.usable = False
            with contextlib.suppress(h2.exceptions.ProtocolError, OSError):
                self.state.close_connection()
                self._flush()
        self.pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.pump
        await _hang_up(self.writer)


class _H2Stream:
    def __init__(self, answer: asyncio.Future[Answer]) -> None:
        self.answer = answer
        self.headers: dict[str, str] = {}
        self.body = b""

    def succeed(self) -> None:
        status = self.headers.get(":status", "")
        if not re.fullmatch(r"\d{3}", status):
            self.fail(LoadError("protocol", f":status {status!r}"))
        elif not self.answer.done():
            self.answer.set_result(Answer(int(status), self.headers, self.body))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _H2Client:
    """A few connections shared by all workers."""

    def __init__(
        self, target: Target, context: ssl.SSLContext | None, connections: int, result: Result
    ) -> None:
        self.target = target
        self.context = context
        self.result = result
        self.slots: list[_H2Connection | None] = [None] * connections
        self.locks = [asyncio.Lock() for _ in range(connections)]
        self.retired: list[_H2Connection] = []

    async def request(self, worker: int) -> Answer:
        refusals = 0
        while True:
            connection = await self._connection(worker)
            try:
                return await connection.exchange()
            except _NotProcessed as error:
                refusals += 1
                if refusals > MAX_RESENDS:
                    raise LoadError("refused", f"{refusals} times: {error}") from error
                self.result.resent += 1
                if refusals > 1:
                    await asyncio.sleep(0.01 * refusals)

    async def _connection(self, worker: int) -> _H2Connection:
        slot = worker % len(self.slots)
        while True:
            async with self.locks[slot]:
                current = self.slots[slot]
                if current is None or not current.usable:
                    if current is not None:
                        # Its streams may still be finishing; it closes itself after the last.
                        self.retired = [c for c in self.retired if not c.pump.done()] + [current]
                    current = await self._connect()
                    self.slots[slot] = current
                if current.has_room():
                    return current
            await asyncio.sleep(0.001)

    async def _connect(self) -> _H2Connection:
        reader, writer = await _open(self.target, self.context)
        if self.context is not None:
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            if chosen != "h2":
                await _hang_up(writer)
                raise LoadError("connect", f"the server chose {chosen!r} by ALPN, not h2")
        self.result.connections += 1
        return _H2Connection(self.target, reader, writer)

    async def close(self) -> None:
        open_ones = [c for c in (*self.slots, *self.retired) if c is not None]
        await asyncio.gather(*(c.close() for c in open_ones))


# --- the run ----------------------------------------------------------------------------------


def tls_context(mode: str, cacert: str | None = None) -> ssl.SSLContext:
    """A verifying client context that offers the protocol of ``mode`` by ALPN."""
    context = ssl.create_default_context(cafile=cacert)
    context.set_alpn_protocols(["h2"] if mode == "h2" else ["http/1.1"])
    return context


def _check(answer: Answer) -> int:
    """The number in a right answer. Raises LoadError."""
    if answer.status != 200:
        raise LoadError("status", f"{answer.status}: {answer.body[:120]!r}", answer.status)
    match = EXPECTED.fullmatch(answer.body)
    if not match:
        raise LoadError("body", f"{answer.body[:120]!r}", answer.status)
    return int(match[1])


async def run_load(
    url: str,
    *,
    mode: str = "keepalive",
    requests: int | None = None,
    seconds: float | None = None,
    concurrency: int = 16,
    rate: float | None = None,
    cacert: str | None = None,
    connect: str | None = None,
    h2_connections: int = 2,
    timeout: float = 15.0,
    collect_ids: bool = False,
    stop: asyncio.Event | None = None,
    result: Result | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Result:
    """Send requests until ``requests`` of them, ``seconds`` or ``stop``, whichever comes first.

    :param mode: ``keepalive`` or ``close`` (HTTP/1.1), or ``h2``.
    :param rate: at most so many requests a second over all workers; None is unlimited.
    :param cacert: PEM file with the certificate authority to trust instead of the system's.
    :param connect: ``host:port`` to connect to, whatever the URL says.
    :param timeout: seconds that one request may take, its connection included.
    :param result: filled while running, so that another thread can watch it.
    :param progress: called about once a second with the result so far.
    :raises ValueError: on a wrong argument. Faults of the server are never raised: they are
        in the result.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: one of {', '.join(MODES)}")
    if concurrency < 1 or h2_connections < 1:
        raise ValueError("concurrency and connections: 1 or more")
    if requests is None and seconds is None and stop is None:
        raise ValueError("one of requests, seconds, stop is needed, or it would never end")
    target = Target.parse(url, connect)
    context = tls_context(mode, cacert) if target.tls else None
    out = result if result is not None else Result()
    out.url, out.mode = url, mode
    if collect_ids:
        out.request_ids = []
    client: _Client
    if mode == "h2":
        client = _H2Client(target, context, min(h2_connections, concurrency), out)
    else:
        client = _H1Client(target, context, mode == "keepalive", out)

    halt = stop if stop is not None else asyncio.Event()
    began = time.perf_counter()
    ends = math.inf if seconds is None else began + seconds
    budget = math.inf if requests is None else requests

    async def work(worker: int) -> None:
        while out.sent < budget and not halt.is_set() and time.perf_counter() < ends:
            turn = out.sent
            out.sent += 1
            if rate:
                await asyncio.sleep(max(0.0, began + turn / rate - time.perf_counter()))
            started = time.perf_counter()
            try:
                async with asyncio.timeout(timeout):
                    answer = await client.request(worker)
                out.numbers.append(_check(answer))
            except LoadError as error:
                out.record_error(error)
                if error.kind == "connect":
                    await asyncio.sleep(0.05)  # do not spin on a closed port
                continue
            except TimeoutError:
                out.record_error(LoadError("timeout", f"no answer in {timeout} s"))
                continue
            out.latencies.append((time.perf_counter() - started) * 1000)
            out.statuses[answer.status] += 1
            out.ok += 1
            if out.request_ids is not None:
                out.request_ids.append(answer.headers.get("x-request-id", ""))

    async def report() -> None:
        while progress is not None:
            await asyncio.sleep(1)
            out.duration = time.perf_counter() - began
            progress(out)

    reporter = asyncio.create_task(report())
    try:
        async with asyncio.TaskGroup() as workers:
            for worker in range(concurrency):
                workers.create_task(work(worker))
    finally:
        out.duration = time.perf_counter() - began
        reporter.cancel()
        await client.close()
    return out


class LoadHandle:
    """A load that runs in a thread of its own; made by :func:`start_load`."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.result = Result()
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(
            target=self._run, args=(url, options), name="checked-load", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def _run(self, url: str, options: dict[str, Any]) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            self._ready.set()
            await run_load(url, stop=self._stop, result=self.result, **options)

        try:
            asyncio.run(main())
        except BaseException as error:  # handed to the thread that asks for the result
            self._failure = error
        finally:
            self._ready.set()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait_for(self, answers: int, timeout: float = 300.0) -> None:
        """Block until so many right answers came in, so that a fault hits a load in full swing.

        Raises TimeoutError when they do not, or when the load ended before.
        """
        deadline = time.monotonic() + timeout
        while self.result.ok < answers:
            if time.monotonic() > deadline or not self.running:
                seen = f"{self.result.ok} of {answers} answers"
                raise TimeoutError(f"{seen}; {self.result.summary()}")
            time.sleep(0.01)

    def join(self, timeout: float | None = None) -> Result:
        """Wait for the load to end by itself. Raises TimeoutError, or what the run raised."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the load still runs after {timeout} s")
        if self._failure is not None:
            raise self._failure
        return self.result

    def stop(self, timeout: float = 120.0) -> Result:
        """Send no more, wait for what is in flight, return the result."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        return self.join(timeout)


def start_load(url: str, **options: Any) -> LoadHandle:
    """Start :func:`run_load` in a thread, with its options; without a bound it runs till stop()."""
    return LoadHandle(url, options)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="checked_load.py",
        description="Load a counter and check that every number comes exactly once.",
    )
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, metavar="N", help="stop after N (default 10000)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--concurrency", type=int, default=16, metavar="N", help="default 16")
    parser.add_argument("--mode", choices=MODES, default="keepalive")
    parser.add_argument("--rate", type=float, metavar="R", help="at most R requests a second")
    parser.add_argument("--cacert", metavar="FILE", help="trust this CA instead of the system's")
    parser.add_argument("--connect", metavar="HOST:PORT", help="connect there, whatever URL says")
    parser.add_argument("--h2-connections", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--timeout", type=float, default=15.0, metavar="S", help="for one request")
    parser.add_argument("--ids", action="store_true", help="check X-Request-ID for uniqueness too")
    parser.add_argument(
        "--shared", action="store_true", help="others count as well: gaps are not an error"
    )
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    args = parser.parse_args(argv)
    if args.requests is None and args.seconds is None:
        args.requests = 10000
    return args


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    args = _arguments(argv)

    def progress(result: Result) -> None:
        print(
            f"{result.duration:6.1f} s  {result.sent} sent  {result.ok} right  "
            f"{result.error_count} errors",
            file=sys.stderr,
            flush=True,
        )

    try:
        result = asyncio.run(
            run_load(
                args.url,
                mode=args.mode,
                requests=args.requests,
                seconds=args.seconds,
                concurrency=args.concurrency,
                rate=args.rate,
                cacert=args.cacert,
                connect=args.connect,
                h2_connections=args.h2_connections,
                timeout=args.timeout,
                collect_ids=args.ids,
                progress=None if args.quiet else progress,
            )
        )
    except (ValueError, OSError) as error:
        print(f"checked_load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("checked_load: interrupted, nothing is proven", file=sys.stderr)
        return 1
    print(json.dumps(result.as_dict(), indent=2) if args.json else result.summary())
    good = result.unique if args.shared else result.exact
    if args.ids and result.request_ids is not None:
        unique_ids = len(set(result.request_ids)) == len(result.request_ids)
        if not unique_ids or "" in result.request_ids:
            print("checked_load: X-Request-ID is missing or not unique", file=sys.stderr)
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
