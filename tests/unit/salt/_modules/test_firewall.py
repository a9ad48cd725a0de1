"""What a machine lets in follows from its formulas and its topology, and never locks SSH out."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

SSH = {"port": 22, "protocol": "tcp", "from": "any", "always_open": True}
WEB = {"port": 443, "protocol": "tcp", "from": "any"}
ZONE = "/etc/firewalld/zones/stack.xml"


@pytest.fixture
def firewall(
    load_source: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`firewall({formula: [openings]}, replace={…}, openings=[…])`: the module on machine app1."""

    def load(
        said: dict[str, Any],
        sshd: tuple[int, ...] = (22,),
        grains: dict[str, Any] | None = None,
        balancer: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        machines = [
            {"name": "edge1", "address": "10.0.0.1", "roles": ["edge"]},
            {"name": "app1", "address": "10.0.0.2", "roles": ["app", "store"]},
            {"name": "app2", "address": "10.0.0.3", "roles": ["app"]},
        ]
        nearest = load_source("salt/_modules/schemas.py").nearest
        module = load_source(
            "salt/_modules/firewall.py",
            salt={
                "schemas.nearest": nearest,
                "formula.settings": lambda name: {"openings": [], "replace": {}, **settings},
                "formula.collect": lambda name: said,
                "topology.machine": lambda: machines[1],
                "topology.balancer": lambda: balancer,
                "topology.roles": lambda: ["edge", "app", "store", "monitor"],
                "topology.machines": lambda role=None: [
                    one for one in machines if role is None or role in one["roles"]
                ],
            },
            grains=grains or {},
        )
        monkeypatch.setattr(module, "_sshd_ports", lambda: set(sshd))
        return module

    return load


def test_openings_of_all_formulas_and_the_pillar_are_joined(firewall: Callable[..., Any]) -> None:
    module = firewall({"base": [SSH], "web": [WEB], "none": None}, openings=[{**WEB, "port": 80}])
    assert module.zone() == {
        "ports": [{"port": port, "protocol": "tcp"} for port in (22, 80, 443)],
        "rules": [],
    }
    assert {one["formula"] for one in module.openings()} == {"base", "web", "pillar"}


def test_a_protocol_without_ports_is_let_in_from_its_peers(firewall: Callable[..., Any]) -> None:
    vrrp = {"protocol": "vrrp", "from": {"role": "app"}}
    rules = firewall({"base": [SSH], "keepalived": [vrrp]}).zone()["rules"]
    assert rules == [{"family": "ipv4", "address": "10.0.0.3", "port": 0, "protocol": "vrrp"}]


def test_a_role_is_the_addresses_of_its_other_machines(firewall: Callable[..., Any]) -> None:
    redis = {"port": 6379, "protocol": "tcp", "from": {"role": "app"}}
    rules = firewall({"base": [SSH], "redis": [redis]}).zone()["rules"]
    assert rules == [{"family": "ipv4", "address": "10.0.0.3", "port": 6379, "protocol": "tcp"}]


@pytest.mark.parametrize("role", ["store", "monitor"])
def test_a_role_that_nobody_else_has_opens_nothing(firewall: Callable[..., Any], role: str) -> None:
    zone = firewall({"base": [SSH], "x": [{**WEB, "from": {"role": role}}]}).zone()
    assert zone == {"ports": [{"port": 22, "protocol": "tcp"}], "rules": []}


def test_a_balancer_is_the_networks_that_it_comes_from(firewall: Callable[..., Any]) -> None:
    said = {"base": [SSH], "web": [{**WEB, "from": "balancer"}]}
    both = {"address": "198.51.100.7", "from": ["10.20.0.0/20", "2001:db8::/64"]}
    zone = firewall(said, balancer=both).zone()
    assert [rule["address"] for rule in zone["rules"]] == ["10.20.0.0/20", "2001:db8::/64"]
    assert zone["ports"] == [{"port": 22, "protocol": "tcp"}]
    # Without one nobody: never everybody.
    assert firewall(said).zone() == {"ports": [{"port": 22, "protocol": "tcp"}], "rules": []}


def test_a_network_may_be_of_either_family(firewall: Callable[..., Any]) -> None:
    both = [{**WEB, "from": {"network": net}} for net in ("10.0.0.0/8", "2001:db8::/32")]
    rules = firewall({"base": [SSH], "web": both}).zone()["rules"]
    assert [(rule["family"], rule["address"]) for rule in rules] == [
        ("ipv4", "10.0.0.0/8"),
        ("ipv6", "2001:db8::/32"),
    ]


@pytest.mark.parametrize(
    "replace",
    [[], [{**SSH, "port": 2222}], [{**SSH, "protocol": "udp"}], [{**SSH, "from": {"role": "store"}}]],
)  # fmt: skip
def test_a_set_that_closes_ssh_is_refused(firewall: Callable[..., Any], replace: list[Any]) -> None:
    with pytest.raises(CommandExecutionError, match=r"refused: .*tcp 22 \(ssh\) would be closed"):
        firewall({"base": [SSH]}, replace={"base": replace}).zone()


def test_ssh_may_be_narrowed_to_somebody(firewall: Callable[..., Any]) -> None:
    narrow = [{"port": 22, "protocol": "tcp", "from": {"network": "10.0.0.0/24"}}]
    assert firewall({"base": [SSH]}, replace={"base": narrow}).zone()["ports"] == []


def test_the_port_on_which_sshd_listens_now_stays_open(firewall: Callable[..., Any]) -> None:
    moved = {"base": [{**SSH, "port": 2222}]}
    with pytest.raises(CommandExecutionError, match="sshd listens on tcp 22, which would be"):
        firewall(moved).zone()
    firewall(moved, openings=[{**SSH, "port": 22}]).zone()
    firewall(moved, sshd=(2222,)).zone()
    firewall(moved, sshd=()).zone()


def test_formulas_of_which_none_keeps_ssh_open_are_refused(firewall: Callable[..., Any]) -> None:
    with pytest.raises(CommandExecutionError, match="no formula says which port"):
        firewall({"web": [WEB]}).zone()


def test_replacing_what_a_formula_does_not_open_is_refused(firewall: Callable[..., Any]) -> None:
    with pytest.raises(
        CommandExecutionError, match=r"replace:wbe: opens nothing; did you mean 'web'"
    ):
        firewall({"base": [SSH], "web": [WEB]}, replace={"wbe": []}).zone()


@pytest.mark.parametrize(
    ("grains", "own"),
    [
        ({"virtual": "container", "virtual_subtype": "LXC"}, False),
        ({"virtual": "systemd-nspawn"}, False),
        ({"virtual": "kvm"}, True),
        ({"virtual": "physical"}, True),
    ],
)
def test_only_a_machine_of_its_own_kernel_logs_denials(
    firewall: Callable[..., Any], grains: dict[str, str], own: bool
) -> None:
    assert firewall({}, grains=grains).own_kernel_log() is own


# --- every machine of every topology --------------------------------------------------------------


def peers(rendered: Any, role: str) -> set[str]:
    return {one["address"] for one in rendered.with_role(role)} - {rendered.machine["address"]}


def test_a_zone_opens_what_the_topology_says_and_nothing_else(rendered: Any) -> None:
    roles = rendered.machine["roles"]
    zone = ET.fromstring(rendered.text(ZONE))
    public = {int(port.get("port", "")) for port in zone.findall("port")}
    assert public == ({22, 80, 443} if "edge" in roles else {22})
    # What docs/many-machines.md says; a role of the machine itself is reached over loopback.
    wanted = {(9104, address) for address in peers(rendered, "monitor")}
    if "edge" in roles:
        wanted |= {(9105, address) for address in peers(rendered, "monitor")}
        # Several edges tell each other what they count.
        wanted |= {(8407, address) for address in peers(rendered, "edge")}
    if "store" in roles:
        wanted |= {(6380, address) for address in peers(rendered, "app")}
        # Several stores copy and watch each other, and their Sentinels tell applications who is master.
        if others := peers(rendered, "store"):
            wanted |= {(port, address) for port in (6380, 26380) for address in others}
            wanted |= {(26380, address) for address in peers(rendered, "app")}
    if "app" in roles:
        for index in range(rendered.machine["cpus"]):
            wanted |= {(8443 + index, address) for address in peers(rendered, "edge")}
    if "monitor" in roles:
        for role in ("edge", "app", "store"):
            wanted |= {(2514, address) for address in peers(rendered, role)}
    found = set()
    for rule in zone.findall("rule"):
        port, source = rule.find("port"), rule.find("source")
        if port is not None:
            assert source is not None, "a rule for everybody"
            found.add((int(port.get("port", "")), source.get("address")))
    assert found - {(546, "fe80::/10")} == wanted
    assert zone.get("target") == "%%REJECT%%"
    assert zone.find("icmp-block-inversion") is not None


def test_stopping_the_daemon_opens_nothing(rendered: Any) -> None:
    conf = rendered.text("/etc/firewalld/firewalld.conf")
    for line in ("DefaultZone=stack", "CleanupOnExit=no", "FirewallBackend=nftables"):
        assert f"\n{line}\n" in conf


def test_a_pillar_that_closes_ssh_stops_the_render(ask_dev: Callable[..., list[Any]]) -> None:
    overlay = {"firewalld": {"replace": {"base": []}}}
    (low,) = ask_dev([["state.show_low_sls", ["firewalld"], {"pillar": overlay}]])
    assert "refused: the firewall: tcp 22 (ssh) would be closed to everybody" in str(low)


def test_the_guard_has_the_same_openings(rendered: Any) -> None:
    guard = rendered.text("/etc/firewalld/guard.nft")
    zone = ET.fromstring(rendered.text(ZONE))
    for port in zone.findall("port"):
        line = f"        {port.get('protocol')} dport {port.get('port')} accept\n"
        assert guard.count(line) == 1
    for rule in zone.findall("rule"):
        port, source = rule.find("port"), rule.find("source")
        if port is not None and source is not None:
            words = f"saddr {source.get('address')} {port.get('protocol')} dport {port.get('port')} accept"
            assert guard.count(words) == 1
    wanted = len(zone.findall("port")) + len(zone.findall("rule/port"))
    assert len(re.findall(r"dport \d+ accept", guard)) == wanted
    assert "policy drop" in guard


# --- another firewall beside ours -----------------------------------------------------------------

QUIET = "Id=nftables.service\nActiveState=inactive\nUnitFileState=disabled\n\nId=ferm.service\n"
OURS = [
    {"metainfo": {}},
    {"chain": {"family": "inet", "table": "stack_guard", "hook": "input", "policy": "drop"}},
    {"chain": {"family": "inet", "table": "firewalld", "hook": "input", "policy": "accept"}},
    {"chain": {"family": "ip", "table": "nat", "name": "plain"}},
]


@pytest.fixture
def beside(
    firewall: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    """`beside(ufw, units, chains)`: the module on a machine where those are."""

    def load(ufw: str = "", units: str = QUIET, chains: Iterable[Any] = ()) -> Any:
        module = firewall({"base": [SSH]})
        (tmp_path / "ufw.conf").write_text(ufw)
        monkeypatch.setattr(module, "_UFW", str(tmp_path / "ufw.conf"))
        said = {"systemctl": units, "nft": json.dumps({"nftables": [*OURS, *chains]})}
        monkeypatch.setattr(module, "_output", lambda program, *words: said[program])
        return module

    return load


def test_a_machine_without_another_firewall_is_not_refused(beside: Callable[..., Any]) -> None:
    beside().refuse_others()
    # Debian's unit is enabled and active all the same.
    beside(ufw="ENABLED=no\n").refuse_others()


CLOSED = {"chain": {"family": "ip", "table": "filter", "hook": "input", "policy": "drop"}}


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ({"ufw": "# ufw\nENABLED=yes\n"}, "ufw disable"),
        ({"units": QUIET.replace("inactive", "active")}, "systemctl disable --now nftables"),
        # From the next boot on.
        ({"units": QUIET + "UnitFileState=enabled\n"}, "systemctl disable --now ferm"),
        ({"chains": [CLOSED]}, "take them out of what loads them, and reboot"),
    ],
)
def test_another_firewall_is_found_before_anything_changes(
    beside: Callable[..., Any], given: dict[str, Any], end: str
) -> None:
    with pytest.raises(CommandExecutionError) as caught:
        beside(**given).refuse_others()
    line = str(caught.value)
    assert f"({end})" in line
    assert line.endswith("; nothing was changed")
    assert len(line.splitlines()) == 1


