"""Of an edge behind the topology's balancer: whom it believes, what it lets in, and what it answers the balancer's check."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import topology
from control.cloud import addresses
from tests.unit.conftest import RELEASE, ROOT, Rendered, ask_salt, prepare

ADDRESS, NETWORK = "198.51.100.7", "192.168.63.0/24"
CONFIGURATION = "/etc/haproxy/haproxy.cfg"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """An edge of topology `ha` as it is in a cloud."""
    tree = tmp_path_factory.mktemp("balanced") / "edge1"
    prepare(tree, {"topology": "ha", "name": "edge1", "release": RELEASE})
    given = addresses.read_for_cloud(topology.load("ha"), ADDRESS)
    (tree / "pillar/topologies/ha.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    (answer,) = ask_salt(tree, [["render everything", [], {}]])
    keys = ("low", "files", "status", "tree", "tunnels")
    return Rendered(given, "edge1", answer["top"]["base"], *(answer[key] for key in keys))


def test_nothing_floats_where_a_balancer_is(edge: Rendered) -> None:
    assert not [path for path in edge.files if "keepalived" in path or "floating" in path]
    assert not [one for one in edge.low if one["name"] == "keepalived"]
    assert "vrrp" not in edge.text("/etc/firewalld/zones/stack.xml")


def test_the_balancer_is_believed_and_let_in_and_nobody_else(edge: Rendered) -> None:
    text = edge.text(CONFIGURATION)
    expected = re.findall(r"expect-proxy layer4 if \{ src (.*) \}", text)
    assert expected == [NETWORK] * 2, "of both frontends"
    zone = edge.text("/etc/firewalld/zones/stack.xml")
    for port in ("80", "443", "8410"):
        rule = rf'<source address="{re.escape(NETWORK)}"/>\s+<port port="{port}" protocol="tcp"/>'
        assert re.search(rule, zone), port
        assert not re.search(rf'(?m)^  <port port="{port}"', zone), f"{port} is open to everybody"
    assert "/etc/systemd/system/haproxy-bans.service" in edge.files, "banned as who they are"


def test_clients_come_by_the_balancers_address(edge: Rendered) -> None:
    assert re.search(rf"(?m)^{ADDRESS} counter\.test$", json.dumps(edge.low).replace("\\n", "\n"))
    named = next(one for one in edge.low if one["name"] == "haproxy" and "made" in one)
    assert ADDRESS in named["made"]["site.files"]["addresses"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_it_leaves_the_balancer_before_it_stops(edge: Rendered) -> None:
    text = edge.text("/etc/systemd/system/haproxy.service.d/balancer.conf")
    assert re.search(r"ExecStop=/usr/local/libexec/haproxy-leave /run/haproxy-admin/admin.sock 10 \$MAINPID", text)  # fmt: skip
    assert "/usr/local/libexec/haproxy-leave" in edge.files
    assert edge.files["/usr/local/sbin/edge-ready"]["mode"] == 0o755


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Edge:
    """The edge's own HAProxy, with ports of ours and one application that is or is not there."""

    def __init__(self, process: subprocess.Popen[bytes], check: int, folder: Path) -> None:
        self.process, self.port = process, check
        self.admin, self.log = folder / "admin.sock", folder / "log"

    def ask(self, path: str, before: bytes = b"") -> int:
        """Status of the balancer's check; 0: nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as plain:
                plain.sendall(before + f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
                answer = http.client.HTTPResponse(plain)
                answer.begin()
                return answer.status
        except (OSError, http.client.HTTPException):
            return 0

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, (
                f"{what}: {self.log.read_text()}"
            )
            time.sleep(0.05)


@pytest.fixture
def running(edge: Rendered, tmp_path: Path, load_source: Any) -> Iterator[Edge]:
    if not shutil.which("haproxy"):
        pytest.skip("no haproxy on this computer")
    version = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    text = edge.text(CONFIGURATION)
    if re.search(r"version 2\.[0-8]\.", version):
        text = text.replace("timeout client-hs", "timeout client")
    for path in edge.files:
        if path.startswith("/etc/haproxy/"):
            beside = tmp_path / Path(path).relative_to("/etc/haproxy")
            beside.parent.mkdir(exist_ok=True)
            beside.write_bytes(edge.data(path))
    pki = load_source("salt/_utils/certificates.py")
    ca, ca_key = pki.make_ca("one", 30)
    certificate, key = pki.issue(ca, ca_key, "edge1", ["127.0.0.1"], 20)
    for name in ("tls/site.pem", "machine.crt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(certificate + key)
    (tmp_path / "machine-ca.crt").write_text(ca)
    check = free_port()
    text = re.sub(r"(?m)^    bind \[::\].*\n", "", text)
    text = re.sub(r"(?m)^    bind \S+:(80|443|8405|8406|8407)\b", lambda _: f"    bind 127.0.0.1:{free_port()}", text)  # fmt: skip
    # One server that is up, as it is not checked.
    text = re.sub(r"(?m)^    server app1-1 .*$", f"    server app1-1 127.0.0.1:{free_port()}", text)
    text = re.sub(r"(?m)^    server app2-1 .*\n", "", text)
    text = text.replace("default-server check", "default-server")
    text = text.replace(f"bind :{8410}\n", f"bind 127.0.0.1:{check}\n")
    text = text.replace("abns@haproxy-ready", f"abns@haproxy-test-{check}")
    text = text.replace("/etc/haproxy/tls", str(tmp_path / "tls"))
    text = text.replace("/etc/stack/pki/", f"{tmp_path}/").replace("/run/haproxy-admin", str(tmp_path))  # fmt: skip
    (tmp_path / "haproxy.cfg").write_text(text)
    with open(tmp_path / "log", "wb") as file:
        words = ["haproxy", "-W", "-f", str(tmp_path / "haproxy.cfg")]
        process = subprocess.Popen(words, cwd=tmp_path, stdout=file, stderr=file)
    found = Edge(process, check, tmp_path)
    try:
        found.wait("it listens", lambda: found.ask("/ready") != 0)
        yield found
    finally:
        process.kill()
        process.wait()


def proxied(version: int) -> bytes:
    if version == 1:
        return b"PROXY TCP4 10.0.0.9 10.0.0.2 1111 8410\r\n"
    body = socket.inet_aton("10.0.0.9") + socket.inet_aton("10.0.0.2") + struct.pack("!HH", 1, 2)
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H", len(body)) + body


# A balancer's own connection, of nobody else: command LOCAL.
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def test_the_check_is_answered_with_a_header_and_without(running: Edge) -> None:
    """DigitalOcean's began with one from 2024 on where its connections do, and did not before."""
    for before in (b"", proxied(1), proxied(2), LOCAL):
        assert running.ask("/ready", before) == 200
        assert running.ask("/", before) == 404, "nothing else is there"


def test_an_edge_without_servers_is_not_ready(running: Edge) -> None:
    def tell(command: str) -> None:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(running.admin))
            admin.sendall(f"{command}\n".encode())
            admin.recv(1024)

    tell("disable server app/app1-1")
    running.wait("503", lambda: running.ask("/ready") == 503)
    tell("enable server app/app1-1")
    running.wait("200", lambda: running.ask("/ready") == 200)


def test_a_stop_refuses_the_check_first_and_then_lets_what_is_open_end(running: Edge) -> None:
    leave = ROOT / "salt/haproxy/files/leave.py"
    words = [sys.executable, str(leave), str(running.admin), "1", str(running.process.pid)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as leaving:
        assert leaving.stdout is not None
        assert "the balancer's check is refused: 1 s until" in leaving.stdout.readline()
        # Its second takes until it was seen.
        leaving.send_signal(signal.SIGSTOP)
        assert running.ask("/ready") == 0
        assert running.process.poll() is None, "it serves on meanwhile"
        leaving.send_signal(signal.SIGCONT)
        running.process.wait(60)
        assert leaving.wait(60) == 0
    # Nobody to wait for.
    words[-1] = str(running.process.pid)
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert "stopping at once" in done.stdout
