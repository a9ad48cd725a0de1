"""The driver against a stand-in of the API: what it does, what it says, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import SaltCloudSystemExit
from salt_cloud import PUBLIC_KEY, Cloud, Loopback
from saltext.digitalocean.utils.digitalocean.api import Api, ApiError, NoToken, find_token
from standin_digitalocean import IMAGES, READ_ONLY, TOKEN, Standin

DROPLET = r"/v2/droplets/\d+"


def refused(cloud: Cloud, **overrides: Any) -> str:
    """The one line with which a creation is refused."""
    with pytest.raises(SaltCloudSystemExit) as error:
        cloud.create("web1", **overrides)
    line = str(error.value)
    assert "\n" not in line and TOKEN not in line
    assert error.value.exit_code == 1
    return line


# --- create, look, act, destroy -----------------------------------------------------------------------


def test_a_droplet_is_made_shown_acted_on_and_destroyed(cloud: Cloud, api: Standin) -> None:
    made = cloud.create("web1", ipv6=True, monitoring=True, backups=True, tags=["web", "env:prod"])
    assert made["state"] == "active" and made["public_ips"] and made["private_ips"]
    assert set(made["features"]) == {"ipv6", "monitoring", "backups", "private_networking"}
    time.sleep(api.lag)
    assert cloud.call("list_nodes")["web1"]["tags"] == ["web", "env:prod"]
    assert cloud.call("show_instance", "web1", call="action")["id"] == made["id"]
    for action, state in (
        ("reboot", "active"), ("stop", "off"), ("start", "active"), ("power_off", "off"), ("power_cycle", "active"),
    ):  # fmt: skip
        cloud.call(action, "web1", call="action")
        assert api.droplets[made["id"]]["status"] == state, action
    cloud.call("destroy", "web1", call="action")
    assert api.names() == []


def test_creating_the_same_machine_again_changes_nothing(cloud: Cloud, api: Standin) -> None:
    first = cloud.create("web1")
    time.sleep(api.lag)
    again = cloud.create("web1")
    assert (again["id"], again["Message"]) == (first["id"], "exists already")
    assert api.count("POST", "/v2/droplets") == 1


def test_every_page_of_a_long_list_is_read(cloud: Cloud, api: Standin) -> None:
    for number in range(250):
        api._create_droplet(
            None,
            {},
            {
                "name": f"m{number}",
                "region": "fra1",
                "size": "s-1vcpu-1gb",
                "image": "debian-12-x64",
            },
        )
    time.sleep(api.lag)
    assert len(cloud.call("list_nodes_min")) == 250
    assert api.count("GET", "/v2/droplets") == 3, "two pages; and those with GPUs"


def test_two_droplets_of_one_name_are_both_shown_and_neither_is_touched(
    cloud: Cloud, api: Standin
) -> None:
    body = {"name": "web1", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    for _ in range(2):
        api._create_droplet(None, {}, body)
    time.sleep(api.lag)
    assert len(cloud.call("list_nodes")) == 2
    first, second = api.droplets
    said = f"2 droplets are called web1: name one as web1-{first} or web1-{second}"
    with pytest.raises(SaltCloudSystemExit, match=said):
        cloud.call("destroy", "web1", call="action")
    assert len(api.droplets) == 2
    # Which salt-cloud, who only knows what is listed, would say were none, and exit with 0.
    done = cloud.command("-y", "-d", "web1")
    assert done.returncode == 1 and said in done.stdout, done.stdout
    cloud.call("destroy", f"web1-{first}", call="action")
    assert list(api.droplets) == [second]
    cloud.call("destroy", "web1", call="action")
    assert not api.droplets


def test_no_droplet_is_hidden_by_the_name_of_another(cloud: Cloud, api: Standin) -> None:
    """One may be called as a listing calls one of two others."""
    body = {"name": "web1", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    first = api._create_droplet(None, {}, body)[1]["droplet"]["id"]
    api._create_droplet(None, {}, body)
    api._create_droplet(None, {}, {**body, "name": f"web1-{first}"})
    time.sleep(api.lag)
    assert len(cloud.call("list_nodes")) == 3


def test_a_droplet_with_gpus_is_seen_kept_and_removed(cloud: Cloud, api: Standin) -> None:
    """The API lists it only to those who ask for it."""
    cloud.provider["location"] = "nyc3"
    made = cloud.create("train1", size="gpu-h100x1-80gb")
    time.sleep(api.lag)
    assert "train1" in cloud.call("list_nodes")
    assert cloud.create("train1")["id"] == made["id"] and len(api.droplets) == 1
    cloud.call("destroy", "train1", call="action")
    assert not api.droplets


def test_starting_what_runs_and_stopping_what_is_off_succeeds(cloud: Cloud, api: Standin) -> None:
    cloud.create("web1")
    time.sleep(api.lag)
    assert cloud.call("start", "web1", call="action")["status"] == "completed"
    for action in ("stop", "stop", "power_off"):
        assert cloud.call(action, "web1", call="action")["status"] == "completed"


def test_a_droplet_is_as_the_machine_behind_it(cloud: Cloud, api: Standin) -> None:
    """What goes off from within is off in the account, and one that is not there yet is waited for."""

    class Later(Loopback):
        asked, on = 0, True

        def is_ready(self, name: str) -> bool:
            self.asked += 1
            return self.asked > 3

        def is_on(self, name: str) -> bool:
            return self.on

        def start(self, name: str) -> None:
            self.on = True

    api.machines = machine = Later()
    cloud.create("web1")
    assert machine.asked > 3 and machine.taken == ["web1"]
    time.sleep(api.lag)
    machine.on = False
    assert cloud.call("list_nodes")["web1"]["state"] == "off"
    assert cloud.call("start", "web1", call="action")["status"] == "completed"
    assert machine.on and cloud.call("list_nodes")["web1"]["state"] == "active"


# --- what is pending is waited for ---------------------------------------------------------------------

PENDING = "Droplet already has a pending event."


def test_a_pending_event_costs_no_machine(cloud: Cloud, api: Standin) -> None:
    """It was destroyed, because its address could not be assigned that very second."""
    kept = api._create_reserved(None, None, {"region": "fra1"})[1]["reserved_ip"]["ip"]
    api.fault("POST", r"/v2/reserved_ips/[\d.]+/actions", 422, times=3, message=PENDING)
    made = cloud.create("web1", reserved_ip=kept)
    assert api.reserved[kept]["droplet"]["id"] == made["id"] and api.names() == ["web1"]
    api.fault("POST", "/v2/reserved_ips", 422, times=2, message=PENDING)
    assert cloud.create("web2", reserved_ip="new")["reserved_ip"] in api.reserved
    assert api.count("DELETE", ".*") == 0


def test_a_droplet_that_is_not_known_everywhere_yet_is_kept(cloud: Cloud, api: Standin) -> None:
    rules = {
        "inbound_rules": [{"protocol": "icmp", "ports": "0", "sources": {"addresses": ["::/0"]}}]
    }
    api._create_firewall(None, None, {"name": "shield", **rules})
    for path in (r"/v2/firewalls/.*/droplets", r"/v2/projects/.*", "/v2/reserved_ips"):
        api.fault("POST", path, 404, times=2)
    cloud.create("web1", firewalls=["shield"], project="first-project", reserved_ip="new")
    assert api.names() == ["web1"] and api.count("DELETE", ".*") == 0


def test_an_address_with_a_pending_event_is_removed_all_the_same(
    cloud: Cloud, api: Standin
) -> None:
    """The removal of its droplet is one; it stayed, and cost more than with it."""
    cloud.create("web1", reserved_ip="new")
    time.sleep(api.lag)
    api.fault("DELETE", r"/v2/reserved_ips/[\d.]+", 422, times=3, message=PENDING)
    cloud.call("destroy", "web1", call="action")
    assert not api.droplets and not api.reserved


def test_every_action_waits_for_the_one_before(cloud: Cloud, api: Standin) -> None:
    made = cloud.create("web1")
    time.sleep(api.lag)
    for action in ("reboot", "stop", "start", "power_off", "power_cycle"):
        api.droplets[made["id"]]["locked"] = True
        api._action("snapshot", made["id"])
        assert cloud.call(action, "web1", call="action")["status"] == "completed"
    # What stays pending is said in the end.
    cloud.provider["api_patience"] = 0.1
    api.fault("POST", r"/v2/droplets/\d+/actions", 422, times=99, message=PENDING)
    with pytest.raises(SaltCloudSystemExit, match=PENDING):
        cloud.call("reboot", "web1", call="action")


def test_the_default_network_of_a_region_stays(cloud: Cloud, api: Standin) -> None:
    with pytest.raises(SaltCloudSystemExit, match="is the default VPC of fra1, which stays"):
        cloud.call("delete_vpc", {"name": "default-fra1"}, call="function")
    assert api.count("DELETE", ".*") == 0


def test_reserved_addresses_are_made_given_and_taken(cloud: Cloud, api: Standin) -> None:
    cloud.create("web1")
    time.sleep(api.lag)
    ip = cloud.call("create_reserved_ip", {"region": "fra1"}, call="function")["ip"]
    cloud.call("assign_reserved_ip", {"ip": ip, "droplet": "web1"}, call="function")
    assert api.reserved[ip]["droplet"]["name"] == "web1"
    cloud.call("unassign_reserved_ip", {"ip": ip}, call="function")
    assert api.reserved[ip]["droplet"] is None
    cloud.call("release_reserved_ip", {"ip": ip}, call="function")
    assert not api.reserved


def test_network_firewall_project_address_and_user_data(
    cloud: Cloud, api: Standin, tmp_path: Path
) -> None:
    network = cloud.call(
        "ensure_vpc",
        {"name": "prod", "region": "fra1", "ip_range": "10.20.0.0/20"},
        call="function",
    )
    assert cloud.call("ensure_vpc", {"name": "prod", "region": "fra1"}, call="function") == network
    api._create_firewall(
        None,
        None,
        {
            "name": "shield",
            "inbound_rules": [
                {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"]}}
            ],
        },
    )
    (tmp_path / "first-boot").write_text("#cloud-config\n")
    made = cloud.create(
        "web1", vpc="prod", firewalls=["shield"], project="first-project", reserved_ip="new",
        userdata_file=str(tmp_path / "first-boot"),
    )  # fmt: skip
    assert made["vpc_uuid"] == network["id"] and made["private_ips"][0].startswith("10.20.")
    assert next(iter(api.firewalls.values()))["droplet_ids"] == [made["id"]]
    assert f"do:droplet:{made['id']}" in next(iter(api.projects.values()))["_resources"]
    assert api.reserved[made["reserved_ip"]]["droplet"]["id"] == made["id"]
    assert api.droplets[made["id"]]["_user_data"] == "#cloud-config\n"
    time.sleep(api.lag)
    # The address goes over to another machine only when told to.
    with pytest.raises(SaltCloudSystemExit, match="is web1's: set reserved_ip_take"):
        cloud.create("web2", reserved_ip=made["reserved_ip"])
    other = cloud.create("web2", reserved_ip=made["reserved_ip"], reserved_ip_take=True)
    assert api.reserved[made["reserved_ip"]]["droplet"]["id"] == other["id"]


def test_keys_sizes_images_regions_and_prices(cloud: Cloud, api: Standin, tmp_path: Path) -> None:
    assert cloud.call("avail_sizes")["s-1vcpu-1gb"]["price_monthly"] == 6.0
    assert "debian-13-x64" in cloud.call("avail_images")
    assert "fra1" in cloud.call("avail_locations")
    assert (
        cloud.call("show_pricing", {"profile": "web"}, call="function")["web"]["per_month"] == 6.0
    )
    public = tmp_path / "other.pub"
    public.write_text(PUBLIC_KEY.replace("AAAAIJ1C", "AAAAIJ1D"))
    for _ in range(2):
        cloud.call("import_keypair", {"keyname": "other", "file": str(public)}, call="function")
    assert len(cloud.call("list_keypairs", call="function")) == 2
    cloud.call("remove_key", {"keyname": "other"}, call="function")
    assert list(cloud.call("list_keypairs", call="function")) == ["ops"]
    private = tmp_path / "private"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(SaltCloudSystemExit, match="is a private key"):
        cloud.call("import_keypair", {"keyname": "x", "file": str(private)}, call="function")


def test_a_key_that_another_one_gives_meanwhile_is_used(
    cloud: Cloud, api: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "other.pub"
    public.write_text(PUBLIC_KEY.replace("AAAAIJ1C", "AAAAIJ1D"))
    create = api._create_key

    def twice(body: dict[str, Any]) -> dict[str, Any]:
        create({**body, "name": "theirs"})
        return create(body)

    monkeypatch.setattr(api, "_create_key", twice)
    cloud.create("web1", ssh_public_key_file=str(public))
    assert [one["name"] for one in api.keys.values()] == ["ops", "theirs"]


# --- what is wrong is said in one line, before anything is made ---------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"ssh_key_names": ["opss"]}, "ssh_key_names: key opss: not in this account; did you mean ops?"),
        ({"ssh_key_names": [], "deploy": True}, "no ssh_key_names"),
        ({"vpc": "prod"}, "vpc: VPC prod: not in this account"),
        ({"firewalls": ["shield"]}, "firewall shield: not in this account; there is none"),
        ({"project": "nobody"}, "project nobody: not in this account"),
        ({"reserved_ip": "198.51.100.9"}, "198.51.100.9: not in this account"),
        ({"userdata": "x" * 70000}, "larger than 64 KiB"),
        ({"userdata_file": "/nonexistent"}, "userdata_file"),
        ({"before_create": "echo no dist >&2; exit 3"}, "before_create: no dist"),
        ({"deploy": True, "ssh_key_file": "/nonexistent"}, "ssh_key_file: /nonexistent: no such file"),
        ({"ssh_interface": "pubic"}, "ssh_interface: pubic: use public or private"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_before_anything_is_made(
    cloud: Cloud, api: Standin, overrides: dict[str, Any], said: str
) -> None:
    assert said in refused(cloud, **overrides)
    assert api.count("POST", "/v2/droplets") == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"size": "s-1vcpu-1gbb"}, "size s-1vcpu-1gbb: did you mean s-1vcpu-1gb?"),
        ({"size": "s-4vcpu-8gb"}, "size s-4vcpu-8gb: not available.*no region now"),
        ({"image": "debian-31-x64"}, "image debian-31-x64: did you mean debian-13-x64?"),
        ({"image": "12 x64"}, "2 are called that: debian-12-x64, fedora-12-x64"),
        ({"location": "fra2"}, "location fra2: did you mean fra1?"),
        ({"location": "sgp1", "size": "s-1vcpu-512mb-10gb"}, "not available.*ams3, fra1, nyc3"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_made(
    cloud: Cloud, api: Standin, overrides: dict[str, Any], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nor is `before_create` run, which may make a firewall."""
    monkeypatch.setitem(IMAGES, "fedora-12-x64", (138_000_099, "Fedora", "12 x64", 7))
    api.unavailable.add("s-4vcpu-8gb")
    line = refused(cloud, before_create=f"touch {cloud.folder}/ran", **overrides)
    assert re.search(said, line), line
    assert not (cloud.folder / "ran").exists()
    assert not [one for one in api.requests if one[0] != "GET"]


