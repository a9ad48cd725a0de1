"""
Every service stopped, then frozen, and what else must be told of: its own alert comes, no other page,
and both go when it is well again. `make test-faults` runs these alone, `make test` too.

With shorter intervals than the defaults; that those keep to a minute is test_monitoring.py's.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from alarm import FAST, Alarm, listening, query, wait_for, wait_until_quiet
from lab_machine import Lab

pytestmark = [pytest.mark.controller, pytest.mark.faults, pytest.mark.one_release]

SERVICES = {
    "haproxy": "HaproxyDown",
    "counter@1": "CounterInstanceDown",
    "redis-server": "RedisDown",
    "fail2ban": "Fail2banDown",
    "firewalld": "FirewalldDown",
    "collectd": "CollectdDown",
    "journal-shipper": "ShipperDown",
    "rsyslog": "CentralLogsDown",
}
# Found frozen by their own watchdog, ended and started again before the alert on their silence.
WATCHED = ("counter@1", "journal-shipper")
BREAK = {
    "stopped": ("systemctl stop {}", "systemctl start {}"),
    "frozen": ("systemctl kill -s STOP {}", "systemctl kill -s CONT {} || systemctl restart {}"),
}


@pytest.fixture(scope="module")
def alarm(lab: Lab) -> Iterator[Alarm]:
    with listening(lab, FAST) as found:
        yield found


@pytest.fixture(autouse=True)
def begin_quiet(lab: Lab, alarm: Alarm) -> None:
    wait_until_quiet(lab)
    # What was resolved is told of before the next test listens.
    time.sleep(3)


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("unit", SERVICES)
def test_a_dead_service_is_its_own_alert_and_no_other_page(
    lab: Lab, alarm: Alarm, unit: str, how: str
) -> None:
    name = "UnitCrashed" if how == "frozen" and unit in WATCHED else SERVICES[unit]
    harm, mend = (command.replace("{}", unit) for command in BREAK[how])
    began = time.monotonic()
    lab.run(harm)
    try:
        took = alarm.wait(name, began)
        # Symptoms that nothing holds back would come by now.
        time.sleep(10)
    finally:
        lab.run(mend)
    alarm.wait(name, began, "resolved", 150)
    assert alarm.names(began, severity="page") <= {name}
    assert took <= 60
    assert name != "UnitCrashed" or alarm.names(began, unit=unit) == {"UnitCrashed"}


def test_redis_away_for_long_is_still_one_page(lab: Lab, alarm: Alarm) -> None:
    """Long enough for every symptom: errors, no server, none ready."""
    began = time.monotonic()
    lab.run("systemctl stop redis-server")
    try:
        alarm.wait("RedisDown", began)
        while time.monotonic() < began + 100:
            lab.status()
            time.sleep(0.5)
        firing = {one["metric"]["alertname"] for one in query(lab, 'ALERTS{alertstate="firing"}')}
        assert "CounterNotReady" in firing, "this test shows nothing when no symptom fires"
    finally:
        lab.run("systemctl start redis-server")
    alarm.wait("RedisDown", began, "resolved")
    assert alarm.names(began, severity="page") == {"RedisDown"}


def test_a_full_disk_is_told_of(lab: Lab, alarm: Alarm) -> None:
    began = time.monotonic()
    lab.run("mkdir -p /srv/full && mount -t tmpfs -o size=4m,nr_inodes=100 tmpfs /srv/full")
    try:
        lab.run("head -c 3900K /dev/zero > /srv/full/file")
        alarm.wait("DiskSpaceLow", began, seconds=120)
        lab.run("rm /srv/full/file && for i in $(seq 95); do : > /srv/full/$i; done")
        alarm.wait("DiskSpaceLow", began, "resolved")
        alarm.wait("InodesLow", began, seconds=120)
    finally:
        lab.run("umount /srv/full && rmdir /srv/full")
    alarm.wait("InodesLow", began, "resolved")
    assert alarm.names(began, severity="page") == set()


@contextlib.contextmanager
def redis_on_a_small_disk(lab: Lab, kib: int) -> Iterator[str]:
    """A file system of its own for Redis' data, which goes back to where it was; yields a path on it."""
    data = "/var/lib/redis"
    lab.run(
        f"systemctl stop redis-server && mount -t tmpfs -o size={kib}k,mode=700 tmpfs /mnt"
        f" && cp -a {data}/. /mnt && mount --bind /mnt {data} && umount /mnt"
        f" && chown redis:redis {data} && chmod 750 {data} && systemctl start redis-server"
    )
    try:
        yield f"{data}/fill"
    finally:
        lab.run(
            f"systemctl stop redis-server; rm -f {data}/fill; mount --bind {data} /mnt && umount {data}"
            f" && cp -a /mnt/. {data} && umount /mnt; systemctl start redis-server"
        )


