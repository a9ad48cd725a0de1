"""
A stand-in of DigitalOcean's API v2, for tests: it speaks what the driver uses, over HTTPS with a
certificate of its own, and refuses what the published API refuses.

    python standin_digitalocean.py [--port N]      play with it by hand; prints what to export

Source of shapes and rules: https://github.com/digitalocean/openapi and
https://docs.digitalocean.com/reference/api/. What is known of the real API and matters here:

- lists come in pages (``per_page`` 20, at most 200) with ``links.pages.next`` and ``meta.total``;
- every answer carries ``ratelimit-limit``, ``-remaining`` and ``-reset`` (epoch seconds);
- errors are ``{id, message, request_id}``;
- a droplet is ``new`` and without address until its ``create`` action is ``completed``, and a list
  knows it a little later than its own URL does (eventual consistency);
- while an action is pending others are refused: 422 "Droplet already has a pending event.", and so
  for a reserved address;
- a name may be given to several droplets;
- droplets with GPUs are in no list but one that asks for them (``type=gpus``);
- the first VPC of a region is its default; a default one is never deleted, one with members not yet (403);
- keys are listed 10 times a minute: 429 without ``retry-after``, while much of the hourly limit remains;
- ``backups`` without a ``backup_policy`` are daily;
- a name that an operation does not know is refused here (400), so that none is sent unnoticed.

Where DIGITALOCEAN_SPEC names the published specification, all that is asked and answered is checked
against it (specification.py); what is not as specified fails the test, as the stand-in ends.

Droplets are data, unless ``machines`` is given: then each is a real machine (see `Machines`).
Faults are switched on one by one: `Standin.fault`, `stuck`, `Droplet.ssh` and so on.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import ipaddress
import json
import re
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import specification
import standin_services
from standin_base import ERROR_IDS, REGIONS, Refusal, now
from standin_services import Services

TOKEN = "dop_v1_" + "5ec2e7" * 10 + "cafe"
READ_ONLY = "dop_v1_" + "0" * 64

# slug: memory, vcpus, disk, transfer, monthly price as published; regions.
SIZES: dict[str, tuple[int, int, int, float, float, list[str]]] = {
    "s-1vcpu-512mb-10gb": (512, 1, 10, 0.5, 4.0, ["fra1", "ams3", "nyc3"]),
    "s-1vcpu-1gb": (1024, 1, 25, 1.0, 6.0, list(REGIONS)),
    "s-1vcpu-2gb": (2048, 1, 50, 2.0, 12.0, list(REGIONS)),
    "s-2vcpu-2gb": (2048, 2, 60, 3.0, 18.0, list(REGIONS)),
    "s-2vcpu-4gb": (4096, 2, 80, 4.0, 24.0, list(REGIONS)),
    "s-4vcpu-8gb": (8192, 4, 160, 5.0, 48.0, list(REGIONS)),
    "gpu-h100x1-80gb": (245760, 20, 720, 15.0, 2522.16, ["nyc3"]),
}
IMAGES = {
    "debian-12-x64": (138_000_012, "Debian", "12 x64", 7),
    "debian-13-x64": (138_000_013, "Debian", "13 x64", 7),
    "ubuntu-24-04-x64": (138_000_024, "Ubuntu", "24.04 (LTS) x64", 7),
}
_DROPLET_NAME = re.compile(r"[a-zA-Z0-9]?[a-z0-9A-Z.\-]*[a-z0-9A-Z]")
_TAG = re.compile(r"[a-zA-Z0-9_\-:]{1,255}")
# What an operation knows in its body, by the pattern of its path.
_BODIES = {
    ("POST", "/v2/droplets"): {
        "name", "region", "size", "image", "ssh_keys", "backups", "backup_policy", "ipv6", "monitoring",
        "tags", "user_data", "vpc_uuid", "volumes", "with_droplet_agent", "public_networking",
    },
    ("POST", "/v2/account/keys"): {"name", "public_key"},
    ("POST", "/v2/images"): {"name", "url", "region", "distribution", "description", "tags"},
    ("POST", "/v2/tags"): {"name"},
    ("POST", "/v2/vpcs"): {"name", "region", "ip_range", "description"},
    ("POST", "/v2/reserved_ips"): {"droplet_id", "region", "project_id"},
    ("POST", "/v2/firewalls"): {"name", "tags", "droplet_ids", "inbound_rules", "outbound_rules"},
    **standin_services.BODIES,
}  # fmt: skip
_QUERY = {"page", "per_page"}
_QUERIES = {"/v2/droplets": {*_QUERY, "tag_name", "name", "type"}, **standin_services.QUERIES}
_FIREWALL_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]*")


class Machines(Protocol):
    """Real machines behind droplets."""

    def take(self, name: str, keys: list[str]) -> tuple[str, str]:
        """A machine that lets ``keys`` in as root; its public and its private address. Called once
        a droplet."""
        ...

    def give_back(self, name: str) -> None:
        """The droplet is gone."""
        ...

    def is_ready(self, name: str) -> bool:
        """Whether one can be taken; until then the droplet's creation goes on."""
        return True

    def is_on(self, name: str) -> bool:
        """Whether the machine that was taken runs."""
        return True

    def start(self, name: str) -> None:
        """Switch it on."""


@dataclass
class Fault:
    """Answer ``status`` to the next ``times`` matching requests; ``done``: after doing what they ask."""

    method: str
    path: str
    status: int
    times: int
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False
    message: str = ""
    # Answered as it should be, but for the body, which is no JSON.
    garbled: bool = False


