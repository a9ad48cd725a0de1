"""
The container images: of real packages the same bytes in two folders, and run by podman and by Docker with a
read-only root and without any capability.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import layers
import networks
import pytest
from bare_machine import BOOT, control
from lab_machine import ROOT, mark_as_made

from control.artifacts import build as artifact
from control.artifacts import files
from control.images import build, description, lock
from control.options import Options

TOPOLOGY = networks.named("images")
# Where they are on the machine.
PLACE = "/var/tmp/images"
PACKAGES = (
    "podman", "crun", "netavark", "aardvark-dns", "nftables", "skopeo", "docker.io", "docker-cli", "iptables", "rsync",
)  # fmt: skip
# A lab machine has no controller for the number of processes.
SETTINGS = "[containers]\npids_limit = 0\n"
SANDBOX = "--read-only --cap-drop all --security-opt no-new-privileges"
REDIS = "bind 0.0.0.0\nprotected-mode no\ndir /var/lib/redis\nappendonly yes\n"
HAPROXY = """\
global
  log stdout format raw local0
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 1s
frontend site
  bind :8080
  default_backend counter
backend counter
  option httpchk GET /readyz
  retry-on none
  server one counter:8001 check inter 200ms init-addr none resolvers names
resolvers names
  parse-resolv-conf
"""
# What each says of itself, without any configuration.
VERSIONS = {
    "haproxy": ("-v", "HAProxy version 3."),
    "redis": ("--version", "Redis server v=8."),
    "prometheus": ("--version", "prometheus, version 2."),
    "alertmanager": ("--version", "alertmanager, version 0."),
    "collectd": ("-h", "Usage: collectd"),
    "rsyslog": ("-v", "rsyslogd  8."),
    "shipper": ("--help", "journal-shipper CONFIG"),
    "backup": ("--help", "stack-backup take"),
    "counter": ("--help", "COUNTER_LISTEN"),
}


def test_the_application_image_is_the_same_bytes_in_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its byte code, which would have times and paths in it."""
    images = {name: one for name, one in description.load().items() if one.artifact}
    locked = lock.read(images.values())
    version = artifact.build_artifact(Options())
    built = []
    for folder in (tmp_path / "one", tmp_path / "another/folder"):
        folder.mkdir(parents=True)
        monkeypatch.setattr(build, "DIST", folder)
        monkeypatch.setattr(build, "FOLDER", folder / "images")
        monkeypatch.setattr(build, "KEPT", folder / "kept")
        path = ROOT / "dist" / files.archive_name(version)
        built.append(build.build(images, locked, path, version, Options()))
    assert built[0] == built[1]