def test_without_nft_a_closed_chain_of_iptables_is_found(
    firewall: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a server that firewalld has not been on."""
    module = firewall({"base": [SSH]})
    monkeypatch.setattr(module, "_UFW", str(tmp_path / "none"))
    said = {
        "iptables": "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n",
        "ip6tables": "-P INPUT ACCEPT\n",
    }
    monkeypatch.setattr(module, "_output", lambda program, *words: said.get(program, ""))
    assert list(module.others()) == ["iptables -P INPUT DROP"]


# --- loopback -------------------------------------------------------------------------------------


def test_on_loopback_root_and_the_named_accounts_that_are_there_may_connect(
    firewall: Callable[..., Any],
) -> None:
    said = {
        "a": [{"port": 9093, "accounts": ["daemon", "nobody-of-this-name"]}],
        "b": [{"port": 9093, "accounts": ["bin"]}, {"port": 5066, "accounts": []}],
        "none": None,
    }
    assert firewall(said).loopback() == [
        {"port": 5066, "uids": [0]},
        {"port": 9093, "uids": [0, 1, 2]},
    ]


def test_what_asks_for_no_password_on_loopback_is_guarded(rendered: Any) -> None:
    """A port that a formula scrapes or leads a tunnel to, the pages' and the alerts'."""
    guarded = set(
        re.findall(
            r"tcp dport (\d+) reject with tcp reset", rendered.text("/etc/stack/loopback.nft")
        )
    )
    roles = rendered.machine["roles"]
    wanted = {"9103"}
    wanted |= {"9090", "9093"} if "monitor" in roles else set()
    wanted |= {"8405", "8406"} if "edge" in roles else set()
    if "app" in roles:
        wanted |= {str(8001 + index) for index in range(rendered.machine["cpus"])}
    # Redis asks for one.
    behind = {one["connect"].rpartition(":")[2] for one in rendered.tunnels} - {"6379"}
    assert guarded >= wanted | behind
    unit = rendered.text("/etc/systemd/system/firewall-loopback.service")
    assert "\nWantedBy=sysinit.target\n" in unit