def test_redis_with_a_full_disk_is_down_with_its_reason_and_loses_no_count(
    lab: Lab, alarm: Alarm
) -> None:
    """With `appendfsync always` it ends at a write that fails: it must not be ready in between."""
    began = time.monotonic()
    before = lab.see()
    with redis_on_a_small_disk(lab, 4096) as fill:
        lab.wait("it counts on the small disk", lambda: lab.status() == 200)
        counted = lab.count()
        lab.run(f"cat /dev/zero > {fill} 2>/dev/null || true")
        # What is left of the last page takes a few more.
        while lab.status() == 200:
            counted += 1
        # One that has not tried yet learns of it by its first.
        assert [lab.status() for _ in range(10)] == [503] * 10
        for port in (8001, 8002):
            said = lab.run(f"curl -s -w '%{{http_code}}' http://127.0.0.1:{port}/readyz")
            assert said.endswith("503")
        alarm.wait("RedisDown", began)
        told = lab.make("-s", "status", check=False)
        assert told.returncode != 0
        row = re.search(r"(?m)^\S+ +redis +redis-server .*$", told.stdout)
        assert row, told.stdout
        assert "No space left on device" in row[0]
        assert f"Redis on {lab.host} does not answer: RedisDown" in row[0]
        assert "No space left on device" in lab.run("journalctl -u redis-server -n 10 -o cat")
        # It does not "run again", as that page says.
        assert not query(lab, 'ALERTS{alertname="UnitCrashed",unit="redis-server"}')
        lab.run(f"rm {fill}")
        lab.wait("it counts again by itself", lab.serving)
        assert lab.count() == counted
        assert lab.see() == counted + 1
    lab.wait("it counts where it did before", lab.serving)
    assert lab.see() == counted + 2
    assert counted >= before
    alarm.wait("RedisDown", began, "resolved")


SITE = "/etc/haproxy/tls/site.pem"


def put_certificate(lab: Lab, days: int) -> None:
    """
    One that ends in ``days`` in place of the site's. HAProxy has its own in memory; nothing reloads it
    meanwhile.
    """
    # As a person's authority sends it: what ends soon is the leaf, not the authority beside it.
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    lab.run(
        f"cd /run && {new} -days 3650 -subj /CN=authority -keyout near-ca.key -out near-ca.pem"
        f" && {new} -days {days} -subj /CN=near-its-end -keyout /dev/null -out near.pem"
        " -CA near-ca.pem -CAkey near-ca.key -addext basicConstraints=critical,CA:FALSE"
        " && cat near-ca.pem >> near.pem && rm near-ca.pem near-ca.key"
        f" && cp -p {SITE} /run/site.pem.kept && cat /run/near.pem > {SITE} && rm /run/near.pem"
    )


def put_back_certificate(lab: Lab) -> None:
    lab.run(f"cat /run/site.pem.kept > {SITE} && rm /run/site.pem.kept")


@pytest.mark.parametrize(
    ("days", "name", "severity"),
    [(10, "CertificateExpiresSoon", "ticket"), (1, "CertificateExpiring", "page")],
)
def test_a_certificate_near_its_end_is_told_of(
    lab: Lab, alarm: Alarm, days: int, name: str, severity: str
) -> None:
    began = time.monotonic()
    put_certificate(lab, days)
    try:
        alarm.wait(name, began, seconds=120)
    finally:
        put_back_certificate(lab)
    alarm.wait(name, began, "resolved")
    assert alarm.names(began, severity="page") == ({name} if severity == "page" else set())


def test_a_failed_apply_is_told_of(lab: Lab, alarm: Alarm) -> None:
    began = time.monotonic()
    # Refused before any change, so the intervals of this file stay.
    done = lab.apply(check=False, SLS="base", PILLAR='{"redis": {"prot": 1}}')
    assert done.returncode != 0
    alarm.wait("ApplyFailed", began)
    assert lab.apply(SLS="base").returncode == 0
    alarm.wait("ApplyFailed", began, "resolved")
    assert alarm.names(began, severity="page") == set()


def test_a_failed_unit_is_told_of(lab: Lab, alarm: Alarm) -> None:
    began = time.monotonic()
    lab.run("systemd-run --unit=test-that-fails /bin/false; sleep 1")
    try:
        alarm.wait("UnitFailed", began)
    finally:
        lab.run("systemctl reset-failed test-that-fails")
    alarm.wait("UnitFailed", began, "resolved")


def test_a_reader_that_fails_is_told_of(lab: Lab, alarm: Alarm) -> None:
    began = time.monotonic()
    # Its counters away, firewalld itself well.
    lab.run("nft delete table inet stack_denied")
    try:
        alarm.wait("ReaderFailing", began, seconds=120)
    finally:
        lab.run("nft -f /etc/stack/denied.nft")
    alarm.wait("ReaderFailing", began, "resolved")
    assert alarm.names(began, severity="page") == set()


