"""What clients see."""

from __future__ import annotations

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import App, RedisServer, number, wait_for


def test_each_get_counts_once_and_answers_the_exact_text(app: App) -> None:
    answers = [app.ask() for _ in range(3)]
    assert [answer.text for answer in answers] == [
        f"Hello World! I have been seen {n} times.\n" for n in (1, 2, 3)
    ]
    assert {answer.status for answer in answers} == {200}
    assert answers[0].headers["Content-Type"].startswith("text/plain")
    assert answers[0].headers["Cache-Control"] == "no-store"
    assert "Server" not in answers[0].headers


def test_count_is_exact_under_16_clients(app: App, redis_server: RedisServer) -> None:
    def client(keep_alive: bool) -> list[int]:
        numbers = []
        with contextlib.closing(app.connect()) as connection:
            for _ in range(125):
                connection.request("GET", "/")
                numbers.append(number(connection.getresponse().read().decode()))
                if not keep_alive:
                    connection.close()
        return numbers

    with ThreadPoolExecutor(16) as pool:
        found = [n for numbers in pool.map(client, [True, False] * 8) for n in numbers]
    assert sorted(found) == list(range(1, 2001))
    assert redis_server.count() == 2000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/", 200),
        ("HEAD", "/?again", 200),
        ("POST", "/", 405),
        ("PUT", "/", 405),
        ("DELETE", "/", 405),
        ("PATCH", "/", 405),
        ("OPTIONS", "/", 405),
        ("TRACE", "/", 405),
        ("get", "/", 400),
        ("GET", "/favicon.ico", 404),
        ("GET", "/nope", 404),
        ("GET", "//", 404),
        ("GET", "/%2f", 404),
        ("GET", "/index.html", 404),
        ("GET", "/%ff", 400),
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/readyz", 200),
        ("HEAD", "/readyz", 200),
        ("POST", "/readyz", 405),
        ("GET", "/version", 200),
        ("HEAD", "/version", 200),
        ("DELETE", "/version", 405),
    ],
)
def test_nothing_but_get_of_the_root_counts(
    app: App, redis_server: RedisServer, method: str, path: str, status: int
) -> None:
    answer = app.ask(path, method)
    assert answer.status == status
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(answer.text) < 200
    if method == "HEAD":
        assert answer.text == ""
    elif path != "/version":
        assert answer.headers["Content-Type"].startswith("text/plain")
    if status == 405:
        assert answer.headers["Allow"] == "GET, HEAD"
    assert redis_server.client.exists("counter:seen") == 0


def test_health_and_version_say_what_they_should(app: App) -> None:
    assert app.ask("/healthz").text == "ok\n"
    assert app.ask("/readyz").text == "ready\n"
    answer = app.ask("/version")
    assert answer.headers["Content-Type"] == "application/json"
    told = json.loads(answer.text)
    assert set(told) == {"version", "commit", "sha256", "python"}
    assert (told["commit"], told["sha256"]) == (None, None)


def test_head_keeps_the_stream_in_step(app: App) -> None:
    received = app.raw(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""
    assert b"Transfer-Encoding" not in head


def test_pipelined_requests_each_count_once(app: App, redis_server: RedisServer) -> None:
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = app.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9 + last)
    assert received.count(b"HTTP/1.1 200 OK") == 10
    assert b"I have been seen 10 times." in received
    assert redis_server.count() == 10


def test_a_body_is_not_taken_for_a_request(app: App, redis_server: RedisServer) -> None:
    inner = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    length = str(len(inner)).encode()
    request = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n" + inner
    assert app.raw(request + request).count(b"200 OK") == 2
    assert redis_server.count() == 2
    chunk = f"{len(inner):x}".encode() + b"\r\n" + inner + b"\r\n0\r\n\r\n"
    received = app.raw(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
    assert received.count(b"HTTP/1.1") == 1
    assert received.startswith(b"HTTP/1.1 405")
    assert redis_server.count() == 2


def test_too_large_a_body_is_refused_and_nothing_in_it_counts(
    app: App, redis_server: RedisServer
) -> None:
    body = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    length = str(len(body)).encode()
    received = app.raw(
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n" + body
    )
    assert received.count(b"HTTP/1.1") in (0, 1)  # 0: reset, because a body was on its way
    assert b"200 OK" not in received
    assert app.ask("/healthz").status == 200
    assert redis_server.count() == 0
    wait_for(lambda: app.requests(status=413), "the refusal is logged")


def test_malformed_requests_get_a_short_answer_and_a_log_line(app: App) -> None:
    received = app.raw(b"GET / HTTP/1.1\r\nHost: x\r\nBroken header\r\n\r\n")
    assert received.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"Cache-Control: no-store" in received
    assert received.endswith(b"\r\n\r\nBad Request\n")
    assert wait_for(lambda: app.requests(status=400, path=None), "the refusal is logged")
    received = app.raw(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20000 + b"\r\n\r\n")
    assert b" 431 " in received.partition(b"\r\n")[0]


def test_a_client_that_goes_away_disturbs_nobody(app: App) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", app.port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
    assert app.ask().status == 200
