"""A client behind a balancer is limited, logged and banned as itself, and who is no balancer is not believed.

Balancers and outsiders are network namespaces of this computer on the lab's bridge; their clients are addresses that
they name.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator

import pytest
from lab_machine import Lab, Outsider

# Asks for PATH so many times on one connection that begins as HOW says; prints what was answered, in order.
CLIENT = r"""
import ipaddress, socket, ssl, struct, sys
machine, how, client, path, count, *headers = sys.argv[1:]
first = b""
if how == "v1":
    first = f"PROXY TCP4 {client} {machine} 1111 443\r\n".encode()
if how == "v2":
    one = ipaddress.ip_address(client)
    other = socket.inet_aton(machine) if one.version == 4 else bytes(16)
    body = one.packed + other + struct.pack("!HH", 1111, 443)
    first = b"\r\n\r\n\0\r\nQUIT\n\x21" + (b"\x11" if one.version == 4 else b"\x21") + struct.pack("!H", len(body)) + body
statuses = []
request = "\r\n".join([f"GET /{path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()
try:
    with socket.create_connection((machine, 443), 5) as plain:
        plain.sendall(first)
        with ssl._create_unverified_context().wrap_socket(plain) as tls:
            tls.settimeout(10)
            answers = tls.makefile("rb")
            for _ in range(int(count)):
                tls.sendall(request)
                statuses.append(int(answers.readline().split(b" ")[1]))
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                answers.read(length)
except (OSError, IndexError):
    statuses.append(0)
print(statuses)
"""


class Balancer(Outsider):
    def ask(self, how: str, client: str, path: str = "healthz", count: int = 1) -> list[int]:
        """Statuses; 0: cut. ``how``: v1 or v2 of the PROXY protocol, or the header in which it names its client."""
        headers = {
            "X-Forwarded-For": [f"X-Forwarded-For: 203.0.113.1, {client}"],
            "Forwarded": [f'Forwarded: for=203.0.113.1, for="{client}";proto=https'],
        }.get(how, [])
        words = (self.lab.address, how, client, path, str(count), *headers)
        said = self.run(sys.executable, "-c", CLIENT, *words).stdout
        found = ast.literal_eval(said)
        assert isinstance(found, list)
        return found


@pytest.fixture(scope="module")
def balancers(lab: Lab) -> Iterator[dict[str, Balancer]]:
    """The machine with a balancer of each kind, and an outsider."""
    reason = Outsider.missing()
    if reason or lab.topology == "kitchen":
        pytest.skip(reason or "Test Kitchen's machine may be on another network")
    with (
        Balancer(lab, 1) as passes,
        Balancer(lab, 2) as ends,
        Balancer(lab, 3) as other,
        Balancer(lab, 4) as outsider,
    ):
        named = {
            "proxy_protocol": [passes.address],
            "forwarded_for": [ends.address],
            "forwarded": [f"{other.address}/32"],
        }
        # A limit that a flood is over on a busy machine too.
        limit = {"requests": 100}
        pillar = json.dumps({"haproxy": {"trusted_proxies": named, "limit": limit}})
        try:
            lab.apply(SLS="haproxy,fail2ban", PILLAR=pillar)
            assert "0 changed, 0 failed" in lab.apply(SLS="haproxy,fail2ban", PILLAR=pillar).stdout
            yield {
                "v1": passes,
                "v2": passes,
                "X-Forwarded-For": ends,
                "Forwarded": other,
                "outsider": outsider,
            }
        finally:
            lab.run("fail2ban-client unban --all")
            lab.apply(SLS="haproxy,fail2ban")
            assert lab.run("systemctl is-enabled haproxy-bans", check=False).strip() != "enabled"


def logged(lab: Lab, path: str) -> list[str]:
    """Clients of the requests for a path, as HAProxy's log has them once it has any."""
    found: list[str] = []

    def is_there() -> bool:
        lines = lab.run("journalctl -u haproxy -o cat --since -1h | grep '^{'").splitlines()
        requests = [json.loads(line) for line in lines]
        found[:] = [one["client_ip"] for one in requests if one.get("path") == f"/{path}"]
        return bool(found)

    lab.wait(f"a line about {path}", is_there)
    return found


def is_banned(lab: Lab, client: str) -> bool:
    return f":{client} " in lab.haproxy("show table banned")


@pytest.mark.differs("HAProxy 2.6, nftables 1.0.6")
def test_an_attacker_behind_a_balancer_is_banned_and_its_neighbour_is_not(
    lab: Lab, balancers: dict[str, Balancer]
) -> None:
    attackers = {
        "v1": "198.51.100.11",
        "v2": "198.51.100.12",
        "X-Forwarded-For": "198.51.100.13",
        "Forwarded": "198.51.100.14",
    }
    for how, client in attackers.items():
        balancer = balancers[how]
        assert set(balancer.ask(how, client, ".env", 7)) <= {403, 0}
        lab.wait(f"a ban, {how}", lambda client=client: is_banned(lab, client))  # type: ignore[misc]
        assert client in lab.run("fail2ban-client get haproxy-scan banned")
    # A HAProxy that is new has forgotten whom it is to refuse, and is told; a reloaded one has it from the old one.
    for step in ("true", "systemctl reload haproxy", "systemctl restart haproxy"):
        lab.run(step)
        lab.wait(
            f"serves after {step}", lambda: balancers["v1"].ask("v1", "198.51.100.21") == [200]
        )
        for how, client in attackers.items():
            lab.wait(f"banned after {step}", lambda client=client: is_banned(lab, client))  # type: ignore[misc]
            refused = [0] if how in ("v1", "v2") else [403]
            assert balancers[how].ask(how, client) == refused, (step, how)
            assert balancers[how].ask(how, client.replace(".1", ".2", 1)) == [200], (step, how)
    for balancer in balancers.values():
        assert balancer.address not in lab.run("fail2ban-client banned")
        assert balancer.connects(443)
    lab.run("fail2ban-client unban --all")
    for how, client in attackers.items():
        lab.wait("no ban", lambda client=client: not is_banned(lab, client))  # type: ignore[misc]
        assert balancers[how].ask(how, client) == [200], how


@pytest.mark.one_release
def test_a_flood_behind_a_balancer_is_one_clients(lab: Lab, balancers: dict[str, Balancer]) -> None:
    for how, client in (("v2", "198.51.100.31"), ("X-Forwarded-For", "198.51.100.32")):
        statuses = balancers[how].ask(how, client, count=800)
        assert statuses.count(200) <= 500 and statuses.count(429) >= 200, how
        assert balancers[how].ask(how, "198.51.100.33") == [200], "its neighbour"
        lab.wait("a ban", lambda client=client: is_banned(lab, client))  # type: ignore[misc]
    assert balancers["v1"].address not in lab.run("fail2ban-client banned")


@pytest.mark.differs("HAProxy 2.6")
def test_a_forged_header_from_outside_changes_nothing(
    lab: Lab, balancers: dict[str, Balancer]
) -> None:
    outsider = balancers["outsider"]
    forged = "198.51.100.41"
    for how in ("X-Forwarded-For", "Forwarded"):
        assert outsider.ask(how, forged, f"healthz/{how}") == [404]
        assert logged(lab, f"healthz/{how}") == [outsider.address]
        # A balancer is believed by the header that it writes; the other one is its client's word.
        other = {"X-Forwarded-For": "Forwarded", "Forwarded": "X-Forwarded-For"}[how]
        assert balancers[other].ask(how, forged, f"healthz/{how}/other") == [404]
        assert logged(lab, f"healthz/{how}/other") == [balancers[other].address]
        # So is one whose connections begin with a PROXY header.
    for version in ("v1", "v2"):
        assert outsider.ask(version, forged) == [0]
        assert balancers["X-Forwarded-For"].ask(version, forged) == [0]
        assert balancers[version].ask(version, "198.51.100.42", f"healthz/{version}") == [404]
        assert logged(lab, f"healthz/{version}") == ["198.51.100.42"]
    assert balancers["v1"].ask("-", "-") == [0], "without its header a balancer is not served"
    for _ in range(7):
        outsider.ask("X-Forwarded-For", forged, ".env")
    lab.wait("a ban", lambda: outsider.address in lab.run("fail2ban-client banned"))
    assert forged not in lab.run("fail2ban-client banned")
    lab.run("fail2ban-client unban --all")
