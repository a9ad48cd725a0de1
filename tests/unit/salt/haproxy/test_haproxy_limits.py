"""What one client gets of HAProxy, and what is logged of what it does not get: the machine's own
configuration, run by this computer's HAProxy. Clients are loopback addresses, none of them trusted."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CONTEXT = ssl._create_unverified_context()
GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Proxy:
    def __init__(self, ports: dict[str, int], log: Path) -> None:
        self.ports, self.log = ports, log

    def connect(self, source: str = "127.0.0.1", port: str = "https") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[port]), 10, (source, 0))

    def status(self, path: bytes = b"/", source: str = "127.0.0.1") -> int:
        """Of a GET on a connection of its own; 0 when it was cut."""
        try:
            with self.connect(source) as plain, CONTEXT.wrap_socket(plain) as client:
                client.sendall(GET % path)
                return int(client.recv(4096).split(b" ")[1])
        except (OSError, IndexError):
            return 0

    def statuses(self, count: int, path: bytes = b"/", source: str = "127.0.0.1") -> list[int]:
        """Of so many GETs on one connection."""
        with self.connect(source) as plain, CONTEXT.wrap_socket(plain) as client:
            answers, found = client.makefile("rb"), []
            for _ in range(count):
                client.sendall(GET % path)
                found.append(int(answers.readline().split(b" ")[1]))
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                answers.read(length)
        return found

    def lines(self) -> list[tuple[int, dict[str, Any]]]:
        """Priority and fields of what it has logged of clients."""
        found = re.findall(r"(?m)^<(\d)>(\{.*\})$", self.log.read_text(encoding="utf-8"))
        return [(int(priority), json.loads(text)) for priority, text in found]

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 120
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what}: {self.lines()[-5:]}"
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def running(text: str, ports: dict[str, int], folder: Path) -> Iterator[Proxy]:
    """This computer's HAProxy on a configuration in ``folder``; it logs to a file there."""
    (folder / "haproxy.cfg").write_text(text)
    out = folder / "log"
    with open(out, "wb") as file:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], stdout=file, stderr=file
        )
    found = Proxy(ports, out)
    try:

        def up() -> bool:
            assert process.poll() is None, out.read_text()
            with contextlib.suppress(OSError), found.connect(port="admin"):
                return True
            return False

        found.wait("it listens", up)
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def proxy(
    request: pytest.FixtureRequest, tmp_path: Path, all_rendered: dict[Any, Any], load_source: Any
) -> Iterator[Proxy]:
    version = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    name = "dev12" if re.search(r"version 2\.[0-8]\.", version) else "dev"
    machine = all_rendered[name, name]
    text = machine.text("/etc/haproxy/haproxy.cfg")
    for path in machine.files:
        if path.startswith("/etc/haproxy/"):
            beside = tmp_path / Path(path).relative_to("/etc/haproxy")
            beside.parent.mkdir(exist_ok=True)
            beside.write_bytes(machine.data(path))
    pki = load_source("salt/_utils/certificates.py")
    certificate, key = pki.issue(*pki.make_ca("one", 30), "edge1", ["127.0.0.1"], 20)
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls/site.pem").write_text(certificate + key)
    ports = {name: free_port() for name in ("http", "https", "admin", "peers")}
    text = re.sub(r"(?m)^    bind \[::\].*\n", "", text)
    for old, new in {
        "bind :80\n": f"bind 127.0.0.1:{ports['http']}\n",
        "bind :443 ": f"bind 127.0.0.1:{ports['https']} ",
        "bind 127.0.0.1:8405": f"bind 127.0.0.1:{ports['admin']}",
        "bind 127.0.0.1:8406": f"bind 127.0.0.1:{ports['peers']}",
        "/etc/haproxy/tls": str(tmp_path / "tls"),
        "/run/haproxy-admin": str(tmp_path),
        "src 127.0.0.0/8 ::1 ": "src ",
        **getattr(request, "param", {}),
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    with running(text, ports, tmp_path) as found:
        yield found


LARGE = {"gt 8192 }": "gt 20000000 }"}
LONG, MANY = "X-Long: {0:x<8950}\r\n", "".join(f"x{n}: {{0:y<80}}\r\n" for n in range(90))


@pytest.mark.parametrize("proxy", [{}, LARGE], indirect=True, ids=["small", "large"])
def test_no_head_is_so_long_that_a_body_without_a_length_has_no_limit(proxy: Proxy) -> None:
    """Head and body share a buffer: what a long head left of it was less than any limit."""

    def answer(head: str, length: int, is_whole: bool = False) -> int:
        """Of so much in small chunks, whole or with more to come; of that what a buffer holds, or it is cut in the middle."""
        start = f"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{head.format('')}\r\n"
        # HAProxy knows the size of a chunk that has begun.
        body = f"1f4\r\n{'x' * 500}\r\n" * (length // 500)
        text = f"{start}{body}0\r\n\r\n" if is_whole else f"{start}{body}"[:16384]
        with proxy.connect() as plain, CONTEXT.wrap_socket(plain) as client:
            client.sendall(text.encode())
            return int(client.recv(4096).split(b" ")[1])

    is_large = "20000000" in (proxy.log.parent / "haproxy.cfg").read_text(encoding="utf-8")
    # Without a server an accepted one is answered 503.
    for head in ("", LONG, MANY, "Content-Length: 5\r\n", "X-Long: {0:x<2000}\r\n"):
        assert answer(head, 1000, is_whole=True) == 503, head
        assert answer(head, 40000) in ((411,) if is_large else (411, 413)), head
    # So long that what is left of the buffer is less than the limit.
    assert answer("", 9000, is_whole=True) == (503 if is_large else 413)
    assert answer(LONG, 40000) == 411


def test_of_a_flood_few_lines_are_logged_with_its_number(proxy: Proxy) -> None:
    """Logged each, a flood from one client filled the disk and turned the journal over."""
    statuses = proxy.statuses(890)
    assert statuses.count(429) >= 380
    refused = [line for priority, line in proxy.lines() if line["status"] == 429 and priority == 4]
    assert 2 <= len(refused) <= 8, len(refused)
    floods = [line for line in refused if line["flood"] == "1"]
    assert floods and all(int(line["refused"]) >= 200 for line in floods)
    assert {line["flood"] for line in refused} == {"-", "1"}


def test_who_goes_on_with_a_flood_costs_no_handshake(proxy: Proxy) -> None:
    """Until fail2ban has read of it, a second or more, it took the others' time."""
    with pytest.raises((OSError, IndexError)):
        proxy.statuses(1000)
    assert proxy.status() == 0, "cut before TLS"
    assert proxy.status(source="127.0.0.2") == 503, "others are served, were there a server"


def test_scans_beyond_the_limit_are_logged_no_more_than_a_flood(proxy: Proxy) -> None:
    """They were answered before they were counted, and logged each."""
    assert set(proxy.statuses(890, b"/.env")) == {403}

    def logged() -> int:
        return len(
            [line for priority, line in proxy.lines() if line["status"] == 403 and priority == 4]
        )

    proxy.wait("the lines of what is within the limit", lambda: logged() >= 500)
    assert logged() <= 520


def test_a_request_that_fails_is_no_warning(proxy: Proxy) -> None:
    """The jails read warnings: a list that must be short when the application is unreachable."""
    assert proxy.statuses(3, b"/nothing") == [503] * 3
    proxy.wait("their lines", lambda: len(proxy.lines()) == 3)
    assert [(priority, line["status"]) for priority, line in proxy.lines()] == [(6, 503)] * 3


@pytest.mark.parametrize("port", ["http", "https"])
def test_cut_connections_are_told_of_with_their_number(proxy: Proxy, port: str) -> None:
    """Nothing was logged of them and nobody banned."""
    held = [proxy.connect(port=port) for _ in range(200)]
    proxy.wait("all are held", lambda: proxy.status(source="127.0.1.1"))
    for _ in range(150):
        with contextlib.suppress(OSError), proxy.connect(port=port) as more:
            more.sendall(b"\x16\x03\x01")
            more.recv(1)
    cut = [
        line for _, line in proxy.lines() if line.get("connection_error") and line["refused"] != "-"
    ]
    assert 2 <= len(cut) <= 8, cut
    assert [line for line in cut if line["flood"] == "1" and int(line["refused"]) >= 80]
    assert {(line["client_ip"], line["status"]) for line in cut} == {("127.0.0.1", 0)}
    for one in held:
        one.close()


def test_nobody_speaks_for_another_by_a_proxy_header(proxy: Proxy) -> None:
    """What is to be told of waits for one; an address that it claims is neither believed nor let in."""
    held = [proxy.connect() for _ in range(200)]
    answers = []
    for _ in range(6):
        with contextlib.suppress(OSError), proxy.connect() as more:
            more.sendall(b"PROXY TCP4 127.0.9.9 127.0.0.1 1 443\r\n")
            with CONTEXT.wrap_socket(more) as client:
                client.sendall(GET % b"/healthz")
                answers.append(client.recv(100))
    assert not any(answers)
    (first, *_) = proxy.wait("a line", proxy.lines)
    assert first[1]["client_ip"] == "127.0.0.1"
    assert "127.0.9.9" not in proxy.log.read_text()
    for one in held:
        one.close()


def test_a_network_of_many_clients_has_a_limit_too(proxy: Proxy) -> None:
    """One IPv6 host has 65,536 /64s in its /48: twenty of them filled every place."""
    held = []
    for number in range(10, 20):
        for _ in range(60):
            with contextlib.suppress(ConnectionResetError):
                held.append(proxy.connect(f"127.0.0.{number}"))
    assert proxy.status(source="127.0.0.99") == 0, "its network has had its share"
    assert proxy.status(source="127.0.1.1") == 503, "another one is served, were there a server"
    for one in held:
        one.close()


@pytest.mark.parametrize(
    "proxy", [{" 5s\n    # What never": " 500ms\n    # What never"}], indirect=True
)
def test_a_client_that_never_says_hello_is_cut_and_told_of(proxy: Proxy) -> None:
    """It was held for twenty seconds, and not logged."""
    with proxy.connect() as silent:
        assert silent.recv(1) == b""
    (line,) = proxy.wait("its line", lambda: [line for _, line in proxy.lines()])
    assert (line["status"], line["connection_error"]) == (0, "Timeout during SSL handshake")


def test_failed_handshakes_are_logged_so_often_and_then_cut(proxy: Proxy) -> None:
    """They were logged for ever, gigabytes a day from one address."""
    for _ in range(400):
        with contextlib.suppress(OSError), proxy.connect() as one:
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            one.recv(100)
    failed = [(priority, line) for priority, line in proxy.lines() if line.get("tls_error")]
    assert 100 <= len([line for _, line in failed if line["refused"] == "-"]) <= 125
    assert len(failed) <= 135
    assert {priority for priority, _ in failed} == {4}
    assert int(failed[-1][1]["failures"]) >= 100
    assert proxy.status(source="127.0.0.2") == 503, "others are served, were there a server"


@pytest.mark.parametrize("proxy", [{"maxconn 4000": "maxconn 40", "maxconn 1000": "maxconn 10",
                                    "maxconn 5100": "maxconn 150"}], indirect=True)  # fmt: skip
def test_metrics_are_seen_while_the_site_is_full(proxy: Proxy) -> None:
    held = [proxy.connect(f"127.0.{number}.1") for number in range(60)]
    with proxy.connect(port="admin") as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    for one in held:
        one.close()
