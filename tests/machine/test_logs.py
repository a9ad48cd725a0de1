"""Logs of every service in one place: complete, each once, from nobody but the own machines."""

from __future__ import annotations

import json
import re
import shlex
import time
import uuid
from collections import Counter
from typing import Any

import pace
import pytest
from lab_machine import Lab

CENTRAL = "/var/log/central"


def show(lab: Lab, *words: str) -> list[dict[str, Any]]:
    """Entries as `central-logs show` finds them."""
    said = lab.run(f"central-logs show --json {' '.join(words)} || test $? = 1")
    return [json.loads(line) for line in said.splitlines()]


def metrics(lab: Lab) -> dict[str, Any]:
    found = json.loads(lab.run("cat /run/journal-shipper/metrics.json"))
    assert isinstance(found, dict)
    return found


def ask(lab: Lab, path: str = "") -> str:
    """One request; its id."""
    head = lab.curl(path, "-D-", "-o", "/dev/null", "-H", "X-Request-ID: chosen-by-the-client")
    found = re.findall(r"(?mi)^x-request-id: (\S+)\s*$", head)
    assert len(found) == 1, head
    return str(found[0])


def services_of(lab: Lab, request: str) -> list[str]:
    return sorted(one["service"] for one in show(lab, f"--request={request}"))


@pytest.mark.differs("HAProxy 2.6, rsyslog 8.2302")
def test_one_request_is_followed_from_the_edge_to_the_application(lab: Lab) -> None:
    """Of an ordinary answer HAProxy's line says it all; else the application says more, by the same id."""
    ordinary, request = ask(lab), ask(lab, "nope")
    began = time.monotonic()
    uuid.UUID(request)
    lab.wait("both lines", lambda: services_of(lab, request) == ["counter", "haproxy"], 5)
    assert not pace.is_over(began, 5)
    assert services_of(lab, ordinary) == ["haproxy"]
    if lab.topology == "kitchen":
        return
    (line,) = lab.make("logs", REQUEST=ordinary).stdout.splitlines()
    (server,) = re.findall(r" server=(\S+)", line)
    number = server.rpartition("-")[2]
    assert lab.run(f"systemctl is-active counter@{number}") == "active\n", (
        "the instance that answered"
    )
    shown = lab.make("logs", REQUEST=request).stdout.splitlines()
    assert len(shown) == 2
    assert all(f"request_id={request}" in line for line in shown)
    (edge,) = [line for line in shown if " haproxy: " in line]
    for word in (
        "GET /nope 404",
        "client_ip=",
        "server=",
        "tls_version=TLSv1.",
        "bytes=",
        "time_active=",
    ):
        assert word in edge
    assert lab.make("logs", REQUEST=request, SERVICE="haproxy").stdout.splitlines() == [edge]


@pytest.mark.controller
def test_what_cannot_be_asked_is_one_clear_line(lab: Lab) -> None:
    for setting, value in (
        ("SINCE", "yesterday"),
        ("SERVICE", "$(reboot)"),
        ("HOST", "nobody"),
        ("FOLLOW", "yes"),
    ):
        refused = lab.make("logs", check=False, **{setting: value})
        said = [
            line for line in (refused.stdout + refused.stderr).splitlines() if "***" not in line
        ]
        assert refused.returncode != 0
        assert len(said) == 1, said
        assert f"{setting}={value}" in said[0]


@pytest.mark.differs("systemd 252")
def test_every_unit_of_ours_has_its_lines_under_its_own_name(lab: Lab) -> None:
    # Also of those that were rotated and have said nothing since.
    found = {name.split(".")[0] for name in lab.run(f"ls {CENTRAL}/{lab.name}").split()}
    assert {"counter", "haproxy", "redis", "systemd", "sshd", "sudo"} <= found
    mark = f"mark-{uuid.uuid4().hex}"
    lab.run(f"runuser -u nobody -- logger -t sudo {mark}-forged; logger -t sudo {mark}-root")
    wanted = {f"{mark}-forged": "system", f"{mark}-root": "sudo"}

    def names() -> dict[str, str]:
        # The command itself is logged too, with the marks in it.
        found = {one.get("message"): one["service"] for one in show(lab, "--since=1h")}
        return {message: found[message] for message in wanted if message in found}

    lab.wait("both", lambda: names() == wanted)


