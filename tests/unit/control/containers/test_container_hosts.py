"""Container hosts: what real Salt renders for one, and the Ignition file that is made of it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from control import application, host_programs, local_state, salt_copy, ssh, topology
from control.application import APPS, COUNTER, Application
from control.containers import handover, ignition, images, rendering
from control.containers.rendering import File, Host
from control.errors import OperationError, UserError
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


def test_the_backup_is_of_the_store_alone(host: Host) -> None:
    """Its container may not enter what other accounts have; told of a folder, it waited for a copy that nobody made."""
    assert json.loads(host.files["/etc/stack/backup.json"].data)["folders"] == {}


def test_no_neighbour_is_answered_by_the_resolver(host: Host) -> None:
    """LLMNR listened on every address, behind the firewall alone."""
    text = host.files["/etc/systemd/resolved.conf.d/stack.conf"].data.decode()
    assert {"LLMNR=no", "MulticastDNS=no"} <= set(text.splitlines())


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
        file = {"counter": "application", "stack-backup": "backup"}.get(name, name)
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
        assert {"Network=host", "Network=none"} & set(lines)
        assert not [one for one in lines if one.startswith("Publish")]


def test_each_container_is_limited_in_memory_and_processes_but_in_the_lab(
    where: Topology, host: Host
) -> None:
    real = rendering.render(where, "core1", is_lab=False)
    units = [path for path in real.files if path.endswith(".container")]
    for path in units:
        text = real.files[path].data.decode()
        (found,) = re.findall(
            r"(?m)^PodmanArgs=--memory=(\d+)m --memory-swap=(\d+)m --pids-limit=(\d+)$", text
        )
        memory, swap, processes = map(int, found)
        assert 100 < memory == swap < 4000, path
        assert 32 <= processes <= 512, path
        # The lab's kernel has no controllers, and podman refuses to start.
        assert "--memory" not in host.files[path].data.decode(), path
    # Data that fill it, written anew beside themselves.
    assert (
        "--memory=320m"
        in real.files["/etc/containers/systemd/redis-server.container"].data.decode()
    )
    assert b"pids_limit" not in real.files["/etc/containers/containers.conf.d/10-stack.conf"].data


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
        ({"http3": True}, "pillar haproxy:http3: hosts that run containers open no UDP port"),
    ],
    ids=["acme", "trusted_proxies", "http3"],
)
def test_settings_that_such_a_host_has_no_program_for_are_refused(
    where: Topology, with_pillar: Callable[..., None], haproxy: dict[str, object], said: str
) -> None:
    """They were accepted: nothing was ever ordered, and a balancer was banned for its clients."""
    with_pillar(haproxy=haproxy)
    with pytest.raises((OperationError, UserError), match=said):
        rendering.render(where, "core1")


@pytest.fixture
def with_pillar(where: Topology, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the topology settings."""

    def give(**given: object) -> None:
        prepare = salt_copy.prepare

        def with_settings(tree: Path, *words: object, **more: object) -> Path:
            config: Path = prepare(tree, *words, **more)
            folder = tree / "pillar/settings"
            folder.mkdir(exist_ok=True)
            (folder / f"{where.name}.sls").write_text(json.dumps(given))
            return config

        monkeypatch.setattr(salt_copy, "prepare", with_settings)
        apps = given.get("apps")
        names = ["counter", *(sorted(apps) if isinstance(apps, dict) else [])]
        monkeypatch.setattr(application, "list_names", lambda _: names)

    return give


NOTES = {
    "hosts": ["notes.test"], "state": True, "instances": 2, "environment": {"DATA": "{state}"},
    "redis": {"keys": ["notes:*"], "commands": ["get", "set"]}, "watchdog_seconds": 30,
}  # fmt: skip


