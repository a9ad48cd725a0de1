"""
Two edges that share one address, and one machine with all the rest. Made once for this file, of a topology of
its own, and removed at its end.

What is promised: clients find an edge by one address, whichever of the two fails, and no number is given twice; what
is done on purpose loses no request.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import networks
import pytest
import runbooks
from lab_machine import CHANGED, Machines, Outsider, made

pytestmark = [pytest.mark.one_release, pytest.mark.controller]

NAME = networks.named("edges")
EDGES = {"edge1": networks.address("edges", 1), "edge2": networks.address("edges", 2)}
FLOATING = networks.address("edges", 0)
MACHINES = {
    **{name: {"address": address, "roles": ["edge"]} for name, address in EDGES.items()},
    "core1": {"address": networks.address("edges", 3), "roles": ["app", "store", "monitor"]},
}
# Requests a second of a load that goes on while edges fail and converge.
RATE = 50
# Seconds between two adverts, and three of them with what a standby waits besides (keepalived's defaults).
ADVERT, DEAD = 0.2, 0.72
# For what is done on purpose: a computer that has thirty machines to run answers no check within a quarter of a second, and
# an edge that seems frozen loses its address, and requests with it. Faults are tried with the defaults.
CALM = {"keepalived": {"advert_interval": 1, "check": {"timeout": 3, "fall": 5}}}
# Seconds within which a fault is over on any machine, however busy: it bounds a wait, it is no claim.
AT_MOST = 20


class Edges(Machines):
    """The topology; the commands of :class:`Lab` go to its first edge."""

    def __init__(self) -> None:
        sizes = {"memory": 512, "cpus": 1}
        self.file = networks.write(
            NAME,
            {name: {**one, **sizes} for name, one in MACHINES.items()},
            floating_address=FLOATING,
        )
        super().__init__(NAME, "edge1")

    def count(self) -> int:
        return int(self.on("core1", "redis-admin GET counter:seen").strip() or 0)

    def owners(self) -> list[str]:
        """Edges that have the address now."""
        command = f"ip -o -4 addr show to {FLOATING}"
        return [edge for edge in EDGES if self.on(edge, command, check=False, timeout=120).strip()]

    def owner(self) -> str:
        (owner,) = self.owners()
        return owner

    def is_ready(self, edge: str) -> bool:
        """Whether it has the address or could take it, with all of its servers."""
        state = self.on(edge, "floating-address state", check=False, timeout=120)
        served = (
            "curl -s 'http://127.0.0.1:8405/;csv' | grep '^app,' | grep -v BACKEND | cut -d, -f18"
        )
        servers = self.on(edge, served, check=False, timeout=120).split()
        is_fit = state.startswith(("has ", "stands by "))
        return is_fit and bool(servers) and set(servers) == {"UP"}

    def settled(self) -> bool:
        return all(self.is_ready(edge) for edge in EDGES) and len(self.owners()) == 1


@pytest.fixture(scope="module")
def edges() -> Iterator[Edges]:
    machines = Edges()
    try:
        with made(machines):
            yield machines
    finally:
        networks.remove(machines.file)


@pytest.fixture(autouse=True)
def leave_it_well(edges: Edges) -> Iterator[None]:
    """In place of the one for single machines."""
    edges.wait("both edges ready, one with the address", edges.settled)
    yield


class Gap(threading.Thread):
    """Asks the floating address again and again over new connections, and notes the longest time without an answer."""

    def __init__(self, ca: str) -> None:
        super().__init__(daemon=True)
        self.context = ssl.create_default_context(cafile=ca)
        self.ended = threading.Event()
        self.longest = 0.0

    def ask(self) -> bool:
        connection = http.client.HTTPSConnection(FLOATING, timeout=0.25, context=self.context)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def run(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(0.02):
            if self.ask():
                self.longest = max(self.longest, time.monotonic() - last)
                last = time.monotonic()

    def __enter__(self) -> Gap:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


def exact(edges: Edges, before: int, result: Any) -> None:
    assert result.exact, result.summary()
    assert edges.count() == before + result.sent


# --- it is there ----------------------------------------------------------------------------------


def test_clients_have_one_address_and_status_says_which_edge_has_it(edges: Edges) -> None:
    assert edges.url == f"https://{FLOATING}/"
    assert edges.up_output.splitlines()[-1] == edges.url
    edges.wait_for_status()
    owner = edges.owner()
    said = edges.make("status").stdout
    assert re.search(rf"(?m)^{owner} +keepalived .* ok, has {re.escape(FLOATING)} ", said), said
    (other,) = set(EDGES) - {owner}
    assert re.search(rf"(?m)^{other} +keepalived .* ok, stands by for ", said), said


def test_commands_of_the_edges_runbooks_work(edges: Edges) -> None:
    """The other pages' are test_docs.py's, on a machine that is the only edge."""
    wrong = runbooks.failing(edges, runbooks.pages_of("keepalived"))
    assert wrong == [], "\n".join(wrong)


def test_both_edges_serve_the_same_certificate(edges: Edges) -> None:
    context = ssl.create_default_context(cafile=edges.ca)
    seen = set()
    for address in (*EDGES.values(), FLOATING):
        connection = http.client.HTTPSConnection(address, timeout=10, context=context)
        connection.connect()
        seen.add(connection.sock.getpeercert(binary_form=True))
        connection.close()
    assert len(seen) == 1


@pytest.mark.nightly("make test applies a change to both under load, and dev nothing")
def test_a_second_apply_changes_nothing(edges: Edges) -> None:
    assert edges.apply(SLS="firewalld,haproxy,keepalived").stdout.count(" 0 changed, 0 failed") == 3


def test_prometheus_asks_both_edges(edges: Edges) -> None:
    url = "http://127.0.0.1:9090/api/v1/query"

    def answers(query: str) -> dict[str, str]:
        said = edges.on("core1", f"curl -sG {url} --data-urlencode query@-", data=query)
        return {
            one["metric"]["machine"]: one["value"][1] for one in json.loads(said)["data"]["result"]
        }

    def as_it_is() -> bool:
        owner = edges.owner()
        return answers("collectd_keepalived_has_address") == {
            edge: str(int(edge == owner)) for edge in EDGES
        } and answers('up{job="haproxy"}') == dict.fromkeys(EDGES, "1")

    edges.wait("both edges measured", as_it_is)


# --- who is let in --------------------------------------------------------------------------------


# An advert of VRRP version 3 for router 51 with the highest priority (RFC 5798, 5.1), in a loop.
ADVERTS = """
import socket, struct, sys, time
own, floating, peers = sys.argv[1], sys.argv[2], sys.argv[3:]
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
raw.bind((own, 0))
raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
for _ in range(30):
    for peer in (*peers, "224.0.0.18"):
        body = struct.pack("!BBBBH", 0x31, 51, 254, 1, 20)
        addresses = socket.inet_aton(floating)
        pseudo = socket.inet_aton(own) + socket.inet_aton(peer) + struct.pack("!BBH", 0, 112, 12)
        summed = checksum(pseudo + body + b"\\0\\0" + addresses)
        raw.sendto(body + struct.pack("!H", summed) + addresses, (peer, 0))
    time.sleep(0.05)
