"""What the driver makes of answers and connections that are not as they should be, and of its options."""

from __future__ import annotations

import inspect
import re
import sys
import time
from typing import Any

import pytest
import specification
from salt.exceptions import SaltCloudSystemExit
from salt_cloud import PUBLIC_KEY, Cloud
from saltext.digitalocean.utils.digitalocean import options
from saltext.digitalocean.utils.digitalocean.api import (
    Api,
    ApiError,
    NoToken,
    find_token,
    fingerprint,
)
from saltext.digitalocean.utils.digitalocean.options import OptionError
from standin_digitalocean import TOKEN, Standin

BODY = {"name": "web1", "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}


@pytest.fixture
def client(api: Standin) -> Api:
    return Api(TOKEN, backoff=0.01, attempts=3)


# --- the token ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token", ["half\nother", "half\r\nother", "half other", "hälf", "half\x00"]
)
def test_a_token_that_is_no_header_is_refused_and_never_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests shows a header that it refuses in full, and so did every retry."""
    for find in (find_token, Api):
        with pytest.raises(NoToken) as error:
            find(token)
        assert "half" not in str(error.value) and "other" not in str(error.value)
    if "\x00" not in token:
        monkeypatch.setenv("DIGITALOCEAN_TOKEN", token)
        with pytest.raises(NoToken, match="DIGITALOCEAN_TOKEN: no token: it must be one line"):
            find_token()


def test_what_a_token_command_prints_is_checked_too() -> None:
    for command in (
        ["printf", r"half\200"],
        ["printf", "half other"],
        "printf 'half",
        ["a\x00b"],
        "dop_v1_half",
    ):
        with pytest.raises(NoToken, match="token_command") as error:
            find_token(None, command)
        assert "half" not in str(error.value)


def test_salt_cloud_asks_nothing_with_a_token_of_two_lines(cloud: Cloud, api: Standin) -> None:
    said = cloud.command("-Q", token="dop_v1_half\nother")
    assert said.returncode == 1 and len(said.stdout.strip().splitlines()) == 1, said.stdout
    assert "half" not in said.stdout and "other" not in said.stdout
    assert not api.requests


def test_a_header_error_is_not_retried_and_masked(client: Api, monkeypatch: Any) -> None:
    from azure.core.exceptions import ServiceRequestError
    from requests.exceptions import InvalidHeader

    calls = []

    def refuse(*_: Any, **__: Any) -> None:
        calls.append(1)
        inner = InvalidHeader(f"Invalid header: {f'Bearer {TOKEN}'!r}")
        raise ServiceRequestError(inner, error=inner)

    monkeypatch.setattr(client._client.account, "get", refuse)
    with pytest.raises(ApiError) as error:
        client.call("account", "get")
    assert len(calls) == 1 and TOKEN not in str(error.value) and not error.value.unsure


# --- connections ----------------------------------------------------------------------------------------


def test_a_server_that_never_answers_is_left_in_time(api: Standin) -> None:
    """pydo's own `timeout` is only that of connecting: it would be answered, after all."""
    api.latency = 5
    client = Api(TOKEN, backoff=0.01, attempts=1, read_timeout=0.2)
    with pytest.raises(ApiError, match="no answer: .*[Rr]ead timed out"):
        client.call("account", "get")


def test_a_certificate_that_is_not_trusted_is_said_at_once(
    api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIGITALOCEAN_API_CA")
    said: list[str] = []
    client = Api(TOKEN, say=said.append)
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED") as error:
        client.call("droplets", "create", BODY)
    assert not said and not error.value.unsure, "nothing was sent"
    with pytest.raises(ApiError, match="api_ca_file.*/nowhere: no such file"):
        Api(TOKEN, ca_file="/nowhere")


def test_a_message_that_repeats_is_said_once(api: Standin) -> None:
    said: list[str] = []
    client = Api(TOKEN, backoff=0.01, say=said.append)
    api.fault("GET", "/v2/sizes", 500, times=5)
    client.all("sizes", "sizes")
    api.fault("GET", "/v2/sizes", 500, times=2)
    client.all("sizes", "sizes")
    assert len(said) == 1 and " 500: " in said[0], said


def test_a_429_without_retry_after_is_waited_out(client: Api, api: Standin) -> None:
    """The reset that every answer carries is the hourly limit's, and far away."""
    api.fault("GET", "/v2/account/keys", 429, times=4)
    assert len(client.all("ssh_keys", "ssh_keys")) == 1


# --- answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    lambda said: {**said, "links": {"pages": {"next": None}}},
    lambda said: {**said, "links": {"pages": {"next": "https://api.digitalocean.com/v2/tags?page=2"}}},
    lambda said: {key: value for key, value in said.items() if key != "links"},
    lambda said: {**said, "links": None},
])  # fmt: skip
def test_reading_pages_ends(client: Api, api: Standin, change: Any) -> None:
    for name in ("a", "b"):
        api._create_tag(None, None, {"name": name})
    api.odd.append(("GET", "/v2/tags", lambda said: change({**said, "tags": [{"name": "a"}, {"name": "b"}]})))  # fmt: skip
    assert [one["name"] for one in client.all("tags", "tags")] == ["a", "b"]
    assert api.count("GET", "/v2/tags") <= 2