def dropped_by_haproxy(lab: Lab) -> int:
    """Lines that it could not hand to journald since it was started, as it counts them."""
    text = lab.run("curl -s http://127.0.0.1:8405/metrics")
    found = re.search(r"(?m)^haproxy_process_dropped_logs_total (\d+)$", text)
    assert found, text[:300]
    return int(found[1])


@pytest.mark.one_release
def test_a_thousand_requests_while_the_receiver_is_away_are_all_found_once(lab: Lab) -> None:
    """Also with the shipper and the receiver killed meanwhile."""
    before = lab.run("date -u +%Y-%m-%dT%H:%M:%S.%6NZ").strip()
    dropped, lost = dropped_by_haproxy(lab), metrics(lab)["lost"]
    lab.run("systemctl stop rsyslog")
    try:
        # Not ordinary ones: those have no line of the application's.
        heads = lab.curl("nope?[1-1000]", "-D-", "-o", "/dev/null")
        asked = set(re.findall(r"(?mi)^x-request-id: (\S+)\s*$", heads))
        assert len(asked) == 1000
        lab.run("systemctl kill -s KILL journal-shipper")
        lab.wait("a minute away, and told", lambda: metrics(lab)["lag_seconds"] >= 60, 90)
        assert metrics(lab)["connected"] == 0
    finally:
        lab.run("systemctl start rsyslog")

    def answered(service: str = "counter") -> list[dict[str, Any]]:
        found = show(lab, f"--service={service}", f"--since={before}")
        return [one for one in found if one.get("data", {}).get("path") == "/nope"]

    # Killed in the middle of catching up.
    lab.run("systemctl kill -s KILL journal-shipper; systemctl kill -s KILL rsyslog")
    lab.wait("all of them", lambda: len(answered()) >= 1000, 30)
    ids = Counter(one["data"]["request_id"] for one in answered())
    assert set(ids) == asked
    assert set(ids.values()) == {1}, "shown twice"
    # HAProxy never waits for its log: on a starved machine it drops a line itself and counts it. What
    # the journal got is all there.
    said = lab.run(f"journalctl -u haproxy -o cat --since '{before[:19].replace('T', ' ')} UTC'")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    kept = {one["request_id"] for one in lines if one["path"] == "/nope"}
    assert len(kept & set(ids)) >= 1000 - (dropped_by_haproxy(lab) - dropped)
    lab.wait(
        "all of haproxy's",
        lambda: kept <= {one["data"]["request_id"] for one in answered("haproxy")},
        30,
    )
    lab.wait("the lag is gone", lambda: metrics(lab)["lag_seconds"] < 5, 30)
    assert metrics(lab)["lost"] == lost


@pytest.mark.one_release
def test_the_journal_drops_none_of_a_busy_services_lines(lab: Lab) -> None:
    """As haproxy and counter log: to a unit's stdout, far faster than they ever do."""
    count, mark = 100_000, f"burst-{uuid.uuid4().hex[:8]}"
    limits = lab.run("systemctl show -P LogRateLimitIntervalUSec haproxy counter@1").split()
    assert set(limits) == {"0"}, "these units have no limit of their own"
    lab.run(
        f"systemd-run --wait --collect --unit={mark} -p LogRateLimitIntervalSec=0"
        f" seq -f '{mark} %.0f' {count}"
    )
    lab.run("journalctl --sync")
    assert int(lab.run(f"journalctl -u {mark} -o cat | grep -c '^{mark} '")) == count
    found = (
        f"zcat -f {CENTRAL}/{lab.name}/system.log* | grep -o '{mark} [0-9]*\"' | sort -u | wc -l"
    )
    lab.wait("all in the central log", lambda: int(lab.run(found)) == count)