"""


def test_adverts_of_an_outsider_change_nothing(edges: Edges) -> None:
    """They would have the address given up by who has it: 30 of them, in the time of seven of the edges' own."""
    owner = edges.owner()
    began = edges.on(owner, "date +@%s").strip()
    denied = {edge: int(edges.on(edge, "firewall-denied").split()[1]) for edge in EDGES}
    with Outsider(edges, 1) as outsider, Gap(edges.ca) as gap:
        words = ("python3", "-c", ADVERTS, outsider.address, FLOATING, *EDGES.values())
        said = outsider.run(*words)
        assert said.returncode == 0, said.stdout
    assert edges.owner() == owner
    assert edges.on(owner, f"journalctl -q -u keepalived -o cat --since {began}") == ""
    for edge, before in denied.items():
        now = int(edges.on(edge, "firewall-denied").split()[1])
        assert now >= before + 30, f"{edge} did not see them"
    print(f"longest time without an answer: {gap.longest:.2f} s")


def test_what_a_client_has_had_from_one_edge_the_other_knows(edges: Edges) -> None:
    """A table of requests by client, told from edge to edge over TLS; what is open at one is not the other's."""
    one, other = (f"https://{address}/healthz" for address in EDGES.values())
    ask = ("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code} ")
    with Outsider(edges, 2) as client:

        def refused_by_both() -> bool:
            # At once and side by side: the limit counts the last seconds, and a busy computer takes as long to ask HAProxy
            # for its table, or answers fewer than the limit in its period one after the other.
            flood = ("--parallel", "--parallel-max", "16", f"{one}?[1-510]")
            said = client.run(*ask, *flood).stdout
            there = client.run(*ask, other).stdout
            assert "429" in said, "the limit of one edge"
            return there == "429 "

        edges.wait(
            "the other edge, which was asked a few times, refuses it as well", refused_by_both
        )


