"""The checked load generator must notice every way in which a server can be wrong.

A small server on loopback misbehaves on purpose, over HTTP/1.1 and HTTP/2 alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h2")

import h2.config
import h2.connection
import h2.errors
import h2.events

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import checked_load
from checked_load import Result, Target, run_load, start_load


def hello(number: int) -> bytes:
    return b"Hello World! I have been seen %d times.\n" % number


def plain(body: bytes, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), extra, body)


class Counter:
    """What a server has counted, and how it answers the request with a given number."""

    def __init__(self) -> None:
        self.count = 0
        self.connections = 0

    def next(self) -> int:
        self.count += 1
        return self.count


# An HTTP/1.1 fault: given the count, the bytes to send and whether to close afterwards.
Fault = Callable[[int], tuple[bytes, bool]]


def honest(number: int) -> tuple[bytes, bool]:
    return plain(hello(number)), False


@contextlib.asynccontextmanager
async def http1_server(respond: Fault, counter: Counter | None = None) -> AsyncIterator[str]:
    counter = counter or Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counter.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                data, close = respond(counter.next())
                writer.write(data)
                await writer.drain()
                if close:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def load_http1(respond: Fault, counter: Counter | None = None, **options: Any) -> Result:
    async def main() -> Result:
        async with http1_server(respond, counter) as url:
            return await run_load(url, **{"requests": 50, "concurrency": 4, **options})

    return asyncio.run(main())


# --- an honest server passes, in every mode -----------------------------------------------------


@pytest.mark.parametrize("mode", ["keepalive", "close"])
def test_honest_server_passes(mode: str) -> None:
    result = load_http1(lambda n: (plain(hello(n)), mode == "close"), mode=mode)
    assert result.exact, result.summary()
    assert (result.sent, result.ok, result.first, result.last) == (50, 50, 1, 50)
    assert result.connections == (4 if mode == "keepalive" else 50)
    assert result.statuses == {200: 50}


def test_chunked_answers_and_interim_answers_are_read_exactly() -> None:
    def respond(number: int) -> tuple[bytes, bool]:
        body = hello(number)
        pieces = (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"%x;ext=1\r\n%s\r\n" % (7, body[:7]),
            b"%X\r\n%s\r\n" % (len(body) - 7, body[7:]),
            b"0\r\nTrailer: x\r\n\r\n",
        )
        return b"".join(pieces), False

    result = load_http1(respond)
    assert result.exact, result.summary()
    assert result.connections == 4


def test_connection_close_is_honoured() -> None:
    counter = Counter()
    result = load_http1(lambda n: (plain(hello(n), extra=b"Connection: close\r\n"), True), counter)
    assert result.exact, result.summary()
    assert counter.connections == 50
    assert result.idle_closes == 0


def test_keepalive_connection_closed_while_idle_is_replaced_without_an_error() -> None:
    # The server closes after each answer and never said so; the client is slow enough to see it.
    result = load_http1(lambda n: (plain(hello(n)), True), requests=10, concurrency=1, rate=50)
    assert result.exact, result.summary()
    assert result.idle_closes == 9


def test_an_overloaded_run_is_bounded_by_rate() -> None:
    result = load_http1(honest, requests=20, rate=100)
    assert result.exact
    assert result.duration >= 0.18


# --- each fault is found ------------------------------------------------------------------------


def test_duplicate_number_is_found() -> None:
    result = load_http1(lambda n: honest(n if n != 30 else 29))
    assert result.duplicates == [29]
    assert not result.unique
    assert not result.exact


def test_missing_number_is_found_but_allowed_when_others_count_too() -> None:
    result = load_http1(lambda n: honest(n if n < 30 else n + 3))
    assert result.missing_count == 3
    assert result.missing() == [30, 31, 32]
    assert result.unique
    assert not result.exact


@pytest.mark.parametrize(
    "body",
    [
        b"Hello World! I have been seen 7 times.",
        b"Hello World! I have been seen 7 times.\n\n",
        b" Hello World! I have been seen 7 times.\n",
        b"Hello World! I have been seen seven times.\n",
        b"Hello World! I have been seen -7 times.\n",
        b"",
    ],
)
def test_wrong_text_is_found(body: bytes) -> None:
    result = load_http1(lambda n: (plain(body), False) if n == 7 else honest(n))
    assert result.error_kinds == {"body": 1}
    assert not result.exact


def test_wrong_status_is_found_even_with_the_right_text() -> None:
    result = load_http1(lambda n: (plain(hello(n), b"503 No"), False) if n == 9 else honest(n))
    assert result.error_kinds == {"status": 1}
    assert result.statuses == {200: 49, 503: 1}


def test_close_before_the_answer_is_an_error_and_never_sent_again() -> None:
    counter = Counter()
    result = load_http1(lambda n: (b"", True) if n == 20 else honest(n), counter)
    assert result.error_kinds == {"closed": 1}
    assert result.sent == counter.count == 50
    assert result.missing() == [20]


def test_close_before_the_answer_on_a_fresh_connection_is_an_error() -> None:
    result = load_http1(lambda n: (b"", True), mode="close", requests=5)
    assert result.error_kinds == {"closed": 5}


def test_cut_answer_is_an_error() -> None:
    result = load_http1(lambda n: (plain(hello(n))[:-3], True) if n == 20 else honest(n))
    assert result.error_kinds == {"closed": 1}


def test_cut_chunked_answer_is_an_error() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def respond(number: int) -> tuple[bytes, bool]:
        body = hello(number)
        return head + b"%x\r\n%s\r\n" % (len(body), body), True  # no last chunk

    assert load_http1(respond, requests=3).error_kinds == {"closed": 3}


@pytest.mark.parametrize(
    "garbage",
    [
        b"NOT HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_an_error(garbage: bytes) -> None:
    result = load_http1(lambda n: (garbage, True), requests=2, concurrency=1)
    assert result.error_kinds == {"protocol": 2}


def test_surplus_bytes_do_not_pass_as_the_next_answer() -> None:
    # Two answers to one request: the second must not be taken for the next request's.
    result = load_http1(lambda n: (plain(hello(n)) * 2, False), requests=10, concurrency=1)
    assert not result.exact


def test_silence_is_an_error() -> None:
    result = load_http1(lambda n: (b"", n != 5), requests=1, concurrency=1, timeout=0.2, mode="h2")
    assert result.error_count == 1
    counter = Counter()
    quiet = load_http1(lambda n: (b"", False), counter, requests=2, concurrency=1, timeout=0.2)
    assert quiet.error_kinds == {"timeout": 2}
    assert counter.count == 2


def test_nobody_listening_is_an_error() -> None:
    async def main() -> Result:
        async with http1_server(honest) as url:
            pass
        return await run_load(url, requests=3, concurrency=1)

    result = asyncio.run(main())
    assert result.error_kinds == {"connect": 3}


def test_no_request_at_all_proves_nothing() -> None:
    assert not Result().exact
    assert not load_http1(honest, requests=0).exact


# --- HTTP/2 -------------------------------------------------------------------------------------

# What an HTTP/2 server does with one request; returns True once it is dealt with.
H2Fault = Callable[["H2Server", int], bool]


class H2Server:
    """One connection of a small HTTP/2 server, prior knowledge."""

    def __init__(self, counter: Counter, fault: H2Fault, writer: asyncio.StreamWriter) -> None:
        self.counter = counter
        self.fault = fault
        self.writer = writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.gone = False
        self.last = 0
        self.ended = False

    def answer(self, stream: int, number: int | None = None, body: bytes | None = None) -> None:
        body = hello(self.counter.next() if number is None else number) if body is None else body
        self.h2.send_headers(stream, [(":status", "200"), ("x-request-id", f"id{stream}")])
        self.h2.send_data(stream, body, end_stream=True)

    def goaway(self, last: int) -> None:
        """Say GOAWAY, but keep the connection (h2 itself would end it)."""
        self.flush()
        self.gone, self.last = True, last
        frame = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00"
        self.writer.write(frame + last.to_bytes(4, "big") + (0).to_bytes(4, "big"))

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def serve(self, reader: asyncio.StreamReader) -> None:
        self.counter.connections += 1
        self.h2.initiate_connection()
        self.flush()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for event in self.h2.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        stream = event.stream_id or 0
                        if self.gone and stream > self.last:
                            continue  # ignored, as announced
                        if not self.fault(self, stream):
                            self.answer(stream)
                self.flush()
                if self.writer.is_closing():
                    break
        self.ended = True
        self.writer.close()


def load_h2(fault: H2Fault, counter: Counter | None = None, **options: Any) -> Result:
    counter = counter or Counter()

    async def main() -> Result:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await H2Server(counter, fault, writer).serve(reader)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            defaults = {"requests": 200, "concurrency": 16, "mode": "h2", "timeout": 3.0}
            return await run_load(url, **{**defaults, **options})

    return asyncio.run(main())


def test_h2_honest_server_passes_with_many_streams_on_two_connections() -> None:
    result = load_h2(lambda server, stream: False, collect_ids=True)
    assert result.exact, result.summary()
    assert result.connections == 2
    assert result.request_ids is not None
    assert len(result.request_ids) == 200


def test_h2_duplicate_and_wrong_text_are_found() -> None:
    def repeat(server: H2Server, stream: int) -> bool:
        if server.counter.count == 50:
            server.answer(stream, number=50)
            server.counter.count += 1
            return True
        return False

    result = load_h2(repeat)
    assert result.duplicates == [50]

    def lie(server: H2Server, stream: int) -> bool:
        if server.counter.count == 50:
            server.counter.count += 1
            server.answer(stream, body=b"Hello\n")
            return True
        return False

    assert load_h2(lie).error_kinds == {"body": 1}


def test_h2_goaway_midway_loses_nothing_when_the_server_keeps_its_word() -> None:
    """Streams up to the last one are answered after GOAWAY, those above are sent again."""
    waiting: list[tuple[H2Server, int]] = []

    def leave(server: H2Server, stream: int) -> bool:
        if server.counter.connections <= 2 and stream == 21 and not server.gone:
            server.goaway(21)
            waiting.append((server, stream))
            loop = asyncio.get_running_loop()

            def late() -> None:
                server.answer(stream)
                server.flush()

            loop.call_later(0.05, late)
            return True
        return False

    counter = Counter()
    result = load_h2(leave, counter)
    assert result.exact, result.summary()
    assert waiting
    assert counter.count == 200
    assert counter.connections > 2


def test_h2_connection_is_closed_after_its_last_answer_when_told_to_go_away() -> None:
    """HAProxy waits for the client to close, so a handover would wait for it in vain, and cut."""
    told: list[H2Server] = []

    def leave(server: H2Server, stream: int) -> bool:
        loop = asyncio.get_running_loop()

        def late() -> None:
            # All the others' answers wait for the one connection to end.
            if server not in told and not told[0].ended:
                loop.call_later(0.02, late)
                return
            server.answer(stream)
            server.flush()

        if not told and stream == 21:
            told.append(server)
            server.goaway(21)
            loop.call_later(0.05, late)
            return True
        if told and server is not told[0]:
            late()
            return True
        return False

    result = load_h2(leave)
    assert told
    assert result.exact, result.summary()


def test_h2_goaway_that_breaks_its_word_is_an_error() -> None:
    """A stream at or below the last one that is never answered was perhaps counted."""

    def leave(server: H2Server, stream: int) -> bool:
        if server.counter.connections <= 2 and stream == 21 and not server.gone:
            server.counter.next()
            server.goaway(21)
            server.writer.close()
            return True
        return False

    result = load_h2(leave)
    assert result.error_kinds["closed"] >= 1
    assert result.missing_count >= 1


def test_h2_request_counted_although_goaway_refused_it_is_found() -> None:
    def leave(server: H2Server, stream: int) -> bool:
        if server.counter.connections <= 2 and stream == 21 and not server.gone:
            server.counter.next()  # counted, and yet below it says that it was not
            server.goaway(19)
            return True
        return False

    result = load_h2(leave)
    assert result.missing_count >= 1
    assert not result.exact


def test_h2_refused_stream_is_sent_again() -> None:
    refused: set[int] = set()

    def refuse(server: H2Server, stream: int) -> bool:
        if stream % 10 == 1 and len(refused) < 5:
            refused.add(id(server) + stream)
            server.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            return True
        return False

    result = load_h2(refuse)
    assert result.exact, result.summary()
    assert result.resent == len(refused) > 0


def test_h2_server_that_refuses_for_ever_is_an_error() -> None:
    def refuse(server: H2Server, stream: int) -> bool:
        server.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        return True

    result = load_h2(refuse, requests=1, concurrency=1, timeout=10.0)
    assert result.error_kinds == {"refused": 1}


def test_h2_other_reset_is_an_error_and_never_sent_again() -> None:
    def reset(server: H2Server, stream: int) -> bool:
        if server.counter.next() == 40:
            server.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        else:
            server.answer(stream, number=server.counter.count)
        return True

    counter = Counter()
    result = load_h2(reset, counter)
    assert result.error_kinds == {"reset": 1}
    assert counter.count == 200
    assert result.missing() == [40]


def test_h2_close_without_goaway_is_an_error() -> None:
    def slam(server: H2Server, stream: int) -> bool:
        if server.counter.next() == 40:
            server.writer.close()
            return True
        server.answer(stream, number=server.counter.count)
        return True

    result = load_h2(slam)
    assert result.error_kinds["closed"] >= 1
    assert not result.exact


# --- the handle and the command line ------------------------------------------------------------


def _serve_in_thread(respond: Fault) -> tuple[str, Callable[[], None]]:
    import threading

    ready = threading.Event()
    box: dict[str, Any] = {}

    async def main() -> None:
        box["stop"] = asyncio.Event()
        box["loop"] = asyncio.get_running_loop()
        async with http1_server(respond) as url:
            box["url"] = url
            ready.set()
            await box["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(5)

    def stop() -> None:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(5)

    return box["url"], stop


def test_handle_runs_until_stopped_and_hands_back_the_result() -> None:
    url, stop = _serve_in_thread(honest)
    load = start_load(url, concurrency=2)
    load.wait_for(100)
    result = load.stop()
    stop()
    assert result.exact, result.summary()
    assert result.ok == result.sent >= 100
    assert not load.running


def test_handle_raises_what_the_run_raised() -> None:
    with pytest.raises(ValueError, match="mode"):
        start_load("http://127.0.0.1:1/", mode="telepathy", requests=1).join(5)


@pytest.mark.parametrize(
    ("respond", "flags", "code"),
    [
        (honest, [], 0),
        (lambda n: honest(n if n != 9 else 8), [], 1),
        (lambda n: honest(n * 2), [], 1),
        (lambda n: honest(n * 2), ["--shared"], 0),
        (lambda n: honest(1), ["--shared"], 1),
        (lambda n: (plain(hello(n), b"500 No"), False), ["--shared"], 1),
        (honest, ["--ids"], 1),
    ],
    ids=["honest", "duplicate", "gaps", "gaps-shared", "same", "status", "no-request-id"],
)
def test_exit_code_is_zero_only_when_nothing_is_wrong(
    respond: Fault, flags: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    url, stop = _serve_in_thread(respond)
    got = checked_load.main([url, "--requests", "20", "--json", *flags])
    stop()
    report = json.loads(capsys.readouterr().out)
    assert got == code, report
    assert report["sent"] == 20


def test_wrong_usage_is_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert checked_load.main(["ftp://localhost/", "--requests", "1"]) == 2
    assert "absolute http" in capsys.readouterr().err


def test_connect_overrides_only_where_to_connect() -> None:
    target = Target.parse("https://counter.example/x?y=1", "[::1]:8443")
    assert (target.host, target.connect_host, target.connect_port) == (
        "counter.example",
        "::1",
        8443,
    )
    assert (target.path, target.authority) == ("/x?y=1", "counter.example")
