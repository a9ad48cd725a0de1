"""
Five machines as production has them: an edge, two applications, a store, a monitor. Made once for
this file, of a topology of its own, and removed at its end.

What is promised of machines of any number is shown here; what one machine shows is shown elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import networks
import pytest
from artifacts import variant
from lab_machine import ROOT, Machines, Outsider, Scanner, made

pytestmark = [pytest.mark.one_release, pytest.mark.controller]

NAME = networks.named("five")
NAMES = ("edge1", "app1", "app2", "store1", "monitor1", "app3")
ADDRESSES = {name: networks.address("five", number) for number, name in enumerate(NAMES)}
ROLES = {name: name.rstrip("123") for name in ADDRESSES}
FIVE = ("edge1", "app1", "app2", "store1", "monitor1")
# Requests that one application machine may have in its hands (haproxy:backend:server_maxconn).
IN_FLIGHT = 16
# Requests a second of a load that goes on while machines converge.
RATE = 50


class Many(Machines):
    """The topology, its edge in the place of the one machine."""

    def __init__(self) -> None:
        self.machines: tuple[str, ...] = ()
        self.choose(*FIVE)
        super().__init__(NAME, "edge1")

    def choose(self, *names: str) -> None:
        """Write the topology with these machines."""
        machines = {
            name: {
                "address": ADDRESSES[name],
                "roles": [ROLES[name]],
                "memory": 512,
                "cpus": 1,
            }
            for name in names
        }
        self.file = networks.write(NAME, machines)
        self.machines = names

    def count(self) -> int:
        return int(self.on("store1", "redis-admin GET counter:seen").strip() or 0)

    def answers(self, host: str) -> bool:
        return self.on(host, "echo yes", check=False, timeout=120) == "yes\n"

    def served(self) -> dict[str, int]:
        """Requests that each instance has answered, as the edge's HAProxy counts them."""
        said = self.run("curl -s 'http://127.0.0.1:8405/;csv' | grep '^app,' | grep -v BACKEND")
        rows = [line.split(",") for line in said.splitlines()]
        return {row[1]: int(row[7]) for row in rows}

    def alerts(self, **labels: str) -> set[tuple[str, str]]:
        """``{(alert, machine)}`` of what fires by the monitor's Prometheus and has these labels."""
        wanted = {"alertstate": "firing", **labels}
        expression = "ALERTS{" + ",".join(f'{key}="{value}"' for key, value in wanted.items()) + "}"
        found = [one["metric"] for one in self.prometheus("query", expression)["result"]]
        return {(one["alertname"], one.get("machine", "")) for one in found}

    def prometheus(self, path: str, query: str = "") -> Any:
        """``data`` of the monitor's Prometheus' answer to ``/api/v1/PATH``."""
        url = f"http://127.0.0.1:9090/api/v1/{path}"
        said = self.on("monitor1", f"curl -sG {url} --data-urlencode query@-", data=query)
        answer = json.loads(said)
        assert answer["status"] == "success", answer
        return answer["data"]

    def boots(self) -> dict[str, str]:
        return {one: self.on(one, "cat /proc/sys/kernel/random/boot_id") for one in self.machines}


@pytest.fixture(scope="module")
def prod() -> Iterator[Many]:
    machines = Many()
    try:
        with made(machines):
            try:
                yield machines
            finally:
                machines.choose(*FIVE)
    finally:
        networks.remove(machines.file)


@pytest.fixture(autouse=True)
def leave_it_well(prod: Many) -> Iterator[None]:
    """In place of the one for single machines."""
    prod.wait("all instances up before the test", prod.all_ready)
    yield


def exact(prod: Many, before: int, result: Any) -> None:
    assert result.exact, result.summary()
    assert prod.count() == before + result.sent


# --- it is there ----------------------------------------------------------------------------------


def test_up_ends_with_the_url_and_names_each_machine_before_its_lines(prod: Many) -> None:
    said = prod.up_output
    assert said.splitlines()[-1] == prod.url == f"https://{ADDRESSES['edge1']}/"
    for host in FIVE:
        assert re.search(rf"(?m)^{host} +\[ *\d+/\d+\] ", said), f"no progress of {host}"
        assert re.search(rf"(?m)^{host} +\d+ changed, 0 failed$", said)


