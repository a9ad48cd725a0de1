"""Container hosts: what real Salt renders for one, and the Ignition file that is made of it."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from control import host_programs, local_state, salt_copy, topology
from control.application import COUNTER
from control.commands import maintenance
from control.containers import ignition, rendering
from control.containers.rendering import File, Host
from control.errors import OperationError, UserError
from control.options import Options
from control.topology import Topology
from tests.unit.control.topologies import ONE, PROD

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """The committed topology, what is kept of it being kept elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_state, "ROOT", tmp_path_factory.mktemp("home"))
        yield topology.load("containers")


@pytest.fixture(scope="module")
def host(where: Topology) -> Host:
    return rendering.render(where, "core1")


def test_configurations_are_the_formulas_own(host: Host) -> None:
    haproxy = host.files["/etc/haproxy/haproxy.cfg"].data.decode()
    assert "Managed by Salt (formula haproxy) for core1" in haproxy
    assert "server core1-1 127.0.0.1:8001" in haproxy
    # Of the host's release, whatever this computer runs.
    assert "timeout client-hs" in haproxy
    assert "appendfsync always" in host.files["/etc/redis/redis.conf"].data.decode()
    assert "tcp dport 443 accept" in host.files["/etc/firewalld/guard.nft"].data.decode()


def test_secrets_and_certificate_are_made_once(where: Topology, host: Host) -> None:
    again = rendering.render(where, "core1")
    assert again.secrets == host.secrets
    assert again.files == host.files


def test_nothing_in_the_ignition_file_is_a_secret(host: Host) -> None:
    config = json.loads(ignition.make("core1", host, ["ssh-ed25519 AAAA somebody"]))
    written = {one["path"]: one for one in config["storage"]["files"]}
    text = "".join(
        gzip.decompress(base64.b64decode(one["contents"]["source"].partition(",")[2])).decode()
        for one in written.values()
    )
    assert host.secrets
    for value in host.secrets.values():
        assert value not in text
    assert "PRIVATE KEY" not in text
    # Hashes of passwords are as good as secrets.
    assert "/etc/redis/users.acl" not in written


def test_the_ignition_file_is_the_same_each_time_and_small_enough_for_a_cloud(host: Host) -> None:
    text = ignition.make("core1", host, ["ssh-ed25519 AAAA somebody"])
    assert ignition.make("core1", host, ["ssh-ed25519 AAAA somebody"]) == text
    # DigitalOcean's limit of user data.
    assert len(text) < 64 * 1024


@pytest.mark.skipif(not shutil.which("ignition-validate"), reason="needs Debian's package ignition")
def test_a_warning_of_the_validator_is_a_failure(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "core1.ign"
    path.write_text(ignition.make("core1", host, []))
    ignition.validate(path)
    config = json.loads(path.read_text())
    config["storage"]["files"][0]["overwrit"] = True
    path.write_text(json.dumps(config))
    with pytest.raises(OperationError, match="overwrit"):
        ignition.validate(path)


def test_accounts_are_those_of_the_images() -> None:
    for name, uid in rendering.ACCOUNTS.items():
        file = {"counter": "application"}.get(name, name)
        described = yaml.safe_load((ROOT / "containers" / "images" / f"{file}.yaml").read_text())
        assert described["uid"] == uid, name


def test_each_container_has_its_switches(host: Host) -> None:
    units = [path for path in host.files if path.endswith(".container")]
    assert len(units) >= 3
    for path in units:
        lines = host.files[path].data.decode().splitlines()
        wanted = {"ReadOnly=true", "DropCapability=all", "NoNewPrivileges=true", "Pull=never"}
        assert wanted <= set(lines), path
        # A published port would go round the firewall.
        assert "Network=host" in lines and not [one for one in lines if one.startswith("Publish")]


def test_scripts_of_the_host_are_whole(host: Host, tmp_path: Path) -> None:
    for path, file in host.files.items():
        if file.mode & 0o111:
            target = tmp_path / Path(path).name
            target.write_bytes(file.data)
            shell = "bash" if file.data.startswith(b"#!/bin/bash") else "sh"
            subprocess.run([shell, "-n", str(target)], check=True)


def test_several_machines_are_refused_before_anything_is_made() -> None:
    with pytest.raises(UserError, match="one machine with every role"):
        rendering.render(replace(PROD, hosts="containers"), "app1")


@pytest.mark.parametrize(
    ("haproxy", "said"),
    [
        (
            {"acme": {"directory": "https://acme.test/dir", "email": "a@b.test", "agree": True}},
            "pillar haproxy:acme:directory: hosts that run containers order no certificate",
        ),
        (
            {"trusted_proxies": {"forwarded_for": ["192.0.2.0/24"]}},
            "pillar haproxy:trusted_proxies: hosts that run containers ban by the address",
        ),
    ],
    ids=["acme", "trusted_proxies"],
)
def test_settings_that_such_a_host_has_no_program_for_are_refused(
    where: Topology, monkeypatch: pytest.MonkeyPatch, haproxy: dict[str, object], said: str
) -> None:
    """They were accepted: nothing was ever ordered, and a balancer was banned for its clients."""
    copy_tree = salt_copy.copy_tree

    def with_settings(tree: Path, *words: object, **more: object) -> Path:
        config: Path = copy_tree(tree, *words, **more)
        folder = tree / "pillar/settings"
        folder.mkdir(exist_ok=True)
        (folder / f"{where.name}.sls").write_text(json.dumps({"haproxy": haproxy}))
        return config

    monkeypatch.setattr(salt_copy, "copy_tree", with_settings)
    with pytest.raises((OperationError, UserError), match=said):
        rendering.render(where, "core1")


def test_maintenance_is_refused_before_a_host_is_asked() -> None:
    with pytest.raises(UserError, match="maintenance: not for hosts that run containers"):
        maintenance.run(replace(ONE, hosts="containers"), Options.read(names=[]))


def test_a_secret_file_is_never_in_the_ignition_file() -> None:
    host = Host({"/etc/a": File(b"x", secret=True)}, {}, [], {}, {})
    assert '"/etc/a"' not in ignition.make("one", host, [])


def test_hosts_are_asked_by_programs_of_their_own() -> None:
    containers = replace(ONE, hosts="containers")
    assert "salt-call" not in host_programs.services(containers)
    assert "bootstrap/status" in host_programs.services(ONE)
    request = {"action": "deploy", "version": "1'2"}
    assert host_programs.roll(containers, COUNTER, request, []).startswith("STACK_DEPLOY=")
