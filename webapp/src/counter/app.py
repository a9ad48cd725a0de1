"""The Pyramid application: four paths, plain functions, no sessions and no templates."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.tweens import INGRESS

from counter.log import Log
from counter.release import Release
from counter.store import Store, StoreError

View = Callable[[Request], Response]
# The key of a request's environ under which the server says when it came, in `time.monotonic()`: it
# may have waited for a thread since.
ARRIVAL = "counter.arrival"


@dataclass
class Context:
    """What the views share. `draining` is set once, by the server, and never cleared."""

    store: Store
    log: Log
    release: Release
    draining: threading.Event = field(default_factory=threading.Event)


def make_app(context: Context) -> Router:
    """Return the WSGI application."""
    config = Configurator()
    config.registry.counter = context
    for name, path, view in (
        ("count", "/", count),
        ("healthz", "/healthz", healthz),
        ("readyz", "/readyz", readyz),
        ("version", "/version", version),
    ):
        config.add_route(name, path)
        config.add_view(_reads_only(view), route_name=name)
    config.add_notfound_view(not_found)
    config.add_tween("counter.app.access_log", under=INGRESS)
    return config.make_wsgi_app()


def count(request: Request) -> Response:
    """`GET /`: one INCR. `HEAD /` counts nothing, so it can't know the length of the answer."""
    if request.method == "HEAD":
        response = _text(200, "")
        del response.content_length
        return response
    seen = _context(request).store.increment(request.environ[ARRIVAL])
    return _text(200, f"Hello World! I have been seen {seen} times.\n")


def healthz(request: Request) -> Response:
    """`/healthz`: the process serves requests. Touches nothing else."""
    return _text(200, "ok\n")


def readyz(request: Request) -> Response:
    """`/readyz`: may requests be sent here? 404 while draining, which HAProxy takes as "no more"
    without calling the server dead; 503 while Redis is unreachable or takes no writes."""
    context = _context(request)
    if context.draining.is_set():
        return _text(404, "draining\n")
    context.store.ready(request.environ[ARRIVAL])
    return _text(200, "ready\n")


def version(request: Request) -> Response:
    """`/version`: which release runs, as JSON."""
    body = json.dumps(asdict(_context(request).release)) + "\n"
    return _answer(200, body, "application/json")


def not_found(request: Request) -> Response:
    """Any other path."""
    return _text(404, "There is nothing here.\n")


def _reads_only(view: View) -> View:
    def checked(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            response = _text(405, "Only GET and HEAD are allowed here.\n")
            response.headers["Allow"] = "GET, HEAD"
            return response
        return view(request)

    return checked


def _context(request: Request) -> Context:
    return request.registry.counter


def _text(status: int, body: str) -> Response:
    return _answer(status, body, "text/plain")


def _answer(status: int, body: str, content_type: str) -> Response:
    response = Response(
        body=body.encode(), status=status, content_type=content_type, charset="utf-8"
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def raw_path(environ: dict[str, object]) -> str:
    """The path of the request as the client wrote it: not decoded, without the query."""
    target = str(environ.get("REQUEST_URI") or environ.get("PATH_INFO") or "/")
    return target.partition("?")[0].partition("#")[0]


def access_log(handler: View, registry: Registry) -> View:
    """Pyramid tween: answer every exception with a short text, and log every request once."""
    context: Context = registry.counter
    last_ready = 200

    def tween(request: Request) -> Response:
        nonlocal last_ready
        started = time.perf_counter()
        environ = request.environ
        path = raw_path(environ)
        error: str | None = None
        unexpected: Exception | None = None
        try:
            if environ["PATH_INFO"] == "/" and path.startswith("/") and path != "/":
                # waitress takes leading slashes together; "//" and "/%2f" are not "/".
                response = not_found(request)
            else:
                response = handler(request)
        except StoreError as problem:
            error = f"{type(problem).__name__}: {problem}"
            response = _text(problem.status, problem.text)
        except URLDecodeError:
            response = _text(400, "The path is not UTF-8.\n")
        except Exception as problem:
            unexpected = problem
            response = _text(500, "Something went wrong.\n")
        status = response.status_int
        if path == "/healthz":
            worth_a_line = status != 200
        elif path == "/readyz":
            # Pollers ask all the time: one line when the answer changes, none for each.
            worth_a_line = status not in (200, last_ready)
            last_ready = status
        else:
            worth_a_line = True
        if worth_a_line:
            context.log.request(
                request_id=environ.get("HTTP_X_REQUEST_ID"),
                method=request.method,
                path=path,
                status=status,
                duration_ms=(time.perf_counter() - started) * 1000,
                remote=environ.get("REMOTE_ADDR"),
                error=error,
                unexpected=unexpected,
            )
        return response

    return tween