def test_what_the_api_refuses_is_said(cloud: Cloud, api: Standin) -> None:
    assert " 422: tag not a tag is invalid" in refused(cloud, tags=["not a tag"])
    assert api.names() == []


def test_image_and_region_are_found_by_name_and_number_too(cloud: Cloud, api: Standin) -> None:
    made = cloud.create("web1", image="Debian 13 x64", location="Frankfurt 1")
    assert (made["image"], made["region"]) == ("debian-13-x64", "fra1")
    made = cloud.create("web2", image=138_000_012, location="fra")
    assert made["image"] == "debian-12-x64"


def test_a_token_that_may_only_read_is_named_403(
    cloud: Cloud, api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", READ_ONLY)
    line = refused(cloud)
    assert " 403: " in line and "lacks a scope" in line and READ_ONLY not in line


def test_a_wrong_token_is_named_401(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "dop_v1_expired")
    line = refused(cloud)
    assert " 401: " in line and "expired or revoked" in line and "dop_v1_expired" not in line


def test_an_unknown_machine_is_named_with_the_nearest(cloud: Cloud, api: Standin) -> None:
    cloud.create("web1")
    time.sleep(api.lag)
    with pytest.raises(SaltCloudSystemExit, match="web11: no such droplet; did you mean web1?"):
        cloud.call("destroy", "web11", call="action")


# --- an API that is not well ----------------------------------------------------------------------------


def test_twice_500_then_fine_makes_one_droplet(cloud: Cloud, api: Standin) -> None:
    api.fault("POST", "/v2/droplets", 500, times=2)
    cloud.create("web1")
    assert api.names() == ["web1"] and api.count("POST", "/v2/droplets") == 3


def test_a_500_for_a_droplet_that_was_made_all_the_same_makes_no_second(
    cloud: Cloud, api: Standin
) -> None:
    api.fault("POST", "/v2/droplets", 500, done=True)
    cloud.create("web1")
    assert api.names() == ["web1"] and api.count("POST", "/v2/droplets") == 1


def test_500_for_ever_is_one_line_and_leaves_nothing(cloud: Cloud, api: Standin) -> None:
    api.fault("POST", "/v2/droplets", 500, times=99)
    cloud.provider["unsure_timeout"] = 0.05
    line = refused(cloud)
    assert " 500: " in line and "a droplet web1 may exist and be paid: salt-cloud -Q" in line
    assert api.count("POST", "/v2/droplets") == 6, "ours alone, not the client's own on top"
    assert api.names() == []


def test_a_storm_of_429_is_waited_out_as_the_api_asks(
    cloud: Cloud, api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.fault("GET", "/v2/droplets", 429, times=3, retry_after="0.2")
    api.fault("POST", "/v2/droplets", 429, times=5, retry_after="0.1")
    slept, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds) or sleep(seconds))
    cloud.create("web1")
    assert api.names() == ["web1"]
    assert [sum(low <= one < low + 0.05 for one in slept) for low in (0.2, 0.1)] == [3, 5]


