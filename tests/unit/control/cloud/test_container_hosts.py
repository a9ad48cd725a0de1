"""Topology `containers` on DigitalOcean: a custom image, the Ignition file as user data, and no secret in what is uploaded."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from standin_digitalocean import SIZES, Standin

from control import topology
from control.artifacts import build
from control.cloud import account, addresses, container_hosts, removal
from control.commands import cloud_plan
from control.containers import images, lifecycle
from control.errors import ControlError, UserError
from control.options import Options
from control.paths import ROOT
from control.topology import Topology
from tests.unit.control.cloud.cloud_account import Applied, make_up

URL = "https://images.example.com/fedora-coreos-43-digitalocean.x86_64.qcow2.gz"

pytestmark = pytest.mark.skipif(
    not shutil.which("ignition-validate"), reason="needs Debian's package ignition"
)


@pytest.fixture
def where(here: Path, api: Standin, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """With the image in the account; images of containers are built elsewhere."""
    monkeypatch.setattr(images, "ensure", lambda *_: None)
    monkeypatch.setattr(build, "build_artifact", lambda _: "1.2.3")
    # The checkout's own key: salt-cloud reads the configuration, which names it.
    monkeypatch.setattr(account, "KEY", ROOT / ".lab" / "cloud" / "id_ed25519")
    monkeypatch.setattr(account, "STATE", ROOT / ".lab" / "cloud")
    give_image(api)
    return topology.load("containers")


def give_image(api: Standin) -> None:
    body = {"name": "fedora-coreos", "url": URL, "region": "fra1", "distribution": "CoreOS"}
    api._create_image(None, {}, body)
    if api.pace < 1:
        time.sleep(api.pace)


def test_a_plan_names_the_host_its_image_and_its_price(
    where: Topology, api: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cloud_plan.run(where, Options.read()) == 0
    said = capsys.readouterr().out
    assert "+ create   droplet containers-core1: s-2vcpu-2gb in fra1, fedora-coreos" in said
    price = SIZES["s-2vcpu-2gb"][4]
    assert f"$0.00 a month now, ${price:.2f} afterwards (droplets, before tax" in said
    assert "firewall counter-containers-app-edge-monitor-store: tcp 22" in said
    assert not [one for one in api.requests if one[0] != "GET"], "a plan changes nothing"


@pytest.mark.parametrize("state", ["none", "imported", "broken", "elsewhere"])
def test_an_image_that_is_not_there_is_refused_with_the_way_to_get_it(
    where: Topology, api: Standin, state: str
) -> None:
    api.custom.clear()
    expected = "image fedora-coreos: .*'salt-cloud -f import_image digitalocean name=fedora-coreos"
    if state != "none":
        api.pace = 600 if state == "imported" else 0.0
        give_image(api)
        expected = "image fedora-coreos: NEW: wait until it is available"
    if state == "broken":
        api.errored.add("fedora-coreos")
        expected = "image fedora-coreos: deleted: it is no image"
    if state == "elsewhere":
        next(iter(api.custom.values()))["regions"] = ["nyc3"]
        expected = "image fedora-coreos: not available in fra1; it can be had in: nyc3"
    with pytest.raises(UserError, match=expected) as refused:
        cloud_plan.run(where, Options.read())
    assert refused.value.code == 2 and "\n" not in str(refused.value)


def uploaded(api: Standin) -> dict[str, Any]:
    (droplet,) = api.droplets.values()
    found = json.loads(droplet["_user_data"])
    assert isinstance(found, dict)
    return found


def test_a_host_is_made_of_the_image_and_the_ignition_file(
    where: Topology,
    api: Standin,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the real salt-cloud, and the Ignition file by the real Salt and Ignition's own validator."""
    converged: list[Topology] = []
    monkeypatch.setattr(lifecycle, "apply", lambda topology, _: converged.append(topology) or 0)
    assert make_up(where, Applied()) == 0
    (droplet,) = api.droplets.values()
    assert droplet["name"] == "containers-core1" and droplet["image"]["name"] == "fedora-coreos"
    assert droplet["_keys"] == list(api.keys), "Fedora CoreOS' image wants a key of the account"
    config = uploaded(api)
    assert config["ignition"] == {"version": "3.3.0"}
    (core,) = [one for one in config["passwd"]["users"] if one["name"] == "core"]
    key = (here / "containers/secrets/login.pub").read_text().strip()
    assert core["sshAuthorizedKeys"] == [key]
    assert len(droplet["_user_data"].encode()) <= container_hosts.MOST
    # What the lab's kernel needs is not for a real host.
    written = {one["path"]: one["contents"]["source"] for one in config["storage"]["files"]}
    limits = written["/etc/containers/containers.conf.d/10-stack.conf"]
    assert b"pids_limit" not in gzip.decompress(base64.b64decode(limits.partition(",")[2]))
    # Nothing that is uploaded is a secret, nor what it could be guessed from.
    text = droplet["_user_data"] + "".join(
        gzip.decompress(base64.b64decode(one.partition(",")[2])).decode("utf-8", "replace")
        for one in written.values()
    )
    secrets = [path for path in (here / "containers/secrets").rglob("*") if path.is_file()]
    assert len(secrets) > 3
    for path in secrets:
        if path.name not in ("login.pub", "ca.pem") and path.suffix not in (".pem", ".pub"):
            assert path.read_text().strip() not in text, path
    assert "PRIVATE KEY" not in text and "users.acl" not in written
    assert not [one for one in api.requests if "droplets" in one[1] and one[0] == "PUT"]
    # From then on it is reached as `core`, and rendered with the cloud's addresses.
    ssh = (here / "containers/ssh_config").read_text()
    public, private = account.find_address(droplet), account.find_address(droplet, "private")
    assert f"HostName {public}\n  User core\n" in ssh and "/secrets/login\n" in ssh
    assert converged[0].machines["core1"].address == private
    assert addresses.carried_file(where) == here / "containers" / "cloud.yaml"
    capsys.readouterr()
    assert make_up(where, Applied()) == 0
    assert "nothing to do" in capsys.readouterr().out and len(converged) == 2
    monkeypatch.setenv("YES", "containers")
    assert removal.down(where, Options.read()) == 0
    assert not api.names() and len(api.custom) == 1, "the image is the account's own"


def test_user_data_that_is_too_large_is_refused_before_a_host_is_paid_for(
    where: Topology, api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_hosts, "MOST", 1000)
    with pytest.raises(ControlError, match=r"core1\.ign: \d+ bytes, and DigitalOcean takes 1000"):
        make_up(where, Applied())
    assert not api.names()


def test_several_hosts_are_refused_before_one_is_paid_for(where: Topology, api: Standin) -> None:
    more = {**where.machines, "core2": where.machines["core1"]}
    several = Topology(where.name, where.domain, where.network, more, hosts="containers")
    with pytest.raises(UserError, match="come alone so far"):
        container_hosts.write_user_data(several, Options.read())
    assert not api.names()
