"""The firewall as an attacker meets it from outside, and as a tired operator changes it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from lab_machine import Lab, Outsider, Scanner

PUBLIC = {22, 80, 443}
# Opens one port more: the smallest change of rules that can be seen from outside.
OPEN_8000 = '{"firewalld": {"openings": [{"port": 8000, "protocol": "tcp", "from": "any"}]%s}}'


# The timers that take an unconfirmed change back.
CLOCK = "systemctl list-timers --no-legend 'firewall-revert-timer-*'"


@pytest.fixture
def outsider(lab: Lab) -> Iterator[Scanner]:
    reason = Outsider.missing("nmap")
    if reason:
        pytest.skip(reason)
    with Scanner(lab, 1) as scanner:
        yield scanner


@pytest.fixture(autouse=True)
def leave_the_rules_as_they_were(lab: Lab) -> Iterator[None]:
    """An apply costs more than most of these tests: it comes when something is left to it."""
    before = left(lab)
    yield
    lab.run("systemctl start firewalld")
    lab.wait("firewalld", lambda: firewalld_runs(lab))
    if left(lab) != before:
        lab.apply()


def firewalld_runs(lab: Lab) -> bool:
    return lab.run("firewall-state", check=False) == "RUNNING\n"


def left(lab: Lab) -> tuple[str, ...]:
    """All that a test here may leave: rules in the kernel and in files, what waits, a failed apply."""
    files = "find /etc/firewalld -type f | sort | xargs sha256sum"
    result = 'grep -o \'"result": "[a-z]*\' /var/lib/stack/last-apply.json'
    return rules(lab), lab.run(files), firewall_status(lab), lab.run(result)


def rules(lab: Lab) -> str:
    """The firewall in the kernel; who owns the table may change, what it says not."""
    return lab.run("nft list table inet firewalld | grep -v -e progname -e flags")


def denied(lab: Lab) -> int:
    found = re.match(r"denied: (\d+) packets, \d+ bytes", lab.run("firewall-denied"))
    assert found
    return int(found[1])


def firewall_status(lab: Lab) -> str:
    return lab.run("firewall-confirm --status || true").strip()


# Answers every datagram, on all addresses but the loopback's.
ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
    own.bind(("{address}", 53))
    while True:
        said, peer = own.recvfrom(2000)
        own.sendto(said, peer)
"""


@contextlib.contextmanager
def udp_echo(lab: Lab) -> Iterator[None]:
    """A forgotten name server: what nmap sends to UDP port 53 is answered."""
    lab.run(
        "systemd-run -q --unit=forgotten-udp --collect python3 -c "
        + shlex.quote(ECHO.format(address=lab.address))
    )
    try:
        lab.wait("it listens", lambda: f"{lab.address}:53 " in lab.run("ss -Hlnu"))
        yield
    finally:
        lab.run("systemctl stop forgotten-udp")


@contextlib.contextmanager
def listener(lab: Lab, port: int = 8000, bind: str = "0.0.0.0") -> Iterator[None]:
    """A forgotten program of somebody's, on all addresses."""
    unit = f"forgotten-{port}"
    lab.run(f"systemd-run -q --unit={unit} --collect python3 -m http.server {port} --bind {bind}")
    try:
        lab.wait("it listens", lambda: f":{port} " in lab.run("ss -Hltn"))
        yield
    finally:
        lab.run(f"systemctl stop {unit}")


def kill_firewalld(lab: Lab) -> None:
    lab.run('kill -9 "$(systemctl show -P MainPID firewalld)"')


def converge(lab: Lab, pillar: str) -> str:
    """An apply of the machine's own, which nobody confirms."""
    return lab.run(f"cd /srv/stack && bootstrap/converge firewalld 'pillar={pillar}'")


# --- what an outsider sees -------------------------------------------------------------------------


@pytest.mark.differs("firewalld 1.3")
def test_an_outsider_sees_ssh_and_the_site_and_nothing_else(lab: Lab, outsider: Scanner) -> None:
    with listener(lab), udp_echo(lab):
        assert outsider.every_tcp_port() == PUBLIC
        assert outsider.nmap("-sU", "--top-ports", "100", "--min-rate", "200") == set()


@pytest.mark.one_release
def test_over_ipv6_an_outsider_sees_the_same(lab: Lab, outsider: Scanner) -> None:
    with outsider.with_ipv6() as (machine, _), listener(lab, bind="::"):
        assert outsider.nmap("-6", "-p-", "--min-rate", "10000", address=machine) == PUBLIC


