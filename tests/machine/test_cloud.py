"""
`salt-cloud -p prod web1` and `make cloud-up`, with fresh lab machines as the droplets behind the
stand-in of the API.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import layers
import networks
import pytest
import yaml
from bare_machine import BOOT, control
from lab_machine import ROOT, mark_as_made
from standin_digitalocean import TOKEN, Machines, Standin

TOPOLOGY = networks.named("droplet")
# Three machines, and the topology that is made of them "in the cloud": one name cannot be both.
BARE, THREE = networks.named("bare3"), networks.named("three")
MACHINES: dict[str, list[str]] = {
    "front": ["edge", "monitor"],
    "app1": ["app"],
    "store1": ["store"],
}


def on_machine(command: str, data: str = "", topology: str = TOPOLOGY, host: str = "") -> str:
    config = ROOT / ".lab" / topology / "ssh_config"
    return subprocess.run(
        ["ssh", "-F", str(config), host or topology, command],
        input=data, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


def let_in(keys: list[str], topology: str = TOPOLOGY, host: str = "") -> tuple[str, str]:
    """Let ``keys`` in as root; the machine's public and its private address."""
    said = on_machine(
        "sudo install -d -m 700 /root/.ssh && sudo tee /root/.ssh/authorized_keys >/dev/null"
        " && ip -4 -o addr show",
        "\n".join(keys) + "\n",
        topology,
        host,
    )
    found = {line.split()[1]: line.split()[3].split("/")[0] for line in said.splitlines()}
    # As a droplet: the way out has the public address, the second interface the private one.
    return found["eth0"], found["eth1"]


class OneMachine(Machines):
    """The droplet: a machine that was booted beforehand and lets the account's keys in as root."""

    def __init__(self) -> None:
        self.held_by: str | None = None
        self.public = ""

    def take(self, name: str, keys: list[str]) -> tuple[str, str]:
        assert self.held_by is None, "there is one machine"
        self.held_by = name
        self.public, private = let_in(keys)
        return self.public, private

    def give_back(self, name: str) -> None:
        self.held_by = None


class ThreeMachines(Machines):
    """Droplets of topology ``three``, each the machine of its name in ``bare3``."""

    def take(self, name: str, keys: list[str]) -> tuple[str, str]:
        return let_in(keys, BARE, name.removeprefix(f"{THREE}-"))

    def give_back(self, name: str) -> None:
        """It stays as it is: the fixture removes it."""


@pytest.fixture
def machine() -> Iterator[OneMachine]:
    roles = ["edge", "app", "store", "monitor"]
    stand_in = {"address": networks.address("droplet"), "roles": roles, "memory": 1024, "cpus": 2}
    written = networks.write(TOPOLOGY, {TOPOLOGY: stand_in})
    mark_as_made(ROOT / ".lab" / TOPOLOGY)
    try:
        control(TOPOLOGY, "-c", BOOT.format(topology=TOPOLOGY), box=layers.box())
        yield OneMachine()
    finally:
        control(TOPOLOGY, "-m", "control", "down")
        written.unlink()


@pytest.fixture
def three() -> Iterator[ThreeMachines]:
    folder = ROOT / "pillar" / "topologies"
    profile = ROOT / "cloud" / "cloud.profiles.d" / f"{THREE}.conf"
    try:
        for name in (BARE, THREE):
            machines = {
                host: {
                    "address": networks.address("three", number),
                    "roles": roles,
                    "memory": 768,
                    "cpus": 1,
                }
                for number, (host, roles) in enumerate(MACHINES.items())
            }
            networks.write(name, machines)
        mark_as_made(ROOT / ".lab" / BARE)
        own = {
            "provider": "digitalocean", "size": "s-1vcpu-2gb", "image": "debian-13-x64", "deploy": False,
        }  # fmt: skip
        profile.write_text(yaml.safe_dump({"edge-monitor": own}), encoding="utf-8")
        control(BARE, "-c", BOOT.format(topology=BARE), box=layers.box())
        yield ThreeMachines()
    finally:
        control(BARE, "-m", "control", "down")
        for path in (folder / f"{BARE}.yaml", folder / f"{THREE}.yaml", profile):
            path.unlink(missing_ok=True)
        shutil.rmtree(ROOT / ".lab" / THREE, ignore_errors=True)
        for kept in (ROOT / ".lab").glob(f"{THREE}.removed-*"):
            shutil.rmtree(kept)


@pytest.fixture(autouse=True)
def leave_it_well() -> None:
    """In place of the other tests': this machine begins with nothing on it."""