@pytest.mark.parametrize("answer", [[], None, {}, {"droplets": None}, {"droplets": [None]}, "x"])
def test_an_answer_without_the_list_is_no_empty_list(
    cloud: Cloud, api: Standin, answer: Any
) -> None:
    api.odd.append(("GET", "/v2/droplets", lambda _: answer))
    with pytest.raises(SaltCloudSystemExit, match="an answer that is not what was asked for"):
        cloud.call("list_nodes")


@pytest.mark.parametrize("answer", [[], None, {}, {"droplet": {}}])
def test_a_creation_answered_by_something_else_makes_no_second(
    cloud: Cloud, api: Standin, answer: Any
) -> None:
    api.odd.append(("POST", "/v2/droplets", lambda _: answer))
    cloud.create("web1")
    assert api.names() == ["web1"] and api.count("POST", "/v2/droplets") == 1


def test_what_is_optional_may_be_absent(cloud: Cloud, api: Standin) -> None:
    """Of a token that lacks a scope, or a custom image."""

    def without(said: Any) -> Any:
        for one in said.get("droplets") or [said.get("droplet") or {}]:
            for key in ("vpc_uuid", "image", "tags"):
                one.pop(key, None)
        for one in said.get("images") or []:
            one.pop("slug", None)
        return said

    api.odd.append(("GET", "/v2/.*", without))
    made = cloud.create("web1", image=138_000_013)
    time.sleep(api.lag)
    assert cloud.call("list_nodes")["web1"]["vpc_uuid"] is None
    assert "138000013" in cloud.call("avail_images")
    cloud.call("destroy", "web1", call="action")
    assert made["id"] not in api.droplets


@pytest.mark.parametrize(
    "function", ["avail_sizes", "avail_images", "avail_locations", "list_nodes", "list_nodes_full"]
)
def test_salt_cloud_takes_no_failed_listing_for_an_empty_one(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """It catches every exception but this."""
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "dop_v1_expired")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/salt-cloud"])
    with pytest.raises(SystemExit, match="^Error: .* 401: "):
        cloud.call(function)


def test_salt_cloud_fails_with_a_wrong_token_whatever_it_lists(cloud: Cloud) -> None:
    said = cloud.command("--list-sizes", "do", token="dop_v1_expired")
    assert said.returncode == 1 and len(said.stdout.strip().splitlines()) == 1, said.stdout
    assert " 401: " in said.stdout