def test_every_application_machine_serves_and_the_count_is_exact(prod: Many) -> None:
    before, already = prod.count(), prod.served()
    result = asyncio.run(prod.load(mode="keepalive", requests=2000, concurrency=16))
    exact(prod, before, result)
    now = prod.served()
    shares = [now[name] - already.get(name, 0) for name in ("app1-1", "app2-1")]
    assert min(shares) > 500, shares


def test_a_second_apply_of_all_machines_changes_nothing(prod: Many) -> None:
    said = prod.apply().stdout
    assert re.findall(r"(?m)^\w+ +(\d+ changed, \d+ failed)$", said) == ["0 changed, 0 failed"] * 5


def test_status_shows_every_machine_and_all_is_well(prod: Many) -> None:
    prod.wait_for_status()
    said = prod.make("status").stdout
    for host in FIVE:
        assert re.search(rf"(?m)^{host} +base ", said)


def test_machines_know_each_other_by_name(prod: Many) -> None:
    for host in FIVE:
        for other in set(FIVE) - {host}:
            address = prod.on(host, f"getent ahostsv4 {other}").split()[0]
            assert address == ADDRESSES[other]


# --- who may speak to whom ------------------------------------------------------------------------


def matrix() -> dict[tuple[str, str], set[int]]:
    """The table of docs/many-machines.md: (role it comes from, role it goes to) -> TCP ports."""
    text = (ROOT / "docs" / "many-machines.md").read_text(encoding="utf-8")
    table = text.split("<!-- port matrix -->")[1].strip().splitlines()
    columns = [cell.strip() for cell in table[0].strip("|").split("|")][1:]
    found = {}
    for line in table[2:]:
        if not line.startswith("|"):
            break
        source, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        for target, cell in zip(columns, cells, strict=True):
            found[source, target] = set(map(int, re.findall(r"\d+", cell)))
    return found


def test_every_machine_lets_in_exactly_what_the_port_matrix_says(prod: Many) -> None:
    reason = Outsider.missing("nmap")
    if reason:
        pytest.skip(reason)
    said = matrix()
    wanted, seen = {}, {}
    # From outside every port is tried. Among themselves those on which somebody listens, on whatever
    # address: no other is open.
    listening = {
        host: {
            line.split()[3].rpartition(":")[2] for line in prod.on(host, "ss -Hltn").splitlines()
        }
        for host in FIVE
    }
    assert all("22" in ports and len(ports) > 3 for ports in listening.values()), listening
    with Scanner(prod, 1) as outside:

        def scan(source: str, target: str) -> set[int]:
            ports = "-" if source == "outside" else ",".join(listening[target])
            words = [
                "nmap",
                "-n",
                "-Pn",
                "-sS",
                "-T4",
                "--max-retries",
                "1",
                "--open",
                f"-p{ports}",
            ]
            words += ["--min-rate", "10000", ADDRESSES[target]]
            if source == "outside":
                done = outside.run(*words)
            else:
                pid = prod.lxc("lxc-info", source, "-pH").strip()
                done = subprocess.run(
                    ["nsenter", "-t", pid, "-n", *words],
                    capture_output=True, text=True, timeout=300,
                )  # fmt: skip
            assert "scanned in" in done.stdout, done.stdout
            return {int(port) for port in re.findall(r"(?m)^(\d+)/\w+ +open ", done.stdout)}

        # One application machine stands for both, but for what they let in from each other.
        pairs = [
            (source, target)
            for source in ("outside", *FIVE)
            for target in FIVE
            if source != target and source != "app2"
        ]
        with ThreadPoolExecutor(2) as pool:
            for pair, ports in zip(pairs, pool.map(lambda one: scan(*one), pairs), strict=True):
                seen[pair] = ports
                source, target = pair
                wanted[pair] = said[ROLES.get(source, source), ROLES[target]]
    assert seen == wanted


