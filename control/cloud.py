"""
Topologies on DigitalOcean: what there would be, what there is, making and removing it.

The machines are made by salt-cloud with the driver of cloud/saltext-digitalocean, from a map that
is made here from the topology; then they are converged as any others, over ssh. What is a
topology's is found by its tag (``counter:NAME``), never by memory: the account is the truth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from . import fleet, lab, openings, remote, vault
from .certificates import WITHOUT_KEYS
from .errors import Refused
from .topology import FOLDER, ROLES, ROOT, Machine, Topology

NAME = "counter"
STATE = ROOT / ".lab" / "cloud"
KEY = OWN_KEY = STATE / "id_ed25519"
TREE = STATE / "tree.tar.gz"
PROVIDER = "digitalocean"
# The tag and firewall of droplets that `salt-cloud -p prod` makes, which are of no topology.
SINGLE = "single"
# What converges the topology, told which machines are about to go.
Apply = Callable[[Topology, Sequence[str]], int]
# Seconds for one droplet to go; and for one to let us in, then to end its first boot.
PATIENCE = 300
REACH, BOOT = 300, 600
# Seconds for a private network to learn that its machines have gone.
MEMBERS = 60
DEFAULT_STAYS = (
    "it is the default of its region, which DigitalOcean never deletes; it costs nothing"
)
# Seconds between two looks at a list, which lags behind what was done.
LOOK = 2.0


# --- the account -------------------------------------------------------------------------------------


def _api() -> Any:
    """The API of the configured account; Refused when the token or a package is missing."""
    try:
        from saltext.digitalocean.api import Api, NoToken, find_token
    except ImportError as error:
        raise Refused(f"{error}: run it through make, such as 'make cloud-plan'", 2) from error
    settings = _checked(provider(), f"cloud/cloud.providers.d: {PROVIDER}")
    try:
        token = find_token(settings.get("personal_access_token"), settings.get("token_command"))
    except NoToken as error:
        raise Refused(f"{error} (docs/cloud.md)", 2) from error
    return Api(
        token,
        endpoint=settings.get("api_endpoint"),
        ca_file=settings.get("api_ca_file"),
        patience=float(settings.get("api_patience", 300)),
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )


def _told(work: Callable[[], int]) -> int:
    """``work()``, what the API refuses told in one line."""
    try:
        from saltext.digitalocean.api import ApiError, StillThere
        from saltext.digitalocean.options import OptionError
    except ImportError:
        return work()
    try:
        return work()
    except (ApiError, StillThere, OptionError) as error:
        raise Refused(str(error)) from error


def _checked(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """Settings as the driver reads them; Refused, with the path, where there is no such setting."""
    from saltext.digitalocean.options import OptionError, backup_policy, checked

    try:
        found: dict[str, Any] = checked(settings)
        return {**found, "backup_policy": backup_policy(found)}
    except OptionError as error:
        raise Refused(f"{path}: {error}", 2) from error


def provider() -> dict[str, Any]:
    return dict(_configured("providers")[PROVIDER])


def _configured(what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((ROOT / "cloud" / f"cloud.{what}.d").glob("*.conf")):
        found |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return found


# --- what is wanted ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """A droplet as the topology wants it."""

    machine: str
    name: str
    profile: str
    size: str
    image: str
    region: str
    tags: tuple[str, ...]
    backups: bool
    # {plan, …}, of the backups.
    policy: dict[str, Any] | None = None


def droplet_name(where: Topology, machine: str) -> str:
    """Unique in the account, for the account may hold several topologies."""
    return machine if machine == where.name else f"{where.name}-{machine}"


def kind(machine: Machine) -> str:
    """Its roles in one word."""
    return "-".join(sorted(set(machine.roles)))


def _tag(where: Topology, *more: str) -> str:
    return ":".join((NAME, where.name, *more))


def _tags(where: Topology, machine: Machine) -> tuple[str, ...]:
    found = [NAME, _tag(where), *(_tag(where, role) for role in machine.roles)]
    return tuple(dict.fromkeys([*found, _tag(where, kind(machine))]))


def wanted(where: Topology) -> list[Wanted]:
    profiles, default = _configured("profiles"), provider()
    found = []
    for machine in where.machines.values():
        profile = "prod" if set(machine.roles) == set(ROLES) else kind(machine)
        if profile not in profiles:
            raise Refused(
                f"cloud/cloud.profiles.d: no profile {profile} for {machine.name}, which has roles"
                f" {', '.join(machine.roles)}; there are: {', '.join(profiles)}",
                2,
            )
        given = _checked(
            {**default, **profiles[profile]}, f"cloud/cloud.profiles.d: profile {profile}"
        )
        missing = [one for one in ("size", "image", "location") if not given.get(one)]
        if missing:
            raise Refused(f"cloud/cloud.profiles.d: profile {profile}: no {missing[0]}", 2)
        for key in ("ssh_key_file", "ssh_public_key_file"):
            path = ROOT / Path(given.get(key) or OWN_KEY).expanduser()
            # This checkout's own is made at need.
            if path.with_suffix("") != OWN_KEY and not path.is_file():
                raise Refused(
                    f"cloud/cloud.profiles.d: profile {profile}: {key}: {path}: no such file", 2
                )
        found.append(
            Wanted(
                machine.name,
                droplet_name(where, machine.name),
                profile,
                given["size"],
                given["image"],
                given["location"],
                _tags(where, machine),
                given["backup_policy"] is not None,
                given["backup_policy"],
            )
        )
    return found


def _rule(opening: dict[str, Any], tag: Callable[[str], str]) -> dict[str, Any] | None:
    """One opening of a formula as an inbound rule; None for one that only loopback uses."""
    source = opening["from"]
    if source == "any":
        sources: dict[str, Any] = {"addresses": ["0.0.0.0/0", "::/0"]}
    elif "network" in source:
        sources = {"addresses": [source["network"]]}
    else:
        sources = {"tags": [tag(source["role"])]}
    return {"protocol": opening["protocol"], "ports": str(opening["port"]), "sources": sources}


def _firewall(name: str, tag: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    everywhere = {"addresses": ["0.0.0.0/0", "::/0"]}
    # As firewalld has it: ICMP comes in, everything goes out.
    inbound = [*rules, {"protocol": "icmp", "ports": "0", "sources": everywhere}]
    outbound = [
        {"protocol": protocol, "ports": "0", "destinations": everywhere}
        for protocol in ("tcp", "udp", "icmp")
    ]
    return {"name": name, "tags": [tag], "inbound_rules": inbound, "outbound_rules": outbound}


def firewalls(where: Topology) -> list[dict[str, Any]]:
    """One firewall for each kind of machine, on its tag: what firewalld lets in on the machine."""
    kinds = {kind(machine): machine for machine in where.machines.values()}
    said = openings.of(
        FOLDER / f"{where.name}.yaml", where.name, [one.name for one in kinds.values()]
    )
    found = []
    for one, machine in kinds.items():
        rules = []
        for opening in said[machine.name]:
            source = opening["from"]
            if isinstance(source, dict) and "role" in source:
                peers = {
                    name for name, peer in where.machines.items() if source["role"] in peer.roles
                }
                # A machine reaches itself over loopback.
                if not peers - {machine.name}:
                    continue
            rule = _rule(opening, lambda role: _tag(where, role))
            if rule and rule not in rules:
                rules.append(rule)
        found.append(_firewall(f"{NAME}-{where.name}-{one}", _tag(where, one), rules))
    return found


def _same_firewall(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def plain(firewall: dict[str, Any]) -> object:
        def rules(side: str, target: str) -> list[str]:
            return sorted(
                json.dumps(
                    [
                        rule["protocol"],
                        rule.get("ports") or "0",
                        {
                            key: sorted(map(str, value))
                            for key, value in (rule.get(target) or {}).items()
                            if value
                        },
                    ],
                    sort_keys=True,
                )
                for rule in firewall.get(side) or []
            )

        return (
            sorted(firewall.get("tags") or []),
            rules("inbound_rules", "sources"),
            rules("outbound_rules", "destinations"),
        )

    return plain(one) == plain(other)


# --- what would be done ----------------------------------------------------------------------------------


@dataclass
class Plan:
    """What the account has and what it lacks. Prices in US dollars a month."""

    create: list[Wanted] = field(default_factory=list)
    keep: list[tuple[Wanted, dict[str, Any]]] = field(default_factory=list)
    differ: list[tuple[Wanted, list[str]]] = field(default_factory=list)
    off: list[dict[str, Any]] = field(default_factory=list)
    gone: list[dict[str, Any]] = field(default_factory=list)
    retag: list[tuple[dict[str, Any], list[str], list[str]]] = field(default_factory=list)
    firewalls_new: list[dict[str, Any]] = field(default_factory=list)
    firewalls_changed: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    firewalls_gone: list[dict[str, Any]] = field(default_factory=list)
    network_new: bool = False
    now: float = 0.0
    after: float = 0.0

    @property
    def nothing(self) -> bool:
        return not (
            self.create
            or self.off
            or self.gone
            or self.retag
            or self.firewalls_new
            or self.firewalls_changed
            or self.firewalls_gone
            or self.network_new
        )


def _price(size: dict[str, Any], policy: dict[str, Any] | None) -> float:
    from saltext.digitalocean.options import OptionError, price_factor

    try:
        return float(size["price_monthly"]) * float(price_factor(policy))
    except OptionError as error:
        raise Refused(str(error)) from error


def _policies(api: Any, droplets: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The backup policies of those droplets that have backups, by ID."""
    from saltext.digitalocean.api import ApiError
    from saltext.digitalocean.options import DEFAULT_PLAN

    found = {}
    for one in droplets:
        if "backups" in (one.get("features") or ()):
            try:
                said = api.call("droplets", "get_backup_policy", one["id"], key="policy")
            except ApiError as error:
                if error.status != 404:
                    raise
                said = {"policy": {}}
            found[one["id"]] = said["policy"].get("backup_policy") or {"plan": DEFAULT_PLAN}
    return found


