"""What HAProxy logs of what it refuses by itself, as the real one does with the machine's log formats."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The machine's own global log line and defaults; its frontends in small: one with TLS, one without.
CONFIG = """
global
    %(log)s

%(defaults)s

frontend plain
    bind unix@%(folder)s/plain
    http-request return status 200

frontend tls
    bind unix@%(folder)s/tls ssl crt %(folder)s/site.pem
    http-request return status 200
"""


class Proxy:
    """A running haproxy and what it has logged."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log

    def ask(self, data: bytes, listener: str = "plain") -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(self.folder / listener))
            client.sendall(data)
            return client.recv(4096)

    def logged(self, count: int) -> list[dict[str, Any]]:
        """Its first lines of JSON, once there are so many."""
        deadline = time.monotonic() + 120
        while True:
            found = [
                json.loads(line.partition(">")[2])
                for line in self.log.read_text(encoding="utf-8").splitlines()
                if re.match(r"<\d>\{", line)
            ]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} lines of {count}"
            time.sleep(0.02)


@pytest.fixture
def proxy(tmp_path: Path, all_rendered: dict[Any, Any], load_source: Any) -> Iterator[Proxy]:
    machine = all_rendered["dev", "dev"]
    text = machine.text("/etc/haproxy/haproxy.cfg")
    log = re.search(r"(?m)^    (log stdout .*)$", text)
    defaults = re.search(r"(?s)\ndefaults\n.*?\n(?=# ---|\S+ [^\n]*\n)", text)
    assert log
    assert defaults
    for path in machine.files:
        if path.startswith("/etc/haproxy/errors/"):
            target = tmp_path / "errors" / Path(path).name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(machine.data(path))
    pki = load_source("salt/_utils/certificates.py")
    certificate, key = pki.issue(*pki.make_ca("one", 30), "edge1", ["127.0.0.1"], 20)
    (tmp_path / "site.pem").write_text(certificate + key)
    # What is too slow is told after 5 s on a machine.
    given = re.sub(r"timeout http-request .*", "timeout http-request 200ms", defaults[0])
    given = given.replace(" errors/", f" {tmp_path}/errors/")
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG % {"log": log[1], "defaults": given, "folder": tmp_path})
    out = tmp_path / "log"
    with open(out, "wb") as file:
        process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "tls").exists():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Proxy(tmp_path, out)
    finally:
        process.kill()
        process.wait()


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "termination"),
    [
        (HEAD + b"Cookie: " + b"a" * 15_500 + b"\r\n\r\n", 400, "PR"),
        (HEAD + b"Cookie: " + b"a" * 40_000 + b"\r\n\r\n", 400, "PR"),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(102)) + b"\r\n", 400, "PR"),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400, "PR"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "PR"),
        (HEAD, 408, "cR"),
    ],
    ids=["long cookie", "longer cookie", "many headers", "no http", "two lengths", "too slow"],
)
def test_a_request_that_haproxy_refuses_is_logged_with_its_status_and_reason(
    proxy: Proxy, request_: bytes, status: int, termination: str
) -> None:
    assert proxy.ask(request_).startswith(b"HTTP/1.1 %d " % status)
    (line,) = proxy.logged(1)
    assert (line["status"], line["termination"]) == (status, termination)
    assert line["connection_error"] == "-"
    assert "Success" not in json.dumps(line)


def test_a_connection_that_failed_is_logged_with_its_error_and_no_status(proxy: Proxy) -> None:
    proxy.ask(HEAD + b"\r\n", "tls")
    (line,) = proxy.logged(1)
    assert line["status"] == 0
    assert line["connection_error"] == "SSL handshake failure"
    assert "http request" in line["tls_error"]


def test_a_request_that_is_answered_is_logged_as_one(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=None)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(proxy.folder / "tls"))
        with context.wrap_socket(plain) as client:
            client.sendall(HEAD + b"\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    (line,) = proxy.logged(1)
    assert line["status"] == 200
    assert "connection_error" not in line
