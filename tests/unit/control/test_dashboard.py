"""What a browser can make of `make dashboard`: a person's reads the pages, another site's page gets nothing."""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from control import dashboard


class Monitor(socketserver.ThreadingUnixStreamServer):
    """Stands in for Prometheus behind the tunnel, and answers as one that lets any site in."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        super().__init__(str(path), Answer)


class Answer(http.server.BaseHTTPRequestHandler):
    server: Monitor

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"figures")

    do_POST = do_PUT = do_DELETE = do_OPTIONS = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "tunnel"


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with Monitor(tmp_path / "m") as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def gate(tmp_path: Path, monitor: Monitor) -> Iterator[dashboard.Gate]:
    with dashboard.Gate(0, tmp_path / "m") as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def send(gate: dashboard.Gate, text: str) -> tuple[int, str]:
    """Status and the whole answer; `PORT` stands for the gate's."""
    with socket.create_connection(("127.0.0.1", gate.port), 10) as connection:
        connection.sendall(text.replace("PORT", str(gate.port)).replace("\n", "\r\n").encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split()[1]), answer.decode()


HOST = "Host: 127.0.0.1:PORT\n"


@pytest.mark.parametrize(
    "headers",
    [
        HOST,
        "Host: localhost:PORT\n",
        f"{HOST}Sec-Fetch-Site: none\nSec-Fetch-Mode: navigate\n",
        f"{HOST}Sec-Fetch-Site: same-origin\nOrigin: http://127.0.0.1:PORT\n",
    ],
)
def test_a_person_reads_a_page_that_no_site_may_frame_or_read(
    gate: dashboard.Gate, headers: str
) -> None:
    status, answer = send(gate, f"GET /api/v1/query?query=up HTTP/1.1\n{headers}\n")
    assert (status, answer[-7:]) == (200, "figures")
    assert "access-control" not in answer.lower()
    assert "frame-ancestors 'none'" in answer


@pytest.mark.parametrize(
    "request_",
    [
        f"GET /x HTTP/1.1\n{HOST}Origin: https://evil.example\n",
        f"GET /x HTTP/1.1\n{HOST}Origin: null\n",
        f"GET /x HTTP/1.1\n{HOST}Origin: http://localhost:PORT\n",
        # A picture, a script, a frame, a link: no Origin.
        f"GET /x HTTP/1.1\n{HOST}Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\n",
        f"GET /x HTTP/1.1\n{HOST}Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\n",
        # Another server on this computer's loopback.
        f"GET /x HTTP/1.1\n{HOST}Sec-Fetch-Site: same-site\n",
        # DNS rebinding: a name that now leads here.
        "GET /x HTTP/1.1\nHost: evil.example:PORT\nOrigin: http://evil.example:PORT\nSec-Fetch-Site: same-origin\n",
        "GET /x HTTP/1.1\nHost: 127.0.0.1.evil.example:PORT\n",
        "GET /x HTTP/1.1\nHost: 127.0.0.1\n",
        "GET /x HTTP/1.1\nHost: 127.0.0.1:PORT\nHost: evil.example\n",
        "GET /x HTTP/1.0\n",
        f"GET http://127.0.0.1:9093/x HTTP/1.1\n{HOST}",
        # What needs no preflight, what does, and the preflight.
        f"POST /api/v2/silences HTTP/1.1\n{HOST}Content-Type: text/plain\nContent-Length: 0\n",
        f"PUT /x HTTP/1.1\n{HOST}Content-Length: 0\n",
        f"DELETE /x HTTP/1.1\n{HOST}",
        f"OPTIONS /x HTTP/1.1\n{HOST}Access-Control-Request-Method: POST\n",
        f"HEAD /x HTTP/1.1\n{HOST}Origin: https://evil.example\n",
        f"FROB /x HTTP/1.1\n{HOST}",
    ],
)
def test_what_another_sites_page_sends_never_reaches_the_monitor(
    gate: dashboard.Gate, monitor: Monitor, request_: str
) -> None:
    status, answer = send(gate, f"{request_}\n")
    assert status in (403, 405, 501), answer
    assert "access-control" not in answer.lower()
    assert monitor.asked == []


def test_a_monitor_that_is_away_is_said(gate: dashboard.Gate, tmp_path: Path) -> None:
    (tmp_path / "m").unlink()
    assert send(gate, f"GET / HTTP/1.1\n{HOST}\n")[0] == 502