def _droplets(api: Any, where: Topology) -> list[dict[str, Any]]:
    return list(api.droplets(tag=_tag(where)))


def _network_name(where: Topology) -> str:
    return f"{NAME}-{where.name}"


def _network(api: Any, where: Topology) -> dict[str, Any] | None:
    return next(
        (one for one in api.all("vpcs", "vpcs") if one["name"] == _network_name(where)), None
    )


def _is_own(where: Topology, tag: str) -> bool:
    return tag == _tag(where) or tag.startswith(_tag(where, ""))


def _own_firewalls(api: Any, where: Topology) -> dict[str, dict[str, Any]]:
    """By name and tags: ``counter-prod-edge-store`` may be of a topology ``prod-edge``."""
    pattern = re.compile(
        rf"{NAME}-{re.escape(where.name)}-({'|'.join(ROLES)})(-({'|'.join(ROLES)}))*"
    )
    return {
        one["name"]: one
        for one in api.all("firewalls", "firewalls")
        if pattern.fullmatch(one["name"])
        and any(_is_own(where, tag) for tag in one.get("tags") or ())
    }


def _offer(api: Any, one: Wanted) -> tuple[str, str, str | int]:
    """Region, size and image as DigitalOcean has them now; OptionError when it has not."""
    from saltext.digitalocean.options import offer

    asked = {"location": one.region, "size": one.size, "image": one.image}
    kept = [api.kept(group) for group in ("regions", "sizes", "images")]
    found: tuple[str, str, str | int] = offer(asked, *kept)
    return found


