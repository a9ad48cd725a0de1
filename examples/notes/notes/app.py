"""The Flask application."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterator

import redis
from flask import Flask, Response, abort, redirect, render_template, request

from notes.store import Notes, connect

COOKIE = "notes"
LISTEN_SECONDS = 25


def make_app(notes: Notes | None = None) -> Flask:
    """The application; it does not need Redis to start."""
    app = Flask("notes", static_folder=None)
    store = notes or Notes(connect())

    def session() -> str:
        """The visitor's session: what the cookie says, hashed, so that Redis holds no cookie."""
        cookie = request.cookies.get(COOKIE, "")
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}", cookie):
            abort(Response("Open the first page first.\n", 403, mimetype="text/plain"))
        return hashlib.sha256(cookie.encode()).hexdigest()

    @app.get("/")
    def index() -> Response | str:
        if COOKIE in request.cookies:
            return render_template("index.html", notes=store.all(session()))
        response = Response(render_template("index.html", notes=[]))
        response.set_cookie(
            COOKIE,
            secrets.token_urlsafe(32),
            secure=request.is_secure,
            httponly=True,
            samesite="Strict",
        )
        return response

    @app.post("/notes")
    def add() -> Response:
        text = request.form.get("text", "").strip()[:1000]
        if text:
            store.add(session(), text)
        return redirect("/", 303)

    @app.post("/files")
    def upload() -> tuple[str, int]:
        file = request.files.get("file")
        name = re.sub(r"[^A-Za-z0-9._-]", "_", (file and file.filename) or "")[:100]
        if file is None or not name:
            return "Send a file.\n", 400
        content = file.read()
        if not store.keep(session(), name, content):
            return "There are ten files already.\n", 409
        return f"{name} {len(content)} {hashlib.sha256(content).hexdigest()}\n", 201

    @app.get("/files/<name>")
    def download(name: str) -> Response:
        content = store.file(session(), name)
        if content is None:
            abort(404)
        headers = {
            "Content-Disposition": f"attachment; filename={name}",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(content, mimetype="application/octet-stream", headers=headers)

    @app.get("/events")
    def events() -> Response:
        """Server-sent events: one for each new note. A client connects again when it ends."""
        whose, draining = session(), request.environ.get("serving.draining", lambda: False)

        def stream() -> Iterator[str]:
            yield "retry: 1000\n\n"
            ends = time.monotonic() + LISTEN_SECONDS
            for is_new in store.listen(whose):
                yield "event: note\ndata: new\n\n" if is_new else ": still here\n\n"
                if draining() or time.monotonic() >= ends:
                    return

        return Response(
            stream(), mimetype="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    @app.get("/ready")
    def ready() -> str:
        store.ready()
        return "ready\n"

    @app.errorhandler(redis.RedisError)
    def unavailable(error: redis.RedisError) -> tuple[str, int]:
        request.environ["serving.error"] = f"{type(error).__name__}: {error}"
        return "The notes are not available now.\n", 503

    return app
