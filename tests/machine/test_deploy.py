"""
Deploys: a change reaches the served traffic without a lost request, and a bad one cannot hurt.

Deploys of these tests come from a store of their own; the machine ends on the release it had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import locks
import pytest
import turns
from artifacts import variant
from checked_load import LoadHandle, Result, start_load
from lab_machine import ROOT, Lab

pytestmark = pytest.mark.controller

QUICK = json.dumps({"counter": {"bake_seconds": 0}})


@dataclass
class Deploys:
    """The machine, a store of its own, and two good releases in it."""

    lab: Lab
    store: Path
    source: Path
    own: str
    a: str
    b: str

    def make(self, *words: str, check: bool = True, **settings: str) -> Any:
        return self.lab.make(*words, check=check, ARTIFACT_STORE=str(self.store), **settings)

    def deploy(self, version: str, check: bool = True, **settings: str) -> Any:
        return self.make("deploy", check=check, VERSION=version, **settings)

    def start(self, version: str, **settings: str) -> subprocess.Popen[str]:
        """A deploy that runs meanwhile, in a process group of its own."""
        return subprocess.Popen(
            ["make", "deploy"],
            cwd=ROOT,
            env={
                **os.environ,
                "TOPOLOGY": self.lab.topology,
                "ARTIFACT_STORE": str(self.store),
                "VERSION": version,
                **settings,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def served(self) -> dict[str, str]:
        """What /version answers."""
        told = json.loads(self.lab.curl("version"))
        assert isinstance(told, dict)
        return told

    def current(self) -> str:
        told = json.loads(self.lab.run("cat /var/lib/stack/releases/counter.json"))
        return str(told["history"][-1]["version"])

    def running(self) -> list[str]:
        """The release of each instance; fails when one of them is not whole."""
        said = self.lab.run(
            "cd /opt/counter/instances && for n in [0-9]*; do"
            " test -s $n/release/release.json && test -s $n/release/artifact.sha256"
            " && test -x $n/release/bin/counter || echo HALF; basename $(readlink $n/release); done"
        )
        assert "HALF" not in said, said
        return said.split()

    def attempts(self) -> list[dict[str, Any]]:
        text = self.lab.run("cat /var/log/stack/counter-deploys.log")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def deploys(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploys]:
    store = tmp_path_factory.mktemp("store")
    said = lab.make("publish", ARTIFACT_STORE=str(store)).stdout
    own = said.strip().splitlines()[-1]
    source = store / f"counter-{own}.tar.gz"
    # Not the versions of the run before: they would be installed already.
    turn = f"{int(time.time())}"
    ours = Deploys(lab, store, source, own, f"0.0.0-a{turn}", f"0.0.0-b{turn}")
    lab.run("rm -f /var/lib/stack/releases/counter.json")
    for version in (ours.a, ours.b):
        variant(source, version, store)
    try:
        yield ours
    finally:
        ours.deploy(own, PILLAR=QUICK)
        for stored in store.iterdir():
            if own not in stored.name:
                (ROOT / ".cache" / "releases" / stored.name).unlink(missing_ok=True)


def test_a_deploy_is_kept_and_a_rollback_goes_back_then_says_there_is_nothing_further(
    deploys: Deploys,
) -> None:
    lab, first = deploys.lab, deploys.served()["version"]
    said = deploys.deploy(deploys.b, WHY="a new face").stdout
    assert re.search(r"\d+ s in all", said), "says where its time went"
    for number in (1, 2):
        assert re.search(rf"counter@{number}.service: .* drains, then {deploys.b} starts", said)
        assert f"counter@{number}.service: ready and in rotation after" in said
    stored = (deploys.store / f"counter-{deploys.b}.tar.gz").read_bytes()
    told = deploys.served()
    assert told["version"] == deploys.b
    assert told["sha256"] == hashlib.sha256(stored).hexdigest()
    assert deploys.running() == [deploys.b] * 2
    # What the tree carries is another release: an apply keeps what was deployed.
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")
    assert deploys.served()["version"] == deploys.b
    listed = deploys.make("releases").stdout
    assert re.search(rf"{deploys.b} .* <- {lab.host}\n", listed), listed
    assert f"back: {first}" in listed

    deploys.make("rollback")
    assert deploys.served()["version"] == first
    again = deploys.make("rollback", check=False)
    assert again.returncode != 0
    assert f"nothing further to go back to: {first} is the first good release" in again.stderr
    assert deploys.served()["version"] == first

    *last, refused = deploys.attempts()[-5:]
    assert [(one["action"], one["outcome"], one["to"]) for one in last] == [
        ("deploy", "started", deploys.b),
        ("deploy", "succeeded", deploys.b),
        ("rollback", "started", first),
        ("rollback", "succeeded", first),
    ]
    assert (refused["action"], refused["outcome"]) == ("rollback", "refused")
    assert "nothing further to go back to" in refused["reason"]
    assert last[1]["why"] == "a new face"
    assert "@" in last[1]["who"]
    assert last[1]["id"] in lab.run("journalctl -q -t counter-deploy -o cat -n 20")


# Requests a second of each client in the load that every deploy of one release goes through.
RATES = {"keepalive": 80.0, "close": 40.0, "h2": 80.0}


@contextlib.contextmanager
def constant_load(lab: Lab) -> Iterator[dict[str, LoadHandle]]:
    with turns.one_load():
        loads = {
            mode: start_load(
                lab.url, cacert=lab.ca, seconds=600, mode=mode, rate=rate, concurrency=8
            )
            for mode, rate in RATES.items()
        }
        try:
            yield loads
        finally:
            for load in loads.values():
                load.stop()


def judge(results: list[Result], before: int, after: int) -> None:
    """No error; every number once over all clients; none missing."""
    for result in results:
        assert result.unique, result.summary()
    numbers = sorted(number for result in results for number in result.numbers)
    assert numbers == list(range(before + 1, after + 1)), "a number twice, or missing"
    assert len(numbers) == sum(result.sent for result in results)


def p99(result: Result, since: int, until: int | None = None) -> float:
    part = sorted(result.latencies[since:until])
    return part[int(len(part) * 0.99)]


@pytest.mark.one_release
@pytest.mark.timeout(900)
def test_no_request_is_lost_while_releases_and_settings_are_rolled(deploys: Deploys) -> None:
    lab, before = deploys.lab, deploys.lab.count()
    with constant_load(lab) as loads:
        time.sleep(10)
        calm = {mode: (load.result.ok, p99(load.result, 0)) for mode, load in loads.items()}
        # From A, the one that runs: A -> B -> A -> B.
        for version in (deploys.b, deploys.own, deploys.b):
            said = deploys.deploy(version).stdout
            print(f"a deploy under load: {re.search(r'[0-9]+ s in all.*', said)[0]}")  # type: ignore[index]
            assert deploys.served()["version"] == version
        busy = {
            mode: p99(load.result, calm[mode][0], load.result.ok) for mode, load in loads.items()
        }
        started = lab.run("systemctl show -P MainPID counter@1 counter@2")
        threads = {"bake_seconds": 0, "environment": {"COUNTER_THREADS": 5}}
        lab.apply(PILLAR=json.dumps({"counter": threads}))
        assert lab.run("systemctl show -P MainPID counter@1 counter@2") != started
        while sum(load.result.ok for load in loads.values()) < 20_000:
            time.sleep(0.5)
    results = [load.result for load in loads.values()]
    # Told, not judged: it depends on how full the computer is. bench/deploy.py measures it.
    for mode in RATES:
        print(f"{mode}: p99 {calm[mode][1]:.1f} ms before, {busy[mode]:.1f} ms during the rolls")
        print(loads[mode].result.summary())
    judge(results, before, lab.count())
    assert sum(result.ok for result in results) >= 20_000
    lab.apply(PILLAR=QUICK)


# How many answers; fewer by CHECKED_REQUESTS, to see that it runs.
MANY = int(os.environ.get("CHECKED_REQUESTS", "1000000"))


def disturb(deploys: Deploys, version: str, loads: list[LoadHandle]) -> None:
    """Everything that may happen to an edge and its instances on purpose, once, each under load."""
    lab = deploys.lab

    def go_on() -> None:
        lab.wait("both are used", lab.all_ready)
        for load in loads:
            load.wait_for(load.result.ok + 100)

    deploys.deploy(version, PILLAR=QUICK)
    go_on()
    for _ in range(3):
        lab.run("systemctl reload haproxy")
        go_on()
    for number in (1, 2):
        lab.run(f"systemctl restart counter@{number}")
        go_on()
        server = f"app/{lab.host}-{number}"
        lab.haproxy(f"set server {server} state drain")
        for load in loads:
            load.wait_for(load.result.ok + 100)
        lab.haproxy(f"set server {server} state ready")
        go_on()


@pytest.mark.faults
@pytest.mark.one_release
@pytest.mark.timeout(4 * 3600)
def test_a_million_requests_over_deploys_reloads_drains_and_restarts(deploys: Deploys) -> None:
    """Kept connections (decision 32), by all kinds of clients; on a slow network where the kernel has one."""
    lab, before, rounds = deploys.lab, deploys.lab.count(), 0
    slow = "tc qdisc add dev lo root netem delay 2ms 1ms loss 0.1%"
    has_netem = lab.run(f"{slow} && tc qdisc del dev lo root && echo yes", check=False) == "yes\n"
    loads: list[LoadHandle] = []
    with turns.one_load():
        try:
            loads += [start_load(lab.url, cacert=lab.ca, mode=mode) for mode in RATES]
            while sum(load.result.ok for load in loads) < MANY:
                if has_netem and rounds % 2:
                    lab.run(slow)
                disturb(deploys, (deploys.b, deploys.own)[rounds % 2], loads)
                if has_netem and rounds % 2:
                    lab.run("tc qdisc del dev lo root")
                rounds += 1
        finally:
            lab.run("tc qdisc del dev lo root netem 2>/dev/null", check=False)
            for load in loads:
                load.stop()
    for load in loads:
        print(load.result.summary())
    print(
        f"{rounds} rounds; a slow network: {'every second' if has_netem else 'not in this kernel'}"
    )
    judge([load.result for load in loads], before, lab.count())


REASONS = {
    "never-ready": r"not ready after 20 s: /readyz answers 503 made never ready",
    "ready-but-500": r"GET /version answers 500, not 2xx; it is back on",
    "dies-after-5-s": r"died \d+\.\d s into its bake time(.|\n)*made to die",
    "exits-at-import": r"counter@1.service(.|\n)*made to exit at import",
    "newer-python": r"needs Python 3\.99; /usr/bin/python3 of this machine is 3\.\d+; refused",
    "truncated": r"could not be unpacked, nothing was changed",
    "wrong-sha256": r"sha256 of counter-\S+ is [0-9a-f]{64}, but the repository states 0{64}",
}


SAME_WAY_BACK = pytest.mark.nightly("the same way back as never-ready's and of one that dies")
REFUSED = pytest.mark.nightly("refused as wrong-sha256 is; test_release.py has both, too")
LATER = {
    "ready-but-500": SAME_WAY_BACK,
    "exits-at-import": SAME_WAY_BACK,
    "newer-python": REFUSED,
    "truncated": REFUSED,
}


@pytest.mark.one_release
@pytest.mark.parametrize(
    "broken",
    [pytest.param(one, marks=LATER[one]) if one in LATER else one for one in REASONS],
)
def test_a_bad_release_is_taken_back_and_the_old_one_serves_all_along(
    deploys: Deploys, broken: str
) -> None:
    lab = deploys.lab
    bad = f"0.0.1-{broken}-{time.time():.0f}"
    variant(deploys.source, bad, deploys.store, broken)
    before, old = lab.count(), deploys.served()["version"]
    with lab.under_load(mode="keepalive", rate=50, concurrency=4) as load:
        failed = deploys.deploy(bad, check=False)
        load.wait_for(load.result.ok + 20)
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert re.search(REASONS[broken], said), said
    touched = broken in ("never-ready", "ready-but-500", "dies-after-5-s", "exits-at-import")
    assert (f"it is back on {old}" in said) == touched, said
    if broken == "dies-after-5-s":
        # A process that dies takes with it what it is just answering: each client has one request.
        result, counted = load.result, lab.count() - before
        assert not result.duplicates
        assert result.error_count <= 4
        assert result.ok <= counted <= result.ok + result.error_count
    elif broken == "ready-but-500":
        # Until it is asked, the edge may take it for good: for one of its checks at most.
        result, counted = load.result, lab.count() - before
        assert not result.duplicates
        assert result.ok == counted
        assert result.error_count <= 50
    else:
        judge([load.result], before, lab.count())
    assert deploys.running() == [old] * 2
    assert deploys.current() == old
    # Nothing is left half-way: there is nothing for an apply to mend. (All formulas: the tests below.)
    said = lab.apply(SLS="counter,haproxy").stdout
    assert said.strip().endswith("0 changed, 0 failed"), said
    last = deploys.attempts()[-1]
    assert (last["to"], last["outcome"]) == (bad, "failed" if touched else "refused")


# What of its progress is the moment of the kill: a line, not a time, the same on a slow machine; and whether the controller
# is killed with it, and so the connection.
EVERY_MOMENT = pytest.mark.nightly(
    "a deploy and its kill for each of six moments; make test has three"
)
MOMENTS = [
    pytest.param("while it is carried", r"^==> ", False, marks=EVERY_MOMENT),
    ("while it is unpacked", r"counter runtime", True),
    pytest.param("while the first drains", r"counter@1\.service: .* drains, then", False, marks=EVERY_MOMENT),
    ("while the first is in its bake time", r"counter@1\.service: bake time", False),
    pytest.param("while the second drains", r"counter@2\.service: .* drains, then", False, marks=EVERY_MOMENT),
    ("after the roll", r"counter instances: changed", True),
]  # fmt: skip
BRIEF = json.dumps({"counter": {"bake_seconds": 1}})


@pytest.mark.one_release
@pytest.mark.parametrize(("moment", "line", "is_controller_killed"), MOMENTS)
def test_a_deploy_killed_at_any_moment_is_finished_by_the_next(
    deploys: Deploys, moment: str, line: str, is_controller_killed: bool
) -> None:
    lab, before = deploys.lab, deploys.lab.count()
    version = f"0.0.2-k{time.time():.0f}"
    variant(deploys.source, version, deploys.store)
    with lab.under_load(mode="keepalive", rate=50, concurrency=4) as load:
        process = deploys.start(version, PILLAR=BRIEF)
        read_until(process, line)
        if is_controller_killed:
            os.killpg(process.pid, signal.SIGKILL)
        lab.run("pkill -9 -f '[b]ootstrap/converge' || true")
        process.communicate(timeout=300)
        deploys.running()
        assert lab.status("healthz") == 200, moment
        again = deploys.deploy(version, PILLAR=BRIEF)
        assert deploys.running() == [version] * 2, (moment, again.stdout)
        assert deploys.current() == version, moment
    # An instance that was stopped by a kill in the middle of its restart is HAProxy's to miss.
    judge([load.result], before, lab.count())


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    said = ""
    while line := process.stdout.readline():
        said += line
        if re.search(pattern, line):
            return said
    raise AssertionError(f"it ended before {pattern}:\n{said}")


@contextlib.contextmanager
def held(lab: Lab) -> Iterator[None]:
    """
    The machine's apply stands still during the block, from where it is.

    sudo stops itself as soon as it hears that what it runs was stopped. Woken before it has heard, it would stop
    once more with nobody to wake it.
    """
    lab.run(
        "until pid=$(pgrep -of '^[^ ]*python.*bootstrap/converge'); do sleep 0.1; done;"
        " sudo=$(ps -o ppid= -p $pid); kill -STOP $pid;"
        " until ps -o stat= -p $sudo | grep -q T; do sleep 0.1; done; echo $pid $sudo >/run/held"
    )
    try:
        yield
    finally:
        # Who started it may be gone by now.
        lab.run("for pid in $(cat /run/held); do kill -CONT $pid || true; done 2>/dev/null")


@pytest.mark.one_release
def test_a_roll_whose_deployer_is_killed_comes_to_its_end_and_the_next_waits(
    deploys: Deploys,
) -> None:
    """The controller alone dies: its lock is free at once, and the machine rolls on."""
    version = f"0.0.2-orphan-{time.time():.0f}"
    variant(deploys.source, version, deploys.store)
    process = deploys.start(version, PILLAR=BRIEF)
    read_until(process, r"counter@1\.service: .* drains, then")
    # So that the next one meets it.
    with held(deploys.lab):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        again = deploys.start(version, PILLAR=BRIEF)
        read_until(again, r"waiting for the end of an apply that runs there \(process ")
        # What an operator asks meanwhile is answered.
        assert "counter" in deploys.lab.run("cd /srv/stack && salt-call formula.applied")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert deploys.running() == [version] * 2
    last = [(one["to"], one["outcome"]) for one in deploys.attempts()[-3:]]
    assert last == [(version, "started"), (version, "succeeded"), (version, "unchanged")]
    deploys.deploy(deploys.a, PILLAR=QUICK)


@pytest.mark.one_release
def test_a_second_deploy_is_refused_and_names_the_first(deploys: Deploys) -> None:
    process = deploys.start(deploys.b, PILLAR=QUICK, WHY="it is Monday")
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith("==> "):
            break
    # So that both others meet it.
    with held(deploys.lab):
        for refused in (
            deploys.deploy(deploys.a, check=False),
            deploys.make("rollback", check=False, VERSION=deploys.a),
        ):
            assert refused.returncode != 0
            assert re.search(
                rf"\S+@\S+ has been doing a deploy of {deploys.b} \(it is Monday\) since \d{{4}}-",
                refused.stderr,
            ), refused.stderr
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert deploys.running() == [deploys.b] * 2
    refused_ones = [one for one in deploys.attempts()[-4:] if one["outcome"] == "refused"]
    assert [one["action"] for one in refused_ones] == ["deploy", "rollback"]
    assert "it is Monday" in refused_ones[0]["reason"]


@pytest.mark.one_release
def test_no_room_is_refused_and_given_back(deploys: Deploys) -> None:
    version, old = f"0.0.3-{time.time():.0f}", deploys.served()["version"]
    variant(deploys.source, version, deploys.store)
    lab = deploys.lab
    lab.run("mount -t tmpfs -o size=8m tmpfs /opt/counter/releases")
    try:
        refused = deploys.deploy(version, check=False)
        used = lab.run("find /opt/counter/releases -mindepth 1 | wc -l").strip()
    finally:
        lab.run("umount /opt/counter/releases")
    assert refused.returncode != 0
    assert re.search(r"needs \d+ MB in .*, but 8 MB are free", refused.stdout), refused.stdout
    assert used == "0"
    assert deploys.served()["version"] == old
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


@pytest.mark.one_release
def test_a_hook_that_takes_too_long_stops_the_deploy(deploys: Deploys) -> None:
    old = deploys.served()["version"]
    hook = {"command": "echo from $FROM to $VERSION; id -un; sleep 60", "timeout": 2}
    pillar = json.dumps({"counter": {"hooks": {"before": [hook]}}})
    refused = deploys.deploy(deploys.a, check=False, PILLAR=pillar)
    assert refused.returncode != 0
    assert f"from {old} to {deploys.a}" in refused.stdout
    assert not re.search(r"^ *root$", refused.stdout, re.M), "not as root unless asked for"
    assert "nothing was changed" in refused.stdout
    assert deploys.running() == [old] * 2


@pytest.mark.one_release
def test_a_pin_in_the_pillar_refuses_another_release(deploys: Deploys) -> None:
    old = deploys.served()["version"]
    pillar = json.dumps({"counter": {"version": old}})
    refused = deploys.deploy(deploys.a, check=False, PILLAR=pillar)
    assert refused.returncode != 0
    assert f"pillar counter:version pins {old}" in refused.stdout
    assert deploys.running() == [old] * 2


# --- locks ----------------------------------------------------------------------------------------


@pytest.fixture
def every_lock_held(deploys: Deploys) -> Iterator[Path]:
    """Each lock that `nobody` or the application's account can take is held by it; on the machine, a file
    that ends :py:func:`locks.watch`, whose output is in a file beside it."""
    lab, program, stop = deploys.lab, "/run/locks.py", Path("/run/locks-watch")
    lab.run(
        f"cat > {program}; rm -f {stop} {stop}.ready",
        data=Path(locks.__file__).read_text(encoding="utf-8"),
    )
    application = lab.run("stat -c %u /proc/$(systemctl show -P MainPID counter@1)").strip()
    start = "systemd-run -q --collect -p LimitNOFILE=20000"
    try:
        for uid in ("65534", application):
            become = f"setpriv --reuid={uid} --regid={uid} --clear-groups"
            lab.run(f"{start} --unit=hold-{uid} {become} python3 {program} hold /tmp/held-{uid}")
            lab.wait("locks are held", lambda u=uid: lab.run(f"cat /tmp/held-{u} || true"))
        assert int(lab.run("cat /tmp/held-65534")) > 1000
        watch = f"-p StandardOutput=truncate:{stop}.out python3 {program} watch {stop}"
        lab.run(f"{start} --unit=watch-locks {watch}")
        lab.wait("it is looking", lambda: lab.run(f"test -e {stop}.ready && echo y || true"))
        yield stop
    finally:
        lab.run(f"touch {stop}; systemctl stop 'hold-*'; rm -f /tmp/held-* {program}")
        lab.run(
            "rm -rf /var/backups/store/* /var/lib/stack-backup/last.json /var/lib/redis/before-*"
        )


@pytest.mark.one_release
def test_no_account_holds_up_operations_by_a_lock(deploys: Deploys, every_lock_held: Path) -> None:
    """
    Not apply, deploy, backup, restore, installing a package or the firewall's self-revert: who can open a
    file can hold its lock. And whatever they lock, none but root, or the backup's account, can open it.
    """
    lab, count = deploys.lab, deploys.lab.count()
    assert lab.apply(SLS="base").stdout.strip().endswith("0 changed, 0 failed")
    deploys.deploy(deploys.current(), PILLAR=QUICK)
    assert f"count {count}" in lab.make("backup").stdout
    assert f"restored: count {count}" in lab.make("restore", YES="1").stdout
    # As every package that asks anything when it is installed.
    lab.run("echo GET debconf/frontend | DEBIAN_FRONTEND=noninteractive debconf-communicate")
    lab.run("firewall-confirm --arm 1")
    lab.wait(
        "the change of the firewall has taken itself back",
        lambda: "is taken back" in lab.run("firewall-confirm --status || true"),
    )
    lab.run(f"touch {every_lock_held}; rm -f /var/lib/stack/firewall/reverted")
    lab.wait(
        "locks were watched",
        lambda: not lab.run("systemctl -q is-active watch-locks && echo y || true"),
    )
    locked = lab.run(f"cat {every_lock_held}.out").splitlines()
    # Held for many seconds each, so the watcher saw them; a backup's may be shorter than its looks.
    assert {"closed /run/stack/apply.lock", "closed /run/stack/deploy.lock"} <= set(locked)
    assert not [line for line in locked if line.startswith("open ")]
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    assert lab.run(f"{as_nobody} ls /var/lib/stack-backup 2>&1 || true").endswith("denied\n")