def _differences(
    api: Any, one: Wanted, droplet: dict[str, Any], policy: dict[str, Any] | None
) -> list[str]:
    """How a droplet is not what its profile says."""
    from saltext.digitalocean.options import OptionError

    region, image = one.region, cast("str | int", one.image)
    # What is there may be what is no longer sold.
    with contextlib.suppress(OptionError):
        region, _, image = _offer(api, one)
    has_region = str((droplet.get("region") or {}).get("slug"))
    has_image = droplet.get("image") or {}
    if image in (has_image.get("slug"), has_image.get("id")) or not has_image:
        image = has_image.get("slug") or image
    pairs = [
        ("size", droplet["size_slug"], one.size),
        ("image", has_image.get("slug") or has_image.get("id") or image, image),
        (
            "region",
            has_region,
            has_region if has_region.rstrip("0123456789") == one.region else region,
        ),
        ("backups", policy is not None, one.backups),
    ]
    if policy and one.policy:
        pairs[-1:] = [
            (f"backup {key}", policy.get(key), value) for key, value in one.policy.items()
        ]
    return [
        f"{what} is {is_}, the profile says {should}"
        for what, is_, should in pairs
        if is_ != should
    ]


def make_plan(api: Any, where: Topology) -> Plan:
    from saltext.digitalocean.options import OptionError

    sizes = {one["slug"]: one for one in api.kept("sizes")}
    droplets = _droplets(api, where)
    policies = _policies(api, droplets)
    there = {one["name"]: one for one in droplets}
    plan = Plan()
    for one in wanted(where):
        droplet = there.pop(one.name, None)
        if droplet is None:
            try:
                _, size, _ = _offer(api, one)
            except OptionError as error:
                raise Refused(
                    f"cloud/cloud.profiles.d: profile {one.profile}: {error}", 2
                ) from error
            plan.create.append(one)
            plan.after += _price(sizes[size], one.policy)
            continue
        policy = policies.get(droplet["id"])
        price = _price(droplet["size"], policy)
        plan.now += price
        plan.after += price
        plan.keep.append((one, droplet))
        if droplet["status"] == "off":
            plan.off.append(droplet)
        wrong = _differences(api, one, droplet, policy)
        if wrong:
            plan.differ.append((one, wrong))
        # Tags say which firewall shields it, and whom others let in; those of other tools are theirs.
        tags = droplet.get("tags") or []
        has = {tag for tag in tags if _is_own(where, tag)}
        add = [tag for tag in one.tags if tag not in tags]
        drop = sorted(has - set(one.tags))
        if add or drop:
            plan.retag.append((droplet, add, drop))
    for droplet in there.values():
        plan.gone.append(droplet)
        plan.now += _price(droplet["size"], policies.get(droplet["id"]))
    known = _own_firewalls(api, where)
    for firewall in firewalls(where):
        old = known.pop(firewall["name"], None)
        if old is None:
            plan.firewalls_new.append(firewall)
        elif not _same_firewall(old, firewall):
            plan.firewalls_changed.append((old["id"], firewall))
    plan.firewalls_gone = list(known.values())
    plan.network_new = len(where.machines) > 1 and _network(api, where) is None
    return plan


def describe(where: Topology, plan: Plan) -> str:
    """The plan for a person."""
    lines = []
    differing = {one.name: wrong for one, wrong in plan.differ}
    for one in plan.create:
        extra = f" with {one.policy['plan']} backups" if one.policy else ""
        lines.append(
            f"+ create   droplet {one.name}: {one.size} in {one.region}, {one.image}{extra}"
        )
    for one, droplet in plan.keep:
        if one.name in differing:
            lines.append(
                f"! differs  droplet {one.name}: {'; '.join(differing[one.name])} (left as it is)"
            )
        else:
            lines.append(
                f"= keep     droplet {one.name} at {address_of(droplet) or 'no address yet'}"
            )
    lines += [f"~ start    droplet {droplet['name']}: it is off" for droplet in plan.off]
    lines += [
        f"~ change   tags of droplet {droplet['name']}:"
        f" {' '.join([*(f'+{tag}' for tag in add), *(f'-{tag}' for tag in drop)])}"
        for droplet, add, drop in plan.retag
    ]
    lines += [f"- destroy  droplet {one['name']}: not in the topology" for one in plan.gone]
    if plan.network_new:
        lines.append(f"+ create   private network {_network_name(where)}")
    lines += [f"+ create   firewall {one['name']}: {_open(one)}" for one in plan.firewalls_new]
    lines += [
        f"~ change   firewall {one['name']}: {_open(one)}" for _, one in plan.firewalls_changed
    ]
    lines += [f"- destroy  firewall {one['name']}" for one in plan.firewalls_gone]
    if plan.nothing:
        lines.append("nothing to do")
    lines.append(
        f"${plan.now:.2f} a month now, ${plan.after:.2f} afterwards (droplets, before tax and traffic)"
    )
    return "\n".join(lines)


