"""What stands before every application: its own paths, static files, and the log of requests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from serving.application import StartResponse, Wsgi
from serving.log import Log, describe
from serving.release import Release
from serving.static import Static

Environ = dict[str, Any]
Answer = tuple[str, list[tuple[str, str]], bytes]

# Keys of a request's environ. When it came, in `time.monotonic()`: it may have waited since.
ARRIVAL = "serving.arrival"
# What it shares with other requests (serving.application.Batch), or None.
BATCH = "serving.batch"
# The path as the client wrote it: not decoded, without the query.
PATH = "serving.path"
# What the application wants to have in the line of this request.
ERROR = "serving.error"
# A function without arguments: does the process drain? A long stream ends itself then.
DRAINING = "serving.draining"


class Front:
    """A WSGI application that answers `/healthz`, `/readyz` and `/version`, and hands on the rest.

    `draining` is set once, by the server, and never cleared.
    """

    def __init__(
        self,
        application: Wsgi,
        log: Log,
        release: Release,
        *,
        ready: str | None = None,
        static: Static | None = None,
        log_from_seconds: float = 0.0,
    ) -> None:
        self._application = application
        self._log = log
        self._version = (json.dumps(asdict(release)) + "\n").encode()
        self._ready = ready
        self._static = static
        # Requests that took so many seconds get a line, and those that failed; 0: all get one.
        self._log_from_seconds = log_from_seconds
        self._last_ready = 200
        self.draining = False
        self._own: dict[str, Callable[[Environ], Answer]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/version": lambda _: text(200, self._version, "application/json"),
        }

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path = environ[PATH] = raw_path(environ)
        own = self._own.get(path)
        if own is not None:
            status, headers, body = own(environ) if reads(environ) else READS_ONLY
            start_response(status, headers)
            return [body]
        if self._static is not None and (served := self._static.find(path)) is not None:
            return served(environ, start_response)
        return self._application(environ, start_response)

    def is_draining(self) -> bool:
        """Whether it stops."""
        return self.draining

    def _healthz(self, environ: Environ) -> Answer:
        """The process serves requests. Touches nothing else."""
        return text(200, b"ok\n")

    def _readyz(self, environ: Environ) -> Answer:
        """May requests be sent here? 404 while draining, which HAProxy takes as "no more" without
        calling the server dead; 503 while the application says anything but 2xx."""
        if self.draining:
            return text(404, b"draining\n")
        if self._ready is None:
            return text(200, b"ready\n")
        try:
            status, body = self._ask(environ, self._ready)
        except Exception as problem:
            environ[ERROR] = describe(problem)
            return text(503, f"not ready: {self._ready} failed\n".encode())
        if status // 100 == 2:
            return text(200, b"ready\n")
        environ.setdefault(ERROR, f"{self._ready} answered {status}")
        if status == 503 and len(body) <= 1024:
            return text(503, body)
        return text(503, f"not ready: {self._ready} answered {status}\n".encode())

    def _ask(self, environ: Environ, path: str) -> tuple[int, bytes]:
        """Status and body of the application's own answer to GET, as its own machine would ask."""
        inner = environ | {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "REQUEST_URI": path,
            PATH: path,
            "QUERY_STRING": "",
            "HTTP_HOST": "localhost",
            "wsgi.url_scheme": "https",
        }
        said: list[str] = []

        def start_response(status: str, headers: object, exc_info: object = None) -> object:
            said[:] = [status]
            return lambda data: None

        chunks = self._application(inner, start_response)
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        if error := inner.get(ERROR):
            environ[ERROR] = error
        return int(said[0][:3]), body

    def log(self, environ: Environ, status: int, unexpected: BaseException | None = None) -> None:
        """Write the line of an answered request, if it is worth one."""
        seconds = time.monotonic() - environ[ARRIVAL]
        path = environ.get(PATH)
        if path == "/healthz":
            worth_a_line = status != 200
        elif path == "/readyz":
            # Pollers ask all the time: one line when the answer changes, none for each.
            worth_a_line = status not in (200, self._last_ready)
            self._last_ready = status
        else:
            worth_a_line = status >= 400 or seconds >= self._log_from_seconds
        if worth_a_line or unexpected is not None:
            self._log.request(
                request_id=environ.get("HTTP_X_REQUEST_ID"),
                method=environ["REQUEST_METHOD"],
                path=path,
                status=status,
                duration_ms=seconds * 1000,
                remote=environ.get("REMOTE_ADDR"),
                error=environ.get(ERROR) or (describe(unexpected) if unexpected else None),
                unexpected=unexpected,
            )


def reads(environ: Environ) -> bool:
    """Whether it is a GET or a HEAD."""
    return environ["REQUEST_METHOD"] in ("GET", "HEAD")


REASONS = {200: "200 OK", 404: "404 Not Found", 405: "405 Method Not Allowed",
           500: "500 Internal Server Error", 503: "503 Service Unavailable"}  # fmt: skip


def text(status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> Answer:
    """A short answer that nobody may keep."""
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return REASONS[status], headers, body


_STATUS, _HEADERS, _BODY = text(405, b"Only GET and HEAD are allowed here.\n")
READS_ONLY: Answer = _STATUS, [*_HEADERS, ("Allow", "GET, HEAD")], _BODY


def raw_path(environ: Environ) -> str:
    """The path of the request as the client wrote it: not decoded, without the query."""
    target = str(environ.get("REQUEST_URI") or environ.get("PATH_INFO") or "/")
    return target.partition("?")[0].partition("#")[0]
