"""Records of a DNS zone against the stand-in: added once, found again, removed and no other with them."""

from __future__ import annotations

from typing import Any

import pytest
from salt.exceptions import SaltCloudSystemExit
from salt_cloud import Cloud
from saltext.digitalocean.utils.digitalocean import dns
from saltext.digitalocean.utils.digitalocean.api import Api
from saltext.digitalocean.utils.digitalocean.options import OptionError
from standin_digitalocean import TOKEN, Standin

ZONE = "example.com"


@pytest.fixture
def client(api: Standin) -> Api:
    api.add_zone(ZONE)
    return Api(TOKEN, backoff=0.01)


def shown(api: Standin, kind: str) -> list[tuple[str, str]]:
    return [(one["name"], one["data"]) for one in api.zones[ZONE] if one["type"] == kind]


def test_a_challenge_of_acme_stands_beside_another_and_goes_alone(
    client: Api, api: Standin
) -> None:
    """Two names of one certificate are proved under one name at once (RFC 8555, 8.4)."""
    for value in ("first", "second", "first"):
        dns.ensure(
            client, ZONE, {"type": "TXT", "name": "_acme-challenge", "data": value, "ttl": 30}
        )
    assert shown(api, "TXT") == [("_acme-challenge", "first"), ("_acme-challenge", "second")]
    gone = {"type": "TXT", "name": "_acme-challenge", "data": "first"}
    assert dns.remove(client, ZONE, gone) == 1 and dns.remove(client, ZONE, gone) == 0
    assert shown(api, "TXT") == [("_acme-challenge", "second")]
    assert len(shown(api, "NS")) == 3


def test_a_name_that_is_shown_without_its_dot_is_the_same(client: Api, api: Standin) -> None:
    record = {"type": "CNAME", "name": "shop", "data": "www.example.com."}
    first = dns.ensure(client, ZONE, record)
    assert dns.ensure(client, ZONE, record)["id"] == first["id"]
    changed = dns.ensure(client, ZONE, {**record, "ttl": 60})
    assert (changed["id"], changed["ttl"]) == (first["id"], 60)
    assert len(shown(api, "CNAME")) == 1
    assert dns.remove(client, ZONE, record) == 1


@pytest.mark.parametrize("done", [False, True])
def test_none_is_added_twice_after_an_answer_that_was_lost(
    client: Api, api: Standin, done: bool
) -> None:
    api.fault("POST", f"/v2/domains/{ZONE}/records", 500, done=done)
    dns.ensure(client, ZONE, {"type": "A", "name": "@", "data": "203.0.113.7"})
    assert shown(api, "A") == [("@", "203.0.113.7")]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"typ": "A"}, "typ: no such option; did you mean type?"),
        ({"type": "SOA"}, "type: SOA: use one of A, AAAA"),
        ({"type": "A", "name": "www"}, "data is needed"),
        ({"type": "A", "name": "www", "data": "::1"}, "data: ::1: use an IPv4 address"),
        ({"type": "A", "name": "w w", "data": "203.0.113.7"}, "name: w w: use a name below the zone"),
        ({"type": "A", "name": "www", "data": "203.0.113.7", "ttl": 1}, "ttl: 1: use a whole number from 30"),
        ({"type": "A", "name": "www", "data": "203.0.113.7", "priority": 1}, "priority: of no use"),
        ({"type": "MX", "name": "@", "data": "mail."}, "priority: None: use a whole number"),
        ({"type": "CAA", "name": "@", "data": "le.org", "flags": 0, "tag": "x"}, "tag: x: use one of issue"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_is_refused_before_anything_is_asked(
    client: Api, api: Standin, record: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        dns.ensure(client, ZONE, record)
    assert not api.requests


def test_the_driver_lists_adds_and_removes_records(cloud: Cloud, api: Standin) -> None:
    api.add_zone(ZONE)
    given = {"domain": ZONE, "type": "caa", "name": "@", "data": "letsencrypt.org.", "tag": "issue"}
    cloud.call("create_record", kwargs={**given, "flags": "0"}, call="function")
    assert list(cloud.call("list_domains", call="function")) == [ZONE]
    asked = {"domain": ZONE, "type": "CAA", "name": "@"}
    (record,) = cloud.call("list_records", kwargs=asked, call="function").values()
    assert (record["flags"], record["tag"]) == (0, "issue")
    assert cloud.call("delete_record", kwargs=asked, call="function") == {"removed": 1}
    with pytest.raises(
        SaltCloudSystemExit, match=r"examplle.com: not in this account; did you mean"
    ):
        cloud.call("list_records", kwargs={"domain": "examplle.com"}, call="function")