def test_no_instance_left_is_told_of(lab: Lab, alarm: Alarm) -> None:
    began = time.monotonic()
    lab.run("systemctl stop counter@1 counter@2")
    try:
        alarm.wait("CounterDown", began)
        # Its cause is told of: nobody is told of this one.
        wait_for(lab, "NoHealthyBackends", 120)
    finally:
        lab.run("systemctl start counter@1 counter@2")
    alarm.wait("CounterDown", began, "resolved")
    assert alarm.names(began, severity="page") == {"CounterDown"}


def test_errors_that_nothing_explains_are_told_of(lab: Lab, alarm: Alarm) -> None:
    """The application is ready and its Redis answers: it only may not count any more."""
    began = time.monotonic()
    lab.run("redis-admin ACL SETUSER counter -incr")
    try:
        while time.monotonic() < began + 150 and not alarm.names(began, severity="page"):
            assert lab.status() >= 500
            time.sleep(0.5)
        alarm.wait("ErrorRatioHigh", began, seconds=1)
    finally:
        lab.run("redis-admin ACL SETUSER counter +incr")
    assert alarm.names(began, severity="page") == {"ErrorRatioHigh"}
    alarm.wait("ErrorRatioHigh", began, "resolved", 240)


@contextlib.contextmanager
def connections(lab: Lab, number: int) -> Iterator[None]:
    """That many open and silent ones, each opened anew when it is closed."""
    ends = threading.Event()

    def hold() -> None:
        held: list[socket.socket] = []
        until = time.monotonic() + 180
        while not ends.is_set() and time.monotonic() < until:
            for one in list(held):
                with contextlib.suppress(BlockingIOError, OSError):
                    if one.recv(1) == b"":
                        one.close()
                        held.remove(one)
            while len(held) < number:
                one = socket.create_connection((lab.address, 443), timeout=5)
                one.setblocking(False)
                held.append(one)
            ends.wait(0.1)
        for one in held:
            one.close()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join(10)


def test_an_edge_that_is_almost_full_is_told_of(lab: Lab, alarm: Alarm) -> None:
    began = time.monotonic()
    before = re.search(
        r"(?m)^ +maxconn (\d+)$", lab.run("sed -n '/^frontend https/,$p' /etc/haproxy/haproxy.cfg")
    )
    assert before
    lab.haproxy("set maxconn frontend https 30")
    try:
        with connections(lab, 26):
            alarm.wait("ConnectionsNearLimit", began, seconds=150)
            lab.see()
    finally:
        lab.haproxy(f"set maxconn frontend https {before[1]}")
    alarm.wait("ConnectionsNearLimit", began, "resolved")
    assert alarm.names(began, severity="page") == set()


def test_an_ssh_that_is_frozen_is_told_of(lab: Lab, alarm: Alarm) -> None:
    """Nobody gets in meanwhile: what thaws it is on the machine already."""
    began = time.monotonic()
    signal = "systemctl kill --kill-who=main -s {} ssh"
    lab.run(
        "systemd-run -q --unit=freeze-ssh sh -c"
        f" '{signal.format('STOP')}; sleep 45; {signal.format('CONT')}'"
    )
    alarm.wait("SystemServiceDown", began)
    alarm.wait("SystemServiceDown", began, "resolved")
    assert alarm.names(began, severity="page") == set()


def test_lines_that_cannot_be_delivered_and_are_lost_are_told_of(lab: Lab, alarm: Alarm) -> None:
    began = time.monotonic()
    lab.run("systemctl stop rsyslog")
    try:
        alarm.wait("ShipperBehind", began, seconds=150)
        # More than the journal keeps, for an hour of a monitor that is unreachable.
        lab.run("for i in $(seq 50); do logger lost-$i; done; journalctl --sync")
        lab.run("journalctl -q --rotate --vacuum-time=1s")
    finally:
        lab.run("systemctl start rsyslog")
    alarm.wait("LogLinesLost", began)
    alarm.wait("ShipperBehind", began, "resolved")
    # As if a quarter of an hour had gone.
    lab.run(
        "systemctl stop journal-shipper"
        " && sed -i -E '2s/^([0-9]+) [0-9]+$/\\1 1/' /var/lib/journal-shipper/cursor"
        " && systemctl start journal-shipper"
    )
    alarm.wait("LogLinesLost", began, "resolved")
    assert alarm.names(began, severity="page") == set()