def test_a_rate_limit_that_is_far_away_is_said_with_its_time(cloud: Cloud, api: Standin) -> None:
    api.fault("POST", "/v2/droplets", 429, times=99, ratelimit_reset=str(int(time.time()) + 3000))
    line = refused(cloud)
    assert "429: the rate limit is used up until" in line
    assert api.count("POST", "/v2/droplets") == 1, "no hammering at a closed door"
    assert api.names() == []


def test_a_droplet_stuck_in_new_is_removed(cloud: Cloud, api: Standin) -> None:
    api.stuck.add("web1")
    line = refused(cloud, wait_for_ip_timeout=0.3)
    assert "still new after 0 s" in line
    assert api.names() == []


def test_a_creation_that_errored_is_removed(cloud: Cloud, api: Standin) -> None:
    api.fault("GET", r"/v2/actions/\d+", 500, times=2)
    api.pace = 0
    action = api._action

    def errored(kind: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        one = action(kind, *args, **kwargs)
        if kind == "create":
            one["status"] = "errored"
            api.droplets[args[0]]["locked"] = False
        return one

    api._action = errored  # type: ignore[method-assign]
    assert "the creation failed" in refused(cloud)
    assert api.names() == []


def test_a_failure_after_the_creation_leaves_neither_droplet_nor_address(
    cloud: Cloud, api: Standin
) -> None:
    api.fault("POST", r"/v2/projects/.*", 403)
    assert " 403: " in refused(cloud, project="first-project", reserved_ip="new")
    assert api.names() == [] and not api.reserved


def test_what_cannot_be_removed_is_said_to_be_paid(cloud: Cloud, api: Standin) -> None:
    api.stuck.add("web1")
    api.fault("DELETE", DROPLET, 403, times=9)
    line = refused(cloud, wait_for_ip_timeout=0.2)
    assert "still new" in line and "could not be removed and is still paid" in line


def test_keep_failed_keeps_it(cloud: Cloud, api: Standin) -> None:
    api.stuck.add("web1")
    refused(cloud, wait_for_ip_timeout=0.2, keep_failed=True)
    assert api.names() == ["web1"]


def test_an_interrupted_creation_is_removed(
    cloud: Cloud, api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.stuck.add("web1")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cloud.create("web1", patch={"_addresses": interrupt, "_wait": interrupt})
    # _wait is the interrupted one, also in the removal: the droplet is on its way out.
    time.sleep(api.pace)
    assert api.names() == []


def test_a_yes_that_cannot_be_read_makes_no_second(cloud: Cloud, api: Standin) -> None:
    api.fault("POST", "/v2/droplets", 202, done=True, garbled=True)
    cloud.create("web1")
    assert api.names() == ["web1"] and api.count("POST", "/v2/droplets") == 1
    # Nor is it asked for again when a list does not know it in time: that is said.
    api.fault("POST", "/v2/droplets", 202, done=True, garbled=True)
    api.lag = 60
    with pytest.raises(SaltCloudSystemExit, match="web2 may exist and be paid: salt-cloud -Q"):
        cloud.create("web2")
    assert api.names() == ["web1", "web2"]


def test_who_cannot_look_whether_it_was_made_says_that_it_may_be_paid(
    cloud: Cloud, api: Standin
) -> None:
    api.fault("POST", "/v2/droplets", 500, done=True)
    create = api._create_droplet

    def then_closed(*args: Any) -> Any:
        api.fault("GET", "/v2/droplets", 403, times=99)
        return create(*args)

    api.ROUTES = [  # type: ignore[misc]
        (method, path, (lambda _, *args: then_closed(*args)) if path == "/v2/droplets" and method == "POST" else do)
        for method, path, do in Standin.ROUTES
    ]  # fmt: skip
    line = refused(cloud)
    assert " 500: " in line and " 403: " in line
    assert "a droplet web1 may exist and be paid: salt-cloud -Q" in line


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_before_the_answer_leaves_nothing(
    cloud: Cloud, api: Standin, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """In the middle of the request, and as Salt's own handler of signals does it."""
    call = Api.call

    def interrupted(self: Api, group: str, method: str, *args: Any, **more: Any) -> Any:
        said = call(self, group, method, *args, **more)
        if (group, method) == ("droplets", "create"):
            raise kind(0)
        return said

    monkeypatch.setattr(Api, "call", interrupted)
    with pytest.raises((KeyboardInterrupt, SaltCloudSystemExit)) as error:
        cloud.create("web1")
    assert api.names() == [] and api.count("POST", "/v2/droplets") == 1
    if kind is SystemExit:
        assert "web1: interrupted" in str(error.value)


def test_a_droplet_that_is_not_known_yet_is_removed_all_the_same(
    cloud: Cloud, api: Standin
) -> None:
    api.stuck.add("web1")
    api.fault("DELETE", DROPLET, 404, times=2)
    refused(cloud, wait_for_ip_timeout=0.2)
    assert api.names() == []


def test_an_address_made_with_a_droplet_goes_with_it(cloud: Cloud, api: Standin) -> None:
    own = cloud.create("web1", reserved_ip="new")["reserved_ip"]
    kept = api._create_reserved(None, None, {"region": "fra1"})[1]["reserved_ip"]["ip"]
    cloud.create("web2", reserved_ip=kept)
    time.sleep(api.lag)
    assert set(api.reserved) == {own, kept}
    for name in ("web1", "web2"):
        cloud.call("destroy", name, call="action")
    assert set(api.reserved) == {kept}, "what was the account's before stays"


# --- ssh and deploy -------------------------------------------------------------------------------------


@pytest.fixture
def greeting() -> Iterator[int]:
    """A port of this computer that greets like an SSH server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    with server.accept()[0] as connection:
                        connection.sendall(b"SSH-2.0-nothing\r\n")
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def deploying(answer: dict[str, Any], seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Salt's utils with a deploy that answers so."""

    def bootstrap(machine: dict[str, Any], opts: dict[str, Any]) -> dict[str, Any]:
        seen.append(machine)
        return answer

    return {"__utils__": {"cloud.bootstrap": bootstrap, "cloud.fire_event": lambda *_, **__: None}}


def test_ssh_that_never_comes_up_leaves_nothing(cloud: Cloud, api: Standin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        api.machines = Loopback()
        port = mute.getsockname()[1]
        mute.close()
        line = refused(cloud, deploy=True, ssh_port=port, wait_for_ssh_timeout=0.3)
    assert f"ssh at 127.0.0.1 port {port}: still waiting for ssh" in line
    assert api.names() == [] and not api.machines.taken


def test_a_deploy_gets_all_but_the_token(cloud: Cloud, api: Standin, greeting: int) -> None:
    api.machines, seen = Loopback(), []
    cloud.create(
        "web1", deploying({"deployed": True}, seen), deploy=True, ssh_port=greeting,
        personal_access_token=TOKEN, token_command="echo x",
    )  # fmt: skip
    assert seen[0]["ssh_host"] == "127.0.0.1"
    assert TOKEN not in str(seen[0]) and "token_command" not in seen[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"Error": {"Not Deployed": "Failed to start Salt"}}, "deploy: Failed to start Salt"),
        (
            {"deployed": True, "File Upload Failure": [{"tree.tar": "/srv"}]},
            "not carried: tree.tar",
        ),
    ],
)
def test_a_failed_deploy_leaves_nothing(
    cloud: Cloud, api: Standin, greeting: int, answer: dict[str, Any], said: str
) -> None:
    api.machines = Loopback()
    with pytest.raises(SaltCloudSystemExit, match=said):
        cloud.create("web1", deploying(answer, []), deploy=True, ssh_port=greeting)
    assert api.names() == []


def test_a_failed_command_after_the_deploy_leaves_nothing(
    cloud: Cloud, api: Standin, greeting: int
) -> None:
    api.machines = Loopback()
    with pytest.raises(SaltCloudSystemExit, match="after_deploy: check-it: exit code 255"):
        # Nobody really speaks ssh there.
        cloud.create(
            "web1",
            deploying({"deployed": True}, []),
            deploy=True,
            ssh_port=greeting,
            after_deploy=["check-it"],
        )
    assert api.names() == []


# --- the token ------------------------------------------------------------------------------------------


def test_where_the_token_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "environment")
    assert find_token("configured") == "configured"
    assert find_token(None, "printf 'printed\\nmore'") == "printed"
    assert find_token() == "environment"
    monkeypatch.delenv("DIGITALOCEAN_TOKEN")
    monkeypatch.setenv("DIGITALOCEAN_ACCESS_TOKEN", "doctl's")
    assert find_token() == "doctl's"
    monkeypatch.delenv("DIGITALOCEAN_ACCESS_TOKEN")
    with pytest.raises(NoToken, match="set DIGITALOCEAN_TOKEN"):
        find_token()
    with pytest.raises(NoToken, match="token_command sh: exit code 1") as error:
        find_token(None, ["sh", "-c", "echo half-a-token; exit 1"])
    assert "half-a-token" not in str(error.value)


