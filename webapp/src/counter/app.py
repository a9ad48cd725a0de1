"""The Pyramid application: one path that counts, and one that says whether it could."""

from __future__ import annotations

from collections.abc import Callable

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.tweens import INGRESS

from counter.store import Increments, Store, StoreError
from serving.front import ARRIVAL, BATCH, ERROR, PATH

View = Callable[[Request], Response]


class CountTogether:
    """Lets requests that came together count in one round trip (serving.application.Batch)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def joins(self, method: str, target: str) -> bool:
        """Whether it is a `GET /`, whose view will take a number."""
        return method == "GET" and (target == "/" or target.startswith("/?"))

    def begin(self, arrivals: list[float]) -> Increments:
        """One increment for each."""
        return self._store.increments(arrivals)


def make_app(store: Store) -> Router:
    """Return the WSGI application."""
    config = Configurator()
    config.registry.counter = store
    for name, path, view in (("count", "/", count), ("readyz", "/readyz", readyz)):
        config.add_route(name, path)
        config.add_view(_reads_only(view), route_name=name)
    config.add_notfound_view(not_found)
    config.add_tween("counter.app.answer_errors", under=INGRESS)
    application = config.make_wsgi_app()
    application.batch = CountTogether(store)
    return application


def count(request: Request) -> Response:
    """`GET /`: one INCR. `HEAD /` counts nothing, so it can't know the length of the answer."""
    if request.method == "HEAD":
        response = _text(200, "")
        del response.content_length
        return response
    together: Increments | None = request.environ[BATCH]
    if together is not None:
        seen = together.take()
    else:
        seen = _store(request).increment(request.environ[ARRIVAL])
    return _text(200, f"Hello World! I have been seen {seen} times.\n")


def readyz(request: Request) -> Response:
    """What the runtime asks for `/readyz`: 503 while Redis is unreachable or takes no writes."""
    _store(request).ready(request.environ[ARRIVAL])
    return _text(200, "ready\n")


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


def _store(request: Request) -> Store:
    return request.registry.counter


def _text(status: int, body: str) -> Response:
    response = Response(
        body=body.encode(), status=status, content_type="text/plain", charset="utf-8"
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def answer_errors(handler: View, registry: Registry) -> View:
    """Pyramid tween: answer what Redis refused, and a path that is no text, with a short text."""

    def tween(request: Request) -> Response:
        environ = request.environ
        path = environ[PATH]
        try:
            if environ["PATH_INFO"] == "/" and path.startswith("/") and path != "/":
                # waitress takes leading slashes together; "//" and "/%2f" are not "/".
                return not_found(request)
            return handler(request)
        except StoreError as problem:
            environ[ERROR] = f"{type(problem).__name__}: {problem}"
            return _text(problem.status, problem.text)
        except URLDecodeError:
            return _text(400, "The path is not UTF-8.\n")

    return tween