def _open(firewall: dict[str, Any]) -> str:
    said = []
    for rule in firewall["inbound_rules"]:
        if rule["protocol"] == "icmp":
            continue
        sources = rule["sources"]
        who = (
            ""
            if "0.0.0.0/0" in sources.get("addresses", ())
            else (f" from {', '.join([*sources.get('tags', ()), *sources.get('addresses', ())])}")
        )
        said.append(f"{rule['protocol']} {rule['ports']}{who}")
    return "; ".join(said)


def address_of(droplet: dict[str, Any], kind_of: str = "public") -> str | None:
    return next(
        (
            one["ip_address"]
            for one in droplet["networks"].get("v4") or []
            if one["type"] == kind_of
        ),
        None,
    )


# --- commands ----------------------------------------------------------------------------------------------


def plan(where: Topology) -> int:
    def work() -> int:
        print(describe(where, make_plan(_api(), where)))
        return 0

    return _told(work)


def up(where: Topology, apply: Apply) -> int:
    """Make what is missing, then converge it all with ``apply``."""
    _not_the_lab(where)
    return _told(lambda: _up(where, apply))


def _up(where: Topology, apply: Apply) -> int:
    api = _api()
    todo = make_plan(api, where)
    print(describe(where, todo), flush=True)
    gone = [one["name"].removeprefix(f"{where.name}-") for one in todo.gone]
    if gone and todo.create and todo.keep:
        # As in the lab (machines.refuse_swap): who is to go first, nobody knows.
        raise Refused(
            f"topology {where.name} has lost {', '.join(gone)} and gained"
            f" {', '.join(one.machine for one in todo.create)}: first add (leave {', '.join(gone)} in"
            " it), 'make cloud-up', then take away and 'make cloud-up' again"
        )
    if todo.keep and not _here(where):
        names = ", ".join(droplet["name"] for _, droplet in todo.keep)
        raise Refused(
            f"{names}: made from another checkout, and nothing here opens them: {lab.access_hint(where)};"
            " nothing was changed"
        )
    if todo.gone:
        names = ", ".join(one["name"] for one in todo.gone)
        ask(f"destroy {names}, and all that is on them?")
    make_key()
    # From here on it is this checkout's, also when this is interrupted.
    lab.state(where).mkdir(parents=True, exist_ok=True)
    (lab.state(where) / "provider").write_text(f"{PROVIDER}\n", encoding="utf-8")
    _surroundings(api, where, todo)
    _start(api, where, todo.off)
    if todo.create:
        if not todo.keep:
            vault.begin(where)
        _salt_cloud(where, todo)
    droplets = {one["name"]: one for one in _settled(api, where)}
    missing = [one.name for one in wanted(where) if one.name not in droplets]
    if missing:
        raise Refused(f"{', '.join(missing)}: not there after salt-cloud said so: run it again")
    write_access(where, droplets, [one.name for one in todo.create])
    wait_for_login(resolved(where))
    code = apply(resolved(where), gone)
    if code:
        raise Refused(
            f"the droplets are there, and paid, but not converged: mend the above, then 'make apply"
            f" TOPOLOGY={where.name}'",
            code,
        )
    for one in todo.gone:
        api.remove_droplet(one["id"], one["name"], PATIENCE, LOOK)
        print(f"destroyed {one['name']}", flush=True)
    for name in gone:
        vault.drop(where, name)
    # Only now, that all is converged: until here it had what either role needs.
    for droplet, _, drop in todo.retag:
        _retag(api, "unassign_resources", droplet, drop)
    for firewall in todo.firewalls_gone:
        api.call("firewalls", "delete", firewall["id"])
    return 0


def _retag(api: Any, how: str, droplet: dict[str, Any], tags: Sequence[str]) -> None:
    for tag in tags:
        resource = {"resource_id": str(droplet["id"]), "resource_type": "droplet"}
        api.call("tags", how, tag, {"resources": [resource]})


def wait_for_login(where: Topology) -> None:
    """
    Return once every machine lets us in and has ended its first boot, which may hold apt and sshd.
    One that does not in time is named, and left to what follows; Refused when none does.
    """
    codes = fleet.each(where, lambda host: _wait_for_login(where, host))
    if all(codes.values()):
        raise Refused(
            f"no machine of topology {where.name} could be used (see above): the droplets are there,"
            f" and paid: mend the above, then 'make cloud-up TOPOLOGY={where.name}' again"
        )