@pytest.mark.differs("systemd 252")
def test_no_word_that_an_ordinary_user_logs_stops_the_shipper(lab: Lab) -> None:
    """Of these fields journald itself vouches for none; each of these words stopped it for ever."""
    mark = uuid.uuid4().hex
    log = f"""
from systemd import journal
journal.sendv("MESSAGE=a-{mark}", "PRIORITY=banana")
journal.sendv("MESSAGE=b-{mark}", "PRIORITY=3", "PRIORITY=4")
journal.sendv("MESSAGE=c-{mark}", "SYSLOG_IDENTIFIER=x", "SYSLOG_IDENTIFIER=y")
journal.sendv("MESSAGE=d-{mark}")
"""
    before = lab.run("systemctl show -P NRestarts journal-shipper")
    lab.run(f"setpriv --reuid nobody --regid nogroup --clear-groups python3 -c {shlex.quote(log)}")

    def arrived() -> list[str]:
        found = [one.get("message", "") for one in show(lab, "--since=1h", "--service=system")]
        return sorted(one for one in found if one.endswith(mark))

    lab.wait("all lines", lambda: arrived() == [f"{one}-{mark}" for one in "abcd"])
    assert lab.run("systemctl show -P NRestarts journal-shipper") == before


# By journald's own protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL), as any user may: the three floods and
# words under others' names, or one large entry and a line.
FLOOD = """
import array, fcntl, os, socket, sys
mark = sys.argv[1].encode()
def log(**fields):
    data = b"".join(
        name.encode() + b"\\n" + len(value).to_bytes(8, "little") + value + b"\\n"
        for name, value in fields.items()
    )
    file = os.memfd_create("entry", os.MFD_ALLOW_SEALING)
    while data:
        data = data[os.write(file, data):]
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, 0xF)
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.connect("/run/systemd/journal/socket")
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))
    journal.sendmsg([], [rights])
    os.close(file)
if "huge" in sys.argv:
    log(MESSAGE=b"huge-" + mark + b"y" * (30 << 20))
    sys.exit(log(MESSAGE=b"743-" + mark))
for number in range(540):
    log(MESSAGE=(b"%d-%s" % (number, mark)) + b'"' * 49000)
for number in range(200):
    log(MESSAGE=b"%d-%s" % (number + 540, mark), UNIT=b"%d" % number + b"u" * 300_000)
log(MESSAGE=b"740-" + mark + b"x" * (30 << 20))
log(MESSAGE=b"741-" + mark, SYSLOG_IDENTIFIER=b"h" * 200_000)
log(MESSAGE=b"742-" + mark, SYSLOG_IDENTIFIER=b"haproxy", UNIT=b"haproxy.service", PRIORITY=b"2")
"""


@pytest.mark.differs("systemd 252")
def test_no_flood_of_a_user_stops_the_shipper_nor_poses_as_a_service(lab: Lab) -> None:
    """Of a container, no memory controller bounds the memory: what the unit itself refuses does."""
    mark = uuid.uuid4().hex
    shipper = "$(systemctl show -P MainPID journal-shipper)"
    restarts = lab.run("systemctl show -P NRestarts journal-shipper")
    before = metrics(lab)["lost"]
    user = "setpriv --reuid nobody --regid nogroup --clear-groups"
    limit = re.search(r"(?m)^Max data size +(\d+) ", lab.run(f"cat /proc/{shipper}/limits"))
    assert limit
    assert int(limit[1]) < int(lab.run("systemctl show -P MemoryMax journal-shipper"))
    lab.run("systemctl stop rsyslog")
    try:
        lab.run(f"{user} python3 - {mark}", data=FLOOD)
    finally:
        lab.run("systemctl start rsyslog")
    log = f"{CENTRAL}/{lab.name}/system.log"
    last = f"tail -c 5000 {log}* | grep -c '\"74%d-{mark}\"' || true"
    lab.wait("the last entry", lambda: int(lab.run(last % 2)) == 1)
    # Large files are rotated and compressed meanwhile.
    arrived = (
        f'zgrep -ho \'"message":"[0-9]*-{mark}\' {CENTRAL}/{lab.name}/system.log* | sort -u | wc -l'
    )
    assert int(lab.run(arrived)) == 743
    assert lab.run("systemctl show -P NRestarts journal-shipper") == restarts
    shown = lab.run(
        f"central-logs show --since=1h --service=system | grep -v COMMAND= | grep 74[12]-{mark}"
    )
    long, forged = (line.split(f" {lab.name} ", 1)[1] for line in shown.splitlines())
    assert long.startswith("nobody (hhh")
    assert forged == f"nobody (haproxy): [crit] 742-{mark}"
    assert mark not in lab.run(f"cat {CENTRAL}/{lab.name}/haproxy.log")
    # With half of its memory it can't hold the large one, and counts it.
    dropin = "/run/systemd/system/journal-shipper.service.d"
    again = "systemctl daemon-reload && systemctl restart journal-shipper"
    lab.run(
        f"mkdir -p {dropin} && printf '[Service]\\nLimitDATA=64M\\n' > {dropin}/test.conf && {again}"
    )
    try:
        lab.run(f"{user} python3 - {mark} huge", data=FLOOD)
        lab.wait("the next one", lambda: int(lab.run(last % 3)) == 1)
        lab.wait("the lost one is counted", lambda: metrics(lab)["lost"] == before + 1)
        assert lab.run("systemctl show -P NRestarts journal-shipper") == "0\n"
    finally:
        lab.run(f"rm -r {dropin} && {again}")
        # What it left to be sent is sent before the next test looks for a line of its own.
        lab.run(f"logger after-{mark}")
        after = f"grep -l '\"after-{mark}\"' {log}* || true"
        lab.wait("what comes after it", lambda: bool(lab.run(after)))


