"""Who attacks is shut out from what it attacked, and nobody else: seen from two outsiders on the machines'
network.

An outsider is a network namespace of this computer on the lab's bridge, at an address that the
topology does not trust. Traffic goes to the lab's own machine and is bounded in count and time.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import turns
import yaml
from lab_machine import ROOT, Lab, Outsider


class Visitor(Outsider):
    """An outsider who knocks: logs in with a key of its own, asks for pages, floods."""

    def __init__(self, lab: Lab, number: int, key: Path) -> None:
        super().__init__(lab, number)
        self.key = key

    def login(self, user: str, machine: str = "", source: str = "") -> str:
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "IdentitiesOnly=yes"]
        options += ["UserKnownHostsFile=/dev/null", "ConnectTimeout=2"]
        words = [word for option in options for word in ("-o", option)]
        # The ban may fall in the middle of the handshake, which then waits for ever.
        return self.run(
            *("timeout", "15"),
            "ssh",
            "-F",
            "none",
            *words,
            "-i",
            str(self.key),
            *(("-b", source) if source else ()),
            f"{user}@{machine or self.lab.address}",
            "true",
        ).stdout

    def get(self, path: str = "healthz", *words: str) -> int:
        """Status of a GET; 0 when there was no answer."""
        # Who is cut waits for the first; the second a busy computer needs for an answer.
        command = ["curl", "-sS", "--connect-timeout", "3", "--max-time", "20"]
        command += ["--cacert", self.lab.ca, "-o", "/dev/null"]
        said = self.run(*command, "-w", "\n%{http_code}", *words, self.lab.url + path).stdout
        return int(said.strip().splitlines()[-1])

    @contextlib.contextmanager
    def with_networks(self, *numbers: int) -> Iterator[tuple[str, list[str]]]:
        """
        ``(machine's address, this one's networks)``: so many /64s of one /48, each with all its addresses,
        which a program binds to as it likes: ``network + "1:2:3:4"``.
        """
        with self.with_ipv6() as (machine, own):
            networks = [f"{machine.rpartition('::')[0]}:{number:x}:" for number in numbers]
            self.run("sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")
            for network in networks:
                self.run("ip", "-6", "route", "replace", "local", f"{network}:/64", "dev", "lo")
            # They go with the address that they lead to.
            self.lab.run(
                "; ".join(f"ip -6 route replace {one}:/64 via {own} dev eth1" for one in networks)
            )
            self.lab.wait("it has a way", lambda: self.connects(443, machine))
            try:
                yield machine, networks
            finally:
                self.lab.run(
                    "; ".join(f"ip -6 route del {one}:/64 dev eth1" for one in networks),
                    check=False,
                )

    def load(self, **options: object) -> subprocess.Popen[str]:
        words = [
            word
            for key, value in options.items()
            for word in (f"--{key.replace('_', '-')}", str(value))
        ]
        script = str(ROOT / "tests" / "checked_load.py")
        return self.start(
            *(sys.executable, script, self.lab.url, "--cacert", self.lab.ca),
            *("--json", "--quiet", "--shared", *words),
        )


def banned(lab: Lab, jail: str = "") -> str:
    return lab.run(f"fail2ban-client get {jail} banned" if jail else "fail2ban-client banned")


def shut_out(outsider: Visitor, port: int = 443, address: str = "") -> bool:
    """From the site, or from ssh; the other is open: it was not attacked."""
    other = {443: 22, 22: 443}[port]
    return not outsider.connects(port, address) and outsider.connects(other, address)


def welcome(outsider: Visitor) -> bool:
    return outsider.get() == 200 and outsider.connects(22)


@pytest.fixture
def outsiders(lab: Lab, tmp_path: Path) -> Iterator[tuple[Visitor, Visitor]]:
    """An attacker and an innocent; nobody is banned before and after."""
    reason = Outsider.missing()
    if reason or lab.topology == "kitchen":
        pytest.skip(reason or "Test Kitchen's machine may be on another network")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)

    def forget() -> None:
        # Stopped meanwhile, so that what was logged before is not found again, nor a recidivist.
        lab.run("systemctl stop fail2ban; rm -f /var/lib/fail2ban/fail2ban.sqlite3")
        lab.run("journalctl --rotate && journalctl --vacuum-time=1s")
        lab.run("systemctl start fail2ban")
        lab.wait("fail2ban", lambda: "pong" in lab.run("fail2ban-client ping", check=False))
        # Who flooded in the test before is cut for a while, and then not logged.
        for table in ("clients", "connections", "networks"):
            assert not lab.haproxy(f"clear table {table}").strip()

    forget()
    with Visitor(lab, 2, key) as attacker, Visitor(lab, 3, key) as innocent:
        yield attacker, innocent
    forget()


@pytest.mark.differs("fail2ban 1.0, firewalld 1.3, sshd's messages")
def test_failed_logins_shut_out_from_ssh_and_for_long(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    attacker, innocent = outsiders
    assert welcome(attacker)
    for user in ["vagrant"] * 5 + ["nosuchuser"] * 5:
        attacker.login(user)
    lab.wait("a ban", lambda: attacker.address in banned(lab, "sshd"))
    steps = ["true", "fail2ban-client reload", "systemctl restart fail2ban", "reboot"]
    if lab.run("systemctl is-active firewalld", check=False).strip() == "active":
        steps[1:1] = ["firewall-cmd --reload", "systemctl restart firewalld"]
    for step in steps:
        if step == "reboot":
            lab.reboot()
        else:
            lab.run(step)
        lab.wait(
            f"ban after {step}",
            lambda: attacker.address in lab.run("nft list table inet fail2ban", check=False),
        )
        assert shut_out(attacker, 22), f"after: {step}"
        lab.wait(f"the innocent served after {step}", lambda: welcome(innocent))
        assert lab.status("healthz") == 200, "the gateway is trusted"
    lab.run(f"fail2ban-client unban {attacker.address}")
    assert welcome(attacker)


def test_unknown_users_alone_are_banned_too(lab: Lab, outsiders: tuple[Visitor, Visitor]) -> None:
    attacker, innocent = outsiders
    # By nobody, in sshd's name: lines are read in order, so these were judged once the attacker is banned.
    forged = "logger -t sshd 'Failed password for root from 198.51.100.8 port 22 ssh2'"
    lab.run(f"for n in $(seq 8); do setpriv --reuid nobody --clear-groups {forged}; done")
    for _ in range(10):
        attacker.login("nosuchuser")
    lab.wait("a ban", lambda: attacker.address in banned(lab, "sshd"))
    assert "198.51.100.8" not in banned(lab, "sshd")
    assert shut_out(attacker, 22)
    assert welcome(innocent)


def test_a_trusted_client_is_never_banned(lab: Lab, outsiders: tuple[Visitor, Visitor]) -> None:
    attacker, _ = outsiders
    for _ in range(10):
        assert lab.status(".env") == 403
    # Lines are read in order: once a later scanner is banned, the ones before were judged.
    for _ in range(6):
        attacker.get(".env")
    lab.wait("a ban", lambda: attacker.address in banned(lab, "haproxy-scan"))
    assert attacker.lab.address.rpartition(".")[0] + ".1" not in banned(lab)
    assert lab.status("healthz") == 200


@pytest.mark.differs("nftables 1.0.6")
def test_a_ban_cuts_connections_that_are_open(lab: Lab, outsiders: tuple[Visitor, Visitor]) -> None:
    attacker, _ = outsiders
    code = (
        "import socket,sys\n"
        "s=socket.create_connection((sys.argv[1], 80), 5)\n"
        "ask=b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'\n"
        "s.sendall(ask); s.recv(4096); print('open', flush=True)\n"
        "input()\n"
        "s.settimeout(3); s.sendall(ask)\n"
        "try: print('answered' if s.recv(4096) else 'closed')\n"
        "except TimeoutError: print('cut')\n"
    )
    for ban, said in ((False, "answered"), (True, "cut")):
        process = subprocess.Popen(
            ["ip", "netns", "exec", attacker.space, sys.executable, "-c", code, lab.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout and process.stdout.readline() == "open\n"
        if ban:
            lab.run(f"fail2ban-client set haproxy-scan banip {attacker.address}")
        answer, _ = process.communicate("\n", timeout=120)
        assert answer.strip() == said


@pytest.mark.differs("HAProxy 2.6's log lines")
def test_scans_never_reach_the_application_and_are_banned(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    attacker, innocent = outsiders
    paths = [".env", "wp-login.php", ".git/config", "cgi-bin/luci", "phpMyAdmin/", "a/%2e%2e/etc"]
    for number, path in enumerate(paths):
        assert attacker.get(path, "--path-as-is") in ((403,) if number < 4 else (403, 0)), path
    lab.wait("a ban", lambda: attacker.address in banned(lab, "haproxy-scan"))
    assert shut_out(attacker)
    assert welcome(innocent)


@pytest.mark.parametrize("mode", [pytest.param("keepalive", marks=pytest.mark.one_release), "h2"])
def test_a_flood_gets_429_then_a_ban_and_others_notice_nothing(
    lab: Lab, outsiders: tuple[Visitor, Visitor], mode: str
) -> None:
    attacker, innocent = outsiders
    before = lab.count()
    with turns.one_load():
        calm = innocent.load(mode=mode, rate=5, requests=60, concurrency=2)
        flood = attacker.load(mode=mode, rate=2000, seconds=6, concurrency=16, timeout=2)
        lab.wait("a ban", lambda: attacker.address in banned(lab, "haproxy-limit"))
        # Beside it asyncio says of connections that are cut: "SSL connection is closed".
        said = flood.communicate(timeout=60)[0]
        attack = json.loads(said[said.index("{") :].split("checked_load:")[0])
        served = json.loads(calm.communicate(timeout=120)[0])
    assert attack["statuses"].get("429", 0) >= 200, attack
    assert attack["ok"] <= 600, "the limit was not kept"
    assert served["errors"] == 0, served
    assert served["ok"] >= 50
    assert lab.count() == before + attack["ok"] + served["ok"], "a refused request counted"
    assert shut_out(attacker)


def refusals(attacker: Visitor, requests: int) -> list[str]:
    """
    The whole answers with 429 among those to so many requests of one connection. Side by side: one after the other,
    a busy computer answers fewer than the limit in its period.
    """
    command = ["curl", "-sS", "-i", "--parallel", "--parallel-max", "16"]
    command += ["--max-time", "10", "--cacert", attacker.lab.ca]
    said = attacker.run(*command, f"{attacker.lab.url}healthz?[1-{requests}]").stdout
    return re.findall(r"(?ms)^HTTP/\S+ 429.*?(?=^HTTP/|\Z)", said)


def test_a_429_says_when_to_come_back(lab: Lab, outsiders: tuple[Visitor, Visitor]) -> None:
    attacker, _ = outsiders
    answers = refusals(attacker, 520)
    assert answers
    for answer in answers:
        assert re.search(r"(?mi)^retry-after: 10\s*$", answer)
        assert re.search(r"(?mi)^cache-control: no-store\s*$", answer)


@pytest.mark.nightly("two applies of another period; make test shows the default one")
@pytest.mark.one_release
def test_a_429_follows_the_pillars_period(lab: Lab, outsiders: tuple[Visitor, Visitor]) -> None:
    attacker, _ = outsiders
    limit = {"requests": 20, "period": "2500ms"}
    try:
        lab.apply(SLS="haproxy", PILLAR=json.dumps({"haproxy": {"limit": limit}}))
        (answer, *_) = refusals(attacker, 40)
        assert re.search(r"(?mi)^retry-after: 3\s*$", answer), "whole seconds, never too few"
        time.sleep(3)
        assert attacker.get() == 200, "it came back when it was told to"
    finally:
        lab.apply(SLS="haproxy")


@pytest.mark.one_release
def test_a_reload_of_haproxy_forgets_nobodys_requests(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    attacker, _ = outsiders
    assert refusals(attacker, 450) == [], "under the limit"
    lab.run("systemctl reload haproxy")
    assert len(refusals(attacker, 100)) >= 40, "its 450 requests of a moment ago were forgotten"


@pytest.mark.one_release
def test_who_is_banned_again_and_again_stays_out_for_a_week(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    """By lines that fail2ban itself wrote, at the level that is configured."""
    attacker, innocent = outsiders
    for number in range(3):
        for _ in range(6):
            attacker.get(".env")
        lab.wait(f"ban {number + 1}", lambda: attacker.address in banned(lab, "haproxy-scan"))
        lab.run(f"fail2ban-client set haproxy-scan unbanip {attacker.address}")
    lab.wait("the recidivist's ban", lambda: attacker.address in banned(lab, "recidive"))
    assert lab.run("fail2ban-client get recidive bantime").strip() == str(7 * 24 * 3600)
    assert attacker.address not in banned(lab, "haproxy-scan")
    assert shut_out(attacker)
    assert welcome(innocent)
    lab.run("systemctl restart fail2ban")
    lab.wait("its ban after a restart", lambda: shut_out(attacker))
    # Now ssh as well: both were attacked.
    for _ in range(10):
        attacker.login("nosuchuser")
    lab.wait("a ban from ssh", lambda: attacker.address in banned(lab, "sshd"))
    lab.run(f"fail2ban-client set sshd unbanip {attacker.address}")
    lab.wait("ssh stays closed", lambda: attacker.address in banned(lab, "attacked-22"))
    assert not attacker.connects(22) and not attacker.connects(443)
    lab.run(f"fail2ban-client unban {attacker.address}")
    assert welcome(attacker)


# Asks over TLS from ever other addresses of a network, or sends what is no TLS.
ROTATES = """
import random, socket, ssl, sys
machine, network, path, count, port = sys.argv[1:]
context = ssl._create_unverified_context()
for _ in range(int(count)):
    source = network + "%x:%x:%x:%x" % tuple(random.randrange(1, 65536) for _ in range(4))
    try:
        with socket.create_connection((machine, int(port)), 2, (source, 0)) as plain:
            if path == "-":
                plain.sendall(b"no TLS\\r\\n\\r\\n")
                plain.recv(100)
            else:
                with context.wrap_socket(plain) as client:
                    client.settimeout(2)
                    for _ in range(20):
                        client.sendall(b"GET /%s HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % path.encode())
                        client.recv(4096)
    except OSError:
        pass
"""


@pytest.mark.one_release
@pytest.mark.parametrize(
    ("path", "count", "jail", "number"),
    [
        ("healthz", 60, "haproxy-limit", 7),
        pytest.param(
            ".env", 5, "haproxy-scan", 8, marks=pytest.mark.nightly("a test above has it over IPv4")
        ),
        ("-", 150, "haproxy-tls", 9),
    ],
)
def test_bans_hold_over_ipv6_too(
    lab: Lab, outsiders: tuple[Visitor, Visitor], path: str, count: int, jail: str, number: int
) -> None:
    """With its whole /64, whatever addresses of it the attacker uses; banned by one, it was never caught."""
    attacker, innocent = outsiders
    with (
        attacker.with_networks(number, number + 16) as (machine, (network, neighbour)),
        innocent.with_ipv6(),
    ):
        attacker.run(sys.executable, "-c", ROTATES, machine, network, path, str(count), "443")
        lab.wait("a ban", lambda: f"{network}:/64" in banned(lab, jail))
        assert not from_network(attacker, machine, network, 443)
        assert from_network(attacker, machine, network, 22), "ssh was not attacked"
        assert from_network(attacker, machine, neighbour, 443)
        assert innocent.connects(443, machine)
        # By any of its addresses, as somebody complains of it.
        lab.run(f"fail2ban-client unban {network}1:2:3:4")
        # Once its flood's period is over, too.
        lab.wait("it may come again", lambda: from_network(attacker, machine, network, 443))


def from_network(outsider: Visitor, machine: str, network: str, port: int) -> bool:
    code = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2, (sys.argv[3], 0))"
    words = (sys.executable, "-c", code, machine, str(port), network + "5:5:5:5")
    return outsider.run(*words).returncode == 0


@pytest.mark.one_release
def test_over_ipv6_failed_logins_from_many_addresses_are_banned_too(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    attacker, _ = outsiders
    with attacker.with_networks(7) as (machine, (network,)):
        for number in range(1, 7):
            attacker.login("nosuchuser", machine, f"{network}1:1:1:{number}")
        lab.wait("a ban", lambda: f"{network}:/64" in banned(lab, "sshd"))
        assert not from_network(attacker, machine, network, 22)
        assert from_network(attacker, machine, network, 443)


# Opens many connections and says nothing on them.
SILENT = """
import socket, sys, time
machine, count = sys.argv[1], int(sys.argv[2])
held = []
end = time.monotonic() + 12
for number in range(count):
    for network in sys.argv[3:]:
        one = socket.socket(socket.AF_INET6)
        one.setblocking(False)
        one.bind((network + "%x:%x:1:1" % (number + 1, number + 1), 0))
        one.connect_ex((machine, 443))
        held.append(one)
    time.sleep(0.02)
print("all are there", flush=True)
time.sleep(max(0, end - time.monotonic()))
"""


@pytest.mark.differs("HAProxy 2.6's handshake deadline")
def test_who_never_says_hello_takes_no_place_from_others_and_is_banned(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    """From twenty-one networks of one host: they filled every place, the metrics' too."""
    attacker, innocent = outsiders
    with attacker.with_networks(*range(16, 37)) as (machine, networks):
        process = attacker.start(sys.executable, "-c", SILENT, machine, "200", *networks)
        assert process.stdout is not None
        assert process.stdout.readline() == "all are there\n"
        assert innocent.get() == 200
        assert "haproxy_process" in lab.run("curl -sm 5 http://127.0.0.1:8405/metrics")
        lab.wait("bans", lambda: banned(lab, "haproxy-conns").count("::/64") >= 19)
        assert innocent.get() == 200
        process.communicate(timeout=60)

    def logged() -> list[float]:
        warnings = "journalctl -u haproxy -p warning -o short-unix"
        return [
            float(time)
            for time in lab.run(
                f"{warnings} | grep connection_error | cut -d' ' -f1 || true"
            ).split()
        ]

    lab.wait("it is logged", lambda: len(logged()) >= 21)
    # Of 4,200 connections: what is let in at a time fails at its deadline, what is refused is sampled.
    times = logged()
    defaults = yaml.safe_load((ROOT / "salt/haproxy/defaults.yaml").read_text(encoding="utf-8"))
    deadline = int(defaults["timeouts"]["handshake"].removesuffix("s"))
    rounds = 1 + (times[-1] - times[0]) // deadline
    assert len(times) <= rounds * defaults["limit"]["network_at_once"] + 4 * 21


# Opens many TLS connections and sends a byte of each body now and then; prints what each was answered.
SLOW_BODIES = """
import socket, ssl, sys, time
address, count = sys.argv[1], int(sys.argv[2])
context = ssl._create_unverified_context()
head = b"POST / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1000\\r\\n\\r\\n"
held = []
for _ in range(count):
    one = context.wrap_socket(socket.create_connection((address, 443), 5))
    one.sendall(head)
    held.append(one)
print("all are there", flush=True)
for _ in range(8):
    time.sleep(1)
    for one in held:
        try:
            one.send(b"x")
        except OSError:
            pass
for one in held:
    one.settimeout(5)
    try:
        print(one.recv(100).split(b" ")[1].decode())
    except (OSError, IndexError):
        print("cut")
"""


@pytest.mark.one_release
def test_bodies_that_come_slowly_take_no_place_from_others(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    """More of them than all instances take at once (2 of `server_maxconn` 16)."""
    attacker, innocent = outsiders
    before = lab.count()
    process = attacker.start(sys.executable, "-c", SLOW_BODIES, lab.address, "48")
    assert process.stdout is not None
    assert process.stdout.readline() == "all are there\n"
    answers: list[int] = []
    # Each by a connection of its own; a process for each would be too slow on a busy computer.
    command = ["curl", "-sS", "--max-time", "20", "--cacert", lab.ca, "-o", "/dev/null"]
    command += [
        "--http1.1",
        "-H",
        "Connection: close",
        "-w",
        "%{http_code}\n",
        f"{lab.url}healthz?[1-10]",
    ]
    while process.poll() is None and len(answers) < 100:
        answers += map(int, innocent.run(*command).stdout.split())
        time.sleep(0.1)
    said = process.communicate(timeout=60)[0].split()
    assert len(answers) >= 20 and set(answers) == {200}, answers
    assert said == ["408"] * 48, said
    assert lab.count() == before


@pytest.mark.one_release
def test_a_body_that_is_too_large_is_refused(lab: Lab) -> None:
    """With its length said beforehand, and without."""
    for words in ([], ["-H", "Transfer-Encoding: chunked"]):
        big = ["--data-binary", "@/dev/stdin", *words]
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "10", "--cacert", lab.ca, "-o", "/dev/null", "-w",
             "%{http_code}", *big, lab.url],
            input=b"x" * 9000, capture_output=True, check=False,
        )  # fmt: skip
        assert done.stdout == b"413", (words, done)


@pytest.mark.one_release
def test_one_client_holds_so_many_connections_and_no_more(
    lab: Lab, outsiders: tuple[Visitor, Visitor]
) -> None:
    attacker, innocent = outsiders
    code = """
import select, socket, sys, time
held = []
for _ in range(260):
    try:
        held.append(socket.create_connection((sys.argv[1], 443), 3))
    except OSError:
        pass
def open_ones():
    return len(held) - len(select.select(held, [], [], 0)[0])
until = time.monotonic() + 30
while open_ones() > 204 and time.monotonic() < until:
    time.sleep(0.1)
time.sleep(1)
print(open_ones(), flush=True)
time.sleep(3)
"""
    process = attacker.start(sys.executable, "-c", code, lab.address)
    assert process.stdout is not None
    # As many as limit:at_once, and those by which HAProxy tells of the rest, which are cut.
    assert 200 <= int(process.stdout.readline()) <= 204
    assert innocent.get() == 200
    process.communicate(timeout=120)
    lab.wait("a ban", lambda: attacker.address in banned(lab, "haproxy-tls"))
    assert shut_out(attacker)