def test_nothing_crosses_the_network_without_a_certificate_that_is_welcome(prod: Many) -> None:
    pki = "-CAfile /etc/stack/pki/machine-ca.crt -cert /etc/stack/pki/machine.crt -key /etc/stack/pki/machine.key"

    def tls(host: str, target: str, port: int, own: str = "") -> str:
        ask = "printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n'; sleep 1"
        address = f"{ADDRESSES[target]}:{port}"
        return prod.on(
            host, f"({ask}) | openssl s_client -quiet -connect {address} {own} 2>&1 || true"
        )

    assert "200 OK" in tls("edge1", "app1", 8443, pki)
    assert "200 OK" not in tls("edge1", "app1", 8443), "no certificate"
    # It reaches its own tunnel, past the firewall, and is of the CA: but it is no edge.
    assert "200 OK" not in tls("app1", "app1", 8443, pki), "a certificate of another role"
    plain = f"curl -sS -m 3 http://{ADDRESSES['app1']}:8443/healthz 2>&1 || true"
    assert "alive" not in prod.on("edge1", plain)
    redis = f"redis-cli -h {ADDRESSES['store1']} -p 6380"
    assert "PONG" not in prod.on("store1", f"{redis} PING 2>&1 || true")
    by_tls = f"{redis} --tls --cacert /etc/stack/pki/machine-ca.crt"
    assert "NOAUTH" not in prod.on("store1", f"{by_tls} PING 2>&1 || true"), "no certificate"
    ours = "--cert /etc/stack/pki/machine.crt --key /etc/stack/pki/machine.key"
    assert "NOAUTH" in prod.on("store1", f"{by_tls} {ours} PING 2>&1 || true")


def test_an_application_cannot_speak_as_its_machine(prod: Many) -> None:
    """What its processes hold opens the store and nothing else: not the logs, not another's tunnel."""
    prod.on("app1", "systemctl is-active counter@1")
    held = prod.on("app1", "ls /run/credentials/counter@1.service").split()
    assert held == ["app.crt", "app.key", "ca.crt", "redis-password"]
    machines = prod.on("app1", "cat /etc/stack/pki/machine.key").splitlines()[1]
    found = prod.on(
        "app1", "grep -rlF -f /dev/stdin /run/credentials/counter@* || true", data=machines
    )
    assert found == ""
    groups, cannot = prod.on(
        "app1",
        "pid=$(systemctl show -P MainPID counter@1); sed -n 's/^Groups:\\s*//p' /proc/$pid/status;"
        " setpriv --reuid $(stat -c %u /proc/$pid) --regid $(stat -c %g /proc/$pid) --clear-groups"
        " cat /etc/stack/pki/machine.key 2>&1 || true",
    ).splitlines()
    assert prod.on("app1", "getent group stack-pki").split(":")[2] not in groups.split()
    assert cannot.endswith("Permission denied")
    own = "-CAfile /etc/stack/pki/machine-ca.crt -cert /etc/stack/pki/app.crt -key /etc/stack/pki/app.key"
    relp = "1 open 30 relp_version=0\\ncommands=syslog\\n"

    def tls(host: str, target: str, port: int, certificate: str, ask: str) -> str:
        return prod.on(
            host,
            f"(printf '{ask}'; sleep 1) | timeout 5 openssl s_client -quiet"
            f" -connect {ADDRESSES[target]}:{port} {certificate} 2>&1 || true",
        )

    assert "NOAUTH" in tls("app1", "store1", 6380, own, "PING\\r\\n")
    assert "200 OK" not in tls("app1", "monitor1", 2514, own, relp)
    assert "200 OK" in tls("app1", "monitor1", 2514, own.replace("/app.", "/machine."), relp)
    request = "GET /healthz HTTP/1.0\\r\\n\\r\\n"
    assert "200 OK" not in tls("app1", "app1", 8443, own, request)