def salt_cloud(api: Standin, *words: str) -> subprocess.CompletedProcess[str]:
    """As typed at the root of the checkout; both outputs in `stdout`."""
    program = Path(sys.executable).parent / "salt-cloud"
    return subprocess.run(
        [str(program), *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=900, env={**os.environ, **api.environment()},
        check=False,
    )  # fmt: skip


# Two whole deploys, the first of which fails early.
@pytest.mark.timeout(1800)
@pytest.mark.one_release
@pytest.mark.controller
def test_salt_cloud_makes_a_droplet_that_serves_over_https(machine: OneMachine) -> None:
    with Standin(pace=0.5, machines=machine) as api:
        # A deploy that fails leaves no droplet, and says why.
        bad = salt_cloud(api, "-p", "prod", "Web1")
        assert bad.returncode == 1 and api.names() == [], bad.stdout
        assert re.search(r"Error: .*deploy.sh' failed", bad.stdout.replace("\n", " ")), bad.stdout

        began = time.monotonic()
        done = salt_cloud(api, "-l", "info", "-p", "prod", "web1")
        print(f"salt-cloud -p prod web1: {time.monotonic() - began:.0f} s")
        assert done.returncode == 0, done.stdout[-4000:]
        assert ", 0 failed" in done.stdout
        answer = (
            rf"web1: https://{machine.public}/ answers: Hello World! I have been seen \d+ times\."
        )
        assert re.search(answer, done.stdout), done.stdout[-4000:]
        assert api.names() == ["web1"]
        (firewall,) = api.firewalls.values()
        (droplet,) = api.droplets.values()
        assert set(firewall["tags"]) <= set(droplet["tags"])

        # From here, as any client: another number, the certificate verified.
        ca = on_machine("sudo cat /etc/stack/pki/ca.pem")
        path = ROOT / ".lab" / TOPOLOGY / "ca.pem"
        path.write_text(ca)
        seen = subprocess.run(
            ["curl", "-sS", "--max-time", "10", "--cacert", str(path), f"https://{machine.public}/"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert re.fullmatch(r"Hello World! I have been seen \d+ times\.\n", seen)
        # Its firewall is confirmed, and stays.
        assert not on_machine("sudo ls /var/lib/stack/firewall/unconfirmed 2>/dev/null || true")

        again = salt_cloud(api, "-p", "prod", "web1")
        assert "already exists" in again.stdout and len(api.droplets) == 1
        gone = salt_cloud(api, "-y", "-d", "web1")
        assert gone.returncode == 0 and api.names() == [], gone.stdout
        for one in (bad, done, again, gone):
            assert TOKEN not in one.stdout
    logs = ROOT / ".lab" / "cloud"
    kept = [one for one in logs.rglob("*") if one.is_file() and TOKEN.encode() in one.read_bytes()]
    assert not kept, "the token is in no file"


def seen(address: str) -> int:
    """One count over HTTPS, the certificate verified by what cloud-up has fetched."""
    said = subprocess.run(
        ["curl", "-sS", "--max-time", "10", "--cacert", str(ROOT / ".lab" / THREE / "ca.pem"), address],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.fullmatch(r"Hello World! I have been seen (\d+) times\.\n", said)
    assert found, said
    return int(found[1])


@pytest.mark.timeout(2400)
@pytest.mark.one_release
@pytest.mark.controller
@pytest.mark.nightly(
    "three machines twice: five minutes; its parts are unit tests against the stand-in"
)
def test_cloud_up_makes_a_topology_that_serves_and_cloud_down_leaves_nothing(
    three: ThreeMachines,
) -> None:
    def make(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "control", command], cwd=ROOT, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500, check=False,
            env={**os.environ, **api.environment(), "TOPOLOGY": THREE, "SUITE": "", **settings},
        )  # fmt: skip

    with Standin(pace=0.5, machines=three, latency=0.05) as api:
        began = time.monotonic()
        first = make("cloud-up")
        print(f"make cloud-up of three machines: {time.monotonic() - began:.0f} s")
        assert first.returncode == 0, first.stdout[-4000:]
        assert api.names() == [f"{THREE}-{one}" for one in sorted(MACHINES)]
        address = first.stdout.splitlines()[-1]
        assert re.fullmatch(r"https://[0-9.]+/", address), first.stdout[-500:]
        before = seen(address)
        assert seen(address) == before + 1

        again = make("cloud-up")
        assert again.returncode == 0, again.stdout[-4000:]
        assert "nothing to do" in again.stdout and api.count("POST", "/v2/droplets") == len(
            MACHINES
        )
        changes = re.findall(r"(\d+) changed, (\d+) failed", again.stdout)
        assert changes == [("0", "0")] * len(MACHINES), again.stdout[-4000:]
        assert seen(address) == before + 2

        gone = make("cloud-down", YES=THREE)
        assert gone.returncode == 0, gone.stdout
        assert api.names() == [] and not api.firewalls and not api.keys
        assert not [one for one in api.vpcs.values() if not one["default"]]
        assert not [one for one in api.tags if one.startswith("counter")]
        for one in (first, again, gone):
            assert TOKEN not in one.stdout
    assert not (ROOT / ".lab" / THREE).exists()
    (kept,) = (ROOT / ".lab").glob(f"{THREE}.removed-*/secrets/backup-identity")
    assert "AGE-SECRET-KEY-1" in kept.read_text(), "what opens the backups outlives the machines"