@pytest.mark.nightly("four commands of half a minute; a nuisance, no promise")
@pytest.mark.controller
def test_looking_at_the_logs_does_not_show_mostly_that_one_looked(lab: Lab) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    lab.run(f"logger {mark}")

    def shown(**settings: str) -> list[str]:
        return lab.make("logs", check=False, SINCE="1h", **settings).stdout.splitlines()

    lab.wait("it", lambda: any(mark in line for line in shown()))
    own = f"COMMAND=.*{mark}"
    assert not any(re.search(own, line) for line in shown())
    assert any(re.search(own, line) for line in shown(ALL="1"))
    assert any(re.search(own, line) for line in shown(SERVICE="sudo"))


def test_a_sender_that_is_not_of_the_topology_is_refused(lab: Lab) -> None:
    """None, another CA's, or a certificate of the right CA for no machine."""
    before = lab.run(f"ls -R {CENTRAL}")
    lab.run(
        "set -e; rm -rf /root/try; mkdir -m 700 /root/try; cd /root/try;"
        " openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout other.key"
        f" -out other.crt -subj /CN={lab.name} -addext subjectAltName=DNS:{lab.name} 2>/dev/null;"
        " openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout right.key -out right.csr"
        " -subj /CN=nobody 2>/dev/null;"
        " openssl x509 -req -in right.csr -CA /etc/stack/pki/machine-ca.crt -CAkey /etc/stack/secrets/pki-ca"
        " -CAcreateserial -CAserial /root/try/serial -days 2 -out right.crt 2>/dev/null"
    )
    address = lab.run("jq -r .server /etc/journal-shipper.json || true", check=False).strip()
    if not address:
        address = json.loads(lab.run("cat /etc/journal-shipper.json"))["server"]
    mark = f"intruder-{uuid.uuid4().hex}"
    frame = f"<14>1 2030-01-01T00:00:00Z {lab.name} ../../etc/x - - - {mark}"
    session = f"1 open 30 relp_version=0\\ncommands=syslog\\n2 syslog {len(frame)} {frame}\\n"

    def send(*certificate: str) -> str:
        words = " ".join(certificate)
        return lab.run(
            f"cd /root/try; (printf '{session}'; sleep 1) | timeout 5 openssl s_client -quiet"
            f" -connect {address}:2514 -CAfile /etc/stack/pki/machine-ca.crt {words} 2>&1",
            check=False,
        )

    logged = [f"{CENTRAL}/{lab.name}/sudo.log"]
    try:
        for words in ("", "-cert other.crt -key other.key", "-cert right.crt -key right.key"):
            assert "200 OK" not in send(words), words
        # The commands are logged, with all that they send.
        assert lab.run(f"grep -rl {mark} {CENTRAL} /etc || true").split() == logged
        # The same with the machine's own is taken: what was tried is what is refused.
        own = "-cert /etc/stack/pki/machine.crt -key /etc/stack/pki/machine.key"
        assert "200 OK" in send(own)
        # Also where a trim has just packed it.
        alone = f"zcat -f {CENTRAL}/{lab.name}/system.log* | grep -cx '{mark}' || true"
        lab.wait("it", lambda: lab.run(alone).strip() == "1")
        assert "/x" not in lab.run(f"ls -R {CENTRAL}").replace(before, "")
    finally:
        lab.run("rm -rf /root/try")