@pytest.mark.differs("firewalld 1.3")
@pytest.mark.parametrize("what", ["stop", "kill -9", "restart"])
def test_a_firewall_that_is_stopped_or_killed_opens_nothing(
    lab: Lab, outsider: Scanner, what: str
) -> None:
    before = rules(lab)
    with listener(lab):
        if what == "kill -9":
            kill_firewalld(lab)
        else:
            lab.run(f"systemctl {what} firewalld")
        assert outsider.listening_tcp_ports() == PUBLIC
        if what != "stop":
            lab.wait("it is back", lambda: firewalld_runs(lab))
            assert outsider.listening_tcp_ports() == PUBLIC
    assert rules(lab) == before
    assert lab.status("healthz") == 200


@pytest.mark.differs("firewalld 1.3")
def test_no_moment_of_a_restart_or_reload_lets_an_outsider_in(lab: Lab, outsider: Scanner) -> None:
    # A first packet every few milliseconds, answered or not.
    program = (
        "import select, socket, sys, time\n"
        "end, tries, live = time.monotonic() + 10, 0, []\n"
        "while time.monotonic() < end:\n"
        "    s = socket.socket(); s.setblocking(False)\n"
        f"    s.connect_ex(({lab.address!r}, 8000)); live.append(s); tries += 1\n"
        "    for one in select.select([], live, [], 0)[1]:\n"
        "        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0: sys.exit('it got in')\n"
        "        one.close(); live.remove(one)\n"
        "    while len(live) > 200: live.pop(0).close()\n"
        "    time.sleep(0.002)\n"
        "print(tries)\n"
    )
    with listener(lab):
        watch = subprocess.Popen(
            ["ip", "netns", "exec", outsider.space, "python3", "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in ("restart", "reload", "restart", "reload"):
            lab.run(f"systemctl {words} firewalld")
        kill_firewalld(lab)
        out, err = watch.communicate(timeout=120)
    assert watch.returncode == 0, err
    assert int(out) > 500, "it did not try"


@pytest.mark.differs("firewalld 1.3")
def test_a_firewalld_that_cannot_start_leaves_the_same_openings(
    lab: Lab, outsider: Scanner
) -> None:
    """Its rules gone too, as after a reboot."""
    override = "/run/systemd/system/firewalld.service.d/broken.conf"
    lab.run(
        f"mkdir -p {os.path.dirname(override)}; systemctl stop firewalld;"
        f" printf '[Service]\nExecStart=\nExecStart=/bin/false\nRestart=no\n' > {override};"
        " nft delete table inet firewalld; systemctl daemon-reload; systemctl start firewalld || true"
    )
    try:
        with listener(lab):
            assert outsider.nmap("-p", "1-1000,6379,8000-8500") == PUBLIC
            assert lab.status("healthz") == 200
    finally:
        lab.run(f"rm {override}; systemctl daemon-reload; systemctl restart firewalld")
    assert "stack_guard" not in lab.run("nft list tables")


def test_denials_are_counted(lab: Lab, outsider: Scanner) -> None:
    before = denied(lab)
    assert not outsider.connects(8000)
    assert before < denied(lab) <= before + 50
    after = denied(lab)
    assert outsider.connects(443)
    assert denied(lab) <= after + 20, "what is let in is no denial"


@pytest.mark.one_release
def test_rules_and_their_absence_of_holes_outlive_a_reboot(lab: Lab, outsider: Scanner) -> None:
    before = rules(lab)
    lab.reboot()
    assert rules(lab) == before
    # Up before the network is.
    order = lab.run(
        "systemctl show -P ActiveEnterTimestampMonotonic firewalld systemd-networkd haproxy ssh"
    ).split()
    assert int(order[0]) <= min(map(int, order[1:]))
    assert outsider.listening_tcp_ports() == PUBLIC


# --- changing the rules ---------------------------------------------------------------------------


@pytest.mark.nightly(
    "firewalld keeps what is open; the tables themselves are compared in make test"
)
@pytest.mark.one_release
def test_reloads_under_load_lose_nothing(lab: Lab) -> None:
    for mode in ("keepalive", "close"):
        with lab.under_load(mode=mode, concurrency=8) as load:
            for _ in range(5):
                lab.run("firewall-cmd --reload")
                # Some requests by the new rules before the next reload.
                load.wait_for(load.result.ok + 100)
        assert load.stop().exact, load.stop().summary()


@pytest.mark.nightly("two applies; that a second one changes nothing is in test_apply.py")
@pytest.mark.one_release
def test_a_second_apply_changes_no_rule_and_waits_for_nobody(lab: Lab) -> None:
    lab.apply()
    done = lab.apply()
    assert done.stdout.strip().endswith("0 changed, 0 failed")
    assert "firewall" not in done.stderr
    assert firewall_status(lab) == "firewall: confirmed"


def test_an_opening_comes_and_goes_with_the_pillar(lab: Lab, outsider: Scanner) -> None:
    both = json.dumps(
        {
            "firewalld": {
                "openings": [
                    {"port": 8000, "protocol": "tcp", "from": "any"},
                    {"port": 53, "protocol": "udp", "from": "any"},
                ]
            }
        }
    )
    with listener(lab), udp_echo(lab):
        done = lab.apply(PILLAR=both)
        assert "the change of rules is confirmed" in done.stderr
        assert outsider.connects(8000)
        assert outsider.nmap("-sU", "-p", "53") == {53}
        assert "confirmed" in lab.apply().stderr
        assert not outsider.connects(8000)
        assert outsider.nmap("-sU", "-p", "53") == set()


@pytest.mark.one_release
def test_what_was_added_by_hand_is_removed(lab: Lab, outsider: Scanner) -> None:
    before = rules(lab)
    lab.run(
        "cp /usr/lib/firewalld/zones/trusted.xml /etc/firewalld/zones/;"
        f" sed -i 's|</zone>|<source address=\"{outsider.address}\"/></zone>|' /etc/firewalld/zones/trusted.xml;"
        " firewall-cmd -q --reload"
    )
    with listener(lab):
        assert outsider.connects(8000), "the test's own hole"
        lab.apply()
        assert not outsider.connects(8000)
    assert rules(lab) == before


@pytest.mark.one_release
@pytest.mark.parametrize("sls", ["", "firewalld"])
def test_a_pillar_that_closes_ssh_is_refused_before_any_change(lab: Lab, sls: str) -> None:
    before = rules(lab)
    refused = lab.apply(
        check=False,
        SLS=sls,
        PILLAR='{"firewalld": {"replace": {"base": []}}, "base": {"timezone": "Europe/Berlin"}}',
    )
    assert refused.returncode != 0
    assert "refused: the firewall: tcp 22 (ssh) would be closed to everybody" in refused.stdout
    assert rules(lab) == before
    assert "Berlin" not in lab.run("readlink /etc/localtime"), "something was changed"
    assert firewall_status(lab) == "firewall: confirmed"


@pytest.mark.differs("firewalld 1.3's own checks")
@pytest.mark.parametrize(
    ("pillar", "said"),
    [
        # What both releases of firewalld refuse; 1.3 lets a limit of 50000/s pass, 2.3 does not.
        ('{"icmp": {"accept_ipv6": ["neighbor-solicitation"]}}', "INVALID_ICMPTYPE"),
    ],
)
def test_rules_that_firewalld_refuses_leave_the_good_ones(lab: Lab, pillar: str, said: str) -> None:
    before = rules(lab)
    started = lab.run("systemctl show -P ExecMainStartTimestampMonotonic firewalld")
    refused = lab.apply(check=False, PILLAR=f'{{"firewalld": {pillar}}}')
    assert refused.returncode != 0
    assert "refused by its own check, nothing was changed" in refused.stdout
    assert said in refused.stdout, "firewalld's own message"
    assert rules(lab) == before
    assert lab.run("systemctl show -P ExecMainStartTimestampMonotonic firewalld") == started
    assert firewall_status(lab) == "firewall: confirmed"


# --- confirmed, or taken back ---------------------------------------------------------------------


@pytest.mark.one_release
def test_a_change_that_nobody_confirms_takes_itself_back(lab: Lab, outsider: Scanner) -> None:
    before = rules(lab)
    with listener(lab):
        converge(lab, OPEN_8000 % ', "confirm_seconds": 30')
        assert "waits to be confirmed" in firewall_status(lab)
        assert outsider.connects(8000)
        lab.wait("taken back", lambda: "is taken back" in firewall_status(lab), 60)
        assert not outsider.connects(8000)
    assert rules(lab) == before
    assert lab.make("status", check=False).returncode != 0, "the operator is told"
    assert "too late" in lab.run("firewall-confirm 2>&1 || true")


def test_a_change_that_is_confirmed_stays(lab: Lab, outsider: Scanner) -> None:
    with listener(lab):
        converge(lab, OPEN_8000 % ', "confirm_seconds": 120')
        # That connection was there before: it says nothing of new ones.
        assert "open a new one" in lab.run("firewall-confirm 2>&1 || true")
        assert "waits to be confirmed" in firewall_status(lab)
        words = ["ssh", "-F", str(lab.state / "ssh_config"), "-o", "ControlPath=none", lab.host]
        done = subprocess.run([*words, "sudo firewall-confirm"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert lab.run(CLOCK) == "", "nothing is left that would take it back"
        assert outsider.connects(8000)
        assert firewall_status(lab) == "firewall: confirmed"


@pytest.mark.one_release
def test_a_change_that_closes_ssh_for_the_controller_takes_itself_back(lab: Lab) -> None:
    """It leaves ssh open to somebody, so it is not refused; only not to the one who applies."""
    before = rules(lab)
    narrow = '[{"port": 22, "protocol": "tcp", "from": {"network": "192.0.2.0/24"}}]'
    done = lab.apply(
        check=False,
        PILLAR=f'{{"firewalld": {{"confirm_seconds": 30, "replace": {{"base": {narrow}}}}}}}',
    )
    assert done.returncode != 0
    assert "the changed firewall could not be confirmed over a new connection" in done.stderr

    def in_again() -> bool:
        words = ["ssh", "-F", str(lab.state / "ssh_config"), "-o", "ControlPath=none", "-o"]
        command = [*words, "ConnectTimeout=3", lab.host, "true"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert not in_again()
    lab.wait("ssh is back", in_again)
    assert rules(lab) == before


@pytest.mark.nightly(
    "half a minute for its clock, which nothing else shows waiting; make test shows it running out"
)
@pytest.mark.one_release
def test_the_clock_of_a_change_begins_when_the_apply_is_over(lab: Lab, outsider: Scanner) -> None:
    """A long apply leaves as much time to confirm it as a short one."""
    with listener(lab):
        # As an apply that goes on after the firewall's states: it holds the same lock.
        lab.run(
            "systemd-run -q --unit=long-apply --collect flock /run/stack/apply.lock sleep 25;"
            " firewall-confirm --arm 20"
        )
        lab.wait("the apply is over", lambda: "inactive" in lab.run(
            "systemctl is-active long-apply || true"))  # fmt: skip
        assert "waits to be confirmed" in firewall_status(lab)
        # It goes on, whoever started it anew.
        assert len(lab.run(CLOCK).splitlines()) == 1
        lab.run("firewall-confirm --force")
        assert firewall_status(lab) == "firewall: confirmed"
        assert lab.run(CLOCK) == ""


@pytest.mark.one_release
def test_a_reboot_takes_back_what_nobody_confirmed(lab: Lab, outsider: Scanner) -> None:
    before = rules(lab)
    converge(lab, OPEN_8000 % ', "confirm_seconds": 600')
    assert rules(lab) != before
    lab.reboot()
    lab.wait("taken back", lambda: "is taken back" in firewall_status(lab))
    assert rules(lab) == before


@pytest.mark.nightly(
    "a minute for its clock; make test shows it running out after an apply that ended"
)
@pytest.mark.one_release
def test_an_apply_that_is_killed_right_after_the_reload_is_taken_back(lab: Lab) -> None:
    before = rules(lab)
    opened = OPEN_8000 % ', "confirm_seconds": 30'
    lab.run(
        # All formulas: after the firewall's states there is time enough to be killed in.
        f"cd /srv/stack; bootstrap/converge 'pillar={opened}' >/dev/null 2>&1 & pid=$!;"
        " until nft list table inet firewalld | grep -q 8000; do"
        " kill -0 $pid || exit 1; done; kill -9 $pid"
    )
    lab.wait("taken back", lambda: "is taken back" in firewall_status(lab), 60)
    assert rules(lab) == before
    assert lab.apply().stdout.strip().endswith(" 0 failed")
    assert firewall_status(lab) == "firewall: confirmed", "no word of it once all is as wanted"
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


@pytest.mark.differs("systemd 252")
def test_the_unit_is_sandboxed(lab: Lab) -> None:
    said = lab.run("systemd-analyze security firewalld | tail -1")
    assert float(re.search(r": ([\d.]+) ", said)[1]) <= 2.0  # type: ignore[index]
