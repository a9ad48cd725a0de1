"""Whom the firewall shuts out from the site, as haproxy-bans reads it from nft."""

from __future__ import annotations

import ipaddress
from typing import Any

PORTS = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}}}


def rule(*sets: str, ports: Any = None, verdict: str = "drop", but: list[str] | None = None) -> Any:
    left = {"payload": {"protocol": "ip", "field": "saddr"}}
    expression: list[Any] = [
        {"match": {"op": "==", "left": left, "right": f"@{name}"}} for name in sets
    ]
    if but:
        expression.insert(0, {"match": {"op": "!=", "left": left, "right": {"set": but}}})
    if ports:
        expression.insert(0, {"match": {**PORTS["match"], "right": ports}})
    return {"rule": {"expr": [*expression, {verdict: None}]}}


def read(load_source: Any, *parts: Any) -> set[str]:
    found = load_source("salt/haproxy/files/bans.py").banned({"nftables": list(parts)}, 443)
    return {str(one.ipv4_mapped or one) for one in found}


def nft_set(name: str, *elements: Any) -> Any:
    return {"set": {"name": name, "elem": list(elements)}}


def test_a_client_is_banned_by_what_closes_the_sites_port_to_it(load_source: Any) -> None:
    network = {"prefix": {"addr": "2001:db8:1::", "len": 64}}
    sets = [
        nft_set("never", "192.0.2.1"),
        nft_set("scan", "192.0.2.2", network),
        nft_set("ssh", "192.0.2.3"),
        nft_set("all", {"elem": {"val": "192.0.2.4", "expires": 3}}),
        {"set": {"name": "empty"}},
    ]
    web = {"set": [80, 443]}
    rules = [
        rule("never", verdict="accept"),
        rule("scan", ports=web, but=["192.0.2.9"]),
        rule("ssh", ports=22),
        rule("all"),
        rule("empty", ports=web),
    ]
    assert read(load_source, *sets, *rules) == {"192.0.2.2", "2001:db8:1::", "192.0.2.4"}


def test_a_recidivist_is_banned_from_what_he_attacked(load_source: Any) -> None:
    """Both sets must have him."""
    sets = [
        nft_set("recidive", "192.0.2.2", "192.0.2.3"),
        nft_set("attacked", "192.0.2.3", "192.0.2.4"),
    ]
    found = read(load_source, *sets, rule("recidive", "attacked", ports=443, verdict="reject"))
    assert found == {"192.0.2.3"}


def test_an_ipv4_client_has_the_key_that_haproxy_gives_it(load_source: Any) -> None:
    key = load_source("salt/haproxy/files/bans.py").key
    assert str(key("192.0.2.7")) in ("::ffff:c000:207", "::ffff:192.0.2.7")
    assert key("192.0.2.7") == ipaddress.IPv6Address("::ffff:192.0.2.7")
