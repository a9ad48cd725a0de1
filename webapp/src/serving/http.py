"""A request and its answer: waitress' parser and tasks, without what is the same each time.

A head that differs from an earlier one in nothing but the request id is parsed once, and its
environ is made once; an answer is one send.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from types import TracebackType
from typing import Any, ClassVar

from waitress.adjustments import Adjustments
from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import ClientDisconnected
from waitress.parser import HTTPRequestParser
from waitress.proxy_headers import PROXY_HEADERS
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import build_http_date

from serving.front import ARRIVAL, BATCH, DRAINING, text

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]

# How many heads are remembered, and how long each may be: 4 MB at most, whatever clients send. The
# oldest half is forgotten when there are more.
HEADS = 512
HEAD_LENGTH = 1024
# An answer up to this many bytes is sent at once, head and body, if it says its length.
AT_ONCE = 65536
# Headers that are the server's to say (RFC 9110, 7.6.1), or that nobody needs to know.
_NOT_ITS_OWN = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "date", "server",
}  # fmt: skip
# The address that the edge gave for the client.
_CLIENT = "serving.client"
_ID = b"\r\nx-request-id: "
_ID_CHARACTERS = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"-"


class Parser(HTTPRequestParser):
    """A request, which knows when it came.

    `alike` is shared by all requests whose heads differ in the request id alone: what was parsed,
    and the environ that was made of it.
    """

    alike: dict[str, Any] | None = None
    _known: ClassVar[dict[tuple[bytes, bytes], dict[str, Any]]] = {}

    def __init__(self, adj: Adjustments) -> None:
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
        if len(header_plus) > HEAD_LENGTH or self.body_rcv is not None or self.expect_continue:
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


def _without_id(head: bytes) -> tuple[tuple[bytes, bytes], str | None]:
    """What is before and after the value of its X-Request-ID, and that.

    ((head, nothing), None) where the value is not plain: that no other head can be.
    """
    whole = (head, b"")
    start = head.find(_ID)
    if start < 0:
        return whole, None
    start += len(_ID)
    end = head.find(b"\r\n", start)
    value = head[start:end]
    # A line that begins with a space belongs to the one before.
    if end < 0 or not value or value.strip(_ID_CHARACTERS) or head[end + 2 : end + 3] in b" \t":
        return whole, None
    return (head[:start], head[end:]), value.decode("latin-1")


class Task(WSGITask):
    """Answers a request; while draining, asks the client to close the connection."""

    def get_environment(self) -> dict[str, Any]:
        """The environ; all but what differs between like requests is made once."""
        request, channel = self.request, self.channel
        alike = request.alike
        if alike is None:
            environ = self._make_environment()
        else:
            made = alike.get("environ")
            if made is None:
                made = alike["environ"] = self._make_environment()
            environ = made.copy()
            if (request_id := request.headers.get("X_REQUEST_ID")) is not None:
                environ["HTTP_X_REQUEST_ID"] = request_id
            environ["wsgi.input"] = BytesIO()
            environ["waitress.client_disconnected"] = channel.check_client_disconnected
            environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = channel.addr[0]
            environ["REMOTE_PORT"] = str(channel.addr[1])
        if (client := environ.get(_CLIENT)) is not None:
            environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = client
        environ[ARRIVAL] = request.arrival
        environ[BATCH] = channel.batch
        return environ

    def _make_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        server = self.channel.server
        environ[DRAINING] = server.front.is_draining
        # What nothing believes nothing needs to see.
        forwarded = {name: environ.pop(f"HTTP_{name}", None) for name in PROXY_HEADERS}
        if server.trusts_proxy:
            if clients := forwarded["X_FORWARDED_FOR"]:
                # The last is the one that the edge itself saw.
                environ[_CLIENT] = clients.rpartition(",")[2].strip()
            if forwarded["X_FORWARDED_PROTO"] == "https":
                environ["wsgi.url_scheme"] = "https"
        return environ

    @property
    def has_body(self) -> bool:
        """No body for HEAD of unknown length: waitress would send an empty chunked one."""
        return super().has_body and not (
            self.request.command == "HEAD" and self.content_length is None
        )

    def execute(self) -> None:
        """Have the request answered, and log it."""
        environ = self.get_environment()
        front = self.channel.server.front
        try:
            chunks = front(environ, self._start_response)
            kept = False
            try:
                kept = self._send(chunks, environ)
            finally:
                if not kept and hasattr(chunks, "close"):
                    chunks.close()
        except ClientDisconnected:
            raise
        except Exception as problem:
            if self.wrote_header:
                # What was announced can't be sent any more: the client must notice.
                self.close_on_finish = True
                self.chunked_response = False
                front.log(environ, int(self.status[:3]), problem)
                return
            status, headers, body = text(500, b"Something went wrong.\n")
            self.complete = False
            self._start_response(status, headers)
            front.log(environ, 500, problem)
            self._send_whole(body)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info and self.wrote_header:
            raise exc_info[1].with_traceback(exc_info[2])
        if self.complete and not exc_info:
            raise AssertionError("start_response was called twice")
        self.complete = True
        self.status = status
        self.content_length = None
        self.response_headers = kept = []
        for header in headers:
            name, value = header
            if "\n" in value or "\r" in value:
                raise ValueError(f"line break in the header {name}")
            lower = name.lower()
            if lower == "content-length":
                self.content_length = int(value)
            elif lower in _NOT_ITS_OWN:
                continue
            kept.append(header)
        return self.write

    def _send(self, chunks: Iterable[bytes], environ: dict[str, Any]) -> bool:
        """Send an answer, and log it; True if the connection closes `chunks` when it is sent."""
        front = self.channel.server.front
        length = self.content_length
        if type(chunks) in (list, tuple) or (
            self.complete and length is not None and length <= AT_ONCE
            and type(chunks) is not ReadOnlyFileBasedBuffer
        ):  # fmt: skip
            body = b"".join(chunks)
            if not self.complete:
                raise AssertionError("start_response was not called")
            if not self.wrote_header:
                self._check_length(body)
                front.log(environ, int(self.status[:3]))
                self._send_whole(body)
                return False
            self.write(body)
        elif type(chunks) is ReadOnlyFileBasedBuffer:
            size = chunks.prepare(length)
            if length is None:
                self.content_length = size
            front.log(environ, int(self.status[:3]))
            self.write(b"")
            self.channel.write_soon(chunks)
            return True
        else:
            # HEAD: what has no body is not read to its end.
            for chunk in chunks:
                if self.request.command == "HEAD":
                    break
                if chunk:
                    self.write(chunk)
            length = self.content_length
            if length is not None and self.content_bytes_written < length:
                self.close_on_finish = self.close_on_finish or self.request.command != "HEAD"
        front.log(environ, int(self.status[:3]))
        return False

    def _check_length(self, body: bytes) -> None:
        length = self.content_length
        sends_body = self.has_body and self.request.command != "HEAD"
        if length is not None and length != len(body) and sends_body:
            raise ValueError(f"Content-Length is {length}, and the body has {len(body)} bytes")

    def _send_whole(self, body: bytes) -> None:
        """Send head and body in one."""
        if self.content_length is None and self.has_body:
            self.content_length = len(body)
            self.response_headers.append(("Content-Length", str(len(body))))
        head = self.build_response_header()
        self.wrote_header = True
        sends_body = self.has_body and self.request.command != "HEAD"
        self.channel.write_soon(head + body if sends_body else head)

    def build_response_header(self) -> bytes:
        """Add `Connection: close` while draining, unless the client has sent more already."""
        if self.channel.server.front.draining and not self.channel.has_more():
            self.set_close_on_finish()
        if (
            self.version != "1.1"
            or (self.content_length is None and self.has_body)
            or "CONNECTION" in self.request.headers
        ):
            return super().build_response_header()
        lines = [f"HTTP/1.1 {self.status}\r\nDate: {_date(int(self.start_time))}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in self.response_headers]
        lines.append("\r\n")
        return "".join(lines).encode("latin-1")


@functools.lru_cache(maxsize=2)
def _date(second: int) -> str:
    return str(build_http_date(second))


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
