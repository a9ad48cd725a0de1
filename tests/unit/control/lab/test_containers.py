"""Machines of the lab: whose they are, and what Vagrant is asked to do with them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from control import local_state
from control.errors import ControlError
from control.lab import containers, vagrant
from control.options import Options
from control.topology import Machine, Topology

# Stands for Vagrant under a hypervisor that this computer has not: notes how it was called.
VAGRANT = """#!/bin/sh
echo "$* ${BOOT_TIMEOUT:-default}" >>"$CALLS"
case $1 in
    status) printf '1,one,state,%s\\n1,one,state-human-short,x\\n1,two,state,%s\\n' "$ONE" "$TWO" ;;
    ssh-config) printf 'Host one\\n  HostName 127.0.0.1\\nHost two\\n  HostName 127.0.0.1\\n' ;;
    up) case $* in *one*) exit "$UP_ONE" ;; esac ;;
esac
"""


def topology(name: str, **addresses: str) -> Topology:
    machines = {
        one: Machine(one, address, ("edge", "app", "store")) for one, address in addresses.items()
    }
    return Topology(name, "counter.test", IPv4Network("10.1.0.0/24"), machines)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout and a cache of their own; containers are those in the list."""
    for module in (local_state, containers):
        monkeypatch.setattr(module, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(local_state, "CACHE", tmp_path / "cache")
    for name in ("SUITE", "PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# --- whose they are -------------------------------------------------------------------------------


@pytest.fixture
def host(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Topology], None]:
    """`host(topology)`: what `make up` of it leaves on this computer."""
    running: list[str] = []
    monkeypatch.setattr(containers, "list_containers", lambda: running)
    monkeypatch.setattr(containers, "destroy", running.remove)

    def up(where: Topology) -> None:
        containers.take_ownership(where)
        for name in where.machines:
            running.append(containers.container_name(where, name))
            made = local_state.folder(where) / "vagrant" / "machines" / name / "lxc" / "id"
            made.parent.mkdir(parents=True, exist_ok=True)
            made.touch()

    return up


def test_two_topologies_whose_names_run_together_have_machines_of_their_own(
    host: Callable[[Topology], None],
) -> None:
    """`bz` with `eu-web1`, `bz-eu` with `web1`: one name would destroy the other's machine."""
    first, second = topology("bz", **{"eu-web1": "10.1.0.2"}), topology("bz-eu", web1="10.1.0.3")
    host(first)
    host(second)
    assert (
        set(containers.read_owners())
        == set(containers.list_containers())
        == {"counter_bz_eu-web1", "counter_bz-eu_web1"}
    )
    # And again: nobody's is taken for a half-made one.
    containers.take_ownership(first)
    assert len(containers.list_containers()) == 2


def test_machines_that_go_are_ended_at_once_and_another_checkouts_are_left(
    host: Callable[[Topology], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vagrant shuts each down in good order before it removes it: `make down` of five took ten minutes."""
    where = topology("bz", web="10.1.0.2", store="10.1.0.3")
    host(where)
    note = containers.owner_file("counter_bz_store")
    note.write_text("/elsewhere\n10.1.0.3\n", encoding="utf-8")
    ended = []
    monkeypatch.setattr(containers.subprocess, "run", lambda line, **_: ended.append(line[-3:]))
    containers.power_off(where, where.machines)
    assert ended == [["--kill", "--name", "counter_bz_web"]]


def test_an_address_that_another_topologys_machine_has_is_refused(
    host: Callable[[Topology], None],
) -> None:
    host(topology("bz", web="10.1.0.2"))
    with pytest.raises(ControlError) as caught:
        containers.take_ownership(topology("other", app="10.1.0.9", web="10.1.0.2"))
    line = str(caught.value)
    assert line.startswith(
        "other: machine web has address 10.1.0.2, which machine web of topology bz"
    )
    assert "'make down TOPOLOGY=bz'" in line
    assert set(containers.read_owners()) == {"counter_bz_web"}, "nothing was claimed"


def test_an_address_is_refused_from_the_claim_on_not_only_when_the_machine_is_there(
    host: Callable[[Topology], None],
) -> None:
    """Two `make up` side by side: both had the address, and one's tree went to the other's machine."""
    containers.take_ownership(topology("bz", web="10.1.0.2"))
    with pytest.raises(ControlError, match="which machine web of topology bz uses on this host"):
        containers.take_ownership(topology("other", web="10.1.0.2"))
    assert set(containers.read_owners()) == {"counter_bz_web"}, "nothing was claimed"


def test_a_claim_of_a_topology_that_was_taken_down_keeps_nobody_out(
    host: Callable[[Topology], None],
) -> None:
    first = topology("bz", web="10.1.0.2")
    containers.take_ownership(first)
    local_state.folder(first).rmdir()
    containers.take_ownership(topology("other", web="10.1.0.2"))


def change_checkout(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, another one."""
    for module in (local_state, containers):
        monkeypatch.setattr(module, "ROOT", home / "second")


def test_a_machine_that_another_checkout_made_is_left_to_it(
    host: Callable[[Topology], None], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology("bz", web="10.1.0.2")
    host(where)
    change_checkout(home, monkeypatch)
    with pytest.raises(ControlError, match="runs already, for the checkout in"):
        containers.take_ownership(where)
    assert containers.list_containers() == ["counter_bz_web"]


def move_away(home: Path, monkeypatch: pytest.MonkeyPatch, is_configured: bool = True) -> None:
    """The checkout is lost, and a new one is in its place elsewhere."""
    (home / "checkout").rename(home / "lost")
    change_checkout(home, monkeypatch)
    monkeypatch.setattr(containers, "TREES", str(home))
    monkeypatch.setattr(containers.shell, "sudo", list)
    srv = home / "counter_bz_web" / "rootfs" / "srv"
    srv.mkdir(parents=True)
    if is_configured:
        # As on a machine: a link that leads nowhere here.
        (srv / "stack").symlink_to("/srv/stack.d/0123")


@pytest.mark.parametrize("imported", [True, False])
def test_a_machine_that_has_served_is_left_when_its_checkout_is_gone(
    host: Callable[[Topology], None],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    imported: bool,
) -> None:
    """After `import-state` on a new controller, `make up` removed the machine and its count, unasked."""
    where = topology("bz", web="10.1.0.2")
    host(where)
    move_away(home, monkeypatch)
    if imported:
        local_state.folder(where).mkdir(parents=True)
        local_state.ssh_config(where).touch()
    with pytest.raises(ControlError, match="may have data, nothing was changed") as caught:
        containers.take_ownership(where)
    assert ("'make apply'" if imported else "import-state") in str(caught.value)
    assert "'make down TOPOLOGY=bz' removes it, with its data" in str(caught.value)
    assert containers.list_containers() == containers.list_left(where) == ["counter_bz_web"]


def test_a_machine_that_never_served_is_replaced_when_its_checkout_is_gone(
    host: Callable[[Topology], None], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = topology("bz", web="10.1.0.2")
    host(where)
    move_away(home, monkeypatch, is_configured=False)
    containers.take_ownership(where)
    assert containers.list_containers() == []


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> Callable[[Topology], None]:
    """`make down`, where there is lxc."""
    monkeypatch.setattr(vagrant.shutil, "which", lambda _: "/usr/bin/it")
    monkeypatch.setattr(vagrant.network, "release_network", lambda: None)
    monkeypatch.setattr(vagrant.host, "lock_host", contextlib.nullcontext)
    return lambda where: vagrant.take_down(where, Options.read())


def test_down_removes_a_machine_whose_checkout_is_gone(
    host: Callable[[Topology], None],
    down: Callable[[Topology], None],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It said that no machine was left, and left it."""
    where = topology("bz", web="10.1.0.2")
    host(where)
    move_away(home, monkeypatch)
    down(where)
    assert containers.list_containers() == []


def test_down_names_a_machine_of_another_checkout_and_leaves_it(
    host: Callable[[Topology], None],
    down: Callable[[Topology], None],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = topology("bz", web="10.1.0.2")
    host(where)
    change_checkout(home, monkeypatch)
    with pytest.raises(ControlError, match="counter_bz_web, which .*/checkout made: 'make down'"):
        down(where)
    assert containers.list_containers() == ["counter_bz_web"]


# --- up -------------------------------------------------------------------------------------------


@pytest.fixture
def up(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`up(one="poweroff", two="running")`: how Vagrant was called by `make up`, where machine `one`
    has been up before; its own ssh fails there."""
    programs = home / "bin"
    programs.mkdir()
    for name, text in (("vagrant", VAGRANT), ("ssh", '#!/bin/sh\nexit "$SSH"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(home / "calls"))
    monkeypatch.setenv("PROVIDER", "virtualbox")
    (home / "checkout").mkdir()
    where = topology("bz", one="10.1.0.2", two="10.1.0.3")

    def bring(
        one: str, two: str, up_one: int = 1, ssh: int = 0, known: str = "one two"
    ) -> list[str]:
        folder = local_state.folder(where)
        folder.mkdir(parents=True)
        if known:
            text = "".join(f"Host {name}\n  HostName x\n" for name in known.split())
            (folder / "ssh_config").write_text(text)
        settings: dict[str, Any] = {"ONE": one, "TWO": two, "UP_ONE": up_one, "SSH": ssh}
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        vagrant.bring_up(where, Options.read())
        return (home / "calls").read_text().splitlines()

    return bring


def test_a_stopped_machine_is_started_without_waiting_for_vagrants_own_ssh(
    up: Callable[..., list[str]],
) -> None:
    calls = up("poweroff", "running")
    assert "up --provider=virtualbox --no-provision --no-parallel one 1" in calls
    assert not any("up" in call.split() and "two" in call.split() for call in calls)
    assert calls[-1].startswith("ssh-config"), "a hypervisor may give it another port"


def test_machines_that_run_are_left_alone(up: Callable[..., list[str]]) -> None:
    assert up("running", "running") == ["status --machine-readable default"]


@pytest.mark.parametrize("two", ["not_created", "running"])
def test_a_machine_that_has_never_been_up_gets_its_whole_time(
    up: Callable[..., list[str]], two: str
) -> None:
    """Also one that a killed run has started: its keys are still Vagrant's to change."""
    calls = up("saved", two, known="one")
    assert "up --provider=virtualbox --no-provision --no-parallel one 1" in calls
    assert "up --provider=virtualbox --no-provision --no-parallel two default" in calls


def test_the_first_up_asks_for_no_state(up: Callable[..., list[str]]) -> None:
    calls = up("not_created", "not_created", up_one=0, known="")
    assert calls[0] == "up --provider=virtualbox --no-provision --no-parallel one two default"


def test_a_started_machine_that_does_not_answer_is_named(
    up: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vagrant, "SSH_WAIT", 0)
    with pytest.raises(ControlError, match=r"^one: started, and no answer over ssh within 0 s"):
        up("poweroff", "running", ssh=255)