def test_a_rotation_under_way_loses_nothing(lab: Lab) -> None:
    mark = f"turn-{uuid.uuid4().hex[:8]}"
    config = "/root/trim.json"
    lab.run(
        'sed -E \'s/"rotate_mb": [0-9]+/"rotate_mb": 0/\' /etc/central-logs.json'
        f" > {config}; chmod 644 {config}"
    )
    began = lab.run("date -u +%Y-%m-%dT%H:%M:%S").strip()
    # Until it was rotated twice, however busy the computer is.
    lab.run(
        f"systemd-run --unit={mark} --collect sh -c"
        f" 'n=0; until test -e /run/{mark}; do n=$((n+1)); echo {mark} $n; sleep 0.01; done'"
    )
    rotated = f"zgrep -lsF '\"{mark} ' {CENTRAL}/{lab.name}/system.log.* | wc -l"

    def rotate() -> bool:
        lab.run(f"central-logs trim {config}")
        return int(lab.run(rotated)) >= 2

    try:
        lab.wait("two rotated files with lines of it", rotate)
    finally:
        lab.run(f"touch /run/{mark}")
    stopped = f"systemctl is-active {mark} || true"
    lab.wait("it has ended", lambda: lab.run(stopped) == "inactive\n")
    lab.run(f"journalctl --sync; rm /run/{mark}")
    count = int(lab.run(f"journalctl -u {mark} -o cat | grep -c '^{mark} '"))
    wanted = [f"{mark} {n}" for n in range(1, count + 1)]

    def found() -> list[str]:
        return [
            one["message"]
            for one in show(lab, f"--since={began}")
            if one.get("unit") == f"{mark}.service"
        ]

    # Systemd says something of the unit as well.
    said = f"{mark} "
    lab.wait("all of them", lambda: [one for one in found() if one.startswith(said)] == wanted, 30)
    lab.run(f"rm {config}")


def test_nothing_is_kept_a_second_time(lab: Lab) -> None:
    """Debian's rules would write all of the journal to /var/log/syslog as well."""
    size = "stat -c %s /var/log/syslog 2>/dev/null || echo 0"
    before = lab.run(size)
    lab.run("logger not-twice")
    time.sleep(1)
    assert lab.run(size) == before
    assert lab.run("systemctl is-active syslog.socket || true").strip() != "active"


@pytest.mark.differs("systemd 252")
@pytest.mark.parametrize("unit", ["journal-shipper", "rsyslog"])
def test_the_units_are_sandboxed(lab: Lab, unit: str) -> None:
    score = lab.run(f"systemd-analyze security --no-pager {unit} | tail -1")
    found = re.search(r": (\d+\.\d)", score)
    assert found, score
    assert float(found[1]) <= 2, score


def test_a_renewed_certificate_is_loaded(lab: Lab) -> None:
    """By the next apply, and what is sent meanwhile is not lost."""
    serial = "openssl x509 -noout -serial -in /etc/stack/pki/machine.crt"
    before = lab.run(serial)
    lab.run("rm /etc/stack/pki/machine.crt")
    said = lab.run("cd /srv/stack && bootstrap/converge")
    assert "0 failed" in said
    assert lab.run(serial) != before
    request = ask(lab, "nope")
    lab.wait("both lines", lambda: services_of(lab, request) == ["counter", "haproxy"], 10)
    assert "0 changed, 0 failed" in lab.run("cd /srv/stack && bootstrap/converge")
