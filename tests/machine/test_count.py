"""The count is exact: every number once, none missing, whatever happens around it."""

from __future__ import annotations

import asyncio
import time

import pace
import pytest
from lab_machine import Lab

# HTTP/2 on both releases: their HAProxy ends its connections differently.
MODES = (
    pytest.param("keepalive", marks=pytest.mark.one_release),
    pytest.param("close", marks=pytest.mark.one_release),
    "h2",
)


@pytest.mark.differs("HAProxy 2.6 over HTTP/2")
@pytest.mark.parametrize("mode", MODES)
def test_ten_thousand_requests_give_every_number_once(lab: Lab, mode: str) -> None:
    before = lab.count()
    result = asyncio.run(lab.load(mode=mode, requests=10_000, concurrency=16))
    assert result.exact, result.summary()
    assert (result.first, result.last) == (before + 1, before + 10_000)
    assert lab.count() == before + 10_000


@pytest.mark.differs("HAProxy 2.6")
@pytest.mark.parametrize("mode", MODES)
def test_ten_reloads_of_haproxy_lose_nothing(lab: Lab, mode: str) -> None:
    before = lab.count()
    with lab.under_load(mode=mode) as load:
        for _ in range(10):
            lab.run("systemctl reload haproxy")
            # Some requests through the new process before the next reload.
            load.wait_for(load.result.ok + 100)
    result = load.result
    assert result.exact, result.summary()
    assert lab.count() == before + result.sent


@pytest.mark.parametrize("mode", MODES)
def test_a_rolled_configuration_loses_nothing(lab: Lab, mode: str) -> None:
    """Every instance is drained, restarted and waited for while clients go on."""
    before = lab.count()
    started = lab.run("systemctl show -P MainPID counter@1 counter@2")
    with lab.under_load(mode=mode) as load:
        threads = {"keepalive": 5, "close": 6, "h2": 7}[mode]
        lab.apply(
            PILLAR=f'{{"counter": {{"probation_seconds": 0, "environment": {{"COUNTER_THREADS": {threads}}}}}}}'
        )
        load.wait_for(load.result.ok + 100)
    result = load.result
    assert lab.run("systemctl show -P MainPID counter@1 counter@2") != started, "nothing was rolled"
    assert result.exact, result.summary()
    assert lab.count() == before + result.sent


def test_adding_and_removing_an_instance_loses_nothing(lab: Lab) -> None:
    before = lab.count()
    with lab.under_load(mode="keepalive") as load:
        lab.apply(PILLAR='{"counter": {"instances": 3, "probation_seconds": 0}}')
        lab.wait(
            "three instances",
            lambda: lab.run("systemctl is-active counter@3", check=False) == "active\n",
        )
        load.wait_for(load.result.ok + 100)
        lab.apply()
    assert load.result.exact, load.result.summary()
    assert lab.run("systemctl is-active counter@3", check=False) == "inactive\n"
    assert lab.count() == before + load.result.sent


@pytest.mark.differs("HAProxy 2.6, Redis 7.0")
def test_an_unreachable_redis_is_a_short_503_and_recovers_by_itself(lab: Lab) -> None:
    last = lab.see()
    instances = lab.run("systemctl show -P MainPID counter@1 counter@2")
    lab.run("systemctl stop redis-server")
    try:
        for _ in range(5):
            began = time.monotonic()
            assert lab.status() == 503
            assert pace.since(began) < 1
        lab.wait("the instances are taken out", lambda: lab.status("readyz") == 503)
    finally:
        lab.run("systemctl start redis-server")
    lab.wait("it serves again", lab.serving)
    assert lab.see() == last + 1, "nothing lost, nothing counted meanwhile"
    assert lab.run("systemctl show -P MainPID counter@1 counter@2") == instances, (
        "no restart was needed"
    )


@pytest.mark.differs("Redis 7.0")
def test_acknowledged_counts_outlive_a_killed_redis(lab: Lab) -> None:
    with lab.under_load(mode="keepalive") as load:
        load.wait_for(500)
        lab.run("systemctl kill -s KILL redis-server")
        lab.wait("it serves again", lab.serving)
        load.wait_for(load.result.ok + 100)
    result = load.result
    assert not result.duplicates, "a number given out twice is a lost count"
    assert lab.count() >= (result.last or 0)


@pytest.mark.differs("HAProxy 2.6 tells HTTP/2 clients to repeat")
def test_a_killed_instance_fails_only_what_was_in_flight(lab: Lab) -> None:
    before = lab.count()
    restarts = int(lab.run("systemctl show -P NRestarts counter@1"))
    with lab.under_load(mode="keepalive") as load:
        load.wait_for(500)
        lab.run("systemctl kill -s KILL counter@1")
        lab.wait(
            "systemd brings it back",
            lambda: int(lab.run("systemctl show -P NRestarts counter@1")) == restarts + 1,
        )
        lab.wait("HAProxy uses it again", lab.all_ready)
        load.wait_for(load.result.ok + 500)
    result = load.result
    # 16 requests at a time over two instances: what was on the killed one, and no more. Such a
    # request may have been counted or not; its number is never given to another.
    assert result.error_count <= 17, result.summary()
    assert not result.duplicates
    assert result.missing_count <= result.error_count + result.resent, result.summary()
    assert before + result.ok <= lab.count() <= before + result.sent + result.resent


@pytest.mark.parametrize("unit", ["haproxy", "counter@2", "redis-server"])
def test_a_killed_service_comes_back(lab: Lab, unit: str) -> None:
    pid = lab.run(f"systemctl show -P MainPID {unit}")
    lab.run(f"systemctl kill -s KILL {unit}")
    lab.wait(
        f"{unit} is back", lambda: lab.run(f"systemctl is-active {unit}", check=False) == "active\n"
    )
    assert lab.run(f"systemctl show -P MainPID {unit}") != pid
    lab.wait("it serves", lab.serving)
    lab.see()


@pytest.mark.differs("systemd 252")
def test_count_and_services_outlive_a_reboot(lab: Lab) -> None:
    last = lab.see()
    booted = lab.run("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1")
    lab.make("ssh", CMD="systemctl reboot", check=False)

    def rebooted() -> bool:
        try:
            return (
                lab.run("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1", timeout=15)
                != booted
            )
        except (AssertionError, TimeoutError, OSError):
            return False
        except Exception:  # ssh went away in the middle
            return False

    lab.wait("the machine is back", rebooted, 120)
    lab.wait("it serves", lab.serving)
    assert lab.see() == last + 1
    assert lab.run("systemctl --failed --plain --no-legend") == ""
