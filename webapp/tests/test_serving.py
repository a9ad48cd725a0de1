"""The runtime with applications of other kinds than the counter."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pace
import pytest

from support import App, environment, free_port, wait_for

Start = Callable[..., App]
WSGI = """\
import time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/ready":
        start_response("200 OK", [])
        return []
    if path == "/stream":
        def pieces():
            start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "keep-alive")])
            for number in range(3):
                yield b"%d\\n" % number
                time.sleep(0.05)
        return pieces()
    if path == "/write":
        write = start_response("200 OK", [])
        write(b"one ")
        return [b"two"]
    if path == "/fails":
        raise FileNotFoundError("a secret detail")
    if path == "/fails-late":
        def pieces():
            start_response("200 OK", [])
            yield b"begun"
            raise RuntimeError("in the middle")
        return pieces()
    if path == "/short":
        start_response("200 OK", [("Content-Length", "10")])
        return [b"12345"]
    if path == "/split":
        start_response("200 OK", [("X", "a\\r\\nSet-Cookie: b")])
        return [b""]
    if path == "/nothing":
        start_response("304 Not Modified", [("ETag", "x")])
        return []
    if path == "/large":
        start_response("200 OK", [("Content-Length", "5000000")])
        return iter([b"x" * 1000000] * 5)
    if path == "/body":
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Server", "mine"), ("Date", "never")])
        return Closing([str(len(body)).encode()])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr([environ[key] for key in (
        "REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING",
    )] + [environ.get("HTTP_X_FORWARDED_FOR")]).encode()]

class Closing(list):
    def close(self):
        print("closed", flush=True)
"""
EXEC = """\
import http.server, os, signal, sys, time
late = time.monotonic() + float(os.environ.get("LATE", "0"))
if os.environ.get("DIES"):
    sys.exit(7)
