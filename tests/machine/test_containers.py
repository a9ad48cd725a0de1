"""
A host that runs containers: provisioned by the real Ignition, without Salt and Python, with the promises of a machine.

What is tested from outside of machines is run here by the same functions; TEST_TOPOLOGIES=pods runs whole files of it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networks
import pytest
from artifacts import variant
from lab_machine import ROOT, Lab, Outsider
from test_bans import Visitor, refusals
from test_count import every_number_once

from control import topology
from control.lab import containers

CONTAINERS = ("redis-server", "counter-1", "counter-2", "haproxy")


@pytest.fixture(scope="module")
def store(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with two good releases, a broken one, and the one that runs, which is back at the end."""
    folder = tmp_path_factory.mktemp("store")
    own = running(lab)
    source = ROOT / "dist" / f"counter-{own}.tar.gz"
    variant(source, own, folder)
    for version, broken in (("9.1.0", ""), ("9.2.0", ""), ("9.3.0", "never-ready")):
        variant(source, version, folder, broken)
    yield folder
    deploy(lab, folder, own)


def deploy(
    lab: Lab, store: Path, version: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return lab.make("deploy", VERSION=version, ARTIFACT_STORE=str(store), check=check)


def running(lab: Lab) -> str:
    return str(json.loads(lab.curl("version"))["version"])


def history(lab: Lab) -> list[str]:
    known = json.loads(lab.run("cat /var/lib/stack/releases/counter.json"))["history"]
    return [str(entry["version"]) for entry in known]


def inspect(lab: Lab, container: str) -> dict:  # type: ignore[type-arg]
    found = json.loads(lab.run(f"podman inspect {container}"))
    return dict(found[0])


def test_up_ends_with_a_counting_url_on_a_host_provisioned_by_ignition(lab: Lab) -> None:
    assert lab.up_output.strip().endswith(lab.url)
    first = lab.see()
    assert lab.see() == first + 1
    assert lab.run("cat /etc/hostname").strip() == lab.host
    assert lab.run("id -u haproxy redis").split() == ["10002", "10003"]
    assert lab.run("systemctl is-enabled stack-firewall").strip() == "enabled"
    # Nothing there can come to need what Fedora CoreOS has not got.
    assert lab.run("ls -d /usr/bin/python3* /opt/salt 2>/dev/null || true").strip() == ""


def test_the_ignition_file_holds_no_secret_and_its_validator_has_no_warning(lab: Lab) -> None:
    path = lab.state / f"{lab.host}.ign"
    text = path.read_text(encoding="utf-8")
    done = subprocess.run(["ignition-validate", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    contents = [one["path"] for one in json.loads(text)["storage"]["files"]]
    assert not [
        one for one in contents if "/secrets/" in one or one.endswith((".key", "users.acl"))
    ]
    for secret in (lab.state / "secrets").iterdir():
        if secret.is_file() and secret.stat().st_size and secret.suffix != ".pub":
            assert secret.read_text(encoding="utf-8").strip() not in text


def test_each_container_is_read_only_and_has_no_capability_but_for_low_ports(lab: Lab) -> None:
    for name in CONTAINERS:
        found = inspect(lab, name)
        assert found["HostConfig"]["ReadonlyRootfs"], name
        assert "no-new-privileges" in found["HostConfig"]["SecurityOpt"], name
        wanted = ["CAP_NET_BIND_SERVICE"] if name == "haproxy" else []
        assert (found["BoundingCaps"] or []) == wanted, name
        # As an account of its own, also as the kernel sees it.
        uid = lab.run(f"awk '/^Uid:/ {{ print $3 }}' /proc/{found['State']['Pid']}/status").strip()
        assert int(uid) > 10000, name


def test_an_apply_that_changes_nothing_leaves_every_container_as_it_is(lab: Lab) -> None:
    before = [inspect(lab, name)["Id"] for name in CONTAINERS]
    told = lab.apply().stdout
    assert told.strip().endswith("\n0 changed, 0 failed")
    assert [inspect(lab, name)["Id"] for name in CONTAINERS] == before


def test_a_configuration_that_its_program_refuses_never_goes_live(lab: Lab) -> None:
    before = lab.run("sha256sum /etc/haproxy/haproxy.cfg /etc/redis/redis.conf")
    for path, text, name in (
        ("/etc/haproxy/haproxy.cfg", "no-such-section", "HAProxy"),
        ("/etc/redis/redis.conf", "no-such-setting 1", "Redis"),
        ("/etc/stack/bans.nft", "no such table", "nft"),
    ):
        staged = f"/run/stack/staged{path}"
        lab.run(
            f"mkdir -p {staged.rpartition('/')[0]}; cat {path} >{staged}; echo '{text}' >>{staged}"
        )
        assert f"{name} refuses" in lab.run("stack-swap --swap 2>&1 || true")
    assert lab.run("sha256sum /etc/haproxy/haproxy.cfg /etc/redis/redis.conf") == before
    assert lab.serving()


@pytest.mark.parametrize("mode", ["keepalive"])
def test_a_thousand_requests_to_containers_give_every_number_once(lab: Lab, mode: str) -> None:
    every_number_once(lab, mode, 1_000)


@pytest.mark.nightly("minutes; a thousand requests show the same")
@pytest.mark.parametrize("mode", ["keepalive", "close", "h2"])
def test_ten_thousand_requests_to_containers_give_every_number_once(lab: Lab, mode: str) -> None:
    every_number_once(lab, mode, 10_000)


def test_images_are_deployed_and_taken_back_under_load_without_losing_a_request(
    lab: Lab, store: Path
) -> None:
    own, before = running(lab), lab.count()
    with lab.under_load(rate=50) as load:
        deploy(lab, store, "9.1.0")
        assert running(lab) == "9.1.0"
        assert lab.make("rollback", ARTIFACT_STORE=str(store)).returncode == 0
    assert load.result.exact, load.result.summary()
    assert lab.count() == before + load.result.sent
    assert (running(lab), history(lab)[-1]) == (own, own)


def test_a_broken_image_is_taken_back_and_the_old_one_serves_all_along(
    lab: Lab, store: Path
) -> None:
    own, before = running(lab), lab.count()
    with lab.under_load(rate=50) as load:
        failed = deploy(lab, store, "9.3.0", check=False)
    assert failed.returncode != 0
    assert "not ready" in failed.stdout + failed.stderr
    assert f"back on {own}" in failed.stdout + failed.stderr
    assert load.result.exact, load.result.summary()
    assert lab.count() == before + load.result.sent
    assert (running(lab), history(lab)[-1]) == (own, own)
    told = [
        json.loads(line)
        for line in lab.run("tail -n 2 /var/log/stack/counter-deploys.log").splitlines()
    ]
    assert [one["outcome"] for one in told] == ["started", "failed"]


@pytest.fixture(scope="module")
def pages(lab: Lab, store: Path) -> Iterator[Path]:
    """An application beside the counter, as test_apps.py has it; the repository for its releases."""
    settings = networks.settings(lab.topology)
    settings.parent.mkdir(exist_ok=True)
    assert not settings.exists(), f"{settings}: somebody's own"
    one = {"hosts": ["pages.test"], "bake_seconds": 0, "instances": 1, "methods": ["GET"]}
    settings.write_text(json.dumps({"apps": {"pages": {**one, "state": True}}}), encoding="utf-8")
    try:
        lab.apply()
        yield store
    finally:
        settings.unlink()
        with contextlib.suppress(OSError):
            settings.parent.rmdir()
        lab.apply()
        lab.run("rm -rf /var/lib/apps/pages /var/lib/stack/releases/pages.json")


PAGES = ROOT / "tests" / "machine" / "applications" / "pages"


def ask_pages(lab: Lab, path: str = "/") -> str:
    resolve = ["--resolve", f"pages.test:443:{lab.address}", f"https://pages.test{path}"]
    words = ["curl", "-sS", "-m", "10", "--cacert", lab.ca, *resolve]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_another_application_runs_beside_the_counter_by_its_name(
    lab: Lab, pages: Path, tmp_path: Path
) -> None:
    store = {"ARTIFACT_STORE": str(pages)}
    first = lab.make("publish", APP=str(PAGES), **store).stdout.strip().splitlines()[-1]
    with lab.under_load(rate=40) as load:
        lab.make("deploy", APP="pages", VERSION=first, **store)
        assert ask_pages(lab) == "pages 0 False\n"
        second = shutil.copytree(PAGES, tmp_path / "pages")
        (second / "pages.py").write_text((PAGES / "pages.py").read_text() + "# another\n")
        other = lab.make("publish", APP=str(second), **store).stdout.strip().splitlines()[-1]
        lab.make("deploy", APP="pages", VERSION=other, **store)
        assert json.loads(ask_pages(lab, "/version"))["version"] == other
        lab.make("rollback", APP="pages", **store)
        assert json.loads(ask_pages(lab, "/version"))["version"] == first
    assert load.result.exact, load.result.summary()
    assert f"@1 {first}; back: -" in lab.make("releases", APP="pages", **store).stdout
    found = inspect(lab, "pages-1")
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert not found["BoundingCaps"]
    assert lab.run("stat -c %U:%a /var/lib/apps/pages").strip() == "app-pages:700"
    # Of an application with one instance, two rolls may have been two scrapes in a row without any.
    lab.wait_for_status()
    # What such a host does not run is refused before anything is changed.
    shop = ROOT / "tests" / "machine" / "applications" / "shop"
    refused = lab.make("deploy", APP=str(shop), VERSION="1", check=False, **store)
    assert refused.returncode != 0
    assert "shop" in refused.stderr


def test_a_backup_brings_back_the_count_that_it_was_taken_at(lab: Lab) -> None:
    lab.see()
    lab.make("backup")
    counted = lab.count()
    lab.see()
    refused = lab.make("restore", YES="1", check=False)
    assert f"the backup's count is {counted}, the running one {counted + 1}" in refused.stdout
    assert lab.count() == counted + 1
    lab.make("restore", YES="1", FORCE="1")
    assert lab.see() == counted + 1


def test_maintenance_is_a_page_until_it_ends_and_counts_nothing(lab: Lab) -> None:
    def status() -> str:
        words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %header{retry-after}"]
        done = subprocess.run(
            [*words, "--cacert", lab.ca, lab.url], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    before = lab.count()
    try:
        assert "maintenance is on" in lab.make("maintenance", ON="1").stdout
        assert status() == "503 300"
        # Over an apply, which would bring its own files, a restart and a reload.
        assert lab.apply().stdout.strip().endswith("\n0 changed, 0 failed")
        lab.run("systemctl restart haproxy")
        lab.wait("HAProxy answers", lambda: status() == "503 300")
        lab.run("systemctl reload haproxy")
        assert status() == "503 300"
    finally:
        lab.make("maintenance", OFF="1")
    assert lab.count() == before
    assert lab.see() == before + 1


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_killed_container_is_back_by_itself_and_the_count_is_kept(
    lab: Lab, container: str
) -> None:
    counted = lab.see()
    killed = inspect(lab, container)["Id"]
    lab.run(f"kill -9 {inspect(lab, container)['State']['Pid']}")

    def is_back() -> bool:
        again = lab.run(f"podman inspect -f '{{{{.Id}}}}' {container}", check=False).strip()
        return again not in ("", killed) and lab.serving()

    lab.wait(f"{container} is back", is_back)
    assert lab.see() == counted + 1


def test_count_and_containers_outlive_a_reboot(lab: Lab) -> None:
    counted, version = lab.see(), running(lab)
    lab.reboot()
    assert lab.see() == counted + 1
    assert running(lab) == version


@pytest.mark.nightly("a minute; a reboot shows the same")
def test_count_and_containers_outlive_a_power_cut(lab: Lab) -> None:
    with lab.under_load(rate=50) as load:
        lab.wait("requests are answered", lambda: lab.count() > 0)
        lab.lxc("lxc-stop", lab.host, "--kill")
    lab.lxc("lxc-start", lab.host, "--daemon")
    lab.wait("it serves again", lab.serving)
    assert load.result.numbers
    assert load.result.duplicates == []
    assert lab.see() > max(load.result.numbers), "an acknowledged number was lost"


def test_an_outsider_finds_ssh_and_the_site_open_and_nothing_else(lab: Lab) -> None:
    beyond = {
        one.rpartition(":")[2] for one in lab.listening() if not one.startswith(("127.", "[::1]"))
    }
    assert beyond == {"22", "80", "443"}
    if reason := Outsider.missing("nmap"):
        pytest.skip(reason)
    with Outsider(lab, 1) as outsider:
        said = outsider.run(
            "nmap", "-n", "-Pn", "-p-", "--min-rate", "5000", lab.address, timeout=300
        ).stdout
    assert re.findall(r"(?m)^(\d+)/tcp +open ", said) == ["22", "80", "443"], said


# As many connections as it can open, each closed at once: new connections, which the host's nftables counts.
FLOOD = """
import socket, sys
for number in range(20000):
    try:
        socket.create_connection((sys.argv[1], 443), 2).close()
    except ConnectionError:
        # HAProxy cuts it.
        pass
    except OSError:
        print(number)
        break
"""


def test_a_flood_is_limited_by_haproxy_and_banned_by_the_hosts_nftables(lab: Lab) -> None:
    nobody = Path("/nonexistent")
    with Visitor(lab, 2, nobody) as attacker, Visitor(lab, 3, nobody) as innocent:
        assert refusals(attacker, 520), "HAProxy limits requests"
        before = lab.count()
        opened = attacker.run(sys.executable, "-c", FLOOD, lab.address).stdout.strip()
        assert 1000 < int(opened) < 20000
        listed = lab.run("nft list set inet stack_bans banned4")
        try:
            assert attacker.address in listed
            assert not attacker.connects(443)
            assert not attacker.connects(22), "of the whole host"
            assert innocent.get() == 200
            # A ban outlives the firewall's restart.
            lab.run("systemctl restart stack-firewall")
            assert not attacker.connects(443)
            assert innocent.get() == 200
        finally:
            lab.run(
                f"nft delete element inet stack_bans banned4 '{{ {attacker.address} }}'",
                check=False,
            )
        assert lab.count() == before


def test_a_host_made_anew_has_its_count_and_the_releases_that_it_ran(
    lab: Lab, store: Path, pages: Path
) -> None:
    deploy(lab, store, "9.2.0")
    other = {"APP": str(PAGES), "ARTIFACT_STORE": str(pages)}
    lab.make(
        "deploy", VERSION=lab.make("publish", **other).stdout.strip().splitlines()[-1], **other
    )
    counted = lab.see()
    # A host that is lost with all but the disk of its data.
    name = containers.container_name(topology.load(lab.topology), lab.host)
    containers.destroy(name)
    lab.make("up", ARTIFACT_STORE=str(store), timeout=1500)
    assert lab.see() == counted + 1
    assert running(lab) == "9.2.0"
    assert ask_pages(lab) == "pages 0 False\n"