def _wait_for_login(where: Topology, host: str) -> int:
    began = time.monotonic()
    told = False
    while True:
        done = subprocess.run(
            remote.ssh(where, host, "true", fresh=True),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if not done.returncode:
            break
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if time.monotonic() - began > REACH:
            raise Refused(f"{host}: ssh still does not let us in after {REACH} s: {said}")
        if not told:
            fleet.say(f"{host}: waiting for ssh ({said})")
            told = True
        time.sleep(LOOK)
    # Its exit code 1 or 2 means that something of it failed, which is told and hinders nothing.
    command = (
        "command -v cloud-init >/dev/null || exit 0;"
        f" timeout {BOOT} cloud-init status --wait >/dev/null 2>&1; code=$?;"
        f" [ $code != 124 ] || {{ echo 'cloud-init is not done after {BOOT} s' >&2; exit 1; }};"
        " [ $code = 0 ] || echo \"cloud-init complains: see 'cloud-init status --long'\""
    )
    complains = remote.run(where, host, command).strip()
    if complains:
        fleet.say(f"{host}: {complains}", sys.stderr)
    if told:
        fleet.say(f"{host}: ready after {time.monotonic() - began:.0f} s")
    return 0


def _settled(api: Any, where: Topology) -> list[dict[str, Any]]:
    """The topology's droplets once lists know all of them: they lag behind."""
    names = {one.name for one in wanted(where)}
    deadline = time.monotonic() + 30
    while True:
        found = _droplets(api, where)
        if names <= {one["name"] for one in found} or time.monotonic() > deadline:
            return found
        time.sleep(LOOK)


def _not_the_lab(where: Topology) -> None:
    note = lab.state(where) / "provider"
    if note.exists() and note.read_text(encoding="utf-8").strip() != PROVIDER:
        raise Refused(
            f"topology {where.name} is up in the lab of this checkout: 'make down"
            f" TOPOLOGY={where.name}' first, or use another checkout"
        )


def refuse_here(where: Topology, down: bool = False) -> None:
    """Refused when the topology is in the cloud: the lab's commands would only forget it. What to do
    instead never destroys, unless that is what was asked for (``down``)."""
    if not _here(where):
        return
    command = f"'make cloud-{'down' if down else 'up'} TOPOLOGY={where.name}'"
    does = "lists what it would destroy there, and asks"
    if not down:
        does = "makes what is missing there, starts what is off, and converges it"
    raise Refused(f"topology {where.name} is on DigitalOcean, and paid: {command} {does}")


def _start(api: Any, where: Topology, off: Sequence[dict[str, Any]]) -> None:
    """Switch droplets on, and return once all of them are."""
    names = {one["name"] for one in off}
    for one in off:
        print(f"starting {one['name']}", flush=True)
        api.act(one["id"], "power_on", repeat=True)
    deadline = time.monotonic() + PATIENCE
    while left := sorted(
        one["name"]
        for one in (_droplets(api, where) if names else ())
        if one["name"] in names and one["status"] != "active"
    ):
        if time.monotonic() > deadline:
            raise Refused(
                f"{', '.join(left)}: still off after {PATIENCE} s: see the control panel, then 'make"
                f" cloud-up TOPOLOGY={where.name}' again"
            )
        time.sleep(LOOK)


def _surroundings(api: Any, where: Topology, todo: Plan) -> None:
    """Network, key, tags and firewalls, before any machine is there to need them."""
    if todo.create:
        api.give_key(KEY.with_suffix(".pub").read_text(encoding="utf-8").strip())
    if todo.network_new:
        region, _, _ = _offer(api, (todo.create or wanted(where))[0])
        body = {"name": _network_name(where), "region": region}

        def there() -> dict[str, Any] | None:
            found = _network(api, where)
            return {"vpc": found} if found else None

        api.call("vpcs", "create", body, found=there, key="vpc")
    # A rule may only name tags that exist; a tag that exists is no error.
    for tag in sorted(
        {tag for one in wanted(where) for tag in one.tags} | {_tag(where, role) for role in ROLES}
    ):
        api.call("tags", "create", {"name": tag}, repeat=True)
    for firewall in todo.firewalls_new:
        _create_firewall(api, firewall)
    for identity, firewall in todo.firewalls_changed:
        api.call("firewalls", "update", identity, firewall)
    for droplet, add, _ in todo.retag:
        _retag(api, "assign_resources", droplet, add)


def _create_firewall(api: Any, firewall: dict[str, Any]) -> None:
    def there() -> dict[str, Any] | None:
        known = api.all("firewalls", "firewalls")
        return next(({"firewall": one} for one in known if one["name"] == firewall["name"]), None)

    api.call("firewalls", "create", firewall, found=there, key="firewall")


def make_map(where: Topology, todo: list[Wanted]) -> dict[str, Any]:
    """The salt-cloud map of these machines. They are converged afterwards, so nothing is deployed."""
    found: dict[str, Any] = {}
    for one in todo:
        own: dict[str, Any] = {
            "tags": list(one.tags),
            "deploy": False,
            # Its name in the topology, whatever the droplet's is in the account.
            "userdata": f"#cloud-config\nhostname: {one.machine}\n",
        }
        if len(where.machines) > 1:
            own["vpc"] = _network_name(where)
        found.setdefault(one.profile, []).append({one.name: own})
    return found


def _salt_cloud(where: Topology, todo: Plan) -> None:
    """Run the map. salt-cloud exits with 0 whatever a machine of a map met: its answer is read."""
    folder = lab.state(where)
    folder.mkdir(parents=True, exist_ok=True)
    path, answer = folder / "cloud.map", folder / "cloud.answer.json"
    path.write_text(
        "# Made from the topology by `make cloud-up`; do not edit.\n"
        + yaml.safe_dump(make_map(where, todo.create), sort_keys=False),
        encoding="utf-8",
    )
    answer.unlink(missing_ok=True)
    line = [str(Path(sys.executable).parent / "salt-cloud"), "-y", "-P", "-m", str(path)]
    code = _ended([*line, "--out=json", f"--out-file={answer}"])
    try:
        said = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = {}
    wrong = {
        one.name: _error(said.get(one.name)) for one in todo.create if _error(said.get(one.name))
    }
    if code or wrong:
        from saltext.digitalocean.api import ApiError

        reasons = "; ".join(f"{name}: {why}" for name, why in wrong.items())
        if not said:
            reasons = f"salt-cloud ended with {code} and no answer (see above)"
        reasons = reasons or f"salt-cloud ended with {code} (see above)"
        # The account knows what there is, whatever salt-cloud said or could no longer say.
        names = {one.name for one in todo.create}
        try:
            made = sorted(one["name"] for one in _stable(_api(), where) if one["name"] in names)
            rest = f" (made, and paid: {', '.join(made)}: run it again)" if made else ""
        except ApiError as error:
            rest = f" (what was made, and is paid, could not be asked: {error}: 'make cloud-plan')"
        raise Refused(f"{reasons}{rest}")


def _ended(line: list[str]) -> int:
    """The exit code of salt-cloud. Ctrl-C reaches it too, and it then removes what is made by halves:
    that is waited for (subprocess.run would kill it after a quarter of a second)."""
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        interrupted = False
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
                print("interrupted: salt-cloud removes what is half-made", file=sys.stderr)
    if interrupted:
        raise KeyboardInterrupt
    return code


def _stable(api: Any, where: Topology) -> list[dict[str, Any]]:
    """The topology's droplets once two looks see the same, a minute at most."""
    deadline = time.monotonic() + 60
    found = _droplets(api, where)
    while True:
        time.sleep(LOOK)
        before, found = found, _droplets(api, where)
        same = {one["id"] for one in before} == {one["id"] for one in found}
        if same or time.monotonic() > deadline:
            return found


def _error(answer: Any) -> str:
    """What went wrong with one machine of a map; empty when nothing did."""
    if not isinstance(answer, dict) or not answer:
        return "no answer of salt-cloud"
    return str(answer.get("Error") or "")


def ask(question: str) -> None:
    """Go on only after a yes: YES=1, or typed."""
    if os.environ.get("YES") == "1":
        return
    if not sys.stdin.isatty():
        raise Refused(f"{question} Not a terminal: pass YES=1 to confirm", 2)
    print(f"{question} [y/N] ", end="", flush=True)
    if input().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was done")


def down(where: Topology) -> int:
    return _told(lambda: _down(where))


def _down(where: Topology) -> int:
    api = _api()
    droplets, shields = _droplets(api, where), _own_firewalls(api, where)
    network = _network(api, where)
    # The first of a region is its default, which the API never deletes.
    stays = DEFAULT_STAYS if network and network.get("default") else ""
    tags = [one["name"] for one in api.all("tags", "tags") if _is_own(where, one["name"])]
    if not (droplets or shields or tags or (network and not stays)):
        # Its network alone says that this is the account.
        if _here(where) and not stays and os.environ.get("FORCE") != "1":
            raise Refused(
                f"nothing of topology {where.name} is in this account, but this checkout has made it on"
                " DigitalOcean: is the token another account's? FORCE=1 forgets it"
            )
        _forget(where)
        but = f" but private network {_network_name(where)}: {stays}" if stays else ""
        print(f"nothing of topology {where.name} is on DigitalOcean{but}")
        return 0
    policies = _policies(api, droplets)
    price = sum(_price(one["size"], policies.get(one["id"])) for one in droplets)
    for one in droplets:
        print(
            f"- destroy  droplet {one['name']} at {address_of(one) or 'no address'}, and all that is on it"
        )
    for name in shields:
        print(f"- destroy  firewall {name}")
    if network:
        print(
            f"= keep     private network {network['name']}: {stays}"
            if stays
            else f"- destroy  private network {network['name']}"
        )
    print(f"${price:.2f} a month now, $0.00 afterwards", flush=True)
    if droplets or shields or (network and not stays):
        ask(f"destroy topology {where.name} on DigitalOcean?")
    # What lists did not know yet, too.
    deadline = time.monotonic() + PATIENCE
    while droplets:
        for one in droplets:
            api.remove_droplet(one["id"], one["name"], PATIENCE, LOOK)
            print(f"destroyed {one['name']}", flush=True)
        droplets = _stable(api, where)
        if droplets and time.monotonic() > deadline:
            names = ", ".join(one["name"] for one in droplets)
            raise Refused(f"{names}: still there, and paid: run it again")
    for firewall in shields.values():
        _gone_is_fine(api, "firewalls", firewall["id"])
    if network and not stays:
        stays = _remove_network(api, network)
    for tag in tags:
        _gone_is_fine(api, "tags", tag)
    if not api.droplets(tag=NAME):
        # Nobody else's either: other topologies and single droplets have it too.
        _gone_is_fine(api, "tags", NAME)
    _remove_key(api)
    _forget(where)
    but = f" but private network {_network_name(where)}: {stays}" if stays else ""
    print(f"nothing of topology {where.name} is left on DigitalOcean{but}")
    return 0


def _gone_is_fine(api: Any, group: str, identity: str) -> None:
    from saltext.digitalocean.api import ApiError

    try:
        api.call(group, "delete", identity)
    except ApiError as error:
        if error.status != 404:
            raise


def _remove_network(api: Any, network: dict[str, Any]) -> str:
    """Empty once it has gone, else why it stays. It counts a machine for a while after that has gone,
    and is refused until then: 409, or 403."""
    from saltext.digitalocean.api import ApiError

    deadline = time.monotonic() + MEMBERS
    while True:
        try:
            _gone_is_fine(api, "vpcs", network["id"])
            return ""
        except ApiError as error:
            if error.status == 403 and "default" in error.message.lower():
                return DEFAULT_STAYS
            if error.status not in (403, 409):
                raise
            if time.monotonic() > deadline:
                members = api.all("vpcs", "members", method="list_members", vpc_id=network["id"])
                if not members:
                    raise
                urns = ", ".join(str(one.get("urn") or one.get("name")) for one in members)
                return f"others are in it ({urns}); it costs nothing"
            time.sleep(LOOK)


def _remove_key(api: Any) -> None:
    """This checkout's public key, which only the making of droplets needs."""
    try:
        own = KEY.with_suffix(".pub").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError):
        return
    for one in api.kept("ssh_keys"):
        if one["public_key"].split()[1:2] == [own]:
            _gone_is_fine(api, "ssh_keys", one["id"])