def on_machine(command: str, data: str = "", check: bool = True) -> str:
    done = subprocess.run(
        ["ssh", "-F", str(ROOT / ".lab" / TOPOLOGY / "ssh_config"), TOPOLOGY, "sudo sh -s"],
        input=f"set -eu\n{data}\n{command}\n", capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    """A machine with podman and Docker, and all images of this checkout."""
    roles = ["edge", "app", "store", "monitor"]
    written = networks.write(
        TOPOLOGY,
        {
            TOPOLOGY: {
                "address": networks.address("images"),
                "roles": roles,
                "memory": 1024,
                "cpus": 2,
            }
        },
    )
    mark_as_made(ROOT / ".lab" / TOPOLOGY)
    try:
        subprocess.run([*["make", "images"]], cwd=ROOT, check=True, timeout=1500)
        control(TOPOLOGY, "-c", BOOT.format(topology=TOPOLOGY), box=layers.box())
        on_machine(
            "mkdir -p /etc/containers/containers.conf.d\n"
            f"printf '%s' '{SETTINGS}' >/etc/containers/containers.conf.d/lab.conf\n"
            f"export DEBIAN_FRONTEND=noninteractive; apt-get -qq update; apt-get -qq -y --no-install-recommends"
            f" install {' '.join(PACKAGES)} >/dev/null 2>&1"
        )
        subprocess.run(
            ["rsync", "-a", "--rsync-path=sudo rsync", "-e", f"ssh -F {ROOT / '.lab' / TOPOLOGY / 'ssh_config'}",
             f"{ROOT / 'dist/images'}/", f"{TOPOLOGY}:{PLACE}/"],
            check=True, timeout=300,
        )  # fmt: skip
        on_machine(
            "mkdir -p /srv/images\n"
            f"cat >/srv/images/redis.conf <<'END'\n{REDIS}END\n"
            f"cat >/srv/images/haproxy.cfg <<'END'\n{HAPROXY}END"
        )
        yield
    finally:
        control(TOPOLOGY, "-m", "control", "down")
        written.unlink()


ENGINES = {
    "podman": "podman tag $(podman pull -q oci:{place}/{name}) {name}:test",
    "docker": "skopeo copy -q oci:{place}/{name} docker-daemon:{name}:test",
}


@pytest.mark.nightly("installs two container engines; the hosts' tests run the images too")
@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_image_runs_and_counts(machine: None, engine: str) -> None:
    for name in VERSIONS:
        on_machine(ENGINES[engine].format(place=PLACE, name=name))
    for name, (argument, words) in VERSIONS.items():
        run = f"{engine} run --rm {SANDBOX} --network none {name}:test {argument}"
        said = on_machine(run, check=False)
        assert words in said, (name, said)
        shell = f"{engine} run --rm {SANDBOX} --entrypoint /bin/sh {name}:test -c true"
        assert "not found" in on_machine(shell, check=False) or "no such file" in on_machine(
            shell, check=False
        ), f"{name} has a shell"
    start = f"{engine} run -d {SANDBOX} --network images"
    mounted = "-v /srv/images/{0}:/etc/{1}/{0}:ro"
    try:
        on_machine(
            f"{engine} network create images >/dev/null\n"
            f"{start} --name redis {mounted.format('redis.conf', 'redis')} -v images-data:/var/lib/redis redis:test\n"
            f"{start} --name counter -e COUNTER_LISTEN=0.0.0.0:8001 -e REDIS_URL=redis://redis:6379/0 counter:test\n"
            f"{start} --name haproxy -p 127.0.0.1:8080:8080 {mounted.format('haproxy.cfg', 'haproxy')} haproxy:test"
        )
        waiting = (
            "timeout 60 sh -c 'until curl -sf http://127.0.0.1:8080/readyz; do sleep 0.2; done'"
        )
        on_machine(waiting)
        said = on_machine("curl -s http://127.0.0.1:8080/; curl -s http://127.0.0.1:8080/")
        assert said == "".join(
            f"Hello World! I have been seen {number} times.\n" for number in (1, 2)
        )
        shown = json.loads(on_machine("curl -s http://127.0.0.1:8080/version"))
        listed = json.loads((ROOT / "dist/images/images.json").read_text(encoding="utf-8"))
        assert shown["sha256"] == listed["images"]["counter"]["artifact"]
        # A drain: what was accepted is answered, and the program ends by itself.
        on_machine(f"{engine} stop -t 30 counter")
        assert '"event":"stopped"' in on_machine(f"{engine} logs counter")
        # The data is the volume's.
        on_machine(
            f"{engine} restart redis >/dev/null; {engine} start counter >/dev/null; {waiting}"
        )
        assert on_machine("curl -s http://127.0.0.1:8080/").endswith("seen 3 times.\n")
    finally:
        on_machine(
            f"{engine} rm -f haproxy counter redis; {engine} network rm images; {engine} volume rm images-data",
            check=False,
        )


@pytest.mark.nightly("reads every file of every image")
def test_no_image_has_a_setuid_file_nor_one_that_its_user_could_change(machine: None) -> None:
    for name in VERSIONS:
        said = on_machine(
            f"folder=$(podman image mount $(podman pull -q oci:{PLACE}/{name})); cd $folder\n"
            "find . -xdev -perm /6000; find . -xdev -perm -0002 ! -type l ! -perm -1000\n"
            "find . -xdev ! -uid 0 ! -type d; for shell in sh bash dash busybox perl; do"
            " find . -name $shell; done"
        )
        assert said == "", (name, said)