def test_a_log_is_taken_with_the_certificate_that_goes_with_the_address_alone(prod: Many) -> None:
    """A machine's certificate in another's hands writes nowhere; what a sender makes up is no file."""
    folder, mark = "/root/stolen", uuid.uuid4().hex
    began = prod.on("monitor1", "date +@%s").strip()
    stolen = prod.on("app2", "cd /etc/stack/pki && tar c machine.crt machine.key | base64")
    prod.on("app1", f"mkdir -m 700 {folder} && base64 -d | tar xC {folder}", data=stolen)

    def send(pki: str, app: str) -> str:
        frame = f"<14>1 2030-01-01T00:00:00Z app2 {app} - - - {mark}-{app}"
        session = f"1 open 30 relp_version=0\\ncommands=syslog\\n2 syslog {len(frame)} {frame}\\n"
        return prod.on(
            "app1",
            f"(printf '{session}'; sleep 1) | timeout 5 openssl s_client -quiet"
            f" -connect {ADDRESSES['monitor1']}:2514 -CAfile /etc/stack/pki/machine-ca.crt"
            f" -cert {pki}/machine.crt -key {pki}/machine.key 2>&1 || true",
        )

    try:
        assert "200 OK" not in send(folder, "stolen")
        assert "200 OK" in send("/etc/stack/pki", "redis")
        assert "200 OK" in send("/etc/stack/pki", f"made-up-{mark[:8]}")
    finally:
        prod.on("app1", f"rm -r {folder}")
    # Not what sudo logs of the commands. What is taken is not written at once.
    found = f"cd /var/log/central && grep -rcE '^{mark}-' . | grep -v ':0$' | sort"
    taken = ["./app1/system.log:2"]
    prod.wait("both are written", lambda: prod.on("monitor1", f"{found} || true").split() == taken)

    def told() -> bool:
        said = prod.on("monitor1", f"journalctl -u rsyslog --since {began}")
        return "peer is 'DNSname: app2" in said and f"conn to clt {ADDRESSES['app1']}" in said

    prod.wait("the refusal is told of", told)


def test_a_machine_has_its_own_secrets_and_no_others(prod: Many) -> None:
    names = {host: prod.on(host, "ls /etc/stack/secrets").split() for host in FIVE}
    assert {host for host in FIVE if "redis-counter" in names[host]} == {"app1", "app2", "store1"}
    value = prod.on("app1", "cat /etc/stack/secrets/redis-counter")
    assert prod.on("store1", "cat /etc/stack/secrets/redis-counter") == value
    keys = {prod.on(host, "cat /etc/stack/pki/machine.key") for host in FIVE}
    assert len(keys) == 5
    for host in ("edge1", "monitor1"):
        # The needle goes through standard input.
        found = prod.on(
            host, "grep -rlF -f /dev/stdin /etc /srv /var 2>/dev/null || true", data=value
        )
        assert found == "", f"{host} has the application's password in {found}"
        ca = (prod.state / "secrets" / "ca.key").read_text().splitlines()[1]
        found = prod.on(host, "grep -rlF -f /dev/stdin /etc /srv /var 2>/dev/null || true", data=ca)
        assert found == "", f"{host} has the CA's key in {found}"
    modes = prod.on("app1", "stat -c '%a %U' /srv/stack/pillar/machine-secrets.yaml")
    assert modes == "600 root\n"


