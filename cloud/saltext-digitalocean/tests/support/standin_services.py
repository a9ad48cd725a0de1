"""The part of the stand-in that is no machine and no network of one: load balancers, DNS zones."""

from __future__ import annotations

import time
import uuid
from typing import Any

from standin_base import REGIONS, Refusal, now

_BALANCER = {
    "name", "region", "tag", "droplet_ids", "forwarding_rules", "health_check", "sticky_sessions", "size_unit",
    "size", "algorithm", "redirect_http_to_https", "enable_proxy_protocol", "enable_backend_keepalive",
    "http_idle_timeout_seconds", "vpc_uuid", "disable_lets_encrypt_dns_records", "firewall", "network",
    "network_stack", "type", "project_id", "tls_cipher_policy",
}  # fmt: skip
_RECORD = {"type", "name", "data", "priority", "port", "ttl", "weight", "flags", "tag"}
# As in standin_digitalocean.py: what an operation knows, in its body and in its query.
BODIES = {
    ("POST", "/v2/load_balancers"): _BALANCER,
    ("PUT", r"/v2/load_balancers/([\w-]+)"): _BALANCER,
    ("POST", r"/v2/domains/([\w.-]+)/records"): _RECORD,
    ("PATCH", r"/v2/domains/([\w.-]+)/records/(\d+)"): _RECORD,
}
QUERIES = {r"/v2/domains/([\w.-]+)/records": {"page", "per_page", "name", "type"}}
PROTOCOLS = {"http", "https", "http2", "http3", "tcp", "udp"}