def test_no_answer_at_all_is_one_line_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    api = Api(TOKEN, endpoint=f"https://127.0.0.1:{port}", backoff=0.01, attempts=2)
    with pytest.raises(ApiError) as error:
        api.call("account", "get")
    assert error.value.unsure and "no answer" in str(error.value) and TOKEN not in str(error.value)


# --- salt-cloud itself -------------------------------------------------------------------------------------


def test_salt_cloud_says_a_wrong_token_in_one_line_and_fails(cloud: Cloud) -> None:
    for words in (["-p", "web", "web1"], ["-y", "-d", "web1"]):
        said = cloud.command(*words, token="dop_v1_expired")
        assert said.returncode == 1, said.stdout
        assert len(said.stdout.strip().splitlines()) == 1 and " 401: " in said.stdout, said.stdout


def test_salt_cloud_without_a_token_says_which_variable(cloud: Cloud) -> None:
    said = cloud.command("-Q", token=None)
    assert said.returncode == 1 and "DIGITALOCEAN_TOKEN" in said.stdout


def test_salt_cloud_never_shows_the_token(cloud: Cloud, api: Standin) -> None:
    api.fault("POST", "/v2/droplets", 500)
    said = cloud.command("-l", "debug", "-p", "web", "web1")
    assert said.returncode == 0 and "web1" in said.stdout
    assert TOKEN not in said.stdout
    kept = [
        path
        for path in cloud.folder.rglob("*")
        if path.is_file() and TOKEN in path.read_text(errors="replace")
    ]
    assert not kept