class Standin(Services):
    """
    The API and the account behind it. A context manager: the server runs inside of it.

    pace
        seconds that an action takes
    lag
        seconds after which a list knows of a new droplet
    latency
        seconds that every answer is under way, so that those who ask at once all ask before
        any of them is answered
    default_vpcs
        whether each region has its default VPC from the beginning
    """

    def __init__(
        self, pace: float = 0.2, lag: float = 0.1, machines: Machines | None = None, port: int = 0,
        latency: float = 0.0, default_vpcs: bool = True,
    ) -> None:  # fmt: skip
        self.pace, self.lag, self.machines, self.latency = pace, lag, machines, latency
        self.lock = threading.RLock()
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        # Names of droplets that stay "new"; and that are "new" for deletion too.
        self.stuck: set[str] = set()
        self.tokens = {TOKEN: "write", READ_ONLY: "read"}
        self.limit = 5000
        self.remaining = 5000
        # How often keys are listed in a window of so many seconds; and when they were.
        self.key_limit, self.key_window = 10, 60.0
        self._keys_listed: collections.deque[float] = collections.deque()
        # Images of the account's own, by ID, which take `pace` to be imported.
        self.custom: dict[int, dict[str, Any]] = {}
        # Sizes that cannot be had now.
        self.unavailable: set[str] = set()
        # Answers that are not what they should be: (method, path, what to make of the JSON).
        self.odd: list[tuple[str, str, Callable[[Any], Any]]] = []
        self.violations: list[str] = []
        self.droplets: dict[int, dict[str, Any]] = {}
        self.actions: dict[int, dict[str, Any]] = {}
        self.keys: dict[int, dict[str, Any]] = {}
        self.firewalls: dict[str, dict[str, Any]] = {}
        self.tags: set[str] = set()
        self.reserved: dict[str, dict[str, Any]] = {}
        self.vpcs: dict[str, dict[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        self._next = 1_000_000
        Services.__init__(self)
        for region in REGIONS if default_vpcs else ():
            self._default_vpc(region)
        self._new_project("first-project", default=True)
        self._folder = tempfile.TemporaryDirectory(prefix="standin-")
        self.ca = str(Path(self._folder.name) / "ca.pem")
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.standin = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(Path(self._folder.name)))
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Standin:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for droplet in list(self.droplets.values()):
            self._gone(droplet)
        self._folder.cleanup()
        assert not self.violations, "not as specified:\n" + "\n".join(self.violations)

    def environment(self, token: str = TOKEN) -> dict[str, str]:
        """What makes the driver speak to this instead of DigitalOcean."""
        return {
            "DIGITALOCEAN_TOKEN": token,
            "DIGITALOCEAN_API_URL": self.url,
            "DIGITALOCEAN_API_CA": self.ca,
        }

    # --- for tests --------------------------------------------------------------------------------

    def fault(
        self, method: str, path: str, status: int, times: int = 1, *, done: bool = False,
        message: str = "", garbled: bool = False, **headers: str,
    ) -> None:  # fmt: skip
        """`fault('POST', '/v2/droplets', 500, times=2)`; `done`: the thing is done all the same."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(method, path, status, times, named, done, message, garbled))

    def add_key(self, name: str, public: str) -> int:
        key = self._create_key({"name": name, "public_key": public})["ssh_key"]
        return int(key["id"])

    def names(self) -> list[str]:
        """Names of the droplets that exist, and are paid, now."""
        with self.lock:
            self._advance()
            return sorted(one["name"] for one in self.droplets.values())

    def count(self, method: str, path: str) -> int:
        return sum(
            one == method and re.fullmatch(path, two) is not None for one, two in self.requests
        )

    # --- the account --------------------------------------------------------------------------------

    def _id(self) -> int:
        self._next += 1
        return self._next

    def _new_vpc(
        self, name: str, region: str, ip_range: str | None, description: str = ""
    ) -> dict[str, Any]:
        ip_range = ip_range or f"10.{100 + len(self.vpcs)}.0.0/20"
        default = not any(one["default"] for one in self.vpcs.values() if one["region"] == region)
        one = {
            "id": str(uuid.uuid4()), "urn": "", "name": name, "description": description, "region": region,
            "ip_range": ip_range, "default": default, "created_at": now(),
        }  # fmt: skip
        one["urn"] = f"do:vpc:{one['id']}"
        self.vpcs[one["id"]] = one
        return one

    def _default_vpc(self, region: str) -> str:
        """The ID of a region's default VPC; made at need."""
        for one in self.vpcs.values():
            if one["region"] == region and one["default"]:
                return str(one["id"])
        return str(self._new_vpc(f"default-{region}", region, None)["id"])

    def _new_project(self, name: str, default: bool = False) -> dict[str, Any]:
        one = {
            "id": str(uuid.uuid4()), "owner_uuid": str(uuid.uuid4()), "owner_id": 1, "name": name,
            "description": "", "purpose": "Web Application", "environment": "Production",
            "created_at": now(), "updated_at": now(), "is_default": default, "_resources": [],
        }  # fmt: skip
        self.projects[one["id"]] = one
        return one

    def _action(
        self, kind: str, resource: int, kind_of: str = "droplet", region: str = "fra1"
    ) -> dict[str, Any]:
        one = {
            "id": self._id(), "status": "in-progress", "type": kind, "started_at": now(), "completed_at": None,
            "resource_id": resource, "resource_type": kind_of, "region": self._region(region), "region_slug": region,
            "_ends": time.monotonic() + self.pace,
        }  # fmt: skip
        self.actions[one["id"]] = one
        return one

    def _advance(self) -> None:
        """Let time pass: actions end, and what they do is done."""
        for action in self.actions.values():
            if action["status"] != "in-progress" or time.monotonic() < action["_ends"]:
                continue
            droplet = self.droplets.get(action["resource_id"])
            if action["type"] == "create" and droplet and not self._can_boot(droplet["name"]):
                continue
            action["status"], action["completed_at"] = "completed", now()
            if action["type"] == "destroy":
                if droplet:
                    self._gone(droplet)
                continue
            if not droplet:
                continue
            droplet["locked"] = False
            if action["type"] == "create":
                self._boot(droplet)
            droplet["status"] = {"power_off": "off", "shutdown": "off"}.get(
                action["type"], "active"
            )

    def _can_boot(self, name: str) -> bool:
        return name not in self.stuck and (not self.machines or self.machines.is_ready(name))

    def _look(self, droplet: dict[str, Any]) -> None:
        """A machine may have been switched off from within."""
        if self.machines and not droplet["locked"]:
            droplet["status"] = "active" if self.machines.is_on(droplet["name"]) else "off"

    def _boot(self, droplet: dict[str, Any]) -> None:
        keys = [self.keys[one]["public_key"] for one in droplet["_keys"]]
        network = ipaddress.ip_network(self.vpcs[droplet["vpc_uuid"]]["ip_range"])
        if self.machines:
            address, private = self.machines.take(droplet["name"], keys)
        else:
            # 203.0.113.0/24 is for documentation (RFC 5737).
            address = f"203.0.113.{droplet['id'] % 250 + 1}"
            private = str(network[2 + droplet["id"] % 200])
        droplet["networks"]["v4"] = [
            {
                "ip_address": private,
                "netmask": str(network.netmask),
                "gateway": str(network[1]),
                "type": "private",
            },
            {
                "ip_address": address,
                "netmask": "255.255.255.0",
                "gateway": address.rpartition(".")[0] + ".1",
                "type": "public",
            },
        ]
        if "ipv6" in droplet["features"]:
            droplet["networks"]["v6"] = [
                {
                    "ip_address": f"2001:db8::{droplet['id'] % 65536:x}",
                    "netmask": 64,
                    "gateway": "2001:db8::1",
                    "type": "public",
                }
            ]

    def _gone(self, droplet: dict[str, Any]) -> None:
        self.droplets.pop(droplet["id"], None)
        for firewall in self.firewalls.values():
            firewall["droplet_ids"] = [
                one for one in firewall["droplet_ids"] if one != droplet["id"]
            ]
        for address in self.reserved.values():
            if address["droplet"] and address["droplet"]["id"] == droplet["id"]:
                # It is taken from the droplet by an event of its own.
                address["droplet"], address["_until"] = None, time.monotonic() + self.pace
        if self.machines:
            self.machines.give_back(droplet["name"])

    # --- requests -----------------------------------------------------------------------------------

    def answer(
        self, method: str, target: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any] | None, dict[str, str]]:
        """Status, JSON and headers for one request."""
        parts = urlsplit(target)
        path, query = (
            unquote(parts.path).rstrip("/"),
            {k: v[-1] for k, v in parse_qs(parts.query).items()},
        )
        with self.lock:
            self.requests.append((method, path))
            self._advance()
            self.remaining = max(self.remaining - 1, 0)
            extra = {
                "ratelimit-limit": str(self.limit),
                "ratelimit-remaining": str(self.remaining),
                "ratelimit-reset": str(int(time.time()) + 3600),
            }
            try:
                fault = next(
                    (
                        one
                        for one in self.faults
                        if one.method == method and one.times and re.fullmatch(one.path, path)
                    ),
                    None,
                )
                if fault and not fault.done:
                    fault.times -= 1
                    raise Refusal(fault.status, fault.message, fault.headers)
                status, said = self._route(method, path, query, headers, body)
                if fault:
                    fault.times -= 1
                    if fault.garbled:
                        return fault.status, {"": None}, extra
                    raise Refusal(fault.status, fault.message, fault.headers)
                said = json.loads(json.dumps(said))
                self._check(method, path, query, body, status, said)
                for wanted, pattern, make in self.odd:
                    if wanted == method and re.fullmatch(pattern, path):
                        said = make(said)
            except Refusal as refusal:
                extra.update(refusal.headers)
                if "ratelimit-reset" in refusal.headers:
                    extra["ratelimit-remaining"] = "0"
                request = str(uuid.uuid4())
                said = {
                    "id": ERROR_IDS[refusal.status],
                    "message": refusal.message,
                    "request_id": request,
                }
                extra["x-request-id"] = request
                self._check(method, path, query, body, refusal.status, said)
                return refusal.status, said, extra
            return status, said, extra

    def _check(
        self, method: str, path: str, query: dict[str, str], body: bytes, status: int, said: Any
    ) -> None:
        """Against the published specification, where there is one."""
        known = specification.given()
        if known:
            asked = json.loads(body) if body else None
            self.violations += known.problems(method, path, query, asked, status, said)

    def _route(
        self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any] | None]:
        scheme, _, token = (headers.get("Authorization") or "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise Refusal(401)
        for wanted, pattern, handler in self.ROUTES:
            found = re.fullmatch(pattern, path)
            if wanted == method and found:
                if method != "GET" and self.tokens[token] != "write":
                    raise Refusal(403)
                data: dict[str, Any] = {}
                if body:
                    if "json" not in (headers.get("Content-Type") or ""):
                        raise Refusal(400, "Content-Type must be application/json")
                    try:
                        data = json.loads(body)
                    except ValueError:
                        raise Refusal(400, "Invalid JSON") from None
                known = _BODIES.get((wanted, pattern))
                unknown = [
                    *(one for one in query if one not in _QUERIES.get(pattern, _QUERY)),
                    *(one for one in data if known is not None and one not in known),
                ]
                if unknown:
                    raise Refusal(400, f"{unknown[0]} is not a valid parameter")
                return handler(self, found.groups(), query, data)
        raise Refusal(404)

    def _page(
        self, key: str, path: str, items: list[dict[str, Any]], query: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        try:
            size, page = int(query.get("per_page", 20)), int(query.get("page", 1))
        except ValueError:
            raise Refusal(400, "per_page and page are numbers") from None
        if not 1 <= size <= 200:
            raise Refusal(422, "per_page must be between 1 and 200")
        if page < 1:
            raise Refusal(422, "page must be greater than 0")
        pages = max(-(-len(items) // size), 1)
        rest = "".join(f"&{k}={v}" for k, v in query.items() if k not in ("page", "per_page"))

        def link(number: int) -> str:
            return f"https://api.digitalocean.com{path}?page={number}&per_page={size}{rest}"

        links: dict[str, str] = {}
        if page < pages:
            links |= {"next": link(page + 1), "last": link(pages)}
        if page > 1:
            links |= {"first": link(1), "prev": link(page - 1)}
        shown = items[(page - 1) * size : page * size]
        return 200, {
            key: shown,
            "links": {"pages": links} if links else {},
            "meta": {"total": len(items)},
        }

    # --- droplets -----------------------------------------------------------------------------------

    @staticmethod
    def _public(item: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in item.items() if not key.startswith("_")}

    def _list_droplets(self, _: Any, query: dict[str, str], __: Any) -> tuple[int, dict[str, Any]]:
        if "tag_name" in query and "name" in query:
            raise Refusal(422, "name and tag_name cannot be combined")
        if "tag_name" in query and "type" in query:
            raise Refusal(422, "type and tag_name cannot be combined")
        if query.get("type", "gpus") not in ("droplets", "gpus"):
            raise Refusal(422, "type must be droplets or gpus")
        gpus = query.get("type") == "gpus"
        known = [
            one for one in self.droplets.values()
            if time.monotonic() - one["_made"] >= self.lag
            and one["size_slug"].startswith("gpu-") == gpus
            and query.get("tag_name") in (None, *one["tags"])
            and query.get("name", one["name"]).lower() == one["name"].lower()
        ]  # fmt: skip
        for one in known:
            self._look(one)
        return self._page("droplets", "/v2/droplets", [self._public(one) for one in known], query)

    def _droplet(self, identity: str) -> dict[str, Any]:
        if int(identity) not in self.droplets:
            raise Refusal(404)
        return self.droplets[int(identity)]

    def _get_droplet(self, found: Any, _: Any, __: Any) -> tuple[int, dict[str, Any]]:
        droplet = self._droplet(found[0])
        self._look(droplet)
        return 200, {"droplet": self._public(droplet)}

    def _create_droplet(self, _: Any, __: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        def unless(condition: object, message: str) -> None:
            if not condition:
                raise Refusal(422, message)

        name, region, size, image = (body.get(key) for key in ("name", "region", "size", "image"))
        unless(isinstance(name, str) and name, "Name can't be blank")
        assert isinstance(name, str)
        unless(
            _DROPLET_NAME.fullmatch(name) and len(name) <= 255,
            "Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)",
        )
        unless(size in SIZES, "You specified an invalid size for Droplet creation.")
        unless(region in REGIONS, "You specified an invalid region for Droplet creation.")
        memory, cpus, disk, _, _, regions = SIZES[str(size)]
        unless(
            region in regions and size not in self.unavailable,
            "Size is not available in this region.",
        )
        slugs: dict[Any, Any] = {slug: slug for slug in IMAGES}
        slugs |= {one[0]: slug for slug, one in IMAGES.items()}
        known = {key: IMAGES[slug] for key, slug in slugs.items()}
        for one in self.custom.values():
            if self._shown_image(one)["status"] == "available":
                slugs[one["id"]] = None
                known[one["id"]] = (one["id"], one["distribution"], one["name"], 10)
        unless(image in known, "You specified an invalid image for Droplet creation.")
        unless(
            known[image][3] <= disk,
            "The image's minimum disk size is larger than this size's disk.",
        )
        keys = body.get("ssh_keys") or []
        unless(isinstance(keys, list), "ssh_keys must be an array")
        own = {str(one["id"]): one["id"] for one in self.keys.values()}
        own |= {one["fingerprint"]: one["id"] for one in self.keys.values()}
        wrong = [str(one) for one in keys if str(one) not in own]
        unless(not wrong, f"{', '.join(wrong)} are invalid key identifiers for Droplet creation.")
        tags = body.get("tags") or []
        unless(isinstance(tags, list), "tags must be an array")
        for tag in tags:
            unless(isinstance(tag, str) and _TAG.fullmatch(tag), f"tag {tag} is invalid")
        unless(len((body.get("user_data") or "").encode()) <= 65536, "User data exceeds 64 KiB")
        for key in ("backups", "ipv6", "monitoring"):
            unless(isinstance(body.get(key, False), bool), f"{key} must be true or false")
        policy = body.get("backup_policy")
        if policy is not None:
            plan = policy.get("plan") if isinstance(policy, dict) else None
            unless(plan in ("daily", "weekly"), "backup_policy is invalid")
            unless(body.get("backups"), "backup_policy needs backups")
        vpc = body.get("vpc_uuid")
        if vpc is None:
            vpc = self._default_vpc(str(region))
        unless(vpc in self.vpcs, "VPC not found")
        unless(self.vpcs[vpc]["region"] == region, "VPC is not in the same region as the Droplet")
        self.tags |= set(tags)
        features = [name for name in ("backups", "ipv6", "monitoring") if body.get(name)]
        number, distribution, title, minimum = known[image]
        droplet = {
            "id": self._id(), "name": name, "memory": memory, "vcpus": cpus, "disk": disk, "locked": True,
            "status": "new", "kernel": None, "created_at": now(), "features": [*features, "private_networking"],
            "backup_ids": [], "next_backup_window": None, "snapshot_ids": [], "volume_ids": [],
            "image": {
                "id": number, "name": title, "distribution": distribution, "slug": slugs[image],
                "public": slugs[image] is not None, "regions": list(REGIONS), "min_disk_size": minimum,
                "type": "base" if slugs[image] else "custom", "status": "available",
            },
            "size": self._size(str(size)), "size_slug": size, "networks": {"v4": [], "v6": []},
            "region": self._region(str(region)), "tags": list(tags), "vpc_uuid": vpc,
            "_keys": [own[str(one)] for one in keys], "_made": time.monotonic(), "_user_data": body.get("user_data"),
            "_policy": {"plan": "daily", "hour": 4, **(policy or {})} if body.get("backups") else None,
        }  # fmt: skip
        self.droplets[droplet["id"]] = droplet
        action = self._action("create", droplet["id"], region=str(region))
        links = {
            "actions": [
                {
                    "id": action["id"],
                    "rel": "create",
                    "href": f"https://api.digitalocean.com/v2/actions/{action['id']}",
                }
            ]
        }
        return 202, {"droplet": self._public(droplet), "links": links}

    def _pending(self, droplet: dict[str, Any]) -> None:
        if droplet["locked"]:
            raise Refusal(422, "Droplet already has a pending event.")

    def _delete_droplet(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        droplet = self._droplet(found[0])
        if droplet["name"] in self.stuck:
            # The creation ends as soon as somebody wants to be rid of it, but not at once.
            self.stuck.discard(droplet["name"])
        self._pending(droplet)
        droplet["locked"] = True
        self._action("destroy", droplet["id"])
        return 204, None

    def _post_action(self, found: Any, _: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        droplet, kind = self._droplet(found[0]), body.get("type")
        if kind not in ("reboot", "power_cycle", "shutdown", "power_off", "power_on"):
            raise Refusal(422, f"{kind} is not a valid action")
        if kind == "power_on" and droplet["status"] == "active":
            raise Refusal(422, "Droplet is already powered on")
        if kind in ("reboot", "shutdown", "power_off") and droplet["status"] == "off":
            raise Refusal(422, "Droplet is already powered off")
        self._pending(droplet)
        droplet["locked"] = True
        if self.machines and kind == "power_on":
            self.machines.start(droplet["name"])
        return 201, {"action": self._public(self._action(kind, droplet["id"]))}

    def _get_action(self, found: Any, _: Any, __: Any) -> tuple[int, dict[str, Any]]:
        if int(found[0]) not in self.actions:
            raise Refusal(404)
        return 200, {"action": self._public(self.actions[int(found[0])])}

    def _get_policy(self, found: Any, _: Any, __: Any) -> tuple[int, dict[str, Any]]:
        one = self._droplet(found[0])
        policy = {"backup_policy": one["_policy"]} if one["_policy"] else {}
        record = {
            "droplet_id": one["id"],
            "backup_enabled": bool(policy),
            "next_backup_window": None,
        }
        return 200, {"policy": {**record, **policy}}

    # --- what can be had ------------------------------------------------------------------------------

    def _size(self, slug: str) -> dict[str, Any]:
        memory, cpus, disk, transfer, monthly, regions = SIZES[slug]
        return {
            "slug": slug, "memory": memory, "vcpus": cpus, "disk": disk, "transfer": transfer,
            "price_monthly": monthly, "price_hourly": round(monthly / 672, 5), "regions": sorted(regions),
            "available": slug not in self.unavailable, "description": "Basic",
        }  # fmt: skip

    @staticmethod
    def _region(slug: str) -> dict[str, Any]:
        sizes = [one for one, spec in SIZES.items() if slug in spec[5]]
        return {
            "name": REGIONS[slug],
            "slug": slug,
            "available": True,
            "features": ["backups", "ipv6", "metadata"],
            "sizes": sizes,
        }

    def _list_sizes(self, _: Any, query: dict[str, str], __: Any) -> tuple[int, dict[str, Any]]:
        return self._page("sizes", "/v2/sizes", [self._size(one) for one in SIZES], query)

    def _list_regions(self, _: Any, query: dict[str, str], __: Any) -> tuple[int, dict[str, Any]]:
        return self._page("regions", "/v2/regions", [self._region(one) for one in REGIONS], query)

    def _list_images(self, _: Any, query: dict[str, str], __: Any) -> tuple[int, dict[str, Any]]:
        items = [
            {"id": one[0], "slug": slug, "distribution": one[1], "name": one[2], "public": True, "type": "base",
             "regions": list(REGIONS), "min_disk_size": one[3], "status": "available"}
            for slug, one in IMAGES.items()
        ]  # fmt: skip
        items += [self._shown_image(one) for one in self.custom.values()]
        return self._page("images", "/v2/images", items, query)

    def _shown_image(self, image: dict[str, Any]) -> dict[str, Any]:
        shown = self._public(image)
        if image["name"] in self.errored:
            return {**shown, "status": "deleted", "error_message": "it is no image"}
        if time.monotonic() < image["_until"]:
            return shown
        return {**shown, "status": "available", "min_disk_size": 10, "size_gigabytes": 1.7}

    def _create_image(self, _: Any, __: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if not body.get("name") or not re.match("https?://", str(body.get("url"))):
            raise Refusal(422, "name and url must be given")
        if body.get("region") not in REGIONS:
            raise Refusal(422, "region is invalid")
        one = {
            "id": self._id(), "slug": None, "name": body["name"], "distribution": body.get("distribution") or "Unknown",
            "public": False, "type": "custom", "regions": [body["region"]], "created_at": now(), "status": "NEW",
            "description": body.get("description") or "", "tags": body.get("tags") or [], "error_message": "",
            "min_disk_size": None, "_until": time.monotonic() + self.pace,
        }  # fmt: skip
        self.custom[one["id"]] = one
        return 202, {"image": self._shown_image(one)}

    def _get_image(self, found: Any, _: Any, __: Any) -> tuple[int, dict[str, Any]]:
        if int(found[0]) not in self.custom:
            raise Refusal(404)
        return 200, {"image": self._shown_image(self.custom[int(found[0])])}

    # --- keys, tags, projects ---------------------------------------------------------------------------

    def _create_key(self, body: dict[str, Any]) -> dict[str, Any]:
        import base64
        import hashlib

        parts = str(body.get("public_key") or "").split()
        if not body.get("name"):
            raise Refusal(422, "Name can't be blank")
        try:
            blob = base64.b64decode(parts[1], validate=True)
        except (IndexError, ValueError):
            raise Refusal(
                422, "Key invalid, key should be of the format `type key [comment]`"
            ) from None
        digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
        fingerprint = ":".join(digest[at : at + 2] for at in range(0, 32, 2))
        if any(one["fingerprint"] == fingerprint for one in self.keys.values()):
            raise Refusal(422, "SSH Key is already in use on your account")
        one = {
            "id": self._id(),
            "name": body["name"],
            "public_key": body["public_key"],
            "fingerprint": fingerprint,
        }
        self.keys[one["id"]] = one
        return {"ssh_key": one}

    def _list_keys(self, _: Any, query: dict[str, str], __: Any) -> tuple[int, dict[str, Any]]:
        now, listed = time.monotonic(), self._keys_listed
        while listed and now - listed[0] > self.key_window:
            listed.popleft()
        if len(listed) >= self.key_limit:
            raise Refusal(429)
        listed.append(now)
        return self._page("ssh_keys", "/v2/account/keys", list(self.keys.values()), query)

    def _get_key(self, found: Any, _: Any, __: Any) -> tuple[int, dict[str, Any]]:
        for one in self.keys.values():
            if found[0] in (str(one["id"]), one["fingerprint"]):
                return 200, {"ssh_key": one}
        raise Refusal(404)

    def _delete_key(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        if self.keys.pop(int(found[0]), None) is None:
            raise Refusal(404)
        return 204, None

    def _create_tag(self, _: Any, __: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if not _TAG.fullmatch(str(body.get("name") or "")):
            raise Refusal(422, "name is invalid")
        self.tags.add(body["name"])
        return 201, {"tag": self._tag(body["name"])}

    def _tag(self, name: str) -> dict[str, Any]:
        count = sum(name in one["tags"] for one in self.droplets.values())
        return {"name": name, "resources": {"count": count, "droplets": {"count": count}}}

    def _tagged(self, found: Any, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Its droplets, of a request that tags or untags them."""
        if found[0] not in self.tags:
            raise Refusal(404)
        for one in body.get("resources") or []:
            if (
                one.get("resource_type") != "droplet"
                or int(one["resource_id"]) not in self.droplets
            ):
                raise Refusal(404)
            yield self.droplets[int(one["resource_id"])]

    def _tag_resources(self, found: Any, _: Any, body: dict[str, Any]) -> tuple[int, None]:
        for droplet in self._tagged(found, body):
            droplet["tags"] = list(dict.fromkeys([*droplet["tags"], found[0]]))
        return 204, None

    def _untag_resources(self, found: Any, _: Any, body: dict[str, Any]) -> tuple[int, None]:
        for droplet in self._tagged(found, body):
            droplet["tags"] = [one for one in droplet["tags"] if one != found[0]]
        return 204, None

    def _delete_tag(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        if found[0] not in self.tags:
            raise Refusal(404)
        self.tags.discard(found[0])
        for droplet in self.droplets.values():
            droplet["tags"] = [one for one in droplet["tags"] if one != found[0]]
        for firewall in self.firewalls.values():
            firewall["tags"] = [one for one in firewall["tags"] if one != found[0]]
        return 204, None

    def _assign(self, found: Any, _: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if found[0] not in self.projects:
            raise Refusal(404)
        project = self.projects[found[0]]
        said = []
        for urn in body.get("resources") or []:
            if not re.fullmatch(r"do:[a-z]+:[\w.-]+", urn):
                raise Refusal(422, f"{urn} is not a URN")
            project["_resources"].append(urn)
            itself = f"https://api.digitalocean.com/v2/droplets/{urn.rpartition(':')[2]}"
            said.append(
                {"urn": urn, "assigned_at": now(), "status": "assigned", "links": {"self": itself}}
            )
        return 200, {"resources": said}

    # --- networks -------------------------------------------------------------------------------------

    def _create_vpc(self, _: Any, __: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name, region, ip_range = body.get("name"), body.get("region"), body.get("ip_range")
        if not re.fullmatch(r"[a-zA-Z0-9.-]+", str(name or "")):
            raise Refusal(422, "name may only contain alphanumeric characters, dashes, and periods")
        if any(one["name"] == name for one in self.vpcs.values()):
            raise Refusal(422, "a VPC with that name already exists")
        if region not in REGIONS:
            raise Refusal(422, "region is invalid")
        if ip_range:
            try:
                network = ipaddress.IPv4Network(ip_range)
            except ValueError:
                raise Refusal(422, "ip_range is not a valid CIDR") from None
            if not network.is_private or not 16 <= network.prefixlen <= 28:
                raise Refusal(422, "ip_range must be private and between /16 and /28")
            for one in self.vpcs.values():
                if network.overlaps(ipaddress.IPv4Network(one["ip_range"])):
                    raise Refusal(
                        422, "This range/size overlaps with another VPC network in your account"
                    )
        one = self._new_vpc(
            str(name), str(region), ip_range, description=str(body.get("description") or "")
        )
        return 201, {"vpc": one}

    def _members(self, vpc: str) -> list[dict[str, Any]]:
        return [
            {"urn": f"do:droplet:{one['id']}", "name": one["name"], "created_at": one["created_at"]}
            for one in self.droplets.values()
            if one["vpc_uuid"] == vpc
        ] + [
            {
                "urn": f"do:loadbalancer:{one['id']}",
                "name": one["name"],
                "created_at": one["created_at"],
            }
            for one in self.balancers.values()
            if one["vpc_uuid"] == vpc
        ]

    def _list_members(
        self, found: Any, query: dict[str, str], _: Any
    ) -> tuple[int, dict[str, Any]]:
        if found[0] not in self.vpcs:
            raise Refusal(404)
        path = f"/v2/vpcs/{found[0]}/members"
        return self._page("members", path, self._members(found[0]), query)

    def _delete_vpc(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        if found[0] not in self.vpcs:
            raise Refusal(404)
        if self.vpcs[found[0]]["default"]:
            raise Refusal(403, "Can not delete default VPCs")
        if self._members(found[0]):
            raise Refusal(403, "Can not delete VPC with members")
        del self.vpcs[found[0]]
        return 204, None

    def _check_firewall(self, body: dict[str, Any], own: str = "") -> dict[str, Any]:
        name = str(body.get("name") or "")
        if not _FIREWALL_NAME.fullmatch(name):
            raise Refusal(422, "name must contain alphanumeric characters, dashes and periods")
        if any(one["name"] == name and one["id"] != own for one in self.firewalls.values()):
            raise Refusal(409, "duplicate name")
        tags = body.get("tags") or []
        if len(tags) > 5:
            raise Refusal(422, "a firewall has at most 5 tags")
        if not body.get("inbound_rules") and not body.get("outbound_rules"):
            raise Refusal(422, "a firewall must have at least one rule")
        for side, target in (("inbound_rules", "sources"), ("outbound_rules", "destinations")):
            for rule in body.get(side) or []:
                if rule.get("protocol") not in ("tcp", "udp", "icmp"):
                    raise Refusal(422, "protocol must be tcp, udp or icmp")
                ports = rule.get("ports")
                if rule["protocol"] != "icmp" and not (
                    isinstance(ports, str) and re.fullmatch(r"all|0|\d{1,5}(-\d{1,5})?", ports)
                ):
                    raise Refusal(422, "ports must be a port, a range or 0")
                where = rule.get(target)
                if not isinstance(where, dict) or not any(where.values()):
                    raise Refusal(422, f"{target} must be given")
                for address in where.get("addresses") or []:
                    try:
                        ipaddress.ip_network(address)
                    except ValueError:
                        raise Refusal(422, f"{address} is not an address") from None
                tags = tags + (where.get("tags") or [])
                for one in where.get("load_balancer_uids") or []:
                    if one not in self.balancers:
                        raise Refusal(422, f"load balancer {one} does not exist")
        missing = [one for one in tags if one not in self.tags]
        if missing:
            raise Refusal(422, f"tag {missing[0]} does not exist")
        for one in body.get("droplet_ids") or []:
            if one not in self.droplets:
                raise Refusal(422, f"droplet {one} does not exist")

        def stored(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
            # What is given as "all" or nothing comes back as "0".
            return [
                {**one, "ports": "0" if one.get("ports") in (None, "all") else one["ports"]}
                for one in rules
            ]

        return {
            "name": name, "tags": list(body.get("tags") or []), "droplet_ids": list(body.get("droplet_ids") or []),
            "inbound_rules": stored(body.get("inbound_rules") or []),
            "outbound_rules": stored(body.get("outbound_rules") or []),
            "status": "succeeded", "pending_changes": [],
        }  # fmt: skip

    def _create_firewall(self, _: Any, __: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        one = {"id": str(uuid.uuid4()), "created_at": now(), **self._check_firewall(body)}
        self.firewalls[one["id"]] = one
        return 202, {"firewall": one}

    def _firewall(self, identity: str) -> dict[str, Any]:
        if identity not in self.firewalls:
            raise Refusal(404)
        return self.firewalls[identity]

    def _update_firewall(
        self, found: Any, _: Any, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        one = self._firewall(found[0])
        one.update(self._check_firewall(body, one["id"]))
        return 200, {"firewall": one}

    def _delete_firewall(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        del self.firewalls[self._firewall(found[0])["id"]]
        return 204, None

    def _firewall_droplets(self, found: Any, _: Any, body: dict[str, Any]) -> tuple[int, None]:
        one = self._firewall(found[0])
        for identity in body.get("droplet_ids") or []:
            if identity not in self.droplets:
                raise Refusal(404)
            one["droplet_ids"] = sorted({*one["droplet_ids"], identity})
        return 204, None

    def _create_reserved(self, _: Any, __: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        droplet = None
        if "droplet_id" in body:
            if body["droplet_id"] not in self.droplets:
                raise Refusal(422, "droplet does not exist")
            droplet = self.droplets[body["droplet_id"]]
            self._pending(droplet)
        elif body.get("region") not in REGIONS:
            raise Refusal(422, "region or droplet_id is needed")
        # 198.51.100.0/24 is for documentation (RFC 5737).
        one = {
            "ip": f"198.51.100.{len(self.reserved) + 1}", "droplet": self._public(droplet) if droplet else None,
            "region": self._region(droplet["region"]["slug"] if droplet else body["region"]), "locked": False,
            "project_id": next(iter(self.projects)), "_until": time.monotonic() + (self.pace if droplet else 0),
        }  # fmt: skip
        self.reserved[one["ip"]] = one
        return 202, {"reserved_ip": self._public(one), "links": {"droplets": [], "actions": []}}

    def _address(self, ip: str) -> dict[str, Any]:
        """A reserved address of which no event is pending."""
        if ip not in self.reserved:
            raise Refusal(404)
        if time.monotonic() < self.reserved[ip]["_until"]:
            raise Refusal(422, "The reserved IP already has a pending event.")
        return self.reserved[ip]

    def _delete_reserved(self, found: Any, _: Any, __: Any) -> tuple[int, None]:
        del self.reserved[self._address(found[0])["ip"]]
        return 204, None

    def _reserved_action(
        self, found: Any, _: Any, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        address = self._address(found[0])
        if body.get("type") == "assign":
            if body.get("droplet_id") not in self.droplets:
                raise Refusal(422, "droplet does not exist")
            droplet = self.droplets[body["droplet_id"]]
            self._pending(droplet)
            address["droplet"] = self._public(droplet)
        elif body.get("type") == "unassign":
            address["droplet"] = None
        else:
            raise Refusal(422, "type must be assign or unassign")
        address["_until"] = time.monotonic() + self.pace
        return 201, {"action": self._public(self._action(f"{body['type']}_ip", 0, "reserved_ip"))}

    def _account(self, *_: Any) -> tuple[int, dict[str, Any]]:
        return 200, {"account": {
            "droplet_limit": 25, "floating_ip_limit": 3, "email": "ops@example.com", "uuid": str(uuid.uuid4()),
            "email_verified": True, "status": "active", "status_message": "",
        }}  # fmt: skip

    def _simple(key: str, path: str, values: Callable[[Standin], list[dict[str, Any]]]) -> Any:
        def handler(
            self: Standin, _: Any, query: dict[str, str], __: Any
        ) -> tuple[int, dict[str, Any]]:
            return self._page(key, path, [self._public(one) for one in values(self)], query)

        return handler

    ROUTES: ClassVar[list[Any]] = [
        ("GET", "/v2/account", _account),
        ("GET", "/v2/regions", _list_regions),
        ("GET", "/v2/sizes", _list_sizes),
        ("GET", "/v2/images", _list_images),
        ("POST", "/v2/images", _create_image),
        ("GET", r"/v2/images/(\d+)", _get_image),
        ("GET", "/v2/droplets", _list_droplets),
        ("POST", "/v2/droplets", _create_droplet),
        ("GET", r"/v2/droplets/(\d+)/backups/policy", _get_policy),
        ("GET", r"/v2/droplets/(\d+)", _get_droplet),
        ("DELETE", r"/v2/droplets/(\d+)", _delete_droplet),
        ("POST", r"/v2/droplets/(\d+)/actions", _post_action),
        ("GET", r"/v2/actions/(\d+)", _get_action),
        ("GET", "/v2/account/keys", _list_keys),
        ("GET", r"/v2/account/keys/([\w:]+)", _get_key),
        ("POST", "/v2/account/keys", lambda self, _, __, body: (201, self._create_key(body))),
        ("DELETE", r"/v2/account/keys/(\d+)", _delete_key),
        ("GET", "/v2/tags", _simple("tags", "/v2/tags", lambda s: [s._tag(one) for one in sorted(s.tags)])),
        ("POST", "/v2/tags", _create_tag),
        ("DELETE", r"/v2/tags/([\w:-]+)", _delete_tag),
        ("POST", r"/v2/tags/([\w:-]+)/resources", _tag_resources),
        ("DELETE", r"/v2/tags/([\w:-]+)/resources", _untag_resources),
        ("GET", "/v2/projects", _simple("projects", "/v2/projects", lambda s: list(s.projects.values()))),
        ("POST", r"/v2/projects/([\w-]+)/resources", _assign),
        ("GET", "/v2/vpcs", _simple("vpcs", "/v2/vpcs", lambda s: list(s.vpcs.values()))),
        ("POST", "/v2/vpcs", _create_vpc),
        ("GET", r"/v2/vpcs/([\w-]+)/members", _list_members),
        ("DELETE", r"/v2/vpcs/([\w-]+)", _delete_vpc),
        ("GET", "/v2/firewalls", _simple("firewalls", "/v2/firewalls", lambda s: list(s.firewalls.values()))),
        ("POST", "/v2/firewalls", _create_firewall),
        ("PUT", r"/v2/firewalls/([\w-]+)", _update_firewall),
        ("DELETE", r"/v2/firewalls/([\w-]+)", _delete_firewall),
        ("POST", r"/v2/firewalls/([\w-]+)/droplets", _firewall_droplets),
        ("GET", "/v2/reserved_ips", _simple("reserved_ips", "/v2/reserved_ips", lambda s: list(s.reserved.values()))),
        ("POST", "/v2/reserved_ips", _create_reserved),
        ("DELETE", r"/v2/reserved_ips/([\d.]+)", _delete_reserved),
        ("POST", r"/v2/reserved_ips/([\d.]+)/actions", _reserved_action),
        *standin_services.ROUTES,
    ]  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # By default five clients wait to be accepted; the sixth of a busy computer is let wait by its
    # kernel, for up to a minute.
    request_queue_size = 128
    standin: Standin

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: the second of two waits 40 ms for the first to be acknowledged.
    wbufsize = -1
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, said, headers = self.server.standin.answer(
            self.command, self.path, self.headers, body
        )
        time.sleep(self.server.standin.latency)
        data = b"" if status == 204 else json.dumps(said).encode()
        if said == {"": None}:
            data = b'{"droplet": {"id": 10'
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in Standin.requests."""


def _certificate(folder: Path) -> Path:
    """Key and certificate for loopback, self-signed, in one file; the certificate alone in ca.pem."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in of DigitalOcean's API")]
    )
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(public)
    (folder / "both.pem").write_bytes(private + public)
    return folder / "both.pem"


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Standin]:
    with Standin(**options) as standin:
        yield standin


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in of DigitalOcean's API, to play with.")
    parser.add_argument("--port", type=int, default=0)
    with Standin(pace=3, lag=1, port=parser.parse_args().port) as standin:
        for name, value in standin.environment().items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