def test_applications_have_units_settings_and_accounts_of_their_own(
    where: Topology, with_pillar: Callable[..., None]
) -> None:
    with_pillar(apps={"notes": NOTES})
    host = rendering.render(where, "core1")
    unit = host.files["/etc/containers/systemd/notes@.container"].data.decode()
    (notes,) = [one for one in host.facts["applications"] if one["name"] == "notes"]
    for line in (
        "Image=localhost/app-notes:instance-%i",
        f"User={notes['uid']}",
        "Volume=/var/lib/apps/notes:/var/lib/apps/notes",
        "WatchdogSec=30",
        f"Secret=redis-notes,type=mount,uid={notes['uid']},gid={notes['uid']},mode=0400,"
        "target=/run/credentials/notes@%i.service/redis-password",
    ):
        assert line in unit.splitlines()
    assert notes["uid"] not in rendering.ACCOUNTS.values()
    assert f"u app-notes {notes['uid']}\n" in host.files["/etc/sysusers.d/stack.conf"].data.decode()
    environment = host.files["/etc/stack/application/notes/2.env"].data.decode().splitlines()
    assert f"SERVING_LISTEN=127.0.0.1:{notes['port'] + 1}" in environment
    assert "DATA=/var/lib/apps/notes" in environment
    assert "PROXY=app-notes\n" in host.files["/etc/stack/applications/notes.conf"].data.decode()
    assert "PROXY=app\n" in host.files["/etc/stack/applications/counter.conf"].data.decode()
    assert b"user notes " in host.files["/etc/redis/users.acl"].data
    assert b"notes.test" in host.files["/etc/haproxy/haproxy.cfg"].data
    assert "notes@2" in json.loads(host.files["/etc/stack/status.json"].data)["notes"]
    assert "redis-notes" in host.secrets


ANOTHER = pytest.mark.nightly("a host rendered once more, for the next key of one list")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hooks", {"before": [{"command": "true"}]}),
        pytest.param("version", "1.0", marks=ANOTHER),
        pytest.param("exec", "bin/other", marks=ANOTHER),
    ],
)
def test_settings_of_an_application_that_such_a_host_cannot_honour_are_refused(
    where: Topology, with_pillar: Callable[..., None], key: str, value: object
) -> None:
    with_pillar(apps={"notes": {**NOTES, key: value}})
    with pytest.raises(OperationError, match=f"pillar apps:notes:{key}: hosts that run containers"):
        rendering.render(where, "core1")


def test_a_release_with_commands_beside_its_instances_is_refused(tmp_path: Path) -> None:
    app = Application("shop", APPS)
    said = json.dumps({"processes": {"worker": "python work.py"}}).encode()
    with tarfile.open(tmp_path / "shop-1.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("shop-1/app.json")
        info.size = len(said)
        archive.addfile(info, io.BytesIO(said))
    with pytest.raises(UserError, match="shop 1: its app.toml has a process .processes., which"):
        images.bring_release(ONE, "core1", "1", tmp_path, app)


def test_hosts_are_told_of_maintenance_by_a_program_of_their_own() -> None:
    containers = replace(ONE, hosts="containers")
    assert host_programs.maintenance(containers, True) == "stack-maintenance on"
    assert host_programs.maintenance(ONE, False).endswith("maintenance.switch false")


def test_what_the_host_itself_switches_is_no_change_of_an_apply(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An apply would have turned maintenance off."""
    listed = "".join(f"{'0' * 64}  {path}\n" for path in host.files)
    monkeypatch.setattr(ssh, "run", lambda *_: listed)
    changed = handover.changed_files(ONE, "core1", host)
    assert "/etc/haproxy/maintenance.map" in host.files
    assert "/etc/haproxy/haproxy.cfg" in changed
    assert "/etc/haproxy/maintenance.map" not in changed


def test_a_secret_file_is_never_in_the_ignition_file() -> None:
    host = Host({"/etc/a": File(b"x", secret=True)}, {}, [], {}, {})
    assert '"/etc/a"' not in ignition.make("one", host, [])


def test_hosts_are_asked_by_programs_of_their_own() -> None:
    containers = replace(ONE, hosts="containers")
    assert "salt-call" not in host_programs.services(containers)
    assert "bootstrap/status" in host_programs.services(ONE)
    request = {"action": "deploy", "version": "1'2"}
    assert host_programs.roll(containers, COUNTER, request, []).startswith("STACK_DEPLOY=")