def test_salt_cloud_fails_with_one_line_when_the_creation_does(cloud: Cloud, api: Standin) -> None:
    cloud.profile["size"] = "s-9vcpu"
    said = cloud.command("-p", "web", "web1")
    assert said.returncode == 1, said.stdout
    errors = [line for line in said.stdout.splitlines() if "rror" in line]
    assert len(errors) == 1 and "size s-9vcpu: did you mean" in errors[0], said.stdout


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("stuck", "still new after 1 s"),
        ("storm", "429: the rate limit is used up until"),
        ("mute", "still waiting for ssh after 1 s"),
    ],
)
def test_salt_cloud_fails_with_one_line_when_the_cloud_does(
    cloud: Cloud, api: Standin, failure: str, said: str
) -> None:
    cloud.profile |= {"wait_for_ip_timeout": 60, "wait_for_ssh_timeout": 1}
    if failure == "stuck":
        cloud.profile["wait_for_ip_timeout"] = 1
        api.stuck.add("web1")
    elif failure == "storm":
        reset = str(int(time.time()) + 3000)
        api.fault("POST", "/v2/droplets", 429, times=99, ratelimit_reset=reset)
    else:
        api.machines = Loopback()
        with socket.create_server(("127.0.0.1", 0)) as mute:
            cloud.profile |= {"deploy": True, "ssh_port": mute.getsockname()[1]}
    done = cloud.command("-p", "web", "web1")
    assert done.returncode == 1, done.stdout
    errors = [line for line in done.stdout.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and said in errors[0], done.stdout
    assert api.names() == []


def test_salt_cloud_that_is_interrupted_removes_and_fails(cloud: Cloud, api: Standin) -> None:
    api.stuck.add("web1")
    cloud.configure()
    program = str(Path(sys.executable).parent / "salt-cloud")
    with subprocess.Popen(
        [program, "-c", str(cloud.folder), "-p", "web", "web1"], env={**os.environ, **api.environment()},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        while not api.names() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        before = ""
        while "removing what was made" not in before and (line := process.stdout.readline()):
            before += line
        # An impatient second one is no reason to leave what is paid.
        process.send_signal(signal.SIGTERM)
        said = before + process.communicate(timeout=240)[0]
    assert process.returncode == 1 and "Error: " in said and "web1: interrupted" in said, said
    assert api.names() == []


def test_a_map_fails_with_a_machine_and_twice_has_nothing_to_do(
    cloud: Cloud, api: Standin, tmp_path: Path
) -> None:
    """Keys are asked for once, for they may be 10 times a minute; a new one is given once."""
    api.key_limit = 1
    (tmp_path / "new.pub").write_text(PUBLIC_KEY.replace("AAAAIJ1C", "AAAAIJ1D"))
    cloud.provider["ssh_public_key_file"] = str(tmp_path / "new.pub")
    (cloud.folder / "all.map").write_text("web:\n  - web1\n  - web2\n  - web3\n")
    words = ("-y", "-P", "-m", str(cloud.folder / "all.map"))
    api.fault("POST", "/v2/droplets", 422, message="the droplet limit is reached")
    first = cloud.command(*words)
    assert first.returncode == 1 and "droplet limit is reached" in first.stdout, first.stdout
    assert len(api.names()) == 2, "the others are made"
    assert api.count("GET", "/v2/account/keys") == 1 and len(api.keys) == 2
    api.key_limit = 10
    second = cloud.command(*words)
    assert second.returncode == 0 and api.names() == ["web1", "web2", "web3"], second.stdout
    again = cloud.command(*words)
    assert again.returncode == 0 and "Already running" in again.stdout
    assert api.count("POST", "/v2/droplets") == 4
