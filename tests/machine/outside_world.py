"""What a live system meets outside, stood in for on this computer: an authority, a bucket, somebody who is paged."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lab_machine import PATIENCE, ROOT

# Where Let's Encrypt is, as pillars name it.
AUTHORITY = ("acme-v02.api.letsencrypt.org", "acme-staging-v02.api.letsencrypt.org")
BUCKET = "counter-backups"
# Days; a public certificate's.
_VALID = 90
_ROOT_KEY = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=rehearsal -addext keyUsage=critical,keyCertSign -keyout root.key -out root.pem"
_REQUEST = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=outside -keyout both.key -out both.csr"
_SIGN = "x509 -req -in both.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile names -out both.pem"


def s3_python() -> Path:
    """Interpreter with moto, in an environment of its own."""
    python = ROOT / ".cache" / "s3" / "bin" / "python"
    if not (python.parent / ".whole").exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        lock = str(ROOT / "requirements" / "s3.lock")
        install = [str(python), str(ROOT / "bootstrap" / "install.py"), lock]
        subprocess.run(install, check=True, timeout=300)
        (python.parent / ".whole").touch()
    return python


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {PATIENCE} s")
        time.sleep(0.2)


@dataclass
class World:
    """``folder`` has root.pem, by which all of them are known, and browser.pem, by which the certificates that the
    authority gives are."""

    folder: Path
    address: str
    authority_port: int = 0
    names_port: int = 0
    s3_port: int = 0
    pager_port: int = 0
    # Names of alerts that woke somebody.
    paged: list[str] = field(default_factory=list)

    def lead_names_to(self, address: str) -> None:
        """Every name that the authority asks for leads to this address."""
        url = f"http://127.0.0.1:{self.names_port}/set-default-ipv4"
        data = json.dumps({"ip": address}).encode()
        with urllib.request.urlopen(url, data, timeout=10):
            """Answered."""


def _leaf(folder: Path, address: str) -> None:
    """Key and certificate for all of them, in one."""
    names = ",".join([f"IP:{address}", *(f"DNS:{name}" for name in AUTHORITY)])
    # Python 3.13 is strict about what a chain must say of itself.
    (folder / "names").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n")
    for words in (_ROOT_KEY, _REQUEST, _SIGN):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)


def _page(world: World) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fired = [one["labels"] for one in body["alerts"] if one["status"] == "firing"]
            world.paged += [one["alertname"] for one in fired if one["severity"] == "page"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer((world.address, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.folder / "both.pem", world.folder / "both.key")
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextlib.contextmanager
def around(folder: Path, address: str) -> Iterator[World]:
    """All of them, at ``address`` of this computer; what they keep is in ``folder``."""
    world = World(folder, address)
    _leaf(folder, address)
    trusted = ssl.create_default_context(cafile=str(folder / "root.pem"))
    with contextlib.ExitStack() as stack:

        def start(*words: str, **more: str) -> None:
            log = stack.enter_context(open(folder / f"{Path(words[0]).name}.log", "wb"))
            process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **more}
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        server = _page(world)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        world.pager_port = int(server.server_address[1])

        world.s3_port = free_port(address)
        key, certificate = str(folder / "both.key"), str(folder / "both.pem")
        moto = [str(s3_python()), "-m", "moto.server", "-H", address, "-p", str(world.s3_port)]
        start(*moto, "-c", certificate, "-k", key, PYTHONDONTWRITEBYTECODE="1")

        def has_bucket() -> bool:
            url = f"https://{address}:{world.s3_port}/{BUCKET}"
            request = urllib.request.Request(url, method="PUT")
            with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:
                return int(answer.status) == 200

        world.names_port, resolver = free_port("127.0.0.1"), free_port("127.0.0.1")
        names = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
        help = subprocess.run(
            ["pebble-challtestsrv", "-h"], capture_output=True, text=True, check=False
        )
        if "-doh" in help.stderr:
            names += ["-doh", ""]
        names += ["-dns01", f"127.0.0.1:{resolver}", "-management", f"127.0.0.1:{world.names_port}"]
        start("pebble-challtestsrv", *names)
        world.authority_port, management = free_port(address), free_port("127.0.0.1")
        settings = {
            "listenAddress": f"{address}:{world.authority_port}",
            "managementListenAddress": f"127.0.0.1:{management}",
            "certificate": certificate,
            "privateKey": key,
            "httpPort": 80,
            "tlsPort": 443,
            "certificateValidityPeriod": _VALID * 86400,
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        words = ["-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{resolver}"]
        start("pebble", *words, PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0")

        def has_root() -> bool:
            unchecked = ssl._create_unverified_context()
            url = f"https://127.0.0.1:{management}/roots/0"
            with urllib.request.urlopen(url, timeout=5, context=unchecked) as answer:
                public = Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
                (folder / "browser.pem").write_bytes(public + answer.read())
            return True

        wait_until("the bucket", has_bucket)
        wait_until("the authority", has_root)
        yield world
