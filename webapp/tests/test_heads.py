"""A head that was seen before is not parsed again: the same must come of it as if it were."""

from __future__ import annotations

import pytest
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser

from serving import http
from support import App, RedisServer, number, wait_for

ADJUSTMENTS = Adjustments(max_request_body_size=1024, max_request_header_size=16384)
HEADS = {
    "plain": "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: {}\r\nuser-agent: b\r\n\r\n",
    "last": "GET /?a=b HTTP/1.1\r\nhost: a\r\nx-request-id: {}\r\n\r\n",
    "other case": "GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: {}\r\n\r\n",
    "two": "GET / HTTP/1.1\r\nx-request-id: {}\r\nx-request-id: {}\r\n\r\n",
    "two, the other way": "GET / HTTP/1.1\r\nX-Request-Id: first\r\nx-request-id: {}\r\n\r\n",
    "folded": "GET / HTTP/1.1\r\nx-request-id: {}\r\n more\r\nhost: a\r\n\r\n",
    "with a body": "POST / HTTP/1.1\r\nx-request-id: {}\r\ncontent-length: 3\r\n\r\nabc",
    "chunked": "POST / HTTP/1.1\r\nx-request-id: {}\r\ntransfer-encoding: chunked\r\n\r\n"
    "3\r\nabc\r\n0\r\n\r\n",
    "expecting": "GET / HTTP/1.1\r\nx-request-id: {}\r\nexpect: 100-continue\r\n\r\n",
    "closing": "GET / HTTP/1.1\r\nx-request-id: {}\r\nconnection: close\r\n\r\n",
    "1.0": "GET / HTTP/1.0\r\nx-request-id: {}\r\n\r\n",
    "malformed": "GET / HTTP/1.1\r\nx-request-id: {}\r\nnothing\r\n\r\n",
    "within the path": "GET /x-request-id:%20{} HTTP/1.1\r\nhost: a\r\n\r\n",
}
IDS = ("1b671a64-40d5-491e-99b0-da01ff1f3341", "Another1", "", "with space", 'quo"te', "a\tb")


def parsed(parser: HTTPRequestParser, data: bytes) -> dict[str, object]:
    """What a parser makes of the data, without what is another object each time."""
    while data:
        used = parser.received(data)
        data = data[used:]
        if parser.completed:
            break
    names = ("headers", "command", "path", "query", "request_uri", "version", "connection_close")
    names += ("expect_continue", "chunked", "content_length", "completed", "empty", "url_scheme")
    told = {name: getattr(parser, name, None) for name in names}
    told["body"] = parser.get_body_stream().read()
    told["error"] = repr(parser.error and (parser.error.code, parser.error.body))
    return told


@pytest.mark.parametrize("kind", HEADS)
def test_a_remembered_head_is_parsed_as_waitress_parses_it(kind: str) -> None:
    for _ in range(2):
        for request_id in IDS:
            data = HEADS[kind].replace("{}", request_id).encode()
            ours = parsed(http.Parser(ADJUSTMENTS), data)
            assert ours == parsed(HTTPRequestParser(ADJUSTMENTS), data), request_id


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.Parser, "_known", {})
    for client in range(3 * http.HEADS):
        parsed(http.Parser(ADJUSTMENTS), f"GET / HTTP/1.1\r\nx: {client}\r\n\r\n".encode())
    assert 0 < len(http.Parser._known) <= http.HEADS
    monkeypatch.setattr(http.Parser, "_known", {})
    parsed(http.Parser(ADJUSTMENTS), b"GET / HTTP/1.1\r\nx: " + b"y" * 2000 + b"\r\n\r\n")
    assert not http.Parser._known


def test_each_request_is_logged_under_its_own_id(app: App) -> None:
    ids = [f"mine-{n}" for n in range(5)]
    asked = "".join(f"GET /nope HTTP/1.1\r\nx-request-id: {one}\r\n\r\n" for one in ids)
    assert app.raw(asked.encode()).count(b" 404 ") == 5

    def told() -> list[str]:
        return [line["request_id"] for line in app.requests(path="/nope", status=404)]

    wait_for(lambda: [one for one in told() if one in ids] == ids, "each once, in order")


@pytest.mark.parametrize(
    ("head", "connection"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"close"),
        (b"GET / HTTP/1.0\r\n\r\n", b"close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"Keep-Alive"),
    ],
)
def test_an_answer_says_whether_the_connection_stays(
    app: App, redis_server: RedisServer, head: bytes, connection: bytes | None
) -> None:
    received, _, body = app.raw(head).partition(b"\r\n\r\n")
    status, *lines = received.split(b"\r\n")
    assert status.partition(b" ")[2] == b"200 OK"
    headers = dict(line.split(b": ", 1) for line in lines)
    assert headers.get(b"Connection") == connection
    assert headers[b"Content-Length"] == str(len(body)).encode()
    assert headers[b"Date"].endswith(b" GMT")
    assert number(body.decode()) == redis_server.count()