# --- edges that fail --------------------------------------------------------------------------------


def kill_haproxy(edges: Edges, owner: str) -> None:
    edges.on(owner, "systemctl mask --runtime -q haproxy; systemctl kill -s KILL haproxy")


def start_haproxy(edges: Edges, owner: str) -> None:
    edges.on(owner, "systemctl unmask --runtime -q haproxy; systemctl start haproxy")


def freeze_haproxy(edges: Edges, owner: str) -> None:
    edges.on(owner, "systemctl kill -s STOP haproxy")


def thaw_haproxy(edges: Edges, owner: str) -> None:
    edges.on(owner, "systemctl kill -s CONT haproxy")


def power_off(edges: Edges, owner: str) -> None:
    edges.lxc("lxc-stop", owner, "--kill")


def power_on(edges: Edges, owner: str) -> None:
    edges.lxc("lxc-start", owner)


# What happens, how it ends, and how long keepalived's settings give it (README.md of the formula).
FAULTS: dict[str, tuple[Callable[..., None], Callable[..., None], float]] = {
    "haproxy killed for good": (kill_haproxy, start_haproxy, 2 * 0.2 + ADVERT),
    "haproxy frozen": (freeze_haproxy, thaw_haproxy, 0.2 + 2 * 0.25 + ADVERT),
    "machine powered off": (power_off, power_on, DEAD),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_address_moves_when_an_edge_fails_and_no_number_is_given_twice(
    edges: Edges, fault: str
) -> None:
    begin, end, expected = FAULTS[fault]
    owner = edges.owner()
    (other,) = set(EDGES) - {owner}
    with edges.under_load(mode="keepalive", rate=RATE) as load, Gap(edges.ca) as gap:
        try:
            begin(edges, owner)
            moved = f"ip -o -4 addr show to {FLOATING}"
            edges.wait("moved", lambda: edges.on(other, moved, check=False) != "", AT_MOST)
            load.wait_for(load.result.ok + 100, AT_MOST)
        finally:
            end(edges, owner)
    result = load.stop()
    print(f"{fault}: {gap.longest:.2f} s without an answer, {expected:.2f} s by the settings")
    assert not result.duplicates, result.summary()
    assert edges.count() >= result.last
    assert gap.longest < AT_MOST


def test_keepalived_that_is_killed_comes_back_and_leaves_no_second_address(edges: Edges) -> None:
    """Debian's unit would stay down, its address on the interface."""
    owner = edges.owner()
    edges.on(owner, "systemctl kill -s KILL keepalived")
    edges.wait("one edge has the address", lambda: len(edges.owners()) == 1)
    edges.wait("it runs again", lambda: edges.is_ready(owner))
    # While it takes the address back, or does not, there may be none or two for an advert's time.
    edges.wait("both are fit, and one has the address", edges.settled)


# --- on purpose -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calm(edges: Edges) -> Iterator[None]:
    edges.wait("both edges ready", edges.settled)
    edges.apply(SLS="keepalived", PILLAR=json.dumps(CALM))
    yield
    edges.apply(SLS="keepalived")


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("mode", ["keepalive", "h2"])
def test_the_address_is_moved_on_purpose_without_a_lost_request(edges: Edges, mode: str) -> None:
    before, owner = edges.count(), edges.owner()
    with edges.under_load(mode=mode, rate=RATE) as load, Gap(edges.ca) as gap:
        said = edges.make("failover", EDGE="1").stdout
        load.wait_for(load.result.ok + 100)
    (other,) = set(EDGES) - {owner}
    assert said == f"{FLOATING}: {owner} -> {other}\n"
    assert edges.owner() == other
    print(f"{gap.longest:.2f} s without an answer to a new connection")
    exact(edges, before, load.result)


@pytest.mark.usefixtures("calm")
@pytest.mark.timeout(600)
def test_both_edges_are_converged_one_after_the_other_without_a_lost_request(edges: Edges) -> None:
    before, owner = edges.count(), edges.owner()
    (other,) = set(EDGES) - {owner}
    with edges.under_load(mode="keepalive", rate=RATE) as load:
        changed = json.dumps(json.loads(CHANGED) | CALM)
        said = edges.apply(SLS="haproxy,keepalived", PILLAR=changed).stdout
        load.wait_for(load.result.ok + 100)
    exact(edges, before, load.result)
    assert said.index(f"==> {other}") < said.index(f"==> {owner}"), "the standby first"
    assert said.count(" 1 changed, 0 failed") == 2
    edges.apply(SLS="haproxy")


@pytest.mark.usefixtures("calm")
@pytest.mark.timeout(600)
@pytest.mark.nightly("once, on a crowded computer, 8 of 3,301 had no answer: docs/left.md")
def test_each_edge_is_rebooted_in_turn_without_a_lost_request(edges: Edges) -> None:
    before = edges.count()
    with edges.under_load(mode="keepalive", rate=RATE) as load:
        for edge in EDGES:
            boot = edges.on(edge, "cat /proc/sys/kernel/random/boot_id")
            edges.on(edge, "systemctl reboot", check=False)

            def is_back(edge: str = edge, boot: str = boot) -> bool:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    command = "cat /proc/sys/kernel/random/boot_id"
                    now = edges.on(edge, command, check=False, timeout=15)
                    return now not in ("", boot) and edges.settled()
                return False

            edges.wait(f"{edge} is back", is_back)
        load.wait_for(load.result.ok + 100)
    exact(edges, before, load.result)


@pytest.mark.usefixtures("calm")
def test_an_edge_stays_as_it_is_while_the_other_one_is_missing(edges: Edges) -> None:
    owner = edges.owner()
    (other,) = set(EDGES) - {owner}
    edges.on(other, "systemctl stop keepalived")
    try:
        refused = edges.apply(check=False, SLS="haproxy", HOST=owner, PILLAR=CHANGED)
        assert refused.returncode != 0
        assert (
            f"{owner}: left as it is: no other edge could serve meanwhile ({other}: keepalived"
            in (refused.stderr)
        )
        moved = edges.make("failover", EDGE="1", check=False)
        assert f"no other edge could take {FLOATING}" in moved.stderr
        assert edges.owner() == owner
    finally:
        edges.on(other, "systemctl start keepalived")


@pytest.mark.nightly("each alert takes a minute")
@pytest.mark.timeout(900)
def test_a_missing_standby_a_split_and_a_missing_address_are_alerted(edges: Edges) -> None:
    def firing(name: str) -> bool:
        query = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
        url = "http://127.0.0.1:9090/api/v1/query"
        said = edges.on("core1", f"curl -sG {url} --data-urlencode query@-", data=query)
        return bool(json.loads(said)["data"]["result"])

    owner = edges.owner()
    (other,) = set(EDGES) - {owner}
    try:
        edges.on(other, "systemctl stop keepalived")
        edges.wait("the standby is missed", lambda: firing("EdgeStandbyDown"), 240)
        edges.on(owner, "systemctl stop keepalived")
        edges.wait("the address is missed", lambda: firing("FloatingAddressMissing"), 240)
        edges.on(other, "systemctl start keepalived")
        edges.wait("one has it", lambda: edges.owners() == [other])
        # It keeps the address, and says nothing any more.
        edges.on(other, "systemctl kill -s STOP keepalived")
        edges.on(owner, "systemctl start keepalived")
        edges.wait("the split is seen", lambda: firing("EdgeSplit"), 240)
    finally:
        edges.on(other, "systemctl kill -s CONT keepalived; systemctl start keepalived")
        edges.on(owner, "systemctl start keepalived")