class Services:
    """
    Of `Standin`, which inherits it.

    - a load balancer is ``new`` and without address for ``pace`` seconds, and refuses changes until then
      (422); ``stuck`` names those that stay so, ``errored`` those that fail;
    - its droplets are those that have its tag *now*;
    - records of a zone are listed by whole names, and a CNAME stands alone under its name.
    """

    pace: float
    stuck: set[str]
    droplets: dict[int, dict[str, Any]]
    vpcs: dict[str, dict[str, Any]]

    def __init__(self) -> None:
        self.balancers: dict[str, dict[str, Any]] = {}
        self.errored: set[str] = set()
        # How many the account may have.
        self.balancer_limit = 10
        # Records by zone.
        self.zones: dict[str, list[dict[str, Any]]] = {}

    def _shown_balancer(self, one: dict[str, Any]) -> dict[str, Any]:
        shown = {key: value for key, value in one.items() if not key.startswith("_")}
        if one["name"] in self.errored:
            shown["status"] = "errored"
        elif time.monotonic() >= one["_until"] and one["name"] not in self.stuck:
            # 192.0.2.0/24 is for documentation (RFC 5737).
            shown |= {"status": "active", "ip": one["_ip"]}
        if one["tag"]:
            shown["droplet_ids"] = [
                droplet["id"] for droplet in self.droplets.values() if one["tag"] in droplet["tags"]
            ]
        return shown

    def _check_balancer(self, body: dict[str, Any], own: str = "") -> dict[str, Any]:
        def unless(condition: object, message: str) -> None:
            if not condition:
                raise Refusal(422, message)

        name, region = body.get("name"), body.get("region")
        unless(isinstance(name, str) and name, "name can't be blank")
        unless(region in REGIONS, "region is invalid")
        others = [one["name"] for one in self.balancers.values() if one["id"] != own]
        unless(name not in others, "Load Balancer name must be unique")
        unless(not (body.get("tag") and body.get("droplet_ids")), "tag or droplet_ids, not both")
        unless("tag" in body or "droplet_ids" in body, "tag or droplet_ids is needed")
        for one in body.get("droplet_ids") or []:
            unless(one in self.droplets, f"droplet {one} does not exist")
            unless(
                self.droplets[one]["region"]["slug"] == region,
                "droplets must be in the region of it",
            )
        rules = body.get("forwarding_rules")
        unless(isinstance(rules, list) and rules, "forwarding_rules must be given")
        assert isinstance(rules, list)
        for rule in rules:
            entry, target = rule.get("entry_protocol"), rule.get("target_protocol")
            unless(entry in PROTOCOLS and target in PROTOCOLS - {"http3"}, "protocol is invalid")
            unless((entry == "tcp") == (target == "tcp"), "tcp must be forwarded to tcp")
            for key in ("entry_port", "target_port"):
                unless(1 <= int(rule.get(key) or 0) <= 65535, f"{key} must be a port")
        unless(body.get("type", "REGIONAL") == "REGIONAL", "only regional ones are known here")
        vpc = body.get("vpc_uuid")
        unless(vpc is None or vpc in self.vpcs, "VPC not found")
        was = self.balancers.get(own)
        unless(was is None or vpc in (None, was["vpc_uuid"]), "the VPC cannot be changed")
        unless(was is None or region == was["region"]["slug"], "the region cannot be changed")
        check = {
            "protocol": "http", "port": 80, "path": "/", "check_interval_seconds": 10,
            "response_timeout_seconds": 5, "healthy_threshold": 5, "unhealthy_threshold": 3,
        } | (body.get("health_check") or {})  # fmt: skip
        if check["protocol"] == "tcp":
            check["path"] = ""
        return {
            "name": name, "region": self._region(str(region)), "tag": body.get("tag") or "",
            "droplet_ids": body.get("droplet_ids") or [], "health_check": check,
            "forwarding_rules": [{"certificate_id": "", "tls_passthrough": False, **one} for one in rules],
            "sticky_sessions": body.get("sticky_sessions") or {"type": "none"},
            "size_unit": body.get("size_unit", 1), "size": "lb-small", "algorithm": "round_robin",
            **{key: body.get(key, False) for key in (
                "redirect_http_to_https", "enable_proxy_protocol", "enable_backend_keepalive",
                "disable_lets_encrypt_dns_records",
            )},
            "http_idle_timeout_seconds": body.get("http_idle_timeout_seconds", 60),
            "vpc_uuid": vpc or self._default_vpc(str(region)),
            "firewall": {"allow": [], "deny": [], **(body.get("firewall") or {})},
            "network": body.get("network", "EXTERNAL"), "network_stack": body.get("network_stack", "IPV4"),
            "type": "REGIONAL", "tls_cipher_policy": body.get("tls_cipher_policy", "DEFAULT"),
            "_until": time.monotonic() + self.pace,
        }  # fmt: skip

    def _list_balancers(self, _: Any, query: dict[str, str], __: Any) -> tuple[int, dict[str, Any]]:
        items = [self._shown_balancer(one) for one in self.balancers.values()]
        return self._page("load_balancers", "/v2/load_balancers", items, query)

    def _create_balancer(self, _: Any, __: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(self.balancers) >= self.balancer_limit:
            raise Refusal(422, "you have reached your load balancer limit")
        one = {"id": str(uuid.uuid4()), "status": "new", "ip": "", "created_at": now()}
        one |= self._check_balancer(body) | {"_ip": f"192.0.2.{len(self.balancers) % 250 + 1}"}
        self.balancers[one["id"]] = one
        return 202, {"load_balancer": self._shown_balancer(one)}

    def _balancer(self, identity: str) -> dict[str, Any]:
        if identity not in self.balancers:
            raise Refusal(404)
        return self.balancers[identity]

    def _get_balancer(self, found: Any, _: Any, __: Any) -> tuple[int, dict[str, Any]]:
        return 200, {"load_balancer": self._shown_balancer(self._balancer(found[0]))}

    def _update_balancer(
        self, found: Any, _: Any, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        one = self._balancer(found[0])
        if time.monotonic() < one["_until"]:
            raise Refusal(422, "Load Balancer can't be updated while it processes previous actions")
        one.update(self._check_balancer(body, one["id"]))
        return 200, {"load_balancer": self._shown_balancer(one)}

    def _delete_balancer(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        one = self._balancer(found[0])
        if time.monotonic() < one["_until"]:
            raise Refusal(422, "Load Balancer can't be deleted while it processes previous actions")
        del self.balancers[one["id"]]
        return 204, None

    # --- DNS ----------------------------------------------------------------------------------------

    def add_zone(self, name: str) -> None:
        """As its owner makes it, with the records that it begins with."""
        self.zones[name] = []
        for number in (1, 2, 3):
            self._add_record(
                name,
                {"type": "NS", "name": "@", "data": f"ns{number}.digitalocean.com", "ttl": 1800},
            )

    def _zone(self, name: str) -> list[dict[str, Any]]:
        if name not in self.zones:
            raise Refusal(404)
        return self.zones[name]

    def _list_zones(self, _: Any, query: dict[str, str], __: Any) -> tuple[int, dict[str, Any]]:
        items = [{"name": name, "ttl": 1800, "zone_file": None} for name in self.zones]
        return self._page("domains", "/v2/domains", items, query)

    def _list_records(
        self, found: Any, query: dict[str, str], _: Any
    ) -> tuple[int, dict[str, Any]]:
        zone = found[0]

        def whole(one: dict[str, Any]) -> str:
            return zone if one["name"] == "@" else f"{one['name']}.{zone}"

        items = [
            one
            for one in self._zone(zone)
            if query.get("type", one["type"]) == one["type"]
            and query.get("name", whole(one)) == whole(one)
        ]
        return self._page("domain_records", f"/v2/domains/{zone}/records", items, query)

    def _add_record(self, zone: str, body: dict[str, Any]) -> dict[str, Any]:
        def unless(condition: object, message: str) -> None:
            if not condition:
                raise Refusal(422, message)

        kind, name, data = (body.get(key) for key in ("type", "name", "data"))
        unless(kind in ("A", "AAAA", "CAA", "CNAME", "MX", "NS", "SRV", "TXT"), "type is invalid")
        unless(name and data, "name and data can't be blank")
        unless(int(body.get("ttl", 1800)) >= 30, "TTL must be greater than or equal to 30")
        same = [one for one in self._zone(zone) if one["name"] == name]
        unless(
            not any(one["type"] == "CNAME" for one in same) and not (kind == "CNAME" and same),
            "CNAME records cannot share a name with other records",
        )
        if kind in ("MX", "SRV"):
            unless(isinstance(body.get("priority"), int), "priority is needed")
        if kind in ("CNAME", "MX", "SRV"):
            unless(str(data).endswith("."), "data needs to end with a dot (.)")
            data = str(data).rstrip(".")
        keys = ("priority", "port", "weight", "flags", "tag")
        one = {
            "id": self._id(), "type": kind, "name": name, "data": data, "ttl": body.get("ttl", 1800),
            **{key: body.get(key) for key in keys},
        }  # fmt: skip
        self._zone(zone).append(one)
        return one

    def _create_record(
        self, found: Any, _: Any, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        return 201, {"domain_record": self._add_record(found[0], body)}

    def _record(self, found: Any) -> dict[str, Any]:
        for one in self._zone(found[0]):
            if str(one["id"]) == found[1]:
                return one
        raise Refusal(404)

    def _patch_record(self, found: Any, _: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        one = self._record(found)
        one.update({key: value for key, value in body.items() if key != "type"})
        return 200, {"domain_record": one}

    def _delete_record(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        self.zones[found[0]].remove(self._record(found))
        return 204, None

    # Of Standin.
    def _id(self) -> int:
        raise NotImplementedError

    def _page(
        self, key: str, path: str, items: list[dict[str, Any]], query: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        raise NotImplementedError

    @staticmethod
    def _region(slug: str) -> dict[str, Any]:
        raise NotImplementedError

    def _default_vpc(self, region: str) -> str:
        raise NotImplementedError


ROUTES: list[Any] = [
    ("GET", "/v2/load_balancers", Services._list_balancers),
    ("POST", "/v2/load_balancers", Services._create_balancer),
    ("GET", r"/v2/load_balancers/([\w-]+)", Services._get_balancer),
    ("PUT", r"/v2/load_balancers/([\w-]+)", Services._update_balancer),
    ("DELETE", r"/v2/load_balancers/([\w-]+)", Services._delete_balancer),
    ("GET", "/v2/domains", Services._list_zones),
    ("GET", r"/v2/domains/([\w.-]+)/records", Services._list_records),
    ("POST", r"/v2/domains/([\w.-]+)/records", Services._create_record),
    ("PATCH", r"/v2/domains/([\w.-]+)/records/(\d+)", Services._patch_record),
    ("DELETE", r"/v2/domains/([\w.-]+)/records/(\d+)", Services._delete_record),
]
