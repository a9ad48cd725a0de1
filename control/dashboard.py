"""
`make dashboard`: the monitor's pages, which are on its loopback only, on this computer's loopback.

A browser sends what any web page tells it to, also to loopback. So the tunnel ends in a socket that only
this process can open, and what comes over TCP is forwarded when it asks for a page of this very
address: a name of another site that leads here (DNS rebinding) and another site's page are refused,
and nothing but reading is there. Alertmanager, which answers any page, is not.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import shutil
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from email.message import Message
from pathlib import Path

from . import local_state
from .errors import OperationError
from .topology import Topology

# Prometheus' own port on the monitor, taken here too where it is free.
PORT = 9090
# What a request may bring along, and what of an answer is not passed on: of this connection alone, and
# what would let other sites in.
FORWARDED = ("Accept", "Accept-Encoding", "Accept-Language", "If-Modified-Since", "If-None-Match")
DROPPED = ("connection", "keep-alive", "transfer-encoding", "server", "date", "access-control-")
# Methods that read.
READING = ("GET", "HEAD")
# No other site may frame a page, or take it for a picture or a script of its own.
ADDED = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    # A page and what draws it are of one apply.
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def refusal(headers: Message, path: str, port: int) -> str:
    """Why a request is none of a person who opened a page at this address; '' when it is one."""
    addresses = (f"127.0.0.1:{port}", f"localhost:{port}")
    hosts = headers.get_all("Host", [])
    if len(hosts) != 1 or hosts[0] not in addresses or not path.startswith("/"):
        return f"this is http://{addresses[0]}, and no other name leads here"
    # Fetch Metadata (W3C): what the browser itself says of the page that asks; `none` is a person.
    site = headers.get("Sec-Fetch-Site", "none")
    if headers.get("Origin", f"http://{hosts[0]}") != f"http://{hosts[0]}" or site not in (
        "same-origin",
        "none",
    ):
        return "a page of another site asks; to open this one, type its address"
    return ""


class Unix(http.client.HTTPConnection):
    """HTTP over the socket at ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Gate(socketserver.ThreadingTCPServer):
    """Passes on to the socket at ``upstream`` what a person's browser asks of this address."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, upstream: Path) -> None:
        self.upstream = upstream
        super().__init__(("127.0.0.1", port), Request)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Request(http.server.BaseHTTPRequestHandler):
    server: Gate
    server_version, sys_version = "dashboard", ""
    timeout = 60

    def do_GET(self) -> None:
        if reason := refusal(self.headers, self.path, self.server.port):
            self.answer(403, f"{reason}\n".encode())
            return
        if self.command not in READING:
            self.answer(405, b"these pages are for reading\n")
            return
        upstream = Unix(self.server.upstream)
        kept = {name: value for name in FORWARDED if (value := self.headers.get(name))}
        try:
            upstream.request(self.command, self.path, headers=kept)
            response = upstream.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.answer(502, f"the monitor does not answer: {error}\n".encode())
            return
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.title() not in ADDED and not name.lower().startswith(DROPPED):
                self.send_header(name, value)
        self.finish_headers()
        # The browser that has gone in the middle of an answer.
        with contextlib.suppress(OSError), contextlib.closing(upstream):
            shutil.copyfileobj(response, self.wfile)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def answer(self, status: int, text: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.finish_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def finish_headers(self) -> None:
        for name, value in ADDED.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def open_gate(upstream: Path) -> Gate:
    """On :data:`PORT` of this host's loopback, or any that is free."""
    for port in (PORT, 0):
        with contextlib.suppress(OSError):
            return Gate(port, upstream)
    raise OperationError("no TCP port is free on this host")


def serve(topology: Topology, monitor: str) -> int:
    """A tunnel to the pages of machine ``monitor`` until Ctrl-C; its address on stdout. The exit code."""
    # `kill` and a terminal that is closed end it as Ctrl-C does, tunnel and all.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="dashboard-") as folder:
        upstream = Path(folder) / "prometheus"
        words = ["ssh", "-F", str(local_state.ssh_config(topology)), "-N"]
        # A connection of its own: the one that is kept open would outlive Ctrl-C, tunnel and all.
        words += ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
        words += ["-o", "ExitOnForwardFailure=yes", "-L", f"{upstream}:127.0.0.1:{PORT}"]
        tunnel = subprocess.Popen([*words, monitor], stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not is_reachable(upstream):
                if tunnel.poll() is not None or time.monotonic() > deadline:
                    raise OperationError(f"no tunnel to {monitor} (ssh's words are above)")
                time.sleep(0.1)
            with open_gate(upstream) as gate:
                threading.Thread(target=gate.serve_forever, daemon=True).start()
                print(f"http://127.0.0.1:{gate.port}/consoles/overview.html", flush=True)
                print(f"the tunnel to {monitor} is open until Ctrl-C", flush=True)
                return tunnel.wait()
        except KeyboardInterrupt:
            print("\nthe tunnel is closed")
            return 0
        finally:
            tunnel.terminate()
            tunnel.wait()


def is_reachable(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
    except OSError:
        return False
    return True