def _here(where: Topology) -> bool:
    """Whether this checkout has the topology in the cloud."""
    note = lab.state(where) / "provider"
    return note.exists() and note.read_text(encoding="utf-8").strip() == PROVIDER


def _forget(where: Topology) -> None:
    """Forget the machines, but not the secrets: one of them is all that opens the backups."""
    if not _here(where):
        return
    folder = lab.state(where)
    secrets = folder / "secrets"
    if secrets.exists():
        kept = folder.with_name(f"{folder.name}.removed-{time.strftime('%Y%m%dT%H%M%S')}")
        kept.mkdir(mode=0o700)
        secrets.rename(kept / secrets.name)
        print(
            f"its secrets, with the key that opens its backups, are kept in {kept / secrets.name}:"
            " remove them when no backup is needed any more"
        )
    shutil.rmtree(folder)


# --- reaching them --------------------------------------------------------------------------------------------


def make_key() -> None:
    """This checkout's ssh key, unless it is there."""
    STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not KEY.exists():
        comment = f"{NAME}-{os.urandom(4).hex()}"
        lab.run_quiet(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(KEY)]
        )


def _ssh_options() -> list[str]:
    return [
        f"IdentityFile {KEY}",
        "IdentitiesOnly yes",
        "StrictHostKeyChecking accept-new",
        "LogLevel ERROR",
        "ConnectTimeout 10",
    ]


