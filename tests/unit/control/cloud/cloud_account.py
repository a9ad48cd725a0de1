"""An account at the stand-in of DigitalOcean's API, and the commands of a topology there with what is slow or real replaced."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from standin_digitalocean import Standin

from control import apply, local_state, ssh
from control.by_path import load_yaml
from control.cloud import account, hooks, inbound_rules, machines, plan, salt_cloud
from control.cloud.inbound_rules import Inbound
from control.cloud.plan import Plan
from control.options import Options
from control.topology import Topology

# What the formulas let in, as far as these tests need it; rendered for real in one test.
SAID: dict[str, list[dict[str, Any]]] = {
    "edge": [{"port": 443, "protocol": "tcp", "from": "any"}],
    "app": [{"port": 8001, "protocol": "tcp", "from": {"role": "edge"}}],
    "store": [{"port": 6379, "protocol": "tcp", "from": {"role": "app"}}],
    "monitor": [],
}
# Of an edge behind a balancer.
BALANCED = [{"port": port, "protocol": "tcp", "from": "balancer"} for port in (80, 443, 8410)]
SSH = {"port": 22, "protocol": "tcp", "from": "any", "always_open": True}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    with Standin(pace=0.05, lag=0.02) as standin:
        for name, value in standin.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("YES", raising=False)
        yield standin


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is written into this checkout; salt-cloud is only pretended to converge."""
    monkeypatch.setattr(account, "STATE", tmp_path / "cloud")
    monkeypatch.setattr(account, "KEY", tmp_path / "cloud" / "id_ed25519")
    monkeypatch.setattr(hooks, "TREE", tmp_path / "cloud" / "tree.tar.gz")
    monkeypatch.setattr(local_state, "folder", lambda where: tmp_path / where.name)
    monkeypatch.setattr(local_state, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(account, "LOOK", 0.05)
    # Droplets of the stand-in that let everybody in at once.
    monkeypatch.setattr(ssh, "command_line", lambda *_, **__: ["true"])

    haproxy = load_yaml("salt/haproxy/defaults.yaml")

    def said(given: dict[str, Any], _: str, machines: list[str]) -> dict[str, Inbound]:
        kinds = {**SAID, "edge": BALANCED} if "balancer" in given else SAID
        found = {}
        for one in machines:
            # A test's own machines are called as their role, and are in no file.
            roles = given["machines"].get(one, {"roles": [one.rstrip("0123456789")]})["roles"]
            found[one] = Inbound([SSH, *(rule for role in roles for rule in kinds[role])], haproxy)
        return found

    monkeypatch.setattr(inbound_rules, "ask_machines", said)
    return tmp_path


class Applied:
    """Stands for the apply that follows, and ends as it is told to."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.machines, self.gone = code, dict[str, str](), list[str]()

    def __call__(self, where: Topology, _: Options, gone: Sequence[str]) -> int:
        self.gone = list(gone)
        self.machines = {name: one.address for name, one in where.machines.items()}
        return self.code


def make_up(where: Topology, applied: Any) -> int:
    """`make cloud-up` with ``applied`` in place of the apply."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "apply", applied)
        return machines.up(where, Options.read())


def made(api: Standin, where: Topology) -> None:
    """The topology's droplets, as salt-cloud would have made them."""
    for one in plan.list_wanted(where):
        body = {
            "name": one.name, "region": one.region, "size": one.size, "image": one.image,
            "tags": list(one.tags), "backups": one.backups,
            **({"backup_policy": one.policy} if one.policy else {}),
        }  # fmt: skip
        api._create_droplet(None, {}, body)
    time.sleep(api.pace + api.lag)
    api.names()


def by_salt_cloud(api: Standin) -> Any:
    """In place of salt-cloud: what the map names is made, with the map's own words."""

    def run(where: Topology, todo: Plan) -> None:
        profiles = account.read_settings("profiles")
        vpcs = {one["name"]: one["id"] for one in api.vpcs.values()}
        for profile, listed in salt_cloud.make_map(where, todo.create).items():
            for one in listed:
                ((name, own),) = one.items()
                given = profiles[profile]
                body = {
                    "name": name, "region": "fra1", "size": given["size"], "image": given["image"],
                    "tags": own["tags"], "backups": bool(given.get("backups")),
                }  # fmt: skip
                if "vpc" in own:
                    body["vpc_uuid"] = vpcs[own["vpc"]]
                api._create_droplet(None, {}, body)
        time.sleep(api.pace + api.lag)
        api.names()

    return run


def profiles(monkeypatch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> None:
    """The project's profiles, with `changes` laid over some of them."""
    configured = account.read_settings

    def changed(what: str) -> dict[str, Any]:
        found = configured(what)
        if what == "profiles":
            found = {name: {**one, **changes.get(name, {})} for name, one in found.items()}
        return found

    monkeypatch.setattr(account, "read_settings", changed)
