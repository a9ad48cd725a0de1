"""
Records of a DNS zone that DigitalOcean serves: a machine's address, a name for a load balancer, the TXT records of
ACME. The zone itself is made by who owns the domain.
"""

import ipaddress
import re

from saltext.digitalocean.utils.digitalocean.options import (
    OptionError,
    check_names,
    integer,
    nearest,
)

TYPES = ("A", "AAAA", "CAA", "CNAME", "MX", "NS", "SRV", "TXT")
# By domain_record.yml and those of each type in DigitalOcean's OpenAPI specification.
OPTIONS = ("type", "name", "data", "ttl", "priority", "port", "weight", "flags", "tag")
# What a type needs beside name and data, with the least and the greatest.
_NUMBERS = {
    "MX": {"priority": (0, 65535)},
    "SRV": {"priority": (0, 65535), "port": (0, 65535), "weight": (0, 65535)},
    "CAA": {"flags": (0, 255)},
}
_CAA_TAGS = ("issue", "issuewild", "iodef")
# `@` is the zone itself.
_NAME = re.compile(r"@|(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?|\*", re.IGNORECASE)
# Names in a record's data end with a dot, or are below the zone.
_NAMES = ("CNAME", "MX", "NS", "SRV")


def check(options):
    """
    The body that creates a record, of options that are called as in DigitalOcean's API.

    Raises OptionError.
    """
    check_names("record", options, OPTIONS)
    body = {key: value for key, value in options.items() if value is not None}
    kind = body["type"] = str(body.get("type") or "").upper()
    if kind not in TYPES:
        raise OptionError(f"record: type: {kind or 'none'}: use one of {', '.join(TYPES)}")
    for key in ("name", "data"):
        if not isinstance(body.get(key), str) or not body[key]:
            raise OptionError(f"record: {key} is needed")
    if not _NAME.fullmatch(body["name"]):
        raise OptionError(
            f"record: name: {body['name']}: use a name below the zone, or @ for the zone"
        )
    if kind in ("A", "AAAA"):
        version = 4 if kind == "A" else 6
        try:
            if ipaddress.ip_address(body["data"]).version != version:
                raise ValueError
        except ValueError:
            raise OptionError(
                f"record: data: {body['data']}: use an IPv{version} address"
            ) from None
    numbers = _NUMBERS.get(kind, {})
    for key, (least, most) in numbers.items():
        body[key] = integer(f"record: {key}", body.get(key), least, most)
    if kind == "CAA" and body.get("tag") not in _CAA_TAGS:
        raise OptionError(f"record: tag: {body.get('tag')}: use one of {', '.join(_CAA_TAGS)}")
    useless = [
        key for key in ("priority", "port", "weight", "flags") if key in body and key not in numbers
    ]
    if kind != "CAA" and "tag" in body:
        useless.append("tag")
    if useless:
        raise OptionError(f"record: {useless[0]}: of no use in a record of type {kind}")
    if "ttl" in body:
        body["ttl"] = integer("record: ttl", body["ttl"], 30, 604800)
    return body


def list_zones(api):
    """Zones of the account by name."""
    return {one["name"]: one for one in api.all("domains", "domains")}


def get_zone(api, name):
    """The zone of that name; OptionError when the account has none."""
    zones = list_zones(api)
    if name not in zones:
        raise OptionError(f"domain {name}: not in this account; {nearest(name, zones)}")
    return zones[name]


def list_records(api, zone, kind=None, name=None):
    """Records of a zone; of one type, and of one name below the zone (``@``: the zone), where given."""
    query = {"type": kind} if kind else {}
    if name:
        # The API compares whole names.
        query["name"] = zone if name == "@" else f"{name}.{zone}"
    return api.all("domains", "domain_records", method="list_records", domain_name=zone, **query)


def _matches(record, body):
    def plain(key, value):
        # A name may be shown with its dot or without.
        return str(value).rstrip(".") if key == "data" and body["type"] in _NAMES else value

    return all(plain(key, record.get(key)) == plain(key, value) for key, value in body.items())


def ensure(api, zone, options):
    """
    The record that ``options`` (``check``) describe: one that is there already is left, one that differs in its
    TTL alone is changed, else it is added beside those of the same name. Returns it.

    Raises OptionError, ApiError.
    """
    body = check(options)
    get_zone(api, zone)
    without = {key: value for key, value in body.items() if key != "ttl"}

    def there():
        records = list_records(api, zone, body["type"], body["name"])
        return next((one for one in records if _matches(one, without)), None)

    existing = there()
    if existing and "ttl" in body and existing.get("ttl") != body["ttl"]:
        change = {"type": body["type"], "ttl": body["ttl"]}
        return api.call(
            "domains", "patch_record", zone, existing["id"], change, key="domain_record"
        )["domain_record"]
    if existing:
        return existing

    def made_all_the_same():
        found = there()
        return {"domain_record": found} if found else None

    return api.call(
        "domains", "create_record", zone, body,
        found=made_all_the_same, repeat=False, key="domain_record",
    )["domain_record"]  # fmt: skip


def remove(api, zone, options):
    """
    Remove the records of a zone that have this ``type``, ``name`` and, where given, ``data``; the number of them. That
    there is none is no error.
    """
    check_names("record", options, ("type", "name", "data"))
    kind = str(options.get("type") or "").upper()
    if kind not in TYPES or not options.get("name"):
        raise OptionError(f"record: type ({', '.join(TYPES)}) and name are needed")
    get_zone(api, zone)
    wanted = {"type": kind, **({"data": options["data"]} if options.get("data") else {})}
    found = [one for one in list_records(api, zone, kind, options["name"]) if _matches(one, wanted)]
    for one in found:
        api.call("domains", "delete_record", zone, one["id"])
    return len(found)
