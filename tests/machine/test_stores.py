"""
Three stores on as few machines as there can be, each with the application beside it: the first is the edge and the
monitor too. Made once for this file, of a topology of its own, and removed at its end.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import bare_machine
import networks
import partitions
import pytest
import runbooks
from lab_machine import Machines, made

pytestmark = [pytest.mark.one_release, pytest.mark.controller]

NAME = networks.named("stores")
NAMES = ("one", "two", "three")


class Several(Machines):
    """The topology, its edge in the place of the one machine."""

    def __init__(self) -> None:
        machines = {
            name: {
                "address": networks.address("stores", number),
                "roles": ["app", "store", *(["edge", "monitor"] if name == "one" else [])],
                "memory": 1024,
                "cpus": 1,
            }
            for number, name in enumerate(NAMES)
        }
        self.file = networks.write(NAME, machines)
        super().__init__(NAME, "one")
        self.stores = partitions.Stores(NAME)


@pytest.fixture(scope="module")
def several() -> Iterator[Several]:
    ha = Several()
    try:
        with made(ha):
            yield ha
    finally:
        networks.remove(ha.file)


@pytest.fixture
def ha(several: Several) -> Several:
    several.stores.settle()
    several.wait("it serves", several.serving)
    return several


@pytest.fixture(autouse=True)
def leave_it_well(ha: Several) -> None:
    """In place of what the fixture of that name does to one machine."""


def checked(
    stores: partitions.Stores, history: list[partitions.Answer], final: int
) -> partitions.Verdict:
    verdict = partitions.judge(history, final)
    assert verdict.given > 50, verdict
    assert verdict.exact, f"{verdict}: {verdict.twice[:9]} {verdict.lost[:9]}"
    return verdict


def given_by(history: list[partitions.Answer], client: str, since: float) -> int:
    return sum(one.client == client and one.number > 0 and one.began > since for one in history)


def test_three_stores_count_and_one_is_the_master(ha: Several) -> None:
    before = ha.see()
    assert ha.see() == before + 1
    seen = ha.stores.settle()
    assert sorted(one["role"] for one in seen["stores"].values()) == [
        "master",
        "replica",
        "replica",
    ]
    assert {one["sentinel"] for one in seen["stores"].values()} == {seen["master"]}
    assert f"stores: master {seen['master']}" in ha.make("status", check=False).stdout


def test_commands_of_their_runbooks_work(ha: Several) -> None:
    """The other pages' are test_docs.py's, on a machine without them."""
    ha.wait_for_status()
    wrong = runbooks.failing(ha, runbooks.pages_of("sentinel"))
    assert wrong == [], "\n".join(wrong)


def test_a_killed_master_is_followed_by_another_and_no_number_comes_twice(ha: Several) -> None:
    """Powered off: its Redis does not come back by itself within the failover. Afterwards it is a replica."""
    stores = ha.stores
    master = stores.settle()["master"]
    # The monitor and the edge are on the first, which is not to go.
    if master == "one":
        ha.make("failover")
        master = stores.settle()["master"]
    with stores.clients() as history:
        stores.lxc("lxc-stop", master, "--kill")
        gone = time.time()
        new = stores.wait(
            "another master", lambda: (name := stores.show("one")["master"]) != master and name
        )
        # Counted again, while it is still away.
        at = int(stores.on(new, "redis-admin GET counter:seen"))
        stores.wait(
            "it counts", lambda: int(stores.on(new, "redis-admin GET counter:seen")) > at + 20
        )
        stores.lxc("lxc-start", master)
        seen = stores.settle()
        assert seen["master"] == new
        assert seen["stores"][master]["role"] == "replica"
        final = stores.count()
    checked(stores, history, max(final, stores.count()))
    assert given_by(history, new, gone) > 0


def test_the_master_moves_on_purpose_without_an_error_and_an_apply_changes_nothing_back(
    ha: Several,
) -> None:
    stores = ha.stores
    before = stores.settle()["master"]
    with stores.clients() as history:
        ha.make("failover")
        after = stores.settle()["master"]
        final = stores.count()
    verdict = checked(stores, history, max(final, stores.count()))
    assert after != before
    assert verdict.refused == 0, "\n".join(stores.refusals(history))
    said = ha.apply(SLS="redis,sentinel").stdout
    assert said.count("0 changed, 0 failed") == 3, said
    assert stores.settle()["master"] == after


def test_a_master_that_is_cut_off_gives_no_number_twice_with_clients_on_both_sides(
    ha: Several,
) -> None:
    stores = ha.stores
    master = stores.settle()["master"]
    other = next(name for name in stores.names if name != master)
    with stores.clients() as history:
        stores.cut(master)
        cut = time.time()
        try:
            new = stores.wait(
                "another master",
                lambda: (name := stores.show(other)["master"]) not in (None, master) and name,
            )
            at = int(stores.on(new, "redis-admin GET counter:seen"))
            stores.wait(
                "it counts", lambda: int(stores.on(new, "redis-admin GET counter:seen")) > at + 20
            )
        finally:
            stores.join(master)
        seen = stores.settle()
        assert seen["master"] == new
        final = stores.count()
    checked(stores, history, max(final, stores.count()))
    refused = [
        one for one in history if one.client == master and one.began > cut and not one.number
    ]
    assert refused, "its side was told that nothing counts"


def test_an_apply_is_refused_while_a_store_is_missing_and_names_it(ha: Several) -> None:
    stores = ha.stores
    master = stores.settle()["master"]
    away = next(name for name in stores.names if name != master)
    stores.on(away, "systemctl stop redis-server")
    try:
        done = ha.apply(check=False, SLS="redis")
        assert done.returncode == 2
        assert "nothing was changed" in done.stderr
        assert f"{away}: Redis does not answer" in done.stderr
        refused = ha.make("failover", check=False)
        assert refused.returncode == 2 and "the master was not moved" in refused.stderr
        assert stores.show()["master"] == master
    finally:
        stores.on(away, "systemctl start --no-block redis-server")


@pytest.mark.nightly("moves the master three times, each waits until every Sentinel knows")
def test_each_store_can_be_made_the_master(ha: Several) -> None:
    """Where a restore needs it: Sentinel itself chooses one and the same of two, whichever has the newest backup."""
    code = "from control import stores, topology; stores.make_master(topology.load({!r}), {!r})"
    for name in NAMES:
        bare_machine.control(NAME, "-c", code.format(NAME, name))
        assert ha.stores.settle()["master"] == name


@pytest.mark.nightly("wipes and restores: minutes")
def test_a_backup_is_a_replicas_and_a_restore_reaches_every_store(ha: Several) -> None:
    stores = ha.stores
    ha.see()
    master = stores.settle()["master"]
    said = ha.make("backup").stdout
    assert said.count("its replicas take the backups") == 1
    assert said.count("read back and") == 2
    count = stores.count()
    for name in stores.names:
        stores.on(
            name,
            "systemctl stop redis-server; rm -rf /var/lib/redis/* /var/lib/redis-sentinel/*",
        )
    for name in stores.names:
        stores.on(name, "systemctl start --no-block redis-server")
    assert stores.count() == 0
    ha.make("restore", YES="1")
    seen = stores.settle()
    assert stores.count() == count, master
    for name in seen["stores"]:
        assert int(stores.on(name, "redis-admin GET counter:seen")) == count
    assert ha.see() == count + 1


# Each wait in it has an end of its own; 25 faults take five minutes on a quiet computer, and 15 on one that is crowded.
@pytest.mark.timeout(3600)
@pytest.mark.faults
@pytest.mark.parametrize("part", range(10))
def test_no_number_comes_twice_over_random_faults(ha: Several, part: int) -> None:
    """Ten parts of 20 single and 5 double faults; FAULT_SEED=N repeats a run."""
    seed = int(os.environ.get("FAULT_SEED", random.randrange(1_000_000))) + part
    verdict = partitions.run(ha.stores, 20, 5, seed)
    assert verdict.exact, f"seed {seed}: {verdict}: {verdict.twice[:9]} {verdict.lost[:9]}"
