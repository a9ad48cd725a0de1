"""The count is exact: every number once, none missing, whatever happens around it."""

from __future__ import annotations

import asyncio
import re

import pace
import pytest
from lab_machine import Lab

# Requests a second of a load that goes on while a machine converges.
RATE = 100
# HTTP/2 on both releases: their HAProxy ends its connections differently.
MODES = (
    pytest.param("keepalive", marks=pytest.mark.one_release),
    pytest.param("close", marks=pytest.mark.one_release),
    "h2",
)


SHORTER = pytest.mark.nightly("minutes; the test below shows the same with fewer requests")


@pytest.mark.one_release
@pytest.mark.parametrize(
    "mode",
    ["keepalive", pytest.param("close", marks=SHORTER), pytest.param("h2", marks=SHORTER)],
)
def test_ten_thousand_requests_give_every_number_once(lab: Lab, mode: str) -> None:
    every_number_once(lab, mode, 10_000)


@pytest.mark.differs("HAProxy 2.6 over HTTP/2")
@pytest.mark.parametrize("mode", MODES[1:])
def test_every_number_once_whatever_the_connections(lab: Lab, mode: str) -> None:
    every_number_once(lab, mode, 2_000)


def every_number_once(lab: Lab, mode: str, requests: int) -> None:
    before = lab.count()
    result = asyncio.run(lab.load(mode=mode, requests=requests, concurrency=16))
    assert result.exact, result.summary()
    assert (result.first, result.last) == (before + 1, before + requests)
    assert lab.count() == before + requests


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


def connections(lab: Lab) -> tuple[int, int]:
    """Connections to instances that HAProxy has opened, and requests that went over a kept one."""
    text = lab.run("curl -s http://127.0.0.1:8405/metrics")
    names = ("connection_attempts_total", "connection_reuses_total")
    found = [re.search(rf'(?m)^haproxy_backend_{n}{{proxy="app"}} (\d+)$', text) for n in names]
    assert all(found), text[:300]
    opened, reused = (int(one[1]) for one in found if one)
    return opened, reused


@pytest.mark.differs("HAProxy 2.6")
def test_kept_connections_lose_nothing_over_reloads_and_restarts(lab: Lab) -> None:
    """Of either side, in turn: HAProxy leaves connections behind, instances drain and close theirs."""
    before = lab.count()
    with lab.under_load(mode="keepalive") as load:
        for unit in ("counter@1", "counter@2"):
            lab.run("systemctl reload haproxy")
            load.wait_for(load.result.ok + 100)
            lab.run(f"systemctl restart {unit}")
            lab.wait("both are used", lab.all_ready)
            load.wait_for(load.result.ok + 100)
        opened, reused = connections(lab)
        answered = load.result.ok
        load.wait_for(answered + 500)
        opened, reused = (
            now - was for now, was in zip(connections(lab), (opened, reused), strict=True)
        )
    result = load.result
    assert result.exact, result.summary()
    assert lab.count() == before + result.sent
    assert reused >= 450, "connections are kept"
    assert opened <= 50, (opened, reused)


ROLLED = pytest.mark.nightly(
    "test_deploy.py rolls settings under clients of all three kinds at once"
)


@pytest.mark.one_release
@pytest.mark.parametrize(
    "mode", ["keepalive", pytest.param("close", marks=ROLLED), pytest.param("h2", marks=ROLLED)]
)
def test_a_rolled_configuration_loses_nothing(lab: Lab, mode: str) -> None:
    """Every instance is drained, restarted and waited for while clients go on."""
    before = lab.count()
    started = lab.run("systemctl show -P MainPID counter@1 counter@2")
    with lab.under_load(mode=mode, rate=RATE) as load:
        threads = {"keepalive": 5, "close": 6, "h2": 7}[mode]
        lab.apply(
            PILLAR=f'{{"counter": {{"bake_seconds": 0, "environment": {{"COUNTER_THREADS": {threads}}}}}}}'
        )
        load.wait_for(load.result.ok + 100)
    result = load.result
    assert lab.run("systemctl show -P MainPID counter@1 counter@2") != started, "nothing was rolled"
    assert result.exact, result.summary()
    assert lab.count() == before + result.sent
    lab.apply(SLS="counter")


@pytest.mark.nightly("fifty seconds; test_prod.py adds machines and takes them away under load")
def test_adding_and_removing_an_instance_loses_nothing(lab: Lab) -> None:
    before = lab.count()
    with lab.under_load(mode="keepalive", rate=RATE) as load:
        lab.apply(PILLAR='{"counter": {"instances": 3, "bake_seconds": 0}}')
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
            with pace.Stopwatch() as watch:
                assert lab.status() == 503
            assert watch.seconds < 1
        lab.wait("the instances are taken out", lambda: set(lab.instances()) == {"DOWN"})
        assert lab.status("readyz") == 503
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
    lab.reboot()
    assert lab.see() == last + 1
    assert lab.run("systemctl --failed --plain --no-legend") == ""