NOTE = "/var/lib/stack/last-apply.json"
BACKUP = "/var/lib/stack-backup/last.json"
RULE = "/etc/prometheus/rules/test.yaml"
OLD = 'cp -p {0} {0}.kept && sed -i \'s/"time": [0-9]*/"time": 1/\' {0}'
BROKEN_RULE = """groups:
- {name: broken, rules: [{alert: Never, expr: 'up + on (machine) up'}]}
"""
# {alert: what makes it, what mends it}. None has to do with another.
SMALL = {
    "ApplyStale": (OLD.format(NOTE), f"mv {NOTE}.kept {NOTE}"),
    "BackupFailed": (
        "systemctl start stack-backup && mv /var/backups/store /var/backups/store.away;"
        " systemctl start stack-backup; true",
        "mv /var/backups/store.away /var/backups/store; systemctl start stack-backup",
    ),
    "BackupTooOld": (OLD.format(BACKUP), f"mv {BACKUP}.kept {BACKUP}"),
    "DiskFull": (
        "mkdir -p /srv/full && mount -t tmpfs -o size=4m tmpfs /srv/full"
        " && head -c 4050K /dev/zero > /srv/full/file",
        "umount /srv/full && rmdir /srv/full",
    ),
    "BansHigh": (
        "for i in $(seq 25); do fail2ban-client -q set sshd banip 198.51.100.$i; done",
        "for i in $(seq 25); do fail2ban-client -q set sshd unbanip 198.51.100.$i; done",
    ),
    "RedisMemoryHigh": (
        "redis-admin CONFIG GET maxmemory | tail -1 > /run/maxmemory.kept;"
        " used=$(redis-admin INFO memory | sed -nE 's/^used_memory:([0-9]+).*/\\1/p');"
        " redis-admin CONFIG SET maxmemory $((used * 104 / 100))",
        "redis-admin CONFIG SET maxmemory $(cat /run/maxmemory.kept); rm /run/maxmemory.kept",
    ),
    "RedisPersistenceFailing": (
        "chmod 500 /var/lib/redis/appendonlydir && redis-admin BGREWRITEAOF",
        "chmod 700 /var/lib/redis/appendonlydir && redis-admin BGREWRITEAOF",
    ),
    "RedisClientsRefused": (
        "{ echo CONFIG SET maxclients 1; sleep 1; echo CONFIG SET maxclients 1000; } | redis-admin &"
        " sleep 0.5; redis-cli -s /run/redis/redis.sock PING; wait",
        "true",
    ),
    "RuleEvaluationFailing": (
        f"install -m 644 /dev/stdin {RULE} && systemctl reload prometheus",
        f"rm {RULE} && systemctl reload prometheus",
    ),
    "UnitCrashLooping": (
        "for i in $(seq 5); do systemctl kill -s KILL journal-shipper; sleep 3; done",
        # What is restarted by hand begins to count anew.
        "systemctl restart journal-shipper",
    ),
    "MonitorReloadFailed": (
        "cd /etc/prometheus && cp -p alertmanager.yml alertmanager.yml.kept"
        " && echo 'route: [' >> alertmanager.yml; systemctl reload prometheus-alertmanager; true",
        "cd /etc/prometheus && mv alertmanager.yml.kept alertmanager.yml"
        " && systemctl reload prometheus-alertmanager",
    ),
    "AlertmanagerDown": (
        "systemctl stop prometheus-alertmanager",
        "systemctl start prometheus-alertmanager",
    ),
}
# Nobody is told of these: too little, or by whom.
UNTOLD = ("ApplyStale", "BansHigh", "AlertmanagerDown")


def test_small_things_are_told_of_each_by_its_name(lab: Lab, alarm: Alarm) -> None:
    """
    All at once. First, messages are refused: that is an alert itself, and they come when they are
    taken again. Last, so that what looks back for minutes keeps no other test waiting.
    """
    began = time.monotonic()
    alarm.refuses = True
    harmed = []
    try:
        for name, (harm, _) in SMALL.items():
            if name == "AlertmanagerDown":
                continue
            harmed.append(name)
            lab.run(harm, data=BROKEN_RULE if name == "RuleEvaluationFailing" else "")
        wait_for(lab, "NotificationsFailing")
        alarm.refuses = False
        for name in harmed:
            if name in UNTOLD:
                wait_for(lab, name, 150)
            else:
                alarm.wait(name, began, seconds=150)
        # The sign of life of the alarm itself, which is told of all the time.
        alarm.wait("Watchdog", began, seconds=120)
        harmed.append("AlertmanagerDown")
        lab.run(SMALL["AlertmanagerDown"][0])
        wait_for(lab, "AlertmanagerDown")
    finally:
        alarm.refuses = False
        for name in reversed(harmed):
            lab.run(SMALL[name][1], check=False)
    wait_until_quiet(lab, 420)
    assert lab.apply(SLS="base").stdout.strip().endswith("0 changed, 0 failed")
