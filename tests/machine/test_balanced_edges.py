"""
Two edges behind a balancer, as DigitalOcean's is before topology `ha`: a HAProxy of this computer that passes TCP on with a
PROXY header and asks each edge whether it is ready. Made once for this file and removed at its end.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import networks
import pytest
from lab_machine import CHANGED, Machines, Outsider, made

pytestmark = [
    pytest.mark.one_release,
    pytest.mark.controller,
    pytest.mark.nightly("three machines; what they are given is tested by tests/unit/test_balanced_edge.py"),
]  # fmt: skip

NAME = networks.named("balanced")
# The outsider that is the balancer.
NUMBER = 5
BALANCER = networks.with_octet(networks.outsider(NUMBER))
EDGES = {"edge1": networks.address("balanced", 0), "edge2": networks.address("balanced", 1)}
MACHINES = {
    **{name: {"address": address, "roles": ["edge"]} for name, address in EDGES.items()},
    "core1": {"address": networks.address("balanced", 2), "roles": ["app", "store", "monitor"]},
}
# As cloud/cloud.balancers.d has the check.
CONFIGURATION = """
global
    stats socket {folder}/admin.sock
defaults
    mode tcp
    timeout connect 3s
    timeout client 60s
    timeout server 60s
    timeout check 3s
    option httpchk GET /ready
listen http
    bind {address}:80
    {servers80}
listen https
    bind {address}:443
    {servers443}
"""


class Balanced(Machines):
    def __init__(self) -> None:
        sizes = {"memory": 512, "cpus": 1}
        self.file = networks.write(
            NAME,
            {name: {**one, **sizes} for name, one in MACHINES.items()},
            balancer={"address": BALANCER, "from": [f"{BALANCER}/32"]},
        )
        super().__init__(NAME, "edge1")

    def count(self) -> int:
        return int(self.on("core1", "redis-admin GET counter:seen").strip() or 0)


class Balancer(Outsider):
    """The network namespace in which it runs."""

    folder: Path

    def serve(self) -> subprocess.Popen[str]:
        servers = {
            f"servers{port}": "\n    ".join(
                f"server {name} {address}:{port} send-proxy-v2 check port 8410 check-send-proxy inter 3s fall 2 rise 2"
                for name, address in EDGES.items()
            )
            for port in (80, 443)
        }
        path = self.folder / "haproxy.cfg"
        path.write_text(CONFIGURATION.format(folder=self.folder, address=self.address, **servers))
        return self.start("haproxy", "-db", "-f", str(path))

    def up(self) -> set[str]:
        """Edges that it sends clients to."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.folder / "admin.sock"))
            admin.sendall(b"show stat\n")
            said = admin.makefile(encoding="utf-8").read()
        return set(re.findall(r"(?m)^https,(edge\d),(?:[^,]*,){15}UP,", said))


@pytest.fixture(scope="module")
def balanced() -> Iterator[Balanced]:
    if not shutil.which("haproxy"):
        pytest.skip("no haproxy on this computer to be the balancer")
    machines = Balanced()
    try:
        with made(machines):
            yield machines
    finally:
        networks.remove(machines.file)


@pytest.fixture(scope="module")
def balancer(balanced: Balanced, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with Balancer(balanced, NUMBER) as found:
        assert found.address == BALANCER
        found.folder = tmp_path_factory.mktemp("balancer")
        process = found.serve()
        balanced.wait("the balancer runs", (found.folder / "admin.sock").exists)
        try:
            yield found
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(autouse=True)
def leave_it_well(balanced: Balanced, balancer: Balancer) -> None:
    balanced.wait("both edges in the balancer", lambda: balancer.up() == set(EDGES), 120)


class Client(threading.Thread):
    """Asks through the balancer over new connections until it is ended; what it was answered."""

    def __init__(self, outsider: Outsider, ca: Path) -> None:
        super().__init__(daemon=True)
        self.outsider, self.ca = outsider, ca
        self.ended, self.seen = threading.Event(), list[str]()

    def ask(self) -> str:
        line = ["curl", "-sS", "--max-time", "10", "--cacert", str(self.ca), f"https://{BALANCER}/"]
        return self.outsider.run(*line).stdout.strip()

    def run(self) -> None:
        while not self.ended.is_set():
            self.seen.append(self.ask())

    def failed(self) -> list[str]:
        return [one for one in self.seen if not re.fullmatch(r"Hello World! I have been seen \d+ times\.", one)]  # fmt: skip


def test_clients_come_through_the_balancer_as_themselves_and_in_no_other_way(
    balanced: Balanced, balancer: Balancer
) -> None:
    assert balanced.up_output.strip().splitlines()[-1] == f"https://{BALANCER}/"
    assert "0 changed, 0 failed" in balanced.apply().stdout
    with Outsider(balanced, 6) as client:
        ca = balanced.state / "ca.pem"
        one = Client(client, ca)
        before = balanced.count()
        said = one.ask()
        assert said == f"Hello World! I have been seen {before + 1} times.", said
        seen: set[str] = set()

        def is_logged() -> bool:
            for edge in EDGES:
                lines = balanced.on(
                    edge, "journalctl -u haproxy -o cat --since -10min | grep '^{' || true"
                )
                requests = [json.loads(line) for line in lines.splitlines()]
                seen.update(one["client_ip"] for one in requests if one.get("path") == "/")
            return bool(seen)

        balanced.wait("a line about the request", is_logged)
        assert client.address in seen and BALANCER not in seen
        # Past the balancer nobody comes in, nor can say that it is another.
        for address in EDGES.values():
            for words in ((), ("--haproxy-protocol",)):
                line = [
                    "curl",
                    "-sk",
                    *words,
                    "--max-time",
                    "3",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                ]
                assert client.run(*line, f"https://{address}/readyz").stdout == "000"
            line = ["curl", "-s", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}"]
            assert client.run(*line, f"http://{address}:8410/ready").stdout == "000"
    for edge in EDGES:
        assert balanced.on(edge, "edge-ready").strip() == "ready"
        # The package may be there (tests/machine/layers.py), and does nothing.
        assert balanced.on(edge, "systemctl is-active keepalived", check=False).strip() != "active"
    refused = balanced.make("failover", check=False, EDGE="1")
    assert refused.returncode and "has a balancer, which uses every edge" in refused.stderr


def test_an_edge_that_is_stopped_leaves_the_balancer_without_a_lost_request(
    balanced: Balanced, balancer: Balancer
) -> None:
    with Outsider(balanced, 6) as outsider:
        client = Client(outsider, balanced.state / "ca.pem")
        before = balanced.count()
        client.start()
        try:
            for edge in EDGES:
                balanced.on(edge, "systemctl stop haproxy", timeout=120)
                said = balanced.on(edge, "edge-ready", check=False)
                assert said.strip() == "HAProxy does not answer the balancer"
                balanced.wait(
                    "it is out", lambda edge=edge: balancer.up() == set(EDGES) - {edge}, 60
                )  # type: ignore[misc]
                if edge == "edge1":
                    # The other one is all there is: nothing touches it.
                    done = balanced.apply(check=False, SLS="haproxy", HOST="edge2", PILLAR=CHANGED)
                    assert done.returncode and "no other edge could serve meanwhile" in done.stderr
                balanced.on(edge, "systemctl start haproxy")
                balanced.wait("it is back", lambda: balancer.up() == set(EDGES), 60)
        finally:
            client.ended.set()
            client.join()
        assert client.failed() == [] and len(client.seen) > 20
        assert balanced.count() == before + len(client.seen), "every number once"
