"""waitress' connection, request and answer, without what costs the same again for each request.

waitress wakes its main loop for each answer, polls every connection anew in each turn, sends head and
body apart and parses a head that differs from the last one in nothing but the request id. Here a
connection stays watched between two requests, an answer is one send, and a head is parsed once for all
that are alike.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from waitress import wasyncore
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.proxy_headers import PROXY_HEADERS
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import InternalServerError, build_http_date

from counter.app import ARRIVAL, INCREMENTS

# A connection that was used or opened a moment ago may have its next request on the way: closing
# it would lose that one. After this long without any, it counts as idle.
QUIET_SECONDS = 1.0
# How many heads are remembered, and how long each may be: 4 MB at most, whatever clients send. The oldest
# half is forgotten when there are more.
HEADS = 512
HEAD_LENGTH = 1024
_ID = b"\r\nx-request-id: "
_ID_CHARACTERS = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"-"


class Parser(HTTPRequestParser):
    """A request, which knows when it came.

    `alike` is shared by all requests whose heads differ in the request id alone: what was parsed, and
    the environ that was made of it.
    """

    alike: dict[str, Any] | None = None
    _known: dict[bytes, dict[str, Any]] = {}

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self.arrival = time.monotonic()

    def parse_header(self, header_plus: bytes) -> None:
        """Parse as waitress does, or take what it made of the same head before."""
        key, request_id = _without_id(header_plus)
        known = self._known.get(key)
        if known is not None:
            self.__dict__.update(known["parsed"])
            self.headers = known["headers"].copy()
            if request_id is not None:
                self.headers["X_REQUEST_ID"] = request_id
            self.alike = known
            return
        super().parse_header(header_plus)
        if len(key) > HEAD_LENGTH or self.body_rcv is not None or self.expect_continue:
            return
        if request_id is not None and self.headers.get("X_REQUEST_ID") != request_id:
            return
        if len(self._known) >= HEADS:
            for old in list(self._known)[: HEADS // 2]:
                self._known.pop(old, None)
        parsed = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("adj", "arrival", "headers", "header_bytes_received", "header_plus")
        }
        self.alike = self._known[key] = {"parsed": parsed, "headers": self.headers.copy()}


def _without_id(head: bytes) -> tuple[bytes, str | None]:
    """The head without the value of its X-Request-ID, and that; None for one that is not plain."""
    start = head.find(_ID)
    if start < 0:
        return head, None
    start += len(_ID)
    end = head.find(b"\r\n", start)
    value = head[start:end]
    # A line that begins with a space belongs to the one before.
    if end < 0 or value.strip(_ID_CHARACTERS) or not value or head[end + 2 : end + 3] in b" \t":
        return head, None
    return head[:start] + head[end:], value.decode("latin-1")


class Task(WSGITask):
    """Answers a request; while draining, asks the client to close the connection."""

    def get_environment(self) -> dict[str, object]:
        """The environ; all but what differs between like requests is made once."""
        request, channel = self.request, self.channel
        alike = request.alike
        if alike is None:
            environ: dict[str, object] = super().get_environment()
            for name in PROXY_HEADERS:
                environ.pop(f"HTTP_{name}", None)
        else:
            made = alike.get("environ")
            if made is None:
                made = super().get_environment()
                # Nothing here believes them, so let nothing see them either.
                for name in PROXY_HEADERS:
                    made.pop(f"HTTP_{name}", None)
                alike["environ"] = made
            environ = made.copy()
            if (request_id := request.headers.get("X_REQUEST_ID")) is not None:
                environ["HTTP_X_REQUEST_ID"] = request_id
            environ["wsgi.input"] = BytesIO()
            environ["waitress.client_disconnected"] = channel.check_client_disconnected
            environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = channel.addr[0]
            environ["REMOTE_PORT"] = str(channel.addr[1])
        environ[ARRIVAL] = request.arrival
        environ[INCREMENTS] = channel.increments
        return environ

    @property
    def has_body(self) -> bool:
        """No body for HEAD of unknown length: waitress would send an empty chunked one."""
        return super().has_body and not (
            self.request.command == "HEAD" and self.content_length is None
        )

    def execute(self) -> None:
        """Send head and body of an ordinary answer at once; leave any other to waitress."""
        answer: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: object = None
        ) -> None:
            answer[:] = [(status, headers)]

        chunks: Iterable[bytes] = self.channel.server.application(
            self.get_environment(), start_response
        )
        body = b"".join(chunks)
        status, headers = answer[0]
        self.complete = True
        self.status = status
        self.response_headers = list(headers)
        for name, value in headers:
            if "\n" in value or "\r" in value:
                raise ValueError(f"line break in the header {name}")
            if name == "Content-Length":
                self.content_length = int(value)
        if self.content_length is None and self.has_body:
            self.content_length = len(body)
            self.response_headers.append(("Content-Length", str(len(body))))
        head = self.build_response_header()
        self.wrote_header = True
        self.channel.write_soon(head + body if self.has_body else head)

    def build_response_header(self) -> bytes:
        """Add `Connection: close` while draining, unless the client has sent more already."""
        if self.channel.server.draining and not self.channel.has_more():
            self.set_close_on_finish()
        if (
            self.version != "1.1"
            or self.content_length is None
            or "CONNECTION" in self.request.headers
        ):
            return super().build_response_header()
        lines = [f"HTTP/1.1 {self.status}\r\nDate: {_date(int(self.start_time))}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in self.response_headers]
        lines.append("\r\n")
        return "".join(lines).encode("latin-1")


def _dates() -> Callable[[int], str]:
    last = (0, "")

    def date(second: int) -> str:
        nonlocal last
        when, text = last
        if when != second:
            text = build_http_date(second)
            last = (second, text)
        return text

    return date


_date = _dates()


class MalformedTask(ErrorTask):
    """Answers what never reaches the application: bad syntax, too large, not implemented."""

    def execute(self) -> None:
        """Answer with the reason alone, and log it like any other request."""
        request, problem = self.request, self.request.error
        self.status = f"{problem.code} {problem.reason}"
        body = f"{problem.reason}\n".encode()
        self.content_length = len(body)
        self.response_headers += [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Cache-Control", "no-store"),
        ]
        self.set_close_on_finish()
        path = getattr(request, "path", None)
        self.channel.server.log.request(
            request_id=request.headers.get("X_REQUEST_ID"),
            method=getattr(request, "command", None),
            path=path if isinstance(path, str) else None,
            status=problem.code,
            duration_ms=(time.time() - self.start_time) * 1000,
            remote=self.channel.addr[0],
            error=str(problem.body),
        )
        self.write(body)


class Channel(HTTPChannel):
    """One connection, which knows whether closing it would cut something off.

    It belongs to the main loop, but while it has a request that a thread serves (`requests` is not
    empty). `watched` is what epoll is told to look for.
    """

    parser_class = Parser
    task_class = Task
    error_task_class = MalformedTask
    # The increments that its request shares with others, while it is served (Dispatcher).
    increments: object = None
    watched = 0

    def has_more(self) -> bool:
        """Is there more than the request being served: queued, half read, or still unread?"""
        return len(self.requests) > 1 or self.request is not None or self._unread()

    def is_idle(self, now: float) -> bool:
        """Could it be closed without losing anything? `now` is a time.time()."""
        busy = self.requests or self.request is not None or self.total_outbufs_len
        return not busy and now - self.last_activity >= QUIET_SECONDS and not self._unread()

    def _unread(self) -> bool:
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    # --- in the main loop -----------------------------------------------------------------------

    def add_channel(self, map: dict[int, Any] | None = None) -> None:
        """Begin to watch it."""
        super().add_channel(map)
        self.server.epoll.register(self._fileno, select.EPOLLIN)
        self.watched = select.EPOLLIN

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        """Watch it no longer."""
        self._watch(0)
        super().del_channel(map)

    def on_events(self, events: int) -> None:
        """Handle what epoll saw."""
        with self.requests_lock:
            if self.requests:
                # More comes, or the client went away, while a thread serves it: later.
                self._watch(0)
                return
        wasyncore.readwrite(self, events)
        self.settle()

    def settle(self) -> None:
        """Send what is left, close if that is due, and watch it for what it needs next."""
        if self._fileno is None:
            return
        if self.writable():
            self.handle_write_event()
            if self._fileno is None:
                return
        with self.requests_lock:
            if self.requests and not self.total_outbufs_len:
                return
            wanted = select.EPOLLIN if self.readable() else 0
            self._watch(wanted | (select.EPOLLOUT if self.writable() else 0))

    def _watch(self, wanted: int) -> None:
        if wanted == self.watched or self._fileno is None:
            return
        epoll = self.server.epoll
        if not wanted:
            # Told of nothing, epoll would still tell of errors, again and again.
            epoll.unregister(self._fileno)
        elif self.watched:
            epoll.modify(self._fileno, wanted)
        else:
            epoll.register(self._fileno, wanted)
        self.watched = wanted

    # --- in a thread ----------------------------------------------------------------------------

    def will_count(self) -> bool:
        """Is its first request a `GET /`, so that its view will take a number?"""
        request = self.requests[0]
        if request.error is not None or request.command != "GET" or not self.connected:
            return False
        return request.request_uri == "/" or request.request_uri.startswith("/?")

    def write_soon(self, data: Any) -> int:
        """Send at once what the socket takes; leave the rest to waitress."""
        with self.outbuf_lock:
            if not self.connected:
                raise ClientDisconnected
            if not self.total_outbufs_len and type(data) is bytes:
                try:
                    sent = self.socket.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self.will_close = True
                    return len(data)
                if sent == len(data):
                    return sent
                data = data[sent:]
        return int(super().write_soon(data))

    def service(self) -> None:
        """Serve the first request; wake the main loop only if there is something for it to do."""
        request = self.requests[0]
        task = (self.error_task_class if request.error else self.task_class)(self, request)
        try:
            if self.connected:
                task.service()
            else:
                task.close_on_finish = True
        except ClientDisconnected:
            task.close_on_finish = True
        except Exception:
            self.logger.exception("exception while serving %s", request.path)
            self._say_that_it_failed(task)
        self.last_activity = time.time()
        self.increments = None
        more = False
        with self.requests_lock:
            if task.close_on_finish:
                self.close_when_flushed = True
                for left in self.requests:
                    left.close()
                self.requests = []
            else:
                request.close()
                self.requests.pop(0)
                more = bool(self.connected and self.requests)
                if self._wants_continue() and not more:
                    self.send_continue()
            waits = (
                self.watched != select.EPOLLIN
                or self.will_close
                or self.close_when_flushed
                or self.total_outbufs_len
            )
        if more:
            self.server.task_dispatcher.add([self])
        if waits and self.connected:
            self.server.attend(self)

    def _wants_continue(self) -> bool:
        """Does a request whose head has come wait to be told to send its body?"""
        request = self.request
        return bool(
            self.connected
            and request is not None
            and request.expect_continue
            and request.headers_finished
            and not self.sent_continue
        )

    def _say_that_it_failed(self, task: Any) -> None:
        task.close_on_finish = True
        if task.wrote_header:
            return
        request = self.parser_class(self.adj)
        request.error = InternalServerError("")
        with contextlib.suppress(ClientDisconnected):
            self.error_task_class(self, request).service()