assert "NOTIFY_SOCKET" not in os.environ

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        gone = os.path.exists("gone")
        self.send_response(503 if gone or time.monotonic() < late else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

def stop(*_):
    print("told to stop", flush=True)
    if not os.environ.get("HANGS"):
        sys.exit(0)

signal.signal(signal.SIGTERM, stop)
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an application of sources: WSGI or EXEC, with these lines in its app.toml."""
    processes = []

    def start(toml: str = "", kind: str = "wsgi", ready: str = "/ready", **settings: str) -> App:
        served = {
            "wsgi": 'wsgi = "web:application"',
            "exec": 'exec = "python server.py {host} {port}"',
        }[kind]
        (tmp_path / "web.py").write_text(WSGI)
        (tmp_path / "server.py").write_text(EXEC)
        text = f'name = "web"\n{served}\ninclude = ["."]\nready = "{ready}"\n{toml}\n'
        (tmp_path / "app.toml").write_text(text)
        output = tmp_path / "output"
        listen = f"127.0.0.1:{free_port()}"
        settings = {"SERVING_LISTEN": listen, "SERVING_DRAIN_SECONDS": "0"} | settings
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "serving", "--app", str(tmp_path)],
                env=environment(**settings),
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        app = App(process, output, int(listen.rpartition(":")[2]))
        if "DIES" not in settings:
            wait_for(lambda: '"start"' in output.read_text(), "it serves", 30)
        return app

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_an_answer_may_come_in_pieces(start: Start) -> None:
    app = start()
    with contextlib.closing(app.connect()) as connection:
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert answer.getheader("Transfer-Encoding") == "chunked"
        began = time.monotonic()
        assert answer.readline() == b"0\n"
        assert answer.read() == b"1\n2\n"
        assert time.monotonic() - began >= 0.05, "the first piece came before the last was made"
    assert app.ask("/write").text == "one two"
    assert len(app.ask("/large").text) == 5_000_000
    assert app.ask("/stream", "HEAD").text == ""
    assert app.end() == 0


def test_what_an_application_does_wrong_reaches_no_client_and_is_logged(start: Start) -> None:
    app = start()
    for path in ("/fails", "/short", "/split"):
        answer = app.ask(path)
        assert (answer.status, answer.text) == (500, "Something went wrong.\n"), path
        assert "Set-Cookie" not in answer.headers
    with contextlib.closing(app.connect()) as connection:
        connection.request("GET", "/fails-late")
        answer = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    assert app.ask("/").status == 200
    assert app.end() == 0
    told = {line["path"]: line["error"] for line in app.requests() if line["status"] == 500}
    assert told["/fails"] == "FileNotFoundError: a secret detail"
    assert told["/short"] == "ValueError: Content-Length is 10, and the body has 5 bytes"
    (late,) = app.requests(path="/fails-late")
    assert late["error"] == "RuntimeError: in the middle"


def test_an_answer_without_a_body_leaves_the_connection_open(start: Start) -> None:
    app = start()
    with contextlib.closing(app.connect()) as connection:
        for _ in range(2):
            connection.request("GET", "/nothing")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (304, b"")
            assert answer.getheader("Connection") is None


def test_bodies_are_bounded_and_reach_the_application(start: Start) -> None:
    app = start("[serve]\nmax_body = 2000000")
    answer = app.ask("/body", "POST", body=b"x" * 2_000_000)
    assert answer.text == "2000000"
    assert "Server" not in answer.headers
    assert answer.headers["Date"].endswith("GMT")
    assert "closed" in app.output.read_text(), "close() of an answer is called (PEP 3333)"
    received = app.raw(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2000001\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("trusted", [True, False])
def test_the_client_is_who_the_edge_says_and_only_where_it_is_trusted(
    start: Start, trusted: bool
) -> None:
    app = start(f"[serve]\ntrusted_proxy = {str(trusted).lower()}")
    for address in ("192.0.2.1", "192.0.2.2"):
        headers = {"X-Forwarded-For": f"10.0.0.1, {address}", "X-Forwarded-Proto": "https"}
        seen = eval(app.ask("/a%20b?c", headers={"Host": "web.test", **headers}).text)  # noqa: S307
        expected = [address, "https"] if trusted else ["127.0.0.1", "http"]
        assert seen == [*expected, "web.test", "", "/a b", "c", None]


def test_static_files_are_served_without_the_application(start: Start, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "deep").mkdir(parents=True)
    (files / "plain.css").write_text("a")
    (files / "app.0123abcd.js").write_bytes(b"x" * 200_000)
    (files / "deep/é.txt").write_text("é")
    (tmp_path / "secret").write_text("secret")
    (files / "link").symlink_to(tmp_path / "secret")
    app = start('[static]\n"/static/" = "files"')
    plain = app.ask("/static/plain.css")
    assert (plain.text, plain.headers["Cache-Control"]) == ("a", "no-cache")
    assert plain.headers["Content-Type"] == "text/css; charset=utf-8"
    hashed = app.ask("/static/app.0123abcd.js")
    assert len(hashed.text) == 200_000
    assert hashed.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert app.ask("/static/app.0123abcd.js", "HEAD").headers["Content-Length"] == "200000"
    assert app.ask("/static/deep/%C3%A9.txt").text == "é"
    known = app.ask("/static/plain.css", headers={"If-None-Match": plain.headers["ETag"]})
    assert (known.status, known.text) == (304, "")
    since = {"If-Modified-Since": plain.headers["Last-Modified"]}
    assert app.ask("/static/plain.css", headers=since).status == 304
    assert app.ask("/static/plain.css", "POST").status == 405
    for path in ("", "deep", "nothing", "link", "..%2fsecret", "../secret", "%2e%2e/secret",
                 "deep//x", "/etc/passwd", "a%00b", "%ff"):  # fmt: skip
        answer = app.raw(f"GET /static/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404"), path
    assert app.end() == 0


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/ready", 200, "ready\n"),
        ("/nothing", 503, "not ready: /nothing answered 304\n"),
        ("/fails", 503, "not ready: /fails failed\n"),
    ],
)
def test_readyz_asks_the_path_of_the_application(
    start: Start, path: str, status: int, text: str
) -> None:
    app = start(ready=path)
    answer = app.ask("/readyz")
    assert (answer.status, answer.text) == (status, text)
    assert app.ask("/healthz").status == 200


# --- an application with its own server ---------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of the notify socket, at tmp_path/notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        yield sock


def test_its_own_server_is_ready_when_its_path_answers_and_stops_in_order(
    start: Start, told: socket.socket, tmp_path: Path
) -> None:
    began = time.monotonic()
    app = start(kind="exec", NOTIFY_SOCKET=str(tmp_path / "notify"), LATE="1")
    assert time.monotonic() - began >= 1, "it was called ready before its path said so"
    assert b"READY=1" in told.recv(4096)
    assert app.ask("/").status == 200
    app.terminate()
    assert b"STOPPING=1" in told.recv(4096)
    assert app.process.wait(20) == 0
    assert "told to stop" in app.output.read_text()


def test_its_own_server_gets_no_sign_of_life_while_its_path_fails(
    start: Start, told: socket.socket, tmp_path: Path
) -> None:
    notify = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    app = start(kind="exec", **notify)
    assert b"READY=1" in told.recv(4096)
    for _ in range(3):
        assert told.recv(4096) == b"WATCHDOG=1"
    (tmp_path / "gone").touch()
    told.settimeout(2)
    with contextlib.suppress(TimeoutError):
        # One may have been on its way.
        told.recv(4096)
        told.recv(4096)
    with pytest.raises(TimeoutError):
        told.recv(4096)
    app.terminate()


def test_its_own_server_that_hangs_is_killed_and_one_that_dies_is_told_of(start: Start) -> None:
    app = start(kind="exec", HANGS="1", SERVING_FINISH_SECONDS="1")
    with pace.Stopwatch() as watch:
        app.terminate()
        assert app.process.wait(20) == 1
    assert watch.seconds < 10
    app = start(kind="exec", DIES="1")
    assert app.process.wait(20) == 7
    assert "python ended by itself with 7" in app.output.read_text()
