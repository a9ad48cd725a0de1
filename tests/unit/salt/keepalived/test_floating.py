"""Of two edges that share an address: what keepalived is told, what it accepts, and that one edge has none of it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tests.unit.conftest import ROOT

# Of topology ha.
ADDRESS = "192.168.63.19"


@pytest.fixture(scope="module")
def edge(all_rendered: dict[Any, Any]) -> Any:
    return all_rendered["ha", "edge1"]


def test_adverts_go_to_the_other_edge_alone(edge: Any) -> None:
    text = edge.text("/etc/keepalived/keepalived.conf")
    assert "vrrp_version 3" in text
    peers = re.search(r"unicast_peer \{([^}]*)\}", text)
    assert peers and peers[1].split() == ["192.168.63.21"]
    assert "unicast_src_ip 192.168.63.20" in text
    assert f"{ADDRESS}/32 dev " in text


def test_the_firewall_and_its_guard_let_adverts_in_from_the_other_edge_alone(edge: Any) -> None:
    zone = edge.text("/etc/firewalld/zones/stack.xml")
    rules = re.findall(r'<source address="([^"]+)"/>\s+<protocol value="vrrp"/>', zone)
    assert rules == ["192.168.63.21"]
    guard = edge.text("/etc/firewalld/guard.nft")
    assert re.findall(r"(?m)^ +(.*meta l4proto 112.*)$", guard) == [
        "ip saddr 192.168.63.21 meta l4proto 112 accept"
    ]


def test_an_edge_alone_has_no_keepalived(all_rendered: dict[Any, Any]) -> None:
    for (topology, _), machine in all_rendered.items():
        if topology in ("dev", "prod"):
            assert not [path for path in machine.files if path.startswith("/etc/keepalived")]
            assert "l4proto 112" not in machine.text("/etc/firewalld/guard.nft")
            if "/etc/haproxy/haproxy.cfg" in machine.files:
                assert "peers edges" not in machine.text("/etc/haproxy/haproxy.cfg")


@pytest.mark.skipif(not shutil.which("keepalived"), reason="make tests-need installs keepalived")
def test_keepalived_accepts_it_and_refuses_what_is_wrong(edge: Any, tmp_path: Path) -> None:
    script = tmp_path / "check"
    script.write_text("#!/bin/sh\n", encoding="ascii")
    script.chmod(0o755)
    text = edge.text("/etc/keepalived/keepalived.conf")
    text = text.replace("/usr/local/sbin/address-check", "/bin/true")
    # This computer has none of the machine's interfaces.
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not others:
        pytest.skip("no network interface but lo")
    other = others[0]
    own = re.search(r"interface (\S+)", text)
    assert own
    good = text.replace(own[1], other)
    # Debian 12's takes whole seconds (os.yaml).
    good = re.sub(r"(interval|timeout) 0\.\d+", r"\1 1", good)

    def check(text: str) -> tuple[int, str]:
        path = tmp_path / "keepalived.conf"
        path.write_text(text, encoding="ascii")
        done = subprocess.run(
            ["sh", str(ROOT / "salt/keepalived/files/check"), str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = check(good)
    assert code == 0, said
    for wrong in ("priority 100", "advert_int 0.2", f"{ADDRESS}/32"):
        assert check(good.replace(wrong, wrong.split()[0] + " banana"))[0], wrong
    assert check(text)[0], "an interface that is not there"


def test_edges_share_what_they_count_and_take_a_reload_by_the_same_peers(edge: Any) -> None:
    text = edge.text("/etc/haproxy/haproxy.cfg")
    assert "localpeer edge1" in text
    assert "server edge2 192.168.63.21:8407 verifyhost edge2" in text
    assert "peers reload" not in text
    assert text.count("peers edges store") == 3


@pytest.mark.parametrize("drain", [1, 60])
def test_a_stop_lasts_as_long_as_requests_may_take_to_end(drain: int) -> None:
    """systemd would kill the handover in the middle, and cut everybody off."""
    unit = jinja2.Template((ROOT / "salt/keepalived/files/hardening.conf.j2").read_text())
    text = unit.render(keepalived={"drain_seconds": drain}, group={"units": ["x.service"]})
    (limit,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", text)
    # And until the other has the address: 3 s at most (files/floating-address.j2).
    assert int(limit) > drain + 3


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_a_check_asks_in_one_write_and_says_by_its_code_whether_the_answer_is_200(
    status: int, code: int
) -> None:
    """What a second write has waits 40 ms for the first one's acknowledgement, of the 250 that a check has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = ["perl", str(ROOT / "salt/keepalived/files/address-check")]
        command += [str(server.getsockname()[1]), "/answers"]
        with subprocess.Popen(command) as check:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1000) == b"GET /answers HTTP/1.0\r\n\r\n"
                connection.sendall(f"HTTP/1.1 {status} OK\r\n\r\n".encode())
            assert check.wait(60) == code


def test_a_check_of_a_port_that_nobody_has_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = ["perl", str(ROOT / "salt/keepalived/files/address-check"), str(port), "/answers"]
    assert subprocess.run(command, check=False).returncode == 1