def write_access(
    where: Topology, droplets: dict[str, dict[str, Any]], new: Sequence[str] = ()
) -> None:
    """
    What every other command needs to reach the machines: the ssh configuration and the topology
    with the addresses that the cloud gave, both in ``.lab/TOPOLOGY``. ``new``: droplets that were
    just made, whose addresses may have been others' before.
    """
    folder = lab.state(where)
    folder.mkdir(parents=True, exist_ok=True)
    data = yaml.safe_load((FOLDER / f"{where.name}.yaml").read_text(encoding="utf-8"))
    blocks = []
    for machine in where.machines:
        droplet = droplets[droplet_name(where, machine)]
        public, private = address_of(droplet), address_of(droplet, "private")
        if not public or not private:
            raise Refused(
                f"{droplet['name']} has no address: see the control panel, then run it again"
            )
        data["machines"][machine]["address"] = private
        data["machines"][machine]["public"] = public
        data["machines"][machine]["cpus"] = droplet["vcpus"]
        if droplet["name"] in new and (folder / "known_hosts").exists():
            lab.run_quiet(["ssh-keygen", "-q", "-R", public, "-f", str(folder / "known_hosts")])
        blocks.append(f"Host {machine}\n  HostName {public}\n  User {provider()['ssh_username']}\n")
    data["network"] = _range(droplets, [one["address"] for one in data["machines"].values()])
    # The lab's host is nobody there; other trusted clients are the operator's own.
    trusted = [one for one in data.pop("trusted", ()) if one != where.gateway]
    if trusted:
        data["trusted"] = trusted
    (folder / "cloud.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    (folder / "provider").write_text(f"{PROVIDER}\n", encoding="utf-8")
    control = lab.CACHE / "ssh"
    control.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Those that came from another controller (control/access.py) open what it made.
    brought = sorted((folder / "keys").glob("*"))
    options = [
        *(f"IdentityFile {key}" for key in brought),
        *_ssh_options(),
        f"UserKnownHostsFile {folder / 'known_hosts'}",
        "ControlMaster auto",
        f"ControlPath {control}/%C",
        "ControlPersist 60",
        "ServerAliveInterval 3",
        "ServerAliveCountMax 3",
    ]
    common = "Host *\n" + "".join(f"  {one}\n" for one in options)
    (folder / "ssh_config").write_text("\n".join([*blocks, common]), encoding="utf-8")


def _range(droplets: dict[str, dict[str, Any]], addresses: list[str]) -> str:
    """The private network that the machines are in."""
    ranges = {one["id"]: one.get("ip_range") for one in _api().all("vpcs", "vpcs")}
    for droplet in droplets.values():
        network = ipaddress.IPv4Network(ranges.get(droplet.get("vpc_uuid")) or "0.0.0.0/32")
        if all(ipaddress.IPv4Address(one) in network for one in addresses):
            return str(network)
    # A network that the token may not read: as much of it as the addresses show.
    return str(ipaddress.IPv4Network(f"{addresses[0]}/24", strict=False))


def resolved(where: Topology) -> Topology:
    """The topology with the addresses that the cloud gave, where it is up in the cloud."""
    path = lab.state(where) / "cloud.yaml"
    return topology_of(path, where) if path.exists() else where


def notice(where: Topology) -> None:
    """Say so, on stderr, when the topology's file has changed since cloud-up: machines still get what
    was true then."""
    path = lab.state(where) / "cloud.yaml"
    if not path.exists():
        return

    def plain(data: dict[str, Any]) -> dict[str, Any]:
        own = ("address", "public", "cpus")
        machines = {
            name: {key: value for key, value in one.items() if key not in own}
            for name, one in data["machines"].items()
        }
        trusted = [one for one in data.get("trusted", ()) if one != _written_gateway(data)]
        return {**data, "machines": machines, "network": None, "trusted": trusted}

    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    written = yaml.safe_load((FOLDER / f"{where.name}.yaml").read_text(encoding="utf-8"))
    if plain(given) != plain(written):
        print(
            f"pillar/topologies/{where.name}.yaml has changed since 'make cloud-up': what it says now"
            f" comes with 'make cloud-up TOPOLOGY={where.name}'",
            file=sys.stderr,
        )


def _written_gateway(data: dict[str, Any]) -> str:
    return str(next(ipaddress.IPv4Network(data["network"]).hosts()))


def topology_of(path: Path, where: Topology) -> Topology:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    machines = {
        name: dataclasses.replace(one, address=data["machines"][name]["address"])
        for name, one in where.machines.items()
        if name in data["machines"]
    }
    return dataclasses.replace(
        where, machines=machines, network=ipaddress.IPv4Network(data["network"])
    )


def public(where: Topology) -> str | None:
    """The address of the edge that clients use, where the topology is up in the cloud."""
    path = lab.state(where) / "cloud.yaml"
    if not path.exists():
        return None
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(data["machines"][where.edge.name]["public"])


# --- what salt-cloud runs here (cloud/cloud.providers.d, cloud/cloud.profiles.d) ---------------------------------


def prepare(where: Topology, build: Callable[[], str]) -> int:
    """Before a droplet is made: the key; for `salt-cloud -p prod` also tree and firewall."""
    return _told(lambda: _prepare(where, build))


def _prepare(where: Topology, build: Callable[[], str]) -> int:
    make_key()
    if (
        os.environ.get("SALT_CLOUD_PROFILE") != "prod"
        or os.environ.get("SALT_CLOUD_DEPLOY") == "False"
    ):
        return 0
    release = build()
    _, archive = remote.pack(where, where.edge.name, release)
    staged = TREE.with_name(f"{TREE.name}.{os.getpid()}")
    staged.write_bytes(archive)
    staged.replace(TREE)
    api = _api()
    name, tag = f"{NAME}-{SINGLE}", f"{NAME}:{SINGLE}"
    said = openings.of(FOLDER / f"{where.name}.yaml", where.name, [where.edge.name])
    rules = [_rule(one, str) for one in said[where.edge.name] if one["from"] == "any"]
    firewall = _firewall(name, tag, [rule for rule in rules if rule])
    api.call("tags", "create", {"name": tag}, repeat=True)
    old = next((one for one in api.all("firewalls", "firewalls") if one["name"] == name), None)
    if old is None:
        _create_firewall(api, firewall)
    elif not _same_firewall(old, firewall):
        api.call("firewalls", "update", old["id"], firewall)
    print(f"tree and {release} packed, firewall: {_open(firewall)}")
    return 0


def check(_: Topology) -> int:
    """After a droplet was made: one count over HTTPS, as a client, the certificate verified."""
    address = os.environ.get("SALT_CLOUD_ADDRESS") or ""
    options = [word for one in _ssh_options() for word in ("-o", one.replace(" ", "=", 1))]
    # Its host key was made minutes ago; the CA comes over the connection that the deploy used.
    options += ["-o", "UserKnownHostsFile=/dev/null"]
    done = subprocess.run(
        [
            "ssh",
            "-F",
            "none",
            *options,
            f"{provider()['ssh_username']}@{address}",
            f"{WITHOUT_KEYS} /etc/stack/pki/ca.pem",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refused(f"{address}: its CA could not be read: {done.stderr.strip()}")
    context = ssl.create_default_context(cadata=done.stdout)
    try:
        # To the machine itself, past any proxy, as ssh reaches it.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"https://{address}/", timeout=20) as answer:
            text = answer.read(200).decode()
    except OSError as error:
        raise Refused(f"https://{address}/: {error}") from error
    if not re.fullmatch(r"Hello World! I have been seen \d+ times\.\n", text):
        raise Refused(f"https://{address}/ answers {text!r}")
    print(f"https://{address}/ answers: {text.strip()}")
    return 0