# --- options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"monitorings": True}, "monitorings: no such option; did you mean monitoring?"),
        ({"backups": "weekly"}, "backups: weekly: use true or false"),
        ({"backup_policy": {"plan": "weakly"}}, "plan: weakly: use one of daily, weekly"),
        ({"backup_policy": {"plan": "daily", "hours": 4}}, "hours: no such option; did you mean hour?"),
        ({"ssh_interface": "pubic"}, "ssh_interface: pubic: use public or private; did you mean public?"),
        ({"wait_for_ip_timeout": "ten"}, "wait_for_ip_timeout: ten: use a number"),
        ({"destroy_timeout": -1}, "destroy_timeout: -1: use a number"),
        ({"create_dns_record": True}, "create_dns_record: DNS records are not made here.*MIGRATION.md"),
        ({"private_networking": False}, "private_networking: false: every droplet is in a VPC"),
        ({"vpc": "a", "vpc_name": "b"}, "vpc_name is vpc now, and both are set"),
        ({"tags": {"a": 1}}, "tags: use a text or a list"),
        ({"size": ["s-1vcpu-1gb"]}, "size: use a text"),
        ({"personal_access_token": ["dop_v1_x"]}, "^personal_access_token: use a text$"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        options.checked(given)


def test_a_refused_option_makes_nothing(cloud: Cloud, api: Standin) -> None:
    for wrong in ({"monitorings": True}, {"ssh_interface": "pubic"}, {"create_dns_record": True}):
        cloud.profile = {"provider": "do", "size": "s-1vcpu-1gb", "image": "debian-13-x64", **wrong}
        with pytest.raises(SaltCloudSystemExit, match=f"web1: {next(iter(wrong))}: "):
            cloud.create("web1")
    assert not [one for one in api.requests if one[0] != "GET"]
    cloud.provider["api_patient"] = 3
    with pytest.raises(SaltCloudSystemExit, match="do: api_patient: .* mean api_patience"):
        cloud.call("list_nodes")


def test_older_names_do_what_they_did(cloud: Cloud, api: Standin) -> None:
    cloud.call("ensure_vpc", {"name": "prod", "region": "fra1"}, call="function")
    cloud.provider.pop("ssh_key_names")
    cloud.provider.pop("location")
    made = cloud.create(
        "web1", backups_enabled=True, vpc_name="prod", ssh_key_name="ops", region="fra1",
        private_networking=True, create_dns_record=False,
    )  # fmt: skip
    droplet = api.droplets[made["id"]]
    assert "backups" in droplet["features"] and droplet["_keys"] == list(api.keys)
    assert api.vpcs[droplet["vpc_uuid"]]["name"] == "prod"


def test_a_quoted_no_is_no(cloud: Cloud, api: Standin) -> None:
    made = cloud.create("web1", backups="no", monitoring="off", ipv6="false")
    assert api.droplets[made["id"]]["features"] == ["private_networking"]


def test_a_backup_policy_makes_backups_of_that_plan(cloud: Cloud, api: Standin) -> None:
    policy = {"plan": "weekly", "weekday": "SUN", "hour": 4}
    made = cloud.create("web1", backup_policy=policy)
    assert api.droplets[made["id"]]["_policy"] == policy
    with pytest.raises(SaltCloudSystemExit, match="backups: false, and a backup_policy is set"):
        cloud.create("web2", backup_policy=policy, backups=False)


@pytest.mark.parametrize("driver", ["digital_ocean", "do"])
def test_the_names_of_the_old_driver_are_accepted(cloud: Cloud, api: Standin, driver: str) -> None:
    import salt.config
    import salt.loader
    import salt.utils.context

    cloud.provider["driver"] = driver
    configuration = salt.config.cloud_config(cloud.configure())
    functions = salt.loader.clouds(configuration)
    listing = functions[f"{driver}.list_nodes"]
    with salt.utils.context.func_globals_inject(listing, __active_provider_name__=f"do:{driver}"):
        assert listing() == {}
        assert functions[f"{driver}.get_configured_provider"]()["driver"] == driver


def test_every_option_that_salt_itself_reads_is_known() -> None:
    """What this Salt's sources read in a machine's configuration."""
    import salt.cloud
    import salt.utils.cloud

    source = inspect.getsource(salt.cloud) + inspect.getsource(salt.utils.cloud)
    read = set(re.findall(r'get_cloud_config_value\(\s*"(\w+)"', source))
    read |= set(re.findall(r'\bvm_(?:\.get\(|\[)"(\w+)"', source))
    assert len(read) > 40 and not read - options.SALT - set(options.OWN)


def test_prices_are_those_of_the_plan(cloud: Cloud, api: Standin) -> None:
    for given, factor in (
        ({}, 1), ({"backups": True}, 1.3), ({"backup_policy": {"plan": "weekly"}}, 1.2),
        ({"backup_policy": {"plan": "daily"}}, 1.3),
    ):  # fmt: skip
        cloud.profile = {"provider": "do", "size": "s-1vcpu-1gb", "image": "debian-13-x64", **given}
        price = cloud.call("show_pricing", {"profile": "web"}, call="function")["web"]
        assert price["per_month"] == pytest.approx(6.0 * factor)
        assert price["per_day"] == pytest.approx(price["per_hour"] * 24)


def test_the_fingerprint_is_that_of_the_api(api: Standin) -> None:
    assert fingerprint(PUBLIC_KEY) == next(iter(api.keys.values()))["fingerprint"]
    assert fingerprint("ssh-ed25519") is None and fingerprint("ssh-ed25519 %%%") is None


# --- the specification ----------------------------------------------------------------------------------


@pytest.mark.skipif(
    specification.given() is None,
    reason="DIGITALOCEAN_SPEC names no file: DigitalOcean's OpenAPI specification as one JSON document,"
    " from https://github.com/digitalocean/openapi (cloud/saltext-digitalocean/README.md)",
)
def test_requests_and_answers_are_those_of_the_published_specification(client: Api) -> None:
    """Every test with a stand-in checks its own; this one, that the check refuses what it should."""
    known = specification.given()
    assert known is not None
    with Standin(pace=0) as standin:
        standin.add_key("ops", PUBLIC_KEY)
        body = {
            **BODY,
            "ssh_keys": [],
            "tags": ["a"],
            "backups": True,
            "backup_policy": {"plan": "weekly"},
        }
        answer = standin._create_droplet(None, {}, body)[1]
    assert known.problems("POST", "/v2/droplets", {}, body, 202, answer) == []
    for wrong in ({**body, "monitorings": True}, {**body, "backups": "no"}, {"name": "web1"}, []):
        assert known.problems("POST", "/v2/droplets", {}, wrong, 202, answer)
    droplet = answer["droplet"]
    for odd in ({**droplet, "owner": 1}, {**droplet, "status": "on"}, {"id": 1}):
        answered = {**answer, "droplet": odd}
        assert known.problems("POST", "/v2/droplets", {}, body, 202, answered)
    empty = {"droplets": [], "links": {}, "meta": {"total": 0}}
    assert known.problems("GET", "/v2/droplets", {"page": "1"}, None, 200, empty) == []
    assert known.problems("GET", "/v2/droplets", {"tag": "a"}, None, 200, empty)
    assert known.problems("GET", "/v2/droplets", {"per_page": "201"}, None, 200, empty)
    assert known.problems("GET", "/v2/dropplets", {}, None, 200, empty)
    assert known.problems("DELETE", "/v2/droplets/1", {}, None, 204, {})