def test_what_is_given_reaches_the_machine_that_needs_it_and_no_other(prod: Many) -> None:
    """A pager's token, named in this topology's own settings. Without it nothing is made up."""
    settings = networks.settings(NAME)
    alerts = {"webhook": "https://pager.example.org/", "webhook_token": "pager"}
    value = f"given-{secrets.token_hex(16)}"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps({"prometheus": {"alerts": alerts}}), encoding="utf-8")
    try:
        refused = prod.apply(check=False, SLS="prometheus")
        assert refused.returncode != 0
        assert "secrets:pager: is missing, and no machine can make it up: 'make secret" in (
            refused.stdout
        )
        given = subprocess.run(
            ["make", "-s", "secret", f"TOPOLOGY={NAME}", "SECRET=pager"],
            cwd=ROOT, input=value, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert "pager: kept for monitor1;" in given.stdout
        said = prod.apply(SLS="prometheus").stdout
        assert value not in said + given.stdout
        assert prod.on("monitor1", "cat /etc/stack/secrets/pager") == value
        # As a machine made anew has it: nothing.
        prod.on("monitor1", "rm /etc/stack/secrets/pager")
        prod.apply(SLS="prometheus")
        assert prod.on("monitor1", "cat /etc/stack/secrets/pager") == value
        prod.apply(SLS="pki")
        for host in ("edge1", "app1", "app2", "store1"):
            found = prod.on(
                host, "grep -rlF -f /dev/stdin /etc /srv /var 2>/dev/null || true", data=value
            )
            assert found == "", f"{host} has the monitor's secret in {found}"
    finally:
        settings.unlink()
        # The settings are back before the secret: that refuses nothing.
        prod.apply(SLS="prometheus")
        prod.make("secret", SECRET="pager", FORGET="1")
        prod.on("monitor1", "rm -f /etc/stack/secrets/pager")


# --- under load -----------------------------------------------------------------------------------


@pytest.mark.nightly(
    "releases are rolled over the same machines in make test, a setting over the instances of one"
)
def test_a_setting_is_rolled_over_both_application_machines_without_a_lost_request(
    prod: Many,
) -> None:
    before = prod.count()
    started = {
        host: prod.on(host, "systemctl show -P MainPID counter@1") for host in ("app1", "app2")
    }
    with prod.under_load(mode="h2", rate=RATE) as load:
        threads = '{"counter": {"environment": {"COUNTER_THREADS": 5}}}'
        said = prod.apply(SLS="counter", PILLAR=threads).stdout
        load.wait_for(load.result.ok + 100)
    exact(prod, before, load.result)
    assert said.index("==> app1") < said.index("==> app2"), "one after the other"
    for host, pid in started.items():
        assert prod.on(host, "systemctl show -P MainPID counter@1") != pid, f"{host} was not rolled"


@pytest.mark.nightly("five applies under load; test_secrets.py rotates on one machine")
@pytest.mark.timeout(1500)
def test_a_password_is_rotated_over_all_machines_without_a_lost_request(prod: Many) -> None:
    before, old = prod.count(), prod.on("store1", "cat /etc/stack/secrets/redis-counter")
    with prod.under_load(mode="keepalive", rate=RATE) as load:
        told = prod.make("rotate", SECRET="redis-counter").stdout
        load.wait_for(load.result.ok + 100)
    exact(prod, before, load.result)
    new = {
        prod.on(host, "cat /etc/stack/secrets/redis-counter") for host in ("app1", "app2", "store1")
    }
    assert len(new) == 1
    assert old not in new
    assert not any(value in told for value in (old, *new))
    for host in ("app1", "app2", "store1"):
        assert "previous" not in prod.on(host, "ls /etc/stack/secrets")


QUICK = json.dumps({"counter": {"bake_seconds": 0}})


@pytest.mark.timeout(900)
def test_releases_are_rolled_over_machines_and_taken_back_on_all_of_them(
    prod: Many, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    settings = {"ARTIFACT_STORE": str(store), "PILLAR": QUICK}
    own = prod.make("publish", **settings).stdout.strip().splitlines()[-1]
    good, bad = (f"0.0.4-{word}-{time.time():.0f}" for word in ("good", "bad"))
    variant(store / f"counter-{own}.tar.gz", good, store)
    variant(store / f"counter-{own}.tar.gz", bad, store, "exits-at-import")
    apps = ("app1", "app2")

    def runs(wanted: str) -> None:
        for host in apps:
            said = prod.on(host, "basename -a $(readlink /opt/counter/instances/*[0-9]/release)")
            assert set(said.split()) == {wanted}, host

    before = prod.count()
    with prod.under_load(mode="keepalive", concurrency=8, rate=RATE) as load:
        prod.make("deploy", VERSION=good, WHY="over two machines", timeout=400, **settings)
        runs(good)
        failed = prod.make("deploy", VERSION=bad, check=False, timeout=400, **settings)
        assert failed.returncode != 0
        assert f"app1: the deploy of {bad} failed" in failed.stderr
        runs(good)
        # Good on the first machine, and not on the second.
        hook = {"command": "test ! -e /run/refuse-for-a-test"}
        counter = {"bake_seconds": 0, "hooks": {"after": [hook]}}
        refuse = {**settings, "PILLAR": json.dumps({"counter": counter})}
        prod.on("app2", "touch /run/refuse-for-a-test")
        try:
            failed = prod.make("deploy", VERSION=own, check=False, timeout=400, **refuse)
        finally:
            prod.on("app2", "rm /run/refuse-for-a-test")
        assert f"app2: the deploy of {own} failed" in failed.stderr
        assert f"app1 is back on {good}" in failed.stderr
        runs(good)
        prod.make("rollback", timeout=400, ARTIFACT_STORE=str(store))
        runs(own)
        load.wait_for(load.result.ok + 100)
    exact(prod, before, load.result)
    for host in apps:
        last = prod.on(host, "tail -n 1 /var/log/stack/counter-deploys.log")
        assert json.loads(last)["outcome"] == "succeeded"


def test_a_killed_instance_loses_only_what_it_had_in_its_hands(prod: Many) -> None:
    """Its tunnel closes with it, so that nothing is sent to nobody."""
    before = prod.count()
    with prod.under_load(mode="keepalive", concurrency=8) as load:
        load.wait_for(200)
        prod.on("app1", "systemctl kill -s KILL counter@1")
        load.wait_for(load.result.ok + 1000)
        prod.wait("both serve", prod.all_ready)
    # What it had, and what found its tunnel open still: HAProxy looks away after three in a row, once more where a
    # check that was answered before the kill arrives after them (`rise` is 1).
    lost(prod, before, load.result, 8 + 2 * 3)


def lost(prod: Many, before: int, result: Any, in_flight: int) -> None:
    """At most so many failed, no number was given out twice, and the count is exact."""
    assert not result.duplicates
    assert result.error_count <= in_flight, result.summary()
    # What failed was counted or not; everything else once.
    counted = prod.count() - before
    assert result.ok <= counted <= result.ok + result.error_count
    assert result.missing_count <= result.error_count


def test_an_application_machine_that_dies_loses_only_what_it_had_in_its_hands(prod: Many) -> None:
    before = prod.count()
    try:
        with prod.under_load(mode="keepalive") as load:
            load.wait_for(200)
            prod.lxc("lxc-stop", "app1", "--kill")
            load.wait_for(load.result.ok + 1000)
    finally:
        prod.lxc("lxc-start", "app1")
    lost(prod, before, load.result, IN_FLIGHT)
    prod.wait("app1 is back", prod.all_ready)


# Watched where there is something to watch: a clock of one's own, a silence, Filebeat, other applications, several
# edges or stores (test_apps.py, test_floating.py and test_stores.py have them).
# collectd_unit_failed is there once a unit has failed: test_a_failed_unit_is_told_of (make test-faults).
ELSEWHERE = re.compile(
    "collectd_(clock_synchronised|unit_failed|silences_until|filebeat_.+|apps_.+|keepalived_.+|sentinel_.+"
    "|redis_(link_up|master|replication_offset))"
)


def test_every_alert_asks_for_metrics_that_are_there(prod: Many) -> None:
    """One that asks for another name never fires, and its own test does not see that."""
    rules = prod.prometheus("rules")["groups"]
    asked = {
        name
        for group in rules
        for rule in group["rules"]
        for name in re.findall(
            r"\b(?:collectd|haproxy|prometheus|alertmanager)_\w+",
            re.sub(r'"[^"]*"|\{[^}]*\}', "", rule["query"]),
        )
    }
    assert len(asked) > 40
    known = set(prod.prometheus("label/__name__/values"))
    assert {name for name in asked - known if not ELSEWHERE.fullmatch(name)} == set()


def wait_until_nobody_is_woken(prod: Many) -> None:
    """What the test before has stopped is back, and by now measured."""
    prod.wait("nobody is woken", lambda: not prod.alerts(severity="page"))


def test_a_machine_that_is_away_is_named_and_the_others_finish(prod: Many) -> None:
    wait_until_nobody_is_woken(prod)
    prod.lxc("lxc-stop", "app2", "--kill")
    try:
        done = prod.apply(check=False)
        assert done.returncode != 0
        assert re.search(r"(?m)^app2: ", done.stderr)
        assert "1 of 5 machines failed: app2" in done.stderr
        for host in FIVE:
            if host != "app2":
                assert re.search(rf"(?m)^{host} +0 changed, 0 failed$", done.stdout), host
        status = prod.make("status", check=False)
        assert status.returncode != 0
        assert re.search(r"(?m)^app2 .*unreachable", status.stdout)
        # Who is on call is woken once.
        down = ("MachineDown", "app2")
        prod.wait("it is told of", lambda: down in prod.alerts(severity="page"))
        assert prod.alerts(severity="page") == {down}
    finally:
        prod.lxc("lxc-start", "app2")
    prod.wait("app2 is back", prod.all_ready)


def test_a_dead_tunnel_is_told_of(prod: Many) -> None:
    """The other machine serves on."""
    wait_until_nobody_is_woken(prod)
    units = "systemctl list-units --plain --no-legend 'tunnel@counter*' | cut -d' ' -f1"
    tunnel = prod.on("app1", units).split()[0]
    prod.on("app1", f"systemctl stop {tunnel}")
    try:
        prod.wait("it is told of", lambda: ("TunnelDown", "app1") in prod.alerts())
        prod.see()
        assert prod.alerts(severity="page") == set()
    finally:
        prod.on("app1", f"systemctl start {tunnel}")
    prod.wait("app1 is back", prod.all_ready)


@pytest.mark.timeout(1500)
def test_every_machine_in_turn_reboots_and_the_count_is_kept(prod: Many) -> None:
    """Edge and store are one each: while they are unreachable nothing can be counted. All others: no
    request is lost."""
    boots, before = prod.boots(), prod.count()
    with prod.under_load(mode="keepalive", concurrency=8, rate=RATE) as load:
        for host in ("app1", "app2", "monitor1"):
            # Its end may cut the connection that asks for it.
            prod.make("ssh", HOST=host, CMD="systemctl reboot", check=False)
            prod.wait(f"{host} has rebooted", lambda host=host: rebooted(prod, host, boots[host]))
            prod.wait("all instances are used", prod.all_ready)
        load.wait_for(load.result.ok + 100)
    exact(prod, before, load.result)
    for host in ("store1", "edge1"):
        last = prod.count()
        prod.make("ssh", HOST=host, CMD="systemctl reboot", check=False)
        prod.wait(f"{host} has rebooted", lambda host=host: rebooted(prod, host, boots[host]))
        prod.wait("it serves again", prod.serving)
        assert prod.see() == last + 1


def rebooted(prod: Many, host: str, boot: str) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        now = prod.on(host, "cat /proc/sys/kernel/random/boot_id", check=False, timeout=15)
        return now not in ("", boot)
    return False


# --- machines come and go -------------------------------------------------------------------------


@pytest.mark.timeout(1500)
def test_a_machine_is_added_by_a_line_and_a_command_under_load(prod: Many) -> None:
    before = prod.count()
    prod.choose(*FIVE, "app3")
    with prod.under_load(seconds=1200, mode="keepalive", concurrency=8, rate=RATE) as load:
        prod.make("up", timeout=1200)
        load.wait_for(load.result.ok + 500)
    exact(prod, before, load.result)
    assert prod.served().get("app3-1", 0) > 0, "it serves"

    def health() -> str:
        said = prod.on("monitor1", "curl -s http://127.0.0.1:9090/api/v1/targets")
        targets = json.loads(said)["data"]["activeTargets"]
        return next(
            (one["health"] for one in targets if f"{ADDRESSES['app3']}:9104" in one["scrapeUrl"]),
            "",
        )

    prod.wait("it is monitored, and well", lambda: health() == "up")
    mark = f"a line of app3 {time.time_ns()}"
    prod.on("app3", f"logger -t counter-test '{mark}'")
    asked = f"grep -rlF '{mark}' /var/log/central || true"
    prod.wait(
        "a line of it is in the central logs", lambda: bool(prod.on("monitor1", asked).strip())
    )


@pytest.mark.timeout(1500)
def test_a_machine_is_taken_away_by_a_line_and_a_command_under_load(prod: Many) -> None:
    prod.choose("edge1", "app2", "app3", "store1", "monitor1")
    before = prod.count()
    with prod.under_load(seconds=1200, mode="keepalive", concurrency=8, rate=RATE) as load:
        said = prod.make("up", timeout=1200).stdout
        load.wait_for(load.result.ok + 100)
    exact(prod, before, load.result)
    assert "removing app1" in said
    assert set(prod.served()) == {"app2-1", "app3-1"}
    assert not (prod.state / "secrets" / "machine-app1.key").exists()
    with pytest.raises(subprocess.CalledProcessError):
        prod.lxc("lxc-info", "app1", "-s")
    # Nobody lets it in any more.
    for host in ("store1", "monitor1"):
        assert ADDRESSES["app1"] not in prod.on(
            host, "cat /etc/firewalld/zones/stack.xml /etc/hosts"
        )
